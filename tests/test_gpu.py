"The report from a GPU: a rehearsal of every part, going on where it stopped, what fails, and the way home."
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent
GPU = ROOT/'benchmarks/gpu.py'
KEPT = sorted((ROOT/'benchmarks/results').glob('gpu-*/'))

sys.path[:0] = [str(GPU.parent), str(ROOT/'tools')]
import bench_tables
import gpu
import gpu_agree
import gpu_common
import gpu_home
import gpu_parts
import gpu_plan
import gpu_speed
import gpu_table
import gpu_train
from lstm_video_repr import fast_lstm
from lstm_video_repr.lstm import set_backend
from lstm_video_repr.models import VideoLSTM, VideoLSTMConfig
from lstm_video_repr.training import STEPS, History, get_recipe, make_optimizer, objective
from lstm_video_repr.zoo import load_model

pytestmark = pytest.mark.usefixtures('one_thread')

TINY = gpu_common.TINY

# What a machine with a GPU does not have, blocked in every process of the rehearsal.
ABSENT = 'nbdev fastcore IPython ipywidgets anywidget av skimage h5py pooch pytest'.split()
BLOCK = f'''
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {ABSENT}: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
'''


@pytest.fixture(scope='module')
def rehearsal(tmp_path_factory):
    "Folder of the results, what was packed, and what was printed."
    folder = tmp_path_factory.mktemp('gpu')
    (folder/'site').mkdir()
    (folder/'site'/'sitecustomize.py').write_text(BLOCK)
    env = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(folder/'site')}
    words = GPU, '--rehearse', '--out', folder/'out', '--pack', folder/'home', '--seconds', 600 # more than enough
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder/'out', folder/'home', done.stdout


@pytest.fixture
def part(tmp_path):
    "Run one part here, tiny: a function of its name that gives what it found."
    settings = dict(device='cpu', rehearse=True, digits='embedded', seed=0, batch=None, lr=None, units=None)
    def run(name, seconds=600., **changes): # far more than is needed, for machines that are busy
        gpu_parts.run_part(name, tmp_path/'out', tmp_path/'work', settings | changes, seconds)
        return gpu_common.read(tmp_path/'out'/f'gpu-{name}.json')
    run.out = tmp_path/'out'
    return run


# ---- the rehearsal

def test_every_part_is_complete(rehearsal):
    out, _, said = rehearsal
    found = gpu_table.read_all(out)
    assert {name: f['status'] for name, f in found.items()} == dict.fromkeys(gpu_parts.PARTS, 'complete'), said
    for name, f in found.items():
        text = (out/f'gpu-{name}.json').read_text()
        assert not re.search(r'NaN|Infinity|"/\w', text) and len(text) < 200_000, name
        assert f['settings']['rehearse'] and f['versions']['torch'] == torch.__version__ and f['cpu_seconds'] > 0
        assert f['machine'] and f['date'] and f['missing'] == [] and 'commit' in f


def test_agreement(rehearsal):
    checks = gpu_table.read_all(rehearsal[0])['agree']['checks']
    assert all(c['ok'] and 0 <= c['error'] <= c['allowed'] for c in checks)
    names = ' '.join(c['name'] for c in checks)
    for words in ('fused', 'compiled', 'fp32', 'bf16', 'with input', 'without input', 'with peepholes',
                  'without peepholes', '1 layer', '2 layers', 'bit for bit', 'recorded', 'resumed', 'evaluation',
                  'composite'):
        assert words in names
    assert sum('layer' in c['name'] and 'peepholes' in c['name'] for c in checks) == 2*2*8
    for dtype, allowed in (('fp32', 1e-5), ('bf16', 2e-2)):
        assert {c['allowed'] for c in checks if f'{dtype}, with' in c['name']} == {allowed}


def test_speed_is_a_results_file_of_the_benchmarks(rehearsal):
    results = bench_tables.load(rehearsal[0]/'gpu-speed.json')
    def rows(*args, **like): return bench_tables.rows(results, *args, **like)
    assert set(results['groups']) == {'gemm', 'composite', 'layer'} and 'nn.LSTM' in bench_tables.table(results)
    for group in ('composite', 'layer'):
        for r in rows(group):
            assert r['gflops_per_s'] == pytest.approx(r['flops'] / r['seconds']['median'] / 1e9, rel=1e-4)
            assert r['share_of_limit'] == pytest.approx(r['gflops_per_s'] / results['limit'][r['dtype']], rel=1e-4)
        variants = {d: {r['variant'] for r in rows(group, dtype=d)} for d in ('fp32', 'bf16')}
        ours = {'compiled', 'compiled, recorded', 'fused'}
        assert variants['fp32'] >= ours | {'nn.LSTM', 'nn.LSTM, recorded'} and variants['bf16'] >= ours
    sizes = [(r['case']['layers'], r['case']['batch']) for r in rows('composite', 'compiled', 'bf16')]
    assert sizes == [(L, B) for L in (2, 1) for B in TINY.batches], 'what matters most comes first'
    assert {r['case']['when'] for r in rows('gemm')} == {'start', 'end'}
    assert len(results['compiled']) == len(rows('composite', 'compiled')) + len(rows('layer', 'compiled'))


def test_clips_and_rates(rehearsal):
    found = gpu_table.read_all(rehearsal[0])
    made, tried = found['clips']['rows'], found['rates']['rows']
    assert [r['batch'] for r in made] == list(TINY.made) and any('times_what_2_layers_eat' in r for r in made)
    assert [r['lr'] for r in tried] == list(TINY.rates)
    assert found['rates']['best'] == min(tried, key=lambda r: r['validation'])['lr']


@pytest.mark.parametrize('name', [*gpu_common.ROWS, 'bundle'])
def test_trainings(rehearsal, name):
    from PIL import Image
    out, found = rehearsal[0], gpu_table.read_all(rehearsal[0])
    row = found[name]
    assert row['trained']['step'] == row['plan']['steps'] == TINY.most and row['attempts'] == []
    assert row['plan']['changes']['batch_size'] == row['batch']
    assert row['plan']['changes']['lr'] == (1.5e-3 if name == 'bundle' else found['rates']['best'])
    tests = row['test'].values() if name == 'bundle' else [row['test']]
    for test in tests:
        scores = test['future']
        assert test['clips'] == TINY.test and len(scores['per_frame']['nats']) == 10
        assert sum(scores['per_frame']['nats']) / 10 == pytest.approx(scores['overall']['nats'], abs=.02)
        assert {'mse', 'ssim'} <= set(scores['overall']) and 0 < scores['errors']['nats'] < scores['overall']['nats']
        assert ('reconstruction' in test) == (name == 'bundle' or 'future' not in name)
    if name != 'bundle':
        assert row['test']['decoding'] == 'free-running' and row['paper'] == gpu_common.ROWS[name][1]
    log = [json.loads(line) for line in (out/f'gpu-{name}.jsonl').read_text().splitlines()]
    assert log[-1]['step'] == row['trained']['step']
    assert row['curve'][-1]['future'] == pytest.approx(log[-1]['future'], rel=1e-4)
    assert row['validation'][-1]['step'] == row['trained']['step'] and '345.0' in row['passed']
    for picture in ('curve', 'strips'): assert min(Image.open(out/f'gpu-{name}-{picture}.png').size) > 200
    assert not (out/'work'/name).exists(), 'what a complete part no longer needs'


def test_summary(rehearsal, capsys):
    out, _, said = rehearsal
    text = (out/'summary.txt').read_text()
    assert said.endswith(text) and 'rehearsal' in text
    for words in ('composite-conditional-future, nats per future frame', ' ± ', '350.2', 'under 285.2', "authors' 345",
                  '1.5x', '65%', '20 times', '46 of 46', 'learning rates tried'):
        assert words in text, words
    assert gpu.main(['--list', '--out', str(out)]) == 0
    assert capsys.readouterr().out.count('complete') == len(gpu_parts.PARTS)
    assert gpu.main(['--summary', '--out', str(out)]) == 0 and capsys.readouterr().out == text


def test_complete_parts_are_not_run_again(rehearsal, capsys):
    out, rehearse = rehearsal[0], ['--rehearse', '--out', str(rehearsal[0])]
    before = {p.name: p.read_bytes() for p in out.glob('gpu-*')}
    assert gpu.main(rehearse) == 0
    assert capsys.readouterr().out.count('complete already') == len(gpu_parts.PARTS)
    assert {p.name: p.read_bytes() for p in out.glob('gpu-*')} == before
    with pytest.raises(SystemExit): gpu.main([*rehearse, '--batch', '2', '--parts', 'row-future'])
    assert 'batch None (now 2)' in (said := capsys.readouterr().err) and '--fresh' in said
    assert gpu.main([*rehearse, '--batch', '2', '--parts', 'agree,speed,clips']) == 0, 'these train nothing'


# ---- bringing it home

def test_the_way_home(rehearsal, tmp_path, capsys):
    out, home, _ = rehearsal
    assert len(list(home.iterdir())) <= 8 and all(p.stat().st_size <= 16e6 for p in home.iterdir())
    assert gpu.main(['--join', str(home), '--out', str(tmp_path/'out')]) == 0
    for p in out.glob('gpu-*'): assert (tmp_path/'out'/p.name).read_bytes() == p.read_bytes()
    about = gpu_table.read_all(out)['bundle']
    model = tmp_path/'out'/'work'/'bundle.safetensors'
    assert hashlib.sha256(model.read_bytes()).hexdigest() == about['file']['sha256']
    assert model.stat().st_size == about['file']['bytes']
    loaded = load_model(model)
    assert loaded.config.hidden_size == TINY.trained['units']
    assert loaded.card['clips seen'] == about['trained']['clips']
    log = model.with_name('log.jsonl')
    assert log.read_bytes() == (out/'gpu-bundle.jsonl').read_bytes(), 'as tools/bundle.py wants it'
    shutil.copytree(home, tmp_path/'home')
    piece = tmp_path/'home'/'bundle.safetensors.00'
    piece.write_bytes(piece.read_bytes()[:-1] + b'x')
    assert gpu.main(['--join', str(tmp_path/'home'), '--out', str(tmp_path/'other')]) == 1
    assert 'bundle.safetensors.00 is damaged' in capsys.readouterr().err
    assert not (tmp_path/'other'/'work'/'bundle.safetensors').exists()
    assert (tmp_path/'other'/'gpu-agree.json').exists(), 'results do not need the model'
    results = tmp_path/'home'/gpu_home.RESULTS
    results.write_bytes(results.read_bytes()[:-1000])
    assert gpu.main(['--join', str(tmp_path/'home'), '--out', str(tmp_path/'third')]) == 1
    assert f'{gpu_home.RESULTS} is damaged' in capsys.readouterr().err


def test_archives_name_nobody(rehearsal):
    with tarfile.open(rehearsal[1]/gpu_home.RESULTS) as tar:
        assert {(m.uname, m.gname, m.uid, m.gid) for m in tar} == {('', '', 0, 0)}


@pytest.mark.parametrize('size', [0, 1, 10, 11, 25])
def test_pieces(tmp_path, size):
    file = tmp_path/'a.bin'
    file.write_bytes(bytes(range(size)))
    (tmp_path/'home').mkdir()
    (tmp_path/'home'/'a.bin.07').write_bytes(b'of an earlier cut')
    listed = gpu_home.cut(file, tmp_path/'home', size=10)
    pieces = sorted((tmp_path/'home').glob('a.bin.[0-9]*'))
    assert len(pieces) == max(1, math.ceil(size / 10)) and all(p.stat().st_size <= 10 for p in pieces)
    assert gpu_home.join(listed, tmp_path/'back').read_bytes() == file.read_bytes()
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path/'home').iterdir()}
    assert gpu_home.cut(file, tmp_path/'home', size=10) == listed
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path/'home').iterdir()} == stamps, 'nothing to be done'
    pieces[-1].unlink()
    with pytest.raises(FileNotFoundError, match=f'{pieces[-1].name} is missing'): gpu_home.join(listed)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == [], 'nothing is left lying'


def test_foreign_lists_of_pieces(tmp_path):
    with pytest.raises(FileNotFoundError, match='pieces.json'):
        gpu_home.unpack(tmp_path, tmp_path/'out', tmp_path/'work')
    listed = tmp_path/'x.pieces.json'
    elsewhere = '{"name": "../x", "sha256": "", "pieces": []}'
    for text, said in (('{}', 'no list'), ('[]', 'no list'), ('x', 'no list'), (elsewhere, 'other folders')):
        listed.write_text(text)
        with pytest.raises(OSError, match=said): gpu_home.join(listed)


def test_the_model_to_bring_home_fits(part):
    found = part('bundle', units=1536)
    assert found['status'] == 'failed' and 'expected at most 64 MB' in found['reason']
    size = gpu_common.count_weights(VideoLSTMConfig(hidden_size=gpu_train.BUNDLED_UNITS))
    assert size < 35e6 < gpu_home.ALL_PIECES and math.ceil(size / gpu_home.PIECE) == 3


# ---- short of time, and when something fails

def test_a_training_goes_on_where_it_stopped(part, monkeypatch):
    def at_three(*_):
        def stop(run): run.stop |= run.step == 3
        return stop
    with monkeypatch.context() as m:
        m.setattr(gpu_train, 'stop_in_time', at_three)
        found = part('row-future')
    assert found['status'] == 'partial' and found['missing'] == ['training stopped at step 3 of 10']
    assert found['trained']['step'] == 3 and found['test']['clips']
    assert 'training stopped at step 3' in gpu_table.summary(part.out)
    again = part('row-future')
    assert again['status'] == 'complete' and again['trained']['step'] == 10 and again['missing'] == []
    assert again['plan'] == found['plan'] and again['test'] != found['test'] and again['seconds'] > found['seconds']


def test_no_time_for_training(part):
    found = part('row-future', seconds=.01)
    assert found['status'] == 'partial' and found['missing'] == ['training']
    assert 'not measured (training)' in gpu_table.summary(part.out)


def test_no_time_for_all_of_speed(part, monkeypatch):
    times = iter([100., 100.])
    with monkeypatch.context() as m:
        m.setattr(gpu_common.Part, 'left', lambda self: next(times, 0.))
        found = part('speed')
    rows = found['groups']['composite']['rows']
    assert found['status'] == 'partial' and rows and found['missing'], 'what matters most, and the names of the others'
    more = part('speed')
    kept = more['groups']['composite']['rows'][:len(rows)]
    assert more['status'] == 'complete' and [r['seconds'] for r in kept] == [r['seconds'] for r in rows]


def test_half_the_rate_after_a_loss_that_is_no_number(part, monkeypatch):
    train, rates = gpu_train.train, []
    def diverge(model, clips, **options):
        if 'validate' in options:
            rates.append(options['lr'])
            if len(rates) == 1: raise FloatingPointError('the loss is not finite at step 5')
        return train(model, clips, **options)
    monkeypatch.setattr(gpu_train, 'train', diverge)
    found = part('row-future', lr=.5)
    assert found['status'] == 'complete' and rates == [.5, .25] and found['plan']['changes']['lr'] == .25
    assert [a['lr'] for a in found['attempts']] == [.5]
    assert 'rate 0.5 did not work' in gpu_table.summary(part.out)


def test_a_check_that_fails(part, monkeypatch):
    def broken(*_): raise RuntimeError('no such kernel')
    monkeypatch.setattr(gpu_agree, 'check_clips', lambda *_: {'values that differ': 1.})
    monkeypatch.setattr(gpu_agree, 'check_evaluation', broken)
    monkeypatch.setattr(gpu_agree, 'check_training', lambda *_, **__: {'loss of step 1': 0.}) # others look at these two
    monkeypatch.setattr(gpu_agree, 'check_model', lambda *_: {'loss': 0.})
    monkeypatch.setattr(gpu_agree, 'check_compiled', lambda *_: {'loss': 0.})
    found = part('agree')
    bad = [c for c in found['checks'] if not c['ok']]
    assert found['status'] == 'complete' and len(found['checks']) == 46 and len(bad) == 4
    assert found['failed'] == [c['name'] for c in bad] and bad[-1]['error'] == 'RuntimeError: no such kernel'
    assert gpu_table.broken(part.out, ['agree', 'speed']) == ['agree']
    assert 'FAILED evaluation' in (said := gpu_table.summary(part.out)) and '42 of 46' in said


def test_wrong_numbers_are_seen(monkeypatch, part):
    "A layer whose peepholes get a little too much on the way back is found out."
    right, jobs = gpu_agree.layer_values, gpu_agree.jobs(torch.device('cpu'))[:1]
    def wrong(*args, backend, **options):
        factor = 1. if backend == 'reference' else 1.001
        return {k: v * factor if 'peephole' in k else v for k, v in right(*args, backend=backend, **options).items()}
    monkeypatch.setattr(gpu_agree, 'layer_values', wrong)
    monkeypatch.setattr(gpu_agree, 'jobs', lambda device: jobs)
    found = part('agree')
    kinds = [f'{i} input, with peepholes, {l}' for i in ('with', 'without') for l in ('1 layer', '2 layers')]
    assert len(found['checks']) == 8 and found['failed'] == [f'fused layer, fp32, {kind}' for kind in kinds]
    failed = found['checks'][0]
    assert failed['errors'][failed['worst']] == failed['error'] > 1e-4 > 1e-6 > failed['errors']['out'], 'what is off?'


def test_a_part_that_breaks_or_does_not_end(monkeypatch, tmp_path):
    settings = dict(device='cpu', rehearse=True, digits='embedded', seed=0, batch=None, lr=None, units=10**4)
    gpu.run(['bundle'], tmp_path, tmp_path/'work', settings=settings, seconds=600.)
    assert gpu_common.read(tmp_path/'gpu-bundle.json')['status'] == 'failed'
    assert gpu_table.broken(tmp_path, ['bundle']) == ['bundle']
    assert 'MB in 8 bits' in (tmp_path/'summary.txt').read_text()
    monkeypatch.setattr(gpu, 'GRACE', 0.)
    gpu.run(['speed'], tmp_path, tmp_path/'work', settings=settings, seconds=.001)
    found = gpu_common.read(tmp_path/'gpu-speed.json')
    assert found['status'] == 'failed' and found['reason'] == 'it did not end in time'


def test_damaged_files(tmp_path, capsys):
    file = tmp_path/'gpu-agree.json'
    for text in ('{"part": ', '[]', '{}'):
        file.write_text(text)
        assert gpu.main(['--summary', '--out', str(tmp_path)]) == 1
        assert 'gpu-agree.json' in (said := capsys.readouterr().err) and '--fresh' in said


@pytest.mark.parametrize('words, named', [
    (('--parts', 'agree,velocity'), ("'velocity'", 'speed')),
    (('--seconds', '0'), ('0.0', 'above 0')),
    (('--batch', '-1'), ('-1', 'above 0')),
    (('--lr', 'nan'), ('nan', 'above 0')),
    (('--seed', '-1'), ('-1', 'at least 0')),
    (('--out', __file__, '--rehearse'), ('test_gpu.py', 'folder')),
    (('--device', 'abacus'), ("'abacus'", 'not there')),
], ids=lambda v: v[0] if v[0].startswith('--') else '')
def test_bad_arguments(words, named, capsys):
    with pytest.raises(SystemExit) as stopped: gpu.main(list(words))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(n in said for n in (words[0], *named)), said


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu(capsys):
    with pytest.raises(SystemExit): gpu.main([])
    assert "'cuda' is not there" in (said := capsys.readouterr().err) and '--rehearse' in said


# ---- plans

@pytest.mark.parametrize('plan', gpu_plan.PLANS)
def test_plans_fit(plan):
    plan = gpu_plan.PLANS[plan]
    assert plan.within <= 420 and set(plan.limits) <= set(gpu_parts.PARTS)
    assert sum(v for v in plan.limits.values() if v) + gpu_plan.LEAST_ROW < plan.within


def test_what_a_plan_asks_for(tmp_path):
    plan, rows = gpu_plan.PLANS['rows'], list(gpu_common.ROWS)[:4]
    def keep(name, **found):
        gpu_common.write(tmp_path/f'gpu-{name}.json', dict(part=name, status='partial', settings={}) | found)
    assert gpu_plan.order(plan, tmp_path) == rows
    keep(rows[0], status='complete')
    keep(rows[1], missing=['training'])
    keep(rows[2], test={}) # measured, though its training was cut
    assert gpu_plan.order(plan, tmp_path) == [rows[3], rows[1]], 'what is there is kept; what was begun comes last'
    def share(left, *rest, plan=plan, within=240.): return gpu_plan.share(plan, list(rest), left, within=within)
    assert share(230, *rows) == 230 and share(110, *rows[1:]) == 110 == share(110, rows[3])
    assert share(400, *rows[2:]) == 200 and share(800, *rows) == 200
    first = gpu_plan.PLANS['first']
    assert share(400, *first.limits, plan=first, within=420.) == 110
    assert share(400, *first.limits, plan=first, within=42.) == 11, 'limits shrink with the whole'
    assert share(30, *first.limits, plan=first, within=420.) == 30
    assert share(200, 'bundle', plan=first, within=420.) == 200


@pytest.fixture
def parts(monkeypatch, tmp_path):
    "Run parts that are made up, as a plan does, and give what they found."
    def run(**made_up):
        monkeypatch.setattr(gpu_parts, 'PARTS', made_up)
        context = multiprocessing.get_context('fork') # which takes what is made up along
        monkeypatch.setattr(gpu, 'find_context', lambda device: context)
        for name, value in dict(TICK=.05, SILENCE=1., PACKED=.1, GRACE=.3).items():
            monkeypatch.setattr(gpu, name, value)
        monkeypatch.setattr(gpu, 'BEGAN', time.monotonic())
        settings = dict(device='cpu', rehearse=True, digits='embedded', seed=0, batch=None, lr=None, units=None,
                        plan='first')
        gpu.run(list(made_up), tmp_path/'out', tmp_path/'work', settings=settings, seconds=60., within=420.,
                home=tmp_path/'home')
        return {name: gpu_common.read(tmp_path/'out'/f'gpu-{name}.json') for name in made_up}
    return run


def do_jobs(part, jobs):
    "Jobs by name, as the parts do them."
    for name, job in jobs.items():
        done = part.found.setdefault('done', [])
        if name in done or not part.attempt(dict(name=name)): continue
        job()
        done.append(name)


@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='there is no fork here')
def test_a_part_that_breaks_costs_only_itself(parts, tmp_path, capfd):
    def fine(): pass
    def hang(): time.sleep(600)
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    def refuse(): raise RuntimeError('illegal memory access')
    def agree(part): raise RuntimeError('of nothing in particular')
    def speed(part): do_jobs(part, dict(a=fine, b=hang, c=die, d=refuse, e=fine))
    def clips(part): os.kill(os.getpid(), signal.SIGKILL)
    def bundle(part):
        part.work.mkdir(parents=True)
        (part.work.parent/'bundle.safetensors').write_bytes(bytes(100))
    found = parts(agree=agree, speed=speed, clips=clips, bundle=bundle)
    assert {k: f['status'] for k, f in found.items()} == dict(agree='failed', speed='complete', clips='failed',
                                                              bundle='complete')
    assert found['agree']['reason'] == 'RuntimeError: of nothing in particular'
    given_up = {g['name']: g['reason'] for g in found['speed']['given_up']}
    assert list(given_up) == ['b', 'c', 'd'] and found['speed']['done'] == ['a', 'e']
    assert 'wrote nothing for 1 s' in given_up['b'] and 'code -9' in given_up['c'] and 'illegal' in given_up['d']
    assert found['clips']['reason'] == 'its process ended with code -9'
    assert capfd.readouterr().out.count('once more') == 3, 'only a part that has given something up is begun again'
    assert gpu_table.broken(tmp_path/'out', list(found)) == ['agree', 'speed', 'clips']
    assert 'speed: given up: b' in (tmp_path/'out'/'summary.txt').read_text()
    files = gpu_home.unpack(tmp_path/'home', tmp_path/'back', tmp_path/'model')
    assert {f.name for f in files} >= {'gpu-agree.json', 'gpu-speed.json', 'summary.txt', 'bundle.safetensors'}


@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='there is no fork here')
def test_what_is_packed_while_a_part_runs(parts, tmp_path):
    home = tmp_path/'home'
    def bundle(part):
        part.found['so_far'] = 7
        part.save()
        end, seen = time.monotonic() + 60, {}
        while seen.get('so_far') != 7 and time.monotonic() < end:
            time.sleep(.02)
            if not (home/gpu_home.RESULTS).exists(): continue
            gpu_home.unpack(home, tmp_path/'back', tmp_path/'model')
            seen = gpu_common.read(tmp_path/'back'/'gpu-bundle.json') or {}
            part.found['beat'] = time.monotonic()
            part.save() # who is silent is ended
        part.found['seen'] = seen
    found = parts(bundle=bundle)['bundle']
    assert found['seen']['status'] == 'running' and found['seen']['so_far'] == 7


CUT = """
import sys, gpu
gpu.TICK, gpu.PACKED = .05, .05
sys.exit(gpu.main(sys.argv[1:]))
"""


def test_a_cut_in_the_middle(rehearsal, tmp_path):
    "`kill -9` while the last part trains: all that came before is at home, and the model as it was."
    out, home = tmp_path/'out', tmp_path/'home'
    out.mkdir()
    for name in 'agree', 'speed', 'clips': shutil.copy(rehearsal[0]/f'gpu-{name}.json', out)
    words = [sys.executable, '-c', CUT, '--rehearse', '--plan', 'first', '--out', out, '--pack', home, '--units', 384]
    env = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(GPU.parent)}
    running = subprocess.Popen([*map(str, words)], env=env, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 300
        while not list(home.glob('bundle.*.json')) and running.poll() is None and time.monotonic() < end:
            time.sleep(.02)
    finally: running.kill()
    assert running.wait() == -9, 'it was over before it could be cut'
    assert gpu.main(['--join', str(home), '--out', str(tmp_path/'back')]) == 0
    found = gpu_table.read_all(tmp_path/'back')
    assert [found[n]['status'] for n in ('agree', 'speed', 'clips', 'bundle')] == ['complete']*3 + ['running']
    model = load_model(tmp_path/'back'/'work'/'bundle.safetensors')
    assert 0 < model.card['steps'] < model.card['steps planned'] == TINY.most
    def log(): return (out/'gpu-bundle.json').read_bytes()
    time.sleep(1)
    before = log()
    time.sleep(2)
    assert log() == before and b'"running"' in before, 'a part whose parent is gone ends, too'


def test_the_way_to_train(part, monkeypatch):
    "What does not agree is not trained with; what a process ended over is not tried again."
    ways = gpu_common.list_ways(torch.device('cuda'))
    assert [(w['backend'], w['step']) for w in ways] == [
        ('auto', 'recorded'), ('fused', 'recorded'), ('auto', 'plain'), ('fused', 'plain'), ('reference', 'plain')]
    def failed(dtype, **way): return dict(name='a check', ok=False, dtype=dtype, way=way)
    def left(*checks): return [n for n, w in enumerate(ways) if not gpu_train.blame(w, list(checks), 'bf16')]
    assert left() == [0, 1, 2, 3, 4] == left(failed('fp32', backend='auto')) == left(failed('bf16'))
    assert left(failed('bf16', backend='auto')) == [1, 3, 4]
    assert left(failed('bf16', backend='auto', step='recorded')) == [1, 2, 3, 4]
    dtype = 'bf16' if fast_lstm.fast_bf16('cpu') else 'fp32'
    agreed = dict(part='agree', status='partial', settings=dict(rehearse=True), missing=[], checks=[],
                  **gpu_common.files.stamp('cpu'),
                  given_up=[dict(name='a check', reason='any', dtype=dtype, way=dict(backend='auto'))])
    gpu_common.write(part.out/'gpu-agree.json', agreed)
    assert part('row-future')['plan']['way'] == dict(backend='fused', step='auto')
    monkeypatch.setattr(gpu_train, 'train_once', lambda *_, **__: 1 / 0)
    broken = part('row-composite')
    assert broken['status'] == 'failed' and broken['given_up'][0]['way'] == dict(backend='fused', step='auto')
    again = part('row-composite')
    assert [g['way']['step'] for g in again['given_up']] == ['auto', 'plain']
    assert 'given up: training, fused layers, plain steps' in gpu_table.summary(part.out)


def test_a_rehearsal_of_the_rows(tmp_path, capsys):
    rows = list(gpu_common.ROWS)[:4]
    settings = dict(device='cpu', rehearse=True, digits='embedded', seed=0, batch=None, lr=None, units=None)
    for name in rows[:3]:
        found = dict(part=name, status='complete', settings=settings, missing=[], **gpu_common.files.stamp('cpu'))
        gpu_common.write(tmp_path/'out'/f'gpu-{name}.json', found)
    words = ['--rehearse', '--plan', 'rows', '--digits', 'embedded', '--out', str(tmp_path/'out')]
    assert gpu.main([*words, '--pack', str(tmp_path/'home'), '--within', '3000']) == 0
    found = gpu_common.read(tmp_path/'out'/f'gpu-{rows[3]}.json')
    assert found['status'] == 'complete' and found['test']['clips'] == TINY.test
    assert capsys.readouterr().out.count('(at most') == 1, 'only what was missing'
    assert not list((tmp_path/'out'/'work').rglob('checkpoint*')), 'a gigabyte that nobody goes on with'
    with tarfile.open(tmp_path/'home'/gpu_home.RESULTS) as tar: assert f'gpu-{rows[3]}.json' in tar.getnames()


def test_help_says_the_aims(capsys):
    with pytest.raises(SystemExit): gpu.main(['--help'])
    said = capsys.readouterr().out
    for words in ('--plan first', '--plan rows', '420 s', '240 s', '341.2', '344.9', '343.5', '350.2', 'under 285.2',
                  'under 300 s', '1.0x', '1.5x', '40%', '65%', '20 times'):
        assert words in said, words


# ---- recorded steps

class OnlyThere(TorchDispatchMode):
    "Fails where something is computed elsewhere, or copied from one place to another."
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        elsewhere = [x for x in tree_leaves((args, kwargs, result)) if torch.is_tensor(x) and not x.is_meta]
        assert not elsewhere, f'{function} on {elsewhere}'
        return result


@pytest.mark.parametrize('backend', ['reference', 'fused'])
@pytest.mark.parametrize('conditional', [False, True])
def test_a_step_stays_on_its_device(backend, conditional):
    "What a recorded step computes needs no number from, and no memory of, another device: here one without memory."
    there = torch.device('meta')
    config = VideoLSTMConfig(frame_shape=(1, 4, 4), hidden_size=5, num_layers=2, conditional_reconstruction=conditional,
                             conditional_future=conditional)
    with there: model = set_backend(VideoLSTM(config), backend)
    past, future = torch.empty(2, 3, 4, 1, 4, 4, device=there)
    with OnlyThere():
        loss = model.loss(past, future, check=False)
        objective(loss, 'frame', past=past, future=future).backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())



def losses_after(how):
    "Losses of ours and of the peer after a few steps, as they are timed; `how` makes of a step what is timed."
    pair = tuple(torch.rand(2, 2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    config = VideoLSTMConfig(frame_shape=(1, 4, 4), hidden_size=5, num_layers=2)
    ours = gpu_common.draw_model(config, torch.device('cpu'))
    for model in (ours, gpu_speed.AsOurs(gpu_speed.NNVideoLSTM(16, 5, 2))):
        optimizer = make_optimizer(model, get_recipe('adam'))
        call = how(gpu_speed.training_step(model, optimizer, pair, dtype='fp32'))
        for _ in range(2): call()
        yield model.loss(*pair).total.item()


def test_recorded_steps_train():
    "Three steps as usual and one that is recorded come before those that are timed; each does what a plain step does."
    def record(work, stream): return work(), work
    recorded = list(losses_after(lambda call: gpu_speed.warm_and_record(call, None, record_graph=record)))
    def after_four(call):
        for _ in range(4): call()
        return call
    assert recorded == pytest.approx(list(losses_after(after_four)), rel=1e-6)
    assert recorded != pytest.approx(list(losses_after(lambda call: call)), rel=1e-6), 'four steps make a difference'


def test_trainings_on_a_gpu_are_recorded():
    assert gpu_common.choose_step(torch.device('cuda')) == 'recorded' in STEPS
    assert gpu_common.choose_step(torch.device('cpu')) == 'auto'


def test_a_step_that_cannot_be_recorded():
    def record(work, stream): raise RuntimeError('operation not permitted when stream is capturing')
    with pytest.raises(RuntimeError, match='not permitted'):
        list(losses_after(lambda call: gpu_speed.warm_and_record(call, None, record_graph=record)))


# ---- the table

def test_figures_of_the_table(tmp_path):
    "Ratios and shares, of figures that were made up."
    case = dict(units=2048, layers=2, batch=512)
    def row(variant, seconds, share):
        return dict(case=case, variant=variant, dtype='bf16', seconds=dict(median=seconds), share_of_limit=share)
    head = dict(status='complete', missing=[], settings=dict(rehearse=False), machine=dict(gpu='any', cpu='any'),
                versions=dict(torch='0'), date='today')
    rows = [row('compiled', .03, .3), row('compiled, recorded', .02, .45),
            row('nn.LSTM', .04, .2), row('nn.LSTM, recorded', .035, .25)]
    speed = dict(part='speed', limit=dict(bf16=700e3), compiled=[], groups=dict(composite=dict(left_out=[], rows=rows)))
    (tmp_path/'gpu-speed.json').write_text(json.dumps(head | speed))
    passed = dict(step=4000, clips=1024000, seconds=41.2, validation_future=344.)
    authors = dict(part='row-authors', passed={'345.0': passed})
    (tmp_path/'gpu-row-authors.json').write_text(json.dumps(head | authors))
    said = {r['what']: r['measured'] for r in gpu_table.table(tmp_path)}
    step = said['training step, 2 layers of 2048, bf16, batch 512, against cuDNN']
    assert step.startswith('1.75x (compiled, recorded 20.00 ms, nn.LSTM, recorded 35.00 ms')
    assert said['share of the matrix-product rate in that step (700 TFLOP/s)'] == '45%'
    authors = said["time to the authors' 345 (1 layer, unconditional)"]
    assert authors == '41 s, 4000 steps, 1.02 million clips'
    assert said['composite, nats per future frame, free-running'] == said['the best of these'] == 'not measured'


def test_when_a_mark_was_passed():
    validated = (1, 400.), (2, None), (3, 340.), (4, 350.)
    rows = [dict(step=n, clips=10*n, seconds=n / 2, validation_future=v) for n, v in validated]
    wanted = dict(step=3, clips=30, seconds=1.5, validation_future=340.)
    assert gpu_train.find_passing(History(rows), 345.) == wanted
    assert gpu_train.find_passing(History(rows), 300.) is None


def test_thin():
    assert gpu_common.thin([1, 2, 3], 5) == [1, 2, 3]
    few = gpu_common.thin(list(range(1000)), 7)
    assert few[0] == 0 and few[-1] == 999 and len(few) == 7 and few == sorted(set(few))


def test_pace():
    pace, run = gpu_train.Pace(0.), SimpleNamespace(row=None, step=0, stop=False)
    pace(run)
    assert pace.marks == [] and not run.stop
    pace.marks = [(10, 5.), (20, 6.), (40, 8.)]
    assert pace.step == pytest.approx(.1)


# ---- what is kept

@pytest.mark.parametrize('folder', KEPT, ids=lambda p: p.name)
def test_kept_results(folder):
    found = {n: f for n, f in gpu_table.read_all(folder).items() if f}
    assert found and not any(f['settings']['rehearse'] for f in found.values())
    assert 'against cuDNN' in gpu_table.summary(folder)
    for path in folder.iterdir():
        assert path.stat().st_size < 2e6, path.name
        assert not (path.suffix == '.json' and re.search(r'"/\w|NaN', path.read_text())), path.name

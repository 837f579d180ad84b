"The report from a GPU: a rehearsal of every part, going on where it stopped, what fails, and the way home."
import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GPU = ROOT/'benchmarks/gpu.py'
KEPT = sorted((ROOT/'benchmarks/results').glob('gpu-*/'))

sys.path.insert(0, str(GPU.parent))
import bench
import gpu
import gpu_parts
from lstm_video_repr import fast_lstm, training
from lstm_video_repr.cli import main as lvr
from lstm_video_repr.training import History
from lstm_video_repr.zoo import load_model

# What a machine with a GPU does not have, blocked in every process of the rehearsal.
ABSENT = 'nbdev fastcore IPython ipywidgets anywidget av skimage pooch pytest'.split()
BLOCK = f'''
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {ABSENT}: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
'''


def call(*words, site=None):
    "Run the program in a process of its own."
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    if site: env['PYTHONPATH'] = str(site)
    return subprocess.run([sys.executable, str(GPU), *map(str, words)], capture_output=True, text=True, timeout=1200, env=env)


@pytest.fixture(scope='module')
def rehearsal(tmp_path_factory):
    "Folder of the results, what was packed, and what was printed."
    folder = tmp_path_factory.mktemp('gpu')
    (folder/'site').mkdir()
    (folder/'site'/'sitecustomize.py').write_text(BLOCK)
    done = call('--rehearse', '--out', folder/'out', '--pack', folder/'home', site=folder/'site')
    assert done.returncode == 0, done.stdout + done.stderr
    return folder/'out', folder/'home', done.stdout


@pytest.fixture
def part(monkeypatch, tmp_path):
    "Run one part here, tiny: a function of its name that gives what it found."
    for compiled in (fast_lstm._compiled_forward, fast_lstm._compiled_backward): monkeypatch.setattr(compiled, 'fast', None) # to be put back
    settings = dict(device='cpu', rehearse=True, digits='embedded', seed=0, batch=None, lr=None, units=None)
    def run(name, seconds=240., **changes): # far more than is needed, for machines that are busy
        gpu_parts.run_part(name, tmp_path/'out', tmp_path/'work', settings | changes, seconds)
        return gpu_parts.read(tmp_path/'out'/f'gpu-{name}.json')
    run.out = tmp_path/'out'
    return run


def everything(out): return {name: gpu_parts.read(out/f'gpu-{name}.json') for name in gpu_parts.PARTS}


# ---- the rehearsal

def test_every_part_is_complete(rehearsal):
    out, _, said = rehearsal
    found = everything(out)
    assert {name: f['status'] for name, f in found.items()} == dict.fromkeys(gpu_parts.PARTS, 'complete'), said
    assert sum(f['cpu_seconds'] for f in found.values()) < 120
    for name, f in found.items():
        text = (out/f'gpu-{name}.json').read_text()
        assert not re.search(r'NaN|Infinity|"/\w', text) and len(text) < 200_000, name
        assert f['settings']['rehearse'] and f['versions']['torch'] == torch.__version__ and f['machine'] and f['date'] and f['missing'] == []


def test_agreement(rehearsal):
    checks = everything(rehearsal[0])['agree']['checks']
    assert all(c['ok'] and 0 <= c['error'] <= c['allowed'] for c in checks)
    names = ' '.join(c['name'] for c in checks)
    for word in ('fused', 'compiled', 'fp32', 'bf16', 'with input', 'without input', 'with peepholes', 'without peepholes', '1 layer', '2 layers', 'bit for bit', 'recorded', 'resumed', 'evaluation', 'composite'): assert word in names
    assert sum('layer' in c['name'] and 'peepholes' in c['name'] for c in checks) == 2*2*8
    assert {c['allowed'] for c in checks if 'fp32, with' in c['name']} == {1e-5} and {c['allowed'] for c in checks if 'bf16, with' in c['name']} == {2e-2}


def test_speed_is_a_results_file_of_the_benchmarks(rehearsal):
    results = bench.load(rehearsal[0]/'gpu-speed.json')
    assert set(results['groups']) == {'gemm', 'composite', 'layer'} and 'nn.LSTM' in bench.table(results)
    for group in ('composite', 'layer'):
        for r in results['groups'][group]['rows']:
            assert r['gflops_per_s'] == pytest.approx(r['flops'] / r['seconds']['median'] / 1e9, rel=1e-4)
            assert r['share_of_limit'] == pytest.approx(r['gflops_per_s'] / results['limit'][r['dtype']], rel=1e-4)
        variants = {d: {r['variant'] for r in bench.rows(results, group, dtype=d)} for d in ('fp32', 'bf16')}
        assert variants['fp32'] >= {'compiled', 'compiled, recorded', 'fused', 'nn.LSTM', 'nn.LSTM, recorded'} and variants['bf16'] >= {'compiled', 'compiled, recorded', 'fused'}
    sizes = [(r['case']['layers'], r['case']['batch']) for r in bench.rows(results, 'composite', 'compiled', 'bf16')]
    assert sizes == [(L, B) for L in (2, 1) for B in gpu_parts.TINY.batches], 'what matters most comes first'
    assert {r['case']['when'] for r in bench.rows(results, 'gemm')} == {'start', 'end'} and len(results['compiled']) == len(bench.rows(results, 'composite', 'compiled')) + len(bench.rows(results, 'layer', 'compiled'))


def test_clips_and_rates(rehearsal):
    found = everything(rehearsal[0])
    assert [r['batch'] for r in found['clips']['rows']] == list(gpu_parts.TINY.made) and any('times_what_2_layers_eat' in r for r in found['clips']['rows'])
    tried = found['rates']['rows']
    assert [r['lr'] for r in tried] == list(gpu_parts.TINY.rates) and found['rates']['best'] == min(tried, key=lambda r: r['validation'])['lr']


@pytest.mark.parametrize('name', [*gpu_parts.ROWS, 'bundle'])
def test_trainings(rehearsal, name):
    from PIL import Image
    out, found = rehearsal[0], everything(rehearsal[0])
    row = found[name]
    assert row['trained']['step'] == row['plan']['steps'] == gpu_parts.TINY.most and row['attempts'] == [] and row['plan']['changes']['batch_size'] == row['batch']
    assert row['plan']['changes']['lr'] == (1.5e-3 if name == 'bundle' else found['rates']['best'])
    tests = row['test'].values() if name == 'bundle' else [row['test']]
    for test in tests:
        scores = test['future']
        assert test['clips'] == gpu_parts.TINY.test and len(scores['per_frame']['nats']) == 10
        assert sum(scores['per_frame']['nats']) / 10 == pytest.approx(scores['overall']['nats'], abs=.02) and {'mse', 'ssim'} <= set(scores['overall'])
        assert ('reconstruction' in test) == (name == 'bundle' or 'future' not in name)
    if name != 'bundle': assert row['test']['decoding'] == 'free-running' and row['paper'] == gpu_parts.ROWS[name][1]
    log = [json.loads(line) for line in (out/f'gpu-{name}.jsonl').read_text().splitlines()]
    assert log[-1]['step'] == row['trained']['step'] and row['curve'][-1]['future'] == pytest.approx(log[-1]['future'], rel=1e-4)
    assert row['validation'][-1]['step'] == row['trained']['step'] and '345.0' in row['passed']
    for picture in ('curve', 'strips'): assert min(Image.open(out/f'gpu-{name}-{picture}.png').size) > 200
    assert not (out/'work'/name).exists(), 'what a complete part no longer needs'


def test_summary(rehearsal, capsys):
    out, _, said = rehearsal
    text = (out/'summary.txt').read_text()
    assert said.endswith(text) and 'rehearsal' in text
    for words in ('composite-conditional-future, nats per future frame', '350.2', 'under 285.2', "authors' 345", '1.5x', '65%', '20 times', '42 of 42', 'learning rates tried'): assert words in text, words
    assert gpu.main(['--list', '--out', str(out)]) == 0 and capsys.readouterr().out.count('complete') == len(gpu_parts.PARTS)
    assert gpu.main(['--summary', '--out', str(out)]) == 0 and capsys.readouterr().out == text


def test_complete_parts_are_not_run_again(rehearsal, capsys):
    before = {p.name: p.read_bytes() for p in rehearsal[0].glob('gpu-*')}
    assert gpu.main(['--rehearse', '--out', str(rehearsal[0])]) == 0
    assert capsys.readouterr().out.count('complete already') == len(gpu_parts.PARTS)
    assert {p.name: p.read_bytes() for p in rehearsal[0].glob('gpu-*')} == before
    with pytest.raises(SystemExit): gpu.main(['--rehearse', '--out', str(rehearsal[0]), '--batch', '2', '--parts', 'row-future'])
    assert 'batch None (now 2)' in (said := capsys.readouterr().err) and '--fresh' in said


# ---- bringing it home

def test_the_way_home(rehearsal, tmp_path, capsys):
    out, home, _ = rehearsal
    assert len(list(home.iterdir())) <= 8 and all(p.stat().st_size <= 16e6 for p in home.iterdir())
    assert gpu.main(['--join', str(home), '--out', str(tmp_path/'out')]) == 0
    for p in out.glob('gpu-*'): assert (tmp_path/'out'/p.name).read_bytes() == p.read_bytes()
    about = everything(out)['bundle']
    model = tmp_path/'out'/'work'/'bundle.safetensors'
    assert hashlib.sha256(model.read_bytes()).hexdigest() == about['file']['sha256'] and model.stat().st_size == about['file']['bytes']
    loaded = load_model(model)
    assert loaded.config.hidden_size == gpu_parts.TINY.trained['units'] and loaded.card['clips seen'] == about['trained']['clips']
    shutil.copytree(home, tmp_path/'home')
    piece = tmp_path/'home'/'bundle.safetensors.00'
    piece.write_bytes(piece.read_bytes()[:-1] + b'x')
    assert gpu.main(['--join', str(tmp_path/'home'), '--out', str(tmp_path/'other')]) == 1
    assert 'bundle.safetensors.00 is damaged' in capsys.readouterr().err
    assert not (tmp_path/'other'/'work'/'bundle.safetensors').exists()


@pytest.mark.parametrize('size', [0, 1, 10, 11, 25])
def test_pieces(monkeypatch, tmp_path, size):
    monkeypatch.setattr(gpu_parts, 'PIECE', 10)
    file = tmp_path/'a.bin'
    file.write_bytes(bytes(range(size)))
    (tmp_path/'home').mkdir()
    (tmp_path/'home'/'a.bin.07').write_bytes(b'of an earlier cut')
    listed = gpu_parts.cut(file, tmp_path/'home')
    pieces = sorted((tmp_path/'home').glob('a.bin.[0-9]*'))
    assert len(pieces) == max(1, math.ceil(size / 10)) and all(p.stat().st_size <= 10 for p in pieces)
    assert gpu_parts.join(listed, tmp_path/'back').read_bytes() == file.read_bytes()
    pieces[-1].unlink()
    with pytest.raises(FileNotFoundError, match=f'{pieces[-1].name} is missing'): gpu_parts.join(listed)


def test_foreign_lists_of_pieces(tmp_path):
    with pytest.raises(FileNotFoundError, match='pieces.json'): gpu.unpack(tmp_path, tmp_path/'out', tmp_path/'work')
    listed = tmp_path/'x.pieces.json'
    for text, said in (('{}', 'no list'), ('[]', 'no list'), ('x', 'no list'), ('{"name": "../x", "sha256": "", "pieces": []}', 'other folders')):
        listed.write_text(text)
        with pytest.raises(OSError, match=said): gpu_parts.join(listed)


def test_the_model_to_bring_home_fits(part):
    found = part('bundle', units=1536)
    assert found['status'] == 'failed' and 'expected at most 64 MB' in found['reason']
    size = sum(p.numel() for p in gpu_parts._meta(gpu_parts.VideoLSTMConfig(hidden_size=960)).parameters())
    assert size < 35e6 < gpu_parts.ALL_PIECES and math.ceil(size / gpu_parts.PIECE) == 3


# ---- short of time, and when something fails

def test_a_training_goes_on_where_it_stopped(part, monkeypatch):
    def at_three(*_):
        def stop(progress): progress.stop |= progress.step == 3
        return stop
    with monkeypatch.context() as m:
        m.setattr(gpu_parts, '_stopper', at_three)
        found = part('row-future')
    assert found['status'] == 'partial' and found['missing'] == ['training stopped at step 3 of 10'] and found['trained']['step'] == 3 and found['test']['clips']
    assert 'training stopped at step 3' in gpu.summary(part.out)
    again = part('row-future')
    assert again['status'] == 'complete' and again['trained']['step'] == 10 and again['missing'] == [] and again['plan'] == found['plan']
    assert again['test'] != found['test'] and again['seconds'] > found['seconds']


def test_no_time_for_training(part, monkeypatch):
    found = part('row-future', seconds=.01)
    assert found['status'] == 'partial' and found['missing'] == ['training'] and 'not measured (training)' in gpu.summary(part.out)
    times = iter([100., 100.])
    with monkeypatch.context() as m:
        m.setattr(gpu_parts.Part, 'left', lambda self: next(times, 0.))
        found = part('speed')
    assert found['status'] == 'partial' and found['groups']['composite']['rows'] and found['missing'], 'the most important case, and the names of the others'
    more = part('speed')
    assert more['status'] == 'complete' and more['groups']['composite']['rows'][0]['seconds'] == found['groups']['composite']['rows'][0]['seconds'], 'what was measured is kept'


def test_half_the_rate_after_a_loss_that_is_no_number(part, monkeypatch):
    train, rates = gpu_parts.train, []
    def diverging(model, clips, steps, **options):
        if 'validate' in options:
            rates.append(options['lr'])
            if len(rates) == 1: raise FloatingPointError('the loss is not finite at step 5')
        return train(model, clips, steps, **options)
    monkeypatch.setattr(gpu_parts, 'train', diverging)
    found = part('row-future', lr=.5)
    assert found['status'] == 'complete' and rates == [.5, .25] and [a['lr'] for a in found['attempts']] == [.5] and found['plan']['changes']['lr'] == .25
    assert 'rate 0.5 did not work' in gpu.summary(part.out)


def test_a_check_that_fails(part, monkeypatch):
    monkeypatch.setattr(gpu_parts, '_agree_clips', lambda *_: {'values that differ': 1.})
    def broken(*_): raise RuntimeError('no such kernel')
    monkeypatch.setattr(gpu_parts, '_agree_evaluation', broken)
    found = part('agree')
    bad = [c for c in found['checks'] if not c['ok']]
    assert found['status'] == 'complete' and len(found['checks']) == 42 and found['failed'] == [c['name'] for c in bad] and len(bad) == 4
    assert bad[-1]['error'] == 'RuntimeError: no such kernel'
    assert gpu.broken(part.out, ['agree', 'speed']) == ['agree'] and 'FAILED evaluation' in gpu.summary(part.out) and '38 of 42' in gpu.summary(part.out)


def test_wrong_numbers_are_seen(monkeypatch, part):
    "A layer that forgets its peepholes on the way back is found out."
    right = fast_lstm.gates_backward
    def wrong(*args):
        dz, dc, dw = right(*args)
        return dz, dc, dw if dw is None else dw * 1.001
    monkeypatch.setattr(fast_lstm, 'gates_backward', wrong)
    bad = part('agree')['failed']
    assert {n for n in bad if 'fused layer, fp32' in n} == {f'fused layer, fp32, {i} input, with peepholes, {l}' for i in ('with', 'without') for l in ('1 layer', '2 layers')}


def test_a_part_that_breaks_or_does_not_end(monkeypatch, tmp_path):
    settings = dict(device='cpu', rehearse=True, digits='embedded', seed=0, batch=None, lr=None, units=10**4)
    gpu.run(['bundle'], tmp_path, tmp_path/'work', settings, 60.)
    assert gpu_parts.read(tmp_path/'gpu-bundle.json')['status'] == 'failed' and gpu.broken(tmp_path, ['bundle']) == ['bundle']
    assert 'MB in 8 bits' in (tmp_path/'summary.txt').read_text()
    monkeypatch.setattr(gpu, 'GRACE', 0.)
    gpu.run(['speed'], tmp_path, tmp_path/'work', settings, .001)
    found = gpu_parts.read(tmp_path/'gpu-speed.json')
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


# ---- recorded steps

def steps(how, record, monkeypatch):
    "Losses of a few steps of ours and of the peer, as they are timed; recording is played by whatever `record` does."
    monkeypatch.setattr(gpu_parts, '_on_cuda', lambda device: True)
    monkeypatch.setattr(training, '_record', record)
    monkeypatch.setattr(training.torch.cuda, 'is_available', lambda: False)
    past, future = torch.rand(2, 2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for model in (gpu_parts.drawn(gpu_parts.VideoLSTMConfig((1, 4, 4), 5, 2), torch.device('cpu')), gpu_parts.AsOurs(gpu_parts.NNVideoLSTM(16, 5, 2))):
        call = how(model, training.make_optimizer(model, training.get_recipe('adam')), contextlib.nullcontext(), past, future)
        for _ in range(2): call()
        yield model.loss(past, future).total.item()


def test_recorded_steps_train(monkeypatch):
    "Three steps as usual and one that is recorded come before those that are timed; each does what a plain step does."
    def record(work, stream): return work(), work
    recorded = list(steps(gpu_parts.recorded_step, record, monkeypatch))
    def plain(*args):
        call = gpu_parts.plain_step(*args)
        for _ in range(4): call()
        return call
    assert recorded == pytest.approx(list(steps(plain, record, monkeypatch)), rel=1e-6)


def test_a_step_that_cannot_be_recorded(monkeypatch):
    def record(work, stream): raise RuntimeError('operation not permitted when stream is capturing')
    with pytest.raises(RuntimeError, match='not permitted'): list(steps(gpu_parts.recorded_step, record, monkeypatch))


# ---- the table

def test_figures_of_the_table(tmp_path):
    "Ratios and shares, of figures that were made up."
    case = dict(units=2048, layers=2, batch=512)
    row = lambda variant, seconds, share: dict(case=case, variant=variant, dtype='bf16', seconds=dict(median=seconds), share_of_limit=share)
    head = dict(status='complete', missing=[], settings=dict(rehearse=False), machine=dict(gpu='any', cpu='any'), versions=dict(torch='0'), date='today')
    speed = dict(part='speed', limit=dict(bf16=700e3), compiled=[], groups=dict(composite=dict(left_out=[], rows=[
        row('compiled', .03, .3), row('compiled, recorded', .02, .45), row('nn.LSTM', .04, .2), row('nn.LSTM, recorded', .035, .25)])))
    (tmp_path/'gpu-speed.json').write_text(json.dumps(head | speed))
    authors = dict(part='row-authors', passed={'345.0': dict(step=4000, clips=1024000, seconds=41.2, validation_future=344.)})
    (tmp_path/'gpu-row-authors.json').write_text(json.dumps(head | authors))
    said = {r['what']: r['measured'] for r in gpu.table(tmp_path)}
    assert said['training step, 2 layers of 2048, bf16, batch 512, against cuDNN'].startswith('1.75x (compiled, recorded 20.00 ms, nn.LSTM, recorded 35.00 ms')
    assert said['share of the matrix-product rate in that step (700 TFLOP/s)'] == '45%'
    assert said["time to the authors' 345 (1 layer, unconditional)"] == '41 s, 4000 steps, 1.02 million clips'
    assert said['composite, nats per future frame, free-running'] == said['the best of these'] == 'not measured'


def test_when_a_mark_was_passed():
    rows = [dict(step=n, clips=10*n, seconds=n / 2, validation_future=v) for n, v in ((1, 400.), (2, None), (3, 340.), (4, 350.))]
    assert gpu_parts.passed(History(rows), 345.) == dict(step=3, clips=30, seconds=1.5, validation_future=340.)
    assert gpu_parts.passed(History(rows), 300.) is None


def test_thinned():
    assert gpu_parts.thinned([1, 2, 3], 5) == [1, 2, 3]
    assert (few := gpu_parts.thinned(list(range(1000)), 7))[0] == 0 and few[-1] == 999 and len(few) == 7 and few == sorted(set(few))


def test_pace():
    pace, progress = gpu_parts.Pace(0.), SimpleNamespace(row=None, step=0, stop=False)
    pace(progress)
    assert pace.marks == [] and not progress.stop
    pace.marks = [(10, 5.), (20, 6.), (40, 8.)]
    assert pace.step == pytest.approx(.1)


# ---- the command of the package

def test_lvr_gpu_report(tmp_path, monkeypatch, capfd):
    assert lvr(['gpu-report', '--list', '--out', str(tmp_path)]) == 0
    assert 'row-authors' in capfd.readouterr().out
    assert lvr(['gpu-report', '--parts', 'velocity']) == 2
    assert "'velocity' is unknown" in capfd.readouterr().err
    import lstm_video_repr.cli as cli
    monkeypatch.setattr(cli.resources, 'files', lambda _: tmp_path/'lstm_video_repr')
    assert lvr(['gpu-report']) == 1
    assert 'needs a clone of the repository' in capfd.readouterr().err


# ---- what is kept

@pytest.mark.parametrize('folder', KEPT, ids=lambda p: p.name)
def test_kept_results(folder):
    found = {n: f for n, f in everything(folder).items() if f}
    assert found and not any(f['settings']['rehearse'] for f in found.values())
    assert 'against cuDNN' in gpu.summary(folder)
    for path in folder.iterdir(): assert path.stat().st_size < 2e6 and not (path.suffix == '.json' and re.search(r'"/\w|NaN', path.read_text())), path.name

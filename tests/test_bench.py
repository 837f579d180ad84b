"The benchmarks: one quick run of every group, what it writes and prints, and the results that are kept."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT/'benchmarks/bench.py'
KEPT = [p for p in sorted((ROOT/'benchmarks/results').glob('*.json')) if not p.stem.endswith('-quick')]

sys.path[:0] = [str(BENCH.parent), str(ROOT/'tools')]
import bench
import bench_tables as tables
import peers
import results as files
import timing
from lstm_video_repr import fast_lstm
from lstm_video_repr.lstm import PeepholeLSTM, set_backend
from lstm_video_repr.models import VideoLSTM

pytestmark = pytest.mark.usefixtures('one_thread')


def check_results(results):
    "What any results file has."
    assert [k for k in tables.REQUIRED if k not in results] == []
    assert results['groups'] and set(results['groups']) <= set(bench.GROUPS)
    assert results['limit'] and all(v > 0 for v in results['limit'].values())
    bf16 = results['bf16']
    assert bf16['measured'] or bf16['reason'] and all(v > 0 for v in bf16['evidence']['seconds'].values())
    for name, group in results['groups'].items():
        assert group['date'] and group['versions']['torch'] and group['rows'], name
        rounds = {}
        for r in group['rows']:
            assert r['case'] and r['variant'] and r['dtype'] in timing.DTYPES
            if name == 'memory': assert r['bytes']['peak'] >= 0; continue
            s = r['seconds']
            assert 0 < s['q1'] <= s['median'] <= s['q3'] and s['n'] >= timing.LEAST_ROUNDS
            if r.get('flops'):
                assert r['gflops_per_s'] == pytest.approx(r['flops'] / s['median'] / 1e9)
                assert r['share_of_limit'] == pytest.approx(r['gflops_per_s'] / group['limit'][r['dtype']])
            rounds.setdefault(json.dumps(r['case']), set()).add(s['n'])
        assert [case for case, n in rounds.items() if len(n) > 1] == [], 'variants of a case had different rounds'
    assert re.findall(r'"/\w', json.dumps(results)) == [], 'a folder of this machine'


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "A file with results of every group, and what was printed."
    path = tmp_path_factory.mktemp('bench')/'results.json'
    words = [sys.executable, str(BENCH), '--quick', '--seconds', '.1', '--out', str(path)]
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return path, done.stdout


def test_quick_measures_every_group(quick):
    results = tables.load(quick[0])
    check_results(results)
    assert list(results['groups']) == list(bench.GROUPS)
    ours = {b for b in tables.OURS if b != 'compiled'}
    peers = {'loop of cells', 'nn.LSTM'}
    wanted = dict(layer=peers, ladder=peers | {'rows by hand', 'columns', 'in place'}, composite=peers | {'nn.LSTM, memory kept'}, scaling=set(), memory=set())
    for group, want in wanted.items():
        assert {r['variant'] for r in tables.rows(results, group, dtype='fp32')} >= want | ours, group
    assert {r['variant'] for r in tables.rows(results, 'clips')} == {'MovingDigits', 'python loop'}
    wanted = {'Video', 'PyAV alone', 'any', 'best of 4', 'best of 16', 'best of 4, sums of two', 'training step'}
    assert {r['variant'] for r in tables.rows(results, 'videos')} >= wanted
    assert {r['variant'] for r in tables.rows(results, 'percepts')} == {'MobileNetV2', 'DIS', 'histograms alone'}
    assert {r['case']['when'] for r in tables.rows(results, 'gemm')} == {'start', 'end'}
    assert results['limit']['fp32'] == max(r['gflops_per_s'] for r in tables.rows(results, 'gemm', dtype='fp32'))
    assert {r['case']['work'] for r in tables.rows(results, 'memory')} == {'training step', 'rollout'}
    found = {(r['case']['work'], r['variant']) for r in tables.rows(results, 'first')}
    assert found == {('loss and gradients', 'first'), ('loss and gradients', 'tenth'), ('optimiser', 'first'),
                     ('training step', 'first'), ('training step', 'second'), ('training step', 'tenth')}
    m, r = bench.QUICK.memory, tables.rows(results, 'memory', work='rollout')[0]
    assert r['bytes']['output'] == m['rollout_batch'] * m['rollout_frames'][0] * bench.QUICK.image_size**2 * 4
    assert [l for g in results['groups'].values() for l in g['left_out']] == []


def test_ratios_are_of_medians(quick):
    results = tables.load(quick[0])
    case = tables.rows(results, 'layer', input='frames', work='forward+backward')[0]['case']
    a, b = (tables.rows(results, 'layer', v, 'fp32', **case) for v in ('reference', 'nn.LSTM'))
    assert len(a) == len(b) == 1
    of_medians = b[0]['seconds']['median'] / a[0]['seconds']['median']
    assert tables.ratio(results, 'layer', case, variant='reference') == of_medians
    assert tables.ratio(results, 'layer', case, variant='no such variant') is None
    assert tables.rows(results, 'no such group') == []


def test_progress_and_table(quick, capsys):
    path, said = quick
    for group in bench.GROUPS: assert re.search(rf'^{group} .*(ms|MiB)', said, re.M), group
    bench.main(['--table', str(path)])
    table = capsys.readouterr().out
    assert said.endswith(table), 'the table of a file is not that of its run'
    for words in ('of limit', 'reach', 'share of the measured', 'first against tenth', 'rollout of 3 frames', 'a batch of clips takes'):
        assert words in table
    if not tables.load(path)['bf16']['measured']:
        assert re.search(r'bf16, against nn.LSTM fp32 +not measured: no bf16 units', table)


def test_a_run_of_one_group_keeps_the_others(quick, tmp_path, capsys):
    path = tmp_path/'results.json'
    old = tables.load(quick[0])
    path.write_text(json.dumps(old))
    bench.main(['--quick', '--groups', 'clips', '--seconds', '.1', '--out', str(path)])
    new = tables.load(path)
    check_results(new)
    for group in bench.GROUPS:
        assert (new['groups'][group] == old['groups'][group]) == (group not in ('gemm', 'clips')), group
    assert 'reach' in tables.table(new) and [p.name for p in tmp_path.iterdir()] == [path.name]

    old['machine']['cpu'] = 'another'
    path.write_text(json.dumps(old))
    with pytest.raises(SystemExit) as stopped: bench.main(['--quick', '--groups', 'clips', '--out', str(path)])
    assert stopped.value.code and 'another machine' in capsys.readouterr().err and tables.load(path) == old


def test_table_of_one_group():
    "Whatever is missing is named, not invented."
    machine = dict(cpu='any', cores_used=1, capability='none')
    results = dict.fromkeys(tables.REQUIRED, {}) | dict(machine=machine, versions=dict(torch='0'), date='today',
                                                        settings=dict(quick=True), bf16=dict(measured=True))
    assert tables.table(results).count('not measured') >= 2


@pytest.mark.parametrize('words, named', [
    (('--groups', 'layer,speed'), ("'speed'", 'composite')),
    (('--device', 'abacus'), ("'abacus'", "'cpu'")),
    (('--backends', 'cell'), ("'cell'", 'reference')),
    (('--seconds', '0'), ('0.0', 'above 0')),
    (('--out', 'no/such/folder/x.json'), ('no/such/folder', 'existing folder')),
    (('--table', 'no-such-file.json'), ('no-such-file.json', 'bench.py')),
], ids=lambda v: v[0] if v[0].startswith('--') else '')
def test_bad_arguments(words, named, capsys):
    with pytest.raises(SystemExit) as stopped: bench.main(list(words))
    assert stopped.value.code
    said = capsys.readouterr().err
    assert 'Traceback' not in said and all(n in said for n in (words[0], *named)), said


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_device_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as stopped: bench.main(['--device', 'cuda'])
    assert stopped.value.code and "'cuda' is not there; expected 'cpu'" in capsys.readouterr().err


def test_damaged_results(tmp_path):
    path = tmp_path/'x.json'
    for text in ('{"machine": {}', '[]', '{"machine": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match='x.json'): tables.load(path)


# ---- compiling on a CPU

def test_compiling_on_a_cpu_is_measured_only_if_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(bench, 'run', lambda *args, backends, **options: asked.append(backends) or {})
    monkeypatch.setattr(bench, 'table', lambda results: '')
    for words in ([], ['--quick'], ['--backends', 'compiled,fused']):
        bench.main([*words, '--out', str(tmp_path/'x.json')])
    assert asked == [('reference', 'fused'), ('reference', 'fused'), ('fused', 'compiled')]


def test_compiling_that_fails_is_no_figure(monkeypatch):
    "What would be measured then is the fused layer."
    monkeypatch.setattr(timing, 'compile_problem', lambda: 'RuntimeError: no compiler')
    monkeypatch.setattr(torch.compiler, 'reset', lambda: None)
    timer = timing.Bench(torch.device('cpu'), bench.QUICK, seconds=.001)
    timer.start('layer')
    timer.compare(dict(units=1), {('compiled', 'fp32'): int, ('fused', 'fp32'): int})
    assert [r['variant'] for r in timer.rows] == ['fused']
    assert [(l['variant'], l['reason']) for l in timer.left_out] == [('compiled', 'RuntimeError: no compiler')]


def test_what_is_done_before_a_sample():
    "Each variant is prepared as it wants, and that is not timed."
    timer, done = timing.Bench(torch.device('cpu'), bench.QUICK, seconds=.001), []
    timer.start('ladder')
    timer.compare(dict(units=1), {(v, 'fp32'): (lambda v=v: done.append(v)) for v in 'ab'},
                  before=dict(b=lambda call: done.append('before b')))
    assert done[:4] == ['a', 'b', 'a', 'before b'] and done[4] == 'b' # warmed up, then timed
    assert all(done[k + 1] == 'b' for k, what in enumerate(done) if what == 'before b')
    assert done.count('before b') >= timing.LEAST_ROUNDS and len(timer.rows) == 2


# ---- results files

@pytest.mark.parametrize('rounds', [1, 3, 5])
def test_memory_is_kept_for_all_but_one_in_every_round(rounds, monkeypatch):
    "Whichever begins a round: none is timed with memory that the one before gave back."
    kept, seen = [], []
    monkeypatch.setattr(bench, 'keep_memory', lambda keep=True: kept.append(keep))
    calls = {(v, d): lambda v=v: seen.append((v, kept[-1])) for d in ('fp32', 'bf16') for v in ('a', 'b', 'as it comes')}
    before = bench.with_memory(['a', 'b', 'as it comes'], without=['as it comes'])
    timing.Bench(torch.device('cpu'), bench.QUICK).take_turns(calls, dict.fromkeys(calls, 1), rounds=rounds, before=before)
    assert all(keep == (v != 'as it comes') for v, keep in seen)
    assert sum(v != 'as it comes' for v, _ in seen) >= rounds * 4 + 3 * 2 * rounds # and warm before it counts


def test_results_go_there_and_back(tmp_path):
    rows = [dict(case=dict(units=8), variant='a', x=torch.tensor(1/3)), dict(case=dict(units=4), variant='a', x=None)]
    path = files.save_rows(tmp_path/'x.json', files.plain(dict(name='any', rows=rows)))
    found = files.load(path, ('name', 'rows'), maker='make any')
    assert found == dict(name='any', rows=[rows[0] | dict(x=.333333), rows[1]])
    assert len(path.read_text().splitlines()) == 7, 'a line a row'
    assert files.select(found['rows'], units=8) == files.select(found['rows'], variant='a')[:1] == found['rows'][:1]
    with pytest.raises(ValueError, match="'.*x.json' lacks seconds; expected what `make any` writes"):
        files.load(path, ('name', 'seconds'), maker='make any')
    with pytest.raises(FileNotFoundError, match='`make any` makes it'): files.load(tmp_path/'y', maker='make any')


def test_numbers_that_are_none():
    assert files.plain(dict(a=[float('nan'), np.float32(1.5)]), strict=False) == dict(a=[None, 1.5])
    with pytest.raises(ValueError, match='a result is inf; expected finite numbers'): files.plain([float('inf')])


def test_going_on_needs_the_same_settings():
    files.check_same('x.json', dict(a=1, seeds=2), dict(a=1, seeds=3), skip=('seeds',))
    with pytest.raises(ValueError, match=r'x.json has results for a 1 \(now 2\), b None \(now 3\); expected the same, '
                                         'another --out, or --fresh'):
        files.check_same('folder/x.json', dict(a=1), dict(a=2, b=3), hint='--fresh')


def test_where_and_with_what():
    made = files.stamp('cpu')
    assert set(made) == {'machine', 'versions', 'date', 'commit'} and json.loads(json.dumps(made)) == made
    assert made['machine']['threads'] == made['machine']['cores_used'] == torch.get_num_threads()
    assert made['commit'] is None or re.fullmatch(r'[0-9a-f]{12}(-dirty)?', made['commit'])
    assert files.reason_of(OSError('no /a/b/c here\nmore')) == 'OSError: no ... here' and files.reason_of('so') == 'so'


# ---- the peers compute the same

@pytest.mark.parametrize('bf16', [False, True])
def test_peers_agree_with_the_layer(bf16):
    g = torch.Generator().manual_seed(0)
    lstm = PeepholeLSTM(5, 6, backend='reference', generator=g)
    torch.nn.init.normal_(lstm.weight_peephole_l0, generator=g)
    x, grad = torch.randn(3, 4, 5, generator=g), torch.randn(3, 4, 6, generator=g)
    loop, parameters = peers.as_loops(lstm), list(lstm.parameters())
    assert type(lstm) is PeepholeLSTM and all(a is b for a, b in zip(loop.parameters(), parameters))

    def values(call, bf16):
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16): out = call()
        return out, *torch.autograd.grad(out, parameters, grad)

    for call in (lambda: loop(x)[0], lambda: peers.rows_layer(x, lstm)):
        for a, b in zip(values(call, bf16), values(lambda: lstm(x)[0], False)):
            assert (a - b).norm() < (2e-2 if bf16 else 1e-5) * b.norm()


@pytest.mark.parametrize('conditional', [False, True])
def test_peer_model_agrees_with_ours(conditional):
    "Without peepholes, the model of `nn.LSTM` and ours are one function."
    both = dict(conditional_reconstruction=conditional, conditional_future=conditional)
    model = VideoLSTM.composite(hidden_size=4, num_layers=2, frame_shape=(1, 2, 2), peephole=False, **both)
    peer = peers.NNVideoLSTM(4, 4, 2, conditional=conditional)
    decoders = model.reconstruction_decoder, model.future_decoder
    pairs = [(peer.encoder, model.encoder), *zip(peer.decoders, (d.lstm for d in decoders))]
    with torch.no_grad():
        for theirs, ours in pairs:
            weights = dict(ours.named_parameters())
            for name, p in theirs.named_parameters():
                p.copy_(weights.get(name.replace('bias_ih', 'bias'), torch.zeros_like(p)))
        for theirs, ours in zip(peer.readouts, decoders): theirs.load_state_dict(ours.readout.state_dict())
    past, future = torch.rand(2, 3, 5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for twin in (model, set_backend(peers.as_loops(model), 'reference')):
        assert twin.loss(past, future).total.item() == pytest.approx(peer.loss(past, future).item(), rel=1e-5)


def test_operations_are_counted():
    "The count of a composite step, against torch's own counter on the loop of cells."
    from torch.utils.flop_counter import FlopCounterMode
    B, T, D, H, L = 2, 3, 16, 4, 2
    for conditional in (False, True):
        both = dict(conditional_reconstruction=conditional, conditional_future=conditional)
        model = peers.as_loops(VideoLSTM.composite(hidden_size=H, num_layers=L, frame_shape=(1, 4, 4), **both))
        past, future = torch.rand(2, B, T, 1, 4, 4)
        with FlopCounterMode(display=False) as counter: model.loss(past, future).total.backward()
        first = 2*B*4*H*H*L # the encoder starts from zeros, whose gradient nobody asks for
        counted = bench.composite_flops(B, T, D, units=H, layers=L, conditional=conditional)
        assert counter.get_total_flops() == counted - first


def test_plain_clips():
    digits = np.full((3, 4, 4), 255, np.uint8)
    clips = peers.python_clips(digits, 5, 7, image_size=9, n_digits=2, speed=.1, rng=np.random.default_rng(0))
    assert clips.shape == (5, 7, 1, 9, 9) and clips.dtype == torch.float32 and set(clips.unique().tolist()) == {0., 1.}
    assert (clips.sum((2, 3, 4)) >= 16).all() and (clips[:, 0] != clips[:, -1]).any()


def test_bf16_everywhere(monkeypatch, tmp_path):
    "The variants that need bf16 run, on sizes that are tiny on any machine."
    monkeypatch.setattr(timing, 'fast_bf16', lambda device: True)
    groups = ['layer', 'ladder', 'composite', 'scaling']
    results = bench.run(torch.device('cpu'), groups, tmp_path/'x.json', quick=True, seconds=.1,
                        backends=('reference', 'fused'))
    check_results(results)
    for group in groups:
        found = {d: tables.rows(results, group, dtype=d) for d in ('fp32', 'bf16')}
        variants = {d: {r['variant'] for r in rows} - {'nn.LSTM'} for d, rows in found.items()}
        assert variants['bf16'] >= variants['fp32'], group
        left_out = {l['variant'] for l in results['groups'][group]['left_out']}
        assert left_out <= {'nn.LSTM'} # which has no bf16 on some CPUs
    assert tables.rows(results, 'layer', 'nn.LSTM, bf16 weights')
    text = tables.table(results)
    for l in results['groups']['composite']['left_out']:
        assert f'not measured: {timing.label(l["case"])} nn.LSTM bf16' in text


# ---- what is kept

@pytest.mark.parametrize('path', KEPT, ids=lambda p: p.stem)
def test_kept_results(path):
    results = tables.load(path)
    check_results(results)
    assert not results['settings']['quick'] and 'reach' in tables.table(results)


def test_names_of_processors(monkeypatch):
    plain = torch.backends.cpu.get_cpu_capability().lower().replace(' ', '-')
    for units, name in ((['amx_tile', 'avx512_bf16'], 'amx'), (['avx512_bf16'], 'avx512-bf16'), ([], plain)):
        for module in (files, fast_lstm): monkeypatch.setattr(module, 'has_unit', lambda unit: unit in units)
        assert files.capability('cpu') == name


# ---- what chapter 01 says of them

def gains(group, variant, peer, *, name, dtype, **case):
    "How many times as fast as a peer a variant is, in each case of a kept file."
    kept = tables.load(BENCH.parent/f'results/{name}.json')
    cases = [r['case'] for r in tables.rows(kept, group, variant, dtype, **case)]
    return [tables.ratio(kept, group, c, variant=variant, peer=peer, dtype=dtype) for c in cases]


def percent(values): return [f'{100 * x - 100:.0f}' for x in (min(values), max(values))]


def words_on_speed():
    cells = json.loads((ROOT/'nbs/01_fast_lstm.ipynb').read_text(encoding='utf8'))['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


def slower(gain): return f'{100 / gain - 100:.0f}'


def test_what_the_chapter_on_speed_says():
    page = words_on_speed()
    tiles = gains('composite', 'fused', 'reference', name='cpu-amx', dtype='bf16')
    assert min(tiles) > 1 and 'In bf16 on tiles `fused` is {} to {} per cent faster'.format(*percent(tiles)) in page
    readable = {k: gains('composite', 'fused', 'reference', name=f'cpu-{k}', dtype='fp32') for k in ('avx2', 'amx', 'avx512-bf16')}
    assert [(sum(x < 1 for x in v), len(v)) for v in readable.values()] == [(4, 9), (2, 9), (0, 9)]
    assert 'in four of nine sizes on the machine with AVX2' in page and 'in two of nine on the one with AMX' in page
    rungs = [gains('ladder', *pair, name='cpu-amx', dtype='bf16') for pair in (('rows by hand', 'reference'), ('fused', 'columns'))]
    assert 'by hand gains {} to {} per cent, and the last two rungs {} to {}.'.format(*sum(map(percent, rungs), [])) in page
    kept = tables.load(BENCH.parent/'results/cpu-amx.json')
    wide = [tables.ratio(kept, 'ladder', dict(units=H), variant='fused', peer='fused', dtype='bf16', peer_dtype='fp32') for H in (512, 1024, 2048)]
    assert min(wide) > 5 / 2 and 'less than two fifths of its time in fp32' in page


def test_what_the_chapter_says_of_compiling():
    page, kinds = words_on_speed(), [(k, d) for k in ('avx2', 'avx512-bf16') for d in ('fp32', 'bf16')]
    steps, layers = (sum((gains(g, 'compiled', 'fused', name=f'cpu-{k}', dtype=d) for k, d in kinds), []) for g in ('composite', 'layer'))
    assert f'training steps became at most {percent(steps)[1]} per cent faster' in page
    assert f'something between {slower(min(layers))} per cent slower and {percent(layers)[1]} faster' in page
    ladder = [gains('ladder', 'compiled', 'fused', name='cpu-avx2', dtype='fp32', units=H)[0] for H in (512, 1024, 2048)]
    assert max(ladder) < 1 and f'never faster there, and at 1024 units {slower(ladder[1])} per cent slower' in page
    alone, = gains('ladder', 'in place', 'columns', name='cpu-avx512-bf16', dtype='bf16', units=2048)
    assert f'the first alone costs {slower(alone)} per cent' in page


def test_what_the_chapter_says_of_noise():
    "Two groups of one run that do not agree."
    ladder, = gains('ladder', 'fused', 'reference', name='cpu-amx', dtype='fp32', units=1024)
    layer, = gains('layer', 'fused', 'reference', name='cpu-amx', dtype='fp32', units=1024, input='frames', work='forward+backward')
    assert [slower(ladder), *percent([layer])[:1]] == ['18', '10']

"The benchmarks: one quick run of every group, what it writes and prints, and the results that are kept."
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT/'benchmarks/bench.py'
KEPT = [p for p in sorted((ROOT/'benchmarks/results').glob('*.json')) if not p.stem.endswith('-quick')]

sys.path.insert(0, str(BENCH.parent))
import bench
import peers
from lstm_video_repr.lstm import PeepholeLSTM, set_backend


def call(*words, check=True):
    "Run the benchmarks in a process of their own."
    done = subprocess.run([sys.executable, str(BENCH), *map(str, words)], capture_output=True, text=True, timeout=600)
    if check: assert done.returncode == 0, done.stdout + done.stderr
    return done


def check_results(results):
    "What any results file has."
    assert [k for k in bench.REQUIRED if k not in results] == []
    assert results['groups'] and set(results['groups']) <= set(bench.GROUPS)
    assert results['limit'] and all(v > 0 for v in results['limit'].values())
    assert results['bf16']['measured'] or results['bf16']['reason'] and all(v > 0 for v in results['bf16']['evidence']['seconds'].values())
    for name, group in results['groups'].items():
        assert group['date'] and group['versions']['torch'] and group['rows'], name
        rounds = {}
        for r in group['rows']:
            assert r['case'] and r['variant'] and r['dtype'] in bench.DTYPES
            if name == 'memory': assert r['bytes']['peak'] >= 0; continue
            s = r['seconds']
            assert 0 < s['q1'] <= s['median'] <= s['q3'] and s['n'] >= bench.LEAST_ROUNDS
            if r.get('flops'):
                assert r['gflops_per_s'] == pytest.approx(r['flops'] / s['median'] / 1e9)
                assert r['share_of_limit'] == pytest.approx(r['gflops_per_s'] / group['limit'][r['dtype']])
            rounds.setdefault(json.dumps(r['case']), set()).add(s['n'])
        assert [case for case, n in rounds.items() if len(n) > 1] == [], 'variants of a case were measured a different number of times'
    assert re.findall(r'"/\w', json.dumps(results)) == [], 'a folder of this machine'


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "A file with results of every group, and what was printed."
    path = tmp_path_factory.mktemp('bench')/'results.json'
    return path, call('--quick', '--out', path).stdout


def test_quick_measures_every_group(quick):
    results = bench.load(quick[0])
    check_results(results)
    assert list(results['groups']) == list(bench.GROUPS)
    ours = {b for b in bench.OURS if b != 'compiled'}
    peers = {'loop of cells', 'nn.LSTM'}
    for group, want in dict(layer=peers, ladder=peers | {'rows by hand'}, composite=peers, scaling=set(), memory=set()).items():
        assert {r['variant'] for r in bench.rows(results, group, dtype='fp32')} >= want | ours, group
    assert {r['variant'] for r in bench.rows(results, 'clips')} == {'MovingDigits', 'python loop'}
    assert {r['case']['when'] for r in bench.rows(results, 'gemm')} == {'start', 'end'}
    assert results['limit']['fp32'] == max(r['gflops_per_s'] for r in bench.rows(results, 'gemm', dtype='fp32'))
    assert {r['case']['work'] for r in bench.rows(results, 'memory')} == {'training step', 'rollout'}
    m, r = bench.QUICK.memory, bench.rows(results, 'memory', work='rollout')[0]
    assert r['bytes']['output'] == m['rollout_batch'] * m['rollout_steps'][0] * bench.QUICK.image_size**2 * 4
    assert [l for g in results['groups'].values() for l in g['left_out']] == []


def test_ratios_are_of_medians(quick):
    results = bench.load(quick[0])
    case = bench.rows(results, 'layer', input='frames', work='forward+backward')[0]['case']
    a, b = (bench.rows(results, 'layer', v, 'fp32', **case) for v in ('reference', 'nn.LSTM'))
    assert len(a) == len(b) == 1
    assert bench.ratio(results, 'layer', case, 'reference') == b[0]['seconds']['median'] / a[0]['seconds']['median']
    assert bench.ratio(results, 'layer', case, 'no such variant') is None and bench.rows(results, 'no such group') == []


def test_progress_and_table(quick):
    path, said = quick
    for group in bench.GROUPS: assert re.search(rf'^{group} .*(ms|MiB)', said, re.M), group
    table = call('--table', path).stdout
    assert said.endswith(table), 'the table of a file is not that of its run'
    for words in ('of limit', 'reach', 'share of the measured', 'rollout of 3 frames', 'a batch of clips takes'): assert words in table
    if not bench.load(path)['bf16']['measured']: assert re.search(r'bf16, against nn.LSTM fp32 +not measured: no bf16 units', table)


def test_a_run_of_one_group_keeps_the_others(quick, tmp_path):
    path = tmp_path/'results.json'
    old = bench.load(quick[0])
    path.write_text(json.dumps(old))
    call('--quick', '--groups', 'clips', '--out', path)
    new = bench.load(path)
    check_results(new)
    for group in bench.GROUPS: assert (new['groups'][group] == old['groups'][group]) == (group not in ('gemm', 'clips')), group
    assert 'reach' in bench.table(new) and [p.name for p in tmp_path.iterdir()] == [path.name]

    old['machine']['cpu'] = 'another'
    path.write_text(json.dumps(old))
    done = call('--quick', '--groups', 'clips', '--out', path, check=False)
    assert done.returncode and 'another machine' in done.stderr and bench.load(path) == old


def test_table_of_one_group():
    "Whatever is missing is named, not invented."
    results = dict.fromkeys(bench.REQUIRED, {}) | dict(machine=dict(cpu='any', cores_used=1, capability='none'), versions=dict(torch='0'), date='today',
                                                       settings=dict(quick=True), bf16=dict(measured=True))
    assert bench.table(results).count('not measured') >= 2


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
def test_a_device_that_is_not_there():
    done = call('--device', 'cuda', check=False)
    assert done.returncode and "'cuda' is not there; expected 'cpu'" in done.stderr


def test_damaged_results(tmp_path):
    path = tmp_path/'x.json'
    for text in ('{"machine": {}', '[]', '{"machine": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match='x.json'): bench.load(path)


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
        for a, b in zip(values(call, bf16), values(lambda: lstm(x)[0], False)): assert (a - b).norm() < (2e-2 if bf16 else 1e-5) * b.norm()


@pytest.mark.parametrize('conditional', [False, True])
def test_peer_model_agrees_with_ours(conditional):
    "Without peepholes, the model of `nn.LSTM` and ours are one function."
    both = dict(conditional_reconstruction=conditional, conditional_future=conditional)
    model = bench.VideoLSTM.composite(hidden_size=4, num_layers=2, frame_shape=(1, 2, 2), peephole=False, **both)
    peer, decoders = peers.NNVideoLSTM(4, 4, 2, conditional), (model.reconstruction_decoder, model.future_decoder)
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
        model = peers.as_loops(bench.VideoLSTM.composite(hidden_size=H, num_layers=L, frame_shape=(1, 4, 4), **both))
        past, future = torch.rand(2, B, T, 1, 4, 4)
        with FlopCounterMode(display=False) as counter: model.loss(past, future).total.backward()
        first = 2*B*4*H*H*L # the encoder starts from zeros, whose gradient nobody asks for
        assert counter.get_total_flops() == bench.composite_flops(B, T, D, H, L, conditional) - first


def test_plain_clips():
    import numpy as np
    digits = np.full((3, 4, 4), 255, np.uint8)
    clips = peers.python_clips(digits, 5, 7, 9, 2, .1, np.random.default_rng(0))
    assert clips.shape == (5, 7, 1, 9, 9) and clips.dtype == torch.float32 and set(clips.unique().tolist()) == {0., 1.}
    assert (clips.sum((2, 3, 4)) >= 16).all() and (clips[:, 0] != clips[:, -1]).any()


def test_bf16_everywhere(monkeypatch, tmp_path):
    "The variants that need bf16 run, on sizes that are tiny on any machine."
    monkeypatch.setattr(bench, 'fast_bf16', lambda device: True)
    results = bench.run(torch.device('cpu'), ['layer', 'ladder', 'composite', 'scaling'], tmp_path/'x.json', quick=True, seconds=.1, backends=('reference', 'fused'))
    check_results(results)
    for group in ('layer', 'ladder', 'composite', 'scaling'):
        variants = {d: {r['variant'] for r in bench.rows(results, group, dtype=d)} - {'nn.LSTM'} for d in ('fp32', 'bf16')}
        assert variants['bf16'] >= variants['fp32'], group
        assert {l['variant'] for l in results['groups'][group]['left_out']} <= {'nn.LSTM'} # which has no bf16 on some CPUs
    assert bench.rows(results, 'layer', 'nn.LSTM, bf16 weights')
    text = bench.table(results)
    assert all(f'not measured: {bench.label(l["case"])} nn.LSTM bf16' in text for l in results['groups']['composite']['left_out'])


# ---- what is kept

@pytest.mark.parametrize('path', KEPT, ids=lambda p: p.stem)
def test_kept_results(path):
    results = bench.load(path)
    check_results(results)
    assert not results['settings']['quick'] and 'reach' in bench.table(results)


def test_names_of_processors(monkeypatch):
    for units, name in ((['amx_tile', 'avx512_bf16'], 'amx'), (['avx512_bf16'], 'avx512-bf16'), ([], torch.backends.cpu.get_cpu_capability().lower().replace(' ', '-'))):
        for module in (bench, bench.fast_lstm): monkeypatch.setattr(module, '_has', lambda unit: unit in units)
        assert bench.capability(torch.device('cpu')) == name

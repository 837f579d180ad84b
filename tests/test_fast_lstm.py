"The fast layers against the readable one: outputs, every gradient, and what happens around them."
import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

from lstm_video_repr import fast_lstm
from lstm_video_repr.fast_lstm import Compiled, choose_backend, fused_layer, gates_forward
from lstm_video_repr.lstm import PeepholeLSTM, lstm_layer, set_backend
from lstm_video_repr.models import Decoder, VideoLSTM

cuda = pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'))


def relative(a, b): return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def passes(lstm, x, state, steps, backend, autocast=None, wanted=('out', 'h', 'c')):
    "Outputs and the gradient of everything, by one backend, as a dictionary."
    set_backend(lstm, backend)
    leaves = {'h0': state[0].clone().requires_grad_(), 'c0': state[1].clone().requires_grad_()}
    if x is not None: leaves['x'] = x.clone().requires_grad_()
    lstm.zero_grad()
    with torch.autocast(state[0].device.type, autocast, enabled=autocast is not None):
        out, (h, c) = lstm(leaves.get('x'), (leaves['h0'], leaves['c0']), steps)
    results = dict(out=out, h=h, c=c)
    gen = torch.Generator().manual_seed(9)
    goal = sum((results[k] * torch.randn(results[k].shape, generator=gen, dtype=torch.float64).to(results[k])).sum() for k in wanted)
    goal.backward()
    named = dict(lstm.named_parameters()) | leaves
    return {k: v.detach() for k, v in results.items()} | {f'd{k}': v.grad.clone() for k, v in named.items() if v.grad is not None}


def drawn(D, H, L=1, B=3, T=5, peephole=True, dtype=torch.float64, device='cpu', dropout=0.):
    gen = torch.Generator().manual_seed(0)
    lstm = PeepholeLSTM(D, H, L, dropout, peephole, generator=gen)
    with torch.no_grad():                                   # biases and peepholes start at zero or one; here they shall matter
        for w in lstm.parameters():
            if w.ndim == 1 or len(w) == 3: w.copy_(torch.randn(w.shape, generator=gen))
    x, h, c = (torch.randn(*s, generator=gen).to(device, dtype) for s in ((B, T, max(D, 1)), (L, B, H), (L, B, H)))
    return lstm.to(device, dtype), x, (h, c)


# ---- agreement

@pytest.mark.parametrize('device', ['cpu', cuda])
@pytest.mark.parametrize('dtype, eps', [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=['float64', 'float32'])
@pytest.mark.parametrize('reads, peephole, layers', list(itertools.product([True, False], [True, False], [1, 2])))
def test_same_function_same_gradients(reads, peephole, layers, dtype, eps, device):
    lstm, x, state = drawn(7, 6, layers, peephole=peephole, dtype=dtype, device=device)
    ours, theirs = (passes(lstm, x if reads else None, state, 5, b) for b in ('fused', 'reference'))
    assert ours.keys() == theirs.keys()
    assert len(ours) == 3 + 2 + reads + (3 + peephole) * layers - (not reads)    # outputs, states, input, parameters; without input no W_x in the first layer
    for k in theirs:
        assert ours[k].dtype == theirs[k].dtype == dtype and ours[k].shape == theirs[k].shape
        assert relative(ours[k], theirs[k]) < eps, k


@pytest.mark.parametrize('sizes', [dict(B=1, T=1, D=1, H=1), dict(B=1, T=9, D=4, H=3), dict(B=5, T=1, D=2, H=7), dict(B=2, T=150, D=3, H=4)], ids=str)
def test_small_and_long(sizes):
    D, H = sizes.pop('D'), sizes.pop('H')
    lstm, x, state = drawn(D, H, **sizes)
    ours, theirs = (passes(lstm, x, state, None, b) for b in ('fused', 'reference'))
    for k in theirs: assert relative(ours[k], theirs[k]) < 1e-10, k
    with torch.no_grad():
        for name in ('fused', 'reference'): set_backend(lstm, name)(x, state)
        a, b = set_backend(lstm, 'fused')(x, state)[0], set_backend(lstm, 'reference')(x, state)[0]
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize('device', ['cpu', cuda])
@pytest.mark.parametrize('reads', [True, False])
def test_bf16_products(reads, device):
    "Under autocast: 16-bit products, everything that comes out in the dtype of the weights, within 2%."
    lstm, x, state = drawn(64, 48, B=16, T=10, dtype=torch.float32, device=device)
    with torch.no_grad():
        for name, w in lstm.named_parameters():
            if 'peephole' in name: w.mul_(.3)
    ours = passes(lstm, x if reads else None, state, 10, 'fused', torch.bfloat16)
    exact = passes(lstm, x if reads else None, state, 10, 'reference')
    for k in exact:
        assert ours[k].dtype == torch.float32
        assert 0 < relative(ours[k], exact[k]) < 2e-2, (k, relative(ours[k], exact[k]))


def test_bf16_weights_keep_their_cell_in_float32():
    "A model cast as a whole: a cell that gains 0.001 a step for 1000 steps stands still at 0.25 or so in bfloat16."
    lstm = PeepholeLSTM(1, 1, peephole=False, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        for w in lstm.parameters(): w.zero_()
        lstm.bias_l0.copy_(torch.tensor([20., 20., .001, 0.]))                  # i and f open, g = 0.001
        _, (h, c) = set_backend(lstm, 'fused')(torch.zeros(1, 1000, 1, dtype=torch.bfloat16))
        _, (_, stuck) = set_backend(lstm, 'reference')(torch.zeros(1, 1000, 1, dtype=torch.bfloat16))
    assert c.dtype == torch.bfloat16 and abs(c.item() - 1) < .02 and stuck.item() < .6


@pytest.mark.parametrize('wanted', [('out',), ('h',), ('c',), ('h', 'c')], ids='+'.join)
def test_gradients_of_some_results(wanted):
    "An encoder's outputs are not looked at, only its last state; a decoder's last state is not."
    lstm, x, state = drawn(4, 6, 2)
    ours, theirs = (passes(lstm, x, state, 5, b, wanted=wanted) for b in ('fused', 'reference'))
    for k in theirs: assert relative(ours[k], theirs[k]) < 1e-10, k


def test_only_the_gradients_asked_for():
    lstm, x, state = drawn(4, 6)
    set_backend(lstm, 'fused')
    for frozen in (['weight_ih_l0'], ['weight_hh_l0', 'bias_l0'], ['weight_peephole_l0'], [n for n, _ in lstm.named_parameters()]):
        lstm.zero_grad()
        for name, w in lstm.named_parameters(): w.requires_grad_(name not in frozen)
        x.requires_grad_(); x.grad = None
        lstm(x, state)[0].sum().backward()
        assert [n for n, w in lstm.named_parameters() if w.grad is None] == frozen and x.grad is not None
    plain, *_ = fused_layer(x.detach(), state[0][0], state[1][0], *[w.detach() for w in lstm._weights(0)], 5)
    assert plain.grad_fn is None


def test_dropout_between_layers():
    lstm, x, state = drawn(4, 6, 3, dropout=.5)
    ends = []
    for name in ('fused', 'reference'):
        torch.manual_seed(3)
        ends.append(passes(lstm, x, state, 5, name))
    for k in ends[0]: assert relative(*(e[k] for e in ends)) < 1e-10, k


def test_nothing_kept_is_overwritten():
    "Gradients may be asked for twice; arguments stay as they were."
    lstm, x, state = drawn(4, 6)
    before = x.clone(), state[0].clone(), state[1].clone()
    out, _ = set_backend(lstm, 'fused')(x, state)
    once = torch.autograd.grad(out.sum(), list(lstm.parameters()), retain_graph=True)
    twice = torch.autograd.grad(out.sum(), list(lstm.parameters()))
    for a, b in zip(once, twice): assert torch.equal(a, b)
    for a, b in zip(before, (x, *state)): assert torch.equal(a, b)


def test_second_derivatives_are_refused():
    lstm, x, state = drawn(4, 6)
    out, _ = set_backend(lstm, 'fused')(x, state)
    with pytest.raises(RuntimeError, match="no second derivative.*backend='reference'"):
        torch.autograd.grad(out.sum(), list(lstm.parameters()), create_graph=True)


def test_results_can_be_changed_in_place():
    "What is handed out is not what is kept for the way back."
    lstm, x, state = drawn(4, 6)
    clean = passes(lstm, x, state, 5, 'fused', wanted=('out',))
    lstm.zero_grad()
    out, (h, c) = lstm(x, state)
    with torch.no_grad(): h.zero_(); c.zero_()
    gen = torch.Generator().manual_seed(9)
    (out * torch.randn(out.shape, generator=gen, dtype=torch.float64)).sum().backward()
    for name, w in lstm.named_parameters(): assert relative(w.grad, clean['d' + name]) < 1e-10


# ---- compiled

@pytest.fixture
def fresh(monkeypatch):
    "The compiled halves as they are in a new process."
    for name in ('_compiled_forward', '_compiled_backward'): monkeypatch.setattr(fast_lstm, name, Compiled(getattr(fast_lstm, name).function))


def test_compiled_is_the_same(fresh):
    lstm, x, state = drawn(7, 6, dtype=torch.float32)
    ours, theirs = (passes(lstm, x, state, 5, b) for b in ('compiled', 'reference'))
    if problem := fast_lstm._compiled_forward.problem or fast_lstm._compiled_backward.problem: pytest.skip(f'nothing compiles here: {problem}')
    assert fast_lstm._compiled_forward.fast is not None and fast_lstm._compiled_backward.fast is not None
    for k in theirs: assert relative(ours[k], theirs[k]) < 1e-5, k


@pytest.mark.parametrize('when', ['at once', 'at the first call'])
def test_without_a_compiler(fresh, monkeypatch, when):
    "Slower, not wrong, and it says why."
    def fails(*args): raise RuntimeError('no compiler found\nlong story')
    monkeypatch.setattr(torch, 'compile', fails if when == 'at once' else lambda f: fails)
    lstm, x, state = drawn(7, 6)
    ours, theirs = (passes(lstm, x, state, 5, b) for b in ('compiled', 'reference'))
    for k in theirs: assert relative(ours[k], theirs[k]) < 1e-10, k
    monkeypatch.setattr(fast_lstm, '_choice', lambda *a: ('compiled', 'it would be faster'))
    assert choose_backend('cpu') == ('fused', 'compiling failed (RuntimeError: no compiler found)')


def test_a_real_mistake_is_not_hidden(fresh, monkeypatch):
    "What fails compiled and plain alike is raised."
    monkeypatch.setattr(torch, 'compile', lambda f: f)
    with pytest.raises(RuntimeError, match='size'): fast_lstm._compiled_forward(torch.zeros(8, 3), torch.zeros(8, 1), torch.zeros(5, 3), None)


def test_inside_a_compiled_model():
    "`torch.compile` goes through the fused layer in one piece."
    lstm, x, state = drawn(4, 6, 2, T=3)
    plain = passes(lstm, x, state, 3, 'fused')
    whole = torch.compile(lstm, fullgraph=True, backend='aot_eager')
    for name in ('fused', 'auto', 'compiled'):
        set_backend(lstm, name); lstm.zero_grad()
        out, (h, c) = whole(x, state)
        assert relative(out, plain['out']) < 1e-10 and relative(c, plain['c']) < 1e-10
        gen = torch.Generator().manual_seed(9)
        sum((v * torch.randn(v.shape, generator=gen, dtype=torch.float64)).sum() for v in (out, h, c)).backward()
        for n, w in lstm.named_parameters(): assert relative(w.grad, plain['d' + n]) < 1e-10, n


# ---- the choice

def test_what_auto_takes(fresh, monkeypatch):
    assert choose_backend('cpu')[0] == choose_backend('cpu', torch.float64)[0] == 'fused'
    assert choose_backend('cuda', torch.bfloat16)[0] == choose_backend(torch.device('cuda', 1))[0] == 'compiled'
    assert choose_backend('mps')[0] == 'reference' and 'mps' in choose_backend('mps')[1]
    for units, compiler, fast, name in (((), '/c++', False, 'fused'), (['avx512_bf16'], '/c++', True, 'fused'), (['amx_tile'], None, True, 'fused'), (['amx_tile'], '/c++', True, 'compiled')):
        fast_lstm._choice.cache_clear()
        monkeypatch.setattr(fast_lstm, '_has', lambda unit: unit in units)
        assert fast_lstm.fast_bf16('cpu') == fast
        monkeypatch.setattr(fast_lstm.shutil, 'which', lambda name: compiler)
        assert choose_backend('cpu', torch.bfloat16)[0] == name
    fast_lstm._choice.cache_clear()


def test_models_are_fast_by_default():
    model = VideoLSTM.composite(hidden_size=4, frame_shape=(1, 4, 4), conditional_future=True)
    assert {m.chosen_backend()[0] for m in model.modules() if isinstance(m, PeepholeLSTM)} == {'fused'}
    assert {m.backend for m in set_backend(model, 'reference').modules() if isinstance(m, PeepholeLSTM)} == {'reference'}
    lstm = PeepholeLSTM(3, 4)
    with torch.autocast('cpu', torch.bfloat16): assert lstm.chosen_backend() == choose_backend('cpu', torch.bfloat16)


@pytest.mark.parametrize('conditional', [False, True])
def test_models_learn_the_same(conditional):
    "The whole loss, by both, down to the last weight."
    model = VideoLSTM.composite(hidden_size=8, frame_shape=(1, 5, 5), num_layers=2, conditional_reconstruction=conditional, conditional_future=conditional).double()
    gen = torch.Generator().manual_seed(1)
    past, future = (torch.rand(4, n, 1, 5, 5, generator=gen, dtype=torch.float64) for n in (6, 3))
    ends = []
    for name in ('auto', 'reference'):
        set_backend(model, name).zero_grad()
        loss = model.loss(past, future).total
        loss.backward()
        ends.append([loss.detach()] + [p.grad.clone() for p in model.parameters()])
    for a, b in zip(*ends): assert relative(a, b) < 1e-10


# ---- memory

def test_rollouts_need_no_memory_but_their_frames():
    "From 50 to 1000 frames the peak grows by less than a quarter of what the layer's outputs alone would take."
    code = r'''
import re, torch
from lstm_video_repr.models import Decoder
def peak(): return 1024 * int(re.search(r'VmHWM:\s*(\d+)', open('/proc/self/status').read())[1])
dec, state = Decoder(4, 512), torch.zeros(2, 1, 64, 512).unbind(0)
with torch.no_grad():
    dec.free(state, 50); before = peak()
    dec.free(state, 1000); print(peak() - before)
'''
    if not sys.platform.startswith('linux'): pytest.skip('reads the peak of memory where Linux keeps it')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 1000 * 64 * 4 * 4 / 2 < int(done.stdout) < .25 * 64 * 1000 * 512 * 4    # the frames themselves are half a megabyte or more


@pytest.mark.parametrize('conditional', [False, True])
def test_rollouts_in_blocks(conditional):
    dec = Decoder(6, 8, 2, conditional=conditional, generator=torch.Generator().manual_seed(0))
    state = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    for steps in (1, 31, 32, 33, 100):
        with torch.no_grad(): quick = dec.free(state, steps)
        torch.testing.assert_close(quick, dec.free(state, steps))

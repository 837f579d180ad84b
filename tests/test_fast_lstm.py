"The fast layers against the readable one: outputs, every gradient, and what happens around them."
import errno
import itertools
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from lstm_video_repr import fast_lstm
from lstm_video_repr.fast_lstm import (Compiled, choose_backend, fused_layer, gates_backward, gates_forward,
                                       lacks_memory, lstm_flops)
from lstm_video_repr.lstm import PeepholeLSTM, set_backend
from lstm_video_repr.models import Decoder, VideoLSTM

cuda = pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'))


def relative(a, b): return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def passes(lstm, x, state, frames, backend, autocast=None, wanted=('out', 'h', 'c')):
    "Outputs and the gradient of everything, by one backend, as a dictionary."
    set_backend(lstm, backend)
    leaves = {'h0': state[0].clone().requires_grad_(), 'c0': state[1].clone().requires_grad_()}
    if x is not None: leaves['x'] = x.clone().requires_grad_()
    lstm.zero_grad()
    with torch.autocast(state[0].device.type, autocast, enabled=autocast is not None):
        out, (h, c) = lstm(leaves.get('x'), (leaves['h0'], leaves['c0']), frames=frames)
    results = dict(out=out, h=h, c=c)
    gen = torch.Generator().manual_seed(9)
    factors = {k: torch.randn(results[k].shape, generator=gen, dtype=torch.float64).to(results[k]) for k in wanted}
    sum((results[k] * factors[k]).sum() for k in wanted).backward()
    named = dict(lstm.named_parameters()) | leaves
    grads = {f'd{k}': v.grad.clone() for k, v in named.items() if v.grad is not None}
    return {k: v.detach() for k, v in results.items()} | grads


def drawn(D, H, L=1, B=3, T=5, peephole=True, dtype=torch.float64, device='cpu', dropout=0.):
    gen = torch.Generator().manual_seed(0)
    lstm = PeepholeLSTM(D, H, L, dropout=dropout, peephole=peephole, generator=gen)
    with torch.no_grad(): # biases and peepholes start at zero or one; here they shall matter
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
    # outputs, states, input, parameters; without input no W_x in the first layer
    assert len(ours) == 3 + 2 + reads + (3 + peephole) * layers - (not reads)
    for k in theirs:
        assert ours[k].dtype == theirs[k].dtype == dtype and ours[k].shape == theirs[k].shape
        assert relative(ours[k], theirs[k]) < eps, k


@pytest.mark.parametrize('sizes', [dict(B=1, T=1, D=1, H=1), dict(B=1, T=9, D=4, H=3), dict(B=5, T=1, D=2, H=7),
                                   dict(B=2, T=150, D=3, H=4)], ids=str)
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
    every = [n for n, _ in lstm.named_parameters()]
    for frozen in (['weight_ih_l0'], ['weight_hh_l0', 'bias_l0'], ['weight_peephole_l0'], every):
        lstm.zero_grad()
        for name, w in lstm.named_parameters(): w.requires_grad_(name not in frozen)
        x.requires_grad_(); x.grad = None
        lstm(x, state)[0].sum().backward()
        assert [n for n, w in lstm.named_parameters() if w.grad is None] == frozen and x.grad is not None
    named = dict(zip(('w_ih', 'w_hh', 'bias', 'w_peephole'), (w.detach() for w in lstm.weights(0))))
    plain, *_ = fused_layer(x.detach(), state[0][0], state[1][0], **named, frames=5)
    assert plain.grad_fn is None


@pytest.mark.parametrize('reads', [True, False])
@pytest.mark.parametrize('B', [1, 2, 15, 16, 17])
def test_rows_and_columns(B, reads):
    "Few clips lie in memory as rows, many as columns; in place or with a new tensor for each result: the same numbers."
    lstm, x, state = drawn(4, 6, B=B)
    w = dict(zip(('w_ih', 'w_hh', 'bias', 'w_peephole'), lstm.weights(0)), frames=5)
    plain = passes(lstm, x if reads else None, state, 5, 'reference')
    ours = passes(lstm, x if reads else None, state, 5, 'fused')
    for k in plain: assert relative(ours[k], plain[k]) < 1e-10, k
    for in_place in (True, False):
        outs = fused_layer(x if reads else None, *(v[0] for v in state), **w, in_place=in_place)
        for k, v in zip(('out', 'h', 'c'), outs): assert relative(v, plain[k].view_as(v)) < 1e-10, (k, in_place)
        grads = torch.autograd.grad((outs[0] * ours['out']).sum(), [w['w_hh'], w['w_peephole']], retain_graph=in_place)
        if in_place: first = grads
    for a, b in zip(first, grads): assert relative(a, b) < 1e-10


@pytest.mark.parametrize('B', [3, 20])
def test_the_same_numbers_each_time(B):
    lstm, x, state = drawn(7, 6, 2, B=B, dtype=torch.float32)
    for autocast in (None, torch.bfloat16):
        a, b = (passes(lstm, x, state, 5, 'fused', autocast) for _ in range(2))
        for k in a: assert torch.equal(a[k], b[k]), k


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
    for name in ('compiled_forward', 'compiled_backward'):
        monkeypatch.setattr(fast_lstm, name, Compiled(getattr(fast_lstm, name).function))
    fast_lstm.warn_of_compiling.cache_clear()


@pytest.fixture
def stub(monkeypatch):
    "A compiler that takes no time: what it was given is run as it is, and counted."
    given = []
    def compile(function):
        def run(*args, **kw): given.append(function); return function(*args, **kw)
        return run
    monkeypatch.setattr(torch, 'compile', compile)
    return given


@pytest.mark.filterwarnings("ignore:backend='compiled' on a CPU")
def test_compiled_is_the_same(fresh):
    "With the compiler that is here, as small as it gets."
    lstm, x, state = drawn(2, 2, B=2, T=1, dtype=torch.float32)
    ours, theirs = (passes(lstm, x, state, 1, b) for b in ('compiled', 'reference'))
    if problem := fast_lstm.compile_problem(): pytest.skip(f'nothing compiles here: {problem}')
    assert fast_lstm.compiled_forward.fast is not None and fast_lstm.compiled_backward.fast is not None
    for k in theirs: assert relative(ours[k], theirs[k]) < 1e-5, k


@pytest.mark.filterwarnings("ignore:backend='compiled' on a CPU")
def test_every_frame_goes_through_the_compiler(fresh, stub):
    lstm, x, state = drawn(7, 6, 2)
    ours, theirs = (passes(lstm, x, state, 5, b) for b in ('compiled', 'fused'))
    for k in theirs: assert relative(ours[k], theirs[k]) < 1e-12, k # the fused one works in place
    halves = fast_lstm.compiled_forward.function, fast_lstm.compiled_backward.function
    assert stub == [halves[0]]*10 + [halves[1]]*10             # two layers, five frames, there and back
    assert fast_lstm.compile_problem() is None


def test_without_training_a_cpu_compiles_nothing(fresh, stub):
    lstm, x, state = drawn(7, 6, 2)
    set_backend(lstm, 'compiled')
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('error')
        lstm(x, state)
    assert stub == []


def test_compiling_on_a_cpu_warns_once(fresh, stub):
    "What it costs, and what becomes of the last bits."
    lstm, x, state = drawn(4, 6, 2)
    with pytest.warns(UserWarning) as told:
        for _ in range(2): passes(lstm, x, state, 5, 'compiled')
    assert len(told) == 1
    for words in ("backend='compiled' on a CPU", 'tens of seconds', 'each new shape', 'last bits', 'compiled before'):
        assert words in str(told[0].message)


def test_auto_compiles_nothing_on_a_cpu(fresh, stub, monkeypatch):
    "Whatever units the processor has, in any dtype: a training step compiles nothing and warns of nothing."
    monkeypatch.setattr(fast_lstm, 'has_unit', lambda unit: True)
    lstm, x, state = drawn(4, 6, 2, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for autocast in (None, torch.bfloat16): passes(lstm, x, state, 5, 'auto', autocast)
    assert stub == []


@pytest.mark.filterwarnings("ignore:backend='compiled' on a CPU")
@pytest.mark.parametrize('when', ['at once', 'at the first call'])
def test_without_a_compiler(fresh, monkeypatch, when):
    "Slower, not wrong, and it says why."
    def fails(*args, **kw): raise RuntimeError('no compiler found\nlong story')
    monkeypatch.setattr(torch, 'compile', fails if when == 'at once' else lambda f: fails)
    lstm, x, state = drawn(7, 6)
    ours, theirs = (passes(lstm, x, state, 5, b) for b in ('compiled', 'reference'))
    for k in theirs: assert relative(ours[k], theirs[k]) < 1e-10, k
    assert fast_lstm.compile_problem() == 'RuntimeError: no compiler found'
    assert choose_backend('cuda') == ('fused', 'compiling failed (RuntimeError: no compiler found)')


def test_a_real_mistake_is_not_hidden(fresh, stub):
    "What fails compiled and plain alike is raised."
    with pytest.raises(RuntimeError, match='size'):
        fast_lstm.compiled_forward(torch.zeros(8, 3), torch.zeros(5, 3), bias=torch.zeros(8, 1))


class CompilerError(Exception):
    "As torch's compiler wraps what went wrong inside."
    def __init__(self, inner=None, text='the compiler failed'):
        super().__init__(text)
        self.inner_exception = inner


def caused(error, cause):
    "The error, raised from its cause."
    try:
        try: raise cause
        except type(cause) as inner: raise error from inner
    except type(error) as outer: return outer


def while_handling(error, first):
    "The error, raised while another one was handled."
    try:
        try: raise first
        except type(first): raise error
    except type(error) as outer: return outer


NO_MEMORY = {
    'host': MemoryError(), 'GPU': torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'),
    'fork': OSError(errno.ENOMEM, 'Cannot allocate memory'),
    'torch on a CPU': RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    'inner': CompilerError(torch.OutOfMemoryError('out')), 'innermost': CompilerError(CompilerError(MemoryError())),
    'cause': caused(CompilerError(), MemoryError()),
    'cause of a cause': caused(CompilerError(), caused(ValueError(), MemoryError())),
    'inside of a cause': caused(CompilerError(), CompilerError(MemoryError())),
    'context': while_handling(CompilerError(), MemoryError()),
    'quoted': CompilerError(text='An exception occurred in a subprocess:\n\nMemoryError\n')}
OTHERS = {
    'plain': RuntimeError('no compiler found'), 'inner': CompilerError(RuntimeError('no g++')),
    'cause': caused(CompilerError(), ValueError()), 'no file': OSError(errno.ENOENT, 'g++'),
    'registers of a GPU': RuntimeError('OutOfResources: out of resource: shared memory')}


@pytest.mark.parametrize('error', NO_MEMORY.values(), ids=NO_MEMORY)
@pytest.mark.parametrize('when', ['at once', 'at the first call', 'later'])
def test_a_lack_of_memory_is_raised(monkeypatch, error, when):
    "Never taken for a compiler that does not work: the plain function is not tried, and compiling is not given up."
    calls, plain = [], []
    def fails(*args, **kw):
        calls.append(args)
        if when != 'later' or len(calls) > 1: raise error
        return 'compiled'
    monkeypatch.setattr(torch, 'compile', fails if when == 'at once' else lambda f: fails)
    compiled = Compiled(lambda x: plain.append(x))
    if when == 'later': assert compiled(torch.zeros(1)) == 'compiled'
    with pytest.raises(type(error)) as raised: compiled(torch.zeros(1))
    assert raised.value is error and lacks_memory(error)
    assert plain == [] and compiled.problem is None


@pytest.mark.parametrize('error', OTHERS.values(), ids=OTHERS)
def test_other_trouble_is_the_compilers(monkeypatch, error):
    monkeypatch.setattr(torch, 'compile', lambda f: lambda x: (_ for _ in ()).throw(error))
    compiled = Compiled(lambda x: 2*x)
    assert compiled(3) == 6 and not lacks_memory(error)
    assert compiled.problem.startswith(type(error).__name__)


@pytest.mark.filterwarnings("ignore:backend='compiled' on a CPU")
def test_a_training_step_raises_a_lack_of_memory(fresh, monkeypatch):
    "On the way there and on the way back, through autograd."
    for half in (gates_forward.__wrapped__, gates_backward.__wrapped__):
        def compile(function):
            def run(*args, **kw):
                if function is half: raise CompilerError(torch.OutOfMemoryError('out'))
                return function(*args, **kw)
            return run
        monkeypatch.setattr(torch, 'compile', compile)
        for name in ('compiled_forward', 'compiled_backward'): getattr(fast_lstm, name).fast = None
        lstm, x, state = drawn(4, 6)
        with pytest.raises(CompilerError): passes(lstm, x, state, 5, 'compiled')
        assert fast_lstm.compile_problem() is None


def test_inside_a_compiled_model():
    "`torch.compile` goes through the fused layer in one piece, and on the state alone, too."
    lstm, x, state = drawn(4, 6, 2, T=2)
    plain = passes(lstm, x, state, 2, 'fused')
    whole = torch.compile(lstm, fullgraph=True, backend='aot_eager')
    for name in ('fused', 'auto', 'compiled'):
        set_backend(lstm, name); lstm.zero_grad()
        out, (h, c) = whole(x, state)
        assert relative(out, plain['out']) < 1e-10 and relative(c, plain['c']) < 1e-10
        gen = torch.Generator().manual_seed(9)
        sum((v * torch.randn(v.shape, generator=gen, dtype=torch.float64)).sum() for v in (out, h, c)).backward()
        for n, w in lstm.named_parameters(): assert relative(w.grad, plain['d' + n]) < 1e-10, n
    torch.testing.assert_close(whole(state=state, frames=2), lstm(state=state, frames=2))


# ---- the choice

def test_what_auto_takes(fresh, monkeypatch):
    assert choose_backend('cuda', torch.bfloat16)[0] == choose_backend(torch.device('cuda', 1))[0] == 'compiled'
    assert choose_backend('mps')[0] == 'reference' and 'mps' in choose_backend('mps')[1]
    for units in ([], ['avx512_bf16'], ['amx_tile'], ['amx_tile', 'avx512_bf16']):
        monkeypatch.setattr(fast_lstm, 'has_unit', lambda unit: unit in units)
        assert fast_lstm.fast_bf16('cpu') == bool(units)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            name, why = choose_backend('cpu', dtype)
            assert name == 'fused' and ('float32 would be faster' in why) == (dtype == torch.bfloat16 and not units)


@pytest.mark.parametrize('wrong', ['float32', 4, None])
def test_a_dtype_that_is_none(wrong):
    with pytest.raises(ValueError, match='^dtype is .*; expected a dtype of torch'): choose_backend('cpu', wrong)


def test_operations_are_counted():
    assert lstm_flops(2, 7, 3, hidden_size=5) == 2*2*7 * 20*(3 + 5)
    assert lstm_flops(2, 7, 3, hidden_size=5, training=True) == lstm_flops(2, 7, 3, hidden_size=5) * 2 + 2*2*7 * 20*5
    assert lstm_flops(2, 7, 0, hidden_size=5) == 2*2*7 * 20*5 and lstm_flops(2, 0, 3, hidden_size=5) == 0
    with pytest.raises(ValueError, match='^input_grad is 1; expected'): lstm_flops(2, 7, 3, hidden_size=5, input_grad=1)
    for name, bad in dict(batch=1.5, frames=-1, input_size='3', hidden_size=0, training=1, input_grad=None).items():
        with pytest.raises(ValueError, match=f'^{name} is .*; expected '):
            lstm_flops(**dict(batch=2, frames=7, input_size=3, hidden_size=5, training=True) | {name: bad})


def test_models_are_fast_by_default():
    model = VideoLSTM.composite(hidden_size=4, frame_shape=(1, 4, 4), conditional_future=True)
    assert {m.resolve_backend()[0] for m in model.modules() if isinstance(m, PeepholeLSTM)} == {'fused'}
    set_backend(model, 'reference')
    assert {m.backend for m in model.modules() if isinstance(m, PeepholeLSTM)} == {'reference'}
    lstm = PeepholeLSTM(3, 4)
    with torch.autocast('cpu', torch.bfloat16): assert lstm.resolve_backend() == choose_backend('cpu', torch.bfloat16)


@pytest.mark.parametrize('conditional', [False, True])
def test_models_learn_the_same(conditional):
    "The whole loss, by both, down to the last weight."
    model = VideoLSTM.composite(hidden_size=8, frame_shape=(1, 5, 5), num_layers=2, conditional=conditional).double()
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
    dec.run_free(state, 50); before = peak()
    dec.run_free(state, 1000); print(peak() - before)
'''
    if not sys.platform.startswith('linux'): pytest.skip('reads the peak of memory where Linux keeps it')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # the frames themselves are half a megabyte or more
    assert 1000 * 64 * 4 * 4 / 2 < int(done.stdout) < .25 * 64 * 1000 * 512 * 4


KEEPS = r"""
import os, resource, torch
from lstm_video_repr import fast_lstm
from lstm_video_repr.lstm import PeepholeLSTM
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): torch.ones(10**7)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
lstm, counts = PeepholeLSTM(2, 3), [pages()]
with torch.no_grad(): lstm(torch.zeros(1, 2, 2))
counts.append(pages())
for _ in range(2): lstm(torch.zeros(1, 2, 2))[0].sum().backward(); pages(); counts.append(pages())
print(*counts)
"""


@pytest.mark.skipif('CS_GNU_LIBC_VERSION' not in getattr(os, 'confstr_names', {}), reason='glibc alone keeps memory')
@pytest.mark.parametrize('said', [False, True])
def test_training_keeps_memory(said):
    "Ten tensors of 40 MB take new pages each time, until a layer has been trained; never, if somebody has decided."
    env = {k: v for k, v in os.environ.items() if 'MALLOC_' not in k and k != 'GLIBC_TUNABLES'}
    if said: env['MALLOC_MMAP_THRESHOLD_'] = str(2**20)
    done = subprocess.run([sys.executable, '-c', KEEPS], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    start, untrained, *trained = map(int, done.stdout.split())
    assert min(start, untrained) > 1000 # some have pages of 2 MB
    assert all((n > 1000) == said for n in trained)


def test_where_memory_cannot_be_kept(monkeypatch):
    monkeypatch.setattr(os, 'confstr_names', {})
    assert fast_lstm.keep_memory() is fast_lstm.keep_memory(False) is False
    with pytest.raises(ValueError, match='^keep is 1; expected True or False'): fast_lstm.keep_memory(1)


@pytest.mark.parametrize('conditional', [False, True])
def test_rollouts_in_blocks(conditional):
    dec = Decoder(6, 8, 2, conditional=conditional, generator=torch.Generator().manual_seed(0))
    state = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    for frames in (1, 31, 32, 33, 100):
        with torch.no_grad(): quick = dec.run_free(state, frames)
        torch.testing.assert_close(quick, dec.run_free(state, frames))


def test_checkpointing():
    "What was kept is asked for once only, so that a layer can be computed again on the way back instead of kept."
    lstm, x, state = drawn(4, 6, 2)
    plain = passes(lstm, x, state, 5, 'fused', wanted=('out',))
    lstm.zero_grad()
    out, _ = checkpoint(lstm, x, state, use_reentrant=False)
    gen = torch.Generator().manual_seed(9)
    (out * torch.randn(out.shape, generator=gen, dtype=torch.float64)).sum().backward()
    for name, w in lstm.named_parameters(): assert relative(w.grad, plain['d' + name]) < 1e-10, name


# ---- arguments that do not fit

def halves():
    "Arguments of `gates_forward` and of `gates_backward` that fit: 3 units, 2 clips."
    there = dict(z=torch.zeros(12, 2), c=torch.zeros(3, 2), w_peephole=torch.zeros(3, 3, 1), bias=torch.zeros(12, 1))
    back = dict(gates=[torch.zeros(3, 2)]*4, cells=(torch.zeros(3, 2),)*2, w_peephole=torch.zeros(3, 3, 1),
                dh=torch.zeros(3, 2), dc=torch.zeros(3, 2), dout=torch.zeros(3, 2))
    return there, back


def test_batches_of_two_and_three():
    "They gave numbers, wrong ones."
    lstm, x, (h, c) = drawn(4, 6, B=2)
    w = dict(zip(('w_ih', 'w_hh', 'bias', 'w_peephole'), lstm.weights(0)), frames=5)
    three = torch.zeros(3, 6, dtype=torch.float64)
    for args, word in (((x, three, three), r'x has shape \(2, 5, 4\); expected \(3, 5, D\)'),
                       ((x, h[0], three), r'c has shape \(3, 6\); expected \(2, 6\)'),
                       ((None, h[0], three), r'c has shape \(3, 6\); expected \(2, 6\)')):
        with pytest.raises(ValueError, match=f'^{word}'): fused_layer(*args, **w)


@pytest.mark.parametrize('name, value', [
    ('z', torch.zeros(12, 1)), ('z', torch.zeros(3, 2)), ('z', None), ('c', torch.zeros(3)), ('c', 'c'),
    ('c', torch.ones(3, 2, dtype=torch.int64)), ('bias', torch.zeros(12)), ('bias', torch.zeros(1, 1)),
    ('w_peephole', torch.zeros(3, 3)), ('w_peephole', torch.zeros(3, 1, 1)), ('z', torch.zeros(12, 2).to_sparse())])
def test_forward_half_refuses(name, value):
    there, _ = halves()
    assert gates_forward(**there)[0].shape == (3, 2)
    with pytest.raises(ValueError, match=r'^(z|c|bias|w_peephole) (is|has) .*; expected '):
        gates_forward(**there | {name: value})


@pytest.mark.parametrize('name, value', [
    ('gates', torch.zeros(4, 3, 2)), ('gates', [torch.zeros(3, 2)]*3), ('gates', [torch.zeros(3, 1)]*4),
    ('gates', None),
    ('cells', torch.zeros(3, 2)), ('cells', (torch.zeros(3, 1), torch.zeros(3, 2))), ('cells', (None, None)),
    ('dh', torch.zeros(3, 1)), ('dc', torch.zeros(1, 2)), ('dc', None), ('dout', torch.zeros(3)),
    ('w_peephole', torch.zeros(3, 3)), ('dh', torch.zeros(3, 2, device='meta'))])
def test_backward_half_refuses(name, value):
    _, back = halves()
    assert gates_backward(**back)[0].shape == (12, 2)
    with pytest.raises(ValueError, match=rf'^{name}\S* (is|has) .*; expected '): gates_backward(**back | {name: value})


def test_an_empty_batch_has_no_numbers():
    there, back = halves()
    def empty(v): return v[:, :0] if isinstance(v, torch.Tensor) and v.shape[1:] == (2,) else v
    assert gates_forward(**{k: empty(v) for k, v in there.items()})[0].shape == (3, 0)
    none = {k: [empty(u) for u in v] if isinstance(v, (list, tuple)) else empty(v) for k, v in back.items()}
    assert gates_backward(**none)[0].shape == (12, 0)


@pytest.mark.parametrize('device', ['gpu', '', None, 3, 'cuda:x', torch.zeros(1)])
def test_devices_that_nobody_has(device):
    for ask in (fast_lstm.fast_bf16, choose_backend):
        with pytest.raises(ValueError, match='^device is .*; expected a device of torch'): ask(device)


def test_only_functions_are_compiled():
    for wrong in (None, 'gates_forward', 3):
        with pytest.raises(ValueError, match='^function is .*; expected a function'): Compiled(wrong)
    with pytest.raises(ValueError, match='^compiled is 1; expected True or False'):
        fused_layer(None, torch.zeros(2, 3), torch.zeros(2, 3), w_ih=None, w_hh=torch.zeros(12, 3),
                    bias=torch.zeros(12), w_peephole=None, frames=2, compiled=1)


# ---- made into something else

def test_under_torch_func():
    "The layer that 'auto' takes is one that can be transformed; asked for by name, the fused one says which can."
    lstm, x, _ = drawn(4, 6)
    def first(x): return lstm(x)[0][:, 0].sum()
    want = torch.autograd.functional.jacobian(first, x)
    for change in (torch.func.grad, torch.func.jacrev):
        torch.testing.assert_close(change(first)(x), want)
    set_backend(lstm, 'fused')
    for call in (torch.func.grad(first), torch.func.vmap(lambda v: lstm(v[None])[0])):
        with pytest.raises(ValueError, match="^backend is 'fused'; expected 'reference' inside torch.func"): call(x)
    set_backend(lstm, 'auto')
    names = []
    def ask(x): names.append(lstm.resolve_backend()[0]); return x
    torch.func.vmap(ask)(x); torch.jit.trace(ask, x, check_trace=False); ask(x)
    assert names == ['reference', 'reference', 'fused']


@pytest.mark.filterwarnings('ignore')    # shapes and sizes are taken for constants, as they should be
@pytest.mark.parametrize('backend', ['reference', 'fused', 'auto'])
def test_a_traced_layer_can_be_saved(backend, tmp_path):
    lstm, x, _ = drawn(4, 6, 2)
    torch.jit.save(torch.jit.trace(set_backend(lstm, backend), x), tmp_path/'layer.pt')
    out, (h, c) = torch.jit.load(tmp_path/'layer.pt')(2*x)
    torch.testing.assert_close((out, (h, c)), lstm(2*x))

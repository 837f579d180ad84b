"Properties of the peephole LSTM: golden values, state, modes, extremes, gradients, conversion, reproducibility."
import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import lstm_video_repr.fast_lstm # brings the fast layers, which 'auto' takes
from lstm_video_repr import lstm as lstm_module
from lstm_video_repr.lstm import (PeepholeLSTM, backend_names, check_size, draw_weights, lstm_gates, lstm_layer,
                                  lstm_step, product_dtype, set_backend)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2}
NAMES = 'w_ih', 'w_hh', 'bias', 'w_peephole'


def gen(seed=0): return torch.Generator().manual_seed(seed)


def make(D=3, H=4, L=2, dtype=torch.float64, seed=0, **kwargs):
    "A small LSTM in which every parameter is random, biases and peepholes too."
    g = gen(seed)
    lstm = PeepholeLSTM(D, H, L, generator=g, **kwargs)
    with torch.no_grad():
        for p in lstm.parameters(): p.add_(torch.randn(p.shape, generator=g), alpha=.5)
    return lstm.to(dtype)


def randn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64).to(dtype)


def by_the_equations(lstm, x, h, c, frames):
    "The equations of the paper, one unit, clip and frame at a time, in numpy; no input if `x` is None."
    sigmoid = lambda a: 1/(1 + np.exp(-a))
    w = {n: p.detach().numpy() for n, p in lstm.named_parameters()}
    h, c, H = h.numpy().copy(), c.numpy().copy(), lstm.hidden_size
    outputs = np.zeros((h.shape[1], frames, H))
    for b in range(h.shape[1]):
        for t in range(frames):
            below = None if x is None else x[b, t].numpy()
            for l in range(lstm.num_layers):
                h_old, c_old = h[l, b].copy(), c[l, b].copy()
                for u in range(H):
                    a = [w[f'bias_l{l}'][k*H + u] + w[f'weight_hh_l{l}'][k*H + u] @ h_old for k in range(4)]
                    if below is not None: a = [a[k] + w[f'weight_ih_l{l}'][k*H + u] @ below for k in range(4)]
                    p = w[f'weight_peephole_l{l}'][:, u] if lstm.peephole else np.zeros(3)
                    i, f, g = sigmoid(a[0] + p[0]*c_old[u]), sigmoid(a[1] + p[1]*c_old[u]), np.tanh(a[2])
                    c[l, b, u] = f*c_old[u] + i*g
                    h[l, b, u] = sigmoid(a[3] + p[2]*c[l, b, u])*np.tanh(c[l, b, u])
                below = h[l, b]
            outputs[b, t] = below
    return outputs, h, c


# --- what it computes ---

@pytest.mark.parametrize('L', [1, 2, 3])
@pytest.mark.parametrize('peephole', [True, False])
@pytest.mark.parametrize('D', [3, 0])
def test_agrees_with_the_equations(L, peephole, D):
    lstm = make(D, 4, L, peephole=peephole)
    x = randn(2, 5, D) if D else None
    state = randn(L, 2, 4, seed=2), randn(L, 2, 4, seed=3)
    out, (h, c) = lstm(x, state, frames=5)
    want = by_the_equations(lstm, x, *state, 5)
    for ours, theirs in zip((out, h, c), want): assert_close(ours.detach().numpy(), theirs, atol=1e-10, rtol=0)


def test_one_step_by_hand():
    z, c = torch.zeros(1, 4), torch.ones(1, 1)                       # all gates half open, nothing new
    h, new, *gates = lstm_gates(z, c)
    assert_close(new, torch.tensor([[.5]]))
    assert torch.cat(gates).flatten().tolist() == [.5, .5, 0., .5]    # i, f, g, o
    assert_close(h, .5*torch.tensor([[.5]]).tanh())
    _, new, _, f, _, _ = lstm_gates(z, c, torch.tensor([[0.], [100.], [0.]]))    # the forget gate sees the old cell
    assert_close((new, f), (torch.tensor([[1.]]),)*2)
    h, *_ = lstm_gates(torch.tensor([[0., -100, 0, 0]]), c, torch.tensor([[0.], [0.], [-100.]])) # old cell 1, new 0
    assert h.item() == 0
    z = torch.tensor([[100., -100, 100, 0]])
    h, _, _, _, _, o = lstm_gates(z, -c, torch.tensor([[0.], [0.], [100.]])) # old cell -1, new 1
    assert_close((h, o), (torch.ones(1, 1).tanh(), torch.ones(1, 1)))    # the output gate looked at the new one


def test_step_without_input_is_a_step_with_zeros():
    w = dict(zip(NAMES, (randn(16, 3), randn(16, 4, seed=2), randn(16, seed=3), randn(3, 4, seed=4))))
    h, c = randn(2, 4, seed=5), randn(2, 4, seed=6)
    assert_close(lstm_step(None, h, c, **w | dict(w_ih=None)), lstm_step(torch.zeros(2, 3, dtype=h.dtype), h, c, **w))


def test_shapes():
    out, (h, c) = make()(randn(5, 7, 3))
    assert out.shape == (5, 7, 4) and h.shape == c.shape == (2, 5, 4)
    assert_close(out[:, -1], h[-1])
    w = dict(zip(NAMES, (randn(16, 3), randn(16, 4), randn(16), None)))
    out, h, c = lstm_layer(randn(5, 7, 3), randn(5, 4), randn(5, 4), **w, frames=7)
    assert out.shape == (5, 7, 4) and h.shape == c.shape == (5, 4)


# --- properties ---

def test_clips_do_not_meet():
    lstm, x = make(), randn(4, 6, 3)
    out, (h, c) = lstm(x)
    for b in range(4):
        out_b, (h_b, c_b) = lstm(x[b:b+1])
        assert_close((out_b[0], h_b[:, 0], c_b[:, 0]), (out[b], h[:, b], c[:, b]))


def test_no_look_ahead():
    lstm, x = make(), randn(2, 6, 3)
    y = x.clone()
    y[:, 4:] += 1
    assert_close(lstm(x)[0][:, :4], lstm(y)[0][:, :4])
    assert (lstm(x)[0][:, 4] - lstm(y)[0][:, 4]).abs().min() > 1e-6


@pytest.mark.parametrize('cut', [1, 3, 6])
def test_state_is_a_bookmark(cut):
    lstm, x = make(), randn(2, 7, 3)
    out, state = lstm(x)
    first, mark = lstm(x[:, :cut])
    second, end = lstm(x[:, cut:], mark)
    assert_close(torch.cat([first, second], 1), out)
    assert_close(end, state)


def test_without_input_as_with_zeros_and_no_gradient_for_the_input_weights():
    lstm = make()
    state = randn(2, 2, 4), randn(2, 2, 4, seed=2)
    out, end = lstm(state=state, frames=5)
    out_zeros, end_zeros = lstm(torch.zeros(2, 5, 3, dtype=torch.float64), state)
    assert_close((out, end), (out_zeros, end_zeros))
    out.sum().backward()
    assert lstm.weight_ih_l0.grad is None and lstm.weight_ih_l1.grad.abs().sum() > 0


def test_no_state_is_a_zero_state():
    lstm, x = make(), randn(2, 5, 3)
    zero = torch.zeros(2, 2, 4, dtype=x.dtype)
    assert_close(lstm(x), lstm(x, (zero, zero)))


def test_arguments_are_left_alone():
    lstm, x, h, c = make(), randn(2, 5, 3), randn(2, 2, 4), randn(2, 2, 4, seed=2)
    before = [v.clone() for v in (x, h, c)]
    lstm(x, (h, c))
    assert all(torch.equal(a, b) for a, b in zip((x, h, c), before))


def test_zero_peepholes_are_no_peepholes():
    lstm, plain = make(), make(peephole=False)
    plain.load_state_dict({n: p for n, p in lstm.state_dict().items() if 'peephole' not in n})
    x = randn(2, 5, 3)
    assert not torch.allclose(lstm(x)[0], plain(x)[0])
    for l in range(2): getattr(lstm, f'weight_peephole_l{l}').data.zero_()
    assert_close(lstm(x), plain(x))


@pytest.mark.parametrize('size', [1e4, -1e4])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_extreme_values_stay_finite(size, dtype):
    lstm = make(dtype=dtype)
    x = torch.full((2, 6, 3), size, dtype=dtype, requires_grad=True)
    state = [torch.full((2, 2, 4), s, dtype=dtype, requires_grad=True) for s in (size, -size)]
    out, (h, c) = lstm(x, state)
    (out.sum() + h.sum() + c.sum()).backward()
    for v in (out, h, c): assert v.isfinite().all()
    for v in (x, *state, *lstm.parameters()): assert v.grad.isfinite().all()


def test_an_empty_batch_is_no_error():
    out, (h, c) = make()(randn(0, 5, 3))
    assert out.shape == (0, 5, 4) and h.shape == (2, 0, 4)


# --- gradients ---

@pytest.mark.parametrize('L', [1, 2])
@pytest.mark.parametrize('peephole', [True, False])
@pytest.mark.parametrize('with_input', [True, False])
def test_gradients(L, peephole, with_input):
    lstm = make(2, 3, L, peephole=peephole)
    names = [n for n, _ in lstm.named_parameters() if with_input or n != 'weight_ih_l0']
    leaves = [randn(2, 4, 2), randn(L, 2, 3, seed=2), randn(L, 2, 3, seed=3)][0 if with_input else 1:]
    leaves = [v.requires_grad_() for v in leaves + [lstm.get_parameter(n).detach() for n in names]]

    def run(*leaves):
        *data, = leaves[:len(leaves) - len(names)]
        x, h, c = data if with_input else (None, *data)
        weights = dict(zip(names, leaves[len(data):]))
        out, (h, c) = torch.func.functional_call(lstm, weights, (x, (h, c)), {'frames': 4})
        return out, h, c
    assert torch.autograd.gradcheck(run, leaves)


def test_second_derivatives():
    w = [v.requires_grad_() for v in (randn(8, 2), randn(8, 2, seed=2), randn(8, seed=3), randn(3, 2, seed=4))]
    data = [v.requires_grad_() for v in (randn(1, 2, 2), randn(1, 2, seed=5), randn(1, 2, seed=6))]
    def layer(x, h, c, *w): return lstm_layer(x, h, c, **dict(zip(NAMES, w)), frames=2)
    assert torch.autograd.gradgradcheck(layer, data + w)


# --- torch.nn.LSTM ---

@pytest.mark.parametrize('L', [1, 2])
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('way', ['from_torch', 'to_torch'])
def test_agrees_with_torch(L, dtype, way):
    if way == 'from_torch':
        theirs = nn.LSTM(3, 4, L, batch_first=True)
        with torch.no_grad():
            for k, p in enumerate(theirs.parameters()): p.copy_(.5*randn(*p.shape, seed=k))
        theirs = theirs.to(dtype)
        ours = PeepholeLSTM.from_torch(theirs)
    else:
        ours = make(3, 4, L, dtype)
        for l in range(L): getattr(ours, f'weight_peephole_l{l}').data.zero_()
        theirs = ours.to_torch()
    assert ours.weight_hh_l0.dtype == theirs.weight_hh_l0.dtype == dtype
    x, state = randn(2, 5, 3), (randn(L, 2, 4, seed=2), randn(L, 2, 4, seed=3))
    results = []
    for lstm in (ours, theirs):
        leaves = [v.to(dtype).clone().requires_grad_() for v in (x, *state)]
        out, (h, c) = lstm(leaves[0], (leaves[1], leaves[2]))
        (out.square().sum() + (h*c).sum()).backward()
        results.append([out, h, c, *(v.grad for v in leaves)])
    names = [(n, n.replace('bias', 'bias_ih')) for n, _ in ours.named_parameters() if 'peephole' not in n]
    results[0] += [ours.get_parameter(n).grad for n, _ in names]
    results[1] += [theirs.get_parameter(n).grad for _, n in names]
    for a, b in zip(*results): assert_close(a, b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_there_and_back():
    ours = make(peephole=False)
    back = PeepholeLSTM.from_torch(ours.to_torch(), peephole=False)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), back.state_dict().values()))
    theirs = nn.LSTM(3, 4, 2, dropout=.3).eval()
    ours = PeepholeLSTM.from_torch(theirs)
    assert ours.dropout == .3 and not ours.training and not ours.to_torch().training
    assert ours.to_torch().dropout == .3 and ours.to_torch().batch_first


def test_conversion_draws_no_random_numbers():
    torch.manual_seed(0)
    theirs, before = nn.LSTM(3, 4), torch.get_rng_state()
    PeepholeLSTM.from_torch(theirs).to_torch()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('text, lstm', [
    ('lstm.bidirectional is True; expected False', lambda: nn.LSTM(3, 4, bidirectional=True)),
    ('lstm.proj_size is 2; expected 0', lambda: nn.LSTM(3, 4, proj_size=2)),
    ('lstm is a GRU; expected', lambda: nn.GRU(3, 4))])
def test_torch_networks_that_do_not_fit(text, lstm):
    with pytest.raises(ValueError, match=text): PeepholeLSTM.from_torch(lstm())


def test_no_torch_twin():
    with pytest.raises(ValueError, match='^weight_peephole_l0 has values up to .*; expected zeros'): make().to_torch()
    with pytest.raises(ValueError, match='^input_size is 0; expected'): PeepholeLSTM(0, 4).to_torch()


# --- parameters ---

@pytest.mark.parametrize('D, H, L, peephole', [(3, 5, 1, True), (3, 5, 3, True), (0, 4, 2, True), (7, 2, 2, False)])
def test_number_of_parameters(D, H, L, peephole):
    want = sum(4*H*(d + H + 1) + 3*H*peephole for d in [D] + [H]*(L - 1))
    assert sum(p.numel() for p in PeepholeLSTM(D, H, L, peephole=peephole).parameters()) == want


def test_names_and_order():
    assert {n: tuple(p.shape) for n, p in PeepholeLSTM(3, 4, 2).named_parameters()} == {
        'weight_ih_l0': (16, 3), 'weight_hh_l0': (16, 4), 'bias_l0': (16,), 'weight_peephole_l0': (3, 4),
        'weight_ih_l1': (16, 4), 'weight_hh_l1': (16, 4), 'bias_l1': (16,), 'weight_peephole_l1': (3, 4)}


def test_how_it_starts():
    lstm = PeepholeLSTM(30, 8, 2, generator=gen())
    for l, fan_in in ((0, 30), (1, 8)):
        for w in getattr(lstm, f'weight_hh_l{l}').chunk(4): assert_close(w @ w.T, torch.eye(8), atol=1e-5, rtol=0)
        assert getattr(lstm, f'weight_ih_l{l}').abs().max() <= (6/(fan_in + 32))**.5
        assert getattr(lstm, f'bias_l{l}').tolist() == [0.]*8 + [1.]*8 + [0.]*16
        assert not getattr(lstm, f'weight_peephole_l{l}').any()


def test_start_depends_on_the_generator_alone():
    torch.manual_seed(1)
    a = PeepholeLSTM(3, 4, 2, generator=gen(7))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    b = PeepholeLSTM(3, 4, 2, generator=gen(7))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    other = PeepholeLSTM(3, 4, 2, generator=gen(8))
    assert not torch.equal(a.weight_hh_l0, other.weight_hh_l0)
    b.reset_parameters(gen(8))
    assert all(torch.equal(p, q) for p, q in zip(b.parameters(), other.parameters()))


def test_copies():
    lstm, x = make(), randn(2, 5, 3)
    loaded = make(seed=9)
    loaded.load_state_dict(lstm.state_dict())
    for twin in (loaded, copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert_close(twin(x), lstm(x), atol=0, rtol=0)
        assert repr(twin) == repr(lstm)
        assert twin.weight_hh_l0 is not lstm.weight_hh_l0


# --- dropout, precision ---

def test_dropout_acts_between_layers_in_training_only():
    lstm, plain, x = make(dropout=.5), make(), randn(2, 5, 3)
    torch.manual_seed(0)
    out, (h, c) = lstm(x)
    want, (h_want, c_want) = plain(x)
    assert_close((h[0], c[0]), (h_want[0], c_want[0]))     # the lower layer's own memory is untouched
    assert not torch.allclose(out, want)
    assert_close(lstm.eval()(x), plain(x))
    assert_close(make(L=1, dropout=.5)(x), make(L=1)(x))   # a single layer has no between
    torch.manual_seed(0)
    assert_close(lstm.train()(x)[0], out)


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
def test_dtype_is_kept(dtype):
    lstm, x = make(dtype=dtype), randn(2, 5, 3)
    out, (h, c) = lstm(x.to(dtype))
    assert out.dtype == h.dtype == c.dtype == dtype
    assert_close(out.double(), make()(x)[0], atol=TOLERANCE[dtype], rtol=0)


def test_autocast_keeps_a_float32_cell():
    lstm, x = make(dtype=torch.float32), randn(2, 5, 3, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out, (h, c) = lstm(x)
        lstm(x.bfloat16(), (h, c))                         # what an autocast layer below hands over
    assert c.dtype == h.dtype == torch.float32
    assert_close(out, lstm(x)[0], atol=5e-2, rtol=0)


# --- backends ---

def test_alone_it_is_the_readable_layer(monkeypatch):
    "Without `fast_lstm` there is one way to compute a layer, and 'auto' says so."
    monkeypatch.setattr(lstm_module, 'CHOOSERS', [])
    monkeypatch.setattr(lstm_module, 'BACKENDS', {'reference': lstm_layer})
    lstm = make()
    assert backend_names() == ('auto', 'reference')
    assert lstm.resolve_backend() == ('reference', 'nothing faster is loaded')
    assert lstm(randn(2, 5, 3))[0].shape == (2, 5, 4)
    wanted = "^backend is 'fused'; expected one of 'auto', 'reference'$"
    with pytest.raises(ValueError, match=wanted): set_backend(lstm, 'fused')


def test_a_backend_of_ones_own(monkeypatch):
    seen = []
    def mine(x, h, c, **kw): seen.append((x is None, sorted(kw), kw['frames'])); return lstm_layer(x, h, c, **kw)
    monkeypatch.setitem(lstm_module.BACKENDS, 'mine', mine)
    lstm, x = make(backend='mine'), randn(2, 5, 3)
    assert_close(lstm(x), set_backend(make(), 'reference')(x))
    assert lstm.resolve_backend() == ('mine', 'as asked for') and seen == [(False, sorted(['frames', *NAMES]), 5)]*2
    lstm_module.BACKENDS.pop('mine') # a model whose backend is gone, as from another process
    with pytest.raises(ValueError, match="^backend is 'mine'; expected one of 'auto', "): lstm(x)


def test_the_last_chooser_decides(monkeypatch):
    def chooser(kind, dtype): return 'reference', f'{kind}, {dtype}'
    monkeypatch.setattr(lstm_module, 'CHOOSERS', [*lstm_module.CHOOSERS, chooser])
    lstm = make(dtype=torch.float32)
    assert lstm.resolve_backend() == ('reference', 'cpu, torch.float32')
    with torch.autocast('cpu', torch.bfloat16): assert lstm.resolve_backend() == ('reference', 'cpu, torch.bfloat16')
    assert set_backend(lstm, 'fused').resolve_backend() == ('fused', 'as asked for')


def test_weights_are_the_parameters():
    lstm = make(0, peephole=False)
    assert lstm.weights(0) == [None, lstm.weight_hh_l0, lstm.bias_l0, None]
    assert lstm.weights(1) == [lstm.weight_ih_l1, lstm.weight_hh_l1, lstm.bias_l1, None]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_drawing_depends_on_the_generator_alone(dtype):
    a, b = torch.empty(3, 4, dtype=dtype), torch.empty(3, 4, dtype=dtype)
    draw_weights(a, nn.init.uniform_, gen(3), a=-2, b=2)
    torch.nn.init.uniform_(b, -2, 2, generator=gen(3))
    assert torch.equal(a, b)
    torch.manual_seed(3)
    draw_weights(b, nn.init.uniform_, None, a=-2, b=2)
    assert torch.equal(a, b)
    draw_weights(torch.empty(3, 4, device='meta'), nn.init.uniform_, gen(3)) # nothing to fill


# --- bad input ---

@pytest.mark.parametrize('name, kwargs', [
    ('input_size', dict(input_size=-1)), ('input_size', dict(input_size=2.)),
    ('hidden_size', dict(hidden_size=0)), ('hidden_size', dict(hidden_size='4')),
    ('num_layers', dict(num_layers=0)), ('num_layers', dict(num_layers=True)),
    ('dropout', dict(dropout=1.)), ('dropout', dict(dropout=-.1)),
    ('dropout', dict(dropout='half')), ('dropout', dict(dropout=float('nan'))), ('backend', dict(backend='magic')),
    ('peephole', dict(peephole='no')), ('backend', dict(backend=None))])
def test_bad_arguments(name, kwargs):
    with pytest.raises(ValueError, match=f'^{name} is .*; expected '):
        PeepholeLSTM(**dict(input_size=3, hidden_size=4) | kwargs)


def test_unknown_backend_names_those_that_exist():
    with pytest.raises(ValueError) as e: PeepholeLSTM(3, 4, backend='magic')
    assert all(repr(b) in str(e.value) for b in backend_names())
    assert backend_names() == ('auto', 'reference', 'fused', 'compiled')
    for b in backend_names(): PeepholeLSTM(3, 4, backend=b)


def zeros(*shape, dtype=torch.float32): return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize('name, args', [
    ('x', dict(x=zeros(5, 3))), ('x', dict(x=zeros(2, 5, 4))), ('x', dict(x=zeros(2, 0, 3))),
    ('x', dict(x=np.zeros((2, 5, 3)))), ('x', dict(x=zeros(2, 5, 3, dtype=torch.float64))),
    ('x', dict(x=zeros(2, 5, 3, dtype=torch.int64))), ('x', dict(x=torch.zeros(2, 5, 3, device='meta'))),
    ('frames', dict(x=zeros(2, 5, 3), frames=4)),
    ('frames', dict(state=(zeros(2, 2, 4),)*2)), ('frames', dict(state=(zeros(2, 2, 4),)*2, frames=0)),
    ('frames', dict(state=(zeros(2, 2, 4),)*2, frames=-1)), ('frames', dict(state=(zeros(2, 2, 4),)*2, frames=2.)),
    ('state', dict(frames=4)), ('state', dict(x=zeros(2, 5, 3), state=zeros(2, 2, 4))),
    ('state', dict(x=zeros(2, 5, 3), state=(zeros(2, 2, 4),))),
    ('state h', dict(x=zeros(2, 5, 3), state=(zeros(2, 3, 4),)*2)),
    ('state h', dict(x=zeros(2, 5, 3), state=(zeros(1, 2, 4),)*2)),
    ('state h', dict(x=zeros(2, 5, 3), state=(zeros(2, 4),)*2)),
    ('state c', dict(x=zeros(2, 5, 3), state=(zeros(2, 2, 4), zeros(2, 2, 5)))),
    ('state c', dict(state=(zeros(2, 2, 4), zeros(2, 3, 4)), frames=3)),
    ('state c', dict(state=(zeros(2, 2, 4), zeros(2, 2, 4).double()), frames=3)),
    ('state h', dict(state=(None, None), frames=3))])
def test_bad_calls(name, args):
    with pytest.raises(ValueError, match=f'^{name} (is|has) .*; expected '): PeepholeLSTM(3, 4, 2)(**args)


def test_no_input_weights_take_no_input():
    for args in ((zeros(2, 5, 0),), (zeros(2, 5, 3), (zeros(1, 2, 4),)*2)):
        with pytest.raises(ValueError, match='^x is .*; expected None, .* input_size=0'): PeepholeLSTM(0, 4)(*args)


# --- low-level functions look at their arguments ---

def layer_args(**other):
    "Arguments of `lstm_layer` that fit, but for those that are given."
    fit = dict(x=zeros(2, 5, 3), h=zeros(2, 4), c=zeros(2, 4), w_ih=zeros(16, 3), w_hh=zeros(16, 4), bias=zeros(16),
               w_peephole=zeros(3, 4), frames=5)
    return fit | other


MISFITS = [('h', zeros(2, 1)), ('h', zeros(4)), ('h', None), ('h', [1.]), ('c', zeros(3, 4)), ('c', zeros(1, 4)),
           ('c', zeros(2, 4).double()), ('c', zeros(2, 4).to_sparse()), ('c', torch.zeros(2, 4, device='meta')),
           ('w_hh', zeros(16, 5)), ('w_hh', zeros(4, 4)), ('w_hh', torch.ones(16, 4, dtype=torch.int64)),
           ('bias', zeros(1)), ('bias', zeros(16, 1)), ('bias', zeros(16).half()), ('w_peephole', zeros(3, 1)),
           ('w_peephole', zeros(1, 4)), ('w_ih', zeros(16, 1)), ('w_ih', None)]


@pytest.mark.parametrize('name, value', MISFITS + [
    ('x', zeros(3, 5, 3)), ('x', zeros(1, 5, 3)), ('x', zeros(2, 5, 1)), ('x', zeros(2, 5)), ('x', np.zeros((2, 5, 3))),
    ('frames', -1), ('frames', 0), ('frames', True), ('frames', 5.), ('frames', 2.5), ('frames', None),
    ('frames', 10**12), ('x', zeros(2, 4, 3))])
@pytest.mark.parametrize('layer', [lstm_layer, lstm_video_repr.fast_lstm.fused_layer])
def test_layers_refuse_what_does_not_fit(layer, name, value):
    "Most of it would broadcast into some answer, or begin to compute and fail somewhere."
    with pytest.raises(ValueError, match=r'^(x|h|c|w_ih|w_hh|bias|w_peephole|frames) (is|has) .*; expected ') as e:
        layer(**layer_args(**{name: value}))
    # h and x are what the others are laid beside
    assert str(e.value).split()[0] == name or name in ('h', 'x') or name == 'frames' and 'x has shape' in str(e.value)
    assert layer(**layer_args())[0].shape == (2, 5, 4)


@pytest.mark.parametrize('name, value', MISFITS + [('x', zeros(3, 3)), ('x', zeros(2, 5, 3)), ('x', zeros(2, 1))])
def test_steps_refuse_what_does_not_fit(name, value):
    args = layer_args(x=zeros(2, 3))
    del args['frames']
    assert lstm_step(**args)[0].shape == (2, 4)
    with pytest.raises(ValueError, match=r'^\w+ (is|has) .*; expected '): lstm_step(**args | {name: value})


@pytest.mark.parametrize('name, value', [('z', zeros(3, 16)), ('z', zeros(1, 16)), ('z', zeros(2, 4)), ('z', None),
                                         ('z', torch.ones(2, 16, dtype=torch.int64)), ('c', zeros(1, 4)),
                                         ('c', zeros(2, 4, dtype=torch.complex64)), ('w_peephole', zeros(3, 1)),
                                         ('w_peephole', zeros(4, 4)), ('w_peephole', torch.zeros(3, 4, device='meta'))])
def test_gates_refuse_what_does_not_fit(name, value):
    fit = dict(z=zeros(2, 16), c=zeros(2, 4), w_peephole=zeros(3, 4))
    with pytest.raises(ValueError, match=r'^(z|c|w_peephole) (is|has) .*; expected '): lstm_gates(**fit | {name: value})


def test_an_empty_batch_is_no_error_lower_down():
    args = layer_args(x=zeros(0, 5, 3), h=zeros(0, 4), c=zeros(0, 4))
    assert lstm_layer(**args)[0].shape == (0, 5, 4) and lstm_gates(zeros(0, 16), zeros(0, 4))[0].shape == (0, 4)


@pytest.mark.parametrize('name, value', [('bias', zeros(1)), ('weight_peephole', zeros(3, 1)),
                                         ('weight_hh', zeros(4, 4)), ('weight_ih', zeros(16, 1))])
def test_a_weight_put_in_place_of_another(name, value):
    "Too small a one would be spread over the layer without a word."
    lstm = PeepholeLSTM(3, 4, 2)
    setattr(lstm, f'{name}_l1', nn.Parameter(value))
    with pytest.raises(ValueError, match=rf'^{name}_l1 has shape .*; expected \('): lstm(zeros(2, 5, 3))


def test_sizes_that_nobody_means():
    for args in ((10**12, 4), (3, 10**12), (3, 4, 10**9)):
        with pytest.raises(ValueError, match=r'^(input_size|hidden_size|num_layers) is 10+; expected a whole number f'):
            PeepholeLSTM(*args)
    state = (zeros(1, 2, 4),)*2
    with pytest.raises(ValueError, match='^frames is 10+; expected'): PeepholeLSTM(0, 4)(state=state, frames=10**9)
    assert check_size(np.int64(5), 'frames') == 5 and type(check_size(np.int64(5), 'frames')) is int


@pytest.mark.parametrize('call, name', [
    (lambda lstm: set_backend(None, 'reference'), 'model'), (lambda lstm: set_backend('lstm', 'auto'), 'model'),
    (lambda lstm: lstm.weights(2), 'l'), (lambda lstm: lstm.weights(-1), 'l'), (lambda lstm: lstm.weights('0'), 'l'),
    (lambda lstm: lstm.reset_parameters(0), 'generator'), (lambda lstm: PeepholeLSTM(3, 4, generator=7), 'generator'),
    (lambda lstm: lstm(zeros(2, 1, 3), frames=True), 'frames'),
    (lambda lstm: lstm(zeros(2, 2, 3), frames=2.), 'frames'),
    (lambda lstm: lstm.to('meta').to_torch(), 'weight_peephole_l0'),
    (lambda lstm: lstm(zeros(2, 5, 3), (torch.zeros(2, 2, 4, device='meta'),)*2), 'state h'),
    (lambda lstm: lstm(zeros(2, 5, 3), (zeros(2, 2, 4), zeros(2, 2, 4).to_sparse())), 'state c')])
def test_other_objects(call, name):
    with pytest.raises(ValueError, match=f'^{name} (is|has) .*; expected '): call(PeepholeLSTM(3, 4, 2))


# --- torch's settings, transformations and devices without memory ---

@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_default_dtypes(dtype):
    "An LSTM is born in torch's default dtype; in 16 bits with the numbers of 32, rounded."
    want = PeepholeLSTM(3, 4, 2, generator=gen())
    torch.set_default_dtype(dtype)
    try: lstm = PeepholeLSTM(3, 4, 2, generator=gen())
    finally: torch.set_default_dtype(torch.float32)
    assert {w.dtype for w in lstm.parameters()} == {dtype}
    for a, b in zip(lstm.parameters(), want.parameters()):
        if dtype.itemsize < 4: assert torch.equal(a, b.to(dtype))
    assert lstm(randn(2, 5, 3).to(dtype))[0].dtype == dtype


def test_the_dtype_of_products():
    w = zeros(2)
    assert product_dtype(w) == torch.float32
    with torch.autocast('cpu', torch.bfloat16):
        found = [product_dtype(v) for v in (w, w.double(), w.to('meta'))]
    assert found == [torch.bfloat16, torch.float64, torch.float32]


@pytest.mark.parametrize('backend', ['reference', 'auto'])
def test_through_torch_func(backend):
    "Outputs mapped over clips and over weights, gradients, and Jacobians, against loops and autograd."
    lstm, x = make(backend=backend), randn(3, 5, 3)
    weights = {n: w.detach() for n, w in lstm.named_parameters()}
    def last(w, x): return torch.func.functional_call(lstm, w, (x,))[0][:, -1].sum()
    out = torch.func.vmap(lambda v: lstm(v[None])[0][0])(x)
    assert_close(out, lstm(x)[0])
    grads = torch.func.grad(last)(weights, x)
    taped = torch.autograd.grad(lstm(x)[0][:, -1].sum(), list(lstm.parameters()))
    for n, g in zip(weights, taped): assert_close(grads[n], g)
    alone = torch.func.vmap(torch.func.grad(last), (None, 0))(weights, x[:, None])
    for n, g in grads.items(): assert_close(alone[n].sum(0), g)
    two = {n: torch.stack([w, 2*w]) for n, w in weights.items()}
    assert_close(torch.func.vmap(last, (0, None))(two, x)[0], last(weights, x))
    assert_close(torch.func.jacrev(last, 1)(weights, x), torch.func.jacfwd(last, 1)(weights, x))


@pytest.mark.parametrize('backend', ['reference', 'auto', 'fused'])
def test_on_meta_there_are_shapes(backend):
    lstm = PeepholeLSTM(3, 4, 2, backend=backend).to('meta')
    out, (h, c) = lstm(torch.zeros(2, 5, 3, device='meta'))
    assert out.is_meta and out.shape == (2, 5, 4) and h.shape == c.shape == (2, 2, 4)
    out.sum().backward()
    assert lstm.weight_hh_l0.grad.is_meta


@pytest.mark.parametrize('backend', ['reference', 'auto', 'fused'])
def test_weights_made_of_others(backend):
    "`weight_norm` and its kin: a weight that is computed anew at each use, gradients reach what it is made of."
    lstm, x = make(L=2, backend=backend), randn(2, 5, 3)
    want = lstm(x)[0]
    torch.nn.utils.parametrizations.weight_norm(lstm, 'weight_hh_l1')
    assert_close(lstm(x)[0], want)
    lstm(x)[0].sum().backward()
    assert lstm.parametrizations.weight_hh_l1.original0.grad.abs().sum() > 0

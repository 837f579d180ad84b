"Inside a model: activity that is the model's own, gates that keep the equations, features that lie where weights act."
import copy
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lstm_video_repr import activity as A
from lstm_video_repr.models import VideoLSTM

KINDS = [dict(), dict(num_layers=2), dict(num_layers=2, conditional_future=True, conditional_reconstruction=True),
         dict(peephole=False), dict(output='gaussian', conditional_future=True), dict(dropout=.5, num_layers=2)]


def clip(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def awake(hidden_size=6, frame_shape=(1, 7, 9), **kw):
    "A composite in float64 whose weights, peepholes and biases are all far from zero."
    model = VideoLSTM.composite(hidden_size=hidden_size, frame_shape=frame_shape, **kw).double().eval()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * .6)
    return model


def close(a, b): torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def keep_the_law(x, c0):
    "c = f c' + i g and h = o tanh c, from the cell `c0` on."
    before = torch.cat([c0[:, None], x.c[:, :-1]], 1)
    close(x.c, x.f * before + x.i * x.g)
    close(x.h, x.o * x.c.tanh())


@pytest.mark.parametrize('kw', KINDS, ids=str)
def test_activity_is_that_of_the_model(kw):
    model, past = awake(**kw), clip(3, 5, 1, 7, 9).double()
    with torch.no_grad(): state, out = model.encode(past), model(past, future_frames=8)
    for layer in range(model.config.num_layers):
        a = A.unit_activity(model, past, layer=layer)
        assert a.numbers == [1, 2, 3, 4, 5] and torch.equal(a.frames, past) and a.part == 'encoder'
        close(a.h[:, -1], state[0][layer])
        close(a.c[:, -1], state[1][layer])
        keep_the_law(a, torch.zeros_like(a.c[:, 0]))
        for part, n, frames, numbers in (('future', 8, out.future, [6, 7, 8, 9, 10, 11, 12, 13]),
                                         ('reconstruction', None, out.reconstruction, [5, 4, 3, 2, 1])):
            d = A.unit_activity(model, past, part, frames=n, layer=layer)
            close(d.frames, frames)
            assert d.numbers == numbers and d.part == part
            keep_the_law(d, state[1][layer])
    top = A.unit_activity(model, past, layer=model.config.num_layers - 1)
    assert torch.equal(A.unit_activity(model, past, layer=-1).h, top.h)


def test_gates_are_those_of_the_equations():
    "Against the equations of section 2.1, written out for one unit at a time."
    model, past = awake(), clip(1, 4, 1, 7, 9).double()
    a, lstm, x, sigmoid = A.unit_activity(model, past), model.encoder, past.flatten(2)[0], torch.sigmoid
    H, h, c = 6, torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        for t in range(4):
            new = torch.zeros(2, H, dtype=torch.float64)
            for k in range(H):
                rows = [n * H + k for n in range(4)]
                pre = [lstm.weight_ih_l0[r] @ x[t] + lstm.weight_hh_l0[r] @ h + lstm.bias_l0[r] for r in rows]
                wi, wf, wo = lstm.weight_peephole_l0[:, k]
                i, f, g = sigmoid(pre[0] + wi*c[k]), sigmoid(pre[1] + wf*c[k]), torch.tanh(pre[2])
                cell = f*c[k] + i*g
                o = sigmoid(pre[3] + wo*cell)
                new[0, k], new[1, k] = o * torch.tanh(cell), cell
                for name, value in dict(i=i, f=f, g=g, o=o, c=cell, h=new[0, k]).items():
                    assert getattr(a, name)[0, t, k] == pytest.approx(value.item(), abs=1e-12)
            h, c = new


def test_watching_leaves_a_model_as_it_was():
    "Dropout sleeps meanwhile, gradients do not flow, and every part is in its own mode again, after an error too."
    model = VideoLSTM.composite(hidden_size=4, frame_shape=(1, 7, 9), num_layers=2, dropout=.5).train()
    past = clip(2, 3, 1, 7, 9)
    model.future_decoder.eval()
    modes = [m.training for m in model.modules()]
    a, b = (A.unit_activity(model, past, 'reconstruction') for _ in range(2))
    assert torch.equal(a.h, b.h) and not a.h.requires_grad
    with pytest.raises(ValueError): A.unit_activity(model, past, frames=0)
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize('bad, message', [
    (dict(part='decoder'), "part is 'decoder'; expected one of 'encoder', 'reconstruction', 'future'"),
    (dict(layer=1), 'layer is 1; expected a whole number from -1 to 0'), (dict(layer=True), 'layer is True'),
    (dict(frames=1.5), 'frames is 1.5; expected a whole number'), (dict(past=torch.zeros(1, 2, 3)), 'past has shape')])
def test_bad_runs_are_named(bad, message):
    good = dict(model=awake(), past=clip(1, 2, 1, 7, 9).double())
    with pytest.raises(ValueError) as error: A.unit_activity(**good | bad)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize('frame_shape', [(1, 7, 9), (3, 4, 5), (12,)], ids=str)
def test_features_lie_where_the_weights_act(frame_shape):
    model = awake(num_layers=2, frame_shape=frame_shape)
    inputs, H, g = A.feature_images(model), 6, torch.Generator().manual_seed(1)
    assert inputs.shape == (H, 4, *frame_shape) and A.feature_images(model, 'future').shape == (H, *frame_shape)
    x = torch.rand(frame_shape, generator=g, dtype=torch.float64)
    got = (model.encoder.weight_ih_l0 @ x.flatten()).view(4, H)
    for k in range(H):
        for gate in range(4): assert (inputs[k, gate] * x).sum().item() == pytest.approx(got[gate, k].item())
    for which, decoder in (('future', model.future_decoder), ('reconstruction', model.reconstruction_decoder)):
        outputs, h = A.feature_images(model, which), torch.rand(H, generator=g, dtype=torch.float64)
        added = (outputs * h.view(-1, *[1] * len(frame_shape))).sum(0).flatten()
        torch.testing.assert_close(added, (decoder.readout(h) - decoder.readout.bias).detach())
    for which in ('input', 'future'):
        A.feature_images(model, which).zero_()
        assert A.feature_images(model, which).all(), 'what is given is a copy'


def test_strongest_units_come_first():
    w = torch.zeros(5, 1, 2, 2)
    for k, size in enumerate((.5, -3, 0, 2, 3)): w[k, 0, k % 2, 0] = size
    assert A.strongest(w) == [1, 4, 3, 0, 2] and A.strongest(w, 2) == [1, 4]
    for bad in (torch.zeros(5), [1, 2]):
        with pytest.raises(ValueError, match='^weights is .*; expected a tensor'): A.strongest(bad)


def pixels(fig):
    file = io.BytesIO()
    fig.savefig(file, format='png')
    return np.asarray(Image.open(file).convert('RGB')).astype(int)


def images(fig): return [im.get_array() for im in fig.axes[0].images]


def test_zero_is_colourless_and_signs_have_colours():
    w = torch.zeros(3, 1, 6, 6)
    w[0, 0, :3], w[1, 0] = 1, -2
    figures = [A.show_features(w, units=[0, 1, 2], scale=scale, numbers=False) for scale in ('each', 'all')]
    each, alike = (images(fig) for fig in figures)
    top, bottom, blue = each[0][0, 0].astype(int), each[0][5, 0].astype(int), each[1][0, 0].astype(int)
    assert top[0] > top[2] + 50 and np.ptp(bottom) <= 6 and bottom.min() > 235, 'red above, nearly white below'
    assert blue[2] > blue[0] + 50
    assert (alike[0][0, 0].astype(int) > top).any() and (alike[1] == each[1]).all(), 'paler where all share a range'
    assert all(np.ptp(t.astype(int)) <= 6 for t in (each[2], alike[2])), 'weights that are all zero stay white'
    assert plt.get_fignums() == []


def test_the_mosaic_names_the_units_it_shows():
    w = clip(9, 1, 5, 5)
    fig = A.show_features(w, n=4, columns=3, title='Four')
    assert [t.get_text() for t in fig.axes[0].texts if t.get_text().isdigit()] == [str(k) for k in A.strongest(w, 4)]
    assert len(images(fig)) == 4 and pixels(fig).min() < 100
    assert len(images(A.show_features(w))) == 9


def test_activity_pictures_hold_the_values():
    model, past = awake().float(), clip(2, 5, 1, 7, 9)
    a, d = A.unit_activity(model, past), A.unit_activity(model, past, 'future', frames=7)
    fig = A.show_activity({'one': [a, d], 'two': [d, a]}, 'ho', units=[4, 0], i=1)
    found = {title: ax.images[0] for ax in fig.axes if (title := ax.get_title(loc='left'))}
    assert set(found) == {'one, output h', 'two, output h', 'one, output gate o', 'two, output gate o'}
    h, o = torch.cat([a.h, d.h], 1)[1, :, [4, 0]].T, torch.cat([d.o, a.o], 1)[1, :, [4, 0]].T
    np.testing.assert_allclose(found['one, output h'].get_array(), h, rtol=1e-6)
    np.testing.assert_allclose(found['two, output gate o'].get_array(), o, rtol=1e-6)
    assert all(image.get_clim() == (0, 1) for title, image in found.items() if 'gate' in title)
    assert plt.get_fignums() == [] and pixels(fig).min() < 100


def test_a_few_large_cells_do_not_leave_the_others_pale():
    "Cells are unbounded: their colours end at the 99th percentile, and say so; outputs are shown up to their largest."
    seen = A.unit_activity(awake(hidden_size=40).float(), clip(1, 5, 1, 7, 9))
    seen.c[0, 0, 0], seen.h[0, 0, 0] = 1000., -.999
    cells, outputs = (A.show_activity(seen, k, units=list(range(40))) for k in 'ch')
    end = np.quantile(seen.c[0].abs(), .99)
    def labels(fig): return [t.get_text() for t in fig.axes[1].get_yticklabels()]
    assert cells.axes[0].images[0].get_clim() == pytest.approx((-end, end)) and end < 10
    assert labels(cells) == [f'≤ {-end:.2g}', '0', f'≥ {end:.2g}']
    assert outputs.axes[0].images[0].get_clim() == pytest.approx((-.999, .999)) and labels(outputs)[2] == '1'


def test_units_are_drawn_by_the_seed():
    big = A.unit_activity(awake(hidden_size=40).float(), clip(1, 5, 1, 7, 9))
    def shown(**kw): return images(A.show_activity(big, n=10, **kw))[0].tolist()
    assert shown() == shown(seed=0) != shown(seed=1) and len(shown()) == 10


def test_one_unit_from_all_sides():
    model, past, future = awake().float(), clip(2, 5, 1, 7, 9), clip(2, 7, 1, 7, 9, seed=1)
    fig = A.show_unit(model, past, 4, future=future, frames=7, i=1)
    lines = {line.get_label(): line.get_ydata() for ax in fig.axes[1:] for line in ax.lines}
    both = [A.unit_activity(model, past), A.unit_activity(model, past, 'future', frames=7)]
    for k, name in A.VALUE_NAMES.items():
        want = torch.cat([getattr(x, k) for x in both], 1)[1, :, 4]
        np.testing.assert_allclose(lines[name], want, rtol=1e-5, atol=1e-6)
    assert len(images(fig)) == 5 + 12 + 7, 'features, frames of the clip, frames of the model'
    deep = awake(num_layers=2).float()
    shown = [len(images(A.show_unit(deep, past, 0, layer=l))) for l in (0, 1)]
    assert shown == [4 + 5 + 5, 1 + 5 + 5], 'the future is not known here'


@pytest.mark.parametrize('frames', [3, 5, 7])
def test_what_is_played_backwards_stands_below_the_same_frames(frames):
    "Frame number n of the clip above frame number n of the reconstruction; nothing above those before the first."
    model, past, future = awake().float(), clip(2, 5, 1, 7, 9), clip(2, 4, 1, 7, 9, seed=1)
    story = A.unit_story(model, past, future, decoder='reconstruction', frames=frames, i=1)
    seen = story.films['clip'].frames
    assert story.track.numbers == [1, 2, 3, 4, 5, *range(5, 5 - frames, -1)]
    np.testing.assert_array_equal(seen[5:], seen[:5][::-1][:frames])
    np.testing.assert_array_equal(seen[:5], (past[1, :, 0, :, :, None] * 255).round().byte())
    assert story.films['model'].first == 6 and len(story.films['model'].frames) == frames


@pytest.mark.parametrize('kind, decoder, fails', [
    ('autoencoder', None, False), ('future_predictor', None, False),
    ('autoencoder', 'future', True), ('future_predictor', 'reconstruction', True)])
def test_models_with_one_decoder(kind, decoder, fails):
    model, past = getattr(VideoLSTM, kind)(frame_shape=(1, 7, 9), hidden_size=4), clip(2, 5, 1, 7, 9)
    if not fails:
        assert pixels(A.show_unit(model, past, 0, decoder=decoder)).min() < 100
        return
    for name, call in dict(decoder=lambda: A.show_unit(model, past, 0, decoder=decoder),
                           part=lambda: A.unit_activity(model, past, decoder),
                           which=lambda: A.feature_images(model, decoder)).items():
        with pytest.raises(ValueError, match=f'^{name} is .*; expected one of'): call()


# Settings, texts, sizes

def draw_all(model, past):
    runs = A.unit_activity(model, past)
    weights = A.feature_images(model, 'future')
    figures = (A.show_features(weights, title='$x_'), A.show_unit(model, past, 2, title='$x_'),
               A.show_activity({'$x_': runs, 'b': runs}, 'hci', n=4, title='$x_'))
    return [pixels(fig) for fig in figures]


def test_pictures_look_alike_under_all_settings():
    model, past = awake().float(), clip(2, 5, 1, 7, 9)
    odd = {'image.origin': 'lower', 'axes.grid': True, 'font.size': 30., 'figure.autolayout': True, 'text.usetex': True,
           'lines.linewidth': 9., 'axes.titlelocation': 'right', 'savefig.facecolor': 'red', 'figure.dpi': 300.,
           'axes.unicode_minus': False, 'xtick.labeltop': True, 'legend.loc': 'center', 'image.lut': 4}
    plain = draw_all(model, past)
    with plt.style.context(['dark_background', odd]):
        before = repr(matplotlib.rcParams)
        for got, wanted in zip(draw_all(model, past), plain, strict=True): np.testing.assert_array_equal(got, wanted)
        assert repr(matplotlib.rcParams) == before and plt.get_fignums() == []


@pytest.mark.parametrize('setting', ['float64', 'meta', 'inference'])
def test_settings_of_torch_change_nothing(setting):
    model, past = awake(num_layers=2, dropout=.5).float().train(), clip(1, 3, 1, 7, 9)
    def draw():
        run = A.unit_activity(model, past, 'future', frames=2)
        return pixels(A.show_activity(run, 'hf', n=3)), pixels(A.show_unit(model, past, 0, layer=1))
    modes, state, plain = [m.training for m in model.modules()], torch.get_rng_state(), draw()
    torch.set_default_dtype(torch.float64 if setting == 'float64' else torch.float32)
    try:
        inside = torch.device('meta' if setting == 'meta' else 'cpu'), torch.inference_mode(setting == 'inference')
        with inside[0], inside[1]: got = draw()
    finally: torch.set_default_dtype(torch.float32)
    assert all((a == b).all() for a, b in zip(got, plain))
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_models_of_few_bits(dtype):
    model, past = awake(conditional_future=True).to(dtype), clip(1, 3, 1, 7, 9).to(dtype)
    A.show_unit(model, past, 1)
    A.show_activity(A.unit_activity(model, past, 'future'), 'hcifgo')
    A.show_features(A.feature_images(model, 'future'))
    assert sorted(A.strongest(A.feature_images(model))) == list(range(6))


def test_no_figure_stays_open():
    model, past = awake().float(), clip(1, 3, 1, 7, 9)
    seen, weights = A.unit_activity(model, past), A.feature_images(model, 'future')
    calls = [lambda: A.show_unit(model, past, 0), lambda: A.show_unit(model, past, 0, width=1),
             lambda: A.show_unit(model, past, 6), lambda: A.show_unit(model, past, 0, frames=-1),
             lambda: A.show_features(weights, units=[6]), lambda: A.show_features(weights, columns=10**6),
             lambda: A.show_activity(seen, 'x'), lambda: A.show_activity(seen, width=.1, height=-1)]
    for k, call in enumerate(calls):
        if k: pytest.raises(ValueError, call)
        else: call()
        assert plt.get_fignums() == []


@pytest.mark.parametrize('frames', [1, 200, 2000])
def test_runs_of_any_length_have_a_picture(frames):
    "Where frames would be too thin, one stands for several; none is mirrored."
    model, past = awake().float(), clip(1, 3, 1, 7, 9)
    fig = A.show_unit(model, past, 0, frames=frames)
    places = [image.get_extent() for image in fig.axes[0].images[5:]]
    assert all(left < right for left, right, *_ in places) and 4 <= len(places) <= 206 and pixels(fig).min() < 100
    fig = A.show_activity(A.unit_activity(model, past, 'future', frames=frames))
    assert len(fig.axes[0].get_xticks()) <= 22


@pytest.mark.parametrize('call, message', [
    (lambda m, x: A.show_unit(m, x, 0, width=1), 'width is 1; expected from 4 to 100 inches'),
    (lambda m, x: A.unit_activity(m, x, frames=10**9), 'frames is 1000000000; expected a whole number from 1 to'),
    (lambda m, x: A.show_unit(m, x, 0, frames=10**9), 'past and frames make 1000000003 frames; expected at most 1'),
    (lambda m, x: A.show_features(torch.ones(3000, 1, 9, 9), n=3000, columns=2), 'weights of 3000 units in columns ('),
    (lambda m, x: A.show_features(torch.ones(9, 1, 9, 9), columns=1000), 'columns is 1000; expected at most 200'),
    (lambda m, x: A.show_features(torch.ones(9, 1, 9, 9), units=[0], n='x'), "n is 'x'; expected"),
    (lambda m, x: A.show_activity(dict.fromkeys(range(30), A.unit_activity(m, x))), 'width is 10.0; expected at'),
    (lambda m, x: A.show_activity(dict.fromkeys((0, '0'), A.unit_activity(m, x))), "activity is [0, '0']; expected"),
    (lambda m, x: A.show_activity(A.unit_activity(m, x), 'hh'), "what is 'hh'; expected letters"),
    (lambda m, x: A.show_activity(A.unit_activity(m, x), seed=-1), 'seed is -1; expected'),
    (lambda m, x: A.show_activity(A.unit_activity(m, x), height=float('nan')), 'height is nan; expected'),
], ids=range(11))
def test_sizes_that_cannot_be_drawn_are_named(call, message):
    with pytest.raises(ValueError) as error: call(awake().float(), clip(1, 3, 1, 7, 9))
    assert str(error.value).startswith(message)


def test_what_is_not_finite_is_named():
    model, past = awake().float(), clip(1, 3, 1, 7, 9)
    with torch.no_grad(): model.encoder.weight_hh_l0[0, 0] = float('nan')
    with pytest.raises(ValueError, match=r'^activity.h holds NaN'): A.show_activity(A.unit_activity(model, past))
    with pytest.raises(ValueError, match=r'^model.h holds NaN'): A.show_unit(model, past, 0)
    model = awake().float()
    with torch.no_grad(): model.future_decoder.readout.weight[0, 0] = float('inf')
    with pytest.raises(ValueError, match='^model holds NaN or infinite'): A.show_unit(model, past, 0, frames=1)
    with pytest.raises(ValueError, match='^weights holds NaN'): A.strongest(A.feature_images(model, 'future'))


# Other objects

OTHERS = [None, 'x', -1, 10**9, 1.5, float('nan'), True, 1j, b'x', [], {}, {'a': 1}, object, torch.nn.Linear(2, 2),
          VideoLSTM, range(3), np.array([1, 'a'], object), np.zeros((6, 1, 7, 9), complex),
          torch.zeros(6, 1, 7, 9).to_sparse(), torch.zeros(6, 1, 7, 9, device='meta'),
          torch.zeros(6, 1, 7, 9, dtype=torch.complex64), torch.zeros(3, 4),
          torch.full((6, 1, 7, 9), float('inf')), torch.zeros(0, 1, 7, 9), torch.zeros(6, 3, 2, 7, 9), torch.tensor(1.),
          torch.nested.nested_tensor([torch.zeros(2, 3)], layout=torch.jagged), A.Activity, iter([1]), '\ud800',
          A.Activity(None, *[torch.zeros(1, 2, 3)] * 5, frames=None, numbers=None, part=7)]


def calls():
    model, past = awake().float(), clip(1, 3, 1, 7, 9)
    few = dict(frames=2, layer=0)
    return dict(
        feature_images=(A.feature_images, dict(model=model, which='input')),
        strongest=(A.strongest, dict(weights=torch.ones(6, 1, 7, 9), n=3)),
        show_features=(A.show_features, dict(weights=torch.ones(6, 1, 7, 9), units=[1], n=3, scale='each',
                                             numbers=True, columns=2, width=5., title='')),
        unit_activity=(A.unit_activity, dict(model=model, past=past, part='future') | few),
        show_activity=(A.show_activity, dict(activity=A.unit_activity(model, past), what='h', units=None, n=3,
                                             seed=0, i=0, width=5., height=2., title='')),
        show_unit=(A.show_unit, few | dict(model=model, past=past, unit=1, future=past, decoder='future', i=0,
                                           width=6.)))


@pytest.mark.parametrize('name', calls())
def test_other_objects_are_refused_by_name(name):
    f, good = calls()[name]
    f(**good)
    for arg in good:
        for other in OTHERS:
            try: f(**good | {arg: other})
            except ValueError as e: assert arg in str(e), f'{name}({arg}={type(other).__name__}): {e}'
    assert plt.get_fignums() == []


def test_a_model_around_a_model_is_one():
    "torch.compile gives something that has all of the model's parts, but another type."
    class Around(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner = copy.deepcopy(model)
        def __getattr__(self, key):
            try: return super().__getattr__(key)
            except AttributeError: return getattr(super().__getattr__('inner'), key)
    model, past = awake().float(), clip(1, 3, 1, 7, 9)
    assert torch.equal(A.unit_activity(Around(model), past).h, A.unit_activity(model, past).h)


# ---- charts of the tutorials

def test_names_keep_apart():
    for seed in range(5):
        x = np.random.default_rng(seed).uniform(0, 3, 12)
        moved = A.keep_apart(x, .2)
        assert (np.diff(np.sort(moved)) > .2 - 1e-9).all() and (np.argsort(moved) == np.argsort(x)).all()
    assert A.keep_apart([0, 5, 9], 1).tolist() == [0, 5, 9]


def words(fig): return [t.get_text() for ax in fig.axes for t in ax.texts]


def test_curves_are_named_at_their_ends():
    lines = {'up': A.Curve([1, 2, 3]), 'down': A.Curve([3, 2, 1], ends=([2, 1, 0], [4, 3, 2])), 'quiet': A.Curve([2, 2], named=False)}
    fig = A.show_curves({'one': lines, 'two': {'back': A.Curve([5, 6], [10, 0], style='o-')}}, y_range={'one': (0, 4)})
    assert words(fig) == ['up', 'down', 'back']
    one, two = fig.axes
    assert one.get_ylim() == (0, 4) and one.get_xlim() == (1, 3) and two.get_xlim() == (10, 0)
    assert one.lines[0].get_ydata().tolist() == [1, 2, 3] and len(one.collections) == 1
    heights = [t.xy[1] for t in one.texts]
    assert heights[0] > heights[1]


@pytest.mark.parametrize('ticks, wanted', [(None, {'1', '10', '100', '1,000'}), ([3, 2000], {'3', '2,000'})])
def test_a_logarithmic_axis_has_plain_numbers(ticks, wanted):
    fig = A.show_curves({'one': {'up': A.Curve([1, 2, 3], [1, 50, 1000])}}, log=True, ticks=ticks)
    fig.canvas.draw()
    said = {t.get_text() for t in fig.axes[0].get_xticklabels()}
    assert wanted <= said and not any('$' in text for text in said)


def test_bars_say_their_numbers():
    fig = A.show_bars({'a': {'x': (.5, .1), 'y': -.001}, 'b': {'x': 2., 'y': 30}}, {'a': (0, 1), 'b': (0, 40)}, chance={'a': (.25, 'luck')})
    assert words(fig) == ['0.50', '0.00', 'luck', '2', '30']
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ['x', 'y']
    assert fig.axes[0].patches[0].get_width() == .5
    whole = A.show_bars({'a': {'x': 12.}}, {'a': (0., 387.4)})
    assert [t.get_text() for t in whole.axes[0].get_xticklabels()] == ['0', '387']


def test_tiles_and_marks_stand_where_they_should():
    frames = torch.zeros(3, 1, 8, 8)
    frames[1, 0, 2, 5] = 1
    at = torch.tensor([[[2., 5.]]]).expand(3, 1, 2)
    fig = A.show_tile_rows({'row': frames}, ['1', '2', '3'], marks=[A.Marks('row', at, dict(marker='o'))])
    ax = fig.axes[0]
    assert words(fig) == ['1', '2', '3', 'row'] and len(ax.images) == 3 and len(ax.lines) == 3
    left, right, bottom, top = ax.images[1].get_extent()
    x, y = (v[0] for v in ax.lines[1].get_data())
    assert (x - left) / (right - left) == pytest.approx(5.5 / 8) and (y - top) / (bottom - top) == pytest.approx(2.5 / 8, abs=.02)
    signed = A.show_tile_rows({'w': torch.tensor([[[[-1., 1.], [0., 0.]]]])}, signed=True).axes[0].images[0].get_array()
    assert signed[0, 0, 2] > signed[0, 0, 0] and signed[0, 1, 0] > signed[0, 1, 2]      # blue, red


def test_roses_points_and_fold():
    fig = A.show_roses(torch.zeros(2, 8), ['a', 'b'])
    assert [ax.get_title() for ax in fig.axes] == ['a', 'b'] and len(fig.axes[0].lines[1].get_xdata()) == 9
    points = torch.rand(5, 2)
    fig = A.show_points(points, {'across': (points[:, 0], 'viridis', ['left', 'right']), 'class': (torch.arange(5), 'tab10', range(5))})
    ends = [[t.get_text() for t in ax.get_xticklabels()] for ax in fig.axes[2:]]
    assert sorted(map(len, ends)) == [2, 5] and ['left', 'right'] in ends
    html = A.Fold(fig, 'more < less')._repr_html_()
    assert html.startswith('<details><summary>more &lt; less') and 'data:image/png;base64,' in html


def test_charts_have_letters_of_nine_points():
    fig = A.show_curves({'a': {'b': A.Curve([1, 2])}}, y='words')
    sizes = [t.get_fontsize() for ax in fig.axes for t in [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]]
    assert min(sizes) >= 9


def test_no_letter_is_too_small_for_a_page(letters_on_a_page):
    "All figures, drawn as they are if nobody says how large; eight points are what can be read."
    model, past = awake(), clip(1, 5, 1, 7, 9).double()
    seen, weights = A.unit_activity(model, past), A.feature_images(model, 'future')
    many = torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    lines = {'a': {'b': A.Curve([1, 2])}, 'c': {'d': A.Curve([1, 2])}}
    figures = dict(features=A.show_features(weights, title='a title'), many=A.show_features(many),
                   activity=A.show_activity(seen, 'hcifgo', title='a title'), few=A.show_activity(seen, units=[0, 1]),
                   unit=A.show_unit(model, past, 0), curves=A.show_curves(lines, y='nats'),
                   bars=A.show_bars({'a': {'x': 1.}}, {'a': (0, 1)}, chance={'a': (.5, 'chance')}),
                   tiles=A.show_tile_rows({'row': many[:3]}, ['1', '2', '3'], signed=True),
                   roses=A.show_roses(torch.zeros(3, 8), list('abc')),
                   points=A.show_points(torch.rand(5, 2), {'across': (torch.arange(5), 'viridis', ['left', 'right'])}))
    assert {name: size for name, fig in figures.items() if (size := letters_on_a_page(fig)) < 7.99} == {}

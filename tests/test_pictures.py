"Pictures: pixel-exact strips, time turned back, animations that a browser can play, and errors that name the argument."
import io
import os
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lstm_video_repr import pictures as P
from lstm_video_repr import training


def clip(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def prediction():
    past, future = clip(3, 5, 1, 16, 16), clip(3, 7, 1, 16, 16, seed=1)
    return past, future, SimpleNamespace(reconstruction=past.flip(1), future=future)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('frames', [1, 2, 9])
def test_strip_holds_every_pixel(channels, frames):
    x = clip(2, frames, channels, 6, 8)
    picture = P.strip(x, i=1, gap=3)
    assert picture.shape == (6, frames * 8 + (frames - 1) * 3, 3) and picture.dtype == np.uint8
    for t in range(frames):
        expected = np.rint(x[1, t].expand(3, -1, -1).numpy() * 255).transpose(1, 2, 0)
        np.testing.assert_array_equal(picture[:, t * 11:t * 11 + 8], expected)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_gives_the_same_pixels(dtype):
    x = (clip(4, 1, 8, 8) > .5).to(dtype)
    np.testing.assert_array_equal(P.as_frames(x), P.as_frames(x.float().numpy()))


@pytest.mark.parametrize('bad, message', [
    (torch.zeros(8, 8), 'got shape (8, 8)'),
    (torch.zeros(4, 8, 8), 'got shape (4, 8, 8)'),
    (torch.zeros(4, 2, 8, 8), 'C = 1 or 3'),
    (torch.zeros(0, 1, 8, 8), 'got shape (0, 1, 8, 8)'),
    (torch.full((4, 1, 8, 8), float('nan')), '256 that are NaN or infinite'),
    (torch.full((4, 1, 8, 8), 1.5), 'got 1.5 to 1.5'),
    (torch.full((4, 1, 8, 8), -.1), 'values in [0, 1]'),
    (torch.zeros(4, 1, 8, 8).int(), 'int32'),
    ('a clip', "got shape ()"),
])
@pytest.mark.parametrize('call', [P.as_frames, P.strip, P.show_strip, P.animate])
def test_bad_clips_are_named(call, bad, message):
    with pytest.raises(ValueError) as error: call(bad)
    assert message in str(error.value) and str(error.value).startswith('clip')


def test_clamp_is_asked_for():
    x = clip(4, 1, 8, 8) * 2
    np.testing.assert_array_equal(P.as_frames(x, clamp=True), P.as_frames(x.clamp(0, 1)))


def test_reconstruction_is_turned_back(prediction):
    past, future, out = prediction
    rows = P.prediction_rows(past, future, out)
    assert torch.equal(rows['reconstruction'].clip, past)
    assert [r.first for r in rows.values()] == [1, 1, 6, 6]
    both = P.timeline_rows(past, future, out)
    assert torch.equal(both['model'].clip, torch.cat([past, future], 1)) and both['model'].first == 1


def test_reconstruction_may_reach_before_the_first_frame(prediction):
    past, future, _ = prediction
    out = SimpleNamespace(reconstruction=torch.cat([past, past], 1), future=None)
    assert P.prediction_rows(past, None, out)['reconstruction'].first == -4
    P.show_prediction(past, None, out)
    P.animate(past, None, out, scale=1)


@pytest.mark.parametrize('kind', ['autoencoder', 'future_predictor', 'composite'])
def test_outputs_of_real_models(kind, tmp_path):
    from lstm_video_repr.models import VideoLSTM
    model, past, future = getattr(VideoLSTM, kind)(frame_shape=(1, 16, 16), hidden_size=8), clip(2, 5, 1, 16, 16), clip(2, 4, 1, 16, 16)
    out = model(past, future_steps=6)
    names = dict(autoencoder=['reconstruction'], future_predictor=['prediction'], composite=['reconstruction', 'prediction'])[kind]
    assert [n for n in P.prediction_rows(past, future, out) if n not in ('input', 'truth')] == names
    P.show_prediction(past, future, out)
    assert P.animate(past, future, out, scale=1).data


def test_numpy_arrays_do_as_well(prediction):
    past, future, out = prediction
    arrays = past.numpy(), future.numpy(), SimpleNamespace(reconstruction=out.reconstruction.numpy(), future=out.future.numpy())
    assert P.animate(*arrays).data == P.animate(past, future, out).data
    P.show_prediction(*arrays)


def test_a_long_title_fits_into_an_animation():
    wide = P.animate(clip(2, 1, 8, 8), scale=1, title='A title far wider than eight pixels')
    assert wide.size[0] > 200


def test_figures_are_closed_and_not_shown(prediction, monkeypatch):
    monkeypatch.setattr(plt, 'show', lambda *a, **k: pytest.fail('plt.show was called'))
    past, future, out = prediction
    for fig in (P.show_strip(past), P.show_prediction(past, future, out, i=2), P.show_grid(past, n=2)):
        file = io.BytesIO()
        fig.savefig(file)
        assert Image.open(io.BytesIO(file.getvalue())).convert('L').getextrema() == (0, 255)
    assert plt.get_fignums() == []


@pytest.mark.parametrize('ending', ['gif', 'webp'])
def test_animation_plays_all_frames(prediction, tmp_path, ending):
    path = P.save_animation(tmp_path / 'new' / f'movie.{ending}', *prediction, fps=10, scale=2)
    movie = Image.open(path)
    assert movie.n_frames == 12 and movie.is_animated and movie.info.get('loop') == 0


def test_animation_needs_no_network_and_has_words(prediction):
    html = P.animate(*prediction, title='a <b> title')._repr_html_()
    assert 'alt="Animation of 12 frames: clip, model"' in html
    assert 'http' not in html and '<script' not in html and 'prefers-reduced-motion' in html


@pytest.mark.parametrize('ending', ['png', 'pdf', 'svg', 'jpg', 'webp'])
def test_strips_to_files(prediction, tmp_path, ending):
    assert P.save_strip(tmp_path / f'strip.{ending}', *prediction).stat().st_size > 500
    assert P.save_strip(tmp_path / f'clip.{ending}', prediction[0], past=3).stat().st_size > 500


def test_files_that_cannot_be_written(prediction, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError): P.save_strip(tmp_path / 'file' / 'strip.png', prediction[0])
    with pytest.raises(OSError): P.save_animation(tmp_path / 'file' / 'movie.gif', prediction[0])
    with pytest.raises(ValueError, match='ends in .gif or .webp'): P.save_animation(tmp_path / 'movie.mp4', prediction[0])


@pytest.mark.parametrize('save, name', [(P.save_strip, 'strip.png'), (P.save_strip, 'strip.pdf'), (P.save_strip, 'strip.SVG'), (P.save_animation, 'movie.gif'), (P.save_animation, 'movie.webp')])
def test_a_full_disk_leaves_the_old_file(prediction, tmp_path, monkeypatch, save, name):
    path, other = save(tmp_path / name, prediction[0]), 1 - prediction[0]
    old = path.read_bytes()
    def full(*args): raise OSError(28, 'No space left on device')
    for step in ('fsync', 'replace'):
        with monkeypatch.context() as m:
            m.setattr(training.os, step, full)
            with pytest.raises(OSError, match=f'{name}.*No space'): save(path, other)
        assert path.read_bytes() == old and os.listdir(tmp_path) == [name]
    assert save(path, other).read_bytes() != old and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize('bad', [0, -1, 1.5, True, '2', None])
def test_numbers_of_pixels_and_frames_are_whole(bad):
    for call, name in ((lambda: P.animate(clip(2, 1, 8, 8), scale=bad), 'scale'), (lambda: P.show_strip(clip(2, 1, 8, 8), every=bad), 'every'), (lambda: P.show_grid(clip(2, 2, 1, 8, 8), n=bad), 'n')):
        with pytest.raises(ValueError, match=f'^{name}: expected a whole number'): call()
    assert P.animate(clip(2, 1, 8, 8), scale=np.int64(2)).size == P.animate(clip(2, 1, 8, 8), scale=2).size


def test_past_and_future_of_different_batches_are_named(prediction):
    past, future, out = prediction
    for a, b in ((past, future[:2]), (past, future[0]), (past, future[..., :8])):
        with pytest.raises(ValueError, match='^clip: expected as many clips.*input.*truth'): P.timeline_rows(a, b)
    with pytest.raises(ValueError, match='^model: expected as many clips'): P.animate(past, None, SimpleNamespace(reconstruction=past, future=future[:1]))


# Inside a model

KINDS = [dict(), dict(num_layers=2), dict(num_layers=2, conditional_future=True, conditional_reconstruction=True), dict(peephole=False), dict(output='gaussian', conditional_future=True), dict(dropout=.5, num_layers=2)]

def awake(kw, hidden_size=6, frame_shape=(1, 7, 9)):
    "A composite in float64 whose weights, peepholes and biases are all far from zero."
    from lstm_video_repr.models import VideoLSTM
    model, g = VideoLSTM.composite(hidden_size=hidden_size, frame_shape=frame_shape, **kw).double().eval(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * .6)
    return model


@pytest.mark.parametrize('kw', KINDS, ids=str)
def test_activity_is_that_of_the_model(kw):
    model, past = awake(kw), clip(3, 5, 1, 7, 9).double()
    with torch.no_grad(): state, out = model.encode(past), model(past, future_steps=8)
    for layer in range(model.config.num_layers):
        a = P.unit_activity(model, past, layer=layer)
        assert a.numbers == [1, 2, 3, 4, 5] and torch.equal(a.frames, past) and a.part == 'encoder'
        torch.testing.assert_close(a.h[:, -1], state[0][layer], rtol=0, atol=1e-12)
        torch.testing.assert_close(a.c[:, -1], state[1][layer], rtol=0, atol=1e-12)
        for part, steps, frames in (('future', 8, out.future), ('reconstruction', None, out.reconstruction)):
            d = P.unit_activity(model, past, part, steps, layer)
            torch.testing.assert_close(d.frames, frames, rtol=0, atol=1e-12)
            assert d.numbers == ([6, 7, 8, 9, 10, 11, 12, 13] if part == 'future' else [5, 4, 3, 2, 1])
            for x, c0 in ((a, torch.zeros_like(a.c[:, 0])), (d, state[1][layer])):
                before = torch.cat([c0[:, None], x.c[:, :-1]], 1)
                torch.testing.assert_close(x.c, x.f * before + x.i * x.g, rtol=0, atol=1e-12)
                torch.testing.assert_close(x.h, x.o * x.c.tanh(), rtol=0, atol=1e-12)
    assert torch.equal(P.unit_activity(model, past, layer=-1).h, P.unit_activity(model, past, layer=model.config.num_layers - 1).h)


def test_gates_are_those_of_the_equations():
    "Against the equations of section 2.1, written out for one unit at a time."
    model, past = awake(dict()), clip(1, 4, 1, 7, 9).double()
    a, lstm, x, sigmoid = P.unit_activity(model, past), model.encoder, past.flatten(2)[0], torch.sigmoid
    H, h, c = 6, torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        for t in range(4):
            new = torch.zeros(2, H, dtype=torch.float64)
            for k in range(H):
                pre = [lstm.weight_ih_l0[n*H + k] @ x[t] + lstm.weight_hh_l0[n*H + k] @ h + lstm.bias_l0[n*H + k] for n in range(4)]
                wi, wf, wo = lstm.weight_peephole_l0[:, k]
                i, f, g = sigmoid(pre[0] + wi*c[k]), sigmoid(pre[1] + wf*c[k]), torch.tanh(pre[2])
                cell = f*c[k] + i*g
                o = sigmoid(pre[3] + wo*cell)
                new[0, k], new[1, k] = o * torch.tanh(cell), cell
                for name, value in dict(i=i, f=f, g=g, o=o, c=cell, h=new[0, k]).items(): assert getattr(a, name)[0, t, k] == pytest.approx(value.item(), abs=1e-12)
            h, c = new


@pytest.mark.parametrize('frame_shape', [(1, 7, 9), (3, 4, 5), (12,)], ids=str)
def test_features_lie_where_the_weights_act(frame_shape):
    model = awake(dict(num_layers=2), frame_shape=frame_shape)
    inputs, H = P.feature_images(model), 6
    assert inputs.shape == (H, 4, *frame_shape) and P.feature_images(model, 'future').shape == (H, *frame_shape)
    x = torch.rand(frame_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = (model.encoder.weight_ih_l0 @ x.flatten()).view(4, H)
    for k in range(H):
        for gate in range(4): assert (inputs[k, gate] * x).sum().item() == pytest.approx(got[gate, k].item())
    for which, decoder in (('future', model.future_decoder), ('reconstruction', model.reconstruction_decoder)):
        outputs, h = P.feature_images(model, which), torch.rand(H, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        torch.testing.assert_close((outputs * h.view(-1, *[1] * len(frame_shape))).sum(0).flatten(), (decoder.readout(h) - decoder.readout.bias).detach())
    for which in ('input', 'future'):
        P.feature_images(model, which).zero_()
        assert P.feature_images(model, which).all(), 'what is given is a copy'


def test_strongest_units_come_first():
    w = torch.zeros(5, 1, 2, 2)
    for k, size in enumerate((.5, -3, 0, 2, 3)): w[k, 0, k % 2, 0] = size
    assert P.strongest(w) == [1, 4, 3, 0, 2] and P.strongest(w, 2) == [1, 4]
    for bad in (torch.zeros(5), [1, 2]):
        with pytest.raises(ValueError, match='^weights: expected'): P.strongest(bad)


def pixels(fig):
    file = io.BytesIO()
    fig.savefig(file, format='png')
    return np.asarray(Image.open(file).convert('RGB')).astype(int)


def test_zero_is_colourless_and_signs_have_colours():
    w = torch.zeros(3, 1, 6, 6)
    w[0, 0, :3], w[1, 0] = 1, -2
    each, alike = (P.show_features(w, units=[0, 1, 2], scale=scale, numbers=False) for scale in ('each', 'all'))
    tiles = lambda fig: [im.get_array() for im in fig.axes[0].images]
    top, bottom = tiles(each)[0][0, 0].astype(int), tiles(each)[0][5, 0].astype(int)
    assert top[0] > top[2] + 50 and np.ptp(bottom) <= 6 and bottom.min() > 235, 'red above, nearly white below'
    blue = tiles(each)[1][0, 0].astype(int)
    assert blue[2] > blue[0] + 50
    assert (tiles(alike)[0][0, 0].astype(int) > top).any() and (tiles(alike)[1] == tiles(each)[1]).all(), 'paler where all share a range'
    assert all(np.ptp(t.astype(int)) <= 6 for t in (tiles(each)[2], tiles(alike)[2])), 'weights that are all zero stay white'
    assert plt.get_fignums() == []


def test_the_mosaic_names_the_units_it_shows():
    w = clip(9, 1, 5, 5)
    fig = P.show_features(w, n=4, columns=3, title='Four')
    assert [t.get_text() for t in fig.axes[0].texts][:4] == [str(k) for k in P.strongest(w, 4)]
    assert len(fig.axes[0].images) == 4 and pixels(fig).min() < 100
    assert len(P.show_features(w).axes[0].images) == 9


def test_activity_pictures_hold_the_values():
    model, past = awake(dict()).float(), clip(2, 5, 1, 7, 9)
    a, d = P.unit_activity(model, past), P.unit_activity(model, past, 'future', 7)
    fig = P.show_activity({'one': [a, d], 'two': [d, a]}, 'ho', units=[4, 0], i=1)
    found = {ax.get_title(loc='left'): ax.images[0].get_array() for ax in fig.axes if ax.get_title(loc='left')}
    assert set(found) == {'one, output h', 'two, output h', 'one, output gate o', 'two, output gate o'}
    np.testing.assert_allclose(found['one, output h'], torch.cat([a.h, d.h], 1)[1, :, [4, 0]].T, rtol=1e-6)
    np.testing.assert_allclose(found['two, output gate o'], torch.cat([d.o, a.o], 1)[1, :, [4, 0]].T, rtol=1e-6)
    assert all(ax.images[0].get_clim() == (0, 1) for ax in fig.axes if 'gate' in ax.get_title(loc='left'))
    assert plt.get_fignums() == [] and pixels(fig).min() < 100


def test_a_few_large_cells_do_not_leave_the_others_pale():
    "Cells are unbounded: their colours end at the 99th percentile, and say so; outputs are shown up to their largest."
    seen = P.unit_activity(awake(dict(), hidden_size=40).float(), clip(1, 5, 1, 7, 9))
    seen.c[0, 0, 0], seen.h[0, 0, 0] = 1000., -.999
    cells, outputs = (P.show_activity(seen, k, units=list(range(40))) for k in 'ch')
    end = np.quantile(seen.c[0].abs(), .99)
    assert cells.axes[0].images[0].get_clim() == pytest.approx((-end, end)) and end < 10
    assert [t.get_text() for t in cells.axes[1].get_yticklabels()] == [f'≤ {-end:.2g}', '0', f'≥ {end:.2g}']
    assert outputs.axes[0].images[0].get_clim() == pytest.approx((-.999, .999)) and outputs.axes[1].get_yticklabels()[2].get_text() == '1'


def test_units_are_drawn_by_the_seed():
    big = awake(dict(), hidden_size=40).float()
    a = P.unit_activity(big, clip(1, 5, 1, 7, 9))
    shown = lambda **kw: P.show_activity(a, n=10, **kw).axes[0].images[0].get_array().tolist()
    assert shown() == shown(seed=0) != shown(seed=1) and len(shown()) == 10


def test_one_unit_from_all_sides():
    model, past, future = awake(dict()).float(), clip(2, 5, 1, 7, 9), clip(2, 7, 1, 7, 9, seed=1)
    fig = P.show_unit(model, past, 4, future, steps=7, i=1)
    lines = {line.get_label(): line.get_ydata() for ax in fig.axes[1:] for line in ax.lines if line.get_label()[0] != '_'}
    both = [P.unit_activity(model, past), P.unit_activity(model, past, 'future', 7)]
    for k, name in P._NAMES.items(): np.testing.assert_allclose(lines[name], torch.cat([getattr(x, k) for x in both], 1)[1, :, 4], rtol=1e-5, atol=1e-6)
    assert len(fig.axes[0].images) == 5 + 12 + 7, 'features, frames of the clip, frames of the model'
    only = awake(dict(num_layers=2)).float()
    assert [len(P.show_unit(only, past, 0, layer=l).axes[0].images) for l in (0, 1)] == [4 + 5 + 5, 1 + 5 + 5], 'the future is not known here'


@pytest.mark.parametrize('kind, decoder, fails', [('autoencoder', None, False), ('future_predictor', None, False), ('autoencoder', 'future', True), ('future_predictor', 'reconstruction', True)])
def test_models_with_one_decoder(kind, decoder, fails):
    from lstm_video_repr.models import VideoLSTM
    model, past = getattr(VideoLSTM, kind)(frame_shape=(1, 7, 9), hidden_size=4), clip(2, 5, 1, 7, 9)
    if not fails: assert pixels(P.show_unit(model, past, 0, decoder=decoder)).min() < 100
    else:
        with pytest.raises(ValueError, match='decoder: expected one of'): P.show_unit(model, past, 0, decoder=decoder)
        with pytest.raises(ValueError, match='part: expected one of'): P.unit_activity(model, past, decoder)
        with pytest.raises(ValueError, match='which: expected one of'): P.feature_images(model, decoder)

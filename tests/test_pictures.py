"Pictures: pixel-exact strips, frames in order, animations that a browser can play, errors that name the argument."
import importlib.util
import io
import os
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lstm_video_repr import pictures as P
from lstm_video_repr.core import files
from lstm_video_repr.models import VideoLSTM


def clip(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def output(recalled=None, future=None): return SimpleNamespace(recalled=recalled, future=future)


@pytest.fixture
def prediction():
    past, future = clip(3, 5, 1, 16, 16), clip(3, 7, 1, 16, 16, seed=1)
    return past, future, output(past, future)


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
    (torch.zeros(8, 8), 'shape (8, 8); expected (T, C, H, W)'),
    (torch.zeros(4, 8, 8), 'shape (4, 8, 8); expected (T, C, H, W)'),
    (torch.zeros(4, 2, 8, 8), 'C = 1 or 3'),
    (torch.zeros(0, 1, 8, 8), 'shape (0, 1, 8, 8)'),
    (torch.full((4, 1, 8, 8), float('nan')), 'holds NaN or infinite values'),
    (torch.full((4, 1, 8, 8), 1.5), 'has values from 1.5 to 1.5; expected [0, 1]'),
    (torch.full((4, 1, 8, 8), -.1), 'expected [0, 1], or clamp=True'),
    (torch.zeros(4, 1, 8, 8).int(), 'int32'),
    ('a clip', "is 'a clip'; expected (T, C, H, W)"),
])
@pytest.mark.parametrize('call', [P.as_frames, P.strip, P.show_strip, P.animate])
def test_bad_clips_are_named(call, bad, message):
    with pytest.raises(ValueError) as error: call(bad)
    assert message in str(error.value) and str(error.value).startswith('clip ')


def test_clamp_is_asked_for():
    x = clip(4, 1, 8, 8) * 2
    np.testing.assert_array_equal(P.as_frames(x, clamp=True), P.as_frames(x.clamp(0, 1)))
    np.testing.assert_array_equal(P.as_frames(torch.full((1, 1, 2, 2), 1 + 5e-7)), 255)


def test_frames_stand_in_the_order_of_the_clip(prediction):
    "What is recalled goes first to last, as it comes; nobody turns it again."
    past, future, out = prediction
    rows = P.prediction_rows(past, future, out)
    assert torch.equal(rows['reconstruction'].clip, past)
    assert [r.first for r in rows.values()] == [1, 1, 6, 6]
    both = P.timeline_rows(past, future, out)
    assert torch.equal(both['model'].clip, torch.cat([past, future], 1)) and both['model'].first == 1


def test_reconstruction_may_reach_before_the_first_frame(prediction):
    past, future, _ = prediction
    out = output(torch.cat([past, past], 1))
    assert P.prediction_rows(past, None, out)['reconstruction'].first == -4
    P.show_prediction(past, None, out)
    P.animate(past, None, out, scale=1)


@pytest.mark.parametrize('kind', ['autoencoder', 'future_predictor', 'composite'])
def test_outputs_of_real_models(kind):
    model = getattr(VideoLSTM, kind)(frame_shape=(1, 16, 16), hidden_size=8)
    past, future = clip(2, 5, 1, 16, 16), clip(2, 4, 1, 16, 16)
    out = model(past, future_frames=6)
    rows = P.prediction_rows(past, future, out)
    names = dict(autoencoder=['reconstruction'], future_predictor=['prediction'],
                 composite=['reconstruction', 'prediction'])[kind]
    assert [n for n in rows if n not in ('input', 'truth')] == names
    if 'reconstruction' in rows: assert torch.equal(rows['reconstruction'].clip, out.reconstruction.flip(1))
    P.show_prediction(past, future, out)
    assert P.animate(past, future, out, scale=1).data


def test_what_is_no_output_is_named(prediction):
    past, future, _ = prediction
    for bad in (past, SimpleNamespace(reconstruction=past, future=future)):
        with pytest.raises(ValueError, match='^out is .*expected .*`.recalled` and `.future`'):
            P.show_prediction(past, future, bad)
    for name, bad in (('past', (past[0, 0], future, None)), ('future', (past, 'later', None)),
                      ('out.recalled', (past, future, output(past[0, 0])))):
        with pytest.raises(ValueError, match=rf'^{name} is .*expected \(T, C, H, W\)'): P.prediction_rows(*bad)


def test_numpy_arrays_do_as_well(prediction):
    past, future, out = prediction
    arrays = past.numpy(), future.numpy(), output(out.recalled.numpy(), out.future.numpy())
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
    past, future, out = prediction
    path = P.save_animation(tmp_path / 'new' / f'movie.{ending}', past, future, out=out, fps=10, scale=2)
    movie = Image.open(path)
    assert movie.n_frames == 12 and movie.is_animated and movie.info.get('loop') == 0


def test_animation_needs_no_network_and_has_words(prediction):
    html = P.animate(*prediction, title='a <b> title')._repr_html_()
    assert 'alt="Animation of 12 frames: clip, model"' in html
    assert 'http' not in html and '<script' not in html and 'prefers-reduced-motion' in html


@pytest.mark.parametrize('ending', ['png', 'pdf', 'svg', 'jpg', 'webp'])
def test_strips_to_files(prediction, tmp_path, ending):
    past, future, out = prediction
    assert P.save_strip(tmp_path / f'strip.{ending}', past, future, out=out).stat().st_size > 500
    assert P.save_strip(tmp_path / f'clip.{ending}', past, past=3).stat().st_size > 500


def test_files_that_cannot_be_written(prediction, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError): P.save_strip(tmp_path / 'file' / 'strip.png', prediction[0])
    with pytest.raises(OSError): P.save_animation(tmp_path / 'file' / 'movie.gif', prediction[0])
    with pytest.raises(ValueError, match='ends in .gif or .webp'): P.save_animation(tmp_path / 'a.mp4', prediction[0])


@pytest.mark.parametrize('save, name', [
    (P.save_strip, 'strip.png'), (P.save_strip, 'strip.pdf'), (P.save_strip, 'strip.SVG'),
    (P.save_animation, 'movie.gif'), (P.save_animation, 'movie.webp')])
def test_a_full_disk_leaves_the_old_file(prediction, tmp_path, monkeypatch, save, name):
    path, other = save(tmp_path / name, prediction[0]), 1 - prediction[0]
    old = path.read_bytes()
    def full(*args): raise OSError(28, 'No space left on device')
    for step in ('fsync', 'replace'):
        with monkeypatch.context() as m:
            m.setattr(files.os, step, full)
            with pytest.raises(OSError, match=f'{name}.*No space'): save(path, other)
        assert path.read_bytes() == old and os.listdir(tmp_path) == [name]
    assert save(path, other).read_bytes() != old and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize('bad', [0, -1, 1.5, True, '2', None])
def test_numbers_of_pixels_and_frames_are_whole(bad):
    x = clip(2, 2, 1, 8, 8)
    calls = dict(scale=lambda: P.animate(x, scale=bad), every=lambda: P.show_strip(x, every=bad),
                 n=lambda: P.show_grid(x, n=bad))
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f'^{name} is .*; expected a whole number'): call()
    assert P.animate(x, scale=np.int64(2)).size == P.animate(x, scale=2).size


def test_past_and_future_of_different_batches_are_named(prediction):
    past, future, out = prediction
    for a, b in ((past, future[:2]), (past, future[0]), (past, future[..., :8])):
        with pytest.raises(ValueError, match='^clip has parts of shapes .*input.*truth.*expected as many clips'):
            P.timeline_rows(a, b)
    with pytest.raises(ValueError, match='^model has parts of shapes'): P.animate(past, None, output(past, future[:1]))


@pytest.mark.parametrize('library', ['matplotlib', 'PIL'])
def test_who_lacks_a_library_is_told_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    again = importlib.util.spec_from_file_location('lstm_video_repr.pictures_again', P.__file__)
    with pytest.raises(ImportError, match=rf"^pictures need {library}: pip install 'lstm-video-repr\[notebook\]'"):
        again.loader.exec_module(importlib.util.module_from_spec(again))

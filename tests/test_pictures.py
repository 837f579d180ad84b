"Pictures: pixel-exact strips, frames in order, animations that a browser can play, errors that name the argument."
import importlib.util
import io
import os
import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lstm_video_repr import pictures as P
from lstm_video_repr.core import files
from lstm_video_repr.models import VideoLSTM, VideoLSTMConfig


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


BEGINS = dict(png=b'\x89PNG', pdf=b'%PDF', svg=b'<?xml', jpg=b'\xff\xd8', webp=b'RIFF', PNG=b'\x89PNG')


@pytest.mark.parametrize('ending', BEGINS)
def test_strips_to_files(prediction, tmp_path, ending):
    past, future, out = prediction
    for name, more in (('strip', (past, future)), ('clip', (past,))):
        path = P.save_strip(tmp_path / f'{name}.{ending}', *more, out=out)
        assert path.stat().st_size > 500 and path.read_bytes().startswith(BEGINS[ending])


def test_a_link_is_written_through(prediction, tmp_path):
    (tmp_path / 'real').mkdir()
    for save, name in ((P.save_strip, 'a.png'), (P.save_animation, 'a.gif')):
        (tmp_path / name).symlink_to(tmp_path / 'real' / name)
        save(tmp_path / name, prediction[0])
        assert (tmp_path / name).is_symlink() and (tmp_path / 'real' / name).stat().st_size > 500


def test_files_that_cannot_be_written(prediction, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError): P.save_strip(tmp_path / 'file' / 'strip.png', prediction[0])
    with pytest.raises(OSError): P.save_animation(tmp_path / 'file' / 'movie.gif', prediction[0])
    with pytest.raises(ValueError, match='ends in .gif or .webp'): P.save_animation(tmp_path / 'a.mp4', prediction[0])
    for bad in ('', None, 3, b'a.png', 'a\0.png', '.png'):
        with pytest.raises(ValueError, match='^path is '): P.save_strip(bad, prediction[0])


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs a folder that nobody can write into')
def test_a_folder_that_cannot_be_written_is_noticed_before_anything_is_drawn():
    with pytest.raises(OSError, match="path is '/proc/self/a.png'"): P.save_strip('/proc/self/a.png', 'no clip')
    with pytest.raises(OSError, match="path is '/proc/self/a.gif'"): P.save_animation('/proc/self/a.gif', 'no clip')


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


# Settings of the user

ODD = {'image.origin': 'lower', 'image.cmap': 'jet', 'image.interpolation': 'bicubic', 'image.resample': False,
       'axes.grid': True, 'axes.unicode_minus': False, 'axes.prop_cycle': matplotlib.cycler(color='rgb'),
       'axes.facecolor': 'green', 'axes.titlelocation': 'right', 'axes.formatter.limits': [0, 0], 'font.size': 30.,
       'font.family': 'monospace', 'text.color': 'red', 'text.antialiased': False, 'figure.autolayout': True,
       'figure.dpi': 33., 'figure.facecolor': 'black', 'lines.linewidth': 9., 'lines.marker': 'o',
       'path.sketch': (5, 10, 2), 'savefig.dpi': 20., 'savefig.bbox': 'tight', 'savefig.pad_inches': 2.,
       'savefig.transparent': True, 'savefig.facecolor': 'red', 'savefig.format': 'pdf', 'legend.frameon': True,
       'xtick.labeltop': True}
STYLES = {'odd': lambda: plt.rc_context(ODD), 'latex': lambda: plt.rc_context({'text.usetex': True}), 'xkcd': plt.xkcd,
          'layout': lambda: plt.rc_context({'figure.constrained_layout.use': True}),
          'dark': lambda: plt.style.context('dark_background'), 'seaborn': lambda: plt.style.context('seaborn-v0_8')}


def decode(data): return np.asarray(Image.open(io.BytesIO(data)).convert('RGBA'))


def draw_all(x, folder):
    "What is drawn, shown in a notebook, saved by us, and saved twice by the caller."
    fig, file, again = P.show_strip({'a': x, 'b': P.Row(x, 4)}, past=3, title='-1'), io.BytesIO(), io.BytesIO()
    for target in (file, again): fig.savefig(target, format='png', dpi=90, bbox_inches='tight', pad_inches=.1)
    saved = P.save_strip(folder / 'a.png', x, x).read_bytes()
    return [decode(data) for data in (fig._repr_png_(), saved, file.getvalue(), again.getvalue())]


@pytest.mark.parametrize('style', STYLES)
def test_pictures_look_alike_under_all_settings(style, tmp_path):
    x = clip(5, 1, 8, 8)
    plain = draw_all(x, tmp_path)
    with STYLES[style]():
        before = repr(matplotlib.rcParams)
        for got, wanted in zip(draw_all(x, tmp_path), plain, strict=True): np.testing.assert_array_equal(got, wanted)
        assert repr(matplotlib.rcParams) == before
    assert (plain[0][0, 0] == 255).all()


def test_settings_come_back_from_several_threads():
    "The last one to leave must not put back what the first one has set meanwhile."
    with plt.rc_context({'font.size': 17.}):
        threads = [threading.Thread(target=lambda: P.show_strip(clip(3, 1, 4, 4)).png()) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert matplotlib.rcParams['font.size'] == 17


def test_the_figures_of_others_stay_as_they_are(prediction):
    past, future, out = prediction
    one, two = plt.figure(), plt.figure()
    plt.plot([1, 2])
    axes = plt.gca()
    for good in (True, False):
        more = {} if good else dict(every=-1)
        with nullcontext() if good else pytest.raises(ValueError): P.show_strip(past, **more)
        with nullcontext() if good else pytest.raises(ValueError): P.show_prediction(past, future, out, **more)
        with nullcontext() if good else pytest.raises(ValueError): P.show_strip(past, width=10 if good else 1)
        assert plt.get_fignums() == [one.number, two.number] and plt.gcf() is two and plt.gca() is axes
    assert len(two.axes) == len(axes.lines) == 1
    plt.close('all')


# Text is text

TEXTS = {'$a_{b$': '$a_{b$', '$x^2$': '$x^2$', 'a\nb\tc': 'a b c', '\x00\u202e\ud800': r'\x00\u202e\ud800',
         '': '', ' ': '', 'العربية': 'العربية', '<b>&': '<b>&'}


@pytest.mark.filterwarnings('ignore:Glyph')
@pytest.mark.parametrize('text', TEXTS)
def test_text_is_text(text):
    fig = P.show_strip({text: clip(2, 1, 4, 4)}, title=text)
    found = [t for t in fig.axes[0].texts if t.get_text() == TEXTS[text]]
    assert len(found) == 1 + bool(TEXTS[text]) and not any(t.get_parse_math() for t in found)
    assert fig.png() and P.animate({text: clip(2, 1, 4, 4)}, title=text).data
    row = P.Row(clip(2, 1, 4, 4), notes=(text, text))
    assert P.animate({'a': row}, past=1).data


def test_long_names_leave_room_for_frames():
    x = clip(20, 1, 8, 8)
    names = ['a' + 'n' * 88 + 'b', 'c' + 'n' * 500 + 'd', '漢' * 90]
    fig = P.show_strip(dict.fromkeys(names, x))
    shown = [t.get_text() for t in fig.axes[0].texts]
    assert len(fig.axes[0].images) == 60 and all(len(text) <= 43 for text in shown)
    assert 'a' + 'n' * 20 + '…' + 'n' * 20 + 'b' in shown
    assert P.animate({name: x[:2] for name in names}, scale=1).size == (72, 72)
    assert P.animate(x[:2], title='W' * 10**4).size[0] < 4000


def test_rows_that_look_alike_are_named():
    x = clip(2, 1, 4, 4)
    for names in ((0, '0'), ('a', 'a '), ('', '\n')):
        with pytest.raises(ValueError, match='^rows is .*names that differ'): P.show_strip(dict.fromkeys(names, x))


# Sizes

@pytest.mark.parametrize('past, blue, orange', [(100, 50, 25), (-9, 0, 75)])
def test_a_bar_of_more_frames_than_pixels(past, blue, orange):
    "Every frame is there, and the bar is as long as the time that has passed, in two colours."
    movie = Image.open(io.BytesIO(P.animate(clip(200, 1, 2, 100), past=past, scale=1).data))
    assert movie.n_frames == 200
    movie.seek(149)
    r, g, b = np.asarray(movie.convert('RGB')).astype(int)[-28, 12:-12].T
    found = ((b > r + 50).sum(), (r > b + 50).sum(), (abs(r - b) < 20).sum())
    np.testing.assert_allclose(found, (blue, orange, 25), atol=2)
    assert sum(found) == 100


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (3, 1, 1, 900), (2, 3, 5, 9), (3, 1, 150, 3)], ids=str)
def test_odd_shapes_can_be_drawn(shape):
    x = clip(*shape)
    fig = P.show_strip(x)
    assert len(fig.axes[0].images) == shape[0] and fig.png()
    assert Image.open(io.BytesIO(P.animate(x, scale=1).data)).n_frames == shape[0]


def test_rows_of_different_lengths():
    rows = {'a': clip(3, 1, 4, 4), 'b': P.Row(clip(9, 1, 4, 4), -4), 'c': P.Row(clip(1, 1, 4, 4), 12)}
    assert len(P.show_strip(rows).axes[0].images) == 13
    assert Image.open(io.BytesIO(P.animate(rows, scale=1).data)).n_frames == 17


@pytest.mark.parametrize('call, message', [
    (lambda x: P.show_strip(clip(2, 1, 5000, 1)), 'rows make a picture of 10 x 4250 inches; expected at most 200'),
    (lambda x: P.show_strip(dict.fromkeys(range(300), x)), 'rows make a picture of 10 x 267 inches'),
    (lambda x: P.show_strip(x, width=1), 'width is 1.0; expected at least 1.36 inches'),
    (lambda x: P.show_strip(x, width=10**6), 'width is 1000000; expected more than 0 and at most 100 inches'),
    (lambda x: P.show_strip({'a': x, 'b': P.Row(x, 10**5)}, every=1000), 'rows span 100001 frames'),
    (lambda x: P.animate({'a': x, 'b': P.Row(x, 10**4)}), 'rows span 10001 frames; expected at most 10000'),
    (lambda x: P.animate(clip(2, 1, 17000, 1), scale=1), 'scale is 1, and rows make 2 pictures of 25 x 17064 pixels'),
    (lambda x: P.strip(x, gap=10**9), 'gap is 1000000000; expected'),
    (lambda x: P.animate(x, fps=1e-30), 'fps is 1e-30; expected from 1/60'),
    (lambda x: P.save_strip('a.png', x, dpi=1), 'dpi is 1; expected from 10'),
    (lambda x: P.save_strip('a.webp', clip(2, 1, 300, 4), dpi=2000), 'dpi is 2000; expected at most'),
], ids=range(11))
def test_sizes_that_cannot_be_drawn_are_named(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error: call(clip(2, 1, 4, 4))
    assert str(error.value).startswith(message) and os.listdir(tmp_path) == []


# Other objects

class Unspeakable:
    def __repr__(self): raise RuntimeError('no words')
    def __len__(self): raise RuntimeError('no length')


OTHERS = [None, 'x', -1, 10**9, 1.5, float('nan'), True, 1j, b'x', [], {}, {'a': 1}, object, torch.nn.Linear(2, 2),
          [[1], [2, 3]], np.array([1, 'a'], object), np.zeros((2, 3, 1, 4, 4), complex), np.zeros((2, 3, 1, 4, 4), int),
          np.ma.masked_less(np.ones((2, 3, 1, 4, 4)), 2), torch.zeros(2, 3, 1, 4, 4).to_sparse(),
          torch.zeros(2, 3, 1, 4, 4, device='meta'), torch.zeros(2, 3, 1, 4, 4, dtype=torch.complex64),
          torch.full((2, 3, 1, 4, 4), float('inf')), torch.zeros(3, 4), torch.zeros(2, 0, 1, 4, 4),
          torch.full((2, 3, 1, 4, 4), 255.), torch.nested.nested_tensor([torch.zeros(2, 3)], layout=torch.jagged),
          SimpleNamespace(recalled=1, future='x'), Unspeakable(), iter([1]), '\ud800']
CALLS = dict(
    strip=(P.strip, dict(clip=None, i=0, gap=2, clamp=False)),
    show_strip=(P.show_strip, dict(rows=None, past=2, i=0, every=1, width=10., title='', clamp=False)),
    show_prediction=(P.show_prediction, dict(past=None, future=None, out=None, i=0, every=1, width=10., title='')),
    show_grid=(P.show_grid, dict(clips=None, n=2, names=['a', 'b'], past=2, every=1, width=10., title='', clamp=False)),
    animate=(P.animate, dict(rows=None, future=None, out=None, past=2, i=0, fps=6., scale=1, format='gif', title='')),
    rows=(lambda **row: P.animate({'a': P.Row(**row)}, past=2, scale=1), dict(clip=None, first=1, notes=('a', 'b'))))


@pytest.mark.parametrize('name', CALLS)
def test_other_objects_are_refused_by_name(name):
    f, good = CALLS[name]
    x = clip(2, 3, 1, 4, 4)
    good = {k: x if k in ('clip', 'rows', 'past', 'clips') and v is None else v for k, v in good.items()}
    f(**good)
    named = {'rows': ('clip', 'a '), 'clip': ('a ',), 'future': ('clip',)}
    for arg in good:
        for other in OTHERS:
            try: f(**good | {arg: other})
            except ValueError as e:
                said = str(e)
                fits = said.startswith((*named.get(arg, ()), 'out', 'input', 'truth', 'i ')) or arg in said
                assert fits, f'{name}({arg}={type(other).__name__}): {said}'
    assert plt.get_fignums() == []


def test_arrays_in_any_order_of_bytes_and_rows(prediction):
    past, future, _ = prediction
    wanted = P.animate(past, future, scale=1).data
    for change in (lambda x: x.astype('>f4'), lambda x: x.astype(np.float128 if hasattr(np, 'float128') else float),
                   lambda x: np.asfortranarray(x), lambda x: x[::-1].copy()[::-1], lambda x: x.tolist()):
        assert P.animate(change(past.numpy()), change(future.numpy()), scale=1).data == wanted
    both = P.timeline_rows((past * 255).round().byte(), (future * 255).round().byte().float() / 255)['clip'].clip
    torch.testing.assert_close(both, torch.cat([past, future], 1), rtol=0, atol=.51 / 255)


def test_pixels_are_a_copy():
    own = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    frames = P.as_frames(own)
    own += 7
    assert (frames == 0).all()


@pytest.mark.parametrize('library', ['matplotlib', 'PIL'])
def test_who_lacks_a_library_is_told_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    again = importlib.util.spec_from_file_location('lstm_video_repr.pictures_again', P.__file__)
    with pytest.raises(ImportError, match=rf"^pictures need {library}: pip install 'lstm-video-repr\[notebook\]'"):
        again.loader.exec_module(importlib.util.module_from_spec(again))


# Films and labels

def table(rows=20, classes=5, seed=0):
    "Rows of probabilities."
    p = np.random.default_rng(seed).random((rows, classes)) ** 4
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize('classes, top', [(1, 1), (3, 6), (8, 8), (9, 8), (101, 6), (1000, 2)])
def test_a_course_holds_all_probability(classes, top):
    "The classes that lead most often come first, one is never shown twice, and the rest is the rest."
    p, names = table(classes=classes), [f'class {k}' for k in range(classes)]
    course = P.resolve_course(p, np.arange(20), names, top=top)
    n = min(top, classes)
    assert course.rest == (classes > top) and len(course.names) == n + course.rest == course.values.shape[1]
    np.testing.assert_allclose(course.values.sum(1), 1)
    leads = np.bincount(p.argmax(1), minlength=classes)
    shown = [names.index(name) for name in course.names[:n]]
    assert leads[shown].tolist() == sorted(leads, reverse=True)[:n] and len(set(shown)) == n
    np.testing.assert_allclose(course.values[:, :n], p[:, shown])
    last = np.setdiff1d(range(classes), shown)
    if len(last): assert P.resolve_course(p, np.arange(20), names, top=top, truth=int(last[0])).truth == n - 1


@pytest.mark.parametrize('dtype', [np.float16, np.float64, torch.float32, torch.bfloat16, list])
def test_probabilities_of_any_kind(dtype):
    p = table()
    if dtype is list: p = p.tolist()
    else: p = torch.tensor(p).to(dtype) if isinstance(dtype, torch.dtype) else p.astype(dtype)
    course = P.resolve_course(p, torch.arange(20) / 10, tuple('abcde'), truth='c')
    np.testing.assert_allclose(course.values.sum(1), 1, atol=.02)
    assert course.names[course.truth] == 'c'


def test_a_timeline_has_its_lines_where_they_belong():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 8, 3), np.uint8)
    fig = P.show_timeline(table(), np.arange(20) * .1, list('abcde'), frames=frames, frame_times=np.arange(40) * .05)
    page, chart = fig.axes
    course = P.resolve_course(table(), np.arange(20) * .1, list('abcde'))
    for line, values in zip(reversed(chart.lines), course.values.T):
        np.testing.assert_allclose(line.get_xydata(), np.stack([course.times, values], 1))
    left, right = (chart.get_position().x0 * 10, chart.get_position().x1 * 10)
    for image in page.images: # the middle of a frame is at its time
        x, k = np.mean(image.get_extent()[:2]), np.asarray(image.get_array()).flat[0]
        assert (x - left) / (right - left) * 1.95 == pytest.approx(k * .05, abs=.03)
    assert chart.get_xlim() == (0, 39 * .05) and len(page.images) > 3
    assert [t.get_text() for t in chart.texts] == course.names


def test_names_of_lines_do_not_overlap():
    p = np.tile([[.9, .02, .02, .02, .02, .02]], (5, 1))
    chart = P.show_timeline(p, range(5), list('abcdef')).axes[1]
    y = sorted(t.xy[1] for t in chart.texts)
    assert min(np.diff(y)) > .07 and y[0] >= 0 and y[-1] <= 1.02


def test_a_confusion_in_colours_and_numbers():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 5, 5]])
    fig = P.show_confusion(counts, ['a', 'b', 'c'], title='Three')
    page, matrix = fig.axes
    rgb = np.asarray(matrix.images[0].get_array())
    blue, orange = rgb[..., 2] > rgb[..., 0] + .1, rgb[..., 0] > rgb[..., 2] + .1
    assert (blue == (counts * np.eye(3) > 0)).all() and (orange == (counts * (1 - np.eye(3)) > 0)).all()
    assert [t.get_text() for t in matrix.texts] == ['75 %', '3', '25 %', '1', '50 %', '5', '50 %', '5']
    assert any(t.get_text().startswith('57.1 % of 14 are right') for t in page.texts)
    big = np.diag(np.full(101, 9))
    big[3, 7], big[50, 2] = 5, 4
    fig = P.show_confusion(big, [f'class {k}' for k in range(101)])
    said = [t.get_text() for t in fig.axes[0].texts]
    assert said[1:5] == ['class 3', 'taken for class 7, 5 of 14', 'class 50', 'taken for class 2, 4 of 13']
    names = [t.get_text() for t in fig.axes[1].get_yticklabels()]
    assert not fig.axes[1].texts and names == [f'class {k}' for k in range(0, 101, 3)], 'as many as there is room for'


def test_a_label_curve_has_its_errors():
    curves = {'a': ([4, 1, 2], [.6, .3, .5], [.1, .1, .05]), 'b': ([1, 4], [.2, .4], [.1, .3], [.5, .6])}
    curves['c'] = [2], [.9]
    ax = P.show_label_curve(curves, chance=.1).axes[1]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [.3, .5, .6])
    np.testing.assert_allclose(ax.lines[0].get_xdata() / [1, 2, 4], ax.lines[0].get_xdata()[0])
    ends = [np.array(c.get_segments())[..., 1] for c in ax.collections]
    np.testing.assert_allclose(ends[0], [[.2, .4], [.45, .55], [.5, .7]])
    np.testing.assert_allclose(ends[1], [[.1, .5], [.3, .6]])
    assert ax.get_xscale() == 'log' and [t.get_text() for t in ax.get_xticklabels()] == ['1', '2', '4']
    assert [t.get_text() for t in ax.texts] == ['chance', 'a', 'b', 'c']


def test_colours_of_flow():
    "Hue follows direction all around, saturation length; what is longer than the longest stays."
    turn = np.linspace(-np.pi, np.pi, 400)
    ring = P.flow_colours(np.stack([np.cos(turn), np.sin(turn)], -1)[None], longest=1)[0].astype(int)
    assert (ring.max(1) == 255).all() and (ring.min(1) == 0).all(), 'all hues are pure'
    assert np.abs(np.diff(ring, axis=0)).max() < 20 and np.abs(ring[0] - ring[-1]).max() < 5, 'and follow each other'
    one = np.array([[[.5, 0], [1, 0], [9, 0], [0, 0]]])
    assert P.flow_colours(one, longest=1)[0].tolist() == [[255, 128, 128], [255, 0, 0], [255, 0, 0], [255, 255, 255]]
    assert (P.flow_colours(torch.zeros(2, 3, 4, 2)) == 255).all()
    assert len(P.show_flow(np.ones((6, 8, 8, 2)), np.zeros((7, 8, 8, 1), np.uint8), every=2).axes[0].images) == 7


@pytest.mark.parametrize('style', ['odd', 'xkcd'])
def test_charts_look_alike_under_all_settings(style):
    def draw():
        frames = np.zeros((3, 4, 4, 1), np.uint8)
        yield P.show_timeline(table(), range(20), ['$a_{b$', *'bcde'], frames=frames, title='-1')
        yield P.show_confusion(np.diag([1, 2, 3]), ['$a_{b$', 'b', 'c'])
        yield P.show_label_curve({'$a_{b$': ([1, 10], [.1, .2], [.1, .1])}, chance=.1)
        yield P.show_flow(np.ones((2, 8, 8, 2)))
    plain = [decode(fig.png()) for fig in draw()]
    with STYLES[style]():
        for fig, wanted in zip(draw(), plain, strict=True): np.testing.assert_array_equal(decode(fig.png()), wanted)
    assert plt.get_fignums() == []


def words_of(fig): return [t.get_text() for t in fig.axes[0].texts if t.get_text()]


def dashes_of(fig):
    "How many arrows of a diagram are dashed."
    return sum(t.arrow_patch.get_linestyle() != '-' for t in fig.axes[0].texts if getattr(t, 'arrow_patch', None))


def test_a_diagram_says_what_the_model_does():
    both = P.show_composite(VideoLSTMConfig(conditional_future=True), frames=3, title='Mine')
    numbers = [w for w in words_of(both) if w.isdigit()]
    assert numbers == ['1', '2', '3', '3', '2', '1', '4', '5', '6'], 'the reconstruction is in reversed time'
    assert {'encoder', 'reconstruction\ndecoder', 'future\ndecoder', 'Mine'} <= set(words_of(both))
    assert dashes_of(both) == 2, 'from a frame into the next step, none into the first'
    assert 'teacher forcing' in words_of(both)[-2]
    alone = P.show_composite(VideoLSTMConfig(predict=False), frames=2)
    assert [w for w in words_of(alone) if w.isdigit()] == ['1', '2', '2', '1'] and dashes_of(alone) == 0
    assert 'future\ndecoder' not in words_of(alone) and not any('teacher' in w for w in words_of(alone))


def test_models_side_by_side():
    models = {'a': VideoLSTMConfig(predict=False), 'b': VideoLSTMConfig(conditional_reconstruction=True),
              'c': VideoLSTMConfig(reconstruct=False, conditional_future=True), 'd': VideoLSTMConfig()}
    fig = P.show_models(models)
    assert dashes_of(fig) == 2 and [w for w in words_of(fig) if w in models] == list(models)
    assert any('teacher' in w for w in words_of(fig))
    assert not any('teacher' in w for w in words_of(P.show_models({'a': VideoLSTMConfig()}))), 'nothing is dashed there'
    for wrong in ({}, {'a': 3}, [VideoLSTMConfig()], None):
        with pytest.raises(ValueError, match='^models'): P.show_models(wrong)
    with pytest.raises(ValueError, match='config is 3; expected a VideoLSTMConfig'): P.show_composite(3)


def test_an_unrolled_network_has_a_copy_for_each_step():
    assert [words_of(P.show_unrolled(n)).count('LSTM') for n in (2, 5)] == [3, 6]
    assert [dashes_of(P.show_unrolled(4, backward=way)) for way in (True, False)] == [3, 0]
    with pytest.raises(ValueError, match='steps is 1; expected'): P.show_unrolled(1)
    with pytest.raises(ValueError, match='backward is 2; expected True or False'): P.show_unrolled(3, backward=2)


def test_an_open_cell():
    with_, without = P.show_cell(), P.show_cell(peephole=False)
    assert dashes_of(with_) == 3 and dashes_of(without) == 0 and words_of(with_) == words_of(without)
    assert {*'figo', '×', '+', 'tanh'} <= set(words_of(with_))
    with pytest.raises(ValueError, match='peephole is None; expected True or False'): P.show_cell(None)


def test_signals_over_time():
    gate, cell = [0., 1., .5], torch.tensor([0., 2., -3.])
    fig = P.show_signals({'presses': {'store': [0, 1, 0], 'erase': [1, 0, 1]}, 'forget gate': gate, 'c': cell})
    buttons, band, line = fig.axes
    assert [m.get_xdata().tolist() for m in buttons.lines] == [[1], [0, 2]]
    assert [t.get_text() for t in buttons.get_yticklabels()] == ['store', 'erase']
    assert len(band.collections) == 1 and band.get_ylim() == (0, 1.1)
    np.testing.assert_allclose(line.lines[-1].get_ydata(), cell)
    assert line.get_ylim()[0] <= -3 and line.get_ylim()[1] >= 2
    for wrong in (None, {}, {'a': 3}, {'a': [1]}, {'a': ['x', 'y']}):
        with pytest.raises(ValueError): P.show_signals(wrong)


def test_a_ranking_in_groups():
    fig = P.show_ranking({'a': {'x': 3., 'y (ours)': 1.5}, 'none': {}, 'b': {'z': 2}}, floor=1., highlight='ours')
    said = [t.get_text() for t in fig.axes[0].texts]
    assert said == ['a', '3.0', 'x', '1.5', 'y (ours)', 'b', '2.0', 'z'], 'smallest of a group last, empty groups left out'
    colors = [line.get_color() for line in fig.axes[0].lines if line.get_marker() == 'o']
    assert [c == P.FUTURE_COLOR for c in colors] == [False, True, False]
    for wrong in (None, {}, {'a': {}}, {'a': {'x': np.nan}}, {'a': {'x': 'y'}}, {'a': None, 'b': {'x': 1}}, {'a': 'xy'}, {'x': 1.},
                  {'a': {'x  y': 1, 'x y': 2}}, {'a  b': {'x': 1}, 'a b': {'x': 2}}, {'a': {'x': 1e300}}):
        with pytest.raises(ValueError, match='^groups'): P.show_ranking(wrong)
    for floor in ('a', np.nan, np.inf, True, np.array([1, 2])):
        with pytest.raises(ValueError, match='^floor is'): P.show_ranking({'a': {'x': 1}}, floor=floor)
    with pytest.raises(ValueError, match='^x is'): P.show_ranking({'a': {'x': 1}}, x=3)


def inside(fig, text):
    "Where a text lies in a figure, in shares of it."
    return text.get_window_extent(fig.canvas.get_renderer()).transformed(fig.transFigure.inverted())


@pytest.mark.parametrize('width', [4., 7.5])
@pytest.mark.parametrize('numbers', [{'x': -123.4, 'n' * 20: 5.}, {'x': -.03, 'y': .04, 'z': 0.}, {'x': -1e12}, {'x': (-1., 30.), 'y': 4}])
def test_numbers_of_a_ranking_are_beside_their_names(width, numbers):
    fig = P.show_ranking({'a': numbers}, floor=-2., width=width)
    texts = {t.get_text(): inside(fig, t) for t in fig.axes[0].texts}
    names = [texts[name].x1 for name in numbers]
    assert all(box.x0 > max(names) - .003 for text, box in texts.items() if text not in numbers and text != 'a')
    low, high = fig.axes[0].get_xlim()
    assert low <= -2 <= high, 'the floor is on the axis'


def test_a_ranking_of_differences_with_errors():
    fig = P.show_ranking({'a': {'worse': 5.2, 'better': (-4.1, .9)}})
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.texts] == ['a', '+5.2', 'worse', '−4.1', 'better']
    bars = [line.get_xdata() for line in ax.lines if line.get_marker() == '|']
    assert len(bars) == 1 and np.allclose(bars[0], [-5, -3.2]), 'no bar where no error is given'
    assert ax.get_xlim()[0] < -5 and ax.get_xlim()[1] > 5.2
    assert [t.get_ha() for t in ax.texts if t.get_text() in ('+5.2', '−4.1')] == ['left', 'right']
    for wrong in ((1, -1), (1, np.inf), (1, 2, 3), (1, 'x'), [1]):
        with pytest.raises(ValueError, match=r"^groups\['x'\] is"): P.show_ranking({'a': {'x': wrong}})


def test_no_letter_is_too_small_for_a_page(letters_on_a_page):
    "All figures, drawn as they are if nobody says how large; eight points are what can be read."
    x, frames, p = clip(2, 10, 1, 16, 16), np.zeros((40, 6, 8, 3), np.uint8), table()
    numbers = {'one': {f'model {k}': k + 1. for k in range(5)}}
    figures = dict(
        strip=P.show_strip({'a': x, 'b': P.Row(x, 11)}, past=10, title='a title'), short=P.show_strip(x[:, :3]),
        prediction=P.show_prediction(x, x, output(x, x)), grid=P.show_grid(x),
        timeline=P.show_timeline(p, range(20), list('abcde'), frames=frames, title='a title'),
        confusion=P.show_confusion(np.eye(12, dtype=int), list('abcdefghijkl'), title='a title'),
        classes=P.show_confusion(np.ones((101, 101), int), [f'class {k}' for k in range(101)], title='a title'),
        labels=P.show_label_curve({'a': ([1, 10], [.1, .2], [.1, .1])}, chance=.1), flow=P.show_flow(np.ones((9, 8, 8, 2))),
        ranking=P.show_ranking(numbers, x='nats'), composite=P.show_composite(VideoLSTMConfig(conditional_future=True)),
        models=P.show_models(dict.fromkeys('abc', VideoLSTMConfig(conditional_future=True))), unrolled=P.show_unrolled(),
        cell=P.show_cell(), signals=P.show_signals({'input gate': [0., 1.], 'cell': [0., 1.]}))
    assert {name: size for name, fig in figures.items() if (size := letters_on_a_page(fig)) < 7.99} == {}


@pytest.mark.parametrize('width', [5, 7.5, 10, 20])
def test_letters_grow_with_a_figure_that_is_wider_than_a_page(width, letters_on_a_page):
    fig = P.show_strip(clip(20, 1, 16, 16), width=width)
    assert fig.get_figwidth() <= width + 1e-6 and letters_on_a_page(fig) >= 7.99

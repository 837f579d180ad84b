"""Films: every frame by number and time as it comes when one goes through; what is not whole says so.
Then folders of them: what is in the cache, what is not and why, and what happens when a run ends too early."""
import copy
import errno
import gc
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import threading
import time
import tracemalloc
import warnings
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

av = pytest.importorskip('av', reason='needs PyAV: the extra [video]')

from lstm_video_repr import videos
from lstm_video_repr.clips import FixedClips
from lstm_video_repr.core.files import lock_file
from lstm_video_repr.metrics import score_clips
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import train
from lstm_video_repr.videos import Patches, Video, VideoFolder, find_break, make_film, motion_map, save_video

ENDINGS = '.mp4', '.avi', '.webm', '.gif', '.mkv'
FILM = make_film(40, size=(48, 64))


def encode(path, frames=FILM, codec='libx264', *, form='yuv420p', stamps=None, turn=0, options=None, **muxer):
    "A film as PyAV writes it: any codec, time stamps in ticks of 1/25 s, a note to turn it."
    with av.open(str(path), 'w', options=muxer) as box:
        stream = box.add_stream(codec, rate=25, options={'threads': '1', **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], form
        if turn: stream.set_display_rotation(turn)
        if not len(frames): box.start_encoding()
        for k, x in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(x))
            if stamps is not None: frame.pts, frame.time_base = stamps[k], Fraction(1, 25)
            box.mux(stream.encode(frame))
        box.mux(stream.encode(None))
    return path


def play_all(path, **options): return np.stack(list(Video(path, **options)))


def believe(path):
    "What a reader gets that believes everything."
    with av.open(str(path)) as box: return np.stack([f.to_ndarray(format='rgb24') for f in box.decode(video=0)])


def play_till_error(path):
    "The frames that come before the error, and the error; None if there is none."
    frames = []
    try:
        for frame in Video(path): frames.append(frame)
    except OSError as e: return frames, e
    return frames, None


@pytest.fixture(scope='module')
def films(tmp_path_factory):
    "The same film in five containers."
    folder = tmp_path_factory.mktemp('films')
    return {ending: save_video(folder/f'film{ending}', FILM) for ending in ENDINGS}


# ---- whole films

@pytest.mark.parametrize('ending', ENDINGS)
def test_every_container(films, ending):
    video = Video(films[ending])
    assert (video.size, video.fps, video.rotation) == ((48, 64), 25, 0)
    assert video.promised == (40 if ending in ('.mp4', '.avi') else None)
    frames = np.stack(list(video))
    assert frames.shape == (40, 48, 64, 3) and frames.dtype == np.uint8
    assert (len(video), video.n_frames) == (40, 40) and video.check() is video
    np.testing.assert_allclose(video.times, np.arange(40) / 25, atol=2e-3) # an mkv counts milliseconds
    assert video.duration == pytest.approx(1.6, abs=2e-3)
    error = np.sqrt(((frames.astype(float) - FILM)**2).mean())
    assert error == 0 if ending == '.mkv' else error < (40 if ending == '.gif' else 15)


HARD = { # films in which it is hard to find a frame
    'far.mp4': dict(options={'g': '1000', 'bf': '3'}),
    'open.mkv': dict(options={'x264-params': 'open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3:b-adapt=0'}),
    'refresh.mp4': dict(options={'x264-params': 'intra-refresh=1:keyint=10:bframes=0'}),
    'jumbled.avi': dict(options={'g': '10', 'bf': '3'}),
    'b.avi': dict(codec='mpeg4', options={'g': '8', 'bf': '2'}),
    'program.mpg': dict(codec='mpeg2video', options={'g': '8', 'bf': '2'}), # asked to jump, it lands behind the place
    'negative.mkv': dict(stamps=[k - 20 for k in range(40)]),
    'pauses.mp4': dict(stamps=[k + k // 10 * 7 for k in range(40)]),
    'nothing.h264': {}} # no time stamps at all


@pytest.mark.parametrize('name', HARD)
def test_a_number_always_means_the_same_frame(tmp_path, name):
    path = encode(tmp_path/name, **HARD[name])
    frames, video = believe(path), Video(path)
    assert len(frames) == 40
    np.testing.assert_array_equal(video[33], frames[33])                # before anything is known about it
    assert len(video) == 40 and (np.diff(video.times) > 0).all() and video.times[0] == 0
    for k in range(40):
        np.testing.assert_array_equal(video[k], frames[k])
        np.testing.assert_array_equal(video.at(video.times[k]), frames[k])
    np.testing.assert_array_equal(video.read(17, 9), frames[17:26])


def test_jumps_are_taken(tmp_path, monkeypatch):
    "Near a late key frame it is not decoded from the start."
    video = Video(encode(tmp_path/'a.mp4', options={'g': '10', 'bf': '0'}))
    last, decoded = list(video)[-1], []
    assert len(video) == 40
    seek = av.container.InputContainer.seek
    class Watched:
        def __init__(self, box): self.box = box
        def __getattr__(self, name): return getattr(self.box, name)
        def __enter__(self): return self
        def __exit__(self, *error): self.box.close()
        def seek(self, *args, **options):
            decoded.append('seek')
            return seek(self.box, *args, **options)
        def decode(self, stream):
            for frame in self.box.decode(stream):
                decoded.append(frame.pts)
                yield frame
    opened = av.open
    monkeypatch.setattr(av, 'open', lambda *args, **options: Watched(opened(*args, **options)))
    np.testing.assert_array_equal(video[39], last)
    assert decoded[0] == 'seek' and len(decoded) <= 11


def test_a_jump_that_goes_wrong_is_noticed(tmp_path, monkeypatch):
    "Wherever a jump ends, the frame is the right one."
    video = Video(encode(tmp_path/'a.mp4', options={'g': '10', 'bf': '2'}))
    frames = np.stack(list(video))
    opened = av.open
    for wrong in (0, 10**6, 11 * 512, 31 * 512):
        class Astray:
            def __init__(self, box): self.box = box
            def __getattr__(self, name): return getattr(self.box, name)
            def __enter__(self): return self
            def __exit__(self, *error): self.box.close()
            def seek(self, place, **options): return self.box.seek(wrong, **options)
        with monkeypatch.context() as patch:
            patch.setattr(av, 'open', lambda *args, **options: Astray(opened(*args, **options)))
            for k in (12, 25, 39): np.testing.assert_array_equal(video[k], frames[k])


def test_sequence(films):
    video = Video(films['.mkv'])
    for k in (0, 39, -1, -40, np.int64(7)): np.testing.assert_array_equal(video[k], FILM[k])
    for part in (slice(3, 9), slice(None), slice(-4, None), slice(30, 2, -7), slice(None, None, 13), slice(20, 90)):
        np.testing.assert_array_equal(video[part], FILM[part])
    assert video[9:3].shape == (0, 48, 64, 3)
    for k in (40, -41, 10**30):
        with pytest.raises((IndexError, ValueError), match='k is '): video[k]
    for k in ('1', 1.5, None, True):
        with pytest.raises(ValueError, match='k is '): video[k]
    with pytest.raises(ValueError, match='first is 40; expected a whole number from 0 to 39'): video.read(40)
    with pytest.raises(ValueError, match='frames is 31; expected a whole number from 1 to 30'): video.read(10, 31)
    for seconds in (-.1, 1.6, float('nan'), '1'):
        with pytest.raises(ValueError, match='seconds is'): video.at(seconds)


@pytest.mark.parametrize('stamps, times', [([0, 1, 3, 10], [0, .04, .12, .4]), ([5, 6, 8, 9], [0, .04, .12, .16])])
def test_uneven_times(tmp_path, stamps, times):
    video = Video(encode(tmp_path/'a.mkv', FILM[:4], stamps=stamps))
    np.testing.assert_allclose(video.times, times, atol=1e-3)
    for k, t in enumerate(times): np.testing.assert_array_equal(video.at(t + .02), video[k])


def test_hidden_frames_are_not_missing(tmp_path):
    "An mp4 whose edit list hides the first 15 frames claims them, and is whole."
    video = Video(encode(tmp_path/'a.mp4', stamps=[k - 15 for k in range(40)]))
    assert (video.promised, len(video.check())) == (40, 25)


def test_pauses_are_not_missing(tmp_path):
    "An avi counts pauses as frames. Its index tells; without it, the time stamps do."
    path = encode(tmp_path/'a.avi', codec='mpeg4', stamps=[k + k // 10 * 7 for k in range(40)])
    video = Video(path)
    assert (video.promised, len(video.check())) == (61, 40)
    raw = path.read_bytes()
    path.write_bytes(raw[:-len(raw) + raw.rindex(b'idx1')] + b'JUNK' + raw[raw.rindex(b'idx1') + 4:])
    assert len(Video(path).check()) == 40


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('size', [(31, 45), (16, 426), (8, 9)])
def test_odd_sizes(tmp_path, ending, size):
    film = make_film(2, size=size)
    for frame in Video(save_video(tmp_path/f'a{ending}', film)):
        assert frame.shape == (*size, 3) and frame.flags.c_contiguous and frame.flags.owndata and frame.flags.writeable


def test_grey_and_small(films):
    weights = np.array([.299, .587, .114])
    grey = play_all(films['.mkv'], grey=True)
    assert grey.shape == (40, 48, 64, 1) and abs(grey[..., 0] - FILM @ weights).max() < 2
    small = Video(films['.mkv'], side=12)
    assert small.size == (12, 16)
    means = FILM.reshape(40, 12, 4, 16, 4, 3).mean((2, 4))
    assert abs(play_all(films['.mkv'], side=12) - means).max() < 2      # areas, not single pixels
    assert Video(films['.mkv'], side=1000).size == (48, 64)             # never enlarged
    assert Video(films['.mkv'], side=1, grey=True)[0].shape == (1, 1, 1)


@pytest.mark.parametrize('turn', [90, 180, 270])
def test_turned(tmp_path, turn):
    video = Video(encode(tmp_path/'a.mp4', FILM[:3], form='yuv444p', turn=turn, options={'crf': '1'}))
    wanted = np.rot90(FILM[:3], turn // 90, (1, 2))
    assert video.rotation == turn and video.size == wanted.shape[1:3]
    assert abs(video.read().astype(float) - wanted).mean() < 4
    assert Video(video.path, side=24).size == ((32, 24) if turn % 180 else (24, 32))


@pytest.mark.parametrize('ending', ENDINGS)
def test_one_frame(tmp_path, ending):
    video = Video(save_video(tmp_path/f'a{ending}', FILM[:1])).check()
    assert (len(video), video.times.tolist(), video.read().shape) == (1, [0], (1, 48, 64, 3))
    np.testing.assert_array_equal(video.at(0), video[-1])


# ---- what is not whole

@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('share', [.5, .75, .9])
def test_cut_short(films, tmp_path, ending, share):
    raw, whole = films[ending].read_bytes(), play_all(films[ending])
    path = tmp_path/f'a{ending}'
    path.write_bytes(raw[:int(share * len(raw))])
    frames, error = play_till_error(path)
    assert type(error) is OSError and 'cut short' in str(error) and str(path) in str(error)
    assert len(frames) < 40 and all((a == b).all() for a, b in zip(frames, whole))
    if ending == '.mp4': return                                         # its table of contents stands at the end
    video, n = Video(path), len(frames)
    assert len(video) == n == len(video.times)
    with pytest.raises(OSError, match='cut short'): video.check()
    for k in (slice(None), slice(0, 40), -1):
        with pytest.raises(OSError, match='cut short'): video[k]
    with pytest.raises(OSError, match='cut short'): video.read()
    with pytest.raises(OSError, match='cut short'): video.read(0, 40)
    np.testing.assert_array_equal(video.read(0, n), whole[:n])          # what is there may be had
    assert f'{n}' in str(video.info()) and 'cut short' in str(video.info())


def test_a_lost_end_without_frames_is_no_loss(films, tmp_path):
    "Of an avi only the index is missing: all that is claimed is there."
    raw = films['.avi'].read_bytes()
    (path := tmp_path/'a.avi').write_bytes(raw[:raw.rindex(b'idx1')])
    assert len(Video(path).check()) == 40


@pytest.mark.parametrize('codec, name', [('mpeg4', 'a.avi'), ('libx264', 'a.mp4'), ('libx264', 'a.mkv')])
@pytest.mark.parametrize('fill', [bytes(1500), np.random.default_rng(0).bytes(1500)], ids=['zeros', 'random'])
def test_damaged_inside(tmp_path, codec, name, fill):
    path = encode(tmp_path/name, codec=codec, options={'g': '20', 'b': '2000000'})
    whole, raw = play_all(path), path.read_bytes()
    half = len(raw) // 2
    path.write_bytes(raw[:half] + fill + raw[half + 1500:])
    frames, error = play_till_error(path)
    assert 'damaged' in str(error) and 5 < len(frames) < 30
    assert sum((a != b).any() for a, b in zip(frames, whole)) <= 1      # the very first may be past noticing


def test_lost_packets(films, tmp_path):
    "Packets that nobody finds any more: the film jumps, and a decoder sees nothing wrong."
    raw = films['.avi'].read_bytes()
    places = [k for k in range(raw.index(b'movi'), raw.rindex(b'idx1')) if raw[k:k + 4] == b'00dc']
    (path := tmp_path/'a.avi').write_bytes(raw[:places[20]] + bytes(places[23] - places[20]) + raw[places[23]:])
    frames, error = play_till_error(path)
    assert len(frames) <= 20 and 'damaged' in str(error)
    np.testing.assert_array_equal(frames, play_all(films['.avi'])[:len(frames)])


@pytest.mark.parametrize('ending', ['.avi', '.mkv', '.webm', '.gif', '.mp4'])
def test_any_damage_is_an_oserror_or_nothing(films, tmp_path, ending):
    "Whatever is overwritten: frames of the right size, or an error of ours."
    raw, rng = films[ending].read_bytes(), np.random.default_rng(1)
    path = tmp_path/f'a{ending}'
    for _ in range(12):
        start, n = rng.integers(0, len(raw)), int(rng.choice([1, 30, 1000]))
        path.write_bytes((raw[:start] + rng.bytes(n) + raw[start + n:])[:len(raw)])
        frames, _ = play_till_error(path)
        assert len({frame.shape for frame in frames}) <= 1


# ---- what is no film

def sound(path, cover=None):
    with av.open(str(path), 'w') as box:
        stream = box.add_stream('aac' if path.suffix == '.mp4' else 'pcm_s16le', rate=8000)
        wave = (1000 * np.sin(np.arange(4096)))[None]
        wave = wave.astype(np.float32) if path.suffix == '.mp4' else wave.astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave, 'fltp' if path.suffix == '.mp4' else 's16', 'mono')
        frame.rate = 8000
        box.mux(stream.encode(frame))
        box.mux(stream.encode(None))
    return path


def test_no_film(tmp_path):
    def put(name, content):
        (tmp_path/name).write_bytes(content)
        return tmp_path/name
    picture = b'\x89PNG\r\n\x1a\n' + bytes(200)
    strangers = {
        'there is none': tmp_path/'missing.mp4', 'a folder': tmp_path, 'empty': put('empty.avi', b''),
        'no video of a known kind': put('words.mp4', b'words\n' * 300), 'of a known kind': put('picture.mp4', picture),
        'sound alone': sound(tmp_path/'song.mp4'), 'alone': sound(tmp_path/'song.avi'),
        'without a frame': encode(tmp_path/'none.avi', FILM[:0], 'mpeg4')}
    for words, path in strangers.items():
        with pytest.raises(OSError, match=words) as e: Video(path)
        assert str(path) in str(e.value) and type(e.value).__module__ == 'builtins'
    for ending in ('.mp4', '.mkv', '.webm'):
        path = encode(tmp_path/f'none{ending}', FILM[:0], 'libvpx' if ending == '.webm' else 'libx264')
        with pytest.raises(OSError, match=f'none{ending}'): Video(path)
    for name in (None, 3, '', b'a.mp4', 'a\0b'):
        with pytest.raises(ValueError, match='path is'): Video(name)
    for options in (dict(side=0), dict(side=1.5), dict(grey=1)):
        with pytest.raises(ValueError, match=next(iter(options))): Video(tmp_path/'song.mp4', **options)


def test_no_other_file_is_opened(films, tmp_path):
    "Lists of films, and addresses in the name."
    lists = {'a.ffconcat': f"ffconcat version 1.0\nfile '{films['.mp4']}'\n",
             'a.m3u8': f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{films['.mp4']}\n#EXT-X-ENDLIST\n"}
    for name, text in lists.items():
        (tmp_path/name).write_text(text)
        with pytest.raises(OSError, match='no video'): Video(tmp_path/name)
    os.symlink(films['.mp4'], tmp_path/'concat:a|b.mp4')
    assert len(Video(tmp_path/'concat:a|b.mp4')) == 40
    for address in ('http://localhost/a.mp4', f'concat:{films[".mp4"]}', 'pipe:0'):
        with pytest.raises(OSError, match='there is none'): Video(address)


def test_names_of_all_kinds(films, tmp_path):
    for name in ('ü ö.mp4', 'two\nlines.mp4', '%d.mp4', "it's.mp4", '<b>.mp4', os.fsdecode(b'\xff.mp4')):
        try: os.symlink(films['.mp4'], tmp_path/name)
        except (OSError, UnicodeError): continue
        video = Video(tmp_path/name)
        assert len(video) == 40 and '\n' not in str(video.info()).splitlines()[0]
        assert '<b>' not in video._repr_html_()


def gif(height, width, tail=b';'):
    "A gif of one frame whose header declares any size."
    frame = struct.pack('<HHHH', 0, 0, width, height)
    return (b'GIF89a' + struct.pack('<HH', width, height) + b'\x80\0\0' + b'\0\0\0\xff\xff\xff'
            + b',' + frame + b'\0\2\2\x4c\1\0' + tail)


def test_a_header_cannot_eat_the_memory(films, tmp_path):
    (path := tmp_path/'a.gif').write_bytes(gif(60000, 60000))
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match='a.gif'): Video(path)
        raw = films['.avi'].read_bytes()
        count = raw.index(b'strh') + 8 + 32
        assert raw[count:count + 4] == struct.pack('<I', 40)
        (path := tmp_path/'a.avi').write_bytes(raw[:count] + struct.pack('<I', 2**31 - 1) + raw[count + 4:])
        video = Video(path)
        with pytest.raises(ValueError, match='expected a whole number from 1 to 40'): video.read(0, 2**31 - 1)
        assert (video.promised, len(video)) == (2**31 - 1, 40)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally: tracemalloc.stop()


def test_find_break(tmp_path):
    def find(content):
        (tmp_path/'a').write_bytes(content)
        return find_break(tmp_path/'a')
    part = struct.pack('>I', 16) + b'free' + bytes(8)
    assert find(part * 3) == (48, 0)
    assert find(part * 2 + part[:10]) == (42, 6)
    assert find(part + struct.pack('>I4sQ', 1, b'mdat', 100)) == (32, 84)       # a long part
    assert find(part + struct.pack('>I4s', 0, b'mdat') + bytes(50)) == (74, 0)  # to the end
    assert find(gif(2, 2)) == (len(gif(2, 2)), 0)
    assert find(gif(2, 2, b'!'))[1] == 1 and find(gif(2, 2, b'what')) == (len(gif(2, 2)) - 1, 0)
    head, segment, cluster = b'\x1a\x45\xdf\xa3\x80', b'\x18\x53\x80\x67', b'\x1f\x43\xb6\x75'
    void = b'\xec\x83abc'
    assert find(head + segment + b'\x8a' + void * 2) == (20, 0)
    assert find(head + segment + b'\x8a' + void + void[:3]) == (15, 2)
    assert find(head + segment + b'\x01' + b'\xff' * 7 + cluster + b'\xff' + void) == (27, 0) # lengths unknown: a broadcast
    assert find(head + segment + b'\x8a' + void + b'wrong') == (15, 0)
    assert find(b'words, words, words') is None and find(b'') is None


# ---- the object

def test_copies(films):
    video = Video(films['.mp4'], side=24, grey=True)
    for other in (pickle.loads(pickle.dumps(video)), copy.deepcopy(video)):
        np.testing.assert_array_equal(other[5], video[5])
        assert (other.path, other.size, other.grey) == (video.path, video.size, True)
    len(video)
    assert len(pickle.loads(pickle.dumps(video))) == 40 and len(pickle.dumps(video)) < 5000


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs /proc to see which files are open')
def test_no_file_stays_open(films):
    def opened(): return [n for n in os.listdir('/proc/self/fd')
                          if os.path.realpath(f'/proc/self/fd/{n}') == os.path.realpath(films['.mp4'])]
    video = Video(films['.mp4'])
    len(video), video[3], video[30], video.read(2, 3), video.at(1)
    assert not opened()
    frames = iter(video)
    next(frames)
    assert opened()
    frames.close()
    assert not opened()


def test_a_changed_file_is_noticed(tmp_path):
    video = Video(save_video(tmp_path/'a.avi', FILM[:5]))
    assert len(video) == 5
    save_video(tmp_path/'a.avi', FILM[:9])
    for use in (lambda: video[2], lambda: list(video), lambda: video.read(0, 2)):
        with pytest.raises(OSError, match='changed since'): use()
    (tmp_path/'a.avi').unlink()
    with pytest.raises(FileNotFoundError, match='there is none'): video[0]


def test_memory_is_constant(tmp_path):
    video = Video(save_video(tmp_path/'a.mp4', np.repeat(FILM, 8, 0)))
    next(iter(video))
    tracemalloc.start()
    try:
        n = sum(1 for _ in video)
        assert n == 320 and tracemalloc.get_traced_memory()[1] < 12 * FILM[0].nbytes
    finally: tracemalloc.stop()


def test_info(films):
    video = Video(films['.avi'])
    assert 'counted' not in video._repr_html_() and 'promised' in video._repr_html_()
    text = str(video.info())
    assert all(words in text for words in ('film.avi', 'mpeg4', '64 x 48', 'whole')) and 'counted' in video._repr_html_()
    assert repr(video) == "Video('film.avi': 64x48, 25 frames/s)"


def test_without_the_library(films, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r"pip install 'lstm-video-repr\[video\]'"): Video(films['.avi'])


# ---- films of our own

def test_save_video_refuses(tmp_path):
    for frames in (FILM[0], FILM / 255., FILM[:0], FILM[..., :2], list(FILM), None):
        with pytest.raises(ValueError, match='frames is'): save_video(tmp_path/'a.mp4', frames)
    for fps in (0, -1, 1e9, float('nan'), '25'):
        with pytest.raises(ValueError, match='fps is'): save_video(tmp_path/'a.mp4', FILM, fps=fps)
    with pytest.raises(ValueError, match='ends in'): save_video(tmp_path/'a.png', FILM)
    with pytest.raises(OSError, match='existing folder'): save_video(tmp_path/'no'/'a.mp4', FILM)
    assert os.listdir(tmp_path) == []


def test_save_video_all_or_nothing(tmp_path, monkeypatch):
    path = save_video(tmp_path/'a.avi', FILM[:5], fps=12.5)
    assert Video(path).fps == 12.5
    was = path.read_bytes()
    def stop(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', stop)
    with pytest.raises(OSError, match='No space left'): save_video(path, FILM)
    assert path.read_bytes() == was and os.listdir(tmp_path) == ['a.avi']


def test_save_grey(tmp_path):
    grey = FILM[..., :1]
    np.testing.assert_array_equal(Video(save_video(tmp_path/'a.mkv', grey), grey=True).read(), grey)


def test_make_film():
    np.testing.assert_array_equal(make_film(40, size=(48, 64)), FILM)
    np.testing.assert_array_equal(make_film(3, size=(48, 64), seed=0)[0], FILM[0])      # its length changes nothing
    film, other = make_film(90, size=(96, 128)), make_film(1, size=(96, 128), seed=1)
    assert make_film(1).shape == (1, 120, 160, 3) and (film[0] != other[0]).mean() > .8
    change = abs(np.diff(film.astype(float), axis=0)).mean((1, 2, 3))
    assert change.max() > 2 * change.min() > 0                                          # quick stretches, calm ones
    still = abs(np.diff(film[:, ::24, ::24].astype(float), axis=0)).max(-1) < 1
    assert .01 < still.mean() < .9                                                      # something rests, something moves
    edges = abs(np.diff(film[0].astype(float), axis=1)).max(-1)
    assert (edges > 40).mean() > .01 and (edges < 10).mean() > .5                       # borders, and soft shades
    for options in (dict(size=4), dict(size=(7, 100)), dict(seed=-1), dict(things=-1)):
        with pytest.raises(ValueError, match=next(iter(options))): make_film(3, **options)


# ---- real ones

@pytest.fixture(scope='module')
def real(data_folder):
    found = sorted((data_folder/'videos').rglob('*.avi')) if (data_folder/'videos').is_dir() else []
    if not found: pytest.skip('needs real films: LVR_DATA has no folder videos with avi files')
    return found


def test_real_films_keep_their_promises(real):
    for path in real[::6]:
        video = Video(path).check()
        assert video.promised == video.n_frames > 30 and (np.diff(video.times) > 0).all()


def test_real_films_by_number(real):
    for path in real[::40]:
        video = Video(path, side=60)
        frames = np.stack(list(video))
        for k in (7, len(video) // 2, len(video) - 1): np.testing.assert_array_equal(video[k], frames[k])


def test_half_a_real_film(real, tmp_path):
    for path in real[::50]:
        raw = path.read_bytes()
        (half := tmp_path/'half.avi').write_bytes(raw[:len(raw) // 2])
        frames, error = play_till_error(half)
        assert 10 < len(frames) < Video(path).promised and 'cut short' in str(error)


# ---- a folder of films

def noise(length, size=(16, 24), seed=0):
    "Frames of noise (T, H, W)."
    return np.random.default_rng([seed, length]).integers(0, 256, (length, *size), dtype=np.uint8)


def write_film(path, frames, *, codec='ffv1', pix_fmt='gray', rate=10):
    "Frames (T, H, W) as a film; ffv1 loses nothing."
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:], pix_fmt
        for frame in frames: container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='gray')))
        container.mux(stream.encode())
    return Path(path)


def write_sound(path):
    "A file with sound and no pictures."
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('pcm_s16le', rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format='s16', layout='mono')
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


LENGTHS = {'a.avi': 5, 'b.avi': 9, 'sub/v_Run_g01_c01.avi': 7, 'sub/v_Run_g01_c02.avi': 4, 'z.mkv': 6}


@pytest.fixture
def shelf(tmp_path):
    "A folder of five short films: name -> frames."
    made = {name: noise(length, (16 + 8 * (k % 2), 24)) for k, (name, length) in enumerate(LENGTHS.items())}
    for name, frames in made.items(): write_film(tmp_path/'films'/name, frames)
    return SimpleNamespace(root=tmp_path/'films', cache=tmp_path/'cache', frames=made)


def read(shelf, **options):
    "The folder with what is usual here."
    return VideoFolder(shelf.root, **dict(grey=True, cache=shelf.cache, workers=0, progress=False) | options)


@pytest.fixture
def opened(monkeypatch):
    "Names of the films that were decoded."
    names = []
    class Spied(Video):
        def __init__(self, path, **options):
            names.append(Path(path).name)
            super().__init__(path, **options)
    monkeypatch.setattr(videos, 'Video', Spied)
    return names


def flat_size(shelf):
    "Bytes of everything in the cache."
    return sum(p.stat().st_size for p in shelf.cache.rglob('*') if p.is_file())


def index_of(shelf): return next(shelf.cache.rglob('index.jsonl'))


def check(folder, shelf, names=None):
    "Are these films in it, all of them, pixel for pixel?"
    assert list(folder.names) == sorted(names or shelf.frames)
    for i, name in enumerate(folder.names):
        np.testing.assert_array_equal(folder[i][..., 0], shelf.frames[name], err_msg=name)
        np.testing.assert_array_equal(folder.motion(i), motion_map(folder[i]), err_msg=name)


# ---- what is in it

def test_holds_every_film(shelf):
    folder = read(shelf)
    check(folder, shelf)
    assert len(folder) == 5 and folder.failures == {}
    assert folder.lengths.tolist() == [*LENGTHS.values()] and folder.lengths.dtype == np.int64
    assert folder.fps.tolist() == [10] * 5
    assert folder.groups == ('a.avi', 'b.avi', 'Run_g01', 'Run_g01', 'z.mkv')
    assert not folder[0].flags.writeable and not folder.motion(0).flags.writeable
    assert folder.motion(0).dtype == np.uint16 and folder.motion(0).shape == (5, 2, 3)


def test_frames_are_those_of_video(shelf):
    write_film(shelf.root/'a.avi', noise(6, (48, 36)), codec='mpeg4', pix_fmt='yuv420p')
    for options in (dict(side=None), dict(side=12), dict(side=12, grey=True), dict(side=999)):
        folder = read(shelf, grey=False, **options) if 'grey' not in options else read(shelf, **options)
        wanted = Video(shelf.root/'a.avi', side=options['side'], grey=options.get('grey', False)).read()
        np.testing.assert_array_equal(folder[0], wanted)
        np.testing.assert_array_equal(folder.motion(0), motion_map(wanted))
    assert len([*shelf.cache.iterdir()]) == 4, 'each setting has a place of its own'


def test_films_too_small_for_a_map(tmp_path):
    write_film(tmp_path/'films/a.avi', noise(3, (4, 30)))
    for _ in range(2):
        folder = VideoFolder(tmp_path/'films', cache=tmp_path/'cache', side=None, workers=0, progress=False)
        assert folder.motion(0).shape == (3, 0, 3) and folder[0].shape == (3, 4, 30, 3)
    assert pickle.loads(pickle.dumps(folder)).motion(0).size == 0


def test_iterates_and_counts(shelf):
    folder = read(shelf)
    assert [len(film) for film in folder] == [*LENGTHS.values()]
    assert folder[-1].shape == folder[4].shape == (6, 16, 24, 1)
    for i in (5, -6): pytest.raises(IndexError, folder.__getitem__, i)
    for i in (5, -6, 'a', 1.5, None): pytest.raises(ValueError, folder.motion, i)
    for i in ('a', 1.5, None, slice(2)): pytest.raises(ValueError, folder.__getitem__, i)


def test_tables_and_description(shelf):
    (shelf.root/'x.avi').write_bytes(b'')
    with pytest.warns(UserWarning): folder = read(shelf)
    first, second = folder.tables()
    assert first.head == ['video', 'size', 'frames', 'fps', 'seconds', 'group']
    assert first.rows[1] == ['b.avi', '24x24', '9', '10', '0.9', 'b.avi']
    assert second.rows == [['x.avi', folder.failures['x.avi']]]
    assert str(folder) == folder.table() and 'x.avi' in str(folder)
    (shelf.root/'x.avi').unlink()
    again = read(shelf)
    assert len(again.tables()) == 1
    assert again.describe() == folder.describe() and '5 videos, 31 frames' in folder.describe()
    other = read(shelf, cache=shelf.cache/'other', workers=0)
    assert other.describe() == folder.describe()
    write_film(shelf.root/'a.avi', noise(5, seed=1))
    assert read(shelf).describe() != folder.describe()


def test_copies_and_pickles(shelf):
    folder = read(shelf)
    folder[0], folder.motion(0)
    for other in (pickle.loads(pickle.dumps(folder)), copy.copy(folder), copy.deepcopy(folder)): check(other, shelf)
    assert len(pickle.dumps(folder)) < 4000, 'pixels travelled'
    again = pickle.loads(pickle.dumps(folder))
    shutil.rmtree(shelf.cache)
    check(folder, shelf) # what is mapped stays
    with pytest.raises(OSError, match='is gone .*make it anew'): again[0]


def test_parts(shelf):
    folder = read(shelf)
    part = folder.subset(['z.mkv', 'b.avi', 'b.avi'])
    check(part, shelf, ['b.avi', 'z.mkv'])
    assert part.lengths.tolist() == [9, 6] and part.groups == part.names
    check(pickle.loads(pickle.dumps(part)), shelf, ['b.avi', 'z.mkv'])
    assert folder.subset(list(folder.names)).describe() == folder.describe() != part.describe()
    for names in ([], ['q.avi'], 'b.avi', None, [3], [['b.avi']]): pytest.raises(ValueError, folder.subset, names)
    check(folder, shelf)


# ---- the two sides of a split

def many(tmp_path, names):
    "A folder of films of one frame."
    for name in names: write_film(tmp_path/'many'/name, noise(1, (8, 8)))
    return VideoFolder(tmp_path/'many', cache=tmp_path/'cache', workers=0, progress=False)


def test_split_by_groups(tmp_path):
    names = [f'v_Run_g{g:02}_c{c:02}.avi' for g in range(1, 13) for c in range(1, 1 + g % 3 + 1)]
    folder = many(tmp_path, names)
    train, test = folder.split(.25, seed=3)
    assert not set(train.groups) & set(test.groups)
    assert sorted(train.names + test.names) == sorted(folder.names)
    assert len(set(test.groups)) == 3 and len(set(train.groups)) == 9
    assert len({folder.split(seed=s)[1].names for s in range(20)}) > 10
    fewer = folder.subset([n for n in names if n.endswith('c01.avi')]) # as many groups, fewer clips
    assert set(fewer.split(.25, seed=3)[1].groups) == set(test.groups)
    assert set(folder.split(lambda g: g < 'Run_g05')[1].groups) == {'Run_g01', 'Run_g02', 'Run_g03', 'Run_g04'}
    assert set(folder.split(['Run_g02', 'Run_g03'])[1].groups) == {'Run_g02', 'Run_g03'}
    assert len(set(folder.split(.001)[1].groups)) == len(set(folder.split(.999)[0].groups)) == 1


def test_split_leaves_nobody_out(shelf):
    folder = read(shelf)
    for test in (0, 1, 0., 1., 2, -1, float('nan'), True, None, 'a.avi', ['q.avi'], [], [1]):
        with pytest.raises(ValueError, match='test is'): folder.split(test)
    for test in (lambda g: True, lambda g: False, list(folder.groups)):
        with pytest.raises(ValueError, match='at least one for each side'): folder.split(test)
    with pytest.raises(ValueError, match='0 of 1 groups'): folder.subset(['a.avi']).split(.5)
    with pytest.raises(ValueError, match='seed is'): folder.split(seed=-1)


# ---- what is not in it, and why

def test_nasty_folder(shelf):
    root = shelf.root
    odd = {'ä ö ü.avi': 3, '[1] (2) *?.AVI': 4, '🎬 film.mkv': 2, "quote ' \" \\.avi": 3, 'deep/er/two\nlines.avi': 2}
    for name, length in odd.items(): shelf.frames[name] = frames = noise(length); write_film(root/name, frames)
    whole = write_film(root/'cut.avi', noise(20)).read_bytes()
    (root/'cut.avi').write_bytes(whole[:len(whole) // 2])
    (root/'empty.mp4').write_bytes(b'')
    (root/'text.webm').write_text('no film at all\n' * 100)
    (root/'zeros.mov').write_bytes(bytes(5000))
    write_sound(root/'sound.avi')
    os.mkfifo(root/'pipe.avi')
    (root/'nowhere.avi').symlink_to('gone')
    (root/'round.avi').symlink_to('round.avi')
    (root/'.hidden.avi').write_bytes(b'')
    (root/'.git').mkdir()
    (root/'.git/x.avi').write_bytes(b'')
    (root/'notes.txt').write_text('nothing')
    (root/'folder.avi').mkdir()
    (root/'sub/up').symlink_to(root)
    (root/'alias').symlink_to(root/'sub')
    bad = {'cut.avi', 'empty.mp4', 'text.webm', 'zeros.mov', 'sound.avi', 'pipe.avi', 'nowhere.avi', 'round.avi'}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        folder = read(shelf)
    check(folder, shelf)
    assert set(folder.failures) == bad and list(folder.failures) == sorted(bad)
    assert 'cut short' in folder.failures['cut.avi'] or 'damaged' in folder.failures['cut.avi']
    [message] = [str(w.message) for w in said]
    assert message.startswith(f'8 of 18 videos in {str(root)!r} could not be read:')
    for name in bad: assert f'\n  {name}: {folder.failures[name]}' in message
    assert str(root) not in ''.join(folder.failures.values())


def test_link_to_another_folder(shelf, tmp_path):
    shelf.frames['more/c.avi'] = noise(3)
    write_film(tmp_path/'elsewhere/c.avi', shelf.frames['more/c.avi'])
    (shelf.root/'more').symlink_to(tmp_path/'elsewhere')
    check(read(shelf), shelf)


def test_nothing_to_read(tmp_path):
    options = dict(cache=tmp_path/'cache', workers=0, progress=False)
    with pytest.raises(FileNotFoundError, match='gone'): VideoFolder(tmp_path/'gone', **options)
    (tmp_path/'file.avi').write_bytes(b'1')
    with pytest.raises(NotADirectoryError, match='file.avi'): VideoFolder(tmp_path/'file.avi', **options)
    (tmp_path/'none').mkdir()
    with pytest.raises(FileNotFoundError, match=r"none'; expected a folder with videos"):
        VideoFolder(tmp_path/'none', **options)
    (tmp_path/'none/a.avi').write_bytes(b'')
    with pytest.raises(OSError, match=r"none'; expected videos, and none of these could be read:\n  a.avi: "):
        VideoFolder(tmp_path/'none', **options)


def test_bad_arguments(shelf):
    for name, values in dict(side=(0, -1, 1.5, True, '120', 2**20), grey=(1, None, 'yes'), max_bytes=(0, None, 1e9, -5),
                             workers=(-1, 1.5, True, 10**6), progress=(1, None), cache=(3, '', b'x', 'a\0b')).items():
        for value in values:
            with pytest.raises(ValueError, match=f'{name} is'): read(shelf, **{name: value})
    for root in (3, '', None, b'x', 'a\0b', ['x']):
        with pytest.raises(ValueError, match='root is'): VideoFolder(root)
    with pytest.raises(TypeError): VideoFolder(shelf.root, 120)


def test_failures_are_remembered_while_files_stay_the_same(shelf, opened):
    (shelf.root/'x.avi').write_bytes(b'nothing')
    with pytest.warns(UserWarning): first = read(shelf)
    opened.clear()
    with pytest.warns(UserWarning): assert read(shelf).failures == first.failures
    assert opened == []
    shelf.frames['x.avi'] = noise(3)
    write_film(shelf.root/'x.avi', shelf.frames['x.avi'])
    check(read(shelf), shelf)
    assert opened == ['x.avi']


@pytest.mark.parametrize('reason', [os.strerror(errno.EIO), os.strerror(errno.EMFILE), os.strerror(errno.ENOMEM)])
def test_what_may_pass_is_not_remembered(shelf, monkeypatch, reason):
    def fail(path, **options):
        if Path(path).name == 'b.avi': raise OSError(f'path is {path!r}, damaged ({reason}); expected a whole file')
        return Video(path, **options)
    with monkeypatch.context() as patch:
        patch.setattr(videos, 'Video', fail)
        with pytest.warns(UserWarning): assert read(shelf).failures == {'b.avi': f'damaged ({reason})'}
    check(read(shelf), shelf)


def test_no_kind_of_error_stops_the_rest(shelf, monkeypatch):
    errors = {'a.avi': RuntimeError('oh'), 'b.avi': MemoryError(), 'z.mkv': IndexError('x')}
    def fail(path, **options):
        if Path(path).name in errors: raise errors[Path(path).name]
        return Video(path, **options)
    monkeypatch.setattr(videos, 'Video', fail)
    with pytest.warns(UserWarning): folder = read(shelf)
    assert folder.failures == {'a.avi': 'oh', 'b.avi': 'MemoryError', 'z.mkv': 'x'} and len(folder) == 2


def fake(monkeypatch, name, **attributes):
    "Have the film of this name another class than `Video`, with these attributes."
    class Fake(Video):
        def __init__(self, path, **options):
            super().__init__(path, **options)
            if Path(path).name == name: self.__dict__.update(attributes)
    monkeypatch.setattr(videos, 'Video', Fake)


@pytest.mark.parametrize('promised', [None, 2])
def test_promises_are_not_believed(shelf, monkeypatch, promised):
    "More frames than promised, or no promise."
    fake(monkeypatch, 'a.avi', promised=promised)
    check(read(shelf), shelf)


def test_a_film_that_changes_while_it_is_read(shelf, monkeypatch):
    class Touched(Video):
        def __iter__(self):
            yield from super().__iter__()
            if self.path.name == 'b.avi': os.utime(self.path, (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(videos, 'Video', Touched)
        with pytest.warns(UserWarning, match='b.avi: it was changed while it was read'): read(shelf)
    check(read(shelf), shelf)


# ---- the cache

def test_second_time_nothing_is_decoded_or_written(shelf, opened, monkeypatch):
    read(shelf)
    assert sorted(opened) == sorted(Path(n).name for n in LENGTHS)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in shelf.cache.rglob('*')}
    opened.clear()
    monkeypatch.setattr(videos, 'lock_file', None)
    check(read(shelf), shelf)
    assert opened == [] and {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in shelf.cache.rglob('*')} == before


def test_changed_new_and_vanished_films(shelf, opened):
    read(shelf)
    opened.clear()
    shelf.frames |= {'b.avi': noise(3, seed=5), 'new.avi': noise(4)}
    for name in ('b.avi', 'new.avi'): write_film(shelf.root/name, shelf.frames[name])
    check(read(shelf), shelf)
    assert sorted(opened) == ['b.avi', 'new.avi']
    opened.clear()
    away = shelf.root.parent/'away.avi'
    (shelf.root/'a.avi').rename(away)
    check(read(shelf), shelf, set(shelf.frames) - {'a.avi'})
    away.rename(shelf.root/'a.avi')
    check(read(shelf), shelf) # it is there still
    assert opened == []


def test_where_the_cache_lies(shelf, tmp_path, monkeypatch):
    monkeypatch.delenv('LVR_CACHE', raising=False)
    monkeypatch.setattr('pooch.os_cache', lambda name: tmp_path/'user'/name)
    read(shelf, cache=None)
    assert len([*(tmp_path/'user/lstm-video-repr/videos').iterdir()]) == 1
    monkeypatch.setenv('LVR_CACHE', str(tmp_path/'env'))
    read(shelf, cache=None)
    read(shelf, cache=None, side=8)
    assert len([*(tmp_path/'env/videos').iterdir()]) == 2
    read(shelf)
    assert len([*shelf.cache.iterdir()]) == 1
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='file'): read(shelf, cache=tmp_path/'file')


def cut_frames(shelf):
    path = next(shelf.cache.rglob('frames-*'))
    os.truncate(path, path.stat().st_size - 1)


def remove_motion(shelf): next(shelf.cache.rglob('motion-*')).unlink()


def damage_first_line(shelf):
    raw = index_of(shelf).read_bytes()
    index_of(shelf).write_bytes(raw[:20] + b'#' + raw[21:])


def damage_middle(shelf):
    lines = index_of(shelf).read_bytes().splitlines(True)
    index_of(shelf).write_bytes(b''.join(lines[:2]) + b'#' + b''.join(lines[2:])[1:])


def write_garbage(shelf): index_of(shelf).write_bytes(os.urandom(3000))


def write_nothing(shelf): index_of(shelf).write_bytes(b'')


def remove_index(shelf): index_of(shelf).unlink()


@pytest.mark.parametrize('harm', [cut_frames, remove_motion, damage_first_line, damage_middle, write_garbage,
                                  write_nothing, remove_index])
def test_a_harmed_cache_is_made_anew(shelf, opened, harm):
    old = read(shelf)
    shown = old[1].copy()
    harm(shelf)
    opened.clear()
    check(read(shelf), shelf)
    assert len(opened) == 5
    assert len([*shelf.cache.rglob('frames-*')]) == len([*shelf.cache.rglob('motion-*')]) == 1
    if harm is not cut_frames: np.testing.assert_array_equal(old[1], shown) # whoever looks at it goes on


def test_another_version_is_made_anew(shelf, opened, monkeypatch):
    read(shelf)
    opened.clear()
    monkeypatch.setattr(videos, 'CACHE_VERSION', videos.CACHE_VERSION + 1)
    check(read(shelf), shelf)
    assert len(opened) == 5


def test_a_line_that_was_cut(shelf, opened):
    read(shelf)
    raw = index_of(shelf).read_bytes()
    last = json.loads(raw.splitlines()[-1][9:])['name']
    for cut in (1, 30):
        index_of(shelf).write_bytes(raw[:-cut])
        opened.clear()
        check(read(shelf), shelf)
        assert opened == [Path(last).name]


def known_size(shelf):
    "Bytes that the index speaks of."
    lines = [json.loads(line[9:]) for line in index_of(shelf).read_bytes().splitlines()][1:]
    shapes = [line['shape'] for line in lines if 'at' in line]
    return sum(T * H * W * C + T * (H // 8) * (W // 8) * 2 for T, H, W, C in shapes) + index_of(shelf).stat().st_size


# ---- a size that is never passed

@pytest.fixture
def watched(shelf, monkeypatch):
    "The largest size that the cache ever had."
    most, write = [0], os.pwrite
    def watch(*args):
        n = write(*args)
        most[0] = max(most[0], flat_size(shelf))
        return n
    monkeypatch.setattr(os, 'pwrite', watch)
    return most


def test_never_over_max_bytes(shelf, watched, opened):
    read(shelf)
    whole = watched[0]
    frames = sum(f.size for f in shelf.frames.values())
    assert frames < whole < frames + 4000
    seen = set()
    for most in (whole - 1, whole - 1500, whole - 3000, whole - 6000):
        shutil.rmtree(shelf.cache)
        watched[0] = 0
        with pytest.warns(UserWarning, match='do not fit within max_bytes'):
            folder = read(shelf, max_bytes=most)
        assert watched[0] <= most and flat_size(shelf) <= most
        assert set(folder.names) | set(folder.failures) == set(shelf.frames)
        check(folder, shelf, folder.names)
        seen.add(len(folder))
    assert len(seen) > 1
    opened.clear()
    with pytest.warns(UserWarning): assert read(shelf, max_bytes=most).failures == folder.failures
    assert opened == [], 'what does not fit is known'
    check(read(shelf), shelf)
    assert len(opened) == len(folder.failures)


def test_no_room_at_all(shelf):
    for most in (1, 500, 3000):
        with pytest.raises(OSError, match='max_bytes'): read(shelf, max_bytes=most)
        assert not shelf.cache.exists() or flat_size(shelf) < 1500


def test_a_larger_cache_is_used(shelf, opened):
    read(shelf)
    opened.clear()
    check(read(shelf, max_bytes=1), shelf)
    assert opened == []


@pytest.mark.parametrize('most', [36_000, 100_000])
def test_films_that_are_gone_make_room(shelf, watched, opened, most):
    "Where there is room for two caches nothing is decoded twice."
    old = read(shelf)
    shown = old[1].copy()
    for k in range(9): # each takes the place of one that is gone
        shelf.frames['b.avi'] = noise(20, (24, 32), seed=k)
        write_film(shelf.root/'b.avi', shelf.frames['b.avi'])
        check(read(shelf, max_bytes=most), shelf)
    assert watched[0] <= most and flat_size(shelf) <= most
    twice = len(opened) - 5 - 9
    assert twice == 0 if most > 50_000 else 0 < twice < 9 * 4
    np.testing.assert_array_equal(old[1], shown)
    assert len([*shelf.cache.rglob('frames-*')]) == 1


def test_a_film_that_is_removed_makes_room(shelf):
    with pytest.warns(UserWarning, match='z.mkv: its 2376 bytes do not fit within max_bytes=14600'):
        read(shelf, max_bytes=14_600)
    (shelf.root/'b.avi').unlink()
    del shelf.frames['b.avi']
    check(read(shelf, max_bytes=14_600), shelf)


def test_memory_does_not_grow_with_a_film(tmp_path):
    def peak(length):
        write_film(tmp_path/f'{length}/a.avi', noise(1, (96, 96)).repeat(length, 0))
        tracemalloc.start()
        try:
            VideoFolder(tmp_path/str(length), cache=tmp_path/'cache', grey=True, workers=0, progress=False)
            return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    short, long = peak(200), peak(800) # 1.8 and 7.4 MB of frames
    assert long < short + 2e6


# ---- runs that end too early

def fork(run):
    "How a copy of this process ended that called `run`."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning) # of forks beside threads
        child = os.fork()
    if not child:
        try: run()
        except BaseException: os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def end_at(shelf, n, **options):
    "Read the folder in another process, which ends at the n-th call that writes; half of the bytes are written then."
    count = [0]
    def patch(name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == n:
                if name == 'pwrite': real(args[0], bytes(args[1])[:len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(os, name, call)
    def run():
        for name in ('pwrite', 'fsync', 'replace', 'unlink'): patch(name)
        read(shelf, **options)
    return fork(run)


def test_killed_at_any_call(shelf, opened):
    "Nothing that was finished is lost or done again, wherever the process ends."
    for name in ('sub/v_Run_g01_c02.avi', 'z.mkv'): (shelf.root/name).unlink() or shelf.frames.pop(name)
    n, done = 1, set()
    while end_at(shelf, n) == -signal.SIGKILL:
        lines = index_of(shelf).read_bytes().split(b'\n')[:-1] if [*shelf.cache.rglob('index.jsonl')] else []
        finished = {line['name'] for line in map(lambda x: json.loads(x[9:]), lines[1:]) if 'at' in line}
        opened.clear()
        check(read(shelf), shelf)
        assert len(opened) == 3 - len(finished)
        if len(finished) < 3: assert flat_size(shelf) == known_size(shelf), 'leavings'
        assert sorted(p.name[:6] for p in index_of(shelf).parent.glob('[!.]*')) == ['frames', 'index.', 'motion']
        done.add(len(finished))
        shutil.rmtree(shelf.cache)
        n += 1
    assert n > 15 and done == {0, 1, 2, 3}


def test_killed_while_room_is_made(shelf, tmp_path):
    "A cache that is made anew holds the old films, or the new ones."
    write_film(shelf.root/'b.avi', noise(20, (24, 32), seed=1))
    read(shelf)
    shelf.frames['b.avi'] = noise(20, (24, 32))
    write_film(shelf.root/'b.avi', shelf.frames['b.avi'])
    shelf.cache.rename(tmp_path/'before')
    n, tokens = 1, set()
    while True:
        shutil.copytree(tmp_path/'before', shelf.cache)
        if end_at(shelf, n, max_bytes=38_000) != -signal.SIGKILL: break
        tokens.add(index_of(shelf).read_bytes()[:200])
        check(read(shelf, max_bytes=38_000), shelf)
        assert flat_size(shelf) <= 38_000
        assert sorted(p.name[:6] for p in index_of(shelf).parent.glob('[!.]*')) == ['frames', 'index.', 'motion']
        shutil.rmtree(shelf.cache)
        n += 3
    assert n > 20 and len(tokens) > 2


def test_killed_again_and_again(shelf, opened):
    "Progress is kept over many short lives."
    lives = 0
    while end_at(shelf, 12) == -signal.SIGKILL:
        lives += 1
        assert lives < 10
    check(read(shelf), shelf)
    assert lives > 1 and opened == []


@pytest.mark.parametrize('nth', range(1, 26, 3))
def test_full_disk(shelf, opened, monkeypatch, nth):
    count, write = [0], os.pwrite
    def full(handle, data, start):
        count[0] += 1
        if count[0] < nth: return write(handle, data, start)
        write(handle, bytes(data)[:len(data) // 2], start)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(os, 'pwrite', full)
        if nth > 15: return check(read(shelf), shelf)
        with pytest.raises(OSError, match='could not write into the cache .*No space left') as caught: read(shelf)
    assert str(shelf.cache) in str(caught.value)
    assert flat_size(shelf) == known_size(shelf), 'half a film is left'
    opened.clear()
    check(read(shelf), shelf)
    assert len(opened) == 5 - (nth - 1) // 3


def test_limit_of_the_system(shelf):
    "The same where the system itself refuses, with workers."
    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try: read(shelf)
        except OSError as e: os._exit(7 if str(shelf.cache) in str(e) else 4)
    assert fork(run) == 7
    assert 0 < flat_size(shelf) == known_size(shelf)
    check(read(shelf), shelf)


# ---- several at once

def test_the_second_waits(shelf, capfd):
    read(shelf)
    write_film(shelf.root/'new.avi', noise(2))
    shelf.frames['new.avi'] = noise(2)
    found = []
    with lock_file(index_of(shelf)):
        thread = threading.Thread(target=lambda: found.append(read(shelf, progress=True)))
        thread.start()
        while 'waiting: ' not in (said := capfd.readouterr().err): time.sleep(.02)
        assert f'in use by process {os.getpid()}' in said and not found
    thread.join()
    check(found[0], shelf)


def test_many_at_once(shelf, opened):
    found = []
    threads = [threading.Thread(target=lambda: found.append(read(shelf))) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(found) == 6
    for folder in found: check(folder, shelf)
    assert len(opened) == 5, 'each film is decoded once'


SHIM = '''
import os, sys
sys.path.remove({here!r})
del sys.modules['av']
import av
opened = av.open
def open_or_die(name, *args, **kwargs):
    if 'b.avi' in str(name): os.kill(os.getpid(), 9)
    return opened(name, *args, **kwargs)
av.open = open_or_die
'''


def test_workers(shelf, tmp_path, monkeypatch, capfd):
    "A film that is too much for its worker is named, and the rest goes on, with another one."
    (shelf.root/'empty.avi').write_bytes(b'')
    (tmp_path/'av.py').write_text(SHIM.format(here=str(tmp_path)))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.setattr(videos, 'Video', None) # nothing is decoded here
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            folder = read(shelf, workers=1, progress=True)
            gc.collect()
    assert ['2 of 6 videos in' in str(w.message) for w in said] == [True]
    check(folder, shelf, set(shelf.frames) - {'b.avi'})
    assert folder.failures['b.avi'] == 'its worker process died (signal 9)' and 'empty.avi' in folder.failures
    assert 'decode: 100%' in capfd.readouterr().err
    (shelf.root/'empty.avi').unlink()
    check(read(shelf), shelf)


def test_a_worker_that_cannot_start(shelf, tmp_path, monkeypatch):
    (tmp_path/'shim/lstm_video_repr').mkdir(parents=True)
    (tmp_path/'shim/lstm_video_repr/__init__.py').write_text('raise RuntimeError("not today")')
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path/'shim'))
        with pytest.raises(OSError, match='did not start .*not today.*workers=0'): read(shelf, workers=2)
    check(read(shelf), shelf)


# ---- real clips

def test_real_clips(data_folder, tmp_path):
    root = data_folder/'videos/ucf101/Archery'
    if not root.is_dir(): pytest.skip('needs videos: LVR_DATA/videos/ucf101')
    some = sorted(root.glob('*.avi'))[:3]
    for path in some:
        (tmp_path/'clips').mkdir(exist_ok=True)
        (tmp_path/'clips'/path.name).symlink_to(path)
    folder = VideoFolder(tmp_path/'clips', cache=tmp_path/'cache', workers=0, progress=False)
    assert folder.groups == tuple(p.name[2:-8] for p in some)
    assert {film.shape[1:] for film in folder} == {(120, 160, 3)}
    np.testing.assert_array_equal(folder[1], Video(some[1], side=120).read())


# ---- windows of films

def test_windows_of_a_folder(tmp_path):
    "The same clips as of the films in memory, whatever the batch; groups go along, and a training takes them."
    names = 'v_Run_g01_c01.avi', 'v_Run_g01_c02.avi', 'v_Swim_g02_c01.avi'
    (tmp_path/'in').mkdir()
    for k, name in enumerate(names): save_video(tmp_path/'in'/name, make_film(20, size=(32, 40), seed=k))
    folder = VideoFolder(tmp_path/'in', side=32, cache=tmp_path/'cache', workers=0, progress=False)
    options = dict(size=16, past=4, future=3, motion='best of 3', seed=5)
    clips, same = Patches(folder, **options), Patches([np.array(film) for film in folder], **options)
    past, future = clips.read(7, 6)
    assert torch.equal(past, same.read(7, 6)[0]) and torch.equal(future[2:4], clips.read(9, 2)[1])
    assert set(clips.groups(0, 40)) == {'Run_g01', 'Swim_g02'}
    assert FixedClips(clips, 9).groups(3, 4) == clips.groups(3, 4)
    assert torch.equal(pickle.loads(pickle.dumps(clips)).read(7, 6)[0], past)
    model = VideoLSTM.composite(frame_shape=(3, 16, 16), hidden_size=4, output='gaussian', normalise=True, components=9)
    train(model, Patches(folder, mix=True, **options), steps=2, batch_size=3, progress=None)
    scores = score_clips(model, FixedClips(clips, 12))
    assert scores.groups == clips.groups(0, 12) and scores.mean().future.errors


def test_two_sides_share_no_group(tmp_path):
    "Whatever is asked of the test side was never shown to the other."
    (tmp_path/'in').mkdir()
    for k in range(6): save_video(tmp_path/'in'/f'v_Run_g0{k // 2}_c0{k % 2}.avi', make_film(12, size=(32, 40), seed=k))
    folder = VideoFolder(tmp_path/'in', side=32, cache=tmp_path/'cache', workers=0, progress=False)
    sides = [set(Patches(side, 16, past=4, future=3).groups(0, 60)) for side in folder.split(.4)]
    assert all(sides) and not sides[0] & sides[1] and len(sides[0] | sides[1]) == 3

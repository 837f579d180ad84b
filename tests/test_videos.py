"Films: every frame by number and time as it comes when one goes through; what is not whole says so."
import copy
import os
import pickle
import struct
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip('av', reason='needs PyAV: the extra [video]')

from lstm_video_repr.videos import Video, find_break, make_film, save_video

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
    film, other = make_film(90), make_film(90, seed=1)
    assert film.shape == (90, 120, 160, 3) and (film[0] != other[0]).mean() > .8
    change = abs(np.diff(film.astype(float), axis=0)).mean((1, 2, 3))
    assert change.max() > 2 * change.min() > 0                                          # quick stretches, calm ones
    still = abs(np.diff(film[:, ::32, ::32].astype(float), axis=0)).max(-1) < 1
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

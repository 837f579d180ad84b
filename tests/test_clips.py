"Moving digits: golden clips, real data, files, downloads, and numbers that are the same everywhere."
import gzip, hashlib, http.server, json, math, os, subprocess, sys, threading
from pathlib import Path
import numpy as np
import pytest
import torch
from lstm_video_repr import clips as C
from lstm_video_repr.clips import (FixedClips, MovingDigits, MovingMNISTFile, bounce, clips_checksum, embedded_digits, fixed_test_set, load_digits,
                                   mix, mnist_digits, read_idx, render, uniform)

DATA = next((p for p in (os.environ.get('LVR_DATA'), Path(__file__).parents[2]/'shared'/'data') if p and Path(p).is_dir()), None)
needs_mnist = pytest.mark.skipif(DATA is None or C._find_mnist(DATA, 'test') is None, reason='no MNIST: LVR_DATA names no folder that has it')
needs_genuine = pytest.mark.skipif(DATA is None or not (Path(DATA)/'moving_mnist'/'mnist_test_seq_5.npy').is_file(),
                                   reason='no genuine Moving MNIST clips: LVR_DATA names no folder that has them')

def sha(x): return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()

def idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.astype(np.uint8).tobytes()

# --- golden values -----------------------------------------------------------------------------------------------

def test_golden_clips_of_embedded_digits():
    "The same clips everywhere, and for ever."
    train = embedded_digits()[0]
    assert sha(train) == '8928be10d7ee3754611c21b9d410474d63fda38ea245027a3814cdaceee6705d'
    assert sha(MovingDigits(train, seed=0).sample(8)) == 'ed2efda422b0eb6a9e53e3d045c82b43ed297ffd341ee8b9d8bb8ebcae1c8a9b'
    assert clips_checksum(MovingDigits(train, seed=0).sample(8)) == '6629f7ddd8e49e8318a4e02ea467acd346fcb1ef71bdfa886d5a46c86446c279'
    assert clips_checksum(MovingDigits(train, seed=3, step=(.05, .2)).clips(2000, 8)) == '9955e67c041f9a3af1d9a220be9a1e478039889ca350946c2216d3a31690ecef'
    assert clips_checksum(MovingDigits(train, seed=0).clips(700, 40)) == '41499787be549031959bcd401d5abea86efa01b35d1a87fd84c6b370f3b0ab22'

def test_hash_and_uniform_golden():
    assert [mix(k) for k in (0, 1, 2**32 - 1)] == mix(torch.tensor([0, 1, 2**32 - 1])).tolist()
    assert mix(2**32 + 5) == mix(5)
    big = torch.tensor([0, 7, 2**31, 2**32 + 1, 2**62])
    u = uniform(2**63 - 1, big, 3)
    assert u.dtype == torch.float64 and (u >= 0).all() and (u < 1).all() and len(set(u.tolist())) == 5
    assert torch.equal((u * 2**32).frac(), torch.zeros(5, dtype=torch.float64))

def test_fixed_test_set_of_embedded_digits():
    t = fixed_test_set('embedded')
    assert len(t) == 10000 and t.frame_shape == (1, 64, 64)
    assert clips_checksum(torch.cat(t.batch(100), 1)) == '85a18745d1669185024ff8ee1b13aad8f2456148b1dd75b42634980d5c431bd9'

@needs_mnist
def test_fixed_test_set_of_mnist():
    t = fixed_test_set(folder=DATA)
    assert len(t.source.digits) == 10000
    assert clips_checksum(torch.cat(t.batch(100), 1)) == '4e6c1e295b867d18b6ea72db0047df24ec02d5fa15488279f295effc514fe57a'

# --- genuine clips ------------------------------------------------------------------------------------------------

@needs_genuine
@needs_mnist
def test_render_gives_the_genuine_frames():
    where = Path(DATA)/'moving_mnist'
    genuine, notes = np.load(where/'mnist_test_seq_5.npy'), json.loads((where/'mnist_test_seq_5.json').read_text())
    digits, labels = mnist_digits('test', DATA)
    which, corners = torch.tensor([n['mnist_test_index'] for n in notes]), torch.tensor([n['top_left_row_col'] for n in notes])
    assert labels[which].tolist() == [n['label'] for n in notes]
    frames = render(digits[which], corners)[:, :, 0]
    assert torch.equal(frames, torch.from_numpy(genuine).transpose(0, 1)) and frames.shape[:2] == (5, 20)

@needs_genuine
def test_genuine_file_is_read_clip_first():
    path = Path(DATA)/'moving_mnist'/'mnist_test_seq_5.npy'
    genuine = torch.from_numpy(np.load(path)).float() / 255
    file = MovingMNISTFile(path)
    past, future = (torch.cat(x) for x in zip(*file.batches(2)))
    assert len(file) == 5 and past.shape == future.shape == (5, 10, 1, 64, 64)
    assert torch.equal(past[3, 4, 0], genuine[4, 3]) and torch.equal(future[3, 4, 0], genuine[14, 3])

@needs_genuine
def test_genuine_paths_follow_bounce():
    "Between walls the genuine corners move as `bounce` does: by a constant velocity, of length 3.6 pixels, then flipped."
    for note in json.loads((Path(DATA)/'moving_mnist'/'mnist_test_seq_5.json').read_text()):
        for path in np.array(note['top_left_row_col']):
            d = np.abs(np.diff(path, axis=0)).astype(float)
            free = (path[1:] > 0) & (path[1:] < 36) & (path[:-1] > 0) & (path[:-1] < 36)
            v = [d[free[:, a], a].mean() for a in (0, 1)]
            assert abs(math.hypot(*v) - 3.6) < .25

# --- physics --------------------------------------------------------------------------------------------------------

def test_bounce_matches_a_plain_loop():
    m = MovingDigits(torch.ones(3, 28, 28), past=50, future=50, seed=9)
    _, corners = m.plan(0, 4)
    for k in range(4):
        for n in range(2):
            j = torch.tensor([2 * k + n])
            p = [uniform(9, j, 1).item(), uniform(9, j, 2).item()]
            a = 2 * math.pi * uniform(9, j, 3).item()
            v = [.1 * math.sin(a), .1 * math.cos(a)]
            for t in range(100):
                for i in (0, 1):
                    p[i] += v[i]
                    if p[i] <= 0 or p[i] >= 1: v[i] = -v[i]
                    p[i] = min(max(p[i], 0), 1)
                assert corners[k, n, t].tolist() == [int(36 * p[0]), int(36 * p[1])]

def test_speed_is_constant_or_in_its_range():
    def speeds(step):
        _, corners = MovingDigits(torch.ones(2, 1, 1), image_size=100001, n_digits=500, past=1, future=1, step=step).plan(0, 1)
        move = (corners[0, :, 1] - corners[0, :, 0]).double() / 100000
        inside = ((corners[0] > 0) & (corners[0] < 100000)).all(-1).all(-1)
        return move.norm(dim=-1)[inside]
    assert (speeds(.1) - .1).abs().max() < 1e-4
    s = speeds((.05, .2))
    assert .05 - 1e-4 < s.min() < .06 and .19 < s.max() < .2 + 1e-4 and abs(s.mean() - .125) < .01

def test_directions_are_uniform_on_the_circle():
    _, corners = MovingDigits(torch.ones(2, 1, 1), image_size=100001, past=1, future=1, step=.001).plan(0, 20000)
    move = (corners[:, :, 1] - corners[:, :, 0]).double()
    inside = ((corners > 200) & (corners < 99800)).all(-1).all(-1)
    angle = torch.atan2(move[..., 0], move[..., 1])[inside]
    count = torch.histc(angle, 36, -math.pi, math.pi)
    chi = ((count - count.mean()) ** 2 / count.mean()).sum()
    assert chi < 35 + 4 * math.sqrt(70)

# --- random numbers ------------------------------------------------------------------------------------------------

def chi_square(u, bins):
    u = u.reshape(len(u), -1)
    count = torch.bincount(((u * bins).long() * bins ** torch.arange(u.shape[1])).sum(1), minlength=bins ** u.shape[1]).double()
    dof = len(count) - 1
    return float((((count - count.mean()) ** 2 / count.mean()).sum() - dof) / math.sqrt(2 * dof))

@pytest.mark.parametrize('seed', [0, 1, 2, 12345, 2**32, 2**63 - 1])
def test_random_numbers_are_uniform_and_unrelated(seed):
    k = torch.arange(200_000)
    us = [uniform(seed, k, s) for s in range(6)]
    for a, u in enumerate(us):
        assert abs(chi_square(u, 1000)) < 4.5
        for lag in (1, 2, 3, 64): assert abs(chi_square(torch.stack([u[:-lag], u[lag:]], 1), 30)) < 4.5
        for b in range(a): assert abs(chi_square(torch.stack([u, us[b]], 1), 30)) < 4.5
        assert abs(chi_square(torch.stack([u, uniform(seed ^ 1, k, a)], 1), 30)) < 4.5
    r = torch.corrcoef(torch.stack(us)) - torch.eye(6)
    assert r.abs().max() < 5 / math.sqrt(len(k))

@pytest.mark.parametrize('n_digits', [1, 2, 3])
def test_each_pass_uses_each_digit_once(n_digits):
    m = MovingDigits(torch.ones(10, 2, 2), n_digits=n_digits, image_size=4, seed=4)
    turns = m.plan(0, 600)[0].flatten()
    passes = turns.view(-1, 10)
    assert torch.equal(passes.sort(1).values, torch.arange(10).expand_as(passes))
    place = torch.stack([(passes == d).float().nonzero()[:, 1] for d in range(10)], 1)          # where digit d came in each pass
    assert abs(chi_square((place.flatten().double() + .5) / 10, 10)) < 4

def test_same_clips_in_any_batch_size_and_order():
    m = MovingDigits('embedded', seed=5)
    all_at_once = m.sample(60)
    for size in (1, 7, 32):
        m.index = 0
        assert torch.equal(torch.cat([m.sample(min(size, 60 - i)) for i in range(0, 60, size)]), all_at_once)
    assert torch.equal(m.clips(40, 3), all_at_once[40:43]) and m.index == 60
    far = 10**12
    assert torch.equal(m.clips(far, 4)[2], m.clips(far + 2, 1)[0])

def test_seeds_differ_and_global_state_is_untouched():
    torch.manual_seed(1); state = torch.get_rng_state()
    a, b = MovingDigits('embedded', seed=0).sample(2), MovingDigits('embedded', seed=1).sample(2)
    assert not torch.equal(a, b) and torch.equal(torch.get_rng_state(), state)

@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_same_clips_on_other_devices(device):
    if not (torch.cuda.is_available() if device == 'cuda' else torch.backends.mps.is_available()): pytest.skip(f'this machine has no {device}')
    here, there = MovingDigits('embedded', seed=0), MovingDigits('embedded', seed=0, device=device)
    x = there.sample(64)
    assert x.device.type == device and torch.equal(x.cpu(), here.sample(64))

def test_iteration_protocol():
    m = MovingDigits('embedded', seed=0, past=4, future=6, batch_size=3)
    past, future = next(iter(m))
    assert past.shape == (3, 4, 1, 64, 64) and future.shape == (3, 6, 1, 64, 64) and past.dtype == torch.float32
    assert m.frame_shape == (1, 64, 64) and 0 <= past.min() and past.max() <= 1
    assert len(list(m.batches(2, 5))) == 5 and m.index == 13
    f = FixedClips(m, 7)
    assert [len(p) for p, _ in f.batches(3)] == [3, 3, 1] and m.index == 13

# --- digits ----------------------------------------------------------------------------------------------------------

def test_train_and_test_digits_never_mix():
    train, test = ({x.tobytes() for x in load_digits('embedded', s)[0].numpy()} for s in ('train', 'test'))
    assert len(train) == 1437 and len(test) == 360 and not train & test
    assert {x.tobytes() for x in MovingDigits('embedded', split='test').digits.numpy()} == test
    assert {x.tobytes() for x in fixed_test_set('embedded').source.digits.numpy()} == test

@needs_mnist
def test_train_and_test_mnist_never_mix():
    train, test = ({x.tobytes() for x in mnist_digits(s, DATA)[0].numpy()} for s in ('train', 'test'))
    assert not train & test

@needs_mnist
def test_mnist_and_embedded_joined():
    images, labels = load_digits('mnist+embedded', folder=DATA)
    assert images.shape == (60000 + 10 * 1437, 28, 28) and labels.shape == images.shape[:1]
    assert torch.equal(images[:60000], mnist_digits('train', DATA)[0])
    assert torch.equal(images[60000:], embedded_digits()[0].repeat(10, 1, 1))
    assert load_digits('embedded+mnist', 'test', DATA)[0].shape == (7 * 360 + 10000, 28, 28)

@needs_mnist
def test_auto_takes_mnist_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv('LVR_DATA', str(DATA))
    assert len(load_digits('auto', 'test')[0]) == 10000 and len(mnist_digits('test')[0]) == 10000
    monkeypatch.setenv('LVR_DATA', str(tmp_path))
    assert len(load_digits('auto', 'test')[0]) == 360

@needs_mnist
def test_mnist_content():
    for name, want in C._MNIST_SHA256.items():
        file = next(p for s in ('train', 'test') for p in C._find_mnist(DATA, s) if p.name.startswith(name))
        raw = file.read_bytes()
        assert hashlib.sha256(gzip.decompress(raw) if file.suffix == '.gz' else raw).hexdigest() == want

@pytest.fixture
def tiny(tmp_path):
    "A folder with four digits in MNIST's files."
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    (tmp_path/'train-images-idx3-ubyte').write_bytes(idx(images))
    (tmp_path/'train-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx(np.arange(4))))
    return tmp_path, images

def test_folder_with_plain_and_compressed_files(tiny):
    folder, images = tiny
    x, y = mnist_digits('train', folder)
    assert np.array_equal(x, images) and y.tolist() == [0, 1, 2, 3]
    for inner in ('mnist', 'MNIST/raw'):
        deep = folder/'deep'/inner; deep.mkdir(parents=True)
        for f in folder.glob('train-*'): (deep/f.name).write_bytes(f.read_bytes())
        assert len(mnist_digits('train', folder/'deep')[0]) == 4
        for f in deep.iterdir(): f.unlink()
    with pytest.raises(OSError, match='has no MNIST; expected t10k-images'): mnist_digits('test', folder)

def test_folder_with_foreign_files(tiny):
    folder, images = tiny
    file = folder/'train-images-idx3-ubyte'
    file.write_bytes(idx(images[:, :14])); 
    with pytest.raises(OSError, match=r'shape \(4, 14, 28\); expected MNIST'): mnist_digits('train', folder)
    file.write_bytes(idx(images[:3]))
    with pytest.raises(OSError, match='expected 3 labels'): mnist_digits('train', folder)
    file.write_bytes(idx(images)); (folder/'train-labels-idx1-ubyte.gz').write_bytes(idx(np.array([1, 2, 3, 10])))
    with pytest.raises(OSError, match='up to 10'): mnist_digits('train', folder)

@pytest.mark.parametrize('raw, words', [(b'', 'nothing'), (b'\0\0\x08', '000008'), (b'\x93NUMPY', '934e554d'), (b'\0\0\x0d\x01\0\0\0\x01\0\0\0\0', '00000d01'), (b'\0\0\x08\0', '00000800'),
    (b'\0\0\x08\x03\0\0', 'has 6 bytes'), (b'\0\0\x08\x01\0\0\0\x02\x01', 'has 9 bytes; expected 10'), (b'\0\0\x08\x01\0\0\0\x02\x01\x02\x03', 'has 11 bytes; expected 10'),
    (gzip.compress(bytes(1000))[:-9], 'gzip'), (b'\x1f\x8b rubbish', 'gzip'), (b'\x1f\x8b', 'gzip'), (b'\0\0\x08\xff' + b'\xff' * 1020, 'bytes; expected')])
def test_damaged_idx_files(tmp_path, raw, words):
    (tmp_path/'some-idx').write_bytes(raw)
    with pytest.raises(OSError, match=words) as e: read_idx(tmp_path/'some-idx')
    assert 'some-idx' in str(e.value) and 'expected' in str(e.value)

def test_damaged_gzip_body(tmp_path):
    raw = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 9)))))
    raw[40] ^= 0xff
    (tmp_path/'x').write_bytes(raw)
    with pytest.raises(OSError, match='gzip'): read_idx(tmp_path/'x')

# --- downloads ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def mirror(tmp_path, monkeypatch):
    "A web server on this machine in place of the public mirrors, and an empty cache folder."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        asked = []
        def __init__(self, *a): super().__init__(*a, directory=str(tmp_path/'served'))
        def do_GET(self): self.asked.append(self.path); super().do_GET()
        def log_message(self, *a): pass
    (tmp_path/'served').mkdir()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(C, '_MNIST_MIRRORS', (f'http://127.0.0.1:{server.server_port}/none/', f'http://127.0.0.1:{server.server_port}/'))
    monkeypatch.setattr('pooch.os_cache', lambda name: tmp_path/'cache'/name)
    monkeypatch.delenv('LVR_DATA', raising=False)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1'); monkeypatch.setenv('no_proxy', '127.0.0.1')
    yield tmp_path, Quiet.asked
    server.shutdown(); server.server_close()

def test_download_checks_content_and_happens_once(mirror, monkeypatch):
    tmp, asked = mirror
    images, labels = idx(np.full((2, 28, 28), 7)), idx(np.array([3, 4]))
    for name, raw in zip(C._MNIST['test'], (images, labels)):
        (tmp/'served'/f'{name}.gz').write_bytes(gzip.compress(raw))
        monkeypatch.setitem(C._MNIST_SHA256, name, hashlib.sha256(raw).hexdigest())
    assert mnist_digits('test')[1].tolist() == [3, 4]
    n = len(asked)
    assert len(mnist_digits('test')[0]) == 2 and len(asked) == n == 4                            # a miss and a hit for each of two files

def test_download_of_something_else_is_refused(mirror):
    tmp, _ = mirror
    for name in C._MNIST['test']: (tmp/'served'/f'{name}.gz').write_bytes(gzip.compress(b'not these digits'))
    with pytest.raises(OSError, match='sha256 of the content') as e: mnist_digits('test')
    assert 'LVR_DATA' in str(e.value) and "digits='embedded'" in str(e.value)
    assert not list((tmp/'cache').rglob('*.gz'))

def test_no_network_says_what_to_do(mirror, monkeypatch):
    monkeypatch.setattr(C, '_MNIST_MIRRORS', ('http://127.0.0.1:9/',))
    with pytest.raises(OSError, match="Set LVR_DATA to a folder .* or use digits='embedded'"): MovingDigits('mnist')

# --- speed and imports ----------------------------------------------------------------------------------------------------

def test_import_needs_only_torch_and_numpy():
    code = '''
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('sklearn', 'pooch', 'matplotlib', 'skimage', 'h5py', 'av', 'PIL', 'ipywidgets', 'anywidget', 'fastcore', 'nbdev', 'requests'):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import torch
from lstm_video_repr.clips import MovingDigits
print(MovingDigits(torch.ones(3, 5, 5), image_size=9).sample(2).shape)
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.returncode == 0 and '2, 20, 1, 9, 9' in out.stdout, out.stderr

def test_long_passes_need_no_memory_of_the_clips():
    "10,000 clips as floats are 3.3 GB; a batch of 50 is 16 MB. What streams must not keep what it gave."
    import gc, weakref
    held = [weakref.ref(past) for past, _ in fixed_test_set('embedded', n_clips=200).batches(50)]
    gc.collect()
    assert len(held) == 4 and sum(r() is not None for r in held) <= 1

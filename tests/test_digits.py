"Handwritten digits: the embedded ones to the bit, files read strictly, downloads checked."
import gzip
import hashlib
import http.server
import os
import random
import threading
import tracemalloc
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from lstm_video_repr import digits as D
from lstm_video_repr.digits import (
    as_digits, embedded_digits, find_mnist, load_digits, mnist_digits, name_digits, read_idx, small_digits)


def sha(x): return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def idx(array, kind=8):
    shape = b''.join(n.to_bytes(4, 'big') for n in array.shape)
    return bytes([0, 0, kind, array.ndim]) + shape + array.astype(np.uint8).tobytes()


# --- the embedded digits ------------------------------------------------------------------------------------------

def test_golden_embedded_digits():
    "The very pictures that the bundled model was trained on, and those that it is judged by."
    (train, y), (test, z) = embedded_digits(), embedded_digits('test')
    assert sha(train) == '8928be10d7ee3754611c21b9d410474d63fda38ea245027a3814cdaceee6705d'
    assert sha(test) == '1d5573bac67fbe16eba31e69a36fe1d7e371a11bc7e9c3c485bbdeb8949037f5'
    assert train.shape == (1437, 28, 28) and test.shape == (360, 28, 28)
    assert train.dtype == test.dtype == torch.uint8 and y.dtype == z.dtype == torch.int64
    assert sha(torch.cat([y, z])) == 'a3c91c262eddcf7ba8f0e37507c30284493c9b20412ffe4af30d536401f7ba21'


def test_embedded_digits_are_those_of_scikit_learn():
    source = pytest.importorskip('sklearn.datasets', reason='needs scikit-learn').load_digits()
    (train, y), (test, z) = small_digits(), small_digits('test')
    assert np.array_equal(torch.cat([train, test]), source.images)
    assert np.array_equal(torch.cat([y, z]), source.target)


def test_train_and_test_digits_never_mix():
    train, test = ({x.tobytes() for x in load_digits('embedded', s)[0].numpy()} for s in ('train', 'test'))
    assert len(train) == 1437 and len(test) == 360 and not train & test
    assert {x.tobytes() for x in as_digits('embedded', split='test').numpy()} == test


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    try: yield
    finally: torch.set_default_device(None)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try: yield
    finally: torch.set_default_dtype(before)


SETTINGS = {'float64': lambda: default_dtype(torch.float64), 'float16': lambda: default_dtype(torch.float16),
            'meta': lambda: default_device('meta'), 'inference': torch.inference_mode,
            'autocast': lambda: torch.autocast('cpu', torch.bfloat16)}


@pytest.mark.parametrize('setting', SETTINGS.values(), ids=SETTINGS)
def test_the_same_digits_under_any_setting_of_torch(setting):
    with setting(): train, test, own = *(embedded_digits(s)[0] for s in ('train', 'test')), as_digits(np.ones((2, 3, 4)))
    assert sha(train) == '8928be10d7ee3754611c21b9d410474d63fda38ea245027a3814cdaceee6705d'
    assert sha(test) == '1d5573bac67fbe16eba31e69a36fe1d7e371a11bc7e9c3c485bbdeb8949037f5'
    assert own.dtype == torch.float32 and own.device.type == 'cpu' and own.sum() == 24


def test_names_tell_what_is_in_it():
    assert [name_digits(embedded_digits(s)[0]) for s in ('train', 'test')] == ['embedded, train', 'embedded, test']
    assert name_digits(embedded_digits()[0][1:]) == '1436 pictures of 28x28'
    assert name_digits(embedded_digits()[0] / 255) == '1437 pictures of 28x28'


# --- pictures of one's own ----------------------------------------------------------------------------------------

PICTURES = np.random.default_rng(0).random((3, 4, 5))


@pytest.mark.parametrize('kind', ['float16', 'float32', 'float64', 'longdouble', '>f4', '>f8', 'uint8'])
def test_arrays_of_any_kind(kind):
    x = (PICTURES * (255 if kind == 'uint8' else 1)).astype(kind)
    got = as_digits(x[::-1, :, ::-1])
    assert got.dtype == (torch.uint8 if kind == 'uint8' else torch.float32)
    assert np.array_equal(got.numpy(), x[::-1, :, ::-1].astype(got.numpy().dtype))


@pytest.mark.parametrize('make', [lambda: PICTURES.astype('float32'), lambda: torch.tensor(PICTURES), lambda: torch.rand(3, 4, 5)])
def test_what_is_handed_over_is_copied(make):
    mine = make()
    got = as_digits(mine)
    before = got.clone()
    mine[:] = 0
    assert torch.equal(got, before) and before.any()


TENSOR = torch.tensor(PICTURES).float()
NO_DIGITS = {'sparse': TENSOR.to_sparse(), 'meta': TENSOR.to('meta'), 'complex': TENSOR.to(torch.complex64), 'bool': TENSOR > .5,
             'int32': TENSOR.int(), 'masked': np.ma.masked_array(PICTURES, PICTURES > .5), 'objects': PICTURES.astype(object),
             'ints': PICTURES.astype('int64'), 'two axes': PICTURES[0], 'empty': PICTURES[:0], 'NaN': PICTURES * np.nan,
             'bytes as floats': PICTURES * 255, 'list': PICTURES.tolist(), 'module': torch.nn.Linear(2, 2), 'number': 3,
             'none': None, 'a thousand': '+'.join(['embedded'] * 1000)}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('digits', NO_DIGITS.values(), ids=NO_DIGITS)
def test_what_are_no_digits(digits):
    with pytest.raises(ValueError, match='^digits '): as_digits(digits)


@pytest.mark.parametrize('folder', ['', ' ', 3, b'x', ['x']])
def test_what_is_no_folder(folder):
    for call in (mnist_digits, lambda **k: find_mnist(split='test', **k), lambda **k: load_digits('auto', **k), lambda **k: as_digits('embedded', **k)):
        with pytest.raises(ValueError, match='^folder is '): call(folder=folder)


# --- MNIST --------------------------------------------------------------------------------------------------------

def test_train_and_test_mnist_never_mix(mnist_folder):
    train, test = ({x.tobytes() for x in mnist_digits(s, mnist_folder)[0].numpy()} for s in ('train', 'test'))
    assert not train & test


def test_mnist_and_embedded_joined(mnist_folder):
    images, labels = load_digits('mnist+embedded', folder=mnist_folder)
    assert images.shape == (60000 + 10 * 1437, 28, 28) and labels.shape == images.shape[:1]
    assert torch.equal(images[:60000], mnist_digits('train', mnist_folder)[0])
    assert torch.equal(images[60000:], embedded_digits()[0].repeat(10, 1, 1))
    assert load_digits('embedded+mnist', 'test', folder=mnist_folder)[0].shape == (7 * 360 + 10000, 28, 28)


def test_auto_takes_mnist_where_it_is(mnist_folder, monkeypatch, tmp_path):
    monkeypatch.setenv('LVR_DATA', str(mnist_folder))
    assert len(load_digits('auto', 'test')[0]) == 10000 and len(mnist_digits('test')[0]) == 10000
    monkeypatch.setenv('LVR_DATA', str(tmp_path))
    with pytest.warns(UserWarning, match='a folder without t10k-images-idx3-ubyte and t10k-labels'):
        assert len(load_digits('auto', 'test')[0]) == 360


def test_mnist_content(mnist_folder):
    for name, want in D.MNIST_SHA256.items():
        file = next(p for s in ('train', 'test') for p in find_mnist(mnist_folder, s) if p.name.startswith(name))
        raw = file.read_bytes()
        assert hashlib.sha256(gzip.decompress(raw) if file.suffix == '.gz' else raw).hexdigest() == want


def test_mnist_is_known_by_its_content(mnist_folder):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        names = [name_digits(load_digits(name, split, folder=mnist_folder)[0])
                 for name in ('mnist', 'auto', 'mnist+embedded') for split in ('train', 'test')]
    assert names == ['MNIST, train', 'MNIST, test'] * 2 + ['MNIST and embedded, train', 'MNIST and embedded, test']


def test_other_sets_under_the_names_of_mnist_are_told(tiny, monkeypatch):
    folder, images = tiny
    found = hashlib.sha256(idx(images)).hexdigest()[:16]
    with pytest.warns(UserWarning, match=f'has 4 pictures that are not MNIST.* train-images-idx3-ubyte .sha256 {found}, not ba89'):
        assert np.array_equal(as_digits('mnist', folder=folder), images)
    monkeypatch.setenv('LVR_DATA', str(folder))
    with pytest.warns(UserWarning, match='not MNIST'): as_digits('auto')


def test_labels_of_others_are_told(mnist_folder, tmp_path):
    "The pictures are MNIST's, the labels are not."
    images, labels = find_mnist(mnist_folder, 'test')
    (tmp_path/images.name).symlink_to(images)
    (tmp_path/'t10k-labels-idx1-ubyte').write_bytes(idx(read_idx(labels).numpy()[::-1]))
    with pytest.warns(UserWarning, match=': t10k-labels-idx1-ubyte .sha256'): mnist_digits('test', tmp_path)


@pytest.mark.parametrize('value, words', [
    ('', "LVR_DATA is '', no name"), (' ', 'no name'), ('~/mnits', "'~/mnits', no folder"), ('~nobody/x', 'no folder'),
    ('a' * 5000, 'no folder'), ('HERE', 'a folder without train-images'), ('HALF', 'a folder without train-labels-idx1-ubyte .plain')])
def test_a_slip_in_the_variable_is_told(value, words, tmp_path, monkeypatch):
    if value == 'HALF': (tmp_path/'train-images-idx3-ubyte').touch()
    monkeypatch.setenv('LVR_DATA', str(tmp_path) if value in ('HERE', 'HALF') else value)
    with pytest.warns(UserWarning, match=f"{words}.*; digits 'auto' are the embedded ones"):
        assert len(as_digits('auto')) == 1437
    monkeypatch.setattr(D, 'MNIST_MIRRORS', [])
    monkeypatch.setattr('pooch.os_cache', lambda name: tmp_path/'cache')
    with pytest.warns(UserWarning, match=f'{words}.*; MNIST is taken from where'), pytest.raises(OSError): mnist_digits()


@pytest.mark.filterwarnings('ignore:.*not MNIST')
def test_home_is_found(tiny, monkeypatch):
    folder, images = tiny
    monkeypatch.setenv('HOME', str(folder.parent))
    monkeypatch.setenv('LVR_DATA', f'~/{folder.name}')
    assert np.array_equal(as_digits('auto'), images) and np.array_equal(as_digits('mnist', folder=f'~/{folder.name}'), images)


def test_nothing_is_said_without_the_variable(monkeypatch):
    monkeypatch.delenv('LVR_DATA', raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(as_digits('auto')) == 1437


def test_images_and_labels_come_from_one_place(tiny):
    "Pictures beside a folder that has only their labels are not taken for a pair."
    folder, images = tiny
    (folder/'mnist').mkdir()
    os.rename(folder/'train-labels-idx1-ubyte.gz', folder/'mnist'/'train-labels-idx1-ubyte.gz')
    assert find_mnist(folder, 'train') is None
    with pytest.raises(OSError, match='has no MNIST'): mnist_digits('train', folder)
    with pytest.raises(OSError, match='none.* is none; expected'): mnist_digits('train', folder/'none')


@pytest.fixture
def tiny(tmp_path):
    "A folder with four digits in MNIST's files."
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    (tmp_path/'train-images-idx3-ubyte').write_bytes(idx(images))
    (tmp_path/'train-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx(np.arange(4))))
    return tmp_path, images


@pytest.mark.filterwarnings('ignore:.*not MNIST')
def test_folder_with_plain_and_compressed_files(tiny):
    folder, images = tiny
    x, y = mnist_digits('train', folder)
    assert np.array_equal(x, images) and y.tolist() == [0, 1, 2, 3]
    for inner in ('mnist', 'MNIST/raw'):
        deep = folder/'deep'/inner
        deep.mkdir(parents=True)
        for f in folder.glob('train-*'): (deep/f.name).write_bytes(f.read_bytes())
        assert len(mnist_digits('train', folder/'deep')[0]) == 4
        for f in deep.iterdir(): f.unlink()
    with pytest.raises(OSError, match='has no MNIST; expected t10k-images'): mnist_digits('test', folder)


def test_folder_with_foreign_files(tiny):
    folder, images = tiny
    file = folder/'train-images-idx3-ubyte'
    file.write_bytes(idx(images[:, :14]))
    with pytest.raises(OSError, match=r'shape \(4, 14, 28\); expected MNIST'): mnist_digits('train', folder)
    file.write_bytes(idx(images[:3]))
    with pytest.raises(OSError, match='expected 3 labels'): mnist_digits('train', folder)
    file.write_bytes(idx(images))
    (folder/'train-labels-idx1-ubyte.gz').write_bytes(idx(np.array([1, 2, 3, 10])))
    with pytest.raises(OSError, match='up to 10'): mnist_digits('train', folder)


# --- files --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('raw, words', [
    (b'', 'nothing'), (b'\0\0\x08', '000008'), (b'\x93NUMPY', '934e554d'),
    (b'\0\0\x0d\x01\0\0\0\x01\0\0\0\0', '00000d01'),
    (b'\0\0\x08\0', '00000800'), (b'\0\0\x08\x03\0\0', 'has 6 bytes'),
    (b'\0\0\x08\x01\0\0\0\x02\x01', 'has 9 bytes; expected 10'),
    (b'\0\0\x08\x01\0\0\0\x02\x01\x02\x03', 'has more than 10 bytes; expected 10'),
    (gzip.compress(idx(np.ones((30, 30))), mtime=0)[:-9], 'gzip'), (b'\x1f\x8b rubbish', 'gzip'), (b'\x1f\x8b', 'gzip'),
    (b'\0\0\x08\xff' + b'\xff' * 1020, 'states 255 sizes of up to 4294967295; expected at most 8'),
    (b'\0\0\x08\x01' + b'\xff' * 4, 'states 1 sizes of up to 4294967295; .* 1073741824 bytes in all'),
    (b'\0\0\x08\x01\x40\0\0\0', 'has 8 bytes; expected 1073741832'),
    (gzip.compress(idx(np.ones(9)), mtime=0) * 2, 'has more than 17 bytes'),
    (gzip.compress(idx(np.ones(9)), mtime=0) + b'x', 'gzip')])
def test_damaged_idx_files(tmp_path, raw, words):
    (tmp_path/'some-idx').write_bytes(raw)
    with pytest.raises(OSError, match=words) as e: read_idx(tmp_path/'some-idx')
    assert 'some-idx' in str(e.value) and 'expected' in str(e.value)


def test_damaged_gzip_body(tmp_path):
    raw = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 9)))))
    raw[40] ^= 0xff
    (tmp_path/'x').write_bytes(raw)
    with pytest.raises(OSError, match='gzip'): read_idx(tmp_path/'x')


def test_pieces_of_gzip_are_one_file(tmp_path):
    raw = idx(np.arange(200).reshape(10, 20))
    (tmp_path/'x').write_bytes(gzip.compress(raw[:50]) + gzip.compress(raw[50:]) + bytes(20))
    assert read_idx(tmp_path/'x').flatten().tolist() == list(range(200))


def test_no_more_is_unpacked_than_the_header_states(tmp_path):
    "A small file of gzip that holds 60 MB."
    with gzip.open(tmp_path/'bomb', 'wb', 1) as f:
        f.write(b'\0\0\x08\x01\0\0\0\x64')
        for _ in range(60): f.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match='bomb: has more than 108 bytes'): read_idx(tmp_path/'bomb')
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally: tracemalloc.stop()


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path/'pipe', OSError), (tmp_path/'none', FileNotFoundError),
                        ('', ValueError), (3, ValueError), (None, ValueError)):
        with pytest.raises(error, match='^path is .*; expected'): read_idx(path)


def test_damaged_files_are_refused_or_read_as_they_were(tmp_path):
    "A byte changed, lost or added anywhere in a header or in a packed file; seeded."
    draw, images = random.Random(0), np.random.default_rng(0).integers(0, 256, (3, 7, 5), dtype=np.uint8)
    raw, tried, same = idx(images), 0, 0
    for whole, most in ((raw, 16), (gzip.compress(raw, mtime=0), 200)):
        for _ in range(300):
            b, k = bytearray(whole), draw.randrange(min(most, len(whole)))
            b[k:k + draw.choice([0, 1, 1])] = bytes(draw.randrange(256) for _ in range(draw.choice([0, 1, 1])))
            if b == whole: continue
            (tmp_path/'x').write_bytes(b)
            tried += 1
            try: assert np.array_equal(read_idx(tmp_path/'x'), images); same += 1
            except OSError as e: assert str(tmp_path/'x') in str(e)
    assert tried > 500 and same < 30


# --- downloads ----------------------------------------------------------------------------------------------------

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
    here = f'http://127.0.0.1:{server.server_port}/'
    monkeypatch.setattr(D, 'MNIST_MIRRORS', [f'{here}none/', here])
    monkeypatch.setattr('pooch.os_cache', lambda name: tmp_path/'cache'/name)
    monkeypatch.delenv('LVR_DATA', raising=False)
    for name in ('NO_PROXY', 'no_proxy'): monkeypatch.setenv(name, '127.0.0.1')
    yield tmp_path, Quiet.asked
    server.shutdown()
    server.server_close()


def test_download_checks_content_and_happens_once(mirror, monkeypatch):
    tmp, asked = mirror
    images, labels = idx(np.full((2, 28, 28), 7)), idx(np.array([3, 4]))
    for name, raw in zip(D.MNIST_FILES['test'], (images, labels)):
        (tmp/'served'/f'{name}.gz').write_bytes(gzip.compress(raw))
        monkeypatch.setitem(D.MNIST_SHA256, name, hashlib.sha256(raw).hexdigest())
    assert mnist_digits('test')[1].tolist() == [3, 4]
    n = len(asked)
    assert len(mnist_digits('test')[0]) == 2 and len(asked) == n == 4      # a miss and a hit for each of two files


def test_download_of_something_else_is_refused(mirror):
    tmp, _ = mirror
    for name in D.MNIST_FILES['test']: (tmp/'served'/f'{name}.gz').write_bytes(gzip.compress(b'not these digits'))
    with pytest.raises(OSError, match='MNIST could not be downloaded') as e: mnist_digits('test')
    found = hashlib.sha256(b'not these digits').hexdigest()
    for words in (found, 'expected', 'LVR_DATA', "digits='embedded'"): assert words in str(e.value)
    assert not list((tmp/'cache').rglob('*.gz'))


def test_no_network_says_what_to_do(mirror, monkeypatch):
    monkeypatch.setattr(D, 'MNIST_MIRRORS', ['http://127.0.0.1:9/'])
    with pytest.raises(OSError, match="Set LVR_DATA to a folder .* or use digits='embedded'"): as_digits('mnist')

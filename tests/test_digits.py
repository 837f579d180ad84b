"Handwritten digits: the embedded ones to the bit, files read strictly, downloads checked."
import gzip
import hashlib
import http.server
import threading

import numpy as np
import pytest
import torch

from lstm_video_repr import digits as D
from lstm_video_repr.digits import (
    as_digits, embedded_digits, find_mnist, load_digits, mnist_digits, read_idx, small_digits)


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
    assert len(load_digits('auto', 'test')[0]) == 360


def test_mnist_content(mnist_folder):
    for name, want in D.MNIST_SHA256.items():
        file = next(p for s in ('train', 'test') for p in find_mnist(mnist_folder, s) if p.name.startswith(name))
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
    (b'\0\0\x08\x01\0\0\0\x02\x01\x02\x03', 'has 11 bytes; expected 10'),
    (gzip.compress(bytes(1000))[:-9], 'gzip'), (b'\x1f\x8b rubbish', 'gzip'), (b'\x1f\x8b', 'gzip'),
    (b'\0\0\x08\xff' + b'\xff' * 1020, 'bytes; expected')])
def test_damaged_idx_files(tmp_path, raw, words):
    (tmp_path/'some-idx').write_bytes(raw)
    with pytest.raises(OSError, match=words) as e: read_idx(tmp_path/'some-idx')
    assert 'some-idx' in str(e.value) and 'expected' in str(e.value)


def test_damaged_gzip_body(tmp_path):
    raw = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 9)))))
    raw[40] ^= 0xff
    (tmp_path/'x').write_bytes(raw)
    with pytest.raises(OSError, match='gzip'): read_idx(tmp_path/'x')


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

"Files: whatever breaks while one is written, what was there is still there; a damaged one is never taken for whole."
import errno
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch

from lstm_video_repr.core import files as F


@pytest.fixture
def file(tmp_path):
    return F.write_text(tmp_path/'kept.txt', 'what was there')


def unchanged(file):
    return file.read_text() == 'what was there' and [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize('broken', ['mkstemp', 'fsync', 'chmod', 'replace'])
def test_a_full_disk(file, monkeypatch, broken):
    "At every step of writing: an OSError with the path, the old file, and nothing left lying about."
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(F.tempfile if broken == 'mkstemp' else os, broken, full)
    with pytest.raises(OSError, match='could not write .*kept.txt.*No space left.*unchanged'): F.write_text(file, 'new')
    assert unchanged(file)


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_block_that_fails(file, error):
    with pytest.raises(error):
        with F.replace_file(file) as temp:
            temp.write_text('half')
            raise error
    assert unchanged(file)


@pytest.mark.filterwarnings('ignore:.*multi-threaded:DeprecationWarning')
def test_a_killed_process(file):
    "It may leave its temporary file; the old one is whole."
    pid = os.fork()
    if pid == 0:
        with F.replace_file(file) as temp:
            temp.write_text('half')
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert file.read_text() == 'what was there'


def test_rights(tmp_path):
    "Those that `open` would give."
    (tmp_path/'plain').write_text('')
    F.write_text(tmp_path/'ours', '')
    assert stat.S_IMODE((tmp_path/'ours').stat().st_mode) == stat.S_IMODE((tmp_path/'plain').stat().st_mode)


def test_tensors_come_back(tmp_path):
    "Of every kind, transposed ones and empty ones, with the text of the header."
    g = torch.Generator().manual_seed(0)
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.float16,
             torch.int8, torch.uint8, torch.int64, torch.bool]
    tensors = {str(k): (torch.randn(3, 4, generator=g) * 9).to(k).T for k in kinds}
    tensors |= {'none': torch.zeros(0, 2), 'one': torch.tensor(1.), 'grad': torch.ones(2, requires_grad=True)}
    back, note = F.read_safetensors(F.write_safetensors(tmp_path/'t', tensors, {'a': 'ä\n"'}))
    assert note.pop('checksum') and note == {'a': 'ä\n"'} and back.keys() == tensors.keys()
    assert all(back[k].dtype == v.dtype and torch.equal(back[k], v) for k, v in tensors.items())


def test_cut_anywhere(tmp_path):
    "However much of a file is missing at its end, reading it is an OSError that names it."
    whole = F.write_safetensors(tmp_path/'whole', {'w': torch.arange(9.), 'b': torch.zeros(2)}, {'a': 'b'}).read_bytes()
    for n in range(len(whole)):
        (tmp_path/'cut').write_bytes(whole[:n])
        with pytest.raises(OSError, match="cut' is no whole safetensors file"): F.read_safetensors(tmp_path/'cut')


def test_import_extra(monkeypatch):
    "The error says what to type, and keeps the one that it comes from."
    monkeypatch.setitem(sys.modules, 'h5py', None)
    said = r"the authors' checkpoints need h5py: pip install 'lstm-video-repr\[authors\]'"
    with pytest.raises(ImportError, match=said) as caught:
        F.import_extra('h5py', 'authors', "the authors' checkpoints")
    assert isinstance(caught.value.__cause__, ImportError) and caught.value.name == 'h5py'


def test_a_link_is_written_through(tmp_path):
    "What the name points at is replaced, and the link stays one."
    (tmp_path/'real').mkdir()
    target, link = tmp_path/'real'/'best.safetensors', tmp_path/'latest.safetensors'
    target.write_bytes(b'old')
    link.symlink_to(target)
    F.write_safetensors(link, {'w': torch.ones(2)})
    assert link.is_symlink() and F.read_safetensors(target)[0]['w'].equal(torch.ones(2))
    assert [p.name for p in (tmp_path/'real').iterdir()] == ['best.safetensors']


def test_streams_are_written_into(tmp_path):
    "A pipe, and a device: whoever reads gets all of it, and what the target was it stays."
    os.mkfifo(tmp_path/'pipe')
    reader = subprocess.Popen(['cat', tmp_path/'pipe'], stdout=subprocess.PIPE)
    F.write_json(F.check_target(tmp_path/'pipe'), {'nats': 335})
    assert reader.communicate(timeout=30)[0] == b'{\n "nats": 335\n}\n' and (tmp_path/'pipe').is_fifo()
    with pytest.raises(OSError, match='a device or a pipe'): F.read_safetensors(tmp_path/'pipe')
    try: os.mknod(tmp_path/'null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError: pytest.skip('only an administrator makes devices')
    F.write_text(tmp_path/'null', 'nothing')
    assert (tmp_path/'null').is_char_device() and sorted(p.name for p in tmp_path.iterdir()) == ['null', 'pipe']


@pytest.mark.parametrize('name', ['/dev/stdout', '/dev/fd/1', '/proc/self/fd/1'])
def test_the_terminal(tmp_path, name):
    "Output that goes into a file is added to it, in order; the file is not replaced under the shell's hands."
    code = f"from lstm_video_repr.core.files import write_text; print('a'); write_text({name!r}, 'b\\n'); print('c')"
    with open(tmp_path/'out', 'w') as out: subprocess.run([sys.executable, '-c', code], stdout=out, check=True)
    assert (tmp_path/'out').read_text() == 'a\nb\nc\n'


def test_rights_and_owner_stay(file):
    "Of what is replaced."
    os.chmod(file, 0o600)
    if os.getuid() == 0: os.chown(file, 1, 1)
    before = file.stat()
    F.write_text(file, 'new')
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_found_out_at_the_start(tmp_path, monkeypatch):
    "A folder that cannot be written, and a file that is protected."
    def refuse(*args, **kwargs): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(F.tempfile, 'TemporaryFile', refuse)
    with pytest.raises(OSError, match="log is .*expected a place that can be written"): F.check_target(tmp_path/'x', 'log')
    (tmp_path/'kept').touch()
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(OSError, match='write-protected'): F.check_target(tmp_path/'kept')


CHILD = """
import os, signal, sys
from lstm_video_repr.core import files as F
with F.lock_file('run'), F.replace_file('run') as temp:
    temp.write_text('half')
    print('there', flush=True)
    if sys.argv[1] == 'die': os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def start(folder, how):
    "Another process that writes and holds the lock."
    child = subprocess.Popen([sys.executable, '-c', CHILD, how], cwd=folder, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == 'there\n'
    return child


def test_leavings(tmp_path):
    "Of a killed process they go at the next writing, of a living one they stay."
    living = start(tmp_path, 'live')
    mine, = tmp_path.glob('.run.*.tmp')
    F.write_text(tmp_path/'run', 'new')
    assert mine.exists()
    living.communicate('')
    start(tmp_path, 'die').communicate()
    assert {p.name[:5] for p in tmp_path.iterdir() if p.name != 'run'} == {'.run.'} and not list(tmp_path.glob('*.safetensors'))
    with F.lock_file(tmp_path/'run'): F.write_text(tmp_path/'run', 'newer')
    assert [p.name for p in tmp_path.iterdir()] == ['run']


def test_a_lock_is_held(tmp_path):
    "By one process at a time, who is named; and by nobody once that process is dead."
    living = start(tmp_path, 'live')
    with pytest.raises(BlockingIOError, match=f"run', in use by process {living.pid} on .* since 20"):
        with F.lock_file(tmp_path/'run'): pass
    living.kill(); living.communicate()
    with F.lock_file(tmp_path/'run'): pass


def test_every_damage_is_seen(tmp_path):
    "A bit of a number, a block of zeros, a word of the text, a name: nothing of a changed file is believed."
    g = torch.Generator().manual_seed(0)
    whole = F.write_safetensors(tmp_path/'w', {'weight': torch.randn(64, 64, generator=g)}, {'card': 'nats 341.2'}).read_bytes()
    start = len(whole) - 4 * 64 * 64
    changed = [whole[:k] + bytes([whole[k] ^ 1 << k % 8]) + whole[k + 1:] for k in range(start, len(whole), 97)]
    changed += [whole[:len(whole)//2] + bytes(len(whole) - len(whole)//2), whole.replace(b'341.2', b'335.0'),
                whole.replace(b'"weight"', b'"weighs"'), whole.replace(b'[64,64]', b'[32,128]'.ljust(7)[:7])]
    for content in changed:
        (tmp_path/'c').write_bytes(content)
        with pytest.raises(OSError, match="c' is"): F.read_safetensors(tmp_path/'c')
    assert len(changed) > 150


def test_a_large_tensor(tmp_path):
    "Its bytes are summed, and the sums hashed: the same number on any machine, and another after any change."
    big = torch.randint(-2**62, 2**62, (300_001,), generator=torch.Generator().manual_seed(0))
    def checksum(x): return F.read_safetensors(F.write_safetensors(tmp_path/'big', {'x': x}))[1]['checksum']
    seen = {first := checksum(big)}
    assert first == 'a534f7063c0aa549d7c592e28d096d9749231f65bc4be9690a6ed28f09c7b95a'
    rng = np.random.default_rng(0)
    for k in range(90):
        x = big.clone()
        raw, (a, b) = x.numpy().view(np.uint8), sorted(rng.integers(0, 8 * 300_001, 2))
        n = min(b - a, len(raw) - b, 8192)
        if k % 3 == 0: raw[a] ^= 1 << k % 8
        if k % 3 == 1: raw[a:b] = 0
        if k % 3 == 2: raw[a:a + n], raw[b:b + n] = raw[b:b + n].copy(), raw[a:a + n].copy()
        seen.add(checksum(x))
    assert len(seen) == 91


def test_what_was_read_is_ours(tmp_path):
    "The file may be replaced, cut or removed afterwards."
    file = F.write_safetensors(tmp_path/'m', {'w': torch.arange(9999.)})
    tensors, _ = F.read_safetensors(file)
    with open(file, 'r+b') as f: f.write(bytes(file.stat().st_size))
    os.truncate(file, 10)
    assert tensors['w'].equal(torch.arange(9999.))
    file.unlink()
    tensors['w'].add_(1)


def test_a_hole_is_not_read(tmp_path):
    "A file may claim to be larger than any disk; what it holds is compared with what its header promises first."
    with open(tmp_path/'hole', 'wb') as f: f.truncate(2**40)
    with pytest.raises(OSError, match="hole' is no whole safetensors file"): F.read_safetensors(tmp_path/'hole')
    raw = F.write_safetensors(tmp_path/'w', {'w': torch.ones(3)}).read_bytes()
    (tmp_path/'hole').write_bytes(raw)
    os.truncate(tmp_path/'hole', 2**40)
    with pytest.raises(OSError, match='not what its header promises'): F.read_safetensors(tmp_path/'hole')


def test_a_full_disk_under_a_lock(tmp_path, monkeypatch):
    "A lock is one even if there is no room for a name in it."
    def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'write', full)
    with F.lock_file(tmp_path/'run'):
        with pytest.raises(BlockingIOError, match='in use by another process'):
            with F.lock_file(tmp_path/'run'): pass


def test_a_single_number_at_an_odd_stride(tmp_path):
    "Torch calls it contiguous, but it is not one number after another."
    x = torch.arange(8.)[::5][:1]
    assert x.stride() == (5,)
    path = F.write_safetensors(tmp_path/'x.safetensors', {'x': x, 'empty': torch.zeros(0, 3)}, {})
    assert F.read_safetensors(path)[0]['x'].tolist() == [0.]

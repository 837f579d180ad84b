"Files: whatever breaks while one is written, what was there is still there; a damaged one is never taken for whole."
import errno
import os
import signal
import stat
import sys

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
    assert note == {'a': 'ä\n"'} and back.keys() == tensors.keys()
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


def test_a_pipe_is_no_place_for_a_file(tmp_path):
    "Nobody waits for it, and it stays a pipe."
    os.mkfifo(tmp_path/'pipe')
    with pytest.raises(OSError, match='a device or a pipe'): F.write_text(tmp_path/'pipe', 'hello')
    assert (tmp_path/'pipe').is_fifo()

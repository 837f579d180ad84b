"""Campaign `peers`: one bit of a file flipped, and who reads it without a word. The same tensors in files of this
package, of torch, safetensors, NumPy and HDF5. What others accept is counted as unseen; what we accept is a fault."""
import random
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import load_authors_checkpoint, load_model, save_authors_checkpoint, save_model
from torture_common import Campaign, TooSlow, Verdict, attempt, limits

OURS = 'load_model', 'load_authors_checkpoint'
FRAME = (1, 16, 16)


def model(): return VideoLSTM.composite(hidden_size=32, frame_shape=FRAME)


def tensors(): return {k: v.clone() for k, v in model().state_dict().items()}


def write_hdf5(path):
    import h5py
    with h5py.File(path, 'w') as f:
        for name, x in tensors().items(): f[name] = x.numpy()


def read_hdf5(path):
    import h5py
    with h5py.File(path) as f: return {name: f[name][()] for name in f}


def read_npz(path):
    with np.load(path, allow_pickle=False) as f: return dict(f)


PEERS = { # how a reader is called, a file, what writes it, what reads it
    'load_model': ('ours.safetensors', lambda path: save_model(model(), path),
                   lambda path: load_model(path).state_dict()),
    'load_authors_checkpoint': ('ours.h5', lambda path: save_authors_checkpoint(model(), path),
                                lambda path: load_authors_checkpoint(path, frame_shape=FRAME).state_dict()),
    'torch.load(weights_only=True)': ('torch.pt', lambda path: torch.save(tensors(), path),
                                      lambda path: torch.load(path, weights_only=True)),
    'safetensors.torch.load_file': ('peer.safetensors', lambda path: save_file(tensors(), path), load_file),
    'h5py.File': ('peer.h5', write_hdf5, read_hdf5),
    'numpy.load of .npz': ('peer.npz', lambda path: np.savez(path, **{k: v.numpy() for k, v in tensors().items()}),
                           read_npz)}


def is_same(a, b) -> bool:
    "The same names and bits?"
    def raw(x): return np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes()
    return list(a) == list(b) and all(raw(a[k]) == raw(b[k]) for k in a)


class Peers(Campaign):
    "The same number of flipped bits for each reader."
    name = 'peers'
    flips = dict(small=20, large=200)

    def start(self):
        torch.set_num_threads(1)
        self.good = {}
        for peer, (file, write, read) in PEERS.items():
            write(file)
            self.good[peer] = Path(file).read_bytes(), {k: np.asarray(v).copy() for k, v in read(file).items()}

    def make_cases(self): return [(peer, k) for peer in PEERS for k in range(self.flips[self.size])]

    def say(self, case): return f'{case[0]}, flip {case[1]}'

    def judge(self, case):
        peer, k = case
        (file, _, read), (raw, good) = PEERS[peer], self.good[peer]
        at = random.Random(f'{self.seed} {k}').randrange(8 * len(raw))
        flipped = bytearray(raw)
        flipped[at // 8] ^= 1 << at % 8
        Path(file).write_bytes(flipped)
        if peer in OURS: return attempt(lambda: read(file), [file], accept=lambda found: self.compare(peer, found))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                with limits(): found = read(file)
            except (Exception, TooSlow): return Verdict('refused')
            return self.compare(peer, found)

    def compare(self, peer, found):
        if is_same(self.good[peer][1], found): return Verdict('harmless')
        return Verdict('fault', 'silent: other content') if peer in OURS else Verdict('unseen')

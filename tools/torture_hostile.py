"""Files that are hostile as a whole: bombs, endless ones, headers that declare too much, HDF5 that leads outside."""
import gzip
import json
import os
import stat
import struct
from pathlib import Path

import numpy as np

GIB = 2**30


# ---- any kind

def leave_nothing(path): "No file at all."


def write_empty(path): path.touch()


def make_folder(path): path.mkdir()


def make_loop(path): path.symlink_to(path.name)


def make_pipe(path): os.mkfifo(path)


def make_endless(path):
    "A device of our own that gives zeros without end; where that cannot be had, a file with a hole of a terabyte."
    try: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except (OSError, AttributeError): make_hole(path)


def make_hole(path):
    with open(path, 'wb') as f: f.truncate(2**40)


# ---- safetensors

def with_header(header, data=b'', *, size=None): # gives what writes it
    "A safetensors file with this header."
    def write(path):
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack('<Q', len(raw) if size is None else size) + raw + data)
    return write


def entry(dtype='F32', shape=(1,), offsets=(0, 4)): return dict(dtype=dtype, shape=shape, data_offsets=offsets)


SAFETENSORS = {
    'header of 2**63 bytes': with_header(b'{}', size=2**63), 'header of all': with_header(b'{}', size=10**8),
    'deep JSON': with_header(b'[' * 10**5), 'deep object': with_header(b'{"a":' * 10**5),
    'no object': with_header([1]), 'no JSON': with_header(b'\xff' * 100),
    'huge shape': with_header(dict(a=entry(shape=(2**62, 2**62))), b'\0' * 4),
    'negative shape': with_header(dict(a=entry(shape=(-1,))), b'\0' * 4),
    'offsets crossed': with_header(dict(a=entry(offsets=(4, 0))), b'\0' * 4),
    'offsets outside': with_header(dict(a=entry(offsets=(0, 2**40), shape=(2**38,))), b'\0' * 4),
    'overlap': with_header(dict(a=entry(), b=entry()), b'\0' * 4),
    'spaces': with_header(b'{}' + b' ' * 10**7), 'unknown dtype': with_header(dict(a=entry('X9')), b'\0' * 4),
    'many names': with_header({str(k): entry(offsets=(0, 0), shape=(0,)) for k in range(10**4)}),
    'metadata of numbers': with_header({'__metadata__': {'config': 1}}),
}


# ---- IDX

def idx(sizes, data=b'', *, kind=8, packed=False):
    def write(path):
        raw = bytes([0, 0, kind, len(sizes)]) + np.array(sizes, '>u4').tobytes() + data
        path.write_bytes(gzip.compress(raw) if packed else raw)
    return write


def write_bomb(path):
    "Less than a megabyte that becomes 160."
    with gzip.open(path, 'wb', 1) as f:
        f.write(b'\0\0\x08\x01' + np.array([3], '>u4').tobytes())
        for _ in range(160): f.write(bytes(2**20))


IDX = {
    'bomb': write_bomb, 'huge sizes': idx([2**32 - 1] * 4), 'huge sizes, packed': idx([2**32 - 1] * 4, packed=True),
    '255 dimensions': idx([1] * 255), 'no dimensions': idx([]), 'floats': idx([2], b'\0' * 8, kind=13),
    'a gigabyte, packed': idx([2**30], b'\0', packed=True), 'nothing of it': idx([0, 28, 28], b'x'),
}


# ---- npy

def npy(descr="'|u1'", shape='(20, 2, 64, 64)', order='False', *, size=None, data=20 * 2 * 4096, version=1):
    def write(path):
        head = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + '\n'
        size_of = struct.pack('<H' if version == 1 else '<I', len(head) if size is None else size)
        path.write_bytes(b'\x93NUMPY' + bytes([version, 0]) + size_of + head.encode('latin1') + bytes(data))
    return write


def write_archive(path):
    with open(path, 'wb') as f: np.savez(f, a=np.zeros((20, 2, 64, 64), np.uint8))


NPY = {
    'objects': npy("'|O'"), 'signed': npy("'|i1'"), 'wide': npy("'>u2'"), 'records': npy("[('a', '|u1')]"),
    'header of 4 GiB': npy(size=2**32 - 1, version=2), 'version 9': npy(version=9), 'code': npy('__import__("os")'),
    'huge': npy(shape='(20, 10**12, 64, 64)'), 'huge number': npy(shape='(20, 1000000000000, 64, 64)'),
    'negative': npy(shape='(20, -1, 64, 64)'), 'no shape': npy(shape='None'), 'flags': npy(shape='(20, True, 64, 64)'),
    'columns first': npy(order='True'), 'shorter': npy(data=100), 'too long': npy(data=20 * 3 * 4096),
    'deep': npy(shape='(' * 5000), 'archive': write_archive, 'nothing of it': npy(shape='(20, 0, 64, 64)', data=0),
}


# ---- HDF5

LAYOUT = { # of a model of 4 units on frames (1, 4, 4), as the authors' programs write it
    **{f'lstm_1_{part}:{k}': s for part in ('enc', 'dec', 'fut') for k, s in
       dict(w_dense=(16, 4), b=(1, 16), w_diag=(1, 12)).items()},
    'lstm_1_enc:w_input': (16, 16),
    **{f'lstm_1_{part}:{k}': s for part in ('dec', 'fut') for k, s in dict(w_output=(16, 4), b_output=(1, 16)).items()}}


def hdf5(change): # gives what writes it
    "A whole checkpoint, but for what `change` does to the open file."
    def write(path):
        import h5py
        with h5py.File(path, 'w') as f:
            for name, shape in LAYOUT.items(): f[name] = np.ones(shape, 'f4')
            change(f)
    return write


def write_plain_hdf5(path):
    "A whole checkpoint as the authors' programs wrote it, without a checksum."
    hdf5(lambda f: None)(path)


def outside() -> str:
    "Another file, which is not to be followed."
    import h5py
    with h5py.File('outside.h5', 'w') as f: f['x'] = np.full((16, 4), 7, 'f4')
    Path('outside.raw').write_bytes(np.full(64, 7, 'f4').tobytes())
    return 'outside.h5'


NAME = 'lstm_1_enc:w_dense'


def link_outside(f):
    import h5py
    del f[NAME]
    f[NAME] = h5py.ExternalLink(outside(), 'x')


def store_outside(f):
    outside()
    del f[NAME]
    f.create_dataset(NAME, (16, 4), 'f4', external=[('outside.raw', 0, 256)])


def map_outside(f):
    import h5py
    layout = h5py.VirtualLayout((16, 4), 'f4')
    layout[:] = h5py.VirtualSource(outside(), 'x', (16, 4))
    del f[NAME]
    f.create_virtual_dataset(NAME, layout)


def replace(**options): # of `create_dataset`
    "The first array is another one."
    def change(f):
        del f[NAME]
        f.create_dataset(NAME, **options)
    return change


def add(name, **options):
    "One array more."
    return lambda f: f.create_dataset(name, **options)


def declare_units(f):
    "A model of 12000 units, of which nothing was ever written."
    for name in list(f): del f[name]
    for name, (a, b) in LAYOUT.items(): f.create_dataset(name, (a if a < 2 else 48000, b if b == 16 else 12000), 'f4')


def link_loop(f):
    import h5py
    del f[NAME]
    f[NAME] = h5py.SoftLink('/' + NAME)


def make_group(f):
    del f[NAME]
    f.create_group(NAME)


HDF5 = {
    'link outside': hdf5(link_outside), 'stored outside': hdf5(store_outside), 'mapped outside': hdf5(map_outside),
    'link to itself': hdf5(link_loop), 'a group': hdf5(make_group), '12000 units': hdf5(declare_units),
    'one array of layer 10**8': hdf5(add('lstm_100000000_enc:w_dense', shape=(16, 4), dtype='f4')),
    'one array of layer 10**5000': hdf5(add(f'lstm_{"9" * 5000}_enc:w_dense', shape=(16, 4), dtype='f4')),
    'text': hdf5(replace(data=b'abc')), 'objects': hdf5(replace(data=['a', 'b'])),
    'complex': hdf5(replace(shape=(16, 4), dtype='c8')), 'whole numbers': hdf5(replace(shape=(16, 4), dtype='i4')),
    'records': hdf5(replace(shape=(16, 4), dtype=[('a', 'f4')])),
    'NaN': hdf5(replace(data=np.full((16, 4), np.nan, 'f4'))),
    'three axes': hdf5(replace(shape=(16, 4, 1), dtype='f4')),
    'nothing': hdf5(replace(data=None, dtype='f4', shape=None)), 'a number': hdf5(replace(data=1.)),
    'never written': hdf5(replace(shape=(4 * 10**6, 10**6), dtype='f4', chunks=(1000, 1000), compression='gzip')),
}


# ---- which reader gets what

LEFT_ASIDE = {'one array of layer 10**8', 'one array of layer 10**5000'} # may be read: nothing of it is in the model

ANY = {'no file': leave_nothing, 'empty': write_empty, 'folder': make_folder, 'link to itself': make_loop,
       'pipe': make_pipe, 'endless': make_endless, 'hole': make_hole}
READERS = {'model': SAFETENSORS, 'checkpoint': SAFETENSORS, "authors' checkpoint": HDF5, 'IDX': IDX, 'packed IDX': {},
           'moving MNIST': NPY}
HOSTILE_FILES = {(reader, name): write for reader, own in READERS.items() for name, write in (ANY | own).items()}

"""Campaign `bytes`: files of each kind that we read, damaged byte by byte, forged, or hostile as a whole.

Right is an `OSError` or a `ValueError` that names the file, or what was in it before it was damaged. A change that no
checksum guards (files of other programs, or of earlier versions) counts as unseen, unless it is one of the header that
does not fit the rest."""
import copy
import gzip
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lstm_video_repr.clips import MovingMNISTFile
from lstm_video_repr.core.files import read_safetensors, write_safetensors
from lstm_video_repr.digits import read_idx
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import Recipe, Run, plain_step
from lstm_video_repr.zoo import load_authors_checkpoint, load_model, save_authors_checkpoint, save_model
from torture_common import Campaign, Verdict, attempt
from torture_hostile import HOSTILE_FILES, LEFT_ASIDE, write_plain_hdf5

SLACK = 48 * 2**20 # bytes of memory that reading may take beside twice what a file has


@dataclass(frozen=True)
class Subject:
    "A kind of file."
    file: str # its name in the current folder
    write: object # function of the file's name
    read: object # function of it; gives content, a dictionary
    guarded: bool = True # is there a checksum of everything?
    header: int = 0 # where there is none: bytes at the beginning that have to fit the rest
    damaged: str = '' # the file that is damaged, if it is one beside `file`: a pattern


# ---- writing and reading

def tiny(): return VideoLSTM.composite(hidden_size=4, frame_shape=(1, 4, 4))


def read_model(path):
    "Content; that nobody could check it is said in the card, and not compared."
    model = load_model(path)
    card = {k: v for k, v in model.card.items() if k != 'integrity'}
    return dict(model.state_dict(), config=repr(model.config), card=json.dumps(card))


def sort_header(path):
    "The same safetensors file, whose header is not in an order of chance."
    raw = Path(path).read_bytes()
    end = 8 + int.from_bytes(raw[:8], 'little')
    header = json.dumps(json.loads(raw[8:end]), sort_keys=True, separators=(',', ':')).encode()
    header += b' ' * (-len(header) % 8)
    Path(path).write_bytes(len(header).to_bytes(8, 'little') + header + raw[end:])


def write_old_model(path):
    "As before there were checksums."
    save_model(tiny(), path)
    tensors, metadata = read_safetensors(path)
    save_file(tensors, path, {k: v for k, v in metadata.items() if k != 'checksum'})


def new_run():
    clips = torch.rand(6, 4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Run(tiny(), clips, 4, recipe=Recipe(batch_size=2, warmup=0), precision='fp32')


def take_step(run):
    run.advance(plain_step(run, *run.next_batch()))
    run.add_row()


def write_run(path):
    run = new_run()
    take_step(run), take_step(run)
    for row in run.history.rows: row['seconds'] = 0. # so that the file is always the same
    run.save(path)


def read_run(path):
    "The state of a run, which must be able to go on. A history that is lost with a warning is None."
    run = new_run()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        run.load(path)
    lost = any('.jsonl' in str(w.message) for w in said)
    found = dict(model=run.model.state_dict(), memory=run.optimizer.state_dict()['state'], rows=run.history.rows,
                 step=run.step, seen=run.seen, index=run.clips.index, recent=run.here.recent)
    found = copy.deepcopy(found) | (dict(rows=None) if lost else {})
    take_step(run)
    return found


def write_idx(path):
    raw = b'\0\0\x08\x03' + np.array([3, 5, 7], '>u4').tobytes() + bytes(range(3 * 5 * 7))
    Path(path).write_bytes(gzip.compress(raw, mtime=0) if path.endswith('.gz') else raw)


def write_npy(path): np.save(path, np.random.default_rng(0).integers(0, 256, (20, 2, 64, 64), np.uint8))


def read_npy(path):
    clips = MovingMNISTFile(path)
    return dict(n=len(clips), clips=clips.read(0, 2))


def read_hdf5(path): return load_authors_checkpoint(path, frame_shape=(1, 4, 4)).state_dict()


def model_writer(dtype): return lambda path: save_model(tiny(), path, card=dict(clips=12, data='x'), dtype=dtype)


SUBJECTS = {
    'model': Subject('model.safetensors', model_writer(None), read_model),
    'model in 16 bits': Subject('half.safetensors', model_writer(torch.float16), read_model),
    'model in 8 bits': Subject('small.safetensors', model_writer(torch.int8), read_model),
    'old model': Subject('old.safetensors', write_old_model, read_model, guarded=False),
    'checkpoint': Subject('run.safetensors', write_run, read_run),
    'rows of a checkpoint': Subject('rows.safetensors', write_run, read_run, damaged='rows.safetensors.rows-*.jsonl'),
    "authors' checkpoint": Subject('authors.h5', lambda path: save_authors_checkpoint(tiny(), path), read_hdf5),
    "old authors' checkpoint": Subject('unguarded.h5', write_plain_hdf5, read_hdf5, guarded=False),
    'IDX': Subject('plain.idx', write_idx, lambda path: dict(x=read_idx(path)), False, header=16),
    'packed IDX': Subject('packed.idx.gz', write_idx, lambda path: dict(x=read_idx(path))),
    'moving MNIST': Subject('clips.npy', write_npy, read_npy, False, header=128),
}


def is_same(a, b) -> bool:
    "Have two contents the same structure and the same bits? A history that was lost is no content."
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        def raw(x): return x.reshape(-1).view(torch.uint8)
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_same(a[k], b[k]) or k == 'rows' and b[k] is None for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(is_same, a, b))
    return type(a) is type(b) and a == b


# ---- damage: functions of the bytes and of a random generator

def flip(raw, rng, at=None):
    at = rng.randrange(8 * len(raw)) if at is None else at
    raw[at // 8] ^= 1 << at % 8


def set_byte(raw, rng): raw[rng.randrange(len(raw))] = rng.choice([0, 255, rng.randrange(256)])


def cut(raw, rng): del raw[rng.choice([0, 1, 8, len(raw) // 2, len(raw) - 1, rng.randrange(len(raw))]):]


def extend(raw, rng): raw += rng.choice([b'\0', b'\0' * 512, rng.randbytes(64), bytes(raw[:64]), bytes(raw)])


def blank(raw, rng):
    "As after a power cut: zeros from somewhere on, or one block of them."
    start = rng.choice([len(raw) // 2, rng.randrange(len(raw))])
    end = rng.choice([len(raw), min(len(raw), start + 64)])
    raw[start:end] = bytes(end - start)


def swap(raw, rng):
    "Two blocks change places, or one is doubled, or lost."
    size = rng.choice([4, 16, 64])
    a, b = (rng.randrange(max(1, len(raw) - size)) // size * size for _ in range(2))
    way = rng.choice(['swap', 'copy', 'insert', 'lose'])
    one, other = raw[a:a + size], raw[b:b + size]
    if way == 'swap': raw[a:a + size], raw[b:b + size] = other, one
    if way == 'copy': raw[b:b + size] = one
    if way == 'insert': raw[b:b] = one
    if way == 'lose': del raw[b:b + size]


DAMAGE = dict(flip=flip, set=set_byte, cut=cut, extend=extend, blank=blank, swap=swap)


# ---- forgery: the checksum fits, the content is nonsense

ODD_JSON = [None, True, -1, 0, 2**70, 1e308, float('nan'), 'x', '', [], {}, [[[]]], 'remove', 'unknown']


def find_leaves(value, path=()): # gives paths
    "All places inside a JSON value."
    if path: yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in inner: yield from find_leaves(v, (*path, k))


def forge_text(tensors, metadata, rng):
    "One place in the JSON of a header becomes something else."
    key = rng.choice([k for k in metadata if k != 'checksum'])
    try: value = json.loads(metadata[key])
    except ValueError: value = None
    if not isinstance(value, dict): metadata[key] = rng.choice(['', '0', '99', 'x', '{}', '[', '[' * 10**5]); return
    path, odd = rng.choice(list(find_leaves(value))), rng.choice(ODD_JSON)
    place = value
    for k in path[:-1]: place = place[k]
    if odd == 'remove': del place[path[-1]]
    elif odd == 'unknown' and isinstance(place, dict): place['unknown'] = 1
    else: place[path[-1]] = odd
    metadata[key] = json.dumps(value)


def forge_tensor(tensors, metadata, rng):
    "One tensor becomes another."
    name = rng.choice(sorted(tensors))
    x = tensors[name]
    made = [x.double(), x.to(torch.int32), x > 0, x[None], x.flatten()[:-1], x * float('nan'), x / 0,
            x.repeat(2, *[1] * (x.dim() - 1)), x.new_zeros(0), x.new_zeros(10**3, 10**3), None, 'renamed', 'more']
    new = rng.choice(made)
    if new is None: del tensors[name]
    elif isinstance(new, torch.Tensor): tensors[name] = new
    else: tensors[name + '.x' if new == 'more' else 'x' + name] = tensors.pop(name) if new == 'renamed' else x


FORGERY = dict(text=forge_text, tensor=forge_tensor)


# ---- the campaign

class Bytes(Campaign):
    "Every kind of file, every kind of damage."
    name = 'bytes'
    each = dict(small=5, large=1000) # random damages of a kind; twice as many forgeries
    longest = 2**10 # bytes of a file of which every bit is flipped

    def start(self):
        torch.set_num_threads(1)
        self.raw, self.good = {}, {}
        for name, subject in SUBJECTS.items():
            subject.write(subject.file)
            if '.safetensors' in subject.file: sort_header(subject.file)
            self.good[name] = subject.read(subject.file)
            self.raw[name] = self.place(subject).read_bytes()

    def place(self, subject): return next(Path().glob(subject.damaged or subject.file))

    def make_cases(self):
        n = self.each[self.size]
        cases = [(s, d, k) for s in SUBJECTS for d in DAMAGE for k in range(n)]
        cases += [(s, f, k) for s, subject in SUBJECTS.items() if 'safetensors' in subject.file and subject.guarded
                  and not subject.damaged for f in FORGERY for k in range(2 * n)]
        if self.size == 'large':
            cases += [(s, 'bit', k) for s in SUBJECTS for k in range(8 * min(len(self.raw[s]), self.longest))]
        return cases + [(subject, name, 0) for subject, name in HOSTILE_FILES]

    def judge(self, case):
        name, how, k = case
        if (name, how) in HOSTILE_FILES: return judge_hostile(SUBJECTS[name], how, HOSTILE_FILES[name, how])
        subject, rng = SUBJECTS[name], random.Random(f'{self.seed} {case}')
        place, raw = self.place(subject), bytearray(self.raw[name])
        try:
            if how in FORGERY: forge(place, FORGERY[how], rng)
            elif how == 'bit': flip(raw, rng, k)
            else: DAMAGE[how](raw, rng)
            if how not in FORGERY: place.write_bytes(raw)
            return self.read(name, forged=how in FORGERY, first=first_change(raw, self.raw[name]))
        finally: place.write_bytes(self.raw[name])

    def read(self, name, *, forged, first):
        "Read a file that was changed, from byte `first` on."
        subject, good = SUBJECTS[name], self.good[name]
        def accept(content):
            if forged or is_same(good, content): return Verdict('harmless')
            if not subject.guarded and first >= subject.header: return Verdict('unseen')
            return Verdict('fault', f'silent: other content, byte {first}')
        names = [subject.file, self.place(subject).name]
        most = 2 * max(self.place(subject).stat().st_size, len(self.raw[name])) + SLACK
        return attempt(lambda: subject.read(subject.file), names, accept=accept, most=most)


def first_change(a, b) -> int:
    "Where two files begin to differ."
    return next((k for k, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def forge(
    place: Path, # of a safetensors file
    change, # one of FORGERY
    rng: random.Random, # what is drawn
) -> None:
    "Write it anew, with other content and the checksum of that."
    tensors, metadata = read_safetensors(place)
    change(tensors, metadata, rng)
    write_safetensors(place, tensors, metadata)


def judge_hostile(
    subject: Subject, # whose reader is to read it
    name: str, # of the file, in HOSTILE_FILES
    write, # function of a path
) -> Verdict:
    "A whole file that is none: it must be refused."
    def accept(content):
        return Verdict('harmless') if name in LEFT_ASIDE else Verdict('fault', 'silent: a hostile file was read')
    path = Path('hostile' + Path(subject.file).suffix)
    try:
        write(path)
        used = path.lstat().st_blocks * 512 if path.is_file() else 0
        return attempt(lambda: subject.read(str(path)), [path.name], most=2 * used + SLACK, accept=accept)
    finally: path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)

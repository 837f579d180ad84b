"Clips: golden ones, the genuine ones, the contract that every source keeps, and numbers that are the same everywhere."
import copy
import gc
import hashlib
import inspect
import itertools
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lstm_video_repr import clips as C
from lstm_video_repr.clips import (
    ArrayClips, Clips, DatasetClips, FiniteClips, FixedClips, MovingDigits, MovingMNISTFile, StreamClips, as_clips,
    bounce, clips_checksum, fixed_test_set, mix, random_paths, render, shuffle, uniform)
from lstm_video_repr.digits import embedded_digits, mnist_digits


def sha(x): return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


@pytest.fixture(scope='session')
def genuine(data_folder):
    "Five clips of the genuine test file, and what they were made from."
    file = data_folder/'moving_mnist'/'mnist_test_seq_5.npy'
    if not file.is_file(): pytest.skip('needs genuine clips: LVR_DATA has no moving_mnist/mnist_test_seq_5.npy')
    return file, json.loads(file.with_suffix('.json').read_text())


# --- golden values ------------------------------------------------------------------------------------------------

def test_golden_clips_of_embedded_digits():
    "The same clips everywhere, and for ever."
    train = embedded_digits()[0]
    assert sha(train) == '8928be10d7ee3754611c21b9d410474d63fda38ea245027a3814cdaceee6705d'
    first = MovingDigits(train, seed=0).clips(0, 8)
    assert sha(first) == 'ed2efda422b0eb6a9e53e3d045c82b43ed297ffd341ee8b9d8bb8ebcae1c8a9b'
    assert clips_checksum(first) == '6629f7ddd8e49e8318a4e02ea467acd346fcb1ef71bdfa886d5a46c86446c279'
    assert torch.equal(torch.cat(MovingDigits(train, seed=0).batch(8), 1), first)
    fast = MovingDigits(train, seed=3, speed=(.05, .2)).clips(2000, 8)
    assert clips_checksum(fast) == '9955e67c041f9a3af1d9a220be9a1e478039889ca350946c2216d3a31690ecef'
    later = MovingDigits(train, seed=0).clips(700, 40)
    assert clips_checksum(later) == '41499787be549031959bcd401d5abea86efa01b35d1a87fd84c6b370f3b0ab22'


def test_hash_and_uniform_golden():
    assert [mix(k) for k in (0, 1, 2**32 - 1)] == mix(torch.tensor([0, 1, 2**32 - 1])).tolist()
    assert mix(2**32 + 5) == mix(5)
    big = torch.tensor([0, 7, 2**31, 2**32 + 1, 2**62])
    u = uniform(2**63 - 1, big, 3)
    assert u.dtype == torch.float64 and (u >= 0).all() and (u < 1).all() and len(set(u.tolist())) == 5
    assert torch.equal((u * 2**32).frac(), torch.zeros(5, dtype=torch.float64))


def test_order_of_a_finite_set_golden():
    "Runs that were stopped go on in the same order with any later version."
    order = as_clips(torch.zeros(1000, 2, 1), seed=7).numbers(0, 3000)
    assert sha(order) == 'c6de0313bcca7b3d7ee67ad8660f132a17f4c7b9c6ba0f996153b08e4d5579d8'


def test_fixed_test_set_of_embedded_digits():
    t = fixed_test_set('embedded')
    assert len(t) == 10000 and t.frame_shape == (1, 64, 64)
    found = clips_checksum(torch.cat(t.batch(100), 1))
    assert found == '85a18745d1669185024ff8ee1b13aad8f2456148b1dd75b42634980d5c431bd9'
    test = {x.tobytes() for x in embedded_digits('test')[0].numpy()}
    assert {x.tobytes() for x in t.source.digits.numpy()} == test


def test_fixed_test_set_of_mnist(mnist_folder):
    t = fixed_test_set(folder=mnist_folder)
    assert len(t.source.digits) == 10000
    found = clips_checksum(torch.cat(t.batch(100), 1))
    assert found == '4e6c1e295b867d18b6ea72db0047df24ec02d5fa15488279f295effc514fe57a'


# --- settings of torch --------------------------------------------------------------------------------------------

@contextmanager
def set_and_back(setter, value, before):
    setter(value)
    try: yield
    finally: setter(before)


SETTINGS = {
    'float64': lambda: set_and_back(torch.set_default_dtype, torch.float64, torch.float32),
    'float16': lambda: set_and_back(torch.set_default_dtype, torch.float16, torch.float32),
    'device meta': lambda: set_and_back(torch.set_default_device, 'meta', None),
    'deterministic': lambda: set_and_back(torch.use_deterministic_algorithms, True, False),
    'inference': torch.inference_mode, 'no grad': torch.no_grad, 'autocast': lambda: torch.autocast('cpu', torch.bfloat16)}


@pytest.mark.parametrize('k, setting', list(enumerate(SETTINGS.values())), ids=list(SETTINGS))
def test_the_same_clips_under_any_setting(k, setting, tmp_path):
    "Made, read and described; nothing of a setting is left in what is remembered for later."
    np.save(tmp_path/'x.npy', np.random.default_rng(0).integers(0, 256, (20, 5, 64, 64), dtype=np.uint8))
    series = torch.arange(60.).view(10, 3, 2)
    def see(): # a seed of its own, so that no order is remembered from before
        floats = MovingDigits(np.linspace(0, 1, 60).reshape(3, 4, 5), image_size=9, seed=k, past=2, future=1)
        sources = [floats, as_clips(series, seed=100 + k), as_clips(series.numpy(), seed=200 + k), as_clips([(series, series)]),
                   as_clips((series * 4).byte().numpy(), scale=255), MovingMNISTFile(tmp_path/'x.npy', past=3, future=2)]
        return [(source.describe(), *source.batch(7)) for source in sources]
    with setting():
        digits, inside = MovingDigits('embedded', seed=0).clips(0, 8), see()
    assert clips_checksum(digits) == '6629f7ddd8e49e8318a4e02ea467acd346fcb1ef71bdfa886d5a46c86446c279'
    for (a, *x), (b, *y) in zip(inside, see(), strict=True):
        assert a == b and equal(x, y) and [v.dtype for v in x] == [v.dtype for v in y] and x[0].device.type == 'cpu'


# --- genuine clips ------------------------------------------------------------------------------------------------

def test_render_gives_the_genuine_frames(genuine, mnist_folder):
    file, notes = genuine
    digits, labels = mnist_digits('test', mnist_folder)
    which = torch.tensor([n['mnist_test_index'] for n in notes])
    corners = torch.tensor([n['top_left_row_col'] for n in notes])
    assert labels[which].tolist() == [n['label'] for n in notes]
    frames = render(digits[which], corners)[:, :, 0]
    assert torch.equal(frames, torch.from_numpy(np.load(file)).transpose(0, 1)) and frames.shape[:2] == (5, 20)


def test_genuine_file_is_read_clip_first(genuine):
    frames, clips = torch.from_numpy(np.load(genuine[0])).float() / 255, MovingMNISTFile(genuine[0])
    past, future = (torch.cat(x) for x in zip(*clips.batches(2)))
    assert len(clips) == 5 and past.shape == future.shape == (5, 10, 1, 64, 64)
    assert torch.equal(past[3, 4, 0], frames[4, 3]) and torch.equal(future[3, 4, 0], frames[14, 3])


def test_genuine_paths_follow_bounce(genuine):
    "Between walls the genuine corners move as `bounce` does: a constant velocity of 3.6 pixels, then flipped."
    for path in (np.array(p) for note in genuine[1] for p in note['top_left_row_col']):
        d = np.abs(np.diff(path, axis=0)).astype(float)
        free = (path[1:] > 0) & (path[1:] < 36) & (path[:-1] > 0) & (path[:-1] < 36)
        v = [d[free[:, a], a].mean() for a in (0, 1)]
        assert abs(math.hypot(*v) - 3.6) < .25


# --- physics ------------------------------------------------------------------------------------------------------

def test_bounce_matches_a_plain_loop():
    m = MovingDigits(torch.ones(3, 28, 28), past=50, future=50, seed=9)
    _, corners = m.plan(0, 4)
    for k, n in itertools.product(range(4), range(2)):
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
    def speeds(speed):
        path = random_paths(0, torch.arange(500), 2, speed=speed)
        inside = ((path > 0) & (path < 1)).all(-1).all(-1)
        return (path[:, 1] - path[:, 0]).norm(dim=-1)[inside]
    assert (speeds(.1) - .1).abs().max() < 1e-8
    s = speeds((.05, .2))
    assert .05 - 1e-8 < s.min() < .06 and .19 < s.max() < .2 + 1e-8 and abs(s.mean() - .125) < .01


def test_directions_are_uniform_on_the_circle():
    path = random_paths(0, torch.arange(40000), 2, speed=.001)
    move = path[:, 1] - path[:, 0]
    inside = ((path > .002) & (path < .998)).all(-1).all(-1)
    angle = torch.atan2(move[:, 0], move[:, 1])[inside]
    count = torch.histc(angle, 36, -math.pi, math.pi)
    chi = ((count - count.mean()) ** 2 / count.mean()).sum()
    assert chi < 35 + 4 * math.sqrt(70)


# --- random numbers -----------------------------------------------------------------------------------------------

def chi_square(u, bins):
    u = u.reshape(len(u), -1)
    cell = ((u * bins).long() * bins ** torch.arange(u.shape[1])).sum(1)
    count = torch.bincount(cell, minlength=bins ** u.shape[1]).double()
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


def check_passes(turns):
    "Each pass has each of ten things once, and each thing anywhere."
    passes = turns.view(-1, 10)
    assert torch.equal(passes.sort(1).values, torch.arange(10).expand_as(passes))
    place = torch.stack([(passes == d).float().nonzero()[:, 1] for d in range(10)], 1)     # where thing d came
    assert abs(chi_square((place.flatten().double() + .5) / 10, 10)) < 4


@pytest.mark.parametrize('n_digits', [1, 2, 3])
def test_each_pass_uses_each_digit_once(n_digits):
    check_passes(MovingDigits(torch.ones(10, 2, 2), n_digits=n_digits, image_size=4, seed=4).plan(0, 600)[0].flatten())


def test_each_epoch_has_each_clip_once():
    clips = as_clips(torch.arange(10.).view(10, 1, 1).expand(10, 2, 1), seed=4)
    turns = clips.batch(600)[0].flatten().long()
    check_passes(turns)
    assert torch.equal(clips.read(123, 45)[0].flatten().long(), turns[123:168])
    epochs = [tuple(e) for e in turns.view(-1, 10).tolist()]
    assert len(set(epochs)) == 60                                                            # every epoch another
    assert torch.equal(shuffle(4, torch.tensor(599), 10, stream=5), turns[599])
    assert tuple(as_clips(torch.zeros(10, 2, 1), seed=5).numbers(0, 10).tolist()) != epochs[0]


def test_order_remembered_in_inference_mode_serves_training():
    clips = as_clips(torch.rand(9, 4, 3), seed=2**40)
    with torch.inference_mode(): clips.batch(3)
    weight = torch.ones(3, requires_grad=True)
    (clips.batch(3)[0] * weight).sum().backward()
    assert weight.grad is not None


def test_same_clips_in_any_batch_size_and_order():
    m = MovingDigits('embedded', seed=5)
    all_at_once = m.clips(0, 60)
    for size in (1, 7, 32):
        m.index = 0
        parts = [torch.cat(m.batch(min(size, 60 - i)), 1) for i in range(0, 60, size)]
        assert torch.equal(torch.cat(parts), all_at_once) and m.index == 60
    assert torch.equal(m.clips(40, 3), all_at_once[40:43]) and m.index == 60
    far = 10**12
    assert torch.equal(m.clips(far, 4)[2], m.clips(far + 2, 1)[0])


def test_seeds_differ_and_global_state_is_untouched():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a, b = MovingDigits('embedded', seed=0).clips(0, 2), MovingDigits('embedded', seed=1).clips(0, 2)
    as_clips(a).batch(5)
    assert not torch.equal(a, b) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_same_clips_on_other_devices(device):
    found = torch.cuda.is_available() if device == 'cuda' else torch.backends.mps.is_available()
    if not found: pytest.skip(f'this machine has no {device}')
    here, there = MovingDigits('embedded', seed=0), MovingDigits('embedded', seed=0, device=device)
    x = there.clips(0, 64)
    assert x.device.type == device and torch.equal(x.cpu(), here.clips(0, 64)) and here.describe() == there.describe()


# --- the contract, kept by every source ---------------------------------------------------------------------------

SERIES = torch.arange(23 * 7 * 3.).view(23, 7, 3)                    # 23 clips, 7 frames, 3 values; all values differ


class Items(Dataset):
    def __len__(self): return 23
    def __getitem__(self, k): return SERIES[k], k


class Own(Clips):
    frame_shape, past, future = (3,), 4, 3
    def read(self, first, n):
        x = SERIES[torch.arange(first, first + n) % 23] + torch.arange(first, first + n)[:, None, None] // 23
        return x[:, :4], x[:, 4:]


class Numbered(FiniteClips):
    frame_shape, past, future, seed = (3,), 4, 3, 11
    def __len__(self): return 23
    def take(self, numbers): return SERIES[numbers, :4], SERIES[numbers, 4:]


def chunks(size): return [(SERIES[i:i + size, :4], SERIES[i:i + size, 4:]) for i in range(0, 23, size)]


class Again:
    "An iterable that is no list."
    def __iter__(self): return iter(chunks(4))


def moving_file(folder):
    path = folder/'file.npy'
    if not path.is_file(): np.save(path, np.random.default_rng(0).integers(0, 256, (20, 23, 64, 64), dtype=np.uint8))
    return MovingMNISTFile(path, past=4, future=3)


def small_pictures(): return embedded_digits()[0][:10, ::4, ::4]


SOURCES = {
    'MovingDigits': lambda tmp: MovingDigits(small_pictures(), image_size=12, past=4, future=3, n_digits=3),
    'own': lambda tmp: Own(),
    'own with an end': lambda tmp: Numbered(),
    'FixedClips': lambda tmp: FixedClips(SOURCES['MovingDigits'](tmp), 23),
    'FixedClips of a set': lambda tmp: FixedClips(Numbered(), 17),
    'FixedClips of a stream': lambda tmp: FixedClips(as_clips(Again()), 23),
    'MovingMNISTFile': moving_file,
    'tensor': lambda tmp: as_clips(SERIES),
    'tensor in order': lambda tmp: as_clips(SERIES, past=2, seed=None),
    'array': lambda tmp: as_clips(SERIES.numpy(), future=2),
    'bytes': lambda tmp: as_clips((SERIES % 256).byte(), scale=255),
    'nothing ahead': lambda tmp: as_clips(SERIES, future=0),
    'pair': lambda tmp: as_clips((SERIES[:, :4], SERIES[:, 4:]), seed=3),
    'pairs': lambda tmp: as_clips(chunks(6)),
    'Dataset': lambda tmp: as_clips(Items(), past=5),
    'DataLoader': lambda tmp: as_clips(DataLoader(Items(), batch_size=6), past=5),
    'iterable': lambda tmp: as_clips(Again()),
    'generator': lambda tmp: as_clips(pair for _ in range(9) for pair in chunks(5)),
}


@pytest.fixture(params=SOURCES)
def make(request, tmp_path):
    "A function that makes the same source again and again."
    return lambda: SOURCES[request.param](tmp_path)


@pytest.fixture(params=[name for name in SOURCES if name != 'generator'])
def make_again(request, tmp_path):
    "The same without what can be gone through only once."
    return lambda: SOURCES[request.param](tmp_path)


def equal(a, b): return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def drawn(source, sizes):
    return [torch.cat(x) for x in zip(*(source.batch(n) for n in sizes))]


def test_any_batch_size_gives_the_same_clips(make):
    source, want = make(), make().batch(60)
    assert isinstance(source, Clips)
    assert [x.shape for x in want] == [(60, source.past, *source.frame_shape), (60, source.future, *source.frame_shape)]
    assert all(x.is_floating_point() for x in want)
    assert equal(drawn(make(), [1] * 60), want)
    assert equal(drawn(source, [7, 19, 1, 30, 3]), want) and source.index == 60
    assert equal(make().read(41, 9), [x[41:50] for x in want])


def test_processes_that_share_batches_get_their_parts(make):
    "Each sets `index` to its part of each batch; together they have what one alone has. A look at clip 0 harms nobody."
    want, ranks = make().batch(5 * 12), [make() for _ in range(3)]
    for rank, part in enumerate(ranks):
        assert equal(part.read(0, 12), [x[:12] for x in want])
        for step in range(5):
            part.index = 12 * step + 4 * rank
            assert equal(part.batch(4), [x[12 * step + 4 * rank:][:4] for x in want])
            part.index = 12 * (step + 1)


def test_a_resumed_source_goes_on(make):
    want, later = make().batch(60), make()
    later.index = 37
    assert equal(later.batch(23), [x[37:] for x in want]) and later.index == 60


def test_what_was_read_last_can_be_read_again(make):
    source, want = make(), make().batch(40)
    assert equal(source.batch(30), [x[:30] for x in want])
    source.index = 0
    assert equal(source.batch(4), [x[:4] for x in want]) and equal(source.batch(36), [x[4:] for x in want])


@pytest.mark.parametrize('n', [1, 4, 9])
def test_what_was_given_out_belongs_to_the_reader(make, n):
    "Whoever writes into a batch changes nothing that others get, nor what the source was made of."
    source, want = make(), [x.clone() for x in make().read(0, n)]
    for x in source.read(0, n): x.fill_(-1)
    assert equal(source.read(0, n), want) and equal(make().read(0, n), want)


def test_batches_leave_the_index_and_each_other_alone(make_again):
    source, want = make_again(), make_again().batch(16)
    source.index = 5
    one, two = source.batches(8, 16), source.batches(6, 16)
    a, b, c, d = next(one), next(two), next(one), next(two)
    assert equal(a, [x[:8] for x in want]) and equal(c, [x[8:16] for x in want])
    assert equal(b, [x[:6] for x in want]) and equal(d, [x[6:12] for x in want])
    assert source.index == 5 and equal(source.batch(3), [x[5:8] for x in want])


def test_batches_go_through_one_pass(make_again):
    source = make_again()
    if isinstance(source, (MovingDigits, Own)):
        assert not hasattr(source, '__len__') and len(list(itertools.islice(source.batches(5), 20))) == 20
        return
    n = len(source) if hasattr(source, '__len__') else 23
    found = [len(past) for past, _ in source.batches(5)]
    assert sum(found) == n and found[:-1] == [5] * (len(found) - 1)
    with pytest.raises(ValueError, match=f'n_clips is {n + 1}; expected at most {n}'): list(source.batches(5, n + 1))
    assert sum(len(past) for past, _ in source.batches(5, n)) == n
    assert sum(len(past) for past, _ in source) == source.past * n                           # clip by clip


def test_single_clips(make):
    source = make()
    want = make().batch(20)
    assert equal(source[16], [x[16] for x in want]) and source.index == 0
    if not hasattr(source, '__len__'): return
    assert equal(source[-1], [x[0] for x in make().read(len(source) - 1, 1)])
    for k in (len(source), -len(source) - 1):
        with pytest.raises(IndexError): source[k]


def test_only_the_index_can_be_set(make):
    source = make()
    names = [name for name in dir(source) if name[0] != '_' and name != 'index']
    assert {'frame_shape', 'past', 'future', 'read'} < set(names)
    before = source.past, source.describe()
    for name in names:
        with pytest.raises(AttributeError, match=f'{name} of .* is fixed'): setattr(source, name, 1)
        with pytest.raises(AttributeError, match=f'{name} of .* is fixed'): delattr(source, name)
    assert (source.past, source.describe()) == before
    source.index = 3
    for bad in (-1, 1.5, None, True, 2**63):
        with pytest.raises(ValueError, match='index is'): source.index = bad
    assert source.index == 3 and f'index={3}' in repr(source) and type(source).__name__ in repr(source)


def test_classes_of_ones_own_may_set_what_they_like_while_they_are_made():
    class Base(Clips):
        past, future, speed = 1, 0, 1
        def __init__(self): self.past = self.frame_shape = 7
    class Derived(Base):
        def __init__(self):
            super().__init__()
            self.past, self.speed, self.frame_shape = 8, 2, (1,)
        level = property(lambda self: self._level, lambda self, v: setattr(self, '_level', v))
    source = Derived()
    assert (source.past, source.speed, source.frame_shape) == (8, 2, (1,))
    source.level, source.note = 3, 'new'                                         # a way of its own to set it; a new name
    assert source.level == 3
    for name in ('past', 'speed', 'frame_shape', 'note'):
        with pytest.raises(AttributeError, match='is fixed'): setattr(source, name, 1)


COPIES = {'copy': copy.copy, 'deepcopy': copy.deepcopy, 'pickle': lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.parametrize('how', COPIES.values(), ids=COPIES)
def test_copies_give_the_same_and_go_their_own_way(make_again, how):
    source = make_again()
    source.batch(3)
    other = how(source)
    assert type(other) is type(source) and other.index == 3 and other.describe() == source.describe()
    want = make_again().batch(30)
    assert equal(other.batch(20), [x[3:23] for x in want]) and source.index == 3
    assert equal(source.batch(9), [x[3:12] for x in want])
    with pytest.raises(AttributeError, match='is fixed'): other.past = 1


def test_what_goes_by_once_cannot_be_copied():
    clips = as_clips(pair for pair in chunks(5))
    for how in (copy.deepcopy, pickle.dumps):
        with pytest.raises(ValueError, match='clips is a generator; expected an iterable .* copied or sent'): how(clips)


def test_what_is_written_into_is_described_as_it_is():
    digits = torch.rand(4, 3, 3)
    moving, array, tensor = MovingDigits(digits, image_size=4), SERIES.numpy().copy(), SERIES.clone()
    clips = [moving, as_clips(array), as_clips(tensor), FixedClips(moving, 3)]
    before, frames = [c.describe() for c in clips], moving.clips(0, 3)
    digits.zero_()
    assert torch.equal(moving.clips(0, 3), frames) and moving.describe() == before[0]            # a copy was taken
    moving.digits.data[0], array[0, 0], tensor.numpy()[0, 0] = .5, -1, -1
    assert all(a != c.describe() for a, c in zip(before, clips))


def test_numbers_of_numpy_become_plain_ones():
    m = MovingDigits(small_pictures(), n_digits=np.int64(2), image_size=np.uint8(12), past=np.int8(4), future=np.int16(3),
                     speed=(np.float32(.05), np.float16(.1)), seed=np.uint64(7))
    said = {k: v for k, v in vars(m).items() if k not in ('digits', 'device') and k[0] != '_'}
    assert json.loads(json.dumps(said)) == {'n_digits': 2, 'image_size': 12, 'past': 4, 'future': 3, 'speed': [.05, .1],
                                            'seed': 7, 'frame_shape': [1, 12, 12]}
    a = as_clips(SERIES, past=np.int64(3), seed=np.int32(5), scale=np.float32(2))
    assert json.dumps([a.past, a.future, a.seed, a.scale, a.frame_shape]) == '[3, 4, 5, 2.0, [3]]'
    assert json.dumps(FixedClips(m, np.int64(3)).n_clips) == '3'


# --- as data sets of torch ----------------------------------------------------------------------------------------

FINITE = [name for name in SOURCES if name.startswith(('own with', 'Fixed', 'Moving', 'tensor', 'array', 'pair', 'Data'))
          and name not in ('MovingDigits', 'DataLoader')]


@pytest.mark.parametrize('name', FINITE)
def test_a_loader_gives_each_clip_once(name, tmp_path):
    source = SOURCES[name](tmp_path)
    want = {x.numpy().tobytes() for pair in source.batches(1) for x in [pair[0]]}
    for shuffled in (False, True):
        found = [x.numpy().tobytes() for past, _ in DataLoader(source, batch_size=4, shuffle=shuffled) for x in past]
        assert len(found) == len(source) and set(found) == want
    assert len(list(source)) == len(source) == len(want)


@pytest.mark.parametrize('way', ['fork', 'spawn'])
def test_workers_share_the_clips(way, tmp_path, monkeypatch):
    if way not in torch.multiprocessing.get_all_start_methods(): pytest.skip(f'no {way} on this system')
    monkeypatch.setattr(C, 'SMALL_FILE', 0)                                                  # from the disk
    source = FixedClips(moving_file(tmp_path), 7)
    loader = DataLoader(source, batch_size=2, num_workers=1 + (way == 'fork'), multiprocessing_context=way)
    found = [torch.cat(x) for x in zip(*loader)]
    assert equal(found, source.read(0, 7))


def test_workers_go_through_a_source_without_end():
    "Endless, so with a sampler of one's own; without one torch says that there is no length."
    source = SOURCES['MovingDigits'](None)
    found = torch.cat([past for past, _ in DataLoader(source, batch_size=4, sampler=range(3, 13), num_workers=2)])
    assert torch.equal(found, source.read(3, 10)[0])
    with pytest.raises(TypeError, match='no len'): DataLoader(source, shuffle=True)


def test_an_item_that_is_missing_is_no_end():
    class Short(Dataset):
        def __len__(self): return 9
        def __getitem__(self, k): return SERIES[:5][k]
    clips = as_clips(Short(), seed=None)
    with pytest.raises(ValueError, match='clips has no item 5 .*; expected 9 items'): list(clips)
    class Keys(Items):
        def __getitem__(self, k): return {'a': SERIES[0]}[k]
    with pytest.raises(ValueError, match='clips has no item 0'): as_clips(Keys())


def test_a_data_set_that_grows_keeps_its_numbers():
    items = [SERIES[k] for k in range(5)]
    class Growing(Dataset):
        def __len__(self): return len(items)
        def __getitem__(self, k): return items[k]
    clips = as_clips(Growing())
    want = clips.batch(20)
    items += [SERIES[7]]
    assert len(clips) == 5 and equal(clips.read(0, 20), want)


def test_descriptions_are_the_same_for_the_same_clips(make):
    a, b = make(), make()
    b.index = 7
    assert a.describe() == b.describe()
    if a.describe() is not None: assert a.describe() == a.describe() and '\n' not in a.describe()


@pytest.mark.parametrize('n', [0, -3, 1.5, None, True])
def test_wrong_sizes_are_refused(make, n):
    source = make()
    with pytest.raises(ValueError, match='n is'): source.batch(n)
    with pytest.raises(ValueError, match='batch_size is'): source.batches(n)
    if n is not None:
        with pytest.raises(ValueError, match='n_clips is'): source.batches(5, n)
    if not isinstance(source, Own):
        with pytest.raises(ValueError, match='first is'): source.read(-1, 2)
    assert source.index == 0


# --- what sources say of themselves -------------------------------------------------------------------------------

def test_descriptions_of_moving_digits():
    digits = small_pictures()
    def text(**kw): return MovingDigits(**{'digits': digits, 'image_size': 12, **kw}).describe()
    same = [text(), text(speed=np.float32(.1)), text(speed=(.1, .1)), text(speed=[np.float64(.1), .1]),
            text(seed=np.int64(0)), text(digits=digits.numpy()), text(split='test')]
    assert len(set(same)) == 1
    other = [text(speed=.2), text(speed=(.1, .2)), text(seed=1), text(n_digits=1), text(image_size=13), text(past=9),
             text(future=0), text(digits=digits[:9]), text(digits=digits.flip(0)), text(digits=digits.float() / 255)]
    assert len({*same, *other}) == 1 + len(other)
    assert text(speed=(.05, .2)) == text(speed=[np.float32(.05), np.float16(.2)])
    slow, fast = (MovingDigits(digits, image_size=12, speed=s).clips(0, 20) for s in (.1, np.float32(.1)))
    assert torch.equal(slow, fast)


def test_descriptions_of_arrays():
    other = SERIES.clone()
    other[22, 6, 2] += 1
    texts = [as_clips(x, **kw).describe() for x, kw in [
        (SERIES, {}), (other, {}), (SERIES, dict(seed=1)), (SERIES, dict(seed=None)), (SERIES, dict(past=2)),
        (SERIES, dict(future=2)), (SERIES, dict(scale=2)), (SERIES.double(), {}), (SERIES.double().numpy(), {}),
        (SERIES[:22], {}), (SERIES[..., None], {}), (SERIES.view(23, 7, 1, 3), {}), (SERIES.int(), dict(scale=1))]]
    assert len(set(texts)) == len(texts) and None not in texts
    assert as_clips(SERIES.clone()).describe() == texts[0] == as_clips((SERIES[:, :4], SERIES[:, 4:])).describe()
    assert as_clips(chunks(6)).describe() == texts[0]                            # the same clips, joined from pieces


def test_descriptions_of_files_sets_and_streams(tmp_path):
    file = moving_file(tmp_path)
    text, data = file.describe(), np.load(file.path)
    assert text == FixedClips(file, 3).describe().removeprefix('the first 3 of ')
    assert text != MovingMNISTFile(file.path, past=4, future=4).describe()
    data[19, 22, 63, 63] ^= 1
    np.save(tmp_path/'other.npy', data)
    assert MovingMNISTFile(tmp_path/'other.npy', past=4, future=3).describe() != text
    for x in (Items(), DataLoader(Items(), batch_size=6)):
        wishes = [{}, dict(identity='others')]
        wishes += [dict(identity='items', **kw) for kw in ({}, dict(past=5), dict(scale=2))]
        texts = [as_clips(x, **kw).describe() for kw in wishes]
        assert texts[0] is None and len(set(texts)) == 5
    assert as_clips(Items(), identity='items', seed=1).describe() != as_clips(Items(), identity='items').describe()
    for bad in ('', ' ', 3, 'two\nlines', '\x1b[31m'):
        for x in (Items(), SERIES, Again()):
            with pytest.raises(ValueError, match='identity is'): as_clips(x, identity=bad)


def test_a_scale_is_told_to_the_last_digit():
    text = [as_clips(SERIES, scale=s).describe() for s in (255, 255.0001, 255.0002, 1 / 3, np.float32(1 / 3))]
    assert ', scale 255, ' in text[0] and len(set(text)) == 5


def test_a_loader_that_shuffles_by_itself_cannot_be_vouched_for():
    def loader(**kw): return DataLoader(Items(), batch_size=4, **kw)
    for bad in (dict(shuffle=True), dict(sampler=torch.utils.data.SubsetRandomSampler(range(9)))):
        with pytest.raises(ValueError, match='identity is .mine.; expected None.*give it a generator'):
            as_clips(loader(**bad), identity='mine')
        assert as_clips(loader(**bad)).describe() is None
    steady = loader(shuffle=True, generator=torch.Generator().manual_seed(0))
    assert as_clips(steady, identity='mine').describe().startswith('mine: ')
    batches = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(Items()), 4, False)
    with pytest.raises(ValueError, match='identity is'): as_clips(DataLoader(Items(), batch_sampler=batches), identity='mine')


# --- the door -----------------------------------------------------------------------------------------------------

def test_where_whole_clips_are_cut():
    def cut(x, **kw): return [x.shape[1] for x in as_clips(x, **kw).batch(2)]
    assert cut(SERIES) == [4, 3] and cut(SERIES, past=6) == cut(SERIES, future=1) == [6, 1]
    assert cut(SERIES, future=0) == [7, 0]
    assert cut(SERIES, past=2, future=3) == [2, 3] and cut(SERIES, past=7) == [7, 0] and cut(SERIES[:, :1]) == [1, 0]
    assert equal(as_clips(SERIES, past=2, future=3, seed=None).read(5, 1), [SERIES[5:6, :2], SERIES[5:6, 2:5]])
    bad = [dict(past=k) for k in (8, 0, 2.)] + [dict(future=k) for k in (7, -1, True)] + [dict(past=4, future=4)]
    for kw in bad:
        for x in (SERIES, Items(), DataLoader(Items(), batch_size=4)):
            with pytest.raises(ValueError, match='(past|future) is .*; expected a whole number'): as_clips(x, **kw)


def test_pairs_keep_what_lies_next_to_the_cut():
    pair = SERIES[:, :4], SERIES[:, 4:]
    clips = as_clips(pair, past=2, future=1, seed=None)
    assert equal(clips.read(3, 1), [SERIES[3:4, 2:4], SERIES[3:4, 4:5]])
    assert [x.shape[1] for x in as_clips(pair, future=0).batch(2)] == [4, 0]
    for kw in (dict(past=5), dict(future=4)):
        with pytest.raises(ValueError, match='is [45]; expected a whole number'): as_clips(pair, **kw)


NO_CLIPS = {'labels': torch.arange(23), 'matrix': torch.zeros(23, 7), 'list': list('abc'), 'None': None,
            'text': 'label', 'no frames': SERIES[:, :0], 'other frames': torch.zeros(23, 7, 4), 'array': np.arange(23)}


@pytest.mark.parametrize('second', NO_CLIPS.values(), ids=NO_CLIPS)
def test_a_second_item_that_is_no_clip_of_the_same_frames(second):
    clips = as_clips((SERIES, second), seed=None)
    assert (clips.past, clips.future) == (7, 0) and equal(clips.read(2, 3), [SERIES[2:5], SERIES[2:5, :0]])
    assert equal(as_clips((SERIES, second), past=5, seed=None).read(2, 3), [SERIES[2:5, :5], SERIES[2:5, 5:]])
    stream = as_clips(iter([(SERIES, second)]))
    assert (stream.past, stream.future) == (7, 0) and torch.equal(stream.read(2, 3)[0], SERIES[2:5])


def test_arrays_stay_where_they_are(tmp_path):
    "No copy of a large array: batches gather what they need, from the disk if it lies there."
    x = np.random.default_rng(0).integers(0, 256, (50, 6, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path/'x.npy', x)
    there = np.load(tmp_path/'x.npy', mmap_mode='r')
    clips = as_clips(there, scale=255)
    assert np.shares_memory(vars(clips)['_past'], there)
    past, future = clips.batch(100)
    want = torch.from_numpy(x)[clips.numbers(0, 100)].float() / 255
    assert torch.equal(torch.cat([past, future], 1), want) and past.dtype == torch.float32
    past.zero_()
    assert np.array_equal(there, x)                                      # what was given out belongs to the reader
    series = SERIES.clone()
    as_clips(series).batch(23)[0].zero_()
    assert torch.equal(series, SERIES)


def test_numbers_of_other_types():
    assert as_clips(SERIES.double()).batch(2)[0].dtype == torch.float64          # a tensor is as precise as it was made
    assert as_clips(SERIES.half()).batch(2)[0].dtype == torch.float16
    for kind in ('float64', 'float16', '>f4', '<f8'):                            # NumPy's habit is no wish
        clips = as_clips(SERIES.numpy().astype(kind), seed=None)
        assert clips.batch(2)[0].dtype == torch.float32
        assert torch.equal(clips.read(0, 23)[1], SERIES[:, 4:])
    backwards = as_clips(SERIES.numpy()[::-1, ::-1], seed=None)
    assert torch.equal(backwards.read(0, 23)[0], SERIES.flip(0, 1)[:, :4])
    assert torch.equal(next(as_clips(iter([SERIES.numpy()[::-1]])).batches(23))[0], SERIES.flip(0)[:, :4])
    weights = torch.ones(3, 4, 2, requires_grad=True)
    assert not as_clips(weights).batch(2)[0].requires_grad
    for scale in (2, 2., np.float32(2)):
        assert torch.equal(as_clips(SERIES, scale=scale, seed=None).read(0, 23)[0], SERIES[:, :4] / 2)
    for bad in (0, -1, 'x', True, float('nan')):
        with pytest.raises(ValueError, match='scale is'): as_clips(SERIES, scale=bad)
    for x in (SERIES.byte(), SERIES.numpy().astype('uint8'), SERIES.long(), SERIES.numpy().astype('int16')):
        with pytest.raises(ValueError, match='expected floating point, or whole numbers and scale=255'): as_clips(x)
        assert torch.equal(as_clips(x, scale=255, seed=None).read(0, 2)[0], torch.as_tensor(x)[:2, :4].float() / 255)
    array = SERIES.numpy()
    for x in (SERIES > 3, array > 3, SERIES.to(torch.complex64), array.astype('complex64'), array.astype(str)):
        with pytest.raises(ValueError, match='expected floating point'): as_clips(x, scale=255)


@pytest.mark.parametrize('x, words', [
    (None, 'clips is None; expected Clips, an array'), (3, 'clips is 3'), ('clips.npy', "clips is 'clips.npy'"),
    ({'past': 1}, 'clips is {'), (SERIES[:0], 'nothing of it empty'),
    (torch.zeros(3, 4), 'clips is a tensor of float32, shape (3, 4); expected clips in a tensor'),
    (SERIES[:, :0], 'nothing of it empty'), (SERIES[:, :, :0], 'nothing of it empty'), ([], 'clips holds a list of 0'),
    ([SERIES, SERIES, SERIES], 'clips holds a list of 3; expected clips (N, T, *frame) or pairs'),
    ((SERIES, SERIES[:5]), 'future has 5 clips; expected 23'),
    ((None, SERIES), 'past is None'), ([(SERIES, SERIES), (SERIES, SERIES[:, :2])], 'clips changes from past'),
    ([(SERIES, SERIES), (SERIES, 3)], 'clips changes'), (object(), 'clips is an object'),
    (MovingDigits, 'clips is the class MovingDigits')])
def test_what_is_no_clips(x, words):
    with pytest.raises(ValueError) as e: as_clips(x)
    assert words in str(e.value)


def test_a_list_of_two_arrays_could_be_two_things():
    "A pair, or two batches of whole clips; a tuple is a pair, and other shapes or labels leave no doubt."
    for two in ([SERIES, SERIES], [SERIES.numpy(), SERIES]):
        with pytest.raises(ValueError, match=r'clips is a list of two arrays of shape \(23, 7, 3\); expected a tuple'): as_clips(two)
        clips = as_clips(tuple(two), seed=None)
        assert (len(clips), clips.past, clips.future) == (23, 7, 7)
    assert as_clips([SERIES[:, :4], SERIES[:, 4:]], seed=None).future == 3
    assert as_clips([SERIES, torch.arange(23)], seed=None).future == 0
    assert as_clips([(SERIES, SERIES)], seed=None).future == 7
    assert as_clips(iter([[SERIES, SERIES]])).future == 7                          # what loaders make of pairs


class Table:
    "Looks like an array and like a dictionary, as tables of other libraries do."
    def __len__(self): return 3
    def __iter__(self): return iter(['a'])
    def __getitem__(self, k): return {'a': SERIES}[k]
    def __array__(self, *a, **k): return SERIES.numpy()


class NoLength(Items):
    def __len__(self): raise RuntimeError('not known')


OTHERS = {'sparse': SERIES.to_sparse(), 'meta': SERIES.to('meta'), 'bool': SERIES > 3, 'complex': SERIES.to(torch.complex64),
          'float8': SERIES.to(torch.float8_e4m3fn), 'masked': np.ma.masked_array(SERIES.numpy(), SERIES.numpy() > 3),
          'dates': SERIES.numpy().astype('M8[s]'), 'records': np.zeros((4, 3, 2), dtype=[('a', 'f4')]),
          'objects': SERIES.numpy().astype(object), '0-d': torch.tensor(1.), 'empty': torch.zeros(0), 'table': Table(),
          'no length': NoLength(), 'module': torch.nn.Linear(2, 2), 'modules': torch.nn.Sequential(torch.nn.Linear(2, 2)),
          'ragged': [[1, 2], [3]], 'range': range(4), 'set': {1, 2}, 'bytearray': bytearray(b'abc'), 'function': len}


@pytest.mark.parametrize('x', OTHERS.values(), ids=OTHERS)
def test_other_objects_are_refused_by_name(x):
    "At the door, as a past, as an item of a set, as a batch of a stream: a `ValueError` that says which argument it was."
    for wrong in (x, (x, SERIES), iter([x]), DatasetOf(x), iter([SERIES, x])):
        with pytest.raises(ValueError, match='clips|past'): as_clips(wrong, scale=None).batch(40)
    if isinstance(x, (torch.Tensor, np.ndarray)) and x.ndim == 3:
        with pytest.raises(ValueError, match='future is'): ArrayClips(SERIES, x)
    with pytest.raises(ValueError, match='dataset|clips|past'): DatasetClips(x)
    with pytest.raises(ValueError, match='pairs|clips|past'): StreamClips(x)
    with pytest.raises(ValueError, match='source is'): FixedClips(x, 3)
    with pytest.raises(ValueError, match='digits is|digits has|digits holds'): MovingDigits(x)
    for name in ('device', 'seed', 'n_digits', 'image_size', 'past', 'future', 'speed', 'split'):
        with pytest.raises(ValueError, match=f'^{name} is'): MovingDigits(np.ones((2, 3, 3)), **{'image_size': 4, name: x})


class DatasetOf(Dataset):
    def __init__(self, item): self.item = item
    def __len__(self): return 3
    def __getitem__(self, k): return self.item


@pytest.mark.parametrize('device', ['foo', 'meta', 'cuda:99', 3, None, ''])
def test_devices_that_are_not_there(device, tmp_path):
    moving_file(tmp_path)
    for make in (lambda: MovingDigits('embedded', device=device), lambda: fixed_test_set('embedded', device=device),
                 lambda: MovingMNISTFile(tmp_path/'file.npy', device=device)):
        with pytest.raises(ValueError, match='^device is'): make()


SMALL = dict(digits=torch.ones(2, 3, 3), image_size=4)


@pytest.mark.parametrize('call', [
    lambda: MovingDigits(**SMALL, n_digits=10**9), lambda: MovingDigits(**{**SMALL, 'image_size': 10**6}),
    lambda: MovingDigits(**{**SMALL, 'image_size': 8192}, past=1000), lambda: MovingDigits(**SMALL, past=10**9),
    lambda: MovingDigits(**SMALL, future=10**6), lambda: MovingDigits(**SMALL).batch(10**9),
    lambda: MovingDigits(**SMALL).plan(0, 10**9), lambda: MovingDigits(**SMALL).read(2**62, 3),
    lambda: MovingDigits(**SMALL)[2**63 - 1], lambda: FixedClips(MovingDigits(**SMALL), 10**12).numbers(2**63 - 1, 2),
    lambda: as_clips(SERIES).batch(10**9), lambda: as_clips(SERIES).numbers(0, 10**12), lambda: as_clips(Again()).batch(10**9),
    lambda: render(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 3, 2, dtype=torch.int64), 10**6),
    lambda: render(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2**12, 2, dtype=torch.int64), 8192),
    lambda: bounce(torch.rand(2), torch.rand(2), 10**9), lambda: random_paths(0, torch.arange(2**16), 10**5),
    lambda: shuffle(0, torch.arange(3), 10**9), lambda: shuffle(0, torch.tensor([0, 10**9]), 5),
    lambda: MovingDigits('+'.join(['embedded'] * 10**5))])
def test_sizes_beyond_reason_are_refused_before_memory_is_taken(call):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r'^(n_digits|image_size|past|future|n|first|frames|turns|digits) (is|reach)'): call()
    assert time.monotonic() - start < 5


T = torch.arange(4)


@pytest.mark.parametrize('name, call', [
    ('seed', lambda: uniform(2**64 + 5, T, 0)), ('seed', lambda: uniform(-1, T, 0)), ('seed', lambda: uniform(1., T, 0)),
    ('index', lambda: uniform(0, T - 1, 0)), ('index', lambda: uniform(0, T.float(), 0)), ('index', lambda: uniform(0, T.int(), 0)),
    ('index', lambda: uniform(0, 3, 0)), ('index', lambda: uniform(0, T.to('meta'), 0)), ('index', lambda: uniform(0, T.to_sparse(), 0)),
    ('stream', lambda: uniform(0, T, -1)), ('stream', lambda: uniform(0, T, 2**32)), ('x', lambda: mix(1.5)), ('x', lambda: mix(True)),
    ('x', lambda: mix(T.int())), ('x', lambda: mix(T.float())), ('x', lambda: mix('a')), ('turns', lambda: shuffle(0, T - 1, 3)),
    ('turns', lambda: shuffle(0, T[:0], 3)), ('turns', lambda: shuffle(0, [0, 1], 3)), ('n', lambda: shuffle(0, T, 0)),
    ('n', lambda: shuffle(0, T, -3)), ('n', lambda: shuffle(0, T, 2.)), ('seed', lambda: shuffle(2**63, T, 3)),
    ('stream', lambda: shuffle(0, T, 3, stream=None)), ('frames', lambda: random_paths(0, T, -1)), ('frames', lambda: random_paths(0, T, 1.5)),
    ('turns', lambda: random_paths(0, T.double(), 3)), ('seed', lambda: random_paths(True, T, 3)),
    ('speed', lambda: random_paths(0, T, 3, speed=float('nan'))), ('speed', lambda: random_paths(0, T, 3, speed=(.1, float('inf')))),
    ('frames', lambda: bounce(torch.rand(2), torch.rand(2), -1)), ('velocity', lambda: bounce(torch.rand(3, 2), torch.rand(2, 2), 3)),
    ('velocity', lambda: bounce(torch.rand(2), torch.tensor([.1, float('nan')]), 3)), ('start', lambda: bounce(torch.rand(3), torch.rand(3), 3)),
    ('start', lambda: bounce(torch.tensor([.5, 1.5]), torch.rand(2), 3)), ('start', lambda: bounce(T[:2], T[:2], 3)),
    ('start', lambda: bounce(np.zeros(2), np.zeros(2), 3)), ('corners', lambda: render(torch.ones(2, 1, 2, 2), torch.zeros(3, 1, 1, 2).long())),
    ('corners', lambda: render(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 2).to('meta').long())),
    ('digits', lambda: render(torch.ones(1, 1, 2, 2).to(torch.float8_e4m3fn), torch.zeros(1, 1, 1, 2).long())),
    ('numbers', lambda: as_clips(SERIES).take(T + 20)), ('numbers', lambda: as_clips(SERIES).take(T - 1)), ('numbers', lambda: as_clips(SERIES).take(T[:0])),
    ('numbers', lambda: as_clips(Items()).take(T + 20)), ('numbers', lambda: FixedClips(Own(), 3).take(T)), ('numbers', lambda: as_clips(SERIES).take([0])),
    ('clips', lambda: clips_checksum(SERIES.to(torch.float8_e4m3fn))), ('clips', lambda: clips_checksum(SERIES.numpy()))])
def test_low_level_functions_refuse_by_name(name, call):
    with pytest.raises(ValueError, match=f'^{name} (is|has|holds|reaches)'): call()


def test_low_level_functions_take_any_shape():
    assert uniform(0, T[:0], 1).shape == (0,) and random_paths(0, T[:0], 3).shape == (0, 3, 2)
    assert uniform(0, T[3], 1) == uniform(0, T, 1)[3] and shuffle(0, T[3], 2) == shuffle(0, T, 2)[3]
    assert mix(np.int64(5)) == mix(5) == mix(5 - 2**32)


BYTES = torch.randint(0, 256, (5, 4, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_sources_come_back_as_they_are():
    clips = MovingDigits(torch.ones(2, 3, 3), image_size=4)
    assert as_clips(clips, seed=5) is clips


@pytest.mark.parametrize('wish', [dict(past=3), dict(future=0), dict(scale=255), dict(identity='mine')], ids=str)
def test_what_is_a_source_already_cannot_be_cut(wish):
    with pytest.raises(ValueError, match=f'{next(iter(wish))} is .*; expected None, since clips is a MovingDigits already'):
        as_clips(MovingDigits(torch.ones(2, 3, 3), image_size=4), **wish)


def test_one_scale_for_bytes_and_floats_is_refused():
    with pytest.raises(ValueError, match='scale is 255; expected None'): as_clips((BYTES, BYTES / 255), scale=255)


def test_which_source_a_thing_becomes():
    for x in (SERIES, SERIES.numpy(), [SERIES], (SERIES, SERIES), chunks(9)): assert type(as_clips(x)) is ArrayClips
    for x in (Items(), TensorDataset(SERIES)): assert type(as_clips(x)) is DatasetClips
    for x in (DataLoader(Items()), iter(chunks(9)), Again()): assert type(as_clips(x)) is StreamClips


def test_data_sets():
    "Items may be clips, pairs, clips with labels; each has to have the shape of the first."
    class Mine(Dataset):
        def __init__(self, *items): self.items = items
        def __len__(self): return len(self.items)
        def __getitem__(self, k): return self.items[k]
    clip = SERIES[0]
    for item in (clip, clip.numpy(), (clip,), [clip[:4], clip[4:]], (clip[:4], clip[4:].numpy())):
        past, future = DatasetClips(Mine(item, item)).batch(3)
        assert torch.equal(torch.cat([past, future], 1), SERIES[:1].expand(3, 7, 3)) and past.shape[1] == 4
    labelled = Mine((clip, torch.tensor(3)), (clip, torch.tensor(4)))
    assert [x.shape[1] for x in as_clips(labelled).batch(2)] == [7, 0]
    uneven = as_clips(Mine(SERIES[0], SERIES[0], SERIES[0][:6]))
    with pytest.raises(ValueError, match='clips changes from past'): uneven.batch(3)
    with pytest.raises(ValueError, match='at least one item'): as_clips(Mine())
    with pytest.raises(ValueError, match="expected clips"): as_clips(Mine({'video': SERIES[0]}))
    with pytest.raises(ValueError, match='scale=255'): as_clips(Mine(SERIES[0].byte()))


# --- streams ------------------------------------------------------------------------------------------------------

def test_a_generator_goes_by_once():
    given = []
    def pairs():
        for k, pair in enumerate(chunks(6)):
            given.append(k)
            yield pair
    clips = as_clips(pairs())
    assert given == [0] and clips.index == 0                                     # looked at, not lost
    assert torch.equal(clips.batch(9)[0], SERIES[:9, :4]) and given == [0, 1]
    clips.index = 20
    assert torch.equal(clips.batch(2)[0], SERIES[20:22, :4])
    clips.index = 3
    with pytest.raises(ValueError, match='clips is asked for number 3 again; expected at least 18'): clips.batch(1)
    with pytest.raises(ValueError, match='clips is asked for number 0 again'): next(clips.batches(4))
    clips.index = 22
    with pytest.raises(ValueError, match='clips gives 23 clips and then no more; expected an iterable'): clips.batch(4)
    one_pass = as_clips(iter(chunks(6)))
    assert torch.equal(torch.cat([future for _, future in one_pass.batches(4)]), SERIES[:, 4:])


def test_a_stream_begins_anew_when_asked_back():
    begun = []
    class Counted:
        def __iter__(self):
            begun.append(1)
            return iter(chunks(6))
    clips = as_clips(Counted())
    assert torch.equal(clips.read(50, 4)[0], SERIES[4:8, :4]) and len(begun) == 3            # 46 clips are two passes
    assert torch.equal(clips.read(2, 4)[0], SERIES[2:6, :4]) and len(begun) == 4
    assert torch.equal(clips.read(2, 9)[0], SERIES[2:11, :4]) and len(begun) == 4        # what was read last is here


def test_measuring_on_a_stream_does_not_set_it_back():
    begun = []
    class Counted:
        def __iter__(self):
            begun.append(1)
            return iter(chunks(6))
    training = as_clips(Counted())
    held_out = FixedClips(training, 10)
    want = as_clips(Again()).batch(40)
    for k in range(5):
        assert equal(training.batch(8), [x[8 * k:8 * k + 8] for x in want])
        assert sum(len(past) for past, _ in held_out.batches(4)) == 10
    assert len(begun) == 2 + 5                                           # two passes of training, one for each measurement


def test_streams_that_give_nothing_or_change():
    class Fewer:
        left = 2
        def __iter__(self):
            self.left -= 1
            return iter(chunks(23) * (self.left >= 0))
    for empty in (iter([]), (x for x in ()), DataLoader(TensorDataset(SERIES[:0]))):
        with pytest.raises(ValueError, match='clips gives 0 clips and then no more; expected batches'): as_clips(empty)
    with pytest.raises(ValueError, match='clips gives 46 clips and then no more'): as_clips(Fewer()).batch(60)
    changing = as_clips(iter([(SERIES, SERIES), (SERIES, SERIES[:, :3])]))
    changing.batch(20)
    with pytest.raises(ValueError, match=r'future \(7, 3\) to past \(7, 3\) and future \(3, 3\)'): changing.batch(20)
    with pytest.raises(ValueError, match='clips holds a tuple of 3'): as_clips(iter([(SERIES, SERIES, SERIES)]))
    with pytest.raises(ValueError, match='past is .text.; expected clips'): as_clips(iter([('text', SERIES)]))
    class Items2(IterableDataset):
        def __iter__(self): return iter(SERIES)
    with pytest.raises(ValueError, match='clips is an Items2'): as_clips(Items2())
    assert as_clips(DataLoader(Items2(), batch_size=4)).batch(2)[0].shape == (2, 4, 3)
    class Broken:
        def __iter__(self): yield SERIES; raise RuntimeError('the disk is gone')
    with pytest.raises(RuntimeError, match='the disk is gone'): as_clips(Broken()).batch(24)


def test_a_stream_may_use_its_memory_again():
    def pairs(kind):
        x = kind(np.zeros((4, 3, 2), np.float32))
        for k in range(5):
            x[:] = k
            yield x
    for kind in (np.asarray, torch.from_numpy):
        past, _ = as_clips(pairs(kind)).batch(20)
        assert past[:, 0, 0].tolist() == [k for k in range(5) for _ in range(4)]


class Fragile:
    "Fails once, at its third batch."
    def __init__(self, error): self.error = error
    def __iter__(self):
        for k, pair in enumerate(chunks(6)):
            error, self.error = (self.error, None) if k == 2 else (None, self.error)
            if error: raise error
            yield pair


@pytest.mark.parametrize('error', [KeyboardInterrupt(), OSError('the disk is gone')])
def test_after_a_failure_numbers_are_what_they_were(error):
    "What was lost on the way must not move the numbers of what comes after."
    want, clips = as_clips(Again()).batch(60), as_clips(Fragile(error))
    clips.batch(12)
    with pytest.raises(type(error)): clips.batch(4)
    assert clips.index == 12 and equal(clips.batch(40), [x[12:52] for x in want])
    once = as_clips(iter(Fragile(error)))
    with pytest.raises(type(error)): once.batch(20)
    with pytest.raises(ValueError, match='clips broke off after 12 clips; expected an iterable that can be gone through again'):
        once.batch(20)


def test_an_item_that_does_not_fit_is_not_passed_over():
    bad = [(SERIES, SERIES), (SERIES, SERIES[:, :3]), (SERIES, SERIES)]
    for stream in (bad, iter(bad)):
        clips = StreamClips(stream)
        for _ in range(2):
            with pytest.raises(ValueError, match='clips changes from past|clips broke off'): clips.read(20, 10)


def test_streams_do_not_keep_what_has_passed():
    held = []
    def pairs():
        for _ in range(40):
            x = torch.rand(5, 4, 2)
            held.append(weakref.ref(x))
            yield x
    clips = as_clips(pairs())
    for _ in range(20): clips.batch(10)
    gc.collect()
    assert sum(r() is not None for r in held) <= 3


# --- the published file -------------------------------------------------------------------------------------------

@pytest.fixture(params=[0, 2**26], ids=['on the disk', 'in memory'])
def file(request, tmp_path, monkeypatch):
    "A file of 23 clips, small enough to be held in memory or not."
    monkeypatch.setattr(C, 'SMALL_FILE', request.param)
    return moving_file(tmp_path), bool(request.param)


def test_files_are_read_alike_from_disk_and_memory(file, tmp_path):
    clips, data = file[0], torch.from_numpy(np.load(tmp_path/'file.npy')).transpose(0, 1)[:, :, None].float() / 255
    order = torch.tensor([7, 8, 9, 3, 3, 22, 0])
    assert equal(clips.take(order), [data[order, :4], data[order, 4:7]])
    assert clips.describe().startswith('23 clips of a Moving MNIST file (b962e0524100b599)')
    assert all(equal(other.read(5, 30), clips.read(5, 30)) for other in (copy.deepcopy(clips), pickle.loads(pickle.dumps(clips))))


@pytest.mark.parametrize('change', ['cut', 'longer', 'written', 'replaced', 'gone'])
def test_a_file_that_changes_is_noticed(file, change, tmp_path):
    clips, held = file
    want, text, path = clips.read(0, 23), clips.describe(), tmp_path/'file.npy'
    raw = path.read_bytes()
    if change == 'gone': path.unlink()
    elif change == 'replaced':
        np.save(tmp_path/'other.npy', np.zeros((20, 23, 64, 64), np.uint8))
        os.replace(tmp_path/'other.npy', path)
    else: path.write_bytes({'cut': raw[:9999], 'longer': raw + raw, 'written': raw[:-1] + b'x'}[change])
    if change == 'written': os.utime(path, ns=(1, 1))                                  # a clock may be too coarse for this test
    if held: assert equal(clips.read(0, 23), want)                                     # an independent copy
    else:
        with pytest.raises(OSError, match='file.npy.*changed since it was opened|No such file.*file.npy'): clips.read(0, 2)
    assert clips.describe() == text


def test_a_place_is_remembered(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips = MovingMNISTFile('file.npy')
    monkeypatch.chdir('/')
    assert clips.batch(3)[0].shape == (3, 10, 1, 64, 64)


def header(shape='(20, 1, 64, 64)', descr="'|u1'", order='False', version=1, tail=b''):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode() + tail + b'\n'
    return b'\x93NUMPY' + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, 'little') + text


FRAMES = np.random.default_rng(1).integers(0, 256, (20, 1, 64, 64), dtype=np.uint8)


@pytest.mark.parametrize('raw, words', [
    (header('(20, 2, 64, 64)'), 'bytes, not the'), (header('(20, 4294967296, 64, 64)'), 'bytes, not the'), (header('(20, -1, 64, 64)'), 'shape'),
    (header('(20, 0, 64, 64)'), 'shape'), (header('(1, 20, 64, 64)'), 'transpose'), (header('(20, 4096)'), 'shape'), (header('(0, 1, 64, 64)'), 'shape'),
    (header(descr="'|i1'"), 'int8'), (header(descr="'|b1'"), 'bool'), (header(descr="'|V1'"), 'V1'), (header(descr="[('a', '|u1')]"), 'is an array of'),
    (header(descr="'|O'"), 'object'), (header(descr="('|u1', (64,))"), 'is an array of|cannot be read'), (header(order='True'), 'Fortran'), (header(order='0'), 'cannot be read'),
    (header(version=3), 'cannot be read'), (header('(' * 300), 'cannot be read'), (header('20L'), 'is an array of|cannot be read'), (header(tail=b'\0'), 'cannot be read'),
    (header()[:9], 'cannot be read'), (b'\x93NUMPY\x02\0\xff\xff\xff\x7f{', 'cannot be read'), (b'PK\3\4', 'archive'), (b'', 'no npy file')])
@pytest.mark.filterwarnings('ignore:Reading')
def test_headers_that_are_something_else(tmp_path, raw, words):
    (tmp_path/'x.npy').write_bytes(raw + FRAMES.tobytes())
    with pytest.raises(OSError, match=f'x.npy: .*({words}).*; expected an npy file of uint8'): MovingMNISTFile(tmp_path/'x.npy')


@pytest.mark.filterwarnings('ignore:Reading')
def test_damaged_headers_never_move_the_frames(tmp_path):
    "Bytes of the header changed, lost or added; seeded. Refused, or the clips are what they were."
    path, draw, counts = tmp_path/'x.npy', random.Random(0), {'same': 0, 'refused': 0}
    np.save(path, FRAMES)
    raw, want = path.read_bytes(), MovingMNISTFile(path).batch(1)
    for _ in range(600):
        b = bytearray(raw)
        for _ in range(draw.choice([1, 1, 2])):
            k = draw.randrange(6, 128)
            b[k:k + draw.choice([0, 1, 1])] = bytes(draw.choice(b" ,0126789'{}()\n\0\xffTF") for _ in range(draw.choice([0, 1, 1])))
        path.write_bytes(b)
        try:
            assert equal(MovingMNISTFile(path).batch(1), want)
            counts['same'] += b != raw
        except OSError as e:
            assert str(path) in str(e)
            counts['refused'] += 1
    assert counts['refused'] > 400 and counts['same'] < 100


def test_what_is_no_file_of_clips(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path/'pipe', OSError), (tmp_path/'none', FileNotFoundError), ('', ValueError), (3, ValueError)):
        with pytest.raises(error, match='^path is .*; expected'): MovingMNISTFile(path)


# --- imports and memory -------------------------------------------------------------------------------------------

def test_import_needs_only_torch_and_numpy():
    code = '''
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in 'sklearn pooch matplotlib skimage h5py av PIL ipywidgets anywidget fastcore'.split():
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from lstm_video_repr.clips import MovingDigits
print(MovingDigits('embedded').clips(0, 2).shape)
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.returncode == 0 and '2, 20, 1, 64, 64' in out.stdout, out.stderr


def test_long_passes_need_no_memory_of_the_clips():
    "10,000 clips as floats are 3.3 GB; a batch of 50 is 16 MB. What streams must not keep what it gave."
    held = [weakref.ref(past) for past, _ in fixed_test_set('embedded', n_clips=200).batches(50)]
    gc.collect()
    assert len(held) == 4 and sum(r() is not None for r in held) <= 1


def test_where_clips_come_from():
    "A fixed set asks its source about the very clips that it reads, over the end of a pass, too."
    class Films(Clips):
        frame_shape, past, future = (1,), 1, 0
        def read(self, first, n): return torch.arange(first, first + n).float()[:, None, None], torch.zeros(n, 0, 1)
        def groups(self, first, n): return tuple(f'film {k // 2}' for k in range(first, first + n))
    fixed = FixedClips(FixedClips(Films(), 9), 5)
    for first, n in ((0, 5), (3, 4), (4, 13), (12, 1)):
        wanted = [f'film {int(k) // 2}' for k in fixed.read(first, n)[0].flatten()]
        assert fixed.groups(first, n) == wanted
    assert MovingDigits('embedded').groups(3, 2) is None and FixedClips(MovingDigits('embedded'), 4).groups(3, 2) is None
    with pytest.raises(ValueError, match='^n is 0; expected'): MovingDigits('embedded').groups(0, 0)


def test_a_source_says_what_it_wants():
    "To whoever asks: help, editors, notebooks."
    for kind, first in ((MovingDigits, 'digits'), (FixedClips, 'source'), (ArrayClips, 'past'), (MovingMNISTFile, 'path')):
        assert next(iter(inspect.signature(kind).parameters)) == first


def refused(words, error=ValueError): return pytest.raises(error, match=re.escape(words))


def test_painting_against_a_plain_loop():
    "One block of pixels after the other, nothing clever."
    g = torch.Generator().manual_seed(0)
    for B, N, T, h, w, S in ((2, 3, 4, 5, 3, 9), (1, 1, 1, 4, 4, 4), (3, 2, 6, 28, 28, 40)):
        digits = torch.randint(0, 256, (B, N, h, w), generator=g).to(torch.uint8)
        places = [torch.randint(0, S - n + 1, (B, N, T), generator=g) for n in (h, w)]
        corners, wanted = torch.stack(places, -1), digits.new_zeros(B, T, 1, S, S)
        for b, n, t in itertools.product(range(B), range(N), range(T)):
            r, c = corners[b, n, t].tolist()
            block = wanted[b, t, 0, r:r+h, c:c+w]
            block.copy_(torch.maximum(block, digits[b, n]))
        assert torch.equal(render(digits, corners, S), wanted)
        assert torch.equal(render(digits.double() / 255, corners.int(), S), wanted.double() / 255)


OK, AT = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 2, dtype=torch.int64)


@pytest.mark.parametrize('args, words', [
    ((OK[0], AT), '(B, N, h, w)'), ((OK.numpy(), AT), '(B, N, h, w)'), ((OK[:0], AT), 'nothing of it empty'),
    ((OK, AT[0]), '(1, 1, T, 2)'), ((OK, AT[..., :1]), '(1, 1, T, 2)'), ((OK, AT.float()), 'whole pixels'),
    ((OK.long(), AT), 'uint8 (0 to 255) or float'), ((OK * 255, AT), 'expected [0, 1]'), ((-OK, AT), 'from -1'),
    ((OK * math.nan, AT), 'NaN'), ((OK, AT - 1), 'stay inside'), ((OK, AT, 1), 'expected at least 2'),
    ((OK, AT[:, :, :0]), 'nothing of it empty')])
def test_what_cannot_be_painted(args, words):
    with refused(words): render(*args)


SOME = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('wish, words', [
    (dict(digits='emnist'), "'auto'"), (dict(digits=None), "'auto'"), (dict(digits=SOME[0]), '(n, h, w)'),
    (dict(digits=SOME[:0]), '(n, h, w)'), (dict(digits=[1, 2]), '[1, 2]'), (dict(digits=SOME * 255), 'expected [0, 1]'),
    (dict(digits=SOME * math.nan), 'NaN'), (dict(digits=(SOME > .5)), 'bool'), (dict(digits=np.array([[['a']]])), 'uint8'),
    (dict(digits=(SOME * 9).long()), 'int64'), (dict(image_size=3), 'at least 4'), (dict(image_size=0), 'image_size'),
    (dict(n_digits=0), 'n_digits is 0'), (dict(past=0), 'past is 0'), (dict(future=-1), 'future is -1'),
    (dict(future=2.5), 'future is 2.5'), (dict(seed=-1), 'seed is -1'), (dict(seed=2**63), 'from 0 to'),
    (dict(seed=True), 'seed is True'), (dict(speed=0), 'speed is 0'), (dict(speed=1.5), 'speed is 1.5'),
    (dict(speed=-.1), 'speed'), (dict(speed=(.2, .1)), 'range'), (dict(speed=math.nan), 'nan'),
    (dict(speed='fast'), 'fast'), (dict(split='val'), "'train', 'test'")])
def test_moving_digits_that_there_are_not(wish, words):
    with refused(words): MovingDigits(**{'digits': SOME, 'image_size': 8, **wish})


def test_passes_over_a_fixed_set_do_not_disturb_each_other():
    again = [torch.cat([torch.cat(b, 1) for b in fixed_test_set('embedded', n_clips=23).batches(k)]) for k in (5, 23, 100)]
    assert torch.equal(again[0], again[1]) and torch.equal(again[0], again[2]) and len(again[0]) == 23
    two = fixed_test_set('embedded', n_clips=4)
    for a, b in zip(two.batches(2), two.batches(2)): assert torch.equal(a[1], b[1])
    assert (two.frame_shape, two.source.index, two.index) == ((1, 64, 64), 0, 0)
    for words, call in {'n_clips is 0': lambda: fixed_test_set('embedded', n_clips=0),
                        'n_clips is 5; expected at most 4': lambda: FixedClips(two, 5),
                        'source is': lambda: FixedClips(torch.rand(3, 4, 5), 2),
                        'n_clips is 5': lambda: two.batches(2, 5), 'batch_size is 0': lambda: two.batches(0),
                        'clips has values from': lambda: clips_checksum(SOME * 255)}.items():
        with refused(words): call()
    assert clips_checksum((SOME * 255).round().byte()) == clips_checksum(SOME)         # bytes are what they are


def test_files_that_are_not_in_the_published_layout(tmp_path):
    good, path = np.zeros((20, 3, 64, 64), np.uint8), tmp_path/'x.npy'
    def expect(words, write):
        write(path)
        with refused(words, OSError): MovingMNISTFile(path)
    def truncate(p): np.save(p, good); p.write_bytes(p.read_bytes()[:-7])
    def archive(p):
        with open(p, 'wb') as f: np.savez(f, good)
    expect('bytes, not the 245888 that its header states', truncate)
    expect('archive', archive)
    for raw in (b'not numpy at all', b''): expect('no npy file', lambda p, raw=raw: p.write_bytes(raw))
    expect('an array of object', lambda p: np.save(p, np.array([{}], dtype=object), allow_pickle=True))
    for words, array in {'Fortran': np.asfortranarray(good), 'float32': good.astype('float32'), '(20, 3, 64)': good[..., 0],
                         'transpose': good.swapaxes(0, 1), '(20, 0, 64, 64)': good[:, :0]}.items():
        expect(words, lambda p, array=array: np.save(p, array))
    np.save(path, good)
    with refused('past + future is 25; expected a whole number from 1 to 20'): MovingMNISTFile(path, past=15)
    with pytest.raises(FileNotFoundError): MovingMNISTFile(tmp_path/'none.npy')
    file = MovingMNISTFile(path, past=3, future=4)
    assert [p.shape for p in next(file.batches())] == [(3, 3, 1, 64, 64), (3, 4, 1, 64, 64)]
    assert [x.shape[1] for x in MovingMNISTFile(path, past=20, future=0).batch(4)] == [20, 0]


@pytest.mark.parametrize('keep', [False, True])
def test_who_looks_at_a_loader_takes_nothing_from_others(keep):
    z = torch.arange(24.)[:, None, None].expand(24, 4, 2).clone()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(z), batch_size=4, num_workers=1, persistent_workers=keep)
    ours, theirs = as_clips(loader), as_clips(loader)
    first, _, second = (c.read(start, 8)[0][:, 0, 0].int().tolist() for c, start in ((ours, 0), (theirs, 0), (ours, 8)))
    assert first + second == list(range(16))

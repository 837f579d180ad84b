"""The classifier: true labels, a softmax at every step, encoders copied and frozen, fair subsets, repeatable learning;
labelled videos: folders of classes, official lists, splits that keep groups together, lines that break, hostile archives."""
import collections
import copy
import errno
import hashlib
import http.server
import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lstm_video_repr import actions
from lstm_video_repr.actions import (DIRECTIONS, HMDB51, PUBLISHED, UCF101, LabelCurve, LabelledDigits, LabelledVideos,
                                     Learner, Logistic, LSTMClassifier, LSTMLearner, Pretraining, PublishedFile,
                                     PublishedVideos, StepSoftmax, VideoClassifier, accuracy, choose_weights,
                                     class_accuracy, confusion, cut_blocks, fetch_file, fetch_videos, few_labels, fuse,
                                     heading, label_curve, load_classifier, load_label_curve, predict_across,
                                     predict_clips, rank_films, read_states, retrieval, standard_learners,
                                     summarise_blocks, take_frames, top_k, train_classifier, unpack_archive)
from lstm_video_repr.cli import main
from lstm_video_repr.clips import MovingDigits, random_paths
from lstm_video_repr.core.files import read_safetensors, write_safetensors
from lstm_video_repr.digits import load_digits
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.percepts import Projection, as_encoder

TINY = dict(frame_shape=(1, 4, 4), hidden_size=6)


def rand(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def separable(n=40, T=5, seed=0):
    "Clips of 16 values whose class is the half in which they are bright, from the third step on; before it is noise."
    labels = torch.arange(n) % 2
    x = rand(n, T, 1, 4, 4, seed=seed) * .2
    for k in (0, 1): x[labels == k, 2:, 0, 2 * k:2 * k + 2] += .8
    return x, labels


def same(a, b):
    "Have two modules the same weights?"
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


# ---- clips with labels

def test_headings_of_straight_lines():
    t = torch.arange(5.)[:, None]
    for k in range(8):
        for off in (-.38, 0., .38):       # up to almost half a sector to either side
            angle = torch.tensor(k * math.pi / 4 + off)
            assert heading(t * torch.stack([angle.sin(), angle.cos()])) == k
    assert [DIRECTIONS[k] for k in (0, 2, 4, 6)] == ['→', '↓', '←', '↑']


def test_headings_are_those_of_the_velocity():
    "Whatever walls do to the last step: the size is that of the first velocity, the sign that of the last step."
    turns = torch.arange(400)
    path, long = (random_paths(3, turns, frames, speed=.1) for frames in (10, 60))
    last, unhindered = path[:, -1] - path[:, -2], long.diff(dim=1).abs().amax(1)
    true = torch.atan2(*(last.sign() * unhindered).unbind(-1))
    assert (((true / (math.pi / 4)) % 1 - .5).abs() > 1e-6).all(), 'none exactly between two sectors'
    assert torch.equal(heading(path), (true / (math.pi / 4)).round().long() % 8)
    plain = torch.atan2(*last.unbind(-1))
    assert ((plain / (math.pi / 4)).round().long() % 8 != heading(path)).any(), 'walls do shorten some last steps'


def test_headings_of_bytes_and_of_nothing():
    "Whole numbers may become smaller; what is no number has no heading."
    path = torch.tensor([[90, 9], [60, 6], [30, 3]])
    assert heading(path.byte()) == heading(path) == heading(path.float()) == DIRECTIONS.index('↑')
    for odd in (path * math.nan, path / 0, path.bool(), path + 0j, path.to_sparse(), path.to('meta')):
        with pytest.raises(ValueError, match='^path '): heading(odd)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_labelled_clips_are_moving_digits_with_their_labels(split):
    clips = LabelledDigits('embedded', 80, frames=8, split=split, seed=5)
    plain = MovingDigits('embedded', n_digits=1, past=4, future=4, split=split, seed=5)
    assert torch.equal(clips[:], plain.clips(0, 80)) and len(clips) == 80
    assert torch.equal(clips[[7, 2, 7]], plain.clips(0, 80)[[7, 2, 7]])
    assert torch.equal(clips[torch.tensor([3])], plain.clips(3, 1))
    assert torch.equal(clips.labels['digit'], load_digits('embedded', split)[1][plain.plan(0, 80)[0][:, 0]])
    rows, columns = (x.float() for x in plain.plan(0, 80)[1][:, 0].diff(dim=1)[:, -1].unbind(-1))
    seen = torch.atan2(rows, columns) / (math.pi / 4)       # whole pixels: at most a sector off, unless a wall was hit
    away = ((seen - clips.labels['direction'] + 4) % 8 - 4).abs()
    assert (away < 1.2).double().mean() > .8 and clips.labels['direction'].unique().numel() == 8


def test_what_does_not_fit_is_refused_in_words():
    softmax, model = StepSoftmax(2, 2), LSTMClassifier(16, 4, n_classes=2)
    clips = rand(3, 5, 1, 4, 4)
    with pytest.raises(ValueError, match=r'\(B, T, 2\)'): softmax(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match='expected 1, a label for each clip'): softmax.loss(rand(1, 2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='16 values a frame'): model(rand(1, 4, 1, 8, 8))
    with pytest.raises(ValueError, match='divide by 255'): model((255 * clips).byte())
    with pytest.raises(ValueError, match='NaN'): model(clips * math.nan)
    with pytest.raises(ValueError, match='from 0 to 599'): LabelledDigits('embedded', 600)[[600]]
    with pytest.raises(ValueError, match=r'a pair \(frames, labels\)'):
        train_classifier(model, clips, torch.tensor([0, 1, 0]), validation=clips)


def test_train_and_test_digits_do_not_mix():
    train, test = (LabelledDigits('embedded', 5, split=split).source.digits for split in ('train', 'test'))
    assert len(train) == 1437 and len(test) == 360
    assert not {d.numpy().tobytes() for d in train} & {d.numpy().tobytes() for d in test}


def test_own_digits():
    images, names = rand(6, 20, 20), torch.tensor([3, 1, 4, 1, 5, 9])
    clips = LabelledDigits((images, names), 12, image_size=32)
    assert clips[:2].shape == (2, 10, 1, 32, 32) and sorted(clips.labels['digit'][:6].tolist()) == [1, 1, 3, 4, 5, 9]


def test_speeds():
    def fastest(speed): return LabelledDigits('embedded', 40, speed=speed).corners.diff(dim=2).abs().amax((1, 2, 3))
    slow, fast, mixed = fastest(.05), fastest(.2), fastest((.05, .2))
    assert slow.max() <= 2 and fast.max() >= 7 and mixed.unique().numel() > 3       # of 36 pixels, along one axis


@pytest.mark.parametrize('options, said', [
    (dict(frames=2), 'frames is 2'), (dict(n_clips=0), 'n_clips is 0'), (dict(digits='roman'), "'roman'"),
    (dict(split='dev'), "'dev'"), (dict(speed=0), 'speed is 0'),
    (dict(digits=(torch.rand(2, 9, 9), torch.zeros(2))), 'whole labels'),
    (dict(digits=(torch.rand(2, 9, 9), torch.zeros(3).long())), r'shape \(3,\)\); expected'),
    (dict(digits=[torch.rand(2, 9, 9)]), 'a pair of tensors'),
    (dict(digits=torch.rand(2, 9, 9).numpy()), 'digits is an array'),
    (dict(digits=(torch.rand(2, 9, 9), torch.tensor([1, 10]))), 'values from 1 to 10; expected 0 to 9'),
    (dict(digits=(torch.rand(2, 9, 9), torch.tensor([1, 2])), folder='here'), 'folder is')])
def test_wrong_clips(options, said):
    with pytest.raises(ValueError, match=said): LabelledDigits(**dict(digits='embedded', n_clips=5) | options)


def test_a_set_of_clips_as_python_and_torch_know_sets():
    "Length, items, iteration and batches of a `DataLoader` agree, and nothing can come between clips and labels."
    clips = LabelledDigits('embedded', 5)
    whole = clips[:]
    assert torch.equal(torch.stack(list(clips)), whole) and clips[-1].equal(whole[4])
    assert torch.equal(torch.cat(list(torch.utils.data.DataLoader(clips, batch_size=2))), whole)
    for k in (5, -6):
        with pytest.raises(IndexError, match=f'which is {k}'): clips[k]
    for name in ('which', 'corners', 'labels', 'source', 'split'):
        with pytest.raises(AttributeError, match='make another'): setattr(clips, name, None)


@pytest.mark.parametrize('which', [[5], [-1], [], [[0]], [.5], [True], 'all'])
def test_wrong_numbers_of_clips(which):
    with pytest.raises(ValueError, match='which'): LabelledDigits('embedded', 5)[which]


# ---- a softmax at every step

def test_shapes():
    pupil, x = LSTMClassifier(16, 6, 3, num_layers=2), rand(4, 5, 1, 4, 4)
    assert pupil(x).shape == pupil.predict_steps(x).shape == (4, 5, 3) and pupil.features(x).shape == (4, 5, 6)
    assert pupil.predict(x).shape == (4, 3) and pupil.loss(x, torch.zeros(4).long()).shape == ()
    assert pupil.predict(x.flatten(2)).equal(pupil.predict(x)), 'any frame shape of 16 values'


def test_probabilities_are_averaged_over_steps_not_logits():
    pupil, x = LSTMClassifier(16, 6, 3, seed=1), rand(4, 5, 1, 4, 4) * 20
    with torch.no_grad():
        pupil.softmax.linear.weight.mul_(20)       # opinions far from each other, where the two means differ
        logits = pupil.softmax.linear(pupil.encoder(x.flatten(2))[0])
    torch.testing.assert_close(pupil.predict(x), logits.softmax(-1).mean(1))
    assert (pupil.predict(x) - logits.mean(1).softmax(-1)).abs().max() > .01
    torch.testing.assert_close(pupil.predict(x).sum(1), torch.ones(4))


def test_the_label_is_the_target_of_every_step():
    pupil, x, labels = LSTMClassifier(16, 6, 3), rand(4, 5, 1, 4, 4), torch.tensor([0, 2, 1, 2])
    logp = pupil(x).log_softmax(-1)
    by_hand = -sum(logp[b, t, labels[b]] for b in range(4) for t in range(5)) / 20
    torch.testing.assert_close(pupil.loss(x, labels), by_hand)


def test_dropout_is_before_the_softmax_in_training_only():
    pupil, x = LSTMClassifier(16, 6, 3, dropout=.5), rand(4, 5, 1, 4, 4)
    labels = torch.tensor([0, 1, 2, 0])
    torch.manual_seed(0)
    assert pupil.loss(x, labels) != pupil.loss(x, labels), 'training: other values are dropped each time'
    assert pupil.predict(x).equal(pupil.predict(x)) and pupil.training
    pupil.eval()
    assert pupil.loss(x, labels) == pupil.loss(x, labels)
    assert LSTMClassifier(16, 6, 3, num_layers=2, dropout=.5).encoder.dropout == .5, 'and between layers'


def test_blocks_of_longer_clips():
    pupil, x = LSTMClassifier(16, 6, 3), rand(2, 13, 1, 4, 4)
    by_hand = torch.stack([pupil.predict(x[:, t:t + 4]) for t in (0, 3, 6, 9)]).mean(0)
    torch.testing.assert_close(pupil.predict_video(x, block=4, stride=3), by_hand)
    for block in (13, 20): assert pupil.predict_video(x, block=block).equal(pupil.predict(x))
    changed = x.clone(); changed[:, 12] = 1 - changed[:, 12]
    whole, other = (pupil.predict_video(clips, block=4, stride=4) for clips in (x, changed))
    assert other.equal(whole), 'after the last whole block nobody looks'
    assert not pupil.predict_video(changed, block=4, stride=3).equal(by_hand), 'here the last frame is in one'


@pytest.mark.parametrize('frames, said', [
    (rand(1, 3, 1, 5, 4), '16 values'), (rand(3, 16), '16 values'), (rand(1, 0, 16), '16 values'),
    (rand(1, 3, 16).byte(), 'divide by 255'), (rand(1, 3, 16).double(), 'float64'), (rand(1, 3, 16) / 0, 'infinite'),
    ('film', "'film'; expected a tensor")])
def test_wrong_frames(frames, said):
    pupil = LSTMClassifier(16, 6, 3)
    for call in (pupil, pupil.predict, pupil.predict_video, lambda x: pupil.loss(x, torch.tensor([0]))):
        with pytest.raises(ValueError, match=f'frames.*{said}'): call(frames)


@pytest.mark.parametrize('labels, said', [
    (torch.tensor([0, 3]), 'values from 0 to 3; expected 0 to 2'), (torch.tensor([-1, 0]), 'values from -1'),
    (torch.tensor([0]), 'is 1; expected 2'), (torch.tensor([0., 1.]), 'float32'), (torch.tensor([[0, 1]]), 'shape'),
    (torch.tensor([True, False]), 'bool'), ([0, 1], 'expected a tensor')])
def test_wrong_labels(labels, said):
    with pytest.raises(ValueError, match=f'labels.*{said}'): LSTMClassifier(16, 6, 3).loss(rand(2, 3, 16), labels)


@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16])
def test_labels_of_any_whole_type(dtype):
    pupil, x, labels = LSTMClassifier(16, 6, 3), rand(4, 5, 16), torch.tensor([0, 2, 1, 2])
    assert pupil.loss(x, labels.to(dtype)) == pupil.loss(x, labels)
    assert accuracy(pupil.predict(x), labels.to(dtype)) == accuracy(pupil.predict(x), labels)
    assert few_labels(labels.to(dtype), 1).equal(few_labels(labels, 1))


def test_features_that_are_no_numbers():
    "Where nothing but a softmax would see them."
    softmax, h = StepSoftmax(6, 2), rand(4, 3, 6)
    h[1, 2, 3] = math.nan
    for call in (softmax.predict, softmax.predict_steps):
        with pytest.raises(ValueError, match='h holds NaN'): call(h)
    with pytest.raises(ValueError, match='frames holds NaN'): train_classifier(softmax, h, torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match='probabilities holds NaN'): accuracy(h[1], torch.tensor([0, 1, 0]))


@pytest.mark.parametrize('h', [rand(2, 3, 5), rand(3, 6), rand(2, 0, 6), 'outputs'])
def test_wrong_features(h):
    softmax = StepSoftmax(6, 3)
    for call in (softmax, softmax.predict, softmax.predict_steps, lambda x: softmax.loss(x, torch.tensor([0, 1]))):
        with pytest.raises(ValueError, match='h .*expected .*B, T, 6'): call(h)


@pytest.mark.parametrize('options, said', [
    (dict(n_classes=1), 'n_classes is 1'), (dict(hidden_size=0), 'hidden_size'), (dict(dropout=1.), 'dropout'),
    (dict(seed=-1), 'seed is -1')])
def test_wrong_classifiers(options, said):
    sizes = dict(input_size=16, hidden_size=6, n_classes=3)
    with pytest.raises(ValueError, match=said): LSTMClassifier(**sizes | options)


def test_accuracy():
    p = torch.tensor([[.9, .1], [.2, .8], [.6, .4], [.3, .7]])
    assert accuracy(p, torch.tensor([0, 1, 1, 1])) == .75
    with pytest.raises(ValueError, match='expected 4'): accuracy(p, torch.tensor([0]))
    with pytest.raises(ValueError, match='probabilities'): accuracy(p[0], torch.tensor([0]))


# ---- from an encoder

@pytest.mark.parametrize('build', [VideoLSTM.autoencoder, VideoLSTM.future_predictor, VideoLSTM.composite])
@pytest.mark.parametrize('options', [{}, dict(num_layers=2), dict(peephole=False)],
                         ids=['one layer', 'two layers', 'no peepholes'])
def test_the_very_weights_are_copied(build, options):
    model = build(**TINY, **options, seed=4)
    pupil = LSTMClassifier.from_encoder(model, 3)
    assert same(pupil.encoder, model.encoder) and pupil.encoder is not model.encoder
    x = rand(2, 5, 1, 4, 4)
    assert torch.equal(pupil.features(x)[:, -1], model.encode(x)[0][-1]), 'its last output is the representation'
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train_classifier(pupil, *separable(), steps=2)
    assert not same(pupil.encoder, model.encoder)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), 'the model stays as it is'


def test_what_is_frozen_does_not_move():
    model = VideoLSTM.composite(**TINY, num_layers=2, dropout=.5, seed=4)
    pupil = LSTMClassifier.from_encoder(model, 2, freeze=True)
    first = pupil.softmax.linear.weight.detach().clone()
    train_classifier(pupil, *separable(), steps=3)
    assert same(pupil.encoder, model.encoder) and not torch.equal(first, pupil.softmax.linear.weight)
    x = rand(2, 5, 1, 4, 4)
    assert pupil.training and pupil.features(x).equal(pupil.features(x)), 'no dropout inside of what is frozen'
    train_classifier(pupil.freeze(False), *separable(), steps=3)
    assert not same(pupil.encoder, model.encoder)


def test_a_frozen_encoder_needs_to_read_only_once():
    x, labels = separable()
    whole, fast = (LSTMClassifier.from_encoder(VideoLSTM.composite(**TINY, seed=4), 2, freeze=True) for _ in range(2))
    a = train_classifier(whole, x, labels, steps=20, every=10, batch_size=8)
    with torch.no_grad(): seen = fast.features(x)
    b = train_classifier(fast.softmax, seen, labels, steps=20, every=10, batch_size=8)
    torch.testing.assert_close(whole.softmax.linear.weight, fast.softmax.linear.weight, rtol=1e-4, atol=1e-5)
    assert [r['loss'] for r in a] == pytest.approx([r['loss'] for r in b], rel=1e-4)
    torch.testing.assert_close(predict_clips(whole, x), predict_clips(fast.softmax, seen))


def test_the_first_softmax_does_not_depend_on_the_start():
    scratch = LSTMClassifier(16, 6, 3, seed=7)
    tuned = LSTMClassifier.from_encoder(VideoLSTM.composite(**TINY), 3, seed=7)
    assert same(scratch.softmax, tuned.softmax) and not same(scratch.softmax, LSTMClassifier(16, 6, 3, seed=8).softmax)


def test_only_an_encoder_as_configured():
    "With its weights in other places, as after a reparametrisation, it is refused by name."
    model = VideoLSTM.composite(**TINY)
    nn.utils.parametrizations.weight_norm(model.encoder, 'weight_ih_l0')
    with pytest.raises(ValueError, match='model has other weights'): LSTMClassifier.from_encoder(model, 3)


def test_only_from_a_model():
    encoder = VideoLSTM.composite(**TINY).encoder
    with pytest.raises(ValueError, match='model is a PeepholeLSTM'): LSTMClassifier.from_encoder(encoder, 3)


# ---- few labels

def test_subsets_are_balanced_and_nested():
    labels = torch.randint(5, (300,), generator=torch.Generator().manual_seed(0))
    chosen = {n: few_labels(labels, n, seed=3) for n in (1, 3, 10, 30)}
    for n, which in chosen.items():
        assert which.shape == (5 * n,) and which.unique().numel() == 5 * n
        assert torch.bincount(labels[which]).tolist() == [n] * 5
    assert torch.equal(chosen[10][:5], chosen[1]) and torch.equal(chosen[30][:50], chosen[10])
    assert torch.equal(few_labels(labels, 3, seed=3), chosen[3])
    assert not torch.equal(few_labels(labels, 3, seed=4), chosen[3])


def test_subsets_that_cannot_be():
    labels = torch.tensor([0, 0, 1, 2, 2])
    said = 'per_class is 2; expected at most 1, the clips of class 1'
    with pytest.raises(ValueError, match=said): few_labels(labels, 2)
    with pytest.raises(ValueError, match='per_class is 0'): few_labels(labels, 0)
    with pytest.raises(ValueError, match='labels'): few_labels(labels.float(), 1)
    with pytest.raises(ValueError, match='expected 0 to 4'): few_labels(labels * 10**12, 1)  # no room for counts


# ---- learning

def test_it_learns_what_can_be_learned():
    (x, labels), (new, truth) = separable(), separable(seed=1)
    pupil = LSTMClassifier(16, 8, 2)
    log = train_classifier(pupil, x, labels, steps=80, every=20, batch_size=16, lr=.02)
    assert [r['step'] for r in log] == [20, 40, 60, 80] and log[-1]['loss'] < log[0]['loss']
    assert log[-1]['loss'] == pytest.approx(2/5 * math.log(2), abs=.05), 'two of five steps cannot know'
    opinions = predict_clips(pupil, new, batch_size=7)
    assert accuracy(opinions.mean(1), truth) == 1.
    assert torch.equal(opinions.mean(1).argmax(1), pupil.predict(new).argmax(1))
    sure = opinions[torch.arange(40), -1, truth].min()
    assert opinions[:, 0].max() < .9 < sure, 'undecided before anything is to be seen, sure at the end'


def test_seeds_repeat_a_training_and_leave_the_global_generator_alone():
    x, labels = separable()
    def taught(seed):
        pupil = LSTMClassifier(16, 6, 2, num_layers=2, dropout=.3, seed=1)
        return pupil, train_classifier(pupil, x, labels, steps=6, every=2, batch_size=8, seed=seed)
    (a, log), (b, again), (c, _) = taught(5), taught(5), taught(6)
    assert log == again and same(a, b) and not same(a, c)
    torch.manual_seed(0)
    before = torch.rand(3)
    torch.manual_seed(0)
    taught(5)
    assert torch.equal(torch.rand(3), before)


def test_only_the_chosen_clips_are_learned_from():
    "Where the others are damaged nothing changes."
    x, labels = separable()
    which, damaged = few_labels(labels, 4), x.clone()
    rest = torch.ones(len(x)).bool().index_fill_(0, which, False)
    damaged[rest] = torch.nan
    a, b = (LSTMClassifier(16, 6, 2) for _ in range(2))
    train_classifier(a, x, labels, which=which, steps=5)
    train_classifier(b, damaged, labels, which=which, steps=5)
    assert same(a, b)


def test_every_clip_is_seen_equally_often():
    class Counting:
        def __init__(self, x): self.x, self.seen = x, []
        def __len__(self): return len(self.x)
        def __getitem__(self, which):
            self.seen.append(which)
            return self.x[which]
    x, labels = separable(10)
    clips = Counting(x)
    train_classifier(LSTMClassifier(16, 6, 2), clips, labels, steps=15, batch_size=4)
    assert {len(w) for w in clips.seen} == {4} and torch.bincount(torch.cat(clips.seen)).tolist() == [6] * 10
    clips.seen = []
    train_classifier(LSTMClassifier(16, 6, 2), clips, labels, steps=2, batch_size=32)
    seen = [sorted(w.tolist()) for w in clips.seen]
    assert seen == [list(range(10))] * 2, 'fewer clips than a batch: all of them, once'


def test_early_stopping_gives_back_the_best(monkeypatch):
    from lstm_video_repr import actions
    x, labels = separable()
    scores, kept = iter([.5, .7, .6, .7, .65, .9]), []
    pupil = LSTMClassifier(16, 6, 2)
    def scored(*_):
        kept.append({k: v.clone() for k, v in pupil.state_dict().items()})
        return next(scores)
    monkeypatch.setattr(actions, 'accuracy', scored)
    log = train_classifier(pupil, x, labels, steps=100, every=2, patience=3, validation=(x[:4], labels[:4]))
    assert [r['accuracy'] for r in log] == [.5, .7, .6, .7, .65], 'three looks without a better one'
    assert all(torch.equal(v, kept[1][k]) for k, v in pupil.state_dict().items()) and pupil.training


@pytest.mark.parametrize('options, said', [
    (dict(lr=0), 'lr is 0'), (dict(lr=math.nan), 'lr is nan'), (dict(steps=0), 'steps is 0'),
    (dict(batch_size=0), 'batch_size is 0'), (dict(which=[40]), 'from 0 to 39'), (dict(seed=-1), 'seed is -1'),
    (dict(labels=torch.zeros(3).long()), 'expected 40'), (dict(labels=torch.full((40,), 2)), 'expected 0 to 1'),
    (dict(every=0), 'every is 0'), (dict(patience=0), 'patience is 0'),
    (dict(validation=[1]), 'validation is .1.; expected')])
def test_wrong_lessons(options, said):
    x, labels = separable()
    lesson = dict(frames=x, labels=labels) | options
    with pytest.raises(ValueError, match=said): train_classifier(LSTMClassifier(16, 6, 2), **lesson)


def parts(pupil): return [m.training for m in pupil.modules()]


def test_nothing_else_is_changed():
    "Modes of all parts, torch's generator and its modes are as they were, after errors, too."
    x, labels = separable()
    pupil = LSTMClassifier(16, 6, 2, num_layers=2, dropout=.5)
    pupil.encoder.eval()
    modes, state = parts(pupil), torch.random.get_rng_state()
    calls = [pupil.predict, lambda x: pupil.predict_video(x, block=2), lambda x: predict_clips(pupil, x),
             lambda x: train_classifier(pupil, x, labels, steps=2, every=1, validation=(x, labels))]
    for call in calls:
        call(x)
        with pytest.raises(ValueError): call(x * math.nan)
        assert parts(pupil) == modes and torch.equal(torch.random.get_rng_state(), state)
    for around in (torch.no_grad, torch.inference_mode):
        with around(): assert len(train_classifier(pupil, x, labels, steps=2)) == 1
    assert len(train_classifier(pupil.double(), x, labels, steps=2)) == 1, 'clips come in the precision of the weights'


def test_any_default_dtype():
    "What torch makes of numbers without a type is no concern of the clips."
    want = LabelledDigits('embedded', 6)
    torch.set_default_dtype(torch.float64)
    try:
        clips = LabelledDigits('embedded', 6)
        assert torch.equal(clips[:], want[:]) and clips.labels['direction'].equal(want.labels['direction'])
        log = train_classifier(LSTMClassifier(64 * 64, 4, 8), clips, clips.labels['direction'], steps=2)
    finally: torch.set_default_dtype(torch.float32)
    assert log[-1]['loss'] == pytest.approx(math.log(8), abs=.5)


CHANGES = [dict(labels=-1), dict(labels=2), dict(frames=math.nan), dict(shape=3), dict(pair=1)]


@pytest.mark.parametrize('change', CHANGES)
def test_validation_is_looked_at_first(change):
    "What does not fit is found before a weight has moved."
    x, labels = separable(10)
    pupil = LSTMClassifier(16, 6, 2)
    before = copy.deepcopy(pupil.state_dict())
    frames = x[:, :, :, :change.get('shape', 4)] * change.get('frames', 1)
    pair = (labels, frames) if 'pair' in change else (frames, labels.clone().fill_(change.get('labels', 0)))
    with pytest.raises(ValueError, match='^validation: '):
        train_classifier(pupil, x, labels, steps=9, every=9, validation=pair)
    assert all(torch.equal(v, before[k]) for k, v in pupil.state_dict().items())


def test_an_interruption_leaves_the_best(monkeypatch):
    "Ctrl-C in a training with validation: the best weights so far stay."
    from lstm_video_repr import actions
    x, labels = separable()
    pupil, kept = LSTMClassifier(16, 6, 2), []
    def scored(*_):
        if len(kept) == 2: raise KeyboardInterrupt
        kept.append(copy.deepcopy(pupil.state_dict()))
        return [.7, .5][len(kept) - 1]
    monkeypatch.setattr(actions, 'accuracy', scored)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(pupil, x, labels, steps=9, every=1, patience=5, validation=(x, labels))
    assert all(torch.equal(v, kept[0][k]) for k, v in pupil.state_dict().items())


def test_long_trainings_take_no_memory():
    "The order of clips is drawn as it is needed: a step number that nobody reaches costs nothing."
    x, labels = separable()
    class Enough(Exception): pass
    class Two:
        left = 2
        def __len__(self): return len(x)
        def __getitem__(self, which):
            self.left -= 1
            if self.left < 0: raise Enough
            return x[which]
    with pytest.raises(Enough): train_classifier(LSTMClassifier(16, 6, 2), Two(), labels, steps=2**62, every=2**62)


ODD = [None, '', 'gpu', b'x', -1, math.nan, 2**70, [], [1, 2], {}, (), object(), nn.Linear, nn.Linear(2, 2), len,
       torch.device('meta'), rand(6, 4, 16).to_sparse(), torch.empty(6, 4, 16, device='meta'), rand(6, 4, 16) + 0j,
       rand(6, 4, 16).half(), torch.tensor(1.), torch.empty(0), torch.ones(6).bool(), rand(2, 2).numpy(), range(3)]


NAMES = ('model frames labels which steps lr seed validation generator h probabilities path digits per_class dropout '
         'freeze block').split()


@pytest.mark.parametrize('name', NAMES)
def test_other_objects_are_refused_by_name(name):
    "Whatever is put in place of an argument: it fits, or the error says which one it was."
    x, labels = separable(6)
    lesson = dict(model=LSTMClassifier(16, 6, 2), frames=x, labels=labels, steps=1)
    calls = dict(generator=lambda v: StepSoftmax(6, 2, generator=v), h=StepSoftmax(16, 2).predict, path=heading,
                 probabilities=lambda v: accuracy(v, labels), digits=lambda v: LabelledDigits(v, 2),
                 per_class=lambda v: few_labels(labels, v), dropout=lambda v: StepSoftmax(6, 2, dropout=v),
                 freeze=lambda v: LSTMClassifier.from_encoder(VideoLSTM.composite(**TINY), 2, freeze=v),
                 block=lambda v: lesson['model'].predict_video(x, block=v))
    for value in ODD:
        try: calls.get(name, lambda v: train_classifier(**lesson | {name: v}))(value)
        except ValueError as e: assert name in str(e), (value, str(e))


def test_a_loss_that_explodes_is_named():
    x, labels = separable()
    pupil = LSTMClassifier(16, 6, 2).eval()
    with pytest.raises(FloatingPointError, match='after step'):
        train_classifier(pupil, x * 1e38, labels, steps=10, every=2, lr=1e38)
    assert not pupil.training, 'it is left in the mode it came in'


def test_real_digits(mnist_folder):
    clips = LabelledDigits('mnist', 20, split='test', folder=mnist_folder, seed=1)
    assert clips[:].shape == (20, 10, 1, 64, 64) and clips.labels['digit'].unique().numel() > 4
    assert not torch.equal(clips[:1], LabelledDigits('mnist', 1, folder=mnist_folder, seed=1)[:1])


# ---- films of features: blocks, learners, draws

def films_of(per_group=2, n_groups=5, classes=3, T=20, seed=0):
    "Films (T, 4) whose class is in their mean; the first value of each is its number, so that it can be told again."
    plan = [(k, g) for k in range(classes) for g in range(n_groups) for _ in range(per_group)]
    films = [rand(T, 4, seed=seed + i) + torch.tensor([0., k == 0, k == 1, k == 2]) for i, (k, _) in enumerate(plan)]
    for i, film in enumerate(films): film[:, 0] = i / 100
    return films, torch.tensor([k for k, _ in plan]), [f'{k}/{g}' for k, g in plan]


def sides(groups, *test):
    "Numbers of films to learn from, and of those whose group ends so."
    test_side = [g.split('/')[1] in test for g in groups]
    return tuple([i for i, t in enumerate(test_side) if t == asked] for asked in (False, True))


class Spy(Learner):
    "Writes down what it is given; says what the films' means say, and a little of its seed."
    def __init__(self, films, seed, notes, seeded=True):
        self.seed, self.notes, self.seeded = seed, notes, seeded
        notes['base'] = {round(film[0, 0].item() * 100) for film in films}
    def look(self, film): return film.mean(0, keepdim=True)
    def fit(self, seen, labels, *, groups, seed=0):
        numbers = [round(x[0, 0].item() * 100) for x in seen]
        self.notes.setdefault('fits', []).append((self.seed, seed, frozenset(numbers), labels.tolist(), list(groups)))
        return self
    def predict(self, seen):
        self.notes['asked'] = {round(x[0, 0].item() * 100) for x in seen}
        return (3 * torch.cat(seen)[:, 1:] + .1 * self.seed).softmax(1)


def test_blocks():
    "All whole blocks and nothing else, whatever the sizes; the rows are those of the film."
    for T, block, stride in ((16, 16, 8), (17, 16, 8), (24, 16, 8), (50, 7, 3), (9, 1, 1), (40, 16, 40)):
        film = torch.arange(float(T))[:, None]
        blocks = cut_blocks(film, block=block, stride=stride)
        want = [film[t:t + block] for t in range(0, T - block + 1, stride)]
        assert torch.equal(blocks, torch.stack(want)) and want
    assert cut_blocks(np.ones((16, 3), np.float16)).dtype == torch.float32
    with pytest.raises(ValueError, match='film has 15 rows; expected at least 16, a block'): cut_blocks(rand(15, 3))
    with pytest.raises(ValueError, match='film holds NaN'): cut_blocks(rand(20, 3) * math.nan)


@pytest.mark.parametrize('seed', range(4))
def test_ranks(seed):
    "Balanced, nested by construction, of different groups as long as there are some; other seeds, other orders."
    draw = np.random.default_rng(seed)
    labels = torch.from_numpy(draw.integers(0, 3, 60))
    groups = [f'{k}/{g}' for k, g in zip(labels.tolist(), draw.integers(0, 6, 60))]
    rank = rank_films(labels, groups, seed=seed)
    for k in range(3):
        films = (labels == k).nonzero()[:, 0]
        assert rank[films].sort()[0].tolist() == list(range(len(films)))
        there = len({groups[i] for i in films.tolist()})
        for n in range(1, len(films)):
            chosen = films[rank[films] < n].tolist()
            counts = sorted(collections.Counter(groups[i] for i in chosen).values())
            assert len(counts) == min(n, there)
    assert torch.equal(rank, rank_films(labels, groups, seed=seed))
    assert not torch.equal(rank, rank_films(labels, groups, seed=seed + 1))


def test_a_label_curve_is_fair():
    """Every learner gets the same films, nested, balanced, of groups apart; makers see the training side alone.

    What would repeat is made once."""
    films, labels, groups = films_of()
    splits, notes = [sides(groups, '0', '1'), sides(groups, '2')], {'a': {}, 'b': {}}
    seen = {'a': [], 'b': []}
    def maker(name, seeded):
        def make(base, seed):
            seen[name].append(notes[name].copy())
            notes[name].clear()
            return Spy(base, seed, notes[name], seeded)
        return make
    curve = label_curve({'a': maker('a', True), 'b': maker('b', False)}, films, labels, groups=groups, splits=splits,
                        per_class=(1, 2, 4, 'all'), draws=6, seeds=3, size=None, progress=False)
    runs = {k: [n for n in [*seen[k], notes[k]] if n] for k in seen}
    assert [len(runs[k]) for k in 'ab'] == [6, 2], 'one for each split and seed; one for each split if it knows no seed'
    for split, (train, test) in enumerate(splits):
        a, b = runs['a'][3 * split:3 * split + 3], runs['b'][split]
        for note in [*a, b]: assert note['base'] == {*train} and note['asked'] == {*test}
        fits = [f for note in a for f in note['fits']]
        assert {f[2] for f in fits} == {f[2] for f in b['fits']}, 'the same draws'
        assert len(fits) == 6 * 3 + 3 and len(b['fits']) == 6 * 3 + 1, 'all films are one draw for each seed, or one'
        assert {f[0] for f in a[0]['fits']} != {f[0] for f in a[1]['fits']}
        for _, _, chosen, its_labels, its_groups in fits:
            counts = np.bincount(its_labels)
            assert len({*counts}) == 1 and chosen <= {*train} and not {*its_groups} & {groups[i] for i in test}
        for d in range(6):
            rows = [set(np.array(train)[curve.ranks[split][d] < n].tolist()) for n in (1, 2, 4)]
            assert rows[0] < rows[1] < rows[2] and [len(r) for r in rows] == [3, 6, 12]
            assert all(frozenset(r) in {f[2] for f in fits} for r in rows)
    assert torch.equal(curve.right[0][:, 3], curve.right[0][:, 3, :3].repeat(1, 2, 1)), 'it stands in all draws'
    assert runs['a'][0]['fits'][0][0] != runs['a'][3]['fits'][0][0], 'another split, another seed'


def test_what_a_curve_says_is_what_was_right():
    films, labels, groups = films_of()
    splits = [sides(groups, '0'), sides(groups, '1', '2')]
    def noisy(base, seed): return Spy(base, 20 * seed, {})
    options = dict(groups=groups, splits=splits, per_class=(1, 2), draws=4, seeds=2, size=4, progress=False)
    learners = {'a': lambda b, s: Spy(b, 0, {}), 'b': noisy, 'c': lambda b, s: Logistic(take_frames, b)}
    curve = label_curve(learners, films, labels, **options)
    want = np.mean([r.double().mean((2, 3)).numpy() for r in curve.right], 0)
    assert np.allclose(curve.mean().mean, want)
    found = curve.difference('c', 'b', of='sure', times=50)
    assert np.allclose(found.mean[0], np.mean([(s[2] - s[1]).double().mean((1, 2)).numpy() for s in curve.sure], 0))
    assert (found.low <= found.mean).all() and (found.mean <= found.high).all() and 'difference' in str(found)
    assert not curve.difference('a', 'a', times=9).error.any()
    again = label_curve({'c': learners['c']}, films, labels, **options)
    assert all(torch.equal(x[2:], y) for x, y in zip(curve.sure, again.sure)), 'alone or in company'
    with pytest.raises(ValueError, match="a is 'z'; expected one of 'a', 'b', 'c'"): curve.difference('z', 'a')


def invent(right, sure, groups, seeds):
    "A curve of made-up answers in one split: (1, 1, draws, N) each; the first two films are those to learn from."
    n, D = len(groups), right.shape[2]
    splits, ranks = [([0, 1], list(range(2, n)))], [torch.zeros(D, 2).long()]
    return LabelCurve(['a'], (1,), torch.arange(n) % 2, groups, splits, seeds, ranks, [right], [sure])


def test_standard_errors_are_right():
    """Made-up answers with groups, seeds and draws that matter: the error is the spread from world to world.

    Where luck decides about each answer, too, it is a little larger: luck is counted in groups and in seeds."""
    N, S, D, G = 40, 4, 8, 20
    groups = ['x', 'x', *(f'g{i // 2}' for i in range(N))]
    draw, means, errors = np.random.default_rng(0), [], []
    for _ in range(150):
        p = (.5 + .15 * draw.standard_normal(G)[np.arange(N) // 2] + .05 * draw.standard_normal((D, 1))
             + .1 * draw.standard_normal(S)[np.arange(D) % S, None]).clip(0, 1)
        right, sure = torch.from_numpy(draw.random((D, N)) < p)[None, None], torch.from_numpy(p).float()[None, None]
        curve = invent(right, sure, groups, S)
        found = [curve.mean(of, times=100) for of in ('sure', 'right')]
        means.append([e.mean[0, 0] for e in found])
        errors.append([e.error[0, 0] for e in found])
    ratio = np.sqrt(np.mean(np.square(errors), 0)) / np.std(means, 0)
    assert ratio[0] == pytest.approx(1, abs=.12) and 1 < ratio[1] < 1.3
    always = invent(torch.ones(1, 1, D, N).bool(), torch.ones(1, 1, D, N), groups, S).mean(times=20)
    assert always.mean[0, 0] == 1 and always.error[0, 0] == 0


def test_curves_in_files(tmp_path):
    films, labels, groups = films_of()
    options = dict(groups=groups, splits=[sides(groups, '0')], draws=2, seeds=2, size=None, progress=False)
    def learn(name, per_class=(1, 'all'), **more):
        return label_curve({name: lambda b, s: Spy(b, s, {})}, films, labels, per_class=per_class, **options | more)
    curve = learn('a')
    path = curve.save(tmp_path/'curve.safetensors')
    again = load_label_curve(path)
    assert str(again) == str(curve) and again.facts == curve.facts and again.per_class == (1, 'all')
    both = again.join(learn('b'))
    assert both.learners == ('a', 'b') and torch.equal(both.sure[0][:1], curve.sure[0]) and len(curve.learners) == 1
    with pytest.raises(ValueError, match="other is .'a'.; expected other learners"): curve.join(again)
    for other in (learn('b', (1, 2)), learn('b', seed=1), learn('b', splits=[sides(groups, '1')])):
        with pytest.raises(ValueError, match='other has other films, splits or draws'): curve.join(other)
    raw = path.read_bytes()
    changed = raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:]
    damage = {'cut': raw[:-5], 'changed': changed, 'empty': b'', 'text': b'x' * 400}
    for name, content in damage.items():
        (tmp_path/name).write_bytes(content)
        with pytest.raises(OSError, match=name): load_label_curve(tmp_path/name)
    tensors, meta = read_safetensors(path)
    head = json.loads(meta['head'])
    odd = [(dict(tensors, **{'right.0': tensors['right.0'][:, :1]}), head),
           (dict(tensors, labels=tensors['labels'][:9]), head), (tensors, dict(head, seeds=3)),
           (tensors, dict(head, learners=['a', 'b'])), (tensors, dict(head, groups=None)),
           ({k: x for k, x in tensors.items() if k != 'sure.0'}, head), (tensors, {}), (tensors, [])]
    for k, (parts, its_head) in enumerate(odd):
        write_safetensors(tmp_path/'odd', parts, dict(format=meta['format'], head=json.dumps(its_head)))
        with pytest.raises(OSError, match='odd'): load_label_curve(tmp_path/'odd')
    write_safetensors(tmp_path/'other', dict(x=rand(2)), {})
    for load in (load_label_curve, load_classifier):
        with pytest.raises(OSError, match='other.* is no file of a'): load(tmp_path/'other')


FAIR = [(dict(per_class=(1, 9)), r'per_class is 9; expected at most 8, the films of class 0 on the training side of s'),
        (dict(per_class=(2, 1)), 'per_class is .2, 1.; expected whole numbers that rise'),
        (dict(per_class=()), 'per_class is'), (dict(per_class=('all', 1)), "per_class is 'all'"),
        (dict(draws=5, seeds=2), 'draws is 5; expected a multiple of seeds'),
        (dict(groups=['a'] * 29), 'groups is'), (dict(groups=list(range(30))), 'groups is'),
        (dict(labels=torch.arange(30)[:9]), r'groups is .*expected a list of 9'),
        (dict(labels=torch.arange(30) % 3 + 1), 'labels is .1, 2, 3.; expected 0 to K - 1'),
        (dict(labels=-torch.arange(30)), 'labels has values from -29'),
        (dict(labels=torch.zeros(30).long()), 'labels is'),
        (dict(splits=[]), 'splits is'), (dict(splits=[[0, 1, 2]]), r'splits\[0\] is'),
        (dict(splits=[([0, 1, 0], [2])]), r'splits\[0\]\[0\] has film 0 twice'),
        (dict(splits=[(range(30), [99])]), r'splits\[0\]\[1\] is 99'),
        (dict(splits=[(range(30), [3])]), r'splits\[0\] has film 3 on both sides'),
        (dict(splits=[(range(29), [29])]), r"splits\[0\] has group '2/4' on both sides"),
        (dict(splits=[(range(20), range(20, 30))]), r'splits\[0\] has no film of class 2 on its training side'),
        (dict(learners={}), 'learners is'), (dict(learners={'a': 3}), 'learners is'),
        (dict(learners={'a': lambda films, seed: 3}), 'learners is 3'),
        (dict(films=[rand(20, 4)] * 3), 'films has 3 of them, and labels 30'), (dict(size=5), 'size is 5')]


@pytest.mark.parametrize('change, said', FAIR)
def test_unfair_curves(change, said):
    films, labels, groups = films_of()
    good = dict(learners={'a': lambda b, s: Spy(b, s, {})}, films=films, labels=labels, groups=groups,
                splits=[sides(groups, '0')], per_class=(1,), draws=2, seeds=1, size=None, progress=False) | change
    with pytest.raises(ValueError, match=said): label_curve(**good)


def test_films_that_do_not_fit_are_named():
    films, labels, groups = films_of()
    options = dict(groups=groups, splits=[sides(groups, '0')], per_class=(1,), draws=1, seeds=1, progress=False)
    def run(k, film, make=lambda b, s: LSTMLearner(4, steps=1), **more):
        return label_curve({'a': make}, [*films[:k], film, *films[k + 1:]], labels, **options | more)
    for size in (2, None):
        for odd in (math.nan, math.inf):
            with pytest.raises(ValueError, match=r'films\[7\] holds NaN'): run(7, films[7] * odd, size=size)
        with pytest.raises(ValueError, match=r'films\[(7|0)\]'): run(7, films[7][:, :3], size=size)
        with pytest.raises(ValueError, match=r'films\[7\].*film has 9 rows; expected at least 16, a block'):
            run(7, films[7][:9], size=size)
    with pytest.raises(ValueError, match=r"'a' on the training side of splits.0.: films.1.: film has 9 rows"):
        run(3, films[3][:9], lambda b, s: Logistic(summarise_blocks, b), size=None)


# ---- learners

def test_logistic_chooses_across_groups(monkeypatch):
    "A strength that only serves to know groups by heart is not chosen; with one group in a class there is no choice."
    films, labels, groups = films_of(per_group=3)
    learner = Logistic(take_frames, films, choices=(.01, 1., 100.))
    seen = [learner.look(film) for film in films]
    assert torch.cat(seen).square().mean().item() == pytest.approx(1, abs=1e-4)
    rng = np.random.default_rng(0)
    shift = {g: torch.from_numpy(rng.standard_normal(4)).float() for g in groups}
    confused = [.2 * x + 3 * shift[g] for x, g in zip(seen, groups)]       # nothing but groups in it: better say little
    assert learner.choose_strength(confused, labels, groups=groups) == .01
    assert learner.choose_strength(seen, labels, groups=groups) > .01
    assert learner.choose_strength(seen, labels, groups=None) == 10
    assert learner.choose_strength(seen, labels, groups=['a' if g == '0/0' or g[0] == '0' else g for g in groups]) == 10
    p = learner.fit(seen, labels, groups=groups).predict(seen)
    assert p.shape == (45, 3) and torch.allclose(p.sum(1), torch.ones(45)) and accuracy(p, labels) > .9
    assert torch.allclose(p[:1], learner.predict(seen[:1]))


def test_films_count_the_same_however_long():
    "A film that holds all its rows twice is the same film."
    films, labels, groups = films_of(T=8)
    learner = Logistic(lambda film: film, films, choices=(1.,))
    seen = [learner.look(film) for film in films]
    longer = [torch.cat([x] * (1 + i % 3)) for i, x in enumerate(seen)]
    p, q = (learner.fit(x, labels, groups=groups).predict(seen) for x in (seen, longer))
    assert (p - q).abs().max() < .01


def test_nobody_is_asked_about_what_he_was_taught():
    films, labels, groups = films_of()
    class Watched(Spy):
        def predict(self, seen):
            taught = self.notes['fits'][-1]
            asked = {round(x[0, 0].item() * 100) for x in seen}
            assert not {groups[i] for i in asked} & {*taught[4]} and {*taught[3]} == {0, 1, 2}
            self.notes.setdefault('asked', []).extend(asked)
            return torch.cat(seen)[:, 1:].softmax(1)
    learner = Watched(films, 0, notes := {})
    seen = [learner.look(film) for film in films]
    p = predict_across(learner, seen, labels, groups=groups)
    assert sorted(notes['asked']) == list(range(30)) and torch.allclose(p, torch.cat(seen)[:, 1:].softmax(1))
    with pytest.raises(ValueError, match='groups is .*; expected two groups or more in each class'):
        predict_across(learner, seen, labels, groups=[g[0] for g in groups])


def test_pretraining_is_shared_and_repeatable():
    films = tuple(films_of()[0])
    watch = Pretraining(4, steps=2, past=8, future=4)
    one = watch(films, 3)
    assert watch(films, 3) is one and watch(films, 4) is not one and same(watch(films, 3), one)
    blind = VideoLSTM.composite(frame_shape=(4,), hidden_size=4, output='gaussian', seed=3)
    assert same(Pretraining(4, steps=0)(films, 3), blind)
    learners = standard_learners(watch, steps=1)
    frozen, tuned = (learners[f'composite, {k}'](films, 3) for k in ('frozen', 'fine-tuned'))
    assert tuned.model is frozen.eye.keywords['model']
    assert tuned.seeded and frozen.seeded and not learners['single frames'](films, 3).seeded
    assert len(learners) == 6 and all(isinstance(make(films, 0), Learner) for make in learners.values())


def test_lstm_learners():
    "From scratch and from an encoder, frozen or not: seeds repeat, films are averaged, nothing carries over."
    films, labels, _ = films_of(T=24)
    model = VideoLSTM.composite(frame_shape=(4,), hidden_size=4, output='gaussian', seed=1)
    for options in (dict(), dict(model=model), dict(model=model, freeze=True)):
        learner = LSTMLearner(4, steps=3, **options)
        seen = [learner.look(film) for film in films]
        p = learner.fit(seen, labels, seed=5).predict(seen)
        assert torch.equal(LSTMLearner(4, steps=3, **options).fit(seen, labels, seed=5).predict(seen), p)
        assert torch.equal(learner.fit(seen, labels, seed=5).predict(seen), p)
        assert not torch.equal(learner.fit(seen, labels, seed=6).predict(seen), p)
        assert torch.allclose(learner.predict(seen[3:4]), learner.classifier.predict_video(films[3][None]), atol=1e-6)
    assert torch.equal(learner.classifier.encoder.weight_hh_l0, model.encoder.weight_hh_l0)
    states = read_states(films[0], model, which='last')
    with torch.no_grad(): assert torch.allclose(states, model.encoder(cut_blocks(films[0]))[0][:, -1])


# ---- counts, streams, neighbours

def test_counts_beside_loops():
    p, labels = rand(50, 4, seed=1), torch.arange(50) % 3
    for k in range(1, 5):
        right = [y in sorted(range(4), key=lambda c: -row[c])[:k] for row, y in zip(p.tolist(), labels.tolist())]
        assert top_k(p, labels, k) == pytest.approx(np.mean(right))
    table = confusion(p, labels)
    for i in range(4):
        for j in range(4): assert table[i, j] == sum((p.argmax(1) == j) & (labels == i))
    shares = class_accuracy(p, labels)
    assert shares[3].isnan() and (shares[:3] * torch.bincount(labels)).sum() / 50 == pytest.approx(accuracy(p, labels))


def test_weights_of_streams():
    labels = torch.arange(30) % 3
    good, bad = F.one_hot(labels, 3) * .8 + .0667, rand(30, 3).softmax(1)
    assert choose_weights([good, bad], labels) == [1, 0] and choose_weights([bad, good, bad], labels) == [0, 1, 0]
    halves = [torch.where((torch.arange(30) < 15)[:, None] == first, good, bad) for first in (True, False)]
    assert .2 < choose_weights(halves, labels)[0] < .8
    assert torch.allclose(fuse(halves, [1, 3]), .25 * halves[0] + .75 * halves[1])
    for weights in ([1.], [0, 0], [-1, 2], [math.nan, 1], 'ab', None and 0, {1: 2}):
        if weights is None: continue
        with pytest.raises(ValueError, match='weights is'): fuse(halves, weights)
    with pytest.raises(ValueError, match=r'streams\[1\] has shape'): fuse([good, bad[:9]])


def test_neighbours_beside_a_loop():
    films, labels, groups = films_of(per_group=2)
    x = rand(30, 5, seed=3) + F.one_hot(labels, 5)
    queries, gallery = list(range(0, 30, 3)), list(range(1, 30, 2))
    for asked, found in ((range(30), range(30)), (queries, gallery)):
        r = retrieval(x, labels, groups, ks=(1, 3, 5), queries=list(asked), gallery=list(found))
        for row, i in enumerate(asked):
            def far(j): return -F.cosine_similarity(x[i], x[j], 0).item()
            others = sorted((j for j in found if groups[j] != groups[i]), key=far)
            for col, k in enumerate((1, 3, 5)):
                assert r.hits[row, col] == any(labels[j] == labels[i] for j in others[:k])
    chance, rng = [], np.random.default_rng(0)
    for _ in range(300):
        noise = torch.from_numpy(rng.standard_normal((30, 9)))
        chance.append(retrieval(noise, labels, groups, ks=(1, 3)).recall.numpy())
    assert np.allclose(np.mean(chance, 0), retrieval(x, labels, groups, ks=(1, 3)).chance, atol=.03)
    with pytest.raises(ValueError, match='groups is .*of its class in another group'):
        retrieval(x, labels, ['a' if g[0] == '0' else g for g in groups], ks=[1])


# ---- from a film to names

def brightness(frames): return frames.mean((1, 2)) / 255


def a_classifier(overlap=0):
    def differ(x): return x[overlap:].mean((1, 2)) / 255 - x[:len(x) - overlap].mean((1, 2)) / 510
    encoder = as_encoder(differ, name='brightness', size=3, overlap=overlap)
    return encoder, VideoClassifier(encoder, Projection(np.zeros(3), np.eye(3)[:, :2]), LSTMClassifier(2, 4, 3, seed=2),
                                    classes=['a', 'b', 'c'], card={'seen': 7})


@pytest.mark.parametrize('overlap', [0, 1, 3])
def test_a_timeline_is_what_it_would_have_said_then(overlap):
    encoder, judge = a_classifier(overlap)
    frames = np.random.default_rng(0).integers(0, 255, (45, 6, 8, 3)).astype(np.uint8)
    found = judge.predict(frames, fps=10)
    rows = torch.from_numpy(judge.projection(encoder(frames)))
    for t in (0, 5, 15, 16, 30, 44 - overlap):
        want = judge.classifier.predict(rows[None, max(0, t - 15):t + 1])[0]
        assert torch.allclose(found.probabilities[t], want, atol=1e-6)
        assert found.times[t] == pytest.approx((t + overlap) / 10)
    assert torch.allclose(found.overall, judge.classifier.predict_video(rows[None])[0], atol=1e-6)
    short = judge.predict(frames[:9]).overall
    assert torch.allclose(short, judge.classifier.predict(rows[None, :9 - overlap])[0], atol=1e-6)


def test_a_film_on_the_disk(tmp_path):
    pytest.importorskip('av', reason='needs PyAV')
    from lstm_video_repr.videos import Video, make_film, save_video
    encoder, judge = a_classifier(1)
    path = save_video(tmp_path/'film.avi', make_film(150, size=(16, 16)))
    found, film = judge.predict(path), Video(path)
    want = judge.predict(np.stack(list(film)))
    assert torch.allclose(found.probabilities, want.probabilities, atol=1e-6), 'chunks meet without a seam'
    assert np.allclose(found.times, film.times[1:]) and str(judge.predict(str(path))) == str(found)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OSError, match='film.avi'): judge.predict(path)


def test_classifiers_in_files(tmp_path):
    encoder, judge = a_classifier()
    frames = np.random.default_rng(1).integers(0, 255, (20, 4, 4, 3)).astype(np.uint8)
    path = judge.save(tmp_path/'judge.safetensors')
    again = load_classifier(path, encoder=encoder)
    assert again.classes == ('a', 'b', 'c') and again.card == {'seen': 7} and same(again.classifier, judge.classifier)
    assert torch.equal(again.predict(frames).probabilities, judge.predict(frames).probabilities)
    with pytest.raises(ValueError, match="name is 'brightness'; expected one of 'mobilenet_v2'"):
        load_classifier(path).predict(frames)
    other = as_encoder(brightness, name='brightness', size=4), as_encoder(brightness, name='another', size=3)
    for odd in other:
        with pytest.raises(ValueError, match='^encoder '): load_classifier(path, encoder=odd)
    tensors, meta = read_safetensors(path)
    head = json.loads(meta['head'])
    def shape(**change): return head | {'classifier': head['classifier'] | change}
    bad = [({k: x for k, x in tensors.items() if 'bias' not in k}, head), (tensors | {'more': rand(2)}, head),
           (tensors | {'projection.mean': rand(4)}, head), (tensors | {'projection.mean': rand(3) * math.nan}, head),
           (tensors | {'classifier.softmax.linear.bias': rand(3) * math.nan}, head), (tensors, {}), (tensors, None),
           (tensors, head | {'classes': ['a', 'b']}), (tensors, head | {'classes': ['a', 'a', 'b']}),
           (tensors, head | {'encoder': 3}), (tensors, head | {'classifier': {}}), (tensors, shape(hidden_size=5)),
           (tensors, shape(hidden_size=10**12)), (tensors, shape(num_layers=2)), (tensors, shape(peephole=False))]
    for parts, its_head in bad:
        write_safetensors(tmp_path/'odd', parts, dict(format=meta['format'], head=json.dumps(its_head)))
        with pytest.raises(OSError, match='odd'): load_classifier(tmp_path/'odd')
    raw = path.read_bytes()
    for k in range(0, len(raw), 997):
        path.write_bytes(raw[:k] + bytes([raw[k] ^ 16]) + raw[k + 1:])
        with pytest.raises(OSError, match='judge.safetensors'): load_classifier(path)


def test_an_encoder_that_is_not_here_says_what_to_install(tmp_path, monkeypatch):
    from lstm_video_repr import percepts
    _, judge = a_classifier()
    path = judge.save(tmp_path/'judge.safetensors')
    def missing(name): raise OSError(f'the weights of {name!r} are not on this machine; pip install some-weights')
    monkeypatch.setattr(percepts, 'load_encoder', missing)
    kept = load_classifier(path)
    assert kept.classes == ('a', 'b', 'c'), 'what is in a file can be seen without its encoder'
    with pytest.raises(OSError, match='pip install some-weights'): kept.predict(np.zeros((20, 4, 4, 3), np.uint8))


# ---- labelled videos


def many(n):
    "Quiet property tests that do not depend on how fast a machine is."
    return settings(max_examples=n, deadline=None, derandomize=True, database=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def touch(root, *names):
    "Empty files."
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).touch()
    return root


def films(*classes, n=4): return [f'{name}/v_{name}_g{g:02}_c{c:02}.avi' for name in classes for g in range(1, n + 1) for c in (1, 2)]


# ---- a folder for each class

def test_names_labels_and_groups(tmp_path):
    odd = ['b [x]/it\'s (1)!.avi', 'b [x]/deep er/ü+ñ.MKV', 'a/v_Run_g01_c02.webm', 'a/v_Run_g01_c01.webm', 'a/映画.gif']
    touch(tmp_path, *odd, 'a/.hidden.avi', 'a/notes.txt', 'a/film.avi.part', '.git/x.avi', 'README.md')
    found = LabelledVideos(str(tmp_path))
    assert found.names == tuple(sorted(odd)) and found.classes == ('a', 'b [x]') and found.ids == (1, 2)
    assert found.labels.dtype == torch.int64 and found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.groups == ('Run_g01', 'Run_g01', *found.names[2:])
    assert all(path.is_file() for path in found.paths) and len(found) == 5
    assert repr(found) == f"LabelledVideos(5 videos, 2 classes, 4 groups, in {tmp_path.name!r})"
    assert 'b [x]' in str(found) and '<td' in found._repr_html_()
    again = pickle.loads(pickle.dumps(found))
    assert again.names == found.names and again.describe() == found.describe()


def test_describe_tells_apart(tmp_path):
    touch(tmp_path, 'a/1.avi', 'a/2.avi', 'b/3.avi')
    found = LabelledVideos(tmp_path)
    others = [found[:2], found[[0, 2]], LabelledVideos(tmp_path, groups=['x', 'x', 'y']), found.subset(classes=['a'])]
    assert len({s.describe() for s in (found, *others)}) == 5
    assert found.describe() == LabelledVideos(tmp_path).describe() == found.subset().describe()


LAYOUTS = [
    ([], 'no folders'), (['a/1.avi'], "only the folder 'a'"), (['a/1.avi', 'b/x.txt'], "'b' holds no video"),
    (['1.avi', 'a/1.avi', 'b/1.avi'], "'1.avi' lies in no folder")]


@pytest.mark.parametrize('names, said', LAYOUTS)
def test_folders_that_are_no_set(tmp_path, names, said):
    with pytest.raises(OSError, match=f'root is .*{said}'): LabelledVideos(touch(tmp_path, *names))


LINKS = [('a/loop', '..', 'a link to a folder'), ('a/self', 'self', 'leads nowhere'), ('c', '.', 'loop of links'),
         ('c', '..', 'loop of links'), ('c', 'a', 'the same folder'), ('c', 'gone', 'leads nowhere'),
         ('a/2.avi', 'gone.avi', 'leads nowhere'), ('c', 'c', 'leads nowhere')]


@pytest.mark.parametrize('place, target, said', LINKS)
def test_links(tmp_path, place, target, said):
    touch(tmp_path/'set', 'a/1.avi', 'b/1.avi')
    (tmp_path/'set'/place).symlink_to(target)
    with pytest.raises(OSError, match=said): LabelledVideos(tmp_path/'set')


def test_a_class_on_another_disk(tmp_path):
    touch(tmp_path, 'far/c.avi', 'set/a/1.avi')
    (tmp_path/'set/b').symlink_to(tmp_path/'far')
    (tmp_path/'set/a/2.avi').symlink_to(tmp_path/'far/c.avi')
    assert LabelledVideos(tmp_path/'set').names == ('a/1.avi', 'a/2.avi', 'b/c.avi')


@pytest.mark.skipif(os.geteuid() == 0, reason='an administrator may read everything')
def test_a_folder_that_may_not_be_read(tmp_path):
    touch(tmp_path, 'a/1.avi', 'b/1.avi')
    (tmp_path/'b').chmod(0)
    with pytest.raises(OSError, match="'b' cannot be read"): LabelledVideos(tmp_path)
    (tmp_path/'b').chmod(0o700)


@pytest.mark.parametrize('root', [None, '', 3, b'x', 'a\0b', '\ud800', ['a'], 'nowhere', __file__])
def test_no_folder(root):
    with pytest.raises((ValueError, OSError), match='^root is .*expected'): LabelledVideos(root)


GROUPS = ['x', 3, ['a'], {}, {'a/1.avi': 'x'}, lambda name: None, lambda name: 1, [None] * 3, lambda: 'x', nn.Linear]


@pytest.mark.parametrize('groups', GROUPS)
def test_groups_that_are_none(tmp_path, groups):
    touch(tmp_path, 'a/1.avi', 'a/2.avi', 'b/3.avi')
    with pytest.raises(ValueError, match='^groups '): LabelledVideos(tmp_path, groups=groups)


def test_groups_of_each_kind(tmp_path):
    touch(tmp_path, 'a/1.avi', 'a/2.avi', 'b/3.avi')
    names = LabelledVideos(tmp_path).names
    for groups in (['p', 'q', 'q'], ('p', 'q', 'q'), dict(zip(names, 'pqq')), lambda name: 'pqq'[names.index(name)]):
        assert LabelledVideos(tmp_path, groups=groups).groups == ('p', 'q', 'q')


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Four classes of 5, 6, 7 and 8 videos."
    root = tmp_path_factory.mktemp('small')
    return LabelledVideos(touch(root, *(f'{name}/{k}.avi' for n, name in enumerate('abcd', 5) for k in range(n))))


def test_subsets(small):
    part = small.subset(['b/0.avi', 'd/7.avi', 'a/1.avi'])
    assert part.names == ('a/1.avi', 'b/0.avi', 'd/7.avi') and part.labels.tolist() == [0, 1, 3]
    assert part.classes == small.classes and small[[25, 0]].names == ('a/0.avi', 'd/7.avi')
    assert small[torch.tensor([3, 1])].names == ('a/1.avi', 'a/3.avi') and small[-1] == (small.paths[-1], 3)
    two = small.subset(classes=['d', 'b'])
    assert (two.classes, two.ids) == (('b', 'd'), (2, 4)) and Counter(two.labels.tolist()) == {0: 6, 1: 8}
    assert small.subset([0, 6], classes=['b']).names == ('b/1.avi',) and len(small) == 26
    assert [label for _, label in small] == small.labels.tolist()


@pytest.mark.parametrize('options, said', [
    (dict(which=[]), 'which is'), (dict(which=[26]), 'which is'), (dict(which=['a/9.avi']), 'which is .a/9.avi'),
    (dict(which=[0, 0]), 'each video once'), (dict(which=['a/0.avi', 1]), 'which'), (dict(which='a'), 'which'),
    (dict(classes='a'), 'classes is'), (dict(classes=['e']), "classes is 'e'"), (dict(classes=[]), 'classes is'),
    (dict(which=[0], classes=['b']), 'which is')])
def test_labelled_subsets_that_cannot_be(small, options, said):
    with pytest.raises(ValueError, match=said): small.subset(**options)


def test_numbers_that_are_not_there(small):
    for i in (26, -27):
        with pytest.raises(IndexError): small[i]
    with pytest.raises(ValueError): small[True]


# ---- a split that keeps groups together

@many(150)
@given(st.data())
def test_splits_share_no_group(small, data):
    "Whatever the groups are: within classes, across them, one alone."
    across = data.draw(st.booleans())
    drawn = data.draw(st.lists(st.integers(0, data.draw(st.integers(0, 9))), min_size=26, max_size=26))
    groups = [f'{g}{"" if across else name[0]}' for g, name in zip(drawn, small.names)]
    share, seed = data.draw(st.floats(.05, .95)), data.draw(st.integers(0, 99))
    videos = LabelledVideos(small.root, groups=groups)
    within = {k: Counter(g for g, label in zip(groups, videos.labels.tolist()) if label == k) for k in range(4)}
    if len(set(groups)) == 1 or not across and max(map(len, within.values())) == 1:
        with pytest.raises(ValueError, match='test is'): videos.split(share, seed=seed)
        return
    try: train, test = videos.split(share, seed=seed)
    except ValueError:
        assert across
        return
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(26)) and train.dtype == test.dtype == torch.int64
    assert train.tolist() == sorted(train.tolist()) and test.tolist() == sorted(test.tolist())
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert all(a.equal(b) for a, b in zip(videos.split(share, seed=seed), (train, test))), 'a seed repeats it'
    for k, sizes in within.items() if not across else ():
        tested = (videos.labels[test] == k).sum().item()
        if len(sizes) > 1: assert 0 < tested < sizes.total()
        assert abs(tested - share * sizes.total()) <= max(sizes.values()) or len(sizes) == 1


def test_splits_are_stratified(small):
    train, test = small.split(.25)
    assert Counter(small.labels[test].tolist()) == {0: 1, 1: 1, 2: 2, 3: 2} or len(test) in (6, 7, 8)
    for k, n in enumerate((5, 6, 7, 8)): assert abs((small.labels[test] == k).sum().item() - n / 4) <= .5
    assert not torch.equal(small.split(.25, seed=1)[1], test)


@pytest.mark.parametrize('test', [0, 1, -1, 1.5, float('nan'), 'x', None, True])
def test_shares_that_are_none(small, test):
    with pytest.raises(ValueError, match='^test is'): small.split(test)


# ---- official lists

CLASSES = ('Archery', 'HammerThrow', 'Hammering', 'HandstandPushups')


def write_ucf(folder, *, classes='1 Archery\r\n3 HammerThrow\r\n2 Hammering\r\n4 HandstandPushups\r\n', splits=(1, 2), **texts):
    "Small lists in UCF-101's layout: groups 1 and 2 are tested in split 1, 3 and 4 in split 2. Texts replace files."
    folder.mkdir(parents=True, exist_ok=True)
    ids = dict(reversed(line.split()) for line in classes.split('\n') if len(line.split()) == 2)
    made = {'classInd': classes}
    for k in splits:
        names = [name.replace('v_Handst', 'v_HandSt') for name in films(*CLASSES)]
        tested = [name for name in names if (int(name[-10:-8]) < 3) == (k == 1)]
        made[f'testlist0{k}'] = '\r\n'.join(tested)
        made[f'trainlist0{k}'] = '\r\n'.join(f'{n} {ids.get(n.split("/")[0], 9)}' for n in names if n not in tested)
    for name, text in (made | texts).items():
        if text is not None: (folder/f'{name}.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def ucf(tmp_path):
    "A small UCF-101, videos and lists, as it is published."
    names = [name.replace('v_Handst', 'v_HandSt') for name in films(*CLASSES)]
    write_ucf(tmp_path/'ucfTrainTestlist')
    return touch(tmp_path/'UCF-101', *names)


def test_official_order_and_splits(ucf):
    found = UCF101(ucf)
    assert found.classes == ('Archery', 'Hammering', 'HammerThrow', 'HandstandPushups') and found.ids == (1, 2, 3, 4)
    assert found.names == tuple(sorted(found.names)) and found.missing == found.unlisted == ()
    label = dict(zip(found.names, found.labels.tolist()))
    assert label['HammerThrow/v_HammerThrow_g01_c01.avi'] == 2 and label['Hammering/v_Hammering_g01_c01.avi'] == 1
    for k, groups in ((1, {'g01', 'g02'}), (2, {'g03', 'g04'})):
        train, test = found.split(k)
        assert (len(train), len(test)) == (16, 16) and {found.groups[i][-3:] for i in test} == groups
        assert not {found.groups[i] for i in train} & {found.groups[i] for i in test}
    with pytest.raises(ValueError, match='which is 3.*0 to train on'): found.split(3)
    assert (found.flags[:, 2] == -1).all() and found.notes() == [] and 'train 2' in str(found)


def test_where_lists_are_found(ucf, tmp_path):
    want = UCF101(ucf).describe()
    lists = tmp_path/'ucfTrainTestlist'
    assert UCF101(tmp_path).describe() == UCF101(str(ucf), str(lists)).describe() == want, 'the folder above, too'
    for place in (ucf, ucf/'ucfTrainTestlist', tmp_path, tmp_path/'splits'/'ucf101', tmp_path.parent/'splits'/'ucf101'):
        moved = shutil.move(lists, tmp_path/'lists')
        place.mkdir(parents=True, exist_ok=True)
        for file in Path(moved).iterdir(): shutil.copy(file, place)
        assert UCF101(ucf).describe() == want, place
        for file in Path(moved).iterdir(): (place/file.name).unlink()
        lists = Path(shutil.move(moved, lists))
    shutil.rmtree(lists)
    with pytest.raises(FileNotFoundError, match='^lists is None.*classInd.txt'): UCF101(ucf)
    with pytest.raises(FileNotFoundError, match='^lists is .*classInd.txt'): UCF101(ucf, tmp_path)


def test_what_is_missing_is_named(ucf):
    shutil.rmtree(ucf/'Hammering')
    (ucf/'Archery/v_Archery_g01_c01.avi').unlink()
    touch(ucf, 'Archery/mine.avi')
    found = UCF101(ucf)
    assert found.classes == ('Archery', 'HammerThrow', 'HandstandPushups') and found.ids == (1, 3, 4)
    assert len(found.missing) == 9 and found.missing[0] == 'Archery/v_Archery_g01_c01.avi'
    assert found.unlisted == ('Archery/mine.avi',) and found.labels.max() == 2
    assert '9 videos of 2 classes are missing' in str(found) and '1 file' in str(found)
    with pytest.raises(OSError, match="9 videos of 2 classes are missing, such as 'Archery/v_Archery_g01_c01.avi'"):
        UCF101(ucf, complete=True)
    assert len(found[found.split(1)[0]].subset(classes=['Archery'])) == 4


def test_spellings(ucf):
    "Other case, other ending, a folder deeper: the same video. Two of them: an error."
    (ucf/'HandstandPushups').rename(ucf/'HandStandPushups')
    (ucf/'Archery/v_Archery_g01_c01.avi').rename(ucf/'Archery/v_archery_g01_c01.MP4')
    touch(ucf, 'Hammering/more/x.txt')
    (ucf/'Hammering/v_Hammering_g02_c01.avi').rename(ucf/'Hammering/more/v_Hammering_g02_c01.avi')
    found = UCF101(ucf, complete=True)
    assert found.classes[3] == 'HandstandPushups' and 'Archery/v_archery_g01_c01.MP4' in found.names
    touch(ucf, 'Archery/v_Archery_g01_c01.webm')
    with pytest.raises(OSError, match='are both'): UCF101(ucf)


def test_an_unknown_class(ucf):
    touch(ucf, 'Flying/v_Flying_g01_c01.avi')
    with pytest.raises(OSError, match="'Flying/v_Flying_g01_c01.avi' is of a class that is in no list"): UCF101(ucf)
    (ucf/'Flying/v_Flying_g01_c01.avi').unlink()
    assert len(UCF101(ucf)) == 32, 'a folder without videos is no class'
    for name in CLASSES: shutil.rmtree(ucf/name)
    with pytest.raises(OSError, match='of 32 videos in the lists none is there'): UCF101(ucf)


ONE = 'Archery/v_Archery_g01_c01.avi'
WRONG_LISTS = [
    (dict(classInd='1 Archery\n1 Hammering\n'), r"classInd.txt', line 2"), (dict(classInd='1 Archery\n'), '1 classes'),
    (dict(classInd='1 Archery\n2 Archery\n'), 'line 2'), (dict(classInd='Archery 1\n'), 'line 1'),
    (dict(classInd='1 Arch ery\n'), 'line 1'), (dict(classInd='1 ../x\n2 y'), 'line 1'), (dict(classInd='9' * 5000 + ' x'), 'line 1'),
    (dict(classInd=b'\xff\xfe\x00'), 'cannot be read'), (dict(classInd=''), '0 classes'),
    (dict(testlist01=None), 'testlist01.txt. is missing'), (dict(trainlist02=None), 'trainlist02.txt. is missing'),
    (dict(testlist01=f'{ONE}\n\n{ONE}\n'), "testlist01.txt', line 3.*each video once in split 1"),
    (dict(testlist01='Flying/v_Flying_g01_c01.avi'), "line 1.*'Flying' is none"),
    (dict(testlist01=f'{ONE} 2'), 'line 1.*expected 1, the number of Archery'),
    (dict(trainlist01=f'{ONE} 2'), 'line 1.*expected 1'), (dict(trainlist01=ONE), 'line 1.*expected 1'),
    (dict(trainlist01='Archery/v_Archery_g03_c01.avi 1\nArchery/v_Archery_g01_c01.avi 1'), 'testlist01.txt.*listed before'),
    (dict(trainlist01='Archery/v_Archery_g01_c03.avi 1'), "group 'Archery_g01' on both sides"),
    (dict(testlist01='/etc/passwd'), 'line 1'), (dict(testlist01='Archery/../x.avi'), 'line 1'),
    (dict(testlist01='x.avi'), 'line 1'), (dict(testlist01='Archery\\x.avi'), 'line 1'), (dict(testlist01='Archery/'), 'line 1'),
    (dict(testlist01=b'\x80abc'), 'testlist01.txt. cannot be read'), (dict(testlist01=''), 'nothing to test with'),
    (dict(trainlist01=''), 'nothing to train with'),
    (dict(testlist01='Hammering/v_Archery_g01_c01.avi'), 'one video in two classes')]


@pytest.mark.parametrize('texts, said', WRONG_LISTS)
def test_lists_that_cannot_be(ucf, tmp_path, texts, said):
    for name in texts: (tmp_path/f'ucfTrainTestlist/{name}.txt').unlink()
    write_ucf(tmp_path/'ucfTrainTestlist', **texts)
    with pytest.raises(OSError, match=said): UCF101(ucf)


LISTED = st.text(st.sampled_from("abAB [](){}!+-_.'&,#äß映"), min_size=1, max_size=8).map(lambda s: f'x{s}x')


@many(40)
@given(st.data())
def test_any_lists(tmp_path_factory, data):
    "Names, numbers and sides as they come: what is read is what was written; one line twice, or elsewhere, is found."
    root = tmp_path_factory.mktemp('any')
    classes = data.draw(st.lists(LISTED.map(lambda s: s.replace(' ', '')), min_size=2, max_size=4, unique_by=str.casefold))
    ids = dict(zip(classes, data.draw(st.permutations(range(1, len(classes) + 1)))))
    stems = data.draw(st.lists(LISTED, min_size=4, max_size=9, unique_by=str.casefold))
    rows = [(classes[k % len(classes)], f'{stem}.avi') for k, stem in enumerate(stems)]
    side = {row: data.draw(st.sampled_from([1, 2])) if k > 1 else k + 1 for k, row in enumerate(rows)}
    lists = {1: [f'{a}/{b} {ids[a]}' for a, b in rows if side[a, b] == 1], 2: [f'{a}/{b}' for a, b in rows if side[a, b] == 2]}
    def write():
        for kind, lines in (('train', lists[1]), ('test', lists[2])): (root/f'{kind}list01.txt').write_text('\n'.join(lines))
    (root/'classInd.txt').write_text('\n'.join(f'{n} {name}' for name, n in ids.items()))
    write()
    there = data.draw(st.lists(st.sampled_from(rows), min_size=1, unique=True))
    found = UCF101(touch(root/'videos', *(f'{a}/{b}' for a, b in there)), root)
    assert set(found.names) == {f'{a}/{b}' for a, b in there} and len(found.missing) == len(rows) - len(there)
    assert list(found.ids) == sorted(found.ids) and {ids[c] for c in found.classes} == set(found.ids)
    for name, label, flag in zip(found.names, found.labels.tolist(), found.flags[:, 0].tolist()):
        a, _, b = name.partition('/')
        assert found.classes[label] == a and flag == side[a, b]
    a, b = data.draw(st.sampled_from(rows))
    lists[data.draw(st.sampled_from([1, 2]))].append(f'{a}/{b} {ids[a]}')
    write()
    with pytest.raises(OSError, match='each video once'): UCF101(root/'videos', root)


TAGS = 'u_nm_np1_ba_goo'
REELS = [('climb', f'Up!_[part+1]_climb_{TAGS}_0', (1, 2, 0)), ('climb', f'Up!_[part+1]_climb_{TAGS}_1', (1, 2, 0)),
         ('climb', 'Stairs_&_co_climb_f_cm_np10_le_med_12', (2, 1, 1)), ('climb_stairs', f'Up!_[part+1]_climb_stairs_{TAGS}_0', (2, 1, 1)),
         ('climb_stairs', f'Ä_film_climb_stairs_{TAGS}_7', (1, 2, 2)), ('climb_stairs', 'without tags', (0, 0, 0))]


def write_hmdb(folder, reels=REELS):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(3):
        for name in {row[0] for row in reels}:
            lines = [f'{file}.avi {flags[k]} ' for row, file, flags in reels if row == name]
            (folder/f'{name}_test_split{k + 1}.txt').write_text('\n'.join(lines) + '\n')
    return folder


@pytest.fixture
def hmdb(tmp_path):
    write_hmdb(tmp_path/'testTrainMulti_7030_splits')
    return touch(tmp_path/'hmdb51_org', *(f'{name}/{file}.avi' for name, file, _ in REELS))


def test_flags_films_and_groups(hmdb):
    found = HMDB51(hmdb, complete=True)
    assert found.classes == ('climb', 'climb_stairs') and found.ids == (1, 2)
    group = dict(zip(found.names, found.groups))
    assert [group[f'{name}/{file}.avi'] for name, file, _ in REELS] == [
        'climb/Up!_[part+1]', 'climb/Up!_[part+1]', 'climb/Stairs_&_co', 'climb_stairs/Up!_[part+1]',
        'climb_stairs/Ä_film', 'climb_stairs/without tags']
    flags = dict(zip(found.names, map(tuple, found.flags.tolist())))
    assert all(flags[f'{name}/{file}.avi'] == want for name, file, want in REELS)
    assert [tuple(map(len, found.split(k))) for k in (1, 2, 3)] == [(3, 2), (2, 3), (2, 1)]
    shared = found.shared_films(1)
    assert [found.names[i] for i in shared] == [f'climb_stairs/Up!_[part+1]_climb_stairs_{TAGS}_0.avi']
    assert HMDB51(hmdb.parent).describe() == found.describe() and found.shared_films(3).tolist() == []


@pytest.mark.parametrize('file, text, said', [
    ('climb_test_split1.txt', 'a.avi 3', 'line 1.*1 train, 2 test or 0 neither'), ('climb_test_split1.txt', 'a.avi', 'line 1'),
    ('climb_test_split1.txt', '../a.avi 1', 'line 1'), ('climb_test_split1.txt', 'a.avi 1\na.avi 2', 'line 2.*each video once'),
    ('climb_test_split1.txt', '', 'nothing to train|shared'), ('climb_test_split2.txt', None, 'climb_test_split2.txt is missing'),
    ('climb_test_split1.txt', 'without tags.avi 1', 'two classes'),
    ('climb_test_split1.txt', f'Up_climb_{TAGS}_1.avi 1\nUp_climb_{TAGS}_2.avi 2', "'climb/Up' on both sides")])
def test_class_lists_that_cannot_be(hmdb, file, text, said):
    lists = hmdb.parent/'testTrainMulti_7030_splits'
    if text is None: (lists/file).unlink()
    else: (lists/file).write_text(text)
    if text == '': (lists/'climb_stairs_test_split1.txt').write_text('b.avi 2')
    with pytest.raises(OSError, match=said): HMDB51(hmdb)


@pytest.mark.parametrize('reader', [UCF101, HMDB51])
def test_places_that_are_none(reader, tmp_path):
    for options in (dict(root=None), dict(root='nowhere'), dict(root=tmp_path, lists=3), dict(root=tmp_path, lists='nowhere'),
                    dict(root=tmp_path, complete=1), dict(root=tmp_path)):
        with pytest.raises((ValueError, OSError), match='root is|lists is|complete is'): reader(**options)


def test_real_clips(data_folder):
    found = UCF101(data_folder/'videos'/'ucf101')
    assert len(found) == 150 and len(found.missing) == 13_170 and len(found.classes) == 6
    assert [tuple(map(len, found.split(k))) for k in (1, 2, 3)] == [(108, 42)] * 3
    assert {g[-3:] for g in found[found.split(1)[1]].groups} == {f'g0{k}' for k in range(1, 8)}
    assert UCF101(data_folder/'videos'/'ucf101_singles', data_folder/'splits'/'ucf101').classes == (
        'ApplyEyeMakeup', 'BaseballPitch', 'Basketball', 'Biking', 'Punch')


# ---- fetching

class Server:
    "A web server on this machine: `files` by address; `limits` are bytes after which it hangs up, one for each answer."
    def __init__(self):
        self.files, self.limits, self.asked, self.ranges, self.tag, self.hold = {}, [], [], True, 1, None
        outer = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self): outer.answer(self)
            def log_message(self, *_): pass
        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(.01,), daemon=True).start()

    def url(self, name): return f'http://127.0.0.1:{self.http.server_port}/{name}'

    def file(self, name, raw=None, **options):
        if raw is not None: self.files[f'/{name}'] = raw
        return PublishedFile((self.url(name),), **options)

    def answer(self, to):
        raw, headers = self.files.get(to.path), to.headers
        asked = re.fullmatch(r'bytes=(\d+)-', headers.get('Range', '')) if self.ranges else None
        if headers.get('If-Range', f'"{self.tag}"') != f'"{self.tag}"': asked = None
        start = int(asked[1]) if asked else 0
        self.asked.append((to.path[1:], start))
        if raw is None or asked and start >= len(raw): return to.send_error(404 if raw is None else 416)
        to.send_response(206 if asked else 200)
        to.send_header('Content-Length', str(len(raw) - start))
        to.send_header('ETag', f'"{self.tag}"')
        if asked: to.send_header('Content-Range', f'bytes {start}-{len(raw) - 1}/{len(raw)}')
        to.end_headers()
        most = self.limits.pop(0) if self.limits else len(raw)
        to.wfile.write(raw[start:start + most])
        if self.hold and most < len(raw) - start:
            to.wfile.flush()
            self.hold.wait(60)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


RAW = bytes(range(256)) * 1000
QUIET = dict(pause=0, progress=False)
SHA = 'sha256:' + hashlib.sha256(RAW).hexdigest()


def test_what_has_come_is_not_asked_for_again(server, tmp_path):
    file = server.file('a.bin', RAW, size=len(RAW), digest=SHA)
    server.limits = [100_000, 100_000]
    assert fetch_file(file, tmp_path/'new', **QUIET).read_bytes() == RAW
    assert [start for _, start in server.asked] == [0, 100_000, 200_000]
    assert [p.name for p in (tmp_path/'new').iterdir()] == ['a.bin']
    assert fetch_file(file, tmp_path/'new', **QUIET) == tmp_path/'new/a.bin' and len(server.asked) == 3


def test_a_server_without_ranges(server, tmp_path):
    server.ranges, server.limits = False, [1000]
    assert fetch_file(server.file('a.bin', RAW, digest=SHA), tmp_path, **QUIET).read_bytes() == RAW
    server.limits = [5000] * 99
    with pytest.raises(OSError, match='the line broke after 5000 of 256000 bytes'):
        fetch_file(server.file('b.bin', RAW), tmp_path, tries=3, **QUIET)
    assert [start for name, start in server.asked if name == 'b.bin'] == [0, 0, 0, 0], 'the first one brought something'


def test_a_file_that_changes_on_the_server(server, tmp_path):
    "Two halves of different files are never put together."
    server.limits = [1000, 0, 0]
    with pytest.raises(OSError, match='goes on from there'): fetch_file(server.file('a.bin', b'x' * 5000), tmp_path, tries=1, **QUIET)
    server.tag, server.limits = 2, []
    assert fetch_file(server.file('a.bin', b'y' * 5000), tmp_path, **QUIET).read_bytes() == b'y' * 5000


def test_a_file_that_is_shorter_now(server, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(b'x' * 9000)
    assert fetch_file(server.file('a.bin', b'y' * 5000), tmp_path, **QUIET).read_bytes() == b'y' * 5000


def test_a_part_that_is_whole(server, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(RAW)
    assert fetch_file(server.file('a.bin', size=len(RAW), digest=SHA), tmp_path, **QUIET).read_bytes() == RAW
    assert server.asked == []


def test_what_is_not_what_was_published(server, tmp_path):
    with pytest.raises(OSError, match="a.bin' has the sha256 .*, expected .*; what came is kept as 'a.bin.damaged'"):
        fetch_file(server.file('a.bin', RAW[:-1], digest=SHA), tmp_path, **QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.bin.damaged']
    with pytest.raises(OSError, match='the server has 255999 bytes, expected 256000'):
        fetch_file(server.file('b.bin', RAW[:-1], size=len(RAW)), tmp_path, tries=1, **QUIET)
    (tmp_path/'c.bin').write_bytes(b'by hand')
    with pytest.raises(OSError, match='c.bin. has 7 bytes, expected 256000.*remove this one'):
        fetch_file(server.file('c.bin', RAW, size=len(RAW)), tmp_path, **QUIET)
    assert (tmp_path/'c.bin').read_bytes() == b'by hand'


def test_the_next_address(server, tmp_path):
    file = PublishedFile((server.url('gone.bin'), 'http://127.0.0.1:9/a.bin', server.url('a.bin')), digest=SHA)
    server.file('a.bin', RAW)
    assert fetch_file(file, tmp_path, tries=1, **QUIET).name == 'gone.bin'
    assert [name for name, _ in server.asked] == ['gone.bin', 'a.bin'], 'what is not there is not asked for twice'
    with pytest.raises(OSError, match='(?s)no.bin could not be fetched.*404'): fetch_file(server.file('no.bin'), tmp_path, **QUIET)


def test_a_full_disk_is_not_tried_again(server, tmp_path, monkeypatch):
    file, real, tried = server.file('a.bin', RAW), open, []
    def full(path, mode='r', *args, **options):
        if str(path).endswith('.part') and mode == 'wb':
            tried.append(path)
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(path, mode, *args, **options)
    monkeypatch.setattr('builtins.open', full)
    with pytest.raises(OSError, match='No space left'): fetch_file(file, tmp_path, **QUIET)
    assert len(tried) == 1


def test_killed_while_fetching(server, tmp_path):
    "SIGKILL half way: the next process asks for the rest alone."
    server.hold, server.limits = threading.Event(), [150_000]
    file = server.file('a.bin', RAW, digest=SHA)
    code = ('from lstm_video_repr.actions import PublishedFile, fetch_file\n'
            f'fetch_file(PublishedFile({file.urls!r}), {str(tmp_path)!r}, progress=False)')
    child = subprocess.Popen([sys.executable, '-c', code], cwd=Path(actions.__file__).parent.parent)
    part = tmp_path/'a.bin.part'
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 2**16) and time.monotonic() < end: time.sleep(.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    server.hold.set()
    came = part.stat().st_size
    assert fetch_file(file, tmp_path, **QUIET).read_bytes() == RAW and server.asked[-1] == ('a.bin', came)


def test_one_at_a_time(server, tmp_path):
    from lstm_video_repr.core.files import lock_file
    with lock_file(tmp_path/'a.bin'), pytest.raises(BlockingIOError): fetch_file(server.file('a.bin', RAW), tmp_path, **QUIET)


@pytest.mark.parametrize('options, said', [
    (dict(urls=()), 'urls'), (dict(urls='http://x.org/a'), 'urls'), (dict(urls=('ftp://x.org/a',)), 'urls'),
    (dict(urls=('file:///etc/passwd',)), 'urls'), (dict(urls=('http://x.org/',)), 'urls'), (dict(size=-1), 'size'),
    (dict(size=1.5), 'size'), (dict(digest='abc'), 'digest'), (dict(digest='md5:xyz'), 'digest'), (dict(digest=None), 'digest')])
def test_published_files_that_are_none(options, said):
    with pytest.raises(ValueError, match=f'^{said} is'): PublishedFile(**dict(urls=('http://x.org/a.zip',)) | options)


# ---- archives

def make_zip(files):
    with zipfile.ZipFile(raw := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items(): archive.writestr(name, text)
    return raw.getvalue()


def make_rar(files, links=()):
    "A rar of the old kind, in which files are stored as they are."
    def block(kind, flags, body, data=b''):
        head = struct.pack('<BHH', kind, flags, 7 + len(body)) + body
        return struct.pack('<H', zlib.crc32(head) & 0xffff) + head + data
    raw = b'Rar!\x1a\x07\0' + block(0x73, 0, bytes(6))
    for name, text in files.items():
        text, name = text if isinstance(text, bytes) else text.encode(), name.encode()
        mode = 0o120777 if name.decode() in links else 0o100644
        body = struct.pack('<IIBIIBBHI', len(text), len(text), 3, zlib.crc32(text), 0x5a21_0000, 20, 0x30, len(name), mode)
        raw += block(0x74, 0x8000, body + name, text)
    return raw + block(0x7b, 0x4000, b'')


KINDS = {'zip': make_zip, 'rar': make_rar}


@pytest.fixture(params=KINDS)
def pack(request, tmp_path):
    "Writes an archive, zip or rar: its path."
    if request.param == 'rar': pytest.importorskip('rarfile', reason='needs rarfile')
    def write(files, **options):
        (tmp_path/f'a.{request.param}').write_bytes(KINDS[request.param](files, **options))
        return tmp_path/f'a.{request.param}'
    return write


def below(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_unpacking(pack, tmp_path):
    files = {'x/a [1]!.avi': b'one', 'x/y/ b+.avi': b'two' * 9999, 'empty.avi': b''}
    path, out = pack(files), tmp_path/'out'
    assert unpack_archive(path, out, progress=False) == 3 and below(out) == files
    stamp = (out/'x/a [1]!.avi').stat().st_mtime_ns
    (out/'x/y/ b+.avi').write_bytes(b'cut')
    (out/'empty.avi').unlink()
    assert unpack_archive(path, out, progress=False) == 3 and below(out) == files
    assert (out/'x/a [1]!.avi').stat().st_mtime_ns == stamp, 'what is there is not written again'
    assert unpack_archive(path, tmp_path/'some', rename=lambda n: n[2:] if n[:2] == 'x/' else None, progress=False) == 2
    assert set(below(tmp_path/'some')) == {'a [1]!.avi', 'y/ b+.avi'}


@pytest.mark.parametrize('name', ['../b', 'x/../../b', '/abs', '..', 'x/..', './x', 'x//y', 'C:/x', '..\\b', 'x\\..\\b'])
def test_names_that_lead_out(pack, tmp_path, name):
    "Nothing at all is unpacked of such an archive; in a rar some are made harmless by their reader."
    path, out = pack({'good.avi': 'fine', name: 'bad'}), tmp_path/'in'/'out'
    try: unpack_archive(path, out, progress=False)
    except OSError as e: assert 'nothing was unpacked' in str(e) and str(path) in str(e)
    else: assert path.suffix == '.rar' and '..' not in name
    if path.suffix == '.zip': assert below(tmp_path/'in') == {}
    assert {p.name for p in tmp_path.iterdir()} == {'in', path.name} and {p.name for p in (tmp_path/'in').iterdir()} == {'out'}


def test_links_in_archives(tmp_path):
    info = zipfile.ZipInfo('link')
    info.external_attr, info.create_system = 0o120777 << 16, 3
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as archive: archive.writestr(info, '/etc')
    archives = [tmp_path/'a.zip']
    try: import rarfile
    except ImportError: pass
    else: archives += [tmp_path/'a.rar']; (tmp_path/'a.rar').write_bytes(make_rar({'link': '/etc'}, links=['link']))
    for path in archives:
        with pytest.raises(OSError, match="'link', a link; nothing was unpacked"): unpack_archive(path, tmp_path/'out', progress=False)
        assert list((tmp_path/'out').iterdir()) == []


def test_links_in_the_folder(pack, tmp_path):
    (tmp_path/'out').mkdir()
    (tmp_path/'out/x').symlink_to('..')
    with pytest.raises(OSError, match="'x' in it is a link that leads out"): unpack_archive(pack({'x/a': 'b'}), tmp_path/'out', progress=False)
    assert not (tmp_path/'a').exists()


def test_two_for_one_place(pack, tmp_path):
    with pytest.raises(OSError, match="'x' twice"): unpack_archive(pack({'a': '1', 'b': '2'}), tmp_path/'out', rename=lambda n: 'x', progress=False)
    with pytest.raises(ValueError, match="rename is '../x'"): unpack_archive(pack({'a': '1'}), tmp_path/'out', rename=lambda n: '../x', progress=False)


def test_damaged_archives(pack, tmp_path):
    "Whatever byte is wrong or missing: an `OSError` that names the archive, or the file as it was; never half a file."
    files = {'a.avi': b'first', 'b.avi': bytes(range(256)) * 4}
    path = pack(files)
    raw = path.read_bytes()
    for k in range(0, len(raw), 7):
        for hurt in (raw[:k], raw[:k] + bytes([raw[k] ^ 0x55]) + raw[k + 1:]):
            path.write_bytes(hurt)
            shutil.rmtree(tmp_path/'out', ignore_errors=True)
            try: unpack_archive(path, tmp_path/'out', progress=False)
            except OSError as e: assert str(path) in str(e)
            for content in below(tmp_path/'out').values() if (tmp_path/'out').exists() else (): assert content in (*files.values(), b'')


def test_archives_that_are_none(tmp_path):
    for raw in (b'', b'PK', b'hello', b'Rar!'):
        (tmp_path/'a.zip').write_bytes(raw)
        with pytest.raises(OSError, match='a.zip'): unpack_archive(tmp_path/'a.zip', tmp_path/'out', progress=False)
    with pytest.raises(FileNotFoundError, match='^path is'): unpack_archive(tmp_path/'no.zip', tmp_path)
    with pytest.raises(ValueError, match='^rename is'): unpack_archive(tmp_path/'a.zip', tmp_path, rename=3)


def test_a_rar_without_its_library(tmp_path, monkeypatch):
    (tmp_path/'a.rar').write_bytes(make_rar({'a': 'b'}))
    monkeypatch.setitem(sys.modules, 'rarfile', None)
    with pytest.raises(ImportError, match=r"need rarfile: pip install 'lstm-video-repr\[percepts\]'"): unpack_archive(tmp_path/'a.rar', tmp_path)


def test_a_rar_without_a_program(pack, tmp_path, monkeypatch):
    "A compressed one needs unrar or its like, and the error says so."
    if (path := pack({'a.avi': 'x' * 50})).suffix == '.zip': pytest.skip('of rar alone')
    import rarfile
    def open_it(*_): raise rarfile.RarCannotExec('Cannot find working tool')
    monkeypatch.setattr(rarfile.RarFile, 'open', open_it)
    with pytest.raises(OSError, match="'a.avi', needs one of the programs unrar"): unpack_archive(path, tmp_path/'out', progress=False)


def test_no_room(pack, tmp_path, monkeypatch):
    path = pack({'a': 'b' * 100})
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=99))
    with pytest.raises(OSError, match='100 bytes are needed, and 99 are free'): unpack_archive(path, tmp_path/'out', progress=False)


# ---- whole sets

def small_ucf(server, kind='zip', n=32, **options):
    "A set like UCF-101 on the server: all videos in one folder, as one of its archives has them."
    folder = write_ucf(Path(options.pop('at')))
    names = [name.replace('v_Handst', 'v_HandSt') for name in films(*CLASSES)]
    server.file(f'films.{kind}', KINDS[kind]({f'UCF101/{name.split("/")[1]}': name for name in names} | {'UCF101/READ ME': 'no'}))
    server.file('lists.zip', make_zip({f'lists/{p.name}': p.read_bytes() for p in folder.iterdir()}))
    return PublishedVideos(**dict(title='Small', licence='free as air', page='no page', reader=UCF101, count=n, gigabytes=1e-5,
                                  videos=(server.file(f'films.{kind}'),), lists=(server.file('lists.zip'),)) | options)


def test_a_set_is_fetched_once(server, tmp_path):
    said, what = [], small_ucf(server, at=tmp_path/'l')
    found = fetch_videos(what, tmp_path/'set', say=lambda text: said.append((text, len(server.asked))), **QUIET)
    assert isinstance(found, UCF101) and len(found) == 32 and found.missing == () and found.root == tmp_path/'set/UCF-101'
    assert found.paths[0].read_text() == found.names[0]
    (text, asked), = said
    assert asked == 0 and 'free as air' in text and 'GB on the disk' in text, 'said before anything is asked for'
    assert sorted(p.name for p in (tmp_path/'set').iterdir()) == ['UCF-101', 'ucfTrainTestlist']
    n = len(server.asked)
    assert fetch_videos(what, tmp_path/'set', say=said.append).describe() == found.describe() and len(server.asked) == n
    assert len(said) == 1


def test_a_set_goes_on(server, tmp_path):
    "After a broken line, and after a stop while unpacking."
    what, said = small_ucf(server, at=tmp_path/'l'), []
    server.limits = [10**6, 500, 0, 0]
    with pytest.raises(OSError, match='goes on from there'): fetch_videos(what, tmp_path/'set', say=said.append, tries=1, **QUIET)
    server.limits, count = [], []
    def stop(path, *args, _real=os.replace):
        if str(args[0]).endswith('.avi') and len(count) == 7: raise KeyboardInterrupt
        count.append(1) if str(args[0]).endswith('.avi') else None
        return _real(path, *args)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, 'replace', stop)
        fetch_videos(what, tmp_path/'set', say=said.append, **QUIET)
    assert len(list((tmp_path/'set').rglob('*.avi'))) == 7 and server.asked[-1] == ('films.zip', 500)
    n = len(server.asked)
    assert len(fetch_videos(what, tmp_path/'set', say=said.append, keep=True, **QUIET)) == 32 and len(server.asked) == n
    assert {'films.zip', 'lists.zip'} < {p.name for p in (tmp_path/'set').iterdir()}


def test_another_archive(server, tmp_path):
    "Where one cannot be had the next one is taken; one that was begun is not given up; one from elsewhere is used."
    good = small_ucf(server, at=tmp_path/'l')
    gone = PublishedFile((server.url('gone.zip'),))
    what = small_ucf(server, at=tmp_path/'l', videos=(gone, *good.videos))
    assert len(fetch_videos(what, tmp_path/'a', say=str, **QUIET)) == 32
    lost = small_ucf(server, at=tmp_path/'l', videos=(gone,))
    with pytest.raises(OSError, match='(?s)404.*If you have gone.zip from elsewhere: put it into'): fetch_videos(lost, tmp_path/'b', say=str, **QUIET)
    (tmp_path/'b/gone.zip').write_bytes(server.files['/films.zip'])
    assert len(fetch_videos(lost, tmp_path/'b', say=str, **QUIET)) == 32


def test_a_set_that_is_not_whole(server, tmp_path):
    with pytest.raises(OSError, match='32 videos; expected 33'): fetch_videos(small_ucf(server, at=tmp_path/'l', n=33), tmp_path/'a', say=str, **QUIET)
    assert (tmp_path/'a/films.zip').exists(), 'what was fetched is kept'
    server.file('films.zip', make_zip({'UCF101/v_Archery_g01_c01.avi': 'x'}))
    what = small_ucf(server, at=tmp_path/'l')
    server.files['/films.zip'] = make_zip({'UCF101/v_Archery_g01_c01.avi': 'x'})
    with pytest.raises(OSError, match='31 videos of 4 classes are missing'): fetch_videos(what, tmp_path/'b', say=str, **QUIET)


def test_a_rar_of_rars(server, tmp_path):
    pytest.importorskip('rarfile', reason='needs rarfile')
    inner = {f'{name}.rar': make_rar({f'{name}/{file}.avi': file for row, file, _ in REELS if row == name}) for name in ('climb', 'climb_stairs')}
    lists = write_hmdb(tmp_path/'l')
    what = PublishedVideos('Small', 'free', 'none', (server.file('org.rar', make_rar(inner)),), (server.file(
        'lists.rar', make_rar({f'testTrainMulti_7030_splits/{p.name}': p.read_bytes() for p in lists.iterdir()})),), HMDB51, 6, 1e-5)
    found = fetch_videos(what, tmp_path/'set', say=str, **QUIET)
    assert isinstance(found, HMDB51) and len(found) == 6 and found.root == tmp_path/'set/hmdb51_org'
    assert sorted(p.name for p in (tmp_path/'set').iterdir()) == ['hmdb51_org', 'testTrainMulti_7030_splits']


def test_room_is_asked_for_first(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=10**10))
    with pytest.raises(OSError, match=r'14.0 GB are needed, and 10.0 GB are free'): fetch_videos('ucf101', tmp_path/'a', say=str, **QUIET)
    assert list((tmp_path/'a').iterdir()) == [] and server.asked == []


@pytest.mark.parametrize('options, said', [
    (dict(what='ucf50'), "what is 'ucf50'; expected one of 'ucf101', 'hmdb51'"), (dict(keep=1), 'keep is'), (dict(progress=None), 'progress is'),
    (dict(say=None), 'say is'), (dict(folder=3), 'path is 3')])
def test_sets_that_cannot_be_fetched(tmp_path, options, said):
    with pytest.raises(ValueError, match=said): fetch_videos(**dict(what='ucf101', folder=tmp_path) | options)


def test_what_is_published():
    for name, what in PUBLISHED.items():
        assert what.licence and what.page.startswith('https://') and what.count in (13_320, 6_766), name
        assert all(file.digest and file.urls[0].startswith('https://') for file in what.videos + what.lists)
    assert 'no open licence' in PUBLISHED['ucf101'].licence and 'CC BY 4.0' in PUBLISHED['hmdb51'].licence


def test_from_the_command_line(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PUBLISHED, 'ucf101', small_ucf(server, at=tmp_path/'l'))
    assert main(['download', 'ucf101', '--folder', str(tmp_path/'set')]) == 0
    said = capsys.readouterr().out
    assert said.startswith('Small: free as air.') and '32 videos, 4 classes, 16 groups' in said
    assert said.rstrip().endswith(str(tmp_path/'set'/'UCF-101'))
    assert main(['download', 'mnist', '--folder', 'x']) == 2 and '--folder is' in capsys.readouterr().err
    monkeypatch.setattr('pooch.os_cache', lambda name: tmp_path/'cache')
    assert main(['download', 'ucf101']) == 0 and (tmp_path/'cache/ucf101/UCF-101/Archery').is_dir()


def test_the_scale_of_weights_and_vectors_is_nothing():
    "Huge weights are weights; a cosine does not depend on length, and a row of zeros has none."
    a, b = torch.tensor([[.9, .1]]), torch.tensor([[.2, .8]])
    assert torch.allclose(fuse([a, b], [1e308, 1e308]), (a + b) / 2)
    x, labels, groups = torch.randn(24, 5, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3, [*map(str, range(24))]
    found = [retrieval(x * scale, labels, groups, ks=(1, 5)).hits for scale in (1., 1e-30, 1e30)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    x[7] = 0
    with pytest.raises(ValueError, match=r'representations\[7\] is all zeros'): retrieval(x, labels, groups, ks=(1,))


@pytest.mark.parametrize('changes', [{}, dict(normalise=True), dict(components=3)], ids=str)
def test_states_are_those_of_the_model(changes):
    g = torch.Generator().manual_seed(0)
    films = [5 + torch.randn(30, 4, generator=g).cumsum(0) for _ in range(3)]
    model = Pretraining(6, steps=3, mix=False, past=8, future=2, **changes)(films, 0)
    with torch.no_grad(): right = model.encode(cut_blocks(films[0], block=8))[0][-1]
    torch.testing.assert_close(read_states(films[0], model, which='last', block=8), right)
    with pytest.raises(ValueError, match=r'film has shape \(30, 3\); expected \(T, 4\)'): read_states(films[0][:, :3], model, block=8)


def test_films_in_any_layout():
    film = np.random.default_rng(0).random((40, 5), np.float32)
    locked = film.copy()
    locked.flags.writeable = False
    for x in (locked, film.astype('>f4'), film.astype(np.longdouble)): torch.testing.assert_close(cut_blocks(x), cut_blocks(film))
    torch.testing.assert_close(cut_blocks(film[::-1]), cut_blocks(film[::-1].copy()))


def test_features_with_their_graph_are_only_read():
    h = torch.randn(6, 4, 8, requires_grad=True) * 2
    train_classifier(StepSoftmax(8, 2), h, torch.tensor([0, 1] * 3), steps=2, batch_size=3)

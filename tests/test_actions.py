"The classifier: true labels, a softmax at every step, encoders copied and frozen, fair subsets, repeatable learning."
import collections
import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lstm_video_repr.actions import (DIRECTIONS, LabelCurve, LabelledDigits, Learner, Logistic, LSTMClassifier,
                                     LSTMLearner, Pretraining, StepSoftmax, VideoClassifier, accuracy, choose_weights,
                                     class_accuracy, confusion, cut_blocks, few_labels, fuse, heading, label_curve,
                                     load_classifier, load_label_curve, predict_across, predict_clips, rank_films,
                                     read_states, retrieval, standard_learners, summarise_blocks, take_frames, top_k,
                                     train_classifier)
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

"The classifier: true labels, a softmax at every step, encoders copied and frozen, fair subsets, repeatable learning."
import copy
import math

import pytest
import torch
from torch import nn

from lstm_video_repr.actions import (DIRECTIONS, LabelledDigits, LSTMClassifier, StepSoftmax, accuracy, few_labels,
                                     heading, predict_clips, train_classifier)
from lstm_video_repr.clips import MovingDigits, random_paths
from lstm_video_repr.digits import load_digits
from lstm_video_repr.models import VideoLSTM

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

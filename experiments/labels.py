"""What is pretraining without labels worth, when there are few labels and when there are many?

Section 3.3 of the paper (action recognition), on moving digits: an LSTM classifier learns which digit it sees, or where
the digit is heading at the end of the clip, from 1 to 1000 labelled clips per class. Its encoder starts from scratch or
from a model that was trained without labels; then it is fine-tuned, or it stays as it is and only the softmax learns.
The pretrained models were trained on clips of *two* digits; the labelled clips have one. They are those of the
experiment `design`, where that has been run at the same size and budget; otherwise they are trained here. Within a
seed all starts get the same labelled clips, nested from few to many.

The learning rates were chosen once, on clips of training digits that no classifier learns from: the part `rates` does
that again, so that the choice can be checked.
"""
from functools import partial

import torch
from torch import Tensor

from lstm_video_repr.actions import (LabelledDigits, LSTMClassifier, accuracy, few_labels, predict_clips,
                                     train_classifier)
from lstm_video_repr.digits import load_digits

from experiments import design

NAME = 'labels'
PRETRAINING = dict(units=128, layers=1, steps=750, batch=64, recipe='adam', lr=3e-3, precision='auto')
SETTINGS = PRETRAINING | dict(
    per_class=(1, 3, 10, 30, 100, 300, 1000), classifier_steps=(30, 40, 60, 80, 110, 160, 300), classifier_batch=32,
    classifier_lr=1e-2, softmax_steps=300, softmax_lr=1e-1, rates=(3e-3, 1e-2, 3e-2), softmax_rates=(3e-2, 1e-1, 3e-1),
    rates_per_class=30, validation_clips=500, pool=12000, test_clips=1000, test_seed=2016, seeds=(0, 1, 2))
QUICK = dict(
    units=8, steps=3, batch=4, per_class=(1, 2), classifier_steps=(2, 2), classifier_batch=4, softmax_steps=2,
    rates=(1e-3,), softmax_rates=(1e-2,), rates_per_class=1, validation_clips=4, pool=150, test_clips=5, seeds=(0,))

TASKS = 'digit', 'direction'
STARTS = 'from scratch', 'autoencoder', 'future predictor', 'composite'
MODES = 'fine-tuned', 'frozen'
CONVENTIONS = dict(
    accuracy='share of test clips whose label has the highest probability; `mean` is the mean of the probabilities '
             'over all steps (the paper), `by_step` each step alone',
    pretraining='on clips of two digits each, without labels; the labelled clips have one digit each',
    from_scratch='random first weights; frozen, these random weights stay',
    digits='labelled clips: first five sixths of the training digits; choice of rates: the other sixth; accuracy: test '
           'digits')


# ---- the encoders

def pretrained(
    context, # of `run`; inside of a part
    name: str, # 'autoencoder', 'future predictor' or 'composite'
    *,
    seed: int, # of weights and clips
): # the `VideoLSTM`, and 'design' or 'labels': the experiment that trained it
    "A model without labels: that of `design` (constant rate, averaged weights) of this size, else trained here."
    s = context.settings
    size = dict(units=s.units, clips=s.steps * s.batch, batch=s.batch, lr=s.lr)
    model = design.find_model(context, name, layers=s.layers, seed=seed, **size)
    if model is not None: return model, design.NAME
    model = design.MODELS[name](hidden_size=s.units, num_layers=s.layers, seed=seed)
    budget = dict(steps=s.steps, recipe=s.recipe, batch_size=s.batch, lr=s.lr, precision=s.precision)
    context.train(model, context.train_clips(seed=seed), f'{name} {seed}', **budget)
    return model, NAME


def classifier(
    context, # of `run`
    model, # a `VideoLSTM`, or None: from scratch
    n_classes: int, # of the question
    *,
    seed: int, # of first weights
) -> LSTMClassifier: # on the device, with an encoder that has learned, or a random one
    "The classifier of a start. The softmax's first weights are the same for all starts."
    s = context.settings
    if model is not None: return LSTMClassifier.from_encoder(model, n_classes, seed=seed).to(context.device)
    return LSTMClassifier(64 * 64, s.units, n_classes, num_layers=s.layers, seed=seed).to(context.device)


# ---- learning and measuring

@torch.no_grad()
def features(
    model: LSTMClassifier, # whose encoder
    clips, # `LabelledDigits` or a tensor (N, T, 1, 64, 64)
    *,
    batch_size: int = 200, # clips at a time
) -> Tensor: # (N, T, H), on the CPU
    "What a frozen encoder says about all clips: computed once, for all numbers of labels and both questions."
    device, batches = next(model.parameters()).device, torch.arange(len(clips)).split(batch_size)
    return torch.cat([model.features(clips[which].to(device)).cpu() for which in batches])


def measured(
    model, # an `LSTMClassifier` or its softmax
    clips, # frames or features (N, T, ...)
    labels: Tensor, # (N,)
) -> tuple[float, list[float]]: # accuracy of the mean opinion, and of each step's
    "How often it is right."
    opinions = predict_clips(model, clips)
    return accuracy(opinions.mean(1), labels), [accuracy(p, labels) for p in opinions.unbind(1)]


def taught(
    context, # of `run`
    model, # a `VideoLSTM`, or None: from scratch
    mode: str, # one of MODES
    *,
    clips, # frames to learn from; frozen, their features
    labels: Tensor, # (N,)
    n_classes: int, # of the question
    which: Tensor | None, # numbers of the clips to learn from; None: all
    steps: int, # of fine-tuning
    lr: float | None = None, # None: that of the settings
    seed: int, # of the softmax, of the order
): # the whole `LSTMClassifier`; frozen, its softmax has learned
    "A classifier that has learned."
    s, pupil = context.settings, classifier(context, model, n_classes, seed=seed)
    learner = pupil
    if mode == 'frozen': learner, steps, lr = pupil.softmax, s.softmax_steps, lr or s.softmax_lr
    train_classifier(learner, clips, labels, which=which, steps=steps, batch_size=s.classifier_batch,
                     lr=lr or s.classifier_lr, seed=seed)
    return pupil


def curves(
    context, # of `run`
    model, # a `VideoLSTM`, or None: from scratch
    task: str, # one of TASKS
    *,
    pool: dict, # mode -> clips to learn from, or their features
    test: dict, # mode -> test clips, or their features
    labels: tuple[Tensor, Tensor], # of the pool, of the test clips
    n_classes: int, # of the question
    seed: int, # of the choice of labels, of the softmax, of the order
) -> dict: # mode -> 'mean': [for each number of labels], 'by_step': [[for each number of labels, each step]]
    "Accuracy against the number of labels."
    s, (lessons, truth) = context.settings, labels
    found = {mode: dict(mean=[], by_step=[]) for mode in MODES}
    for n, steps in zip(s.per_class, s.classifier_steps):
        which = few_labels(lessons, n, seed=seed)
        for mode in MODES:
            pupil = taught(context, model, mode, clips=pool[mode], labels=lessons, n_classes=n_classes, which=which,
                           steps=steps, seed=seed)
            mean, by_step = measured(pupil.softmax if mode == 'frozen' else pupil, test[mode], truth)
            found[mode]['mean'].append(mean)
            found[mode]['by_step'].append(by_step)
        context.say(f'{task}, {n} per class: ' + ', '.join(f'{mode} {found[mode]["mean"][-1]:.1%}' for mode in MODES))
    return found


def choose(
    context, # of `run`; inside of a part
    pool: LabelledDigits, # to learn from
    validation: LabelledDigits, # of other training digits
    *,
    seed: int, # of everything
) -> dict: # mode -> rate -> accuracy of the mean opinion, averaged over both questions and two starts
    "The table from which the rates of SETTINGS were taken: those of the highest accuracy."
    s, frames, found = context.settings, validation[:], {mode: {} for mode in MODES}
    steps = s.classifier_steps[s.per_class.index(s.rates_per_class)]
    for start in ('from scratch', 'composite'):
        model = None if start == 'from scratch' else pretrained(context, start, seed=seed)[0]
        for task in TASKS:
            K, which = len(pool.classes[task]), few_labels(pool.labels[task], s.rates_per_class, seed=seed)
            clips, labels = pool[which], pool.labels[task][which]
            eyes = features(classifier(context, model, K, seed=seed), clips)
            for mode, rate in [(m, r) for m, rates in zip(MODES, (s.rates, s.softmax_rates)) for r in rates]:
                pupil = taught(context, model, mode, clips=eyes if mode == 'frozen' else clips, labels=labels,
                               n_classes=K, which=None, steps=steps, lr=rate, seed=seed)
                right = measured(pupil, frames, validation.labels[task])[0]
                found[mode].setdefault(f'{rate:g}', []).append(right)
    return {mode: {rate: sum(v) / len(v) for rate, v in table.items()} for mode, table in found.items()}


# ---- the experiment

def labelled(context, seed, *, rest=False):
    "Clips with labels of training digits, on other paths than those of pretraining; of the `rest`, the last sixth."
    s, (images, names) = context.settings, load_digits(context.digits, 'train')
    cut = len(images) * 5 // 6
    part = slice(cut, None) if rest else slice(cut)
    return LabelledDigits((images[part], names[part]), s.validation_clips if rest else s.pool, seed=seed)


def held_out(context):
    "Clips with labels of test digits."
    s = context.settings
    return LabelledDigits(context.digits, s.test_clips, split='test', seed=s.test_seed)


def start_from(context, start, *, seed):
    "A row: one of STARTS, both questions."
    model, source = (None, None) if start == 'from scratch' else pretrained(context, start, seed=seed)
    lessons, exam = labelled(context, 1000 + seed), held_out(context)
    eyes, frames = classifier(context, model, 2, seed=seed), exam[:]
    pool = {'fine-tuned': lessons, 'frozen': features(eyes, lessons)}
    test = {'fine-tuned': frames, 'frozen': features(eyes, frames)}
    found = {task: curves(context, model, task, pool=pool, test=test, labels=(lessons.labels[task], exam.labels[task]),
                          n_classes=len(exam.classes[task]), seed=seed) for task in TASKS}
    return dict(kind='start', start=start, seed=seed, pretrained_by=source, per_class=context.settings.per_class,
                accuracy=found)


def rates(context):
    "A row: were the rates well chosen?"
    s = context.settings
    found = choose(context, labelled(context, 1000 + s.seeds[0]), labelled(context, 2000, rest=True), seed=s.seeds[0])
    return dict(kind='rates', per_class=s.rates_per_class, accuracy=found)


def check(s):
    "`ValueError` for settings that do not fit together."
    n, wanted = len(s.classifier_steps), len(s.per_class)
    if n != wanted: raise ValueError(f'classifier_steps has {n} entries; expected {wanted}, one for each of per_class')
    if s.rates_per_class not in s.per_class:
        raise ValueError(f'rates_per_class is {s.rates_per_class}; expected one of per_class, {s.per_class}')


def run(context):
    "All starts of the first seed, of the second, ...: a run that is cut is balanced. Then the rates once more."
    s = context.settings
    check(s)
    context.note(conventions=CONVENTIONS, starts=STARTS, tasks=TASKS, modes=MODES,
                 classes={k: len(v) for k, v in held_out(context).classes.items()})
    for seed in s.seeds:
        for start in STARTS: context.part(f'{start}, seed {seed}', partial(start_from, context, start, seed=seed))
    context.part('rates', partial(rates, context))

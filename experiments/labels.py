"""What is pretraining without labels worth, when there are few labels and when there are many?

Section 3.3 of the paper (action recognition), on moving digits: an LSTM classifier learns which digit it sees, or where the digit is heading at the end of the clip,
from 1 to 1000 labelled clips per class. Its encoder starts from scratch or from a model that was trained without labels; then it is fine-tuned, or it stays as it is and
only the softmax learns. The pretrained models are those of the experiment `design`, trained on clips of *two* digits; the labelled clips have one. Where `design`
has not been run with the same settings, they are trained here. Within a seed all starts get the same labelled clips, nested from few to many.

The learning rates were chosen once, on clips of training digits that no classifier learns from: the part `rates` does that again, so that the choice can be checked.
"""
import json
import re

import torch

from experiments import design
from lstm_video_repr.actions import LSTMClassifier, LabelledDigits, accuracy, few_labels, predict_clips, train_classifier
from lstm_video_repr.clips import load_digits
from lstm_video_repr.training import _identity, get_recipe, read_safetensors

NAME = 'labels'
PRETRAINING = {k: design.SETTINGS[k] for k in ('units', 'layers', 'steps', 'batch', 'recipe', 'lr', 'precision')} # one option sets both experiments
SETTINGS = PRETRAINING | dict(per_class=(1, 3, 10, 30, 100, 300, 1000), classifier_steps=(30, 40, 60, 80, 110, 160, 300), classifier_batch=32, classifier_lr=1e-2,
                              softmax_steps=300, softmax_lr=1e-1, rates=(3e-3, 1e-2, 3e-2), softmax_rates=(3e-2, 1e-1, 3e-1), rates_per_class=30, validation_clips=500,
                              pool=12000, test_clips=1000, test_seed=2016, seeds=(0, 1, 2))
QUICK = {k: v for k, v in design.QUICK.items() if k in PRETRAINING} | dict(per_class=(1, 2), classifier_steps=(2, 2), classifier_batch=4, softmax_steps=2, rates=(1e-3,), softmax_rates=(1e-2,),
                                                                           rates_per_class=1, validation_clips=4, pool=150, test_clips=5, seeds=(0,))

TASKS = 'digit', 'direction'
STARTS = 'from scratch', 'autoencoder', 'future predictor', 'composite'
MODES = 'fine-tuned', 'frozen'
CONVENTIONS = dict(
    accuracy='share of test clips whose label has the highest probability; `mean` is the mean of the probabilities over all steps (the paper), `by_step` each step alone',
    pretraining='on clips of two digits each, without labels; the labelled clips have one digit each',
    from_scratch='random first weights; frozen, these random weights stay',
    digits='labelled clips: first five sixths of the training digits; choice of rates: the other sixth; accuracy: test digits')


# ---- the encoders

def pretrained(
    context, # of `run`; inside of a part
    name: str, # 'autoencoder', 'future predictor' or 'composite'
    seed: int, # of weights and clips
): # the `VideoLSTM`, and 'design' or 'labels': the experiment that trained it
    "A model without labels: that of `design` if it has one of these settings, else trained here."
    s, clips = context.settings, context.train_clips(seed=seed)
    model = design.MODELS[name](hidden_size=s.units, num_layers=s.layers, seed=seed)
    budget = dict(steps=s.steps, recipe=s.recipe, batch_size=s.batch, lr=s.lr)
    path = context.runs.parent/design.NAME/(re.sub(r'\W+', '-', f'{name}, seed {seed}') + '.safetensors')
    if path.exists():
        tensors, about = read_safetensors(path)
        about = json.loads(about['checkpoint'])
        want = _identity(model, get_recipe(s.recipe, batch_size=s.batch, lr=s.lr), s.steps, clips, False, 0)
        if about['here']['step'] == s.steps and all(about[k] == want[k] for k in want if k != 'precision'):
            model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith('model.')})
            return model.to(context.device), design.NAME
    context.train(model, clips, f'{name} {seed}', precision=s.precision, **budget)
    return model, NAME


def classifier(
    model, # a `VideoLSTM`, or None: from scratch
    settings, # of the experiment
    n_classes: int, # of the question
    seed: int, # of first weights
    device, # where to learn
) -> LSTMClassifier: # with an encoder that has learned, or a random one
    "The classifier of a start. The softmax's first weights are the same for all starts."
    if model is not None: return LSTMClassifier.from_encoder(model, n_classes, seed=seed).to(device)
    return LSTMClassifier(64 * 64, settings.units, n_classes, settings.layers, seed=seed).to(device)


# ---- learning and measuring

@torch.no_grad()
def features(
    model: LSTMClassifier, # whose encoder
    clips, # `LabelledDigits` or a tensor (N, T, 1, 64, 64)
    batch_size: int = 200, # clips at a time
) -> torch.Tensor: # (N, T, H), on the CPU
    "What a frozen encoder says about all clips: computed once, for all numbers of labels and both questions."
    device = next(model.parameters()).device
    return torch.cat([model.features(clips[torch.arange(i, min(i + batch_size, len(clips)))].to(device)).cpu() for i in range(0, len(clips), batch_size)])


def measured(
    model, # an `LSTMClassifier` or its softmax
    clips, # frames or features (N, T, ...)
    labels: torch.Tensor, # (N,)
) -> tuple[float, list[float]]: # accuracy of the mean opinion, and of each step's
    "How often it is right."
    opinions = predict_clips(model, clips)
    return accuracy(opinions.mean(1), labels), [accuracy(p, labels) for p in opinions.unbind(1)]


def curves(
    context, # of `run`
    model, # a `VideoLSTM`, or None: from scratch
    task: str, # one of TASKS
    pool: tuple, # clips, and their features
    test: tuple, # frames, labels of both questions, and features
    seed: int, # of the choice of labels, of the softmax, of the order
) -> dict: # mode -> 'mean': [for each number of labels], 'by_step': [[for each number of labels, each step]]
    "Accuracy against the number of labels."
    s, (clips, seen), (frames, truth, test_seen) = context.settings, pool, test
    found = {mode: dict(mean=[], by_step=[]) for mode in MODES}
    for n, steps in zip(s.per_class, s.classifier_steps):
        which = few_labels(clips.labels[task], n, seed)
        for mode in MODES:
            pupil = classifier(model, s, len(clips.classes[task]), seed, context.device)
            if mode == 'frozen': train_classifier(pupil.softmax, seen, clips.labels[task], which, s.softmax_steps, s.classifier_batch, s.softmax_lr, seed)
            else: train_classifier(pupil, clips, clips.labels[task], which, steps, s.classifier_batch, s.classifier_lr, seed)
            mean, by_step = measured(*(pupil.softmax, test_seen) if mode == 'frozen' else (pupil, frames), truth[task])
            found[mode]['mean'].append(mean)
            found[mode]['by_step'].append(by_step)
        context.say(f'{task}, {n} per class: ' + ', '.join(f'{mode} {found[mode]["mean"][-1]:.1%}' for mode in MODES))
    return found


def choose(
    context, # of `run`
    pool: LabelledDigits, # to learn from
    validation: LabelledDigits, # of other training digits
    seed: int, # of everything
) -> dict: # mode -> rate -> accuracy of the mean opinion, averaged over both questions and two starts
    "The table from which the rates of SETTINGS were taken: those of the highest accuracy."
    s, frames, found = context.settings, validation[:], {mode: {} for mode in MODES}
    steps = s.classifier_steps[s.per_class.index(s.rates_per_class)]
    for start in ('from scratch', 'composite'):
        model = None if start == 'from scratch' else pretrained(context, start, seed)[0]
        for task in TASKS:
            labels, K = pool.labels[task], len(pool.classes[task])
            which = few_labels(labels, s.rates_per_class, seed)
            for mode, rates in zip(MODES, (s.rates, s.softmax_rates)):
                for rate in rates:
                    pupil = classifier(model, s, K, seed, context.device)
                    if mode == 'frozen':
                        train_classifier(pupil.softmax, features(pupil, pool[which]), labels[which], None, s.softmax_steps, s.classifier_batch, rate, seed)
                    else: train_classifier(pupil, pool, labels, which, steps, s.classifier_batch, rate, seed)
                    found[mode].setdefault(f'{rate:g}', []).append(measured(pupil, frames, validation.labels[task])[0])
    return {mode: {rate: sum(v) / len(v) for rate, v in table.items()} for mode, table in found.items()}


def run(context):
    "All starts of the first seed, of the second, ...: a run that is cut is balanced. Then the rates once more."
    s = context.settings
    if len(s.classifier_steps) != len(s.per_class): raise ValueError(f'classifier_steps has {len(s.classifier_steps)} entries; expected {len(s.per_class)}, one for each of per_class')
    if s.rates_per_class not in s.per_class: raise ValueError(f'rates_per_class is {s.rates_per_class}; expected one of per_class, {s.per_class}')
    images, names = load_digits(context.digits, 'train')
    cut = len(images) * 5 // 6
    held_out = LabelledDigits(context.digits, s.test_clips, split='test', seed=s.test_seed)
    test = held_out[:], held_out.labels
    context.note(conventions=CONVENTIONS, starts=STARTS, tasks=TASKS, modes=MODES, classes={k: len(v) for k, v in held_out.classes.items()})

    def labelled(seed): return LabelledDigits((images[:cut], names[:cut]), s.pool, seed=1000 + seed) # other paths than those of pretraining

    def rates():
        validation = LabelledDigits((images[cut:], names[cut:]), s.validation_clips, seed=2000)
        return dict(kind='rates', per_class=s.rates_per_class, accuracy=choose(context, labelled(s.seeds[0]), validation, s.seeds[0]))

    def one(start, seed):
        model, source = (None, None) if start == 'from scratch' else pretrained(context, start, seed)
        pool, eyes = labelled(seed), classifier(model, s, 2, seed, context.device)
        seen, test_seen = features(eyes, pool), features(eyes, test[0])
        return dict(kind='start', start=start, seed=seed, pretrained_by=source, per_class=s.per_class,
                    accuracy={task: curves(context, model, task, (pool, seen), (*test, test_seen), seed) for task in TASKS})

    for seed in s.seeds:
        for start in STARTS: context.part(f'{start}, seed {seed}', lambda start=start, seed=seed: one(start, seed))
    context.part('rates', rates)

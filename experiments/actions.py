"""Actions: what is watching without labels worth, when a few real films have labels?

Section 3.3 of the paper, on real films. Each frame becomes a row of features: a percept (what a network that knows
photographs sees in it) or a histogram of optical flow (what moves). A composite model learns from rows without labels;
then its states, or its weights, help to name films. Beside it stand what needs no order (single frames, mean and
deviation of a block), an LSTM from scratch, and the states of a random LSTM. All learn from the same draws of labelled
films, nested from few to many. Components and pretraining see the training films of a split alone, and no source video
is on both sides. Then: is a better prediction a better label? Do the two streams together know more? Which films are
neighbours? The last part makes the classifier that comes with the package.

Needs the folder `videos/ucf101` below LVR_DATA. `--videos FOLDER --collection ucf101|hmdb51` takes a whole collection,
with its official lists beside it. Elsewhere, and with --quick, films that the package makes are used, and the results
say so.
"""
# All of UCF-101 (13,320 films, 2.5 million frames) on one core: some 7 hours for percepts in bf16 (15 in 32 bits), 4 for
# flow, 7 GB of feature files; then about a day with the settings below, most of it logistic regressions. HMDB-51: half.
import math
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lstm_video_repr.actions import (HMDB51, UCF101, LabelledVideos, Logistic, LSTMLearner, Pretraining,
                                     VideoClassifier, accuracy, choose_weights, confusion, fuse, label_curve,
                                     predict_across, read_states, retrieval, standard_learners, summarise_blocks,
                                     take_frames, top_k)
from lstm_video_repr.clips import FixedClips
from lstm_video_repr.metrics import LastFrame, score_clips
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.percepts import FeatureClips, FeatureFile, Projection, as_encoder, extract_features, load_encoder
from lstm_video_repr.videos import make_film, save_video

NAME = 'actions'
SETTINGS = dict(videos='', collection='ucf101', encoder='mobilenet_v2', workers=1, components=64, units=128, steps=600,
                lr=3e-3, classifier_steps=60, classifier_lr=1e-2, per_class=('1', '2', '4', '8', 'all'), draws=10,
                splits=(1, 2, 3), pretrainings=5, strengths=(.3, 1., 3., 10., 30.), kinds_per_class=(2, 8),
                kinds_draws=9, kinds_pretrainings=3, kinds_splits=2, kept_steps=200, threads=1)
QUICK = dict(encoder='mean colours', components=6, units=6, steps=2, classifier_steps=2, per_class=('1', '2'), draws=2,
             splits=(1,), pretrainings=1, strengths=(1., 10.), kinds_per_class=(1,), kinds_draws=1, kinds_pretrainings=1,
             kinds_splits=1, kept_steps=2)

STREAMS = {'rgb': 'what is to be seen', 'flow': 'what moves'}
KINDS = { # what is learned without labels, and from how much: options of `Pretraining`
    'composite': {}, 'autoencoder': dict(predict=False), 'future predictor': dict(reconstruct=False),
    'composite, single windows': dict(mix=False), 'composite, a quarter as long': dict(share=4)}
PAPER = {'UCF-101 RGB': {'single frame': 72.2, 'LSTM from scratch': 74.5, 'composite, fine-tuned': 75.8},
         'UCF-101 flow, one frame': {'single frame': 72.2, 'LSTM from scratch': 74.3, 'composite, fine-tuned': 74.9},
         'HMDB-51 RGB': {'single frame': 40.1, 'LSTM from scratch': 42.8, 'composite, fine-tuned': 44.1},
         'UCF-101 flow, ten fields': 77.7, 'UCF-101 RGB and flow': 84.3}


# ---- the films

def make_set(
    folder: Path, # where to
    *,
    classes: int = 3, # kinds of films, by how many things move
    films: int = 4, # of each, each from a source of its own
) -> Path: # the same folder
    "Films that the package makes, a folder for each class, for machines without real ones."
    for k in range(classes):
        for n in range(films):
            file = folder/f'Things{4 * k}'/f'v_Things{4 * k}_g{n + 1:02d}_c01.avi'
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_file(): save_video(file, make_film(32, size=(48, 64), things=4 * k, seed=100 * k + n))
    return folder


def open_set(
    context, # of `run`
) -> tuple[LabelledVideos, list, str]: # films, pairs (train, test) of their numbers, what they are
    "A collection with its official splits; or films made here."
    s, real = context.settings, Path(os.environ.get('LVR_DATA') or '.')/'videos'/'ucf101'
    if s.videos or real.is_dir() and not context.quick:
        kind = dict(ucf101=UCF101, hmdb51=HMDB51).get(s.collection)
        if kind is None: raise ValueError(f'collection is {s.collection!r}; expected ucf101 or hmdb51')
        films = kind(s.videos or real)
        splits = [films.split(k) for k in s.splits]
        said = f'{dict(ucf101="UCF-101", hmdb51="HMDB-51")[s.collection]}, {len(films)} films'
    else:
        films = LabelledVideos(make_set(context.runs/'films'))
        splits = [films.split(.25, seed=k) for k in s.splits]
        said = f'{len(films)} films made by the package'
    return films, [tuple(map(Tensor.tolist, split)) for split in splits], said + f' of {len(films.classes)} classes'


def mean_colours(frames): # (T, H, W, 3) bytes
    "The mean colour of each of 3 x 4 cells: (T, 36)."
    rows = [np.array_split(band, 4, 2) for band in np.array_split(frames, 3, 1)]
    return np.concatenate([cell.mean((1, 2)) for row in rows for cell in row], 1, dtype=np.float32) / 255


def encoder_of(
    s, # the settings
    stream: str, # one of STREAMS
):
    "What turns frames into rows."
    if stream == 'flow': return load_encoder('flow_histogram')
    if s.encoder == 'mean colours': return as_encoder(mean_colours, name=s.encoder, size=36)
    return load_encoder(s.encoder)


class Films:
    "What all parts share: labelled films, their splits, their features."
    def __init__(
        self,
        context, # of `run`
    ):
        self.set, self.splits, self.said = open_set(context)
        self.labels, self.groups, self.context, self._open = self.set.labels, list(self.set.groups), context, {}

    def file(
        self,
        stream: str, # one of STREAMS
    ) -> FeatureFile: # the features of all films, made where they are missing
        "Features; a film that gives none is an error, since official splits name it."
        s = self.context.settings
        if stream not in self._open:
            path = self.context.runs/f'{stream}.h5'
            found = extract_features(self.set, encoder_of(s, stream), path, workers=s.workers,
                                     progress=self.context.progress is not None)
            self._open[stream] = found.subset(list(self.set.names))
        return self._open[stream]

    def rows(
        self,
        stream: str, # one of STREAMS
        split: int, # place among the splits
    ) -> tuple[list[Tensor], Projection]: # all films (T, components), and what made them
        "Principal components, fitted on the training side without its labels."
        file = self.file(stream)
        p = Projection.fit([file[i] for i in self.splits[split][0]], self.context.settings.components)
        return [torch.from_numpy(p(film)) for film in file], p


def features(
    context, # of `run`; inside of a part
    films: Films, # what is shared
    stream: str, # one of STREAMS
) -> dict: # a row
    "How many rows, and what they cost where they were made just now."
    there, start = (context.runs/f'{stream}.h5').exists(), time.process_time()
    file = films.file(stream)
    seconds = None if there else time.process_time() - start
    return dict(stream=stream, encoder=file.encoder, films=len(file), rows=int(file.lengths.sum()), seconds=seconds)


# ---- few labels

def pretraining(
    s, # the settings
    *,
    share: int = 1, # a so manieth part of the steps
    **options, # of `Pretraining`
) -> Pretraining:
    "The recipe of a model without labels."
    return Pretraining(s.units, steps=max(1, s.steps // share), lr=s.lr, **options)


def numbers(
    words, # of labels per class: digits, or 'all'
) -> tuple: # whole numbers, or 'all'
    "What `label_curve` wants."
    return tuple(w if w == 'all' else int(w) for w in words)


class Strengths:
    "The strength C of logistic regressions: chosen on all labels of the training side of a split, groups left out."
    def __init__(
        self,
        films: Films, # what is shared
        choices: tuple, # of C
        splits: list, # pairs (train, test), in the order in which a curve goes through them
    ):
        self.films, self.choices, self.splits, self.sides = films, choices, splits, []

    def regression(
        self,
        look, # film (T, D) -> rows
        base: tuple, # films of a training side
        *,
        seeded: bool = False, # does `look` depend on a seed?
    ) -> Logistic: # with a C that does not change with the number of labels
        "A learner. With one or two labels nobody could choose; so all get what would be chosen with all of them."
        if not any(base is side for side in self.sides): self.sides.append(base)
        train = self.splits[next(k for k, side in enumerate(self.sides) if side is base)][0]
        free = Logistic(look, base, choices=self.choices)
        C = free.choose_strength([free.look(film) for film in base], self.films.labels[train],
                                 groups=[self.films.groups[i] for i in train])
        return Logistic(look, base, choices=(C,), C=C, seeded=seeded)


def learners_of(
    s, # the settings
    strengths: Strengths, # for regressions
) -> dict: # name -> function of (films, seed)
    "Those of `standard_learners`, with strengths chosen once for each split."
    watch, found = pretraining(s), standard_learners(pretraining(s), steps=s.classifier_steps, lr=s.classifier_lr)
    blind = pretraining(s)
    blind.steps = 0
    found['single frames'] = lambda films, seed: strengths.regression(take_frames, films)
    found['mean and deviation'] = lambda films, seed: strengths.regression(summarise_blocks, films)
    for name, make in {'random LSTM, frozen': blind, 'composite, frozen': watch}.items():
        found[name] = lambda films, seed, make=make: strengths.regression(
            partial(read_states, model=make(films, seed)), films, seeded=True)
    found['composite, fine-tuned'] = lambda films, seed: LSTMLearner(
        model=watch(films, seed), steps=s.classifier_steps, lr=s.classifier_lr)
    return found


def curve(
    context, # of `run`; inside of a part
    films: Films, # what is shared
    stream: str, # one of STREAMS
) -> dict: # a row
    "All learners on the same draws; every draw is kept in a file beside the results."
    s = context.settings
    learners = learners_of(s, Strengths(films, s.strengths, films.splits))
    found = label_curve(learners, films.file(stream), films.labels, groups=films.groups, splits=films.splits,
                        per_class=numbers(s.per_class), draws=s.draws, seeds=s.pretrainings, size=s.components,
                        progress=context.progress is not None)
    path = found.save(context.path.with_name(f'{NAME}-{stream}.safetensors'))
    mean, names = found.mean(), found.learners
    pairs = [(a, b) for k, a in enumerate(names) for b in names[:k]]
    return dict(stream=stream, file=path.name, per_class=list(found.per_class), seconds=found.facts['seconds'],
                mean=dict(zip(names, mean.mean)), error=dict(zip(names, mean.error)),
                difference={f'{a} - {b}': said(found.difference(a, b)) for a, b in pairs})


def said(
    estimate, # an `Estimate` of a single row
) -> dict: # mean, error, low and high, a number for each number of labels
    "What a table needs of it."
    return {k: getattr(estimate, k)[0] for k in ('mean', 'error', 'low', 'high')}


# ---- is a better prediction a better label?

def saved_of(
    model: VideoLSTM, # any
    rows: list, # of films (T, D)
    groups: list, # where they come from
) -> dict: # task -> share of the squared error of copying that is saved, and its standard error
    "How well a model predicts films: those that it has seen, or others."
    clips = FixedClips(FeatureClips([x.numpy() for x in rows], past=16, future=13, groups=groups, seed=7), 300)
    scores, copying = (score_clips(m, clips, ssim=False) for m in (model, LastFrame(output='gaussian')))
    skill = scores.skill(copying).to_dict()
    return {task: {k: skill[task]['overall'][k] for k in ('skill', 'error')} for task in ('future',) if skill.get(task)}


def kinds(
    context, # of `run`; inside of a part
    films: Films, # what is shared
    stream: str, # one of STREAMS
    split: int, # place among the splits
) -> dict: # a row
    "Frozen models of several kinds: how well they predict, and what their states are worth."
    s, (rows, _), (train, test) = context.settings, films.rows(stream, split), films.splits[split]
    skill, strengths = {}, Strengths(films, s.strengths, [films.splits[split]])
    def make(kind, options):
        def learner(base, seed):
            model = pretraining(s, **options)(base, seed)
            if model.config.predict:
                for side, part in (('seen', train), ('new', test)):
                    found = saved_of(model, [rows[i] for i in part], [films.groups[i] for i in part])
                    skill.setdefault(kind, {}).setdefault(side, []).append(found['future'])
            return strengths.regression(partial(read_states, model=model), base, seeded=True)
        return learner
    learners = {kind: make(kind, options) for kind, options in KINDS.items()}
    found = label_curve(learners, rows, films.labels, groups=films.groups, splits=[films.splits[split]],
                        per_class=s.kinds_per_class, draws=s.kinds_draws, seeds=s.kinds_pretrainings, size=None, seed=split,
                        progress=False)
    path = found.save(context.path.with_name(f'{NAME}-kinds-{stream}-{split}.safetensors'))
    mean = found.mean()
    return dict(stream=stream, split=split, file=path.name, per_class=list(found.per_class), skill=skill,
                mean=dict(zip(found.learners, mean.mean)), error=dict(zip(found.learners, mean.error)))


# ---- two streams, neighbours, mistakes

def two_streams(
    context, # of `run`; inside of a part
    films: Films, # what is shared
    split: int, # place among the splits
) -> dict: # a row
    "All labels: each stream, and their fusion, with weights chosen across groups of the training side."
    (train, test), s = films.splits[split], context.settings
    lessons, names = films.labels[train], [films.groups[i] for i in train]
    inside, outside = {}, {}
    for stream in STREAMS:
        rows, _ = films.rows(stream, split)
        base = [rows[i] for i in train]
        learners = {'mean and deviation': Logistic(summarise_blocks, base),
                    'composite, frozen': Logistic(partial(read_states, model=pretraining(s)(base, 0)), base)}
        for name, learner in learners.items():
            seen, asked = ([learner.look(rows[i]) for i in part] for part in (train, test))
            inside[stream, name] = predict_across(learner, seen, lessons, groups=names)
            outside[stream, name] = learner.fit(seen, lessons, groups=names).predict(asked)
    return dict(split=split, **fusion(inside, outside, lessons, films.labels[test]))


def fusion(
    inside: dict, # (stream, learner) -> probabilities of training films, each predicted from other groups
    outside: dict, # the same -> probabilities of test films
    lessons: Tensor, # labels of training films
    truth: Tensor, # of test films
) -> dict: # accuracy of each, of the even mean, of the weighted mean; weights; confusions
    "Four opinions on test films become one."
    even, weights = fuse(list(outside.values())), choose_weights(list(inside.values()), lessons)
    both = fuse(list(outside.values()), weights)
    said = {f'{stream}: {name}': p for (stream, name), p in outside.items()} | {'even mean': even, 'weighted mean': both}
    top = {name: {k: top_k(p, truth, min(k, p.shape[1])) for k in (1, 5)} for name, p in said.items()}
    return dict(top={name: {f'top {k}': v for k, v in found.items()} for name, found in top.items()},
                weights=dict(zip(list(said)[:len(weights)], weights)),
                confusion={name: confusion(p, truth) for name, p in said.items()})


def neighbours(
    context, # of `run`; inside of a part
    films: Films, # what is shared
    stream: str, # one of STREAMS
) -> dict: # a row
    "Retrieval among all films, by means of rows, of summaries, and of states of models that saw the first training side."
    rows, _ = films.rows(stream, 0)
    base = tuple(rows[i] for i in films.splits[0][0])
    models = {'random LSTM': pretraining(context.settings)}
    models['random LSTM'].steps = 0
    models['composite'] = pretraining(context.settings)
    looks = {'mean frame': take_frames, 'mean and deviation': summarise_blocks}
    looks |= {f'{name}, seed {seed}': partial(read_states, model=make(base, seed))
              for name, make in models.items() for seed in range(min(3, context.settings.pretrainings))}
    ks = [k for k in (1, 5, 10, 20) if k < len(films.labels) - max(map(films.groups.count, films.groups))]
    found = {name: retrieval(torch.stack([look(film).mean(0) for film in rows]), films.labels, films.groups, ks=ks)
             for name, look in looks.items()}
    one = next(iter(found.values()))
    return dict(stream=stream, ks=ks, chance=one.chance, groups=one.n_groups,
                recall={name: dict(mean=r.recall, error=r.errors) for name, r in found.items()})


# ---- the model that comes with the package

def keep(
    context, # of `run`; inside of a part
    films: Films, # what is shared
) -> dict: # a row
    "An LSTM classifier of percepts on the first split, from a composite, tested on its other side."
    s, (train, test), (rows, projection) = context.settings, films.splits[0], films.rows('rgb', 0)
    base = tuple(rows[i] for i in train)
    learner = LSTMLearner(model=pretraining(s)(base, 0), dropout=.5, steps=s.kept_steps, lr=s.classifier_lr)
    learner.fit([learner.look(film) for film in base], films.labels[train], seed=0)
    said = learner.predict([learner.look(rows[i]) for i in test])
    right, N = accuracy(said, films.labels[test]), len(test)
    card = {'about': 'names for short films, from what single frames show and how it goes on', 'data': films.said,
            'training films': len(train), 'test films': N, 'accuracy': round(right, 4),
            'standard error': round(math.sqrt(right * (1 - right) / N), 4), 'top 2': round(top_k(said, films.labels[test], 2), 4),
            'command': 'make experiments ARGS=actions', 'encoder': films.file('rgb').encoder}
    kept = VideoClassifier(s.encoder if s.encoder == 'mobilenet_v2' else encoder_of(s, 'rgb'), projection,
                           learner.classifier, classes=films.set.classes, card=card)
    path = kept.save(context.runs/'actions.safetensors') # copied to `lstm_video_repr/assets`: the bundled classifier
    return dict(file=path.name, bytes=path.stat().st_size, card=card, confusion=confusion(said, films.labels[test]))


def run(context):
    "Features, label curves, kinds of pretraining, two streams, neighbours, the model to keep."
    s, threads = context.settings, torch.get_num_threads()
    torch.set_num_threads(s.threads)
    try:
        films = Films(context)
        context.note(films=films.said, classes=list(films.set.classes), paper=PAPER, streams=STREAMS,
                     train=[len(a) for a, _ in films.splits], test=[len(b) for _, b in films.splits])
        for stream in STREAMS: context.part(f'features, {stream}', partial(features, context, films, stream))
        for stream in STREAMS: context.part(f'label curve, {stream}', partial(curve, context, films, stream))
        for k in range(len(s.splits)): context.part(f'two streams, split {s.splits[k]}', partial(two_streams, context, films, k))
        for stream in STREAMS: context.part(f'neighbours, {stream}', partial(neighbours, context, films, stream))
        context.part('the model to keep', partial(keep, context, films))
        for k in range(min(s.kinds_splits, len(s.splits))): context.part(f'kinds, flow, split {s.splits[k]}', partial(kinds, context, films, 'flow', k))
    finally: torch.set_num_threads(threads)

"""Natural patches: what makes a small network see where a film goes, and is a bigger one sharper?

Windows of 32 x 32 pixels of real videos, 16 frames seen, 16 played back, 13 predicted, as in the paper's section 3.2:
no film is on both sides. Every model trains for the same time on one thread. First the three sizes, with several seeds:
the paper's claim is that bigger is sharper in playing back. Then one thing at a time is taken away from the recipe
(normalisation, components, sums of two windows, lively windows), then come the other members of the family, and last
three trainings that take longer. Beside them stand copying the last frame, the mean of the past, and a linear predictor
with as much memory.

Needs the folder `videos/ucf101` below LVR_DATA; elsewhere films that the package makes are used, and the results say so.
"""
import math
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lstm_video_repr.clips import FixedClips
from lstm_video_repr.metrics import LastFrame, LinearPredictor, MeanOfPast, score_clips
from lstm_video_repr.models import FrameCode, VideoLSTM, VideoLSTMConfig
from lstm_video_repr.training import History, train
from lstm_video_repr.videos import Patches, VideoFolder, make_film
from lstm_video_repr.zoo import load_model, save_model

from experiments.design import thinned, training_of

NAME = 'patches'
SETTINGS = dict(units=512, components=256, seconds=150., batch=32, lr=2.5e-3, seeds=(0, 1, 2), test_clips=600,
                size=32, motion='best of 4', linear_clips=12_000, threads=1, side=120)
QUICK = dict(units=6, components=8, seconds=.5, batch=4, seeds=(0,), test_clips=12, size=8, linear_clips=60)

SHOWN = {'conditional future predictor', 'long: not normalised'} # of these pictures are kept, too
BUNDLED = 'long: not normalised' # the model that comes with the package
LONG = 3 # times as long: does it learn films by heart, and does the order stay?
PAPER = {'future predictor': 225.2, 'composite': 210.7, 'conditional future predictor': 221.3,
         'composite, future conditional': 208.1} # half squared error? in a unit that the paper does not name


def sizes(
    s, # the settings
) -> dict: # name -> fields of the configuration
    "The three networks that are compared with several seeds."
    return {f'{s.units} units': dict(hidden_size=s.units),
            f'2 layers of {s.units} units': dict(hidden_size=s.units, num_layers=2),
            f'{2 * s.units} units': dict(hidden_size=2 * s.units)}


def changes() -> dict: # name -> fields of the configuration, or 'clips': arguments of `Patches`
    "What is taken away from the recipe, one at a time and then together; and the rest of the paper's table."
    return {
        'not normalised': dict(normalise=False),
        'all pixels': dict(components=None),
        'all pixels, not normalised': dict(components=None, normalise=False),
        'single windows': dict(clips=dict(mix=False)),
        'windows at random': dict(clips=dict(motion='any')),
        'future predictor': dict(reconstruct=False),
        'conditional future predictor': dict(reconstruct=False, conditional_future=True),
        'composite, future conditional': dict(conditional_future=True),
    }


def longer() -> dict: # name -> as `changes`
    "What is trained for longer, with the first seed."
    return {name: changes().get(name, {}) for name in ('the recipe', 'not normalised', 'single windows')}


def find_films(
    context, # of `run`
): # train, test, a text that says what they are
    "Real videos, a quarter of the groups for testing; or films made here."
    folder = Path(os.environ.get('LVR_DATA') or '.')/'videos'/'ucf101'
    if context.quick or not folder.is_dir():
        films = [make_film(60, seed=k) for k in range(6)]
        return films[:4], films[4:], 'films made by the package'
    videos = VideoFolder(folder, side=context.settings.side)
    train, test = videos.split(lambda group: int(group[-2:]) <= 7)
    said = f'UCF-101, {len(train)} videos of {len(set(train.groups))} groups to train on, {len(test)} of '
    return train, test, said + f'{len(set(test.groups))} groups to test on'


class Films:
    "What all parts share: clips to train on, clips to test on, and what the trivial predictors score on them."
    def __init__(
        self,
        context, # of `run`
    ):
        s = context.settings
        self.train, self.test, self.said = find_films(context)
        self.options = dict(size=s.size)
        self.sets = {name: FixedClips(Patches(self.test, motion=motion, seed=7, **self.options), s.test_clips)
                     for name, motion in (('lively', s.motion), ('any', 'any'))}
        self.sets['seen'] = FixedClips(Patches(self.train, motion=s.motion, seed=8, **self.options), s.test_clips)
        self.references = {name: score_clips(LastFrame(output='gaussian'), clips, ssim=False)
                           for name, clips in self.sets.items()}
        self.spread, self._codes = self._spread(), {}

    def _spread(self):
        "Standard deviation of the pixels of training films."
        pixels = torch.cat([x.flatten() for x in Patches(self.train, seed=9, **self.options).read(0, 500)])
        return pixels.std().item()


    def code(
        self,
        s, # the settings
        like: FrameCode, # of a fresh model
    ) -> dict: # what one of its kind has learned from training films, as `state_dict` gives it
        "Floor and components, found once for all models that see frames in the same way."
        key = like.normalise, like.size
        if key not in self._codes:
            components = None if like.basis is None else like.size
            code = FrameCode(like.frame_shape, normalise=like.normalise, components=components)
            self._codes[key] = code.fit(*Patches(self.train, motion=s.motion, seed=10, **self.options).read(0, 512))
        return self._codes[key].state_dict()


def measured(
    films: Films, # what is shared
    model, # any
) -> dict: # name of a test set -> averages, standard errors and skill, frame by frame and by motion
    "All numbers of a model."
    found = {}
    for name, clips in films.sets.items():
        scores = score_clips(model, clips, ssim=name == 'lively')
        mean = scores.mean().to_dict()
        mean.pop('conventions')
        found[name] = dict(scores=mean, skill=scores.skill(films.references[name]).to_dict())
        found[name]['skill'].pop('reconstruction')
        if name == 'any': found[name]['scores'].pop('reconstruction', None)
    return found


def clips_of(
    films: Films, # what is shared
    s, # the settings
    seed: int, # which clips
    **options, # of `Patches`, where they differ from the recipe
) -> Patches: # without end
    "Clips to train on."
    return Patches(films.train, **films.options | dict(motion=s.motion, mix=True, seed=1 + seed) | options)


def build(
    films: Films, # what is shared
    s, # the settings
    seed: int, # of the first weights
    **fields, # of the configuration, where they differ from the recipe
) -> VideoLSTM: # fresh
    "A model that knows how to look at frames, and nothing else."
    config = dict(frame_shape=films.sets['lively'].frame_shape, hidden_size=s.units, output='gaussian', normalise=True,
                  components=s.components)
    model = VideoLSTM(VideoLSTMConfig(**config | fields), torch.Generator().manual_seed(seed))
    model.frame_code.load_state_dict(films.code(s, model.frame_code))
    return model


def paces(
    films: Films, # what is shared
    s, # the settings
) -> dict: # arm -> seconds
    "What a step of each arm costs, making its clips included: the least of several, taken in turns."
    found, arms = {}, {}
    for arm, fields in (sizes(s) | changes()).items():
        fields = dict(fields)
        arms[arm] = clips_of(films, s, 0, **fields.pop('clips', {})), build(films, s, 0, **fields)
    for _ in range(4):
        for arm, (clips, model) in arms.items():
            start = time.process_time()
            train(model, clips, steps=2, batch_size=s.batch, progress=None)
            found[arm] = min(found.get(arm, math.inf), (time.process_time() - start) / 2)
    return found


def one(
    context, # of `run`; inside of a part
    films: Films, # what is shared
    arm: str, # its name
    fields: dict, # of the configuration, and 'clips'
    *,
    step: float, # seconds that a step takes
    seed: int, # of first weights and clips
) -> dict: # a row
    "One training of so many seconds, measured."
    s, fields = context.settings, dict(fields)
    clips = clips_of(films, s, seed, **fields.pop('clips', {}))
    model = build(films, s, seed, **fields)
    history = context.train(model, clips, steps=max(2, round(s.seconds / step)), batch_size=s.batch, lr=s.lr, warmup=50)
    found = measured(films, model.eval())
    if arm == BUNDLED: keep_model(context, films, model, history)
    if seed == s.seeds[0] and arm in SHOWN | set(sizes(s)): context.keep_pictures(**pictures(films, model))
    return dict(arm=arm, seed=seed, parameters=sum(p.numel() for p in model.parameters()),
                training=training_of(history) | dict(losses=thinned(history)), sets=found)


def keep_model(
    context, # of `run`
    films: Films, # what is shared
    model: VideoLSTM, # trained
    history: History, # of that
) -> Path: # the file; copied to `lstm_video_repr/assets`, it is what `load_pretrained('patches')` loads
    "A model in 8 bits, measured as stored, and its log."
    s, path, last = context.settings, context.runs/'patches.safetensors', history.rows[-1]
    stored = load_model(save_model(model, path, dtype=torch.int8))
    test = {}
    for name, found in measured(films, stored).items():
        overall, won = found['scores']['future']['overall'], found['skill']['future']['overall']
        figures = {k: round(overall[k], 4 if k == 'ssim' else 2) for k in overall}
        test[f'{name}, future'] = figures | {'skill against copying': round(won['skill'], 3),
                                             'better than copying': f'{won["better"]:.0%} of clips'}
    card = {'about': 'a composite of natural patches: 16 frames seen, 16 played back, 13 predicted', 'data': films.said,
            'windows': f'{s.size} x {s.size}, {s.motion}, sums of two', 'batch': s.batch, 'lr': s.lr,
            'steps': last['step'], 'clips seen': last['clips'], 'seconds': round(last['seconds']),
            'command': 'make experiments ARGS=patches', 'stored as': 'int8, a scale for each row; measured as stored',
            'test clips': s.test_clips, 'test': test}
    if isinstance(films.train, VideoFolder): # so that `lvr evaluate --videos` leaves them out
        card['videos'] = {'trained on': ' '.join(c[:8] for c in films.train.checksums)}
    history.save(path.with_suffix('.jsonl'))
    return save_model(model, path, card=card, dtype=torch.int8)


@torch.no_grad()
def pictures(
    films: Films, # what is shared
    model: VideoLSTM, # a trained one
) -> dict: # name -> (8, T, C, S, S)
    "What it makes of the first lively test clips."
    past, future = films.sets['lively'].read(0, 8)
    out = model(past, future_frames=future.shape[1])
    return dict(future=out.future) | (dict(recalled=out.recalled) if out.recalled is not None else {})


def trivial(
    context, # of `run`; inside of a part
    films: Films, # what is shared
    name: str, # of the predictor
    make, # makes it
) -> dict: # a row
    "A predictor without a network."
    if name == 'copy the last frame':
        context.keep_pictures(**dict(zip(('past', 'truth'), films.sets['lively'].read(0, 8))))
    return dict(arm=name, seed=None, sets=measured(films, make()))


def linear(
    context, # of `run`
    films: Films, # what is shared
) -> LinearPredictor: # fitted
    "The best linear predictor whose memory has as many numbers as h and c of the network."
    s = context.settings
    clips = Patches(films.train, motion=s.motion, seed=1, **films.options)
    return LinearPredictor.from_clips(clips, s.linear_clips, memory=2 * s.units, components=s.components)


def run(context):
    "Trivial predictors, the sizes with all seeds, then what is changed with the first."
    s, threads = context.settings, torch.get_num_threads()
    torch.set_num_threads(s.threads)
    try:
        films = Films(context)
        context.note(films=films.said, paper=PAPER, pixel_deviation=films.spread,
                     unit='half the squared error of a frame, pixels in [0, 1]; divide by the square of '
                          'pixel_deviation for pixels of unit variance',
                     sets='lively: the test windows that move most of four; any: test windows at random; '
                          'seen: lively windows of the training films')
        step = context.part('pace', lambda: dict(arm='pace', seed=None, steps=paces(films, s)))['steps']
        for seed in s.seeds:
            for arm, fields in sizes(s).items():
                measure = partial(one, context, films, arm, fields, step=step[arm], seed=seed)
                context.part(f'{arm}, seed {seed}', measure)
        for arm, fields in changes().items():
            context.part(arm, partial(one, context, films, arm, fields, step=step[arm], seed=s.seeds[0]))
        step['the recipe'] = step[f'{s.units} units']
        for arm, fields in longer().items():
            context.part(f'{arm}, {LONG} times as long', partial(one, context, films, f'long: {arm}', fields,
                                                                  step=step[arm] / LONG, seed=s.seeds[0]))
        for name, make in (('copy the last frame', partial(LastFrame, output='gaussian')),
                           ('mean of the past', partial(MeanOfPast, output='gaussian')),
                           ('linear', partial(linear, context, films))):
            context.part(name, partial(trivial, context, films, name, make))
    finally: torch.set_num_threads(threads)

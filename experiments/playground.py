"""A small, sharp network for the page: one that answers a moving hand within a twentieth of a second.

Frames of 32 x 32 pixels, digits of 16 x 16, none to three of them in a clip, each as slow or as fast as it likes, so that
whatever a reader lays on the canvas is something that the network has seen. Digits of the embedded set count as often
as their number says. The model is stored in 8 bits and measured as stored, on clips of two test digits at the usual
speed, and on clips of one and of three.
"""
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lstm_video_repr.clips import FixedClips, MovingDigits
from lstm_video_repr.digits import as_digits
from lstm_video_repr.metrics import LastFrame, evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import History, Validation
from lstm_video_repr.zoo import load_model, save_model, shrink_digits

from experiments.design import thinned, training_of

NAME = 'playground'
SETTINGS = dict(units=320, size=32, side=16, most_digits=3, slowest=.002, speed=.2, clips=1_500_000, batch=64,
                lr=1.5e-3, seed=0, test_clips=1000, test_seed=2015)
QUICK = dict(units=6, clips=8, batch=4, test_clips=4)


def pictures(
    digits: str, # 'mnist' or 'embedded'
    split: str, # 'train' or 'test'
    side: int, # of a picture
) -> Tensor: # (n, side, side) uint8
    "Small digits: those of the name, and in training the embedded ones, too."
    names = dict.fromkeys((digits, 'embedded') if split == 'train' else (digits,))
    return torch.cat([shrink_digits(as_digits(name, split=split), side) for name in names])


def train_clips(
    context, # of `run`
) -> MovingDigits: # endless
    "Clips of up to so many digits: a third of the pictures are blank."
    s = context.settings
    ink = pictures(context.digits, 'train', s.side)
    blank = ink.new_zeros(len(ink) // 2, s.side, s.side)
    return MovingDigits(torch.cat([ink, blank]), n_digits=s.most_digits, image_size=s.size, speed=(s.slowest, s.speed),
                        seed=s.seed, device=context.device)


def test_clips(
    context, # of `run`
    n_digits: int, # in each clip
) -> FixedClips: # of test digits, at the usual speed
    "What it is measured on."
    s, ink = context.settings, pictures(context.digits, 'test', context.settings.side)
    return FixedClips(MovingDigits(ink, n_digits=n_digits, image_size=s.size, seed=s.test_seed), s.test_clips)


def measured(
    context, # of `run`
    model, # or another predictor
) -> dict: # 'one digit', 'two digits', 'three digits' -> scores
    "Scores on each test set."
    sets = {'one digit': 1, 'two digits': 2, 'three digits': 3}
    return {name: evaluate(model, test_clips(context, n)).to_dict() for name, n in sets.items()}


def keep_model(
    context, # of `run`
    model: VideoLSTM, # trained
    history: History, # of that
) -> Path: # the file; copied to `lstm_video_repr/assets`, it is what `load_pretrained('small')` loads
    "The model in 8 bits, measured as stored, and its log."
    s, path, last = context.settings, context.runs/'small.safetensors', history.rows[-1]
    found = measured(context, load_model(save_model(model, path, dtype=torch.int8)))
    test = {name: {task: {k: round(float(v), 4 if k == 'ssim' else 2) for k, v in scores[task]['overall'].items()}
                   for task in ('reconstruction', 'future')} for name, scores in found.items()}
    card = {'about': f'a composite for the playground: {s.size} x {s.size} pixels, digits of {s.side} x {s.side}, '
                     f'up to {s.most_digits} at once', 'data': f'{context.digits} and embedded digits, training split',
            'speed': f'from {s.slowest} to {s.speed} of the way across per frame', 'batch': s.batch, 'lr': s.lr,
            'steps': last['step'], 'clips seen': last['clips'], 'seconds': round(last['seconds']),
            'command': 'make experiments ARGS=playground', 'stored as': 'int8, a scale for each row; measured as stored',
            'test clips': s.test_clips, 'test': test}
    history.save(path.with_suffix('.jsonl'))
    return save_model(model, path, card=card, dtype=torch.int8)


def trained(
    context, # of `run`; inside of a part
) -> dict: # a row
    "The training."
    s = context.settings
    model = VideoLSTM.composite(frame_shape=(1, s.size, s.size), hidden_size=s.units, seed=s.seed)
    steps = max(2, s.clips // s.batch)
    history = context.train(model, train_clips(context), steps=steps, batch_size=s.batch, lr=s.lr, log_every=50,
                            validate=Validation(test_clips(context, 2), every=max(1, steps // 20)))
    keep_model(context, model.eval(), history)
    return dict(model='small', seed=s.seed, parameters=sum(p.numel() for p in model.parameters()),
                scores=measured(context, model), training=training_of(history) | dict(losses=thinned(history)))


def run(context):
    "Copying, then the network."
    context.part('last frame', lambda: dict(model='last frame', seed=None, scores=measured(context, LastFrame())))
    context.part('small', partial(trained, context))

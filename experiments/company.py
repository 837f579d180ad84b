"""What does seeing its last frame do to a model that already predicts well?

In the experiment `design` models learn from scratch. Here one that has learned to predict is trained on, on the same
clips: as it is; with a future predictor that is shown the true frame before; and with one that is shown the frame it
has drawn itself, in training as later on. The input weights that this takes begin at zero: at the start all say the
same. The model is the bundled one, or the composite that `design` has trained, or that of a file.
"""
from dataclasses import replace
from functools import partial

import torch

from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import load_pretrained

from experiments.design import CONDITIONING, OwnFrames, find_model, teacher_forced, training_of

NAME = 'company'
SETTINGS = dict(model='bundled', layers=1, clips=100_000, batch=64, lr=5e-4, warmup=50, seeds=(0,), test_clips=1000,
                test_seed=2015)
QUICK = dict(model='untrained', clips=4, batch=2, warmup=1, test_clips=2)
ARMS = 'unconditional', 'shown the truth', 'shown its own frames'
OWN_FRAMES = 'Shown its own frames: always, as probabilities; no gradient flows through a frame that is fed back.'


def conditioned(
    model: VideoLSTM, # whose future predictor sees nothing
) -> VideoLSTM: # the same with a future predictor that could see its last frame, and does not listen yet
    "Input weights of zero: what the model says stays the same."
    new = VideoLSTM(replace(model.config, conditional_future=True), torch.Generator().manual_seed(0))
    tensors = new.state_dict() | model.state_dict()
    tensors['future_decoder.lstm.weight_ih_l0'] = torch.zeros_like(tensors['future_decoder.lstm.weight_ih_l0'])
    new.load_state_dict(tensors)
    new.card = model.card
    return new


def start(
    context, # of `run`
) -> VideoLSTM: # with gradients, on the CPU
    "The model that all begin with."
    s, name = context.settings, context.settings.model
    if name == 'untrained': return VideoLSTM.composite(hidden_size=8)
    model = (find_model(context, 'composite', layers=s.layers, seed=s.seeds[0]) if name == 'design' else
             load_pretrained(None if name == 'bundled' else name))
    if model is None: raise ValueError(f'model is {name!r}; expected one that `python experiments/run.py design` made')
    return model.cpu().train().requires_grad_(True)


def measure(
    context, # of `run`; inside of a part
    model: VideoLSTM, # on the device
    test, # clips
    **about, # entries of the row
) -> dict: # a row
    "How well it predicts, alone and shown the truth."
    scores = evaluate(model.eval(), test).to_dict()
    context.note(scores=scores.pop('conventions'))
    return about | dict(scores=scores, teacher_forced=teacher_forced(model, test)['future'])


def before(context, test):
    "A row: the model as it is."
    model = start(context).to(context.device)
    shape = dict(units=model.config.hidden_size, layers=model.config.num_layers)
    context.note(model=dict(name=context.settings.model, **shape, card=dict(model.card)))
    return measure(context, model, test, kind='start')


def after(context, test, arm, *, seed):
    "A row: the model, trained on."
    s, model = context.settings, start(context)
    if arm != 'unconditional': model = conditioned(model).train()
    own, clips = arm == 'shown its own frames', context.train_clips(seed=1000 + seed)
    always = [OwnFrames(seed, chance=lambda step, steps: 1.)]
    history = context.train(model, clips, steps=max(1, s.clips // s.batch), batch_size=s.batch, lr=s.lr,
                            warmup=s.warmup, callbacks=always * own, step='plain' if own else 'auto')
    return measure(context, model, test, kind='arm', arm=arm, seed=seed, training=training_of(history))


def run(context):
    "The model as it is, then the trainings, seed by seed."
    s = context.settings
    test = context.test_clips(s.test_clips, seed=s.test_seed)
    context.note(conditioning=CONDITIONING, own_frames=OWN_FRAMES, arms=ARMS)
    context.part('before', partial(before, context, test))
    for seed in s.seeds:
        for arm in ARMS: context.part(f'{arm}, seed {seed}', partial(after, context, test, arm, seed=seed))

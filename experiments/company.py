"""What does seeing its last frame do to a model that already predicts well?

In the experiment `design` small models learn from scratch, and a decoder that sees the frame before loses by it as
soon as that frame is its own. Perhaps small models only draw too badly to keep themselves company. So here the
bundled model is trained on, three times on the same clips: as it is; with a future predictor that is shown the true
frame before; and with one that is shown the frame it has drawn itself, in training as later on. The input weights
that this takes begin at zero: at the start all three say the same.
"""
from dataclasses import replace
from functools import partial

import torch

from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import load_pretrained

from experiments.design import CONDITIONING, teacher_forced, training_of

NAME = 'company'
SETTINGS = dict(model='bundled', steps=300, batch=64, lr=5e-4, warmup=50, seed=0, test_clips=1000, test_seed=2015)
QUICK = dict(model='untrained', steps=2, batch=2, warmup=1, test_clips=2)
ARMS = 'unconditional', 'shown the truth', 'shown its own frames'


def conditioned(
    model: VideoLSTM, # whose future predictor sees nothing
) -> VideoLSTM: # the same with a future predictor that could see its last frame, and does not listen yet
    "Input weights of zero: what the model says stays the same."
    new = VideoLSTM(replace(model.config, conditional_future=True), torch.Generator().manual_seed(0))
    tensors = new.state_dict() | model.state_dict()
    tensors['future_decoder.lstm.weight_ih_l0'] = torch.zeros_like(tensors['future_decoder.lstm.weight_ih_l0'])
    new.load_state_dict(tensors)
    return new


def start(
    name: str, # 'bundled', 'untrained', or a file
) -> VideoLSTM: # with gradients
    "The model that all begin with."
    model = (VideoLSTM.composite(hidden_size=8) if name == 'untrained' else
             load_pretrained(None if name == 'bundled' else name))
    return model.train().requires_grad_(True)


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
    name = context.settings.model
    model = start(name).to(context.device)
    shape = dict(units=model.config.hidden_size, layers=model.config.num_layers)
    context.note(model=dict(name=name, **shape, card=dict(model.card)))
    return measure(context, model, test, kind='start')


def after(context, test, arm):
    "A row: the model, trained on."
    s, model = context.settings, start(context.settings.model)
    if arm != 'unconditional': model = conditioned(model).train()
    decoder, clips = model.future_decoder, context.train_clips(seed=1000 + s.seed)
    if arm == 'shown its own frames':
        decoder.teacher_force = lambda state, target: decoder.run_free(state, target.shape[1])
    history = context.train(model, clips, steps=s.steps, batch_size=s.batch, lr=s.lr, warmup=s.warmup)
    if arm == 'shown its own frames': del decoder.teacher_force
    return measure(context, model, test, kind='arm', arm=arm, seed=s.seed, training=training_of(history))


def run(context):
    "The model as it is, then the three trainings."
    s = context.settings
    test = context.test_clips(s.test_clips, seed=s.test_seed)
    context.note(conditioning=CONDITIONING, arms=ARMS)
    context.part('before', partial(before, context, test))
    for arm in ARMS: context.part(arm, partial(after, context, test, arm))

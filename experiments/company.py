"""What does seeing its last frame do to a model that already predicts well?

In the experiment `design` small models learn from scratch, and a decoder that sees the frame before loses by it as soon as that frame is its own. Perhaps small
models only draw too badly to keep themselves company. So here the bundled model is trained on, three times on the same clips: as it is; with a future predictor
that is shown the true frame before; and with one that is shown the frame it has drawn itself, in training as later on. The input weights that this takes begin at
zero: at the start all three say the same.
"""
from dataclasses import replace

import torch

from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import load_pretrained

from experiments.design import CONDITIONING, teacher_forced

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


def run(context):
    "The model as it is, then the three trainings."
    s = context.settings
    test = context.test_clips(s.test_clips, seed=s.test_seed)
    context.note(conditioning=CONDITIONING, arms=ARMS)

    def start(): # a file, or one of two that need none
        return VideoLSTM.composite(hidden_size=8) if s.model == 'untrained' else load_pretrained(None if s.model == 'bundled' else s.model)

    def measured(model, **about):
        scores = evaluate(model.eval(), test, len(test)).to_dict()
        context.note(scores=scores.pop('conventions'))
        return about | dict(scores=scores, teacher_forced=teacher_forced(model, test)['future'])

    def before():
        model = start().to(context.device)
        context.note(model=dict(name=s.model, units=model.config.hidden_size, layers=model.config.num_layers, card=dict(getattr(model, 'card', {}))))
        return measured(model, kind='start')

    def one(arm):
        model = start() if arm == 'unconditional' else conditioned(start())
        model.train().requires_grad_(True)
        decoder = model.future_decoder
        if arm == 'shown its own frames': decoder.forced = lambda state, target: decoder.free(state, target.shape[1])
        history = context.train(model, context.train_clips(seed=1000 + s.seed), steps=s.steps, batch_size=s.batch, lr=s.lr, warmup=s.warmup)
        if arm == 'shown its own frames': del decoder.forced
        last = history.rows[-1]
        return measured(model, kind='arm', arm=arm, seed=s.seed, training=dict(steps=last['step'], clips=last['clips'], seconds=last['seconds']))

    context.part('before', before)
    for arm in ARMS: context.part(arm, lambda arm=arm: one(arm))

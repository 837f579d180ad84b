"""Which way of training learns fastest?

A small composite gets one budget of clips, and is trained as the recipe `adam` says. Then one thing is changed at a
time: the rate, its schedule, an average of the weights, the batch, the first weights, the size. The recipe itself is
trained with several seeds: differences no larger than theirs say nothing.
"""
import copy
from dataclasses import asdict
from functools import partial

import torch

from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import get_recipe, paper_start

from experiments.design import thinned, training_of

NAME = 'learning'
SETTINGS = dict(units=192, layers=1, clips=19_200, batch=64, lr=3e-3, average=.98, seeds=(0, 1, 2), test_clips=500,
                test_seed=2015)
QUICK = dict(units=6, clips=24, batch=4, seeds=(0, 1), test_clips=4)


def forget_nothing_special(
    model: VideoLSTM, # its weights are changed
) -> VideoLSTM: # the same model
    "Forget gates that start with bias 0, not 1."
    for name, p in model.named_parameters():
        if '.bias_l' in name: p.data[len(p)//4:len(p)//2] = 0
    return model


class Average:
    "A callback: the exponential average of all weights, step by step."
    def __init__(
        self,
        decay: float, # how much of the average is kept at each step
    ): self.decay, self.model = decay, None

    @torch.no_grad()
    def __call__(
        self,
        run, # the `Run` that has taken a step
    ):
        if self.model is None: self.model = copy.deepcopy(run.model)
        for mine, new in zip(self.model.parameters(), run.model.parameters()): mine.lerp_(new, 1 - self.decay)


def arms(
    s, # the settings
) -> dict: # name -> what is changed: fields of the recipe, 'model', first weights ('start'), 'average'
    "What is tried."
    return {
        'the recipe': {},
        'rate / 10': dict(lr=s.lr / 10),
        'rate / 3': dict(lr=s.lr / 3),
        'rate x 3': dict(lr=s.lr * 3),
        'constant rate': dict(schedule='constant'),
        'constant rate, weights averaged': dict(schedule='constant', average=s.average),
        'batch / 4': dict(batch_size=max(1, s.batch // 4)),
        'batch / 2': dict(batch_size=max(1, s.batch // 2)),
        'batch x 2': dict(batch_size=s.batch * 2),
        'readout not started from the mean frame': dict(output_bias=False),
        'forget bias 0': dict(start=forget_nothing_special),
        'small uniform first weights': dict(start=partial(paper_start, forget_bias=1., seed=0)),
        'no peepholes': dict(model=dict(peephole=False)),
        'two layers': dict(model=dict(num_layers=s.layers + 1)),
        'half the units': dict(model=dict(hidden_size=max(1, s.units // 2))),
        'twice the units': dict(model=dict(hidden_size=s.units * 2)),
        "the authors' first release": dict(recipe='paper-2015-09', start=partial(paper_start, forget_bias=5., seed=0)),
        "the authors' rewrite": dict(recipe='paper-2015-12', start=partial(paper_start, forget_bias=0., seed=0)),
    }


def one(
    context, # of `run`; inside of a part
    test, # clips
    name: str, # one of `arms`
    *,
    seed: int, # of first weights and clips
) -> dict: # a row
    "One training, measured."
    s, change = context.settings, dict(arms(context.settings)[name])
    average, start = Average(change.pop('average')) if 'average' in change else None, change.pop('start', None)
    model = VideoLSTM.composite(**dict(hidden_size=s.units, num_layers=s.layers) | change.pop('model', {}), seed=seed)
    recipe = get_recipe(**dict(recipe=base_of(s)) | change)
    if start: start(model)
    options = dict(steps=max(1, s.clips // recipe.batch_size), recipe=recipe, callbacks=[average] if average else [])
    resume = average is None # an average that missed steps would be another one
    history = context.train(model, context.train_clips(seed=seed), resume=resume, **options)
    scores = evaluate((average.model if average else model).eval(), test).to_dict()
    context.note(scores=scores.pop('conventions'))
    return dict(arm=name, seed=seed, scores={task: scores[task]['overall'] for task in ('reconstruction', 'future')},
                parameters=sum(p.numel() for p in model.parameters()), recipe=asdict(recipe),
                training=training_of(history) | dict(losses=thinned(history)))


def base_of(s): return get_recipe('adam', lr=s.lr, batch_size=s.batch)


def run(context):
    "The recipe with all seeds, then each change with the first."
    s = context.settings
    test, changes = context.test_clips(s.test_clips, seed=s.test_seed), list(arms(s))
    context.note(recipe=asdict(base_of(s)), arms=changes)
    for seed in s.seeds: context.part(f'the recipe, seed {seed}', partial(one, context, test, 'the recipe', seed=seed))
    for name in changes[1:]: context.part(name, partial(one, context, test, name, seed=s.seeds[0]))

"""Which way of training learns fastest?

A small composite gets one budget of clips, and is trained as the recipe `adam` says. Then one thing is changed at a time: the rate, its schedule, an average of the
weights, the batch, the first weights, the size. The recipe itself is trained with several seeds: differences no larger than theirs say nothing.
"""
import copy

import torch

from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import get_recipe, paper_start

from experiments.design import thinned

NAME = 'learning'
SETTINGS = dict(units=192, layers=1, clips=19_200, batch=64, lr=3e-3, average=.98, seeds=(0, 1, 2), test_clips=500, test_seed=2015)
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
    def __init__(self,
        decay: float, # how much of the average is kept at each step
    ): self.decay, self.model = decay, None

    @torch.no_grad()
    def __call__(self,
        p, # a `Progress`
    ):
        if self.model is None: self.model = copy.deepcopy(p.model)
        for mine, new in zip(self.model.parameters(), p.model.parameters()): mine.lerp_(new, 1 - self.decay)


def arms(
    s, # the settings
) -> dict: # name -> what is changed: of the recipe, of the model ('model'), of the first weights ('start'), or 'average'
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
        'small uniform first weights': dict(start=lambda model: paper_start(model, 1., 0)),
        'no peepholes': dict(model=dict(peephole=False)),
        'two layers': dict(model=dict(num_layers=s.layers + 1)),
        'half the units': dict(model=dict(hidden_size=max(1, s.units // 2))),
        'twice the units': dict(model=dict(hidden_size=s.units * 2)),
        "the authors' first release": dict(recipe='paper-2015-09', start=lambda model: paper_start(model, 5., 0)),
        "the authors' rewrite": dict(recipe='paper-2015-12', start=lambda model: paper_start(model, 0., 0)),
    }


def run(context):
    "The recipe with all seeds, then each change with the first."
    s = context.settings
    test = context.test_clips(s.test_clips, seed=s.test_seed)
    base, changes = get_recipe('adam', lr=s.lr, batch_size=s.batch), arms(s)
    context.note(recipe=vars(base), arms=list(changes))

    def one(name, seed):
        change = dict(changes[name])
        recipe, average = change.pop('recipe', base), Average(change.pop('average')) if 'average' in change else None
        start, shape = change.pop('start', None), dict(hidden_size=s.units, num_layers=s.layers) | change.pop('model', {})
        recipe = get_recipe(recipe, **change)
        model = VideoLSTM.composite(**shape, seed=seed)
        if start: start(model)
        history = context.train(model, context.train_clips(seed=seed), steps=max(1, s.clips // recipe.batch_size), recipe=recipe, callbacks=[average] if average else [],
                                resume=average is None)                # an average that missed steps would be another one
        scores, last = evaluate((average.model if average else model).eval(), test, len(test)).to_dict(), history.rows[-1]
        context.note(scores=scores.pop('conventions'))
        return dict(arm=name, seed=seed, scores={task: scores[task]['overall'] for task in ('reconstruction', 'future')}, parameters=sum(p.numel() for p in model.parameters()),
                    recipe=vars(recipe), training=dict(steps=last['step'], clips=last['clips'], seconds=last['seconds'], losses=thinned(history)))

    for seed in s.seeds: context.part(f'the recipe, seed {seed}', lambda seed=seed: one('the recipe', seed))
    for name in changes:
        if name != 'the recipe': context.part(name, lambda name=name: one(name, s.seeds[0]))

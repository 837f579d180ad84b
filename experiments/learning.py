"""Which way of training learns fastest?

A small composite of one layer gets one budget, and one thing is changed at a time. First (`tuned`) the batch and the
rate of Adam are chosen, or whatever takes more or larger steps would win. Then (`early`) come other schedules,
averages of the weights, other optimisers, curricula, truncation, two layers grown from one, a wider teacher, and other
first weights and sizes. The budget is a number of clips; where a change makes a clip cheaper or dearer, it is that of
the operations of as many clips (`budget` of a row says which). A teacher's own work comes on top.

`late` asks the other question: what helps a model that has learned already? One model is trained long, and then each
way goes on from it, with the optimiser's memory empty, as whoever loads a model begins.

All ways are tried with the first seed; the best few (`finalists`) then with the others, and so are the two that a
chapter asks about (`ASKED`). Ways of one seed share first weights and clips: differences are taken seed by seed. What a
step costs is measured apart, all ways in turn.
"""
import copy
import math
import re
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Callable

import numpy as np
import torch

from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.fast_lstm import fast_bf16
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLoss, VideoLSTM, find_eigenvectors, frame_loss
from lstm_video_repr.training import (Position, Run, detach_losses, get_recipe, learning_rate, make_optimizer,
                                      objective, set_rate)
from lstm_video_repr.zoo import load_model, load_pretrained, save_model

from experiments.design import thinned, training_of

NAME = 'learning'
SETTINGS = dict(units=192, layers=1, clips=16_000,
                tuned=('16@0.0015', '16@0.003', '32@0.003', '32@0.006', '64@0.006'), # batch and rate
                warmup=100, average=.1, seeds=(0, 1, 2), finalists=5, long=76_800, late_clips=9_600, late_finalists=3,
                test_clips=500, test_seed=2015, rounds=3, wide=896, wide_batch=128)
QUICK = dict(units=6, clips=24, tuned=('4@0.003', '8@0.003'), warmup=2, seeds=(0, 1), finalists=2, long=16,
             late_clips=16, late_finalists=1, test_clips=4, rounds=0, wide=6, wide_batch=4)

ASKED = 'forget bias 0', 'no peepholes' # a difference of few nats, where the sign matters


# ---- optimisers: each small, exact, and for matrices; whatever is no matrix is left to Adam

def is_matrix(
    name: str, # of a weight
) -> bool: # biases and peepholes are none
    return name.endswith('readout.weight') or '.weight_ih' in name or '.weight_hh' in name


def is_recurrent(name): return '.weight_hh' in name


def blocks(
    w: torch.Tensor, # (n, m)
    gated: bool, # is it of an LSTM, four gates above each other?
) -> torch.Tensor: # (4, n/4, m), or (1, n, m): a view
    "A matrix for each gate."
    return w.view(4, -1, w.shape[1]) if gated else w.unsqueeze(0)


@torch.no_grad()
def orthogonal(
    x: torch.Tensor, # (..., n, m)
    *,
    steps: int = 5, # of the iteration
    dtype: torch.dtype = torch.float32, # of the products
) -> torch.Tensor: # the same singular vectors, singular values near 1
    "Newton-Schulz iteration of Muon (K. Jordan, 2024), with its coefficients."
    turned = x.shape[-2] > x.shape[-1]
    y = (x.mT if turned else x).to(dtype)
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = y @ y.mT
        y = 3.4445 * y + (-4.775 * a + 2.0315 * a @ a) @ y
    return (y.mT if turned else y).to(x.dtype)


class Muon(torch.optim.Optimizer):
    """Steps whose singular values are all alike: momentum (Nesterov), made orthogonal gate by gate.

    Scaled to the root mean square .2 that a step of Adam has (J. Liu et al., 2025), so that both have one rate."""
    def __init__(
        self,
        named: list, # pairs (name, weight) of matrices
        lr: float, # rate
        *,
        momentum: float = .95, # how much of the last step is kept
        dtype: torch.dtype = torch.float32, # of the products
    ):
        groups = [dict(params=[w], gated='weight_' in n) for n, w in named]
        super().__init__(groups, dict(lr=lr, momentum=momentum, dtype=dtype))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            w, mu = group['params'][0], group['momentum']
            v = self.state[w].setdefault('velocity', torch.zeros_like(w)).lerp_(w.grad, 1 - mu)
            move = blocks(w.grad.lerp(v, mu), group['gated'])
            scale = .2 * math.sqrt(max(move.shape[1:]))
            w.add_(orthogonal(move, dtype=group['dtype']).reshape_as(w), alpha=-group['lr'] * scale)


class Soap(torch.optim.Optimizer):
    """Adam in the eigenvectors of Shampoo's two mean products (N. Vyas et al., 2024, algorithm 3), gate by gate.

    A side longer than `side` keeps its own axes ("one-sided"). The first gradient only makes the eigenvectors."""
    def __init__(
        self,
        named: list, # pairs (name, weight) of matrices
        lr: float, # rate
        *,
        betas: tuple = (.95, .95), # memory of gradients; of their squares and products
        every: int = 10, # steps between two steps of the power iteration that keeps the eigenvectors
        side: int = 1024, # the longest that is turned
        eps: float = 1e-8, # beside the root
    ):
        groups = [dict(params=[w], gated='weight_' in n) for n, w in named]
        super().__init__(groups, dict(lr=lr, betas=betas, every=every, side=side, eps=eps))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            w = group['params'][0]
            g, state = blocks(w.grad, group['gated']), self.state[w]
            if not state: start_soap(state, g, group)
            else: w.add_(soap_move(state, g, group).reshape_as(w), alpha=-group['lr'])


def turn(x, bases, *, back=False):
    "Into the eigenvectors of both sides, or out of them."
    left, right = bases
    if left is not None: x = (left if back else left.mT) @ x
    return x if right is None else x @ (right.mT if back else right)


def product(g, side): return g.mT @ g if side else g @ g.mT


def start_soap(state, g, group):
    fits = [n <= group['side'] for n in g.shape[1:]]
    means = [product(g, i).mul_(1 - group['betas'][1]) if ok else None for i, ok in enumerate(fits)]
    bases = [None if p is None else find_eigenvectors(p)[1].flip(-1) for p in means]
    state.update(n=0, means=means, bases=bases, m=torch.zeros_like(g), v=torch.zeros_like(g))


def soap_move(state, g, group):
    "One step of the algorithm: the direction, as large as Adam's; then products and eigenvectors follow."
    (b1, b2), state['n'] = group['betas'], state['n'] + 1
    state['m'].lerp_(g, 1 - b1)
    state['v'].lerp_(turn(g, state['bases']).square_(), 1 - b2)
    size = (state['v'] / (1 - b2 ** state['n'])).sqrt_().add_(group['eps'])
    move = turn(turn(state['m'] / (1 - b1 ** state['n']), state['bases']) / size, state['bases'], back=True)
    for i, mean in enumerate(state['means']):
        if mean is None: continue
        mean.lerp_(product(g, i), 1 - b2)
        if state['n'] % group['every'] == 0: state['bases'][i] = torch.linalg.qr(mean @ state['bases'][i])[0]
    return move


class ScheduleFree(torch.optim.Optimizer):
    """Adam without a schedule (A. Defazio et al., 2024, algorithm 1).

    Gradients are taken between the running point z and its average x; `finish` leaves x. The warm-up is in its rate."""
    def __init__(
        self,
        params, # weights
        lr: float, # rate
        *,
        betas: tuple = (.9, .999), # share of the average in the point of the gradient; memory of squares
        eps: float = 1e-8, # beside the root
    ):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps))
        self.n, self.sum = 0, 0.

    @torch.no_grad()
    def step(self, closure=None):
        self.n += 1
        b2 = self.param_groups[0]['betas'][1]
        rate = self.param_groups[0]['lr'] * math.sqrt(1 - b2**self.n)
        self.sum += rate**2
        for group in self.param_groups:
            for y in group['params']: free_step(self.state[y], y, group, rate=rate, share=rate**2 / self.sum)

    @torch.no_grad()
    def finish(self):
        "The weights become the average."
        for w, state in self.state.items(): w.copy_(state['x'])


def free_step(state, y, group, *, rate, share):
    b1, b2 = group['betas']
    if not state: state.update(z=y.clone(), x=y.clone(), v=torch.zeros_like(y))
    state['v'].lerp_(y.grad.square(), 1 - b2)
    state['z'].addcdiv_(y.grad, state['v'].sqrt().add_(group['eps']), value=-rate)
    state['x'].lerp_(state['z'], share)
    y.copy_(state['z'].lerp(state['x'], b1))


def beside_adam(
    model: VideoLSTM, # whose weights
    recipe, # of `adam`
    *,
    kind, # an optimiser of named matrices
    which: Callable = is_matrix, # which weights are its own
    **options, # of it
) -> list: # it, and Adam for all else
    "An optimiser for some matrices, Adam for the rest."
    named = list(model.named_parameters())
    mine, rest = [(n, w) for n, w in named if which(n)], [w for n, w in named if not which(n)]
    return [kind(mine, recipe.lr, **options), torch.optim.AdamW(rest, recipe.lr, weight_decay=0.)]


def muon(model, recipe, which=is_matrix):
    dtype = torch.bfloat16 if fast_bf16('cpu') else torch.float32
    return beside_adam(model, recipe, kind=Muon, which=which, dtype=dtype)


def soap(model, recipe, which=is_matrix): return beside_adam(model, recipe, kind=Soap, which=which)


def schedule_free(model, recipe): return [ScheduleFree(model.parameters(), recipe.lr)]


def adam(model, recipe, b2):
    "The library's, with another memory of squares."
    found = make_optimizer(model, recipe)
    for group in found.param_groups: group['betas'] = .9, b2
    return [found]


# ---- what else can be changed

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


@torch.no_grad()
def grow(
    model: VideoLSTM, # a composite of one layer
) -> VideoLSTM: # one of two layers that emits nearly the same
    "The units of a second layer each repeat one of the first: gates i, o open, f shut, the candidate 1.2 times it."
    new = VideoLSTM(replace(model.config, num_layers=2))
    new.load_state_dict(model.state_dict(), strict=False)
    H = model.config.hidden_size
    for name, p in new.named_parameters():
        if '_l1' not in name: continue
        p.zero_()
        if 'weight_ih' in name: p.view(4, H, H)[2] = 1.2 * torch.eye(H)
        if 'bias' in name: p.view(4, H)[:] = torch.tensor([3., -3., 0., 3.])[:, None]
    return new


def work(
    H: int, # units
    layers: int = 1,
    *,
    frames: int = 10, # seen, and as many predicted
    blind: int = 0, # first frames that no gradient reaches
    D: int = 4096, # values of a frame
) -> float: # multiplications of a clip's training step: one forward, two backward, none into the input
    "What a clip costs a composite."
    inner = 4*H*H * (2*layers - 1) # all recurrent products, and those between layers
    encoder = (frames*2 - blind) * 4*H*D + (frames*3 - blind*2) * inner
    return encoder + 2 * frames*3 * (inner + H*D)


def surprise(model, state, past, future):
    "The losses of both decoders for targets that need not be true."
    def of(decoder, target): return frame_loss(decoder.teacher_force(state, target), target, model.config.output)
    back, on = past.flip(1).flatten(2), future.flatten(2)
    return VideoLoss(of(model.reconstruction_decoder, back), of(model.future_decoder, on))


def truncated(model, past, future, *, blind):
    "No gradient reaches the first `blind` frames."
    with torch.no_grad(): state = model.encoder(past[:, :blind].flatten(2))[1]
    return surprise(model, model.encoder(past[:, blind:].flatten(2), state)[1], past, future)


def distilled(model, past, future, *, teacher, share):
    "Targets are the truth, mixed with what a teacher says."
    with torch.no_grad(): out = teacher(past, future_frames=future.shape[1])
    mixed = (x.lerp(said.to(x), share) for x, said in ((past, out.recalled), (future, out.future)))
    return surprise(model, model.encode(past), *mixed)


# ---- the ways

@dataclass(frozen=True)
class Way:
    "What is changed. Everything else is as in the library's recipe."
    recipe: dict = field(default_factory=dict) # fields of `Recipe`
    model: dict = field(default_factory=dict) # options of the model
    start: Callable | None = None # other first weights
    optimizers: Callable | None = None # of (model, recipe)
    loss: Callable | None = None # of (model, past, future)
    late_batch: int = 1 # batches in a step of the second half
    easy: int = 0 # digits in the clips of the first half; 0: as in all others
    short: int = 0 # frames of past and future for the first half of the work; 0: all
    grown: bool = False # one layer for the first half of the work, then two
    average: bool = False # measured with averaged weights, too
    budget: str = 'clips' # what is equal
    share: float = 1. # of the clips of all others, so that the budget is equal
    final: bool = True # may it go on to the other seeds? What may not comes last

    @property
    def plain(self): # does the library's own step do?
        return not (self.optimizers or self.loss or self.late_batch > 1 or self.easy or self.short or self.grown)


class Step:
    "What takes the steps of a training, in one of the ways."
    def __init__(
        self,
        way: Way, # which
        *,
        before: int = 0, # steps of the whole training that are done already
        whole: int, # steps in it
        clips: MovingDigits | None = None, # easier ones
        memory: dict | None = None, # of the optimiser, by the names of weights
    ):
        self.way, self.before, self.whole, self.clips, self.memory = way, before, whole, clips, memory
        self.optimizers, self.waiting, self.run = None, 0, None

    def begin(self, run):
        "Optimisers of the first step."
        self.run = run
        self.optimizers = self.way.optimizers(run.model, run.recipe) if self.way.optimizers else [run.optimizer]
        for name, w in run.model.named_parameters():
            if self.memory and name in self.memory: run.optimizer.state[w] = self.memory[name]

    def __call__(
        self,
        run: Run, # whose model takes the step
        past, future, # (B, T, *frame)
    ) -> list: # losses
        if self.run is not run: self.begin(run)
        n, way = self.before + run.step, self.way
        if way.easy and 2*n < self.whole: past, future = self.clips.read(run.here.index, len(past))
        if way.short and 3*n < 2*self.whole: past, future = past[:, -way.short:], future[:, :way.short]
        several = way.late_batch if 2*n >= self.whole else 1
        if not self.waiting:
            for o in self.optimizers: o.zero_grad(set_to_none=True)
        with run.autocast(): loss = (way.loss or plain_loss)(run.model, past, future)
        run.tell('after_loss', detach_losses(loss))
        (objective(loss, run.recipe.objective, past=past, future=future) / several).backward()
        self.waiting += 1
        if self.waiting >= several or run.step + 1 == run.steps: self.move(learning_rate(run.recipe, n, self.whole))
        if run.step + 1 == run.steps: self.finish()
        return detach_losses(loss)

    def move(self, rate):
        for o in self.optimizers:
            set_rate(o, rate)
            o.step()
        self.waiting = 0

    def finish(self):
        for o in self.optimizers:
            if hasattr(o, 'finish'): o.finish()
        state = self.run.optimizer.state
        self.memory = {n: state[w] for n, w in self.run.model.named_parameters() if w in state}


def plain_loss(model, past, future): return model.loss(past, future)


def optimiser_ways(lr):
    "Other optimisers, at the rate of Adam and at others."
    recurrent = dict(which=is_recurrent)
    kinds = {'SOAP': soap, 'SOAP on the recurrent blocks': partial(soap, **recurrent), 'Muon': muon,
             'Muon on the recurrent blocks': partial(muon, **recurrent)}
    found = {name: Way(optimizers=kind, final=kind is not kinds['SOAP on the recurrent blocks'])
             for name, kind in kinds.items()}
    free = {f'schedule-free Adam{said}': Way(dict(lr=lr * times, schedule='constant'), optimizers=schedule_free)
            for said, times in (('', 1), (', rate x 2', 2))}
    memory = {f'memory of squares {b2}': Way(optimizers=partial(adam, b2=b2), final=b2 < .99) for b2 in (.95, .99)}
    return found | free | memory


def early_ways(
    s, # the settings
    base, # the recipe that won
) -> dict: # name -> `Way`
    "What is tried from the first clip on."
    lr, H, two = base.lr, s.units, dict(num_layers=s.layers + 1)
    one_layer, layers = work(H, s.layers), work(H, s.layers + 1)
    known = dict(final=False) # variants of others, sizes, starts
    return {
        'rate x 2': Way(dict(lr=2 * lr), average=True),
        'linear decay': Way(dict(schedule='linear')),
        'linear decay, rate x 2': Way(dict(schedule='linear', lr=2 * lr), **known),
        'constant rate': Way(dict(schedule='constant'), average=True),
        **optimiser_ways(lr),
        'batch x 4 in the second half': Way(late_batch=4),
        'one digit in the first half': Way(easy=1),
        'short clips for half of the work': Way(short=5, budget='operations', share=1.5),
        'no gradient into the first 5 frames': Way(loss=partial(truncated, blind=5), budget='operations',
                                                   share=one_layer / work(H, s.layers, blind=5)),
        'two layers': Way(model=two, budget='operations', share=one_layer / layers),
        'two layers, the second grown halfway': Way(grown=True, budget='operations',
                                                    share=(1 + one_layer / layers) / 2),
        'half from a wider teacher': Way(loss='teacher', budget='clips, without the work of the teacher', **known),
        'readout not started from the mean frame': Way(dict(output_bias=False), **known),
        'twice the units': Way(model=dict(hidden_size=2 * H), **known),
        'forget bias 0': Way(start=forget_nothing_special, **known),
        'no peepholes': Way(model=dict(peephole=False), **known),
    }


def late_ways(
    base, # the recipe that won
) -> dict: # name -> `Way`
    "What is tried from a model on that was trained long."
    def at(part, schedule): return dict(lr=base.lr * part, schedule=schedule)
    parts = {'full rate': 1, 'rate / 3': 1/3, 'rate / 10': .1, 'rate / 30': 1/30}
    found = {f'constant {name}': Way(at(p, 'constant'), average=True) for name, p in parts.items() if p < 1}
    found |= {f'{name}, linear decay': Way(at(p, 'linear')) for name, p in parts.items()}
    found |= {f'{name}, linear decay, batch x 4': Way(at(p, 'linear') | dict(batch_size=4 * base.batch_size))
              for name, p in parts.items() if p > .2}
    kinds = {'SOAP': soap, 'SOAP on the recurrent blocks': partial(soap, which=is_recurrent),
             'Muon on the recurrent blocks': partial(muon, which=is_recurrent)}
    return found | {f'{name}, rate / 10, linear decay': Way(at(.1, 'linear'), optimizers=kind)
                    for name, kind in kinds.items()}


# ---- trainings

def model_of(s, way, seed):
    "A model with first weights."
    model = VideoLSTM.composite(**dict(hidden_size=s.units, num_layers=s.layers) | way.model, seed=seed)
    return way.start(model) if way.start else model


def loss_of(
    way: Way, # whose
) -> Callable | None: # of (model, past, future)
    "The bundled model is loaded only where it is the teacher."
    return partial(distilled, teacher=load_pretrained(), share=.5) if way.loss == 'teacher' else way.loss


def go(
    context, # of `run`; inside of a part
    model: VideoLSTM, # trained in place
    way: Way, # how
    *,
    base, # the recipe that is changed
    seed: int, # of the clips
    n_clips: int, # the budget of all others
): # the trained model, its average or None, the history, clips seen
    "A training in one of the ways."
    recipe, clips = get_recipe(base, **way.recipe), context.train_clips(seed=seed)
    whole = max(1, round(n_clips * way.share / recipe.batch_size))
    easy = context.train_clips(seed=seed, n_digits=way.easy) if way.easy else None
    average = Average(1 - 1 / max(1, context.settings.average * whole)) if way.average else None
    way = replace(way, loss=loss_of(way))
    options = dict(recipe=recipe, resume=way.plain and average is None, callbacks=[average] if average else [])
    step = Step(way, whole=whole, clips=easy)
    first = max(1, round(n_clips / 2 / recipe.batch_size)) if way.grown else 0
    if way.grown:
        context.train(model, clips, 'one layer', step=step, steps=first, **options)
        model, step = grow(model), Step(way, before=first, whole=whole, memory=step.memory)
    history = context.train(model, clips, step='plain' if way.plain else step, steps=max(1, whole - first), **options)
    return model.eval(), average and average.model.eval(), history, whole * recipe.batch_size


def scores_of(context, model, test):
    scores = evaluate(model, test, ssim=False).to_dict()
    context.note(scores=scores.pop('conventions'))
    return {task: scores[task]['overall'] for task in ('reconstruction', 'future')}


def one(
    context, # of `run`; inside of a part
    test, # clips
    name: str, # of the way
    *,
    way: Way, # how
    base, # the recipe that is changed
    kind: str, # 'tuned', 'early', 'long' or 'late'
    seed: int, # of first weights and clips
    start: VideoLSTM | None = None, # weights to begin from; they stay as they are
) -> dict: # a row
    "One training, measured."
    s = context.settings
    n_clips = dict(long=s.long, late=s.late_clips).get(kind, s.clips)
    model = model_of(s, way, seed) if start is None else copy.deepcopy(start)
    clip_seed = seed if start is None else 1000 + seed # the long training has seen those before
    model, average, history, clips = go(context, model, way, base=base, seed=clip_seed, n_clips=n_clips)
    if kind == 'long': save_model(model, kept(context))
    return dict(kind=kind, way=name, seed=seed, clips=clips, budget=way.budget, scores=scores_of(context, model, test),
                averaged=scores_of(context, average, test) if average else None,
                parameters=sum(p.numel() for p in model.parameters()), recipe=asdict(get_recipe(base, **way.recipe)),
                training=training_of(history) | dict(losses=thinned(history)))


def kept(context): return context.checkpoint_of('long-model')


# ---- what a step costs

def cost_of(
    s, # settings, of which `units` are the model's
    ways: dict, # name -> `Way`
    *,
    base, # the recipe that is changed
) -> dict: # name -> seconds a clip, the painting of clips included
    "All ways in turn, the minimum of each, of the processor's time; a way of two phases is in the one that is its own."
    takers = {name: taker(s, way, base) for name, way in ways.items()}
    best = dict.fromkeys(takers, math.inf)
    for _ in range(s.rounds + 1): # the first warms up
        for name, take in takers.items(): best[name] = min(best[name], take())
    return best


def taker(s, way, base):
    "A function that takes four steps and gives the seconds of a clip."
    model = model_of(s, Way(model=dict(num_layers=s.layers + 1)) if way.grown else way, 0)
    recipe, clips = get_recipe(base, **way.recipe), MovingDigits(seed=0)
    run = Run(model, clips, 10**6, recipe=recipe)
    step = Step(replace(way, loss=loss_of(way)), whole=10**6, clips=MovingDigits(seed=0, n_digits=1))
    place = 10**6 - 10**5 if way.late_batch > 1 else 0
    def take():
        run.here, start = Position(step=place), time.process_time()
        for _ in range(4): run.advance(step(run, *run.next_batch()))
        return (time.process_time() - start) / 4 / recipe.batch_size
    return take


def costs(context, base):
    "What a clip costs, in each way that changes it; and what optimisers cost at the size of the bundled model."
    s = context.settings
    batches = {f'batch {b}': Way(dict(batch_size=b)) for b, _ in map(parse, s.tuned)}
    ways = {n: w for n, w in early_ways(s, base).items() if ', rate' not in n and (not w.plain or w.model)}
    small = cost_of(s, batches | ways, base=base)
    wide = {n: w for n, w in optimiser_ways(base.lr).items() if ', rate' not in n and 'squares' not in n}
    settings = type(s)(**vars(s) | dict(units=s.wide))
    large = cost_of(settings, {'Adam': Way()} | wide, base=get_recipe(base, batch_size=s.wide_batch))
    return dict(kind='cost', small=small, wide=large)


def alone(
    way: Way, # whose training
    name: str, # of it
    *,
    small: dict, # seconds a clip
    clips: int, # seen
    batch: int, # clips in a step
) -> float: # seconds
    "What a training takes that is alone on the machine, from the minima."
    known = [int(k[6:]) for k in small if re.fullmatch(r'batch \d+', k)]
    usual = small[f'batch {min(known, key=lambda b: abs(b - batch))}']
    own = small.get(name.split(', rate')[0], usual)
    part = 2/3 if way.short else .5 if way.easy or way.late_batch > 1 else 1 - .5 / way.share if way.grown else 1
    return clips * (part * own + (1 - part) * usual)


# ---- the table

def measured(row): return row['scores']['future']['nats']


def best_of(row):
    "With averaged weights, if they are better."
    return min([measured(row)] + ([row['averaged']['future']['nats']] if row['averaged'] else []))


def paired(
    rows: list, # of one way, a seed each
    beside: dict, # seed -> nats
    score: Callable = measured, # of a row
) -> dict: # mean, error and number
    "Differences seed by seed: nats per future frame, mean and standard error (none for one seed)."
    gaps = [score(r) - beside[r['seed']] for r in rows]
    error = float(np.std(gaps, ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else None
    return dict(mean=float(np.mean(gaps)), error=error, seeds=len(gaps))


def lines_of(
    rows: list, # of one way, a seed each
    way: Way, # what was done
    beside: dict, # seed -> nats
    small: dict | None, # seconds a clip, by ways
) -> list: # of dicts: one, and one for the averaged weights
    "What a table says of a way."
    first = rows[0]
    about = dict(way=first['way'], budget=first['budget'], clips=first['clips'])
    if small: about['seconds'] = alone(way, first['way'], small=small, clips=first['clips'],
                                       batch=first['recipe']['batch_size'])
    averaged = dict(way=f'{first["way"]}, weights averaged')
    more = [about | averaged | paired(rows, beside, lambda r: r['averaged']['future']['nats'])] if way.average else []
    return [about | paired(rows, beside), *more]


def tables(
    rows: list, # of the file
    s, # the settings
) -> dict: # 'early' and 'late': a list of dicts, best first
    "What came out, way by way."
    small, base = next((r['small'] for r in rows if r['kind'] == 'cost'), None), base_of(rows, s)
    basic = {r['seed']: measured(r) for r in rows if r['kind'] == 'tuned' and r['way'] == call(base)}
    before = {k: measured(r) for r in rows if r['kind'] == 'long' for k in s.seeds}
    def table(kinds, ways, beside):
        chosen = [r for r in rows if r['kind'] in kinds]
        names = dict.fromkeys(r['way'] for r in chosen)
        found = [lines_of([r for r in chosen if r['way'] == n], ways.get(n, Way()), beside, small) for n in names]
        return sorted((line for lines in found for line in lines), key=lambda line: line['mean'])
    return dict(early=table(('tuned', 'early'), early_ways(s, base), basic),
                late=table(('late',), late_ways(base), before))


# ---- the experiment

def parse(word): return int(word.split('@')[0]), float(word.split('@')[1])


def call(recipe): return f'batch {recipe.batch_size}, rate {recipe.lr:g}'


def recipes_of(s): return [get_recipe('adam', batch_size=b, lr=lr, warmup=s.warmup) for b, lr in map(parse, s.tuned)]


def base_of(
    rows: list, # of the file
    s, # the settings
): # a `Recipe`
    "The batch and the rate that won with the first seed."
    tried = {r['way']: measured(r) for r in rows if r['kind'] == 'tuned' and r['seed'] == s.seeds[0]}
    return min(recipes_of(s), key=lambda r: tried[call(r)])


def pick(rows, ways, kind, s, most):
    "The best ways with the first seed."
    tried = {r['way']: best_of(r) for r in rows if r['kind'] == kind and r['seed'] == s.seeds[0]}
    return sorted((n for n in tried if ways[n].final), key=tried.get)[:most]


def run(context):
    "Tune; the long training and what may follow it; what else may be done from the start; costs; the other seeds."
    s, test = context.settings, context.test_clips(context.settings.test_clips, seed=context.settings.test_seed)
    def do(name, way, base, kind, seed, start=None):
        title = {'late': 'late: ', 'long': 'long: '}.get(kind, '') + f'{name}, seed {seed}'
        context.part(title, partial(one, context, test, name, way=way, base=base, kind=kind, seed=seed, start=start))
    for recipe in recipes_of(s): do(call(recipe), Way(), recipe, 'tuned', s.seeds[0])
    base = base_of(context.rows, s)
    early, late = early_ways(s, base), late_ways(base)
    context.note(base=call(base), early=list(early), late=list(late))
    do(call(base), Way(), base, 'long', s.seeds[0])
    start, gentle = load_model(kept(context)), get_recipe(base, warmup=s.warmup // 2)
    for name, way in late.items(): do(name, way, gentle, 'late', s.seeds[0], start)
    for name, way in early.items():
        if way.final: do(name, way, base, 'early', s.seeds[0])
    context.part('costs', partial(costs, context, base))
    finals = pick(context.rows, early, 'early', s, s.finalists), pick(context.rows, late, 'late', s, s.late_finalists)
    context.note(finalists=dict(zip(('early', 'late'), finals)))
    for seed in s.seeds[1:]:
        do(call(base), Way(), base, 'tuned', seed)
        for name in finals[0]: do(name, early[name], base, 'early', seed)
        for name in finals[1]: do(name, late[name], gentle, 'late', seed, start)
    for name, way in early.items(): do(name, way, base, 'early', s.seeds[0]) # sizes and starts
    for seed in s.seeds[1:]:
        for name in ASKED: do(name, early[name], base, 'early', seed)
    context.note(tables=tables(context.rows, s))

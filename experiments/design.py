"""Which model predicts best: one that reconstructs, predicts, or does both, \
with decoders that see their last frame or do not?

Section 3.4 of the paper (comparison of model variants), on moving digits: six models of one size get one budget of
clips, several times, each time with other first weights and other clips. The three that have a conditional decoder are
also trained on its own frames (scheduled sampling): a decoder that is shown the truth in training and itself at test
meets something new. Within a seed all models see the same clips, so that differences can be taken seed by seed.

All are measured on one test set, free-running: a conditional decoder sees its own output. Each training is measured
several times on its way, to see whether the order changes. A training does not know where it will be measured: the rate
is constant, and what is measured are averaged weights, so that each point stands for a training of that length. (The
chance of own frames does depend on the whole budget: it rises to 1 over the first half.)
"""
import copy
from functools import partial

import numpy as np
import torch
from torch import nn

from lstm_video_repr.metrics import LastFrame, MeanFrame, nats_per_frame, score_clips
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import Callback, get_recipe
from lstm_video_repr.zoo import load_model, save_model

NAME = 'design'
SETTINGS = dict(units=512, layers=(1, 2), clips=500_000, points=(8, 4, 2, 1), batch=128, lr=2e-3, precision='auto',
                seeds=(0, 1, 2), test_clips=1000, test_seed=2015, baseline_clips=1000)
QUICK = dict(units=6, layers=(1,), clips=16, points=(2, 1), batch=4, seeds=(0, 1), test_clips=4, baseline_clips=4)

MODELS = {
    'autoencoder': VideoLSTM.autoencoder,
    'conditional autoencoder': partial(VideoLSTM.autoencoder, conditional=True),
    'future predictor': VideoLSTM.future_predictor,
    'composite': VideoLSTM.composite,
    'conditional future predictor': partial(VideoLSTM.future_predictor, conditional=True),
    'composite, conditional future predictor': partial(VideoLSTM.composite, conditional_future=True),
}
OWN = ', own frames' # after the name of a model with a conditional decoder: trained on its own frames
ARMS = (*MODELS, *(name + OWN for name in MODELS if 'conditional' in name))
BASELINES = 'last frame', 'mean frame'
CONDITIONING = (
    'A conditional decoder gets no frame at its first step and the frame before at each later one: in training the '
    'true frame (teacher forcing), in `scores` its own output, as probabilities. `teacher_forced` has its nats per '
    'frame with true frames, as in training.')
OWN_FRAMES = (
    'Scheduled sampling (Bengio et al. 2015): before each step, clip by clip, a conditional decoder is shown its own '
    'frame, as probabilities, by a chance that rises from 0 to 1 over the first half of the training, and then stays '
    '1: the second half is as at test. No gradient flows through a frame that is fed back.')
MEMORY = 10 # of an average: at step n it reaches back over about n / 10 steps
AVERAGE = (
    'Constant learning rate after the warm-up; measured are averaged weights: after step n they move to the new ones '
    f'by {MEMORY} / n of the way, so that they reach back over about a tenth of the training so far.')
SHOWN = 3 # test clips whose frames are kept, of the first seed


# ---- what is trained

class Average(nn.Module):
    "The averaged weights of a model, held as buffers: a part of the model they average, so that checkpoints have them."
    def __init__(
        self,
        model: nn.Module, # whose parameters
    ):
        super().__init__()
        for name, p in model.named_parameters(): self.register_buffer(name.replace('.', '-'), p.detach().clone())
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(
        self,
        model: nn.Module, # after a step
        step: int, # its number, from 1 on
    ):
        "A step further."
        for name, p in model.named_parameters():
            self.get_buffer(name.replace('.', '-')).lerp_(p, min(1, MEMORY / step))
        self.steps.fill_(step)


class KeepAverage(Callback):
    "Keeps `model.average`; makes up for the one step after which a run may have been cut."
    everywhere = True

    def begin(self, run):
        if run.model.average.steps == run.step - 1: self.after_step(run)
    def after_step(self, run): run.model.average.update(run.model, run.step)


class Until(Callback):
    "Ends a run after some step, though it is to go on later."
    everywhere = True

    def __init__(
        self,
        step: int, # the last one
    ): self.step = step

    def begin(self, run): run.stop = run.stop or run.step >= self.step
    def after_step(self, run): self.begin(run)


def own_chance(
    step: int, # the step to be taken, from 0 on
    steps: int, # in the whole training
) -> float: # that a decoder is shown its own frame
    "Rises over the first half."
    return min(1., 2 * step / steps)


class OwnFrames(Callback):
    "Scheduled sampling, by seed, step and process: a run that was cut goes on as if it had not been."
    everywhere = True

    def __init__(
        self,
        seed: int, # of the chances
        chance=own_chance, # (step, steps) -> the chance
    ): self.seed, self.chance = seed, chance

    def begin(self, run):
        g = torch.Generator().manual_seed((self.seed * 1_000_003 + run.step + 2**40 * run.rank) % 2**63)
        own = self.chance(run.step, run.steps)
        run.model.loss = partial(type(run.model).loss, run.model, own=own, generator=g)
    def after_step(self, run): self.begin(run)
    def end(self, run): vars(run.model).pop('loss', None)
    def fail(self, run, error): self.end(run)


def averaged(
    model: VideoLSTM, # with an `average`
) -> VideoLSTM: # a copy with averaged weights and nothing else, in evaluation mode
    "The model that is measured."
    found = copy.deepcopy(model)
    average = vars(found)['_modules'].pop('average')
    found.load_state_dict({name: average.get_buffer(name.replace('.', '-')) for name, _ in found.named_parameters()}
                          | dict(found.named_buffers()))
    return found.eval().requires_grad_(False)


def fresh(
    arm: str, # one of `ARMS`
    *,
    units: int, # in a layer
    layers: int,
    seed: int, # of the first weights
) -> VideoLSTM: # with an average
    "A model to be trained."
    model = MODELS[arm.removesuffix(OWN)](hidden_size=units, num_layers=layers, seed=seed)
    model.average = Average(model)
    return model


# ---- what is measured

@torch.no_grad()
def teacher_forced(
    model: VideoLSTM, # any
    clips, # `Clips` of finite length
    *,
    batch_size: int = 50, # clips at a time
) -> dict: # 'reconstruction' and 'future' -> (T,) nats of each frame, first frame first; None: missing or unconditional
    "Nats per frame of decoders that are shown the true frame before, as in training."
    totals, n = {}, 0
    for past, future in clips.batches(batch_size):
        state, n = model.encode(past), n + len(past)
        for task, decoder, target in (('reconstruction', model.reconstruction_decoder, past.flatten(2).flip(1)),
                                      ('future', model.future_decoder, future.flatten(2))):
            if decoder is None or not decoder.conditional: continue
            nats = nats_per_frame(decoder.teacher_force(state, target), target)
            totals[task] = totals.get(task, 0) + nats * len(past)
    found = {task: totals[task] / n if task in totals else None for task in ('reconstruction', 'future')}
    if found['reconstruction'] is not None: found['reconstruction'] = found['reconstruction'].flip(0)
    return found


@torch.no_grad()
def frames(
    model: VideoLSTM, # any
    past: torch.Tensor, # (B, T, *frame)
    future: torch.Tensor, # (B, T', *frame)
) -> dict: # name -> (B, T, *frame): 'reconstruction', 'future', and 'forced': the future, shown the truth
    "What a model shows, first frame first; only what there is."
    out = model(past, future_frames=future.shape[1])
    found = dict(reconstruction=out.recalled, future=out.future)
    if model.config.conditional_future:
        raw = model.future_decoder.teacher_force(model.encode(past), future.flatten(2))
        found['forced'] = raw.sigmoid().view_as(future)
    return {name: x for name, x in found.items() if x is not None}


def measure(
    context, # of `run`; inside of a part
    model, # a `VideoLSTM` or a baseline
    test, # clips
    *,
    ssim: bool = True, # the slowest measure, too?
) -> dict: # scores, with standard errors over clips
    "Free-running. The nats of each clip, in tenths, are kept beside the pictures: differences are taken clip by clip."
    found = score_clips(model, test, ssim=ssim)
    for task in ('reconstruction', 'future'):
        if (each := getattr(found, task)) is None: continue
        context.keep_pictures(**{f'{task} nats': np.rint(each['nats'].mean(1) * 10).astype(np.uint16)})
    scores = found.mean().to_dict()
    context.note(scores=scores.pop('conventions'))
    return scores


def thinned(
    history, # of a training
    points: int = 50, # about so many
) -> list[dict]: # 'step' and the mean losses since the one before
    "A training's losses, averaged."
    size, taken = max(1, -(-len(history.rows) // points)), []
    for i in range(0, len(history.rows), size):
        some = history.rows[i:i + size]
        mean = lambda k: None if some[0].get(k) is None else sum(r[k] for r in some) / len(some)
        taken.append(dict(step=some[-1]['step'], reconstruction=mean('reconstruction'), future=mean('future')))
    return taken


def training_of(
    history, # of a training
) -> dict: # steps, clips and seconds
    "What a training took."
    last = history.rows[-1]
    return dict(steps=last['step'], clips=last['clips'], seconds=last['seconds'])


def baseline(
    context, # of `run`; inside of a part
    test, # clips
    name: str, # one of BASELINES
) -> dict: # a row
    "What a model that learns nothing gets."
    s = context.settings
    clips = context.train_clips(seed=s.seeds[0])
    predictor = LastFrame() if name == 'last frame' else MeanFrame.from_clips(clips, s.baseline_clips)
    if name == 'last frame': context.keep_pictures(**dict(zip(('past', 'future'), test.read(0, min(SHOWN, len(test))))))
    return dict(kind='baseline', model=name, scores=measure(context, predictor, test))


# ---- the trainings

def title(
    arm: str, # one of `ARMS`
    *,
    layers: int,
    seed: int,
    clips: int | None = None, # seen so far; None: the training as a whole
) -> str: # of a part, or of a training
    "What a training is called."
    said = f'{arm}, {layers} layer{"s" * (layers > 1)}, seed {seed}'
    return said if clips is None else f'{said}, {clips} clips'


def model_file(
    context, # of `run`, of whatever experiment
    arm: str, # one of `ARMS`
    *,
    layers: int,
    seed: int,
): # its path
    "Where the model at the end of a training lies, for `load_model`: averaged weights, and a card with all settings."
    return context.checkpoint_of(f'{title(arm, layers=layers, seed=seed)}, model', NAME)


def find_model(
    context, # of `run`, of whatever experiment
    arm: str, # one of `ARMS`
    *,
    layers: int,
    seed: int,
    **budget, # that its card has to say: units, clips, batch, lr
) -> VideoLSTM | None: # on the device, to be trained on or not; None: there is none
    "The model that this experiment has trained, for another one to take."
    path = model_file(context, arm, layers=layers, seed=seed)
    if not path.exists(): return None
    model = load_model(path, device=context.device)
    wanted = dict(budget, digits=context.digits)
    return model.requires_grad_(True) if {k: model.card.get(k) for k in wanted} == wanted else None


def train_average(
    context, # of `run`; inside of a part
    model: VideoLSTM, # with an `average`; trained in place
    clips, # to be trained on
    *,
    steps: int, # in the whole training
    callbacks=(), # more of them
    precision: str = 'auto', # as for `train`
    batch: int, # clips in a step
    lr: float, # constant after the warm-up
    **options, # of `context.train`
): # the `History`
    "As this experiment trains: a constant rate, and an average of the weights."
    recipe = get_recipe('adam', schedule='constant', batch_size=batch, lr=lr, warmup=min(100, steps // 10))
    step = 'plain' if any(isinstance(c, OwnFrames) for c in callbacks) else 'auto' # a recorded step has no chances
    return context.train(model, clips, steps=steps, recipe=recipe, precision=precision, step=step,
                         callbacks=[KeepAverage(), *callbacks], **options)


def steps_of(
    s, # settings
) -> dict: # steps -> clips, of each point
    "Where a training is measured."
    whole = max(1, s.clips // s.batch)
    return {max(1, whole // p): max(1, whole // p) * s.batch for p in s.points}


def trained(
    context, # of `run`; inside of a part
    test, # clips
    arm: str, # one of `ARMS`
    *,
    layers: int,
    seed: int, # of first weights and clips
    step: int, # after which it is measured
) -> dict: # a row
    "One of the models, trained on from the point before, and measured."
    s, points = context.settings, steps_of(context.settings)
    steps, before = max(points), max((p for p in points if p < step), default=0)
    model, own = fresh(arm, units=s.units, layers=layers, seed=seed), arm.endswith(OWN)
    about = dict(kind='model', model=arm, layers=layers, seed=seed, clips=points[step])
    where = dict(shared=title(arm, layers=layers, seed=seed), since=points.get(before, 0))
    try: history = train_average(context, model, context.train_clips(seed=seed), steps=steps, batch=s.batch, lr=s.lr,
                                 precision=s.precision, callbacks=[Until(step), *[OwnFrames(seed)] * own], **where)
    except FloatingPointError as error: return about | dict(diverged=str(error).split(';')[0], scores=None)
    return about | result(context, averaged(model), test, history, about=about, last=step == steps)


def result(
    context, # of `run`; inside of a part
    model: VideoLSTM, # averaged
    test, # clips
    history, # of its training
    *,
    about: dict, # which model it is
    last: bool, # is this the end of its training?
) -> dict: # entries of a row
    "Measure a model; at the end also SSIM, pictures of the first seed, and the model itself."
    s = context.settings
    if last:
        if about['seed'] == s.seeds[0]:
            context.keep_pictures(**frames(model, *test.read(0, min(SHOWN, len(test)))))
        card = about | dict(experiment=NAME, units=s.units, batch=s.batch, lr=s.lr, digits=context.digits)
        which = {k: about[k] for k in ('layers', 'seed')}
        save_model(model, model_file(context, about['model'], **which), card=card)
    own = about['model'].endswith(OWN)
    chance = dict(own_chance=own_chance(history.rows[-1]['step'], max(steps_of(s)))) if own else {}
    return dict(parameters=sum(p.numel() for p in model.parameters()), **chance,
                scores=measure(context, model, test, ssim=last), teacher_forced=teacher_forced(model, test),
                training=training_of(history) | dict(losses=thinned(history)))


def run(context):
    "Baselines; then by layers and seeds one model after the other: with a machine one training is lost at most."
    s = context.settings
    test = context.test_clips(s.test_clips, seed=s.test_seed)
    said = dict(conditioning=CONDITIONING, own_frames=OWN_FRAMES, average=AVERAGE)
    context.note(**said, models=list(MODELS), arms=list(ARMS))
    for name in BASELINES: context.part(name, partial(baseline, context, test, name))
    for layers in s.layers:
        for seed in s.seeds:
            for arm in ARMS:
                for step, clips in sorted(steps_of(s).items()):
                    context.part(title(arm, layers=layers, seed=seed, clips=clips),
                                 partial(trained, context, test, arm, layers=layers, seed=seed, step=step))

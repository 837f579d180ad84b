"""Which model predicts best: one that reconstructs, predicts, or does both, \
with decoders that see their last frame or do not?

Section 3.4 of the paper (comparison of model variants), on moving digits: six models of one size get one budget,
three times, each time with other first weights and other training clips. Within a seed all models see the same clips,
so that their differences can be taken seed by seed. All are measured on one test set, free-running: a conditional
decoder sees its own output. For conditional models the nats under teacher forcing are kept, too, on the same clips.
"""
from functools import partial

import torch

from lstm_video_repr.metrics import LastFrame, MeanFrame, evaluate, nats_per_frame
from lstm_video_repr.models import VideoLSTM

NAME = 'design'
SETTINGS = dict(units=128, layers=1, steps=750, batch=64, recipe='adam', lr=3e-3, precision='auto', seeds=(0, 1, 2),
                test_clips=1000, test_seed=2015, baseline_clips=1000)
QUICK = dict(units=8, steps=3, batch=4, seeds=(0, 1), test_clips=4, baseline_clips=4)

MODELS = {
    'autoencoder': VideoLSTM.autoencoder,
    'conditional autoencoder': partial(VideoLSTM.autoencoder, conditional=True),
    'future predictor': VideoLSTM.future_predictor,
    'composite': VideoLSTM.composite,
    'conditional future predictor': partial(VideoLSTM.future_predictor, conditional=True),
    'composite, conditional future predictor': partial(VideoLSTM.composite, conditional_future=True),
}
BASELINES = 'last frame', 'mean frame'
CONDITIONING = (
    'A conditional decoder gets no frame at its first step and the frame before at each later one: in training the '
    'true frame (teacher forcing), in `scores` its own output, as probabilities. `teacher_forced` has its nats per '
    'frame with true frames, as in training.')
SHOWN = 3 # test clips whose frames are kept, of the first seed


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
    scores = evaluate(predictor, test).to_dict()
    context.note(scores=scores.pop('conventions'))
    if name == 'last frame': context.keep_pictures(**dict(zip(('past', 'future'), test.read(0, min(SHOWN, len(test))))))
    return dict(kind='baseline', model=name, scores=scores)


def trained(
    context, # of `run`; inside of a part
    test, # clips
    name: str, # one of MODELS
    *,
    seed: int, # of first weights and clips
) -> dict: # a row
    "One of the models, trained and measured."
    s = context.settings
    model = MODELS[name](hidden_size=s.units, num_layers=s.layers, seed=seed)
    options = dict(steps=s.steps, recipe=s.recipe, batch_size=s.batch, lr=s.lr, precision=s.precision)
    history = context.train(model, context.train_clips(seed=seed), **options)
    model.eval()
    if seed == s.seeds[0]: context.keep_pictures(**frames(model, *test.read(0, min(SHOWN, len(test)))))
    scores = evaluate(model, test).to_dict()
    del scores['conventions'] # noted once
    about = dict(kind='model', model=name, seed=seed, parameters=sum(p.numel() for p in model.parameters()))
    return about | dict(scores=scores, teacher_forced=teacher_forced(model, test),
                        training=training_of(history) | dict(losses=thinned(history)))


def run(context):
    "Baselines, then all models of the first seed, of the second, ...: a run that is cut is balanced."
    s = context.settings
    test = context.test_clips(s.test_clips, seed=s.test_seed)
    context.note(conditioning=CONDITIONING, models=list(MODELS))
    for name in BASELINES: context.part(name, partial(baseline, context, test, name))
    for seed in s.seeds:
        for name in MODELS: context.part(f'{name}, seed {seed}', partial(trained, context, test, name, seed=seed))

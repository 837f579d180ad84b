"""Which model predicts best: one that reconstructs, predicts, or does both, with decoders that see their last frame or do not?

Section 3.4 of the paper (comparison of model variants), on moving digits: six models of one size get one budget, three times, each time with other first weights
and other training clips. Within a seed all models see the same clips, so that their differences can be taken seed by seed. All are measured on one test set,
free-running: a conditional decoder sees its own output. For conditional models the nats under teacher forcing are kept, too, on the same clips.
"""
import torch

from lstm_video_repr.metrics import LastFrame, MeanFrame, evaluate, nats_per_frame
from lstm_video_repr.models import VideoLSTM

NAME = 'design'
SETTINGS = dict(units=128, layers=1, steps=750, batch=64, recipe='adam', lr=3e-3, precision='auto', seeds=(0, 1, 2),
                test_clips=1000, test_seed=2015, baseline_clips=1000)
QUICK = dict(units=8, steps=3, batch=4, seeds=(0, 1), test_clips=4, baseline_clips=4)

MODELS = {
    'autoencoder': VideoLSTM.autoencoder,
    'conditional autoencoder': lambda **k: VideoLSTM.autoencoder(conditional=True, **k),
    'future predictor': VideoLSTM.future_predictor,
    'composite': VideoLSTM.composite,
    'conditional future predictor': lambda **k: VideoLSTM.future_predictor(conditional=True, **k),
    'composite, conditional future predictor': lambda **k: VideoLSTM.composite(conditional_future=True, **k),
}
CONDITIONING = ('A conditional decoder gets no frame at its first step and the frame before at each later one: in training the true frame (teacher forcing), '
                'in `scores` its own output, as probabilities. `teacher_forced` has its nats per frame with true frames, as in training.')
SHOWN = 3 # test clips whose frames are kept, of the first seed


@torch.no_grad()
def teacher_forced(
    model: VideoLSTM, # any
    clips, # with `.batches(batch_size)`, of finite length
    batch_size: int = 50, # clips at a time
) -> dict: # 'reconstruction' and 'future' -> (T,) nats of each frame, in the clip's own order; None for a decoder that is missing or unconditional
    "Nats per frame of decoders that are shown the true frame before, as in training."
    totals, n = {}, 0
    for past, future in clips.batches(batch_size):
        state = model.encode(past)
        for task, decoder, target in (('reconstruction', model.reconstruction_decoder, past.flatten(2).flip(1)), ('future', model.future_decoder, future.flatten(2))):
            if decoder is None or not decoder.conditional: continue
            totals[task] = totals.get(task, 0) + nats_per_frame(decoder.forced(state, target), target) * len(past)
        n += len(past)
    found = {task: totals[task] / n if task in totals else None for task in ('reconstruction', 'future')}
    if found['reconstruction'] is not None: found['reconstruction'] = found['reconstruction'].flip(0) # emitted last frame first
    return found


@torch.no_grad()
def frames(
    model: VideoLSTM, # any
    past: torch.Tensor, # (B, T, *frame)
    future: torch.Tensor, # (B, T', *frame)
) -> dict: # name -> (B, T, *frame): 'reconstruction' in the clip's own order, 'future', 'forced' (the future, shown the truth), those there are
    "What a model shows."
    out, found = model(past, future_steps=future.shape[1]), {}
    if out.reconstruction is not None: found['reconstruction'] = out.reconstruction.flip(1)
    if out.future is not None: found['future'] = out.future
    if model.config.conditional_future: found['forced'] = model.future_decoder.forced(model.encode(past), future.flatten(2)).sigmoid().view_as(future)
    return found


def thinned(history, points=50):
    "A training's losses, averaged to about so many points."
    size, taken = max(1, -(-len(history.rows) // points)), []
    for i in range(0, len(history.rows), size):
        some = history.rows[i:i + size]
        mean = lambda k: None if some[0].get(k) is None else sum(r[k] for r in some) / len(some)
        taken.append(dict(step=some[-1]['step'], reconstruction=mean('reconstruction'), future=mean('future')))
    return taken


def run(context):
    "Baselines, then all models of the first seed, of the second, ...: a run that is cut is balanced."
    s = context.settings
    test = context.test_clips(s.test_clips, seed=s.test_seed)
    past, future = test.batch(min(SHOWN, len(test)))
    context.note(conditioning=CONDITIONING, models=list(MODELS))

    def baseline(name):
        predictor = LastFrame() if name == 'last frame' else MeanFrame.from_clips(context.train_clips(seed=s.seeds[0]), s.baseline_clips)
        scores = evaluate(predictor, test, len(test)).to_dict()
        context.note(scores=scores.pop('conventions'))
        if name == 'last frame': context.keep_pictures(past=past, future=future)
        return dict(kind='baseline', model=name, scores=scores)

    def one(name, seed):
        model = MODELS[name](hidden_size=s.units, num_layers=s.layers, seed=seed)
        history = context.train(model, context.train_clips(seed=seed), steps=s.steps, recipe=s.recipe, batch_size=s.batch, lr=s.lr, precision=s.precision)
        model.eval()
        if seed == s.seeds[0]: context.keep_pictures(**frames(model, past, future))
        last, scores = history.rows[-1], evaluate(model, test, len(test)).to_dict()
        del scores['conventions'] # noted once
        return dict(kind='model', model=name, seed=seed, parameters=sum(p.numel() for p in model.parameters()), scores=scores, teacher_forced=teacher_forced(model, test),
                    training=dict(steps=last['step'], clips=last['clips'], seconds=last['seconds'], losses=thinned(history)))

    for name in ('last frame', 'mean frame'): context.part(name, lambda name=name: baseline(name))
    for seed in s.seeds:
        for name in MODELS: context.part(f'{name}, seed {seed}', lambda name=name, seed=seed: one(name, seed))

"""A class of digits that was held out in training: is it remembered and predicted as well as the others?

Two composites, one trained on all digits, one on all but one class, see as many clips, as in the experiment `design`,
whose composite is taken where it has been trained at this size and budget. Both are measured on clips of nothing but
that class and on clips of all the others. Some classes are harder than others for any model; what the class costs
*because* it was never seen is the difference of the differences.
"""
from functools import partial

from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.digits import load_digits

from experiments.design import AVERAGE, averaged, find_model, fresh, train_average
from experiments.far import CONVENTIONS, NEAR, PAST, known_to_reader, look, train_reader

NAME = 'unseen'
SETTINGS = dict(digit=4, units=512, layers=1, clips=500_000, batch=128, lr=2e-3, precision='auto', seeds=(0, 1),
                test_clips=400, reader_steps=1500, test_seed=2016)
QUICK = dict(units=8, clips=8, batch=4, seeds=(0,), test_clips=2, reader_steps=3)


def trained(
    context, # of `run`; inside of a part
    without: bool, # leave the class out?
    *,
    seed: int, # of first weights and clips
): # the `VideoLSTM`, on the CPU, and the clips it saw
    "A model of averaged weights: that of `design`, if it has one of this kind, else trained here."
    s = context.settings
    steps, size = max(1, s.clips // s.batch), dict(layers=s.layers, seed=seed)
    budget, seen = dict(batch=s.batch, lr=s.lr), steps * s.batch
    found = None if without else find_model(context, 'composite', units=s.units, clips=seen, **size, **budget)
    if found is not None: return found.cpu().eval(), seen
    images, labels = load_digits(context.digits, 'train')
    model = fresh('composite', units=s.units, **size)
    clips = MovingDigits(images[labels != s.digit] if without else images, seed=seed, device=context.device)
    history = train_average(context, model, clips, steps=steps, precision=s.precision, **budget)
    return averaged(model).cpu(), history.rows[-1]['clips']


def one(context, without, *, seed):
    "A row: a model, measured on clips of the class and on clips of the others."
    s, (model, clips) = context.settings, trained(context, without, seed=seed)
    reader = train_reader(*load_digits(known_to_reader(context.digits), 'train'), s.reader_steps, seed=seed)
    images, labels = load_digits(context.digits, 'test')
    found = {}
    for name, keep in {'this class': labels == s.digit, 'other classes': labels != s.digit}.items():
        source = MovingDigits(images[keep], seed=s.test_seed, past=PAST, future=NEAR)
        found[name] = look(model, source, labels[keep], n_clips=s.test_clips, reader=reader)
    return dict(digit=s.digit, left_out=without, seed=seed, clips=clips, **found)


def run(context):
    "With the class, then without, seed by seed."
    context.note(conventions=CONVENTIONS, average=AVERAGE)
    for seed in context.settings.seeds:
        for without in (False, True):
            part = f'class {context.settings.digit} {"left out" if without else "seen"}, seed {seed}'
            context.part(part, partial(one, context, without, seed=seed))

"""A class of digits that was held out in training: is it remembered and predicted as well as the others?

Two small models, one trained on all digits, one on all but one class, see as many clips. Both are measured on clips of
nothing but that class and on clips of all the others. Some classes are harder than others for any model; what the class
costs *because* it was never seen is the difference of the differences.
"""
from functools import partial

from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.digits import load_digits
from lstm_video_repr.models import VideoLSTM

from experiments.far import CONVENTIONS, NEAR, PAST, known_to_reader, look, train_reader

NAME = 'unseen'
SETTINGS = dict(digit=4, units=128, steps=1000, batch=64, clips=100, reader_steps=1500, test_seed=2016, seed=0)
QUICK = dict(units=8, steps=2, batch=4, clips=2, reader_steps=3)


def trained(
    context, # of `run`; inside of a part
    without: bool, # leave the class out?
): # the `VideoLSTM`, on the CPU, and the steps it took
    "A small model."
    s = context.settings
    images, labels = load_digits(context.digits, 'train')
    model = VideoLSTM.composite(hidden_size=s.units, seed=s.seed)
    clips = MovingDigits(images[labels != s.digit] if without else images, seed=s.seed, device=context.device)
    history = context.train(model, clips, steps=s.steps, batch_size=s.batch)
    return model.cpu().eval(), history.rows[-1]['step']


def one(context, without):
    "A row: a model, measured on clips of the class and on clips of the others."
    s, (model, steps) = context.settings, trained(context, without)
    reader = train_reader(*load_digits(known_to_reader(context.digits), 'train'), s.reader_steps, seed=s.seed)
    images, labels = load_digits(context.digits, 'test')
    found = {}
    for name, keep in {'this class': labels == s.digit, 'other classes': labels != s.digit}.items():
        source = MovingDigits(images[keep], seed=s.test_seed, past=PAST, future=NEAR)
        found[name] = look(model, source, labels[keep], n_clips=s.clips, reader=reader)
    return dict(digit=s.digit, left_out=without, seed=s.seed, steps=steps, **found)


def run(context):
    "With the class, then without."
    context.note(conventions=CONVENTIONS)
    for without in (False, True):
        part = f'class {context.settings.digit} {"left out" if without else "seen"}'
        context.part(part, partial(one, context, without))

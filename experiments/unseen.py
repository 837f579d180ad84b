"""A class of digits that was held out in training: is it remembered and predicted as well as the others?

Two small models, one trained on all digits, one on all but one class, see as many clips. Both are measured on clips of nothing but that class and on clips of all
the others. Some classes are harder than others for any model; what the class costs *because* it was never seen is the difference of the differences.
"""
from lstm_video_repr.clips import MovingDigits, load_digits
from lstm_video_repr.models import VideoLSTM

from experiments.far import CONVENTIONS, NEAR, PAST, known_to_reader, look, train_reader

NAME = 'unseen'
SETTINGS = dict(digit=4, units=128, steps=1000, batch=64, clips=100, reader_steps=1500, test_seed=2016, seed=0)
QUICK = dict(units=8, steps=2, batch=4, clips=2, reader_steps=3)


def run(context):
    "With the class, then without."
    s = context.settings
    context.note(conventions=CONVENTIONS)

    def one(without):
        images, labels = load_digits(context.digits, 'train')
        model = VideoLSTM.composite(hidden_size=s.units, seed=s.seed)
        clips = MovingDigits(images[labels != s.digit] if without else images, seed=s.seed, device=context.device)
        history = context.train(model, clips, steps=s.steps, batch_size=s.batch)
        model = model.cpu().eval()
        reader = train_reader(*load_digits(known_to_reader(context.digits), 'train'), s.reader_steps, s.seed)
        images, labels = load_digits(context.digits, 'test')
        found = {}
        for name, keep in {'this class': labels == s.digit, 'other classes': labels != s.digit}.items():
            source = MovingDigits(images[keep], seed=s.test_seed, past=PAST, future=NEAR)
            found[name] = look(model, source, labels[keep], s.clips, reader)
        return dict(digit=s.digit, left_out=without, seed=s.seed, steps=history.rows[-1]['step'], **found)

    for without in (False, True): context.part(f'class {s.digit} {"left out" if without else "seen"}', lambda without=without: one(without))

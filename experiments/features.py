"""What can be read out of the representation by a straight line: place, motion and class of the digits, \
beside pixels and a random encoder?

The paper looks at features and activity (section 3.2, visualising features) and lets classifiers judge the
representation (section 3.3). Here a linear read-out does, fitted to clips of training digits and judged on clips of
test digits: what it finds is in the representation openly, needing no more than a weighted sum. The last part asks each
unit by itself how much of what it does depends on place, direction and class.
"""
import hashlib
from functools import partial

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lstm_video_repr.clips import random_paths
from lstm_video_repr.digits import load_digits
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import load_pretrained

NAME = 'features'
SETTINGS = dict(model='bundled', train_clips=1500, test_clips=500, unit_clips=1500, seeds=(0, 1, 2), test_seed=4000)
QUICK = dict(train_clips=24, test_clips=12, unit_clips=40, seeds=(0,))
PAST = 10 # frames that a model is shown
ALPHAS = np.logspace(-5, 3, 17) # penalties to choose from
GROWTH = 1 / 15, 1 / 5, 2 / 3, 2 # times `train_clips`: to how many clips read-outs are fitted, to see who catches up

FEATURES = ('h', 'c', 'h and c', 'random h and c', 'last frame', 'ten frames')
CONVENTIONS = dict(
    features="h, c: output and cell of the encoder's top layer after the last frame shown. Random: the same "
             "architecture with the weights a training begins with. Pixels: of the last frame shown, or of all of "
             "them. h and c are scaled to variance 1, pixels are not; nothing is cut off.",
    readout='Ridge regression; for each target the penalty is the one of least leave-one-out error on the training '
            'clips. Classes are regressed as 0 and 1, the largest wins.',
    one="`place`: R2 of the digit's corner in the last frame shown, mean of row and column; `place_error`: median "
        "distance in pixels. `velocity`: R2 of its last step before that frame; `angle_error`: median angle between "
        "true and read-out step, 90 degrees is chance. `class`: share of digits named rightly, a tenth is chance.",
    two='Both digits have different classes. `mean_place`, `mean_velocity`: R2 of the mean of both, which no order '
        'changes. `lower_place`, `higher_place`: R2 of the corner of the digit of the lower and of the higher class: '
        'what and where have to be read out together. `classes`: area under the ROC curve, mean of ten read-outs of '
        'whether a class is there, one half is chance. `pair`: share of clips in which the two largest are right.',
    growth="`scores` of `place` (R2), `velocity` (R2) and `class`, from clips of one digit, fitted to the first `clips` "
           "of a larger set, by feature; every entry is a list as long as `clips`.",
    units='For each unit, on clips of one test digit: the share of its variance at the last frame shown (of h) that '
          'lies between groups, adjusted for their number (0 is chance): 36 places (6 x 6), 8 directions, 10 '
          'classes. `row`, `column`, `down`, `right`: correlation with the corner and with the last step.')


# ---- clips, and what is true of them

def scene(
    source, # a `MovingDigits`
    labels: Tensor, # (digits of the source,) their classes
    n: int, # clips that are wanted
    *,
    distinct: bool = False, # only clips whose digits have different classes
) -> tuple[Tensor, dict]: # clips (n, T, 1, S, S); 'place', 'velocity' (n, N, 2) in pixels, 'class' (n, N)
    "The first `n` clips of a source and what happens in them at the last frame of the past, digits in order of class."
    kept, first = [], 0
    while sum(len(k[0]) for k in kept) < n:
        classes, path = plans(source, labels, first, n=n)
        keep = (classes.diff(dim=1) > 0).all(1) if distinct else torch.ones(n, dtype=torch.bool)
        clips, path = source.clips(first, n)[keep, :source.past], path[keep]
        kept.append((clips, path[:, :, -1], path[:, :, -1] - path[:, :, -2], classes[keep]))
        first += n
    clips, place, velocity, classes = (torch.cat(k)[:n] for k in zip(*kept))
    return clips, dict(place=place.float(), velocity=velocity.float(), **{'class': classes})


def plans(source, labels, first, *, n):
    "Classes (n, N) of the digits of some clips, in order, and their paths through the past, (n, N, T, 2) in pixels."
    which, _ = source.plan(first, n)
    turns = torch.arange(first * source.n_digits, (first + n) * source.n_digits).view(n, -1)
    room = source.image_size - torch.tensor(source.digits.shape[1:])
    path = random_paths(source.seed, turns, source.past, speed=source.speed) * room
    classes, order = labels[which].sort(dim=1, stable=True)
    return classes, path.gather(1, order[..., None, None].expand_as(path))


@torch.no_grad()
def last_state(
    model: VideoLSTM, # any
    clips: Tensor, # (n, T, 1, S, S)
    *,
    batch: int = 100, # clips at a time
) -> tuple[Tensor, Tensor]: # h and c of the encoder's top layer, each (n, H)
    "What is in memory after the last frame."
    return tuple(torch.cat(s) for s in zip(*((h[-1], c[-1]) for h, c in map(model.encode, clips.split(batch)))))


def represent(
    model: VideoLSTM, # the one that is judged
    control: VideoLSTM, # the same with random weights
    clips: Tensor, # (n, T, 1, S, S)
) -> dict[str, Tensor]: # one of FEATURES -> (n, values)
    "What the read-outs are given."
    h, c = last_state(model, clips)
    return {'h': h, 'c': c, 'h and c': torch.cat([h, c], 1), 'random h and c': torch.cat(last_state(control, clips), 1),
            'last frame': clips[:, -1].flatten(1), 'ten frames': clips.flatten(1)}


# ---- reading out

def rotated(
    train: Tensor, # (n, d)
    test: Tensor, # (m, d)
    scale: bool, # give every column variance 1?
) -> tuple[np.ndarray, np.ndarray]: # (n, at most n), (m, the same)
    """Centred on the training points; where there are more columns than points, seen along all axes of these.

    Distances between training points, and scalar products with them, are kept: a ridge regression cannot tell this
    from the original."""
    mean = train.mean(0)
    spread = train.std(0).clamp(min=1e-6) if scale else torch.ones(())
    train, test = (((x - mean) / spread).float() for x in (train, test))
    if train.shape[1] > len(train):
        values, axes = torch.linalg.eigh((train @ train.T).double())
        keep = values > values[-1] * 1e-6
        root = values[keep].sqrt()
        train, test = axes[:, keep] * root, (test @ train.T).double() @ axes[:, keep] / root
    norm = train.square().sum(1).mean().sqrt()
    return (train / norm).numpy().astype(np.float64), (test / norm).numpy().astype(np.float64)


def r2(
    truth: np.ndarray, # (n, k)
    found: np.ndarray, # (n, k)
) -> float: # 1 is perfect, 0 as good as the mean
    "Share of the variance that is explained, mean over columns."
    return float((1 - ((truth - found)**2).sum(0) / ((truth - truth.mean(0))**2).sum(0)).mean())


def targets(
    truth: dict, # as `scene` gives it
) -> dict: # name -> (n, k) numbers
    "What is read out."
    n, N = truth['class'].shape
    there = torch.zeros(n, 10).scatter_(1, truth['class'], 1.)
    place, velocity = truth['place'], truth['velocity']
    if N == 1: return dict(place=place[:, 0], velocity=velocity[:, 0], classes=there)
    means = dict(mean_place=place.mean(1), mean_velocity=velocity.mean(1))
    return means | dict(lower_place=place[:, 0], higher_place=place[:, 1], classes=there)


def scores(
    found: dict, # name -> (n, k) numbers that were read out
    truth: dict, # as `scene` gives it
) -> dict: # see CONVENTIONS
    "How good the read-outs are."
    true = {k: v.numpy() for k, v in targets(truth).items()}
    result = {k: r2(true[k], found[k]) for k in true if k != 'classes'}
    more = scores_of_one if truth['class'].shape[1] == 1 else scores_of_two
    return result | more(found, true, truth['class'].numpy())


def scores_of_one(found, true, classes):
    "Distances, angles and names."
    off = np.linalg.norm(found['place'] - true['place'], axis=1)
    sizes = (np.linalg.norm(v['velocity'], axis=1).clip(1e-9) for v in (found, true))
    cosine = (found['velocity'] * true['velocity']).sum(1)
    for size in sizes: cosine = cosine / size
    angle, right = np.degrees(np.arccos(cosine.clip(-1, 1))), found['classes'].argmax(1) == classes[:, 0]
    return {'place_error': float(np.median(off)), 'angle_error': float(np.median(angle)), 'class': float(right.mean())}


def scores_of_two(found, true, classes):
    "Which classes are there? For a class that is in all clips or in none there is no curve."
    there, said = true['classes'], found['classes']
    some = [k for k in range(10) if 0 < there[:, k].sum() < len(there)]
    named = np.sort(said.argsort(1)[:, -2:], 1)
    return dict(classes=float(np.mean([roc_auc_score(there[:, k], said[:, k]) for k in some])),
                pair=float((named == classes).all(1).mean()))


def read_out(
    train: tuple[Tensor, dict], # features (n, d) of the training clips, and their truth as `scene` gives it
    test: tuple[Tensor, dict], # (m, d), and their truth
    *,
    scale: bool, # see `rotated`
) -> dict: # see CONVENTIONS
    "Fit on training clips, judge on test clips."
    x, x_test = rotated(train[0], test[0], scale)
    y = targets(train[1])
    width = np.cumsum([v.shape[1] for v in y.values()])
    ridge = RidgeCV(ALPHAS, alpha_per_target=True).fit(x, torch.cat(list(y.values()), 1).numpy().astype(np.float64))
    return scores(dict(zip(y, np.split(ridge.predict(x_test), width[:-1], axis=1))), test[1])


# ---- unit by unit

def between(
    x: Tensor, # (n, H)
    groups: Tensor, # (n,) int64
) -> Tensor: # (H,): 1 if the groups determine the value, about 0 if they say nothing
    "Share of each column's variance that lies between groups, adjusted for their number (epsilon squared)."
    x = x.double() - x.double().mean(0)
    sums = torch.zeros(int(groups.max()) + 1, x.shape[1], dtype=x.dtype).index_add_(0, groups, x)
    counts = torch.bincount(groups).double()
    there = counts > 0
    n, k, total = len(x), int(there.sum()), x.square().sum(0)
    within = total - (sums[there]**2 / counts[there, None]).sum(0)
    return torch.where(total > 1e-12, 1 - within / total.clamp(min=1e-12) * (n - 1) / max(1, n - k), 0.)


def place_groups(place, room, side=6):
    "Which of side x side fields a corner (n, 2) is in."
    return ((place / room * side).long().clamp(0, side - 1) * torch.tensor([side, 1])).sum(1)


def direction_groups(velocity, n=8):
    "Which of n sectors a step (n, 2) goes to; 0 is right, then clockwise."
    return ((torch.atan2(velocity[:, 0], velocity[:, 1]) / (2 * np.pi) * n).round().long()) % n


def tuning(
    h: Tensor, # (n, H) outputs at the last frame shown
    truth: dict, # of clips of one digit, as `scene` gives it
    room: Tensor, # (2,) pixels that a corner can move through
) -> dict: # name -> (H,), see CONVENTIONS
    "What each unit reacts to."
    place, velocity = truth['place'][:, 0], truth['velocity'][:, 0]
    z = (h - h.mean(0)) / h.std(0).clamp(min=1e-6)
    correlation = lambda y: (z * ((y - y.mean()) / y.std())[:, None]).sum(0) / (len(z) - 1)
    groups = {'place': place_groups(place, room), 'direction': direction_groups(velocity)}
    groups['class'] = truth['class'][:, 0]
    lines = dict(row=place[:, 0], column=place[:, 1], down=velocity[:, 0], right=velocity[:, 1])
    return ({k: between(h, v) for k, v in groups.items()} | {k: correlation(v) for k, v in lines.items()} |
            dict(spread=h.std(0)))


# ---- the experiment

def fingerprint(
    model: VideoLSTM, # any
) -> str: # 12 hexadecimal digits
    "To tell whether weights are the same."
    digest = hashlib.sha256()
    for name, t in sorted(model.state_dict().items()):
        digest.update(name.encode() + t.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def control_of(model, seed): return VideoLSTM(model.config, torch.Generator().manual_seed(seed)).eval()


def labels_of(context, split): return load_digits(context.digits, split)[1]


def material(
    context, # of `run`; inside of a part
    model: VideoLSTM, # the one that is judged
    n_digits: int, # 1 or 2
    *,
    seed: int, # of clips, and of the control's weights
    train_clips: int, # how many to fit to
) -> tuple[dict, dict]: # 'train' and 'test' -> what `represent` and what `scene` give
    "Clips of training digits to fit to and of test digits to judge by, and all FEATURES of them."
    s, control = context.settings, control_of(model, seed)
    sources = dict(train=context.train_clips(seed=1000 + seed, n_digits=n_digits),
                   test=context.test_clips(1, n_digits=n_digits, seed=s.test_seed + seed).source)
    sizes = dict(train=train_clips, test=s.test_clips)
    scenes = {k: scene(v, labels_of(context, k), sizes[k], distinct=True) for k, v in sources.items()}
    return {k: represent(model, control, clips) for k, (clips, _) in scenes.items()}, scenes


def read_outs(
    context, # of `run`; inside of a part
    model: VideoLSTM, # the one that is judged
    n_digits: int, # 1 or 2
    *,
    seed: int, # of clips, and of the control's weights
) -> dict: # a row
    "What can be read out of all FEATURES."
    known, scenes = material(context, model, n_digits, seed=seed, train_clips=context.settings.train_clips)
    found = {f: read_out(*((known[k][f], scenes[k][1]) for k in scenes), scale='frame' not in f) for f in FEATURES}
    return dict(kind='readout', digits=n_digits, seed=seed, scores=found)


def growth_of(
    context, # of `run`; inside of a part
    model: VideoLSTM, # the one that is judged
    *,
    seed: int, # of clips, and of the control's weights
) -> dict: # a row
    "Read-outs from more and more clips of one digit: do pixels catch up with the memory?"
    sizes = [max(8, round(part * context.settings.train_clips)) for part in GROWTH]
    known, scenes = material(context, model, 1, seed=seed, train_clips=max(sizes))
    def fitted_to(n, f):
        truth = {k: v[:n] for k, v in scenes['train'][1].items()}
        test = known['test'][f], scenes['test'][1]
        return read_out((known['train'][f][:n], truth), test, scale='frame' not in f)
    found = {f: [fitted_to(n, f) for n in sizes] for f in FEATURES if f not in ('h', 'c')}
    kept = {f: {k: [row[k] for row in v] for k in ('place', 'velocity', 'class')} for f, v in found.items()}
    return dict(kind='growth', digits=1, seed=seed, clips=sizes, scores=kept)


def units_of(
    context, # of `run`; inside of a part
    model: VideoLSTM, # the one that is judged
    name: str, # 'model', or 'random weights'
) -> dict: # a row
    "What each unit reacts to."
    s = context.settings
    source = context.test_clips(1, n_digits=1, seed=s.test_seed).source
    clips, truth = scene(source, labels_of(context, 'test'), s.unit_clips)
    room = (source.image_size - torch.tensor(source.digits.shape[1:])).float()
    h, _ = last_state(model if name == 'model' else control_of(model, s.seeds[0]), clips)
    found = {k: np.round(v.double().numpy(), 3) for k, v in tuning(h, truth, room).items()}
    return dict(kind='units', model=name, clips=s.unit_clips, **found)


def run(context):
    "Read-outs from clips of one digit and of two, seed by seed; then the units of the model and of the control."
    s = context.settings
    model = load_pretrained(None if s.model == 'bundled' else s.model)
    shape = model.config.frame_shape
    if len(shape) != 3: raise ValueError(f'model is {s.model!r}, of frames {shape}; expected one of frames (1, S, S)')
    about = dict(name=s.model, units=model.config.hidden_size, layers=model.config.num_layers)
    context.note(conventions=CONVENTIONS, features=FEATURES,
                 model=about | dict(fingerprint=fingerprint(model), card=dict(model.card)))
    for seed in s.seeds:
        for n, name in {1: 'one digit', 2: 'two digits'}.items():
            context.part(f'{name}, seed {seed}', partial(read_outs, context, model, n, seed=seed))
    for name in ('model', 'random weights'): context.part(f'units, {name}', partial(units_of, context, model, name))
    context.part('growth', partial(growth_of, context, model, seed=s.seeds[0]))

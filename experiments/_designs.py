"""What the experiment `design` has found: its file read, and its models compared seed by seed.

Earlier files had one budget, and no models that were trained on their own frames; they are read all the same."""
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from lstm_video_repr.core.tables import Table

from experiments.design import MODELS, OWN

PAPER = {'future predictor': 350.2, 'composite': 344.9, 'conditional future predictor': 343.5,
         'composite, conditional future predictor': 341.2} # nats per predicted frame (section 3.4)
ALONE, ALSO, SEER = 'future predictor', 'composite', 'conditional future predictor'
BOTH, TAPE, EYE = 'composite, conditional future predictor', 'autoencoder', 'conditional autoencoder'
QUESTIONS = ( # what was changed, where; with it, without it, measured on
    ('also reconstruct', 'unconditional predictor', ALSO, ALONE, 'future'),
    ('also reconstruct', 'conditional predictor', BOTH, SEER, 'future'),
    ('see the last frame', 'prediction only', SEER, ALONE, 'future'),
    ('see the last frame', 'both tasks', BOTH, ALSO, 'future'),
    ('also predict', 'unconditional predictor', ALSO, TAPE, 'reconstruction'),
    ('also predict', 'conditional predictor', BOTH, TAPE, 'reconstruction'),
    ('see the last frame', 'reconstruction only', EYE, TAPE, 'reconstruction'))


# ---- seeds

def half_width(
    d: np.ndarray, # (n,) a value for each seed
) -> float: # infinite for a single seed
    "Of the 95 % interval of their mean, by Student's rule."
    return student.ppf(.975, len(d) - 1) * d.std(ddof=1) / len(d)**.5 if len(d) > 1 else float('inf')


def verdict(
    d: np.ndarray, # (n,) nats more, seed by seed
) -> str: # 'helps', 'harms', or that one cannot say
    "Is zero inside of the interval?"
    if len(d) < 2: return 'one seed says nothing'
    if abs(d.mean()) <= half_width(d): return 'not told apart'
    return 'helps' if d.mean() < 0 else 'harms'


def pm(
    values: np.ndarray, # a value for each seed
    digits: int = 1,
) -> str: # '' for none
    "Mean and standard deviation over seeds, as text."
    if not len(values): return ''
    return f'{values.mean():.{digits}f}' + (f' ± {values.std(ddof=1):.{digits}f}' if len(values) > 1 else '')


def without_empty(head, lines, align=''):
    "A table without the columns that the file has nothing for."
    kept = [k for k in range(len(head)) if any(line[k] for line in lines)]
    return Table([head[k] for k in kept], [[line[k] for k in kept] for line in lines],
                 align=''.join(align[k] for k in kept) if align else '')


# ---- the file

def read(
    path: Path, # of a design.json
) -> dict: # its results, each model with its layers and clips
    "Results; an earlier form of the file is put into the present one."
    r = json.loads(path.read_text(encoding='utf8'))
    s = r['settings']
    if 'clips' not in s: s |= dict(clips=s['steps'] * s['batch'], layers=[s['layers']])
    for row in r['rows']:
        if row['kind'] != 'model': continue
        row |= dict(layers=row.get('layers', s['layers'][0]), clips=row.get('clips', s['clips']))
    return r


def work(r): return r['finished'], r['settings']['units'] * r['settings']['clips']


class Designs:
    "The largest complete results of a folder: at their largest budget, all seeds that have all six models."
    def __init__(
        self,
        folder: str | Path, # with design.json and design.npz, or several such pairs
    ):
        found = {p: read(p) for p in Path(folder).glob('design*.json')}
        if not found: raise FileNotFoundError(f'{folder} has no design.json: `make experiments ARGS=design` makes it')
        path = max(found, key=lambda p: work(found[p]))
        self.results, self.pictures = found[path], np.load(path.with_suffix('.npz'))
        rows = self.results['rows']
        self.base = {r['model']: r['scores'] for r in rows if r['kind'] == 'baseline'}
        self.every = [r for r in rows if r['kind'] == 'model' and r['scores']]
        done = {(r['layers'], r['clips']) for r in self.every if self.has(r['layers'], r['seed'], r['clips'])}
        if not done: raise ValueError(f'{path} has no seed with all six models yet')
        self.layers = max(l for l, _ in done)               # as in the paper, where there is a choice
        self.budget = max(c for l, c in done if l == self.layers)
        self.seeds = [k for k in self.results['seeds'] if self.has(self.layers, k, self.budget)]
        self.points = sorted({c for l, c in done if l == self.layers and all(self.has(l, k, c) for k in self.seeds)})
        self.arms = [m for m in [*MODELS, *(m + OWN for m in MODELS)] if len(self.rows(m)) == len(self.seeds)]
        self.cured = [m for m in MODELS if m + OWN in self.arms] # also trained on their own frames

    def has(self, layers, seed, clips):
        "Are all six there?"
        there = {r['model'] for r in self.every if (r['layers'], r['seed'], r['clips']) == (layers, seed, clips)}
        return there >= set(MODELS)

    def rows(self, model, clips=None):
        "Those of a model, seed by seed, at the end or at another point."
        like = self.layers, self.budget if clips is None else clips
        found = {r['seed']: r for r in self.every if r['model'] == model and (r['layers'], r['clips']) == like}
        return [found[k] for k in self.seeds if k in found]

    def scores(self, model, task='future', what='nats', clips=None):
        "One number a seed, mean over frames and test clips."
        found = [r['scores'][task] for r in self.rows(model, clips)]
        return np.array([f['overall'][what] for f in found if f is not None])

    def by_frame(self, model, task='future', what='nats'):
        "(seeds, T)"
        found = [r['scores'][task] for r in self.rows(model)]
        return np.array([f['per_frame'][what] for f in found if f is not None])

    def forced(self, model, task='future'):
        "(seeds, T): nats with the true frame before each step."
        found = [r['teacher_forced'][task] for r in self.rows(model)]
        return np.array([f for f in found if f is not None])

    def difference(self, a, b, task='future'):
        "Nats of design a minus nats of design b, seed by seed."
        return self.scores(a, task) - self.scores(b, task)

    def drawn(self, model, what='future'):
        "Frames of some test clips (n, T, 1, 64, 64), of the first seed; 'future' of 'last frame' is the truth."
        part = self.rows(model)[0]['part'] if model in MODELS or model.endswith(OWN) else model
        return torch.from_numpy(self.pictures[f'{part}: {what}'])

    def seeing(self):
        "The questions about the last frame that models trained on their own frames can answer, too."
        return [q for q in QUESTIONS if q[0] == 'see the last frame' and q[2] in self.cured]

    def size(self):
        "Of the models, and of what they were trained on, in words."
        def many(n, word): return f"{n} {word}{'s' * (n > 1)}"
        return ', '.join([f"{self.results['settings']['units']} units", many(self.layers, 'layer'),
                          f'{self.budget:,} clips', many(len(self.seeds), 'seed')])

    def questions(self):
        "All that the file can answer."
        own = [('see it, practised', where, a + OWN, b, task) for _, where, a, b, task in self.seeing()]
        practice = [('train on its own frames', where, a + OWN, a, task) for _, where, a, b, task in self.seeing()]
        return [*QUESTIONS, *own, *practice]

    def test_error(self, model):
        "Standard error over test clips of the nats ahead, mean over seeds, as text; '' where the file has none."
        errors = [(r['scores']['future'] or {}).get('standard_error') for r in self.rows(model)]
        return f"{np.mean([e['nats'] for e in errors]):.1f}" if errors and all(errors) else ''

    def clip_error(self, a, b, task='future'):
        "Standard error over test clips of a difference, mean over seeds, as text; '' where the file has none."
        names = [[f"{r['part']}: {task} nats" for r in self.rows(m)] for m in (a, b)]
        if not all(n in self.pictures.files for n in sum(names, [])): return ''
        x, y = (np.mean([self.pictures[n] / 10 for n in part], 0) for part in names)
        return f'± {(x - y).std(ddof=1) / len(x)**.5:.1f}'


# ---- tables

def about(
    found: Designs,
) -> Table:
    "What was trained, on what, and where."
    r, s, d, m = found.results, found.results['settings'], found.results['digits'], found.results['machine']
    how = 'constant; averaged weights are measured' if 'points' in s else f"recipe {s['recipe']}"
    many = 's' if found.layers > 1 else ''
    return Table(['', 'of the results at hand'], [
        ['models', f"{found.layers} layer{many} of {s['units']} units in the encoder and in each decoder"],
        ['training', f"{found.budget:,} clips in batches of {s['batch']}; rate {s['lr']}, {how}"],
        ['digits', f"{d['name']}: {d['train']:,} to train, {d['test']:,} others to test"],
        ['test', f"{s['test_clips']:,} clips of test digits"],
        ['seeds', f"{', '.join(map(str, found.seeds))}: of the first weights, and of the training clips"],
        *([['also trained on their own frames', ', '.join(found.cured)]] if found.cured else []),
        ['machine', f"{m.get('gpu', m['cpu'])}; {r['seconds'] / 60:.0f} minutes; {r['date'][:10]}"]], align='ll')


def overview(
    found: Designs,
) -> Table:
    "All models, and what never looks, copies, or knows."
    def line(m): return [m, str(PAPER.get(m, '')), pm(found.scores(m)), found.test_error(m), pm(found.scores(m, what='mse')),
                         pm(found.scores(m, what='ssim'), 3), pm(found.scores(m, 'reconstruction'))]
    ends = {name: (b['future']['overall'], b['reconstruction']['overall']) for name, b in found.base.items()}
    def end(name, ahead, back): return [name, '', f"{ahead['nats']:.1f}", '', f"{ahead['mse']:.1f}",
                                        f"{ahead['ssim']:.3f}", f"{back['nats']:.1f}"]
    ahead, back = ends['mean frame']
    floor = ['a perfect prediction', '', f"{ahead['floor']:.1f}", '', '0', '1', f"{back['floor']:.1f}"]
    head = ['', 'paper, nats', 'nats ahead', '± clips', 'MSE ahead', 'SSIM ahead', 'nats back']
    return without_empty(head, [*map(line, found.arms), *(end(name, *b) for name, b in ends.items()), floor])


def differences(
    found: Designs,
) -> Table:
    "Every question: the seeds, their mean and its interval, what follows, and the paper's number."
    lines = []
    for change, where, a, b, task in found.questions():
        d = found.difference(a, b, task)
        width = half_width(d)
        theirs = f'{PAPER[a] - PAPER[b]:+.1f}' if a in PAPER and task == 'future' else ''
        interval = f'{d.mean() - width:+.1f} to {d.mean() + width:+.1f}' if len(d) > 1 else ''
        lines.append([f'{change} ({where})', task, ', '.join(f'{v:+.1f}' for v in d), f'{d.mean():+.1f}', interval,
                      found.clip_error(a, b, task), verdict(d), theirs])
    head = ['change', 'nats of', 'seed by seed', 'mean', '95 % interval', '± clips', 'so it', 'paper']
    return without_empty(head, lines, 'llrrrrlr')


def practice(
    found: Designs, # with models that were trained on their own frames
) -> Table:
    "What is left of the price of a model's own company."
    def line(a, b, task):
        led, own, blind = (found.scores(m, task) for m in (a, a + OWN, b))
        forced = [found.forced(m, task).mean(1) for m in (a, a + OWN)]
        price, left = led.mean() - blind.mean(), own.mean() - blind.mean()
        gone = f'{1 - left / price:.0%}' if price > 0 else 'no price'
        return [a, pm(blind), pm(led), pm(forced[0]), pm(own), pm(forced[1]), gone]
    head = ['nats per frame', 'sees none', 'led', 'led, shown the truth', 'practised', 'practised, shown the truth',
            'price taken away']
    return Table(head, [line(a, b, task) for _, _, a, b, task in found.seeing()])

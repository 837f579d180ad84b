"""The paper's experiments on moving digits, by one command.

    python experiments/run.py                       all of them, in alphabetical order
    python experiments/run.py design                one
    python experiments/run.py design --steps 300    with another setting (--help lists them)
    python experiments/run.py --quick               everything, tiny, within seconds, into another folder
    python experiments/run.py --list                what there is, and what is done

An experiment consists of parts, and each part becomes a row of `experiments/results/NAME.json` as soon as it is done.
Stop whenever you like: the same command goes on where it stopped, in the middle of a training, too (checkpoints lie in
`runs/experiments`; delete that folder when the results are complete). Where an experiment has seeds, several processes
may share the work, each with its own (`--seeds 0`, `--seeds 1`); the whole command at the end finds all done. `load` and
`rows` read what was written.

Real MNIST is used where the environment variable LVR_DATA names a folder that has it, the embedded digits elsewhere;
the results say which.
"""
# How to add an experiment: put one file into this folder, say `mine.py`, with
#
#     "One line that says what is asked."
#     NAME = 'mine'                                   # that of the file: on the command line, and of the results
#     SETTINGS = dict(units=128, seeds=(0, 1, 2))     # become options: --units 64 --seeds 0,1, typed as these are
#     QUICK = dict(units=8, seeds=(0,))               # what --quick changes; a second or two has to be enough
#     def run(context):                               # see `Context`: .settings, .device, .part, .train, .test_clips
#         for seed in context.settings.seeds:
#             def measure(seed=seed):
#                 model = VideoLSTM.composite(hidden_size=context.settings.units, seed=seed)
#                 context.train(model, context.train_clips(seed=seed), steps=100)
#                 return dict(seed=seed, scores=evaluate(model, context.test_clips(100)).to_dict())
#             context.part(f'composite, seed {seed}', measure)
#
# Nothing has to be registered, and tests/test_experiments.py runs it with --quick from then on.
import argparse
import ast
import datetime
import importlib
import json
import re
import shutil
import sys
import time
import traceback
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Callable

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
for folder in (ROOT, ROOT/'tools'):
    if str(folder) not in sys.path: sys.path.insert(0, str(folder))

import results as files
from results import find_digits, plain, select, stamp
from lstm_video_repr.clips import FixedClips, MovingDigits, fixed_test_set
from lstm_video_repr.core.files import lock_file, make_folder, replace_file
from lstm_video_repr.training import Checkpoint, History, train

RESULTS, RUNS = HERE/'results', ROOT/'runs'/'experiments'
REQUIRED = ('name', 'about', 'quick', 'finished', 'settings', 'digits', 'seeds', 'clips_seen', 'seconds', 'date',
            'machine', 'versions', 'rows')
MADE = 'seconds', 'clips_seen', 'date', 'machine', 'versions'
KEPT_EVERY = 100 # steps of a training between two checkpoints


# ---- what there is

def names(
    folder: Path = HERE, # where the experiments are
) -> list[str]: # in alphabetical order
    "Every experiment is a file."
    return sorted(p.stem for p in folder.glob('*.py') if p.stem != 'run' and p.stem[0] not in '_.')


def about(
    name: str, # of an experiment
) -> str: # the first line of its docstring
    "What an experiment asks, read without running its file."
    said = ast.get_docstring(ast.parse((HERE/f'{name}.py').read_text(encoding='utf8')))
    return (said or '').split('\n')[0]


def experiment(
    name: str, # one of `names()`
) -> ModuleType: # with NAME, SETTINGS, QUICK and run
    "Import an experiment. `ValueError` if it lacks something."
    if name not in names(): raise ValueError(f'name is {name!r}; expected one of {", ".join(names())}')
    module = importlib.import_module(f'experiments.{name}')
    file, needed = f'experiments/{name}.py', ('NAME', 'SETTINGS', 'QUICK', 'run', '__doc__')
    missing = [k for k in needed if getattr(module, k, None) is None]
    if missing: raise ValueError(f'{file} lacks {", ".join(missing)}; see the top of experiments/run.py')
    if module.NAME != name: raise ValueError(f'NAME of {file} is {module.NAME!r}; expected that of the file')
    unknown = sorted(set(module.QUICK) - set(module.SETTINGS))
    if unknown: raise ValueError(f'QUICK of {file} has {unknown[0]!r}; expected some of SETTINGS')
    return module


# ---- the file

def load(
    path: str | Path, # a file that this program wrote
) -> dict: # name, settings, ..., rows
    "Results. `OSError` or `ValueError` name the file."
    return files.load(path, REQUIRED, maker=f'python experiments/run.py {Path(path).stem}')


def rows(
    results: dict, # as `load` gives them
    **like, # entries that have to agree: model='composite', seed=0, ...
) -> list[dict]: # the rows that fit
    "Some of the rows."
    return select(results['rows'], **like)


def is_longer(
    value, # of a setting
    old: dict, # earlier results
    name: str, # of the setting
) -> bool: # is it a list of layers that begins like the old one?
    "May a run with this setting go on where that one stopped?"
    before = old['settings'].get(name)
    lists = name == 'layers' and isinstance(value, list) and isinstance(before, list)
    return lists and value[:len(before)] == before


@contextmanager
def alone(
    path: Path, # a file
): # a context
    "Wait until no other process is writing this file, and keep others waiting."
    with ExitStack() as held:
        while True:
            try: held.enter_context(lock_file(path)); break
            except BlockingIOError: time.sleep(.05)
        yield


class Context:
    "What an experiment is given: its settings, and what keeps its parts."
    def __init__(
        self,
        name: str, # of the experiment
        settings: dict, # its settings
        *,
        device: torch.device | str = 'cpu', # where models are trained
        out: Path = RESULTS, # folder of the results
        quick: bool = False, # tiny sizes?
        digits: str = 'auto', # 'mnist', 'embedded', or 'auto' (see `find_digits`)
        fresh: bool = False, # forget what is there
        progress: str | None = 'bar', # of trainings: as for `train`
        about: str = '', # what the experiment asks
    ):
        out = Path(out)
        self.settings, self.device = SimpleNamespace(**settings), torch.device(device)
        self.quick, self.progress = quick, progress
        self.digits = find_digits() if digits == 'auto' else digits
        self.path, self.pictures = out/f'{name}.json', out/f'{name}.npz'
        self.runs = (RUNS if out.resolve() == RESULTS else out/'runs')/name # for checkpoints and logs
        self.results = dict(name=name, about=about, quick=quick, finished=False, settings=plain(settings),
                            digits=self._describe_digits(), seeds=[], clips_seen=0, seconds=0., date=None, machine=None,
                            versions=None, commit=None, notes={}, rows=[])
        if fresh: self._forget()
        if self.path.exists(): self._go_on(load(self.path))
        for folder in (out, self.runs): make_folder(folder)
        self._part, self._arrays = None, {}

    def _forget(self):
        for path in (self.path, self.pictures): path.unlink(missing_ok=True)
        shutil.rmtree(self.runs, ignore_errors=True)

    def _describe_digits(self):
        sizes = {split: len(MovingDigits(self.digits, split=split).digits) for split in ('train', 'test')}
        return dict(name=self.digits) | sizes

    def _go_on(self, old):
        more = [f'settings {k}' for k, v in self.results['settings'].items() if k == 'seeds' or is_longer(v, old, k)]
        for what in ('settings', 'digits'): # more seeds are welcome, and more layers where there is a list of them
            before, now = ({f'{what} {k}': v for k, v in x[what].items()} for x in (old, self.results))
            files.check_same(self.path, before, now, skip=more, hint='--fresh to start anew')
        self.results |= {k: v for k, v in old.items() if k not in ('about', 'settings')}

    @property
    def rows(self) -> list[dict]:
        "The rows so far."
        return self.results['rows']

    def say(
        self,
        text: str, # what happens
    ):
        "A line of progress."
        print(f'[{datetime.datetime.now():%H:%M:%S}] {self.results["name"]}: {text}', flush=True)

    def note(
        self,
        **notes, # name -> whatever a reader of the file should know: conventions, ...
    ):
        "Keep something that holds for all rows; written with the next row."
        self.results['notes'] |= plain(notes)

    def train_clips(
        self,
        seed: int = 0, # which clips
        **options, # of `MovingDigits`: n_digits, past, future, ...
    ) -> MovingDigits: # endless, on the device
        "Clips to train on, of training digits."
        return MovingDigits(self.digits, split='train', seed=seed, device=self.device, **options)

    def test_clips(
        self,
        n_clips: int, # how many
        **options, # of `fixed_test_set`: n_digits, seed, past, future, ...
    ) -> FixedClips: # on the device
        "Clips to test on, of test digits."
        return fixed_test_set(self.digits, n_clips, device=self.device, **options)

    def train(
        self,
        model, # a `VideoLSTM` with fresh weights; trained in place, on the device
        clips, # as for `train`
        name: str | None = None, # of the checkpoint, where a part trains several models
        *,
        resume: bool = True, # go on where an interrupted training stopped
        shared: str | None = None, # name of a training that goes on through several parts
        since: int = 0, # clips of it that belong to parts before
        **options, # of `train`: steps, recipe, batch_size, ...
    ) -> History: # the log
        "`train`, with a checkpoint: interrupted, it goes on where it stopped. To be called inside of a part."
        if self._part is None: raise ValueError('train was called outside of a part; expected a call inside of one')
        path, start = self.checkpoint_of(shared or f'{self._part}-{name or ""}'), time.monotonic()
        kept = Checkpoint(path, every=KEPT_EVERY, resume=resume)
        history = train(model.to(self.device), clips, checkpoint=kept, log=path.with_suffix('.jsonl'),
                        **dict(progress=self.progress) | options)
        last, before = history.rows[-1], [r['seconds'] for r in history.rows if r['clips'] <= since]
        self._clips += last['clips'] - since
        self._earlier += max(0., last['seconds'] - max(before, default=0) - (time.monotonic() - start))
        return history

    def checkpoint_of(
        self,
        part: str, # and, after a dash, the name of the training if it has one
        experiment: str | None = None, # whose; None: of this one
    ) -> Path: # where it is, or would be
        "The checkpoint of a training."
        folder = self.runs if experiment is None else self.runs.parent/experiment
        return folder/(re.sub(r'\W+', '-', part).strip('-') + '.safetensors')

    def keep_pictures(
        self,
        **arrays, # name -> array; float pixels in [0, 1] are kept as bytes
    ):
        "Small arrays to look at later, in NAME.npz beside the JSON as 'part: name'. To be called inside of a part."
        for name, x in arrays.items():
            x = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
            if x.dtype.kind == 'f': x = np.rint(x.clip(0, 1) * 255).astype(np.uint8)
            self._arrays[f'{self._part}: {name}'] = x

    def part(
        self,
        name: str, # of the part, unique in the experiment
        compute: Callable[[], dict], # gives the row; called only if the file has none of that name
    ) -> dict: # the row, with 'part', 'clips_seen' and 'made' (seconds, date, machine, versions)
        "Do a part, unless it is done, and keep its row at once."
        self._take_in()
        for done in select(self.rows, part=name):
            self.say(f'{name}: kept from {done["made"]["date"]}')
            return done
        self.say(name)
        self._part, self._arrays, self._earlier, self._clips, start = name, {}, 0., 0, time.monotonic()
        try: found = compute()
        finally: self._part = None
        seconds = round(time.monotonic() - start + self._earlier, 2)
        made = dict(seconds=seconds, clips_seen=self._clips) | stamp(self.device)
        row = plain(dict(part=name) | found | dict(made=made))
        with alone(self.path):
            self._take_in()
            for done in select(self.rows, part=name): return done # another process was quicker
            self.rows.append(row)
            if self._arrays: self._write_pictures()
            self._write(finished=False)
        self.say(f'{name}: done in {made["seconds"]:.1f} s')
        return row

    def finish(self):
        "Mark the results as complete."
        name = self.results['name']
        if not self.rows: raise ValueError(f'experiment {name!r} has no parts; expected calls of context.part')
        if self.results['finished']: return
        with alone(self.path):
            self._take_in()
            self._write(finished=True)

    def _take_in(self):
        "What other processes have written meanwhile."
        if self.path.exists(): self.results['rows'] = load(self.path)['rows']

    def _write_pictures(self):
        old = dict(np.load(self.pictures)) if self.pictures.exists() else {}
        with replace_file(self.pictures) as temp, open(temp, 'wb') as file:
            np.savez_compressed(file, **old | self._arrays)

    def _write(self, finished):
        made, seeds = [r['made'] for r in self.rows], {r.get('seed') for r in self.rows} - {None}
        self.results |= dict(finished=finished, seeds=sorted(seeds), seconds=round(sum(m['seconds'] for m in made), 2),
                             clips_seen=sum(m['clips_seen'] for m in made))
        self.results |= {k: made[-1].get(k) for k in ('date', 'machine', 'versions', 'commit')}
        files.save_rows(self.path, self.results)


# ---- the command

def typed(
    name: str, # of a setting
    word: str, # what came from the command line
    like, # its default
): # the value, of the type of the default
    "A setting from its text. `ValueError` if it is none."
    def one(w, x):
        if isinstance(x, bool):
            if w not in ('true', 'false'): raise ValueError
            return w == 'true'
        return w if x is None else type(x)(w)
    try: return tuple(one(w, like[0]) for w in word.split(',')) if isinstance(like, tuple) else one(word, like)
    except ValueError: raise ValueError(f'--{name} is {word!r}; expected something like {in_text(like)}') from None


def in_text(value): return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def parser_of(
    modules: dict, # name -> module of the experiments that were chosen
) -> argparse.ArgumentParser: # with their settings, too
    "What the command understands."
    known = ', '.join(names())
    parser = argparse.ArgumentParser(prog='experiments/run.py', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'experiments, of {known} (default: all)')
    parser.add_argument('--list', action='store_true', help='say what there is and what is done, and do nothing')
    parser.add_argument('--quick', action='store_true',
                        help='tiny sizes on embedded digits, into another folder: does everything work?')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='where (default: %(default)s)')
    parser.add_argument('--digits', choices=('auto', 'mnist', 'embedded'),
                        help='auto: MNIST if LVR_DATA has it, else embedded (default: auto; with --quick embedded)')
    parser.add_argument('--out', type=Path,
                        help='folder for results (default: experiments/results; with --quick runs/experiments/quick)')
    parser.add_argument('--fresh', action='store_true',
                        help='forget earlier results and checkpoints of the chosen experiments, and start anew')
    group = parser.add_argument_group('settings of the experiments')
    for key in dict.fromkeys(k for m in modules.values() for k in m.SETTINGS):
        said = '; '.join(f'{n}: {in_text(m.SETTINGS[key])}' for n, m in modules.items() if key in m.SETTINGS)
        group.add_argument(f'--{key.replace("_", "-")}', dest=f'set_{key}', metavar='X', help=f'({said})')
    return parser


def settings_of(
    module: ModuleType, # of an experiment
    args: argparse.Namespace, # as the parser gives them
) -> dict: # the experiment's own, its quick ones, and above all what was asked for
    "The settings of a run. `ValueError` for what is not of the right kind."
    given = {k: w for k in module.SETTINGS if (w := getattr(args, f'set_{k}')) is not None}
    asked = {k: typed(k.replace('_', '-'), w, module.SETTINGS[k]) for k, w in given.items()}
    return module.SETTINGS | (module.QUICK if args.quick else {}) | asked


def parse(
    words: list[str], # of the command line
) -> tuple[argparse.Namespace, dict]: # the options, and name -> module of the experiments that were chosen
    "Options; those of the experiments are known once one knows which."
    chosen = [w for w in words if w in names()] or names()
    modules = {n: experiment(n) for n in dict.fromkeys(chosen) if '--list' not in words}
    parser = parser_of(modules)
    args = parser.parse_args(words)
    wrong = [n for n in args.names if n not in names()]
    if wrong: parser.error(f'there is no experiment {wrong[0]!r}; expected some of {", ".join(names())}')
    if args.device == 'cuda' and not torch.cuda.is_available(): parser.error('--device cuda: torch finds no GPU')
    args.out = args.out or (RUNS/'quick' if args.quick else RESULTS)
    args.digits = args.digits or ('embedded' if args.quick else 'auto')
    try: args.settings = {n: settings_of(m, args) for n, m in modules.items()}
    except ValueError as error: parser.error(str(error))
    return args, modules


def show(
    out: Path, # folder of the results
):
    "What there is and what is done."
    for name in names():
        path, state = out/f'{name}.json', 'not run yet'
        if path.exists():
            found = load(path)
            state = (f'{len(found["rows"])} parts, {"complete" if found["finished"] else "not complete"}, '
                     f'{found["digits"]["name"]} digits, {found["seconds"]/60:.1f} minutes, {found["date"][:10]}')
        print(f'{name:10} {about(name)}\n{"":10} {state}')


def where(
    error: Exception, # that was raised
) -> str: # ' (experiments/design.py, line 70)', or nothing
    "The experiment's own line."
    frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    own = [(path.name, line) for path, line in frames if path.parent == HERE and path.name != 'run.py']
    return ' (experiments/{}, line {})'.format(*own[-1]) if own else ''


def main(
    words: list[str] | None = None, # the command line; None: that of the process
) -> int: # exit status: 0, 1 for an error that was named, 130 for an interruption
    "Run experiments."
    try:
        args, modules = parse(sys.argv[1:] if words is None else words)
        if args.list: show(args.out)
        for name, module in modules.items():
            options = dict(device=args.device, out=args.out, quick=args.quick, digits=args.digits, fresh=args.fresh)
            options |= dict(progress=None if args.quick else 'bar', about=about(name))
            context = Context(name, args.settings[name], **options)
            d, settings = context.results['digits'], json.dumps(context.results['settings'])
            digits = f'{d["name"]} digits ({d["train"]} to train, {d["test"]} to test)'
            context.say(f'{digits}, {settings}, on {args.device}')
            module.run(context)
            context.finish()
            context.say(f'complete: {context.path}')
    except KeyboardInterrupt:
        print('\nstopped; what is done is kept, and the same command goes on from here', flush=True)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f'error: {error}{where(error)}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

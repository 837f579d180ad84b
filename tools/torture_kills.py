"""Campaign `kills`: trainings and writers that end at each call that writes: killed, out of disk, interrupted.

Each case happens in a forked process. Then the same is asked for again: weights, history and log have to be, bit by
bit, what they are without an end; what was there before is whole at every point; nothing is left behind."""
import errno
import json
import os
import random
import resource
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from lstm_video_repr.core.files import read_safetensors, write_json
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import Checkpoint, History, Recipe, Run, train
from lstm_video_repr.zoo import save_authors_checkpoint, save_model
from torture_common import Campaign, Verdict, judge_error, limits, workplace

WRITING = set('os.rename os.remove os.mkdir os.rmdir os.truncate os.chmod os.chown os.link os.symlink fcntl.flock '
              'fcntl.lockf'.split()) # events that Python tells of, beside opening and what `watch_fsync` tells
ENDS = 'kill', 'term', 'interrupt', 'full', 'broken'
STEPS = 6


# ---- the end of a process

def bring_end(
    end: str, # one of ENDS
    path, # what was to be written, for errors of the disk; None: not known
) -> None:
    "End here and now, or raise what the system would."
    if end == 'kill': os.kill(os.getpid(), signal.SIGKILL)
    if end == 'term': os.kill(os.getpid(), signal.SIGTERM)
    if end == 'interrupt': raise KeyboardInterrupt
    code = dict(full=errno.ENOSPC, broken=errno.EIO).get(end)
    if code: raise OSError(code, os.strerror(code), *[str(path)] * (path is not None))


class Trigger:
    "Counts calls that write, and brings the end at one of them."
    def __init__(self, end, at): self.end, self.at, self.seen, self.log = end, at, 0, []

    def __call__(self, event, path=None):
        self.seen += 1
        self.log.append(f'{event} {Path(str(path)).name if path is not None else ""}')
        if self.seen == self.at: bring_end(self.end, path)

    def hear(self, event, args):
        "A hook for `sys.addaudithook`."
        if event == 'open':
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            named = isinstance(path, (str, bytes)) and not os.fsdecode(path).startswith(('/dev', '/proc'))
            if writes and named: self('open', path)
        elif event in WRITING: self(event, args[0] if isinstance(args[0], (str, bytes)) else None)


def watch_fsync(trigger):
    "Tell of what Python tells nobody."
    fsync = os.fsync
    def told(f):
        trigger('fsync')
        return fsync(f)
    os.fsync = told


def limit_files(end, size):
    "From here on no file may be longer: the writing process is killed in the middle, or is told that the disk is full."
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if end == 'kill' else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# ---- a forked process

class Outcome(NamedTuple):
    "What a process said before its end."
    code: int # exit code; negative: the number of a signal
    said: list # lines

    @property
    def steps(self) -> int: return max([int(s[5:]) for s in self.said if s.startswith('step ')], default=0)

    @property
    def error(self) -> str: return next((s[6:] for s in self.said if s.startswith('error ')), '')

    @property
    def result(self): return next((json.loads(s[7:]) for s in self.said if s.startswith('result ')), None)


def work_apart(work, end=None, at=None, size=None):
    "What the forked process does; it never comes back."
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    trigger = Trigger(end, at)
    def run(say):
        watch_fsync(trigger)
        sys.addaudithook(trigger.hear)
        if size is not None: limit_files(end, size)
        try: result = work(lambda step: say(f'step {step}'))
        finally: trigger.at = None
        say('result ' + json.dumps(result | dict(events=trigger.log)))
    return run


def fork(
    run, # function of a function that says a line
) -> Outcome:
    "Run in a copy of this process, and hear what it says until its end."
    inner, outer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(inner)
            def say(line): os.write(outer, line.replace('\n', ' ').encode() + b'\n')
            with limits(): run(say)
            code = 0
        except BaseException as error:
            verdict = judge_error(error, ['run.safetensors', 'log.jsonl', 'run.rows'])
            if isinstance(error, (KeyboardInterrupt, SystemExit)): verdict = Verdict('refused')
            say(f'error {verdict.kind} {verdict.words}')
        finally: os._exit(code)
    os.close(outer)
    with os.fdopen(inner) as f: said = f.read().splitlines()
    return Outcome(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)


# ---- trainings

def clips(): return torch.rand(6, 4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def model(): return VideoLSTM.composite(hidden_size=4, frame_shape=(1, 4, 4))


RECIPE = Recipe(batch_size=2, warmup=0)


def train_tiny(tell):
    "A training with checkpoint, log and validation; gives what there is to compare."
    network = model()
    history = train(network, clips(), steps=STEPS, recipe=RECIPE, precision='fp32', progress=None, log='log.jsonl',
                    log_every=2, checkpoint=Checkpoint('run.safetensors', every=2), validate=clips(),
                    callbacks=lambda run: tell(run.step))
    weights = {k: v.numpy().tobytes().hex() for k, v in network.state_dict().items()}
    logged = [json.loads(line) for line in Path('log.jsonl').read_text().splitlines()]
    return dict(weights=weights, rows=timeless(history.rows), logged=timeless(logged))


def timeless(rows): return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


def find_step():
    "Where the checkpoint stands; -1 if there is none."
    if not Path('run.safetensors').exists(): return -1
    run = Run(model(), clips(), STEPS, recipe=RECIPE, precision='fp32')
    run.load('run.safetensors')
    return run.step


def check_training(outcome, again, wanted, *, keeps):
    "What went wrong in a training and in going on with it; None: nothing."
    if outcome.error.startswith('fault'): return outcome.error
    try: step = again['step']
    except KeyError: return f'the checkpoint cannot be read: {again["unread"]}'
    if keeps and max(step, 0) < outcome.steps: return f'lost: {outcome.steps} steps done, {max(step, 0)} saved'
    if again['code']: return f'cannot go on: {again["error"] or again["code"]}'
    other = [k for k in ('weights', 'rows', 'logged') if again['result'][k] != wanted[k]]
    if other: return f'{" and ".join(other)} differ after going on'
    left = [name for name in again['files'] if not name.startswith(('run.safetensors', 'log.jsonl'))]
    return f'left behind: {", ".join(left)}' if left or len(again['files']) > 3 else None


# ---- writers

def page(path):
    from lstm_video_repr.widgets import save_page
    save_page(path, ['text'])


def strip(path):
    from lstm_video_repr.pictures import save_strip
    save_strip(path, torch.zeros(2, 1, 4, 4))


WRITERS = { # a file, and what writes it
    'new.safetensors': lambda path: save_model(model(), path),
    'new.h5': lambda path: save_authors_checkpoint(model(), path),
    'new.json': lambda path: write_json(path, list(range(1000))),
    'new.jsonl': lambda path: History([dict(step=1)]).save(path),
    'new.html': page, 'new.png': strip}


def write(name):
    "A job for a process: write one file."
    def work(tell):
        WRITERS[name](name)
        return {}
    return work


def read(name):
    "What a file holds; where one content can be written in many ways, that."
    if not name.endswith('.safetensors'): return Path(name).read_bytes()
    try: tensors, metadata = read_safetensors(name)
    except OSError as error: return str(error)
    return {k: v.numpy().tobytes() for k, v in tensors.items()} | metadata


def check_writer(name, old, new):
    "What went wrong in writing a file and in writing it again; None: nothing."
    if Path(name).read_bytes() != old and read(name) != new: return 'neither the old file nor the new one'
    again = fork(work_apart(write(name)))
    if again.code: return f'cannot be written again: {again.error}'
    if read(name) != new: return 'another file, written again'
    left = sorted(p.name for p in Path().iterdir() if p.name != name)
    return f'left behind: {", ".join(left)}' if left else None


# ---- the campaign

class Kills(Campaign):
    "Every end at every call that writes; and files that may grow so far and no further."
    name = 'kills'
    sizes = 0, 1, 300, 2000, 4000, 8000 # bytes that a file may have
    most = dict(small=24, large=10**6) # cases that count calls

    def start(self):
        "The uninterrupted ones say how many calls there are, and what is right. Here first: imported once is enough."
        torch.set_num_threads(1)
        self.wanted, self.events = {}, {}
        names = [n for n in WRITERS if self.size == 'large' or not n.endswith(('.html', '.png'))]
        for name in ('training', *names):
            work = train_tiny if name == 'training' else write(name)
            with workplace(): work(lambda step: None)
            with workplace():
                self.wanted[name] = fork(work_apart(work)).result
                self.events[name] = self.wanted[name]['events']
                if name != 'training': self.wanted[name] = read(name)

    def make_cases(self):
        cases = [(name, end, k, None) for name, events in self.events.items() for end in ENDS
                 for k in range(1, len(events) + 1)]
        cases = random.Random(self.seed).sample(cases, min(len(cases), self.most[self.size]))
        return cases + [(name, end, None, size) for name in self.events for end in ('kill', 'full')
                        for size in (self.sizes if self.size == 'large' else [300])]

    def say(self, case):
        name, end, k, size = case
        return f'{name}, {end} at ' + (f'{size} bytes' if k is None else f'{k}: {self.events[name][k - 1]}')

    def judge(self, case):
        name, end, at, size = case
        with workplace():
            if name == 'training': fault = self.judge_training(end, at, size)
            else: fault = self.judge_writer(name, end, at, size)
        return Verdict('fault', fault) if fault else Verdict('harmless')

    def judge_training(self, end, at, size):
        outcome, again = fork(work_apart(train_tiny, end, at, size)), {}
        try: again['step'] = find_step()
        except Exception as e: again['unread'] = str(e)
        second = fork(work_apart(train_tiny))
        again |= dict(code=second.code, error=second.error, result=second.result, files=sorted(os.listdir()))
        keeps = end != 'kill' and size is None # what a process can save at its end, if the disk is full but once
        return check_training(outcome, again, self.wanted['training'], keeps=keeps)

    def judge_writer(self, name, end, at, size):
        old = b'what was there before'
        Path(name).write_bytes(old)
        fork(work_apart(write(name), end, at, size))
        return check_writer(name, old, self.wanted[name])

"""What the campaigns share: cases by number, verdicts, limits of time and memory, a process that may die of a case.

A campaign is a list of cases and a judge; the same case of the same size is the same input on every machine."""
import gc
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from typing import NamedTuple

from lstm_video_repr.core.checks import escape_controls

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 20 # a case may take
MEMORY = 2**30 # bytes of address space that a case may ask for
REFUSALS = ValueError, OSError, FloatingPointError, ImportError # what this package raises for bad input
KINDS = 'refused', 'harmless', 'unseen', 'fault'
MOST = 300 # faults of a campaign that are told one by one


class Verdict(NamedTuple):
    "What became of a case: one of KINDS, and for a fault what happened."
    kind: str
    words: str = ''


class TooSlow(BaseException):
    "Raised in the middle of a case that takes too long. No library catches it."


# ---- limits

def measure_memory(
    entry: str, # of /proc/self/status: 'VmSize' (address space now) or 'VmHWM' (most memory so far)
) -> int: # bytes; 0 where the system does not say
    "How much memory this process has."
    try: found = re.search(rf'^{entry}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.M)
    except OSError: return 0
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> bool: # can it?
    "Begin to measure 'VmHWM' anew."
    try: return Path('/proc/self/clear_refs').write_text('5') > 0
    except OSError: return False


@contextmanager
def limits(
    seconds: float = SECONDS, # until TooSlow is raised
    memory: int | None = MEMORY, # bytes until allocations fail; None: as many as there are
): # a context
    "What happens inside may take so much time and so much memory."
    def stop(*_): raise TooSlow
    before, size = signal.signal(signal.SIGALRM, stop), measure_memory('VmSize')
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        if memory and size: resource.setrlimit(resource.RLIMIT_AS, (size + memory, hard))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


@contextmanager
def silence(): # a context
    "Nothing that is said inside reaches the terminal, not even by libraries below Python."
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(n) for n in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for n in (1, 2): os.dup2(nowhere, n)
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for n, k in zip((1, 2), kept): os.dup2(k, n), os.close(k)
        os.close(nowhere)


# ---- verdicts

def last_line(
    error: BaseException, # with its traceback
) -> str: # 'ValueError: ... (models.py:12)'
    "An error in a line, and where in this package it came up."
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if 'lstm_video_repr' in f.filename] or frames
    where = f' ({Path(ours[-1].filename).name}:{ours[-1].lineno})' if ours else ''
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:160]}{where}'


def judge_error(
    error: BaseException, # what was raised
    names, # of which its message has to have one: arguments, or the file
) -> Verdict: # 'refused' if it is of our dialect and has a name in it
    "Did a refusal say what it refuses?"
    said = str(error)
    if isinstance(error, MemoryError) or 'allocate memory' in said:
        return Verdict('fault', 'memory: ' + last_line(error))
    def spell(n): return n, repr(n)[1:-1], n.strip() or n, escape_controls(n).strip() or n # as errors show what is odd
    spelled = {form for n in names if n for form in spell(n)}
    named = any(re.search(rf'(?<![^\W_]){re.escape(n)}(?![^\W_])', said) for n in spelled)
    if isinstance(error, SystemExit) and error.code == 2: return Verdict('refused', last_line(error)) # usage was shown
    if isinstance(error, REFUSALS) and named: return Verdict('refused', last_line(error))
    return Verdict('fault', 'unnamed: ' + last_line(error))


def attempt(
    call, # without arguments
    names, # of which a refusal has to say one
    *,
    accept=lambda result: Verdict('harmless'), # judges what comes back
    seconds: float = SECONDS, # that it may take
    memory: int = MEMORY, # bytes that it may ask for
    most: int | None = None, # bytes that it may really use; None: not measured
) -> Verdict:
    "Call, and judge what becomes of it."
    measured = forget_peak() and most is not None
    before = measure_memory('VmHWM')
    try:
        with limits(seconds, memory): result = call()
        found = accept(result)
    except TooSlow: return Verdict('fault', f'slow: more than {seconds:g} s')
    except (Exception, SystemExit, KeyboardInterrupt) as error: found = judge_error(error, names)
    used = measure_memory('VmHWM') - before
    if measured and used > most:
        return Verdict('fault', f'memory: {used / 2**20:.0f} MiB, expected at most {most / 2**20:.0f} ({found.kind})')
    return found


# ---- campaigns

class Campaign:
    "Numbered cases. A subclass has a name and writes `start`, `make_cases` and `judge`."
    name = ''

    def __init__(self,
        size: str = 'small', # 'small' for a test, 'large' for an hour
        seed: int = 0, # of whatever is drawn
        **options, # of a campaign of its own
    ): self.size, self.seed, self.options = size, seed, options

    def start(self): "Make what all cases need, in an empty folder that is the current one."

    def make_cases(self) -> list: "All cases, after `start`; describing one is cheap."

    def judge(self, case) -> Verdict: "Try one."

    def part(self, case) -> str:
        "Which part of the campaign a case belongs to."
        return str(case[0])

    def say(self, case) -> str:
        "A case in a few words."
        return ', '.join(map(str, case))


@dataclass(frozen=True)
class Found:
    "What a campaign gives for each case."
    number: int # of the case
    of: int # how many there are
    part: str # of the campaign
    said: str # the case in a few words
    verdict: Verdict | None = None # None: it begins only now


@contextmanager
def workplace(): # a context, gives the folder
    "An empty folder, which is the current one meanwhile, and the one in which data is looked for."
    here, data = Path.cwd(), os.environ.get('LVR_DATA')
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        os.environ['LVR_DATA'] = folder
        try: yield Path(folder)
        finally:
            os.chdir(here)
            os.environ.pop('LVR_DATA') if data is None else os.environ.update(LVR_DATA=data)


def write_mnist() -> None:
    "What looks like MNIST, so that nothing is downloaded."
    Path('mnist').mkdir()
    for split in ('train', 't10k'):
        for kind, shape in (('images-idx3', (20, 28, 28)), ('labels-idx1', (20,))):
            head = bytes([0, 0, 8, len(shape)]) + b''.join(n.to_bytes(4, 'big') for n in shape)
            Path(f'mnist/{split}-{kind}-ubyte').write_bytes(head + bytes(k % 10 for k in range(math.prod(shape))))


def run_here(
    campaign: Campaign, # what to try
    first: int = 0, # number of the first case
): # gives `Found` twice for each case: before it and after it
    "Try all cases in this process."
    with workplace():
        with silence():
            campaign.start()
            cases = list(campaign.make_cases())
        for k, case in enumerate(cases[first:], first):
            found = Found(k, len(cases), campaign.part(case), campaign.say(case))
            yield found
            with silence(): verdict = campaign.judge(case)
            yield replace(found, verdict=verdict)
            if k % 200 == 199: gc.collect()


def serve(
    campaign: Campaign, # what to try
    first: int, # number of the first case
) -> None:
    "What the other process does: what `run_here` gives, in lines of JSON."
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(os.dup(1), 'w') as out:
        for found in run_here(campaign, first): print(json.dumps(astuple(found)), file=out, flush=True)
        print('null', file=out, flush=True)


def listen(
    process: subprocess.Popen, # that serves
    patience: float, # seconds without a word, after which nothing is waited for any more
): # gives `Found`, or None at a good end, or text that says how it ended instead
    "What another process says."
    queue = Queue()
    def read():
        for line in process.stdout: queue.put(line)
        queue.put(None)
    threading.Thread(target=read, daemon=True).start()
    while True:
        try: line = queue.get(timeout=patience)
        except Empty: line = yield f'slow: no word in {patience:g} s, not even after the alarm'
        if line is None: yield f'died: exit code {process.wait()}'
        said = json.loads(line)
        yield said and Found(*said[:-1], said[-1] and Verdict(*said[-1]))


def run_apart(
    campaign: Campaign, # what to try
    first: int = 0, # number of the first case
    *,
    command: list | None = None, # what serves; None: tools/torture.py in a new Python
    patience: float = 6 * SECONDS, # seconds without a word, after which the process is ended
): # gives `Found` for each case that has been judged
    "Try all cases in a process that may hang or die of any of them: then that is the verdict, and another goes on."
    here = [sys.executable, str(ROOT/'tools'/'torture.py'), '--only', campaign.name, '--size', campaign.size]
    while True:
        words, last = [*(command or here), '--seed', str(campaign.seed), '--serve', str(first)], None
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            for said in listen(process, patience):
                if said is None: return
                if isinstance(said, str): break
                last, first = said, said.number + 1
                if said.verdict: yield said
        finally:
            process.kill()
            process.wait()
        if last is None: raise RuntimeError(f'{campaign.name} does not begin: {said}')
        if not last.verdict: yield replace(last, verdict=Verdict('fault', said))
        if first == last.of: return


def new_counts() -> dict: return dict(tried=0, **dict.fromkeys(KINDS, 0))


def count(
    stream, # what `run_here` or `run_apart` gives
    tally: dict | None = None, # what was counted before; changed
) -> dict: # tried, a number for each of KINDS, the same for each part, and the list of faults
    "Counts, and faults in a line each."
    tally = {} if tally is None else tally
    if not tally: tally.update(new_counts(), of=0, parts={}, faults=[])
    for found in stream:
        if not found.verdict: continue
        tally['of'] = found.of
        for counts in (tally, tally['parts'].setdefault(found.part, new_counts())):
            counts['tried'] += 1
            counts[found.verdict.kind] += 1
        if found.verdict.kind == 'fault' and len(tally['faults']) < MOST:
            tally['faults'].append(f'{found.said}: {found.verdict.words}')
    return tally

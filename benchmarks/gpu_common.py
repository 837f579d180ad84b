"What all parts of `gpu.py` share: sizes, a part with its file and its clock, models, and how products are made."
import contextlib
import gc
import sys
import time
import warnings
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [p for p in (str(ROOT), str(ROOT/'tools'), str(HERE)) if p not in sys.path]

import lstm_video_repr.scale # with it `train` knows how to record its step
import results as files
from lstm_video_repr.core.files import make_folder
from lstm_video_repr.digits import load_digits
from lstm_video_repr.fast_lstm import compiled_backward, compiled_forward
from lstm_video_repr.models import VideoLSTM, VideoLSTMConfig

MB = 10**6
AUTHORS = 345. # nats per future frame of the authors' one-layer model after 2.3 million clips (their log)

# The four models of the paper's table and the authors' own, by part: preset, the paper's nats per future frame.
ROWS = {'row-composite-conditional': ('composite-conditional-future', 341.2), 'row-composite': ('composite', 344.9),
        'row-conditional-future': ('conditional-future-predictor', 343.5), 'row-future': ('future-predictor', 350.2),
        'row-authors': ('1-layer', AUTHORS)}

FULL = SimpleNamespace(
    batch=512, frames=10, image_size=64, digit_size=28, units=(2048, 1024), sample=.1, repetitions=5,
    squares=(4096, 8192), squares_on_cuda=(), rounds=9,
    agree=dict(batch=48, frames=10, values=320, units=256), whole=dict(units=2048, layers=2, batch=16),
    trained=dict(units=128, batch=16, steps=12), clips=512, evaluated=200,
    pace=4., paced_every=10, warmup=500, short_warmup=200, margin=6., closing=4., default_batch=256,
    batches=(512, 128, 256, 1024), made=(128, 256, 512, 1024, 4096),
    test=10_000, test_batch=500, validated=500, log_every=50, rates=(2.5e-4, 5e-4, 1e-3, 2e-3), saving=400*MB,
    snapshot=45., most=10**7)
TINY = SimpleNamespace(
    batch=4, frames=3, image_size=16, digit_size=8, units=(8,), sample=.001, repetitions=2,
    squares=(64,), squares_on_cuda=(), rounds=3,
    agree=dict(batch=3, frames=3, values=5, units=6), whole=dict(units=8, layers=2, batch=2),
    trained=dict(units=8, batch=2, steps=6), clips=8, evaluated=8,
    pace=.05, paced_every=1, warmup=1, short_warmup=1, margin=.5, closing=.5, default_batch=4,
    batches=(4, 2), made=(2, 4),
    test=20, test_batch=10, validated=4, log_every=2, rates=(1e-3, 4e-3), saving=400*MB, snapshot=0., most=10)


# ---- the file of a part

def read(
    path: Path, # of a part
) -> dict | None: # what the part has found; None if there is no file
    "A part's file. `OSError` names one that is damaged."
    if not path.is_file(): return None
    try: return files.load(path, ('part', 'status', 'settings'), maker='python benchmarks/gpu.py')
    except ValueError as error: raise OSError(f'{error}; delete {path.name}, or use --fresh') from error


def write(
    path: Path, # of a part
    found: dict, # what it has found; numbers that are not finite become null
):
    "All or nothing."
    make_folder(path.parent)
    files.save(path, files.plain(found, strict=False))


def thin(
    rows: list, # in order
    n: int = 100, # about so many are kept
) -> list: # every so-manieth, the first and the last among them
    "Enough of a curve to draw it."
    if len(rows) <= n: return rows
    return [rows[round(i * (len(rows) - 1) / (n - 1))] for i in range(n)]


def give_up(
    found: dict, # of a part; changed
    reason: str, # why
):
    "What was being tried is not tried again."
    if job := found.pop('trying', None): found.setdefault('given_up', []).append(job | dict(reason=reason))


# ---- a part

class Part:
    "What a part is given: where it computes, its sizes, the time it has, and the file it fills."
    def __init__(
        self,
        name: str, # of the part
        out: Path, # folder of the files
        work: Path, # folder for checkpoints
        *,
        settings: dict, # device, rehearse, digits, seed, batch, lr, units, and perhaps the name of a plan
        seconds: float, # that it may take
    ):
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.name, self.out, self.path, self.work = name, Path(out), Path(out)/f'gpu-{name}.json', Path(work)/name
        self.settings, self.options = settings, SimpleNamespace(**dict(plan=None) | settings)
        self.device = torch.device(settings['device'])
        self.sizes = TINY if settings['rehearse'] else FULL
        old = read(self.path) or {}
        self.before, self.failed = old.get('seconds', 0.), old.get('status') == 'failed'
        self.found = dict(part=name) | old | files.stamp(self.device)
        self.found |= dict(status='running', missing=[], settings=settings)
        self.found.pop('reason', None)

    def left(self) -> float: # seconds
        "Time that is left."
        return self.deadline - time.monotonic()

    def say(
        self,
        text: str, # one line
    ):
        "Show how it goes."
        print(f'{self.name:26} {time.monotonic() - self.began:5.0f} s  {text}', flush=True)

    def miss(
        self,
        what: str, # was not done
    ):
        "Name what is missing for lack of time."
        self.found['missing'].append(what)
        self.say(f'no time left for {what}')

    def save(self):
        "Write what there is."
        self.found |= dict(seconds=self.before + time.monotonic() - self.began, cpu_seconds=time.process_time())
        write(self.path, self.found)

    def wait(self):
        "Until the device has nothing left to do."
        if self.device.type == 'cuda': torch.cuda.synchronize(self.device)

    def attempt(
        self,
        job: dict, # with a name
    ) -> bool: # is it to be done? Not if a process has ended over it before
        "Say in the file what comes next, so that whoever finds this process ended knows over what."
        if any(job['name'] == g['name'] for g in self.found.get('given_up', [])): return False
        self.found['trying'] = job
        self.save()
        return True

    def give_up(
        self,
        error: Exception, # that was raised by what is being tried
    ):
        "Note what broke the device for all that comes after in this process, and end it: another one goes on."
        give_up(self.found, files.reason_of(error))
        raise RuntimeError('the device works no more in this process') from error

    def works(self) -> bool:
        "Does the device still do what it is told? After some errors it does not, until the process ends."
        if self.device.type != 'cuda': return True
        try: return torch.ones(8, device=self.device).sum().item() == 8
        except RuntimeError: return False

    def free(self):
        "Give the device's memory back."
        if self.device.type != 'cuda': return
        gc.collect()
        torch.cuda.empty_cache()

    def forget(self):
        "What a complete part no longer needs: its checkpoint."
        for file in self.work.glob('*'): file.unlink()
        self.work.rmdir()


# ---- how products are made, models, and what the compiler does

def autocast(
    device: torch.device, # where
    dtype: str, # 'bf16' for products in bf16
): # a context, which can be entered again and again
    "As `train` does it."
    return torch.autocast(device.type, torch.bfloat16) if dtype == 'bf16' else contextlib.nullcontext()


def choose_step(
    device: torch.device, # where is trained
) -> str: # for `train`
    "Recorded steps on CUDA, or an error; off CUDA there is nothing to record."
    return 'recorded' if device.type == 'cuda' else 'auto'


def list_ways(
    device: torch.device, # where is trained
) -> list[dict]: # backend of the layers, and step for `train`
    "The ways to train, the fastest first; each later one has less that can break."
    steps = dict.fromkeys((choose_step(device), 'plain'))
    found = [dict(backend=b, step=s) for s in steps for b in ('auto', 'fused')]
    return found + [dict(backend='reference', step='plain')]


def draw_model(
    config: VideoLSTMConfig, # what to build
    device: torch.device, # where its weights are drawn: the paper's sizes take half a minute on a CPU
    seed: int = 0, # of the draw
) -> VideoLSTM: # untrained
    "A model with fresh weights."
    with torch.device(device): return VideoLSTM(config, torch.Generator(device).manual_seed(seed))


@lru_cache
def load_pictures(
    digits: str, # 'mnist', 'embedded', or 'mnist+embedded'
    split: str = 'train', # or 'test'
) -> torch.Tensor: # (n, 28, 28) uint8
    "Digits, read once in a process."
    return load_digits(digits, split)[0]


def count_weights(
    config: VideoLSTMConfig, # what would be built
) -> int: # numbers
    "The size of a model, without its memory."
    with torch.device('meta'): return sum(p.numel() for p in VideoLSTM(config).parameters())


@contextlib.contextmanager
def without_compiler(
    rehearse: bool, # is this a rehearsal? Else nothing is changed
):
    "In a rehearsal what is to be compiled runs as it is, on the same path: compiling would take longer than the rest."
    halves = (compiled_forward, compiled_backward) if rehearse else ()
    before = [half.fast for half in halves]
    for half in halves: half.fast = half.function
    try:
        with warnings.catch_warnings():
            if rehearse: warnings.filterwarnings('ignore', "backend='compiled' on a CPU") # which costs nothing here
            yield
    finally:
        for half, fast in zip(halves, before): half.fast = fast


def reset_compiler(
    part: Part, # whose rehearsal compiles nothing
):
    "Forget compiled code: each case at its own sizes, as in a run of one model."
    if not part.options.rehearse: torch.compiler.reset()


@contextlib.contextmanager
def catch_warnings(): # gives a list of texts, which grows
    "Collect what is warned of inside the block."
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try: yield said
        finally: said += [str(w.message) for w in caught]

"How the benchmarks measure: a clock that waits for the device, variants that take turns, and the limit of the machine."
import contextlib
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [p for p in (str(ROOT), str(ROOT/'tools')) if p not in sys.path]

from lstm_video_repr.fast_lstm import choose_backend, compile_problem, fast_bf16
from results import reason_of

DTYPES = {'fp32': torch.float32, 'tf32': torch.float32, 'bf16': torch.bfloat16}
LEAST_ROUNDS, MOST_ROUNDS = 3, 9
LIMIT_NOTE = ('limit: the largest median rate (GFLOP/s) of any matrix product in the group gemm, measured at the start '
              'and at the end of the run, by dtype; share_of_limit: operations of the matrix products alone, per '
              'second, divided by the limit of that dtype')
BROKEN = RuntimeError, NotImplementedError, ValueError # what a variant that cannot run here raises


def allow_tensor_cores(
    device: torch.device, # where the products are made
    dtype: str, # 'tf32': float32 products may use them; anything else: they may not
):
    "How float32 products are made on CUDA from here on."
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == 'tf32'


@contextlib.contextmanager
def precision(
    device: torch.device, # where the products are made
    dtype: str, # 'fp32': as it says; 'tf32': float32 tensors, products on tensor cores; 'bf16': autocast
):
    "How matrix products are made inside the block; afterwards float32 is float32 again."
    allow_tensor_cores(device, dtype)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == 'bf16'): yield
    finally: allow_tensor_cores(device, 'fp32')


def quartiles(
    samples: list[float], # seconds per call
) -> dict: # median, q1, q3 and n
    "What is kept of the samples."
    q1, median, q3 = np.quantile(samples, (.25, .5, .75))
    return dict(median=float(median), q1=float(q1), q3=float(q3), n=len(samples))


def label(
    case: dict, # sizes
) -> str: # on one line
    "A case, readable."
    return ' '.join(f'{k}={v}' for k, v in case.items())


class Bench:
    "Measures, and collects rows."
    def __init__(
        self,
        device: torch.device, # where
        sizes: SimpleNamespace, # with batch, frames, image_size, units, squares, squares_on_cuda, repetitions, sample
        *,
        backends: tuple = (), # of the LSTM, to be measured
        seconds: float = 10., # budget of a case, where three rounds fit into it
    ):
        self.device, self.sizes, self.backends, self.seconds = device, sizes, backends, seconds
        self.frame_values = sizes.image_size**2
        self.dtypes = ['fp32'] + ['bf16']*fast_bf16(device)
        if device.type == 'cuda' and torch.cuda.get_device_capability(device) >= (8, 0): self.dtypes.insert(1, 'tf32')
        self.limit, self.gemm_rows = {}, []
        self.start(None)

    def start(
        self,
        group: str | None, # whose rows come next
    ):
        "Begin a group with no rows."
        self.group, self.rows, self.left_out = group, [], []

    def wait(self):
        "Until the device has nothing left to do."
        if self.device.type == 'cuda': torch.cuda.synchronize(self.device)

    def clock(
        self,
        call, # to be timed
        repeat: int = 1, # calls in a row
    ) -> float: # seconds per call
        "Time that passes until the device has finished."
        self.wait()
        start = time.perf_counter()
        for _ in range(repeat): call()
        self.wait()
        return (time.perf_counter() - start) / repeat

    def repeat(
        self,
        seconds: float, # that a call takes
    ) -> int: # calls
        "How many calls in a row make a sample that is long enough for the clock."
        return max(1, math.ceil(self.sizes.sample / max(seconds, 1e-9)))

    def random(
        self,
        *shape, # of the tensor
    ) -> torch.Tensor: # normal numbers, of standard deviation 0.1
        "Numbers to compute with."
        return torch.randn(*shape, device=self.device) * .1

    def leave_out(
        self,
        case: dict, # the sizes
        variant: str | None, # None: all of them
        dtype: str | None, # None: all of them
        *,
        reason: str, # why
    ):
        "Say what was not measured."
        self.left_out.append(dict(case=case, variant=variant, dtype=dtype, reason=reason))
        what = f'{label(case)}  {variant or "all variants"} {dtype or ""}'
        print(f'{self.group:9} {what}: not measured: {reason}', flush=True)

    def add(
        self,
        case: dict, # sizes
        variant: str, # what was measured
        dtype: str, # of its products
        *,
        samples: list[float], # seconds per call
        flops: int | None = None, # operations in a call
        per_second: dict | None = None, # name of a rate -> how many of these a call makes
    ) -> dict: # the row
        "Keep one row, and say so."
        row = dict(case=case, variant=variant, dtype=dtype, seconds=quartiles(samples))
        median = row['seconds']['median']
        if flops: row |= dict(flops=flops, gflops_per_s=flops / median / 1e9, share_of_limit=None)
        row |= {name: count / median for name, count in (per_second or {}).items()}
        self.rows.append(row)
        print(f'{self.group:9} {label(case)}  {variant} {dtype}: {median*1e3:.4g} ms', flush=True)
        return row

    def take_turns(
        self,
        calls: dict, # key -> a call
        repeat: dict, # key -> calls in a row
        *,
        rounds: int, # of all calls
        first: dict | None = None, # key -> a sample that is there already
        before: dict | None = None, # variant -> what is done with its call before each sample, untimed
    ) -> dict: # key -> seconds per call, a sample a round
        "Time calls round after round, each beginning with another, so that whatever else happens meets all alike."
        samples, order = {k: [first[k]] if first and k in first else [] for k in calls}, list(calls)
        for n in range(rounds):
            for k in order[n % len(order):] + order[:n % len(order)]:
                if len(samples[k]) <= n: samples[k].append(self.sample(k, calls[k], repeat[k], before=before))
        return samples

    def sample(
        self,
        key: tuple, # variant and dtype
        call, # to be timed
        repeat: int = 1, # calls in a row
        *,
        before: dict | None = None, # variant -> what is done with its call before, untimed
    ) -> float: # seconds per call
        "One sample, prepared as its variant asks for."
        prepare = (before or {}).get(key[0])
        if prepare: prepare(call)
        return self.clock(call, repeat)

    def compare(
        self,
        case: dict, # the sizes that the variants share
        variants: dict, # (variant, dtype) -> a call
        *,
        flops: int | None = None, # floating-point operations in the matrix products of a call
        per_second: dict | None = None, # name of a rate -> how many of these a call makes
        before: dict | None = None, # variant -> what is done with its call before each sample, untimed
    ):
        "Time the variants of a case in turn, round after round, and add a row for each."
        if any(variant == 'compiled' for variant, _ in variants):
            torch.compiler.reset() # each case at its own sizes, as in a run of one model
        calls = {}
        for (variant, dtype), call in variants.items():
            def work(call=call, dtype=dtype):
                with precision(self.device, dtype): return call()
            problem = self.warm_up(variant, work)
            if problem: self.leave_out(case, variant, dtype, reason=problem)
            else: calls[variant, dtype] = work
        if not calls: return
        once = {k: self.sample(k, call, before=before) for k, call in calls.items()}
        repeat = {k: self.repeat(t) for k, t in once.items()}
        rounds = int(self.seconds / sum(once[k] * repeat[k] for k in calls))
        samples = self.take_turns(calls, repeat, rounds=min(MOST_ROUNDS, max(LEAST_ROUNDS, rounds)), before=before,
                                  first={k: t for k, t in once.items() if repeat[k] == 1})
        for (variant, dtype), s in samples.items():
            self.add(case, variant, dtype, samples=s, flops=flops, per_second=per_second)

    def warm_up(
        self,
        variant: str, # what is to be measured
        work, # the call
    ) -> str | None: # why it cannot be measured; None if it can
        "The first call, which nobody counts."
        try: self.clock(work)
        except BROKEN as error: return reason_of(error)
        problem = 'compiled' in variant and compile_problem()
        return reason_of(problem) if problem else None


def gemm(
    bench: Bench, # what measures
    when: str, # 'start' or 'end' of the run
):
    "The machine's matrix-product rate, from which comes the limit: the largest median rate of any shape."
    s, D = bench.sizes, bench.frame_values
    shapes = [(4*H, D, s.batch*s.frames) for H in s.units] + [(4*H, H, s.batch) for H in s.units]
    shapes += [(n, n, n) for n in s.squares + s.squares_on_cuda*(bench.device.type == 'cuda')]
    bench.start('gemm')
    for dtype in bench.dtypes:
        for m, k, n in dict.fromkeys(shapes):
            a, b = (bench.random(*shape).to(DTYPES[dtype]) for shape in ((m, k), (k, n)))
            def call(): return a @ b
            with precision(bench.device, 'tf32' if dtype == 'tf32' else 'fp32'):
                repeat = bench.repeat(min(bench.clock(call) for _ in range(2)))
                samples = [bench.clock(call, repeat) for _ in range(s.repetitions)]
            bench.add(dict(rows=m, inner=k, columns=n, when=when), 'matmul', dtype, samples=samples, flops=2*m*k*n)
    bench.gemm_rows += bench.rows
    bench.limit = {d: max(r['gflops_per_s'] for r in bench.gemm_rows if r['dtype'] == d) for d in bench.dtypes}


def bf16_or_why_not(
    device: torch.device, # where
) -> dict: # measured: bool; if not, the reason and its evidence
    "Where bf16 has no units of its own it is left out; one tiny product shows what it costs."
    if fast_bf16(device): return dict(measured=True)
    m, k, n = 64, 256, 256
    seconds = {}
    for name in ('fp32', 'bf16'):
        a, b = (torch.ones(*shape, dtype=DTYPES[name], device=device) for shape in ((m, k), (k, n)))
        samples = []
        for _ in range(6):
            start = time.perf_counter()
            (a @ b)[0, 0].item()
            samples.append(time.perf_counter() - start)
        seconds[name] = quartiles(samples[1:])['median']
    times = seconds['bf16'] / seconds['fp32']
    return dict(measured=False, evidence=dict(rows=m, inner=k, columns=n, seconds=seconds),
                reason=f'no bf16 units here: a product of {m}x{k} and {k}x{n} takes {times:.1f} times as long as in '
                       'fp32')


def chosen_backends(
    device: torch.device, # where
    dtypes: list[str], # of the products
) -> dict: # dtype -> name and reason
    "What `backend='auto'` stands for here."
    return {d: dict(zip(('name', 'reason'), choose_backend(device, DTYPES[d]))) for d in dtypes}

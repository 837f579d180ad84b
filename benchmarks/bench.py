"""Speed and memory of this package beside its peers, measured in one run.

    python benchmarks/bench.py                        everything, into benchmarks/results/<device>-<capability>.json
    python benchmarks/bench.py --groups layer,clips   some groups; the file keeps the others
    python benchmarks/bench.py --table FILE           the table of an earlier run

Variants of a case take turns, so that whatever else the machine does meets all of them. Results are JSON:
`load` and `rows` read them, `ratio` compares two variants of a case.
"""
import argparse
import contextlib
import datetime
import gc
import json
import math
import multiprocessing
import os
import platform
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import lstm_video_repr
from lstm_video_repr import fast_lstm
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.fast_lstm import _has, choose_backend, fast_bf16, lstm_flops
from lstm_video_repr.lstm import BACKENDS, PeepholeLSTM, set_backend
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import get_recipe, make_optimizer, replacing
from peers import NNVideoLSTM, as_loops, python_clips, rows_layer

OURS = tuple(b for b in BACKENDS if b != 'auto')
DTYPES = {'fp32': torch.float32, 'tf32': torch.float32, 'bf16': torch.bfloat16}
LEAST_ROUNDS, MOST_ROUNDS = 3, 9

FULL = SimpleNamespace(
    batch=128, steps=10, image_size=64, digit_size=28, units=(512, 1024, 2048), squares=(2048, 4096), repetitions=5, sample=.02,
    models=[(H, L, conditional) for H in (512, 1024) for L in (1, 2) for conditional in (False, True)] + [(2048, 1, False), (2048, 2, False)],
    scaling=dict(steps=[(T, 16, 512) for T in (10, 30, 100, 300, 1000)], batch=[(10, B, 512) for B in (1, 8, 32, 128, 512)],
                 units=[(10, 128, H) for H in (128, 256, 512, 1024, 2048)]),
    memory=dict(units=512, batch=32, steps=(10, 30, 100), rollout_batch=4, rollout_steps=(10, 100, 1000), conditional=(False, True)))
QUICK = SimpleNamespace(
    batch=4, steps=3, image_size=16, digit_size=8, units=(8, 16), squares=(64,), repetitions=3, sample=.001,
    models=[(8, 1, False), (8, 2, True)],
    scaling=dict(steps=[(2, 4, 8), (4, 4, 8)], batch=[(2, 1, 8)], units=[(2, 4, 16)]),
    memory=dict(units=8, batch=2, steps=(2,), rollout_batch=2, rollout_steps=(3,), conditional=(False, True)))
LONGEST_STEP = 6. # seconds that a training step may take at the limit of the machine; larger models are left out


# ---- measuring

@contextlib.contextmanager
def precision(
    device: torch.device, # where the products are made
    dtype: str, # 'fp32': as it says; 'tf32': float32 tensors, products on tensor cores; 'bf16': autocast
):
    "How matrix products are made inside the block."
    if device.type == 'cuda': torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == 'tf32'
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == 'bf16'): yield


def quartiles(
    samples: list[float], # seconds per call
) -> dict: # median, q1, q3 and n
    "What is kept of the samples."
    q1, median, q3 = np.quantile(samples, (.25, .5, .75))
    return dict(median=float(median), q1=float(q1), q3=float(q3), n=len(samples))


def said(
    error: Exception, # what went wrong
) -> str: # its kind and first line, without folders of this machine
    "An error as a reason in the results."
    first = (str(error).strip().splitlines() or ['no message'])[0]
    return re.sub(r'(?:/[\w.~-]+){2,}', '...', f'{type(error).__name__}: {first}')[:200]


class Bench:
    "Measures, and collects rows."
    def __init__(
        self,
        device: torch.device, # where
        sizes: SimpleNamespace, # `FULL` or `QUICK`
        backends: tuple, # of `OURS`
        seconds: float, # budget of a case, where three rounds fit into it
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

    def wait(self):
        "Until the device has nothing left to do."
        if self.device.type == 'cuda': torch.cuda.synchronize(self.device)

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
        reason: str, # why
    ):
        "Say what was not measured."
        self.left_out.append(dict(case=case, variant=variant, dtype=dtype, reason=reason))
        print(f'{self.group:9} {label(case)}  {variant or "all variants"} {dtype or ""}: not measured: {reason}', flush=True)

    def compare(
        self,
        case: dict, # the sizes that the variants share
        variants: dict, # (variant, dtype) -> a call
        flops: int | None = None, # floating-point operations in the matrix products of a call
        per_second: dict | None = None, # name of a rate -> how many of these a call makes
    ):
        "Time the variants of a case in turn, round after round, and add a row for each."
        if any(variant == 'compiled' for variant, _ in variants): torch.compiler.reset()  # each case at its own sizes, as in a run of one model
        calls = {}
        for (variant, dtype), call in variants.items():
            def run(call=call, dtype=dtype):
                with precision(self.device, dtype): return call()
            try: self.clock(run) # warm up
            except (RuntimeError, NotImplementedError, ValueError) as error: self.leave_out(case, variant, dtype, said(error))
            else:
                problem = fast_lstm._compiled_forward.problem or fast_lstm._compiled_backward.problem
                if variant == 'compiled' and problem: self.leave_out(case, variant, dtype, said(RuntimeError(problem)))
                else: calls[variant, dtype] = run
        if not calls: return
        first = {k: self.clock(call) for k, call in calls.items()}
        repeat = {k: max(1, math.ceil(self.sizes.sample / t)) for k, t in first.items()}
        samples = {k: [t] if repeat[k] == 1 else [] for k, t in first.items()}
        rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, int(self.seconds / sum(first[k] * repeat[k] for k in calls))))
        order = list(calls)
        for n in range(rounds):
            for k in order[n % len(order):] + order[:n % len(order)]:
                if len(samples[k]) <= n: samples[k].append(self.clock(calls[k], repeat[k]))
        for (variant, dtype), s in samples.items(): self.add(case, variant, dtype, s, flops, per_second)
        gc.collect()

    def add(
        self,
        case: dict, # sizes
        variant: str, # what was measured
        dtype: str, # of its products
        samples: list[float], # seconds per call
        flops: int | None = None, # operations in a call
        per_second: dict | None = None, # name of a rate -> how many of these a call makes
    ):
        "Keep one row, and say so."
        row = dict(case=case, variant=variant, dtype=dtype, seconds=quartiles(samples))
        if flops: row |= dict(flops=flops, gflops_per_s=flops / row['seconds']['median'] / 1e9, share_of_limit=None)
        row |= {name: count / row['seconds']['median'] for name, count in (per_second or {}).items()}
        self.rows.append(row)
        print(f'{self.group:9} {label(case)}  {variant} {dtype}: {row["seconds"]["median"]*1e3:.4g} ms', flush=True)


# ---- the groups

def gemm(
    bench: Bench, # what measures
    when: str, # 'start' or 'end' of the run
):
    "The machine's matrix-product rate, from which comes the limit: the largest median rate of any shape."
    s, D = bench.sizes, bench.frame_values
    squares = s.squares + (8192,)*(bench.device.type == 'cuda' and s is FULL)
    shapes = [(4*H, D, s.batch*s.steps) for H in s.units] + [(4*H, H, s.batch) for H in s.units] + [(n, n, n) for n in squares]
    bench.start('gemm')
    for dtype in bench.dtypes:
        for m, k, n in dict.fromkeys(shapes):
            a, b = (bench.random(*shape).to(DTYPES[dtype]) for shape in ((m, k), (k, n)))
            def call(): return a @ b
            with precision(bench.device, 'tf32' if dtype == 'tf32' else 'fp32'):
                repeat = max(1, math.ceil(s.sample / max(1e-9, min(bench.clock(call) for _ in range(2)))))
                samples = [bench.clock(call, repeat) for _ in range(s.repetitions)]
            bench.add(dict(rows=m, inner=k, columns=n, when=when), 'matmul', dtype, samples, 2*m*k*n)
    bench.gemm_rows += bench.rows
    bench.limit = {d: max(r['gflops_per_s'] for r in bench.gemm_rows if r['dtype'] == d) for d in bench.dtypes}


def _layer_calls(bench, lstm, peer, x, state, steps, backward):
    "Calls of one layer's variants: (variant, dtype) -> call. All of ours share their weights."
    loop, kind = as_loops(lstm), bench.device.type
    H = lstm.hidden_size
    B = len(x) if x is not None else state[0].shape[1]
    grad = bench.random(B, steps, H)
    zeros = x if x is not None else bench.random(B, steps, 1).zero_()
    if not backward: state = state and tuple(v.detach() for v in state)

    def of(forward, wanted):
        def call():
            if not backward:
                with torch.no_grad(): return forward()
            out = forward()
            with torch.autocast(kind, enabled=False): torch.autograd.grad(out, wanted, grad.to(out.dtype))
        return call

    leaves = [] if state is None else list(state)
    weights = [*lstm.parameters(), *leaves]
    calls = {}
    for d in bench.dtypes:
        calls['loop of cells', d] = of(lambda: loop(x, state, steps)[0], weights)
        for b in bench.backends: calls[b, d] = of(lambda b=b: set_backend(lstm, b)(x, state, steps)[0], weights)
        if backward and x is not None: calls['rows by hand', d] = of(lambda: rows_layer(x, lstm), list(lstm.parameters()))
        calls['nn.LSTM', d] = of(lambda: peer(zeros, state)[0], [*peer.parameters(), *leaves])
    if 'bf16' in bench.dtypes:
        half = nn.LSTM(peer.input_size, H, batch_first=True, device=bench.device, dtype=torch.bfloat16)
        x16, state16 = zeros.bfloat16(), None if state is None else tuple(v.detach().bfloat16().requires_grad_(backward) for v in state)
        forward = of(lambda: half(x16, state16)[0], [*half.parameters(), *(state16 or [])])
        def call():
            with torch.autocast(kind, enabled=False): forward()
        calls['nn.LSTM, bf16 weights', 'bf16'] = call
    return calls


def _layers(bench, H, frames):
    "Our layer and that of torch, with the inputs: frames, or none but a state."
    B, T, D = bench.sizes.batch, bench.sizes.steps, bench.frame_values if frames else 0
    lstm = PeepholeLSTM(D, H, generator=torch.Generator().manual_seed(0)).to(bench.device)
    peer = nn.LSTM(D or 1, H, batch_first=True, device=bench.device)
    x = bench.random(B, T, D) if frames else None
    state = None if frames else tuple(bench.random(1, B, H).requires_grad_() for _ in range(2))
    return lstm, peer, x, state


def layer(
    bench: Bench, # what measures
):
    "One layer, forward and with its backward pass, over frames (an encoder) and on its state alone (a decoder)."
    B, T = bench.sizes.batch, bench.sizes.steps
    for H in bench.sizes.units:
        for frames in (True, False):
            lstm, peer, x, state = _layers(bench, H, frames)
            for backward in (False, True):
                case = dict(input='frames' if frames else 'none', work='forward+backward' if backward else 'forward',
                            units=H, batch=B, steps=T, values=lstm.input_size)
                calls = _layer_calls(bench, lstm, peer, x, state, T, backward)
                bench.compare(case, {k: c for k, c in calls.items() if k[0] != 'rows by hand'}, lstm_flops(B, T, lstm.input_size, H, training=backward))


LADDER = 'loop of cells', 'reference', 'rows by hand', 'fused', 'compiled' # each adds one idea

def ladder(
    bench: Bench, # what measures
):
    "How each idea pays: + input product of all steps, + backward by hand, + clips as columns, + compiled pointwise halves."
    B, T, D = bench.sizes.batch, bench.sizes.steps, bench.frame_values
    for H in bench.sizes.units:
        calls = _layer_calls(bench, *_layers(bench, H, True), T, True)
        steps = {(v, d): calls[v, d] for d in bench.dtypes for v in (*LADDER, 'nn.LSTM') if (v, d) in calls}
        bench.compare(dict(units=H, batch=B, steps=T, values=D), steps, lstm_flops(B, T, D, H, training=True))


def composite_flops(
    batch: int, # clips B
    steps: int, # frames T that are seen, and as many that are predicted
    frame_values: int, # D
    units: int, # H
    layers: int, # L
    conditional: bool, # are decoders shown the frame before?
) -> int: # floating-point operations
    "Operations in the matrix products of one training step of the composite model."
    B, T, D, H = batch, steps, frame_values, units
    above = (layers - 1) * lstm_flops(B, T, H, H, training=True, input_grad=True)
    encoder = lstm_flops(B, T, D, H, training=True) + above
    decoder = lstm_flops(B, 1, 0, H, training=True) + lstm_flops(B, T - 1, D*conditional, H, training=True) + above
    readout = 3 * 2*B*T*H*D
    return encoder + 2*(decoder + readout)


def pictures(
    bench: Bench, # whose sizes
    device: torch.device | str | None = None, # None: that of `bench`
) -> MovingDigits: # of random pictures, so that no data set is needed
    "A source of clips."
    size = bench.sizes.digit_size
    digits = torch.randint(0, 256, (1000, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return MovingDigits(digits, image_size=bench.sizes.image_size, past=bench.sizes.steps, future=bench.sizes.steps, device=device or bench.device)


def _training_step(bench, model, loss, optimizer, past, future):
    "A call that does one step of training; the backward pass runs outside autocast, as it should."
    def call():
        optimizer.zero_grad(set_to_none=True)
        total = loss(model, past, future)
        with torch.autocast(bench.device.type, enabled=False): total.backward()
        optimizer.step()
    return call


def composite(
    bench: Bench, # what measures
):
    "One training step of the composite model: forward, loss, backward, AdamW. Its clips were made before."
    s, D, recipe = bench.sizes, bench.frame_values, get_recipe('adam')
    look = bench.device.type == 'cpu' # the check of the clips' values that `train` makes at each step on a CPU
    def ours(model, past, future): return model.loss(past, future, check=look).total
    def theirs(model, past, future): return model.loss(past, future)
    past, future = pictures(bench).batch(s.batch)
    for H, L, conditional in s.models:
        case = dict(units=H, layers=L, conditional=conditional, batch=s.batch, steps=s.steps, values=D)
        flops = composite_flops(s.batch, s.steps, D, H, L, conditional)
        at_best = flops / bench.limit['fp32'] / 1e9
        if at_best > LONGEST_STEP:
            bench.leave_out(case, None, None, f'a step would take {at_best:.0f} s at the limit of this machine; at most {LONGEST_STEP:g} s are spent')
            continue
        model = VideoLSTM.composite(hidden_size=H, num_layers=L, frame_shape=(1, s.image_size, s.image_size),
                                    conditional_reconstruction=conditional, conditional_future=conditional).to(bench.device)
        loops, peer = as_loops(model), NNVideoLSTM(D, H, L, conditional).to(bench.device)
        optimizer, peers_optimizer = make_optimizer(model, recipe), make_optimizer(peer, recipe)
        steps = {'loop of cells': _training_step(bench, loops, ours, optimizer, past, future)}
        for b in bench.backends:
            def loss(model, past, future, b=b): return ours(set_backend(model, b), past, future)
            steps[b] = _training_step(bench, model, loss, optimizer, past, future)
        steps['nn.LSTM'] = _training_step(bench, peer, theirs, peers_optimizer, past, future)
        bench.compare(case, {(variant, d): call for d in bench.dtypes for variant, call in steps.items()}, flops, dict(clips_per_s=s.batch))
        del model, loops, peer, optimizer, peers_optimizer, steps


def clips(
    bench: Bench, # what measures
):
    "A batch of clips, made by `MovingDigits` and by a plain loop."
    s, source = bench.sizes, pictures(bench)
    digits, rng = source.digits.cpu().numpy(), np.random.default_rng(0)
    def loop(): return python_clips(digits, s.batch, 2*s.steps, s.image_size, source.n_digits, source.step, rng).to(bench.device)
    bench.compare(dict(batch=s.batch, frames=2*s.steps, digits=source.n_digits, image_size=s.image_size),
                  {('MovingDigits', 'fp32'): lambda: source.batch(s.batch), ('python loop', 'fp32'): loop}, per_second=dict(clips_per_s=s.batch))


def scaling(
    bench: Bench, # what measures
):
    "A layer's forward and backward pass against the number of steps, clips and units."
    D = bench.frame_values
    for along, cases in bench.sizes.scaling.items():
        for T, B, H in cases:
            lstm = PeepholeLSTM(D, H, generator=torch.Generator().manual_seed(0)).to(bench.device)
            x, grad = bench.random(B, T, D), bench.random(B, T, H)
            def call(b):
                out = set_backend(lstm, b)(x)[0]
                with torch.autocast(bench.device.type, enabled=False): torch.autograd.grad(out, list(lstm.parameters()), grad.to(out.dtype))
            variants = {(b, d): lambda b=b: call(b) for d in bench.dtypes for b in bench.backends
                        if b != 'compiled' or b == choose_backend(bench.device, DTYPES[d])[0]} # compiling for each size takes long: only where it is the choice
            bench.compare(dict(along=along, steps=T, batch=B, units=H, values=D), variants, lstm_flops(B, T, D, H, training=True), dict(steps_per_s=T))


def memory(
    bench: Bench, # what measures
):
    "Peak memory, each figure from a process of its own."
    m, side = bench.sizes.memory, bench.sizes.image_size
    training = [dict(work='training step', units=m['units'], batch=m['batch'], steps=T, conditional=False) for T in m['steps']]
    rollout = [dict(work='rollout', units=m['units'], batch=m['rollout_batch'], steps=T, conditional=c) for c in m['conditional'] for T in m['rollout_steps']]
    fork = 'forkserver' in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('forkserver' if fork else 'spawn')
    if fork: context.set_forkserver_preload(['torch', 'lstm_video_repr.models']) # imported once; each process starts from there
    with context.Pool(1, maxtasksperchild=1) as pool:
        for case in training + rollout:
            for backend in bench.backends:
                if backend == 'compiled': continue
                try: found = pool.apply(peak_memory, (case, backend, str(bench.device), side))
                except (RuntimeError, OSError) as error: bench.leave_out(case, backend, 'fp32', said(error)); continue
                bench.rows.append(dict(case=case, variant=backend, dtype='fp32', bytes=found))
                print(f'memory    {label(case)}  {backend} fp32: {found["peak"]/2**20:.1f} MiB beyond model and clips', flush=True)


def peak_memory(
    case: dict, # work, units, batch, steps, conditional
    backend: str, # of `OURS`
    device: str, # where
    image_size: int, # side of a frame
) -> dict: # bytes: 'peak' beyond what was there before, 'output' of a rollout
    "In a process of its own: the memory that a training step or a rollout needs beside the model and the clips."
    def work(units, batch, steps, side):
        make = VideoLSTM.composite if case['work'] == 'training step' else VideoLSTM.future_predictor
        settings = dict(hidden_size=units, frame_shape=(1, side, side)) | (dict(conditional=case['conditional']) if make == VideoLSTM.future_predictor else {})
        model = set_backend(make(**settings), backend).to(device)
        seen = steps if case['work'] == 'training step' else min(steps, FULL.steps)
        past, future = (torch.rand(batch, seen, 1, side, side, device=device) for _ in range(2))
        if case['work'] == 'training step':
            optimizer = make_optimizer(model, get_recipe('adam'))
            def call():
                model.loss(past, future).total.backward()
                optimizer.step()
                return None
        else:
            model.eval()
            def call():
                with torch.no_grad(): return model(past, future_steps=steps).future_logits
        gc.collect()
        before = now_and_peak(device)[0]
        output = call()
        return now_and_peak(device)[1] - before, output
    work(2, 2, 2, 4) # whatever libraries set up at first use
    peak, output = work(case['units'], case['batch'], case['steps'], image_size)
    return dict(peak=peak, output=None if output is None else output.nbytes)


def now_and_peak(
    device: str, # where
) -> tuple[int, int]: # bytes in use now, and at most so far
    "Memory of this process. Asking for it makes a new beginning for the peak on CUDA, and on Linux where that is allowed."
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        now, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return now, peak
    status = Path('/proc/self/status')
    if not status.is_file():
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
        return peak, peak
    now, peak = (int(re.search(rf'{name}:\s+(\d+) kB', status.read_text())[1]) * 1024 for name in ('VmRSS', 'VmHWM'))
    with contextlib.suppress(OSError): Path('/proc/self/clear_refs').write_text('5')
    return now, peak


GROUPS = dict(gemm=None, layer=layer, ladder=ladder, composite=composite, clips=clips, scaling=scaling, memory=memory) # gemm is part of every run


# ---- the machine, and the file

def capability(
    device: torch.device, # where
) -> str: # short and lowercase: 'amx', 'avx512-bf16', 'avx2', 'h100', ...
    "What kind of device this is, for the name of the file."
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
        found = re.search(r'\b[A-Z]*\d+[A-Z]*\b', name, re.I)
        return re.sub(r'\W+', '-', (found[0] if found else name).lower())
    if fast_bf16(device): return 'amx' if _has('amx_tile') else 'avx512-bf16'
    return torch.backends.cpu.get_cpu_capability().lower().replace(' ', '-')


def machine(
    device: torch.device, # where the benchmarks run
) -> dict: # no names of hosts or people
    "The machine, as far as it matters."
    info = Path('/proc/cpuinfo')
    model = re.search(r'^model name\s*:\s*(.+)$', info.read_text(), re.M) if info.is_file() else None
    cpu = model[1].strip() if model else platform.processor() or platform.machine()
    found = dict(device=device.type, capability=capability(device), cpu=cpu, cores_used=torch.get_num_threads())
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names: found['memory_gib'] = round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30)
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        found |= dict(gpu=properties.name, gpu_memory_gib=round(properties.total_memory / 2**30))
    return found


def bf16_or_why_not(
    device: torch.device, # where
) -> dict: # measured: bool; if not, the reason and its evidence
    "Where bf16 has no units of its own it is left out; one tiny product shows what it costs."
    if fast_bf16(device): return dict(measured=True)
    m, k, n = 64, 256, 256
    seconds = {}
    for name in ('fp32', 'bf16'):
        a, b = torch.ones(m, k, dtype=DTYPES[name], device=device), torch.ones(k, n, dtype=DTYPES[name], device=device)
        samples = []
        for _ in range(6):
            start = time.perf_counter()
            (a @ b)[0, 0].item()
            samples.append(time.perf_counter() - start)
        seconds[name] = quartiles(samples[1:])['median']
    return dict(measured=False, reason=f'no bf16 units here: a product of {m}x{k} and {k}x{n} takes {seconds["bf16"]/seconds["fp32"]:.1f} times as long as in fp32',
                evidence=dict(rows=m, inner=k, columns=n, seconds=seconds))


REQUIRED = 'machine', 'versions', 'date', 'settings', 'limit', 'limit_note', 'bf16', 'backend', 'groups'

def load(
    path: str | Path, # a file that this program wrote
) -> dict: # machine, versions, date, ..., groups -> {date, rows, ...}
    "Results of an earlier run. `OSError` or `ValueError` name the file."
    path = Path(path)
    if not path.is_file(): raise FileNotFoundError(f'{str(path)!r} is no file; expected results that benchmarks/bench.py wrote')
    try: results = json.loads(path.read_text(encoding='utf8'))
    except ValueError as error: raise ValueError(f'{str(path)!r} is no whole JSON file ({error})') from error
    missing = [k for k in REQUIRED if k not in results] if isinstance(results, dict) else REQUIRED
    if missing: raise ValueError(f'{str(path)!r} lacks {", ".join(missing)}; expected results that benchmarks/bench.py wrote')
    return results


def rows(
    results: dict, # as `load` gives them
    group: str, # one of `GROUPS`
    variant: str | None = None, # None: any
    dtype: str | None = None, # None: any
    **case, # sizes that have to agree: units=512, ...
) -> list[dict]: # each with case, variant, dtype, seconds (or bytes), ...
    "The rows that fit; none if the group was not measured."
    found = results['groups'].get(group, {}).get('rows', [])
    return [r for r in found if variant in (None, r['variant']) and dtype in (None, r['dtype']) and all(r['case'].get(k) == v for k, v in case.items())]


def ratio(
    results: dict, # as `load` gives them
    group: str, # one of `GROUPS`
    case: dict, # sizes that single out one case
    variant: str, # the one in question
    peer: str = 'nn.LSTM', # what it is compared with
    dtype: str = 'fp32', # of the variant
    peer_dtype: str | None = None, # of the peer; None: the same
) -> float | None: # how many times faster than the peer the variant is; None if one of them was not measured
    "Ratio of two medians of one run."
    ours, theirs = rows(results, group, variant, dtype, **case), rows(results, group, peer, peer_dtype or dtype, **case)
    return theirs[0]['seconds']['median'] / ours[0]['seconds']['median'] if ours and theirs else None


LIMIT_NOTE = ('limit: the largest median rate (GFLOP/s) of any matrix product in the group gemm, measured at the start and at the end of the run, by dtype; '
              'share_of_limit: operations of the matrix products alone, per second, divided by the limit of that dtype')

def kept(
    path: Path, # results, if there are any
    groups: list[str], # that will be measured
    here: dict, # this machine
    quick: bool, # tiny sizes?
) -> dict: # the groups of the file
    "What a run of some groups leaves as it is. `ValueError` if the file is another machine's, or of other sizes."
    if not path.exists() or set(groups) >= set(GROUPS): return {}
    results = load(path)
    if any(results['machine'].get(k) != here.get(k) for k in ('cpu', 'gpu', 'cores_used', 'capability')) or results['settings']['quick'] != quick:
        raise ValueError(f'{path.name!r} has results of another machine, number of cores or size; expected another file, or all groups')
    return results['groups']


def run(
    device: torch.device, # where
    groups: list[str], # of `GROUPS`
    path: Path, # results
    quick: bool = False, # tiny sizes
    seconds: float = 10., # budget of a case, where three rounds fit into it
    backends: tuple = OURS, # of `OURS`
    old: dict | None = None, # groups that the file keeps, from `kept`
) -> dict: # the results
    "Measure, and write after each group."
    groups = ['gemm'] + [g for g in GROUPS if g in groups and g != 'gemm']
    bench = Bench(device, QUICK if quick else FULL, backends, seconds)
    settings = dict(quick=quick, groups=groups, seconds=seconds, backends=list(backends), rounds=[LEAST_ROUNDS, MOST_ROUNDS])
    versions = dict(python=platform.python_version(), torch=torch.__version__, lstm_video_repr=lstm_video_repr.__version__)
    results = dict(machine=machine(device), versions=versions, date=today(), settings=settings, limit={}, limit_note=LIMIT_NOTE, bf16=bf16_or_why_not(device),
                   backend={d: dict(zip(('name', 'reason'), choose_backend(device, DTYPES[d]))) for d in bench.dtypes}, groups=dict(old or {}))

    def write():
        results['limit'] = bench.limit
        for g in groups:
            if g not in results['groups'] or results['groups'][g]['started'] != results['date']: continue
            results['groups'][g]['limit'] = bench.limit
            for r in results['groups'][g]['rows']:
                if 'gflops_per_s' in r: r['share_of_limit'] = r['gflops_per_s'] / bench.limit[r['dtype']]
        results['groups'] = {g: results['groups'][g] for g in GROUPS if g in results['groups']}
        with replacing(path) as temp: temp.write_text(json.dumps(results, indent=1) + '\n', encoding='utf8')

    def keep(group, found):
        results['groups'][group] = dict(date=today(), started=results['date'], versions=versions, settings=settings, rows=found, left_out=bench.left_out)
        write()

    gemm(bench, 'start')
    keep('gemm', bench.gemm_rows)
    for group in groups[1:]:
        bench.start(group)
        GROUPS[group](bench)
        keep(group, bench.rows)
    gemm(bench, 'end')
    keep('gemm', bench.gemm_rows)
    return results


def today() -> str: # as 2026-01-31T12:00:00+00:00
    "Date and time, in UTC."
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')


# ---- tables

def label(
    case: dict, # sizes
) -> str: # on one line
    "A case, readable."
    return ' '.join(f'{k}={v}' for k, v in case.items())


def aligned(
    lines: list[list[str]], # cells; the first line is the header
) -> str: # text
    "Columns, the first three to the left."
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in lines)


def _times(x): return '-' if x is None else f'{x:.2f}x'
def _count(x): return '-' if x is None else f'{x:.0f}'
def _share(x): return '-' if x is None else f'{x:.0%}'
def _mib(x): return '-' if x is None else f'{x / 2**20:.1f} MiB'


def clip_shares(
    results: dict, # as `load` gives them
) -> list[dict]: # units, dtype, variant of the step, and the share
    "The time of a batch of clips as a share of a training step, at each number of units (one layer, unconditional)."
    made = rows(results, 'clips', 'MovingDigits')
    return [dict(units=r['case']['units'], dtype=r['dtype'], variant=r['variant'], share=made[0]['seconds']['median'] / r['seconds']['median'])
            for r in rows(results, 'composite', layers=1, conditional=False) if made and r['variant'] in OURS]


def reach(
    results: dict, # as `load` gives them
) -> list[tuple[str, str]]: # what, and the figure, or why there is none
    "The figures that matter most: what `backend='auto'` chooses (or the fastest, if that was left out) beside `nn.LSTM`."
    missing = 'not measured: the group is missing, or the variant was left out'
    none = 'not measured: ' + results['bf16']['reason'] if 'reason' in results['bf16'] else missing

    def ours(dtype, figures): # name of the backend and figure
        auto = results['backend'].get(dtype, {}).get('name')
        return (auto, figures[auto]) if auto in figures else max(figures.items(), key=lambda f: f[1])

    def best(group, case, dtype, peer_dtype):
        figures = {b: r for b in OURS if (r := ratio(results, group, case, b, 'nn.LSTM', dtype, peer_dtype))}
        if not figures: return none if 'bf16' in (dtype, peer_dtype) else missing
        name, times = ours(dtype, figures)
        return f'{_times(times)} ({name})'

    lines, fastest = [], 'bf16' if results['bf16']['measured'] else 'fp32'
    for H in dict.fromkeys(r['case']['units'] for r in rows(results, 'layer')):
        case = dict(units=H, input='frames', work='forward+backward')
        for dtype, peer in (('bf16', 'fp32'), ('bf16', 'bf16'), ('fp32', 'fp32')):
            lines.append((f'layer of {H} units, forward + backward, {dtype}, against nn.LSTM {peer}', best('layer', case, dtype, peer)))
    models = [r['case'] for r in rows(results, 'composite', layers=1, conditional=False)]
    if models:
        H = max(c['units'] for c in models)
        case = dict(units=H, layers=1, conditional=False)
        for peer in ('fp32', 'bf16'):
            dtype = fastest if peer == 'fp32' else 'bf16'
            lines.append((f'composite training step, {H} units, 1 layer, {dtype}, against nn.LSTM {peer}', best('composite', case, dtype, peer)))
        shares = {b: r['share_of_limit'] for b in OURS for r in rows(results, 'composite', b, fastest, **case)}
        name, share = ours(fastest, shares) if shares else (None, None)
        lines.append((f'share of the measured {fastest} limit in that step', f'{_share(share)} ({name})' if shares else missing))
    else: lines.append(('composite training step', missing))
    for r in rows(results, 'memory', work='rollout'):
        if r['variant'] == 'reference': continue
        c, b = r['case'], r['bytes']
        lines.append((f'rollout of {c["steps"]} frames, {"conditional" if c["conditional"] else "unconditional"}, {r["variant"]}',
                      f'peak {_mib(b["peak"])}, of which output {_mib(b["output"])}'))
    if not rows(results, 'memory', work='rollout'): lines.append(('memory of a rollout', missing))
    return lines


def table(
    results: dict, # as `load` gives them
) -> str: # plain text
    "Everything that was measured, for reading."
    m, out = results['machine'], []
    out.append(f'{m.get("gpu") or m["cpu"]}, {m["cores_used"]} CPU cores, {m["capability"]}; torch {results["versions"]["torch"]}; {results["date"]}'
               + '; quick sizes'*results['settings']['quick'])
    out.append('limit: ' + ', '.join(f'{v:.0f} GFLOP/s in {k}' for k, v in results['limit'].items()) + ' (the fastest matrix product measured)')
    if not results['bf16']['measured']: out.append('bf16 not measured: ' + results['bf16']['reason'])
    for group, g in results['groups'].items():
        out.append(f'\n{group} ({g["date"]})')
        if group == 'memory':
            lines = [['case', 'variant', 'peak', 'output']]
            lines += [[label(r['case']), r['variant'], _mib(r['bytes']['peak']), _mib(r['bytes']['output'])] for r in g['rows']]
        else:
            peers = [(p, d) for p, d in (('nn.LSTM', 'fp32'), ('nn.LSTM', 'bf16'), ('python loop', 'fp32')) if rows(results, group, p, d)]
            lines = [['case', 'variant', 'dtype', 'median ms', 'quartiles', 'n', *(f'to {p} {d}' for p, d in peers), 'GFLOP/s', 'of limit', 'clips/s']]
            for r in g['rows']:
                s = r['seconds']
                lines.append([label(r['case']), r['variant'], r['dtype'], f'{s["median"]*1e3:.4g}', f'{s["q1"]*1e3:.4g}-{s["q3"]*1e3:.4g}', str(s['n']),
                              *(_times(ratio(results, group, r['case'], r['variant'], p, r['dtype'], d)) for p, d in peers),
                              _count(r.get('gflops_per_s')), _share(r.get('share_of_limit')), _count(r.get('clips_per_s'))])
        out.append(aligned(lines))
        out += [f'not measured: {label(l["case"])} {l["variant"] or "all variants"} {l["dtype"] or ""}: {l["reason"]}' for l in g['left_out']]
        if group != 'clips': continue
        out += [f'a batch of clips takes {r["share"]:.1%} of a composite step of {r["units"]} units ({r["variant"]}, {r["dtype"]})' for r in clip_shares(results)]
    out.append('\nreach')
    out.append(aligned([['what', 'measured'], *map(list, reach(results))]))
    return '\n'.join(out)


# ---- the command

def main(
    argv: list[str] | None = None, # None: those of the program
):
    "What the command line asks for."
    p = argparse.ArgumentParser(description='Measure this package beside its peers, in one run.')
    p.add_argument('--device', default='cpu', help="'cpu' or 'cuda' (default: cpu)")
    p.add_argument('--groups', default=','.join(GROUPS), help=f'some of {",".join(GROUPS)} (default: all; gemm is part of every run)')
    p.add_argument('--backends', help=f'some of {",".join(OURS)} (default: all; with --quick without compiled)')
    p.add_argument('--seconds', type=float, default=10., help=f'budget of a case; {LEAST_ROUNDS} rounds are made in any case, {MOST_ROUNDS} at most (default: 10)')
    p.add_argument('--quick', action='store_true', help='tiny sizes, to see that everything runs')
    p.add_argument('--out', type=Path, help='results (default: benchmarks/results/<device>-<capability>.json, with --quick ...-quick.json)')
    p.add_argument('--table', type=Path, metavar='FILE', help='only print the table of these results')
    args = p.parse_args(argv)
    if args.table:
        try: print(table(load(args.table)))
        except (OSError, ValueError) as error: p.error(f'argument --table: {error}')
        return

    def some(name, given, known):
        given = given.split(',')
        wrong = [g for g in given if g not in known]
        if wrong: p.error(f'argument --{name}: {wrong[0]!r} is unknown; expected some of {", ".join(known)}, separated by commas')
        return [k for k in known if k in given]

    groups = some('groups', args.groups, GROUPS)
    backends = some('backends', args.backends or ','.join(b for b in OURS if not (args.quick and b == 'compiled')), OURS)
    here = ['cpu'] + [f'cuda{i}' for i in ('', *(f':{n}' for n in range(torch.cuda.device_count())))]*torch.cuda.is_available()
    if args.device not in here: p.error(f'argument --device: {args.device!r} is not there; expected {" or ".join(map(repr, here))}')
    if not 0 < args.seconds < math.inf: p.error(f'argument --seconds: {args.seconds!r}; expected a number above 0')
    device = torch.device(args.device)
    if device.index is not None: torch.cuda.set_device(device)
    out = args.out
    if out is None:
        out = HERE/'results'/f'{device.type}-{capability(device)}{"-quick" if args.quick else ""}.json'
        out.parent.mkdir(exist_ok=True)
    if not out.parent.is_dir(): p.error(f'argument --out: {str(out)!r}; expected a file in an existing folder')
    try: old = kept(out, groups, machine(device), args.quick)
    except (OSError, ValueError) as error: p.error(f'argument --out: {error}')
    print('\n' + table(run(device, groups, out, args.quick, args.seconds, tuple(backends), old)))


if __name__ == '__main__': main()

"The parts of `benchmarks/gpu.py`: what is checked, measured and trained. Each runs in a process of its own and writes one file as it goes."
import copy
import gc
import hashlib
import io
import json
import math
import os
import platform
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [p for p in (str(HERE.parent), str(HERE)) if p not in sys.path]

import bench
import lstm_video_repr
from lstm_video_repr import fast_lstm
from lstm_video_repr.clips import MovingDigits, _find_mnist, fixed_test_set
from lstm_video_repr.fast_lstm import choose_backend, fast_bf16, lstm_flops
from lstm_video_repr.lstm import PeepholeLSTM, set_backend
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLoss, VideoLSTM, VideoLSTMConfig
from lstm_video_repr.training import _autocast, _Recorder, get_recipe, make_optimizer, replacing, train
from lstm_video_repr.zoo import load_model, load_pretrained, preset, save_model
from peers import NNVideoLSTM

MB = 10**6
PIECE, ALL_PIECES = 16*MB, 64*MB    # of what is brought home: a file, and all of them
AUTHORS = 345.                      # nats per future frame at which the authors' one-layer model stood after 2.3 million clips (log of their first release)

# The four models of the paper's table and the authors' own, by part: preset, the paper's nats per future frame.
ROWS = {'row-composite-conditional': ('composite-conditional-future', 341.2), 'row-composite': ('composite', 344.9),
        'row-conditional-future': ('conditional-future-predictor', 343.5), 'row-future': ('future-predictor', 350.2), 'row-authors': ('1-layer', AUTHORS)}

FULL = SimpleNamespace(
    image_size=64, digit_size=28, steps=10, sample=.1, repetitions=5, squares=(4096, 8192), batch=512, units=(2048, 1024), frame_values=4096,
    agree=dict(batch=48, steps=10, values=320, units=256), whole=dict(units=2048, layers=2, batch=16), trained=dict(units=128, batch=16, steps=12),
    clips=512, evaluated=200, first=2, pace=4., batches=(512, 256, 1024, 128), made=(128, 256, 512, 1024, 4096),
    test=10_000, test_batch=500, validated=500, log_every=50, paced_every=10, rates=(2.5e-4, 5e-4, 1e-3, 2e-3), saving=400*MB, most=10**7)
TINY = SimpleNamespace(
    image_size=16, digit_size=8, steps=3, sample=.001, repetitions=2, squares=(64,), batch=4, units=(8,), frame_values=256,
    agree=dict(batch=3, steps=3, values=5, units=6), whole=dict(units=8, layers=2, batch=2), trained=dict(units=8, batch=2, steps=6),
    clips=8, evaluated=8, first=1, pace=.05, batches=(4, 2), made=(2, 4),
    test=20, test_batch=10, validated=4, log_every=2, paced_every=1, rates=(1e-3, 4e-3), saving=400*MB, most=10)


# ---- a part, its file and its clock

def plain(
    x, # numbers, arrays, tensors, and lists and dicts of these
): # the same, of what JSON knows; fractions with 6 digits, None for what is no number
    "What goes into a file."
    if isinstance(x, dict): return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, (torch.Tensor, np.ndarray, np.generic)): x = x.tolist()
    if isinstance(x, (list, tuple)): return [plain(v) for v in x]
    if not isinstance(x, float): return x
    return float(f'{x:.6g}') if math.isfinite(x) else None


def thinned(
    rows: list, # in order
    n: int = 100, # about so many are kept
) -> list: # every so-manieth, the first and the last among them
    "Enough of a curve to draw it."
    if len(rows) <= n: return rows
    return [rows[round(i * (len(rows) - 1) / (n - 1))] for i in range(n)]


def read(
    path: Path, # of a part
) -> dict | None: # what the part has found; None if there is no file
    "A part's file. `OSError` names one that is damaged."
    if not path.is_file(): return None
    try: found = json.loads(path.read_text(encoding='utf8'))
    except ValueError as error: raise OSError(f'{path.name} is no whole JSON file ({error}); delete it, or use --fresh') from error
    if not isinstance(found, dict) or not {'part', 'status', 'settings'} <= set(found): raise OSError(f'{path.name} is no file of this program; delete it, or use --fresh')
    return found


def write(
    path: Path, # of a part
    found: dict, # what it has found
):
    "All or nothing."
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temp: temp.write_text(json.dumps(plain(found), indent=1) + '\n', encoding='utf8')


def find_digits() -> str: # 'mnist' or 'embedded'
    "MNIST if LVR_DATA has all of it, else the embedded digits. Nothing is downloaded."
    folder = os.environ.get('LVR_DATA')
    return 'mnist' if folder and all(_find_mnist(folder, split) for split in ('train', 'test')) else 'embedded'


class Part:
    "What a part is given: where it computes, its sizes, the time it has, and the file it fills."
    def __init__(
        self,
        name: str, # one of `PARTS`
        out: Path, # folder of the files
        work: Path, # folder for checkpoints
        settings: dict, # device, rehearse, digits, seed, batch, lr, units
        seconds: float, # that it may take
    ):
        self.deadline, self.began = time.monotonic() + seconds, time.monotonic()
        self.name, self.out, self.path, self.work, self.settings = name, Path(out), Path(out)/f'gpu-{name}.json', Path(work)/name, settings
        self.options, self.device = SimpleNamespace(**settings), torch.device(settings['device'])
        self.sizes = TINY if settings['rehearse'] else FULL
        old = read(self.path) or {}
        self.before = old.get('seconds', 0.)
        self.found = dict(part=name) | old | dict(
            status='running', missing=[], date=bench.today(), machine=bench.machine(self.device), settings=settings,
            versions=dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__, lstm_video_repr=lstm_video_repr.__version__))
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

    def free(self):
        "Give memory back."
        gc.collect()
        if self.device.type == 'cuda': torch.cuda.empty_cache()


def run_part(
    name: str, # one of `PARTS`
    out: Path, # folder of the files
    work: Path, # folder for checkpoints
    settings: dict, # as for `Part`
    seconds: float, # that it may take
):
    "Run a part and leave its file: complete, partial (time was short) or failed."
    part = Part(name, out, work, settings, seconds)
    if part.device.index is not None: torch.cuda.set_device(part.device)
    products(part.device, 'fp32')
    if part.options.rehearse: # the same path without a compiler: it would take longer than all the rest
        for compiled in (fast_lstm._compiled_forward, fast_lstm._compiled_backward): compiled.fast = compiled.function
    part.save()
    try: PARTS[name](part)
    except Exception as error:
        import traceback
        traceback.print_exc()
        part.found |= dict(status='failed', reason=bench.said(error))
    else: part.found['status'] = 'partial' if part.found['missing'] else 'complete'
    part.save()


# ---- how products are made, and models

def products(
    device: torch.device, # where
    dtype: str, # 'fp32', 'tf32', or 'bf16' (by autocast, elsewhere)
):
    "Allow tensor cores for float32 products, or not."
    if device.type == 'cuda': torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == 'tf32'


def autocast(
    device: torch.device, # where
    dtype: str, # 'bf16' for products in bf16
): # a context
    "As `train` does it."
    return _autocast('bf16' if dtype == 'bf16' else 'fp32', device)[0]


def drawn(
    config: VideoLSTMConfig, # what to build
    device: torch.device, # where its weights are drawn: the paper's sizes take half a minute on a CPU
    seed: int = 0, # of the draw
) -> VideoLSTM: # untrained
    "A model with fresh weights."
    with torch.device(device): return VideoLSTM(replace(config), torch.Generator(device).manual_seed(seed))


def problem() -> str | None: # what the compiler said
    "Why compiling failed, if it did."
    return fast_lstm._compiled_forward.problem or fast_lstm._compiled_backward.problem


def new_compiler(
    part: Part, # whose rehearsal compiles nothing
):
    "Forget compiled code: each case at its own sizes, as in a run of one model."
    if part.options.rehearse: return
    torch.compiler.reset()


# ---- agree: does the device compute what the reference computes?

def relative(
    a: torch.Tensor, # a result
    b: torch.Tensor, # what it should be
) -> float: # |a - b| / |b|; infinite if `a` is not finite
    "How far off a result is."
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    error = ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
    return error if math.isfinite(error) else math.inf


def layer_values(
    lstm: PeepholeLSTM, # float64, on the CPU; left as it is
    x: torch.Tensor | None, # (B, T, D), float64
    state: tuple, # (h, c), float64
    weights: list, # of the sum whose gradient is taken: like out, h, c
    backend: str, # how to compute
    device: torch.device, # where
    dtype: str, # 'fp64', 'fp32' or 'bf16'
) -> dict: # name -> tensor: out, h, c and the gradients of x, h0, c0 and all parameters
    "Everything a layer gives, by one way of computing."
    kind = dict(device=device, dtype=torch.float64 if dtype == 'fp64' else torch.float32)
    lstm = set_backend(copy.deepcopy(lstm).to(**kind), backend)
    leaves = {'h0': state[0].to(**kind).requires_grad_(), 'c0': state[1].to(**kind).requires_grad_()}
    if x is not None: leaves['x'] = x.to(**kind).requires_grad_()
    with autocast(device, dtype): out, (h, c) = lstm(leaves.get('x'), (leaves['h0'], leaves['c0']), weights[0].shape[1])
    leaves |= dict(lstm.named_parameters())
    total = sum((v * w.to(device=v.device, dtype=v.dtype)).sum() for v, w in zip((out, h, c), weights))
    grads = torch.autograd.grad(total, list(leaves.values()))
    return dict(out=out, h=h, c=c) | {f'gradient of {k}': g for k, g in zip(leaves, grads)}


def _check(part, name, values, allowed, **more):
    "Add a row: `values` is name -> error; the worst one counts."
    worst = max(values, key=values.get)
    row = dict(name=name, error=values[worst], worst=worst, allowed=allowed, ok=bool(values[worst] <= allowed)) | more
    if not math.isfinite(row['error']): row['error'] = 'not finite'
    part.found['checks'].append(row)
    part.say(f'{"ok    " if row["ok"] else "FAILED"} {name}: {row["error"]} ({worst}), allowed {allowed}')
    part.save()


def _agree_layers(part, backend, dtype):
    "A layer, with and without input, with and without peepholes, one and two of them."
    s, worst = part.sizes.agree, {}
    B, T, D, H = s['batch'], s['steps'], s['values'], s['units']
    for n, (frames, peephole, layers) in enumerate([(f, p, l) for f in (True, False) for p in (True, False) for l in (1, 2)]):
        g = torch.Generator().manual_seed(part.options.seed + n)
        def normal(*shape): return torch.randn(*shape, generator=g, dtype=torch.float64)
        lstm = PeepholeLSTM(D if frames else 0, H, layers, peephole=peephole, backend='reference', generator=g).double()
        if peephole:
            for l in range(layers): nn.init.normal_(getattr(lstm, f'weight_peephole_l{l}'), std=.3, generator=g)
        x, state = normal(B, T, D) if frames else None, (normal(layers, B, H).tanh(), normal(layers, B, H))
        weights = [normal(B, T, H), normal(layers, B, H), normal(layers, B, H)]
        want = layer_values(lstm, x, state, weights, 'reference', torch.device('cpu'), 'fp64')
        got = layer_values(lstm, x, state, weights, backend, part.device, dtype)
        name = f'{"with" if frames else "without"} input, {"with" if peephole else "without"} peepholes, {layers} layer{"s"*(layers > 1)}'
        yield name, {k: relative(got[k], want[k]) for k in want}


def _agree_model(part, dtype):
    "Loss and every gradient of the two-layer composite at full size."
    s, side = part.sizes.whole, part.sizes.image_size
    model = drawn(VideoLSTMConfig((1, side, side), s['units'], s['layers'], conditional_future=True), part.device, part.options.seed)
    g = torch.Generator().manual_seed(part.options.seed)
    past, future = (torch.rand(s['batch'], part.sizes.steps, 1, side, side, generator=g).round(decimals=1) for _ in range(2))
    with autocast(part.device, dtype): loss = model.loss(past.to(part.device), future.to(part.device)).total
    loss.backward()
    got = {'loss': loss.detach().cpu()} | {f'gradient of {k}': p.grad.cpu() for k, p in model.named_parameters()}
    twin = set_backend(model.cpu().double(), 'reference')
    twin.zero_grad()
    loss = twin.loss(past.double(), future.double()).total
    loss.backward()
    want = {'loss': loss} | {f'gradient of {k}': p.grad for k, p in twin.named_parameters()}
    return {k: relative(got[k], want[k]) for k in want}


def _agree_clips(part, digits, n_digits):
    "Values that differ between clips made here and on the CPU."
    here, there = (MovingDigits(digits, n_digits, seed=part.options.seed + 3, device=d) for d in (part.device, 'cpu'))
    first = 10_007 # anywhere
    a, b = here.clips(first, part.sizes.clips).cpu(), there.clips(first, part.sizes.clips)
    return {'values that differ': float((a != b).sum())}


def _losses(part, precision, record, path=None, stop=None):
    "The losses of a short training, step by step."
    s = part.sizes.trained
    config = VideoLSTMConfig(hidden_size=s['units'], num_layers=2, conditional_future=True)
    model = drawn(config, part.device, part.options.seed)
    def halt(progress): progress.stop = progress.step == stop
    clips = MovingDigits('embedded', seed=part.options.seed, device=part.device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        history = train(model, clips, s['steps'], batch_size=s['batch'], lr=5e-4, warmup=2, log_every=1, progress=None, precision=precision, record=record,
                        checkpoint=path, callbacks=[halt] if stop else [])
    refused = [str(w.message) for w in said if 'could not be recorded' in str(w.message)]
    if refused: raise RuntimeError(refused[0])
    return [r['total'] for r in history.rows]


def _agree_training(part, precision, resumed):
    "A training whose step is recorded, against one that runs command by command; optionally interrupted and resumed."
    want = _losses(part, precision, False)
    if resumed:
        part.work.mkdir(parents=True, exist_ok=True)
        path = part.work/'resumed.safetensors'
        path.unlink(missing_ok=True)
        _losses(part, precision, True, path, len(want) // 2)
        got = _losses(part, precision, True, path)
        path.unlink()
        part.work.rmdir()
    else: got = _losses(part, precision, True)
    if len(got) != len(want): raise RuntimeError(f'{len(got)} losses instead of {len(want)}')
    return {f'loss of step {n}': abs(a - b) / abs(b) for n, (a, b) in enumerate(zip(got, want), 1)}


def _agree_evaluation(part):
    "All scores by frame, here and on the CPU."
    s = part.sizes
    model = drawn(VideoLSTMConfig(hidden_size=s.trained['units'], num_layers=2, conditional_future=True), part.device, part.options.seed)
    clips = MovingDigits('embedded', split='test', seed=part.options.seed, device=part.device)
    train(model, clips, s.trained['steps'], batch_size=s.trained['batch'], progress=None)
    found = []
    for device in (part.device, 'cpu'):
        scores = evaluate(model.to(device), fixed_test_set('embedded', s.evaluated, device=device), s.evaluated)
        found.append({f'{task}, {k}': torch.tensor(v) for task in ('reconstruction', 'future') for k, v in getattr(scores, task).per_frame.items()})
    return {k: relative(found[0][k], v) for k, v in found[1].items()}


def agree(
    part: Part, # what checks
):
    "The device against the reference in float64 on the CPU, and against itself."
    checks = part.found.setdefault('checks', [])
    done = {row['name'] for row in checks}
    digits = part.options.digits
    jobs = [(f'{backend} layer, {dtype}', None, (backend, dtype), allowed) for backend in ('fused', 'compiled') for dtype, allowed in (('fp32', 1e-5), ('bf16', 2e-2))]
    jobs += [(f'clips of {n} digits on the device, bit for bit', _agree_clips, (digits, n), 0.) for n in (2, 1, 3)]
    jobs += [(f'recorded training step{", resumed half way"*resumed}, {p}', _agree_training, (p, resumed), allowed)
             for p, allowed in (('fp32', 1e-5), ('bf16', 1e-3)) for resumed in (False, True)]
    jobs += [('evaluation on the device and on the CPU', _agree_evaluation, (), 1e-5), ('composite of full size, loss and gradients, fp32', _agree_model, ('fp32',), 1e-5),
             ('composite of full size, loss and gradients, bf16', _agree_model, ('bf16',), 5e-2)]
    longest, before = 0., None
    for name, job, arguments, allowed in jobs:
        if before != (job, arguments[:1]): new_compiler(part) # what is compiled for other sizes only gets in the way
        before = job, arguments[:1]
        if part.left() < longest * 1.2:
            part.miss(name)
            continue
        start = time.monotonic()
        try:
            if job is None: # eight rows, one for each kind of layer
                if arguments[1] == 'bf16': new_compiler(part)
                for kind, values in _agree_layers(part, *arguments):
                    if f'{name}, {kind}' in done: continue
                    more = dict(compiler=bench.said(RuntimeError(problem()))) if 'compiled' in arguments and problem() else {}
                    _check(part, f'{name}, {kind}', values, allowed, **more)
            elif name not in done: _check(part, name, job(part, *arguments), allowed)
        except Exception as error: # the next check may work
            checks.append(dict(name=name, error=bench.said(error), worst=None, allowed=allowed, ok=False))
            part.say(f'FAILED {name}: {bench.said(error)}')
        part.free()
        longest = max(longest, time.monotonic() - start)
    part.found |= dict(failed=[row['name'] for row in checks if not row['ok']], compiler=problem() and bench.said(RuntimeError(problem())))


# ---- speed: beside cuDNN, and beside the limit of the device

class AsOurs(nn.Module):
    "A peer's model that answers as ours does, so that both are trained and recorded by the same lines."
    def __init__(
        self,
        peer: NNVideoLSTM, # its `loss` is one number
    ):
        super().__init__()
        self.peer = peer

    def loss(
        self,
        past: torch.Tensor, # (B, T, *frame)
        future: torch.Tensor, # (B, T', *frame)
        check: bool = False, # not looked at
    ) -> VideoLoss: # both decoders in one
        "Nats per frame of both decoders, added."
        return VideoLoss(None, self.peer.loss(past, future))


def _on_cuda(device): return device.type == 'cuda'


def plain_step(
    model: nn.Module, # with a `loss` as ours
    optimizer: torch.optim.Optimizer, # of its weights
    context, # autocast, or nothing
    past: torch.Tensor, # (B, T, *frame)
    future: torch.Tensor, # (B, T', *frame)
): # a call
    "One step of training, command by command, as `train` does it."
    def call():
        optimizer.zero_grad(set_to_none=True)
        with context: loss = model.loss(past, future, check=False)
        loss.total.backward()
        optimizer.step()
    return call


def recorded_step(
    model: nn.Module, # as for `plain_step`, and so on
    optimizer: torch.optim.Optimizer,
    context,
    past: torch.Tensor,
    future: torch.Tensor,
): # a call
    "The same, recorded by what `train` records with, and replayed. `RuntimeError` if it cannot be recorded; off CUDA the plain step."
    call = plain_step(model, optimizer, context, past, future)
    if not _on_cuda(past.device): return call
    recorder = _Recorder(model, optimizer, 'frame', context)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        while not recorder.ready(past, future):
            if recorder.past is not None: raise RuntimeError(str(said[-1].message) if said else 'the step could not be recorded')
            with recorder.aside(): call()
    return lambda: recorder(past, future)


def graphed(
    call, # does the same work each time, on tensors that stay where they are
    device: torch.device, # where
): # a call
    "The work of a call as a CUDA graph; off CUDA the call."
    if not _on_cuda(device): return call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3): call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream): kept = call()
    return lambda: (graph.replay(), kept)[0]


def take_turns(
    timer: bench.Bench, # measures, and collects rows
    case: dict, # the sizes that the variants share
    makers: dict, # (variant, dtype) -> a function that makes the call to be timed
    flops: int, # operations in the matrix products of a call
    per_second: dict, # name of a rate -> how many of these a call makes
    compiled: list, # gets what the first calls of compiled variants took
):
    "Time the variants of a case in turn, round after round, and add a row for each."
    calls, repeat = {}, {}
    for (variant, dtype), make in makers.items():
        products(timer.device, dtype)
        try:
            call = make()
            first = timer.clock(call)
            timer.clock(call)
            repeat[variant, dtype] = max(1, math.ceil(timer.sizes.sample / timer.clock(call)))
        except (RuntimeError, NotImplementedError, ValueError) as error:
            timer.leave_out(case, variant, dtype, bench.said(error))
            continue
        if variant == 'compiled': compiled.append(dict(case=case, dtype=dtype, first_call=first, problem=problem() and bench.said(RuntimeError(problem()))))
        calls[variant, dtype] = call
    samples, order = {k: [] for k in calls}, list(calls)
    for n in range(bench.MOST_ROUNDS if timer.sizes is not TINY else bench.LEAST_ROUNDS):
        for k in order[n % len(order):] + order[:n % len(order)]:
            products(timer.device, k[1])
            samples[k].append(timer.clock(calls[k], repeat[k]))
    products(timer.device, 'fp32')
    for (variant, dtype), s in samples.items():
        timer.add(case, variant, dtype, s, flops, per_second)
        row = timer.rows[-1]
        row['share_of_limit'] = row['gflops_per_s'] / timer.limit[dtype]
        if 'compiled' in variant and problem(): row['note'] = 'compiling failed: computed as fused'


def _composite_case(part, timer, H, L, B, dtypes, peers=True):
    "A training step of the composite model, made from these sizes: case, makers, operations, rates."
    s, recipe = part.sizes, get_recipe('adam')
    D, T = timer.frame_values, s.steps
    case = dict(units=H, layers=L, conditional=False, batch=B, steps=T, values=D)
    new_compiler(part)
    past, future = (x.contiguous() for x in bench.pictures(timer).batch(B))
    model = drawn(VideoLSTMConfig((1, s.image_size, s.image_size), H, L), part.device)
    optimizer, makers = make_optimizer(model, recipe), {}
    if peers:
        with torch.device(part.device): peer = AsOurs(NNVideoLSTM(D, H, L))
        theirs = make_optimizer(peer, recipe)
    for d in dtypes:
        def ours(how, backend, d=d): return lambda: how(set_backend(model, backend), optimizer, autocast(part.device, d), past, future)
        def others(how, d=d): return lambda: how(peer, theirs, autocast(part.device, d), past, future)
        makers['compiled', d] = ours(_plain_as('compiled'), 'compiled')
        if peers: makers['fused', d], makers['nn.LSTM', d] = ours(_plain_as('fused'), 'fused'), others(plain_step)
        makers['compiled, recorded', d] = ours(recorded_step, 'compiled')
        if peers: makers['nn.LSTM, recorded', d] = others(recorded_step)
    return case, makers, bench.composite_flops(B, T, D, H, L, False), dict(clips_per_s=B)


def _plain_as(backend):
    "`plain_step` for a model that others compute in other ways in between. (A recorded step stays what it was.)"
    def make(model, *rest):
        call = plain_step(model, *rest)
        return lambda: (set_backend(model, backend), call())
    return make


def _layer_case(part, timer, H, L, B, dtypes):
    "Layers over frames, forward and backward."
    s, D = part.sizes, timer.frame_values
    case = dict(input='frames', work='forward+backward', units=H, layers=L, batch=B, steps=s.steps, values=D)
    new_compiler(part)
    with torch.device(part.device):
        ours = {b: PeepholeLSTM(D, H, L, backend=b, generator=torch.Generator(part.device).manual_seed(0)) for b in ('compiled', 'fused')}
        theirs = nn.LSTM(D, H, L, batch_first=True)
        half = nn.LSTM(D, H, L, batch_first=True, dtype=torch.bfloat16)
    x, grad, makers = timer.random(B, s.steps, D), timer.random(B, s.steps, H), {}
    def work(lstm, d, x=x):
        context, weights = autocast(part.device, d), list(lstm.parameters())
        def call():
            with context: out = lstm(x)[0]
            return torch.autograd.grad(out, weights, grad.to(out.dtype))
        return call
    for d in dtypes:
        makers['compiled', d] = lambda d=d: work(ours['compiled'], d)
        makers['fused', d] = lambda d=d: work(ours['fused'], d)
        makers['nn.LSTM', d] = lambda d=d: work(theirs, d)
        if d == 'bf16': makers['nn.LSTM, bf16 weights', d] = lambda: work(half, 'as it is', x.bfloat16())
        makers['compiled, recorded', d] = lambda d=d: graphed(work(ours['compiled'], d), part.device)
        makers['nn.LSTM, recorded', d] = lambda d=d: graphed(work(theirs, d), part.device)
        if d == 'bf16': makers['nn.LSTM, bf16 weights, recorded', d] = lambda: graphed(work(half, 'as it is', x.bfloat16()), part.device)
    flops = sum(lstm_flops(B, s.steps, D if l == 0 else H, H, training=True, input_grad=l > 0) for l in range(L))
    return case, makers, flops, dict(clips_per_s=B)


def _timer(part):
    "What measures, and the limit of the device by dtype."
    timer = bench.Bench(part.device, part.sizes, ('fused', 'compiled'), part.left())
    if part.options.rehearse: timer.dtypes = ['fp32', 'bf16'] # tiny sizes: any machine can
    bench.gemm(timer, 'start')
    return timer


def speed(
    part: Part, # what measures
):
    "Layers and training steps beside cuDNN's, and beside the fastest matrix product of the same run; what matters most comes first."
    s, found = part.sizes, part.found
    timer = _timer(part)
    largest, *others = s.units
    half = [d for d in timer.dtypes if d == 'bf16']
    whole = [d for d in timer.dtypes if d != 'bf16']
    cases = [('composite', _composite_case, largest, 2, B, half) for B in s.batches] + [('composite', _composite_case, largest, 1, B, half) for B in s.batches]
    cases += [('layer', _layer_case, largest, L, s.batches[0], half) for L in (2, 1)] + [('composite', _composite_case, largest, 2, B, whole) for B in s.batches[:2]]
    cases += [('composite', _composite_case, H, L, B, half) for H in others for L in (2, 1) for B in s.batches[:2]]
    cases += [('layer', _layer_case, H, L, B, half) for H in s.units for L in (2, 1) for B in s.batches[1:]] + [('layer', _layer_case, largest, L, s.batches[0], whole) for L in (2, 1)]
    cases += [('composite', _composite_case, largest, 2, B, whole) for B in s.batches[2:]]
    cases = [c for c in cases if c[-1]]
    groups = {g: {'rows': [], 'left_out': []} | found.get('groups', {}).get(g, {}) for g in ('gemm', 'composite', 'layer')}
    groups['gemm']['rows'] = timer.gemm_rows
    found |= dict(limit=timer.limit, limit_note=bench.LIMIT_NOTE, bf16=bench.bf16_or_why_not(part.device), groups=groups,
                  backend={d: dict(zip(('name', 'reason'), choose_backend(part.device, bench.DTYPES[d]))) for d in timer.dtypes})
    found['settings'] = part.settings | dict(quick=part.options.rehearse)
    compiled = found.setdefault('compiled', [])
    for g in groups.values(): g |= dict(date=found['date'], started=found['date'], versions=found['versions'], settings=found['settings'], limit=timer.limit)
    done = {(g, json.dumps(r['case']), r['dtype']) for g in groups for r in groups[g]['rows']}
    longest = 0.
    for group, make, H, L, B, dtypes in cases:
        start, what = time.monotonic(), f'{group} of {H} units, {L} layers, batch {B}, {"/".join(dtypes)}'
        if part.left() < longest * 1.1:
            part.miss(what)
            continue
        timer.start(group)
        case, makers, flops, per_second = make(part, timer, H, L, B, dtypes)
        makers = {k: m for k, m in makers.items() if (group, json.dumps(case), k[1]) not in done}
        if not makers: continue
        take_turns(timer, case, makers, flops, per_second, compiled)
        groups[group]['rows'] += timer.rows
        groups[group]['left_out'] += timer.left_out
        part.save()
        del makers
        part.free()
        longest = max(longest, time.monotonic() - start)
        part.say(f'{what}: done')
    bench.gemm(timer, 'end')
    groups['gemm']['rows'] = timer.gemm_rows
    found['limit'] = timer.limit
    for g in groups.values():
        g['limit'] = timer.limit
        for r in g['rows']: r['share_of_limit'] = r['gflops_per_s'] / timer.limit[r['dtype']] if r['dtype'] in timer.limit else None


# ---- clips

def clips(
    part: Part, # what measures
):
    "Clips made per second on the device, beside what training eats."
    timer, rows = bench.Bench(part.device, part.sizes, (), part.left()), []
    source = MovingDigits(part.options.digits, seed=part.options.seed, device=part.device)
    eaten = {(r['case']['layers'], r['case']['batch']): r['clips_per_s'] for r in (read(part.out/'gpu-speed.json') or {}).get('groups', {}).get('composite', {}).get('rows', [])
             if r['case']['units'] == part.sizes.units[0] and r['dtype'] == 'bf16' and r['variant'] == 'compiled, recorded'}
    B = part.sizes.batches[0]
    if (2, B) not in eaten: # not measured there: here, then
        timer.limit = dict.fromkeys(bench.DTYPES, math.inf)
        case, makers, flops, rates = _composite_case(part, timer, part.sizes.units[0], 2, B, ['bf16' if fast_bf16(part.device) else 'fp32'], peers=False)
        timer.start('composite')
        take_turns(timer, case, makers, flops, rates, [])
        eaten[2, B] = max((r['clips_per_s'] for r in timer.rows), default=None)
        del makers
    for n in part.sizes.made:
        call = lambda: source.batch(n)
        timer.clock(call)
        repeat = max(1, math.ceil(part.sizes.sample / timer.clock(call)))
        samples = [timer.clock(call, repeat) for _ in range(9)]
        planned = [timer.clock(lambda: source.plan(source.index, n), repeat) for _ in range(3)]
        seconds = bench.quartiles(samples)
        row = dict(batch=n, seconds=seconds, plan_on_the_cpu=bench.quartiles(planned)['median'], clips_per_s=n / seconds['median'])
        for L in (1, 2): # a training of the same batch, or else the hungriest
            hunger = eaten.get((L, n)) or max((v for (l, _), v in eaten.items() if l == L and v), default=None)
            if hunger: row[f'times_what_{L}_layers_eat'] = row['clips_per_s'] / hunger
        rows.append(row)
        part.say(f'batches of {n}: {row["clips_per_s"]:.0f} clips a second')
    part.found |= dict(rows=rows, eaten=[dict(layers=L, batch=b, clips_per_s=v) for (L, b), v in eaten.items()], frames=source.past + source.future, digits=len(source.digits))


# ---- the paper's models

class Pace:
    "A callback that finds out how long a step takes, then stops."
    def __init__(
        self,
        seconds: float, # to look at
    ): self.seconds, self.marks = seconds, []

    def __call__(
        self,
        progress, # as `train` shows it
    ):
        "Note the time of each row; a row waits for the device."
        if progress.row is None: return
        self.marks.append((progress.step, time.perf_counter()))
        progress.stop = len(self.marks) > 3 and self.marks[-1][1] - self.marks[1][1] > self.seconds

    @property
    def step(self) -> float: # seconds
        "A step, on average; the first row, with compiling and recording, is not counted."
        (a, start), (b, end) = self.marks[1], self.marks[-1]
        return (end - start) / (b - a)


def _clips(part, digits, split, seed):
    "Clips of the digits that the part works on, made where it computes."
    return MovingDigits(digits, split=split, seed=seed, device=part.device)


def _stopper(part, reserve):
    "A callback that ends training while there is time for what comes after."
    def stop(progress): progress.stop |= part.left() < reserve
    return stop


def _plan(part, model, clips, held_out, test, seconds, tests, changes):
    "How many steps fit, from a few on a copy: seconds per step, validation and clip of the test, and what is set aside."
    s, start = part.sizes, time.monotonic()
    pace, trial = Pace(s.pace), copy.deepcopy(model)
    train(trial, copy.copy(clips), 10**6, callbacks=[pace], progress=None, log_every=s.paced_every, **changes | dict(lr=1e-5)) # which goes well at any sizes
    n = min(2*s.test_batch, s.test)
    took = []
    for source, many, options in ((test, n, dict(batch_size=s.test_batch)), (held_out, s.validated, dict(ssim=False))):
        for _ in range(2):
            part.wait()
            begun = time.perf_counter()
            evaluate(trial, source, many, **options)
            part.wait()
        took.append(time.perf_counter() - begun)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    saving = 3*size / s.saving + (.5 if part.options.rehearse else 4.)
    reserve = tests * 1.15 * took[0] * s.test / n + saving + (.5 if part.options.rehearse else 6.)
    every = max(1, round(max(1.5, seconds / 150, 15 * took[1]) / pace.step))    # a validation costs no more than a fifteenth
    return dict(seconds_per_step=pace.step, seconds_per_validation=took[1], seconds_of_the_test=took[0] * s.test / n, validate_every=every, reserve=reserve,
                seconds_of_planning=time.monotonic() - start)


def _steps(part, plan, share):
    "So many that the schedule ends in time."
    step = plan['seconds_per_step'] + plan['seconds_per_validation'] / plan['validate_every']
    return min(part.sizes.most, max(2, int(.94 * (share - plan['reserve']) / step)))


def passed(
    history, # of a training
    nats: float, # of future frames in validation
) -> dict | None: # step, clips and seconds at the first validation that is at most so much; None if there is none
    "When a validation passed a mark."
    for row in history.rows:
        if row.get('validation_future') is not None and row['validation_future'] <= nats:
            return {k: row[k] for k in ('step', 'clips', 'seconds', 'validation_future')}
    return None


def _measured(scores):
    "Scores, by frame too, with the digits that mean something."
    def few(k, v): return round(float(v), 4 if k == 'ssim' else 2)
    return {task: dict(overall={k: few(k, v) for k, v in f.overall.items()}, per_frame={k: [few(k, x) for x in v] for k, v in f.per_frame.items()})
            for task in ('reconstruction', 'future') if (f := getattr(scores, task)) is not None}


def fit(
    part: Part, # that trains
    config: VideoLSTMConfig, # what
    digits: str, # of which digits
    batch: int, # clips in a step
    lr: float, # learning rate at its highest
    tests: int = 1, # evaluations on the whole test set that come after
    recipe: str = 'adam', # a name in `RECIPES`
): # the trained model and its history; None and None if there was no time to begin
    "Train for the time there is, on a schedule that ends in it. Half the rate after a loss that is no number."
    found, s = part.found, part.sizes
    clips, held_out = _clips(part, digits, 'train', part.options.seed), _clips(part, digits, 'test', part.options.seed + 1)
    test = fixed_test_set(digits.split('+')[0], s.test, device=part.device)
    part.work.mkdir(parents=True, exist_ok=True)
    checkpoint = part.work/'checkpoint.safetensors'
    found.setdefault('attempts', [])
    for attempt in range(3):
        model = drawn(config, part.device, part.options.seed)
        if not (found.get('plan') and checkpoint.exists()):
            checkpoint.unlink(missing_ok=True)
            part.say(f'{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights, batch {batch}, rate {lr:g}, {digits} digits; how long does a step take?')
            warmup = 500 if not part.options.rehearse else 1
            changes = dict(recipe=recipe, batch_size=batch, lr=lr, warmup=warmup)
            plan = _plan(part, model, clips, held_out, test, part.left(), tests, changes)
            if part.left() < plan['reserve'] + 10 * plan['seconds_per_step']: return part.miss('training'), None
            steps = _steps(part, plan, part.left())
            found['plan'] = plan | dict(steps=steps, changes=changes | dict(warmup=min(warmup, max(1, steps // 20))))
        plan = found['plan']
        part.say(f'{plan["steps"]} steps of {plan["seconds_per_step"]*1e3:.2f} ms, a validation ({plan["seconds_per_validation"]*1e3:.0f} ms) every {plan["validate_every"]}')
        part.save()
        clips.index = 0
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter('always')
                history = train(model, clips, plan['steps'], validate=held_out, validate_every=plan['validate_every'], n_validate=s.validated, checkpoint=checkpoint,
                                checkpoint_every=plan['steps'], callbacks=[_stopper(part, plan['reserve']), _teller(part)], progress=None,
                                log=part.out/f'gpu-{part.name}.jsonl', log_every=s.log_every, **plan['changes'])
            found['warnings'] = [bench.said(w.message) for w in said if 'recorded' in str(w.message)]
            return model, history
        except FloatingPointError as error:
            found['attempts'].append(dict(lr=plan['changes']['lr'], reason=bench.said(error)))
            part.say(f'{error}; once more with half the rate')
            lr, found['plan'] = plan['changes']['lr'] / 2, None
            checkpoint.unlink(missing_ok=True)
            del model
            part.free()
    raise FloatingPointError(f'no rate worked: {", ".join(str(a["lr"]) for a in found["attempts"])}')


def _teller(part):
    "A callback that says how validation goes, now and then."
    said = [-math.inf]
    def tell(progress):
        row = progress.row
        if not row or row.get('validation_future') is None or progress.step < progress.steps and time.monotonic() - said[0] < 15: return
        said[0] = time.monotonic()
        part.say(f'step {row["step"]} of {progress.steps}: future {row["validation_future"]:.1f}, training {row["future"]:.1f}')
    return tell


def train_row(
    part: Part, # one of `ROWS`
):
    "Train one of the paper's models for the time there is, and measure it free-running on the fixed test set."
    name, paper = ROWS[part.name]
    config = preset(name).config if not part.options.rehearse else replace(preset(name).config, hidden_size=part.sizes.trained['units'])
    found, s, digits = part.found, part.sizes, part.options.digits
    found |= dict(preset=name, paper=paper, authors=AUTHORS, digits=digits, batch=_batch(part), config=vars(replace(config)))
    lr = _rate(part)
    model, history = fit(part, config, digits, found['batch'], lr)
    if model is None: return
    _keep_history(part, history, paper)
    _draw_strips(part, model, digits)
    scores = evaluate(model, fixed_test_set(digits, s.test, device=part.device), s.test, batch_size=s.test_batch)
    found['test'] = dict(clips=s.test, decoding='free-running', digits=f'{digits}, test split', **_measured(scores))
    part.say(f'fixed test set: {found["test"]["future"]["overall"]}')
    if found['trained']['step'] >= found['plan']['steps']: _forget(part)


def _batch(part): return part.options.batch or (4 if part.options.rehearse else 256)

def _rate(part):
    "The learning rate asked for, or that which the part `rates` found best, or 0.001."
    if part.options.lr: return part.options.lr
    if part.name == 'bundle': return 1.5e-3
    return (read(part.out/'gpu-rates.json') or {}).get('best') or 1e-3


def _forget(part):
    "What a complete part no longer needs."
    for file in part.work.glob('*'): file.unlink()
    part.work.rmdir()


def _keep_history(part, history, paper):
    "Rows of the log, thinned, when marks were passed, and the curve as a picture."
    last, found = history.rows[-1], part.found
    found['trained'] = {k: last[k] for k in ('step', 'clips', 'seconds', 'total', 'reconstruction', 'future')}
    if last['step'] < found['plan']['steps']: found['missing'].append(f'training stopped at step {last["step"]} of {found["plan"]["steps"]}')
    found['passed'] = {str(mark): passed(history, mark) for mark in dict.fromkeys((AUTHORS, paper, 300., 285.2))}
    found['validation'] = [{k: r[k] for k in ('step', 'clips', 'seconds', 'validation_reconstruction', 'validation_future') if r.get(k) is not None}
                           for r in thinned([r for r in history.rows if r.get('validation_future') is not None])]
    found['curve'] = [{k: r[k] for k in ('step', 'seconds', 'lr', 'reconstruction', 'future') if r.get(k) is not None} for r in thinned(history.rows)]
    part.save()
    import matplotlib
    matplotlib.use('agg')
    marks = {r['step'] for r in thinned([r for r in history.rows if 'validation_future' in r], 25)} # few enough to tell apart
    history.rows = [{k: v for k, v in r.items() if r['step'] in marks or not k.startswith('validation')} for r in history.rows]
    fig = history.plot()
    ax = fig.axes[0]
    values = [r[k] for r in history.rows[len(history.rows)//50:] for k in ('reconstruction', 'future') if r.get(k) is not None]
    ax.set_ylim(min([*values, paper]) - 15, max([*values, paper]) + 15)
    ax.axhline(paper, color='#555555', lw=1, ls=':')
    ax.annotate(f'{paper:g}: {"the authors" if part.name in ("row-authors", "bundle") else "the paper"}, future', (1, paper), xycoords=('axes fraction', 'data'), xytext=(0, 3), textcoords='offset points', ha='right', fontsize=8, color='#555555')
    ax.set_title(f'{found.get("preset", part.name)}: {last["clips"]/1e6:.1f} million clips in {last["seconds"]:.0f} s', fontsize=10)
    fig.savefig(part.out/f'gpu-{part.name}-curve.png', dpi=110, bbox_inches='tight')


@torch.no_grad()
def _draw_strips(part, model, digits, n=3):
    "What the model makes of the first clips of the test set, one below another."
    from PIL import Image
    from lstm_video_repr.pictures import show_prediction
    past, future = (x.cpu() for x in fixed_test_set(digits.split('+')[0], n, device=part.device).batch(n))
    was = model.training
    out = model.eval()(past.to(part.device))
    model.train(was)
    out = replace(out, **{k: v.float().cpu() for k, v in vars(out).items() if torch.is_tensor(v)})
    strips = []
    for i in range(n):
        file = io.BytesIO()
        show_prediction(past, future, out, i=i).savefig(file, format='png', dpi=90, bbox_inches='tight', pad_inches=.08)
        strips.append(Image.open(file).convert('RGB'))
    gap = 14
    page = Image.new('RGB', (max(p.width for p in strips), sum(p.height + gap for p in strips) - gap), 'white')
    for i, p in enumerate(strips): page.paste(p, (0, sum(q.height + gap for q in strips[:i])))
    page.quantize(128).save(part.out/f'gpu-{part.name}-strips.png', optimize=True)


def rates(
    part: Part, # what tries
):
    "Short trainings of the composite, each at another learning rate; the rows take the best one."
    s, rows = part.sizes, part.found.setdefault('rows', [])
    name = ROWS['row-composite'][0]
    config = preset(name).config if not part.options.rehearse else replace(preset(name).config, hidden_size=s.trained['units'])
    clips, held_out = (_clips(part, part.options.digits, split, part.options.seed + n) for n, split in enumerate(('train', 'test')))
    warmup, batch, plan = 200 if not part.options.rehearse else 1, _batch(part), part.found.get('plan')
    for n, lr in enumerate(s.rates):
        if any(r['lr'] == lr for r in rows): continue
        begun = time.monotonic()
        model = drawn(config, part.device, part.options.seed)
        if plan is None: # the same number of steps for all
            pace = Pace(s.pace / 2)
            train(copy.deepcopy(model), copy.copy(clips), 10**6, batch_size=batch, lr=1e-5, callbacks=[pace], progress=None, log_every=s.paced_every)
            evaluate(model, held_out, s.validated, ssim=False)
            plan = part.found['plan'] = dict(steps=min(s.most, max(2, int(.85 * part.left() / (len(s.rates) - n) / pace.step))), seconds_per_step=pace.step)
        steps = plan['steps']
        if part.left() < steps * plan['seconds_per_step']:
            part.miss(f'rate {lr:g}')
            continue
        clips.index = 0
        try: history = train(model, clips, steps, batch_size=batch, lr=lr, warmup=min(warmup, steps // 5), progress=None, log_every=s.log_every, callbacks=[_stopper(part, 2.)])
        except FloatingPointError as error: rows.append(dict(lr=lr, validation=None, reason=bench.said(error)))
        else:
            scores = evaluate(model, held_out, s.validated, ssim=False)
            rows.append(dict(lr=lr, steps=history.rows[-1]['step'], batch=batch, validation=scores.future.overall['nats'], training=history.rows[-1]['future'], seconds=time.monotonic() - begun))
        part.say(f'rate {lr:g}: {rows[-1]["validation"]}')
        part.save()
        del model
        part.free()
    good = [r for r in rows if r['validation'] is not None]
    part.found |= dict(preset=name, best=min(good, key=lambda r: r['validation'])['lr'] if good else None)


# ---- a model to bring home

def cut(
    file: Path, # to be cut
    folder: Path, # where the pieces go
) -> Path: # the list of pieces: NAME.pieces.json
    "Cut a file into pieces of at most 16 MB, with a SHA-256 of each and of the whole."
    data, pieces = file.read_bytes(), []
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f'{file.name}.[0-9]*'): old.unlink()
    for n, start in enumerate(range(0, max(1, len(data)), PIECE)):
        piece = data[start:start + PIECE]
        path = folder/f'{file.name}.{n:02d}'
        with replacing(path) as temp: temp.write_bytes(piece)
        pieces.append(dict(name=path.name, bytes=len(piece), sha256=hashlib.sha256(piece).hexdigest()))
    path = folder/f'{file.name}.pieces.json'
    with replacing(path) as temp: temp.write_text(json.dumps(dict(name=file.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), pieces=pieces), indent=1) + '\n')
    return path


def join(
    listed: Path, # NAME.pieces.json, with the pieces beside it
    folder: Path | None = None, # where the file goes; None: beside its pieces
) -> Path: # the file
    "Put a file together again. `OSError` names a piece that is missing or not what it was."
    try:
        about = json.loads(listed.read_text())
        wanted = [(p['name'], p['sha256']) for p in about['pieces']]
        name, whole = about['name'], about['sha256']
    except (ValueError, KeyError, TypeError) as error: raise OSError(f'{listed.name} is no list of pieces ({error})') from error
    if any(Path(n).name != n for n in (name, *(n for n, _ in wanted))): raise OSError(f'{listed.name} names files in other folders; expected pieces beside it')
    data = b''
    for piece, digest in wanted:
        path = listed.parent/piece
        if not path.is_file(): raise FileNotFoundError(f'{piece} is missing; expected it beside {listed.name}')
        part = path.read_bytes()
        if hashlib.sha256(part).hexdigest() != digest: raise OSError(f'{piece} is damaged: its SHA-256 is not that in {listed.name}')
        data += part
    if hashlib.sha256(data).hexdigest() != whole: raise OSError(f'{name} is not what it was: its SHA-256 is not that in {listed.name}')
    target = (folder or listed.parent)/name
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temp: temp.write_bytes(data)
    return target


def bundle(
    part: Part, # that trains
):
    "A one-layer composite to be bundled: trained, saved in 8 bits, measured as saved beside the bundled model. `--pack` cuts it into pieces."
    found, s, units = part.found, part.sizes, part.options.units or (part.sizes.trained['units'] if part.options.rehearse else 960)
    config = VideoLSTMConfig(hidden_size=units)
    size = sum(p.numel() for p in _meta(config).parameters())
    if size > ALL_PIECES: raise ValueError(f'units is {units}: {size / MB:.1f} MB in 8 bits; expected at most {ALL_PIECES / MB:.0f} MB (1408 units)')
    digits = 'mnist+embedded' if part.options.digits == 'mnist' else part.options.digits
    found |= dict(config=vars(replace(config)), digits=digits, batch=_batch(part), authors=AUTHORS)
    model, history = fit(part, config, digits, found['batch'], _rate(part), tests=2*len(digits.split('+')))
    if model is None: return
    _keep_history(part, history, AUTHORS)
    _draw_strips(part, model, digits)
    card = dict(about='composite of one layer, trained on a GPU', data=f'two moving digits, {digits}, training split', **{'clips seen': found['trained']['clips']},
                steps=found['trained']['step'], seconds=found['trained']['seconds'], seed=part.options.seed, recipe=vars(get_recipe(**found['plan']['changes'])),
                machine=found['machine'], versions=found['versions'])
    file = part.work.parent/'bundle.safetensors' # too large for the folder of results; `--pack` cuts it into pieces
    save_model(model, file, plain(card), torch.int8)
    found['file'] = dict(name=file.name, bytes=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    part.save()
    saved, found['test'] = load_model(file, part.device), {}
    old = load_pretrained(device=part.device)
    for name in digits.split('+'): # before it is brought home, as it will be used
        test = fixed_test_set(name, s.test, device=part.device)
        for what, network in (('new', saved), ('bundled', old)):
            if part.left() < 2: part.miss(f'{what} model on {name} digits'); continue
            found['test'][f'{what}, {name}'] = dict(clips=s.test, **_measured(evaluate(network, test, s.test, batch_size=s.test_batch)))
            part.say(f'{what} model, {name} digits: {found["test"][f"{what}, {name}"]["future"]["overall"]}')
    if found['trained']['step'] >= found['plan']['steps']: _forget(part)


def _meta(config):
    with torch.device('meta'): return VideoLSTM(config)


PARTS = dict(agree=agree, speed=speed, clips=clips, rates=rates, **dict.fromkeys(ROWS, train_row), bundle=bundle)
ABOUT = dict(agree='the device against the reference in float64, recorded steps, clips, evaluation', speed="training steps and layers beside cuDNN's and the matrix-product rate",
             clips='clips made per second', rates='short trainings: which learning rate?', bundle='a one-layer model small enough to bring home',
             **{k: f'training: {p}, nats per future frame (the paper: {v:g})' if k != 'row-authors' else f'training: {p}, time to {v:g} nats' for k, (p, v) in ROWS.items()})

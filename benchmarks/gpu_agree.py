"The part `agree`: does the device compute what the reference computes in float64 on the CPU, and what it did before?"
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gpu_common import Part, autocast, catch_warnings, choose_step, draw_model, load_pictures, reset_compiler
from lstm_video_repr.clips import MovingDigits, fixed_test_set
from lstm_video_repr.fast_lstm import compile_problem
from lstm_video_repr.lstm import PeepholeLSTM, set_backend
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTMConfig
from lstm_video_repr.training import Checkpoint, train
from results import reason_of

CPU = torch.device('cpu')


def relative(
    a: Tensor, # a result
    b: Tensor, # what it should be
) -> float: # |a - b| / |b|; infinite if `a` is not finite
    "How far off a result is."
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    error = ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
    return error if math.isfinite(error) else math.inf


# ---- a layer

def layer_values(
    lstm: PeepholeLSTM, # float64, on the CPU; left as it is
    given: dict, # x (B, T, D) or None, h0 and c0 (L, B, H), weights of the sum whose gradient is taken: like out, h, c
    *,
    backend: str, # how to compute
    device: torch.device, # where
    dtype: str, # 'fp64', 'fp32' or 'bf16'
) -> dict: # name -> tensor: out, h, c and the gradients of x, h0, c0 and all parameters
    "Everything a layer gives, by one way of computing."
    kind = dict(device=device, dtype=torch.float64 if dtype == 'fp64' else torch.float32)
    lstm = set_backend(copy.deepcopy(lstm).to(**kind), backend)
    leaves = {k: given[k].to(**kind, copy=True).requires_grad_() for k in ('h0', 'c0', 'x') if given[k] is not None}
    with autocast(device, dtype):
        out, (h, c) = lstm(leaves.get('x'), (leaves['h0'], leaves['c0']), frames=given['weights'][0].shape[1])
    leaves |= dict(lstm.named_parameters())
    total = sum((v * w.to(device=v.device, dtype=v.dtype)).sum() for v, w in zip((out, h, c), given['weights']))
    grads = torch.autograd.grad(total, list(leaves.values()))
    return dict(out=out, h=h, c=c) | {f'gradient of {k}': g for k, g in zip(leaves, grads)}


def draw_layer(
    sizes: dict, # batch, frames, values, units
    *,
    frames: bool, # with input?
    peephole: bool, # with peepholes?
    layers: int, # L
    seed: int, # of all numbers
) -> tuple[PeepholeLSTM, dict]: # a layer in float64, and what `layer_values` takes
    "A layer whose peepholes are not zero, as they are at first, and what goes in."
    B, T, D, H = (sizes[k] for k in ('batch', 'frames', 'values', 'units'))
    g = torch.Generator().manual_seed(seed)
    def normal(*shape): return torch.randn(*shape, generator=g, dtype=torch.float64)
    lstm = PeepholeLSTM(D if frames else 0, H, layers, peephole=peephole, backend='reference', generator=g).double()
    for l in range(layers if peephole else 0): nn.init.normal_(lstm.weights(l)[3], std=.3, generator=g)
    return lstm, dict(x=normal(B, T, D) if frames else None, h0=normal(layers, B, H).tanh(), c0=normal(layers, B, H),
                      weights=[normal(B, T, H), normal(layers, B, H), normal(layers, B, H)])


def check_layers(
    part: Part, # that checks
    backend: str, # of the layer on the device
    dtype: str, # of its products
    *,
    done: set = frozenset(), # names of checks that are there already
):
    "A layer, with and without input, with and without peepholes, one and two of them: gives pairs (name, errors)."
    kinds = [(frames, peephole, layers) for frames in (True, False) for peephole in (True, False) for layers in (1, 2)]
    for n, (frames, peephole, layers) in enumerate(kinds):
        with_x, with_peepholes = ('with' if v else 'without' for v in (frames, peephole))
        name = (f'{backend} layer, {dtype}, {with_x} input, {with_peepholes} peepholes, '
                f'{layers} layer{"s"*(layers > 1)}')
        if name in done: continue
        lstm, given = draw_layer(part.sizes.agree, frames=frames, peephole=peephole, layers=layers,
                                 seed=part.options.seed + n)
        want = layer_values(lstm, given, backend='reference', device=CPU, dtype='fp64')
        got = layer_values(lstm, given, backend=backend, device=part.device, dtype=dtype)
        yield name, {k: relative(got[k], want[k]) for k in want}


# ---- a model, clips, a training, an evaluation: each gives name -> error

def check_model(
    part: Part, # that checks
    dtype: str, # of the products
) -> dict: # name -> error
    "Loss and every gradient of the two-layer composite at full size."
    s, side = part.sizes.whole, part.sizes.image_size
    config = VideoLSTMConfig(frame_shape=(1, side, side), hidden_size=s['units'], num_layers=s['layers'],
                             conditional_future=True)
    model, g = draw_model(config, part.device, part.options.seed), torch.Generator().manual_seed(part.options.seed)
    pair = [torch.rand(s['batch'], part.sizes.frames, 1, side, side, generator=g).round(decimals=1) for _ in range(2)]
    with autocast(part.device, dtype): loss = model.loss(*(x.to(part.device) for x in pair)).total
    loss.backward()
    got = {'loss': loss.detach().cpu()} | {f'gradient of {k}': p.grad.cpu() for k, p in model.named_parameters()}
    twin = set_backend(model.cpu().double(), 'reference')
    twin.zero_grad()
    loss = twin.loss(*(x.double() for x in pair)).total
    loss.backward()
    want = {'loss': loss} | {f'gradient of {k}': p.grad for k, p in twin.named_parameters()}
    return {k: relative(got[k], want[k]) for k in want}


def check_clips(
    part: Part, # that checks
    n_digits: int, # in a clip
) -> dict: # name -> error
    "Values that differ between clips made here and on the CPU."
    digits, seed = load_pictures(part.options.digits), part.options.seed + 3
    here, there = (MovingDigits(digits, n_digits=n_digits, seed=seed, device=d) for d in (part.device, CPU))
    first = 10_007 # anywhere
    a, b = here.clips(first, part.sizes.clips).cpu(), there.clips(first, part.sizes.clips)
    return {'values that differ': float((a != b).sum()), 'largest difference': float((a - b).abs().max())}


def small_model(
    part: Part, # whose sizes and seed
    backend: str = 'auto', # of its layers
): # a conditional composite of two layers, on the device
    "What is trained in the checks."
    config = VideoLSTMConfig(hidden_size=part.sizes.trained['units'], num_layers=2, conditional_future=True)
    return set_backend(draw_model(config, part.device, part.options.seed), backend)


def losses(
    part: Part, # that checks
    precision: str, # 'fp32' or 'bf16'
    way: dict, # backend, and step: 'plain' or 'recorded'
    *,
    path=None, # of a checkpoint
    stop: int | None = None, # the last step
) -> list[float]: # a loss a step
    "The losses of a short training. `RuntimeError` if its step could not be recorded."
    s = part.sizes.trained
    def halt(run): run.stop |= run.step == stop
    clips = MovingDigits(load_pictures('embedded'), seed=part.options.seed, device=part.device)
    with catch_warnings() as said:
        history = train(small_model(part, way['backend']), clips, steps=s['steps'], batch_size=s['batch'], lr=5e-4,
                        warmup=2, precision=precision, step=way['step'], checkpoint=path and Checkpoint(path),
                        callbacks=[halt], log_every=1, progress=None)
    refused = [text for text in said if 'could not be recorded' in text]
    if refused: raise RuntimeError(refused[0])
    return [r['total'] for r in history.rows]


def check_training(
    part: Part, # that checks
    precision: str, # 'fp32' or 'bf16'
    backend: str = 'auto', # of the layers
    *,
    resumed: bool = False, # interrupted half way?
) -> dict: # name -> error
    "A training whose step is recorded, against one that runs command by command; optionally interrupted and resumed."
    want = losses(part, precision, dict(backend=backend, step='plain'))
    way = dict(backend=backend, step=choose_step(part.device))
    path = part.work/'resumed.safetensors' if resumed else None
    if resumed:
        part.work.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        losses(part, precision, way, path=path, stop=len(want) // 2)
    got = losses(part, precision, way, path=path)
    if resumed: part.forget()
    if len(got) != len(want): raise RuntimeError(f'{len(got)} losses instead of {len(want)}')
    return {f'loss of step {n}': abs(a - b) / abs(b) for n, (a, b) in enumerate(zip(got, want), 1)}


def check_compiled(
    part: Part, # that checks
    precision: str, # 'fp32' or 'bf16'
) -> dict: # name -> error
    "A training with the layers that 'auto' chooses, against one with layers of plain commands."
    want, got = (losses(part, precision, dict(backend=b, step='plain')) for b in ('reference', 'auto'))
    return {f'loss of step {n}': abs(a - b) / abs(b) for n, (a, b) in enumerate(zip(got, want), 1)}


def check_evaluation(
    part: Part, # that checks
) -> dict: # name -> error
    "All scores by frame, here and on the CPU."
    s, model = part.sizes, small_model(part)
    clips = MovingDigits(load_pictures('embedded', 'test'), seed=part.options.seed, device=part.device)
    train(model, clips, steps=s.trained['steps'], batch_size=s.trained['batch'], progress=None)
    found = []
    for device in (part.device, CPU):
        scores = evaluate(model.to(device), fixed_test_set('embedded', s.evaluated, device=device), s.evaluated)
        found.append({f'{task}, {k}': torch.tensor(v) for task in ('reconstruction', 'future')
                      for k, v in getattr(scores, task).per_frame.items()})
    return {k: relative(found[0][k], v) for k, v in found[1].items()}


# ---- the part

@dataclass(frozen=True)
class Job:
    "A check, or eight of them."
    name: str # of the check; that of layers is the beginning of eight names
    work: Callable # gets the part and the arguments
    arguments: tuple # of the function, after the part
    allowed: float # error
    options: dict = field(default_factory=dict) # of the function
    dtype: str | None = None # of products
    way: dict = field(default_factory=dict) # of training, backend and step, that does not work where the check fails


def layer_jobs(
    backend: str, # of the layers
) -> list[Job]:
    "Layers by themselves."
    way = dict(backend='auto' if backend == 'compiled' else backend)
    return [Job(f'{backend} layer, {dtype}', check_layers, (backend, dtype), allowed, dtype=dtype, way=way)
            for dtype, allowed in (('fp32', 1e-5), ('bf16', 2e-2))]


def training_jobs(
    device: torch.device, # where
    backend: str, # of the layers
    resumed: bool = False, # half way?
) -> list[Job]:
    "Recorded steps."
    more, way = ', layers not compiled'*(backend == 'fused'), dict(backend=backend, step=choose_step(device))
    name = f'recorded training step{more}{", resumed half way"*resumed}'
    return [Job(f'{name}, {p}', check_training, (p, backend), allowed, options=dict(resumed=resumed), dtype=p,
                way={} if resumed else way)
            for p, allowed in (('fp32', 1e-5), ('bf16', 1e-3))]


def jobs(
    device: torch.device, # where
) -> list[Job]:
    "What is checked: first what all else stands on, last what takes longest, which is compiling."
    found = layer_jobs('fused')
    found += [Job(f'clips of {n} digits on the device, bit for bit', check_clips, (n,), 0.) for n in (2, 1, 3)]
    found += training_jobs(device, 'fused') + training_jobs(device, 'auto')
    found += [Job('evaluation on the device and on the CPU', check_evaluation, (), 1e-5)] + layer_jobs('compiled')
    found += [Job(f'training with the layers of choice and with plain ones, {p}', check_compiled, (p,), allowed,
                  dtype=p, way=dict(backend='auto')) for p, allowed in (('fp32', 1e-4), ('bf16', 1e-2))]
    found += training_jobs(device, 'auto', resumed=True)
    return found + [Job(f'composite of full size, loss and gradients, {p}', check_model, (p,), allowed, dtype=p)
                    for p, allowed in (('fp32', 1e-5), ('bf16', 5e-2))]


def plain_number(error: float) -> float | str: # for a file
    "An error that is no number in words."
    return error if math.isfinite(error) else 'not finite'


def note(
    part: Part, # that checks
    name: str, # of the check
    errors: dict, # name -> error; the worst one counts
    *,
    job: Job, # what it belongs to
    **more, # entries of the row
):
    "Add a row, and write. Where it fails it says how far off what is."
    errors = {k: math.inf if math.isnan(e) else e for k, e in errors.items()}
    worst, allowed = max(errors, key=errors.get), job.allowed
    row = dict(name=name, error=plain_number(errors[worst]), worst=worst, allowed=allowed,
               ok=bool(errors[worst] <= allowed), dtype=job.dtype, way=job.way) | more
    if not row['ok']: row['errors'] = {k: plain_number(e) for k, e in errors.items()}
    part.found['checks'].append(row)
    part.say(f'{"ok    " if row["ok"] else "FAILED"} {name}: {row["error"]} ({worst}), allowed {allowed}')
    for k, e in list(row.get('errors', {}).items())[:20]: part.say(f'       {k}: {e}')
    part.save()


def check(
    part: Part, # that checks
    job: Job, # what
):
    "One check, or the eight kinds of a layer, those that are not there yet."
    done = {row['name'] for row in part.found['checks'] if row['worst'] is not None}
    if job.work is not check_layers:
        if job.name not in done: note(part, job.name, job.work(part, *job.arguments, **job.options), job=job)
        return
    for kind, errors in check_layers(part, *job.arguments, done=done):
        broken = compile_problem() if 'compiled' in job.arguments else None
        note(part, kind, errors, job=job, **dict(compiler=reason_of(broken)) if broken else {})


def do_job(
    part: Part, # that checks
    job: Job, # what
):
    "One that breaks is a check that failed, and the next may work, unless the device does no more."
    checks = part.found['checks']
    checks[:] = [r for r in checks if r['name'] != job.name or r['worst'] is not None] # broken before: once more
    if not part.attempt(dict(name=job.name, dtype=job.dtype, way=job.way)): return
    try: check(part, job)
    except Exception as error:
        part.say(f'FAILED {job.name}: {reason_of(error)}')
        if not part.works(): part.give_up(error)
        checks.append(dict(name=job.name, error=reason_of(error), worst=None, allowed=job.allowed, ok=False,
                           dtype=job.dtype, way=job.way))


def agree(
    part: Part, # that checks
):
    "The device against the reference in float64 on the CPU, and against itself."
    checks, took = part.found.setdefault('checks', []), {}
    for job in jobs(part.device):
        reset_compiler(part) # what is compiled for other sizes only gets in the way
        kind = job.work, job.way.get('backend')
        if part.left() < took.get(kind, 1.) * 1.2:
            part.miss(job.name)
            continue
        start = time.monotonic()
        do_job(part, job)
        part.free()
        took[kind] = time.monotonic() - start
    problem = compile_problem()
    part.found |= dict(failed=[row['name'] for row in checks if not row['ok']], compiler=problem and reason_of(problem))

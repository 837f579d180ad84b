"The parts `speed` (training steps and layers beside cuDNN's, and beside the limit of the device) and `clips`."
import json
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import bench
from gpu_common import Part, autocast, draw_model, load_pictures, read, reset_compiler
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.fast_lstm import compile_problem, fast_bf16, lstm_flops
from lstm_video_repr.lstm import PeepholeLSTM, set_backend
from lstm_video_repr.models import VideoLoss, VideoLSTMConfig
from lstm_video_repr.scale import record_graph
from lstm_video_repr.training import get_recipe, make_optimizer
from peers import NNVideoLSTM
from results import reason_of
from timing import (BROKEN, DTYPES, LIMIT_NOTE, Bench, allow_tensor_cores, bf16_or_why_not, chosen_backends, gemm,
                    label, quartiles)

PLANNED = 2 # cases that a plan asks for
COMPILED = 'compiled', 'compiled, recorded'


# ---- what is timed

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
        past: Tensor, # (B, T, *frame)
        future: Tensor, # (B, T', *frame)
        *,
        check: bool = False, # not looked at
    ) -> VideoLoss: # both decoders in one
        "Nats per frame of both decoders, added."
        return VideoLoss(None, self.peer.loss(past, future))


def training_step(
    model: nn.Module, # with a `loss` as ours
    optimizer: torch.optim.Optimizer, # of its weights
    pair: tuple[Tensor, Tensor], # past (B, T, *frame) and future (B, T', *frame)
    *,
    dtype: str, # of the products
): # a call
    "One step of training, command by command, as `train` does it."
    context = autocast(pair[0].device, dtype)
    def call():
        optimizer.zero_grad(set_to_none=True)
        with context: loss = model.loss(*pair, check=False)
        loss.total.backward()
        optimizer.step()
    return call


def record(
    call, # does the same work each time, on tensors that stay where they are
    device: torch.device, # where
): # a call
    "A call's work as a CUDA graph, as `train` records a step; off CUDA the call. `RuntimeError` if it cannot be done."
    if device.type != 'cuda': return call
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream): replay = warm_and_record(call, stream) # the old one comes back even if this fails
    torch.cuda.current_stream(device).wait_stream(stream)
    return replay


def warm_and_record(
    call, # does the same work each time
    stream, # on which all happens
    *,
    record_graph=record_graph, # what records
): # a call
    "A few calls as usual, as `train` makes them before it records; then what does the same without Python."
    for _ in range(3): call()
    kept, play = record_graph(call, stream)
    def replay():
        play()
        return kept
    return replay


def using(
    model: nn.Module, # which is computed in other ways in between
    backend: str, # how it is computed in the call
    call, # to be timed
): # a call
    "A call that sets the backend first. What has been recorded stays what it was."
    def work():
        set_backend(model, backend)
        return call()
    return work


@dataclass
class Case:
    "What is compared at one size."
    sizes: dict # for the rows
    makers: dict # (variant, dtype) -> a function that makes the call to be timed
    flops: int # operations in the matrix products of a call
    per_second: dict # name of a rate -> how many of these a call makes


def composite_case(
    part: Part, # whose sizes, device and seed
    timer: Bench, # that will measure
    *,
    units: int, # H
    layers: int, # L
    batch: int, # B
    dtypes: list, # of the products
    peers: bool = True, # others, too? Else only ours as it trains
) -> Case: # what to compare
    "A training step of the composite model."
    D, T, side, device = timer.frame_values, part.sizes.frames, part.sizes.image_size, part.device
    pair = tuple(x.contiguous() for x in bench.pictures(timer).batch(batch))
    model = draw_model(VideoLSTMConfig((1, side, side), units, layers), device)
    optimizer, makers = make_optimizer(model, get_recipe('adam')), {}
    def ours(backend, d): return using(model, backend, training_step(model, optimizer, pair, dtype=d))
    if peers:
        with torch.device(device): peer = AsOurs(NNVideoLSTM(D, units, layers))
        others = make_optimizer(peer, get_recipe('adam'))
    def theirs(d): return training_step(peer, others, pair, dtype=d)
    for d in dtypes:
        makers['compiled', d] = lambda d=d: ours('compiled', d)
        if peers:
            makers['fused', d] = lambda d=d: ours('fused', d)
            makers['nn.LSTM', d] = lambda d=d: theirs(d)
        makers['compiled, recorded', d] = lambda d=d: record(ours('compiled', d), device)
        if peers: makers['nn.LSTM, recorded', d] = lambda d=d: record(theirs(d), device)
    case = dict(units=units, layers=layers, conditional=False, batch=batch, steps=T, values=D)
    flops = bench.composite_flops(batch, T, D, units=units, layers=layers, conditional=False)
    return Case(case, makers, flops, dict(clips_per_s=batch))


def layer_work(
    lstm: nn.Module, # ours or torch's
    x: Tensor, # (B, T, D)
    grad: Tensor, # (B, T, H), of the outputs
    *,
    dtype: str, # of the products
): # a call
    "Forward and backward of a layer."
    context, weights = autocast(x.device, dtype), list(lstm.parameters())
    def call():
        with context: out = lstm(x)[0]
        return torch.autograd.grad(out, weights, grad.to(out.dtype))
    return call


def layer_case(
    part: Part, # whose sizes and device
    timer: Bench, # that will measure
    *,
    units: int, # H
    layers: int, # L
    batch: int, # B
    dtypes: list, # of the products
) -> Case: # what to compare
    "Layers over frames, forward and backward."
    D, T, H, L = timer.frame_values, part.sizes.frames, units, layers
    with torch.device(part.device):
        ours = {b: PeepholeLSTM(D, H, L, backend=b, generator=torch.Generator(part.device).manual_seed(0))
                for b in ('compiled', 'fused')}
        peer, half = (nn.LSTM(D, H, L, batch_first=True, dtype=t) for t in (torch.float32, torch.bfloat16))
    x, grad, makers = timer.random(batch, T, D), timer.random(batch, T, H), {}
    def add(name, lstm, d, recorded=True, x=x, as_it_is=False):
        work = layer_work(lstm, x, grad, dtype='as it is' if as_it_is else d)
        makers[name, d] = lambda: work
        if recorded: makers[f'{name}, recorded', d] = lambda: record(work, part.device)
    for d in dtypes:
        add('compiled', ours['compiled'], d)
        add('fused', ours['fused'], d, recorded=False)
        add('nn.LSTM', peer, d)
        if d == 'bf16': add('nn.LSTM, bf16 weights', half, d, x=x.bfloat16(), as_it_is=True)
    case = dict(input='frames', work='forward+backward', units=H, layers=L, batch=batch, steps=T, values=D)
    flops = sum(lstm_flops(batch, T, H if l else D, hidden_size=H, training=True, input_grad=l > 0) for l in range(L))
    return Case(case, makers, flops, dict(clips_per_s=batch))


# ---- timing

def make_calls(
    part: Part, # that remembers what has broken
    timer: Bench, # that will measure
    case: Case, # what to compare
    *,
    compiled: list, # gets what the first calls of compiled variants took
) -> tuple[dict, dict]: # (variant, dtype) -> call, and how often a sample calls it
    "Make what is to be timed and call it a few times; what does not run is left out."
    calls, repeat = {}, {}
    for (variant, dtype), make in case.makers.items():
        allow_tensor_cores(timer.device, dtype)
        if not part.attempt(dict(name=f'{label(case.sizes)} {variant}, {dtype}')):
            timer.leave_out(case.sizes, variant, dtype, reason='a process ended over it')
            continue
        try:
            call = make()
            first = timer.clock(call)
            timer.clock(call)
            repeat[variant, dtype] = timer.repeat(timer.clock(call))
        except BROKEN as error:
            timer.leave_out(case.sizes, variant, dtype, reason=reason_of(error))
            if not part.works(): part.give_up(error)
            continue
        calls[variant, dtype] = call
        if variant == 'compiled':
            problem = compile_problem()
            problem = problem and reason_of(problem)
            compiled.append(dict(case=case.sizes, dtype=dtype, first_call=first, problem=problem))
    return calls, repeat


def compare(
    part: Part, # whose rounds
    timer: Bench, # measures, and collects rows
    case: Case, # what to compare
    *,
    compiled: list, # gets what the first calls of compiled variants took
):
    "Time the variants of a case in turn, round after round, and add a row for each."
    calls, repeat = make_calls(part, timer, case, compiled=compiled)
    def set_and(call, dtype): # tf32 or not is a switch of the whole process
        def work():
            allow_tensor_cores(timer.device, dtype)
            return call()
        return work
    samples = timer.take_turns({k: set_and(call, k[1]) for k, call in calls.items()}, repeat, rounds=part.sizes.rounds)
    allow_tensor_cores(timer.device, 'fp32')
    for (variant, dtype), s in samples.items():
        row = timer.add(case.sizes, variant, dtype, samples=s, flops=case.flops, per_second=case.per_second)
        row['share_of_limit'] = row['gflops_per_s'] / timer.limit[dtype]
        if variant in COMPILED and compile_problem(): row['note'] = 'compiling failed: computed as fused'


# ---- the part `speed`

def plan(
    part: Part, # whose sizes
    dtypes: list[str], # that are fast here
) -> list: # group, function that makes the case, its sizes
    "What is compared, the most important first."
    s, half, whole = part.sizes, [d for d in dtypes if d == 'bf16'], [d for d in dtypes if d != 'bf16']
    largest, *others = s.units
    def composites(units, layers, batches, dtypes):
        return [('composite', composite_case, dict(units=H, layers=L, batch=B, dtypes=dtypes))
                for H in units for L in layers for B in batches]
    def stacks(units, layers, batches, dtypes):
        return [('layer', layer_case, dict(units=H, layers=L, batch=B, dtypes=dtypes))
                for H in units for L in layers for B in batches]
    found = composites([largest], (2, 1), s.batches, half) + stacks([largest], (2, 1), s.batches[:1], half)
    found += composites([largest], (2,), s.batches[:2], whole) + composites(others, (2, 1), s.batches[:2], half)
    found += stacks(s.units, (2, 1), s.batches[1:], half) + stacks([largest], (2, 1), s.batches[:1], whole)
    found += composites([largest], (2,), s.batches[2:], whole)
    return [f for f in found if f[2]['dtypes']]


def prepare(
    part: Part, # whose file
    timer: Bench, # that has measured the limit
) -> dict: # name -> group, of this run and of an earlier one that stopped
    "A file like those of bench.py, so that its tables can be made."
    found = part.found
    groups = {g: {'rows': [], 'left_out': []} | found.get('groups', {}).get(g, {})
              for g in ('gemm', 'composite', 'layer')}
    groups['gemm']['rows'] = timer.gemm_rows
    found['settings'] = part.settings | dict(quick=part.options.rehearse)
    for g in groups.values():
        g |= dict(date=found['date'], started=found['date'], versions=found['versions'], settings=found['settings'],
                  limit=timer.limit)
    found |= dict(limit=timer.limit, limit_note=LIMIT_NOTE, bf16=bf16_or_why_not(part.device), groups=groups,
                  backend=chosen_backends(part.device, timer.dtypes))
    found.setdefault('compiled', [])
    return groups


def measure_case(
    part: Part, # that measures
    timer: Bench, # its clock
    job: tuple, # of `plan`
    *,
    groups: dict, # of the file
):
    "One case, unless it is done."
    group, make, sizes = job
    timer.start(group)
    reset_compiler(part)
    case = make(part, timer, **sizes)
    done = {(json.dumps(r['case']), r['dtype']) for r in groups[group]['rows']}
    case.makers = {k: m for k, m in case.makers.items() if (json.dumps(case.sizes), k[1]) not in done}
    if not case.makers: return
    compare(part, timer, case, compiled=part.found['compiled'])
    tried = {(json.dumps(case.sizes), d) for _, d in case.makers}
    before = [l for l in groups[group]['left_out'] if (json.dumps(l['case']), l['dtype']) not in tried]
    groups[group]['rows'] += timer.rows
    groups[group]['left_out'] = before + timer.left_out
    part.save()


def measure_limit(
    part: Part, # that measures
    timer: Bench, # its clock
) -> float: # seconds that it took
    "The rate of matrix products at the start; in a plan only in the type that trains."
    begun = time.monotonic()
    if part.options.plan and 'bf16' in timer.dtypes: timer.dtypes = ['bf16']
    gemm(timer, 'start')
    return time.monotonic() - begun


def finish(
    part: Part, # that has measured
    timer: Bench, # its clock
    groups: dict, # of the file
):
    "The rate of matrix products at the end, and shares of the larger one."
    gemm(timer, 'end')
    groups['gemm']['rows'], part.found['limit'] = timer.gemm_rows, timer.limit
    for g in groups.values():
        g['limit'] = timer.limit
        for r in g['rows']:
            limit = timer.limit.get(r['dtype'])
            r['share_of_limit'] = r['gflops_per_s'] / limit if limit else None


def speed(
    part: Part, # what measures
):
    "Layers and training steps beside cuDNN's, and beside the fastest matrix product of the same run."
    timer = Bench(part.device, part.sizes)
    if part.options.rehearse: timer.dtypes = ['fp32', 'bf16'] # tiny sizes: any machine can
    cases = plan(part, timer.dtypes)
    wanted = PLANNED if part.options.plan else len(cases)
    at_end = measure_limit(part, timer)
    groups, longest = prepare(part, timer), 0.
    for n, job in enumerate(cases):
        start = time.monotonic()
        dtypes = '/'.join(job[2]['dtypes'])
        what = '{} of {units} units, {layers} layers, batch {batch}, {}'.format(job[0], dtypes, **job[2])
        if n >= wanted or part.left() < longest * 1.1 + at_end:
            part.miss(what)
            continue
        measure_case(part, timer, job, groups=groups)
        part.free()
        longest = max(longest, time.monotonic() - start)
        part.say(f'{what}: done')
    finish(part, timer, groups)


# ---- the part `clips`

def find_hunger(
    part: Part, # that measures
) -> dict: # (layers, batch) -> clips that a recorded training step eats in a second
    "From the part `speed`, or measured here."
    speed = (read(part.out/'gpu-speed.json') or {}).get('groups', {}).get('composite', {}).get('rows', [])
    H, B = part.sizes.units[0], part.sizes.batches[0]
    found = {(r['case']['layers'], r['case']['batch']): r['clips_per_s'] for r in speed
             if r['case']['units'] == H and r['dtype'] == 'bf16' and r['variant'] == 'compiled, recorded'}
    if (2, B) in found: return found
    timer, dtype = Bench(part.device, part.sizes), 'bf16' if fast_bf16(part.device) else 'fp32'
    timer.limit = dict.fromkeys(DTYPES, math.inf) # nobody asks for the share here
    timer.start('composite')
    reset_compiler(part)
    case = composite_case(part, timer, units=H, layers=2, batch=B, dtypes=[dtype], peers=False)
    compare(part, timer, case, compiled=[])
    return found | {(2, B): max((r['clips_per_s'] for r in timer.rows), default=None)}


def clips(
    part: Part, # what measures
):
    "Clips made per second on the device, beside what training eats."
    hunger, rows = find_hunger(part), []
    part.free()
    timer = Bench(part.device, part.sizes)
    source = MovingDigits(load_pictures(part.options.digits), seed=part.options.seed, device=part.device)
    for n in part.sizes.made:
        def make(): return source.batch(n)
        def plan(): return source.plan(source.index, n)
        timer.clock(make)
        repeat = timer.repeat(timer.clock(make))
        seconds = quartiles([timer.clock(make, repeat) for _ in range(9)])
        planned = quartiles([timer.clock(plan, repeat) for _ in range(3)])['median']
        row = dict(batch=n, seconds=seconds, plan_on_the_cpu=planned, clips_per_s=n / seconds['median'])
        for L in (1, 2): # a training of the same batch, or else the hungriest
            eaten = hunger.get((L, n)) or max((v for (l, _), v in hunger.items() if l == L and v), default=None)
            if eaten: row[f'times_what_{L}_layers_eat'] = row['clips_per_s'] / eaten
        rows.append(row)
        part.say(f'batches of {n}: {row["clips_per_s"]:.0f} clips a second')
    eaten = [dict(layers=L, batch=b, clips_per_s=v) for (L, b), v in hunger.items()]
    part.found |= dict(rows=rows, eaten=eaten, frames=source.past + source.future, digits=len(source.digits))

"""Speed and memory of this package beside its peers, measured in one run.

    python benchmarks/bench.py                        everything, into benchmarks/results/<device>-<capability>.json
    python benchmarks/bench.py --groups layer,clips   some groups; the file keeps the others
    python benchmarks/bench.py --backends compiled    on a CPU compiling is measured only if it is asked for
    python benchmarks/bench.py --table FILE           the table of an earlier run

Variants of a case take turns, so that whatever else the machine does meets all of them. Freed memory stays with the
process, for all of them alike (`keep_memory`); only the lower rungs of the ladder give it back, and the last shows what
that costs. Results are JSON, in which the
`steps` of a case are frames; `load`, `rows` and `ratio` of `bench_tables.py` read them.
"""
import argparse
import gc
import math
import multiprocessing
import re
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [p for p in (str(ROOT), str(ROOT/'tools'), str(HERE)) if p not in sys.path]

from bench_tables import OURS, load, table
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.fast_lstm import choose_backend, fused_layer, keep_memory, lstm_flops
from lstm_video_repr.lstm import PeepholeLSTM, set_backend
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.percepts import MeanOverPicture, MobileNetV2, PictureEncoder, flow, flow_histogram
from lstm_video_repr.training import get_recipe, make_optimizer
from lstm_video_repr.videos import Patches, Video, make_film, save_video
from peers import NNVideoLSTM, as_loops, python_clips, rows_layer
from results import capability, machine, reason_of, save, stamp, today
from timing import (DTYPES, LEAST_ROUNDS, LIMIT_NOTE, MOST_ROUNDS, Bench, bf16_or_why_not, chosen_backends, gemm,
                    label)

FULL = SimpleNamespace(
    batch=128, frames=10, image_size=64, digit_size=28, units=(512, 1024, 2048), repetitions=5, sample=.02,
    squares=(2048, 4096), squares_on_cuda=(8192,),
    models=[(H, L, conditional) for H in (512, 1024) for L in (1, 2) for conditional in (False, True)]
    + [(2048, 1, False), (2048, 2, False)],
    scaling=dict(steps=[(T, 16, 512) for T in (10, 30, 100, 300, 1000)],
                 batch=[(10, B, 512) for B in (1, 4, 16, 32, 128, 512)],
                 units=[(10, 128, H) for H in (128, 256, 512, 1024, 2048)]),
    memory=dict(units=512, batch=32, frames=(10, 30, 100), rollout_batch=4, rollout_frames=(10, 100, 1000),
                conditional=(False, True)),
    first=dict(units=64, batch=16, processes=7),
    videos=dict(frames=300, size=(240, 320), side=120, batch=32, units=512, components=256, films=8),
    percepts=dict(frames=32, size=(240, 320)))
QUICK = SimpleNamespace(
    batch=4, frames=3, image_size=16, digit_size=8, units=(8, 16), repetitions=3, sample=.001,
    squares=(64,), squares_on_cuda=(),
    models=[(8, 1, False), (8, 2, True)],
    scaling=dict(steps=[(2, 4, 8), (4, 4, 8)], batch=[(2, 1, 8)], units=[(2, 4, 16)]),
    memory=dict(units=8, batch=2, frames=(2,), rollout_batch=2, rollout_frames=(3,), conditional=(False, True)),
    first=dict(units=4, batch=2, processes=LEAST_ROUNDS),
    videos=dict(frames=31, size=(48, 64), side=40, batch=2, units=8, components=8, films=2),
    percepts=dict(frames=3, size=(48, 64)))
LONGEST_STEP = 6. # seconds that a training step may take at the limit of the machine; larger models are left out
LADDER = 'loop of cells', 'reference', 'rows by hand', 'columns', 'in place', 'fused', 'compiled' # one idea each


# ---- layers

def layers(
    bench: Bench, # whose sizes
    units: int, # H
    frames: bool, # over frames (an encoder), or on the state alone (a decoder)?
) -> SimpleNamespace: # ours, peer, x, state, grad
    "Our layer and that of torch, with what goes in."
    B, T, D = bench.sizes.batch, bench.sizes.frames, bench.frame_values if frames else 0
    return SimpleNamespace(
        ours=PeepholeLSTM(D, units, generator=torch.Generator().manual_seed(0)).to(bench.device),
        peer=nn.LSTM(D or 1, units, batch_first=True, device=bench.device),
        x=bench.random(B, T, D) if frames else None,
        zeros=None if frames else torch.zeros(B, T, 1, device=bench.device), # what torch's layer is fed instead
        state=None if frames else tuple(bench.random(1, B, units).requires_grad_() for _ in range(2)),
        grad=bench.random(B, T, units))


def timed(
    bench: Bench, # where
    forward, # gives the outputs
    wanted: list, # tensors whose gradients are made
    *,
    grad: torch.Tensor | None, # of the outputs; None: only forward
): # a call
    "Forward, or forward and backward; the backward pass runs outside autocast, as it should."
    def call():
        if grad is None:
            with torch.no_grad(): return forward()
        out = forward()
        with torch.autocast(bench.device.type, enabled=False): torch.autograd.grad(out, wanted, grad.to(out.dtype))
    return call


def layer_calls(
    bench: Bench, # what measures
    given: SimpleNamespace, # from `layers`
    *,
    backward: bool, # the backward pass, too?
) -> dict: # (variant, dtype) -> call
    "Calls of one layer's variants. All of ours share their weights."
    ours, peer, x, T = given.ours, given.peer, given.x, bench.sizes.frames
    loop, calls, grad = as_loops(ours), {}, given.grad if backward else None
    state = given.state if backward or given.state is None else tuple(v.detach() for v in given.state)
    leaves, seen = list(state or ()), given.zeros if x is None else x
    weights, theirs = [*ours.parameters(), *leaves], [*peer.parameters(), *leaves]
    def of(forward, wanted): return timed(bench, forward, wanted, grad=grad)
    for d in bench.dtypes:
        calls['loop of cells', d] = of(lambda: loop(x, state, frames=T)[0], weights)
        for b in bench.backends:
            calls[b, d] = of(lambda b=b: set_backend(ours, b)(x, state, frames=T)[0], weights)
        if backward and x is not None:
            calls['rows by hand', d] = of(lambda: rows_layer(x, ours), list(ours.parameters()))
        calls['nn.LSTM', d] = of(lambda: peer(seen, state)[0], theirs)
    if 'bf16' in bench.dtypes: calls['nn.LSTM, bf16 weights', 'bf16'] = half_call(bench, peer, seen, state, grad=grad)
    return calls


def half_call(
    bench: Bench, # what measures
    peer: nn.LSTM, # whose sizes
    x: torch.Tensor, # (B, T, D)
    state: tuple | None = None, # (h, c)
    *,
    grad: torch.Tensor | None, # of the outputs; None: only forward
): # a call
    "torch's layer with all its weights in bf16, as nobody trains it."
    half = nn.LSTM(peer.input_size, peer.hidden_size, batch_first=True, device=bench.device, dtype=torch.bfloat16)
    x, backward = x.bfloat16(), grad is not None
    state = None if state is None else tuple(v.detach().bfloat16().requires_grad_(backward) for v in state)
    work = timed(bench, lambda: half(x, state)[0], [*half.parameters(), *(state or ())], grad=grad)
    def call():
        with torch.autocast(bench.device.type, enabled=False): return work()
    return call


def layer(
    bench: Bench, # what measures
):
    "One layer, forward and with its backward pass, over frames (an encoder) and on its state alone (a decoder)."
    B, T = bench.sizes.batch, bench.sizes.frames
    for H in bench.sizes.units:
        for frames in (True, False):
            given = layers(bench, H, frames)
            for backward in (False, True):
                D = given.ours.input_size
                case = dict(input='frames' if frames else 'none', work='forward+backward' if backward else 'forward',
                            units=H, batch=B, steps=T, values=D)
                calls = layer_calls(bench, given, backward=backward)
                bench.compare(case, {k: c for k, c in calls.items() if k[0] != 'rows by hand'},
                              flops=lstm_flops(B, T, D, hidden_size=H, training=backward))


def ladder(
    bench: Bench, # what measures
):
    """How each idea pays: + input product of all frames, + backward by hand, + clips as columns, + in place, + memory
    that is kept, + compiled halves."""
    B, T, D = bench.sizes.batch, bench.sizes.frames, bench.frame_values
    for H in bench.sizes.units:
        given = layers(bench, H, True)
        calls = layer_calls(bench, given, backward=True) | rungs(bench, given)
        found = {(v, d): calls[v, d] for d in bench.dtypes for v in (*LADDER, 'nn.LSTM') if (v, d) in calls}
        before = {v: remember if v in ('fused', 'compiled', 'nn.LSTM') else forget for v, _ in found}
        bench.compare(dict(units=H, batch=B, steps=T, values=D), found, before=before,
                      flops=lstm_flops(B, T, D, hidden_size=H, training=True))
    keep_memory()


def rungs(
    bench: Bench, # what measures
    given: SimpleNamespace, # from `layers`, over frames
) -> dict: # (variant, dtype) -> call
    "The fused layer on its way: with new tensors for all results, and in place."
    w = dict(zip(('w_ih', 'w_hh', 'bias', 'w_peephole'), given.ours.weights(0)), frames=bench.sizes.frames)
    start = given.x.new_zeros(bench.sizes.batch, given.ours.hidden_size)
    def call(in_place):
        return timed(bench, lambda: fused_layer(given.x, start, start, **w, in_place=in_place)[0],
                     list(given.ours.parameters()), grad=given.grad)
    return {(v, d): call(v == 'in place') for v in ('columns', 'in place') for d in bench.dtypes}


def remember(call):
    "Memory is kept from here on, and there is enough already: one call alone leaves gaps that the next ones fill."
    keep_memory()
    for _ in range(3): call()


def forget(call):
    "Memory is given back to the system from here on."
    keep_memory(False)


def with_memory(
    variants, # names, in any order
    *,
    without: list, # those that are timed with memory given back
) -> dict: # variant -> what is done with its call before each sample
    "Variants in turn: whichever is the first to keep memory again makes it warm, in any round."
    state = dict(kept=False)
    def keep(call):
        if not state['kept']: remember(call)
        state['kept'] = True
    def give_back(call):
        forget(call)
        state['kept'] = False
    return {v: give_back if v in without else keep for v in variants}


def scaling(
    bench: Bench, # what measures
):
    "A layer's forward and backward pass against the number of frames, clips and units."
    D = bench.frame_values
    # compiling for each size takes long: only where it is the choice
    variants = [(b, d) for d in bench.dtypes for b in bench.backends
                if b != 'compiled' or b == choose_backend(bench.device, DTYPES[d])[0]]
    for along, cases in bench.sizes.scaling.items():
        for T, B, H in cases:
            lstm = PeepholeLSTM(D, H, generator=torch.Generator().manual_seed(0)).to(bench.device)
            x, grad = bench.random(B, T, D), bench.random(B, T, H)
            def call(b): return timed(bench, lambda: set_backend(lstm, b)(x)[0], list(lstm.parameters()), grad=grad)
            case = dict(along=along, steps=T, batch=B, units=H, values=D)
            bench.compare(case, {(b, d): call(b) for b, d in variants}, per_second=dict(steps_per_s=T),
                          flops=lstm_flops(B, T, D, hidden_size=H, training=True))


# ---- training steps and clips

def composite_flops(
    batch: int, # clips B
    frames: int, # T that are seen, and as many that are predicted
    frame_values: int, # D
    *,
    units: int, # H
    layers: int, # L
    conditional: bool, # are decoders shown the frame before?
) -> int: # floating-point operations
    "Operations in the matrix products of one training step of the composite model."
    B, T, D, H = batch, frames, frame_values, units
    def of(T, D, input_grad=False): return lstm_flops(B, T, D, hidden_size=H, training=True, input_grad=input_grad)
    above = (layers - 1) * of(T, H, True)
    decoder = of(1, 0) + of(T - 1, D*conditional) + above
    readout = 3 * 2*B*T*H*D
    return of(T, D) + above + 2*(decoder + readout)


def pictures(
    bench: Bench, # whose sizes
) -> MovingDigits: # of random pictures, so that no data set is needed
    "A source of clips."
    s = bench.sizes
    digits = torch.randint(0, 256, (1000, s.digit_size, s.digit_size), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    return MovingDigits(digits, image_size=s.image_size, past=s.frames, future=s.frames, device=bench.device)


def training_step(
    bench: Bench, # where
    optimizer: torch.optim.Optimizer, # of the weights
    loss, # gives what is minimised
): # a call
    "One step; the backward pass runs outside autocast, as it should."
    def call():
        optimizer.zero_grad(set_to_none=True)
        total = loss()
        with torch.autocast(bench.device.type, enabled=False): total.backward()
        optimizer.step()
    return call


def composite_calls(
    bench: Bench, # what measures
    past: torch.Tensor, # (B, T, 1, S, S)
    future: torch.Tensor, # (B, T, 1, S, S)
    *,
    units: int, # H
    layers: int, # L
    conditional: bool, # are decoders shown the frame before?
) -> dict: # variant -> call
    "A training step, made in several ways. All of ours share their weights."
    side, check = bench.sizes.image_size, bench.device.type == 'cpu' # `train` looks at the clips' values only on a CPU
    model = VideoLSTM.composite(hidden_size=units, num_layers=layers, frame_shape=(1, side, side),
                                conditional_reconstruction=conditional, conditional_future=conditional).to(bench.device)
    loops, peer = as_loops(model), NNVideoLSTM(side**2, units, layers, conditional=conditional).to(bench.device)
    optimizer, theirs = (make_optimizer(m, get_recipe('adam')) for m in (model, peer))
    def ours(b=None):
        def loss(): return (set_backend(model, b) if b else loops).loss(past, future, check=check).total
        return training_step(bench, optimizer, loss)
    calls = {'loop of cells': ours()} | {b: ours(b) for b in bench.backends}
    theirs = training_step(bench, theirs, lambda: peer.loss(past, future))
    kept = {'nn.LSTM, memory kept': theirs} if bench.device.type == 'cpu' and keep_memory() else {}
    return calls | kept | {'nn.LSTM': theirs}


def composite(
    bench: Bench, # what measures
):
    """One training step of the composite model: forward, loss, backward, AdamW. Its clips were made before. Ours keep
    memory, as `train` does on a CPU; `nn.LSTM` is timed as it comes, and with memory kept for it, too."""
    s, D = bench.sizes, bench.frame_values
    past, future = pictures(bench).batch(s.batch)
    for H, L, conditional in s.models:
        size = dict(units=H, layers=L, conditional=conditional)
        case = size | dict(batch=s.batch, steps=s.frames, values=D)
        flops = composite_flops(s.batch, s.frames, D, **size)
        at_best = flops / bench.limit['fp32'] / 1e9
        if at_best > LONGEST_STEP:
            bench.leave_out(case, None, None, reason=f'a step would take {at_best:.0f} s at the limit of this machine; '
                                                     f'at most {LONGEST_STEP:g} s are spent')
            continue
        calls = composite_calls(bench, past, future, **size)
        before = with_memory(calls, without=['nn.LSTM']) if 'nn.LSTM, memory kept' in calls else {}
        bench.compare(case, {(variant, d): call for d in bench.dtypes for variant, call in calls.items()},
                      before=before, flops=flops, per_second=dict(clips_per_s=s.batch))
        del calls
        gc.collect()
    keep_memory()


def clips(
    bench: Bench, # what measures
):
    "A batch of clips, made by `MovingDigits` and by a plain loop."
    s, source = bench.sizes, pictures(bench)
    digits, rng = source.digits.cpu().numpy(), np.random.default_rng(0)
    def loop():
        return python_clips(digits, s.batch, 2*s.frames, image_size=s.image_size, n_digits=source.n_digits,
                            speed=source.speed, rng=rng).to(bench.device)
    bench.compare(dict(batch=s.batch, frames=2*s.frames, digits=source.n_digits, image_size=s.image_size),
                  {('MovingDigits', 'fp32'): lambda: source.batch(s.batch), ('python loop', 'fp32'): loop},
                  per_second=dict(clips_per_s=s.batch))


# ---- real video

def decoding(
    bench: Bench, # what measures
    folder: Path, # to write films into
):
    "All frames of a file, by `Video` and by PyAV alone, as they are and made smaller."
    v = bench.sizes.videos
    def with_av(path):
        import av
        with av.open(str(path)) as container:
            container.streams.video[0].thread_count = 1
            for frame in container.decode(video=0): frame.to_ndarray(format='rgb24')
    def whole(path, **options):
        for _ in Video(path, **options): pass
    for ending in ('avi', 'mp4'):
        path = save_video(folder/f'film.{ending}', make_film(v['frames'], size=v['size']))
        bench.compare(dict(work='decode', file=ending, frames=v['frames'], height=v['size'][0], width=v['size'][1]),
                      {('Video', 'fp32'): lambda: whole(path), ('PyAV alone', 'fp32'): lambda: with_av(path),
                       (f'Video, side {v["side"]}', 'fp32'): lambda: whole(path, side=v['side'])},
                      per_second=dict(frames_per_s=v['frames']))


def patches(
    bench: Bench, # what measures
):
    "A batch of windows of films in memory, and the training step that eats it."
    v = bench.sizes.videos
    films = [make_film(2*v['frames'], size=(v['side'], v['side'] * 4 // 3), seed=k) for k in range(v['films'])]
    kinds = {'any': {}, 'best of 4': dict(motion='best of 4'), 'best of 16': dict(motion='best of 16'),
             'best of 4, sums of two': dict(motion='best of 4', mix=True)}
    sources = {name: Patches(films, **options) for name, options in kinds.items()}
    past, future = (x.to(bench.device) for x in sources['best of 4, sums of two'].batch(v['batch']))
    model = VideoLSTM.composite(frame_shape=past.shape[2:], hidden_size=v['units'], output='gaussian', normalise=True,
                                components=v['components']).to(bench.device)
    model.frame_code.fit(past, future)
    step = training_step(bench, make_optimizer(model, get_recipe('adam')), lambda: model.loss(past, future).total)
    calls = {(name, 'fp32'): lambda clips=clips: clips.batch(v['batch']) for name, clips in sources.items()}
    calls |= {('training step', dtype): step for dtype in bench.dtypes}
    bench.compare(dict(work='patches', batch=v['batch'], frames=29, side=32, units=v['units']), calls,
                  per_second=dict(clips_per_s=v['batch']))


def videos(
    bench: Bench, # what measures
):
    "Decoding, and windows to train on."
    with tempfile.TemporaryDirectory() as folder: decoding(bench, Path(folder))
    patches(bench)


# ---- features of frames

def percepts(
    bench: Bench, # what measures
):
    "Frames through a convnet (with drawn weights: speed does not depend on them), optical flow, and histograms of it."
    v = bench.sizes.percepts
    frames = make_film(v['frames'], size=v['size'])
    case = dict(frames=v['frames'], height=v['size'][0], width=v['size'][1])
    network = nn.Sequential(*MobileNetV2().features, MeanOverPicture())
    encoders = {dtype: PictureEncoder(network, 'mobilenet_v2', exact=2, precision=dtype, device=bench.device)
                for dtype in bench.dtypes if dtype != 'tf32'}
    bench.compare(dict(work='percepts') | case, {('MobileNetV2', dtype): lambda encoder=encoder: encoder(frames)
                                                 for dtype, encoder in encoders.items()},
                  per_second=dict(frames_per_s=v['frames']))
    fields = flow(frames)
    bench.compare(dict(work='flow') | case, {('DIS', 'fp32'): lambda: flow(frames),
                                             ('histograms alone', 'fp32'): lambda: flow_histogram(fields)},
                  per_second=dict(frames_per_s=v['frames'] - 1))


# ---- memory

def memory(
    bench: Bench, # what measures
):
    "Peak memory, each figure from a process of its own."
    m, side = bench.sizes.memory, bench.sizes.image_size
    cases = [dict(work='training step', units=m['units'], batch=m['batch'], steps=T, conditional=False)
             for T in m['frames']]
    cases += [dict(work='rollout', units=m['units'], batch=m['rollout_batch'], steps=T, conditional=conditional)
              for conditional in m['conditional'] for T in m['rollout_frames']]
    fork = 'forkserver' in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('forkserver' if fork else 'spawn')
    if fork: context.set_forkserver_preload(['torch._dynamo', 'lstm_video_repr.training']) # imported once for all
    with context.Pool(1, maxtasksperchild=1) as pool:
        for case in cases:
            for backend in bench.backends:
                if backend == 'compiled': continue
                try: found = pool.apply(peak_memory, (case, backend, str(bench.device), side))
                except (RuntimeError, OSError) as error: bench.leave_out(case, backend, 'fp32', reason=reason_of(error))
                else:
                    bench.rows.append(dict(case=case, variant=backend, dtype='fp32', bytes=found))
                    print(f'memory    {label(case)}  {backend} fp32: {found["peak"]/2**20:.1f} MiB '
                          'beyond model and clips', flush=True)


def peak_memory(
    case: dict, # work, units, batch, steps (which are frames), conditional
    backend: str, # of `OURS`
    device: str, # where
    image_size: int, # side of a frame
) -> dict: # bytes: 'peak' beyond what was there before, 'output' of a rollout
    "In a process of its own: the memory that a training step or a rollout needs beside the model and the clips."
    def work(case, side):
        call = (one_step if case['work'] == 'training step' else one_rollout)(case, backend, device, side=side)
        gc.collect()
        before = now_and_peak(device)[0]
        output = call()
        return now_and_peak(device)[1] - before, output
    work(case | dict(units=2, batch=2, steps=2), 4) # whatever libraries set up at first use
    peak, output = work(case, image_size)
    return dict(peak=peak, output=None if output is None else output.nbytes)


def one_step(
    case: dict, # units, batch, steps (which are frames)
    backend: str, # of `OURS`
    device: str, # where
    *,
    side: int, # of a frame
): # a call
    "A first step of training, which makes the optimiser's memory, too."
    model = set_backend(VideoLSTM.composite(hidden_size=case['units'], frame_shape=(1, side, side)), backend).to(device)
    past, future = (torch.rand(case['batch'], case['steps'], 1, side, side, device=device) for _ in range(2))
    optimizer = make_optimizer(model, get_recipe('adam'))
    def call():
        model.loss(past, future).total.backward()
        optimizer.step()
    return call


def one_rollout(
    case: dict, # units, batch, steps (which are frames), conditional
    backend: str, # of `OURS`
    device: str, # where
    *,
    side: int, # of a frame
): # a call that gives the predicted logits
    "A prediction far beyond what was seen."
    model = VideoLSTM.future_predictor(hidden_size=case['units'], frame_shape=(1, side, side),
                                       conditional=case['conditional'])
    model = set_backend(model, backend).to(device).eval()
    past = torch.rand(case['batch'], min(case['steps'], FULL.frames), 1, side, side, device=device)
    def call():
        with torch.no_grad(): return model(past, future_frames=case['steps']).future_logits
    return call


def now_and_peak(
    device: str, # where
) -> tuple[int, int]: # bytes in use now, and at most so far
    "Memory of this process. Asking makes a new beginning for the peak on CUDA, and on Linux where that is allowed."
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
    with suppress(OSError): Path('/proc/self/clear_refs').write_text('5')
    return now, peak


# ---- the first call

def first(
    bench: Bench, # what measures
):
    "What the first loss, the optimiser and the first training step take beside later ones, each in fresh processes."
    given = bench.sizes.first
    sizes = dict(units=given['units'], batch=given['batch'], steps=bench.sizes.frames)
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        found = [pool.apply(first_calls, (sizes, str(bench.device), bench.sizes.image_size))
                 for _ in range(given['processes'])]
    for work, variant in found[0]:
        bench.add(dict(work=work) | sizes, variant, 'fp32', samples=[seconds[work, variant] for seconds in found])


def first_calls(
    sizes: dict, # units, batch, steps (which are frames)
    device: str, # where
    side: int, # of a frame
) -> dict: # (work, which time) -> seconds
    "In a process of its own: ten training steps."
    bench = Bench(torch.device(device), QUICK)
    model = VideoLSTM.composite(hidden_size=sizes['units'], frame_shape=(1, side, side)).to(device)
    past, future = (torch.rand(sizes['batch'], sizes['steps'], 1, side, side, device=device) for _ in range(2))
    def differentiate(): model.loss(past, future).total.backward()
    losses, made, steps = [bench.clock(differentiate)], time.perf_counter(), []
    optimizer = make_optimizer(model, get_recipe('adam'))
    made = time.perf_counter() - made
    for n in range(10):
        if n: losses.append(bench.clock(differentiate))
        steps.append(bench.clock(optimizer.step))
        optimizer.zero_grad(set_to_none=True)
    whole = [a + b for a, b in zip(losses, steps)]
    return {('loss and gradients', 'first'): losses[0], ('loss and gradients', 'tenth'): losses[9],
            ('optimiser', 'first'): made, ('training step', 'first'): whole[0], ('training step', 'second'): whole[1],
            ('training step', 'tenth'): whole[9]}


# gemm is part of every run
GROUPS = dict(gemm=None, layer=layer, ladder=ladder, composite=composite, clips=clips, videos=videos, percepts=percepts,
              scaling=scaling, memory=memory, first=first)


# ---- a run

def kept(
    path: Path, # results, if there are any
    groups: list[str], # that will be measured
    *,
    here: dict, # this machine
    quick: bool, # tiny sizes?
) -> dict: # the groups of the file
    "What a run of some groups leaves as it is. `ValueError` if the file is another machine's, or of other sizes."
    if not path.exists() or set(groups) >= set(GROUPS): return {}
    results = load(path)
    same = all(results['machine'].get(k) == here.get(k) for k in ('cpu', 'gpu', 'cores_used', 'capability'))
    if not same or results['settings']['quick'] != quick:
        raise ValueError(f'{path.name!r} has results of another machine, number of cores or size; '
                         'expected another file, or all groups')
    return results['groups']


def keep(
    results: dict, # of this run
    name: str, # of a group
    *,
    found: list[dict], # its rows
    bench: Bench, # what measured
    path: Path, # where to write
):
    "Put a group into the results, bring all shares up to the limit as it is known now, and write."
    made = {k: results[k] for k in ('versions', 'commit', 'settings')}
    results['groups'][name] = dict(date=today(), started=results['date'], **made, rows=found, left_out=bench.left_out)
    results['limit'] = bench.limit
    for group in results['groups'].values():
        if group['started'] != results['date']: continue # of an earlier run, with a limit of its own
        group['limit'] = bench.limit
        for r in group['rows']:
            if 'gflops_per_s' in r: r['share_of_limit'] = r['gflops_per_s'] / bench.limit[r['dtype']]
    results['groups'] = {g: results['groups'][g] for g in GROUPS if g in results['groups']}
    save(path, results)


def run(
    device: torch.device, # where
    groups: list[str], # of `GROUPS`
    path: Path, # results
    *,
    quick: bool = False, # tiny sizes
    seconds: float = 10., # budget of a case, where three rounds fit into it
    backends: tuple = OURS, # of `OURS`
    old: dict | None = None, # groups that the file keeps, from `kept`
) -> dict: # the results
    "Measure, and write after each group."
    groups = ['gemm'] + [g for g in GROUPS if g in groups and g != 'gemm']
    bench = Bench(device, QUICK if quick else FULL, backends=backends, seconds=seconds)
    settings = dict(quick=quick, groups=groups, seconds=seconds, backends=list(backends), memory_kept=keep_memory(),
                    rounds=[LEAST_ROUNDS, MOST_ROUNDS])
    results = stamp(device) | dict(settings=settings, limit={}, limit_note=LIMIT_NOTE, bf16=bf16_or_why_not(device),
                                   backend=chosen_backends(device, bench.dtypes), groups=dict(old or {}))
    gemm(bench, 'start')
    keep(results, 'gemm', found=bench.gemm_rows, bench=bench, path=path)
    for group in groups[1:]:
        bench.start(group)
        GROUPS[group](bench)
        keep(results, group, found=bench.rows, bench=bench, path=path)
    gemm(bench, 'end')
    keep(results, 'gemm', found=bench.gemm_rows, bench=bench, path=path)
    return results


# ---- the command

def parser() -> argparse.ArgumentParser: # of the command line
    "What can be asked for."
    p = argparse.ArgumentParser(description='Measure this package beside its peers, in one run.')
    p.add_argument('--device', default='cpu', help="'cpu' or 'cuda' (default: cpu)")
    p.add_argument('--groups', default=','.join(GROUPS),
                   help=f'some of {",".join(GROUPS)} (default: all; gemm is part of every run)')
    p.add_argument('--backends', help=f'some of {",".join(OURS)} (default: all; on a CPU and with --quick without '
                                      'compiled, which takes tens of seconds for each case)')
    p.add_argument('--seconds', type=float, default=10., help='budget of a case (default: 10); '
                   f'{LEAST_ROUNDS} rounds are made in any case, {MOST_ROUNDS} at most')
    p.add_argument('--quick', action='store_true', help='tiny sizes, to see that everything runs')
    p.add_argument('--out', type=Path, help='results (default: benchmarks/results/<device>-<capability>.json, '
                                            'with --quick ...-quick.json)')
    p.add_argument('--table', type=Path, metavar='FILE', help='only print the table of these results')
    return p


def some(
    p: argparse.ArgumentParser, # says what is wrong
    name: str, # of the option
    given: str, # names, separated by commas
    *,
    known: list, # what there is
) -> list[str]: # the names, in the order of `known`
    "Names from the command line."
    given = given.split(',')
    wrong = [g for g in given if g not in known]
    if wrong:
        p.error(f'argument --{name}: {wrong[0]!r} is unknown; expected some of {", ".join(known)}, separated by commas')
    return [k for k in known if k in given]


def find_device(
    p: argparse.ArgumentParser, # says what is wrong
    name: str, # as given
) -> torch.device: # which is there
    "The device, or an error that says what there is."
    here = ['cpu']
    if torch.cuda.is_available(): here += ['cuda', *(f'cuda:{n}' for n in range(torch.cuda.device_count()))]
    if name not in here: p.error(f'argument --device: {name!r} is not there; expected {" or ".join(map(repr, here))}')
    device = torch.device(name)
    if device.index is not None: torch.cuda.set_device(device)
    return device


def main(
    argv: list[str] | None = None, # None: those of the program
):
    "What the command line asks for."
    p = parser()
    args = p.parse_args(argv)
    if args.table:
        try: return print(table(load(args.table)))
        except (OSError, ValueError) as error: p.error(f'argument --table: {error}')
    groups = some(p, 'groups', args.groups, known=list(GROUPS))
    device = find_device(p, args.device)
    usual = [b for b in OURS if b != 'compiled' or device.type == 'cuda' and not args.quick]
    backends = some(p, 'backends', args.backends or ','.join(usual), known=list(OURS))
    if not 0 < args.seconds < math.inf: p.error(f'argument --seconds: {args.seconds!r}; expected a number above 0')
    out = args.out
    if out is None:
        out = HERE/'results'/f'{device.type}-{capability(device)}{"-quick" if args.quick else ""}.json'
        out.parent.mkdir(exist_ok=True)
    if not out.parent.is_dir(): p.error(f'argument --out: {str(out)!r}; expected a file in an existing folder')
    try: old = kept(out, groups, here=machine(device), quick=args.quick)
    except (OSError, ValueError) as error: p.error(f'argument --out: {error}')
    results = run(device, groups, out, quick=args.quick, seconds=args.seconds, backends=tuple(backends), old=old)
    print('\n' + table(results))


if __name__ == '__main__': main()

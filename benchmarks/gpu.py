"""What a machine with a GPU should check and measure, in parts that each end in time.

    python benchmarks/gpu.py                              every part, into benchmarks/results/gpu-<device>
    python benchmarks/gpu.py --parts agree,speed          some
    python benchmarks/gpu.py --parts row-composite --seconds 300 --batch 512 --lr 5e-4
    python benchmarks/gpu.py --rehearse                   every part, tiny, on a CPU: does everything run?
    python benchmarks/gpu.py --plan first --pack FOLDER   a machine that is there for minutes: right? fast? and a model
    python benchmarks/gpu.py --plan rows --pack FOLDER    rows of the paper's table that are missing
    python benchmarks/gpu.py --list                       what there is, and what is done
    python benchmarks/gpu.py --summary                    the table of what is there
    python benchmarks/gpu.py ... --pack FOLDER            afterwards everything as few files of at most 16 MB
    python benchmarks/gpu.py --join FOLDER                on another machine: the files again, checked by their SHA-256

A part runs in a process of its own and fills `gpu-<part>.json` as it goes. The same command again skips what is
complete and goes on with the rest; what a process ended over is not tried again. FOLDER is filled as it goes, too, so
that a machine that is taken away at any second takes only the last of it along. Needs torch, numpy, tqdm, safetensors
and matplotlib, and nothing installed: the package is that of this clone. MNIST is used where LVR_DATA names a folder
that has it, the embedded digits elsewhere; the results say which.
"""
import time

BEGAN = time.monotonic() # importing torch takes its time, too

import argparse
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [p for p in (str(ROOT), str(ROOT/'tools'), str(HERE)) if p not in sys.path]

import results as files
from gpu_common import ROWS, give_up, read, write
from gpu_home import pack, unpack
from gpu_parts import ABOUT, PARTS, run_part
from gpu_plan import PLANS, describe, order, share
from gpu_table import aims, broken, summary
from lstm_video_repr.core.files import write_text

GRACE = 45. # seconds that a part may be late before it is ended; a third of it where there is a limit for all
LEAST = 20. # seconds under which no part is begun
LATE = 'it did not end in time' # why a part was ended
TICK = 2. # seconds between looks at a part
PACKED = 20. # seconds between packings while a part runs
SILENCE = 60. # seconds in which a part of a plan has to write something
TRIES = 4 # processes for a part of a plan that breaks: each gives something up
PRELOAD = ['torch', 'torch._dynamo', 'matplotlib.pyplot', 'lstm_video_repr.zoo'] # imported once for all parts on a CPU


# ---- parts in processes of their own

def find_context(
    device: str, # where the parts compute
): # of multiprocessing
    "How processes begin: anew with CUDA, which a forked process may not be able to use; on a CPU with imports made."
    fork = device == 'cpu' and 'forkserver' in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('forkserver' if fork else 'spawn')
    if fork: context.set_forkserver_preload(PRELOAD)
    return context


class Watch:
    "Looks at a part while it runs: packs what there is, and sees whether it still writes."
    def __init__(
        self,
        name: str, # of the part
        out: Path, # folder of the files
        *,
        work: Path, # folder of checkpoints and of the model
        home: Path | None, # folder for `pack`
        silence: float, # seconds without a sign of life after which the part is ended
    ):
        self.name, self.out, self.work, self.home, self.silence = name, out, work, home, silence
        self.heard = self.packed = time.monotonic()
        self.seen = None

    def look(self) -> str | None: # why the part is to be ended
        "Called every few seconds."
        now, written = time.monotonic(), {p.name: p.stat().st_mtime_ns for p in self.out.glob(f'gpu-{self.name}*')}
        if written != self.seen: self.seen, self.heard = written, now
        if now - self.packed >= PACKED: self.pack()
        return f'it wrote nothing for {self.silence:.0f} s' if now - self.heard > self.silence else None

    def pack(self):
        "Pack what there is; one that fails is made up for by the next."
        if self.home is None: return
        self.packed = time.monotonic()
        try: pack(self.out, self.work, self.home)
        except (OSError, ValueError) as error: print(f'gpu.py: {error}', file=sys.stderr, flush=True)


def run_process(
    context, # of multiprocessing
    arguments: tuple, # of `run_part`
    *,
    wait: float, # seconds until it is ended
    look: Callable, # called every few seconds; gives a reason to end it, or None
) -> str | None: # why it ended badly; None if it ended by itself
    "A part in a process of its own, so that one that breaks leaves the others alone."
    process, problem, end = context.Process(target=run_part, args=arguments), None, time.monotonic() + wait
    process.start()
    try:
        while process.is_alive() and not problem:
            process.join(max(0., min(TICK, end - time.monotonic())))
            problem = look() or (LATE if time.monotonic() >= end else None)
    except KeyboardInterrupt:
        process.join(GRACE) # it was interrupted, too, and may be saving
        raise
    finally:
        late = process.is_alive()
        if late: process.kill()
        process.join(GRACE/3) # one that hangs in a driver cannot even be killed
    if late: return problem
    return f'its process ended with code {process.exitcode}' if process.exitcode else None


def run_safely(
    name: str, # of a part
    path: Path, # of its file
    context, # of multiprocessing
    *,
    arguments: tuple, # of `run_part`
    wait: float, # seconds until it is ended
    watch: Watch, # looks at it
) -> str: # its status
    "Run a part; whatever happens, its file says so afterwards."
    problem, settings = run_process(context, arguments, wait=wait, look=watch.look), arguments[3]
    found = read(path) or dict(part=name, settings=settings, missing=[], status=None) | files.stamp('cpu')
    if found['status'] in (None, 'running'):
        reason = problem or 'its process ended before it was done'
        job = found.get('trying')
        if job: reason += f', at: {job["name"]}'
        if problem != LATE: give_up(found, reason) # it is nobody's fault that time is short
        write(path, found | dict(status='failed', reason=reason))
    status = read(path)['status']
    print(f'{name}: {status}', flush=True)
    return status


def count_given_up(
    out: Path, # folder of the files
    name: str, # of a part
) -> int:
    "How many things this part no longer tries. One that breaks and gives up nothing will break again."
    return len((read(out/f'gpu-{name}.json') or {}).get('given_up', []))


def run_part_of(
    name: str, # of a part
    out: Path, # folder of the files
    work: Path, # folder for checkpoints
    *,
    settings: dict, # as for `Part`
    allowed: float, # seconds
    grace: float, # seconds more until it is ended
    home: Path | None, # folder for `pack`
):
    "A part; of a plan again if it breaks, without what it broke over, while there is time."
    context, end, tries = find_context(settings['device']), time.monotonic() + allowed, TRIES if settings['plan'] else 1
    for n in range(tries):
        left = end - time.monotonic()
        if n and left < (0 if settings['rehearse'] else LEAST): break
        print(f'\n{name}: {ABOUT[name]} (at most {left:.0f} s{"; once more"*bool(n)})', flush=True)
        before = count_given_up(out, name)
        watch = Watch(name, out, work=work, home=home, silence=SILENCE if settings['plan'] else math.inf)
        status = run_safely(name, out/f'gpu-{name}.json', context, arguments=(name, out, work, settings, left),
                            wait=left + grace, watch=watch)
        write_text(out/'summary.txt', summary(out) + '\n')
        watch.pack()
        if status != 'failed' or count_given_up(out, name) == before: break


def run(
    names: list[str], # of `PARTS`
    out: Path, # folder of the files
    work: Path, # folder for checkpoints
    *,
    settings: dict, # as for `Part`
    seconds: float, # for each part
    within: float = math.inf, # for all of them
    home: Path | None = None, # folder for `pack`, filled as parts run
):
    "Part after part; then the table."
    settings = dict(plan=None) | settings
    plan, end = PLANS.get(settings['plan']), BEGAN + within
    grace = GRACE if within == math.inf else GRACE/3
    for n, name in enumerate(names):
        left, old = end - time.monotonic() - (0 if within == math.inf else grace), read(out/f'gpu-{name}.json')
        allowed = min(seconds, share(plan, names[n:], left, within=within) if plan else left)
        if old and old['status'] == 'complete': print(f'{name}: complete already', flush=True)
        elif allowed < LEAST and not settings['rehearse']:
            print(f'{name}: not begun, too little time is left', flush=True)
        else: run_part_of(name, out, work, settings=settings, allowed=allowed, grace=grace, home=home)
    print('\n' + summary(out), flush=True)


# ---- the command line

def add_choices(
    p: argparse.ArgumentParser, # gets more options
):
    "What is run, and where the results go."
    p.add_argument('--parts',
                   help='some of those that --list shows, separated by commas (default: all)')
    p.add_argument('--plan', choices=list(PLANS), help='for a machine that is there for minutes; see below')
    p.add_argument('--list', action='store_true', help='what there is, and what is done')
    p.add_argument('--out', type=Path, metavar='FOLDER', help='results (default: benchmarks/results/gpu-<device>, with '
                                                              '--rehearse runs/gpu-rehearsal)')
    p.add_argument('--device', default='cuda', help="'cuda' or one of 'cuda:0', ... (default: cuda)")
    p.add_argument('--seconds', type=float, help='for each part (default: 460, with --rehearse 60; of a plan its own)')
    p.add_argument('--within', type=float, help='seconds for all; what no longer fits is not begun (default: no limit; '
                                                'of a plan its own)')
    p.add_argument('--rehearse', action='store_true', help='every part with tiny sizes on the CPU')
    p.add_argument('--fresh', action='store_true', help='measure anew what is there')
    p.add_argument('--summary', action='store_true', help='only the table of what is there')
    p.add_argument('--pack', type=Path, metavar='FOLDER', help='all of it as few files of at most 16 MB, again and '
                                                               'again as it goes')
    p.add_argument('--join', type=Path, metavar='FOLDER', help='only put together what --pack made, into --out')


def add_settings(
    p: argparse.ArgumentParser, # gets more options
):
    "What the trainings are made with."
    p.add_argument('--batch', type=int, help='clips in a step of the trainings (default: 256)')
    p.add_argument('--lr', type=float, help='their highest learning rate (default: the best of the part rates, else '
                                            '0.001; bundle: 0.0015)')
    p.add_argument('--units', type=int, help='of the model to bring home (default: 960, which is 35 MB in 8 bits, the '
                                             'most that is bundled)')
    p.add_argument('--digits', default='auto', choices=['auto', 'mnist', 'embedded'],
                   help='auto: MNIST where LVR_DATA has it')
    p.add_argument('--seed', type=int, default=0, help='of clips and first weights')


def parse(
    argv: list[str] | None, # None: those of the program
) -> tuple[argparse.ArgumentParser, argparse.Namespace]: # the parser, for errors, and the options, with .names of parts
    "Options that make sense."
    p = argparse.ArgumentParser(description='Check and measure this package on a GPU, in parts that each end in time.',
                                epilog=f'{describe()}\n\n{aims()}',
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    add_choices(p)
    add_settings(p)
    args = p.parse_args(argv)
    if args.plan and args.parts: p.error('argument --parts: not allowed with --plan, which says which')
    args.names = list(dict.fromkeys((args.parts or ','.join(PARTS)).split(','))) # in this order
    wrong = [n for n in args.names if n not in PARTS]
    if wrong:
        p.error(f'argument --parts: {wrong[0]!r} is unknown; expected some of {", ".join(PARTS)}, separated by commas')
    for name in ('seconds', 'within', 'lr', 'batch', 'units'):
        value = getattr(args, name)
        if value is not None and not value > 0: p.error(f'argument --{name}: {value!r}; expected a number above 0')
    if args.seed < 0: p.error(f'argument --seed: {args.seed!r}; expected at least 0')
    return p, args


def find_device(
    p: argparse.ArgumentParser, # says what is wrong
    args: argparse.Namespace, # the options
) -> torch.device: # where is computed; a CPU where nothing is
    "The device, or an error that says what there is."
    here = ['cuda'] + [f'cuda:{n}' for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    computes = not (args.rehearse or args.list or args.summary or args.join)
    if computes and args.device not in here:
        there = ' or '.join(map(repr, here)) or 'a machine with CUDA, or --rehearse'
        p.error(f'argument --device: {args.device!r} is not there; expected {there}')
    return torch.device('cpu' if args.rehearse or args.device not in here else args.device)


def find_folders(
    p: argparse.ArgumentParser, # says what is wrong
    args: argparse.Namespace, # the options
    device: torch.device, # where is computed
) -> tuple[Path, Path]: # of the results, and of checkpoints, which do not belong to the results
    "Where files go."
    known = sorted((HERE/'results').glob('gpu-*/'))
    if args.out: out = args.out
    elif args.rehearse: out = ROOT/'runs'/'gpu-rehearsal'
    elif device.type == 'cuda': out = HERE/'results'/f'gpu-{files.capability(device)}'
    elif len(known) == 1: out = known[0]
    else: p.error(f'argument --out: not given; expected a folder, such as {(known or [HERE/"results"/"gpu-h100"])[0]}')
    if out.exists() and not out.is_dir(): p.error(f'argument --out: {str(out)!r} is a file; expected a folder')
    return out, ROOT/'runs'/out.name if out.resolve().is_relative_to(HERE) else out/'work'


def forget(
    name: str, # of a part
    out: Path, # folder of the files
    work: Path, # folder of checkpoints
):
    "Delete what a part has made."
    for end in ('.json', '.jsonl', '-curve.png', '-strips.png'): (out/f'gpu-{name}{end}').unlink(missing_ok=True)
    shutil.rmtree(work/name, ignore_errors=True)


def check_old(
    name: str, # of a part
    out: Path, # folder of the files
    settings: dict, # that are asked for
):
    "Is what is there of the same settings? `ValueError` if not. Only trainings depend on all of them."
    old, path = read(out/f'gpu-{name}.json'), out/f'gpu-{name}.json'
    trains = name in ROWS or name in ('rates', 'bundle')
    skip = ('quick', 'plan', *('batch', 'lr')*(not trains), *('units',)*(name != 'bundle'))
    if old: files.check_same(path, old['settings'], settings, skip=skip, hint='--fresh')


def show_list(
    out: Path, # folder of the files
):
    "What there is, and what is done."
    for name in PARTS:
        found = read(out/f'gpu-{name}.json')
        print(f'{name:26} {found["status"] if found else "-":9} {ABOUT[name]}')


def do(
    p: argparse.ArgumentParser, # says what is wrong
    args: argparse.Namespace, # the options
) -> int: # 0: everything is well; 1: a check failed or a part broke
    "What was asked for. `OSError` and `ValueError` say what is wrong."
    device = find_device(p, args)
    out, work = find_folders(p, args, device)
    if args.join:
        for file in unpack(args.join, out, work): print(f'{file.name}: {file.stat().st_size} bytes')
        write_text(out/'summary.txt', summary(out) + '\n') # of all that lies there now
        return 0
    if args.list: return show_list(out) or 0
    if args.summary:
        print(summary(out))
        if args.pack: pack(out, work, args.pack)
        return 0
    digits = files.find_digits() if args.digits == 'auto' else args.digits
    settings = dict(device=str(device), rehearse=args.rehearse, digits=digits, seed=args.seed, batch=args.batch,
                    lr=args.lr, units=args.units, plan=args.plan)
    if args.plan: args.names = order(PLANS[args.plan], out)
    for name in args.names:
        if args.fresh: forget(name, out, work)
        try: check_old(name, out, settings)
        except ValueError as error: p.error(str(error))
    out.mkdir(parents=True, exist_ok=True)
    print(f'on {device}, {digits} digits' + ' (LVR_DATA names no folder with MNIST)'*(digits != 'mnist'), flush=True)
    usual = math.inf if args.plan else 60. if args.rehearse else 460.
    within = args.within or (PLANS[args.plan].within if args.plan else math.inf)
    run(args.names, out, work, settings=settings, seconds=args.seconds or usual, within=within, home=args.pack)
    return int(bool(broken(out, args.names)))


def main(
    argv: list[str] | None = None, # None: those of the program
) -> int: # 0: everything is well; 1: a check failed or a part broke; 130: interrupted
    "What the command line asks for."
    p, args = parse(argv)
    try: return do(p, args)
    except KeyboardInterrupt:
        print('\ngpu.py: stopped; the same command goes on', file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f'gpu.py: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    code = main()
    sys.stdout.flush()
    if multiprocessing.active_children(): os._exit(code) # one that cannot be killed is not waited for
    sys.exit(code)

"""What a machine with a GPU should check and measure, in parts that each end in time.

    python benchmarks/gpu.py                              every part, into benchmarks/results/gpu-<device>
    python benchmarks/gpu.py --parts agree,speed          some
    python benchmarks/gpu.py --parts row-composite --seconds 300 --batch 512 --lr 5e-4
    python benchmarks/gpu.py --rehearse                   every part, tiny, on a CPU: does everything run?
    python benchmarks/gpu.py --list                       what there is, and what is done
    python benchmarks/gpu.py --summary                    the table of what is there
    python benchmarks/gpu.py ... --pack FOLDER            afterwards everything as few files of at most 16 MB
    python benchmarks/gpu.py --join FOLDER                on another machine: the files again, made sure of by their SHA-256

A part runs in a process of its own and fills `gpu-<part>.json` as it goes. The same command again skips what is complete and goes on with
the rest. Needs torch, numpy, tqdm, safetensors, matplotlib and scikit-learn, and nothing installed: the package is that of this clone.
MNIST is used where LVR_DATA names a folder that has it, the embedded digits elsewhere; the results say which.
"""
import argparse
import json
import math
import multiprocessing
import shutil
import sys
import tarfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [p for p in (str(ROOT), str(HERE)) if p not in sys.path]

import bench
from gpu_parts import ABOUT, ALL_PIECES, MB, PARTS, PIECE, ROWS, cut, find_digits, join, read, run_part, write

GRACE = 45. # seconds that a part may be late before it is ended
LEAST = 20. # seconds under which no part is begun


# ---- the table

def _row(what, least, aim, measured): return dict(what=what, least=least, aim=aim, measured=measured)

def _missing(found):
    "Why a figure is not there."
    if found is None: return 'not measured'
    return f'not measured ({found.get("reason") or few(found["missing"]) or "see below"})'


def few(
    words: list[str], # any number
) -> str: # at most two of them
    "A list that may be long."
    return ', '.join(words[:2]) + (f' and {len(words) - 2} more' if len(words) > 2 else '')


def _variant(rows, **like):
    "The median of the rows' fastest, or None; `variant` may be several."
    variants = like.pop('variant')
    fits = [r for r in rows if r['variant'] in variants and r['dtype'] == like.get('dtype', 'bf16') and all(r['case'].get(k) == v for k, v in like.items() if k != 'dtype')]
    return min(fits, key=lambda r: r['seconds']['median'], default=None)


def table(
    out: Path, # folder of the files
) -> list[dict]: # what, least, aim, measured: text
    "The figures that were asked for, and where they are missing why."
    found = {name: read(out/f'gpu-{name}.json') for name in PARTS}
    lines, checks = [], (found['agree'] or {}).get('checks', [])
    bad = sum(not c['ok'] for c in checks)
    lines.append(_row('checks of agreement', 'all', 'all', f'{len(checks) - bad} of {len(checks)}' if checks else _missing(found['agree'])))
    best = None
    for part, (name, paper) in ROWS.items():
        test = (found[part] or {}).get('test')
        if part == 'row-authors': continue
        if test:
            nats, clips = test['future']['overall']['nats'], test['clips']
            best = min(nats, best) if best is not None else nats
            seen, stopped = found[part]['trained'], '; ' + ', '.join(found[part]['missing']) if found[part]['missing'] else ''
            said = f'{nats:.1f} ({clips} clips of {test["digits"]}; {seen["clips"]/1e6:.2f} million clips in {seen["seconds"]:.0f} s{stopped})'
        else: said = _missing(found[part])
        lines.append(_row(f'{name}, nats per future frame, free-running', f'{paper:g}', 'under 300', said))
    lines.append(_row('the best of these', '341.2', 'under 285.2', f'{best:.1f}' if best is not None else 'not measured'))
    row = found['row-authors']
    mark = (row or {}).get('passed', {}).get('345.0')
    said = f'{mark["seconds"]:.0f} s, {mark["step"]} steps, {mark["clips"]/1e6:.2f} million clips' if mark else _missing(row)
    if row and not mark and row.get('validation'): said = f'not reached: {min(v["validation_future"] for v in row["validation"]):.1f} after {row["trained"]["seconds"]:.0f} s'
    lines.append(_row("time to the authors' 345 (1 layer, unconditional)", 'under 300 s', 'under 90 s', said))
    speed = found['speed'] or {}
    rows = speed.get('groups', {}).get('composite', {}).get('rows', [])
    H = max((r['case']['units'] for r in rows), default=0)
    ours, theirs = ('compiled', 'compiled, recorded', 'fused'), ('nn.LSTM', 'nn.LSTM, recorded')
    for batch in dict.fromkeys(r['case']['batch'] for r in rows if r['case']['layers'] == 2 and r['case']['units'] == H) or [512]:
        a, b = (_variant(rows, variant=v, units=H, layers=2, batch=batch) for v in (ours, theirs))
        said = f'{b["seconds"]["median"] / a["seconds"]["median"]:.2f}x ({a["variant"]} {a["seconds"]["median"]*1e3:.2f} ms, {b["variant"]} {b["seconds"]["median"]*1e3:.2f} ms)' if a and b else _missing(found['speed'] if not a else dict(missing=[], status='', reason='no peer ran'))
        lines.append(_row(f'training step, 2 layers of {H or 2048}, bf16, batch {batch}, against cuDNN', '1.0x', '1.5x', said))
        if a: lines.append(_row(f'share of the matrix-product rate in that step ({speed["limit"]["bf16"]/1e3:.0f} TFLOP/s)', '40%', '65%', f'{a["share_of_limit"]:.0%}'))
        elif batch == 512: lines.append(_row('share of the matrix-product rate in that step', '40%', '65%', _missing(found['speed'])))
    made = (found['clips'] or {}).get('rows', [])
    said = '; '.join(f'batch {r["batch"]}: {r["clips_per_s"]:.0f} clips/s' + (f', {r["times_what_2_layers_eat"]:.1f} times' if 'times_what_2_layers_eat' in r else '') for r in made)
    lines.append(_row('clips made, against what training (2 layers) eats', '20 times', '', said or _missing(found['clips'])))
    test = (found['bundle'] or {}).get('test')
    if test: said = '; '.join(f'{k}: {v["future"]["overall"]["nats"]:.1f}' for k, v in test.items()) + f'; {found["bundle"]["file"]["bytes"]/MB:.1f} MB'
    else: said = _missing(found['bundle'])
    lines.append(_row('a model to bring home, nats per future frame', 'better than the bundled one', '', said))
    return lines


def left(
    lines: list[list[str]], # cells; the first line is the header
) -> str: # text
    "Columns, all to the left."
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)


def summary(
    out: Path, # folder of the files
) -> str: # text
    "The table, what failed, and what is missing."
    found = {name: read(out/f'gpu-{name}.json') for name in PARTS}
    some = next((f for f in found.values() if f), None)
    if some is None: return 'nothing measured yet'
    m = some['machine']
    text = [f'{m.get("gpu") or m["cpu"]}; torch {some["versions"]["torch"]}; {some["date"]}' + '; rehearsal: tiny sizes, figures mean nothing'*bool(some['settings']['rehearse']), '']
    text.append(left([['what', 'at least', 'aim', 'measured']] + [[r['what'], r['least'], r['aim'] or '-', r['measured']] for r in table(out)]))
    text.append('')
    for name, f in found.items():
        if f is None: text.append(f'{name}: not run')
        elif f['status'] != 'complete': text.append(f'{name}: {f["status"]}' + (f', {f["reason"]}' if f.get('reason') else '') + (f'; missing: {few(f["missing"])}' if f['missing'] else ''))
        for attempt in (f or {}).get('attempts', []): text.append(f'{name}: rate {attempt["lr"]:g} did not work: {attempt["reason"]}')
    tried = (found['rates'] or {}).get('rows', [])
    if tried: text.append('learning rates tried, nats per future frame: ' + '; '.join(f'{r["lr"]:g}: ' + ('diverged' if r['validation'] is None else f'{r["validation"]:.1f}') for r in tried))
    text += [f'agree: FAILED {c["name"]}: {c["error"]} ({c["worst"]}), allowed {c["allowed"]}' for c in (found['agree'] or {}).get('checks', []) if not c['ok']]
    compiled = (found['speed'] or {}).get('compiled', [])
    if compiled: text.append(f'first call of a compiled step: {min(c["first_call"] for c in compiled):.1f} to {max(c["first_call"] for c in compiled):.1f} s')
    problems = {c['problem'] for c in compiled if c['problem']} | {f['compiler'] for f in [found['agree'] or {}] if f.get('compiler')}
    text += [f'compiling failed: {p}' for p in sorted(problems)]
    left_out = [l for g in (found['speed'] or {}).get('groups', {}).values() for l in g['left_out']]
    text += sorted({f'not measured: {l["variant"]}, {l["dtype"]}: {l["reason"]}' for l in left_out})
    return '\n'.join(text)


def broken(
    out: Path, # folder of the files
    names: list[str], # parts that were asked for
) -> list[str]: # the parts in which a check failed or that broke
    "What makes the exit code 1."
    found = {n: read(out/f'gpu-{n}.json') for n in names}
    return [n for n, f in found.items() if f and (f['status'] == 'failed' or any(not c['ok'] for c in f.get('checks', [])))]


# ---- bringing it home

def pack(
    out: Path, # folder of the files
    work: Path, # folder in which the model to bring home lies
    folder: Path, # where the pieces go
):
    "Everything but what can be made again, as few files of at most 16 MB; `--join` is the way back. `ValueError` if it is more than 64 MB."
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder/'gpu-results.tar.gz'
    with tarfile.open(archive, 'w:gz') as tar:
        for path in sorted(out.glob('gpu-*')) + [out/'summary.txt']:
            if path.is_file(): tar.add(path, path.name)
    model = work/'bundle.safetensors'
    files = [archive] + [model] * model.is_file()
    if (total := sum(f.stat().st_size for f in files)) > ALL_PIECES + 3*MB: raise ValueError(f'{total / MB:.0f} MB to be packed; expected at most {ALL_PIECES / MB:.0f}')
    for file in files: cut(file, folder)
    archive.unlink()


def unpack(
    folder: Path, # with *.pieces.json and their pieces
    out: Path, # where the results go
    work: Path, # where a model goes
) -> list[Path]: # the files
    "Put together what `pack` cut. `OSError` names what is missing or damaged."
    lists = sorted(folder.glob('*.pieces.json'))
    if not lists: raise FileNotFoundError(f'{str(folder)!r} has no *.pieces.json; expected a folder that --pack filled')
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for listed in lists:
        file = join(listed, out if listed.name.startswith('gpu-results.') else work)
        if file.parent == work: files.append(file); continue
        with tarfile.open(file) as tar:
            for member in tar.getmembers():
                if not member.isfile() or Path(member.name).name != member.name: raise OSError(f'{file.name} holds {member.name!r}; expected plain files')
                (out/member.name).write_bytes(tar.extractfile(member).read())
                files.append(out/member.name)
        file.unlink()
    return files


# ---- the command

def run(
    names: list[str], # of `PARTS`
    out: Path, # folder of the files
    work: Path, # folder for checkpoints
    settings: dict, # as for `Part`
    seconds: float, # for each part
    within: float = math.inf, # for all of them
    home: Path | None = None, # folder for `pack`, filled after each part
):
    "Each part in a process of its own, so that one that breaks leaves the others alone; then the table."
    fork = settings['device'] == 'cpu' and 'forkserver' in multiprocessing.get_all_start_methods() # a forked process may not be able to use CUDA
    context = multiprocessing.get_context('forkserver' if fork else 'spawn')
    if fork: context.set_forkserver_preload(['torch', 'torch._dynamo', 'sklearn.datasets', 'matplotlib.pyplot']) # imported once
    end = time.monotonic() + within
    for name in names:
        path, old = out/f'gpu-{name}.json', read(out/f'gpu-{name}.json')
        if old and old['status'] == 'complete': print(f'{name}: complete already', flush=True); continue
        allowed = min(seconds, end - time.monotonic() - (GRACE/3 if within < math.inf else 0))
        if allowed < LEAST and not settings['rehearse']: print(f'{name}: not begun, too little time is left', flush=True); continue
        print(f'\n{name}: {ABOUT[name]} (at most {allowed:.0f} s)', flush=True)
        process = context.Process(target=run_part, args=(name, out, work, settings, allowed))
        process.start()
        try: process.join(allowed + (GRACE if within == math.inf else GRACE/3))
        except KeyboardInterrupt:
            process.join(GRACE) # it was interrupted, too, and may be saving
            raise
        finally:
            if late := process.is_alive(): process.kill()
            process.join()
        found = read(path) or dict(part=name, settings=settings, missing=[], machine=bench.machine(torch.device('cpu')), versions=dict(torch=torch.__version__), date=bench.today())
        if late or found.get('status') in (None, 'running'):
            write(path, found | dict(status='failed', reason='it did not end in time' if late else f'its process ended with code {process.exitcode}'))
        print(f'{name}: {read(path)["status"]}', flush=True)
        (out/'summary.txt').write_text(summary(out) + '\n', encoding='utf8')
        try: home and pack(out, work, home)
        except ValueError as error: print(f'gpu.py: {error}', file=sys.stderr, flush=True) # the other parts may still run
    print('\n' + summary(out), flush=True)


def main(
    argv: list[str] | None = None, # None: those of the program
) -> int: # 0: everything is well; 1: a check failed or a part broke
    "What the command line asks for."
    p = argparse.ArgumentParser(description='Check and measure this package on a GPU, in parts that each end in time.')
    p.add_argument('--parts', default=','.join(PARTS), help='some of those that --list shows, separated by commas (default: all)')
    p.add_argument('--list', action='store_true', help='what there is, and what is done')
    p.add_argument('--out', type=Path, metavar='FOLDER', help='results (default: benchmarks/results/gpu-<device>, with --rehearse runs/gpu-rehearsal)')
    p.add_argument('--device', default='cuda', help="'cuda' or one of 'cuda:0', ... (default: cuda)")
    p.add_argument('--seconds', type=float, help='for each part (default: 460, with --rehearse 60)')
    p.add_argument('--within', type=float, default=math.inf, help='seconds for all parts; what no longer fits is not begun')
    p.add_argument('--batch', type=int, help='clips in a step of the trainings (default: 256)')
    p.add_argument('--lr', type=float, help='their highest learning rate (default: the best of the part rates, else 0.001; bundle: 0.0015)')
    p.add_argument('--units', type=int, help='of the model to bring home (default: 960, which is 35 MB in 8 bits, the most that is bundled)')
    p.add_argument('--digits', default='auto', choices=['auto', 'mnist', 'embedded'], help='auto: MNIST where LVR_DATA has it')
    p.add_argument('--seed', type=int, default=0, help='of clips and first weights')
    p.add_argument('--rehearse', action='store_true', help='every part with tiny sizes on the CPU')
    p.add_argument('--fresh', action='store_true', help='measure anew what is there')
    p.add_argument('--summary', action='store_true', help='only the table of what is there')
    p.add_argument('--pack', type=Path, metavar='FOLDER', help='afterwards, put everything there as few files of at most 16 MB')
    p.add_argument('--join', type=Path, metavar='FOLDER', help='only put together what --pack made, into --out')
    args = p.parse_args(argv)
    names = args.parts.split(',')
    wrong = [n for n in names if n not in PARTS]
    if wrong: p.error(f'argument --parts: {wrong[0]!r} is unknown; expected some of {", ".join(PARTS)}, separated by commas')
    names = list(dict.fromkeys(names)) # in this order
    for name in ('seconds', 'within', 'lr', 'batch', 'units'):
        value = getattr(args, name)
        if value is not None and not value > 0: p.error(f'argument --{name}: {value!r}; expected a number above 0')
    if args.seed < 0: p.error(f'argument --seed: {args.seed!r}; expected at least 0')
    computes = not (args.list or args.summary or args.join)
    if computes and not args.rehearse:
        here = ['cuda'] + [f'cuda:{n}' for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        if args.device not in here: p.error(f'argument --device: {args.device!r} is not there; expected {" or ".join(map(repr, here)) or "a machine with CUDA, or --rehearse"}')
    device = torch.device('cpu' if args.rehearse or not torch.cuda.is_available() else args.device)
    known = sorted((HERE/'results').glob('gpu-*/'))
    if args.out: out = args.out
    elif args.rehearse: out = ROOT/'runs'/'gpu-rehearsal'
    elif device.type == 'cuda': out = HERE/'results'/f'gpu-{bench.capability(device)}'
    elif len(known) == 1: out = known[0]
    else: p.error(f'argument --out: not given; expected a folder, such as {known[0] if known else HERE/"results"/"gpu-h100"}')
    if out.exists() and not out.is_dir(): p.error(f'argument --out: {str(out)!r} is a file; expected a folder')
    work = ROOT/'runs'/out.name if out.resolve().is_relative_to(HERE) else out/'work' # checkpoints do not belong to the results
    try:
        if args.join:
            for file in unpack(args.join, out, work): print(f'{file.name}: {file.stat().st_size} bytes')
            (out/'summary.txt').write_text(summary(out) + '\n', encoding='utf8') # of all that lies there now
            return 0
        if args.list:
            for n in PARTS:
                found = read(out/f'gpu-{n}.json')
                print(f'{n:26} {found["status"] if found else "-":9} {ABOUT[n]}')
            return 0
        if args.summary:
            print(summary(out))
            if args.pack: pack(out, work, args.pack)
            return 0
        digits = find_digits() if args.digits == 'auto' else args.digits
        settings = dict(device=str(device), rehearse=args.rehearse, digits=digits, seed=args.seed, batch=args.batch, lr=args.lr, units=args.units)
        for n in names:
            if args.fresh:
                for end in ('.json', '.jsonl', '-curve.png', '-strips.png'): (out/f'gpu-{n}{end}').unlink(missing_ok=True)
                shutil.rmtree(work/n, ignore_errors=True)
            old = read(out/f'gpu-{n}.json')
            trains = n in ROWS or n in ('rates', 'bundle')
            other = [k for k, v in settings.items() if old and old['settings'].get(k) != v and (trains or k not in ('batch', 'lr', 'units')) and (k != 'units' or n == 'bundle')]
            said = ', '.join(f'{k} {old["settings"].get(k)!r} (now {settings[k]!r})' for k in other)
            if other: p.error(f'gpu-{n}.json has results for {said}; expected the same, --fresh, or another --out')
        out.mkdir(parents=True, exist_ok=True)
        run(names, out, work, settings, args.seconds or (60. if args.rehearse else 460.), args.within, args.pack)
    except KeyboardInterrupt:
        print('\ngpu.py: stopped; the same command goes on', file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f'gpu.py: {error}', file=sys.stderr)
        return 1
    return int(bool(broken(out, names)))


if __name__ == '__main__': sys.exit(main())

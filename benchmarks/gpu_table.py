"What `gpu.py` has found, as a table: the figures that were asked for, and where they are missing why."
from pathlib import Path

from gpu_common import MB, ROWS, read
from gpu_parts import PARTS
from lstm_video_repr.core.tables import Table
from results import select

OURS, THEIRS = ('compiled', 'compiled, recorded', 'fused'), ('nn.LSTM', 'nn.LSTM, recorded')


def few(
    words: list[str], # any number
) -> str: # at most two of them
    "A list that may be long."
    return ', '.join(words[:2]) + (f' and {len(words) - 2} more' if len(words) > 2 else '')


def why_missing(
    found: dict | None, # a part's file
) -> str: # words
    "Why a figure is not there."
    if found is None: return 'not measured'
    return f'not measured ({found.get("reason") or few(found["missing"]) or "see below"})'


def line(
    what: str, # is measured
    least: str, # that should be reached
    aim: str, # that would be fine
    *,
    measured: str, # or why not
) -> dict: # of these four
    "A line of the table."
    return dict(what=what, least=least, aim=aim, measured=measured)


def say_nats(
    test: dict, # of a part
) -> str: # as 341.2 ± 0.6, or without its standard error where there is none
    "Nats per future frame."
    future = test['future']
    error = future.get('errors', {}).get('nats')
    return f'{future["overall"]["nats"]:.1f}' + (f' ± {error:.1f}' if error is not None else '')


# ---- a part each

def agreement(found: dict) -> list[dict]: # lines
    "How many checks agree."
    checks = (found['agree'] or {}).get('checks', [])
    good = sum(c['ok'] for c in checks)
    said = f'{good} of {len(checks)}' if checks else why_missing(found['agree'])
    return [line('checks of agreement', 'all', 'all', measured=said)]


def paper_rows(found: dict) -> list[dict]: # lines
    "The rows of the paper's table."
    lines, measured = [], {}
    for part, (name, paper) in ROWS.items():
        if part == 'row-authors': continue
        row, said = found[part], why_missing(found[part])
        if test := (row or {}).get('test'):
            measured[part], seen = test['future']['overall']['nats'], row['trained']
            said = (f'{say_nats(test)} ({test["clips"]} clips of {test["digits"]}; {seen["clips"]/1e6:.2f} million '
                    f'clips in {seen["seconds"]:.0f} s{"; "*bool(row["missing"])}{", ".join(row["missing"])})')
        lines.append(line(f'{name}, nats per future frame, free-running', f'{paper:g}', 'under 300', measured=said))
    best = f'{min(measured.values()):.1f}' if measured else 'not measured'
    return lines + [line('the best of these', '341.2', 'under 285.2', measured=best)]


def authors_row(found: dict) -> list[dict]: # lines
    "Time to the authors' mark."
    row, said = found['row-authors'], why_missing(found['row-authors'])
    def pass_of(part): return ((found[part] or {}).get('passed') or {}).get('345.0')
    def say(mark): return f'{mark["seconds"]:.0f} s, {mark["step"]} steps, {mark["clips"]/1e6:.2f} million clips'
    if pass_of('row-authors'): said = say(pass_of('row-authors'))
    elif row and row.get('validation'):
        lowest = min(v['validation_future'] for v in row['validation'])
        said = f'not reached: {lowest:.1f} after {row["trained"]["seconds"]:.0f} s'
    elif pass_of('bundle'):
        said = f'{say(pass_of("bundle"))} (the model to bring home, {found["bundle"]["config"]["hidden_size"]} units)'
    return [line("time to the authors' 345 (1 layer, unconditional)", 'under 300 s', 'under 90 s', measured=said)]


def fastest(
    rows: list[dict], # of training steps
    variants: tuple, # of which
    **like, # sizes
) -> dict | None: # the row of the smallest median; None if there is none
    "The best of several variants, in bf16."
    fits = [r for r in select(rows, dtype='bf16', **like) if r['variant'] in variants]
    return min(fits, key=lambda r: r['seconds']['median'], default=None)


def speeds(found: dict) -> list[dict]: # lines
    "Training steps beside cuDNN's and beside the limit, at each batch."
    speed = found['speed'] or {}
    rows = speed.get('groups', {}).get('composite', {}).get('rows', [])
    H = max((r['case']['units'] for r in rows), default=0)
    batches = dict.fromkeys(r['case']['batch'] for r in select(rows, layers=2, units=H)) or [512]
    def say(r): return f'{r["variant"]} {r["seconds"]["median"]*1e3:.2f} ms'
    lines = []
    for batch in batches:
        a, b = (fastest(rows, variants, units=H, layers=2, batch=batch) for variants in (OURS, THEIRS))
        said = why_missing(found['speed']) if not a else 'not measured (no peer ran)'
        if a and b: said = f'{b["seconds"]["median"] / a["seconds"]["median"]:.2f}x ({say(a)}, {say(b)})'
        lines.append(line(f'training step, 2 layers of {H or 2048}, bf16, batch {batch}, against cuDNN', '1.0x', '1.5x',
                          measured=said))
        of = 'share of the matrix-product rate in that step'
        if a: of, said = f'{of} ({speed["limit"]["bf16"]/1e3:.0f} TFLOP/s)', f'{a["share_of_limit"]:.0%}'
        if a or batch == 512: lines.append(line(of, '40%', '65%', measured=said))
    return lines


def clip_rates(found: dict) -> list[dict]: # lines
    "Clips made beside clips eaten."
    def say(r):
        times = f', {r["times_what_2_layers_eat"]:.1f} times' if 'times_what_2_layers_eat' in r else ''
        return f'batch {r["batch"]}: {r["clips_per_s"]:.0f} clips/s{times}'
    said = '; '.join(map(say, (found['clips'] or {}).get('rows', []))) or why_missing(found['clips'])
    return [line('clips made, against what training (2 layers) eats', '20 times', '', measured=said)]


def bundles(found: dict) -> list[dict]: # lines
    "The model to bring home."
    said = why_missing(found['bundle'])
    if test := (found['bundle'] or {}).get('test'):
        said = '; '.join(f'{k}: {say_nats(v)}' for k, v in test.items())
        said += f'; {found["bundle"]["file"]["bytes"]/MB:.1f} MB'
    return [line('a model to bring home, nats per future frame', '315', 'under 285.2', measured=said)]


FIGURES = agreement, paper_rows, authors_row, speeds, clip_rates, bundles


# ---- all

def read_all(
    out: Path, # folder of the files
) -> dict: # part -> what it has found, or None
    "All files."
    return {name: read(out/f'gpu-{name}.json') for name in PARTS}


def table(
    out: Path, # folder of the files
) -> list[dict]: # what, least, aim, measured: text
    "The figures that were asked for, and where they are missing why."
    found = read_all(out)
    return [l for part in FIGURES for l in part(found)]


def say_so_far(row: dict) -> str: # words
    "Where a training stood that has not been measured on the test set."
    return (f'{row["validation_future"]:.1f} nats per future frame in validation after {row["clips"]/1e6:.2f} million '
            f'clips, {row["seconds"]:.0f} s')


def aims() -> str: # text
    "The figures that are asked for."
    found = dict.fromkeys(PARTS)
    lines = [[r['what'], r['least'], r['aim'] or '-'] for part in FIGURES for r in part(found)]
    return Table(['what', 'at least', 'aim'], lines, align='lll').text()


def remarks(found: dict) -> list[str]: # lines
    "What failed, and what is missing."
    text = []
    for name, f in found.items():
        if f is None: text.append(f'{name}: not run')
        elif f['status'] != 'complete':
            missing = f'; missing: {few(f["missing"])}' if f['missing'] else ''
            text.append(f'{name}: {f["status"]}{", "*bool(f.get("reason"))}{f.get("reason") or ""}{missing}')
            if 'so_far' in f and 'test' not in f: text.append(f'{name}: {say_so_far(f["so_far"])}')
        text += [f'{name}: given up: {g["name"]} ({g["reason"]})' for g in (f or {}).get('given_up', [])]
        text += [f'{name}: rate {a["lr"]:g} did not work: {a["reason"]}' for a in (f or {}).get('attempts', [])]
    tried = (found['rates'] or {}).get('rows', [])
    said = [f'{r["lr"]:g}: ' + ('diverged' if r['validation'] is None else f'{r["validation"]:.1f}') for r in tried]
    if said: text.append('learning rates tried, nats per future frame: ' + '; '.join(said))
    checks = (found['agree'] or {}).get('checks', [])
    return text + [f'agree: FAILED {c["name"]}: {c["error"]} ({c["worst"]}), allowed {c["allowed"]}'
                   for c in checks if not c['ok']]


def compiler_remarks(found: dict) -> list[str]: # lines
    "How compiling went, and what was not measured."
    speed, text = found['speed'] or {}, []
    compiled = speed.get('compiled', [])
    first = [c['first_call'] for c in compiled]
    if first: text.append(f'first call of a compiled step: {min(first):.1f} to {max(first):.1f} s')
    problems = {c['problem'] for c in compiled} | {(found['agree'] or {}).get('compiler')}
    text += [f'compiling failed: {p}' for p in sorted(filter(None, problems))]
    left_out = [l for g in speed.get('groups', {}).values() for l in g['left_out']]
    return text + sorted({f'not measured: {l["variant"]}, {l["dtype"]}: {l["reason"]}' for l in left_out})


def summary(
    out: Path, # folder of the files
) -> str: # text
    "The table, what failed, and what is missing."
    found = read_all(out)
    some = next((f for f in found.values() if f), None)
    if some is None: return 'nothing measured yet'
    m, rehearsal = some['machine'], '; rehearsal: tiny sizes, figures mean nothing'
    head = (f'{m.get("gpu") or m["cpu"]}; torch {some["versions"]["torch"]}; {some["date"]}'
            + rehearsal*bool(some['settings']['rehearse']))
    lines = [[r['what'], r['least'], r['aim'] or '-', r['measured']] for r in table(out)]
    figures = Table(['what', 'at least', 'aim', 'measured'], lines, align='llll').text()
    return '\n'.join([head, '', figures, '', *remarks(found), *compiler_remarks(found)])


def broken(
    out: Path, # folder of the files
    names: list[str], # parts that were asked for
) -> list[str]: # the parts in which a check failed or that broke
    "What makes the exit code 1."
    found = {n: read(out/f'gpu-{n}.json') for n in names}
    def fails(f):
        return f['status'] == 'failed' or bool(f.get('given_up')) or not all(c['ok'] for c in f.get('checks', []))
    return [n for n, f in found.items() if f and fails(f)]

"Results of `bench.py`: reading them, comparing two variants, and tables for people."
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [p for p in (str(ROOT), str(ROOT/'tools')) if p not in sys.path]

import lstm_video_repr.fast_lstm # brings all backends
import results as files
from lstm_video_repr.core.tables import Table
from lstm_video_repr.lstm import backend_names
from timing import label

OURS = tuple(b for b in backend_names() if b != 'auto')
REQUIRED = 'machine', 'versions', 'date', 'settings', 'limit', 'limit_note', 'bf16', 'backend', 'groups'
PEERS = ('nn.LSTM', 'fp32'), ('nn.LSTM', 'bf16'), ('python loop', 'fp32')
MISSING = 'not measured: the group is missing, or the variant was left out'


def load(
    path: str | Path, # a file that bench.py wrote
) -> dict: # machine, versions, date, ..., groups -> {date, rows, ...}
    "Results of an earlier run. `OSError` or `ValueError` name the file."
    return files.load(path, REQUIRED, maker='python benchmarks/bench.py')


def rows(
    results: dict, # as `load` gives them
    group: str, # 'layer', 'composite', ...
    variant: str | None = None, # None: any
    dtype: str | None = None, # None: any
    **case, # sizes that have to agree: units=512, ...
) -> list[dict]: # each with case, variant, dtype, seconds (or bytes), ...
    "The rows that fit; none if the group was not measured."
    like = {k: v for k, v in dict(variant=variant, dtype=dtype).items() if v is not None}
    return files.select(results['groups'].get(group, {}).get('rows', []), **like, **case)


def ratio(
    results: dict, # as `load` gives them
    group: str, # 'layer', 'composite', ...
    case: dict, # sizes that single out one case
    *,
    variant: str, # the one in question
    peer: str = 'nn.LSTM', # what it is compared with
    dtype: str = 'fp32', # of the variant
    peer_dtype: str | None = None, # of the peer; None: the same
) -> float | None: # how many times faster than the peer the variant is; None if one of them was not measured
    "Ratio of two medians of one run."
    ours, theirs = rows(results, group, variant, dtype, **case), rows(results, group, peer, peer_dtype or dtype, **case)
    return theirs[0]['seconds']['median'] / ours[0]['seconds']['median'] if ours and theirs else None


def times(x: float | None) -> str: return '-' if x is None else f'{x:.2f}x'
def count(x: float | None) -> str: return '-' if x is None else f'{x:.0f}'
def share(x: float | None) -> str: return '-' if x is None else f'{x:.0%}'
def mib(x: float | None) -> str: return '-' if x is None else f'{x / 2**20:.1f} MiB'


# ---- the figures that matter most

def clip_shares(
    results: dict, # as `load` gives them
) -> list[dict]: # units, dtype, variant of the step, and the share
    "The time of a batch of clips as a share of a training step, at each number of units (one layer, unconditional)."
    made = rows(results, 'clips', 'MovingDigits')
    steps = [r for r in rows(results, 'composite', layers=1, conditional=False) if made and r['variant'] in OURS]
    return [dict(units=r['case']['units'], dtype=r['dtype'], variant=r['variant'],
                 share=made[0]['seconds']['median'] / r['seconds']['median']) for r in steps]


def choice(
    results: dict, # as `load` gives them
    dtype: str, # of the products
    figures: dict, # backend -> figure, larger is better
) -> tuple: # backend and figure
    "What `backend='auto'` chooses, or the best, if that was left out."
    auto = results['backend'].get(dtype, {}).get('name')
    return (auto, figures[auto]) if auto in figures else max(figures.items(), key=lambda f: f[1])


def beside_peer(
    results: dict, # as `load` gives them
    group: str, # 'layer' or 'composite'
    case: dict, # sizes that single out one case
    *,
    dtype: str, # of our products
    peer_dtype: str, # of theirs
) -> str: # '1.80x (fused)', or why there is no figure
    "How many times faster than `nn.LSTM`."
    found = {b: ratio(results, group, case, variant=b, dtype=dtype, peer_dtype=peer_dtype) for b in OURS}
    found = {b: r for b, r in found.items() if r}
    if not found:
        without = 'bf16' in (dtype, peer_dtype) and results['bf16'].get('reason')
        return f'not measured: {without}' if without else MISSING
    name, figure = choice(results, dtype, found)
    return f'{times(figure)} ({name})'


def reach_of_layers(results: dict) -> list[tuple[str, str]]: # what, and the figure
    "Layers beside those of torch."
    lines = []
    for H in dict.fromkeys(r['case']['units'] for r in rows(results, 'layer')):
        case = dict(units=H, input='frames', work='forward+backward')
        for dtype, peer in (('bf16', 'fp32'), ('bf16', 'bf16'), ('fp32', 'fp32')):
            lines.append((f'layer of {H} units, forward + backward, {dtype}, against nn.LSTM {peer}',
                          beside_peer(results, 'layer', case, dtype=dtype, peer_dtype=peer)))
    return lines


def reach_of_steps(results: dict) -> list[tuple[str, str]]: # what, and the figure
    "The largest training step beside that of torch, and beside the limit."
    models = rows(results, 'composite', layers=1, conditional=False)
    if not models: return [('composite training step', MISSING)]
    H, fastest = max(r['case']['units'] for r in models), 'bf16' if results['bf16']['measured'] else 'fp32'
    case, lines = dict(units=H, layers=1, conditional=False), []
    for peer in ('fp32', 'bf16'):
        dtype = fastest if peer == 'fp32' else 'bf16'
        lines.append((f'composite training step, {H} units, 1 layer, {dtype}, against nn.LSTM {peer}',
                      beside_peer(results, 'composite', case, dtype=dtype, peer_dtype=peer)))
    shares = {r['variant']: r['share_of_limit'] for r in rows(results, 'composite', dtype=fastest, **case)}
    shares = {b: shares[b] for b in OURS if b in shares}
    name, figure = choice(results, fastest, shares) if shares else (None, None)
    said = f'{share(figure)} ({name})' if shares else MISSING
    return lines + [(f'share of the measured {fastest} limit in that step', said)]


def reach_of_memory(results: dict) -> list[tuple[str, str]]: # what, and the figure
    "What long rollouts need."
    lines = []
    for r in rows(results, 'memory', work='rollout'):
        if r['variant'] == 'reference': continue
        kind = 'conditional' if r['case']['conditional'] else 'unconditional'
        lines.append((f'rollout of {r["case"]["steps"]} frames, {kind}, {r["variant"]}',
                      f'peak {mib(r["bytes"]["peak"])}, of which output {mib(r["bytes"]["output"])}'))
    return lines or [('memory of a rollout', MISSING)]


def reach_of_first(results: dict) -> list[tuple[str, str]]: # what, and the figure
    "How long one waits for the first call, and for the first training step."
    found = {(r['case']['work'], r['variant']): (r['seconds']['median'], r['case']['units'])
             for r in rows(results, 'first')}
    lines = []
    for work, late in ('loss and gradients', 'tenth'), ('training step', 'second'):
        if (work, 'first') not in found: return [('the first call', MISSING)]
        (a, units), (b, _) = found[work, 'first'], found[work, late]
        lines.append((f'{work}, {units} units, first against {late}', f'{a/b:.1f} times, {1e3*(a - b):.0f} ms more'))
    return lines + [('an optimiser, made for the first time', f'{1e3*found["optimiser", "first"][0]:.0f} ms')]


def reach_of_percepts(results: dict) -> list[tuple[str, str]]: # what, and the figure
    "Frames a second."
    found = [(f'{r["case"]["work"]}, {r["variant"]}, {r["dtype"]}, frames a second', count(r['frames_per_s']))
             for r in rows(results, 'percepts')]
    return found or [('percepts', MISSING)]


def reach(
    results: dict, # as `load` gives them
) -> list[tuple[str, str]]: # what, and the figure, or why there is none
    "The figures that matter most: what `backend='auto'` chooses (the fastest, if that was left out) beside `nn.LSTM`."
    return (reach_of_layers(results) + reach_of_steps(results) + reach_of_first(results) + reach_of_memory(results)
            + reach_of_percepts(results))


# ---- everything

def memory_table(
    group: dict, # of the results
) -> Table: # a line a row
    "Bytes."
    lines = [[label(r['case']), r['variant'], *(mib(r['bytes'][k]) for k in ('peak', 'output'))] for r in group['rows']]
    return Table(['case', 'variant', 'peak', 'output'], lines, align='llrr')


def time_table(
    results: dict, # as `load` gives them
    group: str, # one of its groups
) -> Table: # a line a row
    "Seconds, and what follows from them."
    peers = [(p, d) for p, d in PEERS if rows(results, group, p, d)]
    head = ['case', 'variant', 'dtype', 'median ms', 'quartiles', 'n', *(f'to {p} {d}' for p, d in peers)]
    lines = []
    for r in results['groups'][group]['rows']:
        s = r['seconds']
        beside = [ratio(results, group, r['case'], variant=r['variant'], peer=p, dtype=r['dtype'], peer_dtype=d)
                  for p, d in peers]
        lines.append([label(r['case']), r['variant'], r['dtype'], f'{s["median"]*1e3:.4g}',
                      f'{s["q1"]*1e3:.4g}-{s["q3"]*1e3:.4g}', s['n'], *map(times, beside),
                      count(r.get('gflops_per_s')), share(r.get('share_of_limit')), count(r.get('clips_per_s'))])
    return Table(head + ['GFLOP/s', 'of limit', 'clips/s'], lines, align='ll' + 'r'*(len(head) + 1))


def head_of(
    results: dict, # as `load` gives them
) -> list[str]: # lines
    "Machine, date, limit."
    m = results['machine']
    lines = [f'{m.get("gpu") or m["cpu"]}, {m["cores_used"]} CPU cores, {m["capability"]}; torch '
             f'{results["versions"]["torch"]}; {results["date"]}' + '; quick sizes'*results['settings']['quick'],
             'limit: ' + ', '.join(f'{v:.0f} GFLOP/s in {k}' for k, v in results['limit'].items())
             + ' (the fastest matrix product measured)']
    return lines + [f'bf16 not measured: {results["bf16"].get("reason")}'] * (not results['bf16']['measured'])


def table(
    results: dict, # as `load` gives them
) -> str: # plain text
    "Everything that was measured, for reading."
    lines = head_of(results)
    for name, group in results['groups'].items():
        lines.append(f'\n{name} ({group["date"]})')
        lines.append((memory_table(group) if name == 'memory' else time_table(results, name)).text())
        lines += [f'not measured: {label(l["case"])} {l["variant"] or "all variants"} {l["dtype"] or ""}: {l["reason"]}'
                  for l in group['left_out']]
        if name == 'clips':
            lines += [f'a batch of clips takes {r["share"]:.1%} of a composite step of {r["units"]} units '
                      f'({r["variant"]}, {r["dtype"]})' for r in clip_shares(results)]
    return '\n'.join([*lines, '\nreach', Table(['what', 'measured'], reach(results), align='ll').text()])

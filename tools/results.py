"""Results: what `benchmarks/` and `experiments/` share. Where, when and with what something was measured, and its file.

    sys.path[:0] = [str(ROOT), str(ROOT/'tools')]
    from results import load, save_rows, select, stamp
"""
import json
import math
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

import lstm_video_repr
from lstm_video_repr.core.files import write_json, write_text
from lstm_video_repr.fast_lstm import fast_bf16, has_unit

ROOT = Path(__file__).resolve().parent.parent


# ---- where, when, with what

def today() -> str: # as 2026-01-31T12:00:00+00:00
    "Date and time, in UTC."
    return datetime.now(timezone.utc).isoformat(timespec='seconds')


def versions() -> dict: # name -> version
    "What was computed with."
    return dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__,
                lstm_video_repr=lstm_video_repr.__version__)


def ask_git(
    *words: str, # of the command
) -> str | None: # what it says; None if it cannot
    "Ask git about this clone."
    try: done = subprocess.run(['git', '-C', str(ROOT), *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired): return None
    return done.stdout.strip() if done.returncode == 0 else None


@lru_cache
def commit() -> str | None: # its first 12 digits, then '-dirty' if a .py file is not as it is there
    "The commit that this process works with; None outside of a clone."
    top, _, head = (ask_git('rev-parse', '--show-toplevel', '--short=12', 'HEAD') or '').partition('\n')
    if not head or Path(top).resolve() != ROOT: return None
    return head + '-dirty'*bool(ask_git('status', '--porcelain', '--untracked-files=no', '--', '*.py'))


@lru_cache
def cpu_name() -> str: # as the system has it
    "The processor."
    file = Path('/proc/cpuinfo')
    name = re.search(r'^model name\s*:\s*(.+)$', file.read_text(), re.M) if file.is_file() else None
    return name[1].strip() if name else platform.processor() or platform.machine()


def capability(
    device: torch.device | str, # where
) -> str: # short and lowercase: 'amx', 'avx512-bf16', 'avx2', 'h100', ...
    "What kind of device this is."
    device = torch.device(device)
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
        number = re.search(r'\b[A-Z]*\d+[A-Z]*\b', name, re.I)
        return re.sub(r'\W+', '-', (number[0] if number else name).lower())
    if fast_bf16(device): return 'amx' if has_unit('amx_tile') else 'avx512-bf16'
    return torch.backends.cpu.get_cpu_capability().lower().replace(' ', '-')


def machine(
    device: torch.device | str, # where is computed
) -> dict: # no names of hosts or people; `cores_used` is `threads` by the name that benchmarks have for it
    "The machine, as far as it matters."
    device, threads = torch.device(device), torch.get_num_threads()
    found = dict(device=device.type, capability=capability(device), cpu=cpu_name(), cores_used=threads, threads=threads)
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        found['memory_gib'] = round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30)
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        found |= dict(gpu=properties.name, gpu_memory_gib=round(properties.total_memory / 2**30))
    return found | dict(products='bf16' if fast_bf16(device) else 'fp32')


def stamp(
    device: torch.device | str, # where is computed
) -> dict: # machine, versions, date, commit
    "What any results file says of its making."
    return dict(machine=machine(device), versions=versions(), date=today(), commit=commit())


def find_digits() -> str: # 'mnist' or 'embedded'
    "MNIST if LVR_DATA has all of it, else the embedded digits. Nothing is downloaded."
    from lstm_video_repr.digits import find_mnist
    folder = os.environ.get('LVR_DATA')
    return 'mnist' if folder and all(find_mnist(folder, split) for split in ('train', 'test')) else 'embedded'


# ---- what goes into a file

def plain(
    x, # numbers, arrays, tensors, and lists and dicts of these
    *,
    strict: bool = True, # a `ValueError` for numbers that are not finite; False: they become None
): # the same, of what JSON knows; fractions with 6 digits
    "What goes into a file."
    if isinstance(x, dict): return {str(k): plain(v, strict=strict) for k, v in x.items()}
    if isinstance(x, (torch.Tensor, np.ndarray, np.generic)): x = x.tolist()
    if isinstance(x, (list, tuple)): return [plain(v, strict=strict) for v in x]
    if not isinstance(x, float): return x
    if math.isfinite(x): return float(f'{x:.6g}')
    if strict: raise ValueError(f'a result is {x}; expected finite numbers')


def reason_of(
    error: Exception | str, # what went wrong
) -> str: # its kind and first line, without folders of this machine, at most 200 characters
    "An error as a reason in a file."
    first = (str(error).strip().splitlines() or ['no message'])[0]
    kind = f'{type(error).__name__}: ' if isinstance(error, BaseException) else ''
    return re.sub(r'(?:/[\w.~-]+){2,}', '...', kind + first)[:200]


def select(
    rows: list[dict], # of a file
    /,
    **like, # entries that have to agree, of the row or of its `case`: model='composite', seed=0, units=512, ...
) -> list[dict]: # those that fit
    "Some of the rows."
    def entries(row): return row | (case if isinstance(case := row.get('case'), dict) else {})
    return [r for r in rows if all(entries(r).get(k) == v for k, v in like.items())]


# ---- files

def load(
    path: str | Path, # a file
    required: tuple = (), # what it has to have
    *,
    maker: str, # the command that makes it
) -> dict: # what it holds
    "Read results strictly. `OSError` or `ValueError` name the file."
    path = Path(path)
    if not path.is_file(): raise FileNotFoundError(f'{str(path)!r} is no file; `{maker}` makes it')
    try: found = json.loads(path.read_text(encoding='utf8'))
    except ValueError as error: raise ValueError(f'{str(path)!r} is no whole JSON file ({error})') from error
    if not isinstance(found, dict): raise ValueError(f'{str(path)!r} holds no results; expected what `{maker}` writes')
    missing = [k for k in required if k not in found]
    if missing: raise ValueError(f'{str(path)!r} lacks {", ".join(missing)}; expected what `{maker}` writes')
    return found


def save(
    path: str | Path, # the file to write or replace, in a folder that is there
    results: dict, # plain
) -> Path: # the file
    "Write results, all or nothing."
    return write_json(path, results)


def save_rows(
    path: str | Path, # the file to write or replace, in a folder that is there
    results: dict, # plain, with a list 'rows'
) -> Path: # the file
    "Write results, all or nothing: one line a row, so that a new row is a new line for git."
    head = json.dumps({k: v for k, v in results.items() if k != 'rows'}, indent=1, allow_nan=False)
    rows = ',\n'.join('  ' + json.dumps(r, allow_nan=False) for r in results['rows'])
    return write_text(path, f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')


# ---- going on with a file

def check_same(
    path: str | Path, # of the file, for the message
    old: dict, # what the file was made with
    now: dict, # what is asked for
    *,
    skip: tuple = (), # entries that may differ
    hint: str = '', # what else the user can do: '--fresh to start anew'
):
    "Can the file be gone on with? `ValueError` that names what differs."
    other = [k for k in {**old, **now} if k not in skip and old.get(k) != now.get(k)]
    said = ', '.join(f'{k} {old.get(k)!r} (now {now.get(k)!r})' for k in other)
    more = f', or {hint}' if hint else ''
    if other: raise ValueError(f'{Path(path).name} has results for {said}; expected the same, another --out{more}')

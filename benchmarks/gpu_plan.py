"Plans of `gpu.py`, for a machine that is there for minutes: which parts, in what order, and for how long."
from dataclasses import dataclass
from pathlib import Path

from gpu_common import ROWS, read

LEAST_ROW = 170. # seconds that a row of the table takes to be worth beginning: 40 of them go to what is around training


@dataclass(frozen=True)
class Plan:
    "Parts in order; what time the others leave is shared by those that have no limit."
    about: str # what it is for
    within: float # seconds for all
    limits: dict # part -> seconds at most; None: a share of what is left


PLANS = dict(
    first=Plan('is it right, how fast is it, and a model to bring home', 420.,
               dict(agree=110., speed=80., clips=25., bundle=None)),
    rows=Plan("those rows of the paper's table that are missing, the paper's best first", 240.,
              dict.fromkeys(part for part in ROWS if part != 'row-authors')))


def is_there(
    out: Path, # folder of the files
    name: str, # of a part
) -> bool: # is there nothing left to do?
    "A part that is complete; a row that has been measured, too, if its training was cut."
    found = read(out/f'gpu-{name}.json')
    return bool(found) and (found['status'] == 'complete' or name in ROWS and 'test' in found)


def order(
    plan: Plan, # to be followed
    out: Path, # folder of the files
) -> list[str]: # parts
    "What is still to be done, those that have been begun last."
    missing = [name for name in plan.limits if not is_there(out, name)]
    if all(limit is None for limit in plan.limits.values()):
        missing.sort(key=lambda name: (out/f'gpu-{name}.json').exists())
    return missing


def share(
    plan: Plan, # being followed
    rest: list[str], # parts that are still to come
    left: float, # seconds for all of them
    *,
    within: float, # seconds for the whole plan; limits grow and shrink with it
) -> float: # seconds
    "How long the first of these may take. Rather one row of the table that is worth something than four that are not."
    limit, alike = plan.limits[rest[0]], [name for name in rest if plan.limits[name] is None]
    if limit is not None: return min(limit * within / plan.within, left)
    return left / max(1, min(len(alike), int(left // LEAST_ROW)))


def describe() -> str: # lines
    "The plans, for --help."
    lines = []
    for name, plan in PLANS.items():
        limits = ', '.join(part + (f' ({limit:g} s)' if limit else '') for part, limit in plan.limits.items())
        lines += [f'--plan {name}: {plan.about}, in {plan.within:g} s:', f'  {limits}']
    return '\n'.join(lines)

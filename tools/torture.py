"""Try to break the package: damaged files, killed trainings, hostile arguments, words and texts; and what peers do.

    python tools/torture.py                                   all, large, into benchmarks/results (an hour; goes on
                                                              where it stopped)
    python tools/torture.py --size small                      all, small, into no file (a minute)
    python tools/torture.py --only arguments --module clips   one campaign, in this process; the arguments of one module

Each campaign says in its own file what is right. The exit code is 1 if there is a fault."""
import argparse
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [p for p in (str(ROOT), str(ROOT/'tools')) if p not in sys.path]

from tqdm import tqdm

import results
from lstm_video_repr.core.files import make_folder
from lstm_video_repr.core.tables import Table
from torture_arguments import Arguments
from torture_bytes import Bytes
from torture_common import KINDS, count, run_apart, run_here, serve
from torture_kills import Kills
from torture_peers import Peers
from torture_text import Text
from torture_words import Words

CAMPAIGNS = {c.name: c for c in (Bytes, Kills, Arguments, Words, Text, Peers)}
RESULTS = ROOT/'benchmarks'/'results'/'torture'/'torture.json' # in a folder of its own: what lies above is all speed
MAKER = 'make torture'
PAUSE = 20 # seconds between two savings of what is known so far


# ---- for people

def group(
    faults: list[str], # 'call(argument=value): what happened'
) -> list[str]: # a line for all values of an argument that end alike
    "Faults for a reader."
    found = {}
    for line in faults:
        fault = re.fullmatch(r'(\w[\w.]*\(\w+=)(.*?)\): (\w+: \w+)(.*)', line, re.S)
        found.setdefault((fault[1], fault[3]) if fault else line, []).append(fault or line)
    def join(same):
        if isinstance(same[0], str): return same[0]
        more = f' and {len(same) - 5} more' if len(same) > 5 else ''
        return f'{same[0][1]}{" | ".join(f[2] for f in same[:5])}{more}): {same[0][3]}{same[0][4]}'
    return [join(same) for same in found.values()]


def tables(
    found: dict, # as in the file: 'campaigns', each with counts and `parts`
) -> list[Table]: # of all campaigns, of the kinds of files, of who sees a flipped bit
    "The results for a page."
    head = ['tried', *KINDS]
    def rows(parts): return [[name, *(tally[k] for k in head)] for name, tally in parts.items()]
    campaigns = found['campaigns']
    made = [Table(['campaign', *head], rows(campaigns))]
    if 'bytes' in campaigns: made.append(Table(['damaged file', *head], rows(campaigns['bytes']['parts'])))
    if 'peers' in campaigns:
        peers = [[n, t['tried'], t['unseen'] + t['fault']] for n, t in campaigns['peers']['parts'].items()]
        made.append(Table(['one bit flipped', 'tried', 'read without a word'], peers))
    return made


def show(
    found: dict, # as in the file
) -> None:
    "Faults, a line each, then counts."
    for name, tally in found['campaigns'].items():
        for line in group(tally['faults']): print(f'{name}: {line}')
    print('\n\n'.join(map(str, tables(found))))


# ---- running

class Session:
    "Campaigns side by side, each in a process of its own; what they found is kept in a file, and gone on from."
    def __init__(
        self,
        campaigns: list, # to be run
        path: Path, # of the results
        *,
        fresh: bool = False, # do not go on from an earlier session that was interrupted?
    ):
        make_folder(path.parent)
        self.campaigns, self.path, self.part = campaigns, path, path.with_name(f'.{path.stem}.part')
        about = dict(size=campaigns[0].size, seed=campaigns[0].seed, commit=results.commit())
        self.found = about | dict(seconds=0, campaigns={})
        if not fresh and self.part.is_file():
            old = results.load(self.part, tuple(self.found), maker=MAKER)
            if {k: old[k] for k in about} == about: self.found = old
        self.spent, self.began, self.saved = self.found['seconds'], time.monotonic(), time.monotonic()

    def save(self):
        "What is known so far."
        self.found['seconds'] = round(self.spent + time.monotonic() - self.began)
        results.save(self.part, self.found)
        self.saved = time.monotonic()

    def run(self, campaign, bar):
        "One campaign, from where it stands."
        tally, known = self.found['campaigns'].setdefault(campaign.name, {}), 0
        if tally and tally['tried'] == tally['of']: return
        for found in run_apart(campaign, tally.get('tried', 0)):
            count([found], tally)
            if not known: bar.total = bar.total + found.of - found.number
            known += 1
            bar.update()
            if time.monotonic() - self.saved > PAUSE: self.save()

    def run_all(self, jobs):
        "All campaigns, some of them at a time; then the file."
        pause = 1 if sys.stderr.isatty() else 60
        bar = tqdm(total=0, unit='case', smoothing=.05, mininterval=pause)
        with bar, ThreadPoolExecutor(jobs) as pool:
            for job in [pool.submit(self.run, c, bar) for c in self.campaigns]: job.result()
        self.save()
        results.save(self.path, results.stamp('cpu') | self.found)
        self.part.unlink()
        return self.found


def run_all_here(
    campaigns: list, # to be run
) -> dict: # as in the file
    "In this process, one after the other."
    return dict(campaigns={c.name: count(run_here(c)) for c in campaigns})


def parse(argv):
    "The words of the command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default=','.join(CAMPAIGNS), help=f'some of {", ".join(CAMPAIGNS)} (default: all)')
    parser.add_argument('--size', choices=['small', 'large'], default='large')
    parser.add_argument('--seed', type=int, default=0, help='another seed, other cases (default: 0)')
    parser.add_argument('--module', help='for arguments: only this module, in this process, all its cases')
    parser.add_argument('--out', type=Path, help=f'the file of results (default: {RESULTS.name} if all is large)')
    parser.add_argument('--jobs', type=int, default=2, help='campaigns at a time, each on one core (default: 2)')
    parser.add_argument('--fresh', action='store_true', help='do not go on from a session that was interrupted')
    parser.add_argument('--serve', type=int, metavar='K', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.only = args.only.split(',')
    if unknown := set(args.only) - set(CAMPAIGNS): parser.error(f'no campaign {", ".join(sorted(unknown))}')
    if args.out is None and args.size == 'large' and set(args.only) == set(CAMPAIGNS): args.out = RESULTS
    return args


def main(
    argv: list | None = None, # the words of the command; None: those of this process
) -> int: # 1 if there are faults
    "The command."
    args = parse(argv)
    campaigns = [CAMPAIGNS[name](args.size, args.seed, module=args.module) for name in args.only]
    if args.serve is not None:
        serve(campaigns[0], args.serve)
        return 0
    if args.out is None: found = run_all_here(campaigns)
    else: found = Session(campaigns, args.out, fresh=args.fresh).run_all(args.jobs)
    show(found)
    return int(any(tally['fault'] for tally in found['campaigns'].values()))


if __name__ == '__main__': sys.exit(main())

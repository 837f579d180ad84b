"The campaigns of tools/torture.py, small: nothing breaks; planted faults, which each of them has to see; properties."
import json
import math
import os
import sys
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault('HYPOTHESIS_STORAGE_DIRECTORY', tempfile.mkdtemp(prefix='hypothesis-')) # not in the clone
hypothesis = pytest.importorskip('hypothesis', reason='needs hypothesis')
for library in ('h5py', 'matplotlib', 'anywidget'): pytest.importorskip(library, reason=f'needs {library}')
from hypothesis import HealthCheck, given, strategies as st
from safetensors.torch import load

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [p for p in (str(ROOT), str(ROOT/'tools')) if p not in sys.path]

import torture
import torture_arguments
import torture_bytes
import torture_kills
import torture_peers
import torture_text
import torture_words
from lstm_video_repr.clips import ArrayClips, FixedClips, MovingDigits, bounce, shuffle
from lstm_video_repr.core.checks import (check_choice, check_flag, check_number, check_numbers, check_whole,
                                         escape_controls)
from lstm_video_repr.core.files import read_safetensors, write_safetensors
from torture_common import Campaign, Found, Verdict, attempt, count, forget_peak, run_apart, run_here, workplace

pytestmark = [pytest.mark.usefixtures('one_thread'),
              pytest.mark.skipif(sys.platform != 'linux', reason='memory and calls are watched as Linux lets one')]


def many(n): # examples, the same each time, on a busy machine as on a quiet one
    return hypothesis.settings(max_examples=n, derandomize=True, deadline=None, database=None,
                               suppress_health_check=list(HealthCheck))


# ---- nothing breaks

@pytest.mark.parametrize('name', ['bytes', 'arguments', 'words', 'text', 'peers'])
def test_small_campaign(name):
    found = count(run_here(torture.CAMPAIGNS[name]('small')))
    assert found['faults'] == []
    assert found['tried'] == found['of'] > 50 and (found['refused'] > 0 or name == 'text')


def test_kills_in_a_process_of_their_own(tmp_path, capsys):
    "The command itself: its file, its exit code, what it shows."
    code = torture.main(['--only', 'kills', '--size', 'small', '--out', str(tmp_path/'found.json')])
    found = json.loads((tmp_path/'found.json').read_text())
    kills = found['campaigns']['kills']
    assert kills['faults'] == [] and code == 0
    assert kills['tried'] == kills['of'] == kills['harmless'] > 20 and 'training' in kills['parts']
    assert {'machine', 'versions', 'date', 'commit', 'seconds', 'seed', 'size'} <= found.keys()
    assert 'kills' in capsys.readouterr().out and os.listdir(tmp_path) == ['found.json']


@pytest.mark.parametrize('module', torture_arguments.MODULES)
def test_good_calls(module):
    "Each public callable has a good call in torture_calls.py, and nothing else stands there."
    names = [name for name, _ in torture_arguments.find_callables(module)]
    for table in (torture_arguments.CALLS, torture_arguments.MORE):
        assert [k for k in table if k.startswith(module + '.') and k[-1] != '*' and k not in names] == []
    with workplace():
        torture_arguments.write_mnist()
        assert torture_arguments.broken_calls(module) == []


PLACES = [(name, found, parameter) for module in torture_arguments.MODULES
          for name, found in torture_arguments.find_callables(module)
          for parameter in torture_arguments.find_parameters(name, found).values()]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary(),
                    st.sampled_from([np.int8(-1), np.float64('inf'), np.bool_(True), math, Path()]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
                      | st.tuples(inner, inner), max_leaves=4)


@many(80)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_for_any_argument(place, value):
    with workplace():
        torture_arguments.write_mnist()
        if isinstance(value, int) and abs(value) > 100: value = 2**63 * value # too large for all, not only for memory
        verdict = torture_arguments.try_argument(*place, lambda: value)
    assert verdict.kind != 'fault', f'{place[0]}({place[2].name}={value!r}): {verdict.words}'


# ---- planted faults

def plant(monkeypatch, module, table, **entries):
    "Only these entries in a table of a campaign; what it finds."
    monkeypatch.setattr(module, table, entries)
    name = module.__name__.removeprefix('torture_')
    return count(run_here(torture.CAMPAIGNS[name]('small')))['faults']


def test_bytes_sees_what_is_believed(monkeypatch):
    "A reader without a checksum, one that lets errors through, one that takes memory."
    monkeypatch.setattr(torture_bytes, 'HOSTILE_FILES', {})
    good = torture_bytes.SUBJECTS['model']
    def blind(path): return load(Path(path).read_bytes())
    def bare(path):
        try: return good.read(path)
        except OSError as e: raise KeyError(path) from e
    def greedy(path): return dict(a=torch.zeros(2**24 + 0 * len(good.read(path))).add_(1))
    faults = {name: plant(monkeypatch, torture_bytes, 'SUBJECTS', model=replace(good, read=read))
              for name, read in dict(blind=blind, bare=bare, greedy=greedy).items()}
    assert any('silent' in f for f in faults['blind']) and any('unnamed: KeyError' in f for f in faults['bare'])
    assert any('memory' in f for f in faults['greedy'])


def test_bytes_sees_hostile_files_that_are_read(monkeypatch):
    blind = replace(torture_bytes.SUBJECTS['model'], read=lambda path: {})
    monkeypatch.setattr(torture_bytes, 'SUBJECTS', {'model': blind})
    campaign = torture_bytes.Bytes()
    monkeypatch.setattr(campaign, 'make_cases', lambda: [('model', 'deep JSON', 0), ('model', 'folder', 0)])
    assert len(count(run_here(campaign))['faults']) == 2


def test_kills_sees_half_a_file(monkeypatch):
    "A writer that does not write all or nothing; one that leaves things lying."
    def half(path): Path(path).write_text('x' * 1000)
    def messy(path):
        Path('left.tmp').write_text('x')
        os.replace('left.tmp', path)
    monkeypatch.setattr(torture_kills, 'train_tiny', lambda tell: {})
    monkeypatch.setattr(torture_kills.Kills, 'most', dict(small=4))
    monkeypatch.setattr(torture_kills, 'check_training', lambda *args, **options: None)
    faults = plant(monkeypatch, torture_kills, 'WRITERS', **{'half.txt': half, 'messy.txt': messy})
    assert any(f.startswith('half.txt, kill') and 'neither' in f for f in faults)
    assert not any(f.startswith('messy') for f in faults), 'written again, it takes what it left itself'


def test_kills_sees_what_is_lost():
    "Steps that are not saved, other weights, leavings, a checkpoint that cannot be read, an error without a name."
    result, files = dict(weights=1, rows=[], logged=[]), ['log.jsonl', 'run.safetensors']
    good = dict(step=4, code=0, error='', result=result, files=files)
    def check(said=(), keeps=True, **change):
        outcome = torture_kills.Outcome(1, ['step 4', *said])
        return torture_kills.check_training(outcome, good | change, good['result'], keeps=keeps)
    assert check() is None
    assert 'lost' in check(step=3) and check(step=3, keeps=False) is None
    assert 'weights differ' in check(result=dict(weights=2, rows=[], logged=[]))
    assert 'left behind: .x.tmp' in check(files=['.x.tmp', 'run.safetensors'])
    assert 'cannot go on' in check(code=1) and 'unnamed' in check(said=['error fault unnamed: OSError'])
    del good['step']
    assert 'cannot be read' in check(unread='damaged')


def test_arguments_sees_wrong_refusals(monkeypatch):
    def broken(x, flag: bool = True, number: int = 1): return x.nothing if x is None else x
    def found(module): return [('clips.mix', broken)] if module == 'clips' else []
    monkeypatch.setattr(torture_arguments, 'find_callables', found)
    faults = count(run_here(torture_arguments.Arguments(module='clips')))['faults']
    for said in ('x=None): unnamed: AttributeError', "flag='no'): accepted", 'number=nan): a', 'number=True): a'):
        assert any(said in f for f in faults), said
    assert not any('flag=False' in f or 'number=-1' in f or 'x=a vector' in f for f in faults)


@pytest.mark.parametrize('end, said', [
    (KeyError('x'), 'unnamed: KeyError'), ((2, ''), 'unnamed: exit code 2'), ((7, 'x'), 'exit code 7'),
    ((0, '\x1b[2J'), 'escape'), ((1, 'Traceback (most recent call last)'), 'traceback')])
def test_words_sees_wrong_ends(monkeypatch, end, said):
    def main(words):
        if isinstance(end, Exception): raise end
        print(end[1], file=sys.stderr)
        return end[0]
    monkeypatch.setattr(torture_words, 'main', main)
    monkeypatch.setattr(torture_words, 'LINES', [])
    assert any(said in f for f in count(run_here(torture_words.Words()))['faults'])


def test_text_sees_markup(monkeypatch):
    faults = plant(monkeypatch, torture_text, 'PLACES', raw=(lambda text: f'<p title="x">{text}</p>', 'html'),
                   bare=(str, 'lines'), cell=(lambda text: f'| {text} |', 'cells'))
    for said in ('raw, script: leak: an element', 'bare, control: leak: control characters', 'cell, bars: shape'):
        assert any(said in f for f in faults), said


def test_peers_sees_what_we_accept(monkeypatch):
    file, write, _ = torture_peers.PEERS['load_model']
    def blind(path): return load(Path(path).read_bytes())
    faults = plant(monkeypatch, torture_peers, 'PEERS', load_model=(file, write, blind))
    assert len(faults) > 10 and 'silent' in faults[0]


# ---- the ground that all stand on

def test_limits():
    "Time, memory that is asked for, memory that is used, errors without a name."
    def spin():
        while True: pass
    def judge(call, **options): return attempt(call, ['x'], **options)
    assert 'slow' in judge(spin, seconds=.05).words
    assert 'memory' in judge(lambda: bytearray(2**31), memory=2**28).words
    if forget_peak(): assert 'memory' in judge(lambda: bytearray(2**26).count(0), most=2**24).words
    assert judge(lambda: bytearray(2**10), most=2**24).kind == 'harmless'
    def refuse(error): raise error
    assert {judge(lambda: refuse(e)).kind for e in (ValueError('x is 1'), SystemExit(2))} == {'refused'}
    for error in (ValueError('xy is 1'), KeyError('x'), SystemExit('x'), SystemExit(1), AssertionError('x is 1')):
        assert judge(lambda: refuse(error)).kind == 'fault'


SERVER = '''
import json, os, sys, time
first = int(sys.argv[sys.argv.index('--serve') + 1])
for k in range(first, 5):
    print(json.dumps([k, 5, 'part', f'case {k}', None]), flush=True)
    if k == 1: os.kill(os.getpid(), 9)
    if k == 3: time.sleep(60)
    print(json.dumps([k, 5, 'part', f'case {k}', ['harmless', '']]), flush=True)
print('null')
'''


def test_a_process_that_dies_or_hangs_is_a_fault():
    campaign = Campaign()
    found = count(run_apart(campaign, command=[sys.executable, '-c', SERVER], patience=2))
    assert found['tried'] == found['of'] == 5 and found['harmless'] == 3
    assert [f[:11] for f in found['faults']] == ['case 1: die', 'case 3: slo']
    with pytest.raises(RuntimeError, match='does not begin'):
        list(run_apart(campaign, command=[sys.executable, '-c', 'raise SystemExit(3)']))


def test_a_session_goes_on(tmp_path, monkeypatch):
    "What was found is kept; after an interruption only the rest is tried."
    tried = []
    def fake(campaign, first=0):
        for k in range(first, 4):
            tried.append(k)
            if tried == [0, 1, 2]: raise KeyboardInterrupt
            yield Found(k, 4, 'part', f'case {k}', Verdict('fault', 'x') if k == 3 else Verdict('refused'))
    monkeypatch.setattr(torture, 'run_apart', fake)
    monkeypatch.setattr(torture, 'PAUSE', 0)
    words = ['--only', 'peers', '--size', 'small', '--out', str(tmp_path/'found.json')]
    with pytest.raises(KeyboardInterrupt): torture.main(words)
    assert os.listdir(tmp_path) == ['.found.part']
    assert torture.main(words) == 1 and tried == [0, 1, 2, 2, 3]
    found = json.loads((tmp_path/'found.json').read_text())['campaigns']['peers']
    assert (found['tried'], found['refused'], found['faults']) == (4, 3, ['case 3: x'])


def test_faults_are_grouped():
    faults = [f'clips.mix(x={v}): unnamed: TypeError: bad {v}' for v in 'abcdefg'] + ['model, flip, 3: silent: x']
    assert torture.group(faults) == ['clips.mix(x=a | b | c | d | e and 2 more): unnamed: TypeError: bad a', faults[-1]]


# ---- properties

SOURCES = {
    'moving digits': lambda seed, n: MovingDigits('embedded', n_digits=1, image_size=28, past=2, future=1, seed=seed),
    'shuffled array': lambda seed, n: ArrayClips(torch.arange(n * 2.).view(n, 2, 1), seed=seed),
    'array in order': lambda seed, n: ArrayClips(torch.arange(n * 2.).view(n, 2, 1), seed=None),
    'fixed set': lambda seed, n: FixedClips(ArrayClips(torch.arange(n * 2.).view(n, 2, 1), seed=seed), n)}


@many(40)
@given(st.sampled_from(sorted(SOURCES)), st.integers(0, 2**63 - 1), st.integers(1, 7),
       st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_clips_do_not_depend_on_batches(name, seed, n, sizes):
    "Numbered clips: in batches of any sizes the same ones, and from any number on."
    clips, total = SOURCES[name](seed, n), sum(sizes)
    whole = clips.read(0, total)
    assert clips.index == 0, 'reading leaves the place alone'
    batches = [clips.batch(size) for size in sizes]
    assert clips.index == total
    for k in (0, 1): assert torch.equal(torch.cat([b[k] for b in batches]), whole[k])
    clips.index = first = total // 2
    assert torch.equal(clips.batch(total - first)[0], whole[0][first:])
    assert clips.describe() == SOURCES[name](seed, n).describe()


@many(60)
@given(st.integers(0, 2**63 - 1), st.integers(1, 40), st.integers(0, 10**6), st.integers(0, 9))
def test_a_pass_has_each_of_all(seed, n, number, stream):
    turns = torch.arange(number * n, (number + 1) * n)
    order = shuffle(seed, turns, n, stream=stream)
    assert order.sort().values.tolist() == list(range(n))
    assert torch.equal(shuffle(seed, turns.flip(0), n, stream=stream), order.flip(0))


@many(60)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(-1, 1)] * 2), min_size=1, max_size=5), st.integers(1, 30))
def test_bounces_stay_inside(points, frames):
    numbers = torch.tensor(points, dtype=torch.float64)
    start, velocity = numbers[:, :2], numbers[:, 2:]
    path = bounce(start, velocity, frames)
    assert path.shape == (len(points), frames, 2) and path.min() >= 0 and path.max() <= 1
    steps = torch.cat([start[:, None], path], 1).diff(dim=1).abs()
    assert (steps <= velocity.abs()[:, None] + 1e-12).all()


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8,
          torch.uint8, torch.bool]
KINDS = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=4))
def words(but): return st.text(max_size=8).filter(lambda text: text != but)


@many(40)
@given(st.dictionaries(words('__metadata__'), KINDS, max_size=4),
       st.dictionaries(words('checksum'), st.text(), max_size=3), st.integers(0, 9))
def test_files_give_back_what_was_written(kinds, text, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {k: torch.randint(0, 100, shape, generator=generator).to(dtype) for k, (dtype, shape) in kinds.items()}
    with workplace():
        found, said = read_safetensors(write_safetensors('a.safetensors', tensors, text))
    assert {k: v for k, v in said.items() if k != 'checksum'} == text and torture_bytes.is_same(tensors, found)


def refused(check, value):
    "Does a check refuse a value by name?"
    try: check(value)
    except ValueError as e: return str(e).startswith('thing is ') or 'thing' in str(e)
    return False


@many(200)
@given(VALUES, st.integers(-5, 5), st.integers(0, 10))
def test_checks_take_what_fits_and_refuse_the_rest(value, least, more):
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    def check(v): return check_whole(v, 'thing', least, least + more)
    assert check(value) == value if whole and least <= value <= least + more else refused(check, value)
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and abs(value) < 1e300
    if number and math.isfinite(value): assert check_number(value, 'thing') == float(value)
    elif not isinstance(value, int): assert refused(lambda v: check_number(v, 'thing'), value)
    if isinstance(value, bool): assert check_flag(value, 'thing') is value
    else: assert refused(lambda v: check_flag(v, 'thing'), value)
    assert refused(lambda v: check_choice(v, 'thing', ['a', 7.5]), value) or value in ('a', 7.5)
    if not isinstance(value, (list, tuple, type(None))): assert refused(lambda v: check_numbers(v, 'thing', 3), value)


@many(100)
@given(st.text(st.characters()))
def test_written_out_controls_are_harmless(text):
    shown = escape_controls(text)
    assert shown == escape_controls(shown)
    assert not any(unicodedata.category(c) in ('Cc', 'Cf', 'Cs') for c in set(shown) - set('\n\t\u200c\u200d'))
    if text.isascii() and text.isprintable(): assert shown == text

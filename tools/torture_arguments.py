"""Campaign `arguments`: hostile values for each argument of everything public, one at a time, the others good.

Refused is what ends in an error of this package's dialect that names the argument or the file."""
import contextlib
import importlib
import inspect
import math
import random
import warnings
from numbers import Real
from pathlib import Path

import numpy as np
import torch

from torture_calls import BEHIND_THE_DOOR, CALLS, GOOD, MODULES, MORE, SELF, rand
from torture_common import Campaign, Verdict, attempt, write_mnist


class Odd:
    "An object that no library knows, and that cannot be shown."
    def __repr__(self): raise RuntimeError('shown')
    def __str__(self): return 'odd'


def raise_error(*args, **options): raise RuntimeError('boom')


HOSTILE = { # a label, and what makes the value
    'None': lambda: None, 'True': lambda: True, 'False': lambda: False, '0': lambda: 0, '-1': lambda: -1,
    '2**31': lambda: 2**31, '2**70': lambda: 2**70, '10**400': lambda: 10**400, 'nan': lambda: float('nan'),
    'inf': lambda: float('inf'), '-inf': lambda: -float('inf'), '1.5': lambda: 1.5, '1j': lambda: 1j,
    'np.int64(3)': lambda: np.int64(3), 'np.float32(.5)': lambda: np.float32(.5), 'np.nan': lambda: np.float64('nan'),
    'np.True_': lambda: np.True_, "''": lambda: '', "'no'": lambda: 'no', "'3'": lambda: '3', "'\\0'": lambda: 'a\0b',
    "'\\ud800'": lambda: '\ud800', "'<b>$x_$'": lambda: '<b>$x_$\x1b[2J', "'x' * 10**5": lambda: 'x' * 10**5,
    "b'no'": lambda: b'no', '[]': list, '()': tuple, '{}': dict, '[None]': lambda: [None],
    "{'a': {}}": lambda: {'a': {}}, '{1}': lambda: {1}, 'an object': Odd, 'a class': lambda: Odd,
    'a function': lambda: raise_error, 'an iterator': lambda: iter([]), 'range(3)': lambda: range(3),
    'a folder': lambda: Path('/proc'), 'no folder': lambda: Path('nowhere/new.png'),
    'nn.Linear': lambda: torch.nn.Linear(2, 2), 'a scalar tensor': lambda: torch.tensor(0.),
    'a vector': lambda: rand(3), 'an empty tensor': lambda: rand(0), '(2, 3, 1, 8, 8)': lambda: rand(2, 3, 1, 8, 8),
    'pixels of 255': lambda: 255 * rand(2, 3, 1, 8, 8), 'int64': lambda: torch.ones(2, 3, 1, 8, 8).long(),
    'float16': lambda: rand(2, 3, 1, 8, 8).half(), 'bool': lambda: rand(2, 3, 1, 8, 8) > .5,
    'complex': lambda: rand(2, 3, 1, 8, 8) * 1j, 'nan tensor': lambda: rand(2, 3, 1, 8, 8) * np.nan,
    'sparse': lambda: rand(2, 8).to_sparse(), 'meta': lambda: rand(2, 3, 1, 8, 8).to('meta'),
    'nested': lambda: torch.nested.nested_tensor([rand(2), rand(3)]), 'an array': lambda: np.zeros((2, 3, 1, 8, 8)),
    'an array of objects': lambda: np.array([None, 'a']),
    'a masked array': lambda: np.ma.masked_array([1., 2.], [True, False]),
}
ALIASES = { # other words by which an error may name an argument
    'clips': ('past', 'future', 'frames'), 'x': ('clips', 'past', 'future'), 'generator': ('seed',),
    'optimizer': ('model',), 'checkpoint': ('path',), 'log': ('path',), 'validate': ('clips',), 'items': ('widget',),
    'rows': ('clip', 'input'), 'past': ('input',), 'future': ('truth', 'clip'), 'watcher': ('callbacks',),
    'path': ('log', 'checkpoint', 'json', 'out'), 'batch_size': ('n',), 'dataset': ('clips',), 'pairs': ('clips',),
    'name': ('digits', 'preset')}
CALLED = {'closure', 'callbacks', 'watcher', 'step', 'function', 'activation'} # others' code, and its errors


# ---- what there is

def find_callables(
    module: str, # without the package: 'clips'
): # gives a dotted name and what it stands for
    "All that is public in a module: functions, classes, and the methods of these."
    home = importlib.import_module(f'lstm_video_repr.{module}')
    for name in home.__all__:
        found = getattr(home, name)
        if not callable(found) or name in BEHIND_THE_DOOR: continue
        yield f'{module}.{name}', found
        for key, method in find_methods(found).items() if inspect.isclass(found) else ():
            if key[0] != '_' and not {key, f'{name}.{key}'} & BEHIND_THE_DOOR: yield f'{module}.{name}.{key}', method


def find_methods(
    owner: type, # a class
) -> dict: # name -> function or class method
    "Its own methods, and those of its private bases, which nobody else shows."
    found = {}
    for base in reversed([owner, *(b for b in owner.__mro__[1:] if b.__name__[0] == '_')]): found |= vars(base)
    def plain(m): return m.__func__ if isinstance(m, (classmethod, staticmethod)) else m
    return {k: m for k, m in found.items() if inspect.isfunction(plain(m))}


def split_name(
    name: str, # dotted: 'core.tables.Table.text'
) -> tuple[str, str, str | None]: # module, function or class, method
    "The parts of a name."
    inner = name.startswith('core.')
    module, first, method = [*name.removeprefix('core.').split('.'), None][:3]
    return 'core.'*inner + module, first, method


def find_parameters(
    name: str, # dotted
    found, # function, class or method
) -> dict: # name -> parameter, without self
    "What can be given in a call."
    plain = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
    if inspect.isclass(found): plain = found.__init__ # a metaclass may hide it
    try: parameters = list(inspect.signature(plain).parameters.values())
    except ValueError: return {} # of a class made in C
    if inspect.isclass(found) or split_name(name)[2]: parameters = parameters[1:]
    P = inspect.Parameter
    plain = {p.name: p for p in parameters if p.kind not in (P.VAR_POSITIONAL, P.VAR_KEYWORD)}
    return plain | {k: P(k, P.KEYWORD_ONLY, default=None) for k in MORE.get(name, ()) if k not in plain}


def build_call(
    name: str, # dotted
    found, # function, class or method
): # a function, and what it is to be called with
    "A good call, made anew."
    module, first, method = split_name(name)
    if method and isinstance(found, classmethod):
        found = getattr(getattr(importlib.import_module(f'lstm_video_repr.{module}'), first), method)
    elif method: found = getattr(SELF[first](), method)
    own = CALLS.get(f'{module}.{first}.*', {}) | CALLS.get(name, {})
    parameters = find_parameters(name, found.__func__ if method else found)
    wanted = [k for k, p in parameters.items() if p.default is p.empty or k in own]
    return found, {k: (own.get(k) or GOOD[k])() for k in wanted}


def fits_of(
    value, # anything
) -> str: # 'n' a number, 'f' a flag, 'nf' both, '' neither
    "Which kinds of argument a value may be."
    if value is None: return 'nf'
    if isinstance(value, (bool, np.bool_)): return 'f'
    if isinstance(value, torch.Tensor): return 'n' if value.dim() == 0 and value.layout == torch.strided else ''
    try: return 'n' if isinstance(value, Real) and math.isfinite(value) else ''
    except OverflowError: return ''


def kind_of(
    parameter, # of a signature
) -> str: # 'n' a number, 'f' a flag, '': something else, or several of these
    "What an argument is for, as far as annotation and default say so."
    said = str(getattr(parameter.annotation, '__name__', parameter.annotation)).replace(' | None', '')
    if parameter.annotation is parameter.empty: said = type(parameter.default).__name__
    return {'int': 'n', 'float': 'n', 'bool': 'f'}.get(said, '')


# ---- trying

def use(
    result, # of a call
) -> None:
    "Begin what has only been promised: contexts and iterators."
    if isinstance(result, contextlib.AbstractContextManager) and not isinstance(result, torch.nn.Module):
        with result: return
    if inspect.isgenerator(result): next(result, None)


def close_figures():
    "Leave no figure open; True if there were some."
    import matplotlib.pyplot as plt
    some = len(plt.get_fignums()) > 0
    plt.close('all')
    return some


def try_argument(
    name: str, # dotted
    found, # function, class or method
    parameter: inspect.Parameter, # the one that is changed
    make, # makes its value
) -> Verdict:
    "One call with one odd argument."
    function, options = build_call(name, found)
    value, kind = make(), kind_of(parameter)
    names = {parameter.name, *ALIASES.get(parameter.name, ()), *find_parameters(name, found)}
    names |= {str(v) for v in (value, *options.values()) if isinstance(v, (str, Path))} # files, too
    if isinstance(value, dict): names |= set(map(str, value)) # what the user calls it
    def accept(result):
        if not kind or kind in fits_of(value): return Verdict('harmless')
        return Verdict('fault', f'accepted: {dict(n="a number", f="a flag")[kind]} is wanted')
    def call():
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            use(function(**options | {parameter.name: value}))
    verdict = attempt(call, names, accept=accept)
    if verdict.words.startswith(('memory', 'slow')) and (isinstance(value, int) or value is parameter.default):
        return Verdict('harmless', 'as large as asked for')
    if 'boom' in verdict.words or parameter.name in CALLED and callable(value): return Verdict('harmless', 'not ours')
    if close_figures() and verdict.kind != 'fault': return Verdict('fault', 'a figure stays open')
    return verdict


class Arguments(Campaign):
    "Every public callable, every argument, hostile values."
    name = 'arguments'

    def start(self):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        write_mnist()
        close_figures()

    def make_cases(self):
        only = self.options.get('module')
        modules = [only.removeprefix('lstm_video_repr.')] if only else MODULES
        self.found = {name: found for module in modules for name, found in find_callables(module)}
        every = [(name, key, label) for name, found in self.found.items()
                 for key in find_parameters(name, found) for label in HOSTILE]
        if self.size == 'large' or only: return every
        quick = [case for case in every if case[2] != '2**31'] # of which one may have as many as asked for
        return random.Random(self.seed).sample(quick, 800)

    def part(self, case): return split_name(case[0])[0]

    def say(self, case):
        return '{}({}={})'.format(*case)

    def judge(self, case):
        name, key, label = case
        found = self.found[name]
        return try_argument(name, found, find_parameters(name, found)[key], HOSTILE[label])


def broken_calls(
    module: str, # without the package
) -> list[str]: # a line for each callable whose good call fails, or that has none
    "What `torture_calls.py` does not know, or no longer."
    lines = []
    for name, found in find_callables(module):
        try:
            function, options = build_call(name, found)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                use(function(**options))
        except SystemExit: pass
        except Exception as e: lines.append(f'{name}: {type(e).__name__}: {e}')
    close_figures()
    return lines

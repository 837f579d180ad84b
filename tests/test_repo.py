"The repository hangs together: modules and README come from notebooks, outputs are stored, layers are kept, versions agree."
import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT/'lstm_video_repr'
LAYERS = 'lstm fast_lstm clips videos models metrics training zoo pictures widgets percepts actions cli train all'.split()
LIGHT = 'lstm', 'fast_lstm', 'clips', 'models', 'metrics', 'training'     # all that a machine for training needs
HEAVY = 'matplotlib ipywidgets anywidget IPython av sklearn skimage scipy nbdev fastcore PIL h5py pooch'.split()

modules = sorted(p.stem for p in LIB.glob('*.py') if p.stem[0] != '_')
notebooks = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts and p.name[0] not in '_.')


def settings():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf8')
    return config['DEFAULT']


def tracked():
    "What git keeps, as paths; without git, a skip."
    if shutil.which('git') is None or not (ROOT/'.git').exists(): pytest.skip('needs a git checkout')
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: pytest.skip(f'git cannot read the checkout: {listed.stderr.strip()}')
    return [ROOT/name for name in listed.stdout.split('\0') if name and (ROOT/name).is_file()]


# ---- modules and README are made from the notebooks

def test_export_changes_nothing(tmp_path):
    pytest.importorskip('nbdev', reason='needs nbdev')
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    shutil.copy(ROOT/'settings.ini', tmp_path)
    (tmp_path/LIB.name).mkdir()
    shutil.copy(LIB/'__init__.py', tmp_path/LIB.name)       # every other module has to come from a notebook
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    done = subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {p.name: p.read_bytes() for p in (tmp_path/LIB.name).glob('*.py')}
    here = {p.name: p.read_bytes() for p in LIB.glob('*.py')}
    assert made.keys() == here.keys(), 'each module comes from one notebook: run `make export`'
    assert [n for n in sorted(here) if made[n] != here[n]] == [], 'these differ from their notebooks: run `make export`'


def test_readme_is_the_index():
    pytest.importorskip('nbdev', reason='needs nbdev')
    assert (ROOT/'nbs/index.ipynb').is_file(), 'nbs/index.ipynb is missing: README.md is made from it'
    spec = importlib.util.spec_from_file_location('readme', ROOT/'tools/readme.py')
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text, pictures = readme.make_readme(ROOT)
    assert (ROOT/'README.md').is_file() and (ROOT/'README.md').read_text(encoding='utf8') == text, 'README.md is not that of nbs/index.ipynb: run `make readme`'
    stored = {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in (ROOT/readme.PICTURES).glob('*')}
    assert stored == pictures, 'the pictures of README.md are not those of nbs/index.ipynb: run `make readme`'


def test_readme_links():
    text = (ROOT/'README.md').read_text(encoding='utf8')
    links = re.findall(r'(?:\]\(|(?:src|href)=")(?!#|\w+:)([^)"#\s]+)', re.sub(r'```.*?```', '', text, flags=re.S))
    assert [link for link in links if not (ROOT/link).exists()] == []


# ---- notebooks carry their outputs

def displays(source):
    "Whether running a cell must leave an output: it ends in a value, or calls something that prints or shows."
    if source.rstrip().endswith(';') or re.search(r'^#\|\s*(eval:\s*false|hide\b|exports?\b|default_exp)', source, re.M): return False
    try: body = ast.parse(re.sub(r'^\s*[%!].*$', 'pass', source, flags=re.M)).body
    except SyntaxError: return False
    if not body or not isinstance(body[-1], ast.Expr): return False
    value = body[-1].value
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, 'id', '')
        return name.startswith('show_') or name in ('print', 'display', 'evaluate', 'FrameStepper')
    return isinstance(value, (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Compare, ast.Tuple, ast.List, ast.JoinedStr))


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())
def test_outputs_are_stored(path):
    cells = [c for c in json.loads(path.read_text(encoding='utf8'))['cells'] if c['cell_type'] == 'code']
    outputs = [o for c in cells for o in c['outputs']]
    assert outputs, f'no stored outputs: run `make notebooks NB={path.relative_to(ROOT)}`'
    assert [o['ename'] for o in outputs if o['output_type'] == 'error'] == []
    bare = [''.join(c['source']) for c in cells if not c['outputs'] and displays(''.join(c['source']))]
    assert bare == [], f'these cells show something when run, and nothing is stored: run `make notebooks NB={path.relative_to(ROOT)}`'
    assert all(c['execution_count'] is None for c in cells), f'not cleaned: run `make notebooks NB={path.relative_to(ROOT)}`'


# ---- what others see

def readable(path):
    "A tracked file's text without embedded pictures; None if it is not text."
    try: text = path.read_text(encoding='utf8')
    except UnicodeDecodeError: return None
    return re.sub(r'[A-Za-z0-9+/=]{120,}', '', text)


# Put together from pieces, so that this file does not find itself.
FOLDERS = r'(?<![\w.}~)\]])/(?:' + '|'.join(['wo' 'rk', 'ro' 'ot', 'tm' 'p', r'ho' r'me/\w+', r'Us' r'ers/\w+']) + r')/[\w.]'
HOSTS = '|'.join(re.escape(a + b) for a, b in [('py', 'pi.org'), ('files.python', 'hosted'), ('registry.', 'npmjs'), ('registry.', 'yarnpkg'),
                                               ('download.pytorch', '.org/whl'), ('conda.', 'anaconda'), ('proxy.', 'golang'), ('crates', '.io')])


@pytest.mark.parametrize('pattern', [FOLDERS, HOSTS], ids=['no folders of one machine', 'no package registries'])
def test_nothing_private(pattern):
    found = {}
    for path in tracked():
        hits = re.findall(pattern, readable(path) or '')
        if hits: found[path.relative_to(ROOT).as_posix()] = hits[:3]
    assert found == {}


def test_no_large_files():
    assert [f'{p.relative_to(ROOT)}: {p.stat().st_size / 2**20:.0f} MB' for p in tracked() if p.stat().st_size > 40 * 2**20] == []


# ---- layers

def imported(path):
    "The modules of this package that a module imports, at its top or inside a function."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
        if isinstance(node, ast.ImportFrom):
            name = node.module or ''
            if node.level: yield from [name.split('.')[0]] if name else [a.name for a in node.names]
            elif name == LIB.name: yield from (a.name for a in node.names)
            elif name.startswith(LIB.name + '.'): yield name.split('.')[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split('.')[1] for a in node.names if a.name.startswith(LIB.name + '.'))


@pytest.mark.parametrize('name', modules)
def test_imports_only_from_above(name):
    assert name in LAYERS, f'{name} has no place in LAYERS'
    wrong = {other for other in imported(LIB/f'{name}.py') if other in LAYERS and LAYERS.index(other) >= LAYERS.index(name)}
    # `lstm` may hand its work to its faster twin, which stands right below it
    assert wrong - ({'fast_lstm'} if name == 'lstm' else set()) == set(), f'{name} imports what comes after it'


@pytest.fixture(scope='module')
def on_a_bare_machine():
    "What went wrong when the light modules were imported, one after the other, where HEAVY is not installed: module -> error."
    code = f'''
import importlib, json, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HEAVY!r}: raise ModuleNotFoundError('not on this machine: ' + name, name=name)
sys.meta_path.insert(0, Missing())
errors = {{}}
for name in {[m for m in LIGHT if m in modules]!r}:
    try: importlib.import_module('{LIB.name}.' + name)
    except Exception as error: errors[name] = repr(error)
print(json.dumps(errors))
'''
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize('name', [m for m in LIGHT if m in modules])
def test_imports_light(name, on_a_bare_machine):
    "Training needs no plotting, no widgets, no video decoding, no notebook tools."
    assert name not in on_a_bare_machine, on_a_bare_machine[name]


# ---- versions

def test_constraints_fit_settings():
    "Every requirement has a tested version, inside its range."
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    lines = [line for line in (ROOT/'constraints.txt').read_text(encoding='utf8').splitlines() if line and line[0] != '#']
    pinned = {}
    for pin in map(Requirement, lines): pinned.setdefault(canonicalize_name(pin.name), []).append(pin)
    for needed in map(Requirement, (settings()['requirements'] + ' ' + settings()['dev_requirements']).split()):
        pins = pinned.get(canonicalize_name(needed.name), [])
        assert pins, f'constraints.txt has no version of {needed.name}'
        for pin in pins: assert all(needed.specifier.contains(s.version) for s in pin.specifier), f'{pin} is outside of {needed}'


def test_one_version():
    import lstm_video_repr
    assert lstm_video_repr.__version__ == settings()['version']

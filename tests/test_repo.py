"The repository hangs together: modules and README come from notebooks, the house rules hold, versions agree."
import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT/'lstm_video_repr'
LAYERS = ('core.patch core.checks core.files core.tables lstm fast_lstm digits clips models metrics training scale zoo '
          'pictures activity widgets videos percepts actions cli __main__ all').split()
LIGHT = LAYERS[:LAYERS.index('zoo') + 1] + ['actions', 'cli', 'all']     # what imports with the bare requirements
HEAVY = 'matplotlib ipywidgets anywidget IPython av cv2 sklearn skimage scipy nbdev fastcore PIL h5py pooch'.split()


def package_files(root=ROOT):
    "The modules that come from notebooks: name -> path."
    found = (root/'lstm_video_repr').rglob('*.py')
    made = {'.'.join(p.relative_to(root/'lstm_video_repr').with_suffix('').parts): p for p in found}
    return {name: made[name] for name in sorted(made) if name.split('.')[-1] not in ('__init__', '_modidx')}


modules = list(package_files())
notebooks = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb')
                   if '.ipynb_checkpoints' not in p.parts and p.name[0] not in '_.')
rooms = [p for p in notebooks if 'tutorials' not in p.parts and p.stem != 'index']


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


def show(found):
    "A list for an error message, a line for each."
    return ''.join(f'\n  {line}' for line in found)


# ---- modules and README are made from the notebooks

def test_export_changes_nothing(tmp_path):
    pytest.importorskip('nbdev', reason='needs nbdev')
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    shutil.copy(ROOT/'settings.ini', tmp_path)
    (tmp_path/LIB.name).mkdir()
    for name in ('__init__.py', '__main__.py'): shutil.copy(LIB/name, tmp_path/LIB.name)   # no notebook writes them
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    export = [sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()']
    done = subprocess.run(export, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = tmp_path/LIB.name, LIB
    made, here = ({p.relative_to(lib).as_posix(): p.read_bytes() for p in lib.rglob('*.py')} for lib in folders)
    assert made.keys() == here.keys(), 'each module comes from one notebook: run `make export`'
    assert [n for n in sorted(here) if made[n] != here[n]] == [], 'these differ from their notebooks: run `make export`'


def test_readme_is_the_index():
    pytest.importorskip('nbdev', reason='needs nbdev')
    assert (ROOT/'nbs/index.ipynb').is_file(), 'nbs/index.ipynb is missing: README.md is made from it'
    spec = importlib.util.spec_from_file_location('readme', ROOT/'tools/readme.py')
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text, pictures = readme.make_readme(ROOT)
    written = (ROOT/'README.md').read_text(encoding='utf8')
    assert written == text, 'README.md is not that of nbs/index.ipynb: run `make readme`'
    stored = {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in (ROOT/readme.PICTURES).glob('*')}
    assert stored == pictures, 'the pictures of README.md are not those of nbs/index.ipynb: run `make readme`'


def test_readme_links():
    text = (ROOT/'README.md').read_text(encoding='utf8')
    links = re.findall(r'(?:\]\(|(?:src|href)=")(?!#|\w+:)([^)"#\s]+)', re.sub(r'```.*?```', '', text, flags=re.S))
    assert [link for link in links if not (ROOT/link).exists()] == []


def test_readme_names_the_chapters():
    "Every chapter stands on the front page, under the name of its module, and no other does."
    text = (ROOT/'README.md').read_text(encoding='utf8')
    named = {path: name for name, path in re.findall(r'\[([^]]+)\]\((nbs/(?:core/)?\d\d_\w+\.ipynb)\)', text)}
    def module(p): return '.'.join([*p.relative_to(ROOT/'nbs').parts[:-1], p.stem[3:]])
    assert named == {p.relative_to(ROOT).as_posix(): module(p) for p in rooms}


# ---- notebooks carry their outputs

def displays(source):
    "Whether running a cell must leave an output: it ends in a value, or calls something that prints or shows."
    silent = re.search(r'^#\|\s*(eval:\s*false|hide\b|exports?\b|default_exp)', source, re.M)
    if silent or source.rstrip().endswith(';'): return False
    try: body = ast.parse(re.sub(r'^\s*[%!].*$', 'pass', source, flags=re.M)).body
    except SyntaxError: return False
    if not body or not isinstance(body[-1], ast.Expr): return False
    value = body[-1].value
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, 'id', '')
        return name.startswith('show_') or name in ('print', 'display', 'evaluate', 'FrameStepper')
    return isinstance(value, (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Compare,
                              ast.Tuple, ast.List, ast.JoinedStr))


def name_of(path): return path.relative_to(ROOT/'nbs').with_suffix('').as_posix()


@pytest.mark.parametrize('path', notebooks, ids=name_of)
def test_outputs_are_stored(path):
    cells = [c for c in json.loads(path.read_text(encoding='utf8'))['cells'] if c['cell_type'] == 'code']
    outputs, run = [o for c in cells for o in c['outputs']], f'run `make notebooks NB={path.relative_to(ROOT)}`'
    assert outputs, f'no stored outputs: {run}'
    assert [o['ename'] for o in outputs if o['output_type'] == 'error'] == []
    bare = [''.join(c['source']) for c in cells if not c['outputs'] and displays(''.join(c['source']))]
    assert bare == [], f'these cells show something when run, and nothing is stored: {run}'
    assert all(c['execution_count'] is None for c in cells), f'not cleaned: {run}'


@pytest.fixture(scope='module')
def runner():
    "The tool that runs notebooks."
    spec = importlib.util.spec_from_file_location('run_notebooks', ROOT/'tools/run_notebooks.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize('path', notebooks, ids=name_of)
def test_what_may_be_skipped_is_folded(path, runner):
    "In JupyterLab, and nothing else is."
    cells = [c for c in json.loads(path.read_text(encoding='utf8'))['cells'] if c['cell_type'] == 'code']
    wanted = [{'jupyter': {'source_hidden': True}} if runner.may_be_skipped(''.join(c['source'])) else {} for c in cells]
    assert [c['metadata'] for c in cells] == wanted, f'run `make notebooks NB={path.relative_to(ROOT)}`'


@pytest.mark.parametrize('source, skipped', [
    ('#| hide\nassert x', True), ('#| hide_input\nshow(x)', True), ('show(x)', False), ('_x = 1', False),
    ('#| export\nimport torch', True), ('#| exporti\n_x = 1', True), ('#| export\nx: int = 1', False), ('#| export\n_a, b = 1, 2', False),
    ('#| export\n@patch\ndef _x(self: A): pass', True), ('#| export\n@patch\ndef x(self: _A): pass', True),
    ('#| export\n@patch\ndef x(self: A): pass', False), ('#| export\ndef x(a): pass', False), ('#| exports\ndef _x(): pass', False),
    ('#| export\nclass _A: x = 1', True), ('#| export\nclass A: _x = 1', False)])
def test_what_readers_need_not_see(source, skipped, runner): assert runner.may_be_skipped(source) == skipped


# ---- what others see

def readable(path):
    "A tracked file's text without embedded pictures; None if it is not text."
    try: text = path.read_text(encoding='utf8')
    except UnicodeDecodeError: return None
    return re.sub(r'[A-Za-z0-9+/=]{120,}', '', text)


# Put together from pieces, so that this file does not find itself.
ROOMS = '|'.join(['wo' 'rk', 'ro' 'ot', 'tm' 'p', r'ho' r'me/\w+', r'Us' r'ers/\w+'])
FOLDERS = r'(?<![\w.}~)\]])/(?:' + ROOMS + r')/[\w.]'
HOSTS = '|'.join(re.escape(a + b) for a, b in [
    ('py', 'pi.org'), ('files.python', 'hosted'), ('registry.', 'npmjs'), ('registry.', 'yarnpkg'),
    ('download.pytorch', '.org/whl'), ('conda.', 'anaconda'), ('proxy.', 'golang'), ('crates', '.io')])


@pytest.mark.parametrize('pattern', [FOLDERS, HOSTS], ids=['no folders of one machine', 'no package registries'])
def test_nothing_private(pattern):
    found = {}
    for path in tracked():
        hits = re.findall(pattern, readable(path) or '')
        if hits: found[path.relative_to(ROOT).as_posix()] = hits[:3]
    assert found == {}


def test_no_large_files():
    sizes = {p.relative_to(ROOT).as_posix(): p.stat().st_size / 2**20 for p in tracked()}
    limits = {name: 4 if name.endswith('.ipynb') else 40 for name in sizes} # of a notebook a page is made
    assert [f'{name}: {size:.0f} MB' for name, size in sizes.items() if size > limits[name]] == []


# ---- layers

def package_imports(path, package):
    "What a file takes from this package, anywhere in it: a module and a name in that (None: the module itself)."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
        if isinstance(node, ast.Import):
            names = [a.name.partition(LIB.name + '.') for a in node.names]
            yield from ((inner, None) for before, _, inner in names if inner and not before)
        if not isinstance(node, ast.ImportFrom): continue
        above = package[:len(package) + 1 - node.level] if node.level else []
        first, _, inner = '.'.join([*above, *filter(None, [node.module])]).partition('.')
        if first != LIB.name: continue
        for a in node.names:
            name = f'{inner}.{a.name}'.lstrip('.')
            yield (name, None) if name in LAYERS else (inner, a.name)


def package_of(name): return [LIB.name, *name.split('.')[:-1]]


@pytest.mark.parametrize('name', modules)
def test_imports_only_from_above(name):
    assert name in LAYERS, f'{name} has no place in LAYERS'
    used = {module for module, _ in package_imports(package_files()[name], package_of(name))}
    assert used - {*LAYERS, ''} == set(), f'{name} imports what is no module'
    wrong = {other for other in used if other in LAYERS and LAYERS.index(other) >= LAYERS.index(name)}
    assert wrong == set(), f'{name} imports what comes after it'


@pytest.fixture(scope='module')
def on_a_bare_machine():
    "What went wrong when LIGHT was imported, one after the other, where HEAVY is not installed: module -> error."
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
    "Training and predicting need no plotting, no widgets, no video decoding, no notebook tools."
    assert name not in on_a_bare_machine, on_a_bare_machine[name]


# ---- the house rules (CONTRIBUTING.md)

def export_cells(root=ROOT):
    "The exported cells of all chapters: notebook, number, lines of code, statements, whether an example follows."
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        if path.parts[-2] in ('tutorials', '.ipynb_checkpoints') or path.name[0] in '_.': continue
        cells = json.loads(path.read_text(encoding='utf8'))['cells']
        code = [(k, ''.join(c['source'])) for k, c in enumerate(cells) if c['cell_type'] == 'code']
        exported = [bool(re.search(r'^#\|\s*exports?\b', source, re.M)) for _, source in code]
        for n, (k, source) in enumerate(code):
            if not exported[n]: continue
            lines = [line for line in source.splitlines() if line.strip() and not line.startswith('#|')]
            shown = n + 1 < len(code) and not exported[n + 1]
            yield path.relative_to(root/'nbs').as_posix(), k, lines, ast.parse(source).body, shown


def functions(root=ROOT):
    "Every function of the package: module, dotted name, node, and whether it belongs to a class."
    def walk(body, where, of_class):
        for node in body:
            if isinstance(node, ast.ClassDef): yield from walk(node.body, [*where, node.name], True)
            if isinstance(node, ast.FunctionDef):
                patched = any(re.match(r'patch\b', ast.unparse(d)) for d in node.decorator_list)
                owner = [ast.unparse(node.args.args[0].annotation)] if patched else where
                yield '.'.join([*owner, node.name]), node, of_class or patched
    for module, path in package_files(root).items():
        for found in walk(ast.parse(path.read_text(encoding='utf8')).body, [], False): yield (module, *found)


def is_public(name): return not any(part[0] == '_' and part != '__init__' for part in name.split('.'))


def untyped(root=ROOT):
    "Arguments of public functions without a type; `*args` and `**options` go without."
    for module, name, node, of_class in functions(root):
        if not is_public(name): continue
        for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            if a.annotation is None and a.arg not in ('self', 'cls'): yield f'{module}: {name}({a.arg})'


def only_constants(body):
    return all(isinstance(n, (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Expr)) for n in body)


def positional(node, of_class):
    "The names of arguments that may be given by place, without self or cls."
    static = any(ast.unparse(d) == 'staticmethod' for d in node.decorator_list)
    return [a.arg for a in [*node.args.posonlyargs, *node.args.args]][1 if of_class and not static else 0:]


def quantile(values, q): return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def long_lines(root=ROOT):
    "Lines over 120 characters. What stands before a module's first cell is nbdev's: its motto, and the public names."
    for module, path in package_files(root).items():
        lines = path.read_text(encoding='utf8').splitlines()
        start = next((n for n, line in enumerate(lines) if line.startswith('# %% ../')), 0)
        long = [(n, len(line)) for n, line in enumerate(lines, 1) if len(line) > 120 and n > start]
        yield from (f'{module}:{n} {length} characters' for n, length in long)


def test_arguments_have_types(): assert list(untyped()) == []


def test_types_can_be_read():
    "By whoever asks for them: no name in an annotation is unknown where it stands."
    import importlib
    from typing import get_type_hints
    read = 0
    for module, name, _, _ in functions():
        if not is_public(name): continue
        function = importlib.import_module(f'lstm_video_repr.{module}')
        for part in name.split('.'): function = getattr(function, part, None)
        if isinstance(function, property): function = function.fget
        if callable(function): read += bool(get_type_hints(function))
    assert read > 400


def test_lines_are_short():
    found = list(long_lines())
    assert not found, show(found)


def test_functions_fit_on_a_screen():
    sizes = [(node.end_lineno - node.lineno + 1, f'{module}.{name}') for module, name, node, _ in functions()]
    found = [f'{name}: {lines} lines' for lines, name in sizes if lines > 40]
    assert not found, show(found)


def test_export_cells_are_small():
    options = 'def run_train(' # one more line: each of its many options has one
    cells = [(f'{path} cell {k}', len(lines) - lines[0].startswith(options), body) for path, k, lines, body, _ in export_cells()]
    found = [f'{where}: {n} lines' for where, n, body in cells if n > 25 and not only_constants(body)]
    assert not found, show(found)
    sizes = [n for _, n, _ in cells]
    assert statistics.median(sizes) <= 7, f'half of the exported cells have more than {statistics.median(sizes)} lines'
    assert quantile(sizes, .9) <= 18, f'one in ten exported cells has {quantile(sizes, .9)} lines or more'


def defines(body):
    "The public names that a cell brings: functions, classes, methods put into a class."
    return [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != '_']


def without_example(root=ROOT):
    "How many public names are exported, and those that no example follows directly."
    cells = [(f'{path} cell {k}', defines(body), shown) for path, k, _, body, shown in export_cells(root)]
    names = [(f'{where}: {name}', shown) for where, names, shown in cells for name in names]
    return len(names), [name for name, shown in names if not shown]


def test_an_example_follows():
    total, bare = without_example()
    assert len(bare) <= .15 * total, f'no example follows {len(bare)} of {total} public names:{show(bare)}'


# More than three by place, and why.
BY_PLACE = {'core.checks.check_whole': 'the range belongs to the name; the first line of many functions',
            'core.checks.check_number': 'the same: what fits, and that in words',
            'core.checks.check_tensor': 'the same: a shape, and whose dtype'}


def many_by_place(root=ROOT):
    "Public functions with more than three arguments by place: name -> arguments."
    return {f'{module}.{name}': args for module, name, node, of_class in functions(root)
            if is_public(name) and len(args := positional(node, of_class)) > 3}


def test_at_most_three_by_place():
    found = many_by_place()
    new = sorted(found.keys() - BY_PLACE.keys())
    assert not new, show(f'{k}({", ".join(found[k])})' for k in new)
    assert not BY_PLACE.keys() - found.keys(), 'these need no exception any more'


def is_private(name): return bool(re.fullmatch(r'_[A-Za-z0-9]\w*', name or ''))


def own_names(tree):
    "Private names that a file defines: functions, classes, variables, attributes, arguments."
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): yield node.name
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): yield node.id
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store): yield node.attr
        if isinstance(node, ast.arg): yield node.arg
        if isinstance(node, ast.alias): yield node.asname or node.name


def borrowed(path, package, theirs):
    "The private names of other modules (`theirs`) that a file uses: imported, as attributes, in text for monkeypatch."
    source = path.read_text(encoding='utf8')
    tree = ast.parse(source)
    yield from (f'{module}.{name}' for module, name in package_imports(path, package) if is_private(name))
    own = set(own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in theirs - own: yield ast.unparse(node)[-60:]
        if not isinstance(node, ast.Call) or len(node.args) < 2: continue
        called, text = ast.unparse(node.func).split('.')[-1], getattr(node.args[1], 'value', None)
        if called in ('getattr', 'setattr', 'delattr', 'hasattr') and text in theirs - own: yield f'{called}({text!r})'
    yield from re.findall(LIB.name + r'(?:\.\w+)*\._[a-z]\w*', source)


def users(root=ROOT):
    "Every Python file of the repository, and the package in which its relative imports begin."
    yield from ((path, package_of(name)) for name, path in package_files(root).items())
    for folder in ('benchmarks', 'experiments', 'tests', 'tools'):
        yield from ((path, []) for path in sorted((root/folder).glob('*.py')))


def private_doors(root=ROOT):
    "Uses of private names over the borders of modules, a line for each."
    trees = [ast.parse(path.read_text(encoding='utf8')) for path in package_files(root).values()]
    # not _repr_html_ and its like, which others are to call
    theirs = {name for tree in trees for name in own_names(tree) if is_private(name) and name[-1] != '_'}
    for path, package in users(root):
        found = sorted(set(borrowed(path, package, theirs))) if path.name != 'test_repo.py' else []
        yield from (f'{path.relative_to(root)}: {name}' for name in found)


def test_no_private_doors():
    found = list(private_doors())
    assert not found, show(found)


@pytest.mark.parametrize('name', [m for m in modules if m != '__main__'])
def test_public_names_exist(name):
    module = importlib.import_module(f'{LIB.name}.{name}')
    assert [n for n in module.__all__ if not hasattr(module, n)] == []
    assert [n for n in module.__all__ if is_private(n)] == []


def test_a_test_file_for_each_module():
    there = {p.stem.removeprefix('test_') for p in (ROOT/'tests').glob('test_*.py')}
    # of these three the chapters and test_packaging say all
    wanted = {m.split('.')[-1] for m in modules} - {'patch', 'all', '__main__'}
    others = {'repo', 'packaging', 'notebooks', 'site', 'bench', 'gpu', 'experiments', 'torture'}
    assert wanted - there == set(), 'these modules have no test file of their name'
    assert there - wanted - others == set(), 'these test files are named after no module'


# ---- versions

def test_constraints_fit_settings():
    "Every requirement, of the extras too, has a tested version inside its range."
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    text = (ROOT/'constraints.txt').read_text(encoding='utf8')
    lines = [line for line in text.splitlines() if line and line[0] != '#']
    pinned = {}
    for pin in map(Requirement, lines): pinned.setdefault(canonicalize_name(pin.name), []).append(pin)
    kinds = [k for k in settings() if k.endswith('requirements')]
    assert len(kinds) > 4
    for needed in map(Requirement, ' '.join(settings()[k] for k in kinds).split()):
        pins = pinned.get(canonicalize_name(needed.name), [])
        assert pins, f'constraints.txt has no version of {needed.name}'
        for pin in pins:
            assert all(needed.specifier.contains(s.version) for s in pin.specifier), f'{pin} is outside of {needed}'


def test_one_version():
    import lstm_video_repr
    assert lstm_video_repr.__version__ == settings()['version']

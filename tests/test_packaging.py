"What others install: sdist and wheel are built and looked into; the wheel predicts where only its requirements are."
import configparser
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

pytest.importorskip('setuptools', reason='needs setuptools')
Requirement = pytest.importorskip('packaging.requirements', reason='needs packaging').Requirement
ROOT = Path(__file__).resolve().parent.parent
LIB = 'lstm_video_repr'
NO_SOURCE = shutil.ignore_patterns('.git', '.venv', '*.egg-info', '__pycache__', '.ipynb_checkpoints', '.pytest_cache',
                                   '.hypothesis', 'build', 'dist', 'demo', 'runs', '_docs', '_proc', '*.pyc', '.[a-z]*.part')


def build(kind, source, target):
    "The path of what setuptools makes of a source tree, without a network."
    code = f'import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])'
    done = subprocess.run([sys.executable, '-c', code, target], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(target.glob('*.whl' if kind == 'wheel' else '*.tar.gz'))


@pytest.fixture(scope='session')
def built(tmp_path_factory):
    "The source tree, its sdist, and the wheel made from the unpacked sdist, as an installer does it."
    folder = tmp_path_factory.mktemp('built')
    shutil.copytree(ROOT, folder/'source', ignore=NO_SOURCE)
    sdist = build('sdist', folder/'source', folder)
    strict = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}      # Python's patch releases differ
    shutil.unpack_archive(sdist, folder/'unpacked', **strict)
    source = next((folder/'unpacked').iterdir())
    return folder/'source', source, build('wheel', source, folder)


@pytest.fixture(scope='session')
def wheel(built):
    "The names of the wheel's files, and what its METADATA says."
    with zipfile.ZipFile(built[2]) as z:
        names = z.namelist()
        return names, email.message_from_bytes(z.read(next(n for n in names if n.endswith('.dist-info/METADATA'))))


def files(folder): return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}


def test_sdist_holds_everything(built):
    "`make test` runs from it: notebooks, tests, tools, benchmarks and experiments with their results."
    source, unpacked, _ = built
    missing = files(source) - files(unpacked)
    assert not {name for name in missing if not name.startswith('.git')}
    assert {'Makefile', 'constraints.txt', 'nbs/index.ipynb', '.ci/run', 'tests/test_packaging.py'} <= files(unpacked)


def test_wheel_holds_the_package(wheel):
    "All modules and assets, the licence, and nothing else."
    names = [n for n in wheel[0] if '.dist-info/' not in n]
    wanted = [p for p in (ROOT/LIB).rglob('*') if p.is_file() and p.suffix != '.pyc' and '__pycache__' not in p.parts]
    assert sorted(names) == sorted(p.relative_to(ROOT).as_posix() for p in wanted)
    assert any(re.search(r'\.dist-info/(licenses/)?LICENSE$', n) for n in wheel[0])


def test_metadata(wheel):
    "Everything in settings.ini is told; nothing is told that does not exist."
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf8')
    cfg, meta = config['DEFAULT'], wheel[1]
    assert (meta['Name'], meta['Version'], meta['Summary']) == (cfg['repo'], cfg['version'], cfg['description'])
    assert meta['Requires-Python'] == '>=' + cfg['min_python'] and 'Apache-2.0' in meta.values()
    assert meta['Home-page'] is None and meta.get_all('Project-URL') is None
    versions = [c.split(' :: ')[-1] for c in meta.get_all('Classifier') if re.search(r':: 3\.\d+$', c)]
    assert versions == cfg['python_versions'].split() and versions[0] == cfg['min_python']
    assert 'Development Status :: 3 - Alpha' in meta.get_all('Classifier')


def test_extras(wheel):
    "What trains and predicts needs little; the rest has a name, and `all` is the sum of what is not for developers."
    needed = [Requirement(r) for r in wheel[1].get_all('Requires-Dist')]
    def of(extra): return {r.name for r in needed if r.marker and r.marker.evaluate({'extra': extra})}
    assert {r.name for r in needed if not r.marker} == {'torch', 'numpy', 'tqdm', 'safetensors', 'pooch'}
    assert set(wheel[1].get_all('Provides-Extra')) == {'notebook', 'authors', 'video', 'percepts', 'all', 'dev'}
    assert of('all') == of('notebook') | of('authors') | of('video') | of('percepts') and of('all') < of('dev')
    assert {'matplotlib', 'anywidget'} <= of('notebook') and of('authors') == {'h5py'} and of('video') == {'av'}
    assert of('percepts') == {'av', 'h5py', 'opencv-python-headless', 'rarfile', 'scikit-learn'}


def test_description_stands_alone(wheel):
    "A package index has the text alone: no pictures and no links beside it; the code is that of the front page."
    text, readme = wheel[1].get_payload(), (ROOT/'README.md').read_text(encoding='utf8')
    links = re.findall(r'\]\(([^)]*)\)', re.sub(r'```.*?```', '', text, flags=re.S))
    assert links and [link for link in links if not link.startswith(('https://', '#'))] == []
    assert '![' not in text and '<img' not in text
    assert re.findall(r'```.*?```', text, re.S) == re.findall(r'```.*?```', readme, re.S)


def requirements(names):
    "These distributions and all that they require in this environment."
    found, open_ = {}, list(names)
    while open_:
        try: dist = distribution(open_.pop())
        except PackageNotFoundError: continue
        if dist.metadata['Name'] in found: continue
        found[dist.metadata['Name']] = dist
        needed = map(Requirement, dist.requires or [])
        open_ += [r.name for r in needed if r.marker is None or r.marker.evaluate({'extra': ''})]
    return found.values()


@pytest.fixture(scope='session')
def bare(built, wheel, tmp_path_factory):
    "The Python of an environment that holds the wheel, what it requires, and nothing else."
    pytest.importorskip('pip', reason='needs pip')
    folder = tmp_path_factory.mktemp('bare')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    python, site = folder/'bin'/'python', next((folder/'lib').glob('python*'))/'site-packages'
    needed = [Requirement(r) for r in wheel[1].get_all('Requires-Dist')]
    for dist in requirements(r.name for r in needed if not r.marker):
        for top in {f.parts[0] for f in dist.files if f.parts[0] not in ('..', '__pycache__')}:
            if not (site/top).exists(): (site/top).symlink_to(dist.locate_file(top))
    install = f'-m pip --python {python} install --no-deps --no-index --no-compile --quiet {built[2]}'
    done = subprocess.run([sys.executable, *install.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python


def run(command, folder):
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'LVR_DATA')} | {'OMP_NUM_THREADS': '1'}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


SESSION = '''
import json, sys
from lstm_video_repr.all import *
import lstm_video_repr

HEAVY = {'matplotlib', 'PIL', 'IPython', 'anywidget', 'h5py', 'av', 'sklearn'}
clips = MovingDigits(digits='embedded', seed=0)
past, future = clips.batch(2)
out = load_pretrained()(past, future_frames=10)
model = VideoLSTM.composite(hidden_size=8, seed=0)
losses = train(model, clips, steps=2, progress=None).column('loss')

def refused(use):
    try: use()
    except ImportError as error: return str(error)

print(json.dumps({
    'where': lstm_video_repr.__file__, 'steps': len(losses), 'shape': list(out.future.shape),
    'error': mse(out.future, future).mean().item(), 'ink': mse(0 * future, future).mean().item(),
    'drawn': {name: refused(use) for name, use in list(globals().items()) if type(use).__name__ == 'Missing'},
    'authors': refused(lambda: load_authors_checkpoint('x.h5')), 'imported': sorted(HEAVY & sys.modules.keys())}))
'''


@pytest.fixture(scope='session')
def session(bare, tmp_path_factory):
    "What happened when the installed package was used in the bare environment, far away from the repository."
    done = run([bare, '-c', SESSION], tmp_path_factory.mktemp('elsewhere'))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_bare_environment_predicts(session, bare):
    "The bundled model, on digits of the package; better than a black screen by far."
    assert Path(session['where']).is_relative_to(bare.parent.parent)
    assert session['shape'] == [2, 10, 1, 64, 64] and session['error'] < session['ink'] / 2
    assert session['imported'] == []


def test_bare_environment_trains(session): assert session['steps'] == 2


def test_missing_libraries_are_named(session):
    "Whoever uses what needs more reads which extra brings it."
    for name, error in session['drawn'].items():
        assert error.startswith(f'{name}: ') and "pip install 'lstm-video-repr[notebook]'" in error, error
    assert {'show_prediction', 'show_activity', 'FrameStepper'} <= session['drawn'].keys()
    assert "pip install 'lstm-video-repr[authors]'" in session['authors'], session['authors']


def test_command_is_installed(bare, tmp_path):
    done = run([bare.with_name('lvr'), '--version'], tmp_path)
    assert done.returncode == 0 and re.search(r'\d+\.\d+\.\d+', done.stdout), done.stdout + done.stderr

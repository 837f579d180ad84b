"What the tests share: where the data lives, workers and threads, and a browser."
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Real data is found by the name of a folder. Unset, it is looked for beside the repository.
_beside = ROOT.parent / 'shared' / 'data'
if not os.environ.get('LVR_DATA') and _beside.is_dir(): os.environ['LVR_DATA'] = str(_beside)
os.environ.setdefault('MPLBACKEND', 'agg')


def cores():
    "How many this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def pytest_configure(config):
    config.addinivalue_line('markers', 'browser: drives a real browser')
    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 0))
    if not workers and getattr(config.option, 'numprocesses', None): return     # this one only hands out tests
    threads = int(os.environ.get('OMP_NUM_THREADS') or max(1, min(4, cores() // max(1, workers))))
    if workers: os.environ['OMP_NUM_THREADS'] = str(threads)                    # of the processes that tests start, too
    import threading
    import torch
    from tqdm import tqdm
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock()) # a process that is forked and killed takes one that is shared with it


# ---- workers of pytest-xdist; without it the tests run one after the other

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config): return min(4, cores())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file stays with one worker, in its order: what it makes once is made once, and its processes are not in each other's way.
    Notebooks, which share nothing, go one by one, last."""
    from xdist.scheduler import LoadScopeScheduling
    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition('::')
            return nodeid if test.startswith('test_notebook[') else file
    return ByFile(config, log)


def _folder(name=''):
    "The folder `name` inside LVR_DATA, or a skip that says what to do."
    named = os.environ.get('LVR_DATA')
    if not named: pytest.skip('needs real data: name its folder with LVR_DATA')
    folder = Path(named) / name
    if not folder.is_dir(): pytest.skip(f'needs real data: LVR_DATA has no folder {name or named!r}')
    return folder


@pytest.fixture(scope='session')
def data_folder():
    "The folder that LVR_DATA names."
    return _folder()


@pytest.fixture(scope='session')
def mnist_folder():
    "The folder with MNIST's four IDX files."
    folder = _folder('mnist')
    if len(list(folder.glob('*-ubyte.gz'))) < 4: pytest.skip('needs MNIST: LVR_DATA/mnist lacks its four .gz files')
    return folder


def find_browser():
    "The path of an installed Chromium or Chrome; None if there is none."
    names = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'
    on_a_mac = [f'/Applications/{name}.app/Contents/MacOS/{name}' for name in ('Google Chrome', 'Chromium')]
    return next(filter(None, map(shutil.which, (os.environ.get('LVR_BROWSER', ''), *names, *on_a_mac))), None)


@pytest.fixture(scope='session')
def browser():
    "A headless Chromium driven by playwright: the one installed on the system, nothing is downloaded."
    sync_api = pytest.importorskip('playwright.sync_api', reason='needs playwright')
    path = find_browser()
    if path is None: pytest.skip('needs Chromium or Chrome: install one, or name it with LVR_BROWSER')
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield chromium
        chromium.close()


@pytest.fixture(scope='module')
def one_thread():
    "Tiny sizes on several threads mean waiting for each other, long on a machine that does other things, too."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def letters_on_a_page():
    "Points of the smallest letters, once the figure is shrunk to a page of 7.5 inches."
    def smallest(fig):
        words = list(fig.texts)
        for ax in fig.axes:
            words += ax.texts
            if not ax.axison: continue
            words += [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
            if ax.get_legend(): words += ax.get_legend().get_texts()
        return min(t.get_size() for t in words if t.get_text().strip()) * min(1, 7.5 / fig.get_figwidth())
    return smallest

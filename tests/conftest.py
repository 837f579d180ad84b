"What the tests share: where the data lives, threads, and a browser."
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Real data is found by the name of a folder. Unset, it is looked for beside the repository.
_beside = ROOT.parent / 'shared' / 'data'
if not os.environ.get('LVR_DATA') and _beside.is_dir(): os.environ['LVR_DATA'] = str(_beside)
os.environ.setdefault('MPLBACKEND', 'agg')


def pytest_configure(config):
    config.addinivalue_line('markers', 'browser: drives a real browser')
    import torch
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS') or min(4, os.cpu_count() or 1)))


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

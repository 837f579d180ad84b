"Every notebook runs from top to bottom: each is one test, in this process, by nbdev's rules for what is run."
import io
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# under another name: pytest would collect what is called test_nb
run_notebook = pytest.importorskip('nbdev.test', reason='needs nbdev').test_nb


def notebooks():
    from nbdev.doclinks import nbglob
    return sorted(nbglob(ROOT/'nbs', as_path=True), key=lambda p: (len(p.parts), p))


@pytest.fixture
def as_it_was():
    "Undo what running a notebook does to this process."
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    shell, env, path, hook = InteractiveShell._instance, dict(os.environ), list(sys.path), sys.displayhook
    yield
    import matplotlib.pyplot as plt
    plt.close('all')
    plt.rcdefaults()
    plt.switch_backend('agg')
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(True)
    InteractiveShell._instance, sys.displayhook, sys.path[:] = shell, hook, path
    os.environ.clear()
    os.environ.update(env)


@pytest.mark.parametrize('path', notebooks(), ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())
def test_notebook(path, as_it_was):
    errors = io.StringIO()
    with redirect_stderr(errors): passed, _ = run_notebook(path)
    if not passed: pytest.fail(errors.getvalue(), pytrace=False)


def test_there_are_notebooks():
    assert len(notebooks()) > 0

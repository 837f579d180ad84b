"Run notebooks from top to bottom and store their outputs: all of them, or those that are named. A second run makes no noise in git."
import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parent.parent


def notebooks() -> list[Path]:
    "All notebooks, in reading order: the library, the tutorials, the front page."
    found = [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if not any(part[0] in '_.' for part in p.relative_to(ROOT).parts)]
    return sorted(found, key=lambda p: (p.name == 'index.ipynb', len(p.parts)))


def steady_ids(text: str,  # a notebook as JSON
               name: str   # what the new ids are made from
              ) -> str:    # the same with the widgets' random ids replaced, in the order in which they appear
    nb = json.loads(text)
    widgets = nb['metadata'].get('widgets', {}).get('application/vnd.jupyter.widget-state+json', {}).get('state', {})
    order = sorted(widgets, key=lambda i: text.find(i))
    for k, old in enumerate(order): text = text.replace(old, hashlib.md5(f'{name} {k}'.encode()).hexdigest())
    return text


def run(path: Path,    # the notebook; rewritten only if every cell went through
        timeout: int   # seconds that a cell may take
       ) -> None:
    "Run one notebook in a fresh kernel, in its own folder, as JupyterLab would."
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == 'code' and re.search(r'^#\|\s*eval:\s*false', cell.source, re.M): cell.metadata['tags'] = ['skip-execution']
    NotebookClient(nb, timeout=timeout, kernel_name='python3', coalesce_streams=True, resources={'metadata': {'path': str(path.parent)}}).execute()
    nb.metadata['kernelspec'] = {'display_name': 'python3', 'language': 'python', 'name': 'python3'}
    clean_nb(nb)
    text = nbformat.writes(nb).rstrip('\n') + '\n'
    partial = path.with_name(f'.{path.name}.part')
    partial.write_text(steady_ids(text, path.stem), encoding='utf8')
    partial.replace(path)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('paths', nargs='*', type=Path, help='notebooks (default: all of them)')
    parser.add_argument('--timeout', type=int, default=600, help='seconds that a cell may take')
    args = parser.parse_args()
    os.environ.setdefault('PYDEVD_DISABLE_FILE_VALIDATION', '1')
    failed = []
    for path in args.paths or notebooks():
        start = time.time()
        print(f'{path.resolve().relative_to(ROOT)} ...', end=' ', flush=True)
        try: run(path, args.timeout)
        except CellExecutionError as error:
            failed.append(path)
            print(f'failed\n{error}')
        else: print(f'{time.time() - start:.0f} s')
    sys.exit(f'{len(failed)} failed: {", ".join(map(str, failed))}' if failed else 0)

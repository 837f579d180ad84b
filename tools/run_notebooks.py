"Run notebooks from top to bottom and store their outputs: all, or those that are named. Twice makes no noise in git."
import argparse
import ast
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
    def hidden(path): return any(part[0] in '_.' for part in path.relative_to(ROOT).parts)
    def order(path): return path.name == 'index.ipynb', 'tutorials' in path.parts, 'core' not in path.parts, path
    return sorted((p for p in (ROOT/'nbs').rglob('*.ipynb') if not hidden(p)), key=order)


def steady_ids(nb: dict,   # a notebook
               name: str   # what the new ids are made from
              ) -> dict:   # the same with the widgets' random ids replaced, in the order in which they are shown
    state = nb['metadata'].get('widgets', {}).get('application/vnd.jupyter.widget-state+json', {}).get('state', {})
    text = {i: json.dumps(state[i], sort_keys=True) for i in state}
    def named(s): return [i for i in re.findall('[0-9a-f]{32}', s) if i in state]
    order = list(dict.fromkeys(named(json.dumps(nb['cells']))))
    for i in order: order += [j for j in dict.fromkeys(named(text[i])) if j not in order]   # grows while it is walked
    order += sorted((i for i in state if i not in order), key=lambda i: re.sub('[0-9a-f]{32}', '', text[i]))
    new = {i: hashlib.md5(f'{name} {k}'.encode()).hexdigest() for k, i in enumerate(order)}
    return json.loads(re.sub('[0-9a-f]{32}', lambda m: new.get(m[0], m[0]), json.dumps(nb)))


def without_clock(text: str) -> str:
    "A progress bar without its times and speeds, which differ from run to run."
    return re.sub(r' \[\]', '', re.sub(r'\[[\d:]+<[\d:?]+, +[\d.?]+(?:s/[a-z]+|[a-z]+/s)(?:, )?', '[', text))


def may_be_skipped(source: str # of a code cell
                  ) -> bool: # is it marked as hidden, or exported and without a public name?
    "What readers need not see."
    if re.search(r'^#\|\s*hide(_input)?\s*$', source, re.M): return True
    if not re.search(r'^#\|\s*exporti?\s*$', source, re.M): return False
    return not any(name[0] != '_' for node in ast.parse(source).body for name in names_of(node))


def names_of(node: ast.stmt # of a module
            ) -> list[str]: # what it defines for others
    "Names of functions, classes and values; a function that is patched into a class has its class's, too."
    if isinstance(node, ast.FunctionDef):
        patched = any('patch' in ast.unparse(d) for d in node.decorator_list) and node.args.args[0].annotation
        owner = ast.unparse(patched) if patched else ''
        return ['_' if '_' in (node.name[0], owner[:1]) else node.name]
    if isinstance(node, ast.ClassDef): return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def fold_cells(nb: dict # a notebook, changed in place
              ) -> dict: # the same: where something may be skipped, JupyterLab shows a line to click on, not the code
    "Fold what readers may skip, and nothing else."
    for cell in (c for c in nb['cells'] if c['cell_type'] == 'code'):
        cell['metadata'].pop('jupyter', None)
        if may_be_skipped(cell['source']): cell['metadata']['jupyter'] = {'source_hidden': True}
    return nb


def run(path: Path,    # the notebook; rewritten only if every cell went through
        timeout: int   # seconds that a cell may take
       ) -> None:
    "Run one notebook in a fresh kernel, in its own folder, as JupyterLab would."
    nb = nbformat.read(path, as_version=4)
    code = [c for c in nb.cells if c.cell_type == 'code']
    for cell in code:
        if re.search(r'^#\|\s*eval:\s*false', cell.source, re.M): cell.metadata['tags'] = ['skip-execution']
    NotebookClient(nb, timeout=timeout, kernel_name='python3', coalesce_streams=True,
                   extra_arguments=['--log-level=40'], resources={'metadata': {'path': str(path.parent)}}).execute()
    nb.metadata['kernelspec'] = {'display_name': 'python3', 'language': 'python', 'name': 'python3'}
    for output in (o for c in code for o in c.outputs if o.output_type == 'stream'):
        output.text = without_clock(output.text)
    clean_nb(nb)
    text = nbformat.writes(nbformat.from_dict(steady_ids(fold_cells(nb), path.stem))).rstrip('\n') + '\n'
    partial = path.with_name(f'.{path.name}.part')
    partial.write_text(text, encoding='utf8')
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

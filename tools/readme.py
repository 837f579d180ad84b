"Write README.md from nbs/index.ipynb: the front page as Markdown. Running it twice changes nothing."
import json
import re
from pathlib import Path

from nbconvert.exporters import MarkdownExporter
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_, hide_line, rm_export
from nbformat import reads
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 'README_files'                       # beside README.md: the pictures in it
FORMATS = ['text/markdown', 'image/png', 'image/jpeg', 'image/gif', 'image/svg+xml', 'text/latex', 'text/html',
           'text/plain']


def make_readme(root: Path = ROOT  # the repository
               ) -> tuple[str, dict[str, bytes]]:  # the text, and the pictures by their paths relative to `root`
    "README.md as it should be; nothing is written."
    nbs = root/'nbs'
    nb = NBProcessor(nbs/'index.ipynb', procs=[hide_, hide_line, rm_export, clean_magics], process=True).nb
    cells = [{k: v for k, v in c.items() if not k.endswith('_')} for c in nb.cells]     # nbdev's notes end in _
    nb = reads(json.dumps({**{k: v for k, v in nb.items() if not k.endswith('_')}, 'cells': cells}), as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}
    for cell in nb.cells:       # what the directive asks for: the output without the code
        if re.search(r'^#\|\s*(echo:\s*false|hide_input)', cell.source, re.M): cell.metadata['tags'] = ['without_code']
    exporter = MarkdownExporter(config=Config({
        'NbConvertBase': {'display_data_priority': FORMATS},
        'TagRemovePreprocessor': {'enabled': True, 'remove_input_tags': ['without_code']}}))
    text, resources = exporter.from_notebook_node(nb, {'output_files_dir': PICTURES})
    said = {k: re.search(r'^#\|\s*fig-alt:\s*(.+)', c.source, re.M) for k, c in enumerate(nb.cells)}

    def spoken(match):          # for who cannot see the picture
        alt = said.get(int(match[2]))
        return f'![{alt[1] if alt else "Figure"}]({match[1]}'
    text = re.sub(rf'!\[png\]\(({PICTURES}/output_(\d+)_)', spoken, text)

    def from_root(match):       # a link beside the notebook is one folder further away from README.md
        return f'{match[1]}nbs/{match[2]}' if (nbs/match[2].split('#')[0]).is_file() else match[0]
    text = re.sub(r'(\]\(|(?:src|href)=")(?!#|/|\w+:)([^)"\s]+)', from_root, text)
    text = re.sub(r'^#\|.*\n|^[ \t]+$', '', text, flags=re.M)
    parts = re.split(r'(^```.*?^```$)', text, flags=re.M | re.S)        # code stands at the odd places, and stays
    text = ''.join(part if k % 2 else re.sub(r'\n{3,}', '\n\n', part) for k, part in enumerate(parts))
    return text.strip() + '\n', resources.get('outputs', {})


if __name__ == '__main__':
    text, pictures = make_readme()
    for old in (ROOT/PICTURES).glob('*'): old.unlink()
    for name, data in pictures.items():
        (ROOT/name).parent.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(data)
    (ROOT/'README.md').write_text(text, encoding='utf8')
    print(f'README.md: {len(text.splitlines())} lines, {len(pictures)} pictures')

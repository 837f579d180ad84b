"Build the site from the stored notebooks into _docs: `python docs/make_site.py`. Nothing is executed or fetched."
import argparse
import base64
import hashlib
import io
import re
import shutil
import subprocess
import sys
import time
import webbrowser
from configparser import ConfigParser
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

from PIL import Image   # noqa: E402

from figures import Figures, is_chart   # noqa: E402
from notebooks import VIEW, Notebook, Page, directives, plain, raw, read_notebook, source     # noqa: E402
import reference    # noqa: E402

# Chapters that belong into the reading path, by the number of the tutorial that they follow.
CHAPTERS_ON_THE_PATH = {1: '00_lstm', 2: '04_models'}
# What comes before the others beside the path; what is not named here is there, too.
BESIDE = ['tutorials/the_paper_in_one_page', 'tutorials/your_own', 'tutorials/glossary', 'tutorials/what_did_not_work']
PLAY = ['playground', 'tutorials/playground']       # a notebook here, or a page in docs/pages, comes first of all
ROOMS = ('lstm fast_lstm digits clips models metrics training scale zoo pictures activity widgets videos percepts '
         'actions cli core.patch core.checks core.files core.tables').split()


def find_notebooks(folder: Path) -> dict:
    "All notebooks below a folder, by the names of their pages."
    paths = [p for p in folder.rglob('*.ipynb') if not any(part[0] in '_.' for part in p.relative_to(folder).parts)]
    names = {p.relative_to(folder).with_suffix('').as_posix(): p for p in sorted(paths)}
    return {name: read_notebook(path, name) for name, path in names.items()}


def number_of(name: str):
    "The number that a notebook's file name begins with."
    found = re.match(r'(\d+)_', name.split('/')[-1])
    return int(found[1]) if found else None


def reading_order(names) -> dict:
    "Pages by the section of the navigation that they stand in, each section in its order."
    names = set(names) - {'index'}
    play = [n for n in PLAY if n in names]
    tutorials = sorted((n for n in names if n.startswith('tutorials/') and number_of(n) is not None),
                       key=lambda n: (number_of(n), n))
    path = []
    for n in tutorials: path += [n, *(c for c in [CHAPTERS_ON_THE_PATH.get(number_of(n))] if c in names)]
    others = sorted(n for n in names if n.startswith('tutorials/') and n not in tutorials + play)
    beside = sorted(others, key=lambda n: (BESIDE.index(n) if n in BESIDE else len(BESIDE), n))
    chapters = sorted(n for n in names - {*path, *beside, *play, *tutorials} if '/' not in n)
    core = sorted(n for n in names if n.startswith('core/'))
    rest = sorted(names - {*play, *path, *beside, *chapters, *core})
    everywhere = sorted([*chapters, *(c for c in path if '/' not in c)])
    return dict(play=play, path=path, beside=[*beside, *rest], chapters=[*everywhere, *core])


def straight(order: dict) -> list:
    "One line through all pages for previous and next."
    return list(dict.fromkeys(['index', *order['play'], *order['path'], *order['beside'], *order['chapters'],
                               'api/index', *order['api'], 'changes']))


# ---- widgets

class Host:
    "Makes widgets come to life in pages, by the package's own scripts."
    def __init__(self, static: Path):
        from lstm_video_repr import widgets
        self.widgets, self.static, self.playground = widgets, static, None
        self.styles, self.script = re.fullmatch(r'<style>(.*)</style>\s*<script>(.*)</script>\s*',
                                                widgets.widget_assets(), re.S).groups()

    def __call__(self, state: dict, picture: str, up: str) -> str:
        "HTML of a saved widget; only its picture where the package does not know its kind."
        try: return self.place(state, state.get('network'), picture, up)
        except ValueError: return picture

    def place(self, widget, network, picture, up) -> str:
        "A widget with its picture, and the address of its weights, if it has some."
        options = {}
        if network:
            self.playground = self.playground or self.widgets.Playground()
            name = self.name_weights()
            if network['digest'].startswith(name): options['weights'] = f'{up}_static/weights/{name}.js'
            else: print('A playground was stored with other weights than the package has: run its notebook again')
        text = self.widgets.widget_html(widget, **options)
        still = f'<div class="lvr-still">{picture}<p>Where scripts may run, a widget to step and play with takes the ' \
                'place of this picture.</p></div>'
        return re.sub(r'<div class="lvr-still">.*?</div>', lambda m: still, text, flags=re.S)

    def fresh(self, kind: str, figures) -> str:
        "A new widget of a kind, as it is without arguments: for pages written by hand."
        widget = getattr(self.widgets, kind)()
        picture = base64.b64encode(widget.still_png()).decode()
        picture = figures.image(picture, 'image/png', f'{kind}, as it looks at the beginning', '')
        return raw(f'<div class="output">{self.place(widget, getattr(widget, "network", None), picture, "")}</div>')

    def write(self):
        write(self.static/'widgets.css', self.styles)
        write(self.static/'widgets.js', self.script)
        shutil.rmtree(self.static/'weights', ignore_errors=True)
        if self.playground is None: return
        script = self.widgets.write_weights(self.playground)
        write(self.static/'weights'/f'{self.name_weights()}.js', script)

    def name_weights(self) -> str: return self.playground.network['digest'][:16]


# ---- pages

def write(path: Path, text: str):
    "Only if it is new: Sphinx then reads only what changed."
    if path.is_file() and path.read_text(encoding='utf8') == text: return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf8')


def best_picture(nb: Notebook):
    "For a card: the first widget of a page without the line below it, or else its first picture; None without any."
    found = []
    for cell in nb.cells:
        if 'hide' in directives(source(cell)): continue
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            if 'image/png' in data: found.append((VIEW in data, ''.join(data['image/png'])))
    if not found: return None
    live, data = next((f for f in found if f[0]), found[0])
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    return picture.crop((0, 0, picture.width, picture.height - live * (3 * picture.width // 100)))


def minutes(nb: Notebook) -> str:
    "How long a notebook takes, in its own words, without what it takes longer for."
    text = '\n'.join(source(c) for c in nb.cells[:3] if c['cell_type'] == 'markdown')
    found = re.search(r'\*\*Time:\*\*\s*([^.,;]+)', text)
    return re.split(r' (?:to|for) ', plain(found[1]))[0] if found else ''


def card(nb: Notebook, figures, label: str) -> str:
    image = best_picture(nb)
    chart = ' class="chart"' if image and is_chart(image) else ''
    picture = f'<img src="_static/figures/{figures.thumbnail(image)}"{chart} width="480" height="240" alt="" ' \
              'loading="lazy">' if image else ''
    words = ' · '.join(filter(None, [label, minutes(nb)]))
    return f'<a class="card" href="{nb.name}.html"><span class="thumb">{picture}</span>' \
           f'<span class="label">{escape(words)}</span>' \
           f'<strong>{escape(plain(nb.title))}</strong><span>{escape(plain(nb.subtitle))}</span></a>'


def cards(order: dict, notebooks: dict, figures) -> str:
    "The reading path as cards with thumbnails."
    label = {n: f'{number_of(n)}' if '/' in n else 'chapter' for n in order['path']}
    found = [card(notebooks[n], figures, label[n]) for n in order['path'] if n in notebooks]
    return raw(f'<nav class="cards" aria-label="The reading path">{"".join(found)}</nav>')


def first_widget(order, notebooks, page_of):
    "The first widget of the reading path, as HTML, and the notebook it comes from."
    for name in order['path']:
        nb = notebooks.get(name)
        for cell in nb.cells if nb else ():
            for output in cell.get('outputs', []):
                if VIEW in output.get('data', {}):
                    data = {k: v if isinstance(v, dict) else ''.join(v) for k, v in output['data'].items()}
                    front = Notebook(nb.path, 'index', nb.cells, nb.widgets)
                    return page_of(front).widget(data, 'Film strips: ten frames that were watched, what the network '
                                                       'recalls of them, ten frames ahead and what it expects')
    return ''


def front_page(order, notebooks, figures, page_of, toctrees) -> str:
    "The stepper, two commands and cards; below them what the notebook of the front page says."
    nb = notebooks['index']
    parts = re.split(r'(?m)^(?=## )', page_of(nb).text(skip=nb.first + 1))
    commands = next((p for p in parts if p.startswith('## Install: two commands')), '')
    intro, rest = parts[0], [p for p in parts[1:] if p is not commands]
    intro = re.sub(r'(?s)::::\{container\} cell.*', '', intro)      # its words, up to the picture
    rest = [re.sub(r'(?s)\*\*The reading path\*\*\n\n(?:\d+\. [^\n]*\n)+', '', p) for p in rest]
    stepper = first_widget(order, notebooks, page_of)
    live = f'<div class="live">{stepper}<p>The network saw the first ten frames and nothing else. ' \
           'Step with the arrow keys; the space bar plays.</p></div>'
    hero = ['# ' + nb.title, '', '::::::{container} hero', ':::::{container} say', ':::{container} subtitle',
            nb.subtitle, ':::', intro, ':::::', raw(live), short(commands), raw(buttons(order)), shortcuts(notebooks),
            '::::::', '']
    return '\n'.join(['---\nhide-toc: true\n---\n', *hero, '## The reading path\n', cards(order, notebooks, figures),
                      commands, *rest, toctrees])


def short(commands: str) -> str:
    "The commands of a shell block, without what it says of them."
    found = re.search(r'```sh\n(.*?)```', commands, re.S)
    lines = [line.split('#')[0].rstrip() for line in found[1].splitlines()] if found else []
    return '```text\n' + '\n'.join(filter(None, lines)) + '\n```\n' if lines else ''


def buttons(order) -> str:
    "Where to begin."
    play = ''.join(f'<a class="button" href="{n}.html">Play with it</a>' for n in order['play'][:1])
    start = ''.join(f'<a class="button" href="{n}.html">Start reading</a>' for n in order['path'][:1])
    return f'<p class="buttons">{play}{start}<a class="button quiet" href="api/index.html">Reference</a></p>'


SHORTCUTS = {'Install': '#install-two-commands', 'Predict': '#in-python',
             'Train on your own array': 'tutorials/your_own.md#part-2-your-own-series',
             'What *conditional* means': 'tutorials/glossary.md#conditional-decoder'}


def shortcuts(notebooks) -> str:
    "What most come for, one click away."
    found = {words: at for words, at in SHORTCUTS.items() if at[0] == '#' or at.split('.md')[0] in notebooks}
    return ':::{container} shortcuts\n' + ' · '.join(f'[{words}]({at})' for words, at in found.items()) + '\n:::\n'


def toctrees(order: dict, notebooks: dict) -> str:
    "The navigation."
    def line(name):
        number, nb = number_of(name), notebooks.get(name)
        if not nb: return name
        title = plain(nb.title)
        return f'{number}. {title} <{name}>' if name in order['path'] and '/' in name else f'{title} <{name}>'
    def on_path(name): return line(name) if '/' in name else f'Chapter {line(name)}'
    def tree(caption, names, line=line):
        lines = '\n'.join(map(line, names))
        return f'```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n\n{lines}\n```\n' if names else ''
    return '\n'.join([tree('Play', order['play']), tree('Reading path', order['path'], on_path),
                      tree('Beside it', order['beside']), tree('Chapters', order['chapters']),
                      tree('Look up', ['api/index', 'changes'])])


def repository(root: Path) -> str:
    "Where notebooks lie on the web, if this clone comes from there: an address that nobody cloned is a placeholder."
    settings = ConfigParser(delimiters=['='])
    settings.read(root/'settings.ini', encoding='utf8')
    settings = settings['DEFAULT']
    url = settings.get('git_url', '').rstrip('/').removesuffix('.git')
    try: said = subprocess.run(['git', 'remote', '-v'], cwd=root, capture_output=True, text=True).stdout
    except OSError: said = ''
    key = re.sub(r'^\w+://', '', url)
    known = key and key in said.replace(':', '/')
    return f'{url}/blob/{settings.get("branch", "main")}/nbs' if known else ''


def make_sources(root: Path, work: Path, only=None) -> dict:
    "Write Sphinx's sources into a folder; what the configuration needs to know comes back."
    source_folder, static = work/'source', work/'static'
    notebooks = {k: v for k, v in find_notebooks(root/'nbs').items() if not only or k in only or k == 'index'}
    hand_made = {p.relative_to(HERE/'pages').with_suffix('').as_posix(): p for p in (HERE/'pages').rglob('*.md')}
    hand_made = {n: p for n, p in hand_made.items() if n not in notebooks}
    order = reading_order([*notebooks, *hand_made])
    modules = reference.read_modules(root/'lstm_video_repr', ROOMS)
    order['api'] = [f'api/{m.name}' for m in modules]
    public = {n for m in modules for n in m.public}
    figures, host = Figures(static/'figures'), Host(static)
    source_at = repository(root)
    def page_of(nb): return Page(nb, figures, host, public, source_at=source_at)
    texts = {n: page_of(nb).text() for n, nb in notebooks.items() if n != 'index'}
    for n, p in hand_made.items():
        texts[n] = re.sub(r'\{\{(\w+)\}\}', lambda m: host.fresh(m[1], figures), p.read_text(encoding='utf8'))
    texts['index'] = front_page(order, notebooks, figures, page_of, toctrees(order, notebooks))
    texts |= reference_pages(root, modules, notebooks, order)
    texts['changes'] = (root/'CHANGELOG.md').read_text(encoding='utf8')
    for name, text in texts.items(): write(source_folder/f'{name}.md', text)
    for path in source_folder.rglob('*.md'):
        if path.relative_to(source_folder).with_suffix('').as_posix() not in texts: path.unlink()
    figures.write()
    host.write()
    copy_notebooks(notebooks, work/'extra'/'notebooks')
    targets = {e.name: (f'api/{m.name}', e.target) for m in reversed(modules) for e in every_entry(m)}
    named = {n: (re.search(r'^# .*', text, re.M) or [n])[0] for n, text in texts.items()}
    code = [p.read_text(encoding='utf8') for p in sorted(HERE.glob('*.py'))]
    state = hashlib.sha256(repr([straight(order), sorted(targets), sorted(named.items()), code]).encode()).hexdigest()
    return dict(order=straight(order), targets=targets, state=state)


def every_entry(module):
    for entry in module.entries.values(): yield from (entry, *entry.methods)


def reference_pages(root, modules, notebooks, order) -> dict:
    reading = straight(order)
    ordered = sorted(notebooks.values(), key=lambda nb: reading.index(nb.name))
    uses = reference.find_uses([nb for nb in ordered if nb.name != 'index'], {n for m in modules for n in m.public})
    chapters = {directives(source(c)).get('default_exp', c and re.search(r'default_exp (\S+)', source(c))[1]): nb
                for nb in notebooks.values() for c in nb.cells if '#| default_exp' in source(c)}
    chapters = {re.search(r'\S+$', k)[0]: nb for k, nb in chapters.items()}
    for m in modules:
        for entry in m.entries.values(): entry.uses = uses.get(entry.name, [])
    pages = {f'api/{m.name}': reference.write_module(m, chapters.get(m.name)) for m in modules}
    exported = reference.exported_names(root/'lstm_video_repr'/'all.py')
    return pages | {'api/index': reference.write_index(modules, exported)}


def copy_notebooks(notebooks, folder: Path):
    shutil.rmtree(folder, ignore_errors=True)
    for name, nb in notebooks.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(nb.path, folder/f'{name}.ipynb')


def build(root: Path = ROOT, out: Path | None = None, work: Path | None = None, only=None, quiet=False) -> int:
    "The whole site; the number of Sphinx's exit."
    from sphinx.cmd.build import main as sphinx
    import conf
    out, work = out or root/'_docs', work or root/'build'/'docs'
    conf.SITE.update(make_sources(root, work, only), work=str(work))
    options = ['-b', 'html', '-c', str(HERE), '-d', str(work/'doctrees'), '-w', str(work/'warnings.txt'),
               *(['-q'] if quiet else [])]
    code = sphinx([*options, str(work/'source'), str(out)])
    clean(out, work)
    return code


def clean(out: Path, work: Path):
    "Remove pages and figures of an earlier build that are no more."
    for page in out.rglob('*.html'):
        name = page.relative_to(out).as_posix().removesuffix('.html')
        if name != 'search' and not (work/'source'/f'{name}.md').exists(): page.unlink()
    kept = {p.name for p in (work/'static'/'figures').iterdir()}
    for figure in (out/'_static'/'figures').glob('*'):
        if figure.name not in kept: figure.unlink()


def serve(out: Path):
    "Show the site in a browser, from a free port of this machine."
    handler = partial(SimpleHTTPRequestHandler, directory=str(out))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        address = f'http://127.0.0.1:{server.server_port}/'
        shown = webbrowser.open(address)
        print(f'{address} until Ctrl-C' + ('' if shown else ' (no browser was found: open it in one)'), flush=True)
        try: server.serve_forever()
        except KeyboardInterrupt: pass


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, help='where to (default: _docs)')
    parser.add_argument('--only', nargs='*', help='only these notebooks, such as 00_lstm, for a quick look')
    parser.add_argument('--quiet', action='store_true', help='only warnings and errors')
    parser.add_argument('--serve', action='store_true', help='then open it in a browser, until Ctrl-C')
    args, start = parser.parse_args(), time.time()
    out = args.out or ROOT/'_docs'
    code = build(out=out, only=args.only, quiet=args.quiet)
    print(f'{out/"index.html"}: {len(list(out.rglob("*.html")))} pages in {time.time() - start:.0f} s')
    if args.serve and not code: serve(out)
    sys.exit(code)

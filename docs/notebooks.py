"Stored notebooks as MyST Markdown for Sphinx: nothing is executed, and no text from data is ever read as HTML."
import ast
import json
import re
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

VIEW, STATE = 'application/vnd.jupyter.widget-view+json', 'application/vnd.jupyter.widget-state+json'
FENCE = '`' * 8


@dataclass
class Notebook:
    "A notebook as it lies on disk."
    path: Path              # of the file
    name: str               # of its page: the path below nbs without .ipynb
    cells: list = field(default_factory=list)
    widgets: dict = field(default_factory=dict)     # saved states by id

    @property
    def title(self): return self._head(r'^# (.+)', self.name)

    @property
    def subtitle(self): return self._head(r'^> (.+)', '')

    @property
    def first(self):
        "The number of the cell with the title."
        found = (k for k, c in enumerate(self.cells) if c['cell_type'] == 'markdown' and re.match(r'# ', source(c)))
        return next(found, 0)

    def _head(self, pattern, otherwise):
        found = re.search(pattern, source(self.cells[self.first]), re.M) if self.cells else None
        return found[1].strip() if found else otherwise


def read_notebook(path: Path, name: str) -> Notebook:
    "A notebook with the widgets' states that it saves."
    nb = json.loads(path.read_text(encoding='utf8'))
    saved = nb['metadata'].get('widgets', {}).get(STATE, {}).get('state', {})
    return Notebook(path, name, nb['cells'], {k: v['state'] for k, v in saved.items()})


def source(cell) -> str: return ''.join(cell['source'])


def directives(code: str) -> dict:
    "What the lines that begin with `#|` say: name -> the rest of the line."
    found = re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', code, re.M)
    return {name: rest.strip() for name, rest in found}


def is_hidden(cell) -> bool:
    "Whether the page shows neither this code cell nor what came out of it."
    said = directives(source(cell))
    return 'hide' in said or 'default_exp' in said or said.get('include') == 'false'


def shows_code(cell) -> bool:
    "Whether the page shows the whole code of this cell."
    said = directives(source(cell))
    quiet = {'export', 'exporti', 'hide_input'} & said.keys() or said.get('echo') == 'false'
    return cell['cell_type'] == 'code' and not is_hidden(cell) and not quiet


def anchor(cell, number: int) -> str: return f'cell-{cell.get("id", number)}'


def headings(nb: Notebook):
    "Every cell with its number and the heading that it stands under."
    heading = nb.title
    for number, cell in enumerate(nb.cells):
        if cell['cell_type'] == 'markdown':
            text = re.sub(r'^```.*?^```', '', source(cell), flags=re.M | re.S)
            heading = (re.findall(r'^#{1,4} (.+)', text, re.M) or [heading])[-1]
        yield number, cell, heading


# ---- words

def plain(text: str) -> str:
    "Markdown as words alone: for pictures' alternative texts, cards and titles."
    text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', text)
    text = re.sub(r'(\$\$?)(?=\S)(.+?)(?<=\S)\1', lambda m: formula_words(m[2]), text, flags=re.S)
    text = re.sub(r'(\*\*|\*|`)(?=\S)(.+?)(?<=\S)\1', r'\2', text, flags=re.S)
    return re.sub(r'\s+', ' ', text.replace('`', '')).strip()


SIGNS = dict(odot='⊙', cdot='·', times='×', le='≤', leq='≤', ge='≥', geq='≥', sum='∑', partial='∂', infty='∞', to='→',
             sigma='σ', tau='τ', mu='μ', alpha='α', beta='β', theta='θ')
SILENT = 'mathbf mathrm mathbb mathcal text hat tilde bar left right quad qquad begin end operatorname'.split()


def formula_words(tex: str) -> str:
    "A formula as plain text."
    tex = re.sub(r'\\d?frac\{([^{}]*)\}\{([^{}]*)\}', r'\1 / \2', tex)
    tex = re.sub(r'\\([a-zA-Z]+)', lambda m: SIGNS.get(m[1], '' if m[1] in SILENT else f'{m[1]} '), tex)
    return re.sub(r'\s+', ' ', re.sub(r'[{}\\&]', '', tex)).replace(' (', '(').strip()


def last_words(markdown: str, most: int = 220) -> str:
    "The sentence or two that lead up to what follows."
    blocks = [b for b in re.split(r'\n\s*\n', markdown.strip()) if b.strip()]
    blocks = [b for b in blocks if not b.lstrip().startswith(('|', '```', '$$'))] or ['']
    text = plain(re.sub(r'^\s*(?:#+|>|[-*]|\d+\.)\s+', '', blocks[-1], flags=re.M))
    sentences, words = re.split(r'(?<=[.?!:])\s+', text), ''
    for sentence in reversed(sentences):
        if words and len(words) + len(sentence) > most: break
        words = f'{sentence} {words}'.strip()
    return words if len(words) <= 2 * most else words[:2 * most].rsplit(' ', 1)[0] + ' ...'


def figure_words(nb: Notebook, number: int, cell, heading: str) -> str:
    "What a screen reader says of a figure: what the cell says, or else the text that leads to it."
    said = cell.get('metadata', {}).get('alt') or directives(source(cell)).get('fig-alt')
    if said: return said.strip('"\' ')
    before = [source(c) for c in nb.cells[:number] if c['cell_type'] == 'markdown']
    words = (last_words(before[-1]) if before else '').rstrip(':')
    if len(words) < 25: words = f'{plain(heading)}. {words}'.rstrip('. ')
    title = re.search(r"""\btitle=(["'])(.{4,}?)\1""", source(cell))
    return f'Figure: {plain(title[2])}. {words}' if title else f'Figure: {words}'


# ---- markup from outputs

ALLOWED = {
    'table thead tbody tfoot tr div span p br hr b strong i em small sub sup code pre ul ol li h2 h3 h4 figure '
    'figcaption caption': 'class style', 'th td': 'class style colspan rowspan scope', 'a': 'href class',
    'details': 'class open', 'summary': 'class', 'picture': '', 'source': 'media srcset type',
    'img': 'src alt width height style class'}
TAGS = {tag: set(attrs.split()) for tags, attrs in ALLOWED.items() for tag in tags.split()}
STYLES = {'text-align', 'padding', 'font-variant-numeric', 'white-space', 'font-weight', 'width', 'max-width', 'height',
          'image-rendering', 'border', 'margin', 'overflow-x', 'font-style'}


class Cleaner(HTMLParser):
    "HTML of an output with nothing in it that could run or fetch; pictures inside it become files."
    def __init__(self, keep_picture):
        super().__init__(convert_charrefs=True)
        self.keep_picture, self.out, self.silent = keep_picture, [], 0

    def handle_starttag(self, tag, attrs):
        if tag in ('script', 'style'): self.silent += 1
        if tag not in TAGS: return
        kept = [(k, self.value(k, v or '')) for k, v in attrs if k in TAGS[tag]]
        if tag == 'img' and not dict(kept).get('alt'): kept = [*[a for a in kept if a[0] != 'alt'], ('alt', 'Figure')]
        self.out.append(f'<{tag}' + ''.join(f' {k}="{escape(v)}"' for k, v in kept if v is not None) + '>')

    def value(self, key, value):
        "What remains of an attribute; None where nothing may."
        if key in ('src', 'srcset'): return self.keep_picture(value)
        if key == 'href': return value if re.match(r'https?://|#|[\w./-]+(#|$)', value) else None
        if key != 'style': return value
        parts = [p.strip() for p in value.split(';')]
        return ';'.join(p for p in parts if p.partition(':')[0].strip() in STYLES and '(' not in p) or None

    def handle_endtag(self, tag):
        if tag in ('script', 'style'): self.silent = max(0, self.silent - 1)
        elif tag in TAGS and tag not in ('br', 'hr', 'img', 'source'): self.out.append(f'</{tag}>')

    def handle_data(self, data):
        if not self.silent: self.out.append(escape(data))


def clean_html(html: str, keep_picture=lambda url: None) -> str:
    "The harmless part of a piece of HTML."
    cleaner = Cleaner(keep_picture)
    cleaner.feed(html)
    cleaner.close()
    html = re.sub(r'<td(?=[ >])([^<>]*>[^<]{32})', r'<td data-long\1', ''.join(cleaner.out))   # of these some room,
    return re.sub(r'<td((?: [^<>]*)?>[^<]{1,16}</td>)', r'<td data-short\1', html)             # of those one line


def page_link(url: str) -> str:
    "Where a link between notebooks leads on the site; headings are lower case there."
    if re.match(r'\w+:', url): return url
    path, mark, part = url.partition('#')
    return re.sub(r'\.ipynb$', '.html', path) + mark + re.sub(r'[^\w -]', '', unquote(part).lower()).replace(' ', '-')


def render_markdown(text: str) -> str:
    "Markdown of an output as HTML. Any HTML in it is text."
    md = MarkdownIt('commonmark', {'html': False}).enable(['table', 'strikethrough'])
    return re.sub(r'href="([^"]*)"', lambda m: f'href="{page_link(m[1])}"', md.render(text))


def raw(html: str) -> str:
    "HTML for Sphinx to pass through."
    return f'{FENCE}{{raw}} html\n{html}\n{FENCE}\n'


FOLD = re.compile(r'^[ \t]*<(/?details|details><summary)>(?:([^<>\n]*)</summary>)?[ \t]*$', re.M)


def fold(found) -> str:
    "A line of Markdown that begins or ends what a reader has to open: the only HTML that notebooks write."
    summary = f'<details class="answers"><summary>{escape(found[2])}</summary>' if found[2] else f'<{found[1]}>'
    return f'\n{raw(summary)}\n'


# ---- a page

SHADES = re.compile(r'\b(black|white|dark|darker|light|lighter|pale)\b', re.I)  # said of figures as they are


class Page:
    "Writes one notebook as MyST Markdown."
    def __init__(self, nb: Notebook, figures, host, public, *, source_at=''):
        self.nb, self.figures, self.host, self.public, self.source_at = nb, figures, host, public, source_at
        self.up = '../' * nb.name.count('/')

    def text(self, skip=0) -> str:
        "The whole page from the cell number `skip` on."
        return '\n'.join(filter(None, (self.cell(*c) for c in headings(self.nb) if c[0] >= skip)))

    def cell(self, number, cell, heading) -> str:
        if cell['cell_type'] == 'markdown': return self.words(source(cell), number)
        if cell['cell_type'] != 'code' or is_hidden(cell): return ''
        parts = [self.code(cell), *self.outputs(number, cell, heading)]
        parts = [p for p in parts if p]
        if not parts: return ''
        body = '\n'.join(parts)
        return f'::::{{container}} cell\n:name: {anchor(cell, number)}\n\n{body}\n::::\n'

    def words(self, text, number) -> str:
        "A Markdown cell with links that lead to pages; the line below the title becomes the subtitle."
        def link(m): return f']({page_link(m[1]).replace(".html", ".md")})'
        def outside(part):
            part = re.sub(r'\]\(([^)\s]*\.ipynb[^)\s]*|#[^)\s]+)\)', link, part)
            return FOLD.sub(fold, part)
        parts = re.split(r'(^```.*?^```$|`[^`\n]+`)', text, flags=re.M | re.S)      # code at the odd places stays
        text = ''.join(p if k % 2 else outside(p) for k, p in enumerate(parts))
        if number == self.nb.first: text = re.sub(r'^> (.+)$', self.head, text, count=1, flags=re.M)
        return text + '\n'

    def head(self, found) -> str:
        "The subtitle, and where to get the notebook."
        name = escape(self.nb.path.name)
        at = f' · <a href="{self.source_at}/{self.nb.name}.ipynb">its source</a>' if self.source_at else ''
        get = f'<p class="get"><a href="{self.up}notebooks/{self.nb.name}.ipynb" download="{name}">Download this ' \
              f'notebook</a> <span>{name}, to run and change</span>{at}</p>'
        return f':::{{container}} subtitle\n{found[1]}\n:::\n\n{raw(get)}'

    def code(self, cell) -> str:
        if shows_code(cell): return block(without_directives(source(cell)))
        if 'export' not in directives(source(cell)): return ''
        return '\n'.join(self.definition(cell))

    def definition(self, cell):
        "Of an exported cell whose code the page leaves out: what a public name takes, and where the rest stands."
        code = source(cell)
        for node in ast.parse(code).body:
            name = public_name(node)
            if not name or name.split('.')[0] not in self.public: continue
            more = f':::{{container}} more\n`{name}` in the reference, with its source\n:::\n'
            yield f'{block(head_of(code, node))}\n{more}'

    def outputs(self, number, cell, heading):
        words = figure_words(self.nb, number, cell, heading)
        near = self.nb.cells[max(0, number - 1):number + 2]
        beside = ' '.join(source(c) for c in near if c['cell_type'] == 'markdown')
        for output in cell.get('outputs', []):
            html = self.output(output, words)
            if SHADES.search(beside): html = html.replace(' class="chart"', '')
            if html: yield raw(html)

    def output(self, output, words) -> str:
        "HTML of one output: the most lively form that is stored."
        if output['output_type'] == 'stream': return pre(''.join(output['text']))
        data = {k: v if isinstance(v, dict) else ''.join(v) for k, v in output.get('data', {}).items()}
        if VIEW in data: return self.widget(data, words)
        for kind in ('image/svg+xml', 'image/png', 'image/jpeg', 'image/gif'):
            if kind in data: return f'<div class="output">{self.figures.image(data[kind], kind, words, self.up)}</div>'
        if 'text/html' in data:
            keep = lambda url: self.figures.keep(url, self.up)
            return f'<div class="output rich">{clean_html(data["text/html"], keep)}</div>'
        if 'text/markdown' in data: return f'<div class="output rich">{render_markdown(data["text/markdown"])}</div>'
        return pre(data['text/plain']) if data.get('text/plain') else ''

    def widget(self, data, words) -> str:
        "A widget that comes to life in the page, and its picture for where it does not."
        picture = self.figures.image(data['image/png'], 'image/png', words, self.up) if 'image/png' in data else ''
        state = self.nb.widgets.get(data[VIEW].get('model_id'))
        return f'<div class="output">{self.host(state, picture, self.up) if state else picture}</div>'


def block(code: str) -> str: return f'{FENCE}{{code-block}} python\n{code.rstrip()}\n{FENCE}\n'


def without_directives(code: str) -> str: return re.sub(r'^#\|.*\n?', '', code, flags=re.M).strip('\n')


def pre(text: str) -> str:
    "Text as it was printed."
    text = re.sub(r'\x1b\[[\d;]*[A-Za-z]', '', text)
    text = '\n'.join(line.rsplit('\r', 1)[-1] for line in text.replace('\r\n', '\n').rstrip().split('\n'))
    return f'<div class="output"><pre tabindex="0">{escape(text)}</pre></div>' if text.strip() else ''


def owner(node) -> str:
    "The class that a patched method belongs to."
    if not any(re.match(r'patch\b', ast.unparse(d)) for d in getattr(node, 'decorator_list', [])): return ''
    first = (node.args.posonlyargs + node.args.args)[0]
    return ast.unparse(first.annotation).split('|')[0].strip('\'" ') if first.annotation else ''


def public_name(node) -> str:
    "The name that a statement brings, with its class if it is a method; nothing if it is private."
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): return ''
    name, of = node.name, owner(node)
    if name == '__init__' and of: return of
    return '' if name[0] == '_' or of[:1] == '_' else f'{of}.{name}' if of else name


def head_of(code: str, node) -> str:
    "The signature as it is written, with its comments and its docstring; of a class its fields."
    lines = code.splitlines()
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    keep, first = node.lineno - 1, node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(getattr(first, 'value', None), ast.Constant)
    if isinstance(node, ast.ClassDef):
        body = [n for n in node.body if isinstance(n, ast.AnnAssign)] + [first] * documented
        last = max([n.end_lineno for n in body], default=node.lineno)
        shown = lines[start:last]
        return '\n'.join(shown)
    last = first.end_lineno if documented else max(keep + 1, first.lineno - 1)
    return '\n'.join(lines[start:last])

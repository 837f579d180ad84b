"What the site does beyond its extensions: formulas, links from names to the reference, previous and next, scripts."
import json
import shutil
import subprocess
import sys
from html import escape
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

from notebooks import formula_words, plain


def site(): return sys.modules['conf'].SITE


def link_names(app, doctree, docname):
    "A public name between backticks leads to its entry in the reference."
    targets = site().get('targets', {})
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().split('(')[0]
        if name not in targets or is_linked(literal): continue
        page, target = targets[name]
        start = '' if page == docname else app.builder.get_relative_uri(docname, page)
        link = nodes.reference('', '', internal=True, refuri=f'{start}#{target}', classes=['name'])
        literal.replace_self(link)
        link += literal


def is_linked(node) -> bool:
    "Whether a node stands in a link, or in a heading."
    while node.parent is not None:
        if isinstance(node, (nodes.reference, nodes.title)): return True
        node = node.parent
    return False


def give_neighbours(app, pagename, templatename, context, doctree):
    "Previous and next along the reading path, and the scripts that widgets need, where there are widgets."
    order = site().get('order', [])
    context['prev'] = context['next'] = None
    if pagename in order:
        k = order.index(pagename)
        for key, at in (('prev', k - 1), ('next', k + 1)):
            if 0 <= at < len(order) and order[at] in app.env.titles:
                title = escape(app.env.titles[order[at]].astext())
                context[key] = {'link': app.builder.get_relative_uri(pagename, order[at]), 'title': title}
    if 'lvr-host' in context.get('body', ''):
        app.add_css_file('widgets.css')
        app.add_js_file('widgets.js', loading_method='defer')


# ---- search

def write_search(app, error):
    "All sections with their words and code, for search.js: a script, since pages on a disk may read nothing else."
    if error: return
    rows = []
    for name in [n for n in site().get('order', []) if n in app.env.titles]:
        doctree = app.env.get_doctree(name)
        for formula in [*doctree.findall(nodes.math), *doctree.findall(nodes.math_block)]:
            formula.replace_self(nodes.Text(formula_words(formula.astext())))
        title = app.env.titles[name].astext()
        for section in doctree.findall(is_place): rows.append(search_row(name, title, section))
    text = json.dumps(rows, ensure_ascii=False, separators=(',', ':'))
    (Path(app.outdir)/'_static'/'search_text.js').write_text(f'const SECTIONS = {text};\n', encoding='utf8')


def is_place(node) -> bool: return isinstance(node, (nodes.section, addnodes.desc))


def search_row(name, title, place) -> list:
    "Address, page, heading, words and code of a section or of an entry of the reference, without those inside it."
    head = place.next_node(nodes.title if isinstance(place, nodes.section) else addnodes.desc_signature)
    own = [n for n in place.findall() if n is place or nearest(n) is place]
    words = [n for n in own if isinstance(n, nodes.paragraph) and not has(n, 'more') and
             not (has(n, 'docments') and inside(n, nodes.thead))]
    words.sort(key=lambda n: inside(n, nodes.table))
    words = plain(' '.join(n.astext() for n in words))
    code = '\n'.join(n.astext() for n in own if isinstance(n, nodes.literal_block)) * isinstance(place, nodes.section)
    at = (head if isinstance(place, addnodes.desc) else place)['ids']
    heading = head['fullname'] if isinstance(place, addnodes.desc) else head.astext()
    return [f'{name}.html#{at[0]}' if at else f'{name}.html', title, heading, words, code]


def inside(node, kind) -> bool:
    while node is not None and not isinstance(node, kind): node = node.parent
    return node is not None


def has(node, name) -> bool:
    "Whether a node stands in one of a class."
    while node is not None and name not in getattr(node, 'attributes', {}).get('classes', ()): node = node.parent
    return node is not None


def nearest(node):
    "The section or entry that a node stands in."
    node = node.parent
    while node is not None and not is_place(node): node = node.parent
    return node


# ---- formulas

# Of the package sphinxcontrib-katex only this file is used: its server waits for a socket that may not be there yet.
KATEX = Path(find_spec('sphinxcontrib.katex').origin).with_name('katex.min.js')
SERVER = """const katex = require(process.argv[1]);
require('readline').createInterface({input: process.stdin}).on('line', line => {
  const [text, displayMode] = JSON.parse(line);
  console.log(JSON.stringify(katex.renderToString(text, {displayMode, throwOnError: false})));
});"""


class Formulas:
    "KaTeX in a process of node that lives as long as the build."
    def __init__(self):
        self.node, self.process, self.known = shutil.which('node'), None, {}

    def render(self, text, display) -> str:
        "HTML of a formula, made here or, without node, to be made in the page."
        tag, key = 'div' if display else 'span', (text, display)
        if not self.node: return f'<{tag} class="math formula">{escape(text)}</{tag}>'
        if key not in self.known: self.known[key] = self.ask([text, display])
        return f'<{tag} class="math">{self.known[key]}</{tag}>'

    def ask(self, question) -> str:
        if self.process is None:
            self.process = subprocess.Popen([self.node, '-e', SERVER, str(KATEX)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True, encoding='utf8')
        self.process.stdin.write(json.dumps(question) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self, *_):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
        self.process = None


FORMULAS = Formulas()


def inline_formula(writer, node):
    writer.body.append(FORMULAS.render(node.astext(), False))
    raise nodes.SkipNode


def block_formula(writer, node):
    writer.body.append(FORMULAS.render(node.astext(), True))
    raise nodes.SkipNode


def bring_katex(app):
    "Without node pages bring KaTeX along; site.js calls it."
    if FORMULAS.node: return
    folder = Path(site()['work'])/'static'
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(KATEX, folder/KATEX.name)
    app.add_js_file(KATEX.name, loading_method='defer', priority=100)


def setup(app):
    app.add_html_math_renderer('katex', (inline_formula, None), (block_formula, None))
    app.connect('builder-inited', bring_katex)
    app.connect('build-finished', FORMULAS.close)
    app.connect('build-finished', write_search)
    app.add_config_value('site_state', '', 'html', types=(str,))
    app.connect('doctree-resolved', link_names)
    app.connect('html-page-context', give_neighbours, priority=400)
    return {'parallel_read_safe': True, 'parallel_write_safe': False}

"The API reference: every public name with signature, arguments, docstring, source and the cells that use it."
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

from notebooks import FENCE, Notebook, anchor, block, directives, headings, owner, plain, shows_code, source

FUNCTION = ast.FunctionDef, ast.AsyncFunctionDef


@dataclass
class Argument:
    name: str           # with its stars
    kind: str = ''      # annotation
    default: str = ''
    words: str = ''     # the comment beside it


@dataclass
class Entry:
    "A public name."
    module: str
    name: str                   # with its class, if it is a method
    kind: str                   # of Sphinx's directive: function, class, method, property, data
    code: str = ''
    doc: str = ''
    arguments: list = field(default_factory=list)
    returns: Argument | None = None
    options: str = ''
    methods: list = field(default_factory=list)
    uses: list = field(default_factory=list)

    @property
    def target(self): return f'lstm_video_repr.{self.module}.{self.name}'


@dataclass
class Module:
    name: str
    doc: str
    public: list
    entries: dict


class Reader:
    "Reads one module of the package without importing it."
    def __init__(self, path: Path, name: str):
        self.text = path.read_text(encoding='utf8')
        self.lines, self.name = self.text.splitlines(), name
        self.tree = ast.parse(self.text)
        self.comments = {t.start[0]: t.string.lstrip('# ').strip() for t in
                         tokenize.generate_tokens(io.StringIO(self.text).readline) if t.type == tokenize.COMMENT}

    def read(self) -> Module:
        public = next((ast.literal_eval(n.value) for n in self.tree.body if isinstance(n, ast.Assign)
                       and getattr(n.targets[0], 'id', '') == '__all__'), [])
        entries = {}
        for node in self.tree.body:
            for entry in self.entry(node, public): entries.setdefault(entry.name, entry)
        for node in self.tree.body:         # methods that were patched in
            of = entries.get(owner(node)) if isinstance(node, FUNCTION) else None
            if of and of.kind == 'class': self.add_method(of, node)
        return Module(self.name, ast.get_docstring(self.tree) or '', public, entries)

    def entry(self, node, public):
        if isinstance(node, ast.ClassDef) and node.name in public: yield self.of_class(node)
        elif isinstance(node, FUNCTION) and node.name in public and not owner(node):
            yield self.of_function(node, node.name, 'function')
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n for n in ast.walk(targets[0]) if isinstance(n, ast.Name)]
            for name in (n.id for n in names if n.id in public):
                yield Entry(self.name, name, 'data', self.code(node), self.comments.get(node.lineno, ''))

    def code(self, node) -> str:
        first = min([node.lineno, *(d.lineno for d in getattr(node, 'decorator_list', []))])
        return '\n'.join(self.lines[first - 1:node.end_lineno])

    def of_class(self, node) -> Entry:
        entry = Entry(self.name, node.name, 'class', self.code(node), ast.get_docstring(node) or '')
        if any('dataclass' in ast.unparse(d) for d in node.decorator_list): entry.arguments = self.fields(node)
        for child in node.body:
            if isinstance(child, FUNCTION): self.add_method(entry, child)
        return entry

    def fields(self, node) -> list:
        found = [n for n in node.body if isinstance(n, ast.AnnAssign) and n.target.id[0] != '_']
        def default(n):
            return re.sub(r'^field\(default_factory=(\w+)\)$', r'\1()', ast.unparse(n.value)) if n.value else ''
        return [Argument(n.target.id, ast.unparse(n.annotation), default(n), self.comments.get(n.end_lineno, ''))
                for n in found]

    def add_method(self, entry, node):
        if node.name == '__init__':
            made = self.of_function(node, '__init__', 'method', skip=1)
            entry.arguments = made.arguments
            entry.doc = '\n\n'.join(filter(None, [entry.doc, made.doc]))
            if owner(node): entry.code += '\n\n' + made.code
            return
        if node.name[0] == '_' and not (node.name == '__call__' and ast.get_docstring(node)): return
        marks = ' '.join(ast.unparse(d) for d in node.decorator_list)
        if re.search(r'\.(setter|deleter)\b|overload', marks): return
        kind = 'property' if re.search(r'\bproperty|as_prop=True', marks) else 'method'
        options = 'classmethod' if re.search(r'classmethod|cls_method', marks) else ''
        if 'staticmethod' in marks: options = 'staticmethod'
        name = f'{entry.name}.{node.name}'
        if any(m.name == name for m in entry.methods): return
        made = self.of_function(node, name, kind, skip=options != 'staticmethod')
        made.options = options
        entry.methods.append(made)

    def of_function(self, node, name, kind, skip=0) -> Entry:
        a = node.args
        places = a.posonlyargs + a.args
        defaults = [None] * (len(places) - len(a.defaults)) + a.defaults
        found = list(zip(places, defaults))[int(skip):]
        arguments = [self.argument(arg, d) for arg, d in found]
        if a.vararg: arguments.append(self.argument(a.vararg, None, '*'))
        elif a.kwonlyargs: arguments.append(Argument('*'))
        arguments += [self.argument(arg, d) for arg, d in zip(a.kwonlyargs, a.kw_defaults)]
        if a.kwarg: arguments.append(self.argument(a.kwarg, None, '**'))
        self.only_last_on_a_line(arguments, [x for x, _ in found] + a.kwonlyargs)
        return Entry(self.name, name, kind, self.code(node), ast.get_docstring(node) or '', arguments,
                     self.returned(node, arguments))

    def argument(self, arg, default, stars='') -> Argument:
        end = (default or arg).end_lineno
        return Argument(stars + arg.arg, ast.unparse(arg.annotation) if arg.annotation else '',
                        ast.unparse(default) if default is not None else '', self.comments.get(end, ''))

    def only_last_on_a_line(self, arguments, nodes):
        "A comment belongs to the last argument before it."
        last = {node.end_lineno: node.arg for node in nodes}
        line = {node.arg: node.end_lineno for node in nodes}
        for a in arguments:
            if a.name in line and last[line[a.name]] != a.name: a.words = ''

    def returned(self, node, arguments):
        "What comes back, and the comment beside it: it stands on the line that ends the signature."
        end = next((n for n in range(node.lineno, node.body[0].lineno + 1)
                    if re.search(r':\s*(#.*)?$', self.lines[n - 1]) and self.lines[n - 1].lstrip()[:1] in ')d'
                    or n == node.body[0].lineno), node.lineno)
        closing = self.lines[end - 1].lstrip().startswith(')')
        words = self.comments.get(end, '') if closing else ''
        if not node.returns and not words: return None
        return Argument('returns', ast.unparse(node.returns) if node.returns else '', '', words)


def read_modules(library: Path, order: list) -> list:
    "All modules with public names, in the order of rooms; those it does not name come last."
    paths = {'.'.join(p.relative_to(library).with_suffix('').parts): p for p in library.rglob('*.py')}
    names = [n for n in paths if n.split('.')[-1][0] != '_' and n != 'all']
    names.sort(key=lambda n: (order.index(n) if n in order else len(order), n))
    return [m for m in (Reader(paths[n], n).read() for n in names) if m.public]


def find_uses(notebooks: list, names: set) -> dict:
    "Cells on the site that use a public name: name -> (page, title, heading, anchor), one for each heading."
    uses = {}
    for nb in notebooks:
        for number, cell, heading in headings(nb):
            if not shows_code(cell): continue
            for name in used(source(cell)) & names:
                place = nb.name, nb.title, plain(heading), anchor(cell, number)
                if not any(p[:3] == place[:3] for p in uses.setdefault(name, [])): uses[name].append(place)
    return uses


def used(code: str) -> set:
    "Names that some code uses, without those that it defines."
    if 'exports' in directives(code): return set()
    try: tree = ast.parse(code)
    except SyntaxError: return set(re.findall(r'\b[A-Za-z]\w+\b', code))
    nodes = list(ast.walk(tree))
    found = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return found | {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
                    and n.value.id in ('widgets', 'pictures', 'metrics', 'clips', 'lvr')}


# ---- as MyST Markdown

def inline(text: str) -> str:
    "A docstring or a comment as Markdown: what stands between backticks is code, stars and dollars mean themselves."
    parts = re.split(r'(`[^`\n]+`)', text)
    def quiet(part):
        part = re.sub(r'([\\$<\[\]_])', r'\\\1', part)
        return re.sub(r'\*(?=\w+[),])|(?<=[\w)\]])\*(?=[\w(])|(?<= )\*(?= )', r'\\*', part)
    return ''.join(p if k % 2 else quiet(p) for k, p in enumerate(parts))


def cell(text: str) -> str: return inline(text).replace('|', '\\|').replace('\n', ' ')


def code(text: str) -> str: return f'`{text}`'.replace('|', '\\|') if text else ''


def table(entry) -> str:
    "Arguments and what comes back, one a line."
    rows = [a for a in entry.arguments if a.name != '*'] + [entry.returns] * bool(entry.returns)
    if not any(a.kind or a.words or a.default for a in rows): return ''
    if rows == [entry.returns]:
        return f':::{{container}} docments\n*returns* {code(rows[0].kind)} {cell(rows[0].words)}\n:::\n'
    lines = ['| | type | default | |', '|---|---|---|---|']
    for a in rows:
        name = '*returns*' if a is entry.returns else code(a.name)
        lines.append(f'| {name} | {code(a.kind)} | {code(a.default)} | {cell(a.words)} |')
    return '\n'.join([':::{container} docments', '', *lines, ':::', ''])


def signature(entry) -> str:
    "As Sphinx reads it. What its parser cannot read is left out of it: the table says it."
    parts = [a.name + (f'={a.default}' if a.default else '') for a in entry.arguments]
    return '' if entry.kind in ('property', 'data') else f'({", ".join(parts)})'


def docstring(text: str) -> str:
    "Paragraphs; what is indented is code."
    blocks = re.split(r'\n\s*\n', text.strip())
    return '\n\n'.join(block(b) if all(line.startswith('    ') for line in b.splitlines()) and b
                       else inline(b) for b in blocks) + '\n' if text else ''


def shown_uses(entry, most=8) -> str:
    "Links to the cells that use a name."
    if not entry.uses: return ''
    links = [f'<li><a href="../{page}.html#{at}">{title}{": " + heading if heading != title else ""}</a></li>'
             for page, title, heading, at in ((p, *map(escape_html, (t, h)), a) for p, t, h, a in entry.uses)]
    more = links[most:]
    rest = f'<li><details><summary>{len(more)} more</summary><ul>{"".join(more)}</ul></details></li>' if more else ''
    return html(f'<div class="uses"><p>Used in</p><ul>{"".join(links[:most])}{rest}</ul></div>')


def escape_html(text): return text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')


def html(text): return f'{FENCE}{{raw}} html\n{text}\n{FENCE}\n'


def write_entry(entry, level=0) -> str:
    colons = ':' * (8 - level)
    options = [f':{entry.options}:'] if entry.options else []
    if entry.kind == 'data': options = [':no-typesetting:'] * 0
    body = [docstring(entry.doc), table(entry)]
    if entry.code:
        body += [html('<details class="source"><summary>Source</summary>'), block(entry.code), html('</details>')]
    body += [shown_uses(entry), *(write_entry(m, level + 2) for m in entry.methods)]
    head = f'{colons}{{py:{entry.kind}}} {entry.name}{signature(entry)}'
    return '\n'.join([head, *options, '', *filter(None, body), colons, ''])


def write_module(module: Module, chapter: Notebook | None) -> str:
    "A page of the reference."
    lead = f'{inline(module.doc.splitlines()[0].rstrip("."))}.' if module.doc else ''
    if chapter: lead += f' The chapter [{chapter.title}](../{chapter.name}.md) tells the story.'
    said = '\n'.join(f'- `{e.name}` {inline(first_line(e))}' for e in listed(module))
    entries = '\n'.join(write_entry(e) for e in listed(module))
    return f'# lstm_video_repr.{module.name}\n\n{lead}\n\n```{{py:module}} lstm_video_repr.{module.name}\n```\n\n' \
           f':::{{container}} names\n\n{said}\n:::\n\n{entries}'


def listed(module): return [module.entries[n] for n in module.public if n in module.entries]


def first_line(entry):
    line = entry.doc.strip().split('\n\n')[0].replace('\n', ' ')
    return re.split(r'(?<=[.;:])\s', line)[0].rstrip(';:') if line else ''


def write_index(modules: list, exported: set) -> str:
    "The first page of the reference: all modules, and every name that `lstm_video_repr.all` brings."
    lines = ['# Reference', '', 'Every public name: what it takes, what it gives, its source, and where the tutorials '
             'and chapters use it.', '', 'What comes with `from lstm_video_repr.all import *` stands first; what is '
             'imported from its module follows in a line of its own.', '']
    for m in modules:
        names = [[f'`{e.name}`' for e in listed(m) if (e.name in exported) == common] for common in (True, False)]
        lists = [f'{say}{" ".join(n)}\n' for say, n in zip(('', f'from `{m.name}`: '), names) if n]
        lines += [f'## {m.name}', '', f'[{m.name}]({m.name}.md): {inline(m.doc.splitlines()[0]) if m.doc else ""}', '',
                  ':::{container} names', *lists, ':::', '']
    hidden = '\n'.join(f'{m.name} <{m.name}>' for m in modules)
    return '\n'.join(lines) + f'\n```{{toctree}}\n:hidden:\n\n{hidden}\n```\n'


def exported_names(path: Path) -> set:
    "What `lstm_video_repr.all` imports, read from its source."
    text = path.read_text(encoding='utf8')
    names = {a.asname or a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom) for a in n.names}
    strings = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return names | {word for s in strings for word in s.split()}

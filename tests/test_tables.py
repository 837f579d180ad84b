"Tables: the same cells in each of the three forms, whatever they hold."
import html.parser
import re

import pytest

from lstm_video_repr.core.tables import Table, Tabular

CELLS = ['', 'a|b', '<b>&amp;"', '  ', '12.5', '*x*', 'a\\|b', "it's"]


class Reader(html.parser.HTMLParser):
    "The cells of a table as a browser sees them."
    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th'): self.rows[-1].append(''); self.inside = True
        assert tag in ('table', 'thead', 'tbody', 'tr', 'td', 'th', 'p', 'strong', 'div', 'small', 'br')

    def handle_endtag(self, tag): self.inside = self.inside and tag not in ('td', 'th')

    def handle_data(self, data):
        if self.inside: self.rows[-1][-1] += data


def test_html_shows_what_was_put_in():
    table = Table(CELLS, [CELLS, CELLS[::-1]], title='<i>')
    assert Reader(table.html()).rows == [CELLS, CELLS, CELLS[::-1]]


def test_markdown_keeps_its_columns():
    lines = Table(CELLS, [CELLS]).markdown().splitlines()
    assert [len(re.split(r'(?<!\\)\|', line)) - 2 for line in lines] == [len(CELLS)] * 3


def test_text_stands_in_columns():
    "Each column begins and ends where it does in every other line."
    table = Table(['name', 'n', 'note'], [['a', 1, 'x'], ['longer', 12345, 'yy']], align='lrl')
    lines = table.text().splitlines()
    assert lines[1] == '-' * 19
    assert [line[8:13] for line in lines if line[0] != '-'] == ['    n', '    1', '12345']
    assert str(table) == repr(table) == table.text()


@pytest.mark.parametrize('rows, align', [([[1]], ''), ([[1, 2, 3]], ''), ([], 'lrr')])
def test_rows_fit_the_head(rows, align):
    with pytest.raises(ValueError, match='expected one for each of'): Table(['a', 'b'], rows, align=align)


def test_tables_with_notes():
    class Result(Tabular):
        def tables(self): return [Table(['a'], [[1]]), Table(['b'], [[2]], title='Two')]
        def notes(self): return ['<first>', 'second']
    result = Result()
    assert str(result).endswith('\n\n<first>\nsecond') and 'Two\nb\n-\n2' in str(result)
    html = result._repr_html_()
    assert Reader(html).rows == [['a'], ['1'], ['b'], ['2']] and '&lt;first&gt;<br>second' in html
    assert result._repr_markdown_().endswith('&lt;first>  \nsecond')


# ---- text is text

HOSTILE = ['<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '&lt;', '$x_$', '$$y$$', '\\(z\\)', '`a`',
           '**b**', '__c__', 'a_b', '~~d~~', '[e](javascript:f)', '![g](http://h.i/j.png)', '<http://k.l>', 'http://m.n',
           'www.o.p', 'q@r.s', 'a|b', 'a\\|b', '\\', '# t', '1. u', '- v', '> w', '===', '```']
OBEYED = {'\x1b[2J': r'\x1b[2J', '\x1b]0;title\x07': r'\x1b]0;title\x07', 'a\rb': r'a\x0db',
          '\u202edcba': r'\u202edcba', '\x00': r'\x00', '\x9b1m': r'\x9b1m', '\ud800': r'\ud800',
          'a\r\nb\nc\td': 'a b c d', 'a\u2028b': r'a\u2028b'}


def rows(cells): return [cells[k:k + 2] for k in range(0, len(cells), 2)]


def test_what_a_terminal_would_obey_is_written_out():
    cells, shown = list(OBEYED), list(OBEYED.values())
    table = Table(cells, [cells[::-1]], title=cells[0])
    assert (table.head, table.rows, table.title) == (shown, [shown[::-1]], shown[0])

    class Result(Tabular):
        def notes(self): return cells
    for text in (str(Result()), Result()._repr_html_(), Result()._repr_markdown_()):
        assert all(c == '\n' or c.isprintable() for c in text)
    assert str(Result()).splitlines() == shown


def test_html_holds_no_live_tags():
    table = Table(['a', 'b'], rows(HOSTILE), title=HOSTILE[0])
    assert Reader(table.html()).rows[1:] == rows(HOSTILE)
    assert re.match('<div class="tex2jax_ignore mathjax_ignore">', table.html())     # and no formulas


def test_markdown_shows_what_was_put_in():
    "As the renderer of nbconvert reads it."
    render = pytest.importorskip('nbconvert.filters.markdown_mistune').markdown2html_mistune
    page = render(Table(['a', 'b'], rows(HOSTILE), title='*t* $x$').markdown())
    assert Reader(page).rows[1:] == rows(HOSTILE) and '<strong>*t* $x$</strong>' in html.unescape(page)
    for note in HOSTILE:
        class Result(Tabular):
            def notes(self): return [note]
        assert html.unescape(render(Result()._repr_markdown_())).strip() == f'<p>{note}</p>'


def test_a_novel_in_one_cell():
    "Other rows are not filled up to its length."
    text = Table(['a', 'b'], [['x' * 100_000, 1], *[['y', 2]] * 1000]).text()
    assert len(text) < 400_000 and text.splitlines()[-1] == 'y' + ' ' * 201 + '2'


@pytest.mark.parametrize('name, value', [('head', 'ab'), ('head', None), ('head', 3), ('rows', None), ('rows', 'ab'),
                                         ('rows', ['ab']), ('rows', {}), ('align', 'lx'), ('align', 3)])
def test_what_is_no_table(name, value):
    with pytest.raises(ValueError, match=name): Table(**dict(head=['a', 'b'], rows=[]) | {name: value})

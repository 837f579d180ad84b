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
    assert result._repr_markdown_().endswith('<first>  \nsecond')

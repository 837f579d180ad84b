"The site: built once from the stored notebooks, then walked through in a real browser that is offline."
import ast
import io
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip('sphinx', reason='needs Sphinx')
pytest.importorskip('furo', reason='needs furo')
sys.path.insert(0, str(ROOT/'docs'))

import make_site    # noqa: E402
import figures      # noqa: E402
import notebooks    # noqa: E402
import reference    # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:.*myst_parser')
BAD = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
MOST = 2 * 2**20    # bytes of a page with its pictures, styles and scripts


def bad_notebook(path):
    "A notebook with markup wherever data could have brought some."
    table = '<table><tr><td onclick="window.hacked=1">kept</td></tr></table>' + BAD
    table += '<a href="javascript:window.hacked=1">x</a>'
    def out(**data):
        data = {kind.replace('_', '/'): value for kind, value in data.items()}
        return dict(output_type='display_data', metadata={}, data=data)
    picture = out(image_png=pixel())
    outputs = [dict(output_type='stream', name='stdout', text=BAD), out(text_html=table), picture,
               out(text_markdown=f'{BAD} **strong** [a](javascript:window.hacked=1)'), out(text_plain=BAD)]
    cells = [dict(cell_type='markdown', id='a1', metadata={}, source=f'# A {BAD} title\n\n> and {BAD} subtitle'),
             dict(cell_type='markdown', id='a2', metadata={}, source=f'Words {BAD}, `{BAD}`:'),
             dict(cell_type='code', id='a3', metadata={}, source=f'"{BAD}"', outputs=outputs, execution_count=None)]
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)), encoding='utf8')


def pixel():
    import base64
    file = io.BytesIO()
    Image.new('RGB', (8, 8), 'red').save(file, 'png')
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A copy of what the site is made from, with one notebook more, full of markup."
    root = tmp_path_factory.mktemp('site')/'root'
    shutil.copytree(ROOT/'nbs', root/'nbs', ignore=shutil.ignore_patterns('.*', '_*'))
    for name in ('settings.ini', 'CHANGELOG.md'): shutil.copyfile(ROOT/name, root/name)
    (root/'lstm_video_repr').symlink_to(ROOT/'lstm_video_repr')
    bad_notebook(root/'nbs'/'tutorials'/'zz_markup.ipynb')
    return root


@pytest.fixture(scope='module')
def site(root):
    "The whole site."
    out = root.parent/'out'
    assert make_site.build(root=root, out=out, work=root.parent/'work', quiet=True) == 0
    return out


def test_nothing_to_warn_of(root, site):
    "Links between notebooks lead somewhere, formulas and code can be read."
    assert root.parent.joinpath('work', 'warnings.txt').read_text(encoding='utf8').splitlines() == []


class Reader(HTMLParser):
    "What tests want to know of a page."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.files, self.images, self.handlers, self.titles = set(), [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag == 'a' and 'href' in a: self.links.append(a['href'])
        file = a.get('src') or a.get('srcset')
        if tag in ('img', 'script', 'source') and file: self.files.append(file)
        if tag == 'link' and a.get('rel') in ('stylesheet', 'icon'): self.files.append(a['href'])
        self.titles += tag == 'h1'
        if tag == 'img': self.images.append(a)
        self.handlers += [k for k in a if k.startswith('on')]


@pytest.fixture(scope='module')
def pages(site):
    "Every page by its path below the site."
    found = sorted(p for p in site.rglob('*.html') if '_static' not in p.parts)
    return {p.relative_to(site).as_posix(): Reader(p.read_text(encoding='utf8')) for p in found}


def test_every_notebook_has_a_page_and_can_be_downloaded(root, site, pages):
    names = [p.relative_to(root/'nbs').with_suffix('').as_posix() for p in (root/'nbs').rglob('*.ipynb')]
    assert len(names) > 25
    for name in names:
        assert f'{name}.html' in pages, name
        assert (site/'notebooks'/f'{name}.ipynb').read_bytes() == (root/'nbs'/f'{name}.ipynb').read_bytes()
    offered = [link for link in pages['00_lstm.html'].links if link.endswith('.ipynb')]
    assert offered == ['notebooks/00_lstm.ipynb']


def test_every_page_has_one_title(pages):
    assert {name: page.titles for name, page in pages.items() if page.titles != 1 and name != 'search.html'} == {}


def test_every_public_name_has_an_entry(pages):
    missing = []
    for path in (ROOT/'lstm_video_repr').rglob('*.py'):
        module = '.'.join(path.relative_to(ROOT/'lstm_video_repr').with_suffix('').parts)
        if module.split('.')[-1][0] == '_' or module == 'all': continue
        public = next(ast.literal_eval(n.value) for n in ast.parse(path.read_text(encoding='utf8')).body
                      if isinstance(n, ast.Assign) and n.targets[0].id == '__all__')
        ids = pages[f'api/{module}.html'].ids
        missing += [f'{module}.{n}' for n in public if f'lstm_video_repr.{module}.{n}' not in ids]
    assert missing == []


def test_links_and_anchors_exist(site, pages):
    broken = []
    for name, page in pages.items():
        for link in {*page.links, *page.files}:
            parts = urlsplit(link)
            if parts.scheme in ('http', 'https', 'mailto', 'data'): continue
            path = ((site/name).parent/unquote(parts.path)).resolve() if parts.path else site/name
            key = path.relative_to(site.resolve()).as_posix() if path != site/name else name
            if not path.is_file(): broken.append(f'{name}: {link}')
            elif parts.fragment and key in pages and unquote(parts.fragment) not in pages[key].ids:
                broken.append(f'{name}: {link}')
    assert broken == []


def test_nothing_comes_from_elsewhere(site, pages):
    files = {f for page in pages.values() for f in page.files}
    assert [f for f in files if urlsplit(f).scheme not in ('', 'data')] == []
    styles = {p.name: p.read_text(encoding='utf8') for p in (site/'_static').rglob('*.css')}
    assert [k for k, text in styles.items() if 'url(http' in text or 'url("http' in text or '@import' in text] == []


def test_pictures_have_words(pages):
    bare = [(name, i.get('src')) for name, page in pages.items() for i in page.images
            if not (i.get('alt') or '').strip() and not (name == 'index.html' and i.get('width') == '480')]
    assert bare == []       # thumbnails beside their titles say nothing more
    signs = [(name, i['alt']) for name, page in pages.items() for i in page.images
             if set('\\$`{') & set(i.get('alt', ''))]
    assert signs == []      # formulas are words there


def test_pages_are_light(site, pages):
    heavy = {}
    for name, page in pages.items():
        parts = {((site/name).parent/urlsplit(f).path).resolve() for f in page.files if not urlsplit(f).scheme}
        size = (site/name).stat().st_size + sum(p.stat().st_size for p in parts)
        if size > MOST: heavy[name] = f'{size / 2**20:.2f} MB'
    assert heavy == {}


def test_nobody_points_at_a_placeholder(root, site, pages):
    "A copy that is no clone names no repository."
    address = (root/'settings.ini').read_text(encoding='utf8').split('git_url = ')[1].split()[0]
    assert [name for name, page in pages.items() if any(link.startswith(address) for link in page.links)] == []


def test_a_clone_names_its_repository(tmp_path):
    def git(*words): subprocess.run(['git', *words], cwd=tmp_path, check=True, capture_output=True)
    if not shutil.which('git'): pytest.skip('needs git')
    git('init')
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nbranch = main\ngit_url = https://example.org/us/it\n')
    assert make_site.repository(tmp_path) == ''
    git('remote', 'add', 'origin', 'git@example.org:us/it.git')
    assert make_site.repository(tmp_path) == 'https://example.org/us/it/blob/main/nbs'


def test_markup_in_data_is_text(site, pages):
    page, text = pages['tutorials/zz_markup.html'], (site/'tutorials'/'zz_markup.html').read_text(encoding='utf8')
    assert page.handlers == [] and 'javascript:' not in ' '.join(page.links)
    assert '<script>window' not in text and 'kept' in text and '<strong>strong</strong>' in text
    assert text.count('&lt;script&gt;') >= 5
    front = (site/'index.html').read_text(encoding='utf8')
    assert '<script>window' not in front


# ---- in a browser

@pytest.fixture(scope='module')
def tab(browser, site):
    "A page that tells what went wrong in it; offline, opened from the disk."
    context = browser.new_context(offline=True, viewport=dict(width=1280, height=900))
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.troubles = []
    local = 'file:', 'data:', 'blob:'
    page.on('request', lambda r: None if r.url.startswith(local) else page.troubles.append(f'request: {r.url}'))
    page.on('requestfailed', lambda r: 'ABORTED' in r.failure or page.troubles.append(f'failed: {r.url}'))
    page.on('console', lambda m: page.troubles.append(f'console: {m.text}') if m.type == 'error' else None)
    page.on('pageerror', lambda e: page.troubles.append(f'error: {e}'))
    yield page
    context.close()


def look(page, path, width=1280, height=900, scheme='light'):
    page.set_viewport_size(dict(width=width, height=height))
    page.emulate_media(color_scheme=scheme)
    if page.url != path.as_uri(): page.goto(path.as_uri())


def sticks_out(tab):
    "By how many pixels a page is too wide; the drawers beside it take a moment to close."
    wide = 'document.documentElement.scrollWidth - document.documentElement.clientWidth'
    for _ in range(20):
        pixels = tab.evaluate(wide)
        if pixels <= 0: return 0
        tab.wait_for_timeout(100)
    return pixels


@pytest.mark.browser
def test_every_page_opens(tab, site, pages):
    "No errors, no requests, nothing sticks out, on a screen and on a phone; widgets answer to a key."
    found = []
    for name in pages:
        tab.troubles.clear()
        look(tab, site/name)
        wide, live = sticks_out(tab), list(answers(tab))
        look(tab, site/name, 375, 800, 'dark')
        small = sticks_out(tab)
        if tab.evaluate('window.hacked'): found.append((name, 'ran what was data'))
        if wide or small: found.append((name, f'sticks out by {wide} and {small} pixels'))
        found += [(name, t) for t in [*tab.troubles, *live]]
    assert found == []


def answers(tab):
    "What is wrong with the widgets of a page."
    hosts = tab.locator('.lvr-host')
    for k in range(hosts.count()):
        try: tab.wait_for_function('k => document.querySelectorAll(".lvr-host")[k].model', arg=k, timeout=10_000)
        except Exception: yield f'widget {k} did not start'; continue
        state = 'k => (m => [m.get("index"), m.get("unit")])(document.querySelectorAll(".lvr-host")[k].model)'
        before = tab.evaluate(state, k)
        hosts.nth(k).locator('.lvr-slider').first.focus()
        tab.keyboard.press('Home')
        start = tab.evaluate(state, k)
        tab.keyboard.press('ArrowRight')
        if tab.evaluate(state, k) in (start, None) or before is None: yield f'widget {k} does not answer'


@pytest.mark.browser
@pytest.mark.parametrize('name', ['index', 'tutorials/1_first_predictions', '00_lstm', 'api/models'])
def test_light_and_dark_show_something(tab, site, name):
    shots = {}
    for scheme in ('light', 'dark'):
        look(tab, site/f'{name}.html', scheme=scheme)
        shots[scheme] = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert('L'), float)
        assert shots[scheme].std() > 12 and len(np.unique(shots[scheme])) > 30
    assert shots['light'].mean() > 150 and shots['dark'].mean() < 110


FIRST = {'PeepholeLSTM': ('api/lstm.html#lstm_video_repr.lstm.PeepholeLSTM', 'P'),
         'my_array': ('index.html#in-python', 'CODE'),
         'conditional': ('tutorials/glossary.html#conditional-decoder', 'P'), 'install': ('index.html', 'P')}


@pytest.mark.browser
def test_the_search_finds_names_and_shows_where(tab, site):
    "By keyboard alone, from the disk; of words a sentence, of code its line, of markup nothing."
    tab.troubles.clear()
    look(tab, site/'index.html')
    tab.keyboard.press('/')
    tab.keyboard.type('PeepholeLSTM')
    tab.keyboard.press('Enter')
    tab.wait_for_url('**/search.html?q=PeepholeLSTM*')
    for query, (address, kind) in FIRST.items():
        tab.locator('#query').fill(query)
        link, says = tab.locator('#search-results a').first, tab.locator('#search-results li > :last-child').first
        assert link.get_attribute('href').startswith(address), query
        assert says.evaluate('node => node.tagName') == kind and not set('\\$`{}') & set(says.inner_text()), query
    for words in (BAD, 'how to train on my own array', 'license'):
        tab.locator('#query').fill(words)
        assert tab.locator('#search-results li').count() > 0
    assert tab.locator('#search-results img').count() == 0 and not tab.evaluate('window.hacked')
    assert tab.troubles == []


EVERYDAY = ['mp4', 'predict', 'save', 'video', 'train on my own data']
NAMES = {'train': 'training', 'evaluate': 'metrics', 'Video': 'videos', 'VideoLSTM.autoencoder': 'models'}


@pytest.mark.browser
def test_the_search_knows_words_from_names(tab, site):
    "For everyday words what teaches comes first, for public names their entries; arrows lead into what was found."
    look(tab, site/'search.html')
    def first(query):
        tab.locator('#query').fill(query)
        return tab.locator('#search-results a').first.get_attribute('href')
    assert [q for q in EVERYDAY if not first(q).startswith(('tutorials/', 'index.html'))] == []
    names = {q: f'api/{module}.html#lstm_video_repr.{module}.{q}' for q, module in NAMES.items()}
    assert {q: first(q) for q in NAMES} == names
    tab.locator('#query').focus()
    tab.keyboard.press('ArrowDown')
    assert tab.evaluate('document.activeElement === document.querySelector("#search-results a")')
    tab.keyboard.press('ArrowUp')
    assert tab.evaluate('document.activeElement.id') == 'query'


@pytest.mark.browser
def test_code_is_whole(tab, site):
    "At 1280 pixels 120 characters fit on a line; on a phone they wrap."
    look(tab, site/'05_metrics.html')
    cut = '''keep => [...document.querySelectorAll('.highlight pre')].filter(pre => {
        if (keep && pre.textContent.split('\\n').some(line => line.length > 120)) return false;
        pre.style.whiteSpace = keep ? 'pre' : '';
        return pre.scrollWidth > pre.clientWidth; }).length'''
    assert tab.evaluate(cut, True) == 0
    look(tab, site/'05_metrics.html', 375, 800)
    assert tab.evaluate(cut, True) > 20 and tab.evaluate(cut, False) == 0


@pytest.mark.browser
def test_a_page_jumps_and_shows_where_the_keyboard_is(tab, site):
    look(tab, site/'00_lstm.html')
    assert tab.evaluate('getComputedStyle(document.documentElement).scrollBehavior') == 'auto'
    tab.locator('.sidebar-search').focus()
    assert tab.evaluate('getComputedStyle(document.querySelector(".sidebar-search")).outlineStyle') == 'solid'


@pytest.mark.browser
def test_the_front_page_leads_to_what_most_come_for(tab, site):
    look(tab, site/'index.html')
    tab.evaluate('scrollTo(0, 0)')
    links = tab.locator('.shortcuts a').all()
    said = [a.inner_text() for a in links]
    assert said == ['Install', 'Predict', 'Train on your own array', 'What conditional means']
    assert max(a.bounding_box()['y'] for a in links) < 900      # on the first screen, beside the stepper


@pytest.mark.browser
def test_figures_can_be_read_in_the_dark_and_on_a_phone(tab, site):
    "Charts change light and dark with the page; wide ones scroll in their own box, and lead to themselves."
    look(tab, site/'tutorials'/'3_design_choices.html', 375, 800, 'dark')
    wide = tab.locator('.output a.wide > img.chart').first
    shown, real = wide.evaluate('i => [i.getBoundingClientRect().width, i.width && i.getAttribute("width")]')
    assert shown >= .6 * int(real) > 375 * .6
    assert tab.evaluate("getComputedStyle(document.querySelector('.output img.chart')).filter").startswith('invert')
    look(tab, site/'tutorials'/'3_design_choices.html')
    assert tab.evaluate("getComputedStyle(document.querySelector('.output img.chart')).filter") == 'none'


@pytest.mark.browser
def test_pictures_follow_the_theme_that_was_chosen(tab, site):
    look(tab, site/'09_pictures.html')
    def media(theme): return tab.evaluate('''theme => new Promise(done => {
        document.body.dataset.theme = theme;
        setTimeout(() => done(document.querySelector('picture source').media)); })''', theme)
    assert media('dark') == 'all' and media('light') == 'not all' and 'dark' in media('auto')


@pytest.mark.browser
def test_a_keyboard_reaches_content_and_neighbours(tab, site):
    look(tab, site/'tutorials'/'1_first_predictions.html')
    tab.keyboard.press('Tab')
    assert tab.evaluate('document.activeElement.textContent.trim()') == 'Skip to content'
    follow = tab.locator('.next-page').get_attribute('href')
    back = tab.locator('.prev-page').get_attribute('href')
    assert follow == '../00_lstm.html' and back == '../playground.html'


# ---- the parts

def test_order_of_reading():
    names = ['index', 'tutorials/2_b', 'tutorials/1_a', '00_lstm', '04_models', '05_metrics', 'core/00_patch',
             'tutorials/glossary', 'tutorials/new', 'playground']
    order = make_site.reading_order(names)
    assert order['path'] == ['tutorials/1_a', '00_lstm', 'tutorials/2_b', '04_models']
    assert order['play'] == ['playground']
    assert order['beside'] == ['tutorials/glossary', 'tutorials/new']
    assert order['chapters'] == ['00_lstm', '04_models', '05_metrics', 'core/00_patch']
    line = make_site.straight(order | dict(api=['api/lstm']))
    assert line == ['index', 'playground', *order['path'], *order['beside'], '05_metrics', 'core/00_patch', 'api/index',
                    'api/lstm', 'changes']


def test_clean_html_keeps_tables_and_drops_what_runs():
    text = '<table style="text-align:left;background:url(x)"><tr><th colspan=2>a &lt; b</th></tr></table>'
    kept = '<table style="text-align:left"><tr><th colspan="2">a &lt; b</th></tr></table>'
    assert notebooks.clean_html(text + '<iframe src=x></iframe>') == kept
    assert notebooks.clean_html('<style>x</style><b onmouseover=x>y</b><script>z') == '<b>y</b>'
    cells = '<table><tr><td class="a">2.5 ± 0.1</td><td>' + 9 * 'word ' + '</td><td><b>x</b></td></tr></table>'
    assert notebooks.clean_html(cells).count('data-short') == notebooks.clean_html(cells).count('data-long') == 1
    assert notebooks.clean_html('<img src="http://x/y.png">') == '<img alt="Figure">'


def test_words_for_figures():
    text = '# Title\n\nFirst. Here is **one** `x`, see [y](z.ipynb):'
    assert notebooks.last_words(text) == 'First. Here is one x, see y:'
    assert notebooks.plain(r'of $h_t = \tanh(W x_{t-1})$ and $\frac{a}{b}$, 5 $ or `my_$x`') == \
        'of h_t = tanh(W x_t-1) and a / b, 5 $ or my_$x'
    assert notebooks.last_words('Text.\n\n| a | b |\n|---|---|') == 'Text.'
    def cell(text, kind='markdown'): return dict(cell_type=kind, source=text, metadata={})
    nb = notebooks.Notebook(None, 'x', [cell('# T'), cell('Look:'), cell("show(x, title='Six classes')", 'code')])
    assert notebooks.figure_words(nb, 2, nb.cells[2], 'The *heading*') == 'Figure: Six classes. The heading. Look'
    assert notebooks.figure_words(nb, 2, cell('#| fig-alt: "A dog"\nx', 'code'), '') == 'A dog'
    assert notebooks.page_link('../05_metrics.ipynb#Nats-per-frame') == '../05_metrics.html#nats-per-frame'
    assert notebooks.page_link('https://a.b/C.ipynb#D') == 'https://a.b/C.ipynb#D'


def test_signatures_and_comments_are_read(tmp_path):
    code = '''"What it does"
__all__ = ['f', 'A', 'X']
X = 1, 2 # two numbers
def f(
    x: int, y, # words of y
    *args: str, # more
    z: float | None = None, # a [bound]
) -> int: # the sum
    "Adds *all* of (B, *frame)."
class A:
    "A thing."
    def __init__(self,
        size: int = 2, # how large
    ): pass
@patch(as_prop=True)
def area(self: A) -> int: "Its area."
@patch
def _hidden(self: A): "No."
'''
    (tmp_path/'m.py').write_text(code)
    module = reference.read_modules(tmp_path, [])[0]
    f, A = module.entries['f'], module.entries['A']
    assert [(a.name, a.kind, a.default, a.words) for a in f.arguments] == [
        ('x', 'int', '', ''), ('y', '', '', 'words of y'), ('*args', 'str', '', 'more'),
        ('z', 'float | None', 'None', 'a [bound]')]
    assert (f.returns.kind, f.returns.words) == ('int', 'the sum') and reference.signature(f) == '(x, y, *args, z=None)'
    assert [(a.name, a.words) for a in A.arguments] == [('size', 'how large')]
    assert [(m.name, m.kind) for m in A.methods] == [('A.area', 'property')]
    assert module.entries['X'].doc == 'two numbers'
    assert '| |' in reference.table(f) and '|' not in reference.table(A.methods[0])     # a line is enough for it
    assert reference.inline(f.doc) == r'Adds *all* of (B, \*frame).'
    assert reference.cell('a [bound] | b') == r'a \[bound\] \| b'


def test_cards_say_how_long_and_leave_out_the_line_below_widgets():
    def book(**cell): return notebooks.Notebook(None, 'x', [dict(dict(cell_type='markdown', source='# T'), **cell)])
    for said, time in {'forty-five minutes to *The stack*, which': 'forty-five minutes', 'half an hour.': 'half an hour',
                       'half an hour for the text': 'half an hour', 'an hour and a quarter, or': 'an hour and a quarter',
                       }.items():
        assert make_site.minutes(book(source=f'# T\n- **Time:** {said}')) == time
    from lstm_video_repr.widgets import FrameStepper
    widget = FrameStepper(dict(clip=np.random.default_rng(0).random((5, 1, 8, 8), np.float32)))
    data = widget._repr_mimebundle_()[0]
    card = make_site.best_picture(book(cell_type='code', outputs=[dict(data=data)]))
    alone = Image.open(io.BytesIO(widget.still_png()))
    assert card.size == alone.size and (np.asarray(card.convert('RGB')) == np.asarray(alone.convert('RGB'))).all()


def test_pictures_are_small_and_exact_where_that_is_cheap():
    side = np.zeros((64, 64, 3), np.uint8)
    side[10:20] = 255
    data = figures.encode(Image.fromarray(side))
    assert len(data) < 300 and (np.asarray(Image.open(io.BytesIO(data))) == side).all()
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    assert len(figures.encode(Image.fromarray(noise))) < noise.size / 2


def test_what_may_be_shown_with_light_and_dark_exchanged():
    chart = Image.new('RGB', (200, 100), 'white')
    chart.paste('black', (20, 50, 180, 52))
    strip = chart.copy()
    strip.paste('black', (0, 0, 100, 100))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8))
    assert [figures.is_chart(i) for i in (chart, strip, photo)] == [True, False, False]

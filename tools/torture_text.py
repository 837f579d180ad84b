"""Campaign `text`: hostile strings wherever text is shown. Right is that text stays text: what is made of it has the
same elements, rows and pictures as that of a harmless word, and no terminal obeys it."""
import io
import os
import re
import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path

import torch

from lstm_video_repr.core.checks import escape_controls
from lstm_video_repr.core.tables import Table
from lstm_video_repr.metrics import LastFrame, compare, evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import History
from lstm_video_repr.zoo import Card, load_model, save_model
from torture_common import Campaign, Verdict, attempt

SCRIPT = '<script>window.broken = 1</script>'
TEXTS = {
    'script': SCRIPT, 'end of script': '</script>' + SCRIPT, 'comment': '<!--<script>',
    'image': '<img src=x onerror="window.broken=1">', 'attribute': '" onmouseover="window.broken=1" x="',
    'quote': "' onload='window.broken=1' x='", 'entity': '&lt;b&gt; &amp;#60;', 'title': '</title><h1>x</h1>',
    'style': '</style><style>*{display:none}</style>', 'link': '[x](javascript:window.broken=1)',
    'markdown': '**a** | b | `c` \n| d |', 'bars': '|' * 50, 'formula': '$a_{b$', 'formulas': '$x_$ $$ \\frac{1}{0} \\',
    'dollars': '$' * 99, 'control': '\x1b[2J\x1b]0;x\x07\x08\x00\x7f', 'lines': 'a\r\nb\n\nc\u2028d\x0b\x0ce',
    'bidi': 'a\u202eb\u2066c\u200bd\ufeff', 'surrogate': 'a\ud800b', 'far planes': '\U0001f600\U00010348\uffff',
    'combining': 'a' + '\u0301' * 500, 'Arabic': 'مرحبا شالوم שלום', 'long': 'x' * 10**5, 'long words': 'ab ' * 10**4,
    'blank': ' ', 'empty': '', 'braces': '{0} {x!r} %s %(a)s ${x}', 'template': '{{x}} `${1}`',
    'JSON': '"}]}\\u003c\\', 'null': '\0', 'slashes': '../../x\\..\\y'}


def rand(*shape): return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# ---- where text is shown: functions of it; 'html', 'lines', 'cells' or 'figure' is what they make

def page(text):
    from lstm_video_repr.widgets import FrameStepper, save_page
    items = ['a ' + text, FrameStepper({text[:30] + 'a': rand(2, 1, 4, 4)}, title=text)]
    return Path(save_page('page.html', items, title=text)).read_text(encoding='utf8')


def widget(text):
    from lstm_video_repr.widgets import FrameStepper, widget_html
    return widget_html(FrameStepper({text + 'a': rand(2, 1, 4, 4)}, title=text))


def animation(text):
    from lstm_video_repr.pictures import animate
    return animate({text + 'a': rand(2, 1, 4, 4)}, title=text).html()


def picture(text):
    from lstm_video_repr.pictures import Row, show_strip
    rows = {text + 'a': Row(rand(3, 1, 4, 4), notes=(text, text)), text + 'b': rand(3, 1, 4, 4)}
    return show_strip(rows, past=1, title=text)


def grid(text):
    from lstm_video_repr.pictures import show_grid
    return show_grid(rand(2, 3, 1, 4, 4), 2, names=[text + 'a', text + 'b'], title=text)


def activity(text):
    from lstm_video_repr.activity import show_activity, unit_activity
    model = VideoLSTM.composite(hidden_size=4, frame_shape=(1, 4, 4))
    return show_activity(unit_activity(model, rand(1, 3, 1, 4, 4)), title=text)


def history(text): return History([dict(step=1, future=1.)], text).plot()


def table(text): return Table([text, 'b'], [[text, text], [1, 2]], title=text)


def card(text): return Card({'clips': 1, text + 'k': text, 'test': {text: {'a': text}}})


def scores(text): return compare({text + 'm': evaluate(LastFrame(), rand(2, 4, 1, 8, 8))})


PLACES = {
    'page': (page, 'html'), 'widget': (widget, 'html'), 'animation': (animation, 'html'),
    'picture': (picture, 'figure'), 'grid': (grid, 'figure'), 'activity': (activity, 'figure'),
    'history': (history, 'figure'),
    **{f'{f.__name__} in {kind}': (lambda t, f=f, m=method: getattr(f(t), m)(), kind) for f in (table, card, scores)
       for kind, method in (('html', '_repr_html_'), ('lines', '__str__'), ('cells', '_repr_markdown_'))}}


# ---- what of it can be compared

class Skeleton(HTMLParser):
    "Elements and the names of their attributes, without any text."
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs): self.found.append((tag, [k for k, _ in attrs]))
    def handle_endtag(self, tag): self.found.append(f'/{tag}')
    def handle_comment(self, data): self.found.append('comment')


def outline(
    made, # of a text
    kind: str, # 'html', 'lines', 'cells' or 'figure'
): # what must not depend on the text
    "The structure of what was made."
    if kind == 'figure':
        file = io.BytesIO()
        made.savefig(file, format='png')
        return len(file.getvalue()) > 100
    if kind == 'html': return Skeleton(made).found
    lines = [line for line in made.splitlines() if line]
    return [len(re.findall(r'(?<!\\)\|', line)) for line in lines if line[0] == '|'] if kind == 'cells' else len(lines)


def find_leak(
    made, # of a text
    kind: str,
) -> str: # what it would do; '' if nothing
    "Does something in it reach a terminal or a browser as more than text?"
    if kind != 'figure' and escape_controls(made) != made: return 'control characters'
    if kind in ('figure', 'lines'): return ''
    if '<script>window' in made or '<img src=x' in made or '<!--<script' in made: return 'an element'
    return 'an attribute' if re.search(r'<[^>]*"\s*onmouseover=|<[^>]*\'\s*onload=', made) else ''


# ---- the campaign

class Text(Campaign):
    "Every place that shows text, hostile strings."
    name = 'text'

    def start(self):
        torch.set_num_threads(1)
        self.usual = {place: outline(make('word'), kind) for place, (make, kind) in PLACES.items()}

    def make_cases(self):
        cases = [(place, text) for place in (*PLACES, 'file') for text in TEXTS]
        if self.size == 'large': return [*cases, ('browser', 'all')]
        costs = dict(figure=9, html=3) # of which one in so many is tried
        def cost(place): return costs.get(PLACES.get(place, (None, ''))[1], 1)
        return [(place, text) for k, (place, text) in enumerate(cases) if k % cost(place) == 0]


    def judge(self, case):
        place, name = case
        if place == 'browser': return judge_browser()
        if place == 'file': return judge_file(TEXTS[name])
        make, kind = PLACES[place]
        def accept(found):
            made, shape = found
            if leak := find_leak(made, kind): return Verdict('fault', f'leak: {leak}')
            same = shape == self.usual[place] or not TEXTS[name].strip() # where nothing is said a line may be left out
            return Verdict('harmless') if same else Verdict('fault', 'shape: other elements than of a word')
        def call():
            with warnings.catch_warnings():
                warnings.simplefilter('ignore') # letters that the font has not
                made = make(TEXTS[name])
                return made, outline(made, kind)
        return attempt(call, ['title', 'rows', 'notes', 'names', 'unit', 'items', 'card', 'text'], accept=accept)


def judge_file(text) -> Verdict:
    "A card comes back from a file as it was."
    def accept(found):
        return Verdict('harmless') if found == {text: text} else Verdict('fault', 'other: the card has changed')
    def call():
        model = VideoLSTM.composite(hidden_size=4, frame_shape=(1, 4, 4))
        return dict(load_model(save_model(model, 'card.safetensors', card={text: text})).card)
    return attempt(call, ['card'], accept=accept)


def judge_browser() -> Verdict:
    "One page with all texts in a real browser: nothing of them runs, and the widgets work."
    names = os.environ.get('LVR_BROWSER', ''), 'chromium', 'chromium-browser', 'google-chrome', 'chrome'
    found = next(filter(None, map(shutil.which, names)), None)
    try: from playwright.sync_api import sync_playwright
    except ImportError: found = None
    if found is None: return Verdict('refused', 'no browser here')
    from lstm_video_repr.widgets import FrameStepper, save_page
    def items_of(text): return 'a ' + text, FrameStepper({text + 'a': rand(2, 1, 4, 4)}, title=text)
    items = [item for text in TEXTS.values() for item in items_of(text)]
    path, errors = Path(save_page('all.html', items, title=SCRIPT)).resolve(), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=['--no-sandbox'])
        tab = browser.new_page()
        tab.on('pageerror', lambda e: errors.append(str(e)))
        tab.goto(path.as_uri())
        tab.get_by_role('slider').first.wait_for()
        broken, sliders = tab.evaluate('window.broken'), tab.get_by_role('slider').count()
        browser.close()
    if broken: return Verdict('fault', 'leak: a text ran in the browser')
    if errors: return Verdict('fault', f'error: {errors[0]}')
    if sliders == len(TEXTS): return Verdict('harmless')
    return Verdict('fault', f'shape: {sliders} of {len(TEXTS)} widgets')

"Frame stepper, feature browser, action timeline, playground and cell lab in a real browser, opened from the disk, and their Python halves."
import base64
import importlib.util
import io
import json
import os
import re
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from lstm_video_repr import widgets
from lstm_video_repr.activity import feature_images, strongest, unit_activity
from lstm_video_repr.core import files
from lstm_video_repr.clips import MovingDigits, random_paths
from lstm_video_repr.core.files import write_text
from lstm_video_repr.lstm import lstm_layer
from lstm_video_repr.models import VideoLSTM, VideoLSTMConfig
from lstm_video_repr.pictures import Row, animate, show_strip
from lstm_video_repr.widgets import (ActionTimeline, CellLab, FeatureBrowser, FrameStepper, Playground, save_page,
                                     widget_assets, widget_html, write_weights)
from lstm_video_repr.zoo import pack_weights, unpack_weights


def clip(frames, side=24, channels=1, seed=0):
    "A bright square that moves one pixel right with every frame, on a little noise."
    x = torch.rand(frames, channels, side, side, generator=torch.Generator().manual_seed(seed)) * .2
    for t in range(frames): x[t, :, 4:10, t % (side - 6):t % (side - 6) + 6] = 1
    return x


@pytest.fixture
def prediction():
    past, future = clip(10), clip(10, seed=1)
    return past, future, SimpleNamespace(recalled=past * .8, future=future * .6)


@pytest.fixture
def stepper(prediction): return FrameStepper(*prediction, index=3, title='A moving square')


@pytest.fixture
def visit(browser):
    "Open a file in a fresh tab; at the end, complain about requests that are not local, and errors in the console."
    contexts, troubles = [], []

    def visit(path, **options):
        context = browser.new_context(offline=True, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        local = 'file:', 'data:', 'blob:'
        page.on('request', lambda r: None if r.url.startswith(local) else troubles.append(f'request: {r.url}'))
        page.on('console', lambda m: troubles.append(f'console: {m.text}') if m.type == 'error' else None)
        page.on('pageerror', lambda e: troubles.append(f'error: {e}'))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector('.lvr-film', state='attached')
        return page

    yield visit
    for context in contexts: context.close()
    assert not troubles


PIXELS = 'c => Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data)'


def index(page, k=0): return page.evaluate('k => document.querySelectorAll(".lvr-host")[k].model.get("index")', k)


def pixels(page, k=0):
    "The RGBA values of the k-th large canvas, as the page has them."
    return page.evaluate(f'k => ({PIXELS})(document.querySelectorAll(".lvr-frame")[k])', k)


def bare_page(folder, html, style=''):
    "A page with nothing of its own but the widgets."
    body = f'<body style="{style}">{html}{widget_assets()}'
    return write_text(folder / 'bare.html', f'<!DOCTYPE html><meta charset="utf-8">{body}')


def expected(frame):
    "What the canvas should hold for a frame of `(1, S, S)`."
    return (frame[0] * 255).round().byte().flatten().tolist()


@pytest.mark.browser
def test_keys_step_and_the_pixels_are_the_frames(visit, stepper, prediction, tmp_path):
    page = visit(stepper.to_html(tmp_path / 'a.html'))
    past, future, out = prediction
    assert index(page) == 3 and pixels(page)[::4] == expected(past[3])
    slider = page.get_by_role('slider', name='Frame')
    slider.focus()
    page.keyboard.press('ArrowRight')
    assert index(page) == 4 and slider.input_value() == '4'
    assert slider.get_attribute('aria-valuetext') == 'frame 5, the last is 20, past'
    assert pixels(page, 0)[::4] == expected(past[4]) and pixels(page, 1)[::4] == expected(past[4] * .8)
    page.keyboard.press('End')
    assert index(page) == 19 and slider.get_attribute('aria-valuetext') == 'frame 20, the last is 20, future'
    assert pixels(page, 0)[::4] == expected(future[9]) and pixels(page, 1)[::4] == expected(future[9] * .6)
    page.keyboard.press('ArrowRight')
    assert index(page) == 19
    page.keyboard.press('ArrowLeft')
    assert index(page) == 18
    page.keyboard.press('Home')
    assert index(page) == 0


@pytest.mark.browser
def test_names_for_screen_readers(visit, stepper, tmp_path):
    page = visit(stepper.to_html(tmp_path / 'a.html', note='What a screen reader hears.'))
    assert page.get_by_role('group', name='A moving square').count() == 1
    assert page.get_by_role('img', name='input, frame 4').count() == 1
    assert page.get_by_role('img', name='reconstruction, frame 4').count() == 1
    page.get_by_role('slider').focus()
    page.keyboard.press('End')
    assert page.get_by_role('img', name='prediction, frame 20').count() == 1
    assert page.get_by_role('button', name='Play').count() == 1
    assert page.get_by_role('combobox', name='Speed').count() == 1
    assert page.get_by_text('What a screen reader hears.').is_visible()


@pytest.mark.browser
def test_play_moves_on_and_space_stops(visit, stepper, tmp_path):
    page = visit(stepper.to_html(tmp_path / 'a.html'))
    page.get_by_label('Speed').select_option('4')
    page.get_by_role('button', name='Play').click()
    page.wait_for_function('document.querySelector(".lvr-host").model.get("index") > 5')
    page.get_by_role('button', name='Pause').click()
    stopped = index(page)
    page.wait_for_timeout(300)
    assert index(page) == stopped
    page.get_by_role('slider').focus()
    page.keyboard.press('Space')
    page.wait_for_function('k => document.querySelector(".lvr-host").model.get("index") != k', arg=stopped)
    page.keyboard.press('Space')
    assert page.get_by_role('button', name='Play').count() == 1


@pytest.mark.browser
def test_the_button_answers_to_the_space_bar_once(visit, stepper, tmp_path):
    page = visit(stepper.to_html(tmp_path / 'a.html'))
    page.get_by_role('button', name='Play').focus()
    page.keyboard.press('Space')
    assert page.get_by_role('button', name='Pause').count() == 1
    page.wait_for_function('document.querySelector(".lvr-host").model.get("index") != 3')


@pytest.mark.browser
def test_dragging_the_slider_and_the_film(visit, stepper, tmp_path):
    page = visit(stepper.to_html(tmp_path / 'a.html'))
    for name, places in (('.lvr-slider', (.05, .97)), ('.lvr-track', (.02, .98))):
        box = page.locator(name).bounding_box()
        x, y = lambda f: box['x'] + f * box['width'], box['y'] + box['height'] / 2
        page.mouse.move(x(places[0]), y)
        page.mouse.down()
        assert index(page) <= 1
        page.mouse.move(x(.5), y, steps=4)
        assert 8 <= index(page) <= 11
        page.mouse.move(x(places[1]), y, steps=4)
        page.mouse.up()
        assert index(page) == 19
    page.keyboard.press('ArrowLeft')
    assert index(page) == 18


def contrast(page, selector):
    "Contrast of a text against what lies behind it, as WCAG counts it."
    text, back = page.evaluate('''selector => {
        const node = document.querySelector(selector);
        let behind = node;
        while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
        return [getComputedStyle(node).color, getComputedStyle(behind).backgroundColor];
    }''', selector)
    def light(color):
        values = [int(v) / 255 for v in re.findall(r'\d+', color)[:3]]
        r, g, b = (c / 12.92 if c <= .03928 else ((c + .055) / 1.055) ** 2.4 for c in values)
        return .2126 * r + .7152 * g + .0722 * b
    a, b = sorted((light(text), light(back)))
    return (b + .05) / (a + .05)


@pytest.mark.browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_is_readable_in_light_and_dark(visit, stepper, tmp_path, scheme):
    page = visit(stepper.to_html(tmp_path / 'a.html', title='A page', note='A note.'), color_scheme=scheme)
    for selector in ('h1', 'p', '.lvr-title', '.lvr-name', '.lvr-note', '.lvr-status', '.lvr-button', '.lvr-speed',
                     '.lvr-rows span'):
        assert contrast(page, selector) >= 4.5, selector
    page.evaluate('document.querySelector(".lvr-slider").focus()')
    assert page.evaluate('getComputedStyle(document.querySelector(".lvr-past")).backgroundColor') != page.evaluate(
        'getComputedStyle(document.querySelector(".lvr-future")).backgroundColor')


@pytest.mark.browser
def test_a_site_theme_wins(visit, stepper, tmp_path):
    theme = '--color-foreground-primary: rgb(1, 2, 3); --jp-ui-font-color1: rgb(9, 9, 9)'
    path = bare_page(tmp_path, widget_html(stepper), style=theme)
    page = visit(path, color_scheme='dark')
    assert page.evaluate('getComputedStyle(document.querySelector(".lvr")).color') == 'rgb(1, 2, 3)'


@pytest.mark.browser
def test_a_white_page_keeps_dark_text(visit, stepper, tmp_path):
    "A page that knows of no dark colours stays white on a dark desktop, and so the widget's text stays dark."
    path = bare_page(tmp_path, widget_html(stepper))
    page = visit(path, color_scheme='dark')
    assert page.evaluate('getComputedStyle(document.querySelector(".lvr")).color') == 'rgb(34, 38, 43)'


@pytest.mark.browser
@pytest.mark.parametrize('rows', [2, 4])
def test_a_phone_is_wide_enough(visit, stepper, tmp_path, rows):
    if rows == 4: stepper = FrameStepper({f'a long name for row {k}': clip(20) for k in range(4)}, past=10)
    path = stepper.to_html(tmp_path / 'a.html', title='A rather long title of a page on a small phone')
    page = visit(path, viewport=dict(width=375, height=720), has_touch=True, is_mobile=True)
    assert page.evaluate('document.documentElement.scrollWidth') <= 375
    boxes = [page.locator('.lvr-panel').nth(k).bounding_box() for k in range(2)]
    assert boxes[0]['y'] == boxes[1]['y'] and all(b['width'] > 130 for b in boxes)
    assert page.locator('.lvr-button').bounding_box()['height'] >= 32
    page.locator('.lvr-track').tap(position=dict(x=2, y=5))
    assert index(page) == 0


@pytest.mark.browser
def test_several_steppers_do_not_disturb_each_other(visit, stepper, tmp_path):
    other = FrameStepper({'colour': clip(6, channels=3), 'late': Row(clip(3), first=4)}, past=3)
    gif = tmp_path / 'movie.gif'
    gif.write_bytes(animate(clip(4), scale=1).data)
    items = ['<h2>One</h2>', stepper, 'Two', other, show_strip(clip(5)), gif, animate(clip(3), scale=1)]
    page = visit(save_page(tmp_path / 'deep' / 'all.html', items, title='a < b'))
    there = {name: page.locator(name).count() for name in ('.lvr', 'main > img', 'main > picture')}
    assert page.title() == 'a < b' and there == {'.lvr': 2, 'main > img': 2, 'main > picture': 1}
    page.get_by_role('slider').nth(1).focus()
    page.keyboard.press('ArrowRight')
    assert (index(page, 0), index(page, 1)) == (3, 1)
    assert page.get_by_role('img', name='late has no frame 2').count() == 1
    page.keyboard.press('End')
    assert page.get_by_role('img', name='late, frame 6').count() == 1


def open_quietly(browser, path, **options):
    "A page on which something may go wrong, and its context."
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    return page, context


def forbid(path, rule):
    "The same page under a content security policy."
    head = f'<meta http-equiv="Content-Security-Policy" content="{rule}">'
    path.write_text(path.read_text(encoding='utf8').replace('<head>', f'<head>{head}'), encoding='utf8')
    return path


@pytest.mark.browser
@pytest.mark.parametrize('scripts', ['switched off', 'forbidden'])
def test_without_scripts_there_is_a_film_strip(browser, stepper, tmp_path, scripts):
    path = stepper.to_html(tmp_path / 'a.html', note='A note.')
    if scripts == 'forbidden': forbid(path, "default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    page, context = open_quietly(browser, path, java_script_enabled=scripts == 'forbidden')
    image, words = page.get_by_role('img', name='Film strip: A moving square'), page.get_by_text('This is a picture.')
    assert image.is_visible() and image.bounding_box()['height'] > 40 and page.get_by_text('A note.').is_visible()
    words.wait_for(state='visible')
    assert words.bounding_box()['y'] > image.bounding_box()['y'] and page.locator('.lvr').count() == 0
    context.close()


@pytest.mark.browser
def test_a_page_that_allows_only_scripts_of_its_own_is_alive(visit, stepper, units, tmp_path):
    "No eval, no blob, no data, no import: what such a policy forbids is not needed."
    path = save_page(tmp_path / 'a.html', [stepper, units[0]])
    page = visit(forbid(path, "script-src 'self' 'unsafe-inline'"))
    page.locator('.lvr-features').wait_for()
    assert page.locator('.lvr').count() == 2 and page.locator('.lvr-still').count() == 0


@pytest.mark.browser
def test_a_damaged_widget_does_not_stop_the_next(browser, prediction, tmp_path):
    path = save_page(tmp_path / 'a.html', [FrameStepper(prediction[0], title=f'Number {k}') for k in range(6)])
    text = path.read_text(encoding='utf8')
    hosts = text.split('<div class="lvr-host"')
    hurt = [hosts[1].replace('"rows": [', '"rows": ('), hosts[2].replace('"rows": [', '"wors": ['),
            hosts[3].replace('base64,iVBOR', 'base64,iVB0R', 1),
            hosts[4].replace('data-kind="stepper"', 'data-kind="none"'), re.sub(r'<script.*?</script>', '', hosts[5])]
    assert all(a != b for a, b in zip(hurt, hosts[1:]))
    path.write_text('<div class="lvr-host"'.join([hosts[0], *hurt, hosts[6]]), encoding='utf8')
    page, context = open_quietly(browser, path)
    page.get_by_role('group', name='Number 5').wait_for()
    page.wait_for_function('document.querySelectorAll(".lvr-failed").length == 5')
    for k in range(5): assert page.get_by_role('img', name=f'Film strip: Number {k}').is_visible()
    assert page.get_by_text('could not be started').count() == 5 and page.locator('.lvr').count() == 1
    context.close()


EVIL = '</script><script>window.ran = 1</script><!-- "\'&amp;\u2028<img src=x onerror="window.ran = 2">'


@pytest.mark.browser
def test_no_text_becomes_html(visit, tmp_path):
    shown = EVIL.replace('\u2028', ' ')
    evil = FrameStepper({EVIL: Row(clip(3), 1, (EVIL, EVIL)), 'b': clip(3)}, past=2, title=EVIL)
    saved = json.loads(json.dumps({k: v for k, v in evil.get_state().items() if k != 'layout'}))
    path = save_page(tmp_path / 'a.html', [f'a {EVIL}', '<i>HTML</i>', evil], title=EVIL)
    path.write_text(path.read_text(encoding='utf8').replace('</main>', widget_html(saved) + '</main>'), encoding='utf8')
    for page in visit(path), visit(evil.to_html(tmp_path / 'b.html', note=EVIL)):
        page.get_by_role('group', name=shown).first.wait_for()
        assert page.title() == shown and page.locator('h1').inner_text() == shown
        assert page.get_by_role('slider').count() == page.locator('.lvr-host').count()
        assert page.evaluate('window.ran') is None and page.locator('main img').count() == 0
        assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')


@pytest.mark.browser
def test_odd_values_do_not_break_a_page(visit, units, stepper, tmp_path):
    page = visit(save_page(tmp_path / 'a.html', [stepper, units[0]]))
    page.locator('.lvr-features').wait_for()
    for k, last in ((0, 19), (1, 19)):
        slider = page.get_by_role('slider', name='Frame').nth(k)
        values = {'NaN': 0, '-5': 0, '1e9': last, '"x"': 0, 'null': 0, '"7"': 7, '{}': 0, '2.4': 2}
        for value, shown in values.items():
            page.evaluate(f'document.querySelectorAll(".lvr-host")[{k}].model.set("index", {value})')
            assert slider.input_value() == str(shown), value
        slider.focus()
        page.keyboard.press('ArrowRight')
        assert index(page, k) == 3
    page.evaluate('document.querySelectorAll(".lvr-host")[1].model.set("unit", NaN)')
    assert page.get_by_role('slider', name='Unit').input_value() == '0'
    page.evaluate('document.querySelector(".lvr-host").model.set("fps", NaN)')
    page.get_by_role('button', name='Play').first.click()
    page.wait_for_function('document.querySelector(".lvr-host").model.get("index") > 3')
    assert page.evaluate('document.querySelector(".lvr-host").model.get("index") < 8')


@pytest.mark.browser
@pytest.mark.parametrize('frames', [1, 2, 110])
def test_any_number_of_frames(visit, tmp_path, frames):
    page = visit(FrameStepper(clip(frames)).to_html(tmp_path / 'a.html'))
    page.get_by_role('slider').focus()
    page.keyboard.press('End')
    assert index(page) == frames - 1 and pixels(page)[::4] == expected(clip(frames)[-1])


@pytest.mark.browser
def test_saved_state_brings_a_stepper_back(visit, stepper, tmp_path):
    saved = json.loads(json.dumps({k: v for k, v in stepper.get_state().items() if k != 'layout'}))
    page = visit(bare_page(tmp_path, widget_html(saved)))
    page.get_by_role('slider').focus()
    page.keyboard.press('ArrowRight')
    assert index(page) == 4


# The Python half

def test_index_reaches_the_other_half(stepper):
    assert stepper.get_state('index') == {'index': 3}
    stepper.index = 7
    assert stepper.get_state('index') == {'index': 7} and '"index": 7' in widget_html(stepper)
    heard = []
    stepper.observe(lambda change: heard.append(change['new']), 'index')
    stepper.set_state({'index': 9})
    assert stepper.index == 9 and heard == [9]


@pytest.mark.parametrize('k', [-1, 20])
def test_index_outside_the_clip(stepper, k):
    with pytest.raises(ValueError, match=f'index is {k}; expected a whole number from 0 to 19'): stepper.index = k
    assert stepper.index == 3


def test_equal_steppers_have_equal_ids_in_every_process(prediction):
    one, two = FrameStepper(*prediction, title='ids'), FrameStepper(*prediction, title='ids')
    assert one.model_id == two.model_id[:24] + '00000001' and two.model_id.endswith('2')
    assert FrameStepper(*prediction, title='other ids').model_id[:24] != one.model_id[:24]


def test_a_second_copy_of_the_module_never_takes_an_id_in_use():
    "As after a reload, or in the notebook that defines the classes: the end of one widget must not be that of another."
    spec = importlib.util.spec_from_file_location('lstm_video_repr.copy_of_widgets', widgets.__file__)
    spec.loader.exec_module(copy := importlib.util.module_from_spec(spec))
    ours, theirs = CellLab('count', title='copies'), copy.CellLab('count', title='copies')
    assert theirs.model_id[:24] == ours.model_id[:24] and theirs.model_id != ours.model_id
    assert theirs.layout.model_id != ours.layout.model_id
    ours.close()
    theirs.index = 3
    theirs.close()                                      # a KeyError where both had one id


def test_a_notebook_gets_a_picture_too(stepper):
    data, _ = stepper._repr_mimebundle_()
    assert data['application/vnd.jupyter.widget-view+json']['model_id'] == stepper.model_id
    assert data['text/plain'] == 'FrameStepper(clip, model: 20 frames)'
    image = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
    assert image.format == 'PNG' and image.width > image.height


@pytest.mark.browser
def test_output_of_a_real_model(visit, tmp_path):
    past, future = clip(10)[None], clip(10, seed=1)[None]
    out = VideoLSTM.composite(frame_shape=(1, 24, 24), hidden_size=8)(past, future_frames=15)
    stepper = FrameStepper(past, future, out)
    assert stepper.count == 25 and [row['count'] for row in stepper.rows] == [20, 25]
    page = visit(stepper.to_html(tmp_path / 'a.html'))
    page.get_by_role('slider').focus()
    page.keyboard.press('End')
    assert page.get_by_role('img', name='prediction, frame 25').count() == 1
    assert page.get_by_text('up to frame 20').is_visible()
    assert pixels(page, 1)[::4] == expected(out.future[0, -1].detach())


def test_rows_may_begin_before_the_first_frame_and_end_late():
    long = FrameStepper({'a': clip(110), 'b': Row(clip(5), first=-3)})
    assert (long.first, long.count, long.past) == (-3, 114, None)


@pytest.mark.parametrize('name', ['n' * 90, '$a_{b$', 'a\nb', '\x00\ud800', ''])
def test_any_name_has_a_picture(name):
    widget = FrameStepper({name: clip(20, side=8), 'b': clip(20, side=8)}, title=name)
    assert Image.open(io.BytesIO(widget.still_png())).width > 800
    assert all(c.isprintable() for c in repr(widget) + widget.title)


def test_many_frames_make_a_square_sheet():
    widget = FrameStepper(torch.zeros(2000, 1, 8, 8))
    row = widget.rows[0]
    sheet = Image.open(io.BytesIO(base64.b64decode(row['sheet'].split(',')[1])))
    assert sheet.size == (row['columns'] * 8, -(-2000 // row['columns']) * 8) and max(sheet.size) < 400
    assert widget.still_png()


# What comes from Python or from the browser

ODD = [float('nan'), -5, 1e9, 2.5, 'x', None, [], {}, True, 10**30]


def test_odd_values_leave_everything_as_it_was(units, stepper, timeline):
    browser = FeatureBrowser(*units[1:3])
    for widget in stepper, timeline, browser:
        names = ('index', 'fps', 'unit')[:2 + (widget is browser)]
        before = json.dumps(widget.get_state(), default=str)
        for name in names:
            for odd in (*ODD[:1], *ODD[4:], -5, 1e9, -2.5):
                with pytest.raises(ValueError, match=f'^{name} is '): setattr(widget, name, odd)
                with pytest.raises(ValueError, match=f'^{name} is '), widget.hold_trait_notifications():
                    setattr(widget, name, odd)
                widget.set_state({name: odd})
        with pytest.raises(ValueError, match='^title is '): widget.title = 5
        assert json.dumps(widget.get_state(), default=str) == before
    stepper.index, stepper.fps = np.int64(7), np.float32(2)
    assert (stepper.index, type(stepper.index), stepper.fps) == (7, int, 2.) and stepper.still_png()


def test_what_was_packed_is_fixed(units, stepper, timeline):
    browser = FeatureBrowser(*units[1:3])
    parts = {stepper: 'rows count first past', browser: 'rows units features tile tops numbers decoder count',
             timeline: 'rows times numbers moments curves flow truth'}
    for widget, names in parts.items():
        for name in names.split():
            was = getattr(widget, name)
            for odd in [odd for odd in ODD if odd is not True] + [[{}], 5]:
                with pytest.raises(traitlets.TraitError): setattr(widget, name, odd)
                widget.set_state({name: odd, 'index': 1})
            assert getattr(widget, name) == was and widget.index != 1


def test_a_browser_that_is_wrong_is_told_how_things_are(stepper, monkeypatch):
    told = []
    monkeypatch.setattr(stepper, 'send_state', lambda key=None: told.append(key))
    stepper.set_state({'index': 10**6, 'unknown': 1})
    assert told == [['index']] and stepper.index == 3


def test_a_title_cannot_break_out_of_the_page(stepper):
    stepper.title = '</script><b>'
    assert '</script><b>' not in widget_html(stepper) and '\\u003c/script>\\u003cb>' in widget_html(stepper)


@pytest.mark.parametrize('bad, message', [
    (dict(rows=torch.zeros(24, 24)), 'clip is a tensor of float32, shape (24, 24); expected'),
    (dict(rows=torch.zeros(2, 1, 8, 8) / 0), 'NaN'),
    (dict(rows=torch.ones(2, 1, 8, 8) * 255), 'clamp=True'),
    (dict(rows={}), 'at least one row'),
    (dict(rows={'a': torch.zeros(2, 1, 8, 8), 'b': torch.zeros(2, 1, 9, 9)}), 'one size'),
    (dict(rows={'a': torch.zeros(2, 1, 8, 8)}, future=torch.zeros(2, 1, 8, 8)), 'rows is a dict'),
    (dict(rows=torch.zeros(2, 3, 1, 8, 8), i=2), 'i is 2; expected a whole number from 0 to 1'),
    (dict(rows=torch.zeros(2, 1, 8, 8), fps=-1), 'fps is -1; expected from'),
    (dict(rows=torch.zeros(2, 1, 8, 8), index=2), 'index is 2; expected a whole number from 0 to 1'),
])
def test_bad_input_is_named(bad, message):
    with pytest.raises(ValueError, match=re.escape(message)): FrameStepper(**bad)


def test_pages_that_cannot_be_written(stepper, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError): stepper.to_html(tmp_path / 'file' / 'a.html')
    with pytest.raises(ValueError, match='ends in .html'): stepper.to_html(tmp_path / 'a.pdf')
    with pytest.raises(OSError): save_page(tmp_path / 'a.html', [tmp_path / 'missing.png'])


def test_a_full_disk_leaves_the_old_page(stepper, tmp_path, monkeypatch):
    path = stepper.to_html(tmp_path / 'a.html')
    old = path.read_bytes()
    def full(*args): raise OSError(28, 'No space left on device')
    for step in ('fsync', 'replace'):
        with monkeypatch.context() as m:
            m.setattr(files.os, step, full)
            with pytest.raises(OSError, match='a.html.*No space'): stepper.to_html(path, title='new')
        assert path.read_bytes() == old and os.listdir(tmp_path) == ['a.html']
    assert stepper.to_html(path, title='new').read_bytes() != old and os.listdir(tmp_path) == ['a.html']


def test_numbers_of_numpy_and_torch_will_do():
    plain = FrameStepper({'a': Row(clip(5), first=-3)}, past=1, index=2, fps=5.)
    late = Row(clip(5), first=np.int64(-3))
    other = FrameStepper({'a': late}, past=np.int32(1), index=torch.tensor(2), fps=np.float32(5))
    assert FrameStepper(clip(5), index=np.int64(2), fps=np.float32(5)).index == 2
    assert widget_html(other) == widget_html(plain)


# The feature browser

def awake(**kw):
    "A small composite whose weights are all far from zero."
    model = VideoLSTM.composite(**dict(hidden_size=12, frame_shape=(1, 24, 24)) | kw)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(torch.randn(p.shape, generator=g) * .3)
    return model


@pytest.fixture
def units():
    "A feature browser on step 3 of the second clip, and what it was made from."
    model, (past, future) = awake(), (torch.stack([clip(10, seed=k), clip(10, seed=k + 2)]) for k in (0, 1))
    return FeatureBrowser(model, past, future, i=1, index=3, title='Twelve units'), model, past, future


def chosen(page, k=0): return page.evaluate('k => document.querySelectorAll(".lvr-host")[k].model.get("unit")', k)


def values(widget, unit):
    "The six values of a unit over time, out of the widget's bytes."
    k = widget.units.index(unit)
    data = np.frombuffer(base64.b64decode(widget.activity), np.uint8).reshape(len(widget.units), 6, widget.count)
    rows, tops = dict(zip('hcifgo', data[k].astype(float))), dict(c=widget.tops[k])
    return {n: row / 255 if n in 'ifo' else (row - 128) / 127 * tops.get(n, 1) for n, row in rows.items()}


@pytest.mark.browser
def test_keys_choose_units_and_steps(visit, units, tmp_path):
    widget = units[0]
    page = visit(widget.to_html(tmp_path / 'a.html'))
    pick, time = page.get_by_role('slider', name='Unit'), page.get_by_role('slider', name='Frame')
    assert (chosen(page), index(page)) == (widget.units[0], 3)
    time.focus()
    page.keyboard.press('ArrowRight')
    assert (chosen(page), index(page)) == (widget.units[0], 4) and time.input_value() == '4'
    page.keyboard.press('ArrowDown')
    assert (chosen(page), index(page)) == (widget.units[1], 4) and pick.input_value() == '1'
    pick.focus()
    for key, k in (('ArrowRight', 2), ('End', 11), ('ArrowRight', 11), ('ArrowLeft', 10), ('Home', 0), ('ArrowLeft', 0),
                   ('PageDown', 10), ('PageDown', 11)):
        page.keyboard.press(key)
        assert (chosen(page), index(page)) == (widget.units[k], 4), key
    assert pick.get_attribute('aria-valuetext') == f'unit {widget.units[11]}, number 12 of 12'
    time.focus()
    page.keyboard.press('End')
    assert index(page) == 19 and page.get_by_text('the decoder predicts').is_visible()
    assert page.get_by_role('img', name='model, frame 20').count() == 1


@pytest.mark.browser
def test_what_is_shown_is_the_model(visit, units, tmp_path):
    "Numbers beside the lines, words for screen readers, and the pixels of frames and weights."
    widget, model, past, future = units
    page = visit(widget.to_html(tmp_path / 'a.html'))
    page.get_by_role('slider', name='Frame').focus()
    both = [unit_activity(model, past), unit_activity(model, past, 'future', frames=10)]
    names = dict(h='output', c='cell', g='candidate', i='input gate', f='forget gate', o='output gate')
    for _ in range(3):
        page.keyboard.press('ArrowDown')
        for _ in range(5): page.keyboard.press('ArrowRight')
        unit, t = chosen(page), index(page)
        said = page.get_by_role('slider', name='Frame').get_attribute('aria-valuetext')
        for k, name in names.items():
            truth = torch.cat([getattr(x, k) for x in both], 1)[1, t, unit].item()
            shown = float(page.locator(f'.lvr-{k} b').inner_text().replace('−', '-'))
            told = float(re.search(rf'{name} (-?[0-9.]+)', said)[1])
            far = .011 * max(1, abs(widget.tops[widget.units.index(unit)]))
            assert shown == told and shown == pytest.approx(truth, abs=far), (unit, t, k)
    assert t == 18 and pixels(page)[::4] == expected(future[1, 8])
    assert pixels(page, 1)[::4] == pytest.approx(expected(both[1].frames[1, 8]), abs=1)


@pytest.mark.browser
def test_colours_of_weights_have_their_sign(visit, units, tmp_path):
    widget, model, *_ = units
    names = 'input gate i', 'forget gate f', 'candidate g', 'output gate o', 'output feature'
    weights = dict(zip(names, [*feature_images(model).unbind(1), feature_images(model, 'future')]))
    for scheme in ('light', 'dark'):
        page = visit(widget.to_html(tmp_path / 'a.html'), color_scheme=scheme)
        page.get_by_role('slider', name='Unit').focus()
        page.keyboard.press('ArrowRight')
        for name, w in weights.items():
            canvas = page.get_by_role('img', name=f'{name} of unit {widget.units[1]}')
            rgb = np.array(canvas.evaluate(PIXELS)).reshape(24, 24, 4)
            w = w[widget.units[1], 0].numpy()
            clear = np.abs(w) > .3 * np.abs(w).max()
            signs = np.sign(rgb[..., 0] - rgb[..., 2])
            assert clear.sum() > 50 and (signs[clear] == np.sign(w)[clear]).all(), (scheme, name)
            faint = rgb[np.abs(w) < .02 * np.abs(w).max()]
            assert (faint[:, :3].mean() > 200) == (scheme == 'light') and len(faint), 'zero has the colour of the paper'


@pytest.mark.browser
def test_colours_follow_a_switch_on_the_page(visit, units, tmp_path):
    "A site whose own button makes it dark says so in an attribute; nobody has to reload."
    page = visit(units[0].to_html(tmp_path / 'a.html'), color_scheme='light')
    page.evaluate(f'''window.mean = () => {{
        const data = ({PIXELS})(document.querySelector(".lvr-board canvas"));
        return data.reduce((a, v) => a + v, 0) / data.length;
    }}''')
    light = page.evaluate('mean()')
    page.evaluate('document.body.style.colorScheme = "dark"')
    page.wait_for_function(f'mean() < {light - 10}')
    page.evaluate('document.body.style.colorScheme = "light"')
    page.wait_for_function(f'Math.abs(mean() - {light}) < .1')


@pytest.mark.browser
def test_clicking_and_dragging(visit, units, tmp_path):
    widget = units[0]
    page = visit(widget.to_html(tmp_path / 'a.html'))
    board = page.locator('.lvr-board').bounding_box()
    for k in (7, 0, 11):
        page.mouse.click(board['x'] + (k + .5) * board['width'] / 20, board['y'] + 5)
        assert chosen(page) == widget.units[k]
        mark = page.locator('.lvr-chosen').bounding_box()
        assert mark['x'] == pytest.approx(board['x'] + k * board['width'] / 20, abs=1)
    page.mouse.click(board['x'] + 15 * board['width'] / 20, board['y'] + 5)
    assert chosen(page) == widget.units[11], 'nothing lies there'
    page.keyboard.press('ArrowLeft')
    assert chosen(page) == widget.units[10], 'a click leaves the keys with the units'
    plot = page.locator('.lvr-plot').first.bounding_box()
    x = lambda t: plot['x'] + 34 + (t + .5) * (plot['width'] - 34) / 20
    page.mouse.move(x(2), plot['y'] + 40)
    page.mouse.down()
    assert index(page) == 2
    page.mouse.move(x(15), plot['y'] + 40, steps=3)
    page.mouse.up()
    assert index(page) == 15
    page.get_by_label('Weights in the overview').select_option('input gate i')
    page.get_by_role('button', name='Play').click()
    page.wait_for_function('document.querySelector(".lvr-host").model.get("index") != 15')
    page.keyboard.press('Space')


@pytest.mark.browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_browser_is_readable(visit, units, tmp_path, scheme):
    page = visit(units[0].to_html(tmp_path / 'a.html', title='A page'), color_scheme=scheme)
    for selector in ('.lvr-title', '.lvr-head .lvr-note', '.lvr-unit', '.lvr-unit b', '.lvr-tiles .lvr-note',
                     '.lvr-screens .lvr-name', '.lvr-key', '.lvr-key b', '.lvr-status', '.lvr-speed'):
        assert contrast(page, selector) >= 4.5, selector


@pytest.mark.browser
def test_a_phone_is_wide_enough_for_units(visit, units, tmp_path):
    path = units[0].to_html(tmp_path / 'a.html')
    page = visit(path, viewport=dict(width=375, height=900), has_touch=True, is_mobile=True)
    assert page.evaluate('document.documentElement.scrollWidth') <= 375
    board = page.locator('.lvr-board').bounding_box()
    page.locator('.lvr-board').tap(position=dict(x=1.5 * board['width'] / 10, y=board['height'] * .75))
    assert chosen(page) == units[0].units[11], 'ten in a row'
    assert page.locator('.lvr-frame').first.bounding_box()['width'] > 100


@pytest.mark.browser
def test_steppers_and_browsers_on_one_page(visit, units, stepper, tmp_path):
    saved = json.loads(json.dumps({k: v for k, v in units[0].get_state().items() if k != 'layout'}))
    page = visit(bare_page(tmp_path, widget_html(stepper) + widget_html(saved)))
    assert page.locator('.lvr').count() == 2 and page.locator('.lvr-features').count() == 1
    page.get_by_role('slider', name='Unit').focus()
    page.keyboard.press('ArrowRight')
    assert chosen(page, 1) == units[0].units[1] and (index(page, 0), index(page, 1)) == (3, 3)


@pytest.mark.browser
def test_without_scripts_there_is_a_unit(browser, units, tmp_path):
    path = units[0].to_html(tmp_path / 'a.html')
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    image = page.get_by_role('img', name='Features and activity of a unit: Twelve units')
    assert image.is_visible() and image.bounding_box()['height'] > 200
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize('kw, more, sheets', [
    (dict(num_layers=2, conditional_future=True), {}, 1), (dict(num_layers=2), dict(layer=0), 4),
    (dict(frame_shape=(3, 24, 24), output='gaussian'), dict(decoder='reconstruction', frames=4), 5),
    (dict(hidden_size=1), dict(frames=1), 5)], ids=['top of two', 'first of two', 'colour, backwards', 'one unit'])
def test_other_models(visit, tmp_path, kw, more, sheets):
    model, channels = awake(**kw), kw.get('frame_shape', (1,))[0]
    widget = FeatureBrowser(model, torch.stack([clip(5, channels=channels)] * 2), **more)
    assert len(widget.features) == sheets and widget.count == 5 + more.get('frames', 5)
    if more.get('decoder'): assert widget.numbers == [1, 2, 3, 4, 5, 5, 4, 3, 2]
    page = visit(widget.to_html(tmp_path / 'a.html'))
    page.get_by_role('slider', name='Unit').focus()
    page.keyboard.press('End')
    page.get_by_role('slider', name='Frame').focus()
    page.keyboard.press('End')
    assert (chosen(page), index(page)) == (widget.units[-1], widget.count - 1)
    assert page.locator('.lvr-weights').count() == sheets


def test_bytes_are_close_to_the_truth(units):
    widget, model, past, future = units
    both = [unit_activity(model, past), unit_activity(model, past, 'future', frames=10)]
    for unit in widget.units:
        for k, got in values(widget, unit).items():
            truth = torch.cat([getattr(x, k) for x in both], 1)[1, :, unit].numpy()
            half = .5 / (255 if k in 'ifo' else 127) * max(1, np.abs(truth).max())
            np.testing.assert_allclose(got, truth, atol=half + 1e-3)


def test_units_of_the_browser(units):
    widget, model, past, future = units
    assert widget.units == strongest(feature_images(model, 'future')) and widget.unit == widget.units[0]
    assert FeatureBrowser(model, past, units=[3, 1], unit=1).units == [3, 1]
    assert FeatureBrowser(model, past, n=4).units == widget.units[:4]
    heard = []
    widget.observe(lambda change: heard.append(change['new']), 'unit')
    widget.set_state({'unit': widget.units[5]})
    widget.unit = widget.units[2]
    assert heard == [widget.units[5], widget.units[2]]
    with pytest.raises(ValueError, match='unit is 12; expected one of the 12 units shown'): widget.unit = 12
    assert widget.unit == widget.units[2]


def test_a_browser_leaves_a_picture_and_an_id(units):
    widget, model, past, future = units
    data, _ = widget._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
    assert image.format == 'PNG' and image.width > 800 and data['text/plain'] == 'FeatureBrowser(12 units, 20 frames)'
    same, other = (FeatureBrowser(model, past, future, **kw) for kw in (dict(i=1, index=3, title='Twelve units'), {}))
    assert same.model_id[:24] == widget.model_id[:24] != other.model_id[:24]
    before, widget.unit = widget.still_png(), widget.units[1]
    assert widget.still_png() != before


@pytest.mark.parametrize('bad, message', [
    (dict(rows=torch.zeros(70_000, 1, 32, 32, dtype=torch.uint8)), 'rows hold 71680000 pixels; expected at most 6'),
    (dict(rows=dict.fromkeys(range(300), torch.zeros(1, 1, 8, 8))), 'rows make a picture of'),
    (dict(rows=torch.zeros(1, 1, 900, 2)), 'rows make a picture of')])
def test_what_is_too_much_is_named(bad, message):
    with pytest.raises(ValueError, match=f'^{message}'): FrameStepper(**bad)


@pytest.mark.parametrize('bad, message', [
    (dict(units=[12]), 'units is 12; expected a whole number from 0 to 11'), (dict(units=[]), 'units is []; expected'),
    (dict(unit=99), 'unit is 99; expected one of'), (dict(index=20), 'index is 20; expected a whole number from 0 to'),
    (dict(decoder='encoder'), "decoder is 'encoder'; expected one of"), (dict(layer=1), 'layer is 1; expected'),
    (dict(i=2), 'i is 2; expected a whole number from 0 to 1'), (dict(frames=0), 'frames is 0; expected'),
    (dict(past=torch.zeros(1, 2, 1, 8, 8)), 'past has shape'), (dict(n=0), 'n is 0; expected'),
    (dict(fps=0), 'fps is 0; expected'), (dict(future=torch.zeros(1, 2, 1, 24, 24)), 'future has 1 clips; expected'),
])
def test_a_bad_browser_is_named(units, bad, message):
    _, model, past, _ = units
    with pytest.raises(ValueError, match=re.escape(message)): FeatureBrowser(**dict(model=model, past=past) | bad)


# The action timeline

SHADES = np.array([[200, 40, 40], [40, 170, 60], [50, 70, 200], [190, 190, 60]], np.uint8)
DEEDS = ['runs', 'waits', 'falls']


def flat_film(frames=12, shape=(24, 32)):
    "A film of single colours: what a lossy picture cannot hurt. Frame k has the shade k % 4."
    return np.broadcast_to(SHADES[np.arange(frames) % 4][:, None, None], (frames, *shape, 3))


def beliefs(rows=4):
    "It runs at first, falls at the end, and waits with .2 all the time."
    falls = np.linspace(.05, .75, rows)
    return np.stack([.8 - falls, np.full(rows, .2), falls], 1)


@pytest.fixture
def timeline():
    "Twelve frames over 1.1 s, a row of probabilities at each third, flow to the right."
    flow = np.zeros((11, 24, 32, 2)) + [3, 0]
    return ActionTimeline(flat_film(), beliefs(), times=[0, .3, .6, .9], classes=DEEDS, fps=10, flow=flow,
                          truth='falls', index=3, title='Three deeds')


def colour(page, selector):
    "The colour behind an element, as numbers, in whatever way the browser writes it."
    return np.array(page.evaluate('''selector => {
        const context = document.createElement('canvas').getContext('2d');
        context.fillStyle = getComputedStyle(document.querySelector(selector)).backgroundColor;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    }''', selector))


@pytest.mark.browser
def test_film_and_probabilities_go_together(visit, timeline, tmp_path):
    page = visit(timeline.to_html(tmp_path / 'a.html'))
    page.get_by_role('slider', name='Frame').focus()
    for key, k in ((None, 3), ('ArrowRight', 4), ('End', 11), ('ArrowRight', 11), ('PageDown', 1), ('Home', 0)):
        if key: page.keyboard.press(key)
        assert index(page) == k
        rgb = np.array(pixels(page)).reshape(24, 32, 4)[..., :3]
        assert np.abs(rgb.astype(int) - SHADES[k % 4]).mean() < 6, 'the frame of that number'
        now = [np.interp(k / 10, [0, .3, .6, .9], p) for p in beliefs().T]
        shown = dict(zip(page.locator('.lvr-class').all_inner_texts(), page.locator('.lvr-number').all_inner_texts()))
        for name, p in zip(DEEDS, now): assert abs(float(shown[name].rstrip(' %')) - 100 * p) <= .51, (k, name)
        said = page.get_by_role('slider', name='Frame').get_attribute('aria-valuetext')
        first = DEEDS[int(np.argmax(now))]
        assert said.startswith(f'frame {k + 1}, {k / 10:.2f} seconds; {first} {shown[first]}')
        assert page.locator('.lvr-first .lvr-class').inner_text() == first
    assert page.get_by_role('img', name='film, frame 1, 0.00 seconds').count() == 1
    assert page.get_by_label('the true class').count() == 1 and page.get_by_text('of 1.10 s, frame 1').is_visible()


def drawn(page, selector):
    "How many pixels of a canvas are not empty."
    count = f's => ({PIXELS})(document.querySelector(s)).filter((v, k) => k % 4 === 3 && v).length'
    return page.evaluate(count, selector)


@pytest.mark.browser
def test_flow_over_the_film(visit, timeline, tmp_path):
    "By its button and by F; space on the button does not start the film; the last frame has no flow."
    page = visit(timeline.to_html(tmp_path / 'a.html'))
    button = page.get_by_role('button', name='Flow')
    assert button.get_attribute('aria-pressed') == 'false' and drawn(page, '.lvr-arrows') == 0
    button.focus()
    page.keyboard.press('Space')
    assert button.get_attribute('aria-pressed') == 'true' and drawn(page, '.lvr-arrows') > 500
    assert page.get_by_role('button', name='Play').count() == 1
    page.keyboard.press('End')
    assert drawn(page, '.lvr-arrows') == 0
    page.keyboard.press('Home')
    assert drawn(page, '.lvr-arrows') > 500
    page.keyboard.press('f')
    assert button.get_attribute('aria-pressed') == 'false' and drawn(page, '.lvr-arrows') == 0


@pytest.mark.browser
def test_dragging_through_time(visit, tmp_path):
    "A place in the chart is a time; frames need not be evenly spread over it."
    times = [0, .1, .2, .3, 2, 4]
    widget = ActionTimeline(flat_film(6), beliefs(6), times=times, classes=DEEDS)
    page = visit(widget.to_html(tmp_path / 'a.html'))
    plot = page.locator('.lvr-plot').bounding_box()
    x = lambda s: plot['x'] + 44 + s / 4 * (plot['width'] - 44)
    page.mouse.move(x(1.9), plot['y'] + 60)
    page.mouse.down()
    assert index(page) == 4
    for seconds, k in ((.9, 3), (.11, 1), (3.4, 5), (9, 5), (-1, 0)):
        page.mouse.move(x(seconds), plot['y'] + 60)
        assert index(page) == k, seconds
    page.mouse.up()
    assert page.get_by_role('button', name='Flow').count() == 0
    page.get_by_role('button', name='Play').click()
    page.wait_for_function('document.querySelector(".lvr-host").model.get("index") > 1')


@pytest.mark.browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_timeline_is_readable(visit, tmp_path, scheme):
    "Words, and the eight colours of classes, which names in the chart have."
    p = np.full((3, 9), .1) + np.eye(9)[:3] * .1
    widget = ActionTimeline(flat_film(3), p, classes=list('abcdefghi'), fps=5, top=8, truth='b')
    page = visit(widget.to_html(tmp_path / 'a.html', title='A page'), color_scheme=scheme)
    for selector in ('.lvr-class', '.lvr-first .lvr-class', '.lvr-number', '.lvr-status', '.lvr-status b'):
        assert contrast(page, selector) >= 4.5, selector
    paper = colour(page, 'body')
    def light(rgb):
        c = rgb / 255
        return np.where(c <= .03928, c / 12.92, ((c + .055) / 1.055) ** 2.4) @ (.2126, .7152, .0722)
    for k in range(9):
        a, b = sorted((light(colour(page, f'.lvr-row:nth-child({k + 1}) .lvr-fill')), light(paper)))
        assert (b + .05) / (a + .05) >= 4.5, k


@pytest.mark.browser
def test_a_phone_is_wide_enough_for_a_timeline(visit, timeline, tmp_path):
    names = [f'a long name, number {k}' for k in range(1000)]
    many = ActionTimeline(flat_film(), np.full((12, 1000), .001), classes=names, fps=10)
    phone = dict(viewport=dict(width=375, height=900), has_touch=True)
    page = visit(save_page(tmp_path / 'a.html', [timeline, many]), **phone)
    page.locator('.lvr-timeline').nth(1).wait_for()
    assert page.evaluate('document.documentElement.scrollWidth') <= 375
    assert page.locator('.lvr-frame').first.bounding_box()['width'] > 300
    assert page.locator('.lvr-class').all_inner_texts()[-1] == '994 more'
    page.locator('.lvr-plot').first.tap(position=dict(x=46, y=50))
    assert (index(page, 0), index(page, 1)) == (0, 0)


@pytest.mark.browser
def test_a_timeline_without_scripts_and_from_a_saved_state(browser, visit, stepper, timeline, tmp_path):
    page, context = open_quietly(browser, timeline.to_html(tmp_path / 'a.html'), java_script_enabled=False)
    assert page.get_by_role('img', name='Frames and probabilities: Three deeds').bounding_box()['height'] > 150
    context.close()
    saved = json.loads(json.dumps({k: v for k, v in timeline.get_state().items() if k != 'layout'}))
    page = visit(bare_page(tmp_path, widget_html(stepper) + widget_html(saved)))
    page.locator('.lvr-timeline').wait_for()
    page.get_by_role('slider', name='Frame').nth(1).focus()
    page.keyboard.press('ArrowRight')
    assert (index(page, 0), index(page, 1)) == (3, 4)


@pytest.mark.browser
@pytest.mark.parametrize('frames, rows', [(1, 1), (1, 5), (5, 1), (3, 1500)])
def test_few_and_many_moments(visit, tmp_path, frames, rows):
    widget = ActionTimeline(flat_film(frames), beliefs(rows), times=np.arange(rows) / 7, classes=DEEDS, fps=3)
    assert len(widget.moments) <= 1000
    page = visit(widget.to_html(tmp_path / 'a.html'))
    page.get_by_role('slider').focus()
    page.keyboard.press('End')
    assert index(page) == frames - 1 and drawn(page, '.lvr-plot') > 500


def test_long_films_are_thinned_and_keep_their_times():
    widget = ActionTimeline(flat_film(250), beliefs(250), classes=DEEDS, fps=25, most=100)
    assert widget.count == 84 and widget.numbers[:3] == [1, 4, 7] and widget.times[-1] == 249 / 25
    assert widget.fps == pytest.approx(25 / 3) and repr(widget) == 'ActionTimeline(84 of 250 frames, 3 lines)'
    assert len(widget.moments) == 250, 'probabilities are all there'
    assert ActionTimeline(flat_film(250), beliefs(250), classes=DEEDS, fps=25, most=250).count == 250
    fast = ActionTimeline(flat_film(9), beliefs(9), classes=DEEDS, fps=480)
    assert fast.fps == 60 and fast.times[1] == pytest.approx(1 / 480, abs=1e-4)


def read_sheet(widget):
    "A function that cuts a frame out of a film's sheet."
    row = widget.rows[0]
    high, wide, columns = row['height'], row['width'], row['columns']
    image = Image.open(io.BytesIO(base64.b64decode(row['sheet'].split(',')[1])))
    sheet = np.asarray(image.convert('RGB')).astype(int)
    return lambda k: sheet[k // columns * high:, k % columns * wide:][:high, :wide]


@pytest.mark.parametrize('shape, size', [((240, 320), (120, 160)), ((320, 240), (160, 120)), ((90, 900), (16, 160))])
def test_frames_shrink_and_stay_themselves(shape, size):
    widget = ActionTimeline(flat_film(11, shape), beliefs(11), classes=DEEDS, fps=10)
    cut = read_sheet(widget)
    assert (widget.rows[0]['height'], widget.rows[0]['width']) == size
    for k in (0, 5, 10): assert np.abs(cut(k) - SHADES[k % 4]).mean() < 8
    grey = ActionTimeline(flat_film(11, shape)[..., :1], beliefs(11), classes=DEEDS, fps=10)
    assert np.abs(read_sheet(grey)(5) - SHADES[1, 0]).mean() < 8


def test_six_seconds_weigh_less_than_400_kilobytes():
    "Colour noise packs worse than any film, and here it moves, too."
    noise = np.random.default_rng(0).integers(0, 256, (180, 120, 160, 3), np.uint8)
    flow = np.random.default_rng(1).normal(size=(179, 120, 160, 2))
    names = [f'class {k}' for k in range(101)]
    widget = ActionTimeline(noise, np.full((180, 101), 1 / 101), classes=names, fps=30, flow=flow)
    assert len(widget_html(widget)) < 400_000 and len(json.dumps(widget.get_state(), default=str)) < 600_000


def test_a_real_film_keeps_its_size(data_folder):
    "160 pixels wide, 75 frames or more, well below 400 KB with the picture that stands in."
    av = pytest.importorskip('av', reason='needs PyAV')
    path = data_folder / 'videos/ucf101/HorseRace/v_HorseRace_g02_c02.avi'
    if not path.is_file(): pytest.skip('needs real data: a film of UCF-101')
    with av.open(str(path)) as film: frames = [f.to_ndarray(format='rgb24') for f in film.decode(video=0)]
    frames = np.stack(frames[:180])
    widget = ActionTimeline(frames, beliefs(180), classes=DEEDS, fps=25)
    assert (widget.count, widget.rows[0]['width']) == (90, 160) and len(widget_html(widget)) < 350_000
    small = np.asarray(Image.fromarray(frames[80]).resize((160, 120), Image.Resampling.BOX)).astype(int)
    assert np.abs(read_sheet(widget)(40) - small).mean() < 12


def test_flow_is_told_by_its_means():
    flow = np.zeros((3, 32, 64, 2), np.float32)
    flow[1, 16:, 32:] = 2, -1
    widget = ActionTimeline(flat_film(3), beliefs(3), classes=DEEDS, fps=10, flow=flow)
    assert (widget.flow['high'], widget.flow['wide']) == (8, 16)
    grid = np.frombuffer(base64.b64decode(widget.flow['data']), np.int8).reshape(3, 8, 16, 2)
    assert not grid[[0, 2]].any() and not grid[1, :4].any() and not grid[1, :, :8].any()
    assert (grid[1, 4:, 8:] == np.rint(np.array([2, -1]) / 5 ** .5 * 127)).all()


@pytest.mark.parametrize('more, times', [
    (dict(fps=4), [0, .25, .5]), (dict(times=[1, 2, 4]), [1, 2, 4]), (dict(frame_times=[3, 4, 9]), [3, 4, 9]),
    (dict(times=[0, 5, 6], fps=2), [0, .5, 1]), (dict(times=torch.arange(3), frame_times=(0, 1, 7)), [0, 1, 7])])
def test_times_of_frames(more, times):
    widget = ActionTimeline(flat_film(3), beliefs(3), classes=DEEDS, **more)
    assert widget.times == times and widget.moments == [float(t) for t in more.get('times', times)]


@pytest.mark.parametrize('bad, message', [
    (dict(frames=np.zeros((2, 8, 8, 3))), 'frames is an array of float64, shape (2, 8, 8, 3); expected uint8'),
    (dict(frames=None), 'frames is an array of object'), (dict(probabilities=None), 'probabilities is None'),
    (dict(probabilities=beliefs(5)), 'times is None; expected seconds of the 5 rows, as there are 4 frames'),
    (dict(probabilities=beliefs(4) * 1.5), 'probabilities has values from 0.075, and rows that sum to 1.5 to 1.5;'),
    (dict(probabilities=beliefs(4) * np.nan), 'probabilities holds NaN'),
    (dict(classes=['a', 'b']), 'classes holds 2 names; expected 3'),
    (dict(classes='abc'), "classes is 'abc'; expected a list"),
    (dict(classes=['a', 'b', 3]), 'classes is 3; expected text'),
    (dict(times=[0, 2, 1, 3]), 'times goes from 2 to 1 at place 2; expected seconds that rise'),
    (dict(times=[0, 1, 2]), 'times is [0, 1, 2]; expected 4 numbers'), (dict(times=[0, 1, 2, np.inf]), 'times holds'),
    (dict(frame_times=[0, 1]), 'frame_times is [0, 1]; expected 4 numbers'), (dict(most=1001), 'most is 1001'),
    (dict(fps=None), 'fps is None; expected how many'), (dict(fps=-1), 'fps is -1; expected from'),
    (dict(flow=np.zeros((5, 4, 4, 2))), 'flow is an array'), (dict(top=9), 'top is 9; expected a whole number'),
    (dict(truth='flies'), "truth is 'flies'; expected one of the classes"), (dict(truth=3), 'truth is 3; expected'),
    (dict(index=4), 'index is 4; expected a whole number from 0 to 3'), (dict(title=3), 'title is 3')])
def test_a_bad_timeline_is_named(bad, message):
    good = dict(frames=flat_film(4), probabilities=beliefs(4), classes=DEEDS, fps=5)
    with pytest.raises(ValueError, match='^' + re.escape(message)): ActionTimeline(**good | bad)


def test_a_timeline_leaves_a_picture(timeline):
    data, _ = timeline._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
    assert image.format == 'PNG' and image.width > 900 and data['text/plain'] == repr(timeline)
    before, timeline.title = timeline.still_png(), 'Another'
    assert timeline.still_png() != before


def test_saved_states_are_looked_at(stepper, units, timeline):
    for widget in stepper, units[0], timeline:
        good = json.loads(json.dumps({k: v for k, v in widget.get_state().items() if k != 'layout'}))
        row, key = good['rows'][0], 'units' if 'units' in good else 'count'
        if widget is timeline:
            for wrong in (5, ['x'], [dict(name='a')]):
                with pytest.raises(ValueError, match='^widget is'): widget_html(good | dict(curves=wrong))
        assert widget_html(good)
        afar = dict(rows=[row | dict(sheet='https://example.org/a.png')])
        for bad in (dict(rows=5), dict(rows=[]), dict(rows=['x']), afar, dict(rows=[row | dict(count='5')]),
                    {key: float('nan')}, {key: {1, 2}}):
            with pytest.raises(ValueError, match='^widget is .*expected a FrameStepper'): widget_html(good | bad)


def test_pages_refuse_by_name(stepper, tmp_path):
    class Shy:
        def _repr_html_(self): return None
    with pytest.raises(ValueError, match='^path is'): save_page('', stepper)
    with pytest.raises(ValueError, match='^title is 5'): save_page(tmp_path / 'a.html', stepper, title=5)
    with pytest.raises(ValueError, match='^note is 5'): stepper.to_html(tmp_path / 'a.html', note=5)
    for item in (None, 5, object, Shy(), Shy, FrameStepper, b'x'):
        with pytest.raises(ValueError, match='^items is'): save_page(tmp_path / 'a.html', ['a', item])
    with pytest.raises(OSError, match='^items is.*there is none'): save_page(tmp_path / 'a.html', tmp_path / 'no.png')
    with pytest.raises(OSError, match='^items is.*a folder'): save_page(tmp_path / 'a.html', tmp_path)
    assert os.listdir(tmp_path) == []
    text = save_page(tmp_path / 'a.html', ['1 < 2 & half \ud800', '<p>\ud800</p>']).read_text(encoding='utf8')
    assert r'<p>1 &lt; 2 &amp; half \ud800</p>' in text and '<p>&#55296;</p>' in text


def test_stills_look_alike_under_all_settings(stepper, units):
    widgets_ = stepper, FeatureBrowser(*units[1:3])
    plain = [widget.still_png() for widget in widgets_]
    odd = {'image.origin': 'lower', 'savefig.dpi': 30., 'savefig.transparent': True}
    with plt.style.context(['dark_background', odd]):
        assert [widget.still_png() for widget in widgets_] == plain
        own = plt.figure()
        save = [widgets_[0].still() for _ in range(2)]
        assert plt.gcf() is own and save[0].png() == save[1].png()
    plt.close('all')


@pytest.mark.parametrize('library', ['anywidget', 'ipywidgets'])
def test_who_lacks_a_library_is_told_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    again = importlib.util.spec_from_file_location('lstm_video_repr.widgets_again', widgets.__file__)
    with pytest.raises(ImportError, match=rf"^widgets need {library}: pip install 'lstm-video-repr\[notebook\]'"):
        again.loader.exec_module(importlib.util.module_from_spec(again))


# ---- the playground: a network that runs in the page

LAB = 'document.querySelector(".lvr-host").lab'
GATE_ROWS = dict(i=0, f=1, g=2, o=3)


def little(units=12, seed=0, **config):
    "A small composite with weights that matter, peepholes too."
    model = VideoLSTM.composite(frame_shape=(1, 32, 32), hidden_size=units, seed=seed, **config)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if 'peephole' in name or 'bias' in name: p.data.normal_(0, .5, generator=generator)
    return model


@pytest.fixture(scope='module')
def tiny(): return Playground(little(), title='A tiny network')


@pytest.fixture
def lab(visit):
    "Open a playground and wait until its network is awake."
    def lab(path, **options):
        page = visit(path, **options)
        page.wait_for_function(f'{LAB}?.done() === 60')
        return page
    return lab


def scene(page): return page.evaluate(f'{LAB}.scene()')


def settle(page, condition):
    "Wait until the scene is so."
    page.wait_for_function(f'(() => {{ const s = {LAB}.scene(); return {condition}; }})()')
    return scene(page)


def thing(row=.3, column=.4, down=.05, right=-.03, **which):
    return dict(which or dict(digit=2, hand=1), row=row, column=column, down=down, right=right)


def run_js(page, things, holds=(), peepholes=True):
    "Logits of a page's own network, recalled first, for the clip of these things."
    return torch.tensor(page.evaluate('''([holds, peepholes]) => {
        const state = document.querySelector('.lvr-host').model, net = state.get('network');
        const arrays = readArrays(readBytes(lvrWeights[net.digest]), net.layout), clip = CLIP;
        const network = makeNetwork(arrays, { holds, peepholes }), s = network.watch(clip.slice(0, 10));
        const recall = network.start('recall', s), future = network.start('future', s), all = [];
        for (let t = 0; t < 10; t++) all[9 - t] = Array.from(recall());
        for (let t = 0; t < 50; t++) all.push(Array.from(future()));
        return all;
    }'''.replace('CLIP', f'{json.dumps(things)}.map(f => Float32Array.from(f))'), [list(holds), peepholes]))


def share_network(page):
    "The functions of the network, where a test can call them."
    page.add_script_tag(content=(files_of_package() / 'network.js').read_text(encoding='utf8'))


def files_of_package():
    from importlib.resources import files
    return files('lstm_video_repr') / 'assets'


def torch_logits(play):
    out = play.predict(50)
    return torch.cat([out.recalled_logits, out.future_logits], 1)[0].flatten(1)


@pytest.mark.browser
@pytest.mark.parametrize('which', ['small', 'tiny'])
def test_the_page_and_torch_agree(lab, tiny, tmp_path, which):
    play = Playground() if which == 'small' else tiny
    page = lab(play.to_html(tmp_path / 'a.html'))
    share_network(page)
    found, wanted = run_js(page, play.clip()[0].flatten(1)[:10].tolist()), torch_logits(play)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.sigmoid(), wanted.sigmoid(), rtol=0, atol=1e-4)
    truth = play.clip()[0].flatten(1)
    nats = torch.nn.functional.binary_cross_entropy_with_logits(wanted, truth, reduction='none').sum(1)
    torch.testing.assert_close(torch.tensor(page.evaluate(f'{LAB}.nats()')), nats, rtol=1e-4, atol=1e-2)
    grey = torch.tensor(page.evaluate(f'{LAB}.frames()')) / 255
    assert (grey - wanted.sigmoid()).abs().max() < .003


def held_run(model, past, holds, peepholes, part):
    "A decoder's logits with gates held, by the equations of the paper, one unit after the other."
    state = model.state_dict()
    def layer(x, place, name, frames, h, c):
        w = {k: state[f'{place}.{k}_l0'].double() for k in ('weight_hh', 'bias', 'weight_peephole')}
        w_ih, out = state.get(f'{place}.weight_ih_l0'), []
        for t in range(frames):
            z = w['weight_hh'] @ h + w['bias'] + (0 if x is None else w_ih.double() @ x[t])
            i, f, g, o = z.view(4, -1)
            p = w['weight_peephole'] * peepholes
            gates = dict(i=torch.sigmoid(i + p[0] * c), f=torch.sigmoid(f + p[1] * c), g=torch.tanh(g))
            def hold(gate, v):
                for k in holds:
                    if k['gate'] == gate and k['part'] in ('all', name):
                        v[slice(None) if k['unit'] is None else k['unit']] = float(k['value'])
                return v
            i, f, g = (hold(k, v) for k, v in gates.items())
            c = f * c + i * g
            h = hold('h', hold('o', torch.sigmoid(o + p[2] * c)) * torch.tanh(c))
            out.append(h)
        return torch.stack(out), h, c
    H = model.config.hidden_size
    _, h, c = layer(past.double(), 'encoder', 'encoder', 10, torch.zeros(H).double(), torch.zeros(H).double())
    place, frames = ('reconstruction_decoder', 10) if part == 'recall' else ('future_decoder', 50)
    hs = layer(None, f'{place}.lstm', part, frames, h, c)[0]
    raw = hs @ state[f'{place}.readout.weight'].double().T + state[f'{place}.readout.bias'].double()
    return raw.flip(0) if part == 'recall' else raw


@pytest.mark.browser
def test_what_is_held_is_held(lab, tiny, tmp_path):
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    share_network(page)
    past, model = tiny.clip(10)[0].flatten(1), round_weights(little())
    def hold(gate, unit, value, part='all'): return dict(gate=gate, unit=unit, value=value, part=part)
    for holds, peepholes in (([], False), ([hold('f', None, 1)], True), ([hold('i', 3, 0), hold('o', 5, 1, 'encoder')], True),
                             ([hold('g', 0, 1, 'recall'), hold('h', 7, 1, 'future'), hold('h', None, 0, 'recall')], False)):
        found = run_js(page, past.tolist(), holds, peepholes).double()
        wanted = torch.cat([held_run(model, past, holds, peepholes, part) for part in ('recall', 'future')])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def round_weights(model):
    "The model as 8 bits leave it."
    model.load_state_dict(unpack_weights(pack_weights(model.state_dict()), 'model'))
    return model.eval()


@pytest.mark.browser
def test_the_page_paints_as_python_does(lab, tiny, tmp_path):
    "Walls, corners, digits that stand still, drawings: every pixel of sixty frames."
    page, rng = lab(tiny.to_html(tmp_path / 'a.html')), np.random.default_rng(0)
    edges = [0., 1., .5, 1 / 3, 1e-9, 1 - 1e-12]
    for k in range(12):
        digits = [thing(*(rng.choice(edges) if rng.random() < .4 else rng.random() for _ in range(2)),
                        *(rng.choice([0., .1, -.1, .0625]) if rng.random() < .4 else rng.uniform(-.3, .3) for _ in range(2)),
                        **(dict(ink=''.join(rng.choice(list('0123456789abcdef'), 256))) if rng.random() < .2 else
                           dict(digit=int(rng.integers(10)), hand=int(rng.integers(8))))) for _ in range(1 + k % 4)]
        tiny.scene = dict(digits=digits)
        page.evaluate('s => document.querySelector(".lvr-host").model.set("scene", s)', tiny.scene)
        page.wait_for_function(f's => JSON.stringify({LAB}.scene().digits) === s', arg=page.evaluate('JSON.stringify', digits))
        page.wait_for_function(f'{LAB}.done() === 60')
        assert torch.equal(torch.tensor(page.evaluate(f'{LAB}.clip()')), tiny.clip()[0].flatten(1))


@pytest.mark.browser
def test_the_truth_is_that_of_moving_digits(lab, tiny, tmp_path):
    "A clip of the generator, laid out by hand: the same frames, as long as it goes."
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    sprites = np.frombuffer(base64.b64decode(tiny.sprites['data']), np.uint8).reshape(80, 16, 16)
    clips = MovingDigits(torch.tensor(sprites), image_size=32, past=10, future=50, seed=4)
    checked = 0
    for k in range(8):
        which = clips.plan(k, 1)[0][0]
        path = random_paths(4, torch.arange(2 * k, 2 * k + 2), 60)
        velocity = path[:, 1] - path[:, 0]
        if ((path[:, :2] <= 0) | (path[:, :2] >= 1)).any(): continue # a bounce hides the speed
        digits = [thing(*p.tolist(), *v.tolist(), digit=int(w) // 8, hand=int(w) % 8)
                  for p, v, w in zip(path[:, 0], velocity, which)]
        page.evaluate('s => document.querySelector(".lvr-host").model.set("scene", s)', dict(tiny.scene, digits=digits))
        page.wait_for_function(f's => JSON.stringify({LAB}.scene().digits) === s', arg=page.evaluate('JSON.stringify', digits))
        page.wait_for_function(f'{LAB}.done() === 60')
        assert torch.equal(torch.tensor(page.evaluate(f'{LAB}.clip()')), clips.clips(k, 1)[0].flatten(1))
        checked += 1
    assert checked > 2


@pytest.mark.browser
def test_a_hand_moves_the_digits(lab, tiny, tmp_path):
    tiny.scene = {}
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    before, first = scene(page), page.evaluate(f'{LAB}.nats()')
    box = page.locator('.lvr-yard').bounding_box()
    unit = box['width'] / 32
    grip = page.locator('.lvr-grip').first.bounding_box()
    page.mouse.move(grip['x'] + 10, grip['y'] + 10)
    page.mouse.down()
    page.mouse.move(grip['x'] + 10 + 4 * unit, grip['y'] + 10 + 8 * unit, steps=3)
    page.mouse.up()
    moved = settle(page, 's.digits[0].row > .6')['digits'][0]
    assert abs(moved['row'] - before['digits'][0]['row'] - .5) < .02
    assert abs(moved['column'] - before['digits'][0]['column'] - .25) < .02
    page.wait_for_function(f'{LAB}.done() === 60')
    assert page.evaluate(f'{LAB}.nats()') != first
    tip = page.locator('.lvr-tip').first.bounding_box()
    page.mouse.move(tip['x'] + tip['width'] / 2, tip['y'] + tip['height'] / 2)
    page.mouse.down()
    page.mouse.move(tip['x'] + 300, tip['y'] + tip['height'] / 2, steps=3)
    page.mouse.up()
    thrown = settle(page, 's.digits[0].right > .15')['digits'][0]
    assert np.hypot(thrown['down'], thrown['right']) == pytest.approx(.2, abs=1e-3) # as fast as can be
    for _ in range(2): page.keyboard.press('Control+z')
    assert settle(page, 's.digits[0].row < .2') == before


@pytest.mark.browser
def test_keys_buttons_undo_and_reset(lab, tiny, tmp_path):
    tiny.scene = {}
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    start = scene(page)
    page.get_by_role('button', name=re.compile('digit 3, 1 of 2')).focus()
    page.keyboard.press('ArrowDown')
    assert settle(page, 's.digits[0].row > .2')['digits'][0]['row'] == pytest.approx(.15 + 1 / 16, abs=1e-3)
    page.get_by_role('button', name=re.compile('Speed of digit 3')).focus()
    page.keyboard.press('ArrowRight')
    assert settle(page, 's.digits[0].right > .085')['digits'][0]['right'] == pytest.approx(.09)
    page.get_by_role('button', name='Digit 8', exact=True).click()
    page.get_by_role('button', name='Handwriting 4').click()
    assert settle(page, 's.digits[0].hand === 3')['digits'][0]['digit'] == 8
    page.get_by_role('button', name='Add', exact=True).click()
    assert len(settle(page, 's.digits.length === 3')['digits']) == 3
    page.get_by_role('button', name='Remove', exact=True).click()
    settle(page, 's.digits.length === 2')
    page.get_by_role('button', name='Another').click()
    assert settle(page, 's.seed === 1')['digits'] != start['digits']
    page.get_by_role('button', name='Undo').click()
    settle(page, 's.seed === 0')
    page.get_by_role('button', name='Reset').click()
    assert settle(page, 's.digits[0].digit === 3') == start
    page.get_by_role('slider', name='Frame').focus()
    page.keyboard.press('End')
    assert index(page) == 59 and page.get_by_role('img', name='expected, frame 60').count() == 1
    named = page.evaluate('''() => [...document.querySelectorAll('.lvr button, .lvr input, .lvr select, .lvr [role]')]
        .filter(n => !(n.hidden || n.getAttribute('aria-label') || n.textContent.trim() || n.closest('label')
                       || n.getAttribute('role') === 'status')).map(n => n.outerHTML)''')
    assert named == []


@pytest.mark.browser
def test_switches(lab, tiny, tmp_path):
    tiny.scene = {}
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    page.get_by_text('Switches').click()
    page.get_by_role('button', name='Place 3: frame 3').click()
    page.get_by_label('What a frame number does').select_option('swap')
    page.get_by_role('button', name='Place 1: frame 1').click()
    page.get_by_role('button', name='Place 10: frame 10').click()
    assert settle(page, 's.seen[0] === 10')['seen'] == [10, 2, 0, 4, 5, 6, 7, 8, 9, 1]
    tiny.scene = scene(page)
    page.wait_for_function(f'{LAB}.done() === 60')
    torch.testing.assert_close(torch.tensor(page.evaluate(f'{LAB}.frames()')) / 255, torch_logits(tiny).sigmoid(), rtol=0, atol=.003)
    with_peepholes = page.evaluate(f'{LAB}.nats()')
    page.get_by_label('Without peepholes').check()
    settle(page, '!s.peepholes')
    page.wait_for_function(f'{LAB}.done() === 60')
    trained = page.evaluate(f'{LAB}.nats()')
    assert trained != with_peepholes
    page.get_by_label('Random weights').check()
    settle(page, 's.weights === "random"')
    page.wait_for_function(f'{LAB}.done() === 60')
    drawn = page.evaluate(f'{LAB}.nats()')
    assert drawn != trained
    page.get_by_label('Unit, 0 to 11').fill('4')
    page.get_by_label('What to hold').select_option('f')
    page.get_by_label('Where').select_option('recall')
    page.get_by_role('button', name='Hold', exact=True).click()
    assert settle(page, 's.holds.length')['holds'] == [dict(gate='f', unit=4, value=0, part='recall')]
    page.get_by_role('button', name=re.compile('Let go: forget gate of unit 4 at 0')).click()
    settle(page, '!s.holds.length')
    page.wait_for_function(f'{LAB}.done() === 60')
    assert page.evaluate(f'{LAB}.nats()') == drawn # of the same seed: the same network
    page.get_by_label('Hide the truth').check()
    settle(page, '!s.truth')
    page.get_by_role('slider', name='Frame').focus()
    page.keyboard.press('End')
    page.get_by_role('img', name='truth, frame 60: not shown').wait_for()
    tiny.scene = scene(page) # what a page says is a scene for Python, too


@pytest.mark.browser
def test_python_may_set_a_scene_again(lab, tiny, tmp_path):
    tiny.scene = {}
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    page.get_by_role('button', name='Another').click()
    page.wait_for_function('document.querySelector(".lvr-host").model.get("scene").seed === 1')
    told = scene(page)
    for other in tiny.scene, told, dict(seed='x'), told | dict(seed=5): # what is no scene changes nothing
        page.evaluate('s => document.querySelector(".lvr-host").model.set("scene", s)', other)
        settle(page, f's.seed === {other["seed"] if other["seed"] != "x" else 1}')
    for seed in 1, 0, 1, 0: # what Python did is undone as what a hand did
        page.keyboard.press('Control+z')
        settle(page, f's.seed === {seed}')
    assert page.get_by_role('button', name='Undo').is_disabled()


@pytest.mark.browser
def test_a_link_shows_the_same(lab, tiny, tmp_path):
    tiny.scene = {}
    path = tiny.to_html(tmp_path / 'a.html')
    page = lab(path)
    page.get_by_role('button', name=re.compile('digit 3, 1 of 2')).focus()
    page.keyboard.press('ArrowRight')
    page.get_by_role('button', name='Another').click()
    page.wait_for_function('location.hash.startsWith("#play=")')
    page.wait_for_timeout(300)
    shown, address = scene(page), page.evaluate('location.hash')
    other = page.context.new_page()
    for hash_, same in ((address, True), ('#play=nonsense', False), ('#play=' + base64.b64encode(b'{"digits": 5}').decode(), False),
                        (address[:-9], False), ('#section', False)):
        other.goto('about:blank')
        other.goto(path.resolve().as_uri() + hash_)
        other.wait_for_function(f'{LAB}?.done() === 60')
        assert (scene(other) == shown) is same
        unread = other.get_by_text('This link could not be read; here is the start')
        assert unread.count() == (hash_.startswith('#play=') and not same)
    other.evaluate('location.hash = "#play=worse"')
    other.get_by_text('This link could not be read; the scene stays').wait_for()
    other.get_by_text('Switches').click()
    other.get_by_role('link', name='Link to this').click()
    other.get_by_text('The address of this page now holds the scene').wait_for()
    assert other.evaluate('location.hash === document.querySelector(".lvr-link").hash')
    other.get_by_text('could not be read').wait_for(state='detached')


@pytest.mark.browser
def test_what_is_altered_is_said_while_the_switches_are_closed(lab, tiny, tmp_path):
    tiny.scene = dict(weights='random', peepholes=False, truth=False, seen=[0, 3, 2, 4, 5, 6, 7, 8, 9, 0],
                      holds=[dict(gate='f', unit=None, value=0, part='all')])
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    said = page.locator('.lvr-altered')
    assert said.is_visible() and said.get_attribute('role') == 'status' and not page.get_by_text('Without peepholes').is_visible()
    assert said.inner_text() == ('Changed: forget gate of all units at 0, everywhere; random weights; no peepholes; '
                                 '2 of the frames it sees black; frames it sees out of order; truth hidden.')
    tiny.scene = {}
    page.evaluate('s => document.querySelector(".lvr-host").model.set("scene", s)', tiny.scene)
    page.wait_for_function('document.querySelector(".lvr-altered").textContent === ""')


@pytest.mark.browser
def test_drawing_makes_a_digit(lab, tiny, tmp_path):
    tiny.scene = {}
    page = lab(tiny.to_html(tmp_path / 'a.html'))
    share_network(page)
    start = scene(page)['digits']
    picture = torch.rand(24, 24)
    small = page.evaluate('([p]) => Array.from(shrinkPicture(Float32Array.from(p), 24, 16))', [picture.flatten().tolist()])
    wanted = torch.nn.functional.adaptive_avg_pool2d(picture[None], 16).flatten() # as `shrink_digits`
    torch.testing.assert_close(torch.tensor(small), wanted, rtol=0, atol=1e-6)
    page.get_by_role('button', name='Draw').click()
    box = page.locator('canvas.lvr-paper').bounding_box()
    page.mouse.move(box['x'] + box['width'] * .5, box['y'] + box['height'] * .2)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width'] * .5, box['y'] + box['height'] * .8, steps=5)
    page.mouse.up()
    ink = settle(page, 's.digits[0].ink')['digits'][0]['ink']
    rows = np.array([int(c, 16) for c in ink]).reshape(16, 16)
    assert rows[4:12, 7:9].min() > 10 and rows[:, :4].max() == 0 and rows[:, 12:].max() == 0
    page.keyboard.press('Space')
    for _ in range(6): page.keyboard.press('ArrowRight')
    assert settle(page, f's.digits[0].ink !== "{ink}"')['digits'][0]['ink'] != ink
    tiny.scene = scene(page)
    drawn = page.get_by_role('group', name='Which digit').get_by_text('drawn')
    assert drawn.is_visible()
    page.get_by_role('button', name='Clear').click() # the pad, and what was drawn on it
    assert settle(page, 's.digits[0].digit === 3')['digits'] == start and not drawn.is_visible()


@pytest.mark.browser
def test_a_playground_before_its_weights_and_without(browser, tiny, tmp_path):
    "The example is there at once; the weights come from the page, from a file beside it, from a kernel, or never."
    tiny.scene = {}
    saved = json.loads(json.dumps({k: v for k, v in tiny.get_state().items() if k != 'layout'}))
    write_text(tmp_path / 'network.js', write_weights(tiny))
    path = bare_page(tmp_path, widget_html(saved))
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.get_by_text('The network itself is not stored here').wait_for()
    page.wait_for_function(f'{LAB}.done() === 60')
    shown = np.array(page.evaluate(f'{LAB}.frames()'))
    assert abs(shown / 255 - torch_logits(tiny).sigmoid().numpy()).max() < .003 and not page.evaluate(f'{LAB}.ready()')
    path = bare_page(tmp_path, widget_html(saved, weights='network.js'))
    page.goto(path.as_uri())
    page.wait_for_function(f'{LAB}?.ready()')
    weights = base64.b64encode(kernel_bytes(tiny)).decode()
    page.goto(bare_page(tmp_path, '<div id="cell"></div>').as_uri())
    page.evaluate('''([state, weights]) => {
        const heard = {}, model = { get: k => state[k], set: (k, v) => { state[k] = v; }, save_changes() { window.saved = state.scene; },
            on: (e, f) => { heard[e] = f; }, off() {}, send: m => { window.asked = m; const bytes = Uint8Array.from(atob(weights), c => c.charCodeAt(0));
                setTimeout(() => heard['msg:custom']({ weights: state.network.digest }, [new DataView(bytes.buffer)]), 10); } };
        return lvrModules.playground.render({ model, el: document.getElementById('cell') }).then(() => undefined);
    }''', [saved, weights])
    page.wait_for_function('document.getElementById("cell").lab.ready()')
    assert page.evaluate('window.asked') == dict(want='weights') and page.get_by_text('Link to this').count() == 0
    page.get_by_role('button', name='Another').click()
    page.wait_for_function('window.saved?.seed === 1')
    context.close()


def kernel_bytes(play):
    "What Python sends when a page asks for weights."
    sent = []
    play.send = lambda content, buffers=None: sent.append((content, buffers))
    for handler in play._msg_callbacks.callbacks: handler(play, {'want': 'weights'}, [])
    for handler in play._msg_callbacks.callbacks: handler(play, 'nonsense', [])
    del play.send
    (content, buffers), = sent
    assert content == dict(weights=play.network['digest'])
    return bytes(buffers[0])


@pytest.mark.browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_playground_and_lab_on_a_phone(visit, tiny, tmp_path, scheme):
    path = save_page(tmp_path / 'a.html', [tiny, CellLab('count')], title='Two')
    page = visit(path, color_scheme=scheme, viewport=dict(width=375, height=700))
    page.locator('.lvr-lab').wait_for()
    page.get_by_text('Switches').click()
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    for selector in '.lvr-play .lvr-small', '.lvr-play .lvr-status b', '.lvr-play .lvr-caption', '.lvr-lab .lvr-status b':
        assert contrast(page, selector) > 4.5, selector


@pytest.mark.browser
def test_no_title_of_a_playground_becomes_html(browser, tmp_path):
    context = browser.new_context(offline=True)
    page = context.new_page()
    shown = EVIL.replace('\u2028', ' ')
    page.goto(save_page(tmp_path / 'a.html', [Playground(little(), title=EVIL), CellLab(title=EVIL)], title=EVIL).as_uri())
    for k in range(2): page.get_by_role('group', name=shown).nth(k).wait_for()
    assert page.evaluate('window.ran') is None and page.locator('main img').count() == 0
    context.close()


@pytest.mark.parametrize('config, what', [
    (dict(num_layers=2), '2 layers'), (dict(predict=False), 'only one decoder'), (dict(reconstruct=False), 'only one decoder'),
    (dict(conditional_future=True), 'a conditional decoder'), (dict(output='gaussian'), 'Gaussian outputs'),
    (dict(frame_shape=(3, 32, 32)), 'frames of (3, 32, 32)'), (dict(frame_shape=(1, 32, 30)), 'frames of (1, 32, 30)'),
    (dict(frame_shape=(1, 8, 8)), 'frames of 8 x 8 pixels'), (dict(frame_shape=(40,)), 'frames of (40,)'),
    (dict(hidden_size=900), '15,270,548 weights')])
def test_a_model_that_no_page_can_run_is_named(config, what):
    config = VideoLSTMConfig(**dict(frame_shape=(1, 32, 32), hidden_size=4) | config)
    with pytest.raises(ValueError, match='^model has ' + re.escape(what) + '.*expected an unconditional composite'):
        Playground(VideoLSTM(config))


def test_bad_arguments_of_a_playground():
    broken = little()
    broken.encoder.weight_hh_l0.data[0, 0] = float('nan')
    for bad, message in ((dict(model=3), 'model is 3'), (dict(model=broken), 'model has NaN'), (dict(side=3), 'side is 3'),
                         (dict(side=25), 'side is 25'), (dict(scene=3), 'scene is 3'), (dict(scene=dict(digits=[{}])), 'a digit has'),
                         (dict(scene=dict(seed=-1)), 'seed is -1'), (dict(scene=dict(seen=[1])), 'seen is'), (dict(title=3), 'title is 3'),
                         (dict(scene=dict(holds=[dict(gate='i')])), 'a hold has'), (dict(scene=dict(truth=1)), 'truth is 1'),
                         (dict(scene=dict(digits=[thing()] * 5)), 'digits is'), (dict(scene={3: 4}), "scene has ['3']")):
        with pytest.raises(ValueError, match='^' + re.escape(message)): Playground(**dict(model=little()) | bad)


def test_a_larger_frame_has_larger_digits():
    model = VideoLSTM.composite(frame_shape=(1, 64, 64), hidden_size=4)
    play = Playground(model)
    assert (play.network['side'], play.network['size']) == (28, 64) and play.clip(3).shape == (1, 3, 1, 64, 64)
    assert Playground(model, side=20).network['side'] == 20


def test_a_playground_keeps_notebooks_light():
    play = Playground()
    assert len(json.dumps(play.get_state(), default=str)) < 250_000 # the weights are no part of what a notebook saves
    assert 4_000_000 < len(write_weights(play)) < 5_000_000


def test_pictures_that_stand_in_are_readable_and_say_where_it_is_alive(stepper, tiny):
    for widget in stepper, tiny, CellLab():
        picture = Image.open(io.BytesIO(base64.b64decode(widget._repr_mimebundle_()[0]['image/png'])))
        plain = Image.open(io.BytesIO(widget.still_png()))
        assert picture.width == plain.width > 900 and 15 < picture.height - plain.height < 60
        line = np.asarray(picture.convert('L'))[plain.height:]
        assert line.min() < 160 and line[:, -20:].min() > 200 # words, and they end before the picture does
    frame = Image.open(io.BytesIO(stepper.still_png())).width / 12
    assert frame > 64 # a frame of twenty, ten in a line


# ---- the cell lab

@pytest.mark.browser
def test_the_lab_and_torch_agree(browser, tmp_path):
    context = browser.new_context(offline=True)
    page = context.new_page()
    rng = np.random.default_rng(1)
    page.goto(CellLab().to_html(tmp_path / 'a.html').as_uri())
    page.wait_for_function(f'{LAB}')
    for k in range(12):
        weights = {name: rng.uniform(-3, 3, n).round(2).tolist() for name, n in dict(input=4, recurrent=4, bias=4, peephole=3).items()}
        lab = CellLab(weights=weights, signal=rng.uniform(-1, 1, 40).round(2).tolist(), peepholes=bool(k % 2)) if k > 3 else \
            CellLab(['remember', 'forget', 'count', 'clock'][k])
        page.evaluate('''([weights, signal, peepholes]) => { const m = document.querySelector('.lvr-host').model;
            m.set('weights', weights); m.set('signal', signal); m.set('peepholes', peepholes); }''', [lab.weights, lab.signal, lab.peepholes])
        found, w = page.evaluate(f'{LAB}.curves()'), {k: torch.tensor(v) for k, v in lab.weights.items()}
        x, zero = torch.tensor(lab.signal)[None, :, None], torch.zeros(1, 1)
        hs, _, c = lstm_layer(x, zero, zero, w_ih=w['input'][:, None], w_hh=w['recurrent'][:, None], bias=w['bias'],
                              w_peephole=w['peephole'][:, None] if lab.peepholes else None, frames=40)
        torch.testing.assert_close(torch.tensor(found['h']), hs[0, :, 0], rtol=0, atol=1e-5)
        assert abs(found['c'][-1] - c.item()) < 1e-5
        for name, values in lab.curves().items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-9)
    context.close()


@pytest.mark.browser
def test_the_lab_is_played_by_hand_and_keys(browser, tmp_path):
    context = browser.new_context(offline=True)
    page = context.new_page()
    errors = []
    page.on('pageerror', lambda e: errors.append(e))
    page.goto(CellLab('clock').to_html(tmp_path / 'a.html').as_uri())
    page.wait_for_function(f'{LAB}')
    def get(key): return page.evaluate(f'document.querySelector(".lvr-host").model.get("{key}")')
    assert max(page.evaluate(f'{LAB}.curves().h')) > .5
    page.get_by_label('Peepholes').uncheck()
    assert max(page.evaluate(f'{LAB}.curves().h')) < .01
    paper = page.get_by_role('slider', name=re.compile('^Input'))
    paper.focus()
    for key in ('ArrowRight', 'ArrowRight', 'ArrowUp', 'ArrowUp', 'ArrowRight', 'ArrowDown'): page.keyboard.press(key)
    assert get('signal')[:5] == [0, 0, .2, -.1, 0] and get('index') == 3
    page.keyboard.press('0')
    assert get('signal')[3] == 0
    box = paper.bounding_box()
    page.mouse.move(box['x'] + 200, box['y'] + 10)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width'] - 3, box['y'] + 10, steps=2)
    page.mouse.up()
    assert len(set(get('signal')[10:])) == 1 and get('signal')[-1] > .8 # no gap in a quick stroke
    page.get_by_role('button', name='Clear the input').click()
    assert set(get('signal')) == {0}
    page.get_by_label('Story').select_option('forget')
    assert get('peepholes') and get('signal')[18] == -1
    knob = page.get_by_role('slider', name='Weight of forget gate f for the bias')
    knob.focus()
    page.keyboard.press('ArrowRight')
    assert get('weights')['bias'][1] == pytest.approx(10.1)
    assert CellLab(weights=get('weights'), signal=get('signal')) and errors == []
    context.close()

"The whole path, as a stranger walks it: the installed command in an empty folder, and its page in a real browser."
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def lvr(*words, cwd, check=True):
    "Run the `lvr` command in a process of its own."
    command = shutil.which('lvr', path=str(Path(sys.executable).parent))
    assert command, 'the command lvr is not installed beside this Python'
    done = subprocess.run([command, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=600)
    if check: assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    "A folder in which `lvr demo` has run, offline, and what it printed."
    folder = tmp_path_factory.mktemp('empty')
    return folder, lvr('demo', '--seconds', 5, '--n-clips', 40, cwd=folder).stdout


def test_demo_writes_what_it_says(demo):
    folder, said = demo
    for name in ('strip.png', 'animation.gif', 'index.html', 'your-model.safetensors', 'log.jsonl'):
        assert (folder/'demo'/name).stat().st_size > 100, name
        assert f'demo/{name}' in said.replace(os.sep, '/'), f'{name} is written but not announced'
    rows = [json.loads(line) for line in (folder/'demo/log.jsonl').read_text().splitlines()]
    assert rows[0]['step'] > 0 and rows[-1]['total'] < rows[0]['total'] + 20
    for word in ('repeat the last frame', 'mean frame', 'bundled model', 'Next:'): assert word in said


def test_demo_page_works_from_disk(demo, browser):
    "The stepper answers keys in a page opened from a file: address, and nothing is asked of any network."
    page = browser.new_page()
    asked, errors = [], []
    page.on('request', lambda r: asked.append(r.url))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
    page.goto((demo[0]/'demo/index.html').as_uri())
    slider = page.get_by_role('slider').first
    slider.wait_for()
    slider.focus()
    page.keyboard.press('Home')
    def value(): return slider.evaluate('e => Number(e.value ?? e.getAttribute("aria-valuenow"))')
    def canvas(): return page.locator('canvas').first.evaluate('c => c.toDataURL()')
    first, picture = value(), canvas()
    page.keyboard.press('ArrowRight')
    page.wait_for_timeout(200)
    assert value() == first + 1 and canvas() != picture
    assert errors == []
    assert [url for url in asked if not url.startswith(('file:', 'data:', 'blob:'))] == []
    page.close()


def test_own_model_goes_on(demo):
    "The model that the demo trained can be evaluated and drawn by the commands it names."
    folder, _ = demo
    assert 'nats' in lvr('evaluate', 'demo/your-model.safetensors', '--n-clips', 4, cwd=folder).stdout
    lvr('predict', 'demo/your-model.safetensors', '--out', 'mine.gif', '--future-steps', 3, cwd=folder)
    assert (folder/'mine.gif').read_bytes()[:4] == b'GIF8'


def test_train_resumes(tmp_path):
    "Cut after half of the steps and called again, `lvr train` ends with the same model as one that ran through."
    line = ['train', '--preset', 'quick', '--steps', 6, '--batch-size', 4, '--n-clips', 4, '--validate-every', 3]
    lvr(*line, '--out', 'whole', cwd=tmp_path)
    from lstm_video_repr.clips import MovingDigits
    from lstm_video_repr.training import train
    from lstm_video_repr.zoo import load_model, preset
    (tmp_path/'cut').mkdir()
    def stop(progress): progress.stop = progress.step == 3
    quick = preset('quick')
    train(quick.build(0), MovingDigits('embedded', seed=0), 6, quick.training, batch_size=4, checkpoint=tmp_path/'cut/checkpoint.safetensors', callbacks=[stop], progress=None)
    lvr(*line, '--out', 'cut', cwd=tmp_path)
    one, two = (load_model(tmp_path/name/'model.safetensors').state_dict() for name in ('whole', 'cut'))
    assert all(one[k].equal(two[k]) for k in one)


@pytest.mark.parametrize('line, code, word', [
    ('train --preset nothing --steps 3', 2, 'composite'), ('evaluate nowhere.safetensors', 1, 'nowhere.safetensors'),
    ('predict --digits letters', 2, 'embedded'), ('demo --seconds -1', 2, 'seconds'), ('fly', 2, 'demo'), ('train --steps many', 2, 'many')])
def test_mistakes_are_one_line(tmp_path, line, code, word):
    done = lvr(*line.split(), cwd=tmp_path, check=False)
    assert done.returncode == code and word in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.parametrize('command', ['', 'demo', 'train', 'evaluate', 'predict', 'download'])
def test_help(tmp_path, command):
    said = lvr(*command.split(), '--help', cwd=tmp_path).stdout
    assert 'usage: lvr' in said and len(said) > 200

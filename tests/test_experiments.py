"""The experiments: a quick run of all of them, what they write, how they go on after an interruption, what they measure
with, and the results that are kept."""
import io
import json
import math
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from experiments import actions, company, design, far, features, labels, learning, run
from lstm_video_repr.actions import load_classifier, load_label_curve
from lstm_video_repr.clips import MovingDigits, render
from lstm_video_repr.core.files import read_safetensors
from lstm_video_repr.digits import load_digits
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM, VideoOutput
from lstm_video_repr.percepts import as_encoder
from lstm_video_repr.training import Run, train
from lstm_video_repr.zoo import load_model

KEPT = sorted((ROOT/'experiments/results').glob('*.json'))
SMALL = ['design', '--quick', '--seeds', '0', '--test-clips', '2']      # design with the smallest sizes


def check_results(results, growing=False):
    "What any results file has; one that grows over several runs need not be finished."
    assert [k for k in run.REQUIRED if k not in results] == []
    assert results['rows'] and (results['finished'] or growing) and results['about'] == run.about(results['name'])
    digits = results['digits']
    assert digits['name'] in ('mnist', 'embedded') and digits['train'] > digits['test'] > 0
    parts = [r['part'] for r in results['rows']]
    assert len(set(parts)) == len(parts)
    for r in results['rows']:
        assert [k for k in run.MADE if k not in r['made']] == [], r['part']
        assert r['made']['seconds'] >= 0 and r['made']['versions']['torch'], r['part']
    assert results['clips_seen'] == sum(r['made']['clips_seen'] for r in results['rows'])
    assert results['seconds'] == pytest.approx(sum(r['made']['seconds'] for r in results['rows']), abs=.01)
    assert results['seeds'] == sorted({r['seed'] for r in results['rows'] if r.get('seed') is not None})
    assert re.findall(r'"/\w', json.dumps(results)) == [], 'a folder of this machine'


def check_design_row(r, floors):
    "What a row of design has: scores of its tasks on the same clips; teacher forcing where a decoder can be led."
    name, T, last = r['model'], 10, r['kind'] == 'baseline' or r['at_end']
    for task in ('reconstruction', 'future'):
        found = r['scores'][task]
        recalls = 'autoencoder' in name or name.startswith('composite')
        has = r['kind'] == 'baseline' or (recalls if task == 'reconstruction' else 'autoencoder' not in name)
        assert (found is not None) == has, (r['part'], task)
        if not has: continue
        for k in ('nats', 'floor', 'mse', *(['ssim'] if last else [])):
            values = found['per_frame'][k]
            assert len(values) == T and found['overall'][k] == pytest.approx(np.mean(values), rel=1e-4)
        floors.add((task, found['overall']['floor']))
        assert found['overall']['nats'] > found['overall']['floor'] and found['standard_error']['nats'] > 0
        if r['kind'] == 'baseline': continue
        conditional = 'conditional ' + ('autoencoder' if task == 'reconstruction' else 'future') in name
        forced = r['teacher_forced'][task]
        assert (forced is not None) == conditional, (r['part'], task)
        if not conditional: continue
        first, free = 0 if task == 'future' else -1, found['per_frame']['nats']     # emitted first, without an input
        assert len(forced) == T and forced[first] == pytest.approx(free[first], rel=1e-3)


def check_design(results, nats):
    "What design has: all arms of all layers and seeds at all points, the nats of each clip, and the same test clips."
    s, models = results['settings'], [r for r in results['rows'] if r['kind'] == 'model']
    points = list(design.steps_of(run.SimpleNamespace(**s)).values())
    for r in models: r['at_end'] = r['clips'] == max(points)
    wanted = {(m, l, k, c) for m in design.ARMS for l in s['layers'] for k in results['seeds'] for c in points}
    found = {(r['model'], r['layers'], r['seed'], r['clips']) for r in models}
    assert found == wanted if results['finished'] else found <= wanted
    assert {r['model'] for r in run.rows(results, kind='baseline')} == {'last frame', 'mean frame'}
    floors = set()
    for r in results['rows']:
        check_design_row(r, floors)
        for task in ('reconstruction', 'future'):
            if r['scores'][task] is None: continue
            each = nats[f'{r["part"]}: {task} nats'] / 10
            assert len(each) == s['test_clips']
            assert each.mean() == pytest.approx(r['scores'][task]['overall']['nats'], abs=.06)
    assert len(floors) == 2, 'all are measured on the same clips'
    own = {r.get('own_chance') for r in models if r['model'].endswith(design.OWN) and r['at_end']}
    assert own == {1} if results['finished'] else own <= {1}


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "Runs an experiment, tiny, once: a folder with its results, and what was printed."
    done = {}
    def of(name):
        if name not in done:
            out, said = tmp_path_factory.mktemp(name), io.StringIO()
            with redirect_stdout(said): status = run.main([name, '--quick', '--out', str(out)])
            assert status == 0, said.getvalue()
            done[name] = out, said.getvalue()
        return done[name]
    return of


@pytest.mark.parametrize('name', run.names())
def test_quick(name, quick):
    out, said = quick(name)
    results = run.load(out/f'{name}.json')
    check_results(results)
    assert results['name'] == name and results['quick']
    assert results['digits'] == dict(name='embedded', train=1437, test=360)
    stamp = {'machine', 'versions', 'date', 'commit'}
    assert stamp <= results.keys() and stamp <= results['rows'][0]['made'].keys()
    assert f'{name}: complete' in said
    assert [r['part'] for r in results['rows'] if f'{name}: {r["part"]}: done' not in said] == []


def test_the_command_runs_what_is_named(tmp_path):
    command = [sys.executable, str(ROOT/'experiments/run.py'), *SMALL, '--out', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and 'design: complete' in done.stdout, done.stdout + done.stderr
    assert [p.name for p in sorted(tmp_path.iterdir())] == ['design.json', 'design.npz', 'runs']


def test_company(quick):
    results = run.load(quick('company')[0]/'company.json')
    assert [r['part'] for r in results['rows']] == ['before', *(f'{arm}, seed 0' for arm in company.ARMS)]
    before, blind, truth, own = results['rows']
    assert before['teacher_forced'] is None and blind['teacher_forced'] is None, 'nothing to be shown'
    assert len(truth['teacher_forced']) == len(own['teacher_forced']) == 10
    nats = {r['scores']['future']['overall']['nats'] for r in results['rows']}
    assert len(nats) == 4, 'three trainings, each its own'


def test_new_eyes_change_nothing_at_first():
    model = VideoLSTM.composite(hidden_size=6, frame_shape=(1, 5, 5), seed=1)
    seeing = company.conditioned(model)
    assert seeing.config.conditional_future and not seeing.config.conditional_reconstruction
    past, future = torch.rand(2, 3, 4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): a, b = (m(past, future_frames=4) for m in (model, seeing))
    torch.testing.assert_close(a.future, b.future)
    torch.testing.assert_close(a.reconstruction, b.reconstruction)
    torch.testing.assert_close(model.loss(past, future).future, seeing.loss(past, future).future)
    seeing.loss(past, future).future.backward()
    assert seeing.future_decoder.lstm.weight_ih_l0.grad.abs().max() > 0, 'but they will learn'


def settings_of(results): return run.SimpleNamespace(**results['settings'])


def test_learning(quick):
    results = run.load(quick('learning')[0]/'learning.json')
    s, rows = settings_of(results), results['rows']
    base = learning.base_of(rows, s)
    early, late = learning.early_ways(s, base), learning.late_ways(base)
    tried = [n for n, way in early.items() if way.final]
    kinds = ['tuned']*len(s.tuned) + ['long'] + ['late']*len(late) + ['early']*len(tried) + ['cost']
    assert [r['kind'] for r in rows][:len(kinds)] == kinds
    assert [r['way'] for r in rows if r['kind'] == 'early'][:len(tried)] == tried
    more = rows[len(kinds):]
    again = [('tuned', 1), *[('early', 1)]*s.finalists, ('late', 1)]
    assert [(r['kind'], r['seed']) for r in more[:s.finalists + 2]] == again
    known = [n for n, way in early.items() if not way.final]
    assert [(r['way'], r['seed']) for r in more[s.finalists + 2:]] == [(n, 0) for n in known] + [(n, 1) for n in learning.ASKED]
    nats = {r['way']: learning.measured(r) for r in rows if r.get('seed') == 0 and r['kind'] in ('tuned', 'early')}
    assert nats.pop('readout not started from the mean frame') > 2000 > max(nats.values())
    assert len(set(nats.values())) > .8 * len(nats), 'each is a training of its own'
    best = min(map(learning.call, learning.recipes_of(s)), key=nats.get)
    assert results['notes']['base'] == learning.call(base) == best


def test_learning_keeps_its_budget(quick):
    results = run.load(quick('learning')[0]/'learning.json')
    s, rows = settings_of(results), {r['way']: r for r in results['rows'] if r['kind'] in ('tuned', 'early')}
    base = rows[results['notes']['base']]
    changed = {n: {k: v for k, v in r['recipe'].items() if v != base['recipe'][k]} for n, r in rows.items()}
    assert changed['rate x 2'] == dict(lr=2 * base['recipe']['lr']) and changed['two layers'] == changed['SOAP'] == {}
    assert {r['clips'] for r in rows.values() if r['budget'] == 'clips'} == {s.clips}
    batch, two = base['recipe']['batch_size'], learning.work(s.units, 2) / learning.work(s.units)
    assert rows['two layers']['clips'] == round(s.clips / two / batch) * batch and two > 1
    assert rows['short clips for half of the work']['clips'] == 1.5 * s.clips
    grown = rows['two layers, the second grown halfway']
    assert grown['parameters'] == rows['two layers']['parameters'] > base['parameters']


def test_learning_tables(quick):
    results = run.load(quick('learning')[0]/'learning.json')
    s = settings_of(results)
    found = learning.tables(results['rows'], s)
    assert run.plain(found) == results['notes']['tables']
    for lines in found.values(): assert [x['mean'] for x in lines] == sorted(x['mean'] for x in lines)
    by = {x['way']: x for x in found['early']}
    assert by[results['notes']['base']]['mean'] == 0 and by[results['notes']['base']]['seeds'] == 2
    assert {n for n in by if 'averaged' in n} == {'rate x 2, weights averaged', 'constant rate, weights averaged'}
    assert by['half from a wider teacher']['seconds'] > 2 * by['rate x 2']['seconds'] > 0
    assert {x['seeds'] for x in found['late']} == {1, 2}
    pair = [dict(scores=dict(future=dict(nats=n)), seed=k) for k, n in enumerate((5., 9.))]
    assert learning.paired(pair, {0: 4., 1: 6.}) == dict(mean=2., error=1., seeds=2)


def tiny_training(way, steps=8, **options):
    "A tiny model, trained in a way."
    model = VideoLSTM.composite(frame_shape=(1, 8, 8), hidden_size=6, seed=0)
    clips = MovingDigits(torch.ones(3, 3, 3), n_digits=1, image_size=8, past=6, future=6, seed=0)
    step = 'plain' if way is None else learning.Step(way, whole=steps, **options)
    changes = dict(batch_size=4, warmup=2) | (way.recipe if way else {})
    return model, train(model, clips, steps=steps, step=step, progress=None, **changes), clips


def test_a_way_that_changes_nothing():
    plain, same, four = (tiny_training(way)[0] for way in (None, learning.Way(), learning.Way(late_batch=4)))
    pairs = list(zip(plain.parameters(), same.parameters(), four.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and any(not torch.equal(a, c) for a, _, c in pairs)


def test_curricula_change_the_clips():
    seen = []
    def loss(model, past, future):
        seen.append((past.shape[1], future.shape[1], past.sum().item() == 0))
        return model.loss(past, future)
    tiny_training(learning.Way(short=2, loss=loss), steps=9)
    assert [x[:2] for x in seen] == [(2, 2)]*6 + [(6, 6)]*3
    seen.clear()
    blank = MovingDigits(torch.zeros(1, 3, 3), n_digits=1, image_size=8, past=6, future=6)
    tiny_training(learning.Way(easy=1, loss=loss), clips=blank)
    assert [x[2] for x in seen] == [True]*4 + [False]*4


def test_truncation_and_a_teacher():
    model, _, clips = tiny_training(None)
    past, future = clips.batch(8)
    def gradient(loss):
        model.zero_grad()
        loss.total.backward()
        return model.encoder.weight_hh_l0.grad.clone(), loss.total.item()
    whole, a = gradient(model.loss(past, future))
    cut, b = gradient(learning.truncated(model, past, future, blind=3))
    assert a == pytest.approx(b, rel=1e-5) and (whole - cut).abs().max() > 1e-3 * whole.abs().max()
    truth, _ = gradient(learning.distilled(model, past, future, teacher=model, share=0.))
    torch.testing.assert_close(truth, whole)
    itself, _ = gradient(learning.distilled(model, past, future, teacher=model, share=1.))
    assert itself.abs().max() < 1e-4 * whole.abs().max(), 'nobody learns from what he says himself'


def test_a_second_layer_changes_little():
    model, _, clips = tiny_training(None)
    past, future = clips.batch(8)
    two = learning.grow(model)
    assert two.config.num_layers == 2
    with torch.no_grad(): a, b = (m(past, future_frames=6).future for m in (model, two))
    assert 0 < (a - b).abs().max() < .05 * a.max()
    fresh = VideoLSTM.composite(frame_shape=(1, 8, 8), hidden_size=6, num_layers=2, seed=0)
    with torch.no_grad(): other = fresh(past, future_frames=6).future
    assert (a - b).abs().max() < .1 * (a - other).abs().max()


def gradients(n, *shape): return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)).unbind()


def steps_of(optimizer, weight, given):
    for g in given:
        weight.grad = g.clone()
        optimizer.step()
    return weight.detach()


def test_soap_is_adam_in_other_axes():
    given, turn = gradients(6, 5, 5), torch.linalg.qr(gradients(1, 5, 5)[0])[0]
    plain, adam, soap, turned = (torch.nn.Parameter(torch.zeros(5, 5)) for _ in range(4))
    steps_of(torch.optim.Adam([adam], .01, betas=(.9, .99)), adam, given[1:])
    steps_of(learning.Soap([('readout.weight', plain)], .01, betas=(.9, .99), side=2), plain, given)
    torch.testing.assert_close(plain, adam)                                # no side is turned; the first only begins
    options = dict(betas=(.9, .99), every=2)
    steps_of(learning.Soap([('readout.weight', soap)], .01, **options), soap, given)
    steps_of(learning.Soap([('readout.weight', turned)], .01, **options), turned, [turn @ g for g in given])
    torch.testing.assert_close(turn @ soap, turned, rtol=1e-3, atol=1e-4)  # whatever the axes, the same steps
    assert (soap - plain).abs().max() > .005


def test_muon_moves_all_directions_alike():
    w = torch.nn.Parameter(torch.zeros(16, 6))                              # four gates of 4 x 6
    steps_of(learning.Muon([('lstm.weight_hh_l0', w)], 1.), w, gradients(3, 16, 6)[:1])
    values = torch.linalg.svdvals(w.view(4, 4, 6).detach()) / (.2 * 6**.5)
    assert .6 < values.min() and values.max() < 1.3
    x = gradients(1, 5, 9)[0]
    torch.testing.assert_close(learning.orthogonal(x.mT), learning.orthogonal(x).mT, rtol=1e-4, atol=1e-5)


def test_schedule_free_by_hand():
    w = torch.nn.Parameter(torch.tensor([1., -2.], dtype=torch.float64))
    optimizer = learning.ScheduleFree([w], .1)
    x = y = z = np.array([1., -2.])
    v, total = 0, 0
    for t in range(1, 6):
        w.grad = 2 * w.detach()
        optimizer.step()
        v, rate = .999*v + .001 * (2*y)**2, .1 * (1 - .999**t)**.5
        z, total = z - rate * 2*y / (v**.5 + 1e-8), total + rate**2
        x = x + (z - x) * rate**2 / total
        y = .1*z + .9*x
        np.testing.assert_allclose(w.detach().numpy(), y)
    optimizer.finish()
    np.testing.assert_allclose(w.detach().numpy(), x)


def test_optimisers_learn_and_leave_the_rest_to_adam():
    ways = learning.optimiser_ways(1.5e-3)
    losses = {n: tiny_training(way, steps=30)[1].rows[-1]['total'] for n, way in {'Adam': None, **ways}.items()}
    start = tiny_training(None, steps=1)[1].rows[0]['total']
    assert len(set(losses.values())) == len(losses) and max(losses.values()) < start - 1, losses
    model = VideoLSTM.composite(frame_shape=(1, 8, 8), hidden_size=6)
    first, rest = learning.muon(model, learning.get_recipe('adam'), learning.is_recurrent)
    sizes = [sum(p.numel() for g in o.param_groups for p in g['params']) for o in (first, rest)]
    assert sizes == [3 * 4*6*6, sum(p.numel() for p in model.parameters()) - 3 * 4*6*6]


def test_average_and_forget_gates():
    model, seen = torch.nn.Linear(1, 1, bias=False), learning.Average(.5)
    for w in (8., 4., 2.):
        model.weight.data.fill_(w)
        seen(run.SimpleNamespace(model=model))
    assert seen.model.weight.item() == 4 and model.weight.item() == 2      # 8; (8 + 4)/2 = 6; (6 + 2)/2 = 4
    fresh, lstm = (VideoLSTM.composite(hidden_size=3, frame_shape=(1, 5, 5)) for _ in range(2))
    learning.forget_nothing_special(lstm)
    biases = [p for m in (fresh, lstm) for n, p in m.named_parameters() if '.bias_l' in n]
    assert [b.count_nonzero() for b in biases] == [3, 3, 3, 0, 0, 0], 'of all biases only theirs were not 0'


def test_design(quick):
    results, pictures = run.load(quick('design')[0]/'design.json'), np.load(quick('design')[0]/'design.npz')
    check_design(results, pictures)
    parts = [r['part'] for r in results['rows']]
    wanted = [f'{m}, 1 layer, seed {s}, {n} clips' for s in design.QUICK['seeds'] for m in design.ARMS for n in (8, 16)]
    assert parts[2:] == wanted, 'all points of a model come before the next model, all models before the next seed'
    one, other = (run.rows(results, model='composite', seed=s, clips=16)[0] for s in design.QUICK['seeds'])
    assert one['scores'] != other['scores'] and one['training']['losses'] != other['training']['losses']
    assert [r['training']['clips'] for r in run.rows(results, model='composite', seed=0)] == [8, 16]
    assert {r['made']['clips_seen'] for r in results['rows'] if r['kind'] == 'model'} == {8}, 'each part its own'
    shapes = {pictures[k].shape for k in ('last frame: past', 'composite, 1 layer, seed 0, 16 clips: reconstruction')}
    assert shapes == {(3, 10, 1, 64, 64)}
    forced = {f'{m}, 1 layer, seed 0, 16 clips: forced' for m in design.ARMS if 'conditional future' in m}
    assert {k for k in pictures.files if k.endswith('forced')} == forced


def test_own_frames_are_another_training(quick):
    "The same first weights and clips; at the first point, after a training with few of its own, hardly another model."
    results = run.load(quick('design')[0]/'design.json')
    for name in (m for m in design.ARMS if m.endswith(design.OWN)):
        led, own = (run.rows(results, model=m, seed=0, clips=16)[0] for m in (name.removesuffix(design.OWN), name))
        assert led['parameters'] == own['parameters'] and led['scores'] != own['scores'] and 'own_chance' not in led
    assert [design.own_chance(k, 8) for k in (0, 1, 2, 4, 8)] == [0, .25, .5, 1, 1]


def test_the_kept_model_is_the_one_that_was_measured(quick):
    out, _ = quick('design')
    results = run.load(out/'design.json')
    context = run.Context('other', {}, out=out, digits='embedded')
    path = design.model_file(context, 'composite', layers=1, seed=1)
    model = load_model(path)
    assert model.card['clips'] == 16 and model.card['experiment'] == 'design' and model.card['units'] == 6
    row = run.rows(results, model='composite', seed=1, clips=16)[0]
    scores = evaluate(model, context.test_clips(4, seed=design.SETTINGS['test_seed'])).to_dict()
    assert scores['future']['overall'] == pytest.approx(row['scores']['future']['overall'], rel=1e-4)
    last = {k[6:]: v for k, v in read_safetensors(path.with_name('composite-1-layer-seed-1.safetensors'))[0].items()}
    bias = 'future_decoder.readout.bias'
    assert torch.equal(model.state_dict()[bias], last[f'average.{bias.replace(".", "-")}'])


def test_weights_are_averaged_over_a_tenth():
    model = torch.nn.Linear(1, 1)
    average = design.Average(model)
    values = torch.arange(1., 41)
    for step, value in enumerate(values, 1):
        model.weight.data.fill_(value)
        average.update(model, step)
        if step <= design.MEMORY: assert average.weight == value, 'few steps: no average'
    share, weights = 1., []
    for step in range(40, 10, -1):
        weights.append(share * 10 / step)
        share *= 1 - 10 / step
    assert average.weight.item() == pytest.approx(sum(w * v for w, v in zip(weights, values.flip(0))) + share * 10)
    assert average.steps == 40 and 2 < 40 - average.weight.item() < 4


def test_a_second_run_changes_nothing(quick, tmp_path, capsys):
    shutil.copytree(quick('design')[0], tmp_path/'again')
    before = (tmp_path/'again/design.json').read_bytes()
    assert run.main(['design', '--quick', '--out', str(tmp_path/'again')]) == 0
    assert (tmp_path/'again/design.json').read_bytes() == before
    assert capsys.readouterr().out.count('kept from') == 2 + 2 * 2 * len(design.ARMS)


def test_a_missing_part_is_made_again(quick, tmp_path):
    "The others are kept as they were; a new one equals the old one but for its date, with a checkpoint or without."
    shutil.copytree(quick('design')[0], tmp_path/'again')
    lost = ['composite, 1 layer, seed 0, 8 clips', 'composite, 1 layer, seed 0, 16 clips',
            'conditional autoencoder, own frames, 1 layer, seed 1, 16 clips']
    path, runs = tmp_path/'again/design.json', tmp_path/'again/runs/design'
    old = run.load(path)
    path.write_text(json.dumps(old | dict(rows=[r for r in old['rows'] if r['part'] not in lost])))
    (runs/'composite-1-layer-seed-0.safetensors').unlink()
    assert run.main(['design', '--quick', '--out', str(path.parent)]) == 0
    new = run.load(path)
    check_results(new)
    before, after = ({r['part']: r for r in x['rows']} for x in (old, new))
    assert before.keys() == after.keys()
    for name in before:
        same = ('scores', 'teacher_forced') if name in lost else {**before[name], **after[name]}
        assert [k for k in same if before[name].get(k) != after[name].get(k)] == [], name


@pytest.mark.parametrize('where', ['middle of a step', 'after a step', 'in the second part'])
def test_an_interrupted_training_goes_on(where, tmp_path, monkeypatch, capsys):
    "Stopped anywhere: it goes on from there, and all ends as if nothing had happened, averages and own frames, too."
    name = 'composite, conditional future predictor, own frames'
    for k, v in dict(ARMS=(name,), MODELS={name.removesuffix(design.OWN): design.MODELS[name.removesuffix(design.OWN)]},
                     BASELINES=('mean frame',)).items(): monkeypatch.setattr(design, k, v)
    words, read, calls = [*SMALL, '--out'], MovingDigits.read, []
    assert run.main([*words, str(tmp_path/'whole')]) == 0
    last = {'middle of a step': 1 + 1 + 2, 'after a step': 0, 'in the second part': 1 + 1 + 2 + 2}[where]
    def counted(self, first, n):        # mean frame, output bias, then steps
        if len(self.digits) == 1437: calls.append(n)
        if len(calls) == last: raise KeyboardInterrupt
        return read(self, first, n)
    complete = Run.complete
    def cut(self):
        complete(self)
        if where == 'after a step' and self.step == 1 and not self.row: raise KeyboardInterrupt
    with monkeypatch.context() as patched:
        patched.setattr(MovingDigits, 'read', counted)
        patched.setattr(Run, 'complete', cut)
        assert run.main([*words, str(tmp_path/'cut')]) == 130
    assert 'goes on from here' in capsys.readouterr().out and not run.load(tmp_path/'cut/design.json')['finished']
    calls.clear()
    assert run.main([*words, str(tmp_path/'cut')]) == 0
    whole, done = (run.load(tmp_path/k/'design.json')['rows'] for k in ('whole', 'cut'))
    for a, b in zip(whole, done, strict=True):
        assert [k for k in a if k not in ('made', 'training') and a[k] != b[k]] == [], a['part']
        assert a['made']['clips_seen'] == b['made']['clips_seen']


def test_more_seeds_and_layers_are_added_and_other_settings_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(design, 'ARMS', ('composite',))
    words = SMALL + ['--out', str(tmp_path)]
    assert run.main(words) == 0
    first = run.load(tmp_path/'design.json')
    for name, value, said in (('clips', '24', 'clips 16 (now 24)'), ('layers', '2', 'layers [1] (now [2])')):
        assert run.main([*words, f'--{name}', value]) == 1
        error = capsys.readouterr().err
        assert said in error and '--fresh' in error and run.load(tmp_path/'design.json') == first
    assert run.main([*words[:3], '0,5', *words[4:], '--layers', '1,2']) == 0
    more = run.load(tmp_path/'design.json')
    assert more['rows'][:len(first['rows'])] == first['rows'] and more['finished']
    assert more['seeds'] == [0, 5] == more['settings']['seeds'] and more['settings']['layers'] == [1, 2]
    assert len(run.rows(more, layers=2)) == 4 and len(run.rows(more, layers=1)) == 4
    assert run.main([*words, '--clips', '24', '--fresh']) == 0
    assert run.load(tmp_path/'design.json')['settings']['clips'] == 24


@pytest.mark.parametrize('words, said', [
    (['nothing', 'design'], "no experiment 'nothing'"), (['design', '--units', 'many'], "--units is 'many'"),
    (['design', '--units', '0'], 'hidden_size is 0; expected a whole number of at least 1 (experiments/design.py, '),
    (['design', '--wrong', '1'], 'unrecognized'), (['design', '--precision', 'fp7'], "precision is 'fp7'")])
def test_mistakes_are_named(words, said, tmp_path, capsys):
    try: status = run.main([*words, '--quick', '--out', str(tmp_path)])
    except SystemExit as stop: status = stop.code
    assert status in (1, 2) and said in capsys.readouterr().err


def test_list(quick, tmp_path, capsys):
    assert run.main(['--list', '--out', str(quick('design')[0])]) == 0
    said = capsys.readouterr().out
    for name in run.names(): assert run.about(name) in said
    parts = len(run.load(quick('design')[0]/'design.json')['rows'])
    assert parts > 20 and said.count(f'{parts} parts, complete, embedded digits') == 1
    assert said.count('not run yet') == len(run.names()) - 1
    assert run.main(['--list', '--out', str(tmp_path)]) == 0 and 'not run yet' in capsys.readouterr().out


def test_context_keeps_train_and_test_digits_apart(tmp_path):
    context = run.Context('any', {}, out=tmp_path, digits='embedded')
    assert torch.equal(context.train_clips().digits, load_digits('embedded', 'train')[0])
    assert torch.equal(context.test_clips(3).source.digits, load_digits('embedded', 'test')[0])
    with pytest.raises(ValueError, match='finite'): context.part('bad', lambda: dict(x=float('nan')))
    with pytest.raises(ValueError, match='outside of a part'): context.train(None, None)
    with pytest.raises(ValueError, match='no parts'): context.finish()
    assert context.rows == [] and not (tmp_path/'any.json').exists()
    (tmp_path/'any.json').write_text('{"rows": [')
    with pytest.raises(ValueError, match='any.json'): run.load(tmp_path/'any.json')
    with pytest.raises(FileNotFoundError, match='run.py other'): run.load(tmp_path/'other.json')


def test_teacher_forcing_is_that_of_training(tmp_path):
    "Its mean over frames is the loss of training; for an unconditional decoder there is nothing to force."
    clips = run.Context('any', {}, out=tmp_path, digits='embedded').test_clips(5)
    model = VideoLSTM.composite(hidden_size=6, conditional_reconstruction=True, conditional_future=True)
    forced, loss = design.teacher_forced(model, clips, batch_size=2), model.loss(*clips.batch(5))
    assert forced['reconstruction'].mean().item() == pytest.approx(loss.reconstruction.item(), rel=1e-5)
    assert forced['future'].mean().item() == pytest.approx(loss.future.item(), rel=1e-5)
    blind = VideoLSTM.composite(hidden_size=6)
    assert design.teacher_forced(blind, clips) == dict(reconstruction=None, future=None)


def test_what_is_shown_runs_forwards():
    model = VideoLSTM.composite(hidden_size=4, frame_shape=(1, 3, 3), conditional_future=True)
    past, future = torch.rand(2, 2, 5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    found = design.frames(model, past, future[:, :2])
    assert {k: tuple(v.shape) for k, v in found.items()} == dict(
        reconstruction=(2, 5, 1, 3, 3), future=(2, 2, 1, 3, 3), forced=(2, 2, 1, 3, 3))
    torch.testing.assert_close(found['reconstruction'].flip(1), model(past).reconstruction.detach())
    same = (found['forced'] == found['future']).flatten(2).all(2)
    assert same[:, 0].all() and not same[:, 1].any(), 'there is nothing to be shown before the first frame'


# ---- far: the tracker

def true_clips(n_digits, n, seed=3, frames=20, **options):
    "True frames, the digits in them, where they are, and their names."
    source = MovingDigits('embedded', n_digits=n_digits, split='test', seed=seed, past=1, future=frames - 1, **options)
    which, corners = source.plan(0, n)
    names = load_digits('embedded', 'test')[1][which]
    return source.clips(0, n), source.digits[which].float() / 255, corners, names


def visible(digits, corners):
    "(B, N, T): share of each digit's energy that no other digit touches."
    shares = []
    for n in range(digits.shape[1]):
        others = [m for m in range(digits.shape[1]) if m != n]
        own = render(digits[:, [n]], corners[:, [n]])**2
        free = render(digits[:, others], corners[:, others]) == 0 if others else torch.ones_like(own)
        shares.append((own * free).sum((2, 3, 4)) / own.sum((2, 3, 4)))
    return torch.stack(shares, 1)


def test_correlation_is_the_sum_over_each_window():
    g = torch.Generator().manual_seed(0)
    frames, picture = torch.rand(2, 3, 9, 9, generator=g), torch.rand(2, 1, 4, 4, generator=g)
    plain = (frames.unfold(2, 4, 1).unfold(3, 4, 1) * picture[:, :, None, None]).sum((-2, -1))
    torch.testing.assert_close(far.correlation(frames, picture), plain)


@pytest.mark.parametrize('n_digits, n', [(1, 10), (2, 25), (3, 8)])
def test_the_tracker_is_exact_on_true_frames(n_digits, n):
    frames, digits, corners, _ = true_clips(n_digits, n)
    found, there = far.track(frames, digits)
    wrong = (found != corners).any(-1)
    seen = visible(digits, corners)
    assert (seen < .9).any() or n_digits == 1           # some do overlap
    assert wrong.float().mean() < .005
    if n_digits < 3: assert not (wrong & (seen > .25)).any()    # what can be seen is found
    torch.testing.assert_close(there[~wrong], torch.ones_like(there[~wrong]), atol=.02, rtol=0)


def test_mnist_digits_are_found_too(mnist_folder):
    source = MovingDigits('mnist', split='test', seed=5, past=10, future=10, folder=mnist_folder)
    which, corners = source.plan(0, 20)
    digits = source.digits[which].float() / 255
    wrong = (far.track(source.clips(0, 20), digits)[0] != corners).any(-1)
    assert not (wrong & (visible(digits, corners) > .25)).any() and wrong.float().mean() < .005


def test_digits_on_top_of_each_other_are_told_apart():
    _, digits, _, names = true_clips(2, 40)
    digits = digits[names[:, 0] != names[:, 1]][:12]
    shifts = torch.tensor([[0, 0], [0, 3], [4, 0], [5, 5], [-6, 2]])
    corners = torch.full((len(digits), 2, len(shifts), 2), 18)
    corners[:, 1] += shifts
    found, _ = far.track(render(digits, corners), digits)
    exact = (found == corners).all(-1)
    assert exact[(visible(digits, corners) > .25)].all() and exact.float().mean() > .95


def test_faint_and_blurred_digits_are_found():
    frames, digits, corners, _ = true_clips(2, 6)
    found, there = far.track(frames * .3, digits)
    clear = visible(digits, corners) > .25
    assert (found == corners).all(-1)[clear].all()
    torch.testing.assert_close(there[clear], torch.full_like(there[clear], .3), atol=.01, rtol=0)
    blurred = far.blur(frames[:, :, 0].flatten(0, 1), 3.).view_as(frames)
    found, there = far.track(blurred, digits)
    off = far.path_errors(found, corners)[1]
    assert off.median() <= 1 and (off <= 3).float().mean() > .9 and abs(there.median() - 1) < .1


def test_an_empty_frame_is_no_error():
    _, digits, _, _ = true_clips(2, 2)
    found, there = far.track(torch.zeros(2, 3, 1, 64, 64), digits)
    assert found.shape == (2, 2, 3, 2) and (there.abs() < 1e-6).all()


def test_path_errors():
    true = torch.randint(0, 37, (4, 3, 5, 2), generator=torch.Generator().manual_seed(0))
    own, error = far.path_errors(true, true)
    assert own.shape == error.shape == (4, 3, 5) and not own.any() and not error.any()
    own, error = far.path_errors(true[:, [1, 2, 0]], true)
    assert not error.any() and own.any()
    moved = true + torch.tensor([3, 4])
    assert (far.path_errors(moved, true)[0] == 5).all() and (far.path_errors(moved, true)[1].sum(1) <= 15).all()


def test_frames_until():
    assert far.frames_until([0, 0, 0, 9, 9, 9], 5) == 4          # the mean of frames 3, 4 and 5 is 6
    assert far.frames_until([9, 9, 9], 5) == 1
    assert far.frames_until([0, 0, 9, 0, 0], 5) is None


def test_blur_keeps_the_ink():
    _, digits, _, _ = true_clips(1, 3)
    x = torch.nn.functional.pad(digits[:, 0], (9, 9, 9, 9))
    assert torch.equal(far.blur(x, 0.), x)
    torch.testing.assert_close(far.blur(x, 2.).sum((1, 2)), x.sum((1, 2)))
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    soft = far.blur(point, 1.5)[0]
    assert torch.equal(soft, soft.T)
    assert soft[10, 12] / soft[10, 10] == pytest.approx(math.exp(-4 / 4.5), rel=1e-4)


# ---- far: names, sharpness

def test_windows_are_the_digits():
    frames, digits, corners, _ = true_clips(1, 4)
    assert torch.equal(far.cut(frames, corners), digits[:, :, None].expand(-1, -1, frames.shape[1], -1, -1))


def test_the_reader_reads_digits_it_has_not_seen():
    reader = far.train_reader(*load_digits('embedded', 'train'), steps=200, seed=0)
    images, labels = load_digits('embedded', 'test')
    assert (reader.name(images.float() / 255) == labels).float().mean() > .8
    bright, dim = (reader.name(images.float() / most) for most in (255, 1000))
    assert torch.equal(bright, dim), 'brightness does not matter'
    a, b = (far.train_reader(*load_digits('embedded', 'train'), steps=2, seed=1).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_sharpness():
    x = torch.zeros(1, 3, 1, 64, 64)
    x[:, 1, :, :8, :8], x[:, 2] = 1, .5
    found = far.sharpness(x)
    torch.testing.assert_close(found['ink'], torch.tensor([[0., 64., 2048.]]))
    torch.testing.assert_close(found['entropy'], torch.tensor([[0., 0., 4096 * math.log(2)]]))
    torch.testing.assert_close(found['crisp'], torch.tensor([[0., 1., .5]]))


def test_centre():
    frames, digits, corners, _ = true_clips(1, 5)
    found = far.centre(frames)
    torch.testing.assert_close(found.diff(), corners[:, 0].diff(dim=1).transpose(1, 2).float(), atol=1e-4, rtol=0)
    x = torch.zeros(1, 1, 1, 64, 64)
    x[..., 31:33, 63] = 1
    assert far.centre(x).flatten().tolist() == [0, 31.5]


# ---- far: units

def test_rhythm_knows_waves_from_fading():
    t = torch.arange(80.)
    wave, fade = (2 * math.pi * t / 20).sin(), (-t / 10).exp()
    noise = torch.randn(80, generator=torch.Generator().manual_seed(0))
    share, period, back = far.rhythm(torch.stack([wave, fade, noise])).values()
    assert period[0] == 20 and share[0] > .95 and back[0] > .95
    assert back[1] < .35 and share[2] < .3
    r = far.autocorrelation(wave, 41)
    assert r[0] == 1 and r[10] < -.9 and r[20] > .9


# ---- far: all of it

class Oracle:
    "Answers with the truth of the first clips of a source."
    def __init__(self, source, n): self.clips, self.now = source.clips(0, n), source.past

    def __call__(self, past, *, future_frames, reconstruction_frames):
        before, after, seen = self.clips[:, :self.now].flip(1), self.clips[:, self.now:], past.shape[1]
        if torch.equal(past, self.clips[:, self.now - seen:self.now].flip(1)): before, after = None, before[:, seen:]
        def sure(x, frames): return None if x is None else x[:, :frames].clamp(1e-4, 1 - 1e-4).logit()
        return VideoOutput(sure(before, reconstruction_frames), sure(after, future_frames))


def test_the_truth_has_no_errors():
    source = MovingDigits('embedded', split='test', seed=8, past=14, future=6)
    names = load_digits('embedded', 'test')[1]
    reader = far.train_reader(*load_digits('embedded', 'train'), steps=60)
    found = far.look(Oracle(source, 6), source, names, n_clips=6, reader=reader, truth=True, batch=6)
    assert [len(found[k]['nats']) for k in ('ahead', 'back', 'again')] == [6, 14, 4]
    for k in ('ahead', 'back', 'again'):
        assert not any(x.any() for x in (found[k]['error']['q3'], found[k]['own_error']['q3'], found[k]['confused']))
        torch.testing.assert_close(found[k]['names_found'], found[k]['names_true'])
        assert (found[k]['chance']['median'] > 3).all()
        assert (found[k]['nats'] - found[k]['floor']).abs().max() < 3
        assert (found[k]['presence'] > .98).all()
    torch.testing.assert_close(found['ahead']['names_true'], found['truth']['names_true'])
    assert found['ahead']['still']['median'][0] > 1
    assert found['ahead']['pace'].median() > 2                      # 3.6 pixels a frame, less at walls


def test_boxes_and_the_control():
    x = far.boxes(20, seed=1)
    assert x.shape == (20, 28, 28) and len({p.numpy().tobytes() for p in x}) > 10
    assert torch.equal(x, far.boxes(20, seed=1))
    model = VideoLSTM.composite(hidden_size=5, seed=0)
    mean = torch.full((1, 64, 64), .1)
    control = far.control_of(model, mean, seed=4)
    assert control.config == model.config and not torch.equal(control.encoder.weight_ih_l0, model.encoder.weight_ih_l0)
    with torch.no_grad(): out = control(torch.zeros(1, 3, 1, 64, 64), future_frames=2)
    assert abs(out.future.mean() - .1) < .02


def test_far(quick, tmp_path, capsys):
    shutil.copytree(quick('far')[0], tmp_path/'again')
    path = tmp_path/'again/far.json'
    found, text = run.load(path), path.read_text()
    assert {r['kind'] for r in found['rows']} == {'reader', 'far', 'crowd', 'speed', 'kind', 'activity'}
    ahead = run.rows(found, kind='far', model='model')[0]
    assert len(ahead['ahead']['nats']) == far.QUICK['ahead']
    assert len(ahead['back']['nats']) == far.QUICK['behind'] + far.PAST
    assert run.main(['far', '--quick', '--out', str(path.parent)]) == 0 and path.read_text() == text
    assert 'kept from' in capsys.readouterr().out


def test_an_unseen_class(quick):
    found = run.load(quick('unseen')[0]/'unseen.json')
    assert [r['left_out'] for r in found['rows']] == [False, True] and found['clips_seen'] == 2 * 2 * 4
    parts = [r[c][part] for r in found['rows'] for c in ('this class', 'other classes') for part in ('back', 'ahead')]
    assert all(len(p['nats']) == 10 for p in parts)
    assert found['rows'][0]['this class'] != found['rows'][1]['this class'], 'two models'


# ---- features

def tensor(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('n_digits', [1, 2])
def test_a_scene_is_what_the_frames_show(n_digits):
    "Each digit is a picture of its own: its class is its grey, and its corner is where that grey begins."
    digits, labels = torch.stack([torch.full((8, 8), .1 * k + .05) for k in range(10)]), torch.arange(10)
    source = MovingDigits(digits, n_digits=n_digits, image_size=40, seed=3)
    clips, truth = features.scene(source, labels, 30, distinct=True)
    assert clips.shape == (30, 10, 1, 40, 40) and truth['place'].shape == truth['velocity'].shape == (30, n_digits, 2)
    assert (truth['class'].diff(dim=1) > 0).all(), 'digits of a clip in order of class, none twice'
    brightest = truth['class'][:, -1]
    for k in range(30):
        now, before = ((clips[k, t, 0] - (.1 * brightest[k] + .05)).abs() < 1e-6 for t in (-1, -2))
        corner = lambda mask: torch.tensor([mask.any(1).int().argmax(), mask.any(0).int().argmax()])
        assert torch.equal(corner(now), truth['place'][k, -1].long()), 'the corner is the place, rounded down'
        assert (corner(now) - corner(before) - truth['velocity'][k, -1]).abs().max() < 1 + 1e-4
    again = features.scene(source, labels, 12, distinct=True)
    assert torch.equal(again[0], clips[:12]), 'more clips begin with the same ones'
    assert torch.equal(again[1]['class'], truth['class'][:12])


def test_features_are_fitted_on_clips_of_other_digits(tmp_path, monkeypatch):
    "Fitted on clips of training digits, judged on clips of test digits."
    seen, original = [], features.scene
    def scene(source, *args, **options):
        seen.append(source)
        return original(source, *args, **options)
    monkeypatch.setattr(features, 'scene', scene)
    monkeypatch.setattr(features, 'load_pretrained', lambda path: VideoLSTM.composite(hidden_size=4).eval())
    settings = features.SETTINGS | features.QUICK | dict(seeds=(0,))
    features.run(run.Context('features', settings, out=tmp_path, quick=True, digits='embedded'))
    digits = {split: load_digits('embedded', split)[0] for split in ('train', 'test')}
    splits = [[k for k, x in digits.items() if torch.equal(x, s.digits)] for s in seen]
    assert splits == [['train'], ['test']] * 2 + [['test']] * 2 + [['train'], ['test']]
    pictures = [{x.numpy().tobytes() for x in digits[k]} for k in digits]
    assert not pictures[0] & pictures[1] and len({(s.seed, s.n_digits) for s in seen[:4]}) == 4


@pytest.mark.parametrize('n, d', [(12, 40), (40, 12)])
@pytest.mark.parametrize('scale', [True, False])
def test_rotation_changes_no_ridge_regression(n, d, scale):
    x, z, y = tensor(n, d) * torch.linspace(.1, 5, d) + 3, tensor(7, d, seed=1), tensor(n, 2, seed=2).numpy()
    a, b = features.rotated(x, z, scale)
    assert a.shape[1] == b.shape[1] <= min(n, d) and (a**2).sum(1).mean() == pytest.approx(1, rel=1e-3)
    mean, spread = x.mean(0), x.std(0) if scale else torch.ones(d)
    p, q = (((v - mean) / spread).double().numpy() for v in (x, z))
    size = (p**2).sum(1).mean()
    for alpha in (.01, 1.):
        want = Ridge(alpha * size).fit(p, y).predict(q)
        np.testing.assert_allclose(Ridge(alpha).fit(a, y).predict(b), want, rtol=1e-3, atol=1e-3)


def test_what_is_there_is_read_and_what_is_not_is_not():
    "Place as a weighted sum of the features is found; noise says nothing about anything."
    def truth(seed, n=400):
        classes = torch.randint(10, (n, 1), generator=torch.Generator().manual_seed(seed))
        return {'place': tensor(n, 1, 2, seed=seed) * 9, 'velocity': tensor(n, 1, 2, seed=seed + 1), 'class': classes}
    train, test, mixing = truth(1), truth(5), tensor(14, 30, seed=9)
    def open_(t):
        there = torch.zeros(len(t['class']), 10).scatter_(1, t['class'], 1.)
        return torch.cat([t['place'][:, 0], t['velocity'][:, 0], there], 1) @ mixing
    good = features.read_out((open_(train), train), (open_(test), test), scale=True)
    assert good['place'] > .999 and good['velocity'] > .99 and good['class'] > .99
    assert good['place_error'] < .2 and good['angle_error'] < 3
    bad = features.read_out((tensor(400, 30, seed=11), train), (tensor(400, 30, seed=12), test), scale=True)
    assert abs(bad['place']) < .1 and abs(bad['velocity']) < .1 and bad['class'] < .2 and 70 < bad['angle_error'] < 110


def test_scores_of_two_digits():
    there = torch.tensor([[0, 3], [1, 2], [3, 9], [0, 1]])
    truth = dict(place=tensor(4, 2, 2), velocity=tensor(4, 2, 2, seed=1), **{'class': there})
    found = {k: v.numpy() for k, v in features.targets(truth).items()}
    perfect = features.scores(found, truth)
    everything = ('mean_place', 'mean_velocity', 'lower_place', 'higher_place', 'classes', 'pair')
    assert {k: perfect[k] for k in everything} == pytest.approx(dict.fromkeys(everything, 1))
    np.testing.assert_allclose(found['mean_place'], (found['lower_place'] + found['higher_place']) / 2, rtol=1e-6)
    worst = features.scores(found | dict(classes=1 - found['classes']), truth)
    assert worst['classes'] == 0 and worst['pair'] == 0
    mean = np.repeat(found['lower_place'].mean(0, keepdims=True), 4, 0)
    middle = features.scores(found | dict(lower_place=mean), truth)
    assert middle['lower_place'] == pytest.approx(0, abs=1e-9) and middle['higher_place'] == perfect['higher_place']


def test_variance_between_groups():
    groups = torch.arange(600) % 6
    x = torch.stack([groups.float(), tensor(600), tensor(600) + groups, torch.ones(600)], 1)
    share = features.between(x, groups)
    assert share[0] == pytest.approx(1) and abs(share[1]) < .03 and share[3] == 0
    variance = 35 / 12 # of the numbers 0 to 5
    assert share[2].item() == pytest.approx(variance / (variance + 1), abs=.05), 'against that of the noise'
    many = torch.stack([features.between(tensor(60, 1, seed=k), torch.arange(60) % 6)[0] for k in range(200)])
    assert abs(many.mean()) < .02, 'adjusted: chance is 0, however many groups there are'


def test_groups_of_places_and_directions():
    place = torch.tensor([[0., 0], [35.9, 35.9], [36, 36], [0, 35]])
    assert features.place_groups(place, torch.tensor([36., 36.])).tolist() == [0, 35, 35, 5]
    angle = torch.arange(16) * math.pi / 8
    turn = features.direction_groups(torch.stack([angle.sin(), angle.cos()], 1))
    assert turn[::2].tolist() == list(range(8)) and turn.min() == 0 and turn.max() == 7


def test_fingerprints_tell_weights_apart():
    models = (VideoLSTM.composite(hidden_size=3, frame_shape=(1, 4, 4), seed=s) for s in (0, 0, 1))
    a, again, b = map(features.fingerprint, models)
    assert a == again != b


# ---- labels

def test_labels_takes_the_models_of_design(tmp_path, monkeypatch):
    monkeypatch.setattr(design, 'ARMS', ('composite',))
    like = ['--units', '8', '--clips', '12', '--points', '1', '--lr', '.003']
    assert run.main([*SMALL, *like, '--out', str(tmp_path)]) == 0
    own = load_model(tmp_path/'runs/design/composite-1-layer-seed-0-model.safetensors').state_dict()
    def got(**other):
        settings = labels.SETTINGS | labels.QUICK | other
        context = run.Context('labels', settings, out=tmp_path, digits='embedded', progress=None, fresh=True)
        found = {}
        def part():
            found['model'], found['by'] = labels.pretrained(context, 'composite', seed=other.get('seed', 0))
            return {}
        context.part('one', part)
        return found['by'], found['model'], context.results['clips_seen']
    by, model, seen = got()
    assert by == 'design' and seen == 0 and all(torch.equal(v, own[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    for other in (dict(seed=1), dict(steps=4), dict(lr=.01), dict(units=9)):
        by, model, seen = got(**other)
        assert by == 'labels' and seen == other.get('steps', 3) * 4, other


def test_labels(quick):
    results = run.load(quick('labels')[0]/'labels.json')
    assert [r['part'] for r in results['rows']] == [f'{s}, seed 0' for s in labels.STARTS] + ['rates']
    for r in run.rows(results, kind='start'):
        assert r['pretrained_by'] == (None if r['start'] == 'from scratch' else 'labels')
        for a in (r['accuracy'][task][mode] for task in labels.TASKS for mode in labels.MODES):
            assert len(a['mean']) == 2 and [len(x) for x in a['by_step']] == [10, 10]
            assert all(0 <= x <= 1 for x in a['mean'])
    rates = run.rows(results, kind='rates')[0]['accuracy']
    assert {k: list(v) for k, v in rates.items()} == {'fine-tuned': ['0.001'], 'frozen': ['0.01']}


def test_processes_share_an_experiment(tmp_path):
    "Each has its own seeds; none loses what another has written, and what is done is done for all."
    one, other = (run.Context('any', dict(seeds=(k,)), out=tmp_path, digits='embedded') for k in (0, 1))
    def part(context, k):
        context.keep_pictures(x=torch.full((1,), k / 255))
        return dict(seed=k)
    for context, k in ((one, 0), (other, 1), (one, 2)): context.part(f'part {k}', partial(part, context, k))
    assert other.part('part 2', lambda: pytest.fail('was done before')) == one.rows[2]
    def slow(): # while one does a part, another does the same
        other.part('part 3', partial(part, other, 3))
        return part(one, 4)
    assert one.part('part 3', slow)['seed'] == 3, 'the first to end is kept'
    other.finish()
    found = run.load(one.path)
    assert [r['part'] for r in found['rows']] == ['part 0', 'part 1', 'part 2', 'part 3'] and found['seeds'] == [0, 1, 2, 3]
    assert found['finished'] and {k: v.item() for k, v in np.load(one.pictures).items()} == {f'part {k}: x': k for k in range(4)}


@pytest.mark.parametrize('words, said', [
    (['--per-class', '1,2,3'], 'classifier_steps has 2 entries; expected 3'),
    (['--rates-per-class', '7'], 'rates_per_class is 7; expected one of per_class')])
def test_settings_of_labels_have_to_fit(words, said, tmp_path, capsys):
    assert run.main(['labels', '--quick', *words, '--out', str(tmp_path)]) == 1 and said in capsys.readouterr().err


# ---- what is kept

def test_design_is_kept():
    assert 'design' in [p.stem.split('-')[0] for p in KEPT], 'design.json is missing: make experiments ARGS=design'


@pytest.mark.parametrize('path', KEPT, ids=lambda p: p.stem)
def test_kept_results(path):
    results = run.load(path)
    check_results(results, growing=path.stem == 'design')
    assert not results['quick'] and path.stem.split('-')[0] == results['name'] and results['name'] in run.names()
    assert json.dumps(results, allow_nan=False)
    if results['name'] == 'design' and 'points' in results['settings']:
        check_design(results, np.load(path.with_suffix('.npz')))


@pytest.mark.parametrize('name', run.names())
def test_kept_results_are_those_of_the_experiment(name):
    "As a run with the settings of today would make them."
    path = ROOT/f'experiments/results/{name}.json'
    if not path.exists(): pytest.skip(f'no results yet: `python experiments/run.py {name}` makes them')
    if name in ('design', 'company', 'learning'): pytest.skip('kept at the size that a machine allowed')
    assert run.load(path)['settings'] == run.plain(run.experiment(name).SETTINGS)


def test_kept_results_of_far():
    path = ROOT/'experiments/results/far.json'
    if not path.exists(): pytest.skip('no results yet: `python experiments/run.py far` makes them')
    found = run.load(path)
    ahead, control = (run.rows(found, kind='far', model=m)[0]['ahead'] for m in ('model', 'random weights'))
    assert len(ahead['nats']) == far.SETTINGS['ahead'] and all(n > f for n, f in zip(ahead['nats'], ahead['floor']))
    assert ahead['error']['median'][0] < control['error']['median'][0]


LEARNERS = {'single frames', 'mean and deviation', 'random LSTM, frozen', 'composite, frozen', 'LSTM from scratch',
            'composite, fine-tuned'}


def test_actions(quick):
    "Everybody learns from the same draws; curves lie beside the results; the model to keep can be loaded."
    out, _ = quick('actions')
    results = run.load(out/'actions.json')
    for stream in ('rgb', 'flow'):
        row = run.rows(results, part=f'label curve, {stream}')[0]
        curve = load_label_curve(out/row['file'])
        assert set(row['mean']) == set(curve.learners) == LEARNERS and row['per_class'] == [1, 2]
        (train, test), = curve.splits
        assert not {curve.groups[i] for i in train} & {curve.groups[i] for i in test}
        for name, means in row['mean'].items():
            right = curve.right[0][curve.learners.index(name)].double().mean((1, 2))
            assert means == pytest.approx(right.tolist(), abs=1e-5)
    kept = load_classifier(out/'runs/actions/actions.safetensors', encoder=as_encoder(
        actions.mean_colours, name='mean colours', size=36))
    assert kept.classes == tuple(results['notes']['classes'])


def test_actions_of_a_whole_collection(tmp_path):
    "`--videos FOLDER` takes UCF-101's layout and official lists, here in miniature."
    films, lists = tmp_path/'UCF-101', tmp_path/'ucfTrainTestlist'
    actions.make_set(films, classes=2, films=3)
    lists.mkdir()
    names = sorted(p.relative_to(films).as_posix() for p in films.rglob('*.avi'))
    classes = sorted({name.split('/')[0] for name in names})
    (lists/'classInd.txt').write_text(''.join(f'{k} {name}\n' for k, name in enumerate(classes, 1)))
    for k in (1, 2, 3):
        test = [name for name in names if f'_g0{k}_' in name]
        train = [f'{name} {classes.index(name.split("/")[0]) + 1}' for name in names if name not in test]
        (lists/f'trainlist0{k}.txt').write_text('\n'.join(train) + '\n')
        (lists/f'testlist0{k}.txt').write_text('\n'.join(test) + '\n')
    words = ['actions', '--quick', '--videos', str(films), '--splits', '2', '--per-class', '1', '--draws', '1', '--out']
    assert run.main([*words, str(tmp_path/'out')]) == 0
    notes = run.load(tmp_path/'out'/'actions.json')['notes']
    assert notes['films'] == 'UCF-101, 6 films of 2 classes' and (notes['train'], notes['test']) == ([4], [2])

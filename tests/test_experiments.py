"The experiments: a quick run of all of them, what they write, how they go on after an interruption, and the results that are kept."
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from experiments import company, design, learning, run
from lstm_video_repr.clips import load_digits
from lstm_video_repr.models import VideoLSTM

KEPT = sorted((ROOT/'experiments/results').glob('*.json'))
SMALL = ['design', '--quick', '--seeds', '0', '--test-clips', '2']      # design with the smallest sizes


def check_results(results):
    "What any results file has."
    assert [k for k in run.REQUIRED if k not in results] == []
    assert results['rows'] and results['finished'] and results['about'] == run.about(results['name'])
    assert results['digits']['name'] in ('mnist', 'embedded') and results['digits']['train'] > results['digits']['test'] > 0
    parts = [r['part'] for r in results['rows']]
    assert len(set(parts)) == len(parts)
    for r in results['rows']:
        assert [k for k in run.MADE if k not in r['made']] == [] and r['made']['seconds'] >= 0 and r['made']['versions']['torch'], r['part']
    assert results['clips_seen'] == sum(r['made']['clips_seen'] for r in results['rows'])
    assert results['seconds'] == pytest.approx(sum(r['made']['seconds'] for r in results['rows']), abs=.01)
    assert results['seeds'] == sorted({r['seed'] for r in results['rows'] if r.get('seed') is not None})
    assert re.findall(r'"/\w', json.dumps(results)) == [], 'a folder of this machine'


def check_design(results, steps):
    "What design has: all models of all seeds, at one budget."
    s, T = results['settings'], 10
    assert {(r['model'], r['seed']) for r in run.rows(results, kind='model')} == {(m, k) for m in design.MODELS for k in s['seeds']}
    assert {r['model'] for r in run.rows(results, kind='baseline')} == {'last frame', 'mean frame'}
    assert {r['training']['clips'] for r in run.rows(results, kind='model')} == {steps * s['batch']}
    floors = set()
    for r in results['rows']:
        for task in ('reconstruction', 'future'):
            found = r['scores'][task]
            has = r['kind'] == 'baseline' or ('autoencoder' in r['model'] or r['model'].startswith('composite') if task == 'reconstruction' else 'autoencoder' not in r['model'])
            assert (found is not None) == has, (r['part'], task)
            if not has: continue
            for k in ('nats', 'floor', 'mse', 'ssim'):
                assert len(found['per_frame'][k]) == T and found['overall'][k] == pytest.approx(np.mean(found['per_frame'][k]), rel=1e-4)
            floors.add((task, found['overall']['floor']))
            assert found['overall']['nats'] > found['overall']['floor']
        if r['kind'] == 'baseline': continue
        for task, conditional in (('reconstruction', r['model'] == 'conditional autoencoder'), ('future', 'conditional future' in r['model'])):
            forced = r['teacher_forced'][task]
            assert (forced is not None) == conditional, (r['part'], task)
            first = 0 if task == 'future' else -1       # emitted first, hence without an input frame
            if conditional: assert len(forced) == T and forced[first] == pytest.approx(r['scores'][task]['per_frame']['nats'][first], rel=1e-3)
    assert len(floors) == 2, 'all are measured on the same clips'


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
    assert results['name'] == name and results['quick'] and results['digits'] == dict(name='embedded', train=1437, test=360)
    assert f'{name}: complete' in said and [r['part'] for r in results['rows'] if f'{name}: {r["part"]}: done' not in said] == []


def test_the_command_runs_what_is_named(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT/'experiments/run.py'), *SMALL, '--out', str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and 'design: complete' in done.stdout, done.stdout + done.stderr
    assert [p.name for p in sorted(tmp_path.iterdir())] == ['design.json', 'design.npz', 'runs']


def test_company(quick):
    results = run.load(quick('company')[0]/'company.json')
    assert [r['part'] for r in results['rows']] == ['before', *company.ARMS]
    before, blind, truth, own = results['rows']
    assert before['teacher_forced'] is None and blind['teacher_forced'] is None                        # nothing to be shown
    assert len(truth['teacher_forced']) == len(own['teacher_forced']) == 10
    assert len({r['scores']['future']['overall']['nats'] for r in results['rows']}) == 4               # three trainings, each its own


def test_new_eyes_change_nothing_at_first():
    model = VideoLSTM.composite(hidden_size=6, frame_shape=(1, 5, 5), seed=1)
    seeing = company.conditioned(model)
    assert seeing.config.conditional_future and not seeing.config.conditional_reconstruction
    past, future = torch.rand(2, 3, 4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): a, b = model(past, 4), seeing(past, 4)
    torch.testing.assert_close(a.future, b.future)
    torch.testing.assert_close(a.reconstruction, b.reconstruction)
    torch.testing.assert_close(model.loss(past, future).future, seeing.loss(past, future).future)
    seeing.loss(past, future).future.backward()
    assert seeing.future_decoder.lstm.weight_ih_l0.grad.abs().max() > 0                                # but they will learn


def test_learning(quick):
    results = run.load(quick('learning')[0]/'learning.json')
    assert [r['part'] for r in results['rows']] == ['the recipe, seed 0', 'the recipe, seed 1', *list(learning.arms(run.SimpleNamespace(**results['settings'])))[1:]]
    rows = {r['part']: r for r in results['rows']}
    nats = {n: r['scores']['future']['nats'] for n, r in rows.items()}
    assert {n for n in nats if nats[n] > 2000} == {'readout not started from the mean frame', "the authors' first release", "the authors' rewrite"}
    assert len({nats[n] for n in ('the recipe, seed 0', 'the recipe, seed 1', 'rate x 3', 'constant rate, weights averaged', 'batch / 4', 'forget bias 0', 'two layers')}) == 7
    changed = {n: {k: (v, rows['the recipe, seed 0']['recipe'][k]) for k, v in r['recipe'].items() if v != rows['the recipe, seed 0']['recipe'][k]} for n, r in rows.items()}
    assert changed['rate / 3'] == dict(lr=(pytest.approx(.001), .003)) and changed['batch x 2'] == dict(batch_size=(8, 4)) and changed['forget bias 0'] == {}
    assert {r['training']['clips'] for n, r in rows.items() if 'batch' not in n and 'authors' not in n} == {24}
    sizes = {n: r['parameters'] for n, r in rows.items()}
    assert sizes['two layers'] > sizes['rate / 3'] > sizes['no peepholes'] > sizes['half the units']


def test_average_and_forget_gates():
    model, seen = torch.nn.Linear(1, 1, bias=False), learning.Average(.5)
    for w in (8., 4., 2.):
        model.weight.data.fill_(w); seen(run.SimpleNamespace(model=model))
    assert seen.model.weight.item() == 4 and model.weight.item() == 2                                  # 8; (8 + 4)/2 = 6; (6 + 2)/2 = 4
    lstm = learning.forget_nothing_special(VideoLSTM.composite(hidden_size=3, frame_shape=(1, 5, 5)))
    assert all((p == 0).all() for n, p in lstm.named_parameters() if '.bias_l' in n)                   # of all biases only theirs were not 0


def test_design(quick):
    results = run.load(quick('design')[0]/'design.json')
    check_design(results, design.QUICK['steps'])
    parts = [r['part'] for r in results['rows']]
    assert parts[2:] == [f'{m}, seed {s}' for s in design.QUICK['seeds'] for m in design.MODELS], 'all models of a seed come before the next seed'
    one, other = (run.rows(results, model='composite', seed=s)[0] for s in design.QUICK['seeds'])
    assert one['scores'] != other['scores'] and one['training']['losses'] != other['training']['losses']
    pictures = np.load(quick('design')[0]/'design.npz')
    assert pictures['last frame: past'].shape == pictures['composite, seed 0: reconstruction'].shape == (3, 10, 1, 64, 64)
    assert {k for k in pictures.files if k.endswith('forced')} == {f'{m}, seed 0: forced' for m in design.MODELS if 'conditional future' in m}


def test_a_second_run_changes_nothing(quick, tmp_path, capsys):
    shutil.copytree(quick('design')[0], tmp_path/'again')
    before = (tmp_path/'again/design.json').read_bytes()
    assert run.main(['design', '--quick', '--out', str(tmp_path/'again')]) == 0
    assert (tmp_path/'again/design.json').read_bytes() == before and capsys.readouterr().out.count('kept from') == 14


def test_a_missing_part_is_made_again(quick, tmp_path):
    "The others are kept as they were; the new one is equal to the old one but for its date, with its checkpoint or without."
    shutil.copytree(quick('design')[0], tmp_path/'again')
    path, lost = tmp_path/'again/design.json', ['composite, seed 0', 'conditional autoencoder, seed 1']
    old = run.load(path)
    path.write_text(json.dumps(old | dict(rows=[r for r in old['rows'] if r['part'] not in lost])))
    (tmp_path/'again/runs/design/composite-seed-0.safetensors').unlink()
    assert run.main(['design', '--quick', '--out', str(path.parent)]) == 0
    new = run.load(path)
    check_results(new)
    before, after = ({r['part']: r for r in x['rows']} for x in (old, new))
    assert before.keys() == after.keys()
    for name in before:
        if name not in lost: assert after[name] == before[name]
        else: assert after[name]['scores'] == before[name]['scores'] and after[name]['teacher_forced'] == before[name]['teacher_forced']


def test_an_interrupted_training_goes_on(quick, tmp_path, monkeypatch, capsys):
    "Stopped in the second step of the second model: one model is kept, the second one goes on, and all ends as if nothing had happened."
    batch, calls = run.MovingDigits.batch, []
    def stop(self, n):
        calls.append(n)
        if len(calls) == 1 + 4 + 3: raise KeyboardInterrupt      # the mean frame; a model (clips for its bias, three steps); half of the next
        return batch(self, n)
    words = ['design', '--quick', '--out', str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(run.MovingDigits, 'batch', stop)
        assert run.main(words) == 130
    cut = run.load(tmp_path/'design.json')
    assert [r['part'] for r in cut['rows']] == ['last frame', 'mean frame', 'autoencoder, seed 0'] and not cut['finished']
    assert 'goes on from here' in capsys.readouterr().out
    with monkeypatch.context() as patch:
        calls.clear()
        patch.setattr(run.MovingDigits, 'batch', lambda self, n: calls.append(n) or batch(self, n))
        assert run.main(words + ['--seeds', '0']) == 0
    assert 0 < len(calls) < 3 + 4 * 4, 'the steps that were taken are not taken again'
    whole, done = run.load(quick('design')[0]/'design.json'), run.load(tmp_path/'design.json')
    check_results(done)
    assert done['rows'][:3] == cut['rows']
    for r in done['rows']: assert r['scores'] == run.rows(whole, part=r['part'])[0]['scores'], r['part']


def test_more_seeds_are_added_and_other_settings_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(design, 'MODELS', {'composite': VideoLSTM.composite})
    words = SMALL + ['--out', str(tmp_path)]
    assert run.main(words) == 0
    first = run.load(tmp_path/'design.json')
    assert run.main(words + ['--steps', '4']) == 1
    said = capsys.readouterr()
    assert 'steps 3 (now 4)' in said.err and '--fresh' in said.err and run.load(tmp_path/'design.json') == first
    assert run.main(words[:3] + ['0,5'] + words[4:]) == 0
    more = run.load(tmp_path/'design.json')
    assert more['rows'][:len(first['rows'])] == first['rows'] and more['seeds'] == [0, 5] == more['settings']['seeds'] and more['finished']
    assert run.main(words + ['--steps', '4', '--fresh']) == 0
    assert run.load(tmp_path/'design.json')['settings']['steps'] == 4


@pytest.mark.parametrize('words, said', [(['nothing', 'design'], "no experiment 'nothing'"), (['design', '--units', 'many'], "--units is 'many'"), (['design', '--units', '0'], 'hidden_size is 0; expected a whole number of at least 1 (experiments/design.py, line '),
                                         (['design', '--wrong', '1'], 'unrecognized'), (['design', '--recipe', 'sgdd'], "recipe is 'sgdd'")])
def test_mistakes_are_named(words, said, tmp_path, capsys):
    try: status = run.main([*words, '--quick', '--out', str(tmp_path)])
    except SystemExit as stop: status = stop.code
    assert status in (1, 2) and said in capsys.readouterr().err


def test_list(quick, tmp_path, capsys):
    assert run.main(['--list', '--out', str(quick('design')[0])]) == 0
    said = capsys.readouterr().out
    for name in run.names(): assert run.about(name) in said
    assert said.count('14 parts, complete, embedded digits') == 1 and said.count('not run yet') == len(run.names()) - 1
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
    assert design.teacher_forced(VideoLSTM.composite(hidden_size=6), clips) == dict(reconstruction=None, future=None)


# ---- what is kept

def test_design_is_kept():
    assert 'design' in [p.stem for p in KEPT], 'experiments/results/design.json is missing: make experiments ARGS=design'


@pytest.mark.parametrize('path', KEPT, ids=lambda p: p.stem)
def test_kept_results(path):
    results = run.load(path)
    check_results(results)
    assert not results['quick'] and path.stem == results['name'] and path.stem in run.names()
    if path.stem == 'design': check_design(results, results['settings']['steps'])

"""Every notebook runs from top to bottom: each is one test, in this process, by nbdev's rules for what is run.

And what tutorials 4 to 8 and the chapter on actions say in words is what the result files hold."""
import io
import json
import os
import re
import sys
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest

from lstm_video_repr.actions import load_label_curve

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'experiments/results'
# under another name: pytest would collect what is called test_nb
run_notebook = pytest.importorskip('nbdev.test', reason='needs nbdev').test_nb


def notebooks():
    from nbdev.doclinks import nbglob
    return sorted(nbglob(ROOT/'nbs', as_path=True), key=lambda p: (len(p.parts), p))


@pytest.fixture
def as_it_was():
    "Undo what running a notebook does to this process."
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    shell, env, path, hook = InteractiveShell._instance, dict(os.environ), list(sys.path), sys.displayhook
    yield
    import matplotlib.pyplot as plt
    plt.close('all')
    plt.rcdefaults()
    plt.switch_backend('agg')
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(True)
    InteractiveShell._instance, sys.displayhook, sys.path[:] = shell, hook, path
    os.environ.clear()
    os.environ.update(env)


@pytest.mark.parametrize('path', notebooks(), ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())
def test_notebook(path, as_it_was):
    errors = io.StringIO()
    with redirect_stderr(errors): passed, _ = run_notebook(path)
    if not passed: pytest.fail(errors.getvalue(), pytrace=False)


def test_there_are_notebooks():
    assert len(notebooks()) > 0


# ---- what pages say

def prose(name):
    "The Markdown cells of a notebook, as one line of text."
    cells = json.loads((ROOT/f'nbs/{name}.ipynb').read_text(encoding='utf8'))['cells']
    return ' '.join(' '.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown').split())


def results(name): return json.loads((RESULTS/f'{name}.json').read_text(encoding='utf8'))


def rows(found, **like): return [r for r in found['rows'] if all(r.get(k) == v for k, v in like.items())]


def missing(name, sentences): return [s for s in sentences if s not in prose(name)]


@pytest.fixture(scope='module')
def far(): return results('far')


@pytest.fixture(scope='module')
def ahead(far): return rows(far, kind='far', model='model')[0]['ahead']


def mean_of(values, start=0, end=None): return np.mean(values[start:end])


def lost_from(ahead):
    "The frame from which on digits are found hardly nearer to their own places than to those of another clip."
    place, other = np.array(ahead['error']['median']), np.mean(ahead['chance']['median'])
    return next(t for t in range(100) if place[t:t + 5].mean() > .8 * other) + 11


def test_first_predictions_looks_ahead(ahead):
    "What tutorial 1 takes from tutorial 4."
    assert missing('tutorials/1_first_predictions', [
        f'from about frame {lost_from(ahead)} on they are hardly nearer', 'names little more than half of the predicted ones']) == []
    assert .5 < ahead['names_found'][0] < .57


def test_numbers_of_the_far_future(ahead, far):
    place, other, lost = np.array(ahead['error']['median']), np.mean(ahead['chance']['median']), lost_from(ahead)
    nats, expected = np.array(ahead['nats']), np.array(ahead['entropy'])
    truth = rows(far, kind='far', model='model')[0]['truth']
    worse = rows(far, kind='far', model='model')[0]['drift']['worse than the mean frame'] + 10
    assert missing('tutorials/4_far_future_distant_past', [
        f'{place[0]:.1f} pixels in frame 11, {place[9]:.1f} in frame 20, {place[19]:.1f} in frame 30',
        f'From about frame {lost} on (in means of five frames) it is more than four fifths of the {other:.0f} pixels',
        f'names {ahead["names_found"][0]:.0%}'.replace('%', ' %') + ' of the predicted digits',
        f'(which overlap, too) {truth["names_true"][0]:.0%}'.replace('%', ' %'),
        f'the truth costs {nats[:10].mean():.0f} nats, and the frames expect {expected[:10].mean():.0f}',
        f'In frames 61 to 110 it costs {nats[50:].mean():.0f}, and they expect {expected[50:].mean():.0f}',
        f'From frame {worse} on the network is worse']) == []


def test_numbers_of_the_reader(far):
    alone = rows(far, kind='reader')[0]['accuracy']['mnist']
    sharp, soft = (f'{alone[k]:.0%}'.replace('%', ' %') for k in ('0.0', '3.0'))
    assert missing('tutorials/4_far_future_distant_past', [
        f"names {sharp} of MNIST's test digits rightly when they stand alone, and {soft} when they are heavily blurred"]) == []


def test_shapes_of_the_far_future(ahead):
    "What the words say without numbers: what grows, what parts, what is far from chance."
    place, other = np.array(ahead['error']['median']), np.mean(ahead['chance']['median'])
    nats, expected = np.array(ahead['nats']), np.array(ahead['entropy'])
    assert place[9] < .5 * other and place[80:].mean() > .8 * other
    assert place[19] - place[9] > place[9] - place[0]
    assert (abs(nats / expected - 1)[:10] < .1).all() and nats[49] > 1.3 * expected[49]
    assert nats[80:].mean() > np.mean(ahead['mean_frame'][80:])


def test_numbers_of_what_is_alive(far):
    model, control = (rows(far, kind='far', model=m)[0] for m in ('model', 'random weights'))
    def late(values): return mean_of(values, 50)
    pace, variety = model['ahead']['pace'], model['ahead']['variety']
    assert missing('tutorials/4_far_future_distant_past', [
        f'the pace is {late(pace):.1f} pixels per frame (truth {late(model["ahead"]["true_pace"]):.1f}, '
        f'random weights {late(control["ahead"]["pace"]):.1f})',
        f'the variety {late(variety):.0f} (truth {late(model["truth"]["variety"]):.0f}, '
        f'random weights {late(control["ahead"]["variety"]):.1f})']) == []


def test_numbers_of_the_past(far, ahead):
    tape, walk = (np.array(rows(far, kind='far', model='model')[0][k]['error']['median']) for k in ('back', 'again'))
    error = ahead['error']['median']
    assert missing('tutorials/4_far_future_distant_past', [
        f'off by {tape[:10].mean():.1f} pixels within the input, and by {tape[14]:.1f} in frame -4',
        f'off by {walk[4]:.1f} in frame -4, {walk[9]:.1f} in frame -9, and {walk[-1]:.1f} in frame -19',
        f'it was {error[4]:.1f}, {error[9]:.1f} and {error[19]:.1f}']) == []
    assert tape[:10].max() < 2 and tape[19] > 2 * walk[9] and walk[9] < 1.5 * error[9] and walk[19] < 1.5 * error[19]


def test_numbers_of_other_worlds(far):
    crowd = {r['digits']: r['ahead']['error']['median'] for r in rows(far, kind='crowd')}
    kind = {r['digits']: r for r in rows(far, kind='kind')}
    def paid(k, part, what='nats'): return mean_of(kind[k][part][what], 0, 10)
    off = {k: r['ahead']['error']['median'][9] for k, r in kind.items()}
    boxed, own = kind['boxes'], [paid('mnist', p) - paid('mnist', p, 'floor') for p in ('back', 'ahead')]
    assert missing('tutorials/5_other_worlds', [
        f'frame 11 is off by {crowd[4][0]:.1f} pixels, with two by {crowd[2][0]:.1f}, and frame 20 by '
        f'{crowd[4][9]:.1f} and {crowd[2][9]:.1f}',
        f"mirrored digits are off by {off['boxes']:.1f} pixels, MNIST's digits by {off['mnist']:.1f}",
        f'pays {paid("boxes", "back"):.0f} nats a frame to play it back, and {paid("boxes", "ahead"):.0f} to predict it',
        f'for digits it is {own[0]:.0f} and {own[1]:.0f} above their floor']) == []
    assert off['mirrored'] == pytest.approx(off['boxes'], abs=.05) and max(boxed['ahead']['floor']) < 1
    lost = {r['digits']: r['ahead']['error']['median'][9] / r['ahead']['chance']['median'][9] for r in rows(far, kind='crowd')}
    assert lost[4] > .5 > lost[3] > .4 > .2 > max(lost[1], lost[2]), 'more than half of what another clip would be'


def test_speeds(far):
    "Memory follows the clip, prediction its own pace."
    speed = {r['step']: r for r in rows(far, kind='speed')}
    paces = np.array([np.median(r['ahead']['pace'][9:]) for r in speed.values()])
    assert (abs(paces / np.median(speed[.1]['ahead']['true_pace']) - 1) < .25).all()
    fifth = {k: r['ahead']['error']['median'][4] for k, r in speed.items()}
    assert fifth[.1] < min(fifth[.05], fifth[.2])
    nats = [mean_of(r['back']['nats'], 0, 10) for r in speed.values()]
    assert nats[2] < max(nats[:2]) < 1.15 * nats[2] < nats[3] < nats[4]


def test_a_class_never_seen():
    page, found = 'tutorials/5_other_worlds', results('unseen')
    groups, pairs = ('this class', 'other classes'), [rows(found, left_out=v) for v in (False, True)]
    def mean(part, group, left_out, key='nats'): return np.mean([mean_of(r[group][part][key], 0, 10) for r in pairs[left_out]])
    def cost(part): return np.subtract(*(mean(part, groups[0], v) - mean(part, groups[1], v) for v in (True, False)))
    told = [f'a little: {cost("back"):.1f} nats played back and {cost("ahead"):.1f} predicted',
            '({:.0f} nats beside {:.0f})'.format(*(mean('back', g, True) for g in groups)),
            '{:.0f} % of the predicted fours rightly where there were fours in training, and {:.0f} % where there were none; of the others {:.0f} % and {:.0f} %'.format(
                *(100 * mean('ahead', g, v, 'names_found') for g in groups for v in (False, True)))]
    assert missing(page, told) == []
    s = found['settings']
    assert missing(page, [f'of {s["units"]} units, each after {s["clips"]:,} clips', f'over {s["test_clips"]} clips of nothing but fours']) == []
    gaps = [[np.subtract(*(mean_of(r[g][part]['nats'], 0, 10) for g in groups)) for r in pair] for pair in pairs for part in ('back', 'ahead')]
    back, ahead = np.subtract(gaps[2], gaps[0]), np.subtract(gaps[3], gaps[1])
    assert min(back) > 5 and min(ahead) > 3 and np.ptp(back) < 3 and np.ptp(ahead) < 3, 'two trainings that agree'
    small = [rows(results('unseen-128'), left_out=v)[0] for v in (False, True)]
    assert max(np.subtract(*(mean_of(r['this class'][p]['nats'], 0, 10) - mean_of(r['other classes'][p]['nats'], 0, 10) for r in small[::-1])) for p in ('back', 'ahead')) < 1


def test_numbers_of_the_units(far):
    found, page = results('features'), 'tutorials/6_what_did_it_learn'
    trained, random = (rows(found, kind='units', model=m)[0] for m in ('model', 'random weights'))
    above = {k: int((np.array(trained[k]) > max(random[k])).sum()) for k in ('place', 'direction', 'class')}
    below = (np.array(trained['place']) < np.median(random['place'])).mean()
    def two(v): return f'{v:.2f}'.lstrip('0')
    assert missing(page, [
        f'more in {above["place"]} of the {len(trained["place"])} trained units',
        f'direction in {above["direction"]}, class in {above["class"]}.', f'in {100 * below:.0f} % of them',
        f'units is {two(np.mean(trained["place"]))}, with random weights {two(np.mean(random["place"]))}']) == []


def test_numbers_of_the_readouts():
    found, page = results('features'), 'tutorials/6_what_did_it_learn'
    def score(key, feature): return np.mean([r['scores'][feature][key] for r in rows(found, kind='readout', digits=1)])
    def two(v): return f'{v:.2f}'.lstrip('0')
    growth = rows(found, kind='growth')[0]['scores']
    gap = np.subtract(growth['h and c']['velocity'], growth['ten frames']['velocity'])
    assert missing(page, [
        f'({two(score("place", "h and c"))} against {two(score("place", "last frame"))})',
        f'out of them ({two(score("velocity", "ten frames"))}) than out of the memory ({two(score("velocity", "h and c"))})',
        f'mixes the frames usefully ({two(score("velocity", "random h and c"))})',
        f'{100 * score("class", "h and c"):.0f} % of single digits', f'random weights {100 * score("class", "random h and c"):.0f} %',
        f'from {two(gap[0])} to {two(gap[-1])}']) == []
    assert np.min(np.subtract(growth['h and c']['place'], growth['ten frames']['place'])) > .05
    assert growth['h and c']['velocity'][1] > growth['ten frames']['velocity'][-1]


# ---- actions

@pytest.fixture(scope='module')
def curves(): return {k: load_label_curve(RESULTS/f'actions-{k}.safetensors') for k in ('rgb', 'flow')}


FROZEN, TUNED = ('composite, frozen', 'random LSTM, frozen'), ('composite, fine-tuned', 'LSTM from scratch')


def zero_inside(d): return ((d.low[0] < 0) & (d.high[0] > 0)).tolist()


def test_watching_adds_nothing_that_shows(curves):
    "Nineteen of twenty intervals hold zero."
    inside = {(k, pair): zero_inside(c.difference(*pair)) for k, c in curves.items() for pair in (FROZEN, TUNED)}
    assert inside['rgb', TUNED] == [False, True, True, True, True]
    assert all(all(v) for k, v in inside.items() if k != ('rgb', TUNED))
    harm = curves['rgb'].difference(*TUNED)
    assert harm.mean[0][0] == pytest.approx(-.044, abs=.0006) and (harm.high[0][:4] < .033).all()


def test_single_frames_win_on_percepts(curves):
    worse, mean = curves['rgb'].difference('LSTM from scratch', 'single frames'), curves['rgb'].mean().mean
    assert (worse.mean[0][:4] < -.025).all() and (worse.high[0][1:4] < 0).all() and worse.high[0][0] > 0
    assert .78 < mean[0, 0] < .82 and .86 < mean[0, 1] < .9
    more = 100 * curves['rgb'].difference('mean and deviation', 'single frames').mean[0]
    assert (round(more.min(), 1), round(more.max(), 1)) == (.2, 1.1)


def test_flow_tells_nobody_apart(curves):
    mean = curves['flow'].mean().mean
    assert np.ptp(mean[:, :4], 0).max() < .032
    assert zero_inside(curves['flow'].difference('LSTM from scratch', 'mean and deviation'))[-1]
    for name in ('mean and deviation', 'random LSTM, frozen', 'LSTM from scratch'):
        assert all(zero_inside(curves['flow'].difference(name, 'single frames'))), name


def test_kinds_and_streams():
    found = results('actions')
    kinds = [r for r in found['rows'] if r['part'].startswith('kinds, flow')]
    def skill(name, side): return np.mean([x['skill'] for r in kinds for x in r['skill'][name][side]])
    joint = {name: np.mean([r['mean'][name] for r in kinds], 0) for name in kinds[0]['mean']}
    assert skill('composite, single windows', 'seen') > skill('composite', 'seen')
    assert skill('composite, single windows', 'new') < skill('composite', 'new')
    assert joint['composite, a quarter as long'][0] > joint['composite'][0] - .02
    splits = [r for r in found['rows'] if r['part'].startswith('two streams')]
    assert all(r['weights'][k] == 0 for r in splits for k in r['weights'] if k.startswith('flow'))
    archery = np.sum([r['confusion']['flow: composite, frozen'] for r in splits], 0)[0]
    assert found['notes']['classes'][int(archery.argmax())] == 'PlayingPiano'
    card = next(r for r in found['rows'] if r['part'] == 'the model to keep')['card']
    assert round(card['accuracy'] * card['test films']) == 40


def digit_gains():
    "Points over learning from scratch with few (1 to 30) and many labels: (task, start, mode) -> `(seeds, 2)`."
    found = [r for r in results('labels')['rows'] if r.get('kind') == 'start']
    def percent(start, task, mode): return 100 * np.array([r['accuracy'][task][mode]['mean'] for r in found if r['start'] == start])
    def halves(d): return np.stack([d[:, :4].mean(1), d[:, 4:].mean(1)], 1)
    return {(t, s, m): halves(percent(s, t, m) - percent('from scratch', t, 'fine-tuned')) for t in ('digit', 'direction')
            for s in ('from scratch', 'autoencoder', 'future predictor', 'composite') for m in ('fine-tuned', 'frozen')}


def interval(x): return x.mean(), *(x.mean() + sign * 4.303 * x.std(ddof=1) / len(x)**.5 for sign in (-1, 1))


def test_numbers_of_few_labels():
    gain, page = digit_gains(), prose('14_actions')
    m, low, high = interval(gain['direction', 'future predictor', 'frozen'][:, 0])
    cm, clow, chigh = interval(gain['direction', 'composite', 'frozen'][:, 0])
    dm, dlow, dhigh = interval(gain['digit', 'future predictor', 'fine-tuned'][:, 1])
    am, alow, ahigh = interval(gain['direction', 'autoencoder', 'frozen'][:, 0])
    said = [f'+{m:.1f} points over learning everything from scratch with 1 to 30 labels a class (95 % interval {low:.1f} to {high:.1f})',
            f'the composite {cm:.1f} ({abs(clow):.1f} to {chigh:.1f})', f'gains {dm:.1f} points, but with *many* labels ({dlow:.1f} to {dhigh:.1f},',
            f'{-am:.1f} below ({alow:.1f} to {ahigh:.1f})', f"random weights {-gain['direction', 'from scratch', 'frozen'][:, 0].mean():.1f} below"]
    assert [s for s in said if s not in page] == []
    for start in ('future predictor', 'composite'):
        _, low, high = interval(gain['direction', start, 'fine-tuned'][:, 0])
        assert low < 0 < high


PAGES = ['4_far_future_distant_past', '5_other_worlds', '6_what_did_it_learn', '7_natural_patches', '8_actions']


@pytest.mark.parametrize('page', PAGES)
def test_begins_and_ends(page):
    "What you will be able to do, what you need to have read, minutes; exercises with answers; what comes next."
    text = prose(f'tutorials/{page}')
    places = [text.index(s) for s in ('**What you will be able to do:**', '**What you need to have read:**', '**Time:**',
                                      '## Where it fails', '## Exercises', '<details>', '## What comes next')]
    assert places == sorted(places) and places[2] < 2000


@pytest.mark.parametrize('page', PAGES)
def test_no_plotting_in_pages(page):
    "Charts come from exported helpers, and prose is written, not computed."
    cells = json.loads((ROOT/f'nbs/tutorials/{page}.ipynb').read_text(encoding='utf8'))['cells']
    code = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    assert [c for c in code if re.search(r'matplotlib|\bplt\.|\bMarkdown\(', c)] == []
    assert [c for c in code if c.count('assert ') > 4] == []


# ---- what tutorial 3 reads

def as_later(results):
    "The results of `design` in the form that has points of the budget, and models trained on their own frames."
    from experiments import design
    old = results | dict(settings=results['settings'] | dict(clips=64, points=(2, 1), layers=[1]), rows=[])
    models = [r for r in results['rows'] if r['kind'] == 'model']
    more = [r | dict(model=r['model'] + design.OWN) for r in models if 'conditional' in r['model']]
    points = [r | dict(layers=1, clips=n, part=r['part'] if n == 64 else f'{r["part"]}, {n}') for n in (32, 64) for r in models + more]
    return old | dict(rows=[r for r in results['rows'] if r['kind'] != 'model'] + points)


@pytest.mark.parametrize('later', [False, True])
def test_what_designs_have_found(tmp_path, later):
    "Tables of the file as it is, and of one with more in it."
    pytest.importorskip('scipy', reason='needs scipy')
    from experiments import _designs as D
    found = results('design-128')
    (tmp_path/'design.json').write_text(json.dumps(as_later(found) if later else found))
    (tmp_path/'design.npz').write_bytes((RESULTS/'design-128.npz').read_bytes())
    d = D.Designs(tmp_path)
    assert d.budget == d.points[-1] and len(d.scores('composite')) == len(d.seeds) > 0
    assert d.by_frame('composite').shape == d.forced('conditional future predictor').shape == (len(d.seeds), 10)
    assert d.drawn('composite').shape == d.drawn('last frame').shape and d.drawn('composite').shape[1:] == (10, 1, 64, 64)
    assert len(D.differences(d).rows) == 7 + 2 * len(d.cured) and len(D.about(d).rows) == 6 + bool(d.cured)
    assert [r[0] for r in D.overview(d).rows][:6] == list(D.MODELS)
    assert np.allclose(d.difference('composite', 'composite'), 0) and np.allclose(d.scores('composite'), [
        mean_of(v) for v in d.by_frame('composite')], rtol=1e-4)
    if later:
        assert (d.points, d.cured) == ([32, 64], [m for m in D.MODELS if 'conditional' in m])
        assert [r[-1] for r in D.practice(d).rows] == ['0%'] * 3, 'the same scores: nothing is gained'


def test_verdicts():
    from experiments import _designs as D
    d = np.array([1., 2., 3.])
    assert abs(D.half_width(d) - 4.303 / 3**.5) < .01 and D.half_width(d[:1]) == float('inf')
    assert [D.verdict(v) for v in (d, d + 2, -d - 2, d[:1])] == ['not told apart', 'harms', 'helps', 'one seed says nothing']


def test_without_designs(tmp_path):
    from experiments import _designs as D
    with pytest.raises(FileNotFoundError, match='make experiments'): D.Designs(tmp_path)


# ---- pages that others link to

def cells_of(name): return json.loads((ROOT/f'nbs/{name}.ipynb').read_text(encoding='utf8'))['cells']


def text_of(name): return '\n'.join(''.join(c['source']) for c in cells_of(name) if c['cell_type'] == 'markdown')


def headings(name, level): return re.findall(rf'^{"#" * level} (.+)$', text_of(name), re.M)


def anchor(heading): return re.sub(r'[^\w-]', '', heading.lower().replace(' ', '-'))


def test_links_into_the_glossary():
    words = {anchor(h) for h in headings('tutorials/glossary', 3)}
    assert len(words) > 35
    for path in notebooks():
        page = text_of(path.relative_to(ROOT/'nbs').with_suffix('').as_posix())
        wanted = set(map(anchor, re.findall(r'glossary\.ipynb#([^)\s]+)', page)))
        if path.stem == 'glossary': wanted |= set(map(anchor, re.findall(r'\]\(#([^)\s]+)\)', page)))
        assert wanted <= words, f'{path.name}: {wanted - words} are not in the glossary'


def test_what_did_not_work_is_dated():
    "A row for each section and a section for each row; each with a date and a reason."
    page = text_of('tutorials/what_did_not_work')
    rows = re.findall(r'^\| (\d{4}-\d\d-\d\d) \| (.+?) \|', page, re.M)
    assert sorted(name for _, name in rows) == sorted(headings('tutorials/what_did_not_work', 3))
    sections = dict(part.split('\n', 1) for part in page.split('\n### ')[1:])
    for date, name in rows:
        days = re.findall(r'\*(\d{4}-\d\d-\d\d)', sections[name])
        assert days and days[0] == date, f'{name}: {days}, not {date}'


def test_the_paper_fits_on_a_page():
    cells = cells_of('tutorials/the_paper_in_one_page')
    check = next(k for k, c in enumerate(cells) if '## 9. The check' in ''.join(c['source']))
    code = [''.join(c['source']) for c in cells[:check] if c['cell_type'] == 'code']
    assert not any('lstm_video_repr.' in c or 'import lstm' in c for c in code), 'nothing of the library before the check'
    shown = [line for c in code if '#| hide' not in c for line in c.splitlines() if line.strip()]
    assert len(shown) <= 120, f'{len(shown)} lines'
    assert max(len(c.splitlines()) for c in code) <= 16, 'short cells'


ASKED = { # page -> cells that ask for an answer and look at it
    '00_lstm': 2, '01_fast_lstm': 2, '02_digits': 1, '03_clips': 2, '04_models': 2, '05_metrics': 2, '06_training': 0,
    '07_scale': 1, '08_zoo': 0, '09_pictures': 1, '10_activity': 1, '11_widgets': 0, '12_videos': 0, '13_percepts': 0,
    '14_actions': 2, '15_cli': 1, 'tutorials/1_first_predictions': 1, 'tutorials/2_train_your_own': 1,
    'tutorials/3_design_choices': 2, 'tutorials/4_far_future_distant_past': 0, 'tutorials/5_other_worlds': 1,
    'tutorials/6_what_did_it_learn': 2, 'tutorials/7_natural_patches': 1, 'tutorials/8_actions': 1,
    'tutorials/9_scoreboard': 1, 'tutorials/the_paper_in_one_page': 1, 'tutorials/your_own': 0}


@pytest.mark.parametrize('name', ASKED)
def test_pages_say_what_they_are_for(name):
    "What one will be able to do, what to have read, minutes; exercises with folded answers and cells that ask; what next."
    page, asked = text_of(name), ASKED[name]
    places = [page.index(s) for s in ('**What you will be able to do:**', '**What you need to have read:**', '**Time:**',
                                      '## Exercises', '<details>')]
    assert places == sorted(places) and places[2] < 2000 and 'hat comes next' in page[places[3]:]
    code = [''.join(c['source']) for c in cells_of(name) if c['cell_type'] == 'code']
    assert sum(bool(re.fullmatch(r'check\w*\(\.\.\.\)', c.strip())) for c in code) == asked
    if not asked: return
    tested = '\n'.join(c for c in code if '#| hide' in c and 'Answer(' in c)
    assert "'yes'" in tested and "'no'" in tested, 'a right answer and a wrong one'

"The far experiment: what measures is measured first: the tracker on true frames, errors of the truth, rhythms; then the whole run."
import json
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path: sys.path.insert(0, str(ROOT))

from experiments import far, run as command
from lstm_video_repr.clips import MovingDigits, load_digits, render
from lstm_video_repr.models import VideoLSTM, VideoOutput

RESULTS = ROOT/'experiments'/'results'/'far.json'


def scene(n_digits, n, seed=3, frames=20, **options):
    "True frames, the digits in them, where they are, and their names."
    source = MovingDigits('embedded', n_digits=n_digits, split='test', seed=seed, past=1, future=frames - 1, **options)
    which, corners = source.plan(0, n)
    return source.clips(0, n), source.digits[which].float() / 255, corners, load_digits('embedded', 'test')[1][which]


def visible(digits, corners):
    "(B, N, T): share of each digit's energy that no other digit touches."
    shares = []
    for n in range(digits.shape[1]):
        others = [m for m in range(digits.shape[1]) if m != n]
        own = render(digits[:, [n]], corners[:, [n]])**2
        free = render(digits[:, others], corners[:, others]) == 0 if others else torch.ones_like(own)
        shares.append((own * free).sum((2, 3, 4)) / own.sum((2, 3, 4)))
    return torch.stack(shares, 1)


# ---- the tracker

def test_correlation_is_the_sum_over_each_window():
    g = torch.Generator().manual_seed(0)
    frames, picture = torch.rand(2, 3, 9, 9, generator=g), torch.rand(2, 1, 4, 4, generator=g)
    plain = (frames.unfold(2, 4, 1).unfold(3, 4, 1) * picture[:, :, None, None]).sum((-2, -1))
    torch.testing.assert_close(far.correlation(frames, picture), plain)


@pytest.mark.parametrize('n_digits, n', [(1, 10), (2, 25), (3, 8)])
def test_the_tracker_is_exact_on_true_frames(n_digits, n):
    frames, digits, corners, _ = scene(n_digits, n)
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
    _, digits, _, names = scene(2, 40)
    digits = digits[names[:, 0] != names[:, 1]][:12]
    shifts = torch.tensor([[0, 0], [0, 3], [4, 0], [5, 5], [-6, 2]])
    corners = torch.full((len(digits), 2, len(shifts), 2), 18)
    corners[:, 1] += shifts
    found, _ = far.track(render(digits, corners), digits)
    exact = (found == corners).all(-1)
    assert exact[(visible(digits, corners) > .25)].all() and exact.float().mean() > .95


def test_faint_and_blurred_digits_are_found():
    frames, digits, corners, _ = scene(2, 6)
    found, there = far.track(frames * .3, digits)
    clear = visible(digits, corners) > .25
    assert (found == corners).all(-1)[clear].all()
    torch.testing.assert_close(there[clear], torch.full_like(there[clear], .3), atol=.01, rtol=0)
    blurred = far.blur(frames[:, :, 0].flatten(0, 1), 3.).view_as(frames)
    found, there = far.track(blurred, digits)
    off = far.path_errors(found, corners)[1]
    assert off.median() <= 1 and (off <= 3).float().mean() > .9 and abs(there.median() - 1) < .1


def test_an_empty_frame_is_no_error():
    _, digits, _, _ = scene(2, 2)
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
    _, digits, _, _ = scene(1, 3)
    x = torch.nn.functional.pad(digits[:, 0], (9, 9, 9, 9))
    assert torch.equal(far.blur(x, 0.), x)
    torch.testing.assert_close(far.blur(x, 2.).sum((1, 2)), x.sum((1, 2)))
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    soft = far.blur(point, 1.5)[0]
    assert torch.equal(soft, soft.T) and soft[10, 12] / soft[10, 10] == pytest.approx(math.exp(-4 / 4.5), rel=1e-4)


# ---- names, sharpness

def test_windows_are_the_digits():
    frames, digits, corners, _ = scene(1, 4)
    assert torch.equal(far.cut(frames, corners), digits[:, :, None].expand(-1, -1, frames.shape[1], -1, -1))


def test_the_reader_reads_digits_it_has_not_seen():
    reader = far.train_reader(*load_digits('embedded', 'train'), steps=200, seed=0)
    images, labels = load_digits('embedded', 'test')
    assert (reader.name(images.float() / 255) == labels).float().mean() > .8
    assert torch.equal(reader.name(images.float() / 255), reader.name(images.float() / 1000))       # brightness does not matter
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
    frames, digits, corners, _ = scene(1, 5)
    found = far.centre(frames)
    torch.testing.assert_close(found[..., 1:] - found[..., :-1], (corners[:, 0, 1:] - corners[:, 0, :-1]).transpose(1, 2).float(), atol=1e-4, rtol=0)
    x = torch.zeros(1, 1, 1, 64, 64)
    x[..., 31:33, 63] = 1
    assert far.centre(x).flatten().tolist() == [0, 31.5]


# ---- units

def test_rhythm_knows_waves_from_fading():
    t = torch.arange(80.)
    wave, fade = (2 * math.pi * t / 20).sin(), (-t / 10).exp()
    noise = torch.randn(80, generator=torch.Generator().manual_seed(0))
    share, period, back = far.rhythm(torch.stack([wave, fade, noise])).values()
    assert period[0] == 20 and share[0] > .95 and back[0] > .95
    assert back[1] < .35 and share[2] < .3
    r = far.autocorrelation(wave, 41)
    assert r[0] == 1 and r[10] < -.9 and r[20] > .9


# ---- the experiment

class Oracle:
    "Answers with the truth of the first clips of a source."
    def __init__(self, source, n): self.clips, self.now = source.clips(0, n), source.past

    def __call__(self, past, future_steps, reconstruct_steps):
        before, after = self.clips[:, :self.now].flip(1), self.clips[:, self.now:]
        seen = past.shape[1]
        if torch.equal(past[:, -1], after[:, 0]) or torch.equal(past, self.clips[:, self.now - seen:self.now].flip(1)): before, after = None, before[:, seen:]
        sure = lambda x, steps: None if x is None else (x[:, :steps].clamp(1e-4, 1 - 1e-4)).logit()
        return VideoOutput(sure(before, reconstruct_steps), sure(after, future_steps))


def test_the_truth_has_no_errors():
    source = MovingDigits('embedded', split='test', seed=8, past=14, future=6)
    labels = load_digits('embedded', 'test')[1]
    reader = far.train_reader(*load_digits('embedded', 'train'), steps=60)
    found = far.look(Oracle(source, 6), source, labels, 6, reader, truth=True, batch=6)
    assert [len(found[k]['nats']) for k in ('ahead', 'back', 'again')] == [6, 14, 4]
    for k in ('ahead', 'back', 'again'):
        assert not found[k]['error']['q3'].any() and not found[k]['own_error']['q3'].any() and not found[k]['confused'].any()
        torch.testing.assert_close(found[k]['names_found'], found[k]['names_true'])
        assert (found[k]['chance']['median'] > 3).all()
        assert (found[k]['nats'] - found[k]['floor']).abs().max() < 3
        assert (found[k]['presence'] > .98).all()
    torch.testing.assert_close(found['ahead']['names_true'], found['truth']['names_true'])
    assert found['ahead']['still']['median'][0] > 1 and found['ahead']['pace'].median() > 2      # 3.6 pixels a frame, less at walls


def test_boxes_and_the_control():
    x = far.boxes(20, seed=1)
    assert x.shape == (20, 28, 28) and len({tuple(p.flatten().tolist()) for p in x}) > 10 and torch.equal(x, far.boxes(20, seed=1))
    model = VideoLSTM.composite(hidden_size=5, seed=0)
    mean = torch.full((1, 64, 64), .1)
    control = far.control_of(model, mean, seed=4)
    assert control.config == model.config and not torch.equal(control.encoder.weight_ih_l0, model.encoder.weight_ih_l0)
    with torch.no_grad(): out = control(torch.zeros(1, 3, 1, 64, 64), 2)
    assert abs(out.future.mean() - .1) < .02


def test_quick_run_and_resumption(tmp_path, capsys):
    words = ['far', '--quick', '--device', 'cpu', '--out', str(tmp_path)]
    assert command.main(words) == 0
    found = command.load(tmp_path/'far.json')
    kinds = {r['kind'] for r in found['rows']}
    assert found['finished'] and kinds == {'reader', 'far', 'crowd', 'speed', 'kind', 'activity'}
    ahead = command.rows(found, kind='far', model='model')[0]
    assert len(ahead['ahead']['nats']) == far.QUICK['ahead'] and len(ahead['back']['nats']) == far.QUICK['behind'] + far.PAST
    text = (tmp_path/'far.json').read_text()
    capsys.readouterr()
    assert command.main(words) == 0 and (tmp_path/'far.json').read_text() == text
    assert 'kept from' in capsys.readouterr().out


def test_quick_run_of_an_unseen_class(tmp_path):
    assert command.main(['unseen', '--quick', '--device', 'cpu', '--out', str(tmp_path)]) == 0
    found = command.load(tmp_path/'unseen.json')
    assert [r['left_out'] for r in found['rows']] == [False, True] and found['clips_seen'] == 2 * 2 * 4
    assert all(len(r[c][part]['nats']) == 10 for r in found['rows'] for c in ('this class', 'other classes') for part in ('back', 'ahead'))


def test_stored_results_are_those_of_the_experiment():
    if not RESULTS.exists(): pytest.skip('no results yet: `python experiments/run.py far` makes them')
    found = command.load(RESULTS)
    assert not found['quick'] and found['settings'] == command.plain(far.SETTINGS) and json.dumps(found, allow_nan=False)
    ahead, control = (command.rows(found, kind='far', model=m)[0]['ahead'] for m in ('model', 'random weights'))
    assert len(ahead['nats']) == far.SETTINGS['ahead'] and all(n > f for n, f in zip(ahead['nats'], ahead['floor']))
    assert ahead['error']['median'][0] < control['error']['median'][0]

"What the experiment `features` measures with: truths about clips, an exact rotation, scores, and shares of variance between groups."
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from experiments import features, run
from lstm_video_repr.clips import MovingDigits
from lstm_video_repr.models import VideoLSTM


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
    assert torch.equal(again[0], clips[:12]) and torch.equal(again[1]['class'], truth['class'][:12]), 'more clips begin with the same ones'


def test_train_and_test_digits_do_not_mix(tmp_path, monkeypatch):
    "Features are fitted on clips of the one and judged on clips of the other."
    seen, original = [], features.scene
    monkeypatch.setattr(features, 'scene', lambda source, *args, **kw: seen.append(source) or original(source, *args, **kw))
    assert run.main(['features', '--quick', '--seeds', '0', '--out', str(tmp_path)]) == 0
    assert [s.split for s in seen] == ['train', 'test'] * 2 + ['test'] * 2
    pictures = [{x.numpy().tobytes() for x in s.digits} for s in seen]
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
    def truth(seed, n=400): return dict(place=tensor(n, 1, 2, seed=seed) * 9, velocity=tensor(n, 1, 2, seed=seed + 1), **{'class': torch.randint(10, (n, 1), generator=torch.Generator().manual_seed(seed))})
    train, test, mixing = truth(1), truth(5), tensor(14, 30, seed=9)
    def open_(t): return torch.cat([t['place'][:, 0], t['velocity'][:, 0], torch.zeros(len(t['class']), 10).scatter_(1, t['class'], 1.)], 1) @ mixing
    good = features.read_out(open_(train), train, open_(test), test, True)
    assert good['place'] > .999 and good['velocity'] > .99 and good['class'] > .99 and good['place_error'] < .2 and good['angle_error'] < 3
    bad = features.read_out(tensor(400, 30, seed=11), train, tensor(400, 30, seed=12), test, True)
    assert abs(bad['place']) < .1 and abs(bad['velocity']) < .1 and bad['class'] < .2 and 70 < bad['angle_error'] < 110


def test_scores_of_two_digits():
    there = torch.tensor([[0, 3], [1, 2], [3, 9], [0, 1]])
    truth = dict(place=tensor(4, 2, 2), velocity=tensor(4, 2, 2, seed=1), **{'class': there})
    found = {k: v.numpy() for k, v in features.targets(truth).items()}
    perfect = features.scores(found, truth)
    assert all(perfect[k] == pytest.approx(1) for k in ('mean_place', 'mean_velocity', 'lower_place', 'higher_place', 'classes', 'pair'))
    np.testing.assert_allclose(found['mean_place'], (found['lower_place'] + found['higher_place']) / 2, rtol=1e-6)
    worst = features.scores(found | dict(classes=1 - found['classes']), truth)
    assert worst['classes'] == 0 and worst['pair'] == 0
    middle = features.scores(found | dict(lower_place=np.repeat(found['lower_place'].mean(0, keepdims=True), 4, 0)), truth)
    assert middle['lower_place'] == pytest.approx(0, abs=1e-9) and middle['higher_place'] == perfect['higher_place']


def test_variance_between_groups():
    groups = torch.arange(600) % 6
    x = torch.stack([groups.float(), tensor(600), tensor(600) + groups, torch.ones(600)], 1)
    share = features.between(x, groups)
    assert share[0] == pytest.approx(1) and abs(share[1]) < .03 and share[3] == 0
    assert share[2].item() == pytest.approx(35 / 12 / (35 / 12 + 1), abs=.05), 'variance of 0 to 5 against that of the noise'
    many = torch.stack([features.between(tensor(60, 1, seed=k), torch.arange(60) % 6)[0] for k in range(200)])
    assert abs(many.mean()) < .02, 'adjusted: chance is 0, however many groups there are'


def test_groups_of_places_and_directions():
    place = torch.tensor([[0., 0], [35.9, 35.9], [36, 36], [0, 35]])
    assert features.place_groups(place, torch.tensor([36., 36.])).tolist() == [0, 35, 35, 5]
    angle = torch.arange(16) * math.pi / 8
    turn = features.direction_groups(torch.stack([angle.sin(), angle.cos()], 1))
    assert turn[::2].tolist() == list(range(8)) and turn.min() == 0 and turn.max() == 7


def test_fingerprints_tell_weights_apart():
    a, b = (VideoLSTM.composite(hidden_size=3, frame_shape=(1, 4, 4), seed=s) for s in (0, 1))
    assert features.fingerprint(a) == features.fingerprint(VideoLSTM.composite(hidden_size=3, frame_shape=(1, 4, 4))) != features.fingerprint(b)

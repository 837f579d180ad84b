"Metrics: by hand, against scikit-image, and what `evaluate` promises."
import gc
import json
import math
import re
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lstm_video_repr.clips import Clips, FixedClips, MovingDigits, MovingMNISTFile, as_clips
from lstm_video_repr.metrics import (ClipScores, Comparison, FrameScores, LastFrame, LinearPredictor, MeanFrame,
                                     MeanOfPast, Scores, clips_for, compare, evaluate, ratio_error, score_clips)
from lstm_video_repr.metrics import mae, mse, nats_floor, nats_per_frame, psnr, squared_error, ssim
from lstm_video_repr.models import FrameCode, VideoLSTM, VideoOutput, frame_loss

SMALL = dict(frame_shape=(1, 8, 8), hidden_size=12)


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Pairs(NamedTuple):
    "Clips as a user may bring them: a pair of tensors."
    past: torch.Tensor
    future: torch.Tensor | None


@pytest.fixture
def pairs(): return Pairs(rand(11, 4, 1, 8, 8), rand(11, 3, 1, 8, 8, seed=1))


@pytest.fixture(scope='module')
def digits(): return MovingDigits('embedded', split='test', seed=3)


# ---- single numbers

def test_nats_by_hand_per_frame():
    p, x = rand(3, 2, 5, dtype=torch.float64) * .9 + .05, rand(3, 2, 5, seed=1, dtype=torch.float64)
    def surprise(p, x): return -x * math.log(p) - (1 - x) * math.log(1 - p)
    by_hand = [sum(surprise(p[b, t, d], x[b, t, d]) for b in range(3) for d in range(5)) / 3 for t in range(2)]
    found = nats_per_frame(p.logit(), x)
    assert found.dtype == torch.float64 and found.shape == (2,)
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-10, atol=0)


def test_nats_and_squared_error_are_the_models_losses():
    raw, x = torch.randn(4, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), rand(4, 3, 1, 8, 8)
    assert nats_per_frame(raw, x).mean().item() == pytest.approx(frame_loss(raw, x).item(), rel=1e-5)
    assert squared_error(raw, x).mean().item() == pytest.approx(frame_loss(raw, x, 'gaussian').item(), rel=1e-5)


def test_nats_of_extreme_logits_are_finite_and_exact():
    raw = torch.tensor([1e4, -1e4, 1e4, -1e4]).view(1, 1, 4)
    assert nats_per_frame(raw, torch.tensor([1., 0., 1., 0.]).view(1, 1, 4)).item() == 0
    assert nats_per_frame(raw, torch.tensor([0., 1., 1., 0.]).view(1, 1, 4)).item() == 2e4


def test_sums_do_not_drift_in_float32():
    "A frame of a million values: float32 sums would lose digits."
    x, raw = torch.full((1, 1, 1000, 1000), .1), torch.zeros(1, 1, 1000, 1000)
    assert nats_per_frame(raw, x).item() == pytest.approx(1e6 * math.log(2), rel=1e-7)


@pytest.mark.parametrize('seed', range(5))
def test_nothing_gets_below_the_floor(seed):
    x = rand(2, 3, 1, 8, 8, seed=seed, dtype=torch.float64)
    x[:, :, :, :3] = x[:, :, :, :3].round()
    floor = nats_floor(x)
    perfect = nats_per_frame(x.clamp(1e-14, 1 - 1e-14).logit(), x)
    torch.testing.assert_close(perfect, floor, rtol=1e-9, atol=1e-9)
    for k in range(5):
        logits = rand(*x.shape, seed=seed + 10 + k, dtype=x.dtype) * 6 - 3
        assert (nats_per_frame(logits, x) > floor).all()


def test_floor_of_black_and_white_is_zero():
    assert nats_floor((rand(2, 3, 16) > .5).float()).tolist() == [0, 0, 0]
    assert nats_floor(torch.full((1, 1, 100), .5)).item() == pytest.approx(100 * math.log(2))


def test_reductions():
    a, b = rand(5, 2, 1, 8, 8), rand(5, 2, 1, 8, 8, seed=1)
    assert mse(a, b).mean().item() == pytest.approx(F.mse_loss(a, b).item() * 64, rel=1e-6)
    assert mae(a, b).mean().item() == pytest.approx(F.l1_loss(a, b).item() * 64, rel=1e-6)
    assert torch.equal(squared_error(a, b) * 2, mse(a, b))
    torch.testing.assert_close(mse(a, b), (a - b).double().square().sum((2, 3, 4)).mean(0))


def test_half_precision_is_widened():
    a, b = rand(5, 2, 1, 8, 8).bfloat16(), rand(5, 2, 1, 8, 8, seed=1)
    torch.testing.assert_close(mse(a, b), mse(a.float(), b))
    torch.testing.assert_close(nats_per_frame(a, b), nats_per_frame(a.float(), b))
    torch.testing.assert_close(ssim(a, b), ssim(a.float(), b))


def test_psnr_is_scikit_images():
    from skimage.metrics import peak_signal_noise_ratio
    a, b = rand(3, 2, 1, 8, 8), rand(3, 2, 1, 8, 8, seed=1)
    def one(i, t): return peak_signal_noise_ratio(b[i, t].numpy(), a[i, t].numpy(), data_range=1)
    theirs = [np.mean([one(i, t) for i in range(3)]) for t in range(2)]
    np.testing.assert_allclose(psnr(a, b), theirs, rtol=1e-6)


def test_psnr_of_equal_frames_is_the_cap():
    a = rand(2, 2, 1, 8, 8)
    assert psnr(a, a).tolist() == [100, 100] and psnr(a, a, cap=60).tolist() == [60, 60]
    half = torch.cat([a[:1], (a[1:] + .1)])
    assert psnr(half, a).tolist() == pytest.approx([60, 60], abs=1e-4) # (100 + 20) / 2


@pytest.mark.parametrize('shape, window', [((1, 64, 64), 7), ((3, 20, 33), 7), ((1, 7, 7), 7), ((2, 15, 12), 11),
                                           ((1, 9, 9), 3)])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_ssim_is_scikit_images(shape, window, dtype, tolerance):
    from skimage.metrics import structural_similarity
    y = rand(3, 2, *shape, dtype=dtype)
    y[..., :4] = 0 # flat parts, as moving digits have
    x = (y + .3 * rand(3, 2, *shape, seed=1, dtype=dtype)).clamp(0, 1)
    def one(b, t):
        frames = y[b, t].double().numpy(), x[b, t].double().numpy()
        return structural_similarity(*frames, data_range=1, channel_axis=0, win_size=window)
    theirs = [np.mean([one(b, t) for b in range(3)]) for t in range(2)]
    np.testing.assert_allclose(ssim(x, y, window=window), theirs, atol=tolerance, rtol=0)


def test_ssim_golden_values():
    black, white = torch.zeros(1, 1, 1, 9, 9).double(), torch.ones(1, 1, 1, 9, 9).double()
    assert ssim(black, black).item() == 1
    assert ssim(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-9)
    assert torch.equal(ssim(black[:, :, 0], white[:, :, 0]), ssim(black, white)) # (B, T, H, W) too
    assert torch.equal(ssim(black, white, window=np.int8(9)), ssim(black, white, window=9))


# ---- evaluate

def test_numbers_are_those_of_the_whole_set_at_once(pairs):
    model = VideoLSTM.composite(**SMALL)
    s = evaluate(model, pairs, batch_size=4)
    with torch.no_grad(): out = model(pairs.past, future_frames=3)
    def turned(x): return torch.stack([x[:, t] for t in (3, 2, 1, 0)], 1)
    back, raw_back = turned(out.reconstruction), turned(out.reconstruction_logits)
    assert s.n_clips == 11
    for part, frames, raw, truth in ((s.future, out.future, out.future_logits, pairs.future),
                                     (s.reconstruction, back, raw_back, pairs.past)):
        measures = dict(squared_error=squared_error, mse=mse, mae=mae, ssim=ssim, psnr=psnr)
        wanted = dict(nats=nats_per_frame(raw, truth), floor=nats_floor(truth))
        wanted |= {k: f(frames, truth) for k, f in measures.items()}
        for name, by_hand in wanted.items():
            found = getattr(part, name)
            assert isinstance(found, np.ndarray) and found.dtype == np.float64 and found.shape == (truth.shape[1],)
            np.testing.assert_allclose(found, by_hand, rtol=1e-5)
            assert part.overall[name] == pytest.approx(found.mean())
        np.testing.assert_allclose(part.above_floor, part.nats - part.floor)


@pytest.mark.parametrize('batch_size', [1, 4, 7, 11, 50])
def test_exactly_n_clips_whatever_the_batch_size(digits, batch_size):
    want, found = (evaluate(LastFrame(), digits, n_clips=11, batch_size=b) for b in (11, batch_size))
    assert found.n_clips == 11
    np.testing.assert_allclose(found.future.nats, want.future.nats, rtol=1e-7)
    np.testing.assert_allclose(found.future.ssim, want.future.ssim, rtol=1e-6)


def test_the_last_batch_is_cut(pairs):
    seen = []
    def predictor(past, future_frames):
        seen.append(len(past))
        return LastFrame()(past, future_frames=future_frames)
    s = evaluate(predictor, pairs, n_clips=10, batch_size=4)
    assert seen == [4, 4, 2] and s.n_clips == 10
    np.testing.assert_allclose(s.future.floor, nats_floor(pairs.future[:10]), rtol=1e-6)


def test_repeatable_and_leaves_the_index_alone(digits):
    digits.index = 17
    a, b = (evaluate(LastFrame(), digits, n_clips=6) for _ in range(2))
    assert digits.index == 17
    assert a.to_dict() == b.to_dict()
    fixed = evaluate(LastFrame(), FixedClips(digits, 6), n_clips=6)
    assert fixed.to_dict() == a.to_dict()


def test_memory_is_constant():
    alive = []
    class Source(Clips):
        frame_shape, past, future = (1, 8, 8), 2, 2
        def read(self, first, n):
            gc.collect(1)
            assert sum(r() is not None for r in alive) <= 2
            past = rand(n, 2, 1, 8, 8, seed=first)
            alive.append(weakref.ref(past))
            return past, past.clone()
    evaluate(LastFrame(), Source(), n_clips=60, batch_size=3)
    assert len(alive) == 20


def test_reconstruction_is_compared_in_reverse_and_reported_forward(pairs):
    past = pairs.past.clamp(.01, .99)
    source = Pairs(past, pairs.future)
    backwards = evaluate(lambda past, **_: VideoOutput(past.flip(1).logit(), None), source)
    forwards = evaluate(lambda past, **_: VideoOutput(past.logit(), None), source)
    assert backwards.future is None
    assert backwards.reconstruction.mse.max() < 1e-8 < 1 < forwards.reconstruction.mse.min()
    np.testing.assert_allclose(backwards.reconstruction.nats, backwards.reconstruction.floor, rtol=1e-5)
    last = evaluate(LastFrame(clamp=.001), source).reconstruction # right about the last frame seen
    assert last.mse.argmin() == 3 and last.mse[3] < 1e-8


def test_conditional_decoders_see_their_own_output(pairs):
    model = VideoLSTM.composite(**SMALL, conditional_future=True, conditional_reconstruction=True)
    for decoder in (model.future_decoder, model.reconstruction_decoder):
        torch.nn.init.normal_(decoder.lstm.weight_ih_l0, std=2., generator=torch.Generator().manual_seed(0))
    s = evaluate(model, pairs)
    with torch.no_grad():
        free, forced = model(pairs.past, future_frames=3), model.loss(pairs.past, pairs.future)
    np.testing.assert_allclose(s.future.nats, nats_per_frame(free.future_logits, pairs.future), rtol=1e-5)
    assert abs(s.future.overall['nats'] - forced.future.item()) > .01
    assert abs(s.reconstruction.overall['nats'] - forced.reconstruction.item()) > .01


def test_unconditional_models_score_their_training_loss(pairs):
    model = VideoLSTM.composite(**SMALL)
    s, loss = evaluate(model, pairs, batch_size=3), model.loss(pairs.past, pairs.future)
    assert s.future.overall['nats'] == pytest.approx(loss.future.item(), rel=1e-5)
    assert s.reconstruction.overall['nats'] == pytest.approx(loss.reconstruction.item(), rel=1e-5)


def test_the_model_comes_back_as_it_was(pairs):
    model = VideoLSTM.composite(**SMALL, num_layers=2, dropout=.5)
    model.train()
    model.encoder.eval() # a frozen part stays frozen
    a, b = (evaluate(model, pairs).to_dict() for _ in range(2))
    assert a == b # dropout was off
    assert model.training and model.future_decoder.training and not model.encoder.training
    def broken(*_, **__): raise ZeroDivisionError
    model.decode = broken
    with pytest.raises(ZeroDivisionError): evaluate(model, pairs)
    assert model.training and not model.encoder.training
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


@pytest.mark.parametrize('kind, has, lacks', [('autoencoder', 'reconstruction', 'future'),
                                              ('future_predictor', 'future', 'reconstruction')])
def test_models_with_one_decoder(pairs, kind, has, lacks):
    s = evaluate(getattr(VideoLSTM, kind)(**SMALL), pairs)
    assert getattr(s, lacks) is None and getattr(s, has).nats.shape == ((4,) if has == 'reconstruction' else (3,))
    assert has.capitalize() in str(s) and lacks.capitalize() not in str(s)
    assert s.to_dict()[lacks] is None


def test_an_autoencoder_needs_no_future(pairs):
    for future in (None, pairs.future[:, :0]):
        s = evaluate(VideoLSTM.autoencoder(**SMALL), Pairs(pairs.past, future))
        assert s.future is None and s.reconstruction.nats.shape == (4,)
    blind = VideoLSTM.future_predictor(**SMALL)
    with pytest.raises(ValueError, match='nothing to compare'): evaluate(blind, Pairs(pairs.past, None))


def test_fewer_future_frames(pairs):
    whole, part = (evaluate(LastFrame(), pairs, future_frames=n) for n in (None, 2))
    np.testing.assert_array_equal(part.future.nats, whole.future.nats[:2])


def test_gaussian_models_have_no_nats(pairs):
    model = VideoLSTM.composite(**SMALL, output='gaussian')
    s = evaluate(model, pairs)
    assert s.output == 'gaussian' and s.future.nats is None and s.future.floor is None and s.future.above_floor is None
    assert next(iter(s.future.overall)) == 'squared_error' and s.future.ssim is not None
    loss = model.loss(pairs.past, pairs.future)
    assert s.future.overall['squared_error'] == pytest.approx(loss.future.item(), rel=1e-5)
    assert 'nats' not in str(s)
    wild = evaluate(model, Pairs(pairs.past * 9 - 4, pairs.future * 9 - 4)) # no pixels: no data range
    assert wild.future.ssim is None and wild.future.psnr is None and wild.future.mse is not None


def test_frames_that_are_no_images():
    source = Pairs(rand(5, 4, 30), rand(5, 3, 30, seed=1))
    s = evaluate(VideoLSTM.composite(frame_shape=30, hidden_size=7), source)
    assert s.future.ssim is None and s.future.psnr is not None and '30 values' in str(s)
    for shape in ((3, 16, 16), (16, 16)):
        assert evaluate(LastFrame(), Pairs(rand(5, 4, *shape), rand(5, 3, *shape))).future.ssim is not None


def test_ssim_can_be_left_out(pairs):
    s = evaluate(LastFrame(), pairs, ssim=False)
    assert s.future.ssim is None and 'SSIM' not in str(s)


def test_the_models_dtype_is_served(pairs):
    model = VideoLSTM.composite(**SMALL)
    want = evaluate(model, pairs)
    np.testing.assert_allclose(evaluate(model.double(), pairs).future.nats, want.future.nats, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_on_a_gpu(pairs):
    model = VideoLSTM.composite(**SMALL)
    want = evaluate(model, pairs)
    found = evaluate(model.cuda(), pairs)
    for name, v in want.future.per_frame.items(): np.testing.assert_allclose(getattr(found.future, name), v, rtol=1e-3)


def test_progress_bar(pairs, capsys):
    evaluate(LastFrame(), pairs, progress=True)
    assert '11/11' in capsys.readouterr().err


def test_whatever_clips_are_kept_in(pairs):
    from torch.utils.data import DataLoader, TensorDataset
    loader = DataLoader(TensorDataset(pairs.past, pairs.future), batch_size=4)      # shorter in length than in clips
    for n in (7, 11):
        want = evaluate(LastFrame(), pairs, n_clips=n, batch_size=4).to_dict()
        for clips in (loader, list(loader), iter(loader), map(tuple, loader)):
            assert evaluate(LastFrame(), clips, n_clips=n, batch_size=4).to_dict() == want
    with pytest.raises(ValueError, match='n_clips is 12'): evaluate(LastFrame(), loader, n_clips=12)
    a, b = MeanFrame.from_clips(loader, 11, batch_size=4), MeanFrame.from_clips(pairs, batch_size=4)
    assert torch.equal(a.mean, b.mean)


# ---- trivial predictors

def test_last_frame(pairs):
    out = LastFrame(clamp=.01)(pairs.past, future_frames=3, reconstruction_frames=2)
    assert out.future.shape == (11, 3, 1, 8, 8) and out.reconstruction.shape == (11, 2, 1, 8, 8)
    for f in (*out.future.unbind(1), *out.reconstruction.unbind(1)):
        torch.testing.assert_close(f, pairs.past[:, -1].clamp(.01, .99))
    exact = LastFrame(output='gaussian')(pairs.past)
    assert torch.equal(exact.future[:, 0], pairs.past[:, -1]) and exact.reconstruction.shape[1] == 4


def test_mean_frame(pairs, digits):
    mean = MeanFrame.from_clips(pairs, batch_size=4)
    torch.testing.assert_close(mean.mean, torch.cat([pairs.past, pairs.future], 1).mean((0, 1)))
    torch.testing.assert_close(mean(pairs.past, future_frames=2).future[3, 1], mean.mean.clamp(.002, .998))
    digits.index = 5
    a, b = (MeanFrame.from_clips(digits, n=10, batch_size=n).mean for n in (10, 3))
    assert digits.index == 5
    torch.testing.assert_close(a, b)


# ---- printing

def test_a_table_names_its_conventions(digits):
    s = evaluate(LastFrame(), digits, n_clips=4)
    text = s.table()
    assert text == str(s) == repr(s)
    for word in ('4 clips, free-running', "summed over a frame's 4096 values", 'log 2', 'entropy',
                 'half the squared norm', 'no model can save all of it', 'data range 1',
                 '7 x 7', "clip's own order", 'overall'):
        assert word in text
    html = s._repr_html_()
    assert html.count('<table>') == 2 and '<script' not in html and 'data range 1' in html
    assert f"{s.future.overall['nats']:.1f}" in text and f"{s.future.nats[3]:.1f}" in html


def test_scores_go_through_json(digits):
    s = evaluate(LastFrame(), digits, n_clips=4)
    back = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert back == s.to_dict() and back['n_clips'] == 4 and 'entropy' in back['conventions']['floor']
    assert back['future']['per_frame']['nats'] == s.future.nats.tolist()
    assert len(back['reconstruction']['per_frame']['ssim']) == 10


def test_compare(pairs):
    scores = {'last <frame>': evaluate(LastFrame(), pairs),
              'future only': evaluate(VideoLSTM.future_predictor(**SMALL), pairs),
              'gaussian': evaluate(VideoLSTM.composite(**SMALL, output='gaussian'), pairs, n_clips=10)}
    c = compare(scores)
    future, reconstruction = str(c).split('Reconstruction')
    assert 'future only' in future and 'future only' not in reconstruction
    line = next(l for l in future.splitlines() if l.startswith('gaussian'))
    assert line.split()[1:4] == ['-', '-', '-'] and line.split()[-1] == '10'
    assert 'last &lt;frame&gt;' in c._repr_html_() and 'last <frame>' not in c._repr_html_()
    assert list(c.to_dict()) == list(scores)


# ---- bad input

@pytest.mark.parametrize('measure', [nats_per_frame, squared_error, mse, mae, psnr, ssim])
def test_measures_refuse_what_they_cannot_measure(measure):
    good = rand(2, 3, 1, 8, 8)
    def says(a, b, word):
        with pytest.raises(ValueError, match=word): measure(a, b)
    says(good, good[:, :2], r'\(2, 2, 1, 8, 8\).*expected the same')
    says(good[0, 0, 0], good[0, 0, 0], r'expected \(B, T, \*frame\)')
    says(good[:0], good[:0], 'at least one clip and one frame')
    says(good, good * torch.nan, 'target holds NaN')
    says(good / 0, good, 'holds NaN or infinite')
    says(good, (good * 255).byte(), 'divide by 255')
    says(good.numpy(), good, 'is an array of float32, shape .*; expected a tensor')
    if measure not in (squared_error, mse, mae): says(good, good * 255, r'target has values from .* expected \[0, 1\]')


def test_more_refusals_of_measures():
    with pytest.raises(ValueError, match='expected \\[0, 1\\]'): nats_floor(rand(1, 1, 4) - 1)
    x = rand(2, 3, 1, 6, 9)
    with pytest.raises(ValueError, match='at least 7 x 7'): ssim(x, x)
    with pytest.raises(ValueError, match='images'): ssim(x.flatten(2), x.flatten(2))
    for window in (0, 4, 1, 7., True):
        with pytest.raises(ValueError, match='window'): ssim(x, x, window=window)
    with pytest.raises(ValueError, match='cap'): psnr(x, x, cap=-1)


@pytest.mark.parametrize('options, word', [
    (dict(n_clips=0), 'n_clips is 0'), (dict(n_clips=2.5), 'n_clips is 2.5'), (dict(n_clips=True), 'n_clips'),
    (dict(batch_size=0), 'batch_size is 0'), (dict(future_frames=0), 'future_frames is 0'),
    (dict(future_frames=4), 'future_frames is 4; expected at most 3'),
    (dict(n_clips=12), 'n_clips is 12 but clips holds only 11; expected at most that many')])
def test_evaluate_refuses_bad_numbers(pairs, options, word):
    with pytest.raises(ValueError, match=word): evaluate(LastFrame(), pairs, **options)


def test_evaluate_refuses_what_is_no_model_and_no_clips(pairs):
    def says(model, clips, word, n=11):
        with pytest.raises(ValueError, match=word): evaluate(model, clips, n_clips=n)
    says('model', pairs, "model is 'model'")
    says(LastFrame, pairs, r'the class LastFrame; expected a model, such as LastFrame\(')
    says(lambda past, **_: past, pairs, 'model returned a tensor of float32, .*; expected a VideoOutput')
    says(lambda past, **_: VideoOutput(None, None), pairs, 'nothing to compare')
    word = r'future of the model has shape \(11, 4, 1, 8, 8\); expected \(11, 3, 1, 8, 8\)'
    says(lambda past, **_: VideoOutput(None, past), pairs, word)
    says(lambda past, **_: VideoOutput(None, past[:, :3] * torch.nan), pairs, 'future of the model holds NaN')
    for clips in (None, 'embedded', 3, [], torch.zeros(4, 4), [1, 2]): says(LastFrame(), clips, 'clips')
    says(LastFrame(), [(pairs.past[:3], pairs.future[:3])], 'n_clips is 11 but clips holds only 3')
    says(LastFrame(), Pairs(pairs.past * 255, pairs.future), r'expected \[0, 1\]')
    says(LastFrame(), Pairs(pairs.past, pairs.future * 255), r'clips has values from .*expected \[0, 1\]')
    says(LastFrame(), Pairs(pairs.past, pairs.future * torch.nan), 'clips holds NaN')
    says(VideoLSTM.composite(frame_shape=(1, 9, 9), hidden_size=4), pairs, r'past has shape')


def test_clips_that_are_not_what_they_say_are_refused():
    "A source of one's own whose frames change on the way: no average of unlike things."
    class Odd(Clips):
        frame_shape, past, future = (1, 8, 8), 3, 2
        def read(self, first, n): return rand(n, 3 - first // 4, 1, 8, 8), rand(n, 2, 1, 8, 8)
    assert evaluate(LastFrame(), Odd(), n_clips=4, batch_size=4).n_clips == 4
    word = r'past has shape \(4, 2, 1, 8, 8\); expected \(4, 3, 1, 8, 8\)'
    with pytest.raises(ValueError, match=word): evaluate(LastFrame(), Odd(), n_clips=8, batch_size=4)
    with pytest.raises(ValueError, match=word): MeanFrame.from_clips(Odd(), 8, batch_size=4)


def test_trivial_predictors_refuse(pairs):
    for clamp in (0, .5, -1, 1, float('nan')):
        with pytest.raises(ValueError, match='clamp'): LastFrame(clamp=clamp)
    with pytest.raises(ValueError, match='output'): LastFrame(output='poisson')
    with pytest.raises(ValueError, match='reconstruction_frames is 0'): LastFrame()(pairs.past, reconstruction_frames=0)
    for mean in (.1, torch.zeros(1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match='mean'): MeanFrame(mean)
    with pytest.raises(ValueError, match='mean has values'): MeanFrame(torch.full((1, 8, 8), 1.5))
    word = r'expected frames of shape \(1, 9, 9\)'
    with pytest.raises(ValueError, match=word): MeanFrame(torch.full((1, 9, 9), .5))(pairs.past)
    with pytest.raises(ValueError, match='n is 12 but clips holds only 11'): MeanFrame.from_clips(pairs, 12)


def test_compare_refuses(pairs, digits):
    s = evaluate(LastFrame(), pairs)
    for bad in ({}, [s], None, {'a': 3.4}):
        with pytest.raises(ValueError, match='scores'): compare(bad)
    other = evaluate(LastFrame(), digits, n_clips=2)
    with pytest.raises(ValueError, match='expected one shape'): compare({'a': s, 'b': other})


# ---- real data

def test_floor_of_moving_mnist(mnist_folder):
    clips = MovingDigits('mnist', split='test', seed=0, folder=mnist_folder.parent)
    s = evaluate(LastFrame(), clips, n_clips=300, ssim=False)
    assert 80 < s.future.overall['floor'] < 95 and 80 < s.reconstruction.overall['floor'] < 95


def test_genuine_clips(data_folder):
    path = data_folder / 'moving_mnist' / 'mnist_test_seq_5.npy'
    if not path.is_file(): pytest.skip('needs moving_mnist/mnist_test_seq_5.npy in LVR_DATA')
    s = evaluate(LastFrame(), MovingMNISTFile(path))
    assert 50 < s.future.overall['floor'] < 130 and s.future.nats[0] < s.future.nats[-1]
    with pytest.raises(ValueError, match='holds only 5'): evaluate(LastFrame(), MovingMNISTFile(path), n_clips=6)


@pytest.mark.parametrize('mine', [0, 1])
def test_a_number_that_some_processes_lack_is_left_out(monkeypatch, mine):
    "PSNR needs pixels in [0, 1]; where the clips of one process leave it, the whole has none, whoever comes first."
    x = torch.cat([rand(2, 2, 1, 8, 8), 9 * rand(2, 2, 1, 8, 8)])
    sent, clips = {}, Pairs(x, x)
    def run(rank, gather):
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda: rank)
        monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
        monkeypatch.setattr(torch.distributed, 'all_gather_object', gather)
        return evaluate(LastFrame(output='gaussian'), as_clips(clips, seed=None), batch_size=2, shared=True)
    class Sent(Exception): pass
    def keep(found, own):
        sent[1 - mine] = own
        raise Sent
    with pytest.raises(Sent): run(1 - mine, keep)
    def gather(found, own): found[:] = [own, sent[1]] if mine == 0 else [sent[0], own]
    s = run(mine, gather)
    assert list(s.future.overall) == ['squared_error', 'mse', 'mae'] and s.n_clips == 4
    np.testing.assert_allclose(s.future.mse, mse(clips.past[:, -1:].expand(4, 2, 1, 8, 8), clips.future), rtol=1e-6)


def test_a_comparison_shows_unequal_numbers_of_frames():
    model = VideoLSTM.composite(**SMALL)
    scores = {n: evaluate(model, Pairs(rand(2, 3, 1, 8, 8), rand(2, n, 1, 8, 8))) for n in (2, 3)}
    same, mixed = repr(compare({'a': scores[2], 'b': scores[2]})), repr(compare({'a': scores[2], 'b': scores[3]}))
    assert not re.search(r'frames\s+clips', same)
    assert len(re.findall(r'frames\s+clips', mixed)) == 1      # of the futures; the pasts are equally long


def test_a_loader_without_length_is_measured_once():
    "Without `n_clips` a stream gives what one pass has, up to a thousand; with it, exactly so many or an error."
    clip = torch.rand(7, 6, 3, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(clip[:, :4], clip[:, 4:]), batch_size=3)
    scores = evaluate(LastFrame(output='gaussian'), loader)
    assert scores.n_clips == 7
    assert scores.to_dict() == evaluate(LastFrame(output='gaussian'), (clip[:, :4], clip[:, 4:])).to_dict()
    assert evaluate(LastFrame(output='gaussian'), iter(loader), batch_size=2).n_clips == 7      # once is enough
    with pytest.raises(ValueError, match='n_clips is 8; expected at most 7'):
        evaluate(LastFrame(output='gaussian'), loader, 8)


def test_clips_that_give_fewer_than_they_were_asked_for():
    class Two(Clips):
        frame_shape, past, future = (3,), 2, 2
        def read(self, first, n): return torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    with pytest.raises(ValueError, match='clips gives 2 clips where 30 were asked for'):
        evaluate(LastFrame(output='gaussian'), Two(), 30)


# ---- nothing of others is changed

def test_a_measurement_leaves_no_trace(pairs):
    "Modes, gradients, random numbers and the place in the clips, whether it ends well or not."
    from torch.utils.data import DataLoader, TensorDataset
    clips, model = MovingDigits('embedded', seed=3, image_size=32), VideoLSTM.composite(**SMALL).train()
    clips.index = 17
    shuffled = DataLoader(TensorDataset(pairs.past, pairs.future), batch_size=4, shuffle=True)
    def draws(past, future_frames): torch.rand(3); return LastFrame()(past, future_frames=future_frames)
    def breaks(past, future_frames): torch.rand(3); raise ZeroDivisionError
    def state(): return torch.get_rng_state().tolist(), torch.is_grad_enabled(), clips.index, model.training
    before = state()
    wrong = Pairs(pairs.past * torch.nan, pairs.future)
    for args in ((model, shuffled), (draws, pairs), (draws, clips, 3), (breaks, pairs), (breaks, clips, 3),
                 (model, clips, 3), (model, pairs, 0), (model, 'clips'), (model, [1]), (model, wrong)):
        try: evaluate(*args)
        except (ValueError, ZeroDivisionError): pass
        assert state() == before


def test_a_mean_is_kept_as_it_was():
    mean = torch.full((1, 8, 8), .25, requires_grad=True)
    predictor = MeanFrame(mean)
    with torch.no_grad(): mean.fill_(.75)
    assert predictor.mean.unique().tolist() == [.25] and not predictor.mean.requires_grad


def test_scores_are_kept_as_they_were():
    row = np.array([1., 2.])
    scores = FrameScores(mse=row)
    table = {'a': Scores(None, scores, 3, (1, 8, 8))}
    comparison = compare(table)
    row[:] = 9
    table['b'] = None
    assert scores.overall == dict(mse=1.5) and list(comparison.scores) == ['a']


# ---- whatever can be asked

def test_whatever_is_called_like_a_model(pairs):
    "Wrapped, compiled, exported: the same numbers."
    class Wrapped(torch.nn.Module):
        def __init__(self): super().__init__(); self.model = model
        def forward(self, past, **options): return self.model(past, **options)
    model = VideoLSTM.composite(**SMALL).eval()
    want = evaluate(model, pairs).to_dict()
    for other in (Wrapped(), torch.nn.DataParallel(model), model.forward, lambda *args, **options: model(*args, **options)):
        assert evaluate(other, pairs).to_dict() == want
    program = torch.export.export(model, (pairs.past,), dict(future_frames=3)).module()
    for other in program, torch.compile(model, backend='eager'):                    # last bits may differ
        np.testing.assert_allclose(evaluate(other, pairs).future.nats, want['future']['per_frame']['nats'], rtol=1e-5)


@pytest.mark.parametrize('model', [torch.nn.Linear(2, 2), torch.nn.LSTM(2, 2), None, 3, 'model', len, lambda past: past,
                                   VideoLSTM, {}, torch.zeros(3), VideoLSTM.composite(**SMALL).to('meta')])
def test_what_cannot_be_asked(pairs, model):
    with pytest.raises(ValueError, match='^model is .*; expected '): evaluate(model, pairs)


@pytest.mark.parametrize('answer, word', [
    (lambda x: None, 'model returned None'), (lambda x: x, 'model returned a tensor'),
    (lambda x: (1, 2), r'model returned \(1, 2\)'),
    (lambda x: VideoOutput(None, 'frames'), "future of the model is 'frames'"),
    (lambda x: VideoOutput(x.numpy(), None), 'reconstruction of the model is an array'),
    (lambda x: VideoOutput(x / 0, None), 'reconstruction of the model holds NaN'),
    (lambda x: VideoOutput(x[:, :2], None), 'reconstruction of the model has shape'),
    (lambda x: VideoOutput(None, x.to('meta')), 'future of the model is a tensor .* on meta'),
    (lambda x: VideoOutput(None, x.long()), 'future of the model has dtype int64'),
    (lambda x: VideoOutput(None, x[:, :3], 'poisson'), "output of the model is 'poisson'")])
def test_answers_that_are_none(pairs, answer, word):
    def model(past, future_frames): return answer(past)
    with pytest.raises(ValueError, match=f'^{word}.*; expected '): evaluate(model, pairs)


@pytest.mark.parametrize('options', [dict(ssim='no'), dict(ssim=1), dict(progress=None), dict(shared='yes'),
                                     dict(shared=True), dict(batch_size=True), dict(future_frames=1.5),
                                     dict(n_clips='all')], ids=str)
def test_options_of_another_kind(pairs, options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=f'^{name} is .*; expected '): evaluate(LastFrame(), pairs, **options)


def test_numbers_of_numpy(pairs):
    "As clips may describe themselves, and as scores may come: JSON holds them all."
    class Numpy(Clips):
        frame_shape, past, future = tuple(np.array([1, 8, 8])), np.int64(4), np.int64(3)
        def read(self, first, n): return pairs.past[first:first + n].clone(), pairs.future[first:first + n].clone()
    found = evaluate(LastFrame(), Numpy(), np.int64(4), batch_size=np.int32(2))
    assert json.loads(json.dumps(found.to_dict())) == evaluate(LastFrame(), pairs, 4, batch_size=2).to_dict()
    own = Scores(None, FrameScores(mse=np.float32([1, 2])), np.int64(3), np.array([1, 8, 8]))
    assert json.loads(json.dumps(compare({np.int64(5): own}).to_dict()))['5']['frame_shape'] == [1, 8, 8]


@pytest.mark.parametrize('name, make', [
    ('mse', lambda: FrameScores(mse='small')), ('mse', lambda: FrameScores(mse=3.)),
    ('mse', lambda: FrameScores(mse=[])),
    ('mse', lambda: FrameScores(mse=np.zeros((2, 2)))), ('nats', lambda: FrameScores(nats=[1., None])),
    ('nats', lambda: FrameScores(nats=[torch.nan])), ('frames', lambda: FrameScores(mse=[1.], mae=[1., 2.])),
    ('future', lambda: Scores(None, [1.], 3, (1,))), ('n_clips', lambda: Scores(None, None, 0, (1,))),
    ('frame_shape', lambda: Scores(None, None, 3, None)), ('output', lambda: Scores(None, None, 3, (1,), 'poisson')),
    ('scores', lambda: Comparison({})), ('scores', lambda: Comparison(None)), ('scores', lambda: Comparison({'a': 3}))])
def test_scores_that_are_none(name, make):
    with pytest.raises(ValueError, match=rf'^{name}\S* is .*; expected '): make()


def test_nats_without_a_floor(): assert FrameScores(nats=[1., 2.]).above_floor is None


@pytest.mark.parametrize('name, call', [
    ('past', lambda: MeanFrame(torch.full((1, 8, 8), .5))(None)), ('past', lambda: LastFrame()([1.])),
    ('mean', lambda: MeanFrame(torch.tensor(.5))), ('mean', lambda: MeanFrame(rand(2, 2).to_sparse())),
    ('future_frames', lambda: LastFrame()(rand(2, 3, 4), future_frames=10**12)),
    ('n', lambda: MeanFrame.from_clips((rand(3, 2, 4), rand(3, 2, 4)), 0)),
    ('n', lambda: MeanFrame.from_clips((rand(3, 2, 4), rand(3, 2, 4)), False)),
    ('output', lambda: MeanFrame.from_clips((rand(3, 2, 4), rand(3, 2, 4)), output='poisson')),
    ('seed', lambda: clips_for(LastFrame(), as_clips(rand(3, 4, 4)), seed='x'))])
def test_predictors_refuse_other_objects(name, call):
    with pytest.raises(ValueError, match=f'^{name} is .*; expected '): call()


@pytest.mark.parametrize('measure', [nats_per_frame, squared_error, mse, mae, psnr, ssim, nats_floor])
def test_measures_refuse_other_objects(measure):
    x = rand(2, 3, 1, 8, 8)
    word = r'^(logits|prediction|target) (is|has|holds) .*; expected '
    for other in (None, 'x', 3, [1.], {}, x.numpy(), x.to_sparse(), x.to('meta'), x.to(torch.complex64), x > .5, x[:0],
                  x / 0):
        for args in [(other,)] if measure is nats_floor else [(other, x), (x, other), (other, other)]:
            with pytest.raises(ValueError, match=word): measure(*args)


def test_a_mean_of_what_is_no_clip():
    for wrong, word in ((255 * rand(3, 4, 5), 'has values from'), (rand(3, 4, 5) / 0, 'holds NaN')):
        with pytest.raises(ValueError, match=f'^clips {word}'): MeanFrame.from_clips(wrong)
    assert MeanFrame.from_clips((255 * rand(3, 4, 5), None), output='gaussian').mean.max() > 1


def test_pixels_that_are_one():
    one, other = rand(2, 3, 1), rand(2, 3, 1, seed=1)
    torch.testing.assert_close(mse(one, other), (one - other).square().double().mean((0, 2)))
    assert psnr(one, one, cap=1e300).tolist() == [1e300]*3
    with pytest.raises(ValueError, match='for SSIM'): ssim(one, other)


# ---- standard errors

class Cut(Clips):
    "Clips in a row, cut from films of unequal numbers of clips."
    past, future = 4, 3
    def __init__(self, films=('a', 'b', 'a', 'c', 'c', 'b', 'a', 'd', 'a', 'b', 'e'), shape=(1, 8, 8)):
        self.films, self.frame_shape = list(films), shape
        self.x = rand(len(self.films), 7, *shape)
    def __len__(self): return len(self.films)
    def read(self, first, n): return self.x[first:first + n, :4].clone(), self.x[first:first + n, 4:].clone()
    def groups(self, first, n): return self.films[first:first + n]


def clip_means(clips, measure=mse):
    "Of each clip the error of repeating its last frame, averaged over frames."
    past, future = clips.read(0, len(clips))
    guess = past[:, -1:].expand_as(future)
    return np.array([measure(guess[k:k + 1], future[k:k + 1]).mean().item() for k in range(len(clips))])


def test_standard_error_of_clips_by_hand(pairs):
    s = evaluate(LastFrame(output='gaussian'), pairs, batch_size=4)
    guess = pairs.past[:, -1:].expand_as(pairs.future)
    for name, measure in dict(mse=mse, mae=mae, ssim=ssim, psnr=psnr, squared_error=squared_error).items():
        each = np.array([measure(guess[k:k+1], pairs.future[k:k+1]).mean().item() for k in range(11)])
        assert s.future.errors[name] == pytest.approx(each.std(ddof=1) / 11**.5, rel=1e-9)
    assert s.n_groups is None and set(s.future.errors) == set(s.future.overall)
    nats = evaluate(LastFrame(), pairs).future
    assert set(nats.errors) == set(nats.overall) and 0 < nats.errors['floor'] < nats.errors['above_floor']


@pytest.mark.parametrize('batch_size', [1, 3, 50])
def test_standard_error_of_films_by_hand(batch_size):
    clips = Cut()
    each, names = clip_means(clips), np.array(clips.films)
    sums, sizes = (np.array([v[names == g].sum() for g in 'abcde']) for v in (each, np.ones(11)))
    by_hand = np.sqrt(5 / 4 * ((sums - each.mean() * sizes)**2).sum()) / 11
    s = evaluate(LastFrame(output='gaussian'), clips, batch_size=batch_size)
    assert s.future.errors['mse'] == pytest.approx(by_hand, rel=1e-9) == ratio_error(sums, sizes)
    assert s.n_groups == 5 and s.future.overall['mse'] == pytest.approx(each.mean(), rel=1e-9)
    fixed = evaluate(LastFrame(output='gaussian'), FixedClips(clips, 11), batch_size=batch_size)
    assert fixed.to_dict() == s.to_dict() and 'of 5 groups' in str(s) and 'from group to group' in str(s)


def test_a_film_that_is_shown_again_adds_nothing():
    "Crops of the same films, and more crops of them: the error over films stays, that over clips would shrink."
    few = Cut('abcdef')
    many = Cut('abcdef' * 9)
    many.x[:] = few.x.repeat(9, 1, 1, 1, 1)
    a, b = (evaluate(LastFrame(output='gaussian'), c).future.errors['mse'] for c in (few, many))
    class Alone(Cut):
        def groups(self, first, n): return None
    alone = Alone('abcdef' * 9)
    alone.x[:] = many.x
    assert a == pytest.approx(b, rel=1e-9)
    assert evaluate(LastFrame(output='gaussian'), alone).future.errors['mse'] < b / 2


def test_no_error_of_one(pairs):
    assert evaluate(LastFrame(), pairs, 1).future.errors is None
    one = evaluate(LastFrame(), Cut('aaaaaa'))
    assert one.future.errors is None and one.n_groups == 1 and 'standard error' not in str(one)


def test_large_numbers_keep_their_digits():
    "Spread 1 around a million: the difference of two sums of squares would have lost it."
    x = 1e6 + rand(40, 1, 1, dtype=torch.float64)
    model = lambda past, future_frames: VideoOutput(None, torch.zeros_like(past), 'gaussian')
    s = evaluate(model, Pairs(x, x), batch_size=7)
    each = x.flatten().square().numpy()
    assert s.future.errors['mse'] == pytest.approx(each.std(ddof=1) / 40**.5, rel=1e-9)


@pytest.mark.parametrize('clips', [Cut(), Pairs(rand(11, 4, 1, 8, 8), rand(11, 3, 1, 8, 8, seed=1))],
                         ids=['films', 'clips'])
@pytest.mark.parametrize('ranks', [2, 3])
def test_processes_that_share_the_work_find_the_same_errors(monkeypatch, clips, ranks):
    want = evaluate(LastFrame(), clips)
    sent = []
    def run(rank, gather):
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda: rank)
        monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: ranks)
        monkeypatch.setattr(torch.distributed, 'all_gather_object', gather)
        return evaluate(LastFrame(), clips, batch_size=2, shared=True)
    class Sent(Exception): pass
    def keep(found, own):
        sent.append(own)
        raise Sent
    for rank in range(ranks):
        with pytest.raises(Sent): run(rank, keep)
    def gather(found, own): found[:] = sent
    found = [run(rank, gather) for rank in range(ranks)]
    assert found[0].to_dict() == found[-1].to_dict() and found[0].n_clips == 11
    assert found[0].n_groups == want.n_groups
    for name, error in want.future.errors.items():
        assert found[0].future.errors[name] == pytest.approx(error, rel=1e-9)
        assert found[0].future.overall[name] == pytest.approx(want.future.overall[name], rel=1e-12)


@pytest.mark.parametrize('names', ['ab', ['a'], [1] * 11, 'abcdefghijk', 3])
def test_groups_that_are_no_names(names):
    class Odd(Cut):
        def groups(self, first, n): return names
    with pytest.raises(ValueError, match='^groups of clips is .*; expected a list of 11 names'):
        evaluate(LastFrame(), Odd())


def test_groups_of_some():
    class Odd(Cut):
        def groups(self, first, n): return None if first else super().groups(first, n)
    with pytest.raises(ValueError, match='^groups of clips is None; expected names for all'):
        evaluate(LastFrame(), Odd(), batch_size=4)
    assert evaluate(LastFrame(), Odd()).n_groups == 5


def test_errors_in_tables(pairs):
    s = evaluate(LastFrame(output='gaussian'), pairs)
    last = str(s).split('\n\n')[0].splitlines()[-1]
    assert last.startswith('standard error') and f"{s.future.errors['mse']:.2g}" in last
    wide, slim = (str(compare({'a': evaluate(LastFrame(output=o), pairs)})) for o in ('bernoulli', 'gaussian'))
    assert wide.count('±') == 2 and slim.count('±') == 10     # in the first column; in five columns of both tables
    assert max(map(len, (wide + slim).split('Free')[0].splitlines())) <= 120
    assert f"{s.future.overall['mse']:.1f} ± {s.future.errors['mse']:.2g}" in slim
    told = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert told['future']['standard_error'] == s.future.errors and told['n_groups'] is None


@pytest.mark.parametrize('errors', [3, [1.], dict(mse=-1.), dict(mse=torch.nan), dict(mse=None), dict(size=1.),
                                    {3: 1.}])
def test_errors_that_are_none(errors):
    with pytest.raises(ValueError, match=r'^errors\S* is .*; expected '): FrameScores(mse=[1.], errors=errors)


@pytest.mark.parametrize('n', [0, 4, 'a', 1.5])
def test_numbers_of_groups_that_are_none(n):
    with pytest.raises(ValueError, match='^n_groups is '): Scores(None, FrameScores(mse=[1.]), 3, (1,), n_groups=n)


@pytest.mark.parametrize('sums, sizes, name', [([1.], [1., 2.], 'sizes'), ('a', [1.], 'sums'), ([1.], None, 'sizes'),
                                               ([math.inf, 1.], [1., 1.], 'sums'), ([[1.]], [1.], 'sums')])
def test_ratio_error_refuses(sums, sizes, name):
    with pytest.raises(ValueError, match=f'^{name} is .*; expected '): ratio_error(sums, sizes)


def test_ratio_error_is_the_jackknife_of_many():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 300).astype(float)
    sums = sizes * rng.normal(5, 1, 300)
    left_out = np.array([(sums.sum() - s) / (sizes.sum() - n) for s, n in zip(sums, sizes)])
    jackknife = np.sqrt(299 / 300 * ((left_out - left_out.mean())**2).sum())
    assert ratio_error(sums, sizes) == pytest.approx(jackknife, rel=.01)
    assert ratio_error([1., 2.], [1., -1.]) is None and ratio_error([1.], [1.]) is None


# ---- clip by clip

@pytest.mark.parametrize('clips', [Cut(), Cut(shape=(3, 9, 8)), Cut(shape=(5,)),
                                   Pairs(rand(11, 4, 1, 8, 8), rand(11, 3, 1, 8, 8, seed=1))],
                         ids=['grey', 'colour', 'series', 'pairs'])
@pytest.mark.parametrize('output', ['bernoulli', 'gaussian'])
def test_evaluate_is_the_mean_of_score_clips(clips, output):
    for options in (dict(), dict(batch_size=4, future_frames=2, ssim=False, n_clips=9)):
        a, b = (f(LastFrame(output=output), clips, **options) for f in (evaluate, score_clips))
        assert isinstance(b, ClipScores) and len(b) == a.n_clips and b.mean().n_groups == a.n_groups
        for task in ('future', 'reconstruction'):
            whole, mean = getattr(a, task), getattr(b.mean(), task)
            assert list(whole.per_frame) == list(mean.per_frame) == list(getattr(b, task))
            for name, row in whole.per_frame.items():
                np.testing.assert_allclose(getattr(mean, name), row, rtol=1e-12)
                assert mean.errors[name] == pytest.approx(whole.errors[name], rel=1e-9)
                assert getattr(b, task)[name].shape == (len(b), len(row)) and getattr(b, task)[name].dtype == np.float64
        assert str(b) == str(b.mean())


def test_scores_of_each_clip_are_its_own(pairs):
    found = score_clips(LastFrame(), pairs, batch_size=4)
    for k in (0, 5, 10):
        alone = evaluate(LastFrame(), Pairs(pairs.past[k:k+1], pairs.future[k:k+1]))
        for name, row in alone.future.per_frame.items():
            np.testing.assert_allclose(found.future[name][k], row, rtol=1e-6)


def test_motion_by_hand(pairs):
    x = torch.cat([pairs.past, pairs.future], 1)
    by_hand = [(x[k, 1:] - x[k, :-1]).abs().mean().item() for k in range(11)]
    for options in (dict(), dict(future_frames=1, batch_size=2)):      # of the whole clip, whatever is predicted
        np.testing.assert_allclose(score_clips(LastFrame(), pairs, **options).motion, by_hand, rtol=1e-6)
    assert score_clips(VideoLSTM.autoencoder(**SMALL), pairs.past[:, :1]).motion.tolist() == [0] * 11


def test_score_clips_keeps_groups_and_leaves_no_trace():
    clips = Cut()
    model = VideoLSTM.composite(**SMALL, dropout=.5, num_layers=2).train()
    a, b = (score_clips(model, clips, batch_size=n) for n in (3, 11))
    assert a.groups == b.groups == clips.films and model.training
    np.testing.assert_allclose(a.future['nats'], b.future['nats'], rtol=1e-6)
    assert a.take([1, 7]).groups == ['b', 'd'] and score_clips(model, (clips.x[:, :4], clips.x[:, 4:])).groups is None


def test_a_number_that_does_not_apply_to_some_applies_to_none():
    x = torch.cat([rand(2, 2, 1, 8, 8), 9 * rand(2, 2, 1, 8, 8)])
    for batch_size in (2, 4):
        found = score_clips(LastFrame(output='gaussian'), as_clips(Pairs(x, x), seed=None), batch_size=batch_size)
        assert list(found.future) == ['squared_error', 'mse', 'mae']


def test_by_motion_takes_the_stillest_first():
    n = 10
    still = rand(n, 1, 1, 8, 8).expand(n, 7, 1, 8, 8)
    x = .5 * still + torch.linspace(0, .5, n)[:, None, None, None, None] * rand(n, 7, 1, 8, 8, seed=1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    found = score_clips(LastFrame(output='gaussian'), Pairs(x[order, :4], x[order, 4:]))
    parts = found.by_motion(3)
    assert [s.n_clips for s in parts.scores.values()] == [4, 3, 3] and parts.tables()[0].head[0] == 'motion'
    want = [mse(x[k, 3:4].expand(1, 3, 1, 8, 8), x[k:k+1, 4:]).mean().item() for k in range(n)]
    np.testing.assert_allclose([s.future.overall['mse'] for s in parts.scores.values()],
                               [np.mean(want[:4]), np.mean(want[4:7]), np.mean(want[7:])], rtol=1e-6)
    assert [name.split(' (')[0] for name in parts.scores] == ['1 of 3', '2 of 3', '3 of 3']
    for parts in (0, 11, 2.5, None):
        with pytest.raises(ValueError, match='^parts is '): found.by_motion(parts)


def test_skill_by_hand():
    clips = Cut()
    a, b = score_clips(MeanOfPast(output='gaussian'), clips), score_clips(LastFrame(output='gaussian'), clips)
    s = a.skill(b, parts=2)
    for task in ('future', 'reconstruction'):
        mine, theirs, found = getattr(a, task)['squared_error'], getattr(b, task)['squared_error'], getattr(s, task)
        assert found.overall['skill'] == pytest.approx(1 - mine.sum() / theirs.sum())
        assert found.overall['better'] == np.mean(mine.mean(1) < theirs.mean(1))
        names = np.array(clips.films)
        sums, sizes = ([v.mean(1)[names == g].sum() for g in 'abcde'] for v in (mine, theirs))
        assert found.overall['error'] == pytest.approx(ratio_error(sums, sizes))
        rows = np.argsort(a.motion, kind='stable')[:6]
        assert found.by_motion['skill'][0] == pytest.approx(1 - mine[rows].sum() / theirs[rows].sum())
        assert found.by_motion['better'][0] == np.mean(mine[rows].mean(1) < theirs[rows].mean(1))
        for t in range(mine.shape[1]):
            if theirs[:, t].any(): skill = pytest.approx(1 - mine[:, t].sum() / theirs[:, t].sum())
            else: skill = pytest.approx(np.nan, nan_ok=True)
            assert found.per_frame['skill'][t] == skill
            assert found.per_frame['better'][t] == np.mean(mine[:, t] < theirs[:, t])
    assert np.isnan(s.reconstruction.per_frame['skill'][-1])     # copying is exactly right there
    told = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert told['reconstruction']['per_frame']['skill'][-1] is None and told['measure'] == 'squared_error'
    assert told['n_groups'] == 5 and told['future']['overall']['skill'] == s.future.overall['skill']
    text = str(s)
    for word in ('overall', 'motion 2 of 2', 'frame 3', 'better in', '11 clips of 5 groups', 'from group to group'):
        assert word in text
    assert '<table>' in s._repr_html_()


def test_the_standard_error_of_a_skill_is_that_of_the_jackknife():
    clips = Cut([f'film {k % 60}' for k in range(180)])
    a, b = (score_clips(p(output='gaussian'), clips, ssim=False) for p in (MeanOfPast, LastFrame))
    mine, theirs, names = a.future['mse'].mean(1), b.future['mse'].mean(1), np.array(clips.films)
    left_out = np.array([1 - mine[names != g].sum() / theirs[names != g].sum() for g in set(clips.films)])
    jackknife = np.sqrt(59 / 60 * ((left_out - left_out.mean())**2).sum())
    assert a.skill(b).future.overall['error'] == pytest.approx(jackknife, rel=.05)


def test_skill_of_other_measures(pairs):
    a, b = score_clips(MeanOfPast(), pairs), score_clips(LastFrame(), pairs)
    assert a.skill(b, measure='mse').future.overall['skill'] == pytest.approx(a.skill(b).future.overall['skill'])
    nats, above = (a.skill(b, measure=m).future.overall['skill'] for m in ('nats', 'above_floor'))
    assert nats < above and a.skill(b).n_groups is None and 'from clip to clip' in str(a.skill(b))
    for measure in ('ssim', 'psnr', 'floor', 'size', None, 3):
        with pytest.raises(ValueError, match='^measure is '): a.skill(b, measure=measure)
    with pytest.raises(ValueError, match='^measure is .nats.; expected one that was measured: squared_error'):
        a.skill(score_clips(LastFrame(output='gaussian'), pairs), measure='nats')


def test_skill_refuses_other_clips(pairs):
    a = score_clips(LastFrame(), pairs)
    other = Pairs(pairs.past, pairs.future.flip(0))
    for clips in (other, Pairs(pairs.past[:10], pairs.future[:10]), Cut()):
        with pytest.raises(ValueError, match='^reference has another .*; expected scores of the same clips'):
            a.skill(score_clips(LastFrame(), clips))
    with pytest.raises(ValueError, match='^reference has 2 frames of future; expected 3'):
        a.skill(score_clips(LastFrame(), pairs, future_frames=2))
    for reference in (None, evaluate(LastFrame(), pairs), 'last'):
        with pytest.raises(ValueError, match='^reference is .*; expected ClipScores'): a.skill(reference)
    blind, deaf = (score_clips(f(**SMALL), pairs) for f in (VideoLSTM.autoencoder, VideoLSTM.future_predictor))
    with pytest.raises(ValueError, match='^reference has another|^reference is '): blind.skill(deaf)


GOOD = dict(reconstruction=None, future=dict(mse=[[1., 2.], [3., 4.]]), motion=[.1, .2], frame_shape=(3,))

@pytest.mark.parametrize('name, value', [
    ('future', 3), ('future', {}), ('future', dict(size=[[1.]])), ('future', dict(mse=[1., 2.])), ('future', None),
    ('future', dict(mse=[[1., torch.nan]] * 2)), ('future', dict(mse=[[1.]] * 3)),
    ('future', dict(mse=[[1.]] * 2, mae=[[1., 2.]] * 2)),
    ('motion', None), ('motion', [[.1]]), ('motion', 'a'), ('groups', ['a']), ('groups', 'ab'), ('groups', [1, 2]),
    ('frame_shape', None), ('output', 'poisson')])
def test_clip_scores_that_are_none(name, value):
    assert len(ClipScores(**GOOD)) == 2
    with pytest.raises(ValueError, match=rf'^{name}\S* is .*; expected '): ClipScores(**GOOD | {name: value})


# ---- the mean of the past, and the best linear predictor

def test_mean_of_past(pairs):
    out = MeanOfPast(clamp=.01)(pairs.past, future_frames=3, reconstruction_frames=2)
    mean = pairs.past.mean(1)
    for f in (*out.future.unbind(1), *out.reconstruction.unbind(1)): torch.testing.assert_close(f, mean.clamp(.01, .99))
    exact = MeanOfPast(output='gaussian')(9 * pairs.past.half())
    assert exact.future.dtype == torch.float16 and exact.future.shape == (11, 10, 1, 8, 8)
    torch.testing.assert_close(exact.future[:, 0], (9 * pairs.past.half()).float().mean(1).half())
    with pytest.raises(ValueError, match='past has values'): MeanOfPast()(9 * pairs.past)


def autoregressive(n, T, seed=0):
    "Series of two values that a linear rule of second order makes, exactly."
    x = list(torch.randn(2, n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    a, b = torch.tensor([[1.2, -.3], [.4, .9]]).double(), torch.tensor([[-.5, .1], [0., -.4]]).double()
    while len(x) < T: x.append(x[-1] @ a + x[-2] @ b)
    return torch.stack(x, 1)


def test_a_linear_world_is_predicted_exactly():
    "A rule of second order in two dimensions: four numbers say all, three do not."
    seen, unseen = autoregressive(300, 12), autoregressive(50, 12, seed=1)
    for memory, exact in ((4, True), (1000, True), (3, False)):
        p = LinearPredictor.from_clips(seen, memory=memory, normalise=False)
        s = evaluate(p, unseen)
        assert (max(s.future.mse.max(), s.reconstruction.mse.max()) < 1e-9) == exact
        assert p.memory == min(memory, 12) and p.ridge < 1e-6 and s.output == 'gaussian'
    assert p(unseen[:, :6]).future.dtype == torch.float64


def test_levels_of_their_own_are_no_hindrance():
    "Straight flight keeps its rule at any place and of any size; a fit without levels does not know those far away."
    def flight(n, seed, far=0.):
        place, speed = torch.randn(2, n, 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return far + place + speed * torch.arange(8.)[:, None]
    p = LinearPredictor.from_clips(flight(400, 0))
    assert evaluate(p, flight(50, 1, far=1000.)).future.mse.max() < 1e-3


def test_least_squares_are_those_of_numpy():
    "All numbers kept and nearly no ridge: ordinary least squares, with a bias."
    x = (rand(200, 7, 3, dtype=torch.float64) + 5).cumsum(1)
    p = LinearPredictor.from_clips(x, ridge=1e-11, normalise=False)
    past, future = x[:, :4].flatten(1).numpy(), x[:, 4:].flatten(1).numpy()
    ones = np.ones((200, 1))
    best = np.linalg.lstsq(np.hstack([past, ones]), future, rcond=None)[0]
    other = (rand(20, 7, 3, seed=9, dtype=torch.float64) + 5).cumsum(1)
    want = np.hstack([other[:, :4].flatten(1).numpy(), np.ones((20, 1))]) @ best
    np.testing.assert_allclose(p(other[:, :4]).future.flatten(1), want, atol=1e-5)
    np.testing.assert_allclose(p(other[:, :4]).recalled, other[:, :4], atol=1e-5)


def test_no_other_map_of_that_rank_is_better():
    x = rand(300, 6, 4, dtype=torch.float64).cumsum(1)
    options = dict(ridge=1e-9, normalise=False)
    def error(memory): # summed over past and future, on what it has learned
        s = evaluate(LinearPredictor.from_clips(x, memory=memory, **options), x)
        return s.future.mse.sum() + s.reconstruction.mse.sum()
    past, both = x[:, :3].flatten(1), x.flatten(1)
    past, both = past - past.mean(0), both - both.mean(0)
    fitted = past @ torch.linalg.lstsq(past, both).solution
    sizes = torch.linalg.svdvals(fitted).square() / 300
    floor = (both - fitted).square().sum().item() / 300
    for memory in (1, 3, 8, 12): assert error(memory) == pytest.approx(floor + sizes[memory:].sum().item(), rel=1e-5)
    p = LinearPredictor.from_clips(x, memory=3, **options)
    change = p(x[:, :3]).future - p(x[:, :3]).future.mean(0)
    assert torch.linalg.matrix_rank(change.flatten(1), atol=1e-6) == 3
    assert p.encode(x[:, :3]).shape == (300, 3)
    products = p.writer @ p.writer.T
    assert (products - torch.diag(products.diag())).abs().max() < 1e-9                        # orthogonal directions


@pytest.mark.parametrize('films', [None, 'films'])
def test_the_ridge_is_that_which_is_best_for_what_is_held_back(films):
    "Tried by hand: every fifth clip, or all clips of every fifth film, is left out."
    noise = rand(60, 8, 4, seed=3, dtype=torch.float64) - .5
    x = autoregressive(60, 8).repeat(1, 1, 2)[..., :4] * .1 + noise.cumsum(1)
    names = [f'{k % 10}' for k in range(60)]
    class Films(Clips):
        frame_shape, past, future = (4,), 4, 4
        def __len__(self): return 60
        def read(self, first, n): return x[first:first + n, :4].clone(), x[first:first + n, 4:].clone()
        def groups(self, first, n): return names[first:first + n] if films else None
    p = LinearPredictor.from_clips(Films(), normalise=False, batch_size=7)
    held = torch.tensor([(k % 10 if films else k) % 5 == 1 for k in range(60)])
    past, future = x[:, :4].flatten(1), x[:, 4:].flatten(1)
    a, b = past[~held].mean(0), future[~held].mean(0)
    gram = (past[~held] - a).T @ (past[~held] - a)
    def error(ridge):
        left = gram + ridge * gram.diag().mean() * torch.eye(16).double()
        weights = torch.linalg.solve(left, (past[~held] - a).T @ (future[~held] - b))
        return (future[held] - b - (past[held] - a) @ weights).square().sum().item()
    tried = [1e-6, 1e-4, 1e-3, 3e-3, .01, .03, .1, .3, 1., 3., 10.]
    assert p.ridge == min(tried, key=error) and 1e-6 < p.ridge
    same = LinearPredictor.from_clips(Films(), normalise=False, ridge=p.ridge)                  # all clips in the end
    torch.testing.assert_close(same(x[:, :4]).future, p(x[:, :4]).future)


def test_large_ones_are_added_up_in_single_precision():
    "Above 1024 values in a past products are in float32: the ridge solution all the same."
    x = rand(150, 3, 540, seed=5).cumsum(1)
    p = LinearPredictor.from_clips(as_clips(x, past=2), memory=1080, ridge=.01, normalise=False, components=None)
    past, future = x[:, :2].double().flatten(1).numpy(), x[:, 2:].double().flatten(1).numpy()
    centred, to_come = past - past.mean(0), future - future.mean(0)
    gram = centred.T @ centred
    weights = np.linalg.solve(gram + .01 * gram.trace() / 1080 * np.eye(1080), centred.T @ to_come)
    np.testing.assert_allclose(p(x[:, :2]).future.flatten(1), centred @ weights + future.mean(0), atol=1e-4)


def test_pictures_through_components(pairs):
    clips = MovingDigits('embedded', n_digits=1, image_size=36, past=4, future=3, seed=1)
    clips.index = 5
    p = LinearPredictor.from_clips(clips, 200, components=30, memory=40)
    assert clips.index == 5 and p.code.size == 30 and p.reader.shape == (120, 40)
    test = MovingDigits('embedded', n_digits=1, image_size=36, past=4, future=3, seed=2)
    s = {n: evaluate(q, test, 100) for n, q in dict(line=p, copy=LastFrame(output='gaussian')).items()}
    assert s['line'].future.overall['mse'] < .8 * s['copy'].future.overall['mse'] and s['line'].future.ssim is not None
    shared = LinearPredictor.from_clips(clips, 200, code=p.code, memory=40)
    past = test.read(0, 3)[0]
    torch.testing.assert_close(shared(past).future, p(past).future)
    assert shared.code is not p.code
    again = LinearPredictor(FrameCode((1, 36, 36), components=30), past=4, future=3, memory=40)
    again.load_state_dict(p.state_dict())
    assert torch.equal(again(past).future, p(past).future)
    everything = LinearPredictor.from_clips((pairs.past, pairs.future), components=64, ridge=.1)
    assert everything.code.basis is None and everything.memory == 256 == everything.past * 64


def load(x):
    from torch.utils.data import DataLoader, TensorDataset
    return DataLoader(TensorDataset(x[:, :4], x[:, 4:]), batch_size=7)


@pytest.mark.parametrize('make', [lambda x: (x[:, :4], x[:, 4:]), lambda x: as_clips(x, past=4, seed=3),
                                  lambda x: iter([x[:30], x[30:]]), load], ids=['pair', 'shuffled', 'once', 'loader'])
def test_linear_predictors_take_any_clips(make):
    x = autoregressive(80, 8).float()
    p = LinearPredictor.from_clips(make(x), ridge=1e-7, normalise=False)
    assert (p.past, p.future) == (4, 4) and evaluate(p, x).future.mse.max() < 1e-4


def test_clips_without_a_future():
    x = autoregressive(80, 5)
    p = LinearPredictor.from_clips((x, None), ridge=1e-9, memory=4, normalise=False)
    s = evaluate(p, (x, None))
    assert s.future is None and s.reconstruction.mse.max() < 1e-9 and p(x).future is None


def test_a_linear_predictor_keeps_to_its_lengths():
    x = autoregressive(40, 8)
    p = LinearPredictor.from_clips(x, normalise=False)
    whole, part = p(x[:, :4]), p(x[:, :4], future_frames=2, reconstruction_frames=3)
    assert torch.equal(part.future, whole.future[:, :2])
    assert torch.equal(part.reconstruction, whole.reconstruction[:, :3])
    torch.testing.assert_close(whole.reconstruction[:, 0], x[:, 3], atol=1e-3, rtol=0)     # the last frame comes first
    for call, word in (
            (lambda: p(x), 'past has 8 frames; expected 4'), (lambda: p(x[:, :4, :1]), 'past has shape'),
            (lambda: p(x[:, :4], future_frames=5), 'future_frames is 5; expected'),
            (lambda: p(x[:, :4], reconstruction_frames=5), 'reconstruction_frames is 5; expected'),
            (lambda: p(x[:, :4].float()), 'past has dtype float32; expected float64'),
            (lambda: p(x[:, :4] / 0), 'past holds NaN')):
        with pytest.raises(ValueError, match=f'^{word}'): call()


@pytest.mark.parametrize('name, options', [
    ('memory', dict(memory=0)), ('memory', dict(memory=1.5)), ('ridge', dict(ridge=0)), ('ridge', dict(ridge=-1)),
    ('ridge', dict(ridge='a')), ('components', dict(components=0)), ('components', dict(components='a')),
    ('normalise', dict(normalise=1)), ('code', dict(code=3)), ('code', dict(code=FrameCode((3,)))), ('n', dict(n=99)),
    ('n', dict(n=0)), ('batch_size', dict(batch_size=0))])
def test_linear_predictors_refuse(name, options):
    with pytest.raises(ValueError, match=rf'^{name}\b.*; expected '):
        LinearPredictor.from_clips(autoregressive(20, 6), **options)


def test_clips_too_few_or_too_like_for_a_line():
    x = autoregressive(20, 6)
    with pytest.raises(ValueError, match='^ridge is None; expected a number'): LinearPredictor.from_clips(x[:1])
    with pytest.raises(ValueError, match='^clips are all alike'):
        LinearPredictor.from_clips(torch.ones(9, 6, 2), normalise=False)
    late = x.clone()
    late[13, 5] = torch.nan
    for wrong in (x / 0, late):
        with pytest.raises(ValueError, match='^clips holds NaN'): LinearPredictor.from_clips(wrong, batch_size=4)
    with pytest.raises(ValueError, match='^ridge is None; expected a number'): LinearPredictor.from_clips(x[:2])
    for few in (dict(clips=x[:2], ridge=.1), dict(clips=x[:3])):
        assert evaluate(LinearPredictor.from_clips(**few), x).n_clips == 20


def test_a_line_is_learned_in_constant_memory():
    alive = []
    class Source(Clips):
        frame_shape, past, future = (40,), 2, 2
        def read(self, first, n):
            assert sum(r() is not None for r in alive) <= 4      # some 2000 clips at a time
            past = rand(n, 2, 40, seed=first)
            alive.append(weakref.ref(past))
            return past, past.flip(1)
    p = LinearPredictor.from_clips(Source(), 10_000, batch_size=1000, components=None, normalise=False, ridge=1e-6)
    assert len(alive) == 10 and evaluate(p, Source(), 100).future.mse.max() < 1e-4


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_mean_frame_of_half_precision_is_added_up_in_full(dtype):
    "In batches of any size, and no sum is too large."
    y = (20 + 100 * torch.rand(400, 20, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    for n in (1, 50, 400): torch.testing.assert_close(MeanFrame.from_clips(y, batch_size=n, output='gaussian').mean.flatten(), y.float().mean((0, 1)), rtol=1e-5, atol=0)

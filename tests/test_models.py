"The mistakes that other implementations have published: none of them is here."
import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from lstm_video_repr.models import VideoLSTM, VideoLSTMConfig, check_clip

FAMILY = [dict(), dict(num_layers=2), dict(conditional_future=True), dict(conditional=True, num_layers=2),
          dict(peephole=False)]
SMALL = dict(frame_shape=(1, 3, 3), hidden_size=7)


def tiny(seed=0, **kw): return VideoLSTM.composite(**SMALL | kw, seed=seed).double()


def clip(B=3, T=4, shape=(1, 3, 3), seed=0):
    return torch.rand(B, T, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(model, past, future):
    "The two losses from a loop over single steps, with nothing of the decoders' code but their weights."
    def step(lstm, x, state):
        if x is None and lstm.input_size: x = torch.zeros(len(past), 1, lstm.input_size, dtype=past.dtype)
        return lstm(x, state, frames=1)
    state = None
    for t in range(past.shape[1]): _, state = step(model.encoder, past[:, t:t+1].flatten(2), state)
    losses = []
    for decoder, target in (model.reconstruction_decoder, past.flip(1)), (model.future_decoder, future):
        target = target.flatten(2)
        s, frame, total = state, None, 0
        for t in range(target.shape[1]):
            h, s = step(decoder.lstm, frame, s)
            p = torch.sigmoid(h @ decoder.readout.weight.T + decoder.readout.bias)
            total = total + F.binary_cross_entropy(p, target[:, t:t+1], reduction='sum')
            if decoder.conditional: frame = target[:, t:t+1]
        losses.append(total / (target.shape[0] * target.shape[1]))
    return losses


@pytest.mark.parametrize('kw', FAMILY, ids=str)
def test_loss_is_the_papers(kw):
    """Reversed reconstruction, truth one step late, no state dropped, one sigmoid,
    summed over pixels, averaged over frames and clips."""
    model, past, future = tiny(**kw), clip(), clip(T=5, seed=1)
    loss = model.loss(past, future)
    for got, want in zip((loss.reconstruction, loss.future), by_hand(model, past, future)):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.total, loss.reconstruction + loss.future)


@pytest.mark.parametrize('kw', FAMILY, ids=str)
def test_prediction_needs_no_truth(kw):
    "The longer rollout begins with the shorter one, and clips of a batch do not see each other."
    model, past = tiny(**kw), clip()
    short, long = (model(past, future_frames=n, reconstruction_frames=n - 1) for n in (3, 9))
    torch.testing.assert_close(long.future[:, :3], short.future)
    torch.testing.assert_close(long.reconstruction[:, :2], short.reconstruction)
    torch.testing.assert_close(model(past[1:2], future_frames=3).future, short.future[1:2])


def test_free_running_feeds_back_its_own_output():
    "At test a conditional decoder is not helped: forcing it with its own output gives the same logits."
    model, past = tiny(conditional_future=True), clip()
    out = model(past, future_frames=6)
    forced = model.future_decoder.teacher_force(model.encode(past), out.future.flatten(2))
    torch.testing.assert_close(out.future_logits.flatten(2), forced)


def test_every_frame_of_the_past_matters():
    model, past = tiny(), clip().requires_grad_()
    model(past, future_frames=2).future.sum().backward()
    assert (past.grad.flatten(2).abs().sum(2) > 0).all()


def test_gradients_in_float64():
    "Of the loss with respect to every parameter, against finite differences."
    model = tiny(conditional_future=True, hidden_size=3, frame_shape=(2,))
    past, future = clip(2, 3, (2,)), clip(2, 2, (2,), 1)
    names, values = zip(*((n, p.detach().clone().requires_grad_()) for n, p in model.named_parameters()))
    def loss(*values):
        weights = {f'model.{n}': v for n, v in zip(names, values)}
        return torch.func.functional_call(Losses(model), weights, (past, future))
    assert torch.autograd.gradcheck(loss, values, atol=1e-6)


class Losses(torch.nn.Module):
    "The total loss as a module's forward, so that parameters can be swapped."
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, past, future): return self.model.loss(past, future).total


def test_gaussian_is_half_the_squared_norm():
    model, past, future = tiny(output='gaussian'), clip() * 9 - 4, clip(seed=1) * 9 - 4
    out, loss = model(past, future_frames=4), model.loss(past, future)
    def half(error): return error.square().sum((2, 3, 4)).mean() / 2
    torch.testing.assert_close(loss.future, half(out.future - future))
    torch.testing.assert_close(loss.reconstruction, half(out.reconstruction - past.flip(1)))


@pytest.mark.parametrize('shape', [(1, 64, 64), (3, 32, 32), (5,), (2, 3)], ids=str)
def test_any_frame(shape):
    model = VideoLSTM.composite(frame_shape=shape, hidden_size=4)
    out = model(clip(1, 1, shape).float(), future_frames=1)
    assert out.future.shape == out.reconstruction.shape == (1, 1, *shape)


def test_untrained_costs_log_two_a_pixel():
    x = clip(shape=(1, 8, 8)).float()
    loss = VideoLSTM.composite(frame_shape=(1, 8, 8), hidden_size=4).loss(x, x)
    assert abs(loss.future.item() - 64 * math.log(2)) < 3


def test_layout_in_memory_does_not_matter():
    model, past = tiny(), clip()
    turned = past.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(model(turned).future, model(past).future)


def test_copies_and_modes():
    model = tiny(num_layers=2, dropout=.5)
    twin, past = copy.deepcopy(model), clip()
    model.eval(), twin.eval()
    assert torch.equal(model(past).future, twin(past).future)
    twin.train()
    assert not torch.equal(model(past).future, twin(past).future)


def test_recalled_is_the_clips_own_order():
    "Emitted last frame first, recalled first to last, in frames and in raw outputs alike."
    out = tiny()(clip(), future_frames=2)
    assert torch.equal(out.recalled_logits, torch.stack([out.reconstruction_logits[:, t] for t in (3, 2, 1, 0)], 1))
    assert torch.equal(out.recalled, out.recalled_logits.sigmoid())
    assert torch.equal(out.recalled[:, 0], out.reconstruction[:, 3])
    nothing = VideoLSTM.future_predictor(frame_shape=(1, 3, 3), hidden_size=4)(clip().float())
    assert nothing.recalled is nothing.recalled_logits is nothing.reconstruction is None


def test_a_configuration_cannot_be_changed():
    "Neither directly nor by what is not valid; equal ones are one key of a dictionary."
    config = tiny().config
    with pytest.raises(dataclasses.FrozenInstanceError): config.hidden_size = 8
    with pytest.raises(ValueError, match='hidden_size is 0'): dataclasses.replace(config, hidden_size=0)
    assert {config: 1}[VideoLSTMConfig(frame_shape=[1, 3, 3], hidden_size=7)] == 1
    assert copy.deepcopy(config) == config and dataclasses.replace(config, num_layers=2) != config


def test_a_fresh_model_has_an_empty_card_of_its_own():
    a, b = tiny(), tiny()
    a.card['name'] = 'a'
    assert b.card == {} and copy.deepcopy(a).card == {'name': 'a'}


def test_a_future_is_needed_by_those_who_predict_and_ignored_by_others():
    past, none = clip(), clip()[:, :0]
    alone = VideoLSTM.autoencoder(frame_shape=(1, 3, 3), hidden_size=4).double()
    want = alone.loss(past).total
    for future in (None, none, past, past * 255, 'nothing'): assert torch.equal(alone.loss(past, future).total, want)
    for future, word in ((None, 'future is None; expected true frames'), (none, 'at least one clip and one frame'),
                         (past[:2], 'future has 2 clips; expected 3')):
        with pytest.raises(ValueError, match=word): tiny().loss(past, future)


def test_unchecked_values_reach_the_loss():
    "`check=False` looks at shapes only: no waiting for a GPU, but no mercy for a wrong shape."
    model, past = tiny(), clip()
    assert model.loss(past * 2, past, check=False).total.isfinite()
    for check in (True, False):
        with pytest.raises(ValueError, match='past has shape'): model.loss(past[0], past, check=check)
    with pytest.raises(ValueError, match='x has values from'): check_clip(model, past * 255, 'x')
    assert check_clip(model, past, 'x') is past

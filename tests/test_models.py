"The mistakes that other implementations have published: none of them is here."
import copy
import dataclasses
import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.utils._pytree import tree_flatten_with_path, tree_map

from lstm_video_repr.lstm import set_backend
from lstm_video_repr.models import Decoder, VideoLoss, VideoLSTM, VideoLSTMConfig, VideoOutput, check_clip, find_eigenvectors, frame_loss

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


# ---- taken elsewhere

def same(ours, theirs, **tolerance):
    for name in ('reconstruction_logits', 'future_logits'):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **tolerance)


@pytest.mark.parametrize('backend, kw', [('reference', dict()), ('fused', dict(peephole=False)),
                                         ('auto', dict(conditional_future=True))], ids=str)
def test_exported_for_any_number_of_clips(backend, kw):
    "Written to a file and read again, it gives the same frames for other clips, and more of them."
    model = set_backend(tiny(**kw).eval(), backend)
    shapes = dict(past={0: torch.export.Dim('clips', max=4096)}, future_frames=None)
    program = torch.export.export(model, (clip(T=2),), dict(future_frames=2), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    run = torch.export.load(file).module()
    for past in (clip(T=2, seed=1), clip(7, 2), clip(1, 2)):
        out = run(past, future_frames=2)
        assert type(out) is VideoOutput and out.output == 'bernoulli'
        same(out, model(past, future_frames=2))


def test_exported_to_onnx(tmp_path):
    "Run by another maker's runtime."
    runtime = pytest.importorskip('onnxruntime', reason='needs onnxruntime, which runs the file')
    for name in ('onnx', 'onnxscript'): pytest.importorskip(name, reason=f'needs {name}, which torch.onnx writes with')
    model = tiny(conditional_future=True).float().eval()
    shapes = dict(past={0: torch.export.Dim('clips', max=4096)}, future_frames=None)
    torch.onnx.export(model, (clip(T=2).float(),), tmp_path/'model.onnx', kwargs=dict(future_frames=2), dynamo=True,
                      verbose=False, dynamic_shapes=shapes)
    session = runtime.InferenceSession(tmp_path/'model.onnx', providers=['CPUExecutionProvider'])
    past = clip(5, 2, seed=1).float()
    out = session.run(None, {session.get_inputs()[0].name: past.numpy()})
    same(VideoOutput(*map(torch.tensor, out)), model(past, future_frames=2), atol=1e-5, rtol=1e-5)


def test_compiled_for_any_number_of_clips():
    "In one piece, with its loss, and not anew for each size."
    torch._dynamo.reset()
    model, counter = VideoLSTM.future_predictor(**SMALL, conditional=True), CompileCounter()
    loss = torch.compile(model.loss, fullgraph=True, backend=counter)
    for B in (2, 3, 4):
        x = clip(B, 2).float()
        torch.testing.assert_close(loss(x, x).total, model.loss(x, x).total)
    assert counter.frame_count <= 2


@pytest.mark.parametrize('kw', [dict(), dict(conditional=True, num_layers=2), dict(output='gaussian')], ids=str)
def test_gradients_by_torch_func(kw):
    "Those of autograd; and for each clip alone, at once."
    model, past, future = tiny(**kw), clip(), clip(seed=1)
    model.loss(past, future).total.backward()
    weights = {f'model.{n}': p.detach() for n, p in model.named_parameters()}
    def loss(weights, past, future): return torch.func.functional_call(Losses(model), weights, (past, future))
    grads = torch.func.grad(loss)(weights, past, future)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, past[:, None], future[:, None])
    for n, p in model.named_parameters():
        torch.testing.assert_close(grads[f'model.{n}'], p.grad)
        torch.testing.assert_close(each[f'model.{n}'].mean(0), p.grad)
    direction = {n: torch.randn_like(w) for n, w in weights.items()}
    _, along = torch.func.jvp(lambda w: loss(w, past, future), (weights,), (direction,))
    torch.testing.assert_close(along, sum((grads[n] * d).sum() for n, d in direction.items()))


def test_clips_mapped_over():
    model = tiny(conditional_future=True)
    for grad in (True, False):
        with torch.set_grad_enabled(grad): out = torch.func.vmap(lambda v: model(v[None], future_frames=40))(clip())
        assert type(out) is VideoOutput
        same(tree_map(lambda v: v[:, 0], out), model(clip(), future_frames=40))


def test_results_are_trees():
    "Tensors are the leaves, what is None stays None, and what is no tensor stays as it was."
    out = tiny(output='gaussian')(clip())
    assert [(path[0].name, v is getattr(out, path[0].name)) for path, v in tree_flatten_with_path(out)[0]] == [
        ('reconstruction_logits', True), ('future_logits', True)]
    moved = tree_map(lambda v: v.detach().half().cpu(), out)
    assert type(moved) is VideoOutput and moved.output == 'gaussian' and moved.future.dtype == torch.float16
    one = VideoLSTM.autoencoder(**SMALL)(clip().float())
    assert tree_map(lambda v: v[:1], one).recalled.shape == (1, 4, 1, 3, 3) and tree_map(len, one).future_logits is None
    joined = tree_map(lambda *v: torch.cat(v), out, out)
    assert joined.future.shape == (6, 10, 1, 3, 3)
    assert tree_map(float, VideoLoss(torch.tensor(2.), None)) == VideoLoss(2., None)
    assert [type(x) for x in pickle.loads(pickle.dumps([moved, VideoLoss(None, None)]))] == [VideoOutput, VideoLoss]


@pytest.mark.parametrize('backend', ['reference', 'auto', 'fused'])
def test_on_meta_there_are_shapes(backend):
    model, past = set_backend(tiny(conditional_future=True).to('meta'), backend), clip().to('meta')
    assert model(past, future_frames=6).future.shape == (3, 6, 1, 3, 3)
    model.loss(past, past).total.backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())
    assert frame_loss(past, past).shape == ()
    with pytest.raises(ValueError, match='^past is on device cpu; expected meta'): model(clip())


# ---- torch's settings

@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('output', ['bernoulli', 'gaussian'])
@pytest.mark.parametrize('way', ['cast', 'born'])
def test_dtypes(dtype, output, way):
    "A model cast as a whole, or born under another default: a loss in 32 bits or more, and gradients in its own."
    if way == 'born': torch.set_default_dtype(dtype)
    try: model = VideoLSTM.composite(**SMALL, output=output).to(dtype)
    finally: torch.set_default_dtype(torch.float32)
    want = VideoLSTM.composite(**SMALL, output=output).loss(clip().float(), clip().float()).total.item()
    loss = model.loss(clip().to(dtype), clip().to(dtype)).total
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    if way == 'cast' or dtype.itemsize < 4: assert loss.item() == pytest.approx(want, rel=.02)
    loss.backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())


def test_sums_do_not_overflow_in_16_bits():
    x = torch.full((8, 10, 3, 32, 32), 3.)
    assert frame_loss(-x.half(), x.half(), 'gaussian').item() == 18 * 3 * 32 * 32
    assert frame_loss(torch.zeros_like(x).half(), (x / 3).half()).item() == pytest.approx(3072 * math.log(2), rel=1e-3)
    assert frame_loss(x.double(), x, 'gaussian').dtype == torch.float64


def test_what_was_made_in_inference_mode():
    "Clips can be learned from; a model cannot learn, and says so."
    model, past, future = tiny(), clip(), clip(seed=1)
    with torch.inference_mode():
        seen, ahead, other = past.clone(), future.clone(), tiny()
        want = other(seen).future
    model.loss(seen, ahead).total.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.loss(past, future).total.backward()
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, model.parameters()))
    assert frame_loss(past.clone().requires_grad_(), ahead).requires_grad
    for call in (other, lambda x: other.loss(x, x)):
        with pytest.raises(ValueError, match='^model was made in torch.inference_mode; expected one made'): call(past)
    with torch.no_grad(): assert torch.equal(other(past).future, want)


@pytest.mark.parametrize('layout', ['channels last', 'turned', 'flipped', 'repeated', 'every other'])
def test_layouts_in_memory(layout):
    x = clip(4, shape=(3, 3, 3))
    x = {'channels last': lambda: x.to(memory_format=torch.channels_last_3d), 'turned': lambda: x.mT,
         'flipped': lambda: x.flip(1), 'repeated': lambda: x[:1].expand(4, -1, -1, -1, -1),
         'every other': lambda: x[::2]}[layout]()
    model, plain = tiny(frame_shape=(3, 3, 3)), x.contiguous()
    for backend in ('fused', 'reference'):
        set_backend(model, backend)
        torch.testing.assert_close(model(x).future, model(plain).future)
        torch.testing.assert_close(model.loss(x, x).total, model.loss(plain, plain).total)


def test_frozen_parts_and_clips_with_gradients():
    model = tiny(conditional_future=True).requires_grad_(False)
    model.future_decoder.readout.requires_grad_()
    model.loss(clip(), clip()).total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == [
        f'future_decoder.readout.{n}' for n in ('weight', 'bias')]
    past, future = clip().requires_grad_(), clip(seed=1).requires_grad_()
    model.loss(past, future).total.backward()
    assert past.grad.abs().sum() > 0 and future.grad.abs().sum() > 0


def test_shared_weights_and_weights_made_of_others():
    model = tiny(conditional_future=True)
    model.future_decoder.readout = model.reconstruction_decoder.readout
    twin = copy.deepcopy(model)
    assert twin.future_decoder.readout is twin.reconstruction_decoder.readout
    want = model(clip())
    torch.nn.utils.parametrizations.weight_norm(model.encoder, 'weight_hh_l0')
    torch.nn.utils.parametrizations.weight_norm(model.future_decoder.readout)
    same(model(clip()), want)
    model.loss(clip(), clip()).total.backward()
    assert all(p.grad is not None for p in model.parameters())
    same(copy.deepcopy(model).share_memory()(clip()), want)


# ---- configurations and arguments of other kinds

@pytest.mark.parametrize('shape', [[1, 8], torch.Size((1, 8)), np.array([1, 8]), torch.tensor([1, 8]),
                                   (np.int64(1), 8)], ids=str)
def test_a_configuration_holds_plain_values(shape):
    "Whatever they came as: JSON can hold them, and what they came from may change."
    config = VideoLSTMConfig(shape, hidden_size=np.int64(3), num_layers=np.uint8(2), dropout=np.float32(.5))
    text = json.dumps(dataclasses.asdict(config))
    assert text == json.dumps(dataclasses.asdict(VideoLSTMConfig((1, 8), hidden_size=3, num_layers=2, dropout=.5)))
    if not isinstance(shape, tuple): shape[0] = 5
    assert config.frame_shape == (1, 8) and hash(config)


@pytest.mark.parametrize('name, value', [
    ('frame_shape', np.zeros((1, 8))), ('frame_shape', np.array([[1, 8]])), ('frame_shape', torch.tensor([1., 8.])),
    ('frame_shape', (2**20, 2**20)), ('frame_shape', '64'), ('frame_shape', {1: 8}), ('hidden_size', 10**12),
    ('num_layers', 10**9), ('hidden_size', np.float64(3)), ('dropout', float('nan')), ('dropout', 1j),
    ('peephole', None), ('output', None), ('predict', 1)])
def test_configurations_refuse(name, value):
    with pytest.raises(ValueError, match=rf'^{name} is .*; expected '): VideoLSTMConfig(**{name: value})


def frames_to_255(): return clip() * 255


@pytest.mark.parametrize('args, word', [
    ((clip(), frames_to_255()), r'target has values from .*; expected \[0, 1\]'),
    ((clip(), clip() - 1), 'target has values'),
    ((clip(), clip() / 0), 'target holds NaN or infinite'), ((clip(), clip() / 0, 'gaussian'), 'target holds NaN'),
    ((clip(), clip(1)), 'raw has shape .* and target .*; expected the same'),
    ((clip()[:, :1], clip()), 'raw has shape'),
    ((clip(), clip().to('meta')), 'target is on device meta'), ((clip(), clip().flatten(2)), 'raw has shape'), ((clip(0), clip(0)), 'raw has shape .* at least one clip'),
    ((torch.tensor(1.), torch.tensor(1.)), 'raw has shape'), ((clip().byte(), clip()), 'raw has dtype uint8'),
    ((clip(), clip() > .5), 'target has dtype bool'), ((clip(), clip().to_sparse()), 'target is a sparse'),
    ((None, clip()), 'raw is None'), ((clip(), [1, 2]), 'target is .1, 2.'), ((clip(), clip(), 'poisson'), 'output is'),
    ((clip(), clip(), None), 'output is None')])
def test_frame_loss_refuses(args, word):
    with pytest.raises(ValueError, match=f'^{word}'): frame_loss(*args)


def test_unchecked_frames_have_a_loss():
    assert frame_loss(clip(), frames_to_255(), check=False).isfinite()
    assert frame_loss(clip() / 0, clip()).isnan()              # a model that has diverged is no wrong argument
    for check in ('no', 0, None):
        for loss in (frame_loss, tiny().loss):
            with pytest.raises(ValueError, match='^check is .*; expected True or F'): loss(clip(), clip(), check=check)


STATE = torch.zeros(1, 3, 7, dtype=torch.float64)
SEEING = Decoder(9, 7, conditional=True).double()


@pytest.mark.parametrize('name, call', [
    ('frame_values', lambda: Decoder(2.5, 3)), ('frame_values', lambda: Decoder(None, 3)),
    ('conditional', lambda: Decoder(3, 3, conditional='no')), ('hidden_size', lambda: Decoder(3, -1)),
    ('state', lambda: tiny().decode(None)), ('state', lambda: tiny().decode(STATE)),
    ('state c', lambda: tiny().decode((STATE, STATE[:, :2]))),
    ('state h', lambda: tiny().decode((STATE.float(), STATE))),
    ('frames', lambda: tiny().future_decoder.run_free((STATE, STATE), True)),
    ('future_frames', lambda: tiny().decode((STATE, STATE), future_frames=10**12)),
    ('activation', lambda: tiny().future_decoder.run_free((STATE, STATE), 2, activation='sigmoid')),
    ('activation', lambda: SEEING.run_free((STATE, STATE), 2, activation=lambda v: None)),
    ('target', lambda: tiny().future_decoder.teacher_force((STATE, STATE), None)),
    ('target', lambda: tiny().future_decoder.teacher_force((STATE, STATE), clip())),
    ('state h', lambda: SEEING.teacher_force((STATE[:, :2],)*2, torch.zeros(3, 2, 9).double())),
    ('config', lambda: VideoLSTM({})), ('generator', lambda: VideoLSTM(VideoLSTMConfig(4, 3), 0)),
    ('past', lambda: tiny()(None)), ('past', lambda: tiny()(clip().to_sparse())),
    ('past', lambda: tiny().encode('clip')),
    ('mean', lambda: tiny().set_output_bias(None)), ('mean', lambda: tiny().set_output_bias('grey')),
    ('mean', lambda: tiny().set_output_bias(True)), ('mean', lambda: tiny().set_output_bias(.5j)),
    ('mean', lambda: tiny().set_output_bias(torch.zeros(1, 3, 3, device='meta')))])
def test_other_objects(name, call):
    with pytest.raises(ValueError, match=f'^{name} (is|has) .*; expected '): call()


# ---- scheduled sampling

def one_by_one(decoder, state, target, mine):
    "Scheduled sampling as one would write it first: a loop over frames."
    seen, out = None, []
    for t in range(target.shape[1]):
        h, state = decoder.lstm(seen, state, frames=1)
        out.append(decoder.readout(h))
        seen = torch.where(mine[:, t:t + 1], out[-1].detach().sigmoid().to(target.dtype), target[:, t:t + 1])
    return torch.cat(out, 1)


@pytest.mark.parametrize('backend', ['reference', 'fused'])
@pytest.mark.parametrize('own', [.5, 1.])
@pytest.mark.parametrize('bf16', [False, True], ids=['fp32', 'bf16'])
def test_own_frames_in_two_passes(backend, own, bf16):
    "Outputs and all gradients are those of a loop over frames; autocast reuses no copy of a weight of the first pass."
    g = torch.Generator().manual_seed(0)
    decoder = set_backend(Decoder(12, 8, 2, conditional=True, generator=g), backend)
    state = [torch.randn(2, 3, 8, generator=g).requires_grad_() for _ in 'hc']
    target, weights = torch.rand(3, 5, 12, generator=g), [*decoder.parameters(), *state]
    mine = torch.rand(3, 4, 1, generator=torch.Generator().manual_seed(7)) < own
    mine = torch.cat([mine, mine[:, :1]], 1)           # nobody sees the last frame
    def outcome(run):
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            raw = run()
            return raw, torch.autograd.grad(raw.float().square().sum(), weights)
    a, slopes = outcome(lambda: decoder.teacher_force(state, target, own=own,
                                                      generator=torch.Generator().manual_seed(7)))
    b, wanted = outcome(lambda: one_by_one(decoder, state, target, mine))
    torch.testing.assert_close(a, b)
    for x, y in zip(slopes, wanted): assert (x - y).norm() <= (1e-2 if bf16 else 1e-5) * y.norm() and y.norm() > 0


def test_the_chance_of_own_frames():
    "So often; each clip and each step by itself; none is true forcing, all is running free."
    decoder, B, T = Decoder(1, 4, conditional=True, generator=torch.Generator().manual_seed(0)), 2000, 4
    state, target = [torch.zeros(1, B, 4)]*2, torch.full((B, T, 1), .9)
    with torch.no_grad():
        led, free = decoder.teacher_force(state, target), decoder.run_free(state, T)
        torch.testing.assert_close(decoder.teacher_force(state, target, own=0.), led)
        torch.testing.assert_close(decoder.teacher_force(state, target, own=1.), free)
        mixed = decoder.teacher_force(state, target, own=.3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixed[:, 0], led[:, 0])
    own = (mixed[:, 1] - free[:, 1]).abs() < 1e-6
    assert abs(own.float().mean() - .3) < .04 and len(mixed[:, 3].mul(1e5).round().unique()) == 2**3


def test_own_frames_of_a_model():
    "Through the loss: values are fed back as values, an unconditional model does not care, the generator decides."
    past, future = clip(), clip(seed=1)
    for kw in (dict(output='gaussian'), dict()):
        model = tiny(conditional_future=True, **kw)
        want = frame_loss(model(past, future_frames=4).future_logits, future, model.config.output)
        torch.testing.assert_close(model.loss(past, future, own=1.).future, want)
        assert model.loss(past, future).future != want
    blind = tiny()
    assert blind.loss(past, future, own=.5).total == blind.loss(past, future).total
    def by(seed): return model.loss(past, future, own=.5, generator=torch.Generator().manual_seed(seed)).total.item()
    assert by(1) == by(1) and len({by(k) for k in range(5)}) > 1
    model.loss(past[:, :1], future[:, :1], own=1.).total.backward()    # a single frame: nothing to be fed back
    for own in (-.1, 1.1, None, 'all', float('nan')):
        with pytest.raises(ValueError, match='^own is .*; expected a chance'): model.loss(past, future, own=own)


@pytest.mark.parametrize('frame', [(1, 8, 8), (3, 4, 4), (12,)])
@pytest.mark.parametrize('kw', [dict(), dict(conditional_future=True), dict(num_layers=2), dict(output='gaussian'),
                                dict(conditional=True, num_layers=2, peephole=False)])
def test_every_member_of_the_family(frame, kw):
    "Shapes, and gradients that reach every parameter."
    model = VideoLSTM.composite(frame_shape=frame, hidden_size=5, **kw)
    past, future = torch.rand(2, 3, *frame), torch.rand(2, 4, *frame)
    out = model(past, future_frames=6, reconstruction_frames=2)
    assert (out.reconstruction.shape, out.future.shape) == ((2, 2, *frame), (2, 6, *frame))
    model.loss(past, future).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters())


def test_eigenvectors_of_a_matrix_of_low_rank(monkeypatch):
    "Finite ones, whatever the library says in 32 bits; in 64 bits only where it is needed."
    x = torch.zeros(4, 64, 24)
    x[:, ::3] = torch.randn(4, 22, 24, generator=torch.Generator().manual_seed(0)) * 1e-3
    low = x @ x.mT
    def rebuilt(): return (lambda s, q: q @ torch.diag_embed(s) @ q.mT)(*find_eigenvectors(low))
    torch.testing.assert_close(rebuilt(), low, atol=1e-8, rtol=1e-4)
    plain, asked = torch.linalg.eigh, []
    def broken(m):
        asked.append(m.dtype)
        return plain(m) if m.dtype == torch.float64 else (torch.full(m.shape[:-1], torch.nan), torch.full(m.shape, torch.nan))
    monkeypatch.setattr(torch.linalg, 'eigh', broken)
    torch.testing.assert_close(rebuilt(), low, atol=1e-8, rtol=1e-4)
    assert asked == [torch.float32, torch.float64]
    assert all(v.dtype == torch.float32 for v in find_eigenvectors(low))


def test_a_blank_code_is_not_learned_from():
    "With a basis of zeros every frame would be the same."
    model = VideoLSTM.composite(frame_shape=(6,), hidden_size=4, output='gaussian', components=3)
    x = torch.randn(8, 6, 6)
    with pytest.raises(ValueError, match='frame_code of the model is blank'): model.loss(x[:, :3], x[:, 3:])
    model.frame_code.fit(x[:, :3], x[:, 3:])
    assert model.loss(x[:, :3], x[:, 3:]).total.isfinite()


def test_the_loss_asks_a_subclass():
    "What watches in a prediction watches in training."
    class Silent(VideoLSTM):
        def encode(self, past): return tuple(x * 0 for x in super().encode(past))
    past, future = clip(), clip(seed=1)
    model = Silent.composite(**SMALL).double()
    other = model.loss(1 - past, future)
    assert model.loss(past, future).future == other.future
    assert tiny().loss(past, future).future != tiny().loss(1 - past, future).future


def test_a_model_that_normalises_is_exported_for_any_number_of_clips():
    model = VideoLSTM.composite(frame_shape=(1, 4, 4), hidden_size=3, output='gaussian', normalise=True)
    y = torch.rand(3, 5, 1, 4, 4)
    model.frame_code.fit(y)
    shapes = dict(past={0: torch.export.Dim('B', max=64)}, future_frames=None)
    out = torch.export.export(model.eval(), (y,), dict(future_frames=2), dynamic_shapes=shapes).module()(y[:1].expand(7, -1, -1, -1, -1), future_frames=2)
    torch.testing.assert_close(out.future, model(y[:1].expand(7, -1, -1, -1, -1), future_frames=2).future)

"What the benchmarks compare this package with: the ways in which others compute the same things."
import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_video_repr.lstm import PeepholeLSTM, lstm_gates


# ---- LSTM layers

class LoopLSTM(PeepholeLSTM):
    "A peephole LSTM as most people write it: a loop of cells, each with its own two products, left to autograd."
    def forward(
        self,
        x: Tensor | None = None, # (B, T, D) inputs; None: run on the state alone
        state: tuple[Tensor, Tensor] | None = None, # (h, c), each (L, B, H); None: zeros
        *,
        frames: int | None = None, # number of frames if there is no `x`
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]: # top layer's outputs (B, T, H), last (h, c), each (L, B, H)
        "As `PeepholeLSTM.forward`, without its checks."
        if state is None: state = (self.weight_hh_l0.new_zeros(self.num_layers, len(x), self.hidden_size),)*2
        hs, cs, outputs = list(state[0]), list(state[1]), []
        for t in range(x.shape[1] if x is not None else frames):
            y = None if x is None else x[:, t]
            for l in range(self.num_layers):
                w_ih, w_hh, bias, w_peephole = self.weights(l)
                z = F.linear(hs[l], w_hh) + bias
                if y is not None: z = z + F.linear(y, w_ih)
                y, cs[l], *_ = lstm_gates(z, cs[l], w_peephole)
                hs[l] = y
            outputs.append(y)
        return torch.stack(outputs, 1), (torch.stack(hs), torch.stack(cs))


def as_loops(
    model: nn.Module, # a `PeepholeLSTM`, or a model made of them; left as it is
) -> nn.Module: # with the very same parameters: one optimizer serves both
    "A twin of a model in which every LSTM is a loop of cells."
    twin = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    for m in twin.modules():
        if type(m) is PeepholeLSTM: m.__class__ = LoopLSTM
    return twin


def _add_product(z, a, b): # z + a @ b in place, also where the product has fewer bits than the sum
    return z.addmm_(a, b) if a.dtype == z.dtype else z.add_(a @ b)


class _RowsLayer(torch.autograd.Function):
    "A layer over a whole sequence with its backward pass by hand; clips are rows, as they arrive."
    @staticmethod
    def forward(ctx, x, h0, c0, w_ih, w_hh, bias, w_peephole, dtype):
        (B, T, D), H = x.shape, w_hh.shape[1]
        frames, w_ih, w_hh = x.transpose(0, 1).reshape(T*B, D).to(dtype), w_ih.to(dtype), w_hh.to(dtype)
        z = (frames @ w_ih.t()).to(bias.dtype).add_(bias).view(T, B, 4*H)
        c = torch.cat([c0[None], c0.new_empty(T, B, H)])
        h = torch.cat([h0[None].to(dtype), h0.new_empty(T, B, H, dtype=dtype)])
        for t in range(T):
            i, f, g, o = _add_product(z[t], h[t], w_hh.t()).chunk(4, 1)
            i.addcmul_(w_peephole[0], c[t]).sigmoid_()
            f.addcmul_(w_peephole[1], c[t]).sigmoid_()
            g.tanh_()
            torch.mul(f, c[t], out=c[t + 1]).addcmul_(i, g)
            o.addcmul_(w_peephole[2], c[t + 1]).sigmoid_()
            h[t + 1] = o * c[t + 1].tanh()
        ctx.save_for_backward(frames, w_hh, w_peephole, z, h, c)
        return h[1:].transpose(0, 1).to(x.dtype).contiguous()

    @staticmethod
    def backward(ctx, grad):
        frames, w_hh, w_peephole, z, h, c = ctx.saved_tensors
        (T, B, _), H, w_i, w_f, w_o = z.shape, w_hh.shape[1], *w_peephole
        dz, dh, dc = torch.empty_like(z), torch.zeros_like(c[0]), torch.zeros_like(c[0])
        for t in reversed(range(T)):
            i, f, g, o = z[t].chunk(4, 1)
            di, df, dg, do = dz[t].chunk(4, 1)
            dh, squashed = dh.add_(grad[:, t]), c[t + 1].tanh()
            torch.mul(dh, squashed, out=do).mul_(o).addcmul_(do, o, value=-1)      # the last two: times o(1 - o)
            dc.add_(dh.mul_(o)).sub_(dh.mul_(squashed).mul_(squashed)).addcmul_(do, w_o)
            torch.mul(dc, g, out=di).mul_(i).addcmul_(di, i, value=-1)
            torch.mul(dc, c[t], out=df).mul_(f).addcmul_(df, f, value=-1)
            torch.mul(dc, i, out=dg).addcmul_(dg * g, g, value=-1)
            dc.mul_(f).addcmul_(di, w_i).addcmul_(df, w_f)
            if w_hh.dtype == dh.dtype: torch.mm(dz[t], w_hh, out=dh)
            else: dh.copy_(dz[t].to(w_hh.dtype) @ w_hh)
        i, f, _, o = dz.chunk(4, 2)
        dw = torch.stack([(i * c[:T]).sum((0, 1)), (f * c[:T]).sum((0, 1)), (o * c[1:]).sum((0, 1))])
        db, dz = dz.sum((0, 1)), dz.view(T*B, 4*H).to(w_hh.dtype).t()
        if dz.dtype.itemsize < 4: dz = dz.contiguous() # 16-bit products do not like a transposed left factor
        return None, dh, dc, (dz @ frames).to(db.dtype), (dz @ h[:T].flatten(0, 1)).to(db.dtype), db, dw, None


def rows_layer(
    x: Tensor, # (B, T, D) frames, float32; their gradient is not made
    lstm: PeepholeLSTM, # of one layer, whose weights are used
) -> Tensor: # (B, T, H) outputs, from a zero state
    "One product for all inputs and a backward pass by hand, but clips are rows: a step on the way to the fused layer."
    kind, start = x.device.type, x.new_zeros(len(x), lstm.hidden_size)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    with torch.autocast(kind, enabled=False):
        return _RowsLayer.apply(x, start, start, *lstm.weights(0), dtype)


# ---- the whole model

class NNVideoLSTM(nn.Module):
    "The composite model made of `torch.nn.LSTM`: no peepholes; an unconditional decoder is fed one zero per frame."
    def __init__(
        self,
        frame_values: int, # D, values in a frame
        hidden_size: int, # H, units in a layer
        num_layers: int = 1, # L
        *,
        conditional: bool = False, # do both decoders see the true frame before?
    ):
        super().__init__()
        self.conditional = conditional
        self.encoder = nn.LSTM(frame_values, hidden_size, num_layers, batch_first=True)
        seen = frame_values if conditional else 1
        self.decoders = nn.ModuleList([nn.LSTM(seen, hidden_size, num_layers, batch_first=True) for _ in range(2)])
        self.readouts = nn.ModuleList([nn.Linear(hidden_size, frame_values) for _ in range(2)])

    def loss(
        self,
        past: Tensor, # (B, T, *frame)
        future: Tensor, # (B, T', *frame)
    ) -> Tensor: # nats per frame of both decoders, added
        "What training minimises, as `VideoLSTM.loss(...).total`."
        past, future = past.flatten(2), future.flatten(2)
        state, total = self.encoder(past)[1], 0
        for decoder, readout, target in zip(self.decoders, self.readouts, (past.flip(1), future)):
            B, T, D = target.shape
            seen = F.pad(target[:, :-1], (0, 0, 1, 0)) if self.conditional else target.new_zeros(B, T, 1)
            logits = readout(decoder(seen, state)[0])
            total = total + F.binary_cross_entropy_with_logits(logits, target, reduction='sum') / (B*T)
        return total


# ---- clips

def python_clips(
    digits: np.ndarray, # (n, h, w) uint8 pictures
    n_clips: int, # how many
    frames: int, # T, frames in a clip
    *,
    image_size: int, # S, side of a frame
    n_digits: int, # digits in a clip
    speed: float, # share of the way across per frame
    rng: np.random.Generator, # where the clips come from
) -> Tensor: # (n_clips, T, 1, S, S) float32 in [0, 1]
    "Bouncing digits as the usual scripts make them: a loop over clips, digits and frames."
    clips = np.zeros((n_clips, frames, 1, image_size, image_size), np.float32)
    h, w = digits.shape[1:]
    for clip in clips:
        for _ in range(n_digits):
            digit = digits[rng.integers(len(digits))] / np.float32(255)
            y, x, angle = rng.random(), rng.random(), rng.random() * 2 * math.pi
            dy, dx = math.sin(angle) * speed, math.cos(angle) * speed
            for frame in clip[:, 0]:
                y, x = y + dy, x + dx
                if not 0 < y < 1: dy, y = -dy, min(max(y, 0.), 1.)
                if not 0 < x < 1: dx, x = -dx, min(max(x, 0.), 1.)
                top, left = int(y * (image_size - h)), int(x * (image_size - w))
                window = frame[top:top + h, left:left + w]
                np.maximum(window, digit, out=window)
    return torch.from_numpy(clips)

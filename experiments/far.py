"""Further than it was taught: how do place, identity and sharpness of digits hold in the far future, \
in the distant past, in crowds, at other speeds?

Section 3.2 of the paper shows a model that was trained to predict ten frames running on for a hundred, and clips of one
and three digits given to a model that has seen two. Here the same pictures are measured. `track` finds the digits of a
clip in a predicted frame, a small classifier reads what stands there, and both are compared with the truth, beside a
model with random weights, the truth itself, and the truth of another clip.
"""
from functools import cached_property, partial
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_video_repr.activity import unit_activity
from lstm_video_repr.clips import MovingDigits, render
from lstm_video_repr.digits import load_digits
from lstm_video_repr.metrics import MeanFrame
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import load_pretrained

NAME = 'far'
SETTINGS = dict(model='bundled', clips=200, control_clips=50, other_clips=100, ahead=100, behind=20,
                crowds=(1, 2, 3, 4), speeds=(.05, .075, .1, .15, .2), units=200, activity_clips=64,
                reader_steps=1500, test_seed=2016, seed=0)
QUICK = dict(clips=2, control_clips=2, other_clips=2, ahead=12, behind=3, crowds=(1, 3), speeds=(.2,), units=8,
             activity_clips=2, reader_steps=3)
PAST, NEAR = 10, 10 # frames that a model is shown, and that it was trained to predict


# ---- where are the digits?

def correlation(
    frames: Tensor, # (..., S, S)
    pictures: Tensor, # (..., h, w), shapes that broadcast with those of the frames
) -> Tensor: # (..., S-h+1, S-w+1): sum of frame times picture, with the picture's corner there
    "Every place of a picture in a frame at once, by the Fourier transform. The picture stays inside: nothing wraps."
    (S, W), (h, w) = frames.shape[-2:], pictures.shape[-2:]
    product = torch.fft.rfft2(frames) * torch.fft.rfft2(pictures, s=(S, W)).conj()
    return torch.fft.irfft2(product, s=(S, W))[..., :S - h + 1, :W - w + 1]


def best_place(
    frames: Tensor, # (B, T, S, S)
    painted: Tensor, # (B, T, S, S): the picture so far, without this digit
    digit: Tensor, # (B, h, w): for each clip the digit that is to be added
) -> Tensor: # corners (B, T, 2)
    """Where one more digit makes the picture most like the frame, whatever the brightness of the whole.

    Of a frame x, the best multiple of a picture m explains (sum x m)^2 / sum m^2. The digit is painted where the
    picture is still black."""
    free, digit = (painted == 0).to(frames), digit[:, None]
    match = correlation(frames * free, digit) + (frames * painted).sum((2, 3), keepdim=True)
    energy = correlation(free, digit**2) + (painted**2).sum((2, 3), keepdim=True)
    place = (match.clamp(min=0)**2 / energy.clamp(min=1e-3)).flatten(2).argmax(2)
    return torch.stack([place // match.shape[3], place % match.shape[3]], -1)


def blur(
    x: Tensor, # (n, h, w)
    sigma: float, # of the Gaussian, in pixels; 0: no blur
) -> Tensor: # (n, h, w)
    "A soft focus."
    if not sigma: return x
    t = torch.arange(-8, 9.)
    k = torch.exp(-t**2 / (2 * sigma**2))
    k = (k / k.sum())[None, None, None]
    return F.conv2d(F.conv2d(x[:, None], k, padding=(0, 8)), k.transpose(2, 3), padding=(8, 0))[:, 0]


def soften(
    digits: Tensor, # (B, N, h, w)
    sigma: float, # standard deviation of a Gaussian, in pixels; 0: as they are
) -> Tensor: # (B, N, h, w)
    "Digits out of focus, without the faintest fringe."
    soft = blur(digits.flatten(0, 1), sigma).view_as(digits)
    return torch.where(soft > (.05 if sigma else 0), soft, 0.)


def paint(
    digits: Tensor, # (B, N, h, w)
    corners: Tensor, # (B, N, T, 2)
    which: list, # numbers of the digits to paint, none or more
    *,
    size: int, # side S of a frame
) -> Tensor: # (B, T, S, S)
    "Some of the digits of a clip."
    if not which: return digits.new_zeros(len(digits), corners.shape[2], size, size)
    return render(digits[:, which], corners[:, which], size)[:, :, 0]


def presence(
    frames: Tensor, # (B, T, 1, S, S)
    digits: Tensor, # (B, N, h, w)
    corners: Tensor, # (B, N, T, 2)
) -> Tensor: # (B, N, T): 1: all of it is there, 0: nothing
    "How much of each digit is there: the multiple of it that is nearest to the frame, where no other is painted."
    x, found, N = frames[:, :, 0], [], digits.shape[1]
    for n in range(N):
        others = paint(digits, corners, [m for m in range(N) if m != n], size=x.shape[-1])
        own = paint(digits, corners, [n], size=x.shape[-1]) * (others == 0)
        least = .05 * (digits[:, n]**2).sum((1, 2))[:, None]
        found.append((x * own).sum((2, 3)) / (own**2).sum((2, 3)).clamp(min=least))
    return torch.stack(found, 1)


def place_in_turn(
    x: Tensor, # (B, T, S, S) frames
    digits: Tensor, # (B, N, h, w)
    order: list, # numbers of all digits: which one is placed first, second, ...
    *,
    sweeps: int = 3, # at most so many rounds of placing each digit anew
) -> tuple[Tensor, Tensor]: # corners (B, N, T, 2), and how much of the frame they explain, (B, T)
    "One digit after the other is put where the picture becomes most like the frame; then each is placed anew."
    corners = torch.zeros(*digits.shape[:2], x.shape[1], 2, dtype=torch.long)
    picture = partial(paint, digits, corners, size=x.shape[-1])
    for k, n in enumerate(order): corners[:, n] = best_place(x, picture(order[:k]), digits[:, n])
    for _ in range(sweeps if len(order) > 1 else 0):
        before = corners.clone()
        for n in order: corners[:, n] = best_place(x, picture([m for m in order if m != n]), digits[:, n])
        if torch.equal(before, corners): break
    whole = picture(order)
    return corners, (x * whole).sum((2, 3))**2 / (whole**2).sum((2, 3)).clamp(min=1e-3)


@torch.no_grad()
def track(
    frames: Tensor, # (B, T, 1, S, S) in [0, 1], true or predicted
    digits: Tensor, # (B, N, h, w) in [0, 1], the digits that the clip is made of
    *,
    blurs: tuple = (0., 2.5), # how blurred the frame may be: standard deviations of a Gaussian, in pixels
    sweeps: int = 3, # at most so many rounds of placing each digit anew
) -> tuple[Tensor, Tensor]: # corners (B, N, T, 2), int64, and `presence` (B, N, T)
    """Find a clip's digits in its frames, each frame by itself.

    One digit after the other is put where the picture becomes most like the frame; then each is placed anew until
    nothing moves. This is done N times, beginning with another digit, with the digits as they are and blurred; the best
    picture wins. Exact on true frames of two digits, unless one is all but hidden by the other; in a crowd nearly
    always."""
    x, (B, N), T = frames[:, :, 0], digits.shape[:2], frames.shape[1]
    best, sharpest, fits = torch.zeros(B, N, T, 2, dtype=torch.long), x.new_zeros(B, T), x.new_full((B, T), -1.)
    for sigma in blurs:
        soft = soften(digits, sigma)
        for start in range(N):
            corners, fit = place_in_turn(x, soft, [*range(start, N), *range(start)], sweeps=sweeps)
            better = fit > fits * (1 + 1e-5)
            best, fits = torch.where(better[:, None, :, None], corners, best), torch.where(better, fit, fits)
            sharpest = torch.where(better, sigma, sharpest)
    there = x.new_zeros(B, N, T)
    for sigma in blurs:
        there = torch.where((sharpest == sigma)[:, None], presence(frames, soften(digits, sigma), best), there)
    return best, there


def path_errors(
    found: Tensor, # (B, N, T, 2) corners, in pixels
    true: Tensor, # (B, N, T, 2) corners, in pixels
) -> tuple[Tensor, Tensor]: # (B, N, T) pixels: each digit to itself, and in the assignment of least distance
    """How far off. The second kind asks whether something is there, the first whether it is the right digit.

    Where they differ, digits were confused."""
    gaps, N = (found[:, :, None] - true[:, None]).float().norm(dim=-1), found.shape[1] # (B, found, true, T)
    ways = torch.stack([torch.stack([gaps[:, p[n], n] for n in range(N)], 1) for p in permutations(range(N))])
    choice = ways.sum(2).argmin(0) # the first, which changes nothing, where several are as good
    return ways[0], ways.gather(0, choice[None, :, None].expand(1, *ways.shape[1:]))[0]


def frames_until(
    values, # one number for each frame, from frame 1
    limit: float, # what they are to stay under
) -> int | None: # number of a frame; None: never
    "When it drifts: the first frame at which the running mean over 3 frames is above the limit."
    v = torch.as_tensor(values, dtype=torch.float64)
    smooth = F.avg_pool1d(F.pad(v[None, None], (1, 1), mode='replicate'), 3, 1)[0, 0]
    above = (smooth > limit).nonzero()
    return int(above[0]) + 1 if len(above) else None


# ---- which digits are they?

def cut(
    frames: Tensor, # (B, T, 1, S, S)
    corners: Tensor, # (B, N, T, 2)
    size: int = 28, # side of the window
) -> Tensor: # (B, N, T, size, size)
    "The windows of frames at these corners."
    windows = frames[:, :, 0].unfold(2, size, 1).unfold(3, size, 1)
    b, t = torch.arange(len(frames))[:, None, None], torch.arange(frames.shape[1])
    return windows[b, t, corners[..., 0], corners[..., 1]]


class Reader(nn.Module):
    "A small convolutional network that names a digit by its shape: the brightest pixel of what it reads is made 1."
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 24, 5, 2, 2), nn.ReLU(),
                                    nn.Flatten(), nn.Linear(24 * 49, 10))

    def forward(
        self,
        windows: Tensor, # (..., 28, 28)
    ) -> Tensor: # (..., 10) logits
        "One logit for each class."
        x = windows.reshape(-1, 1, 28, 28)
        brightest = x.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
        return self.layers(x / brightest).view(*windows.shape[:-2], 10)

    @torch.no_grad()
    def name(
        self,
        windows: Tensor, # (..., 28, 28)
    ) -> Tensor: # (...) int64, 0 to 9
        "What it reads."
        return torch.cat([self(w).argmax(-1) for w in windows.reshape(-1, 28, 28).split(4096)]).view(windows.shape[:-2])


BLURS = 0., 1., 2., 3. # what the reader is trained on, in turns


def known_to_reader(
    digits: str, # 'mnist' or 'embedded'
) -> str: # a name for `load_digits`
    "What the reader learns from: the embedded digits, and MNIST where it is there."
    return digits if digits == 'embedded' else f'{digits}+embedded'


def train_reader(
    images: Tensor, # (n, 28, 28) uint8, single training digits
    labels: Tensor, # (n,)
    steps: int = 1500, # of Adam, 64 digits each
    *,
    seed: int = 0, # of first weights, choice and shifts
) -> Reader: # ready to read
    """Learn to read from single digits.

    Each is moved by up to 2 pixels, as a found place may be off by that, and more or less blurred, as predictions
    are."""
    g = torch.Generator().manual_seed(seed)
    reader = Reader()
    for p in reader.parameters():
        if p.dim() > 1: nn.init.kaiming_uniform_(p, generator=g)
        else: nn.init.zeros_(p)
    optimizer = torch.optim.Adam(reader.parameters(), lr=2e-3)
    padded = F.pad(images, (2, 2, 2, 2)).unfold(1, 28, 1).unfold(2, 28, 1)
    for step in range(steps):
        for group in optimizer.param_groups: group['lr'] = 2e-3 * (1 - step / steps)
        k, down, right = (torch.randint(high, (64,), generator=g) for high in (len(images), 5, 5))
        seen = blur(padded[k, down, right].float() / 255, BLURS[step % len(BLURS)])
        loss = F.cross_entropy(reader(seen), labels[k])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader.eval().requires_grad_(False)


# ---- how sharp are they?

def sharpness(
    frames: Tensor, # (B, T, 1, S, S) in [0, 1]
) -> dict: # each (B, T): 'ink', 'entropy' and 'crisp'
    """Ink: sum of the pixels. Crisp: ink-weighted mean pixel, 1 for pure white on black.

    Entropy: nats of a frame whose pixels are lit with these chances: how unsure the picture says it is."""
    x = frames.flatten(2)
    ink, entropy = x.sum(2), -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).sum(2)
    return dict(ink=ink, entropy=entropy, crisp=(x * x).sum(2) / ink.clamp(min=1e-6))


def centre(
    frames: Tensor, # (B, T, 1, S, S)
) -> Tensor: # (B, 2, T), in pixels from the middle of the frame
    "Row and column of the ink's centre of mass: where the digits are together, whatever they look like."
    x, place = frames[:, :, 0], torch.arange(frames.shape[-1]) - (frames.shape[-1] - 1) / 2
    ink = x.sum((2, 3)).clamp(min=1e-6)
    return torch.stack([(x.sum(3) * place).sum(2) / ink, (x.sum(2) * place).sum(2) / ink], 1)


# ---- what do the units do?

def straightened(x):
    "Series along the last dimension without their best straight line."
    t = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
    x = x - x.mean(-1, keepdim=True)
    return x - t * (x * t).sum(-1, keepdim=True) / (t * t).sum()


def autocorrelation(
    x: Tensor, # (..., T) series
    lags: int, # L, at most T
) -> Tensor: # (..., L): lag 0, where it is 1, to L-1
    "Correlation of a series, its straight line removed, with itself later: mean of all pairs, over the variance."
    x, T = straightened(x.double()), x.shape[-1]
    sums = torch.stack([(x[..., :T - k] * x[..., k:]).sum(-1) / (T - k) for k in range(lags)], -1)
    return sums / sums[..., :1].clamp(min=1e-30)


def rhythm(
    x: Tensor, # (..., T) series
) -> dict: # each (...): 'share', 'period' and 'return'
    """Is there an order in time?

    Share: of the variance (straight line removed), in the strongest of the periods T, T/2, T/3, ... Period: that one,
    in frames. Return: the highest autocorrelation after it has first fallen below zero: near 1 if the series repeats
    itself, near 0 if it only fades."""
    power = torch.fft.rfft(straightened(x.double()))[..., 1:].abs()**2
    if x.shape[-1] % 2 == 0: power[..., -1] /= 2 # every other frequency stands for two coefficients
    top, k = power.max(-1)
    r = autocorrelation(x, x.shape[-1] * 3 // 4)
    later = (r < 0).cumsum(-1) > 0
    back = torch.where(later, r, 0.).amax(-1)
    return dict(share=top / power.sum(-1).clamp(min=1e-30), period=x.shape[-1] / (k + 1).double(), **{'return': back})


# ---- the experiment

CONVENTIONS = dict(
    frames='`ahead`: frame 1 follows the input. `back`: backwards, frame 1 is the last of the input, frame 11 the '
           'one before the input. `again`: the frames before the input (the first is frame 11), from the future '
           'predictor, which was shown the input backwards.',
    error='Pixels between the corner that `track` finds and the true one, digits assigned so that the total is '
          'least; median and quartiles over clips and digits. `own_error`: each digit to itself. `confused`: share '
          'of frames in which the two differ. `chance`: `error` against the path of the clip before. `still`: of '
          'digits that stay where they were last seen.',
    reader='`accuracy`: share of single test digits named rightly, by source and by blur (standard deviation in '
           'pixels).',
    names='Share of digits that the reader names rightly, at the place found (`names_found`) and at the true place '
          '(`names_true`).',
    presence='How much of a digit is there, most first: 1 for a digit as it is; median over clips.',
    pace='Pixels from the digits found in a frame to those found in the next, whichever fit best, median; '
         '`true_pace`: the same of the true corners.',
    nats='Cross-entropy, summed over a frame, averaged over clips; `floor` that of the truth itself, `mean_frame` '
         'that of always saying the mean training frame.',
    sharpness='Averages over clips: `ink`: sum of pixels; `entropy`: nats that the picture itself claims to be '
              'unsure of; `crisp`: mean pixel, weighted by ink; `variety`: variance of a pixel over clips, summed '
              'over pixels.',
    rhythm="Of h, c and the opened gates of units drawn at random, of rows and columns of the ink's `centre` and of "
           "the digits' true `paths`, see `rhythm` in experiments/far.py; frames 21 and later. `life`: standard "
           "deviation over the last 20 frames, divided by that over the first 20.")


def quartiles(x):
    "Of all but the last dimension: median, q1 and q3 for each frame."
    q = torch.quantile(x.flatten(0, -2).double(), torch.tensor([.5, .25, .75], dtype=torch.float64), dim=0)
    return dict(median=q[0], q1=q[1], q3=q[2])


def nats_of(
    logits: Tensor, # (B, T, *frame), or what can be expanded to that
    truth: Tensor, # (B, T, *frame)
) -> Tensor: # (B, T)
    "Cross-entropy, summed over a frame."
    return F.binary_cross_entropy_with_logits(logits.expand_as(truth), truth, reduction='none').flatten(2).sum(2)


class Tally:
    "Measures batch after batch, and sums up."
    def __init__(
        self,
        reader: Reader | None, # None: what is shown has no names
        *,
        places: bool = True, # look for the digits?
    ): self.reader, self.places, self.kept, self.pixels = reader, places, {}, []

    def keep(self, **values):
        "Values of a batch, each (B, ..., T)."
        for k, v in values.items(): self.kept.setdefault(k, []).append(v)

    @torch.no_grad()
    def add(
        self,
        frames: Tensor, # (B, T, 1, S, S) in [0, 1], what is measured
        *,
        digits: Tensor, # (B, N, h, w) in [0, 1]
        corners: Tensor, # (B, N, T, 2), the true ones
        labels: Tensor | None, # (B, N); None: no names
        logits: Tensor | None = None, # of the frames: for nats
        truth: Tensor | None = None, # (B, T, 1, S, S): for nats
    ):
        "Look at a batch."
        self.keep(**sharpness(frames))
        self.pixels.append((len(frames), frames.flatten(2).sum(0), (frames.flatten(2)**2).sum(0)))
        if logits is not None: self.keep(nats=nats_of(logits, truth), floor=sharpness(truth)['entropy'])
        self.read('names_true', frames, corners, labels=labels)
        if not self.places: return
        found, there = track(frames, digits)
        self.compare(found, corners, there)
        self.read('names_found', frames, found, labels=labels)

    def read(self, name, frames, corners, *, labels):
        "Are the digits at these places named rightly?"
        if self.reader is None or labels is None: return
        self.keep(**{name: (self.reader.name(cut(frames, corners)) == labels[..., None]).double()})

    def compare(self, found, true, there):
        "How far are the places off, how much is there, and how fast does it move?"
        own, error = path_errors(found, true)
        self.keep(error=error, own_error=own, confused=(own.sum(1) > error.sum(1) + 1e-4).double(),
                  presence=there.sort(1, descending=True).values)
        for name, x in dict(pace=found, true_pace=true).items():
            self.keep(**{name: path_errors(x[:, :, 1:], x[:, :, :-1])[1]})
        if len(true) > 1: self.keep(chance=path_errors(found, true.roll(1, 0))[1])

    def summary(self) -> dict: # name -> per frame
        "See `CONVENTIONS`."
        found = {}
        for k, v in self.kept.items():
            v = torch.cat(v)
            if k in ('error', 'own_error', 'chance', 'still'): found[k] = quartiles(v)
            elif k == 'presence': found[k] = v.double().median(0).values
            elif k in ('pace', 'true_pace'): found[k] = v.double().flatten(0, 1).median(0).values
            else: found[k] = v.double().flatten(0, -2).mean(0)
        n, total, squares = (sum(p[i] for p in self.pixels) for i in range(3))
        return found | dict(variety=(squares / n - (total / n)**2).clamp(min=0).sum(-1))


class Scene:
    "Some clips of a source, and what is true of them; a model is shown the last frames of the past."
    def __init__(
        self,
        source: MovingDigits, # its `past` may be longer than `PAST`
        labels: Tensor | None, # (digits of the source,): their names; None: they have none
        first: int, # number of the first clip
        *,
        n: int, # clips
    ):
        which, self.corners = source.plan(first, n)
        digits = source.digits[which].float() / (255 if source.digits.dtype == torch.uint8 else 1)
        self.about = dict(digits=digits, labels=None if labels is None else labels[which])
        self.clips, self.now, self.beyond = source.clips(first, n), source.past, source.past - PAST
        self.shown, self.future = self.clips[:, self.beyond:self.now], self.clips[:, self.now:]

    def ahead(self): return self.about | dict(corners=self.corners[:, :, self.now:])
    def back(self): return self.about | dict(corners=self.corners[:, :, :self.now].flip(2))
    def again(self): return self.about | dict(corners=self.corners[:, :, :self.beyond].flip(2))

    def still(self):
        "Errors of digits that stay where they were last seen, (B, N, T)."
        return path_errors(self.corners[:, :, self.now - 1:self.now].expand(-1, -1, self.future.shape[1], -1),
                           self.corners[:, :, self.now:])[1]


def measure(
    model, # as for `look`
    scene: Scene, # a batch
    tallies: dict, # of what was asked for; they are added to
):
    "Look at a batch."
    out = model(scene.shown, future_frames=scene.future.shape[1], reconstruction_frames=scene.now)
    tallies['ahead'].add(out.future, logits=out.future_logits, truth=scene.future, **scene.ahead())
    tallies['ahead'].keep(still=scene.still())
    if 'truth' in tallies: tallies['truth'].add(scene.future, **scene.ahead())
    if 'back' in tallies:
        truth = scene.clips[:, :scene.now].flip(1)
        tallies['back'].add(out.reconstruction, logits=out.reconstruction_logits, truth=truth, **scene.back())
    if 'again' in tallies:
        mirrored = model(scene.shown.flip(1), future_frames=scene.beyond, reconstruction_frames=1)
        truth = scene.clips[:, :scene.beyond].flip(1)
        tallies['again'].add(mirrored.future, logits=mirrored.future_logits, truth=truth, **scene.again())


@torch.no_grad()
def look(
    model: VideoLSTM, # composite, on the CPU
    source: MovingDigits, # its `past` may be longer than `PAST`: the model is shown the last frames of it
    labels: Tensor | None, # (digits of the source,): their names; None: they have none
    *,
    n_clips: int, # how many
    reader: Reader | None = None, # see `train_reader`
    mean: Tensor | None = None, # (1, S, S) the mean frame of training, for its nats
    back: bool = True, # measure the reconstruction and what lies before it, too?
    truth: bool = False, # and the true frames?
    batch: int = 10, # clips at a time
) -> dict: # 'ahead', 'back', 'again', 'truth', each as `Tally.summary` gives it, those that were asked for
    "Run a model beyond its clips, in both directions of time, and measure."
    asked = dict(ahead=True, back=back, again=back and source.past > PAST, truth=truth)
    tallies = {k: Tally(reader, places=k != 'truth') for k, wanted in asked.items() if wanted}
    for first in range(0, n_clips, batch):
        scene = Scene(source, labels, first, n=min(batch, n_clips - first))
        measure(model, scene, tallies)
        if mean is not None: tallies['ahead'].keep(mean_frame=nats_of(mean.clamp(.002, .998).logit(), scene.future))
    return {k: t.summary() for k, t in tallies.items()}


def boxes(
    n: int, # how many
    *,
    seed: int = 0, # which
) -> Tensor: # (n, 28, 28) uint8
    "Hollow rectangles, 12 to 20 pixels wide and high, with strokes of 3 pixels: what no digit looks like."
    g, x = torch.Generator().manual_seed(seed), torch.zeros(n, 28, 28, dtype=torch.uint8)
    for picture in x:
        h, w = torch.randint(12, 21, (2,), generator=g).tolist()
        top, left = 14 - h // 2, 14 - w // 2
        picture[top:top + h, left:left + w] = 255
        picture[top + 3:top + h - 3, left + 3:left + w - 3] = 0
    return x


def control_of(
    model: VideoLSTM, # whose shape it gets
    mean: Tensor, # (1, S, S) the mean frame of training
    *,
    seed: int = 0, # of the weights
) -> VideoLSTM: # as a training begins
    "The same network with random weights."
    control = VideoLSTM(model.config, torch.Generator().manual_seed(seed)).eval()
    control.set_output_bias(mean)
    return control


@torch.no_grad()
def rhythms(
    series: Tensor, # (..., T)
    *,
    start: int = 20, # frames that are left out at the beginning
) -> dict: # 'share', 'return': quartiles; 'life'; 'periods': share of series whose strongest is T'/1, T'/2, ... 10
    "What `rhythm` finds in many series, in the T' frames after the start."
    T = series.shape[-1]
    start = min(start, T // 4)
    found, late = rhythm(series[..., start:]), min(20, T // 2)
    flat = lambda x: {k: v[0] for k, v in quartiles(x.flatten()[:, None]).items()}
    k = ((T - start) / found['period']).round().long().flatten()
    life = series[..., -late:].std(-1).mean() / series[..., :late].std(-1).mean().clamp(min=1e-12)
    return {'share': flat(found['share']), 'return': flat(found['return']), 'life': life,
            'periods': torch.bincount(k.clamp(max=11), minlength=12)[1:11] / len(k), 'frames': T - start}


class Study:
    "What the parts of the experiment share."
    def __init__(
        self,
        context, # of `run`
    ):
        s = self.settings = context.settings
        self.context, self.model = context, load_pretrained(None if s.model == 'bundled' else s.model)
        cfg = self.config = self.model.config
        if cfg.output != 'bernoulli' or not (cfg.reconstruct and cfg.predict):
            raise ValueError(f'model is {s.model!r}; expected a composite model of pixels')
        self.labels = load_digits(context.digits, 'test')[1]
        clips = context.train_clips(seed=s.seed)
        self.mean = MeanFrame.from_clips(clips, 20 if context.quick else 1000).mean.cpu()
        self.control = control_of(self.model, self.mean, seed=s.seed)

    @cached_property
    def reader(self):
        "Trained when it is needed."
        images, labels = load_digits(known_to_reader(self.context.digits), 'train')
        return train_reader(images, labels, self.settings.reader_steps, seed=self.settings.seed)

    def source(self, digits=None, *, past=PAST, future=2 * NEAR, **options):
        "Clips of test digits."
        digits = self.context.digits if digits is None else digits
        return MovingDigits(digits, split='test', seed=self.settings.test_seed, past=past, future=future, **options)

    def long(self): return self.source(past=PAST + self.settings.behind, future=self.settings.ahead)

    def who(self, name): return self.control if name == 'random weights' else self.model

    def read(self):
        "A row: how well the reader reads."
        found = {}
        for name in dict.fromkeys((self.context.digits, 'embedded')):
            images, labels = load_digits(name, 'test')
            right = {b: self.reader.name(blur(images.float() / 255, b)) == labels for b in BLURS}
            found[name] = {str(b): r.double().mean() for b, r in right.items()}
        return dict(kind='reader', seed=self.settings.seed, steps=self.settings.reader_steps,
                    parameters=sum(p.numel() for p in self.reader.parameters()), accuracy=found)

    def far(self, name, n, **options):
        "A row: the far future and the distant past."
        found = look(self.who(name), self.long(), self.labels, n_clips=n, reader=self.reader, mean=self.mean, **options)
        ahead = found['ahead']
        drift = {f'{limit} pixels': frames_until(ahead['error']['median'], limit) for limit in (2, 5, 10)}
        drift |= {'half of the names wrong': frames_until(-ahead['names_found'], -.5),
                  'worse than the mean frame': frames_until(ahead['nats'] - ahead['mean_frame'], 0)}
        return dict(kind='far', model=name, seed=self.settings.test_seed, clips=n, drift=drift, **found)

    def other(self, about, digits=None, **options):
        "A row: clips of another kind than in training."
        n, labels = self.settings.other_clips, self.labels if digits is None else None
        if isinstance(digits, str): labels = load_digits(digits, 'test')[1]
        source = self.source(digits, **options)
        found = look(self.model, source, labels, n_clips=n, reader=self.reader, mean=self.mean)
        return about | dict(clips=n, **found)

    def kinds(self):
        "Name -> digits, of other kinds and of the same."
        images = load_digits(self.context.digits, 'test')[0]
        return {self.context.digits: None, 'embedded': 'embedded', 'mirrored': images.flip(2),
                'boxes': boxes(200, seed=self.settings.seed)}

    def echo(self, series):
        "Autocorrelation of series (..., T), averaged over them."
        ahead = self.settings.ahead
        found = autocorrelation(series[..., min(20, ahead // 4):], ahead // 2)
        return found.mean(tuple(range(found.dim() - 1)))

    def activity(self, name):
        "A row: what units do in the far future."
        s, model = self.settings, self.who(name)
        chosen = torch.randperm(self.config.hidden_size, generator=torch.Generator().manual_seed(s.seed))[:s.units]
        past = self.long().clips(0, s.activity_clips)[:, s.behind:s.behind + PAST]
        with torch.no_grad(): acts = unit_activity(model, past, 'future', frames=s.ahead)
        found = {k: getattr(acts, k)[..., chosen].transpose(1, 2) for k in 'hcifgo'}
        return dict(kind='activity', model=name, clips=s.activity_clips, units=len(chosen),
                    autocorrelation=self.echo(found['h']), centre=rhythms(centre(acts.frames)),
                    **{k: rhythms(v) for k, v in found.items()})

    def paths(self):
        "A row: what the digits do."
        n, clips, now = self.settings.activity_clips, self.long(), PAST + self.settings.behind
        series = clips.plan(0, n)[1][:, :, now:].transpose(2, 3).double()
        return dict(kind='activity', model='truth', clips=n, autocorrelation=self.echo(series),
                    centre=rhythms(centre(clips.clips(0, n)[:, now:])), paths=rhythms(series))


def run(context):
    "Reader, far future and past, crowds, speeds, kinds, activity."
    s, study, part = context.settings, Study(context), context.part
    shape = dict(units=study.config.hidden_size, layers=study.config.num_layers)
    context.note(conventions=CONVENTIONS, model=dict(name=s.model, **shape, card=study.model.card),
                 control='the same network with random weights and the mean training frame as output bias, '
                         'as a training begins')
    part('reader', study.read)
    part('far, model', lambda: study.far('model', s.clips, truth=True))
    part('far, random weights', lambda: study.far('random weights', s.control_clips, back=False))
    for n in s.crowds: part(f'{n} digits', lambda: study.other(dict(kind='crowd', digits=n), n_digits=n))
    for v in s.speeds: part(f'speed {v}', lambda: study.other(dict(kind='speed', step=v), speed=v))
    for name, digits in study.kinds().items():
        part(f'kind {name}', lambda: study.other(dict(kind='kind', digits=name), digits))
    for name in ('model', 'random weights'): part(f'activity, {name}', lambda: study.activity(name))
    part('activity, truth', study.paths)

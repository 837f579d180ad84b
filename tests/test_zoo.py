"""Presets, model files and the authors' checkpoints; their forward pass is written here anew, in numpy, from the
description of the format."""
import contextlib
import copy
import errno
import html.parser
import importlib.util
import json
import os
import pickle
import random
import shutil
import tracemalloc
from dataclasses import FrozenInstanceError, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from safetensors.torch import save_file

from lstm_video_repr import zoo
from lstm_video_repr.clips import MovingDigits, fixed_test_set
from lstm_video_repr.core.files import read_safetensors, write_safetensors
from lstm_video_repr.digits import as_digits
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM, VideoLSTMConfig, frame_loss
from lstm_video_repr.training import train
from lstm_video_repr.zoo import (PRESETS, Card, Preset, Presets, load_authors_checkpoint, load_model, load_pretrained,
                                 measure_card, preset, save_authors_checkpoint, save_model, shrink_digits, widen)

h5py = pytest.importorskip('h5py')
ROOT = Path(__file__).resolve().parent.parent
SHAPE = 1, 3, 4


def tiny(seed=0, double=False, **config):
    "A small model whose every number is random, peepholes and biases too."
    model = VideoLSTM(VideoLSTMConfig(**dict(frame_shape=SHAPE, hidden_size=5) | config))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters(): p.uniform_(-.7, .7, generator=g)
    return model.double() if double else model


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


@contextlib.contextmanager
def file_size_limit(n):
    "No file may grow beyond n bytes, as on a disk that is full."
    resource = pytest.importorskip('resource', reason='needs limits on file sizes')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- presets

def test_rows_of_the_paper():
    decoders = {'future-predictor': (False, True, False), 'composite': (True, True, False),
                'conditional-future-predictor': (False, True, True), 'composite-conditional-future': (True, True, True)}
    for name, want in decoders.items():
        c = preset(name).config
        assert (c.reconstruct, c.predict, c.conditional_future) == want
        assert (c.num_layers, c.hidden_size, c.frame_shape) == (2, 2048, (1, 64, 64))
        assert (c.conditional_reconstruction, c.peephole, c.output) == (False, True, 'bernoulli')


def test_released_configurations():
    rewrite, first = preset('released-2015-12'), preset('released-2015-09')
    def kind(c): return c.num_layers, c.conditional_reconstruction, c.conditional_future
    assert kind(rewrite.config) == (2, True, True) and kind(first.config) == (1, False, False)
    recipe = rewrite.training
    assert (recipe.batch_size, recipe.lr, recipe.step_clamp, recipe.output_bias) == (80, 1e-4, 1e-4, False)
    assert (first.training.batch_size, first.training.rms_decay, first.start) == (128, .95, dict(forget_bias=5.))


@pytest.mark.parametrize('name', PRESETS)
def test_every_preset(name, tmp_path):
    p = preset(name)
    assert p.training.batch_size > 0 and p.about and p.digits in ('embedded', 'mnist', 'mnist+embedded', 'videos')
    components = p.config.components and 7
    small = replace(p, config=replace(p.config, hidden_size=4, frame_shape=(1, 5, 5), components=components))
    model, same, other = small.build(), small.build(), small.build(seed=1)
    assert equal(model, same) and not equal(model, other)
    assert small.parameters == sum(w.numel() for w in model.parameters())
    if p.start is not None:
        w = model.state_dict()
        assert w['encoder.weight_hh_l0'].abs().max() <= .01 and .03 < w['encoder.weight_peephole_l0'].abs().max() <= .1
        assert (w['encoder.bias_l0'][4:8] == p.start['forget_bias']).all()
        assert not w['future_decoder.readout.bias'].any()
    back = load_model(save_model(model, tmp_path/'m.safetensors'))
    assert equal(model, back) and back.config == small.config and not back.training


def test_unknown_preset_says_which_exist():
    with pytest.raises(ValueError, match="'compsite'.*did you mean 'composite'") as e: preset('compsite')
    assert all(name in str(e.value) for name in PRESETS)
    for bad in ('', None, 3, [], {}): pytest.raises(ValueError, preset, bad)
    for seed in (-1, 1.5, True): pytest.raises(ValueError, preset('quick').build, seed)


def test_a_preset_is_written_once():
    "What is wrong with one is said when it is made, and nothing in it can be replaced afterwards."
    quick = preset('quick')
    with pytest.raises(FrozenInstanceError): quick.steps = 3
    with pytest.raises(FrozenInstanceError): quick.config.hidden_size = 3
    for change, words in ((dict(steps=0), 'steps is 0'), (dict(config=None), 'config is None'),
                          (dict(recipe='none'), 'recipe'), (dict(overrides=dict(lr=-1.)), 'lr'),
                          (dict(overrides=dict(pace=1)), 'pace')):
        with pytest.raises(ValueError, match=words): replace(quick, **change)
    with pytest.raises(TypeError): Preset('four', quick.config, 'adam', {})


def test_presets_cannot_be_changed():
    "Neither the dictionary nor what is in it, and what was given to one is not kept by reference."
    first = preset('released-2015-09')
    for fixed in (PRESETS, preset('quick').overrides, first.start):
        key = next(iter(fixed))
        for change in (lambda d: d.update({key: 1}), lambda d: d.pop(key), lambda d: d.clear(), lambda d: d.popitem(),
                       lambda d: d.setdefault('new', 1), lambda d: d.__setitem__(key, 1), lambda d: d.__delitem__(key),
                       lambda d: d.__ior__({key: 1})):
            with pytest.raises(TypeError, match='cannot be changed'): change(fixed)
        assert fixed == dict(fixed) and dict(fixed).pop(key)                       # a copy is an ordinary one
    given, start = dict(lr=2e-3), dict(forget_bias=1)
    mine = Preset('mine', VideoLSTMConfig(hidden_size=3, frame_shape=(1, 2, 2)), overrides=given, start=start)
    given['lr'], start['forget_bias'] = 7., 7.
    assert mine.training.lr == 2e-3 and mine.start == dict(forget_bias=1)
    assert replace(mine, steps=3).overrides == mine.overrides
    assert mine.build().encoder.bias_l0[3:6].eq(1).all()
    for again in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))): assert again == mine
    assert isinstance(copy.deepcopy(PRESETS), Presets) and copy.deepcopy(PRESETS) == PRESETS


@pytest.mark.parametrize('words, change', [
    ('about is 3', dict(about=3)), ('digits is None', dict(digits=None)), ('overrides is 3', dict(overrides=3)),
    ('overrides', dict(overrides={1: 2})), ('overrides', dict(overrides=dict(recipe='adam'))),
    ('start is 3', dict(start=3)), ('start', dict(start=dict(bias=1))),
    ('forget_bias is nan', dict(start=dict(forget_bias=float('nan'))))])
def test_what_is_no_preset(words, change):
    with pytest.raises(ValueError, match=words): replace(preset('quick'), **change)
    with pytest.raises(ValueError, match="preset 'mine' is 3"): Presets(mine=3)


def test_presets_show_as_a_table():
    lines = PRESETS._repr_markdown_().splitlines()
    assert len(lines) == len(PRESETS) + 2 and len({line.count('|') for line in lines}) == 1
    assert len(str(PRESETS).splitlines()) == len(PRESETS) + 2 and str(PRESETS) == repr(PRESETS)
    assert PRESETS._repr_html_().count('<tr>') == len(PRESETS) + 1


def test_global_random_numbers_are_left_alone(tmp_path):
    model, before = tiny(), torch.get_rng_state()
    load_model(save_model(model, tmp_path/'m.safetensors'))
    save_authors_checkpoint(model, tmp_path/'m.h5')
    load_authors_checkpoint(tmp_path/'m.h5', frame_shape=SHAPE)
    assert torch.equal(before, torch.get_rng_state())


# ---- model files

def test_a_file_holds_weights_configuration_and_card(tmp_path):
    card = dict(data='digits', clips_seen=10, nats={'future': 1.5, 'by frame': [1., 2.]}, note='größer | <b>')
    model = tiny(conditional_future=True, num_layers=2)
    path = save_model(model, str(tmp_path/'m.safetensors'), card=card)
    assert isinstance(path, Path)
    back = load_model(path)
    assert equal(model, back) and back.config == model.config and back.card == card and isinstance(back.card, dict)
    assert all(p.requires_grad for p in back.parameters()) and not back.training
    past, future = torch.rand(2, 3, *SHAPE), torch.rand(2, 4, *SHAPE)
    assert torch.equal(model.loss(past, future).total, back.loss(past, future).total)
    back.loss(past, future).total.backward()
    assert load_model(save_model(model, tmp_path/'no_card.safetensors')).card == {}


def test_a_loaded_model_can_be_trained_while_its_file_stays(tmp_path):
    path = save_model(tiny(), tmp_path/'m.safetensors')
    before = path.read_bytes()
    model = load_model(path)
    with torch.no_grad():
        for p in model.parameters(): p.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize('save, name', [(save_model, 'm.safetensors'), (save_authors_checkpoint, 'm.h5')])
def test_a_loaded_model_stays_whatever_becomes_of_its_file(save, name, tmp_path):
    "Another file copied over it, cut, emptied or gone: the model is a copy."
    def load(path): return load_model(path) if save is save_model else load_authors_checkpoint(path, frame_shape=SHAPE)
    path, other = save(tiny(), tmp_path/name), save(tiny(seed=1), tmp_path/('o' + name))
    models = [load(path)] + ([load_pretrained(path)] if save is save_model else []) + [widen(load(path), 5)]
    shutil.copyfile(other, path)
    assert all(equal(m, tiny()) for m in models) and equal(load(path), tiny(seed=1))
    for size in (100, 0):
        os.truncate(path, size)
        assert all(equal(m, tiny()) for m in models)
    path.unlink()
    past = torch.rand(2, 3, *SHAPE)
    for m in models: assert torch.equal(m(past).future, tiny()(past).future)


@pytest.mark.parametrize('dtype, digits', [(torch.float16, 11), (torch.bfloat16, 8)])
def test_half_precision(dtype, digits, tmp_path):
    model = tiny(hidden_size=16)
    whole = save_model(model, tmp_path/'w.safetensors')
    half = save_model(model, tmp_path/'h.safetensors', dtype=dtype)
    assert half.stat().st_size < .6*whole.stat().st_size
    back = load_model(half)
    for name, w in model.state_dict().items():
        assert back.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(back.state_dict()[name], w, rtol=2.**-digits, atol=1e-7) # to that many binary digits
    again = load_model(save_model(back, tmp_path/'again.safetensors', dtype=dtype))
    assert equal(back, again) # rounding happens once


def test_eight_bits(tmp_path):
    model = tiny(hidden_size=64)
    model.encoder.weight_hh_l0.data[3] = 0 # a row of zeros has no scale
    whole = save_model(model, tmp_path/'w.safetensors')
    small = save_model(model, tmp_path/'s.safetensors', card=dict(mine=1), dtype=torch.int8)
    assert small.stat().st_size < .3*whole.stat().st_size
    back = load_model(small)
    assert back.card == dict(mine=1) and back.config == model.config
    for name, w in model.state_dict().items():
        again = back.state_dict()[name]
        assert again.dtype == torch.float32
        if w.dim() == 1 or 'peephole' in name: assert torch.equal(again, w)
        else: assert ((again - w).abs() <= w.abs().amax(1, keepdim=True)/127*.50001).all() # half a step of its row
    assert (back.encoder.weight_hh_l0[3] == 0).all()
    twice = load_model(save_model(back, tmp_path/'again.safetensors', dtype=torch.int8))
    for name, w in back.state_dict().items(): torch.testing.assert_close(twice.state_dict()[name], w, rtol=1e-6, atol=0)


def test_damaged_scales(tmp_path):
    path = save_model(tiny(), tmp_path/'m.safetensors', dtype=torch.int8)
    tensors, notes = read_safetensors(path)
    name = 'encoder.weight_hh_l0'
    scale = name + '.scale'
    for change, words in (({scale: torch.ones(3)}, scale), ({name: tensors[name].float()}, scale),
                          ({'x.scale': torch.ones(2, 1)}, 'x.scale'), ({scale: tensors[scale]*float('nan')}, 'NaN'),
                          ({scale: tensors[scale].long()}, scale),
                          ({name: torch.zeros(9000, 1, 1, dtype=torch.int8), scale: torch.ones(9000, 1)}, scale), # 3 GB
                          ({scale: tensors[scale].to(torch.float8_e5m2)}, scale)):
        write_safetensors(path, tensors | change, notes)
        with pytest.raises(ValueError, match=words): load_model(path)
    del tensors[name + '.scale']
    write_safetensors(path, tensors, notes)
    with pytest.raises(ValueError, match='int8'): load_model(path)


def test_only_eight_bits_need_the_new_version(tmp_path):
    for dtype, version in ((None, '1'), (torch.float16, '1'), (torch.int8, '2')):
        assert read_safetensors(save_model(tiny(), tmp_path/'m.safetensors', dtype=dtype))[1]['version'] == version


def test_double_precision_is_kept(tmp_path):
    model = tiny(double=True)
    assert equal(model, load_model(save_model(model, tmp_path/'m.safetensors')))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    path = save_model(tiny(), tmp_path/'m.safetensors')
    old = path.read_bytes()
    for bad in (float('nan'), float('inf')):
        model = tiny(seed=1)
        model.future_decoder.readout.weight.data[0, 0] = bad
        for save, file in ((save_model, path), (save_authors_checkpoint, tmp_path/'m.h5')):
            with pytest.raises(ValueError, match='future_decoder.readout.weight'): save(model, file)
    large = tiny(seed=1)
    large.encoder.bias_l0.data[0] = 1e6
    with pytest.raises(ValueError, match='float16.*encoder.bias_l0'): # beyond what it can hold
        save_model(large, path, dtype=torch.float16)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ['m.safetensors']


@pytest.mark.parametrize('change, words', [
    (dict(model='m'), "model is 'm'; expected a VideoLSTM"), (dict(model=torch.nn.Linear(1, 1)), 'model is a Linear'),
    (dict(model=tiny().to('meta')), 'device meta'), (dict(path='m.pt'), r"'.*m.pt'.*\.safetensors"),
    (dict(path='m'), r'\.safetensors'), (dict(dtype=torch.int16), 'dtype is torch.int16'),
    (dict(dtype='float16'), "dtype is 'float16'"), (dict(card=dict(a=float('nan'))), 'card'),
    (dict(card=dict(a={1, 2})), 'card'), (dict(card=[1, 2]), 'card'), (dict(card=[]), 'card'),
    (dict(card='text'), 'card')])
def test_bad_arguments_of_save_model(change, words, tmp_path):
    kw = dict(model=tiny(), path='m.safetensors') | change
    with pytest.raises(ValueError, match=words): save_model(**kw | dict(path=tmp_path/kw['path']))
    assert not os.listdir(tmp_path)


def more_layers(model): model.extra = torch.nn.Linear(2, 2)
def fewer_layers(model): del model.future_decoder
def another_shape(model): model.encoder.bias_l0 = torch.nn.Parameter(torch.zeros(3))
def whole_numbers(model): model.register_buffer('count', torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize('change, words', [
    (more_layers, 'extra.weight has no place'), (fewer_layers, 'future_decoder.readout.weight is missing'),
    (another_shape, r'encoder.bias_l0 has shape \(3,\), expected'), (whole_numbers, 'count has no place')])
@pytest.mark.parametrize('dtype', [None, torch.float16, torch.int8])
def test_nothing_is_saved_that_would_not_load(change, words, dtype, tmp_path):
    "What the configuration does not know of cannot come back: said when saving, and what was there stays."
    path = save_model(tiny(), tmp_path/'m.safetensors')
    model = tiny(seed=1)
    change(model)
    with pytest.raises(ValueError, match=words): save_model(model, path, dtype=dtype)
    assert equal(load_model(path), tiny()) and os.listdir(tmp_path) == ['m.safetensors']


def test_numbers_too_large_for_eight_bits(tmp_path):
    "A float64 beyond what float32 holds would come back as infinite."
    model = tiny(double=True)
    model.encoder.weight_hh_l0.data[0, 0] = 1e300
    assert equal(load_model(save_model(model, tmp_path/'m.safetensors')), model)
    with pytest.raises(ValueError, match='int8.*encoder.weight_hh_l0'):
        save_model(model, tmp_path/'small.safetensors', dtype=torch.int8)


def linear(model): return model.future_decoder.readout
def transposed(model): linear(model).weight.data = linear(model).weight.detach().t().contiguous().t()
def strided(model): linear(model).bias.data = linear(model).bias.detach().repeat_interleave(2)[::2]
def one_readout(model): model.future_decoder.readout = model.reconstruction_decoder.readout
def one_storage(model):
    both = torch.cat([linear(model).bias, model.reconstruction_decoder.readout.bias]).detach()
    linear(model).bias.data, model.reconstruction_decoder.readout.bias.data = both.split(12)


@pytest.mark.parametrize('change', [transposed, strided, one_readout, one_storage])
def test_unusual_weights_are_saved_as_what_they_say(change, tmp_path):
    "In our files and in the authors'; what is shared is written for each."
    model, past = tiny(seed=1), torch.rand(2, 3, *SHAPE)
    change(model)
    want = model(past)
    backs = [load_model(save_model(model, tmp_path/'m.safetensors')), widen(model, 5),
             load_authors_checkpoint(save_authors_checkpoint(model, tmp_path/'m.h5'), frame_shape=SHAPE)]
    for out in (back(past) for back in backs):
        assert torch.equal(out.future, want.future) and torch.equal(out.reconstruction, want.reconstruction)


def test_a_compiled_model_is_saved_as_the_original(tmp_path):
    compiled = torch.compile(tiny(), backend='eager')
    assert equal(load_model(save_model(compiled, tmp_path/'m.safetensors')), tiny())
    path = save_authors_checkpoint(compiled, tmp_path/'m.h5')
    assert equal(load_authors_checkpoint(path, frame_shape=SHAPE), tiny())
    assert equal(widen(compiled, 5), tiny())
    part = tiny()
    part.encoder = torch.compile(part.encoder, backend='eager')
    assert equal(load_model(save_model(part, tmp_path/'m.safetensors')), tiny())


def sparse(model): linear(model).weight = torch.nn.Parameter(linear(model).weight.detach().to_sparse())
def partly_meta(model): model.encoder.to('meta')
def weight_norm(model): torch.nn.utils.parametrizations.weight_norm(linear(model))
def another_config(model): model.config = replace(model.config, hidden_size=6)
def no_config(model): model.config = None
def not_finite(model): model.encoder.bias_l0.data[0] = torch.nan


@pytest.mark.parametrize('change, words', [
    (sparse, 'future_decoder.readout.weight is a.*sparse'), (partly_meta, 'encoder.weight_ih_l0 is on device meta'),
    (weight_norm, 'readout.weight is missing'), (another_config, r'has shape \(20, 12\), expected \(24, 12\)'),
    (no_config, 'model.config is None'), (not_finite, 'NaN or infinite values in encoder.bias_l0')])
def test_models_that_are_none_any_more(change, words, tmp_path):
    "Refused by name at every door: nothing is written, no zeros in place of what is missing."
    model = tiny(seed=1)
    change(model)
    for use in (lambda m: save_model(m, tmp_path/'m.safetensors'),
                lambda m: save_authors_checkpoint(m, tmp_path/'m.h5'), lambda m: widen(m, 9)):
        with pytest.raises(ValueError, match=words): use(model)
    assert not os.listdir(tmp_path)


def test_a_model_loaded_without_gradients_can_be_trained(tmp_path):
    path, theirs = save_model(tiny(), tmp_path/'m.safetensors'), save_authors_checkpoint(tiny(), tmp_path/'m.h5')
    with torch.inference_mode():
        models = load_model(path), load_authors_checkpoint(theirs, frame_shape=SHAPE), widen(tiny(), 6)
        strange = VideoLSTM(tiny().config)
    past = torch.rand(2, 3, *SHAPE)
    for m in models: m.loss(past, past).total.backward()
    assert equal(load_model(save_model(strange, path)), strange)


def test_settings_of_torch_do_not_matter(tmp_path):
    "Neither the default dtype nor the default device: what comes back is what was written."
    def trip(model):
        theirs = load_authors_checkpoint(save_authors_checkpoint(model, tmp_path/'m.h5'), frame_shape=SHAPE)
        return [load_model(save_model(model, tmp_path/'m.safetensors', dtype=d)) for d in (None, torch.int8)] + [theirs]
    models = [tiny(), tiny(peephole=False, double=True)]
    want = [trip(m) for m in models]
    try:
        for dtype, device in ((torch.float16, 'cpu'), (torch.float64, 'meta')):
            torch.set_default_dtype(dtype)
            torch.set_default_device(device)
            for model, trips in zip(models, want): assert all(equal(a, b) for a, b in zip(trip(model), trips))
            assert {p.dtype for p in trip(models[1])[2].parameters()} == {torch.float64}
            assert {(p.dtype, p.device.type) for p in widen(models[0], 6).parameters()} == {(torch.float32, 'cpu')}
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize('value', [0., 1., -3e38, 1e-30, 1e-35, 1e-38, 190 * 2.**-149, 2.**-149])
def test_eight_bits_of_any_size(value, tmp_path):
    "A row of equal numbers comes back; one of the least that there is comes back to the least."
    model = tiny()
    model.encoder.weight_hh_l0.data[:] = value
    back = load_model(save_model(model, tmp_path/'m.safetensors', dtype=torch.int8)).encoder.weight_hh_l0
    torch.testing.assert_close(back, model.encoder.weight_hh_l0, rtol=1e-5, atol=1e-43)


# What the files hold: weights of sixteenths, in files as they were written before this test was.
def sixteenths():
    model = VideoLSTM.composite(frame_shape=(1, 2, 2), hidden_size=3, conditional_future=True)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(((torch.arange(p.numel()) * 7) % 23 - 11).view(p.shape) / 16)
    return model


@pytest.mark.parametrize('name', ['1', '1-half', '2'])
def test_old_files_load(name):
    "Files of both versions, written before the package moved into this house: weights, configuration and card."
    back, model = load_model(ROOT/'tests'/'data'/f'model-version-{name}.safetensors'), sixteenths()
    assert back.config == model.config
    assert back.card == {'data': 'none', 'clips seen': 0, 'test': {'embedded': {'clips': 2, 'future': {'nats': 1.5}}},
                         'integrity': 'not checked: the file has no checksum'}
    assert 'clips seen' in str(back.card) and isinstance(back.card, Card)
    for key, w in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], w, rtol=0, atol=.5/127 if name == '2' else 0)
    with torch.no_grad(): past, future = torch.rand(2, 4, 1, 2, 2).split(2, 1)
    torch.testing.assert_close(back.loss(past, future).total, model.loss(past, future).total, rtol=0, atol=.05)


@pytest.mark.parametrize('name', ['1', '1-half', '2'])
def test_files_are_written_as_before(name, tmp_path):
    "Byte for byte the same tensors and notes, and a checksum."
    dtype = {'1': None, '1-half': torch.float16, '2': torch.int8}[name]
    old, notes = read_safetensors(ROOT/'tests'/'data'/f'model-version-{name}.safetensors')
    file = save_model(sixteenths(), tmp_path/'m.safetensors', card=json.loads(notes['card']), dtype=dtype)
    new, now = read_safetensors(file)
    assert len(now.pop('checksum')) == 64 and now == notes and old.keys() == new.keys()
    assert all(torch.equal(old[n], new[n]) and old[n].dtype == new[n].dtype for n in old)


@pytest.mark.parametrize('save, name', [(save_model, 'm.safetensors'), (save_authors_checkpoint, 'm.h5')])
def test_nowhere_to_write(save, name, tmp_path):
    with pytest.raises(OSError, match='missing'): save(tiny(), tmp_path/'missing'/name)
    (tmp_path/name).mkdir()
    with pytest.raises(OSError, match=name): save(tiny(), tmp_path/name)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize('save, name', [(save_model, 'm.safetensors'), (save_authors_checkpoint, 'm.h5')])
def test_a_full_disk_leaves_the_old_file(save, name, tmp_path, monkeypatch):
    path = save(tiny(), tmp_path/name)
    old, large = path.read_bytes(), tiny(seed=1, hidden_size=64)
    for limit in (0, 100, 4096, 50_000):
        with file_size_limit(limit), pytest.raises(OSError, match=name): save(large, path)
        assert path.read_bytes() == old and os.listdir(tmp_path) == [name]

    def full(*args): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for step in ('fsync', 'replace'):                                     # the disk says so only at the end
        with monkeypatch.context() as m:
            m.setattr(os, step, full)
            with pytest.raises(OSError, match='No space'): save(large, path)
        assert path.read_bytes() == old and os.listdir(tmp_path) == [name]
    save(large, path)
    assert path.read_bytes() != old and os.listdir(tmp_path) == [name]


def test_no_pickle_is_loaded(tmp_path):
    path = tmp_path/'m.safetensors'
    for thing in (tiny(), tiny().state_dict()):
        torch.save(thing, path)
        with pytest.raises(OSError, match='m.safetensors'): load_model(path)
        with pytest.raises(OSError, match='m.safetensors'): load_authors_checkpoint(path)


@pytest.mark.parametrize('part', [0, 1, 7, 8, 9, 200, .3, .9, -1])
def test_files_that_were_cut_short(part, tmp_path):
    def load_theirs(p): return load_authors_checkpoint(p, frame_shape=SHAPE)
    for save, load, name in ((save_model, load_model, 'm.safetensors'), (save_authors_checkpoint, load_theirs, 'm.h5')):
        path = save(tiny(), tmp_path/name)
        data = path.read_bytes()
        path.write_bytes(data[:int(part*len(data)) if isinstance(part, float) else part])
        with pytest.raises(OSError, match=name): load(path)


def test_foreign_files(tmp_path):
    other = tmp_path/'other'
    for content in (b'', b'hello', os.urandom(1000), b'\0'*1000, b'\x89PNG\r\n\x1a\n' + b'\0'*100, b'\xff'*8 + b'{}'):
        other.write_bytes(content)
        for load in (load_model, load_authors_checkpoint, load_pretrained): pytest.raises(OSError, load, other)
    for load in (load_model, load_authors_checkpoint):
        with pytest.raises(FileNotFoundError, match='nothing'): load(tmp_path/'nothing')
        pytest.raises(OSError, load, tmp_path)


def mutants(content, n, seed=0):
    "Copies of a file with one byte changed, at as many places."
    rng = random.Random(seed)
    for place in rng.sample(range(len(content)), n):
        other = bytearray(content)
        other[place] ^= rng.choice([1, 2, 128, rng.randrange(1, 256)])
        yield place, bytes(other)


@pytest.mark.parametrize('save, name', [(save_model, 'm.safetensors'), (save_authors_checkpoint, 'm.h5')])
def test_no_changed_byte_goes_unnoticed(save, name, tmp_path):
    "Refused with the name of the file, or the model is the same."
    def load(path): return load_model(path) if save is save_model else load_authors_checkpoint(path, frame_shape=SHAPE)
    path, refused = save(tiny(hidden_size=2, predict=False), tmp_path/name), 0
    model, content = load(path), path.read_bytes()
    for place, other in mutants(content, 120):
        path.write_bytes(other)
        try: assert equal(load(path), model), place
        except (OSError, ValueError) as e: refused, _ = refused + 1, str(e).index(name)
    assert refused > 30
    path.write_bytes(content[:len(content) // 2] + bytes(len(content) - len(content) // 2))      # as after a power cut
    with pytest.raises(OSError, match=name): load(path)


def test_a_file_without_checksum_says_so_only_once(tmp_path):
    "What was only said of the file is not written into the next."
    path = save_model(tiny(), tmp_path/'m.safetensors', card=dict(mine=1))
    tensors, notes = read_safetensors(path)
    save_file(tensors, path, {k: v for k, v in notes.items() if k != 'checksum'})
    back = load_model(path)
    assert back.card == {'mine': 1, 'integrity': 'not checked: the file has no checksum'} and equal(back, tiny())
    again = load_model(save_model(back, path, card=back.card))
    assert again.card == {'mine': 1} and load_model(path).card is not load_model(path).card
    assert load_authors_checkpoint(authors_file(tmp_path/'m.h5'), frame_shape=SHAPE).card == {
        'integrity': 'not checked: the file has no checksum'}
    assert load_authors_checkpoint(save_authors_checkpoint(tiny(), tmp_path/'o.h5'), frame_shape=SHAPE).card == {}


def damaged(path, tensors=(), drop=(), **notes):
    "A model file with some things replaced."
    t, m = read_safetensors(path)
    new = path.with_name('damaged.safetensors')
    m = {k: v for k, v in (m | notes).items() if v is not None}
    write_safetensors(new, {k: v for k, v in (t | dict(tensors)).items() if k not in drop}, m)
    return new


def test_content_that_does_not_fit(tmp_path):
    path = save_model(tiny(), tmp_path/'m.safetensors', card=dict(a=1))
    config = json.loads(read_safetensors(path)[1]['config'])
    changed = lambda **kw: json.dumps(config | kw)
    for words, kw in [
        ('encoder.bias_l0 is missing', dict(drop=['encoder.bias_l0'])),
        ('encoder.extra has no place', dict(tensors={'encoder.extra': torch.zeros(2)})),
        (r'encoder.bias_l0 has shape \(3,\), expected \(20,\)', dict(tensors={'encoder.bias_l0': torch.zeros(3)})),
        ('encoder.bias_l0 holds torch.int32', dict(tensors={'encoder.bias_l0': torch.zeros(20, dtype=torch.int32)})),
        ('NaN or infinite values in encoder.bias_l0', dict(tensors={'encoder.bias_l0': torch.full((20,), torch.nan)})),
        ('no config', dict(config=None)), ('no config', dict(config='{')), ('no config', dict(config='[1]')),
        ('no card', dict(card='3')), ('newer version.*attention', dict(config=changed(attention=True))),
        ('newer version', dict(version='3')), ("version 'x'", dict(version='x')), ("format 'pt'", dict(format='pt')),
        ('configuration is not valid: hidden_size', dict(config=changed(hidden_size=-1))),
        ('not valid', dict(config=changed(frame_shape=None))),
        (r'has shape .*; and \d+ more', dict(config=changed(hidden_size=10**6))), # nothing of that size is ever made
        ('not valid: hidden_size is 1000', dict(config=changed(hidden_size=10**9))),
        ('not valid', dict(config=changed(frame_shape=[10**10]*3))),
        ('not valid: hidden_size is 1000', dict(config=changed(hidden_size=10**30))),
        ('not valid: num_layers is 1000000000', dict(config=changed(num_layers=10**9))),
        ('no config', dict(config='[' * 10**5)), ('no config', dict(config='{"a":' * 10**5)),
        ('a name that comes twice', dict(config=changed()[:-1] + ', "hidden_size": 5}')),
        ('a name that comes twice', dict(card='{"a": 1, "a": 2}')), ('no card', dict(card='{"a": ' + '9' * 5000 + '}')),
        ('more than 50', dict(card='{"a":' * 200 + '1' + '}' * 200)),
        ('no card.*10000000', dict(card=' ' * 10**7 + '{}')),
        ("version '9999.*expected a file made", dict(version='9' * 5000)), ("version '0'", dict(version='0')),
        ("version '-1'", dict(version='-1')), (r'options: \\x1b\[2J', dict(config=changed(**{'\x1b[2J': 1}))),
        (r'\\x1b\]0;x has no place', dict(tensors={'\x1b]0;x': torch.zeros(2)})),
        ("hidden_size is '8'", dict(config=changed(hidden_size='8'))),
        ('dropout is nan', dict(config=changed(dropout=float('nan')))),
        ('peephole is 1', dict(config=changed(peephole=1))),
        ('frame_shape is .1,3.', dict(config=changed(frame_shape='1,3'))),
        ('holds torch.bool', dict(tensors={'encoder.bias_l0': torch.zeros(20, dtype=torch.bool)})),
        ('holds torch.float8', dict(tensors={'encoder.bias_l0': torch.zeros(20, dtype=torch.float8_e5m2)})),
        ('holds torch.complex64', dict(tensors={'encoder.bias_l0': torch.zeros(20, dtype=torch.complex64)})),
        (r'encoder.weight_ih_l1 is missing.*; and \d+ more', dict(config=changed(num_layers=300))),
        ('future_decoder.lstm.weight_ih_l0 is missing', dict(config=changed(conditional_future=True))),
    ]:
        bad = damaged(path, **kw)
        with pytest.raises(ValueError, match=f'damaged.safetensors.*{words}'): load_model(bad)
    config.pop('dropout') # a setting that came later has its default
    older = damaged(path, config=json.dumps(config))
    assert equal(load_model(older), tiny())


def test_a_training_checkpoint_is_no_model_file(tmp_path):
    clips = MovingDigits(torch.ones(1, 3, 3), n_digits=1, image_size=8, past=2, future=2)
    model = VideoLSTM.composite(frame_shape=(1, 8, 8), hidden_size=4)
    train(model, clips, steps=2, batch_size=2, checkpoint=tmp_path/'c.safetensors', progress=None)
    with pytest.raises(ValueError, match='c.safetensors.*save_model'): load_model(tmp_path/'c.safetensors')


def test_unknown_device(tmp_path):
    path = save_model(tiny(), tmp_path/'m.safetensors')
    for device in ('toaster', 'cuda:99', 'gpu', 'meta', '', None, 3):
        for load in (load_model, load_pretrained):
            with pytest.raises(ValueError, match='device'): load(path, device=device)


@pytest.mark.parametrize('bad', ['', None, 3, b'm', [], '\0', torch.zeros(2)])
def test_what_is_no_name_of_a_file(bad):
    for use in (load_model, load_authors_checkpoint, lambda p: save_model(tiny(), p),
                lambda p: save_authors_checkpoint(tiny(), p)):
        with pytest.raises(ValueError, match='path'): use(bad)
    if bad is not None: pytest.raises(ValueError, load_pretrained, bad)


def test_other_objects():
    "Each argument is named."
    for bad in (None, 3, torch.nn.Linear(2, 2), tiny().state_dict(), VideoLSTM):
        for use in (lambda m: save_model(m, 'm.safetensors'), lambda m: save_authors_checkpoint(m, 'm.h5'),
                    zoo.frame_side, lambda m: widen(m, 8), lambda m: measure_card(m, {})):
            with pytest.raises(ValueError, match='model is'): use(bad)
    model = VideoLSTM.composite(hidden_size=2, frame_shape=(1, 28, 28))
    for name, bad in [('about', 3), ('about', [1]), ('about', dict(a=model)), ('digits', 'embedded'), ('digits', 3),
                      ('digits', [3]), ('digits', ['none']), ('n_clips', 0), ('n_clips', 1.5), ('n_clips', '2')]:
        kw = dict(about={}, digits=['embedded'], n_clips=1) | {name: bad}
        with pytest.raises(ValueError, match=name): measure_card(model, **kw)
    for bad in (None, 1.5, '8', 2, True, [8]):
        with pytest.raises(ValueError, match='hidden_size'): widen(tiny(), bad)
    for bad in (torch.int16, 'float16', [], np.arange(2), 3):
        with pytest.raises(ValueError, match='dtype'): save_model(model, 'm.safetensors', dtype=bad)


def test_cards():
    card = Card(data='a | b\nc', seen=448000, year=2015, good=True, nats={'mnist': {'future': 381.25}}, unknown=None,
                sizes=[1, 2.5])
    text, table, html = str(card), card._repr_markdown_(), card._repr_html_()
    for words in ('448,000', '2015', 'yes', 'nats', 'mnist', 'future', '381.25', '1, 2.5'):
        assert words in text and words in table and words in html
    assert r'a \| b c' in table and '| nats | future |' in table and '| mnist | 381.25 |' in table
    table = Card(nats={'mnist': {'clips': 9, 'future': {'all': 1.5}, 'past': {'all': 2, 'last': 3}}})._repr_markdown_()
    assert table.splitlines() == ['| nats | clips | all | last |', '| --- | --: | --: | --: |', '| mnist | 9 |  |  |',
                                  '| mnist, future |  | 1.5 |  |', '| mnist, past |  | 2 | 3 |']
    assert Card(empty={})._repr_markdown_() == '(an empty card)'
    assert json.loads(json.dumps(card)) == card and copy.deepcopy(card) == card
    assert str(Card()) and Card()._repr_markdown_()


def test_cards_of_other_libraries(tmp_path):
    "Numbers of numpy and torch, names of files: written as what they are, shown as such before and after."
    card = dict(a=np.float32(.5), b=np.int64(30_000), c=torch.tensor(1.5), d=Path('x')/'y', e=np.bool_(True), f=(1, 2))
    back = load_model(save_model(tiny(), tmp_path/'m.safetensors', card=card)).card
    assert back == dict(a=.5, b=30_000, c=1.5, d=str(Path('x')/'y'), e=True, f=[1, 2])
    assert str(Card(card)) == str(Card(back)) and '30,000' in str(Card(card)) and 'yes' in str(Card(card))
    assert 'shape (3,)' in str(Card(a=np.arange(3), b=torch.zeros((), device='meta'), c=10**5000, d=float('nan')))
    deep = []
    for _ in range(2000): deep = [deep]
    values = float('nan'), np.float32('inf'), {1}, np.arange(3), tiny(), deep, torch.zeros((), device='meta'), b'x'
    for bad in [dict(a=v) for v in (*values, 'x' * 10**7)] + [{(1, 2): 3}, {1: 'a', '1': 'b'}]:
        with pytest.raises(ValueError, match='card'): save_model(tiny(), tmp_path/'new.safetensors', card=bad)
        if isinstance(bad.get('a'), list): assert '...' in str(Card(bad))
    assert os.listdir(tmp_path) == ['m.safetensors']


@pytest.mark.parametrize('card', [
    {'k' * 10**5: 1} | {str(k): k for k in range(10**4)}, {'a': {str(k): {f'b{k}': 1} for k in range(10**4)}},
    {'a': {'k' * 10**5: {str(k): {'b': 1} for k in range(10**4)}}}, {str(k): {'b': k} for k in range(10**4)},
    {'a': {str(k): k for k in range(10**4)}}], ids=['key', 'columns', 'path', 'tables', 'figures'])
def test_cards_that_would_fill_the_memory(card):
    "What a table repeats for each row or column is kept short."
    tables = Card(card).tables()
    assert len(tables) <= 1000 and max(len(t.rows) for t in tables) <= 1001
    assert sum(len(c) for t in tables for r in t.rows for c in r) < 3e5 and len(str(Card(card))) < 3e5


class Live(html.parser.HTMLParser):
    "Whether a marker stands anywhere in a page where a browser would do more than show it."
    def __init__(self, page, marker='MARK'):
        super().__init__()
        self.marker, self.found, self.shown, self.open = marker, [], 0, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if self.marker in str(attrs): self.found.append((tag, attrs))

    def handle_endtag(self, tag):
        while tag in self.open and self.open.pop() != tag: pass

    def handle_data(self, data):
        if self.marker not in data: return
        self.shown += 1
        if {'script', 'style', 'iframe', 'a'} & set(self.open): self.found.append((self.open[-1], data))


def test_a_card_of_a_stranger_in_a_page():
    "As nbconvert makes one of each of the three forms."
    nbformat, nbconvert = map(pytest.importorskip, ('nbformat', 'nbconvert'))
    evil = ['<script>MARK()</script>', '<img src=x onerror=MARK()>', '</td><a href="javascript:MARK()">x</a>',
            '[x](javascript:MARK)', '<!-- MARK', '"><svg onload=MARK>', '\x1b]8;;http://MARK\x07x\x1b]8;;\x07',
            '![MARK](http://x.y/MARK.png)', '`<b>MARK</b>`']
    card = Card({w: w for w in evil} | {'inner': {w: {w: w} for w in evil}, evil[0]: {evil[1]: evil[2]}})
    forms = {'text/plain': str(card), 'text/html': card._repr_html_(), 'text/markdown': card._repr_markdown_()}
    assert not any(sign in text for text in forms.values() for sign in '\x1b\x07')
    outputs = [nbformat.v4.new_output('display_data', data={kind: text}) for kind, text in forms.items()]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('card', outputs=outputs)])
    page = Live(nbconvert.HTMLExporter(template_name='basic').from_notebook_node(book)[0])
    assert page.found == [] and page.shown > 2 * len(evil)


def test_a_measured_card_keeps_nothing_by_reference():
    model, about = VideoLSTM.composite(hidden_size=2, frame_shape=(1, 28, 28)), dict(inner=dict(a=[1]))
    card = measure_card(model, about, digits=[])
    about['inner']['a'].append(2)
    assert card['inner'] == dict(a=[1]) and model.card == {} and widen(model, 3).card == {}


def test_a_measured_card_is_that_of_evaluate():
    "Its figures are those of the fixed test set in the size of the model's frames, for each decoder that there is."
    for model in (VideoLSTM.composite(hidden_size=3, frame_shape=(1, 28, 28)),
                  VideoLSTM.autoencoder(hidden_size=3, frame_shape=(1, 28, 28))):
        card = measure_card(model, dict(mine=1), digits=['embedded'], n_clips=3)
        assert card['mine'] == 1 and isinstance(card, Card) and json.loads(json.dumps(card)) == card
        scores, told = evaluate(model, fixed_test_set('embedded', 3, image_size=28)), dict(card['test']['embedded'])
        assert told.pop('clips') == 3
        tasks = {task: s for task in ('reconstruction', 'future') if (s := getattr(scores, task)) is not None}
        for found, want in ((told.pop('standard errors'), 'errors'), (told, 'overall')):
            want = {task: getattr(s, want) for task, s in tasks.items()}
            assert {task: figures.keys() for task, figures in found.items()} == {k: v.keys() for k, v in want.items()}
            for task, figures in found.items(): assert figures == pytest.approx(want[task], abs=.006)
    with pytest.raises(ValueError, match='frames of shape'): measure_card(tiny(), {}, n_clips=2)


def test_a_card_without_mnist_says_so(tmp_path):
    "Digits that cannot be had are left out, and named."
    model = VideoLSTM.composite(hidden_size=2, frame_shape=(1, 28, 28))
    card = measure_card(model, {}, digits=['mnist', 'embedded'], n_clips=2, folder=tmp_path)
    assert card['test']['mnist'].startswith('not measured: ') and card['test']['embedded']['clips'] == 2


def test_a_wider_model_says_the_same():
    past, _ = clips(past=3)
    both = dict(conditional_reconstruction=True, conditional_future=True)
    for config in (dict(num_layers=2), both, dict(predict=False)):
        small = tiny(double=True, **config)
        a, b = small(past), widen(small, 8, seed=3)(past)
        for name in ('reconstruction', 'future'):
            one, two = getattr(a, name), getattr(b, name)
            if one is not None: torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match='hidden_size is 4'): widen(small, 4)
    with pytest.raises(ValueError, match='seed'): widen(small, 9, seed=-1)


# ---- the bundled model

def test_the_bundled_model():
    asset = Path(zoo.__file__).parent/'assets'/'pretrained.safetensors'
    assert asset.stat().st_size <= 35_000_000
    model = load_pretrained()
    assert model.config == preset('bundled').config and model.card and not model.training
    past, future = MovingDigits('embedded', split='test', seed=11).batch(24)
    with torch.no_grad(): loss, out = model.loss(past, future), model(past, future_frames=3)
    assert 'integrity' not in model.card and len(read_safetensors(asset)[1]['checksum']) == 64
    assert loss.future < 600 and loss.reconstruction < 500                 # the mean frame alone costs about 700
    assert out.future.shape == (24, 3, 1, 64, 64) and out.future.min() >= 0 and out.future.max() <= 1


def test_the_small_model():
    "What the playground runs: light, and it knows where small digits go."
    asset = Path(zoo.__file__).parent/'assets'/'small.safetensors'
    assert asset.stat().st_size <= 4_000_000 and asset.with_suffix('.jsonl').stat().st_size < 100_000
    model = load_pretrained('small')
    assert model.config == VideoLSTMConfig((1, 32, 32), 320) and model.card and not model.training
    little = shrink_digits(as_digits('embedded', split='test'))
    past, future = MovingDigits(little, image_size=32, seed=11).batch(24)
    with torch.no_grad(): loss = model.loss(past, future)
    mean = past.mean((0, 1)).clamp(1e-3, 1 - 1e-3)
    blank = frame_loss(mean.logit().expand_as(future), future)                 # the mean frame
    assert loss.future < .8 * blank and loss.reconstruction < .6 * blank


def test_small_digits():
    "Means over the squares that torch takes for them, of the middle 24 x 24 pixels; anything else is refused."
    digits = torch.arange(3 * 784).view(3, 28, 28).remainder(256).byte()
    for side in (1, 8, 12, 24):
        k = 24 // side
        wanted = digits[:, 2:26, 2:26].double().view(3, side, k, side, k).mean((2, 4)).round()
        assert torch.equal(shrink_digits(digits, side).double(), wanted)
    for wrong in (None, 'mnist', digits[0], digits[..., 1:], digits.numpy()):
        with pytest.raises(ValueError, match='^digits '): shrink_digits(wrong)
    for wrong in (0, 25, 2.5, None, '16'):
        with pytest.raises(ValueError, match='^side is'): shrink_digits(digits, wrong)
    with pytest.raises(ValueError, match='^digits is .*expected uint8'): shrink_digits(digits.float())


def test_pretrained_may_be_another_file(tmp_path):
    path = save_model(tiny(), tmp_path/'m.safetensors', card=dict(mine=1))
    assert equal(load_pretrained(path), tiny()) and load_pretrained(path).card == dict(mine=1)


@pytest.fixture(scope='module')
def bundle():
    "The tool that makes a model the bundled one."
    spec = importlib.util.spec_from_file_location('bundle', ROOT/'tools'/'bundle.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bundling(bundle, tmp_path, capsys):
    "A trained model in 8 bits, its card measured as it is stored, and its log; nothing else is in the folder."
    run, assets = tmp_path/'run', tmp_path/'assets'
    run.mkdir(); assets.mkdir()
    file = save_model(VideoLSTM.composite(hidden_size=6, frame_shape=(1, 28, 28)), run/'model.safetensors',
                      card={'preset': 'mine', 'machine': 'another', 'test': {'embedded': {'clips': 9}}})
    (run/'log.jsonl').write_text('{"step": 1}\n')
    assert bundle.main([str(file), '--assets', str(assets), '--n-clips', '4']) == 0
    assert 'stored as' in capsys.readouterr().out
    assert sorted(os.listdir(assets)) == ['pretrained.jsonl', 'pretrained.safetensors']
    assert (assets/'pretrained.jsonl').read_text() == '{"step": 1}\n'
    new, notes = load_model(assets/'pretrained.safetensors'), read_safetensors(assets/'pretrained.safetensors')[1]
    assert notes['version'] == '2' and new.card['preset'] == 'mine' and new.card['machine'] != 'another'
    assert 'rounding cost' in new.card['stored as'] and new.card['test']['embedded']['clips'] == 4
    assert measure_card(new, {}, digits=['embedded'], n_clips=4)['test'] == new.card['test'] # of just these weights
    exact, stored = load_model(file).encoder.weight_hh_l0, new.encoder.weight_hh_l0
    assert not torch.equal(exact, stored) and torch.allclose(exact, stored, atol=.01)


def test_the_log_of_a_model_that_went_on(bundle):
    "The former log in front, once, however often the model is bundled; nobody else's."
    old = '{"step": 10, "clips": 40, "seconds": 1.5}\n{"step": 20, "clips": 80, "seconds": 3.0}\n'
    new, before = '{"step": 5, "clips": 30, "seconds": 0.25, "future": 9.0}\n', {'steps': 20, 'clips seen': 80, 'seconds': 3.}
    whole = bundle.whole_log(new, before, old)
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [r['step'] for r in rows] == [10, 20, 25] and rows[-1] == dict(step=25, clips=110, seconds=3.25, future=9.)
    assert bundle.whole_log(new, before, whole) == whole
    for others in None, {}, before | {'steps': 15}, {'steps': 20}: assert bundle.whole_log(new, others, old) == new
    assert bundle.whole_log(new, before, '') == new


def test_bundling_replaces_nothing_if_something_is_wrong(bundle, tmp_path, capsys):
    assets = tmp_path/'assets'
    assets.mkdir()
    (assets/'pretrained.safetensors').write_text('old')
    file = save_model(tiny(), tmp_path/'model.safetensors')
    for words in ('log.jsonl', 'frames of shape'):
        assert bundle.main([str(file), '--assets', str(assets), '--n-clips', '4']) == 1
        assert words in capsys.readouterr().err
        (tmp_path/'log.jsonl').write_text('')
    assert bundle.main([str(tmp_path/'none.safetensors'), '--assets', str(assets)]) == 1
    (assets/'pretrained.jsonl').mkdir()
    assert bundle.main([str(file), '--assets', str(assets)]) == 1 and 'a folder' in capsys.readouterr().err
    (assets/'pretrained.jsonl').rmdir()
    assert os.listdir(assets) == ['pretrained.safetensors'] and (assets/'pretrained.safetensors').read_text() == 'old'


def test_a_missing_bundled_model_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.resources, 'files', lambda name: tmp_path)
    with pytest.raises(OSError, match='lvr train --preset bundled'): load_pretrained()
    with pytest.raises(OSError, match='make experiments ARGS=playground'): load_pretrained('small')


# ---- the authors' programs, anew: numpy, from the description of their files

def sigmoid(x): return 1/(1 + np.exp(-x))


class Authors:
    "Encoder and decoders of an HDF5 file, as the released code runs them."
    def __init__(self, path):
        with h5py.File(path) as f:
            self.w = {n: f[n][()].astype(np.float64) for n in f if isinstance(f[n], h5py.Dataset)}

    def layers(self, part): return [k for k in range(1, 9) if f'lstm_{k}_{part}:w_dense' in self.w]

    def step(self, part, states, x):
        "One step of the stack; a state is (h, c). Gates in the order i, f, a, o: i and f see the old cell, o the new."
        new = []
        for k, (h, c) in zip(self.layers(part), states):
            w = {n.split(':')[1]: v for n, v in self.w.items() if n.startswith(f'lstm_{k}_{part}:')}
            n = h.shape[1]
            gates = h @ w['w_dense'].T + w['b']
            if x is not None: gates = gates + x @ w['w_input'].T
            i, f, a, o = gates[:, :n], gates[:, n:2*n], gates[:, 2*n:3*n], gates[:, 3*n:]
            d = w['w_diag'][0]
            i, f = sigmoid(i + c*d[:n]), sigmoid(f + c*d[n:2*n])
            c = f*c + i*np.tanh(a)
            h = sigmoid(o + c*d[2*n:])*np.tanh(c)
            new.append((h, c))
            x = h                                                        # what the layer above reads
        return new

    def encode(self, past):
        n = self.w['lstm_1_enc:w_dense'].shape[1]
        states = [(np.zeros((len(past), n)),)*2 for _ in self.layers('enc')]
        for t in range(past.shape[1]): states = self.step('enc', states, past[:, t])
        return states

    def decode(self, part, states, frames, conditional, truth=None):
        """Raw outputs. The first step is an ordinary one without input; then a conditional decoder reads the frame
        before: the true one, or its own through the logistic."""
        last, raw = self.layers(part)[-1], []
        w, b = self.w[f'lstm_{last}_{part}:w_output'], self.w[f'lstm_{last}_{part}:b_output']
        for t in range(frames):
            x = None
            if conditional and t > 0: x = sigmoid(raw[-1]) if truth is None else truth[:, t-1]
            states = self.step(part, states, x)
            raw.append(states[-1][0] @ w.T + b)
        return np.stack(raw, 1)

    def loss(self, part, past, future, conditional):
        target = past[:, ::-1] if part == 'dec' else future
        p = sigmoid(self.decode(part, self.encode(past), target.shape[1], conditional, target))
        return -(target*np.log(p) + (1-target)*np.log(1-p)).sum() / (target.shape[0]*target.shape[1])


def authors_file(path, H=5, D=12, layers=1, parts=('dec', 'fut'), decoder_input=True, seed=0, dtype=np.float64):
    "A checkpoint as the released code writes one, with nothing of this package."
    rng = np.random.default_rng(seed)
    with h5py.File(path, 'w') as f:
        def put(name, *shape):
            f.create_dataset(name, data=rng.uniform(-.8, .8, shape).astype(dtype))
            f.create_dataset(name + '_grad', data=rng.uniform(-1, 1, shape).astype(dtype))      # the optimiser's memory
            f.attrs[name + '_t'] = 12000
        for part in ('enc', *parts):
            for k in range(1, layers + 1):
                name = f'lstm_{k}_{part}'
                put(f'{name}:w_dense', 4*H, H); put(f'{name}:w_diag', 1, 3*H); put(f'{name}:b', 1, 4*H)
                if k > 1: put(f'{name}:w_input', 4*H, H)
                elif part == 'enc' or decoder_input: put(f'{name}:w_input', 4*H, D)
                if part != 'enc' and k == layers: put(f'{name}:w_output', D, H); put(f'{name}:b_output', 1, D)
    return path


def clips(seed=3, past=5, future=4, n=3):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(n, t, *SHAPE, generator=g, dtype=torch.float64) for t in (past, future))


@pytest.mark.parametrize('layers, reconstruction, future', list(product((1, 2), (False, True), (False, True))))
def test_equal_weights_give_the_authors_losses(layers, reconstruction, future, tmp_path):
    theirs = Authors(path := authors_file(tmp_path/'their.h5', layers=layers))
    conditional = dict(conditional_reconstruction=reconstruction, conditional_future=future)
    ours = load_authors_checkpoint(path, frame_shape=SHAPE, **conditional)
    assert (ours.config.num_layers, ours.config.hidden_size) == (layers, 5)
    assert (ours.config.conditional_reconstruction, ours.config.conditional_future) == (reconstruction, future)
    past, ahead = clips()
    p, a = past.flatten(2).numpy(), ahead.flatten(2).numpy()
    with torch.no_grad(): loss, out = ours.loss(past, ahead), ours(past, future_frames=7, reconstruction_frames=6)
    assert abs(loss.reconstruction.item() - theirs.loss('dec', p, a, reconstruction)) < 1e-9
    assert abs(loss.future.item() - theirs.loss('fut', p, a, future)) < 1e-9
    states = theirs.encode(p) # running free: their own outputs come back as probabilities
    parts = (out.reconstruction, 'dec', 6, reconstruction), (out.future, 'fut', 7, future)
    for got, part, frames, conditional in parts:
        want = sigmoid(theirs.decode(part, states, frames, conditional))
        np.testing.assert_allclose(got.flatten(2).numpy(), want, rtol=0, atol=1e-12)
    h, c = ours.encode(past)
    np.testing.assert_allclose(h.detach().numpy(), np.stack([s[0] for s in states]), atol=1e-12)
    np.testing.assert_allclose(c.detach().numpy(), np.stack([s[1] for s in states]), atol=1e-12)


@pytest.mark.parametrize('config', [dict(), dict(num_layers=2), dict(predict=False),
                                    dict(reconstruct=False, conditional_future=True),
                                    dict(num_layers=3, conditional_reconstruction=True, conditional_future=True)])
def test_there_and_back(config, tmp_path):
    past, ahead = clips()
    for double in (False, True):
        ours = tiny(double=double, **config)
        path = save_authors_checkpoint(ours, tmp_path/'m.h5')
        conditional = {k: v for k, v in config.items() if k.startswith('conditional')}
        back = load_authors_checkpoint(path, frame_shape=SHAPE, **conditional)
        assert equal(ours, back) and back.config == ours.config and not back.training
    theirs, loss = Authors(path), ours.loss(past, ahead)                     # and they would see the same
    p, a = past.flatten(2).numpy(), ahead.flatten(2).numpy()
    parts = (('dec', loss.reconstruction, ours.config.conditional_reconstruction),
             ('fut', loss.future, ours.config.conditional_future))
    for part, got, c in parts:
        assert (got is None) == (not theirs.layers(part))
        if got is not None: assert abs(got.item() - theirs.loss(part, p, a, c)) < 1e-9


def test_what_the_authors_loader_reads(tmp_path):
    "Arrays of two dimensions, each with its optimiser's memory beside it and its number of updates as an attribute."
    path = save_authors_checkpoint(tiny(num_layers=2, conditional_future=True), tmp_path/'m.h5')
    H, D = 5, 12
    parts, decoders = ('enc', 'dec', 'fut'), ('dec', 'fut')
    each = dict(w_dense=(4*H, H), w_diag=(1, 3*H), b=(1, 4*H))
    want = {f'lstm_{k}_{part}:{n}': s for k, part in product((1, 2), parts) for n, s in each.items()}
    want |= {f'lstm_2_{part}:w_input': (4*H, H) for part in parts}
    want |= {f'lstm_1_{part}:w_input': (4*H, D) for part in ('enc', 'fut')}
    want |= {f'lstm_2_{part}:w_output': (D, H) for part in decoders}
    want |= {f'lstm_2_{part}:b_output': (1, D) for part in decoders}
    with h5py.File(path) as f:
        assert {n: f[n].shape for n in f if not n.endswith('_grad')} == want
        assert {n for n in f if n.endswith('_grad')} == {n + '_grad' for n in want}
        assert set(f.attrs) == {n + '_t' for n in want}
        for n in want:
            assert f[n].dtype == f[n + '_grad'].dtype == np.float32 and f[n + '_grad'].shape == f[n].shape
            assert not f[n + '_grad'][()].any() and f.attrs[n + '_t'] == 0


def test_order_of_the_gates(tmp_path):
    path = authors_file(tmp_path/'m.h5', H=1)
    with h5py.File(path, 'r+') as f:
        f['lstm_1_enc:b'][:] = [[1, 2, 3, 4]]
        f['lstm_1_enc:w_diag'][:] = [[5, 6, 7]]
    encoder = load_authors_checkpoint(path, frame_shape=SHAPE).encoder
    assert encoder.bias_l0.tolist() == [1, 2, 3, 4] # i, f, g, o
    assert encoder.weight_peephole_l0.tolist() == [[5], [6], [7]] # i, f, o


def test_unused_parts_of_a_file_are_no_error(tmp_path):
    path = authors_file(tmp_path/'m.h5') # its decoders have input weights that unconditional ones do not use
    with h5py.File(path, 'r+') as f:
        f['logreg:w'], f['lstm_1_enc:w_output'], f['notes'] = np.zeros((3, 3)), np.zeros((12, 5)), 'text'
        f.create_group('group')
        del f['lstm_1_dec:b_grad'], f.attrs['lstm_1_dec:b_t']
    assert load_authors_checkpoint(path, frame_shape=SHAPE).config.reconstruct
    for parts, has in ((('dec',), (True, False)), (('fut',), (False, True))):
        path = authors_file(tmp_path/'p.h5', parts=parts, decoder_input=False)
        config = load_authors_checkpoint(path, frame_shape=SHAPE).config
        assert (config.reconstruct, config.predict) == has


def test_kinds_of_numbers_in_a_file(tmp_path):
    kinds = {np.float64: torch.float64, np.float32: torch.float32, np.float16: torch.float32, '>f4': torch.float32}
    for dtype, want in kinds.items():
        model = load_authors_checkpoint(authors_file(tmp_path/'m.h5', dtype=dtype), frame_shape=SHAPE)
        assert {p.dtype for p in model.parameters()} == {want}
        assert abs(model.encoder.bias_l0[0].item() - h5py.File(tmp_path/'m.h5')['lstm_1_enc:b'][0, 0]) < 1e-6


def test_frame_shape_and_output_are_the_callers(tmp_path):
    path = authors_file(tmp_path/'m.h5')
    model = load_authors_checkpoint(path, frame_shape=(12,), output='gaussian')
    assert model.config.frame_shape == (12,) and model.config.output == 'gaussian'
    assert load_authors_checkpoint(path, frame_shape=[3, 2, 2]).config.frame_shape == (3, 2, 2)


def test_arguments_that_do_not_fit_an_authors_file(tmp_path):
    plain = authors_file(tmp_path/'plain.h5', decoder_input=False)
    for words, kw in [('frame_shape is .*4096 values.*reads 12', dict(frame_shape=(1, 64, 64))),
                      ('frame_shape', dict(frame_shape=(0,))), ('output', dict(output='poisson')),
                      ('lstm_1_dec:w_input is missing', dict(conditional_reconstruction=True)),
                      ('lstm_1_fut:w_input is missing', dict(conditional_future=True))]:
        with pytest.raises(ValueError, match=words): load_authors_checkpoint(plain, **dict(frame_shape=SHAPE) | kw)
    for part, name in (('dec', 'conditional_future'), ('fut', 'conditional_reconstruction')):
        path = authors_file(tmp_path/'p.h5', parts=[part])
        with pytest.raises(ValueError, match=f'{name} is True'):
            load_authors_checkpoint(path, frame_shape=SHAPE, **{name: True})


def test_authors_files_with_faults(tmp_path):
    def fault(change, **kw):
        path = authors_file(tmp_path/'f.h5', **kw)
        with h5py.File(path, 'r+') as f: change(f)
        return path

    def swap(name, value):
        def change(f):
            del f[name]
            if value is not None: f[name] = value
        return change

    def group(f): del f['lstm_1_dec:b']; f.create_group('lstm_1_dec:b')
    def extra(f): f.create_dataset('lstm_2_dec:b', data=np.zeros((1, 20)))
    def nothing(f): pass
    diagonal = r'lstm_1_enc:w_diag has shape \(1, 9\), expected \(1, 15\)'
    for words, change, kw in [
        ('lstm_1_enc:b is missing', swap('lstm_1_enc:b', None), {}), ('lstm_1_dec:b is missing', group, {}),
        ('lstm_1_fut:w_output is missing', swap('lstm_1_fut:w_output', None), {}),
        ('lstm_1_enc:w_input is missing', swap('lstm_1_enc:w_input', None), {}),
        (diagonal, swap('lstm_1_enc:w_diag', np.zeros((1, 9))), {}),
        (r'lstm_1_enc:w_dense has shape \(19, 5\)', swap('lstm_1_enc:w_dense', np.zeros((19, 5))), {}),
        ('lstm_1_fut:w_output has shape', swap('lstm_1_fut:w_output', np.zeros((11, 5))), {}),
        ('holds int64', swap('lstm_1_enc:b', np.zeros((1, 20), int)), {}),
        ('NaN or infinite', swap('lstm_1_enc:b', np.full((1, 20), np.nan)), {}),
        ("without decoders", nothing, dict(parts=())), ("2 layers in 'dec'", extra, {}),
    ]:
        path = fault(change, **kw)
        with pytest.raises(ValueError, match=f'f.h5.*{words}'): load_authors_checkpoint(path, frame_shape=SHAPE)
    with h5py.File(tmp_path/'foreign.h5', 'w') as f: f['images'] = np.zeros((3, 3))
    said = "foreign.h5: no lstm_1_enc:w_dense in it; expected a checkpoint of the authors' programs$"
    with pytest.raises(OSError, match=said): load_authors_checkpoint(tmp_path/'foreign.h5')
    with h5py.File(tmp_path/'foreign.h5', 'w') as f: f['lstm_1_enc:w_dense'] = np.zeros(3)
    with pytest.raises(OSError, match='foreign.h5'): load_authors_checkpoint(tmp_path/'foreign.h5')


def swap(name, value): return lambda f: (f.pop(name), f.__setitem__(name, value))


def stored(name, change=lambda x: x, **kw):
    "The same array, kept in another way."
    def do(f):
        x = f.pop(name)[()]
        f.create_dataset(name, data=change(x), **kw)
    return do


def declared(name, shape, **kw): return lambda f: (f.pop(name), f.create_dataset(name, shape, 'f4', **kw))


def half_written(f):
    x = f.pop('lstm_1_enc:b')[()]
    f.create_dataset('lstm_1_enc:b', x.shape, 'f4', chunks=(1, 5))[0, :5] = x[0, :5]


def other_files(folder):
    "Files whose content must never become weights."
    (folder/'numbers.bin').write_bytes(np.full(20, .5).tobytes())
    with h5py.File(folder/'secret.h5', 'w') as f: f['x'] = np.full((1, 20), .5)


def outside(kind, folder):
    def do(f):
        del f['lstm_1_enc:b']
        if kind == 'external link': f['lstm_1_enc:b'] = h5py.ExternalLink(str(folder/'secret.h5'), 'x')
        if kind == 'external storage':
            f.create_dataset('lstm_1_enc:b', (1, 20), 'f8', external=[(str(folder/'numbers.bin'), 0, 160)])
        if kind == 'virtual':
            layout = h5py.VirtualLayout((1, 20), 'f8')
            layout[:] = h5py.VirtualSource(str(folder/'secret.h5'), 'x', (1, 20))
            f.create_virtual_dataset('lstm_1_enc:b', layout)
    return do


@pytest.mark.parametrize('kind', ['external link', 'external storage', 'virtual'])
def test_nothing_outside_the_file_is_read(kind, tmp_path):
    other_files(tmp_path)
    path = authors_file(tmp_path/'f.h5')
    with h5py.File(path, 'r+') as f: outside(kind, tmp_path)(f)
    with h5py.File(path) as f: assert (f['lstm_1_enc:b'][()] == .5).all()        # so h5py follows it
    with pytest.raises(OSError, match='f.h5.*lstm_1_enc:b is (a link|kept in another file)'):
        load_authors_checkpoint(path, frame_shape=SHAPE)


def compound(x): return x.astype([('a', 'f8')])


@pytest.mark.parametrize('words, change', [
    ('lstm_1_enc:b is a link', swap('lstm_1_enc:b', h5py.SoftLink('/lstm_1_dec:b'))),
    ('lstm_1_enc:b is packed', stored('lstm_1_enc:b', compression='gzip')),
    ('lstm_1_enc:b was never written', declared('lstm_1_enc:b', (1, 20))),
    ('lstm_1_enc:b was never written', half_written),
    ('layers, but only', lambda f: f.__setitem__('lstm_100000000_enc:b', np.zeros((1, 20)))),
    ('hidden_size is', declared('lstm_1_enc:w_dense', (2, 2**40))),
    ('lstm_1_enc:b has shape', swap('lstm_1_enc:b', h5py.Empty('f4'))),
    ('no lstm_1_enc:w_dense', swap('lstm_1_enc:w_dense', h5py.Empty('f4'))),
    ('holds', stored('lstm_1_enc:b', compound)), ('holds', stored('lstm_1_enc:b', lambda x: x.astype('S4'))),
    ('holds', stored('lstm_1_enc:b', lambda x: x.astype(complex))),
    ('holds', stored('lstm_1_enc:b', lambda x: x.astype(bool))),
    ('holds', stored('lstm_1_enc:b', lambda x: x.astype(str).astype(object), dtype=h5py.string_dtype())),
    ('holds', stored('lstm_1_enc:b', lambda x: x.astype(np.longdouble)))])
def test_authors_files_of_strangers(words, change, tmp_path):
    "Said with the name of the file, before memory is taken for what it declares."
    path = authors_file(tmp_path/'f.h5')
    with h5py.File(path, 'r+') as f: change(f)
    with pytest.raises((OSError, ValueError), match=f'f.h5.*{words}'): load_authors_checkpoint(path, frame_shape=SHAPE)


def test_a_file_that_declares_more_than_it_holds(tmp_path):
    "Never written arrays of 12000 units; one array under the names of a hundred layers."
    H, parts = 12_000, ('enc', 'dec')
    with h5py.File(tmp_path/'large.h5', 'w') as f:
        for part in parts:
            more = dict(w_input=(4*H, 12)) if part == 'enc' else dict(w_output=(12, H), b_output=(1, 12))
            for n, shape in (dict(w_dense=(4*H, H), b=(1, 4*H), w_diag=(1, 3*H)) | more).items():
                f.create_dataset(f'lstm_1_{part}:{n}', shape, 'f4')
    path = authors_file(tmp_path/'deep.h5', H=64, parts=('dec',))
    with h5py.File(path, 'r+') as f:
        f['lstm_1_enc:w_input'] = f.pop('lstm_1_enc:w_input')[()]
        same = dict(w_input='w_dense', w_dense='w_dense', b='b', w_diag='w_diag')
        for k, part, (new, old) in product(range(2, 101), parts, same.items()):
            f[f'lstm_{k}_{part}:{new}'] = f[f'lstm_1_{part}:{old}']
        for n in ('w_output', 'b_output'): f.move(f'lstm_1_dec:{n}', f'lstm_100_dec:{n}')
    tracemalloc.start()
    try:
        for name, words in (('large.h5', 'never written'), ('deep.h5', 'declares .* bytes')):
            with pytest.raises(OSError, match=f'{name}.*{words}'):
                load_authors_checkpoint(tmp_path/name, frame_shape=SHAPE)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally: tracemalloc.stop()


def test_arrays_in_pieces_are_read(tmp_path):
    "Other ways to keep plain numbers in the file."
    path = authors_file(tmp_path/'f.h5')
    want = load_authors_checkpoint(path, frame_shape=SHAPE)
    with h5py.File(path, 'r+') as f:
        stored('lstm_1_enc:b', chunks=(1, 7))(f)
        f['lstm_1_dec:w_output'].attrs['mine'] = 'x'
    assert equal(load_authors_checkpoint(path, frame_shape=SHAPE), want)


def test_checksums_in_an_authors_file(tmp_path):
    "A number changed by another program, an array under another's name, a checksum lost."
    path = save_authors_checkpoint(tiny(), tmp_path/'m.h5')
    content = path.read_bytes()
    def number(f): f['lstm_1_enc:b'][0, 0] += 1
    def name(f): f.move('lstm_1_dec:b', 'x'); f.move('lstm_1_fut:b', 'lstm_1_dec:b'); f.move('x', 'lstm_1_fut:b')
    def lost(f): del f['lstm_1_enc:b'].attrs['sha256']
    def odd(f): f['lstm_1_enc:b'].attrs['sha256'] = np.arange(3)
    for change, words in ((number, 'lstm_1_enc:b does not have the checksum'), (name, 'lstm_1_dec:b does not have'),
                          (lost, 'some arrays have a checksum'), (odd, 'lstm_1_enc:b does not have')):
        path.write_bytes(content)
        with h5py.File(path, 'r+') as f: change(f)
        with pytest.raises(OSError, match=f'm.h5.*{words}'): load_authors_checkpoint(path, frame_shape=SHAPE)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    for load in (load_model, load_authors_checkpoint):
        with pytest.raises(OSError, match='pipe'): load(tmp_path/'pipe')


def test_without_peepholes_zero_ones_are_written(tmp_path):
    ours = tiny(peephole=False, double=True)
    back = load_authors_checkpoint(save_authors_checkpoint(ours, tmp_path/'m.h5'), frame_shape=SHAPE)
    past, ahead = clips()
    assert back.config.peephole and not back.encoder.weight_peephole_l0.any()
    torch.testing.assert_close(ours.loss(past, ahead).total, back.loss(past, ahead).total, rtol=0, atol=1e-12)


def test_bad_arguments_of_save_authors_checkpoint(tmp_path):
    with pytest.raises(ValueError, match='model is a Linear'):
        save_authors_checkpoint(torch.nn.Linear(1, 1), tmp_path/'m.h5')
    with pytest.raises(ValueError, match=r"m.pt'.*\.h5 or \.hdf5"): save_authors_checkpoint(tiny(), tmp_path/'m.pt')


def test_what_a_file_cannot_hold_is_said(tmp_path):
    "A class of one's own comes back as a plain model."
    class Residual(VideoLSTM): pass
    with pytest.warns(UserWarning, match='made of Residual'): save_model(Residual.composite(frame_shape=(6,), hidden_size=3), tmp_path/'m.safetensors')

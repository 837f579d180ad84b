"Checks of arguments: what fits comes back unchanged, what does not is a ValueError of one line in one dialect."
import decimal
import fractions
import math
import random
import re

import numpy as np
import pytest
import torch

from lstm_video_repr.core import checks as C

# Everything that somebody may hand in by mistake.
ODD = [None, True, False, 0, 1, -1, 3, 2.5, 1e308, math.nan, math.inf, 10**400, 1j, '', '3', 'adam', b'x', (), [], [1, 2],
       {}, {1}, range(3), slice(None), object(), int, len, np.int8(3), np.float32(.5), np.bool_(True), np.array(2),
       np.array([1, 2]), np.array(['a']), torch.tensor(2), torch.tensor(True), torch.zeros(0), torch.zeros(2, 3),
       torch.full((2, 2, 2), math.nan), torch.zeros(2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.uint8), 'line\nbreak',
       fractions.Fraction(1, 3), decimal.Decimal('1'), 'x' * 10000, list(range(10000)), [torch.zeros(20, 20)]]
CHECKS = {'whole': C.check_whole, 'number': C.check_number, 'flag': C.check_flag, 'frames': C.check_frames,
          'pixels': C.check_pixels, 'choice': lambda v, name: C.check_choice(v, name, ('adam', 3, None)),
          'numbers': lambda v, name: C.check_numbers(v, name, 4),
          'tensor': lambda v, name: C.check_tensor(v, name, ('B', 3))}


@pytest.mark.parametrize('name', CHECKS)
def test_one_dialect(name):
    "Whatever comes, a check returns, or raises a ValueError that says name, value and what was expected, in one line."
    refused = 0
    for value in ODD:
        try: CHECKS[name](value, 'it')
        except ValueError as error:
            refused += 1
            text = str(error)
            assert re.match(r'it (is|has|holds) .+; expected .+', text) or text.startswith('it holds NaN'), text
            assert '\n' not in text and len(text) < 200, text
    assert 10 < refused < len(ODD)


def test_what_comes_back():
    "The same numbers as plain Python numbers, the same tensors."
    draw = random.Random(0)
    for _ in range(200):
        n = draw.randrange(2**31)
        for kind in (int, np.int64, torch.tensor):
            back = C.check_whole(kind(n), 'n', 0)
            assert type(back) is int and back == n
        x = draw.uniform(-1e9, 1e9)
        back = C.check_number(np.float64(x), 'x')
        assert type(back) is float and back == x
    clip = torch.rand(2, 3, 4)
    assert C.check_frames(clip, 'clip') is clip and C.check_pixels(clip, 'clip') is clip
    assert C.check_tensor(clip, 'clip', ('B', 3, 'D')) is clip


def test_numbers_like_a_list():
    "Slices, ranges, lists and tensors choose what they choose from a list."
    items, draw = list(range(7)), random.Random(1)
    for _ in range(200):
        part = slice(*(draw.choice([None, *range(-9, 9)]) for _ in range(2)), draw.choice([None, 1, 2, -1, -3]))
        if items[part]: assert C.check_numbers(part, 'k', 7) == items[part]
        else:
            with pytest.raises(ValueError, match='k is slice'): C.check_numbers(part, 'k', 7)
        chosen = draw.choices(items, k=3)
        for kind in (list, tuple, np.array, torch.tensor): assert C.check_numbers(kind(chosen), 'k', 7) == chosen


def test_shapes():
    "A letter stands for any size but none at all, a number for itself."
    for shape in [(2, 3), (1, 3), (5, 3)]: C.check_tensor(torch.zeros(shape), 'h', ('B', 3))
    for shape in [(0, 3), (2, 4), (3,), (1, 2, 3), ()]:
        with pytest.raises(ValueError, match=re.escape(f'h has shape {shape}; expected (B, 3)')):
            C.check_tensor(torch.zeros(shape), 'h', ('B', 3))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_bad_value_is_found(dtype):
    "Wherever it stands."
    for place in (0, 17, 23):
        for bad in (math.nan, math.inf, -math.inf):
            clip = torch.zeros(2, 3, 4, dtype=dtype)
            clip.view(-1)[place] = bad
            with pytest.raises(ValueError, match='past holds NaN or infinite'): C.check_frames(clip, 'past')
        for bad in (-.25, 1.5):
            clip = torch.zeros(2, 3, 4, dtype=dtype)
            clip.view(-1)[place] = bad
            C.check_frames(clip, 'past')
            with pytest.raises(ValueError, match=r'past has values .* expected \[0, 1\]'):
                C.check_frames(clip, 'past', unit=True)


def test_answers_of_readers():
    asked = []
    check = C.Answer(lambda: asked.append(1) or 10., within=.5)
    assert not asked and check() == check(...) and 'dots' in check() and not asked, 'computed only when it is needed'
    assert [check(v) for v in (9.4, 9.5, 10, 10.5, 10.6)] == ['no', 'yes', 'yes', 'yes', 'no']
    assert C.Answer(lambda: .1 + .2)(.3) == 'yes', 'rounding is no mistake'
    for odd in (None, True, 'ten', [10], math.nan, torch.zeros(2)):
        with pytest.raises(ValueError, match='^answer is .*; expected a number$'): check(odd)

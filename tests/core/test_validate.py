"""Checks of single arguments: what passes, what becomes of it, and what an error says."""

import math
import re
import warnings
from fractions import Fraction

import numpy as np
import pytest

from lcmcore import ArgumentError
from lcmcore.util.validate import (
    float_array,
    one_of,
    read_size,
    real_number,
    shown,
    texts,
    whole_number,
)

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests


@pytest.mark.parametrize("value", [1, 5, np.int8(3), np.uint64(5)])
def test_whole_numbers(value):
    number = whole_number("steps", value, 1, 5)
    assert number == value
    assert type(number) is int


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "steps must be from 1 to 5, not 0"),
        (6, "steps must be from 1 to 5, not 6"),
        (10**29, f"not {10**29}"),
        (10**30, "not a huge number"),
        (-(10**400), "not a huge number"),
        (True, "steps must be a whole number, not True"),
        (2.0, "steps must be a whole number, not 2.0"),
        ("2", "steps must be a whole number, not '2'"),
        # numpy 1 and 2 print it differently.
        (np.float32(2), f"steps must be a whole number, not {np.float32(2)!r}"),
        (["a" * 500], "steps must be a whole number, not ['" + "a" * 98 + "..."),
    ],
)
def test_what_is_no_whole_number(value, words):
    with pytest.raises(ArgumentError, match=re.escape(words) + "$"):
        whole_number("steps", value, 1, 5)


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float16(0.5), np.int64(1), Fraction(1, 2)])
def test_real_numbers(value):
    number = real_number("strength", value, 0, 1)
    assert number == value
    assert type(number) is float


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-0.001, "strength must be from 0 to 1, not -0.001"),
        (1.001, "strength must be from 0 to 1, not 1.001"),
        (math.nan, "strength must be from 0 to 1, not nan"),
        (10**400, "strength must be from 0 to 1, not a huge number"),
        (-(10**400), "strength must be from 0 to 1, not a huge number"),
        (True, "strength must be a number, not True"),
        ("1", "strength must be a number, not '1'"),
        (1j, "strength must be a number, not 1j"),
        (None, "strength must be a number, not None"),
    ],
)
def test_what_is_no_real_number(value, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        real_number("strength", value, 0, 1)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 10**400, -(10**400)])
def test_a_number_is_finite_even_if_its_range_is_not(value):
    with pytest.raises(ArgumentError, match="scale must be from -inf to inf"):
        real_number("scale", value, -math.inf, math.inf)


@pytest.mark.parametrize(
    "value",
    [[[1, 2.5]], np.array([[1, 2.5]]), np.array([[1, 2.5]], np.float16), ((1, Fraction(5, 2)),)],
)
def test_arrays_are_float32(value):
    array = float_array("latents", value)
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2.5]]


def test_an_array_is_copied():
    given = np.ones(2, np.float32)
    float_array("latents", given)[0] = 5
    assert given.tolist() == [1, 1]
    assert float_array("latents", np.array([-3, 200], np.int16)).tolist() == [-3, 200]
    assert float_array("latents", np.array([200], np.uint8)).tolist() == [200]


class Stubborn:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach first\nor else")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1j], "latents must be an array of numbers: found complex128"),
        (np.ones(2, np.complex64), "latents must be an array of numbers: found complex64"),
        (np.array([1j], object), "latents must be an array of numbers: found object"),
        (np.array([1, "2"], object), "latents must be an array of numbers: found object"),
        (np.array([2, True], object), "latents must be an array of numbers: found object"),
        (["1.5"], "latents must be an array of numbers: found <U3"),
        ([b"1"], "latents must be an array of numbers: found |S1"),
        (np.array(["2020"], "M8[Y]"), "latents must be an array of numbers: found datetime64[Y]"),
        ([True], "latents must be an array of numbers: found bool"),
        ([[1], [2, 3]], "latents must be an array of numbers: setting an array element"),
        ([None], "latents must be an array of numbers: found object"),
        (None, "latents must be an array of numbers: found object"),
        ("abc", "latents must be an array of numbers: found <U3"),
        ({}, "latents must be an array of numbers: found object"),
        ([10**400], "latents must be an array of numbers: int too large"),
        (Stubborn(), "latents must be an array of numbers: call detach first"),
        ([math.nan, 1], "latents holds NaN or infinity"),
        ([math.inf], "latents holds NaN or infinity"),
        ([1e39], "latents holds NaN or infinity"),
    ],
)
def test_what_is_no_array_of_numbers(value, words):
    """Complex numbers lost their imaginary part, with a warning of numpy's."""
    with warnings.catch_warnings(), pytest.raises(ArgumentError, match=re.escape(words)) as caught:
        warnings.simplefilter("error")
        float_array("latents", value)
    assert "\n" not in str(caught.value)


def test_texts():
    assert texts("prompt", "a") == ["a"]
    assert texts("prompt", ("a", "b")) == ["a", "b"]
    given = ["a"]
    assert texts("prompt", given) == given
    assert texts("prompt", given) is not given
    for value in ([], (), ["a", 5], {"a"}, None, b"a"):
        with pytest.raises(ArgumentError, match="prompt must be text or a list of texts, not"):
            texts("prompt", value)
    with pytest.raises(ArgumentError) as caught:
        texts("prompt", [5] * 10**6)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "size"), [("512x384", (512, 384)), ("512X384", (512, 384)), ("1x" + "1" * 17, None)]
)
def test_sizes(text, size):
    assert read_size(text) == (size or (1, int("1" * 17)))


@pytest.mark.parametrize(
    "text", ["512", "512x", "x384", "5.5x4", "-5x4", "5x4x3", "", 5, None, "²x4", "1x" + "1" * 18]
)
def test_what_is_no_size(text):
    words = f"size must be WIDTHxHEIGHT, like 512x384, not {text!r}"
    with pytest.raises(ArgumentError, match=re.escape(words) + "$"):
        read_size(text)


def test_one_of():
    assert one_of("fit", "crop", iter(("pad", "crop"))) == "crop"
    for value in ("Crop", 5, None, [], np.ones(2), {}):
        words = f"fit must be 'pad' or 'crop', not {shown(value)}"
        with pytest.raises(ArgumentError, match=re.escape(words) + "$"):
            one_of("fit", value, ("pad", "crop"))


class Unprintable:
    def __repr__(self):
        raise KeyError("no")


def test_values_are_shown_in_short():
    assert shown("a\n\x1b") == r"'a\n\x1b'"
    assert shown("a" * 98) == f"'{'a' * 98}'"
    assert shown("a" * 99) == f"'{'a' * 99}..."
    assert shown(10**5000) == "a int that cannot be printed"
    assert shown(Unprintable()) == "a Unprintable that cannot be printed"


def test_a_value_nested_too_deep_to_print():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    # Python 3.14 prints more levels than those before.
    with pytest.raises(
        ArgumentError, match=r"side must be a whole number, not (a list that|\[{99})"
    ):
        whole_number("side", deep, 1, 2)

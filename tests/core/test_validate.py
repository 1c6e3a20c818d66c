"""Single arguments, and how a wrong one is shown."""

from fractions import Fraction

import numpy as np
import pytest

from lcmcore import ArgumentError
from lcmcore.guidance import guidance_embedding
from lcmcore.util.validate import float_array, one_of, shown, whole_number


class Unprintable:
    def __repr__(self):
        raise KeyError


def test_values_in_messages():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    assert shown("a") == "'a'"
    assert shown("a" * 98) == repr("a" * 98)  # 100 characters
    assert shown("a" * 99) == f"'{'a' * 99}..."
    assert shown(deep) == "a list that cannot be printed"
    assert shown(Unprintable()) == "a Unprintable that cannot be printed"
    with pytest.raises(ArgumentError, match="side must be a whole number, not a list that cannot"):
        whole_number("side", deep, 1, 2)


@pytest.mark.parametrize("value", [5, None, ["a"], np.array(["a", "b"]), "c"])
def test_one_of(value):
    assert one_of("mode", "a", ("a", "b")) == "a"
    with pytest.raises(ArgumentError, match="mode must be 'a' or 'b', not "):
        one_of("mode", value, ("a", "b"))


@pytest.mark.parametrize("given", [[1, 2], [Fraction(1), 2], np.array([1, 2], np.uint8), (1.0, 2)])
def test_arrays_of_numbers(given):
    array = float_array("latents", given)
    assert array.dtype == np.float32
    assert array.tolist() == [1, 2]
    assert not np.shares_memory(array, given)


@pytest.mark.parametrize("width", [-1, 0, 2, 3, 4.0, 2**16 + 1])
def test_widths_of_no_guidance_embedding(width):
    with pytest.raises(ArgumentError, match="the width of timestep_cond must be "):
        guidance_embedding(7.5, width)


@pytest.mark.parametrize("width", [4, 5])
def test_the_narrowest_guidance_embedding(width):
    """Two frequencies, 1 and 1/10000, by diffusers' formula; a fifth number is 0."""
    angles = 6500 * np.array([1, 1e-4])
    expected = [*np.sin(angles), *np.cos(angles), 0][:width]
    np.testing.assert_allclose(guidance_embedding(7.5, width), expected, atol=1e-4)

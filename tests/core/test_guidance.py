"""Widths of the guidance embedding; its values are compared with diffusers' in tests/parity."""

import numpy as np
import pytest

from lcmcore import ArgumentError
from lcmcore.guidance import guidance_embedding


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

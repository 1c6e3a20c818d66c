"""Against torch.randn on the CPU. Golden: tests/goldens/noise.py; again with `make goldens`."""

import numpy as np
import pytest

from lcmcore.noise import TorchGenerator

from .goldens import load_arrays

GOLDEN = load_arrays("noise.npz")
SIZES = GOLDEN.pop("sizes").tolist()


@pytest.mark.parametrize("seed", GOLDEN)
def test_draws_in_sequence_are_those_of_torch(seed: str) -> None:
    generator = TorchGenerator(int(seed))
    drawn = [generator.randn((size,)) for size in SIZES]
    np.testing.assert_allclose(np.concatenate(drawn), GOLDEN[seed], rtol=0, atol=2e-6)


def test_a_shape_is_filled_in_the_order_of_its_flat_draw() -> None:
    shaped = TorchGenerator(42).randn((2, 3, 4, 5))
    flat = TorchGenerator(42).randn((120,))
    np.testing.assert_array_equal(shaped.reshape(-1), flat)

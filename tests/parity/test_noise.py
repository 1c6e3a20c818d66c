"""Against torch.randn on the CPU. Golden: tests/goldens/noise.py; again with `make goldens`."""

import numpy as np
import pytest

from lcmcore import ArgumentError
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


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_every_seed_of_torch_is_taken(seed: int) -> None:
    assert TorchGenerator(seed).seed == seed
    beyond = seed - 1 if seed < 0 else seed + 1
    with pytest.raises(ArgumentError, match=rf"seed must be from {-(2**63)} to {2**64 - 1}, not"):
        TorchGenerator(beyond)

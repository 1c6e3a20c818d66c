"""Against torch's adaptive_avg_pool2d, which the worker's latents follow.

Golden: tests/goldens/pooling.py; again with `make goldens`.
"""

import numpy as np
import pytest

from lcmcore.jobs.worker import average_to

from .goldens import load_arrays

GOLDEN = load_arrays("pooling.npz")
SIZES = [name.removeprefix("pooled ") for name in GOLDEN if name.startswith("pooled ")]


@pytest.mark.parametrize("size", SIZES)
def test_average(size: str) -> None:
    pooled = average_to(GOLDEN[f"latents {size}"], 8)
    np.testing.assert_allclose(pooled, GOLDEN[f"pooled {size}"], rtol=0, atol=1e-6)

"""Against get_guidance_scale_embedding of diffusers' LCM pipelines.

Golden: tests/goldens/guidance.py; again with `make goldens`. The angles reach 11,000 radians in
float32, whose last place there is 1e-3: no two libraries agree on the sine of those any better.
"""

import numpy as np
import pytest

from lcmcore.guidance import guidance_embedding

from .goldens import load_arrays

GOLDEN = load_arrays("guidance.npz")


@pytest.mark.parametrize("case", GOLDEN)
def test_embedding(case: str) -> None:
    scale, width = case.split()
    embedding = guidance_embedding(float(scale), int(width))
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, GOLDEN[case], rtol=0, atol=1e-3)

"""The argument `generator` with torch's own generators."""

import pytest
import torch

from lcmcore import ArgumentError
from lcmcore.batch import Batch
from lcmcore.noise import TorchGenerator


def batch(generator):
    return Batch.of_call("a lake", None, None, None, None, 1, generator=generator)


@pytest.mark.parametrize("seed", [0, 7, 2**33 + 7])
def test_a_new_generator_stands_for_its_noise(seed):
    (ours,) = batch(torch.Generator("cpu").manual_seed(seed)).generators()
    expected = torch.randn(4, 8, 8, generator=torch.Generator("cpu").manual_seed(seed))
    assert abs(ours.randn((4, 8, 8)) - expected.numpy()).max() < 1e-6
    assert isinstance(ours, TorchGenerator)


@pytest.mark.parametrize("count", [1, 16, 624])
def test_one_that_was_drawn_from_is_refused(count):
    generator = torch.Generator("cpu").manual_seed(7)
    torch.randn(count, generator=generator)
    with pytest.raises(ArgumentError, match="was drawn from before"):
        batch(generator)

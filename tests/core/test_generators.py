"""The argument `generator`, as diffusers has it: what stands for a seed, and what is refused.

tests/onnx/exporter/test_generators.py has the same with torch itself.
"""

import numpy as np
import pytest

from lcmcore import ArgumentError
from lcmcore.batch import Batch
from lcmcore.noise import TorchGenerator


class Generator:
    """What of torch.Generator is looked at: its draws change the state of the CPU's stream."""

    def __init__(self, device="cpu"):
        self.device = device

    def manual_seed(self, seed):
        self._seed, self._stream = seed, np.random.RandomState(seed & 0xFFFFFFFF)
        return self

    def initial_seed(self):
        return self._seed

    def get_state(self):
        return np.frombuffer(self._stream.get_state()[1].tobytes(), np.uint8)

    def draw(self):
        self._stream.randint(0, 2**32, 1000, np.uint32)
        return self


def drawn(count):
    generator = TorchGenerator(7)
    generator.randn((count,))
    return generator


def seeds(generator, prompts=1, seed=None):
    return Batch.of_call(["a lake"] * prompts, None, None, None, seed, 1, generator=generator).seeds


@pytest.mark.parametrize(
    ("generator", "prompts", "expected"),
    [
        (7, 1, [7]),
        (np.int64(7), 2, [7, 8]),
        (TorchGenerator(7), 1, [7]),
        (Generator().manual_seed(2**40 + 7), 1, [2**40 + 7]),
        ([Generator().manual_seed(2), TorchGenerator(1), 9], 3, [2, 1, 9]),
    ],
)
def test_it_stands_for_seeds(generator, prompts, expected):
    assert seeds(generator, prompts) == expected


def test_the_noise_is_that_of_the_seed(fake):
    pipe = fake()
    same = pipe("a lake", generator=Generator().manual_seed(7), output_type="np", width=64)
    assert np.array_equal(same.images, pipe("a lake", seed=7, output_type="np", width=64).images)


@pytest.mark.parametrize(
    ("generator", "prompts", "words"),
    [
        (Generator().manual_seed(7).draw(), 1, "was drawn from before"),
        (drawn(16), 1, "was drawn from before"),
        (drawn(624), 1, "was drawn from before"),  # the stream's place is that of a new one
        ([TorchGenerator(1), drawn(1)], 2, "was drawn from before"),
        (Generator("cuda").manual_seed(7), 1, "generator is of the device cuda"),
        ("seven", 1, "generator must be an integer, a torch.Generator of the CPU"),
        (True, 1, "seed must be a whole number"),
        (2**64, 1, "seed must be from"),
        (TorchGenerator(7), 2, "2 images need a list of 2 generators"),
        ([TorchGenerator(7)], 2, "1 generators do not match 2 images"),
    ],
)
def test_what_is_refused(generator, prompts, words):
    with pytest.raises(ArgumentError, match=words):
        seeds(generator, prompts)


def test_either_a_seed_or_a_generator():
    with pytest.raises(ArgumentError, match="either a seed or a generator"):
        seeds(TorchGenerator(7), seed=7)

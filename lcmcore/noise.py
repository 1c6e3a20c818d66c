"""Seeded Gaussian noise: the numbers of torch's CPU generator, without torch.

Reference: PyTorch's aten/src/ATen/native/cpu/DistributionTemplates.h (`normal_fill`) and
aten/src/ATen/core/DistributionsHelper.h. Agrees with `torch.randn` to about 5e-7: the vector
units that torch uses round sine, cosine and logarithm a little differently.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lcmcore.errors import ArgumentError
from lcmcore.util.arrays import Floats
from lcmcore.util.validate import shown, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray


_BLOCK = 16


def checked_seed(seed: Any) -> int:
    """An integer from -2**63 to 2**64 - 1, as in torch, which uses its lowest 32 bits.

    Raises ArgumentError for any other value.
    """
    return whole_number("seed", seed, -(2**63), 2**64 - 1)


def seed_of(generator: Any) -> int:
    """The seed of a TorchGenerator, a torch.Generator of the CPU, or an integer.

    torch is not imported: its generator is known by `initial_seed`. One of another device, and one
    that was drawn from, has other noise than its seed, and is refused. Raises ArgumentError.
    """
    if isinstance(generator, TorchGenerator):
        seed, is_used = generator.seed, generator.is_used
    elif hasattr(generator, "initial_seed") and hasattr(generator, "get_state"):
        device = getattr(generator.device, "type", generator.device)
        if device != "cpu":
            raise ArgumentError(
                f"generator is of the device {device}, whose noise only that device makes: pass"
                " torch.Generator('cpu').manual_seed(N), or seed=N"
            )
        seed = generator.initial_seed()
        fresh = type(generator)(device="cpu").manual_seed(seed)
        is_used = bytes(generator.get_state().tolist()) != bytes(fresh.get_state().tolist())
    elif isinstance(generator, numbers.Integral):
        return checked_seed(generator)
    else:
        raise ArgumentError(
            "generator must be an integer, a torch.Generator of the CPU, a"
            f" lcmcore.noise.TorchGenerator, or a list of them, not {shown(generator)}"
        )
    if is_used:
        raise ArgumentError(
            "generator was drawn from before, so that its seed no longer makes its noise: pass a"
            " new one for each call, or seed=N"
        )
    return checked_seed(seed)


class TorchGenerator:
    """`torch.Generator("cpu").manual_seed(seed)`: the same seed gives the same noise everywhere.

    Raises ArgumentError for an invalid seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = checked_seed(seed)
        # torch's Mersenne Twister, seeded by init_genrand, is numpy's legacy stream.
        self._stream = np.random.RandomState(self.seed & 0xFFFFFFFF)
        self._cached_gaussian: float | None = None

    @property
    def is_used(self) -> bool:
        """Whether anything was drawn since it was seeded."""
        state = self._stream.get_state(legacy=False)["state"]
        fresh = np.random.RandomState(self.seed & 0xFFFFFFFF).get_state(legacy=False)["state"]
        return state["pos"] != fresh["pos"] or not np.array_equal(state["key"], fresh["key"])

    def randn(self, shape: Sequence[int]) -> Floats:
        """`torch.randn(shape, generator=self)`, float32; draws continue where the last ended."""
        size = math.prod(shape)
        flat = self._normal_fill(size) if size >= _BLOCK else self._small_fill(size)
        return flat.reshape(tuple(shape))

    def _random_words(self, count: int) -> NDArray[np.uint32]:
        return self._stream.randint(0, 2**32, count, np.uint32)

    def _normal_fill(self, size: int) -> Floats:
        """torch's `normal_fill`: blocks of sixteen; the last overlaps the one before if need be."""
        uniform = self._uniforms(size)
        whole = size - size % _BLOCK
        out = np.empty(size, np.float32)
        out[:whole] = _box_muller(uniform[:whole])
        if whole != size:
            out[-_BLOCK:] = _box_muller(self._uniforms(_BLOCK))
        return out

    def _uniforms(self, count: int) -> Floats:
        return (self._random_words(count) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _small_fill(self, size: int) -> Floats:
        """Fewer than sixteen: one at a time from doubles; each sine is cached for the next."""
        return np.array([self._next_gaussian() for _ in range(size)], np.float32)

    def _next_gaussian(self) -> float:
        if self._cached_gaussian is not None:
            value, self._cached_gaussian = self._cached_gaussian, None
            return value
        turn, depth = self._uniform_double(), self._uniform_double()
        radius = math.sqrt(-2 * math.log1p(-depth))
        self._cached_gaussian = radius * math.sin(2 * math.pi * turn)
        return radius * math.cos(2 * math.pi * turn)

    def _uniform_double(self) -> float:
        high, low = self._random_words(2).tolist()
        return float(((high << 32 | low) & (2**53 - 1)) * 2**-53)


def _box_muller(uniform: Floats) -> Floats:
    """Gaussians from uniforms in [0, 1): eight cosines and eight sines a block."""
    blocks = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - blocks[:, 0]))
    angle = np.float32(2 * math.pi) * blocks[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()

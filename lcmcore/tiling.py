"""A network of one size made to serve larger ones: cut, run tile by tile, blended.

Tiles are all of the network's size and evenly spread, the first and the last at the borders. Their
outputs are averaged, with weights that fall linearly to a tile's border, as in Mixture of Diffusers
(arXiv:2302.02412). Lengths are in latents, so that cuts through pixels and latents are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from lcmcore.errors import NetworkError
from lcmcore.instances import Instances
from lcmcore.runtime import Network, TensorSpec, check_inputs
from lcmcore.util.arrays import Array, Floats

MIN_OVERLAP = 8  # latents; half a tile, where that is less


class Grid(NamedTuple):
    """How many numbers a network takes, and returns, for a latent along a side.

    (8, 1) for an encoder, (1, 8) for a decoder whose VAE has the factor 8.
    """

    taken: int
    returned: int


class TiledNetwork(Network):
    """Instances of one network of a fixed size as a network that takes that size and larger ones.

    The input with height and width is cut, others go to each tile as they are. Of the outputs only
    `output` is returned. Wrap only what `tile_size` has a size for.
    """

    def __init__(self, component: str, instances: Instances, output: str, grid: Grid) -> None:
        self._component = component
        self._instances = instances
        self._grid = grid
        image = next(spec for spec in instances.inputs if len(spec.shape) == 4)
        returned = next(spec for spec in instances.outputs if spec.name == output)
        self._tile = _sides(image.shape, grid.taken)
        self._names = image.name, output
        self.inputs = [_any_size(spec) if spec is image else spec for spec in instances.inputs]
        self.outputs = [_any_size(returned)]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The blended output; raises NetworkError, also for a size smaller than the tiles'."""
        taken, returned = self._names
        whole = _sides(inputs[taken].shape, self._grid.taken)
        if any(side < tile for side, tile in zip(whole, self._tile, strict=True)):
            check_inputs(self._component, self._instances.inputs, inputs)  # tells both sizes
        corners = [place_tiles(side, tile) for side, tile in zip(whole, self._tile, strict=True)]
        cuts = [{**inputs, taken: self._cut(inputs[taken], corner)} for corner in product(*corners)]
        results = (outputs[returned] for outputs in self._instances.run_each(cuts))
        return {returned: self._blend(results, whole, corners)}

    def close(self) -> None:
        """Close all instances."""
        self._instances.close()

    def trim(self) -> None:
        """Trim all instances."""
        self._instances.trim()

    def _cut(self, image: Array, corner: Sequence[int]) -> Array:
        rows, columns = self._slices(corner, self._grid.taken)
        return np.ascontiguousarray(image[:, :, rows, columns])

    def _blend(
        self, tiles: Iterable[Floats], whole: Sequence[int], corners: Sequence[Sequence[int]]
    ) -> Floats:
        """The weighted sum of the tiles, added up in their order: the same bytes each time."""
        scale = self._grid.returned
        vertical, horizontal = (
            blend_weights(starts, tile, side, scale)
            for starts, tile, side in zip(corners, self._tile, whole, strict=True)
        )
        weights = [np.outer(*pair) for pair in product(vertical, horizontal)]
        canvas: Floats | None = None
        for tile, corner, weight in zip(tiles, product(*corners), weights, strict=True):
            self._check_returned(tile)
            if canvas is None:
                sides = (side * scale for side in whole)
                canvas = np.zeros((*tile.shape[:2], *sides), np.float32)
            rows, columns = self._slices(corner, scale)
            canvas[:, :, rows, columns] += tile * weight
        assert canvas is not None
        return canvas

    def _check_returned(self, tile: Floats) -> None:
        sides = tuple(side * self._grid.returned for side in self._tile)
        expected = TensorSpec(self._names[1], (None, None, *sides), "float32")
        if not expected.fits(tile):
            got = TensorSpec(self._names[1], tile.shape, "float32")
            raise NetworkError(self._component, f"returned {got} for a tile: expected {expected}")

    def _slices(self, corner: Sequence[int], scale: int) -> tuple[slice, ...]:
        return tuple(
            slice(start * scale, (start + tile) * scale)
            for start, tile in zip(corner, self._tile, strict=True)
        )


def tile_size(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], grid: Grid
) -> tuple[int, int] | None:
    """(height, width) in latents that a network is compiled for; None if it can be no tile.

    That is so if a side is free, or no whole number of latents, or there is not one image to cut.
    """
    images = [spec.shape for spec in inputs if len(spec.shape) == 4]
    if len(images) != 1 or any(len(spec.shape) != 4 for spec in outputs[:1]):
        return None
    sides = [side or 0 for side in images[0][2:]]
    if not all(sides) or any(side % grid.taken for side in sides):
        return None
    return _sides(sides, grid.taken)


def place_tiles(whole: int, tile: int, overlap: int = MIN_OVERLAP) -> list[int]:
    """Where tiles begin along a side: as few as overlap by `overlap` or more, evenly spread."""
    step = tile - min(overlap, tile // 2)
    gaps = -(-(whole - tile) // step)  # rounded up
    return [index * (whole - tile) // gaps for index in range(gaps)] + [whole - tile]


def blend_weights(starts: Sequence[int], tile: int, whole: int, scale: int = 1) -> Floats:
    """The weight of each number of each tile along a side, [tiles, tile * scale].

    It falls linearly from a tile's middle to its border, and those of a place add up to 1: where
    two tiles overlap, one fades into the other.
    """
    size = tile * scale
    distance = np.arange(size) + 0.5
    tent = np.minimum(distance, size - distance)
    total = np.zeros(whole * scale)
    for start in starts:
        total[start * scale :][:size] += tent
    return np.array([tent / total[start * scale :][:size] for start in starts], np.float32)


def _sides(shape: Sequence[int | None], scale: int) -> tuple[int, int]:
    """Height and width of an image's shape, in latents."""
    height, width = shape[-2:]
    assert height is not None and width is not None
    return height // scale, width // scale


def _any_size(spec: TensorSpec) -> TensorSpec:
    return spec._replace(shape=(*spec.shape[:2], None, None))

"""Networks that serve larger and smaller images than they are made for: cut, run, blended.

Tiles are all of one size and evenly spread, the first and the last at the borders. Their outputs
are averaged, with weights that fall linearly to a tile's border, as in Mixture of Diffusers
(arXiv:2302.02412). Of the UNet that is its prediction, so that a step is one step of the whole.
Lengths are in latents, so that cuts through pixels and latents are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from lcmcore.errors import NetworkError
from lcmcore.instances import Instances
from lcmcore.runtime import Network, TensorSpec
from lcmcore.util.arrays import Array, Floats

UNET_OVERLAP, VAE_OVERLAP = 16, 8  # latents
Sides = tuple[int, int]  # (height, width) in latents


class Grid(NamedTuple):
    """How many numbers a network takes, and returns, for a latent along a side, and the overlap.

    (8, 1) for an encoder, (1, 8) for a decoder whose VAE has the factor 8. Tiles overlap by
    `overlap` latents or more; by half a tile, where that is less.
    """

    taken: int
    returned: int
    overlap: int


class TiledNetwork(Network):
    """Instances of one network as a network that takes images of any size.

    The input with height and width is cut, others go to each tile as they are. An image smaller
    than a tile is padded by its edge, and the output cropped. Of the outputs only `output` is
    returned. `tile_at` says for the sides of an image which tiles it is made by. Wrap only what
    `tile_size` has a size for, or what is free in size.
    """

    def __init__(
        self,
        component: str,
        instances: Instances,
        output: str,
        grid: Grid,
        tile_at: Callable[[Sides], Sides],
    ) -> None:
        self._component = component
        self._instances = instances
        self._grid = grid
        self._tile_at = tile_at
        image = next(spec for spec in instances.inputs if len(spec.shape) == 4)
        returned = next(spec for spec in instances.outputs if spec.name == output)
        self._names = image.name, output
        self.inputs = [_any_size(spec) if spec is image else spec for spec in instances.inputs]
        self.outputs = [_any_size(returned)]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The blended output; raises NetworkError."""
        taken, returned = self._names
        whole = _sides(inputs[taken].shape, self._grid.taken)
        tile = self._tile_at(whole)
        if tile == whole:
            (outputs,) = self._instances.run_each([inputs])
            return {returned: outputs[returned]}
        image = _padded(inputs[taken], whole, tile, self._grid.taken)
        corners = [
            place_tiles(max(side, length), length, self._grid.overlap)
            for side, length in zip(whole, tile, strict=True)
        ]
        cuts = [
            {**inputs, taken: _cut(image, corner, tile, self._grid.taken)}
            for corner in product(*corners)
        ]
        results = (outputs[returned] for outputs in self._instances.run_each(cuts))
        blended = self._blend(results, tile, corners)
        height, width = (side * self._grid.returned for side in whole)
        return {returned: np.ascontiguousarray(blended[:, :, :height, :width])}

    def close(self) -> None:
        """Close all instances."""
        self._instances.close()

    def trim(self) -> None:
        """Trim all instances."""
        self._instances.trim()

    def _blend(
        self, tiles: Iterable[Floats], tile: Sides, corners: Sequence[Sequence[int]]
    ) -> Floats:
        """The weighted sum of the tiles, added up in their order: the same bytes each time."""
        scale = self._grid.returned
        whole = [starts[-1] + side for starts, side in zip(corners, tile, strict=True)]
        weights = [
            blend_weights(starts, length, side, scale)
            for starts, length, side in zip(corners, tile, whole, strict=True)
        ]
        canvas: Floats | None = None
        for part, corner, pair in zip(tiles, product(*corners), product(*weights), strict=True):
            self._check_returned(part, tile)
            if canvas is None:
                sides = (side * scale for side in whole)
                canvas = np.zeros((*part.shape[:2], *sides), np.float32)
            rows, columns = _slices(corner, tile, scale)
            canvas[:, :, rows, columns] += part * np.outer(*pair)
        assert canvas is not None
        return canvas

    def _check_returned(self, part: Floats, tile: Sides) -> None:
        sides = (side * self._grid.returned for side in tile)
        expected = TensorSpec(self._names[1], (None, None, *sides), "float32")
        if not expected.fits(part):
            got = TensorSpec(self._names[1], part.shape, "float32")
            raise NetworkError(self._component, f"returned {got} for a tile: expected {expected}")


def tile_size(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], grid: Grid
) -> Sides | None:
    """(height, width) in latents that a network is compiled for; None if it can be no tile.

    That is so if a side is free, or no whole number of latents, or there is not one image to cut.
    """
    sides = [side or 0 for side in _image_sides(inputs, outputs)]
    if not sides or not all(sides) or any(side % grid.taken for side in sides):
        return None
    return _sides(sides, grid.taken)


def is_free(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether there is one image to cut, and both its sides are free."""
    return _image_sides(inputs, outputs) == (None, None)


def place_tiles(whole: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: as few as overlap by `overlap` or more, evenly spread."""
    step = tile - min(overlap, tile // 2)
    gaps = -(-(whole - tile) // step)  # rounded up
    return [index * (whole - tile) // gaps for index in range(gaps)] + [whole - tile]


def smallest_tile(whole: int, tile: int, overlap: int) -> int:
    """The shortest tile of which a side needs no more than of `tile`."""
    if whole <= tile:
        return whole
    count = len(place_tiles(whole, tile, overlap))
    return min(tile, -(-(whole + (count - 1) * overlap) // count))


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


def _image_sides(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[int | None, ...]:
    """Height and width of the only image that a network takes; () if it is no such network."""
    images = [spec.shape for spec in inputs if len(spec.shape) == 4]
    if len(images) != 1 or any(len(spec.shape) != 4 for spec in outputs[:1]):
        return ()
    return images[0][2:]


def _padded(image: Array, whole: Sides, tile: Sides, scale: int) -> Array:
    """The image, its edge repeated below and to the right, where it is smaller than a tile."""
    missing = [max(0, length - side) for side, length in zip(whole, tile, strict=True)]
    if not any(missing):
        return image
    return np.pad(image, [(0, 0), (0, 0), *((0, count * scale) for count in missing)], "edge")


def _cut(image: Array, corner: Sequence[int], tile: Sides, scale: int) -> Array:
    rows, columns = _slices(corner, tile, scale)
    return np.ascontiguousarray(image[:, :, rows, columns])


def _slices(corner: Sequence[int], tile: Sides, scale: int) -> tuple[slice, ...]:
    return tuple(
        slice(start * scale, (start + side) * scale)
        for start, side in zip(corner, tile, strict=True)
    )


def _sides(shape: Sequence[int | None], scale: int) -> Sides:
    """Height and width of an image's shape, in latents."""
    height, width = shape[-2:]
    assert height is not None and width is not None
    return height // scale, width // scale


def _any_size(spec: TensorSpec) -> TensorSpec:
    return spec._replace(shape=(*spec.shape[:2], None, None))

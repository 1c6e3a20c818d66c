"""By which tiles networks that are free in size make an image, if not whole."""

from __future__ import annotations

from collections.abc import Callable

from lcmcore.util.validate import whole_number

Size = tuple[int, int]  # (width, height) in pixels

_MAX_TILE = 2**16


class TileChoice:
    """One choice for each size of images, kept: the networks of all calls agree on it.

    `tile` is the side of the tiles in pixels, None if nobody asked for one; then `automatic` allows
    tiles for images that do not fit into the memory whole. Raises ArgumentError.
    """

    def __init__(self, tile: int | None, automatic: bool) -> None:
        self.tile = None if tile is None else whole_number("tile", tile, 1, _MAX_TILE)
        self._automatic = automatic
        self._chosen: dict[Size, int | None] = {}

    def choose(self, size: Size, side: int, fits: Callable[[], bool]) -> int | None:
        """The tiles of an image of that size, None for the whole.

        `side` is that of the tiles taken where it is large, and whole it does not fit.
        """
        if self.tile is not None or size in self._chosen:
            return self.chosen(size)
        tile = side if self._automatic and max(size) > side and not fits() else None
        return self._chosen.setdefault(size, tile)

    def chosen(self, size: Size) -> int | None:
        """The choice; of a size that never came, what was asked for."""
        tile = self._chosen.get(size, self.tile)
        return None if tile is None or tile >= max(size) else tile

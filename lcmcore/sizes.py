"""Which image sizes a model supports, and which one a call gets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from lcmcore.bundle import UnetConfig, VaeConfig
from lcmcore.errors import ArgumentError
from lcmcore.tile_choice import TileChoice
from lcmcore.util.memory import available_bytes
from lcmcore.util.validate import whole_number

Size = tuple[int, int]  # (width, height) in pixels

_MAX_SIDE = 2**16
_LARGE = 2  # times the trained area
_KEEPS_LAYOUT = 0.5  # the strength up to which img2img does
_FLOAT_BYTES = 4
_WHOLE = TileChoice(None, automatic=False)
_UNCHECKED_BYTES = 2**26  # less is not compared with the free memory, which takes time to read


class Sizes(NamedTuple):
    """The sizes of one model.

    `compiled` is the size of a UNet with fixed shapes, which makes others by tiles, else None.
    Both sides are multiples of `multiple`. `native` is the side that the model was trained for.
    `tiles` says which sizes networks without fixed shapes make by tiles, `vae_is_compiled` whether
    the decoder is not one of them: it may have to be opened to know.
    """

    compiled: Size | None
    native: int
    multiple: int
    vae: VaeConfig
    unet: UnetConfig
    tiles: TileChoice
    vae_is_compiled: Callable[[], bool]

    @classmethod
    def of_model(
        cls,
        unet: UnetConfig,
        vae: VaeConfig,
        compiled: Size | None,
        multiple: int | None = None,
        tiles: TileChoice = _WHOLE,
        vae_is_compiled: Callable[[], bool] = lambda: False,
    ) -> Sizes:
        """From the networks' configs.

        The VAE halves a side at each level, and so does the UNet; most exports work only where each
        side can be halved exactly. `multiple` overrides that for exports that are less strict.
        Tiles of a compiled UNet lie anywhere on the latents. Raises ArgumentError if `multiple` is
        not a multiple of the VAE's factor, the tiles asked for are none of it, or the compiled size
        is none that an image can have.
        """
        multiple = multiple or vae.factor * 2 ** (unet.levels - 1)
        for side in compiled or ():
            whole_number("the side that the UNet is compiled for", side, 1, _MAX_SIDE)
        if multiple % vae.factor:
            raise ArgumentError(f"size_multiple must be a multiple of {vae.factor}, not {multiple}")
        if compiled:
            multiple = vae.factor
        if tiles.tile is not None and tiles.tile % multiple:
            raise ArgumentError(
                f"tile must be a multiple of {multiple} for this model, not {tiles.tile}"
            )
        native = unet.sample_size * vae.factor
        return cls(compiled, native, multiple, vae, unet, tiles, vae_is_compiled)

    def choose(
        self,
        width: int | None,
        height: int | None,
        image: Size | None,
        count: int = 1,
        masked: bool = False,
    ) -> Size:
        """The (width, height) of a call.

        A side that is None comes from the compiled size, else from the init image `image`, scaled
        down to the native area if it is larger, else from the native size. One that is `masked`
        keeps its pixels, up to twice that area. Raises ArgumentError for a size that the model does
        not support, or if `count` images need too much memory.
        """
        for name, side in (("width", width), ("height", height)):
            if side is not None:
                whole_number(name, side, 1, _MAX_SIDE)
        default = self.compiled or (self.native, self.native)
        if image and not self.compiled:
            default = self._fitted(image, masked)
        size = (width or default[0], height or default[1])
        whole_number("the longer side", max(size), 1, _MAX_SIDE)
        self._check_multiple(size)
        self._check_memory(size, count)
        return size

    def warning(self, size: Size, strength: float) -> str:
        """What to warn of before an image is made of that size and strength; "" of nothing.

        Far above the area that it was trained for a model repeats its subjects, where little or
        nothing of an init image holds them.
        """
        if strength <= _KEEPS_LAYOUT:
            return ""
        of_unet = self._unet_size(size, self.tiles.chosen(size))
        trained = (self.native, self.native)
        for area, what in ((trained, "the area that the model was trained for"),
                           (of_unet, "the area that the UNet sees at once")):  # fmt: skip
            if _area(size) > _LARGE * _area(area):
                return (
                    f"size {_format(size)} is more than {_LARGE} times {what}, {_format(area)}: at"
                    f" strength {strength:g} subjects may come several times; what helps is a"
                    f" strength of {_KEEPS_LAYOUT:g} or less, or a small image first and then"
                    " img2img of it at twice the size"
                )
        return ""

    def tile(self, size: Size) -> int | None:
        """The side of the tiles by which networks without fixed shapes make an image of that size.

        None if they make it whole.
        """
        side = max(self.multiple, self.native // self.multiple * self.multiple)
        return self.tiles.choose(size, side, lambda: self._missing(size, 1, None) is None)

    def _fitted(self, image: Size, masked: bool) -> Size:
        """The image's size, scaled down; each side from a quarter to twice the native one."""
        area = image[0] * image[1]
        whole = masked and area <= _LARGE * self.native**2
        scale = 1.0 if whole else min(1.0, self.native / math.sqrt(area))
        low, high = self.native / 4, self.native * 2
        width, height = (self._nearest(min(max(side * scale, low), high)) for side in image)
        return width, height

    def _nearest(self, side: float) -> int:
        return max(1, round(side / self.multiple)) * self.multiple

    def _check_multiple(self, size: Size) -> None:
        if size[0] % self.multiple or size[1] % self.multiple:
            near = (self._nearest(size[0]), self._nearest(size[1]))
            raise ArgumentError(
                f"size {_format(size)}: width and height must be multiples of {self.multiple}"
                f" for this model, e.g. {_format(near)}"
            )

    def _check_memory(self, size: Size, count: int) -> None:
        """Raise ArgumentError if the largest arrays alone exceed the free memory."""
        missing = self._missing(size, count, self.tile(size))
        if missing is None:
            return
        needed, free = missing
        what = f"size {_format(size)}" if count == 1 else f"{count} times {_format(size)}"
        remedies = ["a smaller size", *(["fewer images"] if count > 1 else [])]
        if self.tiles.chosen(size) is None and max(size) > self.native:
            remedies.append(f"tiles (--tile {self.native}, in Python tile={self.native})")
        raise ArgumentError(
            f"{what} needs more than {needed / 2**30:.1f} GiB of memory and"
            f" {free / 2**30:.1f} GiB is free: choose {' or '.join(remedies)}"
        )

    def _missing(self, size: Size, count: int, tile: int | None) -> tuple[int, int] | None:
        """The bytes that `count` images need, and those that are free, where they are fewer.

        What they need are the largest arrays, in float32: the decoder's two largest feature maps,
        the UNet's largest attention map, and the images themselves, twice. A call of compiled
        networks needs the last only.
        """
        of_unet, of_vae = self._unet_size(size, tile), _part(size, tile)
        tokens = _area(of_unet) // (self.vae.factor * 2**self.unet.attention_level) ** 2
        attention = 0 if self.compiled else self.unet.heads * tokens**2
        decoder, images = _area(of_vae) * sum(self.vae.channels[:2]), 2 * 3 * _area(size)
        needed = _FLOAT_BYTES * count * max(attention, decoder, images)
        free = available_bytes() if needed > _UNCHECKED_BYTES else None
        if free is None or needed <= free:
            return None
        if self.compiled and self.vae_is_compiled():
            needed = _FLOAT_BYTES * count * images
        return (needed, free) if needed > free else None

    def _unet_size(self, size: Size, tile: int | None) -> Size:
        """The size that the UNet works at for an image: the image's, or its tiles'."""
        return self.compiled or _part(size, tile)


def _part(size: Size, tile: int | None) -> Size:
    return size if tile is None else (min(size[0], tile), min(size[1], tile))


def _area(size: Size) -> int:
    return size[0] * size[1]


def _format(size: Size) -> str:
    return f"{size[0]}x{size[1]}"

"""Which image sizes a model supports, and which one a call gets."""

from __future__ import annotations

import math
from typing import NamedTuple

from lcmcore.bundle import UnetConfig, VaeConfig
from lcmcore.errors import ArgumentError
from lcmcore.util.memory import available_bytes
from lcmcore.util.validate import whole_number

Size = tuple[int, int]  # (width, height) in pixels

_MAX_SIDE = 2**16
_LARGE = 2  # times the trained area
_KEEPS_LAYOUT = 0.5  # the strength up to which img2img does
_FLOAT_BYTES = 4
_UNCHECKED_BYTES = 2**26  # less is not compared with the free memory, which takes time to read


class Sizes(NamedTuple):
    """The sizes of one model.

    `compiled` is the only size of networks with fixed shapes, else None: then both sides are
    multiples of `multiple`. `native` is the side that the model was trained for.
    """

    compiled: Size | None
    native: int
    multiple: int
    vae: VaeConfig
    unet: UnetConfig

    @classmethod
    def of_model(
        cls,
        unet: UnetConfig,
        vae: VaeConfig,
        compiled: Size | None,
        multiple: int | None = None,
    ) -> Sizes:
        """From the networks' configs.

        The VAE halves a side at each level, and so does the UNet; most exports work only where each
        side can be halved exactly. `multiple` overrides that for exports that are less strict.
        Raises ArgumentError if `multiple` is not a multiple of the VAE's factor, or the compiled
        size is none that an image can have.
        """
        multiple = multiple or vae.factor * 2 ** (unet.levels - 1)
        for side in compiled or ():
            whole_number("the side that the UNet is compiled for", side, 1, _MAX_SIDE)
        if multiple % vae.factor:
            raise ArgumentError(f"size_multiple must be a multiple of {vae.factor}, not {multiple}")
        return cls(compiled, unet.sample_size * vae.factor, multiple, vae, unet)

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
        if self.compiled:
            return self._compiled(width, height)
        default = self._fitted(image, masked) if image else (self.native, self.native)
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
        if size[0] * size[1] <= _LARGE * self.native**2 or strength <= _KEEPS_LAYOUT:
            return ""
        return (
            f"size {_format(size)} is more than {_LARGE} times the area that the model was trained"
            f" for, {_format((self.native, self.native))}: at strength {strength:g} subjects may"
            f" come several times; what helps is a strength of {_KEEPS_LAYOUT:g} or less, or a"
            " small image first and then img2img of it at twice the size"
        )

    def _compiled(self, width: int | None, height: int | None) -> Size:
        assert self.compiled is not None
        asked = (width or self.compiled[0], height or self.compiled[1])
        if asked != self.compiled:
            raise ArgumentError(
                f"size {_format(asked)} is not supported: the networks are compiled for"
                f" {_format(self.compiled)}"
            )
        return self.compiled

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
        """Raise ArgumentError if the largest arrays alone, in float32, exceed the free memory.

        Those are the decoder's two largest feature maps, and the UNet's largest attention map.
        """
        pixels = size[0] * size[1]
        tokens = pixels // (self.vae.factor * 2**self.unet.attention_level) ** 2
        decoder = pixels * sum(self.vae.channels[:2])
        needed = _FLOAT_BYTES * count * max(decoder, self.unet.heads * tokens**2)
        free = available_bytes() if needed > _UNCHECKED_BYTES else None
        if free is not None and needed > free:
            what = f"size {_format(size)}" if count == 1 else f"{count} times {_format(size)}"
            raise ArgumentError(
                f"{what} needs more than {needed / 2**30:.1f} GiB of memory and"
                f" {free / 2**30:.1f} GiB is free: choose a smaller size"
                + (" or fewer images" if count > 1 else "")
            )


def _format(size: Size) -> str:
    return f"{size[0]}x{size[1]}"

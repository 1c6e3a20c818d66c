"""Inpainting: which part of an image a call repaints, and how the rest is kept.

The reference is diffusers' `StableDiffusionInpaintPipeline` with a UNet of 4 channels: after each
step, latents outside the mask are the init image's, noised to the next timestep by the noise that
the call began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from lcmcore.batch import repeat_to
from lcmcore.call import Step
from lcmcore.errors import ArgumentError
from lcmcore.image import MAX_SIDE, fit_images
from lcmcore.masks import mask_of_size
from lcmcore.scheduler import LCMScheduler
from lcmcore.util.arrays import Array, Floats, Integers, Pixels
from lcmcore.util.validate import one_of, whole_number

Size = tuple[int, int]  # (width, height) in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside

_HALF = 128  # a mask's value from which a latent is repainted
_LANCZOS = Image.Resampling.LANCZOS


def check_inpainting(
    masked: bool, padding_mask_crop: int | None, overlay: bool, output_type: str
) -> None:
    """Raise ArgumentError for arguments of a call that are not right, or do not fit together."""
    one_of("overlay", overlay, (False, True))
    if padding_mask_crop is None:
        return
    whole_number("padding_mask_crop", padding_mask_crop, 0, MAX_SIDE)
    if not masked:
        raise ArgumentError("padding_mask_crop needs a mask_image")
    if not overlay:
        raise ArgumentError(
            "padding_mask_crop lays what is painted over the image: overlay cannot be False then"
        )
    if output_type == "np":
        raise ArgumentError(
            "padding_mask_crop gives images of the init images' sizes:"
            " output_type must be 'pil' or 'latent'"
        )


class Inpainting(NamedTuple):
    """The images and masks of a call, and what is painted: all of it, or a box of each.

    `pixels` [..., height, width, 3] and `mask_pixels` [..., height, width] are those of the images
    and masks, or of their `boxes`, at the size of the call; one for all, or one for each.
    """

    images: list[Image.Image]  # RGB
    masks: list[Image.Image]  # L
    boxes: list[Box] | None
    pixels: Pixels
    mask_pixels: Pixels

    @classmethod
    def of_call(
        cls,
        images: list[Image.Image],
        masks: list[Image.Image],
        size: Size,
        fit: str,
        padding_mask_crop: int | None,
    ) -> Inpainting:
        """`images` and `masks` have one entry for all, or one for each.

        Masks get the size of their image. With `padding_mask_crop` only the part around each mask
        is painted, at the whole `size`. Raises ArgumentError for a mask that is black then.
        """
        if padding_mask_crop is None and fit == "stretch":  # whatever sizes images and masks have
            return cls(images, masks, None, fit_images(images, size), fit_images(masks, size))
        count = max(len(images), len(masks))
        images, masks = (each * (count // len(each)) for each in (images, masks))
        masks = [mask_of_size(mask, image.size) for mask, image in zip(masks, images, strict=True)]
        if padding_mask_crop is None:
            pixels, mask_pixels = (fit_images(each, size, fit) for each in (images, masks))
            return cls(images, masks, None, pixels, mask_pixels)
        boxes = [crop_box(mask, size, padding_mask_crop) for mask in masks]
        return cls(
            images,
            masks,
            boxes,
            np.stack([_cut(image, box, size) for image, box in zip(images, boxes, strict=True)]),
            np.stack([_cut(mask, box, size) for mask, box in zip(masks, boxes, strict=True)]),
        )

    def repainted(self, factor: int, count: int) -> Array:
        """Which latents are repainted, bool [`count`, 1, height / factor, width / factor]."""
        return repeat_to(self.mask_pixels[:, None, ::factor, ::factor] >= _HALF, count)

    def overlay(self, painted: Floats) -> Floats:
        """Painted images [batch, height, width, 3], with the init images' pixels where masks are
        black, and both where they are grey.
        """
        init, share = (
            repeat_to(each.astype(np.float32) / np.float32(255), len(painted))
            for each in (self.pixels, self.mask_pixels[..., None])
        )
        blended: Floats = share * painted + (1 - share) * init
        return blended

    def paste(self, painted: Sequence[Image.Image]) -> list[Image.Image]:
        """Painted boxes, laid over their init images as masks say, at the init images' size."""
        assert self.boxes is not None
        each = len(painted) // len(self.images)
        return [
            _paste(part, self.images[n // each], self.masks[n // each], self.boxes[n // each])
            for n, part in enumerate(painted)
        ]


def keep_unmasked(
    steps: Iterator[Step],
    timesteps: Integers,
    scheduler: LCMScheduler,
    repainted: Array,
    image_latents: Floats,
    noise: Floats,
) -> Iterator[Step]:
    """The steps, in which what is not `repainted` is the init image at the noise of the next step.

    After the last step it is the clean image, as it always is in `denoised`.
    """
    following = [*timesteps[1:].tolist(), None]
    for step, timestep in zip(steps, following, strict=False):
        kept = image_latents
        if timestep is not None:
            kept = scheduler.add_noise(image_latents, noise, timestep)
        np.copyto(step.latents, kept, where=~repainted)
        np.copyto(step.denoised, image_latents, where=~repainted)
        yield step


def crop_box(mask: Image.Image, size: Size, padding: int) -> Box:
    """The box around what is not black in the mask, padded, grown to the aspect ratio of `size`.

    It stays within the mask, where it may be too narrow for that ratio. Raises ArgumentError for a
    mask that is black everywhere. Reference: `get_crop_region` of diffusers' `VaeImageProcessor`.
    """
    box = mask.getbbox()
    if box is None:
        raise ArgumentError(
            "mask_image is black everywhere: padding_mask_crop finds nothing to repaint there"
            " (white is repainted)"
        )
    left, right = max(box[0] - padding, 0), min(box[2] + padding, mask.width)
    top, bottom = max(box[1] - padding, 0), min(box[3] + padding, mask.height)
    ratio = size[0] / size[1]
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _grown(top, bottom, (right - left) / ratio, mask.height)
    else:
        left, right = _grown(left, right, (bottom - top) * ratio, mask.width)
    return left, top, right, bottom


def _grown(start: int, end: int, length: float, limit: int) -> tuple[int, int]:
    """An interval about the same middle of that length, moved and then cut to be in 0..limit."""
    more = int(length - (end - start))
    start, end = start - more // 2, end + more - more // 2
    past = max(0, end - limit)
    start, end = start - past, end - past
    return max(start, 0), min(end - min(start, 0), limit)


def _inside(part: Size, whole: Size) -> Size:
    """The largest size of a part's proportions within the whole."""
    if whole[0] / whole[1] < part[0] / part[1]:
        return whole[0], max(1, part[1] * whole[0] // part[0])
    return max(1, part[0] * whole[1] // part[1]), whole[1]


def _around(part: Size, hole: Size) -> Size:
    """The smallest size of a part's proportions that covers the hole."""
    if hole[0] / hole[1] > part[0] / part[1]:
        return hole[0], part[1] * hole[0] // part[0]
    return part[0] * hole[1] // part[1], hole[1]


def _cut(image: Image.Image, box: Box, size: Size) -> Pixels:
    """The box at that size: as large as it fits, and edge pixels beside it.

    As `resize_mode` "fill" of diffusers' `VaeImageProcessor`.
    """
    part = image.crop(box)
    width, height = _inside(part.size, size)
    pixels = np.asarray(part.resize((width, height), _LANCZOS))
    left, top = size[0] // 2 - width // 2, size[1] // 2 - height // 2
    margins = [(top, size[1] - top - height), (left, size[0] - left - width)]
    return np.pad(pixels, [*margins, *[(0, 0)] * (pixels.ndim - 2)], "edge")


def _paste(part: Image.Image, init: Image.Image, mask: Image.Image, box: Box) -> Image.Image:
    """As `apply_overlay` of diffusers' `VaeImageProcessor`: what `_cut` added is cropped."""
    size = box[2] - box[0], box[3] - box[1]
    resized = part.resize(_around(part.size, size), _LANCZOS)
    painted = Image.new("RGB", size)
    painted.paste(resized, (size[0] // 2 - resized.width // 2, size[1] // 2 - resized.height // 2))
    canvas = init.copy()
    canvas.paste(painted, box[:2], mask.crop(box))
    return canvas

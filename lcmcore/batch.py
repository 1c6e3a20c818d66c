"""The items of one call: which prompt, image and seed belong together."""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lcmcore.errors import ArgumentError
from lcmcore.image import ImageLike, read_images
from lcmcore.masks import read_masks
from lcmcore.noise import TorchGenerator, checked_seed, seed_of
from lcmcore.util.arrays import Array, Floats
from lcmcore.util.validate import texts, whole_number

_MAX_BATCH = 1024


class Batch(NamedTuple):
    """`items` prompts and init images, each repeated `repeats` times; a seed for every image.

    `prompts`, `negative_prompts`, `images` and `masks` have one entry for all items, or one for
    each.
    """

    items: int
    repeats: int
    prompts: list[str]
    negative_prompts: list[str]
    images: list[Image.Image]
    seeds: list[int]
    masks: list[Image.Image]

    @classmethod
    def of_call(
        cls,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        image: ImageLike | Sequence[ImageLike] | None,
        prompt_embeds: Floats | None,
        seed: int | Sequence[int] | None,
        repeats: int,
        mask_image: ImageLike | Sequence[ImageLike] | None = None,
        generator: Any = None,
    ) -> Batch:
        """From the arguments of a call; raises ArgumentError if their lengths do not match."""
        repeats = whole_number("num_images_per_prompt", repeats, 1, _MAX_BATCH)
        prompts = [] if prompt is None else texts("prompt", prompt)
        negatives = [] if negative_prompt is None else texts("negative_prompt", negative_prompt)
        images, masks = read_images(image), read_masks(mask_image)
        if masks and not images:
            raise ArgumentError("mask_image needs an image, of which it is the part to repaint")
        if bool(prompts) == (prompt_embeds is not None):
            raise ArgumentError("give either a prompt or prompt_embeds")
        counts = {
            "prompts": len(prompts) if prompt_embeds is None else len(prompt_embeds),
            "negative prompts": len(negatives),
            "images": len(images),
            "masks": len(masks),
        }
        items = max(counts.values())
        for name, count in counts.items():
            if count not in (0, 1, items):
                raise ArgumentError(f"{count} {name} do not match a batch of {items}")
        whole_number("the number of images", items * repeats, 1, _MAX_BATCH)
        if generator is not None:
            seed = _seed_of(generator, seed, items * repeats)
        seeds = seeds_of(seed, items * repeats)
        return cls(items, repeats, prompts, negatives, images, seeds, masks)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(width, height) of the first image, None without one."""
        return self.images[0].size if self.images else None

    def generators(self) -> list[TorchGenerator]:
        """A new generator for each image, so that each can be reproduced alone."""
        return [TorchGenerator(seed) for seed in self.seeds]


def repeat_to(rows: Array, count: int) -> Array:
    """Repeat each row so that there are `count`; raises ArgumentError if that is no multiple."""
    if not len(rows) or count % len(rows):
        raise ArgumentError(f"{len(rows)} rows do not match {count} images")
    return rows if len(rows) == count else np.repeat(rows, count // len(rows), axis=0)


def _seed_of(generator: Any, seed: int | Sequence[int] | None, count: int) -> int | Sequence[int]:
    """The `seed` that diffusers' argument `generator` stands for."""
    if seed is not None:
        raise ArgumentError("give either a seed or a generator")
    if isinstance(generator, (list, tuple)):
        if len(generator) != count:
            raise ArgumentError(f"{len(generator)} generators do not match {count} images")
        return [seed_of(each) for each in generator]
    if count > 1 and not isinstance(generator, numbers.Integral):
        raise ArgumentError(
            f"{count} images need a list of {count} generators: here each image has noise of its"
            " own, and one generator makes the first image's only"
        )
    return seed_of(generator)


def seeds_of(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """A seed for each image: an integer counts up from image to image, None draws the first.

    Raises ArgumentError for one beyond those of torch, and for a list of another length.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")  # `secrets` takes 5 ms to import
    if isinstance(seed, (list, tuple)):
        if len(seed) != count:
            raise ArgumentError(f"{len(seed)} seeds do not match {count} images")
        return [checked_seed(each) for each in seed]
    first = checked_seed(seed)
    return [checked_seed(first + index) for index in range(count)]

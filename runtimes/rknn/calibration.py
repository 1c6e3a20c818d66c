"""Inputs on which a network's activations are measured: real ones, as far as the bundle has them.

Images go through the VAE's encoder and prompts through the text encoder, on ONNX Runtime; the UNet
gets latents of images, noised to each timestep of a schedule. Where a network is missing, noise of
unit variance stands for what it would return.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lcmcore.bundle import Bundle
from lcmcore.errors import ArgumentError, LcmError, first_line
from lcmcore.guidance import guidance_embedding
from lcmcore.image import fit_images, read_image, to_tensor
from lcmcore.image_files.opening import image_suffixes
from lcmcore.noise import TorchGenerator
from lcmcore.runtime import TensorSpec
from lcmcore.scheduler import LCMScheduler
from lcmcore.util.arrays import Array, Floats
from lcmcore.util.files import sha256
from runtimes.rknn.shapes import Size

_PROMPTS = ("a photo of a street in the rain at night, neon lights", "a watercolor of a meadow", "")
_IMAGES = 3
_MAX_IMAGES = 16  # of the user's: a run of a full-size network takes seconds
_STEPS = 4  # LCM's usual number
_GUIDANCE = 8.5  # diffusers' default for a UNet that was distilled with guidance
_LATENT_CHANNELS = 4


class Calibration:
    """The inputs for each network of a bundle, at (width, height) pixels.

    `folder` has images of the user's, of which the first _MAX_IMAGES by name are taken, each
    cropped to the size; without it they are drawn. Raises ArgumentError for a folder without
    images.
    """

    def __init__(self, root: Path, size: Size, folder: Path | None = None) -> None:
        self._bundle = Bundle.open(root)
        self._size = size
        self._files = [] if folder is None else _image_files(folder)
        self._missing: list[str] = []

    @property
    def digest(self) -> str:
        """SHA-256 of the user's images, "" for those that are drawn."""
        digests = "".join(map(sha256, self._files))
        return hashlib.sha256(digests.encode()).hexdigest() if digests else ""

    def samples(
        self, component: str, inputs: Sequence[TensorSpec]
    ) -> tuple[list[dict[str, Array]], list[str]]:
        """Inputs by name, one or more, and what noise stands for in them.

        `inputs` are the network's, all dimensions known. Raises LcmError for images that cannot be
        read, or a bundle with a bad config.
        """
        self._missing = []
        return self._samples(component, inputs), self._missing

    def _samples(self, component: str, inputs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
        if component == "unet":
            return self._unet_samples({spec.name: spec for spec in inputs})
        if component == "text_encoder":
            arrays = [ids[np.newaxis] for ids in self._ids]
        elif component == "vae_encoder":
            arrays = self._pixels
        else:
            arrays = [latents / self._scaling_factor for latents in self._latents]
        (spec,) = inputs
        return [{spec.name: _fitted(array, spec, seed)} for seed, array in enumerate(arrays)]

    def _unet_samples(self, specs: Mapping[str, TensorSpec]) -> list[dict[str, Array]]:
        """One for each timestep, with the images and prompts in turn."""
        timesteps = self._scheduler.schedule(_STEPS)
        latents, embeds = self._latents, self._embeds
        samples = []
        for index in range(max(len(timesteps), len(latents))):
            timestep = int(timesteps[index % len(timesteps)])
            clean = latents[index % len(latents)]
            noise = TorchGenerator(index).randn(clean.shape)
            arrays: dict[str, Array] = {
                "sample": self._scheduler.add_noise(clean, noise, timestep),
                "timestep": np.array([timestep]),
                "encoder_hidden_states": embeds[index % len(embeds)],
            }
            if cond := specs.get("timestep_cond"):
                arrays["timestep_cond"] = guidance_embedding(_GUIDANCE, cond.shape[-1] or 0)[None]
            samples.append(
                {name: _fitted(arrays[name], spec, index) for name, spec in specs.items()}
            )
        return samples

    @cached_property
    def _pixels(self) -> list[Floats]:
        """The images as the VAE's encoder takes them, each [1, 3, height, width]."""
        images = [read_image(path) for path in self._files]
        images = images or [dead_leaves(self._size, seed) for seed in range(_IMAGES)]
        return [to_tensor(fit_images([image], self._size, "cover")) for image in images]

    @cached_property
    def _latents(self) -> list[Floats]:
        """Means of the images' latents, scaled as for the UNet, each [1, 4, height, width]."""
        factor = self._bundle.vae.factor
        shape = (1, _LATENT_CHANNELS, self._size[1] // factor, self._size[0] // factor)
        found = self._run("vae_encoder", self._pixels, "its latents")
        if any(array.shape[2:] != shape[2:] or array.shape[1] % shape[1] for array in found):
            found = []
        return [each[:, :_LATENT_CHANNELS] * self._scaling_factor for each in found] or [
            TorchGenerator(seed).randn(shape) for seed in range(_IMAGES)
        ]

    @cached_property
    def _ids(self) -> list[Array]:
        try:
            return list(self._bundle.tokenizer(_PROMPTS))
        except LcmError as error:
            self._missing.append(f"the prompts' tokens ({first_line(error)})")
            return [np.full(77, seed) for seed in range(len(_PROMPTS))]

    @cached_property
    def _embeds(self) -> list[Floats]:
        """The prompts' embeddings, each [1, 77, width]."""
        ids = [ids[np.newaxis] for ids in self._ids]
        return self._run("text_encoder", ids, "embeddings") or [np.zeros(0, np.float32)]

    @cached_property
    def _scheduler(self) -> LCMScheduler:
        try:
            return self._bundle.scheduler
        except LcmError as error:
            self._missing.append(f"the scheduler, of which the usual one is taken ({error})")
            return LCMScheduler()

    @property
    def _scaling_factor(self) -> np.float32:
        return np.float32(self._bundle.vae.scaling_factor)

    def _run(self, component: str, arrays: Sequence[Array], what: str) -> list[Floats]:
        """The network's first output for each of its inputs; [] where it cannot be run."""
        from runtimes.onnx import OnnxRuntime

        folder = self._bundle.folder(component)
        try:
            with closing(OnnxRuntime().open(component, folder, {"graph_cache": False})) as network:
                (spec,) = network.inputs
                inputs = ({spec.name: array.astype(spec.dtype)} for array in arrays)
                return [next(iter(network.run(each).values())) for each in inputs]
        except (LcmError, ValueError) as error:  # ValueError: a network of several inputs
            self._missing.append(f"{what} ({first_line(error)})")
            return []


def dead_leaves(size: Size, seed: int) -> Image.Image:
    """An RGB image of discs that cover each other, whose radii r have a density of r**-3.

    Its statistics of edges and scales are those of photos: Lee, Mumford and Huang, "Occlusion
    Models for Natural Images", 2001.
    """
    random, (width, height) = np.random.default_rng(seed), size
    image = Image.new("RGB", size, tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    smallest, largest = 1.0, max(size) / 2
    for _ in range(4000):
        x, y = random.uniform(0, width), random.uniform(0, height)
        share = random.uniform((smallest / largest) ** 2, 1)
        radius = smallest / share**0.5
        color = tuple(random.integers(0, 256, 3).tolist())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)
    return image


def _image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted; raises ArgumentError if there are none."""
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in image_suffixes())
    except OSError as error:
        raise ArgumentError(f"--calibrate {folder}: {first_line(error)}") from error
    if not files:
        raise ArgumentError(f"--calibrate {folder}: has no images")
    return files[:_MAX_IMAGES]


def _fitted(array: Array, spec: TensorSpec, seed: int) -> Array:
    """An input in the network's dtype, or noise of its shape where that is another one."""
    shape = tuple(length or 1 for length in spec.shape)
    if array.shape != shape:
        array = TorchGenerator(seed).randn(shape)
    return array.astype(spec.dtype)

"""The input shapes of a network at one image size, by a bundle's configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcmcore.bundle import VaeConfig
from lcmcore.errors import ArgumentError
from lcmcore.util.configfile import read_object
from lcmcore.util.validate import read_size, whole_number

Size = tuple[int, int]  # (width, height) in pixels
Shape = tuple[int, ...]

INPUTS: Mapping[str, tuple[str, ...]] = {
    "text_encoder": ("input_ids",),
    "unet": ("sample", "timestep", "encoder_hidden_states", "timestep_cond"),
    "vae_encoder": ("sample",),
    "vae_decoder": ("latent_sample",),
}
OPTIONAL_INPUTS = frozenset({"timestep_cond"})
OUTPUT_RANKS: Mapping[str, int] = {
    "text_encoder": 3,
    "unet": 4,
    "vae_encoder": 4,
    "vae_decoder": 4,
}
_MAX_SIDE = 4096
_OF_VAE = ("vae_encoder", "vae_decoder")
_MAX_COUNT = 2**16  # of tokens, channels, or numbers of an embedding


def input_shapes(component: str, root: Path, size: Size) -> dict[str, Shape]:
    """The component's input shapes at (width, height) pixels, batch 1, NCHW, in the usual order.

    Widths of embeddings and the scale of the latents come from the config.json files under `root`;
    defaults are Stable Diffusion 1.5's. Raises BundleError, or ArgumentError for a size that is
    not a multiple of the VAE's factor.
    """
    text, unet = _config(root, "text_encoder"), _config(root, "unet")
    vae = VaeConfig.from_config(_config(root, "vae_decoder") or _config(root, "vae_encoder"))
    width, height = size
    if width % vae.factor or height % vae.factor:
        raise ArgumentError(
            f"size {width}x{height}: width and height must be multiples of {vae.factor}"
        )
    tokens = _count(text, "max_position_embeddings", 77)
    channels = _count(unet, "in_channels", 4)
    latents = (1, channels, height // vae.factor, width // vae.factor)
    shapes: dict[str, dict[str, Shape]] = {
        "text_encoder": {"input_ids": (1, tokens)},
        "unet": {
            "sample": latents,
            "timestep": (1,),
            "encoder_hidden_states": (1, tokens, _count(unet, "cross_attention_dim", 768)),
            "timestep_cond": (1, _count(unet, "time_cond_proj_dim", 256)),
        },
        "vae_encoder": {"sample": (1, 3, height, width)},
        "vae_decoder": {"latent_sample": latents},
    }
    return shapes[component]


def native_size(root: Path) -> Size:
    """The (width, height) that the model was trained for, by its UNet's and VAE's configs.

    Raises BundleError or ArgumentError.
    """
    vae = VaeConfig.from_config(_config(root, "vae_decoder") or _config(root, "vae_encoder"))
    side = _config(root, "unet").get("sample_size") or 64
    sides = side if isinstance(side, list) else [side, side]
    if len(sides) != 2:
        raise ArgumentError(f"sample_size must be one number or two, not {len(sides)}")
    height, width = (whole_number("sample_size", each, 1, _MAX_SIDE) for each in sides)
    return width * vae.factor, height * vae.factor


def parse_size(value: Any) -> Size:
    """(width, height) from text like "512x384"; raises ArgumentError."""
    width, height = read_size(str(value).strip())
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise ArgumentError(f"size must be at most {_MAX_SIDE}x{_MAX_SIDE}, not {value}")
    return width, height


def parse_tiles(values: Sequence[str], root: Path, size: Size) -> dict[str, Size]:
    """(width, height) by component from texts like "vae_decoder=512x216", for a bundle.

    Raises BundleError, or ArgumentError, also for a tile that is larger than the images of `size`
    or no multiple of the VAE's factor.
    """
    tiles: dict[str, Size] = {}
    for value in values:
        component, _, text = value.partition("=")
        if component not in _OF_VAE or not text:
            raise ArgumentError(
                f"--tile {value}: write COMPONENT=WxH, for {' or '.join(_OF_VAE)}; the UNet makes"
                " images of other sizes than --size by tiles of that one"
            )
        tiles[component] = parse_size(text)
        if any(side > whole for side, whole in zip(tiles[component], size, strict=True)):
            raise ArgumentError(
                f"--tile {value}: larger than the images, which are {size[0]}x{size[1]}"
            )
        input_shapes(component, root, tiles[component])
    return tiles


def _count(config: Mapping[str, Any], key: str, default: int) -> int:
    """A number of a config; raises ArgumentError for what cannot be one."""
    return whole_number(key, config.get(key) or default, 1, _MAX_COUNT)


def _config(root: Path, component: str) -> dict[str, Any]:
    path = root / component / "config.json"
    return read_object(path) if path.exists() else {}

"""The input shapes of a network at one image size, by a bundle's configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcmcore.bundle import VaeConfig
from lcmcore.errors import ArgumentError
from lcmcore.util.configfile import read_object
from lcmcore.util.validate import read_size

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
    tokens = text.get("max_position_embeddings") or 77
    latents = (1, unet.get("in_channels") or 4, height // vae.factor, width // vae.factor)
    shapes: dict[str, dict[str, Shape]] = {
        "text_encoder": {"input_ids": (1, tokens)},
        "unet": {
            "sample": latents,
            "timestep": (1,),
            "encoder_hidden_states": (1, tokens, unet.get("cross_attention_dim") or 768),
            "timestep_cond": (1, unet.get("time_cond_proj_dim") or 256),
        },
        "vae_encoder": {"sample": (1, 3, height, width)},
        "vae_decoder": {"latent_sample": latents},
    }
    return shapes[component]


def native_size(root: Path) -> Size:
    """The (width, height) that the model was trained for, by its UNet's and VAE's configs."""
    vae = VaeConfig.from_config(_config(root, "vae_decoder") or _config(root, "vae_encoder"))
    side = _config(root, "unet").get("sample_size") or 64
    height, width = side if isinstance(side, list) else (side, side)
    return width * vae.factor, height * vae.factor


def parse_size(value: Any) -> Size:
    """(width, height) from text like "512x384"; raises ArgumentError."""
    width, height = read_size(str(value).strip())
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise ArgumentError(f"size must be at most {_MAX_SIDE}x{_MAX_SIDE}, not {value}")
    return width, height


def _config(root: Path, component: str) -> dict[str, Any]:
    path = root / component / "config.json"
    return read_object(path) if path.exists() else {}

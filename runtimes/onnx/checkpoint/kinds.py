"""What a file of weights is, by the names and shapes of its tensors.

The names are those of Stability's, Black Forest Labs', kohya's and diffusers' files; the widths of
the text that cross-attention reads tell Stable Diffusion's generations apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"

SD1, SD2, SDXL = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "Stable Diffusion XL"
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
_REFINER = "the refiner of Stable Diffusion XL"
TEXT_WIDTHS = {768: SD1, 1024: SD2, 1280: _REFINER, 2048: SDXL}
_FIRST = f"{UNET}input_blocks.0.0.weight"
_INPUTS = {  # channels that a UNet reads -> what it is for
    5: "depth-to-image", 7: "upscaling", 8: "InstructPix2Pix", 9: "inpainting",
}  # fmt: skip

# Parts of names, the first of which that any name contains decides: in checkpoints, and in LoRAs.
_MARKS = (
    ("conditioner.embedders.1.", SDXL),
    ("conditioner.embedders.0.model.", _REFINER),
    ("lora_te2_", SDXL),
    ("text_encoder_2.", SDXL),
    ("joint_blocks", "Stable Diffusion 3"),
    ("joint_transformer_blocks", "Stable Diffusion 3"),
    ("double_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("lora_transformer_", "a transformer, such as Stable Diffusion 3 or Flux"),
    ("transformer.transformer_blocks.", "a transformer, such as Stable Diffusion 3 or Flux"),
    ("prior.", "Stable Cascade"),
    ("effnet_mapper", "Stable Cascade"),
)
# What is no checkpoint at all, by parts of names that none has.
_PARTS = (
    *((mark, "a ControlNet") for mark in ("control_model.", "input_hint_block.")),
    ("controlnet_cond_embedding.", "a ControlNet"),
    *((mark, "a LoRA") for mark in (".lora_", "_lora.", ".lora.", ".hada_", ".lokr_", ".oft_")),
    *((mark, "an AnimateDiff motion module") for mark in (".motion_modules.", "temporal_trans")),
)
_COMPONENTS = {  # of a model, each by itself
    "a UNet in diffusers' layout": ("down_blocks.", "up_blocks."),
    "a VAE": ("encoder.", "decoder.", VAE),
}


def checkpoint_kind(shapes: Shapes) -> str:
    """SD1 or SD2 for a whole checkpoint in Stability's layout; else words for what the file is."""
    first = _marked(shapes, _PARTS)
    if first is not None:
        return first
    found = _marked(shapes, _MARKS)
    if found is not None:
        return f"a checkpoint of {found}"
    if _FIRST in shapes:
        return _unet_kind(shapes)
    for kind, beginnings in _COMPONENTS.items():
        if any(name.startswith(beginnings) for name in shapes):
            return kind
    if any(is_embedding(name, shape) for name, shape in shapes.items()):
        return "a textual inversion"
    return "not a checkpoint in Stability's layout"


def _unet_kind(shapes: Shapes) -> str:
    channels = shapes[_FIRST][1] if len(shapes[_FIRST]) == 4 else 0
    if channels in _INPUTS:
        return f"a checkpoint for {_INPUTS[channels]}, with a UNet of {channels} input channels"
    if any(name.startswith(f"{UNET}label_emb.") for name in shapes):
        return "a checkpoint with added conditions, as unCLIP or Stable Diffusion XL"
    for prefix, part in ((VAE, "VAE"), ("cond_stage_model.", "text encoder")):
        if not any(name.startswith(prefix) for name in shapes):
            return f"a checkpoint without a {part}"
    return SD2 if any(name.startswith(OPEN_CLIP) for name in shapes) else SD1


def lora_kind(shapes: Shapes) -> str | None:
    """What a LoRA was trained for: SD1, SD2, SDXL or other words; None where it does not tell."""
    found = _marked(shapes, _MARKS)
    if found is not None:
        return found
    cross = ("attn2_to_k.", "attn2_to_v.", "attn2.to_k.", "attn2.to_v.", "to_k_lora.", "to_v_lora.")
    for name, shape in shapes.items():
        down = (".lora_down.", ".lora_A.", ".down.", ".hada_w1_b")
        is_cross = any(mark in name for mark in cross) and "attn1" not in name
        if is_cross and any(mark in name for mark in down) and len(shape) > 1:
            return TEXT_WIDTHS.get(shape[1])
    return None


def is_embedding(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may be a textual inversion's: one vector, or some of them."""
    return name in ("emb_params", "string_to_param.*", "clip_l", "clip_g") or (
        "." not in name and 1 <= len(shape) <= 2 and shape[-1] in TEXT_WIDTHS
    )


def _marked(shapes: Shapes, marks: Iterable[tuple[str, str]]) -> str | None:
    return next((kind for mark, kind in marks if any(mark in name for name in shapes)), None)

"""Random LoRAs for a pipeline of diffusers, with the keys of each style of file."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

RANK, ALPHA = 4, 3.0
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
# What the training script of LCM-LoRA trains.
DISTILLED = (
    *ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip


def pairs(
    model: nn.Module, endings: tuple[str, ...], prefix: str, seed: int = 0, rank: int = RANK
) -> dict[str, Any]:
    """Random (down, up) of the layers with these names, by the layer's name in diffusers."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, layer in model.named_modules():
        if name.endswith(endings) and hasattr(layer, "weight"):
            out, *within = layer.weight.shape
            ones = (1,) * (layer.weight.ndim - 2)
            down = torch.randn(rank, *within, generator=generator) / within[0] ** 0.5
            found[prefix + name] = (down, torch.randn(out, rank, *ones, generator=generator) / 4)
    return found


def of_pipeline(
    pipe: StableDiffusionPipeline,
    unet: tuple[str, ...] = ATTENTION,
    seed: int = 0,
    rank: int = RANK,
) -> dict[str, Any]:
    text = {  # transformers 5.6 left `text_model.` out; files have it
        key.replace("text_encoder.encoder", "text_encoder.text_model.encoder"): each
        for key, each in pairs(pipe.text_encoder, TEXT, "text_encoder.", seed, rank).items()
    }
    return {**pairs(pipe.unet, unet, "unet.", seed, rank), **text}


def kohya(layers: dict[str, Any]) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in layers.items():
        flat = name.replace("text_encoder.", "lora_te_", 1).replace("unet.", "lora_unet_", 1)
        flat = flat.replace(".", "_")
        state |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        state[f"{flat}.alpha"] = torch.tensor(ALPHA)
    return state


def peft_style(layers: dict[str, Any]) -> dict[str, Tensor]:
    return {
        f"{name}.lora_{letter}.weight": each
        for name, both in layers.items()
        for letter, each in zip("AB", both, strict=True)
    }


def old_diffusers(layers: dict[str, Any]) -> dict[str, Tensor]:
    """Before diffusers 0.21: attention processors."""
    state = {}
    for name, both in layers.items():
        for part, each in zip(("down", "up"), both, strict=True):
            if name.startswith("unet."):
                where, _, layer = name.replace("to_out.0", "to_out").rpartition(".")
                state[f"{where}.processor.{layer}_lora.{part}.weight"] = each
            else:
                state[f"{name}.lora_linear_layer.{part}.weight"] = each
    return state


def dotted(layers: dict[str, Any]) -> dict[str, Tensor]:
    """diffusers 0.21 to 0.25: `lora` is a layer within the layer."""
    return {
        f"{name}.lora.{part}.weight"
        if name.startswith("unet.")
        else f"{name}.lora_linear_layer.{part}.weight": each
        for name, both in layers.items()
        for part, each in zip(("down", "up"), both, strict=True)
    }

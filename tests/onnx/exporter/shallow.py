"""A tiny checkpoint in diffusers' layout, of fewer layers than Stable Diffusion has.

torch's exporter takes its time by layer: less than half of what `tiny_configs` takes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, LCMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.rknn.fixtures import TINY


def unet(scale: int = 1, **changes: Any) -> UNet2DConditionModel:
    """Random weights, with a guidance embedding."""
    config = {
        "sample_size": 8, "block_out_channels": (8 * scale, 16 * scale), "norm_num_groups": 4,
        "layers_per_block": 1, "cross_attention_dim": 16 * scale, "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "time_cond_proj_dim": 256,
    }  # fmt: skip
    return UNet2DConditionModel(**(config | changes)).eval()


def write_checkpoint(root: Path, scale: int = 1, dtype: torch.dtype = torch.float16) -> Path:
    """A folder of networks `scale` times as wide as the narrowest."""
    torch.manual_seed(0)
    variant = "fp16" if dtype == torch.float16 else None  # that of the UNet, as some publish it
    text = CLIPTextConfig(
        vocab_size=99, hidden_size=16 * scale, intermediate_size=32 * scale, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4 * scale, 8 * scale), norm_num_groups=4, latent_channels=4,
        sample_size=16, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    CLIPTextModel(text).to(dtype).save_pretrained(root / "text_encoder")
    unet(scale).to(dtype).save_pretrained(root / "unet", variant=variant)
    vae.to(dtype).save_pretrained(root / "vae")
    LCMScheduler().save_pretrained(root / "scheduler")
    shutil.copytree(TINY / "tokenizer", root / "tokenizer")
    return root

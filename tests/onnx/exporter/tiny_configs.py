"""Folders of configs for tiny models with the depth of real ones, as --config-from takes them."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

from diffusers import AutoencoderKL, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from runtimes.onnx import build
from runtimes.onnx.checkpoint.source import Source, open_source
from tests.onnx.exporter import original
from tests.rknn.fixtures import TINY

UNET_WIDTHS, VAE_WIDTHS, TEXT, TOKENS = (8, 16, 32, 32), (4, 8, 16, 16), 16, 520


def pipeline(v2: bool = False) -> StableDiffusionPipeline:
    """Random weights; Stable Diffusion 2 differs in heads, projections, text encoder."""
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=UNET_WIDTHS, norm_num_groups=4, layers_per_block=2,
        cross_attention_dim=TEXT, attention_head_dim=[1, 2, 4, 4] if v2 else 2,
        down_block_types=(cross, cross, cross, plain), use_linear_projection=v2,
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=VAE_WIDTHS, norm_num_groups=4, latent_channels=4, layers_per_block=2,
        sample_size=64, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=TOKENS, hidden_size=TEXT, intermediate_size=4 * TEXT, num_hidden_layers=2,
        num_attention_heads=2, hidden_act="gelu" if v2 else "quick_gelu",
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae, CLIPTextModel(text), CLIPTokenizer.from_pretrained(TINY / "tokenizer"), unet,
        LCMScheduler(), None, None, requires_safety_checker=False,
    )  # fmt: skip


def write_configs(root: Path, v2: bool = False) -> Path:
    """Configs, tokenizer and scheduler, without weights."""
    pipeline(v2).save_pretrained(root)
    for path in [*root.rglob("*.safetensors"), *root.rglob("*.bin")]:
        path.unlink()
    shutil.copytree(TINY / "tokenizer", root / "tokenizer", dirs_exist_ok=True)
    return root


def tensors(v2: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """A tiny checkpoint in Stability's layout."""
    text = original.open_clip(TEXT, 3, TOKENS) if v2 else original.clip(TEXT, 2, TOKENS)
    unet = original.unet(UNET_WIDTHS, TEXT, v2)
    return original.random_tensors({**unet, **original.vae(VAE_WIDTHS), **text}, seed)


def write_checkpoint(path: Path, v2: bool = False) -> Path:
    """A single .safetensors file."""
    save_file(tensors(v2), path)
    return path


def open_checkpoint(stage: Path, *words: object) -> Source:
    """What `lcm build onnx` makes of its words before it exports: configs in `stage`."""
    return open_source(_parse(*words, "out"), stage)


def export(*words: object) -> None:
    """`lcm build onnx` with these words."""
    build.run(_parse(*words))


def _parse(*words: object) -> Namespace:
    parser = ArgumentParser()
    build.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])

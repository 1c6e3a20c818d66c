"""What is exported, of random weights: a checkpoint in one file, and LoRAs of four styles.

    python -m benchmarks.export.files WORK [--half] [--v2] [--tiny]

WORK also gets the folder `configs`, by which diffusers reads the checkpoint. The configs are those
of diffusers' and transformers' own classes, not of the code that is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lcmcore.tokenizer.clip_vocabulary import write_tokenizer
from tests.onnx.exporter import lora_files, original, tiny_configs

CHECKPOINT = "model.safetensors"
CONFIGS = "configs"


class LoraFile(NamedTuple):
    """A LoRA to make: its style of keys, and the scale by which it is merged."""

    name: str
    style: Callable[[dict[str, Any]], dict[str, Tensor]]
    scale: float


LORAS = (  # with the layers and rank of an LCM-LoRA, then those of styles
    LoraFile("lcm-lora.safetensors", lora_files.kohya, 1.0),
    LoraFile("peft.safetensors", lora_files.peft_style, 0.7),
    LoraFile("dotted.safetensors", lora_files.dotted, -0.5),
    LoraFile("processors.safetensors", lora_files.old_diffusers, -1.25),
)
_LCM_RANK, _STYLE_RANK = 64, 16
_WEAKER = 1 / 16  # than the tests' LoRAs, which change weights as much as there is of them


def make(work: Path, half: bool, v2: bool, tiny: bool) -> None:
    """Write all files, a LoRA for networks of the checkpoint's shapes."""
    kind = torch.float16 if half else torch.float32
    if tiny:
        tensors = {name: each.to(kind) for name, each in tiny_configs.tensors(v2).items()}
        pipe = tiny_configs.pipeline(v2)
        tiny_configs.write_configs(work / CONFIGS, v2)
    else:
        tensors = original.random_tensors(original.full_size(v2), dtype=kind)
        pipe = _pipeline(v2, work / CONFIGS)
    save_file(tensors, work / CHECKPOINT)
    _write_loras(pipe, work)


def _write_loras(pipe: StableDiffusionPipeline, work: Path) -> None:
    for number, lora in enumerate(LORAS):
        if number == 0:
            layers = lora_files.pairs(pipe.unet, lora_files.DISTILLED, "unet.", rank=_LCM_RANK)
        else:
            layers = lora_files.of_pipeline(pipe, seed=number, rank=_STYLE_RANK)
        weak = {name: (down, _WEAKER * up) for name, (down, up) in layers.items()}
        state = {key: each.half() for key, each in lora.style(weak).items()}
        save_file(state, work / lora.name)


def _pipeline(v2: bool, configs: Path) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 or 2.1, without memory for weights; its configs are written."""
    cross = ("CrossAttnDownBlock2D",) * 3
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=original.WIDTHS, layers_per_block=2,
            cross_attention_dim=1024 if v2 else 768, use_linear_projection=v2,
            attention_head_dim=[5, 10, 20, 20] if v2 else 8,
            down_block_types=(*cross, "DownBlock2D"),
            up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            sample_size=512, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        width = 1024 if v2 else 768
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=width, intermediate_size=4 * width,
                num_hidden_layers=23 if v2 else 12, num_attention_heads=width // 64,
                hidden_act="gelu" if v2 else "quick_gelu",
            )
        )  # fmt: skip
    write_tokenizer(configs / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(configs / "tokenizer")
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer, unet, LCMScheduler(steps_offset=1), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_config(configs)
    pipe.scheduler.save_config(configs / "scheduler")
    unet.save_config(configs / "unet")
    vae.save_config(configs / "vae")
    text.config.save_pretrained(configs / "text_encoder")
    return pipe


def main() -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    for option in ("--half", "--v2", "--tiny"):
        parser.add_argument(option, action="store_true")
    args = parser.parse_args()
    make(args.work, args.half, args.v2, args.tiny)


if __name__ == "__main__":
    main()

"""A checkpoint of Stable Diffusion 1.5's size with a guidance embedding and random weights.

    python -m benchmarks.peers.checkpoint CHECKPOINT

Speed and memory do not depend on the values. They are scaled so that each network's outputs have
the standard deviation of a trained one's: then differences of two runtimes show in the image.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from tests.goldens.clip import vocabulary, write_tokenizer
from tests.goldens.tokenizer import all_merges

_LATENTS = (1, 4, 16, 16)
_IMAGE_DEVIATION = 0.5  # of pixels in [-1, 1]
_LOG_VARIANCE = -20.0  # of latents: about that of a trained encoder


@torch.no_grad()
def make(folder: Path) -> None:
    """Write the checkpoint in diffusers' layout, float32."""
    torch.manual_seed(0)
    merges = all_merges()
    pipeline = LatentConsistencyModelPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(),
        tokenizer=write_tokenizer(folder / "tokenizer", vocabulary(merges), merges),
        unet=_unet(),
        scheduler=LCMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def _text_encoder() -> CLIPTextModel:
    """CLIP ViT-L/14's."""
    config = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        vocab_size=49408,
    )
    return CLIPTextModel(config)


def _unet() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=8,
        cross_attention_dim=768,
        time_cond_proj_dim=256,
    ).eval()
    inputs = {
        "sample": torch.randn(_LATENTS),
        "timestep": torch.tensor(499),
        "encoder_hidden_states": torch.randn(1, 77, 768),
        "timestep_cond": torch.randn(1, 256),
    }
    _scale_output(unet.conv_out, lambda: unet(**inputs).sample, 1.0)
    return unet


def _vae() -> AutoencoderKL:
    blocks = 4
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=2,
        sample_size=512,
    ).eval()
    pixels = torch.rand(1, 3, 128, 128) * 2 - 1
    _scale_output(vae.quant_conv, lambda: vae.encode(pixels).latent_dist.mean, 1 / 0.18215)
    assert vae.quant_conv.bias is not None
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = _LOG_VARIANCE
    latents = torch.randn(_LATENTS) / 0.18215
    _scale_output(vae.decoder.conv_out, lambda: vae.decode(latents).sample, _IMAGE_DEVIATION)
    return vae


def _scale_output(last: nn.Conv2d, run: Callable[[], Tensor], deviation: float) -> None:
    """Scale the last layer so that the output has this standard deviation, and zero its bias."""
    assert last.bias is not None
    last.bias.zero_()
    last.weight *= deviation / run().std()


if __name__ == "__main__":
    make(Path(sys.argv[1]))

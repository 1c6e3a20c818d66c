"""Configs of Stable Diffusion 1.x and 2.x, for checkpoints of one file, which have none.

The values are those of the config.json files that were published with the models in diffusers'
layout: stable-diffusion-v1-5 and stable-diffusion-2-1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcmcore.tokenizer.clip_vocabulary import write_tokenizer
from runtimes.onnx.checkpoint.kinds import SD1, SD2

CONFIGS = ("text_encoder/config.json", "unet/config.json", "vae/config.json")
_PADDING = {SD1: "<|endoftext|>", SD2: "!"}

_CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_TEXT_ENCODERS = {
    SD1: {
        **_CLIP,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    },
    SD2: {
        **_CLIP,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,  # of OpenCLIP's 24: Stable Diffusion 2 reads the last but one
        "projection_dim": 512,
    },
}
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
_UNETS = {
    SD1: {**_UNET, "attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64},
    SD2: {
        **_UNET,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "sample_size": 96,
        "use_linear_projection": True,
    },
}
VAE_CONFIG = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_SCHEDULER = {
    "_class_name": "LCMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "LCMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_configs(kind: str, folder: Path, prediction: str) -> None:
    """Write the configs, scheduler and tokenizer of SD1 or SD2 in diffusers' layout.

    `prediction` is what the UNet predicts: "epsilon" or "v_prediction".
    """
    write_json(folder / "text_encoder" / "config.json", _TEXT_ENCODERS[kind])
    write_json(folder / "unet" / "config.json", _UNETS[kind])
    write_json(folder / "vae" / "config.json", VAE_CONFIG)
    write_json(folder / "model_index.json", _INDEX)
    scheduler = {**_SCHEDULER, "prediction_type": prediction}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_tokenizer(folder / "tokenizer", _PADDING[kind])


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a config, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

"""Checkpoints of random weights in Stability's original layout, with the key names of real files.

The names and shapes are those that CompVis' latent-diffusion gives to a UNetModel, an AutoencoderKL
and transformers' CLIPTextModel, and Stability's to OpenCLIP, written down block by block as in its
`openaimodel.py` and `modules/diffusionmodules/model.py`: not by the code that is tested.

    python -m tests.onnx.exporter.original OUT.safetensors [--v2] [--half]   a full-size one, 4 GB
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTHS = (320, 640, 1280, 1280)
Shapes = dict[str, tuple[int, ...]]


def unet(widths: tuple[int, ...], text: int, linear: bool = False) -> Shapes:
    """`linear`: the projections of Stable Diffusion 2 are no convolutions."""
    shapes: Shapes = {}
    time = 4 * widths[0]
    _layer(shapes, "time_embed.0", time, widths[0])
    _layer(shapes, "time_embed.2", time, time)
    _layer(shapes, "input_blocks.0.0", widths[0], 4, 3, 3)
    number, channels = 1, widths[0]
    skips = [channels]
    for level, width in enumerate(widths):
        for _ in range(2):
            _resnet(shapes, f"input_blocks.{number}.0", channels, width, time)
            if level < 3:
                _transformer(shapes, f"input_blocks.{number}.1", width, text, linear)
            channels = width
            skips.append(channels)
            number += 1
        if level < 3:
            _layer(shapes, f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(channels)
            number += 1
    _resnet(shapes, "middle_block.0", channels, channels, time)
    _transformer(shapes, "middle_block.1", channels, text, linear)
    _resnet(shapes, "middle_block.2", channels, channels, time)
    for number in range(12):
        level = 3 - number // 3
        _resnet(shapes, f"output_blocks.{number}.0", channels + skips.pop(), widths[level], time)
        channels = widths[level]
        if level < 3:
            _transformer(shapes, f"output_blocks.{number}.1", channels, text, linear)
        if number % 3 == 2 and level:
            place = 2 if level < 3 else 1
            _layer(shapes, f"output_blocks.{number}.{place}.conv", channels, channels, 3, 3)
    _norm(shapes, "out.0", widths[0])
    _layer(shapes, "out.2", 4, widths[0], 3, 3)
    return {f"model.diffusion_model.{name}": shape for name, shape in shapes.items()}


def vae(widths: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    _layer(shapes, "encoder.conv_in", widths[0], 3, 3, 3)
    channels = widths[0]
    for level, width in enumerate(widths):
        for block in range(2):
            _vae_resnet(shapes, f"encoder.down.{level}.block.{block}", channels, width)
            channels = width
        if level < 3:
            _layer(shapes, f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    for half in ("encoder", "decoder"):
        for block in (1, 2):
            _vae_resnet(shapes, f"{half}.mid.block_{block}", channels, channels)
        _norm(shapes, f"{half}.mid.attn_1.norm", channels)
        for name in ("q", "k", "v", "proj_out"):
            _layer(shapes, f"{half}.mid.attn_1.{name}", channels, channels, 1, 1)
    _norm(shapes, "encoder.norm_out", channels)
    _layer(shapes, "encoder.conv_out", 8, channels, 3, 3)
    _layer(shapes, "decoder.conv_in", channels, 4, 3, 3)
    for level in (3, 2, 1, 0):
        for block in range(3):
            _vae_resnet(shapes, f"decoder.up.{level}.block.{block}", channels, widths[level])
            channels = widths[level]
        if level:
            _layer(shapes, f"decoder.up.{level}.upsample.conv", channels, channels, 3, 3)
    _norm(shapes, "decoder.norm_out", channels)
    _layer(shapes, "decoder.conv_out", 3, channels, 3, 3)
    _layer(shapes, "quant_conv", 8, 8, 1, 1)
    _layer(shapes, "post_quant_conv", 4, 4, 1, 1)
    return {f"first_stage_model.{name}": shape for name, shape in shapes.items()}


def clip(width: int, layers: int, tokens: int = 49408) -> Shapes:
    """Of Stable Diffusion 1: OpenAI's, as transformers names it."""
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (tokens, width),
        "embeddings.position_embedding.weight": (77, width),
    }
    for layer in range(layers):
        where = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _layer(shapes, f"{where}.self_attn.{name}", width, width)
        _layer(shapes, f"{where}.mlp.fc1", 4 * width, width)
        _layer(shapes, f"{where}.mlp.fc2", width, 4 * width)
        for name in ("layer_norm1", "layer_norm2"):
            _norm(shapes, f"{where}.{name}", width)
    _norm(shapes, "final_layer_norm", width)
    return {f"cond_stage_model.transformer.text_model.{key}": each for key, each in shapes.items()}


def open_clip(width: int, layers: int, tokens: int = 49408) -> Shapes:
    """Of Stable Diffusion 2: OpenCLIP's, of whose layers the last is not used."""
    shapes: Shapes = {
        "token_embedding.weight": (tokens, width),
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        "logit_scale": (),
    }
    for layer in range(layers):
        where = f"transformer.resblocks.{layer}"
        shapes[f"{where}.attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{where}.attn.in_proj_bias"] = (3 * width,)
        _layer(shapes, f"{where}.attn.out_proj", width, width)
        _layer(shapes, f"{where}.mlp.c_fc", 4 * width, width)
        _layer(shapes, f"{where}.mlp.c_proj", width, 4 * width)
        for name in ("ln_1", "ln_2"):
            _norm(shapes, f"{where}.{name}", width)
    _norm(shapes, "ln_final", width)
    return {f"cond_stage_model.model.{name}": shape for name, shape in shapes.items()}


def random_tensors(
    shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights whose outputs keep the scale of their inputs; norms near 1."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        fan = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 else 100
        tensor = torch.randn(shape, generator=generator) / fan**0.5
        is_norm = len(shape) == 1 and name.endswith("weight")
        tensors[name] = (tensor + is_norm).to(dtype)
    return tensors


def _layer(shapes: Shapes, name: str, *weight: int) -> None:
    shapes[f"{name}.weight"] = weight
    shapes[f"{name}.bias"] = weight[:1]


def _norm(shapes: Shapes, name: str, width: int) -> None:
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)


def _resnet(shapes: Shapes, name: str, before: int, after: int, time: int) -> None:
    _norm(shapes, f"{name}.in_layers.0", before)
    _layer(shapes, f"{name}.in_layers.2", after, before, 3, 3)
    _layer(shapes, f"{name}.emb_layers.1", after, time)
    _norm(shapes, f"{name}.out_layers.0", after)
    _layer(shapes, f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        _layer(shapes, f"{name}.skip_connection", after, before, 1, 1)


def _vae_resnet(shapes: Shapes, name: str, before: int, after: int) -> None:
    _norm(shapes, f"{name}.norm1", before)
    _layer(shapes, f"{name}.conv1", after, before, 3, 3)
    _norm(shapes, f"{name}.norm2", after)
    _layer(shapes, f"{name}.conv2", after, after, 3, 3)
    if before != after:
        _layer(shapes, f"{name}.nin_shortcut", after, before, 1, 1)


def _transformer(shapes: Shapes, name: str, width: int, text: int, linear: bool) -> None:
    kernel = () if linear else (1, 1)
    _norm(shapes, f"{name}.norm", width)
    _layer(shapes, f"{name}.proj_in", width, width, *kernel)
    _layer(shapes, f"{name}.proj_out", width, width, *kernel)
    block = f"{name}.transformer_blocks.0"
    for attention, keys in (("attn1", width), ("attn2", text)):
        shapes[f"{block}.{attention}.to_q.weight"] = (width, width)
        shapes[f"{block}.{attention}.to_k.weight"] = (width, keys)
        shapes[f"{block}.{attention}.to_v.weight"] = (width, keys)
        _layer(shapes, f"{block}.{attention}.to_out.0", width, width)
    _layer(shapes, f"{block}.ff.net.0.proj", 8 * width, width)
    _layer(shapes, f"{block}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        _norm(shapes, f"{block}.norm{number}", width)


def full_size(v2: bool) -> Shapes:
    """All tensors of Stable Diffusion 1.5 or 2.1."""
    text = open_clip(1024, 24) if v2 else clip(768, 12)
    return {**unet(WIDTHS, 1024 if v2 else 768, v2), **vae((128, 256, 512, 512)), **text}


if __name__ == "__main__":
    kind = torch.float16 if "--half" in sys.argv else torch.float32
    save_file(random_tensors(full_size("--v2" in sys.argv), dtype=kind), Path(sys.argv[1]))

"""diffusers, and peft beneath it, reading the files that `lcm build onnx` reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline


def from_single_file(checkpoint: Path, configs: Path) -> StableDiffusionPipeline:
    """The pipeline of a file in Stability's layout, in float32."""
    return StableDiffusionPipeline.from_single_file(
        str(checkpoint), config=str(configs), local_files_only=True, torch_dtype=torch.float32
    )


def fuse(pipe: StableDiffusionPipeline, loras: Iterable[tuple[Path, float]]) -> None:
    """Merge LoRAs, each with its scale, by `fuse_lora`."""
    scales = {}
    for number, (path, scale) in enumerate(loras):
        name = f"a{number}"
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
        scales[name] = scale
    pipe.set_adapters(list(scales), list(scales.values()))
    pipe.fuse_lora(adapter_names=list(scales))
    pipe.unload_lora_weights()

"""What the four networks compute for the same inputs, by diffusers or from the exported files.

    python -m benchmarks.export.outputs diffusers WORK OUT.npz [--lora]
    python -m benchmarks.export.outputs exported WORK/onnx OUT.npz

Each in a process of its own: a full-size checkpoint is in memory once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.export.files import CHECKPOINT, CONFIGS, LORAS
from lcmcore.util.configfile import read_object

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"

TIMESTEP = 259
_LATENTS = (1, 4, 24, 32)  # an image of 256x192


def inputs(root: Path) -> Arrays:
    """Random inputs of networks of the sizes in a folder's configs."""
    config = read_object(root / "text_encoder" / "config.json")
    random = np.random.default_rng(0)
    _, _, height, width = _LATENTS
    return {
        "ids": random.integers(config["vocab_size"], size=(1, 77)),
        "latents": random.standard_normal(_LATENTS, np.float32),
        "hidden": random.standard_normal((1, 77, config["hidden_size"]), np.float32),
        "image": random.uniform(-1, 1, (1, 3, 8 * height, 8 * width)).astype(np.float32),
    }


def of_diffusers(work: Path, loras: bool) -> Arrays:
    """By `from_single_file` and `fuse_lora`, in float32."""
    import torch

    from tests.onnx.exporter.reference import from_single_file, fuse

    pipe = from_single_file(work / CHECKPOINT, work / CONFIGS)
    if loras:
        fuse(pipe, [(work / lora.name, lora.scale) for lora in LORAS])
    given = {name: torch.from_numpy(each) for name, each in inputs(work / CONFIGS).items()}
    with torch.no_grad():
        outputs = {
            "text_encoder": pipe.text_encoder(given["ids"])[0],
            "unet": pipe.unet(given["latents"], TIMESTEP, given["hidden"]).sample,
            "vae_encoder": pipe.vae.encode(given["image"]).latent_dist.parameters,
            "vae_decoder": pipe.vae.decode(given["latents"]).sample,
        }
    return {name: each.numpy() for name, each in outputs.items()}


def of_exported(bundle: Path) -> Arrays:
    """By ONNX Runtime, with its own optimizations."""
    import onnxruntime

    from runtimes.onnx.runtime import open_mapped

    given = inputs(bundle)
    networks = {
        "text_encoder": {"input_ids": given["ids"]},
        "unet": {
            "sample": given["latents"],
            "timestep": np.array([TIMESTEP]),
            "encoder_hidden_states": given["hidden"],
        },
        "vae_encoder": {"sample": given["image"]},
        "vae_decoder": {"latent_sample": given["latents"]},
    }
    return {
        name: open_mapped(onnxruntime, bundle / name / "model.onnx").run(None, feeds)[0]
        for name, feeds in networks.items()
    }


def main() -> None:
    """Write the outputs, by network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("diffusers", "exported"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lora", action="store_true")
    args = parser.parse_args()
    exported = args.side == "exported"
    outputs = of_exported(args.folder) if exported else of_diffusers(args.folder, args.lora)
    np.savez(args.out, **outputs)


if __name__ == "__main__":
    main()

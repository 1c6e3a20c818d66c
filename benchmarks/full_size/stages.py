"""The stages, each a function of the working folder: `python -m ...stages NAME WORK`.

A stage prints its result for the table on stdout.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lcmcore
from lcmcore.bundle import Settings, demo_dir
from lcmcore.cli.main import main as lcm
from lcmcore.noise import TorchGenerator
from runtimes.rknn.shapes import parse_size

SIZE = "256x256"
LARGE = "512x512"
PROMPT = "a snowy landscape with mountains and a lake at night"
INIT = Path(__file__).parents[2] / "docs" / "pictures" / "scribble.png"
STRENGTH, STEPS, GUIDANCE, SEED = 0.5, 4, 8.5, 7


def checkpoint(work: Path) -> None:
    """Random weights in the shapes of Stable Diffusion 1.5 with a guidance embedding."""
    import torch
    from diffusers import AutoencoderKL, LCMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    folder = work / "checkpoint"
    blocks = 4
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                       num_attention_heads=12, vocab_size=49408)
    )  # fmt: skip
    models = {
        "text_encoder": text,
        "unet": UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, time_cond_proj_dim=256
        ),
        "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            layers_per_block=2,
            sample_size=512,
        ),
    }
    sizes = []
    for name, model in models.items():
        count = sum(weight.numel() for weight in model.parameters())
        sizes.append(f"{name} {count / 1e6:.0f} M")
        model.half().save_pretrained(folder / name)
    LCMScheduler().save_pretrained(folder / "scheduler")
    shutil.copytree(demo_dir() / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    print(", ".join(sizes), "parameters")


def onnx(work: Path) -> None:
    """`lcm build onnx`."""
    if lcm(["build", "onnx", str(work / "checkpoint"), str(work / "onnx")]):
        raise SystemExit(1)
    size = sum(path.stat().st_size for path in (work / "onnx").rglob("*") if path.is_file())
    print(f"four networks, {size / 1e9:.1f} GB")


def rknn(component: str, work: Path, size: str = SIZE) -> None:
    """`lcm build rknn` of one network."""
    out = work / f"rknn-{size}"
    words = ["--platform", "rk3588", "--size", size, "--components", component]
    if lcm(["build", "rknn", str(work / "onnx"), str(out), *words]):
        raise SystemExit(1)
    figures = Settings.read(out / "lcm.toml").components[component]["build"]
    megabytes = (out / component / "model.rknn").stat().st_size / 1e6
    print(
        f"{megabytes:.0f} MB, cosine {figures['cosine']:.7f},"
        f" largest difference {figures['max_difference']:.2g}"
    )


def simulate(component: str, work: Path) -> None:
    """One network's part of an img2img, in the simulator and in ONNX Runtime.

    Each part starts from the same runtime's output of the part before it, so that the last one
    decodes the image without all of the simulator's networks in memory at once.
    """
    parts: dict[str, Callable[[lcmcore.Pipeline, Callable[[str], Any]], Any]] = {
        "text_encoder": lambda pipe, earlier: pipe.encode_prompt(PROMPT),
        "vae_encoder": lambda pipe, earlier: pipe.encode_image(INIT, parse_size(SIZE)),
        "unet": _denoised,
        "vae_decoder": lambda pipe, earlier: pipe.decode(earlier("unet")),
    }
    results = {}
    for name, options in {"onnx": {}, "rknn-sim": {"size": SIZE}}.items():

        def earlier(part: str, name: str = name) -> Any:
            return np.load(work / f"{part}-{name}.npy")

        with lcmcore.load(work / "onnx", runtime=name, **options) as pipe:
            results[name] = parts[component](pipe, earlier)
        np.save(work / f"{component}-{name}.npy", results[name])
    print(_compared(results["rknn-sim"], results["onnx"]))


def _denoised(pipe: lcmcore.Pipeline, earlier: Callable[[str], Any]) -> Any:
    timesteps = pipe.scheduler.schedule(STEPS, strength=STRENGTH)
    generators = [TorchGenerator(SEED)]
    latents = pipe.prepare_latents_img2img(earlier("vae_encoder"), timesteps, generators)
    embeds = earlier("text_encoder")
    for step in pipe.denoise(latents, timesteps, embeds, GUIDANCE, generators):
        latents = step.latents
    return latents


def _compared(got: Any, expected: Any) -> str:
    a, b = got.ravel().astype(np.float64), expected.ravel().astype(np.float64)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    psnr = f", PSNR {10 * np.log10(1 / np.mean((a - b) ** 2)):.1f} dB" if got.shape[-1] == 3 else ""
    return f"cosine {cosine:.7f}, largest difference {np.abs(a - b).max():.2g}{psnr}"


def main() -> None:
    """Run the named stage."""
    name, work = sys.argv[1], Path(sys.argv[2])
    if name == "rknn_vae_encoder_512":
        rknn("vae_encoder", work, LARGE)
    elif name.startswith("rknn_"):
        rknn(name.removeprefix("rknn_"), work)
    elif name.startswith("simulate_"):
        simulate(name.removeprefix("simulate_"), work)
    else:
        {"checkpoint": checkpoint, "onnx": onnx}[name](work)


if __name__ == "__main__":
    main()

"""Processes to be killed: `python -m tests.kill.victims NAME ROOT`.

Each writes the file ROOT/ready when it begins with what is to be interrupted, and does it again and
again, or with --once a single time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from lcmcore.png import encode_png
from lcmcore.util.files import write_whole

PARTS = ("config.json", "model.onnx_data", "model.onnx")
PART_BYTES = 400_000
TOKENIZER = ("vocab.json", "merges.txt")


def ready(root: Path) -> None:
    """Say that it begins."""
    (root / "ready").touch()


def write(root: Path, number: int) -> None:
    """Replace an image."""
    pixels = np.random.default_rng(number).integers(0, 255, (200, 300, 3), np.uint8)
    record = {"Software": "lcmcore 0", "prompt": f"number {number}"}
    write_whole(root / "out" / "image.png", encode_png(Image.fromarray(pixels), record))


def stage(root: Path, number: int) -> None:
    """What `lcm build` does for a network, without the network."""
    from runtimes.staging import copy_over, read_settings, staged, write_settings

    bundle = root / "out" / "bundle"
    with staged(bundle / "unet", last=PARTS[-1]) as folder:
        for name in PARTS:
            (folder / name).write_bytes(f"{number:08}".encode() * (PART_BYTES // 8))
    for name in TOKENIZER:
        (root / "tokenizer").mkdir(exist_ok=True)
        (root / "tokenizer" / name).write_bytes(f"{number:08}".encode() * (PART_BYTES // 8))
    copy_over(root / "tokenizer", bundle / "tokenizer")
    write_settings(bundle, {**read_settings(bundle), "unet": {"build": {"number": number}}})


def cache(root: Path, number: int) -> None:
    """Open a network, whose graph is optimized into the cache, and run it."""
    from runtimes.onnx import OnnxRuntime, graph_cache

    graph_cache.MIN_BYTES = 0
    latents = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    with closing(OnnxRuntime().open("vae_decoder", root / "vae_decoder", {})) as network:
        pixels = network.run({"latent_sample": latents})["sample"]
    write_whole(root / "out" / f"{number}.sum", f"{float(np.abs(pixels).mean()):.5g}".encode())


VICTIMS: dict[str, Callable[[Path, int], None]] = {"write": write, "stage": stage, "cache": cache}


def main() -> None:
    """Run the victim of the arguments."""
    name, root, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if name == "cache":
        import onnxruntime  # noqa: F401 - before it says that it is ready
    ready(root)
    VICTIMS[name](root, number)
    while name != "cache" and "--once" not in sys.argv:
        number += 1
        VICTIMS[name](root, number)


if __name__ == "__main__":
    main()

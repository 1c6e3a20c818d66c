"""The images that board and host both generate: `python images.py FOLDER ONNX_MODEL` on the host.

The folder gets init.png and one PNG a case, by ONNX Runtime through the `lcm` command. The board
generates the same with its RKNN networks, and test_board_images.py compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

# Name -> command and arguments, but for -o, --model and --runtime; sizes are as the bundles
# were built.
CASES = {
    "img2img-256x256": [
        "img2img", "{init}", "a snowy landscape with mountains and pine trees at night",
        "--size", "256x256", "--strength", "0.75", "--steps", "4", "--seed", "7",
    ],
    "img2img-192x128": [
        "img2img", "{init}", "a meadow with a lake at sunset, watercolor",
        "--size", "192x128", "--strength", "0.5", "--seed", "11", "--latent-sampling", "sample",
    ],
    "txt2img-192x128": [
        "txt2img", "autumn hills and a cottage at dawn", "--size", "192x128", "--seed", "42",
    ],
}  # fmt: skip


def size(case: str) -> str:
    """The size in a case's name, which names the bundle too."""
    return case.rpartition("-")[2]


def arguments(case: str, folder: Path, output: Path) -> list[str]:
    """The command's arguments for a case, init image in `folder`."""
    init = str(folder / "init.png")
    return [init if word == "{init}" else word for word in CASES[case]] + ["-o", str(output)]


def init_image() -> Image.Image:
    """Sky, hills and a sun in flat colours, unlike in every direction."""
    rows, columns = np.mgrid[0:240, 0:320]
    pixels = np.empty((240, 320, 3), np.uint8)
    pixels[:] = (120, 170, 230)
    pixels[(rows - 60) ** 2 + (columns - 240) ** 2 < 900] = (250, 220, 120)
    pixels[rows > 150 - 40 * np.sin(columns / 60)] = (70, 120, 60)
    return Image.fromarray(pixels)


def main(folder: Path, model: str) -> None:
    """Generate the host's images."""
    from lcmcore.cli.main import main as lcm

    folder.mkdir(parents=True, exist_ok=True)
    init_image().save(folder / "init.png")
    for case in CASES:
        common = ["--quiet", "--model", model, "--runtime", "onnx"]
        if lcm(arguments(case, folder, folder / f"{case}.png") + common):
            raise SystemExit(f"{case} failed on the host")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

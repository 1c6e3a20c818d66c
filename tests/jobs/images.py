"""Folders of small init images, and `lcm batch` over them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

LCM = Path(sys.executable).with_name("lcm")
PROMPT = "a snowy lake at night"
BUSY = ("--size", "64x64", "--steps", "12", "--seed", "3", "--threads", "1")
QUICK = ("--size", "64x64", "--steps", "2", "--seed", "3", "--threads", "1")


def make_photos(folder, count):
    folder.mkdir()
    rows, columns = np.mgrid[0:64, 0:64]
    for number in range(count):
        pixels = np.stack([rows * 4, columns * 4, np.full((64, 64), number * 17 % 256)], axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"photo{number:02d}.png")
    return folder


def batch(*words, start=subprocess.run, **keywords):
    """Run (or with Popen: start) `lcm batch` on one thread a worker."""
    environment = {**os.environ, "COLUMNS": "80"}
    environment.pop("LCM_MODEL", None)
    return start(
        [LCM, "batch", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **keywords,
    )


def contents(folder):
    """Every file of a folder, hidden ones too, with its bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_whole(folder):
    """Nothing in the folder but images that can be read to their end."""
    for path in folder.iterdir():
        assert path.suffix == ".png" and path.name[0] != "."
        with Image.open(path) as image:
            image.load()

"""Time and memory of a large image's decoder, whole and by tiles.

    python -m benchmarks.tiled_decoder BUNDLE [--size 2048x2048] [--tile 512] [--rounds 1]

Each is a process of its own, in turn, on ONNX Runtime; a small image is decoded first, so that the
cache of graphs is written and the network is open. Prints medians: seconds, and the largest
anonymous memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import lcmcore
from lcmcore.cli.bench import AnonymousMemory
from lcmcore.util.validate import read_size


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="a large image's decoder, whole and by tiles")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--size", default="2048x2048")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("whole", "tiles"), help="for the processes")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.bundle, args.size, args.tile, args.only == "tiles")))
        return
    found: dict[str, list[list[float]]] = {"tiles": [], "whole": []}
    for _ in range(args.rounds):
        for name, figures in found.items():
            command = [sys.executable, "-m", "benchmarks.tiled_decoder", *sys.argv[1:]]
            done = subprocess.run([*command, "--only", name], stdout=subprocess.PIPE, check=True)
            figures.append(json.loads(done.stdout))
            seconds, gigabytes = (statistics.median(each) for each in zip(*figures, strict=True))
            print(f"{name}: {seconds:.1f} s, {gigabytes:.2f} GB anonymous", flush=True)


def measure(bundle: Path, size: str, tile: int, by_tiles: bool) -> list[float]:
    """Seconds of a decoding, and the largest anonymous memory in GB."""
    width, height = read_size(size)
    random = np.random.default_rng(0)
    # Not by memory="auto", which takes tiles where the whole does not fit.
    with (
        AnonymousMemory() as memory,
        lcmcore.load(bundle, "onnx", memory="low", tile=tile if by_tiles else None) as pipe,
    ):
        factor = pipe.bundle.vae.factor
        shapes = [(1, 4, 8, 8), (1, 4, height // factor, width // factor)]
        latents = [random.standard_normal(shape, np.float32) for shape in shapes]
        pipe.decode(latents[0])
        start = time.perf_counter()
        pipe.decode(latents[1])
        seconds = time.perf_counter() - start
    return [seconds, memory.peak / 1e9]


if __name__ == "__main__":
    main()

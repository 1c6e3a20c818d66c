"""What each rewrite of graphs is worth: `python -m benchmarks.rewrites BUNDLE`.

    [--size 512] [--components vae_decoder ...] [--rounds 3]

For every network and every rewrite, or part of one: the graph optimized with all rewrites, and with
all but this one, run alternately, each in a fresh process. Prints a table of medians: seconds of a
run, largest anonymous memory. The folder for temporary files needs room for two optimized graphs of
the largest network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import onnxruntime

from lcmcore.bundle import COMPONENTS
from lcmcore.cli.bench import AnonymousMemory
from runtimes.onnx.graph import Graph
from runtimes.onnx.graph_cache import GRAPH, WEIGHTS
from runtimes.onnx.network import OnnxNetwork
from runtimes.onnx.optimize import REWRITES, optimize
from runtimes.onnx.rewrites import winograd_conv
from runtimes.onnx.runtime import open_mapped

RUNS = 3  # in a process, after one that is not counted
PARTS = {  # of winograd_conv: the limit that, set to 0, turns it off
    "winograd_conv, tiles of 2x2": "_MAX_F2X2",
    "winograd_conv, after upsampling": "_MAX_UPSAMPLE",
    "winograd_conv, bands of rows": "_BANDS_BY_CHANNELS",
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="what each rewrite of graphs is worth")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--components", nargs="+", choices=COMPONENTS, default=COMPONENTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", choices=COMPONENTS, help="internal: BUNDLE is a graph to run")
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.run, args.bundle, args.size)))
        return
    print("| network | without | s, without | s | ratio | GB, without | GB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for component in args.components:
        for row in compared(component, args.bundle, args.size, args.rounds):
            print(f"| {component} | {row} |", flush=True)


def compared(component: str, bundle: Path, size: int, rounds: int) -> Iterator[str]:
    """A row for each rewrite that applies to this network."""
    source = bundle.resolve() / component / "model.onnx"
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        counts = optimize(source, whole, onnxruntime)
        for left_out in _left_out(counts):
            row = left_out.row(source, whole, size, rounds)
            if row is not None:
                yield row


class _LeftOut(NamedTuple):
    name: str
    rewrites: Sequence[Callable[[Graph], int]]  # all others
    patched: AbstractContextManager[Any] = nullcontext()

    def row(self, source: Path, whole: Path, size: int, rounds: int) -> str | None:
        """The figures; None if the graph is the same without it."""
        with tempfile.TemporaryDirectory() as name:
            without = Path(name)
            with self.patched:
                optimize(source, without, onnxruntime, self.rewrites)
            if _sizes(without) == _sizes(whole):
                return None
            pair, component = (without, whole), source.parent.name
            found = [[measured(component, each, size) for each in pair] for _ in range(rounds)]
        (before, least), (after, peak) = np.median(found, axis=0)
        ratio = after / before
        return f"{self.name} | {before:.2f} | {after:.2f} | {ratio:.2f} | {least:.2f} | {peak:.2f}"


def _sizes(folder: Path) -> list[int]:
    """To compare graphs by: ONNX Runtime may write the same nodes in another order."""
    return [(folder / name).stat().st_size for name in (GRAPH, WEIGHTS)]


def _left_out(counts: dict[str, int]) -> Iterator[_LeftOut]:
    """Each rewrite that applies, and each part of one."""
    for rewrite in REWRITES:
        if counts[rewrite.__name__]:
            yield _LeftOut(rewrite.__name__, [other for other in REWRITES if other is not rewrite])
    for name, limit in PARTS.items() if counts["winograd_conv"] else ():
        yield _LeftOut(name, REWRITES, patch.object(winograd_conv, limit, 0))


def measured(component: str, folder: Path, size: int) -> tuple[float, float]:
    """Seconds of a run and gigabytes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rewrites", str(folder / GRAPH)]
    options = ["--run", component, "--size", str(size)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    seconds, gigabytes = json.loads(done.stdout)
    return seconds, gigabytes


def run(component: str, graph: Path, size: int) -> tuple[float, float]:
    """Median seconds of a run, and the largest anonymous memory in GB."""
    random = np.random.default_rng(0)
    latents = (1, 4, size // 8, size // 8)
    shapes = {
        "sample": (1, 3, size, size) if component == "vae_encoder" else latents,
        "latent_sample": latents,
        "encoder_hidden_states": (1, 77, 768),
        "timestep_cond": (1, 256),
    }
    numbers = {"input_ids": np.full((1, 77), 320), "timestep": np.array([499])}
    with AnonymousMemory() as memory:
        network = OnnxNetwork(component, open_mapped(onnxruntime, graph))
        names = [spec.name for spec in network.inputs]
        feed = {
            name: random.standard_normal(shapes[name], np.float32)
            for name in names
            if name in shapes
        } | {name: numbers[name] for name in names if name in numbers}
        seconds = []
        for _ in range(1 + RUNS):
            start = time.perf_counter()
            network.run(feed)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), memory.peak / 1e9


if __name__ == "__main__":
    main()

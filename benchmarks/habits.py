"""What each of lcmcore's habits is worth in a whole image: `python -m benchmarks.habits BUNDLE`.

    [--size 256] [--rounds 3]

For each habit: img2img of 4 runs of the UNet with everything, and with this one left out, in turn,
each in a fresh process. Prints a table of medians: seconds from the start of the process to the
first image, seconds of one more with another seed, peak resident and largest anonymous memory,
as "without / with". What is done to graphs is in `benchmarks.rewrites`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
from PIL import Image

import lcmcore
from lcmcore.cli.bench import AnonymousMemory
from lcmcore.encoder_cache import EncoderCache
from lcmcore.residency import KeepLoaded
from lcmcore.util.memory import peak_resident_bytes
from runtimes.onnx import OnnxRuntime, arena
from runtimes.onnx.network import OnnxNetwork

STEPS = 4


def main() -> None:
    """Run the command line."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description="what each habit is worth")
    parser.add_argument("bundle", type=Path, nargs="?", default=lcmcore.demo_dir())
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", choices=HABITS, help="for the processes")
    parser.add_argument("--started", type=float, default=start, help="for the processes")
    args = parser.parse_args()
    if args.without:
        print(json.dumps(run(args.without, args.bundle, args.size, args.started)))
        return
    print("| without | first s | another seed s | resident GB | anonymous GB |")
    print("| --- | --- | --- | --- | --- |")
    measured("nothing", args.bundle, args.size)  # the cache of graphs is written
    for habit in HABITS:
        if habit != "nothing":
            print(f"| {habit} | {compared(habit, args)} |", flush=True)


def compared(habit: str, args: argparse.Namespace) -> str:
    """The figures of one habit."""
    both = (habit, "nothing")
    found = [[measured(each, args.bundle, args.size) for each in both] for _ in range(args.rounds)]
    pairs = np.median(found, axis=0).T
    return " | ".join(f"{without:.2f} / {whole:.2f}" for without, whole in pairs)


def measured(without: str, bundle: Path, size: int) -> list[float]:
    """The four figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.habits", str(bundle), "--size", str(size)]
    command += ["--without", without, "--started", str(time.monotonic())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run(without: str, bundle: Path, size: int, started: float) -> list[float]:
    """Generate an image, and one more."""
    options = HABITS[without]() or {}
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    )
    with AnonymousMemory() as memory, lcmcore.load(bundle, **options) as pipe:
        pipe("a lake", image, strength=1.0, num_inference_steps=STEPS, seed=0)
        first = time.monotonic() - started
        start = time.perf_counter()
        pipe("a lake", image, strength=1.0, num_inference_steps=STEPS, seed=1)
        again = time.perf_counter() - start
    return [first, again, peak_resident_bytes() / 1e9, memory.peak / 1e9]


def replace(owner: Any, name: str, by: Any) -> None:
    """For the rest of the process; raises AttributeError if there is nothing of that name."""
    mock.patch.object(owner, name, by).start()


def without_cache() -> dict[str, Any]:
    """Each process has ONNX Runtime optimize graphs anew, and holds a copy of the weights."""
    return {"graph_cache": False}


def without_encoder_cache() -> None:
    """Encoders run for each image."""
    replace(EncoderCache, "get", lambda self, component, inputs, encode: encode())


def without_opening_ahead() -> None:
    """A network is opened when its turn has come."""
    replace(KeepLoaded, "prefetch", lambda self, components: None)


def without_trim() -> None:
    """Weights of networks that are not at work stay."""
    del OnnxNetwork.trim


def without_shared_arena() -> None:
    """Each session has an arena of its own, which it keeps."""
    replace(arena, "use_shared_arena", lambda ort, options: None)
    del OnnxRuntime.release_memory


def with_waiting_threads() -> None:
    """Threads wait for work at full speed."""
    ask = onnxruntime.SessionOptions.add_session_config_entry

    def without_stop(self: Any, key: str, value: str) -> None:
        if key != "session.force_spinning_stop":
            ask(self, key, value)

    replace(onnxruntime.SessionOptions, "add_session_config_entry", without_stop)


HABITS: dict[str, Callable[[], dict[str, Any] | None]] = {
    "nothing": dict,
    "graphs kept in a cache": without_cache,
    "results of encoders kept": without_encoder_cache,
    "networks opened ahead": without_opening_ahead,
    "weights at rest given back": without_trim,
    "one arena for all networks": without_shared_arena,
    "threads that stop after a run": with_waiting_threads,
}


if __name__ == "__main__":
    main()

"""`lcm build onnx` of a full-size checkpoint in one file: time, memory, and what it computes.

    .venv-build/bin/python -m benchmarks.export WORK [--half] [--v2] [--lora] [--precision float16]

WORK is a folder with 15 GB of free space, where files are kept for the next run. The checkpoint is
of random weights, with the names and shapes of Stable Diffusion 1.5 or, --v2, of 2.1; --half: its
weights are float16. --lora merges an LCM-LoRA and three others. What the exported networks compute
is compared with diffusers' from_single_file and fuse_lora, by processes of their own. Exits with
status 1 where the export took more than MOST_GIGABYTES, or a network differs by more than
TOLERANCE of the largest value. It takes a quarter of an hour on 2 cores, and 10 GB for diffusers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.export.files import CHECKPOINT, CONFIGS, LORAS
from benchmarks.processes import Ended, run
from lcmcore.bundle import COMPONENTS

MOST_GIGABYTES = 8
TOLERANCE = {"float32": 1e-5, "float16": 1e-2}
_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Print a Markdown table of one line."""
    parser = argparse.ArgumentParser(description="a full-size export: memory, and what it computes")
    parser.add_argument("work", type=Path)
    for option in ("--half", "--v2", "--tiny", "--lora"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--precision", choices=tuple(TOLERANCE), default="float32")
    args = parser.parse_args()
    kind = [word for word in ("half", "v2", "tiny") if getattr(args, word)]
    work = args.work.resolve() / "-".join(["checkpoint", *kind])
    work.mkdir(parents=True, exist_ok=True)
    if not (work / LORAS[-1].name).exists():  # the last one to be written
        _python("benchmarks.export.files", work, *(f"--{word}" for word in kind))
    seconds, ended = _export(work, args)
    apart = _differences(work, args.lora)
    name = " ".join([*kind, *(["with LoRAs"] if args.lora else []), args.precision])
    size = sum(path.stat().st_size for path in (work / "onnx").rglob("*") if path.is_file()) / 1e9
    print("| checkpoint | seconds | peak GB | GB on disk |", " | ".join(COMPONENTS), "|")
    print("|---" * (4 + len(COMPONENTS)) + "|")
    figures = " | ".join(f"{apart[component]:.1e}" for component in COMPONENTS)
    print(f"| {name} | {seconds:.0f} | {ended.gigabytes:.1f} | {size:.1f} | {figures} |")
    same = all(each <= TOLERANCE[args.precision] for each in apart.values())
    raise SystemExit(not (same and ended.gigabytes <= MOST_GIGABYTES))


def _export(work: Path, args: argparse.Namespace) -> tuple[float, Ended]:
    """Run the command; returns its seconds, and how it ended."""
    for folder in (work / "onnx", work / "cache"):
        shutil.rmtree(folder, ignore_errors=True)
    os.environ["LCM_CACHE"] = str(work / "cache")
    words = ["build", "onnx", work / CHECKPOINT, work / "onnx", "--precision", args.precision]
    if args.tiny:
        words += ["--config-from", work / CONFIGS]
    for lora in LORAS if args.lora else ():
        words += ["--lora", f"{work / lora.name}:{lora.scale}"]
    start = time.perf_counter()
    ended = _python("lcmcore.cli.main", *words)
    return time.perf_counter() - start, ended


def _differences(work: Path, loras: bool) -> dict[str, float]:
    """Of the exported networks from diffusers', relative to the largest value."""
    options = ["--lora"] if loras else []
    _python("benchmarks.export.outputs", "diffusers", work, work / "diffusers.npz", *options)
    _python("benchmarks.export.outputs", "exported", work / "onnx", work / "exported.npz")
    with np.load(work / "diffusers.npz") as want, np.load(work / "exported.npz") as got:
        return {
            name: float(np.abs(got[name] - want[name]).max() / np.abs(want[name]).max())
            for name in COMPONENTS
        }


def _python(module: str, *words: object) -> Ended:
    ended = run([sys.executable, "-m", module, *map(str, words)], _ROOT)
    if ended.status:
        raise SystemExit(f"{module} failed with status {ended.status}")
    return ended


if __name__ == "__main__":
    main()

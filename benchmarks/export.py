"""What `lcm build onnx` takes for a full-size checkpoint in one file: time and memory.

    .venv-build/bin/python -m benchmarks.export WORK [--half] [--precision float16]

WORK is a folder with 15 GB of free space. The file, of random weights with the names and shapes of
Stable Diffusion 1.5, is made by the tests' script; --half makes one of float16. Exits with status 1
where a process took more than MOST_GIGABYTES. It takes ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.processes import run

MOST_GIGABYTES = 8
_ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print a line of Markdown."""
    parser = argparse.ArgumentParser(description="memory of a full-size export")
    parser.add_argument("work", type=Path)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    file = work / ("half.safetensors" if args.half else "full.safetensors")
    if not file.exists():
        words = ["--half"] if args.half else []
        run([sys.executable, "-m", "tests.onnx.exporter.original", str(file), *words], _ROOT)
    out = work / f"{file.stem}-{args.precision}"
    os.environ["LCM_CACHE"] = str(work / "cache")
    words = ["build", "onnx", str(file), str(out), "--precision", args.precision]
    start = time.perf_counter()
    ended = run([str(Path(sys.executable).with_name("lcm")), *words], _ROOT)
    seconds = time.perf_counter() - start
    if ended.status:
        raise SystemExit(f"the export failed with status {ended.status}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"| {file.name} to {args.precision} | {seconds:.0f} | {ended.gigabytes:.1f} |"
        f" {size / 1e9:.1f} GB |"
    )
    raise SystemExit(ended.gigabytes > MOST_GIGABYTES)


if __name__ == "__main__":
    main()

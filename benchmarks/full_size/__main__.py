"""Run the stages of `stages.py`, each in its own process, and print time and memory of each.

    python -m benchmarks.full_size --build-python .venv-build/bin/python \
        --rknn-python .venv-rknn/bin/python WORK

WORK is a folder with 20 GB of free space. It takes half an hour on 2 cores, and 12 GB of memory.
Stages that have a file in WORK/done are not run again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.processes import run

ROOT = Path(__file__).parents[2]
STAGES = (  # name, whether it needs torch and diffusers (else rknn-toolkit2)
    ("checkpoint", True),
    ("onnx", True),
    ("rknn_text_encoder", False),
    ("rknn_vae_encoder", False),
    ("rknn_vae_encoder_512", False),
    ("rknn_vae_decoder", False),
    ("rknn_unet", False),
    ("simulate_text_encoder", False),
    ("simulate_vae_encoder", False),
    ("simulate_unet", False),
    ("simulate_vae_decoder", False),
)


def main() -> None:
    """Print a Markdown table with a line for each stage."""
    parser = argparse.ArgumentParser(description="full-size benchmark of the NPU path")
    parser.add_argument("work", type=Path)
    parser.add_argument("--build-python", required=True, metavar="PYTHON")
    parser.add_argument("--rknn-python", required=True, metavar="PYTHON")
    args = parser.parse_args()
    done = args.work / "done"
    done.mkdir(parents=True, exist_ok=True)
    print("| stage | seconds | peak of one process, GB | result |\n|---|---|---|---|")
    for stage, by_torch in STAGES:
        record = done / f"{stage}.md"
        if not record.exists():
            python = args.build_python if by_torch else args.rknn_python
            record.write_text(measured(python, stage, args.work), encoding="utf-8")
        print(record.read_text(encoding="utf-8"), flush=True)


def measured(python: str, stage: str, work: Path) -> str:
    """Run a stage and return its line of the table."""
    command = [python, "-m", "benchmarks.full_size.stages", stage, str(work.resolve())]
    start = time.perf_counter()
    ended = run(command, ROOT)
    if ended.status:
        raise SystemExit(f"{stage} failed with status {ended.status}")
    seconds = time.perf_counter() - start
    name, result = stage.replace("_", " "), ended.output.strip()
    return f"| {name} | {seconds:.0f} | {ended.gigabytes:.1f} | {result} |"


if __name__ == "__main__":
    main()

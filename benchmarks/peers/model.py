"""The model of all contestants, created once in the working folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .environments import ROOT, python, vocabulary_folder


def set_up(work: Path) -> None:
    """`checkpoint` in diffusers' layout, and `bundle`, which optimum exports from it."""
    _make(work, "checkpoint")
    _make(work, "export", "checkpoint", "bundle")


def _make(work: Path, stage: str, *folders: str) -> None:
    """Run a stage; its output is renamed to its final name when it is complete."""
    *sources, target = folders or (stage,)
    if (work / target).exists():
        return
    print(f"making the {target}", file=sys.stderr)
    unfinished = work / f"{target}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [python(work, "optimum"), "-m", f"benchmarks.peers.{stage}"]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(vocabulary_folder(work)),
    }
    paths = [*(work / source for source in sources), unfinished]
    subprocess.run([*command, *paths], cwd=ROOT, env=environment, check=True)
    unfinished.rename(work / target)

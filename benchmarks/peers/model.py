"""The model of all contestants, created once in the working folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .environments import ROOT, python, vocabulary_folder


def set_up(work: Path) -> None:
    """`checkpoint` in diffusers' layout, `bundle`, which optimum exports from it, and `genai`."""
    _make(work, "checkpoint")
    _make(work, "export", "checkpoint", "bundle")
    _make(work, "genai_export", "bundle", "genai", environment="genai")


def _make(work: Path, stage: str, *folders: str, environment: str = "optimum") -> None:
    """Run a stage; its output is renamed to its final name when it is complete."""
    *sources, target = folders or (stage,)
    if (work / target).exists():
        return
    print(f"making the {target}", file=sys.stderr)
    unfinished = work / f"{target}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [python(work, environment), "-m", f"benchmarks.peers.{stage}"]
    variables = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(vocabulary_folder(work)),
    }
    paths = [*(work / source for source in sources), unfinished]
    subprocess.run([*command, *paths], cwd=ROOT, env=variables, check=True)
    unfinished.rename(work / target)

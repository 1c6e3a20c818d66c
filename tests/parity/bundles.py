"""Bundles put together from the tiny networks in tests/tiny."""

import shutil
from pathlib import Path

from .goldens import TESTS

TINY = TESTS / "tiny"


def assemble(name: str, folder: Path) -> Path:
    """`lcm`, whole, or the one that differs from it in what lies in the folder of that name."""
    shutil.copytree(TINY / "lcm", folder, dirs_exist_ok=True)
    shutil.copytree(TINY / name, folder, dirs_exist_ok=True)
    return folder

"""Commands in processes of their own, and the memory that they take."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """What a process left."""

    status: int
    output: str  # its standard output
    gigabytes: float  # the peak of the largest of it and its children


def run(command: Sequence[str], folder: Path | None = None) -> Ended:
    """Run a command to its end; Linux, where `ru_maxrss` is in KiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, output, usage.ru_maxrss * 1024 / 1e9)

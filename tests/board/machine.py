"""What a test finds on the emulated board, and how it calls the `lcm` command there."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

MODELS = Path("/srv/lcmcore/models")  # bundles of RKNN networks, a folder a size
HOST = Path("/srv/lcmcore/host")  # init.png and the host's images
HERE = platform.machine() == "aarch64" and MODELS.is_dir()


def lcm(*arguments: str | Path, board: str = "rk3588") -> subprocess.CompletedProcess[str]:
    """Run `lcm` on one of the boards that run.sh made, or on "none"."""
    return subprocess.run(
        ["/usr/bin/env", f"QEMU_LD_PREFIX=/boards/{board}", "lcm", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

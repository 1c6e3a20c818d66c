"""How light the core is: `make bench`.

Three figures, each a ratio or a size that does not depend on how fast the machine is:
import time beside that of numpy and Pillow, the share of an img2img of the demo model that is spent
outside its networks, and the installed size without the demo model.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import lcmcore
from lcmcore.cli.bench import measure

IMPORTS = 15
CALLS = 15


def import_seconds(modules: str) -> float:
    """Seconds that an import takes in a fresh interpreter, compiled as pip leaves a package."""
    code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    return float(printed)


def import_ratio() -> float:
    """Import time of lcmcore over that of numpy and Pillow; medians, interleaved."""
    import_seconds("lcmcore")  # writes the bytecode that is missing
    pairs = [
        (import_seconds("lcmcore"), import_seconds("numpy, PIL.Image")) for _ in range(IMPORTS)
    ]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours / theirs


def outside_share() -> float:
    """Share of an img2img of the demo model that no network takes; the median."""
    with lcmcore.load(lcmcore.demo_dir(), runtime="onnx", memory="high") as pipe:
        rounds = [*measure(pipe, CALLS)][1:]  # the first opened the networks
    return statistics.median(each.outside / each.total for each in rounds)


def installed_kilobytes(package: str, *others: str) -> float:
    """Size of an installed package, or folder of one, without folders named `others`, in kB.

    Neither the demo model nor CLIP's vocabulary counts.
    """
    root = Path(lcmcore.__file__).parents[1] / package
    files = [
        path
        for path in root.rglob("*")
        if path.is_file()
        and not {"__pycache__", "demo", "clip", *others} & set(path.relative_to(root).parts)
    ]
    return sum(path.stat().st_size for path in files) / 1000


def main() -> None:
    """Print each figure beside its limit."""
    print(f"import lcmcore / import numpy, PIL.Image   {import_ratio():.2f}   (at most 1.2)")
    print(f"img2img outside the networks               {outside_share():.2%}  (at most 3 %)")
    core, runtimes = installed_kilobytes("lcmcore", "server"), installed_kilobytes("runtimes")
    print(f"the core, lcmcore, without the demo model  {core:.0f} kB (under 500)")
    print(
        f"the server, with its page                  {installed_kilobytes('lcmcore/server'):.0f} kB"
    )
    print(f"the runtimes, with what builds models      {runtimes:.0f} kB")


if __name__ == "__main__":
    main()

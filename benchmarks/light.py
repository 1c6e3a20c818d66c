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
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lcmcore
from lcmcore.runtime import Array, Network
from runtimes.onnx import OnnxRuntime

IMPORTS = 15
CALLS = 15
INIT = Path(__file__).parents[1] / "docs" / "pictures" / "scribble.png"


class TimedRuntime(OnnxRuntime):
    """ONNX Runtime, adding up the seconds inside its networks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        """A network whose runs are timed."""
        network = super().open(component, folder, options)
        run = network.run

        def timed(inputs: Mapping[str, Array]) -> dict[str, Array]:
            start = time.perf_counter()
            outputs = run(inputs)
            self.seconds += time.perf_counter() - start
            return outputs

        network.run = timed  # type: ignore[method-assign]
        return network


def import_seconds(modules: str) -> float:
    """Seconds that an import takes in a fresh interpreter, compiled as pip leaves a package."""
    code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    return float(told)


def import_ratio() -> float:
    """Import time of lcmcore over that of numpy and Pillow; medians, interleaved."""
    import_seconds("lcmcore")  # writes the bytecode that is missing
    pairs = [
        (import_seconds("lcmcore"), import_seconds("numpy, PIL.Image")) for _ in range(IMPORTS)
    ]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours / theirs


def outside_share() -> float:
    """Share of an img2img of the demo model, image to image, that no network takes; the median."""
    runtime = TimedRuntime()
    shares = []
    with lcmcore.load(lcmcore.demo_dir(), runtime=runtime) as pipe:
        for seed in range(CALLS + 1):
            runtime.seconds = 0.0
            start = time.perf_counter()
            pipe("a snowy landscape at night", INIT, seed=seed)
            shares.append(1 - runtime.seconds / (time.perf_counter() - start))
    return statistics.median(shares[1:])  # the first opened the networks


def installed_kilobytes() -> float:
    """Size of the packages lcmcore and runtimes without the demo model, in kB."""
    root = Path(lcmcore.__file__).parents[1]
    files = [
        path
        for package in ("lcmcore", "runtimes")
        for path in (root / package).rglob("*")
        if path.is_file() and not {"__pycache__", "demo"} & set(path.relative_to(root).parts)
    ]
    return sum(path.stat().st_size for path in files) / 1000


def main() -> None:
    """Print each figure beside its limit."""
    print(f"import lcmcore / import numpy, PIL.Image   {import_ratio():.2f}   (at most 1.3)")
    print(f"img2img outside the networks               {outside_share():.2%}  (under 5 %)")
    print(f"installed without the demo model           {installed_kilobytes():.0f} kB (under 300)")


if __name__ == "__main__":
    main()

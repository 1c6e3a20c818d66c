"""Memory over many runs; a leak of 42 kB a run in RKNNLite was reported by its users."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lcmcore.runtime import find_runtime
from tests.board.machine import MODELS

RUNS = 200
ALLOWED = 2 * 2**20  # a tenth of a kB a run is noise; the reported leak would come to 8.4 MB


def resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_200_runs_do_not_grow() -> None:
    network = find_runtime("rknn").open("unet", MODELS / "192x128" / "unet", {})
    rng = np.random.default_rng(0)
    inputs = {
        spec.name: rng.standard_normal([dim or 1 for dim in spec.shape]).astype(np.float32)
        for spec in network.inputs
    }
    inputs["timestep"] = np.array([499], np.int64)
    for _ in range(20):  # buffers and caches are filled by then
        network.run(inputs)
    before = resident()
    for _ in range(RUNS):
        network.run(inputs)
    grown = resident() - before
    network.close()
    print(f"{grown / 1024:.0f} kB in {RUNS} runs")
    assert grown < ALLOWED

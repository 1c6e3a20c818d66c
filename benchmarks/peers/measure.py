"""Time and memory of a contestant, measured in its own process: `python -m peers.measure JOB`.

JOB and the output are JSON. Only the standard library is imported before the contestant's module,
the time of whose import is the first figure.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .call import PROMPTS, SEED, STEPS, Generate


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of import, loading, first and warm images; versions; memory as the kernel reports it.

    `first` counts from `started`, when the parent began the process, on the system's clock.
    """
    start = time.monotonic()
    contestant = importlib.import_module(f"peers.{job['module']}")
    imported = time.monotonic()
    generate = getattr(contestant, job["load"])(Path(job["work"]), job["options"])
    loaded = time.monotonic()
    result = {"import": imported - start, "load": loaded - imported}
    if job["images"]:
        result |= _measure_images(generate, job)
    return {
        **result,
        "versions": {name: version(name) for name in contestant.PACKAGES},
        "resident": _status("VmHWM"),
        "read": _read_bytes(),
    }


def _measure_images(generate: Generate, job: dict[str, Any]) -> dict[str, Any]:
    images = job["images"]
    image = _generated(generate, PROMPTS[0], images[0], SEED)
    first = time.monotonic() - job["started"]
    pairs = list(zip(PROMPTS, images, strict=True))[1 : 1 + job["warm"]]
    another_seed = [
        _seconds(generate, PROMPTS[0], images[0], SEED + count)
        for count in range(1, 1 + len(pairs))
    ]
    another_prompt = [_seconds(generate, prompt, image, SEED) for prompt, image in pairs]
    _save(image, Path(job["output"]))
    return {
        "first": first,
        "another seed": statistics.median(another_seed),
        "another prompt and image": statistics.median(another_prompt),
    }


def _seconds(generate: Generate, prompt: str, image: str, seed: int) -> float:
    start = time.monotonic()
    _generated(generate, prompt, image, seed)
    return time.monotonic() - start


def _generated(generate: Generate, prompt: str, image: str, seed: int) -> Any:
    result, unet_runs = generate(prompt, image, seed)
    if unet_runs != STEPS:
        raise SystemExit(f"the UNet ran {unet_runs} times, not {STEPS}")
    return result


def _save(image: Any, path: Path) -> None:
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, image)


def _status(field: str) -> float:
    """A field of /proc/self/status, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[field].split()[0]) * 1024 / 1e9


def _read_bytes() -> float:
    """GB that this process read from the disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"]) / 1e9


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))

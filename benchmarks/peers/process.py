"""A new process for each measurement, whose memory is sampled from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcmcore.util.memory import anonymous_bytes

from .contestants import Contestant
from .environments import ROOT, python

_POLL_SECONDS = 0.05  # between samples of the memory


class ProcessDiedError(Exception):
    """The process exited without a result."""

    def __init__(self, status: int, stderr: str) -> None:
        last_line = stderr.splitlines()[-1:] or [""]
        how = f"killed by signal {-status}" if status < 0 else f"exited with status {status}"
        super().__init__(f"{how} {last_line[0]}".strip())


def images_of(
    work: Path,
    contestant: Contestant,
    images: Sequence[Path],
    warm: int,
    wrapper: Sequence[str] = (),
) -> dict[str, Any]:
    """The result of `measure`, and `anonymous`, its peak anonymous memory in GB.

    The init images have one size; `warm` images of each kind follow the first. `wrapper` is a
    command that executes the command after it. Raises ProcessDiedError.
    """
    output = image_path(work, contestant, images[0])
    job = {"load": "load", "images": list(map(str, images)), "warm": warm, "output": str(output)}
    return _run(work, contestant, job, wrapper)


def seconds_to_open_all(work: Path, contestant: Contestant) -> float:
    """Seconds of loading until all networks are open, of a contestant that opens them late."""
    return float(_run(work, contestant, {"load": "open_all", "images": []})["load"])


def image_path(work: Path, contestant: Contestant, image: Path) -> Path:
    """The file of the first image that was generated from an init image."""
    return work / "results" / f"{contestant.name} {image.stem}.npy"


def cache_folder(work: Path) -> Path:
    """The graph cache of the measured processes, apart from the user's own."""
    return work / "cache"


def _run(
    work: Path, contestant: Contestant, job: dict[str, Any], wrapper: Sequence[str] = ()
) -> dict[str, Any]:
    if contestant.first_use:
        shutil.rmtree(cache_folder(work) / "onnx", ignore_errors=True)  # not OpenVINO's
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "LCM_CACHE": str(cache_folder(work)),
    }
    job |= {
        "module": contestant.module,
        "options": contestant.options,
        "work": str(work),
        "started": time.monotonic(),
    }
    command = [*wrapper, str(python(work, contestant.environment)), "-m", "peers.measure"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, json.dumps(job)],
            cwd=ROOT / "benchmarks",
            env=environment,
            stdout=out,
            stderr=errors,
        )
        anonymous = _largest_anonymous(process)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise ProcessDiedError(process.returncode, errors.read().strip())
        result = json.loads(out.read().splitlines()[-1])
    return {**result, "anonymous": anonymous}


def _largest_anonymous(process: subprocess.Popen[bytes]) -> float:
    """Wait for the process to exit; its peak anonymous memory, in GB.

    Sampling takes time from the networks, so samples are few and short: reading /proc/PID/status
    every 10 ms slowed lcmcore down by 4 %.
    """
    largest = 0
    while process.poll() is None:
        largest = max(largest, anonymous_bytes(process.pid))
        time.sleep(_POLL_SECONDS)
    return largest / 1e9

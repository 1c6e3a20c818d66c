"""A fresh process for each measurement, watched from outside."""

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

_POLL_SECONDS = 0.05  # seconds between looks at the memory


class ProcessDiedError(Exception):
    """The process ended without a result."""

    def __init__(self, status: int, said: str) -> None:
        complaint = said.splitlines()[-1:] or [""]
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        super().__init__(f"{how} {complaint[0]}".strip())


def pictures(
    work: Path,
    contestant: Contestant,
    images: Sequence[Path],
    warm: int,
    wrapper: Sequence[str] = (),
) -> dict[str, Any]:
    """What `measure` says of it, and `anonymous`, its largest anonymous memory in GB.

    The images are of one size; `warm` pictures of each kind follow the first. `wrapper` is a
    command that ends by running another. Raises ProcessDiedError.
    """
    picture = picture_path(work, contestant, images[0])
    job = {"load": "load", "images": list(map(str, images)), "warm": warm, "picture": str(picture)}
    return _run(work, contestant, job, wrapper)


def seconds_to_open_all(work: Path, contestant: Contestant) -> float:
    """Loading, of a contestant that opens its networks late, until all are open."""
    return float(_run(work, contestant, {"load": "open_all", "images": []})["load"])


def picture_path(work: Path, contestant: Contestant, image: Path) -> Path:
    """Where the first picture made from an image is kept."""
    return work / "pictures" / f"{contestant.name} {image.stem}.npy"


def cache_folder(work: Path) -> Path:
    """Where the measured processes keep graphs; that of the machine's user is left alone."""
    return work / "cache"


def _run(
    work: Path, contestant: Contestant, job: dict[str, Any], wrapper: Sequence[str] = ()
) -> dict[str, Any]:
    if contestant.first_use:
        shutil.rmtree(cache_folder(work), ignore_errors=True)
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
    """Wait for the end; its anonymous memory at its largest, in GB.

    A look takes a core from the networks that are measured, so looks are few and short: at `status`
    every 10 ms they made a picture of lcmcore's 4 % slower.
    """
    largest = 0
    while process.poll() is None:
        largest = max(largest, anonymous_bytes(process.pid))
        time.sleep(_POLL_SECONDS)
    return largest / 1e9

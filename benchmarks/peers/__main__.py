"""Compare lcmcore with diffusers, optimum, OpenVINO GenAI and stable-diffusion.cpp: `make peers`.

    python -m benchmarks.peers --dir DIR [--rounds N] [--sizes 256 512] [--only NAME ...]
    python -m benchmarks.peers --dir DIR --within GB

DIR gets the environments, the model and the record (record.json, record.md), 30 GB in all; what is
there already is reused. Linux only. With --within, lcmcore alone, in a cgroup of that much memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import environments, init_images, limited, model, record
from .call import WARM
from .contestants import CONTESTANTS, LCMCORE, WITH_OPENVINO, Contestant
from .pixels import difference
from .process import image_path, images_of, seconds_to_open_all

PAUSE_SECONDS = 10  # for the kernel to finish work left by the last process and the reading


def main() -> None:
    """Set up, measure, and print the page."""
    parser = argparse.ArgumentParser(description="lcmcore compared with its peers")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument(
        "--within", type=float, metavar="GB", help="lcmcore alone, in so much memory"
    )
    args = parser.parse_args()
    work = args.dir.resolve()
    work.mkdir(parents=True, exist_ok=True)
    environments.set_up(work)
    model.set_up(work)
    if args.within:
        print(limited.measure(work, args.within, args.sizes))
    else:
        named = [CONTESTANTS[name] for name in args.only]
        contestants = [each for each in named if environments.is_made(work, each.environment)]
        print(compared(work, contestants, args.sizes, args.rounds))


def compared(
    work: Path, contestants: Sequence[Contestant], sizes: Sequence[int], rounds: int
) -> str:
    """Measure the contestants in turn, save the record, and return it as a page."""
    images = {size: init_images.make(work, size) for size in sizes}
    for each in (LCMCORE, *(each for each in contestants if each in WITH_OPENVINO)):
        seconds_to_open_all(work, each)  # fills its cache, as the first use does
    found: dict[str, Any] = {"machine": machine(), "sizes": sizes, "results": []}
    for done in range(1, rounds + 1):
        order = contestants[:: 1 if done % 2 else -1]  # so that none always follows the same other
        found["results"] += [
            measured(work, contestant, size, images[size])
            for size in sizes
            for contestant in order
            if not contestant.slow or size == min(sizes)
        ]
        found |= compared_images(work, contestants, images) | {"rounds": done}
        record.save(work, "record", found, record.page(found))  # in case it is stopped
    return record.page(found)


def compared_images(
    work: Path, contestants: Sequence[Contestant], images: Mapping[int, Sequence[Path]]
) -> dict[str, Any]:
    """What does not depend on time: differences of the images, sizes of the installations."""
    used = dict.fromkeys(contestant.environment for contestant in contestants)
    return {
        "pixels": [
            {"size": size, **apart}
            for size, paths in images.items()
            for apart in differences(work, contestants, paths[0])
        ],
        "installed": {name: environments.installed_gigabytes(work, name) for name in used},
    }


def measured(
    work: Path, contestant: Contestant, size: int, images: Sequence[Path]
) -> dict[str, Any]:
    """One contestant once, with the load average before it, which shows other load."""
    print(f"{contestant.name} at {size}x{size}", file=sys.stderr)
    into_page_cache(work / contestant.reads)
    time.sleep(PAUSE_SECONDS)
    before = os.getloadavg()[0]
    result = images_of(work, contestant, images, 1 if contestant.slow else WARM)
    if contestant.opens_late:
        result["load"] = seconds_to_open_all(work, contestant)
    return {"contestant": contestant.name, "size": size, "load_average": before, **result}


def into_page_cache(folder: Path) -> None:
    """Read all files in the folder, so that no contestant waits for the disk.

    Raises SystemExit if there is no such folder: another one's files would be read from the disk.
    """
    if not folder.is_dir():
        raise SystemExit(f"{folder} is to be read before a process, and is not there")
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(2**24):
                    pass


def differences(work: Path, contestants: Sequence[Contestant], image: Path) -> list[dict[str, Any]]:
    """The differences of the others' images from lcmcore's."""
    if LCMCORE not in contestants:
        return []
    ours = np.load(image_path(work, LCMCORE, image))
    return [
        {
            "ours": LCMCORE.name,
            "other": other.name,
            **difference(ours, np.load(image_path(work, other, image))),
        }
        for other in contestants
        if other is not LCMCORE and not other.own_noise
    ]


def machine() -> dict[str, Any]:
    """The machine that is measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": pages / 1e9,
        "system": f"Linux {platform.release()}",
    }


if __name__ == "__main__":
    main()

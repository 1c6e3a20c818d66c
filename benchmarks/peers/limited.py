"""lcmcore in less memory than its weights need."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import cgroup, init_images, record
from .contestants import FIRST_USE, LCMCORE, LOW, NO_CACHE, Contestant
from .process import ProcessDiedError, cache_folder, images_of, seconds_to_open_all

_FIGURES = {
    "first": "first s",
    "another prompt and image": "warm, another prompt and image s",
    "resident": "peak resident GB",
    "anonymous": "peak anonymous GB",
    "read": "read from disk GB",
    "held": "peak of the cgroup GB",
}


def measure(work: Path, gigabytes: float, sizes: Sequence[int]) -> str:
    """Measure in a cgroup of that much memory, each row once, save, and return the page.

    The graph cache is filled outside the cgroup, except in the row of the first use.
    """
    seconds_to_open_all(work, LCMCORE)
    rows = []
    for size in sizes:
        images = init_images.make(work, size)
        for contestant in (LCMCORE, LOW, NO_CACHE, FIRST_USE):
            print(f"{contestant.name} at {size}x{size} in {gigabytes} GB", file=sys.stderr)
            rows.append({"size": size, **_measured(work, contestant, images, gigabytes)})
    page = _page(rows, gigabytes)
    record.save(work, "within", {"gigabytes": gigabytes, "results": rows}, page)
    return page


def _measured(
    work: Path, contestant: Contestant, images: Sequence[Path], gigabytes: float
) -> dict[str, Any]:
    cgroup.drop_page_cache([work / "bundle", cache_folder(work)])
    with cgroup.limited(gigabytes) as group:
        try:
            result = images_of(work, contestant, images, 1, group.wrapper)
        except ProcessDiedError as error:
            result = {"died": str(error)}
        return {"contestant": contestant.name, "held": group.peak, **result}


def _page(rows: Sequence[dict[str, Any]], gigabytes: float) -> str:
    table = record.table_of(
        ["", "", *_FIGURES.values()],
        [
            [
                f"{row['size']}x{row['size']}",
                row["contestant"],
                *(f"{row[name]:.2f}" if row.get(name) is not None else "-" for name in _FIGURES),
            ]
            for row in rows
        ],
    )
    failures = [f"{row['contestant']}: {row['died']}" for row in rows if "died" in row]
    return "\n\n".join([f"## Within {gigabytes} GB, page cache included", table, *failures]) + "\n"

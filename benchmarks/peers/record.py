"""The record of the measurements: raw results in; medians and ratios out, as JSON and Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from .targets import TARGETS, Target

Medians: TypeAlias = "dict[tuple[int, str], dict[str, float]]"
"""Figures by size and contestant."""

FIGURES = {  # of the table: name in a result -> heading
    "import": "import s",
    "load": "load s",
    "first": "first s",
    "another seed": "warm, another seed s",
    "another prompt and image": "warm, another prompt and image s",
    "resident": "peak resident GB",
    "anonymous": "peak anonymous GB",
}


def medians(results: Iterable[Mapping[str, Any]]) -> Medians:
    """Medians over the rounds; a result has a size, a contestant, and figures."""
    gathered: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for result in results:
        gathered.setdefault((result["size"], result["contestant"]), []).append(result)
    return {
        row: {figure: statistics.median(each[figure] for each in several) for figure in FIGURES}
        for row, several in gathered.items()
    }


def ratio(table: Medians, target: Target) -> float | None:
    """The target's figure, ours over the peer's; None if one of them was not measured."""
    rows = [table.get((target.size, each.name)) for each in (target.ours, target.peer)]
    if None in rows:
        return None
    ours, peer = (row[target.figure] for row in rows if row)
    return ours / peer


def save(work: Path, name: str, record: Mapping[str, Any], page: str) -> None:
    """Write NAME.json and NAME.md."""
    (work / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (work / f"{name}.md").write_text(page, encoding="utf-8")


def page(record: Mapping[str, Any]) -> str:
    """The record in Markdown."""
    table = medians(record["results"])
    sections = [
        _conditions(record),
        *(_medians_section(table, size) for size in record["sizes"]),
        _targets_section(table),
        _pixels_section(record["pixels"]),
        _installed_section(record["installed"]),
    ]
    return "\n\n".join(sections) + "\n"


def table_of(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _conditions(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    loads = [result["load_average"] for result in record["results"]]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']:.0f} GB;"
        f" {machine['system']}. Medians of {record['rounds']} rounds, each contestant in a new"
        f" process. Load average before a process: {min(loads):.1f} to {max(loads):.1f}."
    )


def _medians_section(table: Medians, size: int) -> str:
    rows = [
        [name, *(f"{figures[figure]:.2f}" for figure in FIGURES)]
        for (of_size, name), figures in table.items()
        if of_size == size
    ]
    return f"## {size}x{size}\n\n" + table_of(["", *FIGURES.values()], rows)


def _targets_section(table: Medians) -> str:
    rows = []
    for target in TARGETS:
        value = ratio(table, target)
        if value is not None:
            what = f"{FIGURES[target.figure]}, {target.ours.name} / {target.peer.name}"
            verdict = "reached" if value <= target.limit else "**missed**"
            size = f"{target.size}x{target.size}"
            rows.append([size, what, f"{value:.3f}", f"{target.limit:.2f}", verdict])
    return "## Ratios\n\n" + table_of(["", "", "ratio", "at most", ""], rows)


def _pixels_section(pixels: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{each['size']}x{each['size']}",
            f"{each['ours']} and {each['other']}",
            f"{each['largest']:.1e}",
            f"{each['rms']:.1e}",
            f"{each['changed']:.2%}",
        ]
        for each in pixels
    ]
    headings = ["", "", "largest difference", "root mean square", "8-bit values that differ"]
    return "## Pixels, of 0 to 1\n\n" + table_of(headings, rows)


def _installed_section(installed: Mapping[str, float]) -> str:
    rows = [[name, f"{gigabytes:.2f}"] for name, gigabytes in installed.items()]
    return "## Installed\n\n" + table_of(["", "site-packages GB"], rows)

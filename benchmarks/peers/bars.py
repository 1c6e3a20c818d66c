"""What lcmcore is to reach, as ratios to its peers."""

from __future__ import annotations

from dataclasses import dataclass

from .contestants import DIFFUSERS, LCMCORE, LOW, OPTIMUM, Contestant


@dataclass(frozen=True)
class Bar:
    """At a picture size, a figure of `ours` is at most `limit` times that of `peer`."""

    size: int
    figure: str
    peer: Contestant
    limit: float
    ours: Contestant = LCMCORE


BARS = (
    Bar(256, "first", OPTIMUM, 0.30),
    Bar(256, "first", DIFFUSERS, 0.50),
    Bar(256, "load", OPTIMUM, 0.10),
    Bar(256, "another seed", OPTIMUM, 0.95),
    Bar(256, "another seed", DIFFUSERS, 0.62),
    Bar(256, "another prompt and image", OPTIMUM, 0.95),
    Bar(256, "another prompt and image", DIFFUSERS, 0.62),
    Bar(256, "anonymous", OPTIMUM, 0.20),
    Bar(256, "resident", OPTIMUM, 0.75, LOW),
    Bar(512, "first", OPTIMUM, 0.45),
    Bar(512, "first", DIFFUSERS, 0.55),
    Bar(512, "another seed", OPTIMUM, 0.90),
    Bar(512, "another seed", DIFFUSERS, 0.60),
    Bar(512, "another prompt and image", OPTIMUM, 0.90),
    Bar(512, "another prompt and image", DIFFUSERS, 0.60),
    Bar(512, "resident", OPTIMUM, 0.50),
)

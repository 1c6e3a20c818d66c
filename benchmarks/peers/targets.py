"""Targets for lcmcore, as ratios to its peers."""

from __future__ import annotations

from dataclasses import dataclass

from .contestants import (
    DIFFUSERS,
    GENAI,
    GENAI_BF16,
    LCMCORE,
    LOW,
    OPENVINO_BF16,
    OPTIMUM,
    Contestant,
)


@dataclass(frozen=True)
class Target:
    """At an image size, a figure of `ours` is at most `limit` times that of `peer`."""

    size: int
    figure: str
    peer: Contestant
    limit: float
    ours: Contestant = LCMCORE


TARGETS = (
    Target(256, "first", OPTIMUM, 0.30),
    Target(256, "first", DIFFUSERS, 0.50),
    Target(256, "load", OPTIMUM, 0.10),
    Target(256, "another seed", OPTIMUM, 0.95),
    Target(256, "another seed", DIFFUSERS, 0.62),
    Target(256, "another prompt and image", OPTIMUM, 0.95),
    Target(256, "another prompt and image", DIFFUSERS, 0.62),
    Target(256, "anonymous", OPTIMUM, 0.20),
    Target(256, "resident", OPTIMUM, 0.75, LOW),
    Target(512, "first", OPTIMUM, 0.45),
    Target(512, "first", DIFFUSERS, 0.55),
    Target(512, "another seed", OPTIMUM, 0.90),
    Target(512, "another seed", DIFFUSERS, 0.60),
    Target(512, "another prompt and image", OPTIMUM, 0.90),
    Target(512, "another prompt and image", DIFFUSERS, 0.60),
    Target(512, "resident", OPTIMUM, 0.50),
    *(
        target
        for size in (256, 512)
        for target in (
            Target(size, "first", GENAI, 0.70),
            Target(size, "another prompt and image", GENAI, 0.90),
            Target(size, "anonymous", GENAI, 0.30),
            Target(size, "first", GENAI_BF16, 1.00, OPENVINO_BF16),
            Target(size, "another seed", GENAI_BF16, 0.85, OPENVINO_BF16),
            Target(size, "another prompt and image", GENAI_BF16, 1.00, OPENVINO_BF16),
            Target(size, "anonymous", GENAI_BF16, 1.00, OPENVINO_BF16),
        )
    ),
)

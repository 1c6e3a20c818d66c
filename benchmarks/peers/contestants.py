"""Who takes part, and lcmcore's own rows with and without what makes it fast or small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contestant:
    """A row: its module here, the environment that it runs in, options of its `load`.

    `opens_late`: the pipeline is there before its networks are; so its loading is measured in a
    process of its own, which opens them all.
    """

    name: str
    module: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    opens_late: bool = False


def _lcmcore(name: str, **options: Any) -> Contestant:
    return Contestant(name, "with_lcmcore", "lcmcore", options, opens_late=True)


LCMCORE = _lcmcore("lcmcore")
LOW = _lcmcore("lcmcore, memory=low", memory="low")
NO_CACHE = _lcmcore("lcmcore, graph_cache=False", graph_cache=False)
DIFFUSERS = Contestant("diffusers", "with_diffusers", "diffusers")
OPTIMUM = Contestant("optimum", "with_optimum", "optimum")

CONTESTANTS = {each.name: each for each in (DIFFUSERS, OPTIMUM, LCMCORE, LOW, NO_CACHE)}

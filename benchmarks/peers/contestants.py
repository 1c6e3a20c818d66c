"""Who takes part, and lcmcore's own rows with and without what makes it fast or small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contestant:
    """A row: its module here, the environment that it runs in, options of its `load`.

    `opens_late`: the pipeline is there before its networks are; so its loading is measured in a
    process of its own, which opens them all. `first_use`: with lcmcore's cache of graphs empty.
    `reads`: the folder of the files that it opens.
    """

    name: str
    module: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    opens_late: bool = False
    first_use: bool = False
    reads: str = "bundle"


def _lcmcore(name: str, reads: str, first_use: bool = False, **options: Any) -> Contestant:
    return Contestant(name, "with_lcmcore", "lcmcore", options, True, first_use, reads)


LCMCORE = _lcmcore("lcmcore", "cache")
LOW = _lcmcore("lcmcore, memory=low", "cache", memory="low")
FIRST_USE = _lcmcore("lcmcore, first use", "bundle", first_use=True)
NO_CACHE = _lcmcore("lcmcore, graph_cache=False", "bundle", graph_cache=False)
DIFFUSERS = Contestant("diffusers", "with_diffusers", "diffusers", reads="checkpoint")
OPTIMUM = Contestant("optimum", "with_optimum", "optimum")

_ALL = (DIFFUSERS, OPTIMUM, LCMCORE, LOW, FIRST_USE, NO_CACHE)
CONTESTANTS = {each.name: each for each in _ALL}

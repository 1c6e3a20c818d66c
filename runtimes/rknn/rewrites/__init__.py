"""Rewrites of graphs into what the NPU computes fast, with the same result; one a file.

A rewrite changes `context.graph` and returns a line that says what it did, "" if nothing. Its name
and its revision are a part of the build record: a network whose rewrites have another revision is
built again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from runtimes.rknn.rewrites.context import Context
from runtimes.rknn.rewrites.group_norm import group_norm


class Rewrite(NamedTuple):
    """A rewrite of graphs, and the number that rises with what it makes of them."""

    name: str
    apply: Callable[[Context], str]
    revision: int = 1


REWRITES = (Rewrite("group_norm", group_norm),)  # in this order

"""Group normalization in the layout of the convolutions."""

from __future__ import annotations

from runtimes.rknn.rewrites.context import Context


def group_norm(context: Context) -> str:
    """Not yet."""
    return ""

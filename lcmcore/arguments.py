"""Checks of single arguments: each returns the value in the type that it should have."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any, TypeVar

from lcmcore.errors import ArgumentError

T = TypeVar("T")


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """An integer in [low, high]; raises ArgumentError for another, a bool or a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentError(f"{name} must be a whole number, not {value!r}")
    if not low <= int(value) <= high:
        raise ArgumentError(f"{name} must be from {low} to {high}, not {value}")
    return int(value)


def real_number(name: str, value: Any, low: float, high: float) -> float:
    """A finite number in [low, high]; raises ArgumentError for another, NaN or a bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(value) and low <= float(value) <= high):
        raise ArgumentError(f"{name} must be from {low:g} to {high:g}, not {value}")
    return float(value)


def one_of(name: str, value: T, allowed: Iterable[T]) -> T:
    """One of the allowed values; raises ArgumentError that lists them."""
    choices = list(allowed)
    if value not in choices:
        raise ArgumentError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")
    return value

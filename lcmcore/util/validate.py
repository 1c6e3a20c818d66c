"""Checks of single arguments: each returns the value, converted to its declared type."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from lcmcore.errors import ArgumentError, first_line
from lcmcore.util.arrays import Array, Floats

T = TypeVar("T")

_SHOWN = 100  # characters of a value in a message


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """An integer in [low, high]; raises ArgumentError for any other value, bool or float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentError(f"{name} must be a whole number, not {shown(value)}")
    if not low <= int(value) <= high:
        raise ArgumentError(f"{name} must be from {low} to {high}, not {_number_text(value)}")
    return int(value)


def real_number(name: str, value: Any, low: float, high: float) -> float:
    """A finite number in [low, high]; raises ArgumentError for any other value, NaN or bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(f"{name} must be a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond any float
        number = math.inf
    if not (low <= number <= high and math.isfinite(number)):
        raise ArgumentError(f"{name} must be from {low:g} to {high:g}, not {_number_text(value)}")
    return number


def float_array(name: str, value: Any) -> Floats:
    """A copy as float32; raises ArgumentError for what is not an array of finite real numbers.

    Complex numbers, text, dates and booleans are refused: numpy would make something of them.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" and not _are_numbers(array):
            raise TypeError(f"found {array.dtype}")
        with np.errstate(over="ignore"):
            floats: Floats = array.astype(np.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ArgumentError(f"{name} must be an array of numbers: {first_line(error)}") from error
    if not np.isfinite(floats).all():
        raise ArgumentError(f"{name} holds NaN or infinity")
    return floats


def texts(name: str, value: Any) -> list[str]:
    """Text, or a list of texts, as a list; raises ArgumentError for anything else, or no text."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items or not all(map(_is_text, items)):
        raise ArgumentError(f"{name} must be text or a list of texts, not {shown(value)}")
    return list(items)


def read_size(text: Any) -> tuple[int, int]:
    """(width, height) of text like "512x384"; raises ArgumentError for anything else."""
    width, cross, height = text.lower().partition("x") if isinstance(text, str) else ("", "", "")
    if not (cross and width.isdecimal() and height.isdecimal() and len(text) < 20):
        raise ArgumentError(f"size must be WIDTHxHEIGHT, like 512x384, not {shown(text)}")
    return int(width), int(height)


def one_of(name: str, value: T, allowed: Iterable[T]) -> T:
    """One of the allowed values; raises ArgumentError that lists them."""
    choices = list(allowed)
    try:
        if value in choices:
            return value
    except (TypeError, ValueError):  # an array is neither equal nor not
        pass
    listed = " or ".join(map(repr, choices))
    raise ArgumentError(f"{name} must be {listed}, not {shown(value)}")


def shown(value: Any) -> str:
    """The value for a message: its repr, shortened; some values have none."""
    try:
        text = repr(value)
    except Exception:  # integers of thousands of digits, lists too deep, other people's classes
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _are_numbers(array: Array) -> bool:
    """Whether it holds Python's numbers, of which numpy has no dtype."""
    return array.dtype == object and all(
        isinstance(item, numbers.Real) and not isinstance(item, bool) for item in array.flat
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _number_text(number: Any) -> str:
    """The number as text; Python refuses to print an integer of thousands of digits."""
    huge = isinstance(number, numbers.Integral) and abs(int(number)) >= 10**30
    return "a huge number" if huge else str(number)

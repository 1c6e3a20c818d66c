"""The package openvino: imported when it is first needed, and what it raises, in a line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from lcmcore.errors import RuntimeUnavailableError, first_line

_lock = threading.Lock()
_TELEMETRY = "openvino_telemetry"


def load() -> tuple[Any, Any]:
    """The package, and the Core that all networks of this process are compiled by.

    Raises RuntimeUnavailableError.
    """
    with _lock:  # a network may be opened in a thread while the caller opens another
        return _loaded()


@cache
def _loaded() -> tuple[Any, Any]:
    try:
        with _without_telemetry():
            import openvino
        return openvino, openvino.Core()
    except Exception as error:  # a broken wheel may raise anything
        raise RuntimeUnavailableError(
            f"openvino cannot be imported: {first_line(error)}"
        ) from error


def reason_of(error: Exception) -> str:
    """The last line that OpenVINO wrote: those before it say where in its source it failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Openvino 2026 reports each import to its makers, and keeps an id in ~/intel for that.

    It goes without where the package that does it is not installed.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # documented: import fails
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]

"""Shutting down on SIGINT and SIGTERM without losing work."""

from __future__ import annotations

import signal
from types import FrameType


class GracefulShutdown:
    """In its `with` block the first signal only sets `signum`; a second raises KeyboardInterrupt.

    For the main thread only, as Python's signal handlers are.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum: int | None = None

    def __enter__(self) -> GracefulShutdown:
        """Install the handlers."""
        self._previous = [signal.signal(signum, self._handle) for signum in self.SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for signum, handler in zip(self.SIGNALS, self._previous, strict=True):
            signal.signal(signum, handler)

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None

    @property
    def status(self) -> int:
        """The exit status that shells use for the signal: 130 or 143; 0 without a signal."""
        return 0 if self.signum is None else 128 + self.signum

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum

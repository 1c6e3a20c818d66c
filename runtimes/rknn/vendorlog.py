"""Listens to rknn-toolkit-lite2's logger, where the reasons of its failures end up."""

from __future__ import annotations

import logging
import threading
from functools import cache

LOGGER = "acuityLogger"
_LONGEST = 300


class VendorLog(logging.Handler):
    """Keeps what was logged as an error by the calling thread since `clear`."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._local = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record."""
        self._messages().append(record.getMessage())

    def clear(self) -> None:
        """Forget what this thread has caused so far."""
        self._messages().clear()

    def reason(self) -> str:
        """What was logged, as one line; of a traceback only the exception."""
        lines = [line for message in self._messages() for line in message.splitlines()]
        told = [line.strip() for line in lines if _tells(line)]
        text = " ".join(dict.fromkeys(told))
        return text[:_LONGEST] or "its log gives no reason"

    def _messages(self) -> list[str]:
        messages: list[str] = self._local.__dict__.setdefault("messages", [])
        return messages


@cache
def vendor_log() -> VendorLog:
    """The one listener of this process, attached to the vendor's logger."""
    handler = VendorLog()
    logging.getLogger(LOGGER).addHandler(handler)
    return handler


def _tells(line: str) -> bool:
    """Whether a line is more than the frame of a traceback."""
    return bool(line.strip()) and not line.startswith((" ", "Traceback", "Catch exception"))

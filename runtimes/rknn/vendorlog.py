"""Makes sense of the vendor's logs, where the reasons of failures end up."""

from __future__ import annotations

import logging
import re
import threading
from functools import cache

LOGGER = "acuityLogger"
_LONGEST = 300
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


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
        """What was logged, as one line."""
        text = "\n".join(self._messages())
        return gist(text) or " ".join(text.split()) or "its log gives no reason"

    def _messages(self) -> list[str]:
        messages: list[str] = self._local.__dict__.setdefault("messages", [])
        return messages


@cache
def vendor_log() -> VendorLog:
    """The one listener of this process, attached to the vendor's logger."""
    handler = VendorLog()
    logging.getLogger(LOGGER).addHandler(handler)
    return handler


def quieten() -> None:
    """Stop the vendor's own handlers, which write warnings and tracebacks to stderr."""
    for handler in logging.getLogger(LOGGER).handlers:
        if not isinstance(handler, VendorLog):
            handler.setLevel(logging.CRITICAL + 1)


def gist(text: str) -> str:
    """A log or a traceback as one line: of a traceback only the exception is told."""
    return " ".join(dict.fromkeys(gist_lines(text)))[:_LONGEST]


def gist_lines(text: str) -> list[str]:
    """The lines of a log that tell something, without colours and frames of tracebacks."""
    return [line.strip()[:_LONGEST] for line in _COLOUR.sub("", text).splitlines() if _tells(line)]


def _tells(line: str) -> bool:
    """Whether a line is more than the frame of a traceback."""
    return bool(line.strip()) and not line.startswith((" ", "Traceback", "Catch exception"))

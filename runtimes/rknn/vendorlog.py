"""Extracts the reasons of failures from the vendor's logs."""

from __future__ import annotations

import logging
import re
import threading
from functools import cache

LOGGER = "acuityLogger"
_MAX_LENGTH = 300
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class VendorLog(logging.Handler):
    """Keeps the errors that the calling thread has logged since `clear`."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._local = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of a record."""
        self._messages().append(record.getMessage())

    def clear(self) -> None:
        """Forget the messages of this thread."""
        self._messages().clear()

    def reason(self) -> str:
        """The messages of this thread as one line."""
        text = "\n".join(self._messages())
        return summary(text) or " ".join(text.split()) or "its log gives no reason"

    def _messages(self) -> list[str]:
        messages: list[str] = self._local.__dict__.setdefault("messages", [])
        return messages


@cache
def vendor_log() -> VendorLog:
    """The one handler of this process, attached to the vendor's logger."""
    handler = VendorLog()
    logging.getLogger(LOGGER).addHandler(handler)
    return handler


def silence() -> None:
    """Silence the vendor's own handlers, which write warnings and tracebacks to stderr."""
    for handler in logging.getLogger(LOGGER).handlers:
        if not isinstance(handler, VendorLog):
            handler.setLevel(logging.CRITICAL + 1)


def summary(text: str) -> str:
    """A log or a traceback as one line: of a traceback only the exception."""
    return " ".join(dict.fromkeys(informative_lines(text)))[:_MAX_LENGTH]


def informative_lines(text: str) -> list[str]:
    """The lines of a log, without colours, empty lines and frames of tracebacks."""
    return [
        line.strip()[:_MAX_LENGTH]
        for line in _COLOUR.sub("", text).splitlines()
        if _is_informative(line)
    ]


def _is_informative(line: str) -> bool:
    """Whether a line is neither empty nor a frame of a traceback."""
    return bool(line.strip()) and not line.startswith((" ", "Traceback", "Catch exception"))

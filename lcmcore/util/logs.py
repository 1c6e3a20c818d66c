"""The messages of lcmcore's loggers on stderr."""

from __future__ import annotations

import logging


class _Formatter(logging.Formatter):
    """One line, like the command's own messages: "lcm: info: ..."."""

    def format(self, record: logging.LogRecord) -> str:
        return f"lcm: {record.levelname.lower()}: {record.getMessage()}"


def log_to_stderr(level: int) -> None:
    """Write what loggers "lcmcore..." log at `level` or above; of other libraries no INFO lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING))
    if level < logging.WARNING:
        logging.getLogger("lcmcore").setLevel(level)

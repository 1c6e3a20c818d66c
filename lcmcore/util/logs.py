"""The messages of lcmcore's loggers on stderr."""

from __future__ import annotations

import logging

from lcmcore.util.terminal import tell


class _Handler(logging.Handler):
    """Each message in one line, like the command's own: "lcm: info: ..."."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tell(f"lcm: {record.levelname.lower()}: {record.getMessage()}")
        except Exception:  # of arguments that do not fit the message
            self.handleError(record)


def log_to_stderr(level: int) -> None:
    """Write what loggers "lcmcore..." log at `level` or above; of other libraries no INFO lines."""
    logging.basicConfig(handlers=[_Handler()], level=max(level, logging.WARNING))
    if level < logging.WARNING:
        logging.getLogger("lcmcore").setLevel(level)

"""What the `lcm` script runs: it holds signals back while Python imports the command.

A KeyboardInterrupt in an import shows a traceback, and numpy makes another error of it. This
module is no part of `lcmcore`, for to import that takes a third of a second.
"""

from __future__ import annotations

import signal
import sys

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTED = 130  # as in lcmcore.cli.main


def main() -> int:
    """Run the command and return its exit status."""
    _hold(True)
    from lcmcore.cli.main import main as run

    try:
        _hold(False)
        return run()
    except KeyboardInterrupt:
        print("lcm: interrupted", file=sys.stderr)
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while Python shuts down


def _hold(held: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if held else signal.SIG_UNBLOCK, _SIGNALS)

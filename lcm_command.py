"""What the `lcm` script runs: it holds signals back while Python imports the command.

A KeyboardInterrupt in an import shows a traceback, and numpy makes another error of it. This
module is no part of `lcmcore`, for to import that takes a third of a second.
"""

from __future__ import annotations

import signal
import sys

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Run the command and return its exit status: 130 or 143 if a signal came meanwhile."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    from lcmcore.cli.main import main as run

    if sys.argv[1:2] == ["batch"]:
        import lcmcore.cli.batch
    if sys.argv[1:2] == ["serve"]:
        import lcmcore.jobs.pool  # noqa: F401
    try:
        if hasattr(signal, "pthread_sigmask"):
            for signum in _SIGNALS:
                if signum in signal.sigpending():
                    return _interrupted(signum)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return run()
    except KeyboardInterrupt:
        return _interrupted(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while Python shuts down


def _interrupted(signum: int) -> int:
    print("lcm: interrupted", file=sys.stderr)
    return 128 + signum

"""The `lcm` command: arguments, errors and exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from lcmcore.cli.parser import make_parser
from lcmcore.errors import LcmError
from lcmcore.util.files import is_deleted
from lcmcore.util.logs import log_to_stderr
from lcmcore.util.terminal import replace_closed_descriptors, tell

_DONE, _FAILED, _INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 done, 1 an error in one line on stderr, 2 wrong usage."""
    replace_closed_descriptors()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(words) or _DONE
    except LcmError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("out of memory: choose a smaller size")
    except KeyboardInterrupt:
        tell("lcm: interrupted")
        return _INTERRUPTED
    except Exception as error:
        if isinstance(error, FileNotFoundError) and is_deleted(Path()):  # of os.getcwd()
            return _fail("the working directory was deleted: go to another one")
        return _fail_by_a_bug(error)


def _fail_by_a_bug(error: Exception) -> int:
    """No traceback unless asked for."""
    if os.environ.get("LCM_TRACEBACK"):
        for line in traceback.format_exc().rstrip().split("\n"):
            tell(f"lcm: {line}")
    return _fail(
        f"{type(error).__name__}: {error} (a bug in lcmcore: please report it with what"
        " LCM_TRACEBACK=1 shows)"
    )


def _run(words: list[str]) -> int | None:
    args = make_parser(builders=words[:1] == ["build"]).parse_args(words)
    warnings.simplefilter("ignore")  # Pillow warns of files that it reads, or that then fail anyway
    log_to_stderr(_log_level(args))
    status: int | None = args.run(args)
    return status


def _fail(message: str) -> int:
    tell(f"lcm: error: {message.rstrip()}")
    return _FAILED


def _log_level(args: argparse.Namespace) -> int:
    if getattr(args, "quiet", False):
        return logging.CRITICAL
    return logging.INFO if getattr(args, "verbose", False) else logging.WARNING


if __name__ == "__main__":
    sys.exit(main())

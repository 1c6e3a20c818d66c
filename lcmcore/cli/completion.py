"""`lcm completion`: a script for a shell, made by shtab of the parser of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lcmcore.errors import RuntimeUnavailableError


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for "bash", "zsh" or "fish"; raises RuntimeUnavailableError without shtab."""
    try:
        import shtab
    except ImportError:
        raise RuntimeUnavailableError(
            "the script is made by shtab, which is not installed: pip install shtab"
        ) from None
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks
    text: str = shtab.complete(parser, shell)
    return text


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser, and of the commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)

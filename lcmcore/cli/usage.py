"""A parser that says what was meant: short usage, unquoted prompts, options of other programs."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from lcmcore.util.terminal import say, tell

USAGE_STATUS = 2

# Positional arguments that other programs take as options.
ALIASES = {"-i": "init", "--image": "init", "-p": "prompt", "--prompt": "prompt"}

# Options of diffusers, stable-diffusion.cpp, sd-scripts and their like, and what is meant here.
_ELSEWHERE = {
    "-n": "--count N",
    "--num-images": "--count N",
    "--num_images_per_prompt": "--count N",
    "-b": "--count N",
    "--batch-count": "--count N",
    "-s": "--seed N, or --steps N",
    "--num_inference_steps": "--steps N",
    "--num-inference-steps": "--steps N",
    "--guidance_scale": "--guidance F",
    "--guidance-scale": "--guidance F",
    "--cfg-scale": "--guidance F",
    "--scale": "--guidance F",
    "-W": "--size WxH",
    "-H": "--size WxH",
    "--width": "--size WxH",
    "--height": "--size WxH",
    "-m": "--model DIR",
    "-t": "--threads N",
    "--init-img": "INIT, the first argument",
    "--init_img": "INIT, the first argument",
    "--init-image": "INIT, the first argument",
    "--negative_prompt": "--negative-prompt TEXT",
    "--denoising-strength": "--strength F",
    "--output-dir": "-o OUT",
    "--outdir": "-o OUT",
}


_NO_PROMPT = "the following arguments are required: PROMPT"  # argparse's words


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Breaks help between words alone, so that an address or an option stays whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_long_words=False,
                             break_on_hyphens=False)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Help on stdout and wrong usage on stderr, safe to show like all else; no colours.

    Of a command that takes ALIASES, `given` in the namespace has what came by them; it is put into
    the places of INIT and PROMPT, where these are arguments of their own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        defaults: dict[str, Any] = {"formatter_class": _Formatter, "allow_abbrev": False}
        super().__init__(*args, **{**defaults, **options})
        self.color = False  # Python 3.14 would colour the help

    def parse_known_args(  # type: ignore[override]  # overloads that no caller here needs
        self, args: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the words of a command; exits with status 2, having said what is wrong."""
        words, given = self._without_aliases(list(args))
        parsed, left = super().parse_known_args(words, namespace or argparse.Namespace())
        if self._subparsers is not None:
            return parsed, left
        parsed.given = given
        if isinstance(getattr(parsed, "words", None), list):
            left = _move_words(left, parsed.words)
        if left:
            self.error(self._meant(left, getattr(parsed, "prompt", None), given))
        return parsed, []

    def error(self, message: str) -> NoReturn:
        """Show how the command is used, and in one line what is wrong; exit with status 2."""
        if message == _NO_PROMPT and self.prog == "lcm img2img":
            message += "; without an init image it is lcm txt2img"
        for line in self.format_usage().rstrip().split("\n"):
            tell(line)
        tell(f"options and examples: {self.prog} --help")
        tell(f"{self.prog}: error: {message}")
        sys.exit(USAGE_STATUS)

    def _without_aliases(self, words: list[str]) -> tuple[list[str], dict[str, str]]:
        """The words without the aliases that this command has, and the arguments of these."""
        given: dict[str, str] = {}
        names = {name: to for name, to in ALIASES.items() if name in self._option_string_actions}
        end = words.index("--") if "--" in words else len(words)
        rest, options = [], iter(words[:end])
        for word in options:
            name, value = _split_option(word, names)
            if name is None:
                rest.append(word)
                continue
            value = next(options, None) if value is None else value
            if value is None:
                self.error(f"argument {name}: expected one argument")
            given[names[name]] = value
        return self._placed(rest, words[end:], given), given

    def _placed(self, words: list[str], last: list[str], given: dict[str, str]) -> list[str]:
        """The words, and `last` from "--" on, with what was given in its place among them."""
        places = {action.dest for action in self._actions if not action.option_strings}
        if "init" in given and "init" in places:
            init = given["init"]
            words = [os.path.join(os.curdir, init) if init.startswith("-") else init, *words]  # noqa: PTH118
        if "prompt" in given and "prompt" in places:
            last = [*(last or ["--"]), given["prompt"]]
        return words + last

    def _meant(self, left: list[str], prompt: str | None, given: dict[str, str]) -> str:
        """What is wrong with the words that are left, and what they were meant for."""
        left = [word for word in left if word != "--"]
        option = next((word.partition("=")[0] for word in left if word.startswith("-")), None)
        if option in _ELSEWHERE:
            return f"unknown option {option}: here it is {_ELSEWHERE[option]}"
        if option is not None:
            import difflib  # no right command needs it

            known = [name for name in self._option_string_actions if name.startswith("--")]
            close = difflib.get_close_matches(option, known, 1)
            return f"unknown option {option}" + (f": is {close[0]} meant?" if close else "")
        if prompt is None:
            return f"unexpected argument {left[0]!r}"
        if given:
            names = " and ".join(name.upper() for name in given)
            return f"{left[-1]!r} is one argument too many: {names} came as an option, too"
        return f'the prompt is one argument: quote it, as in "{" ".join([prompt, *left])}"'

    def _print_message(self, message: str, file: object = None) -> None:
        """What argparse calls for --help and --version."""
        for line in message.rstrip().split("\n"):
            say(line)


def _split_option(word: str, names: dict[str, str]) -> tuple[str | None, str | None]:
    """The name in `names` that the word begins with, and the value that it holds, like argparse."""
    if word in names:
        return word, None
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return (name, value) if equals and name in names else (None, None)
    return (word[:2], word[2:]) if word[:2] in names else (None, None)


def _move_words(left: list[str], words: list[str]) -> list[str]:
    """Append to `words` the arguments that argparse left over behind an option; the others."""
    end = left.index("--") if "--" in left else len(left)
    words += [word for word in left[:end] if not word.startswith("-")] + left[end + 1 :]
    return [word for word in left[:end] if word.startswith("-")]

"""The `lcm` command line that reproduces an image from the record in its PNG."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from lcmcore.errors import ArgumentError
from lcmcore.util.printable import printable

# Entries of a record that are options of the command, in the order in which it prints them.
_OPTIONS = (
    "strength",
    "steps",
    "guidance",
    "seed",
    "size",
    "fit",
    "strength-mode",
    "latent-sampling",
    "mask-crop",
    "mask-blur",
    "expand",
    "negative-prompt",
    "model",
    "model-digest",
    "config",
    "tokenizer",
    "runtime",
    "device",
    "precision",
    "tile",
)
_FLAGS = {("invert-mask", "True"): "--invert-mask", ("overlay", "False"): "--no-overlay"}
_UNKNOWN_INIT, _UNKNOWN_MASK = "INIT", "MASK"
ANSI_C = "$'"  # begins a word in which shells decode escapes


def command_of(record: Mapping[str, str], output: str) -> list[str]:
    """The words of the command that reproduces the recorded image in the file `output`.

    A worker gets init image and mask as bytes and does not know their paths: then the command says
    INIT and MASK.
    The record may be a stranger's: whatever it holds, the command only writes `output`. Raises
    ArgumentError for several strengths, of which each would be written to a file of its own.
    """
    if "," in record.get("strength", ""):
        raise ArgumentError("its strength is not that of one image")
    from_image = "strength" in record
    words = ["lcm", "img2img" if from_image else "txt2img"]
    words += [f"--output={output}"] if output.startswith("-") else ["-o", output]
    words += [f"--{key}={record[key]}" for key in _OPTIONS if key in record]
    words += [flag for (key, value), flag in _FLAGS.items() if record.get(key) == value]
    if "mask" in record or "mask-sha256" in record:
        words.append(f"--mask={record.get('mask', _UNKNOWN_MASK)}")
    choices = record.get("component-runtime", "").split()
    words += [f"--component-runtime={choice}" for choice in choices]
    positional = [record.get("init", _UNKNOWN_INIT)] if from_image else []
    positional.append(record["prompt"])
    if any(word.startswith("-") for word in positional):
        words.append("--")
    return words + positional


def quote(word: str) -> str:
    """The word for a shell, on one line: what cannot be shown is written as $'\\012', by bytes.

    bash, zsh, ksh, busybox and POSIX since 2024 know $'...' (2.2.4, Dollar-Single-Quotes); dash
    does not. Three octal digits are what all of them read alike. Raises ArgumentError for NUL,
    which no argument of a program can hold.
    """
    if "\0" in word:
        raise ArgumentError("a text that holds NUL is no argument of a command")
    if printable(word) != word:
        return f"{ANSI_C}{''.join(map(_escape, word))}'"
    # zsh would replace an unquoted =ls by /bin/ls.
    return f"'{word}'" if word.startswith("=") and shlex.quote(word) == word else shlex.quote(word)


def _escape(character: str) -> str:
    """As it is if it can be shown and has no meaning within $'...'."""
    if character not in "\\'" and printable(character) == character:
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))

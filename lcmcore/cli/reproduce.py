"""The `lcm` command line that reproduces an image from the record in its PNG."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

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
    "negative-prompt",
    "model",
    "config",
    "tokenizer",
    "runtime",
)
_UNKNOWN_INIT = "INIT"


def command_of(record: Mapping[str, str], output: str) -> str:
    """The shell command that reproduces the recorded image in the file `output`.

    A worker gets an init image as bytes and does not know its path: then the command says INIT.
    """
    from_image = "strength" in record
    words = ["lcm", "img2img" if from_image else "txt2img", "-o", output]
    words += [f"--{key}={record[key]}" for key in _OPTIONS if key in record]
    choices = record.get("component-runtime", "").split()
    words += [f"--component-runtime={choice}" for choice in choices]
    positional = [record.get("init", _UNKNOWN_INIT)] if from_image else []
    positional.append(record["prompt"])
    if any(word.startswith("-") for word in positional):
        words.append("--")
    return shlex.join(words + positional)

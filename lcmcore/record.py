"""The record that a PNG of ours carries: what made it, by the option names of the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lcmcore

if TYPE_CHECKING:
    from lcmcore.networks import RuntimeChoice
    from lcmcore.pipeline import Result

SOFTWARE = "Software"  # the PNG specification's keyword for the program

# Keywords of a call, and what the command calls them.
_NAMES = {
    "negative_prompt": "negative-prompt",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "strength": "strength",
    "strength_mode": "strength-mode",
    "latent_sampling": "latent-sampling",
    "fit": "fit",
}

# Entries that are options of the command, in the order in which it prints them.
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


def make_record(
    prompt: str, settings: Mapping[str, Any], result: Result, origin: Mapping[str, Any]
) -> dict[str, str]:
    """What is needed to make the first picture of a result again.

    `settings` are the keywords of the call with nothing left to a default, `origin` says where
    model and init image came from. What is None is left out.
    """
    width, height = result.images[0].size
    record = {
        SOFTWARE: f"lcmcore {lcmcore.__version__}",
        "prompt": prompt,
        "seed": result.seeds[0],
        "size": f"{width}x{height}",
        **{name: settings.get(key) for key, name in _NAMES.items()},
        **origin,
    }
    return {key: str(value) for key, value in record.items() if value is not None}


def model_origin(
    model: str | Path | None,
    runtime: RuntimeChoice,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> dict[str, Any]:
    """The part of a record that tells the model and what ran it."""
    choice = dict(runtime) if isinstance(runtime, Mapping) else {"default": runtime}
    names = {key: each if isinstance(each, str) else each.name for key, each in choice.items()}
    default = names.pop("default", "auto")
    return {
        "model": model,
        "config": config,
        "tokenizer": tokenizer,
        "runtime": None if default == "auto" else default,
        "component-runtime": " ".join(map("=".join, names.items())) or None,
    }


def command_of(record: Mapping[str, str], output: str) -> str:
    """The shell command that makes the recorded picture again.

    A worker gets an init image as bytes and cannot tell its path: then the command says INIT.
    """
    from_image = "strength" in record
    words = ["lcm", "img2img" if from_image else "txt2img", "-o", output]
    words += [f"--{key}={record[key]}" for key in _OPTIONS if key in record]
    choices = record.get("component-runtime", "").split()
    words += [f"--component-runtime={choice}" for choice in choices]
    named = [record.get("init", _UNKNOWN_INIT)] if from_image else []
    named.append(record["prompt"])
    if any(word.startswith("-") for word in named):
        words.append("--")
    return shlex.join(words + named)

"""The lines that end `lcm img2img` and `lcm txt2img`: what was made, of what, by how many steps."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lcmcore.call import Result
from lcmcore.cli.progress import count_of
from lcmcore.pipeline import Pipeline
from lcmcore.scheduler import STRENGTH_MODES


def wrote(
    output: Path,
    result: Result[list[Image.Image]],
    pipe: Pipeline,
    init: Image.Image | None,
    seconds: float,
) -> str:
    """File, size in pixels (before it the init image's), steps, seed, model and seconds."""
    settings = result.settings
    sizes = dict.fromkeys(image.size for image in (init, result.images[0]) if image is not None)
    shown = " -> ".join(f"{width}x{height}" for width, height in sizes)
    return (
        f"wrote {output} ({shown}, {steps_of_steps(pipe, settings)}, seed {result.seeds[0]})"
        f" with {pipe.bundle.paths.root}, in {seconds:.1f} s"
    )


def steps_of_steps(pipe: Pipeline, settings: Mapping[str, Any]) -> str:
    """How many of the steps a call ran: "3 of 4 steps", "4 steps"."""
    steps = settings["num_inference_steps"]
    if "strength" not in settings:
        return count_of(steps, "step")
    ran = len(
        pipe.scheduler.schedule(
            steps,
            settings["strength"],
            settings["strength_mode"],
            settings["original_inference_steps"],
        )
    )
    return f"{ran} of {count_of(steps, 'step')}"


def strength_notes(
    strengths: Iterable[float], args: argparse.Namespace, default_steps: int
) -> Iterator[str]:
    """A line for each strength of a command for which its steps are too few: what else is the same.

    None where a strength is a whole number of steps, nor in the mode "rescale", which runs all of
    them at any strength: `LCMScheduler.schedule`.
    """
    steps = default_steps if args.steps is None else args.steps
    for strength in strengths:
        exact = round(steps * strength, 9)
        if args.strength_mode != STRENGTH_MODES[0] or exact == int(exact):
            continue
        ran = math.ceil(exact)
        yield (
            f"strength {strength:g} runs {ran} of {count_of(steps, 'step')} and makes the same"
            f" image as any above {(ran - 1) / steps:.3g} up to {ran / steps:.3g}; more --steps are"
            " finer"
        )

"""stable-diffusion.cpp on the CPU, by its Python package, which pip compiles."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from stable_diffusion_cpp import StableDiffusion

from .call import STEPS, STRENGTH, Generate

PACKAGES = ("stable-diffusion-cpp-python",)
# Of so many it runs int(_STEPS * STRENGTH) + 1, at the end of the schedule.
_STEPS = 2 * (STEPS - 1)


def load(work: Path, options: Mapping[str, Any]) -> Generate:
    """The pipeline on the checkpoint, whose guidance embedding it leaves out."""
    pipeline = StableDiffusion(
        model_path=str(work / "checkpoint"),
        n_threads=len(os.sched_getaffinity(0)),  # it would take half of them
        verbose=False,
        **options,
    )

    def generate(prompt: str, image: str, seed: int) -> tuple[Any, int]:
        runs = set()

        def count(step: int, steps: int, seconds: float) -> None:
            if steps == STEPS and step:  # others are of the VAE, or of loading
                runs.add(step)

        start = Image.open(image).convert("RGB")
        (result,) = pipeline.generate_image(
            prompt,
            init_image=start,
            width=start.width,
            height=start.height,
            cfg_scale=1.0,
            sample_method="lcm",
            scheduler="lcm",
            sample_steps=_STEPS,
            strength=STRENGTH,
            seed=seed,
            progress_callback=count,
        )
        return np.asarray(result) / np.float32(255), len(runs)

    return generate


open_all = load

"""lcmcore on ONNX Runtime, installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lcmcore
from lcmcore.bundle import COMPONENTS

from .call import GUIDANCE, STEPS, STRENGTH, Generate

PACKAGES = ("onnxruntime", "numpy", "Pillow")


def load(work: Path, options: Mapping[str, Any]) -> Generate:
    """The pipeline on the bundle; it opens its networks when they are needed."""
    pipe = lcmcore.load(work / "bundle", **options)

    def generate(prompt: str, image: str, seed: int) -> tuple[Any, int]:
        timesteps = []
        result = pipe(
            prompt,
            image,
            STRENGTH,
            STEPS,
            GUIDANCE,
            seed,
            strength_mode="rescale",
            latent_sampling="sample",
            output_type="np",
            callback_on_step_end=lambda pipe, index, timestep, tensors: timesteps.append(timestep),
        )
        return result.images[0], len(timesteps)

    return generate


def open_all(work: Path, options: Mapping[str, Any]) -> list[Any]:
    """The pipeline, and what it opens late: the tokenizer, and each network by its runtime."""
    pipe = lcmcore.load(work / "bundle", **options)
    opened: list[Any] = [pipe.bundle.tokenizer]
    for component in COMPONENTS:
        runtime = pipe.networks.runtimes[component]
        known = {key: value for key, value in options.items() if key in runtime.options}
        opened.append(runtime.open(component, pipe.bundle.folder(component), known))
    return opened

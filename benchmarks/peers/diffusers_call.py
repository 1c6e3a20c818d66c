"""The call of a diffusers pipeline; optimum's pipelines take the same arguments."""

from typing import Any

import torch
from PIL import Image

from .call import GUIDANCE, STEPS, STRENGTH, Generate


def as_generate(pipeline: Any) -> Generate:
    """The pipeline as a function of prompt, init image and seed."""
    pipeline.set_progress_bar_config(disable=True)

    def generate(prompt: str, image: str, seed: int) -> tuple[Any, int]:
        timesteps = []

        def count(_: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            timesteps.append(timestep)
            return tensors

        result = pipeline(
            prompt=prompt,
            image=Image.open(image).convert("RGB"),
            strength=STRENGTH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            callback_on_step_end=count,
        )
        return result.images[0], len(timesteps)

    return generate

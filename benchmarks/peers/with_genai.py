"""OpenVINO GenAI's pipeline on the CPU, with its cache of compiled models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from PIL import Image

from .call import GUIDANCE, STEPS, STRENGTH, Generate

PACKAGES = ("openvino", "openvino-genai")


def load(work: Path, options: Mapping[str, Any]) -> Generate:
    """The pipeline on the folder `genai`; it compiles all its networks."""
    pipeline = openvino_genai.Image2ImagePipeline(
        str(work / "genai"), "CPU", CACHE_DIR=str(work / "genai_cache"), **options
    )

    def generate(prompt: str, image: str, seed: int) -> tuple[Any, int]:
        runs = []

        def count(step: int, steps: int, latent: Any) -> bool:
            runs.append(step)
            return False

        pixels = np.asarray(Image.open(image).convert("RGB"))[None]
        result = pipeline.generate(
            prompt,
            openvino.Tensor(pixels),
            strength=STRENGTH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=openvino_genai.CppStdGenerator(seed),
            callback=count,
        )
        return result.data[0] / np.float32(255), len(runs)

    return generate


open_all = load

"""diffusers on torch's CPU, float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import LatentConsistencyModelImg2ImgPipeline

from .call import Generate
from .diffusers_call import as_generate

PACKAGES = ("torch", "diffusers", "transformers")


def load(work: Path, options: Mapping[str, Any]) -> Generate:
    """The pipeline on the checkpoint."""
    pipeline = LatentConsistencyModelImg2ImgPipeline.from_pretrained(
        work / "checkpoint", torch_dtype=torch.float32, **options
    )
    return as_generate(pipeline)

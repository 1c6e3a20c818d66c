"""optimum's pipeline on ONNX Runtime's CPU provider."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum.onnxruntime import ORTLatentConsistencyModelImg2ImgPipeline

from .call import Draw
from .diffusers_call import as_draw

PACKAGES = ("onnxruntime", "optimum-onnx", "diffusers", "transformers", "torch")


def load(work: Path, options: Mapping[str, Any]) -> Draw:
    """The pipeline on the bundle; it opens all its sessions."""
    pipeline = ORTLatentConsistencyModelImg2ImgPipeline.from_pretrained(
        work / "bundle", provider="CPUExecutionProvider", **options
    )
    return as_draw(pipeline)

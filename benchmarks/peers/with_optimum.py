"""optimum's pipeline on ONNX Runtime's CPU provider."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum.onnxruntime import ORTLatentConsistencyModelImg2ImgPipeline

from .call import Generate
from .diffusers_call import as_generate

PACKAGES = ("onnxruntime", "optimum-onnx", "diffusers", "transformers", "torch")


def load(work: Path, options: Mapping[str, Any]) -> Generate:
    """The pipeline on the bundle; it opens all its sessions."""
    pipeline = ORTLatentConsistencyModelImg2ImgPipeline.from_pretrained(
        work / "bundle", provider="CPUExecutionProvider", **options
    )
    return as_generate(pipeline)

"""The golden images of diffusers, and how far ours are from them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcmcore.pipeline import Pipeline

from .goldens import load_arrays, load_json

CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in load_json("pipelines.json")}
ARRAYS = load_arrays("pipelines.npz")
TOLERANCE = 1e-4  # of pixels from 0 to 1


def draw(pipe: Pipeline, name: str) -> NDArray[np.float32]:
    """The case's call, as float pixels."""
    case = CASES[name]
    options: dict[str, Any] = {"output_type": "np", **case["call"]}
    if case["images"]:
        options["image"] = [ARRAYS[f"image/{image}"] for image in case["images"]]
        options["height"], options["width"] = ARRAYS[name].shape[1:3]
    pixels: NDArray[np.float32] = pipe(**options).images
    return pixels


def distance(pixels: NDArray[np.float32], name: str) -> float:
    """The largest difference to the golden, in pixels from 0 to 1."""
    assert pixels.shape == ARRAYS[name].shape
    return float(np.abs(pixels - ARRAYS[name]).max())

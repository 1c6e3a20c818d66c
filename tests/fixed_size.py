"""A bundle of networks with fixed shapes, as an NPU's are, from one that is free in size."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx

from lcmcore.bundle import TILED, Bundle


def fix_size(source: Path, root: Path, size: tuple[int, int], tiled: Sequence[str] = TILED) -> Path:
    """Copy a bundle to `root`, the shapes of these components fixed for images (width, height)."""
    shutil.copytree(source, root)
    factor = Bundle.open(root).vae.factor
    for component in tiled:
        path = root / component / "model.onnx"
        model = onnx.load(path)
        width, height = (side if component == "vae_encoder" else side // factor for side in size)
        dims = model.graph.input[0].type.tensor_type.shape.dim  # the image
        for dim, value in ((0, 1), (2, height), (3, width)):
            dims[dim].dim_value = value
        onnx.save(model, path)
    return root

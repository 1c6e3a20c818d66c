"""Reads the golden files."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TESTS = Path(__file__).parents[1]
DATA = TESTS / "goldens" / "data"


def load_arrays(name: str) -> dict[str, NDArray[Any]]:
    with np.load(DATA / name) as arrays:
        return dict(arrays)


def load_json(name: str) -> Any:
    raw = (DATA / name).read_bytes()
    return json.loads(gzip.decompress(raw) if name.endswith(".gz") else raw)

"""Where the goldens lie, and how they are written: small, same content same bytes."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
DEMO_BUNDLE = ROOT / "assets" / "demo"
TINY = ROOT / "tests" / "tiny"


def save_arrays(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    np.savez_compressed(DATA / name, **arrays)


def save_json(path: Path, content: Any) -> None:
    """Indented, or packed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
        path.write_bytes(packed)
    else:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

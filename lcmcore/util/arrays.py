"""Array types, for annotations: imported by type checkers alone, since numpy.typing takes time."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Pixels: TypeAlias = NDArray[np.uint8]  # [..., height, width, 3], RGB

"""The difference of two images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> dict[str, Any]:
    """Of values in [0, 1]: largest, root mean square, and the share that differs at 8 bits."""
    apart = np.abs(first.astype(np.float64) - second)
    eight_bit = [np.round(each * 255) for each in (first, second)]
    return {
        "largest": float(apart.max()),
        "rms": float(np.sqrt(np.mean(apart**2))),
        "changed": float(np.mean(eight_bit[0] != eight_bit[1])),
    }

"""Array types for annotations; as text, since numpy.typing takes time to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"
Floats: TypeAlias = "NDArray[np.float32]"
Integers: TypeAlias = "NDArray[np.int64]"
Pixels: TypeAlias = "NDArray[np.uint8]"  # [..., height, width, 3], RGB

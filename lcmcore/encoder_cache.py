"""What the encoders returned, kept for the next call with the same prompt or init image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lcmcore.runtime import Array

Floats = NDArray[np.float32]

_MOST = 8
_LARGEST = 2**23  # bytes; results of huge batches are not kept


class KeptResults:
    """The last few results, by component and what it was asked; the least recently used goes.

    What is handed out is the caller's own: no change to it reaches what is kept.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[bytes, Floats] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, component: str, asked: Array, make: Callable[[], Floats]) -> Floats:
        """The result for these ids or pixels, by `make` if it is not here."""
        key = _digest(component, asked)
        with self._lock:
            kept = self._results.get(key)
            if kept is not None:
                self._results.move_to_end(key)
                return kept.copy()
        result = make()
        if result.nbytes <= _LARGEST:
            with self._lock:
                self._results[key] = result.copy()
                if len(self._results) > _MOST:
                    self._results.popitem(last=False)
        return result


def _digest(component: str, asked: Array) -> bytes:
    import hashlib  # takes longer to import than the rest of this file

    digest = hashlib.sha256(f"{component}{asked.dtype}{asked.shape}".encode())
    digest.update(np.ascontiguousarray(asked).data)
    return digest.digest()

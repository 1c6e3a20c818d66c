"""Checkpoints of PyTorch Lightning, whose pickles hold objects of its own beside the weights.

Tensors and containers are built. What is of Lightning's or its settings' classes becomes an object
that does nothing: their code is neither imported nor run. Any other class is refused.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

_TENSORS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
_IGNORED = ("lightning", "lightning_fabric", "pytorch_lightning", "omegaconf", "numpy", "typing")


class _Ignored:
    """Takes whatever a pickle does with an object."""

    def __new__(cls, *args: Any, **options: Any) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...


class Unpickler(pickle.Unpickler):
    """Finds tensors' classes alone."""

    def find_class(self, module: str, name: str) -> Any:
        """The class that a pickle names, or one that does nothing; raises UnpicklingError."""
        if (module, name) in _TENSORS:
            return _TENSORS[module, name]
        if module.partition(".")[0] in _IGNORED:
            return type("Ignored", (_Ignored,), {})
        raise pickle.UnpicklingError(f"Unsupported class {module}.{name}")


class _Pickles:
    """What torch.load needs of a module in the place of pickle."""

    __name__ = "lightning"
    Unpickler = Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()


def load_checkpoint(path: Path) -> Any:
    """The content of a zip file of torch, on the CPU; raises UnpicklingError."""
    return torch.load(
        path, map_location="cpu", pickle_module=_Pickles(), weights_only=False, mmap=True
    )

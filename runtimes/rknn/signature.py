"""Inputs and outputs of a compiled network, from its file, lcm.toml or by convention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import LcmError, NetworkError
from lcmcore.runtime import TensorSpec
from lcmcore.util.arrays import Array
from runtimes.rknn.file import RknnFile, RknnTensor
from runtimes.rknn.shapes import INPUTS, OPTIONAL_INPUTS, OUTPUT_RANKS, input_shapes, parse_size

OPTIONS = frozenset({"inputs", "layout", "size"})
LAYOUTS = ("nhwc", "nchw")


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the device's order; shapes NCHW.

    The device gets four-dimensional inputs in `layout`, one of LAYOUTS.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layout: str = "nhwc"

    def positional(self, inputs: Mapping[str, Array]) -> list[Array]:
        """A new list of contiguous arrays in the device's order, layout and dtypes.

        Half-precision inputs are passed as float32: the driver converts them.
        """
        return [self._device_array(spec, inputs[spec.name]) for spec in self.inputs]

    def _device_array(self, spec: TensorSpec, array: Array) -> Array:
        integer = np.dtype(spec.dtype).kind in "iu"
        array = array.astype(spec.dtype if integer else np.float32, copy=False)
        if array.ndim == 4 and self.layout == "nhwc":
            array = array.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(array)


def signature(
    component: str, file: RknnFile, folder: Path, options: Mapping[str, Any]
) -> Signature:
    """The file's signature; what it lacks is from the options `inputs`, `layout` and `size`.

    What those lack is by convention. Raises NetworkError if file and options contradict each other,
    or a shape is unknown.
    """
    if file.inputs:
        inputs = _input_specs(component, file.inputs, options)
        outputs = tuple(TensorSpec(t.name, t.shape, t.dtype or "float32") for t in file.outputs)
    else:
        inputs, outputs = _from_configs(component, file, folder, options)
    return Signature(inputs, outputs, _layout(component, file, options))


def _input_specs(
    component: str, tensors: Sequence[RknnTensor], options: Mapping[str, Any]
) -> tuple[TensorSpec, ...]:
    found = [tensor.name for tensor in tensors]
    names = _input_names(component, len(found), found, options)
    return tuple(
        TensorSpec(name, _shape(name, tensor.shape), tensor.dtype or _default_dtype(name))
        for name, tensor in zip(names, tensors, strict=True)
    )


def _shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the core's convention: a timestep is always [1]."""
    return (1,) if name == "timestep" and math.prod(shape) == 1 else shape


def _input_names(
    component: str, count: int, found: Sequence[str], options: Mapping[str, Any]
) -> Sequence[str]:
    """The core's names in the file's order: by the file, else the option, else convention."""
    usual = INPUTS[component]
    asked = options.get("inputs")
    if asked is not None and not (
        isinstance(asked, (list, tuple))
        and all(isinstance(name, str) for name in asked)
        and len(asked) == count
        and len(set(asked)) == count
        and set(asked) <= set(usual)
    ):
        raise NetworkError(
            component, f"inputs = {asked!r} in its options: the file has {count} of {usual}"
        )
    if len(set(found)) == count and set(found) <= set(usual):
        if asked is not None and list(asked) != list(found):
            raise NetworkError(
                component, f"inputs = {asked!r} in its options, but the file has {list(found)}"
            )
        return found
    fewest = len(set(usual) - OPTIONAL_INPUTS)
    if not fewest <= count <= len(usual):
        listed = ", ".join(found) or count
        raise NetworkError(component, f"the file holds another network: it takes {listed}")
    return asked or usual[:count]


def _from_configs(
    component: str, file: RknnFile, folder: Path, options: Mapping[str, Any]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Specs for a file without readable metadata: by the bundle's configs and the option `size`."""
    if "size" not in options:
        raise NetworkError(
            component,
            f"{file.path}: its shapes cannot be read (file version {file.version});"
            f' set its size in lcm.toml: [{component}] size = "512x512"',
        )
    try:
        shapes = input_shapes(component, folder.parent, parse_size(options["size"]))
    except NetworkError:
        raise
    except LcmError as error:
        raise NetworkError(component, str(error)) from error
    asked = options.get("inputs")
    count = len(asked) if asked and isinstance(asked, (list, tuple)) else len(shapes)
    names = _input_names(component, count, [], options)
    inputs = tuple(TensorSpec(name, shapes[name], _default_dtype(name)) for name in names)
    output = TensorSpec("output", (None,) * OUTPUT_RANKS[component], "float16")
    return inputs, (output,)


def _default_dtype(name: str) -> str:
    return "int64" if name in {"input_ids", "timestep"} else "float16"


def _layout(component: str, file: RknnFile, options: Mapping[str, Any]) -> str:
    asked = options.get("layout")
    if asked is not None and asked not in LAYOUTS:
        raise NetworkError(component, f"layout must be {' or '.join(LAYOUTS)}, not {asked!r}")
    declared = next((t.layout for t in file.inputs if t.layout and len(t.shape) == 4), None)
    return declared.lower() if declared else asked or "nhwc"

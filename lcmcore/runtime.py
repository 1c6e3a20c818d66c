"""What the core asks of a runtime, and how it finds one.

A runtime opens a network from a folder of a bundle. The core speaks to it in one language: arrays
by input *name*, NCHW, float32, ids and timesteps int64 with a timestep of shape [1]. Order, layout,
dtype and rank of the file behind it are the runtime's own business.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from lcmcore.errors import LcmError, NetworkError, RuntimeUnavailableError, first_line
from lcmcore.util.arrays import Array as Array  # noqa: PLC0414 - part of the contract
from lcmcore.util.files import is_file
from lcmcore.util.placeholder import EMPTY, placeholder_at
from lcmcore.util.validate import shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


ENTRY_POINTS = "lcmcore.runtimes"
NO_RUNTIME = "does not follow lcmcore.runtime.Runtime"
_MEMBERS: Mapping[str, tuple[Any, str]] = {
    "name": (str, "text"),
    "filename": (str, "text"),
    "priority": ((int, float), "a number"),
    "options": (AbstractSet, "a frozenset of names"),
}
_DTYPES = frozenset(
    ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
)
Finding = tuple[str, str, str]  # "ok", "warning" or "error"; what is so; what to do, or ""


class TensorSpec(NamedTuple):
    """One input or output of a network, in the core's terms (NCHW); None is a free dimension.

    `dtype` is numpy's name of what the file declares, e.g. "float16"; the core still hands over
    float32 and int64, and the runtime casts.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name} [{dims}] {self.dtype}"

    def is_valid(self) -> bool:
        """Whether name, dimensions and dtype are what they may be; no network has 2**20 of one."""
        return (
            isinstance(self.name, str)
            and isinstance(self.shape, (tuple, list))
            and all(dim is None or (type(dim) is int and 0 < dim < 2**20) for dim in self.shape)
            and isinstance(self.dtype, str)
            and self.dtype in _DTYPES
        )

    def fits(self, array: Array) -> bool:
        """Whether the array's rank and dimensions are acceptable here."""
        return len(self.shape) == array.ndim and all(
            want is None or want == got for want, got in zip(self.shape, array.shape, strict=True)
        )


@runtime_checkable
class Network(Protocol):
    """An opened network; subclass it.

    It is run by one thread at a time, unless several threads share a pipeline: then `run` may be
    called concurrently, and a network that cannot do that takes a lock. `trim` may come from
    another thread than `run`.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]  # the core takes that of the usual name, else the first

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, float32 NCHW; raises NetworkError when the device or library fails.

        The arrays are the caller's: the next run must not overwrite them.
        """

    @abstractmethod
    def close(self) -> None:
        """Free memory and device; calling it twice does no harm."""

    def trim(self) -> None:
        """Free memory that costs nothing to take again: another network's turn has come."""
        return


@runtime_checkable
class Runtime(Protocol):
    """A way to run networks, e.g. `runtimes.onnx.OnnxRuntime`; subclass it.

    Everything below `open` is optional: it has a default here.
    """

    name: str
    filename: str  # what it looks for in a component's folder, e.g. "model.onnx"
    priority: int  # "auto" takes the highest that can serve a component, and none below 0
    options: frozenset[str]  # keys that `open` understands

    @abstractmethod
    def available(self) -> str | None:
        """None if it can work on this machine, else why not and what to do, in one line."""

    @abstractmethod
    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        """Open the component's network; raises NetworkError or RuntimeUnavailableError.

        It may be called from another thread than the one that runs the network. Of a runtime that
        has "size" among its `options`, they may hold one of images, e.g. "512x384": a hint for
        compilers of fixed shapes. Images of other sizes are then made by tiles of that one.
        """

    def model_file(self, folder: Path) -> Path:
        """The file that it would open in a component's folder, which need not be there.

        The default is `filename`; a runtime that reads several formats looks which one is there.
        """
        return folder / self.filename

    def inputs(
        self, component: str, folder: Path, options: Mapping[str, Any]
    ) -> Sequence[TensorSpec] | None:
        """What the network takes, by its file alone; None, the default: open it to know.

        Raises NetworkError.
        """
        return None

    def worker_options(self, index: int, count: int) -> dict[str, Any]:
        """Options that bind worker `index` of `count` on one machine to its part of it.

        For example {"threads": 2} or {"core_mask": "1"}; the default is none. They are asked for
        the instances of one network, too.
        """
        return {}

    def variants(self) -> Iterator[Mapping[str, Any]]:
        """Options by which this machine computes in other ways, for `lcm bench --compare`.

        For example {"precision": "bfloat16"}. Or {"instances": 3}, as in lcm.toml, which is tried
        where an image takes several tiles. The default is one, without options.
        """
        yield {}

    def release_memory(self) -> None:
        """Free memory that only runs need: an image is done, or a pipeline is closed."""
        return

    def describe(self, path: Path) -> Iterator[str]:
        """Lines about a model file, for `lcm info`; raises LcmError.

        The default opens the network, and lists its inputs and outputs.
        """
        with closing(self.open(path.parent.name, path.parent, {})) as network:
            yield from list_specs(network.inputs, network.outputs)

    def check(self, path: Path) -> Iterator[str]:
        """Lines about what this runtime keeps for a model file, read whole, for `lcm info --check`.

        None here; damaged files of a cache are removed.
        """
        yield from ()

    def predict(self, path: Path) -> Mapping[str, Any] | None:
        """What one run of a model file will take, by the file alone, before it is measured.

        "seconds" is the time; the rest, values that JSON has, goes into reports as it is. None, the
        default: unknown. Raises LcmError.
        """
        return None

    def cost(self, path: Path) -> Iterator[str]:
        """Lines about what each layer of a model file takes, for `lcm info --cost`; none here."""
        yield from ()

    def machine(self) -> Mapping[str, str]:
        """The hardware, and the versions of what drives it, by name, for reports; none here."""
        return {}

    def diagnose(self, root: Path) -> Iterator[Finding]:
        """Findings about this machine and the model directory, for `lcm doctor`; none here."""
        yield from ()


@contextmanager
def foreign_errors(runtime: str, component: str | None = None) -> Iterator[None]:
    """Turn what a runtime's code raises, but for LcmErrors, into one that names the runtime.

    That is a NetworkError of the component, or a RuntimeUnavailableError where there is none.
    MemoryError passes, for it is not the runtime's fault.
    """
    try:
        yield
    except (LcmError, MemoryError):
        raise
    except Exception as error:  # a third party's code can fail in any way
        message = f"runtime {runtime!r} failed: {first_line(error)}"
        if component is None:
            raise RuntimeUnavailableError(message) from error
        raise NetworkError(component, message) from error


def installed_runtimes() -> dict[str, EntryPoint]:
    """Every runtime registered in the entry-point group `lcmcore.runtimes`, by name."""
    from importlib import metadata  # costs more than numpy's share of a bare import

    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}


def find_runtime(name: str, entries: Mapping[str, EntryPoint] | None = None) -> Runtime:
    """The runtime of that name; raises RuntimeUnavailableError if there is none that imports.

    `entries` is what `installed_runtimes` returned: to ask again takes milliseconds.
    """
    entries = installed_runtimes() if entries is None else entries
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none (is lcmcore installed with pip?)"
        raise RuntimeUnavailableError(f"unknown runtime {name!r}: installed are auto, {known}")
    try:
        runtime = entries[name].load()()
    except Exception as error:  # a third party's import can fail in any way
        raise RuntimeUnavailableError(
            f"runtime {name!r} does not import: {first_line(error)}"
        ) from error
    if (reason := breach_of_contract(runtime)) is not None:
        raise RuntimeUnavailableError(f"runtime {name!r} {reason}")
    return runtime  # type: ignore[no-any-return]  # as was just checked


def breach_of_contract(runtime: object) -> str | None:
    """Why an object is no Runtime, None if it is one; `isinstance` ignores data members."""
    try:
        if not isinstance(runtime, Runtime):
            return NO_RUNTIME
        missing = [name for name in _MEMBERS if not hasattr(runtime, name)]
        if missing:
            return f"lacks {', '.join(missing)} of lcmcore.runtime.Runtime"
        for name, (kind, expected) in _MEMBERS.items():
            if not isinstance(getattr(runtime, name), kind):
                return f"has a member {name} that is not {expected}"
        if not all(isinstance(option, str) for option in runtime.options):
            return "has a member options that is not a frozenset of names"
    except Exception as error:  # a third party's property
        return f"failed: {first_line(error)}"
    return None


def importable_runtimes(entries: Mapping[str, EntryPoint] | None = None) -> Iterator[Runtime]:
    """The installed runtimes; a broken one must not hide the others."""
    entries = installed_runtimes() if entries is None else entries
    for name in entries:
        with suppress(RuntimeUnavailableError):
            yield find_runtime(name, entries)


def worker_options(index: int, count: int) -> dict[str, Any]:
    """Options for worker `index` of `count`, of every runtime that works on this machine."""
    options: dict[str, Any] = {}
    for runtime in importable_runtimes():
        with suppress(RuntimeUnavailableError), foreign_errors(runtime.name):
            require_available(runtime)
            options |= runtime.worker_options(index, count)
    return options


def describe_file(
    runtime: Runtime, path: Path, check: bool = False, cost: bool = False
) -> Iterator[str]:
    """The runtime's lines about a model file, with those of `check` and `cost` if asked.

    Raises LcmError.
    """
    with foreign_errors(runtime.name, path.parent.name):
        yield from map(str, runtime.describe(path))
        if check:
            yield from map(str, runtime.check(path))
        if cost:
            yield from map(str, runtime.cost(path))


def list_specs(inputs: Iterable[object], outputs: Iterable[object]) -> Iterator[str]:
    """A line for each input and output, for `Runtime.describe`."""
    yield from (f"input {spec}" for spec in inputs)
    yield from (f"output {spec}" for spec in outputs)


def core_spec(spec: TensorSpec) -> TensorSpec:
    """What the core is told of an input that a file declares: a timestep has the shape [1]."""
    return TensorSpec(spec.name, (1,), spec.dtype) if spec.name == "timestep" else spec


def as_declared(spec: TensorSpec, array: Array, batch: int) -> Array:
    """An array of the core in the shape and dtype that a file declares.

    A timestep may have rank 0 there, or one element for each of the `batch` items.
    """
    if spec.name == "timestep":
        shape = (spec.shape[0] or batch,) if spec.shape else ()
        array = np.full(shape, array[0])
    return array.astype(spec.dtype, copy=False)


def require_available(runtime: Runtime) -> None:
    """Raise RuntimeUnavailableError if the runtime cannot work on this machine."""
    try:
        reason = runtime.available()
    except Exception as error:  # a third party's
        reason = first_line(error)
    if reason is not None:
        raise RuntimeUnavailableError(f"runtime {runtime.name!r} cannot be used here: {reason}")


def require_file(component: str, folder: Path, filename: str) -> Path:
    """The component's file; raises NetworkError if it is missing, or was never fetched."""
    path = folder / filename
    if not is_file(path):
        raise NetworkError(component, f"no {filename} in {folder}")
    if (found := placeholder_at(path)) not in (None, EMPTY):  # a runtime's marker may be empty
        raise NetworkError(component, f"cannot open {path}: {found}")
    return path


def check_specs(component: str, specs: Any) -> None:
    """Check the inputs or outputs that a file, or a third party's runtime, declares.

    Raises NetworkError.
    """
    if not isinstance(specs, Sequence):
        raise NetworkError(component, f"declares no list of inputs or outputs: {shown(specs)}")
    for spec in specs:
        if not isinstance(spec, TensorSpec) or not spec.is_valid():
            raise NetworkError(component, f"declares an invalid input or output: {shown(spec)}")


def check_inputs(component: str, specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Compare arrays with what a network takes, by name, kind and shape; raises NetworkError.

    All numbers must be finite in the type that the file declares, e.g. up to 65504 for float16.
    """
    expected = {spec.name: spec for spec in specs}
    for name in expected.keys() ^ inputs.keys():
        verb = "is missing" if name in expected else "is unexpected"
        raise NetworkError(component, f"input {name} {verb}; expected {', '.join(expected)}")
    for name, array in inputs.items():
        spec = expected[name]
        kind = np.dtype(spec.dtype)
        floats_into_ints = array.dtype.kind == "f" and kind.kind in "iu"
        if floats_into_ints or array.dtype.kind not in "biuf" or not spec.fits(array):
            got = TensorSpec(name, array.shape, array.dtype.name)
            raise NetworkError(component, f"input {got} does not fit: expected {spec}")
        largest = _largest(array)
        if not np.isfinite(largest):
            raise NetworkError(component, f"input {name} holds NaN or infinity")
        if kind.kind == "f" and largest > float(np.finfo(kind).max):
            raise NetworkError(component, f"input {name} holds a number too large for {kind}")


def check_outputs(
    component: str, specs: Sequence[TensorSpec], outputs: Mapping[str, Array]
) -> None:
    """Compare what a network returned with what it declared; all values must be finite.

    Raises NetworkError.
    """
    if not isinstance(outputs, Mapping):
        found = type(outputs).__name__
        raise NetworkError(component, f"returned {found}: expected a dictionary of outputs")
    for spec in specs:
        array = outputs.get(spec.name)
        if not isinstance(array, np.ndarray):
            raise NetworkError(component, f"returned no output {spec.name}")
        if not spec.fits(array) or array.dtype != np.float32:
            got = TensorSpec(spec.name, array.shape, array.dtype.name)
            wanted = TensorSpec(spec.name, spec.shape, "float32")
            raise NetworkError(component, f"returned {got}: expected {wanted}")
        if not np.isfinite(array).all():
            raise NetworkError(
                component,
                f"output {spec.name} holds NaN or infinity"
                " (in half precision: an overflow; try this network on another runtime)",
            )


def _largest(array: Array) -> float:
    """The largest absolute value, NaN if there is one; 0 of no values."""
    return float(np.abs(array).max(initial=0))

"""Opens openvino_model.xml, or model.onnx, with OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lcmcore.errors import (
    ArgumentError,
    LcmError,
    NetworkError,
    RuntimeUnavailableError,
    first_line,
)
from lcmcore.runtime import (
    Finding,
    Network,
    Runtime,
    TensorSpec,
    core_spec,
    list_specs,
    require_available,
    require_file,
)
from lcmcore.util.cpu import usable_cores
from lcmcore.util.files import is_file
from lcmcore.util.memory import return_freed
from lcmcore.util.placeholder import placeholder_at
from lcmcore.util.validate import one_of, shown, whole_number
from runtimes.onnx import graph_cache, sampling
from runtimes.onnx.inputs import inputs_of
from runtimes.openvino import package
from runtimes.openvino.files import IR, model_files
from runtimes.openvino.network import OpenVINONetwork, declared
from runtimes.rknn.shapes import Shape, Size, input_shapes, parse_size

log = logging.getLogger("lcmcore.runtimes.openvino")

# By the name of a precision: OpenVINO's, and how a device's list of capabilities calls it.
PRECISIONS = {
    "float32": ("f32", "FP32"),
    "bfloat16": ("bf16", "BF16"),
    "float16": ("f16", "FP16"),
}
# Bytes: OpenVINO compiles the demo model's networks (1 to 18 MB) in 1.8 s of CPU time, and has them
# from the cache in 0.4 s; it opens smaller ones as fast.
MIN_BYTES = 2**20
_CACHE = "openvino"  # begins the folders of the cache, one for each device and precision
_COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
_CPU, _AUTO = "CPU", "AUTO"
# What multiplies bfloat16 at twice the rate of float32 and more; AVX-512 alone has no gain by it.
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


class OpenVINORuntime(Runtime):
    """OpenVINO's compiled models.

    Options: `device`, "CPU" (the default), "GPU", "NPU" or "AUTO"; `precision` of the arithmetic,
    "float32" (the default), "bfloat16" or "float16", where the device has it; `threads` of the CPU
    (default: OpenVINO's choice, one a core); `graph_cache`, whether compiled models are kept on the
    disk (default: true); `size`, e.g. "512x384", which what is free in a model is compiled for
    (default: it stays free).
    """

    name = "openvino"
    filename = "model.onnx"
    priority = -1  # only if it is asked for: ONNX Runtime opens the same file
    options = frozenset({"device", "precision", "threads", "graph_cache", "size"})

    def available(self) -> str | None:
        """None if openvino is installed."""
        if find_spec("openvino") is None:
            return "openvino is not installed: pip install 'lcmcore[openvino]'"
        return None

    def model_file(self, folder: Path) -> Path:
        """OpenVINO's own format where it is there, else model.onnx."""
        own = folder / IR
        return own if is_file(own) else folder / self.filename

    def worker_options(self, index: int, count: int) -> dict[str, Any]:
        """An equal part of the CPU's cores for each of `count` workers."""
        return {"threads": max(1, len(usable_cores()) // count)}

    def inputs(
        self, component: str, folder: Path, options: Mapping[str, Any]
    ) -> Sequence[TensorSpec] | None:
        """What a model.onnx takes: to read it takes less time than OpenVINO's compiled model.

        None for OpenVINO's own format, and for what cannot be read: `open` says what is wrong.
        """
        path = self.model_file(folder)
        if path.suffix == ".xml":
            return None
        try:
            shapes = _shapes(component, folder, _size(options))
            return [
                core_spec(spec._replace(shape=_fixed(spec, shapes)) if shapes else spec)
                for spec in inputs_of(path)
            ]
        except (OSError, ValueError):
            return None

    def release_memory(self) -> None:
        """Give what runs have freed back to the system."""
        return_freed()

    def variants(self) -> Iterator[Mapping[str, Any]]:
        """Each precision of each device."""
        _, core = package.load()
        for device in core.available_devices:
            place = {} if device == _CPU else {"device": device}
            yield from ({**place, "precision": each} for each in _precisions(core, device))

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        """A compiled model; raises NetworkError, ArgumentError or RuntimeUnavailableError."""
        require_available(self)
        path = require_file(component, folder, self.model_file(folder).name)
        openvino, core = package.load()
        device, config = _configuration(core, options)
        cached = options.get("graph_cache", True)
        if not isinstance(cached, bool):
            raise ArgumentError(f"graph_cache must be true or false, not {shown(cached)}")
        size = _size(options)
        shapes = _shapes(component, folder, size)
        with _as_network_errors(component, path):
            model_files(path)
            _warn_of_draws(path)
            compile_in = partial(_compile, core, component, path, shapes, device, config)
            compiled = blob = None
            if cached:
                parts = [_CACHE, device, config["INFERENCE_PRECISION_HINT"]]
                parts += [] if size is None else ["{}x{}".format(*size)]
                cache = "-".join(parts).lower()
                compiled, blob = _open_cached(path, openvino.__version__, cache, compile_in)
            return OpenVINONetwork(component, compiled or compile_in(None), blob)

    def describe(self, path: Path) -> Iterator[str]:
        """Lines about a model, for `lcm info`, which is read and not compiled.

        Raises NetworkError.
        """
        require_available(self)
        component = path.parent.name
        with _as_network_errors(component, path):
            model_files(path)
            _, core = package.load()
            inputs, outputs = declared(component, core.read_model(str(path)))
        yield from list_specs(map(core_spec, inputs), outputs)
        yield from _cached_states(path)

    def check(self, path: Path) -> Iterator[str]:
        """A line about each compiled model that is kept for a file, which is read whole."""
        for cache in graph_cache.folders(_CACHE):
            line = graph_cache.check(path, cache)
            if line is not None:
                yield f"{cache}: {line}"

    def machine(self) -> Mapping[str, str]:
        """OpenVINO's version, and the full name of each device."""
        openvino, core = package.load()
        names = {
            each: core.get_property(each, "FULL_DEVICE_NAME") for each in core.available_devices
        }
        return {"openvino": openvino.__version__, **names}

    def diagnose(self, root: Path) -> Iterator[Finding]:
        """OpenVINO's devices and their precisions, and the model's own files, for `lcm doctor`."""
        if self.available() is not None:
            return
        try:
            openvino, core = package.load()
        except RuntimeUnavailableError as error:
            yield "warning", str(error), "pip install --force-reinstall openvino"
            return
        yield "ok", f"openvino {openvino.__version__}", ""
        for device in core.available_devices:
            name = core.get_property(device, "FULL_DEVICE_NAME")
            yield (
                "ok",
                f"OpenVINO device {device}: {name}, {', '.join(_precisions(core, device))}",
                "",
            )
        found = _fast_bfloat16()
        yield "ok", f"this processor has {found or 'no fast bfloat16 (AVX512-BF16 or AMX)'}", ""
        for path in (root / component / IR for component in _COMPONENTS):
            # Those that were never fetched are named for every runtime.
            if is_file(path) and placeholder_at(path.with_suffix(".bin")) is None:
                try:
                    model_files(path)
                except (OSError, ValueError) as error:
                    yield "error", str(error), "download or export the model again"


@contextmanager
def _as_network_errors(component: str, path: Path) -> Iterator[None]:
    """Turn what reading or compiling a model raises into a NetworkError."""
    try:
        yield
    except LcmError:
        raise
    except (OSError, ValueError) as error:
        raise NetworkError(component, f"cannot open {path}: {first_line(error)}") from error
    except Exception as error:  # OpenVINO raises RuntimeError and more
        reason = package.reason_of(error)
        raise NetworkError(component, f"cannot open {path}: {reason}") from error


def _configuration(core: Any, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The device, and OpenVINO's properties; raises ArgumentError."""
    device = one_of("device", options.get("device", _CPU), [*core.available_devices, _AUTO])
    precision = one_of("precision", options.get("precision", "float32"), PRECISIONS)
    known = _precisions(core, device)
    if precision not in known:
        raise ArgumentError(f"precision {precision}: OpenVINO's {device} has {', '.join(known)}")
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision][0],
        "PERFORMANCE_HINT": "LATENCY",
    }
    threads = options.get("threads")
    if threads is not None:
        count = whole_number("threads", threads, 1, 1024)
        if device == _CPU:  # workers would all be bound to the first cores
            config |= {"INFERENCE_NUM_THREADS": count, "ENABLE_CPU_PINNING": False}
    return device, config


def _size(options: Mapping[str, Any]) -> Size | None:
    """(width, height) of the option `size`, if it is given; raises ArgumentError."""
    size = options.get("size")
    return None if size is None else parse_size(size)


def _shapes(component: str, folder: Path, size: Size | None) -> Mapping[str, Shape]:
    """Those of a network's inputs at that size, by name; none where it stays free.

    Raises BundleError or ArgumentError.
    """
    return {} if size is None else input_shapes(component, folder.parent, size)


def _precisions(core: Any, device: str) -> list[str]:
    """The precisions that a device has, by their names here."""
    capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return [name for name, (_, theirs) in PRECISIONS.items() if theirs in capabilities]


def _compile(
    core: Any,
    component: str,
    path: Path,
    shapes: Mapping[str, Shape],
    device: str,
    config: Mapping[str, Any],
    folder: Path | None,
) -> Any:
    """The compiled model, which OpenVINO's cache in `folder` has, or gets, if there is one.

    `shapes` are those of the inputs, by name, for what the model leaves free.
    """
    cache = {} if folder is None else {"CACHE_DIR": str(folder)}
    model: Any = str(path)
    if shapes:
        model = core.read_model(model)
        inputs, _ = declared(component, model)
        model.reshape({port: list(_fixed(spec, shapes)) for port, spec in enumerate(inputs)})
    return core.compile_model(model, device, {**config, **cache})


def _fixed(spec: TensorSpec, shapes: Mapping[str, Shape]) -> Shape:
    """An input's shape, of `shapes` what it leaves free; the only input may have any name."""
    wanted = shapes.get(spec.name) or next(iter(shapes.values()))
    rank = len(spec.shape)  # that of a timestep may be 0
    return tuple(
        size if known is None else known
        for known, size in zip(spec.shape, wanted[:rank], strict=True)
    )


def _open_cached(
    path: Path, version: str, cache: str, compile_in: Callable[[Path], Any]
) -> tuple[Any, Path | None]:
    """The compiled model that the cache has, or builds, and its file; None and None if none."""

    def build(_: Path, target: Path) -> None:
        compile_in(target)

    with graph_cache.optimized(path, version, build, cache, model_files, MIN_BYTES) as entry:
        if entry is None:
            return None, None
        try:
            compiled = compile_in(entry)
            # Else OpenVINO has read the model, and written what it compiled beside the entry's own.
            if compiled.get_property("LOADED_FROM_CACHE"):
                return compiled, next(entry.glob("*.blob"), None)
        except Exception:  # the model itself is opened instead
            compiled = None
        graph_cache.discard(entry)
        return compiled, None


def _cached_states(path: Path) -> Iterator[str]:
    """A line about what the cache has of a model, for each device and precision."""
    openvino, _ = package.load()
    for cache in graph_cache.folders(_CACHE):
        yield f"{cache}: {graph_cache.state(path, openvino.__version__, cache, MIN_BYTES)}"


def _warn_of_draws(path: Path) -> None:
    if path.suffix != ".xml":
        sampling.warn(path, sampling.random_operators(path))


def _fast_bfloat16() -> str:
    """What multiplies bfloat16 fast in this processor; "" if nothing, or unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return ", ".join(flag for flag in _BFLOAT16_FLAGS if flag in flags)

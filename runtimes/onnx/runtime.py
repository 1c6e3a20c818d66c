"""Opens model.onnx with ONNX Runtime, which is imported when the first network is opened."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lcmcore.errors import ArgumentError, NetworkError, RuntimeUnavailableError, first_line
from lcmcore.runtime import (
    Finding,
    Network,
    Runtime,
    list_specs,
    require_available,
    require_file,
)
from lcmcore.util.cpu import usable_cores
from lcmcore.util.files import is_file
from lcmcore.util.validate import shown
from runtimes.onnx import arena, cpu, graph_cache, sampling
from runtimes.onnx.model_files import external_files, faults
from runtimes.onnx.network import OnnxNetwork

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger("lcmcore.runtimes.onnx")

# The folders of a model directory that are diagnosed: others, safety_checker for one, are not read.
_COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
Provider: TypeAlias = "str | tuple[str, dict[str, Any]]"
_DEFAULT_PROVIDERS = ("CPUExecutionProvider",)
_FATAL = 4  # ONNX Runtime's log level: errors are raised as exceptions, too


class OnnxRuntime(Runtime):
    """ONNX Runtime sessions on the CPU, or on other execution providers.

    Options: `threads`, the number of threads of an operator (default: one for each core, or for
    each big core where there are big and little ones); `providers`, names of execution providers
    in order of preference, or (name, options) of each; `graph_cache`, whether optimized graphs are
    kept on the disk (default: true).
    """

    name = "onnx"
    filename = "model.onnx"
    priority = 0
    options = frozenset({"threads", "providers", "graph_cache"})

    def available(self) -> str | None:
        """None if onnxruntime is installed."""
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install 'lcmcore[onnx]'"
        return None

    def worker_options(self, index: int, count: int) -> dict[str, Any]:
        """An equal part of the CPU's cores for each of `count` workers."""
        return {"threads": max(1, len(usable_cores()) // count)}

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        """A session on folder/model.onnx; raises NetworkError or ArgumentError."""
        require_available(self)
        path = require_file(component, folder, self.filename)
        onnxruntime = _import()
        providers = _providers(options.get("providers"), onnxruntime.get_available_providers())
        threads = options.get("threads")
        on_cpu = providers == list(_DEFAULT_PROVIDERS)
        settings = _session_options(onnxruntime, threads, on_cpu)
        cached = options.get("graph_cache", True)
        if not isinstance(cached, bool):
            raise ArgumentError(f"graph_cache must be true or false, not {shown(cached)}")
        plain = partial(_open_plain, onnxruntime, component, path, settings, providers)
        if not (cached and on_cpu):
            log.info("%s: no optimized graph, as asked for", path)
            return OnnxNetwork(component, plain())
        session, graph = _open_optimized(onnxruntime, path, threads)
        if graph is None:
            return OnnxNetwork(component, plain())
        return OnnxNetwork(component, session, graph, plain)

    def release_memory(self) -> None:
        """Return to the system the memory that runs have left; the next run takes it again."""
        ort = sys.modules.get("onnxruntime")
        if ort is not None:
            arena.shrink(ort)

    def diagnose(self, root: Path) -> Iterator[Finding]:
        """Whether onnxruntime can be imported, and the model's files be read, for `lcm doctor`."""
        if self.available() is None:
            try:
                yield "ok", f"onnxruntime {_import().__version__}", ""
            except RuntimeUnavailableError as error:
                yield "error", str(error), "pip install --force-reinstall onnxruntime"
        for path in (root / component / self.filename for component in _COMPONENTS):
            if is_file(path):  # else no runtime takes it, of which the doctor tells
                for text, remedy in faults(path):
                    yield "error", text, remedy

    def describe(self, path: Path) -> Iterator[str]:
        """Lines about a model.onnx, for `lcm info`; raises NetworkError."""
        with closing(self.open(path.parent.name, path.parent, {"graph_cache": False})) as network:
            yield from list_specs(network.inputs, network.outputs)
        import onnxruntime

        yield from sampling.state(path, onnxruntime)
        yield graph_cache.state(path, onnxruntime.__version__)

    def check(self, path: Path) -> Iterator[str]:
        """A line about the optimized graph of a model.onnx, which is read whole."""
        line = graph_cache.check(path)
        if line is not None:
            yield line


def _import() -> Any:
    """ONNX Runtime; raises RuntimeUnavailableError."""
    try:
        import onnxruntime
    except Exception as error:  # a broken wheel may raise anything
        raise RuntimeUnavailableError(
            f"onnxruntime cannot be imported: {first_line(error)}"
        ) from error
    return onnxruntime


def _open_plain(
    ort: Any, component: str, path: Path, settings: Any, providers: Sequence[object]
) -> Any:
    """A session on the model itself; raises NetworkError."""
    try:
        external_files(path)  # older releases wait for a FIFO, and read what lies anywhere
        model = sampling.prepared(path, ort)
        return ort.InferenceSession(model, settings, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise NetworkError(component, f"cannot open {path}: {first_line(error)}") from error


def _open_optimized(ort: Any, path: Path, threads: Any) -> tuple[Any, Path | None]:
    """A session on the optimized graph, and its file; None and None if there is none."""

    def build(source: Path, target: Path) -> None:
        from runtimes.onnx.optimize import optimize

        optimize(source, target, ort)

    with graph_cache.optimized(path, ort.__version__, build) as entry:
        if entry is None:
            return None, None
        graph = entry / graph_cache.GRAPH
        try:
            sampling.warn(path, sampling.random_operators(graph))
            return open_mapped(ort, graph, threads), graph
        except Exception:  # as in `open`; the plain model is opened instead
            graph_cache.discard(entry)
            return None, None


def open_mapped(ort: Any, graph: Path, threads: Any = None) -> Any:
    """A session on a graph of `optimize`, weights mapped; raises what ONNX Runtime raises."""
    settings = _session_options(ort, threads, True)
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.disable_prepacking", "1")  # which copies weights
    return ort.InferenceSession(graph, settings, providers=list(_DEFAULT_PROVIDERS))


def _session_options(ort: Any, threads: Any, on_cpu: bool) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    if on_cpu:
        arena.use_shared_arena(ort, options)
    options.log_severity_level = _FATAL
    # Without this, threads spin for a while after a run, on the cores that the next network needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        if type(threads) is not int or not 1 <= threads <= 1024:
            raise ArgumentError(f"threads must be from 1 to 1024, not {shown(threads)}")
        options.intra_op_num_threads = threads
    elif big := cpu.big():
        options.intra_op_num_threads = len(big)
        # For the threads that ONNX Runtime starts, so without the caller's; it counts cores from 1.
        affinities = ";".join(str(core + 1) for core in big[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    return options


def _providers(asked: Any, available: Sequence[str]) -> list[Provider]:
    """The execution providers; each that comes with options as (name, options)."""
    if asked is None:
        return list(_DEFAULT_PROVIDERS)
    items = [asked] if isinstance(asked, str) else asked
    if not isinstance(items, (list, tuple)) or not items:
        raise ArgumentError(f"providers must be a list of names, not {shown(asked)}")
    return [_provider(item, available) for item in items]


def _provider(item: Any, available: Sequence[str]) -> Provider:
    is_pair = isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[1], Mapping)
    name = item[0] if is_pair else item
    if name not in available:
        raise ArgumentError(
            f"providers: {shown(name)} is not in this onnxruntime, which has {', '.join(available)}"
        )
    return (name, dict(item[1])) if is_pair else name

"""Optimizes a model's graph for good: a pass of ONNX Runtime, our rewrites, another pass."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lcmcore.util.memory import available_bytes
from runtimes.onnx.graph import Graph
from runtimes.onnx.graph_cache import GRAPH, WEIGHTS
from runtimes.onnx.model_files import external_files
from runtimes.onnx.rewrites.attention import attention
from runtimes.onnx.rewrites.cut_before_draw import cut_before_draw
from runtimes.onnx.rewrites.group_norm import group_norm
from runtimes.onnx.rewrites.split_matmul import split_matmul
from runtimes.onnx.rewrites.transposed_matmul import transposed_matmul
from runtimes.onnx.rewrites.upsample_conv import upsample_conv
from runtimes.onnx.rewrites.winograd_conv import winograd_conv

REWRITES = (  # in this order: winograd_conv takes upsamplings that upsample_conv would
    attention,
    winograd_conv,
    upsample_conv,
    split_matmul,
    transposed_matmul,
    group_norm,
)
_MAX_EMBEDDED_BYTES = 2**24  # of a model that is written with its weights inside


def optimize(
    source: Path,
    target: Path,
    ort: Any,
    rewrites: Iterable[Callable[[Graph], int]] = REWRITES,
) -> dict[str, int]:
    """Write GRAPH and WEIGHTS into the folder `target`; returns how often each rewrite applied.

    The first pass folds constants, from which the rewrites read shapes; the last one reorders
    weights for this CPU's kernels (NCHWc), if there is memory for that. The model is a stranger's:
    it is only read, where it lies, and what is written has names of ours in folders of ours, so
    that no name in the model or beside it can lead a write elsewhere. That costs a copy of its
    weights, written by the first pass. Raises OSError, ValueError for a file that is not an ONNX
    model or has weights outside of its folder, and what ONNX Runtime raises.
    """
    files = external_files(source)
    with tempfile.TemporaryDirectory(prefix="work-", dir=target.parent) as name:
        folded, rewritten = Path(name, "folded.onnx"), Path(name, "rewritten.onnx")
        _fold(ort, files, folded)
        graph = Graph(folded)
        cut_before_draw(graph, ort)
        counts = {rewrite.__name__: rewrite(graph) for rewrite in rewrites}
        graph.save(rewritten)
        levels = ort.GraphOptimizationLevel
        last = levels.ORT_ENABLE_ALL if _has_room(files) else levels.ORT_ENABLE_EXTENDED
        _save(ort, rewritten, target / GRAPH, last, WEIGHTS)
    return counts


def _fold(ort: Any, files: list[Path], folded: Path) -> None:
    """The first pass: write a model of these `files`, constants folded, and its weights."""
    source = files[0]
    embedded = len(files) == 1 and source.stat().st_size <= _MAX_EMBEDDED_BYTES
    # A name that no model can hold: what it calls by this name would be taken from here.
    weights = folded.with_name(f"{os.urandom(8).hex()}.weights")
    basic = (ort, source, folded, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    try:
        _save(*basic, None if embedded else weights.name)
    except Exception:  # folded constants (float16 cast to float32) exceed protobuf's 2 GiB
        if not embedded:
            raise
        _save(*basic, weights.name)
    if not {*external_files(folded)} <= {folded, weights}:
        raise ValueError(f"{source}: ONNX Runtime {ort.__version__} left weights where they are")


def _has_room(files: Iterable[Path]) -> bool:
    """Whether memory holds the weights: reordering them needs that, and saves 4 % of a run."""
    free = available_bytes()
    return free is None or free > 1.2 * sum(path.stat().st_size for path in files)


def _save(ort: Any, source: Path, target: Path, level: Any, weights: str | None) -> None:
    """One pass of ONNX Runtime; weights go to the file of that name beside, or are embedded."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")
    if weights is not None:
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", weights)
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

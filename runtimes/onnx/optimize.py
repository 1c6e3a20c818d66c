"""Optimizes a model's graph for good: a pass of ONNX Runtime, our rewrites, another pass."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lcmcore.util.memory import available_bytes
from runtimes.onnx.graph import Graph, external_files
from runtimes.onnx.graph_cache import GRAPH, WEIGHTS
from runtimes.onnx.rewrites.attention import attention
from runtimes.onnx.rewrites.group_norm import group_norm
from runtimes.onnx.rewrites.split_matmul import split_matmul
from runtimes.onnx.rewrites.transposed_matmul import transposed_matmul
from runtimes.onnx.rewrites.upsample_conv import upsample_conv
from runtimes.onnx.rewrites.winograd_conv import winograd_conv
from runtimes.onnx.sampling import cut_before_draw

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
    weights for this CPU's kernels (NCHWc), if there is memory for that. Raises OSError, ValueError
    for a file that is not an ONNX model, and what ONNX Runtime raises.
    """
    with tempfile.TemporaryDirectory(prefix="work-", dir=target.parent) as name:
        work = Path(name)
        files = external_files(source)
        for path in files:  # ONNX Runtime reads and writes weights beside their graph
            _link(path, work / path.relative_to(source.parent))
        folded, rewritten = work / "folded.onnx", work / "rewritten.onnx"
        levels = ort.GraphOptimizationLevel
        basic = (ort, work / source.name, folded, levels.ORT_ENABLE_BASIC)
        try:
            _save(*basic, source.stat().st_size > _MAX_EMBEDDED_BYTES)
        except Exception:  # folded constants (float16 cast to float32) exceed protobuf's 2 GiB
            _save(*basic, True)
        graph = Graph(folded)
        cut_before_draw(graph, ort)
        counts = {rewrite.__name__: rewrite(graph) for rewrite in rewrites}
        graph.save(rewritten)
        last = levels.ORT_ENABLE_ALL if _has_room(files) else levels.ORT_ENABLE_EXTENDED
        _save(ort, rewritten, target / GRAPH, last, True)
    return counts


def _has_room(files: Iterable[Path]) -> bool:
    """Whether memory holds the weights: reordering them needs that, and saves 4 % of a run."""
    free = available_bytes()
    return free is None or free > 1.2 * sum(path.stat().st_size for path in files)


def _save(ort: Any, source: Path, target: Path, level: Any, external: bool) -> None:
    """One pass of ONNX Runtime; `external` writes weights to WEIGHTS, else they are embedded."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")
    if external:
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", WEIGHTS)
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or a file that belongs to someone else
        shutil.copyfile(source, target)

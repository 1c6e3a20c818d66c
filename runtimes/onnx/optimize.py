"""Optimizes a model once and for all: ONNX Runtime's ways, and ours between two of its passes."""

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
from runtimes.onnx.rewrites.attention import fuse_attention
from runtimes.onnx.rewrites.group_norm import rewrite_group_norms
from runtimes.onnx.rewrites.split_matmul import cut_weights
from runtimes.onnx.rewrites.transposed_matmul import turn_products
from runtimes.onnx.rewrites.upsample_conv import fold_upsampling
from runtimes.onnx.rewrites.winograd_conv import transform_convolutions

REWRITES = (  # what each returns is how many places it has changed
    fuse_attention,
    transform_convolutions,
    fold_upsampling,
    cut_weights,
    turn_products,
    rewrite_group_norms,
)
_EMBEDDED = 2**24  # bytes of a graph that has its weights inside


def optimize(
    source: Path,
    target: Path,
    ort: Any,
    rewrites: Iterable[Callable[[Graph], int]] = REWRITES,
) -> dict[str, int]:
    """Write GRAPH and WEIGHTS into the folder `target`; returns what each rewrite has changed.

    The first pass folds constants, so that shapes can be told; the last one lays out weights as
    this CPU likes them, if there is memory for that. Raises what ONNX Runtime raises, OSError, and
    ValueError for no model.
    """
    with tempfile.TemporaryDirectory(prefix="work-", dir=target.parent) as name:
        work = Path(name)
        files = external_files(source)
        for path in files:  # ONNX Runtime wants weights beside their graph
            _link(path, work / path.relative_to(source.parent))
        folded, changed = work / "folded.onnx", work / "changed.onnx"
        levels = ort.GraphOptimizationLevel
        basic = (ort, work / source.name, folded, levels.ORT_ENABLE_BASIC)
        try:
            _save(*basic, source.stat().st_size > _EMBEDDED)
        except Exception:  # folded constants, of half precision made float32, exceed 2 GiB
            _save(*basic, True)
        graph = Graph(folded)
        counts = {rewrite.__name__: rewrite(graph) for rewrite in rewrites}
        graph.save(changed)
        laid_out = _has_room(files)
        last = levels.ORT_ENABLE_ALL if laid_out else levels.ORT_ENABLE_EXTENDED
        _save(ort, changed, target / GRAPH, last, True)
    return counts


def _has_room(files: Iterable[Path]) -> bool:
    """Whether memory holds the weights: laying them out anew takes that, and is worth 4 %."""
    free = available_bytes()
    return free is None or free > 1.2 * sum(path.stat().st_size for path in files)


def _save(ort: Any, source: Path, target: Path, level: Any, outside: bool) -> None:
    """One pass; `outside` puts the weights into WEIGHTS, and otherwise they stay where they are."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")
    if outside:
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", WEIGHTS)
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or another's file
        shutil.copyfile(source, target)

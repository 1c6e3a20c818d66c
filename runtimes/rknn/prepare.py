"""An ONNX network made ready for the converter: shapes fixed, constants folded, graph rewritten."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcmcore.errors import NetworkError, first_line
from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.protobuf import ValueInfoProto
from runtimes.rknn.onnxfile import OnnxFile
from runtimes.rknn.rewrites.attention import downsample_keys
from runtimes.rknn.rewrites.context import Context, Rewrite
from runtimes.rknn.rewrites.group_norm import exact, group_norm
from runtimes.rknn.rewrites.time_embedding import time_embedding
from runtimes.rknn.rewrites.upsample_conv import upsample_conv
from runtimes.rknn.shapes import Shape

REWRITES = (  # in this order
    Rewrite("time_embedding", time_embedding),
    Rewrite("upsample_conv", upsample_conv),
    Rewrite("group_norm", group_norm),
)
DOWNSAMPLE_KEYS = Rewrite("downsample_keys", downsample_keys, exact=False)
# Of the largest value of an output, in float32; half precision rounds to 5e-4 of each value.
MAX_DIFFERENCE = 1e-4

Sample = Mapping[str, Array]


class Prepared(NamedTuple):
    """A network for the converter, with what its rewrites did."""

    path: Path
    lines: tuple[str, ...]  # for a person, one for each rewrite that applied
    record: Mapping[str, Any]  # for the build record
    expected: Mapping[str, Array]  # its outputs for the first sample, in float32


def prepare(
    file: OnnxFile,
    at: Mapping[str, Shape],
    samples: Sequence[Sample],
    folder: Path,
    rewrites: Sequence[Rewrite] = REWRITES,
) -> Prepared:
    """Rewrite a network for these input shapes; all files go to the empty `folder`.

    An exact rewrite is kept if the network's outputs for the first sample are within MAX_DIFFERENCE
    of what they were, in float32. What another one changes, over all samples, is in its line and
    in the record, as "<name>_snr". Raises NetworkError.
    """
    path = file.fold(folder, at)
    record: dict[str, Any] = {}
    lines: list[str] = []
    try:
        expected = _outputs(path, samples[0])
        for rewrite in rewrites:
            graph, notes = Graph(path), dict[str, Any]()
            measure = partial(_measure, path, samples)
            line = rewrite.apply(Context(file.component, graph, _shapes(path), measure, notes))
            if not line:
                continue
            rewritten = folder / f"{rewrite.name}.onnx"
            graph.save(rewritten)
            got = _outputs(rewritten, samples[0])
            difference = _difference(got, expected)
            if not rewrite.exact:
                snr = _signal_to_noise(path, rewritten, samples)
                line += f"; {snr:.1f} dB from the exact result"
                notes[f"{rewrite.name}_snr"] = round(snr, 1)
                expected = got
            elif not difference <= MAX_DIFFERENCE:
                lines.append(f"{rewrite.name} left out: it changes the output by {difference:.1g}")
                continue
            path = rewritten
            record |= notes
            lines.append(line)
    except NetworkError:
        raise
    except Exception as error:  # ONNX Runtime's, onnx's and the system's share no base
        raise NetworkError(
            file.component, f"cannot rewrite {file.path}: {first_line(error)}"
        ) from error
    return Prepared(path, tuple(lines), record, expected)


def _shapes(path: Path) -> dict[str, Shape]:
    """The shape of each tensor; weights outside of the file are not read."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return found | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _measure(
    path: Path, samples: Sequence[Sample], nodes: Sequence[Node], names: Sequence[str]
) -> Iterator[dict[str, Array]]:
    """See Context.measure."""
    graph = Graph(path)
    graph.nodes += nodes
    graph.set_outputs([ValueInfoProto(name=name) for name in names])
    measured = path.with_name("measured.onnx")
    graph.save(measured)
    session = _open(measured)
    for sample in samples:
        yield dict(zip(names, session.run(list(names), dict(sample)), strict=True))


def _outputs(path: Path, sample: Sample) -> dict[str, Array]:
    return next(_runs(path, [sample]))


def _runs(path: Path, samples: Sequence[Sample]) -> Iterator[dict[str, Array]]:
    """The outputs for each sample, in float32; group norms are more exact than ONNX Runtime's."""
    graph = Graph(path)
    if exact(graph, _shapes(path)):
        path = path.with_name("exact.onnx")
        graph.save(path)
    session = _open(path)
    names = [value.name for value in session.get_outputs()]
    for sample in samples:
        yield dict(zip(names, session.run(names, dict(sample)), strict=True))


def _open(path: Path) -> Any:
    """A session that leaves the weights in their file."""
    import onnxruntime

    from runtimes.onnx.runtime import open_mapped

    return open_mapped(onnxruntime, path)


def _difference(got: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """The largest difference of an output, as a part of its largest value; nan if one is."""
    differences = [
        np.abs(got[name] - array).max() / max(np.abs(array).max(), 1e-30)
        for name, array in expected.items()
    ]
    return float(np.max(differences))


def _signal_to_noise(path: Path, changed: Path, samples: Sequence[Sample]) -> float:
    """The power of a network's outputs by that of their changes, in decibels; over all samples."""
    signal = noise = 1e-30
    exact_outputs = list(_runs(path, samples))  # one session at a time: the UNet is large
    for expected, got in zip(exact_outputs, _runs(changed, samples), strict=True):
        for name, array in expected.items():
            signal += float(np.square(array, dtype=float).sum())
            noise += float(np.square(got[name] - array, dtype=float).sum())
    return 10 * math.log10(signal / noise)

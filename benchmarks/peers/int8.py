"""Is a UNet of 8-bit weights worth it? `python -m benchmarks.peers.int8 DIR`, after `make peers`.

Quantizes the UNet of DIR's bundle dynamically with ONNX Runtime's own tool, once its matrix
products alone, once its convolutions too, and runs each beside the float one in turn. Needs the
packages of the optimum environment.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

ROUNDS = 5
QUANTIZED = {"matrix products in int8": ["MatMul"], "convolutions too": ["MatMul", "Conv"]}


def main(work: Path) -> None:
    """Print a row for each."""
    source = work / "bundle" / "unet" / "model.onnx"
    paths = {"float": source}
    for name, operators in QUANTIZED.items():
        paths[name] = work / "int8" / name.replace(" ", "-") / "model.onnx"
        if not paths[name].exists():
            quantize(source, paths[name], operators)
    sessions = {name: open_session(path) for name, path in paths.items()}
    feed = inputs(sessions["float"])
    outputs = {name: session.run(None, feed)[0] for name, session in sessions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feed)
            seconds[name].append(time.perf_counter() - start)
    for name, path in paths.items():
        size = sum(each.stat().st_size for each in path.parent.iterdir()) / 1e9
        step = statistics.median(seconds[name])
        noise = decibels(outputs[name], outputs["float"])
        print(f"{name}: {step:.2f} s a step, {size:.2f} GB on disk, {noise:.1f} dB from float")


def quantize(source: Path, target: Path, operators: list[str]) -> None:
    """Write a quantized model with its weights beside it."""
    target.parent.mkdir(parents=True)
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=operators,
        weight_type=QuantType.QUInt8 if "Conv" in operators else QuantType.QInt8,
        use_external_data_format=True,
    )


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session with ONNX Runtime's defaults."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def inputs(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """Random inputs for a picture of 256x256."""
    rng = np.random.default_rng(0)
    shapes = {
        "sample": (1, 4, 32, 32),
        "encoder_hidden_states": (1, 77, 768),
        "timestep_cond": (1, 256),
    }
    feed = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    (timestep,) = (each for each in session.get_inputs() if each.name == "timestep")
    kind = np.int64 if "int64" in timestep.type else np.float32
    return {**feed, "timestep": np.full([1] * len(timestep.shape), 499, kind)}


def decibels(got: np.ndarray, wanted: np.ndarray) -> float:
    """Signal-to-noise ratio."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(wanted).mean() / np.square(got - wanted).mean()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Group normalization in the simulator, with activations of 1e3 and 1e4 and large means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lcmcore.bundle import demo_dir
from runtimes.onnx.graph import Graph
from runtimes.rknn.build import Agreement
from runtimes.rknn.calibration import Calibration
from runtimes.rknn.cost import predict
from runtimes.rknn.onnxfile import OnnxFile
from runtimes.rknn.prepare import prepare
from runtimes.rknn.toolkit import Toolkit
from tests.rknn import test_group_norm as networks

SIDE = networks.SIDE
MIN_SNR = 56.0  # of a norm and the convolution after it; half precision rounds to 73 dB


def simulated(file: OnnxFile, at: dict[str, Any], sample: dict[str, Any], folder: Path) -> Any:
    """What was done to the network, and how close the simulator is to float32."""
    folder.mkdir()
    done = prepare(file, at, [sample], folder)
    with Toolkit(file.component) as toolkit:
        toolkit.build(done.path, at, "rk3588")
        (got,) = toolkit.run([sample[spec.name] for spec in file.inputs])
    return done, Agreement.between(got, next(iter(done.expected.values())))


@pytest.mark.parametrize("size", [1e-3, 1, 1e2, 1e3, 1e4])
def test_activations_of_any_size(tmp_path: Path, size: float) -> None:
    sample = {"sample": np.random.default_rng(0).standard_normal((1, 4, SIDE, SIDE), np.float32)}
    file = networks.residual(tmp_path / "in", size / 6)
    done, agreement = simulated(file, {"sample": (1, 4, SIDE, SIDE)}, sample, tmp_path / "out")
    print(size, done.lines, agreement)
    assert agreement.snr >= MIN_SNR


@pytest.mark.parametrize("mean", [1, 3, 10, 30])
@pytest.mark.parametrize("size", [1, 1e3])
def test_large_means(tmp_path: Path, size: float, mean: float) -> None:
    """Beside a deviation of `size`."""
    values = networks.constants(size / 6)
    values["bias"] = np.full(networks.CHANNELS, mean * size, np.float32)
    nodes = [
        networks.conv("sample", "first", "x"),
        *networks.group_norm("x", "n"),
        networks.conv("n", "last", "y", 1, ""),
    ]
    file = networks.network(tmp_path / "in", nodes, [1, 3, "h", "w"], values)
    sample = {"sample": np.random.default_rng(0).standard_normal((1, 4, SIDE, SIDE), np.float32)}
    done, agreement = simulated(file, {"sample": (1, 4, SIDE, SIDE)}, sample, tmp_path / "out")
    print(size, mean, done.lines, agreement)
    assert agreement.snr >= MIN_SNR - 20 * np.log10(max(1, mean / 3))  # lost by x itself


@pytest.mark.parametrize("size", [1.0, 1e3, 1e4])
def test_the_demo_decoder_with_larger_activations(tmp_path: Path, size: float) -> None:
    """All that lies between normalizations, `size` times as large: the image is the same."""
    root = demo_dir()
    file = OnnxFile.read("vae_decoder", root / "vae_decoder" / "model.onnx")
    at = {"latent_sample": (1, 4, 8, 8)}
    (tmp_path / "folded").mkdir()
    enlarge(file.fold(tmp_path / "folded", at), tmp_path / "model.onnx", size)
    larger = OnnxFile.read("vae_decoder", tmp_path / "model.onnx")
    samples, _ = Calibration(root, (64, 64)).samples("vae_decoder", larger.at(at))
    done, agreement = simulated(larger, at, samples[0], tmp_path / "out")
    print(size, done.lines, agreement)
    assert agreement.snr >= 40


def test_a_rewritten_norm_is_a_group_norm_in_predictions(tmp_path: Path) -> None:
    """Its layers keep the names of the rewrite's nodes; convolutions around it are not of it."""
    (tmp_path / "out").mkdir()
    file = networks.residual(tmp_path / "in", 1)
    at = {"sample": (1, 4, SIDE, SIDE)}
    sample = {"sample": np.random.default_rng(0).standard_normal((1, 4, SIDE, SIDE), np.float32)}
    done = prepare(file, at, [sample], tmp_path / "out")
    with Toolkit(file.component) as toolkit:
        toolkit.build(done.path, at, "rk3588")
        toolkit.export(tmp_path / "model.rknn")
    prediction = predict(tmp_path / "model.rknn")
    assert prediction is not None
    kinds = {each.layer.operator: each.kind for each in prediction.layers}
    print(kinds, prediction.shares())
    assert kinds["Pow"] == "group norm"
    image = (SIDE, SIDE)
    large = [each for each in prediction.layers if image in {o[2:] for o in each.layer.outputs}]
    of_norms = [each for each in large if each.kind == "group norm"]
    assert len(of_norms) == 2 * len(done.record["group_norms"])  # x * x, and the last convolution
    convolutions = sum(node.op_type == "Conv" for node in Graph(file.path).nodes)
    assert [each.kind for each in large].count("convolution") == convolutions


def enlarge(source: Path, target: Path, size: float) -> None:
    """Multiply what each convolution adds to the sums before group normalizations."""
    model = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    norms = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    reached = {producers[node.input[0]].input[0] for node in norms}
    for _ in model.graph.node:
        for node in model.graph.node:
            if node.op_type in ("Add", "Resize") and "group_norm" not in node.output[0]:
                around = {*node.output, *node.input} & {*producers}
                reached |= around if around & reached else set()
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        made = size if node.output[0] in reached else 1
        taken = size if node.input[0] in reached else 1
        for name, factor in zip(node.input[1:], (made / taken, made), strict=False):
            tensors[name].CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensors[name]) * np.float32(factor), name
                )
            )
    onnx.save(model, target)

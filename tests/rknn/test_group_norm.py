"""Group normalization as the NPU computes it: form and scale by statistics, equal results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtimes.rknn.onnxfile import OnnxFile
from runtimes.rknn.prepare import Prepared, prepare
from runtimes.rknn.rewrites.context import Context, Rewrite

CHANNELS, GROUPS, SIDE = 16, 4, 6


def group_norm(x: str, y: str, shape: list[int] | None = None) -> list[onnx.NodeProto]:
    """As torch's exporters write it."""
    make = helper.make_node
    return [
        make("Reshape", [x, "split"], [f"{y}/split"]),
        make("InstanceNormalization", [f"{y}/split", "ones", "zeros"], [f"{y}/norm"], epsilon=1e-5),
        make("Reshape", [f"{y}/norm", "merge" if shape is None else "merge3"], [f"{y}/merge"]),
        make("Mul", [f"{y}/merge", "gamma" if shape is None else "gamma3"], [f"{y}/mul"]),
        make("Add", [f"{y}/mul", "beta" if shape is None else "beta3"], [y]),
    ]


def constants(size: float) -> dict[str, Any]:
    random = np.random.default_rng(1)
    gamma, beta = (random.uniform(0.5, 2, (CHANNELS, 1, 1)).astype(np.float32) for _ in range(2))
    return {
        "split": np.array([0, GROUPS, -1]),
        "merge": np.array([1, CHANNELS, SIDE, SIDE]),
        "merge3": np.array([1, CHANNELS, SIDE * SIDE]),
        "ones": np.ones(GROUPS, np.float32),
        "zeros": np.zeros(GROUPS, np.float32),
        "gamma": gamma,
        "beta": beta,
        "gamma3": gamma[..., 0],
        "beta3": beta[..., 0],
        "first": np.float32(random.standard_normal((CHANNELS, 4, 3, 3)) * size),
        "second": np.float32(random.standard_normal((CHANNELS, CHANNELS, 3, 3)) * size / 12),
        "last": random.standard_normal((3, CHANNELS, 1, 1)).astype(np.float32),
        "bias": np.float32(random.standard_normal(CHANNELS) * size),
    }


def network(
    folder: Path, nodes: list[onnx.NodeProto], shape: list[int], values: dict[str, Any]
) -> OnnxFile:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, [1, 4, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in values.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return OnnxFile.read("vae_decoder", folder / "model.onnx")


def conv(x: str, weights: str, y: str, side: int = 3, bias: str = "bias") -> onnx.NodeProto:
    inputs = [x, weights, bias] if bias else [x, weights]
    return helper.make_node("Conv", inputs, [y], kernel_shape=[side] * 2, pads=[side // 2] * 4)


def residual(folder: Path, size: float) -> OnnxFile:
    """A block of a decoder, whose activations are about 6 times `size`."""
    nodes = [
        conv("sample", "first", "x"),
        *group_norm("x", "n"),
        helper.make_node("Relu", ["n"], ["r"]),
        conv("r", "second", "c"),
        helper.make_node("Add", ["x", "c"], ["s"]),
        *group_norm("s", "m"),
        conv("m", "last", "y", 1, ""),
    ]
    return network(folder, nodes, [1, 3, "h", "w"], constants(size))


def prepared(file: OnnxFile, folder: Path, **options: Any) -> Prepared:
    at = {"sample": (1, 4, SIDE, SIDE)}
    random = np.random.default_rng(0)
    samples = [{"sample": random.standard_normal(at["sample"], np.float32)} for _ in range(2)]
    folder.mkdir()
    return prepare(file, at, samples, folder, **options)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_activations_within_half_precision_are_not_divided(tmp_path: Path) -> None:
    done = prepared(residual(tmp_path / "in", 1), tmp_path / "out")
    assert done.lines == ("2 group norms: 2 one pass; scales 1 to 1, in the weights",)
    assert done.record == {"group_norms": ["n: one pass, scale 1", "m: one pass, scale 1"]}
    found = operators(done.path)
    assert "InstanceNormalization" not in found
    assert found.count("Pow") == 2
    assert found.count("Mul") == 2 * 3  # x*x, m*m, m*r


@pytest.mark.parametrize(("size", "scale"), [(1e-3, 2**-9), (1e3, 2**11), (2e4, 2**15)])
def test_the_weights_around_take_the_scale(tmp_path: Path, size: float, scale: float) -> None:
    """Without a pass over the image, which would be a Mul more."""
    done = prepared(residual(tmp_path / "in", size), tmp_path / "out")
    (line,) = done.lines
    assert line == f"2 group norms: 2 one pass; scales {scale:g} to {scale:g}, in the weights"
    assert operators(done.path).count("Mul") == 2 * 3
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(done.path).graph.initializer
    }
    plain = constants(size)
    np.testing.assert_array_equal(weights["x/first/divided"], plain["first"] / scale)
    np.testing.assert_array_equal(weights["x/bias/divided"], plain["bias"] / scale)
    np.testing.assert_array_equal(weights["c/second/divided"], plain["second"] / scale)


def test_a_region_that_is_also_an_output_is_divided_by_a_pass(tmp_path: Path) -> None:
    nodes = [
        conv("sample", "first", "x"),
        *group_norm("x", "n"),
        helper.make_node("Add", ["n", "x"], ["y"]),
    ]
    file = network(tmp_path / "in", nodes, [1, CHANNELS, "h", "w"], constants(1e3))
    done = prepared(file, tmp_path / "out")
    assert done.lines == (
        "1 group norms: 1 one pass; scales 1024 to 1024, 1 of them by a pass of its own",
    )
    assert done.record["group_norms"] == ["n: one pass, scale 1024, 1024 by a pass"]


def test_large_means_are_subtracted_first(tmp_path: Path) -> None:
    values = constants(1)
    values["bias"] = np.full(CHANNELS, 100, np.float32)
    nodes = [conv("sample", "first", "x"), *group_norm("x", "n"), conv("n", "last", "y", 1, "")]
    file = network(tmp_path / "in", nodes, [1, 3, "h", "w"], values)
    done = prepared(file, tmp_path / "out")
    assert done.lines[0].startswith("1 group norms: 1 mean first; scales ")
    assert operators(done.path).count("Sub") == 1


def test_the_norm_of_an_attention_block(tmp_path: Path) -> None:
    """Its output is [1, channels, pixels]."""
    nodes = [conv("sample", "first", "x"), *group_norm("x", "y", [1, CHANNELS, SIDE * SIDE])]
    file = network(tmp_path / "in", nodes, [1, CHANNELS, SIDE * SIDE], constants(1))
    done = prepared(file, tmp_path / "out")
    assert done.lines[0].startswith("1 group norms: 1 one pass")


def test_an_image_of_one_color_has_no_nan(tmp_path: Path) -> None:
    """The variance is 0, and rounding may leave less than that."""
    import onnxruntime

    done = prepared(residual(tmp_path / "in", 1), tmp_path / "out")
    session = onnxruntime.InferenceSession(done.path)
    (got,) = session.run(None, {"sample": np.zeros((1, 4, SIDE, SIDE), np.float32)})
    assert np.isfinite(got).all()


def test_other_normalizations_stay(tmp_path: Path) -> None:
    values = constants(1)
    values["ones"] = np.full(GROUPS, 2, np.float32)
    nodes = [conv("sample", "first", "x"), *group_norm("x", "n"), conv("n", "last", "y", 1, "")]
    done = prepared(network(tmp_path / "in", nodes, [1, 3, "h", "w"], values), tmp_path / "out")
    assert done.lines == ()
    assert "InstanceNormalization" in operators(done.path)


def test_a_rewrite_that_changes_the_result_is_left_out(tmp_path: Path) -> None:
    def spoil(context: Context) -> str:
        for node in context.graph.nodes:
            if node.op_type == "Relu":
                context.graph.replace({id(node): [type(node).make("Neg", node.inputs, "r")]})
        context.record["spoiled"] = True
        return "spoiled"

    done = prepared(
        residual(tmp_path / "in", 1), tmp_path / "out", rewrites=(Rewrite("spoil", spoil),)
    )
    (line,) = done.lines
    assert line.startswith("spoil left out: it changes the output by ")
    assert done.record == {}
    assert "Neg" not in operators(done.path)


def test_expected_are_the_outputs_of_the_network_as_it_was(tmp_path: Path) -> None:
    import onnxruntime

    file = residual(tmp_path / "in", 1)
    done = prepared(file, tmp_path / "out")
    sample = np.random.default_rng(0).standard_normal((1, 4, SIDE, SIDE), np.float32)
    (want,) = onnxruntime.InferenceSession(file.path).run(None, {"sample": sample})
    np.testing.assert_allclose(done.expected["y"], want, atol=1e-5)


def test_means_of_a_large_image_keep_their_digits(tmp_path: Path) -> None:
    """Beside float64, where ONNX Runtime's own normalization of a million numbers loses some."""
    side = 512
    gamma, beta = (values[:4] for key, values in constants(1).items() if key in ("gamma", "beta"))
    values = {
        "split": np.array([0, 1, -1]),
        "merge": np.array([1, 4, side, side]),
        "ones": np.ones(1, np.float32),
        "zeros": np.zeros(1, np.float32),
        "gamma": gamma,
        "beta": beta,
    }
    file = network(tmp_path / "in", group_norm("sample", "y"), [1, 4, "h", "w"], values)
    x = np.random.default_rng(0).normal(1, 1, (1, 4, side, side)).astype(np.float32)
    (tmp_path / "out").mkdir()
    done = prepare(file, {"sample": x.shape}, [{"sample": x}], tmp_path / "out")
    exact = (x - x.mean(dtype=float)) / np.sqrt(x.var(dtype=float) + 1e-5) * gamma + beta

    def error(got: Any) -> float:
        return float(np.abs(got - exact).max() / np.abs(exact).max())

    assert operators(done.path).count("AveragePool") == 2  # of x and of its squares
    of_runtime, rewritten = (
        run(tmp_path / "out" / name, x) for name in ("folded.onnx", done.path.name)
    )
    print(error(of_runtime), error(done.expected["y"]), error(rewritten))
    assert error(done.expected["y"]) < 5e-7
    assert error(rewritten) < 5e-7
    assert error(of_runtime) > 2e-6


def run(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"sample": x})[0]

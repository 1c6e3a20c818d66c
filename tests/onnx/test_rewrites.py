"""What is changed in a graph before ONNX Runtime optimizes it, and what must not be."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import lcmcore
from runtimes.onnx import optimize as optimizing
from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.optimize import optimize
from runtimes.onnx.protobuf import ModelProto
from runtimes.onnx.rewrites.attention import attention
from runtimes.onnx.rewrites.group_norm import group_norm
from runtimes.onnx.rewrites.split_matmul import split_matmul
from runtimes.onnx.rewrites.transposed_matmul import transposed_matmul
from runtimes.onnx.rewrites.upsample_conv import upsample_conv
from runtimes.onnx.rewrites.winograd_conv import winograd_conv
from tests.parity.bundles import TINY

DEMO = lcmcore.demo_dir()


def folded(source, target, level="ORT_ENABLE_BASIC"):
    """What a pass of `optimize` leaves, the first one: to be changed."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return Graph(target)


def opened(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path, feed):
    return opened(path).run(None, feed)[0]


def feed_of(path):
    """Random inputs of a network of tests/tiny; sizes that no two axes share."""
    free = {"batch_size": 2, "sequence_length": 77, "height": 16, "width": 24}
    free |= {"latent_height": 8, "latent_width": 12}
    random = np.random.default_rng(0)
    feed = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or free[dim.dim_param] for dim in kind.shape.dim]
        made = random.normal(size=shape) if value.name != "timestep" else np.full(shape, 499)
        feed[value.name] = made.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return feed


@pytest.mark.parametrize(
    ("network", "attentions", "upsamplings"),
    [("lcm/unet", 8, 1), ("sd/unet", 8, 1), ("lcm/vae_encoder", 1, 0), ("lcm/vae_decoder", 1, 3)],
)
def test_exports_of_optimum(network, attentions, upsamplings, tmp_path):
    source = TINY / network / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert attention(graph) == attentions
    assert upsample_conv(graph) == upsamplings
    graph.save(tmp_path / "changed.onnx")
    feed = feed_of(source)
    expected = run(source, feed)
    got = run(tmp_path / "changed.onnx", feed)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_exports_of_torch_dynamo(tmp_path):
    source = Path(shutil.copytree(DEMO / "unet", tmp_path / "unet")) / "model.onnx"
    assert attention(folded(source, source.with_name("folded.onnx"))) == 22


def test_a_mask_stays(tmp_path):
    source = TINY / "lcm" / "text_encoder" / "model.onnx"
    assert attention(folded(source, tmp_path / "folded.onnx")) == 0


def test_a_graph_is_written_as_it_was(tmp_path):
    """But for the order of its fields, which means nothing."""
    path, again = tmp_path / "model.onnx", tmp_path / "again.onnx"
    folded(TINY / "lcm" / "unet" / "model.onnx", path).save(again)
    before, after = onnx.load(path), onnx.load(again)
    assert after.graph == before.graph
    assert sorted(bytes(ModelProto(path.read_bytes()))) == sorted(path.read_bytes())


def exported_attention(path, change):
    """Attention over [batch, n, 8] as exporters write it, with one thing changed in its parts."""
    parts = {
        "query": ["query", "shape"], "key": ["key", "shape"], "value": ["value", "shape"],
        "query_perm": [0, 2, 1, 3], "key_perm": [0, 2, 3, 1], "axis": -1,
        "shape": [2, -1, 2, 4], "key_shape": None, "scale": 0.5, "mask": False,
        "also": False, "back": [0, 2, 1, 3],
    } | change  # fmt: skip
    constants = {"shape": np.array(parts["shape"]), "scale": np.float32(parts["scale"])}
    constants["key_shape"] = np.array(parts["key_shape"] or parts["shape"])
    constants["mask"] = np.tril(np.ones((5, 5), np.float32))
    nodes = [
        helper.make_node("Reshape", ["query", "shape"], ["q4"]),
        helper.make_node("Reshape", ["key", "key_shape"], ["k4"]),
        helper.make_node("Reshape", ["value", "shape"], ["v4"]),
        helper.make_node("Transpose", ["q4"], ["q"], perm=parts["query_perm"]),
        helper.make_node("Transpose", ["k4"], ["k"], perm=parts["key_perm"]),
        helper.make_node("Transpose", ["v4"], ["v"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["q", "k"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked" if parts["mask"] else "scaled"], ["weights"],
                         axis=parts["axis"]),
        helper.make_node("MatMul", ["weights", "v"], ["attended"]),
        helper.make_node("Transpose", ["attended"], ["output"], perm=parts["back"]),
    ]  # fmt: skip
    tensors = dict.fromkeys(("query", "key", "value"), TensorProto.FLOAT)
    outputs = ["output", "weights"] if parts["also"] else ["output"]
    graph = helper.make_graph(
        nodes if parts["mask"] else [node for node in nodes if node.output != ["masked"]],
        "attention",
        [helper.make_tensor_value_info(name, kind, ["b", 5, 8]) for name, kind in tensors.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path)
    return path


ATTENDED = ({}, {"scale": 0.25}, {"shape": [2, 5, 4, 2]})
NEAR = {
    "another axis": {"axis": 2},
    "a mask": {"mask": True},
    "keys not turned": {"key_perm": [0, 2, 1, 3], "shape": [2, 5, 2, 4], "query_perm": [0, 2, 3, 1],
                        "back": [0, 1, 2, 3]},
    "keys of another batch": {"shape": [2, 5, 2, 4], "key_shape": [1, 10, 2, 4]},
    "not turned back": {"back": [0, 1, 2, 3]},
    "tokens and heads exchanged": {"query_perm": [0, 1, 2, 3], "key_perm": [0, 1, 3, 2]},
}  # fmt: skip


@pytest.mark.parametrize("change", ATTENDED, ids=str)
def test_attention_is_fused(change, tmp_path):
    path = exported_attention(tmp_path / "model.onnx", change)
    graph = Graph(path)
    assert attention(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    assert [node.op_type for node in Graph(tmp_path / "changed.onnx").nodes].count("Softmax") == 0
    random = np.random.default_rng(0)
    shapes = dict.fromkeys(("query", "key", "value"), (2, 5, 8))
    feed = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.testing.assert_allclose(run(tmp_path / "changed.onnx", feed), run(path, feed), atol=1e-6)


@pytest.mark.parametrize("change", NEAR.values(), ids=NEAR)
def test_what_only_looks_like_it_stays(change, tmp_path):
    graph = Graph(exported_attention(tmp_path / "model.onnx", change))
    before = [bytes(node.proto) for node in graph.nodes]
    assert attention(graph) == 0
    assert [bytes(node.proto) for node in graph.nodes] == before


def doubled(path, scales=(1, 1, 2, 2), mode="nearest", rounding="floor", channels=4, **conv):
    conv = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1],
            "group": 1} | conv  # fmt: skip
    random = np.random.default_rng(0)
    constants = {
        "scales": np.array(scales, np.float32),
        "weight": random.normal(size=(channels + 2, channels, 3, 3)).astype(np.float32),
        "bias": random.normal(size=channels + 2).astype(np.float32),
    }
    resize = {"mode": mode, "nearest_mode": rounding}
    resize["coordinate_transformation_mode"] = "asymmetric"
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], **resize),
        helper.make_node("Conv", ["large", "weight", "bias"], ["y"], **conv),
    ]
    graph = helper.make_graph(
        nodes,
        "doubled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", channels, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path)
    return path


def test_upsampling_is_folded(tmp_path):
    path = doubled(tmp_path / "model.onnx")
    graph = Graph(path)
    assert upsample_conv(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    feed = {"x": np.random.default_rng(1).normal(size=(2, 4, 5, 3)).astype(np.float32)}
    np.testing.assert_allclose(run(tmp_path / "changed.onnx", feed), run(path, feed), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"scales": (1, 1, 2, 3)}, {"mode": "linear"}, {"rounding": "ceil"}, {"pads": [0] * 4},
     {"strides": [2, 2]}, {"dilations": [2, 2]}],
    ids=str,
)  # fmt: skip
def test_other_upsampling_stays(change, tmp_path):
    assert upsample_conv(Graph(doubled(tmp_path / "model.onnx", **change))) == 0


def convolution(path, outs=256, ins=256, bias=True, **conv):
    conv = {"kernel_shape": [3, 3], "pads": [1] * 4} | conv
    random = np.random.default_rng(0)
    shape = (outs, ins // conv.get("group", 1), *conv["kernel_shape"])
    constants = {
        "weight": random.normal(size=shape).astype(np.float32),
        "bias": random.normal(size=outs).astype(np.float32),
    }
    node = helper.make_node("Conv", ["x", *constants][: 2 + bias], ["y"], **conv)
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", ins, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 14)  # optimum's
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path)
    return path


# Of whole tiles or not, more than one; with rows for each band or not. Of several pictures, tiles
# are moved about.
SIZES = [
    (1, 8, 12),
    (2, 1, 2),
    (1, 1, 2),
    (2, 5, 7),
    (1, 11, 18),
    (2, 39, 4),
    (1, 32, 8),
    (2, 32, 8),
]


def assert_the_same(changed, original, shapes, tolerance=1e-5):
    """Two models give the same for random x of some shapes, but for so much of the largest."""
    sessions = opened(changed), opened(original)
    for shape in shapes:
        feed = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
        got, expected = (session.run(None, feed)[0] for session in sessions)
        atol = tolerance * np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=str(shape))


@pytest.mark.parametrize(
    "change",
    [{}, {"bias": False}, {"outs": 544, "ins": 528}, {"outs": 256, "ins": 128},
     {"pads": [2, 0, 0, 2]}, {"outs": 640, "ins": 832}, {"outs": 144, "ins": 3648}],
    ids=str,
)  # fmt: skip
def test_convolutions_are_transformed(change, tmp_path):
    """In 1, 2, 3 and 4 bands; the last two by small tiles."""
    path = convolution(tmp_path / "model.onnx", **change)
    graph = Graph(path)
    assert winograd_conv(graph) == 1
    outs, ins = change.get("outs", 256), change.get("ins", 256)
    places = 36 if outs * ins <= 2**19 else 16
    assert graph.initializer("y/filters").shape == (1, places, outs, ins)
    graph.save(tmp_path / "changed.onnx")
    shapes = [(batch, change.get("ins", 256), *size) for batch, *size in SIZES]
    assert_the_same(tmp_path / "changed.onnx", path, shapes)


@pytest.mark.parametrize(
    "change",
    [{"strides": [2, 2]}, {"pads": [0] * 4}, {"pads": [2, 1, 1, 1]}, {"dilations": [2, 2]},
     {"group": 2, "outs": 1024, "ins": 512}, {"kernel_shape": [1, 1], "pads": [0] * 4},
     {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}, {"outs": 64}, {"ins": 64},
     {"outs": 1280, "ins": 1040}],
    ids=str,
)  # fmt: skip
def test_other_convolutions_stay(change, tmp_path):
    assert winograd_conv(Graph(convolution(tmp_path / "model.onnx", **change))) == 0


@pytest.mark.parametrize(("channels", "tolerance"), [(128, 1e-5), (256, 1e-5), (510, 2e-5)])
def test_convolutions_after_upsampling_are_transformed(channels, tolerance, tmp_path):
    """With the doubling that comes before them."""
    path = doubled(tmp_path / "model.onnx", channels=channels)
    graph = Graph(path)
    assert winograd_conv(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    assert "Resize" not in {node.op_type for node in Graph(tmp_path / "changed.onnx").nodes}
    shapes = [(batch, channels, *size) for batch, *size in SIZES]
    assert_the_same(tmp_path / "changed.onnx", path, shapes, tolerance)


def test_large_weights_after_upsampling_are_folded_alone(tmp_path):
    """Tiles would make them 11 times as large."""
    graph = Graph(doubled(tmp_path / "model.onnx", channels=528))
    assert (winograd_conv(graph), upsample_conv(graph)) == (0, 1)


def test_what_only_a_branch_needs_is_saved(tmp_path):
    """And what nothing needs is not."""
    path = convolution(tmp_path / "model.onnx", outs=4, ins=4)
    graph = Graph(path)
    (conv,) = graph.nodes
    yes = graph.add_initializer("yes", np.array([1]))
    inside = Node.make("Identity", ["conv"], "inside")
    graph.nodes = [
        Node.make("Conv", conv.inputs, "conv", kernel_shape=[3, 3], pads=[1] * 4),
        Node.make("Neg", ["x"], "unneeded"),
        Node.make("Equal", [yes, yes], "is"),
        Node.make("If", ["is"], "y", then_branch=[inside], else_branch=[inside]),
    ]
    graph.save(tmp_path / "changed.onnx")
    assert [node.op_type for node in Graph(tmp_path / "changed.onnx").nodes] == [
        "Conv",
        "Equal",
        "If",
    ]
    assert_the_same(tmp_path / "changed.onnx", path, [(1, 4, 3, 5)])


def product(path, shape=(768, 784), first=False, constant=True, axes=("b", "n")):
    """y = x W + tanh(x) W."""
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nodes = [
        helper.make_node("Tanh", ["x"], ["bent"]),
        helper.make_node("MatMul", ["weight", "x"] if first else ["x", "weight"], ["one"]),
        helper.make_node("MatMul", ["weight", "bent"] if first else ["bent", "weight"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ]
    tensors = {"x": [*axes, 768]} | ({} if constant else {"weight": shape})
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info(*each) for each in
         ((name, TensorProto.FLOAT, dims) for name, dims in tensors.items())],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")] if constant else [],
    )  # fmt: skip
    opset = helper.make_opsetid("", 14)  # optimum's
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path)
    return path


@pytest.mark.parametrize("size", [(5,), (2, 5), (2, 3, 4)], ids=str)
def test_products_are_turned(size, tmp_path):
    path = product(tmp_path / "model.onnx", axes=[f"axis{i}" for i in range(len(size))])
    graph = Graph(path)
    assert transposed_matmul(graph) == 2
    graph.save(tmp_path / "changed.onnx")
    added = tmp_path / "model.added"
    assert added.stat().st_size == 768 * 784 * 4  # once, of the weight of both
    feed = {"x": np.random.default_rng(1).normal(size=(*size, 768)).astype(np.float32)}
    got, expected = run(tmp_path / "changed.onnx", feed), run(path, feed)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    folded(tmp_path / "changed.onnx", tmp_path / "all.onnx", "ORT_ENABLE_ALL")
    operations = [node.op_type for node in Graph(tmp_path / "all.onnx").nodes]
    assert operations.count("FusedMatMul") == operations.count("Transpose") == 2


@pytest.mark.parametrize(
    "change",
    [{"shape": (768, 760)}, {"shape": (2, 768, 784)}, {"first": True}, {"constant": False}],
    ids=str,
)  # fmt: skip
def test_other_products_stay(change, tmp_path):
    """Of a narrow weight, of several, by one that comes first, or is no constant."""
    assert transposed_matmul(Graph(product(tmp_path / "model.onnx", **change))) == 0


def gated(path, first=(0, "half"), second=("half", "all"), axis=-1, used=False, steps=None):
    """y = a tanh(b), a and b cut from x W + bias, by limits as torch's exporter writes them."""
    random = np.random.default_rng(0)
    constants = {
        "weight": random.normal(size=(24, 12)).astype(np.float32),
        "bias": random.normal(size=12).astype(np.float32),
        **{str(number): np.array([number]) for number in (-1, 0, 1, 2, 3, 6, 12, 2**40)},
    }
    node, rest = helper.make_node, [str(axis)] + ([str(steps)] if steps else [])
    nodes = [
        node("MatMul", ["x", "weight"], ["product"]),
        node("Add", ["bias", "product"], ["biased"]),
        node("Shape", ["biased"], ["shape"]),
        node("Gather", ["shape", "-1"], ["width"], axis=0),
        node("Add", ["width", "1"], ["more"]),
        node("Div", ["more", "2"], ["half"]),
        node("Mul", ["half", "2"], ["all"]),
        node("Slice", ["shape", "2", "3", "0"], ["told otherwise"]),
        node("Cast", ["width"], ["float"], to=TensorProto.FLOAT),
        node("Mul", ["float", "0.5"], ["float half"]),
        node("Cast", ["float half"], ["by floats"], to=TensorProto.INT64),
        node("Slice", ["biased", *map(str, first), *rest], ["a"]),
        node("Slice", ["biased", *map(str, second), *rest], ["b"]),
        node("Tanh", ["b"], ["bent"]),
        node("Mul", ["a", "bent"], ["cut"]),
        node("Add", ["cut", "1.0"], ["y"]),
    ]
    constants |= {text: np.array([float(text)], np.float32) for text in ("0.5", "1.0")}
    if used:
        nodes[-1] = node("Add", ["cut", "biased"], ["y"])
    graph = helper.make_graph(
        nodes, "gated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "n", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", 14)  # optimum's
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path)
    return path


@pytest.mark.parametrize(
    "change",
    [{}, {"steps": 1}, {"first": (0, 6), "second": (6, 2**40)}, {"first": (6, 12)},
     {"first": (0, 3), "second": (3, 6)}],
    ids=str,
)  # fmt: skip
def test_weights_are_cut_and_not_products(change, tmp_path):
    path = gated(tmp_path / "model.onnx", **change)
    graph = Graph(path)
    assert split_matmul(graph) == 2
    graph.save(tmp_path / "changed.onnx")
    nodes = [node.op_type for node in Graph(tmp_path / "changed.onnx").nodes]
    assert (nodes.count("MatMul"), "Slice" in nodes, "Shape" in nodes) == (2, False, False)
    assert_the_same(tmp_path / "changed.onnx", path, [(1, 5, 24), (2, 3, 24)], 1e-6)


@pytest.mark.parametrize(
    "change",
    [{"axis": 1, "second": (0, 6)}, {"steps": 2}, {"first": (-1, 12), "second": (0, 1)},
     {"first": (2, 2), "second": (3, 3)}, {"first": (12, 2**40), "second": (12, 2**40)},
     {"first": (0, 6), "second": ("by floats", "width")},
     {"first": (0, 12), "second": (0, "told otherwise")}],
    ids=str,
)  # fmt: skip
def test_other_products_stay_whole(change, tmp_path):
    """Along another axis, in steps, counted from the end, to nothing, by what is not followed."""
    assert split_matmul(Graph(gated(tmp_path / "model.onnx", **change))) == 0


def test_a_product_that_is_needed_whole_stays_whole(tmp_path):
    assert split_matmul(Graph(gated(tmp_path / "model.onnx", used=True))) == 0


def test_gated_units_of_optimum(tmp_path):
    source = TINY / "lcm" / "unet" / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert split_matmul(graph) == 8  # two for each of four
    graph.save(tmp_path / "changed.onnx")
    feed = feed_of(source)
    expected, got = run(source, feed), run(tmp_path / "changed.onnx", feed)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("network", "count"), [("lcm/text_encoder", 12), ("lcm/unet", 41), ("lcm/vae_decoder", 4)]
)
def test_products_of_optimum(network, count, tmp_path, monkeypatch):
    monkeypatch.setattr("runtimes.onnx.rewrites.transposed_matmul._NARROWEST", 8)
    source = TINY / network / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert transposed_matmul(graph) == count
    graph.save(tmp_path / "changed.onnx")
    feed = feed_of(source)
    expected, got = run(source, feed), run(tmp_path / "changed.onnx", feed)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def exported_norm(path, **change):
    """Group normalization as exporters write it, with one thing changed in its parts."""
    parts = {
        "split": [0, 4, -1], "ones": [1] * 4, "zeros": [0] * 4, "channels": 8, "axes": 2,
        "of": "x", "of_beta": 8, "opset": 14,
    } | change  # fmt: skip
    random = np.random.default_rng(0)
    ones = [1] * parts["axes"]
    constants = {
        "split": np.array(parts["split"]),
        "ones": np.array(parts["ones"], np.float32),
        "zeros": np.array(parts["zeros"], np.float32),
        "gamma": random.normal(size=(parts["channels"], *ones)).astype(np.float32),
        "beta": random.normal(size=(parts["of_beta"], *ones)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["grouped"]),
        helper.make_node("InstanceNormalization", ["grouped", "ones", "zeros"], ["even"],
                         epsilon=0.25),
        helper.make_node("Shape", [parts["of"]], ["shape"]),
        helper.make_node("Reshape", ["even", "shape"], ["back"]),
        helper.make_node("Mul", ["back", "gamma"], ["scaled"]),
        helper.make_node("Add", ["beta", "scaled"], ["y"]),
    ]  # fmt: skip
    names = {"x", parts["of"]}
    shape = ["b", parts["channels"], *["h", "w"][: parts["axes"]]]
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "normalization",
        [helper.make_tensor_value_info(name, kind, shape) for name in sorted(names)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", parts["opset"])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path)
    return path


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 3), (24, 16)], ids=str)
@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize("opset", [14, 18])
def test_group_norms_are_rewritten(opset, mean, size, tmp_path):
    """With whole pieces of rows or not; exact where deviations are small beside the mean.

    Several pictures get a product and a sum, one picture gets both at once.
    """
    path = exported_norm(tmp_path / "model.onnx", opset=opset)
    graph = Graph(path)
    assert group_norm(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    assert "InstanceNormalization" not in {
        node.op_type for node in Graph(tmp_path / "changed.onnx").nodes
    }
    sessions = opened(tmp_path / "changed.onnx"), opened(path)
    for batch in (1, 2):
        x = np.random.default_rng(1).normal(size=(batch, 8, *size)) + mean
        feed = {"x": x.astype(np.float32)}
        got, expected = (session.run(None, feed)[0] for session in sessions)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4 if mean else 2e-6)


def test_a_group_norm_of_one_color(tmp_path):
    """What rounding leaves of its variance does not show."""
    path = exported_norm(tmp_path / "model.onnx")
    graph = Graph(path)
    group_norm(graph)
    graph.save(tmp_path / "changed.onnx")
    feed = {"x": np.full((2, 8, 16, 16), 1234.567, np.float32)}
    got, expected = run(tmp_path / "changed.onnx", feed), run(path, feed)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [{"split": [0, 2, -1], "ones": [1] * 2, "zeros": [0] * 2, "channels": 520, "of_beta": 520},
     {"ones": [1, 1, 1, 2]}, {"zeros": [0, 0, 0, 1]}, {"axes": 1}, {"of_beta": 1}, {"of": "other"},
     {"split": [-1, 4, 32]}],
    ids=str,
)  # fmt: skip
def test_other_normalization_stays(change, tmp_path):
    assert group_norm(Graph(exported_norm(tmp_path / "model.onnx", **change))) == 0


@pytest.mark.parametrize(
    ("network", "count"),
    [("lcm/unet", 21), ("lcm/vae_encoder", 13), ("lcm/vae_decoder", 21), ("taesd/vae_decoder", 0)],
)
def test_group_norms_of_optimum(network, count, tmp_path):
    source = TINY / network / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert group_norm(graph) == count
    graph.save(tmp_path / "changed.onnx")
    feed = feed_of(source)
    expected, got = run(source, feed), run(tmp_path / "changed.onnx", feed)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_all_of_it(tmp_path):
    """Optimized, the whole network has none of what was replaced, and draws the same."""
    source = TINY / "lcm" / "unet" / "model.onnx"
    (tmp_path / "entry").mkdir()
    optimize(source, tmp_path / "entry", onnxruntime)
    path = tmp_path / "entry" / "model.onnx"
    assert not {"Softmax", "Resize", "Upsample"} & {node.op_type for node in Graph(path).nodes}
    feed = feed_of(source)
    expected = run(source, feed)
    np.testing.assert_allclose(run(path, feed), expected, atol=1e-5 * np.abs(expected).max())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry"]


@pytest.mark.parametrize(
    ("free", "level"),
    [(0, "ORT_ENABLE_EXTENDED"), (2**40, "ORT_ENABLE_ALL"), (None, "ORT_ENABLE_ALL")],
)
def test_weights_are_laid_out_where_memory_holds_them(free, level, tmp_path, monkeypatch):
    """A process in less memory than the model has weights was killed at the first use."""
    levels, save = [], optimizing._save

    def watched(ort, source, target, level, external):
        levels.append(level)
        save(ort, source, target, level, external)

    monkeypatch.setattr(optimizing, "_save", watched)
    monkeypatch.setattr(optimizing, "available_bytes", lambda: free)
    source = TINY / "lcm" / "vae_decoder" / "model.onnx"
    (tmp_path / "entry").mkdir()
    optimize(source, tmp_path / "entry", onnxruntime)
    assert levels[-1] == getattr(onnxruntime.GraphOptimizationLevel, level)
    feed = feed_of(source)
    expected = run(source, feed)
    got = run(tmp_path / "entry" / "model.onnx", feed)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, b"\x3a\x7f\x00"], ids=["empty", "noise", "cut"]
)
def test_what_is_no_model(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a protobuf|only a part|empty"):
        Graph(tmp_path / "model.onnx")

"""Small graphs to rewrite, and how they are run and compared."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from runtimes.onnx.graph import Graph

# Batch, height, width: of whole tiles or not, more than one; with rows for each band or not.
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


def save_model(path, nodes, inputs, constants, outputs=("y",), opset=17):
    """Write a model of float32: dimensions of inputs by name, arrays of constants by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
         for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=imports), path)
    return path


def convolution(path, outs=256, ins=256, bias=True, **conv):
    """Conv of x [b, ins, h, w]; 3x3 with padding 1, unless `conv` says otherwise."""
    conv = {"kernel_shape": [3, 3], "pads": [1] * 4} | conv
    random = np.random.default_rng(0)
    shape = (outs, ins // conv.get("group", 1), *conv["kernel_shape"])
    constants = {
        "weight": random.normal(size=shape).astype(np.float32),
        "bias": random.normal(size=outs).astype(np.float32),
    }
    node = helper.make_node("Conv", ["x", *constants][: 2 + bias], ["y"], **conv)
    return save_model(path, [node], {"x": ["b", ins, "h", "w"]}, constants, opset=14)  # optimum's


def upsampled(path, scales=(1, 1, 2, 2), mode="nearest", rounding="floor", channels=4, **conv):
    """Resize of x [b, channels, h, w], then Conv of 3x3."""
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
    return save_model(path, nodes, {"x": ["b", channels, "h", "w"]}, constants)


def folded(source, target, level="ORT_ENABLE_BASIC"):
    """The graph after a pass of ONNX Runtime, by default the one before the rewrites."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return Graph(target)


def op_types(path):
    return [node.op_type for node in Graph(path).nodes]


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


def assert_same_network(changed, original):
    """For the inputs of `feed_of`, up to 1e-5 of the largest value."""
    feed = feed_of(original)
    expected = run(original, feed)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(run(changed, feed), expected, rtol=0, atol=atol)


def assert_same(changed, original, shapes, tolerance=1e-5):
    """For random x of some shapes, up to `tolerance` of the largest value."""
    sessions = opened(changed), opened(original)
    for shape in shapes:
        feed = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
        got, expected = (session.run(None, feed)[0] for session in sessions)
        atol = tolerance * np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=str(shape))

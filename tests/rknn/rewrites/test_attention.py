"""Keys and values of every second token: what ToDo defines, where it is to be, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lcmcore.bundle import demo_dir
from lcmcore.util.arrays import Array
from runtimes.rknn.prepare import _shapes
from runtimes.rknn.rewrites.attention import downsample_keys
from tests.onnx.rewrites.graphs import save_model
from tests.parity.bundles import TINY
from tests.rknn.rewrites.contexts import (
    context,
    feed,
    folded,
    folds_external_weights,
    op_types,
    relative_error,
    rewritten,
    run,
)

HEADS, CHANNELS = 2, 8
SIZES = [(8, 6), (5, 7), (1, 4)]  # height and width, odd ones rounded up


def attention(path: Path, size: tuple[int, int], form: str = "dynamo", **change: Any) -> Path:
    """Self-attention of the latents' size, with random weights, as exporters write it."""
    tokens, each = size[0] * size[1], CHANNELS // HEADS
    options = {"key_source": "hidden", "latents": size, "mask": False} | change
    random = np.random.default_rng(0)
    constants: dict[str, Any] = {
        name: random.normal(size=(CHANNELS, CHANNELS)).astype(np.float32)
        for name in ("wq", "wk", "wv")
    } | {
        "split": np.array([1, tokens, HEADS, each]),
        "join": np.array([1, tokens, CHANNELS]),
        "merged": np.array([HEADS, tokens, each]),
        "swapped": np.array([1, HEADS, each, tokens]),
        "root": np.float32([each**-0.25]),
        "scale": np.float32([each**-0.5]),
        "bias": random.normal(size=CHANNELS).astype(np.float32),
        "latents": np.float32(0),
    }
    node = helper.make_node
    nodes = [
        node("MatMul", ["hidden", "wq"], ["q1"]),
        node("MatMul", [options["key_source"], "wk"], ["k1"]),
        node("MatMul", ["hidden", "wv"], ["v1"]),
        node("Add", ["bias", "v1"], ["v2"]),
        *(node("Reshape", [f"{x}{2 if x == 'v' else 1}", "split"], [f"{x}4"]) for x in "qkv"),
        node("Transpose", ["q4"], ["q5"], perm=[0, 2, 1, 3]),
        node("Transpose", ["v4"], ["v"], perm=[0, 2, 1, 3]),
    ]
    if form == "dynamo":  # heads merged, transposed, and the scale on both sides
        nodes += [
            node("Transpose", ["k4"], ["k5"], perm=[0, 2, 1, 3]),
            node("Reshape", ["k5", "merged"], ["k6"]),
            node("Transpose", ["k6"], ["k7"], perm=[0, 2, 1]),
            node("Reshape", ["k7", "swapped"], ["k8"]),
            node("Mul", ["k8", "root"], ["k"]),
            node("Mul", ["q5", "root"], ["q"]),
            node("MatMul", ["q", "k"], ["scores"]),
        ]
    else:  # TorchScript: one transpose, the scale on the product
        nodes += [
            node("Transpose", ["k4"], ["k"], perm=[0, 2, 3, 1]),
            node("MatMul", ["q5", "k"], ["product"]),
            node("Mul", ["product", "scale"], ["scores"]),
        ]
    nodes += [
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["attended"]),
        node("Transpose", ["attended"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "join"], ["y0"]),
        node("ReduceMean", ["sample"], ["zero"], keepdims=0),
        node("Add", ["y0", "zero"], ["y"]),
    ]
    inputs = {
        "hidden": [1, tokens, CHANNELS],
        "other": [1, tokens, CHANNELS],
        "sample": [1, 4, *options["latents"]],
    }
    return Path(save_model(path, nodes, inputs, constants))


def expected(path: Path, size: tuple[int, int], inputs: dict[str, Array]) -> Array:
    """ToDo's attention in float64, written out."""
    weights = {
        each.name: onnx.numpy_helper.to_array(each).astype(float)
        for each in onnx.load(path).graph.initializer
    }
    hidden = inputs["hidden"][0].astype(float)
    fewer = hidden.reshape(*size, CHANNELS)[::2, ::2].reshape(-1, CHANNELS)
    query, key = hidden @ weights["wq"], fewer @ weights["wk"]
    value = fewer @ weights["wv"] + weights["bias"]
    out = np.empty_like(hidden)
    for head in np.split(np.arange(CHANNELS), HEADS):
        scores = np.exp(query[:, head] @ key[:, head].T / np.sqrt(len(head)))
        out[:, head] = scores / scores.sum(axis=1, keepdims=True) @ value[:, head]
    return out + inputs["sample"].mean()


@pytest.mark.parametrize("form", ["dynamo", "torchscript"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_is_what_todo_defines(size: tuple[int, int], form: str, tmp_path: Path) -> None:
    path = attention(tmp_path / "model.onnx", size, form)
    changed, line = rewritten(path, downsample_keys)
    fewer, tokens = -(-size[0] // 2) * -(-size[1] // 2), size[0] * size[1]
    assert line == f"keys and values of {fewer} tokens instead of {tokens}: 1 self-attentions"
    inputs = feed(path)
    assert relative_error(run(changed, inputs)[0], expected(path, size, inputs)) <= 1e-4


@pytest.mark.parametrize("form", ["dynamo", "torchscript"])
def test_shapes_that_the_file_tells_are_not_those_of_all_tokens(form: str, tmp_path: Path) -> None:
    """torch's exporter writes them, and ONNX Runtime plans its memory by them."""
    path = attention(tmp_path / "model.onnx", (8, 6), form)
    told = onnx.shape_inference.infer_shapes(onnx.load(path))
    assert len(told.graph.value_info) > 10
    onnx.save(told, path)
    changed, _ = rewritten(path, downsample_keys)
    inputs = feed(path)
    assert relative_error(run(changed, inputs)[0], expected(path, (8, 6), inputs)) <= 1e-4
    told = onnx.load(changed)
    onnx.shape_inference.infer_shapes(told, strict_mode=True)  # raises where they contradict


def test_it_halves_the_latents_down_to_the_level_of_attention(tmp_path: Path) -> None:
    path = attention(tmp_path / "model.onnx", (5, 7), latents=(19, 27))  # 19 -> 10 -> 5
    changed, line = rewritten(path, downsample_keys)
    inputs = feed(path)
    assert line.startswith("keys and values of 12 tokens instead of 35")
    assert relative_error(run(changed, inputs)[0], expected(path, (5, 7), inputs)) <= 1e-4


@pytest.mark.parametrize("change", [{"key_source": "other"}, {"latents": (9, 9)}], ids=str)
def test_other_attention_stays(change: dict[str, Any], tmp_path: Path) -> None:
    path = attention(tmp_path / "model.onnx", (8, 6), **change)
    changed, line = rewritten(path, downsample_keys)
    assert line == ""
    assert op_types(changed) == op_types(path)


def test_other_networks_stay(tmp_path: Path) -> None:
    path = attention(tmp_path / "model.onnx", (8, 6))
    assert rewritten(path, downsample_keys, component="vae_decoder")[1] == ""


def attention_shapes(path: Path) -> list[tuple[int, int]]:
    """Queries and keys of each attention."""
    model, shapes = onnx.load(path, load_external_data=False), _shapes(path)
    matrices = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    return [shapes[name][-2:] for name in matrices]  # type: ignore[misc]


@folds_external_weights
@pytest.mark.parametrize(
    ("bundle", "size", "changed_layers"),
    [(demo_dir(), (256, 256), 5), (demo_dir(), (192, 320), 5), (TINY / "lcm", (48, 32), 3)],
    ids=["demo 256x256", "demo 192x320", "optimum"],
)
def test_only_the_highest_level_changes(
    bundle: Path, size: tuple[int, int], changed_layers: int, tmp_path: Path
) -> None:
    path = folded(bundle, "unet", size, tmp_path)
    changed, _ = rewritten(path, downsample_keys)
    before, after = attention_shapes(path), attention_shapes(changed)
    highest = max(queries for queries, _ in before)
    assert [
        (queries, keys // 4 if queries == keys == highest else keys) for queries, keys in before
    ] == after
    assert sum(a != b for a, b in zip(before, after, strict=True)) == changed_layers
    assert np.isfinite(run(changed, feed(path))).all()


def test_without_shapes_nothing_is_done(tmp_path: Path) -> None:
    given = context(attention(tmp_path / "model.onnx", (8, 6)))
    assert downsample_keys(given._replace(shapes={})) == ""
    reshaped = {name: dims for name, dims in given.shapes.items() if not name.endswith("4")}
    assert downsample_keys(given._replace(shapes=reshaped)) == ""
    assert downsample_keys(given._replace(shapes={**given.shapes, "sample": ()})) == ""

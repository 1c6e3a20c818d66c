"""All rewrites between ONNX Runtime's passes: a whole network, optimized."""

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtimes.onnx import optimize as module
from runtimes.onnx.optimize import _save, optimize
from tests.onnx.rewrites.graphs import assert_same_network, op_types
from tests.parity.bundles import TINY


@pytest.mark.slow
def test_a_whole_network(tmp_path):
    """Optimized, the whole network has nothing left to replace, and returns the same."""
    source = TINY / "lcm" / "unet" / "model.onnx"
    (tmp_path / "entry").mkdir()
    optimize(source, tmp_path / "entry", onnxruntime)
    path = tmp_path / "entry" / "model.onnx"
    assert not {"Softmax", "Resize", "Upsample"} & {*op_types(path)}
    assert_same_network(path, source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry"]


@pytest.mark.host  # minutes of arithmetic under emulation
@pytest.mark.slow
@pytest.mark.parametrize(
    ("free", "level"),
    [(0, "ORT_ENABLE_EXTENDED"), (2**40, "ORT_ENABLE_ALL"), (None, "ORT_ENABLE_ALL")],
)
def test_weights_are_reordered_if_memory_holds_them(free, level, tmp_path, monkeypatch):
    """With less memory than the weights take, reordering them brought the OOM killer."""
    levels = []

    def watched(ort, source, target, level, weights):
        levels.append(level)
        _save(ort, source, target, level, weights)

    monkeypatch.setattr("runtimes.onnx.optimize._save", watched)
    monkeypatch.setattr("runtimes.onnx.optimize.available_bytes", lambda: free)
    source = TINY / "lcm" / "vae_decoder" / "model.onnx"
    (tmp_path / "entry").mkdir()
    optimize(source, tmp_path / "entry", onnxruntime)
    assert levels[-1] == getattr(onnxruntime.GraphOptimizationLevel, level)
    assert_same_network(tmp_path / "entry" / "model.onnx", source)


# All that a stranger may call a file with weights, of which optimize once wrote some.
NAMES = [
    *("changed.onnx", "rewritten.onnx", "folded.onnx", "folded.added", "folded.weights"),
    *("model.weights", "model.onnx.weights", "model.onnx_data", "entry.json", "entry"),
    *("sub/model.weights", "work/rewritten.onnx"),
]


def write_weighted(folder, name, seed=0):
    """A VAE decoder, the weights of whose convolution are in the file `name`."""
    weight = np.random.default_rng(seed).normal(size=(192, 4, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["latent_sample", "weight"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["wide"], ["sample"], blocksize=8),
    ]
    tensor = numpy_helper.from_array(weight, "weight")
    onnx.external_data_helper.set_external_data(tensor, name, 0, weight.nbytes)
    tensor.ClearField("raw_data")
    value = helper.make_tensor_value_info
    inputs = [value("latent_sample", TensorProto.FLOAT, [1, 4, 8, 8])]
    outputs = [value("sample", TensorProto.FLOAT, [1, 3, 64, 64])]
    graph = helper.make_graph(nodes, "small", inputs, outputs, [tensor])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, ir_version=8, opset_imports=[opset])
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / name).write_bytes(weight.tobytes())
    return folder / "model.onnx"


def contents(folder):
    """Every file below a folder, its content, and how many names it has."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_nlink, path.lstat().st_mode) for path in files}


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_any_name_are_only_read(name, tmp_path):
    source = write_weighted(tmp_path / "net", name)
    before = contents(tmp_path)
    (tmp_path / "cache" / "entry").mkdir(parents=True)
    optimize(source, tmp_path / "cache" / "entry", onnxruntime)
    assert {path: known for path, known in contents(tmp_path).items() if path in before} == before
    assert_same_network(tmp_path / "cache" / "entry" / "model.onnx", source)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["entry"]
    written = sorted(path.name for path in (tmp_path / "cache" / "entry").iterdir())
    assert written == ["model.onnx", "model.weights"]


@pytest.mark.parametrize("how", [os.symlink, os.link])
@pytest.mark.parametrize("name", NAMES)
def test_files_to_which_weights_link_are_not_written(name, how, tmp_path):
    """A symbolic link out of the folder is refused; a hard link is a file as any other."""
    source = write_weighted(tmp_path / "net", name)
    victim = tmp_path / "victim"
    (source.parent / name).rename(victim)
    how(victim, source.parent / name)
    before = contents(tmp_path)
    target = tmp_path / "cache" / "entry"
    target.mkdir(parents=True)
    if how is os.symlink:
        with pytest.raises(ValueError, match="outside of its folder"):
            optimize(source, target, onnxruntime)
        assert contents(tmp_path) == before
    else:
        optimize(source, target, onnxruntime)
        assert {path: each for path, each in contents(tmp_path).items() if path in before} == before
    assert [path.name for path in target.parent.iterdir()] == ["entry"]


@pytest.mark.parametrize("name", NAMES)
def test_links_beside_a_model_that_it_does_not_name(name, tmp_path):
    source = write_weighted(tmp_path / "net", "data")
    (source.parent / name).parent.mkdir(exist_ok=True)
    (tmp_path / "victim").write_text("precious")
    (source.parent / name).symlink_to(tmp_path / "victim")
    (tmp_path / "cache" / "entry").mkdir(parents=True)
    optimize(source, tmp_path / "cache" / "entry", onnxruntime)
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_work_folders_weights_have_a_name_that_nobody_can_know(tmp_path, monkeypatch):
    """Else what a branch calls so, which ONNX Runtime leaves alone, would be read from there."""
    names = []

    def watched(ort, source, target, level, weights):
        names.append(weights)
        _save(ort, source, target, level, weights)

    monkeypatch.setattr(module, "_save", watched)
    source = write_weighted(tmp_path / "net", "data")
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        optimize(source, tmp_path / run, onnxruntime)
    assert len({names[0], names[2]}) == 2
    assert all(len(name) == 24 and name.endswith(".weights") for name in (names[0], names[2]))
    assert names[1::2] == ["model.weights"] * 2


def test_weights_that_are_left_where_they_are(tmp_path, monkeypatch):
    """As a release of ONNX Runtime might do with those of branches."""
    source = write_weighted(tmp_path / "net", "data")
    (tmp_path / "cache" / "entry").mkdir(parents=True)

    def lazy(ort, source, target, level, weights):
        target.write_bytes(source.read_bytes())
        (target.parent / "data").write_bytes((source.parent / "data").read_bytes())

    monkeypatch.setattr(module, "_save", lazy)
    with pytest.raises(ValueError, match="left weights where they are"):
        optimize(source, tmp_path / "cache" / "entry", onnxruntime)


def test_a_small_model_with_embedded_weights_that_grows_beyond_protobuf(tmp_path, monkeypatch):
    """Then the first pass is made once more, with weights in a file; else its error is raised."""
    real, passes = _save, []

    def fails_once(ort, source, target, level, weights):
        passes.append(weights)
        if len(passes) == 1:
            raise RuntimeError("exceeds maximum protobuf size of 2GB")
        real(ort, source, target, level, weights)

    monkeypatch.setattr(module, "_save", fails_once)
    source = TINY / "lcm" / "vae_decoder" / "model.onnx"
    (tmp_path / "entry").mkdir()
    optimize(source, tmp_path / "entry", onnxruntime)
    assert passes[0] is None
    assert passes[1].endswith(".weights")
    assert passes[2:] == ["model.weights"]
    passes.clear()
    external = write_weighted(tmp_path / "net", "data")
    with pytest.raises(RuntimeError, match="exceeds"):
        optimize(external, tmp_path / "entry", onnxruntime)
    assert len(passes) == 1

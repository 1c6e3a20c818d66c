"""ONNX files as the converter needs them; each graph is made here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lcmcore.errors import NetworkError, RuntimeUnavailableError
from lcmcore.runtime import TensorSpec
from runtimes.rknn.onnxfile import OnnxFile
from runtimes.rknn.toolkit import INSTALL
from tests.rknn.rewrites.contexts import folds_external_weights

FIXED = {"sample": (1, 4, 4, 6), "timestep": (1,)}
USUAL = {"sample": (1, 4, 4, 6), "timestep": (1,), "timestep_cond": (1, 8)}


def write(
    folder: Path,
    timestep: list[Any] | None = None,
    sample: list[Any] | None = None,
    opset: int = 17,
    external: bool = False,
    **inputs: list[Any],
) -> Path:
    """y = sample * w + timestep, twice; inputs are (name, shape)."""
    values = [("sample", sample or [1, 4, "h", "w"])]
    values += [] if timestep is None else [("timestep", timestep)]
    step = "zero" if timestep is None else "timestep"
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["sample", "w"], ["m"]),
            helper.make_node("Add", ["m", step], ["a"]),
            helper.make_node("Add", [step, "a"], ["y"]),
        ],
        "g",
        [
            *(helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in values),
            *(helper.make_tensor_value_info(n, TensorProto.FLOAT16, s) for n, s in inputs.items()),
            # Old exporters declare weights as inputs, too.
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "h", "w"])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [1], np.float32([2]).tobytes(), raw=True),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        ],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 99)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path = folder / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=external, location="w.data",
                    size_threshold=0)  # fmt: skip
    return path


def test_inputs_and_outputs_without_weights(tmp_path: Path) -> None:
    path = write(tmp_path, timestep=[], timestep_cond=[1, "n"])
    file = OnnxFile.read("unet", path)
    assert file == OnnxFile(
        "unet",
        path,
        (
            TensorSpec("sample", (1, 4, None, None), "float32"),
            TensorSpec("timestep", (), "float32"),
            TensorSpec("timestep_cond", (1, None), "float16"),
        ),
        (TensorSpec("y", (1, 4, None, None), "float32"),),
    )


@pytest.mark.parametrize(("opset", "taken"), [(17, True), (19, True), (20, False)])
def test_newest_opset(tmp_path: Path, opset: int, taken: bool) -> None:
    path = write(tmp_path, opset=opset)
    if taken:
        assert OnnxFile.read("unet", path)
        return
    with pytest.raises(NetworkError) as error:
        OnnxFile.read("unet", path)
    assert str(error.value) == (
        f"unet: {path} has opset 20, and rknn-toolkit2 converts up to 19: export it again,"
        " e.g. with `lcm build onnx`"
    )


def test_shapes_in_the_files_order(tmp_path: Path) -> None:
    path = write(tmp_path, timestep=[1], timestep_cond=[1, 8])
    got = OnnxFile.read("unet", path).shapes(dict(reversed(USUAL.items())))
    assert [*got.items()] == [*USUAL.items()]


@pytest.mark.parametrize("timestep", [[], [1], ["b"], [1, 1]])
def test_a_timestep_of_any_rank_is_a_list_of_one(tmp_path: Path, timestep: list[Any]) -> None:
    path = write(tmp_path, timestep=timestep)
    assert OnnxFile.read("unet", path).shapes(USUAL)["timestep"] == (1,)


def test_only_timestep_cond_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, timestep=[1])
    assert "timestep_cond" not in OnnxFile.read("unet", path).shapes(USUAL)
    path = write(tmp_path)
    with pytest.raises(NetworkError) as error:
        OnnxFile.read("unet", path).shapes(USUAL)
    words = "holds another network: it takes sample [1, 4, ?, ?] float32"
    assert str(error.value) == f"unet: {path} {words}"


def test_an_unknown_input_is_another_network(tmp_path: Path) -> None:
    path = write(tmp_path, timestep=[1], mask=[1])
    with pytest.raises(NetworkError, match="holds another network"):
        OnnxFile.read("unet", path).shapes(USUAL)


def test_a_single_input_may_have_any_name(tmp_path: Path) -> None:
    file = OnnxFile.read("vae_decoder", write(tmp_path))
    assert file.shapes({"latent_sample": (1, 4, 4, 6)}) == {"sample": (1, 4, 4, 6)}


@pytest.mark.parametrize("sample", [[1, 4, 4, 7], [1, 4, 4], [1, 4, 4, 6, 1]])
def test_another_size(tmp_path: Path, sample: list[int]) -> None:
    path = write(tmp_path, sample=sample)
    file = OnnxFile("unet", path, (TensorSpec("sample", tuple(sample), "float32"),), ())
    with pytest.raises(NetworkError) as error:
        file.shapes({"sample": (1, 4, 4, 6)})
    assert str(error.value) == (
        f"unet: {path} takes sample {sample} float32, and this size needs sample [1, 4, 4, 6]"
        " float32: choose the size that it was exported for, or export it for any size"
    )


@pytest.mark.parametrize("external", [False, pytest.param(True, marks=folds_external_weights)])
@pytest.mark.parametrize("timestep", [[], [1], ["b"]])
def test_folded_at_fixed_shapes(tmp_path: Path, timestep: list[Any], external: bool) -> None:
    """A timestep of rank 0 becomes a list of one: the converter builds it else, and cannot run."""
    path = write(tmp_path, timestep=timestep, external=external)
    (tmp_path / "out").mkdir()
    copy = OnnxFile.read("unet", path).fold(tmp_path / "out", FIXED)
    onnx.checker.check_model(onnx.load(copy))
    session = onnxruntime.InferenceSession(copy)
    assert {value.name: value.shape for value in session.get_inputs()} == {
        "sample": [1, 4, 4, 6], "timestep": [1],
    }  # fmt: skip
    sample = np.ones((1, 4, 4, 6), np.float32)
    (got,) = session.run(None, {"sample": sample, "timestep": np.float32([3])})
    np.testing.assert_array_equal(got, 8)  # 1 * 2 + 3 + 3


def test_large_weights_stay_outside_of_the_folded_file(tmp_path: Path) -> None:
    """Protobuf cannot hold more than 2 GiB."""
    weights = np.random.default_rng(0).standard_normal((1, 4, 40, 60), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["sample", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, [1, 4, 40, 60])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 40, 60])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid("", 17)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    (tmp_path / "out").mkdir()
    file = OnnxFile.read("unet", path)
    copy = file.fold(tmp_path / "out", {"sample": (1, 4, 40, 60)})
    assert copy.stat().st_size < weights.nbytes / 10
    (got,) = onnxruntime.InferenceSession(copy).run(None, {"sample": weights})
    np.testing.assert_array_equal(got, 2 * weights)


def test_weights_that_lie_elsewhere_are_not_folded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in", timestep=[1], external=True)
    (tmp_path / "in" / "w.data").rename(tmp_path / "w.data")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.data"
    path.write_bytes(model.SerializeToString())
    file = OnnxFile("unet", path, (), ())
    with pytest.raises(NetworkError, match=r"^unet: cannot read .*: .* has weights outside of its"):
        file.fold(tmp_path, FIXED)


def test_the_graph_is_read_without_its_weights(tmp_path: Path) -> None:
    path = write(tmp_path, external=True)
    (tmp_path / "w.data").unlink()
    assert OnnxFile.read("unet", path).inputs[0].name == "sample"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\xff" * 100)
    with pytest.raises(NetworkError, match=f"^unet: cannot read {path}: "):
        OnnxFile.read("unet", path)


@pytest.mark.parametrize("name", ["model.onnx", "w.data"])
def test_files_that_were_never_fetched(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, external=True)
    pointer = "version https://git-lfs.github.com/spec/v1\n"
    (tmp_path / "model.rknn").write_text(pointer)  # not asked for
    assert OnnxFile.read("unet", path)
    (tmp_path / name).write_text(pointer)
    with pytest.raises(NetworkError) as error:
        OnnxFile.read("unet", path)
    words = "a Git LFS pointer, not the file itself: run `git lfs pull`"
    assert str(error.value) == f"unet: {tmp_path / name}: {words}"


def test_without_the_package_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RuntimeUnavailableError) as error:
        OnnxFile.read("unet", path)
    assert str(error.value) == f"onnx is not installed: {INSTALL}"

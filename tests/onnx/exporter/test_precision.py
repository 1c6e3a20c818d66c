"""`--precision float16`: half the disk, and the network that it was."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lcmcore.cli.info import describe
from runtimes.onnx import OnnxRuntime, build
from runtimes.rknn import shapes
from runtimes.rknn.onnxfile import OnnxFile
from tests.onnx.exporter.shallow import write_checkpoint
from tests.onnx.exporter.tiny_configs import export

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another
COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
SCALE = 4  # of the widths, so that most weights are large enough to be halved


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint as float32 and float16."""
    root = tmp_path_factory.mktemp("precision")
    checkpoint = write_checkpoint(root / "checkpoint", SCALE, torch.float32)
    for precision in ("float32", "float16"):
        export(checkpoint, root / precision, "--precision", precision)
    return root


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def outputs(root: Path) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    normal = random.standard_normal
    inputs = {
        "text_encoder": {"input_ids": random.integers(99, size=(2, 77))},
        "unet": {
            "sample": normal((2, 4, 8, 16)).astype(np.float32),
            "timestep": np.array([259]),
            "encoder_hidden_states": normal((2, 77, 16 * SCALE)).astype(np.float32),
            "timestep_cond": normal((2, 256)).astype(np.float32),
        },
        "vae_encoder": {"sample": random.uniform(-1, 1, (1, 3, 64, 128)).astype(np.float32)},
        "vae_decoder": {"latent_sample": normal((1, 4, 8, 16)).astype(np.float32)},
    }
    found = {}
    for component in COMPONENTS:
        network = OnnxRuntime().open(component, root / component, {})
        found[component] = next(iter(network.run(inputs[component]).values()))
    return found


def test_it_computes_the_same_in_half_the_space(exported: Path) -> None:
    plain, half = outputs(exported / "float32"), outputs(exported / "float16")
    for component in COMPONENTS:
        off = np.abs(half[component] - plain[component]).max() / np.abs(plain[component]).max()
        assert 1e-6 < off < 1e-2, component
        data = [exported / each / component / "model.onnx.data" for each in ("float32", "float16")]
        weights = [path.stat().st_size for path in data]
        assert 0.5 <= weights[1] / weights[0] < 0.62, component  # small ones stay float32


def test_inputs_and_outputs_stay_float32(exported: Path) -> None:
    for component in COMPONENTS:
        models = [
            onnx.load(exported / each / component / "model.onnx", load_external_data=False)
            for each in ("float32", "float16")
        ]
        assert models[0].graph.input == models[1].graph.input
        assert models[0].graph.output == models[1].graph.output
        onnx.checker.check_model(str(exported / "float16" / component / "model.onnx"))


def test_info_tells_it(exported: Path) -> None:
    told = [line for line in describe(exported / "float16") if line.startswith("  made from ")]
    assert ", precision float16, " in told[0]


def test_another_precision_is_another_export(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(exported / "float16", tmp_path / "out"))
    export(exported / "checkpoint", out)
    assert "already exported" not in capsys.readouterr().err
    assert size(out / "unet") == size(exported / "float32" / "unet")


def test_weights_beyond_its_range_stay_float32(tmp_path: Path) -> None:
    """As float16 they would be infinite."""
    import onnx_ir as ir

    from runtimes.onnx.checkpoint.half_precision import halve_weights

    values = {"far": np.full((64, 64), 1e5, np.float32), "near": np.full((64, 64), 65504.0, "f")}
    nodes = [onnx.helper.make_node("Add", ["far", "near"], ["y"])]
    graph = onnx.helper.make_graph(
        nodes, "g", [], [onnx.helper.make_tensor_value_info("y", 1, [64, 64])],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    model = ir.from_proto(onnx.helper.make_model(graph))
    halve_weights(model)
    assert set(model.graph.initializers) == {"far", "near_float16"}
    (got,) = onnx.reference.ReferenceEvaluator(ir.to_proto(model)).run(None, {})
    assert np.array_equal(got, values["far"] + values["near"])


def test_a_network_that_suffers_is_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "HALF_TOLERANCE", 1e-9)
    with pytest.raises(build.NetworkError, match="ONNX Runtime differs from torch by"):
        export(exported / "checkpoint", tmp_path / "out", "--precision", "float16")


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_converter_gets_what_it_did_before(
    exported: Path, tmp_path: Path, component: str
) -> None:
    """`lcm build rknn` folds constants first: no weight is of float16, or cast."""
    graphs = []
    for precision in ("float32", "float16"):
        root, folder = exported / precision, tmp_path / precision
        folder.mkdir()
        file = OnnxFile.read(component, root / component / "model.onnx")
        path = file.fold(folder, file.shapes(shapes.input_shapes(component, root, (64, 64))))
        graphs.append(onnx.load(path).graph)
    plain, half = graphs
    operators = [Counter(node.op_type for node in graph.node) for graph in graphs]
    assert operators[0] == operators[1]
    kinds = [{tensor.data_type for tensor in graph.initializer} for graph in graphs]
    assert kinds[0] == kinds[1]
    assert len(plain.initializer) == len(half.initializer)

"""Real ONNX Runtime over small graphs, in the forms that older and newer exporters write."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lcmcore
from lcmcore import ArgumentError, NetworkError
from lcmcore.fake import FakeRuntime
from runtimes.onnx import OnnxRuntime
from tests.parity.bundles import TINY

FLOAT, HALF, INT32, INT64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
)


def tensor(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def write(path, nodes, inputs, outputs, weights=(), **options):
    """A model that also the oldest ONNX Runtime allowed can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializer=weights)
    opset = helper.make_opsetid("", 17)
    onnx.save_model(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path, **options)
    return path


def write_unet(folder, timestep=(INT64, [1]), floats=FLOAT, size=("h", "w"), batch="b", cond=32):
    """A UNet that predicts the timestep, in thousands, everywhere."""
    sample = [batch, 4, *size]
    inputs = [
        tensor("sample", floats, sample),
        tensor("timestep", *timestep),
        tensor("encoder_hidden_states", floats, [batch, 77, 16]),
    ]
    if cond:
        inputs.append(tensor("timestep_cond", floats, [batch, cond]))
    nodes = [
        helper.make_node("Cast", ["timestep"], ["time"], to=floats),
        helper.make_node("Reshape", ["time", "column"], ["times"]),
        helper.make_node("Div", ["times", "thousand"], ["thousands"]),
        helper.make_node("Mul", ["sample", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "thousands"], ["out_sample"]),
    ]
    kind = np.float16 if floats == HALF else np.float32
    weights = [
        numpy_helper.from_array(np.array([-1, 1, 1, 1]), "column"),
        numpy_helper.from_array(np.array(1000, kind), "thousand"),
        numpy_helper.from_array(np.array(0, kind), "nothing"),
    ]
    outputs = [tensor("out_sample", floats, sample)]
    return write(folder / "model.onnx", nodes, inputs, outputs, weights)


def write_weighted(folder, **options):
    """A VAE decoder whose one convolution has its weight outside the file."""
    weight = np.random.default_rng(0).normal(size=(192, 4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["latent_sample", "weight"], ["wide"]),
        helper.make_node("DepthToSpace", ["wide"], ["sample"], blocksize=8),
    ]
    return write(
        folder / "model.onnx",
        nodes,
        [tensor("latent_sample", FLOAT, ["b", 4, "h", "w"])],
        [tensor("sample", FLOAT, ["b", 3, "height", "width"])],
        [numpy_helper.from_array(weight, "weight")],
        **options,
    )


OUTSIDE = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 0}


def unet_inputs(batch=2):
    return {
        "sample": np.ones((batch, 4, 8, 8), np.float32),
        "timestep": np.array([499], np.int64),
        "encoder_hidden_states": np.zeros((batch, 77, 16), np.float32),
        "timestep_cond": np.zeros((batch, 32), np.float32),
    }


@pytest.mark.parametrize("kind", [INT64, INT32, FLOAT], ids=["int64", "int32", "float32"])
@pytest.mark.parametrize("shape", [[], [1], ["b"]], ids=["rank 0", "[1]", "[b]"])
def test_timesteps_of_older_and_newer_exports(kind, shape, tmp_path):
    write_unet(tmp_path, (kind, shape))
    network = OnnxRuntime().open("unet", tmp_path, {})
    spec = next(spec for spec in network.inputs if spec.name == "timestep")
    assert spec.shape == (1,)
    output = network.run(unet_inputs())["out_sample"]
    assert output.shape == (2, 4, 8, 8)
    np.testing.assert_allclose(output, 0.499, rtol=1e-6)


def test_half_precision(tmp_path):
    write_unet(tmp_path, floats=HALF)
    network = OnnxRuntime().open("unet", tmp_path, {})
    assert network.inputs[0].dtype == "float16"
    output = network.run(unet_inputs())["out_sample"]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, 0.499, atol=1e-3)


@pytest.mark.parametrize("kind", [INT64, INT32])
def test_input_ids_of_32_and_64_bits(kind, tmp_path):
    nodes = [
        helper.make_node("Unsqueeze", ["input_ids", "last"], ["column"]),
        helper.make_node("Cast", ["column"], ["last_hidden_state"], to=FLOAT),
    ]
    write(
        tmp_path / "model.onnx",
        nodes,
        [tensor("input_ids", kind, ["b", 77])],
        [tensor("last_hidden_state", FLOAT, ["b", 77, 1])],
        [numpy_helper.from_array(np.array([2]), "last")],
    )
    ids = np.arange(77, dtype=np.int64)[None]
    output = OnnxRuntime().open("text_encoder", tmp_path, {}).run({"input_ids": ids})
    np.testing.assert_array_equal(output["last_hidden_state"][0, :, 0], ids[0])


def test_free_dimensions_are_none(tmp_path):
    write_unet(tmp_path, size=(8, "w"))
    network = OnnxRuntime().open("unet", tmp_path, {})
    assert network.inputs[0].shape == (None, 4, 8, None)


def test_an_output_of_undeclared_shape(configs):
    """ONNX Runtime works the shape out by itself."""
    folder = configs / "unet"
    write_unet(folder)
    model = onnx.load(folder / "model.onnx")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, folder / "model.onnx")
    output = OnnxRuntime().open("unet", folder, {}).run(unet_inputs())["out_sample"]
    assert output.shape == (2, 4, 8, 8)
    with lcmcore.load(configs, runtime={"unet": "onnx", "default": FakeRuntime()}) as pipe:
        assert pipe("a", width=64, height=64, seed=1).latents.shape == (1, 4, 8, 8)


def test_weights_beside_the_file(tmp_path):
    latents = np.ones((1, 4, 2, 2), np.float32)
    write_weighted(tmp_path / "inside")
    write_weighted(tmp_path / "outside", **OUTSIDE)
    assert (tmp_path / "outside" / "model.onnx_data").stat().st_size >= 192 * 4 * 4
    outputs = [
        OnnxRuntime().open("vae_decoder", folder, {}).run({"latent_sample": latents})["sample"]
        for folder in (tmp_path / "inside", tmp_path / "outside")
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("length", [None, 100])
def test_weights_missing_or_cut(length, tmp_path):
    write_weighted(tmp_path, **OUTSIDE)
    data = tmp_path / "model.onnx_data"
    kept = data.read_bytes()[:length]
    data.unlink()
    if length:
        data.write_bytes(kept)
    with pytest.raises(NetworkError, match=f"^vae_decoder: cannot open {tmp_path}.*model"):
        OnnxRuntime().open("vae_decoder", tmp_path, {})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", id="LFS text"),
        pytest.param(None, id="cut"),
    ],
)
def test_a_file_that_is_no_model(content, tmp_path, capfd):
    path = write_unet(tmp_path)
    if content is None:
        content = path.read_bytes()[:300]
    path.write_bytes(content)
    with pytest.raises(
        NetworkError, match=f"^unet: cannot open {re.escape(str(path))}: "
    ) as caught:
        OnnxRuntime().open("unet", tmp_path, {})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_no_file(tmp_path):
    with pytest.raises(NetworkError, match=f"^unet: no model.onnx in {re.escape(str(tmp_path))}"):
        OnnxRuntime().open("unet", tmp_path, {})


def test_a_failing_run_names_the_network(tmp_path, capfd):
    write_weighted(tmp_path)
    network = OnnxRuntime().open("vae_decoder", tmp_path, {})
    with pytest.raises(NetworkError, match=r"^vae_decoder: ONNX Runtime failed: .*"):
        network.run({"latent_sample": np.ones((1, 3, 2, 2), np.float32)})
    assert capfd.readouterr().err == ""
    network.close()
    network.close()
    with pytest.raises(NetworkError, match="vae_decoder: the network is closed"):
        network.run({"latent_sample": np.ones((1, 4, 2, 2), np.float32)})


def test_a_type_that_is_not_supported(tmp_path):
    write(
        tmp_path / "model.onnx",
        [helper.make_node("Identity", ["text"], ["same"])],
        [tensor("text", TensorProto.STRING, [1])],
        [tensor("same", TensorProto.STRING, [1])],
    )
    with pytest.raises(NetworkError, match=r"unet: text is of a type not supported: tensor\(str"):
        OnnxRuntime().open("unet", tmp_path, {})


@pytest.mark.host  # threads that spin starve each other under emulation
@pytest.mark.slow
def test_no_thread_is_busy_after_a_run():
    """ONNX Runtime's own go on spinning for 40 ms, on the cores that the next network needs."""
    decoder = OnnxRuntime().open("vae_decoder", lcmcore.demo_dir() / "vae_decoder", {"threads": 2})
    latents = {decoder.inputs[0].name: np.zeros((1, 4, 32, 32), np.float32)}

    def busy_seconds():
        decoder.run(latents)
        start = time.process_time()
        time.sleep(0.03)
        return time.process_time() - start

    assert min(busy_seconds() for _ in range(5)) < 0.01


def test_threads_and_providers(tmp_path):
    write_unet(tmp_path)
    options = {"threads": 1, "providers": ["CPUExecutionProvider"]}
    output = OnnxRuntime().open("unet", tmp_path, options).run(unet_inputs())["out_sample"]
    np.testing.assert_allclose(output, 0.499, rtol=1e-6)


def test_options_of_a_provider_reach_the_session(tmp_path, monkeypatch):
    """The CPU's has none that could be read back."""
    import onnxruntime

    write_unet(tmp_path)
    given = []
    real = onnxruntime.InferenceSession

    def session(*args, providers):
        given.append(providers)
        return real(*args, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    pair = ("CPUExecutionProvider", {"use_arena": "1"})
    OnnxRuntime().open("unet", tmp_path, {"providers": [pair, "CPUExecutionProvider"]})
    assert given == [[pair, "CPUExecutionProvider"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 0}, "threads must be from 1 to 1024, not 0"),
        ({"threads": "2"}, "not '2'"),
        (
            {"providers": "NpuExecutionProvider"},
            "'NpuExecutionProvider' is not in this onnxruntime",
        ),
        ({"providers": ["CPU"]}, "which has"),
        ({"providers": []}, "providers must be a list of names, not []"),
        ({"providers": 5}, "providers must be a list of names, not 5"),
        ({"providers": [("Npu", {"device_id": 1})]}, "'Npu' is not in this onnxruntime"),
        ({"providers": [("CPUExecutionProvider", 1)]}, "is not in this onnxruntime"),
    ],
)
def test_options_that_are_wrong(options, words, tmp_path):
    write_unet(tmp_path)
    with pytest.raises(ArgumentError, match=re.escape(words)):
        OnnxRuntime().open("unet", tmp_path, options)


def test_a_fixed_size_is_the_default_and_serves_others_by_tiles(configs):
    """Batch 1 and 8x8 latents in the file: one tile of one image a run."""
    write_unet(configs / "unet", (INT64, []), size=(8, 8), batch=1)
    with lcmcore.load(configs, runtime={"unet": "onnx", "default": FakeRuntime()}) as pipe:
        result = pipe(["a", "b"], seed=1)
        assert [image.size for image in result.images] == [(64, 64)] * 2
        result = pipe("a", seed=1, width=128)
        assert [image.size for image in result.images] == [(128, 64)]


def test_a_unet_without_guidance_input(configs):
    write_unet(configs / "unet", cond=None)
    with lcmcore.load(configs, runtime={"unet": "onnx", "default": FakeRuntime()}) as pipe:
        assert pipe.guidance_width == 0
        assert pipe("a", seed=1, width=64, height=64).latents.shape == (1, 4, 8, 8)


def test_onnxruntime_not_installed(monkeypatch):
    monkeypatch.setattr("runtimes.onnx.runtime.find_spec", lambda name: None)
    with pytest.raises(lcmcore.RuntimeUnavailableError, match=r"pip install 'lcmcore\[onnx\]'"):
        lcmcore.load(lcmcore.demo_dir(), runtime="onnx")


def test_nothing_is_left_in_the_home_of_a_user(tmp_path):
    """ONNX Runtime 1.32 would keep a device id and a queue of events there, but not where CI=1."""
    code = (
        f"import lcmcore\nwith lcmcore.load({str(TINY / 'lcm')!r}) as pipe: pipe('a lake', seed=1)"
    )
    hidden = ("CI", "ORT_DISABLE_TELEMETRY", "LCM_CACHE", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    subprocess.run(
        [sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True
    )
    assert not [*tmp_path.rglob("*")]

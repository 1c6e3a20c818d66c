"""OpenVINO as a runtime: when it is chosen, its options, and what becomes of its errors."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

import lcmcore
from lcmcore import ArgumentError, NetworkError, RuntimeUnavailableError
from lcmcore.bundle import COMPONENTS, Bundle
from lcmcore.cli.doctor import findings
from lcmcore.cli.info import describe
from lcmcore.cli.main import main
from lcmcore.conformance import breaches
from lcmcore.png import read_record
from runtimes.openvino import OpenVINORuntime
from runtimes.openvino.files import model_files
from tests.fixed_size import fix_size
from tests.openvino.test_images import to_ir
from tests.parity.bundles import TINY, assemble

LCM = Path(sys.executable).with_name("lcm")
LATENTS = {"latent_sample": np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)}
HAS_BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def ir(tmp_path):
    """A bundle in OpenVINO's own format alone."""
    bundle = assemble("lcm", tmp_path / "ir")
    to_ir(bundle)
    return bundle


def decode(folder, **options):
    network = OpenVINORuntime().open("vae_decoder", folder, options)
    pixels = network.run(LATENTS)["sample"]
    network.close()
    return pixels


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_keeps_the_contract(precision):
    if precision == "bfloat16" and not HAS_BFLOAT16:
        pytest.skip("this processor has no bfloat16")
    options = {"precision": precision, "threads": 2}
    assert list(breaches(OpenVINORuntime(), TINY / "lcm", options=options)) == []


def test_it_keeps_the_contract_with_its_own_format(ir):
    assert list(breaches(OpenVINORuntime(), ir)) == []


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16")
def test_bfloat16_is_another_arithmetic_and_float32_is_not():
    """float32 is asked for: OpenVINO's own default on such a processor is bfloat16."""
    folder = TINY / "lcm" / "vae_decoder"
    reference = lcmcore.load(TINY / "lcm", runtime="onnx").networks.run("vae_decoder", **LATENTS)
    scale = np.abs(reference).max()
    assert np.abs(decode(folder) - reference).max() < 1e-5 * scale
    off = np.abs(decode(folder, precision="bfloat16") - reference).max()
    assert 1e-4 * scale < off < 0.2 * scale


def test_auto_never_chooses_it(ir):
    with lcmcore.load(lcmcore.demo_dir()) as pipe:
        assert {each.name for each in pipe.networks.runtimes.values()} == {"onnx"}
    with pytest.raises(NetworkError, match=r"--runtime openvino opens openvino_model\.xml"):
        lcmcore.load(ir)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16")
def test_lcm_toml_chooses_it_for_a_network(tmp_path):
    bundle = assemble("lcm", tmp_path / "bundle")
    with lcmcore.load(bundle) as pipe:
        plain = pipe("a lake", seed=1, output_type="np").images
    (bundle / "lcm.toml").write_text('[unet]\nruntime = "openvino"\nprecision = "bfloat16"\n')
    with lcmcore.load(bundle) as pipe:
        result = pipe("a lake", seed=1, output_type="np")
    assert result.runtimes["unet"] == "openvino"
    assert result.runtimes["vae_decoder"] == "onnx"
    assert 1e-4 < np.abs(result.images - plain).max() < 0.1


def test_own_format_is_preferred_and_its_weights_counted(ir):
    runtime, folder = OpenVINORuntime(), ir / "unet"
    shutil.copy(TINY / "lcm" / "unet" / "model.onnx", folder)
    xml, weights = folder / "openvino_model.xml", folder / "openvino_model.bin"
    assert runtime.model_file(folder) == xml
    expected = xml.stat().st_size + weights.stat().st_size
    assert Bundle.open(ir).file_bytes("unet", xml.name) == expected
    onnx_bytes = (folder / "model.onnx").stat().st_size
    assert Bundle.open(ir).file_bytes("unet", "model.onnx") == onnx_bytes


def test_large_weights_of_its_own_format_choose_low_memory(ir, monkeypatch):
    weights = sum(path.stat().st_size for path in ir.glob("*/openvino_model.bin"))
    monkeypatch.setattr("lcmcore.networks.available_bytes", lambda: int(1.5 * weights))
    assert lcmcore.load(ir, runtime="openvino").networks.memory == "low"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "TPU"}, "device must be .*'CPU'.* or 'AUTO', not 'TPU'"),
        ({"precision": "int8"}, "precision must be 'float32' or 'bfloat16' or 'float16', not"),
        ({"threads": 0}, "threads must be from 1 to 1024, not 0"),
        ({"threads": "two"}, "threads must be a whole number"),
        ({"graph_cache": "no"}, "graph_cache must be true or false, not 'no'"),
        ({"size": "64"}, "size must be WIDTHxHEIGHT, like 512x384, not '64'"),
        ({"size": "64x60"}, "size 64x60: width and height must be multiples of 8"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        OpenVINORuntime().open("vae_decoder", TINY / "lcm" / "vae_decoder", options)


def test_precision_that_the_device_has_not(monkeypatch):
    """OpenVINO itself would take bfloat16 for it, or float32, without a word."""
    monkeypatch.setattr("runtimes.openvino.runtime._precisions", lambda *_: ["float32"])
    with pytest.raises(ArgumentError, match="precision float16: OpenVINO's CPU has float32"):
        decode(TINY / "lcm" / "vae_decoder", precision="float16")


def test_what_a_model_fixes_stays(tmp_path):
    """The size is for what is free."""
    root = fix_size(TINY / "lcm", tmp_path / "fixed", (48, 32))
    for component, sides in (("unet", (4, 6)), ("vae_encoder", (32, 48))):
        network = OpenVINORuntime().open(component, root / component, {"size": "64x64"})
        assert network.inputs[0].shape[2:] == sides
        network.close()


FORMS = {  # of what an exporter declares: the type of a dimension, of the timestep, of the rest
    "free": lambda model: None,
    "named": lambda model: _set_dims(model, lambda dim: setattr(dim, "dim_param", "side")),
    "fixed": lambda model: _set_dims(model, lambda dim: setattr(dim, "dim_value", 8)),
    "timestep of rank 0": lambda model: _timestep(model).shape.ClearField("dim"),
    "timestep in int32": lambda model: setattr(_timestep(model), "elem_type", 6),
    "weights among the inputs": lambda model: model.graph.input.extend(
        onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        for each in model.graph.initializer
    ),
}


def _set_dims(model, change):
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        change(dim)


def _timestep(model):
    return next(each for each in model.graph.input if each.name == "timestep").type.tensor_type


@pytest.mark.parametrize("options", [{}, {"size": "64x64"}], ids=["free", "size"])
@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_those_that_openvino_finds(form, options, tmp_path):
    """Read from the file, without OpenVINO."""
    root = assemble("lcm", tmp_path)
    path = root / "unet" / "model.onnx"
    model = onnx.load(path)
    FORMS[form](model)
    onnx.save(model, path)
    said = OpenVINORuntime().inputs("unet", root / "unet", options)
    network = OpenVINORuntime().open("unet", root / "unet", options)
    assert said == network.inputs
    network.close()


@pytest.mark.parametrize("bundle", [TINY / "lcm", lcmcore.demo_dir()], ids=["tiny", "demo"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_inputs_of_each_network(component, bundle):
    folder = bundle / component
    network = OpenVINORuntime().open(component, folder, {})
    assert OpenVINORuntime().inputs(component, folder, {}) == network.inputs
    network.close()


def test_inputs_that_only_opening_tells(ir, tmp_path):
    assert OpenVINORuntime().inputs("unet", ir / "unet", {}) is None
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    assert OpenVINORuntime().inputs("unet", tmp_path, {}) is None
    assert OpenVINORuntime().inputs("unet", tmp_path / "missing", {}) is None


def test_the_text_encoder_runs_while_the_unet_is_opened(monkeypatch):
    """A UNet of full size takes OpenVINO seconds to open."""
    has_run = threading.Event()

    class Waiting(OpenVINORuntime):
        def open(self, component, folder, options):
            if component == "unet":
                assert has_run.wait(60), "the UNet was opened first"
            network = super().open(component, folder, options)
            if component == "text_encoder":
                run = network.run
                network.run = lambda inputs: (run(inputs), has_run.set())[0]
            return network

    monkeypatch.setattr("lcmcore.residency.usable_cores", lambda: {0, 1})
    with lcmcore.load(TINY / "lcm", runtime=Waiting(), memory="high") as pipe:
        pipe("a lake", seed=1, num_inference_steps=1)


@pytest.mark.parametrize("device", ["CPU", "AUTO"])
def test_devices(device):
    folder = TINY / "lcm" / "vae_decoder"
    np.testing.assert_allclose(decode(folder, device=device), decode(folder), atol=1e-4)


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def without_weights(path):
    path.with_suffix(".bin").unlink()


def with_half_of_the_weights(path):
    truncated(path.with_suffix(".bin"))


def with_a_pointer(path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    path.with_suffix(".bin").write_text(pointer)


def with_weights_outside(path):
    weights = path.with_suffix(".bin")
    outside = path.parents[2] / "private"
    shutil.move(weights, outside)
    weights.symlink_to(outside)


def of_another_root(path):
    path.write_text("<html></html>")


def with_a_document_type(path):
    text = path.read_text().replace("<net", '<!DOCTYPE net [<!ENTITY a "b">]><net', 1)
    path.write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "openvino_model.xml is not valid XML: "),
        (without_weights, "openvino_model.bin"),
        (with_half_of_the_weights, "Incorrect weights in bin file!"),
        (with_a_pointer, "openvino_model.bin: .*(Git LFS|git lfs)"),
        (with_weights_outside, "leads outside of its folder"),
        (of_another_root, "cannot open .*openvino_model.xml: "),
        (with_a_document_type, "declares a document type"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_model_is_one_line(damage, message, ir, tmp_path, capfd):
    damage(ir / "unet" / "openvino_model.xml")
    capfd.readouterr()
    with pytest.raises(NetworkError, match=message) as caught:
        OpenVINORuntime().open("unet", ir / "unet", {})
    assert "\n" not in str(caught.value)
    if damage is not of_another_root:  # OpenVINO's readers of other formats write to stderr
        assert capfd.readouterr() == ("", "")


def test_doctor_names_a_broken_model_and_the_devices(ir):
    without_weights(ir / "unet" / "openvino_model.xml")
    found = list(findings(ir))
    assert any(level == "error" and "openvino_model.bin" in text for level, text, _ in found)
    texts = [text for _, text, _ in found]
    assert any(text.startswith("OpenVINO device CPU: ") and "float32" in text for text in texts)
    assert any(text.startswith("this processor has ") for text in texts)


def test_doctor_says_how_its_own_format_is_opened(ir, capsys):
    found = [finding for finding in findings(ir) if "openvino opens" in finding[1]]
    assert len(found) == 4
    for level, _, remedy in found:
        assert level == "warning"
        assert remedy == 'name it: --runtime openvino, or runtime = "openvino" in lcm.toml'
    assert main(["doctor", f"--model={ir}"]) == 0


def test_a_broken_onnx_file_is_one_line(tmp_path, capfd):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09garbage")
    with pytest.raises(NetworkError, match=r"unet: cannot open .*model.onnx: "):
        OpenVINORuntime().open("unet", tmp_path, {})
    assert capfd.readouterr() == ("", "")


def test_a_run_that_fails_is_a_network_error():
    network = OpenVINORuntime().open("vae_decoder", TINY / "lcm" / "vae_decoder", {})
    with pytest.raises(NetworkError, match="vae_decoder: OpenVINO failed: ") as caught:
        network.run({"latent_sample": np.zeros((1, 3, 8, 8), np.float32)})
    assert "\n" not in str(caught.value)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("runtimes.openvino.runtime.find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'lcmcore\[openvino\]'"):
        lcmcore.load(lcmcore.demo_dir(), runtime="openvino")


def test_a_package_that_does_not_import(tmp_path):
    (tmp_path / "openvino.py").write_text("raise OSError('libopenvino.so: cannot open\\nmore')")
    command = [LCM, "txt2img", "a lake", "-o", tmp_path / "a.png", "--runtime=openvino"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "openvino cannot be imported: libopenvino.so: cannot open\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_reported_to_the_makers_of_openvino(tmp_path):
    """Its import sends an event, and keeps an id in ~/intel, where its package for that is."""
    code = "import sys; from runtimes.openvino import package; package.load(); print(*sys.modules)"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "openvino.tools.ovc" in done.stdout.split()  # which would
    assert "openvino_telemetry" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_images_have_the_precision_in_their_record(tmp_path, capsys):
    scribble = Path(__file__).parents[2] / "docs" / "pictures" / "scribble.png"
    words = ["img2img", str(scribble), "a lake", "-o", str(tmp_path / "a.png"), "--seed=1", "-q"]
    words += ["--strength=0.1", "--size=64x64", "--runtime=openvino", "--precision=float32"]
    assert main(words) == 0
    record = read_record(tmp_path / "a.png")
    assert (record["runtime"], record["precision"]) == ("openvino", "float32")
    assert "--precision=float32" in "\n".join(describe(tmp_path / "a.png"))


def test_a_precision_without_the_runtime_is_refused(tmp_path, capsys):
    words = ["txt2img", "a lake", "-o", str(tmp_path / "a.png"), "--precision=bfloat16"]
    assert main(words) == 1
    assert "--precision is no option of onnx: add --runtime openvino" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_info_describes_its_own_format(ir):
    lines = "\n".join(describe(ir))
    assert "openvino_model.xml" in lines
    assert "input sample [?, 4, ?, ?] float32" in lines


def test_files_of_a_model(ir):
    names = [path.name for path in model_files(ir / "unet" / "openvino_model.xml")]
    assert names == ["openvino_model.xml", "openvino_model.bin"]

"""What docs/security.md says of model folders, tried; the tests that it names are there."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

import lcmcore
from lcmcore import ArgumentError, LcmError, NetworkError
from runtimes.onnx import OnnxRuntime, graph_cache
from tests.fuzz.targets import TARGETS
from tests.jobs.images import QUICK, make_photos
from tests.kill.scenarios import SCENARIOS
from tests.onnx.test_runtime import OUTSIDE, write, write_weighted
from tests.parity.bundles import TINY

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
LCM = Path(sys.executable).with_name("lcm")


OPTIONAL = ("openvino", "weights")  # targets where the package is installed that reads them


def test_every_test_of_the_page_is_there():
    paths = re.findall(r"`(tests/[^`]+)`", PAGE)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    for word, known in (("fuzz", TARGETS), ("kill", SCENARIOS)):
        lists = re.findall(rf"{word}: ([a-z\d, \n-]+)", PAGE)
        names = {name.strip() for each in lists for name in each.split(",")} - {""}
        assert set(known) <= names <= {*known, *OPTIONAL}


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "it ran"))


def test_no_code_of_a_model_folder_runs(tmp_path):
    """Neither modules that are called as those that are imported, nor pickles."""
    model, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(TINY / "lcm", model)
    for folder in (model, model / "unet"):
        for name in ("onnxruntime", "numpy", "json", "lcmcore", "runtimes", "sitecustomize"):
            (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')")
        for name in ("diffusion_pytorch_model.bin", "model.pkl", "model.ckpt", "pytorch_model.bin"):
            (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    photos = make_photos(tmp_path / "photos", 1)
    command = [LCM, "img2img", photos / "photo00.png", "a lake", "-o", tmp_path / "out.png"]
    done = subprocess.run([*command, "--model", ".", *QUICK], cwd=model, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    pickle.loads((model / "model.pkl").read_bytes())  # it would have
    assert mark.exists()


@pytest.mark.parametrize(
    "line",
    ['custom_op_library = "evil.so"', "session_options = {}", 'provider_options = ["x"]',
     'library = "/tmp/evil.so"', 'path = "/etc/passwd"'],
)  # fmt: skip
def test_options_of_lcm_toml_load_no_library(line, tmp_path):
    model = shutil.copytree(TINY / "lcm", tmp_path / "model")
    (model / "lcm.toml").write_text(f"[unet]\n{line}\n")
    with pytest.raises(LcmError, match=line.split()[0]), lcmcore.load(model, "onnx") as pipe:
        pipe("a lake", width=64, height=64)


@pytest.mark.parametrize("name", ["os.system", "evil:Runtime", "../evil.py", ""])
def test_runtimes_are_those_that_are_installed(name, tmp_path):
    model = shutil.copytree(TINY / "lcm", tmp_path / "model")
    (model / "lcm.toml").write_text(f'runtime = "{name}"\n')
    with pytest.raises(LcmError, match="unknown runtime"):
        lcmcore.load(model).close()
    assert lcmcore.RuntimeUnavailableError.__mro__.count(LcmError) == 1


def test_providers_are_those_of_this_onnxruntime():
    with pytest.raises(ArgumentError, match="is not in this onnxruntime"):
        OnnxRuntime().open("unet", TINY / "lcm" / "unet", {"providers": ["/tmp/evil.so"]})


def test_operators_of_strangers_are_refused(tmp_path):
    node = helper.make_node("Evil", ["latent_sample"], ["sample"], domain="evil")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8])
        for name in ("latent_sample", "sample")
    ]
    write(tmp_path / "model.onnx", [node], values[:1], values[1:])
    with pytest.raises(NetworkError, match="cannot open"):
        OnnxRuntime().open("vae_decoder", tmp_path, {})


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("way", ["..", "absolute", "link"])
def test_no_file_outside_the_folder_becomes_weights(way, cached, tmp_path, monkeypatch):
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(graph_cache, "MIN_BYTES", 0)
    folder, secret = tmp_path / "net", tmp_path / "secret"
    write_weighted(folder, **OUTSIDE)
    shutil.move(folder / "model.onnx_data", secret)
    if way == "link":
        (folder / "model.onnx_data").symlink_to(secret)
    else:
        name = b"../secret" if way == ".." else os.fsencode(secret)
        path = folder / "model.onnx"
        path.write_bytes(_renamed(path, name))
    with pytest.raises(NetworkError):
        OnnxRuntime().open("vae_decoder", folder, {"graph_cache": cached})
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".weights"] == []


def _renamed(path, name):
    import onnx

    model = onnx.load_model(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = os.fsdecode(name)
    return model.SerializeToString()

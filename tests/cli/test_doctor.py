"""`lcm doctor`, and what `lcm info` says of checksums, on a host that is no board."""

import importlib.machinery
import os
import re
import shutil
import subprocess
import sys
from types import ModuleType

import onnx
import pytest

import lcmcore
from lcmcore import demo_dir
from lcmcore.bundle import COMPONENTS
from lcmcore.cli import doctor
from lcmcore.cli.main import main
from lcmcore.errors import LcmError
from lcmcore.runtime import Runtime
from lcmcore.util.files import sha256
from runtimes.onnx import OnnxRuntime
from runtimes.rknn import board, device
from tests.rknn.fixtures import TINY, write_bundle

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)
LFS = "a Git LFS pointer, not the file itself"


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(demo_dir(), tmp_path / "bundle")


def test_the_demo_model_has_no_errors(capsys):
    assert main(["doctor"]) == 0
    reported = capsys.readouterr().out
    assert "unet would run on onnx" in reported
    assert "not a Rockchip board" in reported
    assert "error" not in reported


def test_rknn_networks_are_no_error_on_a_host(bundle, capsys):
    """Only what the compiled files are is looked at elsewhere (tests/rknn/test_diagnosis.py)."""
    (bundle / "unet" / "model.onnx").rename(bundle / "unet" / "model.other")
    main(["doctor", "--model", str(bundle)])
    assert "warning  unet: no model.onnx" in capsys.readouterr().out


def test_a_missing_network_is_an_error(bundle, capsys):
    shutil.rmtree(bundle / "unet")
    assert main(["doctor", "--model", str(bundle)]) == 1
    reported = capsys.readouterr()
    assert "error    unet: no model.onnx" in reported.out
    assert reported.err == "lcm: error: 1 error found (see above)\n"


def test_a_missing_encoder_is_a_warning(bundle, capsys):
    shutil.rmtree(bundle / "vae_encoder")
    assert main(["doctor", "--model", str(bundle)]) == 0
    assert "warning  vae_encoder: no model.onnx" in capsys.readouterr().out


def test_info_compares_the_checksum(bundle, capsys):
    right = sha256(bundle / "unet" / "model.onnx")
    (bundle / "lcm.toml").write_text(f'[unet]\nsha256 = "{right}"\n[vae_decoder]\nsha256 = "00"\n')
    assert main(["info", str(bundle)]) == 0
    reported = capsys.readouterr().out
    assert reported.count("checksum of model.onnx matches") == 1
    assert "CHECKSUM MISMATCH: no file here has the SHA-256 of lcm.toml, 00" in reported


class Entry:
    """An entry point; it loads a runtime whose methods are these functions."""

    def __init__(self, name, available=lambda: None, diagnose=lambda root: iter(()), priority=0):
        members = {
            "name": name, "filename": "model.onnx", "priority": priority, "options": frozenset(),
            "available": lambda self: available(), "open": None,
            "diagnose": lambda self, root: diagnose(root),
        }  # fmt: skip
        self._kind = type(name, (Runtime,), members)

    def load(self):
        return self._kind


def install(monkeypatch, *entries):
    """Let these be all runtimes."""
    named = {entry._kind.name: entry for entry in entries}
    for module in ("lcmcore.cli.doctor", "lcmcore.runtime", "lcmcore.runtime_choice"):
        monkeypatch.setattr(f"{module}.installed_runtimes", lambda: named)


def reported(capsys, *words):
    """The exit status, and each error with its remedy."""
    capsys.readouterr()
    status = main(["doctor", *map(str, words)])
    lines = capsys.readouterr().out.splitlines()
    following = [line[12:] if line.startswith("         -> ") else "" for line in [*lines[1:], ""]]
    return status, [
        (line[9:], remedy)
        for line, remedy in zip(lines, following, strict=True)
        if line.startswith("error    ")
    ]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [Entry("onnx", available=lambda: "onnxruntime is not installed")],
        [Entry("sim", priority=-1)],  # "auto" never takes it
    ],
)
def test_no_runtime_that_works_is_an_error(entries, monkeypatch, capsys):
    install(monkeypatch, *entries)
    status, errors = reported(capsys)
    assert status == 1
    assert errors[0] == ("no runtime can work here", "pip install 'lcmcore[onnx]'")


def test_one_runtime_that_works_is_enough(monkeypatch, capsys):
    install(monkeypatch, Entry("broken", available=lambda: "no"), Entry("good"))
    assert reported(capsys) == (0, [])


def test_without_onnxruntime_and_npu(monkeypatch, capsys):
    """The rknn runtime is always installed, but this is no board."""
    monkeypatch.setattr(OnnxRuntime, "available", lambda self: "onnxruntime is not installed")
    status, errors = reported(capsys)
    assert status == 1
    assert ("no runtime can work here", "pip install 'lcmcore[onnx]'") in errors
    assert any("no network of" in text and "can run on this machine" in text for text, _ in errors)


def test_an_onnxruntime_that_does_not_import(tmp_path, monkeypatch, capsys):
    """As a wheel for another CPU, or one whose libraries are missing."""
    (tmp_path / "onnxruntime.py").write_text("raise OSError('libgomp.so.1: no such file')")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    status, errors = reported(capsys)
    assert status == 1
    ((text, remedy),) = errors
    assert text == "onnxruntime cannot be imported: libgomp.so.1: no such file"
    assert remedy == "pip install --force-reinstall onnxruntime"
    with pytest.raises(LcmError, match="onnxruntime cannot be imported"):
        OnnxRuntime().open("unet", demo_dir() / "unet", {})


def test_a_runtime_that_fails_to_tell_hides_no_other(monkeypatch, capsys):
    def fail(*args):
        raise ValueError("broken\nin a way")

    def found(root):
        yield "warning", "late", ""
        fail()

    install(
        monkeypatch, Entry("a", available=fail), Entry("b", diagnose=fail),
        Entry("c", diagnose=found),
    )  # fmt: skip
    status, errors = reported(capsys)
    assert status == 1
    assert errors == [("runtime b: broken", ""), ("runtime c: broken", "")]
    main(["doctor"])
    assert "runtime a: broken\n" in capsys.readouterr().out


FILES = [
    *("unet/model.onnx", "unet/config.json", "unet/model.onnx_data", "unet/more/0.data"),
    *("vae_encoder/model.onnx", "tokenizer/vocab.json", "tokenizer/merges.txt"),
    *("scheduler/scheduler_config.json", "lcm.toml", "model_index.json"),
    *("unet/model.rknn", "tokenizer/added_tokens.json"),
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (POINTER, LFS, "run `git lfs pull`"),
        ("<!DOCTYPE html>", "an HTML or XML page, not the file itself", "download it again"),
    ],
)
def test_a_file_that_was_never_fetched_is_one_error(name, content, what, remedy, tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(content)
    assert reported(capsys, "--model", root) == (1, [(f"{root / name}: {what}", remedy)])


def test_networks_whose_files_are_pointers_are_not_said_to_run(tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / "unet" / "model.onnx_data").write_text(POINTER)
    main(["doctor", "--model", str(root)])
    said = capsys.readouterr().out
    assert "unet would run" not in said
    assert "vae_decoder would run on onnx" in said


def test_all_files_are_pointers(tmp_path, capsys):
    """As in a clone without git-lfs; each is named, and nothing else said of them."""
    root = shutil.copytree(TINY, tmp_path / "m")
    for path in root.rglob("*.onnx"):
        path.write_text(POINTER)
    status, errors = reported(capsys, "--model", root)
    assert status == 1
    assert [text for text, _ in errors] == [
        f"{root / component / 'model.onnx'}: {LFS}"
        for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder")
    ]


def test_empty_files(tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / "unet" / "model.onnx").write_bytes(b"")
    (root / "lcm.toml").write_bytes(b"")  # says nothing, which is allowed
    words = [(f"{root / 'unet' / 'model.onnx'}: empty", "copy or download it again")]
    assert reported(capsys, "--model", root) == (1, words)


def test_files_that_only_torch_reads_may_be_pointers(tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / "unet" / "diffusion_pytorch_model.safetensors").write_text(POINTER)
    (root / "assets").mkdir()
    (root / "assets" / "a.onnx").write_text(POINTER)
    assert reported(capsys, "--model", root) == (0, [])


@pytest.mark.parametrize("name", ["unet/model.onnx", "tokenizer/vocab.json", "unet/config.json"])
def test_loading_says_the_same_of_a_pointer(name, tmp_path):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / name).write_text(POINTER)
    with pytest.raises(LcmError) as error, lcmcore.load(root) as pipe:
        pipe("a", width=64, height=64, seed=1)
    message = str(error.value).removeprefix("unet: cannot open ")
    assert message == f"{root / name}: {LFS}: run `git lfs pull`"


LOCATIONS = ["w.bin", "sub/w.bin", "sub/w.h5", "pytorch_model.bin", "w.safetensors", ".sub/w"]


@pytest.mark.parametrize("location", ["model.onnx_data", "w.bin2", "weights.bin", *LOCATIONS])
def test_loading_says_the_same_of_weights_outside_the_graph(location, tmp_path):
    root = shutil.copytree(TINY, tmp_path / "m")
    path = root / "unet" / "model.onnx"
    move_weights(path, location)
    (root / "unet" / location).write_text(POINTER)
    (root / "unet" / "a.rknn").write_text(POINTER)  # which ONNX Runtime does not read
    with pytest.raises(LcmError) as error, lcmcore.load(root) as pipe:
        pipe("a", width=64, height=64, seed=1)
    words = f"{root / 'unet' / location}: {LFS}: run `git lfs pull`"
    assert str(error.value) == f"unet: cannot open {path}: {words}"


def test_a_model_for_another_machine_alone_is_an_error(tmp_path, capsys):
    write_bundle(tmp_path / "m")
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(TINY / name, tmp_path / "m" / name)
    remedy = "take it to the machine that it was built for, or one that has model.onnx"
    text = f"no network of {tmp_path / 'm'} can run on this machine"
    assert reported(capsys, "--model", tmp_path / "m") == (1, [(text, remedy)])
    shutil.copy(TINY / "vae_encoder" / "model.onnx", tmp_path / "m" / "vae_encoder")
    assert reported(capsys, "--model", tmp_path / "m") == (1, [(text, remedy)])
    shutil.copy(TINY / "text_encoder" / "model.onnx", tmp_path / "m" / "text_encoder")
    assert reported(capsys, "--model", tmp_path / "m") == (0, [])


def test_no_model_directory(tmp_path, capsys):
    words = (f"no model directory at {tmp_path / 'm'}", "set one with --model DIR or $LCM_MODEL")
    assert reported(capsys, "--model", tmp_path / "m") == (1, [words])


def test_a_config_that_cannot_be_right(tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / "unet" / "config.json").write_text('{"sample_size": -1}')
    status, errors = reported(capsys, "--model", root)
    assert status == 1
    assert errors[0][0].startswith(f"{root / 'unet' / 'config.json'}: sample_size must be")


@pytest.fixture
def npu_software(tmp_path, monkeypatch):
    """rknn-toolkit-lite2 and librknnrt.so are installed; the folder of the library."""
    lite = ModuleType("rknnlite")
    lite.__spec__ = importlib.machinery.ModuleSpec("rknnlite", None)
    monkeypatch.setitem(sys.modules, "rknnlite", lite)
    (tmp_path / "librknnrt.so").write_bytes(b"librknnrt version: 2.5.0 (x)")
    monkeypatch.setattr(board.library, "__defaults__", ((tmp_path,),))
    monkeypatch.setattr(device.fault, "__defaults__", (tmp_path / "dev", tmp_path / "sys"))
    monkeypatch.setattr(board.device_tree_is_hidden, "__defaults__", (tmp_path / "compatible",))
    monkeypatch.setattr(board.platform, "__defaults__", (tmp_path / "compatible",))
    return tmp_path


def test_a_container_that_hides_the_device_tree(npu_software, capsys):
    status, errors = reported(capsys)
    assert status == 1
    text, remedy = errors[0]
    assert "/proc/device-tree/compatible cannot be read" in text
    assert "docker run --security-opt systempaths=unconfined --device /dev/dri" in remedy
    assert "no device node of the NPU" in errors[1][0]


def test_a_board_without_access_to_its_npu(npu_software, capsys):
    (npu_software / "compatible").write_bytes(b"radxa,rock-5b\0rockchip,rk3588\0")
    status, errors = reported(capsys)
    assert status == 1
    ((text, remedy),) = errors
    assert text == "no device node of the NPU, neither /dev/dri/renderD* nor /dev/rknpu"
    assert "docker run --device /dev/dri" in remedy
    (npu_software / "dev" / "dri").mkdir(parents=True)
    (npu_software / "dev" / "dri" / "renderD129").write_bytes(b"")
    assert reported(capsys) == (0, [])


def test_the_command_ends_with_status_1(tmp_path):
    command = [sys.executable, "-m", "lcmcore.cli.main", "doctor", "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("lcm: error: 5 errors found (see above)\n")
    assert doctor.__doc__.startswith("`lcm doctor`")


def replace(path, place):
    path.unlink()
    if place == "fifo":
        os.mkfifo(path)
    elif place == "folder":
        path.mkdir()
    else:
        path.symlink_to(place)


@pytest.mark.parametrize("component", ["unet", "vae_encoder"])
@pytest.mark.parametrize("place", ["fifo", "folder", "/dev/zero", "nowhere"])
def test_what_is_no_file_is_an_error_like_a_missing_one(place, component, tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    path = root / component / "model.onnx"
    replace(path, place)
    path.with_name("model.onnx_data").write_bytes(b"weights")  # of that one, not of another machine
    path.with_name("model.safetensors").write_bytes(b"of torch")
    status, errors = reported(capsys, "--model", root)
    assert status == 1
    ((text, remedy),) = errors
    assert text.startswith(f"{component}: no model.onnx")
    assert remedy == f"{path} is no regular file: remove it, and copy or download the model's"
    path.with_name("model.other").write_bytes(b"for another machine")
    assert reported(capsys, "--model", root) == (0, [])


def test_a_missing_network_beside_its_weights_is_an_error(tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / "unet" / "model.onnx").rename(root / "unet" / "model.onnx_data")
    status, errors = reported(capsys, "--model", root)
    ((text, remedy),) = errors
    assert (status, remedy) == (1, "copy or download it, or name another model directory")
    assert text.startswith("unet: no model.onnx")


def garbage(path):
    path.write_bytes(b"garbage, but not a page")


def sparse(path):
    os.truncate(path, 40 * 2**30)


def move_weights(path, location):
    """Into a file beside the model's, as ONNX's external data."""
    (path.parent / location).parent.mkdir(exist_ok=True)
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=0)


def without_weights(path):
    move_weights(path, "w.bin")
    (path.parent / "w.bin").unlink()


def weights_outside(path):
    move_weights(path, "w.bin")
    (path.parent / "w.bin").rename(path.parents[1] / "w.bin")
    (path.parent / "w.bin").symlink_to("../w.bin")


def weights_in(place):
    def harm(path):
        move_weights(path, "w.bin")
        replace(path.parent / "w.bin", place)

    return harm


def sparse_weights(path):
    move_weights(path, "w.bin")
    os.truncate(path.parent / "w.bin", 40 * 2**30)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (garbage, "model.onnx: not a protobuf message, .*"),
        (sparse, "model.onnx: .* is larger than 2 GiB: it is not an ONNX model"),
        (without_weights, "w.bin: No such file or directory"),
        (weights_outside, "model.onnx: .* has weights outside of its folder, in 'w.bin': copy .*"),
        (weights_in("fifo"), "w.bin: not a regular file"),
        (weights_in("folder"), "w.bin: Is a directory"),
        (
            weights_in("/dev/zero"),
            "model.onnx: .* has weights outside of its folder, in 'w.bin': .*",
        ),
        (sparse_weights, "w.bin: a sparse file: most of it was never written"),
    ],
)
def test_a_file_that_is_no_model_is_an_error(harm, words, tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    harm(root / "unet" / "model.onnx")
    status, errors = reported(capsys, "--model", root)
    assert status == 1
    ((text, remedy),) = errors
    assert re.fullmatch(f"{re.escape(str(root / 'unet'))}/{words}", text)
    assert remedy == "download or export the model again"
    assert "unet would run" not in said(capsys, root)
    with pytest.raises(LcmError) as error:
        OnnxRuntime().open("unet", root / "unet", {})
    assert "ONNXRuntimeError" not in str(error.value)


def said(capsys, root):
    main(["doctor", "--model", str(root)])
    return capsys.readouterr().out


@pytest.mark.parametrize("location", LOCATIONS)
def test_weights_of_any_name_that_were_never_fetched_are_one_error(location, tmp_path, capsys):
    """Their names are in the graph; some look like files that only torch reads, or are hidden."""
    root = shutil.copytree(TINY, tmp_path / "m")
    path = root / "unet" / location
    move_weights(root / "unet" / "model.onnx", location)
    assert reported(capsys, "--model", root) == (0, [])
    path.write_text(POINTER)
    assert reported(capsys, "--model", root) == (1, [(f"{path}: {LFS}", "run `git lfs pull`")])
    assert "unet would run" not in said(capsys, root)
    path.write_bytes(b"")
    empty = f"{path}: empty"
    assert reported(capsys, "--model", root) == (1, [(empty, "copy or download it again")])
    with pytest.raises(LcmError, match=r"empty: copy or download it again$"):
        OnnxRuntime().open("unet", root / "unet", {})


def test_each_file_of_weights_is_named(tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    path = root / "unet" / "model.onnx"
    model = onnx.load(path)
    onnx.save_model(
        model, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0
    )
    first, second, *_ = sorted(each for each in path.parent.iterdir() if "." not in each.name)
    first.write_text(POINTER)
    second.unlink()
    assert reported(capsys, "--model", root) == (
        1,
        [
            (f"{first}: {LFS}", "run `git lfs pull`"),
            (f"{second}: No such file or directory", "download or export the model again"),
        ],
    )


def test_a_pointer_that_no_network_reads_is_not_blamed(tmp_path):
    root = shutil.copytree(TINY, tmp_path / "m")
    path = root / "unet" / "model.onnx"
    path.write_bytes(b"garbage")
    (root / "unet" / "flax.bin").write_text(POINTER)
    with pytest.raises(LcmError) as error:
        OnnxRuntime().open("unet", root / "unet", {})
    assert str(error.value).startswith(f"unet: cannot open {path}: not a protobuf message")


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_model_of_each_component_is_looked_at(component, tmp_path):
    path = tmp_path / component / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    (text,) = [text for level, text, _ in OnnxRuntime().diagnose(tmp_path) if level == "error"]
    assert text.startswith(f"{path}: not a protobuf message")


def test_models_of_no_component_are_not_looked_at(tmp_path, capsys):
    root = shutil.copytree(TINY, tmp_path / "m")
    (root / "safety_checker").mkdir()
    (root / "safety_checker" / "model.onnx").write_bytes(b"garbage")
    assert reported(capsys, "--model", root) == (0, [])

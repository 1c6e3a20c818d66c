"""`lcm build rknn` with a stand-in for the converter (vendor/rknn), in its true process.

What the true converter makes of the networks is tested in converter/test_build.py.
"""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lcmcore.cli.info import describe
from lcmcore.errors import ArgumentError, BundleError, NetworkError, RuntimeUnavailableError
from lcmcore.util.configfile import read_table
from lcmcore.util.files import sha256
from runtimes.rknn import build, toolkit
from runtimes.rknn.build import Agreement
from runtimes.rknn.onnxfile import NEWEST_OPSET
from tests.rknn.conftest import Calls
from tests.rknn.fixtures import COMPONENTS, TINY


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to change, with settings."""
    root = Path(shutil.copytree(TINY, tmp_path / "source"))
    (root / "model_index.json").write_text("{}")
    settings = 'runtime = "onnx"\nsize_multiple = 8\n[defaults]\nguidance_scale = 3.5\n'
    (root / "lcm.toml").write_text(f"{settings}[unet]\nthreads = 2\n")
    return root


def run(source: Path, out: Path, **options: Any) -> None:
    defaults = {
        "platform": "rk3576",
        "size": "48x32",
        "tile": [],
        "components": None,
        "quantize": None,
        "calibrate": None,
        "cores": 1,
        "no_rewrites": False,
        "downsample_keys": False,
    }
    build.run(Namespace(onnx_dir=source, out=out, **defaults | options))


def test_the_whole_bundle(
    source: Path, tmp_path: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(source, out)
    said = capsys.readouterr().err
    made = calls()
    assert [call for call, _ in made].count("export_rknn") == 4
    by_call = dict(made[7:14])  # of the UNet
    assert [call for call, _ in made[7:14]] == [
        *("RKNN", "config", "load_onnx", "build", "init_runtime", "inference", "export_rknn")
    ]
    assert by_call == {
        "RKNN": {"tqdm": "1"},
        "config": {
            "target_platform": "rk3576",
            "disable_rules": ["fuse_slice_slice_concat_to_conv", "convert_reshape_to_transpose"],
            "single_core_mode": True,
        },
        "load_onnx": {
            "name": "group_norm.onnx",
            "inputs": ["sample", "timestep", "encoder_hidden_states", "timestep_cond"],
            "sizes": [[1, 4, 4, 6], [1], [1, 77, 16], [1, 256]],
            "log": 40,
        },
        "build": {"do_quantization": False, "dataset": None},
        "init_runtime": {},
        "inference": {
            "data_format": "nchw",
            "dtypes": ["float32", "int64", "float32", "float32"],
        },
        "export_rknn": {"name": "model.rknn"},
    }
    table = read_table(out / "lcm.toml")
    assert (table["size_multiple"], table["defaults"]) == (8, {"guidance_scale": 3.5})
    assert "runtime" not in table  # these two are of the source's files
    assert "threads" not in table["unet"]
    for component in COMPONENTS:
        path = out / component / "model.rknn"
        assert path.read_text().startswith("compiled ['")
        record = table[component]
        notes = {key: record["build"].get(key, []) for key in ("rewritten", "group_norms")}
        if component == "text_encoder":
            del notes["group_norms"]
        assert record["sha256"] == sha256(path)
        assert record["build"] == {
            "source": build._fingerprint(source / component / "model.onnx"),
            "platform": "rk3576",
            "size": "48x32",
            "toolkit": "9.8.7",
            "dataset": "",
            "cores": 1,
            "rewrites": "time_embedding-1 upsample_conv-1 group_norm-1",
            "calibration": "",
            "cosine": pytest.approx(1, abs=1e-6),
            "max_difference": pytest.approx(0, abs=1e-5),
            "snr": pytest.approx(120, abs=30),
            **notes,
        }
        sines = ["sines of the timestep"] if component == "unet" else []
        norms = [f"{len(each)} group norms" for each in [notes.get("group_norms")] if each]
        assert [line.partition(":")[0] for line in notes["rewritten"]] == sines + norms
        assert f"{component}: converting for rk3576 at 48x32" in said
        assert f"{component}: cosine 1.0000000, largest difference " in said
        assert (out / component / "config.json").read_bytes() == (
            source / component / "config.json"
        ).read_bytes()
    for name in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == [
        *("lcm.toml", "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet"),
        *("vae_decoder", "vae_encoder"),
    ]


def descent(root: Path) -> list[str]:
    """What `lcm info` says of it."""
    return [line for line in describe(root) if line.startswith(("  defaults", "  made from"))]


def test_what_a_model_was_made_from_goes_along(source: Path, tmp_path: Path, calls: Calls) -> None:
    """And follows the model when it is exported again; what the user set stays until then."""
    out, path = tmp_path / "out", source / "lcm.toml"
    path.write_text(
        "[defaults]\nnum_inference_steps = 4\nguidance_scale = 1.0\n"
        '[source]\ncheckpoint = "a.safetensors"\nsha256 = "12"\nexporter = "torch 2.13.0"\n'
        '[source.lora.1]\nfile = "lcm.safetensors"\nscale = 1.0\nsha256 = "34"\n'
    )
    run(source, out)
    made_from = [
        "  made from checkpoint a.safetensors, sha256 12, exporter torch 2.13.0,"
        " converter rknn-toolkit2 9.8.7",
        "  made from lora: file lcm.safetensors, scale 1.0, sha256 34",
    ]
    assert descent(out) == ["  defaults: 4 steps, guidance 1.0", *made_from]
    text = (out / "lcm.toml").read_text()
    (out / "lcm.toml").write_text(
        text.replace("num_inference_steps = 4", "num_inference_steps = 6")
    )
    run(source, out)
    assert descent(out) == ["  defaults: 6 steps, guidance 1.0", *made_from]
    path.write_text('[source]\ncheckpoint = "b.safetensors"\n')
    run(source, out)
    assert descent(out) == [
        "  defaults: 4 steps, guidance by the type of UNet",
        "  made from checkpoint b.safetensors, converter rknn-toolkit2 9.8.7",
    ]


def test_of_one_network_it_tells_nothing(source: Path, tmp_path: Path, calls: Calls) -> None:
    """The others may be of another model, as in a published directory that lacks an encoder."""
    (source / "lcm.toml").write_text('[source]\ncheckpoint = "a.safetensors"\n')
    run(source, tmp_path / "out", components="vae_encoder")
    assert descent(tmp_path / "out") == ["  defaults: 4 steps, guidance by the type of UNet"]


@pytest.fixture
def built(source: Path, tmp_path: Path, calls: Calls) -> Path:
    """A bundle that has the encoder."""
    out = tmp_path / "out"
    run(source, out, components="vae_encoder")
    assert len(calls()) == 7
    return out


def test_what_is_there_from_the_same_recipe_is_not_built_again(
    source: Path, built: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "vae_encoder" / "config.json").write_text('{"other": 1}')
    run(source, built, components="vae_encoder")
    assert calls() == []
    assert "vae_encoder: already built, skipped" in capsys.readouterr().err
    assert (built / "vae_encoder" / "config.json").read_text() == '{"other": 1}'


@pytest.mark.parametrize("change", ["file", "size", "platform", "toolkit", "source"])
def test_what_changed_is_built_again(
    source: Path, built: Path, calls: Calls, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"size": {"size": "32x48"}, "platform": {"platform": "rk3588"}}.get(change, {})
    if change == "file":
        (built / "vae_encoder" / "model.rknn").write_text("other")
    if change == "toolkit":
        monkeypatch.setattr("runtimes.rknn.build.metadata.version", lambda name: "2.5.0")
    if change == "source":
        path = source / "vae_encoder" / "model.onnx"
        model = onnx.load(path)
        model.producer_name = "other"
        onnx.save(model, path)
    run(source, built, components="vae_encoder", **options)
    assert len(calls()) == 7


def test_a_tile_is_for_its_component_and_another_one_is_built_again(
    source: Path, tmp_path: Path, calls: Calls
) -> None:
    out = tmp_path / "out"
    options = {"components": "vae_encoder,vae_decoder", "size": "96x64"}
    run(source, out, tile=["vae_decoder=48x32"], **options)
    loaded = [details["sizes"] for call, details in calls() if call == "load_onnx"]
    assert loaded == [[[1, 3, 64, 96]], [[1, 4, 4, 6]]]
    table = read_table(out / "lcm.toml")
    assert table["vae_encoder"]["build"]["size"] == "96x64"
    assert table["vae_decoder"]["build"]["size"] == "48x32"
    run(source, out, tile=["vae_decoder=48x32"], **options)
    assert calls() == []
    run(source, out, tile=["vae_decoder=48x40", "vae_encoder=96x32"], **options)
    loaded = [details["sizes"] for call, details in calls() if call == "load_onnx"]
    assert loaded == [[[1, 3, 32, 96]], [[1, 4, 5, 6]]]


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        ("vae_decoder", "--tile vae_decoder: write COMPONENT=WxH"),
        ("vae_decoder=48", "size must be WIDTHxHEIGHT, like 512x384, not '48'"),
        ("unet=48x32", "--tile unet=48x32: write COMPONENT=WxH, for vae_encoder or vae_decoder"),
        ("48x32", "--tile 48x32: write COMPONENT=WxH"),
        ("vae_decoder=56x32", "--tile vae_decoder=56x32: larger than the images, which are 48x32"),
        ("vae_encoder=48x40", "larger than the images"),
        ("vae_decoder=44x32", "size 44x32: width and height must be multiples of 8"),
    ],
)
def test_tiles_that_cannot_be(
    source: Path, tmp_path: Path, calls: Calls, tile: str, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        run(source, tmp_path / "out", tile=[tile])
    assert calls() == []


def test_downsampled_keys_are_recorded_and_built_for_the_unet_only(
    source: Path, tmp_path: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "out", components="unet,vae_encoder", downsample_keys=True)
    calls()
    said = capsys.readouterr().err
    tables = read_table(tmp_path / "out" / "lcm.toml")
    snr = tables["unet"]["build"]["downsample_keys_snr"]
    line = "keys and values of 6 tokens instead of 24: 3 self-attentions"
    assert f"unet: {line}; {snr} dB from the exact result" in said
    assert "downsample_keys_snr" not in tables["vae_encoder"]["build"]
    # Half precision is compared with the network that was built.
    assert tables["unet"]["build"]["snr"] > 60 > snr > 5
    run(source, tmp_path / "out", components="unet,vae_encoder")
    assert len(calls()) == 7
    assert "vae_encoder: already built, skipped" in capsys.readouterr().err
    assert "downsample_keys_snr" not in read_table(tmp_path / "out" / "lcm.toml")["unet"]["build"]


def test_changed_weights_outside_the_graph_are_built_again(
    source: Path, tmp_path: Path, calls: Calls
) -> None:
    path = source / "vae_encoder" / "model.onnx"
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="w.data",
                    size_threshold=0)  # fmt: skip
    before = build._fingerprint(path)
    weights = bytearray((path.parent / "w.data").read_bytes())
    weights[100] ^= 1
    (path.parent / "w.data").write_bytes(weights)
    assert build._fingerprint(path) != before


def test_int8_of_a_dataset(source: Path, tmp_path: Path, calls: Calls) -> None:
    """Its agreement is not a condition: nothing tells how far int8 may be."""
    dataset = tmp_path / "dataset.txt"
    dataset.write_text("a.npy b.npy\n")
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros(1))
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RKNN_NOISE", "100")
        run(source, out, components="vae_encoder", quantize=dataset)
    (build_call,) = [keywords for call, keywords in calls() if call == "build"]
    assert build_call == {"do_quantization": True, "dataset": str(dataset.resolve())}
    record = read_table(out / "lcm.toml")["vae_encoder"]["build"]
    assert record["dataset"] == sha256(dataset)
    assert record["cosine"] < 0.99


def test_half_precision_that_is_far_off_is_refused(
    source: Path, built: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_table(built / "lcm.toml")
    monkeypatch.setenv("RKNN_NOISE", "100")
    with pytest.raises(NetworkError) as error:
        run(source, built, components="vae_encoder", size="32x48")
    message = str(error.value)
    assert message.startswith("vae_encoder: half precision is far from ONNX Runtime (cosine 0.")
    assert message.endswith("): run this network on the CPU, as model.onnx")
    assert read_table(built / "lcm.toml") == before
    assert [call for call, _ in calls()][-1] == "inference"  # it was not exported


@pytest.mark.parametrize(("cosine", "taken"), [(0.99, True), (0.98999, False)])
def test_least_cosine(
    source: Path, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch,
    cosine: float, taken: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(build, "_compare", lambda *args: Agreement(cosine, 0.5, 60.0))
    out = tmp_path / "out"
    if taken:
        run(source, out, components="vae_encoder")
        assert read_table(out / "lcm.toml")["vae_encoder"]["build"]["max_difference"] == 0.5
        return
    with pytest.raises(NetworkError, match="half precision is far"):
        run(source, out, components="vae_encoder")
    assert not (out / "vae_encoder" / "model.rknn").exists()


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        ("config=-1", "rknn-toolkit2 refused to build: config returned -1"),
        ("load_onnx=-2", "rknn-toolkit2 refused to build: load_onnx returned -2"),
        ("build=1", "rknn-toolkit2 refused to build: build returned 1"),
        ("export_rknn=-1", "rknn-toolkit2 refused to export: export_rknn returned -1"),
        ("init_runtime=-1", "rknn-toolkit2 refused to run: init_runtime returned -1"),
        ("inference=None", "rknn-toolkit2 refused to run: inference returned nothing"),
        ("raise=build", "rknn-toolkit2 failed to build: no such operator"),
        ("raise=export_rknn", "rknn-toolkit2 failed to export: RuntimeError"),
        ("raise=RKNN", "rknn-toolkit2 failed to build: no such operator"),
    ],
)
def test_failures_of_the_converter(
    source: Path, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch,
    fail: str, words: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("RKNN_FAIL", fail)
    out = tmp_path / "out"
    with pytest.raises(NetworkError, match=f"^vae_encoder: {words}"):
        run(source, out, components="vae_encoder")
    assert not list(out.rglob("*.rknn"))


def test_an_older_record_is_gone_before_the_new_file_is_there(
    source: Path, built: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a checksum would describe another file where the power fails in between."""
    monkeypatch.setenv("RKNN_FAIL", "export_rknn=-1")
    with pytest.raises(NetworkError):
        run(source, built, components="vae_encoder", size="32x48")
    assert read_table(built / "lcm.toml")["vae_encoder"] == {}
    assert (built / "vae_encoder" / "model.rknn").exists()


def test_what_the_bundle_had_stays(source: Path, tmp_path: Path, calls: Calls) -> None:
    out = tmp_path / "out"
    (out / "scheduler").mkdir(parents=True)
    (out / "scheduler" / "mine").write_text("mine")
    (out / "lcm.toml").write_text("[vae_encoder]\ncore_mask = '0'\n")
    run(source, out, components="vae_encoder")
    table = read_table(out / "lcm.toml")
    assert table["vae_encoder"]["core_mask"] == "0"
    assert "defaults" not in table
    assert [path.name for path in (out / "scheduler").iterdir()] == ["mine"]
    assert (out / "tokenizer" / "vocab.json").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"size": "50x32"}, ArgumentError, "multiples of 8"),
        ({"size": "x"}, ArgumentError, "WIDTHxHEIGHT"),
        ({"components": "unet,sun"}, ArgumentError,
         "--components: 'sun' is not one of text_encoder, unet, vae_encoder, vae_decoder"),
        ({"quantize": Path("none")}, ArgumentError,
         "--quantize is for one network at a time: name it with --components"),
        ({"quantize": Path("none"), "components": "unet"}, ArgumentError,
         "none: cannot be read: "),
    ],
)  # fmt: skip
def test_refusals(
    source: Path, tmp_path: Path, calls: Calls, options: Any, error: Any, words: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(error, match=words):
        run(source, out, **options)
    assert not list(out.rglob("*.rknn"))
    assert calls() == []


def test_missing_sources(source: Path, tmp_path: Path, calls: Calls) -> None:
    with pytest.raises(BundleError, match="no model directory at "):
        run(source / "none", tmp_path / "out")
    (source / "unet" / "model.onnx").unlink()
    with pytest.raises(NetworkError, match=r"^unet: no model\.onnx in "):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(("cores", "mask"), [(2, "0_1"), (3, "0_1_2")])
def test_several_cores_are_built_for_and_asked_of_the_runtime(
    source: Path, tmp_path: Path, calls: Calls, cores: int, mask: str
) -> None:
    out, only = tmp_path / "out", {"components": "vae_encoder", "platform": "rk3588"}
    run(source, out, cores=cores, **only)
    assert dict(calls())["config"]["single_core_mode"] is False
    assert read_table(out / "lcm.toml")["vae_encoder"]["core_mask"] == mask
    run(source, out, **only)  # which has no program for several
    assert dict(calls())["config"]["single_core_mode"] is True
    assert "core_mask" not in read_table(out / "lcm.toml")["vae_encoder"]


def test_more_cores_than_the_platform_has(source: Path, tmp_path: Path, calls: Calls) -> None:
    with pytest.raises(ArgumentError, match=r"^--cores 3: rk3576 has 2$"):
        run(source, tmp_path / "out", cores=3)


def test_graphs_as_they_are(source: Path, tmp_path: Path, calls: Calls) -> None:
    out = tmp_path / "out"
    run(source, out, components="vae_encoder", no_rewrites=True)
    assert dict(calls())["load_onnx"]["name"] == "folded.onnx"
    record = read_table(out / "lcm.toml")["vae_encoder"]["build"]
    assert (record["rewrites"], record["rewritten"]) == ("", [])
    run(source, out, components="vae_encoder")
    assert dict(calls())["load_onnx"]["name"] == "group_norm.onnx"


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "contains no samples"), (" \n", "contains no samples"), ("b.npy", "no file .*b.npy")],
)
def test_datasets_without_samples(
    source: Path, tmp_path: Path, calls: Calls, content: str, words: str
) -> None:
    dataset = tmp_path / "dataset.txt"
    dataset.write_text(content)
    with pytest.raises(ArgumentError, match=f"dataset.txt: {words}"):
        run(source, tmp_path / "out", components="unet", quantize=dataset)


def test_tools_that_are_not_installed(
    source: Path, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r"^onnxruntime is not installed, with w"):
        run(source, tmp_path / "out")
    monkeypatch.setattr(build, "missing", lambda: "no toolkit")
    with pytest.raises(RuntimeUnavailableError, match=r"^no toolkit$"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("got", "cosine", "difference", "snr"),
    [
        ([3.0, 4.0], 1, 0, 300),
        ([6.0, 8.0], 1, 4, 0),
        ([3.03, 4.04], 1, 0.04, 40),
        ([-4.0, 3.0], 0, 7, -3.0103),
        ([-3.0, -4.0], -1, 8, -6.0206),
        ([0.0, 0.0], 0, 4, 0),
        ([1e30, 1e30], 7 / 50**0.5, 1e30, -589.031),  # its square is too large for float32
    ],
)
def test_agreement(got: list[float], cosine: float, difference: float, snr: float) -> None:
    found = Agreement.between(np.float32([got]), np.float32([[3, 4]]))
    assert found.cosine == pytest.approx(cosine)
    assert found.max_difference == pytest.approx(difference, rel=1e-5)
    assert found.snr == pytest.approx(snr, abs=1e-3)


def test_agreement_in_words() -> None:
    assert str(Agreement(0.98765432109, 0.0123456, 43.21)) == (
        "cosine 0.9876543, largest difference 0.012, 43.2 dB"
    )


def test_arguments() -> None:
    parser = ArgumentParser()
    build.add_arguments(parser)
    words = ["a", "b", "--platform", "rk3562", "--size", "8x8"]
    words += ["--tile", "vae_decoder=8x8", "--tile", "vae_encoder=8x8"]
    args = vars(parser.parse_args([*words, "--components", "unet", "--quantize", "d"]))
    assert args == {
        "onnx_dir": Path("a"), "out": Path("b"), "platform": "rk3562", "size": "8x8",
        "tile": ["vae_decoder=8x8", "vae_encoder=8x8"], "components": "unet", "quantize": Path("d"),
        "calibrate": None, "cores": 1, "no_rewrites": False, "downsample_keys": False,
    }  # fmt: skip
    plain = parser.parse_args(words)
    assert (plain.components, plain.quantize) == (None, None)
    for platform in ("rk3566", "rk3568", "rk3576", "rk3588"):
        assert parser.parse_args([*words, "--platform", platform]).platform == platform
    for missing in (words[:4], words[:2] + words[4:], [*words, "--platform", "rk3399"]):
        with pytest.raises(SystemExit):
            parser.parse_args(missing)


def test_without_the_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "find_spec", lambda name: None)
    commands = "pip install 'lcmcore[rknn-build]', then pip install --no-deps rknn-toolkit2=="
    monkeypatch.setattr(toolkit, "_NEWEST_PYTHON", (3, 99))
    assert str(toolkit.missing()).startswith(
        f"rknn-toolkit2 is not installed in this environment: {commands}"
    )
    monkeypatch.setattr(toolkit, "_NEWEST_PYTHON", (3, 9))
    assert str(toolkit.missing()).startswith(
        f"rknn-toolkit2 has no wheel for this Python: with Python 3.9, {commands}"
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    assert toolkit.missing() == "rknn-toolkit2 runs on Linux only"
    assert NEWEST_OPSET == 19

"""`lcm build rknn` with the true converter, on the tiny networks and variations of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from lcmcore.bundle import COMPONENTS, Settings, demo_dir
from lcmcore.util.files import sha256
from runtimes.rknn.file import RknnFile
from tests.rknn.fixtures import TINY


def lcm(*words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lcmcore.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def build(source: Path, out: Path, *more: object, size: str = "48x32", timeout: float = 300) -> str:
    """Build what must succeed; returns its output."""
    words = ("build", "rknn", source, out, "--platform", "rk3588", "--size", size, *more)
    done = lcm(*words, timeout=timeout)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def refused(source: Path, out: Path, *more: object, size: str = "48x32") -> str:
    """Build what must fail; returns the line on stderr."""
    done = lcm("build", "rknn", source, out, "--platform", "rk3588", "--size", size, *more)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lcm: error: ")]
    assert "Traceback" not in done.stderr
    assert not list(out.rglob("model.rknn"))
    assert not list(out.glob(".*"))
    return line


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to change."""
    return Path(shutil.copytree(TINY, tmp_path / "source"))


def test_the_demo_model_is_as_close_as_the_page_promises(tmp_path: Path) -> None:
    """docs/rk3588.md, "What was measured"; a minute, on a busy machine five."""
    page = (Path(__file__).parents[3] / "docs" / "rk3588.md").read_text()
    (promised,) = re.findall(r"ONNX Runtime is\s+(0\.\d+) or more", page)
    build(demo_dir(), tmp_path / "out", size="256x256", timeout=900)
    settings = Settings.read(tmp_path / "out" / "lcm.toml")
    found = {name: settings.components[name]["build"]["cosine"] for name in COMPONENTS}
    assert min(found.values()) >= float(promised), found


def test_whole_bundle(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = build(TINY, out)
    settings = Settings.read(out / "lcm.toml")
    for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        path = out / component / "model.rknn"
        assert RknnFile.read(path).platforms == ("rk3588",)
        table = settings.components[component]
        assert table["sha256"] == sha256(path)
        assert table["build"]["size"] == "48x32"
        assert table["build"]["cosine"] > 0.999
        assert f"{component}: predicted " in said
        assert f"{component}: cosine 0.99" in said
    for name in ("scheduler/scheduler_config.json", "tokenizer/vocab.json", "unet/config.json"):
        assert (out / name).read_bytes() == (TINY / name).read_bytes()
    assert build(TINY, out).count("already built, skipped") == 4


def test_added_encoder_leaves_the_other_networks_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "wild"
    theirs = [out / name for name in ("unet/config.json", "tokenizer/vocab.json")]
    for path in theirs:
        path.parent.mkdir(parents=True)
        path.write_text('{"mine": true}')
    (out / "lcm.toml").write_text('runtime = "auto"\n[unet]\ncore_mask = "0_1"\n')
    build(TINY, out, "--components", "vae_encoder")
    assert [path.read_text() for path in theirs] == ['{"mine": true}'] * 2
    assert Settings.read(out / "lcm.toml").options_of("unet") == {"core_mask": "0_1"}
    assert not (out / "unet" / "model.rknn").exists()


def test_tokenizer_and_config_follow_their_source(source: Path, tmp_path: Path) -> None:
    """Else a text encoder would read its own words with another model's vocabulary."""
    out, names = tmp_path / "out", ("tokenizer/vocab.json", "text_encoder/config.json")
    only = ("--components", "text_encoder")
    build(source, out, *only)
    for name in names:
        (source / name).write_text((source / name).read_text() + "\n")
    build(source, out, *only)
    assert [(out / name).read_bytes() for name in names] == [
        (source / name).read_bytes() for name in names
    ]


def test_changed_source_or_file_is_built_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    only = ("--components", "vae_encoder")
    build(source, out, *only)
    (out / "vae_encoder" / "model.rknn").write_bytes(b"changed")
    assert "already built" not in build(source, out, *only)
    assert "already built" not in build(source, out, *only, size="32x48")
    model = onnx.load(str(source / "vae_encoder" / "model.onnx"))
    model.producer_name = "another"
    onnx.save(model, str(source / "vae_encoder" / "model.onnx"))
    assert "already built" not in build(source, out, *only, size="32x48")


def test_timestep_of_rank_0_becomes_rank_1(tmp_path: Path) -> None:
    """As optimum exports it today; rknn-toolkit2 by itself builds it, and then cannot run it."""
    graph = onnx.load(str(TINY / "unet" / "model.onnx")).graph
    timestep = next(value for value in graph.input if value.name == "timestep")
    assert len(timestep.type.tensor_type.shape.dim) == 0
    said = build(TINY, tmp_path / "out", "--components", "unet")
    assert "unet: cosine 0.999" in said
    file = RknnFile.read(tmp_path / "out" / "unet" / "model.rknn")
    assert str(file.inputs[1]) == "timestep [1] int64"


def test_quantized(source: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(2):
        sample = random.uniform(-1, 1, (1, 3, 32, 48)).astype(np.float32)
        np.save(tmp_path / f"{number}.npy", sample)
    dataset = tmp_path / "dataset.txt"
    dataset.write_text("0.npy\n1.npy\n")
    out = tmp_path / "out"
    said = build(TINY, out, "--components", "vae_encoder", "--quantize", dataset)
    assert "vae_encoder: cosine" in said
    assert Settings.read(out / "lcm.toml").components["vae_encoder"]["build"]["dataset"]


def test_refusals(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "multiples of 8" in refused(source, out, size="50x32")
    assert "'sun' is not one of" in refused(source, out, "--components", "sun")
    assert "no model.onnx in" in refused(tmp_path / "source" / "unet", out)
    dataset = tmp_path / "dataset.txt"
    dataset.write_text("none.npy\n")
    only = ("--components", "unet", "--quantize", dataset)
    assert "no file" in refused(source, out, *only)


def test_refused_by_onnx_runtime(source: Path, tmp_path: Path) -> None:
    path = source / "vae_encoder" / "model.onnx"
    model = onnx.load(str(path))
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.op_type, node.domain = "Fancy", "org.example"
    model.opset_import.add(domain="org.example", version=1)
    onnx.save(model, str(path))
    line = refused(source, tmp_path / "out", "--components", "vae_encoder")
    assert f"vae_encoder: cannot read {path}: " in line
    assert "Fancy" in line


def test_refused_by_the_converter(source: Path, tmp_path: Path) -> None:
    """Unique's result has no fixed shape, which ONNX Runtime does not mind."""
    path = source / "vae_encoder" / "model.onnx"
    model = onnx.load(str(path))
    (output,) = model.graph.output
    node = next(node for node in model.graph.node if output.name in node.output)
    node.output[0] = "moments"
    model.graph.node.append(onnx.helper.make_node("Unique", ["moments"], [output.name]))
    onnx.save(model, str(path))
    line = refused(source, tmp_path / "out", "--components", "vae_encoder")
    assert "vae_encoder: rknn-toolkit2 failed to build" in line
    assert "Unique" in line


def test_too_new_opset(source: Path, tmp_path: Path) -> None:
    path = source / "vae_encoder" / "model.onnx"
    model = onnx.load(str(path))
    model.opset_import[0].version = 21
    onnx.save(model, str(path))
    line = refused(source, tmp_path / "out", "--components", "vae_encoder")
    assert "opset 21" in line
    assert "lcm build onnx" in line


def test_other_network(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "vae_decoder" / "model.onnx", source / "unet" / "model.onnx")
    line = refused(source, tmp_path / "out", "--components", "unet")
    assert "unet: " in line
    assert "holds another network: it takes latent_sample" in line

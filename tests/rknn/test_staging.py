"""What builders write appears whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lcmcore.errors import OutputError
from lcmcore.util.configfile import read_table
from runtimes.staging import copy_each, copy_over, staged, write_settings


def test_staged_files_appear_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    with staged(folder, last="model.onnx") as stage:
        (stage / "model.onnx").write_text("new")
        (stage / "model.onnx.data").write_text("weights")
        assert not list(folder.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert [path.name for path in tmp_path.iterdir()] == ["unet"]


def test_interrupted_stage_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "model.onnx").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged(folder, last="model.onnx") as stage:
        (stage / "model.onnx").write_text("half")
        raise KeyboardInterrupt
    assert (folder / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["unet"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot be created"),
        staged(tmp_path / "file" / "a", "b"),
    ):
        pass


def test_a_copy_replaces_what_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, name in ((source, "new"), (target, "old")):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / name).write_text(name)
    copy_over(source, target)
    copy_over(source / "deep" / "new", tmp_path / "file")
    copy_over(tmp_path / "none", target)
    assert [path.name for path in (target / "deep").iterdir()] == ["new"]
    assert (tmp_path / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source", "target"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bundle(root: Path) -> Path:
    """A bundle with a tokenizer, beside a file that is not of it."""
    (root / "bundle" / "tokenizer").mkdir(parents=True)
    (root / "bundle" / "tokenizer" / "vocab.json").write_text("{}")
    (root / "secret").write_text("secret")
    return root / "bundle"


def to_file(source: Path) -> None:
    (source / "tokenizer" / "merges.txt").symlink_to("../../secret")


def to_file_by_its_root(source: Path) -> None:
    (source / "tokenizer" / "merges.txt").symlink_to(source.parent / "secret")


def to_folder(source: Path) -> None:
    (source / "tokenizer" / "deep").symlink_to("../..")


def to_its_own_folder(source: Path) -> None:
    (source / "tokenizer" / "deep").symlink_to(".")


def as_folder(source: Path) -> None:
    (source.parent / "other").mkdir()
    (source / "tokenizer" / "vocab.json").unlink()
    (source / "tokenizer").rmdir()
    (source / "tokenizer").symlink_to("../other")


def to_device(source: Path) -> None:
    (source / "tokenizer" / "merges.txt").symlink_to("/dev/zero")


def to_nothing(source: Path) -> None:
    (source / "tokenizer" / "merges.txt").symlink_to("merges.txt")


def fifo(source: Path) -> None:
    os.mkfifo(source / "tokenizer" / "merges.txt")


def huge(source: Path) -> None:
    with (source / "tokenizer" / "merges.txt").open("wb") as file:
        file.truncate(2**28 + 1)


def deep(source: Path) -> None:
    source.joinpath("tokenizer", *"d" * 17).mkdir(parents=True)


@pytest.mark.parametrize(
    "harm",
    [
        *(to_file, to_file_by_its_root, to_folder, to_its_own_folder, as_folder),
        *(to_device, to_nothing, fifo, huge, deep),
    ],
)
def test_copies_hold_only_files_of_the_bundle(harm: Callable[[Path], None], tmp_path: Path) -> None:
    """A stranger's bundle must not get a file of the user into one that is handed on."""
    source, out = bundle(tmp_path), tmp_path / "out"
    (out / "tokenizer").mkdir(parents=True)
    (out / "tokenizer" / "old").write_text("")
    harm(source)
    with pytest.raises(OutputError, match="tokenizer cannot be written: "):
        copy_each(["tokenizer"], source, out)
    assert names(out) == ["tokenizer"]
    assert names(out / "tokenizer") == ["old"]


def test_a_single_file_that_links_out_of_the_bundle(tmp_path: Path) -> None:
    source = bundle(tmp_path)
    (source / "model_index.json").symlink_to("../secret")
    with pytest.raises(OutputError, match=r"model_index.json is a link that leaves .*bundle: "):
        copy_each(["model_index.json"], source, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_links_within_a_bundle_are_copied_as_files(tmp_path: Path) -> None:
    source = bundle(tmp_path)
    (source / "merges").write_text("a b")
    (source / "tokenizer" / "merges.txt").symlink_to("../merges")
    (tmp_path / "link").symlink_to("bundle")
    source.joinpath("tokenizer", *"d" * 16).mkdir(parents=True)
    copy_each(["tokenizer"], tmp_path / "link", tmp_path / "out")
    assert names(tmp_path / "out" / "tokenizer") == ["d", "merges.txt", "vocab.json"]
    assert tmp_path.joinpath("out", "tokenizer", *"d" * 16).is_dir()
    copied = tmp_path / "out" / "tokenizer" / "merges.txt"
    assert copied.read_text() == "a b"
    assert not copied.is_symlink()


def test_a_snapshot_of_hugging_face(tmp_path: Path) -> None:
    """Its files are links to blobs of the same model, and of no other."""
    folder = tmp_path / "models--a" / "snapshots" / "1" / "tokenizer"
    folder.mkdir(parents=True)
    for name in ("models--a", "models--b"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        (tmp_path / name / "blobs" / "f00").write_text(name)
    (folder / "vocab.json").symlink_to("../../../blobs/f00")
    copy_each(["tokenizer"], folder.parent, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer" / "vocab.json").read_text() == "models--a"
    (folder / "merges.txt").symlink_to("../../../../models--b/blobs/f00")
    with pytest.raises(OutputError, match=r"merges\.txt is a link that leaves"):
        copy_each(["tokenizer"], folder.parent, tmp_path / "out")


def test_a_file_copied_alone_may_link_within_the_folder_that_is_named(tmp_path: Path) -> None:
    source = bundle(tmp_path)
    (source / "unet").mkdir()
    (source / "unet" / "config.json").symlink_to("../tokenizer/vocab.json")
    copy_over(source / "unet" / "config.json", tmp_path / "copy", source)
    assert (tmp_path / "copy").read_text() == "{}"
    with pytest.raises(OutputError, match="leaves"):
        copy_over(source / "unet" / "config.json", tmp_path / "copy")


BUILDER = """
import sys, time
from pathlib import Path
from runtimes.staging import staged
with staged(Path(sys.argv[1]), last="model.onnx") as stage:
    (stage / "model.onnx").write_text("half")
    print("staged", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_build_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "unet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (left,) = set(names(tmp_path)) - {"unet"}
        with staged(tmp_path / "vae_decoder", last="model.onnx"):
            assert left in names(tmp_path)  # that build goes on
        process.kill()
        process.wait()
        assert left in names(tmp_path)
        with staged(tmp_path / "vae_decoder", last="model.onnx"):
            assert left not in names(tmp_path)
    assert names(tmp_path) == ["unet", "vae_decoder"]


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"runtime": "auto", "unet": {"core_mask": "0_1", "build": {"cosine": 0.5, "size": "8x8"}}},
        {"unet": {"build": {"quantized": True}}, "defaults": {"guidance_scale": 1e-05}},
        {"unet": {"inputs": ["sample", 'a "quoted" \\ name', "ünïcode\ttab"]}, "vae": {}},
        {"odd key": {"a.b": 1}, "last": -3},
    ],
)
def test_settings_come_back_as_they_were_written(tmp_path: Path, tables: dict) -> None:
    write_settings(tmp_path, tables)
    assert read_table(tmp_path / "lcm.toml") == tables

"""What builders write appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcmcore.errors import OutputError
from lcmcore.util.configfile import read_table
from runtimes.staging import copy_over, staged, write_settings


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

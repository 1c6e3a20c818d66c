"""`lcm bench` on a board that is none: predictions beside what was measured, and the report."""

from __future__ import annotations

import getpass
import json
import platform
import re
import shutil
from pathlib import Path

import pytest

from lcmcore.bundle import COMPONENTS
from lcmcore.cli.main import main
from runtimes.rknn import board
from runtimes.rknn.cost import predict_all
from tests.rknn import fixtures, programs
from tests.rknn.double import RKNNLiteDouble

Lites = list[RKNNLiteDouble]


@pytest.fixture
def bundle(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle for the double; the program of the decoder is that of a group norm."""
    for component in fixtures.COMPONENTS:
        shutil.copy(fixtures.TINY / component / "config.json", tiny / component)
    for folder in ("scheduler", "tokenizer"):
        shutil.copytree(fixtures.TINY / folder, tiny / folder)
    (tiny / "vae_decoder" / "model.rknn").write_bytes(programs.of_group_norm("vae_decoder"))
    monkeypatch.setattr(board, "driver_version", lambda: "0.9.8")
    monkeypatch.setattr(board, "library", lambda: Path("/usr/lib/librknnrt.so"))
    monkeypatch.setattr(board, "library_version", lambda path: "2.3.2")
    return tiny


def test_report(
    bundle: Path, lites: Lites, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    words = ["bench", f"--model={bundle}", f"--report={path}", "--rounds=2", "--steps=2"]
    assert main([*words, "--runtime=rknn"]) == 0
    out = capfd.readouterr().out
    assert re.search(
        r"^vae_decoder .*rknn, opened in \d\.\d+, predicted 0\.000 on one core$", out, re.M
    )
    report = json.loads(path.read_text())
    assert report["machine"]["rknn"] == {
        "soc": "rk3588",
        "driver": "0.9.8",
        "librknnrt": "2.3.2",
        "rknn-toolkit-lite2": "of unknown version",
    }
    decoder, unet = (report["networks"][name] for name in ("vae_decoder", "unet"))
    one, _, three = predict_all(bundle / "vae_decoder" / "model.rknn").values()
    assert decoder["runtime"] == "rknn"
    assert len(decoder["seconds"]["warm"]) == 2
    assert decoder["predicted"]["seconds"] == one.seconds
    assert decoder["predicted"]["seconds_on_cores"]["3"] == three.seconds
    for name in ("tasks", "bytes", "macs"):
        assert decoder["predicted"][name] == getattr(one, name)
    assert unet["predicted"] is None  # the fixture has no program
    assert set(report["networks"]) == set(COMPONENTS)
    for name in (str(tmp_path), bundle.name, getpass.getuser(), platform.node()):
        assert name not in path.read_text()


def test_programs_that_are_not_understood_are_measured_all_the_same(
    bundle: Path, lites: Lites, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (bundle / "vae_decoder" / "model.rknn").write_bytes(fixtures.read("vae_decoder"))
    path = tmp_path / "report.json"
    words = ["bench", f"--model={bundle}", f"--report={path}", "--rounds=1", "--steps=1"]
    assert main([*words, "--runtime=rknn"]) == 0
    assert "predicted" not in capfd.readouterr().out
    networks = json.loads(path.read_text())["networks"]
    assert {each["predicted"] for each in networks.values()} == {None}
    assert min(each["seconds"]["first"] for each in networks.values()) > 0

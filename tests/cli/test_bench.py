"""`lcm bench` measures what it says, with encoders that really run."""

import getpass
import json
import platform
import re
import time

import numpy as np
import pytest

import lcmcore
from lcmcore import ArgumentError
from lcmcore.bundle import COMPONENTS
from lcmcore.cli import bench
from lcmcore.cli.bench import measure
from lcmcore.cli.main import main
from lcmcore.fake import FakeRuntime, _embed, _enlarge, _shrink

TINY = "tests/tiny/lcm"


@pytest.fixture
def counted(fake):
    """A fake pipeline whose networks note their runs and take a moment."""
    runs = []

    def noting(component, function):
        def run(**inputs):
            runs.append((component, next(iter(inputs.values())).shape))
            time.sleep(0.001)
            return function(**inputs)

        return run

    functions = {
        "text_encoder": _embed,
        "unet": lambda sample, **_: np.zeros_like(sample),
        "vae_encoder": _shrink,
        "vae_decoder": _enlarge,
    }
    return fake(**{name: noting(name, each) for name, each in functions.items()}), runs


def test_every_round_runs_both_encoders_and_all_steps(counted):
    pipe, runs = counted
    measured = list(measure(pipe, 2, (96, 64), 3))
    assert len(measured) == 3
    assert [name for name, _ in runs] == 3 * [
        "text_encoder", "vae_encoder", "unet", "unet", "unet", "vae_decoder",
    ]  # fmt: skip
    assert runs[1][1] == (1, 3, 64, 96)
    for each in measured:
        assert min(each.running.values()) >= 0.001
        assert each.running["unet"] >= 0.003
        assert sum(each.running.values()) < each.total
    first, second, _ = measured
    assert min(first.opening.values()) > 0
    assert max(second.opening.values()) == 0
    assert 0 < second.outside < second.total


def test_the_size_is_the_models_if_none_is_asked_for(counted):
    pipe, runs = counted
    list(measure(pipe, 1))
    assert runs[1][1] == (1, 3, 256, 256)


def test_the_table(capfd):
    words = ["bench", "--model=tests/tiny/lcm", "--size=64x64", "--steps=1", "--rounds=2"]
    assert main([*words, "--runtime=onnx", "--threads=1", "--memory=low"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("tests/tiny/lcm: memory low, 1 steps an image\n")
    for name in (*COMPONENTS, "opening networks", "image"):
        assert re.search(rf"^{name}.* +\d+\.\d{{3}} +\d+\.\d{{3}}", out, re.M), name
    assert re.search(r"^\d+\.\d\d% of a warm image is outside the networks", out, re.M)
    resident, anonymous = re.search(
        r"peak memory: (\d+) MB resident, (\d+) MB anonymous", out
    ).groups()
    assert 0 < int(anonymous) < int(resident)
    assert len(out.splitlines()) < 24
    assert max(map(len, out.splitlines())) < 100


class Predicting(FakeRuntime):
    """A fake runtime that predicts the UNet's time, and knows its machine."""

    def predict(self, path):
        return {"seconds": 1.5, "tasks": 7} if path.name == "unet" else None

    def machine(self):
        return {"soc": "rk3588", "driver": "0.9.8"}


def report_of(tmp_path, monkeypatch, capfd, *words):
    monkeypatch.setattr(bench, "open_pipeline", lambda args: lcmcore.load(TINY, Predicting()))
    path = tmp_path / "report.json"
    assert main(["bench", f"--report={path}", "--rounds=2", "--steps=2", *words]) == 0
    return path, capfd.readouterr().out


def test_predictions_stand_beside_what_was_measured(tmp_path, monkeypatch, capfd):
    _, out = report_of(tmp_path, monkeypatch, capfd, "--size=64x64")
    assert re.search(r"^unet, a step .*, predicted 1\.500 on one core$", out, re.M)
    assert out.count("predicted") == 1


def test_a_report_has_machine_figures_and_predictions_and_no_names(tmp_path, monkeypatch, capfd):
    path, out = report_of(tmp_path, monkeypatch, capfd, "--size=64x64")
    assert f"{path}: a report" in out
    report = json.loads(path.read_text())
    assert report["machine"] == {"fake": {"soc": "rk3588", "driver": "0.9.8"}}
    assert report["steps"] == 2
    assert list(report["networks"]) == list(COMPONENTS)
    unet, decoder = (report["networks"][name] for name in ("unet", "vae_decoder"))
    assert unet["predicted"] == {"seconds": 1.5, "tasks": 7}
    assert decoder["predicted"] is None
    assert len(unet["seconds"]["warm"]) == 2
    measured = float(re.search(r"^unet, a step +(\d+\.\d+)", out, re.M)[1])
    assert unet["seconds"]["first"] == pytest.approx(measured, abs=5.1e-4)
    text = path.read_text()
    for name in (str(tmp_path), TINY, getpass.getuser(), platform.node()):
        assert name not in text


def test_a_prediction_that_fails_is_none(tmp_path, monkeypatch, capfd):
    """The file may have gone meanwhile: what was measured is printed and written all the same."""
    monkeypatch.setattr(Predicting, "predict", lambda self, path: 1 / 0)
    path, out = report_of(tmp_path, monkeypatch, capfd, "--size=64x64")
    assert "predicted" not in out
    assert {each["predicted"] for each in json.loads(path.read_text())["networks"].values()} == {
        None
    }


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, capfd):
    (tmp_path / "file").touch()
    assert main(["bench", f"--report={tmp_path / 'file' / 'report.json'}"]) == 1
    assert "file is no folder: report.json cannot be written" in capfd.readouterr().err


def test_invalid_number_of_rounds(capfd):
    assert main(["bench", "--rounds=0"]) == 1
    assert capfd.readouterr().err == "lcm: error: rounds must be from 1 to 1000, not 0\n"


def test_invalid_number_of_steps(counted):
    with pytest.raises(ArgumentError, match="num_inference_steps"):
        next(measure(counted[0], 1, steps=0))

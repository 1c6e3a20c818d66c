"""The arithmetic of the comparison with peers."""

import subprocess

import numpy as np
import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import environments, process, record
from benchmarks.peers.__main__ import differences
from benchmarks.peers.contestants import (
    DIFFUSERS,
    FIRST_USE,
    GENAI,
    GENAI_BF16,
    LCMCORE,
    OPTIMUM,
    SDCPP,
)
from benchmarks.peers.pixels import difference
from benchmarks.peers.process import image_path
from benchmarks.peers.targets import Target

FIRST = Target(256, "first", OPTIMUM, 0.3)


def results(contestant, seconds, size=256):
    figures = dict.fromkeys(record.FIGURES, 1.0)
    return [{**figures, "contestant": contestant.name, "size": size, "first": s} for s in seconds]


def test_ratio_is_of_medians_not_of_single_rounds():
    table = record.medians(results(LCMCORE, [1, 2, 90]) + results(OPTIMUM, [4, 80, 8]))
    assert record.ratio(table, FIRST) == 2 / 8


def test_sizes_are_kept_apart():
    table = record.medians(results(LCMCORE, [3]) + results(OPTIMUM, [6], size=512))
    assert record.ratio(table, FIRST) is None


@pytest.mark.parametrize(("seconds", "verdict"), [(3.0, "reached"), (3.1, "**missed**")])
def test_page_says_whether_a_target_is_reached(seconds, verdict):
    rows = results(LCMCORE, [seconds]) + results(OPTIMUM, [10])
    page = record.page(
        {
            "machine": {"processor": "a CPU", "cores": 2, "memory": 8, "system": "Linux"},
            "rounds": 1,
            "sizes": [256],
            "results": [{**row, "load_average": 0.1} for row in rows],
            "pixels": [],
            "installed": {},
        }
    )
    (line,) = [line for line in page.splitlines() if "first s, lcmcore / optimum" in line]
    assert line.endswith(f"| {seconds / 10:.3f} | 0.30 | {verdict} |")


def test_difference_counts_values_that_change_in_eight_bits():
    first = np.zeros((2, 2, 3), np.float32)
    second = first.copy()
    second[0, 0] = 0.001, 0.003, 0.1  # the first rounds to the same byte
    apart = difference(first, second)
    assert apart["largest"] == pytest.approx(0.1)
    assert apart["rms"] == pytest.approx(np.sqrt((0.001**2 + 0.003**2 + 0.1**2) / 12))
    assert apart["changed"] == 2 / 12


def test_images_of_other_noise_are_not_compared(tmp_path):
    """GenAI's: it has left no file here, which would be missed."""
    image = tmp_path / "64-0.png"
    (tmp_path / "results").mkdir()
    for contestant in (LCMCORE, DIFFUSERS):
        np.save(image_path(tmp_path, contestant, image), np.zeros((8, 8, 3), np.float32))
    found = differences(tmp_path, [LCMCORE, DIFFUSERS, GENAI, GENAI_BF16], image)
    assert [each["other"] for each in found] == ["diffusers"]


def test_a_slow_contestant_makes_few_images_of_the_smallest_size(monkeypatch, tmp_path):
    """stable-diffusion.cpp takes minutes for what others take seconds for."""
    measured = []
    figures = {**dict.fromkeys(record.FIGURES, 1.0), "load": 1.0}

    def images_of(work, contestant, images, warm):
        measured.append((contestant.name, images, warm))
        return dict(figures)

    monkeypatch.setattr(peers.init_images, "make", lambda work, size: [size])
    monkeypatch.setattr(peers, "seconds_to_open_all", lambda work, contestant: 1.0)
    monkeypatch.setattr(peers, "compared_images", lambda *_: {"pixels": [], "installed": {}})
    monkeypatch.setattr(peers, "images_of", images_of)
    monkeypatch.setattr(peers, "PAUSE_SECONDS", 0)
    (tmp_path / "checkpoint").mkdir()  # which both read
    peers.compared(tmp_path, [SDCPP, DIFFUSERS], [512, 256], 1)
    assert measured == [
        ("diffusers", [512], 3),
        (SDCPP.name, [256], 1),
        ("diffusers", [256], 3),
    ]


def test_a_folder_to_read_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match="genai_cache is to be read before a process"):
        peers.measured(tmp_path, GENAI, 256, [])


def test_a_first_use_leaves_the_cache_of_others(monkeypatch, tmp_path):
    for name in ("onnx", "openvino-cpu-bf16"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    monkeypatch.setattr(process, "python", lambda *_: "false")
    with pytest.raises(process.ProcessDiedError):
        process.images_of(tmp_path, FIRST_USE, [tmp_path / "a.png"], 1)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["openvino-cpu-bf16"]


def test_an_environment_that_does_not_build_is_left_out(monkeypatch, tmp_path, capsys):
    def make(work, name, packages, stamp):
        if name == broken:
            raise subprocess.CalledProcessError(1, ["pip", "install"])
        folder = work / "venv" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "installed").write_text(stamp)

    monkeypatch.setattr(environments, "_make", make)
    monkeypatch.setattr(environments, "_pip", lambda *_: None)
    broken = "sdcpp"
    environments.set_up(tmp_path)
    assert "sdcpp is left out, for it does not build here: " in capsys.readouterr().err
    assert not environments.is_made(tmp_path, SDCPP.environment)
    assert environments.is_made(tmp_path, DIFFUSERS.environment)
    broken = "optimum"
    with pytest.raises(subprocess.CalledProcessError):
        environments.set_up(tmp_path)

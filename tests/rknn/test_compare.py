"""`lcm bench --compare` on a board that is none: core masks, and instances on a core each."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from lcmcore.bundle import COMPONENTS, Settings
from lcmcore.cli.main import main
from runtimes.rknn import RknnRuntime, board
from tests.rknn import fixtures
from tests.rknn.double import RKNNLiteDouble

Lites = list[RKNNLiteDouble]
ALL_CORES = 7


@pytest.fixture
def bundle(tiny: Path) -> Path:
    """A bundle of .rknn files alone, compiled for 48x32."""
    for component in COMPONENTS:
        shutil.copy(fixtures.TINY / component / "config.json", tiny / component)
    for folder in ("scheduler", "tokenizer"):
        shutil.copytree(fixtures.TINY / folder, tiny / folder)
    return tiny


class Cores:
    """A clock that goes on while the NPU's cores are busy, in the place of `time`.

    A run takes a second on one core, and `share` of it on all three together.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._busy = [0.0] * 3
        self._lock = threading.Lock()

    def perf_counter(self) -> float:
        """When all cores are done: whoever asks waits for them."""
        self._busy = [max(self._busy)] * 3
        return self._busy[0]

    def run(self, mask: int) -> None:
        """On the cores of a mask; "auto" is the first."""
        with self._lock:
            for core in range(3):
                if (mask or 1) >> core & 1:
                    self._busy[core] += self._share if mask == ALL_CORES else 1


def measure_by(cores: Cores, monkeypatch: pytest.MonkeyPatch) -> None:
    inference = RKNNLiteDouble.inference

    def watched(self: RKNNLiteDouble, *args: Any, **keywords: Any) -> Any:
        cores.run(self.core_mask)
        return inference(self, *args, **keywords)

    monkeypatch.setattr(RKNNLiteDouble, "inference", watched)
    monkeypatch.setattr("lcmcore.networks.time", cores)


def lcm(bundle: Path, size: str, *words: str) -> int:
    return main(["bench", "--compare", f"--model={bundle}", "--rounds=1", f"--size={size}", *words])


def seconds_of(out: str, component: str) -> dict[str, float]:
    rows = re.findall(rf"^{component} +rknn (\S+) +([\d.]+) +[\d.]+ +\d+ +\S+$", out, re.M)
    return {setting: float(seconds) for setting, seconds in rows}


@pytest.mark.parametrize(
    ("share", "setting"), [(0.5, {"instances": 3}), (0.25, {"core_mask": "0_1_2"})]
)
def test_the_fastest_of_core_masks_and_instances_is_written(
    share: float,
    setting: dict[str, Any],
    bundle: Path,
    lites: Lites,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """96x32 by three tiles of 48x32: one after the other, or one on each core."""
    measure_by(Cores(share), monkeypatch)
    (bundle / "lcm.toml").write_text('[vae_decoder]\ncore_mask = "0"\ninstances = 2\n')
    assert lcm(bundle, "96x32", "--write") == 0
    found = seconds_of(capfd.readouterr().out, "vae_decoder")
    assert found == {"core_mask=0": 3, "core_mask=0_1_2": 3 * share, "instances=3": 1}
    settings = Settings.read(bundle / "lcm.toml")
    assert settings.components["vae_decoder"] == {"runtime": "rknn", **setting}
    assert settings.components["unet"] == {"runtime": "rknn", **setting}
    assert settings.components["text_encoder"].keys() == {"runtime", "core_mask"}
    assert all(lite.released for lite in lites)


def test_instances_are_on_a_core_each(bundle: Path, lites: Lites) -> None:
    """Whatever core_mask lcm.toml has: it would put all of them on that core."""
    (bundle / "lcm.toml").write_text('[vae_decoder]\ncore_mask = "0"\n')
    assert lcm(bundle, "96x32") == 0
    masks = [lite.core_mask for lite in lites if lite._path.parent.name == "vae_decoder"]
    assert masks == [0, 1, 7, 1, 2, 4]  # the image in "auto", then each candidate


def test_an_image_of_one_tile_needs_no_instances(
    bundle: Path, lites: Lites, capfd: pytest.CaptureFixture[str]
) -> None:
    assert lcm(bundle, "48x32") == 0
    out = capfd.readouterr().out
    for component in COMPONENTS:
        assert set(seconds_of(out, component)) == {"core_mask=0", "core_mask=0_1_2"}


def test_an_npu_of_one_core_has_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "platform", lambda: "rk3566")
    assert list(RknnRuntime().variants()) == [{}]

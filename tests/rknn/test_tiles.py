"""Networks that work by tiles, on three cores of the doubled device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lcmcore
from lcmcore.cli.info import describe
from lcmcore.errors import NetworkError
from runtimes.rknn import RknnRuntime, board
from tests.fixed_size import fix_size
from tests.rknn import fixtures
from tests.rknn.double import RKNNLiteDouble

Lites = list[RKNNLiteDouble]

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 9, 14), np.float32)  # 112x72 pixels


@pytest.fixture
def bundle(tiny: Path) -> Path:
    """A VAE of 48x32 for the NPU, the other two networks as model.onnx, of any size."""
    for component in fixtures.COMPONENTS:
        shutil.copy(fixtures.TINY / component / "config.json", tiny / component)
    for component in ("text_encoder", "unet"):
        (tiny / component / "model.rknn").unlink()
        shutil.copy(fixtures.TINY / component / "model.onnx", tiny / component)
    for folder in ("scheduler", "tokenizer"):
        shutil.copytree(fixtures.TINY / folder, tiny / folder)
    instances = "[vae_encoder]\ninstances = 3\n[vae_decoder]\ninstances = 3\n"
    (tiny / "lcm.toml").write_text(instances)
    return tiny


def load(root: Path, **options: Any) -> lcmcore.Pipeline:
    npu = RknnRuntime()
    return lcmcore.load(
        root, {"default": "onnx", "vae_encoder": npu, "vae_decoder": npu}, **options
    )


def test_an_image_by_tiles_on_one_instance_a_core(bundle: Path, lites: Lites) -> None:
    init = np.random.default_rng(0).uniform(0, 1, (80, 112, 3))
    images = []
    for instances in ((bundle / "lcm.toml").read_text(), ""):
        (bundle / "lcm.toml").write_text(f"size_multiple = 8\n{instances}")
        with load(bundle) as pipe:
            result = pipe("a lake", image=init, seed=3, width=112, height=80, output_type="np")
        images.append(result.images)
    np.testing.assert_array_equal(*images)
    assert [lite.core_mask for lite in lites] == [1, 2, 4, 1, 2, 4, 0, 0]
    assert all(lite.released for lite in lites)


def test_all_networks_by_tiles_are_those_of_onnx_runtime(
    tiny: Path, lites: Lites, tmp_path: Path
) -> None:
    """Larger and smaller than 48x32, for which they are compiled; the UNet on three cores."""
    for component in fixtures.COMPONENTS:
        shutil.copy(fixtures.TINY / component / "config.json", tiny / component)
    for folder in ("scheduler", "tokenizer"):
        shutil.copytree(fixtures.TINY / folder, tiny / folder)
    (tiny / "lcm.toml").write_text("[unet]\ninstances = 3\n")
    fixed = fix_size(fixtures.TINY, tmp_path / "fixed", (48, 32))
    init = np.random.default_rng(0).uniform(0, 1, (80, 112, 3))
    for width, height in ((112, 72), (40, 64), (24, 16)):
        images = []
        for root, runtime in ((tiny, RknnRuntime()), (fixed, "onnx")):
            with lcmcore.load(root, runtime) as pipe:
                result = pipe("a lake", init, seed=3, width=width, height=height, output_type="np")
                images.append(result.images)
        assert images[0].shape == (1, height, width, 3)
        np.testing.assert_allclose(*images, atol=0.01)
    assert {lite.core_mask for lite in lites} == {0, 1, 2, 4}
    assert all(lite.released for lite in lites)


@pytest.mark.parametrize("core", [0, 1, 2])
def test_the_instance_whose_run_fails_is_named_and_all_are_released(
    bundle: Path, lites: Lites, core: int
) -> None:
    message = rf"^vae_decoder: instance {core + 1} of 3 \(core_mask {core}\): .*sample holds NaN"
    with load(bundle) as pipe:
        pipe.decode(LATENTS)
        lites[core]._function = lambda inputs: [np.full((1, 3, 32, 48), np.nan)]
        driver = lites[core].rknn_runtime
        assert driver is not None
        driver._function = lites[core]._function
        with pytest.raises(NetworkError, match=message):
            pipe.decode(LATENTS)
    assert len(lites) == 3
    assert all(lite.released for lite in lites)


def test_an_instance_that_does_not_open_is_named(
    bundle: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPU_FAULT", "core:-5")
    message = r"^vae_decoder: instance 1 of 3 \(core_mask 0\): .*init_runtime returned -1"
    with load(bundle) as pipe, pytest.raises(NetworkError, match=message):
        pipe.decode(LATENTS)
    assert all(lite.released for lite in lites)


def test_a_pools_worker_has_one_instance_on_its_core(bundle: Path, lites: Lites) -> None:
    with load(bundle, core_mask="2") as pipe:
        pipe.decode(LATENTS)
    assert [lite.core_mask for lite in lites] == [4]


def test_an_npu_of_one_core_numbers_its_instances(
    bundle: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "cores", lambda platform: 1)
    monkeypatch.setenv("NPU_FAULT", "init:-4")
    with (
        load(bundle) as pipe,
        pytest.raises(NetworkError, match=r"^vae_decoder: instance 1 of 3: "),
    ):
        pipe.decode(LATENTS)


def test_info_tells_tiles_and_instances(bundle: Path) -> None:
    """The tiny UNet's .rknn file is of 48x32, too: a tile of it is the whole."""
    fixtures.write_bundle(bundle)
    lines = [line.strip() for line in describe(bundle)]
    assert lines.count("3 instances, of which images of 48x32 need one") == 2


@pytest.mark.parametrize(
    ("size", "count", "line"),
    [
        ("96x64", 3, "9 tiles of 48x32 for images of 96x64, on 3 instances"),
        ("96x32", 1, "3 tiles of 48x32 for images of 96x32, on 1 instance"),
        ("40x32", 1, "tiles of 48x32 are larger than images of 40x32, which are padded"),
    ],
)
def test_info_counts_the_tiles_of_an_image(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, size: str, count: int, line: str
) -> None:
    fixtures.write_bundle(bundle)
    (bundle / "lcm.toml").write_text(f"[vae_decoder]\ninstances = {count}\n")
    width, height = map(int, size.split("x"))
    inputs = RknnRuntime.inputs

    def larger(self: RknnRuntime, component: str, *rest: Any) -> Any:
        specs = inputs(self, component, *rest)
        shape = (1, 4, height // 8, width // 8)
        return [specs[0]._replace(shape=shape), *specs[1:]] if component == "unet" else specs

    monkeypatch.setattr(RknnRuntime, "inputs", larger)
    assert any(each.strip().startswith(line) for each in describe(bundle))

"""docs/your-model.md: its commands, from a file and an LCM-LoRA to an image on host and board.

The checkpoint is a tiny one, and so the configs are given to each export. The board is a double: it
runs the tests' tiny .rknn files, of 48x32, in the place of those that a stand-in for the converter
does not write.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

from lcmcore.bundle import COMPONENTS
from lcmcore.cli.info import describe
from lcmcore.cli.main import main
from lcmcore.cli.parser import make_parser
from runtimes.rknn import toolkit
from tests.onnx.exporter.lora_files import DISTILLED, kohya, pairs
from tests.onnx.exporter.tiny_configs import write_checkpoint, write_configs
from tests.rknn import fixtures
from tests.rknn.conftest import Calls, calls, lites  # noqa: F401 - fixtures
from tests.rknn.double import RKNNLiteDouble

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "your-model.md").read_text(encoding="utf-8")
PROMPT = "a watercolour of a harbour"
LORA = "lcm-lora-sdv1-5.safetensors"


def commands() -> list[list[str]]:
    """The words of each command; of one for the board, those that its shell gets."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S)
    lines = [shlex.split(line) for line in "".join(blocks).splitlines()]
    return [shlex.split(" ".join(words[2:])) if words[0] == "ssh" else words for words in lines]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page takes for granted, and the configs of the tiny model."""
    write_checkpoint(tmp_path / "model.safetensors")
    configs = write_configs(tmp_path / "configs")
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs / "unet"))
    save_file(kohya(pairs(unet, DISTILLED, "unet.")), tmp_path / LORA)
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_here(words: list[str]) -> None:
    """A command of `lcm` with the tests' sizes; what installs or copies is not run."""
    if Path(words[0]).name != "lcm":
        return
    own = ["--config-from", "configs"] if words[1:3] == ["build", "onnx"] else []
    changed = {"512x512": "64x64", "/opt/lcm/model": "my-board"}
    assert main([*(changed.get(word, word) for word in words[1:]), *own]) == 0, words


def test_from_a_file_to_an_image_on_a_host_and_a_board(
    desk: Path,
    calls: Calls,  # noqa: F811
    lites: list[RKNNLiteDouble],  # noqa: F811
) -> None:
    for words in commands():
        if words[:2] == ["/opt/lcm/bin/lcm", "img2img"]:
            fixtures.write_bundle(desk / "my-board")
            for component in COMPONENTS:
                config = fixtures.TINY / component / "config.json"
                shutil.copy(config, desk / "my-board" / component)
            (desk / "harbour.png").unlink()
        run_here(words)
        if "harbour.png" in words and "img2img" in words:
            on_board = words[0].startswith("/opt")
            assert len(lites) == (4 if on_board else 0)
            with Image.open("harbour.png") as image:
                assert image.size == ((48, 32) if on_board else (64, 64))
    assert PROMPT in {word for words in commands() for word in words}
    for folder, converter in (("my-onnx", ""), ("my-board", ", converter rknn-toolkit2 9.8.7")):
        defaults, made, lora = list(describe(Path(folder)))[1:4]
        assert defaults == "  defaults: 4 steps, guidance 1.0"
        kind = "checkpoint model.safetensors, kind Stable Diffusion 1.x, sha256 "
        assert made.startswith(f"  made from {kind}") and made.endswith(converter)
        assert lora.startswith(f"  made from lora: file {LORA}, scale 1.0, sha256 ")


def test_what_is_not_of_lcm_is_of_a_shell(desk: Path) -> None:
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S):
        subprocess.run(["bash", "-n", "-c", block], check=True)
    assert f"rknn/bin/pip install --no-deps {toolkit.PACKAGE}\n" in PAGE


@pytest.mark.parametrize("given", re.findall(r"^\|[^|]*\| `(--[^`]*)`", PAGE, re.M))
def test_options_of_the_table_parse(given: str) -> None:
    words = ["build", "onnx", "model.safetensors", "my-onnx", *shlex.split(given)]
    make_parser(builders=True).parse_args(words)

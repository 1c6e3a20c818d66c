"""Directories in the layouts of the published RKNN models, unmodified, by `--runtime auto`.

The lists of files are those of huggingface.co and modelscope.cn (docs/rk3588.md, "Sources"); the
networks are the tests' tiny ones, of 48x32, and the double stands in the NPU's place.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lcmcore
from lcmcore.cli.main import main
from lcmcore.errors import LcmError
from lcmcore.util.arrays import Array
from runtimes.onnx import OnnxRuntime
from tests.rknn import conftest, fixtures
from tests.rknn.double import RKNNLiteDouble
from tests.rknn.test_page import POINTER

Lites = list[RKNNLiteDouble]
Call = Callable[..., Array]
COMPILED = ("text_encoder", "unet", "vae_decoder")
CAT = [49406, 320, 1125, 539, 320, 2368, 49407]  # OpenAI's `clip.tokenize("a photo of a cat")`


def compiled(root: Path) -> Path:
    """What all of them have: three .rknn files beside their configs, and a scheduler."""
    fixtures.write_bundle(root)
    shutil.rmtree(root / "vae_encoder")
    for component in COMPILED:
        shutil.copy(fixtures.TINY / component / "config.json", root / component)
    shutil.copytree(fixtures.TINY / "scheduler", root / "scheduler")
    return root


def happyme531(root: Path) -> Path:
    """Cloned whole: the ONNX export that was compiled lies beside, the encoder is ONNX alone."""
    folder = compiled(root / "model")
    for component in (*COMPILED, "vae_encoder"):
        shutil.copytree(fixtures.TINY / component, folder / component, dirs_exist_ok=True)
    shutil.copytree(fixtures.TINY / "tokenizer", folder / "tokenizer")
    (folder / "tokenizer" / "model.onnx").write_bytes(b"a graph of other operators")
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "OnnxStableDiffusionPipeline"}')
    (root / "run_rknn-lcm.py").write_text("import numpy")
    return folder


def happyme531_cloned_in_part(root: Path) -> Path:
    """With GIT_LFS_SKIP_SMUDGE and then what a board needs: pointers for what it does not."""
    folder = happyme531(root)
    for name in (*(f"{component}/model.onnx" for component in COMPILED), "unet/model.onnx_data"):
        (folder / name).write_text(POINTER)
    return folder


def thanhtantran(root: Path) -> Path:
    """A copy of the former, of which the .rknn files were fetched: the encoder is a pointer."""
    folder = happyme531_cloned_in_part(root)
    (folder / "vae_encoder" / "model.onnx").write_text(POINTER)
    return folder


def danielferr85(root: Path) -> Path:
    """The folders at the top, the UNet's ONNX file as pointers, no encoder and no tokenizer."""
    folder = compiled(root)
    for name in ("model.onnx", "model.onnx_data"):
        (folder / "unet" / name).write_text(POINTER)
    return of_clip(folder)


def radxa(root: Path) -> Path:
    """From ModelScope: .rknn files, configs and the scheduler, nothing else."""
    return of_clip(compiled(root / "model"))


def of_clip(folder: Path) -> Path:
    """The config of Stable Diffusion 1's text encoder, by which its tokenizer is known."""
    path = folder / "text_encoder" / "config.json"
    config = {**json.loads(path.read_text()), "vocab_size": 49408, "hidden_size": 768}
    path.write_text(json.dumps(config))
    return folder


def draw(root: Path, **call: Any) -> Array:
    with lcmcore.load(root, runtime=call.pop("runtime", "auto")) as pipe:
        result = pipe(seed=3, width=48, height=32, output_type="np", **call)
    return np.asarray(result.images[0])


@pytest.fixture
def init() -> Array:
    return np.random.default_rng(0).uniform(0, 1, (32, 48, 3))


@pytest.mark.parametrize("make", [happyme531, happyme531_cloned_in_part])
def test_with_its_encoder_on_the_cpu(
    make: Callable[[Path], Path], tmp_path: Path, lites: Lites, init: Array
) -> None:
    call = {"prompt": "a lake", "image": init, "strength": 0.75}
    expected = draw(fixtures.TINY, runtime=OnnxRuntime(), **call)
    np.testing.assert_allclose(draw(make(tmp_path), **call), expected, atol=1e-5)
    assert len(lites) == 3


def test_without_its_encoder_it_draws_from_a_prompt(
    tmp_path: Path, lites: Lites, init: Array
) -> None:
    root = thanhtantran(tmp_path)
    expected = draw(fixtures.TINY, runtime=OnnxRuntime(), prompt="a lake")
    np.testing.assert_allclose(draw(root, prompt="a lake"), expected, atol=1e-5)
    assert len(lites) == 3
    with pytest.raises(LcmError, match=r"vae_encoder: .*Git LFS pointer"):
        draw(root, prompt="a lake", image=init, strength=0.5)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What lcmcore warns of; `caplog` may be silenced with the vendor's handlers meanwhile."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("lcmcore")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.mark.parametrize("make", [danielferr85, radxa])
def test_without_a_tokenizer_it_takes_that_of_clip(
    make: Callable[[Path], Path], tmp_path: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch,
    warnings: list[str], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By the command; the tiny text encoder, of 520 tokens, stands in for one of 49,408."""
    root = make(tmp_path / "downloaded")
    seen: list[list[int]] = []
    network_of = conftest.network_of

    def folded(component: str) -> Any:
        network = network_of(component)
        if component != "text_encoder":
            return network

        def encode(inputs: list[Array]) -> Any:
            seen.append(inputs[0][0].tolist())
            return network([inputs[0] % 520])

        return encode

    monkeypatch.setattr(conftest, "network_of", folded)
    picture = tmp_path / "cat.png"
    words = ["txt2img", "a photo of a cat", "-o", str(picture), "--model", str(root)]
    assert main([*words, "--seed=3", "--size=48x32", "--runtime=auto"]) == 0
    assert seen[0][:7] == CAT and set(seen[0][7:]) == {49407}
    assert len(lites) == 3
    (warned,) = [line for line in warnings if line.startswith("no ")]
    assert warned == f"no tokenizer at {root}/tokenizer: that of CLIP ViT-L/14 is used"

    ids = np.array(seen[0])[None] % 520
    embeds = conftest.network_of("text_encoder")([ids])[0]
    expected = draw(fixtures.TINY, runtime=OnnxRuntime(), prompt_embeds=embeds)
    with Image.open(picture) as image:
        np.testing.assert_allclose(np.asarray(image) / 255, expected, atol=1 / 255)

    assert main(["info", str(root)]) == 0
    line = "  tokenizer: none here, Stable Diffusion 1's is used: 49408 tokens, 77 a prompt"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"vocab_size": 520}, {"hidden_size": 1024}])
def test_another_text_encoder_gets_no_tokenizer(
    change: dict[str, int], tmp_path: Path, lites: Lites
) -> None:
    """One with other words, or Stable Diffusion 2's, which pads otherwise."""
    root = radxa(tmp_path)
    path = root / "text_encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LcmError, match=r"no tokenizer at .* --tokenizer DIR"):
        draw(root, prompt="a lake")

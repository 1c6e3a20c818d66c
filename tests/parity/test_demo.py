"""The demo bundle against diffusers, which ran torch networks of the same weights.

Golden: tests/goldens/demo.py, again with `make goldens` (after the demo model was trained again).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lcmcore
from lcmcore.bundle import demo_dir
from lcmcore.pipeline import Pipeline
from lcmcore.tokenizer import CLIPTokenizer

from .goldens import DATA, load_json

pytestmark = pytest.mark.host  # minutes an image under emulation

FOLDER = DATA / "demo"
CASES: dict[str, tuple[str, dict[str, Any]]] = load_json("demo/cases.json")
MAX_SHARE_OFF = 0.001


@pytest.fixture(scope="module")
def pipe() -> Iterator[Pipeline]:
    with lcmcore.load(demo_dir(), runtime="onnx") as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_same_image_as_diffusers(pipe: Pipeline, name: str) -> None:
    image, call = CASES[name]
    (drawn,) = pipe(image=FOLDER / f"{image}.png" if image else None, **call).images
    off = _levels_off(drawn, Image.open(FOLDER / f"{name}.png"))
    assert off.max() <= 1
    assert (off > 0).mean() <= MAX_SHARE_OFF


def test_tokenizer() -> None:
    golden = load_json("demo/tokenizer.json.gz")
    tokenizer = CLIPTokenizer.from_dir(demo_dir() / "tokenizer")
    assert tokenizer(golden["texts"]).tolist() == golden["ids"]


def _levels_off(one: Image.Image, other: Image.Image) -> Any:
    """By how many of 255 levels each channel of each pixel differs."""
    return np.abs(np.asarray(one, np.int64) - np.asarray(other, np.int64))

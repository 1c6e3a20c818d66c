"""Which size a call gets, and which sizes are refused."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lcmcore import ArgumentError
from lcmcore.bundle import UnetConfig, VaeConfig
from lcmcore.sizes import Sizes

SD15 = Sizes.of_model(UnetConfig(), VaeConfig(), None)
COMPILED = Sizes.of_model(UnetConfig(), VaeConfig(), (512, 384))


@pytest.mark.parametrize(
    ("asked", "image", "size"),
    [
        ((None, None), None, (512, 512)),
        ((None, None), (512, 384), (512, 384)),
        ((None, None), (4000, 3000), (576, 448)),  # 4 : 3, and about the area of 512x512
        ((None, None), (100, 200), (128, 192)),
        ((None, None), (1, 1), (128, 128)),
        ((None, None), (9000, 30), (1024, 128)),  # no side beyond twice or a quarter of 512
        ((256, None), None, (256, 512)),
        ((256, None), (512, 384), (256, 384)),
        ((768, 320), (100, 100), (768, 320)),
    ],
)
def test_choice(asked, image, size):
    assert SD15.choose(*asked, image) == size


@given(st.integers(1, 60_000), st.integers(1, 60_000))
def test_any_image_fits(width, height):
    size = SD15.choose(None, None, (width, height))
    assert SD15.choose(*size, None) == size
    assert max(size) <= 2 * SD15.native


@given(st.integers(200, 5000), st.integers(200, 5000))
def test_proportions_stay_about_the_same(width, height):
    assume(1 / 3 < width / height < 3)
    fitted = SD15.choose(None, None, (width, height))
    assert fitted[0] / fitted[1] == pytest.approx(width / height, rel=0.3)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((500, 512), "multiples of 64 for this model, e.g. 512x512"),
        ((512, 1), "e.g. 512x64"),
        ((0, 512), "width must be from 1 to 65536, not 0"),
        ((512, -64), "height must be from 1"),
        ((512, 2**20), "height must be from 1 to 65536"),
        ((512.0, 512), "width must be a whole number"),
        (("512", 512), "width must be a whole number"),
    ],
)
def test_sizes_that_are_not_supported(asked, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        SD15.choose(*asked, None)


def test_compiled_networks_have_one_size():
    assert COMPILED.choose(None, None, (77, 1000)) == (512, 384)
    assert COMPILED.choose(512, None, None) == (512, 384)
    with pytest.raises(ArgumentError, match=r"256x384 is not supported: .* compiled for 512x384"):
        COMPILED.choose(256, None, None)


def test_size_multiple_allows_finer_sizes():
    finer = Sizes.of_model(UnetConfig(), VaeConfig(), None, multiple=8)
    assert finer.choose(504, 520, None) == (504, 520)
    with pytest.raises(ArgumentError, match="size_multiple must be a multiple of 8, not 12"):
        Sizes.of_model(UnetConfig(), VaeConfig(), None, multiple=12)


@pytest.mark.parametrize(
    ("size", "images", "needed"),
    [
        # 64x64 latents: an attention map of 4096 x 4096 for each of 8 heads, in float32
        ((512, 512), 1, 8 * 4096**2 * 4),
        ((512, 512), 3, 3 * 8 * 4096**2 * 4),
        # small: the decoder's feature maps, 128 and 256 channels of every pixel
        ((256, 256), 1, 256 * 256 * (128 + 256) * 4),
    ],
)
def test_memory(size, images, needed, monkeypatch):
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: needed)
    assert SD15.choose(*size, None, images) == size
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: needed - 1)
    with pytest.raises(ArgumentError, match=f"{size[0]}x{size[1]} needs more than .* is free"):
        SD15.choose(*size, None, images)
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: None)  # unknown: let it try
    assert SD15.choose(*size, None, images) == size


def test_small_sizes_do_not_query_the_memory(monkeypatch):
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: 1 / 0)
    assert SD15.choose(64, 64, None) == (64, 64)
    with pytest.raises(ZeroDivisionError):
        SD15.choose(256, 256, None)


def test_attention_at_a_lower_level_takes_less(monkeypatch):
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: 2**30)
    blocks = ["DownBlock2D", "CrossAttnDownBlock2D"]
    config = {"down_block_types": blocks, "block_out_channels": [80, 96], "attention_head_dim": 4}
    lower = Sizes.of_model(UnetConfig.from_config(config), VaeConfig(), None)
    assert lower.choose(1024, 512, None) == (1024, 512)
    with pytest.raises(ArgumentError, match=r"needs more than 2\.0 GiB"):
        SD15.choose(1024, 512, None)

"""Which size a call gets, and which sizes are refused."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lcmcore import ArgumentError
from lcmcore.bundle import UnetConfig, VaeConfig
from lcmcore.sizes import Sizes
from lcmcore.tile_choice import TileChoice

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


@pytest.mark.parametrize(
    ("size", "strength", "warns"),
    [
        ((1024, 1024), 1.0, True),
        ((768, 768), 0.75, True),  # 2.25 times the area
        ((768, 640), 1.0, False),  # 1.9 times
        ((1024, 1024), 0.5, False),
    ],
)
def test_sizes_far_above_the_trained_one_at_a_high_strength_are_warned_of(size, strength, warns):
    warning = SD15.warning(size, strength)
    assert bool(warning) is warns
    if warns:
        assert warning.startswith(f"size {size[0]}x{size[1]} is more than 2 times the area")
        assert f"for, 512x512: at strength {strength:g} " in warning
        assert "a strength of 0.5 or less, or a small image first and then img2img" in warning


@pytest.mark.parametrize(
    ("image", "size"),
    [
        ((640, 512), (640, 512)),
        ((1024, 512), (1024, 512)),  # twice the area
        ((1024, 576), (704, 384)),  # more: scaled down to the area of 512x512
        ((600, 500), (576, 512)),
        ((300, 200), (320, 192)),
    ],
)
def test_a_masked_image_keeps_its_size_up_to_twice_the_trained_area(image, size):
    assert SD15.choose(None, None, image, masked=True) == size
    assert COMPILED.choose(None, None, image, masked=True) == (512, 384)


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


def test_compiled_networks_have_one_size_by_default_and_make_others_by_tiles():
    assert COMPILED.choose(None, None, (77, 1000)) == (512, 384)
    assert COMPILED.choose(512, None, None) == (512, 384)
    assert COMPILED.choose(264, None, None) == (264, 384)
    with pytest.raises(ArgumentError, match=r"260x384: .* must be multiples of 8 .* 256x384"):
        COMPILED.choose(260, None, None)


@pytest.mark.parametrize(
    ("compiled", "tile", "size", "warns"),
    [
        ((256, 256), None, (512, 256), False),
        ((256, 256), None, (520, 256), True),
        (None, 256, (512, 256), False),
        (None, 256, (576, 256), True),
        (None, 512, (576, 512), False),
    ],
)
def test_a_unet_that_sees_less_than_half_at_once_is_warned_of(compiled, tile, size, warns):
    sizes = Sizes.of_model(UnetConfig(), VaeConfig(), compiled, None, TileChoice(tile, False))
    warning = sizes.warning(size, 0.75)
    assert bool(warning) is warns
    assert not warns or "than 2 times the area that the UNet sees at once, 256x256: at" in warning


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


@pytest.mark.parametrize(
    ("levels", "factor_levels", "multiple"), [(4, 4, 64), (1, 4, 8), (3, 3, 16), (2, 1, 2)]
)
def test_the_multiple_is_what_the_vae_and_the_unet_halve(levels, factor_levels, multiple):
    unet, vae = UnetConfig(levels=levels), VaeConfig(2 ** (factor_levels - 1))
    sizes = Sizes.of_model(unet, vae, None)
    assert sizes.multiple == multiple
    assert sizes.native == 64 * vae.factor


@pytest.mark.parametrize("side", [1, 2**16])
def test_the_smallest_and_the_largest_side(side, monkeypatch):
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: None)
    finest = Sizes.of_model(UnetConfig(levels=1), VaeConfig(1), None)
    assert finest.choose(side, side, None) == (side, side)


def test_the_message_says_what_is_needed_and_free(monkeypatch):
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: 2**29)
    with pytest.raises(ArgumentError) as caught:
        SD15.choose(768, 512, None)  # 6144 tokens
    assert str(caught.value) == (
        "size 768x512 needs more than 1.1 GiB of memory and 0.5 GiB is free: choose a smaller size"
        " or tiles (--tile 512, in Python tile=512)"
    )
    with pytest.raises(ArgumentError) as caught:
        SD15.choose(512, 512, None, 2)
    assert str(caught.value) == (
        "2 times 512x512 needs more than 1.0 GiB of memory and 0.5 GiB is free:"
        " choose a smaller size or fewer images"
    )


def test_from_64_mib_on_the_memory_is_asked_for(monkeypatch):
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: 0)
    level = Sizes.of_model(UnetConfig(levels=1, heads=1), VaeConfig(1, channels=(1, 1)), None)
    assert level.choose(64, 64, None) == (64, 64)  # 4096 tokens, a map of 2**26 bytes
    with pytest.raises(ArgumentError, match="is free"):
        level.choose(65, 64, None)


def test_no_side_of_an_image_gets_smaller_than_a_quarter_of_the_native_one():
    fine = Sizes.of_model(UnetConfig(levels=1), VaeConfig(), None)
    assert fine.choose(None, None, (1, 1)) == (128, 128)
    assert fine.choose(None, None, (100_000, 1)) == (1024, 128)


def test_a_level_halves_both_sides_of_the_attention_map(monkeypatch):
    vae = VaeConfig(channels=(1, 1))  # next to nothing beside the attention map
    sizes = Sizes.of_model(UnetConfig(levels=2, attention_level=1, heads=8), vae, None)
    needed = 8 * (1024 * 512 // 16**2) ** 2 * 4
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: needed)
    assert sizes.choose(1024, 512, None) == (1024, 512)
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: needed - 1)
    with pytest.raises(ArgumentError, match="is free"):
        sizes.choose(1024, 512, None)


def test_sides_that_no_image_can_have():
    """Configs and files of strangers say so."""
    unet = UnetConfig(sample_size=2**16, levels=1)
    with pytest.raises(ArgumentError, match="the longer side must be from 1 to 65536, not 524288"):
        Sizes.of_model(unet, VaeConfig(), None).choose(None, None, None)
    for compiled in ((65544, 8), (8, 65544), (8, -8)):
        with pytest.raises(ArgumentError, match="the side that the UNet is compiled for must be"):
            Sizes.of_model(UnetConfig(), VaeConfig(), compiled)
    largest = Sizes.of_model(UnetConfig(), VaeConfig(), (65536, 8))
    assert largest.choose(None, None, None) == (65536, 8)

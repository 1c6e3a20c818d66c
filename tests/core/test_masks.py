"""Masks as they are read and prepared: white is repainted."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lcmcore import ArgumentError, ImageError
from lcmcore.masks import prepare, read_margins, read_mask, read_masks
from tests.core.images import encoded

BLACK, GREY, WHITE = 0, 128, 255


def values(mask):
    assert mask.mode == "L"
    return np.asarray(mask).tolist()


@pytest.mark.parametrize(
    "source",
    [
        np.array([[0, 128, 255]], np.uint8),
        np.array([[0, 0.5, 1]], np.float32),
        np.stack([np.array([[0, 128, 255]], np.uint8)] * 3, axis=2),
        Image.fromarray(np.array([[0, 128, 255]], np.uint8)),
        encoded(Image.fromarray(np.array([[0, 128, 255]], np.uint8)).convert("RGB")),
    ],
    ids=["grey", "floats", "RGB", "Pillow", "PNG"],
)
def test_a_mask_of_any_kind(source):
    assert values(read_mask(source)) == [[BLACK, GREY, WHITE]]
    assert [*map(values, read_masks([source, source]))] == [[[BLACK, GREY, WHITE]]] * 2


def test_a_mask_of_two_values():
    expected = [[BLACK, WHITE]]
    assert values(read_mask(np.array([[False, True]]))) == expected
    assert values(read_mask(Image.fromarray(np.array(expected, np.uint8)).convert("1"))) == expected


def test_where_a_mask_is_transparent_nothing_was_painted():
    painted = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
    painted.putpixel((1, 0), (255, 255, 255, 255))
    assert values(read_mask(painted)) == [[BLACK, WHITE]]


def test_a_mask_is_turned_upright_as_the_image_is():
    mask = Image.fromarray(np.array([[0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert values(read_mask(encoded(mask, exif=exif))) == [[BLACK], [WHITE]]


@pytest.mark.parametrize("source", [[], 3, np.zeros((2, 2, 2), np.uint8), np.full((2, 2), 2.0)])
def test_what_is_no_mask(source):
    with pytest.raises(ArgumentError, match=r"^mask_image"):
        read_masks(source)


def test_a_damaged_mask_is_named():
    with pytest.raises(ImageError, match=r"^mask_image: "):
        read_mask(b"no image")


def test_nothing_is_changed_unasked():
    image, mask = Image.new("RGB", (4, 4)), Image.new("L", (9, 9))
    assert prepare(image, mask) == (image, mask)
    assert prepare(image, mask, blur=0, invert=False) == (image, mask)


def test_invert_then_blur():
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 20, 20))
    inverted = Image.fromarray(255 - np.asarray(mask))
    assert values(prepare(None, mask, invert=True)[1]) == values(inverted)
    blurred = inverted.filter(ImageFilter.GaussianBlur(2))
    assert values(prepare(None, mask, invert=True, blur=2)[1]) == values(blurred)


def test_expand_continues_the_edge_pixels_and_masks_the_margins():
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    canvas, mask = prepare(image, None, expand="1,0,2,3")
    assert canvas.size == mask.size == (6, 5)
    pixels = np.asarray(canvas)
    expected = np.pad(np.asarray(image), ((0, 3), (1, 2), (0, 0)), "edge")
    np.testing.assert_array_equal(pixels, expected)
    expected = np.full((5, 6), WHITE)
    expected[:2, 1:4] = BLACK
    assert values(mask) == expected.tolist()


def test_expand_keeps_the_mask_of_the_image_at_its_size():
    mask = Image.new("L", (6, 4))
    mask.paste(255, (0, 0, 2, 4))
    _, canvas = prepare(Image.new("RGB", (3, 2)), mask, expand="0,1,0,0", invert=True)
    assert values(canvas)[0] == [WHITE] * 3
    assert (np.asarray(canvas)[1:] > GREY).tolist() == [[False, True, True]] * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3", "expand must be LEFT,TOP,RIGHT,BOTTOM, like 64,0,64,0, not '1,2,3'"),
        ("1,2,3,-4", "expand must be LEFT,TOP,RIGHT,BOTTOM"),
        ("1,2,3,4 ", "expand must be LEFT,TOP,RIGHT,BOTTOM"),
        (5, "expand must be LEFT,TOP,RIGHT,BOTTOM"),
        ("0,0,0,0", "expand by 0,0,0,0 adds nothing"),
    ],
)
def test_bad_margins(text, words):
    with pytest.raises(ArgumentError, match=f"^{words}"):
        read_margins(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blur": 3}, "mask_blur needs a mask"),
        ({"blur": -1}, "mask_blur must be from 0 to 1000, not -1"),
        ({"invert": True}, "invert_mask needs a mask"),
        ({"invert": "yes"}, "invert_mask must be False or True, not 'yes'"),
        ({"expand": "1,1,1,1"}, "expand needs an init image"),
    ],
)
def test_what_cannot_be_prepared(options, words):
    with pytest.raises(ArgumentError, match=f"^{words}$"):
        prepare(None, None, **options)


def test_a_canvas_too_large_is_refused_before_it_is_made():
    with pytest.raises(ArgumentError, match=r"^expand: a canvas of 10000008x8 pixels is too large"):
        prepare(Image.new("RGB", (8, 8)), None, expand="5000000,0,5000000,0")


def test_a_canvas_is_refused_where_memory_is_short(monkeypatch):
    monkeypatch.setattr("lcmcore.masks.available_bytes", lambda: 2**26)
    with pytest.raises(ArgumentError, match=r"^expand: a canvas of 8x1000008 pixels is too large"):
        prepare(Image.new("RGB", (8, 8)), None, expand="0,1000000,0,0")

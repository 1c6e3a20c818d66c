"""Images of every kind to RGB, to the model's size, and to tensors and back."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from lcmcore import ArgumentError, ImageError
from lcmcore.image import fit_image, read_image, read_images, to_array, to_pil, to_tensor

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def filled(mode, colour, size=(4, 4)):
    return Image.new(mode, size, colour)


def palette(transparent=False):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, *RED])
    return encoded(image, **({"transparency": 1} if transparent else {}))


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(palette(), RED, id="palette"),
        pytest.param(palette(transparent=True), WHITE, id="transparent palette"),
        pytest.param(encoded(filled("L", 100)), (100, 100, 100), id="grey"),
        pytest.param(encoded(filled("LA", (100, 0))), WHITE, id="grey, transparent"),
        pytest.param(encoded(filled("1", 1)), WHITE, id="1-bit"),
        pytest.param(encoded(filled("I;16", 100 << 8 | 255)), (100, 100, 100), id="16-bit PNG"),
        pytest.param(encoded(filled("I", 200 << 8), "TIFF"), (200, 200, 200), id="32-bit TIFF"),
        pytest.param(encoded(filled("F", 0.5), "TIFF"), (128, 128, 128), id="float TIFF"),
        pytest.param(encoded(filled("F", float("nan")), "TIFF"), (0, 0, 0), id="NaN TIFF"),
        pytest.param(encoded(filled("CMYK", (0, 255, 255, 0)), "TIFF"), RED, id="CMYK"),
        pytest.param(encoded(filled("RGBA", (*RED, 255))), RED, id="opaque alpha"),
        pytest.param(encoded(filled("RGBA", (*RED, 0))), WHITE, id="transparent"),
        pytest.param(encoded(filled("RGB", RED), transparency=RED), WHITE, id="colour key"),
        pytest.param(encoded(filled("RGB", RED, (1, 1))), RED, id="1x1"),
        pytest.param(
            encoded(filled("RGB", RED), save_all=True, append_images=[filled("RGB", 0)]),
            RED,
            id="animated",
        ),
    ],
)
def test_every_kind_becomes_rgb(data, colour):
    image = read_image(data)
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == colour


def test_half_transparent_is_laid_over_white():
    assert read_image(filled("RGBA", (0, 0, 0, 51))).getpixel((0, 0)) == (204, 204, 204)


LEFT, RIGHT, TOP, BOTTOM = 0.25, 0.75, 0.25, 0.75


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (LEFT, TOP)),
        (2, (RIGHT, TOP)),
        (3, (RIGHT, BOTTOM)),
        (4, (LEFT, BOTTOM)),
        (5, (LEFT, TOP)),
        (6, (RIGHT, TOP)),
        (7, (RIGHT, BOTTOM)),
        (8, (LEFT, BOTTOM)),
    ],
)
def test_exif_turns_the_image_upright(orientation, corner):
    """Where the stored image's left upper corner, in red, comes to lie (EXIF 2.3, 4.6.4)."""
    image = Image.new("RGB", (40, 20))
    image.paste(RED, (0, 0, 20, 10))
    tags = image.getexif()
    tags[0x0112] = orientation
    upright = read_image(encoded(image, "PNG", exif=tags))
    width, height = upright.size
    assert (width, height) == ((40, 20) if orientation <= 4 else (20, 40))
    assert upright.getpixel((int(width * corner[0]), int(height * corner[1]))) == RED
    assert (np.asarray(upright) == RED).all(axis=2).mean() == 0.25


def test_broken_exif_does_no_harm():
    tags = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        assert read_image(encoded(filled("RGB", RED), "JPEG", exif=tags)).size == (4, 4)


def test_sources(photo, photo_file):
    pixels = np.asarray(photo)
    sources = [photo, photo_file, str(photo_file), photo_file.read_bytes(), pixels]
    for source in [*sources, (pixels / 255).astype(np.float32)]:
        np.testing.assert_array_equal(np.asarray(read_image(source)), pixels)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_pipe_is_read_by_its_path_and_closed(kind):
    read, write = os.pipe()
    try:
        os.write(write, encoded(filled("RGB", RED)))
        os.close(write)
        assert read_image(kind(f"/dev/fd/{read}")).getpixel((0, 0)) == RED
    finally:
        os.close(read)


def test_reading_copies(photo):
    read_image(photo).putpixel((0, 0), RED)
    assert photo.getpixel((0, 0)) != RED


def bomb():
    """A PNG of 60000x60000 pixels, or so it says."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def cut():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise))
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "or empty", id="empty"),
        pytest.param(b"Dear diary,", "not an image of a known format", id="text"),
        pytest.param(cut(), "cannot be read", id="cut"),
        pytest.param(bomb(), "decompression bomb", id="bomb"),
    ],
)
def test_files_that_are_no_image(data, words, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(data)
    for source, name in ((path, str(path)), (data, "image")):
        with pytest.raises(ImageError, match=f"^{re.escape(name)}: .*{words}"):
            read_image(source)


def test_bomb_below_pillows_own_limit(monkeypatch):
    monkeypatch.setattr("lcmcore.image.MAX_PIXELS", 15)
    with pytest.raises(ImageError, match=r"4x4 pixels are more than 15 \(a decompression bomb"):
        read_image(filled("RGB", RED))


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere.png", "no such file"), (".", "is a folder"), ("a\0b", "null")]
)
def test_paths_that_are_no_file(name, words, tmp_path):
    with pytest.raises(ImageError, match=words):
        read_image(str(tmp_path / name))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (5, "not int"),
        ([[1]], "not list"),
        (np.zeros((4, 4)), "[height, width, 3], not [4, 4]"),
        (np.zeros((4, 4, 4)), "[height, width, 3]"),
        (np.zeros((0, 4, 3), np.uint8), "not [0, 4, 3]"),
        (np.zeros((4, 4, 3), np.int64), "uint8, or floats"),
        (np.full((4, 4, 3), 1.5), "floats from 0 to 1"),
        (np.full((4, 4, 3), np.nan), "floats from 0 to 1"),
        (np.full((4, 4, 3), "x"), "uint8, or floats"),
    ],
)
def test_values_that_are_no_image(source, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        read_image(source)


def test_lists(photo):
    assert read_images(None) == []
    assert len(read_images([photo, np.asarray(photo)])) == 2
    with pytest.raises(ArgumentError, match="empty list"):
        read_images([])


def stripes():
    """Red, green and blue thirds, side by side, 90x30."""
    image = Image.new("RGB", (90, 30), (0, 255, 0))
    image.paste(RED, (0, 0, 30, 30))
    image.paste((0, 0, 255), (60, 0, 90, 30))
    return image


@pytest.mark.parametrize(
    ("fit", "left", "top"),
    [
        ("stretch", RED, (0, 255, 0)),  # all three thirds, squeezed
        ("cover", (0, 255, 0), (0, 255, 0)),  # only the middle third is left
        ("contain", RED, (0, 0, 0)),  # black above and below
    ],
)
def test_fits(fit, left, top):
    image = fit_image(stripes(), (30, 30), fit)
    assert image.size == (30, 30)
    assert image.getpixel((2, 15)) == left
    assert image.getpixel((15, 2)) == top


def test_unknown_fit(photo):
    with pytest.raises(ArgumentError, match="'stretch' or 'cover' or 'contain', not 'crop'"):
        fit_image(photo, (8, 8), "crop")


@pytest.mark.parametrize("height", [1, 3, 5, 7])
def test_the_lower_of_uneven_margins_is_larger(height):
    fitted = np.asarray(fit_image(filled("RGB", RED, (8, height)), (8, 8), "contain"))
    above = (8 - height) // 2
    rows = [row for row in range(8) if fitted[row].any()]
    assert rows == [*range(above, above + height)]


def test_extreme_proportions_fit():
    for fit in ("stretch", "cover", "contain"):
        assert fit_image(Image.new("RGB", (1, 5000)), (64, 32), fit).size == (64, 32)


sizes = st.integers(1, 12)
pixels = arrays.arrays(np.uint8, st.tuples(sizes, sizes, st.just(3)))


@given(pixels)
def test_tensors_lose_nothing(array):
    tensor = to_tensor(array[None])
    assert tensor.dtype == np.float32
    assert tensor.shape == (1, 3, *array.shape[:2])
    assert -1 <= tensor.min() <= tensor.max() <= 1
    np.testing.assert_array_equal(np.asarray(to_pil(to_array(tensor))[0]), array)


@given(arrays.arrays(np.float32, (1, 3, 2, 2), elements=st.floats(-1e6, 1e6, width=32)))
def test_images_are_clipped(tensor):
    array = to_array(tensor)
    assert array.min() >= 0
    assert array.max() <= 1
    assert to_pil(array)[0].size == (2, 2)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]))
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs
def test_any_bytes_are_an_image_or_an_error(data, magic):
    try:
        image = read_image(magic + data)
    except ImageError:
        return
    assert image.mode == "RGB"

"""Images from every kind of source, to the model's size, and to tensors and back."""

import errno
import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFile, ImageOps

from lcmcore import ArgumentError, ImageError
from lcmcore.image import (
    fit_image,
    fit_images,
    read_image,
    read_images,
    to_array,
    to_pil,
    to_tensor,
)
from tests.core.images import RED, chunk, cut, encoded, filled


def test_sources(photo, photo_file):
    pixels = np.asarray(photo)
    sources = [photo, photo_file, str(photo_file), photo_file.read_bytes(), pixels]
    for source in [*sources, (pixels / 255).astype(np.float32)]:
        np.testing.assert_array_equal(np.asarray(read_image(source)), pixels)


def test_reading_copies(photo):
    read_image(photo).putpixel((0, 0), RED)
    assert photo.getpixel((0, 0)) != RED


def bomb():
    """A PNG of 60000x60000 pixels, or so it says."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


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


@pytest.mark.parametrize("size", [(1, 8 * 10**7), (8 * 10**7, 1), (1, 2**21 + 1), (2**21 + 1, 1)])
def test_very_thin_images_are_refused_before_they_are_decoded(size):
    """100 million rows of one pixel took 2.4 GB; the error was that of the output's size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=rf"{size[0]}x{size[1]} pixels: a side is longer than"):
        read_image(png)


def test_the_longest_side_is_read():
    assert read_image(Image.new("L", (1, 2**21), 7)).size == (1, 2**21)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_images_without_pixels(size):
    with pytest.raises(ImageError, match=rf"^image: has no pixels \({size[0]}x{size[1]}\)$"):
        read_image(Image.new("RGB", size))


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


def test_what_the_caller_has_decoded_is_read_whatever_it_was():
    image = Image.open(io.BytesIO(encoded(filled("RGB", RED), "PCX")))
    image.load()
    assert read_image(image).getpixel((0, 0)) == RED


def test_stubs_are_not_decoded():
    """What GRIB, BUFR, HDF5 and WMF are to Pillow: to decode one calls what somebody registered."""

    class Stub(ImageFile.StubImageFile):
        format = "GRIB"

        def _open(self):
            self._mode, self._size, self.tile = "RGB", (4, 4), []

        def load(self):
            raise AssertionError("decoded")

    with pytest.raises(ImageError, match="GRIB is not a format that is read"):
        read_image(Stub(io.BytesIO(b"")))


def test_a_reason_of_the_system(tmp_path):
    with pytest.raises(ImageError, match=f": cannot be read: {os.strerror(errno.ENAMETOOLONG)}$"):
        read_image(tmp_path / ("a" * 300))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("side", [8, 9])
def test_contain_centres(width, side):
    """Margins that differ by at most one, the right and the lower one being larger."""
    before = (side - width) // 2
    expected = np.zeros((side, side), bool)
    expected[:, before : before + width] = True
    wide = fit_image(filled("RGB", RED, (width, side)), (side, side), "contain")
    np.testing.assert_array_equal(np.asarray(wide).any(axis=2), expected)
    high = fit_image(filled("RGB", RED, (side, width)), (side, side), "contain")
    np.testing.assert_array_equal(np.asarray(high).any(axis=2), expected.T)


@pytest.mark.parametrize(
    ("size", "inner"), [((10, 4), (8, 3)), ((4, 10), (3, 8)), ((1, 99), (1, 8))]
)
def test_contain_keeps_the_proportions(size, inner):
    shown = np.asarray(fit_image(filled("RGB", RED, size), (8, 8), "contain")).any(axis=2)
    assert (shown.any(axis=0).sum(), shown.any(axis=1).sum()) == inner


@pytest.mark.parametrize(
    ("size", "left", "top", "right", "bottom"),
    [((10, 10), 2, 0, 10, 8), ((10, 2), 0, 3, 12, 5), ((1, 8), 5, 0, 6, 8)],
)
def test_contain_in_a_size_that_is_not_square(size, left, top, right, bottom):
    shown = fit_image(filled("RGB", RED, size), (12, 8), "contain")
    assert shown.size == (12, 8)
    expected = np.zeros((8, 12), bool)
    expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(np.asarray(shown).any(axis=2), expected)


@pytest.mark.parametrize("fit", ["stretch", "cover", "contain"])
def test_of_the_size_that_is_wanted_nothing_is_changed(fit):
    image = stripes()
    assert fit_image(image, (90, 30), fit) is image


def test_fits_are_resized_with_lanczos():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8))
    lanczos = Image.Resampling.LANCZOS
    fitted = {
        "stretch": noise.resize((16, 16), lanczos),
        "cover": ImageOps.fit(noise, (16, 16), lanczos),
        "contain": ImageOps.pad(noise, (16, 16), lanczos),
    }
    for fit, expected in fitted.items():
        read = np.asarray(fit_image(noise, (16, 16), fit))
        np.testing.assert_array_equal(read, np.asarray(expected))


def test_a_batch_of_fits():
    batch = fit_images([stripes(), filled("RGB", RED)], (30, 30), "contain")
    assert batch.shape == (2, 30, 30, 3)
    assert batch.dtype == np.uint8
    assert batch[0, 2, 15].tolist() == [0, 0, 0]
    assert (batch[1] == RED).all()
    assert fit_images([stripes()], (30, 30))[0, 2, 15].tolist() == [0, 255, 0]


def test_tensors_have_planes_from_minus_one_to_one():
    array = np.array([[[[0, 51, 255], [255, 0, 204]]]], np.uint8)  # one row of two pixels
    tensor = to_tensor(array)
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor[0, :, 0], [[-1, 1], [-0.6, -1], [1, 0.6]], atol=1e-6)


def test_arrays_are_clipped_to_zero_and_one():
    tensor = np.array([-3, -1, 0, 0.5, 1, 3], np.float32).reshape(1, 3, 1, 2)
    array = to_array(tensor)
    np.testing.assert_allclose(array[0, 0], [[0, 0.5, 1], [0, 0.75, 1]])
    assert tensor.ravel().tolist() == [-3, -1, 0, 0.5, 1, 3]


def test_pixels_are_rounded_half_to_even():
    array = np.array([0.5, 1.5, 2.5, 254.5, 0.4, 0.6], np.float32).reshape(1, 1, 2, 3) / 255
    image = to_pil(array.astype(np.float64).round(9).astype(np.float32))[0]
    assert image.mode == "RGB"
    assert image.size == (2, 1)
    halves = np.array([[[[0.5, 1.5, 2.5]]]]) / 255  # exact in float64
    assert to_pil(halves)[0].getpixel((0, 0)) == (0, 2, 2)


def test_arrays_are_read_by_their_values():
    array = np.array([[[0, 0.25, 1]]], np.float32)
    assert read_image(array).getpixel((0, 0)) == (0, 64, 255)
    assert read_image(array.astype(np.float64)).getpixel((0, 0)) == (0, 64, 255)
    assert read_image(np.array([[[1, 2, 3]]], np.uint8)).getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(ArgumentError, match="floats from 0 to 1"):
        read_image(np.full((1, 1, 3), -0.1))
    with pytest.raises(ArgumentError, match=r"not \[4, 3\]"):
        read_image(np.zeros((4, 3)))

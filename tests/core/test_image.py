"""Images of every kind to RGB, to the model's size, and to tensors and back."""

import ast
import errno
import io
import os
import re
import struct
import subprocess
import sys
import threading
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

import lcmcore
from lcmcore import ArgumentError, ImageError
from lcmcore.image import (
    FORMATS,
    MAX_BYTES,
    fit_image,
    fit_images,
    image_suffixes,
    open_image,
    read_image,
    read_images,
    to_array,
    to_pil,
    to_tensor,
)

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


# --- which formats are read -------------------------------------------------------------------

READ = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "JPEG2000", "TGA")


def test_the_formats_that_are_read():
    assert set(FORMATS) == {*READ, "AVIF", "HEIF"}


@pytest.mark.parametrize("form", [*READ, *(["AVIF"] if "AVIF" in Image.SAVE else [])])
def test_each_of_them_is_read(form, tmp_path):
    options = {"save_all": True, "append_images": [filled("RGB", 0, (16, 16))]}
    data = encoded(filled("RGB", RED, (16, 16)), form, **(options if form == "MPO" else {}))
    path = tmp_path / "image.wrong"  # what a file is called does not matter
    path.write_bytes(data)
    for source in (data, path, Image.open(io.BytesIO(data))):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (16, 16))
        np.testing.assert_allclose(image.getpixel((8, 8)), RED, atol=8)


OTHERS = ["EPS", "ICO", "PCX", "SGI", "SPIDER", "ICNS"]


@pytest.mark.parametrize("form", OTHERS)
def test_no_others_are_read(form, tmp_path):
    mode = "F" if form == "SPIDER" else "RGB"
    data = encoded(filled(mode, 0, (32, 32)), form)
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(ImageError, match=r"known are JPEG, MPO, PNG, .*WEBP, .*, TGA$"):
            read_image(source)
    if form == "ICO":  # which Pillow decodes when it opens it
        return
    with pytest.raises(ImageError, match=f"^image: {form} is not a format that is read; known are"):
        read_image(Image.open(io.BytesIO(data)))


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


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program `gs`, and the file that it creates when it is run."""
    trace = tmp_path / "trace"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch {trace}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for again
    return trace


def test_ghostscript_is_not_started(ghostscript, tmp_path):
    data = encoded(filled("RGB", RED), "EPS")
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(OSError), Image.open(io.BytesIO(data)) as image:
        image.load()
    assert ghostscript.exists(), "Pillow alone would start it"
    ghostscript.unlink()
    EpsImagePlugin.gs_binary = None
    for source in (data, path, Image.open(io.BytesIO(data))):
        with pytest.raises(ImageError):
            read_image(source)
    assert not ghostscript.exists()


def heic(brand):
    return struct.pack(">L", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(100)


class HeifImageFile(ImageFile.ImageFile):
    """Stands in for pillow-heif's: any file of the kind is red."""

    format = "HEIF"

    def _open(self):
        self._mode, self._size, self.tile = "RGB", (4, 4), []

    def load(self):
        self.im = Image.core.fill("RGB", self.size, RED)
        return Image.Image.load(self)


@pytest.fixture
def registry(monkeypatch):
    """Pillow's lists of formats, given back as they were, without HEIF."""
    Image.init()
    for name in ("OPEN", "EXTENSION"):
        known = {key: value for key, value in getattr(Image, name).items() if "HEIF" not in key}
        monkeypatch.setattr(Image, name, known)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])


@pytest.fixture
def pillow_heif(registry, monkeypatch):
    def register_heif_opener():
        Image.register_open("HEIF", HeifImageFile, lambda prefix: prefix[4:8] == b"ftyp")
        Image.register_extension("HEIF", ".heic")

    module = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)


BRANDS = [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"]


@pytest.mark.parametrize("brand", BRANDS)
def test_heic_is_read_where_its_plugin_is_installed(brand, pillow_heif):
    assert ".heic" not in Image.EXTENSION  # registered when it is needed, not before
    assert read_image(heic(brand)).getpixel((0, 0)) == RED
    assert read_image(heic(brand)).getpixel((0, 0)) == RED


@pytest.mark.parametrize("brand", BRANDS)
def test_heic_without_the_plugin(brand, registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC is read only where pillow-heif is installed"):
        read_image(heic(brand))


def test_other_files_do_not_register_heif(pillow_heif):
    read_image(encoded(filled("RGB", RED), "TIFF"))
    assert "HEIF" not in Image.OPEN


@pytest.mark.parametrize("brand", [b"avif", b"avis"])
def test_avif_with_an_older_pillow(brand, registry, monkeypatch):
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(ImageError, match=r"image: AVIF is read only with Pillow 11\.3 or later"):
        read_image(heic(brand))


@pytest.mark.parametrize("brand", [b"heic", b"avif", b"qt  "])
def test_a_damaged_file_where_all_is_installed(brand, registry, monkeypatch):
    Image.register_open("HEIF", HeifImageFile, lambda prefix: False)
    Image.OPEN.setdefault("AVIF", (HeifImageFile, lambda prefix: False))
    with pytest.raises(ImageError, match="not an image of a known format"):
        read_image(heic(brand))


def test_suffixes(pillow_heif):
    suffixes = image_suffixes()
    assert {".jpg", ".jpeg", ".mpo", ".png", ".gif", ".bmp", ".ppm", ".webp", ".heic"} < suffixes
    assert {".tif", ".tiff", ".jp2", ".tga"} < suffixes
    assert not {".eps", ".ps", ".ico", ".pdf", ".psd", ".wmf", ".grib", ".fits"} & suffixes


def test_suffixes_without_heif(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert ".png" in image_suffixes()
    assert not {".heic", ".heif"} & image_suffixes()


def test_opening_does_not_decode():
    image = open_image(io.BytesIO(cut()), "a name")
    assert (image.format, image.size) == ("PNG", (64, 64))
    with pytest.raises(ImageError, match=r"^a name: not an image"):
        open_image(io.BytesIO(b"text"), "a name")


def test_images_are_opened_in_one_place():
    """Another `Image.open` would try every format that Pillow knows."""
    root = Path(lcmcore.__file__).parent
    callers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Image.open", "PIL.Image.open")
    }
    assert callers == {"image.py"}


# --- EXIF ---------------------------------------------------------------------------------------

ORIENTATION = 0x0112


def exif(*entries, order="<"):
    """A TIFF directory as EXIF; an entry is (tag, type, count, four bytes)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    rows = [struct.pack(order + "HHL", *each[:3]) + each[3] for each in sorted(entries)]
    return head + struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4)


def turned(value, order="<"):
    return (ORIENTATION, 3, 1, struct.pack(order + "HH", value, 0))


def corner():
    """64x32, its left upper quarter red; both sides are whole blocks of JPEG."""
    image = Image.new("RGB", (64, 32))
    image.paste(RED, (0, 0, 32, 16))
    return image


def with_exif(form, data):
    """The corner in that format with those bytes as its EXIF; for TIFF they are its directory."""
    if form != "TIFF":
        return encoded(corner(), form, exif=b"Exif\0\0" + data)
    plain = bytearray(encoded(corner(), "TIFF"))
    (start,) = struct.unpack_from("<L", plain, 4)
    rows = {
        bytes(source[place : place + 2]): bytes(source[place : place + 12])
        for source, begin in ((plain, start), (data, 8))
        for place in range(begin + 2, begin + 2 + 12 * source[begin], 12)
    }
    table = b"".join(sorted(rows.values(), key=lambda row: struct.unpack_from("<H", row)))
    struct.pack_into("<L", plain, 4, len(plain))
    return bytes(plain) + struct.pack("<H", len(rows)) + table + bytes(4)


ODD = {
    "resolution as text": (0x011A, 2, 3, b"ab\0\0"),
    "GPS as text": (0x8825, 2, 3, b"ab\0\0"),
    "GPS beyond the end": (0x8825, 4, 1, struct.pack("<L", 9999)),
    "EXIF directory as text": (0x8769, 2, 3, b"ab\0\0"),
    "EXIF directory within itself": (0x8769, 4, 1, struct.pack("<L", 8)),
    "interoperability as text": (0xA005, 2, 3, b"ab\0\0"),
    "negative resolution": (0x011C, 8, 1, struct.pack("<hH", -1, 0)),
    "NaN": (0x011B, 11, 1, struct.pack("<f", float("nan"))),
    "type 99": (0x0110, 99, 1, b"abcd"),
    "XMP as text": (0x02BC, 2, 3, b"ab\0\0"),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of some
def test_an_odd_tag_beside_the_orientation_does_no_harm(form, odd):
    image = read_image(with_exif(form, exif(turned(6), odd)))
    assert image.size == (32, 64)
    red, green, _ = image.getpixel((24, 16))  # the left upper corner is the right one now
    assert red > 200
    assert green < 50


ORDERS = ["<", ">"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("value", [0, 1, 9, 255, 65535])
def test_an_orientation_that_means_nothing(value, order):
    data = with_exif("PNG", exif(turned(value, order), order=order))
    np.testing.assert_array_equal(np.asarray(read_image(data)), np.asarray(corner()))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param((ORIENTATION, 2, 2, b"6\0\0\0"), id="text"),
        pytest.param((ORIENTATION, 3, 0, bytes(4)), id="no value"),
        pytest.param((ORIENTATION, 5, 1, struct.pack("<L", 9999)), id="beyond the end"),
        pytest.param((ORIENTATION, 99, 1, bytes(4)), id="no type"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_orientation_that_is_no_number(entry):
    data = with_exif("PNG", exif(entry))
    np.testing.assert_array_equal(np.asarray(read_image(data)), np.asarray(corner()))


def test_exif_that_fails_in_another_way(monkeypatch):
    def fail(self):
        raise RuntimeError

    monkeypatch.setattr(Image.Image, "getexif", fail)
    np.testing.assert_array_equal(np.asarray(read_image(corner())), np.asarray(corner()))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_pictures_are_those_of_exif_transpose(form, mode, orientation):
    """Against Pillow's own function, which diffusers calls, on well-formed files of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    image = Image.fromarray(noise)
    image = Image.new(mode, (7, 5), 777) if mode == "I;16" else image.convert(mode)
    if mode == "I;16":
        image.putpixel((0, 0), 60000)
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    data = encoded(image, form, exif=tags)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if expected.has_transparency_data:
        white = Image.new("RGBA", expected.size, "white")
        expected = Image.alpha_composite(white, expected.convert("RGBA"))
    if mode == "I;16":
        expected = Image.fromarray((np.asarray(expected) >> 8).astype(np.uint8))
    read = read_image(data)
    np.testing.assert_array_equal(np.asarray(read), np.asarray(expected.convert("RGB")))
    np.testing.assert_array_equal(np.asarray(read_image(Image.open(io.BytesIO(data)))), read)


def test_orientation_of_xmp():
    text = b'<x tiff:Orientation="6"/>'
    body = b"XML:com.adobe.xmp\0\0\0\0\0" + text
    plain = encoded(corner())
    image = read_image(plain[:33] + chunk(b"iTXt", body) + plain[33:])
    assert image.size == (32, 64)


def test_exif_behind_the_pixels_of_a_png():
    plain = encoded(corner())
    data = plain[:-12] + chunk(b"eXIf", exif(turned(6))) + plain[-12:]
    assert read_image(data).size == (32, 64)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_was_read_is_not_turned_again(form):
    once = read_image(with_exif(form, exif(turned(6))))
    assert type(once) is Image.Image
    assert once.info == {}
    assert not once.getexif()
    np.testing.assert_array_equal(np.asarray(read_image(once)), np.asarray(once))


def test_the_callers_image_stays_as_it_is():
    image = Image.open(io.BytesIO(with_exif("PNG", exif(turned(6)))))
    assert read_image(image).size == (32, 64)
    assert image.size == (64, 32)
    assert image.getexif()[ORIENTATION] == 6
    assert "exif" in image.info


# --- transparent colours --------------------------------------------------------------------------


def png(rows, depth, kind, key, *chunks):
    """A PNG of rows of samples ([height, width] or [height, width, 3]) made by hand."""
    rows = np.asarray(rows)
    bits = (rows.reshape(len(rows), -1)[..., None] >> np.arange(depth)[::-1] & 1).astype(np.uint8)
    lines = np.packbits(bits.reshape(len(rows), -1), axis=1)
    header = struct.pack(">IIBBBBB", rows.shape[1], len(rows), depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"tRNS", key), chunk(b"IDAT", data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "key", "samples"),
    [
        (1, 0, [0, 1]),
        (1, 1, [0, 1]),
        (2, 0, [0, 1, 2, 3]),
        (2, 2, [0, 1, 2, 3]),
        (4, 0, [0, 5, 9, 15]),
        (4, 9, [0, 5, 9, 15]),
        (8, 0, [0, 1, 128, 255]),
        (8, 128, [0, 1, 128, 255]),
        (16, 0, [0, 1, 255, 256, 65535]),
        (16, 30000, [0, 30000, 30001, 29999, 65535]),
        (16, 65535, [65535, 65534, 255]),
        (16, 200, [200, 201, 200 << 8]),
    ],
)
def test_a_transparent_grey(depth, key, samples):
    """A sample equal to tRNS is transparent; others are v * 255 / (2**depth - 1), upper 8 of 16."""
    image = read_image(png([samples], depth, 0, struct.pack(">H", key)))
    grey = [value >> 8 if depth == 16 else value * 255 // (2**depth - 1) for value in samples]
    expected = [255 if value == key else each for value, each in zip(samples, grey, strict=True)]
    assert [image.getpixel((x, 0)) for x in range(len(samples))] == [(v, v, v) for v in expected]


@pytest.mark.parametrize(("depth", "bits"), [(2, 3), (4, 15), (8, 255)])
def test_of_a_key_only_the_bits_of_a_sample_count(depth, bits):
    """PNG 11.3.2.1: the others shall be 0, but if they are not, they are ignored, as by libpng."""
    image = read_image(png([[0, bits]], depth, 0, struct.pack(">H", 0xFF00 & ~bits)))
    assert image.getpixel((0, 0)) == WHITE
    shown = png([[0, bits], [bits, bits]], depth, 0, struct.pack(">H", 0xFF00 & ~bits | bits))
    assert read_image(shown).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("depth", "key", "others"),
    [
        (8, (10, 20, 30), [(10, 20, 31), (11, 20, 30), (10, 0, 30)]),
        (8, (0, 0, 0), [(0, 0, 1), (0, 1, 0), (1, 0, 0)]),
        (16, (0, 0, 30000), [(0, 0, 40000), (0, 30000, 0), (30000, 0, 30000)]),
        (16, (0, 0, 200), [(0, 0, 200 << 8), (0, 300, 0)]),  # less than 256, in 16 bits
        (16, (65535, 0, 258), [(65535, 0, 2 << 8), (65535, 256, 258)]),
    ],
)
def test_a_transparent_colour(depth, key, others):
    image = read_image(png([[key, *others]], depth, 2, struct.pack(">HHH", *key)))
    shift = depth - 8
    expected = [WHITE, *(tuple(value >> shift for value in each) for each in others)]
    assert [image.getpixel((x, 0)) for x in range(len(expected))] == expected


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_entries_of_a_palette(depth):
    palette = chunk(b"PLTE", bytes([0, 0, 255, 255, 0, 0]))
    image = read_image(png([[0, 1]], depth, 3, b"\xff\x00", palette))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 255), WHITE]
    half = read_image(png([[0, 1]], depth, 3, bytes([51]), palette))
    assert half.getpixel((0, 0)) == (204, 204, 255)
    assert half.getpixel((1, 0)) == RED


def test_a_transparent_colour_of_the_callers_image():
    image = filled("L", 7)
    image.info["transparency"] = 7
    assert read_image(image).getpixel((0, 0)) == WHITE
    deep = filled("I;16", 777)
    deep.info["transparency"] = 777
    assert read_image(deep).getpixel((0, 0)) == WHITE
    assert deep.info["transparency"] == 777
    loaded = Image.open(io.BytesIO(encoded(filled("RGB", RED), transparency=RED)))
    loaded.load()
    assert read_image(loaded).getpixel((0, 0)) == WHITE


def test_all_transparencies_are_laid_over_white_as_by_alpha_composite():
    values = np.arange(256, dtype=np.uint8)
    grey, alpha = np.meshgrid(values, values)
    image = Image.fromarray(np.stack([grey, grey[::-1], grey, alpha], axis=-1))
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(expected))


@pytest.mark.parametrize("size", [(3, 2**19), (2**20 + 3, 2), (1000, 2099)])
def test_the_parts_of_a_large_image_meet(size):
    """It is converted in parts of 2**20 pixels: none is left out, and each is in its place."""
    rows = np.arange(size[0] * size[1], dtype=np.uint32).reshape(size[::-1])
    image = Image.fromarray((rows % 65521).astype(np.uint16))
    grey = (rows % 65521 >> 8).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(image)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("mode", "value", "grey"),
    [
        ("I", 65535, 255),
        ("I", 65536, 255),
        ("I", 2**31 - 1, 255),
        ("I", -5, 0),
        ("I", 256, 1),
        ("I", 255, 0),
        ("F", 1.5, 255),
        ("F", -1.0, 0),
        ("F", 1.0, 255),
        ("F", 0.25, 64),
        ("F", float("inf"), 255),
    ],
)
def test_32_bits_a_sample(mode, value, grey):
    """Integers are taken for 16-bit ones, floats for 0 to 1; what is beyond is clipped."""
    assert read_image(filled(mode, value)).getpixel((0, 0)) == (grey,) * 3


# --- bounds ---------------------------------------------------------------------------------------


def claimed(size, mode="RGB", form="PNG", **options):
    """An image that was opened, and says that it has that size; to decode it would fail."""
    image = Image.open(io.BytesIO(encoded(filled(mode, 0), form, **options)))
    image._size = size

    def load():
        raise AssertionError("decoded")

    image.load = load
    return image


BIG = (8192, 8192)  # 64 Mi pixels


@pytest.fixture
def free(monkeypatch):
    """Sets the MiB that are free."""
    values = []
    monkeypatch.setattr("lcmcore.image.available_bytes", lambda: values[-1])
    return lambda mebibytes: values.append(mebibytes and mebibytes << 20)


@pytest.mark.parametrize(
    ("image", "needed"),
    [
        pytest.param(lambda: claimed(BIG), 64 * 8, id="RGB, copied for the caller"),
        pytest.param(lambda: claimed(BIG, "L"), 64 * 5, id="L"),
        pytest.param(lambda: claimed(BIG, "1"), 64 * 5, id="1"),
        pytest.param(lambda: claimed(BIG, "P"), 64 * 5, id="P"),
        pytest.param(lambda: claimed(BIG, "RGBA"), 64 * 8, id="RGBA"),
        pytest.param(lambda: claimed(BIG, "CMYK", "JPEG"), 64 * 8, id="CMYK"),
        pytest.param(lambda: claimed(BIG, "RGB", "JPEG", progressive=True), 64 * 10, id="JPEG"),
        pytest.param(lambda: claimed(BIG, "RGB", "WEBP"), 64 * 17, id="WebP"),
        pytest.param(lambda: claimed(BIG, "RGB", "JPEG2000"), 64 * 25, id="JPEG 2000"),
        pytest.param(lambda: claimed(BIG, "RGB", "TIFF"), 64 * 8, id="TIFF"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_decoded(image, needed, free):
    free(needed - 1)
    words = f"image: 8192x8192 pixels need {needed} MiB of memory, and {needed - 1} MiB are free"
    with pytest.raises(ImageError, match=words):
        read_image(image())
    free(needed)
    with pytest.raises(ImageError, match="decoded"):
        read_image(image())
    free(None)  # unknown
    with pytest.raises(ImageError, match="decoded"):
        read_image(image())


@pytest.mark.parametrize(
    ("mode", "options", "needed"),
    [
        ("RGB", {}, 64),
        ("RGB", {"transparency": RED}, 128),
        ("RGBA", {}, 128),
        ("L", {}, 80),
        ("I;16", {}, 96),
    ],
)
def test_a_file_needs_no_copy(mode, options, needed, free):
    data = encoded(Image.new(mode, (4096, 4096)), **options)
    if mode == "I;16" and Image.open(io.BytesIO(data)).mode == "I":
        needed = 128  # Pillow 10.1
    free(needed)
    assert read_image(data).size == (4096, 4096)
    free(needed - 1)
    with pytest.raises(ImageError, match=f"need {needed} MiB"):
        read_image(data)


def test_to_turn_an_image_takes_a_copy(free):
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    data = encoded(Image.new("RGB", (4096, 4096 + 64)), exif=tags)
    sizes = iter([65, 64])
    free(65)
    assert read_image(data).size == (4096 + 64, 4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lcmcore.image.available_bytes", lambda: next(sizes) << 20)
        with pytest.raises(ImageError, match=r"image: 4096x4160 pixels need 65 MiB .* 64 MiB"):
            read_image(data)


def test_an_image_that_is_decoded_needs_its_copy_alone(free):
    image = Image.new("RGB", (4096, 4096))
    free(64)
    assert read_image(image).size == (4096, 4096)
    free(63)
    with pytest.raises(ImageError, match="need 64 MiB of memory, and 63 MiB are free; make it"):
        read_image(image)


def test_small_images_do_not_ask_for_the_free_memory(monkeypatch):
    monkeypatch.setattr("lcmcore.image.available_bytes", lambda: pytest.fail("asked"))
    assert read_image(encoded(Image.new("RGB", (4096, 4095)))).size == (4096, 4095)


PEAK = """
import sys
from pathlib import Path
from lcmcore.image import read_image
from lcmcore.util.memory import peak_resident_bytes
image = read_image(sys.argv[1])
print(image.width * image.height, peak_resident_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "form", "orientation", "most"),
    [
        ("RGB", "PNG", 1, 4),
        ("RGB", "PNG", 6, 8),
        ("RGB", "JPEG", 1, 4),
        ("RGBA", "PNG", 1, 8),
        ("P", "PNG", 1, 5),
        ("L", "PNG", 6, 5),
        ("CMYK", "JPEG", 1, 8),
    ],
)
def test_peak_memory(mode, form, orientation, most, tmp_path):
    """Bytes a pixel, of 33 million, beside what an image of 64 pixels takes."""
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    peaks = []
    for name, size in (("small", (8, 8)), ("large", (8192, 4096))):
        path = tmp_path / name
        Image.new(mode, size).save(path, form, exif=tags)
        run = [sys.executable, "-c", PEAK, str(path)]
        output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        pixels, peak = map(int, output.split())
        peaks.append(peak)
    assert (peaks[1] - peaks[0]) / pixels < most + 0.7


def bomb_of_scans(count):
    data = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - data.count(b"\xff\xda")) + data[-2:]


@pytest.mark.parametrize("pillow", [False, True])
def test_many_scans_of_a_jpeg(pillow, monkeypatch):
    """Each of a few bytes costs as much time as the whole image; 16 are allowed at any size."""
    monkeypatch.setattr("lcmcore.image.MAX_PIXELS", 64 * 64)
    assert read_image(bomb_of_scans(16)).size == (64, 64)
    with pytest.raises(
        ImageError, match=r"^image: 17 scans of 64x64 pixels \(a decompression bomb"
    ):
        read_image(bomb_of_scans(17))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_scans_are_those_of_jpeg(form, monkeypatch):
    monkeypatch.setattr("lcmcore.image.MAX_PIXELS", 64 * 64)
    data = encoded(Image.new("L", (64, 64))) + b"\xff\xda" * 100
    assert read_image(data).size == (64, 64)


def tiff(count, tag=273, order="<", big=False):
    """The head of a TIFF whose first directory says that there are so many strips."""
    entry = "HHQQ" if big else "HHLL"
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "L", 8)
    rows = [(256, 4, 1, 8), (257, 4, 1, 8), (tag, 4, count, 8)]
    table = b"".join(struct.pack(order + entry, *row) for row in rows)
    return head + struct.pack(order + ("Q" if big else "H"), len(rows)) + table + bytes(8)


@pytest.mark.parametrize("tag", [273, 324])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_strips_of_a_tiff(tag, order, big):
    with pytest.raises(ImageError, match=r"^image: 262145 strips or tiles are more than 262144$"):
        read_image(tiff(2**18 + 1, tag, order, big))
    for data in (tiff(2**18, tag, order, big), tiff(1, tag, order, big)[:-20], tiff(9, 256)[:9]):
        with pytest.raises(ImageError) as caught:
            read_image(data)
        assert "strips" not in str(caught.value)


def test_text_with_many_comments():
    """Pillow takes 7 s for a megabyte of them."""
    body = b"\n1 1 255\n9 9 9\n"
    assert read_image(b"P3" + b"\n#" * 100 + body).getpixel((0, 0)) == (9, 9, 9)
    for magic in (b"P1", b"P2", b"P3"):
        with pytest.raises(ImageError, match="too many comments; save it in binary form"):
            read_image(magic + b"\n#" * 101 + body)
    with pytest.raises(ImageError, match="too long"):
        read_image(b"P3" + b"\n" * 2**24 + body)
    assert read_image(b"P6 1 1 255\n" + b"#" * 3 + b"#" * 200).getpixel((0, 0)) == (35, 35, 35)


# --- files that are no regular ones ---------------------------------------------------------------


def test_devices_are_not_read():
    for name in ("/dev/zero", "/dev/null", "/dev/full"):
        with pytest.raises(ImageError, match=f"^{name}: cannot be read: not a regular file$"):
            read_image(name)


def test_files_of_more_than_256_mebibytes(tmp_path):
    path = tmp_path / "sparse.png"
    path.write_bytes(encoded(filled("RGB", RED)))
    os.truncate(path, MAX_BYTES)
    assert read_image(path).getpixel((0, 0)) == RED
    for size in (MAX_BYTES + 1, 40 << 30):
        os.truncate(path, size)
        with pytest.raises(ImageError, match=rf"^{path}: cannot be read: larger than 256 MiB$"):
            read_image(path)


@pytest.mark.parametrize("extra", [0, 1])
def test_pipes_of_more_than_that(extra, monkeypatch):
    data = encoded(filled("RGB", RED))
    monkeypatch.setattr("lcmcore.image.MAX_BYTES", len(data) - extra)
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    try:
        if extra:
            with pytest.raises(ImageError, match="larger than"):
                read_image(f"/dev/fd/{read}")
        else:
            assert read_image(f"/dev/fd/{read}").getpixel((0, 0)) == RED
    finally:
        os.close(read)


def test_an_endless_pipe_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("lcmcore.image.MAX_BYTES", 2**20)
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        with pytest.raises(ImageError, match="larger than 1 MiB"):
            read_image(f"/dev/fd/{endless.stdout.fileno()}")
        endless.kill()


def test_a_pipe_that_is_written_slowly(monkeypatch):
    """The bytes come after the wait for a process that writes, and one by one."""
    monkeypatch.setattr("lcmcore.image._WRITER_SECONDS", 0.01)
    read, write = os.pipe()
    data = encoded(filled("RGB", RED))

    def drip():
        for place in range(len(data)):
            threading.Event().wait(0.1 if not place else 0.0005)
            os.write(write, data[place : place + 1])
        os.close(write)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert read_image(f"/dev/fd/{read}").getpixel((0, 0)) == RED
    finally:
        thread.join()
        os.close(read)


def test_a_fifo_that_nobody_writes_to(tmp_path, monkeypatch):
    monkeypatch.setattr("lcmcore.image._WRITER_SECONDS", 0.01)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="or empty"):
        read_image(tmp_path / "fifo")


def test_a_fifo_that_somebody_writes_to(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[encoded(filled("RGB", RED))])
    writer.start()
    try:
        assert read_image(path).getpixel((0, 0)) == RED
    finally:
        writer.join()


def test_a_reason_of_the_system(tmp_path):
    with pytest.raises(ImageError, match=f": cannot be read: {os.strerror(errno.ENAMETOOLONG)}$"):
        read_image(tmp_path / ("a" * 300))


# --- fits -----------------------------------------------------------------------------------------


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

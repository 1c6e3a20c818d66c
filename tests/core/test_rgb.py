"""Images of every mode to upright RGB: orientation, transparency, deep modes, memory."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from lcmcore import ImageError
from lcmcore.image import read_image
from tests.core.images import RED, WHITE, chunk, encoded, filled

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests


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
        (2, 1, [0, 1, 2, 3]),
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
    monkeypatch.setattr("lcmcore.image_files.rgb.available_bytes", lambda: values[-1])
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
        patch.setattr("lcmcore.image_files.rgb.available_bytes", lambda: next(sizes) << 20)
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
    monkeypatch.setattr("lcmcore.image_files.rgb.available_bytes", lambda: pytest.fail("asked"))
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

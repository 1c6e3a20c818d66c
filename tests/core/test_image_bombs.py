"""Images that would take Pillow minutes or gigabytes."""

import io
import struct
import zlib

import pytest
from PIL import Image

from lcmcore import ImageError
from lcmcore.image import read_image
from lcmcore.image_files.opening import open_image
from tests.core.images import chunk, encoded, filled

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests


def bomb_of_scans(count):
    data = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - data.count(b"\xff\xda")) + data[-2:]


@pytest.mark.parametrize("pillow", [False, True])
def test_many_scans_of_a_jpeg(pillow, monkeypatch):
    """Each of a few bytes costs as much time as the whole image; 16 are allowed at any size."""
    monkeypatch.setattr("lcmcore.image_files.bombs._MAX_SCANNED", 16 * 64 * 64)
    assert read_image(bomb_of_scans(16)).size == (64, 64)
    with pytest.raises(
        ImageError, match=r"^image: 17 scans of 64x64 pixels \(a decompression bomb"
    ):
        read_image(bomb_of_scans(17))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_scans_are_those_of_jpeg(form, monkeypatch):
    monkeypatch.setattr("lcmcore.image_files.bombs._MAX_SCANNED", 16 * 64 * 64)
    data = encoded(Image.new("L", (64, 64))) + b"\xff\xda" * 100
    assert read_image(data).size == (64, 64)


ORDERS = ["<", ">"]


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


# --- metadata -------------------------------------------------------------------------------------

MOST, PARTS = 2**24, 2**17
JPEG, PNG, GIF = (encoded(filled("L", 0), form) for form in ("JPEG", "PNG", "GIF"))
GIF_HEAD = 13 + 3 * 4  # bytes, with a palette of four colours


def with_segments(*segments):
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def with_chunks(*chunks):
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def with_extension(blocks, label=b"\xfe"):
    return GIF[:GIF_HEAD] + b"!" + label + blocks + b"\0" + GIF[GIF_HEAD:]


def segment(size, marker=0xE5):
    return bytes([0xFF, marker]) + size.to_bytes(2, "big") + bytes(size - 2)


def is_refused(data):
    try:
        assert open_image(io.BytesIO(data), "a name").size == (4, 4)
    except ImageError as error:
        assert str(error) == "a name: too much metadata; save it without"
        return True
    return False


def test_the_gif_of_these_tests_has_a_palette_of_four_colours():
    assert GIF[10] & 0x87 == 0x81
    assert GIF[GIF_HEAD : GIF_HEAD + 1] == b","


@pytest.fixture
def least(monkeypatch):
    """Sets the bounds: bytes, parts."""

    def set_bounds(size=MOST, parts=PARTS):
        monkeypatch.setattr("lcmcore.image_files.bombs._MAX_METADATA", size)
        monkeypatch.setattr("lcmcore.image_files.bombs._MAX_PARTS", parts)

    return set_bounds


def own_segments():
    """Sizes of what Pillow writes before the pixels, read by Pillow's own rule: marker, length."""
    sizes, place = [], 2
    while JPEG[place + 1] != 0xDA:
        sizes.append(int.from_bytes(JPEG[place + 2 : place + 4], "big"))
        place += 2 + sizes[-1]
    return sizes


@pytest.mark.parametrize("marker", [0xC4, 0xE0, 0xE1, 0xED, 0xEF, 0xFE])
def test_segments_of_a_jpeg(marker, least):
    """Their sizes count up to the first scan, with the length's own two bytes."""
    data = with_segments(segment(40, 0xE2), segment(50, marker)) if marker != 0xC4 else JPEG
    total = sum(own_segments()) + (90 if marker != 0xC4 else 0)
    least(total)
    assert not is_refused(data + segment(999))
    least(total - 1)
    assert is_refused(data)


def test_segments_are_counted(least):
    count = len(own_segments()) + 3
    data = with_segments(segment(2), segment(2), segment(2))
    least(parts=count)
    assert not is_refused(data)
    least(parts=count - 1)
    assert is_refused(data)


@pytest.mark.parametrize(
    "junk", [b"\xff", b"\xff\0", b"\xff\xd0", b"\xff\xd9", b"\xff\xc8", b"\xff\xf0", b"\xff\xfd"]
)
def test_bytes_between_segments(junk, least):
    """Pillow goes over them one by one: fill bytes, and markers without a length."""
    count = len(own_segments()) + 5 * len(junk)
    first = segment(20)
    data = with_segments(first, junk * 5)
    least(parts=count + 1)
    assert not is_refused(data)
    least(parts=count)
    assert is_refused(data)


def test_a_segment_without_room_for_its_length(least):
    data = with_segments(b"\xff\xe5\0\0", b"\xff\xe5\0\1")
    count = len(own_segments()) + 2
    least(sum(own_segments()) + 4, count)
    assert not is_refused(data)
    least(parts=count - 1)
    assert is_refused(data)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"prVt"])
def test_chunks_of_a_png(kind, least):
    """Text and EXIF count, before and behind the pixels; other chunks may be large."""
    body = {b"zTXt": b"a\0\0" + zlib.compress(b"b"), b"iTXt": b"a\0\0\0\0\0b"}.get(kind, b"a\0b")
    before, behind = chunk(kind, body), chunk(kind, body)
    data = with_chunks(before)[:-12] + behind + PNG[-12:]
    total = 0 if kind == b"prVt" else 2 * len(body)
    least(total)
    assert not is_refused(data + chunk(b"tEXt", b"behind the end"))
    least(total - 1)
    assert is_refused(data)


def test_chunks_are_counted(least):
    data = with_chunks(chunk(b"prVt", b""), chunk(b"prVt", b"abc"))
    count = 2 + sum(PNG.count(kind) for kind in (b"IHDR", b"PLTE", b"IDAT"))
    least(parts=count)
    assert not is_refused(data)
    least(parts=count - 1)
    assert is_refused(data)


def test_blocks_of_a_gif(least):
    """Up to the first image; each extension counts one byte more."""
    data = with_extension(b"\5abcde\3abc") + b"!\xfe\3abc\0"
    least(1 + 5 + 3)
    assert not is_refused(data)
    least(1 + 5 + 3 - 1)
    assert is_refused(data)


@pytest.mark.parametrize("junk", [b"", b"x"])
def test_blocks_are_counted(junk, least):
    data = with_extension(b"\1a\1b\1c")
    data = data[:GIF_HEAD] + junk + data[GIF_HEAD:]
    least(parts=4 + len(junk))
    assert not is_refused(data)
    least(parts=3 + len(junk))
    assert is_refused(data)


@pytest.mark.parametrize("colours", [2, 4, 256])
def test_blocks_behind_the_palette(colours, least):
    """Its bytes are none, whatever they are."""
    image = filled("P", 1)
    image.putpalette(b"!,;" * colours)
    image.putdata([place * colours // 16 for place in range(16)])
    data = encoded(image, "GIF", comment=b"a" * 7)
    start = 13 + 3 * (2 << (data[10] & 7))
    assert data[start : start + 2] == b"!\xfe"
    least(8)
    assert not is_refused(data)
    least(7)
    assert is_refused(data)


def test_blocks_of_a_gif_without_a_palette(least):
    flags = bytes([GIF[10] & 0x7F])
    data = GIF[:10] + flags + GIF[11:13] + b"!\xfe\7aaaaaaa\0" + GIF[GIF_HEAD:]
    least(8)
    assert not is_refused(data)
    least(7)
    assert is_refused(data)


@pytest.mark.parametrize("end", [b"", b";", b"!", b"!\xfe", b"!\xfe\xff"])
def test_a_gif_that_ends_early(end):
    with pytest.raises(ImageError, match=r"^image: (not an image|cannot be read)"):
        read_image(GIF[:GIF_HEAD] + end)
    with pytest.raises(ImageError, match=r"^image: (not an image|cannot be read)"):
        read_image(GIF[:8])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: with_segments(segment(65535, 0xE1) * 257), id="APP1"),
        pytest.param(lambda: with_segments(segment(2) * PARTS), id="empty segments"),
        pytest.param(lambda: with_segments(b"\xff" * PARTS), id="fill bytes"),
        pytest.param(lambda: with_chunks(chunk(b"tEXt", b"a\0" + bytes(MOST))), id="text"),
        pytest.param(lambda: with_chunks(chunk(b"IDAT", b"") * PARTS), id="empty chunks"),
        pytest.param(lambda: with_extension(b"\1a" * PARTS), id="blocks of a byte"),
        pytest.param(lambda: with_extension((b"\xff" + bytes(255)) * 65794), id="comment"),
    ],
)
def test_too_much_metadata(data):
    """Pillow takes 17 s for 57 MB of APP1, 42 s and 2.6 GB for 60 MB of blocks of a byte."""
    assert is_refused(data())


def test_much_metadata_is_read():
    """As phones write it: depth maps, and a second image as XMP."""
    text = chunk(b"tEXt", b"a\0" + b"b" * (2**23))
    for data in (with_segments(segment(65535, 0xE1) * 128), with_chunks(text, text[:0])):
        assert not is_refused(data)

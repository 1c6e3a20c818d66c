"""JPEG and WebP files with a record in EXIF."""

import contextlib
import json
import struct

import numpy as np
import pytest
from PIL import Image

from lcmcore.errors import ImageError
from lcmcore.exif import encode_with_exif
from lcmcore.png import encode_png, is_ours, read_record

RECORD = {"Software": "lcmcore 0.1.0", "prompt": "a lake\nand\ta hill, 湖 🏔️", "seed": "7"}
SUFFIXES = [".jpg", ".JPEG", ".webp"]


@pytest.fixture
def image():
    rows, columns = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([rows * 5, columns * 3, rows + columns], 2).astype(np.uint8))


def write(path, image, record=RECORD):
    path.write_bytes(encode_with_exif(image, record, path.suffix))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_record_comes_back(suffix, tmp_path, image):
    path = write(tmp_path / f"a{suffix}", image)
    assert read_record(path) == RECORD
    assert is_ours(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_image_is_of_the_format_and_nearly_the_same(suffix, tmp_path, image):
    with Image.open(write(tmp_path / f"a{suffix}", image)) as found:
        assert found.format == ("WEBP" if suffix == ".webp" else "JPEG")
        difference = np.abs(np.asarray(found, float) - np.asarray(image, float))
    assert difference.mean() < 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_programs_find_it_where_exif_has_it(suffix, tmp_path, image):
    """By Pillow, from the tags' numbers: EXIF 2.32, tables 3 and 7."""
    with Image.open(write(tmp_path / f"a{suffix}", image)) as found:
        exif = found.getexif()
        comment = exif.get_ifd(0x8769)[0x9286]
    assert exif[0x0131] == "lcmcore 0.1.0"
    assert comment[:8] == b"UNICODE\0"
    assert json.loads(comment[8:].decode("utf-16-be")) == RECORD


def test_a_lone_surrogate_is_replaced_as_in_a_png(tmp_path, image):
    record = {**RECORD, "prompt": "a \udcff lake"}
    (tmp_path / "a.png").write_bytes(encode_png(image, record))
    assert read_record(write(tmp_path / "a.jpg", image, record)) == read_record(tmp_path / "a.png")


def test_a_prompt_that_is_too_long_for_exif(image):
    with pytest.raises(ImageError, match="the prompt is too long for the EXIF of an image: write"):
        encode_with_exif(image, {**RECORD, "prompt": "lake " * 7000}, ".jpg")


def test_a_pillow_without_webp(image, monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.SAVE, "WEBP")
    with pytest.raises(ImageError, match="this Pillow cannot write WEBP: write a PNG"):
        encode_with_exif(image, RECORD, ".webp")


def exif_of(comment, software=b"lcmcore 0.1.0"):
    exif = Image.Exif()
    exif[0x0131] = software.decode()
    exif[0x8769] = {0x9286: comment}
    return exif


def unicode(text):
    return b"UNICODE\0" + text.encode("utf-16-be")


COMMENTS = {
    "no record": unicode("Dear diary,"),
    "no JSON object": unicode('["lcmcore 0.1.0"]'),
    "no text": unicode('{"Software": 1, "prompt": 2}'),
    "deep": unicode("[" * 10_000),
    "half a character": unicode('{"a": 1}') + b"\0",
    "ASCII": b"ASCII\0\0\0Dear diary,",
    "empty": b"",
}


@pytest.mark.parametrize("suffix", ["JPEG", "WEBP"])
@pytest.mark.parametrize("name", COMMENTS)
def test_comments_of_others_are_no_records(name, suffix, tmp_path, image):
    path = tmp_path / "a"
    image.save(path, suffix, exif=exif_of(COMMENTS[name]))
    assert not is_ours(path)
    with pytest.raises(ImageError, match="holds no record of how it was made"):
        read_record(path)


def test_what_is_no_text_in_a_record_is_left_out(tmp_path, image):
    record = unicode(json.dumps({**RECORD, "seed": [7], "steps": None}))
    image.save(tmp_path / "a.jpg", exif=exif_of(record))
    assert read_record(tmp_path / "a.jpg") == {k: v for k, v in RECORD.items() if k != "seed"}


def test_a_record_of_megabytes_is_refused(tmp_path, image):
    """In a WebP, whose chunk of EXIF has no bound."""
    path = tmp_path / "a.webp"
    image.save(path, exif=exif_of(unicode(json.dumps({**RECORD, "prompt": "x" * 2**20}))))
    with pytest.raises(ImageError, match="the comment of its EXIF is longer than 1 MiB"):
        read_record(path)
    assert not is_ours(path)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_damage_is_reported(suffix, tmp_path, image):
    """Each byte of the first hundred changed, and each length of file: nothing but ImageError."""
    content = write(tmp_path / f"a{suffix}", image).read_bytes()
    damaged = [content[:cut] for cut in range(0, 400, 7)]
    for place in range(100):
        damaged += [content[:place] + bytes([value]) + content[place + 1 :] for value in (0, 255)]
    for each in damaged:
        (tmp_path / "b").write_bytes(each)
        with contextlib.suppress(ImageError):
            assert read_record(tmp_path / "b").keys() <= RECORD.keys()


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    path = tmp_path / "a.webp"
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 2**29) + b"WEBPVP8X")
        file.truncate(2**29)
    with pytest.raises(ImageError, match="larger than 256 MiB"):
        read_record(path)

"""Records in PNG files: ours, those of strangers, damaged ones, and files that are none.

The files are laid out byte by byte here as the PNG specification says, or written by Pillow.
"""

import io
import os
import struct
import time
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import lcmcore
from lcmcore.call import Result
from lcmcore.errors import ImageError
from lcmcore.fake import FakeRuntime
from lcmcore.model_digest import model_digest
from lcmcore.png import encode_png, is_ours, make_record, model_origin, read_record

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
RECORD = {"Software": "lcmcore 0.1.0", "prompt": "a lake\nat night", "seed": "7"}


def chunk(kind, content=b""):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def text(keyword, content):
    return chunk(b"tEXt", keyword + b"\0" + content)


HEADER = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
PIXELS = chunk(b"IDAT", b"no pixels, and never decoded")
OURS = text(b"Software", b"lcmcore 0.1.0") + text(b"prompt", b"a lake")
END = chunk(b"IEND")


@pytest.fixture
def png(tmp_path):
    """Writes the parts to a file."""

    def write(*parts):
        path = tmp_path / "a.png"
        path.write_bytes(b"".join(parts))
        return path

    return write


def test_what_was_written_is_read(png):
    image = Image.new("RGB", (3, 2), "red")
    path = png(encode_png(image, RECORD))
    assert read_record(path) == RECORD
    assert list(read_record(path)) == list(RECORD)
    assert is_ours(path)
    with Image.open(path) as read:
        assert read.tobytes() == image.tobytes()


def test_a_png_takes_half_the_time_of_zlibs_default_and_about_its_space():
    """Measured on the pictures of the documentation: a quarter, and 1 to 8 % more."""
    with Image.open(PICTURES / "masks.jpg") as file:
        image = file.convert("RGB")

    def usual():
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    def seconds(encode):
        start = time.process_time()
        encode()
        return time.process_time() - start

    ours = partial(encode_png, image, RECORD)
    assert len(ours()) < 1.1 * len(usual())
    assert min(map(seconds, [ours] * 5)) < 0.5 * min(map(seconds, [usual] * 5))


@pytest.mark.parametrize("after_idat", [False, True])
def test_every_kind_of_text_that_pillow_writes(after_idat, png):
    """Also behind the pixels, where tools that rewrite a PNG may put it."""
    chunks = PngImagePlugin.PngInfo()
    given = {
        "Software": ("tEXt", "lcmcore 0.1.0"),
        "prompt": ("iTXt", "湖 \U0001f30a"),
        "latin": ("tEXt", "Gr\xfc\xdfe"),
        "deflated": ("zTXt", "caf\xe9 " * 999),
        "both": ("iTXt zip", "озеро " * 999),
        "empty": ("tEXt", ""),
    }
    for keyword, (kind, content) in given.items():
        data = {
            "tEXt": keyword.encode() + b"\0" + content.encode("latin-1", "replace"),
            "zTXt": keyword.encode()
            + b"\0\0"
            + zlib.compress(content.encode("latin-1", "replace")),
            "iTXt": keyword.encode() + b"\0\0\0de\0Titel\0" + content.encode(),
            "iTXt zip": keyword.encode() + b"\0\1\0\0\0" + zlib.compress(content.encode()),
        }
        chunks.add(kind[:4].encode(), data[kind], after_idat=after_idat)
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "PNG", pnginfo=chunks)
    path = png(buffer.getvalue())
    assert read_record(path) == {keyword: content for keyword, (_, content) in given.items()}
    with Image.open(path) as image:  # Pillow's own reading of the same file
        image.load()
        assert read_record(path) == image.text
    assert is_ours(path)


def test_pixels_are_not_decoded(png):
    assert read_record(png(HEADER, OURS, PIXELS, END))["prompt"] == "a lake"


def test_of_two_chunks_with_one_keyword_the_first_counts(png):
    path = png(HEADER, OURS, text(b"Software", b"GIMP"), text(b"prompt", b"a hill"), END)
    assert read_record(path) == {"Software": "lcmcore 0.1.0", "prompt": "a lake"}
    assert is_ours(path)
    path = png(HEADER, text(b"Software", b"GIMP"), OURS, END)
    with pytest.raises(ImageError, match="lcmcore did not write it"):
        read_record(path)
    assert not is_ours(path)


def test_what_is_no_utf8_is_replaced(png):
    path = png(HEADER, OURS, chunk(b"iTXt", b"a\0\0\0\0\0x\xff"), END)
    assert read_record(path)["a"] == "x\ufffd"


NO_PNG = "not an image with a record of how it was made; lcmcore did not write it"
NO_RECORD = "holds no record of how it was made; lcmcore did not write it"
DAMAGED = "a text chunk of the PNG is damaged"
NOT_OURS = {
    "text": (b"Dear diary,", NO_PNG),
    "empty": (b"", NO_PNG),
    "almost a PNG": (SIGNATURE[:7], NO_PNG),
    "no record": (HEADER + PIXELS + END, NO_RECORD),
    "another program": (HEADER + text(b"Software", b"GIMP") + END, NO_RECORD),
    "a similar program": (HEADER + text(b"Software", b"lcmcores 1") + END, NO_RECORD),
    "another keyword": (HEADER + text(b"software", b"lcmcore 1") + END, NO_RECORD),
    "cut before it": (HEADER + PIXELS[:9], "the PNG is cut off"),
    "cut within it": (HEADER + OURS[:20], "the PNG is cut off"),
    "no chunks": (SIGNATURE + bytes(99), "the PNG is damaged"),
    "damaged text": (HEADER + OURS.replace(b"lcm", b"lcn"), DAMAGED),
    "damaged checksum": (HEADER + OURS[:30] + b"xxxx" + END, DAMAGED),
}


@pytest.mark.parametrize(("content", "words"), NOT_OURS.values(), ids=NOT_OURS.keys())
def test_files_that_are_not_ours(content, words, png):
    path = png(content)
    with pytest.raises(ImageError) as caught:
        read_record(path)
    assert str(caught.value) == f"{path}: {words}"
    assert not is_ours(path)


def test_a_record_without_a_prompt_is_none(png):
    """Though lcmcore wrote the file, which may be overwritten."""
    path = png(HEADER, text(b"Software", b"lcmcore 1"), END)
    with pytest.raises(ImageError) as caught:
        read_record(path)
    assert str(caught.value) == f"{path}: {NO_RECORD}"
    assert is_ours(path)


def test_a_jpeg_is_not_ours(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 2)).save(path, "JPEG")
    assert not is_ours(path)
    with pytest.raises(ImageError, match="holds no record of how it was made"):
        read_record(path)
    Image.new("RGB", (2, 2)).save(path, "GIF")
    assert not is_ours(path)
    with pytest.raises(ImageError, match="not an image with a record"):
        read_record(path)


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in {
        "nothing": "no such file or folder",
        "fifo": "not a regular file",
        "loop": "not an image that can be read: Too many",
        "": "not an image that can be read: Is a directory",
        "n" * 5000: "not an image that can be read: File name too long",
        "a\0b": "embedded null",
    }.items():
        with pytest.raises(ImageError, match=words):
            read_record(tmp_path / name)
        assert not is_ours(tmp_path / name)


def test_a_cut_image_is_ours_but_its_record_is_not_read(png):
    """It may be overwritten, as a batch does after a loss of power."""
    for length in range(len(HEADER + OURS), len(HEADER + OURS + PIXELS) + 8):
        path = png((HEADER + OURS + PIXELS + END)[:length])
        assert is_ours(path)
        with pytest.raises(ImageError, match="cut off"):
            read_record(path)


LIMIT = 2**20


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("kind", ["plain", "zTXt", "iTXt", "two"])
def test_texts_are_bounded_whatever_they_claim(kind, excess, png):
    """1 MiB in all, keywords and what is compressed counted at the larger size."""
    content = b"x" * (LIMIT - len(OURS) + 2 * 12 + excess)
    parts = {
        "plain": [chunk(b"tEXt", b"a\0" + content[2:])],
        "two": [chunk(b"tEXt", b"a\0" + content[5000:]), chunk(b"tEXt", b"b\0" + content[:4996])],
        "zTXt": [chunk(b"zTXt", b"a\0\0" + zlib.compress(content))],
        "iTXt": [chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(content))],
    }
    path = png(HEADER, OURS, *parts[kind], END)
    if excess:
        with pytest.raises(ImageError, match=r"the texts of the PNG are longer than 1 MiB$"):
            read_record(path)
    else:
        assert len(read_record(path)["a"]) >= len(content) - 5000
    assert is_ours(path)


def test_a_decompression_bomb_is_not_unpacked(png):
    """Its 61 MiB are never in memory."""
    bomb = zlib.compress(bytes(2**26), 1)
    path = png(HEADER, OURS, chunk(b"zTXt", b"a\0\0" + bomb), END)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"longer than 1 MiB$"):
        read_record(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_damaged_compression(png):
    path = png(HEADER, OURS, chunk(b"zTXt", b"a\0\0no zlib"), END)
    with pytest.raises(ImageError, match="a text chunk of the PNG is damaged: Error -3"):
        read_record(path)


@pytest.mark.parametrize("spare", [0, 1])
def test_chunks_are_counted(spare, png):
    """2**18, of which these files need four beside the empty ones."""
    path = png(HEADER, OURS, chunk(b"aaAa") * (2**18 - 3 - spare), END)
    if spare:
        assert read_record(path)["prompt"] == "a lake"
    else:
        with pytest.raises(ImageError, match=r"a\.png: the PNG has too many chunks$"):
            read_record(path)


def test_a_chunk_that_claims_gigabytes_is_passed_over_unread(png):
    """Also a sparse file that holds what it claims."""
    path = png(HEADER, OURS, struct.pack(">I4s", 2**31 - 1, b"aaAa"))
    with pytest.raises(ImageError, match="cut off"):
        read_record(path)
    with path.open("ab") as file:
        file.truncate(len(HEADER + OURS) + 8 + 2**31 - 1 + 4)
        file.seek(0, os.SEEK_END)
        file.write(END)
    assert read_record(path)["prompt"] == "a lake"
    path = png(HEADER, struct.pack(">I4s", 2**31 - 1, b"tEXt"))
    with pytest.raises(ImageError, match=r"longer than 1 MiB$"):
        read_record(path)


SETTINGS = {
    "width": 96,
    "height": 64,
    "negative_prompt": "blurry",
    "num_inference_steps": 4,
    "guidance_scale": 8.5,
    "strength": 0.75,
    "strength_mode": "truncate",
    "latent_sampling": "mean",
    "fit": "stretch",
    "num_images_per_prompt": 2,
}


def test_a_record_names_everything_as_the_command_does():
    """Of the first image; what the command has no option for is left out, and what is None.

    The size is the call's: an image that a crop was laid over has another one.
    """
    images = [Image.new("RGB", (960, 640)), Image.new("RGB", (8, 8))]
    latents = np.zeros((2, 4, 8, 12), np.float32)
    result = Result(images, [7, 8], latents, {}, {**SETTINGS, "fit": None}, {})
    assert make_record("a lake", result, {"model": Path("m"), "config": None}) == {
        "Software": f"lcmcore {lcmcore.__version__}",
        "prompt": "a lake",
        "seed": "7",
        "size": "96x64",
        "negative-prompt": "blurry",
        "steps": "4",
        "guidance": "8.5",
        "strength": "0.75",
        "strength-mode": "truncate",
        "latent-sampling": "mean",
        "model": "m",
    }
    result = Result(images, [7, 8], latents, {}, SETTINGS, {})
    assert make_record("a lake", result, {})["fit"] == "stretch"
    masked = {**SETTINGS, "padding_mask_crop": 8, "overlay": True}
    record = make_record("a lake", Result(images, [7, 8], latents, {}, masked, {}), {})
    assert (record["mask-crop"], record["overlay"]) == ("8", "True")


@pytest.mark.parametrize(
    ("runtime", "named"),
    [
        ("auto", (None, None)),
        ("onnx", ("onnx", None)),
        (FakeRuntime(), ("fake", None)),
        ({"default": "onnx"}, ("onnx", None)),
        ({"default": "auto", "unet": "rknn"}, (None, "unet=rknn")),
        ({"unet": "rknn", "vae_decoder": FakeRuntime()}, (None, "unet=rknn vae_decoder=fake")),
    ],
)
def test_where_an_image_came_from(runtime, named, tmp_path, monkeypatch):
    """Paths from any folder; the digest of a folder that is none is not known."""
    monkeypatch.chdir(tmp_path)
    options = {"precision": "bfloat16", "threads": 2, "config": "c"}
    assert model_origin("m", runtime, "c", Path("t"), options) == {
        "model": str(tmp_path / "m"),
        "model-digest": None,
        "config": str(tmp_path / "c"),
        "tokenizer": str(tmp_path / "t"),
        "runtime": named[0],
        "component-runtime": named[1],
        "device": None,
        "precision": "bfloat16",
    }


def test_the_demo_model_goes_by_its_name():
    by_default, by_folder = (model_origin(each, "auto") for each in (None, lcmcore.demo_dir()))
    assert by_default == by_folder
    assert by_default["model"] == "demo"
    assert by_default["model-digest"] == model_digest(None, None, None)
    assert by_default["config"] is by_default["tokenizer"] is None


def test_only_the_keyword_of_the_program_says_whose_a_file_is(png):
    for keyword in (b"Comment", b"software", b"Title"):
        path = png(HEADER, text(keyword, b"lcmcore 0.1.0"), text(b"prompt", b"a lake"), PIXELS, END)
        assert not is_ours(path)

"""PNG files with a record in their text chunks: what made the image, by the command's options."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image, PngImagePlugin

import lcmcore
from lcmcore.bundle import DEMO, demo_dir
from lcmcore.errors import BundleError, ImageError, reason_of
from lcmcore.exif import exif_entries, has_exif
from lcmcore.model_digest import model_digest
from lcmcore.util.files import open_regular

if TYPE_CHECKING:
    from lcmcore.call import Result
    from lcmcore.runtime_choice import RuntimeChoice

SOFTWARE = "Software"  # the PNG specification's keywords: for the program
_DESCRIPTION = "Description"  # and for what the image is

ARITHMETIC = ("device", "precision")  # options of runtimes that decide how a network computes

_WRITER = "lcmcore "  # and its version
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT = 2**20  # bytes; records have some hundred
_MAX_CHUNKS = 2**18
_DAMAGED = "a text chunk of the PNG is damaged"
_TOO_LONG = f"the texts of the PNG are longer than {_MAX_TEXT // 2**20} MiB"

# Keywords of a call, and what the command calls them.
_NAMES = {
    "negative_prompt": "negative-prompt",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "strength": "strength",
    "strength_mode": "strength-mode",
    "latent_sampling": "latent-sampling",
    "fit": "fit",
    "padding_mask_crop": "mask-crop",
    "overlay": "overlay",
}


def make_record(
    prompt: str, result: Result[list[Image.Image]], origin: Mapping[str, Any]
) -> dict[str, str]:
    """What is needed to reproduce the first image of a result.

    `origin` says where model, init image and mask came from. What is None is left out. The size is
    the call's: with a crop the image has another one.
    """
    width, height = result.settings["width"], result.settings["height"]
    record = {
        SOFTWARE: f"lcmcore {lcmcore.__version__}",
        "prompt": prompt,
        "seed": result.seeds[0],
        "size": f"{width}x{height}",
        **{name: result.settings.get(key) for key, name in _NAMES.items()},
        "tile": result.tile,
        **origin,
    }
    return {key: str(value) for key, value in record.items() if value is not None}


def model_origin(
    model: str | Path | None,
    runtime: RuntimeChoice,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    options: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """The entries of a record that name the model and its runtimes, from any folder.

    The demo model, None or its folder, goes by its name. Of the runtimes' `options` those are
    recorded that change the image by more than rounding.
    """
    choice = dict(runtime) if isinstance(runtime, Mapping) else {"default": runtime}
    names = {key: each if isinstance(each, str) else each.name for key, each in choice.items()}
    default = names.pop("default", "auto")
    return {
        "model": DEMO if model is None or Path(model) == demo_dir() else absolute(model),
        "model-digest": _digest(model, config, tokenizer),
        "config": config and absolute(config),
        "tokenizer": tokenizer and absolute(tokenizer),
        "runtime": None if default == "auto" else default,
        "component-runtime": " ".join(map("=".join, names.items())) or None,
        **{key: options.get(key) for key in ARITHMETIC},
    }


def derived_record(what: str) -> dict[str, str]:
    """The record of what no command reproduces alone, such as a contact sheet."""
    return {SOFTWARE: f"{_WRITER}{lcmcore.__version__}", _DESCRIPTION: what}


def absolute(path: str | Path) -> str:
    """A path that is right in any folder, its links as they are."""
    return os.path.abspath(path)  # noqa: PTH100 - which resolves no link


def _digest(
    model: str | Path | None, config: str | Path | None, tokenizer: str | Path | None
) -> str | None:
    """None where a file cannot be read, which the image may not have needed."""
    try:
        return model_digest(model, config, tokenizer)
    except BundleError:
        return None


def encode_png(image: Image.Image, record: Mapping[str, str]) -> bytes:
    """The image as PNG with each entry of the record as a text chunk (iTXt, UTF-8).

    Compressed by zlib's Z_RLE, which is meant for PNG: four times as fast as its default; files of
    painted pictures are 1 to 8 % larger, of flat ones, which are small, up to a fifth.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, text in record.items():
        chunks.add_itxt(key, text.encode("utf-8", "replace").decode())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def png_size(png: bytes) -> tuple[int, int]:
    """(width, height) of a PNG that `encode_png` made, by its first chunk, IHDR."""
    width, height = struct.unpack_from(">II", png, 16)
    return width, height


def read_record(path: Path) -> dict[str, str]:
    """The record of an image that lcmcore made (PNG, JPEG, WebP); raises ImageError for any other.

    No pixels are decoded. Of two chunks with one keyword the first counts.
    """
    record: dict[str, str] = {}
    try:
        with open_regular(path) as file:
            for keyword, text in _entries(file, path):
                record.setdefault(keyword, text)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise ImageError(f"{path}: not an image that can be read: {reason_of(error)}") from error
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from None
    ours = record.get(SOFTWARE, "").startswith(_WRITER)
    if ours and _DESCRIPTION in record and "prompt" not in record:
        raise ImageError(f"{path}: holds no record of how it was made: {record[_DESCRIPTION]}")
    if not ours or "prompt" not in record:
        raise ImageError(f"{path}: holds no record of how it was made; lcmcore did not write it")
    return record


def is_ours(path: Path) -> bool:
    """Whether lcmcore wrote the file, whole or cut off after its record: it may be overwritten.

    False for a file that cannot be read. Follows symbolic links.
    """
    try:
        with open_regular(path) as file:
            writers = (text for keyword, text in _entries(file, path) if keyword == SOFTWARE)
            return next(writers, "").startswith(_WRITER)
    except (OSError, ValueError, ImageError):
        return False


def _entries(file: BinaryIO, path: Path) -> Iterator[tuple[str, str]]:
    """What the file says of itself: the texts of a PNG, the record in a JPEG's or WebP's EXIF."""
    head = file.read(16)
    file.seek(0)
    return exif_entries(file, str(path)) if has_exif(head) else _texts(file)


# Pillow 13 has no reader for this: it finds the texts behind the pixels by decoding these, reads
# one of any length, takes damaged compression for an empty text, and of two texts keeps the last.
def _texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Keyword and text of each text chunk, in the file's order; other chunks are passed over.

    At most 1 MiB of text and 2**18 chunks are read, whatever the file claims. Raises OSError, and
    ValueError that says what is wrong. PNG specification, third edition, sections 5.2 to 5.4.
    """
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        raise ValueError("not an image with a record of how it was made; lcmcore did not write it")
    room = _MAX_TEXT
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack(">I4s", _read(file, 8))
        if not kind.isalpha():
            raise ValueError("the PNG is damaged")
        if kind == b"IEND":
            return
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, os.SEEK_CUR)  # and the checksum
            continue
        if length > room:
            raise ValueError(_TOO_LONG)
        content = _read(file, length)
        if zlib.crc32(kind + content) != int.from_bytes(_read(file, 4), "big"):
            raise ValueError(_DAMAGED)
        keyword, text = _decode(kind, content, room)
        room -= max(length, len(text))
        yield keyword, text
    raise ValueError("the PNG has too many chunks")


def _read(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("the PNG is cut off")
    return content


def _decode(kind: bytes, content: bytes, limit: int) -> tuple[str, str]:
    """Keyword and text of a tEXt, zTXt or iTXt chunk: sections 11.3.3.2 to 11.3.3.4."""
    keyword, _, rest = content.partition(b"\0")
    encoding, compressed = "latin-1", kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]  # the method, of which there is one
    elif kind == b"iTXt":
        encoding, compressed = "utf-8", rest[:1] == b"\1"
        _language, _, rest = rest[2:].partition(b"\0")
        _keyword, _, rest = rest.partition(b"\0")  # translated
    text = _inflate(rest, limit) if compressed else rest
    return keyword.decode("latin-1"), text.decode(encoding, "replace")


def _inflate(content: bytes, limit: int) -> bytes:
    try:
        text = zlib.decompressobj().decompress(content, limit + 1)
    except zlib.error as error:
        raise ValueError(f"{_DAMAGED}: {error}") from error
    if len(text) > limit:
        raise ValueError(_TOO_LONG)
    return text

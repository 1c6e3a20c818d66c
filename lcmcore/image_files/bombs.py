"""Images whose bytes say that Pillow will take minutes or gigabytes for them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import IO

from PIL import Image

from lcmcore.errors import ImageError

_MAX_STRIPS = 2**18  # of a TIFF: Pillow needs 0.5 kB for each
_MAX_TEXT = 2**24  # bytes of a PPM, PGM or PBM in decimal text: Pillow reads 5 MB in a second
_MAX_COMMENTS = 100  # in such text: Pillow takes seconds for thousands
_MAX_SCANNED = 2**31  # pixels in all scans of a JPEG: 16 of the largest image
_MAX_METADATA = 2**24  # bytes of EXIF, XMP, text: of 58 MB Pillow makes 1.6 GB, or takes 17 s
_MAX_PARTS = 2**17  # segments, chunks or blocks: Pillow takes more than a second for so many
_WITH_LENGTH = {*range(0xC0, 0xFF)} - {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers


def require_cheap_file(stream: IO[bytes], head: bytes, name: str) -> None:
    """Raise ImageError for a file that costs much to open; `head` are its first 16 bytes."""
    _require_few_strips(stream, head, name)
    _require_short_text(stream, head, name)
    _require_little_metadata(stream, head, name)


def require_few_scans(image: Image.Image, stream: IO[bytes], name: str) -> None:
    """Raise ImageError for a JPEG of so many scans that decoding it takes minutes.

    Each goes over the whole image, and may have 200 bytes; usual are 1, or 10 if progressive.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    position = stream.tell()
    stream.seek(0)
    scans = stream.read().count(b"\xff\xda")  # within a scan 0xff is followed by 0
    stream.seek(position)
    if scans * image.width * image.height > _MAX_SCANNED:
        raise ImageError(
            f"{name}: {scans} scans of {image.width}x{image.height} pixels (a decompression bomb?)"
        )


def _require_few_strips(stream: IO[bytes], head: bytes, name: str) -> None:
    """Raise ImageError for a TIFF with so many strips that Pillow's list of them fills memory."""
    if head[:2] in (b"II", b"MM") and head[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
        try:
            count = _strips(stream, head)
        except (struct.error, OSError, ValueError, OverflowError):
            return  # Pillow says what is wrong
        if count > _MAX_STRIPS:
            raise ImageError(f"{name}: {count} strips or tiles are more than {_MAX_STRIPS}")


def _strips(stream: IO[bytes], head: bytes) -> int:
    """How many strips or tiles the first directory of a TIFF has (TIFF 6.0, section 2; BigTIFF)."""
    order = "<" if head[:2] == b"II" else ">"
    big = b"+" in head[2:4]
    (directory,) = struct.unpack_from(f"{order}{'Q' if big else 'L'}", head, 8 if big else 4)
    stream.seek(directory)
    (entries,) = struct.unpack(f"{order}{'Q' if big else 'H'}", stream.read(8 if big else 2))
    entry = struct.Struct(f"{order}HH{'QQ' if big else 'LL'}")
    for _ in range(entries):
        tag, _, count, _ = entry.unpack(stream.read(entry.size))
        if tag in (273, 324):  # StripOffsets, TileOffsets
            return int(count)
    return 0


def _require_short_text(stream: IO[bytes], head: bytes, name: str) -> None:
    """Raise ImageError for a PPM, PGM or PBM in decimal text that Pillow is too slow for."""
    if head[:2] in (b"P1", b"P2", b"P3"):
        text = head + stream.read(_MAX_TEXT)
        if len(text) > _MAX_TEXT or text.count(b"#") > _MAX_COMMENTS:
            raise ImageError(f"{name}: too long, or too many comments; save it in binary form")


def _require_little_metadata(stream: IO[bytes], head: bytes, name: str) -> None:
    """Raise ImageError for so much beside the pixels of a JPEG, PNG or GIF."""
    for magic, sizes in ((b"\xff\xd8\xff", _segments), (b"\x89PNG", _chunks), (b"GIF8", _blocks)):
        if head.startswith(magic):
            total = 0
            for count, size in enumerate(sizes(stream), 1):
                total += size
                if total > _MAX_METADATA or count > _MAX_PARTS:
                    raise ImageError(f"{name}: too much metadata; save it without")


def _segments(stream: IO[bytes]) -> Iterator[int]:
    """The size of each segment before the pixels of a JPEG, and 1 for each byte that is in none."""
    stream.seek(2)
    while len(head := stream.read(4)) == 4 and head[:2] != b"\xff\xda":
        if head[0] == 0xFF and head[1] in _WITH_LENGTH:
            size = max(2, int.from_bytes(head[2:], "big"))
            stream.seek(size - 2, os.SEEK_CUR)
            yield size
        else:
            stream.seek(-3, os.SEEK_CUR)
            yield 1


def _chunks(stream: IO[bytes]) -> Iterator[int]:
    """The size of each chunk of a PNG that is text or EXIF, and 0 for each other."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        size = int.from_bytes(head[:4], "big")
        stream.seek(size + 4, os.SEEK_CUR)
        yield size if head[4:] in (b"tEXt", b"zTXt", b"iTXt", b"eXIf") else 0


def _blocks(stream: IO[bytes]) -> Iterator[int]:
    """The size of each block before the pixels of a GIF, and 1 for each byte that is in none."""
    stream.seek(10)
    flags = _byte(stream)
    stream.seek(13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))  # beyond the palette
    while (kind := stream.read(1)) not in (b"", b",", b";"):
        yield 1
        if kind == b"!":
            stream.seek(1, os.SEEK_CUR)
            while size := _byte(stream):
                stream.seek(size, os.SEEK_CUR)
                yield size


def _byte(stream: IO[bytes]) -> int:
    """The next byte, 0 at the end."""
    return int.from_bytes(stream.read(1), "big")

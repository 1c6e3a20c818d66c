"""JPEG and WebP files with a record in EXIF, where a PNG has it in text chunks.

`Software` names the program, and `UserComment` holds the record as JSON, which other programs show:
EXIF 2.32, sections 4.6.4 and 4.6.5.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from PIL import ExifTags, Image

from lcmcore.errors import ImageError, first_line
from lcmcore.image_files.opening import MAX_BYTES, open_image

SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # by suffix

_QUALITY = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}
_JPEG, _RIFF, _WEBP = b"\xff\xd8\xff", b"RIFF", b"WEBP"
_UNICODE = b"UNICODE\0"  # before a UserComment in UTF-16
_MAX_BYTES = 65_535 - 2 - 6  # of a JPEG's APP1 segment, without its length and "Exif\0\0"
_MAX_COMMENT = 2**20  # bytes; a WebP's chunk has no bound


def encode_with_exif(image: Image.Image, record: Mapping[str, str], suffix: str) -> bytes:
    """The image in the format of a suffix of SUFFIXES; `record` has "Software" among its entries.

    Raises ImageError if the record is longer than EXIF can be in a JPEG (64 KiB, of UTF-16), or
    this Pillow was built without the format.
    """
    kind = SUFFIXES[suffix.lower()]
    text = json.dumps(dict(record), ensure_ascii=False)
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = record["Software"]
    comment = _UNICODE + text.encode("utf-16-be", "replace")
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: comment}
    if len(exif.tobytes()) > _MAX_BYTES:
        raise ImageError("the prompt is too long for the EXIF of an image: write a PNG")
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, exif=exif, **_QUALITY[kind])
    except (KeyError, OSError) as error:
        raise ImageError(f"this Pillow cannot write {kind}: write a PNG") from error
    return buffer.getvalue()


def has_exif(head: bytes) -> bool:
    """Whether the first bytes of a file, twelve or more, are those of a JPEG or WebP."""
    return head.startswith(_JPEG) or (head[:4], head[8:12]) == (_RIFF, _WEBP)


def exif_entries(file: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """The entries of the record in a JPEG or WebP; none if it has no record.

    No pixels are decoded. Raises ImageError, and ValueError for EXIF that cannot be read.
    """
    if os.fstat(file.fileno()).st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    file.seek(0)
    with open_image(file, name) as image:
        try:
            exif = image.getexif()
            comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        except Exception as error:  # Pillow raises whatever it meets in a damaged file
            raise ValueError(f"its EXIF cannot be read: {first_line(error)}") from error
    if not isinstance(comment, bytes) or not comment.startswith(_UNICODE):
        return
    if len(comment) > _MAX_COMMENT:
        raise ValueError(f"the comment of its EXIF is longer than {_MAX_COMMENT >> 20} MiB")
    try:
        record = json.loads(comment[len(_UNICODE) :].decode("utf-16-be"))
    except (ValueError, RecursionError):  # another program's
        return
    if isinstance(record, dict):
        yield from ((key, text) for key, text in record.items() if isinstance(text, str))

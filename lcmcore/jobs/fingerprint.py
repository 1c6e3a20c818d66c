"""Recognizes an image that is done by a digest of the request that generated it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from lcmcore.errors import ImageError, OutputError
from lcmcore.jobs.job import Request
from lcmcore.png import is_ours, read_record
from lcmcore.util.files import is_file

RECORD_KEY = "request"  # keyword of the PNG's text chunk

_OF_MASKS = ("padding_mask_crop", "overlay", "mask_blur", "invert_mask", "expand")
_PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"


def fingerprint(
    request: Request,
    init_image: bytes | None,
    model: Mapping[str, object],
    mask: bytes | None = None,
) -> str:
    """A digest of a request, its init image and mask, and `model`, which describes what runs it.

    Fields of masks that are None are left out: images of before there were masks stay done.
    """
    asked = {each.name: getattr(request, each.name) for each in fields(request)}
    content = {
        "init": None if init_image is None else hashlib.sha256(init_image).hexdigest(),
        "model": model,
        **{key: value for key, value in asked.items() if value is not None or key not in _OF_MASKS},
    }
    if mask is not None:
        content["mask"] = hashlib.sha256(mask).hexdigest()
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_done(path: Path, wanted: str) -> bool:
    """Whether the file is a complete image with that fingerprint.

    Raises OutputError for a file that lcmcore did not write, so that it is not overwritten.
    """
    if not path.exists() or (is_file(path) and not path.stat().st_size):
        return False  # a power cut may leave empty files
    try:
        return read_record(path).get(RECORD_KEY) == wanted and _is_whole(path)
    except ImageError as error:
        if is_ours(path):  # but cut off
            return False
        raise OutputError(
            f"{path} already exists and was not written by lcmcore: move it away"
        ) from error


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-len(_PNG_END), 2)
        return file.read() == _PNG_END

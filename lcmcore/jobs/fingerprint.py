"""Recognizes an image that is done by a digest of the request that generated it."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from lcmcore.bundle import COMPONENTS, ModelPaths, demo_dir
from lcmcore.errors import BundleError, ImageError, OutputError, first_line
from lcmcore.jobs.job import Request
from lcmcore.png import is_ours, read_record
from lcmcore.util.files import is_file, regular_files, sha256

RECORD_KEY = "request"  # keyword of the PNG's text chunk

_OF_MASKS = ("padding_mask_crop", "overlay", "mask_blur", "invert_mask", "expand")
_MAX_FILES = 10_000  # of a component; a link may lead to a whole disk
_MAX_BYTES = 2**38
_PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"


def model_identity(
    model_dir: str | Path | None, config: str | Path | None, tokenizer: str | Path | None
) -> str:
    """A digest of every file of a bundle that its images depend on; raises BundleError.

    Those are lcm.toml, the files of scheduler and tokenizer, and all files below the components'
    folders, where external data may be in folders of its own. Links are followed.
    """
    paths = ModelPaths(model_dir or demo_dir())
    if not paths.root.is_dir():
        raise BundleError(f"no model directory at {paths.root}")
    digest = hashlib.sha256()
    try:
        for name, path in _model_files(paths, config, tokenizer):
            digest.update(f"{name}\0{sha256(path)}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise BundleError(f"{paths.root}: cannot be read: {first_line(error)}") from error
    return digest.hexdigest()


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


def _model_files(
    paths: ModelPaths, config: str | Path | None, tokenizer: str | Path | None
) -> Iterator[tuple[str, Path]]:
    settings = Path(config) if config else paths.settings
    if config or settings.exists():
        yield "lcm.toml", settings
    folders = {"scheduler": paths.root / "scheduler"}
    folders["tokenizer"] = Path(tokenizer) if tokenizer else paths.tokenizer
    for component in COMPONENTS:
        for name, path in _files_below(paths.root / component):
            yield f"{component}/{name}", path
    for name, folder in folders.items():
        for path in sorted(folder.glob("*")):
            if path.is_file():
                yield f"{name}/{path.name}", path


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name in the folder and path of each regular file, in a fixed order.

    Raises OSError, and BundleError for more than a model can have.
    """
    total = 0
    for count, (path, size) in enumerate(regular_files(folder, _fail), 1):
        total += size
        if count > _MAX_FILES or total > _MAX_BYTES:
            raise BundleError(
                f"{folder}: more than {_MAX_FILES} files or {_MAX_BYTES >> 30} GiB"
                " (a link that leads elsewhere?)"
            )
        yield path.relative_to(folder).as_posix(), path


def _fail(error: OSError) -> None:
    """A bundle need not have every component, and a link may lead to nothing, or to itself."""
    if error.errno not in (errno.ENOENT, errno.ELOOP):
        raise error

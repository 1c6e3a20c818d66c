"""By what a model is known again: digests of every file of it that its images depend on.

Those are lcm.toml, the files of scheduler and tokenizer, and all files below the components'
folders, where external data may be in folders of its own. Links are followed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from lcmcore.bundle import COMPONENTS, ModelPaths, demo_dir, require_model_dir
from lcmcore.errors import BundleError, first_line
from lcmcore.util.files import open_solid, regular_files, sha256

_MAX_FILES = 10_000  # of a component; a link may lead to a whole disk
_MAX_BYTES = 2**38
_SAMPLES, _SAMPLE = 64, 1024  # of a large file, and the bytes of each
_DIGITS = 16


def model_identity(
    model_dir: str | Path | None, config: str | Path | None, tokenizer: str | Path | None
) -> str:
    """The SHA-256 of all bytes of a model, in hexadecimal: a second or more for each 2 GB.

    None is the demo model. Raises BundleError.
    """
    return _digest(model_dir, config, tokenizer, sha256)


def model_digest(
    model_dir: str | Path | None, config: str | Path | None, tokenizer: str | Path | None
) -> str:
    """A short digest of a model for the record of an image, in milliseconds.

    Of a file above 64 KiB it takes the size and 64 samples, evenly spread: other weights differ in
    more than one of them. It tells another model, not a forged one. Raises BundleError.
    """
    return _digest(model_dir, config, tokenizer, _sampled)[:_DIGITS]


def _digest(
    model_dir: str | Path | None,
    config: str | Path | None,
    tokenizer: str | Path | None,
    digest_of: Callable[[Path], str],
) -> str:
    import hashlib  # takes longer to import than the rest of this file

    paths = ModelPaths(model_dir or demo_dir())
    require_model_dir(paths.root)
    digest = hashlib.sha256()
    try:
        for name, path in _model_files(paths, config, tokenizer):
            digest.update(f"{name}\0{digest_of(path)}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise BundleError(f"{paths.root}: cannot be read: {first_line(error)}") from error
    return digest.hexdigest()


def _sampled(path: Path) -> str:
    """The size of a file and a digest of its samples; of a small one they are the whole."""
    import hashlib

    digest = hashlib.sha256()
    with open_solid(path) as file:
        size = path.stat().st_size
        if size <= _SAMPLES * _SAMPLE:
            digest.update(file.read(_SAMPLES * _SAMPLE))
        else:
            for index in range(_SAMPLES):
                file.seek(index * (size - _SAMPLE) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return f"{size} {digest.hexdigest()}"


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
        for path in sorted(islice(folder.glob("*"), _MAX_FILES)):
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

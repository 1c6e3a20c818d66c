"""Opening images that come from strangers: named formats only, from files and pipes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from lcmcore.errors import ImageError, first_line
from lcmcore.image_files.bombs import require_cheap_file, require_few_scans
from lcmcore.util.files import open_regular

MAX_BYTES = 2**28  # of a file: an uncompressed RGB image of 67 million pixels has 201 MB

# Pillow's names of the formats that are read; HEIF is that of pillow-heif. No others, for these are
# decoded within the process: EPS starts Ghostscript, GRIB or WMF call what somebody registered.
FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM"),
    *("WEBP", "TIFF", "JPEG2000", "AVIF", "HEIF", "TGA"),  # TGA, for any file may begin like one
)
_NEEDS = {"HEIF": "HEIF (with pillow-heif)", "AVIF": "AVIF (with Pillow 11.3 or later)"}
KNOWN = f"known are {', '.join(_NEEDS.get(each, each) for each in FORMATS)}"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")  # of what Pillow reads without init()
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)

_MAX_HEADER = 2**16  # bytes of a PPM's header: Pillow reads it byte by byte
_WRITER_SECONDS = 1.0  # in which another process opens a FIFO


def open_file(path: Path) -> IO[bytes]:
    """A regular file, or what comes through a pipe; raises OSError for others and larger ones."""
    if stat.S_ISFIFO(path.stat().st_mode):
        return io.BytesIO(_read_pipe(path))
    file = open_regular(path)
    if os.fstat(file.fileno()).st_size <= MAX_BYTES:
        return file
    file.close()
    raise _too_large()


def _read_pipe(path: Path) -> bytes:
    """The content of a pipe; that of a FIFO which no process opens for writing is empty."""
    from select import select

    content = bytearray()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else it waits for that process
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        select([pipe], [], [], _WRITER_SECONDS)
        while len(content) <= MAX_BYTES:
            chunk = pipe.read(2**20)
            if chunk == b"":
                return bytes(content)
            content += chunk or b""  # None: there is a process, but it has not written yet
            os.set_blocking(descriptor, True)
    raise _too_large()


def _too_large() -> OSError:
    return OSError(errno.EFBIG, f"larger than {MAX_BYTES / 2**20:g} MiB")


def open_image(stream: IO[bytes], name: str) -> Image.Image:
    """Open an image of one of the FORMATS without decoding it; `name` is for messages.

    Nothing else in this package calls Image.open, which tries all formats. Raises ImageError.
    """
    head = stream.read(16)
    require_cheap_file(stream, head, name)
    missing = _load_plugins(head)
    try:
        if head[:1] == b"P":
            _open_header(stream)
        image = Image.open(stream, formats=[each for each in FORMATS if each in Image.OPEN])
    except UnidentifiedImageError:
        reason = missing or f"not an image of a known format, or empty; {KNOWN}"
        raise ImageError(f"{name}: {reason}") from None
    except Exception as error:  # Pillow's format plugins raise whatever they meet
        raise ImageError(f"{name}: cannot be read: {first_line(error)}") from error
    require_few_scans(image, stream, name)
    return image


def image_suffixes() -> frozenset[str]:
    """Suffixes of the files that `read_image` reads here, in lower case: ".jpg", ".png", ...

    ".heic" is one of them where pillow-heif is installed.
    """
    Image.init()
    _register_heif()
    known = {each for each in FORMATS if each in Image.OPEN or each == "MPO"}  # opened as JPEG
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in known)


def _load_plugins(head: bytes) -> str | None:
    """Let Pillow know what may read a file that begins so; what is missing for it, or None."""
    Image.preinit()
    if head.startswith(_MAGIC):
        return None
    Image.init()  # imports some 40 modules
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and not _register_heif():
        return "HEIC is read only where pillow-heif is installed (pip install pillow-heif)"
    if head[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" not in Image.OPEN:
        return "AVIF is read only with Pillow 11.3 or later"
    return None


def _open_header(stream: IO[bytes]) -> None:
    """Raise what Pillow raises for a PPM whose header has no end within the first bytes."""
    stream.seek(0)
    with contextlib.suppress(UnidentifiedImageError):  # another format
        Image.open(io.BytesIO(stream.read(_MAX_HEADER)), formats=["PPM"])


def _register_heif() -> bool:
    """Whether HEIF can be read, which pillow-heif does where it is installed."""
    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return False
        register_heif_opener()
    return True

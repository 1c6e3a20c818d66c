"""The files that `lcm img2img` and `lcm txt2img` write: their names, and whether they may."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from lcmcore.errors import ArgumentError, OutputError
from lcmcore.exif import SUFFIXES, encode_with_exif
from lcmcore.png import encode_png, is_ours
from lcmcore.util.files import is_folder, make_folder, require_writable, write_whole

_PNG = ".png"


def has_format(path: Path) -> bool:
    """Whether the name's suffix is of a format that is written: PNG, JPEG, WebP."""
    return path.suffix.lower() in (_PNG, *SUFFIXES)


def require_format(output: Path) -> None:
    """Raise OutputError for a folder, ArgumentError for a suffix of no format that is written."""
    if has_format(output):
        return
    if is_folder(output):
        raise OutputError(f"{output} is a folder: give the name of a file")
    known = ", ".join(SUFFIXES)
    raise ArgumentError(f"{output}: name it {output.stem}.png, or with one of {known}")


def beside(output: Path, *words: str) -> Path:
    """OUT-WORD.png for OUT.png; OUT.png itself without words."""
    return output.with_name("-".join([output.stem, *words]) + output.suffix)


def output_file(output: Path, inputs: Mapping[str, Path]) -> Path:
    """The file to write: `output`, or the one that it is a link to.

    Raises OutputError unless lcmcore wrote the file that is there, or there is none. Init image and
    mask are never overwritten, by whatever name; nor is a file made where a link points to nothing.
    """
    linked = os.path.islink(output)  # noqa: PTH114 - no error for a name too long
    target = Path(os.path.realpath(output)) if linked else output
    require_writable(target)
    if not os.path.lexists(target):
        if linked:
            raise OutputError(
                f"{output} is a link to {target}, where nothing is: remove it, or choose another"
                " name"
            )
        return target
    for key, path in inputs.items():
        if _is_same(target, path):
            what = "init image" if key == "init" else key
            raise OutputError(f"{output} is the {what}, which would be lost: choose another name")
    if not is_ours(target):
        raise OutputError(
            f"{output} already exists and was not written by lcmcore: choose another name,"
            " or move it away"
        )
    return target


def save(
    image: Image.Image, record: Mapping[str, str], output: Path, inputs: Mapping[str, Path]
) -> None:
    """Write the image with its record in the format of the name's suffix, and make the folder.

    Raises OutputError as `output_file` does: the file may be another one by now.
    """
    suffix = output.suffix.lower()
    if suffix == _PNG:
        content = encode_png(image, record)
    else:
        content = encode_with_exif(image, record, suffix)
    make_folder(output.parent)
    write_whole(output_file(output, inputs), content)


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one file, by whatever names, links or case of letters."""
    try:
        return one.samefile(other)
    except OSError:
        return False

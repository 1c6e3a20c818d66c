"""A contact sheet: images side by side, and under each what tells it from the others."""

from __future__ import annotations

import contextlib
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from lcmcore.cli.output import save
from lcmcore.cli.progress import count_of
from lcmcore.png import derived_record

if TYPE_CHECKING:
    from PIL import ImageFont

MAX_IMAGES = 100
SIDE = 384  # pixels, at most, of an image in the sheet

_MARGIN = 8
_FONT_SIZE = 15
# Those with the most scripts first; Pillow looks for them where the system has its fonts.
_SYSTEM_FONTS = (
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf"),
    *("LiberationSans-Regular.ttf", "FreeSans.ttf", "Arial Unicode.ttf", "Arial.ttf"),
)
_ONE_ROW = 3  # so many images stand side by side
_MAX_LINES = 3  # of a caption
# Entries of a record, in the order in which a caption has them.
_CAPTIONED = ("init", "prompt", "negative-prompt", "strength", "steps", "guidance", "size", "seed")


class Captioned(NamedTuple):
    """An image, and the record of how it was made."""

    image: Image.Image
    record: Mapping[str, str]


def captions(records: Sequence[Mapping[str, str]]) -> list[str]:
    """What differs among the records of images: "strength 0.3, seed 7"; "" where nothing does."""
    differing = [key for key in _CAPTIONED if len({record.get(key) for record in records}) > 1]
    return [
        ", ".join(_caption(key, record[key]) for key in differing if key in record)
        for record in records
    ]


def _caption(key: str, value: str) -> str:
    if key == "init":
        return Path(value).name
    return value if key == "prompt" else f"{key} {value}"


def contact_sheet(
    images: Sequence[Image.Image], texts: Sequence[str], columns: int | None = None
) -> Image.Image:
    """Images, shrunk to SIDE where they are larger, with a text under each, on white.

    Without `columns` there are as many as rows, or one more.
    """
    from PIL import ImageDraw  # 12 ms, which every command would take

    small = [shrunk(image) for image in images]
    font, texts = _font(texts)
    width, height = (max(image.size[axis] for image in small) for axis in (0, 1))
    lines = [list(_wrapped(text, font, width)) for text in texts]
    line_height = math.ceil(_FONT_SIZE * 1.3)
    cell = width + _MARGIN, height + line_height * max(map(len, lines)) + _MARGIN
    if columns is None:
        columns = len(small) if len(small) <= _ONE_ROW else math.ceil(math.sqrt(len(small)))
    rows = math.ceil(len(small) / columns)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, rows * cell[1] + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(small, lines, strict=True)):
        left = _MARGIN + index % columns * cell[0]
        top = _MARGIN + index // columns * cell[1]
        sheet.paste(image, (left, top))
        for number, line in enumerate(caption):
            place = left, top + height + number * line_height
            draw.text(place, line, fill="black", font=font)
    return sheet


def save_sheet(
    made: Sequence[Captioned],
    output: Path,
    inputs: Mapping[str, Path],
    columns: int | None = None,
) -> None:
    """Write the contact sheet of images and their records; raises OutputError as `save` does."""
    images, records = zip(*made, strict=True)
    what = f"a contact sheet of {count_of(len(images), 'image')}"
    sheet = contact_sheet(images, captions(records), columns)
    save(sheet, derived_record(what), output, inputs)


def shrunk(image: Image.Image) -> Image.Image:
    """An RGB copy of at most SIDE in each direction."""
    image = image.convert("RGB").copy()
    image.thumbnail((SIDE, SIDE))
    return image


def _font(
    texts: Sequence[str],
) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, Sequence[str]]:
    """A font for the texts, and what it can write of them.

    Pillow's own one has ASCII alone: other letters take one of the system's, or lose their accents.
    """
    from PIL import ImageFont

    if not all(map(str.isascii, texts)):
        for name in _SYSTEM_FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, _FONT_SIZE), texts
    return ImageFont.load_default(_FONT_SIZE), list(map(_ascii, texts))


def _ascii(text: str) -> str:
    """Letters without accents, and ? for what is no letter of ASCII then."""
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return letters.encode("ascii", "replace").decode("ascii")


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> Iterator[str]:
    """The text in lines of at most `width` pixels; what goes beyond the last line is cut off."""
    words, line, count = text.split(), "", 0
    while words:
        longer = f"{line} {words[0]}".lstrip()
        if not line or font.getlength(longer) <= width:
            line = longer
            words.pop(0)
            continue
        yield line
        line, count = "", count + 1
        if count == _MAX_LINES - 1:
            line = _cut(" ".join(words), font, width)
            break
    if line:
        yield line


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."

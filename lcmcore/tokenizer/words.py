"""The words of a prompt: its text normalized, and split by CLIP's pattern."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice

from lcmcore.tokenizer.added_tokens import SPACES

_SPACE_RUN = re.compile(f"[{SPACES}]+")
_VISIBLE_RUN = re.compile(f"[^{SPACES}]+")
# What CLIP's pattern matches before runs: a special token that only lower-casing produced (which is
# not special any more, but split in three), and contractions.
_LITERAL = re.compile(r"(<\|)(startoftext|endoftext)(\|>)|'s|'t|'re|'ve|'m|'ll|'d")
_PLAIN_WORD = re.compile(r"([^\W_]+)(?:'[^\W_]+)?")  # without the 's of "lake's"
# unicodedata takes the square of the number of marks in a row, unless they are in order.
_MANY_MARKS = 32
_MARKS_IN_ONE = ("\u0f73", "\u0f75", "\u0f81")  # no marks, but made of marks alone


def beginning(text: str, count: int) -> str:
    """The text up to its `count`-th character that is no space, and the marks on that.

    Of more than `count` marks in a row, those are kept that decide the first `count` in NFC.
    """
    place = _after_visible(text, count)
    end = _after_marks(text, place, place + count)
    if end == place + count:
        text = _order_marks(text, count, count)
        end = _after_marks(text, _after_visible(text, count), len(text))
    return text[:end]


def _after_visible(text: str, count: int) -> int:
    if len(text) > count:
        for run in _VISIBLE_RUN.finditer(text):
            start, end = run.span()
            if end - start >= count:
                return start + count
            count -= end - start
    return len(text)


def _after_marks(text: str, start: int, stop: int) -> int:
    while start < min(stop, len(text)) and (
        unicodedata.combining(text[start]) or text[start] in _MARKS_IN_ONE
    ):
        start += 1
    return start


def _order_marks(text: str, many: int, most: int) -> str:
    """Order each run of `many` marks or more by class, as NFC does, and keep `most` of each class.

    NFC joins only the first few marks of a class to the character before them.
    """
    if text.isascii():
        return text
    for char in _MARKS_IN_ONE:
        text = text.replace(char, unicodedata.normalize("NFD", char))
    classes: dict[int, str] = {}
    for mark in filter(unicodedata.combining, set(text)):
        kind = unicodedata.combining(mark)
        classes[kind] = classes.get(kind, "") + mark
    if not classes:
        return text
    of_class = [f"[{classes[kind]}]" for kind in sorted(classes)]

    def ordered(run: re.Match[str]) -> str:
        chosen = (islice(re.finditer(marks, run[0]), most) for marks in of_class)
        return "".join(match[0] for matches in chosen for match in matches)

    return re.sub(f"[{''.join(classes.values())}]{{{many},}}", ordered, text)


def normalize(text: str) -> str:
    """NFC, single spaces, lower case letter by letter (no final sigma rule)."""
    text = _SPACE_RUN.sub(" ", text)
    text = unicodedata.normalize("NFC", _order_marks(text, _MANY_MARKS, len(text)))
    return "".join(map(str.lower, text))


def plain_words(text: str) -> Iterator[str]:
    """The runs of letters and digits in a normalized text: 8k, too, which CLIP's pattern cuts."""
    return (match[1] for match in _PLAIN_WORD.finditer(text))


def split(text: str) -> Iterator[str]:
    r"""CLIP's pattern: literals | \p{L}+ | \p{N} | [^\s\p{L}\p{N}]+ .

    Python's `re` has no \p{..}, so runs are found by Unicode category.
    """
    position = 0
    while position < len(text):
        literal = _LITERAL.match(text, position)
        end = literal.end() if literal else _run_end(text, position)
        if literal and literal[1]:
            yield from literal.groups()
        elif text[position] != " ":
            yield text[position:end]
        position = end


def _run_end(text: str, start: int) -> int:
    kind = _kind(text[start])
    end = start + 1
    if kind in ("letter", "other"):
        while end < len(text) and _kind(text[end]) == kind:
            end += 1
    return end


def _kind(char: str) -> str:
    if char == " ":
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(char)[0], "other")

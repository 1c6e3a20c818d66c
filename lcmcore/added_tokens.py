r"""Added tokens: texts with an id of their own, found before a text is split into words.

The reference is `AddedVocabulary` of Hugging Face's tokenizers: start and end tokens, the padding
token, and what textual inversion (Gal et al., arXiv:2208.01618) has added.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

# Unicode's White_Space property; Python's str.isspace() and \s also count U+001C to U+001F.
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))
SPACES += "\u2028\u2029\u202f\u205f\u3000"
_JOINERS = "\u200c\u200d"


class AddedToken(NamedTuple):
    """One added token, with the names of tokenizers' `AddedToken`.

    A `normalized` one is looked for after the text is normalized, and normalized itself: in any
    case. `lstrip` and `rstrip` take the white space beside it along; a `single_word` is no part of
    a longer word.
    """

    content: str
    id: int
    normalized: bool = True
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class Finder:
    """Finds tokens in texts: the leftmost first, of those that begin there the longest."""

    def __init__(self, tokens: Iterable[AddedToken], form: Callable[[str], str] = str) -> None:
        """`form` makes of a token's content what is looked for."""
        self._tokens: dict[str, AddedToken] = {}
        for token in sorted(tokens, key=lambda token: not token.special):
            self._tokens.setdefault(form(token.content), token)
        contents = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, contents)) or r"(?!)")

    def split(self, text: str) -> Iterator[str | AddedToken]:
        """The tokens of a text, and what is between them."""
        position = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match[0]]
            start, end = match.span()
            if token.single_word and not _is_alone(text, start, end):
                continue
            if token.lstrip:
                start = max(position, len(text[:start].rstrip(SPACES)))
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip(SPACES))
            if position < start:
                yield text[position:start]
            yield token
            position = end
        if position < len(text):
            yield text[position:]


def _is_alone(text: str, start: int, end: int) -> bool:
    return not any(map(_is_in_words, text[:start][-1:] + text[end : end + 1]))


def _is_in_words(char: str) -> bool:
    r"""\w as Unicode defines it (UTS 18), which is not quite Python's."""
    category = unicodedata.category(char)
    return (
        category[0] in "LM"
        or category in ("Nd", "Nl", "Pc")
        or char in _JOINERS
        or (category == "So" and char.upper() != char.lower())  # circled letters
        or "\U0001f130" <= char <= "\U0001f149"
        or "\U0001f150" <= char <= "\U0001f169"
        or "\U0001f170" <= char <= "\U0001f189"
    )

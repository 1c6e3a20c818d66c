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
        lengths: dict[str, set[int]] = {}
        for content in self._tokens:
            lengths.setdefault(content[0], set()).add(len(content))
        self._lengths = {first: sorted(its, reverse=True) for first, its in lengths.items()}
        firsts = "".join(map(re.escape, lengths))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def split(self, text: str) -> Iterator[str | AddedToken]:
        """The tokens of a text, and what is between them."""
        position = 0
        for token, start, end in self._matches(text):
            if token.single_word and not _is_alone(text, start, end):
                continue
            before = text[position:start]
            if token.lstrip:
                before = before.rstrip(SPACES)
            if before:
                yield before
            yield token
            position = end
            if token.rstrip:
                position = len(text) - len(text[end:].lstrip(SPACES))
        if position < len(text):
            yield text[position:]

    def _matches(self, text: str) -> Iterator[tuple[AddedToken, int, int]]:
        """Tokens that do not overlap, each with its start and end in the text."""
        # Thousands of alternatives in one regular expression would take seconds to compile.
        found = self._first.search(text)
        while found:
            start = end = found.start()
            for length in self._lengths[found[0]]:
                token = self._tokens.get(text[start : start + length])
                if token is not None:
                    end = start + length
                    yield token, start, end
                    break
            found = self._first.search(text, max(end, start + 1))


def _is_alone(text: str, start: int, end: int) -> bool:
    return not any(map(_is_in_words, text[max(start - 1, 0) : start] + text[end : end + 1]))


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

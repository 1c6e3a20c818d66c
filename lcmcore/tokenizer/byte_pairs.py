"""Byte-pair encoding of one word, over the byte alphabet of GPT-2, as CLIP uses it.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (arXiv:1508.07909).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

WORD_END = "</w>"

Pair = tuple[str, str]
Ranks = Mapping[Pair, int]


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself, or the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


ALPHABET = _byte_alphabet()


def letters(word: str) -> list[str]:
    """The word's bytes in UTF-8, as letters of ALPHABET; a lone surrogate is a question mark."""
    return [ALPHABET[byte] for byte in word.encode("utf-8", "replace")]


def tokens_of(word: str, ranks: Ranks) -> list[str]:
    """The tokens of a whole word, the last with WORD_END."""
    parts = letters(word)
    parts[-1] += WORD_END
    return merge(parts, ranks)


def merge(parts: Sequence[str], ranks: Ranks) -> list[str]:
    """Join neighbours, the earliest learned pair first, the leftmost of those."""
    parts = list(parts)
    after = [*range(1, len(parts)), 0]  # a ring: the first part follows the last
    before = [len(parts) - 1, *range(len(parts) - 1)]
    queue: list[tuple[int, int, Pair]] = []

    def offer(left: int) -> None:
        pair = parts[left], parts[after[left]]
        if after[left] and pair in ranks:
            heappush(queue, (ranks[pair], left, pair))

    for left in range(len(parts)):
        offer(left)
    while queue:
        _, left, pair = heappop(queue)
        right = after[left]
        if not right or (parts[left], parts[right]) != pair:
            continue  # one of the two has been merged with another neighbour
        parts[left], parts[right] = "".join(pair), ""
        after[left], before[after[right]] = after[right], left
        offer(left)
        if left:
            offer(before[left])
    return [part for part in parts if part]


def first_tokens(word: str, ranks: Ranks, count: int, longest: int) -> list[str] | None:
    """The first `count` tokens of every word that begins like this one; None if that is not sure.

    `longest` is the length of the longest token in letters. Takes time for some
    longest * (count + longest) letters, however long the word is.

    Why it is exact: a merge looks at its two parts alone, and merges go by (rank, position). So
    (1) a boundary between tokens cuts a word into two that have the same tokens when each is
    merged alone, for no merge crosses it; (2) tokens of which each two neighbours are what merging
    those two alone gives are the tokens of the whole, for the first merge across a boundary would
    be the first across it in the two as well. Of `longest` places in a row one at least is a
    boundary between the whole word's tokens. For each place of such a row, the tokens found and
    those from there to the place are neighbours as in (2), so they are the tokens of the word up
    to that place; and by (1) the word begins with them if the place is a boundary.
    """
    parts = letters(word[: (count + 9) * longest])
    tokens = merge(parts[: (count + 4) * longest], ranks)[:count]
    cut = len("".join(tokens))
    stop = cut + 4 * longest
    if len(tokens) < count or stop >= len(parts):  # the last part is not known: it may end the word
        return None
    for place in range(stop - longest, stop):
        following = merge(parts[cut:place], ranks)[0]
        if merge([*tokens[-1], *following], ranks) != [tokens[-1], following]:
            return None
    return tokens

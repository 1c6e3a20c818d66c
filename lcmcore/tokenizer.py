"""CLIP's byte-pair tokenizer, equal to transformers' fast one.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (arXiv:1508.07909),
over the byte alphabet of GPT-2; the reference implementation is `CLIPTokenizerFast`.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcmcore.errors import BundleError
from lcmcore.util.configfile import read_object, read_text
from lcmcore.util.validate import texts

log = logging.getLogger(__name__)

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_LENGTH = 77

# Unicode's White_Space property; Python's str.isspace() and \s also count U+001C to U+001F.
_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPACE_RUN = re.compile(f"[{_SPACES}]+")
# What CLIP's pattern matches before runs: a special token that only lower-casing produced (which is
# not special any more, but split in three), and contractions.
_LITERAL = re.compile(r"(<\|)(startoftext|endoftext)(\|>)|'s|'t|'re|'ve|'m|'ll|'d")


@dataclass(frozen=True)
class CLIPTokenizer:
    """Text to ids; create one with `from_dir`.

    `ranks` maps each merge to its rank, `vocab` each token to its id; `pad` is the id that pads
    to `length`. `specials` are recognized in a text before it is split; the padding token is one
    of them, so that each "!" of a prompt stands alone where "!" pads (Stable Diffusion 2).
    """

    vocab: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    pad: int
    length: int = _LENGTH
    specials: tuple[str, ...] = (START, END)

    @classmethod
    def from_dir(cls, folder: str | Path) -> CLIPTokenizer:
        """From a `tokenizer` folder: vocab.json and merges.txt, or tokenizer.json.

        The padding token comes from tokenizer_config.json where there is one. Raises BundleError
        that names the file which is missing or invalid.
        """
        folder = Path(folder)
        if (folder / "vocab.json").exists() or not (folder / "tokenizer.json").exists():
            vocab = read_object(folder / "vocab.json")
            merges = _merge_lines(folder / "merges.txt")
        else:
            vocab, merges = _single_file(folder / "tokenizer.json")
        _check_vocab(vocab, merges, folder)
        settings = folder / "tokenizer_config.json"
        config = read_object(settings) if settings.exists() else {}
        pad = _content(config.get("pad_token")) or END
        if not isinstance(pad, str) or type(vocab.get(pad)) is not int:
            raise BundleError(f"{settings}: pad_token {pad!r} has no id in the vocabulary")
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        return cls(vocab, ranks, vocab[pad], _model_length(config), (START, END, pad))

    def __call__(self, text: str | Sequence[str]) -> NDArray[np.int64]:
        """Ids of shape [batch, length]: start, tokens, end, padding.

        A prompt that is too long is truncated, its end token kept, and a warning logged. Raises
        ArgumentError for what is not text, or an empty list.
        """
        items = texts("prompt", text)
        rows = np.full((len(items), self.length), self.pad, np.int64)
        for row, item in zip(rows, items, strict=True):
            ids = self._row(item)
            row[: len(ids)] = ids
        return rows

    def _row(self, text: str) -> list[int]:
        ids = [self.vocab[START]]
        for word in self._words(text):
            tokens = [word] if word in self.specials else self._merge(word)
            ids += [self.vocab[token] for token in tokens]
            if len(ids) > self.length - 1:
                log.warning(
                    "the prompt is too long: truncated in %r, after %d tokens",
                    word[:40],
                    self.length,
                )
                break
        return [*ids[: self.length - 1], self.vocab[END]]

    def _words(self, text: str) -> Iterator[str]:
        """The special tokens of a text, verbatim, and its normalized words."""
        for part in re.split(f"({'|'.join(map(re.escape, self.specials))})", text):
            yield from [part] if part in self.specials else _split(_normalize(part))

    def _merge(self, word: str) -> list[str]:
        """Join the word's bytes, the earliest learned pair first, the leftmost of those."""
        parts = [_ALPHABET[byte] for byte in word.encode("utf-8", "replace")]
        parts[-1] += _WORD_END
        after = [*range(1, len(parts)), 0]  # a ring: the first part follows the last
        before = [len(parts) - 1, *range(len(parts) - 1)]
        queue: list[tuple[int, int, tuple[str, str]]] = []

        def offer(left: int) -> None:
            pair = parts[left], parts[after[left]]
            if after[left] and pair in self.ranks:
                heappush(queue, (self.ranks[pair], left, pair))

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


def _normalize(text: str) -> str:
    """NFC, single spaces, lower case letter by letter (no final sigma rule)."""
    text = _SPACE_RUN.sub(" ", unicodedata.normalize("NFC", text))
    return "".join(map(str.lower, text))


def _split(text: str) -> Iterator[str]:
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


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself, or the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


_ALPHABET = _byte_alphabet()


def _merge_lines(path: Path) -> list[tuple[str, str]]:
    lines = read_text(path).splitlines()
    return [_pair(line, path) for line in lines if line and not line.startswith("#version")]


def _pair(merge: Any, path: Path) -> tuple[str, str]:
    """A merge is written as text, or in newer files as a list of two."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
        raise BundleError(f"{path}: the merge {merge!r} is not a pair of tokens")
    return parts[0], parts[1]


def _single_file(path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    model = read_object(path).get("model")
    if not isinstance(model, dict):
        raise BundleError(f"{path}: holds no byte-pair model")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise BundleError(f"{path}: holds no byte-pair model")
    return vocab, [_pair(merge, path) for merge in merges]


def _check_vocab(vocab: dict[str, Any], merges: list[tuple[str, str]], folder: Path) -> None:
    """Raise BundleError unless every token that a text can become has an id."""
    bytes_alone = [char + tail for char in _ALPHABET for tail in ("", _WORD_END)]
    for token in [START, END, *bytes_alone, *map("".join, merges)]:
        if type(vocab.get(token)) is not int or not 0 <= vocab[token] < 2**31:
            raise BundleError(f"{folder}: token {token!r} has no id in the vocabulary")


def _content(token: Any) -> str | None:
    """A special token is written as text, or as an object with its text in `content`."""
    return token.get("content") if isinstance(token, dict) else token


def _model_length(config: Mapping[str, Any]) -> int:
    """model_max_length; transformers writes a huge number for 'not set'."""
    length = config.get("model_max_length")
    return length if isinstance(length, int) and 2 < length <= 4096 else _LENGTH

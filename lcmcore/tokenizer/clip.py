"""CLIP's byte-pair tokenizer, equal to transformers' fast one.

The reference implementation is `CLIPTokenizer` of transformers 5 (`CLIPTokenizerFast` before).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcmcore.tokenizer.added_tokens import AddedToken, Finder
from lcmcore.tokenizer.byte_pairs import WORD_END, Ranks, first_tokens, tokens_of
from lcmcore.tokenizer.files import END, START, read_folder
from lcmcore.tokenizer.words import beginning, normalize, plain_words, split
from lcmcore.util.validate import texts

log = logging.getLogger(__name__)

_LENGTH = 77
_LONG = 1000  # of texts, and of words, that are longer not all is needed
_SHOWN_WORDS, _SHOWN_LETTERS = 12, 40  # in a message


@dataclass(frozen=True)
class CLIPTokenizer:
    """Text to ids; create one with `from_dir`.

    `ranks` maps each merge to its rank, `vocab` each token to its id; `pad` is the id that pads
    to `length`. `added` are recognized in a text before it is split: the start, end and padding
    tokens, so that each "!" of a prompt stands alone where "!" pads (Stable Diffusion 2), and those
    of textual inversion.
    """

    vocab: Mapping[str, int]
    ranks: Ranks
    pad: int
    length: int = _LENGTH
    added: tuple[AddedToken, ...] = ()
    start: str = START
    end: str = END

    @classmethod
    def from_dir(cls, folder: str | Path) -> CLIPTokenizer:
        """From a `tokenizer` folder: tokenizer.json, or vocab.json and merges.txt.

        The padding token and added tokens come from the files beside them, as in transformers.
        Raises BundleError that names the file which is missing or invalid.
        """
        files = read_folder(Path(folder))
        own = {number: number for number in files.vocab.values()}  # each is held once: 1.5 MB
        ranks = {pair: own.get(rank, rank) for rank, pair in enumerate(files.merges)}
        pad, length = files.vocab[files.pad], _model_length(files.config)
        return cls(files.vocab, ranks, pad, length, files.added, files.start, files.end)

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

    def expand(self, text: str | Sequence[str]) -> list[str]:
        """The prompts with "<x> <x>_1 <x>_2" for "<x>", if those are added tokens.

        So diffusers writes the vectors of one textual inversion; the reference is
        `TextualInversionLoaderMixin.maybe_convert_prompt`. What is certainly too long is left out.
        Raises ArgumentError for what is not text, or an empty list.
        """
        return [self._expanded(item) for item in texts("prompt", text)]

    def _expanded(self, text: str) -> str:
        if not any(token in text for token in self._vectors):
            return text
        text = beginning(text, self._enough)
        found = {part.content for part in self._parts(text) if isinstance(part, AddedToken)}
        for token, vectors in self._vectors.items():
            if token in found:  # and then everywhere, as in diffusers; so many fill a prompt
                text = text.replace(token, " ".join(vectors), self.length)
        return text

    @cached_property
    def _vectors(self) -> dict[str, list[str]]:
        """All tokens of those with several vectors, at most as many as a prompt has tokens."""
        names = [token.content for token in self.added]
        known = set(names)
        vectors = {}
        for name in names:
            following = (f"{name}_{number}" for number in range(1, self.length))
            vectors[name] = [name, *takewhile(known.__contains__, following)]
        return {name: tokens for name, tokens in vectors.items() if len(tokens) > 1}

    def warn_beyond_embeddings(self, ids: NDArray[np.int64], rows: Any) -> str:
        """Log a warning, and return it, if a token of `ids` is beyond the embedding table; else "".

        `rows` is `vocab_size` of the text encoder's config, if it has one.
        """
        number = int(ids.max())
        if type(rows) is not int or number < rows:
            return ""
        token = next(token for token, its in self.vocab.items() if its == number)
        message = (
            f"the token {token!r} has the id {number}, but config.json has embeddings for {rows}"
            " tokens (vocab_size): export the text encoder with those of its added tokens, or"
            " remove the token from the tokenizer's files"
        )
        log.warning("text_encoder: %s", message)
        return message

    def words(self, prompt: str) -> Iterator[str]:
        """The words of a prompt as people count them, in lower case: no signs, no added tokens."""
        for part in self._parts(beginning(prompt, self._enough)):
            if isinstance(part, str):
                yield from plain_words(part)

    def warn_of_unknown_words(self, prompts: Sequence[str], known: Collection[str]) -> None:
        """Log, in one warning, the words of the prompts that are not among the known ones."""
        unknown = dict.fromkeys(
            word for prompt in prompts for word in self.words(prompt) if word not in known
        )
        if unknown:
            shown = ", ".join(word[:_SHOWN_LETTERS] for word in islice(unknown, _SHOWN_WORDS))
            more = f" and {len(unknown) - _SHOWN_WORDS} more" if len(unknown) > _SHOWN_WORDS else ""
            log.warning(
                "the model does not know these words, and draws anything for them: %s%s (lcm info"
                " lists the %d that it knows)",
                shown,
                more,
                len(known),
            )

    def _row(self, text: str) -> list[int]:
        head = beginning(text, self._enough)
        return self._ids(head, cut=head != text) or self._ids(text, cut=False)

    def _ids(self, text: str, *, cut: bool) -> list[int]:
        """A row without its padding; empty if the text is cut and what is left out may matter."""
        ids = [self.vocab[self.start]]
        for word in self._words(text):
            tokens = [word.content] if isinstance(word, AddedToken) else self._tokens(word, cut=cut)
            if tokens is None:
                return []
            ids += [self.vocab[token] for token in tokens]
            if len(ids) > self.length - 1:
                log.warning(
                    "the prompt is too long: truncated in %r, after %d tokens",
                    (word.content if isinstance(word, AddedToken) else word)[:40],
                    self.length,
                )
                break
        return [*ids[: self.length - 1], self.vocab[self.end]]

    def _tokens(self, word: str, *, cut: bool) -> list[str] | None:
        """The word's tokens, or at least those that fit; None if the text is cut too early."""
        if len(word) <= _LONG:
            return tokens_of(word, self.ranks)
        tokens = first_tokens(word, self.ranks, self.length, self._longest)
        return tokens_of(word, self.ranks) if tokens is None and not cut else tokens

    @cached_property
    def _longest(self) -> int:
        """Letters of the longest token, merged or added."""
        merged = (len("".join(pair).removesuffix(WORD_END)) for pair in self.ranks)
        return max((1, *merged, *(len(token.content) for token in self.added)))

    @cached_property
    def _enough(self) -> int:
        """Of a text with more characters than this, without spaces, the rest cannot matter.

        At most four characters become one in NFC, and one has one letter or more. So a text cut
        there has 4 * ((length + 8) * longest + _LONG) letters. What the cut can change is an added
        token that it divides, and its last word. Either that has no more than _LONG characters,
        thus 4 * _LONG letters, and the tokens before it fill the row; or `first_tokens` decides,
        which looks at (length + 8) * longest letters.
        """
        return 16 * ((self.length + 8) * self._longest + _LONG)

    def _words(self, text: str) -> Iterator[str | AddedToken]:
        """The added tokens of a text, and its normalized words."""
        for part in self._parts(text):
            if isinstance(part, AddedToken):
                yield part
            else:
                yield from split(part)

    def _parts(self, text: str) -> Iterator[str | AddedToken]:
        """The added tokens of a text, and the normalized text between them."""
        for part in self._verbatim.split(text):
            if isinstance(part, AddedToken):
                yield part
            else:
                yield from self._normalized.split(normalize(part))

    @cached_property
    def _verbatim(self) -> Finder:
        return Finder(token for token in self.added if not token.normalized)

    @cached_property
    def _normalized(self) -> Finder:
        return Finder((token for token in self.added if token.normalized), normalize)


def _model_length(config: Mapping[str, Any]) -> int:
    """model_max_length; transformers writes a huge number for 'not set'."""
    length = config.get("model_max_length")
    return length if isinstance(length, int) and 2 < length <= 4096 else _LENGTH

"""The vocabulary of CLIP ViT-L/14, which Stable Diffusion's text encoders share.

From OpenAI's CLIP (MIT licence, Copyright 2021 OpenAI): of `bpe_simple_vocab_16e6.txt` the merges
that CLIP reads. The ids follow from them, as in its `simple_tokenizer.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lcmcore.errors import BundleError
from lcmcore.tokenizer.added_tokens import AddedToken
from lcmcore.tokenizer.byte_pairs import ALPHABET, WORD_END
from lcmcore.tokenizer.clip import CLIPTokenizer
from lcmcore.tokenizer.files import END, START

TOKENS = 49_408


def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of CLIP ViT-L/14, as Stable Diffusion 1 has it.

    Raises BundleError where this installation has no vocabulary, OSError.
    """
    lines = _merges().splitlines()
    pairs = (line.partition(" ") for line in lines)
    ranks = {(left, right): rank for rank, (left, _, right) in enumerate(pairs)}
    vocab = _vocab(lines)
    added = (AddedToken(token, vocab[token], False, special=True) for token in (START, END))
    return CLIPTokenizer(vocab, ranks, pad=vocab[END], added=tuple(added))


def write_tokenizer(folder: Path, padding: str = END) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json; `padding` is a token.

    Raises BundleError where this installation has no vocabulary, OSError.
    """
    merges = _merges()
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": padding,
    }
    folder.mkdir(parents=True, exist_ok=True)
    vocab = json.dumps(_vocab(merges.splitlines()), ensure_ascii=False)
    _write(folder / "vocab.json", vocab)
    _write(folder / "merges.txt", f"#version: 0.2\n{merges}")
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def _vocab(merges: Iterable[str]) -> dict[str, int]:
    """Ids by token, as CLIP numbers them."""
    letters = sorted(ALPHABET)  # bytes that print, then the stand-ins
    tokens = [*letters, *(f"{letter}{WORD_END}" for letter in letters)]
    tokens += [line.replace(" ", "") for line in merges]
    return {token: number for number, token in enumerate([*tokens, START, END])}


def _merges() -> str:
    import gzip  # with zlib: no other part of the core needs it

    package = Path(__file__).parents[1]
    for folder in (package / "clip", package.parent / "assets" / "clip"):
        file = folder / "merges.txt.gz"
        if file.is_file():
            return gzip.decompress(file.read_bytes()).decode("utf-8")
    raise BundleError(f"CLIP's vocabulary is missing: no folder {package / 'clip'}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")

"""Vocabularies of CLIP's kind, and transformers' fast tokenizer for one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import CLIPTokenizer

from .files import save_json

LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

Pair = tuple[str, str]


def vocabulary(merges: Sequence[Pair]) -> dict[str, int]:
    """Ids as CLIP gives them: bytes, bytes that end a word, merges, start, end."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = [*map(chr, printable), *map(chr, range(256, 512 - len(printable)))]
    endings = [sign + WORD_END for sign in signs]
    tokens = [*signs, *endings, *map("".join, merges), START, END]
    return {token: index for index, token in enumerate(tokens)}


def write_tokenizer(
    folder: Path, vocab: Mapping[str, int], merges: Sequence[Pair], pad: str = END
) -> CLIPTokenizer:
    """Write the files of a tokenizer; return the one that transformers makes of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps(vocab, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(text + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **special}
    save_json(folder / "tokenizer_config.json", config)
    return CLIPTokenizer.from_pretrained(folder)


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[list[int]]:
    options = {"padding": "max_length", "max_length": LENGTH, "truncation": True}
    return tokenizer(list(texts), **options).input_ids

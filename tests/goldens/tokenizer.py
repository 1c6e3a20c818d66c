"""Golden token ids: transformers' fast CLIPTokenizer with CLIP's real vocabulary.

The vocabulary ships inside open_clip_torch. Of its 48,894 merges the golden keeps those that can
play a part in the prompts, with their true order and ids; transformers itself confirms that they
give the same ids as all of them.
"""

import gzip
import json
import re
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CLIPTokenizer

from .files import DATA, save_json
from .prompts import PICKED, prompts

CLIP = DATA / "clip"
LENGTH = 77
RANDOM = 1000
_END = "</w>"
_SPECIALS = ("<|startoftext|>", "<|endoftext|>")
_MERGES = 49152 - 256 - 2  # CLIP's tokens less twice the bytes and the specials, of a longer list

Pair = tuple[str, str]


def make() -> str:
    texts = prompts(RANDOM, seed=5)
    merges = _all_merges()
    vocab = _vocabulary(merges)
    with TemporaryDirectory() as folder:
        whole = _write(Path(folder), vocab, merges)
    kept = _concerned(whole, merges, texts)
    tokens = {*list(vocab)[:512], *map("".join, kept), *_SPECIALS, "!"}
    part = _write(CLIP, {token: vocab[token] for token in sorted(tokens, key=vocab.get)}, kept)
    ids = token_ids(whole, texts)
    if token_ids(part, texts) != ids:
        raise SystemExit("the part of CLIP's vocabulary gives other ids than the whole")
    # Stable Diffusion 2 pads with "!"
    with TemporaryDirectory() as folder:
        padded = token_ids(_write(Path(folder), vocab, merges, pad="!"), PICKED)
    save_json(DATA / "tokenizer.json.gz", {"texts": texts, "ids": ids, "ids_padded_by_!": padded})
    return f"{len(texts)} texts, {len(kept)} of {len(merges)} merges"


def token_ids(tokenizer: Any, texts: list[str] | tuple[str, ...]) -> list[list[int]]:
    options = {"padding": "max_length", "max_length": LENGTH, "truncation": True}
    return tokenizer(list(texts), **options).input_ids


def _all_merges() -> list[Pair]:
    name = "open_clip/bpe_simple_vocab_16e6.txt.gz"
    path = distribution("open_clip_torch").locate_file(name)
    lines = gzip.decompress(Path(str(path)).read_bytes()).decode().split("\n")
    return [tuple(line.split()) for line in lines[1 : 1 + _MERGES]]


def _vocabulary(merges: list[Pair]) -> dict[str, int]:
    """Ids as CLIP gives them: bytes, bytes that end a word, merges, specials."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = [*map(chr, printable), *map(chr, range(256, 512 - len(printable)))]
    endings = [sign + _END for sign in signs]
    tokens = [*signs, *endings, *map("".join, merges), *_SPECIALS]
    return {token: index for index, token in enumerate(tokens)}


def _write(folder: Path, vocab: dict[str, int], merges: list[Pair], pad: str = _SPECIALS[1]) -> Any:
    """The three files of a tokenizer, and the tokenizer that transformers makes of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = json.dumps(vocab, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(text + "\n", encoding="utf-8")
    special = dict(zip(("bos_token", "eos_token"), _SPECIALS, strict=True))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **special}
    save_json(folder / "tokenizer_config.json", {**config, "pad_token": pad})
    return CLIPTokenizer.from_pretrained(folder)


def _concerned(tokenizer: Any, merges: list[Pair], texts: list[str]) -> list[Pair]:
    """Every merge whose token occurs inside a word of the texts, taken or not."""
    backend = tokenizer.backend_tokenizer
    words = set()
    for part in re.split("|".join(map(re.escape, _SPECIALS)), "\n".join(texts)):
        normal = backend.normalizer.normalize_str(part)
        words |= {word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)}
    haystack = "\n".join(word + _END for word in words)
    return [pair for pair in merges if "".join(pair) in haystack]

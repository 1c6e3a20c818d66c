"""Train a CLIP vocabulary in which every word of the captions is one token.

    python vocabulary.py CAPTIONS.txt TOKENIZER_DIR

CLIP's tokenizer is a byte-pair encoding of lower-case words: an alphabet of 256 bytes, the same 256
again as the last of a word (`</w>`), then merges in rank order (Sennrich et al., 2016, "Neural
Machine Translation of Rare Words with Subword Units"). Trained to its end on a few words, its
merges spell each of them out completely; any other word falls into the pieces that those merges
reach, in the worst case single bytes.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
END_OF_WORD = "</w>"
MAX_LENGTH = 77

Pair = tuple[str, str]

# CLIP's split: contractions, letters, single digits, runs of other signs.
WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def count_words(captions: Iterable[str]) -> Counter[str]:
    """Count the words of the captions."""
    return Counter(word for caption in captions for word in WORD.findall(caption.lower()))


def write_tokenizer(counts: Mapping[str, int], folder: Path) -> dict[str, int]:
    """Train on the counted words, write the files of a CLIPTokenizer, return its vocabulary."""
    merges = train_merges(counts)
    vocabulary = number_tokens(merges)
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    files = {
        "merges.txt": "\n".join(lines),
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=2),
        "special_tokens_map.json": json.dumps(special, indent=2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return vocabulary


def train_merges(counts: Mapping[str, int]) -> list[Pair]:
    """Merge the most frequent neighbours, ties by alphabet, until each word is a single piece."""
    pieces = {word: spell(word) for word in counts}
    merges: list[Pair] = []
    while True:
        pairs: Counter[Pair] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        pieces = {word: merge(parts, merges[-1]) for word, parts in pieces.items()}


def spell(word: str) -> list[str]:
    """Write a word as the tokens of its bytes."""
    characters = byte_characters()
    *head, last = (characters[byte] for byte in word.encode())
    return [*head, last + END_OF_WORD]


def merge(parts: list[str], pair: Pair) -> list[str]:
    """Join each occurrence of the pair, left to right."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def number_tokens(merges: Iterable[Pair]) -> dict[str, int]:
    """Number the tokens as CLIP does: bytes, bytes that end a word, merges, start, end."""
    alphabet = byte_characters().values()
    endings = [character + END_OF_WORD for character in alphabet]
    tokens = [*alphabet, *endings, *("".join(pair) for pair in merges), BOS, EOS]
    distinct = dict.fromkeys(tokens)  # two merges may arrive at the same token
    return {token: index for index, token in enumerate(distinct)}


def byte_characters() -> dict[int, str]:
    """Map each byte to the character that stands for it, in the order of CLIP's ids.

    Bytes that print in Latin-1 stand for themselves and come first; the others follow as U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return dict(zip([*printable, *others], map(chr, [*printable, *range(256, 512)]), strict=False))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, help="text file, a caption or a word a line")
    parser.add_argument("tokenizer_dir", type=Path)
    args = parser.parse_args()
    counts = count_words(args.captions.read_text(encoding="utf-8").splitlines())
    vocabulary = write_tokenizer(counts, args.tokenizer_dir)
    print(f"{len(counts)} words, {len(vocabulary)} tokens")


if __name__ == "__main__":
    main()

"""Textual inversion: vectors that the text encoder reads for new words.

Gal et al., "An Image is Worth One Word" (arXiv:2208.01618). A file holds one vector or several; as
in diffusers, the tokens of several are NAME, NAME_1 ..., and NAME in a prompt means all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lcmcore.errors import BundleError, first_line
from lcmcore.util.configfile import read_object
from runtimes.onnx.checkpoint.configs import write_json
from runtimes.onnx.checkpoint.kinds import SDXL, TEXT_WIDTHS, is_embedding
from runtimes.onnx.checkpoint.weight_file import WeightFile

_UNNAMED = ("emb_params", "string_to_param.*")  # the file's name is the word
_MAX_VECTORS = 75  # as many tokens as a prompt has


@dataclass(frozen=True)
class Embedding:
    """New words, with the ids that the tokenizer gave them, and a vector for each."""

    path: Path
    words: tuple[str, ...]
    ids: tuple[int, ...]
    vectors: Tensor


def add_embeddings(paths: Sequence[Path], root: Path) -> tuple[Embedding, ...]:
    """Add the words of files to the tokenizer in `root`, and to the size of its text encoder.

    Raises BundleError.
    """
    config = root / "text_encoder" / "config.json"
    text = read_object(config)
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(root / "tokenizer")
        added = tuple(_add(path, tokenizer, text.get("hidden_size")) for path in paths)
        tokenizer.save_pretrained(root / "tokenizer")
    except (OSError, ValueError) as error:
        raise BundleError(f"the tokenizer cannot be extended: {first_line(error)}") from error
    size = max([text["vocab_size"], *(number + 1 for each in added for number in each.ids)])
    write_json(config, {**text, "vocab_size": size})
    return added


def apply(embeddings: Iterable[Embedding], model: nn.Module) -> None:
    """Give a text encoder the vectors of new words, and rows where it has none for their ids."""
    layer: Any = next(each for each in model.modules() if isinstance(each, nn.Embedding))
    with torch.no_grad():
        for each in embeddings:
            for number, vector in zip(each.ids, each.vectors, strict=True):
                rows = layer.weight.shape[0]
                if number >= rows:
                    more = torch.zeros(number + 1 - rows, layer.weight.shape[1])
                    layer.weight = nn.Parameter(torch.cat([layer.weight, more]))
                layer.weight[number] = vector
    layer.num_embeddings = layer.weight.shape[0]


def _add(path: Path, tokenizer: Any, width: int | None) -> Embedding:
    file = WeightFile(path)
    if "clip_g" in file.shapes:
        raise BundleError(f"{path}: a textual inversion for {SDXL}")
    found = [name for name, shape in file.shapes.items() if is_embedding(name, shape) or (
        name in _UNNAMED or (shape[-1:] == (width,) and len(file.shapes) == 1)
    )]  # fmt: skip
    if len(found) != 1:
        raise BundleError(
            f"{path}: not a textual inversion: {len(found)} of its tensors may be one"
        )
    vectors = torch.atleast_2d(file.read(found[0]))
    count, got = vectors.shape
    if got != width:
        known = f", those of {TEXT_WIDTHS[got]}" if got in TEXT_WIDTHS else ""
        raise BundleError(
            f"{path}: vectors of {got} numbers{known}, and the text encoder's have {width}"
        )
    if count > _MAX_VECTORS:
        raise BundleError(f"{path}: {count} vectors, more than a prompt has tokens")
    name = path.stem if found[0] in _UNNAMED else found[0]
    name = re.sub(r"\s+", "_", name)
    words = (name, *(f"{name}_{number}" for number in range(1, count)))
    known_words = tokenizer.get_vocab()
    for word in words:
        if word in known_words:
            raise BundleError(f"{path}: the tokenizer has {word!r} already: rename the file")
    tokenizer.add_tokens(list(words))
    return Embedding(path, words, tuple(tokenizer.convert_tokens_to_ids(list(words))), vectors)

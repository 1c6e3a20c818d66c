"""Against transformers' fast CLIPTokenizer with CLIP's own vocabulary.

Golden: tests/goldens/tokenizer.py (prompts: prompts.py), again with `make goldens`: a part of the
vocabulary which transformers has found to give the same ids as the whole, the texts and their ids.
"""

import json
import logging
import shutil
from pathlib import Path

import pytest

from lcmcore.tokenizer import START, CLIPTokenizer

from .goldens import DATA, load_json

CLIP = DATA / "clip"
GOLDEN = load_json("tokenizer.json.gz")
TEXTS: list[str] = GOLDEN["texts"]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_dir(CLIP)


def test_ids_of_every_text(tokenizer: CLIPTokenizer) -> None:
    assert len(TEXTS) > 1000
    wrong = {
        text: ids
        for text, ids, expected in zip(TEXTS, tokenizer(TEXTS).tolist(), GOLDEN["ids"], strict=True)
        if ids != expected
    }
    assert wrong == {}


def test_the_golden_has_truncated_texts_and_special_tokens(tokenizer: CLIPTokenizer) -> None:
    """Texts that are cut, and specials inside of them: else the test above would show little."""
    rows = GOLDEN["ids"]
    cut = [row for row in rows if row.count(tokenizer.pad) == 1]
    starts = [row for row in rows if tokenizer.vocab[START] in row[1:]]
    assert len(cut) > 50
    assert len(starts) > 50


def test_other_padding(tmp_path: Path) -> None:
    """Stable Diffusion 2 pads with "!", which makes every "!" a token of its own."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(CLIP / name, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "!"}))
    expected = GOLDEN["ids_padded_by_!"]
    assert CLIPTokenizer.from_dir(tmp_path)(TEXTS[: len(expected)]).tolist() == expected


def test_a_truncated_prompt_is_reported(
    tokenizer: CLIPTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer("word " * 75)
        assert not caplog.records
        tokenizer("word " * 76)
    assert "too long" in caplog.text

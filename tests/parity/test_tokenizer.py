"""Against transformers' fast CLIPTokenizer with CLIP's own vocabulary.

Golden: tests/goldens/tokenizer.py (prompts: prompts.py), again with `make goldens`: a part of the
vocabulary which transformers has found to give the same ids as the whole, the texts and their ids.
Those of added tokens, and of prompts that diffusers expands: tests/goldens/added_tokens.py.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from lcmcore import demo_dir
from lcmcore.tokenizer import START, CLIPTokenizer

from .goldens import DATA, load_json

CLIP = DATA / "clip"
GOLDEN = load_json("tokenizer.json.gz")
TEXTS: list[str] = GOLDEN["texts"]
ADDED = load_json("added_tokens.json.gz")


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


@pytest.fixture(params=ADDED["cases"], ids=lambda case: case["name"])
def case(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def folder(case: Any, tmp_path: Path) -> Path:
    """The files of a case beside the demo's vocabulary, or with it in tokenizer.json."""
    vocab, merges = (demo_dir() / "tokenizer" / name for name in ("vocab.json", "merges.txt"))
    model = {"vocab": json.loads(vocab.read_text()), "merges": merges.read_text().splitlines()[1:]}
    for name, content in case["files"].items():
        whole = {"added_tokens": content, "model": model} if name == "tokenizer" else content
        (tmp_path / f"{name}.json").write_text(json.dumps(whole))
    if "tokenizer" not in case["files"]:
        for path in (vocab, merges):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_added_tokens(case: Any, folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_dir(folder)
    for text, expected in zip(ADDED["texts"], case["ids"], strict=True):
        assert tokenizer(text)[0].tolist() == expected, text


def test_several_vectors_of_one_token(case: Any, folder: Path) -> None:
    """As diffusers writes them into the prompt, before it is tokenized."""
    assert CLIPTokenizer.from_dir(folder).expand(ADDED["prompts"]) == case["expanded"]


def test_the_golden_has_every_kind_of_added_token() -> None:
    """Else the two tests above would show little."""
    cases = {case["name"]: case for case in ADDED["cases"]}
    plain = cases["nothing beside"]
    same = [name for name, case in cases.items() if case["ids"] == plain["ids"]]
    assert same == ["nothing beside", "an empty decoder counts"]
    assert cases["slow 4"]["expanded"] != plain["expanded"] == ADDED["prompts"]

"""CLIP's tokenizer over the demo's vocabulary; parity with the fast one is tested elsewhere."""

import json
import logging
import random
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcmcore import ArgumentError, BundleError, demo_dir
from lcmcore.tokenizer import CLIPTokenizer

FOLDER = demo_dir() / "tokenizer"
TOKENIZER = CLIPTokenizer.from_dir(FOLDER)
START, END = TOKENIZER.vocab["<|startoftext|>"], TOKENIZER.vocab["<|endoftext|>"]


@pytest.fixture
def folder(tmp_path):
    """A copy of the vocabulary, to break; without the map that goes before the config."""
    return shutil.copytree(
        FOLDER, tmp_path / "tokenizer", ignore=shutil.ignore_patterns("special_tokens_map.json")
    )


def words_of(ids):
    names = {number: token for token, number in TOKENIZER.vocab.items()}
    end = ids.tolist().index(END)
    return [names[number] for number in ids[1:end].tolist()]


@given(st.text() | st.text(st.characters(codec=None, categories=["Cs", "So", "Mn", "L", "Z"])))
def test_any_text_gives_ids_in_range(text):
    ids = TOKENIZER(text)
    assert ids.dtype == np.int64
    assert ids.shape == (1, 77)
    assert ids.min() >= 0
    assert ids.max() < len(TOKENIZER.vocab)
    assert ids[0, 0] == START
    assert ids[0, -1] == END
    filled = ids[0].tolist()
    assert set(filled[filled.index(END) :]) == {END} or "<|endoftext|>" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a lake", ["a</w>", "lake</w>"]),
        ("  A\tLAKE\n", ["a</w>", "lake</w>"]),
        ("lake,lake", ["lake</w>", ",</w>", "lake</w>"]),
        ("12", ["1</w>", "2</w>"]),
        ("", []),
        (" \u2003\n", []),
    ],
)
def test_words(text, words):
    assert words_of(TOKENIZER(text)[0]) == words


def test_an_unknown_word_falls_into_its_pieces():
    assert "".join(words_of(TOKENIZER("zqzqx")[0])) == "zqzqx</w>"


def test_a_lone_surrogate_is_a_question_mark():
    np.testing.assert_array_equal(TOKENIZER("a \ud800 lake"), TOKENIZER("a ? lake"))


def test_a_list_is_a_batch():
    ids = TOKENIZER(["a lake", ""])
    assert ids.shape == (2, 77)
    np.testing.assert_array_equal(ids[:1], TOKENIZER("a lake"))


def test_3000_words_are_cut_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "lcmcore"):
        ids = TOKENIZER("lake " * 3000)
    assert words_of(ids[0]) == ["lake</w>"] * 75
    assert "too long" in caplog.text


def test_a_word_of_100000_letters_takes_no_quadratic_time(caplog):
    """Joining by rescanning the word took minutes; and the log would have quoted all of it."""
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=100_000)
    with caplog.at_level(logging.WARNING, "lcmcore"):
        ids = TOKENIZER("".join(letters))
    assert START not in ids[0, 1:]
    assert ids[0, -1] == END
    assert len(caplog.text) < 300


def rescanned(word, ranks):
    """The textbook way: find the best pair of all, join it everywhere, begin again."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, 1e9))
        if best not in ranks:
            return parts
        joined = []
        while parts:
            if tuple(parts[:2]) == best:
                joined.append("".join(best))
                del parts[:2]
            else:
                joined.append(parts.pop(0))
        parts = joined
    return parts


@given(st.integers(0, 10**6), st.text("abc", min_size=1, max_size=30))
def test_merges_go_by_rank(seed, word):
    """Over merges learned in a random order, as training would: each of two known tokens."""
    draw = random.Random(seed)
    heads, tails = list("abc"), ["a", "b", "c", "a</w>", "b</w>", "c</w>"]
    merges = []
    for _ in range(12):
        pair = draw.choice(heads), draw.choice(tails)
        merges.append(pair)
        tails.append("".join(pair))
        if not tails[-1].endswith("</w>"):
            heads.append(tails[-1])
    merges = list(dict.fromkeys(merges))
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    known = [*heads, *tails, "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(known))}
    ids = CLIPTokenizer(vocab, ranks, 0)(word)[0].tolist()
    expected = [vocab[part] for part in rescanned(word, ranks)]
    assert ids[1 : len(expected) + 1] == expected


@pytest.mark.parametrize("text", [5, None, b"a", [], ["a", 5], [None]])
def test_what_is_no_text(text):
    with pytest.raises(ArgumentError, match="prompt must be text or a list of texts"):
        TOKENIZER(text)


def test_one_file_does_for_both(folder):
    """tokenizer.json, in which newer tools write merges as lists of two."""
    vocab = json.loads((folder / "vocab.json").read_text())
    lines = (folder / "merges.txt").read_text().splitlines()[1:]
    merges = [line.split() for line in lines]
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    for written in (merges, lines):
        model = {"model": {"vocab": vocab, "merges": written}}
        (folder / "tokenizer.json").write_text(json.dumps(model))
        assert CLIPTokenizer.from_dir(folder) == TOKENIZER


def test_the_padding_token_may_be_another(folder):
    config = {"pad_token": {"content": "!</w>"}, "model_max_length": 20}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = CLIPTokenizer.from_dir(folder)("a")
    assert ids.shape == (1, 20)
    assert ids[0, 2] == END
    assert set(ids[0, 3:].tolist()) == {TOKENIZER.vocab["!</w>"]}


BROKEN = [
    ("vocab.json", None, "no such file"),
    ("vocab.json", "", "not valid JSON"),
    ("vocab.json", "[]", "expected a JSON object, found list"),
    ("vocab.json", "{}", "token '<|startoftext|>' has no id"),
    ("vocab.json", b"\xff\xfe", "cannot be read"),
    ("vocab.json", "[" * 100_000, "not valid JSON"),
    ("merges.txt", None, "no such file"),
    ("merges.txt", "a b c", "the merge 'a b c' is not a pair"),
    ("merges.txt", "zq zq", "token 'zqzq' has no id"),
    ("merges.txt", b"\xff", "cannot be read"),
    ("tokenizer_config.json", "{", "not valid JSON"),
    ("tokenizer_config.json", '{"pad_token": "nope"}', "pad_token 'nope' has no id"),
    ("tokenizer_config.json", '{"pad_token": [1]}', "pad_token [1]"),
]


@pytest.mark.parametrize(("name", "content", "words"), BROKEN)
def test_broken_files_are_named(name, content, words, folder):
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BundleError, match=re.escape(words)) as caught:
        CLIPTokenizer.from_dir(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("number", [-1, 2**31, 10**30, "7", None, True, 1.0])
def test_ids_must_be_ids(number, folder):
    vocab = json.loads((folder / "vocab.json").read_text())
    vocab["a</w>"] = number
    (folder / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(BundleError, match="token 'a</w>' has no id"):
        CLIPTokenizer.from_dir(folder)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(values, values, values)
def test_any_json_is_a_tokenizer_or_an_error(tmp_path_factory, vocab, merges, pad):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": vocab, "merges": merges}})
    )
    with pytest.raises(BundleError):
        CLIPTokenizer.from_dir(folder)
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    try:
        CLIPTokenizer.from_dir(folder)
    except BundleError as error:
        assert str(folder) in str(error)

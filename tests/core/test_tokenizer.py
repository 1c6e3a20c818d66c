"""CLIP's tokenizer over the demo's vocabulary; parity with the fast one is tested elsewhere."""

import json
import logging
import random
import re
import shutil
import time
import tracemalloc
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lcmcore.tokenizer.clip
from lcmcore import ArgumentError, BundleError, NetworkError, demo_dir
from lcmcore.cli.info import describe
from lcmcore.tokenizer import CLIPTokenizer
from lcmcore.tokenizer.added_tokens import SPACES, AddedToken, Finder
from lcmcore.tokenizer.byte_pairs import first_tokens, letters, tokens_of
from lcmcore.tokenizer.words import beginning, normalize

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

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


def test_76_tokens_are_too_many_and_75_are_not(caplog):
    with caplog.at_level(logging.WARNING, "lcmcore"):
        ids = TOKENIZER(["lake " * 75, "lake " * 76])
    assert [record.getMessage() for record in caplog.records] == [
        "the prompt is too long: truncated in 'lake', after 77 tokens"
    ]
    np.testing.assert_array_equal(ids[0], ids[1])


MILLIONS = 10_000_000
LONG = {
    "one letter": "a" * MILLIONS,
    "letters": "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=MILLIONS)),
    "spaces": " " * MILLIONS + "lake",
    "short words": "ab c " * (MILLIONS // 5),
    "signs": "<" * MILLIONS,
    "ideographs": "\u4e00" * MILLIONS,
    "special tokens": "<|endoftext|>" * (MILLIONS // 13),
    "marks in order": "e" + "\u0301" * (MILLIONS // 10),
    "marks in disorder": "e" + "\u0301\u0323" * (MILLIONS // 20),
    "letters with marks": "e\u0301\u0323" * (MILLIONS // 3),
}


@pytest.mark.slow
@pytest.mark.host
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_ten_million_letters_take_no_time_and_no_memory(text, caplog):
    """They took a minute and 1 GB, and the log quoted all of it; marks took their square."""
    began = time.process_time()
    ids = TOKENIZER(text)
    assert time.process_time() - began < 2
    assert ids[0, -1] == END
    assert len(caplog.text) < 300
    tracemalloc.start()
    try:
        TOKENIZER(text)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["\u0301\u0323" * 4000, "\u0f73" * 4000, "a\u0344\u0323" * 3000])
def test_marks_are_ordered_as_unicodedata_orders_them(text):
    assert normalize(f"E{text}x") == unicodedata.normalize("NFC", f"E{text}x").lower()


def trained(seed, alphabet, count, longest=40):
    """Merges learned in a random order, as training would: each of two known tokens."""
    draw = random.Random(seed)
    heads, tails = [*alphabet], [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges = []
    for _ in range(count):
        pair = draw.choice(heads), draw.choice(tails)
        if pair not in merges and len("".join(pair)) <= longest:
            merges.append(pair)
            tails.append("".join(pair))
            if not tails[-1].endswith("</w>"):
                heads.append(tails[-1])
    vocab = dict.fromkeys([*heads, *tails, "<|startoftext|>", "<|endoftext|>"])
    return {token: number for number, token in enumerate(vocab)}, merges


@given(
    st.integers(0, 10**6),
    st.text("ab", min_size=1, max_size=8),
    st.integers(100, 300),
    st.integers(0, 3),
    st.integers(1, 6),
)
def test_the_first_tokens_are_those_of_every_longer_word(seed, unit, size, noise, count):
    """Against the whole word, over vocabularies in which far merges decide near ones."""
    _, merges = trained(seed, "ab", 14)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    longest = max((len("".join(pair).removesuffix("</w>")) for pair in merges), default=1)
    draw = random.Random(seed)
    word = list((unit * size)[:size])
    for _ in range(noise):
        word[draw.randrange(size)] = draw.choice("ab")
    word = "".join(word)
    found = first_tokens(word, ranks, count, longest)
    if found is not None:
        assert len(found) == count
        for tail in ("", "a", "b", "abab", "bba" * 7, word):
            assert tokens_of(word + tail, ranks)[:count] == found


def test_a_word_that_depends_on_its_end_is_not_decided_by_its_beginning():
    """Pairs from the right: an even word begins with a pair, an odd one with a letter alone."""
    letters_of_bytes = [chr(number) for number in range(0x21, 0x7F)]
    merges = list(pairwise(letters_of_bytes))[::-1]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    word = "".join(letters_of_bytes)
    even, odd = word + "\xff", word[:-1] + "\xff"
    assert tokens_of(even, ranks)[0] == '!"'
    assert tokens_of(odd, ranks)[0] == "!"
    assert first_tokens(even, ranks, 3, 2) is None
    assert first_tokens(odd, ranks, 3, 2) is None


def test_first_tokens_need_so_many_letters_and_no_more():
    """One more than (count + 4 places) of the longest token: the last may end the word."""
    ranks = {("a", "b"): 0}
    assert first_tokens("ab" * 6 + "a", ranks, 2, 2) == ["ab", "ab"]
    assert first_tokens("ab" * 6, ranks, 2, 2) is None
    assert first_tokens("ab" * 1000, ranks, 2, 10) == ["ab", "ab"]
    assert first_tokens("abc", {}, 3, 1) is None


def plain(tokenizer, text):
    """The ids of a whole text, without a bound; its merges by rescanning."""
    ids = [tokenizer.vocab["<|startoftext|>"]]
    for word in tokenizer._words(text):
        if isinstance(word, AddedToken):
            ids.append(word.id)
        else:
            ids += [tokenizer.vocab[token] for token in tokens_of(word, tokenizer.ranks)]
    ids = [*ids[: tokenizer.length - 1], tokenizer.vocab["<|endoftext|>"]]
    return ids + [tokenizer.pad] * (tokenizer.length - len(ids))


words_and_marks = st.text(
    st.sampled_from("ab  \n!<x>1'\u0301\u0323\u0344\u0f73é\u1112\u1161"), max_size=40
)
runs = st.tuples(words_and_marks, st.integers(1, 600)).map(lambda drawn: drawn[0] * drawn[1])


@given(st.lists(runs, max_size=4).map("".join), st.integers(3, 9))
def test_long_texts_have_the_ids_of_whole_ones(text, length):
    """With bounds so low that most texts are cut; added tokens lie across the cuts."""
    added = (
        AddedToken("<x>", len(TOKENIZER.vocab), lstrip=True, rstrip=True),
        AddedToken("ab!", len(TOKENIZER.vocab) + 1, single_word=True),
        AddedToken("a\n", len(TOKENIZER.vocab) + 2, normalized=False),
    )
    vocab = {**TOKENIZER.vocab, **{token.content: token.id for token in added}}
    tokenizer = CLIPTokenizer(vocab, TOKENIZER.ranks, END, length, added)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcmcore.tokenizer.clip, "_LONG", 8)
        assert tokenizer(text)[0].tolist() == plain(tokenizer, text)


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        ("a  bcd", 3, "a  bc"),
        (" a \n b ", 3, " a \n b "),
        ("   ", 1, "   "),
        ("abc\u0301\u0323d", 3, "abc\u0301\u0323"),
        ("ab\u0f73c", 2, "ab\u0f73"),
        ("a" + "\u0301\u0323" * 9, 3, "a" + "\u0323" * 3 + "\u0301" * 3),
        ("ab" + "\u0301\u0323" * 9 + "c", 2, "ab" + "\u0323" * 2 + "\u0301" * 2),
    ],
)
def test_the_beginning_of_a_text(text, count, expected):
    assert beginning(text, count) == expected


def test_letters_are_those_of_gpt2():
    """From the published table: what is printable stands for itself."""
    assert letters("!~é ") == ["!", "~", "Ã", "©", "Ġ"]
    assert letters("\x00\xad\x7f") == ["Ā", "Â", "Ń", "ġ"]


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
    vocab, merges = trained(seed, "abc", 12)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
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


def write(folder, **contents):
    """JSON files of these names."""
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def added_of(folder):
    return {token.content: token for token in CLIPTokenizer.from_dir(folder).added}


def test_special_tokens_map_decides_on_the_padding(folder):
    write(folder, tokenizer_config={"pad_token": "<|endoftext|>"}, special_tokens_map={})
    assert CLIPTokenizer.from_dir(folder).pad == END
    write(folder, special_tokens_map={"pad_token": "!"})
    ids = CLIPTokenizer.from_dir(folder)("wow! a")[0].tolist()
    assert ids[-1] == TOKENIZER.vocab["!"]
    assert TOKENIZER.vocab["!"] in ids[: ids.index(END)]
    write(folder, special_tokens_map={"pad_token": None})
    assert CLIPTokenizer.from_dir(folder).pad == END
    write(folder, tokenizer_config={"added_tokens_decoder": {}, "pad_token": "x</w>"})
    write(folder, special_tokens_map={"pad_token": "!"})
    assert CLIPTokenizer.from_dir(folder).pad == TOKENIZER.vocab["x</w>"]


def test_flags_of_added_tokens(folder):
    flags = {"normalized": False, "lstrip": True, "rstrip": True, "single_word": True}
    decoder = {
        "717": {"content": "<b>", "special": True},
        "716": {"content": "<a>", **flags},
        "720": {"content": "", **flags},
        "721": {"content": "<c>", "normalized": True, "special": True, "other": 5},
    }
    write(folder, tokenizer_config={"added_tokens_decoder": decoder})
    assert CLIPTokenizer.from_dir(folder).added == (
        AddedToken("<a>", 716, False, False, True, True, True),
        AddedToken("<b>", 717, False, True),
        AddedToken("<c>", 718, True, True),
        AddedToken("<|startoftext|>", START, False, True),
        AddedToken("<|endoftext|>", END, False, True),
    )
    assert CLIPTokenizer.from_dir(folder).vocab["<c>"] == 718


def test_ids_follow_the_vocabulary_whatever_the_file_says(folder, caplog):
    write(folder, added_tokens={"<b>": 900, "<a>": 800, "lake</w>": 716})
    with caplog.at_level(logging.WARNING, "lcmcore"):
        added = added_of(folder)
    lake = TOKENIZER.vocab["lake</w>"]
    assert [added[name].id for name in ("lake</w>", "<a>", "<b>")] == [lake, 716, 717]
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: the added token 'lake</w>' has the id {lake}, as in transformers, and not 716",
        f"{folder}: the added token '<a>' has the id 716, as in transformers, and not 800",
        f"{folder}: the added token '<b>' has the id 717, as in transformers, and not 900",
    ]
    caplog.clear()
    write(folder, added_tokens={"<a>": 716, "<b>": 717})
    added_of(folder)
    assert not caplog.records


def test_added_tokens_with_a_role_are_special(folder):
    write(folder, added_tokens={"<a>": 716, "<b>": 717}, special_tokens_map={"pad_token": "<a>"})
    assert added_of(folder)["<a>"][:4] == ("<a>", 716, False, True)
    assert added_of(folder)["<b>"][:4] == ("<b>", 717, True, False)
    assert CLIPTokenizer.from_dir(folder).pad == 716


def test_special_tokens_without_a_role(folder):
    extras = {"additional_special_tokens": ["<a>"], "extra_special_tokens": {"image": "<b>"}}
    write(folder, tokenizer_config=extras, special_tokens_map={"extra_special_tokens": ["<c>"]})
    added = added_of(folder)
    assert [added[name][1:4] for name in ("<a>", "<b>", "<c>")] == [
        (716, False, True),
        (717, False, True),
        (718, False, True),
    ]


def test_start_and_end_may_be_others(folder):
    write(folder, tokenizer_config={"bos_token": "x", "eos_token": "b</w>"})
    ids = CLIPTokenizer.from_dir(folder)("lake")[0].tolist()
    vocab = TOKENIZER.vocab
    assert ids[:4] == [vocab["x"], vocab["lake</w>"], vocab["b</w>"], END]


def test_tokenizer_json_goes_before_vocab_json(folder):
    vocab = {token: 715 - number for token, number in TOKENIZER.vocab.items()}
    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    write(folder, tokenizer={"model": {"vocab": vocab, "merges": merges}, "added_tokens": []})
    assert CLIPTokenizer.from_dir(folder).vocab == vocab


FIVE = (
    AddedToken("<x>", 716),
    AddedToken("<x>_1", 717),
    AddedToken("<x>_2", 718),
    AddedToken("<x>_4", 719),
    AddedToken("<y>", 720),
)


def with_added(*added, **options):
    vocab = {**TOKENIZER.vocab, **{token.content: token.id for token in added}}
    return CLIPTokenizer(vocab, TOKENIZER.ranks, END, added=added, **options)


@pytest.mark.parametrize(
    ("prompt", "expanded"),
    [
        ("a <x>", "a <x> <x>_1 <x>_2"),
        ("<x><x>", "<x> <x>_1 <x>_2<x> <x>_1 <x>_2"),
        ("<X>, <y>", "<X>, <y>"),
        ("<x>_1", "<x>_1"),
        ("<x>_1 <x>", "<x> <x>_1 <x>_2_1 <x> <x>_1 <x>_2"),  # so in diffusers
    ],
)
def test_vectors_of_a_textual_inversion(prompt, expanded):
    """tests/parity has what diffusers makes of these; here it is to be seen."""
    tokenizer = with_added(*FIVE)
    assert tokenizer.expand(prompt) == [expanded]
    assert tokenizer.expand(["a", prompt]) == ["a", expanded]
    with pytest.raises(ArgumentError, match="prompt must be text"):
        tokenizer.expand(5)


def test_no_more_is_expanded_than_a_prompt_holds():
    """A stranger's folder with thousands of vectors, in a prompt of thousands of tokens."""
    names = ["<x>", *(f"<x>_{number}" for number in range(1, 3000))]
    tokenizer = with_added(*(AddedToken(name, 716 + at) for at, name in enumerate(names)))
    assert tokenizer.expand("<x>") == [" ".join(names[:77])]
    (expanded,) = tokenizer.expand("<x> " * 100_000)
    assert len(expanded) < 1_000_000
    assert tokenizer(expanded)[0, 1:76].tolist() == [716 + at for at in range(75)]


def test_the_pipeline_expands_prompts(configs, fake):
    shutil.copytree(configs / "tokenizer", configs / "other")
    write(configs / "tokenizer", added_tokens={"<x>": 716, "<x>_1": 717})
    seen = []

    def encode(input_ids):
        seen.append(input_ids)
        return np.zeros((len(input_ids), 77, 16))

    pipe = fake(configs, text_encoder=encode)
    pipe.encode_prompt("a <x> lake")
    lake = TOKENIZER.vocab["lake</w>"]
    assert seen[0][0, :6].tolist() == [START, TOKENIZER.vocab["a</w>"], 716, 717, lake, END]


def test_a_token_without_an_embedding_is_named(configs, fake, caplog):
    """Where the network fails for it, and in the log where it does not."""
    write(configs / "tokenizer", added_tokens={"<x>": 716})

    def gather(input_ids):
        if input_ids.max() > 715:
            raise IndexError("idx=716 is out of bounds")
        return np.zeros((len(input_ids), 77, 16))

    words = "the token '<x>' has the id 716, but config.json has embeddings for 716 tokens"
    pipe = fake(configs, text_encoder=gather)
    with pytest.raises(NetworkError, match=re.escape(words)) as caught:
        pipe.encode_prompt("a <x> lake")
    assert "idx=716 is out of bounds" in str(caught.value)
    assert caught.value.component == "text_encoder"
    fake(configs, text_encoder=lambda input_ids: np.zeros((1, 77, 16))).encode_prompt("<x>")
    assert caplog.records[-1].getMessage().startswith(f"text_encoder: {words}")
    caplog.clear()
    pipe.encode_prompt("a lake")
    (configs / "text_encoder" / "config.json").write_text('{"vocab_size": 717}')
    fake(configs).encode_prompt("<x>")
    assert not caplog.records
    with pytest.raises(NetworkError, match=r"^text_encoder: the fake function failed"):
        fake(configs, text_encoder=gather).encode_prompt("<x>")


def test_info_shows_padding_and_added_tokens(configs):
    def line():
        return next(line for line in describe(configs) if line.startswith("  tokenizer: "))

    assert line() == "  tokenizer: 716 tokens, 77 a prompt, padded with '<|endoftext|>'"
    names = [f"<x\x1b{number}>" for number in range(10)]
    write(configs / "tokenizer", added_tokens={name: 716 + at for at, name in enumerate(names)})
    write(configs / "tokenizer", special_tokens_map={"pad_token": "!"})
    shown = ", ".join(map(repr, names[:8]))
    assert line() == (
        f"  tokenizer: 726 tokens, 77 a prompt, padded with '!', added: {shown} and 2 more"
    )


def find(text, *tokens):
    return [part if isinstance(part, str) else part.id for part in Finder(tokens).split(text)]


@pytest.mark.parametrize(
    ("text", "flags", "parts"),
    [
        ("a<x>b<x>", {}, ["a", 1, "b", 1]),
        ("<x><x>", {}, [1, 1]),
        ("", {}, []),
        ("a", {}, ["a"]),
        ("a \u3000<x> b", {"lstrip": True}, ["a", 1, " b"]),
        ("a <x> \n b", {"rstrip": True}, ["a ", 1, "b"]),
        ("a <x> \x1c", {"rstrip": True}, ["a ", 1, "\x1c"]),
        ("<x>  <x>", {"lstrip": True}, [1, 1]),
        ("<x>  <x> ", {"lstrip": True, "rstrip": True}, [1, 1]),
        ("a<x> <x>b <x>", {"single_word": True}, ["a<x> <x>b ", 1]),
        ("<x>.<x>", {"single_word": True}, [1, ".", 1]),
    ],
)
def test_finding_added_tokens(text, flags, parts):
    assert find(text, AddedToken("<x>", 1, **flags)) == parts


WHITE_SPACE = (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))
WHITE_SPACE = (*WHITE_SPACE, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


def test_spaces_are_those_of_unicode():
    """The property White_Space (PropList.txt), 25 characters."""
    assert sorted(map(ord, SPACES)) == list(WHITE_SPACE)
    for code in WHITE_SPACE:
        assert find(f"a{chr(code)}<x>", AddedToken("<x>", 1, lstrip=True)) == ["a", 1]
        assert normalize(f"a{chr(code)}b") == "a b"


def test_roles_are_added_in_this_order(folder):
    names = ("mask_token", "cls_token", "sep_token", "unk_token")
    write(folder, tokenizer_config={name: f"<{name}>" for name in names})
    added = added_of(folder)
    assert [token.id for token in added.values()] == [START, END, 716, 717, 718, 719]
    assert [name for name in added if "_" in name] == [
        f"<{name}_token>" for name in ("unk", "sep", "cls", "mask")
    ]


def test_the_longest_of_added_tokens_is_found():
    tokens = AddedToken("a", 1), AddedToken("a b", 2), AddedToken("b c", 3), AddedToken("b", 4)
    assert find("a b c", *tokens) == [2, " c"]
    assert find("ab c", *tokens) == [1, 3]


def test_of_two_that_look_the_same_the_special_one_is_found():
    tokens = AddedToken("X", 1), AddedToken("x", 2, special=True), AddedToken("x ", 3)
    assert [part.id for part in Finder(tokens, str.lower).split("x")] == [2]


CIRCLED = "\u24b6\U0001f130\U0001f149\U0001f150\U0001f169\U0001f170\U0001f189"
WORD_CHARACTERS = f"a1_é\u0301\u203f\u2160\u200c\u200d\u0663{CIRCLED}"
OTHER_CHARACTERS = (
    " .-\xb2\xbd\u2460\u20ac\U0001f12f\U0001f14a\U0001f14f\U0001f16a\U0001f16f\U0001f18a\u200b\x1c"
)


@pytest.mark.parametrize("char", WORD_CHARACTERS)
def test_what_words_are_made_of(char):
    """Unicode's \\w (UTS 18), as the tokenizers' regular expressions have it."""
    token = AddedToken("<x>", 1, single_word=True)
    assert find(f"{char}<x>", token) == [f"{char}<x>"]
    assert find(f"<x>{char}", token) == [f"<x>{char}"]


@pytest.mark.parametrize("char", OTHER_CHARACTERS)
def test_what_words_are_not_made_of(char):
    token = AddedToken("<x>", 1, single_word=True)
    assert find(f"{char}<x>{char}", token) == [char, 1, char]


HUGE_ID = json.dumps({"added_tokens_decoder": {"9" * 5000: "x"}})
BROKEN = [
    ("vocab.json", None, "no such file"),
    ("vocab.json", "", "vocab.json: empty"),
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
    ("tokenizer_config.json", '{"bos_token": "nope"}', "bos_token 'nope' has no id"),
    ("tokenizer_config.json", '{"eos_token": "nope"}', "eos_token 'nope' has no id"),
    ("tokenizer_config.json", '{"eos_token": {"content": 5}}', "eos_token {'content': 5} is not"),
    (
        "tokenizer_config.json",
        '{"unk_token": {"content": "a", "lstrip": 1}}',
        "lstrip of unk_token",
    ),
    (
        "tokenizer_config.json",
        '{"extra_special_tokens": 5}',
        "extra_special_tokens 5 is not a list",
    ),
    ("tokenizer_config.json", '{"extra_special_tokens": [5]}', "extra_special_tokens 5 is not a"),
    ("tokenizer_config.json", '{"added_tokens_decoder": []}', "added_tokens_decoder [] is not an"),
    ("tokenizer_config.json", '{"added_tokens_decoder": null}', "added_tokens_decoder None is"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"716": "x y"}}', None),
    (
        "tokenizer_config.json",
        '{"added_tokens_decoder": {"7.5": "x"}}',
        "added token 'x' has no id",
    ),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"-1": "x"}}', "added token 'x' has no id"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"٣": "x"}}', "added token 'x' has no id"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"2147483648": "x"}}', "'x' has no id"),
    ("tokenizer_config.json", '{"padding_side": "left"}', "padding_side 'left' is not supported"),
    ("tokenizer_config.json", '{"truncation_side": []}', "truncation_side [] is not supported"),
    ("tokenizer_config.json", '{"padding_side": "right", "truncation_side": null}', None),
    ("tokenizer_config.json", HUGE_ID, "added token 'x' has no id"),
    (
        "tokenizer_config.json",
        '{"added_tokens_decoder": {"1": {"special": true}}}',
        "is not a token",
    ),
    ("special_tokens_map.json", '{"pad_token": "nope"}', "pad_token 'nope' has no id"),
    ("special_tokens_map.json", "[]", "expected a JSON object"),
    ("added_tokens.json", '{"<x>": "716"}', "added token '<x>' has no id"),
    ("added_tokens.json", '{"<x>": 716.0}', "added token '<x>' has no id"),
    ("added_tokens.json", '{"<x>": true}', "added token '<x>' has no id"),
    ("added_tokens.json", f'{{"<x>": {2**70}}}', "added token '<x>' has no id"),
    ("added_tokens.json", json.dumps({"x" * 257: 716}), "has more than 256 letters"),
    ("added_tokens.json", json.dumps({"x" * 256: 716}), None),
    ("added_tokens.json", json.dumps({f"<{n}>": n for n in range(10_001)}), "10001 added tokens"),
    ("added_tokens.json", json.dumps({f"<{n}>": n for n in range(10_000)}), None),
    ("merges.txt", "a b\n" * 500_001, "has 500001 merges, more than 500000"),
    ("tokenizer.json", "[]", "expected a JSON object"),
    ("tokenizer.json", "{}", "holds no byte-pair model"),
    ("tokenizer.json", '{"model": {"vocab": {}, "merges": {}}}', "holds no byte-pair model"),
    ("tokenizer.json", '{"model": {"vocab": [], "merges": []}}', "holds no byte-pair model"),
    ("tokenizer.json", '{"model": {"vocab": {}, "merges": ["a"]}}', "the merge 'a' is not a pair"),
    ("tokenizer.json", '{"model": {"vocab": {}, "merges": [["a", 5]]}}', "['a', 5] is not a pair"),
    ("tokenizer.json", '{"model": {"vocab": {}, "merges": [5]}}', "the merge 5 is not a pair"),
]


@pytest.mark.parametrize(("name", "content", "words"), BROKEN)
def test_broken_files_are_named_and_odd_ones_are_not(name, content, words, folder):
    path = folder / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if words is None:
        CLIPTokenizer.from_dir(folder)
        return
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


def test_one_id_for_two_tokens(folder):
    vocab = json.loads((folder / "vocab.json").read_text())
    vocab["a</w>"] = vocab["b</w>"]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(BundleError, match="the vocabulary gives one id to two tokens"):
        CLIPTokenizer.from_dir(folder)


@pytest.mark.parametrize("token", ["a", "a</w>", "Ġ</w>"])
def test_every_byte_needs_an_id(token, folder):
    vocab = json.loads((folder / "vocab.json").read_text())
    del vocab[token]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(
        BundleError, match=f"tokenizer: token '{token}' has no id in the vocabulary"
    ):
        CLIPTokenizer.from_dir(folder)


@pytest.mark.parametrize(("letters", "fits"), [(256, True), (257, False)])
def test_a_merge_makes_no_endless_token(letters, fits, folder):
    vocab = json.loads((folder / "vocab.json").read_text())
    half, token = "a" * (letters - 1), "a" * letters + "</w>"
    vocab |= {half: 716, token: 717}
    write(folder, vocab=vocab)
    with (folder / "merges.txt").open("a") as file:
        file.write(f"{half} a</w>\n")
    if fits:
        assert CLIPTokenizer.from_dir(folder)._longest == 256
        return
    with pytest.raises(BundleError, match=r"aaa\.\.\. has more than 256 letters"):
        CLIPTokenizer.from_dir(folder)


@pytest.mark.parametrize(
    ("given", "length"),
    [(2, 77), (3, 3), (4096, 4096), (4097, 77), (10**30, 77), (20.0, 77), (None, 77), ("9", 77)],
)
def test_length_of_a_prompt(given, length, folder):
    write(folder, tokenizer_config={"model_max_length": given})
    assert CLIPTokenizer.from_dir(folder).length == length


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


FILES = ("vocab", "added_tokens", "special_tokens_map", "tokenizer_config", "tokenizer")
NAMES = ("pad_token", "added_tokens_decoder", "additional_special_tokens", "added_tokens", "model")
objects = st.dictionaries(st.sampled_from(NAMES) | st.text(), values, max_size=3)


@given(values, values)
def test_any_json_is_no_model(tmp_path_factory, vocab, merges):
    folder = tmp_path_factory.mktemp("tokenizer")
    write(folder, tokenizer={"model": {"vocab": vocab, "merges": merges}})
    with pytest.raises(BundleError, match=re.escape(str(folder))):
        CLIPTokenizer.from_dir(folder)


@given(st.dictionaries(st.sampled_from(FILES), objects, min_size=1))
def test_any_json_is_a_tokenizer_or_an_error(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    write(folder, **contents)
    try:
        ids = CLIPTokenizer.from_dir(folder)("a lake")
    except BundleError as error:
        assert str(folder) in str(error)
        assert "\n" not in str(error)
    else:
        assert ids.shape[0] == 1

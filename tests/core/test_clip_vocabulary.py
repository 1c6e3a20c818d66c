"""CLIP's vocabulary, as it comes with the package."""

import json

import pytest

from lcmcore.tokenizer import CLIPTokenizer
from lcmcore.tokenizer.clip_vocabulary import TOKENS, clip_tokenizer, write_tokenizer


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])
def test_ids_are_those_of_clip(tmp_path, padding):
    """Ids that OpenAI's own `clip.tokenize` returns; the demo of its README has the first."""
    write_tokenizer(tmp_path, padding)
    tokenizer = CLIPTokenizer.from_dir(tmp_path)
    ids = tokenizer("a photo of a cat")[0].tolist()
    assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert set(ids[7:]) == {49407 if padding != "!" else 0}
    assert tokenizer.length == 77
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert len(vocab) == TOKENS and vocab["<|endoftext|>"] == TOKENS - 1


def test_without_files_it_is_the_same_tokenizer(tmp_path):
    write_tokenizer(tmp_path)
    assert clip_tokenizer() == CLIPTokenizer.from_dir(tmp_path)

"""Golden token ids: transformers' fast CLIPTokenizer with CLIP's real vocabulary.

The vocabulary ships inside open_clip_torch. Of its 48,894 merges the golden keeps those that can
play a part in the prompts, with their true order and ids; transformers itself confirms that they
give the same ids as all of them.
"""

import gzip
import re
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

from .clip import END, START, WORD_END, Pair, token_ids, vocabulary, write_tokenizer
from .files import DATA, save_json
from .prompts import PICKED, prompts

RANDOM = 1000
_MERGES = 49152 - 256 - 2  # of a longer list: CLIP's own count


def make() -> str:
    texts = prompts(RANDOM, seed=5)
    merges = all_merges()
    vocab = vocabulary(merges)
    with TemporaryDirectory() as folder:
        whole = write_tokenizer(Path(folder), vocab, merges)
        # Stable Diffusion 2 pads with "!".
        other = write_tokenizer(Path(folder), vocab, merges, pad="!")
    kept = _concerned(whole, merges, texts)
    tokens = vocabulary(kept)
    part = write_tokenizer(DATA / "clip", {token: vocab[token] for token in tokens}, kept)
    ids = token_ids(whole, texts)
    if token_ids(part, texts) != ids:
        raise SystemExit("the part of CLIP's vocabulary gives other ids than the whole")
    padded = token_ids(other, PICKED)
    save_json(DATA / "tokenizer.json.gz", {"texts": texts, "ids": ids, "ids_padded_by_!": padded})
    return f"{len(texts)} texts, {len(kept)} of {len(merges)} merges"


def all_merges() -> list[Pair]:
    name = "open_clip/bpe_simple_vocab_16e6.txt.gz"
    path = Path(str(distribution("open_clip_torch").locate_file(name)))
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    return [tuple(line.split()) for line in lines[1 : 1 + _MERGES]]


def _concerned(tokenizer: CLIPTokenizer, merges: list[Pair], texts: list[str]) -> list[Pair]:
    """Every merge whose token occurs inside a word of the texts, taken or not."""
    backend = tokenizer.backend_tokenizer
    words: set[str] = set()
    for part in re.split(f"{re.escape(START)}|{re.escape(END)}", "\n".join(texts)):
        normal = backend.normalizer.normalize_str(part)
        words |= {word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)}
    haystack = "\n".join(word + WORD_END for word in words)
    return [pair for pair in merges if "".join(pair) in haystack]

"""Turn weights that were trained on a list of whole words into a run that export.py takes.

    python from_words.py WEIGHTS RUN

WEIGHTS holds {text,unet,vae}_config.json, the state dicts {text,unet,vae}.safetensors (or in parts:
unet_a, unet_b) and vocab.json, which maps words to rows of the token embedding. In RUN the
tokenizer is CLIP's, trained until each word is one token, and each token has a row: a word its own,
every other token that of the unknown word.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import vocabulary

UNKNOWN = "<unk>"
TOKEN_EMBEDDING = "embeddings.token_embedding.weight"


def from_words(weights: Path, run: Path) -> None:
    """Write the run."""
    words: dict[str, int] = json.loads((weights / "vocab.json").read_text(encoding="utf-8"))
    plain = words.keys() - {vocabulary.BOS, vocabulary.EOS, UNKNOWN}
    tokens = vocabulary.write_tokenizer(dict.fromkeys(plain, 1), run / "tokenizer")

    for name in "text", "unet", "vae":
        state = read_parts(weights, name)
        if name == "text":
            state[TOKEN_EMBEDDING] = state[TOKEN_EMBEDDING][token_rows(words, tokens)]
        safetensors.numpy.save_file(state, run / f"{name}.safetensors", metadata={"format": "pt"})

    for name in "unet_config.json", "vae_config.json":
        shutil.copyfile(weights / name, run / name)
    config = json.loads((weights / "text_config.json").read_text(encoding="utf-8"))
    bos, eos = tokens[vocabulary.BOS], tokens[vocabulary.EOS]
    config |= {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos}
    config["vocab_size"] = len(tokens)
    text = json.dumps(config, indent=2) + "\n"
    (run / "text_config.json").write_text(text, encoding="utf-8")


def read_parts(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Read a state dict from one file or several."""
    state: dict[str, np.ndarray] = {}
    for part in [*folder.glob(f"{name}.safetensors"), *folder.glob(f"{name}_?.safetensors")]:
        state |= safetensors.numpy.load_file(part)
    return state


def token_rows(words: Mapping[str, int], tokens: Mapping[str, int]) -> list[int]:
    """Say which row of the embedding of words each token takes."""
    rows = [words[UNKNOWN]] * len(tokens)
    for word, row in words.items():
        if word in (vocabulary.BOS, vocabulary.EOS):
            rows[tokens[word]] = row
        elif word != UNKNOWN:
            rows[tokens["".join(vocabulary.spell(word))]] = row
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    from_words(args.weights, args.run)


if __name__ == "__main__":
    main()

"""Golden token ids of prompts with added tokens, and which folders' files decide on them.

Each case is a tokenizer folder: the demo's vocabulary, in two files or in tokenizer.json, and the
JSON files beside it. transformers' CLIPTokenizer gives the ids, and diffusers the prompts in which
a textual inversion of several vectors is written out.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTokenizer

from .clip import END, START, token_ids
from .files import DATA, DEMO_BUNDLE, save_json

FOLDER = DEMO_BUNDLE / "tokenizer"
PLAIN = {"bos_token": START, "eos_token": END, "unk_token": END}
TOY = {"<cat-toy>": 716, "<cat-toy>_1": 717, "<cat-toy>_2": 718, "EasyNegative": 719}


def token(content: str, **flags: bool) -> dict[str, Any]:
    """A token as transformers writes it."""
    names = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {"content": content, **{name: flags.get(name, name == "normalized") for name in names}}


def typed(content: str) -> dict[str, Any]:
    return {"__type": "AddedToken", **token(content)}


def decoder(*tokens: dict[str, Any], first: int = 716) -> dict[str, Any]:
    """A tokenizer_config.json with `added_tokens_decoder`."""
    specials = {"714": token(START, special=True), "715": token(END, special=True)}
    numbered = {str(number): its for number, its in enumerate(tokens, first)}
    return {**PLAIN, "pad_token": END, "added_tokens_decoder": {**specials, **numbered}}


def listed(*tokens: dict[str, Any], first: int = 716) -> list[dict[str, Any]]:
    """`added_tokens` of a tokenizer.json."""
    specials = [token(START, special=True, normalized=False), token(END, special=True)]
    return [{"id": number, **its} for number, its in enumerate((*specials, *tokens), first - 2)]


# Per case the files: tokenizer_config.json, special_tokens_map.json, added_tokens.json, and what
# tokenizer.json has as added_tokens, if the vocabulary is in there.
CONFIG, MAP, ADDED, LIST = "tokenizer_config", "special_tokens_map", "added_tokens", "tokenizer"
CASES: dict[str, dict[str, Any]] = {
    "nothing beside": {},
    "pad in the config": {CONFIG: {**PLAIN, "pad_token": "!"}},
    "pad in the map alone": {CONFIG: PLAIN, MAP: {"pad_token": "!"}},
    "the map before the config": {CONFIG: {**PLAIN, "pad_token": END}, MAP: {"pad_token": "!"}},
    "Stable Diffusion 2": {
        CONFIG: {name: typed(its) for name, its in PLAIN.items()} | {"pad_token": END},
        MAP: {name: token(its) for name, its in PLAIN.items()} | {"pad_token": "!"},
    },
    "the decoder before the map": {
        CONFIG: {**decoder(), "pad_token": END},
        MAP: {"pad_token": "!"},
        ADDED: TOY,
    },
    "an empty decoder counts": {
        CONFIG: {**PLAIN, "pad_token": END, "added_tokens_decoder": {}},
        MAP: {"pad_token": "!"},
    },
    "pad is an added token": {CONFIG: PLAIN, MAP: {"pad_token": "[PAD]"}, ADDED: {"[PAD]": 716}},
    "another end": {CONFIG: {**PLAIN, "eos_token": "!", "pad_token": END}},
    "added_tokens.json": {CONFIG: {**PLAIN, "pad_token": END}, ADDED: TOY},
    "slow 4": {CONFIG: decoder(*map(token, TOY)), ADDED: TOY},
    "fast 5": {CONFIG: {**PLAIN, "pad_token": END}, LIST: listed(*map(token, TOY))},
    "the list after added_tokens.json": {
        CONFIG: {**PLAIN, "pad_token": END},
        ADDED: {"lake": 716, "night": 717, "<x>": 719},
        LIST: listed(token("EasyNegative", normalized=False)),
    },
    "ids with gaps": {CONFIG: decoder(token("<cat-toy>"), token("night"), first=900)},
    "ids in another order": {CONFIG: PLAIN, ADDED: {"<cat-toy>": 760, "EasyNegative": 740}},
    "an id in the vocabulary": {CONFIG: PLAIN, ADDED: {"<cat-toy>": 5, "lake</w>": 716}},
    "words of the vocabulary": {CONFIG: decoder(token("lake"), token("la"), token("lake</w>"))},
    "verbatim": {
        CONFIG: decoder(token("EasyNegative", normalized=False), token("Lake", normalized=False))
    },
    "stripped": {
        CONFIG: decoder(
            token("<cat-toy>", lstrip=True),
            token("EasyNegative", rstrip=True),
            token("night", lstrip=True, rstrip=True, normalized=False),
        )
    },
    "single words": {
        CONFIG: decoder(
            token("lake", single_word=True), token("night", single_word=True, normalized=False)
        )
    },
    "single words, stripped": {
        CONFIG: decoder(token("lake", single_word=True, lstrip=True, rstrip=True))
    },
    "spaces and marks within": {
        CONFIG: decoder(token("a lake"), token("cafe\u0301"), token("x  y"), token(" night"))
    },
    "one within another": {
        CONFIG: decoder(token("<cat"), token("<cat-toy>_1"), token("<cat-toy>"), token("toy"))
    },
    "special": {CONFIG: decoder(token("<cat-toy>", special=True, normalized=False))},
    "without flags": {
        CONFIG: {
            **PLAIN,
            "added_tokens_decoder": {
                "716": {"content": "<cat-toy>"},
                "717": {"content": "EasyNegative", "special": True},
            },
        }
    },
    "roles without an id": {
        CONFIG: {**PLAIN, "pad_token": END},
        MAP: {"mask_token": "<cat-toy>", "sep_token": token("EasyNegative")},
        ADDED: {"night": 716},
    },
    "special ones without a role": {
        CONFIG: {**PLAIN, "pad_token": END, "additional_special_tokens": ["<cat-toy>", "night"]},
    },
}
TEXTS = (
    "wow! a lake!! ! x!y",
    "A <cat-toy> <cat-toy>_1 lake",
    "easynegative, EasyNegative EASYNEGATIVE",
    "<CAT-TOY><cat-toy>x<cat-toy>_2.",
    "  <cat-toy>  ,\tEasyNegative \n night  <cat-toy>",
    "<|STARTOFTEXT|> <|endoftext|> <|EndOfText|>x",
    "lake Lake lakes, lake. (lake) a_lake lake\u0301 lake\u00b2 \u00bdlake lake\u24b6 x\u200dlake",
    "night night\u3000nightly Night\x1cnight -night- tonight night",
    "a lake A  LAKE a\tlake cafe\u0301 CAF\u00c9 x  y X Y x y  night",
    "<cat <cat-toy <cat-toy>_1 <cat-toy>_11 toy toys <cat-toy>toy",
    "lake</w> la</w> [PAD] [pad] <x>",
    "<cat-toy> " * 50,
    "",
)
PROMPTS = (
    "a <cat-toy>",
    "a <cat-toy>, and a <cat-toy>",
    "<CAT-TOY> and EasyNegative",
    "<cat-toy>_1",
    "<cat-toy>_2 <cat-toy>x",
    "no added token",
    "",
)


def write_folder(folder: Path, files: dict[str, Any]) -> None:
    """Write the tokenizer folder of a case."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = FOLDER / "vocab.json", FOLDER / "merges.txt"
    lines = merges.read_text(encoding="utf-8").splitlines()[1:]
    model = {"type": "BPE", "vocab": json.loads(vocab.read_text(encoding="utf-8")), "merges": lines}
    for name, content in files.items():
        whole = {"added_tokens": content, "model": model} if name == LIST else content
        (folder / f"{name}.json").write_text(json.dumps(whole), encoding="utf-8")
    if LIST not in files:
        for path in (vocab, merges):
            (folder / path.name).write_bytes(path.read_bytes())


def make() -> str:
    goldens = []
    for name, files in CASES.items():
        with TemporaryDirectory() as folder:
            write_folder(Path(folder), files)
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            expanded = TextualInversionLoaderMixin().maybe_convert_prompt([*PROMPTS], tokenizer)
            ids = token_ids(tokenizer, TEXTS)
        goldens.append({"name": name, "files": files, "ids": ids, "expanded": expanded})
    content = {"texts": TEXTS, "prompts": PROMPTS, "cases": goldens}
    save_json(DATA / "added_tokens.json.gz", content)
    return f"{len(CASES)} folders, {len(TEXTS)} texts"

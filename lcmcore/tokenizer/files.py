"""The files of a `tokenizer` folder, read as transformers 5 reads them for its CLIPTokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from lcmcore.errors import BundleError
from lcmcore.tokenizer.added_tokens import AddedToken
from lcmcore.tokenizer.byte_pairs import ALPHABET, WORD_END, Pair
from lcmcore.util.configfile import read_object, read_text
from lcmcore.util.validate import shown

log = logging.getLogger(__name__)

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LETTERS = 256  # of a token; CLIP's longest has 32
_MAX_MERGES, _MAX_ADDED = 500_000, 10_000  # CLIP has 48,894 and 2
_IDS = range(2**31)
_FLAGS = ("normalized", "special", "lstrip", "rstrip", "single_word")
# The tokens with a role, in the order in which they are added, and their defaults.
_ROLES: dict[str, str | None] = {
    "bos_token": START,
    "eos_token": END,
    "unk_token": END,
    "sep_token": None,
    "pad_token": END,
    "cls_token": None,
    "mask_token": None,
}
_EXTRAS = ("additional_special_tokens", "extra_special_tokens")

Fields = dict[str, Any]  # of an added token, checked; without the flags that its file leaves out


class TokenizerFiles(NamedTuple):
    """What the files say; `vocab` has the ids of the added tokens too."""

    vocab: dict[str, int]
    merges: list[Pair]
    added: tuple[AddedToken, ...]
    start: str
    end: str
    pad: str
    config: Mapping[str, Any]


def read_folder(folder: Path) -> TokenizerFiles:
    """Read tokenizer.json, else vocab.json and merges.txt, and what lies beside them.

    Which tokens are added, and which one pads, is in tokenizer_config.json if that has
    `added_tokens_decoder`. Else special_tokens_map.json replaces what tokenizer_config.json says,
    and added_tokens.json and the `added_tokens` of tokenizer.json are read.
    Raises BundleError that names the file which is missing or invalid.
    """
    settings, single = folder / "tokenizer_config.json", folder / "tokenizer.json"
    config, whole = _optional(settings), _optional(single)
    for side in ("padding_side", "truncation_side"):
        if config.get(side) not in (None, "right"):
            raise BundleError(f"{settings}: {side} {shown(config[side])} is not supported")
    if single.exists():
        vocab, merges = _model(whole, single)
    else:
        vocab = read_object(folder / "vocab.json")
        merges = _pairs(_merge_lines(folder / "merges.txt"), vocab, folder / "merges.txt")
    _check_ids(vocab, folder)
    roles, extras = _roles(config, settings)
    if "added_tokens_decoder" in config:
        declared = _decoder(config["added_tokens_decoder"], settings)
    else:
        changed, more = _roles(_optional(folder / "special_tokens_map.json"), settings)
        roles, extras = {**roles, **changed}, [*extras, *more]
        declared = _plain_added(folder / "added_tokens.json", [*roles.values(), *extras])
        declared |= _listed(whole.get("added_tokens", []), single)
    start, end, pad = _leading(roles, vocab, declared, settings)
    _check_reach(vocab, merges, folder)
    added = _numbered(declared, roles, extras, vocab, folder)
    vocab = vocab | {token.content: token.id for token in added}
    return TokenizerFiles(vocab, merges, added, start, end, pad, config)


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _merge_lines(path: Path) -> Iterator[str]:
    """One at a time: a list of them would leave 3 MB that Python does not give back."""
    text = read_text(path)
    _check_count(path, "merges", text.count("\n"), _MAX_MERGES)
    lines = (line.rstrip("\n") for line in StringIO(text, newline=None))
    return (line for line in lines if line and not line.startswith("#version"))


def _model(whole: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[Pair]]:
    """Vocabulary and merges of a tokenizer.json."""
    model = whole.get("model")
    if not isinstance(model, dict):
        raise BundleError(f"{path}: holds no byte-pair model")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise BundleError(f"{path}: holds no byte-pair model")
    _check_count(path, "merges", len(merges), _MAX_MERGES)
    return vocab, _pairs(merges, vocab, path)


def _pairs(merges: Iterable[Any], vocab: Iterable[str], path: Path) -> list[Pair]:
    """A merge is written as text, or in newer files as a list of two.

    The texts are those of the vocabulary: each is held once, which is 5 MB less.
    """
    own = {token: token for token in vocab}
    pairs = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
            raise BundleError(f"{path}: the merge {shown(merge)} is not a pair of tokens")
        left, right = parts
        pairs.append((own.get(left, left), own.get(right, right)))
    return pairs


def _check_count(path: Path, what: str, count: int, most: int) -> None:
    if count > most:
        raise BundleError(f"{path}: has {count} {what}, more than {most}: is it a CLIP tokenizer?")


def _check_ids(vocab: Mapping[str, Any], folder: Path) -> None:
    """Raise BundleError unless each token has an id of its own."""
    for token, number in vocab.items():
        if not _is_id(number):
            raise BundleError(f"{folder}: token {shown(token)} has no id in the vocabulary")
    if len(set(vocab.values())) < len(vocab):
        raise BundleError(f"{folder}: the vocabulary gives one id to two tokens")


def _check_reach(vocab: Mapping[str, int], merges: Iterable[Pair], folder: Path) -> None:
    """Raise BundleError unless every token that a text can become has an id."""
    bytes_alone = (char + tail for char in ALPHABET for tail in ("", WORD_END))
    for token in (*bytes_alone, *map("".join, merges)):
        if token not in vocab:
            raise BundleError(f"{folder}: token {shown(token)} has no id in the vocabulary")
        _check_length(token.removesuffix(WORD_END), folder)


def _check_length(token: str, where: Path) -> None:
    if len(token) > MAX_LETTERS:
        raise BundleError(f"{where}: the token {shown(token)} has more than {MAX_LETTERS} letters")


def _is_id(number: Any) -> bool:
    return type(number) is int and number in _IDS


def _roles(config: Mapping[str, Any], path: Path) -> tuple[dict[str, Fields], list[Fields]]:
    """The tokens with a role, by their role, and the special ones without."""
    roles = {
        role: {**_fields(role, config[role], path), "special": True}
        for role in _ROLES
        if config.get(role) is not None
    }
    extras: list[Fields] = []
    for key in _EXTRAS:
        tokens = config.get(key) or []
        if isinstance(tokens, dict):
            tokens = list(tokens.values())
        if not isinstance(tokens, list):
            raise BundleError(f"{path}: {key} {shown(tokens)} is not a list of tokens")
        extras += [{**_fields(key, token, path), "special": True} for token in tokens]
    return roles, extras


def _fields(name: str, token: Any, path: Path) -> Fields:
    """A token is written as text, or as an object with its text in `content`, and its flags."""
    given = {"content": token} if isinstance(token, str) else token
    if not isinstance(given, dict) or not isinstance(given.get("content"), str):
        raise BundleError(f"{path}: {name} {shown(token)} is not a token")
    _check_length(given["content"], path)
    fields = {"content": given["content"]}
    for flag in _FLAGS:
        if given.get(flag) is not None:
            if not isinstance(given[flag], bool):
                raise BundleError(f"{path}: {flag} of {name} must be true or false")
            fields[flag] = given[flag]
    return fields


def _decoder(decoder: Any, path: Path) -> dict[int, Fields]:
    """`added_tokens_decoder` of tokenizer_config.json: tokens by their ids, written as text."""
    if not isinstance(decoder, dict):
        raise BundleError(f"{path}: added_tokens_decoder {shown(decoder)} is not an object")
    entries = [(_id_of_text(number), token) for number, token in decoder.items()]
    return _declared("added_tokens_decoder", entries, path)


def _id_of_text(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _plain_added(path: Path, specials: Iterable[Fields]) -> dict[int, Fields]:
    """added_tokens.json: ids by token."""
    names = {fields["content"] for fields in specials}
    entries = [
        (number, {"content": token, "special": token in names, "normalized": token not in names})
        for token, number in _optional(path).items()
    ]
    return _declared("token", entries, path)


def _listed(tokens: Any, path: Path) -> dict[int, Fields]:
    """`added_tokens` of tokenizer.json: a list of tokens with their ids."""
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise BundleError(f"{path}: added_tokens {shown(tokens)} is not a list of tokens")
    return _declared("added_tokens", [(token.get("id"), token) for token in tokens], path)


def _declared(name: str, entries: list[tuple[Any, Any]], path: Path) -> dict[int, Fields]:
    _check_count(path, "added tokens", len(entries), _MAX_ADDED)
    declared = {}
    for number, token in entries:
        fields = _fields(name, token, path)
        if not _is_id(number):
            raise BundleError(f"{path}: the added token {shown(fields['content'])} has no id")
        declared[number] = fields
    return declared


def _leading(
    roles: Mapping[str, Fields],
    vocab: Mapping[str, int],
    declared: Mapping[int, Fields],
    path: Path,
) -> Iterator[str]:
    """The tokens that start, end and pad a prompt; raises BundleError for one without an id."""
    known = {fields["content"] for fields in declared.values()}
    for role in ("bos_token", "eos_token", "pad_token"):
        token = str(roles[role]["content"] if role in roles else _ROLES[role])
        if token not in vocab and token not in known:
            raise BundleError(f"{path}: {role} {shown(token)} has no id in the vocabulary")
        yield token


def _numbered(
    declared: Mapping[int, Fields],
    roles: Mapping[str, Fields],
    extras: Iterable[Fields],
    vocab: Mapping[str, int],
    folder: Path,
) -> tuple[AddedToken, ...]:
    """The added tokens with the ids that transformers gives them, whatever the files say.

    That is the vocabulary's id, or else the next one after the vocabulary and the tokens before.
    Where files differ on a token's flags, the last of them is right.
    """
    wanted = {fields["content"]: number for number, fields in sorted(declared.items())}
    named = _named(roles)
    more = [fields for fields in (*named, *extras) if fields["content"] not in wanted]
    names = {fields["content"] for fields in named}
    added: dict[str, AddedToken] = {}
    last = len(vocab) - 1
    for fields in (*(fields for _, fields in sorted(declared.items())), *more):
        content = fields["content"]
        if not content:
            continue
        number = added[content].id if content in added else vocab.get(content, last + 1)
        last = max(last, number)
        special = fields.get("special", False) or content in names
        flags = {"normalized": not special, **fields, "special": special}
        added[content] = AddedToken(id=number, **flags)
    _warn_of_other_ids(added, wanted, folder)
    return tuple(added.values())


def _named(roles: Mapping[str, Fields]) -> list[Fields]:
    """The tokens with a role, once each unless their flags differ."""
    named: list[Fields] = []
    for role, token in _ROLES.items():
        fields = roles.get(role, {"content": token, "special": True})
        if fields["content"] is not None and fields not in named:
            named.append(fields)
    return named


def _warn_of_other_ids(
    added: Mapping[str, AddedToken], wanted: Mapping[str, int], folder: Path
) -> None:
    for content, number in wanted.items():
        if content and added[content].id != number:
            log.warning(
                "%s: the added token %s has the id %d, as in transformers, and not %d",
                folder,
                shown(content),
                added[content].id,
                number,
            )

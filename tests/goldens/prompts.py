"""Prompts for the tokenizer goldens: picked by hand, and random ones."""
# ruff: noqa: RUF001, SIM905  (ambiguous characters are the point; words read better as a line)

import random
import unicodedata
from collections.abc import Iterator

PICKED = (
    "",
    " ",
    "a photo of an astronaut riding a horse on mars",
    "A  Snowy\tLAKE at\nnight,\r\nin the Style of Hokusai!!!",
    "it's we're they've I'm you'll he'd can't O'Neill 'S 'RE ''s '' 'd've rock'n'roll",
    "4k, 8K uhd, f/1.8, 35mm, 1920x1080, 3.14159, ½ ² ⅷ ① ٣ ৩ 〇 一二三",
    "<|endoftext|>",
    "<|startoftext|>a cat<|endoftext|>a dog",
    "<|STARTOFTEXT|> <|EndOfText|> <|endoftext |> <|endoftext",
    "x<|endoftext|>y <|startoftext|><|startoftext|>",
    "masterpiece, (best quality:1.2), [bad], {x}, <lora:a:1>, --no hands __init__ foo_bar",
    "zero\u200bwidth soft\u00adhyphen bom\ufeff joiner\u200d nul\x00byte bell\x07",
    "fs\x1cgs\x1drs\x1eus\x1fend nel\x85nbsp\xa0ogham\u1680em\u2003line\u2028para\u2029ideo\u3000x",
    "café cafe\u0301 ＡＢＣ ﬁne Å \u212b \u1e9b\u0323 가 \u1100\u1161 \u0958 q\u0323\u0307",
    "İstanbul ISTANBUL ıI Straße ΣΊΣΥΦΟΣ ΟΔΟΣ. ǅ ẞ Ⅷ Ⓐ ᏸᎠ",
    "日本語のテキスト、中文，한국어 привет мир שלום مرحبا नमस्ते สวัสดี",
    "👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ 1️⃣ ☃ 🌲🏔️ \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "e" + "\u0301\u0323" * 20,
    "a" * 300,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    " ".join(["a very long prompt that is cut"] * 20),
    " ".join(["word"] * 75),
    " ".join(["word"] * 76),
    "😀" * 40,
    "!" * 90,
    "don’t “quote” – dash — em… 100 % § © ™ € ¥ £ µ Ω ∞ ≠ → ♥",
)
_WORDS = """
a an the of in on at with and by snowy landscape mountains pine trees night watercolor
Portrait OIL painting detailed, 8k trending artstation, cinematic lighting. isn't
<|endoftext|> <|startoftext|> <|STARTOFTEXT|> 'll 's 1990s rgb(3,4) x_y don't
""".split()
_SPACES = (
    *" \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2009\u200a",
    *"\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
)
# Whole runs from after Unicode 3.2, with the version that assigned them: scripts with case, emoji.
_LATER = (
    (0x2D00, 0x2D25),  # Georgian supplement, 4.1
    (0xA640, 0xA65F),  # Cyrillic extended, 5.1
    (0xA722, 0xA787),  # Latin extended D, 5.1
    (0x1F300, 0x1F5FF),  # pictographs, 7.0
    (0x1F600, 0x1F64F),  # emoticons, 8.0
    (0xAB70, 0xABBF),  # Cherokee small letters, 8.0
    (0x1E900, 0x1E943),  # Adlam, 9.0
    (0x1C90, 0x1CBA),  # Georgian capitals, 11.0
)


def prompts(count: int, seed: int) -> list[str]:
    """The picked ones and `count` random ones.

    Python's, transformers' and tomorrow's Unicode tables differ in characters that one of them
    does not know yet, so only old ones are drawn: what Unicode 3.2 assigned, which Python carries,
    and `_LATER`, all within Unicode 13, the table of Python 3.10.
    """
    chance = random.Random(seed)
    kinds = _characters()
    return [*PICKED, *(_prompt(chance, kinds) for _ in range(count))]


def _characters() -> list[list[str]]:
    """Characters by the first letter of their category: letters, marks, numbers, signs, ..."""
    old = unicodedata.ucd_3_2_0
    kinds: dict[str, list[str]] = {}
    for code in range(0x30000):
        category = old.category(chr(code))
        # The ideographs and Hangul are too many: one in sixteen stands for all.
        too_many = category == "Lo" and code >= 0x3400 and code % 16
        if category not in ("Cn", "Cs", "Co") and not too_many:
            kinds.setdefault(category[0], []).append(chr(code))
    for first, last in _LATER:
        kinds.setdefault("later", []).extend(map(chr, range(first, last + 1)))
    kinds["latin"] = [chr(code) for code in range(0x20, 0x250) if chr(code).isprintable()]
    return list(kinds.values())


def _prompt(chance: random.Random, kinds: list[list[str]]) -> str:
    pieces = chance.choice((2, 4, 6, 8, 12, 12, 40))
    return "".join(_pieces(chance, kinds, pieces))


def _pieces(chance: random.Random, kinds: list[list[str]], count: int) -> Iterator[str]:
    for _ in range(count):
        if chance.random() < 0.5:
            yield chance.choice(_WORDS)
        else:
            kind = chance.choice(kinds)
            yield "".join(chance.choice(kind) for _ in range(chance.randint(1, 3)))
        if chance.random() < 0.7:
            yield chance.choice((" ", " ", " ", chance.choice(_SPACES)))

"""Text of strangers made safe to show: on a terminal, in a log, in one line."""

from __future__ import annotations

_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000").union(map(chr, range(0x2000, 0x200B)))
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """The text in one line, with escapes as in Python for what a terminal would obey or hide.

    Those are control characters (ANSI sequences begin with one), line and paragraph separators,
    characters that change the direction of text (Trojan Source, CVE-2021-42574) and other
    invisible ones, and lone surrogates, which stand for the bytes of a file name that is no UTF-8.
    Idempotent, for a backslash stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable() or character in _SPACES:
        return character
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

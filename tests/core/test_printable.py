"""Text of strangers before it reaches a terminal."""

import pytest

from lcmcore.util.printable import printable

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a caf\u00e9, \u6e56, \U0001f30a", "a caf\u00e9, \u6e56, \U0001f30a"),
        ("full\u3000width and\u00a0fixed spaces", "full\u3000width and\u00a0fixed spaces"),
        (r"C:\new", r"C:\new"),
        ("two\nlines\r\tand a tab", r"two\nlines\r\tand a tab"),
        ("\x1b[2Jred\x07\x7f\x9b", r"\x1b[2Jred\x07\x7f\x9b"),
        ("\u202ereversed\u2066", r"\u202ereversed\u2066"),
        ("line\u2028paragraph\u2029next\x85", r"line\u2028paragraph\u2029next\x85"),
        ("\udcff.png", r"\udcff.png"),
        ("tag \U000e0041", r"tag \U000e0041"),
    ],
)
def test_only_what_a_terminal_would_obey_or_hide_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown

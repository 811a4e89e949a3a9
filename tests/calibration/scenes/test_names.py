"""Names as text that a terminal can be shown."""

from __future__ import annotations

import pytest

from vggt_edge.calibration.scenes.names import printable, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain name-1.png", "plain name-1.png"),
        ("gr\u00fcn.png", "gr\u00fcn.png"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2J", r"a\x9b2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\nb", r"a\nb"),
        ("\udce9.png", r"\xe9.png"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_shown_by_their_codes(name: str, expected: str) -> None:
    """Bytes that are not UTF-8 too."""
    assert shown(name) == expected


def test_lines_and_tabs_of_a_text_stay() -> None:
    """An error has several lines; what is in them cannot clear the screen."""
    assert printable("what\n\twhere \x1b]0;x\x07\x00") == "what\n\twhere \\x1b]0;x\\x07\\x00"

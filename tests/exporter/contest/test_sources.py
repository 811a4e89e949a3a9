"""A digest that follows the code, through imports, and nothing but the code."""

from __future__ import annotations

import pytest

from vggt_edge.exporter.contest.sources import code_of, reached, source_digest

CODE = '''
"""What it is."""
import os


def double(value: int) -> int:
    """Twice as much."""
    return 2 * value
'''


def test_comments_docstrings_and_layout_do_not_count() -> None:
    """They change no figure, and a contest takes long."""
    rewritten = CODE.replace("What it is", "Other words").replace("Twice as much", "2x").replace("\n\n\n", "\n# why\n")
    assert rewritten != CODE
    assert code_of(rewritten) == code_of(CODE)


@pytest.mark.parametrize(("old", "new"), [("2 *", "3 *"), ("value: int", "value: float"), ("import os", "import re")])
def test_code_counts(old: str, new: str) -> None:
    """Whatever may change a figure."""
    assert code_of(CODE.replace(old, new)) != code_of(CODE)


def test_follows_imports_as_far_as_they_reach() -> None:
    """A method depends on the grids that it rounds to, and on no command."""
    found = reached("vggt_edge.exporter.contest.peers.rtn")
    assert {
        "vggt_edge.calibration.quantization.quantize",
        "vggt_edge.calibration.quantization.linear",
        "vggt_edge.devices.errors",
    } <= found
    assert not any(name.startswith("vggt_edge.exporter.commands") for name in found)


def test_methods_have_digests_of_their_own() -> None:
    """The order in which modules are named does not count."""
    rtn, awq = "vggt_edge.exporter.contest.peers.rtn", "vggt_edge.exporter.contest.peers.awq"
    assert source_digest(rtn) != source_digest(awq) != source_digest(rtn, awq)
    assert source_digest(rtn, awq) == source_digest(awq, rtn)

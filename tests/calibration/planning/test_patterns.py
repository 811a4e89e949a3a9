"""Patterns fit whole names, and no pattern takes long."""

from __future__ import annotations

from time import process_time

import pytest

from vggt_edge.calibration.planning.patterns import LONGEST_PATTERN, compiled, fitting
from vggt_edge.devices.errors import UsageError

NAMES = ("frame_blocks.0", "frame_blocks.0.mlp.fc2", "frame_blocks.10", "global_blocks.0")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"frame_blocks\.0", {"frame_blocks.0"}),
        (".*fc2", {"frame_blocks.0.mlp.fc2"}),
        (r"(?!frame).*", {"global_blocks.0"}),
        ("blocks", set()),
    ],
)
def test_a_pattern_fits_whole_names(pattern: str, expected: set[str]) -> None:
    """The pattern means what it means to Python's own engine."""
    assert fitting(pattern, NAMES) == expected


def test_a_hostile_pattern_ends_in_an_error_soon() -> None:
    """The limit is a second for all names together."""
    begin = process_time()
    with pytest.raises(UsageError, match="too much time"):
        fitting("(?:(?:a|b|ab|.)*(?:a|b|ab|.)*)*c", [f"frame_blocks.{number}.{'a' * 60}.fc2" for number in range(100)])
    assert process_time() - begin < 3


def test_what_takes_python_s_engine_for_ever_is_no_matter() -> None:
    """Names of 60 letters, for which ``re`` would take longer than the universe is old."""
    assert fitting("(a*)*b", ["a" * 60]) == frozenset()


@pytest.mark.parametrize("pattern", ["(?R)a*", r"(?b)(?:[a-z]{30}xyzq){e<=20}", r"\p{L}+", "(?|a)"])
def test_what_python_s_engine_does_not_know_is_refused(pattern: str) -> None:
    """The first one recurs for ever, and takes half a gigabyte in a second."""
    with pytest.raises(UsageError, match="is not a regular expression"):
        compiled(pattern)


@pytest.mark.parametrize("pattern", ["(", "*", "a" * (LONGEST_PATTERN + 1), "(" * 900 + ")" * 100, "[[:"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """Too long counts: it takes seconds to compile."""
    with pytest.raises(UsageError, match="regular expression"):
        compiled(pattern)

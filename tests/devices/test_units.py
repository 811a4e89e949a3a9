from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.devices.errors import UsageError
from vggt_edge.devices.units import format_bytes, parse_bytes, parse_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12MB", 12_000_000),
        ("1.5GiB", 1_610_612_736),
        ("800kB", 800_000),
        ("1KiB", 1024),
        (" 7 mb ", 7_000_000),
        ("1B", 1),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("35ms", 35.0), ("1.2s", 1200.0), ("800us", 0.8)])
def test_times(text: str, expected: float) -> None:
    assert parse_ms(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "12", "MB", "-1MB", "1e3MB", "12 parsecs", "0MB", "nanMB", "1.MB", "1MB 2MB", "12ms"]
)
def test_a_bad_size_says_what_a_good_one_looks_like(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text, where="--max-memory")
    assert "12MB" in caught.value.expected
    assert caught.value.where == "--max-memory"


def test_less_than_a_byte_is_no_size() -> None:
    with pytest.raises(UsageError, match="less than one byte"):
        parse_bytes("0.4B")


@pytest.mark.parametrize("text", ["", "35", "35MB", "-1ms", "0ms", "inf ms", "٣ms"])
def test_a_bad_time_says_what_a_good_one_looks_like(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ms(text)
    assert "35ms" in caught.value.expected


@given(st.integers(1, 10**15 - 1))
def test_whole_bytes_survive_the_command_line(count: int) -> None:
    assert parse_bytes(f"{count}B") == count


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (98_304, "96.0 KiB"),
        (-2048, "-2.0 KiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**41, "2.0 TiB"),
    ],
)
def test_sizes_for_people(count: int, shown: str) -> None:
    assert format_bytes(count) == shown

"""Stable names of resources: the numbers of the format, tables that grow and shrink, files that are cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_edge.runtimes.coreai.bytecode import number, read_number, with_stable_names

BODY = b"\x55" * 37


def section(kind: int, data: bytes, alignment: int = 0, before: int = 0) -> bytes:
    if not alignment:
        return bytes([kind]) + number(len(data)) + data
    head = bytes([kind | 0x80]) + number(len(data)) + number(alignment)
    return head + b"\xcb" * (-(before + len(head)) % alignment) + data


def program(names: list[bytes], last: bytes = b"tail") -> bytes:
    """A body, the table, and a section behind it that begins at a multiple of 16."""
    texts = [name + b"\0" for name in names]
    table = number(len(texts)) + b"".join(number(len(text)) for text in reversed(texts)) + b"".join(texts)
    data = b"ML\xefR" + number(6) + b"producer\0" + section(4, BODY) + section(0, table)
    return data + section(8, last, 16, len(data))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_a_number_comes_back(value: int, rest: bytes) -> None:
    assert read_number(number(value) + rest, 0) == (value, len(number(value)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5, unique=True))
def test_only_the_names_of_resources_change(hashes: list[int]) -> None:
    """Two processes that hash otherwise give the same bytes, whatever the lengths of the hashes."""
    given_names = [b"main", *(b"resource_%d" % value for value in hashes), b"resource_kept"]
    wanted = [b"main", *(b"resource_%d" % index for index in range(len(hashes))), b"resource_kept"]
    assert with_stable_names(program(given_names)) == program(wanted)
    assert with_stable_names(program(wanted)) == program(wanted)


@pytest.mark.parametrize("data", [b"", b"ML\xefR", b"not a program", b"ML\xefR\x0dx\0" + section(4, BODY)])
def test_another_format_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytecode|cut short|tables of strings|subsection"):
        with_stable_names(data)


def test_a_program_that_is_cut_short_is_refused_wherever_the_cut_is() -> None:
    whole = program([b"main", b"resource_123"])
    for length in range(len(whole) - 1):
        try:
            with_stable_names(whole[:length])
        except ValueError:
            continue
        # A cut between two sections leaves a whole program.
        assert length == len(whole) - len(section(8, b"tail", 16, length))


def test_the_names_of_a_real_asset_are_stable_already(case: Any) -> None:
    data = (Path(case.asset) / "main.mlirb").read_bytes()
    assert with_stable_names(data) == data
    assert b"resource_0\0" in data

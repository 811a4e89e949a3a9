"""MLIR bytecode, the format of an asset's program, as far as is needed to give its resources stable names.

Core AI calls the constants of a program ``resource_<hash>``, and the hash is another one in every process. Names lie in
one table of strings, at the end of the file, and are referred to by number, so they can be exchanged with no change to
anything else. The format: https://mlir.llvm.org/docs/BytecodeFormat/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"ML\xefR"
STRINGS = 0
_ALIGNED = 0x80
_PADDING = b"\xcb"
_RESOURCE = re.compile(rb"resource_\d+\0")


@dataclass(frozen=True)
class Section:
    """kind: its number in the format. start, end: of the data. alignment: of ``start``, 1 for none."""

    kind: int
    start: int
    end: int
    alignment: int


def with_stable_names(program: bytes) -> bytes:
    """The same program with its resources numbered in the order of the table; ``ValueError`` for another format."""
    sections = tuple(_sections(program))
    places = [index for index, section in enumerate(sections) if section.kind == STRINGS]
    if len(places) != 1:
        raise ValueError(f"a program with {len(places)} tables of strings")
    place = places[0]
    # Everything in front of the table stays where it is; what comes after it may have to be aligned anew.
    result = bytearray(program[: sections[place - 1].end])
    table = program[sections[place].start : sections[place].end]
    _append(result, sections[place], _renamed(table))
    for section in sections[place + 1 :]:
        _append(result, section, program[section.start : section.end])
    return bytes(result)


def _sections(program: bytes) -> Iterator[Section]:
    if not program.startswith(MAGIC):
        raise ValueError("not an MLIR bytecode program")
    _version, position = read_number(program, len(MAGIC))
    position = program.index(b"\0", position) + 1
    while position < len(program):
        kind = program[position]
        length, position = read_number(program, position + 1)
        alignment = 1
        if kind & _ALIGNED:
            alignment, position = read_number(program, position)
            position += -position % alignment
        if position + length > len(program):
            raise ValueError("a program that is cut short")
        yield Section(kind & ~_ALIGNED, position, position + length, alignment)
        position += length


def _append(result: bytearray, section: Section, data: bytes) -> None:
    result += bytes([section.kind | (_ALIGNED if section.alignment > 1 else 0)]) + number(len(data))
    if section.alignment > 1:
        result += number(section.alignment)
        result += _PADDING * (-len(result) % section.alignment)
    result += data


def _renamed(table: bytes) -> bytes:
    """A table of strings: their count, their lengths from the last to the first, and the strings, each with a zero."""
    count, position = read_number(table, 0)
    lengths = []
    for _ in range(count):
        length, position = read_number(table, position)
        lengths.append(length)
    strings, seen = [], 0
    for length in reversed(lengths):
        text = table[position : position + length]
        position += length
        if _RESOURCE.fullmatch(text):
            text, seen = b"resource_%d\0" % seen, seen + 1
        strings.append(text)
    header = number(count) + b"".join(number(len(text)) for text in reversed(strings))
    return header + b"".join(strings) + table[position:]


def read_number(data: bytes, position: int) -> tuple[int, int]:
    """(value, position behind it): the zeros at the end of the first byte say how many bytes follow."""
    if position >= len(data):
        raise ValueError("a program that is cut short")
    first = data[position]
    size = 9 if first == 0 else (first & -first).bit_length()
    if position + size > len(data):
        raise ValueError("a program that is cut short")
    if size == 9:
        return int.from_bytes(data[position + 1 : position + 9], "little"), position + 9
    return int.from_bytes(data[position : position + size], "little") >> size, position + size


def number(value: int) -> bytes:
    """``value``, from 0 to 2**64 - 1, in as few bytes as it needs."""
    for size in range(1, 9):
        if value < 1 << (7 * size):
            return ((value << size) | (1 << (size - 1))).to_bytes(size, "little")
    return b"\0" + value.to_bytes(8, "little")

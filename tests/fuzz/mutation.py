"""Damage to files: of any bytes, of JSON by its structure, and of the containers that hide bytes behind checksums.

Every function takes a random generator first, and gives the same damage for the same state of it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

Mutator: TypeAlias = Callable[[Random, bytes], bytes]

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
_LONGEST_SPAN = 64
HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "../../../etc/passwd",
    "..\\..\\windows",
    "/dev/zero",
    "/",
    ".",
    "..",
    "C:\\x",
    "/\u0301",
    "\ud800",
    "\U0001f600" * 3,
    "a" * 100_000,
    "%s%n{0}{}",
    "nan",
    "1e999",
    "9" * 5000,
    "-1",
    "None",
    "fp16",
    "(a*)*b",
)
_HOSTILE_NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**400,
    -(10**400),
    0.5,
    -0.0,
    1e-320,
    1e300,
    -1e300,
)


class Raw(str):
    """JSON text that is written as it is, also where it is no JSON."""

    __slots__ = ()


_TOKENS = tuple(Raw(text) for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "016", "0x10", "1.", "'a'"))


# --- bytes ----------------------------------------------------------------------------------------------------------


def damaged(random: Random, data: bytes) -> bytes:
    """A few changes at random places: bits, bytes, numbers at the edges of their types, spans cut, doubled, moved."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        _damage(random, content)
    return bytes(content)


def _damage(random: Random, content: bytearray) -> None:
    start = random.randrange(len(content) + 1)
    end = min(len(content), start + random.randrange(1, _LONGEST_SPAN))
    kind = random.randrange(8)
    if kind == 0 and start < len(content):
        content[start] ^= 1 << random.randrange(8)
    elif kind == 1 and start < len(content):
        content[start] = random.randrange(256)
    elif kind == 2:
        width = random.choice((1, 2, 4, 8))
        number = random.choice(_EDGES) & (1 << 8 * width) - 1
        content[start : start + width] = number.to_bytes(width, random.choice(("little", "big")))
    elif kind == 3:
        del content[start:end]
    elif kind == 4:
        content[start:start] = content[start:end] * random.choice((1, 2, 50))
    elif kind == 5:
        del content[start:]
    elif kind == 6:
        target = random.randrange(len(content) + 1)
        content[target:target] = content[start:end]
    else:
        content[start:end] = random.randbytes(end - start)


# --- JSON -----------------------------------------------------------------------------------------------------------


def damaged_json(random: Random, data: bytes) -> bytes:
    """The document with a few of its values, keys or lists replaced by what its readers do not expect."""
    document = [_tree(json.loads(data))]
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _damage_items(random, random.choice(_lists(document)))
    # Readers of bundles refuse files of that size unread.
    return "".join(map(_written, document)).encode("utf-8", "surrogatepass")[: 16 << 20]


@dataclass
class _Pair:
    key: str
    value: Any


class _Object(list[Any]):
    """A JSON object as a list of ``_Pair``, so that a key can be there twice."""


def _tree(value: Any) -> Any:
    if isinstance(value, dict):
        return _Object(_Pair(key, _tree(item)) for key, item in value.items())
    return [_tree(item) for item in value] if isinstance(value, list) else value


def _lists(document: list[Any]) -> list[list[Any]]:
    """Every list and object of the document, and what holds the document itself."""
    found, waiting = [], [document]
    while waiting:
        one = waiting.pop()
        found.append(one)
        values = (item.value if isinstance(item, _Pair) else item for item in one)
        waiting += [value for value in values if isinstance(value, list)]
    return found


def _damage_items(random: Random, items: list[Any]) -> None:
    is_object = isinstance(items, _Object)
    place, kind = random.randrange(len(items) + 1), random.randrange(10)
    if kind == 8 or place == len(items):
        items.insert(place, _Pair(random.choice(HOSTILE_TEXTS), _hostile(random)) if is_object else _hostile(random))
    elif kind < 5 and is_object:
        items[place].value = _hostile(random, items[place].value)
    elif kind < 5:
        items[place] = _hostile(random, items[place])
    elif kind == 5:
        del items[place]
    elif kind == 6:
        items.insert(random.randrange(len(items)), copy(items[place]))
    elif kind == 7 and is_object:
        items[place].key = random.choice(HOSTILE_TEXTS)
    else:
        random.shuffle(items)


def _hostile(random: Random, old: Any = None) -> Any:
    kind = random.randrange(9)
    if kind == 0 and isinstance(old, int | float) and not isinstance(old, bool):
        written = str(old)
        # As text: after some rounds a number may be too large for a float.
        fraction = Raw(f"{written}.0" if written.isdigit() else written)
        return random.choice((old + 1, -old, old * 10**6, fraction, written))
    if kind == 1 and isinstance(old, list):
        return type(old)(list(old) * random.choice((0, 2, 500)))
    if kind <= 2:
        return random.choice((None, True, False, [], _Object()))
    if kind <= 4:
        return random.choice(_HOSTILE_NUMBERS)
    if kind == 5:
        return random.choice(_TOKENS)
    if kind == 6:
        depth = random.choice((40, 1000, 100_000))
        return Raw("[" * depth + "]" * depth if random.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth)
    return random.choice(HOSTILE_TEXTS)


def _written(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, _Object):
        return "{" + ", ".join(f"{json.dumps(pair.key)}: {_written(pair.value)}" for pair in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_written, tree)) + "]"
    return json.dumps(tree)


# --- lines of text: TOML, COLMAP's text, settings -------------------------------------------------------------------


def damaged_lines(random: Random, data: bytes) -> bytes:
    """Words of some lines replaced, lines lost, doubled or exchanged."""
    lines = data.decode(errors="surrogateescape").split("\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(lines))
        kind = random.randrange(6)
        if kind == 0:
            del lines[place]
        elif kind == 1:
            lines.insert(random.randrange(len(lines)), lines[place])
        else:
            lines[place] = _damaged_line(random, lines[place])
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogateescape" if "\ud800" not in "".join(lines) else "replace")


def _damaged_line(random: Random, line: str) -> str:
    words = line.split(" ")
    place = random.randrange(len(words))
    numbers = [str(number) for number in _HOSTILE_NUMBERS if abs(number) < 10**100]
    words[place] = random.choice((
        random.choice(numbers),
        random.choice(("nan", "inf", "-inf", "1e999", "true", "[]", "{}", '""', "''", "[[[[", "1979-05-27", "'''")),
        json.dumps(random.choice(HOSTILE_TEXTS)),
        random.choice(HOSTILE_TEXTS).replace("\n", " "),
        words[place] * 2,
        "",
    ))  # fmt: skip
    return " ".join(words)


# --- containers -----------------------------------------------------------------------------------------------------


def damaged_safetensors(random: Random, data: bytes) -> bytes:
    """The header as JSON, with the length in front of it right again; or the tensors."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.7:
        header = damaged_json(random, header)
    else:
        tensors = damaged(random, tensors)
    return len(header).to_bytes(8, "little") + header + tensors


def damaged_png(random: Random, data: bytes) -> bytes:
    """Chunks changed, with checksums that are right again: damage behind them is never seen otherwise."""
    chunks = _png_chunks(data)
    place = random.randrange(len(chunks))
    kind, content = chunks[place]
    change = random.randrange(6)
    if change == 0:
        del chunks[place]
    elif change == 1:
        chunks.insert(random.randrange(len(chunks)), chunks[place])
    elif kind == b"IDAT" and change < 4:
        chunks[place] = kind, zlib.compress(damaged(random, zlib.decompress(content)))
    else:
        chunks[place] = kind, damaged(random, content)
    return data[:8] + b"".join(_png_chunk(*chunk) for chunk in chunks)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def damaged_zip(random: Random, data: bytes) -> bytes:
    """Damage a member of an archive, and write right checksums again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    place = random.randrange(len(members))
    name, content = members[place]
    members[place] = name, damaged(random, content)
    if random.random() < 0.1:
        del members[place]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def damaged_message(kind: Callable[[], Any]) -> Mutator:
    """A mutator of protobufs of this kind that sets fields to edges, clears, doubles or shuffles; the result parses."""

    def mutate(random: Random, data: bytes) -> bytes:
        message = kind()
        message.ParseFromString(data)
        for _ in range(random.choice((1, 1, 2, 4))):
            fields = _fields(message)
            if fields:
                _damage_field(random, *random.choice(fields))
        return bytes(message.SerializeToString())

    return mutate


def _fields(message: Any) -> list[tuple[Any, Any]]:
    """(message, field) of everything that is set, at any depth."""
    found, waiting = [], [message]
    while waiting:
        one = waiting.pop()
        for field, value in one.ListFields():
            found.append((one, field))
            if field.message_type is not None:
                waiting += _messages(field, value)
    return found


def _messages(field: Any, value: Any) -> list[Any]:
    if not _is_repeated(field):
        return [value]
    if not field.message_type.GetOptions().map_entry:
        return list(value)
    inner = field.message_type.fields_by_name["value"]
    return list(value.values()) if inner.message_type is not None else []


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def _damage_field(random: Random, message: Any, field: Any) -> None:
    value = getattr(message, field.name)
    try:
        if random.random() < 0.2:
            message.ClearField(field.name)
        elif _is_repeated(field):
            _damage_repeated(random, value, field)
        elif field.message_type is None:
            setattr(message, field.name, _hostile_field(random, value))
    except (ValueError, TypeError, OverflowError):  # not a value of this type
        message.ClearField(field.name)


def _damage_repeated(random: Random, values: Any, field: Any) -> None:
    if hasattr(values, "keys"):
        key = random.choice(sorted(values))
        del values[key]
        return
    place = random.randrange(len(values))
    kind = random.randrange(4)
    if kind == 0:
        del values[place]
    elif kind == 1:
        values.append(values[place])
    elif kind == 2 or field.message_type is not None:
        order = list(values)
        random.shuffle(order)
        del values[:]
        values.extend(order)
    else:
        values[place] = _hostile_field(random, values[place])


def _hostile_field(random: Random, old: Any) -> Any:
    if isinstance(old, bytes):
        return damaged(random, old)
    if isinstance(old, str):
        return random.choice(HOSTILE_TEXTS).replace("\ud800", "?")
    if isinstance(old, float):
        return random.choice((float("nan"), float("inf"), -1e308, 0.0))
    return random.choice((0, 1, -1, 2, 7, 99, 1 << 20, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)))

"""The program that a plan of TensorRT for RTX holds as text: its tensors with their types, and its operations.

A plan is a binary file. Each program in it is a record: a magic word, a version, a length and that many bytes of text.
The outer program is what runs; each of its runtime fusions has a small program of its own, which says what is inside.
Nobody documents the form, so whatever is not known here is listed in ``PlanText.unknown``, and is not guessed at.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.tensorrt._plan_search import give_back

MAGIC = b"NLYM"
RECORD_VERSIONS = frozenset({2022049})
Content: TypeAlias = mmap.mmap | bytes
_HEAD = struct.Struct("<4sIQ")
_CHUNK_BYTES = 64 << 20
# The program of VGGT-1B has 3 MB; a record beyond this is damaged.
_LARGEST_TEXT_BYTES = 256 << 20
_ENTRY = re.compile(r"\s*(\w+)=\{(.*)\}\s*")
_FIELD = re.compile(r'(\w+) ?= ?("[^"]*"|\{[^}]*\}|[^\s{}"]+)')
_QUOTED = re.compile(r'"([^"]*)"')
_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_SECTION = re.compile(r"(\w+) \{")
_LABEL = re.compile(r"\s*label \w+:\s*")
PACKED_BITS = 8
# A fusion's program runs on any accelerator, the outer one on those that the plan was compiled for.
_OF_FUSION = "accelerators={*}"
TYPE_BITS: Mapping[str, int] = MappingProxyType(
    {"float": 32, "half": 16, "bfloat16": 16, "fp8_e4m3": 8, "int8": 8, "int4": 4, "fp4_e2m1": 4}
)


@dataclass(frozen=True)
class Tensor:
    """A value in a program.

    type: as the plan spells it. count: elements. is_constant: whether the plan holds its content. base: the tensor that
    this one is a part of; empty for a whole one.
    """

    name: str
    type: str
    count: int
    is_constant: bool
    base: str = ""

    @property
    def bytes(self) -> int:
        """Size in memory; 0 for a type of unknown width."""
        return self.count * TYPE_BITS.get(self.type, 0) // 8


@dataclass(frozen=True)
class Operation:
    """A launch of the outer program, or a step of a fusion. nodes: names of the ONNX nodes that it came from."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A program of the plan. inputs: names of the tensors that enter it; for a fusion, in the order of its inputs."""

    inputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    operations: tuple[Operation, ...]

    def whole(self, name: str) -> Tensor | None:
        """The tensor of that name, or the one that it is a part of; None for a name that is not declared."""
        tensor = self.tensors.get(name)
        while tensor is not None and tensor.base:
            tensor = self.tensors.get(tensor.base)
        return tensor

    @cached_property
    def producers(self) -> Mapping[str, Operation]:
        """The operation that writes each tensor."""
        return {name: operation for operation in self.operations for name in operation.outputs}

    @cached_property
    def fixed(self) -> Mapping[str, bool]:
        """Whether a tensor is made of packed numbers, by name, for the whole tensors that are the same at every run."""
        found = {
            one.name: TYPE_BITS.get(one.type, 32) <= PACKED_BITS for one in self.tensors.values() if one.is_constant
        }
        for operation in self.operations:
            sources = [None if (tensor := self.whole(name)) is None else tensor.name for name in operation.inputs]
            if sources and all(name in found for name in sources):
                found |= dict.fromkeys(operation.outputs, any(found[name] for name in sources if name is not None))
        return found


@dataclass(frozen=True)
class PlanText:
    """The programs of a plan. unknown: parts that could not be read, in words; empty for a plan that was read whole."""

    programs: tuple[Program, ...]
    fusions: tuple[Program, ...]
    unknown: tuple[str, ...]


def read_plan(path: Path) -> PlanText:
    """Read the programs of a plan of any size; of its weights no more than the search for records looks at.

    ``InputError`` for a file that cannot be opened. Whatever is wrong inside is said in ``unknown``.
    """
    unknown: list[str] = []
    found: tuple[list[Program], list[Program]] = ([], [])
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for text in texts(content, unknown):
                found[_OF_FUSION in text].append(parse_program(text, unknown))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise InputError(f"cannot read the plan: {error}", where=str(path), expected="a compiled plan") from error
    if not found[0] and not unknown:
        unknown.append("the plan holds no program as text")
    return PlanText(tuple(found[0]), tuple(found[1]), tuple(dict.fromkeys(unknown)))


def texts(content: Content, unknown: list[str]) -> Iterator[str]:
    """The text of each program; what is wrong with one is added to ``unknown``."""
    for position in _positions(content):
        head = content[position : position + _HEAD.size]
        if len(head) < _HEAD.size:
            unknown.append("a program is cut short")
            return
        _, version, length = _HEAD.unpack(head)
        start = position + _HEAD.size
        text = content[start : start + min(length, _LARGEST_TEXT_BYTES)]
        if not text.startswith(b"header {"):
            continue  # four bytes of a weight that happen to spell the magic word
        if version not in RECORD_VERSIONS:
            unknown.append(f"a program of version {version}")
        elif len(text) < length:
            unknown.append("a program is cut short")
        else:
            yield text.decode("utf-8", errors="backslashreplace")


def _positions(content: Content) -> Iterator[int]:
    """Positions of the magic word. The pages that were looked at are given back."""
    for start in range(0, len(content), _CHUNK_BYTES):
        end = start + _CHUNK_BYTES + len(MAGIC) - 1
        position = content.find(MAGIC, start, end)
        while position >= 0:
            yield position
            position = content.find(MAGIC, position + 1, end)
        if isinstance(content, mmap.mmap):
            give_back(content)


def parse_program(text: str, unknown: list[str]) -> Program:
    """Parse the text of a program. Lines of a form that is not known are added to ``unknown``."""
    inputs: tuple[str, ...] = ()
    tensors: dict[str, Tensor] = {}
    operations: list[Operation] = []
    section = ""
    for line in text.splitlines():
        if opened := _SECTION.fullmatch(line):
            section = opened[1]
        elif section == "header" and line.startswith("  inputs="):
            inputs = tuple(_QUOTED.findall(line))
        elif section == "descriptors" and (tensor := _tensor(line)) is not None:
            tensors[tensor.name] = tensor
        elif section == "main" and (operation := _operation(line)) is not None:
            operations.append(operation)
        elif section in ("descriptors", "main") and not (line.strip() in ("", "}") or _LABEL.fullmatch(line)):
            unknown.append(f"a line of {section}: {line.strip()[:60]}")
    if not tensors or not operations:
        unknown.append("a program without tensors or operations")
    return Program(inputs, tensors, tuple(operations))


def _fields(line: str) -> tuple[str, dict[str, str]] | None:
    entry = _ENTRY.fullmatch(line)
    return None if entry is None else (entry[1], dict(_FIELD.findall(entry[2])))


def _tensor(line: str) -> Tensor | None:
    found = _fields(line)
    if found is None or found[0] not in ("tensor", "sub_tensor") or not {"name", "type", "dims"} <= found[1].keys():
        return None
    fields = found[1]
    sizes = [int(size) for size in re.findall(r"\d+", fields["dims"])]
    base = fields.get("base", "").strip('"')
    return Tensor(fields["name"].strip('"'), fields["type"], prod(sizes), "const_payload_size" in fields, base)


def _operation(line: str) -> Operation | None:
    found = _fields(line)
    if found is None:
        return None
    kind, fields = found
    given, written = (fields.get(f"{side}_args", fields.get(side)) for side in ("input", "output"))
    if given is None or written is None or "name" not in fields:
        return None
    nodes = tuple(_LAYER.findall(fields.get("layers", "")))
    inputs, outputs = tuple(_QUOTED.findall(given)), tuple(_QUOTED.findall(written))
    return Operation(kind, fields["name"].strip('"'), inputs, outputs, nodes)

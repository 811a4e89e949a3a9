"""What a saved asset really holds: its program read back, every linear operator traced to its stored weight.

Runs in the worker: reading an asset is native code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.scheme import Numbers, NumberType
from vggt_edge.runtimes.coreai.sdk import sdk

ENTRY = "main"
LINEAR_OPS = frozenset({"batch_matmul", "conv2d", "conv_transpose2d", "decomposable.broadcasting_batch_matmul"})
# What may stand between a stored weight, or the quantization of an activation, and the operator that multiplies.
_MOVES = frozenset({"broadcast_in_dims", "cast", "expand_dims", "pad", "reshape", "shrink_dims", "transpose"})
_RESTORES = frozenset({"blockwise_shift_scale", "lut_to_dense"})
_ELEMENT = re.compile(r"(si|ui|f)(\d+)$")


@dataclass(frozen=True)
class StoredLinear:
    """One product or convolution with a stored weight.

    element: the type of what is stored, ``si8``, ``si4``, ``ui6``, ``f16`` or ``f32``. digest: of the stored values
    (``digest_of``). palette: they are indices into a table. int8_input: the other operand went through int8.
    """

    operator: str
    element: str
    shape: tuple[int, ...]
    digest: str
    palette: bool
    int8_input: bool

    @property
    def numbers(self) -> Numbers:
        stored = NumberType.FLOAT if self.element.startswith("f") else NumberType.INTEGER
        return Numbers(NumberType.PALETTE if self.palette else stored, int(self.element.lstrip("siuf")))


@dataclass(frozen=True)
class Borders:
    """Name and shape of each input and output, all of them float32."""

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Contents:
    """linears: in the order of the program."""

    linears: tuple[StoredLinear, ...]
    borders: Borders


def digest_of(values: npt.NDArray[Any]) -> str:
    """Of the values and their shape; 4-bit integers as int8, indices as uint8."""
    header = f"{values.dtype.str}{values.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(values).tobytes()).hexdigest()


def read_contents(path: Path) -> Contents:
    """Read the asset back; raises whatever Core AI does for one that it cannot read."""
    with _entry(path) as entry:
        return Contents(tuple(_linears(entry)), _borders(entry))


def read_borders(path: Path) -> Borders:
    """The same without the weights."""
    with _entry(path) as entry:
        return _borders(entry)


@contextmanager
def _entry(path: Path) -> Iterator[Any]:
    """The function of the program; its operations live as long as the program does."""
    program = sdk("coreai.authoring").AIModelAsset.load(path).program
    for operation in program._module._mlir_module.body.operations:
        if operation.name == "coreai.graph" and operation.attributes["sym_name"].value == ENTRY:
            yield operation
            return
    raise ValueError(f"the asset has no function {ENTRY!r}")


def _borders(entry: Any) -> Borders:
    return Borders(tuple(_border(entry, "arg_attrs", "inputs")), tuple(_border(entry, "res_attrs", "results")))


def _border(entry: Any, attributes: str, side: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    types = getattr(entry.attributes["function_type"].value, side)
    for attribute, kind in zip(entry.attributes[attributes], types, strict=True):
        if str(kind.element_type) != "f32":
            raise ValueError(f"a border of the graph is {kind}")
        yield attribute["coreai.name"].value, tuple(kind.shape)


def _linears(entry: Any) -> Iterator[StoredLinear]:
    digests: dict[Any, str] = {}
    for operation in entry.regions[0].blocks[0].operations:
        kind = _kind(operation)
        if kind not in LINEAR_OPS:
            continue
        first, second = operation.operands[0], operation.operands[1]
        constant, palette = _stored(second)
        if constant is None and kind.endswith("batch_matmul"):
            (constant, palette), first = _stored(first), second
        if constant is not None:
            if constant not in digests:
                digests[constant] = digest_of(constant_values(constant))
            type_ = constant.results[0].type
            element, shape = str(type_.element_type), tuple(type_.shape)
            yield StoredLinear(kind, element, shape, digests[constant], palette, _is_int8(first))


def _kind(operation: Any) -> str:
    name: str = operation.name
    return name.removeprefix("coreai.")


def _producer(value: Any) -> Any | None:
    """None for an argument of the graph."""
    owner = value.owner
    operation = getattr(owner, "operation", owner)
    return operation if hasattr(operation, "operands") else None


def _stored(value: Any) -> tuple[Any | None, bool]:
    """(the constant that a value is restored from, whether through a table); None for an activation."""
    palette = False
    while (operation := _producer(value)) is not None:
        kind = _kind(operation)
        if kind == "constant":
            return operation, palette
        if kind not in _MOVES | _RESTORES:
            break
        palette = palette or kind == "lut_to_dense"
        value = operation.operands[0]
    return None, False


def _is_int8(value: Any) -> bool:
    """Whether a value comes out of a quantize/dequantize pair of int8."""
    while (operation := _producer(value)) is not None:
        kind = _kind(operation)
        if kind == "quantize":
            return str(operation.results[0].type.element_type) == "si8"
        if kind not in _MOVES | {"dequantize"}:
            return False
        value = operation.operands[0]
    return False


def constant_values(operation: Any) -> npt.NDArray[Any]:
    """The values of a ``coreai.constant``: int8 and uint8 for integers of 8 bits and less, float16 or float32.

    Core AI's bindings give no access to the bytes of a large constant. Printed alone, it brings them in hexadecimal.
    """
    type_ = operation.results[0].type
    element, shape = str(type_.element_type), tuple(type_.shape)
    text = operation.clone().get_asm()
    found = re.search(r'"0x([0-9A-Fa-f]+)"', text)
    if found is None:
        return np.array(np.broadcast_to(np.asarray(operation.attributes["value"]), shape))
    data = bytes.fromhex(found[1])
    # In a resource the first four bytes are its alignment.
    return unpacked(data[4:] if "dialect_resources" in text else data, element, shape)


def unpacked(data: bytes, element: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Packed little-endian values of ``element``, such as ``si4``; ``ValueError`` where there are too few."""
    kind = _ELEMENT.match(element)
    if kind is None:
        raise ValueError(f"a weight of type {element}")
    bits, count = int(kind[2]), int(np.prod(shape))
    if kind[1] == "f":
        return np.frombuffer(data, f"<f{bits // 8}", count).reshape(shape)
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: bits * count].reshape(count, bits)
    values = np.packbits(stream, axis=1, bitorder="little").reshape(shape)
    if kind[1] == "ui":
        return values
    return (values.view(np.int8) << (8 - bits)) >> (8 - bits)


def contents_from(answer: dict[str, Any]) -> Contents:
    """Back from the JSON that the worker sends."""
    linears = tuple(StoredLinear(**{**entry, "shape": tuple(entry["shape"])}) for entry in answer["linears"])
    sides = {
        side: tuple((name, tuple(shape)) for name, shape in answer["borders"][side]) for side in ("inputs", "outputs")
    }
    return Contents(linears, Borders(**sides))

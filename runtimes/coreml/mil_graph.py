"""The MIL program while it grows, and the names in it.

MIL allows letters, digits and underscores, so ``frame_blocks.0/attn.qkv/MatMul`` becomes
``frame_blocks_0__attn_qkv__linear``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.audit import array_of
from vggt_edge.runtimes.coreml.weights import Array, emit_weight, read_weight


def mil_name(name: str) -> str:
    """A name of the graph as MIL can hold it."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name.replace("/", "__"))


class Graph:
    """The MIL program while it grows: what each ONNX value became.

    ios: deployment target, 17 or 18. A value that no node computes becomes a constant when it is first read.
    """

    def __init__(self, builder: Any, ios: int) -> None:
        self.mb = builder
        self.ios = ios
        self.values: dict[ir.Value, Any] = {}
        self.done: set[ir.Node] = set()
        self._weights: dict[tuple[ir.Value, bool], Any] = {}
        self._shared: dict[bytes, Any] = {}
        self._names: Counter[str] = Counter()

    def emit(self, operator: str, node: ir.Node, role: str = "", **operands: Any) -> Any:
        """Add a MIL operator for ``node``; ``role`` is part of its name where the node needs several operators."""
        values = {key: self._operand(value) for key, value in operands.items() if value is not None}
        return getattr(self.mb, operator)(name=self.name_of(node, role), **values)

    def read(self, value: ir.Value | None) -> Any:
        """The MIL value of an operand."""
        assert value is not None
        if value in self.values:
            return self.values[value]
        if value.const_value is None and (unpacked := self.weight(value, transposed=False)) is not None:
            return unpacked
        return self.shared(self.constant(value))

    def _operand(self, value: Any) -> Any:
        is_number = isinstance(value, (bool, int, str, np.generic, np.ndarray))
        is_list = isinstance(value, list) and isinstance(value[0], (bool, int))
        return self.shared(np.asarray(value)) if is_number or is_list else value

    def shared(self, values: Array) -> Any:
        """A constant that equal values share: position tables, shapes, axes. Copies would be a third of the program."""
        if values.dtype == np.int64:
            values = values.astype(np.int32)
        content = f"{values.dtype}{values.shape}".encode() + values.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._shared:
            # A string needs no copy, and is no array to MIL.
            plain = str(values) if values.dtype.kind == "U" else values[()]
            self._shared[key] = self.mb.const(val=plain, name=f"const_{len(self._shared)}")
        return self._shared[key]

    def constant(self, value: ir.Value | None) -> Array:
        """A stored operand. ``LoweringError`` where it is computed instead."""
        if value is None or value.const_value is None:
            name = "an operand" if value is None else str(value.name)
            raise LoweringError(f"{name} is computed", where=name, expected="a constant: shapes are fixed at export")
        return array_of(value.const_value)

    def integers(self, value: ir.Value | None) -> list[int]:
        return [int(item) for item in self.constant(value).reshape(-1)]

    def weight(self, value: ir.Value | None, *, transposed: bool) -> Any | None:
        """The MIL constant of a stored weight, one however often it is read; None for an activation."""
        assert value is not None
        key = value, transposed
        if key not in self._weights:
            stored = read_weight(value, transposed=transposed)
            if stored is None:
                return None
            name = f"{mil_name(_layer_of(value))}__weight"
            self._names[name] += 1
            unique = name if self._names[name] == 1 else f"{name}_{self._names[name] - 1}"
            self._weights[key] = emit_weight(self.mb, stored, unique, blockwise=self.ios >= 18)
        return self._weights[key]

    def name_of(self, node: ir.Node, role: str = "") -> str:
        """The name of the MIL operator for ``node``: its output's where the graph gives that back."""
        output = node.outputs[0]
        if output.is_graph_output() and not role:
            return str(output.name)
        scope, _, last = (node.name or node.op_type).rpartition("/")
        number = "".join(re.findall(r"_\d+$", last))
        return mil_name(f"{scope}/{role}{number}" if role else node.name or node.op_type)


def _layer_of(value: ir.Value) -> str:
    """The layer that a weight belongs to: the scope of the first node that reads it."""
    reader = next(iter(value.uses()), None)
    return "weight" if reader is None else (reader.node.name or "").rpartition("/")[0]

"""From the strongly typed ONNX graph to a MIL program, node by node; ``translations.py`` has the operators.

Names: MIL allows letters, digits and underscores, so ``frame_blocks.0/attn.qkv/MatMul`` becomes
``frame_blocks_0__attn_qkv__linear``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.coreml.sdk import load_coremltools, quiet
from vggt_edge.runtimes.coreml.weights import Array, array_of, emit_weight, read_weight

_UNPACKING = frozenset({"Cast", "DequantizeLinear", "Gather", "Reshape"})


def mil_name(name: str) -> str:
    """A name of the graph as MIL can hold it."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name.replace("/", "__"))


@dataclass(frozen=True)
class ImageInput:
    """Frames come as RGB images of their own, ``image_0`` and so on, instead of one tensor in [0, 1]."""

    frames: int
    height: int
    width: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"image_{index}" for index in range(self.frames))


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
        """One MIL operator for ``node``; ``role`` names it where the node needs several, or is called otherwise."""
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
        """One constant for all equal ones: position tables, shapes, axes. A third of the program would be copies."""
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


def to_mil(model: ir.Model, ios: int, images: ImageInput | None = None) -> Any:
    """The MIL program of a typed graph (``common/typed.py``); ``LoweringError`` names a node without a form in MIL.

    images: take each frame as an RGB image; None for the graph's own tensor.
    """
    from vggt_edge.runtimes.coreml.translations import TRANSLATIONS

    if any(value.shape is None for node in model.graph for value in node.outputs):
        passes.ShapeInferencePass()(model)
    mil = load_coremltools("coremltools.converters.mil.mil")
    target = getattr(load_coremltools().target, f"iOS{ios}")
    builder = mil.Builder
    with quiet():
        program = mil.Program()
        with mil.Function(_placeholders(builder, model, images), opset_version=target) as function:
            graph = Graph(builder, ios)
            graph.values |= _inputs(builder, function.inputs, model, images)
            for node in model.graph:
                if node not in graph.done and not _unpacks(node):
                    _translate(graph, node, TRANSLATIONS)
            function.set_outputs([_output(graph, value) for value in model.graph.outputs])
        program.add_function("main", function)
    return program


def _placeholders(builder: Any, model: ir.Model, images: ImageInput | None) -> dict[str, Any]:
    types = load_coremltools("coremltools.converters.mil.mil.types")
    if images is not None:
        shape = (1, 3, images.height, images.width)
        return {name: builder.placeholder(shape, dtype=types.fp32) for name in images.names}
    return {
        str(value.name): builder.placeholder(tuple(_shape(value)), dtype=types.fp32) for value in model.graph.inputs
    }


def _inputs(builder: Any, given: Mapping[str, Any], model: ir.Model, images: ImageInput | None) -> dict[ir.Value, Any]:
    if images is None:
        return {value: given[str(value.name)] for value in model.graph.inputs}
    (value,) = model.graph.inputs
    # Bytes of 0 to 255 to the model's [0, 1].
    stacked = builder.concat(values=[given[name] for name in images.names], axis=0, name="images__concat")
    scaled = builder.mul(x=stacked, y=np.float32(1 / 255), name="images__scale")
    return {value: builder.reshape(x=scaled, shape=_shape(value), name="images__frames")}


def _shape(value: ir.Value) -> list[int]:
    if value.shape is None or not value.shape.is_static():
        raise LoweringError(
            f"{value.name} has no fixed shape", where=str(value.name), expected="a graph exported for one input size"
        )
    return [int(side) for side in value.shape.numpy()]


def _unpacks(node: ir.Node) -> bool:
    """Whether a node only unpacks a stored weight: whoever reads the result stores it in MIL's own way."""
    offset = node.op_type == "Add" and node.outputs[0].dtype == ir.DataType.INT32
    if not offset and node.op_type not in _UNPACKING:
        return False
    return all(_is_stored(value) for value in node.inputs if value is not None)


def _is_stored(value: ir.Value) -> bool:
    producer = value.producer()
    return value.const_value is not None if producer is None else _unpacks(producer)


def _translate(graph: Graph, node: ir.Node, translations: Mapping[str, Any]) -> None:
    translation = translations.get(node.op_type)
    if translation is None:
        raise _untranslatable(node, "it has no translation")
    try:
        results = translation(graph, node)
    except (ValueError, TypeError, NotImplementedError, AssertionError) as error:
        raise _untranslatable(node, str(error) or type(error).__name__) from error
    for value, result in zip(node.outputs, results if isinstance(results, Sequence) else [results], strict=True):
        graph.values[value] = result
    graph.done.add(node)


def _untranslatable(node: ir.Node, why: str) -> LoweringError:
    return LoweringError(
        f"operator {node.op_type} cannot become MIL: {why}",
        where=node.name or node.op_type,
        expected="an operator, in a form, of runtimes/coreml/translations.py",
        remedy="add it there, or write the model without it",
    )


def _output(graph: Graph, value: ir.Value) -> Any:
    """The result under the graph's own name, also where it is an input or another output."""
    result = graph.read(value)
    return result if result.name == value.name else graph.mb.identity(x=result, name=str(value.name))

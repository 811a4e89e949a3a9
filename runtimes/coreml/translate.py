"""Translates the strongly typed ONNX graph into a MIL program, node by node; ``translations.py`` has the operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.coreml.mil_graph import Graph
from vggt_edge.runtimes.coreml.sdk import load_coremltools, quiet
from vggt_edge.runtimes.coreml.translations import TRANSLATIONS

_UNPACKING = frozenset({"Cast", "DequantizeLinear", "Gather", "Reshape"})


@dataclass(frozen=True)
class ImageInput:
    """Frames come as RGB images of their own, ``image_0`` and so on, instead of one tensor in [0, 1]."""

    frames: int
    height: int
    width: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"image_{index}" for index in range(self.frames))


def to_mil(model: ir.Model, ios: int, images: ImageInput | None = None) -> Any:
    """The MIL program of a typed graph (``common/typed.py``); ``LoweringError`` names a node without a form in MIL.

    images: take each frame as an RGB image; None for the graph's own tensor.
    """
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
                    _translate(graph, node)
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


def _translate(graph: Graph, node: ir.Node) -> None:
    translation = TRANSLATIONS.get(node.op_type)
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

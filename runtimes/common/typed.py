"""From a QDQ graph with FP32 compute to a strongly typed one with FP16 compute.

A strongly typed runtime computes each operator in the type of its inputs, so the graph itself has to carry every
precision. Every float operator becomes FP16, apart from the islands that stay FP32: the blocks and modules that the
calibration's headroom scan names, and what follows the last linear or convolution before each output (exp and expm1 of
the dense heads, the pose accumulator). Graph inputs and outputs stay FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.fp4 import DYNAMIC_OUTPUTS, DYNAMIC_QUANTIZE
from vggt_edge.runtimes.common.halves import scale_to_half, to_half

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Between an output and the last operator that multiplies matrices, nothing but these: they stay FP32.
_POINTWISE = {"Abs", "Add", "Cast", "Clip", "Div", "Exp", "Identity", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Relu"}
_POINTWISE |= {"Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh", "Where"}
_MOVES = {"Concat", "Expand", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
TAIL_OPS = frozenset(_POINTWISE | _MOVES)
# Float inputs that are FP32 by definition, whatever the data is.
_FP32_INPUTS = frozenset({("Resize", 1), ("Resize", 2), (DYNAMIC_QUANTIZE, 1)})
_INT64_OUTPUT = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size"})
_COMPARISONS = {"Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"}
_BOOL_OUTPUT = frozenset(_COMPARISONS | {"And", "Not", "Or", "Xor"})
# The input that gives the output its type, where it is not the first.
_TYPE_INPUT = {"CastLike": 1, "DequantizeLinear": 1, "OneHot": 2, "Where": 1}
_LARGE_BYTES = 1 << 18


def fp32_names(scanned: Iterable[str], plan: PrecisionPlan) -> tuple[str, ...]:
    """What computes in FP32: the blocks and modules that the headroom scan names, and what the plan keeps in fp32."""
    planned = {assignment.block for assignment in plan.assignments if assignment.scheme == "fp32"}
    return tuple(sorted({*scanned, *planned}))


def type_graph(
    model: ir.Model, fp32: tuple[str, ...] = (), restoring: Collection[ir.Node] = (), *, one_way: bool = False
) -> tuple[str, ...]:
    """Type ``model`` in place; the names of the nodes that stay FP32, sorted.

    restoring: nodes that restore values in FP32, which are cast for what reads them; they are no part of the result.
    one_way: nothing goes back from the FP32 tails to FP16. What is read there as well, such as the pose that the next
    refinement starts from, is computed in both types: a processor that has FP16 only then hands over once, at the end.
    """
    if any(attribute.type == ir.AttributeType.GRAPH for node in model.graph for attribute in node.attributes.values()):
        raise LoweringError("the graph holds control flow", expected="a flat graph", remedy="export with fixed shapes")
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.TopologicalSortPass()(model)
    _uncast_scales(model.graph)
    ends = tail(model.graph)
    if one_way:
        _split(model.graph, ends)
    islands = _named(model.graph, fp32) | ends
    _Typing(model.graph, islands | set(restoring)).run()
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version = "vggt-edge", None
    return tuple(sorted(node.name or "" for node in islands if node.graph is not None))


def _uncast_scales(graph: ir.Graph) -> None:
    """Scales stored narrow behind a Cast are read directly: their type becomes that of the compute around them."""
    for node in graph:
        scale = node.inputs[1] if node.op_type in QDQ else None
        cast = None if scale is None else scale.producer()
        if cast is not None and cast.op_type == "Cast" and cast.inputs[0] is not None:
            node.replace_input_with(1, cast.inputs[0])


def tail(graph: ir.Graph) -> set[ir.Node]:
    """The operators between each graph output and the last linear, convolution or norm before it."""
    found: set[ir.Node] = set()
    pending = [value.producer() for value in graph.outputs]
    while pending:
        node = pending.pop()
        if node is not None and node not in found and node.op_type in TAIL_OPS:
            found.add(node)
            pending += [value.producer() for value in node.inputs if value is not None]
    return found


def _split(graph: ir.Graph, ends: set[ir.Node]) -> None:
    """Give every node of the tails that others read, directly or through such a node, an FP16 twin for them."""
    twins: dict[ir.Value, ir.Value] = {}
    for node in _read_elsewhere(graph, ends):
        outputs = [ir.Value(name=f"{value.name}.twin", shape=value.shape, type=value.type) for value in node.outputs]
        inputs = [value if value is None else twins.get(value, value) for value in node.inputs]
        twin = ir.node(node.op_type, inputs, node.attributes, outputs=outputs, name=f"{node.name}_twin")
        graph.insert_after(node, twin)
        for value, copy in zip(node.outputs, outputs, strict=True):
            twins[value] = copy
            for reader, index in tuple(value.uses()):
                if reader not in ends and reader is not twin:
                    reader.replace_input_with(index, copy)


def _read_elsewhere(graph: ir.Graph, ends: set[ir.Node]) -> list[ir.Node]:
    found: set[ir.Node] = set()
    ordered = [node for node in graph if node in ends]
    for node in reversed(ordered):
        readers = {use.node for value in node.outputs for use in value.uses()}
        if any(reader not in ends or reader in found for reader in readers):
            found.add(node)
    return [node for node in ordered if node in found]


def _named(graph: ir.Graph, names: tuple[str, ...]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    for name in names:
        inside = {node for node in graph if (node.name or "").startswith((f"{name}/", f"{name}."))}
        if not inside:
            raise LoweringError(
                f"no node belongs to {name!r}, which has to be computed in FP32",
                where=name,
                expected="the name of a block or module of the graph",
            )
        found |= inside
    return found


def _converted(
    source: str, name: str, stored: ir.TensorProtocol, wanted: ir.DataType, scale: bool
) -> ir.TensorProtocol:
    """``stored`` in FP16 or FP32; if it is large, its bytes are in memory only while it is written."""

    def make() -> ir.TensorProtocol:
        values: np.ndarray
        if wanted == FLOAT:
            values = stored.numpy().astype(np.float32)
        else:
            values = (scale_to_half if scale else to_half)(source, stored.numpy())
        if isinstance(stored, ir.ExternalTensor):
            stored.release()
        return ir.tensor(values, name=name)

    if stored.nbytes < _LARGE_BYTES:
        return make()
    return ir.LazyTensor(make, wanted, ir.Shape(stored.shape.numpy()), name=name)


class _Typing:
    """Gives every float value one type, from the inputs to the outputs, with a Cast wherever the type changes."""

    def __init__(self, graph: ir.Graph, islands: set[ir.Node]) -> None:
        self.graph = graph
        self.islands = islands
        self.types: dict[ir.Value, ir.DataType] = {}
        self.converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        for value in (*self.graph.inputs, *self.graph.initializers.values()):
            if value.dtype is None:
                raise LoweringError(f"{value.name} has no type", where=str(value.name), expected="a typed ONNX graph")
            self.types[value] = value.dtype
        for node in tuple(self.graph):
            self._visit(node)
        self._restore_outputs()
        for value, dtype in self.types.items():
            value.type = ir.TensorType(dtype)
        self._drop_unused_constants()

    def _visit(self, node: ir.Node) -> None:
        wanted = FLOAT if node in self.islands else FLOAT16
        if node.op_type == "Cast" and node.attributes.get_int("to") in FLOATS:
            self._visit_cast(node, wanted)
            return
        for index, value in enumerate(node.inputs):
            if value is not None and self.types[value] in FLOATS and (node.op_type, index) not in _FP32_INPUTS:
                scale = node.op_type in QDQ and index == 1
                node.replace_input_with(index, self._as(value, wanted, node, scale))
        for index, value in enumerate(node.outputs):
            self.types[value] = self._output_type(node, index)

    def _visit_cast(self, node: ir.Node, wanted: ir.DataType) -> None:
        """A cast to float now casts to the type around it, which often means that it has nothing left to do."""
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        if self.types[source] == wanted and not output.is_graph_output():
            output.replace_all_uses_with(source)
            self.graph.remove(node, safe=True)
            return
        node.attributes["to"] = ir.AttrInt64("to", wanted)
        self.types[output] = wanted

    def _output_type(self, node: ir.Node, index: int) -> ir.DataType:
        operator = node.op_type
        if operator in _BOOL_OUTPUT:
            return ir.DataType.BOOL
        if operator == DYNAMIC_QUANTIZE:
            return DYNAMIC_OUTPUTS[index]
        if operator in _INT64_OUTPUT or (operator == "TopK" and index == 1):
            return ir.DataType.INT64
        if operator == "Cast":
            return ir.DataType(node.attributes.get_int("to"))
        if operator == "QuantizeLinear":
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                return self.types[node.inputs[2]]
            return ir.DataType(node.attributes.get_int("output_dtype", ir.DataType.UINT8))
        if operator == "ConstantOfShape":
            value = node.attributes.get_tensor("value", None)
            return FLOAT if value is None else value.dtype
        source = node.inputs[_TYPE_INPUT.get(operator, 0)]
        assert source is not None
        return self.types[source]

    def _as(self, value: ir.Value, wanted: ir.DataType, before: ir.Node, scale: bool = False) -> ir.Value:
        if self.types[value] == wanted:
            return value
        key = (value, wanted)
        if key not in self.converted:
            # An FP16 constant that is wanted in FP32 is cast in the graph, where the file must not grow; not a scale,
            # since TensorRT wants those constant.
            stored = value.const_value is not None and (wanted == FLOAT16 or scale)
            new = self._restored(value, wanted, scale) if stored else self._cast(value, wanted, before)
            self.types[new] = wanted
            self.converted[key] = new
        return self.converted[key]

    def _restored(self, value: ir.Value, wanted: ir.DataType, scale: bool) -> ir.Value:
        """A constant in another type, converted when it is written: a big graph would not fit otherwise."""
        assert value.const_value is not None
        name = f"{value.name}.{'fp16' if wanted == FLOAT16 else 'fp32'}"
        tensor = _converted(str(value.name), name, value.const_value, wanted, scale)
        new = ir.Value(name=name, shape=value.shape, type=ir.TensorType(wanted), const_value=tensor)
        self.graph.register_initializer(new)
        return new

    def _cast(self, value: ir.Value, wanted: ir.DataType, before: ir.Node | None) -> ir.Value:
        kind = "fp32" if wanted == FLOAT else "fp16"
        # Named after the consumer, so that the cast belongs to the block that asked for it.
        owner = before.name if before is not None else "output"
        output = ir.Value(name=f"{value.name}.{kind}", shape=value.shape)
        cast = ir.node("Cast", [value], {"to": int(wanted)}, outputs=[output], name=f"{owner}/Cast_{kind}_{value.name}")
        if before is None:
            self.graph.append(cast)
        else:
            self.graph.insert_before(before, cast)
        return output

    def _restore_outputs(self) -> None:
        """Graph outputs are FP32 under the names that they had."""
        for index, value in enumerate(self.graph.outputs):
            if self.types[value] not in FLOATS - {FLOAT}:
                continue
            name, value.name = value.name, f"{value.name}.fp16"
            cast = self._cast(value, FLOAT, None)
            cast.name = name
            self.types[cast] = FLOAT
            self.graph.outputs[index] = cast

    def _drop_unused_constants(self) -> None:
        for name, value in tuple(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

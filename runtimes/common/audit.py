"""Asked against realised precision of an ONNX file, read from its initializers and not from what anyone intended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import Form, Kind, LayerShape, scheme_with
from vggt_edge.calibration.scheme import FP4, SCHEMES, Activation, Numbers, NumberType, scheme_of_layers
from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.base import Realised
from vggt_edge.runtimes.common.fp4 import is_fp4_input, is_fp4_weight

LINEAR_OPS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
# What may stand between a stored weight and the operator that multiplies with it.
_TRANSPARENT = frozenset(
    {"Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
# Inputs without which an operator means nothing; those of others are their kernel's business.
_LEAST_INPUTS = {
    **dict.fromkeys(_TRANSPARENT, 1),
    **dict.fromkeys(("Gather", "QuantizeLinear", *LINEAR_OPS), 2),
    "Add": 2,
}
_KINDS = {"Conv": Kind.CONVOLUTION, "ConvTranspose": Kind.TRANSPOSED}


@dataclass(frozen=True)
class LinearPrecision:
    """One MatMul, Gemm or convolution with a stored weight.

    path: module path of the layer inside its block, ``mlp.fc1``. weight: what it is stored as; None where the file
    holds another weight than the model's. activation: how its input was quantized, if it was.
    """

    node: str
    path: str
    shape: LayerShape
    weight: Numbers | None
    activation: Activation

    @property
    def scheme(self) -> str:
        """The scheme that has what was found, or a description."""
        return scheme_with(self.weight, self.activation)


@dataclass(frozen=True)
class Palette:
    """A stored weight of which ``index`` chooses the values of ``table``, (tables, 2**bits)."""

    index: ir.TensorProtocol
    table: ir.TensorProtocol

    @property
    def dtype(self) -> ir.DataType:
        return self.index.dtype

    @property
    def bits(self) -> int:
        return int(self.table.shape.numpy()[1]).bit_length() - 1

    @property
    def numbers(self) -> Numbers:
        return Numbers(NumberType.PALETTE, self.bits)


def load_onnx(path: Path) -> ir.Model:
    """Read a model without its weights.

    ``InputError`` names a file that is missing, no ONNX model, or a graph that cannot be followed: with values that are
    read before they are written, operators without their operands, or weights outside of the file's folder.
    """
    try:
        model = ir.load(path)
        fault = next(_faults(model), "")
    except Exception as error:  # protobuf and onnx-ir raise many kinds, and all of them mean the same here
        fault = _first_cause(error)
    if fault:
        raise InputError(
            f"cannot read the ONNX model: {fault}", where=str(path), expected="an ONNX file", remedy="export it again"
        )
    return model


def _first_cause(error: BaseException) -> str:
    """onnx-ir wraps an error once for each level of the file; only the innermost says what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _faults(model: ir.Model) -> Iterator[str]:
    """Reasons why a graph cannot be followed from its outputs to its inputs."""
    if not list(model.graph.outputs):
        yield "it holds no graph"
    for name, value in model.graph.initializers.items():
        stored = value.const_value
        if stored is None or stored.dtype is ir.DataType.UNDEFINED:
            yield f"the weight {name} has no type"
        if isinstance(stored, ir.ExternalTensor) and not _is_inside(str(stored.location)):
            yield f"the weight {name} lies at {str(stored.location)!r}, which may lead out of the model's folder"
    known = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        # A name that is not UTF-8 arrives as bytes.
        if not all(
            isinstance(text, str) for text in (node.name or "", node.op_type, *(one.name for one in node.outputs))
        ):
            yield f"node {node.name!r} has a name that is no text"
        least = _LEAST_INPUTS.get(node.op_type, 0)
        if sum(value is not None for value in node.inputs[:least]) < least:
            yield f"node {node.name} ({node.op_type}) lacks an input"
        if missing := [value.name for value in node.inputs if value is not None and value not in known]:
            yield f"node {node.name} ({node.op_type}) reads {missing[0]} before it is written"
        known.update(node.outputs)
    if missing := [value.name for value in model.graph.outputs if value not in known]:
        yield f"the output {missing[0]} is written by nothing"


def _is_inside(location: str) -> bool:
    parts = PurePosixPath(location).parts
    return bool(parts) and not location.startswith("/") and ".." not in parts and not set("\\\0") & set(location)


def array_of(tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
    """A copy, so that the weight file is not held open for each tensor."""
    values: npt.NDArray[Any] = np.array(tensor.numpy())
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return values


def shape_of(value: ir.Value) -> list[int]:
    """The shape of an input or output, all of which are fixed in our graphs."""
    assert value.shape is not None
    return [int(side) for side in value.shape.numpy()]


def stored_weight(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that a value is made of by casts, transposes and dequantization alone; None for an activation."""
    while value is not None:
        if value.const_value is not None:
            return value.const_value
        node = value.producer()
        if node is None or node.op_type not in _TRANSPARENT:
            return None
        value = node.inputs[0]
    return None


def stored_palette(value: ir.Value | None) -> Palette | None:
    """The palette that a value is looked up from; None for anything else."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Gather":
            table, index = stored_weight(node.inputs[0]), _stored_index(node.inputs[1])
            return Palette(index, table) if table is not None and index is not None and len(table.shape) == 2 else None
        if node.op_type not in _TRANSPARENT:
            return None
        value = node.inputs[0]
    return None


def _stored_index(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Indices with or without the offset of their table."""
    node = None if value is None else value.producer()
    return stored_weight(node.inputs[0] if node is not None and node.op_type == "Add" else value)


def activation_of(value: ir.Value | None) -> Activation:
    """How a value came out of a QuantizeLinear/DequantizeLinear pair: with a stored scale, or one that is computed."""
    node = _quantizer(value)
    if node is None:
        return Activation.NONE
    if is_fp4_input(node):
        return Activation.DYNAMIC_BLOCK
    return Activation.DYNAMIC_TOKEN if stored_weight(node.inputs[1]) is None else Activation.STATIC_TENSOR


def _quantizer(value: ir.Value | None) -> ir.Node | None:
    """The node that rounds what reaches ``value``; None where nothing does."""
    while value is not None and (node := value.producer()) is not None:
        if is_fp4_input(node) or node.op_type == "QuantizeLinear":
            return node
        if node.op_type not in _TRANSPARENT:
            break
        value = node.inputs[0]
    return None


def operand_types(node: ir.Node) -> tuple[ir.DataType | None, ...]:
    """Types that the operands of an attention's product are rounded to; None for one that is not."""
    return tuple(_rounded_type(_quantizer(value)) for value in node.inputs[:2])


def _rounded_type(quantizer: ir.Node | None) -> ir.DataType | None:
    if quantizer is None or len(quantizer.inputs) < 3:
        return None
    zero_point = stored_weight(quantizer.inputs[2])
    return None if zero_point is None else zero_point.dtype


def weight_and_data(node: ir.Node) -> tuple[ir.TensorProtocol | Palette, ir.Value | None] | None:
    """(weight, the other operand) of a linear operator; None where both operands are computed (attention)."""
    first, second = node.inputs[0], node.inputs[1]
    if (weight := stored_weight(second) or stored_palette(second)) is not None:
        return weight, first
    if node.op_type == "MatMul" and (weight := stored_weight(first)) is not None:
        return weight, second
    return None


def _is_table(weight: ir.Value | None, block: str) -> bool:
    """Whether another block reads the same constant: a layer's weight belongs to one."""
    readers = () if weight is None else weight.uses()
    return any(not (use.node.name or "").startswith(f"{block}/") for use in readers)


def linears(model: ir.Model, block: str) -> Iterator[LinearPrecision]:
    """The linears and convolutions of a block, whose nodes are called ``<block>/<path>/<operator>``.

    A product with a table that blocks share, such as that of rotary positions, is no linear.
    """
    prefix = block + "/"
    for node in model.graph:
        name = node.name or ""
        if node.op_type not in LINEAR_OPS or not name.startswith(prefix) or _is_table(node.inputs[1], block):
            continue
        found = weight_and_data(node)
        if found is not None:
            weight, data = found
            path = _path_in(block, node)
            numbers = weight.numbers if isinstance(weight, Palette) else numbers_of(weight.dtype)
            if is_fp4_weight(None if node.inputs[1] is None else node.inputs[1].producer()):
                numbers = FP4
            yield LinearPrecision(name, path, _shape_of(node, weight, data), numbers, activation_of(data))


def _path_in(block: str, node: ir.Node) -> str:
    """Module path inside its block of a node that is called ``<block>/<path>/<operator>``."""
    return (node.name or "").removeprefix(f"{block}/").rpartition("/")[0].replace("/", ".")


def numbers_of(dtype: ir.DataType) -> Numbers:
    """What a tensor of this type holds. Signed and unsigned integers are told apart by nobody here."""
    kind = NumberType.FLOAT if dtype.is_floating_point() else NumberType.INTEGER
    return Numbers(kind, dtype.bitwidth)


def _shape_of(node: ir.Node, weight: ir.TensorProtocol | Palette, data: ir.Value | None) -> LayerShape:
    stored = weight.index if isinstance(weight, Palette) else weight
    if len(stored.shape) < 2:
        raise InputError(
            f"the weight of {node.name} has the shape {list(stored.shape)}", where="ONNX model", expected="a matrix"
        )
    first, second = (int(size) for size in stored.shape.numpy()[:2])
    kind = _KINDS.get(node.op_type, Kind.LINEAR)
    # (in, out) on the right of a product, unless a Transpose lies between.
    is_turned = (data is node.inputs[0]) != _is_turned(node)
    in_first = is_turned if kind is Kind.LINEAR else kind is Kind.TRANSPOSED
    inputs, outputs = (first, second) if in_first else (second, first)
    return LayerShape(kind, inputs, outputs, stored.size)


def _is_turned(node: ir.Node) -> bool:
    """Whether the right operand of a product is the transpose of what is stored."""
    turned = bool(node.attributes.get_int("transB", 0))
    value = node.inputs[1]
    while value is not None and value.const_value is None and (source := value.producer()) is not None:
        turned ^= source.op_type == "Transpose"
        value = source.inputs[1] if source.op_type == "Gather" else source.inputs[0]
    return turned


def place(path: str, blocks: Iterable[str]) -> tuple[str, str]:
    """(block, path in it) of a module; block names may leave out outer modules (``frame_blocks.0``)."""
    fitting = [block for block in blocks if f".{block}." in f".{path}."]
    if not fitting:
        return "", path
    block = max(fitting, key=len)
    return block, f".{path}.".partition(f".{block}.")[2].rstrip(".")


def audit_onnx(path: Path, plan: PrecisionPlan) -> tuple[Realised, ...]:
    """Precision of each block as the ONNX file holds it, in the order of the plan; raises as ``audit`` does."""
    model = load_onnx(path)
    realised = audit(plan, lambda assignment: tuple(linears(model, assignment.block)), str(path))
    complaints = [line for assignment in plan.assignments for line in _attention_complaints(model, assignment, plan)]
    if complaints:
        raise _not_as_planned(complaints, str(path))
    return tuple(map(_with_attention, realised))


def _attention_complaints(model: ir.Model, assignment: Assignment, plan: PrecisionPlan) -> Iterator[str]:
    """Products of two activations that multiply other numbers than the plan has for their attention."""
    products = tuple(_attention_products(model, assignment.block))
    if SCHEMES[assignment.scheme].attention is not None and not products:
        yield f"{assignment.block}: asked {assignment.scheme}, the file holds no product of attention"
    for node in products:
        wanted = plan.attention_of(assignment.block, _path_in(assignment.block, node))
        if any((None if one is None else numbers_of(one)) != wanted for one in operand_types(node)):
            yield f"{node.name}: asked {assignment.scheme}, attention multiplies other numbers"


def _attention_products(model: ir.Model, block: str) -> Iterator[ir.Node]:
    """The products of two activations in a block; in one operator where floats are not written out."""
    for node in model.graph:
        if (node.name or "").startswith(f"{block}/") and (
            node.op_type == "Attention" or (node.op_type == "MatMul" and weight_and_data(node) is None)
        ):
            yield node


def _with_attention(one: Realised) -> Realised:
    """The block's precision under the name of the whole scheme, once attention was found to have it."""
    return replace(one, realised=one.asked) if one.realised == scheme_of_layers(one.asked) else one


def audit(
    plan: PrecisionPlan, layers_of: Callable[[Assignment], tuple[LinearPrecision, ...]], where: str
) -> tuple[Realised, ...]:
    """Precision of each block as ``layers_of`` finds it in an artifact, in the order of the plan.

    Raises ``LoweringError`` that lists every layer which holds something else than its assignment, and every block that
    holds nothing at all.
    """
    realised, complaints = [], []
    for assignment in plan.assignments:
        found = layers_of(assignment)
        realised.append(_summary(assignment, found, plan))
        complaints += _complaints(assignment, found, plan)
    if complaints:
        raise _not_as_planned(complaints, where)
    return tuple(realised)


def _not_as_planned(complaints: Sequence[str], where: str) -> LoweringError:
    return LoweringError(
        f"{len(complaints)} layers do not have the precision that the plan gives them:\n    "
        + "\n    ".join(complaints[:20]),
        where=where,
        expected="each block in the precision of its assignment",
        remedy="export the graph from this plan again; if it stays, the lowering has a fault: report it",
    )


def _summary(assignment: Assignment, found: tuple[LinearPrecision, ...], plan: PrecisionPlan) -> Realised:
    """Of the layers that have the form which the block's scheme names: small ones have no palette."""
    kept = [one for one in found if _wanted(one, assignment, plan).scheme == assignment.scheme] or list(found)
    if not kept:
        return Realised(assignment.block, assignment.scheme, "nothing", "no weights under this name")
    widest = max((linear.weight for linear in kept), key=lambda numbers: numbers.bits if numbers else 0)
    inputs = {linear.activation for linear in kept}
    name = scheme_with(widest, inputs.pop() if len(inputs) == 1 else Activation.NONE)
    how = f"stored weights of {len(found)} operators"
    if len(kept) < len(found):
        how += f", {len(found) - len(kept)} of them excluded or small"
    return Realised(assignment.block, assignment.scheme, name, how)


def _complaints(assignment: Assignment, found: tuple[LinearPrecision, ...], plan: PrecisionPlan) -> list[str]:
    if not found:
        return [f"{assignment.block}: no weights under this name"]
    lines = []
    for linear in found:
        wanted = _wanted(linear, assignment, plan)
        if not wanted.matches(linear.weight, linear.activation):
            of_block = "" if linear.node.startswith(assignment.block) else f" of {assignment.block}"
            lines.append(f"{linear.node}{of_block}: asked {wanted.scheme}, the file holds {linear.scheme}")
    return lines


def _wanted(linear: LinearPrecision, assignment: Assignment, plan: PrecisionPlan) -> Form:
    return plan.form_of(assignment.block, linear.path, linear.shape)

"""Asked against realised precision of an ONNX file, read from its initializers and not from what anyone intended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scheme import SCHEMES, Activation, Scheme, form_of
from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.base import Realised

LINEAR_OPS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
# What may stand between a stored weight and the operator that multiplies with it.
_TRANSPARENT = frozenset(
    {"Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
_BITS = {
    ir.DataType.INT4: 4,
    ir.DataType.INT8: 8,
    ir.DataType.UINT4: 4,
    ir.DataType.UINT8: 8,
    ir.DataType.FLOAT16: 16,
    ir.DataType.BFLOAT16: 16,
    ir.DataType.FLOAT: 32,
    ir.DataType.DOUBLE: 64,
}


@dataclass(frozen=True)
class LinearPrecision:
    """One MatMul, Gemm or convolution with a stored weight.

    path: module path of the layer inside its block, ``mlp.fc1``. activation: how its input went through int8, if it
    did. palette: the weight is a table and indices of ``weight_bits``.
    """

    node: str
    path: str
    weight_bits: int
    weight_elements: int
    activation: Activation
    palette: bool = False


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


def load_onnx(path: Path) -> ir.Model:
    """Read a model without its weights; ``InputError`` names a file that is missing or no ONNX model."""
    try:
        return ir.load(path)
    except Exception as error:  # protobuf and onnx-ir raise many kinds, and all of them mean the same here
        raise InputError(
            f"cannot read the ONNX model: {error}", where=str(path), expected="an ONNX file", remedy="export it again"
        ) from error


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
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "QuantizeLinear":
            static = stored_weight(node.inputs[1]) is not None
            return Activation.STATIC_TENSOR if static else Activation.DYNAMIC_TOKEN
        if node.op_type not in _TRANSPARENT:
            break
        value = node.inputs[0]
    return Activation.NONE


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
            path = name[len(prefix) :].rpartition("/")[0].replace("/", ".")
            palette = isinstance(weight, Palette)
            bits = weight.bits if isinstance(weight, Palette) else _BITS.get(weight.dtype, 32)
            size = weight.index.size if isinstance(weight, Palette) else weight.size
            yield LinearPrecision(name, path, bits, size, activation_of(data), palette)


_INPUT_NAMES = {Activation.NONE: "", Activation.STATIC_TENSOR: "a8", Activation.DYNAMIC_TOKEN: "a8d"}


def place(path: str, blocks: Iterable[str]) -> tuple[str, str]:
    """(block, path in it) of a module; block names may leave out outer modules (``frame_blocks.0``)."""
    fitting = [block for block in blocks if f".{block}." in f".{path}."]
    if not fitting:
        return "", path
    block = max(fitting, key=len)
    return block, f".{path}.".partition(f".{block}.")[2].rstrip(".")


def realised_scheme(bits: int, activation: Activation, palette: bool = False) -> str:
    """Name of the scheme with these weight bits and input; a description where there is none. 0 bits: other weights."""
    if bits == 0:
        return "other weights"
    for scheme in SCHEMES.values():
        if (scheme.weight_bits, scheme.activation, scheme.palette) == (bits, activation, palette):
            return scheme.name
    return f"{'p' if palette else 'w'}{bits}{_INPUT_NAMES[activation]}"


def audit_onnx(path: Path, plan: PrecisionPlan) -> tuple[Realised, ...]:
    """Precision of each block as the ONNX file holds it, in the order of the plan; raises as ``audit`` does."""
    model = load_onnx(path)
    return audit(plan, lambda assignment: tuple(linears(model, assignment.block)), str(path))


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
        raise LoweringError(
            f"{len(complaints)} layers do not have the precision that the plan gives them:\n    "
            + "\n    ".join(complaints[:20]),
            where=where,
            expected="each block in the precision of its assignment",
            remedy="export the graph from this plan again; if it stays, the lowering has a fault: report it",
        )
    return tuple(realised)


def _summary(assignment: Assignment, found: tuple[LinearPrecision, ...], plan: PrecisionPlan) -> Realised:
    """Of the layers that the block's scheme is for: small ones have no palette."""
    kept = [one for one in found if _wanted(one, assignment, plan).name == assignment.scheme] or list(found)
    if not kept:
        return Realised(assignment.block, assignment.scheme, "nothing", "no weights under this name")
    widest = max(kept, key=lambda linear: linear.weight_bits)
    inputs = {linear.activation for linear in kept}
    activation = inputs.pop() if len(inputs) == 1 else Activation.NONE
    name = realised_scheme(widest.weight_bits, activation, widest.palette)
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
        got = realised_scheme(linear.weight_bits, linear.activation, linear.palette)
        if not _matches(linear, wanted):
            of_block = "" if linear.node.startswith(assignment.block) else f" of {assignment.block}"
            lines.append(f"{linear.node}{of_block}: asked {wanted.name}, the file holds {got}")
    return lines


def _wanted(linear: LinearPrecision, assignment: Assignment, plan: PrecisionPlan) -> Scheme:
    name = plan.scheme_of_layer(assignment.block, linear.path).name
    return SCHEMES[form_of(name, linear.weight_elements)]


def _matches(linear: LinearPrecision, wanted: Scheme) -> bool:
    found = linear.weight_bits, linear.activation, linear.palette
    return found == (wanted.weight_bits, wanted.activation, wanted.palette)

"""Asked against realised precision of a saved package: what every linear and convolution reads its weight from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import LayerShape
from vggt_edge.calibration.scheme import FP32, SCHEMES, Activation, Numbers, NumberType
from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.base import Realised
from vggt_edge.runtimes.common.audit import LinearPrecision, audit
from vggt_edge.runtimes.coreml.mil import BITS, Argument, Constant, MilProgram, Operation
from vggt_edge.runtimes.coreml.mil_graph import mil_name

LINEAR_OPS = frozenset({"linear", "conv", "conv_transpose"})
# The parameter of each compressed constant that holds the numbers themselves; the second one is iOS 16's name.
_PACKED = {
    "const": ("val",),
    "constexpr_cast": ("source_val",),
    "constexpr_blockwise_shift_scale": ("data",),
    "constexpr_affine_dequantize": ("quantized_data",),
    "constexpr_lut_to_dense": ("indices", "lut"),
}


def audit_program(program: MilProgram, plan: PrecisionPlan) -> tuple[Realised, ...]:
    """Precision of each block as the package holds it; ``LoweringError`` for a layer that was widened.

    Layers outside the blocks may not be wider than the plan's rest scheme either.
    """
    layers = tuple(linears(program))
    realised = audit(plan, lambda assignment: tuple(_of_block(layers, assignment)), str(program.package))
    _check_rest(layers, plan, str(program.package))
    return realised


def linears(program: MilProgram) -> Iterator[LinearPrecision]:
    """Every linear and convolution; ``path`` is its whole scope, as MIL spells it."""
    producers = {output.name: operation for operation in program.operations for output in operation.outputs}
    for operation in program.operations:
        if operation.type in LINEAR_OPS:
            weight, data = _operands(program, operation)
            shape, numbers = _shape(weight, producers), _stored(weight, producers)
            int8 = isinstance(data, str) and data in producers and producers[data].type == "dequantize"
            activation = Activation.STATIC_TENSOR if int8 else Activation.NONE
            scope = operation.name.rpartition("__")[0]
            yield LinearPrecision(operation.name, scope, LayerShape.of_weight(shape), numbers, activation)


def _operands(program: MilProgram, operation: Operation) -> tuple[Argument, Argument]:
    """(weight, input) of a linear or convolution. ``InputError`` where the program does not say them."""
    found = [operation.inputs.get(name, ()) for name in ("weight", "x")]
    if [len(arguments) for arguments in found] != [1, 1]:
        raise InputError(
            f"{operation.type} {operation.name} has no weight or no input",
            where=str(program.package),
            expected="one value each for its parameters weight and x",
            remedy="write or copy the package again",
        )
    return found[0][0], found[1][0]


def _shape(weight: Argument, producers: dict[str, Operation]) -> tuple[int, ...]:
    return weight.type.shape if isinstance(weight, Constant) else producers[weight].outputs[0].type.shape


def _stored(weight: Argument, producers: dict[str, Operation]) -> Numbers:
    """What one number of a weight is stored as."""
    if isinstance(weight, Constant):
        stored = NumberType.FLOAT if weight.type.dtype.startswith("fp") else NumberType.INTEGER
        return Numbers(stored, BITS[weight.type.dtype])
    operation = producers[weight]
    present = {*operation.inputs, *operation.attributes}
    name = next((key for key in _PACKED.get(operation.type, ()) if key in present), "")
    if not name:
        return FP32
    held = operation.attributes[name] if name in operation.attributes else operation.inputs[name][0]
    numbers = _stored(held, producers)
    is_palette = operation.type == "constexpr_lut_to_dense"
    return Numbers(NumberType.PALETTE, numbers.bits) if is_palette else numbers


def _of_block(layers: tuple[LinearPrecision, ...], assignment: Assignment) -> Iterator[LinearPrecision]:
    """The layers of a block, under the names that the assignment has for those that it excludes."""
    prefix = f"{mil_name(assignment.block)}__"
    excluded = {mil_name(name): name for name in assignment.excluded}
    for layer in layers:
        if layer.path.startswith(prefix):
            path = layer.path.removeprefix(prefix)
            yield replace(layer, path=excluded.get(path, path))


def _check_rest(layers: tuple[LinearPrecision, ...], plan: PrecisionPlan, where: str) -> None:
    prefixes = tuple(f"{mil_name(assignment.block)}__" for assignment in plan.assignments)
    rest = SCHEMES[plan.rest_scheme]
    wide = [
        f"{layer.node}: {layer.scheme}"
        for layer in layers
        if not f"{layer.path}__".startswith(prefixes) and layer.weight and layer.weight.bits > rest.weight.bits
    ]
    if wide:
        raise LoweringError(
            f"{len(wide)} layers outside the blocks are wider than {rest.name}:\n    " + "\n    ".join(wide[:20]),
            where=where,
            expected=f"at most {rest.weight.bits} bits per weight",
            remedy="export the graph from this plan again; if it stays, the lowering has a fault: report it",
        )

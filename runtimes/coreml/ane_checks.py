"""The checks that the rules of ``ane_rules.toml`` name. Each one looks at one operation, or at the whole program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from vggt_edge.devices.units import format_bytes
from vggt_edge.runtimes.coreml.mil import BITS, Argument, Constant, MilProgram, Operation, TensorType

# What the engine is there for: FP32 between two of these leaves it in the middle of the model.
PRODUCTS = frozenset({"conv", "conv_transpose", "einsum", "linear", "matmul", "scaled_dot_product_attention"})
# Axis of the weight that counts output channels.
_OUTPUT_AXIS = {"linear": 0, "conv": 0, "conv_transpose": 1}
_WEIGHT = {"linear": "weight", "conv": "weight", "conv_transpose": "weight", "matmul": "y"}

Parameters: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """A program with what the checks ask of it. border: FP32 operations before the first or after the last product."""

    program: MilProgram
    types: Mapping[str, TensorType]
    producers: Mapping[str, Operation]
    readers: Mapping[str, tuple[Operation, ...]]
    border: frozenset[int]

    def in_border(self, operation: Operation) -> bool:
        """Whether the operation only brings data in or out."""
        return id(operation) in self.border

    def argument(self, operation: Operation, name: str) -> Argument | None:
        """An argument of an operation, or None."""
        given = operation.inputs.get(name, ())
        return given[0] if given else operation.attributes.get(name)

    def producer(self, argument: Argument | None) -> Operation | None:
        """The operation that computes an argument, or None."""
        return self.producers.get(argument) if isinstance(argument, str) else None

    def type_of(self, argument: Argument | None) -> TensorType | None:
        """An argument's type, or None where the program does not say."""
        return argument.type if isinstance(argument, Constant) else self.types.get(argument or "")

    def is_constant(self, argument: Argument) -> bool:
        """Whether an argument does not depend on the inputs."""
        producer = self.producer(argument)
        return isinstance(argument, Constant) or (producer is not None and not runs(producer))

    def values(self, argument: Argument | None) -> npt.NDArray[Any] | None:
        """The numbers of a constant; None for what is computed."""
        if isinstance(argument, str):
            producer = self.producer(argument)
            argument = producer.attributes.get("val") if producer is not None and producer.type == "const" else None
        return argument.numpy() if isinstance(argument, Constant) else None

    def activations(self, operation: Operation) -> Iterator[TensorType]:
        """What it reads that is not constant, and what it writes."""
        for arguments in operation.inputs.values():
            yield from (self.types[each] for each in arguments if isinstance(each, str) and not self.is_constant(each))
        yield from (output.type for output in operation.outputs)


def runs(operation: Operation) -> bool:
    """Whether it is computed at run time: constants and their decompression belong to loading."""
    return operation.type != "const" and not operation.type.startswith("constexpr_")


def view(program: MilProgram) -> View:
    """The program with what the checks look up: producers, readers and types."""
    producers = {output.name: each for each in program.operations for output in each.outputs}
    readers: dict[str, tuple[Operation, ...]] = {}
    for each in program.operations:
        for name in dict.fromkeys(each.reads()):
            readers[name] = (*readers.get(name, ()), each)
    open_view = View(program, program.value_types(), producers, readers, frozenset())
    fp32 = {id(each) for each in program.operations if runs(each) and _touches_fp32(each, open_view)}
    border = frozenset(fp32 & (_before_products(program) | _after_products(program)))
    return View(program, open_view.types, producers, readers, border)


def _touches_fp32(operation: Operation, of: View) -> bool:
    return any(each.dtype == "fp32" for each in of.activations(operation))


def _before_products(program: MilProgram) -> set[int]:
    behind: set[str] = set()
    found = set()
    for each in program.operations:
        if each.type in PRODUCTS or not behind.isdisjoint(each.reads()):
            behind.update(output.name for output in each.outputs)
        else:
            found.add(id(each))
    return found


def _after_products(program: MilProgram) -> set[int]:
    ahead: set[str] = set()
    found = set()
    for each in reversed(program.operations):
        if each.type in PRODUCTS or any(output.name in ahead for output in each.outputs):
            ahead.update(each.reads())
        else:
            found.add(id(each))
    return found


def _rank(operation: Operation, of: View, limits: Parameters) -> str | None:
    rank = max((len(each.shape) for each in of.activations(operation)), default=0)
    return f"has a tensor of {rank} axes" if rank > limits["most"] else None


def _axis(operation: Operation, of: View, limits: Parameters) -> str | None:
    longest = max((size for each in of.activations(operation) for size in each.shape), default=0)
    return f"has an axis of {longest}, the limit is {limits['most']}" if longest > limits["most"] else None


def _dynamic_shape(operation: Operation, of: View, limits: Parameters) -> str | None:
    loose = next((each for each in of.activations(operation) if -1 in each.shape), None)
    return None if loose is None else f"has a tensor of shape {loose.shape}, which only the run knows"


def _fp32_inside(operation: Operation, of: View, limits: Parameters) -> str | None:
    return "computes in FP32 between products" if _touches_fp32(operation, of) and not of.in_border(operation) else None


def _fp32_border(operation: Operation, of: View, limits: Parameters) -> str | None:
    return "computes in FP32 at the border of the model" if of.in_border(operation) else None


def _element_type(operation: Operation, of: View, limits: Parameters) -> str | None:
    other = sorted({each.dtype for each in of.activations(operation)} - {*limits["types"]})
    return f"has values of type {', '.join(other)}" if other else None


def _op_type_in(operation: Operation, of: View, limits: Parameters) -> str | None:
    return f"is a {operation.type}" if operation.type in limits["types"] else None


def _op_type_not_in(operation: Operation, of: View, limits: Parameters) -> str | None:
    return f"is a {operation.type}" if operation.type not in limits["types"] else None


def _linear_rank(operation: Operation, of: View, limits: Parameters) -> str | None:
    read = of.type_of(of.argument(operation, "x")) if operation.type == "linear" else None
    return f"reads {len(read.shape)} axes" if read is not None and len(read.shape) > limits["most"] else None


def _conv_kernel(operation: Operation, of: View, limits: Parameters) -> str | None:
    weight = of.type_of(of.argument(operation, "weight")) if operation.type in ("conv", "conv_transpose") else None
    if weight is None or len(weight.shape) < 3 or weight.shape[-1] <= limits["most"]:
        return None
    return f"has a kernel {weight.shape[-1]} wide, the limit is {limits['most']}"


def _strides(operation: Operation, of: View) -> tuple[int, ...]:
    if operation.type not in ("conv", "conv_transpose"):
        return ()
    values = of.values(of.argument(operation, "strides"))
    return () if values is None else tuple(int(value) for value in values.reshape(-1))


def _conv_stride(operation: Operation, of: View, limits: Parameters) -> str | None:
    odd = [stride for stride in _strides(operation, of) if not _twos_and_threes(stride)]
    return f"has a stride of {odd[0]}" if odd else None


def _twos_and_threes(number: int) -> bool:
    for factor in (2, 3):
        while number > 1 and number % factor == 0:
            number //= factor
    return number == 1


def _palette_stride(operation: Operation, of: View, limits: Parameters) -> str | None:
    stride = max(_strides(operation, of), default=1)
    if stride <= limits["most"] or not _is_palette(of.argument(operation, "weight"), of):
        return None
    return f"has a palettised weight and a stride of {stride}"


def _is_palette(weight: Argument | None, of: View) -> bool:
    """A palette may itself be scaled per channel, or be the scaled data of another form."""
    while (producer := of.producer(weight)) is not None and producer.type.startswith("constexpr_"):
        if producer.type.startswith("constexpr_lut_"):
            return True
        weight = of.argument(producer, "data")
    return False


def _blockwise_weights(operation: Operation, of: View, limits: Parameters) -> str | None:
    if operation.type != "constexpr_blockwise_shift_scale":
        return None
    scale = of.type_of(of.argument(operation, "scale"))
    if scale is None:
        return None
    blocked = [axis for axis, count in enumerate(scale.shape) if count > 1]
    axis = _output_axis(operation, of)
    if axis is None:  # who reads it does not say: one scale per entry of a single axis is per channel
        whole = [axis for axis in blocked if scale.shape[axis] == operation.outputs[0].type.shape[axis]]
        axis = whole[0] if whole else -1
    extra = [scale.shape[each] for each in blocked if each != axis]
    return f"has {math.prod(extra)} blocks along the inputs of each output channel" if extra else None


def _output_axis(weight: Operation, of: View) -> int | None:
    """Which axis of a weight counts output channels, by the operation that multiplies with it."""
    rank = len(weight.outputs[0].type.shape)
    for reader in of.readers.get(weight.outputs[0].name, ()):
        if of.argument(reader, _WEIGHT.get(reader.type, "")) != weight.outputs[0].name:
            continue
        if reader.type != "matmul":
            return _OUTPUT_AXIS[reader.type]
        turned = of.values(of.argument(reader, "transpose_y"))
        return rank - (2 if turned is not None and bool(turned) else 1)
    return None


def _palette_groups(operation: Operation, of: View, limits: Parameters) -> str | None:
    lut = of.type_of(of.argument(operation, "lut")) if operation.type == "constexpr_lut_to_dense" else None
    shape = operation.outputs[0].type.shape
    if lut is None or len(lut.shape) != len(shape) + 2:  # iOS 16: one table for the tensor
        return None
    sizes = [size // tables for size, tables in zip(shape, lut.shape[:-2], strict=True) if tables > 1]
    return f"has a palette for every {min(sizes)} channels" if sizes and min(sizes) < limits["least"] else None


def _query(operation: Operation, of: View) -> TensorType | None:
    return of.type_of(of.argument(operation, "query")) if operation.type == "scaled_dot_product_attention" else None


def _small_attention(operation: Operation, of: View, limits: Parameters) -> str | None:
    query = _query(operation, of)
    if query is None or query.elements >= limits["least"]:
        return None
    return f"has a query of {query.elements} elements"


def _long_attention(operation: Operation, of: View, limits: Parameters) -> str | None:
    query, key = _query(operation, of), of.type_of(of.argument(operation, "key"))
    if query is None or key is None or query.shape[-2] <= limits["most"]:
        return None
    logits = query.elements // query.shape[-1] * key.shape[-2] * BITS[query.dtype] // 8
    return f"attends with {query.shape[-2]} tokens: {format_bytes(logits)} of logits at once"


def _offset_slice(operation: Operation, of: View, limits: Parameters) -> str | None:
    begin = of.values(of.argument(operation, "begin")) if operation.type.startswith("slice_by_") else None
    mask = of.values(of.argument(operation, "begin_mask"))
    if begin is None or begin.size == 0 or (mask is not None and mask.size == begin.size and bool(mask.flat[-1])):
        return None
    return f"starts at {int(begin.flat[-1])} along its last axis" if begin.flat[-1] != 0 else None


def _moved_last_axis(operation: Operation, of: View, limits: Parameters) -> str | None:
    perm = of.values(of.argument(operation, "perm")) if operation.type == "transpose" else None
    if perm is None or perm.size == 0 or int(perm.flat[-1]) % perm.size == perm.size - 1:
        return None
    return f"transposes with {[int(axis) for axis in perm.reshape(-1)]}"


def _last_axis(operation: Operation, of: View, limits: Parameters) -> str | None:
    for output in operation.outputs:
        shape, bits = output.type.shape, BITS.get(output.type.dtype, 0)
        if not shape or shape[-1] < 1 or shape[-1] * bits >= 8 * limits["alignment"]:
            continue
        padded = output.type.elements // shape[-1] * limits["alignment"]
        if padded >= limits["from_bytes"]:
            return f"has a last axis of {shape[-1]}: {format_bytes(padded)} with its padding"
    return None


def _weight_bytes(program: MilProgram, limits: Parameters) -> str | None:
    total = sum(each.stored_bytes for operation in program.operations for each in _constants(operation))
    return f"holds {format_bytes(total)} of constants" if total > limits["most"] else None


def _constants(operation: Operation) -> Iterator[Constant]:
    yield from operation.attributes.values()
    for arguments in operation.inputs.values():
        yield from (argument for argument in arguments if isinstance(argument, Constant))


OperationCheck: TypeAlias = Callable[[Operation, View, Parameters], str | None]
ProgramCheck: TypeAlias = Callable[[MilProgram, Parameters], str | None]


@dataclass(frozen=True)
class Check:
    """find: what is wrong with an operation, or None. parameters: their names, and whether each is a list of names.

    everywhere: looks at constants and at the FP32 border too, which never run on the engine.
    """

    find: OperationCheck
    parameters: Mapping[str, bool]
    everywhere: bool = False


_NUMBER, _LIST = False, True
_MOST, _LEAST, _TYPES = {"most": _NUMBER}, {"least": _NUMBER}, {"types": _LIST}
OPERATION_CHECKS: Mapping[str, Check] = {
    "rank": Check(_rank, _MOST),
    "axis": Check(_axis, _MOST),
    "dynamic_shape": Check(_dynamic_shape, {}),
    "fp32_inside": Check(_fp32_inside, {}),
    "fp32_border": Check(_fp32_border, {}, everywhere=True),
    "element_type": Check(_element_type, _TYPES),
    "op_type_in": Check(_op_type_in, _TYPES),
    "op_type_not_in": Check(_op_type_not_in, _TYPES),
    "linear_rank": Check(_linear_rank, _MOST),
    "conv_kernel": Check(_conv_kernel, _MOST),
    "conv_stride": Check(_conv_stride, {}),
    "palette_stride": Check(_palette_stride, _MOST),
    "blockwise_weights": Check(_blockwise_weights, {}, everywhere=True),
    "palette_groups": Check(_palette_groups, _LEAST, everywhere=True),
    "small_attention": Check(_small_attention, _LEAST),
    "long_attention": Check(_long_attention, _MOST),
    "offset_slice": Check(_offset_slice, {}),
    "moved_last_axis": Check(_moved_last_axis, {}),
    "last_axis": Check(_last_axis, {"alignment": _NUMBER, "from_bytes": _NUMBER}),
}
PROGRAM_CHECKS: Mapping[str, tuple[ProgramCheck, Mapping[str, bool]]] = {"weight_bytes": (_weight_bytes, _MOST)}

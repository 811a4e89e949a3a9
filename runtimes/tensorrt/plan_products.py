"""Products of the graph in a compiled plan: the kernel of each, the type of its operands, and its weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from vggt_edge.runtimes.common.audit import LINEAR_OPS, weight_and_data
from vggt_edge.runtimes.tensorrt.plan_text import PACKED_BITS, TYPE_BITS, Operation, PlanText, Program

UNKNOWN = "unknown"
ATTENTION, ELEMENTWISE = "fused attention", "elementwise"
# How the plan calls a product that is a launch of its own, or a step of a fusion.
KERNELS: Mapping[str, str] = MappingProxyType(
    {"fully_connected": "gemm", "corrltn": "convolution", "deconvolution": "transposed convolution"}
)
TYPE_NAMES: Mapping[str, str] = MappingProxyType(
    {"half": "fp16", "float": "fp32", "bfloat16": "bf16", "fp8_e4m3": "fp8", "fp4_e2m1": "fp4", "int8": "int8"}
)
_FUSIONS = ("runtime_fusion", "runtime_function")
_FUNCTIONS = ("function", "runtime_function")
_ATTENTION, _GENERATED = "_gemm_mha", "__myl_"
# A generated kernel is called by the first four letters of each of its steps.
_STEPS = re.compile(r"[A-Z][a-z0-9]*")
_QUANTIZING = frozenset({"Cast", "Mul", "Div", "Min", "Max", "Roun"})


@dataclass(frozen=True)
class Product:
    """A product of the graph as the plan computes it.

    node: name of the ONNX node. kernel: kind of the kernel. computed: type of the operands, ``int8``; several names
    where the node became kernels of different types; ``unknown`` where the plan does not say. written: type of the
    result in memory. expanded_bytes: size of the weights that an extra kernel writes to memory in a wider type at every
    run.
    """

    node: str
    kernel: str
    computed: str
    written: str = UNKNOWN
    expanded_bytes: int = 0


@dataclass(frozen=True)
class _Sighting:
    """A kernel that computes a product. types: of operands. written: of results. None: not declared."""

    kernel: str
    types: tuple[str | None, ...]
    written: tuple[str | None, ...]
    expanded_bytes: int = 0


@dataclass(frozen=True)
class Reading:
    """A plan, read against the graph that it was compiled from.

    products: every product of the graph, in its order. launches: kernels of one run by kind. expanded_bytes: weights
    that kernels write to memory at every run, each counted once. unknown: forms in the plan that are not known here.
    """

    products: tuple[Product, ...]
    launches: Mapping[str, int]
    expanded_bytes: int
    unknown: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, answer: Mapping[str, Any]) -> Reading:
        """The reading that ``dataclasses.asdict`` turned into ``answer``, after a trip through JSON."""
        made = tuple(Product(**one) for one in answer["products"])
        return cls(made, answer["launches"], answer["expanded_bytes"], tuple(answer["unknown"]))


def read(text: PlanText, model: ir.Model) -> Reading:
    """Read the plan's programs against ``model``."""
    return Reading(products(text, model), launches(text), expanded_bytes(text), text.unknown)


def products(text: PlanText, model: ir.Model) -> tuple[Product, ...]:
    """Every product of ``model``, in the order of the graph."""
    seen: dict[str, list[_Sighting]] = {}
    for program in text.programs:
        for operation in program.operations:
            for name, sighting in _sightings(operation, program, text.fusions):
                seen.setdefault(name, []).append(sighting)
    found = []
    for node in model.graph:
        if node.op_type in LINEAR_OPS:
            name = node.name or ""
            found.append(_product(name, seen.get(name) or list(_elementwise(node, text))))
    return tuple(found)


def _product(node: str, sightings: list[_Sighting]) -> Product:
    if not sightings:
        return Product(node, UNKNOWN, UNKNOWN)
    kernels = sorted({one.kernel for one in sightings})
    computed = _named(one for sighting in sightings for one in sighting.types)
    written = _named(one for sighting in sightings for one in sighting.written)
    return Product(node, ", ".join(kernels), computed, written, max(one.expanded_bytes for one in sightings))


def _named(types: Iterable[str | None]) -> str:
    """Names of the types, each once; ``unknown`` if one of them is."""
    names = {TYPE_NAMES.get(one or "", UNKNOWN) for one in types}
    return UNKNOWN if UNKNOWN in names else ", ".join(sorted(names))


def _sightings(operation: Operation, program: Program, fusions: tuple[Program, ...]) -> Iterator[tuple[str, _Sighting]]:
    if operation.kind in KERNELS:
        expanded = _expanded_bytes(_weight(operation, program), program)
        sighting = _sighting(KERNELS[operation.kind], operation.inputs[:2], operation.outputs, program, expanded)
        yield from ((node, sighting) for node in operation.nodes)
    elif operation.kind in _FUSIONS:
        for fusion in _inside(operation, fusions):
            yield from _fused(operation, program, fusion)
    elif operation.kind in _FUNCTIONS and operation.name.startswith(_ATTENTION):
        sighting = _sighting(ATTENTION, operation.inputs, operation.outputs, program)
        yield from ((node, sighting) for node in operation.nodes)


def _sighting(
    kernel: str, operands: tuple[str, ...], results: tuple[str, ...], program: Program, expanded: int = 0
) -> _Sighting:
    return _Sighting(kernel, _types(operands, program), _types(results, program), expanded)


def _types(names: tuple[str, ...], program: Program) -> tuple[str | None, ...]:
    tensors = [program.tensors.get(name) for name in names]
    return tuple(None if one is None else one.type for one in tensors)


def _inside(operation: Operation, fusions: tuple[Program, ...]) -> Iterator[Program]:
    """The programs that may be that of a fusion: as many inputs, and steps that come from no other nodes."""
    nodes = set(operation.nodes)
    for fusion in fusions:
        steps = [set(one.nodes) for one in fusion.operations if one.kind in KERNELS]
        if len(fusion.inputs) == len(operation.inputs) and steps and set().union(*steps) <= nodes:
            yield fusion


def _fused(operation: Operation, program: Program, fusion: Program) -> Iterator[tuple[str, _Sighting]]:
    """Products of a fusion. Its inputs are those of the outer operation, in the same order under other names."""
    outer = dict(zip(fusion.inputs, operation.inputs, strict=True))
    for step in fusion.operations:
        if step.kind in KERNELS:
            entering = _sources(_weight(step, fusion, outer, program), fusion)
            expanded = max((_expanded_bytes(outer[name], program) for name in entering if name in outer), default=0)
            types, written = _types(step.inputs[:2], fusion), _types(operation.outputs, program)
            sighting = _Sighting(KERNELS[step.kind], types, written, expanded)
            yield from ((node, sighting) for node in step.nodes)


def _sources(name: str, program: Program) -> Iterator[str]:
    """The values from outside that a value is made of."""
    producer = program.producers.get(name)
    if producer is None:
        yield name
        return
    for one in producer.inputs:
        yield from _sources(one, program)


def _weight(
    step: Operation, program: Program, outer: Mapping[str, str] = MappingProxyType({}), around: Program | None = None
) -> str:
    """The operand that is made of constants alone; the second where both are."""

    def fixed(name: str) -> bool:
        if around is None:
            return _is_fixed(name, program)
        return all(_is_fixed(outer[one], around) for one in _sources(name, program) if one in outer)

    first, second = step.inputs[:2]
    return first if fixed(first) and not fixed(second) else second


def _is_fixed(name: str, program: Program) -> bool:
    """Whether a value is the same at every run."""
    tensor = program.whole(name)
    return tensor is not None and tensor.name in program.fixed


def _expanded_bytes(name: str, program: Program) -> int:
    """Bytes of a weight that a kernel of the program makes of packed constants; 0 for one that stays packed."""
    tensor = program.whole(name)
    if tensor is None or tensor.is_constant or not program.fixed.get(tensor.name):
        return 0
    return tensor.bytes


def _elementwise(node: ir.Node, text: PlanText) -> Iterator[_Sighting]:
    """A product of few rows may be written out as multiplications and a sum, in a generated kernel."""
    for program in text.programs:
        for operation in program.operations:
            is_generated = operation.kind in _FUNCTIONS and operation.name.startswith(_GENERATED)
            if is_generated and node.name in operation.nodes and "Sum" in _STEPS.findall(operation.name):
                yield _written_out(node, operation, program)


def _written_out(node: ir.Node, operation: Operation, program: Program) -> _Sighting:
    """The type is that of the weight, known by its size; of its scales where it is packed; of all inputs without one.

    Such a kernel casts as it likes, so quantized inputs tell nothing, and scales that are packed themselves do not.
    """
    found = weight_and_data(node)
    weight = found[0] if found is not None and isinstance(found[0], ir.TensorProtocol) else None
    tensors = [one for name in operation.inputs if (one := program.whole(name)) is not None]
    varying = {one.type for one in tensors if one.name not in program.fixed}
    types = {one.type for one in tensors if weight is not None and one.count == weight.size} or varying
    if any(map(_is_packed, types)):
        types = {one.type for one in tensors if one.name in program.fixed and one.type not in types}
    is_told = len(types) == 1 and not any(map(_is_packed, types | varying))
    expanded = 0
    if weight is not None and weight.dtype.bitwidth <= PACKED_BITS:
        # Here it comes widened, or goes to memory widened for the next kernel.
        passed = [program.whole(name) for name in (*operation.inputs, *operation.outputs)]
        wide = [one for one in passed if one is not None and one.count == weight.size and not one.is_constant]
        expanded = max((one.bytes for one in wide), default=0)
    return _Sighting(ELEMENTWISE, tuple(types) if is_told else (None,), _types(operation.outputs, program), expanded)


def _is_packed(type_: str) -> bool:
    return TYPE_BITS.get(type_, 0) <= PACKED_BITS


def launches(text: PlanText) -> dict[str, int]:
    """How many kernels one run starts, by kind; operations of a kind that is not known are ``unknown``."""
    kinds = Counter(_kind(one, program) for program in text.programs for one in program.operations)
    return {name: kinds[name] for name in sorted(kinds)}


def _kind(operation: Operation, program: Program) -> str:
    if operation.kind in KERNELS:
        return KERNELS[operation.kind]
    if operation.kind == "runtime_fusion":
        return "fused gemm"
    if operation.kind not in _FUNCTIONS:
        return UNKNOWN
    if operation.name.startswith(_ATTENTION):
        return ATTENTION
    if not operation.name.startswith(_GENERATED):
        return UNKNOWN
    steps = set(_STEPS.findall(operation.name))
    if any(_expanded_bytes(name, program) for name in operation.outputs):
        return "weight expansion"
    if "Roun" in steps and steps <= _QUANTIZING:
        return "quantizer"
    return "cast" if steps == {"Cast"} else ELEMENTWISE


def expanded_bytes(text: PlanText) -> int:
    """Bytes of weights that kernels write to memory at every run, each counted once."""
    return sum(
        _expanded_bytes(name, program)
        for program in text.programs
        for operation in program.operations
        for name in operation.outputs
    )

"""Asked against realised precision, read from the serialized Vulkan graphs, and what could not be handed to the GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import LayerShape
from vggt_edge.calibration.scheme import FP16, INT4, SCHEMES, Activation, Numbers
from vggt_edge.runtimes.base import Finding, Realised
from vggt_edge.runtimes.common.audit import LinearPrecision, audit, place
from vggt_edge.runtimes.executorch.pieces import Piece
from vggt_edge.runtimes.vulkan import checks
from vggt_edge.runtimes.vulkan.graph import VulkanGraph
from vggt_edge.runtimes.vulkan.lowering import LoweredProgram
from vggt_edge.runtimes.vulkan.payload import FLOATING, PACKED, half_key, packed_key
from vggt_edge.runtimes.vulkan.rewrite import packs

# What the GPU computes where a plan asks for something else: it does not quantize activations, and has no kernel for
# weights of 8 bits with such activations.
HELD = {
    "fp32": "fp16",
    "fp16": "fp16",
    "w8a16": "fp16",
    "w8a8d": "fp16",
    "w4a16": "w4a16",
    "w4a8d": "w4a16",
}
_LAYERS = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv_transpose2d.input)
_SOURCE = "ExecuTorch 1.4, backends/vulkan/op_registry.py"


@dataclass(frozen=True)
class Layer:
    """A layer of the lowered piece. target: of its weight.

    weight: numbers that its operator has in the serialized graph; None where no operator reads the weight.
    """

    target: str
    shape: LayerShape
    weight: Numbers | None
    packable: bool


def layers(piece: Piece, graphs: Sequence[VulkanGraph]) -> Iterator[Layer]:
    """Every layer with a weight of the model."""
    names: dict[str, set[str]] = defaultdict(set)
    for graph in graphs:
        for call in graph.calls:
            for key in graph.keys(call):
                names[key].add(call.name)
    for node in piece.module.graph.nodes:
        if node.target in _LAYERS:
            yield _layer(piece, node, names)


def _layer(piece: Piece, node: Node, names: Mapping[str, set[str]]) -> Layer:
    weight = node.args[1]
    assert isinstance(weight, Node)
    stored = weight if weight.op == "get_attr" else weight.args[0]
    name = str(stored.target)  # type: ignore[union-attr]
    tensor = piece.weights[name]
    if weight is not stored:
        held = INT4 if PACKED in names.get(packed_key(tensor), ()) else None
    else:
        held = FP16 if FLOATING & names.get(half_key(tensor), set()) else None
    return Layer(piece.targets[name], LayerShape.of_weight(tuple(tensor.shape)), held, packs(tensor))


def audit_program(lowered: LoweredProgram, plan: PrecisionPlan, blocks: Sequence[str]) -> tuple[Realised, ...]:
    """Precision of each block in the order of the plan.

    ``LoweringError`` lists the layers that hold something else than ``HELD`` says of their assignment.
    """
    found: dict[str, list[tuple[Layer, str]]] = defaultdict(list)
    for layer in layers(lowered.piece, lowered.delegates):
        block, path = place(layer.target.rpartition(".")[0], blocks)
        found[block].append((layer, path))
    asked = tuple(_held(one, found[one.block]) for one in plan.assignments)

    def of_block(assignment: Assignment) -> tuple[LinearPrecision, ...]:
        return tuple(
            LinearPrecision(f"{assignment.block}/{path}", path, layer.shape, layer.weight, Activation.NONE)
            for layer, path in found[assignment.block]
        )

    realised = audit(replace(plan, assignments=asked, kept_scheme="fp16"), of_block, "vulkan")
    return tuple(_answer(one, assignment) for one, assignment in zip(realised, plan.assignments, strict=True))


def _held(assignment: Assignment, found: Sequence[tuple[Layer, str]]) -> Assignment:
    """What is to be expected of the GPU; of a block in 4 bits, layers that cannot be packed stay in floating point."""
    scheme = HELD.get(assignment.scheme, assignment.scheme)
    if SCHEMES[scheme].weight_bits != 4:
        return replace(assignment, scheme=scheme, excluded=())
    loose = (path for layer, path in found if not layer.packable)
    return replace(assignment, scheme=scheme, excluded=tuple(sorted({*assignment.excluded, *loose})))


def _answer(realised: Realised, assignment: Assignment) -> Realised:
    how = f"operators of the serialized Vulkan graph that read the weights: {realised.how}"
    return replace(realised, asked=assignment.scheme, how=how)


def findings(lowered: LoweredProgram, fp32_blocks: Sequence[str]) -> tuple[Finding, ...]:
    """What is left to the CPU, what not every phone runs, and blocks whose values FP16 may not hold."""
    portable = (one for graph in lowered.delegates for one in checks.findings(graph))
    return (*_left(lowered), *portable, *_narrow(fp32_blocks))


def _left(lowered: LoweredProgram) -> Iterator[Finding]:
    names = [one.operator for one in lowered.undelegated]
    for name in sorted(set(names)):
        yield Finding(
            rule="delegation",
            op=name,
            op_type=name.partition(".")[2],
            block="",
            what=f"Vulkan does not take it in this form; {names.count(name)} of them run in ExecuTorch's portable "
            "kernels, with copies between GPU and CPU",
            remedy="write it in operators that Vulkan has, in runtimes/vulkan/rewrite.py",
            source=_SOURCE,
            severity="warning",
        )


def _narrow(fp32_blocks: Sequence[str]) -> Iterator[Finding]:
    for block in fp32_blocks:
        yield Finding(
            rule="fp16_range",
            op=block,
            op_type="block",
            block=block,
            what="its values came near the end of FP16 in calibration, and the delegate computes all blocks in FP16",
            remedy="use the XNNPACK target, which computes in FP32",
            source="headroom scan of the calibration",
            severity="warning",
        )

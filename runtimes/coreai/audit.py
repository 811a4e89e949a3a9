"""Asked against realised precision of an asset: the plan's layers, found in it by the digests of their weights."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import LayerShape
from vggt_edge.calibration.scheme import Activation
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.base import Realised
from vggt_edge.runtimes.common.audit import LinearPrecision, audit, place
from vggt_edge.runtimes.coreai.asset import StoredLinear, digest_of

_aten = torch.ops.aten
LINEAR_OPS = frozenset(
    {_aten.linear.default, _aten.conv2d.default, _aten.convolution.default, _aten.conv_transpose2d.input}
)
# What restores a weight from what is stored, and what leaves it as it is.
_RESTORES = frozenset(
    {
        torch.ops.quantized_decomposed.dequantize_per_channel.default,
        torch.ops.torchao.dequantize_affine.default,
        torch.ops.vggt_edge.dequantize_palette.default,
        _aten.to.dtype,
        _aten._to_copy.default,
        _aten.detach.default,
    }
)


@dataclass(frozen=True)
class PlannedLinear:
    """One use of a layer in the annotated program. block: empty outside the blocks. path: of the layer in its block."""

    block: str
    path: str
    digest: str
    shape: LayerShape


def planned_linears(program: ExportedProgram, blocks: Sequence[str]) -> tuple[PlannedLinear, ...]:
    """Every use of a linear or convolution with a stored weight, in the order in which the program runs them."""
    targets = {spec.arg.name: str(spec.target) for spec in program.graph_signature.input_specs}
    tensors: dict[str, Any] = {**program.constants, **program.state_dict}
    digests: dict[str, str] = {}
    found = []
    for node in program.graph.nodes:
        target = _weight_of(node, targets) if node.target in LINEAR_OPS else None
        if target is not None:
            weight: Tensor = tensors[target].detach()
            if target not in digests:
                digests[target] = digest_of(weight.numpy())
            block, path = place(target.rpartition(".")[0], blocks)
            found.append(PlannedLinear(block, path, digests[target], LayerShape.of_weight(tuple(weight.shape))))
    return tuple(found)


def _weight_of(node: Node, targets: dict[str, str]) -> str | None:
    """The name of the tensor that the weight of a linear operator is restored from."""
    source = node.args[1]
    while isinstance(source, Node):
        if source.op == "placeholder":
            return targets.get(source.name)
        if source.target not in _RESTORES:
            return None
        source = source.args[0]
    return None


def audit_asset(
    planned: Sequence[PlannedLinear], stored: Sequence[StoredLinear], plan: PrecisionPlan, where: str
) -> tuple[Realised, ...]:
    """Precision of each block as the asset holds it, in the order of the plan.

    Raises ``LoweringError`` that lists what holds something else than its assignment, or nothing at all.
    """
    found = match(planned, stored)
    lost = [use.path for use, held in found if held is None and not use.block]
    if lost:
        raise LoweringError(
            f"the asset lacks the weights of {', '.join(lost[:20])}",
            where=where,
            expected="every weight of the annotated program, as it is stored there",
            remedy="export the graph from this plan again; if it stays, the lowering has a fault: report it",
        )

    def of_block(assignment: Assignment) -> tuple[LinearPrecision, ...]:
        return tuple(_precision(use, held) for use, held in found if use.block == assignment.block)

    return audit(plan, of_block, where)


def _precision(use: PlannedLinear, held: StoredLinear | None) -> LinearPrecision:
    node = f"{use.block}/{use.path}"
    if held is None:
        return LinearPrecision(node, use.path, use.shape, None, Activation.NONE)
    activation = Activation.STATIC_TENSOR if held.int8_input else Activation.NONE
    return LinearPrecision(node, use.path, use.shape, held.numbers, activation)


def match(
    planned: Sequence[PlannedLinear], stored: Sequence[StoredLinear]
) -> tuple[tuple[PlannedLinear, StoredLinear | None], ...]:
    """Each planned use with the stored one of the same values; where several have them, in the program's order."""
    waiting: dict[str, deque[StoredLinear]] = defaultdict(deque)
    for linear in stored:
        waiting[linear.digest].append(linear)
    return tuple((use, waiting[use.digest].popleft() if waiting[use.digest] else None) for use in planned)

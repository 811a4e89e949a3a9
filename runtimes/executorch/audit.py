"""Asked against realised precision, read from the graphs that XNNPACK gets; and what XNNPACK does not run at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import LayerShape
from vggt_edge.calibration.scheme import FP16, FP32, INT4, INT8, Activation
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.base import Finding, Realised
from vggt_edge.runtimes.common.audit import LinearPrecision, audit, place
from vggt_edge.runtimes.executorch.assemble import Undelegated
from vggt_edge.runtimes.executorch.payload import unpacked_constants
from vggt_edge.runtimes.executorch.sdk import sdk
from vggt_edge.runtimes.executorch.xnnpack import LoweredPiece, StoredLinear

# XNNPACK's names of filter types: per channel, per channel in four bits, in blocks of four bits.
_NUMBERS = {"fp32": FP32, "fp16": FP16, "qcint8": INT8, "qint8": INT8, "qcint4": INT4, "qbint4": INT4}
_SOURCE = "partitioner configurations of ExecuTorch 1.4, backends/xnnpack/partition/config"


def audit_pieces(lowered: Sequence[LoweredPiece], plan: PrecisionPlan, blocks: Sequence[str]) -> tuple[Realised, ...]:
    """Precision of each block in the order of the plan; ``LoweringError`` lists what is not as its assignment says."""
    found: dict[str, list[LinearPrecision]] = defaultdict(list)
    for one in lowered:
        for delegate in one.delegates.values():
            for linear in delegate.linears:
                block, precision = _precision(one, linear, blocks)
                found[block].append(precision)

    def of_block(assignment: Assignment) -> tuple[LinearPrecision, ...]:
        return tuple(found[assignment.block])

    return audit(plan, of_block, "executorch")


def _precision(lowered: LoweredPiece, linear: StoredLinear, blocks: Sequence[str]) -> tuple[str, LinearPrecision]:
    block, path = place(lowered.piece.targets[linear.weight].rpartition(".")[0], blocks)
    activation = Activation.DYNAMIC_TOKEN if linear.dynamic else Activation.NONE
    shape = LayerShape.of_weight(tuple(lowered.piece.weights[linear.weight].shape))
    return block, LinearPrecision(f"{block}/{path}", path, shape, _NUMBERS.get(linear.datatype), activation)


def check_constants(lowered: Sequence[LoweredPiece]) -> None:
    """``LoweringError`` where a delegate reads a stored constant that is unmapped by then."""
    for one in lowered:
        for name, delegate in one.delegates.items():
            for found in unpacked_constants(delegate.payload):
                block = one.piece.block or "outside the blocks"
                raise LoweringError(
                    f"{found.operation} number {found.index} of delegate {name} reads a stored constant as its "
                    f"{found.operand}, where XNNPACK does not pack it: the first prediction on a phone would crash",
                    where=block,
                    expected="stored constants as filter or bias of linears and convolutions alone",
                    remedy="the lowering has a fault: report it with the model's sizes and the plan",
                )


def findings(undelegated: Iterable[Undelegated]) -> tuple[Finding, ...]:
    """One per block and operator that is left to ExecuTorch's own kernels, with the reason."""
    return tuple(_findings(Counter(undelegated)))


def _findings(counts: Counter[Undelegated]) -> Iterator[Finding]:
    known = {
        name for one in sdk("backends.xnnpack.partition.config").ALL_PARTITIONER_CONFIGS if (name := one.target_name)
    }
    for one, count in sorted(counts.items(), key=lambda entry: (entry[0].block, entry[0].operator)):
        name = one.operator.partition(".")[2]
        why = "XNNPACK has no such operator" if name not in known else "XNNPACK does not take it in this form"
        yield Finding(
            rule="delegation",
            op=one.operator,
            op_type=name,
            block=one.block,
            what=f"{why}; {count} of them run in ExecuTorch's portable kernels, on one thread",
            remedy="write it in operators that XNNPACK has, in runtimes/executorch/rewrite.py",
            source=_SOURCE,
            severity="warning",
        )

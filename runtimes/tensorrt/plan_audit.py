"""Asked, stored, computed: what a compiled plan multiplies, held against the graph that ships and against the plan.

The compiler is TensorRT for RTX, which needs no GPU. On a Jetson another compiler of the same family builds the engine,
so this predicts what a device does; the device kit reads back what the engine there does (docs/runtimes/tensorrt.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scheme import Activation
from vggt_edge.devices.errors import LoweringError, ToolchainError
from vggt_edge.devices.units import format_bytes
from vggt_edge.runtimes.base import Check, Computed, Finding, Realised
from vggt_edge.runtimes.common.audit import (
    LINEAR_OPS,
    activation_of,
    linears,
    operand_types,
    place,
    weight_and_data,
)
from vggt_edge.runtimes.tensorrt.plan_products import ATTENTION, UNKNOWN, Product, Reading

NAME = "Plan audit"
SOURCE = "program of the compiled plan"
_TYPE_NAMES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT8: "int8",
    ir.DataType.INT4: "int4",
    ir.DataType.FLOAT8E4M3FN: "fp8",
    ir.DataType.FLOAT4E2M1: "fp4",
}
_NAMED = 4
# Rules whose findings ``--strict`` refuses; those of others are notes.
WARNINGS = ("unproven", "computed type", "widened weights")
REMEDIES = {
    "unproven": "report the graph: the audit has to learn this form; until then the type is not proven",
    "attention not fused": "use fewer tokens (--resolution, --frames), or leave it: the result is the same",
    "separate scale": "leave it: the product is int8 all the same; one weight scale per tensor would be fused",
}


@dataclass(frozen=True)
class Judged:
    """A product of the plan beside the graph's account of it.

    block, path: the layer's names; block is empty outside the blocks. wanted: type that the graph multiplies in. role:
    ``layer``, ``attention`` (no stored operand) or ``table`` (of constants that several blocks share).
    """

    product: Product
    block: str
    path: str
    wanted: str
    role: str

    @property
    def fault(self) -> str:
        """The rule that the product breaks; empty for one that is as the graph says."""
        if UNKNOWN in (self.product.computed, self.wanted):
            return "unproven"
        if self.product.computed != self.wanted:
            return "computed type"
        if self.product.expanded_bytes:
            return "widened weights"
        if self.role == "attention" and self.product.kernel != ATTENTION:
            return "attention not fused"
        return "separate scale" if (self.product.computed, self.product.written) == ("int8", "fp32") else ""


@dataclass(frozen=True)
class PlanAudit:
    """The audit of one compiled graph."""

    check: Check
    computed: tuple[Computed, ...] = ()
    findings: tuple[Finding, ...] = ()


def audit_plan(
    reading: Reading | None, model: ir.Model, plan: PrecisionPlan, realised: Iterable[Realised]
) -> PlanAudit:
    """reading: what the compiler made of ``model``; None where nothing was compiled.

    realised: precision per block as the file stores it.
    """
    if reading is None:
        return PlanAudit(Check(NAME, "not_run", "no compiled plan to read", {}))
    judged = judge(reading, model, [assignment.block for assignment in plan.assignments])
    stored = {one.block: one.realised for one in realised} | {"": plan.rest_scheme}
    asked = {one.block: one.scheme for one in plan.assignments} | {"": plan.rest_scheme}
    return PlanAudit(
        _check(reading, judged),
        tuple(_computed(judged, asked, stored)),
        (*_findings(judged), *_forms(reading)),
    )


def judge(reading: Reading, model: ir.Model, blocks: Iterable[str]) -> tuple[Judged, ...]:
    """Every product of the graph beside what the graph says of it."""
    nodes = {node.name: node for node in model.graph if node.op_type in LINEAR_OPS}
    names = tuple(blocks)
    layers = {linear.node for block in names for linear in linears(model, block)}
    judged = []
    for product in reading.products:
        node = nodes[product.node]
        block, path = place(product.node.rpartition("/")[0].replace("/", "."), names)
        stored = "layer" if product.node in layers or not block else "table"
        role = "attention" if weight_and_data(node) is None else stored
        judged.append(Judged(product, block, path, wanted_type(node), role))
    return tuple(judged)


def wanted_type(node: ir.Node) -> str:
    """The type that a strongly typed graph multiplies in: the stored one where both operands are quantized."""
    found = weight_and_data(node)
    if found is not None and activation_of(found[1]) is not Activation.NONE:
        return _TYPE_NAMES.get(found[0].dtype, UNKNOWN)
    if found is None and None not in (types := set(operand_types(node))) and len(types) == 1:
        return _TYPE_NAMES.get(types.pop() or ir.DataType.UNDEFINED, UNKNOWN)
    dtype = node.outputs[0].dtype or next((one.dtype for one in node.inputs if one is not None and one.dtype), None)
    return UNKNOWN if dtype is None else _TYPE_NAMES.get(dtype, UNKNOWN)


def _computed(judged: tuple[Judged, ...], asked: Mapping[str, str], stored: Mapping[str, str]) -> Iterator[Computed]:
    """The layers of each block, in the order of the plan."""
    for block, scheme in asked.items():
        own = [one for one in judged if one.block == block and one.role == "layer"]
        if not own:
            continue
        counts = Counter(_words(one) for one in own)
        faults = {one.fault for one in own} & set(WARNINGS)
        status = "passed" if not faults else UNKNOWN if "unproven" in faults else "failed"
        text = ", ".join(f"{what} x {count}" for what, count in sorted(counts.items()))
        yield Computed(block, scheme, stored.get(block, UNKNOWN), text, status)


def _words(one: Judged) -> str:
    return one.product.computed + (" (weights widened)" if one.product.expanded_bytes else "")


def _findings(judged: tuple[Judged, ...]) -> Iterator[Finding]:
    """A finding for each rule, block and kind of kernel."""
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for one in judged:
        if one.fault:
            groups.setdefault((one.fault, one.block, one.product.kernel), []).append(one)
    for (rule, block, kernel), group in groups.items():
        severity = "warning" if rule in WARNINGS else "note"
        what, remedy = f"{_what(rule, group)}: {_listed(group)}", _remedy(rule, block, group)
        yield Finding(rule, group[0].product.node, kernel, block, what, remedy, SOURCE, severity)


def _listed(group: list[Judged]) -> str:
    names = list(dict.fromkeys(one.path or one.product.node for one in group))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _what(rule: str, group: list[Judged]) -> str:
    if rule == "unproven":
        return "the plan does not say in which type these are computed"
    if rule == "attention not fused":
        return "kernels of their own compute attention's products, and scores go through memory"
    if rule == "separate scale":
        return "int8 products that write FP32, which a further kernel scales and rounds"
    if rule == "computed type":
        types = sorted({f"{one.product.computed}, the graph asks for {one.wanted}" for one in group})
        return f"computed in {' and '.join(types)}"
    size = format_bytes(sum({one.path: one.product.expanded_bytes for one in group}.values()))
    return f"an extra kernel writes {size} of weights in {group[0].product.computed} at every run"


def _remedy(rule: str, block: str, group: list[Judged]) -> str:
    paths = list(dict.fromkeys(one.path for one in group))
    if rule in REMEDIES:
        return REMEDIES[rule]
    if not block or not all(paths):
        return "report the graph: no setting changes what lies outside the blocks"
    names = [re.escape(f"{block}.{path}") for path in paths] if len(paths) <= _NAMED else [re.escape(block)]
    if any(one.role == "attention" for one in group):
        return "use fewer tokens (--resolution, --frames), or the scheme without -mha"
    pattern = f"--exclude '{'|'.join(names)}'"
    if rule == "computed type":
        return f"{pattern} stores them in 16 bits: the product is the same, and the input loses nothing"
    return f"{pattern} stores them in 16 bits: a larger file, less to move; or a scheme with quantized inputs"


def _forms(reading: Reading) -> Iterator[Finding]:
    for form in reading.unknown:
        yield Finding(
            "unproven", "main", "program", "", f"the plan holds a form that the audit does not know: {form}",
            "report it with the versions of the toolchain; nothing in this plan counts as proven", SOURCE, "warning",
        )  # fmt: skip


def _check(reading: Reading, judged: tuple[Judged, ...]) -> Check:
    faults = Counter(one.fault for one in judged)
    types = Counter(f"products_{one.product.computed.replace(', ', '_')}" for one in judged)
    figures: dict[str, float | int | str] = {
        "launches": sum(reading.launches.values()),
        **{f"launches_{kind.replace(' ', '_')}": count for kind, count in reading.launches.items()},
        **{name: types[name] for name in sorted(types)},
        "widened_weight_bytes": reading.expanded_bytes,
    }
    if reading.unknown or faults["unproven"]:
        detail = f"not proven: {faults['unproven']} of {len(judged)} products"
        if reading.unknown:
            detail += f"; forms of the plan that are not known: {'; '.join(reading.unknown[:_NAMED])}"
        return Check(NAME, "not_run", detail, figures)
    detail = f"{len(judged)} products, {faults['computed type']} of them in another type than the graph says"
    if reading.expanded_bytes:
        detail += f"; {format_bytes(reading.expanded_bytes)} of weights are widened in memory at every run"
    is_failed = faults["computed type"] or faults["widened weights"]
    return Check(NAME, "failed" if is_failed else "passed", detail, figures)


def enforce(audit: PlanAudit, where: str) -> None:
    """For ``--strict``: ``LoweringError`` lists the warnings; ``ToolchainError`` where there was no plan to read."""
    if not audit.computed:
        raise ToolchainError(
            "the precision of the compiled plan was not checked, and --strict asks for it",
            where=NAME,
            remedy="install the compiler (pip install 'vggt-edge[jetson]'), or leave out --strict",
        )
    warnings = [one for one in audit.findings if one.severity == "warning"]
    if warnings:
        raise LoweringError(
            f"{len(warnings)} findings in the compiled plan:\n    " + "\n    ".join(map(str, warnings[:20])),
            where=where,
            expected="every product in the type that the graph says, its weights packed in memory",
            remedy=f"{warnings[0].remedy}; or leave out --strict",
        )

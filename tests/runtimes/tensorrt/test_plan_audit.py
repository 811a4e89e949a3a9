"""The reading of a compiled plan: from texts of real plans, which ``plan_graphs.py`` writes, and from one made now."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.devices.errors import InputError, LoweringError, ToolchainError
from vggt_edge.runtimes.base import Realised
from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.tensorrt import plan_text, rtx
from vggt_edge.runtimes.tensorrt.plan_audit import PlanAudit, audit_plan, enforce
from vggt_edge.runtimes.tensorrt.plan_products import Product, Reading, read
from vggt_edge.runtimes.tensorrt.plan_text import PlanText, read_plan
from vggt_edge.runtimes.tensorrt.prepare import prepare

# By block: kernel, type of the operands, type of the result, bytes of weights that are widened in memory.
EXPECTED: dict[str, set[tuple[str, str, str, int]]] = {
    "linear_w8a8": {("gemm", "int8", "fp16", 0)},
    "linear_w4a16": {("gemm", "fp16", "fp16", 0)},
    "row_fp16": {("elementwise", "fp16", "fp16", 0)},
    "row_w4a16": {("elementwise", "fp16", "fp16", 0)},
    "repeated_w4a16": {("gemm", "fp16", "fp16", 2 * 128 * 128)},
    "conv_w8a8": {("convolution", "int8", "fp32", 0)},
    "transposed_w8a8": {("transposed convolution", "fp16", "fp16", 2 * 64 * 64 * 3 * 3)},
    "attention_fp16": {("fused attention", "fp16", "fp16", 0)},
}
SCHEMES = {block: block.rpartition("_")[2] for block in EXPECTED}
Read = Callable[..., tuple[Reading, Any]]
Audit = Callable[..., PlanAudit]


def as_plan(text: str, version: int = 2022049) -> bytes:
    """The bytes of a plan that holds the programs of a golden text, among others that mean nothing."""
    _, *programs = text.split("=== program\n")
    records = (struct.pack("<4sIQ", b"NLYM", version, len(one.encode())) + one.encode() for one in programs)
    return b"ftrt NLYM is no program" + b"\0\1".join((b"", *records)) + b"\0" * 40


@pytest.fixture(scope="module")
def graphs(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("runtimes/tensorrt/plan_graphs")


@pytest.fixture
def prepared(graphs: ModuleType, builder: Any, save: Any, tmp_path: Path) -> Callable[..., Path]:
    """``prepared(*blocks)``: the strongly typed graph of these blocks."""

    def make(*blocks: str) -> Path:
        source = save(graphs.model_of(builder, *blocks), tmp_path / "model.onnx")
        return prepare(source, tmp_path / "prepared.onnx").path

    return make


@pytest.fixture
def golden(graphs: ModuleType, prepared: Callable[..., Path], tmp_path: Path) -> Read:
    """``golden(block, change)``: what the golden text says of its graph, and the graph; ``change`` edits the text."""

    def make(block: str, change: Callable[[str], str] = str, version: int = 2022049) -> tuple[Reading, Any]:
        plan = tmp_path / "plan"
        plan.write_bytes(as_plan(change((graphs.GOLDEN / f"{block}.txt").read_text()), version))
        model = load_onnx(prepared(block))
        return read(read_plan(plan), model), model

    return make


@pytest.fixture
def audited(golden: Read) -> Audit:
    """``audited(block, change)``: the audit of a golden text."""

    def make(block: str, change: Callable[[str], str] = str) -> PlanAudit:
        reading, model = golden(block, change)
        return audit_plan(reading, model, plan_of(block), [Realised(block, SCHEMES[block], SCHEMES[block], "")])

    return make


def plan_of(*blocks: str) -> PrecisionPlan:
    assignments = tuple(Assignment(block, SCHEMES[block], "asked by a test", 0.0, 1, 0.0) for block in blocks)
    return PrecisionPlan("model", "stats", "jetson-orin", 64, assignments)


def seen(products: tuple[Product, ...], block: str) -> set[tuple[str, str, str, int]]:
    own = [one for one in products if one.node.startswith(f"{block}/")]
    return {(one.kernel, one.computed, one.written, one.expanded_bytes) for one in own}


@pytest.mark.parametrize("block", EXPECTED)
def test_products_are_read_from_the_text_of_a_plan(block: str, golden: Read) -> None:
    reading, _ = golden(block)
    assert reading.unknown == ()
    assert seen(reading.products, block) == EXPECTED[block]


@pytest.mark.skipif(not rtx.availability().ok, reason=rtx.availability().reason)
def test_a_plan_compiled_now_reads_as_the_golden_texts(prepared: Callable[..., Path]) -> None:
    """A compiler that writes another form fails here, in one run for all graphs."""
    reading = rtx.compile_graph(prepared(*EXPECTED), timeout_s=300).reading
    assert reading is not None
    assert reading.unknown == ()
    assert {block: seen(reading.products, block) for block in EXPECTED} == EXPECTED
    assert reading.expanded_bytes == 2 * (128 * 128 + 64 * 64 * 3 * 3)


@pytest.mark.parametrize(
    ("block", "launches"),
    [
        ("linear_w8a8", {"elementwise": 1, "gemm": 1, "quantizer": 1}),
        ("linear_w4a16", {"cast": 1, "elementwise": 1, "fused gemm": 1}),
        ("repeated_w4a16", {"cast": 1, "elementwise": 1, "fused gemm": 2, "weight expansion": 1}),
        ("transposed_w8a8", {"cast": 1, "quantizer": 1, "transposed convolution": 1, "weight expansion": 1}),
    ],
)
def test_launches_are_counted_by_kind(block: str, launches: dict[str, int], golden: Read) -> None:
    assert golden(block)[0].launches == launches


@pytest.mark.parametrize("chunk", [1 << 26, 1000])
def test_a_program_is_found_across_the_borders_of_chunks(
    chunk: int, golden: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_text, "_CHUNK_BYTES", chunk)
    reading, _ = golden("linear_w4a16")
    assert seen(reading.products, "linear_w4a16") == EXPECTED["linear_w4a16"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("  tensor={ align", "  tensor [ align", 1), "a line of descriptors: tensor ["),
        (lambda text: text.replace("  fully_connected={", "  fully_connected("), "a line of main: fully_connected("),
        (lambda text: text.replace("descriptors {", "values {"), "without tensors"),
    ],
    ids=["tensor", "operation", "section"],
)
def test_a_form_that_is_not_known_is_said_and_nothing_is_proven(
    change: Callable[[str], str], said: str, audited: Audit
) -> None:
    audit = audited("linear_w8a8", change)
    assert audit.check.status == "not_run"
    assert said in audit.check.detail
    with pytest.raises(LoweringError, match="does not know"):
        enforce(audit, "model.onnx")


def test_an_operation_of_an_unknown_kind_leaves_its_product_unproven(audited: Audit) -> None:
    audit = audited("linear_w8a8", lambda text: text.replace("fully_connected={", "sparse_product={"))
    assert [(one.computed, one.status) for one in audit.computed] == [("unknown x 1", "unknown")]
    assert audit.check.status == "not_run"
    assert audit.check.figures["launches_unknown"] == 1


def test_a_written_out_product_with_a_quantized_input_is_not_told(golden: Read) -> None:
    """Such a kernel may cast before it multiplies."""
    quantized = partial(re.sub, r'(name="x_row_w4a16\.1".*type=)float', r"\1int8")
    reading, _ = golden("row_w4a16", quantized)
    assert {one.computed for one in reading.products} == {"unknown"}


@pytest.mark.parametrize("type_", ["fp6", "int2"])
def test_a_type_that_is_not_known_is_never_taken_for_the_asked_one(type_: str, audited: Audit) -> None:
    audit = audited("linear_w8a8", lambda text: text.replace("type=int8", f"type={type_}"))
    assert audit.computed[0].status == "unknown"


def test_another_version_of_the_form_is_said(golden: Read) -> None:
    reading, _ = golden("linear_w8a8", version=1)
    assert reading.unknown == ("a program of version 1",)
    assert {one.computed for one in reading.products} == {"unknown"}


@pytest.mark.parametrize("size", [400, 5000])
def test_a_plan_cut_short_is_said(size: int, graphs: ModuleType, tmp_path: Path) -> None:
    whole = as_plan((graphs.GOLDEN / "linear_w8a8.txt").read_text())
    assert len(whole) > size
    (tmp_path / "plan").write_bytes(whole[:size])
    assert read_plan(tmp_path / "plan").unknown == ("a program is cut short",)


def test_a_file_without_programs_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"NLYM" * 10_000 + bytes(40))
    assert read_plan(tmp_path / "plan") == PlanText((), (), ("the plan holds no program as text",))
    (tmp_path / "plan").write_bytes(b"")
    with pytest.raises(InputError, match="cannot read the plan"):
        read_plan(tmp_path / "plan")


def test_what_is_as_asked_passes_without_findings(audited: Audit) -> None:
    audit = audited("linear_w8a8")
    assert (audit.check.status, audit.findings) == ("passed", ())
    assert [(one.block, one.asked, one.stored, one.computed) for one in audit.computed] == [
        ("linear_w8a8", "w8a8", "w8a8", "int8 x 1")
    ]
    enforce(audit, "model.onnx")


@pytest.mark.parametrize(
    ("block", "rule", "severity", "said"),
    [
        ("transposed_w8a8", "computed type", "warning", "computed in fp16, the graph asks for int8: conv"),
        ("repeated_w4a16", "widened weights", "warning", "writes 32.0 KiB of weights in fp16 at every run: fc"),
        ("conv_w8a8", "separate scale", "note", "int8 products that write FP32"),
    ],
)
def test_each_departure_is_a_finding_with_a_remedy(
    block: str, rule: str, severity: str, said: str, audited: Audit
) -> None:
    audit = audited(block)
    (finding,) = audit.findings
    assert (finding.rule, finding.severity, finding.block) == (rule, severity, block)
    assert said in finding.what
    assert finding.remedy
    if severity == "note":
        assert audit.computed[0].status == "passed"
        enforce(audit, "model.onnx")
        return
    assert f"--exclude '{block}" in finding.remedy
    assert (audit.computed[0].status, audit.check.status) == ("failed", "failed")
    with pytest.raises(LoweringError, match=said):
        enforce(audit, "model.onnx")


def test_attention_that_is_not_fused_is_a_note(golden: Read) -> None:
    reading, model = golden("attention_fp16")
    apart = replace(reading, products=tuple(replace(one, kernel="gemm") for one in reading.products))
    audit = audit_plan(apart, model, plan_of("attention_fp16"), [])
    assert [(one.rule, one.severity) for one in audit.findings] == [("attention not fused", "note")]


def test_without_a_plan_nothing_is_claimed_and_strict_says_why(golden: Read) -> None:
    _, model = golden("linear_w8a8")
    audit = audit_plan(None, model, plan_of("linear_w8a8"), [])
    assert (audit.check.status, audit.computed) == ("not_run", ())
    with pytest.raises(ToolchainError, match="--strict"):
        enforce(audit, "model.onnx")

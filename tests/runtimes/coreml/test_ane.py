"""The Neural Engine audit: every rule finds what breaks it, spares what does not, and says where it comes from."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.devices.profile import DeviceProfile, list_profiles, resolve
from vggt_edge.runtimes.coreml import ane
from vggt_edge.runtimes.coreml.ane import Finding, as_check, audit, block_of, enforce, load_rules, rules
from vggt_edge.runtimes.coreml.ane_checks import OPERATION_CHECKS, PROGRAM_CHECKS
from vggt_edge.runtimes.coreml.mil import Argument, Constant, Description, MilProgram, Operation, Output, TensorType
from vggt_edge.runtimes.coreml.mil_graph import mil_name
from vggt_edge.runtimes.coreml.program import load_program

DOCS = Path(__file__).parents[3] / "docs"
PHONE = resolve("iphone-15-pro")
HEADSET = resolve("vision-pro")
FP16 = "fp16"


@dataclass(frozen=True)
class Held:
    """The values of a constant, or only its size."""

    values: np.ndarray[Any, Any] | None
    stored_bytes: int

    def read(self, declared: TensorType) -> np.ndarray[Any, Any]:
        assert self.values is not None
        return self.values


@dataclass
class Draft:
    """A program written down operation by operation, as the decoder would hand it over."""

    inputs: dict[str, TensorType]
    operations: list[Operation] = field(default_factory=list)

    def op(
        self, kind: str, name: str, shape: tuple[int, ...], dtype: str = FP16, **inputs: Argument | tuple[Argument, ...]
    ) -> str:
        given = {key: each if isinstance(each, tuple) else (each,) for key, each in inputs.items()}
        self.operations.append(Operation(kind, name, given, (Output(name, TensorType(dtype, shape)),), {}))
        return name

    def const(self, name: str, shape: tuple[int, ...], dtype: str = FP16, stored: int = 0) -> str:
        """A constant of which only type and size matter."""
        value = Constant(TensorType(dtype, shape), Held(None, stored))
        self.operations.append(Operation("const", name, {}, (Output(name, value.type),), {"val": value}))
        return name

    def program(self) -> MilProgram:
        last = self.operations[-1].outputs[0].name
        described = Description(9, (), (), MappingProxyType({}))
        return MilProgram(Path("x"), self.inputs, (last,), tuple(self.operations), "CoreML8", described, ())


def numbers(*values: int, dtype: str = "int32") -> Constant:
    array = np.array(values, np.int32 if dtype == "int32" else np.bool_)
    return Constant(TensorType(dtype, array.shape), Held(array, array.nbytes))


def draft(*shape: int, dtype: str = FP16) -> Draft:
    return Draft({"x": TensorType(dtype, shape)})


def unary(kind: str, *shape: int, dtype: str = FP16, out: str | None = None) -> MilProgram:
    one = draft(*shape, dtype=dtype)
    one.op(kind, "op", shape, out or dtype, x="x")
    return one.program()


def linear(*shape: int) -> MilProgram:
    one = draft(*shape)
    one.op("linear", "op", shape, x="x", weight=one.const("w", (shape[-1], shape[-1])))
    return one.program()


def island(dtype: str) -> MilProgram:
    """A product, an operation, a product."""
    one = draft(1, 8, 64)
    weight = one.const("w", (64, 64))
    one.op("linear", "a", (1, 8, 64), x="x", weight=weight)
    one.op("exp", "op", (1, 8, 64), dtype, x="a")
    one.op("linear", "b", (1, 8, 64), x="op", weight=weight)
    return one.program()


def tail(dtype: str) -> MilProgram:
    """An operation after the last product."""
    one = draft(1, 8, 64)
    one.op("linear", "a", (1, 8, 64), x="x", weight=one.const("w", (64, 64)))
    one.op("exp", "op", (1, 8, 64), dtype, x="a")
    return one.program()


def convolution(kernel: int, stride: int, palette: bool = False) -> MilProgram:
    one = draft(1, 3, 112, 112)
    shape = (64, 3, kernel, kernel)
    weight = one.const("w", shape)
    if palette:
        indices, lut = one.const("i", shape, "uint4"), one.const("l", (4, 1, 1, 1, 16, 1))
        weight = one.op("constexpr_lut_to_dense", "p", shape, indices=indices, lut=lut)
    size = 112 // stride
    one.op("conv", "op", (1, 64, size, size), x="x", weight=weight, strides=numbers(stride, stride))
    return one.program()


def scaled(scale: tuple[int, ...], reader: str = "linear") -> MilProgram:
    """A weight of (64, 128) with scales of the given shape, multiplied with by a linear or a matmul."""
    one = draft(1, 8, 128)
    data = one.const("d", (64, 128), "int4")
    one.op("constexpr_blockwise_shift_scale", "op", (64, 128), data=data, scale=one.const("s", scale))
    if reader == "matmul":
        flag = numbers(1, dtype="bool")
        one.op("matmul", "m", (1, 8, 64), x="x", y="op", transpose_y=Constant(TensorType("bool", ()), flag.source))
    elif reader == "linear":
        one.op("linear", "m", (1, 8, 64), x="x", weight="op")
    return one.program()


def palette(groups: int) -> MilProgram:
    one = draft(1, 8, 128)
    indices, lut = one.const("i", (64, 128), "uint4"), one.const("l", (groups, 1, 16, 1))
    one.op("constexpr_lut_to_dense", "op", (64, 128), indices=indices, lut=lut)
    one.op("linear", "m", (1, 8, 64), x="x", weight="op")
    return one.program()


def attention(tokens: int, heads: int = 16) -> MilProgram:
    shape = (1, heads, tokens, 64)
    one = draft(*shape)
    one.op("scaled_dot_product_attention", "op", shape, query="x", key="x", value="x")
    return one.program()


def slice_at(start: int, mask: bool = False) -> MilProgram:
    one = draft(1, 8, 64)
    masked = {"begin_mask": numbers(0, 0, 1, dtype="bool")} if mask else {}
    one.op(
        "slice_by_index", "op", (1, 8, 32), x="x", begin=numbers(0, 0, start), end=numbers(1, 8, start + 32), **masked
    )
    return one.program()


def transposed(*perm: int) -> MilProgram:
    one = draft(1, 8, 4, 64)
    one.op("transpose", "op", (1, 8, 4, 64), x="x", perm=numbers(*perm))
    return one.program()


def heavy(stored: int) -> MilProgram:
    one = draft(1, 64)
    one.op("linear", "op", (1, 64), x="x", weight=one.const("w", (64, 64), stored=stored))
    return one.program()


GIB = 1 << 30
# Rule: device, a program that breaks it, one that comes near and does not. The operation in question is called ``op``.
PROGRAMS: Mapping[str, tuple[DeviceProfile, MilProgram, MilProgram]] = {
    "rank": (PHONE, unary("relu", 1, 1, 2, 4, 4, 64), unary("relu", 1, 2, 4, 4, 64)),
    "axis": (PHONE, unary("relu", 1, 65537, 64), unary("relu", 1, 65536, 64)),
    "dynamic-shape": (PHONE, unary("relu", 1, -1, 64), unary("relu", 1, 8, 64)),
    "fp32": (PHONE, island("fp32"), island(FP16)),
    "fp32-border": (PHONE, tail("fp32"), tail(FP16)),
    "element-type": (PHONE, unary("cast", 1, 64, out="int32"), unary("cast", 1, 64, out="int8")),
    "unsupported-op": (PHONE, unary("lstm", 1, 8, 64), unary("gelu", 1, 8, 64)),
    "doubtful-op": (PHONE, unary("gather", 1, 8, 64), unary("split", 1, 8, 64)),
    "unknown-op": (PHONE, unary("pixel_whirl", 1, 8, 64), unary("lstm", 1, 8, 64)),
    "linear-rank": (PHONE, linear(1, 1, 2, 8, 64), linear(1, 2, 8, 64)),
    "conv-kernel": (PHONE, convolution(16, 16), convolution(14, 14)),
    "blockwise-weights": (PHONE, scaled((64, 4)), scaled((64, 1))),
    "weights-2gib": (PHONE, heavy(2 * GIB), heavy(2 * GIB - 1)),
    "weights-1gib": (PHONE, heavy(GIB + 1), heavy(2 * GIB)),
    "int8-activations": (HEADSET, unary("quantize", 1, 64, out="int8"), unary("cast", 1, 64, out="int8")),
    "palette-groups": (PHONE, palette(16), palette(8)),
    "palette-stride": (PHONE, convolution(14, 14, palette=True), convolution(14, 14)),
    "small-attention": (PHONE, attention(2047), attention(2048)),
    "offset-slice": (HEADSET, slice_at(32), slice_at(0)),
    "long-attention": (PHONE, attention(1280), attention(1279)),
    "conv-stride": (PHONE, convolution(14, 14), convolution(12, 12)),
    "last-axis": (PHONE, unary("relu", 1, 16384, 31), unary("relu", 1, 16384, 32)),
    "linear": (PHONE, linear(1, 8, 64), unary("gelu", 1, 8, 64)),
    "moved-last-axis": (PHONE, transposed(0, 1, 3, 2), transposed(0, 2, 1, 3)),
}
RULES = [rule.id for rule in rules()]


def of_rule(findings: tuple[Finding, ...], rule: str) -> list[Finding]:
    return [each for each in findings if each.rule == rule]


def test_every_rule_has_programs_and_every_check_a_rule() -> None:
    """A rule that is added later needs its two programs here."""
    assert list(PROGRAMS) == RULES
    assert {rule.check for rule in rules()} == {*OPERATION_CHECKS, *PROGRAM_CHECKS}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_what_breaks_it_and_nothing_near_it(rule: str) -> None:
    """One finding, on the operation in question, with its remedy and source."""
    profile, broken, fine = PROGRAMS[rule]
    (finding,) = [each for each in of_rule(audit(broken, profile), rule) if each.op in ("op", "main")]
    data = next(each for each in rules() if each.id == rule)
    assert finding.what
    assert (finding.remedy, finding.severity) == (data.remedy, data.severity)
    assert all(source in finding.source for source in data.sources)
    assert finding.op_type == ("program" if finding.op == "main" else next(_kinds(broken, "op")))
    assert not of_rule(audit(fine, profile), rule)


def _kinds(program: MilProgram, name: str) -> Iterator[str]:
    return (each.type for each in program.operations if each.name == name)


def test_every_source_says_where() -> None:
    """An address, or a document with a place in it; nothing without one."""
    for rule in rules():
        for source in rule.sources:
            assert source.startswith("https://") or re.search(r"(Apple|coremltools).*(, '|, opt-|pass )", source), (
                source
            )


@pytest.mark.parametrize(
    ("rule", "program"),
    [
        ("axis", unary("relu", 1, 16385, 64)),
        ("conv-kernel", convolution(14, 14)),
        ("int8-activations", unary("quantize", 1, 64, out="int8")),
        ("offset-slice", slice_at(32)),
    ],
)
def test_what_a_device_can_changes_the_limit(rule: str, program: MilProgram) -> None:
    """The features of the profile decide, not its name."""
    assert of_rule(audit(program, HEADSET), rule)
    assert not of_rule(audit(program, PHONE), rule)


def test_fp32_counts_once_at_each_border_and_as_an_error_in_between() -> None:
    """Before the first product and after the last one it is a hand-over, in between it splits the model."""
    one = draft(1, 8, 64, dtype="fp32")
    weight = one.const("w", (64, 64))
    one.op("mul", "normalise", (1, 8, 64), "fp32", x="x")
    one.op("cast", "enter", (1, 8, 64), x="normalise")
    one.op("linear", "first", (1, 8, 64), x="enter", weight=weight)
    one.op("cast", "up", (1, 8, 64), "fp32", x="first")
    one.op("layer_norm", "island", (1, 8, 64), "fp32", x="up")
    one.op("cast", "down", (1, 8, 64), x="island")
    one.op("linear", "last", (1, 8, 64), x="down", weight=weight)
    one.op("cast", "leave", (1, 8, 64), "fp32", x="last")
    one.op("exp", "head", (1, 8, 64), "fp32", x="leave")
    found = audit(one.program(), PHONE)
    assert [each.op for each in of_rule(found, "fp32")] == ["up", "island", "down"]
    assert [each.op for each in of_rule(found, "fp32-border")] == ["normalise", "enter", "leave", "head"]


def test_what_the_cpu_gets_anyway_breaks_no_other_rule() -> None:
    """FP32 after the last product may have any shape and operator: it never reaches the engine."""
    one = draft(1, 8, 64)
    one.op("linear", "a", (1, 8, 64), x="x", weight=one.const("w", (64, 64)))
    one.op("cumsum", "op", (1, 70000, 1, 1, 1, 64), "fp32", x="a")
    assert {each.rule for each in audit(one.program(), PHONE) if each.op == "op"} == {"fp32-border"}


def test_a_whole_fp32_model_is_no_border() -> None:
    """An FP32 product is itself in the middle."""
    one = draft(1, 8, 64, dtype="fp32")
    one.op("linear", "op", (1, 8, 64), "fp32", x="x", weight=one.const("w", (64, 64), "fp32"))
    assert [each.op for each in of_rule(audit(one.program(), PHONE), "fp32")] == ["op"]


@pytest.mark.parametrize(
    ("scale", "reader", "blocks"),
    [
        ((64, 1), "linear", 0),
        ((1, 1), "linear", 0),
        ((64, 4), "linear", 4),
        ((1, 4), "linear", 4),
        ((1, 128), "linear", 128),
        ((64, 1), "matmul", 0),
        ((1, 128), "matmul", 128),
        ((64, 1), "nothing", 0),
        ((16, 1), "nothing", 16),
        ((64, 4), "nothing", 4),
    ],
)
def test_blocks_are_counted_along_the_inputs(scale: tuple[int, ...], reader: str, blocks: int) -> None:
    """Which axis that is follows from the operation that multiplies with the weight."""
    found = of_rule(audit(scaled(scale, reader), PHONE), "blockwise-weights")
    assert [each.what.split()[1] for each in found] == ([str(blocks)] if blocks else [])


def test_a_masked_begin_and_a_later_palette_are_seen_through() -> None:
    """``begin_mask`` takes the offset away; a palette may be the data of a scaled weight."""
    assert not of_rule(audit(slice_at(32, mask=True), HEADSET), "offset-slice")
    one = draft(1, 3, 112, 112)
    shape = (64, 3, 14, 14)
    lut = one.const("l", (1, 1, 1, 1, 16, 1))
    table = one.op("constexpr_lut_to_dense", "p", shape, indices=one.const("i", shape, "uint4"), lut=lut)
    weight = one.op("constexpr_blockwise_shift_scale", "q", shape, data=table, scale=one.const("s", (64, 1, 1, 1)))
    one.op("conv", "op", (1, 64, 8, 8), x="x", weight=weight, strides=numbers(14, 14))
    assert [each.op for each in of_rule(audit(one.program(), PHONE), "palette-stride")] == ["op"]


def test_findings_name_the_block() -> None:
    """The longest block name that fits, in the model's own spelling."""
    one = draft(1, 8, 64)
    weight = one.const("w", (64, 64))
    for name in ("frame_blocks_1__attn_qkv__linear", "frame_blocks_10__mlp_fc1__linear", "x_cast"):
        one.op("linear", name, (1, 8, 64), x="x", weight=weight)
    found = of_rule(audit(one.program(), PHONE, ("frame_blocks.1", "frame_blocks.10")), "linear")
    assert [each.block for each in found] == ["frame_blocks.1", "frame_blocks.10", ""]
    assert {each.block for each in audit(one.program(), PHONE)} == {""}


@given(st.text(max_size=12), st.text(alphabet="ab.0_", min_size=1, max_size=8))
def test_block_of_finds_the_block_that_a_name_was_made_from(rest: str, block: str) -> None:
    """Sanitising ``<block>/<rest>`` never loses the block, whatever else there is."""
    others = ("zz.1", "zz.10")
    assert block_of(mil_name(f"{block}/{rest}"), (*others, block)) == block
    assert block_of(mil_name(block), (*others, block)) == block


def test_other_compute_units_are_not_judged() -> None:
    """The audit says so instead of passing."""
    program = PROGRAMS["rank"][1]
    for name in ("ipad-m4", "jetson-orin"):
        profile = resolve(name)
        assert audit(program, profile) == ()
        check = as_check((), profile)
        assert (check.status, check.figures) == ("not_run", {})
        assert name in check.detail


def test_the_check_counts_and_only_errors_fail_it() -> None:
    """Warnings and notes are shown beside a pass; an error is a failure, strict or not."""
    program = PROGRAMS["linear-rank"][1]
    check = as_check(audit(program, PHONE), PHONE)
    assert check.name == ane.NAME
    assert check.status == "failed"
    assert check.figures == {"errors": 1, "warnings": 0, "notes": 1, "linear-rank": 1, "linear": 1}
    assert "error linear-rank, 1x, first op: reads 5 axes" in check.detail
    softer = as_check(audit(PROGRAMS["doubtful-op"][1], PHONE), PHONE)
    assert (softer.status, softer.figures["warnings"]) == ("passed", 1)
    clean = as_check((), PHONE)
    assert (clean.status, clean.figures) == ("passed", {"errors": 0, "warnings": 0, "notes": 0})


def test_enforce_lists_twenty_errors_and_their_remedies() -> None:
    """Only errors stop a strict export; each remedy is said once."""
    one = draft(1, 8, 64)
    for index in range(25):
        one.op("lstm", f"op_{index}", (1, 8, 64), x="x")
    found = audit(one.program(), PHONE)
    with pytest.raises(LoweringError, match="25 findings") as caught:
        enforce(found, where="model.mlpackage")
    assert caught.value.exit_code == 6
    assert caught.value.what.count("is a lstm") == 20
    assert caught.value.what.endswith("and 5 more")
    assert caught.value.where == "model.mlpackage"
    assert caught.value.remedy.count("as a constant") == 1
    assert "--strict-ane" in caught.value.remedy
    enforce(each for each in found if each.severity != "error")
    enforce(audit(PROGRAMS["doubtful-op"][1], PHONE))


KINDS = st.sampled_from(["relu", "linear", "gather", "lstm", "exp", "cast", "transpose", "whirl", "quantize"])
SHAPES = st.sampled_from([(1, 64), (1, 8, 64), (1, 1, 2, 2, 2, 64), (1, 70000, 1), (16385, 2)])
STEPS = st.lists(st.tuples(KINDS, SHAPES, st.sampled_from([FP16, "fp32", "int32"])), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.sampled_from([one for one in list_profiles() if one.compute_units == "neural_engine"]))
def test_the_audit_is_stable_and_reports_each_operation_once_a_rule(
    steps: list[tuple[str, tuple[int, ...], str]], profile: DeviceProfile
) -> None:
    """Twice the same, in the order of the rules and then of the program; FP32 is inside or border, never both."""
    one = draft(1, 64)
    before = "x"
    for index, (kind, shape, dtype) in enumerate(steps):
        before = one.op(kind, f"op_{index}", shape, dtype, x=before)
    found = audit(one.program(), profile)
    assert found == audit(one.program(), profile)
    places = [(RULES.index(each.rule), int(each.op.split("_")[1])) for each in found]
    assert places == sorted(set(places))
    inside, border = ({each.op for each in of_rule(found, name)} for name in ("fp32", "fp32-border"))
    assert not inside & border
    fp32 = [index for index, step in enumerate(steps) if "fp32" in (step[2], steps[index - 1][2] if index else FP16)]
    assert {f"op_{index}" for index in fp32} == inside | border


RULE = """\
schema_version = 1

[[rules]]
id = "rank"
title = "few axes"
check = "rank"
severity = "error"
basis = "apple"
parameters = { most = 5 }
remedy = "reshape"
sources = ["https://example.org"]
"""


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ("schema_version = 1", "schema_version = 2", "schema_version", "1"),
        ('id = "rank"\n', "", "rules[0].id", "a name"),
        ('check = "rank"', 'check = "renk"', "rules[0].check", "did you mean 'rank'"),
        ('"error"', '"fatal"', "rules[0].severity", "error, warning, note"),
        ('"apple"', '"hearsay"', "rules[0].basis", "apple, measured, tables"),
        ("{ most = 5 }", "{}", "rules[0].parameters.most", "a whole number"),
        ("{ most = 5 }", '{ most = "5" }', "rules[0].parameters.most", "a whole number"),
        ("{ most = 5 }", "{ most = 5, least = 1 }", "rules[0].parameters.least", "most"),
        ("parameters = { most = 5 }\n", "", "rules[0].parameters", "a table"),
        ('remedy = "reshape"', "", "rules[0].remedy", "a line of text"),
        ('["https://example.org"]', "[]", "rules[0].sources", "at least one source"),
        ('sources = ["https://example.org"]', "", "rules[0].sources", "a list"),
        ('remedy = "reshape"', 'remedy = "reshape"\nremedies = "x"', "rules[0].remedies", "did you mean"),
        ('remedy = "reshape"', 'remedy = "x"\nfeatures.wide = { least = 9 }', "rules[0].features.wide.most", "a whole"),
        ('remedy = "reshape"', 'remedy = "x"\nunless_rules = ["axis"]', "rules[0].unless_rules", "of: none"),
        ("[[rules]]", "rool = 1\n[[rules]]", "rool", "rules"),
    ],
)
def test_a_wrong_rule_names_file_key_and_what_belongs_there(
    tmp_path: Path, old: str, new: str, key: str, expected: str
) -> None:
    """Rules are data that people edit: a slip is one clear error."""
    assert old in RULE
    path = tmp_path / "rules.toml"
    path.write_text(RULE.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_rules(path)
    assert caught.value.what.startswith(f"key {key}: ")
    assert expected in caught.value.expected
    assert caught.value.where == str(path)


def test_the_same_rule_twice_no_toml_and_no_file_are_errors(tmp_path: Path) -> None:
    """As is what cannot be read at all."""
    path = tmp_path / "rules.toml"
    path.write_text(RULE + RULE.partition("\n\n")[2])
    with pytest.raises(InputError, match="'rank' is taken"):
        load_rules(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="cannot read the rules"):
        load_rules(path)
    with pytest.raises(InputError, match="cannot read the rules"):
        load_rules(tmp_path / "absent.toml")


def test_the_table_in_the_docs_is_that_of_the_rules() -> None:
    """Every rule with its severity and basis, in order."""
    text = (DOCS / "runtimes" / "coreml-neural-engine.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| (\w+) \|", text, re.MULTILINE)
    assert listed == [(rule.id, rule.severity, rule.basis) for rule in rules()]


# --- Packages that coremltools wrote -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def save_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Any, Any], Any]], MilProgram]:
    """Writes a network of coremltools' builder over ``images`` (1, 3, 56, 56) as a package, and reads it back."""
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import types

    def save(name: str, network: Callable[[Any, Any], Any]) -> MilProgram:
        path = tmp_path_factory.mktemp("ane") / f"{name}.mlpackage"
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                spec = Builder.TensorSpec((1, 3, 56, 56), types.fp32)
                program = Builder.program(input_specs=[spec], opset_version=ct.target.iOS18)(
                    lambda x: network(Builder, x)
                )
                model = ct.convert(
                    program,
                    convert_to="mlprogram",
                    minimum_deployment_target=ct.target.iOS18,
                    compute_precision=ct.precision.FLOAT32,
                    pass_pipeline=ct.PassPipeline.EMPTY,
                    skip_model_load=True,
                )
                model.save(str(path))
        finally:
            logging.disable(logging.NOTSET)
        return load_program(path)

    return save


def half(*shape: int) -> np.ndarray[Any, Any]:
    return np.full(shape, 0.01, np.float16)


def encoder(mb: Any, x: Any) -> Any:
    """Patches, a scaled and a palettised linear, attention, an FP32 island, an FP32 head: a small VGGT in shape."""
    from coremltools.converters.mil.mil import types

    x = mb.cast(x=x, dtype="fp16", name="enter")
    x = mb.conv(x=x, weight=half(64, 3, 14, 14), strides=[14, 14], pad_type="valid", name="patch_embed__conv")
    x = mb.reshape(x=x, shape=[1, 64, 16], name="tokens")
    x = mb.transpose(x=x, perm=[0, 2, 1], name="tokens_last")
    blocks = np.zeros((192, 64), np.int8).astype(types.nptype_from_builtin(types.int4))
    qkv = mb.constexpr_blockwise_shift_scale(data=blocks, scale=half(192, 2), name="blocks_0__attn_qkv__weight")
    x = mb.linear(x=x, weight=qkv, name="blocks_0__attn_qkv__linear")
    q, k, v = mb.split(x=x, num_splits=3, axis=-1, name="blocks_0__attn__split")
    x = mb.scaled_dot_product_attention(query=q, key=k, value=v, name="blocks_0__attn__sdpa")
    indices = np.zeros((64, 64), np.uint8).astype(types.nptype_from_builtin(types.uint4))
    table = mb.constexpr_lut_to_dense(indices=indices, lut=half(4, 1, 16, 1), name="blocks_0__attn_proj__weight")
    x = mb.linear(x=x, weight=table, name="blocks_0__attn_proj__linear")
    x = mb.cast(x=x, dtype="fp32", name="blocks_0__norm2__up")
    x = mb.layer_norm(x=x, axes=[-1], name="blocks_0__norm2__layer_norm")
    x = mb.cast(x=x, dtype="fp16", name="blocks_0__norm2__down")
    per_channel = mb.constexpr_blockwise_shift_scale(
        data=np.zeros((64, 64), np.int8), scale=half(64, 1), name="blocks_0__mlp_fc1__weight"
    )
    x = mb.linear(x=x, weight=per_channel, name="blocks_0__mlp_fc1__linear")
    x = mb.cast(x=x, dtype="fp32", name="leave")
    return mb.exp(x=x, name="depth")


def test_a_saved_package_is_judged_as_it_was_built(save_package: Callable[..., MilProgram]) -> None:
    """Blocks, palettes, islands and borders are read from the file, with nothing known beside it."""
    program = save_package("encoder", encoder)
    found = audit(program, PHONE, ("patch_embed", "blocks.0"))
    at = {rule: [each.op for each in of_rule(found, rule)] for rule in RULES}
    assert at["fp32"] == [f"blocks_0__norm2__{each}" for each in ("up", "layer_norm", "down")]
    assert at["fp32-border"] == ["enter", "leave", "depth"]
    assert at["blockwise-weights"] == ["blocks_0__attn_qkv__weight"]
    assert at["small-attention"] == ["blocks_0__attn__sdpa"]
    assert at["conv-stride"] == ["patch_embed__conv"]
    assert at["moved-last-axis"] == ["tokens_last"]
    assert len(at["linear"]) == 3
    assert not [each for each in found if each.rule in ("unknown-op", "doubtful-op", "palette-groups", "rank", "axis")]
    assert {each.block for each in of_rule(found, "fp32")} == {"blocks.0"}
    assert {each.rule for each in audit(program, HEADSET)} == {each.rule for each in found} | {"conv-kernel"}
    with pytest.raises(LoweringError, match="4 findings"):
        enforce(found)


def test_a_clean_package_passes_the_strict_audit(save_package: Callable[..., MilProgram]) -> None:
    """Nothing but FP16, per-channel weights and a border: no error, and the check passes."""

    def network(mb: Any, x: Any) -> Any:
        x = mb.cast(x=x, dtype="fp16", name="enter")
        x = mb.conv(x=x, weight=half(64, 3, 4, 4), strides=[4, 4], pad_type="valid", name="conv")
        x = mb.gelu(x=x, mode="EXACT", name="gelu")
        return mb.cast(x=x, dtype="fp32", name="leave")

    found = audit(save_package("clean", network), PHONE)
    enforce(found)
    assert {each.rule for each in found} == {"fp32-border"}
    assert as_check(found, PHONE).status == "passed"


def test_axes_and_gathers_are_seen_in_a_saved_package(save_package: Callable[..., MilProgram]) -> None:
    """Constant indices are no integers at run time; an axis too long is reported where it is written and read."""

    def network(mb: Any, x: Any) -> Any:
        x = mb.cast(x=x, dtype="fp16", name="enter")
        x = mb.conv(x=x, weight=half(128, 3, 4, 4), strides=[4, 4], pad_type="valid", name="conv")
        x = mb.reshape(x=x, shape=[1, 25088], name="flat")
        x = mb.reshape(x=x, shape=[1, 128, 196], name="back")
        return mb.gather(x=x, indices=np.array([0, 2, 4], np.int32), axis=1, name="picked")

    program = save_package("shapes", network)
    wanted = ("axis", "doubtful-op", "element-type")
    for profile, long in ((PHONE, []), (HEADSET, [("axis", "flat"), ("axis", "back")])):
        found = audit(program, profile)
        assert [(each.rule, each.op) for each in found if each.rule in wanted] == [*long, ("doubtful-op", "picked")]

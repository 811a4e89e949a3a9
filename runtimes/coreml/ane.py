"""Neural Engine audit: what in a saved program keeps it off Apple's Neural Engine, by rules that are data.

Core ML decides on the device where an operation runs, and falls back without a word. No Mac is needed here, so this is
a prediction from published facts and never a placement. docs/runtimes/coreml-neural-engine.md says how far to trust it.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.devices.fields import Table
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import Check, Finding
from vggt_edge.runtimes.coreml.ane_checks import OPERATION_CHECKS, PROGRAM_CHECKS, View, runs, view
from vggt_edge.runtimes.coreml.mil import MilProgram
from vggt_edge.runtimes.coreml.mil_graph import mil_name

NAME = "Neural Engine audit"
RULES_FILE = Path(__file__).with_name("ane_rules.toml")
SCHEMA_VERSION = 1
SEVERITIES = ("error", "warning", "note")
BASES = ("apple", "measured", "tables")
_LISTED = 20
_OPTIONAL = ("parameters", "features", "unless_feature", "unless_rules")


@dataclass(frozen=True)
class Rule:
    """One table of ``ane_rules.toml``, whose head explains the fields."""

    id: str
    title: str
    check: str
    severity: str
    basis: str
    parameters: Mapping[str, Any]
    features: Mapping[str, Mapping[str, Any]]
    unless_feature: str | None
    unless_rules: tuple[str, ...]
    remedy: str
    sources: tuple[str, ...]

    def limits(self, profile: DeviceProfile) -> Mapping[str, Any] | None:
        """What to compare with on this device; None where the rule does not hold."""
        if self.unless_feature is not None and self.unless_feature in profile.features:
            return None
        limits = dict(self.parameters)
        for feature, changed in self.features.items():
            if feature in profile.features:
                limits |= changed
        return limits


def audit(program: MilProgram, profile: DeviceProfile, blocks: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """Everything that the rules object to, in the order of the rules, then of the program.

    blocks: names of the model's blocks, for ``Finding.block``. Nothing for a device whose artifact is not made for the
    Neural Engine.
    """
    if profile.compute_units != "neural_engine":
        return ()
    seen = view(program)
    found: list[Finding] = []
    for rule in rules():
        limits = rule.limits(profile)
        if limits is not None:
            known = {each.op for each in found if each.rule in rule.unless_rules}
            found += (
                Finding(
                    rule.id, op, kind, block_of(op, blocks), what, rule.remedy, "; ".join(rule.sources), rule.severity
                )
                for op, kind, what in _find(rule, limits, seen)
                if op not in known
            )
    return tuple(found)


def _find(rule: Rule, limits: Mapping[str, Any], seen: View) -> Iterator[tuple[str, str, str]]:
    """(operation, its type, what is wrong) for each one that breaks the rule."""
    if rule.check in PROGRAM_CHECKS:
        what = PROGRAM_CHECKS[rule.check][0](seen.program, limits)
        if what is not None:
            yield "main", "program", what
        return
    check = OPERATION_CHECKS[rule.check]
    for operation in seen.program.operations:
        if check.everywhere or (runs(operation) and not seen.in_border(operation)):
            what = check.find(operation, seen, limits)
            if what is not None:
                yield operation.name, operation.type, what


def as_check(findings: Iterable[Finding], profile: DeviceProfile) -> Check:
    """The audit as a line of the report: ``failed`` with errors, else ``passed``; ``not_run`` for other compute units.

    figures: how many errors, warnings and notes, and how many findings of each rule that found something.
    """
    if profile.compute_units != "neural_engine":
        unit = profile.compute_units or "another kind of hardware"
        return Check(NAME, "not_run", f"{profile.name} is made for: {unit}", {})
    found = tuple(findings)
    severities = Counter(each.severity for each in found)
    counts = {f"{severity}s": severities[severity] for severity in SEVERITIES}
    lines = [", ".join(f"{count} {name}" for name, count in counts.items()) + "; a prediction, not a placement"]
    lines += _by_rule(found)
    status = "failed" if severities["error"] else "passed"
    return Check(NAME, status, "\n".join(lines), {**counts, **Counter(each.rule for each in found)})


def _by_rule(findings: tuple[Finding, ...]) -> Iterator[str]:
    """One line for each rule that found something: how often, the first operation, and what to do."""
    first = {each.rule: each for each in reversed(findings)}
    counts = Counter(each.rule for each in findings)
    for rule in rules():
        if rule.id in counts:
            example = f"{first[rule.id].op}: {first[rule.id].what}"
            yield f"{rule.severity} {rule.id}, {counts[rule.id]}x, first {example}. Next: {rule.remedy}"


def enforce(findings: Iterable[Finding], where: str = "") -> None:
    """``LoweringError`` that lists the findings of severity error, at most twenty; for ``--strict-ane``."""
    errors = [each for each in findings if each.severity == "error"]
    if not errors:
        return
    lines = [str(each) for each in errors[:_LISTED]]
    if len(errors) > _LISTED:
        lines.append(f"and {len(errors) - _LISTED} more")
    raise LoweringError(
        f"{len(errors)} findings keep the model off the Neural Engine:\n    " + "\n    ".join(lines),
        where=where,
        expected="a program within docs/runtimes/coreml-neural-engine.md",
        remedy="; ".join(dict.fromkeys(each.remedy for each in errors)) + "; or leave out --strict-ane",
    )


def block_of(op_name: str, blocks: Iterable[str]) -> str:
    """The block that an operation belongs to, by its name in MIL; empty if none. The longest name that fits wins."""
    fitting = [block for block in blocks if (op_name + "__").startswith(mil_name(block) + "__")]
    return max(fitting, key=len, default="")


@cache
def rules() -> tuple[Rule, ...]:
    """The rules of ``ane_rules.toml``, read once."""
    return load_rules(RULES_FILE)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file in its order. ``InputError`` names the file, the key and what belongs there."""
    expected = "rules in TOML (docs/runtimes/coreml-neural-engine.md)"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the rules: {error}", where=str(path), expected=expected) from error
    table = Table(raw, str(path))
    if table.integer("schema_version") != SCHEMA_VERSION:
        table.fail("schema_version", "is not one that this version reads", str(SCHEMA_VERSION))
    loaded: dict[str, Rule] = {}
    for entry in table.tables("rules"):
        rule = _rule(entry)
        if rule.id in loaded:
            entry.fail("id", f"{rule.id!r} is taken", "an id that no other rule has")
        if late := sorted({*rule.unless_rules} - {*loaded}):
            entry.fail("unless_rules", f"{late[0]!r} is no earlier rule", f"of: {', '.join(loaded) or 'none'}")
        loaded[rule.id] = rule
    table.done()
    return tuple(loaded.values())


def _rule(table: Table) -> Rule:
    check = table.choice("check", (*OPERATION_CHECKS, *PROGRAM_CHECKS))
    wanted = OPERATION_CHECKS[check].parameters if check in OPERATION_CHECKS else PROGRAM_CHECKS[check][1]
    features = table.table("features") if table.has("features") else None
    rule = Rule(
        id=table.name("id"),
        title=table.text("title"),
        check=check,
        severity=table.choice("severity", SEVERITIES),
        basis=table.choice("basis", BASES),
        parameters=_parameters(table.table("parameters"), wanted) if wanted or table.has("parameters") else {},
        features={name: _parameters(features.table(name), wanted) for name in features.names()} if features else {},
        unless_feature=table.name("unless_feature") if table.has("unless_feature") else None,
        unless_rules=table.texts("unless_rules", names=True) if table.has("unless_rules") else (),
        remedy=table.text("remedy"),
        sources=table.texts("sources"),
    )
    if not rule.sources:
        table.fail("sources", "is empty", "at least one source")
    table.done(_OPTIONAL)
    return rule


def _parameters(table: Table, wanted: Mapping[str, bool]) -> Mapping[str, Any]:
    """The values that a check compares with: whole numbers, and lists of names."""
    values = {
        name: frozenset(table.texts(name, names=True)) if is_list else table.integer(name)
        for name, is_list in wanted.items()
    }
    table.done()
    return MappingProxyType(values)

"""The precision plan: one scheme per block, with the reason for each choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from vggt_edge.calibration.scheme import SCHEMES, Activation, Scheme, scheme
from vggt_edge.devices.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Assignment:
    """What one block gets. ``predicted_*`` are the planner's estimates, not measurements.

    excluded: names, relative to the block, of linears that get the plan's ``excluded_scheme``.
    """

    block: str
    scheme: str
    reason: str
    predicted_error: float
    weight_bytes: int
    predicted_latency_ms: float
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrecisionPlan:
    """Total over the model's blocks. ``rest_scheme`` is what everything outside the blocks is stored as."""

    model_digest: str
    stats_digest: str
    target: str
    group_size: int
    assignments: tuple[Assignment, ...]
    rest_scheme: str = "fp16"
    rest_bytes: int = 0
    notes: tuple[str, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION

    def assignment(self, block: str) -> Assignment:
        for assignment in self.assignments:
            if assignment.block == block:
                return assignment
        raise KeyError(block)

    def scheme_of(self, block: str) -> Scheme:
        return SCHEMES[self.assignment(block).scheme]

    @property
    def excluded_scheme(self) -> Scheme:
        """What excluded layers get: the rest scheme, or FP32 where that quantizes activations."""
        rest = scheme(self.rest_scheme)
        return rest if rest.activation is Activation.NONE else SCHEMES["fp32"]

    @property
    def weight_bytes(self) -> int:
        return self.rest_bytes + sum(assignment.weight_bytes for assignment in self.assignments)

    @property
    def predicted_latency_ms(self) -> float:
        return sum(assignment.predicted_latency_ms for assignment in self.assignments)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical: sorted keys, fixed layout, the same bytes for the same plan."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "plan.json") -> PrecisionPlan:
        """Read a plan back; ``InputError`` says which field is wrong."""
        try:
            raw: dict[str, Any] = json.loads(text)
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version {raw['schema_version']}")
            raw["assignments"] = tuple(
                Assignment(**{**entry, "excluded": tuple(entry["excluded"])}) for entry in raw["assignments"]
            )
            raw["notes"] = tuple(raw["notes"])
            plan = cls(**raw)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"not a precision plan: {error}",
                where=where,
                expected=f"a plan of schema version {SCHEMA_VERSION}, as `vggt-edge plan` writes it",
            ) from error
        plan.check_schemes(where)
        return plan

    def check_schemes(self, where: str) -> None:
        for assignment in self.assignments:
            if assignment.scheme not in SCHEMES:
                raise InputError(
                    f"block {assignment.block} asks for unknown scheme {assignment.scheme!r}",
                    where=where,
                    expected=f"one of: {', '.join(SCHEMES)}",
                )

    def check_total(self, blocks: Iterable[str], *, where: str = "plan") -> None:
        """Every block has exactly one assignment, and no assignment lacks its block."""
        wanted, got = list(blocks), [assignment.block for assignment in self.assignments]
        missing, unknown = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
        twice = sorted({block for block in got if got.count(block) > 1})
        if missing or unknown or twice:
            raise InputError(
                f"the plan does not match the model: missing {missing}, unknown {unknown}, assigned twice {twice}",
                where=where,
                expected="one assignment for each block of the model",
                remedy="make the plan anew with `vggt-edge plan`",
            )

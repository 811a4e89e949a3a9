"""The precision plan: one scheme per block, with the reason for each choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Literal

from vggt_edge.calibration.documents import Count, Finite, read_document
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES, Numbers, Scheme, scheme
from vggt_edge.devices.errors import InputError

SCHEMA_VERSION: Literal[2] = 2


@dataclass(frozen=True)
class Assignment:
    """What one block gets. ``predicted_*`` are the planner's estimates, not measurements.

    excluded: names, relative to the block, of layers that are kept in the plan's ``kept_scheme``.
    """

    block: str
    scheme: str
    reason: str
    predicted_error: Finite
    weight_bytes: Count
    predicted_latency_ms: Finite
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrecisionPlan:
    """Total over the model's blocks.

    rest_scheme: what everything outside the blocks is stored as. kept_scheme: what excluded layers are stored as.
    """

    model_digest: str
    stats_digest: str
    target: str
    group_size: int
    assignments: tuple[Assignment, ...]
    rest_scheme: str = "fp16"
    rest_bytes: Count = 0
    kept_scheme: str = "fp16"
    notes: tuple[str, ...] = field(default=())
    schema_version: Literal[2] = SCHEMA_VERSION

    def assignment(self, block: str) -> Assignment:
        for assignment in self.assignments:
            if assignment.block == block:
                return assignment
        raise KeyError(block)

    def scheme_of(self, block: str) -> Scheme:
        return SCHEMES[self.assignment(block).scheme]

    def is_kept(self, block: str, path: str) -> bool:
        """Whether the layer at ``path`` in ``block``, or what it is a part of, is excluded from the block's scheme."""
        return any(f"{path}.".startswith(f"{name}.") for name in self.assignment(block).excluded)

    def form_of(self, block: str, path: str, shape: LayerShape) -> Form:
        """What the layer at ``path`` in ``block`` gets."""
        kept = scheme(self.kept_scheme) if self.is_kept(block, path) else None
        return Form.of(self.scheme_of(block), shape, self.group_size, kept)

    def attention_of(self, block: str, path: str) -> Numbers | None:
        """Numbers that both products of the attention at ``path`` multiply; None for floats.

        Where a layer of the same module is excluded, its products stay in floats, too.
        """
        module = f"{path.rpartition('.')[0]}."
        excluded = (f"{name}." for name in self.assignment(block).excluded)
        is_kept = any(name.startswith(module) or module.startswith(name) for name in excluded)
        return None if is_kept else self.scheme_of(block).attention

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
        plan = read_document(
            cls,
            text,
            what="a precision plan",
            where=where,
            expected=f"a plan of schema version {SCHEMA_VERSION}, as `vggt-edge plan` writes it",
            remedy="make the plan anew with `vggt-edge plan`",
        )
        plan.check_schemes(where)
        return plan

    def check_schemes(self, where: str) -> None:
        """``InputError`` names what asks for a scheme that does not exist."""
        asked = {f"block {one.block}": one.scheme for one in self.assignments}
        for what, name in (asked | {"rest_scheme": self.rest_scheme, "kept_scheme": self.kept_scheme}).items():
            if name not in SCHEMES:
                raise InputError(
                    f"{what} asks for unknown scheme {name!r}",
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

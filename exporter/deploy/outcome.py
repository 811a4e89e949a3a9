"""What came of a deployment, for each device and for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vggt_edge.devices.errors import BY_EXIT_CODE, ResourceError, VggtEdgeError
from vggt_edge.exporter.deploy.address import Address
from vggt_edge.exporter.deploy.files import Transfer
from vggt_edge.exporter.deploy.survey import Survey
from vggt_edge.exporter.deploy.tegrastats import Telemetry
from vggt_edge.exporter.device_report import DeviceReport

State: TypeAlias = Literal["passed", "failed", "not_judged", "not_run"]

LONGEST_LOG = 20_000  # lines
TIMED_OUT = 124
_SIGNALED = 128
_KILLED = 137
_MEANINGS = {
    2: "it refused its arguments or files",
    3: "its toolchain is missing or too old",
    4: "an output is too far from the simulation",
    6: "the build failed, or a block lost its precision",
    7: "memory or disk did not suffice",
}


@dataclass
class Attempt:
    """One device while it is worked on: filled step by step, so that a failure keeps what was found before it.

    - survey: of an SSH board.
    - to_send_bytes: what the board lacks.
    - result: content of ``result.json``; report: the same, read and checked.
    - log: what the kit printed, the last lines.
    - error: what ended the attempt; None: it went to its end.
    """

    address: Address
    survey: Survey | None = None
    to_send_bytes: int | None = None
    transfer: Transfer | None = None
    telemetry: Telemetry | None = None
    result: bytes = b""
    report: DeviceReport | None = None
    log: list[str] = field(default_factory=list)
    error: VggtEdgeError | None = None

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error else 0

    @property
    def state(self) -> State:
        """``passed``, ``failed`` or ``not_judged`` as the device says; ``failed`` too where a precision was lost."""
        if self.report is None or (self.error is not None and self.report.status != "failed"):
            return "failed" if self.error else "not_run"
        return self.report.status

    def print(self, line: str) -> None:
        """Keep a line of the kit."""
        self.log.append(line)
        del self.log[: max(0, len(self.log) - LONGEST_LOG)]


def exit_code_of(attempts: Sequence[Attempt]) -> int:
    """Of the first device, in the order given, that failed."""
    return next((attempt.exit_code for attempt in attempts if attempt.exit_code), 0)


def kit_error(code: int, log: Sequence[str], where: str, limit_s: float | None) -> VggtEdgeError | None:
    """What the exit code of a kit means; None for 0. log: of which the kit's own error is quoted."""
    if code == 0:
        return None
    said = [line.removeprefix("error: ") for line in log if line.startswith("error: ")]
    detail = f": {said[-1]}" if said else ""
    if code == TIMED_OUT:
        return ResourceError(
            f"the kit was ended after {limit_s:g} s" if limit_s else "the kit was ended by its time limit",
            where=where,
            remedy="a longer --time-limit: an engine takes minutes to build",
        )
    if code == _KILLED:
        return ResourceError(
            "the kit was killed (SIGKILL): the board had no memory left, as a rule",
            where=where,
            remedy="close other programs there, or add swap for the build",
        )
    what = _MEANINGS.get(code, f"ended by signal {code - _SIGNALED}" if code > _SIGNALED else "an unknown code")
    return BY_EXIT_CODE.get(code, VggtEdgeError)(
        f"the kit failed with exit code {code}, {what}{detail}",
        where=where,
        remedy="read what the kit printed: above, and in kit.log",
    )

"""The protocol that every backend implements, and the frozen types that pass through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.profile import DeviceProfile

if TYPE_CHECKING:  # listing the backends must not cost the import of torch
    import torch

    from vggt_edge.calibration.metrics.output import Output

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Availability:
    """Whether a backend can work on this machine; if not, why, and what would change that."""

    ok: bool
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class AnnotatedGraph:
    """The one QDQ-annotated graph that every backend lowers.

    program: makes the annotated ExportedProgram of the whole model (quantized_decomposed and torchao ops), which holds
    all its quantized weights: call it once, and only where the ONNX form will not do.
    onnx_path: its QDQ ONNX form; weights in ``<name>.data`` beside it. Compute type FP32.
    blocks: names of the blocks; ONNX nodes are named ``<block>/<module path in block>/<op type>[_n]``.
    fp32_blocks: blocks and other module names which the headroom scan wants computed in FP32 on an FP16 device.
    outputs: what the model declares of each output; empty where only a graph is known. about: the model, in a line.
    """

    program: Callable[[], torch.export.ExportedProgram]
    onnx_path: Path
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    blocks: tuple[str, ...]
    fp32_blocks: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Options:
    """What one lowering may be asked for beside the plan; a backend lists in ``options`` those that it knows.

    image_input: take every frame as an image of 8 bits per channel. strict_ane: refuse what the Neural Engine would
    hand to another processor.
    """

    image_input: bool = False
    strict_ane: bool = False

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of those that are not at their default."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Realised:
    """What one block asked for and what the artifact holds. ``how`` names the evidence."""

    block: str
    asked: str
    realised: str
    how: str


@dataclass(frozen=True)
class Check:
    """A check that a backend made while lowering: ``passed``, ``failed`` or ``not_run``, with figures."""

    name: str
    status: str
    detail: str
    figures: Mapping[str, float | int | str]


@dataclass(frozen=True)
class Finding:
    """One operation that breaks one rule of an audit; ``main`` stands for the program.

    block: empty where the name tells none. source: of the rule. severity: ``error``, ``warning`` or ``note``.
    """

    rule: str
    op: str
    op_type: str
    block: str
    what: str
    remedy: str
    source: str
    severity: str

    def __str__(self) -> str:
        return f"{self.op}: {self.what} ({self.rule}; {self.remedy})"


@dataclass(frozen=True)
class Lowered:
    """Files (relative to the output folder), precision per block, checks made on the way, findings of audits."""

    backend: str
    files: tuple[str, ...]
    realised: tuple[Realised, ...]
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()


class Session(Protocol):
    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the artifact once. Raises ``InputError`` for a wrong name, shape or dtype."""
        ...


@dataclass(frozen=True)
class Executor:
    """Something on this machine that runs the artifact of a backend.

    subject: its name in reports. how: what computes, for readers. open: of a folder that ``lower`` filled.
    """

    subject: str
    how: str
    open: Callable[[Path], Session]


class Backend(Protocol):
    """One per file or folder of ``runtimes``; SDK imports stay inside its methods."""

    name: str
    options: frozenset[str]

    def availability(self) -> Availability: ...

    def schemes(self, profile: DeviceProfile) -> tuple[str, ...]: ...

    def lower(
        self,
        graph: AnnotatedGraph,
        plan: PrecisionPlan,
        profile: DeviceProfile,
        out_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> Lowered: ...

    def executors(self) -> tuple[Executor, ...]:
        """What can run its artifacts here, beside ONNX Runtime, which runs the graph that they were made from."""
        ...

    def open(self, bundle: Path) -> Session: ...

    def write_golden(self, bundle: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> None:
        """Put what the device kit replays and compares with beside it; nothing for a backend without a kit."""
        ...

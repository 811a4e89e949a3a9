"""The protocol that every backend implements, and the frozen types that pass through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.profile import DeviceProfile

if TYPE_CHECKING:  # listing the backends must not cost the import of torch
    import torch

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
    """

    program: Callable[[], torch.export.ExportedProgram]
    onnx_path: Path
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    blocks: tuple[str, ...]
    fp32_blocks: tuple[str, ...] = ()


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
class Lowered:
    """Files (relative to the output folder), precision per block, checks made on the way."""

    backend: str
    files: tuple[str, ...]
    realised: tuple[Realised, ...]
    checks: tuple[Check, ...] = ()


class Session(Protocol):
    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the artifact once. Raises ``InputError`` for a wrong name, shape or dtype."""
        ...


class Backend(Protocol):
    """One per file or folder of ``runtimes``; SDK imports stay inside its methods."""

    name: str

    def availability(self) -> Availability: ...

    def schemes(self, profile: DeviceProfile) -> tuple[str, ...]: ...

    def lower(self, graph: AnnotatedGraph, plan: PrecisionPlan, profile: DeviceProfile, out_dir: Path) -> Lowered: ...

    def open(self, bundle: Path) -> Session: ...

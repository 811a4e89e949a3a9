"""A ``.pte``, run by the kernels of a phone's processor: one process under QEMU per run."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import InputError, ResourceError, ToolchainError
from vggt_edge.runtimes.base import Arrays, Session
from vggt_edge.runtimes.executorch.arm.build import PROCESSORS, SWITCHED_ON, ArmBuild
from vggt_edge.runtimes.executorch.files import PROGRAM
from vggt_edge.runtimes.executorch.model_file import checked_model

# vggt-mini runs in two seconds; the emulator is some thirty times slower than this processor.
TIMEOUT_S, TIMEOUT_S_PER_GB = 600.0, 36_000.0
_NAME = "the ARM build of ExecuTorch"


class ArmSession(Session):
    """One program. ``run`` gives float32 arrays by output name."""

    def __init__(self, folder: Path, feature: str, build: ArmBuild | None = None) -> None:
        """folder: that of the program. feature: of the processor, one of ``PROCESSORS``. build: Android's by default.

        ``InputError`` for files that are missing, damaged or of another export, and for weights outside of the program;
        ``ToolchainError`` where the build is not set up.
        """
        self._build, self._processor = build or ArmBuild.of_android(), PROCESSORS[feature]
        state = self._build.availability()
        if not state.ok:
            raise ToolchainError(f"{_NAME} cannot run here: {state.reason}", remedy=state.remedy)
        self._model, self._program = checked_model(folder), folder / PROGRAM
        if self._model.weights_sha256 is not None:
            raise InputError(
                "Android's library takes no weights beside the program",
                where=str(folder),
                expected="an export with its weights inside",
                remedy="export again without --external-weights",
            )
        self._timeout_s = TIMEOUT_S + TIMEOUT_S_PER_GB * self._program.stat().st_size / 1e9

    @property
    def where(self) -> str:
        return str(self._program)

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return MappingProxyType({one.name: one.shape for one in self._model.inputs})

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """In a process of its own. ``ToolchainError`` for a refusal or a crash."""
        (given,) = self._model.inputs
        with tempfile.TemporaryDirectory(prefix="vggt-edge-arm-") as name:
            folder = Path(name)
            np.ascontiguousarray(inputs[given.name], "<f4").tofile(folder / "input")
            paths = (str(self._program), str(folder / "input"), name)
            self._execute(self._build.command(self._processor, *paths, *map(str, given.shape)))
            return {
                one.name: np.fromfile(folder / str(index), "<f4").reshape(one.shape)
                for index, one in enumerate(self._model.outputs)
            }

    def _execute(self, command: list[str]) -> None:
        where = str(self._program)
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            raise ResourceError(
                f"{_NAME} gave no result within {self._timeout_s:g} s", where=where, remedy="use a faster machine"
            ) from None
        last = "\n".join(done.stderr.splitlines()[-10:])
        if done.returncode:
            status = done.returncode
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            raise ToolchainError(
                f"{_NAME} ended with {how} on {self._processor}\n{last}",
                where=where,
                remedy="export it again; if it stays, report it",
            )
        if SWITCHED_ON not in done.stderr:
            raise ToolchainError(
                f"{_NAME} did not ask whether the weights cache is on, so this run says nothing about a phone\n{last}",
                where=where,
                remedy="report it with the version of ExecuTorch",
            )

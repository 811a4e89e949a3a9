"""A ``.pte``, run by ExecuTorch on this CPU in a worker process that loads it once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vggt_edge.runtimes.base import Arrays, Session
from vggt_edge.runtimes.executorch.files import INPUTS, OUTPUTS, PROGRAM, WEIGHTS
from vggt_edge.runtimes.executorch.model_file import ModelFile, checked_model
from vggt_edge.runtimes.executorch.process import INSTALLED, Build, Worker

# vggt-mini loads and runs in a second, VGGT-1B in some minutes: ten times that is a hang.
TIMEOUT_S, TIMEOUT_S_PER_GB = 120.0, 3600.0


@dataclass(frozen=True)
class Ran:
    """Outputs by name, the seconds of every repetition, and the most memory that the process had so far."""

    outputs: Mapping[str, npt.NDArray[np.float32]]
    seconds: tuple[float, ...]
    peak_memory_bytes: int


class ExecuTorchSession(Session):
    """One program. ``run`` gives float32 arrays by output name."""

    def __init__(self, folder: Path, timeout_s: float | None = None, build: Build = INSTALLED) -> None:
        """``folder``: that of the program. ``InputError`` for files that are missing, damaged or of another export."""
        self._model: ModelFile = checked_model(folder)
        weights = folder / WEIGHTS if self._model.weights_sha256 is not None else None
        size = sum(path.stat().st_size for path in (folder / PROGRAM, *([] if weights is None else [weights])))
        limit = TIMEOUT_S + TIMEOUT_S_PER_GB * size / 1e9 if timeout_s is None else timeout_s
        self._where = str(folder / PROGRAM)
        self._worker = Worker(folder / PROGRAM, weights, limit, build)

    @property
    def where(self) -> str:
        return self._where

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return MappingProxyType({one.name: one.shape for one in self._model.inputs})

    @property
    def load_seconds(self) -> float:
        return float(self._worker.loaded["load_seconds"])

    @property
    def before_bytes(self) -> int:
        """Resident size of the process before it loaded the program: Python, torch, and ExecuTorch itself."""
        return int(self._worker.loaded["before_bytes"])

    @property
    def loaded_bytes(self) -> int:
        """Resident size of the process when the program was loaded."""
        return int(self._worker.loaded["loaded_bytes"])

    @property
    def version(self) -> str:
        """Of the ExecuTorch that runs it."""
        return str(self._worker.loaded["version"])

    @property
    def log(self) -> str:
        """What native code has said so far."""
        return self._worker.log()

    @property
    def threads(self) -> int:
        return int(self._worker.loaded["threads"])

    def measure(self, inputs: Arrays, repeats: int = 1) -> Ran:
        """As ``run``, several times in a row, timed inside the worker."""
        self.check(inputs)
        return self._measured(inputs, repeats)

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return dict(self._measured(inputs, 1).outputs)

    def _measured(self, inputs: Arrays, repeats: int) -> Ran:
        with tempfile.TemporaryDirectory(prefix="vggt-edge-executorch-") as name:
            _save(Path(name) / INPUTS, [inputs[one.name] for one in self._model.inputs])
            answer = self._worker.run(Path(name), repeats)
            outputs = self._outputs(Path(name) / OUTPUTS)
        return Ran(outputs, tuple(answer["seconds"]), int(answer["peak_memory_bytes"]))

    def close(self) -> None:
        self._worker.close()

    def _outputs(self, path: Path) -> dict[str, npt.NDArray[np.float32]]:
        from safetensors.numpy import load_file

        arrays = load_file(path)
        return {one.name: arrays[str(index)] for index, one in enumerate(self._model.outputs)}


def _save(path: Path, arrays: list[npt.NDArray[np.float32]]) -> None:
    from safetensors.numpy import save_file

    save_file({str(index): np.ascontiguousarray(array) for index, array in enumerate(arrays)}, path)

"""A saved asset, run by Apple's own runtime: every run is a process of its own that compiles it anew."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import InputError, ToolchainError
from vggt_edge.runtimes.base import Arrays, Session
from vggt_edge.runtimes.common.process import Answer, Outcome
from vggt_edge.runtimes.coreai import sdk
from vggt_edge.runtimes.coreai.files import ASSET_FILES, HASH_FILE, INPUTS, OUTPUTS, PROGRAM_FILE

# vggt-mini takes 2 s from start to end, all blocks of VGGT-1B at half its width 17 s for 0.18 GB and 98 pixels: some
# twenty times that is a hang, or images so large that Core AI is no validator for them.
TIMEOUT_S, TIMEOUT_S_PER_GB = 120.0, 1200.0
_REMEDY = "export it again"
Figures = Mapping[str, float | int]


@dataclass(frozen=True)
class Ran:
    """Outputs by name, and seconds to compile (compile_seconds) and run (seconds), peak_memory_bytes."""

    outputs: Mapping[str, npt.NDArray[np.float32]]
    figures: Figures


def time_limit_s(asset: Path) -> float:
    """For compiling and one run: two minutes, and twenty more for each gigabyte."""
    return TIMEOUT_S + TIMEOUT_S_PER_GB * (asset / PROGRAM_FILE).stat().st_size / 1e9


def check_asset(asset: Path) -> None:
    """``InputError`` for an asset that is not all there, or whose program is not the one that was saved."""
    missing = [name for name in ASSET_FILES if not (asset / name).is_file()]
    if missing:
        raise InputError(
            f"there is no Core AI asset here: {', '.join(missing)} missing",
            where=str(asset),
            expected=f"a folder with {', '.join(ASSET_FILES)}",
            remedy=_REMEDY,
        )
    with (asset / PROGRAM_FILE).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    if (asset / HASH_FILE).read_bytes() != digest:
        raise InputError(
            f"{PROGRAM_FILE} is damaged or cut short",
            where=str(asset / PROGRAM_FILE),
            expected=f"the bytes whose SHA-256 is in {HASH_FILE}",
            remedy=_REMEDY,
        )


class CoreAISession(Session):
    """One asset. ``run`` gives float32 arrays by output name, the same bits every time."""

    def __init__(self, asset: Path, timeout_s: float | None = None) -> None:
        """``ToolchainError`` without Core AI; ``InputError`` for an asset that is not whole or cannot be read."""
        state = sdk.availability()
        check_asset(asset)
        if not state.ok:
            raise ToolchainError(f"{sdk.NAME} cannot run here: {state.reason}", remedy=state.remedy)
        self._asset = asset
        self._timeout_s = time_limit_s(asset) if timeout_s is None else timeout_s
        self._inputs, self.output_names = self._borders()

    @property
    def where(self) -> str:
        return str(self._asset)

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return MappingProxyType(self._inputs)

    def _borders(self) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
        """Names and shapes, as the asset's program has them."""
        answer = self._answer(sdk.ask("inspect", self._asset, timeout_s=self._timeout_s))
        inputs = {name: tuple(shape) for name, shape in answer["inputs"]}
        return inputs, tuple(name for name, _shape in answer["outputs"])

    def measure(self, inputs: Arrays) -> Ran:
        """As ``run``, with what it took."""
        self.check(inputs)
        return self._measured(inputs)

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return dict(self._measured(inputs).outputs)

    def _measured(self, inputs: Arrays) -> Ran:
        # Beside the asset there may be no room to write: outputs are small.
        with tempfile.TemporaryDirectory(prefix="vggt-edge-coreai-") as name:
            folder = Path(name)
            _save(folder / INPUTS, inputs)
            outcome = sdk.ask("run", self._asset, folder, timeout_s=self._timeout_s)
            answer = self._answer(outcome)
            return Ran(self._outputs(folder / OUTPUTS), answer)

    def _answer(self, outcome: Outcome) -> Answer:
        if outcome.answer is None:
            raise outcome.error(f"{sdk.NAME} did not run the asset", str(self._asset), InputError, _REMEDY)
        return outcome.answer

    def _outputs(self, path: Path) -> dict[str, npt.NDArray[np.float32]]:
        from safetensors.numpy import load_file

        outputs = load_file(path)
        return {name: outputs[name] for name in self.output_names}


def _save(path: Path, arrays: Arrays) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)

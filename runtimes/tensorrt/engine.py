"""Real engines, where this machine has TensorRT and an NVIDIA GPU: what the device kit does, done here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import BY_EXIT_CODE, LoweringError
from vggt_edge.runtimes.base import Arrays, Availability, Check, Session
from vggt_edge.runtimes.common.kit import kit_script

NAME = "TensorRT engine"
KIT = Path(__file__).parent / "kit"
SCRIPT = "build_and_verify.py"
BUILD_TIMEOUT_S = 3600.0
_FAILED = {4: "an output is too far from the simulation", 6: "the build failed or a block lost its precision"}


def kit_module() -> ModuleType:
    """The device script as a module: the same code runs here and there."""
    return kit_script(KIT / SCRIPT)


def availability(runtime: str = "tensorrt") -> Availability:
    """Whether TensorRT can be imported and a GPU be reached. runtime: name of the Python module."""
    kit = kit_module()
    try:
        kit.import_tensorrt(runtime)
        kit.Cuda()
    except kit.KitError as error:
        what, _, remedy = str(error).partition("\n  next: ")
        return Availability(False, what, remedy)
    return Availability(True)


def build_check(folder: Path, *, build_only: bool = True, timeout_s: float = BUILD_TIMEOUT_S) -> Check:
    """Run the kit of ``folder`` in a process of its own; ``not_run`` where this machine cannot."""
    ready = availability(kit_module().wanted_runtime(folder))
    if not ready.ok:
        return Check(NAME, "not_run", f"{ready.reason}; {ready.remedy}", {})
    output = folder / "result.json"
    command = [sys.executable, "-P", str(folder / SCRIPT), "--folder", str(folder), "--output", str(output)]
    try:
        finished = subprocess.run(
            command + ["--build-only"] * build_only,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Check(NAME, "not_run", f"no engine after {timeout_s:g} s", {})
    if finished.returncode == 0:
        engine = json.loads(output.read_text())["engine"]
        return Check(
            NAME, "passed", "built on this machine", {}, {"engine_bytes": engine["bytes"], "seconds": engine["build_s"]}
        )
    if finished.returncode in (3, 7):
        return Check(NAME, "not_run", finished.stderr.strip()[-2000:], {})
    what = _FAILED.get(finished.returncode, f"the build ended with {finished.returncode}")
    return Check(NAME, "failed", f"{what}\n{finished.stderr.strip()[-2000:]}", {})


class EngineSession(Session):
    """An engine built from a bundle's TensorRT folder and run on this machine's GPU; the bundle is left as it is."""

    def __init__(self, folder: Path) -> None:
        self._kit, self._folder = kit_module(), folder
        self._runner = self._call(self._load, folder)

    @property
    def where(self) -> str:
        return str(self._folder)

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self._runner.inputs.items()}

    def _load(self, folder: Path) -> Any:
        kit = self._kit
        trt = kit.import_tensorrt(kit.wanted_runtime(folder))
        description, cuda = kit.load_kit(folder), kit.Cuda()
        logger = kit.make_logger(trt)
        return kit.Runner(trt, cuda, logger, kit.build_engine(trt, logger, folder / description["model"]))

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return dict(self._call(self._runner.run, dict(inputs)))

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._kit.KitError as error:
            what, _, remedy = str(error).partition("\n  next: ")
            raise BY_EXIT_CODE.get(error.code, LoweringError)(what, where=NAME, remedy=remedy) from error

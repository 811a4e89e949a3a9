"""Fills the Android kit of a bundle: ``kit.json``, the golden tensors, the check over adb and the Gradle project."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggt_edge.calibration.scenes.framing import FIT, PixelCenters, Preprocess
from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.base import Arrays, Check
from vggt_edge.runtimes.common.kit import (
    BUILD_TIMEOUT_S,
    COMMON,
    check_input,
    check_outputs,
    check_plain_name,
    encoded,
    golden_tensors,
    preprocess_entry,
    read_kit,
    sha256,
    sources_under,
    try_build,
    write_bytes,
    write_json,
)
from vggt_edge.runtimes.common.kit import GOLDEN_FILE as GOLDEN_FILE
from vggt_edge.runtimes.common.kit import KIT_FILE as KIT_FILE
from vggt_edge.runtimes.common.kit import KitBlock as KitBlock
from vggt_edge.runtimes.common.kit import KitOutput as KitOutput

KIT = Path(__file__).parent / "kit"
PROJECT = "VGGTEdgeAndroid"
SCRIPTS = ("run_on_device.sh", "compare.py")
KIT_SCHEMA_VERSION = 1
INPUT_NAME = "images"
# What executor_runner is handed: the golden images as raw float32, little endian.
GOLDEN_INPUT = "golden/input_0.bin"
_NOT_COPIED = frozenset({"__pycache__", "build", "local.properties"})
_RUNNABLE = 0o755
# SQNR is kept within 200 dB, which stands for equal.
_MOST_DB = 200.0
_WIDEST_ANGLE = 180.0
_VERSION = re.compile(r"\d+\.\d+\.\d+")

CHECK_NAME = "Android kit compiles"
_TASKS = (":vggtedge:assembleRelease", ":vggtedge:testDebugUnitTest")
_GRADLE = ("gradle", "--no-daemon", "--console=plain", *_TASKS)


@dataclass(frozen=True)
class KitDescription:
    """What the app has to know of an exported model.

    program: name of the ``.pte`` in the kit's folder. weights: name of its ``.ptd``, None where the program holds its
    weights itself. planned_bytes: of ExecuTorch's planned buffers. outputs: in the order in which the program returns
    them. backend_sqnr_db_min: least SQNR of an output on the device against the simulation of the plan, None where that
    is not judged. pose_degrees_max: largest angle between the cameras of two frames, against the simulation; None where
    it is only reported. preprocess: how a picture becomes the input. pixel_centers: where the centre of the first pixel
    lies in a point cloud.
    """

    target: str
    plan_digest: str
    program: str
    executorch_version: str
    planned_bytes: int
    frames: int
    height: int
    width: int
    outputs: tuple[KitOutput, ...]
    blocks: tuple[KitBlock, ...]
    weights: str | None = None
    delegate: str = "xnnpack"
    backend_sqnr_db_min: float | None = None
    pose_degrees_max: float | None = None
    preprocess: Preprocess = FIT
    pixel_centers: PixelCenters = "half"


def write_kit(folder: Path, description: KitDescription) -> tuple[str, ...]:
    """Write everything but the model into ``folder``; the files' names relative to it, sorted.

    folder: holds the program and its weights already, whose sha256 goes into ``kit.json``. Raises ``InputError`` where
    one of them is missing or empty, or a field of the description is not one that the app understands.
    """
    _check_description(description, str(folder))
    write_json(folder / KIT_FILE, _content(folder, description))
    names = [KIT_FILE]
    for source in kit_sources():
        name = source.relative_to(KIT).as_posix()
        write_bytes(folder / name, source.read_bytes(), mode=_RUNNABLE if name in SCRIPTS else None)
        names.append(name)
    write_bytes(folder / COMMON.name, COMMON.read_bytes())
    return tuple(sorted((*names, COMMON.name)))


def kit_sources() -> tuple[Path, ...]:
    """The files of the kit as they are copied, sorted; what building in place leaves behind is not."""
    return sources_under(KIT, _NOT_COPIED)


def write_golden(folder: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> Path:
    """Write the golden tensors beside ``kit.json`` and list them there; the path of ``golden.safetensors``.

    Keys: ``input/images`` (1, S, 3, H, W); ``simulation/<name>`` (outputs of the quantized simulation, which the
    device is judged by); ``fp32/<name>`` (outputs of the FP32 model, for information). All float32, shapes as in
    ``kit.json``. The images once more as ``golden/input_0.bin``, raw and little endian, for executor_runner. Raises
    ``InputError`` for anything else, for NaN or infinity, and for a missing simulation of an output.
    """
    kit = read_kit(folder / KIT_FILE, KIT_SCHEMA_VERSION)
    path, raw = folder / GOLDEN_FILE, folder / GOLDEN_INPUT
    arrays = golden_tensors(kit, inputs, simulation, fp32, whole_levels=False, where=str(path))
    write_bytes(path, encoded(arrays))
    write_bytes(raw, np.ascontiguousarray(arrays[f"input/{INPUT_NAME}"], "<f4").tobytes())
    kit["golden"] = {
        "file": GOLDEN_FILE,
        "sha256": sha256(path),
        "input_file": GOLDEN_INPUT,
        "input_sha256": sha256(raw),
    }
    write_json(folder / KIT_FILE, kit)
    return path


def library_version() -> str:
    """Of ExecuTorch's library for Android, which the Gradle project brings into an app."""
    properties = (KIT / PROJECT / "gradle.properties").read_text()
    found = re.search(r"^executorchVersion=(\S+)$", properties, re.MULTILINE)
    assert found is not None
    return found[1]


def compile_check(project: Path = KIT / PROJECT, *, timeout_s: float = BUILD_TIMEOUT_S) -> Check:
    """Compile the Gradle project and run its tests on the JVM, where Gradle and an Android SDK are there.

    Otherwise ``not_run`` with the reason. Builds in a copy; the project stays as it is.
    """
    missing = _missing_toolchain()
    if missing:
        return Check(
            CHECK_NAME,
            "not_run",
            f"no {missing} on this machine; where there is one run, in the kit's {PROJECT} folder: "
            f"gradle wrapper --gradle-version 8.11.1 && ./gradlew {' '.join(_TASKS)}",
            {},
        )
    with tempfile.TemporaryDirectory(prefix="vggt-edge-kit-") as scratch:
        copy = Path(scratch) / PROJECT
        shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".*", *_NOT_COPIED))
        stopped = try_build(CHECK_NAME, _GRADLE, copy, timeout_s)
    if stopped is not None:
        return stopped
    return Check(CHECK_NAME, "passed", "built with Gradle; its tests passed on this JVM", {"tasks": len(_TASKS)})


def _missing_toolchain() -> str:
    """What the build lacks here, empty if nothing."""
    if shutil.which(_GRADLE[0]) is None:
        return "Gradle"
    sdk = os.environ.get("ANDROID_HOME") or os.environ.get("ANDROID_SDK_ROOT")
    return "" if sdk and Path(sdk).is_dir() else "Android SDK (ANDROID_HOME)"


def _content(folder: Path, description: KitDescription) -> dict[str, Any]:
    weights = description.weights
    return {
        "schema_version": KIT_SCHEMA_VERSION,
        "target": description.target,
        "plan_digest": description.plan_digest,
        "model": {
            "program": description.program,
            "sha256": _digest(folder / description.program),
            "weights": weights,
            "weights_sha256": None if weights is None else _digest(folder / weights),
            "executorch_version": description.executorch_version,
            "delegate": description.delegate,
            "memory": {"planned_bytes": description.planned_bytes},
        },
        "input": {
            "name": INPUT_NAME,
            "frames": description.frames,
            "height": description.height,
            "width": description.width,
            "order": "NCHW",
            "layout": "contiguous",
            "dtype": "float32",
        },
        **preprocess_entry(description.preprocess, description.pixel_centers),
        "outputs": [{"name": output.name, "shape": list(output.shape)} for output in description.outputs],
        "blocks": [{"block": block.block, "scheme": block.scheme} for block in description.blocks],
        "tolerances": {
            "backend_sqnr_db_min": description.backend_sqnr_db_min,
            "pose_degrees_max": description.pose_degrees_max,
        },
        "golden": None,
    }


def _digest(path: Path) -> str:
    try:
        if path.stat().st_size:
            return sha256(path)
    except OSError as error:
        raise InputError(
            f"cannot read the model: {error.strerror}", where=str(path), expected="a file that the lowering wrote"
        ) from error
    raise InputError("an empty file is no model", where=str(path), expected="a file that the lowering wrote")


def _check_description(description: KitDescription, where: str) -> None:
    frames, height, width = description.frames, description.height, description.width
    check_input(frames, height, width, where)
    for what, name in (("program", description.program), ("weights", description.weights)):
        if name is not None:
            check_plain_name(what, name, where)
    check_outputs(description.outputs, frames, height, width, where)
    names = [output.name for output in description.outputs]
    if not names or len(set(names)) < len(names):
        raise InputError(f"outputs {names}", where=where, expected="at least one, and each name once")
    if not _VERSION.match(description.executorch_version):
        raise InputError(
            f"executorch version {description.executorch_version!r}", where=where, expected="such as 1.4.1"
        )
    if description.planned_bytes < 0:
        what = f"planned buffers of {description.planned_bytes} bytes"
        raise InputError(what, where=where, expected="a size in bytes, not below 0")
    _check_limit("backend_sqnr_db_min", description.backend_sqnr_db_min, _MOST_DB, where)
    _check_limit("pose_degrees_max", description.pose_degrees_max, _WIDEST_ANGLE, where)


def _check_limit(name: str, limit: float | None, most: float, where: str) -> None:
    """A limit of 0 or less lets everything pass, one above ``most`` nothing."""
    if limit is not None and not 0 < limit <= most:
        raise InputError(f"{name} {limit}", where=where, expected=f"above 0 and at most {most:g}, or None")

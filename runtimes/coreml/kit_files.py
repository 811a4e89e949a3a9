"""Fills the iOS kit of a bundle: the Swift package, ``kit.json`` that describes the model, and the golden tensors."""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggt_edge.calibration.scenes.framing import FIT, PixelCenters, Preprocess
from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.base import Arrays, Check
from vggt_edge.runtimes.common.kit import (
    BUILD_TIMEOUT_S,
    check_input,
    check_limits,
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
PACKAGE = "VGGTEdge"
KIT_SCHEMA_VERSION = 1
# Written by the lowering into the model's user-defined metadata; the kit refuses a model that carries another plan.
PLAN_DIGEST_KEY = "vggt_edge.plan_digest"
INPUT_KINDS = ("tensor", "image")
COMPUTE_UNITS = ("all", "cpuAndNeuralEngine", "cpuAndGPU", "cpuOnly")
# A package for iOS 17 or 18 loads on the other systems of the same year.
_SYSTEMS = {17: {"ios": 17, "macos": 14, "visionos": 1}, 18: {"ios": 18, "macos": 15, "visionos": 2}}
_NOT_COPIED = frozenset({"__pycache__", "DerivedData", "Package.resolved"})

CHECK_NAME = "iOS kit compiles"
_XCODE = (
    ("xcodebuild", "-scheme", PACKAGE, "-destination", "generic/platform=iOS", "-derivedDataPath", ".derived", "build"),
    ("swift", "test", "--filter", "VGGTEdgeCoreTests"),
)
_SWIFT = (("swift", "build", "--target", "VGGTEdgeCore"), ("swift", "test", "--filter", "VGGTEdgeCoreTests"))


@dataclass(frozen=True)
class KitDescription:
    """What the app has to know of an exported model.

    package: name of the ``.mlpackage`` in the kit's folder. input_kind: of ``INPUT_KINDS``; an image model has inputs
    ``image_0`` .. ``image_<frames - 1>``, a tensor model has ``images`` (1, S, 3, H, W). compute_units: of
    ``COMPUTE_UNITS``. minimum_ios: 17 or 18. backend_sqnr_db_min: least SQNR of an output on the device against the
    simulation of the plan, from above 0 to 200 dB. pose_degrees_max: largest angle between the device's cameras and the
    simulation's, from above 0 to 180. None where that is not judged. preprocess: how a picture becomes the input.
    pixel_centers: where the centre of the first pixel lies in a point cloud.
    """

    target: str
    plan_digest: str
    package: str
    input_kind: str
    frames: int
    height: int
    width: int
    outputs: tuple[KitOutput, ...]
    compute_units: str
    minimum_ios: int
    blocks: tuple[KitBlock, ...]
    backend_sqnr_db_min: float | None = None
    pose_degrees_max: float | None = None
    preprocess: Preprocess = FIT
    pixel_centers: PixelCenters = "half"


def write_kit(folder: Path, description: KitDescription) -> tuple[str, ...]:
    """Write ``kit.json`` and the Swift package beside the model; the files' names relative to ``folder``, sorted.

    folder: holds the ``.mlpackage`` already, whose files are listed with their sha256. Raises ``InputError`` where the
    package is missing or empty, or a field of the description is not one that the app understands.
    """
    _check_description(description, str(folder))
    write_json(folder / KIT_FILE, _content(folder, description))
    names = [KIT_FILE]
    for source in kit_sources():
        name = f"{PACKAGE}/{source.relative_to(KIT / PACKAGE).as_posix()}"
        write_bytes(folder / name, source.read_bytes())
        names.append(name)
    return tuple(sorted(names))


def kit_sources() -> tuple[Path, ...]:
    """The files of the Swift package as they are copied, sorted; what building in place leaves behind is not."""
    return sources_under(KIT / PACKAGE, _NOT_COPIED)


def write_golden(folder: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> Path:
    """Write ``golden.safetensors`` beside ``kit.json`` and list it there.

    Keys: ``input/images`` (1, S, 3, H, W), for an image model too; ``simulation/<name>`` (outputs of the quantized
    simulation, which the device is judged by); ``fp32/<name>`` (outputs of the FP32 model, for information). All
    float32, shapes as in ``kit.json``. Raises ``InputError`` for anything else, for NaN or infinity, for a missing
    simulation of an output, and for images that an image model's 8 bits cannot hold.
    """
    kit = read_kit(folder / KIT_FILE, KIT_SCHEMA_VERSION)
    path = folder / GOLDEN_FILE
    whole_levels = kit["input"].get("kind") == "image"
    arrays = golden_tensors(kit, inputs, simulation, fp32, whole_levels=whole_levels, where=str(path))
    write_bytes(path, encoded(arrays))
    kit["golden"] = {"file": GOLDEN_FILE, "sha256": sha256(path)}
    write_json(folder / KIT_FILE, kit)
    return path


def compile_check(package: Path = KIT / PACKAGE, *, timeout_s: float = BUILD_TIMEOUT_S) -> Check:
    """Compile the Swift package as far as this machine can.

    On macOS with Xcode: for iOS, then the core's tests. Elsewhere with a Swift toolchain: the part without Apple's
    frameworks, and its tests. Otherwise ``not_run`` with the reason. Builds in a copy; the package stays as it is.
    """
    commands, what = _build_commands()
    if not commands:
        return Check(CHECK_NAME, "not_run", what, {})
    with tempfile.TemporaryDirectory(prefix="vggt-edge-kit-") as scratch:
        copy = Path(scratch) / PACKAGE
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns(".*", *_NOT_COPIED))
        for command in commands:
            stopped = try_build(CHECK_NAME, command, copy, timeout_s)
            if stopped is not None:
                return stopped
    return Check(CHECK_NAME, "passed", what, {"commands": len(commands)})


def _build_commands() -> tuple[tuple[tuple[str, ...], ...], str]:
    """What to run here and what that shows, or nothing and the reason."""
    if platform.system() == "Darwin" and shutil.which("xcodebuild"):
        return _XCODE, "built for iOS with xcodebuild; the tests of VGGTEdgeCore passed on this Mac"
    if shutil.which("swift"):
        return _SWIFT, "VGGTEdgeCore built and tested with this Swift toolchain; VGGTEdge itself needs a Mac"
    return (), (
        "no Swift toolchain on this machine; on a Mac with Xcode run, in the kit's VGGTEdge folder: "
        "xcodebuild -scheme VGGTEdge -destination generic/platform=iOS build"
    )


def _content(folder: Path, description: KitDescription) -> dict[str, Any]:
    files = _package_files(folder / description.package)
    return {
        "schema_version": KIT_SCHEMA_VERSION,
        "target": description.target,
        "plan_digest": description.plan_digest,
        "model": {
            "package": description.package,
            "sha256": _digest_of(files),
            "files": files,
            "compute_units": description.compute_units,
            "minimum_os": _SYSTEMS[description.minimum_ios],
        },
        "input": {
            "kind": description.input_kind,
            "frames": description.frames,
            "height": description.height,
            "width": description.width,
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


def _package_files(package: Path) -> dict[str, str]:
    """sha256 by path inside the package."""
    files = {
        path.relative_to(package).as_posix(): sha256(path) for path in sorted(package.rglob("*")) if path.is_file()
    }
    if not files:
        raise InputError("there is no Core ML package to describe", where=str(package), expected="an .mlpackage folder")
    return files


def _digest_of(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def _check_description(description: KitDescription, where: str) -> None:
    frames, height, width = description.frames, description.height, description.width
    check_input(frames, height, width, where)
    check_plain_name("package", description.package, where)
    check_limits(description.backend_sqnr_db_min, description.pose_degrees_max, where)
    for what, value, known in (
        ("input kind", description.input_kind, INPUT_KINDS),
        ("compute units", description.compute_units, COMPUTE_UNITS),
        ("minimum iOS", description.minimum_ios, tuple(_SYSTEMS)),
    ):
        if value not in known:
            raise InputError(f"{what} {value!r}", where=where, expected=f"one of: {', '.join(map(str, known))}")
    check_outputs(description.outputs, frames, height, width, where)

"""Fills the iOS kit of a bundle: the Swift package, ``kit.json`` that describes the model, and the golden tensors."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from vggt_edge.calibration.resize import check_shape
from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.base import Arrays, Check

KIT = Path(__file__).parent / "kit"
PACKAGE = "VGGTEdge"
KIT_FILE, GOLDEN_FILE = "kit.json", "golden.safetensors"
KIT_SCHEMA_VERSION = 1
# Written by the lowering into the model's user-defined metadata; the kit refuses a model that carries another plan.
PLAN_DIGEST_KEY = "vggt_edge.plan_digest"
INPUT_KINDS = ("tensor", "image")
COMPUTE_UNITS = ("all", "cpuAndNeuralEngine", "cpuAndGPU", "cpuOnly")
# A package for iOS 17 or 18 loads on the other systems of the same year.
_SYSTEMS = {17: {"ios": 17, "macos": 14, "visionos": 1}, 18: {"ios": 18, "macos": 15, "visionos": 2}}
_PLAIN_NAME = re.compile(r"[^/\\\0]+")
_MAX_FRAMES = 1024
_NOT_COPIED = frozenset({"__pycache__", "DerivedData", "Package.resolved"})
# An image input holds 8 bits: golden images have to lie this near to a level of it.
_LEVEL_TOLERANCE = 1e-3

CHECK_NAME = "iOS kit compiles"
BUILD_TIMEOUT_S = 1800.0
_XCODE = (
    ("xcodebuild", "-scheme", PACKAGE, "-destination", "generic/platform=iOS", "-derivedDataPath", ".derived", "build"),
    ("swift", "test", "--filter", "VGGTEdgeCoreTests"),
)
_SWIFT = (("swift", "build", "--target", "VGGTEdgeCore"), ("swift", "test", "--filter", "VGGTEdgeCoreTests"))


@dataclass(frozen=True)
class KitOutput:
    """``shape``: with the batch of 1, as the model declares it."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class KitBlock:
    """One block and the scheme of the plan that the package realises."""

    block: str
    scheme: str


@dataclass(frozen=True)
class KitDescription:
    """What the app has to know of an exported model.

    package: name of the ``.mlpackage`` in the kit's folder. input_kind: of ``INPUT_KINDS``; an image model has inputs
    ``image_0`` .. ``image_<frames - 1>``, a tensor model has ``images`` (1, S, 3, H, W). compute_units: of
    ``COMPUTE_UNITS``. minimum_ios: 17 or 18. backend_sqnr_db_min: least SQNR of an output on the device against the
    simulation of the plan, None where that is not judged.
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


def write_kit(folder: Path, description: KitDescription) -> tuple[str, ...]:
    """Write ``kit.json`` and the Swift package beside the model; the files' names relative to ``folder``, sorted.

    folder: holds the ``.mlpackage`` already, whose files are listed with their sha256. Raises ``InputError`` where the
    package is missing or empty, or a field of the description is not one that the app understands.
    """
    _check_description(description, str(folder))
    _write_json(folder / KIT_FILE, _content(folder, description))
    names = [KIT_FILE]
    for source in kit_sources():
        name = f"{PACKAGE}/{source.relative_to(KIT / PACKAGE).as_posix()}"
        _write_bytes(folder / name, source.read_bytes())
        names.append(name)
    return tuple(sorted(names))


def kit_sources() -> tuple[Path, ...]:
    """The files of the Swift package as they are copied, sorted; what building in place leaves behind is not."""
    return tuple(sorted(_sources(KIT / PACKAGE)))


def _sources(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.name in _NOT_COPIED:
            continue
        if entry.is_dir():
            yield from _sources(entry)
        else:
            yield entry


def write_golden(folder: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> Path:
    """Write ``golden.safetensors`` beside ``kit.json`` and list it there.

    Keys: ``input/images`` (1, S, 3, H, W), for an image model too; ``simulation/<name>`` (outputs of the quantized
    simulation, which the device is judged by); ``fp32/<name>`` (outputs of the FP32 model, for information). All
    float32, shapes as in ``kit.json``. Raises ``InputError`` for anything else, for NaN or infinity, for a missing
    simulation of an output, and for images that an image model's 8 bits cannot hold.
    """
    kit = _read_kit(folder / KIT_FILE)
    groups = {"input": inputs, "simulation": simulation, "fp32": fp32}
    arrays = {f"{group}/{name}": np.asarray(values[name]) for group, values in groups.items() for name in values}
    _check_golden(arrays, kit, str(folder / GOLDEN_FILE))
    path = folder / GOLDEN_FILE
    _write_bytes(path, save({key: np.ascontiguousarray(arrays[key]) for key in sorted(arrays)}))
    kit["golden"] = {"file": GOLDEN_FILE, "sha256": _sha256(path)}
    _write_json(folder / KIT_FILE, kit)
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
            stopped = _run(command, copy, timeout_s)
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


def _run(command: tuple[str, ...], folder: Path, timeout_s: float) -> Check | None:
    """None where the command succeeded."""
    line = " ".join(command)
    try:
        finished = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Check(CHECK_NAME, "not_run", f"{line}: not finished after {timeout_s:g} s", {})
    except OSError as error:
        return Check(CHECK_NAME, "not_run", f"{line}: {error.strerror}", {})
    if finished.returncode == 0:
        return None
    return Check(CHECK_NAME, "failed", f"{line} ended with {finished.returncode}\n{finished.stdout[-2000:]}", {})


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
        "outputs": [{"name": output.name, "shape": list(output.shape)} for output in description.outputs],
        "blocks": [{"block": block.block, "scheme": block.scheme} for block in description.blocks],
        "tolerances": {"backend_sqnr_db_min": description.backend_sqnr_db_min},
        "golden": None,
    }


def _package_files(package: Path) -> dict[str, str]:
    """sha256 by path inside the package."""
    files = {
        path.relative_to(package).as_posix(): _sha256(path) for path in sorted(package.rglob("*")) if path.is_file()
    }
    if not files:
        raise InputError("there is no Core ML package to describe", where=str(package), expected="an .mlpackage folder")
    return files


def _digest_of(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def _check_description(description: KitDescription, where: str) -> None:
    check_shape(description.height, description.width)
    if not 1 <= description.frames <= _MAX_FRAMES:
        raise InputError(f"{description.frames} frames", where=where, expected=f"1 to {_MAX_FRAMES}")
    if description.package in ("", ".", "..") or not _PLAIN_NAME.fullmatch(description.package):
        raise InputError(f"package {description.package!r}", where=where, expected="a plain folder name")
    for what, value, known in (
        ("input kind", description.input_kind, INPUT_KINDS),
        ("compute units", description.compute_units, COMPUTE_UNITS),
        ("minimum iOS", description.minimum_ios, tuple(_SYSTEMS)),
    ):
        if value not in known:
            raise InputError(f"{what} {value!r}", where=where, expected=f"one of: {', '.join(map(str, known))}")
    expected = _shapes(description.frames, description.height, description.width)
    for output in description.outputs:
        if output.shape != expected.get(output.name):
            raise InputError(
                f"output {output.name!r} of shape {output.shape}", where=where, expected=f"one of: {expected}"
            )


def _shapes(frames: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """The outputs that the kit knows."""
    pixels = (1, frames, height, width)
    return {
        "pose_enc": (1, frames, 9),
        "depth": pixels,
        "depth_conf": pixels,
        "points": (*pixels, 3),
        "points_conf": pixels,
    }


def _read_kit(path: Path) -> dict[str, Any]:
    try:
        kit = json.loads(path.read_text(encoding="utf-8"))
        if kit["schema_version"] != KIT_SCHEMA_VERSION:
            raise ValueError(f"schema_version {kit['schema_version']!r}")
        _ = [(output["name"], tuple(output["shape"])) for output in kit["outputs"]], kit["input"]["kind"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"cannot use {KIT_FILE}: {error}", where=str(path), expected="the file that write_kit wrote"
        ) from error
    return dict(kit)


def _check_golden(arrays: Mapping[str, npt.NDArray[Any]], kit: Mapping[str, Any], where: str) -> None:
    entry = kit["input"]
    shapes = {"input/images": (1, entry["frames"], 3, entry["height"], entry["width"])}
    outputs = {output["name"]: tuple(output["shape"]) for output in kit["outputs"]}
    for group in ("simulation", "fp32"):
        shapes |= {f"{group}/{name}": shape for name, shape in outputs.items()}
    needed = {"input/images", *(f"simulation/{name}" for name in outputs)}
    missing, unknown = sorted(needed - set(arrays)), sorted(set(arrays) - set(shapes))
    if missing or unknown:
        raise InputError(
            f"golden tensors missing {missing}, unknown {unknown}", where=where, expected=f"{sorted(shapes)}"
        )
    for key, array in arrays.items():
        if array.dtype != np.float32 or array.shape != shapes[key]:
            raise InputError(
                f"golden tensor {key} is {array.dtype} {array.shape}", where=where, expected=f"float32 {shapes[key]}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"golden tensor {key} holds NaN or infinity", where=where, expected="finite values")
    _check_images(arrays["input/images"], entry["kind"], where)


def _check_images(images: npt.NDArray[np.float32], kind: str, where: str) -> None:
    levels = images * np.float32(255)
    outside = bool((images < 0).any() or (images > 1).any())
    between = kind == "image" and bool((np.abs(levels - np.round(levels)) > _LEVEL_TOLERANCE).any())
    if outside or between:
        raise InputError(
            "golden images that the input cannot hold",
            where=where,
            expected="multiples of 1/255 from 0 to 1" if kind == "image" else "values from 0 to 1",
            remedy="round them to 8 bits before the simulation, as the app's frames are" if between else "",
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_bytes(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(content)
    scratch.replace(path)  # not written over: the file may be linked from elsewhere


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

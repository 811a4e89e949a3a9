"""What the kits for apps have in common: how files are written, what golden tensors must be, how a build is tried."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from vggt_edge.calibration.scenes.framing import PixelCenters, Preprocess
from vggt_edge.calibration.scenes.resize import check_shape
from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.base import Arrays, Check
from vggt_edge.runtimes.common.files import aside

if TYPE_CHECKING:
    from vggt_edge.calibration.metrics.output import Output

# What the kits in Python have in common; a copy lies beside each script that imports it.
COMMON = Path(__file__).parent / "kit_python" / "kit_common.py"
SIGNATURE = COMMON.with_name("kit_signature.py")
KIT_FILE, GOLDEN_FILE = "kit.json", "golden.safetensors"
BUILD_TIMEOUT_S = 1800.0
_PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]+")
_MAX_FRAMES = 1024
# An image input holds 8 bits: golden images have to lie this near to a level of it.
_LEVEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class KitOutput:
    """``shape``: with the batch of 1. ``kind``: of its quantity, by which it is known how to decode it."""

    name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class KitBlock:
    """One block and the scheme of the plan that the artifact realises."""

    block: str
    scheme: str


# --- files ------------------------------------------------------------------------------------------------------------


def sources_under(folder: Path, not_copied: frozenset[str]) -> tuple[Path, ...]:
    """The files of a kit as they are copied, sorted; hidden ones and what building in place leaves behind are not."""
    return tuple(sorted(_sources(folder, not_copied)))


def _sources(folder: Path, not_copied: frozenset[str]) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.name in not_copied:
            continue
        if entry.is_dir():
            yield from _sources(entry, not_copied)
        else:
            yield entry


def kit_script(path: Path) -> ModuleType:
    """A script of a kit as a module, as it lies in this package: without the copies that it imports."""
    for common in (COMMON, SIGNATURE):
        module = script_module(common, common.stem)
        if path == common:
            return module
    return script_module(path, f"vggt_edge_{path.stem}")


def script_module(path: Path, name: str) -> ModuleType:
    """A Python file outside of all packages as the module ``name``; the file is run once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file with sorted keys, the same bytes for the same content."""
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_bytes(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """mode: permissions of the file; the system's default if None."""
    with aside(path) as scratch:
        scratch.write_bytes(content)
        if mode is not None:
            scratch.chmod(mode)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- descriptions -----------------------------------------------------------------------------------------------------


def check_input(frames: int, height: int, width: int, where: str) -> None:
    """``UsageError`` for a size without pixels, ``InputError`` for a senseless number of frames."""
    check_shape(height, width, patch=1)
    if not 1 <= frames <= _MAX_FRAMES:
        raise InputError(f"{frames} frames", where=where, expected=f"1 to {_MAX_FRAMES}")


def check_plain_name(what: str, name: str, where: str) -> None:
    """``InputError`` for a name that could lead out of the kit's folder."""
    if name in ("", ".", "..") or not _PLAIN_NAME.fullmatch(name):
        raise InputError(f"{what} {name!r}", where=where, expected="a plain name without folders")


def kit_outputs(shapes: Mapping[str, tuple[int, ...]], declared: Sequence[Output]) -> tuple[KitOutput, ...]:
    """The outputs of an artifact, whose shapes these are, with what the model declares of them.

    ``InputError`` for an output that the model does not declare.
    """
    kinds = {output.name: output.quantity.kind for output in declared}
    for name in shapes:
        if name not in kinds:
            raise InputError(f"output {name!r} is not declared", where="device kit", expected=f"one of: {list(kinds)}")
    return tuple(KitOutput(name, shape, kinds[name]) for name, shape in shapes.items())


def check_outputs(outputs: Iterable[KitOutput], frames: int, height: int, width: int, where: str) -> None:
    """``InputError`` for no output, one that the apps cannot decode, or that has another shape than its kind."""
    from vggt_edge.calibration.metrics.quantities import KINDS  # brings torch, which no list of backends needs

    listed = tuple(outputs)
    expected = {kind: (1, *quantity.shape(frames, height, width)) for kind, quantity in KINDS.items()}
    if not listed:
        raise InputError("a model without outputs", where=where, expected=f"some of: {', '.join(expected)}")
    for output in listed:
        if output.shape != expected.get(output.kind):
            raise InputError(
                f"output {output.name!r} is a {output.kind} of shape {output.shape}",
                where=where,
                expected=f"a kind and shape that the apps decode, one of: {expected}",
                remedy="leave this output out with --outputs",
            )


def preprocess_entry(preprocess: Preprocess, pixel_centers: PixelCenters) -> dict[str, Any]:
    """What ``kit.json`` says of pictures and points."""
    return {"preprocess": asdict(preprocess), "pixel_centers": pixel_centers}


def check_limits(backend_sqnr_db_min: float | None, pose_degrees_max: float | None, where: str) -> None:
    """``InputError`` for a limit that lets everything or nothing pass: the kits refuse it."""
    for what, limit, highest in (
        ("backend_sqnr_db_min", backend_sqnr_db_min, 200.0),
        ("pose_degrees_max", pose_degrees_max, 180.0),
    ):
        if limit is not None and not 0 < limit <= highest:
            raise InputError(f"{what} {limit}", where=where, expected=f"above 0 and at most {highest:g}, or no limit")


def read_kit(path: Path, version: int) -> dict[str, Any]:
    """``kit.json`` as it was written; ``InputError`` for one that is missing, foreign or of another version."""
    try:
        kit = json.loads(path.read_text(encoding="utf-8"))
        if kit["schema_version"] != version:
            raise ValueError(f"schema_version {kit['schema_version']!r}")
        _ = [(output["name"], tuple(output["shape"])) for output in kit["outputs"]]
        _ = [kit["input"][side] for side in ("frames", "height", "width")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"cannot use {KIT_FILE}: {error}", where=str(path), expected="the file that write_kit wrote"
        ) from error
    return dict(kit)


# --- golden tensors ---------------------------------------------------------------------------------------------------


def golden_tensors(
    kit: Mapping[str, Any], inputs: Arrays, simulation: Arrays, fp32: Arrays, *, whole_levels: bool, where: str
) -> dict[str, npt.NDArray[np.float32]]:
    """The checked tensors by their keys: ``input/images``, ``simulation/<name>``, ``fp32/<name>``.

    kit: the content of ``kit.json``, which says what shapes they have. whole_levels: the input holds 8 bits. Raises
    ``InputError`` for missing, unknown or misshapen tensors, NaN or infinity, and for images that the input cannot
    hold.
    """
    groups = {"input": inputs, "simulation": simulation, "fp32": fp32}
    arrays = {f"{group}/{name}": np.asarray(values[name]) for group, values in groups.items() for name in values}
    shapes = _golden_shapes(kit)
    needed = {key for key in shapes if not key.startswith("fp32/")}
    missing, unknown = sorted(needed - set(arrays)), sorted(set(arrays) - set(shapes))
    if missing or unknown:
        raise InputError(
            f"golden tensors missing {missing}, unknown {unknown}", where=where, expected=f"{sorted(shapes)}"
        )
    for key, array in arrays.items():
        _check_tensor(key, array, shapes[key], where)
    _check_images(arrays["input/images"], whole_levels, where)
    return arrays


def encoded(arrays: Arrays) -> bytes:
    """The bytes of a safetensors file; the same for the same tensors."""
    return save({key: np.ascontiguousarray(arrays[key]) for key in sorted(arrays)})


def _golden_shapes(kit: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    entry = kit["input"]
    shapes: dict[str, tuple[int, ...]] = {"input/images": (1, entry["frames"], 3, entry["height"], entry["width"])}
    for group in ("simulation", "fp32"):
        shapes |= {f"{group}/{output['name']}": tuple(output["shape"]) for output in kit["outputs"]}
    return shapes


def _check_tensor(key: str, array: npt.NDArray[Any], shape: tuple[int, ...], where: str) -> None:
    if array.dtype != np.float32 or array.shape != shape:
        raise InputError(
            f"golden tensor {key} is {array.dtype} {array.shape}", where=where, expected=f"float32 {shape}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"golden tensor {key} holds NaN or infinity", where=where, expected="finite values")


def _check_images(images: npt.NDArray[np.float32], whole_levels: bool, where: str) -> None:
    levels = images * np.float32(255)
    outside = bool((images < 0).any() or (images > 1).any())
    between = whole_levels and bool((np.abs(levels - np.round(levels)) > _LEVEL_TOLERANCE).any())
    if outside or between:
        raise InputError(
            "golden images that the input cannot hold",
            where=where,
            expected="multiples of 1/255 from 0 to 1" if whole_levels else "values from 0 to 1",
            remedy="round them to 8 bits before the simulation, as the app's frames are" if between else "",
        )


# --- builds -----------------------------------------------------------------------------------------------------------


def try_build(name: str, command: Sequence[str], folder: Path, timeout_s: float) -> Check | None:
    """None where the command succeeded; otherwise the check called ``name``, as it then stands."""
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
        return Check(name, "not_run", f"{line}: not finished after {timeout_s:g} s", {})
    except OSError as error:
        return Check(name, "not_run", f"{line}: {error.strerror}", {})
    if finished.returncode == 0:
        return None
    return Check(name, "failed", f"{line} ended with {finished.returncode}\n{finished.stdout[-2000:]}", {})

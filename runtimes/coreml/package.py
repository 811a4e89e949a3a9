"""Where the parts of an .mlpackage lie. Nothing that its manifest says is trusted to stay inside it."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from vggt_edge.devices.errors import InputError

MANIFEST = "Manifest.json"
_MODEL_PREFIX = "@model_path/"
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_MODEL_BYTES = (1 << 31) - 1  # the limit of protobuf itself


def package_error(what: str, where: Path | str, expected: str = "a complete .mlpackage") -> InputError:
    return InputError(what, where=str(where), expected=expected, remedy="write or copy the package again")


def model_file(package: Path) -> Path:
    """The file with the program. ``InputError`` for a missing part, a broken manifest or a path out of the package."""
    if not package.is_dir():
        raise package_error("there is no Core ML package here", package, "a folder called <name>.mlpackage")
    entry = _root_entry(package)
    path = inside(package, Path("Data"), entry)
    if path.stat().st_size > _MAX_MODEL_BYTES:
        raise package_error(f"the model file has {path.stat().st_size} bytes", path, f"at most {_MAX_MODEL_BYTES}")
    return path


def weight_path(package: Path, model: Path, name: str) -> Path:
    """The file that the program calls ``@model_path/...``."""
    if not name.startswith(_MODEL_PREFIX):
        raise package_error(f"the program reads weights from {name!r}", model, f"a name that starts {_MODEL_PREFIX}")
    return inside(package, model.parent.relative_to(package), name.removeprefix(_MODEL_PREFIX))


def inside(package: Path, folder: Path, relative: str) -> Path:
    """``relative`` under a folder of the package: a plain file, reached without links and without leaving it."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or "\\" in relative or "\0" in relative:
        raise package_error(f"the package refers to {relative!r}", package, "a path inside the package")
    path = package
    try:
        for part in (*folder.parts, *parts):
            path = path / part
            if path.is_symlink():
                raise package_error("a link inside the package", path, "plain files and folders")
        found = path.is_file()
    except OSError as error:  # a name too long for the file system, or a folder that may not be entered
        raise package_error(
            f"the package refers to a path that cannot be reached: {error.strerror}", package
        ) from error
    if not found:
        raise package_error(f"the package lacks {path.relative_to(package)}", package)
    return path


def _root_entry(package: Path) -> str:
    """Path of the model file as the manifest gives it, relative to ``Data``."""
    path = inside(package, Path(), MANIFEST)
    manifest = _read_json(path)
    try:
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (KeyError, TypeError, IndexError):
        root = None
    if not isinstance(root, str):
        raise package_error("the manifest names no root model", path, "itemInfoEntries and rootModelIdentifier")
    return root


def _read_json(path: Path) -> Any:
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise package_error("the manifest is too long", path, f"at most {_MAX_MANIFEST_BYTES} bytes")
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise package_error(f"the manifest cannot be read: {error}", path, "JSON") from error

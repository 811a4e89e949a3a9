"""What a device kit wrote: ``result.json``, copied back into the bundle by whoever ran the kit on the device."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vggt_edge.devices.errors import InputError

RESULT = "result.json"
_MAX_BYTES = 4 << 20  # a real one has some ten kilobytes


@dataclass(frozen=True)
class DeviceResult:
    """One result.

    - path: relative to the bundle
    - status: what the kit said, such as ``passed``
    """

    path: str
    status: str


def is_result(path: str) -> bool:
    """Whether a file of this name (relative to the bundle, forward slashes) belongs to a device and not to the export.

    It lies in the bundle's own folder or in that of a backend.
    """
    parts = PurePosixPath(path).parts
    return parts[-1] == RESULT and len(parts) <= 2


def read_result(bundle: Path, path: str) -> DeviceResult:
    """One device's result; ``InputError`` when the file is no JSON object with a status."""
    file = bundle / path
    expected = "the result.json that a device kit of vggt-edge wrote"
    about = file.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_BYTES:
        raise InputError("not a plain file of a sensible size", where=str(file), expected=expected)
    try:
        status = json.loads(file.read_bytes())["status"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError("not a device's result", where=str(file), expected=expected) from error
    if not isinstance(status, str):
        raise InputError("its status is no text", where=str(file), expected=expected)
    return DeviceResult(path, status)

"""The work folder: one file per measured method, scheme and seed, so that a killed or extended contest goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.steps.cache import digest_of

_SHOWN_DIGITS = 16
Figures = Mapping[str, float]


class Results:
    """folder: None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, inputs: Mapping[str, object], make: Callable[[], Figures]) -> Figures:
        """What ``make`` gives, or has given for the same inputs. name: the beginning of the file's name."""
        if self.folder is None:
            return make()
        digest = digest_of(inputs)
        path = self.folder / f"{name}-{digest[:_SHOWN_DIGITS]}.json"
        if not path.is_file():
            _write(path, {"inputs": inputs, "digest": digest, "figures": _to_json(make())})
        return _read(path, digest)


def _write(path: Path, document: Mapping[str, object]) -> None:
    """Written aside and renamed, so that what lies under the final name is whole."""
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n")
    scratch.replace(path)


def _read(path: Path, digest: str) -> Figures:
    try:
        document = json.loads(path.read_bytes())
        if document["digest"] != digest:
            raise ValueError("it is of other inputs")
        return {key: math.nan if value is None else float(value) for key, value in document["figures"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"a result cannot be read: {error}",
            where=str(path),
            expected="a file that bench accuracy wrote",
            remedy="remove the file: it will be measured again",
        ) from error


def _to_json(figures: Figures) -> dict[str, float | None]:
    """JSON has no name for what is not a number."""
    return {key: value if math.isfinite(value) else None for key, value in figures.items()}

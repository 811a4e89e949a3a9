"""What calibration observed, over which samples: the frozen record that plans and reports are made from.

On disk: ``stats.json`` (figures, samples, and the sha256 of the arrays) and ``stats.safetensors`` (per-channel arrays).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vggt_edge.calibration.quantization.quantize import FP16_MAX
from vggt_edge.devices.errors import InputError

SCHEMA_VERSION = 1
PERCENTILES = (99.0, 99.9, 99.99, 99.999)
HEADROOM_MARGIN = 4.0  # samples see part of the range only: two bits are kept free below the FP16 maximum
JSON_NAME, ARRAYS_NAME = "stats.json", "stats.safetensors"


@dataclass(frozen=True)
class Sample:
    """One calibration scene: its name, and the digest of its pixels."""

    name: str
    digest: str


@dataclass(frozen=True)
class TensorStats:
    """The input of one layer, for one token group (``patch`` or ``special``).

    layer: ``<block>.<module path in the block>``. percentiles: of the magnitude, one per entry of ``PERCENTILES``, each
    at most 3.2 % above the true one. count: number of values seen.
    """

    layer: str
    group: str
    minimum: float
    maximum: float
    percentiles: tuple[float, ...]
    count: int

    @property
    def key(self) -> str:
        return f"{self.layer}|{self.group}"

    @property
    def absmax(self) -> float:
        return max(abs(self.minimum), abs(self.maximum))

    def percentile(self, percent: float) -> float:
        return self.percentiles[PERCENTILES.index(percent)]


@dataclass(frozen=True)
class BlockRange:
    """Largest magnitude of any tensor inside one block (attention logits: an upper bound), and where it appeared.

    block: a block's name, the path of a module that belongs to no block, or ``model`` for the model's own code.
    """

    block: str
    absmax: float
    operation: str


@dataclass(frozen=True)
class CalibrationStats:
    """channel_absmax: per ``layer|group``, float32 (in_channels,)."""

    model_digest: str
    samples: tuple[Sample, ...]
    tensors: tuple[TensorStats, ...]
    block_ranges: tuple[BlockRange, ...]
    channel_absmax: Mapping[str, npt.NDArray[np.float32]]
    schema_version: int = SCHEMA_VERSION

    def of_layer(self, layer: str) -> tuple[TensorStats, ...]:
        """The token groups that reached ``layer``; ``KeyError`` if it was not observed."""
        found = tuple(tensor for tensor in self.tensors if tensor.layer == layer)
        if not found:
            raise KeyError(layer)
        return found

    def channel_peaks(self, layer: str) -> npt.NDArray[np.float32]:
        """(in_channels,): the largest magnitudes of all its token groups; ``KeyError`` if it was not observed."""
        seen = [self.channel_absmax[tensor.key] for tensor in self.of_layer(layer)]
        peaks: npt.NDArray[np.float32] = np.max(seen, axis=0)
        return peaks

    def fp32_blocks(self, margin: float = HEADROOM_MARGIN) -> tuple[str, ...]:
        """What to compute in FP32: the blocks, and modules between them, whose largest tensor, times ``margin``, does
        not fit FP16 (65504)."""
        return tuple(entry.block for entry in self.block_ranges if entry.absmax * margin > FP16_MAX)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON; the arrays enter as a sha256, so that the digest covers them."""
        raw = {name: getattr(self, name) for name in ("model_digest", "schema_version")}
        for name in ("samples", "tensors", "block_ranges"):
            raw[name] = [asdict(entry) for entry in getattr(self, name)]
        return json.dumps({**raw, "arrays_sha256": self._arrays_digest()}, indent=1, sort_keys=True) + "\n"

    def _arrays_digest(self) -> str:
        content = hashlib.sha256()
        for key, array in sorted(self.channel_absmax.items()):
            content.update(f"{key} {array.shape} ".encode())
            content.update(np.ascontiguousarray(array, dtype="<f4").data)
        return content.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``stats.json`` and ``stats.safetensors`` into an existing folder."""
        save_file(
            {key: np.ascontiguousarray(array) for key, array in sorted(self.channel_absmax.items())},
            folder / ARRAYS_NAME,
        )
        (folder / JSON_NAME).write_text(self.to_json())

    @classmethod
    def load(cls, folder: Path) -> CalibrationStats:
        """Read what ``save`` wrote. ``InputError`` names the file that is missing, corrupt or does not match."""
        path = folder / JSON_NAME
        try:
            raw = json.loads(path.read_text())
            stats = _parse(raw, _load_arrays(folder / ARRAYS_NAME))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unusable(path, f"not calibration statistics: {error}") from error
        if stats._arrays_digest() != raw.get("arrays_sha256"):
            raise _unusable(folder / ARRAYS_NAME, f"the arrays are not those that {JSON_NAME} was written with")
        return stats


def _unusable(path: Path, what: str) -> InputError:
    return InputError(
        what,
        where=str(path),
        expected=f"statistics of schema version {SCHEMA_VERSION}, as `vggt-edge calibrate` writes them",
        remedy="run `vggt-edge calibrate` again",
    )


def _load_arrays(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise _unusable(path, f"the per-channel arrays cannot be read: {error}") from error


def _parse(raw: dict[str, Any], arrays: dict[str, npt.NDArray[np.float32]]) -> CalibrationStats:
    """Strict: an unknown, missing or wrongly typed field is an error."""
    fields = {"model_digest", "schema_version", "samples", "tensors", "block_ranges", "arrays_sha256"}
    if not isinstance(raw, dict) or set(raw) != fields:
        raise ValueError(f"fields differ from {sorted(fields)}")
    if raw["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version {raw['schema_version']}")
    tensors = tuple(_tensor(entry) for entry in raw["tensors"])
    if sorted(tensor.key for tensor in tensors) != sorted(arrays):
        raise ValueError(f"{ARRAYS_NAME} does not hold one array for each tensor")
    return CalibrationStats(
        model_digest=str(raw["model_digest"]),
        samples=tuple(Sample(**entry) for entry in raw["samples"]),
        tensors=tensors,
        block_ranges=tuple(BlockRange(**entry) for entry in raw["block_ranges"]),
        channel_absmax=arrays,
    )


def _tensor(entry: dict[str, Any]) -> TensorStats:
    tensor = TensorStats(**{**entry, "percentiles": tuple(entry["percentiles"])})
    figures = (tensor.minimum, tensor.maximum, *tensor.percentiles)
    if len(tensor.percentiles) != len(PERCENTILES) or not all(np.isfinite(figure) for figure in figures):
        raise ValueError(f"{tensor.key}: wants {len(PERCENTILES)} percentiles and finite figures")
    return tensor

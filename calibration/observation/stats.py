"""What calibration observed, over which samples: the frozen record that plans and reports are made from.

On disk: ``stats.json`` (figures, samples, and the sha256 of the arrays) and ``stats.safetensors`` (per-channel arrays).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vggt_edge.calibration.documents import Count, Finite, Sha256, read_document
from vggt_edge.calibration.quantization.quantize import FP16_MAX
from vggt_edge.devices.errors import InputError

SCHEMA_VERSION: Literal[1] = 1
PERCENTILES = (99.0, 99.9, 99.99, 99.999)
HEADROOM_MARGIN = 4.0  # samples see part of the range only: two bits are kept free below the FP16 maximum
JSON_NAME, ARRAYS_NAME = "stats.json", "stats.safetensors"
_EXPECTED = f"statistics of schema version {SCHEMA_VERSION}, as `vggt-edge calibrate` writes them"
_REMEDY = "run `vggt-edge calibrate` again"
_Percentiles: TypeAlias = Annotated[tuple[Finite, ...], Field(min_length=len(PERCENTILES), max_length=len(PERCENTILES))]


@dataclass(frozen=True)
class Sample:
    """One calibration scene: its name, and the digest of its pixels."""

    name: str
    digest: str


@dataclass(frozen=True)
class TensorStats:
    """The input of one layer, for one token group (``patch`` or ``special``); or one operand of an attention.

    layer: ``<block>.<module path in the block>``. percentiles: of the magnitude, one per entry of ``PERCENTILES``, each
    at most 3.2 % above the true one. count: number of values seen.
    """

    layer: str
    group: str
    minimum: Finite
    maximum: Finite
    percentiles: _Percentiles
    count: Count

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
    absmax: Finite
    operation: str


@dataclass(frozen=True)
class CalibrationStats:
    """channel_absmax: per ``layer|group``, float32 (in_channels,)."""

    model_digest: str
    samples: tuple[Sample, ...]
    tensors: tuple[TensorStats, ...]
    block_ranges: tuple[BlockRange, ...]
    channel_absmax: Mapping[str, npt.NDArray[np.float32]]
    schema_version: Literal[1] = SCHEMA_VERSION

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
        """Read what ``save`` wrote. ``InputError`` names the file, and the field or array, that is wrong."""
        stored = _read_json(folder / JSON_NAME)
        stats = cls(
            model_digest=stored.model_digest,
            samples=stored.samples,
            tensors=stored.tensors,
            block_ranges=stored.block_ranges,
            channel_absmax=_load_arrays(folder / ARRAYS_NAME, stored.tensors),
        )
        if stats._arrays_digest() != stored.arrays_sha256:
            raise _unusable(folder / ARRAYS_NAME, f"the arrays are not those that {JSON_NAME} was written with")
        return stats


@dataclass(frozen=True)
class StoredStats:
    """What ``stats.json`` holds."""

    model_digest: str
    schema_version: Literal[1]
    samples: tuple[Sample, ...]
    tensors: tuple[TensorStats, ...]
    block_ranges: tuple[BlockRange, ...]
    arrays_sha256: Sha256


def _unusable(path: Path, what: str) -> InputError:
    return InputError(what, where=str(path), expected=_EXPECTED, remedy=_REMEDY)


def _read_json(path: Path) -> StoredStats:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"the statistics cannot be read: {error.strerror}") from error
    return read_document(
        StoredStats, text, what="calibration statistics", where=str(path), expected=_EXPECTED, remedy=_REMEDY
    )


def _load_arrays(path: Path, tensors: Sequence[TensorStats]) -> dict[str, npt.NDArray[np.float32]]:
    """By key of a tensor; ``InputError`` for one that is missing, too many, or no list of magnitudes."""
    try:
        arrays = dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise _unusable(path, f"the per-channel arrays cannot be read: {error}") from error
    different = sorted({tensor.key for tensor in tensors} ^ set(arrays))
    if different:
        raise _unusable(path, f"not one array for each tensor of {JSON_NAME}: {', '.join(different[:5])}")
    for key, array in arrays.items():
        if array.dtype != np.float32 or array.ndim != 1 or not array.size:
            raise _unusable(path, f"array {key!r} is {array.dtype} {list(array.shape)} instead of float32 [channels]")
        if not bool(np.isfinite(array).all()) or bool((array < 0).any()):
            raise _unusable(path, f"array {key!r} holds something else than finite magnitudes")
    return arrays

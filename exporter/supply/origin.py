"""The origin of a bundle as its export knows it: the one source of SBOM and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SBOM, PROVENANCE = "sbom.cdx.json", "provenance.intoto.json"


@dataclass(frozen=True)
class Material:
    """Something that the export read.

    - role: ``model``, ``calibration``, ``validation`` or ``profile``
    - name: without the folder it lay in
    - sha256: of its content
    """

    role: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Figure:
    """One figure of the validation, such as ``depth: sqnr_db, coreml against fp32``."""

    name: str
    value: float


@dataclass(frozen=True)
class Origin:
    """Everything that SBOM and provenance say beside the files.

    - settings: of the export, by key, as ``resolved.toml`` holds them
    - materials: what was read
    - tools: version by distribution
    - properties: quantization and device, as text by name
    - inputs, outputs: of the model, by name, with their shapes
    - figures: of the validation
    """

    model: str
    model_license: str
    architecture: str
    target: str
    settings: Mapping[str, object]
    materials: tuple[Material, ...]
    tools: Mapping[str, str]
    properties: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    figures: tuple[Figure, ...] = ()

    def material(self, role: str) -> Material:
        return next(one for one in self.materials if one.role == role)

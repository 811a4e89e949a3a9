"""``sbom.cdx.json``: a CycloneDX 1.6 bill of materials of a bundle, with a model card (an ML-BOM).

Written here and not by cyclonedx-python-lib, which has no model cards; tests check every document with that library's
validator (docs/decisions/014).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from vggt_edge.exporter.bundle import FileEntry
from vggt_edge.exporter.supply.licenses import COMMERCIAL, OWN, OWN_NAME, UNKNOWN, license_of_tool
from vggt_edge.exporter.supply.origin import Material, Origin

Json: TypeAlias = dict[str, Any]

_PREFIX = "vggt-edge:"
_KIT_SUFFIXES = (".py", ".sh", ".swift", ".kt", ".kts", ".cpp", ".hpp", ".h", ".cu")


def sbom_json(origin: Origin, files: Iterable[FileEntry], *, plotly: str | None) -> str:
    """The document, the same for the same bundle. plotly: version of plotly.js inside the report; None for none."""
    listed = tuple(files)
    components = [_checkpoint(origin), *map(_data, _data_sets(origin)), *_code(listed, plotly), *map(_file, listed)]
    document: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": _tools(origin)}, "component": _bundle(origin)},
        "components": components,
        "dependencies": _dependencies(components),
    }
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(document, sort_keys=True)).urn
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _bundle(origin: Origin) -> Json:
    """The subject: the quantized model."""
    return {
        "type": "machine-learning-model",
        "bom-ref": "bundle",
        "name": f"{origin.model} for {origin.target}",
        "licenses": _licenses(origin.model_license),
        "modelCard": _model_card(origin),
        "properties": [{"name": f"{_PREFIX}{name}", "value": text} for name, text in sorted(origin.properties.items())],
    }


def _model_card(origin: Origin) -> Json:
    card: Json = {
        "bom-ref": "model-card",
        "modelParameters": {
            "task": "3D reconstruction from images",
            "architectureFamily": "transformer",
            "modelArchitecture": origin.architecture,
            "datasets": [{"ref": _data_ref(one)} for one in _data_sets(origin)],
            "inputs": [{"format": text} for text in origin.inputs],
            "outputs": [{"format": text} for text in origin.outputs],
        },
    }
    if origin.figures:
        metrics = [{"type": one.name, "value": f"{one.value:g}"} for one in origin.figures]
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


def _checkpoint(origin: Origin) -> Json:
    model = origin.material("model")
    return {
        "type": "machine-learning-model",
        "bom-ref": "checkpoint",
        "name": model.name,
        "description": "the checkpoint that was quantized",
        "hashes": _hashes(model.sha256),
        "licenses": _licenses(origin.model_license),
    }


def _data_sets(origin: Origin) -> tuple[Material, ...]:
    return tuple(one for one in origin.materials if one.role in ("calibration", "validation"))


def _data_ref(data: Material) -> str:
    return f"data:{data.role}"


def _data(data: Material) -> Json:
    return {
        "type": "data",
        "bom-ref": _data_ref(data),
        "name": data.name,
        "description": f"scenes for {data.role}; the hash is of the hashes of all scenes",
        "hashes": _hashes(data.sha256),
        "data": [{"type": "dataset", "name": data.name}],
    }


def _code(files: tuple[FileEntry, ...], plotly: str | None) -> list[Json]:
    """Code that the bundle itself holds."""
    return [*([_kit()] if any(map(_is_of_kit, files)) else []), *([_plotly(plotly)] if plotly is not None else [])]


def _kit() -> Json:
    return {
        "type": "application",
        "bom-ref": "kit",
        "name": "vggt-edge device kit",
        "description": "scripts and sources for the device",
        "licenses": _licenses(OWN),
    }


def _plotly(version: str) -> Json:
    return {
        "type": "library",
        "bom-ref": "plotly.js",
        "name": "plotly.js",
        "version": version,
        "purl": f"pkg:npm/plotly.js@{version}",
        "description": "inside report.html",
        "licenses": _licenses("MIT"),
    }


def _is_of_kit(entry: FileEntry) -> bool:
    path = PurePosixPath(entry.path)
    return path.suffix in _KIT_SUFFIXES or path.name == "CMakeLists.txt"


def _file(entry: FileEntry) -> Json:
    return {
        "type": "file",
        "bom-ref": f"file:{entry.path}",
        "name": entry.path,
        "hashes": _hashes(entry.sha256),
        **({"licenses": _licenses(OWN)} if _is_of_kit(entry) else {}),
    }


def _tools(origin: Origin) -> list[Json]:
    """The tools that made the bundle; nothing of them is inside."""
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower()}@{version.replace('+', '%2B')}",
            "licenses": _licenses(license_of_tool(name)),
        }
        for name, version in origin.tools.items()
    ]


def _dependencies(components: list[Json]) -> list[Json]:
    """The bundle is made of all others, which stand alone."""
    names = sorted(one["bom-ref"] for one in components)
    return [{"ref": "bundle", "dependsOn": names}]


def _licenses(text: str) -> list[Json]:
    """A licence by its SPDX identifier or expression, else by its name; nothing where it is not known."""
    if text == UNKNOWN:
        return []
    if any(word in text.split() for word in ("AND", "OR", "WITH")):
        return [{"expression": text}]
    has_identifier = text in COMMERCIAL and not text.startswith(OWN_NAME)
    return [{"license": {"id": text} if has_identifier else {"name": text}}]


def _hashes(sha256: str) -> list[Json]:
    return [{"alg": "SHA-256", "content": sha256}]

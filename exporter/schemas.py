"""JSON schemas of the documents that vggt-edge writes, made from the types that read and write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from vggt_edge.calibration.observation import stats
from vggt_edge.calibration.observation.sampling import Sampling
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.sensitivity.ablation import Sensitivity
from vggt_edge.exporter.answers import (
    Answer,
    Description,
    DryRun,
    Event,
    Failure,
    Findings,
    RandomCheckpoint,
    Targets,
    Written,
)
from vggt_edge.exporter.bundle import Manifest
from vggt_edge.exporter.contest.bench import BenchResult
from vggt_edge.exporter.contest.harness import Accuracy
from vggt_edge.exporter.deploy.results import Deployed
from vggt_edge.exporter.difference import Difference
from vggt_edge.exporter.job import ExportResult, StepResult
from vggt_edge.exporter.kit_documents import CoreMLKit, ExecuTorchKit, KitResult, TensorRTKit
from vggt_edge.exporter.machine.usage import Measured
from vggt_edge.exporter.signing.envelope import SignatureFile, Statement
from vggt_edge.exporter.signing.sign import SignatureState, Verified
from vggt_edge.exporter.supply.parts import Licenses
from vggt_edge.exporter.validation.rows import StoredReport, ValidationReport
from vggt_edge.runtimes.base import Lowered
from vggt_edge.runtimes.executorch.model_file import ModelFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"


# Files of a bundle or an output folder, by the name of the schema. They are read strictly: a field that is not known
# is an error.
FILES: Mapping[str, Any] = {
    "manifest": Manifest,
    "plan": PrecisionPlan,
    "stats": stats.StoredStats,
    "sampling": Sampling,
    "sensitivity": tuple[Sensitivity, ...],
    "validation": StoredReport,
    "lowered": Lowered,
    "measured": Measured,
    "executorch-model": ModelFile,
    "kit-tensorrt": TensorRTKit,
    "kit-coreml": CoreMLKit,
    "kit-executorch": ExecuTorchKit,
}
# What kits on devices write. Those of later versions may add fields.
RESULTS: Mapping[str, Any] = {"result": KitResult}
# In formats of others, which may hold more.
SIGNATURES: Mapping[str, Any] = {"model-sig": SignatureFile, "model-sig-payload": Statement}
# What --json prints on stdout. Later versions may add fields.
ANSWERS: Mapping[str, Any] = {
    "export-answer": Answer[ExportResult],
    "calibrate-answer": Answer[StepResult],
    "plan-answer": Answer[StepResult],
    "validate-answer": Answer[ValidationReport],
    "verify-answer": Answer[Verified],
    "sign-answer": Answer[SignatureState],
    "licenses-answer": Answer[Licenses],
    "diff-answer": Answer[Difference],
    "deploy-answer": Answer[Deployed],
    "inspect-answer": Answer[Description],
    "bench-answer": Answer[BenchResult | RandomCheckpoint],
    "bench-accuracy-answer": Answer[Accuracy],
    "targets-answer": Targets,
    "doctor-answer": Findings,
    "dry-run-answer": DryRun,
    "schemas-answer": Answer[Written],
    "error-answer": Failure,
}
# What --json prints on stderr, a line each.
EVENTS: Mapping[str, Any] = {"event": Event}
# Their figures may be no numbers, which are written as null.
_CONTESTS = ("bench-answer", "bench-accuracy-answer")


def schemas() -> dict[str, str]:
    """The text of every schema, by file name."""
    read = {name: closed(_schema(name, kind, "validation")) for name, kind in FILES.items()}
    read |= {name: _schema(name, kind, "validation") for name, kind in {**RESULTS, **SIGNATURES, **EVENTS}.items()}
    written = {name: _schema(name, kind, "serialization") for name, kind in ANSWERS.items()}
    written |= {name: _with_null(written[name]) for name in _CONTESTS}
    return {
        f"{name}.schema.json": json.dumps(schema, indent=2, sort_keys=True) + "\n"
        for name, schema in (read | written).items()
    }


def write_schemas(folder: Path) -> tuple[Path, ...]:
    """Write every schema into a folder; those that lie there are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = schemas()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tuple(folder / name for name in texts)


def _schema(name: str, kind: Any, mode: Any) -> dict[str, Any]:
    schema = TypeAdapter(kind).json_schema(mode=mode, by_alias=True)
    return {"$schema": DIALECT, "$id": f"urn:vggt-edge:schema:{name}:{_version(schema)}", **schema}


def _version(schema: Mapping[str, Any]) -> int:
    """The ``schema_version`` of the documents; 1 for those that have none."""
    version = schema.get("properties", {}).get("schema_version", {}).get("const", 1)
    assert isinstance(version, int)
    return version


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with no other fields than those it lists, in all of its objects."""
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return schema


def _with_null(part: Any) -> Any:
    """The schema with null allowed in the place of every number."""
    if isinstance(part, list):
        return [_with_null(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "number":
        return {**part, "type": ["number", "null"]}
    return {name: _with_null(item) for name, item in part.items()}

"""``model.json``: what a session has to know of a program before it hands it to native code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.base import AnnotatedGraph
from vggt_edge.runtimes.common.kit import sha256, write_bytes
from vggt_edge.runtimes.executorch.files import MODEL_FILE, PROGRAM, WEIGHTS

if TYPE_CHECKING:  # a session reads the file without torch
    from torch.export import ExportedProgram

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Border:
    """An input or output of the program, float32."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFile:
    """sha256 of the program and of its weights, None where the program holds them; borders in the program's order.

    planned_bytes: what ExecuTorch plans ahead for values between its delegates.
    """

    schema_version: int
    program_sha256: str
    weights_sha256: str | None
    inputs: tuple[Border, ...]
    outputs: tuple[Border, ...]
    planned_bytes: int


_ADAPTER = TypeAdapter(ModelFile)


def borders_of(program: ExportedProgram, graph: AnnotatedGraph) -> tuple[tuple[Border, ...], tuple[Border, ...]]:
    """(inputs, outputs): a program itself knows them by their place alone."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature

    def borders(names: Sequence[str], given: Sequence[Any]) -> tuple[Border, ...]:
        pairs = zip(names, given, strict=True)
        return tuple(Border(name, tuple(nodes[str(node)].meta["val"].shape)) for name, node in pairs)

    return borders(graph.input_names, signature.user_inputs), borders(graph.output_names, signature.user_outputs)


def write_model_file(folder: Path, inputs: tuple[Border, ...], outputs: tuple[Border, ...], planned_bytes: int) -> None:
    """Of the program, and the weights if there are any, that lie in ``folder``."""
    weights = folder / WEIGHTS
    content = ModelFile(
        SCHEMA_VERSION,
        sha256(folder / PROGRAM),
        sha256(weights) if weights.is_file() else None,
        inputs,
        outputs,
        planned_bytes,
    )
    write_bytes(folder / MODEL_FILE, _ADAPTER.dump_json(content, indent=2) + b"\n")


def checked_model(folder: Path) -> ModelFile:
    """``InputError`` where a file is missing, damaged, or of another export."""
    model = _read(folder / MODEL_FILE)
    _check(folder / PROGRAM, model.program_sha256, "program")
    if model.weights_sha256 is not None:
        _check(folder / WEIGHTS, model.weights_sha256, "weights")
    return model


def _read(path: Path) -> ModelFile:
    try:
        content: Any = json.loads(path.read_bytes())
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {content['schema_version']!r}")
        return _ADAPTER.validate_python(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise InputError(
            f"cannot use {path.name}: {error}",
            where=str(path),
            expected="what an export wrote",
            remedy="export it again",
        ) from error


def _check(path: Path, digest: str, what: str) -> None:
    if not path.is_file():
        raise InputError(
            f"the {what} are missing" if what == "weights" else f"the {what} is missing",
            where=str(path),
            expected=f"{path.name} of the same export",
            remedy="copy the whole folder, or export it again",
        )
    if sha256(path) != digest:
        raise InputError(
            f"{path.name} is damaged, cut short, or of another model",
            where=str(path),
            expected=f"the file whose SHA-256 is {digest[:12]}...",
            remedy="copy the whole folder, or export it again",
        )

"""Reading figures off what a program left behind: ONNX graphs, bundles, logs."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

RTX = "TensorRT for RTX"
RANDOM_KEY = "vggt_edge.random"
# What a killed and resumed export must share with an uninterrupted one, byte for byte.
COMPARED = ("plan.json", "stats.json", "stats.safetensors", "model.onnx", "model.onnx.data")
_PRECISION_ONLY = frozenset(("QuantizeLinear", "DequantizeLinear", "Cast"))
_BEGIN = re.compile(r"(?P<name>.+) \.\.\.")
_END = re.compile(r"(?P<name>.+): done in (?P<duration>.+?)(, .*)?")
_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class NodeCounts:
    """nodes: all of them, those of functions and subgraphs left out (our graphs have none).

    computing: without QuantizeLinear, DequantizeLinear and Cast, which quantization adds to any graph.
    """

    nodes: int
    computing: int
    by_type: Mapping[str, int]


def count_nodes(path: Path) -> NodeCounts:
    """Nodes of an ONNX file; its weights are not read."""
    graph = onnx.load(str(path), load_external_data=False).graph
    by_type = Counter(node.op_type for node in graph.node)
    added = sum(by_type[name] for name in _PRECISION_ONLY)
    return NodeCounts(len(graph.node), len(graph.node) - added, dict(by_type.most_common()))


def onnx_bytes(path: Path) -> int:
    """The file and the external data that its initializers name."""
    graph = onnx.load(str(path), load_external_data=False).graph
    entries = (entry for tensor in graph.initializer for entry in tensor.external_data)
    names: set[str] = {entry.value for entry in entries if entry.key == "location"}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in sorted(names))


def safetensors_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(length))
    return header


def fp32_bytes(checkpoint: Path) -> int:
    """Four bytes for every parameter of a checkpoint, the track head left out as in an export."""
    header = safetensors_header(checkpoint)
    ours = (entry for name, entry in header.items() if not name.startswith(("__", "track_head.")))
    return 4 * sum(int(prod(entry["shape"])) for entry in ours)


def is_random(checkpoint: Path) -> bool:
    """Whether ``vggt-edge`` drew the weights: sizes, times and memory are real then, accuracy is not."""
    return RANDOM_KEY in safetensors_header(checkpoint).get("__metadata__", {})


def bundle_figures(bundle: Path, checkpoint: Path) -> dict[str, Any]:
    """Nodes, sizes, seconds by stage and validation of one bundle; what a bundle lacks is left out."""
    counts = count_nodes(bundle / "model.onnx")
    size, whole = onnx_bytes(bundle / "model.onnx"), fp32_bytes(checkpoint)
    measured = _json(bundle / "measured.json")
    return {
        "nodes": counts.nodes,
        "computing_nodes": counts.computing,
        "onnx_bytes": size,
        "fp32_bytes": whole,
        "fp32_over_onnx": whole / size,
        "reported_peak_bytes": measured.get("peak_memory_bytes"),
        "timings": measured.get("timings") or [],
        "schemes": _schemes(bundle),
        "validation": parity(_json(bundle / "validation.json")),
        "validation_status": _json(bundle / "validation.json").get("status"),
        "rtx": rtx_figures(bundle),
    }


def _schemes(bundle: Path) -> dict[str, int]:
    """How many blocks got which scheme."""
    return dict(Counter(one["scheme"] for one in _json(bundle / "plan.json").get("assignments", [])))


def parity(validation: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By output, the figures of the ONNX graph in ONNX Runtime against the torch simulation."""
    found: dict[str, dict[str, float]] = {}
    for row in validation.get("rows", []):
        if (row["subject"], row["against"]) == ("onnxruntime", "simulation") and row["value"] is not None:
            found.setdefault(row["output"], {})[row["metric"]] = row["value"]
    return found


def rtx_figures(bundle: Path) -> dict[str, Any]:
    """Status and figures of the TensorRT for RTX compile that an export makes as a check; {} without one."""
    measured = _json(bundle / "measured.json").get("checks", {}).get("tensorrt", {}).get(RTX, {})
    for check in _json(bundle / "lowered-tensorrt.json").get("checks", []):
        if check["name"] == RTX:
            return {"status": check["status"], "detail": check["detail"], **check["figures"], **measured}
    return {}


def digests(bundle: Path, names: Iterable[str] = COMPARED) -> dict[str, str]:
    """sha256 by file name; a file that is not there has none."""
    found = {}
    for name in names:
        if (bundle / name).is_file():
            with (bundle / name).open("rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def stage_of_line(line: str) -> str | None:
    """The step that a progress line says has begun."""
    match = _BEGIN.fullmatch(line.strip())
    return match["name"] if match else None


def stage_seconds(log: str) -> dict[str, float]:
    """By step, the seconds that its ``done in`` line says, in the order in which they ended."""
    matches = (_END.fullmatch(line.strip()) for line in log.splitlines())
    return {match["name"]: parse_duration(match["duration"]) for match in matches if match}


def parse_duration(text: str) -> float:
    """``7.3 s``, ``2 min 05 s`` or ``1 h 02 min``, as the progress lines have them."""
    words = text.split()
    return sum(float(number) * _UNITS[unit] for number, unit in zip(words[::2], words[1::2], strict=True))


def _json(path: Path) -> dict[str, Any]:
    """{} for a file that is not there: bundles of earlier versions lack some."""
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content

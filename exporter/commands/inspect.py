"""What ``inspect`` says about a plan, statistics, an ONNX graph, a Core ML package or a whole bundle."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.names import printable
from vggt_edge.calibration.scheme import Numbers, NumberType
from vggt_edge.devices.errors import InputError
from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.answers import Description
from vggt_edge.exporter.bundle import MANIFEST, all_problems, read_manifest, read_measured
from vggt_edge.exporter.commands.output import print_table
from vggt_edge.exporter.lowered import REST, lowered_file, read_lowered
from vggt_edge.exporter.machine.progress import format_duration
from vggt_edge.exporter.machine.usage import Measured

_EXPECTED = "a bundle folder, plan.json, stats.json, another JSON artifact of vggt-edge, an ONNX file, or an .mlpackage"
# Beyond this a JSON file is no artifact of ours; the arrays are in safetensors.
_LARGEST_JSON_BYTES = 256 << 20


def describe(path: Path) -> Description:
    """Look at one artifact. Raises ``InputError`` for what is no artifact."""
    if path.suffix == ".mlpackage":
        return _package(path)
    if path.is_dir():
        return _bundle(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix == ".json":
        return _json(path)
    what = "not an artifact of vggt-edge" if path.exists() else "no such file or folder"
    raise InputError(what, where=str(path), expected=_EXPECTED)


def show(description: Description) -> None:
    """The same for people."""
    print(printable(f"{description.kind}: {description.path}"))
    width = max((len(name) for name in description.facts), default=0)
    for name, value in description.facts.items():
        print(printable(f"  {name:<{width}}  {value}"))
    if description.rows:
        print_table(description.kind, description.columns, description.rows)
    for part in description.parts:
        show(part)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON_BYTES:
            raise ValueError("the file is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read it: {error}", where=str(path), expected=_EXPECTED) from error
    if not isinstance(content, dict):
        raise InputError("the file holds no object", where=str(path), expected=_EXPECTED)
    return content


def _json(path: Path) -> Description:
    content = _read_json(path)
    if "assignments" in content:
        return _plan(path)
    if "tensors" in content:
        return _stats(path)
    if "timings" in content:
        measured = Measured.from_json(path.read_bytes(), where=str(path))
        return Description("measured", str(path), _cost(measured), ("step", "time", "of it forwards"), _times(measured))
    facts, columns, rows = _outline(content)
    return Description(path.stem, str(path), facts, columns, rows)


def _outline(content: Mapping[str, Any]) -> tuple[dict[str, object], tuple[str, ...], list[tuple[object, ...]]]:
    """Single values as facts; of each list or mapping only how much is in it."""
    facts = {name: value for name, value in content.items() if not isinstance(value, dict | list)}
    rows: list[tuple[object, ...]] = [
        (name, len(value)) for name, value in content.items() if isinstance(value, dict | list)
    ]
    return facts, ("section", "entries"), rows


def _plan(path: Path) -> Description:
    plan = PrecisionPlan.from_json(path.read_text(encoding="utf-8"), where=str(path))
    schemes = Counter(entry.scheme for entry in plan.assignments)
    facts = {
        "target": plan.target,
        "blocks": len(plan.assignments),
        "schemes": ", ".join(f"{name} x {count}" for name, count in sorted(schemes.items())),
        "group size": plan.group_size,
        "weights": format_bytes(plan.weight_bytes),
        "outside the blocks": f"{format_bytes(plan.rest_bytes)} in {plan.rest_scheme}",
        "predicted latency": f"{plan.predicted_latency_ms:.3f} ms",
        "digest": plan.digest,
        **{f"note {number}": note for number, note in enumerate(plan.notes, 1)},
    }
    rows = [
        (
            entry.block,
            entry.scheme,
            format_bytes(entry.weight_bytes),
            f"{entry.predicted_error:.3g}",
            f"{entry.predicted_latency_ms:.3f}",
            entry.reason,
        )
        for entry in plan.assignments
    ]
    columns = ("block", "scheme", "weights", "predicted error", "predicted ms", "reason")
    return Description("plan", str(path), facts, columns, rows)


def _stats(path: Path) -> Description:
    stats = CalibrationStats.load(path.parent)
    facts = {
        "samples": len(stats.samples),
        "blocks that need FP32": ", ".join(stats.fp32_blocks()) or "none",
        "model digest": stats.model_digest,
        "digest": stats.digest,
    }
    rows = [
        (
            entry.layer,
            entry.group,
            f"{entry.minimum:.4g}",
            f"{entry.maximum:.4g}",
            f"{entry.percentile(99.9):.4g}",
            entry.count,
        )
        for entry in stats.tensors
    ]
    return Description("stats", str(path), facts, ("layer", "tokens", "min", "max", "99.9 % of |x|", "values"), rows)


def _cost(measured: Measured) -> dict[str, object]:
    """Time and memory of an export as a whole, and the figures that the checks of its lowerings measured."""
    checks = {
        f"{backend}, {check}": ", ".join(f"{name} {_figure(value)}" for name, value in sorted(figures.items()))
        for backend, by_check in sorted(measured.checks.items())
        for check, figures in sorted(by_check.items())
        if figures
    }
    seconds = f"{format_duration(measured.seconds)}, {format_duration(measured.forward_seconds)} of it forwards"
    return {"time": seconds, "peak memory": format_bytes(measured.peak_memory_bytes), **checks}


def _times(measured: Measured) -> list[tuple[object, ...]]:
    return [(one.step, format_duration(one.seconds), format_duration(one.forward_seconds)) for one in measured.timings]


def _figure(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _onnx(path: Path) -> Description:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise InputError(f"not an ONNX file: {error}", where=str(path), expected=_EXPECTED) from error
    graph = model.graph
    if not model.ir_version or not graph.output:  # any few bytes may be a protobuf, and no byte is one too
        raise InputError("not an ONNX file: it holds no graph", where=str(path), expected=_EXPECTED)
    operators = Counter(_text(node.op_type) for node in graph.node)
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    weights: Counter[str] = Counter()
    for tensor in graph.initializer:
        count = 1
        for size in tensor.dims:
            count *= size
        weights[names.get(tensor.data_type, f"unknown type {tensor.data_type}")] += count
    facts = {
        "opset": ", ".join(f"{_text(entry.domain) or 'onnx'} {entry.version}" for entry in model.opset_import),
        "nodes": len(graph.node),
        "inputs": ", ".join(_value(value) for value in graph.input),
        "outputs": ", ".join(_value(value) for value in graph.output),
        "weights": ", ".join(f"{count} x {dtype}" for dtype, count in sorted(weights.items())),
    }
    rows = sorted(operators.items(), key=lambda entry: (-entry[1], entry[0]))
    return Description("onnx", str(path), facts, ("operator", "nodes"), rows)


def _text(name: str | bytes) -> str:
    """A name that is not UTF-8 arrives as bytes."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else name


def _value(value: Any) -> str:
    sides = (_text(side.dim_param) or str(side.dim_value) for side in value.type.tensor_type.shape.dim)
    return f"{_text(value.name)} ({', '.join(sides)})"


def _package(path: Path) -> Description:
    from vggt_edge.runtimes.coreml.audit import linears
    from vggt_edge.runtimes.coreml.program import load_program

    program = load_program(path)
    layers = tuple(linears(program))
    operators = Counter(one.type for one in program.operations if not one.type.startswith("const"))
    stored = Counter(_stored(one.weight) for one in layers if one.weight is not None)
    about = program.description
    facts = {
        "opset": program.opset,
        "inputs": ", ".join(f"{one.name} ({one.kind}, {one.type})" for one in about.inputs),
        "outputs": ", ".join(f"{one.name} ({one.type})" for one in about.outputs),
        "linears and convolutions": ", ".join(f"{count} x {what}" for what, count in sorted(stored.items())),
        "size": format_bytes(sum(file.stat().st_size for file in path.rglob("*") if file.is_file())),
        **about.user,
    }
    rows = sorted(operators.items(), key=lambda entry: (-entry[1], entry[0]))
    return Description("Core ML package", str(path), facts, ("operator", "operations"), rows)


def _stored(numbers: Numbers) -> str:
    return f"{'palette' if numbers.type is NumberType.PALETTE else 'weights'} of {numbers.bits} bits"


def _bundle(path: Path) -> Description:
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise InputError(f"the folder holds no {MANIFEST}", where=str(path), expected=_EXPECTED)
    problems = tuple(_problems(path))
    facts, _, _ = _outline(_read_json(manifest))
    facts["state"] = f"damaged: {len(problems)} problem{'s' * (len(problems) > 1)}" if problems else "as exported"
    facts |= {f"problem {number}": problem for number, problem in enumerate(problems, 1)}
    facts |= _measured(path)
    # What lies there, not what the manifest says.
    rows: list[tuple[object, ...]] = [
        (file.relative_to(path).as_posix(), format_bytes(file.stat().st_size))
        for file in sorted(path.rglob("*"))
        if file.is_file() and not file.is_symlink()
    ]
    return Description("bundle", str(path), facts, ("file", "size"), rows, tuple(_computed(path)))


def _computed(bundle: Path) -> Iterator[Description]:
    """Precision of every block in the compiled program of each backend that could read one."""
    for path in sorted(bundle.glob(lowered_file("*"))):
        try:
            lowered = read_lowered(path)
        except (OSError, InputError):  # a damaged bundle is described as far as it can be read
            continue
        if not lowered.computed:
            continue
        facts: dict[str, object] = {check.name: f"{check.status}, {check.detail}" for check in lowered.checks}
        facts |= {f"{one.severity} {number}": f"{one.block}: {one}" for number, one in enumerate(lowered.findings, 1)}
        rows = [(one.block or REST, one.asked, one.stored, one.computed, one.status) for one in lowered.computed]
        columns = ("block", "asked", "stored", "computed", "status")
        yield Description(f"compiled plan of {lowered.backend}", path.name, facts, columns, rows)


def _problems(bundle: Path) -> list[str]:
    """The problems that ``verify`` finds in a bundle. ``InputError`` where even the manifest cannot be read."""
    manifest = read_manifest(bundle)
    found = []
    try:
        found += all_problems(bundle, manifest)
        read_measured(bundle)
    except InputError as error:
        found.append(str(error))
    return found


def _measured(bundle: Path) -> dict[str, object]:
    """Time and memory of the export of a bundle, step by step; empty where they are not known, or damaged."""
    try:
        measured = read_measured(bundle)
    except InputError:
        return {}
    if measured is None:
        return {}
    return _cost(measured) | {f"time of {one.step}": format_duration(one.seconds) for one in measured.timings}

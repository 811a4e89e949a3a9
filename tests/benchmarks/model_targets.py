"""Exports a tiny seeded checkpoint of each architecture for each kind of target: the table of docs/models/index.md.

``model_targets.py --work DIR [NAME ...]`` measures what ``DIR`` has no result of and prints the table. An architecture
takes part by a file ``tests/exporter/models/tiny/<architecture>.py``, which holds:

- ``CONFIG``: the sizes of the tiny model.
- ``drawn(name, like)``: the values of the tensor ``name``, of the shape of ``like``, the same at every call. The export
  takes a fifth of what is drawn for LayerScale: residual branches of trained models are weak too, and random ones
  of full strength multiply every error.
- ``FRAMES``: frames of the export.

The side of the input is the configuration's ``native_resolution``. ``--write`` puts the rows into the document and
keeps the rows of the other architectures.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts import fp32_bytes
from measure import format_size, table
from section import replace_section

from vggt_edge.exporter.models.architectures import architectures
from vggt_edge.exporter.models.checkpoint import save_checkpoint
from vggt_edge.runtimes.common.kit import script_module, write_json
from vggt_edge.runtimes.registry import subject_titles

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "exporter" / "models" / "tiny"
DOCUMENT = ROOT / "docs" / "models" / "index.md"
BEGIN, END = "<!-- targets:begin -->", "<!-- targets:end -->"
TARGETS = ("jetson-orin", "ios-ar", "android", "host-cpu")
FEW = ("--calibration-scenes", "2", "--validation-scenes", "2", "--effort", "fast", "--json")
LAYER_SCALE = 0.2
HEADER = ("architecture", "target", "status", "run by", "relative error of each output", "model", "FP32")

Result = Mapping[str, Any]


def write_checkpoint(name: str, tiny: Any, path: Path) -> None:
    one, side = architectures()[name], tiny.CONFIG.native_resolution
    state = one.build(tiny.CONFIG, one.shape(tiny.FRAMES, side, side), one.heads).state_dict()
    drawn = {key: tiny.drawn(key, like) * (LAYER_SCALE if key.endswith("gamma") else 1) for key, like in state.items()}
    save_checkpoint(drawn, tiny.CONFIG, path, one)


def export(name: str, target: str, work: Path) -> Result:
    """Result of an export by the command line: exit code, message of an error, validation, sizes."""
    tiny = script_module(TINY / f"{name}.py", f"tiny.{name}")
    checkpoint, bundle = work / f"{name}.safetensors", work / f"{name}-{target}"
    write_checkpoint(name, tiny, checkpoint)
    command = [
        *(sys.executable, "-m", "vggt_edge.exporter.cli", "export", "--model", str(checkpoint), "--target", target),
        *("--architecture", name, "--frames", str(tiny.FRAMES), "--resolution", str(tiny.CONFIG.native_resolution)),
        *(*FEW, "--output", str(bundle)),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    said = json.loads(ran.stdout).get("error", {}).get("what", "") if ran.stdout else ran.stderr[-1000:]
    validation, made = bundle / "validation.json", {"fp32_bytes": fp32_bytes(checkpoint)}
    if validation.is_file():
        made |= {**json.loads(validation.read_text()), "model_bytes": model_bytes(bundle)}
    return {"exit_code": ran.returncode, "said": said, **made}


def model_bytes(bundle: Path) -> int:
    """Size of what the device's runtime reads: the ExecuTorch program, the Core ML package, or else the ONNX file."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    sizes = {file["path"]: file["size_bytes"] for file in files}
    own = [size for path, size in sizes.items() if path.endswith((".pte", ".ptd")) or ".mlpackage/" in path]
    return sum(own or (size for path, size in sizes.items() if path.startswith("model.onnx")))


def row(name: str, target: str, result: Result) -> tuple[str, ...]:
    fp32 = format_size(result["fp32_bytes"])
    if "rows" not in result:
        said = f"exit {result['exit_code']}: {result['said'].strip().splitlines()[-1]}"
        return name, f"`{target}`", said, "-", "-", "-", fp32
    subject = nearest_the_device(result)
    errors = ", ".join(f"{output} {error:.1e}" for output, error in relative_errors(result, subject))
    run_by = subject_titles()[subject]
    return name, f"`{target}`", _status(result), run_by, errors, format_size(result["model_bytes"]), fp32


def nearest_the_device(result: Result) -> str:
    """The last runtime that computed outputs: the device's own or what stands for it, ONNX Runtime where none ran."""
    return [one["subject"] for one in result["rows"] if one["against"] == "fp32" and one["metric"] == "sqnr_db"][-1]


def relative_errors(result: Result, subject: str) -> Iterator[tuple[str, float]]:
    """By output, norm(found - FP32) / norm(FP32), out of the ratio in decibels."""
    for one in result["rows"]:
        if (one["subject"], one["against"], one["metric"]) == (subject, "fp32", "sqnr_db"):
            yield one["output"], math.pow(10, -one["value"] / 20)


def _status(result: Result) -> str:
    """``passed``, or which gates did not hold."""
    failed = (f"{one['output']} {one['metric']}" for one in result["rows"] if one["status"] == "failed")
    said = "; ".join(dict.fromkeys(failed))
    return f"exit {result['exit_code']}, failed: {said}" if said else str(result["status"])


def measured(names: Sequence[str], work: Path) -> list[tuple[str, ...]]:
    rows = []
    for name in names:
        for target in TARGETS:
            path = work / f"{name}-{target}.json"
            if not path.is_file():
                print(f"{name} for {target} ...", file=sys.stderr, flush=True)
                write_json(path, export(name, target, work))
            rows.append(row(name, target, json.loads(path.read_text())))
    return rows


def merged(text: str, rows: Sequence[tuple[str, ...]]) -> str:
    """The document with these rows, and those of the other architectures that it holds already."""
    section = text.partition(BEGIN)[2].partition(END)[0]
    before = [tuple(line.strip("| ").split(" | ")) for line in section.strip().splitlines()[2:]]
    kept = [cells for cells in before if cells[0] not in {new[0] for new in rows}]
    body = "\n".join(table(HEADER, sorted((*kept, *rows), key=lambda cells: cells[0])))
    return replace_section(text, body, begin=BEGIN, end=END)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in TINY.glob("*.py"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"architectures; default: {', '.join(known)}")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for checkpoints and results")
    parser.add_argument("--write", action="store_true", help=f"put the rows into {DOCUMENT.relative_to(ROOT)}")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = measured(given.names or known, given.work)
    print("\n".join(table(HEADER, rows)))
    if given.write:
        DOCUMENT.write_text(merged(DOCUMENT.read_text(), rows))


if __name__ == "__main__":
    main()

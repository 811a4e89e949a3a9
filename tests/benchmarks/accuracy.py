"""Every table of methods against each other: plain, with planted outliers, and without each part of ours.

``python tests/benchmarks/accuracy.py --work DIR`` measures what DIR has no result of and rewrites the tables of
docs/benchmarks/methods.md. It can be killed and called again; a result is measured anew where the code behind it has
changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accuracy_tables import BEGIN, END, TITLE, render
from section import replace_section

from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.exporter.contest.harness import EFFORT, HELD_OUT_SCENES, SCHEMES, SEEDS, Accuracy, Request, accuracy
from vggt_edge.exporter.contest.methods import METHODS, ablation_names, load_methods
from vggt_edge.exporter.machine.progress import PlainProgress, Progress
from vggt_edge.exporter.models.registry import MINI
from vggt_edge.exporter.steps.inputs import CALIBRATION_SCENES

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("plain", "planted", "ablation", "ablation-planted")
ABLATION_SEEDS = 1  # block reconstruction, one of its rows, takes minutes for each


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the results")
    parser.add_argument("--print", action="store_true", help="print the section, write no file")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/methods.md", help="file with the tables")
    default = ",".join(PARTS[:3])
    parser.add_argument("--parts", type=names, default=default, help=f"of {','.join(PARTS)}; default: {default}")
    parser.add_argument("--model", default=MINI)
    parser.add_argument("--methods", type=names, default=METHODS, help="separated by commas; not for ablations")
    parser.add_argument("--schemes", type=names, default=SCHEMES, help="separated by commas")
    parser.add_argument("--ablation-schemes", type=names, default=("w8a8", "w4a16", "w4a4d"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--ablation-seeds", type=int, default=ABLATION_SEEDS)
    parser.add_argument("--scene-count", type=int, default=HELD_OUT_SCENES)
    parser.add_argument("--calibration-scenes", type=int, default=CALIBRATION_SCENES)
    parser.add_argument("--effort", default=EFFORT, help="of our method: fast, balanced or max")
    given = parser.parse_args(arguments)
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; one of: {', '.join(PARTS)}")
    if min(given.seeds, given.ablation_seeds, given.scene_count, given.calibration_scenes) < 1:
        parser.error("numbers of seeds and scenes are at least 1")
    return given


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def request_of(given: argparse.Namespace, part: str) -> Request:
    plain = Request(
        model=given.model,
        schemes=given.schemes,
        methods=given.methods,
        seeds=given.seeds,
        scene_count=given.scene_count,
        calibration_scenes=given.calibration_scenes,
        effort=given.effort,
        planted=part.endswith("planted"),
    )
    if not part.startswith("ablation"):
        return plain
    return replace(plain, methods=ablation_names(), schemes=given.ablation_schemes, seeds=given.ablation_seeds)


def measure(given: argparse.Namespace, progress: Progress) -> dict[str, Accuracy]:
    """By part. The names in all of them are checked before the first measurement."""
    requests = {part: request_of(given, part) for part in PARTS if part in given.parts}
    for request in requests.values():
        load_methods(request.methods, request.effort)
    found = {}
    for part, request in requests.items():
        progress.note(f"{part}:")
        found[part] = accuracy(request, progress, given.work)
    return found


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    try:
        found = measure(given, PlainProgress())
    except VggtEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    contests = [one for part, one in found.items() if not part.startswith("ablation")]
    ablations = [one for part, one in found.items() if part.startswith("ablation")]
    body = f"`python tests/benchmarks/accuracy.py --work DIR`: {render(contests, ablations)}"
    if given.print:
        print(body)
    else:
        text = given.out.read_text() if given.out.is_file() else ""
        given.out.write_text(replace_section(text, body, TITLE, BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the choices inside the palette schemes are worth on vggt-mini: one row per variant. Run by hand.

``palettes.py [--scene-count N]``: held-out rooms, all blocks in p4a16 or p6a16, everything else as an export does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from vggt_edge.calibration import apply
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization import form
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import ARCHITECTURE
from vggt_edge.exporter.steps.inputs import BENCH_SEED, CALIBRATION_SEED, Outputs, run_model, synthetic
from vggt_edge.exporter.validation import figures
from vggt_edge.exporter.validation.figures import Sample
from vggt_edge.exporter.validation.outputs import without_batch

SHAPE = InputShape(4, 84, 84)
SCHEMES = ("p4a16", "p6a16")


@dataclass(frozen=True)
class Variant:
    """importance: power of the largest magnitudes that weigh errors, 0 for equal weights. small: weights of the largest
    layer that keeps 8 bits. rows: output channels that share a table.
    """

    title: str
    importance: float = 1.0
    small: int = form.PALETTE_FROM_WEIGHTS - 1
    rows: int = form.TABLE_ROWS


VARIANTS = (
    Variant("as exported"),
    Variant("equal weights", importance=0.0),
    Variant("magnitudes squared", importance=2.0),
    Variant("small layers too", small=0),
    Variant("tables for 8 channels", rows=8),
    Variant("tables for 32 channels", rows=32),
)


@contextmanager
def varied(variant: Variant) -> Iterator[None]:
    plain = apply.importance

    def importance(stats: CalibrationStats, layer: str) -> Tensor:
        return torch.pow(plain(stats, layer), variant.importance)

    with (
        patch.object(apply, "importance", importance),
        patch.object(form, "PALETTE_FROM_WEIGHTS", variant.small + 1),
        patch.object(form, "TABLE_ROWS", variant.rows),
    ):
        yield


def row(name: str, samples: list[Sample]) -> str:
    truth = {(one.output, one.metric): one.value for one in figures.against_ground_truth(ARCHITECTURE.outputs, samples)}
    (cross,) = (one.value for one in figures.cross_head(ARCHITECTURE.outputs, samples) if one.metric == "cross_head")
    drifts = figures.drifts(ARCHITECTURE.outputs, [one.ours for one in samples], [one.reference for one in samples])
    points = next(one.value for one in drifts if (one.output, one.metric) == ("points", "sqnr_db"))
    cells = (truth["pose_enc", "auc30"], truth["pose_enc", "auc5"], truth["depth", "abs_rel"], cross, points)
    return f"| {name} | " + " | ".join(f"{cell:.3g}" for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene-count", type=int, default=64)
    arguments = parser.parse_args()
    checkpoint = open_model("vggt-mini")
    reference = build_model(checkpoint, SHAPE, OUTPUTS)
    shown = (SHAPE.frames, SHAPE.height, SHAPE.width)
    stats = calibrate(reference, synthetic(CALIBRATION_SEED, 8, 0, *shown), digest=checkpoint.digest)
    scenes = synthetic(BENCH_SEED, arguments.scene_count, 0, *shown)

    def outputs(model: torch.nn.Module) -> list[Outputs]:
        return [without_batch(ARCHITECTURE.outputs, run_model(model, scene), shown, scene.name) for scene in scenes]  # type: ignore[arg-type]

    fp32 = outputs(reference)
    print("| | AUC@30 | AUC@5 | AbsRel | cross-head | points against FP32, dB |\n|---|---|---|---|---|---|")
    print(row("FP32", [Sample(scene, one, one) for scene, one in zip(scenes, fp32, strict=True)]))
    for name in SCHEMES:
        for variant in VARIANTS:
            with varied(variant):
                model = build_model(checkpoint, SHAPE, OUTPUTS)
                assignments = tuple(Assignment(block, name, "benchmark", 0.0, 0, 0.0) for block in model.blocks())
                plan = PrecisionPlan("model", stats.digest, "none", 64, assignments, rest_scheme="w8a16")
                apply.apply_plan(model, plan, stats)
                ours = outputs(model)
            samples = [Sample(*each) for each in zip(scenes, ours, fp32, strict=True)]
            print(row(f"{name}, {variant.title}", samples), flush=True)


if __name__ == "__main__":
    main()

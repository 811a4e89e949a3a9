"""FP8 and NVFP4 beside INT8 on vggt-mini, untuned: one row per scheme and form of the convolutions. Run by hand.

``floats.py [--scene-count N]``: held-out rooms, all blocks in one scheme, plain rounding, everything else as an export
does it.
"""

from __future__ import annotations

import argparse
from unittest.mock import patch

import palettes
import torch

from vggt_edge.calibration import apply
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import Form, Kind, LayerShape
from vggt_edge.calibration.scheme import SCHEMES, Scheme
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import ARCHITECTURE
from vggt_edge.exporter.steps.inputs import BENCH_SEED, CALIBRATION_SEED, Outputs, run_model, synthetic
from vggt_edge.exporter.validation.figures import Sample
from vggt_edge.exporter.validation.outputs import without_batch

# (linears, convolutions)
VARIANTS = (
    ("w8a8", "w8a8"),
    ("fp8", "fp8"),
    ("fp8", "w8a8"),
    ("fp8", "fp16"),
    ("nvfp4", "fp8"),
    ("nvfp4", "w8a8"),
    ("nvfp4", "fp16"),
    ("nvfp4a16", "w8a16"),
    ("w4a16", "w8a16"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene-count", type=int, default=32)
    arguments = parser.parse_args()
    shape = palettes.SHAPE
    checkpoint = open_model("vggt-mini")
    reference = build_model(checkpoint, shape, OUTPUTS)
    shown = (shape.frames, shape.height, shape.width)
    stats = calibrate(reference, synthetic(CALIBRATION_SEED, 8, 0, *shown), digest=checkpoint.digest)
    scenes = synthetic(BENCH_SEED, arguments.scene_count, 0, *shown)
    of = Form.of

    def outputs(model: torch.nn.Module) -> list[Outputs]:
        return [without_batch(ARCHITECTURE.outputs, run_model(model, scene), shown, scene.name) for scene in scenes]  # type: ignore[arg-type]

    fp32 = outputs(reference)
    print("| linears, convolutions | AUC@30 | AUC@5 | AbsRel | cross-head | points against FP32, dB |")
    print("|---|---|---|---|---|---|")
    print(palettes.row("FP32", [Sample(scene, one, one) for scene, one in zip(scenes, fp32, strict=True)]))
    for name, of_convolutions in VARIANTS:

        def varied(wanted: Scheme, layer: LayerShape, group: int | None = None, kept: Scheme | None = None) -> Form:
            is_rest = layer.kind is Kind.LINEAR or wanted.name != name  # noqa: B023
            chosen = wanted if is_rest else SCHEMES[of_convolutions]  # noqa: B023
            return of(chosen, layer, group, kept)

        with patch.object(Form, "of", varied):
            model = build_model(checkpoint, shape, OUTPUTS)
            assignments = tuple(Assignment(block, name, "benchmark", 0.0, 0, 0.0) for block in model.blocks())
            plan = PrecisionPlan("model", stats.digest, "none", 64, assignments, rest_scheme="w8a16")
            apply.apply_plan(model, plan, stats)
        ours = outputs(model)
        samples = [Sample(*each) for each in zip(scenes, ours, fp32, strict=True)]
        print(palettes.row(f"{name}, {of_convolutions}", samples), flush=True)


if __name__ == "__main__":
    main()

"""Figures of models that do not have every output."""

from __future__ import annotations

import math

from vggt_edge.calibration.scenes.synthetic import render_scene
from vggt_edge.exporter.contest.columns import COLUMNS, summarize
from vggt_edge.exporter.contest.measure import HeldOut
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import InputShape
from vggt_edge.exporter.models.registry import MINI, open_model


def test_a_model_without_points_has_no_figures_of_them() -> None:
    model = build_model(open_model(MINI), InputShape(2, 28, 28), ("camera", "depth"))
    held_out = HeldOut(model, [render_scene(1, 2, 28, 28)])
    row = summarize("fp32", "fp32", [held_out.figures(held_out.reference)])
    missing = {column.key for column in COLUMNS if math.isnan(row.mean[column.key])}
    assert {"points_sqnr_db", "accuracy", "completeness", "normal_consistency"} <= missing
    assert row.mean["pose_sqnr_db"] == 200
    assert row.mean["abs_rel"] > 0

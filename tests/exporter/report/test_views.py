"""What the tables and the map of the report say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.exporter.lowered import REST
from vggt_edge.exporter.report import ReportData, component_sizes, views
from vggt_edge.runtimes.base import Computed


def test_component_sizes_add_up_to_the_plan(full: ReportData) -> None:
    assert full.plan is not None
    parameters = {assignment.block: 1000 for assignment in full.plan.assignments}
    sizes = component_sizes(full.plan, parameters, 500)
    assert [size.component for size in sizes] == [
        "patch_embed",
        "frame_blocks",
        "global_blocks",
        "camera_head",
        "depth_head",
        "point_head",
        REST,
    ]
    assert sum(size.weight_bytes for size in sizes) == full.plan.weight_bytes
    assert sum(size.parameters for size in sizes) == 1000 * len(parameters) + 500


def test_size_table_ends_with_the_total(full: ReportData) -> None:
    rows = views.size_rows(full)
    assert full.plan is not None
    assert rows[-1].title == "Total"
    assert float(rows[-1].error) == pytest.approx(sum(each.predicted_error for each in full.plan.assignments), rel=1e-3)
    assert rows[0].fp32 == "3.0 MiB"
    assert rows[0].fp16 == "1.5 MiB"


def test_map_holds_every_block_once_with_its_reason(full: ReportData) -> None:
    assert full.plan is not None
    rows = views.plan_map(full.plan, full.lowered)
    assert [row.title for row in rows][-1] == "Heads"
    cells = [cell for row in rows for cell in row.cells]
    assert sorted(cell.tip[0] for cell in cells) == sorted(each.block for each in full.plan.assignments)
    assert all(full.plan.assignments[0].reason in cell.tip for cell in cells)
    assert [cell.tip[0] for cell in cells if any("mlp.fc2" in line for line in cell.tip)] == ["patch_embed.blocks.1"]
    assert not any(cell.departed for cell in cells)


def test_geometry_table_has_fp32_in_every_row_against_ground_truth(full: ReportData) -> None:
    assert full.validation is not None
    table = views.comparison(full.validation)
    assert table.columns == ("Output", "Metric", "Against", "FP32", "Simulation", "ONNX Runtime")
    against_truth = [row for row in table.rows if row[2] == "ground truth"]
    assert {row[1] for row in against_truth} >= {"AUC@30", "AUC@3", "AbsRel", "delta < 1.25", "normal consistency"}
    assert all("-" not in row[3:] for row in against_truth)


def test_failed_gates_come_first(full: ReportData) -> None:
    assert full.validation is not None
    rows = list(full.validation.rows)
    failed = next(index for index, row in enumerate(rows) if row.tolerance_key == "delta125_drop_max")
    rows[failed] = replace(rows[failed], status=views.Status.FAILED)
    table = views.gates(replace(full.validation, rows=tuple(rows)))
    assert table.statuses[0] == "failed"
    assert table.rows[0][2] == "delta < 1.25 drop"
    assert table.rows[0][5] == "<= 0.03"
    assert "info" not in table.statuses


def test_every_scheme_has_a_colour_of_its_own() -> None:
    assert set(views.SCHEME_COLORS) == set(SCHEMES)
    assert len(set(views.SCHEME_COLORS.values())) == len(SCHEMES)


def test_what_runs_a_phones_file_here_is_not_taken_for_the_phone(full: ReportData) -> None:
    """The execution says that it is this CPU's; the artifact does not."""
    assert views.subject_title("executorch") == "ExecuTorch (XNNPACK) on this CPU"
    assert views.backend_view(replace(full.lowered[0], backend="executorch")).title == "ExecuTorch (XNNPACK)"


def test_what_a_compiled_plan_computes_is_shown_beside_what_was_asked(full: ReportData) -> None:
    computed = (
        Computed("frame_blocks.0", "w8a8", "w8a8", "int8 x 4", "passed"),
        Computed("point_head", "w8a8", "w8a8", "fp16 x 2", "failed"),
        Computed("", "fp16", "fp16", "unknown x 1", "unknown"),
    )
    view = views.backend_view(replace(full.lowered[0], computed=computed))
    assert "2 parts of the model are not proven to be computed as asked" in view.headline
    table = view.computed
    assert table.rows[1:] == (
        ("point_head", "w8a8", "w8a8", "fp16 x 2", "differs"),
        ("outside the blocks", "fp16", "fp16", "unknown x 1", "not proven"),
    )
    assert table.statuses == ("info", "failed", "failed")


def test_drift_table_has_a_row_per_subject_reference_and_output(full: ReportData) -> None:
    assert full.validation is not None
    rows = views.drift_table(full.validation).rows
    assert len(rows) == 5 * 3
    assert ("ONNX Runtime", "simulation", "depth") in {row[:3] for row in rows}


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (float("inf"), "-"), (0.0, "0"), (1 / 3, "0.3333"), (1e-7, "1e-07")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert views.number(value) == text

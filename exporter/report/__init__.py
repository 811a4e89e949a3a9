"""The report of an export: one self-contained HTML page."""

from __future__ import annotations

from vggt_edge.exporter.report.data import Budget, ComponentSize, ReportData, SceneView, component_sizes
from vggt_edge.exporter.report.render import render_report

__all__ = ["Budget", "ComponentSize", "ReportData", "SceneView", "component_sizes", "render_report"]

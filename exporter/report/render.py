"""From ``ReportData`` to one HTML file that needs nothing else: no network, no other files, the same bytes twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from vggt_edge.exporter.pages import TEMPLATES, environment
from vggt_edge.exporter.report import charts, images, views
from vggt_edge.exporter.report.data import ReportData, SceneView

MAX_SCENES = 3
# A browser gives a page few 3D canvases: three per scene, so two scenes get them.
MAX_3D_SCENES = 2


@dataclass(frozen=True)
class SceneSection:
    """The pictures and texts of one scene."""

    name: str
    sheet: images.DepthSheet
    poses: charts.Chart | None
    clouds: tuple[charts.Chart, charts.Chart] | None


def render_report(data: ReportData) -> str:
    """The report as HTML."""
    report = data.validation
    context: dict[str, Any] = {
        "data": data,
        "verdict": views.verdict(report),
        "cards": views.cards(data),
        "plan_rows": views.plan_map(data.plan, data.lowered, data.components) if data.plan else (),
        "legend": views.scheme_legend(data.plan) if data.plan else (),
        "sensitivity": charts.sensitivity_chart(data.sensitivity, data.plan) if data.sensitivity else None,
        "sizes": views.size_rows(data) if data.sizes else (),
        "budget": views.budget_lines(data.budget, data.plan),
        "backends": tuple(views.backend_view(each) for each in data.lowered),
        "judged_with": views.judged_lines(data.judged_with),
        "gates": views.gates(report, data.output_titles) if report else None,
        "comparison": views.comparison(report, data.output_titles) if report else None,
        "drift": views.drift_table(report, data.output_titles) if report else None,
        "scenes": tuple(_section(view, index) for index, view in enumerate(data.scenes[:MAX_SCENES])),
        "scenes_left_out": max(len(data.scenes) - MAX_SCENES, 0),
        "depth_gradient": images.gradient(images.DEPTH_COLORS),
        "error_gradient": images.gradient(images.ERROR_COLORS),
        "style": Markup(_resource("report.css")),
        "script": Markup(_resource("report.js")),
    }
    context["plotly"] = Markup(get_plotlyjs()) if _needs_plotly(context) else None
    return environment().get_template("report.html.jinja").render(context)


def _section(view: SceneView, index: int) -> SceneSection:
    three_d = index < MAX_3D_SCENES
    return SceneSection(
        name=view.name,
        sheet=images.depth_sheet(view),
        poses=charts.pose_chart(view) if three_d else None,
        clouds=charts.cloud_charts(view) if three_d else None,
    )


def _needs_plotly(context: dict[str, Any]) -> bool:
    """Five megabytes that a report without charts can do without."""
    return context["sensitivity"] is not None or any(scene.poses or scene.clouds for scene in context["scenes"])


def _resource(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")

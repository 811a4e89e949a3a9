"""The page as a whole: complete in itself, the same bytes twice, safe against hostile names, whole without parts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from vggt_edge.exporter.deploy.page import DeviceRun, with_devices
from vggt_edge.exporter.report import Budget, ReportData, SceneView, render_report
from vggt_edge.exporter.validation import Row, Status, ValidationReport

VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """Checks nesting, and collects what tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.charts: dict[str, Any] = {}
        self._chart = ""
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        self._chart = found.get("data-chart", "")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag
        self._chart = ""

    def handle_data(self, data: str) -> None:
        if self._chart:
            self.charts[self._chart] = json.loads(data)
        elif self.stack and self.stack[-1] not in ("script", "style"):
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))


@pytest.fixture(scope="module")
def html(full: ReportData) -> str:
    return render_report(full)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_section_is_there_and_linked(page: Page) -> None:
    sections = ["plan", "size", "accuracy", "scenes", "sensitivity", "backends", "provenance"]
    assert [name for name in page.ids if name in sections] == sections
    assert sorted(page.links) == sorted(f"#{name}" for name in sections)
    assert len(page.ids) == len(set(page.ids))


def test_real_devices_join_the_page(html: str, page: Page) -> None:
    """Once each, linked, and well-formed as the page itself."""
    joined = Page(with_devices(html, [DeviceRun("orin", "ssh://orin", "not_run", None)]))
    assert set(joined.ids) - set(page.ids) == {"devices"}
    assert set(joined.links) - set(page.links) == {"#devices"}


def test_nothing_is_loaded_from_elsewhere(html: str, page: Page) -> None:
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "default-src 'none'" in html
    assert html.count("plotly.js v") == 1


def test_same_data_gives_the_same_bytes(full: ReportData, html: str) -> None:
    assert render_report(full) == html


def test_every_chart_has_its_place_and_only_finite_numbers(page: Page) -> None:
    assert set(page.charts) == {"poses-1", "cloud-1-fp32", "cloud-1-quantized", "sensitivity-bars"}
    assert set(page.charts) <= set(page.ids)
    assert "NaN" not in json.dumps(page.charts)


def test_the_page_says_what_was_exported_and_how_it_fared(page: Page, full: ReportData) -> None:
    for words in ("Jetson Orin Nano 8GB (Super)", "orin-nano-8gb", "3 frames of 42 x 28 pixels", "within budget"):
        assert words in page.text
    assert full.plan is not None
    assert full.plan.digest in page.text
    assert "All 16 blocks hold the precision that the plan asks for" in page.text
    assert "no NVIDIA GPU on this machine" in page.text


def test_it_says_how_the_model_was_calibrated(full: ReportData) -> None:
    assert "calibrated on" not in render_report(bare(full))
    html = render_report(replace(bare(full), calibration="16 of <40> scenes, effort max"))
    assert "calibrated on 16 of &lt;40&gt; scenes, effort max</p>" in html


def test_random_weights_are_told_before_anything_else(full: ReportData) -> None:
    html = render_report(replace(bare(full), random_weights="seed 0"))
    text = Page(html).text
    assert "Random weights (seed 0)" in text
    assert "accuracy figures and pictures mean nothing" in text
    assert html.index("Random weights (seed 0)") < html.index('class="verdict"')
    assert "Random weights" not in render_report(bare(full))


def test_a_hostile_origin_of_the_weights_stays_text(full: ReportData) -> None:
    evil = "</p><script>alert(1)</script>"
    html = render_report(replace(bare(full), random_weights=evil))
    assert evil not in html
    assert evil in Page(html).text


@pytest.mark.parametrize(
    ("status", "words"), [(Status.PASSED, "Passed"), (Status.FAILED, "Failed"), (Status.NOT_RUN, "Not validated")]
)
def test_headline_follows_the_validation(full: ReportData, status: Status, words: str) -> None:
    row = Row("simulation", "depth", "abs_rel", "fp32", status, 0.1, 0.2, "depth_abs_rel_vs_fp32_max")
    html = render_report(replace(bare(full), validation=ValidationReport(("a",), (), (row,))))
    assert f'<header class="hero {status}">' in html
    assert f"<strong>{words}</strong>" in html


def bare(full: ReportData) -> ReportData:
    """Nothing but the required fields."""
    return ReportData(full.model, full.target, full.device_title, full.input_shape, full.outputs)


def test_a_report_of_nothing_is_a_page_without_charts(full: ReportData) -> None:
    html = render_report(bare(full))
    page = Page(html)
    assert page.links == ["#provenance"]
    assert "Not validated" in page.text
    assert len(html) < 50_000


MISSING: dict[str, Any] = {
    "plan": None,
    "validation": None,
    "sensitivity": (),
    "sizes": (),
    "budget": None,
    "lowered": (),
    "scenes": (),
    "digests": {},
    "tools": {},
}


@pytest.mark.parametrize("part", MISSING)
def test_any_part_may_be_missing(full: ReportData, part: str) -> None:
    assert "vggt-mini" in Page(render_report(replace(full, **{part: MISSING[part]}))).text


@pytest.mark.parametrize(
    ("kept", "charts"),
    [
        (("pose_enc",), {"poses-1"}),
        (("depth",), set()),
        (("points", "points_conf"), {"cloud-1-fp32", "cloud-1-quantized"}),
        (("pose_enc", "depth", "depth_conf"), {"poses-1", "cloud-1-fp32", "cloud-1-quantized"}),
        ((), set()),
    ],
)
def test_scenes_show_the_outputs_that_were_exported(full: ReportData, kept: tuple[str, ...], charts: set[str]) -> None:
    (view,) = full.scenes
    fp32, quantized = ({name: each[name] for name in kept} for each in (view.fp32, view.quantized))
    declared = tuple(output for output in view.declared if output.name in kept)
    subset = SceneView(view.name, view.images, fp32, quantized, declared)
    page = Page(render_report(replace(full, scenes=(subset,), sensitivity=())))
    assert set(page.charts) == charts
    assert ("no depth output" in page.text) == ("depth" not in kept)


def test_broken_outputs_still_make_a_report(full: ReportData) -> None:
    (view,) = full.scenes
    broken = replace(view, quantized={name: it * np.nan for name, it in view.quantized.items()})
    page = Page(render_report(replace(full, scenes=(broken,))))
    assert set(page.charts) == {"sensitivity-bars"}


def test_hostile_names_stay_text(full: ReportData) -> None:
    evil = "</script><script>alert(1)</script>"
    (view,) = full.scenes
    entry = replace(full.sensitivity[0], block=evil)
    data = replace(
        full,
        model=evil,
        tools={evil: evil},
        scenes=(replace(view, name=evil),),
        sensitivity=(entry, *full.sensitivity[1:]),
    )
    html = render_report(data)
    assert evil not in html
    page = Page(html)
    assert page.charts["sensitivity-bars"]["data"][0]["x"][0] == evil
    assert page.text.count(evil) >= 4


@pytest.mark.parametrize(("limit", "words"), [(12_000_000, "within budget"), (1_000, "over budget")])
def test_budget_line_compares_the_plan_with_what_was_asked(full: ReportData, limit: int, words: str) -> None:
    data = replace(full, budget=Budget(max_memory_bytes=limit), scenes=(), sensitivity=())
    assert words in Page(render_report(data)).text


def test_a_block_that_departs_from_the_plan_is_pointed_out(full: ReportData) -> None:
    (lowered,) = full.lowered
    first = replace(lowered.realised[0], realised="fp32", how="engine inspector")
    data = replace(full, lowered=(replace(lowered, realised=(first, *lowered.realised[1:])),))
    html = render_report(data)
    assert "1 of 16 blocks did not get the precision that the plan asks for" in html
    assert len(re.findall(r'class="cell departed"', html)) == 1
    assert "realised as fp32 (engine inspector)" in html


def test_scenes_beyond_the_limit_are_counted(full: ReportData) -> None:
    page = Page(render_report(replace(full, scenes=full.scenes * 5)))
    assert "2 more scenes were validated and are not shown" in page.text
    assert "poses-3" not in page.charts

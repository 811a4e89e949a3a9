"""Packages of the mini graph, lowered once each: a conversion takes a second."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.models.vggt import ARCHITECTURE
from vggt_edge.runtimes.base import AnnotatedGraph, Lowered, Options
from vggt_edge.runtimes.common.packages import installed
from vggt_edge.runtimes.coreml import BACKEND
from vggt_edge.runtimes.coreml.sdk import load_coremltools

BLOCKS = ("frame_blocks.0", "global_blocks.0", "depth_head")
OUTPUTS = ("pose_enc", "depth", "depth_conf")
# All others write a package, or read one that coremltools wrote.
WITHOUT_CONVERTER = frozenset({"test_ane.py", "test_kit.py"})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.name not in WITHOUT_CONVERTER and not installed("coremltools"):
        pytest.skip("coremltools is not installed; it has no wheel for Linux on ARM")


@pytest.fixture(scope="session", autouse=True)
def _frozen_heap() -> Iterator[None]:
    """coremltools collects garbage at each conversion: 0.2 s over all of torch, next to nothing once frozen."""
    if installed("coremltools"):
        load_coremltools()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def graph_of() -> Callable[..., AnnotatedGraph]:
    """``graph_of(path, fp32_blocks)``: what a backend is handed for an ONNX file of the mini graph."""

    def make(path: Path, fp32_blocks: tuple[str, ...] = (), inputs: tuple[str, ...] = ("tokens",)) -> AnnotatedGraph:
        declared = tuple(output for output in ARCHITECTURE.outputs if output.name in OUTPUTS)
        return AnnotatedGraph(
            None,  # type: ignore[arg-type]
            path,
            inputs,
            OUTPUTS,
            BLOCKS,
            fp32_blocks,
            outputs=declared,
            about=ARCHITECTURE.about,
        )

    return make


@pytest.fixture
def lower_mini(
    write_mini: Callable[..., Path],
    make_plan: Callable[..., PrecisionPlan],
    graph_of: Callable[..., AnnotatedGraph],
    tmp_path: Path,
) -> Callable[..., tuple[Lowered, Path]]:
    """``lower_mini(frame, global_, depth, target=, out=)`` lowers the mini graph; (what was made, the folder)."""

    @cache
    def run(*schemes: str, target: str = "iphone-15-pro", out: str = "out", **options: Any) -> tuple[Lowered, Path]:
        folder = tmp_path / out
        graph = graph_of(write_mini(*schemes))
        return BACKEND.lower(graph, make_plan(*schemes), load_profile(target), folder, Options(**options)), folder

    return run

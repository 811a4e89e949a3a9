"""What all tests share: the repository's root, the command in process, and settings that keep runs alike."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from vggt_edge.calibration.observation.stats import CalibrationStats
    from vggt_edge.calibration.plan import PrecisionPlan
    from vggt_edge.calibration.scenes.scene import Scene
    from vggt_edge.exporter.models.vggt import VGGT

# Nothing may be fetched: a test that needs the network would fail elsewhere.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples on every machine, and no deadline: the machine may be busy.
settings.register_profile("vggt-edge", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("vggt-edge")

FRAMES, SIDE = 2, 28  # of the scenes of noise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one of them at the end would keep one of two processes waiting for minutes."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files of all tests lie in pytest's own folder, and go with the last of them.

    coremltools leaves its packages until the process ends, and the workers of pytest-xdist end without a clean-up.
    """
    folder, before = tmp_path_factory.mktemp("temporary"), os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    yield
    tempfile.tempdir = None
    os.environ.pop("TMPDIR")
    if before is not None:
        os.environ["TMPDIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def load_script(repository: Path) -> Callable[[str], ModuleType]:
    """A file of ``tests/`` that is also a command, as a module: ``load_script("docstrings")``."""

    def load(name: str) -> ModuleType:
        from vggt_edge.runtimes.common.kit import script_module

        return script_module(repository / "tests" / f"{name}.py", name)

    return load


@dataclass(frozen=True)
class Finished:
    """A command line that ran to its end."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as the one JSON document it has to be."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@pytest.fixture(scope="session")
def fits(load_script: Callable[[str], ModuleType]) -> Callable[[str, object], None]:
    """``fits("manifest", document)``: ``ValidationError`` for one that has not the form that ``docs/schemas`` says."""
    check: Callable[[str, object], None] = load_script("kits/fits").check
    return check


@pytest.fixture
def vggt_edge(capfd: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """``vggt_edge("targets", "--json")`` runs the command in this process."""
    from vggt_edge.exporter.cli import main

    def run(*arguments: str | Path) -> Finished:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def make_small() -> Callable[..., VGGT]:
    """``make_small(frames=2, outputs=OUTPUTS, depth=1)``: a VGGT for images of 28 x 28, by default of four blocks.

    Random weights, none of them zero or tiny, so that every block matters to the outputs.
    """
    import torch

    from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig
    from vggt_edge.exporter.models.vggt import VGGT

    @cache
    def build(frames: int, outputs: tuple[str, ...], depth: int) -> VGGT:
        config = VGGTConfig(
            name="small",
            embed_dim=64,
            dino_depth=1,
            depth=depth,
            heads=2,
            position_grid=2,
            taps=(0, min(1, depth - 1), min(2, depth - 1), min(3, depth - 1)),
            camera_trunk_depth=1,
            camera_heads=2,
            camera_iterations=2,
            dpt_features=16,
            dpt_channels=(8, 8, 16, 16),
            dpt_hidden=8,
        )
        torch.manual_seed(0)
        small = VGGT(config, InputShape(frames, 28, 28), outputs)
        for name, parameter in small.named_parameters():
            if name.endswith("gamma") or not bool(parameter.detach().any()):
                torch.nn.init.normal_(parameter, std=0.3)
        return small.fix_constants()

    return lambda frames=2, outputs=OUTPUTS, depth=1: copy.deepcopy(build(frames, outputs, depth))


@pytest.fixture
def small(make_small: Callable[..., VGGT]) -> VGGT:
    return make_small()


@pytest.fixture
def model(make_small: Callable[..., VGGT]) -> VGGT:
    """A VGGT small enough that a forward takes milliseconds."""
    return make_small(FRAMES, depth=4)


@pytest.fixture(scope="session")
def scenes() -> tuple[Scene, ...]:
    """Three scenes of noise for ``model``."""
    import numpy as np

    from vggt_edge.calibration.scenes.scene import Scene

    rng = np.random.default_rng(0)
    images = rng.random((3, FRAMES, 3, SIDE, SIDE), dtype=np.float32)
    return tuple(Scene(f"noise-{index}", image, ("a", "b")) for index, image in enumerate(images))


@pytest.fixture(scope="session")
def stats(make_small: Callable[..., VGGT], scenes: tuple[Scene, ...]) -> CalibrationStats:
    """What calibration observes of ``model`` over ``scenes``."""
    from vggt_edge.calibration.observation.collect import calibrate

    return calibrate(make_small(FRAMES, depth=4), scenes)


@pytest.fixture
def uniform_plan() -> Callable[..., PrecisionPlan]:
    """A plan that gives every block of the model the same scheme."""
    from vggt_edge.calibration.plan import Assignment, PrecisionPlan

    def make(
        model: VGGT,
        scheme: str,
        *,
        rest_scheme: str = "fp16",
        kept_scheme: str = "fp16",
        excluded: tuple[str, ...] = (),
    ) -> PrecisionPlan:
        assignments = tuple(
            Assignment(name, scheme, "test", 0.0, 0, 0.0, excluded if "blocks" in name else ())
            for name in model.blocks()
        )
        return PrecisionPlan(
            "model", "stats", "none", 64, assignments, rest_scheme=rest_scheme, kept_scheme=kept_scheme
        )

    return make

"""The contest itself: every method at every scheme and seed, on scenes that none of them has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import cast

from vggt_edge.calibration.observation.collect import model_digest
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import scheme as scheme_of
from vggt_edge.devices.errors import UnknownNameError
from vggt_edge.exporter.contest.columns import FP32, Row, summarize
from vggt_edge.exporter.contest.measure import HeldOut
from vggt_edge.exporter.contest.methods import METHODS, Method, check_rules, load_methods
from vggt_edge.exporter.contest.results import Figures, Results
from vggt_edge.exporter.contest.sources import source_digest
from vggt_edge.exporter.contest.verdict import Verdict, judge
from vggt_edge.exporter.machine.progress import Progress, note_random
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.registry import MINI, open_model
from vggt_edge.exporter.steps.inputs import (
    BENCH_SEED,
    CALIBRATION_SCENES,
    CALIBRATION_SEED,
    SEEDS_PER_RUN,
    synthetic,
)

SCHEMES = ("w8a8", "w8a8d", "w4a16", "w4a8d", "w4a4d")
SEEDS, HELD_OUT_SCENES, EFFORT = 3, 64, "balanced"
PLAIN, PLANTED = "plain", "planted"
_PLANT_SEED = 0
# Whatever a figure depends on besides the method: the scenes, the model, the metrics.
_MEASURING = ("vggt_edge.exporter.contest.measure", "vggt_edge.calibration.scenes.synthetic")


@dataclass(frozen=True)
class Request:
    """seeds: how many, from 0. frames: of a scene; the default of an export if None. effort: of our method.

    planted: the model is reparametrised so that some channels are outliers, which changes no FP32 output.
    """

    model: str = MINI
    schemes: Sequence[str] = SCHEMES
    methods: Sequence[str] = METHODS
    seeds: int = SEEDS
    scene_count: int = HELD_OUT_SCENES
    calibration_scenes: int = CALIBRATION_SCENES
    frames: int | None = None
    planted: bool = False
    effort: str = EFFORT

    def __post_init__(self) -> None:
        for name in self.schemes:
            if name not in SCHEMES:
                raise UnknownNameError("scheme of the contest", name, SCHEMES)


@dataclass(frozen=True)
class Accuracy:
    """What a contest found. rows: FP32 first, then by scheme and method as requested."""

    model: str
    variant: str
    scene_count: int
    calibration_scenes: int
    frames: int
    seeds: int
    effort: str
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()
    random_weights: str = ""


def accuracy(request: Request, progress: Progress, work: Path | None = None) -> Accuracy:
    """Measure what ``work`` has no result of. Every error in the names comes before the first measurement."""
    methods = load_methods(request.methods, request.effort)
    contest = _Contest(request, progress, Results(work))
    rows = [contest.fp32()]
    rows += [contest.row(scheme, method) for scheme in request.schemes for method in methods]
    return Accuracy(
        model=request.model,
        variant=PLANTED if request.planted else PLAIN,
        scene_count=request.scene_count,
        calibration_scenes=request.calibration_scenes,
        frames=contest.shape.frames,
        seeds=request.seeds,
        effort=request.effort,
        rows=tuple(rows),
        verdicts=judge(rows),
        random_weights=contest.random,
    )


class _Contest:
    """The model and the scenes that all methods get."""

    def __init__(self, request: Request, progress: Progress, results: Results) -> None:
        self.request, self.progress, self.results = request, progress, results
        checkpoint = open_model(request.model)
        self.random = checkpoint.random
        note_random(self.random, progress)
        side = checkpoint.config.native_resolution
        self.shape = checkpoint.architecture.shape(request.frames or checkpoint.architecture.default_frames, side, side)
        model = build_model(checkpoint, self.shape, checkpoint.heads(None))
        self.model = planted(model) if request.planted else model
        self.digest = model_digest(self.model)
        self.calibration: dict[int, tuple[Scene, ...]] = {}
        self.done, self.total = 0, len(request.schemes) * len(request.methods) * request.seeds

    @cached_property
    def held_out(self) -> HeldOut:
        with self.progress.step("render scenes"):
            return HeldOut(self.model, self._rooms(BENCH_SEED, self.request.scene_count, 0))

    def calibration_scenes(self, seed: int) -> tuple[Scene, ...]:
        """Of one seed; no two seeds share a scene, and seed 0 has those of an export."""
        if seed not in self.calibration:
            count = self.request.calibration_scenes
            self.calibration[seed] = self._rooms(CALIBRATION_SEED, count, seed * SEEDS_PER_RUN)
        return self.calibration[seed]

    def _rooms(self, first: int, count: int, seed: int) -> tuple[Scene, ...]:
        shape = self.shape
        return synthetic(first, count, seed, shape.frames, shape.height, shape.width)

    def fp32(self) -> Row:
        def make() -> Figures:
            return self.held_out.figures(self.held_out.reference) | {"seconds": 0.0}

        return summarize(FP32, FP32, [self.results.get(FP32, self._inputs(_MEASURING), make)])

    def row(self, scheme: str, method: Method) -> Row:
        seeds = range(self.request.seeds)
        return summarize(scheme, method.name, [self._result(scheme, method, seed) for seed in seeds])

    def _result(self, scheme: str, method: Method, seed: int) -> Figures:
        self.done += 1
        inputs = self._inputs((method.module, *_MEASURING)) | {
            "method": method.name,
            "settings": method.settings,
            "scheme": asdict(scheme_of(scheme)),
            "seed": seed,
            "calibration": _digest(self.calibration_scenes(seed)),
        }
        name = f"{scheme}-{method.name}-{seed}"
        return self.results.get(name, inputs, lambda: self._measure(scheme, method, seed))

    def _inputs(self, modules: Sequence[str]) -> dict[str, object]:
        return {
            "model": self.digest,
            "held_out": _digest(self.held_out.scenes),
            "code": source_digest(*modules),
            "versions": {name: version(name) for name in ("vggt-edge", "torch", "numpy", "scipy")},
        }

    def _measure(self, scheme: str, method: Method, seed: int) -> Figures:
        with self.progress.step(f"{self.done}/{self.total} {scheme}, {method.name}, seed {seed}"):
            scenes = self.calibration_scenes(seed)
            start = perf_counter()
            quantized = cast(Model, method.quantize(self.model, scenes, scheme_of(scheme), seed))
            seconds = perf_counter() - start
            check_rules(method, quantized, self.model, self.digest)
            return self.held_out.figures(self.held_out.outputs(quantized)) | {"seconds": seconds}


def planted(model: Model) -> Model:
    """The same network with outliers planted in some channels; FP32 outputs are the same."""
    from vggt_edge.calibration.transforms.plant import plant  # only the planted variant has use for it

    return plant(model, _PLANT_SEED)


def _digest(scenes: Sequence[Scene]) -> str:
    return hashlib.sha256("".join(scene.digest for scene in scenes).encode()).hexdigest()

"""Mixed precision against uniform: output error over bytes on vggt-mini, for several ways of choosing what gets bits.

``pareto.py [--scenes N] [--work DIR] [--print]`` rewrites the tables of docs/benchmarks/mixed-precision.md and the plot
docs/images/pareto.svg. With --work it can be killed and called again: what DIR has a result of is not measured anew,
unless the code behind it has changed.

Every budget lies between the bytes of 4 and of 8 bits everywhere. Within it, 8 bits go to the blocks that probed
sensitivities name, or exact ones, or, as a baseline that knows nothing, to the first blocks or to random ones.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from pareto_plot import draw
from pareto_tables import (
    DEPTH,
    EXACT,
    FAMILIES,
    PROBED,
    RANDOM,
    UNIFORM,
    WIDE,
    Errors,
    Family,
    Figures,
    Found,
    Point,
    Run,
    Sensitivities,
    four_bits_of,
    render,
)
from section import replace_section

from vggt_edge.calibration.apply import apply_plan
from vggt_edge.calibration.observation.collect import calibrate, model_digest
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.assign import PlanContext, make_candidates, plan_mixed, plan_uniform, rest_scheme
from vggt_edge.calibration.planning.cost import describe_blocks, rest_bytes, weight_bytes
from vggt_edge.calibration.planning.program import Budget
from vggt_edge.calibration.scheme import scheme
from vggt_edge.calibration.sensitivity.ablation import Sensitivity, measure
from vggt_edge.calibration.sensitivity.probes import estimate
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.calibration.tuning.tune import tune
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.contest.measure import HeldOut
from vggt_edge.exporter.contest.results import Results
from vggt_edge.exporter.contest.sources import source_digest
from vggt_edge.exporter.machine.progress import PlainProgress, Progress
from vggt_edge.exporter.models.architecture import DEFAULT_FRAMES
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import MINI, open_model
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.steps.inputs import (
    BENCH_SEED,
    CALIBRATION_SCENES,
    CALIBRATION_SEED,
    PROBE_SCENES,
    synthetic,
)

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- pareto:begin -->", "<!-- pareto:end -->"
TITLE = "# Mixed precision against uniform"
PLOT = "images/pareto.svg"
PROFILE = "host-cpu"
STEPS = 6  # between the bytes of 4 and of 8 bits everywhere
RANDOM_SEEDS = 3
_SEED = 0  # of the rotations and of the probes
# Whatever a figure depends on besides the plan and the scenes; imported here, so that a change of them is noticed.
_SOURCES = tuple(
    f"vggt_edge.{name}"
    for name in (
        "calibration.tuning.tune",
        "calibration.transforms.prepare",
        "calibration.apply",
        "calibration.scenes.synthetic",
        "calibration.sensitivity.probes",
        "exporter.contest.measure",
    )
)


def budgets(four: int, eight: int, between: Iterable[int] = ()) -> list[int]:
    """Bytes in even steps from uniform 4 bits (left out) to uniform 8 bits, and what other uniform plans take."""
    even = {four + (eight - four) * step // STEPS for step in range(1, STEPS + 1)}
    return sorted(even | set(between))


def with_eight_bits(order: Iterable[str], extra: Mapping[str, int], room: int) -> frozenset[str]:
    """The blocks, taken in this order, that still fit with 8 bits. extra: bytes that they cost each beyond 4 bits."""
    chosen = []
    for block in order:
        if extra[block] <= room:
            chosen.append(block)
            room -= extra[block]
    return frozenset(chosen)


def orders(blocks: Sequence[str]) -> dict[str, list[list[str]]]:
    """By way of choosing that ignores sensitivities: the orders in which blocks get 8 bits."""
    shuffled = [np.random.default_rng(seed).permutation(len(blocks)) for seed in range(RANDOM_SEEDS)]
    return {DEPTH: [list(blocks)], RANDOM: [[blocks[index] for index in order] for order in shuffled]}


class Bench:
    """vggt-mini, prepared and calibrated as an export does it, and the rooms that judge."""

    def __init__(self, scene_count: int, results: Results, progress: Progress) -> None:
        self.results, self.progress = results, progress
        checkpoint = open_model(MINI)
        side = checkpoint.config.native_resolution
        self.shape = InputShape(DEFAULT_FRAMES, side, side)
        size = (self.shape.frames, side, side)
        self.fp32 = build_model(checkpoint, self.shape, OUTPUTS)
        self.scenes = synthetic(CALIBRATION_SEED, CALIBRATION_SCENES, 0, *size)
        self.held_out = HeldOut(self.fp32, synthetic(BENCH_SEED, scene_count, 0, *size))
        self.model = prepare(self.fp32, _SEED)
        with progress.step("calibrate"):
            self.stats = calibrate(self.model, self.scenes)
        self.profile = load_profile(PROFILE)
        self.blocks = describe_blocks(self.model, self.model.example_input())

    @cached_property
    def inputs(self) -> dict[str, object]:
        """What every result depends on."""
        scenes = "".join(scene.digest for scene in (*self.scenes, *self.held_out.scenes))
        return {
            "model": model_digest(self.fp32),
            "scenes": hashlib.sha256(scenes.encode()).hexdigest(),
            "code": source_digest(*_SOURCES),
        }

    def found(self, family: Family) -> Found:
        both = self.sensitivities(family)
        return Found(family, self.fp32_bytes, self.fp32_figures, tuple(self.points(family, both)), both)

    @property
    def fp32_bytes(self) -> int:
        return 4 * sum(parameter.numel() for parameter in self.fp32.parameters())

    @cached_property
    def fp32_figures(self) -> Figures:
        return self.results.get("fp32", self.inputs, lambda: self.held_out.figures(self.held_out.reference))

    def sensitivities(self, family: Family) -> Sensitivities:
        """Both ways over the same scenes, with every scheme that any of the plans may have."""
        wanted = (family.wide, family.eight, family.four)
        candidates = {
            name: tuple(one for one in schemes if one != "fp32") for name, schemes in self.options(family, wanted)
        }
        scenes, group = self.scenes[:PROBE_SCENES], family.group_size
        probed, probed_s = self._sensitivities(
            f"{family.name}-probed",
            lambda: estimate(self.model, self.stats, scenes, candidates, group, seed=_SEED),
        )
        exact, exact_s = self._sensitivities(
            f"{family.name}-exact", lambda: measure(self.model, self.stats, scenes, candidates, group)
        )
        return Sensitivities(probed, exact, probed_s, exact_s)

    def _sensitivities(self, name: str, make: Callable[[], tuple[Sensitivity, ...]]) -> tuple[Errors, float]:
        def timed() -> Figures:
            with self.progress.step(name):
                start = perf_counter()
                found = make()
                seconds = perf_counter() - start
            return {f"{one.block} {one.scheme}": one.error for one in found} | {"seconds": seconds}

        values = dict(self.results.get(f"sensitivity-{name}", self.inputs | {"what": name}, timed))
        seconds = values.pop("seconds")
        return {(key.split()[0], key.split()[1]): error for key, error in values.items()}, seconds

    def options(self, family: Family, schemes: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """By block, the forms that these schemes mean for it."""
        for block in self.blocks:
            forms = (four_bits_of(family, block.is_conv) if one == family.four else one for one in schemes)
            yield block.name, tuple(dict.fromkeys(forms))

    def points(self, family: Family, both: Sensitivities) -> Iterator[Point]:
        uniform = {name: self.uniform(family, name) for name in (family.four, *family.between, family.eight)}
        for name, plan in uniform.items():
            yield self.point(family, UNIFORM, plan.weight_bytes, [plan], name)
        four, *between, eight = (plan.weight_bytes for plan in uniform.values())
        two = dict(self.options(family, (family.eight, family.four)))
        three = dict(self.options(family, (family.wide, family.eight, family.four)))
        for budget in budgets(four, eight, between):
            yield self.point(family, WIDE, budget, [self.mixed(family, both.probed, three, budget)])
            if budget == eight:
                continue
            yield self.point(family, PROBED, budget, [self.mixed(family, both.probed, two, budget)])
            yield self.point(family, EXACT, budget, [self.mixed(family, both.exact, two, budget)])
            for way, lists in orders(list(two)).items():
                yield self.point(family, way, budget, [self.blind(family, order, budget) for order in lists])

    def context(self, family: Family) -> PlanContext:
        rest = rest_scheme("mixed", self.profile)
        digests = self.stats.model_digest, self.stats.digest
        return PlanContext(*digests, PROFILE, family.group_size, rest_bytes(self.model, rest), rest)

    def uniform(self, family: Family, name: str) -> PrecisionPlan:
        return plan_uniform(self.blocks, name, self.profile, self.context(family))

    def mixed(self, family: Family, errors: Errors, schemes: Mapping[str, Sequence[str]], budget: int) -> PrecisionPlan:
        candidates = make_candidates(self.blocks, errors, self.profile, family.group_size, schemes)
        return plan_mixed(candidates, Budget(max_memory_bytes=budget), self.context(family))

    def blind(self, family: Family, order: Sequence[str], budget: int) -> PrecisionPlan:
        """8 bits for blocks in this order, as far as the budget goes, 4 for the others."""
        narrow = {name: forms[0] for name, forms in self.options(family, (family.four,))}
        extra = {block.name: self._extra(family, block.name) for block in self.blocks}
        wide = with_eight_bits(order, extra, budget - self.uniform(family, family.four).weight_bytes)
        schemes = {name: (family.eight if name in wide else form,) for name, form in narrow.items()}
        nothing = {(name, one): 0.0 for name, forms in schemes.items() for one in forms}
        return self.mixed(family, nothing, schemes, budget)

    def _extra(self, family: Family, name: str) -> int:
        block = next(block for block in self.blocks if block.name == name)
        eight, four = (weight_bytes(block, one, family.group_size) for one in (family.eight, family.four))
        return eight - four

    def point(self, family: Family, way: str, budget: int, plans: Sequence[PrecisionPlan], label: str = "") -> Point:
        return Point(way, budget, tuple(self.run(family, plan) for plan in plans), label)

    def run(self, family: Family, plan: PrecisionPlan) -> Run:
        schemes = {one.block: one.scheme for one in plan.assignments}
        found = {}
        for rounding, make in (("plain", self.plain), ("tuned", self.tuned)):
            inputs = self.inputs | {"plan": schemes, "group_size": plan.group_size, "rest": plan.rest_scheme}
            found[rounding] = self.results.get(
                f"{family.name}-{rounding}",
                inputs | {"rounding": rounding},
                lambda make=make: self.judged(make(family, plan), plan),
            )
        return Run(plan.weight_bytes, found)

    def judged(self, model: VGGT, plan: PrecisionPlan) -> Figures:
        apply_plan(model, plan, self.stats)
        return self.held_out.figures(self.held_out.outputs(model))

    def plain(self, family: Family, plan: PrecisionPlan) -> VGGT:
        return deepcopy(self.model)

    def tuned(self, family: Family, plan: PrecisionPlan) -> VGGT:
        """The model as ``tune`` makes it for the plan, put together from uniformly tuned ones.

        What tuning makes of a block depends on the FP32 model and on the block's own scheme, not on what other blocks
        get, as long as blocks are not reconstructed from quantized inputs. ``tests/benchmarks/test_pareto.py`` holds
        that to the bit.
        """
        return composed(self.model, {one.block: self.tuned_all(family, one.scheme) for one in plan.assignments})

    @cache  # noqa: B019 - one bench, which lives as long as the program
    def tuned_all(self, family: Family, name: str) -> VGGT:
        """Every block tuned for one scheme; in floating point they stay as they are."""
        if scheme(name).weight_bits >= 16:
            return self.model
        model = deepcopy(self.model)
        with self.progress.step(f"tune {name}"):
            tune(model, self.uniform(family, name), self.stats, self.scenes, seed=_SEED)
        return model


def composed(model: VGGT, sources: Mapping[str, VGGT]) -> VGGT:
    """A copy of ``model`` that has each block from the model that ``sources`` names for it."""
    copy = deepcopy(model)
    paths = {id(module): path for path, module in copy.named_modules()}
    for name, block in copy.blocks().items():
        copy.set_submodule(paths[id(block)], deepcopy(sources[name].blocks()[name]))
    return copy


def lead(scene_count: int) -> str:
    return (
        f"`python tests/benchmarks/pareto.py`: {MINI}, {scene_count} held-out rooms of {DEFAULT_FRAMES} frames, "
        f"prepared and calibrated on {CALIBRATION_SCENES} others as an export does it (layers outside the blocks in 8 "
        "bits). Within a budget of bytes, a plan gives each block 8 or 4 bits (dense heads are convolutions, which "
        f"keep 8): by sensitivities from one probe of each of {PROBE_SCENES} rooms or from exact ablation over them, "
        "or without any, to the first blocks that fit or to random ones (mean ± standard deviation over "
        f"{RANDOM_SEEDS} orders). *Plain* rounds to nearest, *tuned* is `--effort balanced`. *Output error* is against "
        "FP32, as in the sensitivities; in bold what is on the Pareto front of its column."
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=16, help="held-out rooms")
    parser.add_argument("--work", type=Path, help="folder for the results; none are kept without")
    parser.add_argument("--print", action="store_true", help="print the section, write no file")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the documentation")
    given = parser.parse_args(arguments)
    if given.scenes < 1:
        parser.error("--scenes is at least 1")
    return given


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    with TemporaryDirectory() as scratch:  # plans of different ways are often the same: each is measured once
        bench = Bench(given.scenes, Results(given.work or Path(scratch)), PlainProgress())
        found = [bench.found(family) for family in FAMILIES]
    plot = f"![Output error over bytes of weights, for each way of choosing](../{PLOT})"
    body = f"{lead(given.scenes)}\n\n{plot}\n\n{render(found)}"
    if given.print:
        print(body)
        return 0
    document, image = given.docs / "benchmarks" / "mixed-precision.md", given.docs / PLOT
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_text(draw(found))
    text = document.read_text() if document.is_file() else ""
    document.write_text(replace_section(text, body, TITLE, BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

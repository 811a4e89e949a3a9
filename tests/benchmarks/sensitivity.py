"""Compares probed sensitivities (sensitivity/probes.py) with the exact ablation (sensitivity/ablation.py).

``sensitivity.py [--scenes N] [--probes P] [--seeds K] [--frames S] [--resolution N]``: on vggt-mini and its synthetic
scenes, all blocks in fp16, w8a16, w8a8 and w4a16 (heads: no w4a16). Rank correlations (Spearman), ratio predicted /
exact (median, 5th and 95th percentile), seconds of both. Everything but the seconds is the same in every run on one
kind of CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.stats import spearmanr

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.sensitivity.ablation import Sensitivity, measure
from vggt_edge.calibration.sensitivity.probes import estimate
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.steps.inputs import CALIBRATION_SCENES, CALIBRATION_SEED, synthetic

SCHEMES = ("fp16", "w8a16", "w8a8", "w4a16")
GROUP_SIZE = 64
Errors = Mapping[tuple[str, str], float]
T = TypeVar("T")


def candidates_of(model: VGGT) -> dict[str, tuple[str, ...]]:
    """The heads consist of convolutions, which have no 4-bit form."""
    return {name: SCHEMES[:3] if name.endswith("_head") else SCHEMES for name in model.blocks()}


def timed(make: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def by_pair(found: Sequence[Sensitivity]) -> Errors:
    return {(one.block, one.scheme): one.error for one in found}


def correlation(ours: Errors, exact: Errors, scheme: str | None = None) -> float:
    """Spearman's, over the blocks of one scheme or over all pairs."""
    pairs = [pair for pair in exact if scheme in (None, pair[1])]
    return float(spearmanr([ours[pair] for pair in pairs], [exact[pair] for pair in pairs]).statistic)


def row(label: str, ours: Errors, exact: Errors, seconds: float) -> str:
    ratios = np.array([ours[pair] / exact[pair] for pair in exact])
    low, median, high = np.percentile(ratios, [5, 50, 95])
    ranks = [correlation(ours, exact, scheme) for scheme in (None, *SCHEMES)]
    total = sum(ours.values()) / sum(exact.values())
    shown = " ".join(f"{rank:6.3f}" for rank in ranks)
    return f"{label:24} {shown}   {median:5.2f} {low:5.2f} {high:5.2f}  {total:5.2f}  {seconds:7.1f}"


def header() -> str:
    names = " ".join(f"{name:>6}" for name in ("all", *SCHEMES))
    return f"{'':24} {names}   {'ratio':>5} {'5 %':>5} {'95 %':>5}  {'sums':>5}  {'seconds':>7}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1)
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--resolution", type=int, default=84)
    given = parser.parse_args()
    shape = InputShape(given.frames, given.resolution, given.resolution)
    model = build_model(open_model("vggt-mini"), shape, OUTPUTS)
    count = max(CALIBRATION_SCENES, 2 * given.scenes)
    scenes = synthetic(CALIBRATION_SEED, count, 0, shape.frames, shape.height, shape.width)
    stats, wanted = calibrate(model, scenes), candidates_of(model)
    measured, taken = timed(lambda: measure(model, stats, scenes[: given.scenes], wanted, GROUP_SIZE))
    exact = by_pair(measured)
    print(f"vggt-mini, {given.scenes} of {count} scenes, {shape.frames} frames of {given.resolution} px")
    print(header())
    print(row("exact ablation", exact, exact, taken))
    others, taken = timed(lambda: measure(model, stats, scenes[given.scenes : 2 * given.scenes], wanted, GROUP_SIZE))
    print(row("exact, other scenes", by_pair(others), exact, taken))
    for probes in given.probes:
        for seed in range(given.seeds):
            found, taken = timed(
                lambda seed=seed, probes=probes: estimate(
                    model, stats, scenes[: given.scenes], wanted, GROUP_SIZE, seed=seed, probes=probes
                )
            )
            print(row(f"{probes} probe(s), seed {seed}", by_pair(found), exact, taken), flush=True)


if __name__ == "__main__":
    main()

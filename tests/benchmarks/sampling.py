"""Sampling of calibration scenes against a random draw, from a pool of which a quarter is broken.

``python tests/benchmarks/sampling.py`` rewrites the section "Sampling of calibration scenes" of docs/benchmarks.md; it
takes about ten minutes of one core. Everything but the seconds is the same in every run on one kind of CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from section import replace_section, table

from vggt_edge.calibration.sampling import SceneFeatures, choose, features
from vggt_edge.calibration.scenes import Scene
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.method import quantize
from vggt_edge.exporter.accuracy.measure import HeldOut
from vggt_edge.exporter.inputs import BENCH_SEED, CALIBRATION_SCENES, CALIBRATION_SEED, DEFAULT_FRAMES, synthetic
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import MINI, open_model
from vggt_edge.exporter.models.vggt import VGGT

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END, TITLE = "<!-- sampling:begin -->", "<!-- sampling:end -->", "## Sampling of calibration scenes"
SCHEME, FRAMES, HELD_OUT, POOL = "w8a8", DEFAULT_FRAMES, 16, 48
BROKEN_EACH = 3  # of every kind
FEW = 4  # scenes, where more of the spread over seeds is left than with as many as an export takes
NOISE, BLUR_PIXELS = 0.4, 6.0
WHOLE = "intact only, at random"
Images = npt.NDArray[np.float32]


def black(images: Images, other: Images, rng: np.random.Generator) -> Images:
    """Half of the frames."""
    broken = images.copy()
    broken[rng.permutation(len(images))[: len(images) // 2]] = 0
    return broken


def unrelated(images: Images, other: Images, rng: np.random.Generator) -> Images:
    """The later half of the frames shows another room."""
    half = len(images) // 2
    return np.concatenate([images[:half], other[half:]])


def noisy(images: Images, other: Images, rng: np.random.Generator) -> Images:
    return np.asarray((images + rng.normal(0, NOISE, images.shape)).clip(0, 1), dtype=np.float32)


def blurred(images: Images, other: Images, rng: np.random.Generator) -> Images:
    return np.asarray(gaussian_filter(images, (0, 0, BLUR_PIXELS, BLUR_PIXELS)), dtype=np.float32)


KINDS: Mapping[str, Callable[[Images, Images, np.random.Generator], Images]] = {
    "black frames": black,
    "frames of another room": unrelated,
    "noise": noisy,
    "blur": blurred,
}


@dataclass(frozen=True)
class Pool:
    """broken: by the index of a scene, the kind of its defect."""

    scenes: tuple[Scene, ...]
    broken: Mapping[int, str]


def salted(scenes: Sequence[Scene], others: Sequence[Scene], seed: int) -> Pool:
    """Break ``BROKEN_EACH`` of the scenes in each way; ``others`` lend frames, one of them for each broken scene."""
    rng = np.random.default_rng([seed, 0x5A17])
    kinds = [kind for kind in KINDS for _ in range(BROKEN_EACH)]
    broken = dict(zip((int(index) for index in rng.permutation(len(scenes))), kinds, strict=False))
    mixed = list(scenes)
    for (index, kind), other in zip(broken.items(), others, strict=True):
        images = KINDS[kind](mixed[index].images, other.images, rng)
        mixed[index] = replace(mixed[index], name=f"{mixed[index].name}, {kind}", images=images, ground_truth=None)
    return Pool(tuple(mixed), broken)


def drawn(indices: Sequence[int], count: int, seed: int) -> tuple[int, ...]:
    """At random, without a look at the scenes."""
    rng = np.random.default_rng([seed, 0xD4A])
    return tuple(sorted(int(index) for index in rng.permutation(indices)[:count]))


@dataclass(frozen=True)
class Run:
    """One choice, and what came of calibrating on it."""

    broken_share: float
    output_error: float
    auc30: float
    seconds: float


Choices = Mapping[str, Sequence[tuple[int, ...]]]
Runs = Mapping[str, Sequence[Run]]


def choices(pool: Pool, found: SceneFeatures, count: int, seeds: int) -> Choices:
    """By way of choosing and seed, indices of the pool."""
    every = range(len(pool.scenes))
    intact = [index for index in every if index not in pool.broken]
    return {
        "at random": [drawn(every, count, seed) for seed in range(seeds)],
        "NFDS": [choose(found, count, seed).chosen for seed in range(seeds)],
        WHOLE: [drawn(intact, count, seed) for seed in range(seeds)],
    }


def run(held_out: HeldOut, pool: Pool, chosen: Sequence[int], make: Callable[[VGGT, Sequence[Scene]], VGGT]) -> Run:
    start = time.perf_counter()
    quantized = make(held_out.model, [pool.scenes[index] for index in chosen])
    seconds = time.perf_counter() - start
    figures = held_out.figures(held_out.outputs(quantized))
    share = sum(index in pool.broken for index in chosen) / len(chosen)
    return Run(share, figures["output_error"], figures["auc30"], seconds)


def rounded(model: VGGT, scenes: Sequence[Scene]) -> VGGT:
    """To nearest, with static scales; no transforms, no tuning."""
    return quantize(model, scenes, SCHEMES[SCHEME], 0, "fast", rotate=False, balance=False, tuned=False)


def tuned(model: VGGT, scenes: Sequence[Scene]) -> VGGT:
    """Our recipe; its own seed stays 0, so that what differs is the scenes."""
    return quantize(model, scenes, SCHEMES[SCHEME], 0, "fast")


def runs_table(runs: Runs) -> str:
    """One row for each way of choosing."""
    columns = (
        "scenes chosen",
        "broken",
        "output error: mean",
        "deviation",
        "worst",
        "AUC@30: mean",
        "deviation",
        "worst",
    )
    return table((*columns, "seconds"), [_row(name, found) for name, found in runs.items()])


def _row(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    errors, angles = [one.output_error for one in runs], [one.auc30 for one in runs]
    return (
        name,
        f"{fmean(one.broken_share for one in runs):.0%}",
        *(f"{value:.2e}" for value in (fmean(errors), stdev(errors), max(errors))),
        *(f"{value:.2f}" for value in (fmean(angles), stdev(angles), min(angles))),
        f"{fmean(one.seconds for one in runs):.1f}",
    )


def dropped_by_kind(pool: Pool, dropped: Sequence[int]) -> str:
    """What the filter found, such as ``black frames 3 of 3``; intact scenes last."""
    gone = [pool.broken.get(index, "intact") for index in dropped]
    counts = {kind: list(pool.broken.values()).count(kind) for kind in KINDS}
    counts |= {"intact": len(pool.scenes) - len(pool.broken)}
    return ", ".join(f"{kind} {gone.count(kind)} of {count}" for kind, count in counts.items())


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tuned-seeds", type=int, default=5)
    parser.add_argument("--pool-seed", type=int, default=0, help="of the rooms and of what is broken in which")
    parser.add_argument("--print", action="store_true", help="print the section, write no file")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="file with the section")
    given = parser.parse_args(arguments)
    if min(given.seeds, given.tuned_seeds) < 2:
        parser.error("a deviation takes two seeds")
    body = measured(given.seeds, given.tuned_seeds, given.pool_seed)
    if given.print:
        print(body)
    else:
        given.out.write_text(replace_section(given.out.read_text(), body, TITLE, BEGIN, END))


def measured(seeds: int, tuned_seeds: int, pool_seed: int) -> str:
    """The section's text."""
    checkpoint = open_model(MINI)
    side = checkpoint.config.native_resolution
    model = build_model(checkpoint, InputShape(FRAMES, side, side), OUTPUTS)
    rooms = partial(synthetic, frames=FRAMES, height=side, width=side)
    lenders = BROKEN_EACH * len(KINDS)
    scenes = rooms(CALIBRATION_SEED, POOL + lenders, 1_000_000 // 2 + 1_000 * pool_seed)
    pool = salted(scenes[:POOL], scenes[POOL:], pool_seed)
    held_out = HeldOut(model, rooms(BENCH_SEED, HELD_OUT, 0))
    start = time.perf_counter()
    found = features(model, pool.scenes)
    seconds = time.perf_counter() - start
    parts = []
    for title, make, scenes_wanted, count in (
        ("rounded to nearest", rounded, FEW, seeds),
        ("rounded to nearest", rounded, CALIBRATION_SCENES, seeds),
        ("tuned (`fast`)", tuned, CALIBRATION_SCENES, tuned_seeds),
    ):
        chosen = choices(pool, found, scenes_wanted, count)
        runs = {name: [run(held_out, pool, each, make) for each in every] for name, every in chosen.items()}
        parts.append(f"Static W8A8, {title}, {scenes_wanted} scenes chosen, {count} seeds:\n\n{runs_table(runs)}")
        print(parts[-1], file=sys.stderr, flush=True)
    dropped = dropped_by_kind(pool, choose(found, CALIBRATION_SCENES, 0).dropped)
    lead = (
        f"`python tests/benchmarks/sampling.py` (vggt-mini; a pool of {POOL} rooms, {len(pool.broken)} of them broken: "
        f"black frames, frames of another room, noise, blur; errors and "
        f"poses of {HELD_OUT} held-out rooms, FP32: AUC@30 {held_out.figures(held_out.reference)['auc30']:.2f}; "
        f"deviation: standard deviation over the seeds)"
    )
    return "\n\n".join([lead, *parts, f"Dropped: {dropped}. A look at the whole pool takes {seconds:.1f} s."])


if __name__ == "__main__":
    main(sys.argv[1:])

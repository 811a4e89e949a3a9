"""Sampling of calibration scenes against a random draw, from pools of which a quarter is broken.

``python tests/benchmarks/sampling.py`` rewrites the tables of docs/benchmarks/sampling.md; it
takes about 25 minutes of one core. Everything but the seconds is the same in every run on one kind of CPU.

Every seed draws from a pool of its own: over one pool, a way that always chooses the same scenes would have no spread.
``--black`` fills the part of the section whose pools are broken in one way only: a quarter of the rooms is black.
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

from vggt_edge.calibration.observation.sampling import SceneFeatures, choose, features
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.method import quantize
from vggt_edge.exporter.contest.measure import HeldOut
from vggt_edge.exporter.models.architecture import DEFAULT_FRAMES
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import MINI, open_model
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.steps.inputs import BENCH_SEED, CALIBRATION_SCENES, CALIBRATION_SEED, synthetic

ROOT = Path(__file__).resolve().parents[2]
BLACK_BEGIN, BLACK_END = "<!-- sampling-black:begin -->", "<!-- sampling-black:end -->"
BEGIN, END, TITLE = "<!-- sampling:begin -->", "<!-- sampling:end -->", "# Sampling of calibration scenes"
FRAMES, HELD_OUT, POOL = DEFAULT_FRAMES, 16, 48
BROKEN_EACH = 3  # of every kind
NOISE, BLUR_PIXELS, DARK_NOISE = 0.4, 6.0, 0.01
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


def blackened(scenes: Sequence[Scene], seed: int) -> Pool:
    """As many as ``salted`` breaks, all of whose frames are a sensor's noise in the dark."""
    rng = np.random.default_rng([seed, 0xB1AC])
    broken = {int(index): "black" for index in rng.permutation(len(scenes))[: BROKEN_EACH * len(KINDS)]}
    dark = list(scenes)
    for index in broken:
        images = rng.normal(0, DARK_NOISE, dark[index].images.shape).clip(0, 1).astype(np.float32)
        dark[index] = replace(dark[index], name=f"{dark[index].name}, black", images=images, ground_truth=None)
    return Pool(tuple(dark), broken)


def drawn(indices: Sequence[int], count: int, seed: int) -> tuple[int, ...]:
    """At random, without a look at the scenes."""
    rng = np.random.default_rng([seed, 0xD4A])
    return tuple(sorted(int(index) for index in rng.permutation(indices)[:count]))


@dataclass(frozen=True)
class Run:
    """One choice, and what came of calibrating on it. point_noise: noise by signal of the point maps against FP32."""

    broken_share: float
    point_noise: float
    output_error: float
    auc30: float
    seconds: float


Runs = Mapping[str, Sequence[Run]]
Make = Callable[[VGGT, Sequence[Scene]], VGGT]


def choices(pool: Pool, found: SceneFeatures, count: int, seed: int) -> Mapping[str, tuple[int, ...]]:
    """By way of choosing, indices of the pool."""
    every = range(len(pool.scenes))
    intact = [index for index in every if index not in pool.broken]
    return {
        "at random": drawn(every, count, seed),
        "NFDS": choose(found, count, seed).chosen,
        WHOLE: drawn(intact, count, seed),
    }


def run(held_out: HeldOut, pool: Pool, chosen: Sequence[int], make: Make) -> Run:
    start = time.perf_counter()
    quantized = make(held_out.model, [pool.scenes[index] for index in chosen])
    seconds = time.perf_counter() - start
    figures = held_out.figures(held_out.outputs(quantized))
    share = sum(index in pool.broken for index in chosen) / len(chosen)
    noise = 10 ** (-figures["points_sqnr_db"] / 10)
    return Run(share, noise, figures["output_error"], figures["auc30"], seconds)


def rounded(model: VGGT, scenes: Sequence[Scene]) -> VGGT:
    """To nearest, with static scales; no transforms, no tuning."""
    return quantize(model, scenes, SCHEMES["w8a8"], 0, "fast", rotate=False, balance=False, tuned=False)


def tuned(model: VGGT, scenes: Sequence[Scene]) -> VGGT:
    """Our recipe; its own seed stays 0, so that what differs is the scenes."""
    return quantize(model, scenes, SCHEMES["w4a16"], 0, "fast")


CASES: Sequence[tuple[str, Make, int]] = (
    ("W4A16, tuned (`fast`)", tuned, 2),
    ("W4A16, tuned (`fast`)", tuned, 4),
    ("Static W8A8, rounded to nearest", rounded, 4),
)


def runs_table(runs: Runs) -> str:
    """One row for each way of choosing."""
    figures = ("noise of points", "output error", "AUC@30")
    columns = [f"{name}: {what}" for name in figures for what in ("mean", "deviation", "worst")]
    return table(("scenes chosen", "broken", *columns, "seconds"), [_row(name, found) for name, found in runs.items()])


def spread_line(runs: Runs) -> str:
    """Deviations of the choice by those of the random draw."""
    random, chosen = runs["at random"], runs["NFDS"]
    ratios = [
        f"{name} {stdev(getattr(one, field) for one in chosen) / stdev(getattr(one, field) for one in random):.2f}"
        for name, field in (("noise of points", "point_noise"), ("output error", "output_error"), ("AUC@30", "auc30"))
    ]
    return f"Deviation with NFDS by that of the random draw: {', '.join(ratios)}."


def _row(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    angles = [one.auc30 for one in runs]
    small = ([one.point_noise for one in runs], [one.output_error for one in runs])
    return (
        name,
        f"{fmean(one.broken_share for one in runs):.0%}",
        *(f"{value:.2e}" for errors in small for value in (fmean(errors), stdev(errors), max(errors))),
        *(f"{value:.2f}" for value in (fmean(angles), stdev(angles), min(angles))),
        f"{fmean(one.seconds for one in runs):.1f}",
    )


def dropped_by_kind(pool: Pool, dropped: Sequence[int]) -> str:
    """What the filter found, such as ``black frames 3 of 3``; intact scenes last."""
    gone = [pool.broken.get(index, "intact") for index in dropped]
    counts = {kind: list(pool.broken.values()).count(kind) for kind in dict.fromkeys(pool.broken.values())}
    counts |= {"intact": len(pool.scenes) - len(pool.broken)}
    return ", ".join(f"{kind} {gone.count(kind)} of {count}" for kind, count in counts.items())


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=32, help="how many pools, each with a choice of its own")
    parser.add_argument("--black", action="store_true", help="pools of which a quarter is black, W4A16 alone")
    parser.add_argument("--print", action="store_true", help="print the section, write no file")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/sampling.md", help="file with the tables")
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        parser.error("a deviation takes two seeds")
    body = measured(given.seeds, given.black)
    if given.print:
        print(body)
    else:
        marks = (BLACK_BEGIN, BLACK_END) if given.black else (BEGIN, END)
        given.out.write_text(replace_section(given.out.read_text(), body, TITLE, *marks))


def measured(seeds: int, black: bool) -> str:
    """The section's text."""
    cases = [case for case in CASES if case[1] is tuned] if black else CASES
    checkpoint = open_model(MINI)
    side = checkpoint.config.native_resolution
    model = build_model(checkpoint, InputShape(FRAMES, side, side), OUTPUTS)
    rooms = partial(synthetic, frames=FRAMES, height=side, width=side)
    held_out = HeldOut(model, rooms(BENCH_SEED, HELD_OUT, 0))
    found: list[dict[str, list[Run]]] = [{} for _ in cases]
    seconds = []
    for seed in range(seeds):
        pool = pool_of(rooms, seed, black)
        start = time.perf_counter()
        seen = features(model, pool.scenes)
        seconds.append(time.perf_counter() - start)
        for (_, make, count), runs in zip(cases, found, strict=True):
            for name, chosen in choices(pool, seen, count, seed).items():
                runs.setdefault(name, []).append(run(held_out, pool, chosen, make))
        print(f"{seed + 1}/{seeds}", file=sys.stderr, flush=True)
    parts = [
        f"{title}, {count} scenes chosen:\n\n{runs_table(runs)}\n\n{spread_line(runs)}"
        for (title, _, count), runs in zip(cases, found, strict=True)
    ]
    dropped = dropped_by_kind(pool, choose(seen, CALIBRATION_SCENES, 0).dropped)
    auc30 = held_out.figures(held_out.reference)["auc30"]
    kinds = ", ".join(dict.fromkeys(pool.broken.values()))
    lead = (
        f"`python tests/benchmarks/sampling.py{' --black' * black} --seeds {seeds}` (vggt-mini; each seed has a pool "
        f"of its own: {POOL} rooms, {len(pool.broken)} of them broken: {kinds}; figures of {HELD_OUT} held-out rooms, "
        f"FP32: AUC@30 {auc30:.2f}; noise of points: by signal, against FP32; deviation: standard deviation over the "
        f"seeds)"
    )
    last = f"Dropped of the last pool: {dropped}. A look at a whole pool takes {fmean(seconds):.1f} s."
    return "\n\n".join([lead, *parts, last])


def pool_of(rooms: Callable[[int, int, int], tuple[Scene, ...]], seed: int, black: bool) -> Pool:
    """rooms: that of a first seed, a number of rooms and what is added to the seed of each."""
    lenders = BROKEN_EACH * len(KINDS)
    scenes = rooms(CALIBRATION_SEED, POOL + lenders, 1_000_000 // 2 + 1_000 * seed)
    return blackened(scenes[:POOL], seed) if black else salted(scenes[:POOL], scenes[POOL:], seed)


if __name__ == "__main__":
    main(sys.argv[1:])

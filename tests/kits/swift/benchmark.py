#!/usr/bin/env python3
"""Times of the Swift kit beside Pillow and numpy on this machine: ``python tests/kits/swift/benchmark.py``.

Needs the package that ``make test-kits KITS=swift`` lays out. Builds it with optimization, and prints a table: the
best of several runs in milliseconds of the processor, each on one thread. ``--before COMMIT`` times the kit of that
commit too, in turns with the kit as it is.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vggt_edge.calibration.metrics.figures import confident_pixels, drift
from vggt_edge.calibration.metrics.geometry import unproject

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
WORK = REPOSITORY / "build/kits/swift"
PACKAGE, BEFORE = WORK / "package", WORK / "before"
CORE = "runtimes/coreml/kit/VGGTEdge/Sources/VGGTEdgeCore"
MANIFEST = """// swift-tools-version: 6.0
import PackageDescription
let package = Package(name: "Before", targets: [
    .target(name: "VGGTEdgeCore"), .executableTarget(name: "Benchmark", dependencies: ["VGGTEdgeCore"]),
])
"""
CAMERA, TARGET = (1440, 1920), (392, 518)
FRAMES = 8
TURNS = 3


def best(body: Callable[[], object], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.thread_time()
        body()
        times.append(1e3 * (time.thread_time() - start))
    return min(times)


def python_times() -> dict[str, float]:
    """By the names that the Swift benchmark prints."""
    random = np.random.default_rng(0)
    ycbcr = Image.fromarray(random.integers(0, 256, (*CAMERA, 3)).astype(np.uint8)).convert("YCbCr")
    turned = ycbcr.convert("RGB").transpose(Image.Transpose.ROTATE_270)
    values = random.uniform(0.5, 1.5, 3 * FRAMES * TARGET[0] * TARGET[1]).astype(np.float32)
    reference = values + np.float32(1e-3)
    depth = values[: values.size // 3].reshape(FRAMES, *TARGET)
    lens = np.broadcast_to(np.array([[400.0, 0, 259], [0, 400, 196], [0, 0, 1]]), (FRAMES, 3, 3))
    poses = np.broadcast_to(np.eye(3, 4), (FRAMES, 3, 4))
    return {
        "prepare turned": best(lambda: resized(ycbcr.convert("RGB").transpose(Image.Transpose.ROTATE_270))),
        "prepare upright": best(lambda: resized(ycbcr.convert("RGB"))),
        "resize": best(lambda: resized(turned)),
        "Drift of 4.9 million": best(lambda: drift(values, reference), 3),
        "confident pixels of 1.6 million": best(lambda: confident_pixels(depth), 3),
        "unproject 8 x 392 x 518": best(lambda: unproject(depth, lens, poses), 3),
    }


def resized(image: Image.Image) -> Image.Image:
    """Scaled until it covers the target and cropped evenly, as the readers do it."""
    scale = max(TARGET[1] / image.width, TARGET[0] / image.height)
    width, height = min(TARGET[1] / scale, image.width), min(TARGET[0] / scale, image.height)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return image.resize(TARGET[::-1], Image.Resampling.BICUBIC, box=box)


def lay_out(commit: str) -> None:
    """The core of the kit as it was, with a benchmark of its own."""
    shutil.rmtree(BEFORE / "Sources", ignore_errors=True)
    (BEFORE / "Sources/Benchmark").mkdir(parents=True)
    (BEFORE / "Package.swift").write_text(MANIFEST)
    shutil.copyfile(HERE / "before.swift", BEFORE / "Sources/Benchmark/main.swift")
    shutil.copy(HERE / "Sources/Benchmark/Measuring.swift", BEFORE / "Sources/Benchmark")
    archive = subprocess.run(["git", "archive", commit, CORE], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    strip = f"--strip-components={CORE.count('/')}"
    subprocess.run(["tar", "-x", strip, "-C", str(BEFORE / "Sources")], input=archive.stdout, check=True)


def swift_times(package: Path) -> dict[str, float]:
    command = [str(HERE / "swift"), "run", "-c", "release", "--scratch-path", ".build-release", "Benchmark"]
    lines = subprocess.run(command, cwd=package, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {name: float(figure) for name, _, figure in (line.partition("\t") for line in lines) if figure}


def in_turns(packages: list[Path]) -> list[dict[str, float]]:
    """The best figures of each package, run one after another several times."""
    rounds = [[swift_times(package) for package in packages] for _ in range(TURNS)]
    return [
        {name: min(each[number][name] for each in rounds) for name in rounds[0][number]}
        for number in range(len(packages))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="time the kit of this commit too")
    given = parser.parse_args()
    if given.before:
        lay_out(given.before)
    swift, *others = in_turns([PACKAGE, *([BEFORE] if given.before else [])])
    before = others[0] if others else {}
    python = python_times()
    columns = ("", "Swift, ms", "Pillow or numpy, ms", "Swift / Python", "before, ms", "Swift / before")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, figure in swift.items():
        cells = [f"{figure:.1f}"]
        for compared in (python.get(name), before.get(name)):
            cells += [f"{compared:.1f}", f"{figure / compared:.2f}"] if compared else ["-", "-"]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

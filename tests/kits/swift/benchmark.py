#!/usr/bin/env python3
"""Times of the Swift kit beside Pillow and numpy on this machine: ``python tests/kits/swift/benchmark.py``.

Needs the package that ``make test-kits KITS=swift`` lays out. Builds it with optimization, and prints a table: the
best of several runs in milliseconds, each on one thread.
"""

from __future__ import annotations

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
PACKAGE = HERE.parents[2] / "build/kits/swift/package"
CAMERA, TARGET = (1440, 1920), (392, 518)
FRAMES = 8


def best(body: Callable[[], object], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        body()
        times.append(1e3 * (time.perf_counter() - start))
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


def swift_times() -> dict[str, float]:
    command = [str(HERE / "swift"), "run", "-c", "release", "--scratch-path", ".build-release", "Benchmark"]
    lines = subprocess.run(command, cwd=PACKAGE, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {name: float(figure) for name, _, figure in (line.partition("\t") for line in lines) if figure}


def main() -> int:
    swift, python = swift_times(), python_times()
    print("| | Swift, ms | Pillow or numpy, ms | Swift / Python |\n|---|---|---|---|")
    for name, figure in swift.items():
        other = python.get(name)
        compared = f"{other:.1f} | {figure / other:.2f}" if other else "- | -"
        print(f"| {name} | {figure:.1f} | {compared} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

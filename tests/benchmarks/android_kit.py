"""The Android kit's arithmetic beside Pillow and numpy: ``python tests/benchmarks/android_kit.py``; prints a table.

Compiles the kit as ``make test-kits`` does, runs it in a Java machine with one processor, and times what the exporter's
own Python does for the same sizes. Milliseconds of the processor, the best of some runs: the machine may be shared.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vggt_edge.calibration.metrics.figures import confident_pixels, drift

KIT = Path(__file__).parents[1] / "kits/kotlin"
RUNS = 8
FRAME, TARGET = (1920, 1440), (392, 518)


def main() -> None:
    sys.path.insert(0, str(KIT))
    build: Any = SourceFileLoader("kotlin_kit_run", str(KIT / "run")).load_module()
    with tempfile.TemporaryDirectory() as scratch:
        tools = build.toolchain.find()
        path = build.build(tools, Path(scratch))
        ours = {name: min(times) for name, times in kotlin_times(tools, path).items()}
    theirs = python_times()
    print("| | kit, ms | Python, ms | kit / Python |\n|---|---|---|---|")
    for name, milliseconds in ours.items():
        python = theirs.get(name)
        right = "- | -" if python is None else f"{python:.1f} | {milliseconds / python:.2f}"
        print(f"| {name} | {milliseconds:.1f} | {right} |")


def kotlin_times(tools: Any, path: list[Path]) -> dict[str, list[float]]:
    """Milliseconds by name, of two machines one after another."""
    classpath = ":".join(map(str, [*path, *tools.libraries]))
    command = ["java", "-XX:+UseSerialGC", "-Xmx1g", "-cp", classpath, "io.vggtedge.BenchKt"]
    times: dict[str, list[float]] = {}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            name, milliseconds = line.split("\t")
            times.setdefault(name, []).append(float(milliseconds))
    return times


def python_times() -> dict[str, float]:
    """The same work by Pillow and by the exporter."""
    random = np.random.default_rng(1)
    picture = Image.fromarray(random.integers(0, 256, (FRAME[1], FRAME[0], 3), np.uint8).copy(), "YCbCr")
    photo = Image.fromarray(random.integers(0, 256, (3024, 4032, 3), np.uint8))
    reference = random.normal(size=4_873_344).astype(np.float32)
    values = reference + np.float32(0.01) * random.random(reference.size, np.float32)
    confidence = (1 + random.random((8, 392, 518), np.float32)).astype(np.float32)
    turn, bicubic = Image.Transpose.ROTATE_270, Image.Resampling.BICUBIC
    return {
        "prepare, YUV 1920 x 1440, turned, to 392 x 518": best(
            lambda: picture.convert("RGB").transpose(turn).resize(TARGET, bicubic)
        ),
        "prepare, 12 megapixels, turned, to 392 x 518": best(lambda: photo.transpose(turn).resize(TARGET, bicubic)),
        "Drift.of, 4.9 million values": best(lambda: drift(values, reference)),
        "confident pixels, 1.6 million": best(lambda: confident_pixels(confidence)),
    }


def best(action: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        action()
        times.append((time.process_time() - start) * 1000)
    return min(times)


if __name__ == "__main__":
    main()

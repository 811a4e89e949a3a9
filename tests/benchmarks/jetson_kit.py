"""The Jetson kit's C++ beside Pillow and numpy: ``python tests/benchmarks/jetson_kit.py``; prints a table.

Compiles the kit's library as CMake does for a release. Milliseconds of the processor, the best of some runs, each on
one thread: the machine may be shared.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from android_kit import best
from PIL import Image

from vggt_edge.calibration.metrics.figures import confident_pixels, drift
from vggt_edge.calibration.metrics.geometry import unproject

ROOT = Path(__file__).parents[2]
KIT, BENCH = ROOT / "runtimes/tensorrt/kit/cpp", ROOT / "tests/kits/cpp/bench.cpp"
HEIGHT, WIDTH = 392, 518
PIXELS = 8 * HEIGHT * WIDTH


def main() -> None:
    theirs = python_times()
    print("| | kit, ms | Python, ms | kit / Python |\n|---|---|---|---|")
    for name, ours in cpp_times().items():
        print(f"| {name} | {ours:.1f} | {theirs[name]:.1f} | {ours / theirs[name]:.2f} |")


def cpp_times() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "bench"
        sources = [str(path) for path in sorted((KIT / "src").glob("*.cpp"))]
        flags = ["-std=c++17", "-O3", "-DNDEBUG", f"-I{KIT / 'include'}"]
        subprocess.run(["g++", *flags, str(BENCH), *sources, "-o", str(program)], check=True)
        lines = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {name: float(figure) for name, figure in (line.split("\t") for line in lines)}


def python_times() -> dict[str, float]:
    """Times of Pillow and of the exporter for the same work, by the names that the program prints."""
    random = np.random.default_rng(1)
    frame = Image.fromarray(random.integers(0, 256, (1440, 1920, 3), np.uint8))
    reference = random.uniform(0.5, 1.5, 3 * PIXELS).astype(np.float32)
    values = reference + np.float32(1e-3)
    depth = reference[:PIXELS].reshape(8, HEIGHT, WIDTH)
    lens = np.broadcast_to(np.array([[400.0, 0, 259], [0, 400, 196], [0, 0, 1]]), (8, 3, 3))
    poses = np.broadcast_to(np.eye(3, 4), (8, 3, 4))
    turn, bicubic = Image.Transpose.ROTATE_270, Image.Resampling.BICUBIC
    return {
        "resize, 1920 x 1440, to 518 x 392": best(lambda: frame.resize((WIDTH, HEIGHT), bicubic)),
        "turn and resize, 1920 x 1440, to 392 x 518": best(
            lambda: frame.transpose(turn).resize((HEIGHT, WIDTH), bicubic)
        ),
        "drift, 4.9 million values": best(lambda: drift(values, reference)),
        "confident pixels, 1.6 million": best(lambda: confident_pixels(depth)),
        "unproject, 8 x 392 x 518": best(lambda: unproject(depth, lens, poses)),
    }


if __name__ == "__main__":
    main()

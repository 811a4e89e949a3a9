"""The same inputs make the same bundle, whatever differs around them, and nothing in it tells where it was made.

``tests/benchmarks/repeatable.py`` does the same for other targets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggt_edge.exporter.bundle import read_manifest, read_measured
from vggt_edge.exporter.models.registry import MINI_WEIGHTS

pytestmark = pytest.mark.slow

SMALL = ("--frames", "2", "--resolution", "28", "--outputs", "camera", "--sensitivity", "probe", "--effort", "none")
FEW = ("--calibration-scenes", "1", "--validation-scenes", "1")
ACCURACY_GATE = 4  # noise as pictures: what is judged is not the point


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return private_place(tmp_path_factory.mktemp("private-place"))


def private_place(folder: Path) -> Path:
    """The folder with a checkpoint and pictures, as a user has them."""
    shutil.copy(MINI_WEIGHTS, folder / "weights.safetensors")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / "photos" / f"{index}.png")
    return folder


def exported(private: Path, name: str, target: str, precision: str, cwd: Path, umask: int, **environment: str) -> Path:
    out = private / name
    home, temporary = private / f"home-{name}", private / f"temporary-{name}"
    for folder in (cwd, home, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    given = ("--model", os.path.relpath(private / "weights.safetensors", cwd), "--scenes", str(private / "photos"))
    chosen = ("--target", target, "--precision", precision, *SMALL, *FEW, *given)
    finished = subprocess.run(
        [sys.executable, "-m", "vggt_edge.exporter.cli", "export", *chosen, "-o", str(out)],
        cwd=cwd,
        umask=umask,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(temporary), **environment},
        capture_output=True,
        text=True,
    )
    assert finished.returncode in (0, ACCURACY_GATE), finished.stderr
    assert list(temporary.iterdir()) == []
    return out


@pytest.fixture(scope="module")
def bundles(private: Path) -> tuple[Path, Path]:
    return two_bundles(private, "jetson-orin", "w8a8")


def two_bundles(private: Path, target: str, precision: str) -> tuple[Path, Path]:
    """Bundles of the same request, with all else different."""
    plain = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    other = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C"}
    one = exported(private, "one", target, precision, private, 0o022, **plain)
    return one, exported(private, "two", target, precision, private / "deep" / "folder", 0o077, **other)


def content(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_the_same_bytes_for_any_hash_seed_threads_folder_locale_time_zone_and_umask(bundles: tuple[Path, Path]) -> None:
    assert differing(*bundles) == ["measured.json"]


def differing(one: Path, two: Path) -> list[str]:
    """The files that are in one bundle alone, or not the same in both."""
    left, right = content(one), content(two)
    return [path for path in sorted({*left, *right}) if left.get(path) != right.get(path)]


def test_what_was_measured_is_there_all_the_same(bundles: tuple[Path, Path]) -> None:
    measured = read_measured(bundles[0])
    assert measured is not None
    assert measured.peak_memory_bytes > 1 << 20
    assert measured.seconds > measured.forward_seconds > 0
    assert {timing.step for timing in measured.timings} >= {"calibrate", "annotate", "validate: FP32"}


def test_no_file_names_a_folder_of_the_machine(bundles: tuple[Path, Path], private: Path, repository: Path) -> None:
    here = [private, Path.home(), Path.cwd(), repository, Path(sys.prefix), Path(sys.executable).resolve().parent]
    told = {
        (path, str(folder))
        for bundle in bundles
        for path, data in content(bundle).items()
        for folder in here
        if len(folder.parts) > 1 and os.fsencode(folder) in data
    }
    assert told == set()
    assert read_manifest(bundles[0]).model == "weights.safetensors"
    settings = (bundles[0] / "resolved.toml").read_text()
    assert 'model = "weights.safetensors"' in settings
    assert 'scenes = "photos"' in settings

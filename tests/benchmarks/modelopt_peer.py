"""NVIDIA ModelOpt in an environment of its own: it pins other versions of onnx and onnxruntime than vggt-edge does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

VERSION = "0.47.0"
# It looks for CUDA wherever it can; on a machine with a GPU the comparison would be another one.
ENVIRONMENT: Mapping[str, str] = {"CUDA_VISIBLE_DEVICES": ""}
_DONE = ".installed"


def environment(folder: Path) -> Path:
    """The environment's python; made with pip (about 2 GB) unless it is there already."""
    python = folder / "bin" / "python"
    if not (folder / _DONE).is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        # The same torch as ours: a build without CUDA, where ours is one.
        wanted = [f"torch=={version('torch').partition('+')[0]}", f"nvidia-modelopt[onnx]=={VERSION}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (folder / _DONE).touch()
    return python


def random_sample(path: Path, frames: int, resolution: int) -> Path:
    """One seeded random calibration sample for the input ``images``."""
    images = np.random.default_rng(0).random((1, frames, 3, resolution, resolution), dtype=np.float32)
    np.savez(path, images=images)
    return path


def command(python: Path, model: Path, sample: Path, out: Path, method: str) -> list[str]:
    """Its own command line; all but the provider is its default for INT8, or what the run is about."""
    return [
        *(str(python), "-m", "modelopt.onnx.quantization", "--onnx_path", str(model), "--quantize_mode", "int8"),
        *("--calibration_method", method, "--calibration_data_path", str(sample), "--calibration_eps", "cpu"),
        *("--use_external_data_format", "--output_path", str(out)),
    ]


def remove_intermediates(folder: Path, quantized: Path) -> None:
    """A killed run leaves several times the model's size behind."""
    for path in folder.glob("*.onnx*"):
        if not path.name.startswith((f"{quantized.name}_", f"{quantized.name}.")) and path != quantized:
            path.unlink()

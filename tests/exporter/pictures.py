"""Pictures for exports; tests load this file by ``script_module``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photographs(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    """A folder of pictures of noise; size: (width, height)."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder

"""The picture cases: what is stored is what Python reads, and the colours are those of the standards' own formulas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vggt_edge.calibration.scenes.image import read_image
from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.common.kit import script_module

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "picture_cases/cases.json").read_text())["cases"]


@cache
def script() -> ModuleType:
    return script_module(HERE / "make_picture_cases.py", "make_picture_cases")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_python_reads_what_is_stored(case: dict[str, Any]) -> None:
    path = HERE / "picture_cases" / case["file"]
    if "refused" in case:
        with pytest.raises(InputError) as caught:
            read_image(path)
        assert (caught.value.what, caught.value.where) == (case["refused"], str(path))
        return
    pixels = read_image(path).upright()
    assert pixels.shape == (case["height"], case["width"], 3)
    assert [[x, y, *pixels[y, x].tolist()] for x, y, *_ in case["points"]] == case["points"]


def test_the_folder_holds_what_the_script_makes() -> None:
    made = [case.file for case in script().cases()]
    assert made == [case["file"] for case in CASES]
    assert {path.name for path in (HERE / "picture_cases").iterdir()} == {*made, "cases.json"}


@pytest.mark.parametrize(
    ("file", "primaries", "gamma"), [("display_p3.png", "DISPLAY_P3", None), ("adobe_rgb.png", "ADOBE_RGB", 563 / 256)]
)
def test_colours_are_those_of_the_formulas(file: str, primaries: str, gamma: float | None) -> None:
    """IEC 61966-2-1 in floating point, beside the colour engine's 8-bit arithmetic."""
    icc = script().icc
    encoded = script().COLOURS / 255
    linear = (
        encoded**gamma if gamma else np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    )
    to_srgb = np.linalg.solve(icc.rgb_to_xyz(icc.SRGB), icc.rgb_to_xyz(getattr(icc, primaries)))
    seen = np.clip(linear @ to_srgb.T, 0, 1)
    expected = 255 * np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    found = read_image(HERE / "picture_cases" / file).pixels
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found.astype(int) - script().COLOURS).max() >= 15  # the profile matters

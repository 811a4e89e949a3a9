"""Kits of the Android bundle, written by the code under test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vggt_edge.runtimes.common.kit import script_module
from vggt_edge.runtimes.executorch.kit_files import write_golden, write_kit


@cache
def _vectors() -> ModuleType:
    return script_module(Path(__file__).with_name("kit_vectors.py"), "android_kit_vectors")


@pytest.fixture
def kit_vectors() -> ModuleType:
    """The module that makes the vectors: ``description``, ``golden_arrays``, ``write_model`` of a small kit."""
    return _vectors()


@pytest.fixture
def kit_folder(tmp_path: Path) -> Callable[..., Path]:
    """``kit_folder(weights=, **changes of the description)``: an ``executorch`` folder with its golden tensors."""

    def make(name: str = "executorch", *, weights: bool = False, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        _vectors().write_model(folder, weights=weights)
        fields = {"weights": "vggt.ptd"} if weights else {}
        write_kit(folder, _vectors().description(**fields, **changes))
        write_golden(folder, *_vectors().golden_arrays())
        return folder

    return make


@pytest.fixture
def kit_outputs(tmp_path: Path) -> Callable[..., Path]:
    """``kit_outputs(depth=array, ...)``: what executor_runner writes, the simulation's values where none are given."""

    def write(**changed: np.ndarray) -> Path:
        folder = tmp_path / "outputs"
        folder.mkdir()
        _, simulation, _ = _vectors().golden_arrays()
        for index, (name, values) in enumerate(simulation.items()):
            (folder / f"output-{index}.bin").write_bytes(changed.get(name, values).astype("<f4").tobytes())
        return folder

    return write

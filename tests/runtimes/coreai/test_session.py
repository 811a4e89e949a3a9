"""Opening and running an asset: what is refused, and in which words."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggt_edge.devices.errors import InputError, ResourceError, ToolchainError, VggtEdgeError
from vggt_edge.runtimes.coreai import BACKEND, sdk
from vggt_edge.runtimes.coreai.session import CoreAISession, check_asset, time_limit_s

Copied = Callable[[], Path]


def test_a_folder_without_an_asset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"main\.hash, main\.mlirb, metadata\.json missing"):
        BACKEND.open(tmp_path)


def test_an_asset_that_is_cut_short_is_refused_before_native_code_reads_it(copied: Copied) -> None:
    asset = copied()
    program = asset / "main.mlirb"
    program.write_bytes(program.read_bytes()[:-1000])
    with pytest.raises(InputError, match="damaged or cut short") as caught:
        CoreAISession(asset)
    assert "main.hash" in caught.value.expected


def test_a_program_that_is_none_is_refused_in_the_worker(copied: Copied) -> None:
    """With the right digest beside it, so that Core AI's own reader sees it; whatever that does, we go on."""
    asset = copied()
    data = b"ML\xefR" + b"\x0d" * 4000
    (asset / "main.mlirb").write_bytes(data)
    (asset / "main.hash").write_bytes(hashlib.sha256(data).digest())
    check_asset(asset)
    with pytest.raises((InputError, ToolchainError), match="Core AI did not run the asset"):
        CoreAISession(asset)


def test_the_borders_are_those_of_the_asset(case: Any, session: CoreAISession) -> None:
    assert dict(session.input_shapes) == {"x": (1, 8, 64)}
    assert session.output_names == tuple(case.expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "wrong inputs: none"),
        ({"y": np.zeros((1, 8, 64), np.float32)}, "wrong inputs: y"),
        ({"x": np.zeros((1, 8, 65), np.float32)}, r"input x is float32 \(1, 8, 65\)"),
        ({"x": np.zeros((1, 8, 64), np.float64)}, "input x is float64"),
        ({"x": np.full((1, 8, 64), np.nan, np.float32)}, "NaN or Inf"),
    ],
)
def test_wrong_inputs_are_named(session: CoreAISession, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.run(inputs)


def test_an_input_may_lie_in_memory_in_any_order(case: Any, session: CoreAISession) -> None:
    turned = np.asfortranarray(case.x)
    assert np.array_equal(session.run({"x": turned})["fp32_linear"], session.run({"x": case.x})["fp32_linear"])


def test_a_run_that_takes_too_long_is_ended(case: Any) -> None:
    with pytest.raises(ResourceError, match=r"no result after 0\.05 s"):
        CoreAISession(case.asset, timeout_s=0.05)


def test_a_crash_is_an_error_and_not_the_end(
    case: Any, session: CoreAISession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker that dies as native code does."""
    die = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(sdk, "worker", lambda *_: [sys.executable, "-c", die])
    with pytest.raises(ToolchainError, match="crashed with SIGSEGV") as caught:
        session.run({"x": case.x})
    assert isinstance(caught.value, VggtEdgeError)


def test_without_the_packages_an_asset_cannot_be_opened(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = copied()
    monkeypatch.setattr(sdk, "PACKAGES", ("no_such_package",))
    with pytest.raises(ToolchainError, match="no_such_package"):
        CoreAISession(asset)


def test_the_time_limit_grows_with_the_program(tmp_path: Path) -> None:
    with (tmp_path / "main.mlirb").open("wb") as file:
        file.truncate(500_000_000)
    assert time_limit_s(tmp_path) > time_limit_s_of_nothing(tmp_path)


def time_limit_s_of_nothing(folder: Path) -> float:
    empty = folder / "empty"
    empty.mkdir()
    (empty / "main.mlirb").touch()
    return time_limit_s(empty)

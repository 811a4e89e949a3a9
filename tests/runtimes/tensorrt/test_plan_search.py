"""Constants are found in a plan wherever and however they lie, and only where all their bytes are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from vggt_edge.runtimes.tensorrt import _plan_search
from vggt_edge.runtimes.tensorrt._plan_search import found_in

RANDOM = np.random.default_rng(0)


def weight(*shape: int) -> ir.TensorProtocol:
    return ir.tensor(RANDOM.integers(-127, 128, shape).astype(np.int8))


def plan_of(tmp_path: Path, *pieces: bytes) -> Path:
    path = tmp_path / "plan"
    path.write_bytes(b"".join(pieces))
    return path


@pytest.mark.parametrize("shift", [0, 4, 12, 1, 7], ids="shifted by {}".format)
@pytest.mark.parametrize("chunk", [1 << 26, 4096], ids="chunks of {}".format)
def test_each_layout_is_found_at_any_place(
    shift: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_plan_search, "_CHUNK_BYTES", chunk)
    plain, turned, last, absent = weight(64, 96), weight(64, 96), weight(8, 8, 3, 3), weight(64, 96)
    stored = [plain.tobytes(), turned.numpy().T.tobytes(), last.numpy().transpose(0, 2, 3, 1).tobytes()]
    plan = plan_of(tmp_path, bytes(shift), stored[0], bytes(8188), stored[1], stored[2], bytes(100))
    assert found_in(plan, [plain, turned, last, absent]) == {0, 1, 2}


def test_a_constant_with_one_other_byte_is_not_found(tmp_path: Path) -> None:
    tensor = weight(64, 96)
    other = bytearray(tensor.tobytes())
    other[-1] ^= 1
    assert found_in(plan_of(tmp_path, bytes(other)), [tensor]) == frozenset()


def test_a_uniform_constant_is_found_too(tmp_path: Path) -> None:
    zeros = ir.tensor(np.zeros((64, 96), np.int8))
    assert found_in(plan_of(tmp_path, bytes(10_000)), [zeros]) == {0}
    assert found_in(plan_of(tmp_path, b"\1" * 10_000), [zeros]) == frozenset()


def test_reading_stops_at_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An odd place needs the exhaustive search; without a budget for it the constant counts as not found."""
    tensor = weight(64, 96)
    plan = plan_of(tmp_path, b"\1", tensor.tobytes())
    assert found_in(plan, [tensor]) == {0}
    monkeypatch.setattr(_plan_search, "EXHAUSTIVE_BYTES", 1000)
    assert found_in(plan, [tensor]) == frozenset()

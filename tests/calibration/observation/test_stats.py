"""Statistics survive the disk, and nothing else passes for statistics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vggt_edge.calibration.observation.stats import ARRAYS_NAME, JSON_NAME, CalibrationStats
from vggt_edge.devices.errors import InputError


@pytest.fixture
def saved(stats: CalibrationStats, tmp_path: Path) -> Path:
    stats.save(tmp_path)
    return tmp_path


def test_round_trip(stats: CalibrationStats, saved: Path) -> None:
    loaded = CalibrationStats.load(saved)
    assert loaded.digest == stats.digest
    assert loaded.tensors == stats.tensors
    assert loaded.block_ranges == stats.block_ranges
    assert all(np.array_equal(loaded.channel_absmax[key], array) for key, array in stats.channel_absmax.items())


def test_saving_twice_gives_the_same_bytes(stats: CalibrationStats, saved: Path) -> None:
    first = {name: (saved / name).read_bytes() for name in (JSON_NAME, ARRAYS_NAME)}
    CalibrationStats.load(saved).save(saved)
    assert {name: (saved / name).read_bytes() for name in first} == first


def test_the_digest_covers_the_arrays(stats: CalibrationStats) -> None:
    key = next(iter(stats.channel_absmax))
    arrays = {**stats.channel_absmax, key: stats.channel_absmax[key] + 1}
    assert replace(stats, channel_absmax=arrays).digest != stats.digest


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda raw: {name: value for name, value in raw.items() if name != key}


@pytest.mark.parametrize(
    "damage",
    [
        _without("samples"),
        lambda raw: {**raw, "surprise": 1},
        lambda raw: {**raw, "schema_version": 99},
        lambda raw: {**raw, "tensors": raw["tensors"][1:]},
        lambda raw: {**raw, "tensors": [{**raw["tensors"][0], "percentiles": [1.0]}, *raw["tensors"][1:]]},
        lambda raw: {**raw, "tensors": [{**raw["tensors"][0], "maximum": float("nan")}, *raw["tensors"][1:]]},
        lambda raw: {**raw, "arrays_sha256": "0" * 64},
        lambda raw: [raw],
        lambda raw: "statistics",
    ],
)
def test_damaged_json_is_one_clear_error(saved: Path, damage: Callable[[Any], Any]) -> None:
    path = saved / JSON_NAME
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(InputError, match="stats"):
        CalibrationStats.load(saved)


def test_a_wrong_field_is_named(saved: Path) -> None:
    path = saved / JSON_NAME
    raw = json.loads(path.read_text())
    raw["tensors"][2]["count"] = "many"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"tensors\.2\.count: Input should be a valid integer"):
        CalibrationStats.load(saved)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda array: array.astype(np.float64), r"is float64 \[\d+\] instead of float32"),
        (lambda array: array.reshape(-1, 1), r"is float32 \[\d+, 1\] instead of"),
        (lambda array: array[:0], r"is float32 \[0\] instead of"),
        (lambda array: array * np.float32("nan"), "something else than finite magnitudes"),
        (lambda array: array - np.float32(1e9), "something else than finite magnitudes"),
    ],
)
def test_a_wrong_array_is_named(saved: Path, damage: Callable[[Any], Any], said: str) -> None:
    arrays = dict(load_file(saved / ARRAYS_NAME))
    key = sorted(arrays)[0]
    save_file(arrays | {key: damage(arrays[key])}, saved / ARRAYS_NAME)
    with pytest.raises(InputError, match=said) as caught:
        CalibrationStats.load(saved)
    assert key in caught.value.what
    assert caught.value.where == str(saved / ARRAYS_NAME)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_corrupt_file_is_named(saved: Path, content: bytes) -> None:
    (saved / JSON_NAME).write_bytes(content)
    with pytest.raises(InputError, match=r"stats\.json"):
        CalibrationStats.load(saved)


def test_truncated_arrays_are_named(saved: Path) -> None:
    path = saved / ARRAYS_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"stats\.safetensors"):
        CalibrationStats.load(saved)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stats"):
        CalibrationStats.load(tmp_path)


def test_an_unobserved_layer_is_a_key_error(stats: CalibrationStats) -> None:
    with pytest.raises(KeyError):
        stats.of_layer("nowhere")

"""Reading weights back: packed values of every width, and what a program holds per weight."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.runtimes.coreai import BACKEND
from vggt_edge.runtimes.coreai.asset import digest_of, read_contents, unpacked
from vggt_edge.runtimes.coreai.lowerings import write_asset

needs_core_ai = pytest.mark.skipif(not BACKEND.availability().ok, reason=BACKEND.availability().reason)
WIDTH = 512


def packed_by_hand(values: list[int], bits: int) -> bytes:
    number = sum((value & ((1 << bits) - 1)) << (bits * place) for place, value in enumerate(values))
    return number.to_bytes((bits * len(values) + 7) // 8, "little")


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from([1, 2, 4, 6, 8]), st.booleans())
def test_packed_integers_come_back(data: st.DataObject, bits: int, signed: bool) -> None:
    """Any width, also where values cross the borders of bytes and the last byte is not full."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    values = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=23))
    got = unpacked(packed_by_hand(values, bits), f"{'s' if signed else 'u'}i{bits}", (len(values), 1))
    assert got.dtype == (np.int8 if signed else np.uint8)
    assert got[:, 0].tolist() == values


def test_floats_come_back() -> None:
    values = np.array([[1.5, -2.0], [0.25, 65504.0]], np.float16)
    assert np.array_equal(unpacked(values.tobytes(), "f16", (2, 2)), values)


@pytest.mark.parametrize(("data", "element"), [(b"\0", "si4"), (b"\0\0", "f16"), (b"\0" * 9, "bf16"), (b"", "si8")])
def test_too_few_bytes_and_foreign_types_are_refused(data: bytes, element: str) -> None:
    with pytest.raises(ValueError, match=r"weight of type|reshape|buffer"):
        unpacked(data, element, (3, 1))


def test_a_digest_tells_values_shapes_and_types_apart() -> None:
    base = np.arange(6, dtype=np.int8)
    others = (base.reshape(2, 3), base.astype(np.uint8), base[::-1])
    assert len({digest_of(array) for array in (base, *others)}) == 4
    assert digest_of(np.asfortranarray(base.reshape(2, 3))) == digest_of(base.reshape(2, 3))


@needs_core_ai
@pytest.mark.parametrize(
    ("scheme", "element", "extra"),
    [
        ("fp32", "f32", 0.0),
        ("fp16", "f16", 0.0),
        ("w8a16", "si8", 4 / WIDTH),
        ("w4a16", "si4", 4 / 64),
        ("p6a16", "ui6", 4 * 64 / (16 * WIDTH)),
        ("p4a16", "ui4", 4 * 16 / (16 * WIDTH)),
    ],
)
def test_the_asset_is_as_large_as_its_packed_weights(scheme: str, element: str, extra: float, tmp_path: Path) -> None:
    """``extra``: bytes per weight for FP32 scales or tables; what is left is the graph itself."""
    torch.manual_seed(0)
    source = nn.Linear(WIDTH, WIDTH, bias=False)
    layer = quantized(source, Form.of(SCHEMES[scheme], LayerShape.of(source), 64)).eval()
    path = tmp_path / "one.aimodel"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_asset(torch.export.export(layer, (torch.zeros(1, WIDTH),)), ["x"], ["y"], path)
        (linear,) = read_contents(path).linears
    assert (linear.element, linear.shape) == (element, (WIDTH, WIDTH))
    per_weight = (path / "main.mlirb").stat().st_size / WIDTH**2
    assert linear.numbers.bits / 8 + extra <= per_weight <= linear.numbers.bits / 8 + extra + 0.03


@needs_core_ai
def test_a_small_integer_weight_is_not_packed_below_its_width(tmp_path: Path) -> None:
    """The converter of its own accord packs int8 values within [-8, 7] to 4 bits; a plan asked for 8."""
    source = nn.Linear(32, 32)
    layer = quantized(source, Form.of(SCHEMES["w8a16"], LayerShape.of(source))).eval()
    layer.weight_q.clamp_(-8, 7)  # type: ignore[union-attr, operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_asset(torch.export.export(layer, (torch.zeros(1, 32),)), ["x"], ["y"], tmp_path / "one.aimodel")
        (linear,) = read_contents(tmp_path / "one.aimodel").linears
    assert linear.element == "si8"

"""Palettes: the laws that every table and index keeps, and how near k-means comes to the best that there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vggt_edge.calibration.quantization.form import TABLE_ROWS, Form, LayerShape, table_count
from vggt_edge.calibration.quantization.linear import PaletteLayer
from vggt_edge.calibration.quantization.operators import dequantize_palette
from vggt_edge.calibration.quantization.palette import palettize
from vggt_edge.calibration.scheme import SCHEMES

SHAPES = st.sampled_from([(32, 8), (16, 3, 2, 2), (9, 5), (2, 16, 1, 1)])


def random_weight(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(shape=SHAPES, bits=st.sampled_from([4, 6]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_every_weight_gets_the_nearest_value_of_its_own_table(shape: tuple[int, ...], bits: int, seed: int) -> None:
    weight = random_weight(shape, seed)
    index, table = palettize(weight, bits)
    assert index.dtype == torch.uint8
    assert index.shape == weight.shape
    assert table.shape == (table_count(shape[0]), 1 << bits)
    assert torch.equal(table, table.half().float())
    assert bool((table.diff(dim=1) >= 0).all())
    restored = dequantize_palette(index, table, 0)
    rows = weight.reshape(len(table), -1)
    nearest = (rows[:, :, None] - table[:, None, :]).abs().amin(dim=2)
    torch.testing.assert_close((restored.reshape(rows.shape) - rows).abs(), nearest)


def test_output_channels_may_run_along_another_axis() -> None:
    """A transposed convolution keeps them second: the same tables, the same values."""
    weight = random_weight((3, 32, 2, 2), 1)
    index, table = palettize(weight, 4, axis=1)
    turned, same = palettize(weight.movedim(1, 0).contiguous(), 4)
    assert torch.equal(table, same)
    assert torch.equal(dequantize_palette(index, table, 1), dequantize_palette(turned, same, 0).movedim(0, 1))


def test_tables_are_shared_by_runs_of_channels_and_by_all_where_that_is_uneven() -> None:
    assert [table_count(channels) for channels in (TABLE_ROWS, 4 * TABLE_ROWS, 9)] == [1, 4, 1]
    weight = torch.cat([torch.full((TABLE_ROWS, 2), 1.0), torch.full((TABLE_ROWS, 2), -3.0)])
    index, table = palettize(weight, 4)
    assert torch.equal(dequantize_palette(index, table, 0), weight)


@pytest.mark.parametrize("seed", range(4))
def test_it_comes_near_the_best_quantizer_of_a_small_case(seed: int) -> None:
    """All ways to cut 48 sorted values into 4 runs, tried out. Few values have poor local optima; layers have many."""
    values = random_weight((48,), seed)
    index, table = palettize(values[None], 2)
    error = float((dequantize_palette(index, table, 0) - values[None]).square().sum())
    assert best_error(values.double().sort().values.numpy()) - 1e-6 <= error
    assert error <= 1.5 * best_error(values.double().sort().values.numpy())


def best_error(values: np.ndarray) -> float:
    """Of four levels, by exhaustion: the squared error of a run follows from its running sums."""
    first, second = (np.concatenate([[0.0], np.cumsum(values**power)]) for power in (1, 2))
    size = len(values)

    def of_run(start: int, end: int) -> float:
        return float(second[end] - second[start] - (first[end] - first[start]) ** 2 / (end - start))

    cuts = itertools.combinations(range(1, size), 3)
    return min(of_run(0, a) + of_run(a, b) + of_run(b, c) + of_run(c, size) for a, b, c in cuts)


@pytest.mark.parametrize(("bits", "least_db"), [(4, 19.9), (6, 31.0)])
def test_normal_weights_lose_what_theory_says(bits: int, least_db: float) -> None:
    """The best 16 levels for a normal density leave 20.2 dB, 64 levels 31.9 dB (Max, IRE Trans. 1960)."""
    weight = random_weight((64, 1024), 0)
    index, table = palettize(weight, bits)
    noise = dequantize_palette(index, table, 0) - weight
    assert 10 * torch.log10(weight.square().sum() / noise.square().sum()) > least_db


def test_important_channels_are_nearer() -> None:
    """Ten thousand times the weight on one input channel of four: its error shrinks, that of the others may grow."""
    weight = random_weight((16, 4), 5)
    errors = []
    for importance in (None, torch.tensor([1e4, 1.0, 1.0, 1.0])):
        index, table = palettize(weight, 4, importance=importance)
        errors.append((dequantize_palette(index, table, 0) - weight).square().sum(dim=0))
    assert errors[1][0] < 0.5 * errors[0][0]


def test_equal_weights_and_dead_layers_are_exact() -> None:
    for weight in (torch.zeros(32, 4), torch.full((32, 4), 0.25)):
        index, table = palettize(weight, 4)
        assert torch.equal(dequantize_palette(index, table, 0), weight)


def test_a_weight_beyond_fp16_is_refused() -> None:
    with pytest.raises(ValueError, match="overflows FP16"):
        palettize(torch.full((16, 2), 1e5), 4)


def test_the_operator_traces_and_keeps_its_shape() -> None:
    """torch.export sees the operator, not its parts: backends look for it."""
    source = torch.nn.Linear(80, 64)
    layer = PaletteLayer(source, Form.of(SCHEMES["p4a16"], LayerShape.of(source)))
    program = torch.export.export(layer, (torch.zeros(2, 80),))
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.vggt_edge.dequantize_palette.default in targets
    x = random_weight((2, 80), 9)
    torch.testing.assert_close(program.module()(x), layer(x))

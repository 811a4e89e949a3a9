"""The annotated program keeps its quantization operators, and computes what the model computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.annotate import annotate


def test_quantization_operators_stay_whole(exported: Callable[[str], Any]) -> None:
    program = exported("mixed").graph.program()
    counts = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    assert counts["torchao.dequantize_affine.default"] > 0
    assert counts["quantized_decomposed.dequantize_per_channel.default"] > 0
    assert counts["quantized_decomposed.quantize_per_tensor.default"] > 0
    assert counts["aten._assert_tensor_metadata.default"] == 0


def test_the_program_computes_what_the_model_computes(exported: Callable[[str], Any]) -> None:
    case = exported("mixed")
    outputs = case.graph.program().module()(torch.from_numpy(case.images))
    for name, output in zip(case.model.output_names, outputs, strict=True):
        torch.testing.assert_close(output, torch.from_numpy(case.simulated[name]), rtol=0, atol=0)


def test_asking_for_the_program_leaves_the_model_as_it_was(exported: Callable[[str], Any]) -> None:
    case = exported("mixed")
    before = {name: id(module) for name, module in case.model.named_modules()}
    case.graph.program()
    assert {name: id(module) for name, module in case.model.named_modules()} == before


class _DependsOnData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[: int(x.sum())]


def test_a_model_that_depends_on_data_is_a_lowering_error() -> None:
    with pytest.raises(LoweringError, match=r"torch\.export refused"):
        annotate(_DependsOnData(), torch.ones(3))

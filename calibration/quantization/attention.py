"""The products of an attention, in floats or in 8 bits: what they compute here is what the exported graph computes.

In 8 bits queries, keys, values and probabilities each have one static scale, and both products multiply 8-bit numbers.
TensorRT fuses that form into one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization.operators import fake_quantize_static
from vggt_edge.calibration.quantization.quantize import activation_scale
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES
from vggt_edge.calibration.scheme import Numbers

# The last is seen in calibration only, of some queries: nothing hands it to an attention.
OPERANDS = ("query", "key", "value", "probabilities")
SAMPLED_QUERIES = 64


class Attend(nn.Module):
    """Scaled dot product attention of query, key and value, each (B, heads, tokens, head_dim), in floats."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value)


class Quantizer(nn.Module):
    """Rounds a tensor of any shape to ``numbers`` times ``input_scale``."""

    def __init__(self, numbers: Numbers, peak: float) -> None:
        super().__init__()
        self.numbers, self.input_scale = numbers, activation_scale(peak, INPUT_RANGES[numbers])

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize_static(x, self.input_scale, INPUT_RANGES[self.numbers])


class QuantizedAttend(nn.Module):
    """Scaled dot product attention with 8-bit operands. peaks: the largest magnitude of each of ``OPERANDS``."""

    def __init__(self, numbers: Numbers, peaks: Mapping[str, float], head_dim: int) -> None:
        super().__init__()
        self.scale = head_dim**-0.5
        # Scaled before it is rounded: the scores of unscaled queries might overflow FP16.
        self.query = Quantizer(numbers, peaks["query"] * self.scale)
        self.key = Quantizer(numbers, peaks["key"])
        self.value = Quantizer(numbers, peaks["value"])
        self.probabilities = Quantizer(numbers, peaks["probabilities"])

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what ``Attend`` would. Outside an export heads go one at a time: all scores would take gigabytes."""
        if torch.compiler.is_exporting():
            return self._mixed(query, key, value)
        heads = (torch.split(tensor, 1, dim=1) for tensor in (query, key, value))
        return torch.cat([self._mixed(*one) for one in zip(*heads, strict=True)], dim=1)

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = self.query(query * self.scale) @ self.key(key).transpose(-2, -1)
        mixed: Tensor = self.probabilities(scores.softmax(dim=-1)) @ self.value(value)
        return mixed


def operands_of(query: Tensor, key: Tensor, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The operands of both products by name; the probabilities are those of evenly spaced queries of each head."""
    rows = query[:, :, :: -(-query.shape[2] // SAMPLED_QUERIES)] * query.shape[-1] ** -0.5
    # One channel of all: how many tokens a frame of causal attention sees differs from call to call.
    probabilities = (rows @ key.transpose(-2, -1)).softmax(dim=-1).unsqueeze(-1)
    yield from zip(OPERANDS, (query, key, value, probabilities), strict=True)


def attends_of(block: nn.Module) -> dict[str, Attend]:
    """The float attentions of a block by their path in it."""
    return {path: module for path, module in block.named_modules() if isinstance(module, Attend)}

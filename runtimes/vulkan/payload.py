"""What a serialized Vulkan graph holds: operators, and the stored tensors that each of them reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vggt_edge.runtimes.executorch.sdk import sdk

PACKED = "et_vk.linear_q4gsw.default"
# Products with an FP16 weight: as written, and as ExecuTorch joins them with what follows.
FLOATING = frozenset(
    {
        "aten.linear.default",
        "aten.mm.default",
        "aten.convolution.default",
        "et_vk.conv_with_clamp.default",
    }
)


@dataclass(frozen=True)
class Operation:
    """One operator of the graph. keys: SHA-256 of the stored tensors among its operands."""

    name: str
    keys: frozenset[str]


def operations(payload: bytes) -> tuple[Operation, ...]:
    """In the order in which the delegate runs them."""
    serialization = sdk("backends.vulkan.serialization.vulkan_graph_serialize")
    graph = serialization.flatbuffer_to_vk_graph(serialization.extract_vk_flatbuffer(payload))
    return tuple(Operation(call.name, frozenset(_keys(graph, call.args))) for call in graph.chain)


def _keys(graph: Any, places: list[int]) -> list[str]:
    held = (getattr(graph.values[place].value, "constant_id", -1) for place in places)
    return [graph.constants[index].named_key for index in held if index >= 0]


def packed_key(weight: Tensor) -> str:
    """Of a weight (rows, columns), integers from -8 to 7: two of a row in a byte, the first in its low half."""
    nibbles = (weight + 8).to(torch.uint8)
    return _key(nibbles[:, 1::2] << 4 | nibbles[:, ::2])


def half_key(weight: Tensor) -> str:
    """Of a floating-point weight, rounded to FP16."""
    ends = torch.finfo(torch.float16)
    return _key(weight.clamp(ends.min, ends.max).to(torch.float16))


def _key(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()

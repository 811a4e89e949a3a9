"""The static check of a serialized graph: what it refuses, where it says that, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.runtimes.executorch.sdk import installed
from vggt_edge.runtimes.vulkan import rewrite as rules
from vggt_edge.runtimes.vulkan.checks import Fault, blocks_by_key, enforce, faults, findings
from vggt_edge.runtimes.vulkan.graph import TensorValue, VulkanGraph
from vggt_edge.runtimes.vulkan.lowering import LoweredProgram, lower_program

pytestmark = pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")


class Model(nn.Module):
    """Every construction that ExecuTorch 1.4 lowers to something that its runtime does not run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = nn.Linear(8, 8), nn.Conv2d(2, 2, 1)
        self.norm = nn.LayerNorm(8, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        image = functional.gelu(self.norm(self.block(x))).view(1, 2, 4, 8)
        image = self.head(functional.interpolate(image, size=(1, 6), mode="bilinear", align_corners=True))
        image = image.view(1, 1, 2, 1, 6)
        return (image.abs().exp() - 1).view(2, 6)


def lowered(limit: int | None = None) -> LoweredProgram:
    return lower_program(annotate(Model(), torch.zeros(8, 8)), limit)


def found_in(made: LoweredProgram) -> tuple[Fault, ...]:
    (graph,) = made.delegates
    return faults(graph, blocks_by_key(made.piece, ("block", "head")))


def joined_by_fusing(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The rule for four dimensions as it was: ExecuTorch joins its two views."""
    return lambda owner, x: function(x.reshape(-1, *x.shape[-3:])).view(x.shape)


@pytest.fixture(scope="module")
def cured() -> LoweredProgram:
    return lowered()


@pytest.fixture
def uncured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of before."""
    aten = torch.ops.aten
    for cured in (aten.layer_norm.default, aten.gelu.default, aten.upsample_bilinear2d.vec):
        monkeypatch.delitem(rules.RULES, cured)  # type: ignore[arg-type]
    monkeypatch.setitem(rules.RULES, aten.abs.default, joined_by_fusing(torch.abs))  # type: ignore[arg-type]
    monkeypatch.setitem(rules.RULES, aten.exp.default, joined_by_fusing(torch.exp))  # type: ignore[arg-type]


@pytest.mark.usefixtures("uncured")
def test_every_fault_of_an_uncured_program_is_named() -> None:
    """With its operation, and the block of the weights before it."""
    found = found_in(lowered())
    assert [(one.operator, one.block) for one in found] == [
        ("aten.native_layer_norm.default", "block"),
        ("aten.gelu.default", "block"),
        ("aten.upsample_bilinear2d.vec", "block"),
        ("aten.abs.default", "head"),
        ("aten.exp.default", "head"),
    ]
    reasons = ("no weight or bias", "without bounds", "a division by zero", "four dimensions", "four dimensions")
    assert all(reason in one.what for reason, one in zip(reasons, found, strict=True))
    with pytest.raises(LoweringError, match=r"block: operation \d+, aten.native_layer_norm.default") as caught:
        enforce(found)
    assert "store ones and zeros" in caught.value.remedy


def test_a_cured_program_has_none(cured: LoweredProgram) -> None:
    assert found_in(cured) == ()
    enforce(())
    assert list(findings(cured.delegates[0])) == []


def test_a_texture_above_the_limit_is_a_fault_and_lowering_avoids_it(cured: LoweredProgram) -> None:
    """Lowered for the limit, the same tensors lie in buffers."""
    large = replaced_shapes(cured.delegates[0], (1, 1, 4176, 8))
    assert "above (4096, 4096, 4096)" in faults(large, {}, 4096)[0].what
    assert faults(large, {}, 8192) == ()
    (finding,) = findings(large)
    assert (finding.rule, finding.severity) == ("texture_limit", "warning")
    assert "4176" in finding.what
    small = lowered(4).delegates[0]
    assert faults(small, {}, 4) == ()
    assert "BUFFER" in {one.storage for one in small.values if isinstance(one, TensorValue)}
    assert [one.rule for one in findings(small)] == ["half_sums"]


def replaced_shapes(graph: VulkanGraph, shape: tuple[int, ...]) -> VulkanGraph:
    """The last tensor that a call writes, with another shape."""
    place = next(graph.tensor_places([graph.calls[-1].writes]))
    values = list(graph.values)
    value = values[place]
    assert isinstance(value, TensorValue)
    values[place] = replace(value, shape=shape, storage="TEXTURE_3D", layout="TENSOR_WIDTH_PACKED")
    return replace(graph, values=tuple(values))


@pytest.mark.parametrize(
    ("name", "what"),
    [("aten.erf.default", "no such operator"), ("aten.upsample_nearest2d.vec", "wrong neighbours")],
)
def test_an_operator_without_a_right_kernel_is_a_fault(cured: LoweredProgram, name: str, what: str) -> None:
    graph = cured.delegates[0]
    changed = replace(graph, calls=(*graph.calls[:-1], replace(graph.calls[-1], name=name)))
    assert what in [one.what for one in faults(changed, {})][-1]


def test_a_convolution_of_a_batch_is_a_fault(cured: LoweredProgram) -> None:
    """The kernel takes one image."""
    graph = cured.delegates[0]
    (call,) = (one for one in graph.calls if one.name == "aten.convolution.default")
    values = list(graph.values)
    value = values[call.arguments[0]]
    assert isinstance(value, TensorValue)
    values[call.arguments[0]] = replace(value, shape=(2, *value.shape[1:]))
    (fault,) = faults(replace(graph, values=tuple(values)), {})
    assert (fault.operator, fault.what) == ("aten.convolution.default", "a batch of 2")

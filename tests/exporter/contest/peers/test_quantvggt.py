"""QuantVGGT's quantizer: that what is learnt is what is computed, and what learning does where the answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.quantization import quantize as q
from vggt_edge.calibration.quantization.operators import fake_quantize_static
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import INT8, SCHEMES
from vggt_edge.calibration.transforms.hadamard import random_hadamard
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear, fake_quantized, form_of, rounded_weight
from vggt_edge.exporter.contest.peers.quantvggt import (
    Call,
    LearntLinear,
    block_calls,
    clipped_weight,
    dynamic_input,
    static_input,
    straight_round,
    tuned_linears,
)
from vggt_edge.exporter.models.vggt import VGGT


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class OneLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y


def calls_of(block: nn.Module, scenes: int = 4) -> list[list[Call]]:
    """Scenes of one call, whose channel 5 is an outlier."""
    found = []
    for _ in range(scenes):
        x = torch.randn(128, 64)
        x[:, 5] *= 30
        with torch.no_grad():
            found.append([Call((x,), block(x))])
    return found


def error(layer: nn.Module, calls: list[list[Call]]) -> float:
    with torch.no_grad():
        return sum(float((layer(*call.arguments) - call.output).square().mean()) for scene in calls for call in scene)


@pytest.mark.parametrize("clip", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("name", ["w8a8", "w8a8d", "w4a16", "w4a8d", "w4a4d"])
def test_what_is_learnt_from_is_what_the_comparison_computes(name: str, clip: float) -> None:
    weight, x, scheme = torch.randn(16, 64), torch.randn(40, 64), SCHEMES[name]
    factor = torch.tensor(clip)
    torch.testing.assert_close(clipped_weight(weight, scheme, factor), rounded_weight(weight, scheme, clip))
    if scheme.weight_bits == 4 or name == "w8a8d":
        form = form_of(weight, SCHEMES["w4a4d" if name == "w4a4d" else "w8a8d"])
        ours, theirs = dynamic_input(x, factor, form.input_range), fake_quantized(x, None, form, clip)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_static_input_is_rounded_as_in_the_comparison() -> None:
    x = 3 * torch.randn(40, 64)
    peak = torch.tensor(2.5)
    expected = fake_quantize_static(x, q.activation_scale(2.5), INPUT_RANGES[INT8])
    torch.testing.assert_close(static_input(x, peak), expected)


def test_gradients_pass_rounding_and_are_those_of_the_number() -> None:
    x = torch.tensor([0.2, 1.7, -2.4], requires_grad=True)
    (3 * straight_round(x)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full((3,), 3.0))


def test_learning_starts_from_smoothing_after_the_rotation() -> None:
    """c_i = sqrt(max|(X H)_i| / max|(W H)_i|), written out."""
    layer, rotation, x = nn.Linear(64, 32), random_hadamard(64, torch.Generator().manual_seed(1)), torch.randn(128, 64)
    learnt = LearntLinear(layer, SCHEMES["w8a8"], rotation)
    with torch.no_grad():
        learnt(x)
        learnt.start()
        expected = ((x @ rotation).abs().amax(dim=0) / (layer.weight @ rotation).abs().amax(dim=0)).sqrt()
    torch.testing.assert_close(learnt.log_smoothing.exp().detach(), expected)


def test_exact_where_nothing_is_rounded() -> None:
    block = OneLinear()
    calls = calls_of(block)
    tuned = tuned_linears("block", block, calls, SCHEMES["fp32"], 3)["block.fc"]
    assert error(tuned, calls) < 1e-9


@pytest.mark.parametrize(("name", "factor"), [("w8a8", 4.0), ("w4a4d", 2.0), ("w8a8d", 2.0)])
def test_an_outlier_channel_no_longer_decides_the_error(name: str, factor: float) -> None:
    """Against rounding to nearest; and what comes out computes what was learnt."""
    block, scheme = OneLinear(), SCHEMES[name]
    calls = calls_of(block)
    peak = max(float(call.arguments[0].abs().max()) for scene in calls for call in scene)
    scale = q.activation_scale(peak) if name == "w8a8" else None
    plain = SimulatedLinear(block.fc, rounded_weight(block.fc.weight, scheme), scheme, input_scale=scale)
    tuned = tuned_linears("block", block, calls, scheme, 3)["block.fc"]
    assert error(tuned, calls) * factor < error(plain, calls)


def test_learning_improves_what_it_starts_from(monkeypatch: pytest.MonkeyPatch) -> None:
    block, scheme = OneLinear(), SCHEMES["w4a16"]
    calls = calls_of(block)
    learnt = tuned_linears("block", block, calls, scheme, 3)["block.fc"]
    for rate in ("CLIP_RATE", "SMOOTHING_RATE", "LAST_RATE"):
        monkeypatch.setattr(f"vggt_edge.exporter.contest.peers.quantvggt.{rate}", 0.0)
    start = tuned_linears("block", block, calls, scheme, 3)["block.fc"]
    assert error(learnt, calls) < error(start, calls)


def test_calls_are_those_of_the_fp32_model(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """All blocks with linears, each of its calls in every scene; the camera trunk is called once per iteration."""
    found = {name: (block, calls) for name, block, calls in block_calls(small, scenes[:2])}
    assert set(found) == {name for name in small.blocks() if not name.endswith(("depth_head", "point_head"))}
    for name, (block, calls) in found.items():
        assert len(calls) == 2
        assert {len(scene) for scene in calls} == {2 if name.startswith("camera_head") else 1}
        with torch.no_grad():
            for call in calls[0]:
                torch.testing.assert_close(block(*call.arguments), call.output)

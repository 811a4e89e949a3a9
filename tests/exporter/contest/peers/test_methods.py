"""What all methods of the comparison have in common, each run whole on a tiny VGGT."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vggt_edge.calibration.observation.collect import images_of, layers_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.contest.peers import awq, gptq, quantvggt, quarot, qvggt, rtn, smoothquant
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear
from vggt_edge.exporter.models.vggt import VGGT

METHODS = {
    "rtn": rtn,
    "smoothquant": smoothquant,
    "awq": awq,
    "gptq": gptq,
    "quarot": quarot,
    "quantvggt": quantvggt,
    "qvggt": qvggt,
}


def outputs(model: VGGT, scene: Scene) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return model(images_of(scene))


@pytest.mark.parametrize("name", ["w8a8", "w4a16", "w4a8d"])
@pytest.mark.parametrize("method", METHODS)
def test_quantizes_a_copy(small: VGGT, scenes: tuple[Scene, ...], method: str, name: str) -> None:
    """Every linear of a block is replaced, no layer is left in FP32, and the model is as it was."""
    before = {key: value.clone() for key, value in small.state_dict().items()}
    copied = METHODS[method].quantize(small, scenes[:1], SCHEMES[name], 7)
    assert not layers_of(copied)
    assert sum(isinstance(module, SimulatedLinear) for module in copied.modules()) == 4 * 4
    got, wanted = outputs(copied, scenes[2]), outputs(small, scenes[2])
    assert all(bool(torch.isfinite(values).all()) for values in got)
    assert not torch.equal(got[0], wanted[0])
    assert len(layers_of(small)) > 4 * 4
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_gives_the_same_twice(small: VGGT, scenes: tuple[Scene, ...], method: str) -> None:
    """Four-bit activations, and nothing left that belongs to an inference alone."""
    one, other = (METHODS[method].quantize(small, scenes[:1], SCHEMES["w4a4d"], 7).state_dict() for _ in range(2))
    assert list(one) == list(other)
    assert not any(value.is_inference() for value in one.values())
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("method", METHODS)
def test_refuses_no_scenes(small: VGGT, method: str) -> None:
    with pytest.raises(InputError, match="no scenes"):
        METHODS[method].quantize(small, [], SCHEMES["w4a4d"], 0)

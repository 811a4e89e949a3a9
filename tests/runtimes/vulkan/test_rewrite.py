"""What is left of quantization after the rewriting for Vulkan, and that it computes the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter
from torch.nn import functional

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import StoredLayer
from vggt_edge.calibration.scheme import SCHEMES, Activation
from vggt_edge.runtimes.executorch.pieces import Piece, cut
from vggt_edge.runtimes.executorch.rewrite import rewrite
from vggt_edge.runtimes.vulkan.rewrite import RULES, constants_of, packs, restored

ATEN, TORCHAO = torch.ops.aten, torch.ops.torchao


class Applied(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Repeated(nn.Module):
    """A layer that runs several times, as those of the camera head do."""

    def __init__(self, scheme: str, times: int = 3) -> None:
        super().__init__()
        self.layer, self.times = form(nn.Linear(32, 32), scheme), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return x


def form(layer: nn.Module, scheme: str) -> nn.Module:
    return quantized(layer, Form.of(SCHEMES[scheme], LayerShape.of(layer), 32))


def piece_of(module: nn.Module, x: Tensor) -> Piece:
    with torch.no_grad():
        program = torch.export.export(module.eval(), (x,), strict=False)
    (piece,) = cut(program, lambda path: "").pieces
    return piece


def rewritten(module: nn.Module, x: Tensor) -> tuple[Tensor, set[object]]:
    """(what the rewritten module computes, its operators)."""
    program = program_of(module, x)
    with torch.no_grad():
        (found,) = program.module()(x)
    return found, {node.target for node in program.graph.nodes if node.op == "call_function"}


def program_of(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    return rewrite(restored(piece_of(module, x)), RULES, constants_of)


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


LAYERS: dict[str, Callable[[str], tuple[nn.Module, Tensor]]] = {
    "linear": lambda scheme: (form(nn.Linear(64, 48), scheme), torch.randn(1, 3, 5, 64)),
    "linear to 9": lambda scheme: (form(nn.Linear(64, 9), scheme), torch.randn(5, 64)),
    "convolution": lambda scheme: (form(nn.Conv2d(32, 16, 3, padding=1), scheme), torch.randn(2, 32, 7, 9)),
    "transposed": lambda scheme: (form(nn.ConvTranspose2d(32, 16, 4, stride=4), scheme), torch.randn(2, 32, 5, 6)),
    "repeated": lambda scheme: (Repeated(scheme), torch.randn(4, 32)),
}


@pytest.mark.parametrize("scheme", ["fp16", "w8a16", "w4a16"])
@pytest.mark.parametrize("name", LAYERS)
def test_weight_only_layers_compute_the_same(name: str, scheme: str) -> None:
    """Restored or not: the values of the weights are those that were stored."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](scheme)
    with torch.no_grad():
        expected = layer(x)
    found, _ = rewritten(layer, x)
    assert distance(found, expected) < 1e-6


@pytest.mark.parametrize("scheme", ["w8a8d", "w4a8d"])
@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_activations_are_not_quantized(name: str, scheme: str) -> None:
    """What is left are the weights of the scheme, with its own scales."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](scheme)
    found, targets = rewritten(layer, x)
    assert isinstance(layer, StoredLayer)
    layer.form = replace(layer.form, activation=Activation.NONE)
    with torch.no_grad():
        assert distance(found, layer(x)) < 1e-6
    assert not targets & {TORCHAO.choose_qparams_affine.default, TORCHAO.quantize_affine.default}


def test_only_weights_that_the_kernel_takes_stay_in_four_bits() -> None:
    """Rows and columns in fours; everything else is floating point, under the stored weight's name."""
    assert packs(torch.zeros(8, 32, dtype=torch.int8))
    assert not packs(torch.zeros(9, 32, dtype=torch.int8))
    assert not packs(torch.zeros(8, 4, 3, 3, dtype=torch.int8))
    for width, dtype in ((8, torch.int8), (9, torch.float32)):
        piece = restored(piece_of(form(nn.Linear(64, width), "w4a16"), torch.zeros(2, 64)))
        stored = [one for name, one in piece.weights.items() if piece.targets[name] == "weight_q"]
        assert [one.dtype for one in stored] == [dtype]


@pytest.mark.parametrize(("scheme", "count"), [("w4a16", 3), ("w8a16", 1)])
def test_a_layer_that_runs_again_has_packed_weights_of_its_own(scheme: str, count: int) -> None:
    """ExecuTorch packs them in place; floating point is shared."""
    piece = restored(piece_of(Repeated(scheme), torch.zeros(4, 32)))
    stored = [one for name, one in piece.weights.items() if piece.targets[name] == "layer.weight_q"]
    assert len({one.data_ptr() for one in stored}) == len(stored) == count


@pytest.mark.parametrize(
    "function",
    [lambda x: x.sign() * (x.abs().exp() - 1), lambda x: x.clone().exp(), lambda x: x.reshape(2, 3, 20)],
    ids=["inverse log", "exp", "reshape"],
)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 4, 5)])
def test_element_by_element_in_at_most_four_dimensions(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """Zero included, where a sign fades."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    x[0, 0, 0] = 0
    found, targets = rewritten(Applied(function), x)
    assert distance(found, function(x)) < 1e-6
    assert ATEN.sign.default not in targets


def test_the_sign_stays_within_fp16() -> None:
    """No intermediate value exceeds 65504, for inputs as large as that."""
    x = torch.tensor([-65504.0, -1e-3, 0.0, 1e-4, 3.0, 65504.0], dtype=torch.float16)
    found, _ = rewritten(Applied(torch.sign), x.float())
    halves = torch.clamp(torch.clamp(x, -1, 1) * 2.0**14, -1, 1)
    assert torch.equal(found, torch.sign(x.float()))
    assert torch.equal(halves.float(), found)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8, elementwise_affine=False, eps=1e-6), nn.LayerNorm(8, bias=False)])
def test_a_layer_norm_has_stored_weights(norm: nn.LayerNorm) -> None:
    """The runtime refuses one without weight or bias; with ones and zeros it is bit-equal."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8)
    program = program_of(norm, x)
    (node,) = (one for one in program.graph.nodes if one.target is ATEN.layer_norm.default)
    assert all(one.op == "placeholder" for one in node.args[2:4])
    with torch.no_grad():
        (found,) = program.module()(x)
        assert torch.equal(found, norm(x))


def naive_tanh(x: Tensor) -> Tensor:
    return (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1)


class NaiveDriver(Interpreter):
    """Runs a program as ExecuTorch's kernels do on a driver whose tanh is a quotient of exponentials."""

    def call_function(self, target: object, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> Tensor:
        if target is not ATEN.gelu.default:
            return super().call_function(target, args, kwargs)  # type: ignore[no-any-return, arg-type]
        (x,) = args
        return 0.5 * x * (1 + naive_tanh(0.7978845 * (x + 0.044715 * x**3)))


def test_gelu_is_right_on_a_driver_with_a_naive_tanh() -> None:
    """Where the plain one gives NaN; on a good driver nothing changes."""
    x = torch.cat([torch.linspace(-30, 30, 601), torch.tensor([-264.0, 143.0])])
    found, _ = rewritten(Applied(functional.gelu), x)
    assert distance(found, functional.gelu(x)) < 1e-7
    plain = torch.export.export(Applied(functional.gelu), (x,))
    assert NaiveDriver(plain.graph_module).run(x)[0].isnan().any()
    cured = NaiveDriver(program_of(Applied(functional.gelu), x).graph_module).run(x)[0]
    torch.testing.assert_close(cured, functional.gelu(x), atol=5e-4, rtol=0)  # tanh stands for erf


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1), (7, 9)])
@pytest.mark.parametrize("sides", [(3, 4), (1, 4), (1, 1)])
def test_a_resize_never_goes_to_a_side_of_one(sides: tuple[int, int], size: tuple[int, int]) -> None:
    """With aligned corners the runtime divides by the side less one."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, *sides)

    def resize(x: Tensor) -> Tensor:
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)

    program = program_of(Applied(resize), x)
    shapes = [one.meta["val"].shape for one in program.graph.nodes if one.target is ATEN.upsample_bilinear2d.vec]
    assert shapes
    assert all(1 not in shape[2:] for shape in shapes)
    (found,) = program.module()(x)
    assert torch.equal(found, resize(x))

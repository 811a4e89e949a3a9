"""Every kernel of the interpreter against torch, with the arguments that a serialized graph gives."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vggt_edge.runtimes.vulkan.graph import TensorValue
from vggt_edge.runtimes.vulkan.interpreter import session  # noqa: F401  registers the kernels
from vggt_edge.runtimes.vulkan.interpreter.kernel import KERNELS, NEEDS_OUTPUT

R = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=R)


X, Y, IMAGE, FILTER, BIAS = rand(2, 3, 4), rand(3, 1), rand(1, 4, 5, 6), rand(6, 4, 3, 3), rand(6)
CASES: dict[str, tuple[tuple[Any, ...], Callable[..., Any]]] = {
    "et_vk.prepack.default": ((X,), lambda x: x),
    "aten.clone.default": ((X, None), lambda x, _: x),
    "aten.add.Tensor": ((X, Y, 2), lambda x, y, by: torch.add(x, y, alpha=by)),
    "aten.sub.Tensor": ((X, Y, 2), lambda x, y, by: torch.sub(x, y, alpha=by)),
    "aten.mul.Tensor": ((X, Y), torch.mul),
    "aten.div.Tensor": ((X, Y), torch.div),
    "aten.abs.default": ((X,), torch.abs),
    "aten.exp.default": ((X,), torch.exp),
    "aten.sigmoid.default": ((X,), torch.sigmoid),
    "aten.relu.default": ((X,), torch.relu),
    "aten.clamp.default": ((X, -1, None), torch.clamp),
    "aten.hardtanh.default": ((X, -1, 1), functional.hardtanh),
    "aten.gelu.default": ((X, "none"), lambda x, _: functional.gelu(x, approximate="tanh")),
    "aten.mm.default": ((rand(2, 3), rand(3, 4)), torch.mm),
    "aten.bmm.default": ((rand(5, 2, 3), rand(5, 3, 4)), torch.bmm),
    "aten.linear.default": ((X, rand(5, 4), None), functional.linear),
    "aten.convolution.default": (
        (IMAGE, FILTER, BIAS, [2, 1], [1, 0], [1, 1], False, [0, 0], 1),
        lambda *given: functional.conv2d(IMAGE, FILTER, BIAS, (2, 1), (1, 0)),
    ),
    "et_vk.conv_with_clamp.default": (
        (IMAGE, FILTER, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, 0.0, 2.0),
        lambda *given: functional.conv2d(IMAGE, FILTER).clamp(0, 2),
    ),
    "aten.view_copy.default": ((X, [6, 4]), lambda x, shape: x.view(shape)),
    "aten.squeeze_copy.dims": ((IMAGE, [0]), lambda x, _: x.squeeze(0)),
    "aten.unsqueeze_copy.default": ((X, 1), torch.unsqueeze),
    "aten.permute_copy.default": ((X, [2, 0, 1]), torch.permute),
    "aten.expand_copy.default": ((Y, [3, 7], False), lambda y, shape, _: y.expand(shape)),
    "aten.slice_copy.Tensor": ((X, 2, 1, 2**63 - 1, 2), lambda x, *_: x[:, :, 1::2]),
    "aten.select_copy.int": ((X, 1, 2), torch.select),
    "aten.cat.default": (([X, X * 2], 1), torch.cat),
    "aten._softmax.default": ((X, -1, False), lambda x, dim, _: torch.softmax(x, dim)),
    "aten.upsample_bilinear2d.vec": (
        (IMAGE, [9, 4], True, None),
        lambda x, size, *_: functional.interpolate(x, size, mode="bilinear", align_corners=True),
    ),
}
APART = {"et_vk.linear_q4gsw.default", "aten.native_layer_norm.default"}


def test_every_kernel_is_tested() -> None:
    assert set(KERNELS) == {*CASES, *APART}
    assert set(KERNELS) >= NEEDS_OUTPUT


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_computes_what_torch_computes(name: str) -> None:
    arguments, reference = CASES[name]
    torch.testing.assert_close(KERNELS[name](*arguments), reference(*arguments), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(9, 4), (2, 13), (5, 6)])
def test_resizing_is_torchs(size: tuple[int, int], align_corners: bool) -> None:
    found = KERNELS["aten.upsample_bilinear2d.vec"](IMAGE, size, align_corners, None)
    expected = functional.interpolate(IMAGE, size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_aligned_corners_and_a_side_of_one_are_nan() -> None:
    """As in the runtime, which divides by zero there: the static check refuses it."""
    found = KERNELS["aten.upsample_bilinear2d.vec"](IMAGE, (1, 6), True, None)
    assert isinstance(found, Tensor)
    assert found.isnan().all()


def test_bounds_beyond_float32_are_none() -> None:
    """ExecuTorch fuses a convolution and a ReLU to a clamp below the largest double."""
    given = IMAGE, FILTER, BIAS, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, 0, sys.float_info.max
    expected = functional.conv2d(IMAGE, FILTER, BIAS, padding=1).relu()
    torch.testing.assert_close(KERNELS["et_vk.conv_with_clamp.default"](*given), expected)
    torch.testing.assert_close(KERNELS["aten.clamp.default"](X, -sys.float_info.max, 1), X.clamp(max=1))


def test_a_transposed_convolution_is_torchs() -> None:
    weight = rand(4, 6, 2, 2)
    found = KERNELS["aten.convolution.default"](IMAGE, weight, BIAS, [2, 2], [0, 0], [1, 1], True, [0, 0], 1)
    torch.testing.assert_close(found, functional.conv_transpose2d(IMAGE, weight, BIAS, 2))


def test_packed_weights_are_those_of_executorch() -> None:
    """Against ExecuTorch's own operator, in groups of 32."""
    pytest.importorskip("executorch.backends.vulkan.custom_ops_lib")
    packed = torch.randint(0, 256, (8, 32), generator=R, dtype=torch.uint8)
    x, scales, bias = rand(3, 64), rand(2, 8).abs(), rand(8)
    expected = torch.ops.et_vk.linear_q4gsw.default(x, packed, scales, 32, bias)
    found = KERNELS["et_vk.linear_q4gsw.default"](x, packed.long(), scales, 32, bias)
    torch.testing.assert_close(found, expected)


def written(storage: str, dtype: str) -> TensorValue:
    return TensorValue((2, 64), dtype, storage, "TENSOR_WIDTH_PACKED", "", -1)


@pytest.mark.parametrize(("storage", "dtype"), [("TEXTURE_3D", "FLOAT16"), ("BUFFER", "FLOAT32")])
def test_a_layer_norm_is_torchs(storage: str, dtype: str) -> None:
    """In a texture, sums are wide."""
    x, weight, bias = 200 * rand(2, 64), rand(64), rand(64)
    found = KERNELS["aten.native_layer_norm.default"](written(storage, dtype), x, [64], weight, bias, 1e-6)
    torch.testing.assert_close(tuple(found), torch.native_layer_norm(x, [64], weight, bias, 1e-6))


def test_a_layer_norm_in_a_buffer_of_halves_overflows() -> None:
    """Its squares are added in FP16: the inverse deviation becomes zero."""
    given = written("BUFFER", "FLOAT16"), 200 * rand(2, 64), [64], torch.ones(64), torch.zeros(64), 1e-6
    result, _, inverse = KERNELS["aten.native_layer_norm.default"](*given)
    assert not inverse.any()
    assert not result.any()

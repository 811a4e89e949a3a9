"""Layers against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from vggt_edge.devices.errors import InputError, LoweringError, ResourceError
from vggt_edge.runtimes.coreml.interpreter import MilSession, call
from vggt_edge.runtimes.coreml.sdk import load_coremltools

Array = np.ndarray
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def _numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(deadline=None, max_examples=10)
@given(
    lead=st.lists(st.integers(1, 3), max_size=3),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    bias=st.booleans(),
)
def test_linear(lead: list[int], sizes: tuple[int, int], bias: bool, run_op: Callable[..., Any]) -> None:
    """x @ weight.T + bias on the last axis."""
    assume(lead)
    inputs, outputs = sizes
    x, weight, offset = _numbers(*lead, inputs), _numbers(outputs, inputs, seed=1), _numbers(outputs, seed=2)
    parameters = {"bias": offset} if bias else {}
    result = run_op("linear", {"x": x}, weight=weight, **parameters)
    assert_allclose(result, x @ weight.T + (offset if bias else 0), **CLOSE)


@pytest.mark.parametrize("turn_x", [False, True])
@pytest.mark.parametrize("turn_y", [False, True])
@pytest.mark.parametrize("lead", [((), ()), ((2,), (2,)), ((2, 3), (1, 3)), ((3,), ())])
def test_matmul(
    lead: tuple[tuple[int, ...], tuple[int, ...]], turn_x: bool, turn_y: bool, run_op: Callable[..., Any]
) -> None:
    """Leading axes broadcast, and either side may be turned first."""
    x, y = _numbers(*lead[0], 4, 5), _numbers(*lead[1], 5, 6, seed=1)
    fed = {"x": x.swapaxes(-1, -2).copy() if turn_x else x, "y": y.swapaxes(-1, -2).copy() if turn_y else y}
    assert_allclose(run_op("matmul", fed, transpose_x=turn_x, transpose_y=turn_y), x @ y, **CLOSE)


def test_einsum(save: Callable[..., Any], run_saved: Callable[..., Any]) -> None:
    """The form that coremltools writes for products over several axes."""
    x, y = _numbers(2, 3, 4, 5), _numbers(2, 5, 4, 6, seed=1)
    path = save(
        lambda mb, x, y: mb.einsum(values=(x, y), equation="abcd,adce->abce"),
        {"x": (x.shape, "fp32"), "y": (y.shape, "fp32")},
    )
    (result,) = run_saved(path, {"x": x, "y": y})
    assert_allclose(result, np.einsum("abcd,adce->abce", x, y), **CLOSE)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("lead", [(2,), (2, 3)])
def test_attention(lead: tuple[int, ...], mask: str | None, run_op: Callable[..., Any]) -> None:
    """torch's attention with its own scale, the mask boolean or added."""
    fed = {"query": _numbers(*lead, 5, 8), "key": _numbers(*lead, 7, 8, seed=1), "value": _numbers(*lead, 7, 6, seed=2)}
    if mask:
        numbers = _numbers(5, 7, seed=3)
        fed["attn_mask"] = numbers > -1 if mask == "bool" else numbers
    tensors = {name: torch.tensor(array) for name, array in fed.items()}
    expected = F.scaled_dot_product_attention(**tensors).numpy()
    assert_allclose(run_op("scaled_dot_product_attention", fed), expected, **CLOSE)
    assert not np.allclose(expected, F.scaled_dot_product_attention(**tensors, scale=1.0).numpy())


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int, run_op: Callable[..., Any]) -> None:
    """Large arguments do not overflow."""
    x = _numbers(2, 3, 4) * 200
    assert_allclose(run_op("softmax", {"x": x}, axis=axis), torch.softmax(torch.tensor(x), axis).numpy(), **CLOSE)


@pytest.mark.parametrize("axes", [[-1], [1], [0, 2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm(axes: list[int], affine: bool, run_op: Callable[..., Any]) -> None:
    """Over any axes; epsilon stands under the root."""
    x = _numbers(3, 4, 5) * 3 + 10
    shape = [x.shape[axis] for axis in axes]
    gamma, beta = _numbers(*shape, seed=1), _numbers(*shape, seed=2)
    parameters = {"gamma": gamma, "beta": beta} if affine else {}
    where = tuple(axis % 3 for axis in axes)
    expected = (x - x.mean(where, keepdims=True)) / np.sqrt(x.var(where, keepdims=True) + 0.01)
    if affine:
        laid = [x.shape[axis] if axis in where else 1 for axis in range(3)]
        expected = expected * gamma.reshape(laid) + beta.reshape(laid)
    assert_allclose(
        run_op("layer_norm", {"x": x}, axes=axes, epsilon=0.01, **parameters), expected, rtol=1e-3, atol=1e-4
    )


def test_other_norms(run_op: Callable[..., Any]) -> None:
    """Batch and instance normalisation, and the division by the length of three axes."""
    x = _numbers(2, 3, 4, 5)
    mean, variance = _numbers(3, seed=1), np.abs(_numbers(3, seed=2)) + 0.5
    gamma, beta = _numbers(3, seed=3), _numbers(3, seed=4)
    tensor = torch.tensor(x)
    arguments = [torch.tensor(array) for array in (mean, variance, gamma, beta)]
    result = run_op("batch_norm", {"x": x}, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=0.1)
    assert_allclose(result, F.batch_norm(tensor, *arguments, eps=0.1).numpy(), **CLOSE)
    result = run_op("instance_norm", {"x": x}, gamma=gamma, beta=beta, epsilon=0.1)
    assert_allclose(result, F.instance_norm(tensor, weight=arguments[2], bias=arguments[3], eps=0.1).numpy(), **CLOSE)
    length = np.sqrt(np.square(x).sum((1, 2, 3), keepdims=True) + 0.1)
    assert_allclose(run_op("l2_norm", {"x": x}, epsilon=0.1), x / length, **CLOSE)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), axes=st.integers(1, 3), groups=st.sampled_from([1, 2]))
def test_conv(data: st.DataObject, axes: int, groups: int, run_op: Callable[..., Any]) -> None:
    """Strides, dilations, groups and uneven padding, in one to three dimensions."""
    draw = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, strides, dilations = draw(1, 3), draw(1, 3), draw(1, 2)
    before, after = draw(0, 2), draw(0, 2)
    x, weight = _numbers(2, 2 * groups, *[7] * axes), _numbers(2 * groups, 2, *kernel, seed=1)
    bias = _numbers(2 * groups, seed=2)
    parameters = {"weight": weight, "bias": bias, "strides": strides, "dilations": dilations, "groups": groups}
    pads = [amount for pair in zip(before, after, strict=True) for amount in pair]
    result = run_op("conv", {"x": x}, pad_type="custom", pad=pads, **parameters)
    padded = torch.tensor(np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)]))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    expected = convolve(padded, torch.tensor(weight), torch.tensor(bias), strides, 0, dilations, groups)
    assert_allclose(result, expected.numpy(), **CLOSE)


@pytest.mark.parametrize("mode", ["same", "same_lower", "valid"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 1), (8, 3, 2), (8, 2, 1), (7, 4, 3)])
def test_conv_padding_modes(mode: str, size: int, kernel: int, stride: int, run_op: Callable[..., Any]) -> None:
    """``same`` keeps ceil(size / stride) and pads the odd one at the end, ``same_lower`` at the start."""
    x, weight = _numbers(1, 1, size), _numbers(1, 1, kernel, seed=1)
    outputs = -(-size // stride) if mode != "valid" else (size - kernel) // stride + 1
    total = max((outputs - 1) * stride + kernel - size, 0) if mode != "valid" else 0
    pair = (total // 2, total - total // 2) if mode != "same_lower" else (total - total // 2, total // 2)
    expected = F.conv1d(F.pad(torch.tensor(x), pair), torch.tensor(weight), stride=stride).numpy()
    assert expected.shape[-1] == outputs
    assert_allclose(run_op("conv", {"x": x}, weight=weight, strides=[stride], pad_type=mode), expected, **CLOSE)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), axes=st.integers(1, 2), groups=st.sampled_from([1, 2]))
def test_conv_transpose(data: st.DataObject, axes: int, groups: int, run_op: Callable[..., Any]) -> None:
    """torch's transposed convolution, whose padding cuts the result and whose output padding lengthens it."""
    draw = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, strides = draw(1, 4), draw(1, 3)
    padding = [data.draw(st.integers(0, (size - 1) // 2)) for size in kernel]
    extra = [data.draw(st.integers(0, step - 1)) for step in strides]
    x, weight = _numbers(2, 2 * groups, *[4] * axes), _numbers(2 * groups, 3, *kernel, seed=1)
    bias = _numbers(3 * groups, seed=2)
    convolve = (F.conv_transpose1d, F.conv_transpose2d)[axes - 1]
    tensors = [torch.tensor(array) for array in (x, weight, bias)]
    expected = convolve(*tensors, strides, padding, extra, groups).numpy()
    pads = [amount for amount in padding for _ in range(2)]
    parameters = {"output_shape": list(expected.shape)} if any(extra) else {}
    result = run_op(
        "conv_transpose", {"x": x}, weight=weight, bias=bias, strides=strides, pad_type="custom", pad=pads,
        groups=groups, **parameters,
    )  # fmt: skip
    assert_allclose(result, expected, **CLOSE)


def test_conv_transpose_same_is_refused(run_op: Callable[..., Any]) -> None:
    """Which end it cuts is not written anywhere, so that it is refused by name."""
    with pytest.raises(LoweringError, match="pad_type = 'same'"):
        run_op("conv_transpose", {"x": _numbers(1, 1, 4)}, weight=_numbers(1, 1, 3), pad_type="same")


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_pools(padding: int, excluded: bool, run_op: Callable[..., Any]) -> None:
    """Largest and mean of windows; the mean with or without the padding."""
    x = _numbers(2, 3, 7, 8)
    parameters = {"kernel_sizes": [3, 2], "strides": [2, 1], "pad_type": "custom", "pad": [padding] * 4}
    tensor = torch.tensor(x)
    largest = F.max_pool2d(tensor, (3, 2), (2, 1), padding).numpy()
    assert_allclose(run_op("max_pool", {"x": x}, **parameters), largest)
    mean = F.avg_pool2d(tensor, (3, 2), (2, 1), padding, count_include_pad=not excluded).numpy()
    result = run_op("avg_pool", {"x": x}, exclude_padding_from_average=excluded, **parameters)
    assert_allclose(result, mean, **CLOSE)


def test_hostile_sizes_are_refused(
    save: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, run_op: Callable[..., Any]
) -> None:
    """A value beyond the limit is refused before it is made."""
    monkeypatch.setattr(call, "MAX_VALUE_BYTES", 1000)
    with pytest.raises(ResourceError, match=r"matmul .* makes a tensor of shape \[100, 100\]"):
        run_op("matmul", {"x": _numbers(100, 1), "y": _numbers(1, 100)})
    path = save(lambda mb, x: mb.add(x=x, y=x), {"x": ((300,), "fp32")})
    with pytest.raises(ResourceError, match="add"):
        MilSession(path).run({"x": _numbers(300)})


def test_what_torch_refuses_names_the_operation(save: Callable[..., Any]) -> None:
    """A program whose shapes do not fit is an error of the file."""
    path = save(lambda mb, x: mb.softmax(x=x, axis=-1, name="soft"), {"x": ((2, 3), "fp32")})
    model = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = load_coremltools("coremltools.proto.Model_pb2").Model.FromString(model.read_bytes())
    for operation in spec.mlProgram.functions["main"].block_specializations["CoreML8"].operations:
        if operation.type == "const":
            operation.attributes["val"].immediateValue.tensor.ints.values[:] = [5]
    model.write_bytes(spec.SerializeToString())
    with pytest.raises(InputError, match="softmax soft: axis 5 of a tensor of rank 2"):
        MilSession(path).run({"x": _numbers(2, 3)})

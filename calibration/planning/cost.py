"""The cost model: how many bytes a block's weights take under a scheme, and how long the block takes on a device.

Bytes are exact for what a scheme packs. Latency is a roofline (Williams et al., CACM 2009) per layer: the longer of
arithmetic and memory traffic, plus a fixed overhead. It ranks choices; it does not replace a measurement on the board.

Under ``w8a8d`` and ``w4a8d`` another operator quantizes the input first, with a roofline of its own. The products run
at the device's int8 rate, and beside them ``w4a8d`` unpacks weights and scales the sum of each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from vggt_edge.calibration.quantization.form import Form, Kind, LayerShape
from vggt_edge.calibration.quantization.ranges import BLOCK
from vggt_edge.calibration.scheme import (
    FP4,
    FP8,
    FP16,
    FP32,
    INT4,
    INT8,
    Activation,
    Numbers,
    Scheme,
    scheme,
    scheme_of_layers,
)
from vggt_edge.devices.errors import InputError
from vggt_edge.devices.profile import DeviceProfile

# No processor here multiplies integers of 4 bits.
_DTYPE_OF = {FP32: "fp32", FP16: "fp16", FP8: "fp8", FP4: "fp4", INT8: "int8", INT4: "int8"}
# TensorRT fuses INT8 attention up to here: 512 keys are fused, 576 are not (plan audit, SM86).
INT8_ATTENTION_KEYS = 512
_PACKED = (INT8, INT4, FP8, FP4)
_BYTES_OF_DTYPE = {"fp32": 4, "fp16": 2, "int8": 1, "fp8": 1, "fp4": 0.5}
# Biases, norms and LayerScale stay FP32 in the graph; a backend that halves them only gets smaller than promised.
_OTHER_BYTES = 4
_NANOSECOND_DIGITS = 6
# Work beside the products, in FP32 operations: a vector instruction counts as 8, as a multiply-accumulate of 4 values.
# (M) All three, counted from the steps that such a kernel has to take; to be replaced by a measurement on a phone.
# Quantizing a value at run time: minimum and maximum, then scaling, rounding to an integer, narrowing. 5 instructions.
_QUANTIZE_OPS = 10
# Each group of 4-bit weights ends an integer sum: to FP32, times its scale, added up. 2 instructions for 4 results.
_RESCALE_OPS = 4
# One instruction unpacks 16 weights of 4 bits, anew for each tile of rows (16 in KleidiAI's larger kernels).
_UNPACK_OPS, _TILE_ROWS = 0.5, 16


@dataclass(frozen=True)
class LayerCost:
    """One linear or convolution. Counts are elements; macs and activations are those of one whole model forward.

    calls: how often a forward runs the layer. pinned: the scheme it keeps whatever its block gets; None for a layer
    that follows its block. widened: packed numbers that the runtime writes to memory in 16 bits if inputs are not
    quantized.
    """

    name: str
    shape: LayerShape
    macs: int
    input_count: int
    output_count: int
    calls: int = 1
    pinned: str | None = None
    widened: frozenset[Numbers] = frozenset()

    @property
    def is_linear(self) -> bool:
        return self.shape.kind is Kind.LINEAR

    def form(self, name: str, group_size: int | None = None) -> Form:
        """What the layer gets where its block has the scheme ``name``."""
        kept = None if self.pinned is None else scheme(self.pinned)
        return Form.of(scheme(name), self.shape, group_size, kept)


@dataclass(frozen=True)
class BlockCost:
    """One block. ``other_count``: its parameters that no scheme packs (biases, norms, LayerScale).

    attention_macs: both matrix products of attention; attention_count: elements of q, k, v and the result;
    attention_keys: the most tokens that one query looks at.
    input_count, output_count: elements of the tensors that enter and leave the block in one call.
    """

    name: str
    layers: tuple[LayerCost, ...]
    other_count: int
    attention_macs: int
    attention_count: int
    input_count: int
    output_count: int
    attention_keys: int = 0

    @property
    def is_conv(self) -> bool:
        """Whether the block holds convolutions only, which have no 4-bit form."""
        return all(layer.shape.kind is not Kind.LINEAR for layer in self.layers)

    @property
    def macs(self) -> int:
        return self.attention_macs + sum(layer.macs for layer in self.layers)


def block_scheme(block: BlockCost, name: str) -> str:
    """The scheme that a request for ``name`` means for this block: what its layers get where none has that form.

    Pinned layers do not count, unless there are no others. Without attention it is the scheme of the layers alone.
    """
    if not block.attention_macs:
        name = scheme_of_layers(name)
    following = [layer for layer in block.layers if layer.pinned is None] or block.layers
    forms = {layer.form(name).scheme for layer in following}
    return forms.pop() if len(forms) == 1 else scheme(name).name


def weight_bytes(block: BlockCost, name: str, group_size: int | None = None) -> int:
    """Stored bytes of the block under a scheme: packed weights, their scales, input scales, and the rest of it in FP32.

    group_size: of 4-bit weights; the scheme's own by default. Scales: 4 bytes per channel or input, 2 per group (FP16;
    bfloat16 in XNNPACK). Tables of palettes: 2 bytes per value.
    """
    stored = (layer.form(name, group_size).stored_bytes(layer.shape) for layer in block.layers)
    return _OTHER_BYTES * block.other_count + sum(stored)


def latency_ms(block: BlockCost, name: str, profile: DeviceProfile, group_size: int | None = None) -> float:
    """Predicted time of the block in one model forward, in milliseconds, to the nanosecond.

    Attention's own products run in the scheme's numbers for them, else in FP16 (FP32 under ``fp32``). They are taken as
    fused, so that scores never reach memory.
    """
    seconds = sum(_layer_seconds(layer, name, profile, group_size) for layer in block.layers)
    return round(1e3 * (seconds + _attention_seconds(block, name, profile)), _NANOSECOND_DIGITS)


def _layer_seconds(layer: LayerCost, name: str, profile: DeviceProfile, group_size: int | None) -> float:
    form = layer.form(name, group_size)
    dtype = profile.compute_dtype(_DTYPE_OF[form.input])
    # A narrow product leaves as the next wider dtype, because residuals, norms and GELU are not quantized.
    leaving = profile.compute_dtype("fp16") if _BYTES_OF_DTYPE[dtype] < 2 else dtype
    launches = layer.calls
    traffic: float = layer.calls * form.stored_bytes(layer.shape)
    if form.weight in layer.widened and form.activation is Activation.NONE:
        # Read packed and written wide by one kernel, then read wide by every call.
        traffic = form.stored_bytes(layer.shape) + (1 + layer.calls) * layer.shape.weights * _BYTES_OF_DTYPE[dtype]
        launches += 1
    traffic += layer.input_count * _BYTES_OF_DTYPE[dtype] + layer.output_count * _BYTES_OF_DTYPE[leaving]
    compute_s = 2 * layer.macs / profile.ops_per_s(dtype)
    before_s = 0.0
    if form.activation is Activation.DYNAMIC_BLOCK:
        # FP16 once: a block of 16 stays in registers. E2M1 numbers and their scales go back.
        before_s = _quantizing_seconds(layer, profile, _BYTES_OF_DTYPE["fp16"] + _BYTES_OF_DTYPE["fp4"] + 1 / BLOCK)
    if form.activation is Activation.DYNAMIC_TOKEN:
        # FP32 twice, for the range and for the values; int8 goes back.
        before_s = _quantizing_seconds(layer, profile, 2 * _BYTES_OF_DTYPE["fp32"] + _BYTES_OF_DTYPE["int8"])
        compute_s += _grouped_ops(layer, form.group_size) / profile.ops_per_s("fp32")
    overhead_s = launches * profile.layer_overhead_us * 1e-6
    return before_s + max(compute_s, traffic / profile.bandwidth_bytes_per_s) + overhead_s


def _quantizing_seconds(layer: LayerCost, profile: DeviceProfile, bytes_per_value: float) -> float:
    """Time of the operator that quantizes a layer's input at run time. bytes_per_value: read and written together."""
    traffic = layer.input_count * bytes_per_value
    compute_s = _QUANTIZE_OPS * layer.input_count / profile.ops_per_s("fp32")
    return max(compute_s, traffic / profile.bandwidth_bytes_per_s) + layer.calls * profile.layer_overhead_us * 1e-6


def _grouped_ops(layer: LayerCost, group: int | None) -> float:
    """What a product of int8 inputs and 4-bit groups takes beside its multiplications, in FP32 operations."""
    if group is None:
        return 0.0
    unpacked = max(layer.macs / _TILE_ROWS, layer.calls * layer.shape.weights)
    return _RESCALE_OPS * layer.macs / group + _UNPACK_OPS * unpacked


def _attention_dtype(block: BlockCost, name: str) -> str:
    """INT8 with many keys counts as FP16: TensorRT does not fuse it, and is no faster then."""
    asked = scheme(name)
    if asked.attention is not None and (asked.attention != INT8 or block.attention_keys <= INT8_ATTENTION_KEYS):
        return _DTYPE_OF[asked.attention]
    return "fp32" if asked.weight_bits == 32 else "fp16"


def _attention_seconds(block: BlockCost, name: str, profile: DeviceProfile) -> float:
    if not block.attention_macs:
        return 0.0
    dtype = profile.compute_dtype(_attention_dtype(block, name))
    traffic_s = block.attention_count * _BYTES_OF_DTYPE[dtype] / profile.bandwidth_bytes_per_s
    calls = max(layer.calls for layer in block.layers)
    return (
        max(2 * block.attention_macs / profile.ops_per_s(dtype), traffic_s) + calls * profile.layer_overhead_us * 1e-6
    )


def peak_activation_bytes(blocks: Sequence[BlockCost], bytes_per_element: int = 2) -> int:
    """A simple estimate of the largest live activations of one forward, weights not included.

    While a block runs, its input, its output and the input and output of its widest layer are alive, and so is what the
    block with the largest input (a dense head: the tapped entries of the aggregator) is waiting for.
    """
    waiting = max((block.input_count for block in blocks), default=0)
    running = max((_live_count(block) for block in blocks), default=0)
    return bytes_per_element * (waiting + running)


def _live_count(block: BlockCost) -> int:
    widest = max((layer.input_count + layer.output_count) // max(layer.calls, 1) for layer in block.layers)
    return block.input_count + block.output_count + widest


def widened(blocks: Iterable[BlockCost], widens: Callable[[LayerShape, int, Numbers], bool]) -> tuple[BlockCost, ...]:
    """The blocks with the packed numbers marked that, by a layer's shape and number of calls, are widened in memory."""
    return tuple(
        replace(
            block,
            layers=tuple(
                replace(one, widened=frozenset(kind for kind in _PACKED if widens(one.shape, one.calls, kind)))
                for one in block.layers
            ),
        )
        for block in blocks
    )


class BlockModel(Protocol):
    """What the cost model needs of a model: its blocks, its tensors, and a forward."""

    @property
    def __call__(self) -> Callable[..., Any]: ...

    def blocks(self) -> Mapping[str, nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def modules(self) -> Iterator[nn.Module]: ...


def rest_bytes(model: BlockModel, name: str = "fp16") -> int:
    """Stored bytes of everything that is not in a block's ``weight_bytes``, under the plan's rest scheme.

    These are the parameters outside the blocks and every constant table (buffer), so an upper bound: a table that the
    graph does not reach counts too. Integer tables keep their own width; only weights of layers become narrower
    than 16 bits.
    """
    inside = {id(tensor) for block in model.blocks().values() for tensor in block.parameters()}
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in inside}
    layers = {id(layer.weight): layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    return sum(_rest_bytes(tensor, layers.get(key), scheme(name)) for key, tensor in tensors.items())


def _rest_bytes(tensor: Tensor, layer: nn.Module | None, wanted: Scheme) -> int:
    """layer: of which ``tensor`` is the weight."""
    if layer is not None:
        shape = LayerShape.of(layer)
        return Form.of(wanted, shape).stored_bytes(shape)
    if tensor.is_floating_point():
        return tensor.numel() * max(wanted.weight.bits, 16) // 8
    return tensor.numel() * tensor.element_size()


@dataclass
class _Tally:
    """What the hooks saw of one module over one forward."""

    macs: int = 0
    inputs: int = 0
    outputs: int = 0
    calls: int = 0
    attention_macs: int = 0
    attention: int = 0
    keys: int = 0


def describe_blocks(model: BlockModel, example: Tensor) -> tuple[BlockCost, ...]:
    """The cost of every block of a model that is not quantized yet, in the order of ``model.blocks()``.

    example: an input of the export shape, (1, S, 3, H, W). The forward runs on fake tensors: shapes only, no
    arithmetic, so the full-size model takes seconds and no memory. Raises ``InputError`` for a block without linears
    and convolutions.
    """
    tallies: dict[nn.Module, _Tally] = {}
    attention = _AttentionCount()
    with ExitStack() as hooks:
        for block in model.blocks().values():
            for module in (block, *_weighted(block).values()):
                tallies[module] = _Tally()
                hooks.callback(module.register_forward_hook(_count_into(tallies[module])).remove)
            hooks.callback(block.register_forward_pre_hook(attention.enter(tallies[block])).remove)
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode, attention:
            model(mode.from_tensor(example))
    return tuple(_describe(name, block, tallies) for name, block in model.blocks().items())


def _weighted(block: nn.Module) -> dict[str, nn.Linear | nn.Conv2d | nn.ConvTranspose2d]:
    return {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    }


class _AttentionCount(TorchFunctionMode):
    """Credits every fused attention, (B, heads, tokens, head_dim), to the block that was entered last."""

    def __init__(self) -> None:
        super().__init__()
        self.tally = _Tally()

    def enter(self, tally: _Tally) -> Callable[[nn.Module, Any], None]:
        def entered(module: nn.Module, inputs: Any) -> None:
            self.tally = tally

        return entered

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            query, key = args[:2]
            self.tally.attention_macs += 2 * query.numel() * key.shape[2]
            self.tally.attention += 2 * (query.numel() + key.numel())
            self.tally.keys = max(self.tally.keys, key.shape[2])
        return func(*args, **(kwargs or {}))


def _count_into(tally: _Tally) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tally.calls += 1
        tally.inputs += _elements(args[0])
        tally.outputs += _elements(output)
        tally.macs += _macs(module, args[0], output)

    return count


def _elements(value: Tensor | Sequence[Tensor]) -> int:
    return value.numel() if isinstance(value, Tensor) else sum(tensor.numel() for tensor in value)


def _macs(module: nn.Module, x: Any, output: Any) -> int:
    """Each output of a linear or convolution reads one row of weights; each input of a transposed one feeds one."""
    if isinstance(module, nn.Linear):
        return int(output.numel()) * module.in_features
    if isinstance(module, nn.Conv2d):
        return int(output.numel()) * module.weight[0].numel()
    if isinstance(module, nn.ConvTranspose2d):
        return int(x.numel()) * module.weight[0].numel()
    return 0


def _describe(name: str, block: nn.Module, tallies: Mapping[nn.Module, _Tally]) -> BlockCost:
    modules = _weighted(block)
    if not modules:
        raise InputError(
            f"block {name} has no linear or convolution",
            where="describe_blocks",
            expected="a model that is not quantized yet",
            remedy="describe the model before apply_plan",
        )
    layers = tuple(_layer(layer, module, tallies[module]) for layer, module in modules.items())
    seen = tallies[block]
    calls = max(seen.calls, 1)
    return BlockCost(
        name=name,
        layers=layers,
        other_count=sum(p.numel() for p in block.parameters()) - sum(layer.shape.weights for layer in layers),
        attention_macs=seen.attention_macs,
        attention_count=seen.attention,
        input_count=seen.inputs // calls,
        output_count=seen.outputs // calls,
        attention_keys=seen.keys,
    )


def _layer(name: str, module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, tally: _Tally) -> LayerCost:
    return LayerCost(
        name=name,
        shape=LayerShape.of(module),
        macs=tally.macs,
        input_count=tally.inputs,
        output_count=tally.outputs,
        calls=tally.calls,
    )

"""What ExecuTorch's Vulkan runtime would refuse, or compute wrong, in a serialized graph: told without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.base import Finding
from vggt_edge.runtimes.common.audit import place
from vggt_edge.runtimes.executorch.pieces import Piece
from vggt_edge.runtimes.executorch.sdk import sdk
from vggt_edge.runtimes.vulkan.graph import BUFFER, HALF, TEXTURE, Call, TensorValue, VulkanGraph
from vggt_edge.runtimes.vulkan.payload import weight_key
from vggt_edge.runtimes.vulkan.rewrite import GELU_BOUND

# ExecuTorch's own limits, and what every driver that it supports has.
TEXTURE_LIMITS, SMALL_TEXTURE = (16384, 16384, 2048), 2048
# Operators that a pass puts in behind the partitioner, for which the registry has no entry.
_INSERTED = frozenset({"et_vk.prepack.default"})
_CONVOLUTIONS = frozenset({"aten.convolution.default", "et_vk.conv_with_clamp.default"})
# Operators that hand their first argument on as it is, in another shape or storage.
_SAME_VALUES = frozenset(
    {"aten.view_copy.default", "aten.squeeze_copy.dims", "aten.unsqueeze_copy.default", "aten.clone.default"}
)
_RULES = "in runtimes/vulkan/rewrite.py"


@dataclass(frozen=True)
class Fault:
    """One call that the runtime refuses or computes wrong. block: of the weights that were read last before it."""

    number: int
    operator: str
    block: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.block or 'before the first block'}: operation {self.number}, {self.operator}: {self.what}"


# Says (what is wrong, what to do about it) of one call.
Complaints = Iterator[tuple[str, str]]


def faults(graph: VulkanGraph, block_of: Mapping[str, str], texture_limit: int | None = None) -> tuple[Fault, ...]:
    """block_of: the block of each weight by its key in the graph. texture_limit: of the device, as for lowering."""
    return tuple(_faults(graph, block_of, (texture_limit,) * 3 if texture_limit else TEXTURE_LIMITS))


def _faults(graph: VulkanGraph, block_of: Mapping[str, str], limits: Sequence[int]) -> Iterator[Fault]:
    checker, block = _Checker(graph, limits), ""
    for call in graph.calls:
        if call.name not in _INSERTED:
            block = next((block_of[key] for key in sorted(graph.keys(call)) if block_of.get(key)), block)
        for what, remedy in checker.complaints(call):
            yield Fault(call.number, call.name, block, what, remedy)


def blocks_by_key(piece: Piece, blocks: Sequence[str]) -> dict[str, str]:
    """The block of each weight of a piece, by the weight's key in the graph.

    Empty outside of blocks, and for bytes that several blocks store.
    """
    found: dict[str, str] = {}
    for name, weight in piece.weights.items():
        if weight.is_floating_point() or weight.dim() == 2:
            key, block = weight_key(weight), place(piece.targets[name].rpartition(".")[0], blocks)[0]
            found[key] = block if found.get(key, block) == block else ""
    return found


def enforce(found: Sequence[Fault]) -> None:
    """``LoweringError`` that names the first fault of each kind."""
    if found:
        kinds: dict[tuple[str, str], list[Fault]] = {}
        for one in found:
            kinds.setdefault((one.operator, one.what), []).append(one)
        named = (f"{first}{f' (and {len(more)} like it)' if more else ''}" for first, *more in kinds.values())
        raise LoweringError(
            f"ExecuTorch's Vulkan runtime does not run {len(found)} operations as they are: {'; '.join(named)}",
            where="serialized Vulkan graph",
            expected="operators, shapes and arguments that its kernels take",
            remedy="; ".join(dict.fromkeys(one.remedy for one in found)),
        )


class _Checker:
    """All rules over one graph."""

    def __init__(self, graph: VulkanGraph, limits: Sequence[int]) -> None:
        self.graph, self.limits = graph, limits
        self.known = _registry()
        self.writer = {place: call for call in graph.calls for place in graph.tensor_places([call.writes])}

    def complaints(self, call: Call) -> Complaints:
        if call.name in _INSERTED:
            return
        features = self.known.get(call.name)
        if features is None:
            yield "the runtime's registry has no such operator", f"write it in operators that Vulkan has, {_RULES}"
        elif not features.supports_highdim:
            yield from self._dimensions(call)
        yield from self._textures(call)
        rule = _OF_OPERATOR.get(call.name)
        if rule is not None:
            yield from rule(self, call)

    def _dimensions(self, call: Call) -> Complaints:
        shapes = sorted({one.shape for one in self.graph.tensors(call.arguments) if len(one.shape) > 4})
        if shapes:
            yield f"more than four dimensions, {', '.join(map(str, shapes))}", f"compute it in four, {_RULES}"

    def _textures(self, call: Call) -> Complaints:
        for tensor in self.graph.tensors([call.writes]):
            if tensor.storage == TEXTURE and _exceeds(tensor, self.limits):
                yield (
                    f"a texture of {tensor.extents} texels, above {tuple(self.limits)}",
                    "set texture_limit in the profile, or give fewer or smaller frames",
                )

    def layer_norm(self, call: Call) -> Complaints:
        shape, weight, bias = (self.graph.values[place] for place in call.arguments[1:4])
        if weight is None or bias is None:
            yield "no weight or bias", f"store ones and zeros, {_RULES}"
        if isinstance(shape, tuple) and len(shape) != 1:
            yield f"over {len(shape)} dimensions", "normalize over the last dimension"

    def convolution(self, call: Call) -> Complaints:
        value = self.graph.values[call.arguments[0]]
        if isinstance(value, TensorValue) and len(value.shape) == 4 and value.shape[0] != 1:
            yield f"a batch of {value.shape[0]}", f"convolve image by image, {_RULES}"

    def bilinear(self, call: Call) -> Complaints:
        (written,) = self.graph.tensors([call.writes])
        if self.graph.values[call.arguments[2]] and 1 in written.shape[2:]:
            yield "aligned corners and a side of one, a division by zero", f"resize to two and cut one off, {_RULES}"

    def nearest(self, call: Call) -> Complaints:
        yield "the kernel takes wrong neighbours", "resize bilinearly"

    def gelu(self, call: Call) -> Complaints:
        """Walks back to what bounds the argument."""
        place = call.arguments[0]
        while place in self.writer and self.writer[place].name in _SAME_VALUES:
            place = self.writer[place].arguments[0]
        bounds = self._bounds(self.writer.get(place))
        if not all(isinstance(one, int | float) and abs(one) <= GELU_BOUND for one in bounds):
            yield "an argument without bounds, NaN on drivers with a naive tanh", f"clamp it, {_RULES}"

    def _bounds(self, call: Call | None) -> tuple[Any, Any]:
        if call is None or call.name not in ("aten.clamp.default", "et_vk.conv_with_clamp.default"):
            return None, None
        low, high = (self.graph.values[place] for place in call.arguments[-3:-1])
        return low, high


_OF_OPERATOR: Mapping[str, Callable[[_Checker, Call], Complaints]] = {
    "aten.native_layer_norm.default": _Checker.layer_norm,
    "aten.upsample_bilinear2d.vec": _Checker.bilinear,
    "aten.upsample_nearest2d.vec": _Checker.nearest,
    "aten.gelu.default": _Checker.gelu,
    **dict.fromkeys(_CONVOLUTIONS, _Checker.convolution),
}


def _registry() -> dict[str, Any]:
    """The features of each operator that the partitioner knows, under the name that a serialized graph uses."""
    supported = sdk("backends.vulkan.op_registry").vulkan_supported_ops
    names = {key if isinstance(key, str) else str(getattr(key, "__name__", key)): of for key, of in supported.items()}
    return {name.replace("::", "."): of for name, of in names.items()}


def _exceeds(tensor: TensorValue, limits: Sequence[int]) -> bool:
    return any(extent > limit for extent, limit in zip(tensor.extents, limits, strict=True))


def findings(graph: VulkanGraph) -> Iterator[Finding]:
    """What runs, but not on every phone, or not for every input."""
    large = [one for one in _written(graph) if one.storage == TEXTURE and _exceeds(one, (SMALL_TEXTURE,) * 3)]
    if large:
        yield Finding(
            rule="texture_limit",
            op="main",
            op_type="texture",
            block="",
            what=f"{len(large)} textures have a side above {SMALL_TEXTURE}, the largest {max(map(_side, large))}: "
            f"a phone whose maxImageDimension3D is {SMALL_TEXTURE} cannot hold them, and release builds do not say so",
            remedy=f"set texture_limit = {SMALL_TEXTURE} in the profile, which moves them into buffers",
            source="ExecuTorch 1.4, backends/vulkan/utils.py",
            severity="warning",
        )
    norms = [call for call in graph.calls if call.name == "aten.native_layer_norm.default" and _in_half(graph, call)]
    if norms:
        yield Finding(
            rule="half_sums",
            op="main",
            op_type="native_layer_norm",
            block="",
            what=f"{len(norms)} layer norms lie in buffers, where the kernel adds squares in FP16, which ends at 65504",
            remedy="give fewer or smaller frames, or a larger texture_limit where the device has it",
            source="ExecuTorch 1.4, native_layer_norm_buffer.glsl",
            severity="warning",
        )


def _written(graph: VulkanGraph) -> Iterator[TensorValue]:
    for call in graph.calls:
        yield from graph.tensors([call.writes])


def _side(tensor: TensorValue) -> int:
    return max(tensor.extents)


def _in_half(graph: VulkanGraph, call: Call) -> bool:
    return any(one.storage == BUFFER and one.dtype == HALF for one in graph.tensors([call.writes]))

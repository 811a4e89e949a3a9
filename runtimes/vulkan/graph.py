"""A serialized Vulkan graph in our own types: its calls in order, and the values that they read and write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.runtimes.executorch.sdk import quiet, sdk

BUFFER, TEXTURE = "BUFFER", "TEXTURE_3D"
HALF = "FLOAT16"
OWN = -1


@dataclass(frozen=True)
class TensorValue:
    """A tensor of the graph.

    dtype: as ExecuTorch calls it, ``FLOAT16``. storage: ``BUFFER``, ``TEXTURE_3D``, or ``DEFAULT_STORAGE`` of a
    constant. layout: the dimension of which four elements make a texel, ``TENSOR_WIDTH_PACKED``.
    key: SHA-256 of a constant's bytes, else empty. memory: the memory object that it shares with others, or ``OWN``.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: str
    layout: str
    key: str
    memory: int

    @property
    def extents(self) -> tuple[int, int, int]:
        """Texels of its texture in the three directions."""
        channels, height, width = (1, 1, 1, *self.shape)[-3:]
        batch = math.prod(self.shape[:-3])
        if "CHANNELS" in self.layout:
            return width, height, batch * -(-channels // 4)
        if "HEIGHT" in self.layout:
            return width, -(-height // 4), batch * channels
        return -(-width // 4), height, batch * channels

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Members:
    """A list of values, by their places."""

    places: tuple[int, ...]


Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = TensorValue | Members | Scalar | tuple[bool | int | float, ...]


@dataclass(frozen=True)
class Call:
    """One operator. number: its place in the chain. arguments: places of values; the last is what it writes."""

    number: int
    name: str
    arguments: tuple[int, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        return self.arguments[:-1]

    @property
    def writes(self) -> int:
        return self.arguments[-1]


@dataclass(frozen=True)
class VulkanGraph:
    """inputs, outputs: places of values.

    ``ValueError`` for a call that writes nothing, a place without a value, and a list in a list.
    """

    calls: tuple[Call, ...]
    values: tuple[Value, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        members = [place for value in self.values if isinstance(value, Members) for place in value.places]
        named = [*self.inputs, *self.outputs, *members, *(place for call in self.calls for place in call.arguments)]
        missing = [place for place in named if not 0 <= place < len(self.values)]
        if missing:
            raise ValueError(f"it names value {missing[0]} of {len(self.values)}")
        if any(isinstance(self.values[place], Members) for place in members):
            raise ValueError("a list holds a list")
        idle = [call.name for call in self.calls if not call.arguments]
        if idle:
            raise ValueError(f"{idle[0]} writes nothing")

    def tensors(self, places: Sequence[int]) -> Iterator[TensorValue]:
        """The tensors among some values, those of lists too."""
        for place in self.tensor_places(places):
            value = self.values[place]
            assert isinstance(value, TensorValue)
            yield value

    def tensor_places(self, places: Sequence[int]) -> Iterator[int]:
        for place in places:
            value = self.values[place]
            if isinstance(value, TensorValue):
                yield place
            elif isinstance(value, Members):
                yield from self.tensor_places(value.places)

    def keys(self, call: Call) -> frozenset[str]:
        """SHA-256 of the constants that a call reads."""
        return frozenset(tensor.key for tensor in self.tensors(call.reads) if tensor.key)


def read_graph(payload: bytes) -> VulkanGraph:
    """Out of what a delegate was given."""
    serialization = sdk("backends.vulkan.serialization.vulkan_graph_serialize")
    raw = serialization.flatbuffer_to_vk_graph(serialization.extract_vk_flatbuffer(payload))
    return VulkanGraph(
        tuple(Call(number, str(call.name), tuple(call.args)) for number, call in enumerate(raw.chain)),
        tuple(_value(raw, entry.value) for entry in raw.values),
        tuple(raw.input_ids),
        tuple(raw.output_ids),
    )


def _value(graph: Any, raw: Any) -> Value:
    kind = type(raw).__name__
    if kind == "VkTensor":
        return _tensor(graph, raw)
    if kind == "Null":
        return None
    if kind == "ValueList":
        return Members(tuple(raw.items))
    if kind in ("IntList", "DoubleList", "BoolList"):
        return tuple(raw.items)
    fields = {"Int": "int_val", "Bool": "bool_val", "Double": "double_val", "String": "string_val"}
    if kind not in fields:
        raise LoweringError(
            f"the graph holds a value of kind {kind}",
            where="serialized Vulkan graph",
            expected=f"tensors, lists, {', '.join(fields)}",
            remedy="export a model of fixed shapes",
        )
    return getattr(raw, fields[kind])  # type: ignore[no-any-return]


def _tensor(graph: Any, raw: Any) -> TensorValue:
    schema = sdk("backends.vulkan.serialization.vulkan_graph_schema")
    key = graph.constants[raw.constant_id].named_key if raw.constant_id >= 0 else ""
    return TensorValue(
        tuple(raw.dims),
        schema.VkDataType(int(raw.datatype)).name,
        schema.VkStorageType(int(raw.storage_type)).name,
        schema.VkMemoryLayout(int(raw.memory_layout)).name,
        str(key),
        int(raw.mem_obj_id),
    )


@dataclass(frozen=True)
class VulkanProgram:
    """A ``.pte`` that is one Vulkan delegate. data: bytes of the constants by their SHA-256."""

    graph: VulkanGraph
    data: dict[str, bytes]


def read_program(path: Path) -> VulkanProgram:
    """``InputError`` for a damaged file, ``LoweringError`` for a program that is more than one Vulkan delegate."""
    try:
        with quiet():
            file = sdk("exir._serialize._program").deserialize_pte_binary(path.read_bytes())
            (payload,) = _payloads(file.program, path)
            named = file.named_data
            data = {key: bytes(named.buffers[entry.buffer_index]) for key, entry in named.pte_data.items()}
            return VulkanProgram(read_graph(payload), data)
    except LoweringError:
        raise
    except Exception as error:  # flatbuffers, JSON and struct complain in many ways, and all of them mean the same
        raise InputError(
            f"cannot read the program: {error or type(error).__name__}",
            where=str(path),
            expected="a .pte that an export wrote",
            remedy="export it again",
        ) from error


def _payloads(program: Any, path: Path) -> tuple[bytes, ...]:
    (plan,) = program.execution_plan
    steps = [step.instr_args for chain in plan.chains for step in chain.instructions]
    names = [one.id for one in plan.delegates]
    border = [*plan.inputs, *plan.outputs]
    if len(steps) != 1 or names != ["VulkanBackend"] or list(steps[0].args) != border:
        raise LoweringError(
            f"the program has {len(steps)} steps and the delegates {', '.join(names) or '(none)'}",
            where=str(path),
            expected="one call of one Vulkan delegate, which our interpreter can follow",
            remedy="write what is left to the CPU in operators that Vulkan has, in runtimes/vulkan/rewrite.py",
        )
    return tuple(bytes(program.backend_delegate_data[one.processed.index].data) for one in plan.delegates)

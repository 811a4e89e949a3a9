"""What a serialized delegate of XNNPACK holds: its operations, and the stored constants that each of them reads."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.executorch.sdk import sdk

_SERIALIZATION = "backends.xnnpack.serialization"
_Table: TypeAlias = Mapping[str, Any]
# XNNPACK copies these operands into a layout of its own when it loads a delegate.
_PACKING = frozenset({"XNNFullyConnected", "XNNConv2d", "XNNDepthwiseConv2d", "XNNConvTranspose2d"})
# Bounds without an end, as a ReLU has them, which flatc writes and JSON does not know.
_NO_NUMBER = re.compile(rb":\s*-?(inf|nan)\b")
_PACKED = frozenset({"filter_id", "bias_id"})


@dataclass(frozen=True)
class UnpackedConstant:
    """A stored constant that is read where XNNPACK does not pack it.

    operation: such as ``XNNMultiply``. index: its place in the delegate. operand: such as ``input2_id``.
    """

    operation: str
    index: int
    operand: str


def unpacked_constants(payload: bytes) -> tuple[UnpackedConstant, ...]:
    """Constants that XNNPACK reads without packing them, in the order of the delegate's operations.

    ``InputError`` for bytes that are no delegate of XNNPACK.

    ExecuTorch unmaps every stored constant once XNNPACK has loaded the delegate, so each of these is read from memory
    that is gone: version 1.4.0 always does, later ones with the weights cache that Android's library switches on.
    """
    try:
        graph = _decoded(payload)
        stored = set(_stored(graph))
        return tuple(
            UnpackedConstant(kind, index, operand)
            for index, (kind, operands) in enumerate(_operations(graph))
            for operand, value in operands.items()
            if value in stored and not (kind in _PACKING and operand in _PACKED)
        )
    except Exception as error:  # header, flatc, JSON and missing fields complain in many ways, and all mean the same
        raise InputError(
            f"a delegate of XNNPACK cannot be read: {type(error).__name__}: {error}",
            where="serialized XNNPACK graph",
            expected="what ExecuTorch serialized",
            remedy="export again with the version of ExecuTorch that vggt-edge asks for",
        ) from error


def _operations(graph: _Table) -> Iterator[tuple[str, dict[str, int]]]:
    """Each operation's kind, and the values that it reads."""
    for node in graph["xnodes"]:
        fields = node["xnode_union"].items()
        operands = {name: value for name, value in fields if name.endswith("_id") and not name.startswith("output")}
        yield node["xnode_union_type"], operands


def _stored(graph: _Table) -> Iterator[int]:
    """Values whose content lies outside of the delegate, in the program or beside it."""
    for entry in graph["xvalues"]:
        value = entry["xvalue_union"]
        tensor = value.get("tensor_value", value)
        if graph["constant_data"][tensor["constant_buffer_idx"]].get("named_key"):
            yield tensor["id_out"]


def _decoded(payload: bytes) -> _Table:
    header = sdk(f"{_SERIALIZATION}.xnnpack_graph_serialize").XNNHeader
    about = header.from_bytes(payload[: header.EXPECTED_LENGTH])
    schema = resources.files(f"executorch.{_SERIALIZATION}").joinpath("schema.fbs")
    with tempfile.TemporaryDirectory(prefix="vggt-edge-executorch-") as scratch:
        folder = Path(scratch)
        (folder / "schema.fbs").write_bytes(schema.read_bytes())
        end = about.flatbuffer_offset + about.flatbuffer_size
        (folder / "graph.bin").write_bytes(payload[about.flatbuffer_offset : end])
        decompile = sdk("exir._serialize._flatbuffer")._flatc_decompile
        decompile(scratch, str(folder / "schema.fbs"), str(folder / "graph.bin"), ["--raw-binary"])
        graph: _Table = json.loads(_NO_NUMBER.sub(rb": null", (folder / "graph.json").read_bytes()))
    return graph

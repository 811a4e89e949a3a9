"""The file that holds the weights of an ONNX graph, written one tensor at a time."""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO

import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from vggt_edge.calibration.quantization.quantize import pack_int4
from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.builder import onnx_type
from vggt_edge.exporter.graph.template import Stored

INLINE_BYTES = 256  # smaller tensors stay in the graph, where shape inference can read them
_PACKED_TYPES = {torch.int8: TensorProto.INT4, torch.uint8: TensorProto.UINT4}
ALIGNMENT, PAGE, PAGE_FROM = 64, 4096, 1 << 20  # tensors of a megabyte and more start on a page, for mmap


class DataFile:
    """Appends tensors to an open file. protos: what the graph says of each; sizes: bytes by name.

    Equal tensors of less than a megabyte lie in the file once: both dense heads have the same tables.
    """

    def __init__(self, stream: BinaryIO, location: str) -> None:
        self.protos: list[onnx.TensorProto] = []
        self.sizes: dict[str, int] = {}
        self._stream = stream
        self._location = location
        self._offsets: dict[bytes, int] = {}  # by the digest of what is stored there

    def add_stored(self, name: str, stored: Stored, program: nn.Module) -> None:
        """A tensor of a template, with the weights of the stage that ``program`` computes."""
        tensor = stored.source.load(program)
        tensor = _exact_half(name, tensor) if stored.half else tensor
        self.add(name, tensor.t() if stored.transposed else tensor, packed=stored.packed)

    def add(self, name: str, tensor: Tensor, *, packed: bool = False) -> None:
        """Write one tensor, little endian, 4-bit integers packed."""
        kind = _PACKED_TYPES[tensor.dtype] if packed else onnx_type(tensor.dtype)
        proto = TensorProto(name=name, data_type=kind)
        proto.dims.extend(tensor.shape)
        final = tensor.contiguous()
        # As bytes: numpy lacks some of torch's types.
        content = (pack_int4(final) if packed else final).reshape(-1).view(torch.uint8).numpy()
        self.sizes[name] = content.nbytes
        if content.nbytes < INLINE_BYTES:
            proto.raw_data = content.tobytes()
        else:
            proto.data_location = TensorProto.EXTERNAL
            place = {"location": self._location, "offset": self._offset(content), "length": content.nbytes}
            for key, value in place.items():
                proto.external_data.add(key=key, value=str(value))
        self.protos.append(proto)

    def _offset(self, content: npt.NDArray[Any]) -> int:
        """Where ``content`` lies, written unless it is there."""
        if content.nbytes >= PAGE_FROM:
            return self._append(content, PAGE)
        digest = hashlib.sha256(content.data).digest()
        if digest not in self._offsets:
            self._offsets[digest] = self._append(content, ALIGNMENT)
        return self._offsets[digest]

    def _append(self, content: npt.NDArray[Any], alignment: int) -> int:
        self._stream.write(b"\0" * (-self._stream.tell() % alignment))
        offset = self._stream.tell()
        self._stream.write(content.data)
        return offset


def _exact_half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not bool((half.float() == tensor).all()):
        raise LoweringError(
            "a group scale is no FP16 number",
            where=name,
            expected="scales of vggt_edge.calibration.quantization.quantize",
        )
    return half

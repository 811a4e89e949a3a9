"""From the protobuf of a Core ML model to the types of ``mil``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.coreml.blob import WeightFile, unpack
from vggt_edge.runtimes.coreml.mil import (
    BITS,
    NUMPY_TYPES,
    Argument,
    Constant,
    Description,
    Feature,
    MilProgram,
    Operation,
    Output,
    TensorType,
)
from vggt_edge.runtimes.coreml.package import package_error, weight_path
from vggt_edge.runtimes.coreml.sdk import load_coremltools

FUNCTION = "main"
_MAX_RANK = 32
_MAX_ELEMENTS = 1 << 40  # no device holds more, and numpy cannot name much more
_UNSIZED = "UNUSED_TYPE"
_NAMES = {"BOOL": "bool", "STRING": "string", "FLOAT16": "fp16", "FLOAT32": "fp32", "FLOAT64": "fp64"}
_COLORS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
_ARRAY_TYPES = {65568: "fp32", 65600: "fp64", 65552: "fp16", 131104: "int32", 131080: "int8"}


@dataclass(frozen=True)
class Immediate:
    """Values that stand in the program itself."""

    values: npt.NDArray[Any]

    @property
    def stored_bytes(self) -> int:
        return self.values.nbytes

    def read(self, declared: TensorType) -> npt.NDArray[Any]:
        return self.values


@dataclass(frozen=True)
class Stored:
    """Values in a weight file, found by the offset of their metadata."""

    file: WeightFile
    offset: int
    stored_bytes: int

    def read(self, declared: TensorType) -> npt.NDArray[Any]:
        return self.file.read(self.offset, declared)


@dataclass
class _Decoder:
    """What the parts of one model share while they are decoded. where: the place in the program, for errors."""

    package: Path
    model: Path
    data_types: Mapping[int, str]
    files: dict[str, WeightFile] = field(default_factory=dict)
    where: str = ""

    def error(self, what: str, expected: str = "a program written by coremltools") -> InputError:
        return package_error(what, f"{self.model}{': ' if self.where else ''}{self.where}", expected)

    def file(self, name: str) -> WeightFile:
        if name not in self.files:
            self.files[name] = WeightFile(weight_path(self.package, self.model, name))
        return self.files[name]

    def tensor_type(self, value_type: Any) -> TensorType:
        if value_type.WhichOneof("type") != "tensorType":
            raise self.error(f"a value of the kind {value_type.WhichOneof('type')}", "tensors")
        tensor = value_type.tensorType
        name = self.data_types.get(tensor.dataType, _UNSIZED)
        dtype = _NAMES.get(name, name.lower())
        if dtype not in NUMPY_TYPES:
            raise self.error(f"a value of type {name}", f"one of {', '.join(NUMPY_TYPES)}")
        if tensor.rank != len(tensor.dimensions) or tensor.rank > _MAX_RANK:
            raise self.error(f"a tensor of rank {tensor.rank} with {len(tensor.dimensions)} dimensions")
        shape = tuple(_dimension(dimension) for dimension in tensor.dimensions)
        if math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
            raise self.error(f"a tensor of shape {shape}", f"at most {_MAX_ELEMENTS} elements")
        return TensorType(dtype, shape)

    def constant(self, value: Any) -> Constant:
        declared = self.tensor_type(value.type)
        if -1 in declared.shape:
            raise self.error("a constant of unknown shape")
        kind = value.WhichOneof("value")
        if kind == "blobFileValue":
            file = self.file(value.blobFileValue.fileName)
            if declared.dtype not in BITS:
                raise self.error(f"a {declared.dtype} in a weight file", "numbers")
            entry = file.check(value.blobFileValue.offset, declared)
            return Constant(declared, Stored(file, value.blobFileValue.offset, entry.size))
        if kind != "immediateValue" or value.immediateValue.WhichOneof("value") != "tensor":
            raise self.error(f"a constant without a tensor: {kind}")
        return Constant(declared, Immediate(self._immediate(value.immediateValue.tensor, declared)))

    def _immediate(self, tensor: Any, declared: TensorType) -> npt.NDArray[Any]:
        kind = tensor.WhichOneof("value")
        if kind is None:
            raise self.error("a constant without values")
        values = getattr(tensor, kind).values
        flat = self._from_bytes(values, declared) if kind == "bytes" else _from_list(values, declared)
        if flat is None or flat.size != declared.elements:
            count = "values of another type" if flat is None else f"{flat.size} values"
            raise self.error(f"a constant declared {declared} has {count}", f"{declared.elements} values")
        flat.setflags(write=False)
        return flat.reshape(declared.shape)

    def _from_bytes(self, values: bytes, declared: TensorType) -> npt.NDArray[Any] | None:
        if declared.dtype not in BITS or len(values) != -(-declared.elements * BITS[declared.dtype] // 8):
            return None
        if BITS[declared.dtype] >= 8:
            dtype = np.dtype(NUMPY_TYPES[declared.dtype]).newbyteorder("<")
            return np.frombuffer(values, dtype).astype(NUMPY_TYPES[declared.dtype])
        numbers = unpack(np.frombuffer(values, np.uint8), BITS[declared.dtype], declared.elements)
        return (numbers ^ 8).astype(np.int8) - np.int8(8) if declared.dtype == "int4" else numbers

    def operation(self, proto: Any) -> Operation:
        outputs = tuple(proto.outputs)
        self.where = f"op {proto.type} {outputs[0].name if outputs else ''}".rstrip()
        if proto.blocks:
            raise self.error(f"{proto.type} holds blocks of its own (control flow)", "one block, no control flow")
        attributes = {key: self.constant(value) for key, value in sorted(proto.attributes.items())}
        inputs = {key: self._arguments(key, value) for key, value in sorted(proto.inputs.items())}
        named = tuple(Output(output.name, self.tensor_type(output.type)) for output in outputs)
        return Operation(
            proto.type,
            self._name(attributes.pop("name", None), named),
            MappingProxyType(inputs),
            named,
            MappingProxyType(attributes),
        )

    def _name(self, attribute: Constant | None, outputs: tuple[Output, ...]) -> str:
        """The operation's own name, or else that of its first output."""
        if attribute is None:
            return outputs[0].name if outputs else ""
        if attribute.type != TensorType("string", ()):
            raise self.error(f"an operation's name is {attribute.type}", "a string")
        return str(attribute.numpy().item())

    def _arguments(self, parameter: str, argument: Any) -> tuple[Argument, ...]:
        if not argument.arguments:
            raise self.error(f"the parameter {parameter} has no value", "a value for each parameter that is named")
        return tuple(
            binding.name if binding.WhichOneof("binding") == "name" else self.constant(binding.value)
            for binding in argument.arguments
        )


def decode(package: Path, model: Path) -> MilProgram:
    """See ``program.load_program``."""
    proto = load_coremltools("coremltools.proto.Model_pb2").Model()
    mil = load_coremltools("coremltools.proto.MIL_pb2")
    decoder = _Decoder(package, model, {number: name for name, number in mil.DataType.items()})
    try:
        proto.ParseFromString(model.read_bytes())
    except Exception as error:  # the error class differs between protobuf's implementations
        raise decoder.error(f"the model file cannot be read: {error}", "a protobuf of a Core ML model") from error
    if proto.WhichOneof("Type") != "mlProgram":
        raise decoder.error(f"the model is of the kind {proto.WhichOneof('Type')}", "an ML program")
    function, block = _main(decoder, proto.mlProgram)
    inputs = {value.name: decoder.tensor_type(value.type) for value in function.inputs}
    operations = tuple(decoder.operation(operation) for operation in block.operations)
    decoder.where = FUNCTION
    _check_names(decoder, inputs, operations, block.outputs)
    description = _description(decoder, proto)
    _check_features(decoder, description, inputs, tuple(block.outputs))
    return MilProgram(
        package, MappingProxyType(inputs), tuple(block.outputs), operations, function.opset, description,
        tuple(decoder.files[name] for name in sorted(decoder.files)),
    )  # fmt: skip


def _main(decoder: _Decoder, program: Any) -> tuple[Any, Any]:
    if FUNCTION not in program.functions:
        names = ", ".join(sorted(program.functions)) or "none"
        raise decoder.error(f"the program has no function {FUNCTION}; functions: {names}", f"a function {FUNCTION}")
    function = program.functions[FUNCTION]
    blocks = sorted(function.block_specializations)
    if blocks != [function.opset]:
        raise decoder.error(f"function {FUNCTION} has blocks for: {', '.join(blocks) or 'none'}", "one, of its opset")
    return function, function.block_specializations[function.opset]


def _check_names(
    decoder: _Decoder, inputs: Mapping[str, TensorType], operations: Iterable[Operation], outputs: Iterable[str]
) -> None:
    """Every value is written once, and before it is read."""
    known = set(inputs)
    for operation in operations:
        decoder.where = f"op {operation.type} {operation.name}"
        missing = sorted(set(operation.reads()) - known)
        if missing:
            raise decoder.error(f"reads values that nothing has written: {', '.join(missing)}")
        for output in operation.outputs:
            if output.name in known:
                raise decoder.error(f"writes {output.name} a second time")
            known.add(output.name)
    decoder.where = FUNCTION
    missing = sorted(set(outputs) - known)
    if missing:
        raise decoder.error(f"the program's outputs are written by nothing: {', '.join(missing)}")


def _check_features(
    decoder: _Decoder, description: Description, inputs: Mapping[str, TensorType], outputs: tuple[str, ...]
) -> None:
    """The description and the program name the same inputs and outputs, of the same shapes."""
    described = {feature.name: feature.type.shape for feature in description.inputs}
    declared = {name: value.shape for name, value in inputs.items()}
    fixed = {name: shape for name, shape in declared.items() if -1 not in shape and shape}
    if set(described) != set(declared) or any(described[name] != shape for name, shape in fixed.items()):
        raise decoder.error(f"the description has the inputs {described}", f"those of the program, {declared}")
    names = tuple(feature.name for feature in description.outputs)
    if sorted(names) != sorted(outputs):
        raise decoder.error(f"the description has the outputs {names}", f"those of the program, {outputs}")


def _description(decoder: _Decoder, proto: Any) -> Description:
    source = proto.description
    metadata = source.metadata
    return Description(
        specification_version=proto.specificationVersion,
        inputs=tuple(_feature(decoder, feature) for feature in source.input),
        outputs=tuple(_feature(decoder, feature) for feature in source.output),
        user=MappingProxyType(dict(sorted(metadata.userDefined.items()))),
        short_description=metadata.shortDescription,
        author=metadata.author,
        license=metadata.license,
        version=metadata.versionString,
    )


def _feature(decoder: _Decoder, proto: Any) -> Feature:
    kind = proto.type.WhichOneof("Type")
    if kind == "multiArrayType":
        array = proto.type.multiArrayType
        value = TensorType(_ARRAY_TYPES.get(array.dataType, "fp32"), tuple(array.shape))
        return Feature(proto.name, "tensor", value, description=proto.shortDescription)
    if kind == "imageType" and proto.type.imageType.colorSpace in _COLORS:
        image = proto.type.imageType
        layout = _COLORS[image.colorSpace]
        channels = 1 if layout.startswith("GRAYSCALE") else 3
        dtype = "fp16" if layout.endswith("FLOAT16") else "uint8"
        value = TensorType(dtype, (1, channels, image.height, image.width))
        return Feature(proto.name, "image", value, layout, proto.shortDescription)
    raise decoder.error(f"input or output {proto.name} is of the kind {kind}", "a tensor or an image")


def _dimension(proto: Any) -> int:
    return int(proto.constant.size) if proto.WhichOneof("dimension") == "constant" else -1


def _from_list(values: Any, declared: TensorType) -> npt.NDArray[Any] | None:
    """An array of the declared type; None where the values do not fit it."""
    try:
        if declared.dtype == "string":
            return np.array([str(value) for value in values], np.str_)
        return np.array(list(values), NUMPY_TYPES[declared.dtype])
    except (OverflowError, ValueError, TypeError):
        return None

"""Saved packages decoded, compared with coremltools' own loader, and damaged."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from vggt_edge.devices.errors import InputError
from vggt_edge.runtimes.coreml.audit import linears
from vggt_edge.runtimes.coreml.program import Constant, MilProgram, TensorType, load_program
from vggt_edge.runtimes.coreml.sdk import load_coremltools, quiet

Array = np.ndarray
WEIGHT = np.random.default_rng(0).integers(-8, 8, (6, 8))
SCALE = np.random.default_rng(1).uniform(0.1, 1.0, (6, 2)).astype(np.float16)
TABLE = np.random.default_rng(2).standard_normal((2, 1, 8, 1)).astype(np.float16)
MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
BLOB = Path("Data/com.apple.CoreML/weights/weight.bin")


@pytest.fixture(scope="module")
def ct() -> Iterator[Any]:
    """coremltools; frozen, since each conversion collects garbage over all of torch."""
    module = load_coremltools()
    gc.collect()
    gc.freeze()
    yield module
    gc.unfreeze()


def _body(ct: Any, x: Any) -> list[Any]:
    mb, types = (load_coremltools(f"coremltools.converters.mil.mil.{name}") for name in ("builder", "types"))
    builder = mb.Builder
    narrow = lambda array, dtype: array.astype(types.nptype_from_builtin(types.string_to_builtin(dtype)))  # noqa: E731
    half = builder.cast(x=x, dtype="fp16", name="half")
    blocks = builder.constexpr_blockwise_shift_scale(data=narrow(WEIGHT, "int4"), scale=SCALE, name="blocks")
    table = builder.constexpr_lut_to_dense(indices=narrow(WEIGHT + 8 >> 1, "uint3"), lut=TABLE, name="table")
    first = builder.linear(x=half, weight=blocks, name="first")
    second = builder.linear(x=half, weight=table, name="second")
    joined = builder.concat(values=[first, second], axis=-1, name="joined")
    return [builder.cast(x=joined, dtype="fp32", name="out")]


@pytest.fixture(scope="module")
def saved(ct: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two linears with compressed weights; read only."""
    mil = load_coremltools("coremltools.converters.mil.mil")
    path = tmp_path_factory.mktemp("program") / "model.mlpackage"
    with quiet():
        holders = {"x": mil.Builder.placeholder(shape=(3, 8), dtype=mil.types.fp32)}
        with mil.Function(holders, opset_version=ct.target.iOS18) as function:
            function.set_outputs(_body(ct, function.inputs["x"]))
        program = mil.Program()
        program.add_function("main", function)
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            pass_pipeline=ct.PassPipeline.EMPTY,
        )
        model.author, model.license, model.version = "A. Body", "Apache-2.0", "1.2"
        model.short_description = "two linears"
        model.user_defined_metadata["vggt_edge.plan"] = "abc"
        model.save(str(path))
    return path


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "model.mlpackage"))


@pytest.fixture
def edit(package: Path) -> Callable[[Callable[[Any], Any]], Path]:
    """The copy with its protobuf changed."""

    def run(change: Callable[[Any], Any]) -> Path:
        spec = load_coremltools("coremltools.proto.Model_pb2").Model.FromString((package / MODEL).read_bytes())
        change(spec)
        (package / MODEL).write_bytes(spec.SerializeToString())
        return package

    return run


def _block(spec: Any) -> Any:
    return spec.mlProgram.functions["main"].block_specializations["CoreML8"]


def _operation(program: MilProgram, name: str) -> Any:
    return next(operation for operation in program.operations if operation.name == name)


def test_structure(saved: Path) -> None:
    """Operations in order, with types, names and arguments."""
    program = load_program(saved)
    assert program.opset == "CoreML8"
    assert dict(program.inputs) == {"x": TensorType("fp32", (3, 8))}
    assert program.outputs == ("out",)
    computing = [operation.name for operation in program.operations if operation.type != "const"]
    assert computing == ["half", "blocks", "table", "first", "second", "joined", "out"]
    first = _operation(program, "first")
    assert first.type == "linear"
    assert (first.inputs["x"], first.inputs["weight"]) == (("half",), ("blocks",))
    assert first.outputs[0].type == TensorType("fp16", (3, 6))
    assert _operation(program, "joined").inputs["values"] == ("first", "second")
    assert program.value_types()["out"] == TensorType("fp32", (3, 12))


def test_constants(saved: Path) -> None:
    """Values in the program and in the weight file, sub-byte ones unpacked; their cost is what they take."""
    program = load_program(saved)
    blocks, table = _operation(program, "blocks"), _operation(program, "table")
    data, scale, indices = blocks.inputs["data"][0], blocks.inputs["scale"][0], table.inputs["indices"][0]
    assert data.type == TensorType("int4", (6, 8))
    assert indices.type == TensorType("uint3", (6, 8))
    assert_array_equal(data.numpy(), WEIGHT)
    assert_array_equal(scale.numpy(), SCALE)
    assert_array_equal(indices.numpy(), WEIGHT + 8 >> 1)
    assert_array_equal(table.inputs["lut"][0].numpy(), TABLE)
    assert (data.stored_bytes, scale.stored_bytes, indices.stored_bytes) == (24, 24, 18)
    consts = {operation.outputs[0].name: operation for operation in program.operations if operation.type == "const"}
    cast = _operation(program, "half").inputs["dtype"][0]
    assert consts[cast].attributes["val"].numpy().item() == "fp16"


def test_agrees_with_coremltools_loader(saved: Path, ct: Any) -> None:
    """The names, types and shapes that coremltools reads back."""
    program = load_program(saved)
    loader = load_coremltools("coremltools.converters.mil.frontend.milproto.load")
    with quiet():
        model = ct.models.MLModel(str(saved), skip_model_load=True)
        read = loader.load(model.get_spec(), 9, model.weights_dir)
    theirs = {
        operation.outputs[0].name: (operation.op_type, tuple(operation.outputs[0].shape))
        for operation in read.functions["main"].operations
        if operation.op_type != "const"
    }
    ours = {
        operation.outputs[0].name: (operation.type, operation.outputs[0].type.shape)
        for operation in program.operations
        if operation.type != "const"
    }
    assert ours == theirs
    weight = next(each for each in read.functions["main"].operations if each.name == "blocks")
    assert_array_equal(_operation(program, "blocks").inputs["data"][0].numpy(), weight.data.val.astype(np.int8))


def test_description(saved: Path) -> None:
    """What an app sees, and the free metadata."""
    description = load_program(saved).description
    assert description.specification_version == 9
    assert (description.author, description.license, description.version) == ("A. Body", "Apache-2.0", "1.2")
    assert description.short_description == "two linears"
    assert description.user["vggt_edge.plan"] == "abc"
    (feature,) = description.inputs
    assert (feature.name, feature.kind, feature.type) == ("x", "tensor", TensorType("fp32", (3, 8)))


def test_nothing_is_loaded_until_asked(package: Path) -> None:
    """A weight changed after the program was read is read as it is then."""
    program = load_program(package)
    constant: Constant = _operation(program, "blocks").inputs["scale"][0]
    data = bytearray((package / BLOB).read_bytes())
    at = bytes(data).index(SCALE.tobytes())
    data[at : at + SCALE.nbytes] = np.zeros_like(SCALE).tobytes()
    with (package / BLOB).open("r+b") as file:
        file.write(data)
    assert not constant.numpy().any()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "the manifest cannot be read"),
        ("[" * 100_000, "the manifest cannot be read"),
        ("{}", "names no root model"),
        ("[1]", "names no root model"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {}}', "names no root model"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": 3}}}', "names no root model"),
    ],
)
def test_broken_manifest(manifest: str, message: str, package: Path) -> None:
    """Anything but a manifest that names a model is refused."""
    (package / "Manifest.json").write_text(manifest)
    with pytest.raises(InputError, match=message) as error:
        load_program(package)
    assert error.value.where.endswith("Manifest.json")


@pytest.mark.parametrize(
    "path", ["../../../etc/passwd", "/etc/passwd", "a/../../b", "", "com.apple.CoreML\\model.mlmodel", "a\0b"]
)
def test_manifest_cannot_leave_the_package(path: str, package: Path) -> None:
    """Nor name a folder above, an absolute path or another system's separator."""
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="the package refers to"):
        load_program(package)


def test_a_name_too_long_for_the_file_system(package: Path) -> None:
    """An error of ours and none of the system."""
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "a" * 5000
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="cannot be reached"):
        load_program(package)


@pytest.mark.parametrize("part", [MODEL, BLOB, Path("Data/com.apple.CoreML"), Path("Manifest.json")])
def test_links_are_refused(part: Path, package: Path, tmp_path: Path) -> None:
    """Even one that points to the right bytes."""
    target = tmp_path / "elsewhere"
    (package / part).rename(target)
    (package / part).symlink_to(target)
    with pytest.raises(InputError, match="a link inside the package"):
        load_program(package)


@pytest.mark.parametrize("part", [MODEL, BLOB, Path("Manifest.json")])
def test_missing_parts(part: Path, package: Path) -> None:
    """What is missing is named."""
    (package / part).unlink()
    with pytest.raises(InputError, match=f"lacks {part}"):
        load_program(package)


def test_no_package(tmp_path: Path) -> None:
    """A path that is nothing, or a file."""
    (tmp_path / "file.mlpackage").write_text("x")
    for name in ("none.mlpackage", "file.mlpackage"):
        with pytest.raises(InputError, match="no Core ML package here"):
            load_program(tmp_path / name)


@pytest.mark.parametrize("kept", [0, 1, 40, 400, -1])
def test_model_file_cut_short(kept: int, package: Path) -> None:
    """An error, wherever the cut is."""
    data = (package / MODEL).read_bytes()
    (package / MODEL).write_bytes(data[:kept])
    with pytest.raises(InputError):
        load_program(package)


def test_weights_cut_short(package: Path) -> None:
    """Found when the package is opened: at every border of an entry, and in the middle of the data."""
    data = (package / BLOB).read_bytes()
    for kept in (0, 32, 64, 100, 128, 140, 192, 256, len(data) - 64, len(data) // 2):
        (package / BLOB).write_bytes(data[:kept])
        with pytest.raises(InputError) as error:
            load_program(package)
        assert error.value.where.endswith("weight.bin"), kept


def test_flipped_sentinel(package: Path) -> None:
    """Found when the package is opened."""
    data = bytearray((package / BLOB).read_bytes())
    data[64] ^= 1
    (package / BLOB).write_bytes(data)
    with pytest.raises(InputError, match="no tensor starts at offset 64"):
        load_program(package)


def _first(block: Any, kind: str) -> Any:
    return next(operation for operation in block.operations if operation.type == kind)


def _dimension(block: Any, size: int) -> None:
    value = _first(block, "constexpr_blockwise_shift_scale").inputs["data"].arguments[0].value
    value.type.tensorType.dimensions[0].constant.size = size


def _blob_name(block: Any, name: str) -> None:
    _first(block, "constexpr_blockwise_shift_scale").inputs["data"].arguments[0].value.blobFileValue.fileName = name


def _axis(block: Any, count: int) -> None:
    (axis,) = _first(block, "concat").inputs["axis"].arguments
    const = next(operation for operation in block.operations if operation.outputs[0].name == axis.name)
    const.attributes["val"].immediateValue.tensor.ints.values[:] = [1] * count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.ClearField("mlProgram"), "of the kind None"),
        (lambda spec: spec.mlProgram.functions.pop("main"), "no function main; functions: none"),
        (lambda spec: spec.mlProgram.functions["main"].block_specializations["A"].SetInParent(), "A, CoreML8"),
        (lambda spec: setattr(spec.mlProgram.functions["main"], "opset", "CoreML7"), "has blocks for: CoreML8"),
        (lambda spec: _first(_block(spec), "linear").blocks.add(), "control flow"),
        (lambda spec: _first(_block(spec), "linear").inputs["x"].ClearField("arguments"), "parameter x has no value"),
        (lambda spec: _first(_block(spec), "concat").inputs["axis"].ClearField("arguments"), "axis has no value"),
        (lambda spec: _dimension(_block(spec), 7), "is int4 of 24 bytes"),
        (lambda spec: _dimension(_block(spec), 2**62), "at most"),
        (lambda spec: _blob_name(_block(spec), "weights/weight.bin"), "reads weights from"),
        (lambda spec: _blob_name(_block(spec), "@model_path/../../../x"), "refers to"),
        (lambda spec: _blob_name(_block(spec), "@model_path/weights/other.bin"), "lacks .*other.bin"),
        (lambda spec: _axis(_block(spec), 2), "declared int32 .* has 2 values"),
        (lambda spec: _axis(_block(spec), 0), "declared int32 .* has 0 values"),
        (lambda spec: setattr(_first(_block(spec), "linear").outputs[0].type.tensorType, "rank", 9), "rank 9"),
        (lambda spec: setattr(_first(_block(spec), "linear").outputs[0].type.tensorType, "dataType", 13), "BFLOAT16"),
        (lambda spec: setattr(_first(_block(spec), "linear").outputs[0], "name", "half"), "writes half a second time"),
        (lambda spec: _block(spec).operations.insert(0, _block(spec).operations.pop()), "has written: joined"),
        (lambda spec: _block(spec).outputs.__setitem__(0, "nothing"), "outputs are written by nothing: nothing"),
        (lambda spec: setattr(spec.description.input[0], "name", "y"), "the description has the inputs"),
        (lambda spec: spec.description.input[0].type.multiArrayType.shape.append(2), "the description has the inputs"),
        (lambda spec: setattr(spec.description.output[0], "name", "y"), "the description has the outputs"),
        (lambda spec: spec.description.input[0].type.stringType.SetInParent(), "of the kind stringType"),
    ],
)  # fmt: skip
def test_broken_program(change: Callable[[Any], Any], message: str, edit: Callable[..., Path]) -> None:
    """Each contradiction in the program is named."""
    with pytest.raises(InputError, match=message):
        load_program(edit(change))


def test_names_of_operations(edit: Callable[..., Path]) -> None:
    """Without a name an operation is called by its first output; a name that is no string is refused."""

    def strip(spec: Any) -> None:
        del _first(_block(spec), "linear").attributes["name"]

    assert _operation(load_program(edit(strip)), "first").type == "linear"

    def spoil(spec: Any) -> None:
        value = _first(_block(spec), "cast").attributes["name"]
        value.type.tensorType.rank = 1
        value.type.tensorType.dimensions.add().constant.size = 2
        value.immediateValue.tensor.strings.values.append("b")

    with pytest.raises(InputError, match="an operation's name is string"):
        load_program(edit(spoil))


def test_unknown_dimensions(edit: Callable[..., Path]) -> None:
    """A size that only the run knows reads as -1; a constant cannot have one."""

    def loosen(spec: Any) -> None:
        _first(_block(spec), "linear").outputs[0].type.tensorType.dimensions[0].unknown.variadic = False

    program = load_program(edit(loosen))
    assert _operation(program, "first").outputs[0].type.shape == (-1, 6)


@pytest.mark.parametrize("parameter", ["weight", "x"])
def test_a_linear_without_its_operands_is_refused_by_the_audit(
    edit: Callable[[Callable[[Any], Any]], Path], parameter: str
) -> None:
    def damage(spec: Any) -> None:
        del _first(_block(spec), "linear").inputs[parameter]

    with pytest.raises(InputError, match="linear first has no weight or no input"):
        list(linears(load_program(edit(damage))))

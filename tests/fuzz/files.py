"""Targets: what users bring and what backends made. Pictures, videos, scenes, checkpoints, graphs and programs."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import torch
from documents import LINES, OWN, shown
from harness import Target
from mutation import (
    damaged,
    damaged_json,
    damaged_message,
    damaged_png,
    damaged_safetensors,
    damaged_zip,
)
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.scenes.image import glance, read_header, read_image
from vggt_edge.calibration.scenes.opening import open_scenes
from vggt_edge.devices.errors import LoweringError, VggtEdgeError
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.models.checkpoint import build_model, read_checkpoint, save_checkpoint
from vggt_edge.exporter.models.config import VGGTConfig
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.coreml.sdk import load_coremltools
from vggt_edge.runtimes.executorch.sdk import installed
from vggt_edge.runtimes.onnxruntime import open_onnx

WIDTH, HEIGHT = 72, 48
_NAMES = ("a_1.png", "a_2.png", "a_3.png")
_TINY = VGGTConfig(
    name="tiny", embed_dim=32, dino_depth=1, depth=4, heads=2, position_grid=2, taps=(0, 1, 2, 3),
    camera_trunk_depth=1, camera_heads=2, camera_iterations=1, dpt_features=16, dpt_channels=(8, 8, 16, 16),
    dpt_hidden=8,
)  # fmt: skip


# --- pictures and videos ----------------------------------------------------------------------------------------------


def _picture(number: int = 0) -> Image.Image:
    """Smooth, so that formats with loss have few bytes, and not flat."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    channels = [rows * 4 + number * 10, columns * 3, rows * columns // 16]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def _write_picture(name: str, mode: str = "RGB", **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        _picture().convert(mode).save(folder / name, **options)

    return write


def _read_picture(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        path = folder / name
        for look in (read_header, lambda path: glance(path, 16)):
            with suppress(VggtEdgeError):
                look(path)
        read_image(path).upright()

    return read


def _pictures() -> list[Target]:
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, dict[str, Any]] = {
        "a.png": {}, "palette.png": {"mode": "P"}, "alpha.png": {"mode": "RGBA"}, "a.jpg": {"exif": exif},
        "progressive.jpg": {"progressive": True}, "grey.jpg": {"mode": "L"}, "a.webp": {},
        "lossless.webp": {"lossless": True}, "a.bmp": {},
    }  # fmt: skip
    return [
        Target(
            name, _write_picture(name, **options), _read_picture(name),
            {name: (damaged_png, damaged) if name.endswith(".png") else (damaged,)}, OWN,
        )
        for name, options in kinds.items()
    ]  # fmt: skip


def _write_video(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for number in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(_picture(number)), format="rgb24")))
            container.mux(stream.encode(None))

    return write


def _read_scenes(folder: Path, name: str = "") -> None:
    for scene in open_scenes(folder / name, frames=2, long_side=28, max_scenes=1):
        assert scene.images.shape[0] == 2


# --- posed scenes -----------------------------------------------------------------------------------------------------


def _write_pictures(folder: Path) -> None:
    (folder / "images").mkdir(exist_ok=True)
    for number, name in enumerate(_NAMES):
        _picture(number).save(folder / "images" / name)


def _write_transforms(folder: Path) -> None:
    _write_pictures(folder)
    pose = np.eye(4).tolist()
    document = {
        "w": WIDTH, "h": HEIGHT, "fl_x": 60.0, "fl_y": 64.0, "cx": 33.5, "cy": 26.25, "camera_model": "OPENCV",
        "k1": 0.01, "k2": 0.0, "p1": 0.0, "p2": 0.0, "camera_angle_x": 1.0,
        "frames": [{"file_path": f"images/{name}", "transform_matrix": pose} for name in _NAMES],
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(document))


def _write_colmap_text(folder: Path) -> None:
    _write_pictures(folder)
    (folder / "sparse").mkdir(exist_ok=True)
    size = f"{WIDTH} {HEIGHT}"
    cameras = f"# cameras\n1 PINHOLE {size} 60.0 64.0 33.5 26.25\n2 OPENCV {size} 60 64 33 26 0.01 0 0 0\n"
    images = [
        f"{number + 1} 1.0 0.0 0.0 0.0 0.1 0.2 0.3 {1 + number % 2} {name}\n1.5 2.5 -1 3.5 4.5 12\n"
        for number, name in enumerate(_NAMES)
    ]
    (folder / "sparse" / "cameras.txt").write_text(cameras)
    (folder / "sparse" / "images.txt").write_text("# images\n" + "".join(images))


def _write_colmap_binary(folder: Path) -> None:
    _write_pictures(folder)
    (folder / "sparse").mkdir(exist_ok=True)
    cameras = struct.pack("<Q", 2) + struct.pack("<IiQQ4d", 1, 1, WIDTH, HEIGHT, 60, 64, 33.5, 26.25)
    cameras += struct.pack("<IiQQ8d", 2, 4, WIDTH, HEIGHT, 60, 64, 33.5, 26.25, 0.01, 0, 0, 0)
    images = struct.pack("<Q", len(_NAMES))
    for number, name in enumerate(_NAMES):
        images += struct.pack("<I7dI", number + 1, 1, 0, 0, 0, 0.1, 0.2, 0.3, 1 + number % 2) + name.encode() + b"\0"
        images += struct.pack("<Q", 2) + struct.pack("<ddq", 1.5, 2.5, -1) * 2
    (folder / "sparse" / "cameras.bin").write_bytes(cameras)
    (folder / "sparse" / "images.bin").write_bytes(images)


def _scenes() -> list[Target]:
    videos = [
        Target(name, _write_video(name), lambda folder, name=name: _read_scenes(folder, name), {name: (damaged,)}, OWN)
        for name in ("walk.mp4", "walk.mkv", "walk.avi", "walk.mov")
    ]
    text = {"sparse/cameras.txt": LINES, "sparse/images.txt": LINES}
    binary = {"sparse/cameras.bin": (damaged,), "sparse/images.bin": (damaged,)}
    return [
        *videos,
        Target("transforms.json", _write_transforms, _read_scenes, {"transforms.json": (damaged_json, damaged)}, OWN),
        Target("colmap text", _write_colmap_text, _read_scenes, text, OWN),
        Target("colmap binary", _write_colmap_binary, _read_scenes, binary, OWN),
    ]


# --- checkpoints ------------------------------------------------------------------------------------------------------


@cache
def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = VGGT(_TINY, InputShape(1, 28, 28), ("camera",))
    return {name: torch.rand_like(tensor) * 0.1 for name, tensor in model.state_dict().items()}


def _write_safetensors(folder: Path) -> None:
    save_checkpoint(_weights(), _TINY, folder / "model.safetensors")


def _write_torch(folder: Path) -> None:
    torch.save({"model": _weights(), "epoch": 3}, folder / "model.pt")


def _write_old_torch(folder: Path) -> None:
    torch.save(_weights(), folder / "model.pt", _use_new_zipfile_serialization=False)


def _write_shards(folder: Path) -> None:
    save_checkpoint(_weights(), _TINY, folder / "whole.safetensors")
    names = sorted(_weights())
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    config = _metadata(folder / "whole.safetensors")
    for number, file in enumerate(files):
        save_file({name: _weights()[name].contiguous() for name in names[number::2]}, folder / file, metadata=config)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: files[n % 2] for n, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


def _open_checkpoint(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        checkpoint = read_checkpoint(folder / name)
        if checkpoint.config.embed_dim * checkpoint.config.depth <= 4096:  # building a larger one takes its time
            build_model(checkpoint, InputShape(1, 28, 28), checkpoint.heads(None))

    return read


def _checkpoints() -> list[Target]:
    index, torch_file = "model.safetensors.index.json", _open_checkpoint("model.pt")
    return [
        Target(
            "checkpoint .safetensors", _write_safetensors, _open_checkpoint("model.safetensors"),
            {"model.safetensors": (damaged_safetensors, damaged_safetensors, damaged)}, OWN, 0.5,
        ),
        Target("checkpoint .pt", _write_torch, torch_file, {"model.pt": (damaged, damaged_zip)}, OWN, 0.3),
        Target("checkpoint, old .pt", _write_old_torch, torch_file, {"model.pt": (damaged,)}, OWN, 0.3),
        Target("checkpoint shards", _write_shards, _open_checkpoint(index), {index: (damaged_json, damaged)}, OWN, 0.3),
    ]  # fmt: skip


# --- graphs and programs ----------------------------------------------------------------------------------------------


def _small_onnx() -> bytes:
    """Two quantized linears in the exporter's form."""
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (8, 8)).astype(np.int8)
    constants = [
        numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.full(8, 0.01, np.float32), "ws"),
        numpy_helper.from_array(np.zeros(8, np.int8), "wz"), numpy_helper.from_array(np.float32(0.05), "xs"),
        numpy_helper.from_array(np.int8(0), "xz"), numpy_helper.from_array(random.random((8, 4), np.float32), "v"),
    ]  # fmt: skip
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], name="block/fc1/QuantizeLinear"),
        node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], name="block/fc1/DequantizeLinear"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="block/fc1/weight", axis=1),
        node("MatMul", ["xd", "wd"], ["h"], name="block/fc1/MatMul"),
        node("Reshape", ["h", "shape"], ["r"], name="block/Reshape"),
        node("MatMul", ["r", "v"], ["out"], name="head/MatMul"),
    ]
    constants.append(numpy_helper.from_array(np.array([-1, 8], np.int64), "shape"))
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 4])], constants,
    )  # fmt: skip
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )


_ONNX_PLAN = PrecisionPlan("m", "s", "jetson-orin", 32, (Assignment("block", "w8a8", "test", 0.0, 1, 0.0),))


def _write_onnx(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(_small_onnx())


def _show_onnx(folder: Path) -> None:
    shown(folder / "model.onnx")


def _audit_onnx(folder: Path) -> None:
    from vggt_edge.runtimes.common.audit import audit_onnx

    load_onnx(folder / "model.onnx")
    audit_onnx(folder / "model.onnx", _ONNX_PLAN)


def _interpret_onnx(folder: Path) -> None:
    from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession

    _run(GraphSession(folder / "model.onnx"))


def _run_onnx(folder: Path) -> None:
    _run(open_onnx(folder / "model.onnx", threads=1))


def _run(session: Any) -> None:
    shapes = session.input_shapes
    if all(isinstance(side, int) and 0 <= side < 1 << 10 for shape in shapes.values() for side in shape):
        session.run({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


MODEL = "m.mlpackage/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "m.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


@cache
def _package() -> dict[str, bytes]:
    """Files of a Core ML package with linears of 4, 8 and 16 bits."""
    ct = load_coremltools()
    mil = load_coremltools("coremltools.converters.mil.mil")
    types, builder = mil.types, mil.Builder
    narrow = lambda array, name: array.astype(types.nptype_from_builtin(types.string_to_builtin(name)))  # noqa: E731
    random = np.random.default_rng(0)
    weight, scale = random.integers(-8, 8, (64, 32)), random.uniform(0.1, 1.0, (64, 1)).astype(np.float16)
    from vggt_edge.runtimes.coreml.sdk import quiet

    with quiet(), tempfile.TemporaryDirectory() as scratch:
        with mil.Function(
            {"x": builder.placeholder(shape=(3, 32), dtype=types.fp32)}, opset_version=ct.target.iOS18
        ) as made:
            half = builder.cast(x=made.inputs["x"], dtype="fp16", name="half")
            four = builder.constexpr_blockwise_shift_scale(data=narrow(weight, "int4"), scale=scale, name="four")
            first = builder.linear(x=half, weight=four, name="block__fc1__linear")
            second = builder.linear(x=half, weight=(weight * scale).astype(np.float16), name="block__fc2__linear")
            joined = builder.concat(values=[first, second], axis=-1, name="joined")
            made.set_outputs([builder.cast(x=joined, dtype="fp32", name="out")])
        program = mil.Program()
        program.add_function("main", made)
        model = ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32, skip_model_load=True, pass_pipeline=ct.PassPipeline.EMPTY,
        )  # fmt: skip
        path = Path(scratch) / "m.mlpackage"
        model.save(str(path))
        return {str(file.relative_to(scratch)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def _write_package(folder: Path) -> None:
    for name, content in _package().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


_PACKAGE_PLAN = PrecisionPlan("m", "s", "ios-ar", 32, (Assignment("block", "w4a16", "test", 0.0, 1, 0.0, ("fc2",)),))


def _audit_package(folder: Path) -> None:
    from vggt_edge.runtimes.coreml import ane
    from vggt_edge.runtimes.coreml.audit import audit_program
    from vggt_edge.runtimes.coreml.program import load_program

    package = folder / "m.mlpackage"
    shown(package)
    program = load_program(package)
    ane.audit(program, load_profile("ios-ar"), ("block",))
    with suppress(LoweringError):
        audit_program(program, _PACKAGE_PLAN)
    for operation in program.operations:
        for arguments in (*operation.inputs.values(), *((one,) for one in operation.attributes.values())):
            for argument in arguments:
                if not isinstance(argument, str):
                    argument.numpy()


def _run_package(folder: Path) -> None:
    from vggt_edge.runtimes.coreml.interpreter import MilSession

    _run(MilSession(folder / "m.mlpackage"))


@cache
def _delegate() -> bytes:
    """The delegate that XNNPACK gets for a linear."""
    from vggt_edge.runtimes.executorch.pieces import cut
    from vggt_edge.runtimes.executorch.xnnpack import lower_pieces

    with torch.no_grad():
        program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(8, 8)), (torch.zeros(2, 8),), strict=False)
    (piece,) = lower_pieces(cut(program, lambda path: "block").pieces)
    return bytes(next(iter(piece.delegates.values())).payload)


def _read_delegate(folder: Path) -> None:
    from vggt_edge.runtimes.executorch.payload import unpacked_constants

    unpacked_constants((folder / "delegate").read_bytes())


@cache
def _vulkan_program() -> bytes:
    from vggt_edge.exporter.graph.annotate import annotate
    from vggt_edge.runtimes.vulkan.lowering import lower_program

    return bytes(lower_program(annotate(torch.nn.Sequential(torch.nn.Linear(8, 8)), torch.zeros(8, 8))).manager.buffer)


def _read_vulkan(folder: Path) -> None:
    from vggt_edge.runtimes.vulkan.checks import faults
    from vggt_edge.runtimes.vulkan.graph import read_program

    faults(read_program(folder / "vggt.pte").graph, {})


def _android() -> list[Target]:
    """Readers of what ExecuTorch serializes; its decoder is a program of its own, so they are slow."""
    if not installed():
        return []
    return [
        Target(
            "XNNPACK delegate", lambda folder: write(folder / "delegate", _delegate()), _read_delegate,
            {"delegate": (damaged,)}, OWN, 0.3,
        ),
        Target(
            "Vulkan .pte", lambda folder: write(folder / "vggt.pte", _vulkan_program()), _read_vulkan,
            {"vggt.pte": (damaged,)}, OWN, 0.1,
        ),
    ]  # fmt: skip


def write(path: Path, content: bytes) -> None:
    """A file of a target."""
    path.write_bytes(content)


def _programs() -> list[Target]:
    protobuf = damaged_message(onnx.ModelProto)
    core_ml = load_coremltools("coremltools.proto.Model_pb2").Model
    onnx_file = {"model.onnx": (protobuf, protobuf, damaged)}
    return [
        Target("onnx, inspect", _write_onnx, _show_onnx, onnx_file, OWN),
        Target("onnx, audit", _write_onnx, _audit_onnx, onnx_file, OWN),
        Target("onnx, ONNX Runtime", _write_onnx, _run_onnx, onnx_file, OWN, 0.5),
        Target("onnx, FP16 interpreter", _write_onnx, _interpret_onnx, onnx_file, OWN, 0.5),
        Target(
            ".mlpackage, audit", _write_package, _audit_package,
            {
                MODEL: (damaged_message(core_ml), damaged_message(core_ml), damaged), WEIGHTS: (damaged,),
                "m.mlpackage/Manifest.json": (damaged_json, damaged),
            }, OWN,
        ),
        Target(
            ".mlpackage, interpreter", _write_package, _run_package,
            {MODEL: (damaged_message(core_ml), damaged)}, OWN, 0.5,
        ),
    ]  # fmt: skip


def targets() -> list[Target]:
    """Pictures, videos, scenes, checkpoints, graphs, programs."""
    return [*_pictures(), *_scenes(), *_checkpoints(), *_programs(), *_android()]

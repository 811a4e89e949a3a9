"""Small hand-made QDQ graphs in the exporter's form: FP32 compute, nodes called ``<block>/<path>/<Op>``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.runtimes.base import AnnotatedGraph

Array = np.ndarray
TOKENS, DIM, HEADS, GRID = 64, 128, 2, 8
GROUP = 64
BLOCKS = ("frame_blocks.0", "global_blocks.0", "depth_head")


class Builder:
    """Appends nodes in execution order; weights are quantized here by the plainest rounding."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def constant(self, array: Array, dtype: int | None = None) -> str:
        name = f"c{len(self.constants)}"
        if dtype == TensorProto.INT4:
            tensor = helper.make_tensor(name, dtype, array.shape, array.flatten())
        else:
            tensor = numpy_helper.from_array(array, name)
        self.constants.append(tensor)
        return name

    def op(self, where: str, operator: str, *inputs: str, **attributes: object) -> str:
        index = len(self.nodes)
        output = f"v{index}"
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=f"{where}/{operator}_{index}", **attributes)
        )
        return output

    def fake_quantize(self, where: str, x: str, scale: float) -> str:
        scale_name, zero = self.constant(np.array(scale, np.float32)), self.constant(np.array(0, np.int8))
        return self.op(
            where, "DequantizeLinear", self.op(where, "QuantizeLinear", x, scale_name, zero), scale_name, zero
        )

    def fake_quantize_rows(self, where: str, x: str) -> str:
        """int8 with a computed scale and zero point for each entry of the first dimension of x."""
        zero, levels = (self.constant(np.array(value, np.float32)) for value in (0, 255))
        low, high = (self.constant(np.array(value, np.float32)) for value in (-128, 127))
        # Of any rank: flattened, so that one axis is left to reduce.
        flat, axis = self.op(where, "Flatten", x, axis=1), self.constant(np.array([1]))
        smallest = self.op(where, "Min", self.op(where, "ReduceMin", flat, axis, keepdims=0), zero)
        largest = self.op(where, "Max", self.op(where, "ReduceMax", flat, axis, keepdims=0), zero)
        span = self.op(where, "Div", self.op(where, "Sub", largest, smallest), levels)
        scale = self.op(where, "Max", span, self.constant(np.array(1e-9, np.float32)))
        steps = self.op(where, "Round", self.op(where, "Div", smallest, scale))
        point = self.op(where, "Clip", self.op(where, "Sub", low, steps), low, high)
        point = self.op(where, "Cast", point, to=TensorProto.INT8)
        integers = self.op(where, "QuantizeLinear", x, scale, point, axis=0)
        return self.op(where, "DequantizeLinear", integers, scale, point, axis=0)

    def weight(self, where: str, array: Array, scheme: str, axis: int) -> str:
        """A float32 value made of ``array`` (output channels along ``axis``) stored as ``scheme`` says."""
        if scheme == "fp32":
            return self.constant(array)
        if scheme == "fp16":
            return self.op(where, "Cast", self.constant(array.astype(np.float16)), to=TensorProto.FLOAT)
        if scheme in ("w4a16", "w4a8d"):
            groups = array.reshape(array.shape[0] // GROUP, GROUP, array.shape[1])
            scale = np.abs(groups).max(axis=1) / 7
            integers = np.clip(np.round(groups / scale[:, None]), -8, 7).astype(np.int8).reshape(array.shape)
            stored = self.constant(integers, TensorProto.INT4)
            return self.op(where, "DequantizeLinear", stored, self.constant(scale), axis=0, block_size=GROUP)
        others = tuple(index for index in range(array.ndim) if index != axis)
        scale = np.abs(array).max(axis=others) / 127
        spread = scale.reshape([-1 if index == axis else 1 for index in range(array.ndim)])
        stored = self.constant(np.clip(np.round(array / spread), -127, 127).astype(np.int8))
        zero = self.constant(np.zeros(scale.shape, np.int8))
        return self.op(where, "DequantizeLinear", stored, self.constant(scale), zero, axis=axis)

    def normal(self, *shape: int, scale: float = 0.02) -> Array:
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def linear(self, where: str, x: str, inputs: int, outputs: int, scheme: str, input_scale: float = 0.05) -> str:
        x = self.layer_input(where, x, scheme, input_scale, (-1, inputs))
        weight = self.weight(where, self.normal(inputs, outputs, scale=inputs**-0.5), scheme, axis=1)
        return self.op(where, "Add", self.op(where, "MatMul", x, weight), self.constant(self.normal(outputs)))

    def conv(
        self, where: str, x: str, shape: tuple[int, ...], scheme: str, operator: str = "Conv", **attributes: object
    ) -> str:
        x = self.layer_input(where, x, scheme, 0.05)
        fan_in = shape[1] * shape[2] * shape[3]
        axis = 0 if operator == "Conv" else 1
        weight = self.weight(where, self.normal(*shape, scale=fan_in**-0.5), scheme, axis)
        return self.op(where, operator, x, weight, self.constant(self.normal(shape[axis])), **attributes)

    def layer_input(self, where: str, x: str, scheme: str, scale: float, tokens: tuple[int, ...] = ()) -> str:
        """tokens: the shape in which every row has a scale of its own, of x (1, TOKENS, features)."""
        if scheme == "w8a8":
            return self.fake_quantize(where, x, scale)
        if not scheme.endswith("a8d"):
            return x
        if not tokens:
            return self.fake_quantize_rows(where, x)
        rows = self.fake_quantize_rows(where, self.op(where, "Reshape", x, self.constant(np.array(tokens))))
        return self.op(where, "Reshape", rows, self.constant(np.array([1, *tokens])))

    def norm(self, where: str, x: str, dim: int) -> str:
        gain, bias = self.constant(np.ones(dim, np.float32)), self.constant(np.zeros(dim, np.float32))
        return self.op(where, "LayerNormalization", x, gain, bias, axis=-1, epsilon=1e-5)

    def block(self, name: str, x: str, scheme: str) -> str:
        head = DIM // HEADS
        qkv = self.linear(f"{name}/attn.qkv", self.norm(f"{name}/norm1", x, DIM), DIM, 3 * DIM, scheme)
        shape = self.constant(np.array([1, TOKENS, 3, HEADS, head]))
        split = self.op(
            f"{name}/attn", "Transpose", self.op(f"{name}/attn", "Reshape", qkv, shape), perm=[2, 0, 3, 1, 4]
        )
        q, k, v = (self.op(f"{name}/attn", "Gather", split, self.constant(np.array(i)), axis=0) for i in range(3))
        q = self.op(f"{name}/attn", "Mul", q, self.constant(np.array(head**-0.5, np.float32)))
        logits = self.op(f"{name}/attn", "MatMul", q, self.op(f"{name}/attn", "Transpose", k, perm=[0, 1, 3, 2]))
        mixed = self.op(f"{name}/attn", "MatMul", self.op(f"{name}/attn", "Softmax", logits, axis=-1), v)
        mixed = self.op(f"{name}/attn", "Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.op(f"{name}/attn", "Reshape", mixed, self.constant(np.array([1, TOKENS, DIM])))
        x = self.op(name, "Add", x, self.linear(f"{name}/attn.proj", mixed, DIM, DIM, scheme))
        hidden = self.linear(f"{name}/mlp.fc1", self.norm(f"{name}/norm2", x, DIM), DIM, 4 * DIM, scheme)
        return self.op(
            name, "Add", x, self.linear(f"{name}/mlp.fc2", self.op(f"{name}/mlp", "Gelu", hidden), 4 * DIM, DIM, scheme)
        )

    def dense_head(self, name: str, x: str, scheme: str) -> tuple[str, str]:
        """Tokens to (depth, confidence), each (1, 1, 32, 32), with exp behind the last convolution."""
        image = self.op(name, "Transpose", x, perm=[0, 2, 1])
        image = self.op(name, "Reshape", image, self.constant(np.array([1, DIM, GRID, GRID])))
        image = self.op(name, "Relu", self.conv(f"{name}/project", image, (32, DIM, 3, 3), scheme, pads=[1, 1, 1, 1]))
        image = self.conv(f"{name}/resize", image, (32, 32, 2, 2), scheme, "ConvTranspose", strides=[2, 2])
        size = self.constant(np.array([1, 32, 32, 32]))
        image = self.op(
            name, "Resize", image, "", "", size, mode="linear", coordinate_transformation_mode="align_corners"
        )
        raw = self.conv(f"{name}/out", image, (2, 32, 1, 1), scheme)
        first, second, end, axis = (self.constant(np.array([i])) for i in (0, 1, 2, 1))
        depth = self.op(name, "Exp", self.op(name, "Slice", raw, first, second, axis))
        confidence = self.op(name, "Exp", self.op(name, "Slice", raw, second, end, axis))
        return depth, self.op(name, "Add", confidence, self.constant(np.array(1, np.float32)))

    def pose(self, x: str) -> str:
        """Two refinements whose sum is the output: the accumulator."""
        token = self.op("camera_head", "Gather", x, self.constant(np.array([0])), axis=1)
        pose = self.linear("camera_head/pose_branch.fc2", token, DIM, 9, "fp16")
        again = self.linear("camera_head/embed_pose", pose, 9, DIM, "fp16")
        delta = self.linear("camera_head/pose_branch.fc2", again, DIM, 9, "fp16")
        return self.op("camera_head", "Add", pose, delta)

    def model(
        self, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    ) -> onnx.ModelProto:
        """``outputs``: name to (value, shape)."""
        for name, (value, _shape) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output/{name}"))
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def mini_model(schemes: Mapping[str, str]) -> onnx.ModelProto:
    """Two transformer blocks, a dense head and a pose accumulator; ``schemes`` by block, ``fp16`` by default."""
    b = Builder()
    x = b.block("frame_blocks.0", "tokens", schemes.get("frame_blocks.0", "fp16"))
    x = b.block("global_blocks.0", x, schemes.get("global_blocks.0", "fp16"))
    depth, confidence = b.dense_head("depth_head", x, schemes.get("depth_head", "fp16"))
    image = (1, 1, 32, 32)
    outputs = {"pose_enc": (b.pose(x), (1, 1, 9)), "depth": (depth, image), "depth_conf": (confidence, image)}
    return b.model({"tokens": (1, TOKENS, DIM)}, outputs)


class TwinBlock(nn.Module):
    """What ``Builder.block`` builds, but for the attention, which has no weights."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attn = nn.ModuleDict(
            {"qkv": twin(nn.Linear(DIM, 3 * DIM), scheme), "proj": twin(nn.Linear(DIM, DIM), scheme)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": twin(nn.Linear(DIM, 4 * DIM), scheme), "fc2": twin(nn.Linear(4 * DIM, DIM), scheme)}
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        x = x + self.attn["proj"](functional.scaled_dot_product_attention(q, k, v))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class TwinHead(nn.Module):
    """What ``Builder.dense_head`` builds."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.project = twin(nn.Conv2d(DIM, 32, 3, padding=1), scheme)
        self.resize = twin(nn.ConvTranspose2d(32, 32, 2, stride=2), scheme)
        self.out = twin(nn.Conv2d(32, 2, 1), scheme)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        image = functional.relu(self.project(x.transpose(1, 2).reshape(1, DIM, GRID, GRID)))
        image = functional.interpolate(self.resize(image), size=(32, 32), mode="bilinear", align_corners=True)
        depth, confidence = self.out(image).exp().chunk(2, dim=1)
        return depth, confidence + 1


class Twin(nn.Module):
    """The mini graph as a module, for backends that start from the program: its blocks, layers, inputs and outputs."""

    def __init__(self, schemes: Mapping[str, str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frame_blocks = nn.ModuleList([TwinBlock(schemes["frame_blocks.0"])])
        self.global_blocks = nn.ModuleList([TwinBlock(schemes["global_blocks.0"])])
        self.depth_head = TwinHead(schemes["depth_head"])
        self.pose = twin(nn.Linear(DIM, 9), "fp16")

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        x = self.global_blocks[0](self.frame_blocks[0](tokens))
        return (self.pose(x[:, :1]), *self.depth_head(x))


def twin(layer: nn.Module, scheme: str) -> nn.Module:
    return quantized(layer, Form.of(SCHEMES[scheme], LayerShape.of(layer), GROUP), 0.05 if scheme == "w8a8" else None)


def save_model(model: onnx.ModelProto, path: Path) -> Path:
    """As the exporter does: weights in one file beside the graph."""
    onnx.save(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=256)
    return path


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture
def write_mini(tmp_path: Path) -> Callable[..., Path]:
    """``write_mini(frame, global_, depth)`` writes the mini graph and returns its path."""

    def write(frame: str = "fp16", global_: str = "fp16", depth: str = "fp16") -> Path:
        schemes = dict(zip(BLOCKS, (frame, global_, depth), strict=True))
        return save_model(mini_model(schemes), tmp_path / "model.onnx")

    return write


@pytest.fixture
def annotated() -> Callable[..., AnnotatedGraph]:
    """``annotated(path, *schemes)``: the mini graph of ``write_mini`` in both its forms."""

    def make(path: Path, *schemes: str) -> AnnotatedGraph:
        def program() -> torch.export.ExportedProgram:
            return annotate(Twin(dict(zip(BLOCKS, schemes, strict=True))), torch.zeros(1, TOKENS, DIM))

        return AnnotatedGraph(program, path, ("tokens",), ("pose_enc", "depth", "depth_conf"), BLOCKS)

    return make


@pytest.fixture
def save() -> Callable[[onnx.ModelProto, Path], Path]:
    return save_model


@pytest.fixture
def make_plan() -> Callable[..., PrecisionPlan]:
    """``make_plan(frame, global_, depth)``: a plan over the blocks of the mini graph."""

    def make(
        frame: str = "fp16", global_: str = "fp16", depth: str = "fp16", excluded: tuple[str, ...] = ()
    ) -> PrecisionPlan:
        assignments = tuple(
            Assignment(block, scheme, "asked by a test", 0.0, 1, 0.0, excluded if block == BLOCKS[0] else ())
            for block, scheme in zip(BLOCKS, (frame, global_, depth), strict=True)
        )
        return PrecisionPlan("model", "stats", "jetson-orin", GROUP, assignments)

    return make


@pytest.fixture
def tokens() -> Array:
    return np.random.default_rng(1).standard_normal((1, TOKENS, DIM)).astype(np.float32)

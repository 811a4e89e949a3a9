"""Real lowering for Vulkan: which operators the serialized graph holds, and what the backend says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import InputError, LoweringError, ResourceError
from vggt_edge.devices.profile import DeviceProfile, resolve
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.runtimes.base import AnnotatedGraph, Lowered
from vggt_edge.runtimes.executorch.sdk import installed
from vggt_edge.runtimes.vulkan import BACKEND
from vggt_edge.runtimes.vulkan.backend import MAX_WEIGHT_BYTES
from vggt_edge.runtimes.vulkan.payload import half_key, packed_key

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")]
WIDTH, HEADS, TOKENS = 32, 2, 6
Made = Callable[..., PrecisionPlan]


def form(layer: nn.Module, scheme: str) -> nn.Module:
    return quantized(layer, Form.of(SCHEMES[scheme], LayerShape.of(layer), 32))


class Block(nn.Module):
    """Attention whose heads are merged by a view right before the next linear, which ExecuTorch 1.4 gets wrong."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.proj = form(nn.Linear(WIDTH, 3 * WIDTH), scheme), form(nn.Linear(WIDTH, WIDTH), scheme)

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        q, k, v = (
            one.reshape(batch, TOKENS, HEADS, -1).transpose(1, 2) for one in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, TOKENS, WIDTH)
        return x + self.proj(mixed)


class Head(nn.Module):
    """A linear with an output that cannot be packed, and convolutions of several images."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.project, self.up = form(nn.Conv2d(WIDTH, 8, 1), scheme), form(nn.ConvTranspose2d(8, 4, 2, 2), scheme)
        self.pose = form(nn.Linear(WIDTH, 9), scheme)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        image = self.up(functional.relu(self.project(x.transpose(1, 2).reshape(len(x), WIDTH, 2, 3))))
        image = functional.interpolate(image, size=(8, 12), mode="bilinear", align_corners=True)
        values = image.reshape(1, len(x), 4, 8, 12).permute(0, 1, 3, 4, 2)
        return self.pose(x[:, :1]), values.sign() * (values.abs().exp() - 1)


class Model(nn.Module):
    def __init__(self, block: str, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = Block(block), Head(head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.block(self.block(x)))


def graph_of(block: str, head: str) -> AnnotatedGraph:
    def program() -> torch.export.ExportedProgram:
        return annotate(Model(block, head), torch.zeros(2, TOKENS, WIDTH))

    return AnnotatedGraph(program, Path("none.onnx"), ("x",), ("pose", "values"), ("block", "head"))


def plan_of(block: str, head: str) -> PrecisionPlan:
    assignments = tuple(
        Assignment(name, scheme, "asked by a test", 0.0, 1, 0.0) for name, scheme in (("block", block), ("head", head))
    )
    return PrecisionPlan("model", "stats", "pixel-9-gpu", 32, assignments)


def lower(folder: Path, block: str, head: str, **changed: object) -> Lowered:
    graph = replace(graph_of(block, head), **changed)  # type: ignore[arg-type]
    return BACKEND.lower(graph, plan_of(block, head), phone(), folder)


def phone() -> DeviceProfile:
    return resolve("android-gpu")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lowered, Path]:
    """4 bits everywhere, the heads' as a plan gives them."""
    folder = tmp_path_factory.mktemp("vulkan")
    return lower(folder, "w4a16", "w4a16", fp32_blocks=("head",)), folder


def test_all_of_a_block_and_a_head_goes_to_one_delegate(narrow: tuple[Lowered, Path]) -> None:
    """Linears of 4 bits as the packed operator, also where the layer runs twice."""
    lowered, folder = narrow
    check, static, run = lowered.checks
    assert check.status == "passed"
    assert check.figures["delegates"] == 1
    assert check.figures["undelegated_operations"] == 0
    assert check.figures["packed_linears"] == 4
    assert check.figures["program_bytes"] == (folder / "vulkan" / "vggt.pte").stat().st_size
    assert (static.status, run.status) == ("passed", "not_run")
    assert static.figures["operations"] == check.figures["delegated_operations"]
    assert "no Vulkan implementation has run this program" in run.detail


def test_what_is_held_is_said_block_by_block(narrow: tuple[Lowered, Path]) -> None:
    """A block in 4 bits is so but for what the kernel does not take."""
    lowered, _ = narrow
    block, head = lowered.realised
    assert (block.block, block.asked, block.realised) == ("block", "w4a16", "w4a16")
    assert (head.block, head.asked, head.realised) == ("head", "w4a16", "fp16")
    assert "serialized Vulkan graph" in block.how


def test_a_block_that_may_overflow_is_a_finding(narrow: tuple[Lowered, Path]) -> None:
    """The delegate has no FP32 for single blocks."""
    lowered, _ = narrow
    assert [(one.rule, one.block, one.severity) for one in lowered.findings] == [("fp16_range", "head", "warning")]


def test_the_files_say_what_goes_in_and_out(narrow: tuple[Lowered, Path]) -> None:
    lowered, folder = narrow
    assert lowered.files == ("vulkan/README.md", "vulkan/model.json", "vulkan/vggt.pte")
    text = (folder / "vulkan" / "README.md").read_text()
    assert "no Vulkan implementation has run this program" in text.splitlines()[2]
    assert "There is no app kit for it" in text
    assert "| in | x | (2, 6, 32) |" in text
    assert "| out | values | (1, 2, 8, 12, 4) |" in text


def test_the_same_bytes_twice(narrow: tuple[Lowered, Path], tmp_path: Path) -> None:
    _, folder = narrow
    lower(tmp_path, "w4a16", "w4a16")
    assert (tmp_path / "vulkan" / "vggt.pte").read_bytes() == (folder / "vulkan" / "vggt.pte").read_bytes()


def test_a_plan_for_xnnpack_is_held_without_its_activations(tmp_path: Path) -> None:
    """And says so."""
    lowered = lower(tmp_path, "w4a8d", "w8a8d")
    assert [(one.asked, one.realised) for one in lowered.realised] == [("w4a8d", "w4a16"), ("w8a8d", "fp16")]
    assert lowered.checks[0].figures["packed_linears"] == 4
    assert lowered.findings == ()


def test_a_linear_that_is_not_packed_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The graph holds FP16 where the plan has 4 bits."""
    with pytest.raises(LoweringError, match=r"block/qkv: asked w4a16, the file holds fp16"):
        BACKEND.lower(graph_of("fp16", "fp16"), plan_of("w4a16", "fp16"), phone(), tmp_path)


def test_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    """A static scale of activations has no form here."""
    with pytest.raises(LoweringError, match=r"block/qkv: asked w8a8, the file holds fp16"):
        BACKEND.lower(graph_of("fp16", "fp16"), plan_of("w8a8", "fp16"), phone(), tmp_path)


def test_a_large_model_is_left_out(tmp_path: Path) -> None:
    """Before any work."""
    plan = replace(plan_of("fp16", "fp16"), rest_bytes=MAX_WEIGHT_BYTES)
    with pytest.raises(ResourceError, match="left out above 250 MB"):
        BACKEND.lower(graph_of("fp16", "fp16"), plan, phone(), tmp_path)


def test_the_saved_program_is_interpreted(narrow: tuple[Lowered, Path], tmp_path: Path) -> None:
    """In FP32 it computes what the model computes, with scales stored in FP16; FP16 rounds on top of that."""
    _, folder = narrow
    torch.manual_seed(1)
    x = torch.randn(2, TOKENS, WIDTH)
    with torch.no_grad():
        expected = dict(zip(("pose", "values"), Model("w4a16", "w4a16")(x), strict=True))
    half, full = BACKEND.executors()
    assert (half.subject, full.subject) == ("vulkan-fp16", "vulkan-fp32")
    found = {one.subject: one.open(folder).run({"x": x.numpy()}) for one in (half, full)}
    assert min(sqnr_db(found["vulkan-fp32"][name], expected[name]) for name in expected) > 65
    assert 45 < min(sqnr_db(found["vulkan-fp16"][name], expected[name]) for name in expected) < 80
    with pytest.raises(InputError, match=r"model.json"):
        BACKEND.open(tmp_path)


def test_a_value_that_overflows_fp16_is_an_error(narrow: tuple[Lowered, Path]) -> None:
    """Which names the operation."""
    _, folder = narrow
    huge = np.zeros((2, TOKENS, WIDTH), np.float32)
    huge[0, 0, 0] = 65000
    huge[0, 0, 1] = -65000
    with pytest.raises(LoweringError, match=r"overflow FP16: \d+ aten\."):
        BACKEND.open(folder).run({"x": huge * 1.005})


def sqnr_db(found: npt.NDArray[np.float32], expected: Tensor) -> float:
    exact = expected.double().numpy()
    return float(10 * np.log10((exact**2).sum() / ((found - exact) ** 2).sum()))


def test_keys_are_those_of_executorch() -> None:
    """Of its own packing, and of FP16 that ends where FP16 does."""
    from executorch.backends.vulkan.patterns.weight_packing_utils import pack_4bit_weight_tensor

    weight = torch.randint(-8, 8, (4, 32), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    packed = pack_4bit_weight_tensor(weight)
    assert Counter(packed.flatten().tolist()).total() == 64
    assert packed_key(weight) == sha256(packed)
    assert half_key(torch.tensor([1e6, 0.1])) == sha256(torch.tensor([65504.0, 0.1]).half())


def sha256(tensor: Tensor) -> str:
    import hashlib

    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()

"""The interpreter over saved programs: right numbers, and programs that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.devices.errors import InputError, LoweringError, UnknownNameError
from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.runtimes.base import AnnotatedGraph
from vggt_edge.runtimes.executorch.model_file import borders_of, write_model_file
from vggt_edge.runtimes.executorch.sdk import installed, write_program
from vggt_edge.runtimes.vulkan.graph import Call, TensorValue, VulkanGraph
from vggt_edge.runtimes.vulkan.interpreter import GraphSession
from vggt_edge.runtimes.vulkan.lowering import lower_program

pytestmark = pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")


class Model(nn.Module):
    """A norm, a product, attention and a resize, in a dozen operations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = 8 * self.down(functional.gelu(self.up(self.norm(x))))
        y = x + functional.scaled_dot_product_attention(y, y, y)
        image = y.reshape(1, 2, 6, 16)
        return y, functional.interpolate(image, size=(8, 9), mode="bilinear", align_corners=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vulkan")
    program = annotate(Model(), torch.zeros(2, 6, 16))
    lowered = lower_program(program)
    write_program(lowered.manager, path / "vggt.pte")
    graph = AnnotatedGraph(lambda: program, Path("none.onnx"), ("x",), ("y", "image"), ())
    write_model_file(path, *borders_of(program, graph), lowered.planned_bytes)
    return path


@pytest.fixture
def x() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((2, 6, 16)).astype(np.float32)


def sqnr_db(found: npt.NDArray[np.float32], expected: Tensor) -> float:
    exact = expected.double().numpy()
    return float(10 * np.log10((exact**2).sum() / ((found - exact) ** 2).sum()))


def worst(session: GraphSession, x: npt.NDArray[np.float32]) -> float:
    with torch.no_grad():
        y, image = Model()(torch.from_numpy(x))
    found = session.run({"x": x})
    return min(sqnr_db(found["y"], y), sqnr_db(found["image"], image))


def test_it_computes_what_the_model_computes(folder: Path, x: npt.NDArray[np.float32]) -> None:
    """Weights are FP16 in both semantics; rounding every result costs some more."""
    full, half = GraphSession(folder, "fp32"), GraphSession(folder)
    assert worst(full, x) > 65
    assert 50 < worst(half, x) < worst(full, x)
    assert full.overflows == half.overflows == ()
    assert dict(half.input_shapes) == {"x": (2, 6, 16)}


def test_a_run_is_repeatable(folder: Path, x: npt.NDArray[np.float32]) -> None:
    session = GraphSession(folder)
    first, second = session.run({"x": x}), session.run({"x": x})
    assert all(np.array_equal(first[name], second[name]) for name in first)


def call_of(graph: VulkanGraph, name: str) -> Call:
    return next(one for one in graph.calls if one.name == name)


def with_call(graph: VulkanGraph, changed: Call) -> VulkanGraph:
    return replace(graph, calls=tuple(changed if one.number == changed.number else one for one in graph.calls))


def with_value(graph: VulkanGraph, place: int, value: object) -> VulkanGraph:
    values = list(graph.values)
    values[place] = value  # type: ignore[call-overload]
    return replace(graph, values=tuple(values))


def tensor(graph: VulkanGraph, place: int) -> TensorValue:
    value = graph.values[place]
    assert isinstance(value, TensorValue)
    return value


def another_epsilon(graph: VulkanGraph) -> VulkanGraph:
    return with_value(graph, call_of(graph, "aten.native_layer_norm.default").arguments[4], 0.1)


def operands_swapped(graph: VulkanGraph) -> VulkanGraph:
    """Attention's softmax over the wrong dimension: all shapes agree."""
    call = call_of(graph, "aten._softmax.default")
    place = len(graph.values)
    graph = replace(graph, values=(*graph.values, 1))
    return with_call(graph, replace(call, arguments=(call.arguments[0], place, *call.arguments[2:])))


def without_relu(graph: VulkanGraph) -> VulkanGraph:
    """What is above the bound of GELU is clipped as below it."""
    return with_call(graph, replace(call_of(graph, "aten.relu.default"), name="aten.abs.default"))


@pytest.mark.parametrize("mutate", [another_epsilon, operands_swapped, without_relu])
def test_a_program_with_wrong_numbers_is_seen(
    folder: Path, x: npt.NDArray[np.float32], mutate: Callable[[VulkanGraph], VulkanGraph]
) -> None:
    """Its outputs are far from the model's."""
    session = GraphSession(folder)
    session.graph = mutate(session.graph)
    assert worst(session, x) < 35


def test_another_shape_than_declared_names_the_operation(folder: Path, x: npt.NDArray[np.float32]) -> None:
    session = GraphSession(folder)
    call = call_of(session.graph, "aten.bmm.default")
    (place,) = session.graph.tensor_places([call.writes])
    session.graph = with_value(session.graph, place, replace(tensor(session.graph, place), shape=(2, 6, 7)))
    with pytest.raises(LoweringError, match=rf"operation {call.number}, aten.bmm.default: gives float32 \(2, 6, 6\)"):
        session.run({"x": x})


def test_memory_that_is_written_over_names_the_reader(folder: Path, x: npt.NDArray[np.float32]) -> None:
    """The input of the residual sum shares its memory with what is computed meanwhile."""
    session = GraphSession(folder)
    graph = session.graph
    (source,) = graph.inputs
    readers = [call for call in graph.calls if source in call.reads]
    between = next(
        call for call in graph.calls if readers[0].number < call.number < readers[-1].number and call.arguments
        and tensor(graph, next(graph.tensor_places([call.writes]))).memory not in (-1, tensor(graph, source).memory)
    )  # fmt: skip
    place = next(graph.tensor_places([between.writes]))
    session.graph = with_value(graph, place, replace(tensor(graph, place), memory=tensor(graph, source).memory))
    with pytest.raises(LoweringError, match="memory"):
        session.run({"x": x})


def test_an_operator_without_a_kernel_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vggt_edge.runtimes.vulkan.interpreter.kernel import KERNELS

    monkeypatch.delitem(KERNELS, "aten.gelu.default")
    with pytest.raises(
        LoweringError, match=r"lacks operators of the program: aten.gelu.default \(first: operation \d+"
    ):
        GraphSession(folder)


def test_what_is_no_program_of_ours_is_refused(folder: Path, tmp_path: Path) -> None:
    """Damaged, of another export, or asked for in an unknown precision."""
    (tmp_path / "vggt.pte").write_bytes((folder / "vggt.pte").read_bytes()[:-1])
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    with pytest.raises(InputError, match="damaged"):
        GraphSession(tmp_path)
    with pytest.raises(UnknownNameError, match="precision"):
        GraphSession(folder, "bf16")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="wrong inputs"):
        GraphSession(folder).run({"images": np.zeros((2, 6, 16), np.float32)})

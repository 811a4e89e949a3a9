"""Lowering of single pieces, run in ExecuTorch's own runtime and compared with the simulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import quantized
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.runtimes.executorch.arm.build import PROCESSORS, ArmBuild
from vggt_edge.runtimes.executorch.arm.session import ArmSession
from vggt_edge.runtimes.executorch.assemble import Assembled, assemble
from vggt_edge.runtimes.executorch.model_file import Border, write_model_file
from vggt_edge.runtimes.executorch.pieces import Pieces, cut
from vggt_edge.runtimes.executorch.rewrite import rewrite
from vggt_edge.runtimes.executorch.sdk import installed, quiet, sdk
from vggt_edge.runtimes.executorch.session import ExecuTorchSession
from vggt_edge.runtimes.executorch.xnnpack import Kind, StoredLinear, lower_pieces

pytestmark = pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")


def form(layer: nn.Module, scheme: str) -> nn.Module:
    return quantized(layer, Form.of(SCHEMES[scheme], LayerShape.of(layer), 32))


def pieces_of(model: nn.Module, x: Tensor) -> Pieces:
    with torch.no_grad():
        program = torch.export.export(model.eval(), (x,), strict=False)
    return cut(program, lambda path: path.partition(".")[0] if path[:1].isdigit() else "")


def assembled(model: nn.Module, x: Tensor, *, external: bool = False) -> Assembled:
    pieces = pieces_of(model, x)
    return assemble(pieces, lower_pieces(pieces.pieces), x, external=external)


def written(made: Assembled, x: Tensor, shape: tuple[int, ...], folder: Path) -> Path:
    """``folder`` with a program of one output of that shape."""
    with (folder / "vggt.pte").open("wb") as stream:
        made.manager.write_to_file(stream)
    made.manager.write_tensor_data_to_file(str(folder))
    write_model_file(folder, (Border("x", tuple(x.shape)),), (Border("y", shape),), made.planned_bytes)
    return folder


def executed(made: Assembled, x: Tensor, folder: Path) -> Tensor:
    """The one output, as ExecuTorch computes it."""
    session = ExecuTorchSession(written(made, x, (), folder))
    (array,) = session.run({"x": x.numpy()}).values()
    session.close()
    return torch.from_numpy(array)


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


LAYERS: dict[str, Callable[[str], tuple[nn.Module, Tensor]]] = {
    "linear": lambda scheme: (form(nn.Linear(64, 48), scheme), torch.randn(9, 64) * torch.rand(9, 1) * 8),
    "linear of 9": lambda scheme: (form(nn.Linear(9, 16), scheme), torch.randn(5, 9)),
    "convolution": lambda scheme: (form(nn.Conv2d(32, 16, 3, padding=1), scheme), torch.randn(2, 32, 7, 9)),
    "strided": lambda scheme: (form(nn.Conv2d(32, 16, 3, 2, 1), scheme), torch.randn(2, 32, 8, 8)),
    "patches": lambda scheme: (form(nn.Conv2d(3, 32, 14, stride=14), scheme), torch.rand(2, 3, 28, 42)),
    "transposed": lambda scheme: (form(nn.ConvTranspose2d(32, 16, 4, stride=4), scheme), torch.randn(2, 32, 5, 6)),
}


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, "w8a8d") for name in LAYERS),
        *((name, "fp32") for name in ("linear", "patches", "transposed")),
        ("linear", "w4a8d"),
    ],
)
def test_a_layer_computes_what_the_simulation_does(name: str, scheme: str, tmp_path: Path) -> None:
    """Images of one batch have scales of their own, tokens too; nothing is left undelegated."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](scheme)
    if x.dim() == 4:
        x = x * torch.tensor([1.0, 30.0]).view(2, 1, 1, 1)
    made = assembled(layer, x)
    assert made.undelegated == ()
    with torch.no_grad():
        assert distance(executed(made, x, tmp_path), layer(x)) < 1e-4


ARM = ArmBuild.of_android().availability()


@pytest.mark.skipif(not ARM.ok, reason=f"{ARM.reason}: {ARM.remedy}")
@pytest.mark.parametrize("feature", PROCESSORS)
@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "w8a8d") for name in ("linear", "convolution", "patches", "transposed")), ("linear", "w4a8d")],
)
def test_a_layer_computes_it_on_the_processor_of_a_phone_too(
    name: str, scheme: str, feature: str, tmp_path: Path
) -> None:
    """By the kernels for dot products, for i8mm and for SME, in QEMU."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](scheme)
    with torch.no_grad():
        expected = layer(x)
    folder = written(assembled(layer, x), x, tuple(expected.shape), tmp_path)
    assert distance(torch.from_numpy(ArmSession(folder, feature).run({"x": x.numpy()})["y"]), expected) < 1e-4


@pytest.mark.parametrize("before", [nn.ReLU(), nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU()), nn.Flatten(2)])
def test_a_convolution_in_the_midst_of_others_takes_its_own_input(before: nn.Module, tmp_path: Path) -> None:
    """ExecuTorch 1.4 goes back to the first operand of all to turn it to channels-last."""
    torch.manual_seed(0)
    reshape = nn.Unflatten(2, (8, 8)) if isinstance(before, nn.Flatten) else nn.Identity()
    layer = form(nn.Conv2d(32, 16, 3, padding=1), "w8a8d")
    model, x = nn.Sequential(before, reshape, layer, nn.ReLU(), nn.Conv2d(16, 4, 1)), torch.randn(2, 32, 8, 8)
    with torch.no_grad():
        assert distance(executed(assembled(model, x), x, tmp_path), model(x)) < 1e-4


def blocks(*schemes: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.LayerNorm(32), form(nn.Linear(32, 32), scheme)) for scheme in schemes))


def test_a_twin_is_what_its_own_lowering_would_have_made() -> None:
    """Payload and weights, byte for byte."""
    _, first, twin = _named(pieces_of(blocks("w4a8d", "w4a8d", "w4a8d"), torch.randn(4, 32)))
    assert first.key == twin.key
    taken, own = Kind(first).lowered(twin), Kind(twin).lowered(twin)
    assert taken.delegates == own.delegates
    assert taken.delegates != Kind(first).lowered(first).delegates


def test_pieces_of_one_kind_are_lowered_once() -> None:
    """The edge graph is shared."""
    pieces = _named(pieces_of(blocks("w8a8d", "w8a8d", "fp32"), torch.randn(4, 32)))
    first, twin, other = lower_pieces(pieces)
    assert first.graph is twin.graph
    assert other.graph is not first.graph


def _named(pieces: Pieces) -> list[object]:
    found = [piece for piece in pieces.pieces if piece.block]
    assert len(found) == 3
    return found  # type: ignore[return-value]


def test_what_we_serialize_runs_like_what_executorch_serializes(tmp_path: Path) -> None:
    """Its own way from the same rewritten program, whose keys are longer: equal outputs, bit for bit."""
    torch.manual_seed(0)
    model, x = blocks("fp32", "w8a8d", "w4a8d"), torch.randn(6, 32)
    pieces = pieces_of(nn.Sequential(nn.Identity(), model), x)
    ours = executed(assembled(model, x), x, tmp_path)
    (whole,) = (
        pieces.pieces
        if len(pieces.pieces) == 1
        else cut(torch.export.export(model.eval(), (x,), strict=False), lambda path: "").pieces
    )
    with quiet(), torch.no_grad():
        partitioner = sdk("backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
        manager = sdk("exir").to_edge_transform_and_lower(rewrite(whole), partitioner=[partitioner()]).to_executorch()
        (tmp_path / "theirs.pte").write_bytes(manager.buffer)
        program = sdk("runtime").Runtime.get().load_program(tmp_path / "theirs.pte")
        (theirs,) = program.load_method("forward").execute([x])
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("scheme", "datatype", "dynamic"), [("fp32", "fp32", False), ("w8a8d", "qcint8", True), ("w4a8d", "qbint4", True)]
)
def test_what_is_stored_is_read_from_the_serialized_graph(scheme: str, datatype: str, dynamic: bool) -> None:
    """The products that stand for means are no layers of the model."""
    piece = _named(pieces_of(blocks(scheme, scheme, scheme), torch.randn(4, 32)))[0]
    (delegate,) = Kind(piece).lowered(piece).delegates.values()  # type: ignore[arg-type]
    (linear,) = delegate.linears
    assert linear == StoredLinear(linear.weight, datatype, dynamic)
    assert piece.targets[linear.weight].startswith("0.1.weight")  # type: ignore[attr-defined]


def test_the_same_bytes_twice() -> None:
    """No name, date or order by chance."""
    x = torch.randn(4, 32)
    first, second = (assembled(blocks("w8a8d", "w4a8d", "fp32"), x).manager.buffer for _ in range(2))
    assert first == second


def test_weights_outside_of_the_program(tmp_path: Path) -> None:
    """The program has none of them left, and runs with their file alone."""
    torch.manual_seed(0)
    model, x = form(nn.Linear(512, 512), "w8a8d"), torch.randn(3, 512)
    made = assembled(model, x, external=True)
    with torch.no_grad():
        assert distance(executed(made, x, tmp_path), model(x)) < 1e-5
    assert (tmp_path / "vggt.pte").stat().st_size < 10_000
    assert (tmp_path / "vggt.ptd").stat().st_size > 512 * 512


class Shifted(nn.Module):
    """Adds a part of a larger constant, which begins in the midst of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 9, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[:, 1:]


def test_a_constant_that_is_part_of_another_is_stored_alone(tmp_path: Path) -> None:
    """ExecuTorch 1.4 would store the whole from its beginning: a position table without its class token."""
    torch.manual_seed(0)
    model, x = Shifted(), torch.randn(2, 8, 8)
    with torch.no_grad():
        assert distance(executed(assembled(model, x), x, tmp_path), model(x)) < 1e-6


class Sorted(nn.Module):
    """Something that XNNPACK has no operator for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def test_what_xnnpack_does_not_take_is_left_to_portable_kernels(tmp_path: Path) -> None:
    """It is listed, and the program computes it all the same."""
    model, x = nn.Sequential(nn.Linear(8, 8), Sorted(), nn.Linear(8, 8)), torch.randn(3, 8)
    made = assembled(model, x)
    assert [one.operator for one in made.undelegated] == ["aten.cumsum.default"]
    with torch.no_grad():
        assert distance(executed(made, x, tmp_path), model(x)) < 1e-5

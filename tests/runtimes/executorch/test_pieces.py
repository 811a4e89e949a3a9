"""Cutting a traced program at its blocks, and telling twins."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import QuantLayer
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.runtimes.common.audit import place
from vggt_edge.runtimes.executorch.pieces import Pieces, cut

WIDTH = 32


def stored(layer: nn.Linear, bits: int) -> QuantLayer:
    return QuantLayer(layer, Form.of(SCHEMES[{8: "w8a16", 4: "w4a16"}[bits]], LayerShape.of(layer), 32))


class Block(nn.Module):
    def __init__(self, hidden: int = 64, bits: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        first, second = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)
        self.first = first if bits is None else stored(first, bits)
        self.second = second if bits is None else stored(second, bits)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(self.norm(x)))


class Model(nn.Module):
    """Blocks with something before, between and after them, and a start that depends on constants alone."""

    def __init__(self, *blocks: Block) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(blocks)
        self.start = nn.Parameter(torch.randn(1, WIDTH))
        self.embed = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x * 2 + self.embed(self.start).expand(len(x), -1)
        for block in self.blocks:
            x = block(x)
        return x, x.relu()


def traced(model: nn.Module, rows: int = 3) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model.eval(), (torch.randn(rows, WIDTH),), strict=False)


def pieces_of(model: Model) -> Pieces:
    names = [f"blocks.{index}" for index in range(len(model.blocks))]
    return cut(traced(model), lambda path: place(path, names)[0])


def run(pieces: Pieces, x: Tensor) -> list[Tensor]:
    values = dict(zip(pieces.inputs, (x,), strict=True))
    for piece in pieces.pieces:
        results = piece.module(*(values[name] for name in piece.inputs))
        values |= dict(zip(piece.outputs, results, strict=True))
    return [values[name] for name in pieces.outputs]


def test_the_pieces_one_after_the_other_are_the_program() -> None:
    """Bit for bit, whatever lies between the blocks."""
    model, x = Model(Block(), Block(bits=8), Block(bits=4)), torch.randn(3, WIDTH)
    with torch.no_grad():
        expected = model(x)
        found = run(pieces_of(model), x)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_every_block_is_a_piece_of_its_own() -> None:
    """And what lies outside has no block."""
    pieces = pieces_of(Model(Block(), Block()))
    assert [piece.block for piece in pieces.pieces] == ["", "blocks.0", "blocks.1", ""]


def test_twins_have_the_same_key_and_others_have_not() -> None:
    """Weights do not matter; shapes, precisions and operators do."""
    model = Model(Block(), Block(), Block(hidden=96), Block(bits=8), Block(bits=4), Block(bits=4))
    keys = [piece.key for piece in pieces_of(model).pieces if piece.block]
    first, twin, wider, eight, four, other_four = keys
    assert first == twin
    assert four == other_four
    assert len({first, wider, eight, four}) == 4


def test_weights_stay_as_they_are_stored_and_know_their_names() -> None:
    """Nothing is restored to FP32 on the way."""
    pieces = pieces_of(Model(Block(bits=4)))
    (block,) = (piece for piece in pieces.pieces if piece.block)
    stored = {block.targets[name]: tensor for name, tensor in block.weights.items()}
    assert stored["blocks.0.first.weight_q"].dtype is torch.int8
    assert stored["blocks.0.norm.weight"].shape == (WIDTH,)


def test_what_depends_on_constants_alone_is_computed_once() -> None:
    """The embedding of the start is a constant, and its linear is gone."""
    first, *_ = pieces_of(Model(Block())).pieces
    targets = [node.target for node in first.module.graph.nodes if node.op == "call_function"]
    assert torch.ops.aten.linear.default not in targets
    assert list(first.targets.values()) == [""]


def test_a_quantized_linear_of_a_constant_is_folded_with_its_weights() -> None:
    """Nothing that restores a weight stays behind without a reader."""
    model = Model(Block())
    model.embed = stored(model.embed, 8)  # type: ignore[assignment]
    x = torch.randn(3, WIDTH)
    pieces = pieces_of(model)
    assert len(pieces.pieces[0].weights) == 1
    with torch.no_grad():
        assert torch.equal(run(pieces, x)[0], model(x)[0])

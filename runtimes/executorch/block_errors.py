"""How far XNNPACK departs from the simulation in each block alone: its inputs are what XNNPACK itself gave before.

The wheel of ExecuTorch 1.4 is built without event tracing, so an ETDump is empty, and a delegate shows none of its
inner values anyway. But the program is made of a delegate per block: the same delegates in a program whose outputs are
those of every block tell as much.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.base import Arrays, Check
from vggt_edge.runtimes.executorch.assemble import assemble
from vggt_edge.runtimes.executorch.files import PROGRAM
from vggt_edge.runtimes.executorch.model_file import Border, write_model_file
from vggt_edge.runtimes.executorch.pieces import Piece, Pieces
from vggt_edge.runtimes.executorch.session import ExecuTorchSession
from vggt_edge.runtimes.executorch.xnnpack import LoweredPiece

NAME = "error of each block"
SEED = 0
# Above this the outputs of all blocks, and the simulation of each one, take minutes and gigabytes.
MAX_WEIGHT_BYTES = 200_000_000
MIN_DB = 40.0
# What the sums of some thirty layers may differ by where they are taken in another order.
NOISE = 1e-5
DRAWS = 4
MARGIN_DB = 4.0  # The flips of a few draws are not those of XNNPACK.
_EXACT_DB = 200.0


def block_error_check(program: ExportedProgram, pieces: Pieces, lowered: Sequence[LoweredPiece]) -> Check:
    """SQNR in dB of each block, by its name, on a seeded random input; the least of its outputs and calls.

    Below ``MIN_DB`` a block has to show that roundings explain it: the simulation itself moves as far when its inputs
    change by ``NOISE``. ``LoweringError`` where it does not.
    """
    weight_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if weight_bytes > MAX_WEIGHT_BYTES:
        detail = f"{weight_bytes / 1e6:.0f} MB of weights: left out above {MAX_WEIGHT_BYTES / 1e6:.0f} MB"
        return Check(NAME, "not_run", detail, {"weight_bytes": weight_bytes})
    (example,) = program.example_inputs[0]
    image = torch.rand(example.shape, generator=torch.Generator().manual_seed(SEED))
    values = _executed(pieces, lowered, image)
    errors = tuple(_errors(pieces, values))
    explained = [error.explained(values) for error in errors if error.decibels < MIN_DB]
    figures: dict[str, float] = {}
    for error in errors:
        figures[error.block] = min(error.decibels, figures.get(error.block, math.inf))
    worst = min(figures, key=figures.__getitem__)
    what = f"XNNPACK against the simulation, least in {worst}: {figures[worst]:g} dB"
    return Check(NAME, "passed", "; ".join([what, *explained]), figures)


def _executed(pieces: Pieces, lowered: Sequence[LoweredPiece], image: Tensor) -> dict[str, Tensor]:
    """Every value between the pieces, as XNNPACK computes it."""
    names = tuple(name for piece in pieces.pieces for name in piece.outputs)
    assembled = assemble(replace(pieces, outputs=names), lowered, image, external=False)
    with tempfile.TemporaryDirectory(prefix="vggt-edge-executorch-") as scratch:
        folder = Path(scratch)
        with (folder / PROGRAM).open("wb") as stream:
            assembled.manager.write_to_file(stream)
        (name,) = pieces.inputs
        # Shapes of outputs are not checked by a session.
        write_model_file(folder, (Border(name, tuple(image.shape)),), tuple(Border(one, ()) for one in names), 0)
        session = ExecuTorchSession(folder)
        outputs: Arrays = session.run({name: image.numpy()})
        session.close()
    return {name: image} | {one: torch.from_numpy(array) for one, array in outputs.items()}


@dataclass(frozen=True)
class _Error:
    """The distance of an output of a piece from the simulation, on the inputs that XNNPACK gave the piece."""

    piece: Piece
    index: int
    decibels: float

    @property
    def block(self) -> str:
        return self.piece.block or "outside the blocks"

    def explained(self, values: Mapping[str, Tensor]) -> str:
        """Why this is roundings that go the other way; ``LoweringError`` where it is not."""
        own_db = self._own_db(values)
        said = f"the simulation of {self.block} itself moves to {own_db:.1f} dB when its inputs change by {NOISE:g}"
        if self.decibels < own_db - MARGIN_DB:
            raise LoweringError(
                f"XNNPACK against the simulation in {self.block}: {self.decibels:g} dB, while {said}",
                where=self.block,
                expected=f"at least {MIN_DB:g} dB, or no less than roundings explain",
                remedy="the lowering has a fault: report it with the model's sizes and the plan",
            )
        return f"{said}: roundings, not a fault"

    def _own_db(self, values: Mapping[str, Tensor]) -> float:
        """SQNR of the simulation against itself for inputs that differ by noise: the worst of some draws."""
        generator = torch.Generator().manual_seed(SEED)
        inputs = [values[name] for name in self.piece.inputs]
        reference = _simulated(self.piece, inputs)[self.index]
        draws = (_simulated(self.piece, [_shaken(one, generator) for one in inputs]) for _ in range(DRAWS))
        return min(_sqnr_db(draw[self.index], reference) for draw in draws)


def _errors(pieces: Pieces, values: Mapping[str, Tensor]) -> Iterator[_Error]:
    for piece in pieces.pieces:
        expected = _simulated(piece, [values[name] for name in piece.inputs])
        for index, (name, simulated) in enumerate(zip(piece.outputs, expected, strict=True)):
            yield _Error(piece, index, round(_sqnr_db(values[name], simulated), 2))


def _simulated(piece: Piece, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(piece.module(*inputs))


def _shaken(value: Tensor, generator: torch.Generator) -> Tensor:
    return value * (1 + NOISE * torch.randn(value.shape, generator=generator)) if value.is_floating_point() else value


def _sqnr_db(value: Tensor, reference: Tensor) -> float:
    noise = float((value - reference).norm())
    signal = float(reference.norm())
    return _EXACT_DB if noise == 0 else min(_EXACT_DB, 20 * math.log10(max(signal, 1e-30) / noise))

"""How far XNNPACK departs from the simulation in each block alone: its inputs are what XNNPACK itself gave before.

The wheel of ExecuTorch 1.4 is built without event tracing, so an ETDump is empty, and a delegate shows none of its
inner values anyway. But the program is made of a delegate per block: the same delegates in a program whose outputs are
those of every block tell as much.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.base import Arrays, Check
from vggt_edge.runtimes.executorch.assemble import assemble
from vggt_edge.runtimes.executorch.files import PROGRAM
from vggt_edge.runtimes.executorch.model_file import Border, write_model_file
from vggt_edge.runtimes.executorch.pieces import Pieces
from vggt_edge.runtimes.executorch.session import ExecuTorchSession
from vggt_edge.runtimes.executorch.xnnpack import LoweredPiece

NAME = "error of each block"
SEED = 0
# Above this the outputs of all blocks, and the simulation of each one, take minutes and gigabytes.
MAX_WEIGHT_BYTES = 200_000_000
MIN_DB = 40.0
_EXACT_DB = 200.0


def block_error_check(program: ExportedProgram, pieces: Pieces, lowered: Sequence[LoweredPiece]) -> Check:
    """SQNR in dB of each block, by its name, on a seeded random input; the least of its outputs and calls.

    ``LoweringError`` below ``MIN_DB``: roundings that go the other way leave a block at 45 dB and more.
    """
    weight_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if weight_bytes > MAX_WEIGHT_BYTES:
        detail = f"{weight_bytes / 1e6:.0f} MB of weights: left out above {MAX_WEIGHT_BYTES / 1e6:.0f} MB"
        return Check(NAME, "not_run", detail, {"weight_bytes": weight_bytes})
    (example,) = program.example_inputs[0]
    image = torch.rand(example.shape, generator=torch.Generator().manual_seed(SEED))
    values = _executed(pieces, lowered, image)
    figures = _errors(pieces, values)
    worst = min(figures, key=figures.__getitem__)
    what = f"XNNPACK against the simulation, least in {worst}: {figures[worst]:g} dB"
    if figures[worst] < MIN_DB:
        raise LoweringError(
            what,
            where=worst,
            expected=f"at least {MIN_DB:g} dB in every block",
            remedy="the lowering has a fault: report it with the model's sizes and the plan",
        )
    return Check(NAME, "passed", what, dict(figures))


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


def _errors(pieces: Pieces, values: Mapping[str, Tensor]) -> dict[str, float]:
    found: dict[str, float] = {}
    for block, decibels in _errors_of_calls(pieces, values):
        found[block] = min(decibels, found.get(block, math.inf))
    return {block: round(decibels, 2) for block, decibels in found.items()}


def _errors_of_calls(pieces: Pieces, values: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    for piece in pieces.pieces:
        with torch.no_grad():
            expected = piece.module(*(values[name] for name in piece.inputs))
        for name, simulated in zip(piece.outputs, expected, strict=True):
            yield piece.block or "outside the blocks", _sqnr_db(values[name], simulated)


def _sqnr_db(value: Tensor, reference: Tensor) -> float:
    noise = float((value - reference).norm())
    signal = float(reference.norm())
    return _EXACT_DB if noise == 0 else min(_EXACT_DB, 20 * math.log10(max(signal, 1e-30) / noise))

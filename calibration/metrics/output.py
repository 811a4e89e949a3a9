"""An output as a model declares it, once: sensitivity, tuning, validation, reports, estimates and kits read this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vggt_edge.calibration.metrics.geometry import AnyArray
from vggt_edge.calibration.metrics.quantities import Quantity
from vggt_edge.calibration.metrics.scale import scene_scale


@dataclass(frozen=True)
class Output:
    """One tensor that a model puts out.

    - name: of the tensor in graphs, bundles and kits, such as ``depth_conf``.
    - head: what ``--outputs`` calls the head that gives it, such as ``depth``.
    - quantity: what it means: shape, unit, residual, figures and gates.
    - title: its name in reports.
    - description: one line for the metadata of an artifact.
    - confidence: name of the output that says how far to trust its pixels; empty where there is none.
    """

    name: str
    head: str
    quantity: Quantity
    title: str
    description: str = ""
    confidence: str = ""

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape in a graph, with the batch of 1."""
        return (1, *self.quantity.shape(frames, height, width))


def heads_of(outputs: Sequence[Output]) -> tuple[str, ...]:
    """The names of the heads, each once, in the order of their outputs."""
    return tuple(dict.fromkeys(output.head for output in outputs))


def of_heads(outputs: Sequence[Output], heads: Sequence[str]) -> tuple[Output, ...]:
    """The outputs of some heads, in declared order."""
    return tuple(output for output in outputs if output.head in heads)


def first_of(outputs: Sequence[Output], kind: type[object]) -> Output | None:
    """The first output that is of this kind of quantity."""
    return next((output for output in outputs if isinstance(output.quantity, kind)), None)


def scale_of(outputs: Sequence[Output], reference: Mapping[str, AnyArray]) -> float:
    """The scene scale by the last output that holds distances (points rather than depth); 1 where none does."""
    found = [output.quantity.distances(reference[output.name]) for output in outputs if output.name in reference]
    distances = [each for each in found if each is not None]
    return scene_scale(distances[-1]) if distances else 1.0

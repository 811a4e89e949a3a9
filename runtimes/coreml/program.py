"""Reads a saved Core ML package back: its program, constants and description, without running anything."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.runtimes.coreml.decode import decode
from vggt_edge.runtimes.coreml.mil import (
    BITS,
    Argument,
    Constant,
    Description,
    Feature,
    MilProgram,
    Operation,
    Output,
    TensorType,
)
from vggt_edge.runtimes.coreml.package import model_file

__all__ = [
    "BITS",
    "Argument",
    "Constant",
    "Description",
    "Feature",
    "MilProgram",
    "Operation",
    "Output",
    "TensorType",
    "load_program",
]


def load_program(package: Path) -> MilProgram:
    """The ``main`` function of an ``.mlpackage`` whose model is an ML program.

    Weights stay in the package until ``Constant.numpy`` asks for them, but the place, type and size of each one is
    checked here. ``InputError`` for a missing or damaged part, a path that leaves the package, a model of another kind,
    control flow, or a value that is read before it is written. ``ToolchainError`` without coremltools, whose
    definition of the file format is used.
    """
    return decode(package, model_file(package))

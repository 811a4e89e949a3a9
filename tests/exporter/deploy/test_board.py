"""The program that runs on boards: their Python, and nothing else."""

from __future__ import annotations

import ast
import sys
from importlib import resources

import pytest

from vggt_edge.devices.errors import (
    AccuracyGateError,
    InputError,
    LoweringError,
    ResourceError,
    ToolchainError,
    VggtEdgeError,
)
from vggt_edge.exporter.deploy.outcome import kit_error

SOURCE = (resources.files("vggt_edge.exporter.deploy") / "kit_board" / "board.py").read_text()


def test_it_is_python_3_8_and_imports_the_standard_library_alone() -> None:
    tree = ast.parse(SOURCE, feature_version=(3, 8))
    newer = {"removeprefix", "removesuffix", "is_relative_to", "file_digest", "hardlink_to"}
    assert not newer & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= set(sys.stdlib_module_names)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_it_uses_no_shell() -> None:
    assert not [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.keyword) and node.arg == "shell"]
    assert "os.system" not in SOURCE


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (1, VggtEdgeError, "an unknown code"),
        (2, InputError, "arguments or files"),
        (3, ToolchainError, "toolchain"),
        (4, AccuracyGateError, "too far from the simulation"),
        (6, LoweringError, "lost its precision"),
        (7, ResourceError, "memory or disk"),
        (124, ResourceError, "ended after 60 s"),
        (137, ResourceError, "no memory left"),
        (139, VggtEdgeError, "signal 11"),
    ],
)
def test_what_the_kit_s_code_means(code: int, kind: type[VggtEdgeError], words: str) -> None:
    """The code of the command is that of the error."""
    error = kit_error(code, ["building", "error: it is so", "  next: do that"], "ssh://orin", 60)
    assert type(error) is kind
    assert words in error.what
    assert "it is so" in error.what or code > 100


def test_a_good_kit_is_no_error() -> None:
    assert kit_error(0, [], "", None) is None

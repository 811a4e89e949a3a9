"""What all tests share: the repository's root, the command in process, and settings that keep runs alike."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Nothing may be fetched: a test that needs the network would fail elsewhere.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples on every machine, and no deadline: the machine may be busy.
settings.register_profile("vggt-edge", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("vggt-edge")


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Finished:
    """A command line that ran to its end."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as the one JSON document it has to be."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def vggt_edge(capfd: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """``vggt_edge("targets", "--json")`` runs the command in this process."""
    from vggt_edge.exporter.cli import main

    def run(*arguments: str | Path) -> Finished:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Finished(code, captured.out, captured.err)

    return run

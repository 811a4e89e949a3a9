"""The training scripts are no package: they import each other from their own folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

NAMES = ("data", "losses", "train_mini")


@pytest.fixture
def scripts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """``scripts.data``, ``scripts.losses``, ``scripts.train_mini``; gone from ``sys.modules`` afterwards."""
    monkeypatch.syspath_prepend(str(repository / "training"))
    loaded: dict[str, ModuleType] = {name: importlib.import_module(name) for name in NAMES}
    yield SimpleNamespace(**loaded)
    for name in NAMES:
        sys.modules.pop(name, None)

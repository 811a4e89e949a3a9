"""Nearly every public function and class says what it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

WANTED = 0.95


@pytest.fixture(scope="module")
def docstrings(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """``tests/docstrings.py``, which is also a command."""
    return load_script("docstrings")


@pytest.mark.parametrize("kind", ["function", "class"])
def test_public_names_are_documented(docstrings: ModuleType, repository: Path, kind: str) -> None:
    found = [one for one in docstrings.public_names(repository) if one.kind == kind]
    missing = [one.place for one in found if not one.documented]
    assert len(missing) <= (1 - WANTED) * len(found), missing


def test_a_missing_docstring_is_seen(docstrings: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "one.py").write_text(
        'def a():\n    """Says."""\ndef b(): ...\ndef _c(): ...\nclass D: ...\n'
    )
    found = list(docstrings.public_names(tmp_path))
    assert [(one.kind, one.documented) for one in found] == [("function", True), ("function", False), ("class", False)]

"""The shared cases are those that ``write.py`` writes, and none that Python's own parser refuses counts as good."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from vggt_edge.runtimes.common.kit import script_module

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    return script_module(HERE / "write.py", "json_cases_write")


def test_the_files_are_those_of_the_script(writer: ModuleType) -> None:
    """No case is missing, changed or left over."""
    assert {path: path.read_bytes() for path in HERE.glob("*/*.json")} == writer.files()


def test_accepted_cases_are_json(writer: ModuleType) -> None:
    """As far as Python's parser can tell; it takes more than the rule allows, so it says nothing of the others."""
    for text in writer.ACCEPTED.values():
        json.loads(text)

"""The locked requirements fit pyproject.toml: each extra has a lock, and each pin satisfies the ranges."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
OURS = "dev"  # what we test with is not shipped
PIN = re.compile(r"^(?P<pin>\S.*?) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def locks() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def test_every_extra_has_a_lock() -> None:
    assert locks() == sorted(set(project()["optional-dependencies"]) - {OURS})
    makefile = (ROOT / "Makefile").read_text()
    (named,) = re.findall(r"^LOCKED := (.+)$", makefile, re.MULTILINE)
    assert sorted(named.split()) == locks()


@pytest.mark.parametrize("extra", locks())
def test_every_pin_is_hashed_and_in_range(extra: str) -> None:
    """Nothing but pins with hashes, so that no address of an index can hide there."""
    text = (FOLDER / f"{extra}.txt").read_text()
    assert PIN.sub("", text) == ""
    pinned = defaultdict(list)
    for found in PIN.finditer(text):
        pin = Requirement(found["pin"])
        (exact,) = pin.specifier
        assert exact.operator == "=="
        pinned[canonicalize_name(pin.name)].append(exact.version)
    for line in (*project()["dependencies"], *project()["optional-dependencies"][extra]):
        wanted = Requirement(line)
        versions = pinned[canonicalize_name(wanted.name)]
        assert versions, line
        assert all(wanted.specifier.contains(version, prereleases=True) for version in versions), line

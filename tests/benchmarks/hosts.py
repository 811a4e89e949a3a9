"""Lists the hosts on which the package and its extras install from wheels alone: the table of docs/contributing.md.

``hosts.py`` resolves ``pyproject.toml`` with uv (``pip install uv``) for each version of Python and each platform, and
installs nothing. An extra whose packages the markers leave out on a platform is "empty" there.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from measure import table

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
PYTHONS = ("3.11", "3.12", "3.13")
# glibc 2.35 is that of Ubuntu 22.04, which JetPack 6 is built on.
PLATFORMS = {
    "Linux, x86-64": "x86_64-manylinux_2_35",
    "Linux, ARM": "aarch64-manylinux_2_35",
}


def resolved(python: str, platform: str, extra: str | None) -> frozenset[str] | None:
    """The packages that would be installed; None where there is no solution."""
    command = ["uv", "pip", "compile", str(PROJECT), "--python-version", python]
    command += ["--python-platform", platform, "--only-binary", ":all:", "--no-header", "--no-annotate", "--quiet"]
    command += [] if extra is None else ["--extra", extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"Python {python}, {platform}, {extra}:\n{done.stderr}", file=sys.stderr)
        return None
    return frozenset(done.stdout.split("\n"))


def cells(python: str, platform: str, extras: list[str]) -> Iterator[str]:
    core = resolved(python, platform, None)
    yield "no" if core is None else "yes"
    for extra in extras:
        found = resolved(python, platform, extra)
        yield "no" if found is None else "empty" if found == core else "yes"


def main() -> None:
    extras = list(tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"])
    rows = [
        (python, name, *cells(python, platform, extras)) for python in PYTHONS for name, platform in PLATFORMS.items()
    ]
    print("\n".join(table(("Python", "platform", "core", *(f"`{extra}`" for extra in extras)), rows)))


if __name__ == "__main__":
    main()

"""Counts the docstrings of public names: ``python tests/docstrings.py`` prints the shares and the names without one.

Public: a function or class at the top of a module whose name, like that of the module, has no leading underscore. The
scripts of the device kits do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("devices", "calibration", "runtimes", "exporter")


@dataclass(frozen=True)
class Public:
    """One public name. kind: ``function`` or ``class``."""

    kind: str
    place: str
    documented: bool


def public_names(root: Path) -> Iterator[Public]:
    """Every public function and class below the four folders of ``root``."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            place = path.relative_to(root)
            if "kit" not in place.parts and not path.stem.startswith("_"):
                yield from _of_module(place.as_posix(), ast.parse(path.read_text(encoding="utf-8")))


def _of_module(place: str, module: ast.Module) -> Iterator[Public]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield Public(kind, f"{place}:{node.lineno} {node.name}", ast.get_docstring(node) is not None)


def main() -> None:
    """Print the shares, then what is missing."""
    found = list(public_names(Path(__file__).resolve().parents[1]))
    for kind in ("function", "class"):
        of_kind = [one for one in found if one.kind == kind]
        documented = sum(one.documented for one in of_kind)
        print(f"{kind}: {documented} of {len(of_kind)} documented ({100 * documented / len(of_kind):.1f} %)")
    print("\n".join(one.place for one in found if not one.documented))


if __name__ == "__main__":
    main()

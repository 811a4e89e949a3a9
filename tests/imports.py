"""Counts rooms, import arrows and import circles: ``python tests/imports.py`` prints a line for each of the layers.

A room is what a layer's folder shows first: a subfolder, or a file beside them. An arrow stands from one room to
another of the same layer when any file of the first imports the second, lazily or not. A circle is a set of rooms, or
of files, that reach each other by arrows. Imports for type checking alone tie nothing at run time: they do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

LAYERS = ("devices", "calibration", "runtimes", "exporter")
Arrows = Mapping[str, frozenset[str]]


def files_of(root: Path) -> dict[str, Path]:
    """Every module of the four layers by its dotted name below ``vggt_edge``, scripts of the device kits aside."""
    found = {}
    for layer in LAYERS:
        for path in sorted((root / layer).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if "kit" not in parts:
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def file_arrows(root: Path) -> Arrows:
    """Modules of the four layers that each module imports."""
    files = files_of(root)
    return {
        name: frozenset(_modules(ast.parse(path.read_text(encoding="utf-8")), files) - {name})
        for name, path in files.items()
    }


def _modules(node: ast.AST, known: Mapping[str, Path]) -> set[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return set()
    found = {name for name in _imported(node, known) if name in known}
    return found.union(*(_modules(child, known) for child in ast.iter_child_nodes(node)))


def _imported(node: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (_below_package(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        package = _below_package(node.module)
        for name in (f"{package}.{alias.name}" for alias in node.names):
            yield name if name in known else package


def _below_package(name: str) -> str:
    return name.removeprefix("vggt_edge.")


def room_arrows(arrows: Arrows, layer: str) -> Arrows:
    """Import arrows between the rooms of one layer."""
    inside = {name: "".join(name.split(".")[1:2]) for name in arrows if name.split(".")[0] == layer and "." in name}
    rooms: dict[str, set[str]] = {room: set() for room in inside.values()}
    for name, room in inside.items():
        rooms[room] |= {inside[other] for other in arrows[name] if other in inside} - {room}
    return {room: frozenset(others) for room, others in rooms.items()}


def circles(arrows: Arrows) -> list[frozenset[str]]:
    """Sets of more than one name that all reach each other."""
    reached = {name: _reached(arrows, name) for name in arrows}
    together = {frozenset({name, *(other for other in reached[name] if name in reached[other])}) for name in arrows}
    return sorted((ring for ring in together if len(ring) > 1), key=sorted)


def _reached(arrows: Arrows, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = arrows.get(waiting.pop(), frozenset()) - found
        found |= new
        waiting += new
    return found


def main() -> None:
    """Print the counts, and every circle."""
    arrows = file_arrows(Path(__file__).resolve().parents[1])
    for layer in LAYERS:
        rooms = room_arrows(arrows, layer)
        rings = circles(rooms)
        print(f"{layer}: {len(rooms)} rooms, {sum(map(len, rooms.values()))} arrows, {len(rings)} circles")
        for ring in rings:
            print(f"  circle of rooms: {', '.join(sorted(ring))}")
    rings = circles(arrows)
    print(f"files: {len(arrows)}, {sum(map(len, arrows.values()))} arrows, {len(rings)} circles")
    for ring in rings:
        print(f"  circle of files: {', '.join(sorted(ring))}")


if __name__ == "__main__":
    main()

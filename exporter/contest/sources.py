"""A digest of the code that a figure comes from, so that a figure is never taken for that of other code."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = "vggt_edge"


def source_digest(*modules: str) -> str:
    """sha256 over these modules and all of ``vggt_edge`` that they import, directly or through others.

    Comments, docstrings and layout do not count. A module that is imported under a computed name is not seen.
    """
    content = hashlib.sha256()
    for name in sorted(reached(*modules)):
        content.update(f"{name} {_code(name)}\n".encode())
    return content.hexdigest()


def reached(*modules: str) -> set[str]:
    """The modules themselves and what of ``vggt_edge`` they import, anywhere in them, and what that imports."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(name)
    return found


@cache
def _imported(module: str) -> tuple[str, ...]:
    return tuple(name for name in _names(ast.parse(_text(module))) if name.startswith(f"{_PACKAGE}.") and _file(name))


def _names(tree: ast.AST) -> Iterator[str]:
    """``from package import name`` may mean a module of that name as well as something inside the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _code(module: str) -> str:
    return code_of(_text(module))


def code_of(text: str) -> str:
    """What a module's text says, whatever its layout, comments and docstrings are."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not _is_string(one)]
    return ast.dump(tree)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _text(module: str) -> str:
    path = _file(module)
    if path is None:
        raise ModuleNotFoundError(f"there is no source of {module}", name=module)
    return path.read_text()


@cache
def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent is a module, not a package
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None

"""devices <- calibration <- runtimes <- exporter, the standard library at the bottom, SDKs only in their backend."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

LAYERS = ("devices", "calibration", "runtimes", "exporter")
# Top-level module of an SDK -> names of the files or folders of `runtimes` that may import it.
BACKENDS_OF_SDK = {
    "onnxruntime": {"onnxruntime"},
    "onnxruntime_ep_nv_tensorrt_rtx": {"tensorrt"},
    "onnx_graphsurgeon": {"tensorrt"},
    "polygraphy": {"tensorrt"},
    "tensorrt": {"tensorrt"},
    "tensorrt_rtx": {"tensorrt"},
    "tensorrt_rtx_bindings": {"tensorrt"},
    "coremltools": {"coreml"},
    "coreai": {"coreai"},
    "coreai_torch": {"coreai"},
    "executorch": {"executorch", "vulkan"},
}
# Scripts for the device: no part of the package's import graph, and their SDK is there by definition.
KIT = "kit"


@dataclass(frozen=True)
class Import:
    """One import: of what, on which line, and whether merely importing the file runs it."""

    module: str
    line: int
    at_module_level: bool


def imports_of(source: str) -> Iterator[Import]:
    """Every absolute import of a file, ``importlib.import_module("name")`` included; relative ones as ``.``."""
    tree = ast.parse(source)
    yield from _walk(tree, at_module_level=True)


def _walk(node: ast.AST, *, at_module_level: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, at_module_level)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            yield Import(".", node.lineno, at_module_level)
        elif node.module in ("vggt_edge", *(f"vggt_edge.{layer}" for layer in LAYERS)):
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", node.lineno, at_module_level)
        else:
            yield Import(node.module or "", node.lineno, at_module_level)
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
            yield Import(str(first.value), node.lineno, at_module_level)
    inside = at_module_level and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, at_module_level=inside and not is_for_types)


def violations(path: Path, source: str) -> list[str]:
    """What breaks the law in one file; ``path`` is relative to the repository."""
    layer, found = path.parts[0], []
    for entry in imports_of(source):
        top, _, rest = entry.module.partition(".")
        place = f"{path}:{entry.line}"
        if entry.module == ".":
            found.append(f"{place} imports relatively")
        elif top in LAYERS:
            found.append(f"{place} imports {top} by its folder, not as vggt_edge.{top}")
        elif top == "vggt_edge":
            imported = rest.partition(".")[0]
            if imported not in LAYERS or LAYERS.index(imported) > LAYERS.index(layer):
                found.append(f"{place} imports {entry.module}, which lies above {layer}")
        elif layer == "devices" and top not in sys.stdlib_module_names:
            found.append(f"{place} imports {top}; devices uses the standard library only")
        elif top in BACKENDS_OF_SDK:
            found += _sdk_violations(path, entry, top)
    return found


def _sdk_violations(path: Path, entry: Import, sdk: str) -> list[str]:
    backend = path.parts[1].removesuffix(".py") if path.parts[0] == "runtimes" and len(path.parts) > 1 else ""
    if backend not in BACKENDS_OF_SDK[sdk]:
        return [f"{path}:{entry.line} imports {sdk} outside its backend"]
    if entry.at_module_level:
        return [f"{path}:{entry.line} imports {sdk} before anything asks for it"]
    return []


def source_files(root: Path) -> list[Path]:
    return [
        path.relative_to(root)
        for layer in LAYERS
        for path in sorted((root / layer).rglob("*.py"))
        if KIT not in path.relative_to(root).parts
    ]


def test_every_import_obeys_the_law(repository: Path) -> None:
    files = source_files(repository)
    assert {path.parts[0] for path in files} == set(LAYERS)
    assert [problem for path in files for problem in violations(path, (repository / path).read_text())] == []


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("devices/a.py", "import numpy", "standard library only"),
        ("devices/a.py", "from vggt_edge.calibration import plan", "lies above devices"),
        ("calibration/a.py", "from vggt_edge.runtimes.base import Backend", "lies above calibration"),
        ("calibration/a.py", "from vggt_edge import exporter", "lies above calibration"),
        ("runtimes/a.py", "def f():\n    import vggt_edge.exporter.job", "lies above runtimes"),
        ("exporter/a.py", "from calibration.plan import x", "by its folder"),
        ("exporter/a.py", "from . import job", "relatively"),
        ("exporter/a.py", "def f():\n    import onnxruntime", "outside its backend"),
        ("runtimes/base.py", "def f():\n    import importlib\n    importlib.import_module('tensorrt')", "outside its"),
        ("runtimes/onnxruntime.py", "def f():\n    import tensorrt", "outside its backend"),
        ("runtimes/tensorrt/lower.py", "import tensorrt_rtx", "before anything asks"),
    ],
)
def test_a_breach_is_seen(path: str, source: str, problem: str) -> None:
    """The walk itself is tested: a law that cannot fail protects nothing."""
    assert [True for found in violations(Path(path), source) if problem in found]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("exporter/a.py", "from vggt_edge.devices.errors import VggtEdgeError\nimport torch"),
        ("runtimes/onnxruntime.py", "def f():\n    import onnxruntime"),
        ("runtimes/tensorrt/lower.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tensorrt"),
        ("devices/a.py", "import tomllib\nfrom vggt_edge.devices import errors"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(Path(path), source) == []


@pytest.fixture(scope="module")
def imports(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """``tests/imports.py``, which is also a command."""
    return load_script("imports")


def test_nothing_imports_itself_by_way_of_others(imports: ModuleType, repository: Path) -> None:
    arrows = imports.file_arrows(repository)
    assert imports.circles(arrows) == []
    assert [ring for layer in LAYERS for ring in imports.circles(imports.room_arrows(arrows, layer))] == []


def test_a_circle_is_seen(imports: ModuleType, tmp_path: Path) -> None:
    """Between files and between rooms; lazily too, and not where only types are imported."""
    sources = {
        "a/one.py": "def f():\n    from vggt_edge.devices.b.two import g",
        "a/three.py": "",
        "b/two.py": "from vggt_edge.devices.a import three",
        "c.py": "from vggt_edge.devices.d import x",
        "d.py": "if TYPE_CHECKING:\n    from vggt_edge.devices.c import y",
    }
    for name, source in sources.items():
        (tmp_path / "devices" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "devices" / name).write_text(source)
    arrows = imports.file_arrows(tmp_path)
    assert imports.circles(arrows) == []
    assert imports.circles(imports.room_arrows(arrows, "devices")) == [{"a", "b"}]
    (tmp_path / "devices" / "a" / "three.py").write_text("from vggt_edge.devices.b.two import g")
    assert imports.circles(imports.file_arrows(tmp_path)) == [{"devices.a.three", "devices.b.two"}]


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["targets"]])
def test_light_commands_stay_light(arguments: list[str], tmp_path: Path) -> None:
    """Help and lists must answer at once, so nothing on their way may import a heavy library."""
    heavy = ("torch", "numpy", "onnx", "onnxruntime", "scipy", "plotly")
    program = (
        "import sys\n"
        "from vggt_edge.exporter.cli import main\n"
        f"code = main({arguments!r})\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
        "sys.exit(code)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 0, finished.stderr

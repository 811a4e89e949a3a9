"""The Kotlin of the Android kit: what a parser sees of it, and, where a compiler is installed, what it computes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tree_sitter_kotlin
from tree_sitter import Language, Node, Parser

from vggt_edge.runtimes.executorch import kit_files

PROJECT = kit_files.KIT / kit_files.PROJECT
SOURCES = PROJECT / "vggtedge" / "src"
MAIN, TEST = SOURCES / "main/kotlin/io/vggtedge", SOURCES / "test/kotlin/io/vggtedge"
KOTLIN_FILES = sorted([*PROJECT.rglob("*.kt"), *PROJECT.rglob("*.kts")])
MAIN_FILES = sorted(MAIN.glob("*.kt"))
# The only files that need Android; all others are compiled and run on any JVM.
ANDROID_FILES = {"DeviceCheck.kt", "Preprocessing.kt", "VGGTModel.kt"}
DECLARATIONS = {
    "class_declaration", "companion_object", "function_declaration", "object_declaration", "property_declaration",
}  # fmt: skip


# --- as far as a parser sees it ---------------------------------------------------------------------------------------


def parsed(source: bytes) -> Node:
    return Parser(Language(tree_sitter_kotlin.language())).parse(source).root_node


def walk(node: Node) -> Iterator[Node]:
    """In the order of the text."""
    left = [node]
    while left:
        node = left.pop()
        yield node
        left.extend(reversed(node.children))


@cache
def all_nodes(file: Path) -> tuple[Node, ...]:
    return tuple(walk(parsed(file.read_bytes())))


def nodes(file: Path, *types: str) -> list[Node]:
    return [node for node in all_nodes(file) if node.is_named and node.type in types]


def text(node: Node) -> str:
    return (node.text or b"").decode()


def faults(source: bytes) -> list[str]:
    return [
        f"line {node.start_point[0] + 1}: {node.type}"
        for node in walk(parsed(source))
        if node.type == "ERROR" or node.is_missing
    ]


def name_of(node: Node) -> str:
    return next((text(child) for child in walk(node) if child.type == "identifier"), node.type)


def is_public(node: Node) -> bool:
    return any(child.type == "modifiers" and "public" in text(child).split() for child in node.children)


def literals(node: Node) -> set[str]:
    """The texts in quotes below a node that could be keys."""
    found = {text(child).strip('"') for child in walk(node) if child.type == "string_literal"}
    return {literal for literal in found if re.fullmatch(r"[a-z0-9_]+", literal)}


def function(name: str, file: Path) -> Node:
    (found,) = (node for node in nodes(file, "function_declaration") if own_name(node) == name)
    return found


def own_name(node: Node) -> str:
    """Of ``fun A.b()`` and ``val A.b`` it is b."""
    head = text(node).split("(")[0].split(":")[0].split("=")[0].split(" get")[0]
    return head.split()[-1].split(".")[-1]


def test_the_parser_finds_faults() -> None:
    """Guards the tests below: a parser that forgives everything would pass them all."""
    assert faults(b"class A { val x: Int = 1 }") == []
    for broken in (b"class A { val x: Int = 1", b"fun f( { }", b"val x = = 1", b"class { } } fun"):
        assert faults(broken) != []


@pytest.mark.parametrize("file", KOTLIN_FILES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_kotlin_parses(file: Path) -> None:
    """No syntax error anywhere, lines of 120 characters at most, files of a size that can be read."""
    source = file.read_bytes()
    assert faults(source) == []
    lines = source.decode().splitlines()
    assert [index + 1 for index, line in enumerate(lines) if len(line) > 120] == []
    assert len(lines) <= 300


def test_all_parts_are_there() -> None:
    """So that the test above has something to look at."""
    names = {file.name for file in KOTLIN_FILES}
    assert names >= {"settings.gradle.kts", "build.gradle.kts", "Kit.kt", "ModelOnDeviceTest.kt", *ANDROID_FILES}
    ET.parse(SOURCES / "main/AndroidManifest.xml")


def test_readme_kotlin_parses() -> None:
    """The example that people copy, and the names that it uses."""
    (example,) = re.findall(r"```kotlin\n(.*?)```", (PROJECT / "README.md").read_text(), flags=re.DOTALL)
    assert faults(example.encode()) == []
    declared = {name_of(node) for file in MAIN_FILES for node in nodes(file, *DECLARATIONS)}
    used = set(re.findall(r"^import io\.vggtedge\.(\w+)$", example, flags=re.MULTILINE))
    assert used == {"KitException", "QuarterTurn", "RgbImage", "VGGTModel"}
    assert used | {"load", "prepare", "predict", "pointCloud", "ofDegrees", "frameCount"} <= declared


@pytest.mark.parametrize("file", MAIN_FILES, ids=lambda file: file.name)
def test_imports(file: Path) -> None:
    """Android and ExecuTorch in three files only."""
    imports = {text(node).removeprefix("import ") for node in nodes(file, "import")}
    plain = ("java.", "kotlin.", "org.json.")
    android = (*plain, "android.", "kotlinx.coroutines.", "org.pytorch.executorch.")
    allowed = android if file.name in ANDROID_FILES else plain
    assert [name for name in imports if not name.startswith(allowed)] == []
    needs_android = any(name.startswith(("android.", "org.pytorch.")) for name in imports)
    assert needs_android == (file.name in ANDROID_FILES)


@pytest.mark.parametrize("file", MAIN_FILES, ids=lambda file: file.name)
def test_nothing_is_forced(file: Path) -> None:
    """No ``!!``, no late initialisation, no loose end; one warning is silenced, with its reason."""
    source = file.read_text()
    assert [text(node) for node in nodes(file, "unary_expression") if text(node).endswith("!!")] == []
    assert not re.search(r"\blateinit\b|\bTODO\b|\bFIXME\b|printStackTrace|println", source)
    assert source.count("@Suppress") == (file.name == "VGGTModel.kt")


def test_forcing_is_found() -> None:
    """Guards the test above."""
    found = [text(node) for node in walk(parsed(b"val a = b!!.c")) if node.type == "unary_expression"]
    assert found == ["b!!"]


@pytest.mark.parametrize("file", MAIN_FILES, ids=lambda file: file.name)
def test_public_names_are_documented(file: Path) -> None:
    """KDoc right above each public declaration and each case of an enum; ``@property`` for each of a constructor."""
    undocumented = [
        f"{name_of(node)} (line {node.start_point[0] + 1})"
        for node in nodes(file, *DECLARATIONS, "enum_entry")
        if (is_public(node) or node.type == "enum_entry") and not has_kdoc(node)
    ]
    assert undocumented == []
    for owner in nodes(file, "class_declaration"):
        described = re.findall(r"@property (\w+)", kdoc(owner))
        assert described == [name_of(node) for node in parameters(owner) if is_public(node)], name_of(owner)


def parameters(owner: Node) -> list[Node]:
    constructors = [child for child in owner.children if child.type == "primary_constructor"]
    return [node for each in constructors for node in walk(each) if node.type == "class_parameter"]


def kdoc(node: Node) -> str:
    above = node.prev_sibling
    while above is not None and above.type == ",":
        above = above.prev_sibling
    return text(above) if above is not None and above.type == "block_comment" else ""


def has_kdoc(node: Node) -> bool:
    return kdoc(node).startswith("/**")


def test_public_api() -> None:
    """What the README and this repository promise to an app."""
    promised = {
        "VGGTModel.kt": {"load", "prepare", "predict", "warmUp", "close", "frameSize", "frameCount"},
        "Prediction.kt": {"cameras", "depth", "depthConfidence", "points", "pointsConfidence", "pointCloud"},
        "DeviceCheck.kt": {"run"},
        "PoseEncoding.kt": {"cameras", "withQuaternionSigns"},
        "PointCloud.kt": {"unproject", "confidentPixels"},
        "SafetensorsFile.kt": {"names", "tensor", "open"},
        "Resampling.kt": {"resizedToCover"},
        "Kit.kt": {"read", "parse", "checkModel"},
    }
    for file, names in promised.items():
        declared = nodes(MAIN / file, "function_declaration", "property_declaration")
        assert names <= {own_name(node) for node in declared}, file


# --- Kotlin and Python say the same -----------------------------------------------------------------------------------


def test_kotlin_reads_the_keys_of_kit_json(kit_folder: Callable[..., Path]) -> None:
    """Each reader in Kit.kt asks for keys that are written, and for all but those that only scripts use."""
    kit, file = json.loads((kit_folder() / "kit.json").read_text()), MAIN / "Kit.kt"
    parts = {
        "kit": (set(kit) - {"schema_version"}), "model": {*kit["model"], "planned_bytes"}, "input": set(kit["input"]),
        "output": set(kit["outputs"][0]), "block": set(kit["blocks"][0]), "tolerances": set(kit["tolerances"]),
        "golden": set(kit["golden"]) - {"input_file", "input_sha256"},
    }  # fmt: skip
    for name, keys in parts.items():
        assert literals(function(name, file)) - {"contiguous", "float32"} == keys, name
    assert "schema_version" in literals(function("parse", file))
    assert kit["model"]["memory"]["planned_bytes"] == 4096


def test_kotlin_asks_for_what_python_writes(kit_folder: Callable[..., Path]) -> None:
    """Order, layout and type of the input, version and name of the file."""
    kit, source = json.loads((kit_folder() / "kit.json").read_text()), (MAIN / "Kit.kt").read_text()
    for key in ("order", "layout", "dtype"):
        assert f'"{key}" to "{kit["input"][key]}"' in source
    assert f"SCHEMA_VERSION: Int = {kit_files.KIT_SCHEMA_VERSION}\n" in source
    assert f'FILE_NAME: String = "{kit_files.KIT_FILE}"\n' in source


def test_kotlin_knows_the_same_outputs() -> None:
    """Their names, as ``expectedShape`` tells them apart."""
    names = literals(function("expectedShape", MAIN / "KitChecks.kt"))
    assert names == {"pose_enc", "depth", "depth_conf", "points", "points_conf"}


def test_results_have_the_keys_of_the_other_kits() -> None:
    """So that one reader can read results of all devices."""
    keys = {
        "CheckResult.kt": {"schema_version", "target", "plan_digest", "device", "accuracy", "latency", "load_s",
                           "peak_memory_bytes", "output", "status", "finite", "sqnr_db_min", "against_simulation",
                           "against_fp32"},
        "Drift.kt": {"cosine", "sqnr_db", "max_abs", "p99_abs", "max_rel", "p99_rel"},
        "Latency.kt": {"median_ms", "p90_ms", "p99_ms", "runs"},
    }  # fmt: skip
    for file, expected in keys.items():
        assert expected <= literals(parsed((MAIN / file).read_bytes())), file


def test_the_aar_is_of_the_same_release_as_the_exporter() -> None:
    """Programs are written by the installed ExecuTorch and run on the AAR: one minor version, whatever the patch."""
    (aar,) = re.findall(r"^executorchVersion=(.+)$", (PROJECT / "gradle.properties").read_text(), flags=re.MULTILINE)
    try:
        installed = importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ExecuTorch is not installed")
    assert aar.split(".")[:2] == installed.split(".")[:2]
    assert "org.pytorch:executorch-android:$executorchVersion" in (PROJECT / "vggtedge/build.gradle.kts").read_text()


def test_vectors_are_what_python_gives_today(kit_vectors: ModuleType) -> None:
    """Texts, bytes and choices exactly, floats to 1e-9: the last bits of a sine differ between processors."""
    alike(json.loads(kit_vectors.VECTORS.read_text()), kit_vectors.vectors(), "vectors")


def alike(first: Any, second: Any, where: str) -> None:
    if isinstance(second, dict):
        assert first.keys() == second.keys(), where
        for key in second:
            alike(first[key], second[key], f"{where}.{key}")
    elif isinstance(second, (list, tuple)):
        assert len(first) == len(second), where
        for index, (ours, theirs) in enumerate(zip(first, second, strict=True)):
            alike(ours, theirs, f"{where}[{index}]")
    elif isinstance(second, float):
        assert math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12), f"{where}: {first} and {second}"
    else:
        assert first == second, where


def test_every_vector_is_replayed(kit_vectors: ModuleType) -> None:
    """The JVM tests name each group."""
    source = "".join(file.read_text() for file in TEST.glob("*.kt"))
    for name in kit_vectors.SHARED:
        assert f'Vectors.cases("{name}")' in source
    assert 'bytes("kit")' in source
    assert 'bytes("golden")' in source


# --- where a compiler is installed ------------------------------------------------------------------------------------


def jars() -> dict[str, Path]:
    """Compiler, libraries and test runner; skips the test where one is missing."""
    spec = importlib.util.find_spec("run_kotlin_kernel")
    if shutil.which("java") is None or spec is None or spec.submodule_search_locations is None:
        pytest.skip("no Java, or no Kotlin compiler: pip install --no-deps kotlin-jupyter-kernel")
    compiler = Path(next(iter(spec.submodule_search_locations))) / "jars"
    debian = {name: Path("/usr/share/java") / f"{name}.jar" for name in ("json-android", "junit4", "hamcrest")}
    missing = [name for name, path in debian.items() if not path.is_file()]
    if missing:
        pytest.skip(f"no {', '.join(missing)}.jar: apt-get install junit4 libandroid-json-org-java")
    (library,) = compiler.glob("kotlin-stdlib-*.jar")
    return {"compiler": compiler / "*", "stdlib": library, **debian}


def kotlinc(found: dict[str, Path], sources: list[Path], out: Path, classpath: list[Path], *options: str) -> None:
    command = [
        "java", "-cp", str(found["compiler"]), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib",
        "-no-reflect", *options, "-classpath", ":".join(map(str, classpath)), "-d", str(out), *map(str, sources),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_plain_part_compiles_and_agrees_with_python(tmp_path: Path) -> None:
    """Without a warning under explicit API mode; its JUnit tests replay the vectors and pass."""
    found = jars()
    core, tests = tmp_path / "core", tmp_path / "tests"
    libraries = [found["stdlib"], found["json-android"]]
    plain = [file for file in MAIN_FILES if file.name not in ANDROID_FILES]
    kotlinc(found, plain, core, libraries, "-Xexplicit-api=strict", "-Werror")
    sources = sorted(TEST.glob("*.kt"))
    kotlinc(found, sources, tests, [core, *libraries, found["junit4"]], f"-Xfriend-paths={core}")
    classes = [f"io.vggtedge.{file.stem}" for file in sources if file.stem.endswith("Test")]
    runtime = [core, tests, SOURCES / "test/resources", *libraries, found["junit4"], found["hamcrest"]]
    command = ["java", "-cp", ":".join(map(str, runtime)), "org.junit.runner.JUnitCore", *classes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^OK \((\d+) tests\)", done.stdout, flags=re.MULTILINE)
    asked = sum(file.read_text().count("@Test") for file in sources)
    assert f"OK ({asked} tests)" in done.stdout

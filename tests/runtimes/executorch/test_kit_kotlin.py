"""The Kotlin of the Android kit, as far as a parser sees it; `make test-kits` compiles and runs it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import shutil
import tomllib
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

ROOT = Path(__file__).parents[3]
PROJECT = kit_files.KIT / kit_files.PROJECT
SOURCES = PROJECT / "vggtedge" / "src"
MAIN, TEST = SOURCES / "main/kotlin/io/vggtedge", SOURCES / "test/kotlin/io/vggtedge"
KOTLIN_FILES = sorted([*PROJECT.rglob("*.kt"), *PROJECT.rglob("*.kts")])
MAIN_FILES = sorted(MAIN.glob("*.kt"))
# The only files that need Android, ExecuTorch or coroutines; all others are plain Kotlin.
ANDROID_FILES = {
    "DeviceCheck.kt", "DeviceSupport.kt", "KitInstaller.kt", "ModelLoader.kt", "ModelProgram.kt", "ModelWorker.kt",
    "Preprocessing.kt", "RuntimeErrors.kt", "VGGTModel.kt",
}  # fmt: skip
# Native code throws what Kotlin would have to declare; a replaced task gives null.
SILENCED = {"ModelWorker.kt", "RuntimeErrors.kt"}
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
    """The identifier of a declaration; one inside of an annotation is not its own."""
    nodes_in_order = (*node.children, *walk(node))
    return next((text(child) for child in nodes_in_order if child.type == "identifier"), node.type)


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


def test_readme_examples() -> None:
    """What people copy parses, and uses names that there are."""
    readme = (PROJECT / "README.md").read_text()
    examples = re.findall(r"```kotlin\n(.*?)```", readme, flags=re.DOTALL)
    assert [faults(example.encode()) for example in examples] == [[], [], [], []]
    all_declared = [node for file in MAIN_FILES for node in nodes(file, *DECLARATIONS)]
    declared = {name(node) for node in all_declared for name in (name_of, own_name)}
    used = set(re.findall(r"^import io\.vggtedge\.(\w+);?$", readme, flags=re.MULTILINE))
    assert used == {
        "Kit", "KitException", "KitInstaller", "KitSource", "Prediction", "QuarterTurn", "RgbImage", "VGGTModel",
    }  # fmt: skip
    assert used <= declared
    assert {"load", "prepare", "predictLatest", "pointCloud", "ofDegrees", "frameCount", "install"} <= declared


@pytest.mark.parametrize("file", MAIN_FILES, ids=lambda file: file.name)
def test_imports(file: Path) -> None:
    """Android, ExecuTorch and coroutines in a few files only; no other library anywhere."""
    imports = {text(node).removeprefix("import ") for node in nodes(file, "import")}
    plain = ("java.", "kotlin.", "androidx.annotation.")
    others = ("android.", "kotlinx.coroutines.", "org.pytorch.executorch.")
    android = (*plain, *others)
    allowed = android if file.name in ANDROID_FILES else plain
    assert [name for name in imports if not name.startswith(allowed)] == []
    needs_android = any(name.startswith(others) for name in imports)
    assert needs_android == (file.name in ANDROID_FILES)


@pytest.mark.parametrize("file", MAIN_FILES, ids=lambda file: file.name)
def test_nothing_is_forced(file: Path) -> None:
    """No ``!!``, no late initialisation, no loose end; two warnings are silenced, with their reasons."""
    source = file.read_text()
    assert [text(node) for node in nodes(file, "unary_expression") if text(node).endswith("!!")] == []
    assert not re.search(r"\blateinit\b|\bTODO\b|\bFIXME\b|printStackTrace|println", source)
    assert source.count("@Suppress") == (file.name in SILENCED)


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
        "VGGTModel.kt": {"load", "loadAsync", "prepare", "predict", "predictLatest", "predictAsync", "warmUp", "isBusy",
                         "close", "closeAndJoin", "frameSize", "frameCount"},
        "Prediction.kt": {"cameras", "depth", "depthConfidence", "points", "pointsConfidence", "pointCloud"},
        "DeviceCheck.kt": {"run", "runAsync"},
        "PoseEncoding.kt": {"cameras", "withQuaternionSigns"},
        "PointCloud.kt": {"unproject", "confidentPixels"},
        "SafetensorsFile.kt": {"names", "tensor", "open"},
        "Resampling.kt": {"resizedToCover"},
        "Kit.kt": {"read", "parse", "checkModel"},
        "KitInstaller.kt": {"assets", "folder", "install", "installAsync"},
    }  # fmt: skip
    for file, names in promised.items():
        declared = nodes(MAIN / file, "function_declaration", "property_declaration")
        assert names <= {own_name(node) for node in declared}, file


# --- Kotlin and Python say the same -----------------------------------------------------------------------------------


def test_kotlin_reads_the_keys_of_kit_json(kit_folder: Callable[..., Path]) -> None:
    """Each reader in Kit.kt asks for keys that are written, and for all but those that only scripts use."""
    kit, file = json.loads((kit_folder() / "kit.json").read_text()), MAIN / "Kit.kt"
    parts = {
        "kit": (set(kit) - {"schema_version"}), "model": set(kit["model"]), "input": set(kit["input"]),
        "output": set(kit["outputs"][0]), "block": set(kit["blocks"][0]), "tolerances": set(kit["tolerances"]),
        "golden": set(kit["golden"]) - {"input_file", "input_sha256"}, "memory": set(kit["model"]["memory"]),
    }  # fmt: skip
    for name, keys in parts.items():
        assert literals(function(name, file)) - {"contiguous", "float32"} == keys, name
    assert "schema_version" in literals(parsed(file.read_bytes()))


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
    assert names == {"pose_enc", "depth", "depth_conf", "points", "points_conf", "sky", "rays", "ray_conf"}


def test_results_have_the_keys_of_the_other_kits() -> None:
    """So that one reader can read results of all devices."""
    keys = {
        "CheckResult.kt": {"schema_version", "status", "target", "plan_digest", "runtime", "device", "thermal",
                           "low_power_mode", "threads", "timings_ms", "latency", "load_s", "memory_bytes", "outputs",
                           "accuracy", "runs_unlike_first", "first_prediction", "measured", "before", "after"},
        "OutputAccuracy.kt": {"output", "status", "finite", "sqnr_db_min", "against_simulation", "against_fp32",
                              "pose", "pose_degrees_max"},
        "PoseErrors.kt": {"rotation_degrees", "translation_degrees"},
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


def test_gradle_files_say_the_same() -> None:
    """The version is that of this project, and the wrapper names the Gradle that the README tells of."""
    build = (PROJECT / "vggtedge/build.gradle.kts").read_text()
    (version,) = re.findall(r'^version = "(.+)"$', build, flags=re.MULTILINE)
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    wrapper = (PROJECT / "gradle/wrapper/gradle-wrapper.properties").read_text()
    (gradle,) = re.findall(r"gradle-([\d.]+)-bin\.zip", wrapper)
    assert f"gradle wrapper --gradle-version {gradle}`" in (PROJECT / "README.md").read_text()
    assert f"gradle wrapper --gradle-version {gradle} " in kit_files.compile_check().detail or shutil.which("gradle")


def test_every_public_class_is_listed() -> None:
    """`make test-kits` compares the list with the compiled kit, member by member; this is the part without Java."""
    listed = (PROJECT / "vggtedge/api/vggtedge.api").read_text()
    names = set(re.findall(r"(?:class|interface) io/vggtedge/(\w+)", listed))
    declared = {
        own for file in MAIN_FILES for node in nodes(file, "class_declaration", "object_declaration")
        if is_public(node) and (own := name_of(node))
    }  # fmt: skip
    assert {name for name in names if not name.endswith("Kt")} <= declared
    assert {"KitInstaller", "KitSource", "VGGTModel", "LoadProgress"} <= names


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
    """The kit's own tests name each group; photos need Android, so that the tests in ``tests/kits`` have them."""
    source = "".join(file.read_text() for file in TEST.glob("*.kt"))
    for name in kit_vectors.SHARED:
        assert f'Vectors.cases("{name}")' in source
    assert 'bytes("kit")' in source
    assert 'bytes("golden")' in source

"""The iOS kit: what is written, and what can be known of its Swift without a Mac."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL
import pytest
import tree_sitter_swift
from safetensors.numpy import load_file
from tree_sitter import Language, Node, Parser

from vggt_edge.calibration.scenes.framing import MODES, PIXEL_CENTERS
from vggt_edge.devices.errors import InputError, UsageError
from vggt_edge.runtimes.common.kit import script_module
from vggt_edge.runtimes.coreml import kit_files
from vggt_edge.runtimes.coreml.kit_files import KIT, KitOutput, compile_check, kit_sources, write_golden, write_kit

PACKAGE = KIT / "VGGTEdge"
CORE, APPLE = PACKAGE / "Sources/VGGTEdgeCore", PACKAGE / "Sources/VGGTEdge"
SWIFT_FILES = sorted(PACKAGE.rglob("*.swift"))
# What holds a lock, or hands on what Core ML gave, explains itself to people instead of the compiler.
UNCHECKED = {"ModelOutput.swift", "SessionControl.swift"}
APPLE_MODULES = {
    "Compression",
    "CoreGraphics",
    "ImageIO",
    "Accelerate",
    "CoreML",
    "CoreVideo",
    "CryptoKit",
    "Dispatch",
    "Foundation",
    "VGGTEdgeCore",
}
DECLARATIONS = {
    "class_declaration",
    "function_declaration",
    "init_declaration",
    "property_declaration",
    "protocol_declaration",
    "subscript_declaration",
    "typealias_declaration",
}


@cache
def _vectors() -> ModuleType:
    return script_module(Path(__file__).with_name("kit_vectors.py"), "kit_vectors")


# --- Swift, as far as a parser sees it --------------------------------------------------------------------------------


def _parse(source: bytes) -> Node:
    return Parser(Language(tree_sitter_swift.language())).parse(source).root_node


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _faults(source: bytes) -> list[str]:
    return [
        f"line {node.start_point[0] + 1}: {node.type}"
        for node in _walk(_parse(source))
        if node.type == "ERROR" or node.is_missing
    ]


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _name(node: Node) -> str:
    found = next((child for child in node.children if child.type in ("type_identifier", "simple_identifier")), None)
    found = found or next((child for child in _walk(node) if child.type == "simple_identifier"), None)
    return _text(found) if found is not None else node.type


def _imports(file: Path) -> set[str]:
    nodes = [node for node in _walk(_parse(file.read_bytes())) if node.type == "import_declaration"]
    return {_text(next(child for child in node.children if child.type == "identifier")) for node in nodes}


def _modifiers(node: Node) -> list[str]:
    return [_text(child) for entry in node.children if entry.type == "modifiers" for child in entry.children]


def _struct(name: str, file: Path) -> Node:
    nodes = _walk(_parse(file.read_bytes()))
    (found,) = (node for node in nodes if node.type == "class_declaration" and _name(node) == name and _is_type(node))
    return found


def _is_type(node: Node) -> bool:
    return any(child.type in ("struct", "enum", "class", "actor") for child in node.children)


def _coding_keys(struct: Node) -> dict[str, str]:
    """JSON key by property, from the ``CodingKeys`` right inside a struct; else the names of its properties."""
    body = next(child for child in struct.children if child.type == "class_body")
    for child in body.children:
        if child.type == "class_declaration" and _name(child) == "CodingKeys":
            return dict(_key(entry) for entry in _walk(child) if entry.type == "enum_entry")
    return {_name(child): _name(child) for child in body.children if _is_stored(child)}


def _key(entry: Node) -> tuple[str, str]:
    literal = next((_text(node) for node in _walk(entry) if node.type == "line_str_text"), None)
    return _name(entry), literal or _name(entry)


def _is_stored(node: Node) -> bool:
    static = "static" in _modifiers(node)
    computed = any(child.type == "computed_property" for child in node.children)
    return node.type == "property_declaration" and not static and not computed


def _stored(struct: Node) -> set[str]:
    body = next(child for child in struct.children if child.type == "class_body")
    patterns = [
        next(child for child in node.children if child.type == "pattern") for node in body.children if _is_stored(node)
    ]
    return {_text(pattern) for pattern in patterns}


def test_the_parser_finds_faults() -> None:
    """Guards the tests below: a parser that forgives everything would pass them all."""
    assert _faults(b"struct A { let x: Int }") == []
    for broken in (b"struct A { let x: Int", b"func f( { }", b"let x = = 1", b"if x { } } else {"):
        assert _faults(broken) != []


@pytest.mark.parametrize("file", SWIFT_FILES, ids=lambda file: file.name)
def test_swift_parses(file: Path) -> None:
    """No syntax error anywhere, lines of 120 characters at most, files of a size that can be read."""
    source = file.read_bytes()
    assert _faults(source) == []
    lines = source.decode().splitlines()
    assert [index + 1 for index, line in enumerate(lines) if len(line) > 120] == []
    assert len(lines) <= 400


def test_readme_swift_parses() -> None:
    """The examples that people copy."""
    examples = re.findall(r"```swift\n(.*?)```", (PACKAGE / "README.md").read_text(), flags=re.DOTALL)
    assert len(examples) == 3
    assert [_faults(example.encode()) for example in examples] == [[], [], []]


@pytest.mark.parametrize("file", sorted(CORE.glob("*.swift")), ids=lambda file: file.name)
def test_the_core_needs_only_foundation(file: Path) -> None:
    """So that it builds and is tested on Linux."""
    assert _imports(file) <= {"Foundation"}


@pytest.mark.parametrize("file", sorted(APPLE.glob("*.swift")), ids=lambda file: file.name)
def test_apple_code_is_fenced(file: Path) -> None:
    """Each file is empty where its framework does not exist; no UIKit, no third party."""
    lines = file.read_text().strip().splitlines()
    assert re.fullmatch(r"#if canImport\((CoreML|CoreVideo|ImageIO)\)", lines[0])
    assert lines[-1] == "#endif"
    assert _imports(file) <= APPLE_MODULES


@pytest.mark.parametrize("file", SWIFT_FILES, ids=lambda file: file.name)
def test_nothing_is_forced(file: Path) -> None:
    """No forced unwrapping, try or cast, and no way around the compiler's checks of threads but the one explained."""
    root = _parse(file.read_bytes())
    assert [_text(node) for node in _walk(root) if _is_forced(node)] == []
    source = file.read_text()
    assert "fatalError" not in source
    assert "nonisolated(unsafe)" not in source
    assert ("@unchecked Sendable" in source) == (file.name in UNCHECKED)


def _is_forced(node: Node) -> bool:
    """``x!``, ``try!`` or ``as!``; ``!x`` is another thing."""
    if node.type == "bang":
        return node.parent is not None and node.parent.type == "postfix_expression"
    return node.type == "as!" or (node.type == "try_operator" and "!" in _text(node))


def test_forcing_is_found() -> None:
    """Guards the test above."""
    found = [_text(node) for node in _walk(_parse(b"let a = try! f(x!) as! Int; let b = !c")) if _is_forced(node)]
    assert found == ["try!", "!", "as!"]


@pytest.mark.parametrize("file", [*sorted(CORE.glob("*.swift")), *sorted(APPLE.glob("*.swift"))], ids=lambda f: f.name)
def test_public_names_are_documented(file: Path) -> None:
    """Each public declaration, and each case of a public enum, has a comment right above it."""
    undocumented = []
    for node in _walk(_parse(file.read_bytes())):
        public = node.type in DECLARATIONS and "public" in _modifiers(node)
        if (public or _is_public_case(node)) and not _has_doc(node):
            undocumented.append(f"{_name(node)} (line {node.start_point[0] + 1})")
    assert undocumented == []


def _is_public_case(node: Node) -> bool:
    body = node.parent
    return (
        node.type == "enum_entry"
        and body is not None
        and body.parent is not None
        and ("public" in _modifiers(body.parent))
    )


def _has_doc(node: Node) -> bool:
    """Neighbours that share a comment, like two sides of a size, are one per line: each needs its own."""
    above = node.prev_sibling
    return above is not None and above.type == "comment" and _text(above).startswith("///")


def test_public_api() -> None:
    """What the README and this repository promise to an app."""
    promised = {
        "VGGTModel": {
            "load",
            "prewarm",
            "prepare",
            "predict",
            "warmUp",
            "unload",
            "unloadAndWait",
            "isBusy",
            "kit",
            "frameSize",
            "frameCount",
        },
        "Prediction": {"cameras", "depth", "depthConfidence", "points", "pointsConfidence", "pointCloud"},
        "ModelOutput": {"name", "shape", "values", "withValues", "withMultiArray"},
        "CompiledModelCache": {"compiledModel", "removeModels"},
        "DeviceCheck": {"run", "measure"},
        "PoseEncoding": {"cameras", "withQuaternionSigns"},
        "PointCloud": {"unproject", "confidentPixels"},
        "SafetensorsFile": {"names", "tensor"},
        "Drift": {"cosine", "sqnrDB", "maxAbs", "p99Abs", "maxRel", "p99Rel"},
        "KitError": {"kind", "message", "remedy", "underlying"},
        "PoseErrors": {"rotationDegrees", "translationDegrees"},
        "CheckResult": {"status", "passed", "failures", "json", "latency"},
    }
    found: dict[str, set[str]] = {}
    for file in (*CORE.glob("*.swift"), *APPLE.glob("*.swift")):
        for owner in (node for node in _walk(_parse(file.read_bytes())) if node.type == "class_declaration"):
            body = next(child for child in owner.children if child.type.endswith("class_body"))
            public = {_name(node) for node in body.children if "public" in _modifiers(node)}
            found.setdefault(_name(owner), set()).update(public)
    assert {name: members - found.get(name, set()) for name, members in promised.items()} == {
        name: set() for name in promised
    }


def test_manifest() -> None:
    """Package.swift: Swift 6, the systems of the README, folders that exist, no dependencies from outside."""
    text = (PACKAGE / "Package.swift").read_text()
    assert text.startswith("// swift-tools-version: 6.0\n")
    for system in (".iOS(.v17)", ".macOS(.v14)", ".visionOS(.v1)"):
        assert system in text
    assert "url:" not in text
    root = _parse(text.encode())
    targets = re.findall(r'\.(target|testTarget)\(\s*name: "(\w+)"', text)
    assert len(targets) == 4
    for kind, name in targets:
        folder = PACKAGE / ("Sources" if kind == "target" else "Tests") / name
        assert list(folder.glob("*.swift")), folder
    assert sum(_text(node) == "library" for node in _walk(root) if node.type == "simple_identifier") == 1
    assert (PACKAGE / "Tests/VGGTEdgeCoreTests/Resources/vectors.json").is_file()


# --- Swift and Python say the same ------------------------------------------------------------------------------------


def test_vectors_are_what_python_gives_today() -> None:
    """Texts, bytes and choices exactly, floats to 1e-9: the last bits of a sine differ between processors."""
    committed, today = json.loads(_vectors().VECTORS.read_text()), _vectors().vectors()
    if int(PIL.__version__.split(".")[0]) < 13:  # its resize takes the two passes in another order
        committed.pop("resizes"), today.pop("resizes")
    _assert_alike(committed, today, "vectors")


def _assert_alike(first: Any, second: Any, where: str) -> None:
    if isinstance(second, dict):
        assert first.keys() == second.keys(), where
        for key in second:
            _assert_alike(first[key], second[key], f"{where}.{key}")
    elif isinstance(second, (list, tuple)):
        assert len(first) == len(second), where
        for index, (ours, theirs) in enumerate(zip(first, second, strict=True)):
            _assert_alike(ours, theirs, f"{where}[{index}]")
    elif isinstance(second, float):
        assert math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12), f"{where}: {first} and {second}"
    else:
        assert first == second, where


def test_swift_decodes_the_keys_of_the_vectors() -> None:
    """Every key of ``vectors.json`` has its property in ``Vectors.swift``, and the other way round."""
    file, vectors = PACKAGE / "Tests/VGGTEdgeCoreTests/Vectors.swift", _vectors().vectors()
    assert set(_coding_keys(_struct("Vectors", file)).values()) == set(vectors)
    pairs = {
        "poses": "Pose", "quaternion_signs": "QuaternionSigns", "sizes": "Size", "intrinsics": "ResizedIntrinsics",
        "resizes": "Resize", "turns": "Turn", "colors": "Color", "drifts": "DriftCase", "latencies": "LatencyCase",
        "gamuts": "Gamut", "alphas": "Alpha", "json": "JSONCase", "pose_errors": "PoseErrorCase",
        "unprojections": "Unprojection", "framings": "FramingCase", "confidences": "Confidence",
        "safetensors": "SafetensorsCase",
    }  # fmt: skip
    assert set(pairs) | {"kit", "golden"} == set(vectors)
    for key, name in pairs.items():
        swift = set(_coding_keys(_struct(name, file)).values())
        assert set().union(*map(set, vectors[key])) == swift, key
    assert set(_coding_keys(_struct("Drift", CORE / "Drift.swift")).values()) == set(vectors["drifts"][0]["drift"])
    latency = set(_coding_keys(_struct("Latency", CORE / "Latency.swift")).values())
    assert latency == set(vectors["latencies"][0]["latency"])


def test_swift_decodes_the_keys_of_kit_json(tmp_path: Path) -> None:
    """``CodingKeys`` of each struct in Kit.swift name exactly what is written, and cover its stored properties."""
    _vectors().write_package(tmp_path)
    write_kit(tmp_path, _vectors().description())
    write_golden(tmp_path, *_vectors().golden_arrays())
    kit, file = json.loads((tmp_path / "kit.json").read_text()), CORE / "Kit.swift"
    parts = {
        "Kit": kit, "Model": kit["model"], "MinimumOS": kit["model"]["minimum_os"], "Input": kit["input"],
        "Output": kit["outputs"][0], "Block": kit["blocks"][0], "Tolerances": kit["tolerances"],
        "Golden": kit["golden"],
    }  # fmt: skip
    files = {"Preprocess": CORE / "Framing.swift"}
    for name, part in (parts | {"Preprocess": kit["preprocess"]}).items():
        struct = _struct(name, files.get(name, file))
        keys = _coding_keys(struct)
        assert set(keys.values()) == set(part), name
        assert set(keys) == _stored(struct), name


@pytest.mark.parametrize(
    ("name", "file"),
    [("DeviceDescription", "CheckResult"), ("RuntimeDescription", "CheckResult"), ("ThermalStates", "CheckResult"),
     ("MemoryUse", "CheckResult"), ("Timings", "CheckResult"), ("OutputAccuracy", "OutputAccuracy"),
     ("PoseErrors", "PoseErrors"), ("Placement", "Placement")],
)  # fmt: skip
def test_result_keys_cover_the_properties(name: str, file: str) -> None:
    """A property without its key would be missing from ``result.json``."""
    struct = _struct(name, CORE / f"{file}.swift")
    keys = _coding_keys(struct)
    assert set(keys) - {"measured"} <= _stored(struct)
    assert _stored(struct) <= set(keys)


def test_result_keys_are_described() -> None:
    """Each key of ``result.json`` that the kit writes stands in the page about it."""
    page = (Path(__file__).parents[3] / "docs/how-to/kit-result.md").read_text()
    extension = (CORE / "CheckResult.swift").read_text().split("extension CheckResult {", 1)[1].split("\n    }\n", 1)[0]
    keys = re.findall(r'case \w+ = "(\w+)"', extension) + re.findall(r"^        case (\w+)$", extension, re.MULTILINE)
    assert len(keys) > 15
    assert [key for key in keys if f"`{key}" not in page] == []


def test_swift_knows_the_same_words() -> None:
    """Cases of the enums that ``kit.json`` is written with."""
    words = {
        "ComputeUnits": ("Kit", kit_files.COMPUTE_UNITS),
        "Kind": ("Kit", kit_files.INPUT_KINDS),
        "Mode": ("Framing", MODES),
        "PixelCenters": ("Framing", PIXEL_CENTERS),
    }
    for name, (file, expected) in words.items():
        enum = _struct(name, CORE / f"{file}.swift")
        assert {_name(entry) for entry in _walk(enum) if entry.type == "enum_entry"} == set(expected)
    assert f'"{kit_files.PLAN_DIGEST_KEY}"' in (APPLE / "ModelSession.swift").read_text()
    assert f"supportedSchemaVersion = {kit_files.KIT_SCHEMA_VERSION}\n" in (CORE / "Kit.swift").read_text()


# --- writing the kit --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The ``coreml`` folder of a bundle with a package in it."""
    _vectors().write_package(tmp_path)
    return tmp_path


def test_write_kit(folder: Path) -> None:
    """Everything listed is there, everything there is listed, and the sources are copied byte for byte."""
    names = write_kit(folder, _vectors().description())
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(names) == {name for name in on_disk if not name.startswith("vggt.mlpackage/")}
    assert list(names) == sorted(names)
    assert {"kit.json", "VGGTEdge/Package.swift", "VGGTEdge/README.md"} <= set(names)
    for source in kit_sources():
        assert (folder / "VGGTEdge" / source.relative_to(PACKAGE)).read_bytes() == source.read_bytes()


def test_kit_json(folder: Path, fits: Callable[[str, object], None]) -> None:
    """What the app reads: the description, and sha256 of the package's files."""
    write_kit(folder, _vectors().description(backend_sqnr_db_min=None, minimum_ios=17, compute_units="all"))
    kit = json.loads((folder / "kit.json").read_text())
    fits("kit-coreml", kit)
    assert sorted(kit["model"]["files"]) == [
        "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json",
    ]  # fmt: skip
    assert kit["model"]["minimum_os"] == {"ios": 17, "macos": 14, "visionos": 1}
    assert kit["model"]["compute_units"] == "all"
    assert kit["input"] == {"kind": "tensor", "frames": 2, "height": 14, "width": 28}
    assert kit["outputs"][0] == {"name": "pose_enc", "shape": [1, 2, 9]}
    assert kit["tolerances"] == {"backend_sqnr_db_min": None, "pose_degrees_max": None}
    assert kit["golden"] is None


def test_same_bytes_twice(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing depends on time or place; one changed byte of the model changes its key in the app's cache."""
    other = tmp_path_factory.mktemp("other")
    _vectors().write_package(other)
    for each in (folder, other):
        write_kit(each, _vectors().description())
        write_golden(each, *_vectors().golden_arrays())
    for name in ("kit.json", "golden.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    (other / "vggt.mlpackage/Manifest.json").write_bytes(b"changed")
    write_kit(other, _vectors().description())
    first, second = (json.loads((each / "kit.json").read_text())["model"]["sha256"] for each in (folder, other))
    assert first != second


def test_files_are_not_written_over(folder: Path, tmp_path: Path) -> None:
    """A hard link from an earlier bundle keeps its content."""
    write_kit(folder, _vectors().description())
    linked = tmp_path / "linked.json"
    os.link(folder / "kit.json", linked)
    before = linked.read_bytes()
    write_golden(folder, *_vectors().golden_arrays())
    assert linked.read_bytes() == before
    assert (folder / "kit.json").read_bytes() != before


@pytest.mark.parametrize(
    "changes",
    [
        {"input_kind": "video"},
        {"compute_units": "cpu"},
        {"minimum_ios": 16},
        {"height": 15},
        {"frames": 0},
        {"package": "../vggt.mlpackage"},
        {"package": ".."},
        {"package": "a\x00b"},
        {"package": "a\nb"},
        {"package": "missing.mlpackage"},
        {"outputs": (KitOutput("depth", (1, 2, 14, 14), "depth"),)},
        {"outputs": (KitOutput("tracks", (1,), "tracks"),)},
        {"outputs": ()},
        {"backend_sqnr_db_min": 0.0},
        {"backend_sqnr_db_min": 201.0},
        {"backend_sqnr_db_min": float("nan")},
        {"pose_degrees_max": 0.0},
        {"pose_degrees_max": 181.0},
    ],
    ids=str,
)
def test_descriptions_that_no_app_understands(folder: Path, changes: dict[str, Any]) -> None:
    """Each is an error before anything is written."""
    with pytest.raises(UsageError):
        write_kit(folder, _vectors().description(**changes))
    assert not (folder / "kit.json").exists()


def test_what_building_leaves_is_not_copied() -> None:
    """Hidden folders and build products stay out of bundles."""
    assert all(not part.startswith(".") for path in kit_sources() for part in path.relative_to(PACKAGE).parts)
    assert {path.suffix for path in kit_sources()} == {".swift", ".json", ".md"}


# --- golden tensors ---------------------------------------------------------------------------------------------------


def test_write_golden(folder: Path, fits: Callable[[str, object], None]) -> None:
    """The three groups under their keys, and the file's sha256 in ``kit.json``."""
    write_kit(folder, _vectors().description())
    inputs, simulation, fp32 = _vectors().golden_arrays()
    path = write_golden(folder, inputs, simulation, fp32)
    tensors = load_file(path)
    names = ("pose_enc", "depth", "depth_conf")
    assert set(tensors) == {"input/images", *(f"{group}/{name}" for group in ("simulation", "fp32") for name in names)}
    np.testing.assert_array_equal(tensors["simulation/depth"], simulation["depth"])
    fits("kit-coreml", json.loads((folder / "kit.json").read_text()))
    golden = json.loads((folder / "kit.json").read_text())["golden"]
    assert golden == {"file": "golden.safetensors", "sha256": kit_files.sha256(path)}


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        (0, "images", None, "missing"),
        (1, "depth", None, "missing"),
        (1, "tracks", np.zeros(1, np.float32), "unknown"),
        (2, "depth", np.zeros((1, 2, 14, 28)), "float64"),
        (1, "depth", np.zeros((1, 2, 28, 14), np.float32), r"\(1, 2, 28, 14\)"),
        (1, "depth", np.full((1, 2, 14, 28), np.nan, np.float32), "NaN"),
        (0, "images", np.full((1, 2, 3, 14, 28), 1.5, np.float32), "cannot hold"),
    ],
)
def test_golden_tensors_that_do_not_fit(
    folder: Path, group: int, name: str, value: np.ndarray | None, message: str
) -> None:
    """Missing, unknown, misshapen, of another type, not finite, out of range."""
    write_kit(folder, _vectors().description())
    groups = list(_vectors().golden_arrays())
    if value is None:
        del groups[group][name]
    else:
        groups[group][name] = value
    with pytest.raises(InputError, match=message):
        write_golden(folder, *groups)
    assert not (folder / "golden.safetensors").exists()


def test_fp32_may_be_left_out(folder: Path) -> None:
    """It is for information only."""
    write_kit(folder, _vectors().description())
    inputs, simulation, _ = _vectors().golden_arrays()
    assert set(load_file(write_golden(folder, inputs, simulation, {}))) == {
        "input/images", "simulation/pose_enc", "simulation/depth", "simulation/depth_conf",
    }  # fmt: skip


def test_an_image_model_gets_whole_levels(folder: Path) -> None:
    """Its input has 8 bits: images between two levels would be blamed on the device."""
    write_kit(folder, _vectors().description(input_kind="image"))
    inputs, simulation, fp32 = _vectors().golden_arrays()
    write_golden(folder, inputs, simulation, fp32)
    with pytest.raises(InputError, match="cannot hold") as caught:
        write_golden(folder, {"images": inputs["images"] * np.float32(0.999)}, simulation, fp32)
    assert "8 bits" in caught.value.remedy


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "outputs": [1]}'])
def test_golden_tensors_need_a_kit(folder: Path, content: str) -> None:
    """A missing or foreign ``kit.json`` is an error and stays as it is."""
    with pytest.raises(InputError, match=r"cannot use kit\.json"):
        write_golden(folder, *_vectors().golden_arrays())
    (folder / "kit.json").write_text(content)
    with pytest.raises(InputError, match=r"cannot use kit\.json"):
        write_golden(folder, *_vectors().golden_arrays())
    assert (folder / "kit.json").read_text() == content


# --- compiling --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``tools("swift", "exit 1")`` puts a program of that name on an otherwise empty PATH; calls go to ``calls``."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    calls = folder / "calls"
    calls.touch()

    def add(name: str, body: str) -> Path:
        script = folder / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n[ -f Package.swift ] || exit 9\n{body}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return calls

    return add


def test_without_swift_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason, and the command for a Mac."""
    monkeypatch.setenv("PATH", "")
    check = compile_check()
    assert check.status == "not_run"
    assert "no Swift toolchain" in check.detail
    assert "xcodebuild -scheme VGGTEdge" in check.detail


def test_a_swift_toolchain_builds_and_tests_the_core(tools: Any) -> None:
    """In a copy: the package that is shipped stays as it is."""
    calls = tools("swift", ": > built.o")
    before = sorted(PACKAGE.rglob("*"))
    check = compile_check()
    assert check.status == "passed"
    assert "VGGTEdge itself needs a Mac" in check.detail
    assert calls.read_text().splitlines() == [
        "swift build --target VGGTEdgeCore", "swift test --filter VGGTEdgeCoreTests",
    ]  # fmt: skip
    assert sorted(PACKAGE.rglob("*")) == before


def test_a_mac_builds_for_ios(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through xcodebuild, then the core's tests on the Mac."""
    calls = tools("xcodebuild", "exit 0")
    tools("swift", "exit 0")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert compile_check().status == "passed"
    assert calls.read_text().splitlines() == [
        "xcodebuild -scheme VGGTEdge -destination generic/platform=iOS -derivedDataPath .derived build",
        "swift test --filter VGGTEdgeCoreTests",
    ]


def test_a_failed_build_is_reported(tools: Any) -> None:
    """With the end of what the compiler said; the tests are not run."""
    calls = tools("swift", "echo 'error: no such type'; exit 1")
    check = compile_check()
    assert check.status == "failed"
    assert "error: no such type" in check.detail
    assert len(calls.read_text().splitlines()) == 1


def test_a_build_that_does_not_end(tools: Any) -> None:
    """Is given up, and is not called a failure of the package."""
    tools("swift", "while :; do :; done")
    check = compile_check(timeout_s=0.3)
    assert check.status == "not_run"
    assert "not finished" in check.detail


def test_a_toolchain_that_cannot_start(tools: Any) -> None:
    """A broken installation is no verdict either."""
    calls = tools("swift", "")
    (calls.parent / "swift").write_text("#!/no/such/interpreter\n")
    assert compile_check().status == "not_run"

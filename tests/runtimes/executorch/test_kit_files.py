"""The Android kit: what is written into a bundle, and what is said where nothing can compile it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from vggt_edge.devices.errors import InputError, UsageError
from vggt_edge.runtimes.executorch import kit_files
from vggt_edge.runtimes.executorch.kit_files import (
    GOLDEN_FILE,
    GOLDEN_INPUT,
    KIT,
    KitOutput,
    compile_check,
    kit_sources,
    write_golden,
    write_kit,
)

PROJECT = KIT / "VGGTEdgeAndroid"
_KINDS = {".api", ".kt", ".kts", ".json", ".md", ".pro", ".xml", ".properties", ".py", ".sh"}


@pytest.fixture
def folder(tmp_path: Path, kit_vectors: ModuleType) -> Path:
    """The ``executorch`` folder of a bundle with a program in it."""
    kit_vectors.write_model(tmp_path)
    return tmp_path


# --- writing the kit --------------------------------------------------------------------------------------------------


def test_write_kit(folder: Path, kit_vectors: ModuleType) -> None:
    """Everything listed is there, everything there is listed, and the sources are copied byte for byte."""
    names = write_kit(folder, kit_vectors.description())
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(names) == on_disk - {"vggt.pte"}
    assert list(names) == sorted(names)
    scripts = {"compare.py", "kit_common.py", "run_on_device.sh"}
    assert {"kit.json", "README.md", "VGGTEdgeAndroid/settings.gradle.kts", *scripts} <= set(names)
    for source in kit_sources():
        assert (folder / source.relative_to(KIT)).read_bytes() == source.read_bytes()


def test_scripts_can_be_run(folder: Path, kit_vectors: ModuleType) -> None:
    """And nothing else is marked as a program."""
    names = write_kit(folder, kit_vectors.description())
    runnable = {name for name in names if (folder / name).stat().st_mode & stat.S_IXUSR}
    assert runnable == {"compare.py", "run_on_device.sh"}


def test_kit_json(folder: Path, kit_vectors: ModuleType) -> None:
    """What app and scripts read: the description, and sha256 of the program."""
    write_kit(folder, kit_vectors.description(backend_sqnr_db_min=None))
    kit = json.loads((folder / "kit.json").read_text())
    assert kit["schema_version"] == 1
    assert kit["model"] == {
        "program": "vggt.pte",
        "sha256": kit_files.sha256(folder / "vggt.pte"),
        "weights": None,
        "weights_sha256": None,
        "executorch_version": "1.4.1",
        "delegate": "xnnpack",
        "memory": {"planned_bytes": 4096},
    }
    assert kit["input"] == {
        "name": "images", "frames": 2, "height": 14, "width": 28, "order": "NCHW", "layout": "contiguous",
        "dtype": "float32",
    }  # fmt: skip
    assert [output["name"] for output in kit["outputs"]] == ["pose_enc", "depth", "depth_conf"]
    assert kit["tolerances"] == {"backend_sqnr_db_min": None, "pose_degrees_max": None}
    assert kit["golden"] is None


def test_weights_beside_the_program(folder: Path, kit_vectors: ModuleType, fits: Callable[[str, object], None]) -> None:
    """Both files are under a sha256, so that weights of another model are refused."""
    kit_vectors.write_model(folder, weights=True)
    write_kit(folder, kit_vectors.description(weights="vggt.ptd"))
    fits("kit-executorch", json.loads((folder / "kit.json").read_text()))
    write_golden(folder, *kit_vectors.golden_arrays())
    fits("kit-executorch", json.loads((folder / "kit.json").read_text()))
    model = json.loads((folder / "kit.json").read_text())["model"]
    assert model["weights"] == "vggt.ptd"
    assert model["weights_sha256"] == kit_files.sha256(folder / "vggt.ptd") != model["sha256"]


def test_same_bytes_twice(kit_folder: Callable[..., Path]) -> None:
    """Nothing depends on time or place."""
    first, second = kit_folder("first"), kit_folder("second")
    for name in ("kit.json", GOLDEN_FILE, GOLDEN_INPUT):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_files_are_not_written_over(folder: Path, kit_vectors: ModuleType, tmp_path: Path) -> None:
    """A hard link from an earlier bundle keeps its content."""
    write_kit(folder, kit_vectors.description())
    linked = tmp_path / "linked.json"
    os.link(folder / "kit.json", linked)
    before = linked.read_bytes()
    write_golden(folder, *kit_vectors.golden_arrays())
    assert linked.read_bytes() == before != (folder / "kit.json").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 15},
        {"frames": 0},
        {"program": "../vggt.pte"},
        {"program": "missing.pte"},
        {"weights": "missing.ptd"},
        {"weights": ".."},
        {"executorch_version": "main"},
        {"backend_sqnr_db_min": 0.0},
        {"backend_sqnr_db_min": 201.0},
        {"backend_sqnr_db_min": float("nan")},
        {"pose_degrees_max": 181.0},
        {"planned_bytes": -1},
        {"outputs": ()},
        {"outputs": (KitOutput("depth", (1, 2, 14, 28), "depth"), KitOutput("depth", (1, 2, 14, 28), "depth"))},
        {"outputs": (KitOutput("depth", (1, 2, 14, 14), "depth"),)},
        {"outputs": (KitOutput("tracks", (1,), "tracks"),)},
    ],
    ids=str,
)
def test_descriptions_that_no_app_understands(folder: Path, kit_vectors: ModuleType, changes: dict[str, Any]) -> None:
    """Each is an error before anything is written."""
    with pytest.raises(UsageError):
        write_kit(folder, kit_vectors.description(**changes))
    assert not (folder / "kit.json").exists()


def test_an_empty_program_is_no_model(folder: Path, kit_vectors: ModuleType) -> None:
    """Such as a full disk leaves behind."""
    (folder / "vggt.pte").write_bytes(b"")
    with pytest.raises(InputError, match="empty file"):
        write_kit(folder, kit_vectors.description())


def test_what_building_leaves_is_not_copied() -> None:
    """Hidden folders and build products stay out of bundles, and so does a wrapper nobody here can vouch for."""
    relative = [path.relative_to(KIT) for path in kit_sources()]
    assert all(not part.startswith(".") for path in relative for part in path.parts)
    assert {path.suffix for path in relative} <= _KINDS


# --- golden tensors ---------------------------------------------------------------------------------------------------


def test_write_golden(folder: Path, kit_vectors: ModuleType) -> None:
    """The three groups under their keys, the raw input, and the sha256 of both files in ``kit.json``."""
    write_kit(folder, kit_vectors.description())
    inputs, simulation, fp32 = kit_vectors.golden_arrays()
    path = write_golden(folder, inputs, simulation, fp32)
    tensors = load_file(path)
    names = ("pose_enc", "depth", "depth_conf")
    assert set(tensors) == {"input/images", *(f"{group}/{name}" for group in ("simulation", "fp32") for name in names)}
    np.testing.assert_array_equal(tensors["simulation/depth"], simulation["depth"])
    raw = folder / "golden" / "input_0.bin"
    np.testing.assert_array_equal(np.fromfile(raw, "<f4"), inputs["images"].ravel())
    golden = json.loads((folder / "kit.json").read_text())["golden"]
    assert golden == {
        "file": "golden.safetensors",
        "sha256": kit_files.sha256(path),
        "input_file": "golden/input_0.bin",
        "input_sha256": kit_files.sha256(raw),
    }


def test_the_raw_input_is_row_major(folder: Path, kit_vectors: ModuleType) -> None:
    """Also where the array in memory is not: executor_runner copies the bytes as they are."""
    write_kit(folder, kit_vectors.description())
    inputs, simulation, fp32 = kit_vectors.golden_arrays()
    turned = np.asfortranarray(inputs["images"])
    assert not turned.flags.c_contiguous
    write_golden(folder, {"images": turned}, simulation, fp32)
    assert (folder / "golden/input_0.bin").read_bytes() == inputs["images"].tobytes()


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
    folder: Path, kit_vectors: ModuleType, group: int, name: str, value: np.ndarray | None, message: str
) -> None:
    """Missing, unknown, misshapen, of another type, not finite, out of range."""
    write_kit(folder, kit_vectors.description())
    groups = list(kit_vectors.golden_arrays())
    if value is None:
        del groups[group][name]
    else:
        groups[group][name] = value
    with pytest.raises(InputError, match=message):
        write_golden(folder, *groups)
    assert not (folder / "golden.safetensors").exists()
    assert not (folder / "golden").exists()


def test_golden_tensors_need_a_kit(folder: Path, kit_vectors: ModuleType) -> None:
    """A foreign ``kit.json`` is an error and stays as it is."""
    for content in ("", "[]", '{"schema_version": 2}', '{"schema_version": 1, "outputs": [], "input": {}}'):
        (folder / "kit.json").write_text(content)
        with pytest.raises(InputError, match=r"cannot use kit\.json"):
            write_golden(folder, *kit_vectors.golden_arrays())
        assert (folder / "kit.json").read_text() == content


# --- compiling --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gradle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``gradle("exit 1")`` puts a program of that name on an otherwise empty PATH, and an SDK's folder beside it."""
    tools = tmp_path / "tools"
    (tools / "sdk").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("ANDROID_HOME", str(tools / "sdk"))

    def add(body: str) -> Path:
        script, calls = tools / "gradle", tools / "calls"
        script.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n[ -f settings.gradle.kts ] || exit 9\n{body}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return calls

    return add


def test_without_gradle_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason, and the command for a machine that has one."""
    monkeypatch.setenv("PATH", "")
    check = compile_check()
    assert check.status == "not_run"
    assert "no Gradle" in check.detail
    assert "./gradlew :vggtedge:assembleRelease :vggtedge:testDebugUnitTest" in check.detail


def test_gradle_without_an_sdk_is_not_started(gradle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would only say so after a minute of downloads."""
    calls = gradle("exit 0")
    monkeypatch.delenv("ANDROID_HOME")
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    check = compile_check()
    assert check.status == "not_run"
    assert "ANDROID_HOME" in check.detail
    assert not calls.exists()


def test_gradle_builds_and_tests_a_copy(gradle: Callable[[str], Path]) -> None:
    """The project that is shipped stays as it is."""
    calls = gradle(": > built.o")
    before = sorted(PROJECT.rglob("*"))
    assert compile_check().status == "passed"
    assert calls.read_text().split() == [
        "--no-daemon", "--console=plain", ":vggtedge:assembleRelease", ":vggtedge:testDebugUnitTest",
    ]  # fmt: skip
    assert sorted(PROJECT.rglob("*")) == before


def test_a_failed_build_is_reported(gradle: Callable[[str], Path]) -> None:
    """With the end of what the compiler said."""
    gradle("echo 'e: unresolved reference'; exit 1")
    check = compile_check()
    assert check.status == "failed"
    assert "unresolved reference" in check.detail


def test_a_build_that_does_not_end(gradle: Callable[[str], Path]) -> None:
    """Is given up, and is not called a failure of the project."""
    gradle("while :; do :; done")
    check = compile_check(timeout_s=0.3)
    assert check.status == "not_run"
    assert "not finished" in check.detail

"""The whole line for Android: lowered, executed by ExecuTorch here, judged, with its kit."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from vggt_edge.devices.errors import AccuracyGateError
from vggt_edge.exporter.bundle import read_manifest
from vggt_edge.exporter.cli import main
from vggt_edge.exporter.rerun import validate
from vggt_edge.runtimes.executorch import BACKEND
from vggt_edge.runtimes.executorch.arm.build import NATIVE, SWITCHED_ON, ArmBuild
from vggt_edge.runtimes.executorch.arm.session import ArmSession
from vggt_edge.runtimes.executorch.process import Build
from vggt_edge.runtimes.executorch.sdk import installed
from vggt_edge.runtimes.executorch.session import ExecuTorchSession

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not installed(), reason="the extra android is not installed")]
Run = Callable[..., Any]
SMALL = ("--frames", "2", "--resolution", "42", "--calibration-scenes", "2", "--validation-scenes", "2")


# Versions of ExecuTorch that Android's library has or may have, beside the installed one.
RUNTIMES = Path(sys.prefix) / "runtimes"
ARM = ArmBuild.of_android().availability()
OTHER_VERSIONS = ("1.4.0", "1.5.1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of each precision in one program, for all tests here: an export takes a minute or two."""
    out = tmp_path_factory.mktemp("android") / "mixed"
    mixed = ("--max-memory", "7MB", "--exclude", "frame_blocks.0", "--sensitivity", "probe", "--effort", "none")
    # The points' head has the form of depth's.
    code = main(["export", "--target", "android", *SMALL, *mixed, "--outputs", "camera,depth", "-o", str(out)])
    # 42 pixels are half of what the model was made for: the line is tested here, not the accuracy.
    assert code in (0, 4)
    return out


@pytest.fixture(scope="module")
def cache_switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that switches XNNPACK's weights cache on, as it is in Android's library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to switch XNNPACK's weights cache on")
    library = tmp_path_factory.mktemp("switch") / "cache_on.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(NATIVE / "xnnpack_cache_on.c")], check=True)
    return library


def runtime_folder(version: str) -> Path | None:
    if version == "installed":
        return None
    folder = RUNTIMES / f"executorch-{version}"
    if not folder.is_dir():
        pytest.skip(f"ExecuTorch {version} is missing in {RUNTIMES}: run `make install-dev`")
    return folder


def drift(bundle: Path, subject: str, against: str) -> dict[str, float]:
    rows = json.loads((bundle / "validation.json").read_text())["rows"]
    return {
        row["output"]: row["value"]
        for row in rows
        if (row["subject"], row["against"], row["metric"]) == (subject, against, "sqnr_db")
    }


def test_it_is_executed_here_and_near_the_simulation(bundle: Path) -> None:
    """Not nearer: an activation that lies between two integers is rounded to the other one here and there."""
    parity = drift(bundle, "executorch", "simulation")
    assert set(parity) == {"pose_enc", "depth", "depth_conf"}
    assert min(parity.values()) > 20


def test_what_ran_here_and_the_device_have_rows_of_their_own(bundle: Path) -> None:
    """The device's row says that nothing ran there; no executor's figures stand under the same name."""
    rows = json.loads((bundle / "validation.json").read_text())["rows"]
    judged = {one.subject for one in read_manifest(bundle).judged_with}
    not_run = {row["subject"] for row in rows if row["output"] == "all" and row["status"] == "not_run"}
    assert not_run == {"executorch-on-device"}
    assert "executorch" in judged
    assert not judged & not_run


def test_every_operation_is_delegated_and_every_block_measured(bundle: Path) -> None:
    """The checks of the lowering say so, with figures."""
    lowered = json.loads((bundle / "lowered-executorch.json").read_text())
    checks = {check["name"]: check for check in lowered["checks"]}
    figures = checks["ExecuTorch lowering"]["figures"]
    assert figures["undelegated_operations"] == 0
    assert figures["kinds"] < figures["delegates"]
    assert figures["planned_bytes"] > 0
    assert figures["weights_bytes"] == 0
    assert figures["flatbuffer_bytes"] < figures["program_bytes"] / 20
    errors = checks["error of each block"]["figures"]
    blocks = {entry["block"] for entry in lowered["realised"]}
    assert blocks <= set(errors)
    assert min(errors[block] for block in blocks) > 20
    assert checks["Android kit compiles"]["status"] in ("passed", "not_run")
    assert lowered["findings"] == []
    assert all(entry["asked"] == entry["realised"] for entry in lowered["realised"])
    assert {entry["realised"] for entry in lowered["realised"]} == {"fp32", "w8a8d", "w4a8d"}


def test_make_installs_the_versions_of_executorch_that_are_tested(repository: Path) -> None:
    """Tests of a version that is missing are skipped, so its absence must not go unnoticed."""
    listed = re.search(r"^RUNTIME_VERSIONS := (.+)$", (repository / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    assert tuple(listed[1].split()) == OTHER_VERSIONS


@pytest.mark.parametrize("weights_cache", ["cache off", "cache on"])
@pytest.mark.parametrize("version", ["installed", *OTHER_VERSIONS])
def test_golden_tensors_are_replayed_by_what_a_phone_may_run(
    bundle: Path, request: pytest.FixtureRequest, version: str, weights_cache: str
) -> None:
    """Each in a process of its own; one that crashes is a ``ToolchainError`` with its signal."""
    switch: Path | None = request.getfixturevalue("cache_switch") if weights_cache == "cache on" else None
    folder = bundle / "executorch"
    golden = load_file(folder / "golden.safetensors")
    session = ExecuTorchSession(folder, build=Build(runtime_folder(version), switch))
    try:
        outputs = session.run({"images": golden["input/images"]})
        again = session.run({"images": golden["input/images"]})
        assert (SWITCHED_ON in session.log) == (switch is not None)
        assert version in ("installed", session.version)
    finally:
        session.close()
    for name, values in outputs.items():
        np.testing.assert_array_equal(values, again[name])
        assert sqnr_db(values, golden[f"simulation/{name}"]) > 20, name


def test_the_doctor_says_what_judged_a_bundle(vggt_edge: Run, bundle: Path) -> None:
    """And that Android's library was not among it, unless the export was told to emulate it."""
    found = {one["subject"]: one for one in vggt_edge("doctor", bundle, "--json").document["findings"]}
    assert re.search(r"executorch 1\.\d+\.\d+ \(.*weights cache off\)", found["judged by executorch"]["found"])
    missing = found["judged by the device's build"]
    assert "executorch-arm-i8mm" in missing["found"]
    assert missing["remedy"] == "export with --execute arm"


@pytest.mark.skipif(not ARM.ok, reason=f"{ARM.reason}: {ARM.remedy}")
def test_golden_tensors_are_replayed_by_the_kernels_of_a_phone(bundle: Path) -> None:
    """The version of Android's library, with its weights cache, on an emulated processor with i8mm."""
    folder = bundle / "executorch"
    golden = load_file(folder / "golden.safetensors")
    outputs = ArmSession(folder, "i8mm").run({"images": golden["input/images"]})
    for name, values in outputs.items():
        assert sqnr_db(values, golden[f"simulation/{name}"]) > 20, name


@pytest.mark.skipif(not ARM.ok, reason=f"{ARM.reason}: {ARM.remedy}")
def test_a_bundle_is_validated_on_the_processors_of_its_device(bundle: Path) -> None:
    """Only where that is asked for, and only on those whose features the profile lists."""
    with suppress(AccuracyGateError):
        subjects = validate(bundle, execute="arm").subjects
        assert {"executorch", "executorch-arm-dotprod", "executorch-arm-i8mm"} <= set(subjects)
        assert "executorch-arm-sme" not in subjects
    assert not any("arm" in one.subject for one in read_manifest(bundle).judged_with)


def test_without_the_build_for_arm_the_emulation_is_refused_with_a_remedy(
    vggt_edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work; so is an emulation for a target that has none."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    refused = vggt_edge("export", "--target", "android", "--execute", "arm", "-o", tmp_path / "out")
    assert refused.code == 3
    assert "vggt_edge.runtimes.executorch.arm.install" in refused.err
    foreign = vggt_edge("export", "--target", "host-cpu", "--execute", "arm", "-o", tmp_path / "out")
    assert foreign.code == 2
    assert "has no emulation arm" in foreign.err


def sqnr_db(values: np.ndarray, reference: np.ndarray) -> float:
    noise = float(np.linalg.norm(values - reference))
    return math.inf if noise == 0 else 20 * math.log10(float(np.linalg.norm(reference)) / noise)


def test_measured_json_says_what_memory_the_program_took_here(bundle: Path) -> None:
    """More than the file and the planned buffers: XNNPACK has a workspace and packs every weight."""
    memory = json.loads((bundle / "measured.json").read_text())["checks"]["executorch"]["ExecuTorch run"]
    stored = (bundle / "executorch" / "vggt.pte").stat().st_size
    assert memory["first_prediction_bytes"] >= memory["load_bytes"] > 0
    assert memory["first_prediction_bytes"] > stored


def test_the_report_names_the_executor_and_the_kit(bundle: Path) -> None:
    """And the bundle verifies."""
    report = (bundle / "report.html").read_text()
    assert "ExecuTorch" in report
    assert "Android kit compiles" in report
    assert {"executorch/vggt.pte", "executorch/kit.json", "executorch/run_on_device.sh"} <= {
        entry.path for entry in read_manifest(bundle).files
    }


def test_the_bundle_verifies_and_is_validated_again(vggt_edge: Run, bundle: Path) -> None:
    """With the runtime that is here."""
    assert vggt_edge("verify", bundle).code == 0
    with suppress(AccuracyGateError):
        validate(bundle)


def test_the_comparison_of_the_kit_judges_the_runtime_here(bundle: Path, tmp_path: Path) -> None:
    """``compare.py``, as ``run_on_device.sh`` calls it, on what ExecuTorch computes on this machine."""
    kit = tmp_path / "executorch"
    shutil.copytree(bundle / "executorch", kit)
    images = load_file(kit / "golden.safetensors")["input/images"]
    session = BACKEND.open(bundle)
    outputs = session.run({"images": images})
    session.close()
    (kit / "pulled").mkdir()
    for index, entry in enumerate(json.loads((kit / "kit.json").read_text())["outputs"]):
        np.ascontiguousarray(outputs[entry["name"]], "<f4").tofile(kit / "pulled" / f"output-{index}.bin")
    command = [sys.executable, str(kit / "compare.py"), "--outputs", str(kit / "pulled")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert json.loads((kit / "result.json").read_text())


def test_a_precision_that_xnnpack_lacks_is_refused_before_any_work(vggt_edge: Run, tmp_path: Path) -> None:
    """With those that it has."""
    finished = vggt_edge("export", "--target", "android", "--precision", "w4a16", "-o", tmp_path / "out")
    assert finished.code == 2
    assert "w4a8d" in finished.err
    assert not (tmp_path / "out").exists()

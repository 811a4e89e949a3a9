"""compare.py, run as the program that it is: figures, verdicts, and files that cannot be used."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.metrics.figures import drift, pose_errors
from vggt_edge.calibration.metrics.geometry import decode_pose
from vggt_edge.runtimes.common.kit import COMMON, kit_script
from vggt_edge.runtimes.executorch.kit_files import KIT

SOURCE = KIT / "compare.py"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(folder: Path, *arguments: object, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, str(folder / "compare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


def refused(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    """Exit code 2 and a message; no traceback, no report."""
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (folder / "result.json").exists()


@cache
def module() -> ModuleType:
    return kit_script(SOURCE)


def common() -> ModuleType:
    return kit_script(COMMON)


# --- on any Python ----------------------------------------------------------------------------------------------------


def test_it_is_python_3_8() -> None:
    """The syntax, and no method that came later."""
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    newer = {"removeprefix", "removesuffix", "bit_count", "is_relative_to", "pairwise", "file_digest"}
    assert not newer & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_it_imports_nothing_but_the_standard_library_and_numpy() -> None:
    """It is copied to machines that have nothing else."""
    tree = ast.parse(SOURCE.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "kit_common"}


@pytest.mark.parametrize("interpreter", ["python3.8", "python3.10", "python3.12", sys.executable])
def test_a_missing_numpy_on_real_interpreters(interpreter: str, kit_folder: Callable[..., Path]) -> None:
    """Code 3 and what to install; the list of files needs no numpy."""
    found = shutil.which(interpreter)
    # A version manager's shim may be there without the version behind it.
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip(f"{interpreter} is not installed")
    folder = kit_folder()
    done = subprocess.run(
        [found, "-S", folder / "compare.py", "--outputs", folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert "pip install numpy" in done.stderr
    listed = subprocess.run([found, "-S", folder / "compare.py", "--files"], capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0
    assert "vggt.pte" in listed.stdout


@pytest.mark.parametrize("arguments", [[], ["--files", "--outputs", "."], ["--outputs"]])
def test_wrong_arguments_exit_with_2(kit_folder: Callable[..., Path], arguments: list[str]) -> None:
    """argparse's own words."""
    done = run(kit_folder(), *arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_equal_outputs_pass(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], fits: Callable[[str, object], None]
) -> None:
    """With every figure printed and reported."""
    folder = kit_folder()
    done = run(folder, "--outputs", kit_outputs(), "--device", "Phone 1")
    assert done.returncode == 0, done.stderr
    report = report_of(folder)
    fits("result", report)
    assert report["exit_code"] == 0
    assert (report["status"], report["device"]["model"]) == ("passed", "Phone 1")
    assert report["runtime"] == {"name": "executorch", "version": "1.4.1"}
    assert report["plan_digest"] == "5" * 64
    assert [entry["output"] for entry in report["accuracy"]] == ["pose_enc", "depth", "depth_conf"]
    for entry in report["accuracy"]:
        assert entry["status"] == "passed"
        assert entry["against_simulation"]["sqnr_db"] == 200.0
        assert 30 < entry["against_fp32"]["sqnr_db"] < 50
        assert re.search(
            rf"^{entry['output']} +passed +SQNR 200\.00 dB against the simulation", done.stdout, re.MULTILINE
        )


def test_noise_above_the_tolerance_fails(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], kit_vectors: ModuleType
) -> None:
    """Only the output that has it; the report is written all the same."""
    simulation = kit_vectors.golden_arrays()[1]["depth"]
    noise = np.random.default_rng(0).normal(scale=0.2, size=simulation.shape).astype(np.float32)
    folder = kit_folder()
    done = run(folder, "--outputs", kit_outputs(depth=simulation + noise))
    assert done.returncode == 4
    report = report_of(folder)
    assert {entry["output"]: entry["status"] for entry in report["accuracy"]} == {
        "pose_enc": "passed", "depth": "failed", "depth_conf": "passed",
    }  # fmt: skip
    assert report["accuracy"][1]["against_simulation"]["sqnr_db"] == pytest.approx(20, abs=2)


def test_without_a_tolerance_only_nan_fails(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], kit_vectors: ModuleType
) -> None:
    """An output without a limit has neither failed nor passed."""
    folder = kit_folder(backend_sqnr_db_min=None)
    done = run(folder, "--outputs", kit_outputs(depth=kit_vectors.golden_arrays()[1]["depth"] + np.float32(5)))
    assert done.returncode == 0
    report = report_of(folder)
    assert {report["status"], *(entry["status"] for entry in report["outputs"])} == {"not_judged"}
    assert "not judged: kit.json has no limit" in done.stderr


@pytest.mark.parametrize(("share", "status"), [(None, "passed"), (1.1, "passed"), (0.9, "failed")])
def test_cameras_are_judged_by_angles(
    kit_folder: Callable[..., Path],
    kit_outputs: Callable[..., Path],
    kit_vectors: ModuleType,
    share: float | None,
    status: str,
) -> None:
    """A camera that is turned by five degrees passes by its SQNR. share: the limit, as a share of the widest angle."""
    pose = kit_vectors.golden_arrays()[1]["pose_enc"]
    half = np.radians(5) / 2
    x, y, z, w = pose[0, 1, 3:7]
    sine, cosine = np.sin(half), np.cos(half)
    pose[0, 1, 3:7] = (cosine * x + sine * w, cosine * y - sine * z, cosine * z + sine * y, cosine * w - sine * x)
    errors = common().camera_errors(pose, kit_vectors.golden_arrays()[1]["pose_enc"])
    limit = None if share is None else share * max(errors.values())
    folder = kit_folder(backend_sqnr_db_min=10.0, pose_degrees_max=limit)
    done = run(folder, "--outputs", kit_outputs(pose_enc=pose))
    report = report_of(folder)
    assert report["status"] == report["outputs"][0]["status"] == status
    assert done.returncode == (4 if status == "failed" else 0)
    assert report["outputs"][0]["pose_degrees_max"] == limit
    assert errors["rotation_degrees"] == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_never_pass(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], kit_vectors: ModuleType, value: float
) -> None:
    """Not even where nothing is judged, and the report stays JSON."""
    simulation = kit_vectors.golden_arrays()[1]
    for name in ("pose_enc", "depth"):
        simulation[name].flat[3] = value
    folder = kit_folder(backend_sqnr_db_min=None)
    done = run(folder, "--outputs", kit_outputs(**simulation))
    assert done.returncode == 4
    assert "NaN or infinity" in done.stdout
    entries = report_of(folder)["accuracy"]
    assert [entry["status"] for entry in entries] == ["failed", "failed", "not_judged"]
    assert entries[0]["pose"] is None


def test_outputs_in_the_wrong_order(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], kit_vectors: ModuleType
) -> None:
    """Of one size: too far away. Of different sizes: told apart, and named."""
    simulation = kit_vectors.golden_arrays()[1]
    folder, outputs = kit_folder(), kit_outputs()
    (outputs / "output-1.bin").write_bytes(simulation["depth_conf"].tobytes())
    (outputs / "output-2.bin").write_bytes(simulation["depth"].tobytes())
    assert run(folder, "--outputs", outputs).returncode == 4
    (folder / "result.json").unlink()
    (outputs / "output-0.bin").write_bytes(simulation["depth"].tobytes())
    done = run(folder, "--outputs", outputs)
    refused(done, folder)
    assert "pose_enc takes 72" in done.stderr
    assert "size of depth, depth_conf" in done.stderr


def test_a_quaternion_of_the_other_sign_is_no_drift(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], kit_vectors: ModuleType
) -> None:
    """q and -q are one rotation."""
    pose = kit_vectors.golden_arrays()[1]["pose_enc"]
    pose[0, 1, 3:7] *= -1
    folder = kit_folder()
    assert run(folder, "--outputs", kit_outputs(pose_enc=pose)).returncode == 0
    assert report_of(folder)["accuracy"][0]["against_simulation"]["sqnr_db"] == 200.0


def test_times_of_the_log(kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], tmp_path: Path) -> None:
    """What executor_runner prints; a log without it gives none."""
    folder, outputs, log = kit_folder(), kit_outputs(), tmp_path / "runner.log"
    log.write_text(
        "I executorch:executor_runner.cpp:501] Model loaded in 81.500000 ms.\n"
        "I executorch:executor_runner.cpp:660] Model executed successfully 4 time(s) in 50.000000 ms.\n"
    )
    assert "4 runs, 12.500 ms" in run(folder, "--outputs", outputs, "--log", log).stdout
    assert report_of(folder)["times"] == {"runs": 4, "mean_ms": 12.5, "load_ms": 81.5}
    log.write_text("nothing\n")
    assert run(folder, "--outputs", outputs, "--log", log).returncode == 0
    assert report_of(folder)["times"] is None


def test_the_report_replaces_an_older_one(kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path]) -> None:
    """In one step, and where it is asked for."""
    folder, outputs = kit_folder(), kit_outputs()
    other = folder / "elsewhere.json"
    other.write_text("old")
    assert run(folder, "--outputs", outputs, "--report", other).returncode == 0
    assert json.loads(other.read_text())["exit_code"] == 0
    assert not list(folder.glob("*.part"))
    assert run(folder, "--outputs", outputs, "--report", folder / "no" / "report.json").returncode == 7


# --- figures agree with the exporter's --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 1e3]))
def test_figures_are_those_of_the_report(seed: int, scale: float) -> None:
    """SQNR and largest error as ``calibration.metrics`` takes them; relative L2 is SQNR in other words."""
    random = np.random.default_rng(seed)
    reference = random.normal(size=50).astype(np.float32)
    values = (reference + random.normal(scale=scale, size=50)).astype(np.float32)
    ours, theirs = common().drift(values, reference), drift(values, reference)
    assert ours["sqnr_db"] == pytest.approx(theirs.sqnr_db)
    assert ours["max_abs"] == pytest.approx(theirs.max_abs)
    if ours["relative_l2"]:
        assert -20 * np.log10(ours["relative_l2"]) == pytest.approx(ours["sqnr_db"], abs=1e-6)


@pytest.mark.parametrize(("values", "reference", "sqnr"), [(0, 0, 200.0), (1, 0, -200.0), (0, 1, 0.0)])
def test_figures_of_zeros_are_json_numbers(values: float, reference: float, sqnr: float) -> None:
    """No infinity, no division by zero."""
    ours = common().drift(np.full(3, values, np.float32), np.full(3, reference, np.float32))
    assert ours["sqnr_db"] == sqnr
    json.dumps(ours, allow_nan=False)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([0.0, 1e-4, 0.1, 2.0]))
def test_camera_angles_are_those_of_the_report(seed: int, frames: int, scale: float) -> None:
    """``calibration.metrics.pose_errors`` of the decoded cameras, over all pairs."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=(1, frames, 9))
    ours = truth + random.normal(scale=scale, size=truth.shape)
    found = common().camera_errors(ours.astype(np.float32), truth.astype(np.float32))
    cameras = [decode_pose(pose[0].astype(np.float32), (14, 14))[0] for pose in (ours, truth)]
    errors = pose_errors(*cameras)
    assert found["rotation_degrees"] == pytest.approx(errors.rotation_deg.max(), abs=1e-5)
    assert found["translation_degrees"] == pytest.approx(errors.translation_deg.max(), abs=1e-5)


def test_one_frame_has_no_relative_camera() -> None:
    """And a quaternion of length 0 is none."""
    pose = np.ones((1, 1, 9), np.float32)
    assert common().camera_errors(pose, pose) is None
    assert common().camera_errors(np.zeros((1, 2, 9), np.float32), np.ones((1, 2, 9), np.float32)) is None


# --- files that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["cut", "longer", "missing"])
def test_damaged_outputs(kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], change: str) -> None:
    """Cut short, too long, missing: code 2, and which output it is."""
    folder, outputs = kit_folder(), kit_outputs()
    file = outputs / "output-1.bin"
    if change == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-4] if change == "cut" else file.read_bytes() + b"\0")
    done = run(folder, "--outputs", outputs)
    refused(done, folder)
    assert "depth" in done.stderr


def test_a_missing_folder_of_outputs(kit_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The path is named."""
    folder = kit_folder()
    done = run(folder, "--outputs", tmp_path / "nowhere")
    refused(done, folder)
    assert "nowhere" in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b"{}", b"[" * 100_000, b'{"schema_version": 2}', b'{"schema_version": 1, "outputs": 3}'
    ],
)  # fmt: skip
def test_foreign_kit_files(kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], content: bytes) -> None:
    """Empty, no text, no table, another version, nested without end."""
    folder = kit_folder()
    (folder / "kit.json").write_bytes(content)
    refused(run(folder, "--outputs", kit_outputs()), folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("outputs",), []),
        (("outputs", 0, "shape"), [1, -2, 9]),
        (("outputs", 0, "shape"), [1, 2.0, 9]),
        (("outputs", 0, "shape"), [2**40, 2**40]),
        (("outputs", 0, "name"), "depth"),
        (("outputs", 0, "name"), 7),
        (("tolerances",), {}),
        (("tolerances", "backend_sqnr_db_min"), "many"),
        (("tolerances", "backend_sqnr_db_min"), 0),
        (("tolerances", "backend_sqnr_db_min"), -300),
        (("tolerances", "backend_sqnr_db_min"), 201),
        (("tolerances", "pose_degrees_max"), 181),
        (("golden", "file"), "../\u0301golden.safetensors"),
        (("golden", "file"), "golden\0.safetensors"),
        (("tolerances", "backend_sqnr_db_min"), float("nan")),
        (("tolerances", "backend_sqnr_db_min"), 10**400),
        (("tolerances", "backend_sqnr_db_min"), True),
        (("golden",), None),
        (("golden", "file"), "../golden.safetensors"),
        (("golden", "file"), "missing.safetensors"),
        (("golden", "sha256"), "0" * 64),
        (("model",), None),
        (("model", "memory"), {}),
        (("model", "memory", "planned_bytes"), -1),
    ],
    ids=str,
)
def test_hostile_kit_files(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], path: tuple[Any, ...], value: Any
) -> None:
    """One wrong field in an otherwise good file."""
    folder = kit_folder()
    refused(run(with_field(folder, path, value), "--outputs", kit_outputs()), folder)


def with_field(folder: Path, path: tuple[Any, ...], value: Any) -> Path:
    kit = json.loads((folder / "kit.json").read_text())
    *parents, last = path
    owner = kit
    for step in parents:
        owner = owner[step]
    owner[last] = value
    (folder / "kit.json").write_text(json.dumps(kit))
    return folder


def test_hostile_golden_files(
    kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path], kit_vectors: ModuleType
) -> None:
    """Headers that lie about lengths, places, shapes and types, each under the sha256 of its own."""
    folder, outputs = kit_folder(), kit_outputs()
    whole = (folder / "golden.safetensors").read_bytes()
    for name, data in [*hostile(whole), *kit_vectors.ios_vectors()._hostile(np.zeros((2, 3), np.float32))]:
        path = folder / "golden.safetensors"
        path.write_bytes(data)
        with_field(folder, ("golden", "sha256"), module().sha256_of(path))
        done = run(folder, "--outputs", outputs)
        assert done.returncode == 2, (name, done.stderr)
        refused(done, folder)


def hostile(whole: bytes) -> list[tuple[str, bytes]]:
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    payload = whole[8 + length :]
    last = max(header, key=lambda key: header[key]["data_offsets"][1])
    without = {key: entry for key, entry in header.items() if key != "simulation/depth"}
    nan = payload[:-4] + np.float32(np.nan).tobytes()
    turned = json.loads(json.dumps(header))
    turned["simulation/depth"]["shape"].reverse()
    return [
        ("cut short", whole[:-1]),
        ("something behind", whole + b"\0"),
        ("a header of 2^63 bytes", (2**63).to_bytes(8, "little") + whole[8:]),
        ("a tensor missing", packed(without, payload)),
        ("another shape", packed(turned, payload)),
        ("half floats", packed({**header, last: {**header[last], "dtype": "F16"}}, payload)),
        ("NaN", packed(header, nan)),
    ]


def packed(header: dict[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


# --- the list for run_on_device.sh ------------------------------------------------------------------------------------


def test_list_of_files(kit_folder: Callable[..., Path]) -> None:
    """Roles, sha256, names, and how many outputs to fetch."""
    folder = kit_folder(weights=True)
    lines = [line.split("\t") for line in run(folder, "--files").stdout.splitlines()]
    assert [(role, name) for role, _, name in lines] == [
        ("program", "vggt.pte"), ("weights", "vggt.ptd"), ("input", "golden/input_0.bin"), ("outputs", "3"),
    ]  # fmt: skip
    for _, digest, name in lines[:-1]:
        assert module().sha256_of(folder / name) == digest


@pytest.mark.parametrize("name", ["../vggt.pte", "/vggt.pte", "a b.pte", "$(reboot).pte", "-rf", "a\tb", "a\nb", ""])
def test_names_that_a_shell_would_misread(kit_folder: Callable[..., Path], name: str) -> None:
    """They never reach the device's shell."""
    folder = with_field(kit_folder(), ("model", "program"), name)
    done = run(folder, "--files")
    refused(done, folder)
    assert done.stdout == ""

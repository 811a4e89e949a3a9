"""The whole line on the embedded model: sound bundles, the same bytes twice, resumption, clear refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft202012Validator

from vggt_edge.calibration.stages.walk import Stage
from vggt_edge.exporter import job
from vggt_edge.exporter.bundle import read_manifest
from vggt_edge.exporter.models.checkpoint import read_checkpoint, save_checkpoint
from vggt_edge.exporter.models.prepared import save_tuned
from vggt_edge.exporter.models.registry import MINI_WEIGHTS
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.rerun import validate
from vggt_edge.exporter.schemas import schemas
from vggt_edge.exporter.steps.inputs import BENCH_SEED, CALIBRATION_SEED, VALIDATION_SEED, synthetic
from vggt_edge.exporter.validation import Row, Status, ValidationReport
from vggt_edge.runtimes.common.kit import script_module

pytestmark = pytest.mark.slow

photographs = script_module(Path(__file__).with_name("pictures.py"), "pictures").photographs
Run = Callable[..., Any]
# Small and quick: what is tested here is the line, not the accuracy, and no backend compiles anything for the host.
SMALL = ("--target", "host-cpu", "--frames", "2", "--resolution", "42", "--set", "calibration_scenes=4")
LAX = ("--set", "precision=w8a16")


def make_key(folder: Path) -> Path:
    """A private key, with its public half beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "key.pub").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public))
    return folder / "key.pem"


def faults(sbom: str) -> list[str]:
    """Faults that CycloneDX's own validator finds."""
    return [str(one) for one in JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom, all_errors=True) or ()]


def check_schemas(bundle: Path) -> None:
    """The documents of a bundle fit their schemas."""
    texts = schemas()
    for name in ("manifest", "plan", "stats", "validation", "measured"):
        schema = json.loads(texts[f"{name}.schema.json"])
        Draft202012Validator(schema).validate(json.loads((bundle / f"{name}.json").read_text()))


def digests(bundle: Path) -> dict[str, str]:
    """sha256 by path, for every file but ``measured.json``."""
    return {entry.path: entry.sha256 for entry in read_manifest(bundle).files}


def test_an_export_is_a_sound_bundle_that_is_not_made_twice(vggt_edge: Run, tmp_path: Path) -> None:
    finished = vggt_edge("export", *SMALL, *LAX, "-o", tmp_path / "one", "--json")
    assert finished.code == 0, finished.err
    assert finished.document["result"]["status"] == "passed"
    assert not (tmp_path / "one.work").exists()
    licences = vggt_edge("licenses", tmp_path / "one", "--json").document["result"]["parts"]
    assert licences[0] == {
        "name": "vggt-mini for host-cpu",
        "kind": "weights",
        "license": "Apache-2.0",
        "commercial": True,
    }
    assert faults((tmp_path / "one" / "sbom.cdx.json").read_text()) == []
    check_schemas(tmp_path / "one")
    key = make_key(tmp_path)
    signs = ("--sign-key", key, "--purpose", "commercial")
    again = vggt_edge("export", *SMALL, *LAX, "-o", tmp_path / "one", "--resume", *signs)
    assert again.code == 0, again.err
    assert vggt_edge("verify", tmp_path / "one", "--key", key.with_suffix(".pub")).code == 0
    assert "is finished already" in again.err  # a run may be killed after it has published its output
    other = vggt_edge("export", *SMALL, *LAX, "--seed", "5", "-o", tmp_path / "one", "--resume")
    assert other.code == 2
    assert validate(tmp_path / "one").status is Status.PASSED
    assert (tmp_path / "one" / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(("value", "signed"), [(30.0, True), (10.0, False)])
def test_only_what_passed_its_validation_is_signed(value: float, signed: bool) -> None:
    status = Status.PASSED if signed else Status.FAILED
    row = Row("simulation", "depth", "sqnr_db", "fp32", status, value, 20.0, "sqnr_db_min")
    notes: list[str] = []
    work = SimpleNamespace(progress=SimpleNamespace(note=notes.append))
    signing = SimpleNamespace(seal=lambda folder, manifest: "signed")
    seal = job._seal(work, ValidationReport(("room",), (), (row,)), signing)
    assert seal(Path("folder"), None) == ("signed" if signed else None)
    assert notes == ([] if signed else ["validation failed: the bundle is not signed"])


def killed_when(command: list[str], reached: Callable[[], bool], seconds: float = 120) -> None:
    """Start the command and kill it the hard way as soon as ``reached``."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + seconds
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def stages_done(work: Path, step: str, journal: str) -> int:
    """How far the journal of an unfinished step has come."""
    try:
        (path,) = work.glob(f"{step}-*.unfinished/{journal}/journal.json")
        return int(json.loads(path.read_text())["stages_done"])
    except (ValueError, OSError):
        return 0


def test_an_export_killed_again_and_again_goes_on_each_time(vggt_edge: Run, tmp_path: Path) -> None:
    """In the middle of a calibration, of the probes, of tuning and of both walks of the validation: the same bundle."""
    options = (*SMALL, *LAX, "--sensitivity", "probe", "--outputs", "camera,depth", "--seed", "1")
    command = [sys.executable, "-m", "vggt_edge.exporter.cli", "export", *options, "-o", str(tmp_path / "out")]
    work = tmp_path / "out.work"
    for step, journal, stages in (
        ("calibrate", "values", 7),
        ("sensitivity", "*", 9),
        ("tune", "backward", 6),
        ("validate", "fp32", 5),
        ("validate", "simulation", 11),
    ):
        killed_when(command, lambda: stages_done(work, step, journal) >= stages)  # noqa: B023
        assert not (tmp_path / "out").exists()
        command = [*command, "--resume"]
    resumed = vggt_edge("export", *options, "--resume", "-o", tmp_path / "out")
    assert resumed.code == 0, resumed.err
    assert "calibrate ..." not in resumed.err
    assert "annotate ..." not in resumed.err
    key = make_key(tmp_path)
    assert vggt_edge("export", *options, "-o", tmp_path / "clean", "--sign-key", key).code == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")
    assert vggt_edge("verify", tmp_path / "clean", "--key", key.with_suffix(".pub")).code == 0
    assert not work.exists()


def test_a_stage_that_was_tuned_but_not_booked_is_tuned_again(
    vggt_edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its prepared weights: tuned twice, it would be another."""
    options = (*SMALL, "--precision", "w8a8", "--outputs", "camera", "--effort", "fast", "--sensitivity", "probe")

    def save_and_stop(model: VGGT, stage: Stage, index: int, folder: Path) -> None:
        save_tuned(model, stage, index, folder)
        if stage.name == "frame_blocks.1":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vggt_edge.exporter.steps.tune.save_tuned", save_and_stop)
        assert vggt_edge("export", *options, "-o", tmp_path / "out").code != 0
    assert vggt_edge("export", *options, "--resume", "-o", tmp_path / "out").code in (0, 4)
    assert vggt_edge("export", *options, "-o", tmp_path / "clean").code in (0, 4)
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")


def test_photographs_are_sampled_and_split_into_calibration_and_validation(vggt_edge: Run, tmp_path: Path) -> None:
    """Of five scenes one is held out, and two of the other four are chosen."""
    photos = photographs(tmp_path / "photos", 10)
    chosen = ("--scenes", photos, "--calibration-scenes", "2", "--exclude", "camera_head.*")
    finished = vggt_edge("export", *SMALL, *chosen, "-o", tmp_path / "out", "--json")
    assert finished.code in (0, 4), finished.err
    plan = (tmp_path / "out" / "plan.json").read_text()
    assert '"reason": "kept at 16 bits by --exclude"' in plan
    assert "2 of 4 scenes (0 dropped as outliers), effort balanced" in (tmp_path / "out" / "report.html").read_text()
    sampling = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert len(sampling["names"]) == 4
    assert len(sampling["chosen"]) == 2
    assert read_manifest(tmp_path / "out").digests["sampling"]
    assert vggt_edge("calibrate", *SMALL, *chosen, "-o", tmp_path / "again").code == 0
    assert (tmp_path / "again" / "sampling.json").read_bytes() == (tmp_path / "out" / "sampling.json").read_bytes()


def test_stages_leave_their_artifacts(vggt_edge: Run, tmp_path: Path) -> None:
    assert vggt_edge("calibrate", *SMALL, "-o", tmp_path / "stats").code == 0
    assert vggt_edge("plan", *SMALL, "--max-memory", "12MB", "-o", tmp_path / "plan").code == 0
    assert {path.name for path in (tmp_path / "stats").iterdir()} == {"stats.json", "stats.safetensors"}
    assert {path.name for path in (tmp_path / "plan").iterdir()} >= {"plan.json", "sensitivity.json"}


def damaged_checkpoint(folder: Path) -> Path:
    path = folder / "cut.safetensors"
    path.write_bytes(MINI_WEIGHTS.read_bytes()[:100_000])
    return path


def nan_checkpoint(folder: Path) -> Path:
    mini = read_checkpoint(MINI_WEIGHTS)
    tensors = dict(mini.tensors)
    tensors["camera_head.pose_branch.fc2.bias"] = torch.full((9,), float("nan"))
    path = folder / "nan.safetensors"
    save_checkpoint(tensors, mini.config, path)
    return path


def truncated_photographs(folder: Path) -> Path:
    scenes = photographs(folder / "scenes", 4)
    image = scenes / "2.png"
    image.write_bytes(image.read_bytes()[:500])
    return scenes


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("flag", "make", "code", "said"),
    [
        ("--model", damaged_checkpoint, 2, "cut.safetensors"),
        ("--model", nan_checkpoint, 2, "camera_head.pose_branch.fc2.bias"),
        ("--scenes", truncated_photographs, 2, "2.png"),
        ("--scenes", empty_folder, 2, "holds no images"),
        ("--target", lambda folder: "jetson-orion", 2, "jetson-orin"),
        ("--max-memory", lambda folder: "100kB", 5, "--max-memory"),
        ("--exclude", lambda folder: "no_such_block", 2, "no_such_block"),
    ],
    ids=["cut-model", "nan-model", "cut-image", "no-images", "target", "budget", "exclude"],
)
def test_bad_input_gets_one_clear_error(
    vggt_edge: Run, tmp_path: Path, flag: str, make: Callable[[Path], object], code: int, said: str
) -> None:
    out = tmp_path / "out"
    finished = vggt_edge("export", *SMALL, flag, make(tmp_path), "-o", out)
    assert finished.code == code, finished.err
    assert said in finished.err
    assert "Traceback" not in finished.err
    assert not out.exists()


def test_scenes_of_different_purposes_never_meet() -> None:
    seeds = (CALIBRATION_SEED, VALIDATION_SEED, BENCH_SEED)
    names = [{scene.name for scene in synthetic(first, 3, 5, 2, 14, 14)} for first in seeds]
    assert not set.intersection(*names)
    assert len(set.union(*names)) == 9

"""``deploy --to adb``: the kit's own script, with programs in the place of adb and of the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vggt_edge.exporter.machine.files import file_sha256
from vggt_edge.runtimes.common.kit import script_module

ANDROID = Path(__file__).parents[2] / "runtimes" / "executorch"


@pytest.fixture
def phone(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what adb sees (``devices``) and was asked (``calls``); the runner answers with the simulation."""
    fakes = script_module(ANDROID / "fake_adb.py", "fake_adb")
    vectors = script_module(ANDROID / "kit_vectors.py", "android_kit_vectors")
    fake, kit = tmp_path / "fake", bundle / "executorch"
    (fake / "bin").mkdir(parents=True)
    outputs = vectors.golden_arrays()[1]
    for index, values in enumerate(outputs.values()):
        (fake / f"{index}.bin").write_bytes(values.astype("<f4").tobytes())
    size = (kit / "golden" / "input_0.bin").stat().st_size
    sources = [str(fake / f"{index}.bin") for index in range(len(outputs))]
    (fake / "runner").write_text(fakes.RUNNER.format(python=sys.executable, input_bytes=size, outputs=sources))
    (fake / "bin" / "adb").write_text(fakes.ADB)
    (fake / "bin" / "getprop").write_text(fakes.GETPROP)
    for name in ("adb", "getprop"):
        (fake / "bin" / name).chmod(0o755)
    (fake / "devices").write_text("ABC\tdevice\n\n")
    monkeypatch.setenv("PATH", f"{fake / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    monkeypatch.setenv("SERIAL", "ABC")
    monkeypatch.setenv("DATA", str(fake / "device"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entry for entry in sys.path if "site-packages" in entry))
    return fake


def test_a_whole_deployment(deploy: Callable[..., Any], phone: Path, bundle: Path) -> None:
    """The script's result joins the report; nothing is left on the device."""
    done = deploy("adb:ABC", "--runner", str(phone / "runner"))
    assert done.code == 0, done.err
    (device,) = done.document["result"]["devices"]
    assert (device["status"], device["label"]) == ("passed", "adb-ABC")
    assert device["result"]["device"]["model"] == "Phone ABC"
    assert device["result"]["times"] == {"runs": 3, "mean_ms": 10.0, "load_ms": None}
    assert list((phone / "device" / "vggt-edge").iterdir()) == []
    page = (bundle.with_name("bundle-devices") / "report.html").read_text()
    assert "Phone ABC" in page
    assert "mean 10, 3 runs" in page


@pytest.mark.parametrize(
    ("variables", "devices", "code", "what"),
    [
        ({}, "", 3, "no device is ready"),
        ({"ABIS": "x86_64"}, "ABC\tdevice\n", 3, "not arm64-v8a"),
        ({"DAMAGE": "yes"}, "ABC\tdevice\n", 7, "arrived damaged"),
        ({"FAIL": "0x20"}, "ABC\tdevice\n", 6, "executor_runner failed with 0x20"),
    ],
)
def test_what_the_script_says_is_the_error(
    deploy: Callable[..., Any],
    phone: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    devices: str,
    code: int,
    what: str,
) -> None:
    """Its exit code, and its own words."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (phone / "devices").write_text(devices)
    done = deploy("adb", "--runner", str(phone / "runner"))
    assert done.code == code
    assert what in done.document["result"]["devices"][0]["error"]["what"]


def test_what_is_missing_here(deploy: Callable[..., Any], phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner, then adb itself; a dry run asks for both and calls nothing."""
    done = deploy("adb")
    assert done.code == 2
    assert "--runner" in done.document["result"]["devices"][0]["error"]["what"]
    assert deploy("adb", "--runner", str(phone / "runner"), "--dry-run").code == 0
    assert not (phone / "calls").exists()
    monkeypatch.setenv("PATH", str(phone))
    assert deploy("adb", "--runner", str(phone / "runner")).code == 3


def test_scripts_of_somebody_else_do_not_run_here(deploy: Callable[..., Any], phone: Path, bundle: Path) -> None:
    """A manifest that fits them proves nothing: whoever made the bundle wrote it too."""
    script = bundle / "executorch" / "run_on_device.sh"
    before = file_sha256(script), script.stat().st_size
    script.write_text(script.read_text() + "\ntouch pwned\n")
    manifest = (bundle / "manifest.json").read_text()
    manifest = manifest.replace(before[0], file_sha256(script)).replace(
        f'"size_bytes": {before[1]}', f'"size_bytes": {script.stat().st_size}'
    )
    (bundle / "manifest.json").write_text(manifest)
    done = deploy("adb", "--runner", str(phone / "runner"))
    assert done.code == 2
    assert "run_on_device.sh would run on this machine" in done.document["error"]["what"]
    assert not (phone / "calls").exists()

"""run_on_device.sh in a real shell, with an adb that works on a folder of this machine instead of a device."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from vggt_edge.runtimes.common.kit import script_module
from vggt_edge.runtimes.executorch.kit_files import KIT

SCRIPT = KIT / "run_on_device.sh"
SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]
FAKES = script_module(Path(__file__).with_name("fake_adb.py"), "fake_adb")


@dataclass(frozen=True)
class Bench:
    """A kit, a folder that plays the device, and the environment in which the script finds both."""

    folder: Path
    device: Path
    fake: Path
    runner: Path
    environment: dict[str, str]

    def run(self, *arguments: str, shell: str = "sh", **environment: str) -> subprocess.CompletedProcess[str]:
        command = [shell, *(["sh"] if shell == "busybox" else []), str(self.folder / "run_on_device.sh"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=self.environment | environment, cwd="/"
        )

    def check(self, *arguments: str, shell: str = "sh", **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            "--runner", str(self.runner), "--device-dir", str(self.device), *arguments, shell=shell, **environment
        )

    @property
    def flags(self) -> list[str]:
        return (self.fake / "flags").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path, kit_folder: Callable[..., Path], kit_outputs: Callable[..., Path]) -> Callable[..., Bench]:
    """``bench(weights=, outputs=)``: ready to run."""

    def make(*, weights: bool = False, outputs: Path | None = None) -> Bench:
        folder, fake = kit_folder(weights=weights), tmp_path / "fake"
        (fake / "bin").mkdir(parents=True)
        answers = outputs or kit_outputs()
        sources = [str(answers / f"output-{index}.bin") for index in range(3)]
        runner = fake / "a runner"
        size = (folder / "golden/input_0.bin").stat().st_size
        runner.write_text(FAKES.RUNNER.format(python=sys.executable, input_bytes=size, outputs=sources))
        for name, text in (("adb", FAKES.ADB), ("getprop", FAKES.GETPROP)):
            (fake / "bin" / name).write_text(text)
            (fake / "bin" / name).chmod(0o755)
        (fake / "bin" / "python3").symlink_to(sys.executable)
        (fake / "devices").write_text("ABC\tdevice\n\n")
        environment = {**os.environ, "PATH": f"{fake / 'bin'}:/usr/bin:/bin", "FAKE": str(fake), "SERIAL": "ABC"}
        # The interpreter of a virtual environment finds it by its own path, which the link hides.
        environment["PYTHONPATH"] = ":".join(entry for entry in sys.path if entry.endswith("site-packages"))
        return Bench(folder, tmp_path / "device", fake, runner, environment)

    return make


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_it_parses_in_plain_shells(shell: str) -> None:
    """dash knows no bash, busybox is what small systems have."""
    command = [shell, *(["sh"] if shell == "busybox" else []), "-n", str(SCRIPT)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_shellcheck_finds_nothing() -> None:
    """Where it is installed."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-s", "sh", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_is_careful() -> None:
    """Stops at the first error and at unset names; evaluates no text."""
    text = SCRIPT.read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in text
    assert "eval" not in text


# --- good runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_a_whole_run(bench: Callable[..., Bench], shell: str) -> None:
    """Pushed, run, pulled, compared, cleaned up: the report says what it ran on and how fast."""
    ready = bench()
    done = ready.check("--runs", "3", shell=shell)
    assert done.returncode == 0, done.stderr
    report = json.loads((ready.folder / "result.json").read_text())
    assert report["device"]["model"] == "Phone ABC"
    assert report["times"] == {"runs": 3, "mean_ms": 10.0, "load_ms": None}
    assert list(ready.device.iterdir()) == []
    assert "SQNR 200.00 dB" in done.stdout


def test_flags_of_the_runner(bench: Callable[..., Bench]) -> None:
    """Weights only where the kit has some, threads only where they are asked for."""
    ready = bench(weights=True)
    assert ready.check("--threads", "4", "--serial", "ABC").returncode == 0
    names = [flag.partition("=")[0] for flag in ready.flags]
    assert names == [
        "--cpu_threads", "--data_path", "--inputs", "--model_path", "--num_executions", "--output_file",
    ]  # fmt: skip
    assert dict(flag.split("=") for flag in ready.flags)["--data_path"].endswith("/vggt.ptd")


def test_without_weights(bench: Callable[..., Bench]) -> None:
    """The flag is left out."""
    ready = bench()
    assert ready.check().returncode == 0
    assert not any(flag.startswith(("--data_path", "--cpu_threads")) for flag in ready.flags)


def test_outputs_too_far_away(
    bench: Callable[..., Bench], kit_outputs: Callable[..., Path], kit_vectors: ModuleType
) -> None:
    """compare.py's code 4 is the script's, and the device is cleaned up all the same."""
    ready = bench(outputs=kit_outputs(depth=kit_vectors.golden_arrays()[1]["depth"] * 2))
    assert ready.check().returncode == 4
    assert list(ready.device.iterdir()) == []


def test_help(bench: Callable[..., Bench]) -> None:
    """On stdout, without a device."""
    done = bench().run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: run_on_device.sh")


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "arguments", "code", "message"),
    [
        ("", [], 3, "no device is ready"),
        ("ABC\tunauthorized\n", [], 3, "no device is ready"),
        ("ABC\tdevice\nDEF\tdevice\n", [], 2, "more than one device"),
        ("ABC\tdevice\n", ["--serial", "DEF"], 3, "no device DEF is ready"),
        ("ABC\tdevice\n", ["--serial", "A.C"], 3, "no device A.C is ready"),
    ],
)
def test_devices(bench: Callable[..., Bench], devices: str, arguments: list[str], code: int, message: str) -> None:
    """None, locked, several, another: each with what to do next."""
    ready = bench()
    (ready.fake / "devices").write_text(devices)
    done = ready.check(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "next:" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs", "0"],
        ["--runs", "ten"],
        ["--runs", "1; reboot"],
        ["--threads", "-1"],
        ["--runs"],
        ["--frames", "2"],
        ["--device-dir", "here"],
        ["--device-dir", "/data/../etc"],
        ["--device-dir", "/data/$(reboot)"],
        ["--device-dir", "/data/a b"],
        ["--runner", "/no/such/runner"],
        ["--runner", ""],
    ],
    ids=str,
)
def test_wrong_arguments(bench: Callable[..., Bench], arguments: list[str]) -> None:
    """Code 2 before adb is called at all."""
    ready = bench()
    done = ready.check(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert not (ready.fake / "calls").exists()


@pytest.mark.parametrize("name", ["vggt.pte", "vggt.ptd", "golden/input_0.bin"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_files_stay_here(bench: Callable[..., Bench], name: str, damage: str) -> None:
    """Weights of another model among them: refused before anything is pushed."""
    ready = bench(weights=True)
    (ready.folder / name).unlink() if damage == "missing" else (ready.folder / name).write_bytes(b"other")
    done = ready.check()
    assert done.returncode == 2
    assert name in done.stderr
    assert not (ready.fake / "calls").exists()


def test_a_foreign_kit(bench: Callable[..., Bench]) -> None:
    """compare.py's words and code."""
    ready = bench()
    (ready.folder / "kit.json").write_text("{}")
    done = ready.check()
    assert done.returncode == 2
    assert "kit.json" in done.stderr


def test_another_processor(bench: Callable[..., Bench]) -> None:
    """An emulator on a PC, or an old phone."""
    done = bench().check(ABIS="x86_64")
    assert done.returncode == 3
    assert "not arm64-v8a" in done.stderr


def test_a_full_device(bench: Callable[..., Bench]) -> None:
    """Said before anything is pushed, and the folder made there is removed."""
    ready = bench()
    df = ready.fake / "bin" / "df"
    df.write_text("#!/bin/sh\necho 'Filesystem 1K-blocks Used Available Use% Mounted on'\necho '/dev/x 9 8 1 90% /'\n")
    df.chmod(0o755)
    done = ready.check()
    assert done.returncode == 7
    assert "1 KiB free" in done.stderr
    assert list(ready.device.iterdir()) == []


def test_a_damaged_transfer(bench: Callable[..., Bench]) -> None:
    """What arrived is compared with what was sent."""
    done = bench().check(DAMAGE="yes")
    assert done.returncode == 7
    assert "arrived damaged" in done.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("0x1", "found no memory"), ("0x14", "operator"), ("0x20", "backend"), ("0x21", "method_allocator_pool"),
        ("0x22", "read or mapped"), ("0x23", "damaged"), ("0x30", "another version"), ("0x99", ""),
    ],
)  # fmt: skip
def test_a_runner_that_fails(bench: Callable[..., Bench], code: str, words: str) -> None:
    """Code 6, with what it said and what its own code means."""
    ready = bench()
    done = ready.check(FAIL=code)
    assert done.returncode == 6
    assert f"status {code}" in done.stderr
    assert f"failed with {code}" in done.stderr
    assert words in done.stderr
    assert list(ready.device.iterdir()) == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGILL, "SIGILL")])
def test_a_runner_that_dies(bench: Callable[..., Bench], number: int, name: str) -> None:
    """Code 6, with the signal: the cache of weights that the AAR has on ends some programs."""
    done = bench().check(SIGNAL=str(int(number)))
    assert done.returncode == 6
    assert name in done.stderr


@pytest.mark.parametrize("tool", ["adb", "python3"])
def test_a_missing_tool(bench: Callable[..., Bench], tool: str, tmp_path: Path) -> None:
    """Named, with what to install."""
    ready, empty = bench(), tmp_path / "empty"
    empty.mkdir()
    for name in {"dirname", "cat", "cut", "adb", "python3"} - {tool}:
        found = shutil.which(name, path=ready.environment["PATH"])
        assert found is not None
        (empty / name).symlink_to(found)
    done = ready.check(PATH=str(empty), shell=shutil.which("sh") or "sh")
    assert done.returncode == 3
    assert f"{tool} was not found" in done.stderr

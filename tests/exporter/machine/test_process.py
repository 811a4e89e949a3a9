"""A command ends in an orderly way, whatever becomes of its streams and whoever asks it to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from vggt_edge.exporter import cli
from vggt_edge.exporter.machine.process import Terminated, asked_to_end, signals_raise
from vggt_edge.exporter.machine.progress import SILENT
from vggt_edge.exporter.steps.cache import StepCache

COMMAND = (sys.executable, "-P", "-m", "vggt_edge.exporter.cli")
TARGETS = (*COMMAND, "targets", "--json")
CALIBRATE = (*COMMAND, "calibrate", "--target", "host-cpu", "--effort", "none", "--frames", "1", "--resolution", "42",
    "--calibration-scenes", "2", "--outputs", "camera", "--json")  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


pytestmark = pytest.mark.usefixtures("interruptible")


def shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A line of bash with the command as ``"$@"``."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_behind_stdout_is_said_with_its_exit_code() -> None:
    done = shell('"$@" >/dev/full', *TARGETS)
    assert done.returncode == 7, done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_failure_to_talk_about() -> None:
    done = shell('set -o pipefail; "$@" | head -c 1', *TARGETS)
    assert (done.returncode in (0, 141), done.stdout, done.stderr) == (True, "{", "")


@pytest.mark.parametrize(("line", "says"), [('"$@" >&-', False), ('"$@" 2>&-', True), ('"$@" 2>/dev/full', True)])
def test_closed_and_full_streams_do_not_stop_a_command(line: str, says: bool) -> None:
    done = shell(line, *TARGETS)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) is says


def test_an_umlaut_in_a_locale_without_it_is_escaped(tmp_path: Path) -> None:
    done = shell('PYTHONIOENCODING=ascii "$@"', *COMMAND, "inspect", tmp_path / "h\u00fclle")
    assert done.returncode == 2
    assert r"h\xfclle" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_that_is_asked_to_end_says_so_and_can_be_resumed(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    command = [*CALIBRATE, "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as job:
        wait_for(tmp_path, "out.work/calibrate-*")
        job.send_signal(number)
        out, err = job.communicate(timeout=300)
    assert job.returncode == code, err
    assert json.loads(out)["exit_code"] == code
    assert "--resume" in json.loads(out)["error"]["remedy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.work"]
    resumed = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, check=False, timeout=600, env=ENVIRONMENT
    )
    assert resumed.returncode == 0, resumed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_work_makes_no_failure_of_it(number: signal.Signals) -> None:
    """While the libraries end, which takes a second with torch."""
    code = f"""
import atexit, os, sys
from vggt_edge.exporter.cli import main
atexit.register(os.kill, os.getpid(), {number.value})
sys.argv[1:] = ["targets", "--json"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["exit_code"] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_a_library_makes_another_error_of_is_told_as_the_signal(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An import that is interrupted ends in any error: "maximum recursion depth exceeded" was one."""

    def interrupted(*_: object, **__: object) -> int:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise RecursionError("in a library") from None
        return 0

    monkeypatch.setattr(cli, "app", interrupted)
    assert cli.main(["targets", "--json"]) == code
    assert json.loads(capfd.readouterr().out)["exit_code"] == code


@pytest.mark.parametrize(
    "go_on",
    [
        lambda folder: SILENT.step("next").__enter__(),
        lambda folder: StepCache(folder / "out", resume=False).run("a", {}, lambda folder: None),
    ],
)
def test_a_signal_that_a_library_swallows_ends_the_job_all_the_same(
    go_on: Callable[[Path], object], tmp_path: Path
) -> None:
    """Nothing can be raised in a callback of native code. The next step raises it, and no result counts."""
    with signals_raise():
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated):
            go_on(tmp_path)
    assert not list(tmp_path.glob("out.work/a-*"))
    assert asked_to_end() is None
    go_on(tmp_path)


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), end="", flush=True)
child.wait()
"""
CHILD = """
import os, time
from vggt_edge.runtimes.common.worker import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_a_worker_ends_with_a_parent_that_was_killed_outright() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 400
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, sorted(folder.iterdir())
        time.sleep(0.05)

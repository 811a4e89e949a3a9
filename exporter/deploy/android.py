"""One Android device over adb: the kit's own ``run_on_device.sh``, watched, and its result brought into the report."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from vggt_edge.devices.errors import InputError, ToolchainError, UsageError
from vggt_edge.exporter.bundle import Manifest
from vggt_edge.exporter.deploy.address import ADB, AdbAddress
from vggt_edge.exporter.deploy.kits import AndroidKit
from vggt_edge.exporter.deploy.outcome import TIMED_OUT, Attempt, kit_error
from vggt_edge.exporter.deploy.settings import LONGEST_FILE, Say, Settings
from vggt_edge.exporter.device_report import read_report
from vggt_edge.exporter.device_result import RESULT
from vggt_edge.runtimes.executorch.kit_files import SCRIPTS

_END_S = 15.0
_LONGEST_LINE = 1 << 16


async def deploy(
    attempt: Attempt, address: AdbAddress, kit: AndroidKit, manifest: Manifest, settings: Settings, say: Say
) -> None:
    """Fill the attempt. The script checks device, space and files itself, and cleans up after itself."""
    runner = _runner(settings.runner)
    if shutil.which(ADB) is None:
        raise ToolchainError("adb was not found", where=address.text, remedy="install Android's platform-tools")
    if settings.dry_run:
        return

    def take(line: str) -> None:
        attempt.print(line)
        say(line)

    with TemporaryDirectory(prefix="vggt-edge-adb-") as scratch:
        report = Path(scratch) / RESULT
        command = ["sh", str(kit.source / SCRIPTS[0]), "--runner", str(runner), "--report", str(report)]
        command += ["--serial", address.serial] if address.serial else []
        command += ["--runs", str(settings.runs)] if settings.runs else []
        code = await _attend(command, settings.time_limit_s, take)
        attempt.error = kit_error(code, attempt.log, address.text, settings.time_limit_s)
        content = report.read_bytes() if report.is_file() and report.stat().st_size <= LONGEST_FILE else b""
    if content:
        attempt.report = read_report(content, manifest, kit.outputs, f"{address.text}, {RESULT}")
        attempt.result = content
    elif attempt.error is None:
        raise InputError("run_on_device.sh ended well, and wrote no result.json", where=address.text)


def _runner(given: Path | None) -> Path:
    if given is None or not given.is_file():
        raise UsageError(
            "adb needs --runner" if given is None else f"{given} is no file",
            where="--runner",
            expected="an executor_runner for arm64-v8a with XNNPACK",
            remedy="executorch/README.md in the bundle says how to build it",
        )
    return given.absolute()


async def _attend(command: list[str], limit_s: float, say: Say) -> int:
    """Run a program in a group of its own, with this Python first on the PATH; its exit code, or 124 in the end."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PATH": path},
        start_new_session=True,
        limit=_LONGEST_LINE,
    )
    try:
        async with asyncio.timeout(limit_s):
            assert process.stdout is not None
            while line := await process.stdout.read(_LONGEST_LINE):
                for text in line.decode(errors="replace").splitlines():
                    say(text)
            return await process.wait()
    except TimeoutError:
        return TIMED_OUT
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """The script and what it waits for: it then removes its files from the device."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _END_S)

"""One board over SSH: look, send, run the Jetson kit with tegrastats beside it, and bring the result back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from vggt_edge.devices.errors import InputError, ToolchainError, VggtEdgeError
from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.bundle import Manifest
from vggt_edge.exporter.deploy import tegrastats
from vggt_edge.exporter.deploy.address import SshAddress
from vggt_edge.exporter.deploy.connection import Board, connect
from vggt_edge.exporter.deploy.files import Item, items_of
from vggt_edge.exporter.deploy.kits import CPP, KEY, JetsonKit
from vggt_edge.exporter.deploy.outcome import Attempt, kit_error
from vggt_edge.exporter.deploy.settings import LONGEST_FILE, KitLanguage, Say, Settings
from vggt_edge.exporter.deploy.survey import check_space, check_versions, look
from vggt_edge.exporter.deploy.transfer import send
from vggt_edge.exporter.device_report import read_report
from vggt_edge.exporter.device_result import RESULT
from vggt_edge.exporter.machine.progress import LINE_INTERVAL_S, Interval
from vggt_edge.runtimes.tensorrt.engine import SCRIPT

_CPP_OUTPUT, _CPP_PROGRAM = "cpp-build", "vggt-edge-check"


async def deploy(
    attempt: Attempt, address: SshAddress, kit: JetsonKit, manifest: Manifest, settings: Settings, say: Say
) -> None:
    """Fill the attempt. Every check that can refuse the board comes before the first byte is sent."""
    folder = address.folder or f"vggt-edge/{kit.digest[:16]}"
    async with connect(address, settings.host_keys) as board:
        attempt.survey = survey = await look(board, folder, kit.files, kit.needed)
        check_versions(survey, kit.needed, address.text)
        items = await asyncio.to_thread(items_of, kit.paths, kit.files, survey.files)
        attempt.to_send_bytes = sum(item.missing_bytes for item in items)
        check_space(survey, items, kit.needed, address.text)
        if settings.dry_run:
            return
        await _send(attempt, board, kit, survey.folder, items, say)
        await _run(attempt, board, survey.folder, settings, say)
        content = await board.read(f"{survey.folder}/{RESULT}")
    _judge(attempt, content, kit, manifest, f"{address.text}, {survey.folder}/{RESULT}")


async def _send(attempt: Attempt, board: Board, kit: JetsonKit, folder: str, items: tuple[Item, ...], say: Say) -> None:
    total = attempt.to_send_bytes or 0
    say(f"sending {format_bytes(total)} of {format_bytes(kit.size_bytes)} to {folder}")
    attempt.transfer = await send(board, folder, items, _counter(total, say), replaced=(RESULT,))


def _counter(total: int, say: Say) -> Callable[[int], None]:
    """Return a callback that counts sent bytes and says now and then how many there are."""
    done, interval = 0, Interval(LINE_INTERVAL_S)

    def sent(count: int) -> None:
        nonlocal done
        done += count
        if interval.is_over():
            say(f"sent {format_bytes(done)} of {format_bytes(total)}")

    return sent


async def _run(attempt: Attempt, board: Board, folder: str, settings: Settings, say: Say) -> None:
    def take(line: str) -> None:
        attempt.print(line)
        say(line)

    if settings.kit is KitLanguage.CPP:
        await _compile(board, folder, settings, take)
    has_tegrastats = attempt.survey is not None and attempt.survey.has_tegrastats
    async with _recorded(board, has_tegrastats) as recorder:
        code = await board.attend(_kit_command(folder, settings), settings.time_limit_s, take)
    attempt.telemetry = recorder.telemetry
    attempt.error = kit_error(code, attempt.log, board.address.text, settings.time_limit_s)


def _kit_command(folder: str, settings: Settings) -> list[str]:
    """Both kits have the same options."""
    program = ["python3", "-u", f"{folder}/{SCRIPT}"]
    if settings.kit is KitLanguage.CPP:
        program = [f"{folder}/{_CPP_OUTPUT}/{_CPP_PROGRAM}"]
    given = {
        "--iterations": settings.runs,
        "--key": None if settings.key is None else f"{folder}/{KEY}",
        "--min-release": None if settings.key is None else settings.min_release,
    }
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return [*program, "--folder", folder, "--output", f"{folder}/{RESULT}", *options]


async def _compile(board: Board, folder: str, settings: Settings, take: Say) -> None:
    """``ToolchainError`` where cmake, a compiler or TensorRT's headers are missing."""
    output = f"{folder}/{_CPP_OUTPUT}"
    for command in (["cmake", "-S", f"{folder}/{CPP}", "-B", output], ["cmake", "--build", output, "--parallel"]):
        if (code := await board.attend(command, settings.time_limit_s, take)) != 0:
            raise ToolchainError(
                f"the kit in C++ cannot be compiled on the board: {' '.join(command[:2])} ended with {code}",
                where=board.address.text,
                expected="cmake, a C++17 compiler, TensorRT's and CUDA's headers: tensorrt/cpp/README.md",
                remedy="read what it printed above, or use --kit python",
            )


@asynccontextmanager
async def _recorded(board: Board, is_there: bool) -> AsyncIterator[tegrastats.Recorder]:
    """tegrastats beside the kit; a board without it, or one that ends it, costs no more than its figures."""
    recorder = tegrastats.Recorder()
    if not is_there:
        yield recorder
        return
    task = asyncio.create_task(board.attend(list(tegrastats.COMMAND), None, recorder.add))
    try:
        yield recorder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, VggtEdgeError):
            await task


def _judge(attempt: Attempt, content: bytes | None, kit: JetsonKit, manifest: Manifest, where: str) -> None:
    """The result joins the attempt. A kit that ended before it wrote one has said why already."""
    if content is None or len(content) > LONGEST_FILE:
        if attempt.error is None:
            raise InputError("the kit ended well, and wrote no result.json of a sensible size", where=where)
        return
    attempt.report = read_report(content, manifest, kit.outputs, where)
    attempt.result = content

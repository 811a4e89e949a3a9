"""Deploy to several devices at once; a signal ends what runs on each of them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from vggt_edge.devices.errors import ResourceError, ToolchainError, VggtEdgeError
from vggt_edge.exporter.bundle import Manifest
from vggt_edge.exporter.deploy.address import AdbAddress, Address, SshAddress
from vggt_edge.exporter.deploy.kits import AndroidKit, JetsonKit, android_kit, jetson_kit
from vggt_edge.exporter.deploy.outcome import Attempt
from vggt_edge.exporter.deploy.settings import Settings

T = TypeVar("T")
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass(frozen=True)
class Kits:
    """Those that the addresses need; None: none needs it."""

    jetson: JetsonKit | None
    android: AndroidKit | None


def kits_of(bundle: Path, manifest: Manifest, addresses: Sequence[Address], settings: Settings) -> Kits:
    """Read the kits of a bundle. Errors name what the bundle, or this machine, lacks."""
    kinds = {type(address) for address in addresses}
    if SshAddress in kinds:
        _check_library()
    return Kits(
        jetson_kit(bundle, manifest, settings.kit, settings.key) if SshAddress in kinds else None,
        android_kit(bundle, manifest) if AdbAddress in kinds else None,
    )


def _check_library() -> None:
    try:
        import asyncssh  # noqa: F401, only whether it is there
    except ImportError as error:
        raise ToolchainError(
            f"asyncssh cannot be imported: {error}", where="--to ssh://", remedy='pip install "vggt-edge[deploy]"'
        ) from error


def deploy_all(
    addresses: Sequence[Address], kits: Kits, manifest: Manifest, settings: Settings, note: Callable[[str], None]
) -> tuple[Attempt, ...]:
    """An attempt for each address, in their order; its error is kept in it. note: told each line, with the device."""

    async def everywhere() -> tuple[Attempt, ...]:
        return tuple(await asyncio.gather(*(_deploy(one, kits, manifest, settings, note) for one in addresses)))

    return _until_signalled(everywhere())


async def _deploy(
    address: Address, kits: Kits, manifest: Manifest, settings: Settings, note: Callable[[str], None]
) -> Attempt:
    attempt = Attempt(address)

    def say(line: str) -> None:
        note(f"{address.label}: {line}")

    try:
        if isinstance(address, SshAddress):
            from vggt_edge.exporter.deploy import ssh

            assert kits.jetson is not None
            await ssh.deploy(attempt, address, kits.jetson, manifest, settings, say)
        else:
            from vggt_edge.exporter.deploy import android

            assert kits.android is not None
            await android.deploy(attempt, address, kits.android, manifest, settings, say)
    except VggtEdgeError as error:
        attempt.error = error
    except OSError as error:  # of this machine; the other devices go on
        attempt.error = ResourceError(
            f"cannot use a file: {error.strerror}",
            where=str(error.filename or address.text),
            expected="a readable file",
        )
    return attempt


def _until_signalled(work: Coroutine[Any, Any, T]) -> T:
    """Run it. A signal cancels it, so that its clean-up is awaited, and does then what it always does."""
    with asyncio.Runner() as runner:
        loop, came = runner.get_loop(), list[int]()
        task = loop.create_task(work)

        def cancel(number: int, _frame: FrameType | None) -> None:
            came.append(number)
            loop.call_soon_threadsafe(task.cancel)

        with _handled_by(cancel) as before:
            try:
                return loop.run_until_complete(task)
            except asyncio.CancelledError:
                if not came:
                    raise
    handler = before[came[0]]
    assert callable(handler)
    handler(came[0], None)
    raise AssertionError("a signal handler that raises nothing")


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Signals go there meanwhile; those that are ignored stay ignored. Yields the handlers from before."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handled = [one for one in _SIGNALS if callable(signal.getsignal(one))]
        before = {one: signal.signal(one, handler) for one in handled}
    try:
        yield before
    finally:
        for one, old in before.items():
            signal.signal(one, old)

"""Send files to a board so that a broken transfer goes on where it was.

A file is written as ``NAME.part`` in order, chunk by chunk. When all have arrived, each gets its name if its sha256 is
right. What lies there already, whole or in part, is hashed on the board and not sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from time import perf_counter

import asyncssh

from vggt_edge.devices.errors import ResourceError
from vggt_edge.exporter.bundle import FileEntry
from vggt_edge.exporter.deploy.connection import Board, connection_lost
from vggt_edge.exporter.deploy.files import CHUNK_BYTES, Item, Transfer

_PART = ".part"


@dataclass(frozen=True)
class _Damaged:
    """damaged: paths of files that are not what was sent."""

    damaged: tuple[str, ...]


async def send(
    board: Board,
    folder: str,
    items: Sequence[Item],
    sent: Callable[[int], None],
    *,
    replaced: Sequence[str] = (),
    chunk_bytes: int = CHUNK_BYTES,
) -> Transfer:
    """Bring files into a folder of the board.

    sent: told the bytes of each chunk. replaced: files of an earlier run, which are removed. ``DeviceError`` where the
    connection is lost, ``ResourceError`` where a file does not fit or arrives damaged.
    """
    began = perf_counter()
    missing = [item for item in items if not item.is_whole]
    with connection_lost(board.address.text):
        async with board.connection.start_sftp_client() as remote:
            await _make_room(remote, folder, missing, replaced)
            for item in missing:
                target = f"{folder}/{item.entry.path}{_PART}"
                await _write(remote, item.local, target, item.start, sent, chunk_bytes)
    if missing:
        await _keep(board, folder, [item.entry for item in missing])
    return Transfer(
        sent_bytes=sum(item.missing_bytes for item in items),
        kept_bytes=sum(item.start for item in items),
        seconds=perf_counter() - began,
    )


async def _write(
    remote: asyncssh.SFTPClient, source: Path, target: str, start: int, sent: Callable[[int], None], chunk_bytes: int
) -> None:
    with source.open("rb") as file:
        file.seek(start)
        async with remote.open(target, "r+b" if start else "wb") as part:
            while chunk := file.read(chunk_bytes):
                await part.write(chunk, start)
                start += len(chunk)
                sent(len(chunk))
            await part.truncate(start)


async def _make_room(
    remote: asyncssh.SFTPClient, folder: str, missing: Sequence[Item], replaced: Sequence[str]
) -> None:
    """The folders that the files need; and nothing of an earlier run that could be taken for this one's."""
    for parent in sorted({folder, *(str(PurePosixPath(folder, item.entry.path).parent) for item in missing)}):
        await remote.makedirs(parent, exist_ok=True)
    for name in replaced:
        with suppress(asyncssh.SFTPNoSuchFile):
            await remote.remove(f"{folder}/{name}")


async def _keep(board: Board, folder: str, entries: Sequence[FileEntry]) -> None:
    """The board hashes what arrived, and gives the files their names."""
    files = [{"path": entry.path, "sha256": entry.sha256} for entry in entries]
    answer = await board.ask(_Damaged, {"do": "keep", "folder": folder, "files": files})
    if answer.damaged:
        raise ResourceError(
            f"{', '.join(answer.damaged)} arrived damaged on the board",
            where=board.address.text,
            expected="files with the sha256 of the manifest",
            remedy="check the board's storage, then the same command again",
        )

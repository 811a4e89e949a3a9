"""A board over SSH: how to get in, and one program there that is asked for things. asyncssh does the work.

Keys, agent, aliases, ports, users and jump hosts come from ``~/.ssh``. Nothing of the user's is asked for or stored.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncssh

from vggt_edge.calibration.documents import read_document
from vggt_edge.devices.errors import DeviceError, ResourceError, ToolchainError, UsageError, VggtEdgeError
from vggt_edge.exporter.deploy.address import SshAddress
from vggt_edge.exporter.deploy.settings import LONGEST_FILE, Say

T = TypeVar("T")

CONNECT_S = 20.0
KEEPALIVE_S, KEEPALIVES = 15.0, 4
#: A board that has a program to end takes this long at most (kit_board/board.py waits five seconds twice).
END_S = 12.0
LONGEST_LINE = 4096
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
# The only string that a shell on the board reads: the program itself comes through standard input.
_COMMAND = shlex.join(
    ["python3", "-u", "-c", "import json, sys; exec(json.loads(sys.stdin.buffer.raw.readline()))"],
)
_NO_PROGRAM = (126, 127)


class _Client(asyncssh.SSHClient):
    """Judges keys that known_hosts does not list. accepted: fingerprints that the user trusts."""

    def __init__(self, accepted: frozenset[str]) -> None:
        self.accepted, self.is_known, self.fingerprint = accepted, False, ""

    def known_keys(self, files: tuple[str, ...], host: str, address: str, port: int | None) -> Any:
        """What known_hosts says of a host; also notes whether it says anything."""
        known = asyncssh.SSHKnownHosts()
        for file in map(Path, files):
            with suppress(FileNotFoundError):
                known.load(file.expanduser().read_text(encoding="utf-8", errors="replace"))
        found = known.match(host, address, port)
        self.is_known = self.is_known or bool(found[0])
        return found

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for keys that known_hosts does not list; a host that it lists with another key stays refused."""
        self.fingerprint = key.get_fingerprint()
        return not self.is_known and self.fingerprint in self.accepted


@asynccontextmanager
async def connect(address: SshAddress, host_keys: frozenset[str] = frozenset()) -> AsyncIterator[Board]:
    """The board, logged in. host_keys: fingerprints of hosts that known_hosts does not list.

    ``DeviceError`` where it is not reached, not trusted, or lets nobody in.
    """
    client = _Client(host_keys)
    with _explained(address, client):
        connection = await asyncio.wait_for(_open(address, client), CONNECT_S)
    try:
        yield Board(address, connection)
    finally:
        connection.close()
        with suppress(asyncio.TimeoutError, asyncssh.Error, OSError):
            await asyncio.wait_for(connection.wait_closed(), END_S)


async def _open(address: SshAddress, client: _Client) -> asyncssh.SSHClientConnection:
    given: dict[str, Any] = {"username": address.user, "port": address.port}
    given = {name: value for name, value in given.items() if value is not None}
    options = asyncssh.SSHClientConnectionOptions(host=address.host, **given)
    # Lists of files only: "UserKnownHostsFile none" would otherwise switch the check off.
    files = tuple(map(str, options.known_hosts or ())) if isinstance(options.known_hosts, list) else ()

    def known(host: str, addr: str, port: int | None) -> Any:
        return client.known_keys(files or KNOWN_HOSTS, host, addr, port)

    return await asyncssh.connect(
        address.host,
        known_hosts=known,
        client_factory=lambda: client,
        keepalive_interval=KEEPALIVE_S,
        keepalive_count_max=KEEPALIVES,
        **given,
    )


@contextmanager
def _explained(address: SshAddress, client: _Client) -> Iterator[None]:
    try:
        yield
    except asyncssh.HostKeyNotVerifiable as error:
        raise _untrusted(address, client, error) from error
    except asyncssh.PermissionDenied as error:
        raise DeviceError(
            f"authentication failed: {error.reason}",
            where=address.text,
            expected="a key that the board accepts, in ~/.ssh or in the agent; passwords are never asked for",
            remedy=f"ssh-copy-id {_login(address)}; ssh-add for a key with a passphrase",
        ) from error
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise UsageError(
            f"cannot use ~/.ssh: {error}",
            where=address.text,
            expected="a configuration and keys that ssh itself can use",
            remedy="ssh-add a key with a passphrase, so that the agent holds it",
        ) from error
    except (TimeoutError, asyncssh.Error, OSError) as error:
        raise DeviceError(
            f"cannot reach the board: {_reason(error)}",
            where=address.text,
            expected="an SSH server that answers",
            remedy=f"try it by hand: ssh {_login(address)}",
        ) from error


def _untrusted(address: SshAddress, client: _Client, error: asyncssh.HostKeyNotVerifiable) -> DeviceError:
    if client.is_known:
        return DeviceError(
            f"the host key has changed: it is {client.fingerprint} now" if client.fingerprint else error.reason,
            where=address.text,
            expected="the key that known_hosts lists: another one may mean that somebody listens in",
            remedy=f"if the board was flashed again: ssh-keygen -R {_known_as(address)}, then ssh {_login(address)}",
        )
    if not client.fingerprint:  # revoked, or a certificate that does not hold
        return DeviceError(f"the host is not trusted: {error.reason}", where=address.text)
    return DeviceError(
        f"unknown host, with the key {client.fingerprint}",
        where=address.text,
        expected="a host that known_hosts lists",
        remedy=f"compare the fingerprint with the board's own, then --host-key {client.fingerprint}",
    )


def _login(address: SshAddress) -> str:
    words = ["-p", str(address.port)] if address.port else []
    return shlex.join([*words, f"{address.user}@{address.host}" if address.user else address.host])


def _known_as(address: SshAddress) -> str:
    return shlex.quote(f"[{address.host}]:{address.port}" if address.port not in (None, 22) else address.host)


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {CONNECT_S:g} s"
    return str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error or type(error).__name__)


@contextmanager
def connection_lost(where: str) -> Iterator[None]:
    """``DeviceError`` for a connection that ends in the middle, ``ResourceError`` for a write that is refused."""
    try:
        yield
    except (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost, asyncssh.SFTPEOFError) as error:
        raise _lost(where, error) from error
    except asyncssh.SFTPError as error:
        raise ResourceError(
            f"the board refuses a file: {error.reason}",
            where=where,
            expected="a folder that the user may write to, with space left",
            remedy="free some space there, or name another folder: ssh://user@board/folder",
        ) from error
    except asyncssh.ChannelOpenError as error:
        raise DeviceError(
            f"the board opens no session: {error.reason}",
            where=where,
            expected="an SSH server with sessions for commands and for files (SFTP)",
            remedy="sudo apt-get install openssh-sftp-server on the board; see MaxSessions in its sshd_config",
        ) from error
    except (asyncssh.Error, ConnectionError) as error:
        raise _lost(where, error) from error


def _lost(where: str, error: BaseException | None = None) -> DeviceError:
    return DeviceError(
        "the connection was lost" + (f": {_reason(error)}" if error is not None else ""),
        where=where,
        remedy="the same command again: what has arrived is not sent again",
    )


@dataclass(frozen=True)
class Board:
    """A connection, and the questions that it takes."""

    address: SshAddress
    connection: asyncssh.SSHClientConnection

    async def ask(self, kind: type[T], request: Mapping[str, object]) -> T:
        """The answer of ``kit_board/board.py``; its errors, and those of its Python, as errors of the project."""
        with connection_lost(self.address.text):
            done = await self.connection.run(_COMMAND, input=_program(request), errors="replace")
        answer = str(done.stdout or "").strip().rpartition("\n")[2]
        if done.exit_status is None:
            raise _lost(self.address.text)
        if done.exit_status != 0:
            raise self._no_answer(done.exit_status, str(done.stderr or ""))
        failure = json.loads(answer) if answer.startswith('{"error"') else None
        if failure:
            raise ResourceError(
                f"the board cannot use a file: {failure['error']}",
                where=self.address.text,
                expected="a folder that the user may write to, with space left",
            )
        return read_document(
            kind,
            answer,
            what="the answer of a board",
            where=self.address.text,
            expected="what kit_board/board.py prints",
            remedy="look at what the login shell of the board prints and runs",
        )

    def _no_answer(self, code: int, said: str) -> VggtEdgeError:
        what = "python3 was not found" if code in _NO_PROGRAM else f"python3 ended with {code}"
        return ToolchainError(
            f"{what} on the board: {said.strip()[-LONGEST_LINE:]}",
            where=self.address.text,
            expected="Python 3.8 or later for commands over SSH",
            remedy="sudo apt-get install python3 python3-numpy",
        )

    async def attend(self, command: list[str], limit_s: float | None, say: Say) -> int:
        """Run a program there, hand on what it prints line by line, and return its exit code.

        It ends when this call is cancelled, when the connection does, and after ``limit_s`` seconds (124).
        """
        request = {"do": "attend", "command": command, "limit_s": limit_s}
        with connection_lost(self.address.text):
            process = await self.connection.create_process(_COMMAND, errors="replace")
            process.stdin.write(_program(request))
            try:
                await asyncio.gather(_hand_on(process.stdout, say), _hand_on(process.stderr, say))
                await process.wait_closed()
            except BaseException:
                await _end(process)
                raise
        if process.exit_status is None:
            raise _lost(self.address.text)
        return process.exit_status

    async def read(self, path: str) -> bytes | None:
        """A small file of the board; None where there is none."""
        with connection_lost(path):
            async with self.connection.start_sftp_client() as files:
                try:
                    async with files.open(path, "rb") as file:
                        return cast(bytes, await file.read(LONGEST_FILE + 1))
                except asyncssh.SFTPNoSuchFile:
                    return None


def _program(request: Mapping[str, object]) -> str:
    source = (resources.files("vggt_edge.exporter.deploy") / "kit_board" / "board.py").read_text(encoding="utf-8")
    return f"{json.dumps(source)}\n{json.dumps(request)}\n"


async def _end(process: asyncssh.SSHClientProcess[str]) -> None:
    """The end of its input tells the board to end the program; waits until it did."""
    with suppress(OSError, asyncssh.Error, asyncio.TimeoutError):
        process.stdin.write_eof()
        await asyncio.wait_for(process.wait_closed(), END_S)


async def _hand_on(reader: asyncssh.SSHReader[str], say: Say) -> None:
    """Line by line; a line that does not end is cut."""
    rest = ""
    while text := await reader.read(LONGEST_LINE):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            say(line.rstrip("\r"))
        if len(rest) > LONGEST_LINE:
            say(rest)
            rest = ""
    if rest:
        say(rest)

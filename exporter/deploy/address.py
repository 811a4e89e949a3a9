"""Where a bundle is to go: what ``--to`` may say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from vggt_edge.devices.errors import UsageError

ADB = "adb"
_EXPECTED = "ssh://[user@]host[:port][/folder], adb, or adb:SERIAL"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")


@dataclass(frozen=True)
class SshAddress:
    """A board that is reached over SSH.

    - text: as the user wrote it.
    - host: name, address or alias of ``~/.ssh/config``.
    - user, port: None: as ``~/.ssh/config`` or the system says.
    - folder: where the kit goes, absolute or below the user's home; empty: a folder of its own for each bundle.
    """

    text: str
    host: str
    user: str | None = None
    port: int | None = None
    folder: str = ""

    @property
    def label(self) -> str:
        """A name for tables and folders."""
        return _plain("-".join(str(part) for part in (self.user, self.host, self.port) if part is not None))


@dataclass(frozen=True)
class AdbAddress:
    """An Android device. serial: empty: the only one that adb sees."""

    text: str
    serial: str = ""

    @property
    def label(self) -> str:
        """A name for tables and folders."""
        return _plain("-".join(filter(None, (ADB, self.serial))))


Address: TypeAlias = SshAddress | AdbAddress


def parse_addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    """The addresses in the order given; ``UsageError`` for one that is none, or that is there twice."""
    addresses = tuple(map(parse_address, texts))
    for index, address in enumerate(addresses):
        if address in addresses[:index] or address.label in {other.label for other in addresses[:index]}:
            raise UsageError(f"{address.text} is there twice", where="--to", expected="every device once")
    return addresses


def parse_address(text: str) -> Address:
    """``UsageError`` for everything that is no address."""
    scheme, _, rest = text.partition(":")
    if scheme == ADB:
        if text != ADB and not _SERIAL.fullmatch(rest):
            raise _refused(text, "no serial number")
        return AdbAddress(text, rest)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused(text, str(error)) from error
    if parts.scheme != "ssh":
        raise _refused(text, "an unknown kind of address")
    return _ssh(text, parts, port)


def _ssh(text: str, parts: SplitResult, port: int | None) -> SshAddress:
    if parts.password is not None:
        raise _refused(text.replace(parts.password, "..."), "a password, which the process list would show")
    if parts.query or parts.fragment:
        raise _refused(text, "a question mark or a hash, which are written %3F and %23")
    host, user = parts.hostname or "", parts.username
    if not _HOST.fullmatch(host):
        raise _refused(text, f"no host: {host!r}")
    if user is not None and not _NAME.fullmatch(unquote(user)):
        raise _refused(text, f"no user name: {user!r}")
    return SshAddress(text, host, unquote(user) if user else None, port, _folder(text, unquote(parts.path)))


def _folder(text: str, path: str) -> str:
    """``/~/bundles`` lies below the home of the user, ``/opt/bundles`` does not."""
    if any(not character.isprintable() for character in path) or ".." in path.split("/"):
        raise _refused(text, "a folder with control characters or ..")
    if path.startswith("/~/"):
        return path[3:].strip("/")
    return path.rstrip("/")


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)


def _refused(text: str, why: str) -> UsageError:
    return UsageError(f"cannot deploy to {text!r}: {why}", where="--to", expected=_EXPECTED)

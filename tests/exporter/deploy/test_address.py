"""What ``--to`` takes, and what it refuses."""

from __future__ import annotations

import pytest

from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.deploy.address import AdbAddress, SshAddress, parse_address, parse_addresses


@pytest.mark.parametrize(
    ("text", "host", "user", "port", "folder", "label"),
    [
        ("ssh://orin", "orin", None, None, "", "orin"),
        ("ssh://nv@10.0.0.7:2222", "10.0.0.7", "nv", 2222, "", "nv-10.0.0.7-2222"),
        ("ssh://nv@orin/opt/vggt/", "orin", "nv", None, "/opt/vggt", "nv-orin"),
        ("ssh://orin/~/a%20b", "orin", None, None, "a b", "orin"),
        ("ssh://orin/", "orin", None, None, "", "orin"),
        ("ssh://[fe80::1%25eth0]:22/x", "fe80::1%25eth0", None, 22, "/x", "fe80--1-25eth0-22"),
    ],
)
def test_boards(text: str, host: str, user: str | None, port: int | None, folder: str, label: str) -> None:
    address = parse_address(text)
    assert address == SshAddress(text, host, user, port, folder)
    assert address.label == label


def test_phones() -> None:
    assert parse_address("adb") == AdbAddress("adb")
    assert parse_address("adb:192.168.1.5:5555") == AdbAddress("adb:192.168.1.5:5555", "192.168.1.5:5555")


@pytest.mark.parametrize(
    "text",
    [
        "", "orin", "ssh:", "ssh://", "ssh://-oProxyCommand=reboot", "ssh://a b", "ssh://nv@-x", "ssh://-x@orin",
        "ssh://$(reboot)@orin", "ssh://orin:x", "ssh://orin:99999", "ssh://orin/a/../b", "ssh://orin/a%0ab",
        "ssh://orin/a%00", "ssh://orin/?x", "ssh://orin/#x", "http://orin", "adb:", "adb:-s", "adb:a b", "adb:;reboot",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.where == "--to"
    assert "adb:SERIAL" in caught.value.expected


def test_a_password_is_refused_and_not_repeated() -> None:
    """The process list would show it."""
    with pytest.raises(UsageError) as caught:
        parse_address("ssh://nv:secret@orin")
    assert "secret" not in str(caught.value)


def test_a_device_twice() -> None:
    with pytest.raises(UsageError, match="there twice"):
        parse_addresses(["ssh://orin", "ssh://other", "ssh://orin/folder"])

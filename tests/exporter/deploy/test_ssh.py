"""``deploy --to ssh://`` against a real SSH server, with the kit itself running on the "board"."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jsonschema import Draft202012Validator

from vggt_edge.exporter.deploy import files, survey

Deploy = Callable[..., Any]


def device_of(done: Any) -> dict[str, Any]:
    (device,) = done.document["result"]["devices"]
    assert isinstance(device, dict)
    return device


# --- good runs --------------------------------------------------------------------------------------------------------


def test_a_whole_deployment(deploy: Deploy, board: Any, bundle: Path, repository: Path) -> None:
    """Sent, built, replayed, measured, brought back: the kit's own result stands in the report.

    Names of files and folders that a shell would run are names, and nothing else.
    """
    done = deploy(f"{board.address}/~/a%20$(touch%20pwned)'b;%20")
    assert done.code == 0, done.err
    device = device_of(done)
    assert (device["status"], device["exit_code"], device["error"]) == ("passed", 0, None)
    assert device["board"]["power_mode"] == "15W"
    assert device["telemetry"]["celsius"]["soc2"] == 46.1
    assert device["telemetry"]["mean_milliwatts"]["VDD_IN"] == 4824
    assert "cv0" not in device["telemetry"]["celsius"]
    assert device["result"]["timings_ms"]["measured"]["count"] == 3
    assert device["transfer"]["sent_bytes"] == device["to_send_bytes"] > 1 << 20
    output = bundle.with_name("bundle-devices")
    page = (output / "report.html").read_text()
    for text in ('<section id="devices">', '<a href="#devices">', "15W", "VDD_CPU_GPU_CV", "1 of 1 blocks proven"):
        assert text in page
    assert json.loads((output / device["label"] / "result.json").read_text())["status"] == "passed"
    assert "status: passed" in (output / device["label"] / "kit.log").read_text()
    events = [json.loads(line) for line in done.err.splitlines()]
    assert f"{device['label']}: TensorRT: a stand-in builds no engine" in {event["text"] for event in events}
    Draft202012Validator(json.loads((repository / "docs/schemas/deploy-answer.schema.json").read_text())).validate(
        done.document
    )

    assert device["board"]["folder"] == str(board.home / "a $(touch pwned)'b; ")
    assert not (Path(device["board"]["folder"]) / "cpp-build").exists()
    sent = {path.name for path in (bundle / "tensorrt").iterdir()}
    assert sent < {path.name for path in Path(device["board"]["folder"]).iterdir()}
    assert not list(board.folder.rglob("pwned"))


def test_outputs_that_drift(deploy: Deploy, board: Any, bundle: Path) -> None:
    """The kit's exit code is the command's; the result comes back all the same. A board may have no tegrastats."""
    board.set(BOARD_FACTOR="2")
    (board.folder / "bin" / "tegrastats").unlink()
    done = deploy(board.address)
    assert done.code == 4
    device = device_of(done)
    assert (device["status"], device["telemetry"]) == ("failed", None)
    assert device["error"]["kind"] == "AccuracyGateError"
    assert device["result"]["outputs"][0]["against_simulation"]["sqnr_db"] < 25
    page = (bundle.with_name("bundle-devices") / "report.html").read_text()
    assert "too far from the simulation" in page


CMAKE = """#!/bin/sh
# In cmake's place: its build is a program that runs the kit in Python, which has the same options.
[ "$1" = --build ] || { [ -f "$2/CMakeLists.txt" ] && mkdir -p "$4"; exit; }
printf '#!/bin/sh\\nexec python3 "%s/../build_and_verify.py" "$@"\\n' "$2" >"$2/vggt-edge-check"
chmod +x "$2/vggt-edge-check"
echo "[100%] Built target vggt-edge-check"
"""


def test_the_kit_in_cpp_is_compiled_on_the_board(deploy: Deploy, board: Any) -> None:
    """The modules of Python are not asked for. A board whose cmake cannot be run is told what to install."""
    board.program("cmake", "no program")
    done = deploy(board.address, "--kit", "cpp")
    assert done.code == 3
    assert "cannot be compiled on the board: cmake -S ended with 127" in device_of(done)["error"]["what"]
    assert "cannot run cmake" in done.err
    board.program("cmake", CMAKE)
    done = deploy(board.address, "--kit", "cpp")
    assert done.code == 0, done.err
    assert set(device_of(done)["board"]["modules"]) == set()
    assert "Built target" in done.err


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(vggt_edge: Callable[..., Any], bundle: Path, tmp_path: Path) -> Path:
    """The bundle is signed, as release 2. The file holds the public key and, behind it, the private one."""
    pair, private = ec.generate_private_key(ec.SECP256R1()), tmp_path / "key.pem"
    locked = serialization.NoEncryption()
    private.write_bytes(
        pair.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, locked)
    )
    assert vggt_edge("sign", bundle, "--key", private, "--release", "2", "--replace").code == 0
    public = pair.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private.write_bytes(public + private.read_bytes())
    return private


@pytest.mark.parametrize("kit", ["python", "cpp"])
def test_the_board_checks_the_signature_too(deploy: Deploy, board: Any, key: Path, kit: str) -> None:
    """It gets the public key, and no private one."""
    board.program("cmake", CMAKE)
    done = deploy(board.address, "--kit", kit, "--key", str(key), "--min-release", "2")
    assert done.code == 0, done.err
    assert "deploy-key.pub, release 2" in done.err
    (sent,) = board.home.rglob("deploy-key.pub")
    assert key.read_text().startswith(sent.read_text())
    assert not [path for path in board.home.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]


def test_a_file_that_changes_on_the_board_is_refused_there(deploy: Deploy, board: Any, key: Path, bundle: Path) -> None:
    """After it has arrived whole. Without the signature the kit would take it: an empty line changes no digest."""
    board.program("cmake", CMAKE.replace("\n[", '\necho >>"$2/../kit.json"\n[', 1))
    assert deploy(board.address, "--kit", "cpp").code == 0
    shutil.rmtree(bundle.with_name("bundle-devices"))
    done = deploy(board.address, "--kit", "cpp", "--key", str(key))
    assert done.code == 2
    assert "kit.json is missing, or not the one that was signed" in device_of(done)["error"]["what"]


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_broken_transfer_goes_on_where_it_was(
    deploy: Deploy, board: Any, wire_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wire is cut in the middle of the weights. What the board holds of them is hashed there, and believed."""
    for module in (files, survey):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 16)

    def has_a_chunk() -> bool:
        return any(path.stat().st_size >= 1 << 16 for path in board.home.rglob("model.onnx.data.part"))

    wire = wire_to(600_000, has_a_chunk)
    address = f"ssh://{board.user}@127.0.0.1:{wire.port}"
    broken = deploy(address)
    assert broken.code == 3
    device = device_of(broken)
    assert "connection was lost" in device["error"]["what"]
    assert "same command again" in device["error"]["remedy"]
    (part,) = board.home.rglob("model.onnx.data.part")
    whole = device["to_send_bytes"]
    again = device_of(deploy(address, "--dry-run"))["to_send_bytes"]
    assert whole - again >= part.stat().st_size // (1 << 16) * (1 << 16) >= 1 << 16

    with part.open("r+b") as file:
        file.write(b"\xff" * 100)
    anew = device_of(deploy(address, "--dry-run"))["to_send_bytes"]
    assert anew >= 1 << 20  # the weights from their first byte on


def test_a_dry_run_changes_nothing(deploy: Deploy, board: Any, bundle: Path) -> None:
    """A login shell that prints something does not disturb either."""
    (board.folder / "environment").write_text("echo Welcome to JetPack\n")
    done = deploy(board.address, "--dry-run")
    assert done.code == 0
    assert done.document["result"]["dry_run"] is True
    device = device_of(done)
    assert (device["status"], device["transfer"]) == ("not_run", None)
    sent = [*(path for path in (bundle / "tensorrt").rglob("*") if path.is_file()), bundle / "model.sig"]
    assert device["to_send_bytes"] == sum(path.stat().st_size for path in sent)
    assert list(board.home.iterdir()) == []
    assert not bundle.with_name("bundle-devices").exists()


def test_no_space(deploy: Deploy, board: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before a byte is sent."""
    monkeypatch.setattr(survey, "SPARE_BYTES", 1 << 60)
    done = deploy(board.address)
    assert done.code == 7
    assert "no space on the board" in device_of(done)["error"]["what"]
    assert list(board.home.iterdir()) == []


def test_a_folder_inside_a_file(deploy: Deploy, board: Any) -> None:
    """A full path, that the board's user cannot make."""
    (board.home / "file").touch()
    done = deploy(f"{board.address}{board.home}/file/folder")
    assert done.code == 7


# --- who is there -----------------------------------------------------------------------------------------------------


def test_an_unknown_host(deploy: Deploy, board: Any) -> None:
    """Refused with its fingerprint; taken where that is handed in, and only that one."""
    board.knows("")
    done = deploy(board.address, "--dry-run")
    assert done.code == 3
    error = device_of(done)["error"]
    fingerprint = error["what"].rpartition(" ")[2]
    assert "unknown host" in error["what"]
    assert fingerprint.startswith("SHA256:")
    assert fingerprint in error["remedy"]
    assert deploy(board.address, "--dry-run", "--host-key", fingerprint).code == 0
    assert deploy(board.address, "--dry-run", "--host-key", "SHA256:" + "A" * 43).code == 3


def test_a_changed_host_key(deploy: Deploy, board: Any) -> None:
    """Nothing that is handed in helps: somebody may listen in."""
    mine = (board.ssh / "id_ed25519.pub").read_text().rsplit(" ", 1)[0]
    board.knows(mine)
    done = deploy(board.address, "--dry-run")
    assert done.code == 3
    error = device_of(done)["error"]
    assert "host key has changed" in error["what"]
    assert "ssh-keygen -R" in error["remedy"]
    fingerprint = error["what"].partition("it is ")[2].split()[0]
    assert deploy(board.address, "--dry-run", "--host-key", fingerprint).code == 3


def test_authentication_fails(deploy: Deploy, board: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without the key."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text((board.ssh / "known_hosts").read_text())
    monkeypatch.setenv("HOME", str(tmp_path))
    done = deploy(board.address, "--dry-run")
    assert done.code == 3
    assert "authentication failed" in device_of(done)["error"]["what"]
    assert "ssh-copy-id" in device_of(done)["error"]["remedy"]


def test_the_user_s_configuration(deploy: Deploy, board: Any) -> None:
    """Aliases, ports and users of ~/.ssh/config; what it says against checking hosts is not heard."""
    lines = ["Host orin", "HostName 127.0.0.1", f"Port {board.port}", f"User {board.user}"]
    (board.ssh / "config").write_text("\n".join([*lines, "UserKnownHostsFile none", ""]))
    assert deploy("ssh://orin", "--dry-run").code == 0
    board.knows("")
    assert "unknown host" in device_of(deploy("ssh://orin", "--dry-run"))["error"]["what"]


def test_several_devices_one_of_them_unreachable(vggt_edge: Callable[..., Any], board: Any, bundle: Path) -> None:
    """Each has a row; the code is that of the one that failed."""
    nobody = "ssh://nobody@127.0.0.1:1"
    done = vggt_edge("deploy", bundle, "--to", board.address, "--to", nobody, "--dry-run")
    assert done.code == 3
    rows = {line.split("\t")[0]: line.split("\t") for line in done.out.splitlines()}
    assert set(rows) == {"device", f"{board.user}-127.0.0.1-{board.port}", "nobody-127.0.0.1-1"}
    assert rows["nobody-127.0.0.1-1"][1:3] == ["failed", "3"]
    assert "cannot reach the board" in done.err
    assert "would send" in done.out


# --- what is there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "found", "wanted"),
    [
        ({"TENSORRT_VERSION": "8.6.1"}, "has tensorrt 8.6.1", "JetPack 6.1, 6.2.x: 10.3"),
        ({"TENSORRT_VERSION": "dev"}, "has tensorrt dev", ">=10.3"),
        ({"PYTHONPATH": ""}, "has no numpy", "numpy"),
    ],
)
def test_the_wrong_jetpack(deploy: Deploy, board: Any, variables: dict[str, str], found: str, wanted: str) -> None:
    """Said before a byte is sent, with the releases that would do."""
    board.set(**variables)
    done = deploy(board.address)
    assert done.code == 3
    error = device_of(done)["error"]
    assert found in error["what"]
    assert wanted in error["expected"]
    assert "sudo apt-get install" in error["remedy"]
    assert list(board.home.iterdir()) == []


def test_a_board_without_python(deploy: Deploy, board: Any, tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    board.set(PATH=str(tmp_path))
    done = deploy(board.address)
    assert done.code == 3
    assert "python3 was not found on the board" in device_of(done)["error"]["what"]


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def building(board: Any, tmp_path: Path) -> Callable[[], None]:
    """The engine takes minutes; waits until the kit builds it, which a busy machine may be slow to begin."""
    started = tmp_path / "started"
    board.set(BOARD_SLEEP="300", BOARD_STARTED=str(started))

    def wait() -> None:
        end = time.monotonic() + 240
        while not started.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert board.programs()

    return wait


def in_background(*steps: Callable[[], object]) -> None:
    def run() -> None:
        for step in steps:
            step()

    threading.Thread(target=run, daemon=True).start()


@pytest.mark.usefixtures("building")
def test_a_time_limit(deploy: Deploy, board: Any) -> None:
    done = deploy(board.address, "--time-limit", "1")
    assert done.code == 7
    assert "ended after 1 s" in device_of(done)["error"]["what"]
    assert board.is_quiet()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_program_on_the_board(deploy: Deploy, board: Any, building: Callable[[], None]) -> None:
    in_background(building, lambda: os.kill(os.getpid(), signal.SIGINT))
    done = deploy(board.address)
    assert done.code == 130
    assert done.document["error"]["what"] == "interrupted"
    assert board.is_quiet()


def test_a_connection_that_breaks_ends_the_program_on_the_board(
    deploy: Deploy, board: Any, building: Callable[[], None], wire_to: Callable[[int], Any]
) -> None:
    """Nobody would read what it prints."""
    wire = wire_to(1 << 40)
    in_background(building, wire.cut)
    done = deploy(f"ssh://{board.user}@127.0.0.1:{wire.port}")
    assert done.code == 3
    assert "connection was lost" in device_of(done)["error"]["what"]
    assert board.is_quiet()


def test_a_bundle_of_another_signer_stays_here(deploy: Deploy, tmp_path: Path) -> None:
    """Said before any board is asked."""
    (tmp_path / "key.pem").write_text("no key")
    done = deploy("ssh://nobody@127.0.0.1:1", "--key", str(tmp_path / "key.pem"))
    assert done.code == 2
    assert "result" not in done.document


def test_an_output_that_exists_is_left_alone(deploy: Deploy, bundle: Path) -> None:
    """Said before any board is asked."""
    bundle.with_name("bundle-devices").mkdir()
    done = deploy("ssh://nobody@127.0.0.1:1")
    assert done.code == 2
    assert "exists already" in done.document["error"]["what"]

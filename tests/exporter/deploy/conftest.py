"""A board behind a real SSH server on this machine, and a small bundle for it."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.exporter.bundle import ManifestInputs, write_bundle
from vggt_edge.exporter.deploy.page import MARK, NAV_MARK
from vggt_edge.exporter.machine.files import file_sha256
from vggt_edge.exporter.steps.cache import StepCache
from vggt_edge.runtimes.common.kit import COMMON, SIGNATURE, script_module
from vggt_edge.runtimes.executorch import kit_files
from vggt_edge.runtimes.tensorrt.backend import write_golden
from vggt_edge.runtimes.tensorrt.engine import KIT, SCRIPT

HERE = Path(__file__).parent
ANDROID = HERE.parents[1] / "runtimes" / "executorch"
TARGET = "jetson-orin-nano-8gb"
FRAMES, SIDE = 2, 4
HOSTILE = "$(touch pwned) 'x' \"y\";&`touch pwned`|*.txt"
DATA_BYTES = 1 << 20  # of the weights, most of which nobody uses


# --- the bundle -------------------------------------------------------------------------------------------------------


def write_model(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A graph with two outputs, its weights beside it; an input and what it gives."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3 * SIDE * SIDE, 9)).astype(np.float32)
    data = weight.tobytes() + rng.bytes(DATA_BYTES - weight.nbytes)
    (folder / "model.onnx.data").write_bytes(data)
    stored = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=weight.shape)
    stored.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", str(weight.nbytes))):
        stored.external_data.add(key=key, value=value)
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [3], [1, FRAMES, weight.shape[0]])
    axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [2])
    nodes = [
        onnx.helper.make_node("Reshape", ["images", "shape"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["pose_enc"], name="block/MatMul"),
        onnx.helper.make_node("ReduceMean", ["images", "axes"], ["depth"], keepdims=0),
    ]

    def value(name: str, *dims: int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)

    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [value("images", 1, FRAMES, 3, SIDE, SIDE)],
        [value("pose_enc", 1, FRAMES, 9), value("depth", 1, FRAMES, SIDE, SIDE)],
        [stored, shape, axes],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    images = rng.random((1, FRAMES, 3, SIDE, SIDE), dtype=np.float32)
    return {"images": images}, {"pose_enc": images.reshape(1, FRAMES, -1) @ weight, "depth": images.mean(2)}


def write_jetson(folder: Path, plan: PrecisionPlan) -> None:
    folder.mkdir()
    inputs, outputs = write_model(folder)
    for source in (KIT / SCRIPT, KIT / "README.md", COMMON, SIGNATURE):
        shutil.copyfile(source, folder / source.name)
    names = ("model.onnx", "model.onnx.data")
    content = {
        "schema_version": 1,
        "target": TARGET,
        "plan_digest": plan.digest,
        "model": "model.onnx",
        "sha256": {name: file_sha256(folder / name) for name in names},
        "requires": {"tensorrt": ">=10.3", "python": ">=3.8"},
        "blocks": [{"block": "block", "scheme": "fp16", "computed": "fp16", "nodes": ["block/MatMul"]}],
        "weight_bytes": {"packed": 1000, "fp16": 1000},
        "outputs": [{"name": name, "shape": list(array.shape)} for name, array in outputs.items()],
        "tolerances": {"sqnr_db_min": 25.0, "pose_degrees_max": 3.0},
    }
    (folder / "kit.json").write_text(json.dumps(content))
    (folder / "cpp").mkdir()
    (folder / "cpp" / "CMakeLists.txt").write_text("a stand-in of cmake reads it")
    (folder / HOSTILE).write_text("sent like any other")
    write_golden(folder, inputs, outputs, outputs)


def write_android(folder: Path, plan: PrecisionPlan) -> None:
    vectors = script_module(ANDROID / "kit_vectors.py", "android_kit_vectors")
    folder.mkdir()
    vectors.write_model(folder)
    kit_files.write_kit(folder, vectors.description(target=TARGET, plan_digest=plan.digest))
    kit_files.write_golden(folder, *vectors.golden_arrays())


@pytest.fixture(scope="session")
def sound_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with both kits, as an export would leave it; not to be changed."""

    def assemble(folder: Path) -> None:
        (folder / "stats.json").write_text("{}")
        plan = PrecisionPlan(
            "m" * 64, file_sha256(folder / "stats.json"), TARGET, 64,
            (Assignment("block", "fp16", "test", 0.0, 1000, 0.1),),
        )  # fmt: skip
        (folder / "plan.json").write_text(plan.to_json())
        (folder / "report.html").write_text(f"<nav>{NAV_MARK}</nav><main>{MARK}</main>")
        for name in ("stats.safetensors", "model.onnx", "model.onnx.data", "validation.json", "golden.safetensors"):
            (folder / name).write_bytes(b"")
        (folder / "resolved.toml").write_text("")
        write_jetson(folder / "tensorrt", plan)
        write_android(folder / "executorch", plan)
        digests.update(model=plan.model_digest, plan=plan.digest, stats=plan.stats_digest)

    digests: dict[str, str] = {}
    out = tmp_path_factory.mktemp("deploy") / "bundle"
    cache = StepCache(out, resume=True)
    write_bundle(cache, assemble, ManifestInputs("vggt-mini", TARGET, digests, {}))
    (out / "model.sig").write_text("{}")  # goes along; only --key reads it
    cache.clear()
    return out


@pytest.fixture
def bundle(sound_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(sound_bundle, tmp_path / "bundle")


# --- the board --------------------------------------------------------------------------------------------------------

ENTER = """#!/bin/sh
# What every session on the board goes through: its home, its programs, and what a test sets for it.
cd '{home}' || exit 1
export HOME='{home}' PATH='{home}/../bin':/usr/bin:/bin PYTHONPATH='{python}' PYTHONDONTWRITEBYTECODE=1
. '{home}/../environment'
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
Subsystem sftp {sftp}
SetEnv HOME={folder}/home
ForceCommand {folder}/enter
"""
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server")


def comes_true(condition: Callable[[], bool], within_s: float = 10) -> bool:
    """Whether the condition holds, now or soon."""
    end = time.monotonic() + within_s
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return holds


@dataclass
class Board:
    """An SSH server whose sessions are on the "board".

    - folder: of server and board; home: of its user.
    - ssh: the .ssh of who deploys.
    """

    folder: Path
    port: int
    ssh: Path
    process: subprocess.Popen[bytes]
    key: str
    user: str = field(default_factory=getpass.getuser)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def address(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def set(self, **variables: str) -> None:
        """Environment of the sessions to come."""
        lines = [f"export {name}='{value}'\n" for name, value in variables.items()]
        (self.folder / "environment").write_text("".join(lines))

    def program(self, name: str, text: str) -> None:
        """A program of the board in front of the others."""
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def knows(self, key: str) -> None:
        """known_hosts lists this key for the board; an empty one for none."""
        (self.ssh / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}\n" if key else "")

    def is_quiet(self) -> bool:
        """Whether nothing runs on the board, or soon nothing does."""
        return comes_true(lambda: not self.programs())

    def programs(self) -> list[str]:
        """Command lines that name the home of the board."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return [line for line in found if str(self.home) in line]


class Wire:
    """A wire to the board that breaks after ``limit_bytes`` towards it, or when told to; whole again after that.

    Before it breaks it waits for ``arrived``: a server drops what it has received and not yet written.
    """

    def __init__(self, port: int, limit_bytes: int, arrived: Callable[[], bool]) -> None:
        self.target, self.left, self.arrived = port, limit_bytes, arrived
        self.ends: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.target))
                self.ends += [near, far]
                threading.Thread(target=self._pump, args=(near, far, 1), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, 0), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, weight: int) -> None:
        with suppress(OSError):
            while data := source.recv(16384):
                self.left -= weight * len(data)
                if self.left < 0:
                    self.left = 1 << 40
                    comes_true(self.arrived)
                    self.cut()
                target.sendall(data)
        target.close()

    def cut(self) -> None:
        """Both ends hear of it at once."""
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        self.cut()


@pytest.fixture
def wire_to(board: Board) -> Iterator[Callable[..., Wire]]:
    """``wire_to(limit_bytes, arrived)``: a wire that breaks, known to who deploys like the board itself."""
    wires: list[Wire] = []

    def lay(limit_bytes: int, arrived: Callable[[], bool] = lambda: True) -> Wire:
        wires.append(Wire(board.port, limit_bytes, arrived))
        (board.ssh / "known_hosts").write_text(f"[127.0.0.1]:{wires[-1].port} {board.key}\n")
        return wires[-1]

    yield lay
    for wire in wires:
        wire.close()


def _sshd() -> tuple[str, str]:
    """The server and its part for files; skips where they are not installed."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    sftp = next((path for path in SFTP_SERVERS if Path(path).is_file()), None)
    if server is None or sftp is None:
        pytest.skip("no SSH server: apt-get install openssh-server")
    return server, sftp


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    asyncssh = pytest.importorskip("asyncssh", reason="pip install asyncssh")
    server, sftp = _sshd()
    folder, ssh = tmp_path_factory.mktemp("board"), tmp_path_factory.mktemp("home") / ".ssh"
    (folder / "home").mkdir()
    (folder / "bin").mkdir()
    ssh.mkdir(mode=0o700)
    for path, name in ((folder / "host_key", "board"), (ssh / "id_ed25519", "who deploys")):
        key = asyncssh.generate_private_key("ssh-ed25519", comment=name)
        key.write_private_key(str(path))
        path.chmod(0o600)
        key.write_public_key(f"{path}.pub")
    shutil.copyfile(ssh / "id_ed25519.pub", folder / "authorized_keys")
    python = ":".join([str(HERE / "board" / "python"), *(entry for entry in sys.path if "site-packages" in entry)])
    (folder / "enter").write_text(ENTER.format(home=folder / "home", python=python))
    (folder / "enter").chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "configuration").write_text(CONFIGURATION.format(port=port, folder=folder, sftp=sftp))
    if os.geteuid() == 0:  # a server of root separates its privileges there
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, "-D", "-e", "-f", str(folder / "configuration")], stderr=log)
    try:
        _await_port(port, process, folder / "log")
        yield Board(folder, port, ssh, process, (folder / "host_key.pub").read_text().rsplit(" ", 1)[0])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"sshd does not answer: {log.read_text()}")
            time.sleep(0.02)


@pytest.fixture
def board(sshd: Board, monkeypatch: pytest.MonkeyPatch) -> Board:
    """The board as new, known to who deploys."""
    monkeypatch.setenv("HOME", str(sshd.ssh.parent))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    shutil.rmtree(sshd.home)
    sshd.home.mkdir()
    for name in ("tegrastats", "nvpmodel"):
        sshd.program(name, (HERE / "board" / "bin" / name).read_text())
    (sshd.folder / "bin" / "cmake").unlink(missing_ok=True)
    sshd.program("python3", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    sshd.set()
    sshd.knows(sshd.key)
    (sshd.ssh / "config").unlink(missing_ok=True)
    return sshd


@pytest.fixture
def deploy(vggt_edge: Callable[..., Any], bundle: Path) -> Callable[..., Any]:
    """``deploy(address, ...)`` runs the command on ``bundle`` with few runs, for a document."""

    def run(*arguments: str) -> Any:
        to = [
            word
            for argument in arguments
            if "://" in argument or argument.startswith("adb")
            for word in ("--to", argument)
        ]
        others = [argument for argument in arguments if argument not in to]
        return vggt_edge("deploy", bundle, *to, "--runs", "3", "--json", *others)

    return run

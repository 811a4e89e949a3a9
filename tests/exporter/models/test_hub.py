"""The hub, played by a server of our own on this machine: real requests, real answers, no network."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save

from vggt_edge.devices.errors import InputError, UsageError
from vggt_edge.exporter.models.hub import choose
from vggt_edge.exporter.models.registry import MINI_WEIGHTS, open_model

REPOSITORY = "someone/vggt"
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@dataclass
class Hub:
    """What it holds: files by revision. gated: 403 for every file. asked: paths of all requests."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if path.startswith(f"/api/models/{REPOSITORY}"):
            return self._listing(path.partition("/revision/")[2] or "main")
        if path.startswith(f"/{REPOSITORY}/resolve/"):
            revision, _, name = path.removeprefix(f"/{REPOSITORY}/resolve/").partition("/")
            return self._file(revision, name)
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _listing(self, revision: str) -> tuple[int, dict[str, str], bytes]:
        if revision not in self.files:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        listing = {
            "id": REPOSITORY,
            "sha": COMMITS[revision],
            "siblings": [{"rfilename": name} for name in self.files[revision]],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(listing).encode()

    def _file(self, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        branch = {commit: name for name, commit in COMMITS.items()}.get(revision, revision)
        content = self.files[branch][name]
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"X-Repo-Commit": COMMITS[branch], "ETag": f'"{etag}"'}, content


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = served.answer(self.path.partition("?")[0])
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815  the name is the server's

        def log_message(self, format: str, *arguments: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def mini() -> bytes:
    return MINI_WEIGHTS.read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "vggt_mini_tuned.safetensors"])
def test_a_repository_with_a_checkpoint_of_any_name(hub: Hub, mini: bytes, name: str) -> None:
    hub.files["main"] = {"README.md": b"#", "config.json": b"{}", name: mini, "optimizer.pt": b"x"}
    checkpoint = open_model(REPOSITORY)
    assert (checkpoint.source, checkpoint.config.name) == (REPOSITORY, "vggt-mini")
    assert checkpoint.digest == hashlib.sha256(mini).hexdigest()


def test_a_revision_is_followed(hub: Hub, mini: bytes) -> None:
    other = save({name: torch.zeros(1) for name in ("a", "b")})
    hub.files = {"main": {"model.safetensors": other}, "v1": {"model.safetensors": mini}}
    assert open_model(REPOSITORY, revision="v1").config.name == "vggt-mini"
    with pytest.raises(InputError, match="fit no architecture"):
        open_model(REPOSITORY)
    with pytest.raises(InputError, match="has no revision v9"):
        open_model(REPOSITORY, revision="v9")


def test_a_revision_is_of_the_hub_only(tmp_path: Path) -> None:
    for name in ("vggt-mini", str(tmp_path / "x.safetensors")):
        with pytest.raises(UsageError, match="a revision of"):
            open_model(name, revision="main")


def test_shards_come_with_their_index(hub: Hub, mini: bytes) -> None:
    first, second = "w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors"
    index = json.dumps({"weight_map": {"a": first, "b": second}}).encode()
    parts = {first: save({"a": torch.zeros(1)}), second: save({"b": torch.zeros(1)})}
    hub.files["main"] = {"w.safetensors.index.json": index, **parts}
    with pytest.raises(InputError, match="the 2 tensors fit no architecture"):
        open_model(REPOSITORY)


def test_a_gated_repository_says_what_to_do(hub: Hub, mini: bytes) -> None:
    hub.files["main"], hub.gated = {"vggt_1B_commercial.pt": mini}, True
    with pytest.raises(InputError, match="is gated") as raised:
        open_model(REPOSITORY)
    assert "hf auth login" in raised.value.remedy
    assert REPOSITORY in raised.value.remedy


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(InputError, match="the hub has no nobody/nothing"):
        open_model("nobody/nothing")


@pytest.mark.parametrize(
    ("files", "said"), [(["README.md"], "no checkpoint"), (["a.pt", "b.pt"], "2 files that may be the checkpoint")]
)
def test_a_repository_without_a_clear_checkpoint(hub: Hub, files: list[str], said: str) -> None:
    hub.files["main"] = dict.fromkeys(files, b"x")
    with pytest.raises(InputError, match=said):
        open_model(REPOSITORY)


def unplugged(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    from huggingface_hub import constants

    if how == "offline mode":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return
    with socket.socket() as free:  # a port that nobody listens on
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


@pytest.mark.parametrize("how", ["offline mode", "no connection"])
@pytest.mark.parametrize("name", ["model.pt", "tuned.pth"])
def test_without_a_network_the_cache_does_whatever_its_file_is_called(
    hub: Hub, mini: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, how: str
) -> None:
    """And at once: no retries, which took 37 s."""
    source = tmp_path / "mini.pt"
    torch.save({key: tensor.clone() for key, tensor in open_model("vggt-mini").tensors.items()}, source)
    hub.files["main"] = {name: source.read_bytes()}
    online = open_model(REPOSITORY)
    unplugged(monkeypatch, how)
    start = time.monotonic()
    assert open_model(REPOSITORY).digest == online.digest
    assert open_model(REPOSITORY, revision=COMMITS["main"]).digest == online.digest
    with pytest.raises(InputError, match="at revision v1 is neither"):
        open_model(REPOSITORY, revision="v1")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("how", ["offline mode", "no connection"])
def test_without_a_network_and_a_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    unplugged(monkeypatch, how)
    start = time.monotonic()
    with pytest.raises(InputError, match="the hub cannot be reached"):
        open_model(REPOSITORY)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.pt", "model.safetensors"], "model.safetensors"),
        (["model.pt", "other.safetensors"], "model.pt"),
        (["w.pth", "w.safetensors"], "w.safetensors"),
        (["w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors"], "w-00001-of-00002.safetensors"),
        (["only.bin", "training_args.bin", "optimizer.pt", "notes.txt"], "only.bin"),
        (["sub/model.safetensors"], None),
        (["a.pt", "b.pt"], None),
        ([], None),
    ],
)
def test_the_checkpoint_among_files(names: list[str], chosen: str | None) -> None:
    assert choose(names) == chosen

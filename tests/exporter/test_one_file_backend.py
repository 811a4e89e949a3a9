"""A backend is one file: one that nothing in the repository knows goes through the whole command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import vggt_edge.runtimes
from vggt_edge.devices.profile import PROFILE_FOLDER
from vggt_edge.runtimes.registry import backends, subject_titles

pytestmark = pytest.mark.slow

SOURCE = '''
"""Ships the annotated graph as it is, in a folder of its own, and runs it here."""

import shutil

from vggt_edge.runtimes.base import Availability, Backend, Check, Executor, Lowered, Rates, Runtime
from vggt_edge.runtimes.common.audit import audit_onnx
from vggt_edge.runtimes.onnxruntime import open_onnx


class Folio(Backend):
    name = "folio"
    title = "The Folio"
    distributions = ("typer",)
    supported = ("w8a16", "fp16")
    rates = Rates(seconds=777.0, scene_seconds=0.0)
    subjects = {"folio-here": "The Folio on this machine"}

    def availability(self):
        return Availability(True)

    def lower(self, graph, plan, profile, out_dir, options=None):
        folder = out_dir / self.name
        folder.mkdir()
        for suffix in ("", ".data"):
            shutil.copyfile(f"{graph.shipped_path}{suffix}", f"{folder / 'copy.onnx'}{suffix}")
        (folder / "copy.onnx.data").rename(folder / "model.onnx.data")
        realised = audit_onnx(folder / "copy.onnx", plan)
        files = ("folio/copy.onnx", "folio/model.onnx.data")
        return Lowered(self.name, files, realised, (Check("copy", "passed", "byte for byte", {}),))

    def executors(self):
        runtime = Runtime("onnxruntime", "0.1", "nothing fused", "paper is slower")
        return (Executor("folio-here", "the copy, nothing fused", self.open, runtime),)

    def open(self, bundle):
        return open_onnx(bundle / "folio" / "copy.onnx")

    def on_device(self, profile):
        return f"take the folio to the {profile.title}"


BACKEND = Folio()
'''


def forget() -> None:
    backends.cache_clear()
    subject_titles.cache_clear()
    sys.modules.pop("vggt_edge.runtimes.folio", None)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One file among the runtimes, and a device that names it."""
    (tmp_path / "folio.py").write_text(SOURCE)
    monkeypatch.setattr(vggt_edge.runtimes, "__path__", [*vggt_edge.runtimes.__path__, str(tmp_path)])
    forget()
    profile = (PROFILE_FOLDER / "host-cpu.toml").read_text()
    path = tmp_path / "desk.toml"
    for old, new in (('"host-cpu"', '"desk"'), ('"onnxruntime"', '"folio"'), ('aliases = ["host"]', "")):
        assert old in profile
        profile = profile.replace(old, new)
    path.write_text(profile)
    yield path
    forget()


def test_a_backend_in_one_file_goes_through_the_whole_command(
    vggt_edge: Callable[..., Any], target: Path, tmp_path: Path
) -> None:
    small = ("--target", target, "--precision", "w8a16", "--frames", "2", "--resolution", "42", "--effort", "none")
    small = (*small, "--calibration-scenes", "2", "--validation-scenes", "2", "--outputs", "camera,depth")
    dry = vggt_edge("export", *small, "--dry-run", "--json", "-o", tmp_path / "dry")
    assert dry.code == 0, dry.err
    (lower,) = (step for step in dry.document["estimate"]["steps"] if step["step"] == "lower")
    assert lower["seconds"] > 777
    refused = vggt_edge("export", *small[:2], "--precision", "w4a16", "-o", tmp_path / "refused")
    assert refused.code == 2
    assert "folio has no form of w4a16" in refused.err
    finished = vggt_edge("export", *small, "-o", tmp_path / "out", "--json")
    assert finished.code == 0, finished.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [one["subject"] for one in manifest["judged_with"]] == ["onnxruntime", "folio-here"]
    assert finished.document["result"]["judged_with"] == manifest["judged_with"]
    (here,) = (one for one in manifest["judged_with"] if one["subject"] == "folio-here")
    assert here["differs"] == "paper is slower; version 0.1 is outside >=1.20,<1.32"
    assert here["device"] == "onnxruntime >=1.20,<1.32, python >=3.11"
    assert manifest["tools"]["typer"] == version("typer")
    assert "folio/copy.onnx" in [entry["path"] for entry in manifest["files"]]
    rows = json.loads((tmp_path / "out" / "validation.json").read_text())["rows"]
    assert {row["status"] for row in rows if row["subject"] == "folio-here"} >= {"passed"}
    assert [row["reason"] for row in rows if row["subject"] == "folio-on-device"] == [
        "take the folio to the Any PC, through ONNX Runtime on the CPU"
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The Folio on this machine" in page
    assert "which differs: paper is slower" in page
    assert vggt_edge("verify", tmp_path / "out").code == 0

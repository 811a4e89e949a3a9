"""``validate``: a bundle is judged again, opens nothing outside of itself, and says what it was judged on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vggt_edge.exporter.models.registry import MINI_WEIGHTS
from vggt_edge.exporter.rerun import ONE_SCENE
from vggt_edge.runtimes.common.kit import script_module

photographs = script_module(Path(__file__).with_name("pictures.py"), "pictures").photographs
Run = Callable[..., Any]
SMALL = ("--target", "host-cpu", "--frames", "2", "--resolution", "28", "--outputs", "camera", "--precision", "w8a16")
SMALL = (*SMALL, "--effort", "none", "--sensitivity", "probe", "--calibration-scenes", "2")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the embedded model, judged on one synthetic room."""
    from vggt_edge.exporter.cli import main

    out = tmp_path_factory.mktemp("rerun") / "out"
    assert main(["export", *SMALL, "--validation-scenes", "1", "-o", str(out), "--log-level", "error"]) == 0
    return out


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def set_in(bundle: Path, **settings: str) -> None:
    """Change the configuration of a bundle as somebody does who knows the format: the manifest agrees with it."""
    path, manifest = bundle / "resolved.toml", bundle / "manifest.json"
    lines = [line for line in path.read_text().splitlines() if line.partition(" =")[0] not in settings]
    path.write_text("\n".join([*lines, *(f"{key} = {value}" for key, value in settings.items())]) + "\n")
    content = json.loads(manifest.read_text())
    (entry,) = (one for one in content["files"] if one["path"] == "resolved.toml")
    entry |= {"size_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(content))


def test_a_validation_says_what_was_judged_and_what_came_nearest_to_its_limit(vggt_edge: Run, bundle: Path) -> None:
    finished = vggt_edge("validate", bundle)
    assert finished.code == 0, finished.err
    lines = dict(line.split("  ", 1) for line in finished.out.splitlines())
    assert lines["status"].strip() == "passed"
    assert lines["scenes"].strip().startswith("1: room-")
    assert "pose_enc" in lines["onnxruntime"]
    assert "limit" in lines["onnxruntime"]
    assert len(finished.out.splitlines()) <= 8


class OpenedError(BaseException):
    """Something was fetched or read that only the bundle had named."""


@pytest.mark.parametrize("model", ["attacker/evil-model", "{outside}/weights.safetensors", "../weights.safetensors"])
def test_a_bundle_downloads_nothing_and_opens_no_checkpoint_outside_of_itself(
    vggt_edge: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    shutil.copy(MINI_WEIGHTS, bundle.parent / "weights.safetensors")
    set_in(bundle, model=json.dumps(model.format(outside=bundle.parent)), scenes='"/nonexistent"')

    def opened(*_: object, **__: object) -> None:
        raise OpenedError

    with monkeypatch.context() as patched:
        patched.setattr("vggt_edge.exporter.models.registry.from_hub", opened)
        patched.setattr("vggt_edge.exporter.models.registry.read_checkpoint", opened)
        refused = vggt_edge("validate", bundle)
    assert refused.code == 2, refused.err
    assert "does not hold the model" in refused.err
    assert "--model" in refused.err
    assert hashlib.sha256(MINI_WEIGHTS.read_bytes()).hexdigest() in refused.err


def test_with_the_checkpoint_given_a_bundle_is_judged_on_the_scene_that_it_holds(vggt_edge: Run, bundle: Path) -> None:
    """A bundle whose configuration names scenes that nobody has."""
    shutil.copy(MINI_WEIGHTS, bundle.parent / "weights.safetensors")
    set_in(bundle, model='"attacker/evil-model"', scenes='"/nonexistent"')
    named = vggt_edge("validate", bundle, "--model", bundle.parent / "weights.safetensors", "--json")
    assert named.code == 0, named.err
    assert ONE_SCENE in named.err
    assert named.document["result"]["scenes"] == ["golden"]


def test_another_checkpoint_is_refused_by_its_digest(vggt_edge: Run, bundle: Path) -> None:
    content = bytearray(MINI_WEIGHTS.read_bytes())
    content[-1] ^= 1
    (bundle.parent / "other.safetensors").write_bytes(content)
    refused = vggt_edge("validate", bundle, "--model", bundle.parent / "other.safetensors")
    assert refused.code == 2
    assert "is not the model that this bundle was made from" in refused.err


def test_a_device_profile_outside_of_the_bundle_is_not_opened(vggt_edge: Run, bundle: Path) -> None:
    set_in(bundle, target='"/etc/passwd.toml"')
    refused = vggt_edge("validate", bundle)
    assert refused.code == 2
    assert "unknown target" in refused.err


@pytest.mark.parametrize("asked", [{"resolution": "140000"}, {"resolution": "[140000, 28]"}, {"frames": "1000000"}])
def test_a_configuration_that_asks_for_another_size_than_the_model_has_is_refused(
    vggt_edge: Run, bundle: Path, asked: dict[str, str]
) -> None:
    set_in(bundle, **asked)
    refused = vggt_edge("validate", bundle)
    assert refused.code == 2
    assert "not those of the bundle's model" in refused.err


def test_a_bundle_is_judged_on_other_pictures_and_tells_when_its_own_were_replaced(
    vggt_edge: Run, tmp_path: Path
) -> None:
    """The folder has a Latin-1 byte in its name, as old ZIP files leave it; the other pictures are upright."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    photographs(folder, 8)
    (folder / "more.heic").write_bytes(b"x")
    made = vggt_edge("export", *SMALL, "--scenes", folder, "-o", tmp_path / "out", "--json")
    assert made.code in (0, 4), made.err
    assert made.err.count("passed over in caf\\xe9: .heic files (not read): 1") == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "passed over in caf\\xe9: .heic files (not read): 1" in page
    assert "caf\\xe9-03" in page
    upright = tmp_path / "upright"
    photographs(upright, 4, (48, 80))
    other = vggt_edge("validate", tmp_path / "out", "--scenes", upright, "--json")
    assert other.code in (0, 4), other.err
    assert "has changed since" not in other.err
    held = vggt_edge("validate", tmp_path / "out")
    assert held.code in (0, 4), held.err
    assert ONE_SCENE in held.err
    own = vggt_edge("validate", tmp_path / "out", "--scenes", folder)
    assert own.code in (0, 4), own.err
    assert "has changed since" not in own.err
    for path in folder.glob("*.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    replaced = vggt_edge("validate", tmp_path / "out", "--scenes", folder)
    assert "these are not the pictures that the bundle was judged on" in replaced.err

"""The Python kit for Jetson checks who has signed the folder before it loads anything of it."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from vggt_edge.runtimes.common.kit import COMMON, SIGNATURE, kit_script
from vggt_edge.runtimes.tensorrt.engine import kit_module

common, kit = kit_script(COMMON), kit_script(SIGNATURE)
Run = Callable[..., Any]


@pytest.fixture(params=["cryptography", "openssl"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the device has to check signatures with."""
    if request.param == "openssl":
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        monkeypatch.setitem(sys.modules, "cryptography", None)
    return request.param


@pytest.fixture
def folder(bundle: Path, pair: Any, vggt_edge: Run) -> Path:
    """The kit's folder inside a signed bundle."""
    assert vggt_edge("sign", bundle, "--key", pair.private, "--release", "2").code == 0
    return bundle / "tensorrt"


def refused(folder: Path, key: Path | None, reason: str, code: int = 2, **limits: int) -> None:
    with pytest.raises(common.KitError, match=reason) as caught:
        kit.check_signature(folder, key, **limits)
    assert caught.value.code == code


def test_it_is_python_3_8_and_needs_nothing_but_a_library_for_signatures() -> None:
    tree = ast.parse(SIGNATURE.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) == {
        "cryptography", "kit_common",
    }  # fmt: skip


@pytest.mark.usefixtures("library")
class TestWithAKey:
    def test_the_signed_folder(self, folder: Path, pair: Any, capfd: pytest.CaptureFixture[str]) -> None:
        kit.check_signature(folder, pair.public, 2)
        assert "signature: verified" in capfd.readouterr().err

    def test_a_copy_under_another_name_with_the_signature_inside(self, folder: Path, pair: Any) -> None:
        copied = shutil.copytree(folder, folder.parent.parent / "deep" / "on-the-board")
        refused(copied, pair.public, "is not signed")
        shutil.copy(folder.parent / "model.sig", copied)
        kit.check_signature(copied, pair.public)

    @pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
    def test_larger_keys(self, bundle: Path, make_pair: Run, curve: ec.EllipticCurve, vggt_edge: Run) -> None:
        large = make_pair("large", curve)
        vggt_edge("sign", bundle, "--key", large.private)
        kit.check_signature(bundle / "tensorrt", large.public)

    @pytest.mark.parametrize("name", ["model.onnx", "kit.json"])
    @pytest.mark.parametrize("how", ["change", "remove", "link"])
    def test_tampering(self, folder: Path, pair: Any, name: str, how: str) -> None:
        path = folder / name
        if how == "change":
            path.write_text(path.read_text() + " ")
        else:
            path.rename(folder.parent.parent / "elsewhere")
            if how == "link":
                path.symlink_to(folder.parent.parent / "elsewhere")
        refused(folder, pair.public, f"{name} is missing, or not the")

    def test_another_key(self, folder: Path, make_pair: Run) -> None:
        refused(folder, make_pair("theirs").public, "is not by the key")

    def test_a_changed_list_of_files(self, folder: Path, pair: Any) -> None:
        path = folder.parent / "model.sig"
        raw = json.loads(path.read_text())
        raw["dsseEnvelope"]["payload"] = raw["dsseEnvelope"]["payload"].replace("A", "B", 1)
        path.write_text(json.dumps(raw))
        refused(folder, pair.public, "is not by the key")

    def test_an_old_release(self, folder: Path, pair: Any) -> None:
        refused(folder, pair.public, "the signed release is 2, before 3", min_release=3)

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"dsseEnvelope": {"signatures": []}}'])
    def test_a_damaged_signature(self, folder: Path, pair: Any, content: str) -> None:
        (folder.parent / "model.sig").write_text(content)
        refused(folder, pair.public, "cannot use")

    def test_a_private_key_is_no_public_key(self, folder: Path, pair: Any) -> None:
        refused(folder, pair.private, "no public key")


def test_without_a_key_it_says_that_nothing_was_checked(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kit.check_signature(folder, None)
    assert "signature: not checked" in capfd.readouterr().err
    refused(folder, None, "checks nothing without a key", min_release=1)


def test_a_device_that_can_check_nothing(folder: Path, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setenv("PATH", str(folder))
    refused(folder, pair.public, "neither the Python library cryptography nor openssl", code=3)


def test_the_script_checks_first(bundle: Path, pair: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Before TensorRT is asked for, which is missing here."""
    assert kit_module().main(["--folder", str(bundle / "tensorrt"), "--key", str(pair.public)]) == 2
    assert "is not signed" in capfd.readouterr().err

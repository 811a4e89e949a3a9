"""A signed bundle is the one that the holder of the key has signed, file by file; anything else is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from vggt_edge.exporter.signing.envelope import read_signature_file, read_statement
from vggt_edge.exporter.signing.keys import load_verifier

Run = Callable[..., Any]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def signed(bundle: Path, pair: Any, vggt_edge: Run) -> Path:
    assert vggt_edge("sign", bundle, "--key", pair.private, "--release", "2").code == 0
    return bundle


def refused(finished: Any, reason: str) -> None:
    """Exit code 2, and the reason in words."""
    assert finished.code == 2
    assert reason in finished.err


def recompute(bundle: Path) -> None:
    """What an attacker without the key can do: every digest of the manifest is made to fit again."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    apart = {"manifest.json", "measured.json", "model.sig"}
    found = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    manifest["files"] = [
        {"path": name, "size_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in sorted(found.items())
        if name not in apart
    ]
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


class TestKeys:
    def test_a_signed_bundle_verifies_and_says_by_whom(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        result = vggt_edge("verify", signed, "--key", pair.public, "--json").document["result"]
        assert result["signature"]["status"] == "verified"
        assert result["signature"]["signer"] == f"key {hashlib.sha256(pair.public.read_bytes()).hexdigest()}"
        assert result["signature"]["release"] == 2
        assert result["model"] == "vggt-mini"

    def test_without_a_key_it_is_said_that_nothing_was_checked(
        self, signed: Path, bundle: Path, vggt_edge: Run
    ) -> None:
        assert "signature: not checked" in vggt_edge("verify", signed).out
        (bundle / "model.sig").unlink()
        assert "signature: none" in vggt_edge("verify", bundle).out

    @pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
    def test_larger_keys(
        self, bundle: Path, make_pair: Callable[..., Any], curve: ec.EllipticCurve, vggt_edge: Run
    ) -> None:
        pair = make_pair("large", curve)
        assert vggt_edge("sign", bundle, "--key", pair.private).code == 0
        assert vggt_edge("verify", bundle, "--key", pair.public).code == 0

    def test_the_same_bundle_gives_the_same_signature(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        first = (signed / "model.sig").read_bytes()
        refused(vggt_edge("sign", signed, "--key", pair.private), "signed already")
        assert vggt_edge("sign", signed, "--key", pair.private, "--release", "2", "--replace").code == 0
        assert (signed / "model.sig").read_bytes() == first

    def test_another_key_is_refused(
        self, signed: Path, make_pair: Callable[..., Any], pair: Any, vggt_edge: Run
    ) -> None:
        other = make_pair("theirs")
        refused(vggt_edge("verify", signed, "--key", other.public), "by another key")
        # Even when the signature claims to be by the key that is asked for.
        ours, theirs = (hashlib.sha256(one.public.read_bytes()).hexdigest() for one in (pair, other))
        assert vggt_edge("sign", signed, "--key", other.private, "--replace").code == 0
        forged = (signed / "model.sig").read_text().replace(theirs, ours)
        (signed / "model.sig").write_text(forged)
        refused(vggt_edge("verify", signed, "--key", pair.public), "not by this key")

    def test_an_unsigned_bundle_is_refused_when_a_key_is_given(self, bundle: Path, pair: Any, vggt_edge: Run) -> None:
        finished = vggt_edge("verify", bundle, "--key", pair.public, "--json")
        assert finished.code == 2
        assert finished.document["error"]["kind"] == "SignatureError"
        assert finished.document["error"]["what"] == "the bundle is not signed"

    def test_an_old_release_is_refused(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        assert vggt_edge("verify", signed, "--key", pair.public, "--min-release", "2").code == 0
        refused(vggt_edge("verify", signed, "--key", pair.public, "--min-release", "3"), "the bundle is release 2")
        assert vggt_edge("sign", signed, "--key", pair.private, "--replace").code == 0
        refused(vggt_edge("verify", signed, "--key", pair.public, "--min-release", "0"), "without a release number")

    def test_an_encrypted_key_needs_its_passphrase(
        self, bundle: Path, make_pair: Callable[..., Any], vggt_edge: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        locked = make_pair("locked", passphrase=b"open sesame")
        refused(vggt_edge("sign", bundle, "--key", locked.private), "VGGT_EDGE_KEY_PASSPHRASE")
        monkeypatch.setenv("VGGT_EDGE_KEY_PASSPHRASE", "wrong")
        refused(vggt_edge("sign", bundle, "--key", locked.private), "another passphrase")
        monkeypatch.setenv("VGGT_EDGE_KEY_PASSPHRASE", "open sesame")
        assert vggt_edge("sign", bundle, "--key", locked.private).code == 0

    @pytest.mark.parametrize(
        "content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
    )
    def test_what_is_no_key(self, bundle: Path, tmp_path: Path, content: bytes, vggt_edge: Run) -> None:
        (tmp_path / "bad").write_bytes(content)
        refused(vggt_edge("sign", bundle, "--key", tmp_path / "bad"), "not a private key")
        refused(vggt_edge("verify", bundle, "--key", tmp_path / "bad"), "not a public key")
        refused(vggt_edge("verify", bundle, "--key", tmp_path / "missing"), "cannot read the public key")

    def test_a_private_key_does_not_check(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        refused(vggt_edge("verify", signed, "--key", pair.private), "belongs to the signer alone")

    def test_the_key_is_nowhere_but_in_its_file(
        self, bundle: Path, pair: Any, vggt_edge: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = vggt_edge("sign", bundle, "--key", pair.private, "--json", "--log-level", "debug")
        secret = "".join(pair.private.read_text().splitlines()[1:-1])
        number = base64.b64decode(secret)[36:68]  # the private number inside PKCS#8
        told = made.out + made.err + caplog.text
        assert secret[40:80] not in told
        for path in bundle.rglob("*"):
            assert path.is_dir() or (number not in path.read_bytes() and secret.encode() not in path.read_bytes())

    def test_a_missing_library_is_a_missing_toolchain(
        self, bundle: Path, pair: Any, vggt_edge: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "vggt_edge.exporter.signing.keys")
        monkeypatch.setitem(sys.modules, "cryptography", None)
        finished = vggt_edge("sign", bundle, "--key", pair.private)
        assert finished.code == 3
        assert "pip install 'vggt-edge[sign]'" in finished.err

    @pytest.mark.parametrize(
        ("flags", "reason"),
        [
            (("--identity", "me"), "--identity does not go here"),
            (("--min-release", "1"), "--min-release does not go here"),
        ],
    )
    def test_flags_that_check_nothing_alone(
        self, signed: Path, flags: tuple[str, str], reason: str, vggt_edge: Run
    ) -> None:
        refused(vggt_edge("verify", signed, *flags), reason)


NAMES = (
    "manifest.json", "measured.json", "plan.json", "stats.json", "stats.safetensors", "model.onnx", "model.onnx.data",
    "validation.json", "golden.safetensors", "report.html", "resolved.toml", "tensorrt/model.onnx", "tensorrt/kit.json",
)  # fmt: skip


class TestTampering:
    def test_these_are_all_files(self, signed: Path) -> None:
        found = {path.relative_to(signed).as_posix() for path in signed.rglob("*") if path.is_file()}
        assert found == {*NAMES, "model.sig"}

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("how", ["change", "remove", "rename", "link"])
    def test_each_file(self, signed: Path, pair: Any, name: str, how: str, vggt_edge: Run) -> None:
        path = signed / name
        if how == "change":
            path.write_text(path.read_text() + " ")
        elif how == "rename":
            path.rename(path.with_name(f"other-{path.name}"))
        else:
            elsewhere = signed.parent / "elsewhere"
            shutil.move(path, elsewhere)
            if how == "link":
                path.symlink_to(elsewhere)
        if how != "link" and name != "manifest.json":
            recompute(signed)
        refused(vggt_edge("verify", signed, "--key", pair.public), name)

    @pytest.mark.parametrize("name", ["more.bin", "tensorrt/more.bin", "deep/er/more.bin"])
    def test_a_file_added(self, signed: Path, pair: Any, name: str, vggt_edge: Run) -> None:
        (signed / name).parent.mkdir(parents=True, exist_ok=True)
        (signed / name).write_text("more")
        refused(vggt_edge("verify", signed, "--key", pair.public), f"{name}: not in the manifest")
        recompute(signed)
        refused(vggt_edge("verify", signed, "--key", pair.public), f"{name}: was not signed")

    def test_two_files_exchanged(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        one, two = signed / "model.onnx", signed / "model.onnx.data"
        one.rename(signed / "third")
        two.rename(one)
        (signed / "third").rename(two)
        recompute(signed)
        refused(vggt_edge("verify", signed, "--key", pair.public), "model.onnx.data: is not the file that was signed")

    def test_recomputed_digests_pass_without_a_key_alone(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        (signed / "model.onnx").write_text("another graph")
        recompute(signed)
        assert vggt_edge("verify", signed).code == 0
        refused(vggt_edge("verify", signed, "--key", pair.public), "model.onnx: is not the file that was signed")

    def test_a_signature_of_another_bundle(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        (signed / "report.html").write_text("another report")
        recompute(signed)
        kept = (signed / "model.sig").read_bytes()
        assert vggt_edge("sign", signed, "--key", pair.private, "--replace").code == 0
        assert vggt_edge("verify", signed, "--key", pair.public).code == 0
        (signed / "model.sig").write_bytes(kept)
        refused(vggt_edge("verify", signed, "--key", pair.public), "report.html: is not the file that was signed")

    def test_what_a_device_wrote_is_not_signed(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        (signed / "tensorrt" / "result.json").write_text('{"status": "passed"}')
        finished = vggt_edge("verify", signed, "--key", pair.public)
        assert finished.code == 0
        assert "tensorrt/result.json: passed on the device" in finished.out

    @pytest.mark.parametrize(
        "damage",
        [
            lambda raw: raw.update(mediaType="text/plain"),
            lambda raw: raw["dsseEnvelope"].update(payload="%%%"),
            lambda raw: raw["dsseEnvelope"].update(signatures=[]),
            lambda raw: raw["dsseEnvelope"].update(payloadType="text/plain"),
            lambda raw: raw.pop("verificationMaterial"),
            lambda raw: raw["dsseEnvelope"].update(payload=base64.b64encode(b"{}").decode()),
            lambda raw: raw["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
        ],
    )
    def test_a_damaged_signature(
        self, signed: Path, pair: Any, damage: Callable[[dict[str, Any]], object], vggt_edge: Run
    ) -> None:
        raw = json.loads((signed / "model.sig").read_text())
        damage(raw)
        (signed / "model.sig").write_text(json.dumps(raw))
        refused(vggt_edge("verify", signed, "--key", pair.public), "signature")

    @pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe", b"null"])
    def test_a_signature_that_is_none(self, signed: Path, pair: Any, content: bytes, vggt_edge: Run) -> None:
        (signed / "model.sig").write_bytes(content)
        refused(vggt_edge("verify", signed, "--key", pair.public), "cannot use the signature")

    def test_a_link_in_place_of_the_signature(self, signed: Path, pair: Any, vggt_edge: Run) -> None:
        (signed / "model.sig").rename(signed.parent / "elsewhere")
        (signed / "model.sig").symlink_to(signed.parent / "elsewhere")
        refused(vggt_edge("verify", signed, "--key", pair.public), "not a plain file")


@pytest.fixture
def root(holder: Callable[..., Any]) -> Any:
    return holder("Our root", ca=True)


@pytest.fixture
def sign_with(bundle: Path, tmp_path: Path, vggt_edge: Run) -> Callable[..., Any]:
    """Sign the bundle with a certificate and those of its issuers; the finished command."""

    def sign(own: Any, *issuers: Any) -> Any:
        key, certificate = own.save(tmp_path, "own")
        chain = [
            part
            for index, one in enumerate(issuers)
            for part in ("--certificate-chain", one.save(tmp_path, f"{index}")[1])
        ]
        return vggt_edge("sign", bundle, "--key", key, "--certificate", certificate, *chain)

    return sign


@pytest.fixture
def check(bundle: Path, tmp_path: Path, vggt_edge: Run) -> Callable[..., Any]:
    """Verify the bundle by a trusted certificate; the finished command."""

    def verify(trusted: Any, *flags: str) -> Any:
        return vggt_edge("verify", bundle, "--certificate-chain", trusted.save(tmp_path, "trusted")[1], *flags)

    return verify


class TestCertificates:
    def test_a_chain_leads_to_the_root(self, root: Any, sign_with: Run, check: Run) -> None:
        middle = root.issue("Our build servers", ca=True)
        assert sign_with(middle.issue("release@example.org"), middle).code == 0
        result = check(root, "--identity", "release@example.org", "--json").document["result"]
        assert result["signature"]["signer"] == "certificate of release@example.org"
        refused(check(root, "--identity", "other@example.org"), "signed by release@example.org")

    def test_the_key_of_a_certificate_checks_as_well(
        self, root: Any, sign_with: Run, bundle: Path, tmp_path: Path, vggt_edge: Run
    ) -> None:
        own = root.issue("release@example.org")
        assert sign_with(own).code == 0
        public = tmp_path / "own.pub"
        from cryptography.hazmat.primitives import serialization as form

        public.write_bytes(own.key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
        assert vggt_edge("verify", bundle, "--key", public).code == 0

    def test_another_root_is_refused(self, root: Any, holder: Callable[..., Any], sign_with: Run, check: Run) -> None:
        assert sign_with(root.issue("release@example.org")).code == 0
        refused(check(holder("Their root", ca=True)), "the chain of certificates does not hold")
        # Of the same name too.
        refused(check(holder("Our root", ca=True)), "the chain of certificates does not hold")

    def test_an_expired_certificate_does_not_sign(self, root: Any, sign_with: Run) -> None:
        refused(sign_with(root.issue("release@example.org", first_day=-9, last_day=-1)), "expired on")
        refused(sign_with(root.issue("release@example.org", first_day=1)), "is not valid before")

    @pytest.mark.parametrize("late", ["own", "middle", "root"])
    def test_an_expired_chain_is_refused(
        self, late: str, holder: Callable[..., Any], sign_with: Run, check: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        days = {name: 10 if name == late else 300 for name in ("own", "middle", "root")}
        root = holder("Our root", ca=True, last_day=days["root"])
        middle = root.issue("Our build servers", ca=True, last_day=days["middle"])
        assert sign_with(middle.issue("release@example.org", last_day=days["own"]), middle).code == 0
        assert check(root).code == 0
        later(monkeypatch, 20)
        names = {"own": "release@example.org", "middle": "Our build servers", "root": "Our root"}
        refused(check(root), f"the certificate of CN={names[late]} expired on")

    def test_a_certificate_that_is_not_for_signing(self, root: Any, sign_with: Run) -> None:
        refused(sign_with(root.issue("web@example.org", signs=False)), "is not for signing")

    def test_a_certificate_that_may_not_issue_others(
        self, root: Any, holder: Callable[..., Any], sign_with: Run, check: Run
    ) -> None:
        plain = root.issue("release@example.org")
        assert sign_with(plain.issue("mallory@example.org"), plain).code == 0
        refused(check(root), "the chain of certificates does not hold")

    def test_a_certificate_of_another_key(
        self, bundle: Path, root: Any, pair: Any, tmp_path: Path, vggt_edge: Run
    ) -> None:
        certificate = root.issue("release@example.org").save(tmp_path, "own")[1]
        finished = vggt_edge("sign", bundle, "--key", pair.private, "--certificate", certificate)
        refused(finished, "the certificate is not that of the signing key")

    def test_a_signature_by_a_bare_key_is_no_chain(self, signed: Path, root: Any, check: Run) -> None:
        refused(check(root), "names a key and no certificate")


def later(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Certificates are looked at so many days from now."""
    from datetime import datetime, timedelta

    from vggt_edge.exporter.signing import keys

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=days)

    monkeypatch.setattr(keys, "datetime", Later)


def test_a_signature_that_the_library_of_openssf_made() -> None:
    """By ``model_signing sign key`` 1.1.1, over a folder with three files."""
    signed = read_signature_file((GOLDEN / "by_model_signing.sig").read_text(), "golden")
    load_verifier(GOLDEN / "by_model_signing.pub").verify(signed, "golden")
    files = read_statement(signed.dsse_envelope.content, "golden").files
    assert files == {
        name: hashlib.sha256(content).hexdigest() for name, content in (("a", b"a"), ("sub/b", b"b"), ("sub.txt", b"c"))
    }

"""A small bundle that is whole, and keys and certificates made for the tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.exporter.bundle import FileEntry, ManifestInputs, write_bundle
from vggt_edge.exporter.machine.usage import Measured
from vggt_edge.exporter.steps.cache import StepCache
from vggt_edge.exporter.supply.origin import Material, Origin
from vggt_edge.exporter.supply.sbom import sbom_json

MODEL_DIGEST = "a" * 64
FILES = (
    "stats.safetensors", "model.onnx", "model.onnx.data", "validation.json", "golden.safetensors", "report.html",
    "resolved.toml", "tensorrt/model.onnx", "tensorrt/kit.json",
)  # fmt: skip


def write_small_bundle(out: Path, license_: str | None = None) -> Path:
    """A bundle with everything that ``verify`` asks for, as an export writes it, in a few bytes.

    license_: of the weights, for its SBOM; without one it has no SBOM.
    """
    stats = "statistics"
    plan = PrecisionPlan(MODEL_DIGEST, hashlib.sha256(stats.encode()).hexdigest(), "jetson-orin", 64, ())
    digests = {"model": MODEL_DIGEST, "stats": plan.stats_digest, "plan": plan.digest}

    def assemble(folder: Path) -> None:
        (folder / "tensorrt").mkdir()
        for name in FILES:
            (folder / name).write_text(f"content of {name}")
        (folder / "stats.json").write_text(stats)
        (folder / "plan.json").write_text(plan.to_json())
        (folder / "measured.json").write_text(Measured(5).to_json())

    def describe(folder: Path, files: tuple[FileEntry, ...]) -> dict[str, str]:
        return {} if license_ is None else {"sbom.cdx.json": small_sbom(license_, files)}

    cache = StepCache(out, resume=False)
    inputs = ManifestInputs("vggt-mini", "jetson-orin", digests, {"torch": "2.13.0"})
    write_bundle(cache, assemble, inputs, describe=describe)
    cache.clear()
    return out


def small_sbom(license_: str, files: tuple[FileEntry, ...]) -> str:
    materials = tuple(Material(role, role, "1" * 64) for role in ("model", "calibration", "validation", "profile"))
    tools = {"torch": "2.13.0"}
    origin = Origin("a model", license_, "vggt", "jetson-orin", {}, materials, tools, {}, ("images",), ("depth",))
    return sbom_json(origin, files, plotly="4.1.1")


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[[str], Path]:
    """``make_bundle("CC-BY-NC-4.0")``: with an SBOM that says so."""
    return lambda license_: write_small_bundle(tmp_path / "licensed", license_)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "out")


@dataclass(frozen=True)
class Pair:
    """Files of a private key and its public half."""

    private: Path
    public: Path


def pem_of(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


@pytest.fixture
def make_pair(tmp_path: Path) -> Callable[..., Pair]:
    """``make_pair("ours")``: a new key of its own name. curve: P-256 by default."""

    def make(name: str, curve: ec.EllipticCurve | None = None, passphrase: bytes | None = None) -> Pair:
        key = ec.generate_private_key(curve or ec.SECP256R1())
        pair = Pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub")
        pair.private.write_bytes(pem_of(key, passphrase))
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        pair.public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public))
        return pair

    return make


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair("ours")


@dataclass(frozen=True)
class Holder:
    """A certificate with its key. Dates are days from now."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue(self, name: str, **about: int | bool) -> Holder:
        return make_holder(name, self, **about)

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Files of the private key and of the certificate."""
        key, certificate = folder / f"{name}.pem", folder / f"{name}.crt"
        key.write_bytes(pem_of(self.key))
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return key, certificate


@pytest.fixture
def holder() -> Callable[..., Holder]:
    """``holder("root", ca=True)``; see ``make_holder``."""
    return make_holder


def make_holder(
    name: str,
    issuer: Holder | None = None,
    *,
    ca: bool = False,
    signs: bool = True,
    first_day: int = -10,
    last_day: int = 10,
) -> Holder:
    """A certificate for ``name``, self-signed without an issuer. signs: whether it is made for signing."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=first_day))
        .not_valid_after(now + timedelta(days=last_day))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signs, key_cert_sign=ca, key_encipherment=not signs, content_commitment=False,
                data_encipherment=False, key_agreement=False, crl_sign=False, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if "@" in name:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(name)]), critical=False)
    return Holder(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)

"""Keys and certificates: what signs, and what a signature is checked with. Nothing here asks a network.

The only module that needs ``cryptography``; importing it without that library raises ``ToolchainError``.
"""

from __future__ import annotations

import base64
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from vggt_edge.devices.errors import InputError, SignatureError, ToolchainError
from vggt_edge.exporter.signing.envelope import (
    PAYLOAD_TYPE,
    Envelope,
    Material,
    OneSignature,
    PublicKey,
    SignatureFile,
    X509Certificate,
    X509CertificateChain,
    to_sign,
)

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import verification
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    raise ToolchainError(
        f"the library for signatures is missing: {error}",
        expected="cryptography 46 or later",
        remedy="pip install 'vggt-edge[sign]'",
    ) from error

E = TypeVar("E", bound=x509.ExtensionType)

_CURVES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_CURVE_NAMES = "an elliptic curve key (P-256, P-384 or P-521) as PEM"
_MAKE_KEY = "openssl ecparam -genkey -name prime256v1 -noout -out key.pem"
_PUBLIC_OF = "openssl pkey -in key.pem -pubout -out key.pub"
_GET_AGAIN = "do not use this bundle; get it again from where it was made"


@dataclass(frozen=True)
class Signer:
    """A private key, and how a signature names it. name: in words. The key is never printed."""

    material: Material
    name: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def sign(self, content: bytes) -> SignatureFile:
        """Sign a statement's JSON. The same content gives the same signature (RFC 6979)."""
        algorithm = ec.ECDSA(_hash_of(self.key.public_key()), deterministic_signing=True)
        signature = self.key.sign(to_sign(content), algorithm)
        return SignatureFile(
            verification_material=self.material,
            dsse_envelope=Envelope(payload=_text(content), signatures=(OneSignature(sig=_text(signature)),)),
        )


def load_signer(
    key: Path, *, certificate: Path | None = None, chain: Iterable[Path] = (), passphrase: str | None = None
) -> Signer:
    """The signer of a private key in PEM. certificate: of that key; chain: from its issuer upwards.

    ``InputError`` for files of another kind, and for a certificate that is of another key or has expired.
    """
    private = _private_key(key, passphrase)
    if certificate is None:
        if tuple(chain):
            raise InputError("a chain without a certificate", expected="the certificate of the signing key with it")
        public = fingerprint(private.public_key())
        return Signer(Material(public_key=PublicKey(hint=public)), f"key {public}", private)
    (own, *more) = _certificates(certificate)
    if own.public_key() != private.public_key():
        raise InputError(
            "the certificate is not that of the signing key",
            where=str(certificate),
            expected=f"a certificate of {key.name}",
        )
    if (fault := _date_fault(own, datetime.now(UTC))) or (fault := _usage_fault(own)):
        raise InputError(fault, where=str(certificate), expected="a certificate that can sign now")
    listed = (own, *more, *(one for path in chain for one in _certificates(path)))
    certificates = tuple(X509Certificate(raw_bytes=_text(_der(one))) for one in listed)
    material = Material(x509_certificate_chain=X509CertificateChain(certificates=certificates))
    return Signer(material, _holder(own), private)


class Verifier(ABC):
    """Checks signatures against a key or certificates."""

    @abstractmethod
    def verify(self, signed: SignatureFile, where: str) -> str:
        """Who has signed, in words. ``SignatureError`` when the signature is not by whom it should be."""

    @property
    def public_pem(self) -> bytes | None:
        """The one public key that is trusted, as PEM; None where certificates are trusted."""
        return None


@dataclass(frozen=True)
class KeyVerifier(Verifier):
    """Trusts one public key."""

    key: ec.EllipticCurvePublicKey

    @property
    def public_pem(self) -> bytes:
        return _pem(self.key)

    def verify(self, signed: SignatureFile, where: str) -> str:
        named = signed.verification_material.public_key
        own = fingerprint(self.key)
        if named is not None and named.hint not in (None, own):
            raise SignatureError(
                f"the signature is by another key: {named.hint}",
                where=where,
                expected=f"the key {own}",
                remedy=_GET_AGAIN,
            )
        _check(self.key, signed.dsse_envelope, where)
        return f"key {own}"


@dataclass(frozen=True)
class ChainVerifier(Verifier):
    """Trusts whoever has a certificate under one of these, and, where ``identity`` is given, has that name."""

    trusted: tuple[x509.Certificate, ...]
    identity: str | None = None

    def verify(self, signed: SignatureFile, where: str) -> str:
        chain = signed.verification_material.x509_certificate_chain
        if chain is None:
            raise SignatureError(
                "the signature names a key and no certificate",
                where=where,
                expected="a signature with certificates",
                remedy="check it with --key",
            )
        own, *more = (_from_der(one, where) for one in chain.certificates)
        _check_chain(own, more, self.trusted, where)
        names = _names(own)
        if self.identity is not None and self.identity not in names:
            raise SignatureError(
                f"signed by {' or '.join(names) or 'nobody by name'}",
                where=where,
                expected=f"the signature of {self.identity}",
                remedy=_GET_AGAIN,
            )
        public = own.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise SignatureError("the certificate is not of an elliptic curve key", where=where, expected=_CURVE_NAMES)
        _check(public, signed.dsse_envelope, where)
        return _holder(own)


def load_verifier(key: Path | None = None, *, chain: Iterable[Path] = (), identity: str | None = None) -> Verifier:
    """A verifier of a public key, or of trusted certificates."""
    if key is not None:
        return KeyVerifier(_public_key(key))
    return ChainVerifier(tuple(one for path in chain for one in _certificates(path)), identity)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """sha256 of the public key as PEM, by which signatures name it."""
    return hashlib.sha256(_pem(key)).hexdigest()


# --- files ------------------------------------------------------------------------------------------------------------


def _private_key(path: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    content = _read(path, "the signing key")
    try:
        key = serialization.load_pem_private_key(content, None if passphrase is None else passphrase.encode())
    except TypeError:  # whether a passphrase was needed, and whether one was given, do not agree
        locked = passphrase is None
        raise InputError(
            "the signing key is encrypted" if locked else "the signing key is not encrypted, but a passphrase is set",
            where=str(path),
            expected="its passphrase in the environment variable VGGT_EDGE_KEY_PASSPHRASE"
            if locked
            else "no VGGT_EDGE_KEY_PASSPHRASE in the environment",
        ) from None
    except ValueError:
        raise InputError(
            "not a private key, or another passphrase", where=str(path), expected=_CURVE_NAMES, remedy=_MAKE_KEY
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise InputError("a key of another kind", where=str(path), expected=_CURVE_NAMES, remedy=_MAKE_KEY)
    return key


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    content = _read(path, "the public key")
    try:
        key = serialization.load_pem_public_key(content)
    except ValueError:
        private = b"PRIVATE KEY" in content
        raise InputError(
            "a private key, which belongs to the signer alone" if private else "not a public key",
            where=str(path),
            expected=f"the public half of {_CURVE_NAMES}",
            remedy=_PUBLIC_OF,
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InputError("a key of another kind", where=str(path), expected=_CURVE_NAMES)
    return key


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path, "the certificate"))
    except ValueError:
        raise InputError("not a certificate", where=str(path), expected="X.509 certificates as PEM") from None


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {what}: {error.strerror}", where=str(path), expected="a PEM file") from error


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(key: ec.EllipticCurvePublicKey, envelope: Envelope, where: str) -> None:
    try:
        key.verify(envelope.signature, to_sign(envelope.content), ec.ECDSA(_hash_of(key)))
    except InvalidSignature:
        raise SignatureError(
            "the signature is not by this key, or what it signs has changed",
            where=where,
            expected=f"a signature of {PAYLOAD_TYPE} by the key {fingerprint(key)}",
            remedy=_GET_AGAIN,
        ) from None


def _hash_of(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return _CURVES[key.curve.name]


def _check_chain(
    own: x509.Certificate, more: list[x509.Certificate], trusted: tuple[x509.Certificate, ...], where: str
) -> None:
    """``SignatureError`` unless a chain leads from ``own`` to a trusted certificate, and all of it holds now."""
    now = datetime.now(UTC)
    policy = verification.PolicyBuilder().store(verification.Store(list(trusted))).time(now)
    verifier = policy.extension_policies(ca_policy=_issuer_policy(), ee_policy=_signer_policy()).build_client_verifier()
    try:
        chain = verifier.verify(own, more).chain
        reason = next(filter(None, (_date_fault(one, now) for one in chain)), "")
    except verification.VerificationError as error:
        dated = (_date_fault(one, now) for one in (own, *more, *trusted))
        reason = next(filter(None, dated), "") or _usage_fault(own) or _first_line(error)
    if reason:
        raise SignatureError(
            f"the chain of certificates does not hold: {reason}",
            where=where,
            expected="a chain to a trusted certificate, every part of it valid today",
            remedy="sign the bundle again with a valid certificate",
        )


def _issuer_policy() -> verification.ExtensionPolicy:
    """The rules for certificates that issue others: they have to be made for that."""
    anything = verification.Criticality.AGNOSTIC
    policy = verification.ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, anything, _is_issuer)
    return policy.may_be_present(x509.KeyUsage, anything, _signs_certificates)


def _signer_policy() -> verification.ExtensionPolicy:
    """The rules for certificates that sign bundles: made for signing, and not for issuing others."""
    anything = verification.Criticality.AGNOSTIC
    policy = verification.ExtensionPolicy.permit_all().may_be_present(x509.BasicConstraints, anything, _is_no_issuer)
    return policy.may_be_present(x509.KeyUsage, anything, _signs_bundles)


def _is_issuer(policy: verification.Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError(f"{certificate.subject.rfc4514_string()} may not issue certificates")


def _signs_certificates(
    policy: verification.Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError(f"{certificate.subject.rfc4514_string()} may not issue certificates")


def _is_no_issuer(
    policy: verification.Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError(f"{certificate.subject.rfc4514_string()} issues certificates, and may not sign bundles")


def _signs_bundles(policy: verification.Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if fault := _usage_fault(certificate):
        raise ValueError(fault)


def _usage_fault(certificate: x509.Certificate) -> str:
    """Why a certificate may not sign bundles; "" when it may, by key usage or for code."""
    usage = _extension(certificate, x509.KeyUsage)
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if (usage is not None and usage.digital_signature) or (
        extended is not None and ExtendedKeyUsageOID.CODE_SIGNING in extended
    ):
        return ""
    return f"the certificate of {certificate.subject.rfc4514_string()} is not for signing (digitalSignature)"


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _date_fault(certificate: x509.Certificate, now: datetime) -> str:
    who = f"the certificate of {certificate.subject.rfc4514_string()}"
    if now > certificate.not_valid_after_utc:
        return f"{who} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if now < certificate.not_valid_before_utc:
        return f"{who} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return ""


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names that a certificate gives its holder: mail addresses, addresses, host names and the common name."""
    alternative = _extension(certificate, x509.SubjectAlternativeName)
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    listed = [] if alternative is None else [name for kind in kinds for name in alternative.get_values_for_type(kind)]
    common = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return tuple(dict.fromkeys((*map(str, listed), *common)))


def _holder(certificate: x509.Certificate) -> str:
    return f"certificate of {', '.join(_names(certificate)) or certificate.subject.rfc4514_string()}"


def _from_der(certificate: X509Certificate, where: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(base64.b64decode(certificate.raw_bytes))
    except ValueError:
        raise SignatureError("a certificate in the signature is damaged", where=where, remedy=_GET_AGAIN) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(" (encountered")[0]


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()

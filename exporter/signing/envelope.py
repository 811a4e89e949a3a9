"""The file ``model.sig``: a Sigstore bundle around an in-toto statement, as OpenSSF Model Signing 1.0 defines it.

Nothing here needs cryptography: these are the types, and how they are read and written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from vggt_edge.calibration.documents import Count, Sha256
from vggt_edge.devices.errors import SignatureError
from vggt_edge.exporter.supply.provenance import STATEMENT_TYPE

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
_CLAIMS = "vggt-edge"
_EXPECTED = "a signature in the format of OpenSSF Model Signing 1.0, over whole files by sha256"
_REMEDY = "get the bundle again from where it was made, or sign it with `vggt-edge sign`"

T = TypeVar("T", bound=BaseModel)


def _checked_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from None
    return text


Base64 = Annotated[str, AfterValidator(_checked_base64)]


class _Part(BaseModel):
    """A part of the file. Fields that are not known are left alone, as the format asks of its readers."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


class PublicKey(_Part):
    """Which key has signed. hint: sha256 of the public key as PEM."""

    hint: str | None = None


class X509Certificate(_Part):
    """raw_bytes: DER, as base64."""

    raw_bytes: Base64


class X509CertificateChain(_Part):
    """certificates: the signing one first."""

    certificates: Annotated[tuple[X509Certificate, ...], Field(min_length=1)]


class Material(_Part):
    """What says who has signed: a key, or a chain of certificates."""

    public_key: PublicKey | None = None
    x509_certificate_chain: X509CertificateChain | None = None
    tlog_entries: tuple[object, ...] = ()


class OneSignature(_Part):
    """sig: ECDSA in DER, as base64."""

    sig: Base64
    keyid: str = ""


class Envelope(_Part):
    """A DSSE envelope. payload: the statement's JSON, as base64."""

    payload: Base64
    payload_type: Literal["application/vnd.in-toto+json"] = PAYLOAD_TYPE
    signatures: Annotated[tuple[OneSignature, ...], Field(min_length=1, max_length=1)]

    @property
    def content(self) -> bytes:
        return base64.b64decode(self.payload)

    @property
    def signature(self) -> bytes:
        return base64.b64decode(self.signatures[0].sig)


class SignatureFile(_Part):
    """``model.sig`` as a whole."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = MEDIA_TYPE
    verification_material: Material
    dsse_envelope: Envelope

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, exclude_none=True) + "\n"


class _Plain(BaseModel):
    """A part of the statement, whose names are written as they are here."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore")


class Resource(_Plain):
    """One signed file. name: its path in the bundle."""

    name: Annotated[str, Field(min_length=1)]
    algorithm: Literal["sha256"] = "sha256"
    digest: Sha256


class Serialization(_Plain):
    """How the files were read. ignore_paths: files that are not signed."""

    method: Literal["files"] = "files"
    hash_type: Literal["sha256"] = "sha256"
    allow_symlinks: Literal[False] = False
    ignore_paths: tuple[str, ...] = ()


class Claims(_Plain):
    """What the signer says beside the files.

    - release: a number that grows with every release of a product
    - purpose: what the bundle is for; the licence of the weights was compared with it
    - accepted_license: a licence that does not allow the purpose by itself, and that the signer answers for
    """

    release: Count | None = None
    purpose: str | None = None
    accepted_license: str | None = None


class Predicate(_Plain):
    """claims: our own; other readers of the format pass over them."""

    serialization: Serialization
    resources: tuple[Resource, ...]
    claims: Claims = Field(default=Claims(), validation_alias=_CLAIMS, serialization_alias=_CLAIMS)


class Digest(_Plain):
    """A digest by its name."""

    sha256: Sha256


class Subject(_Plain):
    """The whole of the files. digest: of the digests of all files, in their order."""

    name: str
    digest: Digest


class Statement(_Plain):
    """What is signed."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(
        default=STATEMENT_TYPE, validation_alias="_type", serialization_alias="_type"
    )
    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(
        default=PREDICATE_TYPE, validation_alias="predicateType", serialization_alias="predicateType"
    )
    predicate: Predicate

    @property
    def files(self) -> dict[str, str]:
        """sha256 by path."""
        return {resource.name: resource.digest for resource in self.predicate.resources}

    @property
    def digest(self) -> str:
        return self.subject[0].digest.sha256

    def to_json(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode()


def make_statement(name: str, files: Mapping[str, str], ignored: tuple[str, ...], claims: Claims) -> Statement:
    """A statement about files. files: sha256 by path. ignored: paths that are not signed."""
    ordered = sorted(files, key=PurePosixPath)
    resources = tuple(Resource(name=path, digest=files[path]) for path in ordered)
    return Statement(
        subject=(Subject(name=name, digest=Digest(sha256=_root(resources))),),
        predicate=Predicate(serialization=Serialization(ignore_paths=ignored), resources=resources, claims=claims),
    )


def read_signature_file(text: str, where: str) -> SignatureFile:
    """The parts of ``model.sig``; ``SignatureError`` for a file of another kind."""
    return _read(SignatureFile, text, where)


def read_statement(content: bytes, where: str) -> Statement:
    """The signed statement; ``SignatureError`` when it is of another kind, or at odds with itself."""
    statement = _read(Statement, content, where)
    resources = statement.predicate.resources
    if _root(resources) != statement.digest or len(statement.files) < len(resources):
        raise SignatureError(
            "the signed list of files contradicts itself", where=where, expected=_EXPECTED, remedy=_REMEDY
        )
    return statement


def to_sign(content: bytes) -> bytes:
    """The bytes that the key signs: the payload behind its type and length (DSSE's pre-authentication encoding)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(content), content)


def _root(resources: tuple[Resource, ...]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()


def _read(kind: type[T], text: str | bytes, where: str) -> T:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise SignatureError(
            f"cannot use the signature: {what}", where=where, expected=_EXPECTED, remedy=_REMEDY
        ) from None

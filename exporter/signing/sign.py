"""Sign a bundle, and check a signed one: every file is the one that was signed, and no file was added."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vggt_edge.devices.errors import SignatureError, UsageError
from vggt_edge.exporter.bundle import MANIFEST, SIGNATURE, Manifest, check_plain, read_manifest, verify_bundle
from vggt_edge.exporter.device_result import RESULT
from vggt_edge.exporter.machine.files import file_sha256
from vggt_edge.exporter.machine.usage import MEASURED
from vggt_edge.exporter.signing.envelope import (
    Claims,
    Statement,
    make_statement,
    read_signature_file,
    read_statement,
)
from vggt_edge.exporter.supply.licenses import check_purpose
from vggt_edge.exporter.supply.parts import license_of_weights
from vggt_edge.runtimes.common.files import aside

if TYPE_CHECKING:
    from vggt_edge.exporter.signing.keys import Signer, Verifier

_FRESH = "a newer release: get it from where bundles are made"


@dataclass(frozen=True)
class SignatureState:
    """What is known of a bundle's signature.

    - status: ``unsigned``, ``signed`` (just now), ``not_checked`` (no key was given) or ``verified``
    - signer: the key or certificate, where it is known
    - release: the number that was signed with it; None for none
    - digest: of all signed files together
    - purpose: what it was signed for; None where nobody has said
    """

    status: Literal["unsigned", "signed", "not_checked", "verified"]
    signer: str = ""
    release: int | None = None
    digest: str = ""
    purpose: str | None = None

    @property
    def text(self) -> str:
        """The state as one line for people."""
        if self.status == "unsigned":
            return "signature: none"
        if self.status == "not_checked":
            return "signature: not checked; give --key or --certificate-chain to check it"
        said = [f"release {self.release}"] if self.release is not None else []
        said += [f"for {self.purpose} use"] if self.purpose is not None else []
        return ", ".join((f"signature: {self.status}, {self.signer}", *said))


@dataclass(frozen=True)
class Verified(Manifest):
    """The manifest of a bundle, and what is known of its signature."""

    signature: SignatureState = field(kw_only=True)


@dataclass(frozen=True)
class Signing:
    """Who signs, and what is said beside the files."""

    signer: Signer
    claims: Claims = field(default_factory=Claims)

    def check_license(self, license_of_weights: str) -> None:
        """``UsageError`` where weights of this licence may not serve the purpose that is signed."""
        if self.claims.purpose is not None:
            check_purpose(license_of_weights, self.claims.purpose, self.claims.accepted_license)

    def seal(self, bundle: Path, manifest: Manifest) -> SignatureState:
        """Write the signature of a bundle whose files are known to be those of its manifest.

        ``UsageError`` where the weights may not serve the purpose.
        """
        if self.claims.purpose is not None:
            self.check_license(license_of_weights(bundle))
        name = f"{manifest.model} for {manifest.target}"
        statement = make_statement(name, _files(bundle, manifest), _ignored(manifest), self.claims)
        signed = self.signer.sign(statement.to_json())
        with aside(bundle / SIGNATURE) as scratch:
            scratch.write_text(signed.to_json(), encoding="utf-8")
        return SignatureState("signed", self.signer.name, self.claims.release, statement.digest, self.claims.purpose)


def sign_bundle(bundle: Path, signing: Signing, *, replace: bool = False) -> SignatureState:
    """Sign a whole bundle. ``UsageError`` for one that is signed already, unless ``replace``."""
    if os.path.lexists(bundle / SIGNATURE) and not replace:
        raise UsageError(
            "the bundle is signed already",
            where=str(bundle / SIGNATURE),
            expected="an unsigned bundle",
            remedy="check it with `vggt-edge verify --key`, or give --replace to sign it anew",
        )
    return signing.seal(bundle, verify_bundle(bundle))


def signature_state(bundle: Path) -> SignatureState:
    """The claims of a bundle's signature, unchecked."""
    if not os.path.lexists(bundle / SIGNATURE):
        return SignatureState("unsigned")
    statement = _statement(bundle, None)[0]
    claims = statement.predicate.claims
    return SignatureState("not_checked", "", claims.release, statement.digest, claims.purpose)


def verify_signature(bundle: Path, verifier: Verifier, min_release: int | None = None) -> SignatureState:
    """Check that a bundle is, file by file, what the holder of a key has signed.

    Together with ``verify_bundle``, which compares the files with the manifest that is signed. ``SignatureError`` for
    an unsigned bundle, another signer, an older release, and files that were changed, added or removed.
    """
    if not os.path.lexists(bundle / SIGNATURE):
        raise SignatureError(
            "the bundle is not signed",
            where=str(bundle),
            expected=f"a file {SIGNATURE}",
            remedy="get a signed bundle, or sign it with `vggt-edge sign`",
        )
    statement, signer = _statement(bundle, verifier)
    claims = statement.predicate.claims
    release = claims.release
    if min_release is not None and (release is None or release < min_release):
        found = "without a release number" if release is None else f"release {release}"
        raise SignatureError(
            f"the bundle is {found}", where=str(bundle), expected=f"release {min_release} or later", remedy=_FRESH
        )
    if problems := _differences(statement.files, _files(bundle, read_manifest(bundle))):
        raise SignatureError(
            "the bundle is not what was signed:\n  " + "\n  ".join(problems),
            where=str(bundle),
            expected="exactly the files that were signed",
            remedy="do not use this bundle; get it again from where it was made",
        )
    return SignatureState("verified", signer, release, statement.digest, claims.purpose)


def _statement(bundle: Path, verifier: Verifier | None) -> tuple[Statement, str]:
    """The signed statement and its signer, whom nobody has checked where there is no verifier."""
    path = bundle / SIGNATURE
    check_plain(path, "the signature")
    signed = read_signature_file(path.read_text(encoding="utf-8", errors="replace"), str(path))
    signer = "" if verifier is None else verifier.verify(signed, str(path))
    return read_statement(signed.dsse_envelope.content, str(path)), signer


def _files(bundle: Path, manifest: Manifest) -> dict[str, str]:
    """sha256 by path of what is signed: all but the signature itself, and what devices say later."""
    unlisted = [name for name in (MANIFEST, MEASURED) if os.path.lexists(bundle / name)]
    for name in unlisted:
        check_plain(bundle / name, name)
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    return listed | {name: file_sha256(bundle / name) for name in unlisted}


def _ignored(manifest: Manifest) -> tuple[str, ...]:
    """Paths that other readers of the format pass over: a device's result may lie beside every kit."""
    folders = {entry.path.partition("/")[0] for entry in manifest.files if "/" in entry.path}
    return (SIGNATURE, RESULT, *(f"{folder}/{RESULT}" for folder in sorted(folders)))


def _differences(signed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    missing = [f"{path}: was signed, and is missing" for path in signed if path not in found]
    added = [f"{path}: was not signed" for path in found if path not in signed]
    kept = [path for path in signed if path in found]
    changed = [f"{path}: is not the file that was signed" for path in kept if found[path] != signed[path]]
    return [*missing, *added, *changed]

"""``sign``, and what other commands ask about signatures. Keys are read here, once, and handed on in memory only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vggt_edge.devices.errors import UnknownNameError, UsageError
from vggt_edge.exporter.commands import options
from vggt_edge.exporter.commands.output import print_result, print_table

if TYPE_CHECKING:
    from vggt_edge.exporter.signing.keys import Verifier
    from vggt_edge.exporter.signing.sign import Signing

PASSPHRASE = "VGGT_EDGE_KEY_PASSPHRASE"
# What `export` takes beside the settings of a request, in which no key may be.
SIGNING_FLAGS = {
    name: Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in (
        ("sign_key", options.SignKey),
        ("certificate", options.SignCertificate),
        ("certificate_chain", options.SignChain),
        ("release", options.Release),
        ("purpose", options.Purpose),
        ("accept_license", options.AcceptLicense),
    )
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(sign)
    app.command()(licenses)


def sign(
    bundle: options.Bundle,
    key: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help=f"Private key (elliptic curve, PEM). The environment variable {PASSPHRASE} holds its passphrase.",
        ),
    ],
    certificate: options.SignCertificate = None,
    certificate_chain: options.SignChain = None,
    release: options.Release = None,
    purpose: options.Purpose = None,
    accept_license: options.AcceptLicense = None,
    replace: Annotated[
        bool, typer.Option("--replace", metavar=options.NO_VALUE, help="Replace a signature that is there already.")
    ] = False,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Sign a bundle: `model.sig` then shows who made it, and that no file has changed since.

    The format is OpenSSF Model Signing 1.0. The bundle is verified first. No network is used.
    """
    from vggt_edge.exporter.signing.sign import sign_bundle

    signing = make_signing(key, certificate, certificate_chain, release, purpose, accept_license)
    assert signing is not None
    print_result(sign_bundle(bundle, signing, replace=replace), as_json=json)


def licenses(
    bundle: options.Bundle,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """List the licences of a bundle: of its weights, of the code inside, and of the tools that made it."""
    from vggt_edge.exporter.supply.parts import read_licenses

    found = read_licenses(bundle)
    if json:
        print_result(found, as_json=True)
        return
    allowed = {True: "allowed", False: "forbidden", None: "see the licence"}
    rows = [(one.kind, one.name, one.license, allowed[one.commercial]) for one in found.parts]
    print_table("Licences", ("kind", "part", "licence", "commercial use"), rows)


def make_signing(
    sign_key: Path | None = None,
    certificate: Path | None = None,
    certificate_chain: list[Path] | None = None,
    release: int | None = None,
    purpose: str | None = None,
    accept_license: str | None = None,
) -> Signing | None:
    """The signing that the flags ask for, with the key read; None without a key."""
    if sign_key is None:
        given = {"--certificate": certificate, "--certificate-chain": certificate_chain, "--release": release}
        _refuse({**given, "--purpose": purpose, "--accept-license": accept_license}, "--sign-key FILE with it")
        return None
    from vggt_edge.exporter.signing.envelope import Claims
    from vggt_edge.exporter.signing.keys import load_signer
    from vggt_edge.exporter.signing.sign import Signing
    from vggt_edge.exporter.supply.licenses import PURPOSES

    if purpose is None:
        _refuse({"--accept-license": accept_license}, "--purpose NAME with it")
    elif purpose not in PURPOSES:
        raise UnknownNameError("purpose", purpose, PURPOSES, where="--purpose")
    if release is not None and release < 0:
        raise UsageError(f"release {release}", where="--release", expected="a whole number, at least 0")
    signer = load_signer(
        sign_key, certificate=certificate, chain=certificate_chain or (), passphrase=os.environ.get(PASSPHRASE)
    )
    return Signing(signer, Claims(release=release, purpose=purpose, accepted_license=accept_license))


def make_verifier(
    key: Path | None, certificate_chain: list[Path] | None, identity: str | None, min_release: int | None
) -> Verifier | None:
    """The verifier that the flags ask for, with key or certificates read; None without both."""
    if key is not None:
        _refuse({"--certificate-chain": certificate_chain, "--identity": identity}, "--key alone")
    elif certificate_chain is None:
        _refuse({"--identity": identity}, "--certificate-chain FILE with it")
        _refuse({"--min-release": min_release}, "--key FILE or --certificate-chain FILE with it")
        return None
    from vggt_edge.exporter.signing.keys import load_verifier

    return load_verifier(key, chain=certificate_chain or (), identity=identity)


def _refuse(flags: Mapping[str, object], expected: str) -> None:
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} does not go here", expected=expected)

"""Targets: signatures and the SBOM, as the exporter and the device kits read them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness import Errors, Target
from mutation import Mutator, damaged, damaged_json

from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.exporter.bundle import FileEntry
from vggt_edge.exporter.signing.envelope import Claims, make_statement, read_statement
from vggt_edge.exporter.signing.keys import load_signer, load_verifier
from vggt_edge.exporter.signing.sign import Signing, sign_bundle, signature_state, verify_signature
from vggt_edge.exporter.supply.origin import SBOM, Material, Origin
from vggt_edge.exporter.supply.parts import read_licenses
from vggt_edge.exporter.supply.sbom import sbom_json
from vggt_edge.runtimes.common.kit import COMMON, SIGNATURE, kit_script

OWN: Errors = (VggtEdgeError,)
JSON: tuple[Mutator, ...] = (damaged_json, damaged_json, damaged_json, damaged)
FILES = {"model.onnx": "1" * 64, "tensorrt/kit.json": "2" * 64}


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    """Always the same key, so that an input can be had again."""
    return ec.derive_private_key(7, ec.SECP256R1())


def _write_keys(folder: Path) -> None:
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(_key().private_bytes(serialization.Encoding.PEM, *private))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "key.pub").write_bytes(_key().public_key().public_bytes(serialization.Encoding.PEM, public))


def write_signed(folder: Path, write_bundle: Any) -> None:
    """A signed bundle in ``out``, and the keys beside it."""
    _write_keys(folder)
    (folder / "out").mkdir()
    write_bundle(folder / "out")
    sign_bundle(folder / "out", Signing(load_signer(folder / "key.pem"), Claims(release=2)))


def _read_signature(folder: Path) -> None:
    print(signature_state(folder / "out").text)


def _check_signature(folder: Path) -> None:
    verify_signature(folder / "out", load_verifier(folder / "key.pub"), 1)


def _write_statement(folder: Path) -> None:
    statement = make_statement("a model", FILES, ("model.sig",), Claims(release=2))
    (folder / "statement.json").write_bytes(statement.to_json())


def _read_statement(folder: Path) -> None:
    print(read_statement((folder / "statement.json").read_bytes(), "fuzz").files)


def _read_statement_on_device(folder: Path) -> None:
    kit = kit_script(SIGNATURE)
    statement = kit_script(COMMON).parse_json((folder / "statement.json").read_bytes())
    kit.files_of(statement)
    kit.release_of(statement)


def _write_sbom(folder: Path) -> None:
    materials = tuple(Material(role, role, "1" * 64) for role in ("model", "calibration", "validation", "profile"))
    origin = Origin("m", "MIT", "vggt", "jetson-orin", {}, materials, {"torch": "2.13.0"}, {}, ("images",), ("depth",))
    files = tuple(FileEntry(path, 1, digest) for path, digest in FILES.items())
    (folder / SBOM).write_text(sbom_json(origin, files, plotly="4.1.1"))


def _read_sbom(folder: Path) -> None:
    json.dumps([vars(part) for part in read_licenses(folder).parts])


def targets(write_bundle: Any) -> list[Target]:
    """Signatures, and the SBOM. write_bundle: puts a small bundle into a folder."""

    def write(folder: Path) -> None:
        write_signed(folder, write_bundle)

    return [
        Target("model.sig", write, _read_signature, {"out/model.sig": JSON}, OWN, 0.5),
        Target("model.sig by key", write, _check_signature, {"out/model.sig": JSON}, OWN, 0.5),
        Target("signed statement", _write_statement, _read_statement, {"statement.json": JSON}, OWN, 0.5),
        Target(
            "kit_signature.py",
            _write_statement,
            _read_statement_on_device,
            {"statement.json": JSON},
            (ValueError,),  # which its caller turns into an error of the kit
            0.5,
        ),
        Target("sbom", _write_sbom, _read_sbom, {SBOM: JSON}, OWN, 0.5),
    ]

"""Signed kits, sound and tampered with, and what Python's kit says of each: the C++ kit has to say the same.

One folder per case of ``CASES``: a bundle with ``tensorrt/`` and ``model.sig``, and ``python.json`` with the arguments
of the kit (``words``), and the exit code and the message of Python's kit (``code``, ``said``).
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vggt_edge.exporter.signing.envelope import Claims, make_statement
from vggt_edge.exporter.signing.keys import load_signer
from vggt_edge.runtimes.common.kit import COMMON, SIGNATURE, kit_script

SIGNED = ("kit.json", "model.onnx", "model.onnx.data", "golden.safetensors")
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "other": ec.SECP256R1()}
Tamper: TypeAlias = Callable[[Path], object]
kit, common = kit_script(SIGNATURE), kit_script(COMMON)


def nothing(_bundle: Path) -> None: ...


def changed(name: str) -> Tamper:
    def tamper(bundle: Path) -> None:
        (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")

    return tamper


def removed(name: str) -> Tamper:
    return lambda bundle: (bundle / name).unlink()


def renamed(name: str) -> Tamper:
    return lambda bundle: (bundle / name).rename(bundle / f"{name}.bak")


def linked(name: str) -> Tamper:
    def tamper(bundle: Path) -> None:
        (bundle / name).rename(bundle / "elsewhere")
        (bundle / name).symlink_to(bundle / "elsewhere")

    return tamper


def with_signature(content: str) -> Tamper:
    return lambda bundle: (bundle / "model.sig").write_text(content)


def changed_payload(bundle: Path) -> None:
    raw = json.loads((bundle / "model.sig").read_text())
    raw["dsseEnvelope"]["payload"] = raw["dsseEnvelope"]["payload"].replace("A", "B", 1)
    (bundle / "model.sig").write_text(json.dumps(raw))


def signature_inside(bundle: Path) -> None:
    (bundle / "model.sig").rename(bundle / "tensorrt" / "model.sig")


@dataclass(frozen=True)
class Signed:
    """A case.

    - tamper: changes the bundle after it was signed.
    - key: of ``CURVES``, which signs.
    - trusted: file that is handed in as ``--key``; None: no key is.
    - words: further arguments.
    """

    tamper: Tamper = nothing
    key: str = "p256"
    trusted: str | None = "p256.pub"
    words: tuple[str, ...] = ()


CASES = {
    "sound": Signed(words=("--min-release", "2")),
    "sound p384": Signed(key="p384", trusted="p384.pub"),
    "sound p521": Signed(key="p521", trusted="p521.pub"),
    "signature inside": Signed(signature_inside),
    "no key": Signed(trusted=None),
    "release without key": Signed(trusted=None, words=("--min-release", "1")),
    "old release": Signed(words=("--min-release", "3")),
    "another key": Signed(trusted="other.pub"),
    "private key": Signed(trusted="p256.pem"),
    "damaged key": Signed(trusted="damaged.pub"),
    "missing key": Signed(trusted="missing.pub"),
    "unsigned": Signed(removed("model.sig")),
    "changed payload": Signed(changed_payload),
    **{
        f"{how.__name__} {name}": Signed(how(f"tensorrt/{name}"))
        for how in (changed, removed, renamed, linked)
        for name in ("kit.json", "model.onnx", "golden.safetensors")
    },
    **{
        f"no signature {index}": Signed(with_signature(content))
        for index, content in enumerate(("", "{}", "[]", '{"dsseEnvelope": {"signatures": []}}', "\xff"))
    },
}


def write_signed(folder: Path, good: Path) -> None:
    """Every case of ``CASES`` in a folder of its own. good: a kit's folder."""
    folder.mkdir()
    _write_keys(folder)
    for name, case in CASES.items():
        bundle = folder / name
        (bundle / "tensorrt").mkdir(parents=True)
        for file in (*SIGNED, "standin.json"):
            shutil.copyfile(good / file, bundle / "tensorrt" / file)
        _sign(bundle, folder / f"{case.key}.pem")
        case.tamper(bundle)
        (bundle / "python.json").write_text(json.dumps(_said_by_python(bundle, case)))


def _write_keys(folder: Path) -> None:
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    for name, curve in CURVES.items():
        key = ec.generate_private_key(curve)
        (folder / f"{name}.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public))
    (folder / "damaged.pub").write_text("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n")


def _sign(bundle: Path, key: Path) -> None:
    """A signature as ``vggt-edge sign`` makes it, for a bundle without a manifest."""
    files = {f"tensorrt/{name}": common.sha256_of(bundle / "tensorrt" / name) for name in SIGNED}
    statement = make_statement("a model", files, ("model.sig",), Claims(release=2))
    (bundle / "model.sig").write_text(load_signer(key).sign(statement.to_json()).to_json())


def _said_by_python(bundle: Path, case: Signed) -> dict[str, Any]:
    key = None if case.trusted is None else bundle.parent / case.trusted
    release = int(case.words[1]) if case.words else None
    code, stderr = 0, io.StringIO()
    with redirect_stderr(stderr):
        try:
            kit.check_signature(bundle / "tensorrt", key, release)
        except common.KitError as error:
            code, said = error.code, f"error: {error}"
        else:
            said = stderr.getvalue().strip()
    # Behind the colon are the words of a parser, or of the system.
    said = said.partition(": [Errno")[0] if "cannot read" in said else said
    said = ": ".join(said.split(": ")[:2]) if "cannot use" in said else said
    words = [] if key is None else ["--key", str(key)]
    return {"words": [*words, *case.words], "code": code, "said": said}

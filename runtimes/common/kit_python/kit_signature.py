"""Check who has signed a bundle, on the device: ``model.sig`` in the format of OpenSSF Model Signing 1.0.

Needs Python 3.8 or later, and the Python library ``cryptography`` or the command ``openssl``. Uses no network.
"""

from __future__ import annotations

import base64
import re
import subprocess
import tempfile
from pathlib import Path

from kit_common import EXIT_TOOLCHAIN, EXIT_USAGE, KitError, field_of, parse_json, read_json, say, sha256_of, text_of

SIGNATURE = "model.sig"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
DIGEST_OF_KEY_BITS = {256: "sha256", 384: "sha384", 521: "sha512"}
DO_NOT_USE = "do not use this folder; get the bundle again from where it was made"


def check_signature(folder, key, min_release=None):
    """``KitError`` unless every signed file of ``folder`` is as the holder of ``key`` has signed it.

    key: path of the public key; None checks nothing, and says so. min_release: the smallest release to accept.
    """
    if key is None:
        if min_release is not None:
            raise KitError(EXIT_USAGE, "--min-release checks nothing without a key", "give --key too")
        say("signature: not checked; --key FILE checks it with the public key of whoever made the bundle")
        return
    path = signature_of(folder)
    try:
        statement = signed_statement(read_json(path), key)
        files, release = files_of(statement), release_of(statement)
    except ValueError as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), DO_NOT_USE) from error
    if min_release is not None and (release is None or release < min_release):
        found = "none" if release is None else release
        raise KitError(EXIT_USAGE, "the signed release is %s, before %d" % (found, min_release), "get a newer bundle")
    check_files(folder, files)
    say("signature: verified with %s%s" % (key, "" if release is None else ", release %d" % release))


def signature_of(folder):
    """The signature lies in the bundle, which is the folder above this one, or was copied into this one."""
    places = [folder / SIGNATURE, folder.resolve().parent / SIGNATURE]
    found = [path for path in places if path.is_file()]
    if not found:
        raise KitError(
            EXIT_USAGE,
            "%s is not signed: no %s there or above" % (folder, SIGNATURE),
            "copy %s of the bundle too" % SIGNATURE,
        )
    return found[0]


def signed_statement(raw, key):
    """The statement inside ``model.sig``; ``KitError`` unless the holder of ``key`` has signed it."""
    envelope = field_of(raw, "dsseEnvelope")
    signatures = field_of(envelope, "signatures")
    if text_of(envelope, "payloadType") != PAYLOAD_TYPE or not isinstance(signatures, list) or len(signatures) != 1:
        raise ValueError("it is no signature of a bundle")
    content = base64.b64decode(text_of(envelope, "payload"), validate=True)
    signature = base64.b64decode(text_of(signatures[0], "sig"), validate=True)
    signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(content), content)
    if not is_signed(key, signed, signature):
        raise KitError(EXIT_USAGE, "the signature is not by the key %s, or has changed" % key, DO_NOT_USE)
    return parse_json(content)


def files_of(statement):
    """{path in the bundle: sha256} of every signed file."""
    predicate = field_of(statement, "predicate")
    serialization, resources = field_of(predicate, "serialization"), field_of(predicate, "resources")
    if text_of(statement, "predicateType") != PREDICATE_TYPE or text_of(serialization, "method") != "files":
        raise ValueError("it signs something else than files")
    if not isinstance(resources, list) or any(text_of(one, "algorithm") != "sha256" for one in resources):
        raise ValueError("it signs files by other digests than sha256")
    return {text_of(one, "name"): text_of(one, "digest") for one in resources}


def release_of(statement):
    claims = statement["predicate"].get("vggt-edge", {})
    release = claims.get("release") if isinstance(claims, dict) else None
    if release is not None and type(release) is not int:
        raise ValueError("release is %.40r instead of a whole number" % (release,))
    return release


def check_files(folder, files):
    """``KitError`` for a file of the kit's folder that is missing or not the signed one.

    The folder may have another name here; ``kit.json`` tells which folder of the bundle it is.
    """
    kit = folder / "kit.json"
    own = sha256_of(kit) if kit.is_file() and not kit.is_symlink() else None
    prefixes = [name[: -len("kit.json")] for name in files if name.endswith("/kit.json") and files[name] == own]
    if not prefixes:
        raise KitError(EXIT_USAGE, "%s is missing, or not the one that was signed" % kit, DO_NOT_USE)
    for name in sorted(name for name in files if name.startswith(prefixes[0])):
        path = folder.joinpath(*name[len(prefixes[0]) :].split("/"))
        if path.is_symlink() or not path.is_file() or sha256_of(path) != files[name]:
            raise KitError(EXIT_USAGE, "%s is missing, or not the file that was signed" % path, DO_NOT_USE)


# --- elliptic curves --------------------------------------------------------------------------------------------------


def is_signed(key, content, signature):
    """Whether ``signature`` (DER) is by the public key in the PEM file ``key``."""
    try:
        pem = Path(key).read_bytes()
    except OSError as error:
        raise KitError(EXIT_USAGE, "cannot read the public key: %s" % error, "give --key a PEM file") from error
    try:
        import cryptography  # noqa: F401
    except ImportError:
        return is_signed_by_openssl(key, content, signature)
    return is_signed_by_cryptography(pem, content, signature)


def is_signed_by_cryptography(pem, content, signature):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.backends import default_backend
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem, default_backend())  # Ubuntu 20.04 has a version that asks for it
    except ValueError:
        raise no_public_key() from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise no_public_key()
    algorithm = getattr(hashes, digest_name(key.key_size).upper())()
    try:
        key.verify(signature, content, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def is_signed_by_openssl(key, content, signature):
    described = openssl("pkey", "-pubin", "-in", str(key), "-noout", "-text")
    bits = re.search(r"\((\d+) bit\)", described.stdout)
    if described.returncode != 0 or bits is None:
        raise no_public_key()
    with tempfile.TemporaryDirectory() as scratch:
        files = {"content": content, "signature": signature}
        for name in files:
            (Path(scratch) / name).write_bytes(files[name])
        checked = openssl(
            "dgst", "-" + digest_name(int(bits.group(1))), "-verify", str(key),
            "-signature", str(Path(scratch) / "signature"), str(Path(scratch) / "content"),
        )  # fmt: skip
    return checked.returncode == 0


def openssl(*arguments):
    try:
        return subprocess.run(["openssl", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    except OSError as error:
        raise KitError(
            EXIT_TOOLCHAIN,
            "a signature cannot be checked: neither the Python library cryptography nor openssl is here",
            "sudo apt-get install openssl",
        ) from error


def digest_name(bits):
    if bits not in DIGEST_OF_KEY_BITS:
        raise no_public_key()
    return DIGEST_OF_KEY_BITS[bits]


def no_public_key():
    return KitError(
        EXIT_USAGE,
        "--key is no public key of an elliptic curve (P-256, P-384 or P-521) as PEM",
        "openssl pkey -in key.pem -pubout -out key.pub makes it",
    )

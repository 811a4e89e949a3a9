"""The JSON schemas in docs/schemas are those of the code, and the documents fit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from vggt_edge.exporter.schemas import schemas

Run = Callable[..., Any]
REMEDY = "run `vggt-edge schemas docs/schemas`"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return schemas()


def test_the_files_in_docs_are_those_of_the_code(texts: dict[str, str], repository: Path) -> None:
    folder = repository / "docs" / "schemas"
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == texts, REMEDY


def test_each_is_a_schema_with_a_version(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        schema = json.loads(text)
        Draft202012Validator.check_schema(schema)
        assert schema["$id"].startswith(f"urn:vggt-edge:schema:{name.removesuffix('.schema.json')}:")
    assert json.loads(texts["manifest.schema.json"])["$id"].endswith(":2")


def check(texts: dict[str, str], name: str, document: object) -> None:
    Draft202012Validator(json.loads(texts[f"{name}.schema.json"])).validate(document)


@pytest.fixture
def bundle(load_script: Callable[[str], Any], tmp_path: Path) -> Path:
    made: Path = load_script("exporter/signing/conftest").write_small_bundle(tmp_path / "out", "MIT")
    return made


def test_documents_of_a_bundle_fit(texts: dict[str, str], bundle: Path, tmp_path: Path, vggt_edge: Run) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(private_key())
    documents = {"sign": ("sign", bundle, "--key", key), "verify": ("verify", bundle)}
    for name, command in (documents | {"licenses": ("licenses", bundle), "error": ("verify", tmp_path)}).items():
        finished = vggt_edge(*command, "--json")
        assert finished.code == (2 if name == "error" else 0), finished.err
        check(texts, f"{name}-answer", finished.document)
    for name in ("manifest", "plan", "measured"):
        check(texts, name, json.loads((bundle / f"{name}.json").read_text()))
    check(texts, "model-sig", json.loads((bundle / "model.sig").read_text()))


def test_documents_about_this_machine_fit(
    fits: Callable[[str, object], None], bundle: Path, tmp_path: Path, vggt_edge: Run
) -> None:
    commands = {"targets": (), "doctor": (), "inspect": (bundle / "plan.json",), "schemas": (tmp_path,)}
    for name, arguments in commands.items():
        finished = vggt_edge(name, *arguments, "--json")
        assert finished.code == 0, finished.err
        fits(f"{name}-answer", finished.document)


def private_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_file_with_another_field_does_not_fit(texts: dict[str, str], bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for wrong in ({**manifest, "surprise": 1}, {**manifest, "files": [{"path": "a"}]}):
        with pytest.raises(ValidationError):
            check(texts, "manifest", wrong)

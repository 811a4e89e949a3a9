"""The SBOM is valid CycloneDX, the provenance a valid in-toto statement, and both say what the bundle is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from vggt_edge.exporter.bundle import FileEntry
from vggt_edge.exporter.supply.licenses import FAIR
from vggt_edge.exporter.supply.origin import Figure, Material, Origin
from vggt_edge.exporter.supply.provenance import provenance_json
from vggt_edge.exporter.supply.sbom import sbom_json

FILES = (FileEntry("model.onnx", 5, "1" * 64), FileEntry("tensorrt/build_and_verify.py", 7, "2" * 64))
ORIGIN = Origin(
    model="facebook/VGGT-1B",
    model_license="CC-BY-NC-4.0",
    architecture="vggt",
    target="jetson-orin",
    settings={"precision": "w8a8", "frames": 2, "exclude": ["camera.*"]},
    materials=tuple(
        Material(role, f"the {role}", f"{index}" * 64)
        for index, role in enumerate(("model", "calibration", "validation", "profile"))
    ),
    tools={"torch": "2.13.0+cpu", "numpy": "2.4.0", "onnxruntime": "1.31.0"},
    properties={"quantization:blocks:w8a8": "24", "target": "jetson-orin"},
    inputs=("images: (1, 2, 3, 28, 28)",),
    outputs=("depth: (1, 2, 28, 28, 1)",),
    figures=(Figure("depth: sqnr_db, simulation against fp32", 31.25),),
)


def faults(document: str) -> list[str]:
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(document, all_errors=True)
    return [str(one) for one in found or ()]


@pytest.fixture
def sbom() -> dict[str, Any]:
    document = json.loads(sbom_json(ORIGIN, FILES, plotly="4.1.1"))
    assert isinstance(document, dict)
    return document


def named(sbom: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in sbom["components"] if one["name"] == name)


class TestSbom:
    @pytest.mark.parametrize("license_", ["CC-BY-NC-4.0", "Our own terms", "MIT OR Apache-2.0", "unknown"])
    def test_the_validator_of_cyclonedx_accepts_it(self, license_: str) -> None:
        other = Origin(**{**vars(ORIGIN), "model_license": license_, "figures": ()})
        for origin, plotly in ((ORIGIN, "4.1.1"), (other, None)):
            assert faults(sbom_json(origin, FILES, plotly=plotly)) == []

    def test_the_validator_would_tell(self, sbom: dict[str, Any]) -> None:
        sbom["metadata"]["component"]["modelCard"]["surprise"] = 1
        assert faults(json.dumps(sbom)) != []

    def test_it_is_the_same_twice_and_another_for_other_files(self) -> None:
        first = sbom_json(ORIGIN, FILES, plotly=None)
        assert sbom_json(ORIGIN, FILES, plotly=None) == first
        other = json.loads(sbom_json(ORIGIN, FILES[:1], plotly=None))
        assert other["serialNumber"] != json.loads(first)["serialNumber"]

    def test_the_model_with_licence_quantization_and_figures(self, sbom: dict[str, Any]) -> None:
        subject = sbom["metadata"]["component"]
        assert subject["type"] == "machine-learning-model"
        assert subject["licenses"] == [{"license": {"id": "CC-BY-NC-4.0"}}]
        assert {"name": "vggt-edge:quantization:blocks:w8a8", "value": "24"} in subject["properties"]
        card = subject["modelCard"]
        assert card["quantitativeAnalysis"]["performanceMetrics"][0]["value"] == "31.25"
        assert named(sbom, "the model")["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]

    def test_a_licence_that_spdx_does_not_list_is_named(self) -> None:
        text = sbom_json(replace(ORIGIN, model_license=FAIR), FILES, plotly=None)
        assert faults(text) == []
        assert json.loads(text)["metadata"]["component"]["licenses"] == [{"license": {"name": FAIR}}]

    def test_data_sets_are_those_of_the_model_card(self, sbom: dict[str, Any]) -> None:
        refs = {one["bom-ref"] for one in sbom["components"] if one["type"] == "data"}
        card = sbom["metadata"]["component"]["modelCard"]
        assert {one["ref"] for one in card["modelParameters"]["datasets"]} == refs == {
            "data:calibration", "data:validation",
        }  # fmt: skip
        assert named(sbom, "the validation")["hashes"][0]["content"] == "2" * 64

    def test_files_tools_and_licences_of_code(self, sbom: dict[str, Any]) -> None:
        assert named(sbom, "model.onnx")["hashes"][0]["content"] == "1" * 64
        assert named(sbom, "tensorrt/build_and_verify.py")["licenses"] == [{"license": {"id": "Apache-2.0"}}]
        assert named(sbom, "plotly.js")["purl"] == "pkg:npm/plotly.js@4.1.1"
        assert named(sbom, "vggt-edge device kit")["licenses"] == [{"license": {"id": "Apache-2.0"}}]
        assert "device kit" not in sbom_json(ORIGIN, FILES[:1], plotly=None)
        tools = {one["name"]: one for one in sbom["metadata"]["tools"]["components"]}
        assert tools["torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
        assert all(tool["licenses"] for tool in tools.values())


class TestProvenance:
    def test_it_is_a_statement_of_in_toto_with_slsa_provenance(self) -> None:
        raw = json.loads(provenance_json(ORIGIN, FILES))
        message = json_format.ParseDict(raw, StatementMessage())  # refuses fields that are not known
        Statement.copy_from_pb(message).validate()
        predicate = json_format.ParseDict(raw["predicate"], Provenance())
        assert predicate.build_definition.build_type.startswith("urn:vggt-edge:")
        assert predicate.run_details.builder.id.startswith("urn:vggt-edge:")
        assert dict(predicate.build_definition.external_parameters)["precision"] == "w8a8"
        assert dict(message.subject[0].digest) == {"sha256": "1" * 64}
        materials = predicate.build_definition.resolved_dependencies
        assert [(one.name, one.digest["sha256"][0]) for one in materials] == [
            ("model: the model", "0"),
            ("calibration: the calibration", "1"),
            ("validation: the validation", "2"),
            ("profile: the profile", "3"),
        ]

    def test_it_is_the_same_twice(self) -> None:
        assert provenance_json(ORIGIN, FILES) == provenance_json(ORIGIN, FILES)

"""Our own JSON is read strictly, and an error names the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest

from vggt_edge.calibration.documents import Count, Finite, read_document
from vggt_edge.devices.errors import InputError


@dataclass(frozen=True)
class Part:
    name: str
    size_bytes: Count


@dataclass(frozen=True)
class Document:
    parts: tuple[Part, ...]
    shares: Mapping[str, Finite]
    schema_version: Literal[1] = 1


def read(text: str) -> Document:
    return read_document(Document, text, what="a document", where="d.json", expected="one of ours", remedy="again")


def test_what_is_right_is_read_as_its_type() -> None:
    assert read('{"parts": [{"name": "a", "size_bytes": 3}], "shares": {"b": 1}}') == Document(
        (Part("a", 3),), {"b": 1.0}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"parts": [{"name": "a", "size_bytes": "3"}], "shares": {}}', "parts.0.size_bytes: Input should be a valid"),
        ('{"parts": [{"name": "a", "size_bytes": true}], "shares": {}}', "parts.0.size_bytes: Input should be a valid"),
        ('{"parts": [{"name": "a", "size_bytes": -1}], "shares": {}}', "parts.0.size_bytes: Input should be greater"),
        (
            '{"parts": [{"name": "a", "size_bytes": 9007199254740993}], "shares": {}}',
            "parts.0.size_bytes: Input should",
        ),
        ('{"parts": [{"name": "a"}], "shares": {}}', "parts.0.size_bytes: Field required"),
        ('{"parts": [], "shares": {"b": Infinity}}', "shares.b: Input should be a finite number"),
        ('{"parts": [], "shares": {}, "colour": 1}', "colour: unknown field"),
        ('{"parts": [], "shares": {}, "schema_version": 2}', "schema_version: Input should be 1"),
        ("[]", "Input should be an object"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_wrong_field_is_named(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.what.startswith("not a document: ")
    assert said in caught.value.what
    assert (caught.value.where, caught.value.expected, caught.value.remedy) == ("d.json", "one of ours", "again")


def test_only_the_first_of_many_faults_are_listed() -> None:
    parts = ", ".join('{"name": 1, "size_bytes": 1}' for _ in range(50))
    with pytest.raises(InputError) as caught:
        read(f'{{"parts": [{parts}], "shares": {{}}}}')
    assert caught.value.what.count(";") == 4

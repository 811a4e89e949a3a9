"""Whether a document has the form of its schema in ``docs/schemas``, and no other key: ``fits.py NAME FILE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).resolve().parents[2] / "docs/schemas"


def check(name: str, document: object) -> None:
    """``ValidationError`` for a document that does not fit. Keys that the schema does not list are faults here."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    Draft202012Validator(schema).validate(document)


if __name__ == "__main__":
    check(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))

"""``provenance.intoto.json``: an in-toto statement with SLSA's provenance v1 of how the bundle was made.

No time of day and no random number is in it: the same export writes the same bytes. ``model.sig`` signs it with all
other files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from vggt_edge.exporter.bundle import FileEntry
from vggt_edge.exporter.supply.origin import Origin

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE, BUILDER = "urn:vggt-edge:export:1", "urn:vggt-edge:local"


def provenance_json(origin: Origin, files: Iterable[FileEntry]) -> str:
    """The statement about all files of a bundle but itself and the manifest."""
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": entry.path, "digest": {"sha256": entry.sha256}} for entry in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(origin.settings),
                "resolvedDependencies": [
                    {"name": f"{one.role}: {one.name}", "digest": {"sha256": one.sha256}} for one in origin.materials
                ],
            },
            "runDetails": {"builder": {"id": BUILDER, "version": dict(origin.tools)}},
        },
    }
    return json.dumps(statement, indent=2, sort_keys=True) + "\n"

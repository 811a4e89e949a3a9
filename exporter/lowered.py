"""The file ``lowered-<backend>.json`` of a bundle: a backend's account of its artifact. Reading it imports no torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from vggt_edge.calibration.documents import read_document
from vggt_edge.runtimes.base import Finding, Lowered

REST = "outside the blocks"
_LOWERED = TypeAdapter(Lowered)


def lowered_json(lowered: Lowered) -> bytes:
    """The content of ``lowered-<backend>.json``, without measured figures, which differ from run to run."""
    measured = {"checks": {"__all__": {"measured"}}}
    return _LOWERED.dump_json(lowered, indent=2, exclude=measured | ({} if lowered.computed else {"computed": True}))


def read_lowered(path: Path) -> Lowered:
    """Read a backend's account of its artifact. ``InputError`` says which field is wrong."""
    return read_document(
        Lowered,
        path.read_bytes(),
        what="a record of a lowering",
        where=str(path),
        expected="the file that `vggt-edge export` writes",
        remedy="export again without --resume",
    )


def lowered_file(backend: str) -> str:
    """Name of the file with a backend's account of its artifact."""
    return f"lowered-{backend}.json"


def warnings_of(lowered: Lowered) -> tuple[str, ...]:
    """Warnings of the audit of a compiled program, a line for each rule."""
    if not lowered.computed:
        return ()
    found: dict[str, list[Finding]] = {}
    for one in lowered.findings:
        if one.severity == "warning":
            found.setdefault(one.rule, []).append(one)
    return tuple(
        f"the compiled plan, {rule}: {', '.join(one.block or one.op for one in group)}: {group[0].what}; report.html "
        "and `vggt-edge inspect` list every block, --strict makes it an error"
        for rule, group in found.items()
    )

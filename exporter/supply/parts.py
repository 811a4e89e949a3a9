"""The parts of a bundle and their licences, as its SBOM lists them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.bundle import check_plain
from vggt_edge.exporter.supply.licenses import COMMERCIAL, UNKNOWN
from vggt_edge.exporter.supply.origin import SBOM


@dataclass(frozen=True)
class Part:
    """One part.

    - kind: ``weights`` or ``code``, which the bundle holds, or ``tool``, which made it
    - license: SPDX identifier, expression or name; ``unknown`` where nobody has said
    - commercial: whether commercial use is allowed; None where that is not known here
    """

    name: str
    kind: str
    license: str
    commercial: bool | None


@dataclass(frozen=True)
class Licenses:
    """All parts of a bundle: the weights first, then the code inside, then the tools."""

    parts: tuple[Part, ...]


class _Read(BaseModel):
    """Of the SBOM only what is asked for here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Named(_Read):
    id: str | None = None
    name: str | None = None


class _License(_Read):
    license: _Named | None = None
    expression: str | None = None

    @property
    def text(self) -> str:
        return self.expression or (self.license and (self.license.id or self.license.name)) or UNKNOWN


class _Component(_Read):
    type: str
    name: str
    licenses: tuple[_License, ...] = ()

    def part(self, kind: str) -> Part:
        text = self.licenses[0].text if self.licenses else UNKNOWN
        return Part(self.name, kind, text, COMMERCIAL.get(text))


class _Tools(_Read):
    components: tuple[_Component, ...] = ()


class _Metadata(_Read):
    component: _Component
    tools: _Tools = _Tools()


class _Sbom(_Read):
    metadata: _Metadata
    components: tuple[_Component, ...] = ()


def read_licenses(bundle: Path) -> Licenses:
    """The parts that the SBOM lists. ``InputError`` for a bundle without one."""
    sbom = _read(bundle)
    inside = [one for one in sbom.components if one.type in ("application", "library")]
    return Licenses(
        (
            sbom.metadata.component.part("weights"),
            *(one.part("code") for one in inside),
            *(one.part("tool") for one in sbom.metadata.tools.components),
        )
    )


def license_of_weights(bundle: Path) -> str:
    """The licence of the weights as the SBOM has it."""
    return _read(bundle).metadata.component.part("weights").license


def _read(bundle: Path) -> _Sbom:
    path = bundle / SBOM
    try:
        check_plain(path, "the SBOM")
        return _Sbom.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) else error.errors(include_url=False)[0]["msg"]
        raise InputError(
            f"cannot read the licences of a bundle: {what}",
            where=str(path),
            expected="the SBOM that `vggt-edge export` writes",
            remedy="export again with this version",
        ) from error

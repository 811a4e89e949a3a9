"""What a board says of itself, and whether a kit can run there: asked before any byte is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from vggt_edge.calibration.documents import Count
from vggt_edge.devices.errors import InputError, ResourceError, ToolchainError, UnknownNameError
from vggt_edge.devices.profile import load_profile
from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.bundle import FileEntry
from vggt_edge.exporter.deploy.files import CHUNK_BYTES, FileState, Item

if TYPE_CHECKING:
    from vggt_edge.exporter.deploy.connection import Board  # brings asyncssh, which adb does without

#: Beside the files and the engine: timing caches, logs, the result.
SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Survey:
    """A board before a run.

    - python: version of its ``python3``.
    - modules: version by Python module; None: cannot be imported.
    - model, system, power_mode: as the board calls them; None: it does not tell.
    - folder: absolute path of the kit's folder.
    - free_bytes: on the disk of this folder.
    - files: what is there already, in the order asked.
    """

    python: str
    modules: Mapping[str, str | None]
    model: str | None
    system: str | None
    power_mode: str | None
    has_tegrastats: bool
    folder: str
    is_writable: bool
    free_bytes: Count
    files: tuple[FileState, ...]


@dataclass(frozen=True)
class Requirements:
    """What a kit needs of a board.

    - ranges: of ``python`` and of Python modules, by name, such as ``>=10.3``.
    - remedies: how to install a module, by name.
    - engine_bytes: what the build leaves on the disk, at most.
    - target: name of the device profile.
    """

    ranges: Mapping[str, str]
    remedies: Mapping[str, str]
    engine_bytes: int
    target: str


async def look(board: Board, folder: str, files: Sequence[FileEntry], needed: Requirements) -> Survey:
    """Ask a board; reads only."""
    listed = [{"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in files]
    modules = sorted({*needed.ranges} - {"python"})
    request = {
        "do": "survey", "folder": folder, "modules": modules, "files": listed, "chunk_bytes": CHUNK_BYTES,
    }  # fmt: skip
    survey = await board.ask(Survey, request)
    if [state.path for state in survey.files] != [file.path for file in files]:
        raise InputError("the board answers about other files than it was asked for", where=board.address.text)
    return survey


def check_versions(survey: Survey, needed: Requirements, where: str) -> None:
    """``ToolchainError`` for a module that is missing, or a version out of its range: another JetPack, as a rule."""
    found: dict[str, str | None] = {**survey.modules, "python": survey.python}
    for name, range_ in needed.ranges.items():
        version = found.get(name)
        if version is not None and _fits(version, range_):
            continue
        what = f"has {name} {version}" if version is not None else f"has no {name} for its python3"
        raise ToolchainError(
            f"{survey.model or 'the board'} {what}; its system is {survey.system or 'unknown'}",
            where=where,
            expected=f"{name} {range_}".strip() + _releases(name, needed.target),
            remedy=needed.remedies.get(name, f"sudo apt-get install python3-{name}"),
        )


def _fits(version: str, range_: str) -> bool:
    try:
        return SpecifierSet(range_).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


def _releases(tool: str, target: str) -> str:
    """`` (JetPack 6.1, 6.2.x: 10.3; JetPack 7.2: 10.16)``, where the device profile knows."""
    try:
        releases = load_profile(target).toolchain.releases if "/" not in target else ()
    except (UnknownNameError, InputError):
        return ""
    named = [f"{release.name}: {release.tools[tool]}" for release in releases if tool in release.tools]
    return f" ({'; '.join(named)})" if named else ""


def check_space(survey: Survey, items: Sequence[Item], needed: Requirements, where: str) -> None:
    """``ResourceError`` where the files and the engine do not fit, or the folder cannot be written to."""
    if not survey.is_writable:
        raise ResourceError(
            "the folder on the board cannot be written to",
            where=f"{where}, {survey.folder}",
            remedy="name another one: ssh://user@board/folder, or /~/folder for one below the home",
        )
    wanted = sum(item.missing_bytes for item in items) + needed.engine_bytes + SPARE_BYTES
    if survey.free_bytes < wanted:
        raise ResourceError(
            f"no space on the board: {format_bytes(survey.free_bytes)} free",
            where=f"{where}, {survey.folder}",
            expected=f"{format_bytes(wanted)} for the missing files and the engine",
            remedy="remove something there, or name a folder on another disk: ssh://user@board/folder",
        )

"""Bundles: the folder that an export leaves behind, written aside, described by a manifest, renamed in one step.

See docs/bundle-format.md for the format.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from vggt_edge.calibration.documents import Count, Sha256, read_document
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scenes.framing import FIT, Preprocess
from vggt_edge.devices.errors import NO_RIGHT, NO_ROOM, InputError, ResourceError
from vggt_edge.exporter.device_result import DeviceResult, is_result, read_result
from vggt_edge.exporter.machine.files import file_sha256
from vggt_edge.exporter.machine.runtimes import JudgedWith
from vggt_edge.exporter.machine.usage import MEASURED, Measured

if TYPE_CHECKING:
    from vggt_edge.exporter.steps.cache import StepCache

SCHEMA_VERSION: Literal[2] = 2
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
PLAN, STATS, REPORT = "plan.json", "stats.json", "report.html"
_ALWAYS = (
    PLAN,
    STATS,
    "stats.safetensors",
    "model.onnx",
    "model.onnx.data",
    "validation.json",
    "golden.safetensors",
    REPORT,
    "resolved.toml",
)  # of every bundle, whatever the target
_MAX_BYTES = 64 << 20  # of the manifest, and of what was measured
_NOT_LISTED = (MANIFEST, MEASURED, SIGNATURE)
_EXPECTED = f"a manifest of schema version {SCHEMA_VERSION}, as `vggt-edge export` writes it"


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle. path: relative to the bundle, with forward slashes."""

    path: str
    size_bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class ManifestInputs:
    """What the caller knows of a bundle.

    digests: sha256 of ``model``, ``scenes``, ``plan``, ``stats``. tools: version by distribution name.
    random_weights: how random weights were drawn, empty for a trained model. judged_with: the runtimes that the
    validation ran with, and how they differ from those of the device. preprocess: how a picture becomes the input.
    """

    model: str
    target: str
    digests: Mapping[str, str]
    tools: Mapping[str, str]
    random_weights: str = ""
    judged_with: tuple[JudgedWith, ...] = ()
    preprocess: Preprocess = FIT


@dataclass(frozen=True)
class Manifest:
    """``ManifestInputs`` and every file of the bundle, in the order of their paths.

    But for the manifest itself, for ``measured.json``, which differs from run to run, and for the signature.
    """

    model: str
    target: str
    digests: Mapping[str, str]
    tools: Mapping[str, str]
    files: tuple[FileEntry, ...]
    random_weights: str = ""
    judged_with: tuple[JudgedWith, ...] = ()
    preprocess: Preprocess = FIT
    schema_version: Literal[2] = SCHEMA_VERSION

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = MANIFEST) -> Manifest:
        """Read a manifest back. ``InputError`` for a wrong field, and for a path that leaves the bundle."""
        manifest = read_document(cls, text, what="a bundle manifest", where=where, expected=_EXPECTED)
        _check_paths(manifest.files, where)
        return manifest


def write_bundle(
    cache: StepCache,
    assemble: Callable[[Path], None],
    inputs: ManifestInputs,
    *,
    describe: Callable[[Path, tuple[FileEntry, ...]], Mapping[str, str]] = lambda folder, files: {},
    seal: Callable[[Path, Manifest], object] = lambda folder, manifest: None,
) -> Manifest:
    """Publish the bundle of an export: ``assemble`` fills its folder, which gets a manifest and becomes the output.

    describe: documents about the finished files, text by name. seal: signs the whole folder, before anyone can see it.
    Raises ``UsageError`` when the output exists, ``ResourceError`` when disk space or rights do not suffice; whatever
    goes wrong, there is no output.
    """
    made: list[Manifest] = []

    def fill(folder: Path) -> None:
        assemble(folder)
        files = tuple(_described(folder, path) for path in _files(folder) if path not in _NOT_LISTED)
        documents = describe(folder, files)
        for name, text in documents.items():
            (folder / name).write_text(text, encoding="utf-8")
        files += tuple(_described(folder, name) for name in documents)
        made.append(_manifest(inputs, tuple(sorted(files, key=lambda entry: entry.path))))
        (folder / MANIFEST).write_text(made[0].to_json(), encoding="utf-8")
        seal(folder, made[0])

    with _explained(cache.output):
        cache.publish(fill)
    return made[0]


def _manifest(inputs: ManifestInputs, files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        model=inputs.model,
        target=inputs.target,
        digests=dict(inputs.digests),
        tools=dict(inputs.tools),
        files=files,
        random_weights=inputs.random_weights,
        judged_with=inputs.judged_with,
        preprocess=inputs.preprocess,
    )


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle; ``InputError`` when the folder is none."""
    path = bundle / MANIFEST
    try:
        check_plain(path, "the manifest")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot read the manifest: {reason}",
            where=str(path),
            expected="the folder that `vggt-edge export -o` wrote",
            remedy="give the bundle's own folder, or export again",
        ) from error
    return Manifest.from_json(text, where=str(path))


def read_measured(bundle: Path) -> Measured | None:
    """Seconds and memory that the export took; None where the file is gone. No other file depends on the file.

    ``InputError`` for a file that says something else.
    """
    path = bundle / MEASURED
    if not os.path.lexists(path):
        return None
    check_plain(path, "what the export measured")
    return Measured.from_json(path.read_bytes(), where=str(path))


def check_plain(path: Path, what: str) -> None:
    """``InputError`` for a pipe or a device, which could be read for ever, and for a link, which may lead to one."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_BYTES:
        raise InputError(
            f"{what} is not a plain file of a sensible size",
            where=str(path),
            expected=f"a file of at most {_MAX_BYTES >> 20} MiB",
            remedy="do not trust this bundle; get it again from where it was made",
        )


def all_problems(bundle: Path, manifest: Manifest) -> list[str]:
    """Differences between a bundle and its manifest, or, where there are none, contradictions in its content."""
    return bundle_problems(bundle, manifest) or content_problems(bundle, manifest)


def bundle_problems(bundle: Path, manifest: Manifest) -> list[str]:
    """Files that are missing, changed or extra against the manifest; an empty list for a sound bundle."""
    listed = {entry.path for entry in manifest.files}
    problems = [f"{entry.path}: {fault}" for entry in manifest.files if (fault := _fault(bundle, entry))]
    extra = sorted(set(_walk(bundle)) - listed - set(_NOT_LISTED))
    return problems + [f"{path}: not in the manifest" for path in extra if not is_result(path)]


def device_results(bundle: Path) -> tuple[DeviceResult, ...]:
    """What devices said of this bundle, in the order of the paths; ``InputError`` for a file that says nothing."""
    listed = {entry.path for entry in read_manifest(bundle).files}
    return tuple(read_result(bundle, path) for path in _walk(bundle) if path not in listed and is_result(path))


def verify_bundle(bundle: Path) -> Manifest:
    """The manifest of a sound bundle; ``InputError`` names every file that is missing, changed, extra or foreign."""
    manifest = read_manifest(bundle)
    read_measured(bundle)
    if problems := all_problems(bundle, manifest):
        raise InputError(
            "the bundle is not what was exported:\n  " + "\n  ".join(problems),
            where=str(bundle),
            expected="exactly the files of its manifest, unchanged",
            remedy="copy the bundle again, or export again",
        )
    return manifest


def content_problems(bundle: Path, manifest: Manifest) -> list[str]:
    """What a bundle of unchanged files lacks to be one export: files, or digests that agree with each other."""
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    missing = [f"{path}: not in the manifest, but every bundle has it" for path in _ALWAYS if path not in listed]
    if missing:
        return missing
    plan = PrecisionPlan.from_json((bundle / PLAN).read_text(encoding="utf-8"), where=str(bundle / PLAN))
    found = {"plan": listed[PLAN], "stats": listed[STATS], "model": plan.model_digest}
    if plan.stats_digest != listed[STATS]:
        return [f"{PLAN}: was made from other statistics than {STATS}"]
    return [
        f"{MANIFEST}: its digest of the {name} is not that of the bundle's files"
        for name, digest in found.items()
        if manifest.digests.get(name) != digest
    ]


def tool_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed version by distribution name; those that are not installed are left out."""
    versions = {}
    for name in sorted(set(distributions)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@contextlib.contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Turn a lack of space or rights into ``ResourceError``, also where a native writer says it only in words."""
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _code_in_words(str(error))
        if code in NO_ROOM:
            raise ResourceError(
                f"no room to write the bundle: {os.strerror(code)}",
                where=str(out),
                expected="free space for the graph's weights, about three times over",
                remedy="free some space, or choose another -o",
            ) from error
        if code in NO_RIGHT:
            raise ResourceError(
                f"no right to write the bundle: {os.strerror(code)}",
                where=str(out.parent),
                expected="a folder that this user may write",
                remedy="choose another -o, or change the rights",
            ) from error
        raise


def _code_in_words(text: str) -> int | None:
    return next((code for code in (*NO_ROOM, *NO_RIGHT) if os.strerror(code) in text), None)


def _walk(folder: Path) -> list[str]:
    """Everything below ``folder`` that is not a folder itself, links included; sorted."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _files(folder: Path) -> list[str]:
    found = _walk(folder)
    for name in found:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise InputError("a bundle holds plain files only", where=name, expected="no links or devices")
    return found


def _described(folder: Path, name: str) -> FileEntry:
    path = folder / name
    return FileEntry(name, path.stat().st_size, file_sha256(path))


def _fault(bundle: Path, entry: FileEntry) -> str:
    """What is wrong with one listed file; "" when nothing is."""
    path = bundle / entry.path
    steps = [path, *path.parents[: len(PurePosixPath(entry.path).parts) - 1]]
    try:
        if any(step.is_symlink() for step in steps):
            return "is a link, or lies behind one"
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        if size != entry.size_bytes:
            return f"has {size} bytes instead of {entry.size_bytes}"
        return "" if file_sha256(path) == entry.sha256 else "has changed (sha256 differs)"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _check_paths(files: tuple[FileEntry, ...], where: str) -> None:
    """A manifest is read on machines that did not write it: its paths must not lead anywhere else."""
    seen = set()
    for entry in files:
        parts = entry.path.split("/")
        if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\x00-\x1f]", entry.path):
            raise InputError(
                f"the manifest names {entry.path!r}, which is not a plain path inside the bundle",
                where=where,
                expected="relative paths with forward slashes",
                remedy="do not trust this bundle; get it again from where it was made",
            )
        if entry.path in seen or entry.path in _NOT_LISTED:
            raise InputError(
                f"the manifest lists {entry.path!r}, which it may not, or may once", where=where, expected=_EXPECTED
            )
        seen.add(entry.path)

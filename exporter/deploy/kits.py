"""The kits of a bundle that can be deployed: which files they are, and what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vggt_edge.devices.errors import BY_EXIT_CODE, InputError, UsageError
from vggt_edge.exporter.bundle import MANIFEST, SIGNATURE, FileEntry, Manifest
from vggt_edge.exporter.deploy.settings import KitLanguage
from vggt_edge.exporter.deploy.survey import Requirements
from vggt_edge.exporter.machine.files import file_sha256
from vggt_edge.runtimes.common.kit import COMMON, KIT_FILE, kit_script
from vggt_edge.runtimes.executorch import kit_files
from vggt_edge.runtimes.executorch.files import FOLDER as EXECUTORCH
from vggt_edge.runtimes.tensorrt.backend import FOLDER as TENSORRT
from vggt_edge.runtimes.tensorrt.engine import SCRIPT, kit_module

#: Name of the public key in the folder on the board.
KEY = "deploy-key.pub"
CPP = "cpp"
CPP_BUILD = f"{CPP}/CMakeLists.txt"
NUMPY = "numpy"
PYTHON_OF_BOARDS = ">=3.8"  # for kit_board/board.py


@dataclass(frozen=True)
class JetsonKit:
    """The kit for a board.

    - files: what is sent, with paths relative to the folder on the board; paths: where they lie here.
    - outputs: names of the model's outputs.
    - digest: of the bundle, after which the folder on the board is called.
    """

    files: tuple[FileEntry, ...]
    paths: tuple[Path, ...]
    outputs: tuple[str, ...]
    needed: Requirements
    digest: str

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)


@dataclass(frozen=True)
class AndroidKit:
    """The kit for adb. source: its folder in the bundle."""

    source: Path
    outputs: tuple[str, ...]


def jetson_kit(bundle: Path, manifest: Manifest, language: KitLanguage, key: Path | None = None) -> JetsonKit:
    """``UsageError`` for a bundle without one, ``InputError`` for a ``kit.json`` that cannot be used.

    The signature of the bundle goes along: the kit looks for it in its own folder. So does the public key, as ``KEY``.
    """
    files = _files(manifest, TENSORRT, CPP_BUILD if language is KitLanguage.CPP else SCRIPT, "ssh://")
    source = bundle / TENSORRT
    module = kit_module()
    raw = _read(source / KIT_FILE, module.checked_kit)
    others = {SIGNATURE: bundle / SIGNATURE} if (bundle / SIGNATURE).is_file() else {}
    if key is not None:
        others[KEY] = key
    return JetsonKit(
        files=(*files, *(FileEntry(name, path.stat().st_size, file_sha256(path)) for name, path in others.items())),
        paths=(*(source / entry.path for entry in files), *others.values()),
        outputs=_outputs(raw),
        needed=_requirements(raw, module.RUNTIMES, language, str(source / KIT_FILE)),
        digest=file_sha256(bundle / MANIFEST),
    )


def android_kit(bundle: Path, manifest: Manifest) -> AndroidKit:
    """``UsageError`` for a bundle without one; ``InputError`` for scripts that are not those of this vggt-edge.

    They run on this machine, and whoever made the bundle wrote them.
    """
    _files(manifest, EXECUTORCH, kit_files.SCRIPTS[0], "adb")
    source = bundle / EXECUTORCH
    ours = [*(kit_files.KIT / name for name in kit_files.SCRIPTS), COMMON]
    foreign = [path.name for path in ours if (source / path.name).read_bytes() != path.read_bytes()]
    if foreign:
        raise InputError(
            f"{', '.join(foreign)} would run on this machine, and is not what this version of vggt-edge writes",
            where=str(source),
            expected="a bundle of this version",
            remedy="export again, or read the scripts and start run_on_device.sh by hand",
        )
    return AndroidKit(source, _outputs(_read(source / KIT_FILE, lambda raw: raw)))


def _files(manifest: Manifest, folder: str, script: str, scheme: str) -> tuple[FileEntry, ...]:
    inside = [entry for entry in manifest.files if entry.path.startswith(f"{folder}/")]
    if f"{folder}/{script}" not in {entry.path for entry in inside}:
        raise UsageError(
            f"the bundle for {manifest.target} has no kit for {scheme}",
            where="--to",
            expected="ssh:// for a bundle with TensorRT, adb for one with ExecuTorch",
            remedy="apps bring their own kit to phones: docs/how-to/ios-kit.md, docs/how-to/android-kit.md",
        )
    return tuple(replace(entry, path=entry.path.removeprefix(f"{folder}/")) for entry in inside)


def _read(path: Path, check: Any) -> Mapping[str, Any]:
    common = kit_script(COMMON)
    try:
        raw = common.read_json(path)
        check(raw)
    except common.KitError as error:
        what, _, remedy = str(error).partition("\n  next: ")
        raise BY_EXIT_CODE.get(error.code, InputError)(what, where=str(path), remedy=remedy) from error
    except ValueError as error:
        raise InputError(f"cannot use kit.json: {error}", where=str(path), remedy="export again") from error
    return dict(raw)


def _outputs(raw: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, _ in kit_script(COMMON).outputs_of(raw))


def _requirements(
    raw: Mapping[str, Any], runtimes: Mapping[str, tuple[Any, str, str]], language: KitLanguage, where: str
) -> Requirements:
    """runtimes: by Python module, with what to do where it is missing; the kit's own table.

    The kit in C++ takes no module: it finds TensorRT when it is compiled, and checks the version itself.
    """
    ranges = raw.get("requires")
    if not isinstance(ranges, dict) or not all(isinstance(value, str) for value in ranges.values()):
        raise InputError("kit.json does not say what it requires", where=where, expected="version ranges by name")
    by_python = {NUMPY: "", **ranges}
    return Requirements(
        ranges=by_python if language is KitLanguage.PYTHON else {"python": PYTHON_OF_BOARDS},
        remedies={name: remedy for name, (_, _, remedy) in runtimes.items()},
        engine_bytes=raw["weight_bytes"]["fp16"],
        target=raw["target"],
    )

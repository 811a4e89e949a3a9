"""Names of files: found as other systems spell them, and shown as text that every output can hold.

A name that is not UTF-8 carries its bytes as Python does it (``surrogateescape``); it opens files, but cannot be
printed.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from vggt_edge.devices.errors import InputError

# What old archives and systems wrote file names in: Western Windows, DOS, Japanese, Chinese, Korean.
_LEGACY_ENCODINGS = ("cp1252", "cp437", "cp932", "gb18030", "cp949")


def shown(name: str, keep: str = "") -> str:
    r"""The name as printable text: bytes that are not UTF-8 as ``\xe9``, control characters as ``\x1b``.

    keep: characters that stay as they are, such as line ends.
    """
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in name)


def printable(text: str) -> str:
    """Text for a terminal: names in it may hold codes that would clear the screen, or turn what follows around."""
    return shown(text, keep="\n\t")


def _escaped(character: str) -> str:
    if not is_unicode(character):
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def is_unicode(text: str) -> bool:
    """False where bytes of another encoding are among it."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def child(folder: Path, name: str) -> Path | None:
    """The entry of that name, else the only one that differs in letter case, composed accents or encoding.

    ``InputError`` where several do.
    """
    if (folder / name).exists():
        return folder / name
    if not folder.is_dir():
        return None
    spelled = _spelled(folder, folder.stat().st_mtime_ns)
    found = sorted({entry for reading in _readings(name) for entry in spelled.get(reading, ())})
    if len(found) > 1:
        raise InputError(
            f"{shown(name)!r} could be any of {', '.join(shown(entry.name) for entry in found)}",
            where=shown(str(folder)),
            expected="one file of that name, whatever its letter case",
            remedy="rename the others",
        )
    return found[0] if found else None


def listed_file(folder: Path, name: str, *, listed_in: Path) -> Path:
    """The file ``name``, as a scene file spells it, inside ``folder``.

    Back-slashes separate folders, and letter case, composed accents and the encoding may differ from the file's, where
    the name as it stands leads nowhere. Raises ``InputError`` where the name leads out of the folder (absolute, through
    ``..`` or a symbolic link) or to nothing: scene files come from strangers.
    """
    where = shown(f"{listed_in}, image {name!r}")
    _check_name(name, where)
    path = folder / name
    if not path.is_file():
        path = _walked(folder, name) or path
    if Path(name).is_absolute() or PureWindowsPath(name).drive or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            "an image name that leads out of its folder",
            where=where,
            expected=f"a path inside {shown(str(folder))}",
            remedy="copy the images into that folder and name them relative to it",
        )
    if not path.is_file():
        raise InputError(
            f"an image that is listed but does not exist{'' if is_unicode(name) else ', by a name that is not UTF-8'}",
            where=where,
            expected=f"a file inside {shown(str(folder))}",
            remedy="copy the images there, or correct the list",
        )
    return path


def _check_name(name: str, where: str) -> None:
    try:
        Path(name).exists()
        if "\0" in name:
            raise ValueError("it holds a null byte")
    except (ValueError, OSError) as error:  # too long, or a loop of links
        raise InputError(f"an image name that is no file name: {error}", where=where) from error


def _walked(folder: Path, name: str) -> Path | None:
    """Part by part, each by its nearest spelling; nothing for names that climb."""
    path: Path | None = folder
    for part in PureWindowsPath(name).parts:
        path = None if path is None or part == ".." else child(path, part)
    return path


@lru_cache(maxsize=64)
def _spelled(folder: Path, _changed_ns: int) -> Mapping[str, list[Path]]:
    """The entries of a folder by what their names may say."""
    entries: dict[str, list[Path]] = {}
    for entry in folder.iterdir():
        for reading in _readings(entry.name):
            entries.setdefault(reading, []).append(entry)
    return entries


def _readings(name: str) -> frozenset[str]:
    """What the name may say, without letter case: one text, or of unknown bytes one for each encoding."""
    texts = [name] if is_unicode(name) else _decoded(os.fsencode(name))
    return frozenset(unicodedata.normalize("NFC", text).casefold() for text in texts)


def _decoded(raw: bytes) -> list[str]:
    texts = []
    for encoding in _LEGACY_ENCODINGS:
        try:
            texts.append(raw.decode(encoding))
        except UnicodeDecodeError:
            continue
    return texts

"""The safetensors files that make up one checkpoint: one, or the shards that an index lists; and whether each is whole.

All that the index and the headers say is checked before a tensor is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from vggt_edge.devices.errors import InputError
from vggt_edge.devices.units import format_bytes

INDEX_SUFFIX = ".safetensors.index.json"
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)", re.ASCII)
_LARGEST_HEADER = 100_000_000  # as in safetensors itself
_LONGEST_NAME = 255  # bytes, of a file on every common file system
_LARGEST_FILE = 1 << 62
_SHOWN_NAMES = 5
_POINTER = b"version https://git-lfs.github.com/spec/"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours that libraries put into their messages


def shard_files(path: Path) -> tuple[Path, ...]:
    """``path`` itself, or for an index or one of its shards all shards that the index lists, in order of name.

    ``InputError`` for an index that cannot be read, that names a file outside its folder, or whose files are missing.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _listed(path)
    shard = SHARD.fullmatch(path.name)
    if shard is None:
        return (path,)
    index = path.with_name(shard["stem"] + INDEX_SUFFIX)
    if shard["suffix"] == ".safetensors" and index.is_file():
        return _listed(index)
    raise _lone_shard(path, shard, index)


def check_whole(path: Path) -> None:
    """``InputError`` with both sizes for a file that ends before the last tensor that its header lists."""
    refuse_pointer(path)
    size, (declared, least) = path.stat().st_size, _declared_size(path)
    if size >= declared:
        return
    share = 1000 * size // declared / 10  # rounded down: what is incomplete never reads 100 %
    raise InputError(
        f"{path.name} is incomplete: {format_bytes(size)} of {least}{format_bytes(declared)} ({share} %)",
        where=str(path),
        expected=f"{least}{declared} bytes as its header says, found {size}",
        remedy="the download or copy broke off: fetch the file again, then compare its size with the publisher's",
    )


def refuse_pointer(path: Path) -> None:
    """``InputError`` for what Git LFS leaves in place of a file that was not fetched."""
    with path.open("rb") as stream:
        start = stream.read(len(_POINTER))
    if start == _POINTER:
        raise InputError(
            f"{path.name} is a Git LFS pointer, not the file itself",
            where=str(path),
            expected="the weights, which Git LFS stores apart from the repository",
            remedy="run `git lfs pull` in the repository that it lies in, or download the file itself",
        )


def unreadable(path: Path, error: Exception) -> InputError:
    """What is wrong with a file that its reader gave up on, in one line."""
    reason = _ESCAPES.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"cannot read the checkpoint {path.name}: {reason[0]}",
        where=str(path),
        expected="a complete .safetensors file, or a .pt state dict without pickled code",
        remedy="download the checkpoint again and compare its size and checksum with the publisher's",
    )


def a_few(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = f", and {len(ordered) - _SHOWN_NAMES} more" if len(ordered) > _SHOWN_NAMES else ""
    return ", ".join(ordered[:_SHOWN_NAMES]) + more


def _declared_size(path: Path) -> tuple[int, str]:
    """The size that a safetensors header asks for, and ``at least`` where the header itself is cut off.

    0 where it cannot be understood: the reader itself says what is wrong then.
    """
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > _LARGEST_HEADER:
            return 0, ""
        text = stream.read(length)
    if len(text) < length:
        return 8 + length, "at least "
    try:
        header = json.loads(text)
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except Exception:  # hostile text fails in as many ways as there are types
        return 0, ""
    total = 8 + length + max(ends, default=0)
    return (total if total < _LARGEST_FILE else 0), ""


def _listed(index: Path) -> tuple[Path, ...]:
    names = _names_in(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"the checkpoint is sharded, and {len(missing)} of {len(names)} shards are missing: {a_few(missing)}",
            where=str(index),
            expected=f"all files that {index.name} lists; present: {a_few(set(names) - set(missing)) or 'none'}",
            remedy=f"put the missing files into {index.parent}",
        )
    return tuple(index.parent / name for name in names)


def _names_in(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except Exception as error:  # as above
        raise _bad_index(index, "it cannot be read") from error
    hostile = [name for name in names if not _is_bare_name(name)]
    if hostile or not names:
        raise _bad_index(index, f"it names {hostile[0]!r:.80}" if hostile else "it lists no file")
    return names


def _is_bare_name(name: object) -> bool:
    """The index may come from anywhere, and must not lead out of its folder, nor name what no system can have."""
    if not isinstance(name, str) or len(name.encode(errors="replace")) > _LONGEST_NAME:
        return False
    return name.endswith(".safetensors") and not set("/\\\0") & set(name)


def _bad_index(index: Path, reason: str) -> InputError:
    return InputError(
        f"{index.name} is no index of a sharded checkpoint: {reason}",
        where=str(index),
        expected='JSON with {"weight_map": {tensor name: name of a .safetensors file in the same folder}}',
        remedy="download the index again, next to the shards",
    )


def _lone_shard(path: Path, shard: re.Match[str], index: Path) -> InputError:
    count, stem, suffix = int(shard["count"]), shard["stem"], shard["suffix"]
    names = [f"{stem}-{number:05}-of-{count:05}{suffix}" for number in range(1, count + 1)]
    present = [name for name in names if path.with_name(name).is_file()]
    missing = sorted(set(names) - set(present))
    if suffix == ".safetensors":
        why = f", and {index.name} is not beside it"
        remedy = f"download it and the missing shards into {path.parent}"
    else:
        why = " in PyTorch's format"
        remedy = (
            "merge them: state = {}; for each file in order: state.update(torch.load(file, weights_only=True)); "
            'safetensors.torch.save_file(state, "model.safetensors")'
        )
    return InputError(
        f"{path.name} is one of {count} shards{why}; missing: {a_few(missing) or 'none'}",
        where=str(path),
        expected=f"one file, or all shards with {index.name}; present: {a_few(present)}",
        remedy=remedy,
    )

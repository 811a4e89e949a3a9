"""Which pictures show the place: not depth maps, masks, normal maps, thumbnails or smaller copies of other pictures.

A name says what a picture may be, its content whether it is; where pictures are told apart by content alone, only what
no photograph looks like counts: 16 bits in one channel, black and white alone, unit vectors as colours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vggt_edge.calibration.scenes.image import Header, glance, read_header
from vggt_edge.devices.errors import InputError

DEPTH, MASK, NORMAL, CONFIDENCE = "depth maps", "masks", "normal maps", "confidence maps"
THUMBNAIL, COPY = "thumbnails", "smaller copies"
_WORDS = {
    DEPTH: {"depth", "depths", "depthmap", "depthmaps", "disparity", "disparities", "disp"},
    MASK: {"mask", "masks", "matte", "mattes", "segmentation", "semantic", "semantics", "label", "labels", "instance"},
    NORMAL: {"normal", "normals", "normalmap", "normalmaps"},
    CONFIDENCE: {"confidence", "confidences", "conf", "uncertainty"},
    THUMBNAIL: {"thumb", "thumbs", "thumbnail", "thumbnails", "preview", "previews"},
}
# Their words have other meanings as well: normal light, a conference room.
_ONLY_BY_CONTENT = (NORMAL, CONFIDENCE)
_PLAIN_WORDS = {"color", "colors", "colour", "colours", "rgb"}
_SAMPLES = 3
_FEW_FOLDERS = 32
_DEEP_MODES = ("I", "F")
_SMALL_SIDE, _LOOK_SIDE = 32, 160
_ALIKE_CORRELATION, _ALIKE_LEVELS, _FLAT_LEVELS = 0.985, 8.0, 1.0
_SAME_ASPECT = 0.03
_SHARED_NAMES = 0.8
_EXTREME_LEVELS, _EXTREME_SHARE, _LEAST_SHARE = 8, 0.995, 0.001
_UNIT_TOLERANCE, _UNIT_SHARE = 0.06, 0.95


@dataclass(frozen=True)
class Sorted:
    """``views`` in their given order; of the rest, how many are what."""

    views: tuple[Path, ...]
    others: Mapping[str, int]


@dataclass(frozen=True)
class _Look:
    """What a picture looks like. kind: by content alone, or None. small: (32, 32) grey, upright."""

    size: tuple[int, int]
    is_deep: bool
    is_grey: bool
    kind: str | None
    small: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Named:
    """A folder's pictures by name without suffix. size: of the first."""

    by_name: Mapping[str, Path]
    size: tuple[int, int] | None

    @classmethod
    def of(cls, images: Sequence[Path]) -> _Named:
        return cls({path.stem.casefold(): path for path in images}, _size(images[0]))

    def shares_names(self, other: _Named) -> bool:
        """Most of the smaller folder's names are in the other."""
        mine, theirs = self.by_name.keys(), other.by_name.keys()
        return len(mine & theirs) >= _SHARED_NAMES * min(len(mine), len(theirs))


def kind_of_folder(folder: Path, images: Sequence[Path], *, closely: bool = True) -> str | None:
    """What all of a folder's pictures are, where they are no views; asked of the first, the last and one between.

    Without ``closely`` only pictures are decoded that their name or header makes suspicious.
    """
    samples = _samples(images)
    role, modes = _role(folder.name), {_mode(path) for path in samples}
    if not closely and role is None and not modes <= {"1", "L", "LA", "P"}:
        return None
    looks = _looks(samples)
    kinds = {look.kind for look in looks}
    if len(kinds) == 1 and (kind := kinds.pop()) is not None:
        return kind
    is_measured = all(look.is_deep for look in looks) or (role != NORMAL and all(look.is_grey for look in looks))
    return role if role is not None and looks and is_measured else None


def views_of_folder(images: Sequence[Path]) -> Sorted:
    """Sort the pictures that lie in one folder."""
    found: dict[Path, str] = {}
    found |= _deep_among_others(images)
    found |= _named_companions([path for path in images if path not in found])
    found |= _twins([path for path in images if path not in found])
    found |= _smaller_copies([path for path in images if path not in found])
    return Sorted(tuple(path for path in images if path not in found), Counter(found.values()))


def folders_of_views(folders: Mapping[Path, Sequence[Path]]) -> Mapping[Path, str]:
    """Of folders side by side, each with its pictures: those that hold no views of their own, and what they hold."""
    closely = len(folders) <= _FEW_FOLDERS
    kinds = {folder: kind_of_folder(folder, images, closely=closely) for folder, images in folders.items()}
    found = {folder: kind for folder, kind in kinds.items() if kind is not None}
    views = {folder: images for folder, images in folders.items() if folder not in found}
    if any(not are_deep(images) for images in views.values()):
        found |= {folder: DEPTH for folder, images in views.items() if are_deep(images)}
    left = {folder: _Named.of(images) for folder, images in views.items() if folder not in found}
    sizes = {theirs.size for theirs in left.values()}
    for folder, mine in list(left.items()):
        role = _role(folder.name)
        if role is None and not any(_is_larger(size, mine.size) for size in sizes):
            continue
        others = [theirs for theirs in left.values() if theirs is not mine]
        if (kind := _kind_beside(role, mine, others)) is not None:
            found[folder] = kind
            del left[folder]
    return found


def _kind_beside(role: str | None, mine: _Named, others: Sequence[_Named]) -> str | None:
    """What a folder is beside others with pictures of the same names."""
    if role not in (None, *_ONLY_BY_CONTENT) and any(mine.shares_names(theirs) for theirs in others):
        return role
    return COPY if any(_is_smaller_copy(mine, theirs) for theirs in others) else None


def are_deep(images: Sequence[Path]) -> bool:
    """Whether a folder's pictures have 16 bits in one channel: depth maps, or photographs of a machine's camera."""
    return all(_mode(path).startswith(_DEEP_MODES) for path in _samples(images))


def _deep_among_others(images: Sequence[Path]) -> dict[Path, str]:
    deep = [path for path in images if path.suffix.lower() == ".png" and _mode(path).startswith(_DEEP_MODES)]
    return dict.fromkeys(deep, DEPTH) if len(deep) < len(images) else {}


def _named_companions(images: Sequence[Path]) -> dict[Path, str]:
    """``a_depth.png`` beside ``a.png`` or ``a_color.png``; without such a neighbour the content has to agree."""
    plain = {_key(path.stem) for path in images if _role(path.stem) is None}
    found = {}
    for path in images:
        role = _role(path.stem)
        if role is None:
            continue
        has_neighbour = role not in _ONLY_BY_CONTENT and (
            _key(path.stem) in plain or _key_before_role(path.stem) in plain
        )
        look = None if has_neighbour else _look(path)
        is_map = look is not None and (look.kind is not None or (role == CONFIDENCE and look.is_grey))
        if has_neighbour or (is_map and plain):
            found[path] = role
    return found


def _twins(images: Sequence[Path]) -> dict[Path, str]:
    """Pictures of one name in several formats: maps of the others, or copies, of which the largest stays."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in images:
        groups.setdefault(_key(path.stem), []).append(path)
    found: dict[Path, str] = {}
    for group in groups.values():
        pairs = [(path, look) for path in group if len(group) > 1 and (look := _look(path)) is not None]
        maps = {path: look.kind for path, look in pairs if look.kind is not None}
        if len(maps) < len(pairs):
            found |= maps
        pairs = sorted((pair for pair in pairs if pair[0] not in maps), key=lambda pair: -_area(pair[1]))
        found |= {path: COPY for path, look in pairs[1:] if _is_copy((path, look), pairs[0])}
    return found


def _is_copy(one: tuple[Path, _Look], original: tuple[Path, _Look]) -> bool:
    (path, look), (other, large) = one, original
    return (path.suffix != other.suffix or look.size != large.size) and _are_alike(look, large)


def _smaller_copies(images: Sequence[Path]) -> dict[Path, str]:
    """Whatever their names; looked at only where pictures of one aspect ratio have several sizes."""
    sizes = {path: size for path in images if (size := _size(path)) is not None}
    found: dict[Path, str] = {}
    for path, size in sizes.items():
        larger = [other for other, its in sizes.items() if _is_larger(its, size)]
        look = _look(path) if larger else None
        if look is not None and any(_are_alike(look, other) for other in _looks(larger)):
            found[path] = COPY
    return found


def _is_smaller_copy(mine: _Named, others: _Named) -> bool:
    """The same pictures by name and look, at a smaller size."""
    if not _is_larger(others.size, mine.size) or not mine.shares_names(others):
        return False
    names = sorted(mine.by_name.keys() & others.by_name.keys())
    pairs = [(mine.by_name[names[index]], others.by_name[names[index]]) for index in _spread(len(names))]
    looks = [(_look(path), _look(other)) for path, other in pairs]
    return all(
        one is not None and other is not None and _is_larger(other.size, one.size) and _are_alike(one, other)
        for one, other in looks
    )


def _words(name: str) -> list[str]:
    """``frame-0001.depthMap`` has the words frame, 0001, depth, Map."""
    return re.findall(r"[0-9]+|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_a-zA-Z]+", name)


def _role(name: str) -> str | None:
    for word in map(str.lower, _words(name)):
        for role, words in _WORDS.items():
            if word in words:
                return role
    return None


def _key(stem: str) -> tuple[str, ...]:
    """The words that say which picture it is."""
    words = (word.lower() for word in _words(stem))
    return tuple(word for word in words if _role(word) is None and word not in (*_PLAIN_WORDS, "map", "maps"))


def _key_before_role(stem: str) -> tuple[str, ...]:
    words = [word.lower() for word in _words(stem)]
    first = next(index for index, word in enumerate(words) if _role(word) is not None)
    return tuple(word for word in words[:first] if word not in _PLAIN_WORDS)


def _spread(count: int) -> list[int]:
    return sorted({0, count // 2, count - 1} & set(range(count)))[:_SAMPLES]


def _samples(images: Sequence[Path]) -> list[Path]:
    return [images[index] for index in _spread(len(images))]


def _looks(images: Sequence[Path]) -> list[_Look]:
    return [look for path in images if (look := _look(path)) is not None]


def _look(path: Path) -> _Look | None:
    """None for what cannot be decoded: reading it says why."""
    return _look_at(path, *_stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """A file that changed is looked at again."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4096)
def _look_at(path: Path, _changed_ns: int, _bytes: int) -> _Look | None:
    try:
        glanced = glance(path, 4 * _SMALL_SIDE)
    except InputError:
        return None
    return _seen(glanced.image, glanced.size, glanced.image.mode.startswith(_DEEP_MODES))


def _seen(image: Image.Image, size: tuple[int, int], is_deep: bool) -> _Look:
    if is_deep:
        flat = np.asarray(image, np.float64)
        return _Look(size, True, True, None, np.asarray(Image.fromarray(flat).resize((_SMALL_SIDE, _SMALL_SIDE))))
    image.thumbnail((_LOOK_SIDE, _LOOK_SIDE), Image.Resampling.NEAREST)  # keeps the values that there are
    pixels = np.asarray(image.convert("RGB"), np.int16)
    is_grey = bool((np.ptp(pixels, axis=2) <= _EXTREME_LEVELS).all())
    kind = MASK if is_grey and _is_black_and_white(pixels[..., 0]) else NORMAL if _is_unit(pixels) else None
    small = image.convert("L").resize((_SMALL_SIDE, _SMALL_SIDE), Image.Resampling.BOX)
    return _Look(size, False, is_grey, kind, np.asarray(small, np.float64))


def _is_black_and_white(levels: npt.NDArray[np.int16]) -> bool:
    black, white = (levels <= _EXTREME_LEVELS).mean(), (levels >= 255 - _EXTREME_LEVELS).mean()
    return bool(black + white >= _EXTREME_SHARE and min(black, white) >= _LEAST_SHARE)


def _is_unit(pixels: npt.NDArray[np.int16]) -> bool:
    """Directions as colours; the background, black or grey or white, has none."""
    background = (pixels == pixels[..., :1]).all(axis=2)
    length = np.linalg.norm(pixels[~background] / 127.5 - 1, axis=1)
    is_unit = np.abs(length - 1) <= _UNIT_TOLERANCE
    return bool(length.size >= 0.05 * background.size and is_unit.mean() >= _UNIT_SHARE)


def _are_alike(one: _Look, other: _Look) -> bool:
    first, second = one.small, other.small
    if min(first.std(), second.std()) < _FLAT_LEVELS:
        return bool(np.abs(first - second).max() <= _FLAT_LEVELS)
    correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    return bool(correlation >= _ALIKE_CORRELATION and np.abs(first - second).mean() <= _ALIKE_LEVELS)


def _area(look: _Look) -> int:
    return look.size[0] * look.size[1]


def _is_larger(other: tuple[int, int] | None, mine: tuple[int, int] | None) -> bool:
    """Larger, and of the same aspect ratio, also turned."""
    if other is None or mine is None:
        return False
    ratios = (np.log(max(other) / min(other)), np.log(max(mine) / min(mine)))
    return other[0] * other[1] > 1.2 * mine[0] * mine[1] and abs(ratios[0] - ratios[1]) <= _SAME_ASPECT


def _size(path: Path) -> tuple[int, int] | None:
    header = _header(path, *_stamp(path))
    return None if header is None else header.size


def _mode(path: Path) -> str:
    header = _header(path, *_stamp(path))
    return "" if header is None else header.mode


@lru_cache(maxsize=65536)
def _header(path: Path, _changed_ns: int, _bytes: int) -> Header | None:
    try:
        return read_header(path)
    except InputError:
        return None

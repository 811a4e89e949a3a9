"""From a path to scenes: find out what the path is, draw frames far apart, bring them to one size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.scenes.colmap import colmap_source, find_model
from vggt_edge.calibration.scenes.folder import folder_source, unread
from vggt_edge.calibration.scenes.framing import FIT, Framing, Preprocess, Rectangle
from vggt_edge.calibration.scenes.image import IMAGE_SUFFIXES, is_image
from vggt_edge.calibration.scenes.names import shown
from vggt_edge.calibration.scenes.pose import rebased
from vggt_edge.calibration.scenes.resize import check_shape, input_shape, resize_frame
from vggt_edge.calibration.scenes.scene import GroundTruth, Scene
from vggt_edge.calibration.scenes.source import Camera, Source, listing
from vggt_edge.calibration.scenes.transforms import find_transforms, transforms_source
from vggt_edge.calibration.scenes.video import VIDEO_SUFFIXES, is_video, video_source
from vggt_edge.calibration.scenes.views import folders_of_views
from vggt_edge.devices.errors import InputError, ResourceError, UsageError

_KINDS = (
    f"a video ({', '.join(VIDEO_SUFFIXES)}), a COLMAP model, a transforms.json, a folder of images "
    f"({', '.join(IMAGE_SUFFIXES)}), or a folder of such sources"
)


def open_scenes(
    path: Path,
    *,
    frames: int,
    long_side: int | None = None,
    shape: tuple[int, int] | None = None,
    rule: Preprocess = FIT,
    max_scenes: int = 8,
    note: Callable[[str], None] = lambda text: None,
    read: bool = True,
) -> tuple[Scene, ...]:
    """Read scenes of ``frames`` frames each from a video, COLMAP model, transforms.json, folder, or folder of these.

    A source of N frames gives N // frames scenes at most: scene i takes the frames i, i + k, i + 2k, ... with
    k = N // frames, so that baselines are as wide as the source allows. Where ``max_scenes`` asks for fewer, their
    starts i are spread evenly, and the scenes over the sources in turn. All frames get one (H, W): ``shape``, else what
    ``input_shape`` says of the first frame within ``long_side``. ``rule`` says how a frame gets there. Poses give
    ground truth without depth, in the source's own unit.

    Not everything in a folder is a frame: depth maps, masks, copies and the like, files of other formats and captures
    with too few frames are passed over, which ``note`` is told once, with counts. Without ``read`` only the first frame
    is decoded, for the size: the scenes are all there, their images black.
    Raises ``InputError`` naming the file that cannot be used, ``UsageError`` for a request that makes no sense, and
    ``ResourceError`` for what may not be read.
    """
    _check_request(frames, long_side, shape, rule.patch, max_scenes)
    try:
        sources = find_sources(path, frames, max_scenes, note)
        target = shape or _fitted(sources[0], long_side or 0, rule)
        quotas = share([len(source.labels) // frames for source in sources], max_scenes)
        return tuple(
            scene
            for source, quota in zip(sources, quotas, strict=True)
            for scene in _scenes_of(source, strides(len(source.labels), frames, quota), target, rule, read)
        )
    except PermissionError as error:
        raise ResourceError(
            "permission denied", where=str(error.filename or path), remedy="make the scenes readable"
        ) from error


def find_sources(path: Path, frames: int, limit: int, note: Callable[[str], None]) -> list[Source]:
    """Up to ``limit`` sources of at least ``frames`` frames at ``path``, in natural order.

    One, or one per sub-folder and video of a folder that is none. ``note`` is told what is passed over.
    """
    sources: list[Source] = []
    small: list[Source] = []
    passed_over: Counter[str] = Counter()
    for source in _candidates(path, passed_over):
        passed_over.update(source.passed_over)
        (sources if len(source.labels) >= frames else small).append(source)
        for text in source.notes:
            note(text)
        if len(sources) == limit:
            break
    if not sources:
        _refuse_small(small[0], frames)
    if small:
        passed_over[f"captures with fewer than {frames} frames"] += len(small)
    if passed_over:
        counts = "; ".join(f"{kind}: {count}" for kind, count in sorted(passed_over.items()))
        note(f"passed over in {shown(path.name or str(path))}: {counts}")
    return sources


def _candidates(path: Path, passed_over: Counter[str]) -> Iterator[Source]:
    if path.is_file():
        yield _file_source(path)
        return
    if not path.is_dir():
        raise InputError("no such file or folder", where=str(path), expected=_KINDS)
    opener = _opener(path)
    if opener is not None:
        yield opener(path, path)
        passed_over.update(_videos_beside(path))
        return
    passed_over.update(unread(path))
    openers = {entry: opener for entry in listing(path) if entry.is_dir() and (opener := _opener(entry)) is not None}
    no_views = folders_of_views(
        {entry: list(filter(is_image, listing(entry))) for entry in openers if openers[entry] is folder_source}
    )
    videos = {entry for entry in listing(path) if is_video(entry)}
    if not openers and not videos:
        raise InputError("the folder holds no images and no scenes", where=str(path), expected=_KINDS)
    if openers and not videos and len(no_views) == len(openers):
        raise InputError(
            f"the folders hold {' and '.join(sorted(set(no_views.values())))}, not pictures of a place",
            where=str(path),
            expected="a folder of photographs among them",
        )
    for entry in listing(path):
        if entry in no_views:
            passed_over[f"{no_views[entry]} ({shown(entry.name)})"] += sum(map(is_image, listing(entry)))
        elif entry in openers:
            yield openers[entry](entry, path)
        elif entry in videos:
            yield video_source(entry, path)
        elif entry.is_dir():
            passed_over["folders without pictures"] += 1


def _videos_beside(folder: Path) -> Counter[str]:
    """A folder of pictures is one capture; a video of the same place is not another one."""
    return Counter({"videos beside pictures": count}) if (count := sum(map(is_video, listing(folder)))) else Counter()


def strides(count: int, frames: int, scenes: int) -> list[tuple[int, ...]]:
    """Frame numbers of up to ``scenes`` disjoint scenes out of ``count`` frames, each as far apart as they can be."""
    step = count // frames
    scenes = min(scenes, step)
    starts = [number * step // scenes for number in range(scenes)]
    return [tuple(range(start, start + frames * step, step)) for start in starts]


def share(available: Sequence[int], total: int) -> list[int]:
    """Deal ``total`` scenes to the sources, one each in turn, none more than it has ``available``."""
    quotas = [0] * len(available)
    left = min(total, sum(available))
    while left:
        for index, limit in enumerate(available):
            if left and quotas[index] < limit:
                quotas[index] += 1
                left -= 1
    return quotas


def _check_request(
    frames: int, long_side: int | None, shape: tuple[int, int] | None, patch: int, max_scenes: int
) -> None:
    if frames < 1 or max_scenes < 1:
        raise UsageError(f"{max_scenes} scenes of {frames} frames", expected="at least 1 scene of at least 1 frame")
    if (long_side is None) == (shape is None):
        raise UsageError("the size of the frames is not clear", expected="either a long side or a shape, not both")
    if shape is not None:
        check_shape(*shape, patch)


def _file_source(path: Path) -> Source:
    if is_video(path):
        return video_source(path, path)
    if path.suffix.lower() == ".json":
        return transforms_source(path, path.parent)
    raise InputError(
        "a file that holds no scenes",
        where=str(path),
        expected=_KINDS,
        remedy="for a single image, give its folder",
    )


def _opener(folder: Path) -> Callable[[Path, Path], Source] | None:
    """What the folder itself is, if anything. Files that carry poses win over the bare images beside them."""
    if find_transforms(folder) is not None:
        return _transforms_folder
    if find_model(folder) is not None:
        return colmap_source
    if any(is_image(entry) for entry in listing(folder)):
        return folder_source
    return None


def _transforms_folder(folder: Path, root: Path) -> Source:
    return transforms_source(find_transforms(folder) or folder / "transforms.json", root)


def _refuse_small(source: Source, frames: int) -> NoReturn:
    count = len(source.labels)
    raise InputError(
        f"{count} {'frame' if count == 1 else 'frames'} found, fewer than the {frames} of a scene",
        where=str(source.path),
        expected=f"at least {frames} frames",
        remedy="add frames, or ask for fewer frames per scene",
    )


def _fitted(source: Source, long_side: int, rule: Preprocess) -> tuple[int, int]:
    height, width, _ = next(iter(source.read([0]))).pixels.shape
    return input_shape(rule, width, height, long_side)


def _scenes_of(
    source: Source, groups: Sequence[tuple[int, ...]], target: tuple[int, int], rule: Preprocess, read: bool
) -> Iterable[Scene]:
    """Decode every frame once, in order, and deal them to their scenes. Only resized frames are held."""
    images: dict[int, npt.NDArray[np.float32]] = {}
    cameras: dict[int, Camera] = {}
    framings: dict[int, Framing] = {}
    indices = sorted(index for group in groups for index in group)
    for index, frame in zip(indices, source.read(indices), strict=True) if read else ():
        images[index] = resize_frame(frame.pixels, *target, rule)
        framings[index] = rule.framing((frame.pixels.shape[0], frame.pixels.shape[1]), target)
        if frame.camera is not None:
            cameras[index] = frame.camera
    black = np.broadcast_to(np.float32(0), (3, *target))
    for number, group in enumerate(groups):
        yield Scene(
            f"{source.name}-{number:02d}",
            np.stack([images[index] for index in group])
            if read
            else np.broadcast_to(black, (len(group), *black.shape)),
            tuple(source.labels[index] for index in group),
            _ground_truth([(cameras[index], framings[index]) for index in group]) if cameras else None,
            _content([framings[index] for index in group if read]),
        )


def _content(framings: Sequence[Framing]) -> tuple[Rectangle, ...] | None:
    """Parts that show the picture; None where every frame fills its input."""
    whole = all(one.content == (0, 0, one.target[1], one.target[0]) for one in framings)
    return None if whole else tuple(one.content for one in framings)


def _ground_truth(cameras: Sequence[tuple[Camera, Framing]]) -> GroundTruth:
    intrinsics = [framing.intrinsics(camera.intrinsics) for camera, framing in cameras]
    extrinsics = rebased(np.stack([camera.extrinsics for camera, _ in cameras]))
    return GroundTruth(extrinsics.astype(np.float32), np.stack(intrinsics).astype(np.float32))

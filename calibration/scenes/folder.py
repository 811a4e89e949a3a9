"""A folder of images, and the source type that every reader of still images fills."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.scenes.distortion import undistorted
from vggt_edge.calibration.scenes.image import IMAGE_SUFFIXES, Picture, is_image, read_image
from vggt_edge.calibration.scenes.names import shown
from vggt_edge.calibration.scenes.source import Camera, Frame, listing
from vggt_edge.calibration.scenes.views import are_deep, kind_of_folder, views_of_folder
from vggt_edge.devices.errors import InputError

# A camera solved on a scaled copy of the images still fits, up to the rounding of the copy's sides.
_ASPECT_TOLERANCE = 0.02
# Pictures and videos that cameras and tools write and that are not read.
_UNREAD_SUFFIXES = frozenset(
    [
        ".heic",
        ".heif",
        ".avif",
        ".gif",
        ".tif",
        ".tiff",
        ".jp2",
        ".jxl",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
        ".exr",
        ".hdr",
        ".ppm",
        ".pgm",
        ".tga",
        ".psd",
        ".mts",
        ".m2ts",
        ".ts",
        ".wmv",
        ".flv",
        ".mpg",
        ".mpeg",
        ".insv",
        ".360",
        ".lrv",
    ]
)
# Turning the stored pixels upright turns the camera's x and y axes with them. The mirrored orientations (2, 4, 5, 7)
# have no rotation, so such a frame stays as stored where its camera is known.
_TURNS = {
    3: ((-1.0, 0.0), (0.0, -1.0)),
    6: ((0.0, -1.0), (1.0, 0.0)),
    8: ((0.0, 1.0), (-1.0, 0.0)),
}


@dataclass(frozen=True)
class StillImage:
    """One file of a source; ``label`` is its path relative to what the user gave."""

    path: Path
    label: str
    camera: Camera | None = None


@dataclass(frozen=True)
class ImageSource:
    """Still images in a fixed order.

    path: what errors name, the folder, model or file that lists them. notes: what the user should know of how they are
    read. passed_over: what lies beside them and is not read, how many of each kind.
    """

    name: str
    path: Path
    images: tuple[StillImage, ...]
    notes: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(image.label for image in self.images)

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        for index in indices:
            image = self.images[index]
            picture = read_image(image.path)
            if image.camera is None:
                yield Frame(picture.upright())
            else:
                yield posed_frame(picture, image.camera, image.path)


def folder_source(folder: Path, root: Path) -> ImageSource:
    """The views right inside ``folder``; what else is there is counted. Labels are relative to ``root``.

    ``InputError`` where nothing is a view.
    """
    pictures = [entry for entry in listing(folder) if is_image(entry)]
    if not pictures:
        raise InputError(
            "the folder holds no images", where=str(folder), expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    # Folders side by side are told apart before they are opened.
    kind = kind_of_folder(folder, pictures) if folder == root else None
    if kind is not None:
        raise InputError(
            f"the folder holds {kind}, not pictures of a place",
            where=str(folder),
            expected="photographs",
            remedy="give the folder of the colour pictures",
        )
    found = views_of_folder(pictures)
    images = tuple(StillImage(path, relative_label(path, root)) for path in found.views)
    is_deep = are_deep(found.views)
    notes = (
        (f"{relative_label(folder, root)}: pictures of 16 bits in one channel, taken as photographs",)
        if is_deep
        else ()
    )
    return ImageSource(folder_name(folder), folder, images, notes, Counter(found.others) + unread(folder))


def unread(folder: Path) -> Counter[str]:
    """What lies in the folder that people may take for input: pictures and videos of other formats, dead links."""
    counts: Counter[str] = Counter()
    for entry in listing(folder):
        suffix = entry.suffix.lower()
        if entry.is_symlink() and not entry.exists():
            counts["links to nothing"] += 1
        elif suffix in _UNREAD_SUFFIXES and entry.is_file():
            counts[f"{suffix} files (not read)"] += 1
    return counts


def folder_name(folder: Path) -> str:
    """The folder's own name, also where the user wrote ``.`` or ``..``."""
    return shown(folder.resolve().name) or "scene"


def relative_label(path: Path, root: Path) -> str:
    """``path`` as seen from ``root``; only its last two parts where it lies elsewhere (images beside a model)."""
    if path == root:
        return folder_name(path)
    if path.is_relative_to(root):
        return shown(path.relative_to(root).as_posix())
    return shown("/".join(path.parts[-2:]))


def posed_frame(picture: Picture, camera: Camera, path: Path) -> Frame:
    """Fit a camera to the pixels it was solved on, take the lens distortion out, then turn both upright.

    Solvers differ in whether they honour the EXIF tag. The camera's own size tells: stored pixels if it fits them
    (also where both would fit: COLMAP reads what is stored), else the upright ones, else ``InputError``.
    """
    height, width, _ = picture.pixels.shape
    if _same_aspect(camera, width, height):
        turn = _TURNS.get(picture.orientation)
        pixels, fitted = undistorted(picture.pixels, camera.scaled(width, height), str(path))
        if turn is None:
            return Frame(pixels, fitted)
        return Frame(replace(picture, pixels=pixels).upright(), turned(fitted, turn))
    upright = picture.upright()
    height, width, _ = upright.shape
    if not _same_aspect(camera, width, height):
        raise InputError(
            f"the image is {width} x {height}, its camera was solved for {camera.width} x {camera.height}",
            where=str(path),
            expected="an image of its camera's aspect ratio",
            remedy="give the images that the cameras were solved on, not cropped ones",
        )
    return Frame(*undistorted(upright, camera.scaled(width, height), str(path)))


def turned(camera: Camera, turn: tuple[tuple[float, float], tuple[float, float]]) -> Camera:
    """The camera after its image plane is rotated by ``turn``, a 2x2 rotation by a multiple of 90 degrees."""
    plane: npt.NDArray[np.float64] = np.eye(3)
    plane[:2, :2] = turn
    swapped = turn[0][0] == 0
    width, height = (camera.height, camera.width) if swapped else (camera.width, camera.height)
    # Pixels move by the same rotation about the image centre; undoing it on the camera side keeps focals positive.
    moved = plane @ camera.intrinsics @ plane.T
    centre = plane[:2, :2] @ np.array([camera.width / 2, camera.height / 2])
    moved[0, 2] += width / 2 - centre[0]
    moved[1, 2] += height / 2 - centre[1]
    return Camera(plane @ camera.extrinsics, moved, width, height)


def _same_aspect(camera: Camera, width: int, height: int) -> bool:
    return abs(math.log(camera.width * height / (camera.height * width))) <= _ASPECT_TOLERANCE

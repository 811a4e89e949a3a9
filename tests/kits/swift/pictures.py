"""The picture cases as a decoder gives them, for the stand-in of ImageIO: ``pictures.py FOLDER``.

NAME.pixels holds a line with width, height and orientation, then red, green, blue and alpha of each pixel as stored,
then the same in sRGB (by LittleCMS). Where a case has to be refused, some pixels stand in it all the same: the kit has
to find the reason in the file.
"""

import io
import json
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageCms

CASES = Path(__file__).resolve().parents[1] / "picture_cases"
ORIENTATION = 0x0112


def pixels(case: dict[str, object]) -> bytes:
    if "refused" in case:
        return b"1 1 1\n" + bytes(8)
    with Image.open(CASES / str(case["file"])) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
        alpha = alpha_of(image)
        stored = opaque(image)
        seen = in_srgb(stored, image.info.get("icc_profile"))
    both = [Image.merge("RGBA", (*each.split(), alpha)).tobytes() for each in (stored.convert("RGB"), seen)]
    return b"".join([f"{image.width} {image.height} {orientation}\n".encode(), *both])


def alpha_of(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image.convert("RGBA").getchannel("A")
    return Image.new("L", image.size, 255)


def opaque(image: Image.Image) -> Image.Image:
    """The picture without alpha, in one or three channels of 8 bits."""
    if image.mode.startswith("I"):
        return image.point(lambda value: value / 257).convert("L")
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is None:
        return image.convert("RGB")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    matching = image if opened.profile.xcolor_space == "GRAY" else image.convert("RGB")
    converted = ImageCms.profileToProfile(matching, opened, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # of a palette with alpha
    folder.mkdir(parents=True, exist_ok=True)
    for case in json.loads((CASES / "cases.json").read_text())["cases"]:
        (folder / f"{case['file']}.pixels").write_bytes(pixels(case))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""FP8 and NVFP4 beside INT8 on vggt-mini: one row per scheme and form of the convolutions. Run by hand.

``floats.py [--scene-count N]``: held-out rooms, all blocks in one scheme, plain rounding, everything else as an export
does it. ``--tuned EFFORT``: one row per scheme instead, prepared and tuned as an export does it, the mean of
``--seeds`` seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from rooms import HEADER, Rooms

from vggt_edge.calibration.quantization.form import Form, Kind, LayerShape
from vggt_edge.calibration.scheme import SCHEMES, Scheme
from vggt_edge.calibration.tuning.parts import EFFORTS
from vggt_edge.exporter.models.config import InputShape

SHAPE = InputShape(4, 84, 84)
# (linears, convolutions)
VARIANTS = (
    ("w8a8", "w8a8"),
    ("w8a8-mha", "w8a8-mha"),
    ("fp8", "fp8"),
    ("fp8", "w8a8"),
    ("fp8", "fp16"),
    ("fp8-mha", "fp16"),
    ("nvfp4", "fp8"),
    ("nvfp4", "w8a8"),
    ("nvfp4", "fp16"),
    ("nvfp4a16", "w8a16"),
    ("w4a16", "w8a16"),
)

TUNED = ("w8a8", "fp8", "nvfp4", "nvfp4a16", "w4a16")


@contextmanager
def varied(linears: str, convolutions: str) -> Iterator[None]:
    """Convolutions of blocks in the scheme ``linears`` get the scheme ``convolutions``, also where that is FP8."""
    of, wanted = Form.of, replace(SCHEMES[convolutions], convolutions=None)

    def form_of(scheme: Scheme, shape: LayerShape, group: int | None = None, kept: Scheme | None = None) -> Form:
        is_ours = scheme.name == linears and shape.kind is not Kind.LINEAR
        return of(wanted if is_ours else scheme, shape, group, kept)

    with patch.object(Form, "of", form_of):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene-count", type=int, default=32)
    parser.add_argument("--tuned", metavar="EFFORT", choices=tuple(EFFORTS))
    parser.add_argument("--schemes", nargs="+", default=TUNED, help="those that are tuned")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    given = parser.parse_args()
    rooms = Rooms(SHAPE, given.scene_count)
    print(f"| {'scheme, tuned' if given.tuned else 'linears, convolutions'} {HEADER}")
    print(rooms.row("FP32", rooms.fp32), flush=True)
    if given.tuned:
        for name in given.schemes:
            found = (rooms.tuned(name, given.tuned, seed) for seed in range(given.seeds))
            print(rooms.row(name, *found), flush=True)
        return
    for linears, convolutions in VARIANTS:
        with varied(linears, convolutions):
            ours = rooms.rounded(linears)
        print(rooms.row(f"{linears}, {convolutions}", ours), flush=True)


if __name__ == "__main__":
    main()

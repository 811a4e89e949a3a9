"""What the choices inside the palette schemes are worth on vggt-mini: one row per variant. Run by hand.

``palettes.py [--scene-count N]``: held-out rooms, all blocks in p4a16 or p6a16, everything else as an export does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from rooms import HEADER, Rooms
from torch import Tensor

from vggt_edge.calibration import apply
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.quantization import form
from vggt_edge.exporter.models.config import InputShape

SHAPE = InputShape(4, 84, 84)
SCHEMES = ("p4a16", "p6a16")


@dataclass(frozen=True)
class Variant:
    """importance: power of the largest magnitudes that weigh errors, 0 for equal weights. small: weights of the largest
    layer that keeps 8 bits. rows: output channels that share a table.
    """

    title: str
    importance: float = 1.0
    small: int = form.PALETTE_FROM_WEIGHTS - 1
    rows: int = form.TABLE_ROWS


VARIANTS = (
    Variant("as exported"),
    Variant("equal weights", importance=0.0),
    Variant("magnitudes squared", importance=2.0),
    Variant("small layers too", small=0),
    Variant("tables for 8 channels", rows=8),
    Variant("tables for 32 channels", rows=32),
)


@contextmanager
def varied(variant: Variant) -> Iterator[None]:
    plain = apply.importance

    def importance(stats: CalibrationStats, layer: str) -> Tensor:
        return torch.pow(plain(stats, layer), variant.importance)

    with (
        patch.object(apply, "importance", importance),
        patch.object(form, "PALETTE_FROM_WEIGHTS", variant.small + 1),
        patch.object(form, "TABLE_ROWS", variant.rows),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene-count", type=int, default=64)
    rooms = Rooms(SHAPE, parser.parse_args().scene_count)
    print(f"| {HEADER}")
    print(rooms.row("FP32", rooms.fp32))
    for name in SCHEMES:
        for variant in VARIANTS:
            with varied(variant):
                ours = rooms.rounded(name)
            print(rooms.row(f"{name}, {variant.title}", ours), flush=True)


if __name__ == "__main__":
    main()

"""Put trained weights into the package: ``python training/publish_mini.py`` (reads runs/mini by default)."""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file

from vggt_edge.exporter.models.checkpoint import save_checkpoint
from vggt_edge.exporter.models.mini import CONFIG
from vggt_edge.exporter.models.registry import MINI_WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="?", default=Path("runs/mini/vggt-mini.safetensors"))
    source = parser.parse_args().weights
    save_checkpoint(load_file(source), CONFIG, MINI_WEIGHTS)
    print(f"{MINI_WEIGHTS}: {MINI_WEIGHTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()

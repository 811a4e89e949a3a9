"""The tiny VGGT, taken for StreamVGGT: names and sizes are the same."""

from __future__ import annotations

from pathlib import Path

from vggt_edge.runtimes.common.kit import script_module

_vggt = script_module(Path(__file__).with_name("vggt.py"), "tiny.vggt")
CONFIG, FRAMES, drawn = _vggt.CONFIG, _vggt.FRAMES, _vggt.drawn

"""The sizes that make one VGGT differ from another."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from vggt_edge.exporter.models.shape import InputShape as InputShape

PATCH = 14
OUTPUTS = ("camera", "depth", "points")
SPECIAL_TOKENS = 5

# The largest size that is believed when a file claims it; a tuple stands for four such sizes.
_LIMITS: dict[str, int | tuple[int, int, int, int]] = {
    "embed_dim": 8192,
    "dino_depth": 128,
    "depth": 128,
    "heads": 128,
    "position_grid": 512,
    "taps": (127, 127, 127, 127),
    "camera_trunk_depth": 64,
    "camera_heads": 128,
    "camera_iterations": 64,
    "dpt_features": 8192,
    "dpt_channels": (8192, 8192, 8192, 8192),
    "dpt_hidden": 8192,
}
_NAME = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True)
class VGGTConfig:
    """Defaults are those of VGGT-1B (arXiv 2503.11651); ``name`` appears in reports.

    position_grid: side of the square grid that ``pos_embed`` was trained on.
    taps: entries of the aggregator's output list that the DPT heads read; the camera head reads the last.
    """

    name: str = "vggt-1b"
    embed_dim: int = 1024
    dino_depth: int = 24
    depth: int = 24
    heads: int = 16
    position_grid: int = 37
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    camera_trunk_depth: int = 4
    camera_heads: int = 16
    camera_iterations: int = 4
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    dpt_hidden: int = 32

    @property
    def native_resolution(self) -> int:
        return self.position_grid * PATCH


def config_to_json(config: VGGTConfig) -> str:
    """A configuration as canonical JSON."""
    return json.dumps(asdict(config), sort_keys=True)


def config_from_json(text: str) -> VGGTConfig:
    """The sizes out of an untrusted file: exactly the known fields, plausible and consistent, else ``ValueError``."""
    try:
        raw = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    known = {field.name for field in fields(VGGTConfig)}
    if not isinstance(raw, dict) or set(raw) != known:
        found = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(f"fields {found} instead of {sorted(known)}")
    if not isinstance(raw["name"], str) or not _NAME.fullmatch(raw["name"]):
        raise ValueError("its name is not one of up to 64 letters, digits, dots, dashes and underscores")
    sizes: dict[str, Any] = {key: _checked_size(key, raw[key], limit) for key, limit in _LIMITS.items()}
    config = VGGTConfig(name=raw["name"], **sizes)
    _check_consistency(config)
    return config


def _checked_size(key: str, value: object, limit: int | tuple[int, ...]) -> int | tuple[int, ...]:
    numbers: list[Any] = value if isinstance(value, list) else [value]
    limits = limit if isinstance(limit, tuple) else (limit,)
    least = 0 if key == "taps" else 1
    if isinstance(value, list) != isinstance(limit, tuple) or len(numbers) != len(limits):
        raise ValueError(f"{key} needs {len(limits)} numbers")
    for number, most in zip(numbers, limits, strict=True):
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"{key} is {number!r:.40}, expected an integer from {least} to {most}")
    return tuple(numbers) if isinstance(limit, tuple) else int(numbers[0])


def _check_consistency(config: VGGTConfig) -> None:
    """What the modules divide by: heads, the two axes of the rotary tables, sines and cosines of the image plane."""
    dim, taps = config.embed_dim, config.taps
    if dim % (4 * config.heads) or 2 * dim % config.camera_heads:
        raise ValueError(f"embed_dim {dim} cannot be split into {config.heads} and {config.camera_heads} heads")
    if config.dpt_features % 8 or any(width % 4 for width in config.dpt_channels):
        raise ValueError(f"DPT features {config.dpt_features}, channels {config.dpt_channels}: no multiples of 8 and 4")
    if list(taps) != sorted(set(taps)) or taps[-1] != config.depth - 1:
        raise ValueError(f"taps {taps} do not rise to the last of {config.depth} entries")

"""A checkpoint of VGGT's true shapes with random weights: sizes, times and memory are real, accuracy figures are not.

Written as a stream, so that the file may be larger than the memory. Every tensor has a generator of its own, seeded by
the seed and its name: the same seed gives the same bytes, whatever the order or the chunks they are drawn in.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vggt_edge.devices.errors import ResourceError, UsageError
from vggt_edge.devices.units import format_bytes
from vggt_edge.exporter.models.checkpoint import CONFIG_KEY, RANDOM_KEY
from vggt_edge.exporter.models.config import InputShape, VGGTConfig, config_to_json
from vggt_edge.exporter.models.vggt import VGGT

DIVISORS = (1, 2, 4, 8)
_CHUNK = 1 << 22  # numbers
_ITEM = np.dtype("<f4").itemsize
_METADATA = "__metadata__"

Floats = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]
# (generator, how many) to numbers, called once per chunk.
Draw = Callable[[np.random.Generator, int], Floats]
OnProgress = Callable[[int, int], None]


def scaled_config(divisor: int) -> VGGTConfig:
    """All of VGGT-1B's depth at 1/``divisor`` of its width, with fewer heads of 64 channels each.

    ``UsageError`` for another divisor than 1, 2, 4 and 8.
    """
    if divisor not in DIVISORS:
        raise UsageError(
            f"a width divided by {divisor}",
            where="--width-divisor",
            expected=f"one of: {', '.join(map(str, DIVISORS))}",
            remedy="1 is the true size, 8 is about 19 million parameters",
        )
    full = VGGTConfig()
    first, second, third, fourth = (width // divisor for width in full.dpt_channels)
    return replace(
        full,
        name="vggt-1b-random" + (f"-w{divisor}" if divisor > 1 else ""),
        embed_dim=full.embed_dim // divisor,
        heads=full.heads // divisor,
        camera_heads=full.camera_heads // divisor,
        dpt_features=full.dpt_features // divisor,
        dpt_channels=(first, second, third, fourth),
        dpt_hidden=full.dpt_hidden // divisor,
    )


def tensor_shapes(config: VGGTConfig) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor of a checkpoint without track head, in order of name."""
    with torch.device("meta"):
        state = VGGT(config, InputShape(1, config.native_resolution, config.native_resolution)).state_dict()
    return {name: tuple(state[name].shape) for name in sorted(state)}


def write_random_checkpoint(path: Path, config: VGGTConfig, seed: int, on_progress: OnProgress | None = None) -> None:
    """Write seeded random FP32 weights as safetensors; ``on_progress`` gets bytes done and in all.

    The metadata holds the sizes and, under ``RANDOM_KEY``, the seed. Written aside and renamed. ``UsageError`` for a
    path that exists or is no ``.safetensors``; ``ResourceError`` for a disk too small, a folder missing or read-only.
    """
    _check_new(path)
    shapes = tensor_shapes(config)
    header = _header(shapes, config, seed)
    total = len(header) + _ITEM * sum(map(math.prod, shapes.values()))
    _check_room(path, total)
    scratch = path.with_name(path.name + ".partial")
    try:
        with scratch.open("wb") as stream:
            stream.write(header)
            for chunk in _chunks(shapes, config, seed):
                stream.write(chunk.astype("<f4", copy=False).data)
                if on_progress is not None:
                    on_progress(stream.tell(), total)
        scratch.replace(path)
    except OSError as error:
        raise ResourceError(
            f"cannot write the checkpoint {path.name}: {error}", where=str(path), expected="a writable folder with room"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def _check_new(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path} exists already", expected="a new file", remedy="give another path, or remove it")
    if path.suffix != ".safetensors":
        raise UsageError(f"{path.name} would not be read as safetensors", expected="a name that ends in .safetensors")


def _check_room(path: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise ResourceError(
            f"cannot write into {path.parent}: {error.strerror}", where=str(path), expected="an existing folder"
        ) from error
    if free < needed:
        raise ResourceError(
            f"the disk has {format_bytes(free)} free, the checkpoint needs {format_bytes(needed)}",
            where=str(path.parent),
            expected=f"{needed} bytes free, found {free}",
            remedy="give a path on a larger disk, or raise --width-divisor",
        )


def _header(shapes: Shapes, config: VGGTConfig, seed: int) -> bytes:
    """The safetensors header: its length in 8 bytes, then JSON, padded so that the tensors start at a multiple of 8."""
    entries: dict[str, object] = {
        _METADATA: {CONFIG_KEY: config_to_json(config), RANDOM_KEY: f"seed {seed}"},
    }
    offset = 0
    for name, shape in shapes.items():
        end = offset + _ITEM * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _chunks(shapes: Shapes, config: VGGTConfig, seed: int) -> Iterator[Floats]:
    for name, shape in shapes.items():
        draw, generator = _draw_of(name, shape, config), _generator(seed, name)
        count = math.prod(shape)
        for start in range(0, count, _CHUNK):
            yield draw(generator, min(_CHUNK, count - start))


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _draw_of(name: str, shape: tuple[int, ...], config: VGGTConfig) -> Draw:
    """What a tensor is drawn from: activations stay of order 1 throughout, and every parameter has an effect.

    Norms and biases lie near 1 and 0 and not on them, so that leaving one out is seen.
    """
    if name.startswith("camera_head.pose_branch.fc2."):
        return _normal(0.0, 0.1 * _gain(name, shape)) if name.endswith("weight") else _pose_bias(config)
    if name.endswith(".gamma"):
        # As in trained ones, LayerScale differs by an order of magnitude between channels. (DINO's starts from 1.0 in
        # training; with random residual branches that would drown the image.)
        return _uniform(0.03, 0.3) if "patch_embed" in name else _uniform(0.01, 0.1)
    if name.endswith(("camera_token", "register_token", "cls_token", "register_tokens")):
        return _normal(0.0, 1.0)
    if name.endswith(("pos_embed", "mask_token", "empty_pose_tokens")):
        return _normal(0.0, 0.2)
    if len(shape) > 1:
        return _normal(0.0, _gain(name, shape))
    return _normal(1.0, 0.1) if name.endswith("weight") else _normal(0.0, 0.02)


def _gain(name: str, shape: tuple[int, ...]) -> float:
    """The spread of weights that keeps variance: one over the root of how many inputs an output adds up."""
    # A transposed convolution's weight is (in, out, k, k); at a stride of k an output sees each input channel once.
    transposed = "resize_layers.0." in name or "resize_layers.1." in name
    return float((shape[0] if transposed else math.prod(shape[1:])) ** -0.5)


def _normal(mean: float, spread: float) -> Draw:
    def draw(generator: np.random.Generator, count: int) -> Floats:
        numbers = generator.standard_normal(count, dtype=np.float32)
        numbers *= np.float32(spread)
        numbers += np.float32(mean)
        return numbers

    return draw


def _uniform(low: float, high: float) -> Draw:
    def draw(generator: np.random.Generator, count: int) -> Floats:
        return np.float32(low) + np.float32(high - low) * generator.random(count, dtype=np.float32)

    return draw


def _pose_bias(config: VGGTConfig) -> Draw:
    """Every refinement adds its share of an upright camera whose fields of view are one radian, so never zero."""
    pose = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1], dtype=np.float32) / np.float32(config.camera_iterations)

    def draw(generator: np.random.Generator, count: int) -> Floats:
        return pose + np.float32(0.02) * generator.standard_normal(count, dtype=np.float32)

    return draw

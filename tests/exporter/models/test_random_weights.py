"""A random checkpoint: the official reader takes it, the same seed gives the same bytes, and its model is alive."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vggt_edge.devices.errors import ResourceError, UsageError
from vggt_edge.exporter.models import random_weights
from vggt_edge.exporter.models.checkpoint import build_model, read_checkpoint
from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig, config_from_json, config_to_json
from vggt_edge.exporter.models.random_weights import (
    DIVISORS,
    scaled_config,
    tensor_shapes,
    write_random_checkpoint,
)
from vggt_edge.exporter.models.vggt import VGGT

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def written(tiny_config: VGGTConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "tiny.safetensors"
    write_random_checkpoint(path, tiny_config, 0)
    return path


def test_the_official_reader_takes_it(written: Path, tiny_config: VGGTConfig) -> None:
    state = VGGT(tiny_config, InputShape(1, 14, 14)).state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    with safe_open(written, framework="np") as archive:
        assert archive.metadata()["vggt_edge.random"] == "seed 0"
        found = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118  no mapping
    assert {name: array.shape for name, array in found.items()} == expected
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in found.values())


def test_the_header_is_aligned_and_in_order_of_name(written: Path) -> None:
    content = written.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    names = [name for name in json.loads(content[8 : 8 + length]) if name != "__metadata__"]
    assert names == sorted(names)


def test_the_checkpoint_says_that_it_is_random(written: Path, tiny_config: VGGTConfig) -> None:
    checkpoint = read_checkpoint(written)
    assert checkpoint.random == "seed 0"
    assert checkpoint.config == tiny_config


def test_the_seed_and_nothing_else_decides_the_bytes(
    written: Path, tiny_config: VGGTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, "_CHUNK", 1000)
    again, other = tmp_path / "again.safetensors", tmp_path / "other.safetensors"
    write_random_checkpoint(again, tiny_config, 0)
    write_random_checkpoint(other, tiny_config, 1)
    assert again.read_bytes() == written.read_bytes()
    first, second = read_checkpoint(written).tensors, read_checkpoint(other).tensors
    assert read_checkpoint(other).random == "seed 1"
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_a_tensor_depends_on_its_name_and_not_on_the_others(
    written: Path, tiny_config: VGGTConfig, tmp_path: Path
) -> None:
    path = tmp_path / "shallow.safetensors"
    write_random_checkpoint(path, replace(tiny_config, dino_depth=1), 0)
    few, all_ = read_checkpoint(path).tensors, read_checkpoint(written).tensors
    assert few.keys() < all_.keys()
    assert all(torch.equal(few[name], all_[name]) for name in few)


def test_no_two_tensors_of_a_shape_are_alike(written: Path) -> None:
    tensors = list(read_checkpoint(written).tensors.values())
    assert len({tensor.numpy().tobytes() for tensor in tensors}) == len(tensors)


def test_progress_ends_at_the_size_of_the_file(tiny_config: VGGTConfig, tmp_path: Path) -> None:
    path, calls = tmp_path / "a.safetensors", list[tuple[int, int]]()
    write_random_checkpoint(path, tiny_config, 0, lambda done, total: calls.append((done, total)))
    size = path.stat().st_size
    assert calls == sorted(calls)
    assert calls[-1] == (size, size)


# --- what it refuses


def test_an_existing_file_is_never_overwritten(tiny_config: VGGTConfig, tmp_path: Path) -> None:
    path = tmp_path / "precious.safetensors"
    path.write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        write_random_checkpoint(path, tiny_config, 0)
    assert path.read_text() == "x"


def test_a_name_that_could_not_be_read_back(tiny_config: VGGTConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="safetensors"):
        write_random_checkpoint(tmp_path / "weights.pt", tiny_config, 0)


def test_a_disk_too_small_is_said_before_a_byte_is_written(tiny_config: VGGTConfig, tmp_path: Path) -> None:
    petabytes = replace(tiny_config, embed_dim=1 << 21, heads=1 << 15)
    with pytest.raises(ResourceError, match="free, the checkpoint needs") as raised:
        write_random_checkpoint(tmp_path / "a.safetensors", petabytes, 0)
    assert raised.value.exit_code == 7
    needed = 4 * sum(map(math.prod, tensor_shapes(petabytes).values()))
    assert needed < int(raised.value.expected.split()[0]) < needed + 100_000
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_resource_error(tiny_config: VGGTConfig, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="missing"):
        write_random_checkpoint(tmp_path / "missing" / "a.safetensors", tiny_config, 0)


def test_what_was_begun_is_removed(tiny_config: VGGTConfig, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "a.safetensors", tiny_config, 0, stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("divisor", [0, -1, 3, 16])
def test_other_widths_are_refused(divisor: int) -> None:
    with pytest.raises(UsageError, match=str(divisor)) as raised:
        scaled_config(divisor)
    assert "1, 2, 4, 8" in raised.value.expected


# --- the sizes


@pytest.mark.parametrize("divisor", DIVISORS)
def test_every_width_is_valid_and_as_deep_as_the_model(divisor: int) -> None:
    config, full = scaled_config(divisor), VGGTConfig()
    assert config_from_json(config_to_json(config)) == config
    assert config.embed_dim * divisor == full.embed_dim
    assert config.embed_dim // config.heads == full.embed_dim // full.heads
    assert (config.dino_depth, config.depth, config.taps) == (full.dino_depth, full.depth, full.taps)
    assert "random" in config.name


def test_width_1_is_vggt_1b_in_all_but_name() -> None:
    assert replace(scaled_config(1), name="vggt-1b") == VGGTConfig()
    parameters = sum(map(math.prod, tensor_shapes(scaled_config(1)).values()))
    assert round(parameters / 1e6, 1) == 1190.6


# --- the model


def test_at_an_eighth_every_block_has_activations_of_order_one(tmp_path: Path) -> None:
    path = tmp_path / "w8.safetensors"
    write_random_checkpoint(path, scaled_config(8), 0)
    model = build_model(read_checkpoint(path), InputShape(2, 56, 70), OUTPUTS)
    spreads: dict[str, tuple[float, float]] = {}

    def record(name: str, inputs: torch.Tensor, output: torch.Tensor) -> None:
        spreads[name] = (float(output.std()), float((output - inputs).std()))

    trunk_and_body = {name: block for name, block in model.blocks().items() if name not in ("depth_head", "point_head")}
    for name, block in trunk_and_body.items():
        block.register_forward_hook(lambda _, inputs, output, name=name: record(name, inputs[0], output))
    images = torch.rand(1, 2, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = dict(zip(model.output_names, model(images), strict=True))
    assert spreads.keys() == trunk_and_body.keys()
    assert all(0.5 < spread < 2 and branch > 0.02 for spread, branch in spreads.values()), spreads
    assert all(bool(torch.isfinite(tensor).all()) for tensor in outputs.values())
    depth = outputs["depth"]
    assert 0.02 < depth.min() < depth.max() < 50
    assert depth.std() > 0.02
    pose = outputs["pose_enc"]
    assert bool((pose[..., 7:] > 0.1).all()), "a field of view of zero has no focal length"
    assert bool((pose[..., 3:7].norm(dim=-1) > 0.1).all())
    assert not torch.allclose(pose[:, 0], pose[:, 1], atol=1e-3)


# --- the command


@pytest.fixture
def eighth(vggt_edge: Run, tmp_path: Path) -> tuple[Any, Path]:
    path = tmp_path / "w8.safetensors"
    return vggt_edge("bench", "--write-random-checkpoint", path, "--width-divisor", "8", "--seed", "5", "--json"), path


def test_the_command_writes_it_and_says_that_it_is_random(
    vggt_edge: Run, eighth: tuple[Any, Path], fits: Callable[[str, object], None]
) -> None:
    finished, path = eighth
    assert finished.code == 0
    fits("bench-answer", finished.document)
    result = finished.document["result"]
    assert (result["path"], result["bytes"], result["seed"]) == (str(path), path.stat().st_size, 5)
    assert result["random"] is True
    assert result["parameters"] == sum(map(math.prod, tensor_shapes(scaled_config(8)).values()))
    assert "RANDOM" in finished.err
    again = vggt_edge("bench", "--write-random-checkpoint", path, "--width-divisor", "8")
    assert again.code == 2
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--write-random-checkpoint", "new.safetensors", "--width-divisor", "0"], "1, 2, 4, 8"),
        (["--write-random-checkpoint", "new.pt", "--width-divisor", "8"], ".safetensors"),
        (["--width-divisor", "8"], "--write-random-checkpoint"),
    ],
)
def test_the_command_refuses(
    vggt_edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = vggt_edge("bench", *arguments)
    assert finished.code == 2
    assert part in finished.err
    assert list(tmp_path.iterdir()) == []

"""Sharded checkpoints: read whole through their index, or refused with what is there and what is not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.checkpoint import CONFIG_KEY, build_model, read_checkpoint
from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig, config_to_json
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import VGGT

INDEX = "model.safetensors.index.json"
NAMES = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def state(build_tiny: Callable[..., VGGT]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in build_tiny(2, 28, 42).state_dict().items()}


@pytest.fixture
def folder(state: dict[str, Tensor], tiny_config: VGGTConfig, tmp_path: Path) -> Path:
    """Three shards and their index, the tensors dealt out in turn."""
    names = sorted(state)
    for number, file in enumerate(NAMES):
        part = {name: state[name] for name in names[number::3]}
        save_file(part, tmp_path / file, metadata={CONFIG_KEY: config_to_json(tiny_config)})
    weight_map = {name: NAMES[index % 3] for index, name in enumerate(names)}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return tmp_path


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as raised:
        open_model(str(path))
    assert raised.value.exit_code == 2
    return raised.value


@pytest.mark.parametrize("given", ["", INDEX, NAMES[1]], ids=["folder", "index", "one shard"])
def test_all_shards_are_one_checkpoint(
    folder: Path, state: dict[str, Tensor], tiny_config: VGGTConfig, given: str
) -> None:
    checkpoint = open_model(str(folder / given))
    assert checkpoint.config == tiny_config
    assert list(checkpoint.tensors) == sorted(state)
    assert all(torch.equal(checkpoint.tensors[name], state[name]) for name in state)
    content = b"".join((folder / name).read_bytes() for name in NAMES)
    assert checkpoint.digest == hashlib.sha256(content).hexdigest()
    build_model(checkpoint, InputShape(2, 28, 42), OUTPUTS)


def test_a_missing_shard_is_named_with_those_that_are_there(folder: Path) -> None:
    (folder / NAMES[1]).unlink()
    error = refusal(folder)
    assert f"1 of 3 shards are missing: {NAMES[1]}" in error.what
    assert f"present: {NAMES[0]}, {NAMES[2]}" in error.expected
    assert str(folder) in error.remedy


def test_an_incomplete_shard_is_named(folder: Path) -> None:
    content = (folder / NAMES[2]).read_bytes()
    (folder / NAMES[2]).write_bytes(content[: len(content) // 2])
    assert f"{NAMES[2]} is incomplete" in refusal(folder).what


@pytest.mark.parametrize("given", ["", NAMES[0]], ids=["folder", "one shard"])
def test_a_shard_without_its_index(folder: Path, given: str) -> None:
    (folder / INDEX).unlink()
    (folder / NAMES[2]).unlink()
    error = refusal(folder / given)
    assert f"{NAMES[0]} is one of 3 shards, and {INDEX} is not beside it; missing: {NAMES[2]}" in error.what
    assert f"present: {NAMES[0]}, {NAMES[1]}" in error.expected


def test_shards_of_pytorch_s_format_come_with_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model-00001-of-00002.bin"
    torch.save({"a": torch.zeros(1)}, path)
    error = refusal(path)
    assert "is one of 2 shards in PyTorch's format; missing: pytorch_model-00002-of-00002.bin" in error.what
    assert "safetensors.torch.save_file" in error.remedy


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shutil.copy(folder / NAMES[0], folder / NAMES[1])
    assert "another shard holds" in refusal(folder).what


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/x.safetensors",
        "a/b.safetensors",
        "..",
        "x.bin",
        "..\\x.safetensors",
        "\0.safetensors",
        3,
        "n" * 250 + ".safetensors",  # too long for a file
        "ä" * 130 + ".safetensors",
    ],
)
def test_an_index_never_leads_out_of_its_folder(folder: Path, name: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert "is no index of a sharded checkpoint" in refusal(folder).what


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 50_000, "\0"])
def test_a_hostile_index(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    error = refusal(folder)
    assert INDEX in error.what
    assert "weight_map" in error.expected


def test_shards_without_end_are_listed_in_short(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-99999.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    assert len(str(refusal(path))) < 1500


def test_a_model_next_to_shards_is_the_model(folder: Path, state: dict[str, Tensor], tiny_config: VGGTConfig) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    save_file(zeros, folder / "model.safetensors", {CONFIG_KEY: config_to_json(tiny_config)})
    assert not any(tensor.any() for tensor in open_model(str(folder)).tensors.values())
    assert list(read_checkpoint(folder / INDEX).tensors) == sorted(state)

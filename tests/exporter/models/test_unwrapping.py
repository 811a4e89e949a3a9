"""What people save, as they save it: wrappers, prefixes, adapters, FP8, stored constants; read, or refused by name."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.aggregator import IMAGENET_MEAN, IMAGENET_STD
from vggt_edge.exporter.models.checkpoint import Checkpoint, build_model, read_checkpoint
from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import ARCHITECTURE, VGGT

SHAPE = InputShape(1, 28, 28)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state(build_tiny: Callable[..., VGGT]) -> State:
    return {name: tensor.float() for name, tensor in build_tiny(1, 28, 28).state_dict().items()}


def read(tmp_path: Path, content: object) -> Checkpoint:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return read_checkpoint(path)


def refusal(tmp_path: Path, content: object) -> InputError:
    with pytest.raises(InputError) as raised:
        read(tmp_path, content)
    return raised.value


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.", "net.vggt.", "network._orig_mod."],
)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict", "ema"])
def test_prefixes_and_wrappers_are_taken_off(tmp_path: Path, state: State, prefix: str, wrapper: str | None) -> None:
    """The Lightning form is ``state_dict`` with ``model.``."""
    inner = prefixed(state, prefix)
    found = read(tmp_path, inner if wrapper is None else {wrapper: inner})
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)


def test_compiled_parts_have_their_own_names_back(tmp_path: Path, state: State) -> None:
    inserted = {name.replace("aggregator.", "aggregator._orig_mod.", 1): tensor for name, tensor in state.items()}
    assert read(tmp_path, inserted).tensors.keys() == state.keys()


def test_what_was_taken_and_what_was_left_is_said(tmp_path: Path, state: State) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    found = read(tmp_path, {"model": state, "ema": averaged, "optimizer": optimizer, "epoch": 3})
    assert torch.equal(found.tensors["aggregator.camera_token"], state["aggregator.camera_token"])
    note = found.notes[0]
    assert "taken from 'model'" in note
    assert all(word in note for word in ("ema", "optimizer", "epoch", "averaged copy that was not taken"))


def test_of_two_copies_in_one_dictionary_the_trained_one_is_taken(tmp_path: Path, state: State) -> None:
    teacher = {f"teacher.{name}": tensor + 1 for name, tensor in state.items()}
    found = read(tmp_path, prefixed(state, "student.") | teacher | {"loss.weight": torch.ones(1)})
    assert torch.equal(found.tensors["aggregator.camera_token"], state["aggregator.camera_token"])
    assert "begin with 'student.'" in found.notes[0]
    assert "loss.weight" in found.notes[0]


@pytest.mark.parametrize("whole", [True, False], ids=["beside the weights", "alone"])
def test_lora_deltas_are_named_and_refused(tmp_path: Path, state: State, whole: bool) -> None:
    layer = "aggregator.frame_blocks.0.attn.qkv"
    deltas = {f"base_model.model.{layer}.lora_{side}.default.weight": torch.ones(2, 2) for side in "AB"}
    error = refusal(tmp_path, {**(prefixed(state, "base_model.model.") if whole else {}), **deltas})
    assert "2 LoRA deltas that are not merged" in str(error)
    assert "lora_A.default.weight" in str(error)
    assert "merge_and_unload" in error.remedy


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_fp8_weights_are_widened(
    tmp_path: Path, state: State, tiny_config: VGGTConfig, dtype: torch.dtype
) -> None:
    name = "aggregator.frame_blocks.0.mlp.fc1.weight"
    narrow = state | {name: state[name].to(dtype)}
    checkpoint = Checkpoint("x", ARCHITECTURE, tiny_config, "0" * 64, narrow)
    built = build_model(checkpoint, SHAPE, ("camera",)).state_dict()[name]
    assert torch.equal(built, narrow[name].float())
    narrow[name].view(torch.uint8)[0] = 0x7F  # NaN in both
    with pytest.raises(InputError, match="NaN or infinite"):
        build_model(checkpoint, SHAPE, ("camera",))


def test_fp8_weights_with_scales_are_refused(tmp_path: Path, state: State) -> None:
    name = "aggregator.frame_blocks.0.mlp.fc1.weight"
    error = refusal(tmp_path, state | {name: state[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.ones(1)})
    assert "quantized already: 1 tensors are scales" in str(error)
    assert f"{name}_scale" in str(error)


def test_normalisation_buffers_are_known(tmp_path: Path, state: State) -> None:
    mean, std = (torch.tensor(each).view(1, 1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    stored = {"aggregator._resnet_mean": mean, "aggregator._resnet_std": std}
    assert read(tmp_path, state | stored).tensors.keys() == state.keys()
    error = refusal(tmp_path, state | stored | {"aggregator._resnet_mean": mean + 0.1})
    assert "aggregator._resnet_mean is not the constant" in str(error)


def test_a_missing_head_is_left_out_or_named(tmp_path: Path, state: State) -> None:
    """As upstream's fine-tuning writes it: without the point head, under ``model``, with the optimizer beside."""
    tuned = {name: tensor for name, tensor in state.items() if not name.startswith("point_head.")}
    found = read(tmp_path, {"model": tuned, "optimizer": {}})
    assert found.heads(None) == ("camera", "depth")
    with pytest.raises(InputError, match="no head for points") as raised:
        found.heads(("depth", "points"))
    assert raised.value.remedy == "export what it has: --outputs camera,depth"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize(
    ("content", "name"),
    [({"model": {"a": torch.zeros(2)}, "args": Namespace(lr=1)}, "argparse.Namespace"), (nn.Linear(2, 2), "Linear")],
    ids=["arguments", "a whole model"],
)
def test_pickled_objects_are_named_with_a_way_out(tmp_path: Path, content: object, name: str, legacy: bool) -> None:
    path = tmp_path / "train.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="holds pickled Python objects") as raised:
        read_checkpoint(path)
    text = str(raised.value)
    assert name in text
    assert 'torch.save(loaded["model"], "weights.pt")' in raised.value.remedy
    assert "\x1b" not in text
    assert "download" not in text


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 5030000000\n"


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.safetensors.index.json"])
def test_a_git_lfs_pointer_is_called_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(InputError, match="is a Git LFS pointer") as raised:
        read_checkpoint(tmp_path / name)
    assert "git lfs pull" in raised.value.remedy


def test_a_shard_that_is_a_pointer_is_called_one(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m-00001-of-00002.safetensors")
    (tmp_path / "m-00002-of-00002.safetensors").write_text(POINTER)
    shards = ", ".join(f'"{key}": "m-0000{index}-of-00002.safetensors"' for index, key in ((1, "a"), (2, "b")))
    (tmp_path / "m.safetensors.index.json").write_text('{"weight_map": {' + shards + "}}")
    with pytest.raises(InputError, match=r"m-00002-of-00002.safetensors is a Git LFS pointer"):
        read_checkpoint(tmp_path / "m.safetensors.index.json")

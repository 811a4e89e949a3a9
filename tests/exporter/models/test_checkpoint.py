"""Reading checkpoints: what was written comes back, and whatever is wrong with a file is one error that names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.devices.errors import InputError, ResourceError
from vggt_edge.exporter.models.checkpoint import (
    CONFIG_KEY,
    RANDOM_KEY,
    Checkpoint,
    build_model,
    check_values,
    file_digest,
    read_checkpoint,
    read_weights,
    save_checkpoint,
)
from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig, config_to_json
from vggt_edge.exporter.models.vggt import ARCHITECTURE, VGGT

SHAPE = InputShape(frames=2, height=28, width=42)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state(build_tiny: Callable[..., VGGT]) -> State:
    return {name: tensor.float() for name, tensor in build_tiny(2, 28, 42).state_dict().items()}


@pytest.fixture
def tiny_file(state: State, tiny_config: VGGTConfig, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(state, tiny_config, path)
    return path


def tiny_checkpoint(state: State, config: VGGTConfig) -> Checkpoint:
    return Checkpoint("somewhere/tiny.pt", ARCHITECTURE, config, "0" * 64, state)


# --- what comes back


def test_safetensors_round_trip(state: State, tiny_config: VGGTConfig, tiny_file: Path) -> None:
    checkpoint = read_checkpoint(tiny_file)
    assert (checkpoint.source, checkpoint.config) == ("tiny.safetensors", tiny_config)
    assert list(checkpoint.tensors) == sorted(state)
    for name, tensor in build_model(checkpoint, SHAPE, OUTPUTS).state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_same_weights_same_bytes(state: State, tiny_config: VGGTConfig, tiny_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_checkpoint(dict(reversed(state.items())), tiny_config, again)
    assert again.read_bytes() == tiny_file.read_bytes()
    assert read_checkpoint(again).digest == read_checkpoint(tiny_file).digest


def test_saving_replaces_the_file_whole_and_readable_by_all(tiny_config: VGGTConfig, tiny_file: Path) -> None:
    mapped = read_checkpoint(tiny_file).tensors["aggregator.camera_token"]
    before = mapped.clone()
    save_checkpoint({"only": torch.zeros(3)}, tiny_config, tiny_file)
    assert torch.equal(mapped, before)
    assert tiny_file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tiny_file.parent.iterdir()] == [tiny_file.name]


def test_saving_where_it_cannot_be_is_a_resource_error(tiny_config: VGGTConfig, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"x\.safetensors"):
        save_checkpoint({"only": torch.zeros(3)}, tiny_config, tmp_path / "missing" / "x.safetensors")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_pytorch_round_trip(state: State, tmp_path: Path, wrapper: str | None, legacy: bool) -> None:
    path = tmp_path / "weights.pt"
    payload: dict[str, Any] = dict(state) if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(payload, path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == VGGTConfig(), "without our metadata a checkpoint is VGGT-1B"
    assert checkpoint.tensors.keys() == state.keys()
    assert all(torch.equal(checkpoint.tensors[name], state[name]) for name in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_cast_up(state: State, tiny_config: VGGTConfig, dtype: torch.dtype) -> None:
    cast = {name: tensor.to(dtype) for name, tensor in state.items()}
    model = build_model(tiny_checkpoint(cast, tiny_config), SHAPE, OUTPUTS)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, cast[name].float())


def test_a_built_model_is_frozen_and_runs(state: State, tiny_config: VGGTConfig, random_images: Any) -> None:
    model = build_model(tiny_checkpoint(state, tiny_config), SHAPE, ("depth",))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(tensor.device.type == "cpu" for tensor in (*model.parameters(), *model.buffers()))
    plain = VGGT(tiny_config, SHAPE, ("depth",))
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    images = random_images(1, 2, 3, 28, 42).float()
    with torch.no_grad():
        for fixed, live in zip(model(images), plain.eval()(images), strict=True):
            assert torch.equal(fixed, live)


def test_track_head_and_heads_not_asked_for_are_ignored(state: State, tiny_config: VGGTConfig) -> None:
    more = state | {"track_head.tracker.weight": torch.full((2,), float("nan"))}
    model = build_model(tiny_checkpoint(more, tiny_config), SHAPE, ("camera",))
    assert {name.split(".")[0] for name in model.state_dict()} == {"aggregator", "camera_head"}


# --- weights that do not fit


def refusal(state: State, config: VGGTConfig, outputs: tuple[str, ...] = OUTPUTS) -> InputError:
    with pytest.raises(InputError) as raised:
        build_model(tiny_checkpoint(state, config), SHAPE, outputs)
    assert raised.value.where == "somewhere/tiny.pt"
    return raised.value


def test_missing_unexpected_and_misshapen_tensors_are_all_named(state: State, tiny_config: VGGTConfig) -> None:
    wrong = dict(state)
    del wrong["aggregator.camera_token"]
    wrong["aggregator.extra"] = torch.zeros(1)
    wrong["camera_head.extra"] = torch.zeros(1)
    wrong["depth_head.norm.bias"] = torch.zeros(3)
    text = str(refusal(wrong, tiny_config))
    assert "1 missing (aggregator.camera_token)" in text
    assert "2 unexpected (aggregator.extra, camera_head.extra)" in text
    assert "1 misshapen (depth_head.norm.bias is (3,), expected (64,))" in text
    assert "does not fit tiny" in text


def test_a_long_list_of_names_is_cut(tiny_config: VGGTConfig) -> None:
    text = str(refusal({"a": torch.zeros(1)}, tiny_config, ("camera",)))
    assert ", and " in text
    assert len(text) < 1500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embed_dim": 64, "dino_depth": 1}, "it has embed dim 64 and 1 DINO blocks, expected 32 and 2;"),
        ({"embed_dim": 64}, "it has embed dim 64, expected 32;"),
        ({"depth": 5, "taps": (0, 1, 2, 4)}, "it has 5 frame blocks and 5 global blocks, expected 4 and 4;"),
        ({"camera_trunk_depth": 1}, "it has 1 camera trunk blocks, expected 2;"),
    ],
)
def test_another_width_or_depth_is_said_first(tiny_config: VGGTConfig, change: dict[str, Any], said: str) -> None:
    """A thousand misshapen tensors tell less than the one number that they share."""
    other = VGGT(dataclasses.replace(tiny_config, **change), SHAPE, OUTPUTS).state_dict()
    text = str(refusal(other, tiny_config))
    assert f"does not fit tiny: {said}" in text
    assert ("misshapen (aggregator.camera_token is" in text) == ("embed_dim" in change)
    assert len(text) < 2000


def test_one_misshapen_tensor_is_no_other_width(state: State, tiny_config: VGGTConfig) -> None:
    wrong = state | {"aggregator.frame_blocks.0.norm1.weight": torch.zeros(7)}
    assert "it has" not in str(refusal(wrong, tiny_config))


def test_a_head_that_was_asked_for_must_be_there(state: State, tiny_config: VGGTConfig) -> None:
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("point_head.")}
    build_model(tiny_checkpoint(headless, tiny_config), SHAPE, ("camera", "depth"))
    assert "missing (point_head." in str(refusal(headless, tiny_config))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(state: State, tiny_config: VGGTConfig, value: float) -> None:
    damaged = dict(state)
    for name in ("aggregator.patch_embed.blocks.1.mlp.fc1.weight", "camera_head.embed_pose.bias"):
        damaged[name] = state[name].clone()
        damaged[name].flatten()[-1] = value
    text = str(refusal(damaged, tiny_config))
    assert "2 tensors hold NaN or infinite weights" in text
    assert "aggregator.patch_embed.blocks.1.mlp.fc1.weight, camera_head.embed_pose.bias" in text


def test_large_finite_weights_are_no_overflow(state: State, tiny_config: VGGTConfig) -> None:
    large = dict(state)
    large["aggregator.register_token"] = torch.full_like(state["aggregator.register_token"], 3e38)
    build_model(tiny_checkpoint(large, tiny_config), SHAPE, OUTPUTS)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_named(state: State, tiny_config: VGGTConfig, dtype: torch.dtype) -> None:
    wrong = state | {"aggregator.camera_token": torch.zeros(1, 2, 1, 32, dtype=dtype)}
    assert f"aggregator.camera_token is {dtype}" in str(refusal(wrong, tiny_config))


def test_checking_values_reports_progress_in_bytes(state: State) -> None:
    calls: list[tuple[int, int]] = []
    check_values(state, "here", lambda done, total: calls.append((done, total)))
    total = sum(tensor.nbytes for tensor in state.values())
    assert calls == sorted(calls)
    assert (len(calls), calls[-1]) == (len(state), (total, total))


# --- files that cannot be read


def unreadable(path: Path) -> InputError:
    with pytest.raises(InputError) as raised:
        read_checkpoint(path)
    assert path.name in str(raised.value)
    return raised.value


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    unreadable(tmp_path / "none.safetensors")
    unreadable(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_cut_anywhere_is_an_input_error(tmp_path: Path, kind: str, tiny_config: VGGTConfig) -> None:
    whole, cut = tmp_path / "whole", tmp_path / ("cut.safetensors" if kind == "safetensors" else "cut.pt")
    small = {"a": torch.randn(5, 7), "b.c": torch.arange(12.0).half()}
    if kind == "safetensors":
        save_checkpoint(small, tiny_config, whole)
    else:
        torch.save(small, whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    for length in {*range(0, len(content), 7), *range(len(content) - 40, len(content)), *range(20)}:
        cut.write_bytes(content[:length])
        unreadable(cut)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of some damaged headers before it fails
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_an_input_error_or_still_a_state_dict(
    tmp_path: Path, kind: str, changes: list[tuple[float, int]]
) -> None:
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pt")
    small = {"a": torch.ones(5, 7), "b.c": torch.arange(12.0).half()}
    if kind == "safetensors":
        save_file(small, path)
    else:
        torch.save(small, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[int(place * len(content))] = byte
    path.write_bytes(content)
    try:
        checkpoint = read_weights(path)
    except InputError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in checkpoint.tensors.values())


def test_a_download_that_broke_off_says_both_sizes(tiny_file: Path) -> None:
    content = tiny_file.read_bytes()
    tiny_file.write_bytes(content[: len(content) // 4])
    error = unreadable(tiny_file)
    assert error.exit_code == 2
    assert "tiny.safetensors is incomplete" in str(error)
    assert "(24.9 %)" in str(error) or "(25.0 %)" in str(error)
    assert error.expected == f"{len(content)} bytes as its header says, found {len(content) // 4}"
    tiny_file.write_bytes(content[:-1])
    assert "(99.9 %)" in str(unreadable(tiny_file)), "what is incomplete never reads 100 %"


def test_a_header_that_broke_off(tiny_file: Path) -> None:
    tiny_file.write_bytes(tiny_file.read_bytes()[:1000])
    assert "is incomplete: 1000 B of at least " in str(unreadable(tiny_file))


def test_a_pytorch_archive_that_broke_off(tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    assert "incomplete, its end is missing" in str(unreadable(path))


class _Payload:
    """Pickled, this asks the reader to make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["torch.save", "legacy", "bare pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, made = tmp_path / "hostile.pt", tmp_path / "made"
    payload = {"a": torch.zeros(1), "b": _Payload(made)}
    if how == "bare pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=how == "torch.save")
    unreadable(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(1)],
        torch.zeros(1),
        {},
        {"model": {"a": 1.0}},
        {"a": torch.zeros(2), "b": "text"},
        {"a": torch.eye(2).to_sparse()},
        {"a": torch.zeros(2, device="meta")},
    ],
    ids=["list", "tensor", "empty", "numbers", "text", "sparse", "meta"],
)
def test_a_pytorch_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "odd.pt"
    torch.save(content, path)
    assert "holds no state dict" in str(unreadable(path))


def test_keys_that_are_no_text_are_named_like_text(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    torch.save({1: torch.zeros(2), "a": torch.zeros(2)}, path)
    assert list(read_weights(path).tensors) == ["1", "a"]


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """Mapped into memory, its compressed bytes would be taken for weights."""
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.zeros(100)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "compressed" in str(unreadable(packed))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}',
        b'{"a": {"dtype": "F32", "shape": [18446744073709551615, 2], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "XX", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}',
        b'{"__metadata__": {"vggt_edge.config": 3}}',
    ],
    ids=range(11),
)
def test_hostile_safetensors_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    unreadable(path)


def test_a_header_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    unreadable(path)


@pytest.mark.parametrize("text", ["{", "[" * 50_000, "{}", json.dumps({"depth": 10**9})])
def test_hostile_metadata_names_the_file_and_the_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hostile.safetensors"
    save_file({name: torch.zeros(1) for name in ARCHITECTURE.keys}, path, metadata={CONFIG_KEY: text})
    error = unreadable(path)
    assert "describes no vggt" in str(error)
    assert CONFIG_KEY in error.where


def test_the_metadata_of_random_weights_is_not_shown_unseen(tmp_path: Path) -> None:
    for said, shown in (("seed 12", "seed 12"), ("seed <b>", "seed unknown"), ("", ""), ("seed -1", "seed -1")):
        path = tmp_path / "random.safetensors"
        save_file({"a": torch.zeros(1)}, path, metadata={RANDOM_KEY: said})
        assert read_weights(path).random == shown


# --- what is read, and where it lies


def test_a_digest_is_that_of_the_files_in_order(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("a", "b")]
    for part, content in zip(parts, (b"x" * 3_000_000, b"yz"), strict=True):
        part.write_bytes(content)
    calls: list[tuple[int, int]] = []
    digest = file_digest(*parts, on_progress=lambda done, total: calls.append((done, total)))
    assert digest == hashlib.sha256(b"x" * 3_000_000 + b"yz").hexdigest()
    assert calls[-1] == (3_000_002, 3_000_002)
    assert calls == sorted(calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_tensors_keep_their_type_and_are_views_of_the_file(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    """Not a copy: were it one, what is written into the file afterwards would not be seen."""
    path, ones = tmp_path / f"x{suffix}", torch.ones(100_000, dtype=dtype)
    if suffix == ".pt":
        torch.save({"a": ones}, path)
    else:
        save_file({"a": ones}, path)
    mapped = read_weights(path).tensors["a"]
    assert mapped.dtype == dtype
    content, pattern = path.read_bytes(), ones[:1000].view(torch.uint8).numpy().tobytes()
    with path.open("r+b") as stream:
        stream.seek(content.index(pattern) + 50_000)
        stream.write(bytes(4))
    assert int((mapped == 0).sum()) == 4 // dtype.itemsize


# --- memory

_PEAK = """
import dataclasses, json, sys
from pathlib import Path
from vggt_edge.exporter.models.checkpoint import build_model, read_checkpoint
from vggt_edge.exporter.models.config import InputShape, config_from_json
from vggt_edge.exporter.models.registry import MINI_WEIGHTS
def anonymous_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
build_model(read_checkpoint(MINI_WEIGHTS), InputShape(1, 28, 28), ("camera",))  # imports more than the weights weigh
before = anonymous_kib()
lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
file_backed = int(lines["RssFile"].split()[0])
checkpoint = dataclasses.replace(read_checkpoint(Path(sys.argv[1])), config=config_from_json(sys.argv[2]))
model = build_model(checkpoint, InputShape(1, 28, 28), ("camera",))
lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
resident = int(lines["RssFile"].split()[0]) - file_backed
print(json.dumps([before, anonymous_kib(), sum(p.nbytes for p in model.parameters()) // 1024, resident]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of anonymous memory")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_loading_holds_the_weights_once(tmp_path: Path, suffix: str) -> None:
    """Mapped from the file, FP32 weights take next to no memory of the process: neither a copy nor random ones."""
    config = VGGTConfig(name="wide", embed_dim=512, dino_depth=2, depth=4, heads=8, taps=(0, 1, 2, 3), position_grid=4)
    model = VGGT(config, InputShape(1, 28, 28), ("camera",))
    path = tmp_path / ("wide" + suffix)
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_checkpoint(model.state_dict(), config, path)
    command = [sys.executable, "-c", _PEAK, str(path), config_to_json(config)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, weights, resident = json.loads(finished.stdout)
    assert weights > 200_000
    assert after - before < weights / 4
    assert resident < weights / 3, "the scan for NaN gives back what it has read"

"""StreamVGGT: no frame depends on a later one, and weights that look like VGGT's are told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.exporter.models.checkpoint import ARCHITECTURE_KEY, CONFIG_KEY, read_checkpoint
from vggt_edge.exporter.models.config import VGGTConfig, config_to_json
from vggt_edge.exporter.models.streamvggt import StreamVGGT
from vggt_edge.exporter.models.vggt import VGGT

Build = Callable[..., VGGT]
Images = Callable[..., Tensor]


@pytest.fixture(scope="module")
def state(build_tiny: Build) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in build_tiny(2, 42, 42).state_dict().items()}


def test_later_frames_change_nothing(build_tiny: Build, random_images: Images) -> None:
    images = random_images(1, 3, 3, 28, 42)
    longer = build_tiny(3, 28, 42, kind=StreamVGGT)(images)
    for frames in (1, 2):
        shorter = build_tiny(frames, 28, 42, kind=StreamVGGT)(images[:, :frames])
        for few, many in zip(shorter, longer, strict=True):
            torch.testing.assert_close(few, many[:, :frames])


def test_one_frame_is_what_vggt_makes_of_it(build_tiny: Build, random_images: Images) -> None:
    images = random_images(1, 1, 3, 28, 42)
    for ours, theirs in zip(build_tiny(1, 28, 42, kind=StreamVGGT)(images), build_tiny(1, 28, 42)(images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("source", "asked", "metadata", "found", "said"),
    [
        ("someone/tuned", None, {}, "vggt", "--architecture streamvggt"),
        ("facebook/VGGT-1B", None, {}, "vggt", ""),
        ("lch01/StreamVGGT", None, {}, "streamvggt", "by its name"),
        ("lch01/StreamVGGT", "vggt", {}, "vggt", ""),
        ("someone/tuned", "streamvggt", {}, "streamvggt", ""),
        ("someone/tuned", None, {ARCHITECTURE_KEY: "streamvggt"}, "streamvggt", ""),
    ],
)
def test_told_apart_by_name_metadata_or_the_user(
    state: dict[str, Tensor],
    tmp_path: Path,
    source: str,
    asked: str | None,
    metadata: dict[str, str],
    found: str,
    said: str,
) -> None:
    save_file(state, tmp_path / "model.safetensors", metadata)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors", source=source, architecture=asked)
    assert checkpoint.architecture.name == found
    assert len(checkpoint.notes) == bool(said)
    assert said in "".join(checkpoint.notes)


def test_a_wrong_name_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UnknownNameError, match="dust3r"):
        read_checkpoint(tmp_path / "model.safetensors", architecture="dust3r")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="fit no architecture"):
        read_checkpoint(tmp_path / "other.safetensors", architecture="streamvggt")


def test_the_whole_command(
    vggt_edge: Callable[..., Any], state: dict[str, Tensor], tiny_config: VGGTConfig, tmp_path: Path
) -> None:
    """ONNX Runtime computes what our causal model does: the gates against FP32 would fail otherwise."""
    save_file(state, tmp_path / "tiny.safetensors", {CONFIG_KEY: config_to_json(tiny_config)})
    few = (
        "--frames",
        "2",
        "--resolution",
        "42",
        "--calibration-scenes",
        "1",
        "--validation-scenes",
        "1",
        "--effort",
        "none",
    )
    asked = ("--model", tmp_path / "tiny.safetensors", "--architecture", "streamvggt", "--precision", "fp32")
    finished = vggt_edge("export", "--target", "host-cpu", *asked, *few, "-o", tmp_path / "out", "--json")
    assert finished.code == 0, finished.err
    assert 'architecture = "streamvggt"' in (tmp_path / "out" / "resolved.toml").read_text()

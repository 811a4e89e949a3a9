"""Depth Anything 3: the numbers of its authors' code, what its files hold, and the heads that may be left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.calibration.metrics.geometry import decode_pose
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.architectures import recognise
from vggt_edge.exporter.models.checkpoint import CONFIG_KEY, build_model, read_checkpoint, save_checkpoint
from vggt_edge.exporter.models.depth_anything_3 import ARCHITECTURE, DepthAnything3
from vggt_edge.exporter.models.depth_anything_3_layers import KNOWN, DepthAnything3Config
from vggt_edge.runtimes.common.kit import script_module

Images = Callable[..., Tensor]
tiny = script_module(Path(__file__).parent / "tiny" / "depth_anything_3.py", "tiny.depth_anything_3")
TINY = tiny.CONFIG


@cache
def build(frames: int, height: int, width: int, heads: tuple[str, ...] = ARCHITECTURE.heads) -> DepthAnything3:
    """float64, the same weights for every shape; not to be changed."""
    model = ARCHITECTURE.build(TINY, ARCHITECTURE.shape(frames, height, width), heads).double()
    model.load_state_dict({name: tiny.drawn(name, tensor) for name, tensor in model.state_dict().items()})
    return model.fix_constants()


# What the authors' code puts out for these weights and images: the mean, and every fourth part of the flat tensor.
GOLDEN: Mapping[tuple[int, int, int], Mapping[str, tuple[float, ...]]] = {
    (2, 28, 42): {
        "extrinsics": (0.0866375, 0.0267681, 0.67805, -0.270488, 0.585965),
        "intrinsics": (11.9713, 47.0664, 23.4259, 1, 0),
        "depth": (0.407439, 0.5901, 0.698687, 0.563674, 0.42244),
        "depth_conf": (10.6118, 2.67134, 4.66371, 2.69438, 3.644),
        "rays": (-0.0725184, -0.060748, 0.794691, -0.850019, 0.592784),
        "ray_conf": (3.37777, 5.13621, 2.77538, 2.86249, 2.83142),
    },
    (3, 42, 42): {
        "extrinsics": (-0.07886, 0.0985607, -0.280978, 0.529381, -2.76171),
        "intrinsics": (13.643, 45.3982, 0, 0, 46.3807),
        "depth": (0.56039, 1.05931, 0.683584, 0.5901, 0.436169),
        "depth_conf": (30.4756, 3.11174, 6.86391, 6.01568, 15.6311),
        "rays": (0.222248, -1.1962, 0.935642, 0.578015, 0.321848),
        "ray_conf": (3.82929, 2.64771, 2.97321, 3.46129, 3.16913),
    },
}


@pytest.mark.parametrize("shape", GOLDEN)
def test_the_numbers_of_the_authors_code(shape: tuple[int, int, int], random_images: Images) -> None:
    """Made with their modules in the sizes of TINY; frame 0 is the reference view."""
    model = build(*shape)
    values = dict(zip(model.output_names, model(random_images(1, shape[0], 3, *shape[1:])), strict=True))
    cameras = decode_pose(values["pose_enc"][0].numpy(), shape[1:])
    values |= zip(("extrinsics", "intrinsics"), map(torch.from_numpy, cameras), strict=True)
    for name, (mean, *parts) in GOLDEN[shape].items():
        flat = values[name].flatten()
        found = [flat.mean(), *flat[:: len(flat) // 4][:4]]
        assert torch.stack(found).tolist() == pytest.approx([mean, *parts], rel=1e-4, abs=1e-5), name


def test_the_outputs_have_the_declared_shapes() -> None:
    model = build(1, 28, 42)
    for output, value in zip(model.outputs, model(model.example_input().double()), strict=True):
        assert tuple(value.shape) == output.shape(1, 28, 42), output.name


@pytest.mark.parametrize("heads", [("camera",), ("depth",), ("rays",), ("camera", "rays")])
def test_a_head_left_out_changes_no_other(heads: tuple[str, ...], random_images: Images) -> None:
    images = random_images(1, 2, 3, 28, 42)
    whole, few = build(2, 28, 42), build(2, 28, 42, heads)
    wanted = dict(zip(whole.output_names, whole(images), strict=True))
    for name, value in zip(few.output_names, few(images), strict=True):
        assert torch.equal(value, wanted[name]), name


def test_the_exact_transforms_leave_the_outputs(random_images: Images) -> None:
    model, images = build(2, 28, 42), random_images(1, 2, 3, 28, 42)
    turned = prepare(model, seed=0, heads=True)
    assert not torch.equal(turned.transformer.blocks[3].attn.qkv.weight, model.transformer.blocks[3].attn.qkv.weight)
    for one, other in zip(model(images), turned(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_saved() -> dict[str, Tensor]:
    """Named as in the authors' files: a prefix, what only training needs, a shared norm under its first name."""
    state = {name: tensor.float() for name, tensor in build(2, 28, 42).state_dict().items()}
    for part in ("weight", "bias"):
        first = f"head.scratch.output_conv2_aux.0.2.{part}"
        state[first] = state.pop(f"head.scratch.output_conv2_aux.3.2.{part}")
        state |= {f"{unread}.{part}": torch.ones(3) for unread in ("head.scratch.output_conv1_aux.1.0", "cam_enc.norm")}
    return {f"model.{name}": tensor for name, tensor in state.items()}


SAID = {CONFIG_KEY: ARCHITECTURE.write_config(TINY)}


def test_the_authors_files_are_recognised_and_loaded_strictly(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.architecture is ARCHITECTURE
    assert checkpoint.heads(None) == ("camera", "depth", "rays")
    loaded = build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None)).state_dict()
    for name, tensor in build(2, 28, 42).state_dict().items():
        assert torch.equal(loaded[name], tensor.float()), name


def test_a_missing_tensor_is_named(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    del as_saved["model.backbone.pretrained.blocks.4.attn.q_norm.weight"]
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing \(backbone.pretrained.blocks.4.attn.q_norm.weight\)"):
        build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None))


def test_without_the_camera_token_the_nearest_is_named() -> None:
    with pytest.raises(InputError, match=r"nearest is depth_anything_3, but it lacks 1 of 5 .*camera_token"):
        recognise(set(ARCHITECTURE.keys[1:]), "some.safetensors")


@pytest.mark.parametrize("config", KNOWN, ids=lambda config: config.name)
def test_the_size_is_told_by_the_tensors(config: DepthAnything3Config) -> None:
    with torch.device("meta"):
        state = ARCHITECTURE.build(config, ARCHITECTURE.shape(1, 28, 28), ARCHITECTURE.heads).state_dict()
    assert ARCHITECTURE.default_config(state) == config
    assert ARCHITECTURE.sizes(state) == {"embed dim": config.embed_dim, "blocks": config.depth}


def test_a_size_that_is_not_supported_is_refused(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    """DA3-GIANT is 1536 wide."""
    save_file(as_saved, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"size that is not supported: embed dim 32, 6 blocks; .*da3-large with 1024"):
        read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embed_dim": 30}, "2 heads"),
        ({"taps": [2, 3, 4, 4]}, "do not rise"),
        ({"alternating_from": 3}, "alternating_from 3"),
        ({"depth": 0}, "implausibly"),
        ({"dpt_features": 12}, "multiples of 8"),
        ({"wings": 2}, "wings"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(change: dict[str, Any], said: str) -> None:
    text = json.dumps(json.loads(ARCHITECTURE.write_config(TINY)) | change)
    with pytest.raises(ValueError, match=said):
        ARCHITECTURE.read_config(text)


def test_a_configuration_of_another_size_is_said_first(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors", {CONFIG_KEY: ARCHITECTURE.write_config(KNOWN[0])})
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="it has embed dim 32 and 6 blocks, expected 384 and 12"):
        build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None))


def test_the_terms_of_the_large_weights_are_noted() -> None:
    assert any("CC BY-NC 4.0" in note for note in ARCHITECTURE.notes("depth-anything/DA3-LARGE"))
    assert not any("CC BY-NC" in note for note in ARCHITECTURE.notes("depth-anything/DA3-SMALL"))


def test_the_whole_command(vggt_edge: Callable[..., Any], tmp_path: Path) -> None:
    """ONNX Runtime computes what our model does, and every output has its gate."""
    save_checkpoint(build(2, 28, 42).state_dict(), TINY, tmp_path / "tiny.safetensors")
    finished = vggt_edge(
        "export", "--model", tmp_path / "tiny.safetensors", "--target", "host-cpu", "--precision", "fp32",
        "--frames", "2", "--resolution", "42", "--calibration-scenes", "1", "--validation-scenes", "1",
        "--effort", "none", "--json", "-o", tmp_path / "out",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    report = json.loads((tmp_path / "out" / "validation.json").read_text())
    gated = {row["output"] for row in report["rows"] if row["tolerance_key"] and row["against"] == "fp32"}
    assert gated == {"pose_enc", "depth", "depth_conf", "rays", "ray_conf"}

"""VGGT-Omega: the numbers of its authors' code, what its files hold, and the heads that may be left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from vggt_edge.exporter.models.vggt_omega import ARCHITECTURE, VGGTOmega
from vggt_edge.exporter.models.vggt_omega_layers import VGGTOmegaConfig
from vggt_edge.runtimes.common.kit import script_module

tiny = script_module(Path(__file__).parent / "tiny" / "vggt_omega.py", "tiny.vggt_omega")
TINY = tiny.CONFIG
BIAS = ".attn.qkv.bias"
Images = Callable[..., Tensor]


def masks_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As in the authors' files: 0 for the biases of keys, 1 for those of queries and values."""
    keep = torch.tensor([1.0, 0.0, 1.0])
    return {
        f"{name}_mask": keep.repeat_interleave(len(bias) // 3) for name, bias in state.items() if name.endswith(BIAS)
    }


@cache
def build(frames: int, height: int, width: int, heads: tuple[str, ...] = ARCHITECTURE.heads) -> VGGTOmega:
    """float64, the same weights for every shape; not to be changed."""
    model = ARCHITECTURE.build(TINY, ARCHITECTURE.shape(frames, height, width), heads).double()
    state = {name: tiny.drawn(name, tensor) for name, tensor in model.state_dict().items()}
    model.load_state_dict(ARCHITECTURE.adapted(state | masks_of(state)))
    return model.fix_constants()


# What the authors' code puts out for these weights and images: the mean, and every fourth part of the flat tensor.
GOLDEN: Mapping[tuple[int, int, int], Mapping[str, tuple[float, ...]]] = {
    (2, 32, 48): {
        "extrinsics": (0.536663, -0.0189241, 0.0213539, 0.0105707, -0.0052485),
        "intrinsics": (10.6619, 36.2706, 17.7501, 1, 0),
        "depth": (6.36618, 0.606537, 1.0466, 0.694641, 0.758),
        "depth_conf": (9.30885, 3.42197, 5.83954, 2.69342, 5.78649),
    },
    (3, 48, 48): {
        "extrinsics": (0.536719, -0.0143862, 0.820745, 0.0202711, 1.25993),
        "intrinsics": (12.5198, 36.2716, 0, 0, 38.3967),
        "depth": (5.96168, 1.04265, 0.84392, 1.66336, 1.45099),
        "depth_conf": (5.89365, 4.67555, 6.12706, 8.04387, 4.88711),
    },
}


@pytest.mark.parametrize("shape", GOLDEN)
def test_the_numbers_of_the_authors_code(shape: tuple[int, int, int], random_images: Images) -> None:
    """Made with their modules in the sizes of TINY."""
    model = build(*shape)
    values = dict(zip(model.output_names, model(random_images(1, shape[0], 3, *shape[1:])), strict=True))
    cameras = decode_pose(values["pose_enc"][0].numpy(), shape[1:])
    values |= zip(("extrinsics", "intrinsics"), map(torch.from_numpy, cameras), strict=True)
    for name, (mean, *parts) in GOLDEN[shape].items():
        flat = values[name].flatten()
        found = [flat.mean(), *flat[:: len(flat) // 4][:4]]
        assert torch.stack(found).tolist() == pytest.approx([mean, *parts], rel=1e-4, abs=1e-5), name


def test_the_outputs_have_the_declared_shapes() -> None:
    model = build(1, 32, 48)
    for output, value in zip(model.outputs, model(model.example_input().double()), strict=True):
        assert tuple(value.shape) == output.shape(1, 32, 48), output.name


@pytest.mark.parametrize("heads", [("camera",), ("depth",)])
def test_a_head_left_out_changes_no_other(heads: tuple[str, ...], random_images: Images) -> None:
    images = random_images(1, 2, 3, 32, 48)
    whole, few = build(2, 32, 48), build(2, 32, 48, heads)
    wanted = dict(zip(whole.output_names, whole(images), strict=True))
    for name, value in zip(few.output_names, few(images), strict=True):
        assert torch.equal(value, wanted[name]), name


def test_patches_pass_a_register_block_by(random_images: Images) -> None:
    """Nothing but camera and register tokens differs behind it."""
    stage = next(stage for stage in build(2, 32, 48).stages() if stage.kind == "register")
    x = random_images(2 * 23, 32)
    (found,) = stage.run(stage.module, x)
    is_equal = (found == x).all(dim=1).view(2, 23)
    assert not is_equal[:, :17].any()
    assert is_equal[:, 17:].all()


def test_the_exact_transforms_leave_the_outputs(random_images: Images) -> None:
    model, images = build(2, 32, 48), random_images(1, 2, 3, 32, 48)
    turned = prepare(model, seed=0, heads=True)
    for path in ("aggregator.inter_frame_blocks.1.attn.qkv", "camera_head.trunk.1.attn.qkv"):
        assert not torch.allclose(turned.get_parameter(f"{path}.weight"), model.get_parameter(f"{path}.weight"))
    for one, other in zip(model(images), turned(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_two_inputs_at_once_are_each_alone(random_images: Images) -> None:
    model, images = build(2, 32, 48), random_images(2, 2, 3, 32, 48)
    for index, value in enumerate(zip(*map(model, images.split(1)), strict=True)):
        torch.testing.assert_close(model(images)[index], torch.cat(value))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_saved() -> dict[str, Tensor]:
    """As in the authors' files: masks beside biases that they make zero, a head for text, a token for training only."""
    state = {name: tensor.float() for name, tensor in build(2, 32, 48).state_dict().items()}
    masks = masks_of(state)
    for name, mask in masks.items():
        bias = name.removesuffix("_mask")
        state[bias] = state[bias] + (1 - mask)
    unread = ("text_alignment_head.language_token", "aggregator.patch_embed.mask_token")
    return state | masks | {name: torch.ones(1, 32) for name in unread}


SAID = {CONFIG_KEY: ARCHITECTURE.write_config(TINY)}


def test_the_authors_files_are_recognised_and_loaded_strictly(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.architecture is ARCHITECTURE
    assert checkpoint.heads(None) == ("camera", "depth")
    loaded = build_model(checkpoint, ARCHITECTURE.shape(2, 32, 48), checkpoint.heads(None)).state_dict()
    for name, tensor in build(2, 32, 48).state_dict().items():
        assert torch.equal(loaded[name], tensor.float()), name


def test_positions_follow_the_periods_of_the_file(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    as_saved["aggregator.rope_embed.periods"] *= 2
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    loaded = build_model(checkpoint, ARCHITECTURE.shape(2, 32, 48), checkpoint.heads(None)).constants()
    whole = build(2, 32, 48).constants()
    assert not torch.allclose(loaded["frame_sin"], whole["frame_sin"].float())
    assert torch.allclose(loaded["dino_sin"], whole["dino_sin"].float())


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "other values than 0 and 1"), (0.5, "other values")])
def test_masks_that_are_none_are_refused(as_saved: dict[str, Tensor], tmp_path: Path, value: float, said: str) -> None:
    """The authors' modules are built with NaN there, which only a trained file replaces."""
    as_saved[f"aggregator.frame_blocks.0{BIAS}_mask"].fill_(value)
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    with pytest.raises(InputError, match=rf"vggt_omega: aggregator.frame_blocks.0.*bias_mask holds {said}"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_a_missing_tensor_is_named(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    del as_saved["aggregator.inter_frame_blocks.2.attn.q_norm.weight"]
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing \(aggregator.inter_frame_blocks.2.attn.q_norm.weight\)"):
        build_model(checkpoint, ARCHITECTURE.shape(2, 32, 48), checkpoint.heads(None))


def test_without_the_storage_tokens_the_nearest_is_named() -> None:
    names = {key for key in ARCHITECTURE.keys if "storage" not in key}
    with pytest.raises(InputError, match=r"nearest is vggt_omega, but it lacks 1 of 5 .*storage_tokens"):
        recognise(names, "some.safetensors")


@pytest.mark.parametrize(("text", "resolution"), [(False, 512), (True, 256)])
def test_the_size_is_told_by_the_tensors(text: bool, resolution: int) -> None:
    with torch.device("meta"):
        state = ARCHITECTURE.build(VGGTOmegaConfig(), ARCHITECTURE.shape(1, 16, 16), ("camera",)).state_dict()
        state |= {"text_alignment_head.language_token": torch.zeros(1, 1, 2048)} if text else {}
    config = ARCHITECTURE.default_config(state)
    assert config == replace(VGGTOmegaConfig(), name=config.name, native_resolution=resolution)
    assert ARCHITECTURE.sizes(state)["inter-frame blocks"] == 24


def test_a_size_that_is_not_supported_is_refused(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="not supported: embed dim 32, 4 frame blocks; supported: 1B with 1024 and 24"):
        read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embed_dim": 36}, "2 and 4 heads"),
        ({"taps": [0, 1, 2, 2]}, "do not rise"),
        ({"register_blocks": [4]}, r"register_blocks \(4,\)"),
        ({"depth": 0}, "implausibly"),
        ({"dpt_features": 18}, "multiples of 4"),
        ({"native_resolution": 40}, "no multiple of 16"),
        ({"wings": 2}, "wings"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(change: dict[str, Any], said: str) -> None:
    text = json.dumps(json.loads(ARCHITECTURE.write_config(TINY)) | change)
    with pytest.raises(ValueError, match=said):
        ARCHITECTURE.read_config(text)


def test_a_configuration_of_another_size_is_said_first(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    said = {CONFIG_KEY: ARCHITECTURE.write_config(replace(TINY, embed_dim=64, dino_depth=3))}
    save_file(as_saved, tmp_path / "model.safetensors", said)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="it has embed dim 32 and 2 DINO blocks, expected 64 and 3"):
        build_model(checkpoint, ARCHITECTURE.shape(2, 32, 48), checkpoint.heads(None))


def test_the_terms_of_the_weights_are_noted(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    assert any("no commercial use" in note for note in ARCHITECTURE.notes("facebook/VGGT-Omega"))


def test_the_whole_command(vggt_edge: Callable[..., Any], tmp_path: Path) -> None:
    """ONNX Runtime computes what our model does, and every output has its gate."""
    save_checkpoint(build(2, 32, 48).state_dict(), TINY, tmp_path / "tiny.safetensors")
    finished = vggt_edge(
        "export", "--model", tmp_path / "tiny.safetensors", "--target", "host-cpu", "--precision", "fp32",
        "--frames", "2", "--resolution", "48", "--calibration-scenes", "1", "--validation-scenes", "1",
        "--effort", "none", "--json", "-o", tmp_path / "out",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    report = json.loads((tmp_path / "out" / "validation.json").read_text())
    gated = {row["output"] for row in report["rows"] if row["tolerance_key"] and row["against"] == "fp32"}
    assert gated == {"pose_enc", "depth", "depth_conf"}

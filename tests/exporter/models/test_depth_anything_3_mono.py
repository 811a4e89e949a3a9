"""The monocular Depth Anything 3: the numbers of its authors' code, what its files hold, independent pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.checkpoint import CONFIG_KEY, build_model, read_checkpoint
from vggt_edge.exporter.models.depth_anything_3_mono import (
    ARCHITECTURE,
    DepthAnything3Mono,
    DepthAnything3MonoConfig,
)
from vggt_edge.runtimes.common.kit import script_module

Images = Callable[..., Tensor]
tiny = script_module(Path(__file__).parent / "tiny" / "depth_anything_3_mono.py", "tiny.depth_anything_3_mono")
NORM = "backbone.pretrained.norm"


@cache
def build(frames: int, height: int, width: int, heads: tuple[str, ...] = ARCHITECTURE.heads) -> DepthAnything3Mono:
    """float64, the same weights for every shape; not to be changed."""
    model = ARCHITECTURE.build(tiny.CONFIG, ARCHITECTURE.shape(frames, height, width), heads).double()
    model.load_state_dict({name: tiny.drawn(name, tensor) for name, tensor in model.state_dict().items()})
    return model.fix_constants()


# What the authors' code puts out for these weights and images: the mean, and every fourth part of the flat tensor.
GOLDEN: Mapping[tuple[int, int, int], Mapping[str, tuple[float, ...]]] = {
    (1, 28, 42): {
        "depth": (0.492835, 0.677182, 0.706817, 0.801464, 0.803092),
        "sky": (0.915925, 0.815735, 0.587698, 0.2817, 0.322299),
    },
    (2, 42, 42): {
        "depth": (0.553654, 0.726437, 0.665909, 0.685128, 0.668601),
        "sky": (0.570186, 0.419477, 0.103436, 1.15105, 0.901583),
    },
    (1, 42, 56): {
        "depth": (0.522456, 0.499225, 0.355408, 0.514765, 0.498637),
        "sky": (0.271713, 1.21016, 0.0, 0.236469, 0.714845),
    },
}


@pytest.mark.parametrize("shape", GOLDEN)
def test_the_numbers_of_the_authors_code(shape: tuple[int, int, int], random_images: Images) -> None:
    """Made with their modules in the sizes of the tiny model."""
    model = build(*shape)
    values = dict(zip(model.output_names, model(random_images(1, shape[0], 3, *shape[1:])), strict=True))
    for name, (mean, *parts) in GOLDEN[shape].items():
        flat = values[name].flatten()
        found = [flat.mean(), *flat[:: len(flat) // 4][:4]]
        assert torch.stack(found).tolist() == pytest.approx([mean, *parts], rel=1e-5, abs=1e-6), name


def test_frames_are_pictures_on_their_own(random_images: Images) -> None:
    images = random_images(1, 2, 3, 42, 42)
    together = build(2, 42, 42)(images)
    for frame in range(2):
        for one, both in zip(build(1, 42, 42)(images[:, frame : frame + 1]), together, strict=True):
            torch.testing.assert_close(one[:, 0], both[:, frame])


def test_the_outputs_have_the_declared_shapes() -> None:
    model = build(1, 28, 42)
    for output, value in zip(model.outputs, model(model.example_input().double()), strict=True):
        assert tuple(value.shape) == output.shape(1, 28, 42), output.name


@pytest.mark.parametrize("head", ARCHITECTURE.heads)
def test_a_head_left_out_changes_no_other(head: str, random_images: Images) -> None:
    images = random_images(1, 1, 3, 28, 42)
    whole, few = build(1, 28, 42), build(1, 28, 42, (head,))
    assert few.output_names == (head,)
    assert torch.equal(few(images)[0], whole(images)[whole.output_names.index(head)])


def test_the_exact_transforms_leave_the_outputs(random_images: Images) -> None:
    """The last norm is folded into the head as well, and the stream rotates up to the head without a turn."""
    model, images = build(1, 28, 42), random_images(1, 1, 3, 28, 42)
    turned = prepare(model, seed=0, heads=True)
    assert torch.equal(turned.head.norm.weight, torch.ones_like(turned.head.norm.weight))
    assert not torch.equal(turned.head.projects[0].weight, model.head.projects[0].weight)
    for one, other in zip(model(images), turned(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_saved() -> dict[str, Tensor]:
    """Named as in the authors' files: a prefix, and the last norm in the backbone."""
    state = {name: tensor.float() for name, tensor in build(1, 28, 42).state_dict().items()}
    return {f"model.{name.replace('head.norm', NORM)}": tensor for name, tensor in state.items()}


SAID = {CONFIG_KEY: ARCHITECTURE.write_config(tiny.CONFIG)}


def test_the_authors_files_are_recognised_and_loaded_strictly(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.architecture is ARCHITECTURE
    assert checkpoint.heads(None) == ("depth", "sky")
    for heads in (("depth", "sky"), ("depth",), ("sky",)):
        loaded = build_model(checkpoint, ARCHITECTURE.shape(1, 28, 42), heads).state_dict()
        for name, tensor in build(1, 28, 42, heads).state_dict().items():
            assert torch.equal(loaded[name], tensor.float()), name


@pytest.mark.parametrize(
    "missing", ["backbone.pretrained.blocks.3.norm2.bias", "head.scratch.refinenet4.out_conv.bias"]
)
def test_a_missing_tensor_is_named(missing: str, as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    del as_saved[f"model.{missing}"]
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"1 missing \({missing}\)"):
        build_model(checkpoint, ARCHITECTURE.shape(1, 28, 42), checkpoint.heads(None))


def test_the_size_is_told_by_the_tensors(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    with torch.device("meta"):
        large = ARCHITECTURE.build(DepthAnything3MonoConfig(), ARCHITECTURE.shape(1, 28, 28), ARCHITECTURE.heads)
    assert ARCHITECTURE.default_config(large.state_dict()) == DepthAnything3MonoConfig()
    save_file(as_saved, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"not supported: embed dim 32, 4 blocks; supported: da3-mono-large with 1024"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_taps_outside_the_blocks_are_refused() -> None:
    text = json.dumps(json.loads(ARCHITECTURE.write_config(tiny.CONFIG)) | {"taps": [-1, 1, 2, 3]})
    with pytest.raises(ValueError, match="do not rise"):
        ARCHITECTURE.read_config(text)


def test_the_unit_of_the_depth_is_noted() -> None:
    assert ARCHITECTURE.notes("depth-anything/DA3MONO-LARGE") == ()
    for origin in ("depth-anything/DA3METRIC-LARGE", "tuned.safetensors"):
        assert "focal length in pixels / 300 is in metres" in ARCHITECTURE.notes(origin)[0]


@pytest.mark.slow
def test_the_whole_command(vggt_edge: Callable[..., Any], as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    """A single picture by default; ONNX Runtime computes what our model does, and every output has its gate."""
    save_file(as_saved, tmp_path / "tiny.safetensors", SAID)
    finished = vggt_edge(
        "export", "--model", tmp_path / "tiny.safetensors", "--target", "host-cpu", "--precision", "fp32",
        "--resolution", "42", "--calibration-scenes", "1", "--validation-scenes", "1",
        "--effort", "none", "--json", "-o", tmp_path / "out",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    rows = json.loads((tmp_path / "out" / "validation.json").read_text())["rows"]
    gated = {row["output"]: row["metric"] for row in rows if row["tolerance_key"] and row["against"] == "fp32"}
    assert gated == {"depth": "scale_error", "sky": "changed"}
    images = load_file(tmp_path / "out" / "golden.safetensors")["input/images"]
    assert images.shape == (1, 1, 3, 42, 42)

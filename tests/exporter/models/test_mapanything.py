"""MapAnything: the numbers of its authors' code, what its files hold, and the heads that may be left out."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.calibration.transforms.prepare import prepare, prepared_shapes
from vggt_edge.calibration.transforms.rewrite import take_form
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.graph.build import write_onnx
from vggt_edge.exporter.models.architectures import recognise
from vggt_edge.exporter.models.checkpoint import CONFIG_KEY, build_model, read_checkpoint
from vggt_edge.exporter.models.mapanything import ARCHITECTURE, MapAnything
from vggt_edge.exporter.models.mapanything_layers import KNOWN, MapAnythingConfig
from vggt_edge.exporter.models.ray_geometry import FieldOfView
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.runtimes.common.halves import to_half
from vggt_edge.runtimes.common.kit import script_module

tiny = script_module(Path(__file__).parent / "tiny" / "mapanything.py", "tiny.mapanything")
TINY = tiny.CONFIG
V1 = replace(TINY, name="tiny-v1", embed_dim=16, depth=5, encoder_dim=32, continued=False)
SIZES = {config.name: config for config in (TINY, V1)}
Images = Callable[..., Tensor]


@cache
def build(
    frames: int, height: int, width: int, config: MapAnythingConfig = TINY, heads: tuple[str, ...] = ARCHITECTURE.heads
) -> MapAnything:
    """float64, the same weights for every shape; not to be changed."""
    model = ARCHITECTURE.build(config, ARCHITECTURE.shape(frames, height, width), heads).double()
    model.load_state_dict({name: tiny.drawn(name, tensor) for name, tensor in model.state_dict().items()})
    return model.fix_constants()


# What the authors' code puts out for these weights and images: the mean, and every fourth part of the flat tensor.
GOLDEN: Mapping[tuple[str, int, int, int], Mapping[str, tuple[float, ...]]] = {
    ("tiny", 2, 28, 42): {
        "pose_enc": (0.100934, -1.15526, 0.534295, 0.569153, 0.556939),
        "depth": (0.538899, 0.689863, 0.412917, 0.496836, 0.342112),
        "depth_conf": (1.74102, 2.27075, 2.26442, 2.36439, 2.34907),
        "points": (0.687289, 0.955739, 0.791288, 0.898788, 0.860371),
        "sky": (0.0697807, 0.0687083, 0.0402349, 0.0678703, 0.041108),
    },
    ("tiny", 3, 42, 42): {
        "pose_enc": (0.0572605, -1.18892, 0.0633231, 0.53466, -0.716157),
        "depth": (0.369922, 0.876776, 0.443905, 0.923531, 0.335681),
        "depth_conf": (1.46256, 2.02308, 1.3904, 2.10993, 1.32985),
        "points": (0.694017, 0.840746, 0.792133, 1.00837, 0.812183),
        "sky": (0.0424841, 0.07578, 0.022851, 0.0615743, 0.0367464),
    },
    ("tiny-v1", 2, 42, 28): {
        "pose_enc": (0.0539296, -0.261019, 0.891908, -0.0899227, 0.151407),
        "depth": (0.347815, 0.444375, 0.391124, 0.216317, 0.0872348),
        "depth_conf": (1.69813, 2.16326, 2.3343, 2.49851, 3.03349),
        "points": (0.181365, 0.289237, 0.360565, 0.539768, 0.489582),
        "sky": (0.0688317, 0.0684529, 0.0503993, 0.057756, 0.0388802),
    },
}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_numbers_of_the_authors_code(case: tuple[str, int, int, int], random_images: Images) -> None:
    """Made with their modules in the sizes of TINY and V1."""
    name, *shape = case
    model = build(*shape, SIZES[name])
    values = dict(zip(model.output_names, model(random_images(1, shape[0], 3, *shape[1:])), strict=True))
    assert values.keys() == GOLDEN[case].keys()
    for output, (mean, *parts) in GOLDEN[case].items():
        flat = values[output].flatten()
        found = [flat.mean(), *flat[:: len(flat) // 4][:4]]
        assert torch.stack(found).tolist() == pytest.approx([mean, *parts], rel=1e-4, abs=1e-5), output


@pytest.mark.parametrize("vertical", [1.0, 2.0])
def test_the_field_of_view_is_that_of_the_rays(vertical: float) -> None:
    """Fields of view of a pinhole camera with its axis in the centre: exact, for a wide lens as well."""
    shape, horizontal = InputShape(1, 28, 42), 0.8
    sides = [((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1) for side in (shape.height, shape.width)]
    down, across = torch.meshgrid(*sides, indexing="ij")
    rays = torch.stack([across * math.tan(horizontal / 2), down * math.tan(vertical / 2), torch.ones_like(down)])
    rays = rays / torch.linalg.vector_norm(rays, dim=0)
    found = FieldOfView(shape).double()(rays[None])
    assert found.tolist() == [pytest.approx([vertical, horizontal], abs=1e-6)]


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_the_outputs_have_the_declared_shapes(config: MapAnythingConfig) -> None:
    model = build(1, 28, 42, config)
    for output, value in zip(model.outputs, model(model.example_input().double()), strict=True):
        assert tuple(value.shape) == output.shape(1, 28, 42), output.name


def test_scenes_of_a_batch_do_not_see_each_other(random_images: Images) -> None:
    """The scale token of a scene stands behind its frames, not behind those of all scenes."""
    model, images = build(2, 28, 42), random_images(2, 2, 3, 28, 42)
    apart = [model(images[:1]), model(images[1:])]
    for both, *ones in zip(model(images), *apart, strict=True):
        torch.testing.assert_close(both, torch.cat(ones))


@pytest.mark.parametrize("heads", [("camera",), ("depth",), ("sky",), ("camera", "points")])
def test_a_head_left_out_changes_no_other(heads: tuple[str, ...], random_images: Images) -> None:
    images = random_images(1, 2, 3, 28, 42)
    whole, few = build(2, 28, 42), build(2, 28, 42, TINY, heads)
    wanted = dict(zip(whole.output_names, whole(images), strict=True))
    for name, value in zip(few.output_names, few(images), strict=True):
        assert torch.equal(value, wanted[name]), name
    assert hasattr(few, "pose_head") == ("camera" in heads)


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_the_exact_transforms_leave_the_outputs(config: MapAnythingConfig, random_images: Images) -> None:
    model, images = build(2, 28, 42, config), random_images(1, 2, 3, 28, 42)
    turned = prepare(model, seed=0, heads=True)
    for block, same in ((model.dino.blocks[1], turned.dino.blocks[1]), (model.scale_head, turned.scale_head)):
        one, other = (dict(each.named_parameters()) for each in (block, same))
        assert any(not torch.allclose(other[name], value) for name, value in one.items() if name in other)
    for one, other in zip(model(images), turned(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("config", KNOWN, ids=lambda config: config.name)
def test_the_wiring_covers_the_models_of_the_authors(config: MapAnythingConfig) -> None:
    """On the meta device: every path exists, and what is prepared has the announced shapes."""
    with torch.device("meta"):
        model = ARCHITECTURE.build(config, ARCHITECTURE.shape(2, 518, 518), ARCHITECTURE.heads)
    wiring, stages = model.wiring(), {stage.name for stage in model.stages()}
    paths = [unit.path for unit in wiring.units]
    assert len(paths) == len(set(paths))
    assert {id(block) for block in model.blocks().values()} <= {id(model.get_submodule(path)) for path in paths}
    assert {unit.stage for unit in wiring.units} <= stages
    shapes = prepared_shapes(model)
    take_form(model, shapes)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes


# --- files ------------------------------------------------------------------------------------------------------------


def as_saved(config: MapAnythingConfig = TINY) -> dict[str, Tensor]:
    """Named as in the authors' safetensors: one norm for three heads, and encoders of geometric inputs."""
    state = {name: tensor.float() for name, tensor in build(2, 28, 42, config).state_dict().items()}
    for name, other in ARCHITECTURE.shared.items():
        state[other] = state.pop(name)
    unread = (
        "ray_dirs_encoder.conv_in.weight",
        "depth_scale_encoder.norm_layer.bias",
        "cam_rot_encoder.encoder.1.bias",
    )
    return state | {name: torch.ones(3) for name in unread}


SAID = {CONFIG_KEY: ARCHITECTURE.write_config(TINY)}


def test_the_authors_files_are_recognised_and_loaded_strictly(tmp_path: Path) -> None:
    save_file(as_saved(), tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.architecture is ARCHITECTURE
    assert checkpoint.heads(None) == ("camera", "depth", "points", "sky")
    loaded = build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None)).state_dict()
    for name, tensor in build(2, 28, 42).state_dict().items():
        assert torch.equal(loaded[name], tensor.float()), name


def test_a_pytorch_file_names_shared_modules_twice(tmp_path: Path) -> None:
    """Their dense head is a sequence of two modules that they hold beside it as well."""
    state = as_saved()
    for name, tensor in list(state.items()):
        for sequence, module in (("dense_head.0.", "dpt_feature_head."), ("dense_head.1.", "dpt_regressor_head.")):
            if name.startswith(sequence):
                state[name.replace(sequence, module)] = tensor
    for level in range(4):
        shared = state[f"dense_head.0.input_process.{level}.1.weight"]
        for name in (f"layer{level + 1}_rn", f"layer_rn.{level}"):
            state[f"dense_head.0.scratch.{name}.weight"] = state[f"dpt_feature_head.scratch.{name}.weight"] = shared
    torch.save({"model": state}, tmp_path / "map.pth")
    checkpoint = read_checkpoint(_said(tmp_path, state))
    build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None))
    with pytest.raises(
        InputError, match=r"size that is not supported: encoder width 32, embed dim 32, encoder blocks 3"
    ):
        read_checkpoint(tmp_path / "map.pth")


def _said(folder: Path, state: Mapping[str, Tensor]) -> Path:
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "said.safetensors", SAID)
    return folder / "said.safetensors"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("info_sharing.self_attention_blocks.3.mlp.w12.weight", r"1 missing \(info_sharing.self_attention_blocks.3"),
        ("info_sharing.norm.bias", "3 missing .*dense_head.norm.bias"),
        ("scale_head.mlp.1.0.weight", r"1 missing \(scale_head.mlp.1.0.weight\)"),
    ],
)
def test_a_missing_tensor_is_named(missing: str, said: str, tmp_path: Path) -> None:
    state = as_saved()
    del state[missing]
    checkpoint = read_checkpoint(_said(tmp_path, state))
    with pytest.raises(InputError, match=said):
        build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None))


def test_a_configuration_of_another_size_is_said_first(tmp_path: Path) -> None:
    wider = replace(TINY, embed_dim=64, encoder_dim=64)
    save_file(as_saved(), tmp_path / "model.safetensors", {CONFIG_KEY: ARCHITECTURE.write_config(wider)})
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="it has 32 encoder width and embed dim 32, expected 64 and 64"):
        build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None))


def test_without_the_scale_token_the_nearest_is_named() -> None:
    names = set(ARCHITECTURE.keys) - {"scale_token"}
    with pytest.raises(InputError, match=r"nearest is mapanything, but it lacks 1 of 7 .*scale_token"):
        recognise(names, "some.safetensors")


@pytest.mark.parametrize("config", KNOWN, ids=lambda config: config.name)
def test_the_size_is_told_by_the_tensors(config: MapAnythingConfig) -> None:
    with torch.device("meta"):
        state = ARCHITECTURE.build(config, ARCHITECTURE.shape(1, 28, 28), ARCHITECTURE.heads).state_dict()
    assert ARCHITECTURE.default_config(state) == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 3}, "3 heads"),
        ({"taps": [2, 2]}, "do not rise"),
        ({"taps": [0, 4]}, "below 4 blocks"),
        ({"embed_dim": 16}, "cannot go on"),
        ({"depth": 0}, "implausibly"),
        ({"pose_width": 0}, "implausibly"),
        ({"dpt_features": 7}, "odd"),
        ({"wings": 2}, "wings"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(change: dict[str, Any], said: str) -> None:
    text = json.dumps(json.loads(ARCHITECTURE.write_config(TINY)) | change)
    with pytest.raises(ValueError, match=said):
        ARCHITECTURE.read_config(text)


def test_the_terms_of_the_weights_are_noted() -> None:
    assert any("CC BY-NC 4.0" in note for note in ARCHITECTURE.notes("facebook/map-anything"))
    assert any("CC BY-NC 4.0" in note for note in ARCHITECTURE.notes("facebook/map-anything-v1"))
    assert not ARCHITECTURE.notes("facebook/map-anything-apache")


def test_its_graph_suits_every_runtime(tmp_path: Path, random_images: Images) -> None:
    """ONNX Runtime computes what the model does; FP16 has every constant; Core ML reads no constant behind a Reshape.

    A product with a constant matrix is taken for a layer: all layers here are Gemms and convolutions.
    """
    model, images = copy.deepcopy(build(2, 28, 42)).float(), random_images(1, 2, 3, 28, 42).float()
    file = write_onnx(model, tmp_path / "model.onnx")
    graph = onnx.load(file.path).graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for name, values in constants.items():
        if values.dtype == numpy.float32:
            to_half(name, values)
    for node in graph.node:
        assert node.op_type != "Reshape" or node.input[0] not in constants, node.name
        assert node.op_type != "MatMul", node.name
    assert max(len(value.type.tensor_type.shape.dim) for value in graph.value_info) <= 5
    session = onnxruntime.InferenceSession(file.path, providers=["CPUExecutionProvider"])
    found = session.run(list(model.output_names), {session.get_inputs()[0].name: images.numpy()})
    for name, ours, value in zip(model.output_names, found, model(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), value, rtol=1e-4, atol=1e-4, msg=name)

"""Pi3: the numbers of its authors' code, what its files hold, and the heads that may be left out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
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

from vggt_edge.calibration.metrics.geometry import decode_pose
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.graph.build import write_onnx
from vggt_edge.exporter.models.checkpoint import CONFIG_KEY, build_model, read_checkpoint
from vggt_edge.exporter.models.pi3 import ARCHITECTURE, Pi3
from vggt_edge.exporter.models.pi3_layers import Pi3Config
from vggt_edge.runtimes.common.halves import to_half
from vggt_edge.runtimes.common.kit import script_module

Images = Callable[..., Tensor]
tiny = script_module(Path(__file__).parent / "tiny" / "pi3.py", "tiny.pi3")
TINY = tiny.CONFIG


@cache
def build(frames: int, height: int, width: int, heads: tuple[str, ...] = ARCHITECTURE.heads) -> Pi3:
    """float64, the same weights for every shape; not to be changed."""
    model = ARCHITECTURE.build(TINY, ARCHITECTURE.shape(frames, height, width), heads).double()
    model.load_state_dict({name: tiny.drawn(name, tensor) for name, tensor in model.state_dict().items()})
    return model.fix_constants()


# What the authors' code puts out for these weights and images, in the world of frame 0's camera: the mean, and every
# fourth part of the flat tensor. Focal lengths are those that their code recovers from the points.
GOLDEN: Mapping[tuple[int, int, int], Mapping[str, tuple[float, ...]]] = {
    (2, 28, 42): {
        "extrinsics": (0.373297, 0.930067, 0.410573, -0.198068, 0.193936),
        "focal": (6.27901, 7.1667, 6.77073, 5.56099, 5.61761),
        "depth": (1.02859, 0.506618, 0.423434, 0.533546, 0.552192),
        "depth_conf": (0.500397, 0.438312, 0.448669, 0.47425, 0.46075),
        "points": (0.104846, -0.107996, -0.119885, -0.717524, -0.687976),
    },
    (3, 42, 42): {
        "extrinsics": (0.37393, 0.915361, 0.0619107, 0.990985, 0.207535),
        "focal": (6.00761, 6.04166, 6.07727, 5.8867, 6.12646),
        "depth": (1.02419, 0.384192, 0.984901, 1.18673, 0.778076),
        "depth_conf": (0.500145, 0.399162, 0.696361, 0.471281, 0.437531),
        "points": (0.0424306, -0.16296, -0.195235, -1.681, -0.451472),
    },
}


@pytest.mark.parametrize("shape", GOLDEN)
def test_the_numbers_of_the_authors_code(shape: tuple[int, int, int], random_images: Images) -> None:
    """Made with their modules in the sizes of TINY (tests/benchmarks/pi3_parity.py)."""
    model, frames = build(*shape), shape[0]
    images = random_images(1, frames, 3, *shape[1:])
    images = images * torch.linspace(1, 0.3, frames, dtype=torch.float64).view(1, -1, 1, 1, 1)
    values = dict(zip(model.output_names, model(images), strict=True))
    extrinsics, intrinsics = map(torch.from_numpy, decode_pose(values["pose_enc"][0].numpy(), shape[1:]))
    torch.testing.assert_close(extrinsics[0], torch.eye(3, 4, dtype=torch.float64), rtol=0, atol=1e-9)
    values |= {"extrinsics": extrinsics[1:], "focal": intrinsics[:, [0, 1], [0, 1]]}
    for name, (mean, *parts) in GOLDEN[shape].items():
        flat = values[name].flatten()
        found = [flat.mean(), *flat[:: len(flat) // 4][:4]]
        assert torch.stack(found).tolist() == pytest.approx([mean, *parts], rel=1e-4, abs=1e-5), name


def test_the_outputs_have_the_declared_shapes() -> None:
    model = build(1, 28, 42)
    for output, value in zip(model.outputs, model(model.example_input().double()), strict=True):
        assert tuple(value.shape) == output.shape(1, 28, 42), output.name


def test_no_frame_is_the_reference_of_the_others(random_images: Images) -> None:
    """Frames in another order give the same depths in that order."""
    model, images = build(3, 42, 42), random_images(1, 3, 3, 42, 42)
    order, at = [2, 0, 1], model.output_names.index("depth")
    torch.testing.assert_close(model(images[:, order])[at], model(images)[at][:, order])


@pytest.mark.parametrize("heads", [("camera",), ("depth",), ("points",)])
def test_a_head_left_out_changes_no_other(heads: tuple[str, ...], random_images: Images) -> None:
    images = random_images(1, 2, 3, 28, 42)
    whole, few = build(2, 28, 42), build(2, 28, 42, heads)
    assert len(few.state_dict()) < len(whole.state_dict())
    wanted = dict(zip(whole.output_names, whole(images), strict=True))
    for name, value in zip(few.output_names, few(images), strict=True):
        assert torch.equal(value, wanted[name]), name


def test_the_exact_transforms_leave_the_outputs(random_images: Images) -> None:
    model, images = build(2, 28, 42), random_images(1, 2, 3, 28, 42)
    turned = prepare(model, seed=0, heads=True)
    for block in ("encoder.blocks.1", "decoder.3", "point_decoder.blocks.1"):
        paths = [f"{block}.attn.qkv.weight", f"{block}.mlp.fc2.weight"]
        assert not any(torch.equal(turned.get_parameter(path), model.get_parameter(path)) for path in paths), block
    for one, other in zip(model(images), turned(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_saved() -> dict[str, Tensor]:
    """Named as in the authors' file: the registers at the top, the normalisation of images beside the weights."""
    state = {name: tensor.float() for name, tensor in build(2, 28, 42).state_dict().items()}
    state["register_token"] = state.pop("encoder.register_token")
    return state | {name: torch.tensor(values).view(1, 3, 1, 1) for name, values in ARCHITECTURE.buffers.items()}


SAID = {CONFIG_KEY: ARCHITECTURE.write_config(TINY)}


def test_the_authors_files_are_recognised_and_loaded_strictly(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.architecture is ARCHITECTURE
    assert checkpoint.heads(None) == ("camera", "depth", "points")
    loaded = build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None)).state_dict()
    for name, tensor in build(2, 28, 42).state_dict().items():
        assert torch.equal(loaded[name], tensor.float()), name


@pytest.mark.parametrize("lost", ["register_token", "decoder.2.attn.q_norm.weight", "camera_head.fc_rot.bias"])
def test_a_missing_tensor_is_named(lost: str, as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    del as_saved[lost]
    save_file(as_saved, tmp_path / "model.safetensors", SAID)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"1 missing \((encoder\.)?{lost}\)"):
        build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None))


def test_the_size_is_told_by_the_tensors() -> None:
    with torch.device("meta"):
        state = ARCHITECTURE.build(Pi3Config(), ARCHITECTURE.shape(1, 28, 28), ARCHITECTURE.heads).state_dict()
    assert ARCHITECTURE.default_config(state) == Pi3Config()
    wanted = {"embed dim": 1024, "encoder blocks": 24, "decoder blocks": 36, "blocks of a head": 5}
    assert ARCHITECTURE.sizes(state) == wanted


def test_a_size_that_is_not_supported_is_refused(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"embed dim 32, encoder blocks 2, .*; supported: embed dim 1024"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_pi3x_is_recognised_and_refused(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    """Its encoder, decoder and the blocks in front of its heads have Pi3's names."""
    pi3x = {name: tensor for name, tensor in as_saved.items() if not name.startswith(("point_head", "conf_head"))}
    pi3x |= {"metric_token": torch.ones(1, 1, 64), "point_head.projects.weight": torch.ones(2, 2)}
    save_file(pi3x, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"it is Pi3X, .* not supported"):
        read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embed_dim": 30}, "30 cannot be split into 2 heads"),
        ({"head_dim": 40}, "40 cannot be split into 3 heads"),
        ({"depth": 3}, "depth 3 is odd"),
        ({"head_depth": 0}, "implausibly"),
        ({"position_grid": 0}, "position_grid 0"),
        ({"wings": 2}, "wings"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(change: dict[str, Any], said: str) -> None:
    text = json.dumps(json.loads(ARCHITECTURE.write_config(TINY)) | change)
    with pytest.raises(ValueError, match=said):
        ARCHITECTURE.read_config(text)


def test_a_configuration_of_another_size_is_said_first(as_saved: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(as_saved, tmp_path / "model.safetensors", {CONFIG_KEY: ARCHITECTURE.write_config(Pi3Config())})
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="it has embed dim 32 and 2 encoder blocks and 4 decoder blocks"):
        build_model(checkpoint, ARCHITECTURE.shape(2, 28, 42), checkpoint.heads(None))


def test_the_terms_of_the_weights_are_noted() -> None:
    assert any("CC BY-NC 4.0" in note for note in ARCHITECTURE.notes("yyfz233/Pi3"))


def test_its_graph_suits_every_runtime(tmp_path: Path, random_images: Images) -> None:
    """ONNX Runtime computes what the model does; FP16 has every constant; Core ML has linears and up to five axes."""
    model, images = copy.deepcopy(build(2, 28, 42)).float(), random_images(1, 2, 3, 28, 42).float()
    file = write_onnx(model, tmp_path / "model.onnx")
    graph = onnx.load(file.path).graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for name, values in constants.items():
        if values.dtype == numpy.float32:
            to_half(name, values)
    factors = [
        constants[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants
    ]
    assert factors
    assert all(factor.ndim == 2 for factor in factors)
    assert max(len(value.type.tensor_type.shape.dim) for value in graph.value_info) <= 5
    session = onnxruntime.InferenceSession(file.path, providers=["CPUExecutionProvider"])
    found = session.run(list(model.output_names), {session.get_inputs()[0].name: images.numpy()})
    for name, ours, value in zip(model.output_names, found, model(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), value, rtol=1e-4, atol=1e-4, msg=name)

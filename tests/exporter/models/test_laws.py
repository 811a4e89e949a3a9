"""What holds for any weights: which frames and scenes influence which, and what goes when an output is left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vggt_edge.devices.errors import UnknownNameError, UsageError
from vggt_edge.exporter.models.config import InputShape
from vggt_edge.exporter.models.vggt import ARCHITECTURE, VGGT

Build = Callable[..., VGGT]
Draw = Callable[..., Tensor]


def test_permuting_the_later_frames_permutes_the_outputs(build_tiny: Build, random_images: Draw) -> None:
    model, images = build_tiny(4, 28, 42), random_images(1, 4, 3, 28, 42)
    order = torch.tensor([0, 3, 1, 2])
    for name, plain, permuted in zip(model.output_names, model(images), model(images[:, order]), strict=True):
        torch.testing.assert_close(permuted, plain[:, order], rtol=1e-9, atol=1e-9, msg=name)


def test_the_reference_frame_is_special(build_tiny: Build, random_images: Draw) -> None:
    model, images = build_tiny(3, 28, 42), random_images(1, 3, 3, 28, 42)
    order = torch.tensor([1, 0, 2])
    for plain, permuted in zip(model(images), model(images[:, order]), strict=True):
        assert (permuted - plain[:, order]).abs().max() > 1e-3


def test_scenes_of_a_batch_do_not_see_each_other(build_tiny: Build, random_images: Draw) -> None:
    model, images = build_tiny(2, 42, 28), random_images(3, 2, 3, 42, 28)
    together = model(images)
    for scene in range(3):
        for name, whole, alone in zip(model.output_names, together, model(images[scene : scene + 1]), strict=True):
            torch.testing.assert_close(whole[scene : scene + 1], alone, rtol=1e-9, atol=1e-9, msg=name)


def test_frames_of_a_scene_do_see_each_other(build_tiny: Build, random_images: Draw) -> None:
    model, images = build_tiny(2, 42, 28), random_images(1, 2, 3, 42, 28)
    changed = torch.cat([images[:, :1], random_images(1, 1, 3, 42, 28, seed=1)], dim=1)
    for plain, other in zip(model(images), model(changed), strict=True):
        assert (plain[:, 0] - other[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("size", [(42, 42), (28, 70), (56, 42)])
def test_fixed_position_table_equals_the_live_one(
    build_tiny: Build, random_images: Draw, size: tuple[int, int]
) -> None:
    model, images = build_tiny(2, *size), random_images(1, 2, 3, *size)
    live = model(images)
    names = set(model.state_dict())
    for fixed, before in zip(model.fix_constants()(images), live, strict=True):
        assert torch.equal(fixed, before)
    assert set(model.state_dict()) == names


def test_fixed_model_interpolates_nothing_in_the_graph_but_dpt_maps(build_tiny: Build) -> None:
    model = build_tiny(1, 28, 70, ("camera",)).float().fix_constants()
    exported = torch.export.export(model, (model.example_input(),), strict=False)
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not [target for target in targets if "upsample" in target or "interpolate" in target]


@pytest.mark.parametrize(
    ("outputs", "heads", "tensors"),
    [
        (("depth",), {"depth_head"}, ("depth", "depth_conf")),
        (("points", "camera"), {"camera_head", "point_head"}, ("pose_enc", "points", "points_conf")),
    ],
)
def test_an_output_left_out_takes_its_head_along(
    build_tiny: Build, random_images: Draw, outputs: tuple[str, ...], heads: set[str], tensors: tuple[str, ...]
) -> None:
    """From the state dict, from the blocks that get a precision and from the graph; the rest stays as it was."""
    full, part = build_tiny(2, 28, 42), build_tiny(2, 28, 42, outputs)
    images = random_images(1, 2, 3, 28, 42)
    assert part.output_names == tensors
    assert {name.split(".")[0] for name in part.state_dict()} == heads | {"aggregator"}
    assert {name.split(".")[0] for name in part.blocks() if "head" in name} == heads
    expected = dict(zip(full.output_names, full(images), strict=True))
    for name, tensor in zip(part.output_names, part(images), strict=True):
        assert torch.equal(tensor, expected[name]), name


def test_graph_of_a_subset_holds_no_other_head(build_tiny: Build) -> None:
    model = build_tiny(1, 28, 42, ("depth",)).float().fix_constants()
    exported = torch.export.export(model, (model.example_input(),), strict=False)
    assert {name.split(".")[0] for name in exported.state_dict} == {"aggregator", "depth_head"}
    assert len(exported.graph_signature.user_outputs) == 2


def test_outputs_are_put_in_canonical_order() -> None:
    assert ARCHITECTURE.checked_heads(("points", "camera", "depth", "camera")) == ("camera", "depth", "points")


def test_wrong_outputs_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="tracks") as raised:
        ARCHITECTURE.checked_heads(("depth", "tracks"))
    assert "camera, depth, points" in raised.value.expected
    with pytest.raises(UsageError, match="no outputs"):
        ARCHITECTURE.checked_heads(())


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 15, 14), (1, 14, 0), (0, 14, 14), (2, -14, 14)])
def test_impossible_shapes_are_refused(frames: int, height: int, width: int) -> None:
    with pytest.raises(UsageError):
        InputShape(frames, height, width)

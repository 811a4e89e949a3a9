"""The module tree at full size, on the meta device: names, shapes and parameter counts of facebook/VGGT-1B."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT

GOLDEN = Path(__file__).with_name("golden") / "vggt_1b.txt"
_RANGE = re.compile(r"\{(\d+)-(\d+)\}")


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The golden file with its ranges written out."""
    shapes = {}
    for line in GOLDEN.read_text().splitlines()[1:]:
        pattern, shape = line.split(" ")
        ranges = [range(int(first), int(last) + 1) for first, last in _RANGE.findall(pattern)]
        for numbers in itertools.product(*ranges):
            name = _RANGE.sub("{}", pattern).format(*numbers)
            shapes[name] = tuple(int(side) for side in shape.split("x"))
    return shapes


@pytest.fixture(scope="module")
def full_size() -> VGGT:
    with torch.device("meta"):
        return VGGT(VGGTConfig(), InputShape(frames=2, height=518, width=518))


def test_names_and_shapes_are_those_of_the_published_checkpoint(full_size: VGGT) -> None:
    assert {name: tuple(tensor.shape) for name, tensor in full_size.state_dict().items()} == published_shapes()


@pytest.mark.parametrize(
    ("module", "millions"),
    [("", 1190.6), ("aggregator", 909.1), ("camera_head", 216.2), ("depth_head", 32.65), ("point_head", 32.65)],
)
def test_parameter_counts(full_size: VGGT, module: str, millions: float) -> None:
    count = sum(parameter.numel() for parameter in full_size.get_submodule(module).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 100 else 0.005)


def test_tables_are_real_on_the_meta_device(full_size: VGGT) -> None:
    """Else a model built there and then given its weights would compute with tables of nothing."""
    with torch.device("meta"):
        built_there = dict(VGGT(VGGTConfig(embed_dim=64, heads=4), InputShape(2, 42, 28)).named_buffers())
    built_here = dict(VGGT(VGGTConfig(embed_dim=64, heads=4), InputShape(2, 42, 28)).named_buffers())
    assert built_there.keys() == built_here.keys()
    for name, table in built_there.items():
        assert torch.equal(table, built_here[name]), name


def test_blocks_are_named_in_running_order(full_size: VGGT) -> None:
    names = list(full_size.blocks())
    assert len(names) == 24 + 48 + 4 + 2
    assert names[:2] == ["patch_embed.blocks.0", "patch_embed.blocks.1"]
    assert names[24:28] == ["frame_blocks.0", "global_blocks.0", "frame_blocks.1", "global_blocks.1"]
    assert names[-3:] == ["camera_head.trunk.3", "depth_head", "point_head"]


def test_epsilon_of_every_layer_norm(full_size: VGGT) -> None:
    """Too small a thing to show in the outputs of a test; DINOv2 was trained with 1e-6, all that follows with 1e-5."""
    norms = {name: module.eps for name, module in full_size.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    small = {name for name, eps in norms.items() if eps == 1e-6}
    assert set(norms.values()) == {1e-6, 1e-5}
    assert small == {name for name in norms if ".patch_embed." in name or name == "camera_head.adaln_norm"}
    assert len(norms) == 24 * 2 + 1 + 48 * 4 + 4 * 2 + 3 + 2

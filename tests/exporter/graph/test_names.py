"""Where a node's name comes from."""

from __future__ import annotations

import pytest

from vggt_edge.exporter.graph.names import Namer, Place

PATHS = (
    "aggregator",
    "aggregator.patch_embed.blocks.0.attn.qkv",
    "aggregator.patch_embed.norm",
    "aggregator.frame_blocks.1",
    "aggregator.frame_blocks.10.mlp",
    "depth_head.scratch.layer1_rn",
    "",
)
BLOCKS = ("patch_embed.blocks.0", "frame_blocks.1", "frame_blocks.10", "depth_head")


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("aggregator.patch_embed.blocks.0.attn.qkv", "patch_embed.blocks.0/attn.qkv"),
        ("aggregator.patch_embed.norm", "patch_embed.norm"),
        ("aggregator.frame_blocks.1", "frame_blocks.1"),
        ("aggregator.frame_blocks.10.mlp", "frame_blocks.10/mlp"),
        ("depth_head.scratch.layer1_rn", "depth_head/scratch.layer1_rn"),
        ("aggregator", "aggregator"),
        ("", "model"),
    ],
)
def test_scope(path: str, scope: str) -> None:
    assert Namer(BLOCKS, PATHS).scope(path) == scope


@pytest.mark.parametrize(
    ("inner", "path", "scope"),
    [
        ("module.mlp.fc1", "aggregator.frame_blocks.10.mlp.fc1", "frame_blocks.10/mlp.fc1"),
        ("module", "aggregator.frame_blocks.10", "frame_blocks.10"),
        ("", "", "model"),
    ],
)
def test_what_a_stage_calls_module_has_a_place_in_the_model(inner: str, path: str, scope: str) -> None:
    place = Place("frame_blocks.10", "aggregator.frame_blocks.10", Namer(BLOCKS, PATHS))
    assert (place.path(inner), place.scope(inner)) == (path, scope)


def test_a_stage_may_be_the_whole_model() -> None:
    assert Place("all", "", Namer((), ("", "norm"))).name("module.norm.weight") == "norm.weight"


def test_a_name_is_given_once() -> None:
    namer = Namer(BLOCKS, PATHS)
    assert [namer.unique("a/Add") for _ in range(3)] == ["a/Add", "a/Add_1", "a/Add_2"]

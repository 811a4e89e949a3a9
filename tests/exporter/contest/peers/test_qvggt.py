"""QVGGT's search: which tokens it looks at, how it weighs the two errors, and that its judge tells the truth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.calibration.tuning.objective import task_loss
from vggt_edge.exporter.contest.peers import awq
from vggt_edge.exporter.contest.peers.inputs import block_linears
from vggt_edge.exporter.contest.peers.qvggt import SHORTLIST, Judge, search, search_ratio, searched_stages
from vggt_edge.exporter.models.vggt import VGGT

LAYER = "frame_blocks.0.mlp.fc1"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def salient() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    x = torch.randn(256, 64) * torch.rand(64).exp().pow(3)
    return nn.Linear(64, 32), x, x.abs().amax(dim=0)


def test_an_indifferent_task_leaves_the_answer_of_awq() -> None:
    layer, x, peaks = salient()
    ours = search_ratio(LAYER, layer, x, peaks, SCHEMES["w4a16"], lambda name, form: 1.0)
    assert ours == awq.search_ratio(layer, x, peaks, SCHEMES["w4a16"])


def test_the_task_decides_among_the_best_ratios_only() -> None:
    """A task that wants one form, and suffers a hundredfold from all others, gets it if its layer error is small."""
    layer, x, peaks = salient()
    asked: list[nn.Module] = []

    def dislikes_all_but_the_last(name: str, form: nn.Module) -> float:
        asked.append(form)
        return 1.0 if len(asked) == SHORTLIST else 100.0

    ratio = search_ratio(LAYER, layer, x, peaks, SCHEMES["w4a16"], dislikes_all_but_the_last)
    assert len(asked) == SHORTLIST
    with torch.no_grad():
        errors = [
            float((awq.scaled(layer, awq.scales(x, step / 20), peaks, SCHEMES["w4a16"])(x) - layer(x)).square().mean())
            for step in range(20)
        ]
    fifth = sorted(range(20), key=errors.__getitem__)[SHORTLIST - 1]
    assert round(ratio * 20) == fifth


def test_queries_and_keys_are_not_clipped() -> None:
    x = torch.randn(100, 64)
    found = search("a.attn.qkv", nn.Linear(64, 48), x, x.abs().amax(dim=0), SCHEMES["w4a16"], lambda name, form: 1.0)
    assert bool((found.clip[:32] == 1).all())
    assert bool((found.clip[32:] < 1).any())


def test_the_judge_finds_nothing_where_nothing_changed(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    linears = block_linears(small)
    judge = Judge(small, scenes[0])
    assert all(judge.error(name, copy.deepcopy(layer)) == 0 for name, layer in linears.items())


def test_the_judge_says_what_a_whole_forward_says(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """With a layer that puts out nothing, near the images, in the middle and in the camera head; model as it was."""
    names = list(block_linears(small))
    judge, blocks = Judge(small, scenes[0]), small.blocks()
    for name in (names[0], LAYER, names[-1]):
        silent = copy.deepcopy(block_linears(small)[name])
        nn.init.zeros_(silent.weight)
        block = next(block for block in blocks if name.startswith(f"{block}."))
        broken = copy.deepcopy(small)
        broken.blocks()[block].set_submodule(name.removeprefix(f"{block}."), silent)
        with torch.no_grad():
            got = dict(zip(broken.output_names, broken(images_of(scenes[0])), strict=True))
            wanted = dict(zip(small.output_names, small(images_of(scenes[0])), strict=True))
        expected = float(task_loss(small.outputs, got, wanted))
        assert expected > 0
        assert judge.error(name, silent) == pytest.approx(expected, rel=1e-4)


def test_patch_tokens_alone_are_looked_at(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    """Two frames of four patches, and for the camera head tokens with the mean of the camera tokens."""
    found = {name: x for sampled in searched_stages(small, scenes, 0) for name, x in sampled.items()}
    assert set(found) == set(block_linears(small))
    patches = small.shape.tokens - small.special_tokens
    rows = small.shape.frames * patches * len(scenes)
    assert len(found[LAYER]) == rows
    assert len(found["global_blocks.0.attn.qkv"]) == rows


def test_the_same_tokens_twice(small: VGGT, scenes: tuple[Scene, ...]) -> None:
    first, again = (
        {name: x for sampled in searched_stages(small, scenes, 3) for name, x in sampled.items()} for _ in range(2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)

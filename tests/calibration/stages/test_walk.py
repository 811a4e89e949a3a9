"""A walk over stages gives what the forward gives, stage by stage, and goes on where a killed one stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.journal import FileJournal, MemoryJournal
from vggt_edge.calibration.stages.walk import IMAGES, Journal, Stage, last_readers, run_stages, walk
from vggt_edge.exporter.models.vggt import VGGT


def run(model: VGGT, scenes: tuple[Scene, ...], journal: Journal, stop_after: int | None = None) -> None:
    images = [images_of(scene) for scene in scenes]
    for time in walk(model, images, journal, kept=model.output_names):
        if time.done == stop_after:
            return


def outputs(model: VGGT, journal: Journal, scene: int) -> tuple[torch.Tensor, ...]:
    return tuple(journal.get(scene, name) for name in model.output_names)


@pytest.mark.parametrize("kind", ["memory", "files", "files without memory"])
def test_a_walk_gives_what_the_forward_gives(model: VGGT, scenes: tuple[Scene, ...], tmp_path: Path, kind: str) -> None:
    journal = MemoryJournal() if kind == "memory" else FileJournal(tmp_path, 0 if "without" in kind else 1 << 30)
    run(model, scenes, journal)
    for index, scene in enumerate(scenes):
        for ours, expected in zip(outputs(model, journal, index), model(images_of(scene)), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_a_stopped_walk_goes_on_with_the_next_stage(
    model: VGGT, scenes: tuple[Scene, ...], tmp_path: Path, stop_after: int
) -> None:
    """A new process has nothing but the folder."""
    run(model, scenes, FileJournal(tmp_path), stop_after)
    ran: list[str] = []

    @contextmanager
    def around(stage: Stage) -> Iterator[None]:
        ran.append(stage.name)
        yield

    again = FileJournal(tmp_path)
    list(walk(model, [images_of(scene) for scene in scenes], again, around=around, kept=model.output_names))
    assert ran == [stage.name for stage in model.stages()][stop_after:]
    assert all(
        torch.equal(ours, expected)
        for ours, expected in zip(outputs(model, again, 0), model(images_of(scenes[0])), strict=True)
    )


def test_values_go_after_their_last_reader(model: VGGT, scenes: tuple[Scene, ...], tmp_path: Path) -> None:
    run(model, scenes, FileJournal(tmp_path))
    left = {path.name.split(".", 1)[1].removesuffix(".safetensors") for path in tmp_path.glob("*.safetensors")}
    assert left == set(model.output_names)


def test_kept_values_stay(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    journal = MemoryJournal()
    list(walk(model, [images_of(scenes[0])], journal, kept=("x.1", "dino.0")))
    assert journal.get(0, "x.1").shape == journal.get(0, "dino.0").shape
    with pytest.raises(KeyError):
        journal.get(0, "x.2")


def test_stages_are_a_chain(model: VGGT) -> None:
    """Every value is written once, before it is read, and every block runs in exactly one stage."""
    known = {IMAGES, *model.constants()}
    for stage in model.stages():
        assert known.issuperset(stage.reads), stage.name
        assert known.isdisjoint(stage.writes), stage.name
        known.update(stage.writes)
    assert known.issuperset(model.output_names)
    assert [block for stage in model.stages() for block in stage.blocks] == list(model.blocks())


def test_twins_differ_in_weights_alone(model: VGGT) -> None:
    shapes: dict[str, list[tuple[str, torch.Size]]] = {}
    for stage in model.stages():
        found = [(name, tensor.shape) for name, tensor in stage.module.state_dict().items()]
        assert shapes.setdefault(stage.kind, found) == found


def test_run_stages_keeps_what_it_is_told_to(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    values = run_stages(model.stages(), {IMAGES: images_of(scenes[0]), **model.constants()}, kept=("depth",))
    assert "depth" in values
    assert "dino.0" not in values
    assert "depth" not in last_readers(model.stages(), ("depth",))

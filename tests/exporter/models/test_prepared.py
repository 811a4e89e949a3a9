"""Prepared and tuned models on disk: what is read back computes the same, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vggt_edge.calibration.apply import quantized_stage
from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.quantization.tuned import any_tuned
from vggt_edge.calibration.transforms.prepare import prepare
from vggt_edge.calibration.tuning.tune import tune
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models import prepared
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import MINI, open_model
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.steps.inputs import synthetic

SHAPE = InputShape(2, 28, 28)
SEED = 3


@pytest.fixture(scope="module")
def reference() -> VGGT:
    return build_model(open_model(MINI), SHAPE, OUTPUTS)


@pytest.fixture(scope="module")
def folder(reference: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared")
    prepared.write_prepared(reference, SEED, path)
    return path


def test_what_is_read_is_what_prepare_gives(reference: VGGT, folder: Path) -> None:
    """Name for name."""
    ours, wanted = opened(folder).state_dict(), prepare(reference, SEED).state_dict()
    assert set(ours) == set(wanted)
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_shards_are_as_small_as_they_are_asked_to_be(
    reference: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model must never be held whole."""
    monkeypatch.setattr(prepared, "SHARD_BYTES", 1 << 20)
    prepared.write_prepared(reference, SEED, tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) > 10
    assert max(sizes) < 4 << 20
    ours, wanted = opened(tmp_path).state_dict(), prepare(reference, SEED).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16", "p4a16"])
def test_a_tuned_model_is_read_back(
    scheme: str, folder: Path, tmp_path: Path, plan: Callable[..., PrecisionPlan]
) -> None:
    """Weights, scales, tables and input scales, and so every output of the simulation."""
    model, again = opened(folder), opened(folder)
    scenes = synthetic(0, 1, 0, SHAPE.frames, SHAPE.height, SHAPE.width)
    stats, wanted = calibrate(model, scenes), plan(model, scheme)
    tune(model, wanted, stats, scenes, on_tuned=lambda index, stage: prepared.save_tuned(model, stage, index, tmp_path))
    prepared.adopt_tuned(again, tmp_path)
    for (name, ours), (_, found) in zip(model.named_modules(), again.named_modules(), strict=True):
        first, second = any_tuned(ours), any_tuned(found)
        assert (first is None) == (second is None), name
        if first is not None and second is not None:
            assert (first.scheme, first.input_scale) == (second.scheme, second.input_scale)
    stage = next(stage for stage in model.stages() if stage.name == "frame_blocks.2")
    twin = next(stage for stage in again.stages() if stage.name == "frame_blocks.2")
    x = torch.randn(SHAPE.frames * SHAPE.tokens, model.config.embed_dim)
    given = {stage.reads[0]: x, **model.constants()}
    found = []
    for owner, one in ((model, stage), (again, twin)):
        with torch.inference_mode(), quantized_stage(owner, one, wanted, stats):
            found.append(next(iter(one(given).values())))
    assert torch.equal(*found)


@pytest.fixture
def plan() -> Callable[..., PrecisionPlan]:
    def make(model: VGGT, scheme: str) -> PrecisionPlan:
        forms = {"w4a16": "w8a16"}
        names = {name: forms.get(scheme, scheme) if name.endswith("_head") else scheme for name in model.blocks()}
        assignments = tuple(Assignment(name, wanted, "test", 0.0, 0, 0.0) for name, wanted in names.items())
        return PrecisionPlan("model", "stats", "none", 64, assignments)

    return make


def test_a_damaged_shard_is_named(folder: Path, tmp_path: Path) -> None:
    """Cut short, or gone."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        opened(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        opened(tmp_path)


def test_a_model_of_the_form_has_the_shapes_of_the_prepared_one(folder: Path) -> None:
    """That is what its cost is counted from."""
    form = prepared.model_of_form(open_model(MINI), SHAPE, OUTPUTS).state_dict()
    assert {name: value.shape for name, value in form.items()} == {
        name: value.shape for name, value in opened(folder).state_dict().items()
    }


def opened(folder: Path) -> VGGT:
    return prepared.open_prepared(open_model(MINI), SHAPE, OUTPUTS, folder)

"""Training vggt-mini: targets that are right, losses that vanish on them, steps that can be taken up again."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vggt_edge.calibration.metrics.geometry import decode_pose, quaternion_to_rotation, unproject
from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT

SMALL = VGGTConfig(
    name="small", embed_dim=32, dino_depth=1, depth=4, heads=2, position_grid=2, taps=(0, 1, 2, 3),
    camera_trunk_depth=1, camera_heads=2, camera_iterations=2, dpt_features=8, dpt_channels=(8, 8, 8, 8), dpt_hidden=8,
)  # fmt: skip
SIDE = SMALL.native_resolution


def test_targets_are_one_geometry_of_unit_scale(scripts: SimpleNamespace) -> None:
    scene = scripts.data.training_scene(5, 3, SIDE)
    extrinsics, intrinsics = decode_pose(scene["pose"], (SIDE, SIDE))
    np.testing.assert_allclose(unproject(scene["depth"], intrinsics, extrinsics), scene["points"], atol=1e-4)
    np.testing.assert_allclose(extrinsics[0], np.eye(3, 4), atol=1e-6)
    assert np.linalg.norm(scene["points"], axis=-1).mean() == pytest.approx(1, abs=1e-5)


def test_training_never_sees_a_scene_that_it_is_judged_on(scripts: SimpleNamespace) -> None:
    assert scripts.train_mini.VALIDATION_SEED + 1_000 < scripts.data.TRAIN_SEED


def test_a_batch_depends_on_its_step_alone(scripts: SimpleNamespace) -> None:
    """So a training that is taken up at step 2 goes on as if it had never stopped."""
    from_start = iter(scripts.data.Rooms(0, 2, 2, SIDE))
    third = [next(from_start) for _ in range(3)][2]
    resumed = next(iter(scripts.data.Rooms(2, 2, 2, SIDE)))
    assert all(torch.equal(third[key], resumed[key]) for key in third)
    assert not torch.equal(next(from_start)["images"], third["images"])


def test_rotations_follow_the_convention_of_geometry(scripts: SimpleNamespace) -> None:
    quaternions = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = quaternion_to_rotation(quaternions.numpy())
    np.testing.assert_allclose(scripts.losses.rotation_matrix(quaternions).numpy(), expected, atol=1e-9)


def one_batch(scripts: SimpleNamespace, frames: int = 2) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = next(iter(scripts.data.Rooms(0, 1, frames, SIDE)))
    return batch


def test_losses_vanish_on_the_truth_and_grow_with_the_error(scripts: SimpleNamespace) -> None:
    batch, losses = one_batch(scripts, frames=3), scripts.losses
    pose, depth, points = batch["pose"], batch["depth"], batch["points"]
    assert losses.pose_loss([pose, pose], pose) == pytest.approx(0, abs=1e-6)
    assert losses.dense_loss(depth, points, batch) == pytest.approx(0, abs=1e-6)
    assert losses.relative_angles_deg(pose, pose).max() < 1e-2
    assert losses.auc(losses.relative_angles_deg(pose, pose), 30) == 1
    assert losses.pose_loss([pose + 0.2], pose) > losses.pose_loss([pose + 0.1], pose) > 0.05
    assert losses.dense_loss(1.2 * depth, points, batch) > losses.dense_loss(1.1 * depth, points, batch) > 0.05


def test_a_later_refinement_weighs_more(scripts: SimpleNamespace) -> None:
    pose = one_batch(scripts)["pose"]
    off = pose + 0.1
    assert scripts.losses.pose_loss([pose, off], pose) > scripts.losses.pose_loss([off, pose], pose) > 0


def test_losses_make_no_tensor_of_their_own_on_the_cpu(scripts: SimpleNamespace) -> None:
    """On the meta device, as on a GPU, a stray CPU tensor is an error."""
    batch = {key: value.to("meta") for key, value in one_batch(scripts).items()}
    with torch.device("meta"):
        probes = scripts.losses.Probes(SMALL)
    patches = torch.empty(2, 4, 32, device="meta")
    entries = [torch.empty(1, 2, 9, 64, device="meta") for _ in SMALL.taps]
    assert probes(patches, entries, batch).device.type == "meta"
    assert scripts.losses.pose_loss([batch["pose"]], batch["pose"]).device.type == "meta"
    assert scripts.losses.dense_loss(batch["depth"], batch["points"], batch).device.type == "meta"
    assert scripts.losses.confidence_loss(batch["depth"], batch["depth"]).device.type == "meta"


def test_every_parameter_learns(scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.train_mini, "CONFIG", SMALL)
    model, probes = VGGT(SMALL, InputShape(2, SIDE, SIDE)), scripts.losses.Probes(SMALL)
    scripts.train_mini.initialise(model, 0)
    loss, pose, parts = scripts.train_mini.forward_loss(model, probes, one_batch(scripts), dense=True)
    loss.backward()
    assert pose.shape == (1, 2, 9)
    assert {"pose", "probe", "dense", "abs_rel", "points"} <= parts.keys()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == {"aggregator.patch_embed.mask_token"}
    assert all(parameter.grad is not None for parameter in probes.parameters())
    steppers = scripts.train_mini.optimisers(model, probes, scripts.train_mini.Settings())
    held = [parameter for stepper in steppers for group in stepper.param_groups for parameter in group["params"]]
    assert len(held) == len({id(parameter) for parameter in held})
    assert {id(p) for p in held} == {id(p) for p in (*model.parameters(), *probes.parameters())}


@pytest.mark.slow
def test_a_stopped_training_goes_on(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = scripts.train_mini
    judge = script.validate
    monkeypatch.setattr(script, "CONFIG", SMALL)
    monkeypatch.setattr(script, "validate", lambda model, side: judge(model, side, scenes=2))
    settings = script.Settings(scenes=1, side=SIDE, warmup_steps=1)

    def train(minutes: float) -> dict[str, object]:
        args = argparse.Namespace(
            out=tmp_path, minutes=minutes, dense_after=0.0, workers=1, restart_schedule=False, weights=None
        )
        script.train(args, settings)
        state: dict[str, object] = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        return state

    first = train(1e-4)
    assert first["step"] == 1
    assert first["elapsed_s"] > 0.006  # type: ignore[operator]
    second = train(1e-4 + float(first["elapsed_s"]) / 60)  # type: ignore[arg-type]
    assert second["step"] > first["step"]  # type: ignore[operator]
    assert (tmp_path / "vggt-mini.safetensors").is_file()
    assert capsys.readouterr().out.count("held-out") == 2

    published = tmp_path / "vggt-mini.safetensors"
    args = argparse.Namespace(
        out=tmp_path / "more", minutes=1e-4, dense_after=0.0, workers=1, restart_schedule=False, weights=published
    )
    script.train(args, script.Settings(scenes=1, side=SIDE, muon_lr=0.0, adam_lr=0.0))
    again = torch.load(tmp_path / "more" / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(again[name], value) for name, value in load_file(published).items())

"""Training objectives: VGGT's camera, depth and point losses, and auxiliary ones that make a small model learn fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.config import PATCH, VGGTConfig

ROOM_METRES = 3.0


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """(..., 4) xyzw of any length to (..., 3, 3)."""
    x, y, z, w = functional.normalize(quaternion, dim=-1, eps=1e-6).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def camera_centre(pose: Tensor) -> Tensor:
    return -(rotation_matrix(pose[..., 3:7]).transpose(-1, -2) @ pose[..., :3, None])[..., 0]


def pose_loss(predictions: list[Tensor], target: Tensor) -> Tensor:
    """L1 on the encoding and on the camera centre over all refinements, later ones weighing more."""
    total = target.new_zeros(())
    centre = camera_centre(target)
    for age, prediction in enumerate(reversed(predictions)):
        # The first 7 entries of the 9 are what pose accuracy hangs on; a field of view is easy.
        error = (prediction - target).abs().mean((0, 1))
        encoding = error[:3].mean() + 2 * error[3:7].mean() + 0.5 * error[7:].mean()
        total = total + 0.6**age * (encoding + (camera_centre(prediction) - centre).abs().mean())
    return total


def relative_angles_deg(pose: Tensor, target: Tensor) -> Tensor:
    """(B, S, 9) twice to the larger of rotation and translation-direction error per pair i < j, flat, in degrees."""
    first, second = torch.triu_indices(pose.shape[1], pose.shape[1], offset=1)

    def relative(encoding: Tensor) -> tuple[Tensor, Tensor]:
        rotation = rotation_matrix(encoding[..., 3:7])
        turn = rotation[:, second] @ rotation[:, first].transpose(-1, -2)
        shift = encoding[:, second, :3] - (turn @ encoding[:, first, :3, None])[..., 0]
        return turn, functional.normalize(shift, dim=-1)

    turn, shift = relative(pose.double())
    true_turn, true_shift = relative(target.double())
    trace = (turn * true_turn).sum((-1, -2))
    rotation_deg = torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))
    direction_deg = torch.rad2deg(torch.acos((shift * true_shift).sum(-1).abs().clamp(0, 1)))
    return torch.maximum(rotation_deg, direction_deg).flatten()


def auc(errors_deg: Tensor, limit_deg: int) -> float:
    return sum(float((errors_deg < threshold).double().mean()) for threshold in range(1, limit_deg + 1)) / limit_deg


class Probes(nn.Module):
    """Linear read-outs of inner tokens, trained along and thrown away.

    They give every layer a dense target from the first step on: where in the room a patch lies, where the camera
    stands, and depth and points per patch. Without them pose stays at chance for about 15 000 scenes.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim, taps = config.embed_dim, len(config.taps)
        self.room = nn.Linear(dim, 3)
        self.camera = nn.ModuleList(nn.Linear(2 * dim, 12) for _ in range(taps))
        self.patch = nn.ModuleList(nn.Linear(2 * dim, 4) for _ in range(taps))

    def forward(self, patches: Tensor, entries: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        """patches: DINO's output (B*S, patches, C); entries: the tapped (B, S, tokens, 2C)."""
        room = at_patch_centres(batch["room_points"]) / ROOM_METRES
        loss: Tensor = (self.room(patches).view_as(room) - room).abs().mean()
        pose = batch["room_pose"].flatten(2)
        points, depth = at_patch_centres(batch["points"]), at_patch_centres(batch["depth"][..., None])
        for camera, patch, raw in zip(self.camera, self.patch, entries, strict=True):
            # The residual stream grows with depth; read unnormalised, one Adam step would throw the read-out far off.
            entry = functional.layer_norm(raw, raw.shape[-1:])
            loss = loss + 0.25 * (camera(entry[:, :, 0]) - pose).abs().mean()
            guess = patch(entry[:, :, 5:])
            loss = loss + 0.25 * (guess[..., :3] - points).abs().mean()
            loss = loss + 0.25 * (guess[..., 3:] - depth.log()).abs().mean()
        return loss


def at_patch_centres(maps: Tensor) -> Tensor:
    """(B, S, H, W, D) to (B, S, patches, D)."""
    return maps[:, :, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten(2, 3)


def dense_loss(depth: Tensor, points: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Relative depth error, point error, and agreement of both with sharp edges (gradient term, VGGT section 3.4)."""
    log_ratio = depth.log() - batch["depth"].log()
    error = points - batch["points"]
    loss = log_ratio.abs().mean() + error.abs().mean()
    for field in (log_ratio, error):
        loss = loss + 0.5 * ((field[:, :, 1:] - field[:, :, :-1]).abs().mean())
        loss = loss + 0.5 * ((field[:, :, :, 1:] - field[:, :, :, :-1]).abs().mean())
    return loss


def confidence_loss(confidence: Tensor, error: Tensor) -> Tensor:
    """Aleatoric weighting (VGGT eq. 2): confident where the detached error is small."""
    return (confidence * error.detach() - 0.05 * confidence.log()).mean()

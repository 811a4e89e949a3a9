"""From rays, depths along them and poses of cameras to what the package puts out; all in a few nodes of a graph."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from vggt_edge.calibration.metrics.figures import SKY_FROM
from vggt_edge.exporter.models.angles import twice_arctangent
from vggt_edge.exporter.models.depth_anything_3_layers import cross
from vggt_edge.exporter.models.shape import InputShape

_MASKED_FROM = 0.5  # a pixel is masked where this probability says that it is
_SKY_SCALE = SKY_FROM / _MASKED_FROM


class FieldOfView(nn.Module):
    """The field of view of each frame from the rays of its pixels, for a camera whose axis is in the centre.

    A pixel at u, from -1 to 1 between the borders, sees x = z * u * tan(half the field of view). The tangent is fitted
    over all pixels by least squares: sum(u z x) / sum(u^2 z^2), without a division by z, which may be near 0.
    """

    across: Tensor
    down: Tensor

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.register_buffer("across", _from_middle(shape.width)[None, None, None], persistent=False)
        self.register_buffer("down", _from_middle(shape.height)[None, None, :, None], persistent=False)

    def forward(self, rays: Tensor) -> Tensor:
        """Unit rays (N, 3, H, W) to the vertical and horizontal field of view in radians, (N, 2)."""
        xz, yz, zz = (rays * rays[:, 2:]).chunk(3, dim=1)
        # Means, for which no processor needs a product with a constant matrix.
        factors = (yz * self.down, xz * self.across, zz * (self.down * self.down), zz * (self.across * self.across))
        opposite, adjacent = torch.cat(factors, dim=1).mean((2, 3)).chunk(2, dim=1)
        return twice_arctangent(opposite, adjacent)


def _from_middle(length: int) -> Tensor:
    """Places of the pixels along one axis, -1 to 1 between the borders; on the CPU also in a model without weights."""
    return (2 * torch.arange(length, dtype=torch.float32, device="cpu") + 1) / length - 1


class FromQuaternions(nn.Module):
    """Quaternions xyzw (N, 4) to unit ones and to rotations (N, 3, 3), without products of matrices: it stays FP32."""

    identity: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("identity", torch.eye(3, device="cpu")[None], persistent=False)

    def forward(self, quaternions: Tensor) -> tuple[Tensor, Tensor]:
        i, j, k, r = (quaternions * quaternions).chunk(4, dim=1)
        unit = quaternions / (i + j + k + r).sqrt()
        axis, real = unit[:, :3, None], unit[:, 3:, None]
        across = cross(axis, self.identity)
        return unit, self.identity + 2 * (real * across + cross(axis, across))


def mixed(matrices: Tensor, x: Tensor) -> Tensor:
    """The product of matrices (N, 3, 3) and x (N, 3, M), in operators that no processor rounds to FP16 by itself."""
    first, second, third = x.chunk(3, dim=1)
    return matrices[:, :, :1] * first + matrices[:, :, 1:2] * second + matrices[:, :, 2:] * third


class Geometry(nn.Module):
    """Cameras, depth and points from what three heads put out, all of it made metric.

    heads: of ``camera``, ``depth``, ``points`` and ``sky``; poses are read for the first and the third.
    """

    def __init__(self, shape: InputShape, heads: Collection[str]) -> None:
        super().__init__()
        self.shape, self.heads = shape, heads
        self.field_of_view = FieldOfView(shape)
        self.rotations = FromQuaternions()

    def forward(self, maps: Tensor, scale: Tensor, poses: Tensor | None = None) -> tuple[Tensor, ...]:
        """Maps (B * S, 6, H, W), factors (B, 1) and poses (B * S, 7) to the outputs, in declared order."""
        rays = maps[:, :3]
        x, y, z = (rays * rays).chunk(3, dim=1)
        rays = rays / (x + y + z).sqrt()
        factors = scale.expand(-1, self.shape.frames).reshape(-1, 1)
        local = rays * (maps[:, 3:4].exp() * factors[:, :, None, None])
        written: list[Tensor] = []
        if poses is not None:
            position = poses[:, :3] * factors
            quaternion, rotation = self.rotations(poses[:, 3:])
        if "camera" in self.heads:
            written.append(self._cameras(rays, position, quaternion, rotation))
        if "depth" in self.heads:
            written += [local[:, 2], 1 + maps[:, 4].exp()]
        if "points" in self.heads:
            points = mixed(rotation, local.flatten(2)) + position[:, :, None]
            written.append(points.transpose(1, 2).reshape(-1, self.shape.height, self.shape.width, 3))
        if "sky" in self.heads:
            # The mask is that of what is no sky.
            written.append((-maps[:, 5]).sigmoid() * _SKY_SCALE)
        return tuple(each.reshape(-1, self.shape.frames, *each.shape[1:]) for each in written)

    def _cameras(self, rays: Tensor, position: Tensor, quaternion: Tensor, rotation: Tensor) -> Tensor:
        """World to camera, (B * S, 9): the inverse of x -> R x + t is x -> R^T x - R^T t."""
        moved = mixed(rotation.transpose(1, 2), position[:, :, None])
        axis, real = quaternion[:, :3], quaternion[:, 3:]
        return torch.cat([-moved[:, :, 0], -axis, real, self.field_of_view(rays)], dim=1)

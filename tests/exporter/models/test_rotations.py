"""The nearest rotation without an SVD, held to the one with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vggt_edge.exporter.models.rotations import Rotations

HALF_TURNS = torch.tensor(
    [
        [1.0, 0, 0, 0, -1, 0, 0, 0, -1],
        [-1, 0, 0, 0, 1, 0, 0, 0, -1],
        [-1, 0, 0, 0, -1, 0, 0, 0, 1],
        [0, 1, 0, 1, 0, 0, 0, 0, -1],
        [0, -1, 0, -1, 0, 0, 0, 0, -1],
        [0, 0, 1, 0, -1, 0, 1, 0, 0],
    ],
    dtype=torch.float64,
)


def by_svd(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest rotation to each matrix with rows of length 1; how far it is from there being two of them."""
    left, singular, right = torch.linalg.svd(functional.normalize(matrices.view(-1, 3, 3), dim=2))
    sign = torch.det(left @ right).sign()
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=1)
    return left * signs[:, None] @ right, singular[:, 1] + sign * singular[:, 2]


@pytest.fixture(scope="module")
def matrices() -> Tensor:
    """Half of them have a negative determinant; many are far from any rotation."""
    return torch.randn(20_000, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_the_nearest_rotation_is_that_of_an_svd(matrices: Tensor, dtype: torch.dtype, error: float) -> None:
    """The error grows as the second nearest comes nearer, as that of an SVD does."""
    wanted, apart = by_svd(matrices)
    found = Rotations().to(dtype).nearest(matrices.to(dtype)).double()
    off = (found - wanted).abs().amax(dim=(1, 2))
    assert float((off * apart.clamp(max=1)).max()) < error
    assert float((torch.det(matrices.view(-1, 3, 3)) < 0).double().mean()) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(torch.det(found), torch.ones(len(found), dtype=torch.float64), rtol=0, atol=1e-4)


def test_matrices_that_are_all_but_singular() -> None:
    """Two rows nearly along each other, third row nearly in their plane: the nearest rotation is still one."""
    rows = torch.tensor([[1.0, 0, 0, 1, 0.02, 0, 0.5, 0.5, 1e-4]], dtype=torch.float64)
    wanted, apart = by_svd(rows)
    assert 1e-3 < float(apart) < 1
    torch.testing.assert_close(Rotations().double().nearest(rows), wanted, rtol=0, atol=1e-12)


def test_quaternions_mean_the_rotation(matrices: Tensor) -> None:
    rotations = torch.cat([by_svd(matrices[:2000])[0], HALF_TURNS.view(-1, 3, 3)])
    quaternions = Rotations().double().quaternions(rotations)
    x, y, z, real = quaternions.unbind(1)
    entries = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * real), 2 * (x * z + y * real)),
        *(2 * (x * y + z * real), 1 - 2 * (x * x + z * z), 2 * (y * z - x * real)),
        *(2 * (x * z - y * real), 2 * (y * z + x * real), 1 - 2 * (x * x + y * y)),
    )
    torch.testing.assert_close(torch.stack(entries, dim=1).view(-1, 3, 3), rotations, rtol=0, atol=1e-12)
    assert float(real.min()) >= 0


def test_a_quaternion_all_but_without_a_real_part() -> None:
    """Noise decides the sign of the real part, and nothing else."""
    noisy = Rotations().quaternions(HALF_TURNS.float().view(-1, 3, 3) + 1e-7 * torch.randn(6, 3, 3))
    exact = Rotations().quaternions(HALF_TURNS.float().view(-1, 3, 3))
    alike = (noisy * exact).sum(dim=1).abs()
    torch.testing.assert_close(alike, torch.ones(6), rtol=0, atol=1e-5)

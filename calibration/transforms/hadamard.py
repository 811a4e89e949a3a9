"""Hadamard matrices: rotations that spread a spike in one channel evenly over many."""

from __future__ import annotations

import torch
from torch import Tensor

from vggt_edge.devices.errors import UsageError


def hadamard(n: int) -> Tensor:
    """Orthogonal, symmetric (n, n) with entries +-1 / sqrt(b), b being the largest power of two that divides n.

    Sylvester's construction; where n is no power of two, n / b such matrices on the diagonal, so that each channel is
    spread over b others. ``UsageError`` for a size below 1.
    """
    if n < 1:
        raise UsageError(f"a Hadamard matrix of size {n}", expected="a size of at least 1")
    block = n & -n
    signs = sylvester(block) / block**0.5
    return torch.block_diag(*[signs] * (n // block))  # type: ignore[no-any-return, no-untyped-call]


def sylvester(n: int) -> Tensor:
    """(n, n) of +-1 with orthogonal rows, the first of them all ones; n is a power of two."""
    signs = torch.ones(1, 1)
    while len(signs) < n:
        signs = torch.cat([torch.cat([signs, signs], dim=1), torch.cat([signs, -signs], dim=1)])
    return signs


def random_hadamard(n: int, generator: torch.Generator) -> Tensor:
    """``hadamard(n)`` with a random sign for each row, so that no direction of the data is met by chance."""
    signs = torch.randint(0, 2, (n, 1), generator=generator) * 2 - 1
    return signs * hadamard(n)

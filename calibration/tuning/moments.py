"""Moments of what comes into a linear, each token with its own weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-4  # of the mean square: what is left of tokens that are all alike is rounding errors, of either sign


@dataclass(frozen=True)
class Moments:
    """Sums over tokens: of their weights; of weight * x, (in,); of weight * x x^T, (in, in)."""

    weight: float
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, tokens: Tensor, weights: Tensor) -> Moments:
        """tokens: (rows, in). weights: (rows,), not negative."""
        tokens = tokens.float()
        weighted = tokens * weights[:, None]
        return cls(float(weights.double().sum()), weighted.sum(dim=0), weighted.T @ tokens)

    def absorb(self, other: Moments) -> Moments:
        """Those of both, in the memory of ``self.second``, which is as large as a weight: ``self`` is used up."""
        return Moments(self.weight + other.weight, self.first + other.first, self.second.add_(other.second))

    @property
    def mean(self) -> Tensor:
        """(in,); 0 where no token weighs anything."""
        return self.first / self.weight if self.weight > 0 else torch.zeros_like(self.first)

    @property
    def about_mean(self) -> Tensor:
        """(in, in): the sum of weight * (x - mean)(x - mean)^T, and ``FLOOR`` on the diagonal."""
        mean, away = self.mean.double(), self.second.double()
        floor = FLOOR * away.diagonal().mean()
        away -= self.weight * torch.outer(mean, mean)
        away.diagonal().add_(floor)
        return away.float()

"""Rounding that makes up for its own errors, column by column (GPTQ, Frantar et al., ICLR 2023, algorithm 1).

Rounding to nearest looks at each weight alone. What a layer puts out is W x: an error in one column can be made up for
in the columns that are still to be rounded, as far as their inputs go together. For inputs X with H = X^T X the best
correction of the others after rounding column j is read off the inverse of H.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Nearest = Callable[[Tensor, int], Tensor]
"""(out,) values of one input column, and its index, to the nearest values that can be stored there."""
Fit = Callable[[Tensor, Tensor, int], None]
"""Chooses the scales of one block of input columns right before it is rounded.

- (columns, out): what the weights of the block have become by then.
- (columns,): what a squared error in each column costs, after the later columns have made up for it.
- index of the block.
"""

DAMPING = 0.01  # of the mean of the diagonal, as in the paper: keeps rarely seen inputs from running away
COLUMNS_AT_ONCE = 128


def inverse_factor(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Upper Cholesky factor of the inverse of a damped ``hessian`` (in, in). Unseen inputs cost nothing."""
    hessian = hessian.double().clone()
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    diagonal.add_(damping * mean if mean > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True).float()  # type: ignore[no-any-return]


def compensated(
    weight: Tensor,
    hessian: Tensor,
    nearest: Nearest,
    damping: float = DAMPING,
    fit: Fit | None = None,
    block: int = 1,
) -> Tensor:
    """The values that ``weight`` (out, in) is stored as, so that W x changes least over inputs of X^T X = ``hessian``.

    Columns with the largest diagonal go first, so that what can be made up for least is left to the least important.
    ``nearest`` must know its grid from the index alone. fit: chooses the scales of ``block`` columns at a time, which
    then stay together; by default scales are fixed before.
    """
    order = _order(hessian.diagonal(), block)
    factor = inverse_factor(hessian[order][:, order], damping)
    step = max(COLUMNS_AT_ONCE // block, 1) * block
    # Transposed: what is worked on, one input column after the other, then lies in one piece.
    working = weight.detach().float().T[order].contiguous()
    stored = torch.empty_like(working)
    for start in range(0, len(order), step):
        end = min(start + step, len(order))
        errors = torch.empty_like(working[start:end])
        for column in range(start, end):
            if fit is not None and column % block == 0:
                costs = factor.diagonal()[column : column + block].square().reciprocal()
                fit(working[column : column + block], costs, int(order[column]) // block)
            stored[column] = nearest(working[column], int(order[column]))
            errors[column - start] = (working[column] - stored[column]) / factor[column, column]
            working[column + 1 : end].addr_(factor[column, column + 1 : end], errors[column - start], alpha=-1)
        working[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return stored[order.argsort()].T.contiguous()


def _order(diagonal: Tensor, block: int) -> Tensor:
    """Indices of the columns: blocks by falling sums of ``diagonal`` (in,), and so the columns of each."""
    blocks = diagonal.view(-1, block)
    inside = blocks.argsort(dim=1, descending=True, stable=True)
    first = blocks.sum(dim=1).argsort(descending=True, stable=True)
    return (inside + block * torch.arange(len(blocks))[:, None])[first].flatten()

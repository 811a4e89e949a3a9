"""A fixed number of threads for everything that is computed and written, on every machine.

Sums are cut up by threads, and rounding then differs: the bundle of one thread is not that of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import scipy.linalg  # noqa: F401  its BLAS has to be loaded to be limited
import torch
from threadpoolctl import threadpool_limits

SMALL_BYTES = 200_000_000  # of FP32 weights: below, waiting for each other takes threads longer than the arithmetic
FEW, MANY = 1, 8


@contextmanager
def fixed_threads(fp32_bytes: int) -> Iterator[None]:
    """Compute with as many threads as a model of this size gets on every machine.

    ``MANY`` on fewer cores cost nothing that could be measured; see docs/decisions/012-the-same-bytes-twice.md.
    """
    before, fixed = torch.get_num_threads(), FEW if fp32_bytes <= SMALL_BYTES else MANY
    torch.set_num_threads(fixed)
    try:
        with threadpool_limits(fixed):  # numpy's and scipy's own
            yield
    finally:
        torch.set_num_threads(before)

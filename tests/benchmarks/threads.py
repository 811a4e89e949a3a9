"""Times a large model's products with several numbers of threads: the figures of docs/decisions/012.

``threads.py [--rounds N]`` multiplies 2000 tokens of width 1024 by a weight of 1024 x 4096, with a GELU, ten times a
round, and prints the median seconds of a round for each number of threads. The numbers take turns.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import torch
from measure import table
from torch.nn import functional

THREADS = (1, 2, 8)


def round_s(threads: int, tokens: torch.Tensor, weight: torch.Tensor) -> float:
    """Seconds of ten products."""
    torch.set_num_threads(threads)
    begin = perf_counter()
    for _ in range(10):
        functional.gelu(tokens @ weight)
    return perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds for each number of threads; default: 5")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    tokens, weight = torch.randn(2000, 1024), torch.randn(1024, 4096)
    seconds: dict[int, list[float]] = {threads: [] for threads in THREADS}
    for _ in range(rounds):
        for threads in THREADS:
            seconds[threads].append(round_s(threads, tokens, weight))
    rows = [(str(threads), f"{median(found):.2f}") for threads, found in seconds.items()]
    print("\n".join(table(("threads", "median, s"), rows)))


if __name__ == "__main__":
    main()

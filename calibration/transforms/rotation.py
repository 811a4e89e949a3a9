"""Rotations of a residual stream that a LayerNorm does not notice, folded into the weights on both sides.

LayerNorm subtracts the mean, so that not every rotation commutes with it, as one does with the RMSNorm of SliceGPT and
QuaRot (arXiv 2401.15024, 2404.00456). One that keeps the all-ones vector does: for an orthogonal Q with Q 1 = 1, mean
and variance of Q x are those of x, and LN(Q x) = Q LN(x). All such Q are H diag(1, R) H with H the Householder
reflection that maps the first axis to 1 / sqrt(n), and R any orthogonal matrix; the ones here are chosen to be flat.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from vggt_edge.calibration.transforms.weights import columns, is_trivial, layer_at, mix_rows, norm_at, put, wide
from vggt_edge.calibration.transforms.wiring import Read, Unit, Wiring


def rotations(wiring: Wiring, seed: int) -> dict[str, Tensor]:
    """For each stream that rotates, (width, width) in float64; each stream has a rotation of its own."""
    return {
        name: flat_rotation(stream.width, generator(seed, name))
        for name, stream in wiring.streams.items()
        if stream.rotates
    }


def generator(seed: int, name: str) -> np.random.Generator:
    """Of its own for each name, so that it does not matter what else is drawn, and in which order."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def rotate(module: nn.Module, unit: Unit, turns: Mapping[str, Tensor]) -> None:
    """One unit, in place: Q for what writes a stream that ``turns`` names, its inverse for what reads it.

    ``ValueError`` for a unit that was not folded before: neither affine nor LayerScale commutes with a rotation.
    """
    for read in unit.reads:
        if read.stream in turns:
            _turn_back(module, read, turns[read.stream])
    for write in unit.writes:
        if write.stream in turns:
            if write.scale is not None and not isinstance(module.get_submodule(write.scale), nn.Identity):
                raise ValueError(f"{unit.path}.{write.scale} has to be folded before a rotation")
            mix_rows(layer_at(module, write.writer), turns[write.stream])
    for tokens in unit.tokens:
        if tokens.stream in turns:
            for name in tokens.parameters:
                put(module, name, wide(module.get_parameter(name)) @ turns[tokens.stream].T)


def _turn_back(module: nn.Module, read: Read, turn: Tensor) -> None:
    if read.norm is not None and not is_trivial(norm_at(module, read.norm)):
        raise ValueError(f"{read.norm} has to be folded before a rotation")
    for path in read.readers:
        weight = columns(layer_at(module, path))
        # A reader of several vectors joined undoes the rotation of each.
        put(layer_at(module, path), "weight", weight.view(len(weight), -1, len(turn)) @ turn.T)


def incoherence(matrix: Tensor) -> float:
    """Largest entry of an orthogonal (n, n), times sqrt(n): 1 for a Hadamard matrix, sqrt(n) for the identity."""
    return float(matrix.abs().max()) * math.sqrt(len(matrix))


def flat_rotation(size: int, rng: np.random.Generator) -> Tensor:
    """Orthogonal Q (size, size) with Q 1 = 1, in float64, with entries as equal in magnitude as we can have them.

    A Hadamard matrix with equal row sums (a regular one) would be ideal, and exists for no ``size`` but squares. So the
    largest power of four in ``size`` gets one, made from a bent function drawn by ``rng``, each prime that remains the
    flatter of two matrices, and Q is their Kronecker product with rows and columns shuffled. ``incoherence``, against
    that of random orthogonal matrices (QR of a Gaussian) put between two Householder reflections, and of D in S D S
    with random signs D and Sylvester's S (tests/calibration/transforms/test_rotation.py)::

        size               64    128    256    384    768   1024
        this             1.00   1.41   1.00   1.63   1.15   1.00
        random           3.58   3.73   4.45   4.77   5.15   4.89
        random signs     3.25   2.65   2.62      -      -   3.00
    """
    rest, power = size, 0
    while rest % 4 == 0:
        rest, power = rest // 4, power + 1
    matrix = _regular_hadamard(power, rng)
    for prime in _primes(rest):
        matrix = torch.kron(matrix, min(_reflection(prime), _paley(prime), key=incoherence))
    return matrix[rng.permutation(size)][:, rng.permutation(size)].contiguous()


def _regular_hadamard(power: int, rng: np.random.Generator) -> Tensor:
    """(4^power, 4^power) / 2^power with all row sums 1, from a bent function f: entry (i, j) is (-1)^f(i xor j).

    f(x, y) = <x, p(y)> + g(y) with a permutation p and any g (Maiorana-McFarland) is bent: its Walsh spectrum is flat,
    so rows are orthogonal, and their sums are equal but for one common sign, which g decides.
    """
    side = 1 << power
    permuted, free = rng.permutation(side), rng.integers(0, 2, side)
    free[permuted == 0] = 0
    x, y = np.divmod(np.arange(side * side), side)
    bent = (np.bitwise_count(x & permuted[y]) + free[y]) % 2
    index = np.arange(side * side)
    return torch.from_numpy((1.0 - 2.0 * bent[index[:, None] ^ index]) / side)


def _reflection(size: int) -> Tensor:
    """The half turn about the all-ones vector: flat for small sizes."""
    return torch.full((size, size), 2 / size, dtype=torch.float64) - torch.eye(size, dtype=torch.float64)


def _paley(prime: int) -> Tensor:
    """J / p + C / sqrt(p) with Paley's matrix C of quadratic residues: C C^T = p I - J and C 1 = 0. Flat for large p.

    2 has no such matrix and gets the reflection.
    """
    if prime == 2:
        return _reflection(2)
    character = np.full(prime, -1.0)
    character[np.arange(1, prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    index = np.arange(prime)
    return torch.from_numpy(1 / prime + character[(index[None] - index[:, None]) % prime] / prime**0.5)


def _primes(number: int) -> Iterator[int]:
    """The prime factors of ``number`` in order."""
    factor = 2
    while number > 1:
        while number % factor:
            factor += 1
        yield factor
        number //= factor

"""Rotations that a LayerNorm does not notice."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.transforms import rotation
from vggt_edge.calibration.transforms.hadamard import sylvester
from vggt_edge.calibration.transforms.rotation import flat_rotation, generator, incoherence, rotate, rotations
from vggt_edge.calibration.transforms.wiring import Read, Stream, Unit, Wiring, Write

SIZES = (64, 128, 256, 384, 768, 1024)


def random_rotation(size: int, rng: np.random.Generator) -> Tensor:
    """H diag(1, R) H with a random orthogonal R, which is what there is for every size."""
    inner = np.eye(size)
    inner[1:, 1:] = np.linalg.qr(rng.standard_normal((size - 1, size - 1)))[0]
    normal = np.full(size, size**-0.5)
    normal[0] -= 1
    normal /= np.linalg.norm(normal)
    householder = np.eye(size) - 2 * np.outer(normal, normal)
    return torch.from_numpy(householder @ inner @ householder)


def random_signs(size: int, rng: np.random.Generator) -> Tensor:
    """S D S with Sylvester's S, whose first row is constant, and random signs D."""
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size))
    signs[0] = 1
    hadamard = sylvester(size).double() / size**0.5
    return hadamard @ torch.diag(signs) @ hadamard


@given(size=st.integers(1, 150), seed=st.integers(0, 10**6))
def test_a_rotation_is_orthogonal_and_keeps_the_ones(size: int, seed: int) -> None:
    """Q Q^T = I, and Q 1 = 1, for any size."""
    turn, ones = flat_rotation(size, np.random.default_rng(seed)), torch.ones(size, dtype=torch.float64)
    torch.testing.assert_close(turn @ turn.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(turn @ ones, ones, rtol=0, atol=1e-12)


@given(size=st.integers(2, 150), seed=st.integers(0, 10**6))
def test_layer_norm_commutes_with_it(size: int, seed: int) -> None:
    """LN(Q x) = Q LN(x), also for x with a large mean and one large channel."""
    turn = flat_rotation(size, np.random.default_rng(seed))
    x = 3 + torch.randn(5, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 0] += 50
    turned = functional.layer_norm(x @ turn.T, (size,), eps=1e-5)
    torch.testing.assert_close(turned, functional.layer_norm(x, (size,), eps=1e-5) @ turn.T, rtol=0, atol=1e-9)


def test_widths_of_a_power_of_four_are_perfectly_flat() -> None:
    """VGGT-1B's among them: every entry has the same magnitude, so a spike in one channel spreads over all."""
    for size in (4, 16, 64, 256, 1024):
        turn = flat_rotation(size, np.random.default_rng(1))
        torch.testing.assert_close(turn.abs(), torch.full_like(turn, size**-0.5), rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_flatness_is_what_the_docstring_says(size: int) -> None:
    """To the printed digits; and no other way of making a rotation is as flat."""
    table = (flat_rotation.__doc__ or "").split("::")[1].strip().splitlines()
    printed = {name: figures for name, *figures in (re.split(r"\s{2,}", row.strip()) for row in table)}
    column = printed["size"].index(str(size))
    flat = incoherence(flat_rotation(size, np.random.default_rng(0)))
    others = {"random": incoherence(random_rotation(size, np.random.default_rng(0)))}
    if size & (size - 1) == 0:
        others["random signs"] = incoherence(random_signs(size, np.random.default_rng(0)))
    for name, figure in {"this": flat, **others}.items():
        assert printed[name][column] == f"{figure:.2f}", name
    assert flat < min(others.values())


def test_each_prime_gets_the_flatter_of_the_two() -> None:
    """A reflection for 2, 3 and 5, Paley's matrix from 7 on: the incoherence nears 1 as the prime grows."""
    assert [incoherence(flat_rotation(prime, np.random.default_rng(0))) for prime in (2, 3, 5, 7, 97)] == pytest.approx(
        [2**0.5, 2 / 3**0.5, 3 / 5**0.5, 1 + 7**-0.5, 1 + 97**-0.5]
    )


def test_seed_and_stream_decide_the_rotation() -> None:
    """The same twice; another one for another seed or stream, whatever other streams there are."""
    stream = Stream(16, rotates=True)
    both = rotations(Wiring({"a": stream, "b": stream, "fixed": Stream(8, rotates=False)}, ()), 3)
    assert list(both) == ["a", "b"]
    assert torch.equal(both["b"], rotations(Wiring({"b": stream}, ()), 3)["b"])
    assert not torch.equal(both["a"], both["b"])
    assert not torch.equal(both["a"], rotations(Wiring({"a": stream}, ()), 4)["a"])


def test_a_reader_of_joined_vectors_undoes_the_turn_of_each(gaussian: Callable[..., Tensor]) -> None:
    """As the dense heads read what a frame block and the global block after it wrote."""
    turn = flat_rotation(12, generator(0, "s"))
    module = nn.ModuleDict({"reader": nn.Conv2d(24, 5, 1)}).double().requires_grad_(False)
    halves = gaussian(7, 2, 12)
    before = module["reader"](halves.flatten(1)[:, :, None, None])
    rotate(module, Unit("u", "u", reads=(Read("s", ("reader",)),)), {"s": turn})
    after = module["reader"]((halves @ turn.T).flatten(1)[:, :, None, None])
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_what_was_not_folded_is_not_rotated() -> None:
    """Neither an affine nor a LayerScale commutes: wrong outputs would be silent."""
    turns = {"s": flat_rotation(4, generator(0, "s"))}
    norm = nn.LayerNorm(4)
    module = nn.ModuleDict({"norm": norm, "linear": nn.Linear(4, 4), "scale": nn.ReLU()})
    nn.init.constant_(norm.weight, 2.0)
    with pytest.raises(ValueError, match="norm has to be folded"):
        rotate(module, Unit("u", "u", reads=(Read("s", ("linear",), "norm"),)), turns)
    with pytest.raises(ValueError, match=r"u\.scale has to be folded"):
        rotate(module, Unit("u", "u", writes=(Write("s", "linear", "scale"),)), turns)


def test_streams_that_do_not_turn_are_left_alone() -> None:
    """A unit between two streams, of which one rotates."""
    module = nn.ModuleDict({"linear": nn.Linear(4, 4)})
    before = module["linear"].weight
    rotation.rotate(module, Unit("u", "u", reads=(Read("other", ("linear",)),)), {"s": torch.eye(4)})
    assert module["linear"].weight is before

"""VGGTs of drawn sizes whose every weight is random, and how far the outputs of two of them are apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import VGGT

ALL = ("camera", "depth", "points")


def make_vggt(heads: int, head_dim: int, shape: InputShape, seed: int) -> VGGT:
    """Norms and LayerScale around 1, matrices of unit gain, the rest small."""
    config = VGGTConfig(
        "drawn", heads * head_dim, 1, 4, heads, 2, (0, 1, 2, 3), 1, heads, 2, 8, (4, 8, 8, 8), dpt_hidden=4
    )
    model, generator = VGGT(config, shape), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            spread = parameter[0].numel() ** -0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.3
            centre = 1.0 if parameter.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
            parameter.copy_(centre + spread * torch.randn(parameter.shape, generator=generator))
    return model.fix_constants()


@pytest.fixture(scope="session")
def drawn_vggt() -> st.SearchStrategy[VGGT]:
    """Of widths that are powers of four, of two, and neither; of one to three frames, square or not."""
    sides = st.sampled_from((14, 28, 42))
    shapes = st.builds(InputShape, st.integers(1, 3), sides, sides)
    return st.builds(make_vggt, st.integers(1, 3), st.sampled_from((4, 8, 12)), shapes, st.integers(0, 99))


@pytest.fixture(scope="session")
def mini() -> VGGT:
    """vggt-mini for two frames of 42 x 42 pixels. Not to be changed."""
    return build_model(open_model("vggt-mini"), InputShape(2, 42, 42), ALL)


@pytest.fixture(scope="session")
def difference() -> Callable[[VGGT, VGGT], float]:
    """Over all outputs for one noise scene the largest, relative to what is largest in the output."""

    def measure(one: VGGT, other: VGGT) -> float:
        images = torch.rand(one.example_input().shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            pairs = list(zip(one(images), other(images), strict=True))
        return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)

    return measure


@pytest.fixture(scope="session")
def gaussian() -> Callable[..., Tensor]:
    """``gaussian(*shape, seed=0)``."""

    def draw(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw

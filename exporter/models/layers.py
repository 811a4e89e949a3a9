"""The transformer block that DINO, the alternating attention and the camera trunk share, and its rotary tables.

Written for export: every table is a constant of the fixed input size, one block is few graph nodes, and rotate-half is
one product with a signed permutation instead of slices, negations and concatenations. A gather would be one node
as well, but ONNX Runtime copies it channel by channel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.quantization.attention import Attend

ROPE_BASE = 100.0


class RopeTables(NamedTuple):
    """cos and sin, each (tokens, head_dim), and rotate-half as a matrix, (head_dim, head_dim)."""

    cos: Tensor
    sin: Tensor
    turn: Tensor


def rope_tables(grid: tuple[int, int], special_tokens: int, head_dim: int) -> RopeTables:
    """2D rotary tables of one frame. Patch positions start at 1; the special tokens in front stand at (0, 0)."""
    return tables_at(patch_positions(grid, special_tokens), head_dim)


def patch_positions(grid: tuple[int, int], special_tokens: int) -> Tensor:
    """(tokens, 2): row and column of every token of one frame, from 1; (0, 0) for the special tokens in front."""
    rows, columns = torch.arange(grid[0], device="cpu"), torch.arange(grid[1], device="cpu")
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    positions = torch.stack([row.flatten(), column.flatten()], dim=1) + 1
    return torch.cat([positions.new_zeros(special_tokens, 2), positions])


def tables_at(positions: Tensor, head_dim: int) -> RopeTables:
    """Tables of tokens at ``positions`` (tokens, 2): the first half of the channels turns by the row, the second by the
    column.

    Always on the CPU, so that a model built under ``torch.device("meta")``, to be given its weights later, holds real
    tables.
    """
    half = head_dim // 2
    frequency = ROPE_BASE ** -(torch.arange(0, half, 2, dtype=torch.float32, device="cpu") / half)
    angles = positions[:, :, None].float() * frequency
    angles = torch.cat([angles, angles], dim=2).flatten(1)
    return RopeTables(angles.cos(), angles.sin(), _rotate_half(head_dim))


def _rotate_half(head_dim: int) -> Tensor:
    """x @ this: in each half of the channels, (a, b) to (-b, a)."""
    quarter = head_dim // 4
    turn = torch.zeros(2, 2, quarter, 2, 2, quarter, device="cpu")
    for half in range(2):
        turn[half, 0, :, half, 1] = torch.eye(quarter, device="cpu")
        turn[half, 1, :, half, 0] = -torch.eye(quarter, device="cpu")
    return turn.view(head_dim, head_dim)


def repeat_frames(tables: RopeTables, frames: int) -> RopeTables:
    """The tables of one frame, laid out for a global block that sees all frames in a row."""
    return RopeTables(tables.cos.repeat(frames, 1), tables.sin.repeat(frames, 1), tables.turn)


def rotate(x: Tensor, rope: RopeTables) -> Tensor:
    """Rotary embedding of q or k or both, (B, heads, tokens, head_dim)."""
    return x * rope.cos + (x @ rope.turn) * rope.sin


def attend_causally(products: nn.Module, q: Tensor, k: Tensor, v: Tensor, frames: int) -> Tensor:
    """Attention, (B, heads, tokens, head_dim), of each of equally long ``frames`` to itself and to those before it.

    Cut into products instead of masked: half the work, and no mask that a runtime might not fuse.
    """
    step = q.shape[2] // frames
    seen = [slice(0, step * (frame + 1)) for frame in range(frames)]
    own = [slice(step * frame, step * (frame + 1)) for frame in range(frames)]
    parts = [products(q[:, :, mine], k[:, :, all_], v[:, :, all_]) for mine, all_ in zip(own, seen, strict=True)]
    return torch.cat(parts, dim=2)


class Attention(nn.Module):
    """Multi-head self-attention within each of ``sequences`` equally long runs of tokens; (tokens, dim) to the same.

    q/k norm and RoPE in the alternating blocks only. causal_frames: into how many equally long frames a sequence falls,
    of which each sees itself and those before it; 1 where all tokens see all.
    """

    causal_frames = 1

    def __init__(self, dim: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.products = Attend()

    def forward(self, x: Tensor, sequences: int, rope: RopeTables | None = None) -> Tensor:
        """x (tokens, dim) of ``sequences`` equally long sequences to the same shape."""
        tokens, dim = x.shape
        heads = self.qkv(x).view(sequences, tokens // sequences, 3 * self.heads, dim // self.heads).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            # Both at once: half the graph nodes.
            q, k = rotate(torch.cat([q, k], dim=1), rope).chunk(2, dim=1)
        if self.causal_frames == 1:
            mixed = self.products(q, k, v)
        else:
            mixed = attend_causally(self.products, q, k, v, self.causal_frames)
        return self.proj(mixed.transpose(1, 2).reshape(tokens, dim))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linears with GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) to (..., out)."""
        return self.fc2(functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """A linear gated by another (arXiv 2002.05202), as wide as a DINOv2 giant's; ``w12`` holds both."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = (8 * dim // 3 + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) to the same shape."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A learned factor per channel (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) to the same shape."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block; ``sequences`` runs of tokens, (tokens, dim) to the same.

    Tokens of all frames lie in one matrix, so that a linear is one Gemm node and nothing is reshaped between blocks.

    layer_scale: the initial LayerScale; None for a block without it. gated: a SwiGLU in the place of the MLP.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qk_norm: bool = False,
        eps: float = 1e-5,
        layer_scale: float | None = 0.01,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm)
        self.ls1 = _layer_scale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp: nn.Module = SwiGLU(dim) if gated else Mlp(dim, 4 * dim, dim)
        self.ls2 = _layer_scale(dim, layer_scale)

    def forward(self, x: Tensor, sequences: int, rope: RopeTables | None = None) -> Tensor:
        """x (tokens, dim) of ``sequences`` equally long sequences to the same shape."""
        x = x + self.ls1(self.attn(self.norm1(x), sequences, rope))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def _layer_scale(dim: int, initial: float | None) -> nn.Module:
    return nn.Identity() if initial is None else LayerScale(dim, initial)

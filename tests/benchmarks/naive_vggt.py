"""VGGT as it is usually written, to be measured against: one module per idea, tensors reshaped wherever it is handy.

It loads the same state dict and gives the same outputs as ``vggt_edge.exporter.models.vggt.VGGT``, for any number of
scenes. Nothing in it minds the exporter, except that what depends on the input size alone is a table: with tables
computed in the forward, as the authors' code has them, torch.export refuses the model (reference/vggt.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.exporter.models.config import PATCH, SPECIAL_TOKENS, InputShape, VGGTConfig
from vggt_edge.exporter.models.dpt_head import UVEmbedding

OUTPUTS = ("pose_enc", "depth", "depth_conf", "points", "points_conf")
ROPE_BASE = 100.0
POSE = 9
REGISTERS = SPECIAL_TOKENS - 1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class Rope2D(nn.Module):
    """Rotary embedding of (B, heads, tokens, head_dim): half the channels by the row, half by the column."""

    def __init__(self, grid: tuple[int, int], frames: int, head_dim: int) -> None:
        super().__init__()
        rows = torch.arange(1, grid[0] + 1, device="cpu").repeat_interleave(grid[1])
        columns = torch.arange(1, grid[1] + 1, device="cpu").repeat(grid[0])
        quarter = head_dim // 4
        frequencies = ROPE_BASE ** -(torch.arange(quarter, dtype=torch.float32, device="cpu") / quarter)
        for axis, positions in (("row", rows), ("column", columns)):
            positions = torch.cat((positions.new_zeros(SPECIAL_TOKENS), positions)).repeat(frames)
            angles = torch.outer(positions.float(), frequencies)
            angles = torch.cat((angles, angles), dim=-1)
            self.register_buffer(f"{axis}_cos", angles.cos(), persistent=False)
            self.register_buffer(f"{axis}_sin", angles.sin(), persistent=False)

    def turn(self, x: Tensor, axis: str) -> Tensor:
        cos, sin = self.get_buffer(f"{axis}_cos"), self.get_buffer(f"{axis}_sin")
        return x * cos[None, None] + rotate_half(x) * sin[None, None]

    def forward(self, x: Tensor) -> Tensor:
        by_row, by_column = x.chunk(2, dim=-1)
        return torch.cat((self.turn(by_row, "row"), self.turn(by_column, "column")), dim=-1)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope2D | None = None) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """(B, tokens, dim) to the same."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim, dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rope: Rope2D | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope=rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchProjection(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Dino(nn.Module):
    """Images (N, 3, H, W), normalised, to patch tokens (N, patches, C)."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.side = config.position_grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchProjection(dim)
        self.blocks = nn.ModuleList(Block(dim, config.heads, eps=1e-6) for _ in range(config.dino_depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def positions(self, rows: int, columns: int) -> Tensor:
        if (rows, columns) == (self.side, self.side):
            return self.pos_embed
        square = self.pos_embed[:, 1:].reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        square = functional.interpolate(square, size=(rows, columns), mode="bicubic", antialias=True)
        return torch.cat((self.pos_embed[:, :1], square.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        x = torch.cat((self.cls_token.expand(count, -1, -1), self.patch_embed(images)), dim=1)
        x = x + self.positions(height // PATCH, width // PATCH)
        x = torch.cat((x[:, :1], self.register_tokens.expand(count, -1, -1), x[:, 1:]), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, SPECIAL_TOKENS:]


def first_and_others(token: Tensor, batch: int, frames: int) -> Tensor:
    """(1, 2, N, C), slot 0 for frame 0 and slot 1 for every other, to (B * S, N, C)."""
    first = token[:, :1].expand(batch, 1, *token.shape[2:])
    others = token[:, 1:].expand(batch, frames - 1, *token.shape[2:])
    joined = torch.cat((first, others), dim=1)
    return joined.reshape(batch * frames, *joined.shape[2:])


class Aggregator(nn.Module):
    """Images (B, S, 3, H, W) to one tensor (B, S, P, 2C) per pair of blocks."""

    def __init__(self, config: VGGTConfig, shape: InputShape) -> None:
        super().__init__()
        dim = config.embed_dim
        self.patch_embed = Dino(config)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, REGISTERS, dim))
        self.frame_blocks = nn.ModuleList(Block(dim, config.heads, qk_norm=True) for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(Block(dim, config.heads, qk_norm=True) for _ in range(config.depth))
        self.frame_rope = Rope2D(shape.grid, 1, dim // config.heads)
        self.global_rope = Rope2D(shape.grid, shape.frames, dim // config.heads)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, 1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        batch, frames = images.shape[:2]
        images = (images - self.get_buffer("mean")) / self.get_buffer("std")
        patches = self.patch_embed(images.reshape(batch * frames, *images.shape[2:]))
        camera = first_and_others(self.camera_token, batch, frames)
        registers = first_and_others(self.register_token, batch, frames)
        x = torch.cat((camera, registers, patches), dim=1)
        _, tokens, dim = x.shape
        entries = []
        for frame_block, global_block in zip(self.frame_blocks, self.global_blocks, strict=True):
            x = frame_block(x.reshape(batch * frames, tokens, dim), rope=self.frame_rope)
            local = x.reshape(batch, frames, tokens, dim)
            x = global_block(x.reshape(batch, frames * tokens, dim), rope=self.global_rope)
            entries.append(torch.cat((local, x.reshape(batch, frames, tokens, dim)), dim=-1))
        return entries


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


class CameraHead(nn.Module):
    """Entries to one pose encoding (B, S, 9) per refinement."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = 2 * config.embed_dim
        self.iterations = config.camera_iterations
        self.token_norm = nn.LayerNorm(dim)
        self.trunk = nn.Sequential(*(Block(dim, config.camera_heads) for _ in range(config.camera_trunk_depth)))
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE))
        self.embed_pose = nn.Linear(POSE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(dim, dim // 2, POSE)

    def forward(self, entries: list[Tensor]) -> list[Tensor]:
        tokens = self.token_norm(entries[-1][:, :, 0])
        batch, frames, _ = tokens.shape
        pose: Tensor | None = None
        predictions = []
        for _ in range(self.iterations):
            seen = self.empty_pose_tokens.expand(batch, frames, -1) if pose is None else pose
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(seen)).chunk(3, dim=-1)
            x = gate * modulate(self.adaln_norm(tokens), shift, scale) + tokens
            delta = self.pose_branch(self.trunk_norm(self.trunk(x)))
            pose = delta if pose is None else pose + delta
            predictions.append(torch.cat((pose[..., :3], pose[..., 3:7], functional.relu(pose[..., 7:])), dim=-1))
        return predictions


class ResidualConvUnit(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)  # in place in the authors' code: the sum below is with relu(x)
        return x + self.conv2(functional.relu(self.conv1(x)))


class Fusion(nn.Module):
    def __init__(self, features: int, *, residual: bool) -> None:
        super().__init__()
        if residual:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        x = functional.interpolate(self.resConfUnit2(x), size=size, mode="bilinear", align_corners=True)
        return self.out_conv(x)


class Scratch(nn.Module):
    def __init__(self, config: VGGTConfig, outputs: int) -> None:
        super().__init__()
        features = config.dpt_features
        for index, width in enumerate(config.dpt_channels, start=1):
            self.add_module(f"layer{index}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{index}", Fusion(features, residual=index < len(config.dpt_channels)))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, config.dpt_hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.dpt_hidden, outputs, 1),
        )


def uv_table(channels: int, height: int, width: int, aspect: float) -> Tensor:
    """The embedding of the image plane at full size, (1, channels, H, W)."""
    thin = UVEmbedding(channels, height, width, aspect)
    return thin.across + thin.down


class DPTHead(nn.Module):
    """Entries to raw maps (B * S, outputs, H, W)."""

    def __init__(self, config: VGGTConfig, shape: InputShape, outputs: int) -> None:
        super().__init__()
        self.taps, self.grid, self.size = config.taps, shape.grid, (shape.height, shape.width)
        dim, channels, aspect = 2 * config.embed_dim, config.dpt_channels, shape.width / shape.height
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(channels[0], channels[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], kernel_size=3, stride=2, padding=1),
            )
        )
        self.scratch = Scratch(config, outputs)
        for index, width in enumerate(channels):
            self.register_buffer(f"uv{index}", uv_table(width, *self.grid, aspect), persistent=False)
        self.register_buffer("uv_out", uv_table(config.dpt_features // 2, *self.size, aspect), persistent=False)

    def level(self, index: int, tokens: Tensor) -> Tensor:
        x = tokens[:, :, SPECIAL_TOKENS:]
        x = self.norm(x.reshape(-1, *x.shape[2:]))
        x = x.permute(0, 2, 1).reshape(x.shape[0], x.shape[-1], *self.grid)
        x = self.projects[index](x)
        return self.resize_layers[index](x + self.get_buffer(f"uv{index}").expand(x.shape[0], -1, -1, -1))

    def forward(self, entries: list[Tensor]) -> Tensor:
        levels = [self.level(index, entries[tap]) for index, tap in enumerate(self.taps)]
        scratch = self.scratch
        levels = [scratch.get_submodule(f"layer{index}_rn")(x) for index, x in enumerate(levels, start=1)]
        x = scratch.refinenet4(levels[3], None, levels[2].shape[-2:])
        x = scratch.refinenet3(x, levels[2], levels[1].shape[-2:])
        x = scratch.refinenet2(x, levels[1], levels[0].shape[-2:])
        x = scratch.refinenet1(x, levels[0], (2 * levels[0].shape[-2], 2 * levels[0].shape[-1]))
        x = functional.interpolate(scratch.output_conv1(x), size=self.size, mode="bilinear", align_corners=True)
        x = x + self.get_buffer("uv_out").expand(x.shape[0], -1, -1, -1)
        return scratch.output_conv2(x)


def activated(maps: Tensor, batch: int, *, points: bool) -> tuple[Tensor, Tensor]:
    """Raw (B * S, values + 1, H, W) to values (B, S, H, W, values) and confidence (B, S, H, W)."""
    maps = maps.permute(0, 2, 3, 1)
    values, confidence = maps[..., :-1], maps[..., -1]
    values = torch.sign(values) * torch.expm1(torch.abs(values)) if points else torch.exp(values)
    confidence = 1 + confidence.exp()
    return values.reshape(batch, -1, *values.shape[1:]), confidence.reshape(batch, -1, *confidence.shape[1:])


class NaiveVGGT(nn.Module):
    """Images (B, S, 3, H, W) to the tensors of ``OUTPUTS``, shapes as those of ``vggt_edge``'s VGGT."""

    def __init__(self, config: VGGTConfig, shape: InputShape) -> None:
        super().__init__()
        self.aggregator = Aggregator(config, shape)
        self.camera_head = CameraHead(config)
        self.depth_head = DPTHead(config, shape, outputs=2)
        self.point_head = DPTHead(config, shape, outputs=4)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        batch = images.shape[0]
        entries = self.aggregator(images)
        pose = self.camera_head(entries)[-1]
        depth, depth_confidence = activated(self.depth_head(entries), batch, points=False)
        points, points_confidence = activated(self.point_head(entries), batch, points=True)
        return pose, depth.squeeze(-1), depth_confidence, points, points_confidence

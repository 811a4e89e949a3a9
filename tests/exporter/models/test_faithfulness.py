"""Our modules against a naive reference: the state dict alone, run the way the paper's model runs it, in float64.

The reference shares no code with exporter/models: RoPE by slices and concatenations, attention written out frame by
frame, the image-plane embedding on a full grid, an in-place ReLU in the residual units, expm1.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vggt_edge.exporter.models.config import VGGTConfig
from vggt_edge.exporter.models.streamvggt import StreamVGGT
from vggt_edge.exporter.models.vggt import VGGT

SPECIAL = 5


class Reference:
    """A scene (S, 3, H, W) to pose_enc, depth, depth_conf, points, points_conf.

    causal: a frame sees itself and those before it, as in StreamVGGT.
    """

    def __init__(self, state: dict[str, Tensor], config: VGGTConfig, *, causal: bool = False) -> None:
        self.state, self.config, self.causal = state, config, causal

    def __call__(self, images: Tensor) -> list[Tensor]:
        self.height, self.width = images.shape[-2:]
        self.rows, self.columns = self.height // 14, self.width // 14
        entries = self.aggregate(images)
        depth, points = self.dense(entries, "depth_head"), self.dense(entries, "point_head")
        return [
            self.camera(entries[-1]),
            torch.exp(depth[:, 0]),
            1 + torch.exp(depth[:, 1]),
            (torch.sign(points[:, :3]) * torch.expm1(points[:, :3].abs())).permute(0, 2, 3, 1),
            1 + torch.exp(points[:, 3]),
        ]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
        return unit * self.state[f"{name}.weight"] + self.state[f"{name}.bias"] if name else unit

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return functional.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, padding)

    # --- transformer

    def block(
        self,
        x: Tensor,
        name: str,
        heads: int,
        eps: float = 1e-5,
        positions: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """x: (tokens, C); positions: (tokens, 2) rows and columns, which also says that q and k are normalised.

        frames: (tokens,), the number of each token's frame, where tokens of several frames meet.
        """
        hidden = self.masked(frames) if frames is not None and self.causal else None
        x = x + self.state[f"{name}.ls1.gamma"] * self.attention(
            self.norm(x, f"{name}.norm1", eps), f"{name}.attn", heads, positions, hidden
        )
        wide = self.linear(self.norm(x, f"{name}.norm2", eps), f"{name}.mlp.fc1")
        wide = 0.5 * wide * (1 + torch.erf(wide / 2**0.5))
        return x + self.state[f"{name}.ls2.gamma"] * self.linear(wide, f"{name}.mlp.fc2")

    @staticmethod
    def masked(frames: Tensor) -> Tensor:
        """(tokens, tokens): which keys lie in a later frame than the query."""
        return frames[None, :] > frames[:, None]

    def attention(
        self, x: Tensor, name: str, heads: int, positions: Tensor | None, hidden: Tensor | None = None
    ) -> Tensor:
        queries, keys, values = self.linear(x, f"{name}.qkv").chunk(3, dim=-1)
        size = x.shape[-1] // heads
        mixed = []
        for head in range(heads):
            q, k, v = (t[:, head * size : (head + 1) * size] for t in (queries, keys, values))
            if positions is not None:
                q = rope_2d(self.norm(q, f"{name}.q_norm"), positions)
                k = rope_2d(self.norm(k, f"{name}.k_norm"), positions)
            scores = torch.exp(q @ k.T / size**0.5)
            if hidden is not None:
                scores = scores.masked_fill(hidden, 0)
            mixed.append((scores / scores.sum(-1, keepdim=True)) @ v)
        return self.linear(torch.cat(mixed, dim=-1), f"{name}.proj")

    # --- aggregator

    def dino(self, image: Tensor) -> Tensor:
        """(3, H, W) normalised to (patches, C)."""
        name = "aggregator.patch_embed"
        patches = self.conv_patches(image, f"{name}.patch_embed.proj")
        table, side = self.state[f"{name}.pos_embed"][0], self.config.position_grid
        places = table[1:]
        if (self.rows, self.columns) != (side, side):
            square = places.T.reshape(1, -1, side, side)
            resized = functional.interpolate(square, (self.rows, self.columns), mode="bicubic", antialias=True)
            places = resized[0].flatten(1).T
        cls = self.state[f"{name}.cls_token"][0] + table[:1]
        x = torch.cat([cls, self.state[f"{name}.register_tokens"][0], patches + places])
        for index in range(self.config.dino_depth):
            x = self.block(x, f"{name}.blocks.{index}", self.config.heads, eps=1e-6)
        return self.norm(x, f"{name}.norm", eps=1e-6)[SPECIAL:]

    def conv_patches(self, image: Tensor, name: str) -> Tensor:
        """The patch convolution as what it is: one product per 14 x 14 square, row by row."""
        squares = [
            image[:, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14].flatten()
            for row in range(self.rows)
            for column in range(self.columns)
        ]
        return torch.stack(squares) @ self.state[f"{name}.weight"].flatten(1).T + self.state[f"{name}.bias"]

    def aggregate(self, images: Tensor) -> list[Tensor]:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        frames = []
        for index, image in enumerate(images):
            slot = min(index, 1)
            camera = self.state["aggregator.camera_token"][0, slot]
            registers = self.state["aggregator.register_token"][0, slot]
            frames.append(torch.cat([camera, registers, self.dino((image - mean) / std)]))
        places = [(row + 1, column + 1) for row in range(self.rows) for column in range(self.columns)]
        positions = torch.tensor([(0, 0)] * SPECIAL + places)
        everywhere = torch.cat([positions] * len(frames))
        numbers = torch.arange(len(frames)).repeat_interleave(len(positions))
        entries, heads = [], self.config.heads
        for index in range(self.config.depth):
            frames = [self.block(x, f"aggregator.frame_blocks.{index}", heads, positions=positions) for x in frames]
            together = self.block(
                torch.cat(frames), f"aggregator.global_blocks.{index}", heads, positions=everywhere, frames=numbers
            )
            after = list(together.chunk(len(frames)))
            entries.append(torch.stack([torch.cat(pair, dim=-1) for pair in zip(frames, after, strict=True)]))
            frames = after
        return entries

    # --- heads

    def camera(self, entry: Tensor) -> Tensor:
        tokens = self.norm(entry[:, 0], "camera_head.token_norm")
        pose = None
        for _ in range(self.config.camera_iterations):
            seen = self.state["camera_head.empty_pose_tokens"][0].expand(len(tokens), -1) if pose is None else pose
            embedded = functional.silu(self.linear(seen, "camera_head.embed_pose"))
            shift, scale, gate = self.linear(embedded, "camera_head.poseLN_modulation.1").chunk(3, dim=-1)
            x = tokens + gate * (self.norm(tokens, "", eps=1e-6) * (1 + scale) + shift)
            for index in range(self.config.camera_trunk_depth):
                x = self.block(
                    x, f"camera_head.trunk.{index}", self.config.camera_heads, frames=torch.arange(len(tokens))
                )
            hidden = self.linear(self.norm(x, "camera_head.trunk_norm"), "camera_head.pose_branch.fc1")
            step = self.linear(functional.gelu(hidden), "camera_head.pose_branch.fc2")
            pose = step if pose is None else pose + step
        assert pose is not None
        return torch.cat([pose[:, :7], pose[:, 7:].clamp(min=0)], dim=-1)

    def dense(self, entries: list[Tensor], name: str) -> Tensor:
        levels = []
        for level, tap in enumerate(self.config.taps):
            x = self.norm(entries[tap], f"{name}.norm")[:, SPECIAL:]
            x = x.permute(0, 2, 1).reshape(len(x), -1, self.rows, self.columns)
            x = self.with_uv(self.conv(x, f"{name}.projects.{level}"))
            levels.append(self.conv(self.resize(x, f"{name}.resize_layers", level), *self.level_conv(name, level)))
        x = levels[3]
        for number in (4, 3, 2, 1):
            fusion = f"{name}.scratch.refinenet{number}"
            if number < 4:
                x = x + self.residual(levels[number - 1], f"{fusion}.resConfUnit1")
            x = self.residual(x, f"{fusion}.resConfUnit2")
            size = levels[number - 2].shape[-2:] if number > 1 else (2 * x.shape[-2], 2 * x.shape[-1])
            x = functional.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
            x = self.conv(x, f"{fusion}.out_conv")
        x = self.conv(x, f"{name}.scratch.output_conv1", padding=1)
        x = functional.interpolate(x, (self.height, self.width), mode="bilinear", align_corners=True)
        x = torch.relu(self.conv(self.with_uv(x), f"{name}.scratch.output_conv2.0", padding=1))
        return self.conv(x, f"{name}.scratch.output_conv2.2")

    @staticmethod
    def level_conv(name: str, level: int) -> tuple[str, int, int]:
        return f"{name}.scratch.layer{level + 1}_rn", 1, 1

    def resize(self, x: Tensor, name: str, level: int) -> Tensor:
        if level in (0, 1):
            weight, bias = self.state[f"{name}.{level}.weight"], self.state[f"{name}.{level}.bias"]
            return functional.conv_transpose2d(x, weight, bias, stride=(4, 2)[level])
        return self.conv(x, f"{name}.3", stride=2, padding=1) if level == 3 else x

    def residual(self, x: Tensor, name: str) -> Tensor:
        """The published unit shares one in-place ReLU, so what it adds at the end has been rectified as well."""
        x = x.clone()
        out = self.conv(x.relu_(), f"{name}.conv1", padding=1)
        return self.conv(out.relu_(), f"{name}.conv2", padding=1) + x

    def with_uv(self, x: Tensor) -> Tensor:
        """x: (S, channels, h, w) plus 0.1 times sines and cosines of the pixel's place, the diagonal being 2 long."""
        channels, rows, columns = x.shape[1:]
        diagonal = (self.width**2 + self.height**2) ** 0.5
        half_width, half_height = self.width / diagonal, self.height / diagonal
        grid = torch.empty(channels, rows, columns)
        quarter = channels // 4
        for row in range(rows):
            for column in range(columns):
                u = half_width * ((2 * column + 1) / columns - 1)
                v = half_height * ((2 * row + 1) / rows - 1)
                angles = torch.tensor([[u], [v]]) / 100 ** (torch.arange(quarter) / quarter)
                grid[:, row, column] = torch.cat([angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()])
        return x + 0.1 * grid


def rope_2d(x: Tensor, positions: Tensor) -> Tensor:
    """x: (tokens, channels): the first half turns by the row, the second by the column; base 100."""
    halves = []
    for axis, half in enumerate(x.chunk(2, dim=-1)):
        size = half.shape[-1]
        angles = positions[:, axis, None] / 100 ** (torch.arange(0, size, 2) / size)
        angles = torch.cat([angles, angles], dim=-1)
        left, right = half[:, : size // 2], half[:, size // 2 :]
        halves.append(half * torch.cos(angles) + torch.cat([-right, left], dim=-1) * torch.sin(angles))
    return torch.cat(halves, dim=-1)


@pytest.fixture(autouse=True)
def _float64() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", [VGGT, StreamVGGT])
@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [
        pytest.param(2, 42, 42, id="native grid"),
        pytest.param(3, 28, 56, id="wide"),
        pytest.param(1, 70, 42, id="one frame, tall"),
    ],
)
def test_every_output_equals_the_naive_reference(
    build_tiny: Callable[..., VGGT],
    random_images: Callable[..., Tensor],
    tiny_config: VGGTConfig,
    frames: int,
    height: int,
    width: int,
    kind: type[VGGT],
) -> None:
    model = build_tiny(frames, height, width, kind=kind)
    images = random_images(1, frames, 3, height, width)
    expected = Reference(dict(model.state_dict()), tiny_config, causal=kind is StreamVGGT)(images[0])
    for name, ours, reference in zip(model.output_names, model(images), expected, strict=True):
        assert ours.shape == (1, *reference.shape), name
        assert reference.std() > 0.01, f"{name} is flat: the comparison would show nothing"
        # What is left is the rounding of our float32 tables.
        assert (ours[0] - reference).abs().max() < 1e-5 * reference.abs().max().clamp(min=1), name


def test_the_skip_of_a_residual_unit_is_rectified(build_tiny: Callable[..., VGGT], tiny_config: VGGTConfig) -> None:
    unit = build_tiny(1, 42, 42).depth_head.scratch.refinenet1.resConfUnit2
    negative = -torch.ones(1, tiny_config.dpt_features, 3, 3)
    assert torch.equal(unit(negative), unit(torch.zeros_like(negative)))


def test_field_of_view_is_rectified_only_at_the_end(
    build_tiny: Callable[..., VGGT], random_images: Callable[..., Tensor]
) -> None:
    """The raw accumulator is fed back: clipping it in between would change the next refinement."""
    model = build_tiny(2, 42, 42, ("camera",))
    model.camera_head.pose_branch.fc2.bias[7:] = -3.0
    clipped = model(random_images(1, 2, 3, 42, 42))[0]
    assert (clipped[..., 7:] == 0).all()
    assert (clipped[..., :7] != 0).all()

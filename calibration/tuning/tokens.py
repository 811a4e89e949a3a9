"""The special tokens of a frame (camera, registers) in calibration: which tokens count, what stands in for those that
do not, and scales of their own.

Five tokens of a frame are special; they are large in every layer. QVGGT (arXiv 2605.31124) leaves them out of all
statistics and searches, and restores what the camera head then lacks with a token made from their distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor

from vggt_edge.calibration.apply import ACTIVATION_PERCENTILE
from vggt_edge.calibration.observation.observe import PATCH, SPECIAL
from vggt_edge.calibration.observation.stats import CalibrationStats, TensorStats
from vggt_edge.calibration.quantization.quantize import activation_scale, dequantize
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES
from vggt_edge.calibration.scheme import INT8
from vggt_edge.calibration.transforms.hadamard import sylvester
from vggt_edge.devices.errors import InputError, UsageError

BASIS = 32  # directions that QVGGT keeps of the camera tokens' distribution


@dataclass(frozen=True)
class TokenPolicy:
    """What a patch token and a special token weigh in statistics and searches; a weight of 0 leaves the group out."""

    patch: float = 1.0
    special: float = 1.0

    def __post_init__(self) -> None:
        if min(self.patch, self.special) < 0 or max(self.patch, self.special) <= 0:
            raise UsageError(
                f"token weights {self.patch:g} and {self.special:g}",
                where="token policy",
                expected="weights of at least 0, one of them above 0",
            )

    def weights(self, special: Tensor) -> Tensor:
        """Of tokens of which ``special`` (N,) says which are special: (N,), 1 for all where none would count."""
        weights = torch.where(special, self.special, self.patch)
        return weights if bool((weights > 0).any()) else torch.ones_like(weights)

    def counted(self, x: Tensor, special: Tensor) -> Tensor:
        """The rows of x (N, C) that count; all where none would (the camera head sees special tokens only)."""
        return x[self.weights(special) > 0]

    def groups(self, stats: CalibrationStats, layer: str) -> tuple[TensorStats, ...]:
        """The token groups of a layer's statistics that count; all of them where none would."""
        found = stats.of_layer(layer)
        by_group = {PATCH: self.patch, SPECIAL: self.special}
        return tuple(tensor for tensor in found if by_group[tensor.group] > 0) or found


PATCHES_ONLY = TokenPolicy(special=0.0)
"""QVGGT's token filter."""


def special_of(rows: int, tokens_per_frame: int, special_tokens: int) -> Tensor:
    """(rows,): which rows of a layer's input are special: the first of each frame, and those behind the last frame."""
    row = torch.arange(rows)
    return (row % tokens_per_frame < special_tokens) | (row >= rows - rows % tokens_per_frame)


@dataclass(frozen=True)
class TokenBasis:
    """The principal part of a distribution of tokens. mean: (C,). directions: (K, C), orthonormal. variances: (K,),
    along the directions (of the samples as they are, divided by their number), largest first.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor


def token_basis(tokens: Tensor, count: int = BASIS) -> TokenBasis:
    """PCA of tokens (n, C): K = min(count, n - 1, C) directions. ``InputError`` for tokens that are none or not finite.

    A single token, or n equal ones, has a mean and no direction that varies.
    """
    if tokens.ndim != 2 or not len(tokens) or not bool(torch.isfinite(tokens).all()):
        raise InputError(
            f"no distribution can be taken from tokens of shape {tuple(tokens.shape)}",
            where="camera tokens",
            expected="at least one token (n, C), all values finite",
            remedy="check the scenes and the FP32 model",
        )
    kept = min(count, len(tokens) - 1, tokens.shape[1])
    values = tokens.detach().double()
    mean = values.mean(dim=0)
    _, spread, directions = torch.linalg.svd(values - mean, full_matrices=False)
    variances = spread[:kept].square() / len(tokens)
    return TokenBasis(mean.float(), directions[:kept].float(), variances.float())


def design_points(basis: TokenBasis) -> Tensor:
    """Few tokens, (m, C), that stand for a distribution: the law is that of its mean and covariance.

    Our replacement of the compensation token. m is the smallest power of two above K. Token i is
    mean + sum_k h_ik sqrt(variance_k) u_k, with h the columns of a Hadamard matrix but for the constant one: orthogonal
    columns of +-1 that sum to 0. So the m tokens have exactly the mean of the samples, and exactly their covariance as
    far as the K directions hold it (all of it where K is n - 1). The usual sigma points mean +- sqrt(K variance_k) u_k
    have the same moments, but lie sqrt(K) deviations out on one axis, where no sample is, and so stretch every range
    that is taken from them; here each token is one deviation from the mean along every axis, as far as samples are on
    average.
    """
    kept = len(basis.variances)
    signs = sylvester(1 << kept.bit_length())[:, 1 : kept + 1]
    return basis.mean + (signs * basis.variances.sqrt()) @ basis.directions


def whole_frames(tokens: Tensor, frames: int) -> Tensor:
    """Tokens (m, C), repeated in turn until they fill inputs of ``frames`` tokens, as the camera head takes them."""
    return tokens.repeat(lcm(len(tokens), frames) // len(tokens), 1)


@dataclass(frozen=True)
class TokenScales:
    """Static int8 scales of a layer's input, one for each token group; of a group it never sees, that of the other."""

    patch: float
    special: float


def token_scales(stats: CalibrationStats, layer: str) -> TokenScales:
    """Each group's scale by the rule of ``apply.input_peak``, which takes the larger of both for all tokens."""
    found = {
        tensor.group: activation_scale(tensor.percentile(ACTIVATION_PERCENTILE)) for tensor in stats.of_layer(layer)
    }
    patch, special = found.get(PATCH), found.get(SPECIAL)
    return TokenScales(patch or special or 1.0, special or patch or 1.0)


def scale_vector(scales: TokenScales, special: Tensor) -> Tensor:
    """(N,), the scale of each token, where ``special`` (N,) says which are special."""
    return torch.where(special, scales.special, scales.patch)


def fake_quantize_tokens(
    x: Tensor, patch_scale: float, special_scale: float, tokens_per_frame: int, special_tokens: int
) -> Tensor:
    """x (N, C), tokens of whole frames, to int8 and back, special tokens with a scale of their own.

    Bit for bit what ``Form.fake_quantize_input`` gives for each group apart. For simulation and the ablation only: no
    backend has static scales per token (TensorRT, Core ML and XNNPACK know one per tensor or dynamic ones).
    Rows behind the last whole frame are special.
    """
    special = special_of(len(x), tokens_per_frame, special_tokens)
    scale = scale_vector(TokenScales(patch_scale, special_scale), special)[:, None]
    # The reciprocal in double, as quantize_per_tensor takes it from a Python number: another one rounds otherwise.
    inverse = scale_vector(TokenScales(1 / patch_scale, 1 / special_scale), special)[:, None]
    return dequantize(INPUT_RANGES[INT8].nearest(x * inverse).to(torch.int8), scale)

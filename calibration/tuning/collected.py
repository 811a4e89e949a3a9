"""What tuning keeps of the inputs of one layer: sums, peaks and a sample, all of a size that scenes do not change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import sqrt

import torch
from torch import Tensor, nn

from vggt_edge.calibration.quantization.form import Kind
from vggt_edge.calibration.sensitivity.probe_layers import seeded
from vggt_edge.calibration.sensitivity.probes import Seen
from vggt_edge.calibration.tuning.input_scale import Sample
from vggt_edge.calibration.tuning.layer import Evidence
from vggt_edge.calibration.tuning.moments import Moments
from vggt_edge.calibration.tuning.parts import Parts

SAMPLED_TOKENS = 2048  # of a linear, from all scenes together
SAMPLED_PLACES = 8192  # of a convolution's maps, from all scenes together
_GOLDEN = (sqrt(5) - 1) / 2


def sampled_places(kind: Kind) -> int:
    """How many tokens, or places of maps, are kept of the inputs of a layer at most."""
    return SAMPLED_TOKENS if kind is Kind.LINEAR else SAMPLED_PLACES


@dataclass
class Collected:
    """What has come into one layer so far; of tokens, and of places of maps, a share of each scene is kept.

    The share is evenly spread. The more scenes, the smaller it is: memory does not grow with their number.
    """

    name: str
    scenes: int
    parts: Parts
    moments: Moments | None = None
    samples: list[Sample] = field(default_factory=list)
    channel_absmax: Tensor | None = None

    def add(self, layer: nn.Module, seen: Seen) -> None:
        if not self.parts.task or not bool(seen.by_output.any()):  # no weighted output depends on this layer
            seen = _for_reconstruction(layer, seen, f"{self.name} {len(self.samples)}")
        channels = seen.x.movedim(1, -1) if seen.x.ndim == 4 else seen.x
        peaks = channels.abs().flatten(0, -2).amax(dim=0)
        self.channel_absmax = peaks if self.channel_absmax is None else torch.maximum(self.channel_absmax, peaks)
        if isinstance(layer, nn.Linear):
            rows, slopes = seen.x.reshape(-1, seen.x.shape[-1]), seen.by_input.reshape(-1, seen.x.shape[-1])
            moments = Moments.of(rows, _weights(seen.by_output.reshape(len(rows), -1)))
            self.moments = moments if self.moments is None else self.moments.absorb(moments)
            kept = _spread(len(rows), max(1, SAMPLED_TOKENS // self.scenes))
            self.samples.append(Sample(rows[kept].clone(), slopes[kept].clone(), len(kept) / len(rows)))
        else:
            self.samples.append(_places(seen, SAMPLED_PLACES // self.scenes))

    def evidence(self, layer: nn.Module) -> Evidence:
        assert self.channel_absmax is not None
        share = sum(one.share for one in self.samples) / len(self.samples)
        x, slopes = (torch.cat([getattr(one, name) for one in self.samples]) for name in ("x", "slopes"))
        evidence = Evidence(None, Sample(x, slopes, share), self.channel_absmax)
        if self.moments is None:
            return evidence
        if self.parts.bias and layer.bias is not None:
            return replace(evidence, hessian=self.moments.about_mean, mean=self.moments.mean)
        return replace(evidence, hessian=self.moments.second)


def _weights(by_output: Tensor) -> Tensor:
    """Weights of tokens, (rows,): the mean square of the gradient by what comes out for each."""
    return by_output.float().square().mean(dim=1)


def _for_reconstruction(layer: nn.Module, seen: Seen, key: str) -> Seen:
    """A probe of the layer's own output instead of the task's: <slopes, d>^2 is what d does to it, on average."""
    weight = layer.get_parameter("weight").detach()
    axis = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
    norms = weight.transpose(axis, -1).flatten(0, -2).norm(dim=0)
    signs = torch.randint(0, 2, seen.x.shape, generator=seeded(key)) * 2 - 1
    slopes = signs * (norms[:, None, None] if seen.x.ndim == 4 else norms)
    return Seen(seen.x, slopes, torch.ones_like(seen.by_output))


def _places(seen: Seen, wanted: int) -> Sample:
    """About ``wanted`` places of maps (N, C, H, W), the same of each map, as maps (N, C, 1, places); or all of them.

    Multiples of the golden ratio spread evenly without falling into step with the rows of the map.
    """
    of_each, size = max(1, wanted // len(seen.x)), seen.x[0, 0].numel()
    if of_each >= size:
        return Sample(seen.x.clone(), seen.by_input.clone(), 1.0)
    turns = torch.arange(of_each, dtype=torch.float64) * _GOLDEN
    kept = torch.unique((turns.frac() * size).long())
    x, slopes = (values.flatten(2)[:, :, None, kept] for values in (seen.x, seen.by_input))
    return Sample(x, slopes, len(kept) / size)


def _spread(count: int, wanted: int) -> Tensor:
    return torch.linspace(0, count - 1, min(wanted, count)).long()

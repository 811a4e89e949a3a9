"""QVGGT (arXiv 2605.31124): AWQ's scale search on patch tokens only, judged by what the heads put out as well.

Per linear, s = mean|X|^r over patch tokens, at 20 ratios r, scaled about 1 as AWQ does. Of these the one is taken with
the least sum of two errors: of the layer's output, on patch tokens, and of the model's outputs with this layer alone
quantized (camera, depth, points, cross-head: calibration/tuning/objective.py). Then clipping, as AWQ has it. The camera
head, which sees special tokens only, is calibrated with tokens that stand for the camera tokens of all scenes.

What differs, and why:

- The paper is weight-only; where a scheme quantizes activations, both errors see that. Static ranges are taken from all
  tokens: a range without the special tokens would clip them, which is not what a filter of search statistics is for.
- Affordable: the model's outputs are asked for only of the ``SHORTLIST`` ratios with the least layer error, and on the
  first ``JUDGED`` scenes. All 20 for all linears are 20 forwards of the model for each; a ratio whose layer error
  is not among the best would need a far better task error. Everything before the layer's block is remembered, not
  computed.
- The paper's weights of the terms are not known to us: each error is divided by that of the ratio with the least layer
  error, so that both count alike.
- The published compensation token is the mean of the camera tokens (tuning/tokens.py has the proof); the camera
  head is given the design points of their distribution instead, as inputs of its calibration only. Rescaling them to
  the norm of patch tokens would change nothing there: the head begins with a LayerNorm.
- Cross-head agreement is distilled from FP32 (calibration/tuning/objective.py says why).
- Left out: keeping fragile blocks in a higher precision, since every row of the comparison quantizes all blocks alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from vggt_edge.calibration.apply import swapped
from vggt_edge.calibration.observation.collect import calibrate, images_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.calibration.sensitivity.ablation import BlockMemo
from vggt_edge.calibration.stages.journal import MemoryJournal
from vggt_edge.calibration.stages.walk import IMAGES, Stage, StagedModel, walk
from vggt_edge.calibration.tuning.objective import task_loss
from vggt_edge.calibration.tuning.tokens import PATCHES_ONLY, design_points, token_basis, whole_frames
from vggt_edge.exporter.contest.peers.awq import QUERY_KEY_VALUE, RATIOS, Found, scaled, scales, search_clip
from vggt_edge.exporter.contest.peers.inputs import (
    ROWS,
    M,
    block_linears,
    block_order,
    channel_peaks,
    generator_of,
    quantized_copy,
    special_rows,
    watched,
)
from vggt_edge.exporter.contest.peers.layer import SimulatedLinear

SHORTLIST, JUDGED = 5, 2
NOTHING = 1e-30  # an error below counts as none

TaskError = Callable[[str, nn.Module], float]
"""Of the model's outputs, with the linear of this name replaced and everything else FP32."""


def quantize(model: M, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> M:
    """A quantized copy for simulation; ``model`` is left as it is. seed: of the tokens that the search looks at.

    Memory: the inputs and outputs of all block calls of ``JUDGED`` scenes, ``ROWS`` tokens of each linear of a stage.
    ``InputError`` without scenes.
    """
    stats, linears = calibrate(model, scenes), block_linears(model)
    judges, found = [Judge(model, scene) for scene in scenes[:JUDGED]], dict[str, Found]()

    def task_error(name: str, layer: nn.Module) -> float:
        return sum(judge.error(name, layer) for judge in judges)

    for sampled in searched_stages(model, scenes, seed):
        for name, x in sampled.items():
            found[name] = search(name, linears[name], x, channel_peaks(stats, name), scheme, task_error)

    def make(name: str, layer: nn.Linear) -> SimulatedLinear:
        return scaled(layer, found[name].divisor, channel_peaks(stats, name), scheme, found[name].clip)

    return quantized_copy(model, stats, scheme, make)


def search(name: str, layer: nn.Linear, x: Tensor, peaks: Tensor, scheme: Scheme, error: TaskError) -> Found:
    """x: (rows, in), inputs of the layer that count. peaks: (in,), of all tokens."""
    divisor = scales(x, search_ratio(name, layer, x, peaks, scheme, error))
    clip = search_clip(layer.weight.detach() * divisor, x / divisor, scheme)
    if name.endswith(QUERY_KEY_VALUE):
        clip[: 2 * (len(clip) // 3)] = 1.0  # as in AWQ, q and k keep their range
    return Found(divisor, clip)


def search_ratio(name: str, layer: nn.Linear, x: Tensor, peaks: Tensor, scheme: Scheme, error: TaskError) -> float:
    """The best ratio of the shortlist; that with the smaller layer error among equals."""
    forms = [scaled(layer, scales(x, step / RATIOS), peaks, scheme) for step in range(RATIOS)]
    with torch.no_grad():
        wanted = functional.linear(x, layer.weight, layer.bias)
        of_layer = [float((form(x) - wanted).square().mean()) for form in forms]
    shortlist = sorted(range(RATIOS), key=of_layer.__getitem__)[:SHORTLIST]
    of_task = {step: error(name, forms[step]) for step in shortlist}
    least = shortlist[0]

    def total(step: int) -> float:
        return of_layer[step] / max(of_layer[least], NOTHING) + of_task[step] / max(of_task[least], NOTHING)

    return min(shortlist, key=total) / RATIOS


class Judge:
    """The task loss of one scene against its FP32 outputs, with one linear at a time replaced."""

    def __init__(self, model: StagedModel, scene: Scene) -> None:
        self.model, self.images, self.blocks = model, images_of(scene), model.blocks()
        self.block_of = {name: block for block, names in block_order(model).items() for name in names}
        self.memo = BlockMemo(self.blocks)
        with self.memo.recording():
            self.reference = self._outputs()

    def _outputs(self) -> dict[str, Tensor]:
        with torch.inference_mode():
            return dict(zip(self.model.output_names, self.model(self.images), strict=True))

    def error(self, name: str, layer: nn.Module) -> float:
        """With ``layer`` in place of the linear called ``name``; the model is left as it was."""
        block = self.block_of[name]
        replaced = {name.removeprefix(f"{block}."): layer}
        with swapped(self.blocks[block], replaced), self.memo.replaying(computed=block):
            return float(task_loss(self.model.outputs, self._outputs(), self.reference))


def searched_stages(model: StagedModel, scenes: Sequence[Scene], seed: int) -> Iterator[dict[str, Tensor]]:
    """After each stage, the tokens (rows, in) that a search of its linears looks at, by name: patch tokens only.

    About ``ROWS`` of each linear, drawn evenly from all its calls. A stage that reads nothing but special tokens is run
    once more, on the tokens that stand for them, and those are what its linears are searched with.
    """
    journal, seen = MemoryJournal(), dict[str, list[Tensor]]()
    linears = block_linears(model)
    share = -(-ROWS // len(scenes))

    def see(name: str, x: Tensor) -> None:
        parts = seen.setdefault(name, [])
        x = PATCHES_ONLY.counted(x, special_rows(model, len(x)))
        chosen = torch.randperm(len(x), generator=generator_of(f"{name} {len(parts)}", seed))[:share]
        parts.append(x[chosen.sort().values])

    def around(stage: Stage) -> AbstractContextManager[None]:
        inside = {name: linears[name] for block in stage.blocks for name in block_order(model).get(block, ())}
        tokens = special_tokens_read(model, stage, journal, len(scenes))
        return _compensated(stage, tokens, inside, see) if tokens else watched(inside, see)

    for _ in walk(model, [images_of(scene) for scene in scenes], journal, around=around):
        if seen:
            yield {name: torch.cat(parts) for name, parts in seen.items()}
            seen.clear()


def special_tokens_read(
    model: StagedModel, stage: Stage, journal: MemoryJournal, scenes: int
) -> dict[str, list[Tensor]]:
    """What a stage with blocks reads, by name and scene, if all of it is special tokens alone; else nothing."""
    constants = {IMAGES, *model.constants()}
    reads = [name for name in stage.reads if name not in constants] if stage.blocks else []
    found = {name: [journal.get(scene, name) for scene in range(scenes)] for name in reads}
    special = all(value.ndim == 2 and bool(special_rows(model, len(value)).all()) for (value, *_) in found.values())
    return found if special else {}


@contextmanager
def _compensated(
    stage: Stage, tokens: Mapping[str, Sequence[Tensor]], linears: Mapping[str, nn.Linear], see: Callable[..., None]
) -> Iterator[None]:
    """Runs ``stage`` on what stands for ``tokens``, watched; its own run, within this context, is not."""
    points = {
        name: whole_frames(design_points(token_basis(torch.cat(list(values)))), len(values[0]))
        for name, values in tokens.items()
    }
    with watched(linears, see):
        stage(points)
    yield

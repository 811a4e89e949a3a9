"""What the methods that we compare with are given: the inputs of linears, and the copy of the model to fill in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from vggt_edge.calibration.apply import check_weights, replacement
from vggt_edge.calibration.observation.collect import images_of, layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import SCHEMES, Scheme
from vggt_edge.calibration.stages.journal import MemoryJournal
from vggt_edge.calibration.stages.walk import IMAGES, Stage, StagedModel, last_readers, walk
from vggt_edge.devices.errors import InputError, UnknownNameError

ROWS = 2048  # tokens of one layer that a search looks at
REST = SCHEMES["fp16"]  # of layers outside the blocks, as a plan's rest scheme

M = TypeVar("M", bound=StagedModel)
Make = Callable[[str, nn.Linear], nn.Module]
"""The name of a linear (``<block>.<path in the block>``, as in the statistics) and the linear, to what replaces it."""
See = Callable[[str, Tensor], None]
"""The name of a linear and one input of it, (tokens, in)."""


@dataclass(frozen=True)
class Rows:
    """values: (rows, in), in the order in which the layer saw them. special: (rows,), True for special tokens."""

    values: Tensor
    special: Tensor


def linears_of(name: str, block: nn.Module) -> dict[str, nn.Linear]:
    """The linears of the block called ``name``, by ``<name>.<path in the block>``."""
    return {f"{name}.{path}": layer for path, layer in layers_of(block).items() if isinstance(layer, nn.Linear)}


def block_order(model: StagedModel) -> dict[str, tuple[str, ...]]:
    """The names of each block's linears, blocks in the order in which they run; those without linears are not in it."""
    named = {name: tuple(linears_of(name, block)) for name, block in model.blocks().items()}
    return {name: linears for name, linears in named.items() if linears}


def channel_peaks(stats: CalibrationStats, name: str) -> Tensor:
    """(in,): the largest magnitude that calibration saw in each input channel of a layer, special tokens included."""
    return torch.from_numpy(stats.channel_peaks(name))


def block_linears(model: StagedModel) -> dict[str, nn.Linear]:
    """Every linear of every block by its name in the statistics, in the order in which the blocks run."""
    return {path: layer for name, block in model.blocks().items() for path, layer in linears_of(name, block).items()}


def sampled_stages(
    model: StagedModel, scenes: Sequence[Scene], names: Iterable[str], rows: int = ROWS, seed: int = 0
) -> Iterator[dict[str, Rows]]:
    """After each stage in which a layer of ``names`` runs, a sample of what its layers read, by layer name.

    At most ``rows`` tokens of each, drawn uniformly from those of all scenes, special ones too. Memory: one stage's.
    ``InputError`` without scenes, ``UnknownNameError`` for a layer that is no linear of a block.
    """
    checked_scenes(scenes)
    known = block_linears(model)
    wanted = set(names)
    for name in sorted(wanted - known.keys()):
        raise UnknownNameError("layer", name, known)
    draws: dict[str, _Draw] = {}

    def see(name: str, x: Tensor) -> None:
        draws.setdefault(name, _Draw(rows, generator_of(name, seed))).add(x, special_rows(model, len(x)))

    def around(stage: Stage) -> AbstractContextManager[None]:
        return watched({name: layer for name, layer in _stage_linears(model, stage).items() if name in wanted}, see)

    for _ in walk(model, [images_of(scene) for scene in scenes], MemoryJournal(), around=around):
        if draws:
            yield {name: draw.rows() for name, draw in draws.items()}
            draws.clear()


def checked_scenes(scenes: Sequence[Scene]) -> None:
    if not scenes:
        raise InputError(
            "there are no scenes to calibrate on", expected="at least one scene", remedy="name some with --scenes"
        )


def special_rows(model: StagedModel, rows: int) -> Tensor:
    """(rows,): which tokens of a layer's input are special; all where rows are not whole frames (the camera head)."""
    if rows % model.shape.tokens:
        return torch.ones(rows, dtype=torch.bool)
    return torch.arange(rows) % model.shape.tokens < model.special_tokens


def generator_of(name: str, seed: int) -> torch.Generator:
    """Of one layer, so that what is drawn for it does not depend on the layers before."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class _Draw:
    """Uniform sample of a stream of tokens: those with the smallest random keys stay."""

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        self.size, self.generator = rows, generator
        self.kept: tuple[Tensor, ...] = ()

    def add(self, x: Tensor, special: Tensor) -> None:
        new = (torch.rand(len(x), generator=self.generator), x, special)
        joined = tuple(map(torch.cat, zip(self.kept, new, strict=True))) if self.kept else new
        chosen = joined[0].argsort(stable=True)[: self.size].sort().values
        self.kept = tuple(part[chosen] for part in joined)

    def rows(self) -> Rows:
        # Clones made outside of inference mode: a method may want gradients.
        return Rows(self.kept[1].clone(), self.kept[2].clone())


@contextmanager
def watched(layers: Mapping[str, nn.Linear], see: See) -> Iterator[None]:
    """Within this context ``see`` is told the name and the input of each of ``layers`` before it runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: see(name, inputs[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stage_linears(model: StagedModel, stage: Stage) -> dict[str, nn.Linear]:
    blocks = model.blocks()
    return {name: layer for block in stage.blocks for name, layer in linears_of(block, blocks[block]).items()}


def quantized_copy(model: M, stats: CalibrationStats, scheme: Scheme, make: Make) -> M:
    """A copy of ``model`` with ``make(name, layer)`` for each linear of a block; the model itself is left as it is.

    Convolutions of blocks get ``scheme`` as quantization/apply.py gives it, with ``stats`` and FP32 activations where
    it says so, and layers outside the blocks FP16: every method shares them. ``InputError`` for weights that are not
    finite, and for statistics of another model.
    """
    copied = deepcopy(model)
    blocks, whole = copied.blocks(), cast(nn.Module, copied)
    inside = {id(layer) for block in blocks.values() for layer in layers_of(block).values()}
    outside = {path: layer for path, layer in layers_of(whole).items() if id(layer) not in inside}
    for name, block in blocks.items():
        for path, layer in layers_of(block).items():
            full = f"{name}.{path}"
            check_weights(full, layer)
            made = make(full, layer) if isinstance(layer, nn.Linear) else None
            block.set_submodule(path, made or replacement(layer, full, Form.of(scheme, LayerShape.of(layer)), stats))
    for path, layer in outside.items():
        whole.set_submodule(path, replacement(layer, path, Form.of(REST, LayerShape.of(layer)), stats))
    return copied


def quantized_in_order(
    model: M,
    stats: CalibrationStats,
    scheme: Scheme,
    scenes: Sequence[Scene],
    see: See,
    make: Make,
    *,
    one_by_one: bool = False,
) -> M:
    """As ``quantized_copy``, one block after the other, each shown what leaves those before it, quantized already.

    Before ``make`` is called for the linears of a block, ``see`` is told the inputs of these, of all scenes in order,
    in inference mode. one_by_one: so it goes for every linear, not only for every block. Memory: the running values of
    all scenes. ``InputError`` without scenes.
    """
    checked_scenes(scenes)
    copied = quantized_copy(model, stats, scheme, lambda name, layer: layer)
    stages, blocks = copied.stages(), copied.blocks()
    values = [{IMAGES: images_of(scene), **copied.constants()} for scene in scenes]
    last = last_readers(stages)
    for index, stage in enumerate(stages):
        for name in stage.blocks:
            linears = linears_of(name, blocks[name])
            for part in ({full: layer} for full, layer in linears.items()) if one_by_one else (linears,):
                _convert(name, blocks[name], part, stage, values, see, make)
        _advance(stage, values, [name for name in (*stage.reads, *stage.writes) if last.get(name, -1) <= index])
    return copied


def _convert(
    name: str,
    block: nn.Module,
    linears: Mapping[str, nn.Linear],
    stage: Stage,
    values: Sequence[Mapping[str, Tensor]],
    see: See,
    make: Make,
) -> None:
    if not linears:
        return
    with watched(linears, see), torch.inference_mode():
        for scene in values:
            stage(scene)
    for full, layer in linears.items():
        block.set_submodule(full.removeprefix(f"{name}."), make(full, layer))


def _advance(stage: Stage, values: Sequence[dict[str, Tensor]], dropped: Sequence[str]) -> None:
    read_later = not set(stage.writes) <= set(dropped)
    for scene in values:
        if read_later:
            with torch.inference_mode():
                scene.update(stage(scene))
        for name in dropped:
            scene.pop(name, None)

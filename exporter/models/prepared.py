"""Prepared and tuned models on disk: shards of safetensors in the folder of a step, mapped and never read whole.

A prepared model is one whose exact transforms are done (calibration/transforms); a tuned one has, besides, weights of
the grid of its plan, and what is needed to find that grid again (calibration/quantization/tuned.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import layers_of
from vggt_edge.calibration.quantization.tuned import Tuned, any_tuned, set_tuned
from vggt_edge.calibration.stages.walk import Stage
from vggt_edge.calibration.transforms.prepare import prepared_shapes, prepared_tensors
from vggt_edge.calibration.transforms.rewrite import take_form
from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.architecture import Model
from vggt_edge.exporter.models.checkpoint import Checkpoint
from vggt_edge.exporter.models.shape import InputShape

SHARD_BYTES = 256 << 20
_TUNED_KEY = "vggt_edge.tuned"
_GRID = "|"  # between a layer's name and what tuning found for it: no module has it in its name


def write_prepared(model: Model, seed: int, folder: Path) -> None:
    """The weights of the prepared ``model`` as shards of about ``SHARD_BYTES``; the model stays as it is."""
    for index, shard in enumerate(_shards(prepared_tensors(model, seed))):
        save_file(shard, folder / f"part-{index:03}.safetensors")


def open_prepared(checkpoint: Checkpoint, shape: InputShape, heads: Sequence[str], folder: Path) -> Model:
    """What ``write_prepared`` wrote, mapped. ``InputError`` for shards that are missing or damaged."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("part-*.safetensors")):
        tensors |= _mapped(path)[0]
    with torch.device("meta"):
        model = checkpoint.architecture.build(checkpoint.config, shape, heads)
    take_form(model, tensors)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise _damaged(folder, error) from error
    return model.fix_constants()


def model_of_form(checkpoint: Checkpoint, shape: InputShape, heads: Sequence[str]) -> Model:
    """A model of the prepared form for its shapes alone; its weights are not prepared."""
    with torch.device("meta"):
        model = checkpoint.architecture.build(checkpoint.config, shape, heads)
    names = model.state_dict().keys()
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name in names}
    model.load_state_dict(tensors, assign=True)
    take_form(model, prepared_shapes(model))
    return model.fix_constants()


def save_tuned(model: Model, stage: Stage, index: int, folder: Path) -> None:
    """Write the blocks of one tuned stage, and map them back, so that their memory is the file's."""
    tensors: dict[str, Tensor] = {}
    found: dict[str, dict[str, object]] = {}
    for name in stage.blocks:
        block = model.blocks()[name]
        tensors |= {f"{name}.{key}": tensor.contiguous() for key, tensor in block.state_dict().items()}
        for path, layer in layers_of(block).items():
            if (tuned := any_tuned(layer)) is not None:
                grids = {key: value for key, value in vars(tuned).items() if isinstance(value, Tensor)}
                tensors |= {f"{name}.{path}{_GRID}{key}": value.contiguous() for key, value in grids.items()}
                found[f"{name}.{path}"] = {"scheme": tuned.scheme, "input_scale": tuned.input_scale}
    if tensors:
        shard = _shard_of(folder, index)
        scratch = shard.with_suffix(".partial")
        save_file(tensors, scratch, metadata={_TUNED_KEY: json.dumps(found, sort_keys=True)})
        scratch.replace(shard)
        _adopt(model.blocks(), shard)


def adopt_tuned(model: Model, folder: Path, first: int = 0) -> None:
    """Put what ``save_tuned`` wrote of the stages from ``first`` on into a prepared ``model``, in place.

    ``InputError`` for damaged shards.
    """
    blocks = model.blocks()
    for index in range(first, len(model.stages())):
        if (path := _shard_of(folder, index)).is_file():
            _adopt(blocks, path)


def _shard_of(folder: Path, index: int) -> Path:
    return folder / f"stage-{index:03}.safetensors"


def _adopt(blocks: Mapping[str, nn.Module], path: Path) -> None:
    tensors, metadata = _mapped(path)
    found = json.loads(metadata.get(_TUNED_KEY, "{}"))
    for name, block in blocks.items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        if not own:
            continue
        weights = {key: value for key, value in own.items() if _GRID not in key}
        try:
            block.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise _damaged(path, error) from error
        block.requires_grad_(False)
        for layer_path, layer in layers_of(block).items():
            if f"{name}.{layer_path}" in found:
                set_tuned(layer, _tuned(found[f"{name}.{layer_path}"], layer_path, own))


def _tuned(said: Mapping[str, object], path: str, tensors: Mapping[str, Tensor]) -> Tuned:
    scale = said["input_scale"]
    return Tuned(
        scheme=str(said["scheme"]),
        weight_scale=tensors.get(f"{path}{_GRID}weight_scale"),
        weight_table=tensors.get(f"{path}{_GRID}weight_table"),
        input_scale=scale if isinstance(scale, float) else None,
    )


def _shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors:
        shard[name] = tensor.contiguous()
        if sum(each.nbytes for each in shard.values()) >= SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def _mapped(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as archive:
            keys: Collection[str] = archive.keys()
            return {key: archive.get_tensor(key) for key in keys}, archive.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"what an earlier step wrote cannot be read: {str(error).splitlines()[0]}",
        where=str(path),
        expected="the shards of that step, whole",
        remedy="run again without --resume",
    )

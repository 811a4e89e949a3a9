"""From what people save to plain tensor names: wrappers, prefixes, adapters, copies, constants beside the weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.architecture import Architecture
from vggt_edge.exporter.models.architectures import architectures
from vggt_edge.exporter.models.shards import a_few

# Where training scripts put the weights, the one to be taken first; averaged copies only where there is nothing else.
WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "net", "weights", "params")
AVERAGES = ("ema", "model_ema", "ema_state_dict", "ema_model", "state_dict_ema", "averaged_model")
# Put between the parts of a name by torch.compile, activation checkpointing and FSDP.
_INSERTED = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save|hada_\w+|dora_\w+)(\.|$)")
_SCALE = re.compile(r"(weight_scale(_inv)?|scale_weight|input_scale|scale_inv)$")
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


@dataclass(frozen=True)
class StateDict:
    """Tensors under the names of their architecture, and what the user should know of how they were found."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def unwrapped(loaded: object) -> StateDict | None:
    """The mapping of names to tensors inside what ``torch.load`` gave; None where there is none."""
    path: list[str] = []
    notes: list[str] = []
    while isinstance(loaded, dict):
        wrapper = next((name for name in (*WRAPPERS, *AVERAGES) if isinstance(loaded.get(name), dict)), None)
        if wrapper is None:
            break
        beside = [str(name) for name in loaded if name != wrapper]
        averages = [name for name in beside if name in AVERAGES]
        path.append(wrapper)
        if beside:
            chosen = f"weights taken from {'/'.join(path)!r}; the file holds {a_few(beside)} as well"
            notes.append(chosen + (f" ({a_few(averages)}: an averaged copy that was not taken)" if averages else ""))
        loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(map(_is_plain, loaded.values())):
        return None
    return StateDict({str(name): loaded[name] for name in sorted(loaded, key=str)}, tuple(notes))


def _is_plain(value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return dense and not value.is_quantized  # type: ignore[attr-defined]


def canonical(found: StateDict, where: str) -> StateDict:
    """The tensors under the names of the architecture that they nearly fit, without what training left in the names.

    ``InputError`` for adapters (LoRA) that are not merged, and for weights whose scales are stored apart.
    """
    _refuse_adapters(found.tensors, where)
    _refuse_scaled(found.tensors, where)
    tensors = {_INSERTED.sub("", name): tensor for name, tensor in found.tensors.items()}
    prefixes = dict.fromkeys(prefix for one in architectures().values() for prefix in _prefixes(one, tensors))
    if not prefixes or "" in prefixes:
        return StateDict(tensors, found.notes)
    chosen = min(prefixes, key=lambda prefix: (_is_average(prefix), len(prefix), prefix))
    own = {name.removeprefix(chosen): tensor for name, tensor in tensors.items() if name.startswith(chosen)}
    notes = [*found.notes]
    if left := sorted(name for name in tensors if not name.startswith(chosen)):
        notes.append(f"weights taken from the names that begin with {chosen!r}; left out: {a_few(left)}")
    return StateDict(own, tuple(notes))


def _prefixes(one: Architecture, names: Collection[str]) -> Iterator[str]:
    """Every prefix under which all keys of the architecture are there."""
    first, *others = one.keys
    for name in names:
        prefix = name.removesuffix(first)
        if prefix != name and (not prefix or prefix.endswith(".")) and all(prefix + key in names for key in others):
            yield prefix


def _is_average(prefix: str) -> bool:
    return any(part in (*AVERAGES, "teacher") or part.startswith("ema") for part in prefix.split("."))


def _refuse_adapters(tensors: Mapping[str, Tensor], where: str) -> None:
    if adapters := [name for name in tensors if _ADAPTER.search(name)]:
        deltas = sum("lora_" in name for name in adapters)
        raise InputError(
            f"the checkpoint holds {deltas or len(adapters)} LoRA deltas that are not merged ({a_few(adapters)})",
            where=where,
            expected="the weights of the whole model",
            remedy="merge them where the model was trained (PEFT: model.merge_and_unload()), then save its state dict",
        )


def _refuse_scaled(tensors: Mapping[str, Tensor], where: str) -> None:
    if scales := [name for name in tensors if _SCALE.search(name)]:
        raise InputError(
            f"the weights are quantized already: {len(scales)} tensors are scales ({a_few(scales)})",
            where=where,
            expected="weights in float32, float16 or bfloat16",
            remedy="give the checkpoint that was quantized; vggt-edge quantizes it for the target",
        )


def with_shared(tensors: Mapping[str, Tensor], one: Architecture) -> dict[str, Tensor]:
    """``tensors`` with those added that the file holds under another name only, because modules share them."""
    return {name: tensors[other] for name, other in one.shared.items() if other in tensors} | dict(tensors)


def without_buffers(tensors: Mapping[str, Tensor], one: Architecture, where: str) -> dict[str, Tensor]:
    """Without the constants that the model has built in; ``InputError`` where they have other values."""
    for name, values in one.buffers.items():
        if name in tensors and not _equal(tensors[name], values):
            raise InputError(
                f"{name} is not the constant that {one.name} is computed with",
                where=where,
                expected=f"{values}",
                remedy="the model was trained with another normalisation of images, which is not supported",
            )
    return {name: tensor for name, tensor in tensors.items() if name not in one.buffers}


def _equal(tensor: Tensor, values: tuple[float, ...]) -> bool:
    flat = tensor.flatten().double()
    near = 1e-6 if tensor.dtype.itemsize >= 4 else 1e-3
    return len(flat) == len(values) and bool(torch.allclose(flat, flat.new_tensor(values), atol=near))

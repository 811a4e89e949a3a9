"""Reading a checkpoint, from wherever it lies, into a VGGT of a fixed input shape; and writing one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.devices.errors import InputError, ResourceError
from vggt_edge.exporter.models.config import InputShape, VGGTConfig, config_from_json, config_to_json
from vggt_edge.exporter.models.vggt import VGGT

CONFIG_KEY = "vggt_edge.config"
# The track head is never exported; of the others, one that was not asked for is left out.
_HEADS = ("track_head.", "camera_head.", "depth_head.", "point_head.")
_SHOWN_NAMES = 5
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A state dict as the file holds it, with what is known of it. ``digest`` is the sha256 of the file's bytes.

    The tensors are views of the mapped file: nothing is read before it is used, and nothing is held twice.
    """

    source: str
    config: VGGTConfig
    digest: str
    tensors: Mapping[str, Tensor]


def read_checkpoint(path: Path, *, source: str | None = None) -> Checkpoint:
    """Read ``.safetensors`` or a PyTorch file (weights only, never pickled code).

    Without our own metadata a checkpoint is taken to be VGGT-1B. ``InputError`` for a missing, corrupt or hostile file.
    """
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}", expected="a .safetensors or .pt file", remedy="check the path given to --model"
        )
    if path.suffix == ".safetensors":
        tensors, config = _read_safetensors(path)
    else:
        tensors, config = _read_torch(path), VGGTConfig()
    return Checkpoint(source or path.name, config, file_digest(path), tensors)


def build_model(checkpoint: Checkpoint, shape: InputShape, outputs: Sequence[str]) -> VGGT:
    """A VGGT with the checkpoint's weights, constants fixed, in evaluation mode.

    ``InputError`` names the missing, unexpected, misshapen, non-float or non-finite tensors.
    """
    with torch.device("meta"):
        model = VGGT(checkpoint.config, shape, outputs)
    expected = model.state_dict()
    ignored = tuple(head for head in _HEADS if not any(name.startswith(head) for name in expected))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(ignored)}
    _check_names(expected, tensors, checkpoint)
    _check_values(tensors, checkpoint)
    # Assigned, not copied: a checkpoint in FP32 stays mapped from its file, one in FP16 is held once, in FP32.
    model.load_state_dict({name: tensor.detach().float() for name, tensor in tensors.items()}, assign=True)
    return model.fix_constants()


def save_checkpoint(state: Mapping[str, Tensor], config: VGGTConfig, path: Path) -> None:
    """Write safetensors with the sizes in its metadata, so that it can be read without being told what it is.

    Written aside and renamed: a process that has the old file mapped keeps it. ``ResourceError`` for a full disk or a
    read-only folder.
    """
    ordered = {name: state[name].detach().float().contiguous() for name in sorted(state)}
    scratch = path.with_name(path.name + ".partial")
    try:
        save_file(ordered, scratch, metadata={CONFIG_KEY: config_to_json(config)})
        scratch.chmod(0o644)  # safetensors writes for the owner alone
        scratch.replace(path)
    except (SafetensorError, OSError) as error:
        raise ResourceError(
            f"cannot write the checkpoint {path.name}: {error}", where=str(path), expected="a writable folder with room"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        content = hashlib.sha256()
        while chunk := stream.read(_CHUNK_BYTES):
            content.update(chunk)
    return content.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], VGGTConfig]:
    try:
        with safe_open(path, framework="pt") as archive:
            names: list[str] = sorted(archive.keys())
            metadata: dict[str, str] = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in names}
    except Exception as error:  # what the parser raises on damaged bytes is not documented
        raise _unreadable(path, error) from error
    config = _config_of(metadata[CONFIG_KEY], path) if CONFIG_KEY in metadata else VGGTConfig()
    return tensors, config


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_mappable(path))
    except Exception as error:  # damaged bytes raise anything from struct.error to AssertionError
        raise _unreadable(path, error) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(map(_is_plain, loaded.values())):
        raise InputError(
            f"{path.name} holds no state dict", where=str(path), expected="a mapping from tensor names to dense tensors"
        )
    return {str(name): loaded[name] for name in sorted(loaded, key=str)}


def _mappable(path: Path) -> bool:
    """Whether ``path`` is a zip archive, whose tensors can be mapped. Mapping a compressed one would yield noise."""
    if not zipfile.is_zipfile(path):
        return False  # the format before PyTorch 1.6
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("the archive is compressed; write it with torch.save")
    return True


def _is_plain(value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return dense and not value.is_quantized  # type: ignore[attr-defined]


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"cannot read the checkpoint {path.name}: {reason[0]}",
        where=str(path),
        expected="a complete .safetensors file, or a .pt state dict without pickled code",
        remedy="download the checkpoint again and compare its size and checksum with the publisher's",
    )


def _config_of(text: str, path: Path) -> VGGTConfig:
    try:
        return config_from_json(text)
    except ValueError as error:
        raise InputError(
            f"the metadata of {path.name} describes no VGGT: {error}",
            where=f"{path}, metadata {CONFIG_KEY}",
            expected="the sizes as vggt-edge writes them",
        ) from error


def _check_names(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    problems = []
    config = checkpoint.config
    for label, names in (("missing", set(expected) - set(got)), ("unexpected", set(got) - set(expected))):
        if names:
            problems.append(f"{len(names)} {label} ({_some(names)})")
    misshapen = [
        f"{name} is {tuple(got[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(got))
        if got[name].shape != expected[name].shape
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} misshapen ({_some(misshapen)})")
    if problems:
        raise InputError(
            f"the checkpoint does not fit {config.name}: {'; '.join(problems)}",
            where=checkpoint.source,
            expected=f"the {len(expected)} tensors of {config.name}, embed dim {config.embed_dim}",
            remedy="give a checkpoint of this architecture, or one that vggt-edge wrote with its sizes in the metadata",
        )


def _check_values(tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    other = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if other:
        raise InputError(
            f"{len(other)} tensors are no floating-point weights ({_some(other)})",
            where=checkpoint.source,
            expected="weights in float32, float16 or bfloat16",
        )
    # A sum is NaN or infinite if any element is, and keeps no mask.
    damaged = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.sum(dtype=torch.float64))]
    if damaged:
        raise InputError(
            f"{len(damaged)} tensors hold NaN or infinite weights ({_some(damaged)})",
            where=checkpoint.source,
            expected="finite weights",
            remedy="the checkpoint is damaged or its training diverged; use another one",
        )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f", and {len(ordered) - _SHOWN_NAMES} more" if len(ordered) > _SHOWN_NAMES else ""
    return ", ".join(ordered[:_SHOWN_NAMES]) + more

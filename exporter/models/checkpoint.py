"""Reading a checkpoint, from wherever it lies, into a VGGT of a fixed input shape; and writing one."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.devices.errors import InputError, ResourceError
from vggt_edge.exporter.models.config import InputShape, VGGTConfig, config_from_json, config_to_json
from vggt_edge.exporter.models.mapping import release_pages
from vggt_edge.exporter.models.shards import a_few, check_whole, shard_files
from vggt_edge.exporter.models.vggt import VGGT

CONFIG_KEY = "vggt_edge.config"
RANDOM_KEY = "vggt_edge.random"
# The track head is never exported; of the others, one that was not asked for is left out.
_HEADS = ("track_head.", "camera_head.", "depth_head.", "point_head.")
_CHUNK_BYTES = 1 << 20
_RESIDENT_BYTES = 64 << 20  # how much of a mapped file is held while it is scanned
_RANDOM = re.compile(r"seed -?\d{1,20}", re.ASCII)
# What tells one width or depth from another, by any name: the groups of blocks that a checkpoint may have fewer of.
_DEPTHS = {
    "DINO blocks": re.compile(r"aggregator\.patch_embed\.blocks\.(\d+)\."),
    "frame blocks": re.compile(r"aggregator\.frame_blocks\.(\d+)\."),
    "global blocks": re.compile(r"aggregator\.global_blocks\.(\d+)\."),
    "camera trunk blocks": re.compile(r"camera_head\.trunk\.(\d+)\."),
}
_WIDTH = re.compile(r"aggregator\..*\.norm1\.weight")

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Checkpoint:
    """A state dict as the file holds it, with what is known of it.

    The tensors are views of the mapped file, in its own dtype: nothing is read before it is used, and nothing is held
    twice. ``digest`` is the sha256 of the file's bytes, of all shards in order of name. ``random`` is not empty where
    the weights are random (``seed 0``): then no figure about accuracy means anything, and every report has to say so.
    """

    source: str
    config: VGGTConfig
    digest: str
    tensors: Mapping[str, Tensor]
    random: str = ""


def read_checkpoint(path: Path, *, source: str | None = None, on_progress: OnProgress | None = None) -> Checkpoint:
    """Read ``.safetensors``, an index of its shards, or a PyTorch file (weights only, never pickled code).

    Without our own metadata a checkpoint is taken to be VGGT-1B. ``on_progress`` gets bytes digested and in all.
    ``InputError`` for a missing, incomplete, corrupt or hostile file, and for shards that are not all there.
    """
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}", expected="a .safetensors or .pt file", remedy="check the path given to --model"
        )
    files, metadata = shard_files(path), dict[str, str]()
    if files[0].suffix == ".safetensors":
        tensors, metadata = _read_all(files)
    else:
        tensors = _read_torch(path)
    config = _config_of(metadata[CONFIG_KEY], path) if CONFIG_KEY in metadata else VGGTConfig()
    digest = file_digest(*files, on_progress=on_progress)
    return Checkpoint(source or path.name, config, digest, tensors, _random_of(metadata))


def build_model(checkpoint: Checkpoint, shape: InputShape, outputs: Sequence[str]) -> VGGT:
    """A VGGT with the checkpoint's weights, constants fixed, in evaluation mode.

    ``InputError`` names the missing, unexpected, misshapen, non-float or non-finite tensors.
    """
    with torch.device("meta"):
        model = VGGT(checkpoint.config, shape, outputs)
    expected = model.state_dict()
    ignored = tuple(head for head in _HEADS if not any(name.startswith(head) for name in expected))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(ignored)}
    check_names(expected, tensors, checkpoint)
    check_values(tensors, checkpoint.source)
    # Assigned, not copied: a checkpoint in FP32 stays mapped from its file, one in FP16 is held once, in FP32.
    model.load_state_dict({name: _widened(tensor) for name, tensor in tensors.items()}, assign=True)
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


def file_digest(*paths: Path, on_progress: OnProgress | None = None) -> str:
    """sha256 of the files' bytes, one after the other; ``on_progress`` gets bytes read and in all."""
    # Read, not mapped: the pages stay with the system's cache and never count as this process's memory.
    content, done = hashlib.sha256(), 0
    total = sum(path.stat().st_size for path in paths)
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                content.update(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, total)
    return content.hexdigest()


def _read_all(files: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of all shards; each is known to be whole before the first is opened."""
    for file in files:
        check_whole(file)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        found, said = _read_safetensors(file)
        if twice := tensors.keys() & found.keys():
            raise _unreadable(file, ValueError(f"another shard holds {a_few(twice)} as well"))
        tensors |= found
        metadata |= said
    return {name: tensors[name] for name in sorted(tensors)}, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as archive:
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118  no mapping
            return tensors, archive.metadata() or {}
    except Exception as error:  # what the parser raises on damaged bytes is not documented
        raise _unreadable(path, error) from error


def _random_of(metadata: Mapping[str, str]) -> str:
    """Shown in reports, so only what we ourselves write is taken from the file word for word."""
    said = metadata.get(RANDOM_KEY, "")
    return said if not said or _RANDOM.fullmatch(said) else "seed unknown"


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
        with path.open("rb") as stream:
            if stream.read(4) == b"PK\x03\x04":  # its table of contents stands at the end
                raise ValueError("the archive is incomplete, its end is missing")
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


def check_names(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """``InputError`` unless ``got`` has exactly the expected names and shapes; another width or depth is said first."""
    other_size = _other_size(_sizes(expected), _sizes(got))
    problems = [other_size] if other_size else []
    misshapen = [
        f"{name} is {tuple(got[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(got))
        if got[name].shape != expected[name].shape
    ]
    missing, unexpected = set(expected) - set(got), set(got) - set(expected)
    for label, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if names:
            problems.append(f"{len(names)} {label} ({a_few(names)})")
    if problems:
        config = checkpoint.config
        raise InputError(
            f"the checkpoint does not fit {config.name}: {'; '.join(problems)}",
            where=checkpoint.source,
            expected=f"the {len(expected)} tensors of {config.name}, embed dim {config.embed_dim}",
            remedy="give a checkpoint of this architecture, or one that vggt-edge wrote with its sizes in the metadata",
        )


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Embed dim and numbers of blocks, as far as names and shapes give them away."""
    sizes = {}
    widths = Counter(tensor.shape[0] for name, tensor in tensors.items() if _WIDTH.fullmatch(name) and tensor.ndim == 1)
    if widths:
        sizes["embed dim"] = widths.most_common(1)[0][0]
    for label, pattern in _DEPTHS.items():
        if indices := {match[1] for name in tensors if (match := pattern.match(name))}:
            sizes[label] = len(indices)
    return sizes


def _other_size(expected: Mapping[str, int], got: Mapping[str, int]) -> str:
    """``it has embed dim 768 and 12 DINO blocks, expected 1024 and 24``; empty where all that can be told is equal."""
    differing = [label for label in expected if got.get(label, expected[label]) != expected[label]]
    if not differing:
        return ""
    found = [f"embed dim {got[label]}" if label == "embed dim" else f"{got[label]} {label}" for label in differing]
    return f"it has {' and '.join(found)}, expected {' and '.join(str(expected[label]) for label in differing)}"


def check_values(tensors: Mapping[str, Tensor], source: str, on_progress: OnProgress | None = None) -> None:
    """``InputError`` unless all weights are finite floats; ``on_progress`` gets bytes scanned and in all.

    Whatever the size of the file, little of it is resident at a time.
    """
    other = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if other:
        raise InputError(
            f"{len(other)} tensors are no floating-point weights ({a_few(other)})",
            where=source,
            expected="weights in float32, float16 or bfloat16",
        )
    damaged = _not_finite(tensors, on_progress)
    if damaged:
        raise InputError(
            f"{len(damaged)} tensors hold NaN or infinite weights ({a_few(damaged)})",
            where=source,
            expected="finite weights",
            remedy="the checkpoint is damaged or its training diverged; use another one",
        )


def _not_finite(tensors: Mapping[str, Tensor], on_progress: OnProgress | None) -> list[str]:
    damaged: list[str] = []
    scanned: list[Tensor] = []
    done, total = 0, sum(tensor.nbytes for tensor in tensors.values())
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            damaged.append(name)
        scanned.append(tensor)
        done += tensor.nbytes
        if done == total or sum(one.nbytes for one in scanned) >= _RESIDENT_BYTES:
            release_pages(scanned)
            scanned = []
        if on_progress is not None:
            on_progress(done, total)
    return damaged


def _is_finite(tensor: Tensor) -> bool:
    """A sum is NaN or infinite if any element is, and keeps no mask; one that only overflowed is taken again, wider."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor.sum(dtype=torch.float64)))


def _widened(tensor: Tensor) -> Tensor:
    """In FP32: the tensor itself, or a copy, for which the pages of the narrow one are given back."""
    wide = tensor.detach().float()
    if wide.dtype != tensor.dtype:
        release_pages([tensor])
    return wide

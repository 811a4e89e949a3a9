"""Reading a checkpoint, from wherever it lies, into a model of a fixed input shape; and writing one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.devices.errors import InputError, ResourceError
from vggt_edge.exporter.models.architecture import Architecture, Model, ModelConfig
from vggt_edge.exporter.models.architectures import architectures, recognise
from vggt_edge.exporter.models.mapping import release_pages
from vggt_edge.exporter.models.shape import InputShape
from vggt_edge.exporter.models.shards import a_few, check_whole, refuse_pointer, shard_files, unreadable
from vggt_edge.exporter.models.torch_file import read_torch
from vggt_edge.exporter.models.unwrapping import FP8, StateDict, canonical, with_shared, without_buffers

CONFIG_KEY = "vggt_edge.config"
ARCHITECTURE_KEY = "vggt_edge.architecture"
RANDOM_KEY = "vggt_edge.random"
_CHUNK_BYTES = 1 << 20
_RESIDENT_BYTES = 64 << 20  # how much of a mapped file is held while it is scanned
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, *FP8)
_RANDOM = re.compile(r"seed -?\d{1,20}", re.ASCII)
_WRITE = "write the file with its sizes by save_checkpoint (docs/how-to/add-a-model.md)"

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Weights:
    """What the files of a checkpoint hold, before it is known what model it is.

    - source: where they come from, for messages.
    - digest: sha256 of the files' bytes, of all shards in order of name.
    - tensors: views of the mapped file, in its own dtype: nothing is read before it is used, or held twice.
    - metadata: of safetensors.
    - notes: what the user should know of how the tensors were found.
    """

    source: str
    path: Path
    digest: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def random(self) -> str:
        """Shown in reports, so only what we ourselves write is taken from the file word for word."""
        said = self.metadata.get(RANDOM_KEY, "")
        return said if not said or _RANDOM.fullmatch(said) else "seed unknown"


@dataclass(frozen=True)
class Checkpoint:
    """A state dict as its files hold it, under the names of its architecture, with what is known of it.

    - tensors: see ``Weights``.
    - random: not empty where the weights are random (``seed 0``): then no figure about accuracy means anything, and
      every report has to say so.
    - notes: what the user should know about these weights.
    """

    source: str
    architecture: Architecture
    config: ModelConfig
    digest: str
    tensors: Mapping[str, Tensor]
    random: str = ""
    notes: tuple[str, ...] = ()

    def heads(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        """The heads to build: ``asked`` in declared order, or all that these weights have.

        ``UnknownNameError`` for a head that the architecture does not have, ``InputError`` for one that these weights
        lack.
        """
        present = self.architecture.heads_in(self.tensors)
        if asked is None:
            # With none at all, the missing tensors are named when the model is built.
            return present or self.architecture.heads
        wanted = self.architecture.checked_heads(asked)
        lacking = [head for head in wanted if head not in present]
        if lacking and present:
            raise InputError(
                f"the checkpoint has no head for {', '.join(lacking)}",
                where=self.source,
                expected="tensors of it, or --outputs without it",
                remedy=f"export what it has: --outputs {','.join(present)}",
            )
        return wanted


def read_checkpoint(
    path: Path,
    *,
    source: str | None = None,
    architecture: str | None = None,
    on_progress: OnProgress | None = None,
) -> Checkpoint:
    """Read a checkpoint and recognise its architecture by the names of its tensors.

    source: shown instead of the file's name. architecture: its name, where tensors fit several. ``on_progress`` gets
    bytes digested and in all. ``InputError`` as ``read_weights``, and for tensors that fit no architecture.
    """
    weights = read_weights(path, source=source, on_progress=on_progress)
    found = canonical(StateDict(weights.tensors, weights.notes), str(path))
    origin = source or "/".join(path.parts[-2:])
    asked = architecture or weights.metadata.get(ARCHITECTURE_KEY)
    one = recognise(found.tensors, str(path), asked=asked, origin=origin)
    tensors = _adapted(one, with_shared(without_buffers(found.tensors, one, str(path)), one), path)
    is_told = asked is not None or CONFIG_KEY in weights.metadata
    return Checkpoint(
        weights.source,
        one,
        _config_of(one, weights, tensors),
        weights.digest,
        tensors,
        weights.random,
        (*found.notes, *(() if is_told else one.notes(origin))),
    )


def read_weights(path: Path, *, source: str | None = None, on_progress: OnProgress | None = None) -> Weights:
    """Read ``.safetensors``, an index of its shards, or a PyTorch file (weights only, never pickled code).

    ``InputError`` for a missing, incomplete, corrupt or hostile file, and for shards that are not all there.
    """
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}", expected="a .safetensors or .pt file", remedy="check the path given to --model"
        )
    refuse_pointer(path)
    files, metadata = shard_files(path), dict[str, str]()
    if files[0].suffix == ".safetensors":
        tensors, metadata = _read_all(files)
        found = StateDict(tensors)
    else:
        found = read_torch(path)
    digest = file_digest(*files, on_progress=on_progress)
    return Weights(source or path.name, path, digest, found.tensors, metadata, found.notes)


def build_model(checkpoint: Checkpoint, shape: InputShape, heads: Sequence[str]) -> Model:
    """A model with the checkpoint's weights and these heads, constants fixed, in evaluation mode.

    ``InputError`` names the missing, unexpected, misshapen, non-float or non-finite tensors.
    """
    one = checkpoint.architecture
    with torch.device("meta"):
        model = one.build(checkpoint.config, shape, heads)
    expected = model.state_dict()
    ignored = tuple(head for head in one.optional if not any(name.startswith(head) for name in expected))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(ignored)}
    check_names(expected, tensors, checkpoint)
    check_values(tensors, checkpoint.source)
    # Assigned, not copied: a checkpoint in FP32 stays mapped from its file, one in FP16 is held once, in FP32.
    model.load_state_dict({name: _widened(tensor) for name, tensor in tensors.items()}, assign=True)
    return model.fix_constants()


def save_checkpoint(
    state: Mapping[str, Tensor], config: ModelConfig, path: Path, of: Architecture | None = None
) -> None:
    """Write safetensors with the sizes in its metadata, so that it can be read without being told what it is.

    of: the architecture; found by the type of its sizes where it is not given. Written aside and renamed: a process
    that has the old file mapped keeps it. ``ResourceError`` for a full disk or a read-only folder.
    """
    ordered = {name: state[name].detach().float().contiguous() for name in sorted(state)}
    scratch = path.with_name(path.name + ".partial")
    one = of or next(each for each in architectures().values() if isinstance(config, each.config_type))
    try:
        save_file(ordered, scratch, metadata={CONFIG_KEY: one.write_config(config)})
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
            raise unreadable(file, ValueError(f"another shard holds {a_few(twice)} as well"))
        tensors |= found
        metadata |= said
    return {name: tensors[name] for name in sorted(tensors)}, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as archive:
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118  no mapping
            return tensors, archive.metadata() or {}
    except Exception as error:  # what the parser raises on damaged bytes is not documented
        raise unreadable(path, error) from error


def _adapted(one: Architecture, tensors: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    try:
        return one.adapted(tensors)
    except ValueError as error:
        raise InputError(
            f"{path.name} does not hold the weights of a {one.name}: {error}",
            where=str(path),
            expected=f"the tensors of {one.name} as its authors save them",
            remedy="the checkpoint is damaged, or saved before its constants were set; use another one",
        ) from error


def _config_of(one: Architecture, weights: Weights, tensors: Mapping[str, Tensor]) -> ModelConfig:
    """``InputError`` for sizes that are not plausible or not supported, and where nothing says them."""
    text = weights.metadata.get(CONFIG_KEY)
    if text is None:
        try:
            default = one.default_config(tensors)
        except ValueError as error:
            raise InputError(
                f"{weights.path.name} is a {one.name} of a size that is not supported: {error}",
                where=str(weights.path),
                expected=f"a supported size, or metadata {CONFIG_KEY} that says it",
                remedy=f"give a model that is supported; of a size of your own, {_WRITE}",
            ) from error
        if default is not None:
            return default
        raise InputError(
            f"{weights.path.name} does not say its sizes",
            where=str(weights.path),
            expected=f"metadata {CONFIG_KEY}",
            remedy=_WRITE,
        )
    try:
        return one.read_config(text)
    except ValueError as error:
        raise InputError(
            f"the metadata of {weights.path.name} describes no {one.name}: {error}",
            where=f"{weights.path}, metadata {CONFIG_KEY}",
            expected="the sizes as vggt-edge writes them",
            remedy=_WRITE,
        ) from error


def check_names(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """``InputError`` unless ``got`` has exactly the expected names and shapes; another width or depth is said first."""
    sizes = checkpoint.architecture.sizes
    other_size = _other_size(sizes(expected), sizes(got))
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
    other = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in _FLOATS]
    if other:
        raise InputError(
            f"{len(other)} tensors are no floating-point weights ({a_few(other)})",
            where=source,
            expected="weights in float32, float16, bfloat16 or plain FP8",
            remedy="give the checkpoint as it was before it was quantized; vggt-edge quantizes it for the target",
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
    if tensor.dtype in FP8:
        tensor = tensor.float()  # torch sums no FP8
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor.sum(dtype=torch.float64)))


def _widened(tensor: Tensor) -> Tensor:
    """In FP32: the tensor itself, or a copy, for which the pages of the narrow one are given back."""
    wide = tensor.detach().float()
    if wide.dtype != tensor.dtype:
        release_pages([tensor])
    return wide

"""Finding a model by name: embedded, a local path, or an id on the Hugging Face hub.

A model is embedded by its weights alone: ``vggt_mini.safetensors`` in this folder is ``vggt-mini``, and its metadata
holds its sizes.
"""

from __future__ import annotations

import re
from pathlib import Path

from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.exporter.models.checkpoint import Checkpoint, OnProgress, read_checkpoint
from vggt_edge.exporter.models.shards import INDEX_SUFFIX, first_shard

MINI = "vggt-mini"
MINI_WEIGHTS = Path(__file__).with_name("vggt_mini.safetensors")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ("model.safetensors", "model.pt")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def embedded_models() -> dict[str, Path]:
    """Name to weights of every model in the package."""
    files = sorted(MINI_WEIGHTS.parent.glob("*.safetensors"))
    return {file.stem.replace("_", "-"): file for file in files}


def open_model(name: str, on_progress: OnProgress | None = None) -> Checkpoint:
    """An embedded model, a file, a folder that holds ``model.safetensors``, ``model.pt`` or shards, or a hub id.

    ``on_progress`` gets bytes read and in all. ``UnknownNameError`` lists the embedded models; ``InputError`` for a
    checkpoint that cannot be had or read.
    """
    embedded = embedded_models()
    if name in embedded:
        return read_checkpoint(embedded[name], source=name, on_progress=on_progress)
    path = _local(name)
    if path is not None:
        return read_checkpoint(path, on_progress=on_progress)
    if _HUB_ID.fullmatch(name):
        return read_checkpoint(_from_hub(name), source=name, on_progress=on_progress)
    raise UnknownNameError(
        "model", name, (*embedded, "a .safetensors or .pt file", "a folder", "a hub id such as org/name")
    )


def _local(name: str) -> Path | None:
    """The checkpoint that ``name`` means as a path, or None where it can only be a name."""
    try:
        path = Path(name).expanduser()
        if name and path.is_dir():
            return _inside(path)
        return path if name.endswith((*_SUFFIXES, INDEX_SUFFIX)) or (name and path.exists()) else None
    except (OSError, RuntimeError):  # too long for a path, or the home of nobody
        return None


def _inside(folder: Path) -> Path:
    for file in _HUB_FILES:
        if (folder / file).is_file():
            return folder / file
    if (sharded := first_shard(folder)) is not None:
        return sharded
    raise InputError(
        f"no checkpoint in folder {folder}",
        where=str(folder),
        expected=f"one of: {', '.join(_HUB_FILES)}, model{INDEX_SUFFIX}",
        remedy="give the path of the checkpoint itself to --model",
    )


def _from_hub(repository: str) -> Path:
    # Imported here: only a hub id needs it, and it is slow to import.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    for file in _HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except LocalEntryNotFoundError as error:
            raise InputError(
                f"model {repository} is neither a folder here nor in the local cache, and the hub cannot be reached",
                expected="a network connection, or a cached download",
                remedy=f"download {_HUB_FILES[0]} elsewhere and give its path to --model",
            ) from error
        except EntryNotFoundError:
            continue
        # OSError: among them every answer with an HTTP error status, and a connection that broke off.
        except (OSError, HFValidationError) as error:
            raise InputError(
                f"the hub refused {repository}: {str(error).splitlines()[0]}",
                expected="a public repository, or one that your token may read",
                remedy="check the id, or log in with `hf auth login`",
            ) from error
    raise InputError(f"{repository} holds no checkpoint", expected=f"one of: {', '.join(_HUB_FILES)}")

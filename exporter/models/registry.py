"""Finding a model by name: embedded, a local path, or an id on the Hugging Face hub.

A model is embedded by its weights alone: ``vggt_mini.safetensors`` in this folder is ``vggt-mini``, and its metadata
holds its sizes.
"""

from __future__ import annotations

import re
from pathlib import Path

from vggt_edge.devices.errors import InputError, UnknownNameError, UsageError
from vggt_edge.exporter.models.checkpoint import Checkpoint, OnProgress, read_checkpoint
from vggt_edge.exporter.models.hub import SUFFIXES, USUAL, choose, from_hub
from vggt_edge.exporter.models.shards import INDEX_SUFFIX, a_few

MINI = "vggt-mini"
MINI_WEIGHTS = Path(__file__).with_name("vggt_mini.safetensors")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def embedded_models() -> dict[str, Path]:
    """Name to weights of every model in the package."""
    files = sorted(MINI_WEIGHTS.parent.glob("*.safetensors"))
    return {file.stem.replace("_", "-"): file for file in files}


def open_model(
    name: str,
    on_progress: OnProgress | None = None,
    *,
    revision: str | None = None,
    architecture: str | None = None,
) -> Checkpoint:
    """An embedded model, a file, a folder that holds a checkpoint, or a hub id.

    revision: of a hub id: a branch, tag or commit; the default branch for None. architecture: its name, where the
    tensors fit several. ``on_progress`` gets bytes read and in
    all. ``UnknownNameError`` lists the embedded models; ``InputError`` for a checkpoint that cannot be had or read.
    """
    embedded = embedded_models()
    path = embedded.get(name) or _local(name)
    is_hub_id = path is None and _HUB_ID.fullmatch(name) is not None
    if revision is not None and not is_hub_id:
        raise UsageError(f"a revision of {name}", where="--revision", expected="the id of a model on the hub")
    if is_hub_id:
        path = from_hub(name, revision)
    if path is None:
        raise UnknownNameError(
            "model", name, (*embedded, "a .safetensors or .pt file", "a folder", "a hub id such as org/name")
        )
    source = name if is_hub_id or name in embedded else None
    return read_checkpoint(path, source=source, architecture=architecture, on_progress=on_progress)


def _local(name: str) -> Path | None:
    """The checkpoint that ``name`` means as a path, or None where it can only be a name."""
    try:
        path = Path(name).expanduser()
        if name and path.is_dir():
            return _inside(path)
        return path if name.endswith((*SUFFIXES, INDEX_SUFFIX)) or (name and path.exists()) else None
    except (OSError, RuntimeError):  # too long for a path, or the home of nobody
        return None


def _inside(folder: Path) -> Path:
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    chosen = choose(names)
    if chosen is not None:
        return folder / chosen
    found = [name for name in names if name.endswith(SUFFIXES)]
    what = f"{len(found)} files that may be the checkpoint ({a_few(found)})" if found else "no checkpoint"
    raise InputError(
        f"{what} in folder {folder}",
        where=str(folder),
        expected=f"{', '.join(USUAL)}, model{INDEX_SUFFIX}, or a single file that ends in {', '.join(SUFFIXES)}",
        remedy="give the path of the checkpoint itself to --model",
    )

"""Reading a file of PyTorch: weights only, mapped where it can be, and never pickled code."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import torch

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.shards import unreadable
from vggt_edge.exporter.models.unwrapping import StateDict, unwrapped

_PICKLED = re.compile(r"(?:GLOBAL|global|class) ([\w.]+\.\w+)")


def read_torch(path: Path) -> StateDict:
    """The state dict in ``path``, whatever it is wrapped in. ``InputError`` for pickled objects and damaged bytes."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_mappable(path))
    except Exception as error:  # damaged bytes raise anything from struct.error to AssertionError
        raise _pickled(path, error) or unreadable(path, error) from error
    found = unwrapped(loaded)
    if found is None:
        raise InputError(
            f"{path.name} holds no state dict",
            where=str(path),
            expected="a mapping from tensor names to dense tensors",
            remedy='give the file with the weights, written by torch.save(model.state_dict(), "weights.pt")',
        )
    return found


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


def _pickled(path: Path, error: Exception) -> InputError | None:
    """What to do about a file that wants to make Python objects; None where that is not what is wrong."""
    text = str(error)
    found = _PICKLED.search(text)
    if found is None or "Unsupported" not in text:
        return None
    return InputError(
        f"{path.name} holds pickled Python objects ({found[1]}) beside or in place of weights",
        where=str(path),
        expected="a state dict: names and tensors, nothing else; objects could run code and are never loaded",
        remedy=(
            "where it was made, save the weights alone: loaded = torch.load(file, weights_only=False), then "
            'torch.save(loaded["model"], "weights.pt") for a training checkpoint that holds its model under "model", '
            'or torch.save(loaded.state_dict(), "weights.pt") for a whole model'
        ),
    )

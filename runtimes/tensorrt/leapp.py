"""``leapp.yaml``: the prepared graph in the words of LEAPP, which Isaac ROS Deploy reads.

LEAPP (https://nvidia-isaac.github.io/leapp/, PyPI ``leapp``) describes models, and how their inputs and outputs are
wired, in a YAML file. It is written as JSON, which every YAML reader takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from vggt_edge.runtimes.common.audit import shape_of
from vggt_edge.runtimes.common.kit import sha256, write_json

LEAPP_FILE = "leapp.yaml"
#: Of the description, as LEAPP 0.7.2 writes it.
CONFIG_VERSION = "1.3"
_NODE = "vggt"


def write_leapp(folder: Path, graph: Path, model: ir.Model) -> None:
    """Write ``<folder>/leapp.yaml`` for the file ``graph`` in the same folder, which holds ``model``.

    LEAPP has no kinds for images, depth or cameras, so that nothing is wired to sensors by itself.
    """
    inputs, outputs = _tensors(model.graph.inputs), _tensors(model.graph.outputs)
    with graph.open("rb") as stream:
        # LEAPP asks for both digests and compares the second.
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    parameters = {"model_path": graph.name, "md5sum": md5, "sha256sum": sha256(graph), "backend": "onnx"}
    pipeline = {
        "inputs": {_NODE: [one["name"] for one in inputs]},
        "outputs": {_NODE: [one["name"] for one in outputs]},
        "data_flow": {},
        "feedback_flow": {},
    }
    about = {"leapp config version": CONFIG_VERSION, "vggt-edge version": version("vggt-edge")}
    content = {
        "models": {_NODE: {"inputs": inputs, "outputs": outputs, "parameters": parameters}},
        "pipeline": pipeline,
        "system information": about,
    }
    write_json(folder / LEAPP_FILE, content)


def _tensors(values: Iterable[ir.Value]) -> list[dict[str, Any]]:
    return [{"name": str(one.name), "dtype": "float32", "shape": shape_of(one)} for one in values]

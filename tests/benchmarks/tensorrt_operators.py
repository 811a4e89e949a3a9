"""Compares the operators of a bundle's graph with the list of an older ONNX parser of TensorRT; nothing is run.

``tensorrt_operators.py OPERATORS BUNDLE ...``: OPERATORS is ``docs/operators.md`` of the open parser in the version of
interest (onnx/onnx-tensorrt). Prints for each bundle which operators of ``tensorrt/model.onnx`` the parser does not
list as supported, and which it supports with restrictions, to be read there. Those that the parser of 10.1 checks of
constants are checked here. No library of an old TensorRT is on the package index, so this is all that can be said of it
without a device.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from measure import table

# | Operator | Y | types | restrictions |
_ROW = re.compile(r"^\|\s*(\w+)\s*\|\s*Y\s*\|([^|]*)(?:\|(.*))?$")


def supported(text: str) -> dict[str, str]:
    """Restrictions by operator, empty for none."""
    rows = (_ROW.match(line) for line in text.splitlines())
    return {row[1]: (row[3] or "").strip(" |") for row in rows if row}


def broken(graph: onnx.GraphProto) -> Iterator[str]:
    """Nodes that the importers of 10.1 refuse: onnxOpImporters.cpp, QuantDequantLinearHelper and Slice."""
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        inputs = [constants.get(name) for name in node.input]
        if node.op_type == "Slice" and len(inputs) > 3 and inputs[3] is None:
            yield f"{node.name}: computed axes"
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        data, scale, zero_point = (*inputs, None)[:3]
        if data is not None and data.data_type == onnx.TensorProto.INT4 and data.dims[-1] % 2:
            yield f"{node.name}: 4 bits and an odd last side"
        if zero_point is not None and scale is not None and zero_point.dims != scale.dims:
            yield f"{node.name}: not one zero point for each scale"


def row(bundle: Path, listed: Mapping[str, str]) -> tuple[str, ...]:
    graph = onnx.load(bundle / "tensorrt" / "model.onnx", load_external_data=False).graph
    found = Counter(node.op_type for node in graph.node)
    unknown = sorted(set(found) - set(listed))
    restricted = sorted(name for name in found if listed.get(name))
    counts = str(len(found)), str(found.total())
    return bundle.name, *counts, *(", ".join(each) or "none" for each in (unknown, restricted, list(broken(graph))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    given = parser.parse_args()
    listed = supported(given.operators.read_text())
    header = ("bundle", "kinds of operators", "nodes", "not supported", "with restrictions", "break them")
    print("\n".join(table(header, [row(bundle, listed) for bundle in given.bundles])))


if __name__ == "__main__":
    main()

"""Adding nodes to a graph of onnx-graphsurgeon. The library is imported only where a graph is fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Value = Any  # a tensor of onnx-graphsurgeon, which has no types


class Stage:
    """The nodes of one stage, in the order in which they run.

    Nodes and values are called ``<stage>/<operator>_<number>``. A numpy array among the inputs becomes a constant.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Any] = []
        self._constants = 0

    def add(
        self, operator: str, *inputs: Value | npt.NDArray[Any], into: Value | None = None, **attributes: Any
    ) -> Value:
        """The output of a new node. into: an existing value that the node gives."""
        return self.several(operator, *inputs, outputs=[self._value(operator) if into is None else into], **attributes)[
            0
        ]

    def several(
        self, operator: str, *inputs: Value | npt.NDArray[Any], outputs: int | list[Value], **attributes: Any
    ) -> list[Value]:
        """All outputs of a new node."""
        import onnx_graphsurgeon as gs

        given = [self._value(operator, index) for index in range(outputs)] if isinstance(outputs, int) else outputs
        name = f"{self.name}/{operator}_{len(self.nodes)}"
        values = [self._constant(one) if isinstance(one, np.ndarray) else one for one in inputs]
        self.nodes.append(gs.Node(operator, name, attributes, values, given))
        return given

    def reshape(self, value: Value, *shape: int) -> Value:
        """The same elements in another shape."""
        return self.add("Reshape", value, np.array(shape, np.int64))

    def part(self, value: Value, first: int, last: int) -> Value:
        """The elements [first, last) of the last axis."""
        ends = (np.array([bound], np.int64) for bound in (first, last, -1))
        return self.add("Slice", value, *ends)

    def total(self, value: Value, axis: int, *, keep: bool = False) -> Value:
        """The sum along an axis. Unlike a MatMul, TensorRT never computes it in TF32."""
        return self.add("ReduceSum", value, np.array([axis], np.int64), keepdims=int(keep))

    def _value(self, operator: str, index: int = 0) -> Value:
        import onnx_graphsurgeon as gs

        suffix = f".{index}" if index else ""
        return gs.Variable(f"{self.name}/{operator}_{len(self.nodes)}{suffix}:out")

    def _constant(self, values: npt.NDArray[Any]) -> Value:
        import onnx_graphsurgeon as gs

        self._constants += 1
        return gs.Constant(f"{self.name}/constant_{self._constants}", np.ascontiguousarray(values))

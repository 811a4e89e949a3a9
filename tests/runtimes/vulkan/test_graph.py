"""A serialized graph in our types: what names nothing is refused, since places are indices of a tuple."""

from __future__ import annotations

import pytest

from vggt_edge.runtimes.vulkan.graph import BUFFER, HALF, OWN, Call, Members, TensorValue, Value, VulkanGraph

TENSOR = TensorValue((2, 3), HALF, BUFFER, "TENSOR_WIDTH_PACKED", "", OWN)
VALUES: tuple[Value, ...] = (TENSOR, Members((0, 0)), TENSOR)
CALL = Call(0, "aten.cat.default", (1, 2))


def test_a_list_stands_for_its_tensors() -> None:
    graph = VulkanGraph((CALL,), VALUES, (0,), (2,))
    assert list(graph.tensor_places(CALL.reads)) == [0, 0]
    assert CALL.writes == 2


@pytest.mark.parametrize(
    ("calls", "values", "inputs", "outputs", "says"),
    [
        ((Call(0, "aten.cat.default", ()),), VALUES, (0,), (2,), "aten.cat.default writes nothing"),
        ((Call(0, "aten.cat.default", (1, 3)),), VALUES, (0,), (2,), "it names value 3 of 3"),
        ((CALL,), VALUES, (-1,), (2,), "it names value -1 of 3"),
        ((CALL,), VALUES, (0,), (7,), "it names value 7 of 3"),
        ((CALL,), (TENSOR, Members((0, 9)), TENSOR), (0,), (2,), "it names value 9 of 3"),
        ((CALL,), (TENSOR, Members((0, 1)), TENSOR), (0,), (2,), "a list holds a list"),
    ],
)
def test_a_graph_that_names_nothing_is_refused(
    calls: tuple[Call, ...], values: tuple[Value, ...], inputs: tuple[int, ...], outputs: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        VulkanGraph(calls, values, inputs, outputs)

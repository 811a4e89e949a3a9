"""Puts templates together to one ONNX graph, giving every node, value and weight its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper
from torch import Tensor

from vggt_edge.devices.errors import LoweringError
from vggt_edge.exporter.graph.builder import onnx_type
from vggt_edge.exporter.graph.data_file import DataFile
from vggt_edge.exporter.graph.functions import FUNCTIONS
from vggt_edge.exporter.graph.names import Namer, Place
from vggt_edge.exporter.graph.stage_program import StageProgram
from vggt_edge.exporter.graph.template import Template, TemplateNode, Value
from vggt_edge.runtimes.common.fp4 import DOMAIN

OPSET = 23  # the first with Attention as one node
IR_VERSION = 11
PRODUCER = "vggt-edge"


class GraphAssembler:
    """Nodes in execution order in memory, weights at once to the data file.

    inputs: of the graph. constants: tensors that several stages read; each is stored when the first node reads it.
    modules: paths in the model by the module's ``id``. outputs: names of the values that the graph gives back.
    """

    def __init__(
        self,
        namer: Namer,
        data: DataFile,
        modules: Mapping[int, str],
        inputs: Sequence[Value],
        constants: Mapping[str, Tensor],
        outputs: Sequence[str],
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.data = data
        self._namer, self._modules = namer, modules
        self._inputs, self._constants, self._outputs = tuple(inputs), constants, tuple(outputs)
        self._inner: list[Value] = []
        # By the name that stages know them by: what the graph is given, and what it computed so far.
        self._values = {value.name: value for value in inputs}
        self._values |= {name: Value(name, tuple(each.shape), each.dtype) for name, each in constants.items()}

    def reads(self, program: StageProgram) -> tuple[Value, ...]:
        """What the stage reads; every stage that writes some of it was added before."""
        return tuple(self._values[name] for name in program.stage.reads)

    def add(self, program: StageProgram, template: Template) -> None:
        """Append one stage: the nodes of ``template`` with the weights of ``program``."""
        place = Place(program.stage.name, self._modules[id(program.module)], self._namer)
        edges = {key: value.name for key, value in zip(template.reads, self.reads(program), strict=True)}
        labels = self._public(program, template)

        def edge(key: str) -> str:
            if key in template.stored and key not in edges:
                edges[key] = name = template.stored[key].name(place)
                if name not in self.data.sizes:
                    self.data.add_stored(name, template.stored[key], program)
            return self._used(edges[key]) if key else ""

        for node in template.nodes:
            sources = [edge(key) for key in node.inputs]
            edges |= self._add_node(node, place, sources, labels)
        for name, result in zip(program.kept, template.results, strict=True):
            self._values[name] = Value(edge(result.name), result.shape, result.dtype)

    def _public(self, program: StageProgram, template: Template) -> dict[str, str]:
        """The names of the graph's outputs, by the key of what this stage computes for them."""
        computed = {value.name for node in template.nodes for value in node.outputs}
        labels: dict[str, str] = {}
        for name, result in zip(program.kept, template.results, strict=True):
            if name in self._outputs:
                if result.name not in computed or result.name in labels:
                    raise _no_output(name)
                labels[result.name] = name
        return labels

    def _used(self, name: str) -> str:
        if name in self._constants and name not in self.data.sizes:
            self.data.add(name, self._constants[name].detach())
        return name

    def _add_node(
        self, node: TemplateNode, place: Place, sources: Sequence[str], labels: Mapping[str, str]
    ) -> dict[str, str]:
        """Output names are the node's, with ``:i`` where there are several, apart from those in ``labels``."""
        name = self._namer.unique(f"{place.scope(node.path)}/{node.op}")
        several = len(node.outputs) > 1
        named = {
            value.name: labels.get(value.name, f"{name}:{index}" if several else name)
            for index, value in enumerate(node.outputs)
        }
        domain = DOMAIN if node.op in FUNCTIONS else ""
        made = helper.make_node(node.op, sources, list(named.values()), name=name, domain=domain, **node.attributes)
        self.nodes.append(made)
        inner = [value for value in node.outputs if value.name not in labels]
        self._inner += [Value(named[value.name], value.shape, value.dtype) for value in inner]
        return named

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The finished graph. ``LoweringError`` for an output that no stage computes."""
        for name in self._outputs:
            if name not in self._values or name in self._constants or self._values[name] in self._inputs:
                raise _no_output(name)
        graph = helper.make_graph(
            self.nodes,
            "vggt",
            [_value_info(value) for value in self._inputs],
            [_value_info(self._values[name]) for name in self._outputs],
            initializer=self.data.protos,
            value_info=[_value_info(value) for value in self._inner],
        )
        functions = [FUNCTIONS[name](OPSET) for name in sorted({node.op_type for node in self.nodes} & set(FUNCTIONS))]
        domains = [("", OPSET)] + ([(DOMAIN, 1)] if functions else [])
        opsets = [helper.make_opsetid(*domain) for domain in domains]
        model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = PRODUCER
        helper.set_model_props(model, dict(sorted(metadata.items())))
        return model


def _no_output(name: str) -> LoweringError:
    return LoweringError(
        f"output {name} is an input, a constant or another output",
        where="the stages of the model",
        expected="outputs that the model computes, each its own tensor",
    )


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, onnx_type(value.dtype), value.shape)

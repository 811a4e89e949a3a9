"""The one annotated graph: ``build_graph`` of a model and a plan, ``write_onnx`` of a model as it is."""

from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.exporter.graph.build import OnnxFile, annotated_graph, build_graph, write_onnx

__all__ = ["OnnxFile", "annotate", "annotated_graph", "build_graph", "write_onnx"]

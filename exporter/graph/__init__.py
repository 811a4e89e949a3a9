"""The one annotated graph: ``annotate`` a quantized model, ``to_onnx`` it, or both with ``build_graph``."""

from vggt_edge.exporter.graph.annotate import annotate
from vggt_edge.exporter.graph.build import build_graph
from vggt_edge.exporter.graph.onnx_export import OnnxFile, to_onnx

__all__ = ["OnnxFile", "annotate", "build_graph", "to_onnx"]

"""FP4 in blocks of 16 (NVFP4) in ONNX graphs: the stand-ins of the annotated graph, and TensorRT's own operator.

ONNX Runtime has no kernels for it. So in the annotated graph weights stand as int8, twice their E2M1 value, with FP32
scales of half the size: the same products, to the bit. Inputs go through a function of plain operators. A backend that
has the format puts the real thing in their place.
"""

from __future__ import annotations

import onnx_ir as ir

from vggt_edge.calibration.quantization.ranges import BLOCK

DOMAIN, QUANTIZE_FP4 = "vggt_edge", "QuantizeFP4"
#: TensorRT's operator of two inputs (values, FP32 unit of the scales) and two outputs, of these types.
TRT_DOMAIN, DYNAMIC_QUANTIZE = "trt", "TRT_FP4DynamicQuantize"
DYNAMIC_OUTPUTS = (ir.DataType.FLOAT4E2M1, ir.DataType.FLOAT8E4M3FN)


def is_fp4_weight(node: ir.Node | None) -> bool:
    """Whether a DequantizeLinear restores the stand-in of an FP4 weight. No integers of ours have blocks so small."""
    return (
        node is not None
        and node.op_type == "DequantizeLinear"
        and node.attributes.get_int("block_size", 0) == BLOCK
        and node.inputs[0] is not None
        and node.inputs[0].dtype == ir.DataType.INT8
    )


def is_fp4_stand_in(node: ir.Node) -> bool:
    """Whether a node is the function that takes an input through FP4."""
    return (node.domain, node.op_type) == (DOMAIN, QUANTIZE_FP4)


def is_fp4_input(node: ir.Node) -> bool:
    """Whether a node quantizes an input to FP4 at run time: that function, or TensorRT's operator."""
    return is_fp4_stand_in(node) or (node.domain, node.op_type) == (TRT_DOMAIN, DYNAMIC_QUANTIZE)

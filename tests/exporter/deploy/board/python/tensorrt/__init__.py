"""A stand-in for TensorRT on a "board": its Python interface as far as the Jetson kit uses it, around ONNX Runtime.

``BOARD_FACTOR`` multiplies all outputs, ``BOARD_SLEEP`` waits during the build, ``TENSORRT_VERSION`` is the version.
The CUDA runtime's calls work on host memory.
"""

import ctypes
import json
import os
import time

import numpy as np

__version__ = os.environ.get("TENSORRT_VERSION", "10.3.0")


class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    def __init__(self):
        pass


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1


class ProfilingVerbosity:
    DETAILED = 2


class LayerInformationFormat:
    JSON = 1


class TensorIOMode:
    INPUT, OUTPUT = "in", "out"


class _Config:
    pass


class _Network:
    path = None


class OnnxParser:
    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        self.network.path = path
        return True


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return _Network()

    def create_builder_config(self):
        return _Config()

    def build_serialized_network(self, network, config):
        self.logger.log(ILogger.Severity.WARNING, "a stand-in builds no engine")
        if os.environ.get("BOARD_STARTED"):
            with open(os.environ["BOARD_STARTED"], "w") as file:
                file.write(str(os.getpid()))
        time.sleep(float(os.environ.get("BOARD_SLEEP", "0")))
        return network.path.encode()  # weights outside of the file are found by it


class _Context:
    def __init__(self, session):
        self.session, self.addresses = session, {}

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        feeds = {each.name: _at(self.addresses[each.name], each.shape).copy() for each in self.session.get_inputs()}
        factor = np.float32(os.environ.get("BOARD_FACTOR", "1"))
        for each, values in zip(self.session.get_outputs(), self.session.run(None, feeds)):  # noqa: B905, on any Python
            _at(self.addresses[each.name], each.shape)[...] = factor * values
        return True


def _at(address, shape):
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


class _Inspector:
    def get_engine_information(self, form):
        layer = {"Name": "n", "Metadata": "[ONNX Layer: block/MatMul]", "TacticName": "sm80_xmma_gemm_f16f16_f16f32"}
        return json.dumps({"Layers": [layer]})


class _Engine:
    def __init__(self, session):
        self.session = session
        self.inputs, self.outputs = session.get_inputs(), session.get_outputs()
        self.tensors = {each.name: each for each in (*self.inputs, *self.outputs)}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_shape(self, name):
        return self.tensors[name].shape

    def get_tensor_dtype(self, name):
        return np.float32

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in {each.name for each in self.inputs} else TensorIOMode.OUTPUT

    def create_execution_context(self):
        return _Context(self.session)

    def create_engine_inspector(self):
        return _Inspector()


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, serialized):
        import onnxruntime

        return _Engine(onnxruntime.InferenceSession(serialized.decode(), providers=["CPUExecutionProvider"]))


def nptype(kind):
    return kind


class _Cudart:
    class cudaGetErrorString:  # noqa: N801, the library's name
        restype = None

    def __init__(self):
        self.blocks = {}

    def __getattr__(self, name):
        return lambda *arguments: 0

    def cudaMalloc(self, pointer, size):  # noqa: N802
        memory = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(memory)
        self.blocks[pointer._obj.value] = memory
        return 0

    def cudaMemcpy(self, target, source, size, kind):  # noqa: N802
        ctypes.memmove(target, source, size.value)
        return 0


_open = ctypes.CDLL


def _open_library(name, *arguments, **options):
    """The CUDA runtime is not on this "board": the stand-in takes its place."""
    return _Cudart() if str(name).startswith("libcudart") else _open(name, *arguments, **options)


ctypes.CDLL = _open_library

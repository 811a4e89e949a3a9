#!/usr/bin/env python3
"""Build the TensorRT engine on this device, check it against the golden tensors, and say what it really computes in.

Needs Python 3.8 or later, numpy and TensorRT 10.3 or later, or TensorRT for RTX 1.4 or later where ``kit.json`` asks
for that; nothing else. An engine belongs to one GPU and one version of TensorRT, so it is built here and not shipped.
Exit codes: 0 good, 2 wrong arguments or damaged files, 3 no TensorRT or no CUDA, 4 accuracy, 6 the build failed or a
block lost its precision, 7 not enough memory or disk.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # also where Python runs with -P
    sys.path.insert(0, str(HERE))

from kit_common import (  # noqa: E402  it lies beside this file
    BUNDLE_AGAIN,
    EXIT_ACCURACY,
    EXIT_LOWERING,
    EXIT_OK,
    EXIT_RESOURCES,
    EXIT_TOOLCHAIN,
    EXIT_USAGE,
    FAILED,
    MOST_DB,
    WIDEST_ANGLE,
    Judge,
    KitError,
    between,
    digest_of,
    field_of,
    filled,
    is_plain_name,
    limit_of,
    measured_ms,
    outputs_of,
    quantiles,
    read_header,
    read_json,
    result_of,
    say,
    sha256_of,
    summary,
    tensor_values,
    text_of,
    whole_of,
    write_file,
    write_result,
)
from kit_signature import check_signature  # noqa: E402

SCHEMA_VERSION = 1
# How TensorRT, CUDA and C++ say it in their messages, in small letters.
OUT_OF_MEMORY = ("outofmemory", "out of memory", "insufficient memory", "bad_alloc", "memoryallocation")
# By name of the Python module: the lowest version, where it is from, and what to do where it is missing.
RUNTIMES = {
    "tensorrt": (
        (10, 3),
        "JetPack 6.1",
        "on a Jetson: sudo apt-get install python3-libnvinfer; in a virtual environment use --system-site-packages",
    ),
    "tensorrt_rtx": ((1, 4), "pip install tensorrt-rtx", "pip install tensorrt-rtx"),
}
GOLDEN = "golden.safetensors"
MOST_RUNS, MOST_MIB, MOST_RELEASES = 1_000_000, 1 << 24, 1 << 53


# --- arguments and files -------------------------------------------------------------------------------------------


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="build_and_verify.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=HERE, help="holds model.onnx, kit.json, golden.safetensors (default: here)"
    )
    parser.add_argument(
        "--output", type=Path, default=None, help="where the result goes (default: <folder>/result.json)"
    )
    parser.add_argument(
        "--engine", type=Path, default=None, help="where the engine goes, for the app (default: <folder>/model.engine)"
    )
    parser.add_argument(
        "--fused", action="store_true", help="build and check fused.onnx, which takes camera frames (fused.engine)"
    )
    parser.add_argument("--build-only", action="store_true", help="neither replay the golden tensors nor measure")
    runs, mib = between(1, MOST_RUNS), between(1, MOST_MIB)
    parser.add_argument("--iterations", type=runs, default=100, help="measured runs (default: 100)")
    parser.add_argument("--warmup", type=runs, default=20, help="runs before the measured ones (default: 20)")
    parser.add_argument("--workspace-mb", type=mib, default=None, help="limit of the builder's workspace in MiB")
    parser.add_argument("--optimization-level", type=int, choices=range(6), default=None, help="of the builder, 0 to 5")
    parser.add_argument(
        "--key",
        type=Path,
        default=None,
        help="public key (PEM) by which the bundle has to be signed (default: unchecked)",
    )
    parser.add_argument(
        "--min-release", type=between(0, MOST_RELEASES), default=None, help="smallest signed release number to accept"
    )
    return parser.parse_args(argv)


def load_kit(folder):
    """kit.json, after checking its fields, and that the files it lists are whole."""
    path = folder / "kit.json"
    raw = read_json(path)
    try:
        kit = checked_kit(raw)
    except ValueError as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), BUNDLE_AGAIN) from error
    for name in sorted(kit["sha256"]):
        if not is_plain_name(name):
            raise KitError(EXIT_USAGE, "%s lists %r, which is not a plain file name" % (path, name))
        file_path = folder / name
        if not file_path.is_file() or sha256_of(file_path) != kit["sha256"][name]:
            raise KitError(EXIT_USAGE, "%s is missing or damaged" % file_path, "copy it from the bundle again")
    data = kit["model"] + ".data"
    if (folder / data).exists() and data not in kit["sha256"]:
        raise KitError(EXIT_USAGE, "%s does not list %s" % (path, data), BUNDLE_AGAIN)
    return kit


def fused_kit(kit):
    """The kit with model, golden tensors and outputs of the graph that takes camera frames."""
    if kit["fused"] is None:
        raise KitError(EXIT_USAGE, "this kit has no graph for camera frames", "export with --fuse-io")
    return {**kit, **kit["fused"]}


def checked_fused(raw, digests):
    """The graph for camera frames."""
    entry = {"model": text_of(raw, "model"), "golden": text_of(raw, "golden"), "outputs": outputs_of(raw)}
    if entry["model"] not in digests:
        raise ValueError("sha256 does not list the model %.80r" % entry["model"])
    return entry


def checked_kit(raw):
    """The fields that are used, as they are; ``ValueError`` for the first that cannot be."""
    if field_of(raw, "schema_version") != SCHEMA_VERSION or isinstance(raw["schema_version"], bool):
        raise ValueError("schema_version %.40r instead of %d" % (raw["schema_version"], SCHEMA_VERSION))
    digests = filled(raw, "sha256", dict)
    tolerances, sizes = filled(raw, "tolerances", dict), filled(raw, "weight_bytes", dict)
    kit = {
        "target": text_of(raw, "target"),
        "plan_digest": text_of(raw, "plan_digest"),
        "model": text_of(raw, "model"),
        "golden": GOLDEN,
        "fused": checked_fused(raw["fused"], digests) if "fused" in raw else None,
        "sha256": {name: digest_of(digests, name) for name in digests},
        "blocks": [checked_block(block) for block in filled(raw, "blocks", list)],
        "weight_bytes": {name: whole_of(sizes, name) for name in ("packed", "fp16")},
        # Kits of earlier exports do not list their outputs: there the golden tensors say which there are.
        "outputs": outputs_of(raw) if "outputs" in raw else None,
        "tolerances": {
            "sqnr_db_min": limit_of(tolerances, "sqnr_db_min", MOST_DB),
            "pose_degrees_max": limit_of({"pose_degrees_max": None, **tolerances}, "pose_degrees_max", WIDEST_ANGLE),
        },
    }
    if kit["model"] not in kit["sha256"]:
        raise ValueError("sha256 does not list the model %.80r" % kit["model"])
    return kit


def checked_block(block):
    nodes = field_of(block, "nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise ValueError("the nodes of a block are no list of names")
    if text_of(block, "computed") not in ACCEPTED:
        raise ValueError("a block is computed in %.40r, which is none of %s" % (block["computed"], sorted(ACCEPTED)))
    return {**{name: text_of(block, name) for name in ("block", "scheme", "computed")}, "nodes": nodes}


def load_golden(path, pixels=False):
    """(inputs, expected, reference): dicts of float32 arrays from keys ``input/``, ``expected/`` and ``fp32/``.

    pixels: whether inputs may have 8 bits, as the frames of a camera have.
    """
    groups = {"input": {}, "expected": {}, "fp32": {}}
    try:
        with path.open("rb") as file:
            entries, start = read_header(file, path.stat().st_size, pixels)
            for key in sorted(entries):
                group, _, name = key.partition("/")
                if group not in groups or (entries[key][2] != "F32" and group != "input"):
                    raise ValueError("it holds %.80r" % key)
                groups[group][name] = tensor_values(file, key, entries[key], start)
    except (OSError, ValueError) as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), BUNDLE_AGAIN) from error
    if not groups["input"] or not groups["expected"]:
        raise KitError(EXIT_USAGE, "%s holds no input or no expected output" % path, BUNDLE_AGAIN)
    return groups["input"], groups["expected"], groups["fp32"]


def golden_of(folder, kit):
    """(inputs, expected, reference), with the outputs that ``kit.json`` lists, in the order of that list."""
    path = folder / kit["golden"]
    if kit["golden"] not in kit["sha256"]:
        raise KitError(EXIT_USAGE, "this kit has no golden tensors", "export again; the validation writes them")
    inputs, expected, reference = load_golden(path, pixels=kit["golden"] != GOLDEN)
    shapes = {name: array.shape for name, array in expected.items()}
    wanted = dict(kit["outputs"] or shapes)
    others = [name for name, array in reference.items() if wanted.get(name) != array.shape]
    if shapes != wanted or others:
        raise KitError(EXIT_USAGE, "%s holds other outputs than kit.json lists" % path, BUNDLE_AGAIN)
    return inputs, {name: expected[name] for name in wanted}, reference


def version_tuple(text):
    """'10.3.0.26' to (10, 3, 0, 26); what is not a number ends it."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in numbers.group().split(".")) if numbers else ()


# --- precision audit -----------------------------------------------------------------------------------------------

ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
# The scales of FP4 blocks are FP8, and may stand in a kernel's name too: FP4 is looked for first.
_FP4_TACTIC = re.compile(r"e2m1|nvf4|(?<![a-z])fp4")
_FP8_TACTIC = re.compile(r"e4m3|(?<![a-z])fp8")
_INT8_TACTIC = re.compile(r"(?:^|_)(?:i8|s8|int8|imma)|i8i8|s8s8")
_INT4_TACTIC = re.compile(r"int4|(?<![a-z])[iu]4(?![0-9])")
_HALF_TACTIC = re.compile(r"f16f16|h16816|_f16|hmma")
_FLOAT_TACTIC = re.compile(r"f32f32|tf32|sgemm")
_TACTICS = ((_FP8_TACTIC, "fp8"), (_INT8_TACTIC, "int8"), (_HALF_TACTIC, "fp16"), (_FLOAT_TACTIC, "fp32"))
_TYPE_WORDS = ((("fp8",), "fp8"), (("int8",), "int8"), (("half", "fp16"), "fp16"), (("float", "fp32"), "fp32"))


def parse_inspector(text):
    """The layers of the engine inspector's JSON as dicts; layers without details come as bare names."""
    try:
        layers = json.loads(text)["Layers"]
        if not isinstance(layers, list):
            raise ValueError("its layers are no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KitError(EXIT_LOWERING, "cannot read the engine inspector's report: %s" % error) from error
    return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]


def onnx_nodes(layer):
    """Names of the ONNX nodes that a layer was made of."""
    found = ONNX_LAYER.findall(str(layer.get("Metadata", "")))
    return found if found else [part.strip() for part in str(layer.get("Name", "")).split(" + ")]


def layer_precision(layer):
    """The type that a layer multiplies in: 'int8', 'int4', 'fp4', 'fp8', 'fp16' or 'fp32'; None where nothing tells.

    'int4': a layer reads such weights, whatever it multiplies in.

    The kernel's own name is the best witness, then the type of the weights, then the types of the inputs: a layer with
    int8 at its border may still compute in floating point.
    """
    tactic = str(layer.get("TacticName", "")).lower()
    weights = layer.get("Weights") or layer.get("Kernel")
    weights = str(weights.get("Type", "")).lower() if isinstance(weights, dict) else ""
    inputs = layer.get("Inputs")
    types = [
        str(entry.get("Format/Datatype", entry.get("Datatype", ""))).lower()
        for entry in (inputs if isinstance(inputs, list) else [])
        if isinstance(entry, dict)
    ]
    for pattern, word, precision in ((_INT4_TACTIC, "int4", "int4"), (_FP4_TACTIC, "fp4", "fp4")):
        if pattern.search(tactic) or word in weights or any(word in kind for kind in types):
            return precision
    for pattern, precision in _TACTICS:
        if pattern.search(tactic):
            return precision
    for kinds in ([weights], types):
        for words, precision in _TYPE_WORDS:
            if any(word in kind for kind in kinds for word in words):
                return precision
    return None


# What a layer of a scheme may be seen to compute in. A weight-only layer multiplies in FP16: that says nothing there.
ACCEPTED = {
    "fp32": {"fp32"},
    "fp16": {"fp16"},
    "w8a8": {"int8"},
    "w4a16": {"int4"},
    "w8a16": {"int8"},
    "fp8": {"fp8"},
    "nvfp4": {"fp4"},
    "nvfp4a16": {"fp4"},
}
INCONCLUSIVE = {"w4a16": {"fp16"}, "w8a16": {"fp16"}, "nvfp4a16": {"fp16"}}


def audit(layers, blocks):
    """Asked against realised, per block: status ``realised``, ``not_realised`` or ``unknown``, and counts."""
    seen = {}
    for layer in layers:
        precision = layer_precision(layer)
        for node in onnx_nodes(layer):
            if precision is not None:
                seen.setdefault(node, set()).add(precision)
    return [audit_block(block, seen) for block in blocks]


def audit_block(block, seen):
    accepted, open_ = ACCEPTED[block["computed"]], INCONCLUSIVE.get(block["computed"], set())
    counts, lost, unknown = {}, [], 0
    for node in block["nodes"]:
        precisions = seen.get(node, set())
        for precision in precisions:
            counts[precision] = counts.get(precision, 0) + 1
        if precisions & accepted:
            continue
        if not precisions or precisions <= open_:
            unknown += 1
        else:
            lost.append(node)
    status = "not_realised" if lost else "unknown" if unknown else "realised"
    return {
        "block": block["block"],
        "asked": block["scheme"],
        "status": status,
        "counts": counts,
        "lost": lost,
        "not_seen": unknown,
    }


def weights_packed(engine_bytes, kit):
    """'yes', 'no', or 'unknown' where the engine is so small that its kernels outweigh what packing saves."""
    packed, half = kit["weight_bytes"]["packed"], kit["weight_bytes"]["fp16"]
    if half - packed < (8 << 20):
        return "unknown"
    return "yes" if engine_bytes < (packed + half) / 2 else "no"


# --- CUDA through ctypes -------------------------------------------------------------------------------------------


class Cuda:
    """The few calls of the CUDA runtime that running an engine takes. Every failed call raises ``KitError``."""

    def __init__(self):
        self.library = load_cudart()
        self.library.cudaGetErrorString.restype = ctypes.c_char_p
        self.call("cudaSetDevice", ctypes.c_int(0))

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            reason = self.library.cudaGetErrorString(ctypes.c_int(status)).decode(errors="replace")
            code = EXIT_RESOURCES if status == 2 else EXIT_TOOLCHAIN  # 2: cudaErrorMemoryAllocation
            raise KitError(code, "%s failed: %s" % (name, reason), "close other programs that use the GPU")

    def pointer(self, name, *arguments):
        value = ctypes.c_void_p()
        self.call(name, ctypes.byref(value), *arguments)
        return value

    def malloc(self, nbytes):
        return self.pointer("cudaMalloc", ctypes.c_size_t(max(nbytes, 1)))

    def upload(self, device, array):
        self.call(
            "cudaMemcpy", device, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), ctypes.c_int(1)
        )

    def download(self, array, device):
        self.call(
            "cudaMemcpy", ctypes.c_void_p(array.ctypes.data), device, ctypes.c_size_t(array.nbytes), ctypes.c_int(2)
        )

    def capability(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("cudaDeviceGetAttribute", ctypes.byref(major), ctypes.c_int(75), ctypes.c_int(0))
        self.call("cudaDeviceGetAttribute", ctypes.byref(minor), ctypes.c_int(76), ctypes.c_int(0))
        return "%d.%d" % (major.value, minor.value)

    def used_bytes(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value


def load_cudart():
    names = ["libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"]
    names += sorted(map(str, Path("/usr/local").glob("cuda*/lib64/libcudart.so*")), reverse=True)
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise KitError(
        EXIT_TOOLCHAIN,
        "the CUDA runtime (libcudart.so) was not found",
        "add its folder to LD_LIBRARY_PATH, on a Jetson /usr/local/cuda/lib64",
    )


# --- the engine ----------------------------------------------------------------------------------------------------


def wanted_runtime(folder):
    """The module that kit.json asks for. What is wrong with the file is said when all of it is read."""
    try:
        requires = read_json(folder / "kit.json")["requires"]
        return next(name for name in RUNTIMES if name in requires)
    except (KitError, KeyError, TypeError, StopIteration):
        return "tensorrt"


def needed_version(folder, name):
    """The lowest version of the module that kit.json asks for; () where it asks for none."""
    try:
        clauses = read_json(folder / "kit.json")["requires"][name].split(",")
    except (KitError, KeyError, TypeError, AttributeError):
        return ()
    return max((version_tuple(one.strip()[2:]) for one in clauses if one.strip().startswith(">=")), default=())


def import_tensorrt(name="tensorrt", needed=()):
    """The module. needed: the lowest version that a bundle takes, beside that of this script."""
    lowest, origin, remedy = RUNTIMES[name]
    if needed > lowest:
        lowest, origin = needed, "this bundle's precisions need it"
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise KitError(EXIT_TOOLCHAIN, "TensorRT for Python cannot be imported: %s" % error, remedy) from error
    # Any folder called "tensorrt" can be imported; a version is what only the real one has.
    version = getattr(module, "__version__", "")
    if version_tuple(version) < lowest:
        wanted = ".".join(map(str, lowest))
        raise KitError(EXIT_TOOLCHAIN, "%s %s is too old" % (name, version), "use %s or later (%s)" % (wanted, origin))
    return module


def make_logger(trt):
    """Says warnings and errors, and keeps the errors: only they tell that memory ran out during a build."""

    class Recorder(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.errors = []

        def log(self, severity, message):
            levels = trt.ILogger.Severity
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                self.errors.append(message)
            if severity in (levels.INTERNAL_ERROR, levels.ERROR, levels.WARNING):
                say("TensorRT: %s" % message)

    return Recorder()


def make_network(trt, builder, logger, model_path):
    """A strongly typed network from the ONNX file, and the parser that owns its weights."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # From TensorRT 11 on there is no other kind of network, and some day no flag.
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model_path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        lines = ["%s: %s" % (error.node_name() or "graph", error.desc()) for error in errors]
        raise KitError(EXIT_LOWERING, "TensorRT cannot read %s:\n    %s" % (model_path, "\n    ".join(lines)))
    return network, parser


def make_config(trt, builder, workspace_mb, optimization_level):
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt, "ComputeCapability"):  # TensorRT for RTX also compiles for GPUs that are not here
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    if workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    return config


def build_engine(trt, logger, model_path, workspace_mb=None, optimization_level=None, adjust=None):
    """The serialized engine as bytes. ``adjust(config)`` may change the configuration before the build."""
    builder = trt.Builder(logger)
    network, parser = make_network(trt, builder, logger, model_path)
    config = make_config(trt, builder, workspace_mb, optimization_level)
    if adjust is not None:
        adjust(config)
    serialized = builder.build_serialized_network(network, config)
    del parser
    if serialized is None and any(words in line.lower() for line in logger.errors for words in OUT_OF_MEMORY):
        raise KitError(
            EXIT_RESOURCES, "not enough memory to build the engine", "close other programs, or add swap for the build"
        )
    if serialized is None:
        raise KitError(EXIT_LOWERING, "TensorRT could not build the engine", "read its messages above")
    return bytes(serialized)


class Runner:
    """A deserialized engine with its buffers: ``run(inputs)`` gives the outputs, ``measure`` times it."""

    def __init__(self, trt, cuda, logger, serialized):
        import numpy as np

        self.trt, self.cuda = trt, cuda
        before = cuda.used_bytes()
        self.runtime = trt.Runtime(logger)
        self.engine = self.runtime.deserialize_cuda_engine(serialized)
        if self.engine is None:
            raise KitError(EXIT_LOWERING, "the engine that was just built cannot be loaded", "read its messages above")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise KitError(EXIT_RESOURCES, "not enough GPU memory to run the engine", "close other programs")
        self.inputs, self.outputs, self.buffers = {}, {}, {}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            try:
                host = np.zeros(
                    tuple(self.engine.get_tensor_shape(name)), trt.nptype(self.engine.get_tensor_dtype(name))
                )
            except (TypeError, ValueError) as error:  # a type that numpy lacks, or a shape that only the run knows
                raise KitError(EXIT_LOWERING, "%s of the engine cannot be held: %s" % (name, error)) from error
            is_input = self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = host
            self.buffers[name] = cuda.malloc(host.nbytes)
            self.context.set_tensor_address(name, self.buffers[name].value)
        self.stream = cuda.pointer("cudaStreamCreate")
        self.memory_bytes = cuda.used_bytes() - before

    def close(self):
        for buffer in self.buffers.values():
            self.cuda.call("cudaFree", buffer)
        self.buffers = {}
        self.cuda.call("cudaStreamDestroy", self.stream)

    def enqueue(self):
        if not self.context.execute_async_v3(self.stream.value):
            raise KitError(EXIT_LOWERING, "the engine could not be run")

    def check_outputs(self, expected):
        """``expected``: arrays by name. The engine has these outputs, in this order, in float32."""
        import numpy as np

        if list(self.outputs) != list(expected):
            names = list(self.outputs), list(expected)
            raise KitError(EXIT_LOWERING, "the engine has the outputs %s, not %s" % names)
        for name, host in self.outputs.items():
            if host.dtype != np.float32 or host.shape != expected[name].shape:
                what = "output %s is %s %s" % (name, host.dtype, host.shape)
                raise KitError(EXIT_LOWERING, "%s instead of float32 %s" % (what, expected[name].shape))

    def run(self, inputs):
        self.feed(inputs)
        self.predict()
        return self.fetch()

    def feed(self, inputs):
        if set(inputs) != set(self.inputs):
            raise KitError(EXIT_USAGE, "inputs %s, the engine wants %s" % (sorted(inputs), sorted(self.inputs)))
        for name, array in inputs.items():
            if array.shape != self.inputs[name].shape or array.dtype != self.inputs[name].dtype:
                wanted = "%s %s" % (self.inputs[name].dtype, self.inputs[name].shape)
                raise KitError(
                    EXIT_USAGE, "input %s is %s %s, the engine wants %s" % (name, array.dtype, array.shape, wanted)
                )
            self.cuda.upload(self.buffers[name], array)

    def predict(self):
        """Run the engine on the inputs that were fed, and wait until the run is done."""
        self.enqueue()
        self.cuda.call("cudaStreamSynchronize", self.stream)

    def fetch(self):
        for name, host in self.outputs.items():
            self.cuda.download(host, self.buffers[name])
        return {name: host.copy() for name, host in self.outputs.items()}

    def measure(self, warmup, iterations, seen=lambda outputs: None):
        """(GPU milliseconds by events, wall-clock milliseconds until done), one entry per measured run.

        ``seen`` gets the outputs of every run, those before the measured ones too.
        """
        start, end = self.cuda.pointer("cudaEventCreate"), self.cuda.pointer("cudaEventCreate")
        for _ in range(warmup):
            self.predict()
            seen(self.fetch())
        gpu, wall = [], []
        for _ in range(iterations):
            began = time.perf_counter()
            self.cuda.call("cudaEventRecord", start, self.stream)
            self.enqueue()
            self.cuda.call("cudaEventRecord", end, self.stream)
            self.cuda.call("cudaEventSynchronize", end)
            wall.append((time.perf_counter() - began) * 1e3)
            elapsed = ctypes.c_float()
            self.cuda.call("cudaEventElapsedTime", ctypes.byref(elapsed), start, end)
            gpu.append(elapsed.value)
            seen(self.fetch())
        return gpu, wall

    def inspect(self):
        return self.engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)


def first_line(path):
    """The first line of a small system file; None where the file is missing."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip("\0 ") or None
    except OSError:
        return None


def board():
    """Model and system as the board calls them, None where nothing says."""
    return {"model": first_line("/proc/device-tree/model"), "system": first_line("/etc/nv_tegra_release")}


def thermal():
    """The hottest zone, such as ``cpu-thermal 48.5 C``; None where the system tells none."""
    zones = []
    for folder in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        text = first_line(folder / "temp")
        if text is not None and re.fullmatch(r"-?[0-9]+", text):
            zones.append((int(text) / 1000, first_line(folder / "type") or folder.name))
    return "%s %.1f C" % (max(zones)[1], max(zones)[0]) if zones else None


def resident_peak():
    """The most memory that this process had, in bytes; None where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), None)


# --- the run -------------------------------------------------------------------------------------------------------


def build(trt, logger, kit, arguments):
    """(the serialized engine, seconds that it took). Built from the verified graph, always.

    An engine is native code: a file that lies here already may come from anyone, and is not loaded.
    """
    say("building the engine; this takes minutes")
    began = time.perf_counter()
    model_path = arguments.folder / kit["model"]
    serialized = build_engine(trt, logger, model_path, arguments.workspace_mb, arguments.optimization_level)
    seconds = time.perf_counter() - began
    write_file(arguments.engine or model_path.with_suffix(".engine"), serialized)
    return serialized, seconds


def verify(runner, golden, kit, arguments):
    """Replay, judge every run, measure; the parts of the result."""
    inputs, expected, reference = golden
    runner.check_outputs(expected)
    judge = Judge(expected, reference, **kit["tolerances"])
    runner.feed(inputs)
    began = time.perf_counter()
    runner.predict()
    first_ms = (time.perf_counter() - began) * 1e3
    judge.add(runner.fetch())
    gpu, wall = runner.measure(arguments.warmup, arguments.iterations, judge.add)
    return judge, first_ms, gpu, wall


def summarise(result):
    for entry in result["outputs"]:
        say(summary(entry))
    for entry in result["precision"]:
        say("%-28s asked %-6s %s" % (entry["block"], entry["asked"], entry["status"]))
    if result["gpu_ms"] is not None:
        say("latency on the GPU: median %(median).3f ms, p90 %(p90).3f ms, %(count)d runs" % result["gpu_ms"])
    say("status: %s" % result["status"])


def exit_code(result):
    if result["status"] == FAILED:
        return EXIT_ACCURACY
    lost = any(entry["status"] == "not_realised" for entry in result["precision"])
    return EXIT_LOWERING if lost or result["engine"]["weights_packed"] == "no" else EXIT_OK


def run(arguments):
    """The whole job; returns the exit code. The result file is written also when accuracy or precision fail."""
    check_signature(arguments.folder, arguments.key, arguments.min_release)
    name = wanted_runtime(arguments.folder)
    trt = import_tensorrt(name, needed_version(arguments.folder, name))
    kit = load_kit(arguments.folder)
    kit = fused_kit(kit) if arguments.fused else kit
    golden = None if arguments.build_only else golden_of(arguments.folder, kit)
    cuda = Cuda()
    before = thermal()
    logger = make_logger(trt)
    serialized, build_s = build(trt, logger, kit, arguments)
    began = time.perf_counter()
    runner = Runner(trt, cuda, logger, serialized)
    load_ms = (time.perf_counter() - began) * 1e3
    judge, first_ms, gpu, wall = None, None, [], []
    try:
        blocks = audit(parse_inspector(runner.inspect()), kit["blocks"])
        if golden is not None:
            judge, first_ms, gpu, wall = verify(runner, golden, kit, arguments)
    finally:
        runner.close()
    memory = resident_peak()
    result = result_of(kit, judge.outputs if judge else [])
    result.update(
        model_sha256=kit["sha256"][kit["model"]],
        runtime={"name": name, "version": trt.__version__},
        device={**board(), "compute_capability": cuda.capability()},
        thermal={"before": before, "after": thermal()},
        low_power_mode=None,
        threads=None,
        timings_ms={
            "compile": build_s * 1e3,
            "load": load_ms,
            "first_prediction": first_ms,
            "measured": measured_ms(wall),
        },
        latency=quantiles(wall),
        gpu_ms=measured_ms(gpu),
        load_s=None if first_ms is None else (load_ms + first_ms) / 1e3,
        memory_bytes={"value": memory, "how": "VmHWM"},
        peak_memory_bytes=memory,
        gpu_memory_bytes=runner.memory_bytes,
        runs_unlike_first=judge.unlike_first if judge else 0,
        engine={
            "bytes": len(serialized),
            "build_s": build_s,
            "weights_packed": weights_packed(len(serialized), kit),
        },
        precision=blocks,
    )
    result["exit_code"] = exit_code(result)
    output = arguments.output or arguments.folder / "result.json"
    write_result(output, result)
    summarise(result)
    say("result: %s" % output)
    return result["exit_code"]


def main(argv=None):
    try:
        return run(parse_arguments(argv))
    except KitError as error:
        say("error: %s" % error)
        return error.code
    except MemoryError:
        say("error: not enough memory\n  next: close other programs, or add swap for the build")
        return EXIT_RESOURCES


if __name__ == "__main__":
    sys.exit(main())

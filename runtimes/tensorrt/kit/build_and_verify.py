#!/usr/bin/env python3
"""Build the TensorRT engine on this device, check it against the golden tensors, and say what it really computes in.

Needs Python 3.8 or later, numpy and TensorRT 10.3 or later; nothing else. An engine belongs to one GPU and one version
of TensorRT, so it is built here and not shipped. Exit codes: 0 good, 2 wrong arguments or damaged files, 3 no TensorRT
or no CUDA, 4 accuracy, 6 the build failed or a block lost its precision, 7 not enough memory or disk.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import math
import re
import sys
import time
import zipfile
from pathlib import Path

EXIT_OK, EXIT_USAGE, EXIT_TOOLCHAIN, EXIT_ACCURACY, EXIT_LOWERING, EXIT_RESOURCES = 0, 2, 3, 4, 6, 7
SCHEMA_VERSION = 1
LOWEST_TENSORRT = (10, 3)
HERE = Path(__file__).resolve().parent


class KitError(Exception):
    """Ends the run with ``code``; ``remedy`` is what to do next."""

    def __init__(self, code, what, remedy=""):
        super().__init__(what + ("\n  next: " + remedy if remedy else ""))
        self.code = code


# --- arguments and files -------------------------------------------------------------------------------------------


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="build_and_verify.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=HERE, help="holds model.onnx, kit.json, golden.npz (default: here)"
    )
    parser.add_argument(
        "--output", type=Path, default=None, help="where the result goes (default: <folder>/result.json)"
    )
    parser.add_argument(
        "--engine", type=Path, default=None, help="reused when it fits (default: <folder>/model.engine)"
    )
    parser.add_argument("--rebuild", action="store_true", help="build even if a fitting engine exists")
    parser.add_argument("--build-only", action="store_true", help="neither replay the golden tensors nor measure")
    parser.add_argument("--iterations", type=positive, default=100, help="measured runs (default: 100)")
    parser.add_argument("--warmup", type=positive, default=20, help="runs before the measured ones (default: 20)")
    parser.add_argument("--workspace-mb", type=positive, default=None, help="limit of the builder's workspace in MiB")
    parser.add_argument("--optimization-level", type=int, choices=range(6), default=None, help="of the builder, 0 to 5")
    return parser.parse_args(argv)


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def sha256_of(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def load_kit(folder):
    """kit.json, after checking that the files it lists are whole."""
    path = folder / "kit.json"
    try:
        kit = json.loads(path.read_text(encoding="utf-8"))
        if kit["schema_version"] != SCHEMA_VERSION:
            raise ValueError("schema_version %r" % kit["schema_version"])
        listed = sorted(kit["sha256"].items())
        _ = kit["blocks"], kit["model"], kit["tolerances"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(
            EXIT_USAGE, "cannot use %s: %s" % (path, error), "copy the whole folder from the bundle again"
        ) from error
    for name, digest in listed:
        if Path(name).name != name:
            raise KitError(EXIT_USAGE, "%s lists %r, which is not a plain file name" % (path, name))
        file_path = folder / name
        if not file_path.is_file() or sha256_of(file_path) != digest:
            raise KitError(EXIT_USAGE, "%s is missing or damaged" % file_path, "copy it from the bundle again")
    return kit


def load_golden(path):
    """(inputs, expected, reference): dicts of float32 arrays from keys ``input/``, ``expected/`` and ``fp32/``."""
    import numpy as np

    groups = {"input": {}, "expected": {}, "fp32": {}}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for key in sorted(arrays.files):
                group, _, name = key.partition("/")
                groups[group][name] = np.ascontiguousarray(arrays[key], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise KitError(EXIT_USAGE, "cannot use %s: %s" % (path, error), "copy it from the bundle again") from error
    if not groups["input"] or not groups["expected"]:
        raise KitError(EXIT_USAGE, "%s holds no input or no expected output" % path, "copy it from the bundle again")
    return groups["input"], groups["expected"], groups["fp32"]


def version_tuple(text):
    """'10.3.0.26' to (10, 3, 0, 26); what is not a number ends it."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in numbers.group().split(".")) if numbers else ()


# --- comparison ----------------------------------------------------------------------------------------------------


def compare(actual, expected):
    """SQNR in dB, cosine, and largest and 99th percentile of the absolute error, of two arrays of one shape."""
    import numpy as np

    if actual.shape != expected.shape:
        raise KitError(EXIT_LOWERING, "shape %s instead of %s" % (actual.shape, expected.shape))
    a, e = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    finite = bool(np.isfinite(a).all())
    if not finite:
        return {"finite": False, "sqnr_db": None, "cosine": None, "max_abs": None, "p99_abs": None}
    error = np.abs(a - e)
    signal, noise = float(np.dot(e, e)), float(np.dot(a - e, a - e))
    norm = math.sqrt(float(np.dot(a, a)) * signal)
    return {
        "finite": True,
        # 200 dB stands for "equal": JSON knows no infinity.
        "sqnr_db": min(200.0, 10 * math.log10(signal / noise))
        if signal and noise
        else (200.0 if not noise else -200.0),
        "cosine": float(np.dot(a, e)) / norm if norm else 1.0 if not noise else 0.0,
        "max_abs": float(error.max()) if error.size else 0.0,
        "p99_abs": float(np.percentile(error, 99)) if error.size else 0.0,
    }


def judge(outputs, expected, reference, tolerances):
    """One entry per output. It passes when it is finite and close enough to what the quantized simulation gave."""
    limit = tolerances.get("sqnr_db_min")
    results = []
    for name in sorted(expected):
        if name not in outputs:
            raise KitError(EXIT_LOWERING, "the engine has no output %r" % name)
        figures = compare(outputs[name], expected[name])
        passed = figures["finite"] and (limit is None or figures["sqnr_db"] >= limit)
        entry = {"output": name, "status": "passed" if passed else "failed", "against": "simulation"}
        entry.update(figures, sqnr_db_min=limit)
        if name in reference:
            entry["against_fp32"] = compare(outputs[name], reference[name])
        results.append(entry)
    return results


# --- precision audit -----------------------------------------------------------------------------------------------

ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_INT8_TACTIC = re.compile(r"(?:^|_)(?:i8|s8|int8|imma)|i8i8|s8s8")
_INT4_TACTIC = re.compile(r"int4|(?<![a-z])[iu]4(?![0-9])")
_HALF_TACTIC = re.compile(r"f16f16|h16816|_f16|hmma")
_FLOAT_TACTIC = re.compile(r"f32f32|tf32|sgemm")


def parse_inspector(text):
    """The layers of the engine inspector's JSON as dicts; layers without details come as bare names."""
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise KitError(EXIT_LOWERING, "cannot read the engine inspector's report: %s" % error) from error
    return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]


def onnx_nodes(layer):
    """Names of the ONNX nodes that a layer was made of."""
    found = ONNX_LAYER.findall(str(layer.get("Metadata", "")))
    return found if found else [part.strip() for part in str(layer.get("Name", "")).split(" + ")]


def layer_precision(layer):
    """'int8', 'int4', 'fp16', 'fp32' or None: what the layer multiplies in, or, for int4, reads its weights as.

    The kernel's own name is the best witness, then the type of the weights, then the types of the inputs: a layer with
    int8 at its border may still compute in floating point.
    """
    tactic = str(layer.get("TacticName", "")).lower()
    weights = layer.get("Weights") or layer.get("Kernel")
    weights = str(weights.get("Type", "")).lower() if isinstance(weights, dict) else ""
    inputs = layer.get("Inputs") or []
    types = [
        str(entry.get("Format/Datatype", entry.get("Datatype", ""))).lower()
        for entry in inputs
        if isinstance(entry, dict)
    ]
    if _INT4_TACTIC.search(tactic) or "int4" in weights or any("int4" in kind for kind in types):
        return "int4"
    for pattern, precision in ((_INT8_TACTIC, "int8"), (_HALF_TACTIC, "fp16"), (_FLOAT_TACTIC, "fp32")):
        if pattern.search(tactic):
            return precision
    for words, precision in ((("int8",), "int8"), (("half", "fp16"), "fp16"), (("float", "fp32"), "fp32")):
        if any(word in weights for word in words):
            return precision
    for words, precision in ((("int8",), "int8"), (("half", "fp16"), "fp16"), (("float", "fp32"), "fp32")):
        if any(word in kind for kind in types for word in words):
            return precision
    return None


# What a layer of a scheme may be seen to compute in. A weight-only layer multiplies in FP16: that says nothing there.
ACCEPTED = {
    "fp32": {"fp32"},
    "fp16": {"fp16"},
    "w8a8": {"int8"},
    "w4a16": {"int4"},
    "w8a16": {"int8"},
}
INCONCLUSIVE = {"w4a16": {"fp16"}, "w8a16": {"fp16"}}


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


def import_tensorrt():
    try:
        import tensorrt
    except ImportError as error:
        raise KitError(
            EXIT_TOOLCHAIN,
            "TensorRT for Python cannot be imported: %s" % error,
            "on a Jetson: sudo apt-get install python3-libnvinfer; in a virtual environment use --system-site-packages",
        ) from error
    # Any folder called "tensorrt" can be imported; a version is what only the real one has.
    version = getattr(tensorrt, "__version__", "")
    if version_tuple(version) < LOWEST_TENSORRT:
        wanted = ".".join(map(str, LOWEST_TENSORRT))
        raise KitError(EXIT_TOOLCHAIN, "TensorRT %s is too old" % version, "use %s or later (JetPack 6.1)" % wanted)
    return tensorrt


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
    if serialized is None:
        raise KitError(EXIT_LOWERING, "TensorRT could not build the engine", "read its messages above")
    return bytes(serialized)


def engine_key(kit, trt_version, capability, arguments):
    """What an engine depends on: it is reused only where all of this is the same."""
    return {
        "sha256": kit["sha256"],
        "tensorrt": trt_version,
        "compute_capability": capability,
        "workspace_mb": arguments.workspace_mb,
        "optimization_level": arguments.optimization_level,
    }


def beside(engine_path):
    """Where it is written what an engine was built for."""
    return engine_path.with_name(engine_path.name + ".json")


def read_engine(path, key):
    """The engine in ``path``, or None if there is none or it was built from or for something else."""
    try:
        built_for = json.loads(beside(path).read_text(encoding="utf-8"))
        return path.read_bytes() if built_for == key else None
    except (OSError, ValueError):
        return None


def write_file(path, content):
    """Write aside and rename, so that nobody ever reads half a file."""
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise KitError(
            EXIT_RESOURCES, "cannot write %s: %s" % (path, error), "free some space, or choose another place"
        ) from error


class Runner:
    """A deserialized engine with its buffers: ``run(inputs)`` gives the outputs, ``measure`` times it."""

    def __init__(self, trt, cuda, logger, serialized):
        import numpy as np

        self.trt, self.cuda = trt, cuda
        before = cuda.used_bytes()
        self.runtime = trt.Runtime(logger)
        self.engine = self.runtime.deserialize_cuda_engine(serialized)
        if self.engine is None:
            raise KitError(EXIT_LOWERING, "the engine cannot be loaded", "build it again with --rebuild")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise KitError(EXIT_RESOURCES, "not enough GPU memory to run the engine", "close other programs")
        self.inputs, self.outputs, self.buffers = {}, {}, {}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            host = np.zeros(tuple(self.engine.get_tensor_shape(name)), trt.nptype(self.engine.get_tensor_dtype(name)))
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

    def run(self, inputs):
        if set(inputs) != set(self.inputs):
            raise KitError(EXIT_USAGE, "inputs %s, the engine wants %s" % (sorted(inputs), sorted(self.inputs)))
        for name, array in inputs.items():
            if array.shape != self.inputs[name].shape or array.dtype != self.inputs[name].dtype:
                wanted = "%s %s" % (self.inputs[name].dtype, self.inputs[name].shape)
                raise KitError(
                    EXIT_USAGE, "input %s is %s %s, the engine wants %s" % (name, array.dtype, array.shape, wanted)
                )
            self.cuda.upload(self.buffers[name], array)
        self.enqueue()
        self.cuda.call("cudaStreamSynchronize", self.stream)
        results = {}
        for name, host in self.outputs.items():
            self.cuda.download(host, self.buffers[name])
            results[name] = host.copy()
        return results

    def measure(self, warmup, iterations):
        """(GPU milliseconds by events, wall-clock milliseconds until done), one entry per run."""
        start, end = self.cuda.pointer("cudaEventCreate"), self.cuda.pointer("cudaEventCreate")
        for _ in range(warmup):
            self.enqueue()
        self.cuda.call("cudaStreamSynchronize", self.stream)
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
        return gpu, wall

    def inspect(self):
        return self.engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)


def quantiles(samples_ms):
    """Median, 90th and 99th percentile by the nearest rank, in milliseconds."""
    ordered = sorted(samples_ms)
    pick = lambda share: ordered[max(0, math.ceil(share * len(ordered)) - 1)]  # noqa: E731
    return {"median_ms": pick(0.5), "p90_ms": pick(0.9), "p99_ms": pick(0.99), "runs": len(ordered)}


def board():
    """What the board calls itself; empty where nothing says."""
    texts = {}
    for key, path in (("model", "/proc/device-tree/model"), ("l4t", "/etc/nv_tegra_release")):
        try:
            texts[key] = Path(path).read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip("\0 ")
        except OSError:
            texts[key] = ""
    return texts


# --- the run -------------------------------------------------------------------------------------------------------


def prepare_engine(trt, logger, kit, arguments, cuda):
    """(serialized engine, seconds it took to build, 0 for a reused one)."""
    path = arguments.engine or arguments.folder / "model.engine"
    key = engine_key(kit, trt.__version__, cuda.capability(), arguments)
    serialized = None if arguments.rebuild else read_engine(path, key)
    if serialized is not None:
        say("using %s" % path)
        return serialized, 0.0
    say("building the engine; this takes minutes")
    began = time.perf_counter()
    model_path = arguments.folder / kit["model"]
    serialized = build_engine(trt, logger, model_path, arguments.workspace_mb, arguments.optimization_level)
    seconds = time.perf_counter() - began
    write_file(path, serialized)
    write_file(beside(path), json.dumps(key, sort_keys=True).encode())
    return serialized, seconds


def verify(runner, kit, arguments, result):
    """Replay, compare, measure; adds to ``result``."""
    inputs, expected, reference = load_golden(arguments.folder / "golden.npz")
    result["accuracy"] = judge(runner.run(inputs), expected, reference, kit["tolerances"])
    gpu, wall = runner.measure(arguments.warmup, arguments.iterations)
    result["latency"] = {"gpu": quantiles(gpu), "wall": quantiles(wall)}
    result["gpu_memory_bytes"] = runner.memory_bytes


def say(text):
    print(text, file=sys.stderr, flush=True)


def summarise(result):
    for entry in result.get("accuracy", []):
        say("%-14s %-7s SQNR %s dB" % (entry["output"], entry["status"], entry["sqnr_db"]))
    for entry in result["precision"]:
        say("%-28s asked %-6s %s" % (entry["block"], entry["asked"], entry["status"]))
    if "latency" in result:
        say(
            "latency on the GPU: median %(median_ms).3f ms, p90 %(p90_ms).3f ms, p99 %(p99_ms).3f ms"
            % result["latency"]["gpu"]
        )


def exit_code(result):
    if any(entry["status"] == "failed" for entry in result.get("accuracy", [])):
        return EXIT_ACCURACY
    lost = any(entry["status"] == "not_realised" for entry in result["precision"])
    return EXIT_LOWERING if lost or result["engine"]["weights_packed"] == "no" else EXIT_OK


def run(arguments):
    """The whole job; returns the exit code. The result file is written also when accuracy or precision fail."""
    trt = import_tensorrt()
    kit = load_kit(arguments.folder)
    cuda = Cuda()
    logger = trt.Logger(trt.Logger.WARNING)
    serialized, seconds = prepare_engine(trt, logger, kit, arguments, cuda)
    runner = Runner(trt, cuda, logger, serialized)
    result = {
        "schema_version": SCHEMA_VERSION,
        "target": kit.get("target", ""),
        "plan_digest": kit.get("plan_digest", ""),
        "board": board(),
        "compute_capability": cuda.capability(),
        "tensorrt": trt.__version__,
        "engine": {
            "bytes": len(serialized),
            "build_s": seconds,
            "weights_packed": weights_packed(len(serialized), kit),
        },
        "precision": audit(parse_inspector(runner.inspect()), kit["blocks"]),
    }
    try:
        if not arguments.build_only:
            verify(runner, kit, arguments, result)
    finally:
        runner.close()
    result["exit_code"] = exit_code(result)
    output = arguments.output or arguments.folder / "result.json"
    write_file(output, (json.dumps(result, indent=2, sort_keys=True) + "\n").encode())
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

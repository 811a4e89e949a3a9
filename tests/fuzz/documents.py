"""Targets: the documents that the exporter, its bundles and its device kits write, and what users configure."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from harness import Errors, Target
from mutation import Mutator, damaged, damaged_json, damaged_lines, damaged_safetensors
from safetensors.numpy import load_file

from vggt_edge.calibration.observation.sampling import Sampling
from vggt_edge.calibration.observation.stats import BlockRange, CalibrationStats, Sample, TensorStats
from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.planning.cost import BlockCost, LayerCost
from vggt_edge.calibration.planning.exclude import excluded_layers
from vggt_edge.calibration.quantization.form import Kind, LayerShape
from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter.bundle import Manifest, device_results, verify_bundle
from vggt_edge.exporter.commands.inspect import describe
from vggt_edge.exporter.commands.output import to_document
from vggt_edge.exporter.lowered import read_lowered
from vggt_edge.exporter.machine.files import file_sha256
from vggt_edge.exporter.machine.usage import Measured, Timing
from vggt_edge.exporter.request import resolve_request, to_toml
from vggt_edge.exporter.steps.sensitivity import read_sensitivities
from vggt_edge.exporter.validation.rows import Row, Status, ValidationReport
from vggt_edge.runtimes.common.kit import kit_script, read_kit
from vggt_edge.runtimes.executorch.kit_files import KIT as ANDROID_KIT
from vggt_edge.runtimes.tensorrt.backend import write_golden
from vggt_edge.runtimes.tensorrt.engine import kit_module

OWN: Errors = (VggtEdgeError,)
JSON: tuple[Mutator, ...] = (damaged_json, damaged_json, damaged_json, damaged)
LINES: tuple[Mutator, ...] = (damaged_lines, damaged_lines, damaged)
REPOSITORY = Path(__file__).parents[2]

PLAN = PrecisionPlan(
    "a" * 64, "b" * 64, "jetson-orin", 64,
    (
        Assignment("frame_blocks.0", "w8a8", "for a test", 0.25, 1024, 0.5, ("mlp.fc1",)),
        Assignment("global_blocks.0", "w4a16", "for a test", 0.0, 512, 0.25),
    ),
    rest_bytes=4096, notes=("a note",),
)  # fmt: skip
STATS = CalibrationStats(
    "a" * 64,
    (Sample("room-0", "c" * 64), Sample("room-1", "d" * 64)),
    (
        TensorStats("frame_blocks.0.mlp.fc1", "patch", -1.5, 2.5, (1.0, 2.0, 2.25, 2.5), 4096),
        TensorStats("frame_blocks.0.mlp.fc1", "special", -0.5, 0.5, (0.25, 0.5, 0.5, 0.5), 128),
    ),
    (BlockRange("frame_blocks.0", 70.5, "aten.add"), BlockRange("model", 1.0, "aten.div")),
    {
        "frame_blocks.0.mlp.fc1|patch": np.linspace(0, 2.5, 8, dtype=np.float32),
        "frame_blocks.0.mlp.fc1|special": np.linspace(0, 0.5, 8, dtype=np.float32),
    },
)
SAMPLING = Sampling(
    ("room-0", "room-1", "room-2"), ("c" * 64, "d" * 64, "e" * 64), 0, 0.2, (1.0, 1.5, 9.0), (2,), (0, 1, -1), (0, 1),
    ("a note",),
)  # fmt: skip
REPORT = ValidationReport(
    ("room-0",), ("room-0",),
    (
        Row("fp32", "depth", "abs_rel", "ground_truth", Status.INFO, 0.08),
        Row("simulation", "depth", "sqnr_db", "fp32", Status.PASSED, 31.5, 20.0, "sqnr_db_min"),
    ),
    ("a note",),
)  # fmt: skip
SENSITIVITIES = [
    {"block": "frame_blocks.0", "scheme": scheme, "error": error, "per_output": {"depth": error, "pose_enc": 0.0}}
    for scheme, error in (("w8a8", 0.125), ("w4a16", 0.5))
]  # fmt: skip
LOWERED = {
    "backend": "tensorrt", "files": ["tensorrt/model.onnx"],
    "realised": [{"block": "frame_blocks.0", "asked": "w8a8", "realised": "w8a8", "how": "QuantizeLinear"}],
    "checks": [{"name": "rules", "status": "passed", "detail": "none broken", "figures": {"nodes": 12, "share": 0.5}}],
    "findings": [],
}  # fmt: skip
RESULT = {"schema_version": 1, "status": "passed", "outputs": [{"output": "depth", "status": "passed"}]}
RESOLVED = (
    'target = "jetson-orin"\nmodel = "vggt-mini"\nprecision = "mixed"\nscenes = "/data/room"\nmax_memory = 4000000\n'
    'max_latency = 12.5\nmax_accuracy_drop = 0.02\nframes = 4\nresolution = [84, 112]\noutputs = ["camera", "depth"]\n'
    'exclude = ["frame_blocks.0", ".*fc2"]\ngroup_size = 64\nseed = 0\nimage_input = false\neffort = "balanced"\n'
)
SETTINGS = (
    b"max_memory=4GiB\nmax_latency=12ms\nmax_accuracy_drop=2%\nresolution=84x112\nexclude=.*fc2\nframes=4\nseed=1"
)
_PATTERN_PIECES = (
    "a", ".", ".*", "(", ")", "*", "+", "?", "{1,9}", "[a-z]", "\\w", "|", "(?:", "(a*)*", "(?=", "(?<=", "(?P<n>",
    "\\1", "frame_blocks", "\\.", "\\d+", "^", "$", "(?i)", "{99999}", "[[:", "(?e)(?:foo){e<=9}", "\\X", "(?R)", "(?|",
)  # fmt: skip
_LAYERS = tuple(
    LayerCost(f"frame_blocks.0.{name}", LayerShape(Kind.LINEAR, 64, 64, 4096), 1, 1, 1)
    for name in ("mlp.fc1", "a" * 60 + ".fc2")
)
BLOCKS = (BlockCost("frame_blocks.0", _LAYERS, 0, 0, 0, 1, 1),)


# --- documents of the exporter ----------------------------------------------------------------------------------------


def _written(name: str, content: bytes | str) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def shown(path: Path) -> None:
    """Read the file in the way of ``inspect --json``."""
    json.dumps(to_document(describe(path)), allow_nan=False)


def _read_plan(folder: Path) -> None:
    plan = PrecisionPlan.from_json((folder / "plan.json").read_text(encoding="utf-8", errors="replace"))
    assert PrecisionPlan.from_json(plan.to_json()) == plan
    shown(folder / "plan.json")


def _read_stats(folder: Path) -> None:
    """Write the right digest of the damaged arrays, which a careful attacker does as well."""
    _with_right_digest(folder)
    stats = CalibrationStats.load(folder)
    stats.fp32_blocks()
    for tensor in stats.tensors:
        stats.channel_peaks(tensor.layer)
    shown(folder / "stats.json")


def _with_right_digest(folder: Path) -> None:
    try:
        document = json.loads((folder / "stats.json").read_bytes())
        arrays = load_file(folder / "stats.safetensors")
        document["arrays_sha256"] = CalibrationStats("", (), (), (), arrays)._arrays_digest()
        (folder / "stats.json").write_text(json.dumps(document))
    except Exception:  # damaged beyond that: the reader's own business
        pass


def _read_manifest(folder: Path) -> None:
    Manifest.from_json((folder / "manifest.json").read_text(encoding="utf-8", errors="replace"))
    shown(folder)
    verify_bundle(folder)


def write_bundle(folder: Path) -> None:
    """A small bundle with everything that ``verify`` asks for."""
    STATS.save(folder)
    stats_digest = file_sha256(folder / "stats.json")
    plan = PrecisionPlan("a" * 64, stats_digest, PLAN.target, 64, PLAN.assignments)
    contents = {
        "plan.json": plan.to_json(), "validation.json": REPORT.to_json(), "resolved.toml": RESOLVED,
        "model.onnx": "graph", "model.onnx.data": "weights", "golden.safetensors": "arrays", "report.html": "<html>",
    }  # fmt: skip
    for name, text in contents.items():
        (folder / name).write_text(text)
    names = sorted((*contents, "stats.json", "stats.safetensors"))
    files = [
        {"path": name, "size_bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in names
    ]
    digests = {"model": "a" * 64, "scenes": "f" * 64, "stats": stats_digest, "plan": file_sha256(folder / "plan.json")}
    manifest = {
        "model": "vggt-mini", "target": "jetson-orin", "digests": digests, "tools": {"torch": "2.13.0"},
        "files": files, "random_weights": "", "judged_with": [], "schema_version": 2,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    taken = Measured(1 << 30, (Timing("calibrate", 12.5, 9.25),), {"executorch": {"ExecuTorch run": {"seconds": 1.5}}})
    (folder / "measured.json").write_text(taken.to_json())


def _write_bundle_with_result(folder: Path) -> None:
    write_bundle(folder)
    (folder / "result.json").write_text(json.dumps(RESULT))


# --- configuration ----------------------------------------------------------------------------------------------------


def _read_profile(folder: Path) -> None:
    profile = load_profile(folder / "device.toml")
    json.dumps(to_document(profile.to_dict()), allow_nan=False)


def _read_settings(folder: Path) -> None:
    """The lines of a file as values of ``--set``."""
    texts = [os.fsdecode(line) for line in (folder / "settings").read_bytes().split(b"\n")]
    request = resolve_request({}, texts)
    excluded_layers(BLOCKS, request.exclude)


def _read_resolved(folder: Path) -> None:
    request = resolve_request({}, (), folder / "resolved.toml")
    (folder / "again.toml").write_text(to_toml(request))
    assert resolve_request({}, (), folder / "again.toml") == request


def _hostile_pattern(random: Any, _data: bytes) -> bytes:
    pieces = "".join(random.choice(_PATTERN_PIECES) for _ in range(random.randrange(1, 12)))
    return (random.choice(("", ".*fc2|")) + pieces).encode()  # half of them fit a layer, if they are patterns at all


def _read_pattern(folder: Path) -> None:
    pattern = (folder / "pattern").read_text(errors="surrogateescape")
    request = resolve_request({"exclude": (pattern,)})
    excluded_layers(BLOCKS, request.exclude)


# --- device kits ------------------------------------------------------------------------------------------------------


def _compare() -> ModuleType:
    return kit_script(ANDROID_KIT / "compare.py")


@cache
def _vectors() -> ModuleType:
    path = REPOSITORY / "tests" / "runtimes" / "executorch" / "kit_vectors.py"
    return kit_script(path)


def _write_android_kit(folder: Path) -> None:
    from vggt_edge.runtimes.executorch.kit_files import write_golden as write_android_golden
    from vggt_edge.runtimes.executorch.kit_files import write_kit

    _vectors().write_model(folder)
    write_kit(folder, _vectors().description())
    _, simulation, _ = _vectors().golden_arrays()
    write_android_golden(folder, *_vectors().golden_arrays())
    for index, values in enumerate(simulation.values()):
        (folder / f"output-{index}.bin").write_bytes(values.astype("<f4").tobytes())


def _run_compare(folder: Path) -> None:
    """The whole program; damaged golden tensors get the digest that lets them in."""
    digest, path = file_sha256(folder / "golden.safetensors"), folder / "kit.json"
    path.write_bytes(path.read_bytes().replace(_digest_of_golden().encode(), digest.encode()))
    compare = _compare()
    compare.run(compare.parse_arguments(["--folder", str(folder), "--outputs", str(folder)]))


@cache
def _digest_of_golden() -> str:
    with tempfile.TemporaryDirectory() as scratch:
        _write_android_kit(Path(scratch))
        return file_sha256(Path(scratch) / "golden.safetensors")


def _read_android_kit(folder: Path) -> None:
    read_kit(folder / "kit.json", 1)


def _write_jetson_kit(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model.onnx.data").write_bytes(b"weights")
    block = {"block": "frame_blocks.0", "scheme": "w8a8", "computed": "w8a8", "nodes": ["n/MatMul"]}
    content = {
        "schema_version": 1, "target": "jetson-orin", "plan_digest": "d" * 64, "model": "model.onnx",
        "sha256": {name: file_sha256(folder / name) for name in ("model.onnx", "model.onnx.data")},
        "blocks": [block], "requires": {}, "weight_bytes": {"packed": 10, "fp16": 20},
        "tolerances": {"sqnr_db_min": 25.0},
    }  # fmt: skip
    (folder / "kit.json").write_text(json.dumps(content))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_golden(folder, {"images": x}, {"depth": 2 * x}, {"depth": 2 * x + 0.01})
    layers = [
        {"Name": "n", "Metadata": "[ONNX Layer: n/MatMul]", "TacticName": "i8i8", "Inputs": [{"Datatype": "Int8"}]}
    ]
    (folder / "inspector.json").write_text(json.dumps({"Layers": layers}))


def _run_jetson_kit(folder: Path) -> None:
    """Read the files of the Jetson kit; no engine is built."""
    kit = kit_module()
    description = kit.load_kit(folder)
    _, expected, reference = kit.golden_of(folder, description)
    judge = kit.Judge(expected, reference, **description["tolerances"])
    judge.add(expected)
    json.dumps(kit.result_of(description, judge.outputs), allow_nan=False)
    kit.audit(kit.parse_inspector((folder / "inspector.json").read_text(errors="replace")), description["blocks"])
    kit.weights_packed(1 << 20, description)


def _read_golden(folder: Path) -> None:
    kit_module().load_golden(folder / "golden.safetensors")


def targets() -> list[Target]:
    """Documents of ours, configuration, device kits."""
    profile = (REPOSITORY / "devices" / "profiles" / "pixel-9-gpu.toml").read_bytes()
    return [
        Target("plan.json", _written("plan.json", PLAN.to_json()), _read_plan, {"plan.json": JSON}, OWN),
        Target(
            "stats", STATS.save, _read_stats,
            {"stats.json": JSON, "stats.safetensors": (damaged_safetensors, damaged)}, OWN,
        ),
        Target(
            "sampling", _written("sampling.json", SAMPLING.to_json()),
            lambda folder: Sampling.from_json((folder / "sampling.json").read_text(errors="replace")).digest,
            {"sampling.json": JSON}, OWN,
        ),
        Target(
            "sensitivity", _written("sensitivity.json", json.dumps(SENSITIVITIES)),
            lambda folder: read_sensitivities(folder / "sensitivity.json"), {"sensitivity.json": JSON}, OWN,
        ),
        Target(
            "lowered", _written("lowered.json", json.dumps(LOWERED)),
            lambda folder: read_lowered(folder / "lowered.json"), {"lowered.json": JSON}, OWN,
        ),
        Target(
            "validation", _written("validation.json", REPORT.to_json()),
            lambda folder: ValidationReport.from_json(
                (folder / "validation.json").read_text(errors="replace")
            ).to_json(),
            {"validation.json": JSON}, OWN,
        ),
        Target("manifest.json", write_bundle, _read_manifest, {"manifest.json": JSON}, OWN),
        Target("measured.json", write_bundle, _read_manifest, {"measured.json": JSON}, OWN),
        Target(
            "result.json", _write_bundle_with_result, device_results, {"result.json": JSON}, OWN,
        ),
        Target("profile", _written("device.toml", profile), _read_profile, {"device.toml": LINES}, OWN),
        Target("set", _written("settings", SETTINGS), _read_settings, {"settings": LINES}, OWN),
        Target("resolved.toml", _written("resolved.toml", RESOLVED), _read_resolved, {"resolved.toml": LINES}, OWN),
        Target("exclude", _written("pattern", ".*fc2"), _read_pattern, {"pattern": (_hostile_pattern,)}, OWN, 0.5),
        Target("kit.json", _write_android_kit, _read_android_kit, {"kit.json": JSON}, OWN),
        Target(
            "compare.py", _write_android_kit, _run_compare,
            {"kit.json": JSON, "golden.safetensors": (damaged_safetensors,), "output-0.bin": (damaged,)},
            (_compare().KitError,),
        ),
        Target(
            "build_and_verify.py", _write_jetson_kit, _run_jetson_kit,
            {"kit.json": JSON, "inspector.json": JSON}, (kit_module().KitError,),
        ),
        Target(
            "golden.safetensors", _write_jetson_kit, _read_golden,
            {"golden.safetensors": (damaged, damaged_safetensors)}, (kit_module().KitError,),
        ),
    ]  # fmt: skip

"""Writes what the C++ tests read: ``python tests/kits/cpp/prepare.py FOLDER``.

``layers.json``: layers of engine inspectors with what Python's kit reads in them. One folder per case of ``CASES``: a
small kit as the exporter writes it, ``standin.json`` for the stand-in of TensorRT, and in ``python/`` the
``result.json`` that Python's kit writes for the same predictions. ``signed/``: see ``signed.py``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from signed import write_signed

from vggt_edge.runtimes.common.kit import script_module
from vggt_edge.runtimes.tensorrt.backend import write_golden
from vggt_edge.runtimes.tensorrt.engine import kit_module

VECTORS = Path(__file__).parents[2] / "runtimes/coreml/kit_vectors.py"
FRAMES, HEIGHT, WIDTH = 2, 14, 28
ITERATIONS, WARM_UP = 3, 1
INT8 = {"Name": "n", "Metadata": "[ONNX Layer: frame/MatMul]", "TacticName": "sm80_i8i8_gemm"}
kit = kit_module()


@dataclass(frozen=True)
class Case:
    """A case: the behaviour of the stand-in, and the exit code of the program.

    - code: exit code.
    - factors: by which all outputs are multiplied, one run after the other; the last one stays. None: NaN.
    - fails: the call that fails.
    - says: what the builder logs as an error when it fails.
    - layers: what the engine inspector reports.
    - sqnr_db_min: the limit of kit.json.
    - weight_bytes: packed and FP16 size of the weights, in kit.json.
    - engine_bytes: size of the engine.
    """

    code: int = 0
    factors: tuple[float | None, ...] = (1.0,)
    fails: str = ""
    says: str = ""
    layers: tuple[Any, ...] = (INT8,)
    sqnr_db_min: float | None = 25.0
    weight_bytes: dict[str, int] = field(default_factory=lambda: {"packed": 10, "fp16": 20})
    engine_bytes: int = 4096


CASES = {
    "good": Case(),
    "near": Case(factors=(1.0, 1.001, 1.0)),
    "drift": Case(4, factors=(1.2,)),
    "one bad run": Case(4, factors=(1.0, 1.0, 1.3, 1.0)),
    "last run bad": Case(4, factors=(1.0, 1.0, 1.0, 1.0, -1.0)),
    "nan": Case(4, factors=(None,)),
    "nan in one run": Case(4, factors=(1.0, 1.0, 1.0, None, 1.0)),
    "no limit": Case(sqnr_db_min=None, factors=(0.5,)),
    "no limit but nan": Case(4, sqnr_db_min=None, factors=(1.0, None)),
    "lost precision": Case(6, layers=({**INT8, "TacticName": "sm80_h16816_gemm"},)),
    "unknown precision": Case(layers=("frame/MatMul",)),
    "not packed": Case(6, weight_bytes={"packed": 1 << 3, "fp16": 9 << 20}, engine_bytes=9 << 20),
}  # fmt: skip


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "layers.json").write_text(json.dumps(layers()))
    for name, case in CASES.items():
        write_case(folder / name, case)
    write_signed(folder / "signed", folder / "good")


# --- layers -----------------------------------------------------------------------------------------------------------

PIECES = (
    "int8", "i8", "s8", "i8i8", "s8s8", "imma", "int4", "i4", "u4", "fp4", "nvfp4", "e2m1", "fp8", "e4m3", "f16f16",
    "h16816", "_f16", "hmma", "f32f32", "tf32", "sgemm", "half", "fp16", "float", "fp32", "_", "x", "9", "0", "gemm",
    "I8",
)  # fmt: skip


def layers() -> list[dict[str, Any]]:
    """Random layers of every form, and what Python's kit makes of them."""
    random = Random(1)
    made = [layer(random) for _ in range(400)]
    return [{"layer": each, "precision": kit.layer_precision(each), "nodes": kit.onnx_nodes(each)} for each in made]


def layer(random: Random) -> dict[str, Any]:
    def words() -> str:
        return "".join(random.choices(PIECES, k=random.randint(0, 3)))

    made: dict[str, Any] = {"Name": " + ".join(f"n{random.randint(0, 9)} " for _ in range(random.randint(1, 3)))}
    if random.random() < 0.7:
        made["TacticName"] = words()
    if random.random() < 0.3:
        made[random.choice(("Weights", "Kernel"))] = random.choice(({"Type": words()}, {}, words(), None))
    if random.random() < 0.5:
        made["Inputs"] = [{random.choice(("Format/Datatype", "Datatype")): words()}, random.choice((3, {}))]
    if random.random() < 0.5:
        names = [random.choice(("[ONNX Layer: a/b]", "[ONNX Layer: c", "[ONNX Layer: ]", "\x1e")) for _ in range(3)]
        made["Metadata"] = "".join(names)
    return made


# --- kits and Python's own results ------------------------------------------------------------------------------------


def write_case(folder: Path, case: Case) -> None:
    """The kit, what the stand-in does, and Python's result."""
    folder.mkdir()
    for name, content in (("model.onnx", b"graph"), ("model.onnx.data", b"weights")):
        (folder / name).write_bytes(content)
    inputs, expected, fp32 = script_module(VECTORS, "ios_kit_vectors").golden_arrays()
    content = {
        "schema_version": 1,
        "target": "jetson-orin",
        "plan_digest": "5" * 64,
        "model": "model.onnx",
        "sha256": {name: kit.sha256_of(folder / name) for name in ("model.onnx", "model.onnx.data")},
        "requires": {"tensorrt": ">=10.3"},
        "blocks": [{"block": "frame.0", "scheme": "w8a8", "computed": "w8a8", "nodes": ["frame/MatMul"]}],
        "preprocess": {"mode": "pad", "patch": 7},
        "pixel_centers": "integer",
        "weight_bytes": case.weight_bytes,
        "outputs": [{"name": name, "shape": list(array.shape)} for name, array in expected.items()],
        "tolerances": {"sqnr_db_min": case.sqnr_db_min, "pose_degrees_max": 5.0},
    }
    (folder / "kit.json").write_text(json.dumps(content, indent=2, sort_keys=True))
    write_golden(folder, inputs, expected, fp32)
    (folder / "standin.json").write_text(json.dumps(asdict(case)))
    python = folder / "python"
    python.mkdir()
    (python / "code").write_text(str(python_result(folder, case, python / "result.json")))


def python_result(folder: Path, case: Case, output: Path) -> int:
    """The exit code of Python's kit with these predictions in the engine's place."""
    arguments = ["--folder", str(folder), "--output", str(output), "--engine", str(output.with_name("model.engine"))]
    arguments += ["--iterations", str(ITERATIONS), "--warmup", str(WARM_UP)]
    cuda = SimpleNamespace(capability=lambda: "8.7")
    kit.import_tensorrt = lambda *_arguments: SimpleNamespace(__version__="10.3.0")
    kit.Cuda, kit.make_logger = (lambda: cuda), (lambda _trt: None)
    kit.build_engine = lambda *_arguments: bytes(case.engine_bytes)
    kit.Runner = lambda *_arguments: Runner(folder, case)
    return int(kit.main(arguments))


class Runner(SimpleNamespace):
    """Takes the place of a ``Runner`` of Python's kit; its predictions are the golden outputs times a factor."""

    def __init__(self, folder: Path, case: Case) -> None:
        _, expected, _ = kit.load_golden(folder / "golden.safetensors")
        super().__init__(expected=expected, factors=list(case.factors), layers=case.layers, memory_bytes=0)

    def fetch(self) -> dict[str, Any]:
        factor = self.factors.pop(0) if len(self.factors) > 1 else self.factors[0]
        scale = np.float32(np.nan if factor is None else factor)
        return {name: array * scale for name, array in self.expected.items()}

    def measure(self, warm_up: int, iterations: int, seen: Any) -> tuple[list[float], list[float]]:
        for _ in range(warm_up + iterations):
            seen(self.fetch())
        return [1.0] * iterations, [2.0] * iterations

    def inspect(self) -> str:
        return json.dumps({"Layers": self.layers})

    def check_outputs(self, _expected: Any) -> None: ...
    def feed(self, _inputs: Any) -> None: ...
    def predict(self) -> None: ...
    def close(self) -> None: ...


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Which versions of which runtimes read the ``model.onnx`` of bundles, and how near they come: a table for the docs.

``readers.py --bundle BUNDLE ... --runtime FOLDER ...``: every FOLDER holds one version of onnxruntime or openvino, as
``pip install --no-deps --target FOLDER onnxruntime==1.20.1`` leaves it, and runs in a process of its own. Replays the
golden tensors of each bundle and prints the worst output against the simulation and against FP32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Runs with one version ahead of all installed packages: prints version and, by setting of the session, SQNR in dB.
_REPLAY = """
import json, sys
from pathlib import Path
runtime, bundle = sys.argv[1:]
sys.path.insert(0, runtime)
import numpy as np
from safetensors.numpy import load_file

golden = load_file(bundle + "/golden.safetensors")
images = golden["input/images"]

def worst(outputs, group):
    found = []
    for name, value in outputs.items():
        reference = golden[f"{group}/{name}"].astype(np.float64)
        noise = float(np.square(value.astype(np.float64) - reference).sum())
        found.append(10 * np.log10(float(np.square(reference).sum()) / max(noise, 1e-30)))
    return round(min(found), 1)

def onnx_runtime(ort):
    def run(level, entries):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        session = ort.InferenceSession(bundle + "/model.onnx", options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_outputs()]
        return dict(zip(names, session.run(names, {"images": images})))
    levels = ort.GraphOptimizationLevel
    exact = {"session.qdq_matmulnbits_accuracy_level": "0"}
    yield "nothing fused", lambda: run(levels.ORT_DISABLE_ALL, exact)
    yield "defaults", lambda: run(levels.ORT_ENABLE_ALL, {})
    yield "defaults, accuracy level 0", lambda: run(levels.ORT_ENABLE_ALL, exact)

def openvino_cpu(ov):
    def run():
        model = ov.Core().compile_model(bundle + "/model.onnx", "CPU")
        return {port.get_any_name(): value for port, value in model([images]).items()}
    yield "CPU", run

if (Path(runtime) / "openvino").is_dir():
    import openvino
    name, version, settings = "OpenVINO", openvino.__version__.split("-")[0], openvino_cpu(openvino)
else:
    import onnxruntime
    name, version, settings = "ONNX Runtime", onnxruntime.__version__, onnx_runtime(onnxruntime)
for setting, run in settings:
    row = {"runtime": name, "version": version, "setting": setting}
    try:
        outputs = run()
        row |= {"simulation": worst(outputs, "simulation"), "fp32": worst(outputs, "fp32")}
    except Exception as error:
        row["refused"] = str(error).strip().splitlines()[0][:120]
    print(json.dumps(row), flush=True)
"""
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Reading:
    """One bundle in one version and setting of a runtime; SQNR in dB of the worst output, or why there is none."""

    bundle: str
    runtime: str
    version: str
    setting: str
    simulation: float | None = None
    fp32: float | None = None
    refused: str = ""

    @property
    def cell(self) -> str:
        """``66 (30)``: against the simulation, against FP32 in brackets."""
        return f"refused: {self.refused}" if self.refused else f"{self.simulation:g} ({self.fp32:g})"


def readings(bundle: Path, runtime: Path) -> list[Reading]:
    """All settings of one version; a crash counts as refused."""
    command = [sys.executable, "-W", "ignore", "-c", _REPLAY, str(runtime), str(bundle)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    found = [Reading(bundle.name, **json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        found.append(Reading(bundle.name, runtime.name, "", "", refused=f"ended with {ended.returncode}: {last[:100]}"))
    return found


def table(found: list[Reading]) -> str:
    """In Markdown: a row for each version and setting, a column for each bundle."""
    bundles = list(dict.fromkeys(one.bundle for one in found))
    rows = list(dict.fromkeys((one.runtime, one.version, one.setting) for one in found))
    cells = {(one.runtime, one.version, one.setting, one.bundle): one.cell for one in found}
    lines = [f"| runtime | session | {' | '.join(bundles)} |", "|---|---|" + "---|" * len(bundles)]
    for runtime, version, setting in rows:
        values = [cells.get((runtime, version, setting, bundle), "-") for bundle in bundles]
        lines.append(f"| {runtime} {version} | {setting} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and the seconds of no part of it: these runs share their machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--runtime", type=Path, action="append", required=True)
    given = parser.parse_args()
    print(table([one for runtime in given.runtime for bundle in given.bundle for one in readings(bundle, runtime)]))


if __name__ == "__main__":
    main()

"""Launches and operand types of compiled plans: ``plan_audits.py BUNDLE ...`` prints a table, one row for each bundle.

Each bundle's ``tensorrt/model.onnx`` is compiled anew with TensorRT for RTX for the capability nearest to its target,
and audited against its ``plan.json``. An ONNX file may be given too, such as another tool's strongly typed graph: then
only what the plan computes is known. Nothing is run, and no GPU is needed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from measure import table

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.profile import load_profile
from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.tensorrt import rtx
from vggt_edge.runtimes.tensorrt.plan_audit import judge
from vggt_edge.runtimes.tensorrt.plan_products import Reading

KINDS = ("gemm", "fused gemm", "convolution", "transposed convolution", "fused attention", "elementwise", "cast")
EXTRA = ("quantizer", "weight expansion")
TYPES = ("int8", "fp8", "fp4", "fp16", "fp32", "unknown")


def row(name: str, reading: Reading, faults: Counter[str] | None) -> tuple[str, ...]:
    types = Counter(one.computed for one in reading.products)
    return (
        name,
        str(sum(reading.launches.values())),
        *(str(reading.launches.get(kind, 0)) for kind in (*KINDS, *EXTRA)),
        ", ".join(f"{types[one]} {one}" for one in (*TYPES, *sorted(set(types) - set(TYPES))) if types[one]),
        f"{reading.expanded_bytes / 1e6:.2f} MB",
        "-" if faults is None else ", ".join(f"{count} {rule}" for rule, count in faults.items() if rule) or "none",
    )


def audited(path: Path, capability: str | None) -> tuple[str, ...]:
    model, plan = path, None
    if path.is_dir():
        model = path / "tensorrt" / "model.onnx"
        plan = PrecisionPlan.from_json((path / "plan.json").read_text(encoding="utf-8"))
        capability = capability or rtx.offered_capability(load_profile(plan.target).compute_capability)
    compiled = rtx.compile_graph(model, capability=capability or rtx.DEFAULT_CAPABILITY)
    if compiled.reading is None:
        raise SystemExit(f"{path}: {compiled.check.detail}")
    if plan is None:
        return row(path.name, compiled.reading, None)
    blocks = [one.block for one in plan.assignments]
    judged = judge(compiled.reading, load_onnx(model), blocks)
    return row(path.name, compiled.reading, Counter(one.fault for one in judged))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--capability", help="such as SM120; by default that nearest to the bundle's target")
    given = parser.parse_args()
    header = ("graph", "launches", *KINDS, *EXTRA, "products by type", "weights widened", "findings, in products")
    print("\n".join(table(header, [audited(path, given.capability) for path in given.paths])))


if __name__ == "__main__":
    main()

"""The program that ``ort-latency`` runs, once per model and repetition: load, warm up, time one forward.

``_ort_latency.py --onnx FILE --threads N --warmups N --result FILE``; the result is JSON, the outputs lie beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmups", type=int, default=1)
    parser.add_argument("--result", type=Path, required=True)
    given = parser.parse_args()
    options = ort.SessionOptions()
    options.intra_op_num_threads = given.threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    start = time.perf_counter()
    session = ort.InferenceSession(str(given.onnx), options, providers=["CPUExecutionProvider"])
    load_s = time.perf_counter() - start
    (node,) = session.get_inputs()
    feed = {node.name: np.random.default_rng(0).random(node.shape, dtype=np.float32)}
    seconds, outputs = [], []
    for _ in range(given.warmups + 1):
        start = time.perf_counter()
        outputs = session.run(None, feed)
        seconds.append(time.perf_counter() - start)
    names = [output.name for output in session.get_outputs()]
    np.savez(given.result.with_suffix(".npz"), **dict(zip(names, outputs, strict=True)))
    given.result.write_text(json.dumps({"load_s": load_s, "warmup_s": seconds[:-1], "seconds": seconds[-1]}))


if __name__ == "__main__":
    main()

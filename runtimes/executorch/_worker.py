"""The process that runs ExecuTorch: ``python -m ..._worker PROGRAM [WEIGHTS]``, one JSON request per line on stdin.

Answers with one line of JSON each, the first when the program is loaded, on what was stdout when it started; whatever
native code prints goes to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vggt_edge.runtimes.common.worker import Answer, peak_memory_bytes, serve
from vggt_edge.runtimes.executorch.files import INPUTS, METHOD, OUTPUTS


def load(program: str, weights: str | None) -> tuple[Any, Answer]:
    """The module, and what loading it took. Native code checks the file's structure first."""
    import executorch.extension.pybindings._portable_lib as runtime

    began = time.perf_counter()
    module = runtime._load_for_executorch(
        program, weights, program_verification=runtime.Verification.InternalConsistency
    )
    module.method_meta(METHOD)
    return module, {"load_seconds": time.perf_counter() - began, "threads": runtime._threadpool_get_thread_count()}


def run(module: Any, request: Answer) -> Answer:
    """Run on the tensors of a folder and leave the outputs there, as ``0``, ``1`` and so on."""
    from safetensors.torch import load_file, save_file

    folder = Path(request["folder"])
    arrays = load_file(folder / INPUTS)
    inputs = [arrays[str(index)] for index in range(len(arrays))]
    times = []
    for _ in range(request["repeats"]):
        began = time.perf_counter()
        outputs = module.run_method(METHOD, inputs)
        times.append(time.perf_counter() - began)
    save_file({str(index): value.contiguous() for index, value in enumerate(outputs)}, folder / OUTPUTS)
    return {"seconds": times, "peak_memory_bytes": peak_memory_bytes()}


def start(arguments: list[str]) -> tuple[Answer, Callable[[Answer], Answer]]:
    module, loaded = load(arguments[0], arguments[1] if len(arguments) > 1 else None)
    return loaded, partial(run, module)


if __name__ == "__main__":
    serve(start)

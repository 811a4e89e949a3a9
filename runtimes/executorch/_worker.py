"""The process that runs ExecuTorch: ``python -m ..._worker PROGRAM [WEIGHTS]``, one JSON request per line on stdin.

Answers with one line of JSON each, the first when the program is loaded, on what was stdout when it started; whatever
native code prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from vggt_edge.runtimes.common.worker import end_with_parent, peak_memory_bytes, quiet_stdout
from vggt_edge.runtimes.executorch.files import INPUTS, METHOD, OUTPUTS

Answer = dict[str, Any]


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


def serve(requests: TextIO, answers: TextIO, program: str, weights: str | None) -> None:
    def answer(content: Answer) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        module, loaded = load(program, weights)
        answer(loaded)
        for line in requests:
            answer(run(module, json.loads(line)))
    except Exception as error:  # ExecuTorch raises RuntimeError for all that it refuses
        answer({"error": f"{type(error).__name__}: {error}"})


def main(arguments: list[str]) -> None:
    end_with_parent()
    answers = quiet_stdout()
    serve(sys.stdin, answers, arguments[0], arguments[1] if len(arguments) > 1 else None)
    answers.flush()
    os._exit(0)  # taking native code down can crash, and everything has been said


if __name__ == "__main__":
    main(sys.argv[1:])

"""The process that runs ExecuTorch: ``python -m ..._worker [--runtime FOLDER] PROGRAM [WEIGHTS]``.

One JSON request per line on stdin. FOLDER: where another version of ExecuTorch lies, as ``pip install --target`` leaves
it; the installed version without it.

Answers with one line of JSON each, the first when the program is loaded, on what was stdout when it started; whatever
native code prints goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vggt_edge.runtimes.common.worker import Answer, forget_peak_memory, peak_memory_bytes, resident_bytes, serve
from vggt_edge.runtimes.executorch.files import INPUTS, METHOD, OUTPUTS

Call = Callable[[list[Any]], Any]
_BINDINGS = "executorch.extension.pybindings"
# By the version of ExecuTorch: from 1.5 on, and before.
_NATIVE = ("_C", "_portable_lib")


def use(folder: str) -> None:
    """Take ExecuTorch from ``folder`` and from nowhere else."""
    import executorch

    executorch.__path__ = [str(Path(folder) / "executorch")]


def native() -> Any:
    """ExecuTorch's native module, whose libraries are those of torch."""
    import torch  # noqa: F401

    name = next(one for one in _NATIVE if importlib.util.find_spec(f"{_BINDINGS}.{one}") is not None)
    return importlib.import_module(f"{_BINDINGS}.{name}")


def load(program: str, weights: str | None) -> tuple[Call, Answer]:
    """The method with its weights packed, and what that took. Native code checks the file's structure first."""
    from executorch.version import __version__

    runtime = native()
    forget_peak_memory()
    before = resident_bytes()
    began = time.perf_counter()
    call = _method(runtime, program, weights)
    return call, {
        "load_seconds": time.perf_counter() - began,
        "threads": runtime._threadpool_get_thread_count(),
        "before_bytes": before,
        "loaded_bytes": resident_bytes(),
        "version": __version__.partition("+")[0],
    }


def _method(runtime: Any, program: str, weights: str | None) -> Call:
    checked = runtime.Verification.InternalConsistency
    if weights is None:
        loaded = runtime._load_program(program, program_verification=checked)
        method = loaded.load_method(METHOD)
        return lambda inputs: loaded and method(inputs)  # a method does not keep its program
    # Version 1.4 takes weights here alone, and loads the method when it is first called.
    module = runtime._load_for_executorch(program, weights, program_verification=checked)
    module.method_meta(METHOD)
    return partial(module.run_method, METHOD)


def run(call: Call, request: Answer) -> Answer:
    """Run on the tensors of a folder and leave the outputs there, as ``0``, ``1`` and so on."""
    from safetensors.torch import load_file, save_file

    folder = Path(request["folder"])
    arrays = load_file(folder / INPUTS)
    inputs = [arrays[str(index)] for index in range(len(arrays))]
    times = []
    for _ in range(request["repeats"]):
        began = time.perf_counter()
        outputs = call(inputs)
        times.append(time.perf_counter() - began)
    save_file({str(index): value.contiguous() for index, value in enumerate(outputs)}, folder / OUTPUTS)
    return {"seconds": times, "peak_memory_bytes": peak_memory_bytes()}


def start(arguments: list[str]) -> tuple[Answer, Callable[[Answer], Answer]]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime")
    parser.add_argument("program")
    parser.add_argument("weights", nargs="?")
    given = parser.parse_args(arguments)
    if given.runtime is not None:
        use(given.runtime)
    call, loaded = load(given.program, given.weights)
    return loaded, partial(run, call)


if __name__ == "__main__":
    serve(start)

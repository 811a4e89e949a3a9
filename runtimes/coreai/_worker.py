"""The process that runs Core AI, once: ``convert FOLDER``, ``inspect ASSET`` or ``run ASSET FOLDER``.

It answers with one line of JSON on what was stdout when it started; whatever native code prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vggt_edge.runtimes.common.worker import end_with_parent, peak_memory_bytes, quiet_stdout
from vggt_edge.runtimes.coreai.files import ASSET, INPUTS, OUTPUTS, PROGRAM, REQUEST

Answer = dict[str, Any]


def convert(folder: Path) -> Answer:
    """Turn the program in ``folder`` into an asset beside it, and read that back."""
    import torch

    from vggt_edge.runtimes.coreai.asset import read_contents
    from vggt_edge.runtimes.coreai.lowerings import write_asset

    request = json.loads((folder / REQUEST).read_text())
    began = time.perf_counter()
    program = torch.export.load(folder / PROGRAM)
    write_asset(program, request["inputs"], request["outputs"], folder / ASSET)
    seconds = time.perf_counter() - began
    contents = asdict(read_contents(folder / ASSET))
    return {"contents": contents, "seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}


def inspect(asset: Path) -> Answer:
    """Names and shapes of inputs and outputs."""
    from vggt_edge.runtimes.coreai.asset import read_borders

    return asdict(read_borders(asset))


async def run(asset: Path, folder: Path, answers: TextIO) -> NoReturn:
    """Compile the asset and run it once, from and to files in ``folder``."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from vggt_edge.runtimes.coreai.sdk import sdk

    # Core AI compiles into a temporary folder, which is left behind below and goes with ours.
    tempfile.tempdir = str(folder)
    inputs = {name: sdk("coreai.runtime").NDArray(array) for name, array in load_file(folder / INPUTS).items()}
    began = time.perf_counter()
    async with sdk("coreai.authoring").AIModelAsset.load(asset).executable() as model:
        function = model.load_function("main")
        compiled = time.perf_counter()
        outputs = await function(inputs)
        ended = time.perf_counter()
        arrays = {name: np.array(value.numpy(), np.float32, order="C") for name, value in outputs.items()}
        save_file(arrays, folder / OUTPUTS)
        times = {"compile_seconds": compiled - began, "seconds": ended - compiled}
        finish(answers, {**times, "peak_memory_bytes": peak_memory_bytes()})


def finish(answers: TextIO, answer: Answer) -> NoReturn:
    """Answer, and end without taking anything down: there Core AI 1.0.0b3 has aborted, once in some hundred runs."""
    print(json.dumps(answer, sort_keys=True), file=answers, flush=True)
    os._exit(0)


def perform(verb: str, paths: list[Path], answers: TextIO) -> NoReturn:
    if verb == "run":
        asyncio.run(run(paths[0], paths[1], answers))
    finish(answers, convert(paths[0]) if verb == "convert" else inspect(paths[0]))


def main(arguments: list[str]) -> NoReturn:
    end_with_parent()
    answers = quiet_stdout()
    try:
        perform(arguments[0], [Path(argument) for argument in arguments[1:]], answers)
    except Exception as error:  # Core AI raises many kinds, and all of them mean that it refuses
        finish(answers, {"error": f"{type(error).__name__}: {str(error).strip() or 'without a message'}"})


if __name__ == "__main__":
    main(sys.argv[1:])

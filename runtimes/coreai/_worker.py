"""The process that runs Core AI, once: ``convert FOLDER``, ``inspect ASSET`` or ``run ASSET FOLDER``.

It answers with one line of JSON on what was stdout when it started; whatever native code prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, TextIO

from vggt_edge.runtimes.common.worker import Answer, answer_once, finish, peak_memory_bytes
from vggt_edge.runtimes.coreai.files import ASSET, INPUTS, OUTPUTS, PROGRAM, REQUEST


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
        # Here, since Core AI 1.0.0b3 has aborted when the model went down, once in some hundred runs.
        finish(answers, {**times, "peak_memory_bytes": peak_memory_bytes()})


def perform(arguments: list[str], answers: TextIO) -> Answer:
    verb, *paths = arguments
    if verb == "run":
        asyncio.run(run(Path(paths[0]), Path(paths[1]), answers))
    return convert(Path(paths[0])) if verb == "convert" else inspect(Path(paths[0]))


if __name__ == "__main__":
    answer_once(perform)

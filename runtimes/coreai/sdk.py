"""The one door to Core AI's packages: imported only when called, in the right order, and untyped.

Native code may crash, hang or eat the memory, so it runs in a worker: programs and arrays travel as files in a scratch
folder, answers as one line of JSON.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from vggt_edge.runtimes.base import Availability
from vggt_edge.runtimes.common.packages import installed
from vggt_edge.runtimes.common.process import Outcome, run_worker, worker

NAME = "Core AI"
PACKAGES = ("coreai", "coreai_torch")
REMEDY = "pip install 'vggt-edge[coreai]'"
WORKER = "vggt_edge.runtimes.coreai._worker"


def availability() -> Availability:
    """Whether both packages are installed; nothing is imported."""
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        return Availability(False, f"not installed: {', '.join(missing)}", REMEDY)
    return Availability(True)


def ask(verb: str, *paths: Path, timeout_s: float) -> Outcome:
    """What a worker says to ``convert FOLDER``, ``inspect ASSET`` or ``run ASSET FOLDER``."""
    return run_worker(worker(WORKER, verb, *map(str, paths)), timeout_s)


def sdk(name: str) -> Any:
    """A module of ``coreai`` or ``coreai_torch``, untyped so that type checks do not depend on what is installed."""
    importlib.import_module("coreai.authoring")  # coreai.runtime fails to load before it
    return importlib.import_module(name)


def dialect() -> Any:
    """The operators of a Core AI program."""
    return sdk("coreai._compiler.dialects.coreai")

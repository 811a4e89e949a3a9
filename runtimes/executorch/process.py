"""ExecuTorch in a process of its own: its native code aborts on some of what it does not like, and we go on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vggt_edge.devices.errors import InputError, ToolchainError
from vggt_edge.runtimes.common.process import Answer, Outcome, Server, worker
from vggt_edge.runtimes.executorch.sdk import NAME, REMEDY, installed

_WORKER = "vggt_edge.runtimes.executorch._worker"


@dataclass(frozen=True)
class Build:
    """A build of ExecuTorch.

    folder: where that version lies, as ``pip install --target`` leaves it; None for the installed version.
    preload: a library whose functions take the place of ExecuTorch's; None for none.
    """

    folder: Path | None = None
    preload: Path | None = None

    @property
    def arguments(self) -> list[str]:
        return [] if self.folder is None else ["--runtime", str(self.folder)]

    @property
    def environment(self) -> dict[str, str]:
        return dict(os.environ) if self.preload is None else {**os.environ, "LD_PRELOAD": str(self.preload)}


INSTALLED = Build()


class Worker:
    """One loaded program. Ends with the object, or when it fails; every answer is a JSON object."""

    def __init__(self, program: Path, weights: Path | None, timeout_s: float, build: Build = INSTALLED) -> None:
        """``InputError`` for a program that ExecuTorch refuses, ``ToolchainError`` where it crashes."""
        if not installed():
            raise ToolchainError(f"{NAME} cannot run here: not installed", remedy=REMEDY)
        self._where = str(program)
        paths = [str(program), *([] if weights is None else [str(weights)])]
        self._server = Server(worker(_WORKER, *build.arguments, *paths), timeout_s, build.environment)
        self.loaded = self._answer(self._server.answer())

    def run(self, folder: Path, repeats: int = 1) -> Answer:
        """One request: the tensors in ``folder`` through the program."""
        return self._answer(self._server.ask({"folder": str(folder), "repeats": repeats}))

    def log(self) -> str:
        """What native code has said so far."""
        return self._server.log()

    def close(self) -> None:
        self._server.close()

    def _answer(self, outcome: Outcome) -> Answer:
        if outcome.answer is None:
            remedy = "export it again, and report it if it stays; program and weights must be whole and belong together"
            raise outcome.error(f"{NAME} did not run the program", self._where, InputError, remedy)
        return outcome.answer

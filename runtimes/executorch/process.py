"""ExecuTorch in a process of its own: its native code aborts on some of what it does not like, and we go on."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from vggt_edge.devices.errors import InputError, ResourceError, ToolchainError
from vggt_edge.runtimes.executorch.sdk import NAME, REMEDY, installed

_WORKER = "vggt_edge.runtimes.executorch._worker"


class Worker:
    """One loaded program. Ends with the object, or when it fails; every answer is a JSON object."""

    def __init__(self, program: Path, weights: Path | None, timeout_s: float) -> None:
        """``InputError`` for a program that ExecuTorch refuses, ``ToolchainError`` where it crashes."""
        if not installed():
            raise ToolchainError(f"{NAME} cannot run here: not installed", remedy=REMEDY)
        self._where, self._timeout_s = str(program), timeout_s
        paths = [str(program), *([] if weights is None else [str(weights)])]
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed with the object
        self._process = subprocess.Popen(
            # -P: modules of the current folder must not be taken for installed ones.
            [sys.executable, "-P", "-m", _WORKER, *paths],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process, self._errors)
        self.loaded = self._answer()

    def run(self, folder: Path, repeats: int = 1) -> Mapping[str, Any]:
        """One request: the tensors in ``folder`` through the program."""
        try:
            self._pipe(self._process.stdin).write(json.dumps({"folder": str(folder), "repeats": repeats}) + "\n")
            self._pipe(self._process.stdin).flush()
        except OSError:
            raise self._ended() from None
        return self._answer()

    def close(self) -> None:
        self._end()

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream

    def _answer(self) -> Mapping[str, Any]:
        line = self._line()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise InputError(
                f"{NAME} refuses the program: {answer['error']}",
                where=self._where,
                expected="a program and weights that belong together, whole, for ExecuTorch 1.4",
                remedy="export it again",
            )
        return answer

    def _line(self) -> str:
        """One line, empty at the end; ``ResourceError`` after the time limit."""
        stream = self._pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(self._timeout_s):
                self.close()
                raise ResourceError(
                    f"{NAME} gave no result within {self._timeout_s:g} s",
                    where=self._where,
                    remedy="use a faster machine",
                )
        return stream.readline()

    def _ended(self) -> ToolchainError | ResourceError:
        status = self._process.wait()
        self._errors.seek(0)
        last = "\n".join(self._errors.read().splitlines()[-10:])
        self.close()
        if status == -signal.SIGKILL:
            return ResourceError(
                f"{NAME} was killed, most likely for want of memory", where=self._where, remedy="use a larger machine"
            )
        how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        return ToolchainError(
            f"{NAME} crashed with {how}\n{last}", where=self._where, remedy="export it again; if it stays, report it"
        )


def _end(process: subprocess.Popen[str], errors: IO[str]) -> None:
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # it died with a request in the pipe
            pass
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()

#!/usr/bin/env python3
"""Serves the exporter's Core ML interpreter to the Swift stand-in: ``interpreter.py SOCKET``.

One request is one line: ``open PACKAGE`` or ``run PACKAGE INPUT``, apart by tabs. One answer is one JSON object:
names and metadata, or shape and file of each output; otherwise a line that says what went wrong. INPUT and the outputs
are raw little-endian float32; outputs lie beside INPUT.
"""

from __future__ import annotations

import json
import socketserver
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vggt_edge.runtimes.coreml.backend import PackageSession
from vggt_edge.runtimes.coreml.interpreter import MilSession


@lru_cache(maxsize=1)
def session(package: str) -> MilSession:
    return MilSession(Path(package), "fp16")


def opened(package: str) -> dict[str, Any]:
    program = session(package).program
    return {
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "metadata": dict(program.description.user),
    }


def ran(package: str, given: str) -> dict[str, Any]:
    path, one = Path(given), session(package)
    ((name, shape),) = one.input_shapes.items()
    images = np.fromfile(path, "<f4").reshape(shape)
    outputs = PackageSession(one).run({name: images})
    answer = {}
    for output, values in outputs.items():
        file = path.with_name(output)
        np.ascontiguousarray(values, "<f4").tofile(file)
        answer[output] = {"shape": list(values.shape), "file": str(file)}
    return answer


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        what, *paths = self.rfile.readline().decode().strip().split("\t")
        try:
            answer = json.dumps({"open": opened, "run": ran}[what](*paths))
        except Exception as error:  # the caller reports it
            answer = f"{type(error).__name__}: {error}"
        self.wfile.write(answer.encode())


if __name__ == "__main__":
    Path(sys.argv[1]).unlink(missing_ok=True)
    with socketserver.UnixStreamServer(sys.argv[1], Handler) as server:
        server.serve_forever()

"""Runs ``vggt-edge-check`` and an app against the stand-in of TensorRT, and compares with Python's kit."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Figures that every run has its own of. The rest has to be the same in both kits.
OWN = {"timings_ms", "latency", "gpu_ms", "load_s", "memory_bytes", "peak_memory_bytes", "gpu_memory_bytes", "thermal"}
# What fails in the stand-in, and the exit code for it; the build's message says whether memory ran out.
FAILURES = {
    "version": 3, "cudaSetDevice": 3, "builder": 3, "runtime": 3, "network": 6, "parse": 6, "config": 6, "build": 6,
    "deserialize": 6, "context": 7, "cudaMalloc": 7, "cudaHostAlloc": 7, "address": 6, "type": 6, "order": 6,
    "missing output": 6, "dynamic": 6, "huge": 6, "enqueue": 6, "inspect": 6,
}  # fmt: skip
NOT_CAPTURED = ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "captured enqueue")


def check(program: Path, with_openssl: Path | None, app: Path, prepared: Path) -> int:
    """The number of things that are not as they should be; each is printed. with_openssl: the same program with it."""
    found = [*like_python(program, prepared), *failures(program, prepared), *arguments(program, prepared)]
    if with_openssl is not None:
        found += signed(with_openssl, prepared)
    found += [*without_openssl(program, prepared), *planted(program, prepared), *stored(app, prepared)]
    for each in found:
        print(each)
    return len(found)


def run(program: Path, folder: Path, *words: str) -> tuple[int, str]:
    """(exit code, what it said). A sanitizer's report is no exit code of the kit."""
    environment = {**os.environ, "VGGT_EDGE_STANDIN": str(folder / "standin.json"), "ASAN_OPTIONS": "exitcode=99"}
    done = subprocess.run([str(program), *words], capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr + done.stdout


def replay(program: Path, folder: Path, *words: str) -> tuple[int, str]:
    usual = ("--folder", str(folder), "--iterations", "3", "--warmup", "1")
    return run(program, folder, *usual, *words)


def like_python(program: Path, prepared: Path) -> Iterator[str]:
    """Both kits end with the same exit code and write the same result.json for the same predictions."""
    folders = sorted(path.parent for path in prepared.glob("*/python"))
    assert len(folders) > 10
    for folder in folders:
        code, said = replay(program, folder)
        if str(code) != (folder / "python/code").read_text():
            yield f"{folder.name}: exit code {code}: {said}"
            continue
        ours = json.loads((folder / "result.json").read_text())
        graph = ours["engine"].pop("cuda_graph")
        if not graph:
            yield f"{folder.name}: no CUDA graph"
        python = json.loads((folder / "python/result.json").read_text())
        yield from (f"{folder.name}: {each}" for each in differences("result", ours, python))


def differences(where: str, ours: Any, theirs: Any) -> Iterator[str]:
    """Figures may differ by rounding, and those of ``OWN`` by anything but what they are."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if set(ours) != set(theirs):
            yield f"{where} has {sorted(set(ours) ^ set(theirs))} in one kit only"
        for key in sorted(set(ours) & set(theirs)):
            if key not in OWN:
                yield from differences(f"{where}.{key}", ours[key], theirs[key])
            elif isinstance(ours[key], dict) and isinstance(theirs[key], dict) and set(ours[key]) != set(theirs[key]):
                yield f"{where}.{key} has other keys: {sorted(ours[key])}, {sorted(theirs[key])}"
            elif (ours[key] is None) != (theirs[key] is None):
                yield f"{where}.{key} is {ours[key]} and {theirs[key]}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(f"{where}[{index}]", our, their)
    elif isinstance(ours, float) and isinstance(theirs, float):
        if not math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-9) and "build_s" not in where:
            yield f"{where} is {ours} and {theirs}"
    elif ours != theirs and "version" not in where:
        yield f"{where} is {ours} and {theirs}"


def failures(program: Path, prepared: Path) -> Iterator[str]:
    """A failing call of CUDA or TensorRT ends the program with the call's code and a reason, and leaks nothing."""
    for call, wanted in FAILURES.items():
        yield from unlike(call, wanted, *replay(program, failing(prepared, fails=call)))
    memory = failing(prepared, fails="build", says="Error Code 2: OutOfMemory (Requested size was 1 bytes.)")
    yield from unlike("out of memory", 7, *replay(program, memory))
    for call in NOT_CAPTURED:
        folder = failing(prepared, fails=call)
        code, said = replay(program, folder)
        result = json.loads((folder / "result.json").read_text()) if code == 0 else None
        if result is None or result["engine"]["cuda_graph"] or result["status"] != "passed":
            yield f"{call}: exit code {code}: {said}"


def failing(prepared: Path, **changes: str) -> Path:
    """The good kit with another stand-in."""
    folder = prepared / "scratch/failing"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared / "good", folder)
    (folder / "result.json").unlink(missing_ok=True)
    standin = json.loads((folder / "standin.json").read_text())
    (folder / "standin.json").write_text(json.dumps({**standin, **changes}))
    return folder


def unlike(what: str, wanted: int, code: int, said: str) -> Iterator[str]:
    if code != wanted or (wanted and "error: " not in said):
        yield f"{what}: exit code {code} instead of {wanted}: {said}"


def arguments(program: Path, prepared: Path) -> Iterator[str]:
    """Wrong arguments and damaged files end with 2."""
    good = prepared / "good"
    for words in (
        ("--iterations", "0"),
        ("--warmup", "1.5"),
        ("--optimization-level", "6"),
        ("--min-release", "-1"),
        ("--rebuild",),
        ("--output",),
    ):
        yield from unlike(" ".join(words), 2, *replay(program, good, *words))
    yield from unlike("no folder", 2, *run(program, good, "--folder", "/none"))
    yield from unlike("help", 0, *run(program, good, "--help"))
    yield from unlike("full disk", 7, *replay(program, good, "--output", "/dev/full/result.json"))
    folder = failing(prepared)
    code, said = replay(program, folder, "--build-only")
    result = json.loads((folder / "result.json").read_text())
    if code or result["status"] != "not_judged" or result["latency"] is not None:
        yield f"build only: exit code {code}: {said}"


def planted(program: Path, prepared: Path) -> Iterator[str]:
    """An engine that lies there is never loaded: the stand-in would end the program."""
    folder = failing(prepared)
    (folder / "model.engine").write_bytes(b"planted")
    code, said = replay(program, folder)
    if code or (folder / "model.engine").read_bytes() == b"planted":
        yield f"planted: exit code {code}: {said}"


def signed(program: Path, prepared: Path) -> Iterator[str]:
    """The C++ kit says the same of signed folders as Python's, with the same exit code, before it builds anything."""
    cases = sorted(path.parent for path in prepared.glob("signed/*/python.json"))
    assert len(cases) > 20
    for case in cases:
        python = json.loads((case / "python.json").read_text())
        folder = case / "tensorrt"
        code, said = run(program, folder, "--folder", str(folder), "--build-only", *python["words"])
        is_built = (folder / "model.engine").exists()
        if code != python["code"] or python["said"] not in said or is_built != (code == 0):
            yield f"{case.name}: exit code {code}: {said}instead of {python['code']}: {python['said']}"


def without_openssl(program: Path, prepared: Path) -> Iterator[str]:
    """A program without OpenSSL refuses a key, and does all the rest."""
    case = prepared / "signed/sound"
    words = ("--folder", str(case / "tensorrt"), "--build-only")
    code, said = run(program, case / "tensorrt", *words, "--key", str(case.parent / "p256.pub"))
    if code != 3 or "compiled without OpenSSL" not in said:
        yield f"without OpenSSL: exit code {code}: {said}"
    yield from unlike("without OpenSSL and key", 0, *run(program, case / "tensorrt", *words))


def stored(app: Path, prepared: Path) -> Iterator[str]:
    """The app builds once. What others put into the store is not loaded, but built anew."""
    folder, store = prepared / "good", prepared / "scratch/app-store"
    words = (str(folder), str(store))
    for what, builds in (("first start", 1), ("second start", 0), ("changed engine", 1), ("after that", 0)):
        if what == "changed engine":
            for engine in store.glob("*.engine"):
                engine.write_bytes(b"planted")
        code, said = run(app, folder, *words)
        if code or said.count("an engine is built") != builds:
            yield f"{what}: exit code {code}: {said}"

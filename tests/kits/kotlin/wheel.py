"""Links a small library of ours against the ExecuTorch runtime inside PyPI's wheel; nothing of ExecuTorch is built."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import toolchain

HERE = Path(__file__).resolve().parent
_SYMBOL = ".globl {name}\n.type {name},@object\n.size {name},256\n.balign 16\n{name}: .fill 32,8,0"
_SYSTEM = ("libstdc++.so.6", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2")


def link(folder: Path, python: Path) -> dict[str, str]:
    """Put the library into ``folder``; the environment that a Java machine needs to load it.

    python: the interpreter that has executorch and torch.
    """
    wheel, torch = _package("executorch", python), _package("torch", python) / "lib"
    (library,) = (wheel / "extension/pybindings").glob("_portable_lib*.so")
    others = [wheel / "backends/qualcomm/libqnn_executorch_backend.so", torch / "libtorch_cpu.so", torch / "libc10.so"]
    folder.mkdir(parents=True)
    for part in (library, *others):
        (folder / part.name).symlink_to(part)
    _stand_ins(folder, library, others)
    java = Path(shutil.which("javac") or "").resolve().parents[1] / "include"
    headers = wheel / "include"
    toolchain.call(
        "g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror",
        "-Wno-deprecated-declarations",  # the AAR's own native part sets its threads in this way
        "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{HERE / 'real/shim'}", f"-I{java}", f"-I{java / 'linux'}",
        "-isystem", str(headers), "-isystem", str(headers / "executorch/runtime/core/portable_type/c10"),
        str(HERE / "real/wheel_program.cpp"), "-o", str(folder / "libwheel_program.so"), f"-L{folder}",
        f"-l:{library.name}", "-lqnn_executorch_backend", "-Wl,-rpath,$ORIGIN",
        "-Wl,--unresolved-symbols=ignore-in-shared-libs",
    )  # fmt: skip
    return {"LD_LIBRARY_PATH": os.pathsep.join([str(folder), str(torch)])}


def _package(name: str, python: Path) -> Path:
    """The folder of a package; found, not imported: some of ExecuTorch's imports start downloads."""
    question = f"import importlib.util as u; print(u.find_spec({name!r}).submodule_search_locations[0])"
    done = subprocess.run([python, "-c", question], capture_output=True, text=True, check=False)
    if done.returncode:
        raise toolchain.MissingToolError(f"no {name} to run a real program: make install-dev")
    return Path(done.stdout.strip())


def _stand_ins(folder: Path, library: Path, others: list[Path]) -> None:
    """What the library wants of CPython and of torch's Python part is never called: empty symbols take its place."""
    system = [Path(found) for name in _SYSTEM for found in _found(name)]
    held = set().union(*(_symbols(path, "--defined-only") for path in [*system, *others]))
    missing = sorted(_symbols(library, "--undefined-only") - held)
    lines = ['.section .note.GNU-stack,"",@progbits', ".section .data"]
    lines += [
        f".globl {each}\n.type {each},@object\n.size {each},256\n.balign 16\n{each}: .fill 32,8,0" for each in missing
    ]
    source = folder / "stand_ins.S"
    source.write_text("\n".join(lines) + "\n")
    toolchain.call(
        "gcc", "-shared", "-o", str(folder / "libtorch_python.so"), str(source), "-Wl,-soname,libtorch_python.so"
    )
    empty = folder / "empty.c"
    empty.write_text("")
    toolchain.call("gcc", "-shared", "-o", str(folder / "libtorch.so"), str(empty), "-Wl,-soname,libtorch.so")


def _found(name: str) -> list[str]:
    line = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return [line] if Path(line).exists() else []


def _symbols(path: Path, which: str) -> set[str]:
    done = subprocess.run(["nm", "-D", which, str(path)], capture_output=True, text=True, check=True)
    words = [line.split() for line in done.stdout.splitlines()]
    strong = [word for word in words if which == "--defined-only" or word[-2] == "U"]
    return {word[-1].split("@")[0] for word in strong}

"""Sets up the build for 64-bit ARM once: ``python -m vggt_edge.runtimes.executorch.arm.install [--torch VERSION]``.

Takes PyPI's wheels of ExecuTorch and torch for Linux on ARM (about 450 MB are fetched, 300 MB kept) and compiles the
runner with Debian's cross compiler. Where the system's QEMU is too old, Debian 13's is unpacked beside it. Nothing is
installed into the system: what is missing there is named.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from vggt_edge.devices.errors import ToolchainError, VggtEdgeError
from vggt_edge.runtimes.executorch.arm.build import COMPILER, NATIVE, QEMU, SYSROOT, ArmBuild

_PLATFORM = "manylinux_2_28_aarch64"
# What ExecuTorch's library needs of torch, and what that needs in turn.
_TORCH = tuple(
    f"torch/lib/{name}*"
    for name in ("libtorch_cpu.so", "libc10.so", "libgomp", "libgfortran", "libarm_compute", "libnvpl")
)
_EXECUTORCH = (
    "executorch/extension/pybindings/_portable_lib*",
    "executorch/extension/pybindings/_C*",
    "executorch/include/*",
)
# The library links the bindings of torch for Python, which stands in for whatever nobody calls.
_STAND_IN = "libtorch_python.so"
# Debian 13; version 12 has QEMU 7.2.
_NEWER_SUITE = "trixie"


def install(build: ArmBuild, torch_version: str) -> None:
    """``ToolchainError`` names what the system lacks."""
    if shutil.which(COMPILER) is None:
        raise ToolchainError(f"no {COMPILER} on this machine", remedy="apt-get install g++-aarch64-linux-gnu")
    build.libraries.mkdir(parents=True, exist_ok=True)
    if build.qemu is None:
        _unpack_qemu(build.folder)
    with TemporaryDirectory(prefix="vggt-edge-arm-") as name:
        scratch = Path(name)
        _unpack("torch", torch_version, _TORCH, scratch)
        _unpack("executorch", build.version, _EXECUTORCH, scratch)
        for library in (*scratch.glob("torch/lib/*"), *scratch.glob("executorch/extension/pybindings/*.so")):
            shutil.move(library, build.libraries / library.name)
        _compile(build, scratch / "executorch" / "include")


def _unpack(package: str, wanted: str, patterns: Sequence[str], folder: Path) -> None:
    """Files of PyPI's wheel for ARM whose names fit one of the patterns."""
    wheels = folder / "wheels"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python, "--platform", _PLATFORM]
    _call([sys.executable, "-m", "pip", "download", *options, "--dest", str(wheels), f"{package}=={wanted}"])
    (wheel,) = wheels.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if any(fnmatch(name, one) for one in patterns)])
    wheel.unlink()


def _compile(build: ArmBuild, include: Path) -> None:
    library, folder = _bindings(build.libraries), build.libraries
    for name in _absent(folder) - {_STAND_IN}:
        _compiled(folder / name, _shared(name), folder / "empty.c", "")
    newer, source = folder / "newer_libstdcxx.o", folder / "stand_in.S"
    _call([COMPILER, "-c", "-fPIC", "-O1", "-o", str(newer), str(NATIVE / "newer_libstdcxx.cpp")])
    assembly = "\n".join(_assembly(folder, library, newer)) + "\n"
    _compiled(folder / _STAND_IN, [*_shared(_STAND_IN), str(newer)], source, assembly)
    _call([COMPILER, "-shared", "-fPIC", "-x", "c", "-o", str(build.switch), str(NATIVE / "xnnpack_cache_on.c")])
    core = include / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    # The wheel's own headers, and how it was compiled.
    flags = ["-std=c++17", "-O1", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{include}", f"-I{core}"]
    links = [f"-L{folder}", f"-l:{library.name}", "-Wl,--unresolved-symbols=ignore-in-shared-libs", "-Wl,-z,lazy"]
    _call([COMPILER, *flags, "-o", str(build.runner), str(NATIVE / "run_program.cpp"), *links])


def _shared(name: str) -> list[str]:
    return ["-shared", "-fPIC", f"-Wl,-soname,{name}"]


def _compiled(library: Path, options: Sequence[str], source: Path, content: str) -> None:
    source.write_text(content)
    _call([COMPILER, "-o", str(library), str(source), *options])
    source.unlink()


def _bindings(folder: Path) -> Path:
    """ExecuTorch's library, by the name that its version gives it."""
    (library,) = (path for path in folder.iterdir() if re.match(r"(_portable_lib|_C)\.", path.name))
    return library


def _absent(folder: Path) -> set[str]:
    """Libraries that others ask for by name and that nobody has: GPUs, CPython, the empty ``libtorch.so``."""
    wanted = {name for path in folder.glob("*.so*") for name in _needed(path)}
    return {name for name in wanted if not (folder / name).exists() and not (SYSROOT / "lib" / name).exists()}


def _needed(library: Path) -> Iterator[str]:
    for line in _said(["aarch64-linux-gnu-readelf", "-d", str(library)]):
        if found := re.search(r"\(NEEDED\).*\[(.+)\]", line):
            yield found[1]


def _assembly(folder: Path, library: Path, newer: Path) -> Iterator[str]:
    """A symbol for all that the library wants of CPython and torch's Python part; nothing here calls any of it."""
    held = set(_symbols(newer, "--defined-only"))
    for path in _holders(folder, library):
        held.update(_symbols(path, "-D", "--defined-only"))
    yield '.section .note.GNU-stack,"",%progbits'
    yield ".section .data"
    for name, kind in _symbols(library, "-D", "--undefined-only").items():
        if kind == "U" and name not in held:
            yield f".globl {name}\n.type {name}, %object\n.size {name}, 256\n.balign 16\n{name}: .fill 256"


def _holders(folder: Path, library: Path) -> Iterator[Path]:
    for name in _needed(library):
        for path in (folder / name, SYSROOT / "lib" / name):
            if path.exists() and name != _STAND_IN:
                yield path


def _symbols(library: Path, *which: str) -> dict[str, str]:
    """Kind by name, without versions."""
    lines = (line.split() for line in _said(["aarch64-linux-gnu-nm", *which, str(library)]))
    return {name.partition("@")[0]: kind for *_, kind, name in lines}


def _unpack_qemu(folder: Path) -> None:
    """Debian 13's package, by a list of packages of its own: that of the system stays as it is."""
    if shutil.which("apt-get") is None:
        raise ToolchainError(f"no {QEMU} of version 8.1 or later", remedy="install QEMU's user mode emulation")
    with TemporaryDirectory(prefix="vggt-edge-arm-") as name:
        apt = Path(name)
        for part in ("lists/partial", "archives/partial"):
            (apt / part).mkdir(parents=True)
        (apt / "sources.list").write_text(f"deb {_mirror()} {_NEWER_SUITE} main\n")
        settings = {
            "Dir::Etc::sourcelist": apt / "sources.list",
            "Dir::Etc::sourceparts": os.devnull,
            "Dir::State": apt,
            "Dir::State::status": os.devnull,
            "Dir::Cache": apt,
            "APT::Sandbox::User": "root",
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        for verb in (["update"], ["download", "qemu-user"]):
            _call(["apt-get", *options, "-qq", *verb], cwd=apt)
        (package,) = apt.glob("qemu-user_*.deb")
        _call(["dpkg-deb", "-x", str(package), str(apt / "unpacked")])
        target = folder / "qemu" / "usr" / "bin"
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(apt / "unpacked" / "usr" / "bin" / QEMU, target / QEMU)


def _mirror() -> str:
    """That of the system's own packages."""
    uris = _said(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    return next(one for one in uris if "security" not in one)


def _said(command: list[str]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _call(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise ToolchainError(
            f"{' '.join(command[:4])} ... failed\n{last}", remedy="mend what it says and call it again"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--torch", default=version("torch").partition("+")[0], help="version of torch. Default: the installed one"
    )
    given = parser.parse_args()
    build = ArmBuild.of_android()
    try:
        install(build, given.torch)
    except VggtEdgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{build.how}: set up in {build.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
